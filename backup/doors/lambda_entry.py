"""The entry of the Lambda image: AWS's runtime client in Lambda, and elsewhere a local endpoint.

In Lambda (``AWS_LAMBDA_RUNTIME_API`` is set) the process becomes awslambdaric. On any other machine
events are taken by HTTP POST at the path where AWS's own emulator takes them, one after another.
Source: AWS Lambda Developer Guide, "Testing Lambda container images locally"; AWS Lambda API
Reference, "Invoke".
"""

import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from backup.doors.aws_lambda import handler

HANDLER = "backup.doors.aws_lambda.handler"
PATH = "/2015-03-31/functions/function/invocations"
PORT = 8080
# Lambda's own limits.
_MOST_SECONDS = 900.0
_MOST_EVENT_BYTES = 6 << 20


def main(arguments: Sequence[str] | None = None) -> int:
    """Serve invocations until somebody ends the process.

    Args:
        arguments: the port of the local endpoint, 8080 when left out.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    if os.environ.get("AWS_LAMBDA_RUNTIME_API"):
        os.execv(sys.executable, [sys.executable, "-m", "awslambdaric", HANDLER])  # noqa: S606
    # The first process of a container gets no SIGTERM that it does not ask for.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    # Every interface: from inside a container nothing else is reached from outside.
    with HTTPServer(("", int(words[0]) if words else PORT), _Invocations) as server:
        port = server.server_port
        print(f"POST an event to http://localhost:{port}{PATH}", file=sys.stderr, flush=True)  # noqa: T201
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            return 0
    return 0


class _Context:
    """The time of one local invocation."""

    def __init__(self) -> None:
        seconds = float(os.environ.get("AWS_LAMBDA_FUNCTION_TIMEOUT") or _MOST_SECONDS)
        self._ends_at = time.monotonic() + seconds

    def get_remaining_time_in_millis(self) -> int:
        return max(0, int((self._ends_at - time.monotonic()) * 1000))


class _Invocations(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        context = _Context()
        length = self.headers.get("Content-Length", "")
        if self.path != PATH:
            self._answer(404, {"message": f"events go to {PATH}"})
        elif not length.isdigit() or int(length) > _MOST_EVENT_BYTES:
            self._answer(413, {"message": f"an event has at most {_MOST_EVENT_BYTES} bytes"})
        else:
            self._invoke(self.rfile.read(int(length)), context)

    def _invoke(self, body: bytes, context: _Context) -> None:
        try:
            event = json.loads(body or b"{}")
        except (ValueError, RecursionError):
            self._answer(400, {"message": "the event is no JSON"})
            return
        try:
            answer = handler(event, context)
        except Exception as error:  # noqa: BLE001 - as Lambda does with whatever a handler raises
            said = {"errorMessage": str(error), "errorType": type(error).__name__}
            self._answer(200, said, failed=True)
        else:
            self._answer(200, answer)

    def _answer(self, status: int, body: dict[str, Any], *, failed: bool = False) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        if failed:
            self.send_header("X-Amz-Function-Error", "Unhandled")
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        # What was not read of a refused event must not be taken for another.
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(data)


if __name__ == "__main__":
    sys.exit(main())
