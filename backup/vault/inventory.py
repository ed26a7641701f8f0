"""What the manifests and checkpoints of an owner name, all of them together, in little memory.

Every repository and every record has a number here, and a document is a row of numbers: of the
record that it names for each repository. So hundreds of documents of ten thousand repositories can
be compared with each other.

A document covers another when nothing is lost with the other: it names the same record for each of
its repositories, or one that was captured later. What a document claims is its writer's word; what
counts of it is therefore compared with what is stored.

That it has merged another document is such a claim, too. It says which of the two is later
(`backup.order`), and that the other one does not cover it; never that it covers the other one.
"""

from array import array
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from sys import intern
from typing import Literal

from backup.model import Destination, StoredObject
from backup.order import Place, in_order
from backup.vault.clocks import MOST_APART
from backup.vault.documents import Entry, ForgottenLine, Header
from backup.vault.documents_of_exports import ExportLine
from backup.vault.layout import (
    DocumentName,
    Layout,
    escape_segment,
    segment_of,
    snapshot_of,
    snapshot_time,
)
from backup.vault.manifest import Identity, Stored, load_contents, unknown_to

_NUMBERS: Literal["I"] = "I"
_BYTES = array(_NUMBERS).itemsize
# Rows are compared so many bytes at once, and number by number only where these differ.
_COMPARED_AT_ONCE = 256 * _BYTES
# Documents that someone put between honest ones make lines of their own.
_LINES_TRIED = 4
# From one record to those that it goes on from, which began within the same minutes.
_MOST_STEPS_BACK = 50
_STAMP_LENGTH = len("20260101T000000Z")


def stamp(moment: datetime) -> str:
    """Return a time as snapshot ids begin with it; these compare as text."""
    moment = moment.astimezone(UTC)
    # Not every system's strftime writes four digits of an early year.
    return f"{moment.year:04}{moment:%m%dT%H%M%SZ}"


def stamp_of(snapshot_id: str) -> str:
    """Return the time that a snapshot id begins with, as text."""
    return snapshot_id[:_STAMP_LENGTH]


@dataclass(frozen=True, slots=True)
class Capture:
    """What a record says of when it was made.

    Attributes:
        previous: key of the record that it goes on from.
    """

    captured_at: datetime
    previous: str | None = None


@dataclass(frozen=True, slots=True)
class Row:
    """What one document names, or all shards of one run together.

    Attributes:
        stems: of all these documents.
        header: of the document.
        stored_at: when the store says that it was written; None where no store does.
        merged: stems of the documents that it merged.
        dropped: numbers of repositories that were forgotten without its knowledge.
        records: for the repository of each number the number of its record, 0 where none is named.
        pins: numbers of repositories and of records that must outlive retention.
        exports: the same of exports that were whole; empty where none is named.
    """

    name: DocumentName
    stems: tuple[str, ...]
    header: Header
    stored_at: datetime | None
    merged: tuple[str, ...]
    dropped: frozenset[int]
    records: bytes
    pins: frozenset[tuple[int, int]]
    exports: bytes = b""

    def named(self) -> Iterator[tuple[int, int]]:
        """Yield the numbers of repositories and of their records, pinned ones included."""
        for number, record in enumerate(array(_NUMBERS, self.records)):
            if record:
                yield number, record
        yield from self.pins

    def named_and_known(self) -> Iterator[tuple[int, int]]:
        """Yield the same without what was forgotten."""
        return (pair for pair in self.named() if pair[0] not in self.dropped)

    def named_exports(self) -> Iterator[tuple[int, int]]:
        """Yield the numbers of repositories that were not forgotten, and of their exports."""
        for number, export in enumerate(array(_NUMBERS, self.exports)):
            if export and number not in self.dropped:
                yield number, export

    @property
    def place(self) -> Place:
        """What its place in the order depends on."""
        return Place(self.stems, self.merged, self.header.finished_at)

    @property
    def off_by(self) -> timedelta:
        """How far the store's time is from a document's own; nothing where no store keeps time."""
        if self.stored_at is None:
            return timedelta(0)
        return abs(self.stored_at - self.header.finished_at)


class Inventory:
    """The documents of one owner. Used by one thread.

    Args:
        destination: where the vault lies.
        layout: the owner's root.
        forgotten: what documents say of these does not count, unless they knew that they were.
        capture_of: reads when a record was made; None where it cannot be read.

    Attributes:
        identities: of each repository, by its number.
        paths: of each, where it was last.
        segments: of each, the last one of its folders.
        public: numbers of those that a document calls public.
        records: keys, by number; number 0 is that of no record. Where documents name several
            versions of a record, each has a number of its own: who names another version than the
            one that was written has not the same record.
        exports: that were whole, by number; number 0 is that of none.
    """

    def __init__(
        self,
        destination: Destination,
        layout: Layout,
        *,
        forgotten: Collection[ForgottenLine],
        capture_of: Callable[[str], Capture | None],
    ) -> None:
        self._destination = destination
        self._layout = layout
        self._forgotten = forgotten
        self._capture_of = capture_of
        self._numbers: dict[Identity, int] = {}
        self.identities: list[Identity] = []
        self.paths: list[str] = []
        self.public: set[int] = set()
        self.segments: list[str] = []
        self._record_numbers: dict[str, int] = {}
        self.records: list[str] = [""]
        # Interned, since there are few times, and few folders, of many records.
        self._stamps: list[str] = [""]
        self._folders: list[str] = [""]
        self._stored = bytearray(1)
        self._versions: list[str | None] = [None]
        self._others: dict[str, dict[str | None, int]] = {}
        self._known_captures: dict[str, Capture | None] = {}
        self._export_numbers: dict[ExportLine, int] = {}
        self.exports: list[ExportLine | None] = [None]

    # --- Reading ---

    def read(self, name: DocumentName, stored: StoredObject | None) -> Row:
        """Read a manifest or checkpoint.

        Raises:
            ObjectNotFound: it is not there.
            DamagedDocument: it is not what was written.
        """
        document = load_contents(self._destination, self._layout, name)
        numbers: dict[int, int] = {}
        exports: dict[int, int] = {}
        pins: set[tuple[int, int]] = set()
        for entry in document.entries:
            number = self.number_of(entry)
            pins.update((number, self.record_number(pin.record)) for pin in entry.pins)
            if entry.record is not None:
                numbers[number] = self.record_number(entry.record, entry.record_version_id)
            if entry.export is not None and entry.export.stored_at is not None:
                exports[number] = self._export_number(entry.export)
        dropped = unknown_to(document.forgotten, self._forgotten)
        return Row(
            name=name,
            stems=(name.stem,),
            header=document.model_copy(update={"entries": (), "forgotten": (), "merged": ()}),
            stored_at=stored.stored_at if stored and self._destination.keeps_time else None,
            # Interned, since many documents have merged the same ones.
            merged=tuple(map(intern, document.merged)),
            dropped=frozenset(self._numbers[one] for one in dropped if one in self._numbers),
            records=self._row(numbers),
            pins=frozenset(pins),
            exports=self._row(exports) if exports else b"",
        )

    def _export_number(self, line: ExportLine) -> int:
        number = self._export_numbers.setdefault(line, len(self.exports))
        if number == len(self.exports):
            self.exports.append(line)
        return number

    def number_of(self, entry: Entry | Stored) -> int:
        """Return the number of a repository; of its path the one that was read last."""
        number = self._numbers.get(entry.identity)
        if number is None:
            number = self._numbers[entry.identity] = len(self.identities)
            self.identities.append(entry.identity)
            self.paths.append(entry.path)
            self.segments.append(intern(escape_segment(entry.host_id)))
        self.paths[number] = entry.path
        if not entry.private:
            self.public.add(number)
        return number

    def record_number(self, key: str, version: str | None = None) -> int:
        """Return the number of a record in the version that a document names, if any."""
        number = self._record_numbers.get(key)
        if number is None:
            number = self._record_numbers[key] = self._new_number(key, version)
        if self._versions[number] == version:
            return number
        others = self._others.setdefault(key, {})
        if version not in others:
            others[version] = self._new_number(key, version)
        return others[version]

    def _new_number(self, key: str, version: str | None) -> int:
        self.records.append(key)
        self._stamps.append(intern(stamp_of(snapshot_of(key))))
        self._folders.append(intern(segment_of(key)))
        self._stored.append(False)
        self._versions.append(version)
        return len(self.records) - 1

    def _numbers_of(self, key: str) -> Iterator[int]:
        if key in self._record_numbers:
            yield self._record_numbers[key]
            yield from self._others.get(key, {}).values()

    def order_of(self, record: int) -> str:
        """Return what records of one repository are sorted by, the oldest first."""
        return snapshot_of(self.records[record])

    @property
    def has_versions(self) -> bool:
        """Whether documents name versions, since the store keeps them."""
        return any(version is not None for version in self._versions)

    def versions_of(self, record: int) -> Collection[str]:
        """Return every version that any document names of a record.

        All of them are read: a writer could name another one than the one that was written.
        """
        named = (self._versions[number] for number in self._numbers_of(self.records[record]))
        return {version for version in named if version is not None}

    def _row(self, numbers: Mapping[int, int]) -> bytes:
        row = array(_NUMBERS, bytes(_BYTES * len(self.identities)))
        for number, record in numbers.items():
            row[number] = record
        return row.tobytes()

    def note_stored(self, keys: Iterable[str]) -> None:
        """Note which records exist.

        When a record was stored does not matter: what names it counts only at its own time.

        Args:
            keys: of a listing, relative to the root.
        """
        for relative in keys:
            for number in self._numbers_of(relative):
                self._stored[number] = True

    # --- Comparing ---

    def covers(self, row: Row, other: Row, *, by_names: bool = False) -> bool:
        """Return whether nothing that the other row names is lost as long as this one is there.

        Args:
            row: the one that is there.
            other: the one that may go.
            by_names: let no record be read to find out which of two is later.
        """
        if not other.pins <= row.pins:
            return False
        newly_dropped = row.dropped - other.dropped
        if newly_dropped and not newly_dropped.isdisjoint(n for n, _ in other.named()):
            return False
        moment, other_moment = stamp(row.header.finished_at), stamp(other.header.finished_at)
        until = stamp(_some_time_after(other.header.finished_at))
        has_merged_this = not set(row.stems).isdisjoint(other.merged)
        for start in range(0, len(other.records), _COMPARED_AT_ONCE):
            end = start + _COMPARED_AT_ONCE
            mine, theirs = row.records[start:end], other.records[start:end]
            if mine == theirs:
                continue
            # A row is as long as there were repositories when it was read.
            mine += bytes(max(0, len(theirs) - len(mine)))
            pairs = zip(array(_NUMBERS, mine), array(_NUMBERS, theirs), strict=False)
            for number, (record, known) in enumerate(pairs, start // _BYTES):
                if record == known or not known or number in other.dropped:
                    continue
                # One that has merged this one and has another record all the same has a later one.
                if has_merged_this or not self._is_good(record, number, moment):
                    return False
                # What the other one names from after its own end is not older for that.
                if self._stamps[record] > until and self._stamps[known] <= other_moment:
                    continue
                if by_names or not self._is_later(record, known):
                    return False
        return True

    def _is_good(self, record: int, repository: int, moment: str) -> bool:
        """Return whether a record is stored, and one of a repository, made by a certain moment."""
        is_there = self._stored[record] and self._stamps[record] <= moment
        return bool(is_there) and self._folders[record] == self.segments[repository]

    def _is_later(self, record: int, other: int) -> bool:
        """Ask two records which was captured later: where one goes on from the other, that one.

        Two runs were under way at once, their clocks differ, or a document names an old record.
        """
        first, second = self.records[other], self.records[record]
        before, after = self._read(first), self._read(second)
        if before is None or after is None or self._goes_on_from(first, second):
            return False
        return self._goes_on_from(second, first) or before.captured_at < after.captured_at

    def _goes_on_from(self, key: str, earlier: str) -> bool:
        """Return whether a record goes on from an earlier one, directly or over some others.

        None is looked for behind one that is so much older that the clocks alone tell them apart.
        """
        until = stamp(_some_time_after(snapshot_time(snapshot_of(earlier)), -1))
        for _ in range(_MOST_STEPS_BACK):
            capture = self._read(key)
            if capture is None or capture.previous is None:
                return False
            key = capture.previous
            if key == earlier:
                return True
            if stamp_of(snapshot_of(key)) < until:
                return False
        return False

    def _read(self, key: str) -> Capture | None:
        if key not in self._known_captures:
            self._known_captures[key] = self._capture_of(key)
        return self._known_captures[key]

    def together(self, rows: Iterable[Row]) -> Row:
        """Return the shards of one run as one row; of two records the one with the later key."""
        first, *others = rows
        if not others:
            return first
        numbers: dict[int, int] = {}
        for row in (first, *others):
            for number, record in enumerate(array(_NUMBERS, row.records)):
                if record and self._stamps[record] >= self._stamps[numbers.get(number, 0)]:
                    numbers[number] = record
        last = max((first, *others), key=lambda row: row.header.finished_at)
        return Row(
            name=last.name,
            stems=tuple(stem for row in (first, *others) for stem in row.stems),
            header=last.header,
            stored_at=max((r.stored_at for r in (first, *others) if r.stored_at), default=None),
            merged=tuple(stem for row in (first, *others) for stem in row.merged),
            dropped=frozenset[int]().union(*(row.dropped for row in (first, *others))),
            records=self._row(numbers),
            pins=frozenset[tuple[int, int]]().union(*(row.pins for row in (first, *others))),
        )


@dataclass(slots=True)
class _Line:
    """Rows of which each covers all before it.

    That follows from its covering the last one, as long as none ended before an earlier one, or was
    merged by one: what is later than a row must be later than all before it, and whatever a row
    names must be from before its own end.

    Attributes:
        end: the last one.
        merged: what any of them has merged.
    """

    end: Row
    merged: set[str]

    def takes(self, row: Row, inventory: Inventory) -> bool:
        """Return whether a row that is later in the order covers the whole line."""
        return (
            row.header.finished_at >= self.end.header.finished_at
            and self.merged.isdisjoint(row.stems)
            and inventory.covers(row, self.end, by_names=True)
        )

    def add(self, row: Row) -> None:
        self.end = row
        self.merged.update(row.merged)


class Coverage:
    """Which of many rows cover which; honest ones are compared with their neighbours alone.

    Args:
        inventory: that they are of.
        rows: in any order.
    """

    def __init__(self, inventory: Inventory, rows: Iterable[Row]) -> None:
        self._inventory = inventory
        self._places: dict[DocumentName, tuple[int, int]] = {}
        lines: list[_Line] = []
        for place, row in enumerate(in_order(rows, lambda row: row.place)):
            numbers = range(len(lines))[-_LINES_TRIED:]
            number = next((n for n in numbers if lines[n].takes(row, inventory)), len(lines))
            if number == len(lines):
                lines.append(_Line(row, set(row.merged)))
            else:
                lines[number].add(row)
            self._places[row.name] = number, place

    def covers(self, row: Row, other: Row) -> bool:
        """Return whether nothing that the other row names is lost as long as this one is there."""
        line, place = self._places[row.name]
        other_line, other_place = self._places[other.name]
        if line == other_line and place > other_place:
            return True
        return self._inventory.covers(row, other)


def _some_time_after(moment: datetime, sign: int = 1) -> datetime:
    """Return what is certainly later than a moment, by clocks of which each may be wrong."""
    try:
        return moment + sign * MOST_APART
    except OverflowError:
        return moment
