"""Deleting what retention no longer keeps: snapshots, and the objects that nothing needs any more.

First it is decided which snapshots stay (`backup.retention`). Then everything is marked that must
stay for them, and for runs that may still be under way; what is not marked and old enough goes.
Manifests go first and bundles last, so that wherever it is cut off no snapshot is left that lacks
something, and the next prune finds the rest.

A run may lean on what it found when it began, and refuses to publish when it is older than the
grace. So what any document of the grace time names is marked, and what the documents before it
made the state of.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import islice

from backup.commands.clocks import disagreement
from backup.commands.condemning import (
    FileSweep,
    list_files,
    plan_sweep,
    write_list,
)
from backup.commands.finding import Snapshot as Head
from backup.commands.finding import require_roots, snapshots
from backup.commands.forget import forgotten_line, forgotten_row, note_forgotten
from backup.destinations.originals import OriginalsDestination
from backup.errors import (
    BackupError,
    DamagedDocument,
    DestinationError,
    DocumentTooLarge,
    ExitCode,
    IntegrityError,
    ObjectNotFound,
    PruneRefused,
)
from backup.model import Destination, Events, Key
from backup.results import CondemnedRow, ForgottenRow, LockedRow, PruneReport, PruneRow
from backup.retention import Decision, Rules, Snapshot, decide
from backup.stopping import Stop
from backup.vault.clocks import FUTURE_TOLERANCE, is_dated_after_object
from backup.vault.documents import Entry, ForgottenLine, PinLine, SourceLine
from backup.vault.layout import (
    DocumentName,
    Layout,
    bundles_beside,
    documents_beside,
    export_time,
    exports_folder,
    folder_of,
    is_bundle,
    is_lfs_index,
    is_record,
    new_snapshot_id,
    snapshot_of,
    snapshot_time,
)
from backup.vault.manifest import (
    WINDOW,
    Identity,
    State,
    Stored,
    load_forgotten,
    load_header,
    load_record,
    load_state,
    load_stored,
    with_documents,
)

_READERS = 8
_DELETED_AT_ONCE = 1000


@dataclass(frozen=True, slots=True)
class PruneRequest:
    """What is asked for.

    Attributes:
        keep_deleted_days: forget what has not been listed for so long; None forgets nothing.
        keep_exports_days: None keeps every export.
    """

    rules: Rules
    grace_days: int = 7
    keep_deleted_days: int | None = None
    keep_exports_days: int | None = None
    dry_run: bool = False


def prune(
    destination: Destination,
    request: PruneRequest,
    *,
    events: Events,
    stop: Stop,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> PruneReport:
    """Delete what the rules do not keep, of every owner in a vault.

    An owner whose newest run was not a success, or whose times lie in the future, is refused and
    loses nothing; the others go on.

    Raises:
        ConfigError: the destination holds no vault.
        Interrupted: a signal came; the next prune goes on.
    """
    # Whoever could have a manifest read that needs nothing would have everything deleted.
    destination = OriginalsDestination(destination)
    owners: list[_Owner] = []
    refused: list[str] = []
    damaged = False
    for layout in require_roots(destination):
        owner = _Owner(destination, layout, request, events=events, stop=stop)
        try:
            owner.plan(clock())
        except BackupError as error:
            stop.check()
            refused.append(f"{layout.prefix.rstrip('/')}: {error.message}")
            damaged = damaged or isinstance(error, IntegrityError)
            continue
        owners.append(owner)
        owner.carry_out()
    uploads = 0
    if not request.dry_run and owners:
        uploads = _abort_uploads(destination, request, events=events, now=clock())
    code = ExitCode.DAMAGED if damaged else ExitCode.FAILED if refused else ExitCode.DONE
    return PruneReport(
        dry_run=request.dry_run,
        keep=tuple(row for owner in owners for row in owner.rows(keep=True)),
        remove=tuple(row for owner in owners for row in owner.rows(keep=False)),
        objects=sum(len(owner.victims) for owner in owners),
        freed_bytes=sum(owner.freed_bytes for owner in owners),
        marked_bytes=sum(owner.marked_bytes for owner in owners),
        uploads=uploads,
        refused=tuple(refused),
        exit_code=code,
        forgotten=tuple(row for owner in owners for row in owner.forgotten_rows()),
        locked=tuple(row for owner in owners for row in owner.locked_rows()),
        condemned=tuple(row for owner in owners for row in owner.condemned_rows()),
    )


def _abort_uploads(
    destination: Destination, request: PruneRequest, *, events: Events, now: datetime
) -> int:
    try:
        return destination.abort_uploads(older_than=now - timedelta(days=request.grace_days))
    except BackupError as error:
        # A rule of the bucket does it, too.
        events.note(f"unfinished uploads are left alone: {error.message}")
        return 0


@dataclass(frozen=True, slots=True)
class _Victim:
    """An object that goes."""

    key: Key
    size_bytes: int


@dataclass(slots=True)
class _Needed:
    """What must stay, by keys relative to the root.

    Attributes:
        records: of each repository, each with the version that was written, where it is known.
        exports: the newest of each project.
        paths: that a repository has or had.
        forgotten: repositories that were, before the grace time.
    """

    forgotten: list[ForgottenLine]
    records: dict[Identity, dict[str, str | None]] = field(default_factory=dict)
    exports: set[str] = field(default_factory=set)
    paths: set[str] = field(default_factory=set)

    def take(self, entries: Iterable[Entry | Stored]) -> None:
        for entry in entries:
            pins: tuple[PinLine, ...] = entry.pins
            records = self.records.setdefault(entry.identity, {})
            for pin in pins:
                records.setdefault(pin.record, None)
            if entry.record is not None:
                records[entry.record] = entry.record_version_id


class _Owner:
    """The work on one owner."""

    def __init__(
        self,
        destination: Destination,
        layout: Layout,
        request: PruneRequest,
        *,
        events: Events,
        stop: Stop,
    ) -> None:
        self._destination = destination
        self._layout = layout
        self._request = request
        self._events = events
        self._stop = stop
        self._decisions: list[Decision] = []
        self._source: SourceLine | None = None
        self._forgets: list[ForgottenLine] = []
        # Sizes of victims, and until when each is locked.
        self._locked: list[tuple[int, datetime]] = []
        self._private: set[Identity] = set()
        self.victims: list[_Victim] = []
        self._files: FileSweep | None = None
        self._now = datetime.min.replace(tzinfo=UTC)
        self.freed_bytes = self.marked_bytes = 0

    def rows(self, *, keep: bool) -> Iterator[PruneRow]:
        """Tell what was decided of each snapshot."""
        owner = self._layout.prefix.rstrip("/")
        for one in self._decisions:
            if one.keep == keep:
                yield PruneRow(owner, one.snapshot.id, one.snapshot.finished_at, one.reason)

    def forgotten_rows(self) -> Iterator[ForgottenRow]:
        """Tell which repositories were forgotten this time."""
        for line in self._forgets:
            is_private = line.identity in self._private
            yield forgotten_row(self._layout, line, private=is_private)

    def condemned_rows(self) -> Iterator[CondemnedRow]:
        """Tell which files may be deleted by a later prune."""
        if self._files is not None and self._files.first is not None:
            yield CondemnedRow(
                owner=self._layout.prefix.rstrip("/"),
                objects=len(self._files.waiting),
                size_bytes=sum(self._files.waiting.values()),
                first=self._files.first,
            )

    def locked_rows(self) -> Iterator[LockedRow]:
        """Tell what is locked of what goes, and until when."""
        if self._locked:
            yield LockedRow(
                owner=self._layout.prefix.rstrip("/"),
                objects=len(self._locked),
                size_bytes=sum(size_bytes for size_bytes, _ in self._locked),
                first=min(until for _, until in self._locked),
                last=max(until for _, until in self._locked),
            )

    # --- Deciding ---

    def plan(self, now: datetime) -> None:
        """Find out what goes; delete nothing. Begins again when another prune was quicker.

        Raises:
            PruneRefused: this is no time for it.
            IntegrityError: something that must be read is damaged.
        """
        try:
            with_documents(self._destination, self._layout, lambda names: self._plan(names, now))
        except ObjectNotFound as error:
            raise DamagedDocument(
                f"{error.message}, and a snapshot that stays needs it: nothing is deleted",
                hint="repo-backup verify names everything that is damaged",
            ) from error

    def _plan(self, names: Sequence[DocumentName], now: datetime) -> None:
        self.victims.clear()
        self._now = now
        everything = snapshots(self._destination, self._layout)
        # What is misdated decides nothing, and stays with all that it names.
        heads = [head for head in everything if not head.is_misdated]
        for head in everything:
            if head.is_misdated:
                self._events.note(
                    f"{head.name.stem} was dated by a wrong clock and decides nothing"
                )
        groups = _by_snapshot(heads)
        if words := disagreement(self._destination, now):
            raise PruneRefused(f"{words}; nothing is deleted")
        self._require_quiet(names, heads, groups, now)
        self._decisions = decide([_as_one(group) for group in groups.values()], self._request.rules)
        state = load_state(self._destination, self._layout, names, now=now)
        self._source = state.source
        self._forgets = self._too_long_gone(state, now)
        removed = {one.snapshot.id for one in self._decisions if not one.keep}
        finished = {one.name: one.header.finished_at for one in heads}
        finished |= {
            name: load_header(self._destination, self._layout, name).finished_at
            for name in names
            if name.checkpoint is not None
        }
        since = now - timedelta(days=self._request.grace_days)
        young = {name for name, moment in finished.items() if moment >= since}
        doomed = {name for name in names if name.checkpoint is None and name.snapshot_id in removed}
        doomed |= self._old_checkpoints(names, heads) - young
        needed = self._needed(names, doomed - young, young=young, state=state, since=since, now=now)
        marked = self._marked(needed.records.values())
        # Before what packs point to, which is written before the files.
        files = list_files(self._destination, self._layout)
        self._doom_documents(doomed)
        indexes = self._sweep(marked, until=since - WINDOW)
        self._sweep_exports(needed, now=now, since=since)
        self._files = plan_sweep(
            self._destination,
            self._layout,
            files=files,
            indexes=indexes,
            now=now,
            grace=timedelta(days=max(1, self._request.grace_days)),
            stop=self._stop,
        )
        key = self._layout.key
        self.victims += [_Victim(key(one), size) for one, size in self._files.victims.items()]

    def _require_quiet(
        self,
        names: Sequence[DocumentName],
        heads: Sequence[Head],
        groups: "dict[str, list[Head]]",
        now: datetime,
    ) -> None:
        latest = now + FUTURE_TOLERANCE
        for name in names:
            if name.time > latest and not is_dated_after_object(name):
                raise PruneRefused(_from_the_future(name.stem, now))
        for head in heads:
            if max(head.header.started_at, head.header.finished_at) > latest:
                raise PruneRefused(_from_the_future(head.name.stem, now))
        if not heads:
            return
        newest = groups[heads[-1].name.snapshot_id]
        for head in newest:
            if head.header.result != "success" or not head.header.complete:
                raise PruneRefused(
                    f"the newest run ({head.name.stem}) was {head.header.result}: "
                    "nothing is deleted before a run that was a success",
                )

    def _too_long_gone(self, state: State, now: datetime) -> list[ForgottenLine]:
        """Choose what has not been listed for so long that it is to be forgotten.

        By the answers of runs: what nobody has asked for is no longer gone than it was then. What
        its forge blocks is not gone.
        """
        if self._request.keep_deleted_days is None:
            return []
        least = timedelta(days=self._request.keep_deleted_days)
        gone = [
            entry
            for entry in state.entries.values()
            if entry.absence is not None
            and entry.absence.answer != "blocked"
            and not entry.not_selected
            and entry.absence.asked_at - entry.absence.since >= least
        ]
        self._private = {entry.identity for entry in gone if entry.private}
        snapshot_id = new_snapshot_id(now)
        return [
            forgotten_line(entry, snapshot_id=snapshot_id, at=now, reason=_since(entry))
            for entry in sorted(gone, key=lambda one: (one.path, one.kind))
        ]

    def _old_checkpoints(
        self, names: Sequence[DocumentName], heads: Sequence[Head]
    ) -> set[DocumentName]:
        """Find checkpoints that no run will look at any more."""
        ended = {name for name in names if name.checkpoint is None}
        newest = max((snapshot_time(head.name.snapshot_id) for head in heads), default=None)
        return {
            name
            for name in names
            if name.checkpoint is not None
            and not name.is_forgotten
            and (
                name.manifest in ended
                or (newest is not None and newest - snapshot_time(name.snapshot_id) > WINDOW)
            )
        }

    # --- Marking ---

    def _needed(
        self,
        names: Sequence[DocumentName],
        unread: set[DocumentName],
        *,
        young: set[DocumentName],
        state: State,
        since: datetime,
        now: datetime,
    ) -> _Needed:
        """Collect the records that the documents which stay name, and those runs may lean on.

        Args:
            names: every document.
            unread: those that need not be read.
            young: those of the grace time. The oldest run that may still publish began with the
                state that the others made.
            state: what all of them made.
            since: the begin of the grace time.
            now: the time.
        """
        # Not what manifests say of it: whoever can write those must not have everything deleted.
        forgotten = load_forgotten(self._destination, self._layout, names)
        # Nor what was forgotten just now: somebody may be about to regret it.
        needed = _Needed(forgotten=[line for line in forgotten if line.at < since])
        for name in names:
            if name not in unread:
                self._stop.check()
                lines = () if name in young else needed.forgotten
                needed.take(load_stored(self._destination, self._layout, name, forgotten=lines))
        for entry in state.entries.values():
            needed.take([entry])
            needed.paths.update((entry.path, *entry.aliases))
            if entry.export is not None:
                needed.exports.add(entry.export.key)
        before = [name for name in names if name not in young]
        needed.take(load_state(self._destination, self._layout, before, now=now).entries.values())
        return needed

    def _marked(self, records: Iterable[Mapping[str, str | None]]) -> set[str]:
        """Follow records, those of one repository together, to all that they need."""
        marked: set[str] = set()
        with ThreadPoolExecutor(_READERS) as pool:
            try:
                for keys in pool.map(self._needed_by, records):
                    marked |= keys
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
        return marked

    def _needed_by(self, records: Mapping[str, str | None]) -> set[str]:
        """Tell what one repository's records need, they themselves included.

        One whose own bundle lies in the chain of another has the beginning of that chain for its
        own, and need not be read.
        """
        found: set[str] = set()
        for key in sorted(records, key=snapshot_of, reverse=True):
            found.add(key)
            found.update(documents_beside(key))
            if found.isdisjoint(bundles_beside(key)):
                self._stop.check()
                found |= self._chain_of(key, records[key])
        return found

    def _chain_of(self, key: str, version: str | None) -> set[str]:
        record = load_record(self._destination, self._layout, key, version=version)
        found = {str(line.key) for line in record.chain}
        found |= {key for line in record.chain for key in line.documents}
        if record.metadata is not None:
            found.add(record.metadata.key)
        return found

    # --- What goes ---

    def _doom_documents(self, doomed: set[DocumentName]) -> None:
        order = sorted(doomed, key=lambda name: (name.checkpoint is not None, name.stem))
        sizes = {
            stored.key: stored.size_bytes
            for folder in ("snapshots", "checkpoints")
            for stored in self._destination.list(self._layout.folder(folder))
        }
        for name in order:
            key = self._layout.document(name)
            self.victims.append(_Victim(key, sizes.get(key, 0)))

    def _sweep(self, marked: set[str], *, until: datetime) -> list[str]:
        """Find the objects of repositories that nothing needs, and no run can be writing.

        Returns:
            What packs point to in Git LFS, of all that stays.

        Args:
            marked: what must stay.
            until: of what is younger a run may be going to publish a record. Ids may begin with a
                time that lies up to the window before their run.
        """
        old: dict[str, int] = {}
        indexes: list[str] = []
        young: dict[str, dict[str, str | None]] = {}
        start = len(self._layout.prefix)
        for stored in self._destination.list(self._layout.folder("repositories")):
            relative = stored.key[start:]
            snapshot_id = snapshot_of(relative)
            if snapshot_id and is_lfs_index(relative):
                indexes.append(relative)
            # What other programs put there is theirs.
            if not snapshot_id or _stays(relative, marked):
                continue
            if snapshot_time(snapshot_id) < until:
                old[relative] = stored.size_bytes
            elif is_record(relative):
                young.setdefault(folder_of(relative), {})[relative] = None
        needed = self._marked(young.values())
        gone = {key for key in old if not _stays(key, needed)}
        # Whatever it is cut off at, no record is left that lacks what it names.
        order = sorted(gone, key=lambda key: (is_bundle(key), not is_record(key), key))
        self.victims += [_Victim(self._layout.key(key), old[key]) for key in order]
        return [key for key in indexes if key not in gone]

    def _sweep_exports(self, needed: _Needed, *, now: datetime, since: datetime) -> None:
        """Find the exports that are too old, and those of repositories that were forgotten.

        Exports have no id in their keys: where another repository has the path, they stay.
        """
        days = self._request.keep_exports_days
        until = None if days is None else min(since, now - timedelta(days=days))
        forgotten: dict[str, datetime] = {}
        for line in needed.forgotten:
            for path in (line.path, *line.aliases):
                if path not in needed.paths:
                    forgotten[exports_folder(path)] = line.at
        if until is None and not forgotten:
            return
        start = len(self._layout.prefix)
        for stored in self._destination.list(self._layout.folder("exports")):
            relative = stored.key[start:]
            moment = export_time(relative)
            if moment is None or relative in needed.exports:
                continue
            is_forgotten = moment < forgotten.get(folder_of(relative), moment)
            if is_forgotten or (until is not None and moment < until):
                self.victims.append(_Victim(stored.key, stored.size_bytes))

    # --- Deleting ---

    def carry_out(self) -> None:
        """Note what is forgotten, and delete what was found, in its order; in a dry run look only.

        Raises:
            DestinationError: the store refuses; what is left goes the next time.
        """
        dry_run = self._request.dry_run
        if self._forgets and self._source is not None and not dry_run:
            note_forgotten(self._destination, self._layout, self._source, self._forgets)
        remaining = iter(self.victims)
        while some := [*islice(remaining, _DELETED_AT_ONCE)]:
            self._stop.check()
            size_bytes = sum(one.size_bytes for one in some)
            until = self._destination.locked_until(one.key for one in some)
            self._locked += [(one.size_bytes, until[one.key]) for one in some if one.key in until]
            if dry_run:
                continue
            if self._destination.delete([one.key for one in some]):
                self.marked_bytes += size_bytes
            else:
                self.freed_bytes += size_bytes
        if not dry_run:
            self._note_condemned()

    def _note_condemned(self) -> None:
        """Write what may be deleted another time, or say why that is not noted."""
        if self._files is None:
            return
        try:
            write_list(
                self._destination,
                self._layout,
                self._files,
                snapshot_id=new_snapshot_id(self._now),
                now=self._now,
            )
        except (DestinationError, DocumentTooLarge) as error:
            self._events.note(f"which files nothing names is not noted: {error.message}")


def _stays(key: str, marked: set[str]) -> bool:
    """Tell whether a repository's object is needed.

    What a pack points to may have been found out by a run that has not said so yet. A record says
    which objects are in the pack that came with it, as long as a chain has that pack.
    """
    if key in marked:
        return True
    beside = is_record(key) or is_lfs_index(key)
    return beside and not marked.isdisjoint(bundles_beside(key))


def _since(entry: Entry) -> str:
    absence = entry.absence
    return "" if absence is None else f"not listed since {absence.since:%Y-%m-%d}"


def _by_snapshot(heads: Iterable[Head]) -> "dict[str, list[Head]]":
    groups: dict[str, list[Head]] = {}
    for head in heads:
        groups.setdefault(head.name.snapshot_id, []).append(head)
    return groups


def _as_one(group: Sequence[Head]) -> Snapshot:
    shard = group[0].name.shard
    whole = shard is None or len(group) == shard[1]
    return Snapshot(
        id=group[0].name.snapshot_id,
        finished_at=max(head.header.finished_at for head in group),
        complete=whole and all(head.header.complete for head in group),
    )


def _from_the_future(stem: str, now: datetime) -> str:
    return (
        f"{stem} is from the future: it is {now:%Y-%m-%d %H:%M} UTC here, and one of the clocks is "
        "wrong; nothing is deleted"
    )
