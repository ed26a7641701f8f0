"""Lambda's Runtime API on loopback, as AWS's own runtime client speaks to it.

Source: AWS Lambda Developer Guide, "Using the Lambda runtime API for custom runtimes".
"""

import json
import os
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import Empty, Queue
from threading import Thread
from typing import Any

from tests.support.program import environment

_VERSION = "/2018-06-01/runtime"
_SECONDS = 120.0
# Lambda lets a function that overruns its time be killed; so much is given for the answer's way.
_GRACE_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came of an invocation.

    Attributes:
        is_error: the function raised; the body has ``errorType`` and ``errorMessage``.
        seconds: how long it took.
    """

    is_error: bool
    body: Any
    seconds: float


@dataclass
class Function:
    """A function whose container is up."""

    queue: "Queue[tuple[str, Any, float]]" = field(default_factory=Queue)
    answers: "Queue[tuple[str, bool, Any]]" = field(default_factory=Queue)
    headers: list[dict[str, str]] = field(default_factory=list)
    log: Path = Path()

    def invoke(self, event: Any, *, seconds: float = 60.0) -> Answer:
        """Make one invocation and wait for its end.

        Raises:
            AssertionError: it was not answered in its time.
        """
        began = time.monotonic()
        request_id = str(uuid.uuid4())
        self.queue.put((request_id, event, time.time() + seconds))
        try:
            answered, is_error, body = self.answers.get(timeout=seconds + _GRACE_SECONDS)
        except Empty:
            raise AssertionError(f"Task timed out after {seconds} s: {self.text}") from None
        assert answered == request_id
        return Answer(is_error, body, time.monotonic() - began)

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")


def _this_checkout(_: Mapping[str, str]) -> list[str]:
    return [sys.executable, "-m", "backup.doors.lambda_entry"]


@contextmanager
def started(
    folder: Path,
    command: Callable[[Mapping[str, str]], list[str]] = _this_checkout,
    *,
    env: Mapping[str, str] | None = None,
    outside: Mapping[str, str] | None = None,
) -> Iterator[Function]:
    """Start the function as Lambda does: its container's entry, and an API to ask for events.

    Args:
        folder: for its log.
        command: makes the entry's words, for the function's variables.
        env: the function's variables, beside Lambda's own.
        outside: the environment of the command, where that is not the function itself.
    """
    function = Function(log=folder / "function.log")
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Api", (_Api,), {"function": function}))
    server.daemon_threads = True
    Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    given = {
        "AWS_LAMBDA_RUNTIME_API": f"127.0.0.1:{server.server_port}",
        "AWS_LAMBDA_FUNCTION_NAME": "repo-backup",
        "AWS_LAMBDA_FUNCTION_VERSION": "$LATEST",
        "AWS_LAMBDA_FUNCTION_MEMORY_SIZE": "2048",
        "AWS_LAMBDA_LOG_GROUP_NAME": "/aws/lambda/repo-backup",
        "AWS_LAMBDA_LOG_STREAM_NAME": "2026/11/28/[$LATEST]0123",
        **(env or {}),
    }
    try:
        with (
            function.log.open("wb") as log,
            subprocess.Popen(
                command(given),
                env=environment(given) if outside is None else dict(outside),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=folder,
            ) as process,
        ):
            try:
                yield function
            finally:
                process.kill()
    finally:
        server.shutdown()
        server.server_close()


class _Api(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    function: Function

    def do_GET(self) -> None:
        assert self.path == f"{_VERSION}/invocation/next", self.path
        try:
            request_id, event, ends_at = self.function.queue.get(timeout=_SECONDS)
        except Empty:
            self.close_connection = True
            return
        body = event if isinstance(event, bytes) else json.dumps(event).encode()
        fields = {
            "Content-Type": "application/json",
            "Lambda-Runtime-Aws-Request-Id": request_id,
            "Lambda-Runtime-Deadline-Ms": str(int(ends_at * 1000)),
            "Lambda-Runtime-Invoked-Function-Arn": "arn:aws:lambda:us-east-1:1:function:backup",
            "Lambda-Runtime-Trace-Id": "Root=1-5bef4de7-ad49b0e87f6ef6c87fc2e700",
        }
        self._send(200, fields, body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        self.function.headers.append(dict(self.headers.items()))
        parts = self.path.removeprefix(f"{_VERSION}/").split("/")
        match parts:
            case ["invocation", request_id, ("response" | "error") as kind]:
                self.function.answers.put((request_id, kind == "error", json.loads(body)))
            case ["init", "error"]:
                self.function.answers.put(("init", True, json.loads(body)))
            case _:
                self._send(404, {}, b"")
                return
        self._send(202, {}, b"")

    def _send(self, status: int, fields: Mapping[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in fields.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        pass


def home_variables(folder: Path) -> dict[str, str]:
    """Give what differs on Lambda: no home, and one folder to write to."""
    (folder / "tmp").mkdir(exist_ok=True)
    return {"HOME": "/nowhere", "TMPDIR": os.fspath(folder / "tmp")}
