"""What came of each repository of an owner so far, and the manifest made of it."""

from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from backup.commands.entries import Result, carried, first_entry, outcome_of
from backup.commands.selecting import can_be_kept
from backup.errors import DeadlineReached, ServerSilent, sound
from backup.model import Outcome, Repository, RunResult, Status
from backup.vault.documents import Entry, EntryDamage, Totals
from backup.vault.documents_of_exports import ExportLine
from backup.vault.documents_of_listings import UnreadableLine
from backup.vault.manifest import Identity, newer

_MOST_UNREADABLE = 1000
_DONE: frozenset[Status] = frozenset({"captured", "unchanged", "empty"})


@dataclass(slots=True)
class Ledger:
    """Grows while a run goes on. Belongs to the run's main thread.

    Attributes:
        results: repositories that were worked on, whatever came of it.
        marks: entries of others that this run knows something new of: gone, not selected, left.
        others: outcomes of repositories that have no result.
        not_reached: paths that the run did not come to.
        cut_off: paths whose capture was under way when the time was up.
        silent: the same, where the server let the time pass.
        problems: what makes the run partial though every repository may be stored.
        late: those of the problems that only say that the time was up, or the run interrupted.
        failed: the run as a whole failed, whatever became of its repositories.
        exports: so many archives of projects were stored.
        unreadable: what the listing has and no entry can be made of.
    """

    results: dict[Identity, Result] = field(default_factory=dict)
    marks: dict[Identity, Entry] = field(default_factory=dict)
    others: list[Outcome] = field(default_factory=list)
    not_reached: list[str] = field(default_factory=list)
    cut_off: list[str] = field(default_factory=list)
    silent: list[str] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    late: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    failed: bool = False
    exports: int = 0
    unreadable: list[UnreadableLine] = field(default_factory=list)

    def add(self, repository: Repository, result: Result) -> None:
        """Note what came of a repository."""
        self.results[repository.kind, repository.host_id] = result
        if result.problem:
            self.problems.append(f"{repository.owner}/{repository.path}: {result.problem}")

    def was_worked_on(self, identity: Identity) -> bool:
        """Return whether a repository's state was brought up to date, or found to be."""
        result = self.results.get(identity)
        return result is not None and result.outcome.status in _DONE

    def entry_now(self, entry: Entry) -> Entry:
        """Return what is known of a repository now.

        Args:
            entry: what was known when the run began.
        """
        if (result := self.results.get(entry.identity)) is not None:
            return result.entry
        return self.marks.get(entry.identity, entry)

    def note_damage(self, entry: Entry, damaged: tuple[EntryDamage, ...]) -> None:
        """Note what is damaged of a repository in its entry.

        Args:
            entry: what was known when the run began.
            damaged: what is known now.
        """
        identity = entry.identity
        if (result := self.results.get(identity)) is not None:
            made = result.entry.model_copy(update={"damaged": damaged})
            self.results[identity] = replace(result, entry=made)
        elif damaged or entry.damaged:
            mark = self.marks.get(identity) or carried(entry)
            self.marks[identity] = mark.model_copy(update={"damaged": damaged})

    def note_export(self, identity: Identity, line: ExportLine) -> None:
        """Note the export of a project that was worked on.

        One that is still being made stands beside the last one that was whole: it may never come.
        """
        result, is_stored = self.results[identity], line.stored_at is not None
        update = {"export": line, "pending_export": None} if is_stored else {"pending_export": line}
        self.results[identity] = replace(result, entry=result.entry.model_copy(update=update))
        self.exports += is_stored

    def keep_export(self, identity: Identity, line: ExportLine) -> None:
        """Note what is known of an export that was stored before."""
        if (result := self.results.get(identity)) is not None:
            entry = result.entry.model_copy(update={"export": line})
            self.results[identity] = replace(result, entry=entry)
        elif (mark := self.marks.get(identity)) is not None:
            self.marks[identity] = mark.model_copy(update={"export": line})

    def last_exports(self) -> list[tuple[Entry, ExportLine]]:
        """Return every entry of an export that was stored, and what it says of it."""
        entries = [*(result.entry for result in self.results.values()), *self.marks.values()]
        exports = [(entry, entry.export) for entry in entries if entry.export is not None]
        return [(entry, line) for entry, line in exports if line.stored_at is not None]

    def fail(self, problem: str) -> None:
        """Note what makes the run as a whole a failure."""
        self.failed = True
        self.problems.append(problem)

    def tell(self, outcome: Outcome, *, mark: Entry | None = None) -> None:
        """Note an outcome of a repository that was not worked on, and its entry's new marks."""
        self.others.append(outcome)
        if mark is not None:
            self.marks[mark.identity] = mark

    def refuse(self, repository: Repository) -> Outcome:
        """Note what the listing has and no entry can be made of; return what is reported of it.

        The manifest names the first thousand; its totals count all.
        """
        reason = sound(repository.problem)
        line = UnreadableLine(
            path=sound(repository.path), reason=reason, private=repository.private
        )
        if len(self.unreadable) < _MOST_UNREADABLE:
            self.unreadable.append(line)
        outcome = replace(outcome_of(repository), reason=reason)
        self.tell(outcome)
        return outcome

    def leave(self, repository: Repository, entry: Entry | None, *, reason: str) -> None:
        """Note that the run did not come to a repository.

        Its entry stays as it was; one that never had any is named all the same.
        """
        self.not_reached.append(repository.path)
        known = entry or first_entry(repository)
        self.tell(
            replace(outcome_of(repository), status="not-reached", reason=reason),
            mark=carried(known, reason=reason, absence=None),
        )

    def cut(
        self, repository: Repository, entry: Entry | None, error: DeadlineReached, *, now: datetime
    ) -> None:
        """Note that a capture was ended before it was done, why, and when."""
        reason = error.message
        if isinstance(error, ServerSilent):
            self.silent.append(repository.path)
            self.be_late(f"{repository.owner}/{repository.path}: {reason}")
        else:
            self.cut_off.append(repository.path)
        known = entry or first_entry(repository)
        self.tell(
            replace(outcome_of(repository), status="not-reached", reason=reason),
            mark=carried(known, reason=reason, attempted_at=now, absence=None),
        )

    def be_late(self, problem: str) -> None:
        """Note that something was not done because the time was up, and nothing else is wrong."""
        self.problems.append(problem)
        self.late.append(problem)

    @property
    def is_only_late(self) -> bool:
        """Whether nothing but its time keeps the run from a success."""
        has_failed = any(outcome.status == "failed" for outcome in self.outcomes())
        return bool(self.late) and self.problems == self.late and not has_failed

    @property
    def left_undone(self) -> bool:
        """Whether the time was up before every repository was done."""
        return bool(self.not_reached or self.cut_off or self.silent)

    def drop(self, identities: Collection[Identity]) -> list[str]:
        """Take back what was noted of some repositories; return the paths of those worked on."""
        for identity in identities:
            self.marks.pop(identity, None)
        worked_on = [self.results.pop(one) for one in identities if one in self.results]
        for result in worked_on:
            reason = "forgotten while it was captured"
            self.others.append(replace(result.outcome, status="failed", reason=reason))
        return sorted(result.outcome.path for result in worked_on)

    def outcomes(self) -> list[Outcome]:
        """Return what came of each repository, by path."""
        both = [*(result.outcome for result in self.results.values()), *self.others]
        return sorted(both, key=lambda outcome: (outcome.path, outcome.host_id))

    def result(self) -> RunResult:
        """Say how it went; the truth behind everything that is said of it."""
        outcomes = self.outcomes()
        statuses = {outcome.status for outcome in outcomes}
        if self.failed or ("failed" in statuses and statuses.isdisjoint(_DONE | {"planned"})):
            return "failed"
        return "partial" if "failed" in statuses or self.problems else "success"

    def entries(
        self, known: Mapping[Identity, Entry], *, before: Mapping[Identity, Entry]
    ) -> Sequence[Entry]:
        """Combine what this run made with what is known besides; the last checked entry wins.

        Args:
            known: what was there before, and what runs beside this one made meanwhile.
            before: what this run began with. It supersedes that whatever the times say: a clock
                may have been wrong.
        """
        entries = {identity: carried(entry) for identity, entry in known.items()}
        own = self.marks | {identity: result.entry for identity, result in self.results.items()}
        for identity, entry in own.items():
            theirs = known.get(identity)
            if theirs is None or _same(theirs, before.get(identity)) or not newer(theirs, entry):
                entries[identity] = entry
        return tuple(sorted(entries.values(), key=lambda entry: (entry.path, entry.host_id)))

    def entries_so_far(
        self, selected: Iterable[Repository], *, known: Mapping[Identity, Entry]
    ) -> list[Entry]:
        """Return what a checkpoint has: what was worked on, and by name what was never reached.

        Args:
            selected: what the run is to work on.
            known: what was there before; other documents name it.
        """
        entries = {identity: result.entry for identity, result in self.results.items()}
        for one in selected:
            identity = (one.kind, one.host_id)
            if identity not in entries and identity not in known and can_be_kept(one):
                first = first_entry(one, reason="not reached yet")
                entries[identity] = self.marks.get(identity, first)
        return list(entries.values())

    def stored(self) -> int:
        """Count the repositories of which something was stored, and the exports."""
        captured = sum(result.outcome.bytes_written > 0 for result in self.results.values())
        return captured + self.exports

    def totals(self, base: Totals) -> Totals:
        """Fill in the number of repositories by what came of them."""
        counts = Counter(outcome.status.replace("-", "_") for outcome in self.outcomes())
        return base.model_copy(update=counts)


def _same(entry: Entry, before: Entry | None) -> bool:
    return before is not None and (entry.record, entry.checked_at, entry.absence) == (
        before.record,
        before.checked_at,
        before.absence,
    )
