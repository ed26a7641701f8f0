"""One object longer than 78 GiB, by the real writer over HTTP, into a store that keeps nothing.

    python -m benchmarks.longest [--gibibytes 79]

The store counts the parts' bytes and checks each part's Content-MD5 length; it is a process apart,
so that the peak of memory is the writer's own.
"""

import argparse
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from backup.destinations.s3 import S3Destination, S3Settings
from backup.model import Key
from backup.stopping import Stop

MEBIBYTE = 1 << 20
GIBIBYTE = 1 << 30
_PIECE_BYTES = MEBIBYTE


class _Discarding(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    parts: dict[int, int] = {}  # noqa: RUF012 - one store a process

    def do_HEAD(self) -> None:
        self._answer(404)

    def do_PUT(self) -> None:
        size = left = int(self.headers["Content-Length"])
        while left:
            left -= len(self.rfile.read1(min(left, _PIECE_BYTES)))
        number = re.search(r"partNumber=(\d+)", self.path)
        self.parts[int(number[1]) if number else 0] = size
        self._answer(200, fields={"ETag": '"x"'})

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
        if self.path.endswith("?uploads"):
            self._answer(
                200,
                "<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>",
            )
            return
        asked = [int(number) for number in re.findall(rb"<PartNumber>(\d+)", body)]
        if asked != sorted(self.parts):
            self._answer(400, "<Error><Code>InvalidPart</Code></Error>")
            return
        print(len(asked), sum(self.parts.values()), max(self.parts.values()), flush=True)
        self._answer(200, "<CompleteMultipartUploadResult></CompleteMultipartUploadResult>")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        pass

    def _answer(self, status: int, text: str = "", fields: dict[str, str] | None = None) -> None:
        self.send_response(status)
        for name, value in (fields or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())


@contextmanager
def _store() -> Iterator[tuple[str, "subprocess.Popen[str]"]]:
    argv = [sys.executable, "-m", "benchmarks.longest", "--serve"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, encoding="utf-8") as process:
        if process.stdout is None:
            raise AssertionError("it was asked for")
        try:
            yield process.stdout.readline().strip(), process
        finally:
            process.terminate()


def _serve() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Discarding)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--gibibytes", type=float, default=79.0)
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        _serve()
        return
    os.environ |= {"AWS_ACCESS_KEY_ID": "nobody", "AWS_SECRET_ACCESS_KEY": "nothing"}
    chunk = os.urandom(MEBIBYTE)
    wanted = int(options.gibibytes * GIBIBYTE) // MEBIBYTE
    with _store() as (url, process):
        destination = S3Destination(S3Settings(bucket="bench", endpoint_url=url), stop=Stop())
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        began = time.monotonic()
        with destination.writer(Key("longest")) as writer:
            for _ in range(wanted):
                writer.write(chunk)
            writer.write(b"the end")
            stored = writer.commit()
        seconds = time.monotonic() - began
        destination.close()
        if process.stdout is None:
            raise AssertionError("it was asked for")
        parts, received, largest = map(int, process.stdout.readline().split())
    if received != stored.size_bytes:
        raise SystemExit(f"{received} bytes arrived, {stored.size_bytes} were written")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(f"{received} bytes in {parts} parts, the largest {largest >> 20} MiB, in {seconds:.0f} s")
    print(f"peak memory {peak >> 10} MiB, {peak - before >> 10} MiB above the start")


if __name__ == "__main__":
    main()
