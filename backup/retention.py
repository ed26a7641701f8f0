"""Which snapshots retention keeps: windows of time, in UTC, by the manifests' own times. Pure.

A window of days keeps the last snapshot of each of so many days, the newest days that have one;
hours, weeks (ISO 8601), months and years alike. Deciding again about what was kept keeps all of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime


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


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A run of one owner, all its shards together.

    Attributes:
        finished_at: when the last of them did.
        complete: whether every repository was reached, by every shard.
    """

    id: str
    finished_at: datetime
    complete: bool


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of a snapshot, and why."""

    snapshot: Snapshot
    keep: bool
    reason: str


def decide(snapshots: Sequence[Snapshot], rules: Rules) -> list[Decision]:
    """Decide about every snapshot, the newest last.

    The newest complete one is kept whatever the rules say. Of one hour, day, week, month or year a
    complete snapshot is preferred to one that was cut short.
    """
    ordered = sorted(snapshots, key=lambda one: (one.finished_at, one.id))
    reasons: dict[str, list[str]] = {one.id: [] for one in ordered}
    newest = next((one for one in reversed(ordered) if one.complete), None)
    if newest is not None:
        reasons[newest.id].append("the newest complete one")
    for one in ordered:
        if rules.since is not None and one.finished_at >= rules.since:
            reasons[one.id].append(f"within {rules.within}")
    for name, count, period in (
        ("hourly", rules.hourly, _hour),
        ("daily", rules.daily, _day),
        ("weekly", rules.weekly, _week),
        ("monthly", rules.monthly, _month),
        ("yearly", rules.yearly, _year),
    ):
        for label, chosen in _last_of_each(ordered, period)[:count]:
            reasons[chosen.id].append(f"{name} {label}")
    return [
        Decision(one, keep=bool(why), reason=", ".join(why) or "no window keeps it")
        for one in ordered
        for why in (reasons[one.id],)
    ]


def _last_of_each(
    ordered: Sequence[Snapshot], period: Callable[[datetime], str]
) -> list[tuple[str, Snapshot]]:
    """Choose the last snapshot of each period, the newest period first."""
    chosen: dict[str, Snapshot] = {}
    for one in ordered:
        label = period(one.finished_at.astimezone(UTC))
        known = chosen.get(label)
        if known is None or one.complete or not known.complete:
            chosen[label] = one
    return [(label, chosen[label]) for label in reversed(chosen)]


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
