"""A destination whose objects are dated by a clock of the test's own, as its documents are.

A run compares its clock with the store's. Where a test gives the run a clock that it invents, the
store must have the same one, or the one that the test means it to have.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from dataclasses import replace
from datetime import datetime
from types import TracebackType
from typing import Self

from backup.destinations.folder import FolderDestination
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

Clock = Callable[[], datetime]


class Timed:
    """Passes everything on, but tells and dates by the given clock.

    In a folder the files themselves get the time, so that whoever reads the folder sees it. Of
    another store it is remembered, in ``times``; what was not written through one of these that
    share it has no time.

    Args:
        inner: where the objects go.
        clock: the store's.
        times: when objects were written; give the same one to all that stand for one store.
    """

    def __init__(
        self,
        inner: Destination,
        clock: Clock,
        times: MutableMapping[Key, datetime] | None = None,
    ) -> None:
        self._inner = inner
        self._clock = clock
        self._times: MutableMapping[Key, datetime] = {} if times is None else times

    def now(self) -> datetime | None:
        return self._clock()

    def writer(self, key: Key) -> Writer:
        return _TimedWriter(self._inner.writer(key), lambda: self._date(key))

    def put_if_absent(self, key: Key, data: bytes) -> StoredObject:
        stored = self._inner.put_if_absent(key, data)
        self._date(key)
        return stored

    def stat(self, key: Key) -> StoredObject:
        return self._dated(self._inner.stat(key))

    def list(self, prefix: str, *, versions: bool = False) -> Iterator[StoredObject]:
        return map(self._dated, self._inner.list(prefix, versions=versions))

    def _date(self, key: Key) -> None:
        moment = self._clock()
        if isinstance(self._inner, FolderDestination):
            os.utime(self._inner.uri(key), (moment.timestamp(), moment.timestamp()))
        else:
            self._times[key] = moment

    def _dated(self, stored: StoredObject) -> StoredObject:
        if isinstance(self._inner, FolderDestination):
            return stored
        return replace(stored, stored_at=self._times.get(stored.key))

    # --- What is the same ---

    @property
    def listing_is_local(self) -> bool:
        return self._inner.listing_is_local

    @property
    def keeps_time(self) -> bool:
        return not isinstance(self._inner, FolderDestination)

    def uri(self, key: str) -> str:
        return self._inner.uri(key)

    def open(self, key: Key, *, offset: int = 0, version: str | None = None) -> Reader:
        return self._inner.open(key, offset=offset, version=version)

    def versions(self, prefix: str) -> Iterator[ObjectVersions]:
        return self._inner.versions(prefix)

    def probe(self, key: Key) -> str:
        return self._inner.probe(key)

    def children(self, prefix: str, *, hidden: bool = False) -> tuple[str, ...]:
        return self._inner.children(prefix, hidden=hidden)

    def archived(self, keys: Iterable[Key]) -> Iterator[ArchivedObject]:
        return self._inner.archived(keys)

    def upload_url(self, key: Key, *, content_type: str, seconds: int) -> Secret | None:
        return self._inner.upload_url(key, content_type=content_type, seconds=seconds)

    def delete(self, keys: Iterable[Key]) -> bool:
        return self._inner.delete(keys)

    def renew_lock(self, key: Key, *, version: str | None) -> datetime | None:
        return self._inner.renew_lock(key, version=version)

    def locked_until(self, keys: Iterable[Key]) -> Mapping[Key, datetime]:
        return self._inner.locked_until(keys)

    def abort_uploads(self, *, older_than: datetime) -> int:
        return self._inner.abort_uploads(older_than=older_than)


class Unaware(Timed):
    """A store that shows a run the clock that the run has, and dates by its own.

    So a run writes what only a program would write that compares no clocks.
    """

    def _date(self, key: Key) -> None:
        return

    def _dated(self, stored: StoredObject) -> StoredObject:
        return stored


class _TimedWriter:
    def __init__(self, inner: Writer, date: Callable[[], None]) -> None:
        self._inner = inner
        self._date = date

    def write(self, data: bytes | bytearray | memoryview, /) -> None:
        self._inner.write(data)

    def commit(self, *, sha256: str | None = None) -> StoredObject:
        stored = self._inner.commit(sha256=sha256)
        self._date()
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
