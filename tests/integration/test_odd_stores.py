"""Stores, and what stands before them, that answer as people meet them."""

import http.client
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest

from backup.destinations.s3.settings import S3Settings, connect
from tests.support.git import commit_chain, init_bare, update_refs
from tests.support.mirrors import assert_same_mirror
from tests.support.program import repo_backup
from tests.support.s3server import S3Server
from tests.support.vaults import to_be_kept


@contextmanager
def relay(upstream: str) -> Iterator[str]:
    """Pass requests on to a store, and give the bodies of its answers in chunks of no told length.

    Some proxies do so with all that they compress or inspect.
    """
    place = urlsplit(upstream)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
            pass

        def _pass_on(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            ours = http.client.HTTPConnection(place.hostname or "", place.port)
            # The host that was signed.
            ours.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
            for name, value in self.headers.items():
                ours.putheader(name, value)
            ours.endheaders(body)
            answer = ours.getresponse()
            content = answer.read()
            self.send_response_only(answer.status)
            is_measured = self.command != "GET"
            for name, value in answer.getheaders():
                if is_measured or name.lower() not in {"content-length", "transfer-encoding"}:
                    self.send_header(name, value)
            if not is_measured:
                self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            if is_measured:
                self.wfile.write(content if self.command != "HEAD" else b"")
                return
            for begin in range(0, len(content), 1000):
                piece = content[begin : begin + 1000]
                self.wfile.write(b"%x\r\n%b\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\n\r\n")

        def do_GET(self) -> None:
            self._pass_on()

        def do_PUT(self) -> None:
            self._pass_on()

        def do_POST(self) -> None:
            self._pass_on()

        def do_HEAD(self) -> None:
            self._pass_on()

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_objects_whose_length_an_answer_does_not_tell(tmp_path: Path, moto_http: S3Server) -> None:
    path = init_bare(tmp_path / "acme" / "one.git")
    update_refs(path, {b"refs/heads/main": commit_chain(path, 3)[-1]})
    bucket = f"odd-{uuid4().hex}"
    moto_http.make_bucket(bucket)
    with relay(moto_http.endpoint_url) as url:
        env = moto_http.environment() | {"REPO_BACKUP_ENDPOINT_URL": url}
        vault = f"s3://{bucket}/git"
        for _ in range(2):
            repo_backup("run", "--from", path.parent, "--to", vault, env=env)
        repo_backup("verify", "--from", vault, "--depth", "restore", env=env)
        repo_backup("restore", "one", "--from", vault, tmp_path / "back.git", env=env)
    assert_same_mirror(tmp_path / "back.git", to_be_kept(path))


@pytest.mark.parametrize(
    ("style", "expected"),
    [
        ("auto", "http://store.example:9000/vault/key?"),
        ("path", "http://store.example:9000/vault/key?"),
        ("virtual", "http://vault.store.example:9000/key?"),
    ],
)
def test_the_bucket_is_named_as_it_was_asked_for(
    style: str, expected: str, moto_http: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in moto_http.environment().items():
        monkeypatch.setenv(name, value)
    asked = S3Settings(
        "vault",
        endpoint_url="http://store.example:9000",
        region="us-east-1",
        addressing_style=style,  # type: ignore[arg-type]
    )
    client: Any = connect(asked).client
    url = client.generate_presigned_url("get_object", {"Bucket": "vault", "Key": "key"})
    assert url.startswith(expected)
    client.close()
