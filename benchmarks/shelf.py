"""Serves the vault of many nights as a bucket; what is put there is kept beside it.

    python -m benchmarks.shelf OWNER REPOSITORIES NIGHTS

It knows what reading commands ask for: listings by prefix, single objects, and a plain put. Half a
million keys lie in one sorted list, so that a page of a listing costs what it costs a real store,
and not a walk of a folder.
"""

import os
import re
import subprocess
import sys
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from urllib.parse import parse_qs, unquote, urlsplit
from xml.sax.saxutils import escape

from benchmarks.measure import CommandFailed
from benchmarks.nights import Nights
from benchmarks.servers import BUCKET

_PAGE = 1000


class Shelf:
    """The objects: some as bytes, most as a name and a size."""

    def __init__(self, nights: Nights) -> None:
        self._nights = nights
        self._contents = dict(nights.manifests())
        self._sizes = dict(nights.listed()) | {k: len(v) for k, v in self._contents.items()}
        self._keys = sorted(self._sizes)

    def __len__(self) -> int:
        return len(self._keys)

    def get(self, key: str) -> bytes | None:
        """Return an object; bundles have no content."""
        if key in self._contents:
            return self._contents[key]
        return self._nights.record(key) if key.endswith(".record.json.gz") else None

    def put(self, key: str, content: bytes) -> None:
        if key not in self._sizes:
            self._keys.insert(bisect_left(self._keys, key), key)
        self._contents[key], self._sizes[key] = content, len(content)

    def page(self, prefix: str, delimiter: str, after: str) -> str:
        """Make one page of a listing."""
        place = bisect_left(self._keys, after or prefix)
        items: list[str] = []
        while place < len(self._keys) and (key := self._keys[place]).startswith(prefix):
            if len(items) == _PAGE:
                token = f"<NextContinuationToken>{escape(key)}</NextContinuationToken>"
                return _listing("".join(items), f"<IsTruncated>true</IsTruncated>{token}")
            folder, found, _ = key[len(prefix) :].partition(delimiter or "\0")
            if found:
                common = f"{prefix}{folder}{delimiter}"
                items.append(f"<CommonPrefixes><Prefix>{escape(common)}</Prefix></CommonPrefixes>")
                # Beyond everything that lies in that folder.
                place = bisect_left(self._keys, f"{common[:-1]}{chr(ord(delimiter) + 1)}")
                continue
            size = self._sizes[key]
            items.append(f"<Contents><Key>{escape(key)}</Key><Size>{size}</Size></Contents>")
            place += 1
        return _listing("".join(items), "<IsTruncated>false</IsTruncated>")


def _listing(items: str, end: str) -> str:
    return f"<ListBucketResult>{items}{end}</ListBucketResult>"


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    shelf: Shelf

    def do_GET(self) -> None:
        place = urlsplit(self.path)
        key = unquote(place.path).removeprefix(f"/{BUCKET}").removeprefix("/")
        if not key:
            asked = {name: values[0] for name, values in parse_qs(place.query).items()}
            page = self.shelf.page(
                asked.get("prefix", ""),
                asked.get("delimiter", ""),
                asked.get("continuation-token", ""),
            )
            self._answer(200, page.encode())
        elif (content := self.shelf.get(key)) is not None:
            self._answer(200, content)
        else:
            self._answer(404, b"<Error><Code>NoSuchKey</Code></Error>")

    def do_PUT(self) -> None:
        key = unquote(urlsplit(self.path).path).removeprefix(f"/{BUCKET}/")
        self.shelf.put(key, self.rfile.read(int(self.headers["Content-Length"])))
        self._answer(200, b"")

    def do_HEAD(self) -> None:
        self._answer(404, b"")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base's name
        pass

    def _answer(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", '"x"')
        self.end_headers()
        self.wfile.write(content)


@contextmanager
def shelf_of(owner: str, *, repositories: int, nights: int) -> Iterator[tuple[str, str]]:
    """Serve such a vault from another process; its URL, and what it says of itself."""
    argv = [sys.executable, "-m", "benchmarks.shelf", owner, str(repositories), str(nights)]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, encoding="utf-8") as process:
        if process.stdin is None or process.stdout is None:
            raise AssertionError("both were asked for")
        try:
            if (found := re.fullmatch(r"(\S+) (.+)\n", process.stdout.readline())) is None:
                raise CommandFailed("the store of many nights did not start")
            yield found[1], found[2]
        finally:
            # The end of its input is the end of it.
            process.stdin.close()
            process.wait()


def main() -> None:
    """Serve until the standard input ends."""
    owner, repositories, count = sys.argv[1:]
    nights = Nights.until_now(owner, repositories=int(repositories), nights=int(count))
    shelf = Shelf(nights)
    handler = type("Handler", (_Handler,), {"shelf": shelf})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.daemon_threads = True
    said = f"the vault has {len(shelf):,} objects"
    print(f"http://127.0.0.1:{server.server_port} {said}", flush=True)
    Thread(target=server.serve_forever, daemon=True).start()
    sys.stdin.read()
    # What is left of requests ends with it.
    os._exit(0)


if __name__ == "__main__":
    main()
