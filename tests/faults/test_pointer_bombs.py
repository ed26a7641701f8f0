"""Pointers to nothing, by the thousand: what they cost a night is bounded, and nothing is lost."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backup.commands.missing_files import MOST_MISSES, OFFERED_MISS, OTHER_SIZE
from backup.commands.run import RunOptions
from backup.destinations.folder import FolderDestination
from backup.git.lfs import MOST_AT_ONCE
from backup.model import Outcome, RunReport, Selection
from backup.sources.plain import GitUrlSource
from tests.support.faults import assert_nothing_false
from tests.support.git import FastImport, init_bare, update_refs
from tests.support.gitserver import GitHttpServer
from tests.support.lfsserver import VERSION, LfsStore, commit, lfs_server, oid_of, pointer
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
        self.push(b"main", [pointer(b"%d" % number) for number in range(count)])

    def push(self, branch: bytes, pointers: Iterable[bytes]) -> None:
        """Have a branch hold some pointers, and nothing else."""
        if not self.repository.exists():
            init_bare(self.repository)
        stream = FastImport(self.repository)
        stream.commit(files={b"%d" % number: one for number, one in enumerate(pointers)})
        made = next(reversed(stream.run().values()))
        update_refs(self.repository, {b"refs/heads/" + branch: made})

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

    # From then on every file is asked for within 30 nights, by few requests a night.
    seen: list[str] = []
    for _ in range(30):
        before = len(bomb.lfs.batches)
        report, outcome, asked = bomb.night()
        assert (report.exit_code, report.objects_written, len(outcome.lfs_missing)) == (
            *(0, 1),
            everything,
        )
        assert len(bomb.lfs.batches) - before <= 4
        assert f"{everything} files of Git LFS are missing at the source" in report.notes[0]
        seen += asked
    assert len({*seen}) == everything
    assert len(seen) < 3 * everything

    # What a new pointer names is asked for at once; it was asked for just now.
    (name,) = [name for name in map(str, range(everything)) if oid_of(name.encode()) == seen[-1]]
    commit(
        bomb.repository,
        "side",
        {"new": pointer(name.encode(), extra="ext-0-x sha256:" + "0" * 64 + "\n")},
    )
    _, outcome, asked = bomb.night()
    assert (outcome.status, seen[-1] in asked) == ("captured", True)
    assert len(asked) < everything // 10
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


HONEST = b"a film of a holiday"


def made_up(beginnings: Iterable[int], word: str = "") -> list[bytes]:
    """Write pointers to nothing whose ids begin as somebody chose."""
    ends = ((first, oid_of(f"{word}{first}".encode())[8:]) for first in beginnings)
    return [f"{VERSION}oid sha256:{first:08x}{end}\nsize 7\n".encode() for first, end in ends]


def test_no_pointers_keep_a_missing_file_from_being_asked_for_again(bomb: Bomb) -> None:
    bomb.push(b"main", [pointer(HONEST)])
    bomb.night()
    # All in front of it, and all of one rest by 30.
    first = int(oid_of(HONEST)[:8], 16)
    bomb.push(b"side", made_up(range(first % 30, first, 30)[:MOST_MISSES]))
    report, _, asked = bomb.night()
    assert oid_of(HONEST) in asked
    assert report.exit_code == 3
    bomb.lfs.add(HONEST)
    stored: list[int] = []
    while not any(stored) and len(stored) < 17:
        stored.append(bomb.night()[1].lfs_stored)
    assert stored[-1] == 1


def test_no_new_pointers_night_after_night_keep_a_file_from_being_asked_for(bomb: Bomb) -> None:
    bomb.lfs.add(HONEST)
    bomb.push(b"main", [pointer(HONEST)])
    nights = 0
    stored = 0
    while not stored and nights < 2:
        bomb.push(b"side%d" % nights, made_up(range(MOST_MISSES + UNASKED), f"{nights}."))
        report, outcome, asked = bomb.night()
        # One that is stored is no miss, and a hundred are asked for at once.
        assert len(asked) <= MOST_MISSES + MOST_AT_ONCE
        assert report.exit_code == 3
        stored, nights = outcome.lfs_stored, nights + 1
    # In the first night it takes luck; in the second those of the first come first.
    assert stored == 1


def test_new_pointers_leave_half_of_a_night_to_those_that_wait(bomb: Bomb) -> None:
    bomb.light(MOST_AT_ONCE)
    bomb.night()
    bomb.push(b"side", made_up(range(MOST_MISSES)))
    report, outcome, asked = bomb.night()
    assert {*asked} >= {oid_of(b"%d" % number) for number in range(MOST_AT_ONCE)}
    assert f"{MOST_AT_ONCE} of them were not asked for" in report.problems[0]
    assert sum(not one.permanent for one in outcome.lfs_missing) == MOST_AT_ONCE


@pytest.mark.parametrize("size", [0, 1, 1000_000])
@pytest.mark.parametrize("strict", [True, False])
@pytest.mark.parametrize("later", [True, False])
def test_no_pointer_with_another_size_keeps_a_file_from_being_stored(
    bomb: Bomb, size: int, strict: bool, later: bool
) -> None:
    bomb.lfs.strict = strict
    bomb.push(b"evil", [pointer(HONEST, size=size)])
    if later:
        assert bomb.night()[1].lfs_stored == 0
    bomb.push(b"main", [pointer(HONEST)])
    bomb.lfs.add(HONEST)
    report, outcome, _ = bomb.night()
    assert (report.exit_code, outcome.lfs_missing, outcome.lfs_stored) == (0, (), 1)
    report, outcome, asked = bomb.night()
    assert (report.exit_code, asked) == (0, [])
    assert_nothing_false(FolderDestination(bomb.folder / "vault"))


def test_very_many_sizes_of_a_file_cost_few_requests_a_night_and_do_not_hide_it(bomb: Bomb) -> None:
    bomb.lfs.strict = True
    bomb.lfs.add(HONEST)
    bomb.push(b"evil", [pointer(HONEST, size=1000 + number) for number in range(150)])
    bomb.push(b"main", [pointer(HONEST)])
    stored: list[int] = []
    while not any(stored) and len(stored) < 2:
        before = len(bomb.lfs.batches)
        report, outcome, _ = bomb.night()
        assert len(bomb.lfs.batches) - before <= MOST_MISSES // OTHER_SIZE
        assert report.exit_code == (0 if outcome.lfs_stored else 3)
        stored.append(outcome.lfs_stored)
    assert stored[-1] == 1
    assert outcome.lfs_missing == ()
