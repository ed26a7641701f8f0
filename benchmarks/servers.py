"""The servers of the network benchmark: git over HTTP and a store that speaks S3.

Each is a process apart from this one and from what is measured: git's own http-backend behind a
small server in Python (run as this module), and rclone over a folder.
"""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks.measure import CommandFailed
from tests.support.gitserver import GitHttpServer
from tests.support.s3server import S3Server, rclone_server

BUCKET = "bench"


@dataclass(frozen=True, slots=True)
class Store:
    """A bucket that is a folder too.

    Attributes:
        folder: where the bucket's objects lie as files.
    """

    server: S3Server
    folder: Path

    @property
    def environment(self) -> dict[str, str]:
        """What a program needs to reach it."""
        return self.server.environment() | reached_at(self.server.endpoint_url)


def reached_at(url: str) -> dict[str, str]:
    """Send repo-backup and boto3 to a store's address."""
    return {"REPO_BACKUP_ENDPOINT_URL": url, "AWS_ENDPOINT_URL": url}


@contextmanager
def store_of(folder: Path) -> Iterator[Store]:
    """Serve a folder as a store with one bucket."""
    with rclone_server(folder, None) as server:
        server.make_bucket(BUCKET)
        yield Store(server, folder / BUCKET)


@contextmanager
def git_server_of(folder: Path) -> Iterator[str]:
    """Serve the repositories below a folder over HTTP from another process; its URL."""
    argv = [sys.executable, "-m", "benchmarks.servers", os.fspath(folder)]
    pipe = subprocess.PIPE
    with subprocess.Popen(argv, stdin=pipe, stdout=pipe, encoding="utf-8") as process:
        if process.stdin is None or process.stdout is None:
            raise AssertionError("both were asked for")
        try:
            if not (url := process.stdout.readline().strip()):
                raise CommandFailed("git's server did not start")
            yield url
        finally:
            # The end of its input is the end of it.
            process.stdin.close()
            process.wait()


def main() -> None:
    """Serve a folder until the standard input ends."""
    with GitHttpServer(Path(sys.argv[1])) as server:
        print(server.url, flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
