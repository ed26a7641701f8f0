"""Following records to everything that they need, for prune.

What a record's chain says is believed of that record alone. A later record of the same repository,
whose chain has this one's bundle, has as a rule the beginning of that chain too, and then only one
of them is read. But its writer may have left bundles out. So before a bundle is deleted, every
record of its repository is read.
"""

from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

from backup.errors import DamagedDocument, ObjectNotFound, UnsupportedFormat
from backup.model import Destination
from backup.stopping import Stop
from backup.vault.documents import Entry, Record
from backup.vault.inventory import Capture, Inventory
from backup.vault.layout import (
    Layout,
    bundles_beside,
    folder_of,
    is_bundle,
    is_key_of_record,
    is_lfs_index,
    is_record,
    record_key,
    segment_of,
    snapshot_of,
)
from backup.vault.manifest import load_record

_READERS = 8


@dataclass(slots=True)
class _Needs:
    """What the records of one repository need.

    Attributes:
        keys: relative ones, those of the records included.
        skipped: records that were not read.
        problems: of the records that cannot be read, by their keys; what these need is not known.
    """

    repository: str
    keys: set[str] = field(default_factory=set)
    skipped: list[int] = field(default_factory=list)
    problems: dict[str, str] = field(default_factory=dict)


class Needed:
    """What must stay in an owner's repositories. Used by one thread.

    Attributes:
        problems: why records cannot be read, by the keys of these. Everything in the folders of
            their repositories stays.
    """

    def __init__(
        self, destination: Destination, layout: Layout, inventory: Inventory, stop: Stop
    ) -> None:
        self._destination = destination
        self._layout = layout
        self._inventory = inventory
        self._stop = stop
        self._keys: set[str] = set()
        self._skipped: dict[str, list[int]] = {}
        self._unknown: set[str] = set()
        self._named: dict[str, set[int]] = {}
        self.problems: dict[str, str] = {}

    def stays(self, key: str) -> bool:
        """Return whether an object of a repository is needed, as far as records were read."""
        if key in self._keys or segment_of(key) in self._unknown:
            return True
        if not is_bundle(key) and record_key(folder_of(key), snapshot_of(key)) in self._keys:
            # Other documents of the record's own capture.
            return True
        # What a pack points to may have been found out by a run that has not said so yet. A record
        # says which objects are in the pack that came with it, as long as a chain has that pack.
        beside = is_record(key) or is_lfs_index(key)
        return beside and not self._keys.isdisjoint(bundles_beside(key))

    def name(self, pairs: Iterable[tuple[int, int]]) -> None:
        """Take up records, by the numbers of repositories and of records."""
        for repository, record in pairs:
            # What has one id lies in folders of one name: a repository, its wiki.
            segment = self._inventory.segments[repository]
            self._named.setdefault(segment, set()).add(record)

    def name_by(self, entries: Iterable[Entry]) -> None:
        """Take up the records that entries name, pinned ones included."""
        for entry in entries:
            number = self._inventory.number_of(entry)
            self.name((number, self._inventory.record_number(pin.record)) for pin in entry.pins)
            if entry.record is not None:
                record = self._inventory.record_number(entry.record, entry.record_version_id)
                self.name([(number, record)])

    def name_stored(self, key: str) -> None:
        """Take up a record that no document names."""
        number = self._inventory.record_number(key)
        self._named.setdefault(segment_of(key), set()).add(number)

    def follow(self) -> None:
        """Mark all that the records need which were taken up since the last time."""
        named, self._named = self._named, {}
        self._take(self._needs_of, named.items())

    def make_sure_of(self, keys: Iterable[str]) -> None:
        """Read what was skipped of every repository of which one of these is to be deleted."""
        doubtful = {segment_of(key) for key in keys if not is_record(key)} & self._skipped.keys()
        skipped = [(one, self._skipped.pop(one)) for one in sorted(doubtful)]
        self._take(self._needs_of_each, skipped)

    def _take(
        self,
        look: Callable[[tuple[str, Collection[int]]], _Needs],
        records: Iterable[tuple[str, Collection[int]]],
    ) -> None:
        with ThreadPoolExecutor(_READERS) as pool:
            try:
                for found in pool.map(look, records):
                    self._keys |= found.keys
                    if found.skipped:
                        self._skipped.setdefault(found.repository, []).extend(found.skipped)
                    for key, problem in found.problems.items():
                        self._unknown.update((found.repository, segment_of(key)))
                        self.problems[key] = problem
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _needs_of(self, records: tuple[str, Collection[int]]) -> _Needs:
        """Find what one repository's records need, the newest first; read as few as possible."""
        needs = _Needs(records[0])
        for number in sorted(records[1], key=self._inventory.order_of, reverse=True):
            key = self._inventory.records[number]
            needs.keys.add(key)
            if needs.keys.isdisjoint(bundles_beside(key)):
                self._read(number, needs)
            else:
                needs.skipped.append(number)
        return needs

    def _needs_of_each(self, records: tuple[str, Collection[int]]) -> _Needs:
        needs = _Needs(records[0])
        for number in records[1]:
            self._read(number, needs)
        return needs

    def _read(self, number: int, needs: _Needs) -> None:
        self._stop.check()
        key = self._inventory.records[number]
        if not is_key_of_record(key):
            needs.problems[key] = f"{key!r} is no record's key"
            return
        # Of several versions, if documents name several, each counts.
        for version in self._inventory.versions_of(number) or (self._first_version(key),):
            try:
                record = load_record(self._destination, self._layout, key, version=version)
            except (DamagedDocument, UnsupportedFormat, ObjectNotFound) as error:
                needs.problems[key] = error.message
                continue
            needs.keys.update(_chain_of(record))

    def _first_version(self, key: str) -> str | None:
        """Find the version that was written of a record that documents name without one: a pin."""
        if not self._inventory.has_versions:
            return None
        whole = self._layout.key(key)
        found = self._destination.versions(folder_of(whole))
        return next((one.first for one in found if one.key == whole), None)


def capture_of(destination: Destination, layout: Layout, key: str) -> Capture | None:
    """Read when a record was captured, and what it goes on from; None where it cannot be read."""
    if not is_key_of_record(key):
        return None
    try:
        record = load_record(destination, layout, key)
    except (DamagedDocument, UnsupportedFormat, ObjectNotFound):
        return None
    return Capture(record.captured_at, record.previous)


def _chain_of(record: Record) -> set[str]:
    found = {str(line.key) for line in record.chain}
    found |= {key for line in record.chain for key in line.documents}
    if record.metadata is not None:
        found.add(record.metadata.key)
    return found
