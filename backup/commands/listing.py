"""What a vault holds: its snapshots and repositories, or one repository's history."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime

from backup.commands.drills import load_drill_state
from backup.commands.finding import (
    Found,
    Snapshot,
    entries_of,
    find_repository,
    newest_drills,
    records_back,
    require_roots,
    snapshots,
    state_of_vault,
    unfinished_note,
)
from backup.commands.forget import forgotten_row
from backup.commands.hidden import hidden_notes
from backup.commands.known_damage import standing, with_known_damage
from backup.commands.lost_index import lost_index
from backup.errors import ExitCode, IntegrityError, ManifestDamaged
from backup.model import Destination, ObjectId, RefChange
from backup.order import in_order
from backup.results import (
    SEE_HOW_TO_REPAIR,
    DamagedSnapshotRow,
    DamageNote,
    DrillNote,
    ForgottenRow,
    History,
    HistoryItem,
    RepositoryRow,
    SnapshotRow,
    VaultListing,
)
from backup.vault.documents import Entry, Record
from backup.vault.layout import DocumentName, Layout
from backup.vault.manifest import Identity, State
from backup.vault.originals import OriginalsDestination


def list_vault(destination: Destination) -> VaultListing:
    """List every run of every owner, the newest last, and how it stands with every repository.

    A snapshot that cannot be read is named, and hides no other. Of an owner whose newest state
    depends on it no repository is listed.

    Requests: one for each manifest, and for the last drills until each repository has one.

    Raises:
        ConfigError: the destination holds no vault.
        IndexMissing: an owner's repositories are there, and no manifest.
    """
    now = datetime.now(UTC)
    originals = OriginalsDestination(destination)
    destination = originals
    layouts = require_roots(destination)
    everything: list[Snapshot] = []
    repositories: list[RepositoryRow] = []
    forgotten: list[ForgottenRow] = []
    notes: list[str] = []
    damaged: list[DamagedSnapshotRow] = []
    for layout in layouts:
        unreadable: list[tuple[DocumentName, IntegrityError]] = []
        there = snapshots(destination, layout, unreadable=unreadable)
        everything += there
        try:
            state = state_of_vault(destination, layout, now=now)
        except ManifestDamaged as error:
            # What can be gone back to is shown; what its repositories are now is not known.
            damaged += _damaged_rows(layout, there, unreadable, deciding=error)
            notes += hidden_notes(originals, layout)
            continue
        damaged += _damaged_rows(layout, there, unreadable)
        if (lost := lost_index(destination, layout, state)) is not None:
            raise lost.error
        notes += hidden_notes(originals, layout)
        notes += filter(None, [unfinished_note(layout, state)])
        forgotten += [forgotten_row(layout, line) for line in state.forgotten]
        found = entries_of(layout, _with_damage(destination, layout, state, now=now))
        drills = _last_drills(destination, layout, {one.entry.identity for one in found})
        repositories += [_repository_row(destination, one, drills) for one in found]
    return VaultListing(
        tuple(map(_snapshot_row, in_order(everything, lambda one: one.place))),
        tuple(sorted(repositories, key=lambda row: (row.host, row.owner, row.path, row.host_id))),
        tuple(forgotten),
        notes=tuple(notes),
        damaged=tuple(damaged),
        exit_code=ExitCode.DAMAGED if damaged else ExitCode.DONE,
    )


def _damaged_rows(
    layout: Layout,
    readable: Sequence[Snapshot],
    unreadable: Sequence[tuple[DocumentName, IntegrityError]],
    *,
    deciding: ManifestDamaged | None = None,
) -> Iterator[DamagedSnapshotRow]:
    """Name the snapshots that cannot be read, the newest last.

    Args:
        layout: the owner's root.
        readable: the owner's other snapshots.
        unreadable: those of which not even the head can be read, and why.
        deciding: what is wrong with the one that the newest state depends on.
    """
    host, owner = layout.prefix.rstrip("/").split("/")
    if readable:
        source = readable[-1].header.source
        host, owner = source.host, source.owner
    errors = dict(unreadable)
    if deciding is not None:
        # It may be one of which the head alone can be read.
        name = layout.parse_document(layout.document_of(deciding.stem))
        errors |= {} if name is None else {name: deciding}
    for name in sorted(errors, key=lambda one: (one.time, one.stem)):
        yield DamagedSnapshotRow(
            id=name.snapshot_id,
            host=host,
            owner=owner,
            shard=_shard(name),
            problem=errors[name].message,
            hint=errors[name].hint or SEE_HOW_TO_REPAIR,
            counts=errors[name] is deciding,
        )


def _shard(name: DocumentName) -> str | None:
    return None if name.shard is None else "{}/{}".format(*name.shard)


def _snapshot_row(one: Snapshot) -> SnapshotRow:
    return SnapshotRow(
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
        shard=_shard(one.name),
        misdated=one.is_misdated,
    )


def list_history(destination: Destination, repository: str) -> History:
    """List the captures of one repository, the newest last.

    Raises:
        ConfigError: no repository is meant, or several are.
    """
    now = datetime.now(UTC)
    originals = OriginalsDestination(destination)
    destination = originals
    everything, notes = [], list[str]()
    for layout in require_roots(destination):
        state = state_of_vault(destination, layout, now=now)
        if (lost := lost_index(destination, layout, state)) is not None:
            raise lost.error
        everything += entries_of(layout, state)
        notes += hidden_notes(originals, layout)
        notes += filter(None, [unfinished_note(layout, state)])
    found = find_repository(everything, repository)
    drills = _last_drills(destination, found.layout, {found.entry.identity})
    items = _items(destination, found)
    known = with_known_damage(
        destination,
        found.layout,
        {found.entry.identity: found.entry},
        load_drill_state(destination, found.layout, now=now),
    )
    found = replace(found, entry=known[found.entry.identity])
    row = _repository_row(destination, found, drills)
    return History(row, tuple(reversed(items)), notes=tuple(notes))


def _with_damage(destination: Destination, layout: Layout, state: State, *, now: datetime) -> State:
    drills = load_drill_state(destination, layout, now=now)
    return replace(state, entries=with_known_damage(destination, layout, state.entries, drills))


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
    if standing(entry).open:
        return "damaged"
    return "renamed" if entry.aliases else "ok"


def _repository_row(
    destination: Destination, found: Found, drills: Mapping[Identity, DrillNote]
) -> RepositoryRow:
    entry = found.entry
    state = state_of(entry)
    since, reason = None, ""
    if entry.absence is not None:
        since, reason = entry.absence.since, entry.absence.detail
    elif state == "blocked":
        reason = entry.skipped_why or ""
    elif state == "stale":
        since, reason = entry.failing_since, entry.reason
    elif state == "unfinished":
        reason = "; ".join((*entry.unfinished, *entry.degraded))
    return RepositoryRow(
        host=found.host,
        owner=found.owner,
        path=entry.path,
        host_id=entry.host_id,
        kind=entry.kind,
        state=state,
        since=since,
        reason=reason,
        renamed_from=entry.aliases[-1] if entry.aliases else "",
        checked_at=entry.checked_at,
        captured_at=entry.captured_at,
        bundles=entry.chain_length,
        size_bytes=entry.chain_bytes,
        drill=drills.get(entry.identity),
        refs_not_selected=entry.refs_not_selected,
        damaged=tuple(
            DamageNote(
                destination.uri(found.layout.key(one.key)), one.problem, one.found_at, one.accepted
            )
            for one in entry.damaged
            if one.repaired_at is None
        ),
    )


def _last_drills(
    destination: Destination, layout: Layout, wanted: Iterable[Identity]
) -> dict[Identity, DrillNote]:
    """Look for repositories in the last drills."""
    left, found = set(wanted), dict[Identity, DrillNote]()
    for drill in newest_drills(destination, layout):
        for line in drill.checked:
            identity = line.kind, line.host_id
            # What could not be read was not proved: the time before counts.
            if identity in left and not (line.ok and line.not_readable):
                found[identity] = DrillNote(drill.depth, drill.finished_at, line.ok)
                left.discard(identity)
        if not left:
            break
    return found


def _items(destination: Destination, found: Found) -> list[HistoryItem]:
    """Follow the records back from the newest."""
    return [_item(destination, found, record) for record in records_back(destination, found)]


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
        refs_not_selected=record.refs_not_selected,
    )


def _id(text: str | None) -> ObjectId | None:
    return None if text is None else ObjectId(text)
