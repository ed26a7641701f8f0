"""What was lost upstream and is still stored: refs that were deleted or rewritten.

Each record says what became of the refs of the one before it. So the history of a repository tells
what was lost, and the record that still had it tells how to get it back.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import islice

from backup.commands.finding import Found, records_back
from backup.commands.rebuilding import record_of
from backup.errors import ObjectNotFound
from backup.model import ChangeKind, Destination, ObjectId, RefName
from backup.results import LostRef
from backup.vault.documents import Record
from backup.vault.layout import snapshot_of

DELETED: frozenset[ChangeKind] = frozenset({"deleted"})
# A move that was not proved to be an advance may have dropped commits just as well.
REWRITTEN: frozenset[ChangeKind] = frozenset({"rewritten", "moved"})


@dataclass(frozen=True, slots=True)
class Losses:
    """What a repository lost.

    Attributes:
        refs: the newest loss first.
        holders: the records that still had them, by snapshot id.
    """

    refs: tuple[LostRef, ...]
    holders: dict[str, Record]

    def by_holder(self) -> Iterator[tuple[Record, dict[RefName, ObjectId]]]:
        """Yield each record with the refs to take from it, under names that nobody else has."""
        for snapshot_id, holder in self.holders.items():
            yield (
                holder,
                {
                    lost_name(one): one.id
                    for one in self.refs
                    if one.id is not None and one.snapshot_id == snapshot_id
                },
            )


def find_losses(destination: Destination, found: Found, kinds: Collection[ChangeKind]) -> Losses:
    """Follow a repository's history back to where it begins; one request for each capture.

    What a later push brought back is not lost.

    Raises:
        IntegrityError: the newest record is missing or damaged.
    """
    if found.entry.record is None:
        raise ObjectNotFound(f"{found.name} has no backup")
    newest = record_of(
        destination,
        found.layout,
        found.entry.record,
        version=found.entry.record_version_id,
        identity=found.entry.identity,
        name=found.name,
    )
    today = set(newest.tips().values())
    losses: dict[tuple[RefName, ObjectId], LostRef] = {}
    holders: dict[str, Record] = {}
    for record, before in _steps(destination, found, newest):
        had = before.tips()
        for name, change, old in _changes(record, before):
            if change not in kinds or old in today or had.get(name) != old:
                continue
            if (name, old) not in losses:
                losses[name, old] = LostRef(
                    repository=found.name,
                    ref=name,
                    change=change,
                    id=old,
                    snapshot_id=before.snapshot_id,
                    had_at=before.captured_at,
                    lost_at=record.captured_at,
                )
                holders[before.snapshot_id] = before
    return Losses(tuple(losses.values()), holders)


def gone(found: Found) -> LostRef | None:
    """Tell that all of a repository is not listed any more; None when it is."""
    entry = found.entry
    if entry.absence is None or entry.record is None or entry.captured_at is None:
        return None
    return LostRef(
        repository=found.name,
        ref=None,
        change="deleted",
        id=None,
        snapshot_id=entry.record.rpartition("/")[2].partition(".")[0],
        had_at=entry.checked_at or entry.captured_at,
        lost_at=entry.absence.since,
    )


def lost_name(lost: LostRef) -> RefName:
    """Name a lost ref so that it stands beside today's and beside others of its name."""
    return RefName(f"refs/lost/{lost.snapshot_id}/{(lost.ref or '').removeprefix('refs/')}")


def _steps(
    destination: Destination, found: Found, newest: Record
) -> Iterator[tuple[Record, Record]]:
    """Yield each record with the one before it, the newest first."""
    record = newest
    for before in islice(records_back(destination, found), 1, None):
        yield record, before
        record = before


def _changes(record: Record, before: Record) -> Iterator[tuple[RefName, ChangeKind, ObjectId]]:
    """Yield what happened to the refs of the record before, each with what it was."""
    if record.previous is not None and snapshot_of(record.previous) == before.snapshot_id:
        for line in record.changes:
            if line.old is not None:
                yield line.ref_name, line.change, ObjectId(line.old)
        return
    # What was in between was pruned, and with it what was proved.
    now = record.tips()
    for name, old in before.tips().items():
        if name not in now:
            yield name, "deleted", old
        elif now[name] != old:
            yield name, "moved", old
