"""The implementations that the Destination contract is run over."""

import errno
import os
from collections.abc import Callable, Iterator, Mapping

import pytest

from backup.counting import RequestCounts
from backup.destinations.counting import CountingDestination
from backup.destinations.folder import FolderDestination
from backup.destinations.memory import MemoryDestination
from backup.model import Destination, Key

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


def _counted(request: pytest.FixtureRequest) -> Destination:
    return CountingDestination(_folder(request), RequestCounts())


# Each makes an empty destination of its own for one test.
IMPLEMENTATIONS: Mapping[str, Callable[[pytest.FixtureRequest], Destination]] = {
    "memory": _memory,
    "folder": _folder,
    "folder without hard links": _folder_without_hard_links,
    "folder, counted": _counted,
}


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
