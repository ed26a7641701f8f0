"""The implementations that the Destination contract is run over."""

import errno
import os
from collections.abc import Callable, Iterator, Mapping
from uuid import uuid4

import pytest

from backup.counting import RequestCounts
from backup.destinations.counting import CountingDestination
from backup.destinations.folder import FolderDestination
from backup.destinations.memory import MemoryDestination
from backup.destinations.s3 import S3Destination, S3Settings, settings
from backup.model import Destination, Key
from backup.stopping import Stop
from tests.support.s3server import S3Server

MEBIBYTE = 1024 * 1024


def _folder(request: pytest.FixtureRequest) -> Destination:
    root = request.getfixturevalue("tmp_path") / "vault"

    def nothing_unfinished_is_left() -> None:
        assert list(root.glob(".partial/*")) == []

    request.addfinalizer(nothing_unfinished_is_left)
    return FolderDestination(root)


def _folder_without_hard_links(request: pytest.FixtureRequest) -> Destination:
    refuse_hard_links(request.getfixturevalue("monkeypatch"))
    return _folder(request)


def _memory(request: pytest.FixtureRequest) -> Destination:
    return MemoryDestination()


def _s3(server: str, *, as_aws: bool = False) -> Callable[[pytest.FixtureRequest], Destination]:
    """Make the maker of a destination in a bucket of its own, at a server of the test session."""

    def make(request: pytest.FixtureRequest) -> Destination:
        if as_aws:
            monkeypatch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
            monkeypatch.setattr(settings, "is_aws", lambda url: True)
        return bucket_destination(request, request.getfixturevalue(server))

    return make


def bucket_destination(request: pytest.FixtureRequest, server: S3Server) -> S3Destination:
    """Make a destination in a new bucket, and close it after the test."""
    bucket = f"b-{uuid4().hex}"
    server.make_bucket(bucket)
    monkeypatch: pytest.MonkeyPatch = request.getfixturevalue("monkeypatch")
    for name, value in server.environment().items():
        monkeypatch.setenv(name, value)
    destination = S3Destination(
        S3Settings(bucket=bucket, prefix="some/where", endpoint_url=server.endpoint_url),
        stop=Stop(),
    )
    request.addfinalizer(destination.close)
    return destination


def _counted(request: pytest.FixtureRequest) -> Destination:
    return CountingDestination(_folder(request), RequestCounts())


# Each makes an empty destination of its own for one test.
IMPLEMENTATIONS: Mapping[str, Callable[[pytest.FixtureRequest], Destination]] = {
    "memory": _memory,
    "folder": _folder,
    "folder without hard links": _folder_without_hard_links,
    "folder, counted": _counted,
    "moto": _s3("moto_http"),
    "moto, https": _s3("moto_https"),
    "moto, as AWS": _s3("moto_https", as_aws=True),
    "rclone": _s3("rclone_http"),
    "rclone, https": _s3("rclone_https"),
}
# Of these the last promises are not to be had: rclone ignores conditions, so that two writers of
# one key at the same moment both have success; and to delete a folder's name deletes the folder.
# No two runs write the same key, and nobody deletes a folder's name.
INEXACT = {"rclone", "rclone, https"}


def refuse_hard_links(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the system answer as it does for file systems that have no hard links."""

    def refuse(source: str, target: str) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), source, None, target)

    monkeypatch.setattr(os, "link", refuse)


def put(destination: Destination, *keys: str, data: bytes = b"content") -> None:
    for key in keys:
        destination.put_if_absent(Key(key), data)


def read(destination: Destination, key: str, *, offset: int = 0) -> bytes:
    with destination.open(Key(key), offset=offset) as reader:
        return reader.read()


def keys_of(destination: Destination, prefix: str = "") -> list[str]:
    return [stored.key for stored in destination.list(prefix)]


def pattern(size_bytes: int) -> bytes:
    """Make bytes whose every part differs from its neighbours."""
    return b"".join(number.to_bytes(8, "big") for number in range(size_bytes // 8 + 1))[:size_bytes]


def in_chunks(data: bytes, *sizes: int) -> Iterator[memoryview]:
    """Cut data into chunks of these sizes, over and over."""
    rest = memoryview(data)
    while rest:
        for size in sizes:
            yield rest[:size]
            rest = rest[size:]
