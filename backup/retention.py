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
from functools import cache
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
    """Snapshots in their order, and who covers whom.

    Of three, one may cover the second and this one the third, and something of the third would be
    lost with it all the same, where somebody invented the second. So whatever goes is covered by
    one that stays, and not by one that goes as well.
    """

    def __init__(self, ordered: Sequence[Snapshot], rules: Rules, covers: Covers) -> None:
        self._ordered = ordered
        self._rules = rules
        self._covers = covers
        self._last = {one.id for one in self._last_of(ordered, timedelta.max)}
        self._windows = [
            (window, {one.id: label for label, one in self._kept_by(window)})
            for window in (
                _Window(name, count, timedelta(hours=hours), _by_period(ordered, period))
                for name, count, hours, period in (
                    ("hourly", rules.hourly, 1, _hour),
                    ("daily", rules.daily, 24, _day),
                    ("weekly", rules.weekly, 24 * 7, _week),
                    ("monthly", rules.monthly, 24 * 31, _month),
                    ("yearly", rules.yearly, 24 * 366, _year),
                )
                if count
            )
        ]

    def reasons(self, position: int) -> Iterator[str]:
        """Yield why a snapshot is kept; nothing where it is not."""
        one = self._ordered[position]
        if one.id in self._last:
            later = islice(self._ordered, position + 1, None)
            is_newest = one.complete and not any(k.complete for k in later)
            yield "the newest complete one" if is_newest else "no other one can take its place"
        if self._rules.since is not None and one.finished_at >= self._rules.since:
            yield f"within {self._rules.within}"
        for window, kept in self._windows:
            if one.id in kept:
                yield f"{window.name} {kept[one.id]}"

    def _last_of(self, some: Sequence[Snapshot], length: timedelta) -> list[Snapshot]:
        """Choose of some snapshots those that displace all the others.

        Args:
            some: in their order.
            length: of the time that they are of, at most.
        """
        found: list[tuple[int, Snapshot]] = []
        for is_complete in (True, False):
            for place, one in reversed([*enumerate(some)]):
                if one.complete == is_complete and not any(
                    self._displaces(k, one, length)
                    for k_place, k in found
                    if k.complete or k_place > place
                ):
                    found.append((place, one))
        return [one for _, one in found]

    def _displaces(self, one: Snapshot, other: Snapshot, length: timedelta) -> bool:
        return one.off_by <= length and self._covers(one, other)

    def _kept_by(self, window: "_Window") -> Iterator[tuple[str, Snapshot]]:
        """Yield what a window keeps, with its period.

        That is the last of a period, unless as many newer periods as the window counts keep a
        snapshot that has all of it.
        """
        kept: list[list[Snapshot]] = []
        for label, period in reversed(window.periods):
            here = [
                one
                for one in self._last_of(period, window.length)
                if window.count
                > sum(any(self._displaces(k, one, window.length) for k in newer) for newer in kept)
            ]
            if here:
                kept.append(here)
            yield from ((label, one) for one in here)


@dataclass(frozen=True)
class _Window:
    """A rule that keeps the last snapshot of each of so many periods.

    Attributes:
        length: of one period, at most.
        periods: labels and snapshots, the oldest first.
    """

    name: str
    count: int
    length: timedelta
    periods: Sequence[tuple[str, Sequence[Snapshot]]]


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
