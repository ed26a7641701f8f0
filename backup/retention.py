"""Which snapshots retention keeps: windows of time, in UTC, by the manifests' own times. Pure.

A window of days keeps the last snapshot of each of so many days, the newest days that have one;
hours, weeks (ISO 8601), months and years alike. Deciding again about what was kept keeps all of it.

A snapshot goes only for the sake of snapshots that cover it: those with which nothing of it is
lost. Honest ones cover all before them. Others, which someone with the right to add put beside
them, displace none and use no window up.

Which of two is later says `backup.order`; to which hour or day one belongs says its own time alone.

Who may add can also copy what is there, for many hours or days at once. So a snapshot takes an
hour, a day or a week only if the store dates it no further off than that is long: in one go nobody
takes more than three of a kind.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property
from itertools import islice

from backup.order import Place, in_order


@dataclass(frozen=True, slots=True)
class Rules:
    """What is asked for.

    Attributes:
        since: keep every snapshot that finished then or later; None for no such rule.
        within: how people said it.
    """

    since: datetime | None = None
    within: str = ""
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0

    def reaches_back_to(self, now: datetime) -> datetime:
        """Return a time that none of these windows reaches behind, if there is one in each."""
        days = max(
            self.hourly / 24, self.daily, 7 * self.weekly, 31 * self.monthly, 366 * self.yearly
        )
        try:
            until = now - timedelta(days=days)
        except OverflowError:
            until = datetime.min.replace(tzinfo=UTC)
        return until if self.since is None else min(until, self.since)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A run of one owner, all its shards together.

    Attributes:
        finished_at: when the last of them did.
        complete: whether every repository was reached, by every shard.
        off_by: how far the store's time is from this one; nothing where no store keeps time.
        merged: ids of the runs that this one says it has merged.
    """

    id: str
    finished_at: datetime
    complete: bool
    off_by: timedelta = timedelta(0)
    merged: tuple[str, ...] = field(default=(), compare=False)

    @property
    def place(self) -> Place:
        """What its place in the order depends on."""
        return Place((self.id,), self.merged, self.finished_at)


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a snapshot, and why."""

    snapshot: Snapshot
    keep: bool
    reason: str


Covers = Callable[[Snapshot, Snapshot], bool]


def _always(_: Snapshot, __: Snapshot) -> bool:
    return True


def decide(snapshots: Sequence[Snapshot], rules: Rules, covers: Covers = _always) -> list[Decision]:
    """Decide about every snapshot, the newest last.

    What no newer complete one covers is kept whatever the rules say; in an honest history that is
    the newest complete one. So is one that was cut short, where no complete one covers it. Of one
    hour, day, week, month or year a complete snapshot is preferred to one that was cut short.

    Args:
        snapshots: in any order.
        rules: what is asked for.
        covers: whether nothing of the second snapshot is lost as long as the first one is there,
            and the first one may take its place.
    """
    ordered = in_order(snapshots, lambda one: one.place)
    history = _History(ordered, rules, cache(covers))
    return [
        Decision(one, keep=bool(why), reason=", ".join(why) or "no window keeps it")
        for position, one in enumerate(ordered)
        for why in ([*history.reasons(position)],)
    ]


class _History:
    """Snapshots in their order, and who covers whom."""

    def __init__(self, ordered: Sequence[Snapshot], rules: Rules, covers: Covers) -> None:
        self._ordered = ordered
        self._rules = rules
        self._covers = covers
        self._windows = [
            _Window(name, count, timedelta(hours=hours), _by_period(ordered, period))
            for name, count, hours, period in (
                ("hourly", rules.hourly, 1, _hour),
                ("daily", rules.daily, 24, _day),
                ("weekly", rules.weekly, 24 * 7, _week),
                ("monthly", rules.monthly, 24 * 31, _month),
                ("yearly", rules.yearly, 24 * 366, _year),
            )
            if count
        ]

    def reasons(self, position: int) -> Iterator[str]:
        """Yield why a snapshot is kept; nothing where it is not."""
        one = self._ordered[position]
        if self._is_last_of(self._ordered, position):
            later = islice(self._ordered, position + 1, None)
            is_newest = one.complete and not any(k.complete for k in later)
            yield "the newest complete one" if is_newest else "no other one can take its place"
        if self._rules.since is not None and one.finished_at >= self._rules.since:
            yield f"within {self._rules.within}"
        for window in self._windows:
            number, place = window.places[one.id]
            label, period = window.periods[number]
            is_last = self._is_last_of(period, place, length=window.length)
            if is_last and self._is_within(window, number, one):
                yield f"{window.name} {label}"

    def _is_last_of(
        self, some: Sequence[Snapshot], position: int, *, length: timedelta = timedelta.max
    ) -> bool:
        """Return whether no other one of some snapshots displaces the one at a position."""
        one = some[position]
        later = islice(some, position + 1, None)
        if any(self._displaces(k, one, length) for k in later if k.complete or not one.complete):
            return False
        earlier = () if one.complete else islice(some, position)
        return not any(self._displaces(k, one, length) for k in earlier if k.complete)

    def _displaces(self, one: Snapshot, other: Snapshot, length: timedelta) -> bool:
        return one.off_by <= length and self._covers(one, other)

    def _is_within(self, window: "_Window", number: int, one: Snapshot) -> bool:
        """Return whether there are fewer newer periods that have what a snapshot has."""
        newer = 0
        for _, period in islice(window.periods, number + 1, None):
            newer += any(self._displaces(k, one, window.length) for k in period)
            if newer >= window.count:
                return False
        return True


@dataclass(frozen=True)
class _Window:
    """A rule that keeps the last snapshot of each of so many periods.

    Attributes:
        length: of one period, at most.
        periods: labels and snapshots, the oldest first.
        places: for each snapshot the number of its period, and its place in there.
    """

    name: str
    count: int
    length: timedelta
    periods: Sequence[tuple[str, Sequence[Snapshot]]]

    @cached_property
    def places(self) -> dict[str, tuple[int, int]]:
        return {
            one.id: (number, place)
            for number, (_, period) in enumerate(self.periods)
            for place, one in enumerate(period)
        }


def _by_period(
    ordered: Sequence[Snapshot], period: Callable[[datetime], str]
) -> list[tuple[str, list[Snapshot]]]:
    """Group snapshots by their periods, the oldest first, and in each by their order."""
    found: dict[str, list[Snapshot]] = {}
    for one in ordered:
        found.setdefault(period(one.finished_at.astimezone(UTC)), []).append(one)
    return sorted(found.items(), key=lambda pair: pair[1][0].finished_at)


def _hour(moment: datetime) -> str:
    return f"{moment:%Y-%m-%dT%H}"


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d}"


def _week(moment: datetime) -> str:
    year, week, _ = moment.isocalendar()
    return f"{year}-W{week:02}"


def _month(moment: datetime) -> str:
    return f"{moment:%Y-%m}"


def _year(moment: datetime) -> str:
    return f"{moment:%Y}"
