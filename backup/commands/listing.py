"""What a vault holds: its snapshots, or one repository's history."""

from collections.abc import Collection
from contextlib import suppress
from datetime import UTC, datetime

from backup.commands.finding import Found, entries_at, find_repository, require_roots, snapshots
from backup.errors import DestinationError, IntegrityError, ObjectNotFound
from backup.model import Destination, ObjectId, RefChange
from backup.results import DrillNote, History, HistoryItem, SnapshotRow
from backup.vault.documents import Drill, Entry, Record
from backup.vault.layout import Layout
from backup.vault.manifest import load, load_record

# A twentieth of the repositories each night, and some nights that failed.
_MOST_DRILLS = 40


def list_snapshots(destination: Destination) -> tuple[SnapshotRow, ...]:
    """List every run of every owner, the newest last.

    Raises:
        ConfigError: the destination holds no vault.
    """
    rows = [
        SnapshotRow(
            id=one.header.snapshot_id,
            host=one.header.source.host,
            owner=one.header.source.owner,
            started_at=one.header.started_at,
            finished_at=one.header.finished_at,
            complete=one.header.complete,
            result=one.header.result,
            repositories=one.header.totals.selected,
            captured=one.header.totals.captured,
            unchanged=one.header.totals.unchanged,
            failed=one.header.totals.failed,
            bytes_uploaded=one.header.totals.bytes_uploaded,
            shard=None if one.name.shard is None else "{}/{}".format(*one.name.shard),
        )
        for layout in require_roots(destination)
        for one in snapshots(destination, layout)
    ]
    return tuple(sorted(rows, key=lambda row: (row.finished_at, row.id, row.owner)))


def list_history(destination: Destination, repository: str) -> History:
    """List the captures of one repository, the newest last.

    Raises:
        ConfigError: no repository is meant, or several are.
    """
    now = datetime.now(UTC)
    found = find_repository(
        (
            found
            for layout in require_roots(destination)
            for found in entries_at(destination, layout, None, now=now)
        ),
        repository,
    )
    entry = found.entry
    keys, items = _items(destination, found)
    return History(
        host=found.host,
        owner=found.owner,
        path=entry.path,
        host_id=entry.host_id,
        kind=entry.kind,
        state=state_of(entry),
        checked_at=entry.checked_at,
        items=tuple(reversed(items)),
        drill=_last_drill(destination, found.layout, host_id=entry.host_id, records=keys),
    )


def state_of(entry: Entry) -> str:
    """Say in one word how it stands with a repository."""
    if entry.absence is not None:
        return "not-listed" if entry.absence.answer == "not-visible" else entry.absence.answer
    if entry.skipped_why is not None:
        return "blocked"
    if entry.failing_since is not None or entry.record is None:
        return "stale"
    if entry.unfinished or entry.degraded:
        return "unfinished"
    return "renamed" if entry.aliases else "ok"


def _last_drill(
    destination: Destination, layout: Layout, *, host_id: str, records: Collection[str]
) -> DrillNote | None:
    """Look for a repository in the last drills; one that cannot be read is passed over."""
    keys = [stored.key for stored in destination.list(layout.folder("drills"))]
    for key in reversed(keys[-_MOST_DRILLS:]):
        with suppress(DestinationError, IntegrityError):
            drill = load(destination, key, Drill)
            for line in drill.checked:
                # A wiki has the id of its repository, and records of its own.
                if line.host_id == host_id and line.record in records:
                    return DrillNote(drill.depth, drill.finished_at, line.ok)
    return None


def _items(destination: Destination, found: Found) -> tuple[list[str], list[HistoryItem]]:
    """Follow the records back from the newest; give their keys too."""
    items: list[HistoryItem] = []
    keys: list[str] = []
    key = found.entry.record
    while key is not None:
        try:
            record = load_record(destination, found.layout, key)
        except ObjectNotFound:
            # Pruned: the history begins after it. The newest must be there.
            if not items:
                raise
            break
        items.append(_item(destination, found, record))
        keys.append(key)
        key = record.previous
    return keys, items


def _item(destination: Destination, found: Found, record: Record) -> HistoryItem:
    return HistoryItem(
        snapshot=record.snapshot_id,
        captured_at=record.captured_at,
        head=record.head.symref_name or record.head.id,
        refs=record.tips(),
        chain=tuple(destination.uri(found.layout.key(line.key)) for line in record.chain),
        changes=tuple(
            RefChange(line.ref_name, line.change, _id(line.old), _id(line.new))
            for line in record.changes
        ),
    )


def _id(text: str | None) -> ObjectId | None:
    return None if text is None else ObjectId(text)
