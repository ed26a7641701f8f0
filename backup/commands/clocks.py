"""Whose clock is wrong: this machine's, the store's, or the source's. Nothing is asked for it.

What a run writes is found and ordered by its own clock. One that is behind would write a state that
every reader takes for an old one, and would say success. So a run compares its clock with that of
the store, which dates the objects, and with that of the source as the third witness.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

from backup.errors import BackupError
from backup.model import Destination, Source
from backup.vault.clocks import MOST_SKEW

SET_IT = "set the clock that is wrong (by NTP) and run again"
_UNITS = (("days", 86_400), ("hours", 3600), ("minutes", 60), ("seconds", 1))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What comparing the clocks gave.

    Attributes:
        problem: why nothing may be written by this machine's clock; empty if it may.
        note: which other clock is wrong; empty if none is.
        store_behind_seconds: how far the store's is behind, where only that one is wrong.
    """

    problem: str = ""
    note: str = ""
    store_behind_seconds: int = 0


class Witnesses:
    """The clocks that a run compares its own with. Belongs to the run's main thread.

    Attributes:
        store_behind_seconds: how far the store's was behind when they were last compared.
    """

    def __init__(self, destination: Destination, source: Source) -> None:
        self._destination = destination
        self._source = source
        self._has_noted = False
        self.store_behind_seconds = 0

    def require(self, now: datetime, *, began: datetime) -> str:
        """Return what is to be noted of another clock, the first time; empty if there is nothing.

        Args:
            now: what this machine's clock shows.
            began: what it showed when the run began.

        Raises:
            BackupError: this machine's clock is wrong, as far as can be told.
        """
        verdict = judge(
            now,
            store=self._destination.now(),
            source=self._source.server_time(),
            source_name=self._source.identity.host,
        )
        problem = verdict.problem
        if not problem and began > now + MOST_SKEW:
            problem = "this machine's clock was set back while the run was at work"
        if problem:
            raise BackupError(f"{problem}: nothing was published", hint=SET_IT)
        self.store_behind_seconds = verdict.store_behind_seconds
        note = "" if self._has_noted else verdict.note
        self._has_noted = self._has_noted or bool(note)
        return note


def judge(
    ours: datetime, *, store: datetime | None, source: datetime | None, source_name: str
) -> Verdict:
    """Find the clock that is wrong, among two or three that show the same moment.

    Where only two are known and they differ, ours is taken to be the wrong one: a run that says why
    it failed costs a night, and a false success may cost a repository.

    Args:
        ours: what this machine's shows.
        store: what the store's shows; None where it is not known.
        source: what the source's shows; None where it has none.
        source_name: how people call the source.
    """
    name = source_name
    if store is None or source is None:
        theirs, whose = (source, name) if store is None else (store, "the store")
        is_wrong = theirs is not None and _differ(ours, theirs)
        return Verdict(problem=difference(ours, theirs, whose) if theirs and is_wrong else "")
    if not _differ(ours, store):
        if not _differ(ours, source):
            return Verdict()
        words = span(source - ours)
        return Verdict(
            note=f"the clock of {name} is {words} that of this machine and that of the store"
        )
    if not _differ(ours, source):
        words = span(store - ours)
        return Verdict(
            note=f"the store's clock is {words} that of this machine and that of {name}: set it",
            store_behind_seconds=max(0, round((ours - store).total_seconds())),
        )
    if not _differ(store, source):
        return Verdict(problem=f"{difference(ours, store, 'the store')} and that of {name}")
    return Verdict(
        problem=f"{difference(ours, store, 'the store')}, and {span(ours - source)} that of {name}"
    )


def disagreement(destination: Destination, now: datetime) -> str:
    """Say how far our clock and the store's differ where that is too much, else nothing."""
    store = destination.now()
    if store is None or not _differ(now, store):
        return ""
    return difference(now, store, "the store")


def difference(ours: datetime, theirs: datetime, whose: str) -> str:
    """Say by how much this machine's clock is ahead of another one or behind it."""
    return f"this machine's clock is {span(ours - theirs)} that of {whose}"


def span(ahead: timedelta) -> str:
    """Say in words how far one clock is ahead of another or behind it."""
    seconds = abs(ahead.total_seconds())
    unit, size = next((one for one in _UNITS if seconds >= 2 * one[1]), _UNITS[-1])
    direction = "ahead of" if ahead > timedelta() else "behind"
    return f"{seconds / size:,.0f} {unit} {direction}"


def _differ(one: datetime, other: datetime) -> bool:
    return abs(one - other) > MOST_SKEW
