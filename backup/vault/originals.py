"""Reads manifests as they were first written, whatever was put in their place or over them since.

Every key of a vault is written once, by a run. In a store that keeps versions an overwritten object
is therefore not lost: the run's own version is the first one. Of records and bundles the version
stands in the document that names them; of manifests it stands nowhere.

A delete marker over the newest manifests would give an older state for the newest one, without a
word. prune never removes the newest snapshot, so that no marker is its work over what no manifest
in sight has merged and what may be newer than all of them: such documents are listed and read as if
they were in sight.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from heapq import merge
from threading import Lock

from backup.errors import DamagedDocument, DestinationError, ObjectNotFound, UnsupportedFormat
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
from backup.vault.layout import Layout
from backup.vault.manifest import WINDOW, Head, load

_MANIFESTS = "/snapshots/"
_CHECKPOINTS = "/checkpoints/"
_ACCEPTED = "/accepted/"
_FORGOTTEN = ".forgotten."
_ID = re.compile(r"\d{8}T\d{6}Z-[0-9a-z]{4,32}(?=\.)", re.ASCII)
_ID_TIME = "%Y%m%dT%H%M%SZ"
_FUTURE_TOLERANCE = timedelta(hours=1)
_LAST = datetime.max.replace(tzinfo=UTC) - _FUTURE_TOLERANCE
# The run that ended last may have begun so long before the one with the greatest id. What prune
# took away from this time stands in what was merged, which goes back by a window.
_MOST_BESIDE = WINDOW - timedelta(days=1)


class OriginalsDestination:
    """Passes everything on, but for listing and reading manifests and checkpoints.

    The versions of each of their folders are listed once, those of checkpoints only when one is
    read or no manifest is left. Where versions cannot be listed, what is current is all there is.

    Args:
        inner: where the objects are.
    """

    def __init__(self, inner: Destination) -> None:
        self._inner = inner
        self._lock = Lock()
        self._known: dict[str, Mapping[Key, ObjectVersions]] = {}
        self._hidden: dict[str, Mapping[Key, ObjectVersions]] = {}
        self._has_manifests: dict[str, bool] = {}

    @property
    def listing_is_local(self) -> bool:
        return self._inner.listing_is_local

    @property
    def keeps_time(self) -> bool:
        return self._inner.keeps_time

    def uri(self, key: str) -> str:
        return self._inner.uri(key)

    def open(self, key: Key, *, offset: int = 0, version: str | None = None) -> Reader:
        return self._inner.open(key, offset=offset, version=version or self._first(key))

    def hidden(self, prefix: str) -> Mapping[Key, ObjectVersions]:
        """Return what the last `list` of a folder of documents gave though a marker hides it."""
        with self._lock:
            return self._hidden.get(prefix, {})

    def _first(self, key: Key) -> str | None:
        folder = key[: key.rindex("/") + 1]
        if not folder.endswith((_MANIFESTS, _CHECKPOINTS, _ACCEPTED)):
            return None
        found = self._versions(folder).get(key)
        return None if found is None else found.first

    def _versions(self, folder: str) -> Mapping[Key, ObjectVersions]:
        with self._lock:
            known = self._known.get(folder)
        if known is not None:
            return known
        try:
            found = {one.key: one for one in self._inner.versions(folder)}
        except DestinationError as error:
            if error.retryable:
                raise
            found = {}
        with self._lock:
            return self._known.setdefault(folder, found)

    def list(self, prefix: str, *, versions: bool = False) -> Iterator[StoredObject]:
        if prefix.endswith(_MANIFESTS):
            return self._with_hidden(prefix, versions=versions)
        if prefix.endswith(_CHECKPOINTS) and not self._any_manifest(prefix):
            # Only then what they alone know is more than some minutes of work.
            return self._with_hidden(prefix, versions=versions)
        return self._inner.list(prefix, versions=versions)

    def _any_manifest(self, checkpoints: str) -> bool:
        folder = checkpoints.removesuffix(_CHECKPOINTS) + _MANIFESTS
        with self._lock:
            known = self._has_manifests.get(folder)
        return next(self.list(folder), None) is not None if known is None else known

    def _with_hidden(self, prefix: str, *, versions: bool) -> Iterator[StoredObject]:
        """List a folder of documents, and those that are hidden and may be newer than all these."""
        # Before what is in sight: what is written or pruned meanwhile is not taken for hidden.
        known = self._versions(prefix)
        listed = [
            self._as_first_stored(one, known.get(one.key))
            for one in self._inner.list(prefix, versions=versions)
        ]
        in_sight = {one.key for one in listed}
        timely = sorted((one.key for one in listed if _is_timely(one)), key=_id_of, reverse=True)
        since = _id_of(timely[0]) if timely else ""
        if prefix.endswith(_MANIFESTS):
            since = _some_time_before(since)
        hidden = {
            key: one
            for key, one in known.items()
            if one.is_hidden
            and key not in in_sight
            and _id_of(key) > since
            and _is_timely(one)
            # By deleting it a repository that was to be forgotten is taken back.
            and _FORGOTTEN not in key.rpartition("/")[2]
        }
        layout = Layout(prefix.removesuffix(_MANIFESTS.lstrip("/")))
        for key in timely:
            if not hidden or _id_of(key) <= since:
                break
            for stem in self._merged_by(key):
                hidden.pop(layout.document_of(stem), None)
        with self._lock:
            self._hidden[prefix] = hidden
            self._has_manifests[prefix] = bool(listed or hidden)
        found = [
            StoredObject(key, one.size_bytes, one.first, stored_at=one.stored_at)
            for key, one in hidden.items()
        ]
        return merge(listed, found, key=lambda one: one.key)

    def _merged_by(self, key: Key) -> tuple[str, ...]:
        """Read which documents a manifest has merged; none where it cannot be read."""
        try:
            return load(self, key, Head).merged
        except (DamagedDocument, UnsupportedFormat, ObjectNotFound):
            return ()

    @staticmethod
    def _as_first_stored(listed: StoredObject, known: ObjectVersions | None) -> StoredObject:
        """Have an object the time of the version that is read of it, which is the first one."""
        return listed if known is None else replace(listed, stored_at=known.stored_at)

    def versions(self, prefix: str) -> Iterator[ObjectVersions]:
        return self._inner.versions(prefix)

    def writer(self, key: Key) -> Writer:
        return self._inner.writer(key)

    def probe(self, key: Key) -> str:
        return self._inner.probe(key)

    def put_if_absent(self, key: Key, data: bytes) -> StoredObject:
        return self._inner.put_if_absent(key, data)

    def stat(self, key: Key) -> StoredObject:
        return self._inner.stat(key)

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

    def now(self) -> datetime | None:
        return self._inner.now()

    def abort_uploads(self, *, older_than: datetime) -> int:
        return self._inner.abort_uploads(older_than=older_than)


def _id_of(key: str) -> str:
    """Return the id that a document's key begins with; empty for an object of another program."""
    found = _ID.match(key.rpartition("/")[2])
    return "" if found is None else found[0]


def _some_time_before(snapshot_id: str) -> str:
    """Return what the ids of runs that were at work beside this one are greater than."""
    try:
        time = datetime.strptime(snapshot_id[:16], _ID_TIME).replace(tzinfo=UTC)
        return (time - _MOST_BESIDE).strftime(_ID_TIME)
    except (ValueError, OverflowError):
        return snapshot_id


def _is_timely(one: StoredObject | ObjectVersions) -> bool:
    """Return whether a document's id is not from a clock that ran ahead of the store's."""
    if one.stored_at is None:
        return True
    # The time of a file can be any.
    latest = (min(one.stored_at, _LAST) + _FUTURE_TOLERANCE).strftime(_ID_TIME)
    return _id_of(one.key)[: len(latest)] <= latest
