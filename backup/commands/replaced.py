"""Looks whether the last exports are still what was recorded, and which projects are due for one.

The URL by which a forge puts an export outlives the look at it, and may put something else there.
The listing tells size, version and time of each; only what differs is read, and what turned out to
be no export is read once.

Where a project is gone, or is left out by a filter, no other export will come. That its last one
is lost is a problem of the run that finds it, and a note of those that follow: only a person can do
anything about it.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from backup.commands.exporting import Exported, is_due, read_back, stored_line
from backup.commands.hidden import how_hidden
from backup.commands.ledger import Ledger
from backup.errors import (
    BackupError,
    BrokenArchive,
    DeadlineReached,
    DestinationError,
    Interrupted,
    SessionExpired,
)
from backup.model import Destination, Events, Key, Repository, StoredObject
from backup.stopping import Stop
from backup.vault.documents import Entry
from backup.vault.documents_of_exports import ExportLine, ExportLoss
from backup.vault.layout import Layout
from backup.vault.manifest import Identity

# A listing may round the time that the object's own answer cuts off.
_SAME_TIME = timedelta(seconds=1)


@dataclass(frozen=True, slots=True)
class Compared:
    """What became of an export since it was recorded.

    Attributes:
        line: what its entry says from now on.
        is_there: whether it counts; False where a new one must be made.
        problem: why it is not what was recorded; empty as a rule.
        note: the same where an earlier run said it, and no other one can be made.
    """

    line: ExportLine
    is_there: bool
    problem: str = ""
    note: str = ""


class LastExports:
    """Compares the last exports of an owner with what lies in the destination.

    Args:
        destination: is listed once, with versions where it may be.
        layout: of the owner's root.
        reads: whether what differs is read; without that a new export is due.
        clock: the time that entries have.
    """

    def __init__(
        self,
        destination: Destination,
        layout: Layout,
        *,
        reads: bool,
        events: Events,
        stop: Stop,
        clock: Callable[[], datetime],
    ) -> None:
        self._destination = destination
        self._layout = layout
        self._reads = reads
        self._events = events
        self._stop = stop
        self._clock = clock
        self._stored: Mapping[Key, StoredObject] | None = None

    def compare_all(self, ledger: Ledger, *, owner: str) -> set[Identity]:
        """Compare every export that a ledger's entries name, and note there what came of it.

        Returns:
            Whose exports must be made again.
        """
        lost: set[Identity] = set()
        for entry, line in ledger.last_exports():
            try:
                compared = self.compare(f"{owner}/{entry.path}", line, why_none=_why_none(entry))
            except DeadlineReached:
                ledger.problems.append(
                    "the time was up before the last exports were compared with what was recorded; "
                    "the next run compares them"
                )
                return lost
            if compared.problem:
                ledger.problems.append(compared.problem)
            if compared.note:
                ledger.notes.append(compared.note)
                self._events.note(compared.note)
            if compared.line is not line:
                ledger.keep_export(entry.identity, compared.line)
            if not compared.is_there:
                lost.add(entry.identity)
        return lost

    def compare(self, name: str, last: ExportLine, *, why_none: str = "") -> Compared:
        """Compare one export; it is read again where it is not as it was recorded.

        Args:
            name: of the project, as people know it.
            last: an export that was stored.
            why_none: why no other one can be made; empty where one can.

        Raises:
            DestinationError: the exports could not be listed.
            DeadlineReached: the time was up while it was read; so Interrupted.
        """
        found = self._listed().get(self._layout.key(last.key))
        what = f"{name}: its export {self._destination.uri(self._layout.key(last.key))}"
        if found is None and not why_none:
            # A lifecycle rule may have removed it.
            return Compared(last, is_there=False)
        if found is None:
            return self._missing(what, last, why_none)
        if is_recorded(last, found):
            return Compared(_without_loss(last), is_there=True)
        if not self._reads:
            return Compared(last, is_there=False)
        if why_none and _is_known(last.loss, found):
            return Compared(last, is_there=False, note=_replaced(what, last, found, why_none))
        try:
            line = self._read(name, last, found)
        except (DeadlineReached, Interrupted, SessionExpired):
            raise
        except BrokenArchive as error:
            words = _replaced(what, last, found, why_none, fault=f" ({error.message})")
            return Compared(self._lost(last, "replaced", found), is_there=False, problem=words)
        except BackupError as error:
            then = f"was replaced after it was recorded, and cannot be read: {error.message}"
            return Compared(last, is_there=True, problem=f"{what} {then}{_recorded(last, found)}")
        if line.sha256 == last.sha256:
            # The same bytes: the vault was copied.
            return Compared(line, is_there=True)
        then = "was replaced after it was recorded; it unpacks whole and counts from now on"
        return Compared(line, is_there=True, problem=f"{what} {then}{_recorded(last, found)}")

    def _missing(self, what: str, last: ExportLine, why_none: str) -> Compared:
        """Say once that an export is missing, and as long as it is hidden what shows it again."""
        known = last.loss
        if known is not None and known.what != "hidden":
            # What lay in its place was removed: nothing is left to be done.
            return Compared(last, is_there=False)
        command = how_hidden(self._destination, self._layout.key(last.key))
        words = f"{what} is missing, and {why_none}"
        if command:
            words = f"{what} lies under a delete marker, and {why_none}; show it again: {command}"
        line = self._lost(last, "hidden" if command else "missing")
        if known is None:
            return Compared(line, is_there=False, problem=words)
        return Compared(line, is_there=False, note=words if command else "")

    def _lost(
        self,
        last: ExportLine,
        what: Literal["missing", "hidden", "replaced"],
        found: StoredObject | None = None,
    ) -> ExportLine:
        since = self._clock() if last.loss is None else last.loss.since
        loss = ExportLoss(since=since, what=what)
        if found is not None:
            loss = ExportLoss(
                since=since,
                what=what,
                size_bytes=found.size_bytes,
                version_id=found.version_id,
                written_at=found.stored_at,
            )
        return last if last.loss == loss else last.model_copy(update={"loss": loss})

    def _read(self, name: str, last: ExportLine, found: StoredObject) -> ExportLine:
        self._events.capturing(name, "export", "it is not as it was recorded")
        try:
            sha256 = read_back(
                self._destination,
                found,
                stop=self._stop,
                transferred=lambda size: self._events.transferred(name, size),
            )
        finally:
            self._events.ended(name)
        return stored_line(last, found, sha256=sha256, now=self._clock())

    def _listed(self) -> Mapping[Key, StoredObject]:
        if self._stored is None:
            self._stored = list_exports(self._destination, self._layout)
        return self._stored


def list_exports(destination: Destination, layout: Layout) -> Mapping[Key, StoredObject]:
    """List all that lies in an owner's folder of exports, with versions where these may be seen.

    Raises:
        DestinationError: it could not be listed.
    """
    folder = layout.folder("exports")
    try:
        listed = [*destination.list(folder, versions=True)]
    except DestinationError as error:
        # Seeing versions is a right of its own; sizes and times tell as well.
        if error.retryable or isinstance(error, SessionExpired):
            raise
        listed = [*destination.list(folder)]
    return {one.key: one for one in listed}


def is_recorded(last: ExportLine | ExportLoss, found: StoredObject) -> bool:
    """Return whether what lies there is what was recorded, as far as a listing tells."""
    if found.size_bytes != last.size_bytes:
        return False
    if found.version_id is not None and last.version_id is not None:
        return found.version_id == last.version_id
    if found.stored_at is None or last.written_at is None:
        return True
    return abs(found.stored_at - last.written_at) <= _SAME_TIME


def _is_known(loss: ExportLoss | None, found: StoredObject) -> bool:
    """Return whether an earlier run has read what lies there, and it was no export."""
    return loss is not None and loss.what == "replaced" and is_recorded(loss, found)


def _without_loss(line: ExportLine) -> ExportLine:
    return line if line.loss is None else line.model_copy(update={"loss": None})


def _why_none(entry: Entry) -> str:
    """Say why no run can have another export made of a project; empty where one can."""
    if entry.absence is not None:
        return "no other one can be made: its project is not listed any more"
    return "no other one is made: a filter leaves its project out" if entry.not_selected else ""


def _replaced(
    what: str, last: ExportLine, found: StoredObject, why_none: str, *, fault: str = ""
) -> str:
    """Say that no export lies where one was, and what can be done."""
    words = f"{what} was replaced by what is no export{fault}"
    if not why_none:
        return f"{words}; a new one is due{_recorded(last, found)}"
    return (
        f"{words}, and {why_none}{_recorded(last, found)}; remove what lies there, or bring back "
        "what was recorded: docs/how-to/repair-a-vault.md"
    )


def _recorded(last: ExportLine, found: StoredObject) -> str:
    """Say what was recorded, and how it is found where the store has versions."""
    words = f" (recorded: {last.size_bytes} bytes; now: {found.size_bytes} bytes)"
    if last.version_id is None or last.version_id == found.version_id:
        return words
    return f"{words}; what was recorded is version {last.version_id}"


def due_exports(
    selected: Iterable[Repository], ledger: Ledger, *, lost: Collection[Identity], unchanged: bool
) -> list[tuple[Repository, ExportLine | None]]:
    """Return the projects of a run that are due for an export, each with the one that is pending.

    Args:
        selected: the repositories of the run.
        ledger: what came of each.
        lost: those whose last export does not count any more.
        unchanged: whether projects are due in which nothing happened.
    """
    captured_at: dict[str, list[datetime]] = {}
    for (_, host_id), result in ledger.results.items():
        if result.entry.captured_at is not None:
            captured_at.setdefault(host_id, []).append(result.entry.captured_at)
    due = []
    for repository in selected:
        worked_on = ledger.results.get((repository.kind, repository.host_id))
        if repository.kind != "code" or repository.problem or worked_on is None:
            continue
        entry = worked_on.entry
        last = None if entry.identity in lost else entry.export
        newest = max(captured_at.get(repository.host_id, ()), default=None)
        if entry.pending_export is not None or is_due(
            repository, last, captured_at=newest, unchanged=unchanged
        ):
            due.append((repository, entry.pending_export))
    return due


def note_export(ledger: Ledger, one: Exported) -> bool:
    """Note what came of an export; return False where it is not there, and that is no failure."""
    if one.problem:
        name = f"{one.repository.owner}/{one.repository.path}"
        ledger.problems.append(f"{name}: {one.problem}")
    if one.line is not None:
        ledger.note_export((one.repository.kind, one.repository.host_id), one.line)
    return bool(one.problem) or (one.line is not None and one.line.stored_at is not None)
