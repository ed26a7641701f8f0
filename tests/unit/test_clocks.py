"""Whose clock is wrong, and what the documents that it has dated still say."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backup.commands.as_of import contents_at
from backup.commands.clocks import judge, span
from backup.commands.finding import snapshots
from backup.commands.forget import forgotten_line, note_forgotten
from backup.destinations.folder import FolderDestination
from backup.destinations.memory import MemoryDestination
from backup.errors import ConfigError
from backup.model import Key
from backup.times import ServerClock
from backup.vault.documents import encode
from backup.vault.layout import DocumentName
from backup.vault.manifest import (
    State,
    list_documents,
    load_manifest,
    load_state,
    require_findable,
)
from tests.support.times import Timed
from tests.unit.test_manifest import DAY, HOUR, LAYOUT, NOW, entry, put, reasons, run_id

MINUTE = timedelta(minutes=1)


class Store:
    """A vault in memory whose store dates what is written by the moment that a test is at."""

    def __init__(self) -> None:
        self.at = NOW
        self.vault = Timed(MemoryDestination(), lambda: self.at)

    def night(
        self,
        at: datetime,
        *names: str,
        says: str,
        ahead: timedelta = timedelta(),
        end: str = "0000",
    ) -> DocumentName:
        """Store a manifest, by a clock that was so far ahead of the store's."""
        self.at = at
        began = at + ahead - HOUR
        entries = [entry(name, began, reason=says) for name in names]
        return put(self.vault, began, *entries, end=end)

    def change(self, name: DocumentName, **update: object) -> None:
        """Replace a manifest without the store's noticing."""
        changed = load_manifest(self.vault, LAYOUT, name).model_copy(update=update)
        self.vault.delete([LAYOUT.document(name)])
        self.vault.put_if_absent(LAYOUT.document(name), encode(changed))

    def state(self, *, now: datetime = NOW) -> State:
        return load_state(self.vault, LAYOUT, list_documents(self.vault, LAYOUT), now=now)


@pytest.fixture
def store() -> Store:
    return Store()


# --- Documents ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ahead", [80 * MINUTE, 3 * DAY, 365 * DAY])
def test_a_document_that_is_dated_after_its_object_decides_nothing(
    store: Store, ahead: timedelta
) -> None:
    store.night(NOW - 4 * DAY, "a", says="before")
    wrong = store.night(NOW - 3 * DAY, "a", "b", says="wrong", ahead=ahead)
    for now in (NOW - 3 * DAY, NOW, NOW + 1000 * DAY):
        state = store.state(now=now)
        assert reasons(state) == {"a": "before", "b": "wrong"}
        assert state.misdated == (wrong.stem,)
        assert state.newest is not None
        assert state.newest.snapshot_id != wrong.snapshot_id
        assert wrong.stem not in state.merged
    right = store.night(NOW - 2 * DAY, "a", says="after")
    assert reasons(store.state()) == {"a": "after", "b": "wrong"}
    assert store.state().newest == load_manifest(store.vault, LAYOUT, right)


def test_what_only_ends_after_its_object_was_dated_by_a_clock_that_was_set_wrong(
    store: Store,
) -> None:
    store.night(NOW - 2 * DAY, "a", says="before")
    wrong = store.night(NOW - DAY, "a", says="wrong")
    store.change(wrong, finished_at=NOW + 2 * DAY)
    store.at = NOW - DAY
    store.change(wrong)
    state = store.state()
    assert reasons(state) == {"a": "before"}
    assert state.misdated == (wrong.stem,)


def test_ten_minutes_are_no_wrong_clock(store: Store) -> None:
    store.night(NOW - DAY, "a", says="before")
    store.night(NOW, "a", says="after", ahead=10 * MINUTE)
    assert reasons(store.state()) == {"a": "after"}
    assert store.state().misdated == ()


def test_what_lies_in_our_future_alone_is_believed_since_our_clock_is_wrong(store: Store) -> None:
    store.night(NOW - DAY, "a", says="before")
    store.night(NOW, "a", says="after")
    state = store.state(now=NOW - 3 * DAY)
    assert reasons(state) == {"a": "after"}
    assert state.misdated == ()


def test_a_copy_whose_objects_are_newer_proves_nothing(store: Store) -> None:
    for day in (3, 2, 1):
        store.night(NOW, "a", says=f"{day} days ago", ahead=-day * DAY)
    assert reasons(store.state()) == {"a": "1 days ago"}
    assert store.state().misdated == ()


def test_where_every_object_is_older_than_its_document_the_times_of_objects_mean_nothing(
    store: Store,
) -> None:
    for day in (3, 2, 1):
        store.night(NOW - day * DAY - 9 * HOUR, "a", says=f"{day} days ago", ahead=9 * HOUR)
    assert reasons(store.state()) == {"a": "1 days ago"}
    assert store.state().misdated == ()
    assert store.state().newest is not None


def test_a_run_that_saw_the_store_behind_is_believed_unless_we_see_its_future(
    store: Store,
) -> None:
    store.night(NOW - 8 * DAY, "a", says="before")
    name = store.night(NOW - 3 * DAY, "a", says="after", ahead=2 * DAY)
    store.at = NOW - 3 * DAY
    store.change(name, store_behind_seconds=2 * 86_400)
    assert reasons(store.state()) == {"a": "after"}
    assert store.state().misdated == ()
    assert store.state(now=NOW - 3 * DAY).misdated == (name.stem,)
    store.change(name, store_behind_seconds=86_400)
    assert store.state().misdated == (name.stem,)


def test_of_several_misdated_documents_the_store_tells_the_newest(store: Store) -> None:
    store.night(NOW - 9 * DAY, "a", says="right")
    store.night(NOW - 3 * DAY, "b", says="first", ahead=30 * DAY)
    store.night(NOW - 2 * DAY, "b", says="second", ahead=DAY)
    assert reasons(store.state()) == {"a": "right", "b": "second"}


def test_what_was_forgotten_by_a_wrong_clock_stays_forgotten(store: Store) -> None:
    store.night(NOW - DAY, "a", "b", says="there")
    store.at = NOW
    state = store.state()
    assert state.source is not None
    found = next(one for one in state.entries.values() if one.path == "b")
    moment = NOW + 9 * DAY
    line = forgotten_line(found, snapshot_id=run_id(moment), at=moment, reason="asked")
    note_forgotten(store.vault, LAYOUT, state.source, [line])
    assert reasons(store.state()) == {"a": "there"}


def test_a_date_means_what_was_there_by_right_clocks(store: Store) -> None:
    for day in (6, 5, 4):
        store.night(NOW - day * DAY, "a", says=f"{day} days ago")
    store.night(NOW - 6 * DAY + HOUR, "a", says="wrong", ahead=2 * DAY, end="1111")
    for at, says in ((NOW - 4 * DAY + HOUR, "4 days ago"), (NOW - 5 * DAY + HOUR, "5 days ago")):
        (found,) = contents_at(store.vault, LAYOUT, f"{at:%Y-%m-%dT%H:%M:%SZ}", now=NOW).entries
        assert found.entry.reason == says


def test_a_list_has_a_misdated_run_where_the_store_puts_it(store: Store) -> None:
    names = [
        store.night(NOW - 3 * DAY, "a", says=""),
        store.night(NOW - 2 * DAY, "a", says="", ahead=300 * DAY),
        store.night(NOW - DAY, "a", says=""),
    ]
    found = snapshots(store.vault, LAYOUT)
    assert [one.name for one in found] == names
    assert [one.is_misdated for one in found] == [False, True, False]


def test_a_run_by_a_clock_that_is_minutes_ahead_is_older_than_the_one_that_has_merged_it(
    store: Store,
) -> None:
    before = store.night(NOW - 2 * DAY, "a", says="before")
    ahead = store.night(NOW - DAY, "a", says="ahead", ahead=13 * MINUTE)
    right = store.night(NOW - DAY + MINUTE, "a", says="right")
    store.change(right, merged=(before.stem, ahead.stem))
    assert [one.name for one in snapshots(store.vault, LAYOUT)] == [before, ahead, right]
    for at in (f"{NOW - DAY:%Y-%m-%d}", f"{NOW - DAY + HOUR:%Y-%m-%dT%H:%M:%SZ}"):
        (found,) = contents_at(store.vault, LAYOUT, at, now=NOW).entries
        assert found.entry.reason == "right"
    (found,) = contents_at(store.vault, LAYOUT, ahead.snapshot_id, now=NOW).entries
    assert found.entry.reason == "ahead"


def test_what_a_misdated_document_claims_to_have_merged_decides_nothing(store: Store) -> None:
    nights = [store.night(NOW - day * DAY, "a", says=f"{day}") for day in (4, 3, 2)]
    wrong = store.night(NOW - 5 * DAY, "a", says="wrong", ahead=2 * DAY + HOUR)
    store.change(wrong, merged=tuple(one.stem for one in nights))
    assert [one.name for one in snapshots(store.vault, LAYOUT)] == [wrong, *nights]
    assert reasons(store.state()) == {"a": "2"}


def test_an_id_that_readers_would_take_for_a_wrong_clocks_is_refused(store: Store) -> None:
    names = [store.night(NOW - DAY, "a", says=""), store.night(NOW, says="", ahead=300 * DAY)]
    require_findable(run_id(NOW + 10 * MINUTE), names, now=NOW)
    with pytest.raises(ConfigError, match="snapshot-id"):
        require_findable(run_id(NOW + 20 * MINUTE), names, now=NOW)


# --- Clocks ------------------------------------------------------------------------------------


@pytest.mark.parametrize("off", [-3 * DAY, -20 * MINUTE, 20 * MINUTE, 3 * DAY])
def test_of_three_clocks_the_odd_one_is_wrong(off: timedelta) -> None:
    words = span(off)
    other = span(-off)
    ours = judge(NOW + off, store=NOW, source=NOW, source_name="forge")
    assert ours.problem == (f"this machine's clock is {words} that of the store and that of forge")
    store = judge(NOW, store=NOW + off, source=NOW, source_name="forge")
    assert (store.problem, words in store.note) == ("", True)
    assert store.store_behind_seconds == max(0, -off.total_seconds())
    forge = judge(NOW, store=NOW, source=NOW + off, source_name="forge")
    assert (forge.problem, words in forge.note) == ("", True)
    all_three = judge(NOW, store=NOW + off, source=NOW - off, source_name="forge")
    assert other in all_three.problem
    assert words in all_three.problem


@pytest.mark.parametrize("off", [-3 * DAY, -20 * MINUTE, 20 * MINUTE, 3 * DAY])
def test_of_two_clocks_ours_is_taken_for_the_wrong_one(off: timedelta) -> None:
    by_store = judge(NOW + off, store=NOW, source=None, source_name="folder")
    assert by_store.problem == f"this machine's clock is {span(off)} that of the store"
    by_source = judge(NOW + off, store=None, source=NOW, source_name="forge")
    assert by_source.problem == f"this machine's clock is {span(off)} that of forge"
    alone = judge(NOW + off, store=None, source=None, source_name="folder")
    assert (alone.problem, alone.note) == ("", "")


def test_ten_minutes_are_no_difference() -> None:
    for off in (-10 * MINUTE, 10 * MINUTE):
        assert judge(NOW, store=NOW + off, source=NOW - off, source_name="f") == judge(
            NOW, store=NOW, source=NOW, source_name="f"
        )


@pytest.mark.parametrize(
    ("ahead", "words"),
    [(3 * DAY, "3 days ahead of"), (-20 * MINUTE, "20 minutes behind"), (DAY, "24 hours ahead of")],
)
def test_a_difference_is_said_in_its_own_unit(ahead: timedelta, words: str) -> None:
    assert span(ahead) == words


def test_a_servers_clock_goes_on_from_its_last_answer() -> None:
    clock = ServerClock()
    assert clock.now() is None
    clock.hear({"content-type": "text/plain"})
    assert clock.now() is None
    clock.hear({"date": "Sun, 15 Nov 2026 02:30:00 GMT"})
    first, second = clock.now(), clock.now()
    assert first is not None
    assert second is not None
    assert NOW <= first <= second < NOW + HOUR
    clock.hear({"date": "Sun, 15 Nov 2026 02:30:00 GMT", "age": "7200"})
    later = clock.now()
    assert later is not None
    assert NOW + 2 * HOUR <= later < NOW + 3 * HOUR


def test_a_folders_clock_leaves_nothing_behind(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault = FolderDestination(tmp_path / "vault")
    assert vault.now() is None
    assert not (tmp_path / "vault").exists()
    vault.put_if_absent(Key("a"), b"")
    before = (tmp_path / "vault").stat().st_mtime_ns
    for without in (False, True):
        if without:
            monkeypatch.delattr(os, "O_TMPFILE", raising=False)
        there = vault.now()
        assert there is not None
        assert abs(there - datetime.now(UTC)) < HOUR
    assert (tmp_path / "vault").stat().st_mtime_ns == before
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["a"]
