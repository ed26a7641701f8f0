"""Deleting what retention no longer keeps: snapshots, and the objects that nothing needs any more.

First it is decided which snapshots stay (`backup.retention`). Then everything is marked that must
stay for them, and for runs that may still be under way; what is not marked and old enough goes.
Manifests go first and bundles last, one kind after the other, so that wherever it is cut off no
snapshot is left that lacks something, and the next prune finds the rest.

A run may lean on what it found when it began, and refuses to publish when it is older than the
grace. So what any document of the grace time names is marked, and what the documents before it
made the state of.

Documents are written by every run, and so by anyone who has got hold of the role of one. Whatever
is added, nothing may be deleted for its sake that would have stayed without it: see
`backup.vault.inventory`, `backup.commands.needing` and `backup.commands.continuity`.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from backup.commands.clocks import disagreement
from backup.commands.condemning import (
    FileSweep,
    list_files,
    plan_sweep,
    write_list,
)
from backup.commands.continuity import BRING_BACK, Continuity, look_back, write_note
from backup.commands.deciding import decide_by_times
from backup.commands.deleting import Candidate, Deleted, Kind, delete_in_order, kind_of
from backup.commands.finding import require_roots
from backup.commands.forget import forgotten_line, forgotten_row, note_forgotten
from backup.commands.lost_index import HOW_TO_GO_ON
from backup.commands.needing import Needed
from backup.commands.surveying import Survey, run_of, survey
from backup.commands.sweeping_exports import sweep_exports
from backup.errors import (
    AccessDenied,
    BackupError,
    DamagedDocument,
    DestinationError,
    DocumentTooLarge,
    ExitCode,
    IntegrityError,
    ObjectNotFound,
    PruneRefused,
)
from backup.model import Destination, Events, StoredObject
from backup.order import in_order
from backup.results import (
    CondemnedRow,
    Finding,
    ForgottenRow,
    LockedRow,
    PruneReport,
    PruneRow,
    Severity,
)
from backup.retention import Decision, Rules
from backup.stopping import Stop
from backup.vault.clocks import FUTURE_TOLERANCE, is_dated_after_object
from backup.vault.documents import Entry, ForgottenLine, SourceLine
from backup.vault.inventory import stamp, stamp_of
from backup.vault.layout import (
    DocumentName,
    Layout,
    is_lfs_index,
    is_record,
    new_snapshot_id,
    segment_of,
    snapshot_of,
    snapshot_time,
)
from backup.vault.manifest import (
    WINDOW,
    Identity,
    State,
    list_documents,
    load_forgotten,
    load_state,
    with_documents,
)
from backup.vault.originals import OriginalsDestination


@dataclass(frozen=True, slots=True)
class PruneRequest:
    """What is asked for.

    Attributes:
        keep_deleted_days: forget what has not been listed for so long; None forgets nothing.
        keep_exports_days: None keeps every export.
        accept_missing_index: delete also what manifests may need that are not there.
    """

    rules: Rules
    grace_days: int = 7
    keep_deleted_days: int | None = None
    keep_exports_days: int | None = None
    accept_missing_index: bool = False
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
    # A manifest that was overwritten by one that needs nothing must not be read.
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
            hint = f"; {error.hint}" if error.hint else ""
            refused.append(f"{layout.prefix.rstrip('/')}: {error.message}{hint}")
            damaged = damaged or isinstance(error, IntegrityError)
            continue
        owners.append(owner)
        owner.carry_out()
    uploads = 0
    if not request.dry_run and owners:
        uploads = _abort_uploads(destination, request, events=events, now=clock())
    notes = tuple(note for owner in owners for note in owner.notes)
    damaged = damaged or any(note.severity == "error" for note in notes)
    code = ExitCode.DAMAGED if damaged else ExitCode.FAILED if refused else ExitCode.DONE
    return PruneReport(
        dry_run=request.dry_run,
        keep=tuple(row for owner in owners for row in owner.rows(keep=True)),
        remove=tuple(row for owner in owners for row in owner.rows(keep=False)),
        objects=sum(len(owner.candidates) for owner in owners),
        freed_bytes=sum(owner.deleted.freed_bytes for owner in owners),
        marked_bytes=sum(owner.deleted.marked_bytes for owner in owners),
        uploads=uploads,
        refused=tuple(refused),
        exit_code=code,
        forgotten=tuple(row for owner in owners for row in owner.forgotten_rows()),
        locked=tuple(row for owner in owners for row in owner.locked_rows()),
        condemned=tuple(row for owner in owners for row in owner.condemned_rows()),
        notes=notes,
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
        self._grace = timedelta(days=request.grace_days)
        self._decisions: list[Decision] = []
        self._source: SourceLine | None = None
        self._forgets: list[ForgottenLine] = []
        self._private: set[Identity] = set()
        self.candidates: list[Candidate] = []
        self._files: FileSweep | None = None
        self._continuity: Continuity | None = None
        self._manifests: tuple[list[str], list[str]] = ([], [])
        self._now = datetime.min.replace(tzinfo=UTC)
        self.notes: list[Finding] = []
        self.deleted = Deleted()

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
        locked = self.deleted.locked
        if locked:
            yield LockedRow(
                owner=self._layout.prefix.rstrip("/"),
                objects=len(locked),
                size_bytes=sum(size_bytes for size_bytes, _ in locked),
                first=min(until for _, until in locked),
                last=max(until for _, until in locked),
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
        self.candidates.clear()
        self.notes.clear()
        self._now = now
        since = now - self._grace
        forgotten = load_forgotten(self._destination, self._layout, names)
        # Not what was forgotten just now: someone may be about to regret it.
        old = [line for line in forgotten if line.at < since]
        # Before what packs point to is listed, which is written before the files.
        files = list_files(self._destination, self._layout)
        documents = survey(
            self._destination,
            self._layout,
            names,
            forgotten=old,
            since=since,
            now=now,
            stop=self._stop,
        )
        self._require_right_clocks(documents, now)
        self._note_damaged_documents(documents)
        continuity = self._look_back(documents)
        state = load_state(self._destination, self._layout, names, now=now)
        self._require_success(documents, state)
        documents.inventory.note_stored(key for key, _ in self._listed("repositories"))
        self._decisions = decide_by_times(
            documents,
            self._request.rules,
            made_of=state.made_of,
            grace=self._grace,
            now=now,
            keeps_time=self._destination.keeps_time,
        )
        self._source = state.source
        self._forgets = self._too_long_gone(state, now)
        doomed = self._doomed(documents, since)
        needed = self._needed(documents, doomed, state=state, now=now)
        self._doom_documents(documents, doomed)
        indexes = self._sweep(documents, needed, continuity, until=since - WINDOW)
        self._sweep_exports(documents, doomed, state, old, continuity, since=since)
        self._sweep_files(files, indexes)
        self._note_problems(documents, needed)
        if needed.problems and not set(names) <= set(
            list_documents(self._destination, self._layout)
        ):
            raise ObjectNotFound("another prune has deleted a manifest")

    # --- Reading ---

    def _listed(self, folder: Literal["repositories"]) -> Iterator[tuple[str, StoredObject]]:
        """List a folder, with keys relative to the root."""
        start = len(self._layout.prefix)
        for stored in self._destination.list(self._layout.folder(folder)):
            yield stored.key[start:], stored

    def _require_right_clocks(self, documents: Survey, now: datetime) -> None:
        if words := disagreement(self._destination, now):
            raise PruneRefused(f"{words}; nothing is deleted")
        latest = now + FUTURE_TOLERANCE
        for name in documents.names:
            if name.time > latest and not is_dated_after_object(name):
                raise PruneRefused(_from_the_future(name.stem, now))
        for name, row in documents.manifests.items():
            if max(row.header.started_at, row.header.finished_at) > latest:
                raise PruneRefused(_from_the_future(name.stem, now))

    def _require_success(self, documents: Survey, state: State) -> None:
        """Refuse while the newest run, by every manifest that it has, was not a success."""
        if state.newest is None:
            return
        for name, row in documents.manifests.items():
            if name.snapshot_id != state.newest.snapshot_id:
                continue
            if row.header.result != "success" or not row.header.complete:
                raise PruneRefused(
                    f"the newest run ({name.stem}) was {row.header.result}: "
                    "nothing is deleted before a run that was a success",
                )

    def _look_back(self, documents: Survey) -> Continuity:
        """Find out what stays for the sake of manifests that cannot be read.

        Raises:
            DamagedDocument: no manifest can be read, and there is something to lose.
        """
        if not documents.all_manifests:
            # Nobody's word for some that are missing means all that there is.
            for relative, _ in self._listed("repositories"):
                if snapshot_of(relative):
                    raise DamagedDocument(
                        f"{self._destination.uri(self._layout.folder('snapshots'))} has no "
                        f"manifest that can be read: nothing is deleted; {HOW_TO_GO_ON}",
                    )
        found = look_back(
            self._destination,
            self._layout,
            readable=documents.all_manifests,
            damaged=documents.damaged_ones(checkpoints=False),
            grace=self._grace,
            is_accepted=self._request.accept_missing_index,
        )
        for stem in found.missing:
            uri = self._destination.uri(self._layout.document_of(stem))
            self._note(
                f"{uri} is missing, and no prune deleted it: what it may name stays",
                BRING_BACK,
                severity="error",
            )
        for key in found.damaged:
            self._note(f"{self._destination.uri(key)} is damaged: a new one takes its place")
        self._continuity = found
        return found

    def _note_damaged_documents(self, documents: Survey) -> None:
        for name in documents.misdated:
            self._note(f"{name.stem} was dated by a wrong clock and decides nothing")
        for name in documents.damaged_ones(checkpoints=False):
            error = documents.damaged[name]
            self._note(
                f"{error.message}: what it may name stays",
                error.hint or "docs/how-to/repair-a-vault.md tells how to go on",
                severity="error",
            )
        for name in documents.damaged_ones(checkpoints=True):
            self._note(f"{documents.damaged[name].message}: it is deleted when its run is over")

    def _note(
        self,
        message: str,
        fix: str = "",
        *,
        severity: Severity = "warning",
        private: bool = False,
    ) -> None:
        owner = self._layout.prefix.rstrip("/")
        self.notes.append(Finding(severity, f"{owner}: {message}", fix, private=private))

    # --- Deciding ---

    def _doomed(self, documents: Survey, since: datetime) -> set[DocumentName]:
        """Choose the manifests that go, and the checkpoints that no run will look at any more."""
        removed = {one.snapshot.id for one in self._decisions if not one.keep}
        manifests = [name for name in documents.rows if name.checkpoint is None]
        doomed = {name for name in manifests if run_of(name) in removed}
        self._manifests = (
            sorted({name.stem for name in manifests} - {name.stem for name in doomed})
            + [name.stem for name in documents.damaged_ones(checkpoints=False)],
            sorted(name.stem for name in doomed),
        )
        kept = [row for one, row in documents.runs.items() if one not in removed]
        # The newest first: as a rule it covers what there is to cover.
        kept = in_order(kept, lambda row: row.place)[::-1]
        newest = max((snapshot_time(name.snapshot_id) for name in manifests), default=None)
        for name in documents.names:
            if name.checkpoint is None or name.is_forgotten or name in documents.young:
                continue
            is_over = name.manifest in documents.rows or (
                newest is not None and newest - snapshot_time(name.snapshot_id) > WINDOW
            )
            # What it names must have been taken over, whatever manifests there are since.
            if name in documents.damaged or (
                is_over
                and any(documents.inventory.covers(row, documents.rows[name]) for row in kept)
            ):
                doomed.add(name)
        return doomed

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

    # --- Marking ---

    def _needed(
        self, documents: Survey, doomed: set[DocumentName], *, state: State, now: datetime
    ) -> Needed:
        """Mark what the documents which stay need, and what runs may lean on.

        The oldest run that may still publish began with the state that the documents before the
        grace time made. Which of these is the newest is not left to their writers: each counts that
        no other one covers.
        """
        before = [name for name in documents.names if name not in documents.young]
        needed = Needed(self._destination, self._layout, documents.inventory, self._stop)
        for name, row in documents.rows.items():
            if name in documents.young:
                needed.name(row.named())
            elif name not in doomed:
                needed.name(row.named_and_known())
        for row in documents.uncovered(before):
            needed.name(row.named_and_known())
        needed.name_by(state.entries.values())
        state_before = load_state(self._destination, self._layout, before, now=now)
        needed.name_by(state_before.entries.values())
        needed.follow()
        return needed

    def _note_problems(self, documents: Survey, needed: Needed) -> None:
        inventory = documents.inventory
        public = {inventory.segments[number] for number in inventory.public}
        for key, problem in needed.problems.items():
            self._note(
                f"{problem}: everything that is stored of its repository stays",
                "repo-backup verify names everything that is damaged",
                private=segment_of(key) not in public,
            )

    # --- What goes ---

    def _doom_documents(self, documents: Survey, doomed: set[DocumentName]) -> None:
        for name in sorted(doomed, key=lambda name: name.stem):
            key = self._layout.document(name)
            kind = Kind.MANIFEST if name.checkpoint is None else Kind.CHECKPOINT
            stored = documents.stored.get(key)
            self.candidates.append(Candidate(kind, key, stored.size_bytes if stored else 0))

    def _sweep(
        self, documents: Survey, needed: Needed, continuity: Continuity, *, until: datetime
    ) -> list[str]:
        """Find the objects of repositories that nothing needs, and no run can be writing.

        Returns:
            What packs point to in Git LFS, of all that stays.

        Args:
            documents: what was read.
            needed: what must stay.
            continuity: what has to stay though nothing that can be read names it.
            until: of what is younger a run may be going to publish a record. Ids may begin with a
                time that lies up to the window before their run.
        """
        old: dict[str, int] = {}
        indexes: list[str] = []
        spared: list[int] = []
        for relative, stored in self._listed("repositories"):
            snapshot_id = snapshot_of(relative)
            if snapshot_id and is_lfs_index(relative):
                indexes.append(relative)
            # What other programs put there is theirs.
            if not snapshot_id or needed.stays(relative):
                continue
            if self._is_young(snapshot_id, stored, until):
                if is_record(relative):
                    needed.name_stored(relative)
            elif continuity.spares(snapshot_id):
                spared.append(stored.size_bytes)
            else:
                old[relative] = stored.size_bytes
        needed.follow()
        needed.make_sure_of([key for key in old if not needed.stays(key)])
        gone = {key for key in old if not needed.stays(key)}
        # Whatever it is cut off at, no record is left that lacks what it names.
        self.candidates += [
            Candidate(kind_of(key), self._layout.key(key), old[key]) for key in sorted(gone)
        ]
        if spared and not continuity.missing and not documents.damaged_ones(checkpoints=False):
            self._note(
                f"{len(spared)} objects are older than the oldest manifest there was, and nothing "
                "names them: they stay",
                BRING_BACK,
            )
        return [key for key in indexes if key not in gone]

    def _is_young(self, snapshot_id: str, stored: StoredObject, until: datetime) -> bool:
        if stamp_of(snapshot_id) >= stamp(until):
            return True
        # The clock of its run may have been behind.
        at = stored.stored_at if self._destination.keeps_time else None
        return at is not None and at >= until

    def _sweep_files(self, files: Mapping[str, int], indexes: Sequence[str]) -> None:
        self._files = plan_sweep(
            self._destination,
            self._layout,
            files=files,
            indexes=indexes,
            now=self._now,
            grace=timedelta(days=max(1, self._request.grace_days)),
            stop=self._stop,
        )
        if self._files.problem:
            self._note(
                f"{self._files.problem}: no file of Git LFS is deleted",
                "repo-backup verify names everything that is damaged",
                private=True,
            )
        self.candidates += [
            Candidate(Kind.FILE, self._layout.key(key), size)
            for key, size in self._files.victims.items()
        ]

    def _sweep_exports(
        self,
        documents: Survey,
        doomed: set[DocumentName],
        state: State,
        old: Iterable[ForgottenLine],
        continuity: Continuity,
        *,
        since: datetime,
    ) -> None:
        days = self._request.keep_exports_days
        swept = sweep_exports(
            self._destination,
            self._layout,
            documents,
            doomed,
            entries=state.entries,
            forgotten=old,
            continuity=continuity,
            until=None if days is None else min(since, self._now - timedelta(days=days)),
        )
        self.candidates += swept.candidates
        for message, fix in swept.notes:
            self._note(message, fix)

    # --- Deleting ---

    def carry_out(self) -> None:
        """Note what is forgotten, and delete what was found, in its order; in a dry run look only.

        Raises:
            DestinationError: the store refuses; what is left goes the next time.
        """
        dry_run = self._request.dry_run
        if not dry_run:
            if self._forgets and self._source is not None:
                note_forgotten(self._destination, self._layout, self._source, self._forgets)
            self._note_manifests()
        delete_in_order(
            self._destination,
            self.candidates,
            self.deleted,
            dry_run=dry_run,
            stop=self._stop,
        )
        if not dry_run:
            self._note_condemned()

    def _note_manifests(self) -> None:
        """Write which manifests stay, before any is deleted."""
        if self._continuity is None:
            return
        left, removed = self._manifests
        try:
            write_note(
                self._destination,
                self._layout,
                self._continuity,
                left=left,
                removed=removed,
                snapshot_id=new_snapshot_id(self._now),
                now=self._now,
            )
        except AccessDenied as error:
            # Beside a note that says otherwise, what is deleted now would count as missing.
            if self._continuity.documents:
                raise
            self._note(
                f"which manifests stay is not noted ({error.message}): the next prune keeps what "
                "is older than the oldest one",
                "let the role that prunes put pruned/*",
            )

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
            self._events.note(
                "the list of files of Git LFS that nothing names could not be written: "
                f"{error.message}"
            )


def _since(entry: Entry) -> str:
    absence = entry.absence
    return "" if absence is None else f"not listed since {absence.since:%Y-%m-%d}"


def _from_the_future(stem: str, now: datetime) -> str:
    return (
        f"{stem} is from the future: it is {now:%Y-%m-%d %H:%M} UTC here, and one of the clocks is "
        "wrong; nothing is deleted"
    )
