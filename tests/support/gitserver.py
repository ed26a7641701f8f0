"""Real ``git http-backend`` behind a small HTTP/1.1 server on loopback, in this process.

The server does what a web server does for a CGI program (RFC 3875) and no more: it checks
credentials, passes bodies on as they come and keeps connections alive. What git answers is git's.
"""

import base64
import gzip
import os
import ssl
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BufferedIOBase
from pathlib import Path
from threading import Lock, Thread
from types import TracebackType
from typing import Protocol, Self
from urllib.parse import unquote, urlsplit

from tests.support.git import environment

_PIECE_BYTES = 1 << 16
_FORMS = {
    "application/x-www-form-urlencoded",
    "application/json",
    "application/vnd.git-lfs+json",
    "text/plain",
}


@dataclass(frozen=True, slots=True)
class Request:
    """A request that came.

    Attributes:
        target: path and query.
        headers: names in lower case.
        connection: tells connections apart: the client's port.
        form: the body of a form, of JSON, or a plain text; nothing of other requests.
    """

    method: str
    target: str
    headers: dict[str, str]
    connection: int
    form: bytes = b""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer given in place of git's.

    Attributes:
        body: pieces are sent as they come, until the client has gone.
    """

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes | Iterable[bytes] = b""


class Imitation(Protocol):
    """What another git server does with what today's git would do."""

    def dies(self, body: bytes) -> bool:
        """Tell whether it ends at a request without a word."""

    def says(self, request: Request, body: bytes) -> bytes:
        """Make its answer of today's."""


class GitHttpServer:
    """Serves every bare repository below a folder, for reading; for writing where it allows that.

    Args:
        root: the folder; ``<url>/acme/widgets.git`` is ``root/acme/widgets.git``.
        credentials: the user and password that Basic must have; others get 401.
        bearer: the token that Bearer must have.
        tls: the server's context; None for plain HTTP.
        answer: gives an answer in place of git's, or None.
        protocol: 0 for a server that knows no protocol version 2.
        asks_first: whether who comes must be known before such an answer is given.
        settings: git's configuration at the server.
        imitates: another server than today's git.
    """

    def __init__(
        self,
        root: Path,
        *,
        credentials: tuple[str, str] | None = None,
        bearer: str | None = None,
        tls: ssl.SSLContext | None = None,
        answer: Callable[[Request], Answer | None] | None = None,
        protocol: int = 2,
        asks_first: bool = False,
        settings: Mapping[str, str] | None = None,
        imitates: Imitation | None = None,
    ) -> None:
        self.imitates = imitates
        self._tls = tls
        self._lock = Lock()
        self._accepted = set()
        if credentials is not None:
            pair = base64.b64encode(":".join(credentials).encode()).decode()
            self._accepted.add(f"Basic {pair}")
        if bearer is not None:
            self._accepted.add(f"Bearer {bearer}")
        self.root = root
        self.answer = answer
        self.protocol = protocol
        self.asks_first = asks_first
        self.settings = {"safe.directory": "*", **(settings or {})}
        self.requests: list[Request] = []
        self.url = ""

    def __enter__(self) -> Self:
        handler = type("Handler", (_Handler,), {"place": self})
        self._server = _Server(("127.0.0.1", 0), handler)
        if self._tls is not None:
            self._server.socket = self._tls.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        scheme = "http" if self._tls is None else "https"
        self.url = f"{scheme}://127.0.0.1:{self._server.server_port}"
        self._thread = Thread(target=self._server.serve_forever, args=(0.05,), name="git server")
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    @property
    def connections(self) -> int:
        """How many connections requests came over."""
        return len({request.connection for request in self.requests})

    def note(self, request: Request) -> None:
        with self._lock:
            self.requests.append(request)

    def accepts(self, authorization: str | None) -> bool:
        return not self._accepted or authorization in self._accepted


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 256

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: clients that hang up are what these tests are about."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    # Head and body of an answer are sent apart.
    disable_nagle_algorithm = True
    place: GitHttpServer

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def do_PUT(self) -> None:
        self._serve()

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        pass

    def _serve(self) -> None:
        fields = {name.lower(): value for name, value in self.headers.items()}
        is_form = (
            self.command == "PUT" or fields.get("content-type", "").partition(";")[0] in _FORMS
        )
        form = b"".join(self._body(fields)) if is_form else b""
        if is_form:
            fields["content-length"] = "0"
        request = Request(self.command, self.path, fields, self.client_address[1], form)
        self.place.note(request)
        known = self.place.accepts(fields.get("authorization"))
        answer = None
        if self.place.answer is not None and (known or not self.place.asks_first):
            answer = self.place.answer(request)
        if answer is None and not known:
            answer = Answer(401, {"WWW-Authenticate": 'Basic realm="git"'}, b"who are you?")
        if answer is None:
            self._run_git(request)
            return
        # All of it: who is still sending gets a broken pipe in place of the answer.
        for _ in self._body(fields):
            pass
        # With a date of its own it is another server's clock.
        dated = "Date" in answer.headers
        (self.send_response_only if dated else self.send_response)(answer.status)
        for name, value in ({"Content-Type": "text/plain"} | answer.headers).items():
            self.send_header(name, value)
        if not isinstance(answer.body, bytes):
            self.send_header("Connection", "close")
            self.end_headers()
            for piece in answer.body:
                self.wfile.write(piece)
            return
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def _run_git(self, request: Request) -> None:
        if self.place.imitates is not None:
            self._imitate(request, self.place.imitates)
            return
        with subprocess.Popen(
            ["git", "http-backend"],
            env=self._cgi(request),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            try:
                self._pass_body(process.stdin, request.headers)
                self._pass_answer(process.stdout)
            except BaseException:
                process.kill()
                self.close_connection = True
                raise

    def _imitate(self, request: Request, other: Imitation) -> None:
        body = b"".join(self._body(request.headers))
        is_packed = request.headers.get("content-encoding") == "gzip"
        if other.dies(gzip.decompress(body) if is_packed else body):
            self._send_whole(200, [("Content-Type", "application/x-git-upload-pack-result")], b"")
            return
        fields = request.headers | {"content-length": str(len(body))}
        done = subprocess.run(
            ["git", "http-backend"],
            env=self._cgi(replace(request, headers=fields)),
            input=body,
            capture_output=True,
            check=True,
        )
        head, _, said = done.stdout.partition(b"\r\n\r\n")
        lines = (line.partition(": ")[::2] for line in head.decode("latin-1").split("\r\n"))
        told = dict(lines)
        status = int(told.pop("Status", "200").split()[0])
        self._send_whole(status, [*told.items()], other.says(request, said))

    def _send_whole(self, status: int, fields: list[tuple[str, str]], body: bytes) -> None:
        self.send_response(status)
        for name, value in [*fields, ("Content-Length", str(len(body)))]:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def _cgi(self, request: Request) -> dict[str, str]:
        place = urlsplit(request.target)
        fields = request.headers
        more = {
            "GIT_PROJECT_ROOT": os.fspath(self.place.root),
            "GIT_HTTP_EXPORT_ALL": "1",
            "GATEWAY_INTERFACE": "CGI/1.1",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "REQUEST_METHOD": request.method,
            "PATH_INFO": unquote(place.path),
            "QUERY_STRING": place.query,
            "REMOTE_ADDR": "127.0.0.1",
            "CONTENT_TYPE": fields.get("content-type", ""),
            # One whose length nobody said is read to its end.
            **({"CONTENT_LENGTH": fields["content-length"]} if "content-length" in fields else {}),
            "HTTP_CONTENT_ENCODING": fields.get("content-encoding", ""),
        }
        if self.place.protocol == 2:
            more["GIT_PROTOCOL"] = fields.get("git-protocol", "")
        settings = environment()
        count = int(settings["GIT_CONFIG_COUNT"])
        for number, (name, value) in enumerate(self.place.settings.items(), count):
            more[f"GIT_CONFIG_KEY_{number}"] = name
            more[f"GIT_CONFIG_VALUE_{number}"] = value
        more["GIT_CONFIG_COUNT"] = str(count + len(self.place.settings))
        return settings | more

    def _pass_body(self, stdin: object, fields: dict[str, str]) -> None:
        assert isinstance(stdin, BufferedIOBase)
        body = self._body(fields)
        try:
            for data in body:
                stdin.write(data)
            stdin.close()
        except BrokenPipeError:
            # git answers without having read everything; the rest must be taken all the same.
            for _ in body:
                pass

    def _body(self, fields: dict[str, str]) -> Iterator[bytes]:
        if fields.get("transfer-encoding", "").lower() != "chunked":
            yield from self._bytes(int(fields.get("content-length", "0")))
            return
        # Source: RFC 9112, section 7.1; git sends neither extensions nor trailers.
        while size_bytes := int(self.rfile.readline(), 16):
            yield from self._bytes(size_bytes)
            self.rfile.readline()
        self.rfile.readline()

    def _bytes(self, size_bytes: int) -> Iterator[bytes]:
        while size_bytes:
            data = self.rfile.read1(min(size_bytes, _PIECE_BYTES))
            if not data:
                raise ConnectionError("the request's body broke off")
            size_bytes -= len(data)
            yield data

    def _pass_answer(self, stdout: object) -> None:
        assert isinstance(stdout, BufferedIOBase)
        status, fields = 200, []
        while (line := stdout.readline().rstrip(b"\r\n")) != b"":
            name, _, value = line.decode("latin-1").partition(":")
            if name.lower() == "status":
                status = int(value.split()[0])
            else:
                fields.append((name, value.strip()))
        self.send_response(status)
        for name, value in fields:
            self.send_header(name, value)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        while data := stdout.read1(_PIECE_BYTES):
            self.wfile.write(b"%x\r\n%b\r\n" % (len(data), data))
        self.wfile.write(b"0\r\n\r\n")
