"""Which document has all that another one has, by what is stored and not by what is claimed."""

from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backup.destinations.memory import MemoryDestination
from backup.vault.documents import Entry, ForgottenLine, Manifest, PinLine, SourceLine, encode
from backup.vault.inventory import Capture, Coverage, Inventory, Row
from backup.vault.layout import DocumentName, Layout, record_key, repository_folder

LAYOUT = Layout.of(host="git", owner="acme")
BEGIN = datetime(2026, 1, 1, 3, tzinfo=UTC)


def snapshot_id(day: float) -> str:
    return f"{BEGIN + timedelta(days=day):%Y%m%dT%H%M%SZ}-0000"


def record(name: str, day: float) -> str:
    return record_key(repository_folder(path=name, host_id=f"id-{name}"), snapshot_id(day))


class Vault:
    """Documents that a test writes, and records that it says are stored."""

    def __init__(self, *forgotten: ForgottenLine) -> None:
        self.destination = MemoryDestination()
        self.captured: dict[str, datetime] = {}
        self.previous: dict[str, str] = {}
        self.asked: list[str] = []
        self.inventory = Inventory(
            self.destination, LAYOUT, forgotten=forgotten, capture_of=self._capture_of
        )

    def _capture_of(self, key: str) -> Capture | None:
        self.asked.append(key)
        at = self.captured.get(key)
        return None if at is None else Capture(at, self.previous.get(key))

    def row(self, day: float, records: dict[str, str | None], **more: Any) -> Row:
        """Write a manifest that finished on a day and names records, and read it."""
        pins: dict[str, str] = more.pop("pins", {})
        finished_at = BEGIN + timedelta(days=day, minutes=5)
        document = Manifest(
            format=1,
            document="manifest",
            snapshot_id=snapshot_id(day),
            started_at=finished_at,
            finished_at=finished_at,
            version="0",
            source=SourceLine(provider="git", host="git", owner="acme"),
            complete=True,
            result="success",
            entries=tuple(
                Entry(
                    host_id=f"id-{name}",
                    path=name,
                    record=key,
                    pins=_pins(pins.get(name)),
                )
                for name, key in records.items()
            ),
            **more,
        )
        name = DocumentName(document.snapshot_id)
        self.destination.delete([LAYOUT.document(name)])
        self.destination.put_if_absent(LAYOUT.document(name), encode(document))
        row = self.inventory.read(name, None)
        named = (key for key in records.values() if key is not None)
        self.store(*named)
        return row

    def store(self, *keys: str) -> None:
        self.inventory.note_stored(keys)


def _pins(key: str | None) -> tuple[PinLine, ...]:
    if key is None:
        return ()
    return (PinLine(record=key, snapshot_id=snapshot_id(0), at=BEGIN, reason="all gone"),)


def forgotten(name: str) -> ForgottenLine:
    return ForgottenLine(
        host_id=f"id-{name}",
        kind="code",
        path=name,
        snapshot_id=snapshot_id(0),
        at=BEGIN,
        reason="asked for by name",
    )


@pytest.mark.parametrize("count", [1, 300, 1000])
def test_each_night_covers_those_before_it_and_none_after_it(count: int) -> None:
    vault = Vault()
    names = [f"r{number}" for number in range(count)]
    first = vault.row(0, {name: record(name, 0) for name in names})
    second = vault.row(1, {name: record(name, 0) for name in names})
    third = vault.row(2, {name: record(name, 2) for name in [*names, "new"]})
    for later, earlier in ((second, first), (third, second), (third, first)):
        assert vault.inventory.covers(later, earlier)
    assert vault.asked == []
    assert vault.inventory.covers(first, second)
    assert not vault.inventory.covers(second, third)


def test_what_lacks_one_repository_covers_nothing_that_has_it() -> None:
    vault = Vault()
    names = [f"r{number}" for number in range(600)]
    whole = vault.row(0, {name: record(name, 0) for name in names})
    for missing in (names[0], names[300], names[-1]):
        part = vault.row(1, {name: record(name, 0) for name in names if name != missing})
        assert not vault.inventory.covers(part, whole)
        none = vault.row(1, {name: None if name == missing else record(name, 0) for name in names})
        assert not vault.inventory.covers(none, whole)


def test_a_later_record_counts_if_it_is_stored_and_of_that_repository_and_time() -> None:
    vault = Vault()
    before = vault.row(0, {"a": record("a", 0)})
    assert vault.inventory.covers(vault.row(2, {"a": record("a", 1)}), before)
    assert not vault.inventory.covers(vault.row(2, {"a": record("b", 1)}), before)
    assert not vault.inventory.covers(vault.row(2, {"a": record("a", 3)}), before)
    other = Vault()
    before = other.row(0, {"a": record("a", 0)})
    other.store = lambda *keys: None  # type: ignore[method-assign]
    assert not other.inventory.covers(other.row(2, {"a": record("a", 1)}), before)


def test_where_ids_disagree_the_records_themselves_tell_which_is_later() -> None:
    """Two runs at once: the one that began first captured the repository last."""
    vault = Vault()
    early, late = record("a", 1), record("a", 1.1)
    quick = vault.row(1.2, {"a": late})
    slow = vault.row(1.5, {"a": early})
    vault.captured = {late: BEGIN + timedelta(days=1.1), early: BEGIN + timedelta(days=1.3)}
    assert vault.inventory.covers(slow, quick)
    assert not vault.inventory.covers(slow, quick, by_names=True)
    assert sorted(vault.asked) == [early, late]
    # Whoever names an old record does not cover what came after it.
    old = vault.row(2, {"a": record("a", 0)})
    vault.captured[record("a", 0)] = BEGIN
    assert not vault.inventory.covers(old, quick)
    # One that cannot be read is later than nothing.
    unreadable = vault.row(3, {"a": record("a", 0.5)})
    assert not vault.inventory.covers(unreadable, quick)


MINUTE = 1 / 1440


def name_of(row: Row) -> str:
    (stem,) = row.stems
    return stem


def test_what_has_merged_a_document_is_not_covered_by_it_but_where_both_are_the_same() -> None:
    """The clock of the first was days ahead, and the store of both has no other one."""
    vault = Vault()
    same, one, other = record("a", 0), record("b", 3), record("b", 1)
    ahead = vault.row(3, {"a": same, "b": one})
    right = vault.row(1, {"a": same, "b": other}, merged=(name_of(ahead),))
    assert not vault.inventory.covers(ahead, right)
    assert not Coverage(vault.inventory, [ahead, right]).covers(ahead, right)
    alike = vault.row(1.1, {"a": same, "b": one}, merged=(name_of(ahead),))
    assert vault.inventory.covers(ahead, alike)
    assert vault.inventory.covers(alike, ahead)


def test_of_records_within_minutes_the_one_that_goes_on_from_the_other_is_later() -> None:
    vault = Vault()
    first, second, third = record("a", 13 * MINUTE), record("a", 0), record("a", 2 * MINUTE)
    moments = ((first, 13), (second, 0), (third, 2))
    vault.captured = {key: BEGIN + timedelta(minutes=minute) for key, minute in moments}
    vault.previous = {second: first, third: second}
    ahead, right = vault.row(14 * MINUTE, {"a": first}), vault.row(1 * MINUTE, {"a": second})
    last = vault.row(3 * MINUTE, {"a": third})
    for later, earlier in ((right, ahead), (last, ahead), (last, right)):
        assert vault.inventory.covers(later, earlier)
        assert not vault.inventory.covers(earlier, later)
        # Without a record that would have to be read.
        assert not vault.inventory.covers(earlier, later, by_names=True)
        assert not vault.inventory.covers(later, earlier, by_names=True)


def test_of_two_runs_at_once_the_records_tell_also_where_the_ids_seem_to() -> None:
    """Each was under way for hours; the one that began last captured the repository first."""
    vault = Vault()
    early, late = record("a", 0), record("a", 1 / 24)
    slow, quick = vault.row(6 / 24, {"a": early}), vault.row(5 / 24, {"a": late})
    vault.captured = {
        early: BEGIN + timedelta(hours=4),
        late: BEGIN + timedelta(hours=1, minutes=10),
    }
    assert vault.inventory.covers(slow, quick)
    assert not vault.inventory.covers(quick, slow)


def test_who_claims_to_have_merged_a_document_covers_nothing_by_that() -> None:
    vault = Vault()
    honest = vault.row(1, {"a": record("a", 1), "b": record("b", 0)})
    old = {"a": record("a", 0), "b": record("b", 0)}
    vault.captured = {record("a", day): BEGIN + timedelta(days=day) for day in (0, 1)}
    claimed: list[dict[str, str | None]] = [{}, {"b": record("b", 0)}, {**old}]
    for records in claimed:
        claims = vault.row(2, records, merged=(name_of(honest),))
        assert not vault.inventory.covers(claims, honest)
        assert not Coverage(vault.inventory, [claims, honest]).covers(claims, honest)


def test_records_that_name_each_other_in_a_circle_are_not_followed_for_ever() -> None:
    vault = Vault()
    first, second, known = record("a", 0), record("a", MINUTE), record("a", 2 * MINUTE)
    vault.captured = dict.fromkeys((first, second), BEGIN) | {known: BEGIN + timedelta(minutes=1)}
    vault.previous = {first: second, second: first}
    row, other = vault.row(3 * MINUTE, {"a": first}), vault.row(4 * MINUTE, {"a": known})
    assert not vault.inventory.covers(row, other)
    assert vault.inventory.covers(other, row)


def test_a_pin_must_be_kept() -> None:
    vault = Vault()
    pins = {"a": record("a", 0)}
    pinned = vault.row(1, {"a": record("a", 1)}, pins=pins)
    assert vault.inventory.covers(vault.row(2, {"a": record("a", 1)}, pins=pins), pinned)
    assert not vault.inventory.covers(vault.row(2, {"a": record("a", 1)}), pinned)


def test_what_was_forgotten_need_not_be_there_and_does_not_count() -> None:
    line = forgotten("a")
    vault = Vault(line)
    unaware = vault.row(0, {"a": record("a", 0), "b": record("b", 0)})
    aware = vault.row(1, {"b": record("b", 0)}, forgotten=(line,))
    assert vault.inventory.covers(aware, unaware)
    # Begun again, it counts; one that does not know of it has nothing of it.
    again = vault.row(2, {"a": record("a", 2), "b": record("b", 0)}, forgotten=(line,))
    assert not vault.inventory.covers(aware, again)
    later = vault.row(3, {"a": record("a", 2), "b": record("b", 0)})
    assert not vault.inventory.covers(later, again)


def test_lines_of_honest_documents_and_of_others_are_told_apart() -> None:
    vault = Vault()
    rows = {day: vault.row(day, {"a": record("a", day), "b": record("b", 0)}) for day in range(6)}
    added = {
        day: vault.row(day + 0.5, {"a": record("a", day), "c": record("c", day)})
        for day in range(6)
    }
    coverage = Coverage(vault.inventory, [*rows.values(), *added.values()])
    for day, row in rows.items():
        for other, earlier in rows.items():
            assert coverage.covers(row, earlier) == (day >= other)
        for other, one in added.items():
            assert not coverage.covers(one, row)
            assert not coverage.covers(row, one)
            assert coverage.covers(one, added[0])
            assert other >= 0


def test_an_invented_document_between_two_makes_none_of_them_cover_the_other() -> None:
    """It claims to be later than one and from before it, so that the other only seems later."""
    vault = Vault()
    vault.captured = {record("a", day): BEGIN + timedelta(days=day) for day in (0, 5, 10, 20)}
    first = vault.row(0, {"a": record("a", 0)})
    honest = vault.row(10, {"a": record("a", 10)})
    between = vault.row(1.5, {"a": record("a", 10)}, merged=(name_of(honest),))
    claims = vault.row(10.5, {"a": record("a", 5)}, merged=(name_of(between),))
    vault.store(record("a", 5))
    assert vault.inventory.covers(between, honest)
    # Not even the invented one is covered: what it names is later, whatever its own time.
    assert not vault.inventory.covers(claims, between)
    assert not Coverage(vault.inventory, [first, honest, between, claims]).covers(claims, honest)
    # Nor does one that names what came after its own end, by way of one that names it rightly.
    last = vault.row(20, {"a": record("a", 20)}, merged=(name_of(honest),))
    early = vault.row(10.2, {"a": record("a", 20)}, merged=(name_of(last),))
    coverage = Coverage(vault.inventory, [first, honest, last, early])
    assert coverage.covers(last, honest)
    assert coverage.covers(early, last)
    assert not coverage.covers(early, honest)


@settings(max_examples=200)
@given(st.randoms(use_true_random=False))
def test_what_follows_from_neighbours_is_so(random: Random) -> None:
    """Whatever documents say of their times, their records, and what they have merged."""
    vault = Vault()
    keys = [record("a", day) for day in range(6)]
    vault.captured = {key: BEGIN + timedelta(days=day) for day, key in enumerate(keys)}
    vault.store(*keys)
    days = [random.randrange(6) + number / 24 for number in range(5)]
    stems = [f"snapshots/{snapshot_id(day)}" for day in days]
    rows = [
        vault.row(
            day,
            {"a": keys[random.randrange(6)]},
            merged=tuple(random.sample(stems, random.randrange(3))),
        )
        for day in days
    ]
    coverage = Coverage(vault.inventory, rows)
    for row in rows:
        for other in rows:
            if coverage.covers(row, other):
                assert vault.inventory.covers(row, other)


def test_shards_of_one_run_are_one_row() -> None:
    vault = Vault()
    whole = vault.row(0, {"a": record("a", 0), "b": record("b", 0)})
    first = vault.row(1, {"a": record("a", 0)})
    second = vault.row(2, {"b": record("b", 2)})
    assert not vault.inventory.covers(first, whole)
    together = vault.inventory.together([first, second])
    assert vault.inventory.covers(together, whole)
    assert not vault.inventory.covers(whole, together)
    assert together.header.finished_at == second.header.finished_at
