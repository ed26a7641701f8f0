"""What times tell prune: those of copies, of what is dated for many days at once, of nonsense.

Nothing is deleted because of a time that somebody else may choose, and none of them stops prune.
"""

import gzip
import json
import os
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backup.destinations.folder import FolderDestination
from backup.destinations.memory import MemoryDestination
from backup.errors import ExitCode
from backup.model import Key, ObjectVersions
from backup.vault.layout import DocumentName, snapshot_time
from tests.faults.test_prune import LAYOUT, Estate, newest, push
from tests.faults.test_prune_trust import forge, grown, manifest_of, record_of
from tests.support.dated import DatedDestination
from tests.support.times import Timed

NEWER = gzip.compress(json.dumps({"format": 2, "document": "of tomorrow"}).encode())


@pytest.fixture
def dated(tmp_path: Path) -> Estate:
    """Have a store that keeps time."""
    return Estate(tmp_path, DatedDestination(MemoryDestination()))


def store_of(estate: Estate) -> DatedDestination:
    assert isinstance(estate.vault, DatedDestination)
    return estate.vault


def copied(estate: Estate) -> None:
    """Have another tool copy the vault here, so that the store dates everything today."""
    store = store_of(estate)
    store.times |= {stored.key: estate.now for stored in store.list("")}


def nights_of(estate: Estate, count: int, *, days: float) -> list[str]:
    made = []
    for number in range(count):
        push(estate.source / "one.git", f"{estate.now} {number}")
        made.append(estate.night(days=days, full_after_days=10_000))
    return made


# --- Copies -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rule", [{"daily": 30}, {"hourly": 2}, {"monthly": 1, "daily": 1}])
def test_a_copy_that_rests_keeps_every_snapshot_however_long(
    dated: Estate, rule: dict[str, Any]
) -> None:
    made = grown(dated, nights=6)
    dated.now += timedelta(days=20)
    copied(dated)
    before = dated.stored()
    for days in (1, 29, 31, 400):
        report = dated.prune(at=dated.now + timedelta(days=days), **rule)
        assert (report.exit_code, report.remove) == (0, ())
        assert dated.snapshots() == set(made)
        assert dated.stored() >= before
    dated.assert_whole()


def test_the_nights_after_a_copy_take_no_window_from_it_that_is_not_theirs(dated: Estate) -> None:
    """Days without a snapshot use no day up, in a copy as anywhere."""
    months = grown(dated, nights=9, days=30, full_after_days=10_000)
    dated.now += timedelta(days=20)
    copied(dated)
    later = nights_of(dated, 3, days=15)
    report = dated.prune(daily=30)
    assert (report.exit_code, report.remove) == (0, ())
    assert dated.snapshots() == {*months, *later}
    dated.assert_whole()


def test_what_was_copied_goes_when_nights_after_it_have_taken_its_windows(dated: Estate) -> None:
    made = grown(dated, nights=5, days=5)
    # From now on it sleeps: only the copy has its newest record.
    asleep = dated.repository("asleep")
    made += nights_of(dated, 2, days=5)
    push(asleep, "for the last time")
    made += nights_of(dated, 2, days=5)
    dated.now += timedelta(days=20)
    copied(dated)
    copied_on = dated.now
    nights_of(dated, 1, days=0.5)
    nights_of(dated, 2, days=1)
    # No day is left for them, but the rule reaches back to the day of the copy.
    report = dated.prune(daily=3, grace_days=1)
    reason = f"stored on {copied_on:%Y-%m-%d}, far from its own time"
    assert [one.snapshot_id for one in report.keep if one.reason == reason] == made
    assert report.remove == ()
    later = nights_of(dated, 3, days=1)
    report = dated.prune(daily=3, grace_days=1)
    assert dated.snapshots() == set(later)
    assert {one.reason for one in report.remove} == {"no window keeps it"}
    dated.assert_whole()
    # What they needed may be needed by manifests that nobody copied.
    dated.now += timedelta(days=30)
    (note,) = dated.prune(daily=3).notes
    assert "objects are older than the oldest manifest there was" in note.message
    assert dated.prune(daily=3, accept_missing_index=True).objects > len(made)
    dated.assert_whole()


# --- Many at once -------------------------------------------------------------------------------


def copies_for_every_hour(estate: Estate, made: list[str], *, days: int) -> None:
    """Add what honest nights say once more, for each hour of the last days, in one go."""
    for hour in range(1, days * 24):
        at = estate.now - timedelta(hours=hour)
        night = max(one for one in made if snapshot_time(one) <= at - timedelta(minutes=2))
        manifest = manifest_of(estate, night)
        forge(estate, at + timedelta(minutes=30), manifest.entries, merged=manifest.merged)


@pytest.mark.parametrize(
    ("rule", "kept"), [({"hourly": 30}, 29), ({"hourly": 10, "daily": 14}, 13)]
)
def test_who_adds_copies_for_many_hours_takes_one_of_them(
    dated: Estate, rule: dict[str, Any], kept: int
) -> None:
    made = grown(dated, nights=32, days=1)
    copies_for_every_hour(dated, made, days=3)
    assert dated.prune(**rule).exit_code == 0
    assert dated.snapshots() >= set(made[-kept:])
    dated.prune(at=dated.now + timedelta(hours=3), **rule)
    assert dated.snapshots() >= set(made[-kept:])


def test_who_adds_copies_for_days_to_come_takes_none_of_them(dated: Estate) -> None:
    """A run that finds the store's clock behind says so, and is believed when its day has come."""
    made = grown(dated, nights=10, days=1)
    last = manifest_of(dated, made[-1])
    for day in range(2, 12):
        forge(
            dated,
            dated.now + timedelta(days=day),
            last.entries,
            store_behind_seconds=12 * 86_400,
        )
    for later in (1, 20):
        report = dated.prune(daily=10, at=dated.now + timedelta(days=later))
        assert (report.exit_code, report.refused) == (0, ())
        assert dated.snapshots() >= set(made)


# --- Times of files -----------------------------------------------------------------------------


@pytest.mark.parametrize("when", [datetime.fromtimestamp(0, UTC), datetime(1999, 1, 1, tzinfo=UTC)])
def test_nothing_goes_because_of_the_times_of_files(tmp_path: Path, when: datetime) -> None:
    estate = Estate(tmp_path)
    estate.vault = Timed(FolderDestination(tmp_path / "vault"), lambda: estate.now)
    made = grown(estate, nights=5, days=3)
    for path in (tmp_path / "vault").rglob("*"):
        if path.is_file():
            os.utime(path, (when.timestamp(), when.timestamp()))
    made += nights_of(estate, 1, days=13)
    before = estate.stored()
    for days in (1, 60):
        estate.now += timedelta(days=days)
        report = estate.prune(daily=30, at=estate.now)
        assert (report.exit_code, report.remove) == (0, ())
        assert estate.snapshots() == set(made)
        assert estate.stored() >= before
    estate.assert_whole()


# --- Overwritten ones ---------------------------------------------------------------------------


class Overwritten(DatedDestination):
    """Keeps versions; over each manifest somebody has put another one, much later.

    What is stored here is the first version, what it is dated is the time of the current one.
    """

    def versions(self, prefix: str) -> Iterator[ObjectVersions]:
        for stored in super().list(prefix):
            if stored.key in self.times:
                name = LAYOUT.parse_document(stored.key)
                assert name is not None
                at = name.time + timedelta(minutes=1)
                yield ObjectVersions(stored.key, "first", 2, stored.size_bytes, stored_at=at)


@pytest.mark.parametrize("is_overwritten", [False, True])
def test_manifests_that_were_overwritten_are_as_old_as_they_were(
    tmp_path: Path, is_overwritten: bool
) -> None:
    store = Overwritten(MemoryDestination())
    estate = Estate(tmp_path, store)
    made = grown(estate, nights=8)
    if is_overwritten:
        store.times |= {
            LAYOUT.document(DocumentName(one)): estate.now - timedelta(days=4) for one in made[:-1]
        }
    report = estate.prune(daily=3)
    assert [one.snapshot_id for one in report.keep] == made[-3:]
    store.times.clear()
    again = estate.prune(daily=3)
    assert (again.exit_code, again.notes, again.remove) == (0, (), ())
    estate.assert_whole()


# --- Nonsense -----------------------------------------------------------------------------------


@pytest.mark.parametrize("folder", ["snapshots", "checkpoints"])
@pytest.mark.parametrize("time", ["99991231T235959Z", "00010101T000000Z"])
def test_a_damaged_document_of_any_time_is_named_and_nothing_is_lost(
    dated: Estate, time: str, folder: str
) -> None:
    made = grown(dated, nights=4)
    number = "" if folder == "snapshots" else ".1"
    key = Key(f"{LAYOUT.prefix}{folder}/{time}-feedbeef{number}.json.gz")
    dated.vault.put_if_absent(key, b"garbage")
    store_of(dated).times[key] = dated.now
    report = dated.prune(daily=2, grace_days=1)
    assert report.refused == ()
    assert [key in one.message for one in report.notes] == [True]
    assert {one.snapshot_id for one in report.remove} == set(made[:2])
    assert {one for one in dated.snapshots() if "feedbeef" not in one} == set(made[2:])
    dated.vault.delete([key])
    dated.assert_whole()


def test_no_claim_about_the_stores_clock_stops_prune(dated: Estate) -> None:
    made = grown(dated, nights=4)
    last = manifest_of(dated, made[-1])
    end = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
    forged = forge(dated, end, last.entries, store_behind_seconds=10**15)
    report = dated.prune(daily=2, grace_days=1)
    assert (report.exit_code, report.refused) == (0, ())
    assert [f"{forged} was dated by a wrong clock" in one.message for one in report.notes] == [True]
    assert dated.snapshots() == {*made[2:], forged}


@pytest.mark.parametrize("kind", ["an old manifest", "a checkpoint", "a record"])
def test_a_newer_format_stops_prune_no_more_than_damage_does(dated: Estate, kind: str) -> None:
    made = grown(dated, nights=4)
    earlier = dated.now - timedelta(days=30)
    if kind == "a record":
        key = LAYOUT.key(record_of(dated, made[-1]))
        dated.vault.delete([key])
    else:
        number = 1 if kind == "a checkpoint" else None
        at = dated.now if number else earlier
        key = LAYOUT.document(DocumentName(f"{at:%Y%m%dT%H%M%SZ}-feedbeef", checkpoint=number))
    dated.vault.put_if_absent(key, NEWER)
    report = dated.prune(daily=3, grace_days=1, dry_run=True)
    assert report.refused == ()
    assert [one.snapshot_id for one in report.remove] == made[:1]
    assert report.exit_code == (ExitCode.DAMAGED if kind == "an old manifest" else 0)
    if kind == "an old manifest":
        (note,) = report.notes
        assert "has format 2" in note.message
        assert note.fix == "use a newer version of repo-backup"
    if kind == "a checkpoint":
        # It is not the newest state: the next run goes on without it.
        dated.night()


def test_a_newest_manifest_of_a_newer_format_refuses(dated: Estate) -> None:
    grown(dated, nights=4)
    before = dated.stored()
    name = newest(dated)
    later = name.time + timedelta(hours=1)
    key = LAYOUT.document(DocumentName(f"{later:%Y%m%dT%H%M%SZ}-feedbeef"))
    dated.vault.put_if_absent(key, NEWER)
    report = dated.prune(daily=1, grace_days=1, at=dated.now + timedelta(days=1))
    assert report.exit_code == ExitCode.DAMAGED
    assert "use a newer version of repo-backup" in report.refused[0]
    assert dated.stored() == {*before, key}
