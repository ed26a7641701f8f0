"""Object Lock over time: what a snapshot names stays locked as long as snapshots are taken.

What is written is locked by the store for so many days. An unchanged repository's base would some
day be locked no more, while it is as needed as ever. So each run renews the locks of whatever has
less than half of that time left; entries know how long that is, and nobody has to be asked.
"""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta

from backup.commands.stored_files import promised_files
from backup.errors import BackupError, DestinationError, SessionExpired
from backup.model import Destination, Key
from backup.stopping import Stop
from backup.vault.documents import Entry
from backup.vault.layout import Layout, bundle_key, folder_of, lfs_key, snapshot_of
from backup.vault.manifest import load_record

_AT_ONCE = 8


class Locks:
    """Renews the locks of one owner's repositories.

    Attributes:
        renewed: repositories whose locks were.
        problems: what could not be locked, and so may be deleted some day.
    """

    def __init__(self, destination: Destination, layout: Layout, *, days: int) -> None:
        self._destination = destination
        self._layout = layout
        self._days = days
        self.renewed = 0
        self.problems: list[str] = []

    def renew(self, entries: Sequence[Entry], *, now: datetime, stop: Stop) -> Sequence[Entry]:
        """Give the entries back, with the new times where locks were renewed."""

        def look(entry: Entry) -> Entry:
            if not self._is_due(entry, now) or not stop.may_begin:
                return entry
            try:
                return self._renew(entry)
            except SessionExpired as error:
                stop.abandon(error)
                return entry
            except BackupError as error:
                self.problems.append(f"{entry.path}: its lock was not renewed: {error.message}")
                return entry

        with ThreadPoolExecutor(_AT_ONCE) as pool:
            found = list(pool.map(look, entries))
        before = (entry.locked_until for entry in entries)
        after = (entry.locked_until for entry in found)
        self.renewed = sum(old != new for old, new in zip(before, after, strict=True))
        return found

    def prove(self, entries: Sequence[Entry], *, snapshot_id: str) -> None:
        """See that the store locked what a run wrote: its largest bundle, and that one's record.

        No answer to a put says it, and a store may take the words and do nothing. What cannot be
        seen is a problem, too, and keeps nothing from being published.
        """
        written = [
            entry
            for entry in entries
            if entry.record is not None and snapshot_of(entry.record) == snapshot_id
        ]
        if not written:
            return
        entry = max(written, key=lambda one: one.bytes)
        keys = [Key(entry.record or "")]
        if entry.plan is not None:
            keys.append(bundle_key(folder_of(keys[0]), snapshot_id, entry.plan))
        names = [self._layout.key(key) for key in keys]
        try:
            locked = self._destination.locked_until(names)
        except DestinationError as error:
            self.problems.append(
                f"it could not be seen whether the store locks what is written: {error.message}"
            )
            return
        for name in names:
            if name not in locked:
                self.problems.append(
                    f"{self._destination.uri(name)} is not locked, though that was asked for: the "
                    "store does not do it, or the role lacks s3:GetObjectRetention, which shows it"
                )

    def _is_due(self, entry: Entry, now: datetime) -> bool:
        if entry.record is None:
            return False
        if entry.locked_until is None:
            return True
        # Repositories first captured together must not all become due in one night.
        number = int.from_bytes(hashlib.sha256(entry.host_id.encode()).digest()[:4], "big")
        share = 0.5 + 0.25 * (number / 0xFFFFFFFF)
        return entry.locked_until - now < timedelta(days=self._days * share)

    def _renew(self, entry: Entry) -> Entry:
        """Lock the record, all bundles of its chain, and what else belongs to it."""
        key, version = entry.record or "", entry.record_version_id
        record = load_record(self._destination, self._layout, key, version=version)
        objects = [(key, version)]
        for line in record.chain:
            objects.append((line.key, line.version_id))
            objects += [(key, None) for key in line.documents]
        files = promised_files(self._destination, self._layout, record)
        objects += [(lfs_key(oid), None) for oid in files]
        if record.metadata is not None:
            objects.append((record.metadata.key, record.metadata.version_id))
        times = [
            self._destination.renew_lock(self._layout.key(relative), version=each)
            for relative, each in objects
        ]
        until = min((time for time in times if time is not None), default=None)
        return entry if until is None else entry.model_copy(update={"locked_until": until})
