"""Which missing files are asked for tonight, and what a record says of very many of them."""

import hashlib
from datetime import UTC, datetime, timedelta

import pytest

from backup.commands.missing_files import (
    LONGEST_REASON,
    Failure,
    asked_for_later,
    missing_lines,
    not_asked,
    turn_of,
)
from backup.git.pointers import Pointer
from backup.vault.documents import LfsLine, LfsMissing

NOW = datetime(2026, 3, 1, 2, 30, tzinfo=UTC)
DAY = timedelta(days=1)


def missing(count: int, *, permanent: bool = True) -> list[LfsMissing]:
    return [
        LfsMissing(
            oid=hashlib.sha256(b"%d" % number).hexdigest(),
            size_bytes=1,
            since=NOW,
            reason="Object does not exist (404)",
            permanent=permanent,
        )
        for number in range(count)
    ]


def due(known: list[LfsMissing], now: datetime, looked_at: datetime | None) -> set[str]:
    later = asked_for_later(known, looked_at=looked_at, now=now)
    return {one.oid for one in known} - later


@pytest.mark.parametrize("days", [0, 1, 7])
def test_up_to_a_hundred_are_asked_for_each_time(days: int) -> None:
    known = missing(100)
    assert len(due(known, NOW, NOW - days * DAY)) == 100


@pytest.mark.parametrize(
    ("count", "within", "most"), [(101, 2, 80), (1000, 10, 140), (9000, 30, 380)]
)
@pytest.mark.parametrize("pause", [1, 3])
def test_of_more_each_is_asked_for_within_so_many_nights_and_few_each_night(
    count: int, within: int, most: int, pause: int
) -> None:
    known, seen = missing(count), list[str]()
    for day in range(pause, within + pause, pause):
        found = due(known, NOW + day * DAY, NOW + (day - pause) * DAY)
        assert len(found) <= most * pause
        seen += found
    assert {*seen} == {one.oid for one in known}
    # None twice, as far as the nights go round once.
    assert pause > 1 or len(seen) == count


def test_a_second_run_of_a_day_asks_for_none_of_many_and_a_first_one_for_all() -> None:
    known = missing(101)
    assert due(known, NOW, NOW - timedelta(hours=1)) == set()
    assert len(due(known, NOW, None)) == 101
    assert len(due(known, NOW + 400 * DAY, NOW)) == 101


def test_only_what_the_source_has_not_waits() -> None:
    assert len(due(missing(500, permanent=False), NOW, NOW)) == 500


def test_what_was_never_asked_for_comes_first_and_what_is_missing_last() -> None:
    (known,) = missing(1)
    (refused,) = missing(1, permanent=False)
    unasked = refused.model_copy(update={"asked": False})
    assert [turn_of(one) for one in (None, unasked, refused, known)] == [0, 0, 1, 2]
    assert not_asked(known) == Failure(known.reason, permanent=True)
    assert (not_asked(refused).permanent, not_asked(None).asked) == (False, False)


def test_lines_of_very_many_are_lean() -> None:
    count = 20_000
    pointers = {one.oid: Pointer(one.oid, 1) for one in missing(count)}
    failures = {oid: Failure("x" * LONGEST_REASON, permanent=True) for oid in pointers}
    lines = missing_lines(failures, pointers, {}, now=NOW)
    assert [one.oid for one in lines] == sorted(pointers)
    assert {one.reason for one in lines[1000:]} == {"missing at the source"}
    # A million and more fit into what readers take of a document.
    size_bytes = len(LfsLine(not_stored=lines[1000:]).model_dump_json(exclude_defaults=True))
    assert size_bytes < 200 * count
