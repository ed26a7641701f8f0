"""Which missing files are asked for tonight, and what a record says of very many of them."""

import hashlib
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest

from backup.commands.missing_files import (
    LONGEST_REASON,
    MOST_MISSES,
    Failure,
    Waiting,
    by_turns,
    hundreds,
    is_new,
    missing_lines,
    new_in_order,
    not_asked,
    shuffled,
)
from backup.git.pointers import Pointer
from backup.vault.documents import LfsLine, LfsMissing
from backup.vault.documents_of_files import LfsTurn

NOW = datetime(2026, 3, 1, 2, 30, tzinfo=UTC)
DAY = timedelta(days=1)


def ids(count: int, word: str = "") -> list[Pointer]:
    return [
        Pointer(hashlib.sha256(f"{word}{number}".encode()).hexdigest(), 1)
        for number in range(count)
    ]


def line(
    one: Pointer, since: datetime = NOW, *, permanent: bool = True, asked: bool = True
) -> LfsMissing:
    return LfsMissing(
        oid=one.oid,
        size_bytes=one.size_bytes,
        since=since,
        reason="Object does not exist (404)",
        permanent=permanent,
        asked=asked,
    )


@dataclass
class Nights:
    """A repository none of whose files are at the source."""

    known: dict[Pointer, LfsMissing] = field(default_factory=dict)
    turn: LfsTurn | None = None
    number: int = 0
    most: int = MOST_MISSES

    def night(self, new: Collection[Pointer] = (), *, days: float = 1) -> list[Pointer]:
        """Ask as a run does, and give what was asked for."""
        now = NOW + self.number * DAY
        waiting = Waiting(self.known, self.turn, looked_at=now - days * DAY, now=now)
        never = [one for one, each in self.known.items() if is_new(each)]
        first = new_in_order([*never, *new], self.known, str(self.number))
        order = by_turns(first, waiting.in_order((), str(self.number)))
        asked, left = order[: self.most], frozenset(order[self.most :])
        failures = {one: Failure("none", permanent=True) for one in asked}
        failures |= {
            one: not_asked(self.known.get(one), is_due=one in left)
            for one in {*self.known, *new} - failures.keys()
        }
        lines = missing_lines(failures, self.known, now=now)
        self.turn = waiting.next_turn(frozenset(asked))
        self.known = {Pointer(one.oid, one.size_bytes): one for one in lines}
        self.number += 1
        return asked


@pytest.mark.parametrize("days", [0, 1, 7])
def test_up_to_a_hundred_are_asked_for_each_time(days: int) -> None:
    nights = Nights()
    known = ids(100)
    nights.night(known)
    for _ in range(3):
        assert {*nights.night(days=days)} == {*known}


@pytest.mark.parametrize(("count", "within"), [(101, 2), (1000, 10), (3000, 15)])
def test_of_more_each_is_asked_for_once_in_a_pass(count: int, within: int) -> None:
    nights = Nights({one: line(one, NOW - DAY) for one in ids(count)})
    most = max(100, count // 15)
    for _ in range(2):
        seen = [nights.night() for _ in range(within)]
        assert all(len(asked) <= most for asked in seen)
        assert sorted(one for asked in seen for one in asked) == sorted(nights.known)
        assert nights.turn is None


def test_days_without_a_run_are_made_up_for_and_a_second_run_asks_for_a_hundred() -> None:
    known = {one: line(one, NOW - DAY) for one in ids(9000)}
    assert len(Waiting(known, None, looked_at=NOW, now=NOW).due) == 100
    assert len(Waiting(known, None, looked_at=NOW - 5 * DAY, now=NOW).due) == 3000
    assert len(Waiting(known, None, looked_at=None, now=NOW).due) == 9000


def test_each_is_asked_for_within_30_nights_whatever_was_found_missing_meanwhile() -> None:
    nights = Nights()
    last: dict[Pointer, int] = {}
    for number in range(90):
        new = ids(30, f"{number}.") if number < 60 else []
        asked = nights.night(new)
        last |= dict.fromkeys(asked, number)
        assert all(number - one <= 30 for one in last.values())
    assert len(last) == 30 * 60


@pytest.mark.parametrize("skipped", [200, 400])
def test_what_is_pushed_each_night_puts_off_nothing_that_waits(skipped: int) -> None:
    """Ids that sort first, as many as a night asks for and more: what was there before is asked."""
    honest = Pointer("f" * 64, 1)
    nights = Nights(most=200)
    nights.night([honest])
    asked = [
        honest in nights.night([Pointer("0" + one.oid[1:], 1) for one in ids(skipped, f"{n}.")])
        for n in range(12)
    ]
    # Before it in a pass are those that were there when it began.
    assert asked[0]
    assert sum(asked) >= 2


def test_what_was_never_asked_for_goes_by_when_it_was_seen() -> None:
    nights = Nights(most=200)
    nights.night(ids(400, "a"))
    waits = {one for one, each in nights.known.items() if is_new(each)}
    assert len(waits) == 200
    asked = {*nights.night([Pointer("0" * 63 + "1", 1), *ids(200, "b")])}
    # Some are asked for again that their source did not have.
    asked |= {*nights.night(ids(200, "c"))}
    assert waits <= asked


def test_what_is_due_and_was_not_asked_for_is_no_known_loss_and_stays_in_its_place() -> None:
    known = {one: line(one, NOW - DAY) for one in ids(90)}
    waiting = Waiting(known, None, looked_at=NOW - DAY, now=NOW)
    order = waiting.in_order((), "night")
    assert order == sorted(known)
    turn = waiting.next_turn(order[:40])
    assert turn == LfsTurn(began=NOW, oid=order[39].oid, size_bytes=1)
    assert waiting.next_turn(order[1:]) is None is waiting.next_turn(order)
    failure = not_asked(known[order[40]], is_due=True)
    assert (failure.permanent, failure.asked) == (True, False)
    assert not_asked(known[order[40]], is_due=False).asked
    known = {one: line(one, NOW - DAY, asked=one in order[:40]) for one in known}
    waiting = Waiting(known, turn, looked_at=NOW, now=NOW + DAY)
    assert waiting.in_order((), "next")[:50] == order[40:]


def test_a_file_of_a_clock_that_was_ahead_is_in_the_pass_all_the_same() -> None:
    known = {one: line(one, NOW + 4000 * DAY) for one in ids(3)}
    assert Waiting(known, None, looked_at=NOW, now=NOW).due == known.keys()


def test_only_what_the_source_has_not_waits() -> None:
    known = {one: line(one, permanent=False) for one in ids(500)}
    assert Waiting(known, None, looked_at=NOW, now=NOW).due == known.keys()
    assert (is_new(None), is_new(line(ids(1)[0], asked=False, permanent=False))) == (True, True)
    assert not is_new(line(ids(1)[0], asked=False))


def test_no_order_is_known_before_the_run_has_its_name() -> None:
    some = ids(50)
    assert shuffled(some, "a") != shuffled(some, "b")
    assert sorted(shuffled(some, "a")) == sorted(some)


def test_a_file_is_asked_for_with_one_size_at_a_time() -> None:
    one, other = ids(2)
    again = Pointer(one.oid, 7)
    assert [*hundreds([one, other, again, other])] == [[one, other], [again, other]]
    assert [len(some) for some in hundreds(ids(250))] == [100, 100, 50]


def test_lines_of_very_many_are_lean() -> None:
    count = 20_000
    failures = {one: Failure("x" * LONGEST_REASON, permanent=True) for one in ids(count)}
    lines = missing_lines(failures, {}, now=NOW)
    assert [one.oid for one in lines] == sorted(one.oid for one in failures)
    assert {one.reason for one in lines[1000:]} == {"missing at the source"}
    # A million and more fit into what readers take of a document.
    size_bytes = len(LfsLine(not_stored=lines[1000:]).model_dump_json(exclude_defaults=True))
    assert size_bytes < 200 * count
