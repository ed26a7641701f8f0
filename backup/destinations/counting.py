"""Counts what is asked of any destination. Stores nothing itself."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from types import TracebackType
from typing import Self

from backup.counting import RequestCounts
from backup.model import (
    ArchivedObject,
    Destination,
    Key,
    ObjectVersions,
    Reader,
    StoredObject,
    Writer,
)
from backup.secret import Secret

_OBJECTS = "objects"
_BYTES = "bytes"


class _CountingWriter:
    def __init__(self, inner: Writer, *, requests: RequestCounts, written: RequestCounts) -> None:
        self._inner = inner
        self._requests = requests
        self._written = written

    def write(self, data: bytes | bytearray | memoryview, /) -> None:
        self._inner.write(data)

    def commit(self, *, sha256: str | None = None) -> StoredObject:
        self._requests.increment("put")
        stored = self._inner.commit(sha256=sha256)
        _count_object(self._written, stored)
        return stored

    def abort(self) -> None:
        self._inner.abort()

    def __enter__(self) -> Self:
        self._inner.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        self._inner.__exit__(kind, error, trace)


class CountingDestination:
    """Passes everything on and counts it; every promise is the inner destination's.

    Counted is what was asked, whether or not it succeeded, by the names ``put`` (a commit or
    `put_if_absent`), ``probe``, ``get`` (`open` and `stat`), ``list`` (`list`, `versions`,
    `children` and `archived`) and ``delete``.
    How many requests a store makes of one of these is its own affair.

    Args:
        inner: where the objects go.
        counts: what to count in; may be shared with others.
    """

    def __init__(self, inner: Destination, counts: RequestCounts) -> None:
        self._inner = inner
        self._counts = counts
        self._written = RequestCounts()

    @property
    def objects_written(self) -> int:
        """Objects committed. Equal content that `put_if_absent` found there counts as well."""
        return self._written.snapshot().get(_OBJECTS, 0)

    @property
    def bytes_uploaded(self) -> int:
        """The size of these objects together."""
        return self._written.snapshot().get(_BYTES, 0)

    @property
    def listing_is_local(self) -> bool:
        return self._inner.listing_is_local

    @property
    def keeps_time(self) -> bool:
        return self._inner.keeps_time

    def uri(self, key: str) -> str:
        return self._inner.uri(key)

    def writer(self, key: Key) -> Writer:
        inner = self._inner.writer(key)
        return _CountingWriter(inner, requests=self._counts, written=self._written)

    def probe(self, key: Key) -> str:
        self._counts.increment("probe")
        return self._inner.probe(key)

    def put_if_absent(self, key: Key, data: bytes) -> StoredObject:
        self._counts.increment("put")
        stored = self._inner.put_if_absent(key, data)
        _count_object(self._written, stored)
        return stored

    def open(self, key: Key, *, offset: int = 0, version: str | None = None) -> Reader:
        self._counts.increment("get")
        return self._inner.open(key, offset=offset, version=version)

    def versions(self, prefix: str) -> Iterator[ObjectVersions]:
        self._counts.increment("list")
        return self._inner.versions(prefix)

    def stat(self, key: Key) -> StoredObject:
        self._counts.increment("get")
        return self._inner.stat(key)

    def list(self, prefix: str, *, versions: bool = False) -> Iterator[StoredObject]:
        self._counts.increment("list")
        return self._inner.list(prefix, versions=versions)

    def children(self, prefix: str, *, hidden: bool = False) -> tuple[str, ...]:
        self._counts.increment("list")
        return self._inner.children(prefix, hidden=hidden)

    def archived(self, keys: Iterable[Key]) -> Iterator[ArchivedObject]:
        self._counts.increment("list")
        return self._inner.archived(keys)

    def upload_url(self, key: Key, *, content_type: str, seconds: int) -> Secret | None:
        return self._inner.upload_url(key, content_type=content_type, seconds=seconds)

    def delete(self, keys: Iterable[Key]) -> bool:
        self._counts.increment("delete")
        return self._inner.delete(keys)

    def renew_lock(self, key: Key, *, version: str | None) -> datetime | None:
        self._counts.increment("put")
        return self._inner.renew_lock(key, version=version)

    def locked_until(self, keys: Iterable[Key]) -> Mapping[Key, datetime]:
        self._counts.increment("get")
        return self._inner.locked_until(keys)

    def now(self) -> datetime | None:
        return self._inner.now()

    def abort_uploads(self, *, older_than: datetime) -> int:
        self._counts.increment("list")
        return self._inner.abort_uploads(older_than=older_than)


def _count_object(written: RequestCounts, stored: StoredObject) -> None:
    written.increment(_OBJECTS)
    written.increment(_BYTES, stored.size_bytes)
