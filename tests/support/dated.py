"""A store that keeps time, as buckets do, whose times a test can set."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import datetime, timedelta
from typing import TypeVar

from backup.model import Destination, Key, ObjectVersions, StoredObject
from backup.vault.layout import SNAPSHOT_ID, snapshot_time
from tests.support.faults import DestinationFault, FaultyDestination

T = TypeVar("T", StoredObject, ObjectVersions)


class DatedDestination(FaultyDestination):
    """Says of each object that it was stored when the snapshot id in its key says, or was told.

    So a vault has been filled over months, though the test took a second.

    Attributes:
        times: when objects were stored of which that is not true.
    """

    def __init__(self, inner: Destination, *faults: DestinationFault) -> None:
        super().__init__(inner, *faults)
        self.times: dict[Key, datetime] = {}

    @property
    def keeps_time(self) -> bool:
        return True

    def stat(self, key: Key) -> StoredObject:
        return self._dated(super().stat(key))

    def list(self, prefix: str, *, versions: bool = False) -> Iterator[StoredObject]:
        return map(self._dated, super().list(prefix, versions=versions))

    def versions(self, prefix: str) -> Iterator[ObjectVersions]:
        return map(self._dated, super().versions(prefix))

    def _dated(self, stored: T) -> T:
        found = SNAPSHOT_ID.search(stored.key)
        at = self.times.get(stored.key)
        if at is None and found is not None:
            at = snapshot_time(found[0]) + timedelta(minutes=1)
        return replace(stored, stored_at=at or stored.stored_at)
