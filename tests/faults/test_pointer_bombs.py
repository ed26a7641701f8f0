"""Pointers to nothing, by the thousand: what they cost a night is bounded, and nothing is lost."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backup.commands.missing_files import MOST_MISSES, OFFERED_MISS
from backup.commands.run import RunOptions
from backup.destinations.folder import FolderDestination
from backup.git.lfs import MOST_AT_ONCE
from backup.model import Outcome, RunReport, Selection
from backup.sources.plain import GitUrlSource
from tests.support.faults import assert_nothing_false
from tests.support.git import FastImport, init_bare, update_refs
from tests.support.gitserver import GitHttpServer
from tests.support.lfsserver import LfsStore, commit, lfs_server, oid_of, pointer
from tests.support.vaults import run_at

BEGAN = datetime(2026, 3, 1, 2, 30, tzinfo=UTC)
UNASKED = 250


@dataclass
class Bomb:
    """A server with a repository, and a vault."""

    folder: Path
    server: GitHttpServer
    lfs: LfsStore
    night_number: int = 0

    @property
    def repository(self) -> Path:
        return self.folder / "acme" / "media.git"

    def light(self, count: int) -> None:
        """Commit so many pointers to nothing."""
        stream = FastImport(init_bare(self.repository))
        files = {b"%d" % number: pointer(b"%d" % number) for number in range(count)}
        stream.commit(files=files)
        update_refs(self.repository, {b"refs/heads/main": next(reversed(stream.run().values()))})

    def night(self) -> tuple[RunReport, Outcome, list[str]]:
        """Run; return what it says, of all and of the one, and the ids that were asked for."""
        before = len(self.server.requests)
        report = run_at(
            BEGAN + timedelta(days=self.night_number),
            GitUrlSource([f"{self.server.url}/acme/media.git"], owner="acme"),
            FolderDestination(self.folder / "vault"),
            RunOptions(concurrency=1, selection=Selection(lfs=True)),
        )
        self.night_number += 1
        asked = [
            one["oid"]
            for request in self.server.requests[before:]
            if request.target.endswith("/objects/batch")
            for one in json.loads(request.form)["objects"]
        ]
        return report, report.outcomes[0], asked


@pytest.fixture
def bomb(tmp_path: Path) -> Iterator[Bomb]:
    with lfs_server(tmp_path) as (server, lfs):
        yield Bomb(tmp_path, server, lfs)
        assert lfs.wrong == []


def test_what_thousands_of_pointers_to_nothing_cost_is_bounded(bomb: Bomb) -> None:
    everything = MOST_MISSES + UNASKED
    bomb.light(everything)
    report, outcome, asked = bomb.night()
    assert (len(asked), len(bomb.lfs.batches)) == (MOST_MISSES, MOST_MISSES // MOST_AT_ONCE)
    assert (report.exit_code, outcome.status) == (3, "captured")
    # What was never asked for is not known to be missing.
    assert len(outcome.lfs_missing) == everything
    assert sum(one.permanent for one in outcome.lfs_missing) == MOST_MISSES
    assert f"{UNASKED} of them were not asked for" in report.problems[0]

    report, outcome, again = bomb.night()
    assert {*again} >= {one.oid for one in outcome.lfs_missing} - {*asked}
    assert all(one.permanent for one in outcome.lfs_missing)
    assert report.exit_code == 3

    # From then on every file is asked for once in 30 nights, by few requests a night.
    seen: list[str] = []
    for _ in range(30):
        before = len(bomb.lfs.batches)
        report, outcome, asked = bomb.night()
        assert (report.exit_code, report.objects_written, len(outcome.lfs_missing)) == (
            *(0, 1),
            everything,
        )
        assert len(bomb.lfs.batches) - before <= 3
        assert f"{everything} files of Git LFS are missing at the source" in report.notes[0]
        seen += asked
    assert len(seen) == len({*seen}) == everything

    # What a new pointer names is asked for at once; it is not due for another 29 nights.
    (name,) = [name for name in map(str, range(everything)) if oid_of(name.encode()) == seen[-1]]
    commit(
        bomb.repository,
        "side",
        {"new": pointer(name.encode(), extra="ext-0-x sha256:" + "0" * 64 + "\n")},
    )
    _, outcome, asked = bomb.night()
    assert (outcome.status, seen[-1] in asked) == ("captured", True)
    assert len(asked) < everything // 20
    assert_nothing_false(FolderDestination(bomb.folder / "vault"))


def test_files_that_come_back_are_all_found_when_the_first_of_them_is(bomb: Bomb) -> None:
    count = 350
    bomb.light(count)
    bomb.night()
    bomb.night()
    bomb.lfs.add(*(b"%d" % number for number in range(count)))
    report, outcome, asked = bomb.night()
    assert (outcome.lfs_stored, outcome.lfs_missing) == (count, ())
    assert len(asked) == count
    assert report.exit_code == 0


def test_one_file_that_comes_back_is_found_within_the_nights_that_many_take(bomb: Bomb) -> None:
    count = 350
    bomb.light(count)
    bomb.night()
    bomb.lfs.add(b"7")
    stored = [bomb.night()[1].lfs_stored for _ in range(4)]
    assert sorted(stored) == [0, 0, 0, 1]


def test_a_hundred_missing_files_are_asked_for_each_night_by_one_request(bomb: Bomb) -> None:
    bomb.light(100)
    for number in range(3):
        report, outcome, asked = bomb.night()
        assert (len(asked), len(bomb.lfs.batches)) == (100, number + 1)
        assert len(outcome.lfs_missing) == 100
        assert report.exit_code == (0 if number else 3)


def test_a_store_that_has_none_of_what_its_server_offers_is_not_asked_for_ever(bomb: Bomb) -> None:
    count, most = 130, MOST_MISSES // OFFERED_MISS
    bomb.light(count)
    contents = [b"%d" % number for number in range(count)]
    bomb.lfs.add(*contents)
    bomb.lfs.missing_at_the_store = {*map(oid_of, contents)}
    report, outcome, _ = bomb.night()
    # A hundred are asked for at once.
    assert sum(one.permanent for one in outcome.lfs_missing) == most == MOST_AT_ONCE
    assert f"{count - most} of them were not asked for" in report.problems[0]
    # Another link was tried for each, and no third one.
    assert sum(bomb.lfs.links.values()) == 2 * most
    _, outcome, _ = bomb.night()
    assert sum(one.permanent for one in outcome.lfs_missing) == count
