"""Whose turn it is when a drill may not look at everything."""

import itertools
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from backup.commands.drills import DrillState
from backup.commands.sampling import Candidate, choose
from backup.vault.fields import Depth
from backup.vault.manifest import Identity

START = datetime(2026, 1, 3, 9, 43, tzinfo=UTC)
WEEK = timedelta(days=7)


def candidate(number: int, made_by: str = "20260101T031500Z-4f9c2a1b", **more: object) -> Candidate:
    key = f"repositories/r{number:04d}/{number}/{made_by}.record.json.gz"
    return Candidate(("code", str(number)), f"r{number:04d}", key, **more)  # type: ignore[arg-type]


class Drills:
    """Drills of one depth in a row, each of which knows what those before it looked at."""

    def __init__(self) -> None:
        self.looks: dict[tuple[Identity, Depth], datetime] = {}
        self.proved: dict[Identity, list[datetime]] = {}

    def hold(
        self,
        candidates: Sequence[Candidate],
        at: datetime,
        *,
        percent: int,
        depth: Depth = "restore",
        most_bytes: int | None = None,
        never_proved: frozenset[Identity] = frozenset(),
    ) -> frozenset[Identity]:
        state = DrillState(last_looks=self.looks)
        chosen = choose(candidates, state, depth=depth, percent=percent, most_bytes=most_bytes)
        for identity in chosen:
            self.looks[identity, depth] = at
            if identity not in never_proved:
                self.proved.setdefault(identity, []).append(at)
        return chosen


@pytest.mark.parametrize("count", [1, 7, 100, 997])
@pytest.mark.parametrize("percent", [8, 10, 34])
def test_a_weekly_drill_proves_everything_within_90_days(count: int, percent: int) -> None:
    drills, everything = Drills(), [candidate(number) for number in range(count)]
    weeks = -(-100 // percent)
    assert (weeks - 1) * WEEK <= timedelta(days=90)
    for week in range(3 * weeks):
        drills.hold(everything, START + week * WEEK, percent=percent)
    for one in everything:
        times = drills.proved[one.identity]
        assert times[0] - START <= timedelta(days=90)
        # From then on within one round, whichever weeks they fell on.
        assert all(later - sooner <= weeks * WEEK for sooner, later in itertools.pairwise(times))


def test_so_it_does_while_some_fail_or_are_archived_and_new_ones_come_each_week() -> None:
    drills, everything = Drills(), [candidate(number) for number in range(200)]
    # Looked at, and never proved: they must not be chosen each time for it.
    stuck = frozenset(one.identity for one in everything[::9])
    began = {one.identity: START for one in everything}
    for week in range(60):
        now = START + week * WEEK
        for _ in range(2):
            new = candidate(len(everything))
            began[new.identity] = now
            everything.append(new)
        if week % 13 != 5:  # a week in which the runner was not to be had
            drills.hold(everything, now, percent=10, never_proved=stuck)
    end = START + 60 * WEEK
    for one in everything:
        if one.identity in stuck or end - began[one.identity] < timedelta(days=90):
            continue
        times = [began[one.identity], *drills.proved[one.identity], end]
        gaps = [later - sooner for sooner, later in itertools.pairwise(times)]
        assert max(gaps) <= timedelta(days=90), one.name


def test_what_nothing_ever_looked_into_comes_before_all_until_it_was_read() -> None:
    everything = [candidate(number) for number in range(10)]
    drills = Drills()
    drills.hold(everything, START, percent=50)
    unproven = candidate(0, unproven=True)
    everything[0] = unproven
    later = START + timedelta(days=2)
    drills.looks.clear()
    assert drills.hold(everything, later, percent=10) == {unproven.identity}
    assert unproven.identity not in drills.hold(everything, later + WEEK, percent=10)


def test_a_look_to_a_lesser_depth_is_no_proof() -> None:
    everything = [candidate(number) for number in range(10)]
    drills = Drills()
    first = drills.hold(everything, START, percent=10, depth="restore")
    drills.hold(everything, START + WEEK, percent=100, depth="objects")
    second = drills.hold(everything, START + 2 * WEEK, percent=10, depth="restore")
    assert first.isdisjoint(second)
    # A look to a greater one is.
    third = drills.hold(everything, START + 3 * WEEK, percent=80, depth="packs")
    assert third.isdisjoint(first | second)


def test_bytes_end_a_sample_and_what_does_not_fit_waits_until_it_is_first() -> None:
    sizes = [40, 30, 500, 20, 60]
    everything = [candidate(n, size_bytes=size) for n, size in enumerate(sizes)]
    drills = Drills()
    chosen = [
        sorted(
            int(host_id)
            for _, host_id in drills.hold(
                everything, START + week * WEEK, percent=100, most_bytes=100
            )
        )
        for week in range(5)
    ]
    assert chosen == [[0, 1, 3], [2], [0, 4], [0, 1, 3], [2]]


@settings(max_examples=40, deadline=None)
@given(
    count=st.integers(1, 120),
    busy_percent=st.integers(0, 100),
    days=st.sampled_from([7, 7, 7, 3, 1]),
)
@example(count=100, busy_percent=9, days=7)
@example(count=100, busy_percent=90, days=7)
def test_what_changes_each_night_unproven_leaves_the_others_their_turn(
    count: int, busy_percent: int, days: int
) -> None:
    drills, busy = Drills(), count * busy_percent // 100
    step = timedelta(days=days)
    for number in range(400 // days):
        now = START + number * step
        made_by = f"{now - timedelta(hours=3):%Y%m%dT%H%M%SZ}-4f9c2a1b"
        everything = [
            candidate(n, unproven=True, made_by=made_by) if n < busy else candidate(n)
            for n in range(count)
        ]
        drills.hold(everything, now, percent=10)
    end = START + timedelta(days=400)
    for one in everything:
        times = [START, *drills.proved[one.identity], end]
        gaps = [later - sooner for sooner, later in itertools.pairwise(times)]
        assert max(gaps) <= timedelta(days=90), one.name


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(0, 150), min_size=2, max_size=25),
    busy=st.sets(st.integers(0, 24)),
    percent=st.sampled_from([10, 50, 100]),
)
@example(sizes=[60, *([1] * 24)], busy={0}, percent=10)
def test_no_size_takes_the_turn_of_others_or_loses_its_own(
    sizes: list[int], busy: set[int], percent: int
) -> None:
    drills, most_bytes, weeks = Drills(), 50, 4 * len(sizes) + 12
    rounds: list[frozenset[Identity]] = []
    for week in range(weeks):
        now = START + week * WEEK
        made_by = f"{now - timedelta(hours=3):%Y%m%dT%H%M%SZ}-4f9c2a1b"
        everything = [
            candidate(n, size_bytes=size, unproven=n in busy, made_by=made_by)
            for n, size in enumerate(sizes)
        ]
        rounds.append(drills.hold(everything, now, percent=percent, most_bytes=most_bytes))
    for one in everything:
        weeks_of_it = [-1, *(n for n, some in enumerate(rounds) if one.identity in some), weeks]
        for sooner, later in itertools.pairwise(weeks_of_it):
            assert later - sooner <= len(sizes) + 3
            if one.size_bytes > most_bytes and sooner >= 0 and later < weeks:
                # Between two turns of what takes a whole drill all others had theirs.
                seen = frozenset[Identity]().union(*rounds[sooner:later])
                assert len(seen) == len(sizes)
