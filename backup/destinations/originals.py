"""Reads manifests as they were first written, whatever somebody has put in their place since.

Every key of a vault is written once, by a run. In a store that keeps versions an overwritten object
is therefore not lost: the run's own version is the first one. Of records and bundles the version
stands in the document that names them; of manifests it stands nowhere.
"""

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from threading import Lock

from backup.errors import DestinationError
from backup.model import ArchivedObject, Destination, Key, Reader, StoredObject, Writer
from backup.secret import Secret

# As `backup.vault.layout` has them.
_OF_DOCUMENTS = ("/snapshots/", "/checkpoints/")


class OriginalsDestination:
    """Passes everything on, but for reading manifests and checkpoints.

    The versions of each of their folders are listed once. Where that cannot be had, what is current
    is read.

    Args:
        inner: where the objects are.
    """

    def __init__(self, inner: Destination) -> None:
        self._inner = inner
        self._lock = Lock()
        self._known: dict[str, Mapping[Key, str]] = {}

    @property
    def listing_is_local(self) -> bool:
        return self._inner.listing_is_local

    def uri(self, key: str) -> str:
        return self._inner.uri(key)

    def open(self, key: Key, *, offset: int = 0, version: str | None = None) -> Reader:
        return self._inner.open(key, offset=offset, version=version or self._first(key))

    def _first(self, key: Key) -> str | None:
        folder = key[: key.rindex("/") + 1]
        if not folder.endswith(_OF_DOCUMENTS):
            return None
        with self._lock:
            known = self._known.get(folder)
        if known is None:
            known = self._look(folder)
        return known.get(key)

    def _look(self, folder: str) -> Mapping[Key, str]:
        try:
            found = self._inner.first_versions(folder)
        except DestinationError as error:
            if error.retryable:
                raise
            found = {}
        with self._lock:
            return self._known.setdefault(folder, found)

    def first_versions(self, prefix: str) -> Mapping[Key, str]:
        return self._inner.first_versions(prefix)

    def writer(self, key: Key) -> Writer:
        return self._inner.writer(key)

    def put_if_absent(self, key: Key, data: bytes) -> StoredObject:
        return self._inner.put_if_absent(key, data)

    def stat(self, key: Key) -> StoredObject:
        return self._inner.stat(key)

    def list(self, prefix: str, *, versions: bool = False) -> Iterator[StoredObject]:
        return self._inner.list(prefix, versions=versions)

    def children(self, prefix: str) -> tuple[str, ...]:
        return self._inner.children(prefix)

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

    def now(self) -> datetime | None:
        return self._inner.now()

    def abort_uploads(self, *, older_than: datetime) -> int:
        return self._inner.abort_uploads(older_than=older_than)
