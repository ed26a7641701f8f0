"""Looks whether the last exports are still what was recorded, and which projects are due for one.

The URL by which a forge puts an export outlives the look at it, and may put something else there.
The listing tells size, version and time of each; only what differs is read.
"""

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from backup.commands.exporting import Exported, is_due, read_back, stored_line
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
from backup.vault.documents import ExportLine
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
    """

    line: ExportLine
    is_there: bool
    problem: str = ""


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
                compared = self.compare(f"{owner}/{entry.path}", line)
            except DeadlineReached:
                ledger.problems.append(
                    "the time was up before the last exports were compared with what was recorded; "
                    "the next run compares them"
                )
                return lost
            if compared.problem:
                ledger.problems.append(compared.problem)
            if compared.line is not line:
                ledger.keep_export(entry.identity, compared.line)
            if not compared.is_there:
                lost.add(entry.identity)
        return lost

    def compare(self, name: str, last: ExportLine) -> Compared:
        """Compare one export; it is read again where it is not as it was recorded.

        Args:
            name: of the project, as people know it.
            last: an export that was stored.

        Raises:
            DestinationError: the exports could not be listed.
            DeadlineReached: the time was up while it was read; so Interrupted.
        """
        found = self._listed().get(self._layout.key(last.key))
        if found is None:
            # A lifecycle rule may have removed it.
            return Compared(last, is_there=False)
        if is_recorded(last, found):
            return Compared(last, is_there=True)
        if not self._reads:
            return Compared(last, is_there=False)
        what = f"{name}: its export {self._destination.uri(found.key)}"
        try:
            line = self._read(name, last, found)
        except (DeadlineReached, Interrupted, SessionExpired):
            raise
        except BrokenArchive as error:
            then = f"was replaced by what is no export ({error.message}); a new one is due"
            return Compared(last, is_there=False, problem=f"{what} {then}{_recorded(last, found)}")
        except BackupError as error:
            then = f"was replaced after it was recorded, and cannot be read: {error.message}"
            return Compared(last, is_there=True, problem=f"{what} {then}{_recorded(last, found)}")
        if line.sha256 == last.sha256:
            # The same bytes: the vault was copied.
            return Compared(line, is_there=True)
        then = "was replaced after it was recorded; it unpacks whole and counts from now on"
        return Compared(line, is_there=True, problem=f"{what} {then}{_recorded(last, found)}")

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
            folder = self._layout.folder("exports")
            try:
                listed = [*self._destination.list(folder, versions=True)]
            except DestinationError as error:
                # Seeing versions is a right of its own; sizes and times tell as well.
                if error.retryable or isinstance(error, SessionExpired):
                    raise
                listed = [*self._destination.list(folder)]
            self._stored = {one.key: one for one in listed}
        return self._stored


def is_recorded(last: ExportLine, found: StoredObject) -> bool:
    """Return whether what lies there is what was recorded, as far as a listing tells."""
    if found.size_bytes != last.size_bytes:
        return False
    if found.version_id is not None and last.version_id is not None:
        return found.version_id == last.version_id
    if found.stored_at is None or last.written_at is None:
        return True
    return abs(found.stored_at - last.written_at) <= _SAME_TIME


def _recorded(last: ExportLine, found: StoredObject) -> str:
    """Say what was recorded, and how it is found where the store has versions."""
    words = f" (recorded: {last.size_bytes} bytes; now: {found.size_bytes} bytes)"
    if last.version_id is None or last.version_id == found.version_id:
        return words
    return f"{words}; what was recorded is version {last.version_id}"


def due_exports(
    selected: Iterable[Repository], ledger: Ledger, *, lost: Collection[Identity], unchanged: bool
) -> list[tuple[Repository, ExportLine | None]]:
    """Return the projects of a run that are due for an export, each with the last one that counts.

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
        last = None if worked_on.entry.identity in lost else worked_on.entry.export
        newest = max(captured_at.get(repository.host_id, ()), default=None)
        if is_due(repository, last, captured_at=newest, unchanged=unchanged):
            due.append((repository, last))
    return due


def note_export(ledger: Ledger, one: Exported) -> bool:
    """Note what came of an export; return False where it is not there, and that is no failure."""
    if one.problem:
        name = f"{one.repository.owner}/{one.repository.path}"
        ledger.problems.append(f"{name}: {one.problem}")
    if one.line is not None:
        ledger.note_export((one.repository.kind, one.repository.host_id), one.line)
    return bool(one.problem) or (one.line is not None and one.line.stored_at is not None)
