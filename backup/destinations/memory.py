"""A destination in memory, for tests and trial runs. Gone with the process."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from io import BytesIO
from threading import Lock
from types import TracebackType
from typing import Self

from backup.errors import DestinationError, ObjectNotFound, WriteConflict
from backup.keys import check_key, check_prefix
from backup.model import ArchivedObject, Key, ObjectVersions, Reader, StoredObject, Writer


class _Objects:
    """The contents by key, each stored once."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._contents: dict[Key, bytes] = {}

    def add(self, key: Key, data: bytes) -> bytes | None:
        """Store data if the key is free, else return what it holds."""
        with self._lock:
            present = self._contents.get(key)
            if present is None:
                self._contents[key] = data
            return present

    def get(self, key: Key) -> bytes:
        with self._lock:
            content = self._contents.get(key)
        if content is None:
            raise ObjectNotFound(f"{_uri(key)} does not exist")
        return content

    def below(self, prefix: str) -> list[StoredObject]:
        with self._lock:
            return [
                StoredObject(key, len(content))
                for key, content in sorted(self._contents.items())
                if key.startswith(prefix)
            ]

    def remove(self, key: Key) -> None:
        with self._lock:
            self._contents.pop(key, None)


class _MemoryWriter:
    def __init__(self, objects: _Objects, key: Key) -> None:
        self._objects = objects
        self._key = key
        self._written: bytearray | None = bytearray()

    def write(self, data: bytes | bytearray | memoryview, /) -> None:
        self._unfinished().extend(data)

    def commit(self, *, sha256: str | None = None) -> StoredObject:
        data = bytes(self._unfinished())
        self.abort()
        if self._objects.add(self._key, data) is not None:
            raise WriteConflict(f"{_uri(self._key)} exists already")
        return StoredObject(self._key, len(data))

    def abort(self) -> None:
        self._written = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        self.abort()

    def _unfinished(self) -> bytearray:
        if self._written is None:
            raise ValueError(f"the writer of {_uri(self._key)} is finished")
        return self._written


class MemoryDestination:
    """Keeps objects in a dictionary; the contract is that of `backup.model.Destination`."""

    def __init__(self) -> None:
        self._objects = _Objects()

    @property
    def listing_is_local(self) -> bool:
        return True

    @property
    def keeps_time(self) -> bool:
        return False

    def uri(self, key: str) -> str:
        return _uri(key)

    def writer(self, key: Key) -> Writer:
        check_key(key)
        return _MemoryWriter(self._objects, key)

    def probe(self, key: Key) -> str:
        check_key(key)
        return ""

    def put_if_absent(self, key: Key, data: bytes) -> StoredObject:
        check_key(key)
        if self._objects.add(key, bytes(data)) not in (None, data):
            raise WriteConflict(f"{_uri(key)} exists already with other content")
        return StoredObject(key, len(data))

    def versions(self, prefix: str) -> Iterator[ObjectVersions]:
        return iter(())

    def open(self, key: Key, *, offset: int = 0, version: str | None = None) -> Reader:
        check_key(key)
        if offset < 0:
            raise ValueError(f"offset {offset} is negative")
        content = self._objects.get(key)
        if offset > len(content):
            raise DestinationError(f"{_uri(key)} ends at byte {len(content)}, before {offset}")
        reader = BytesIO(content)
        reader.seek(offset)
        return reader

    def stat(self, key: Key) -> StoredObject:
        check_key(key)
        return StoredObject(key, len(self._objects.get(key)))

    def list(self, prefix: str, *, versions: bool = False) -> Iterator[StoredObject]:
        check_prefix(prefix)
        return iter(self._objects.below(prefix))

    def children(self, prefix: str, *, hidden: bool = False) -> tuple[str, ...]:
        check_prefix(prefix)
        below = (stored.key.removeprefix(prefix) for stored in self._objects.below(prefix))
        return tuple(sorted({rest.split("/")[0] for rest in below if "/" in rest}))

    def archived(self, keys: Iterable[Key]) -> Iterator[ArchivedObject]:
        return iter(())

    def upload_url(self, key: Key, *, content_type: str, seconds: int) -> None:
        return None

    def delete(self, keys: Iterable[Key]) -> bool:
        for key in keys:
            check_key(key)
            self._objects.remove(key)
        return False

    def renew_lock(self, key: Key, *, version: str | None) -> None:
        return None

    def locked_until(self, keys: Iterable[Key]) -> dict[Key, datetime]:
        return {}

    def now(self) -> None:
        return None

    def abort_uploads(self, *, older_than: datetime) -> int:
        return 0


def _uri(key: str) -> str:
    return f"memory:/{key}"
