"""Files of Git LFS under prune: none that a kept snapshot needs is lost, and the others go."""

import gzip
import random
import shutil
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from backup.commands.condemning import condemned_files
from backup.commands.restore import RestoreRequest, restore
from backup.commands.run import RunOptions
from backup.errors import DestinationError
from backup.model import Key, RunReport, Selection
from backup.stopping import Stop
from backup.vault.documents_of_prune import Condemned
from backup.vault.manifest import load
from tests.faults.test_prune import LAYOUT, Estate, Interrupting, copy_of
from tests.support.faults import (
    DestinationFault,
    FaultyDestination,
    Heard,
    assert_nothing_false,
    back_up,
)
from tests.support.git import git, init_bare
from tests.support.lfsserver import commit, keep, oid_of, pointer

FILES = Selection(lfs=True)


class FileEstate(Estate):
    """An estate whose repositories have files of Git LFS, in stores of their own."""

    def media(self, name: str, *contents: bytes) -> Path:
        path = init_bare(self.source / f"{name}.git")
        self.commit(path, *contents)
        return path

    def commit(self, path: Path, *contents: bytes, anew: bool = False) -> None:
        """Commit files, as all that the branch holds, and anew as all that it ever held."""
        keep(path, *contents)
        if anew:
            git("update-ref", "-d", "refs/heads/main", cwd=path)
        files = {f"file-{number}": pointer(one) for number, one in enumerate(contents)}
        commit(path, "main", files or {"none": b"nothing\n"})

    def night(self, *, days: float = 1, code: int = 0, **more: Any) -> str:
        self.now += timedelta(days=days)
        report = self.run(self.now, **more)
        assert report.exit_code == code, report.problems
        return report.snapshot_id

    def run(self, at: datetime, *, vault: Any = None, **options: Any) -> RunReport:
        chosen = RunOptions(concurrency=1, accept_drop=True, selection=FILES, **options)
        return back_up(self.source, vault or self.vault, chosen, at=at)

    def files(self) -> set[str]:
        folder = LAYOUT.folder("lfs")
        return {one.key.rpartition("/")[2] for one in self.vault.list(folder)}

    def on_the_list(self) -> set[str]:
        return set(condemned_files(self.vault, LAYOUT))

    def assert_files_come_back(self, at: str = "") -> None:
        """Restore everything at a snapshot or at every one, and miss no file."""
        for number, snapshot_id in enumerate([at] if at else sorted(self.snapshots())):
            target = self.folder / f"back-{number}"
            request = RestoreRequest(repository=None, all=True, at=snapshot_id, target=target)
            report = restore(self.vault, request, events=Heard(), stop=Stop())
            assert report.failed == ()
            for one in report.restored:
                assert one.files_failed == ()
            shutil.rmtree(target)


def ids(*contents: bytes) -> set[str]:
    return {oid_of(one) for one in contents}


@pytest.fixture
def estate(tmp_path: Path) -> FileEstate:
    return FileEstate(tmp_path)


def without_first(estate: FileEstate) -> Path:
    """Make a vault in which nothing has needed one of three files for weeks."""
    one = estate.media("one", b"first", b"shared")
    estate.media("two", b"shared")
    estate.night()
    estate.commit(one, b"second", b"shared", anew=True)
    # A new chain, without the first file's pointer in it.
    estate.night(max_chain_length=1)
    for _ in range(3):
        estate.night(days=10)
    return one


def test_a_file_goes_when_nothing_has_named_it_for_the_grace(estate: FileEstate) -> None:
    one = without_first(estate)
    all_of_them = ids(b"first", b"second", b"shared")
    before = estate.stored()
    planned = estate.prune(daily=1, grace_days=3, dry_run=True)
    assert estate.stored() == before
    done = estate.prune(daily=1, grace_days=3)
    assert planned.condemned == done.condemned
    (row,) = done.condemned
    assert (row.objects, row.size_bytes) == (1, 5)
    assert row.first == estate.now + timedelta(hours=1, days=3)
    assert (estate.files(), estate.on_the_list()) == (all_of_them, ids(b"first"))
    # Two days are not over, and the list is as it was.
    (key,) = estate.vault.list(LAYOUT.folder("condemned"))
    estate.night(days=2)
    estate.prune(daily=1, grace_days=1)
    assert [one.key for one in estate.vault.list(LAYOUT.folder("condemned"))] == [key.key]
    assert estate.files() == all_of_them
    estate.night(days=2)
    report = estate.prune(daily=1, grace_days=3)
    assert estate.files() == ids(b"second", b"shared")
    # Another prune may be about to delete it, too: it is left alone for another grace.
    assert (report.condemned, estate.on_the_list()) == ((), ids(b"first"))
    estate.prune(daily=1, grace_days=3)
    assert estate.on_the_list() == ids(b"first")
    assert_nothing_false(estate.vault)
    estate.assert_files_come_back()
    estate.night(days=4)
    estate.prune(daily=1, grace_days=3)
    assert not [*estate.vault.list(LAYOUT.folder("condemned"))]
    # Who comes back to it has it stored anew.
    estate.commit(one, b"first")
    estate.night()
    assert estate.files() == all_of_them
    estate.assert_files_come_back()


def test_a_file_that_is_named_again_while_it_is_on_the_list(estate: FileEstate) -> None:
    one = without_first(estate)
    estate.prune(daily=1, grace_days=3)
    estate.commit(one, b"first", b"shared")
    report = estate.run(estate.now + timedelta(days=1))
    # It is there, and not to be leant on: said once as new.
    assert report.exit_code == 3
    (missing,) = next(found for found in report.outcomes if found.path == "one").lfs_missing
    assert (missing.oid, missing.permanent) == (oid_of(b"first"), False)
    assert "the next prune keeps it" in report.problems[0]
    estate.now += timedelta(days=4)
    report = estate.run(estate.now)
    assert report.exit_code == 0
    # It is nothing that the source lacks, and not said to be.
    (note,) = [one for one in report.notes if "Git LFS" in one]
    assert note.endswith("/one: 1 files of Git LFS wait for the next prune, as in the run before")
    estate.prune(daily=1, grace_days=3)
    assert estate.on_the_list() == set()
    assert estate.files() == ids(b"first", b"second", b"shared")
    estate.night()
    estate.prune(daily=1, grace_days=3)
    estate.assert_files_come_back()
    assert_nothing_false(estate.vault)
    assert estate.run(estate.now + timedelta(days=1)).objects_written == 1


def test_a_list_that_cannot_be_read_begins_anew(estate: FileEstate) -> None:
    without_first(estate)
    estate.prune(daily=1, grace_days=3)
    (stored,) = [*estate.vault.list(LAYOUT.folder("condemned"))]
    key = stored.key
    estate.vault.delete([key])
    estate.vault.put_if_absent(key, b"garbage")
    # A run can tell of no file whether it may lean on it, or write it: said once as new.
    estate.commit(estate.source / "two.git", b"shared", b"third")
    report = estate.run(estate.now + timedelta(days=1))
    assert report.exit_code == 3
    assert "is damaged" in report.problems[0]
    assert oid_of(b"third") not in estate.files()
    # Prune comes after a night that was a success, and so does the file.
    estate.now += timedelta(days=2)
    estate.night()
    assert estate.prune(daily=1, grace_days=3).exit_code == 0
    (after,) = [*estate.vault.list(LAYOUT.folder("condemned"))]
    document = load(estate.vault, after.key, Condemned)
    assert after.key != key
    assert {line.since for line in document.objects} == {estate.now + timedelta(hours=1)}
    estate.night()
    assert oid_of(b"third") in estate.files()
    estate.assert_files_come_back()


def test_a_file_that_waits_for_a_prune_does_not_keep_the_prune_from_coming(
    estate: FileEstate,
) -> None:
    """Also where it was not to be had for another reason the night before."""
    one = without_first(estate)
    estate.prune(daily=1, grace_days=3)
    estate.commit(one, b"first", b"shared")
    fault = DestinationFault(0, "list", key="condemned/", error=DestinationError("not now"))
    with FaultyDestination(estate.vault, fault) as store:
        assert estate.run(estate.now + timedelta(days=1), vault=store).exit_code == 3
    assert estate.run(estate.now + timedelta(days=2)).exit_code == 3
    assert estate.run(estate.now + timedelta(days=3)).exit_code == 0


@pytest.mark.parametrize(
    "data",
    [b"garbage", gzip.compress(b'{"format": 2}')],
    ids=["damaged", "of a newer format"],
)
def test_damage_to_what_packs_point_to_keeps_every_file_and_nothing_else(
    data: bytes, estate: FileEstate
) -> None:
    without_first(estate)
    estate.prune(daily=1, grace_days=1)
    estate.night(days=3)
    key = Key(max(estate.stored(".lfs.json.gz")))
    estate.vault.delete([key])
    estate.vault.put_if_absent(key, data)
    files, listed = estate.files(), estate.on_the_list()
    assert listed == ids(b"first")
    report = estate.prune(daily=1, grace_days=1)
    assert (report.exit_code, report.refused) == (0, ())
    assert len(report.remove) == 1
    (note,) = report.notes
    assert key in note.message
    assert note.message.endswith(": no file of Git LFS is deleted")
    assert note.private
    assert (estate.files(), estate.on_the_list()) == (files, listed)


@pytest.mark.parametrize("seed", [3, 4, 5])
def test_any_history_with_files_keeps_what_its_snapshots_need(
    seed: int, estate: FileEstate
) -> None:
    chance = random.Random(seed)
    pool = [b"file %d" % number for number in range(5)]
    paths = [estate.media(name, *chance.sample(pool, 2)) for name in ("a", "b")]
    went = spared = 0
    for _ in range(30):
        for path in paths:
            if chance.random() < 0.4:
                some = chance.sample(pool, chance.randrange(3))
                estate.commit(path, *some, anew=chance.random() < 0.5)
        estate.now += timedelta(days=chance.choice([0.5, 1, 3, 9]))
        waiting = estate.on_the_list()
        report = estate.run(
            estate.now,
            max_chain_length=chance.choice([1, 2]),
            full_after_days=chance.choice([5, 90]),
        )
        again = {one.oid for found in report.outcomes for one in found.lfs_missing}
        assert again <= waiting
        spared += len(again)
        if chance.random() < 0.6:
            before = estate.files()
            estate.prune(daily=chance.randrange(1, 3), grace_days=chance.choice([1, 3]))
            went += len(before - estate.files())
        assert_nothing_false(estate.vault)
    assert went > 0
    estate.assert_files_come_back()
    assert spared > 0


def due(estate: FileEstate) -> Path:
    """Make a vault in which the next prune deletes a file, for the grace of a list is over."""
    one = without_first(estate)
    estate.prune(daily=1, grace_days=1)
    estate.night(days=3)
    return one


def copied(estate: FileEstate, folder: Path) -> FileEstate:
    other = FileEstate(folder)
    made = copy_of(estate, folder / "copy")
    other.source, other.vault, other.now = made.source, made.vault, made.now
    return other


def each_moment(
    estate: FileEstate,
    folder: Path,
    outer: Callable[[FileEstate, Any], object],
    inner: Callable[[FileEstate], object],
) -> int:
    """Do one thing in the midst of another, at each operation; tell how many there were."""
    at = 0
    while True:
        other = copied(estate, folder / f"moment-{at}")
        store = Interrupting(other.vault, at, lambda other=other: inner(other))  # type: ignore[misc]
        outer(other, store)
        assert_nothing_false(other.vault)
        if store.seen <= at:
            return at
        # Sooner or later it is stored, and stays; of every third moment that will do.
        for _ in range(0 if at % 3 else 3):
            other.now += timedelta(days=1)
            other.run(other.now)
            other.prune(daily=1, grace_days=1)
            assert_nothing_false(other.vault)
        if at % 3 == 0:
            assert oid_of(b"first") in other.files()
            assert other.run(other.now + timedelta(hours=2)).exit_code == 0
            other.assert_files_come_back()
        at += 1


def test_a_prune_at_any_moment_of_a_run_that_needs_what_it_deletes(
    estate: FileEstate, tmp_path: Path
) -> None:
    one = due(estate)
    estate.commit(one, b"first", b"shared")
    moments = each_moment(
        estate,
        tmp_path,
        lambda other, store: other.run(other.now + timedelta(minutes=1), vault=store),
        lambda other: other.prune(daily=1, grace_days=1),
    )
    assert moments > 10


def test_a_run_at_any_moment_of_a_prune_that_deletes_what_it_needs(
    estate: FileEstate, tmp_path: Path
) -> None:
    one = due(estate)
    estate.commit(one, b"first", b"shared")
    moments = each_moment(
        estate,
        tmp_path,
        lambda other, store: other.prune(vault=store, daily=1, grace_days=1),
        lambda other: other.run(other.now + timedelta(minutes=1)),
    )
    assert moments > 20


def test_a_prune_at_any_moment_of_a_run_that_searches_old_packs(
    estate: FileEstate, tmp_path: Path
) -> None:
    """What they point to lies beside them under an old name, and no record says so yet."""
    one = estate.media("one", b"first")
    for days in (1, 20, 1):
        # The chain goes on, and the record of its beginning is of no snapshot that stays.
        estate.commit(one, b"first", b"second", str(days).encode())
        estate.now += timedelta(days=days)
        options = RunOptions(concurrency=1, check="trailer")
        back_up(estate.source, estate.vault, options, at=estate.now)
    at = 0
    while True:
        other = copied(estate, tmp_path / f"moment-{at}")
        inner = partial(other.prune, daily=1, grace_days=1)
        store = Interrupting(other.vault, at, inner)
        report = other.run(other.now + timedelta(minutes=1), vault=store)
        assert report.exit_code == 0, report.problems
        assert_nothing_false(other.vault)
        assert other.files() == ids(b"first", b"second", b"1", b"20")
        other.now += timedelta(days=1)
        assert other.run(other.now).objects_written == 1
        if store.seen <= at:
            break
        at += 1
    assert at > 8


@pytest.mark.parametrize("operation", ["delete", "put"])
def test_a_prune_that_breaks_off_goes_on_the_next_time(
    operation: str, estate: FileEstate, tmp_path: Path
) -> None:
    due(estate)
    # Another file for the list.
    estate.commit(estate.source / "one.git", b"third", anew=True)
    estate.night(max_chain_length=1)
    for _ in range(2):
        estate.night(days=8)
    wanted = copied(estate, tmp_path / "wanted")
    wanted.prune(daily=1, grace_days=1)
    assert wanted.files() == ids(b"second", b"shared", b"third")
    gone = estate.stored() - wanted.stored()
    assert len(gone) > 3
    for at in range(len(gone) if operation == "delete" else 1):
        other = copied(estate, tmp_path / f"crash-{at}")
        fault = DestinationFault(at, operation)
        with FaultyDestination(other.vault, fault) as store, suppress(DestinationError):
            other.prune(vault=store, daily=1, grace_days=1)
        assert_nothing_false(other.vault)
        assert other.prune(daily=1, grace_days=1).exit_code == 0
        assert other.files() == wanted.files()
        assert other.on_the_list() == wanted.on_the_list()


def test_two_prunes_at_once_take_nothing_from_a_run_between_them(
    estate: FileEstate, tmp_path: Path
) -> None:
    estate.commit(due(estate), b"first")

    def happens(other: FileEstate) -> None:
        other.prune(daily=1, grace_days=1)
        other.run(other.now + timedelta(minutes=1))

    moments = 0
    while True:
        other = copied(estate, tmp_path / f"moment-{moments}")
        store = Interrupting(other.vault, moments, partial(happens, other))
        other.prune(vault=store, daily=1, grace_days=1)
        assert_nothing_false(other.vault)
        if store.seen <= moments:
            break
        moments += 1
    assert moments > 20
