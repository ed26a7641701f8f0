"""Real S3 servers of other people's making, each a child process on a free loopback port.

`moto_server` answers as AWS does, as far as it goes; `rclone_server` is one of the poorer stores,
and keeps a bucket as a folder of plain files.
"""

import http.client
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
from botocore.config import Config

from tests.support.git import empty_home
from tests.support.ports import free_port
from tests.support.proxy import ProxyFault
from tests.support.tls import Certificates

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ACCESS_KEY = "AKIATESTTESTTESTTEST"
SECRET_KEY = "test/secret/key/that/opens/nothing/at/all"
REGION = "us-east-1"

RCLONE = Path(sys.executable).parent / "rclone"

_MOTO = Path(__file__).with_name("moto_server.py")
_START_SECONDS = 60
_STOP_SECONDS = 10
_POLL_SECONDS = 0.02
# Somebody else may take a free port before the server does.
_ATTEMPTS = 3


class ServerDidNotStart(AssertionError):
    """The child process ended or did not answer; the message has its log."""


@dataclass(frozen=True, slots=True)
class S3Server:
    """A store and what reaches it.

    Attributes:
        ca_file: what must be trusted to reach it by https; None for http.
    """

    endpoint_url: str
    access_key: str = ACCESS_KEY
    secret_key: str = SECRET_KEY
    ca_file: Path | None = None

    def environment(self) -> dict[str, str]:
        """Give the variables by which boto3 reaches it, and nothing of the user's."""
        tls = {} if self.ca_file is None else {"AWS_CA_BUNDLE": os.fspath(self.ca_file)}
        return tls | {
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }

    @contextmanager
    def client(self) -> "Iterator[S3Client]":
        """Open a plain client, to look at the store from beside the code under test."""
        client = boto3.client(
            "s3",
            endpoint_url=self.endpoint_url,
            region_name=REGION,
            aws_access_key_id=self.access_key,
            aws_secret_access_key=self.secret_key,
            verify=None if self.ca_file is None else os.fspath(self.ca_file),
            config=Config(
                signature_version="s3v4",
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )
        with closing(client):
            yield client

    def make_bucket(self, name: str, *, versioned: bool = False) -> None:
        """Make a bucket, with versions if asked."""
        with self.client() as client:
            client.create_bucket(Bucket=name)
            if versioned:
                client.put_bucket_versioning(
                    Bucket=name, VersioningConfiguration={"Status": "Enabled"}
                )


@contextmanager
def moto_server(
    folder: Path, tls: Certificates | None = None, *, free_actions: int | None = None
) -> Iterator[S3Server]:
    """Run moto; it keeps its objects in memory, and in a folder while they are large.

    Args:
        folder: a new one.
        tls: for https.
        free_actions: after so many it asks IAM whether who asks may do it; None never does.
    """

    def command(port: int) -> list[str]:
        argv = [sys.executable, os.fspath(_MOTO), "-H", "127.0.0.1", "-p", str(port)]
        if tls is None:
            return argv
        return [*argv, "-s", "-c", os.fspath(tls.server_file), "-k", os.fspath(tls.server_file)]

    guard = {} if free_actions is None else {"INITIAL_NO_AUTH_ACTION_COUNT": str(free_actions)}
    with _serving(command, folder, tls=tls, ready="/moto-api/", extra=guard) as server:
        yield server


@contextmanager
def rclone_server(folder: Path, tls: Certificates | None = None) -> Iterator[S3Server]:
    """Run rclone's S3 server over a folder; each folder in it is a bucket."""

    def command(port: int) -> list[str]:
        argv = [os.fspath(RCLONE), "--config", os.devnull, "serve", "s3"]
        # It remembers folders: who changes them behind its back is seen only later. With a shorter
        # memory it was seen to lock itself up.
        argv += ["--addr", f"127.0.0.1:{port}"]
        argv += ["--auth-key", f"{ACCESS_KEY},{SECRET_KEY}"]
        if tls is not None:
            argv += ["--cert", os.fspath(tls.server_file), "--key", os.fspath(tls.server_file)]
        return [*argv, os.fspath(folder)]

    with _serving(command, folder, tls=tls, ready="/") as server:
        yield server


@contextmanager
def _serving(
    command: Callable[[int], list[str]],
    folder: Path,
    *,
    tls: Certificates | None,
    ready: str,
    extra: Mapping[str, str] | None = None,
) -> Iterator[S3Server]:
    folder.mkdir(parents=True, exist_ok=True)
    log_file = folder.with_name(f"{folder.name}.log")
    scheme = "http" if tls is None else "https"
    for attempt in range(1, _ATTEMPTS + 1):
        port = free_port()
        url = f"{scheme}://127.0.0.1:{port}"
        with (
            log_file.open("wb") as log,
            _child(command(port), folder, log.fileno(), extra or {}) as process,
        ):
            if not _answers(process, url + ready, tls):
                if attempt < _ATTEMPTS:
                    continue
                raise ServerDidNotStart(log_file.read_text())
            yield S3Server(url, ca_file=None if tls is None else tls.ca_file)
            return


@contextmanager
def _child(
    argv: list[str], folder: Path, log: int, extra: Mapping[str, str]
) -> "Iterator[subprocess.Popen[bytes]]":
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": os.fspath(empty_home()),
        "TMPDIR": os.fspath(folder),
        "PYTHONDONTWRITEBYTECODE": "1",
        **extra,
    }
    with subprocess.Popen(
        argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()


def _answers(process: "subprocess.Popen[bytes]", url: str, tls: Certificates | None) -> bool:
    """Wait until the child answers; false when it ended or took too long."""
    end = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < end:
        try:
            _ask(url, tls)
        except (OSError, http.client.HTTPException):
            time.sleep(_POLL_SECONDS)
        else:
            return process.poll() is None
    return False


def _ask(url: str, tls: Certificates | None) -> None:
    parts = urlsplit(url)
    host, port = parts.hostname or "", parts.port
    connection = (
        http.client.HTTPConnection(host, port, timeout=_STOP_SECONDS)
        if tls is None
        else http.client.HTTPSConnection(
            host, port, timeout=_STOP_SECONDS, context=tls.client_context()
        )
    )
    with closing(connection):
        connection.request("GET", parts.path)
        connection.getresponse().read()


_ERROR = "<?xml version='1.0' encoding='UTF-8'?><Error><Code>{}</Code><Message>{}</Message></Error>"


def s3_error(status: int, code: str, **rest: Any) -> ProxyFault:
    """Make an answer as S3 gives it."""
    body = _ERROR.format(code, f"{code} on purpose").encode()
    headers = (("Content-Type", "application/xml"),)
    return ProxyFault(action="refuse", status=status, headers=headers, body=body, **rest)
