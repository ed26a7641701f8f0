"""Retention decides the same way whatever the history: what it promises, for any of them."""

from datetime import UTC, datetime, timedelta
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st

from backup.retention import Decision, Rules, Snapshot, decide

BEGIN = datetime(2020, 1, 1, tzinfo=UTC)


@st.composite
def histories(draw: st.DrawFn) -> list[Snapshot]:
    hours = draw(st.lists(st.integers(0, 24 * 900), max_size=40))
    return [
        Snapshot(f"s{number:03}", BEGIN + timedelta(hours=hour), draw(st.booleans()))
        for number, hour in enumerate(hours)
    ]


COUNTS = st.integers(0, 8)
RULES = st.builds(
    Rules,
    since=st.one_of(st.none(), st.integers(0, 900).map(lambda day: BEGIN + timedelta(days=day))),
    hourly=COUNTS,
    daily=COUNTS,
    weekly=COUNTS,
    monthly=COUNTS,
    yearly=COUNTS,
)


def kept(decisions: list[Decision]) -> list[Snapshot]:
    return [one.snapshot for one in decisions if one.keep]


@settings(max_examples=300, deadline=None)
@given(histories(), RULES)
def test_every_snapshot_is_kept_or_removed_with_a_reason(
    history: list[Snapshot], rules: Rules
) -> None:
    decisions = decide(history, rules)
    assert sorted(one.snapshot.id for one in decisions) == sorted(one.id for one in history)
    assert all(one.reason for one in decisions)
    times = [one.snapshot.finished_at for one in decisions]
    assert times == sorted(times)


@settings(max_examples=300, deadline=None)
@given(histories(), RULES)
def test_the_newest_complete_one_and_the_young_are_kept(
    history: list[Snapshot], rules: Rules
) -> None:
    alive = kept(decide(history, rules))
    complete = [one for one in history if one.complete]
    if complete:
        newest = max(complete, key=lambda one: (one.finished_at, one.id))
        assert newest in alive
    if rules.since is not None:
        assert {one.id for one in history if one.finished_at >= rules.since} <= {
            one.id for one in alive
        }


@settings(max_examples=300, deadline=None)
@given(histories(), RULES)
def test_deciding_again_removes_nothing_more(history: list[Snapshot], rules: Rules) -> None:
    alive = kept(decide(history, rules))
    assert kept(decide(alive, rules)) == alive


@settings(max_examples=300, deadline=None)
@given(histories(), st.integers(0, 8))
def test_a_window_of_days_keeps_the_last_of_so_many_days(
    history: list[Snapshot], count: int
) -> None:
    alive = kept(decide(history, Rules(daily=count)))
    days = sorted({one.finished_at.date() for one in history}, reverse=True)[:count]
    for day in days:
        of_day = [one for one in history if one.finished_at.date() == day]
        best = [one for one in of_day if one.complete] or of_day
        last = max(best, key=lambda one: (one.finished_at, one.id))
        assert [one for one in alive if one.finished_at.date() == day].count(last) == 1
    # And beside these the newest complete one alone.
    assert len(alive) <= len(days) + 1


@st.composite
def skewed_histories(draw: st.DrawFn) -> tuple[list[Snapshot], dict[str, frozenset[int]]]:
    """Draw runs in the order in which they published, by clocks that differ by minutes.

    Each has merged some of those before it and has all that these have, and something new at times.
    """
    history: list[Snapshot] = []
    has: dict[str, frozenset[int]] = {}
    minutes = 0
    for number in range(draw(st.integers(1, 12))):
        minutes += draw(st.sampled_from([1, 5, 14, 60, 24 * 60]))
        at = BEGIN + timedelta(minutes=minutes + draw(st.integers(-14, 14)))
        merged = tuple(one.id for one in history if draw(st.integers(0, 3)))
        one = Snapshot(f"s{number:03}", at, complete=True, merged=merged)
        behind = frozenset[int]().union(*(has[name] for name in merged))
        has[one.id] = behind | ({number} if draw(st.booleans()) else frozenset())
        history.append(one)
    return draw(st.permutations(history)), has


@settings(max_examples=300, deadline=None)
@given(skewed_histories(), RULES)
def test_whatever_the_clocks_nothing_goes_but_for_what_has_all_of_it(
    drawn: tuple[list[Snapshot], dict[str, frozenset[int]]], rules: Rules
) -> None:
    history, has = drawn
    decisions = decide(history, rules, lambda one, other: has[one.id] >= has[other.id])
    places = {one.snapshot.id: number for number, one in enumerate(decisions)}
    for one in history:
        assert all(places[name] < places[one.id] for name in one.merged)
    alive = kept(decisions)
    for one in history:
        assert any(has[other.id] >= has[one.id] for other in alive)
    named = {name for one in history for name in one.merged}
    newest = max(
        (one for one in history if one.id not in named), key=lambda one: (one.finished_at, one.id)
    )
    assert newest in alive


@st.composite
def histories_with_additions(
    draw: st.DrawFn,
) -> tuple[list[Snapshot], list[Snapshot], dict[str, frozenset[int]]]:
    """Draw honest snapshots, others that someone added, and what each has.

    An honest one has all that those before it have. Of the others none has all of an honest one,
    and each claims to have merged what it likes.
    """
    honest = draw(histories())
    honest.sort(key=lambda one: (one.finished_at, one.id))
    has = {one.id: frozenset(range(number + 1)) for number, one in enumerate(honest)}
    hours = draw(st.lists(st.integers(0, 24 * 900), max_size=40))
    ids = [one.id for one in honest] + [f"x{number:03}" for number in range(len(hours))]
    added = []
    for number, hour in enumerate(hours):
        one = Snapshot(
            f"x{number:03}",
            BEGIN + timedelta(hours=hour),
            draw(st.booleans()),
            merged=tuple(draw(st.sets(st.sampled_from(ids), max_size=9))) if ids else (),
        )
        has[one.id] = frozenset(draw(st.sets(st.integers(1, 60), max_size=3)))
        added.append(one)
    return honest, added, has


def kept_of(
    history: list[Snapshot], rules: Rules, has: dict[str, frozenset[int]]
) -> list[Snapshot]:
    return kept(decide(history, rules, lambda one, other: has[one.id] >= has[other.id]))


@settings(max_examples=300, deadline=None)
@given(histories_with_additions(), RULES)
def test_what_is_added_displaces_nothing_that_it_does_not_have(
    drawn: tuple[list[Snapshot], list[Snapshot], dict[str, frozenset[int]]], rules: Rules
) -> None:
    honest, added, has = drawn
    assert set(kept_of(honest + added, rules, has)) >= set(kept_of(honest, rules, has))


@settings(max_examples=300, deadline=None)
@given(histories_with_additions(), RULES)
def test_deciding_again_removes_nothing_more_whoever_covers_whom(
    drawn: tuple[list[Snapshot], list[Snapshot], dict[str, frozenset[int]]], rules: Rules
) -> None:
    honest, added, has = drawn
    alive = kept_of(honest + added, rules, has)
    again = kept_of(alive, rules, has)
    # A claim to have merged something moves those that it names; when it is gone they have their
    # own places again, and one that gave way to nobody may give way. Nothing is lost by that.
    assert again == alive or any(one.merged for one in added)
    for one in alive:
        assert any(has[other.id] >= has[one.id] for other in again)


@settings(max_examples=300, deadline=None)
@given(histories_with_additions(), RULES)
def test_nothing_is_lost_with_what_goes_but_to_time(
    drawn: tuple[list[Snapshot], list[Snapshot], dict[str, frozenset[int]]], rules: Rules
) -> None:
    honest, added, has = drawn
    alive = kept_of(honest + added, rules, has)
    for one in honest + added:
        assert any(has[other.id] >= has[one.id] for other in alive)


@settings(max_examples=300, deadline=None)
@given(
    histories(),
    st.builds(Rules, daily=st.integers(0, 2), monthly=st.integers(0, 1)),
    st.randoms(use_true_random=False),
)
def test_whatever_goes_is_covered_by_one_that_stays(
    history: list[Snapshot], rules: Rules, random: Random
) -> None:
    """Also where one covers a second, and this a third, of which the first has nothing."""
    history = history[:6]
    pairs = {(one.id, other.id) for one in history for other in history if random.random() < 0.3}

    def covers(one: Snapshot, other: Snapshot) -> bool:
        return (one.id, other.id) in pairs

    decisions = decide(history, rules, covers)
    alive = kept(decisions)
    for one in decisions:
        assert one.keep or any(covers(other, one.snapshot) for other in alive)
