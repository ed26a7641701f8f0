"""Whether a vault is fresh and whole, as a monitor asks; the exit code is the answer."""

import gzip
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backup.commands.run import RunOptions, run
from backup.commands.status import status
from backup.destinations.folder import FolderDestination
from backup.model import Absence, Kind, Repository
from backup.report.hiding import hide_private_findings
from backup.results import StatusReport
from backup.sources.plain import FolderSource
from backup.stopping import Stop
from tests.support.git import commit_chain, init_bare, update_refs
from tests.support.program import repo_backup
from tests.support.runner import Runner
from tests.support.times import Timed
from tests.support.vaults import Silence

NOW = datetime(2026, 11, 20, 3, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)


class Listing(FolderSource):
    """A folder as a forge would list it: with wikis, blocks, and an identity of the owner."""

    blocked: frozenset[str] = frozenset()

    def called(self, owner: str) -> "Listing":
        self.identity = replace(self.identity, owner=owner, host="github.com", owner_id="77")
        return self

    def repositories(self) -> Iterator[Repository]:
        for one in super().repositories():
            kind: Kind = "wiki" if one.path.endswith(".wiki") else "code"
            yield replace(
                one, kind=kind, blocked="disabled by GitHub" if one.path in self.blocked else ""
            )

    def look_up(self, *, host_id: str, path: str, kind: Kind) -> Repository | Absence:
        return Absence("not-visible", "gone")


class Place:
    """A folder of repositories, and a vault that is written and looked at as of some hour."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.vault = folder / "vault"
        for name in ("one", "two", "three", "four"):
            self.make(name)
        self.source = Listing(folder / "acme", owner="acme").called("acme")

    def make(self, name: str) -> Path:
        path = init_bare(self.folder / "acme" / f"{name}.git")
        update_refs(path, {b"refs/heads/main": commit_chain(path, 2, label=name.encode())[-1]})
        return path

    def night(self, hours_ago: float, **options: Any) -> int:
        moment = NOW - hours_ago * HOUR
        report = run(
            [self.source],
            Timed(FolderDestination(self.vault), lambda: moment),
            RunOptions(**options),
            events=Silence(),
            stop=Stop(),
            clock=lambda: moment,
        )
        return report.exit_code

    def look(self, *owners: str, max_age_hours: int = 26) -> StatusReport:
        vault = Timed(FolderDestination(self.vault), lambda: NOW)
        return status(vault, owners=owners, max_age_hours=max_age_hours, now=NOW)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def errors(report: StatusReport) -> list[str]:
    return [one.message for one in report.findings if one.severity == "error"]


def test_a_fresh_and_whole_vault_is_told_in_one_line(place: Place) -> None:
    assert place.night(24) == 0
    report = place.look()
    assert report.exit_code == 0
    (one,) = report.findings
    assert one.severity == "info"
    assert "4 of 4 repositories were checked in time, the last run finished 24 hours ago" in (
        one.message
    )


def test_a_run_that_is_too_old_is_named_with_each_repository(place: Place) -> None:
    place.night(27)
    report = place.look()
    assert report.exit_code == 3
    assert errors(report)[0] == "github.com/acme: the last run finished 27 hours ago"
    assert len(errors(report)) == 5
    assert place.look(max_age_hours=28).exit_code == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda place: (place.folder / "acme" / "two.git").rename(place.folder / "away"),
        lambda place: setattr(place.source, "blocked", frozenset({"two"})),
    ],
    ids=["gone", "blocked for good"],
)
def test_what_the_source_does_not_give_any_more_is_not_counted(
    place: Place, change: Callable[[Place], object]
) -> None:
    place.night(100)
    change(place)
    assert place.night(2, accept_drop=True) == 0
    report = place.look()
    assert (report.exit_code, errors(report)) == (0, [])
    assert "3 of 3" in report.findings[-1].message


def test_what_was_not_selected_is_not_counted(place: Place) -> None:
    place.night(100)
    place.night(2, exclude=("two",))
    report = place.look()
    assert (report.exit_code, errors(report)) == (0, [])
    assert "3 of 3" in report.findings[-1].message


def test_a_wiki_without_pages_is_not_counted(place: Place) -> None:
    init_bare(place.folder / "acme" / "one.wiki.git")
    place.night(100)
    place.night(2)
    assert place.look().exit_code == 0


def test_a_repository_that_fails_is_named_with_its_reason(place: Place) -> None:
    place.night(50)
    broken = place.folder / "acme" / "three.git"
    (broken / "refs" / "heads" / "more").write_bytes(b"deadbeef" * 5 + b"\n")
    assert place.night(25) == 3
    assert place.night(1) == 3
    (error,) = errors(place.look())
    assert error.startswith("github.com/acme/three: it has failed since 2026-11-19: ")


def test_a_run_that_failed_is_an_error_though_it_is_fresh(place: Place) -> None:
    place.night(25)
    for name in ("one", "two", "three"):
        (place.folder / "acme" / f"{name}.git").rename(place.folder / name)
    assert place.night(1) == 1
    report = place.look()
    assert report.exit_code == 3
    assert errors(report)[0] == "github.com/acme: the last run failed"
    assert any("said: 1 repositories are listed" in one.message for one in report.findings)


def test_a_run_that_was_cut_off_is_an_error(place: Place) -> None:
    place.night(25)
    (manifest,) = place.vault.rglob("snapshots/*.json.gz")
    document = json.loads(gzip.decompress(manifest.read_bytes()))
    document["complete"] = False
    manifest.chmod(0o644)
    manifest.write_bytes(gzip.compress(json.dumps(document).encode()))
    assert errors(place.look()) == ["github.com/acme: the last run did not get to every repository"]


def test_of_a_renamed_owner_only_the_new_name_counts(place: Place) -> None:
    place.night(100)
    place.source.called("acme-inc")
    place.night(1)
    report = place.look()
    assert report.exit_code == 0
    assert any("its owner is now acme-inc" in one.message for one in report.findings)


def test_an_owner_that_is_asked_for_must_be_there(place: Place) -> None:
    place.night(1)
    assert place.look("acme").exit_code == 0
    report = place.look("acme", "other")
    assert report.exit_code == 3
    assert errors(report) == ["other: nothing of it is in this vault"]


def test_an_owner_is_asked_for_as_list_shows_it(tmp_path: Path) -> None:
    place = Place(tmp_path)
    repo_backup("run", "--from", place.folder / "acme", "--to", place.vault)
    listed = repo_backup("list", "--from", place.vault).stdout
    assert " folder/acme " in listed
    for owner in ("folder/acme", "acme"):
        repo_backup("status", "--from", place.vault, "--owner", owner)
    other = repo_backup("status", "--from", place.vault, "--owner", "github.com/acme", check=3)
    assert "github.com/acme: nothing of it is in this vault" in other.stdout


def test_a_folder_inside_a_vault_is_answered_with_the_vault(tmp_path: Path) -> None:
    place = Place(tmp_path)
    repo_backup("run", "--from", place.folder / "acme", "--to", place.vault)
    for inside in (place.vault / "folder" / "acme", place.vault / "folder"):
        for command in ("list", "status", "verify"):
            done = repo_backup(command, "--from", inside, check=2)
            assert f"hint: it lies inside a vault: name {place.vault}\n" in done.stderr
    done = repo_backup("list", "--from", place.folder, check=2)
    assert "hint: name the folder that was given to run --to" in done.stderr


def test_the_command_line_answers_by_exit_code_words_and_json(tmp_path: Path) -> None:
    place = Place(tmp_path)
    repo_backup("run", "--from", place.folder / "acme", "--to", place.vault)
    fresh = repo_backup("status", "--from", place.vault)
    assert (
        "4 of 4 repositories were checked in time, the last run finished just now" in fresh.stdout
    )
    answer = repo_backup("status", "--from", place.vault, "--json").json
    assert [set(one) for one in answer] == [{"severity", "message", "fix"}]
    place.make("broken")
    broken = place.folder / "acme" / "broken.git"
    (broken / "refs" / "heads" / "more").write_bytes(b"deadbeef" * 5 + b"\n")
    repo_backup("run", "--from", place.folder / "acme", "--to", place.vault, check=3)
    stale = repo_backup("status", "--from", place.vault, check=3)
    assert stale.stdout.startswith("error: folder/acme/broken: it has failed since ")
    assert "hint: " in stale.stdout
    repo_backup("status", "--from", place.vault, "--owner", "nobody", check=3)
    repo_backup("status", "--from", place.vault, "--max-age-hours", "0", check=2)
    repo_backup("status", "--from", tmp_path / "nothing", check=2)


def test_names_of_private_repositories_can_be_left_out(place: Place) -> None:
    place.night(30)
    report = place.look()
    private = [
        replace(one, private=True) if "/two" in one.message else one for one in report.findings
    ]
    shown = hide_private_findings(private)
    assert "/two" not in repr(shown)
    assert any("1 findings about private repositories" in one.message for one in shown)
    assert len(shown) == len(private)


def test_the_action_asks_the_same_and_tells_it_by_summary_and_errors(tmp_path: Path) -> None:
    place = Place(tmp_path)
    place.night(30)
    runner = Runner(tmp_path / "runner", "https://github.example.com")
    # It asks by the real clock, on which that night is long ago.
    step = runner.step(command="status", token="", destination=str(place.vault))
    assert (step.code, step.outputs) == (3, {"result": "partial"})
    assert step.errors[0].startswith("github.com/acme: the last run finished ")
    assert len(step.errors) == 6
    assert step.summary.startswith("## ⚠️ Backup not fresh")
    fresh = runner.step(
        command="status", token="", destination=str(place.vault), max_age_hours="87600"
    )
    assert (fresh.code, fresh.outputs, fresh.errors) == (0, {"result": "success"}, [])
    assert "4 of 4 repositories" in fresh.summary
