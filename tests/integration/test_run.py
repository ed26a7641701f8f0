"""Runs in a row over folders of repositories: what is stored, when, and why."""

import shutil
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from backup.commands.run import RunOptions, run
from backup.destinations.folder import FolderDestination
from backup.destinations.memory import MemoryDestination
from backup.errors import (
    BackupError,
    ConfigError,
    DeadlineReached,
    DestinationError,
    SourceError,
)
from backup.model import Destination, Key, Kind, Outcome, RunReport, Selection, Source
from backup.report.terminal import TerminalEvents
from backup.sources.plain import FolderSource, GitUrlSource
from backup.stopping import Stop
from backup.vault.documents import Entry, Manifest, Record
from backup.vault.layout import Layout
from backup.vault.manifest import list_documents, load_manifest, load_record
from tests.support.git import commit_chain, git, init_bare, run_git, set_head, update_refs
from tests.support.gitserver import GitHttpServer
from tests.support.mirrors import mirror_state
from tests.support.program import repo_backup
from tests.support.times import Timed

START = datetime(2026, 3, 1, 2, 0, tzinfo=UTC)
MAIN = b"refs/heads/main"


def push(path: Path, count: int = 1, *, branch: bytes = MAIN, label: bytes = b"work") -> bytes:
    """Add commits to a branch, made if need be, and return its tip."""
    seen = run_git("rev-parse", "--verify", "--quiet", branch, cwd=path).stdout.strip()
    tip = commit_chain(path, count, start=seen or None, label=label)[-1]
    update_refs(path, {branch: tip})
    return tip


class BehindAWire(MemoryDestination):
    """A store in which looking costs requests, as every bucket is."""

    @property
    def listing_is_local(self) -> bool:
        return False


class Lab:
    """A folder of repositories, a vault in memory, and nights that pass between its runs."""

    def __init__(self, root: Path, destination: Destination | None = None) -> None:
        self.root = root
        self.destination = destination or MemoryDestination()
        self.now = START
        root.mkdir(parents=True, exist_ok=True)

    def repository(self, name: str, commits: int = 3) -> Path:
        """Make a bare repository of the folder; without commits an empty one."""
        path = init_bare(self.root / name)
        if commits:
            push(path, commits, label=b"%08x" % zlib.crc32(name.encode()))
        return path

    def run(
        self,
        *,
        days: float = 1,
        sources: Sequence[Source] = (),
        stop: Stop | None = None,
        events: TerminalEvents | None = None,
        **options: Any,
    ) -> RunReport:
        """Back up, so many days after the run before."""
        self.now += timedelta(days=days)
        is_folder = isinstance(self.destination, FolderDestination)
        with events or TerminalEvents(Console(quiet=True)) as listening:
            return run(
                sources or [FolderSource(self.root, owner="src")],
                Timed(self.destination, lambda: self.now) if is_folder else self.destination,
                RunOptions(**options),
                events=listening,
                stop=stop or Stop(),
                clock=lambda: self.now,
            )

    def manifest(self, *, host: str = "folder", owner: str = "src") -> Manifest:
        """Read the manifest that finished last."""
        layout = Layout.of(host=host, owner=owner)
        names = [n for n in list_documents(self.destination, layout) if n.checkpoint is None]
        found = [load_manifest(self.destination, layout, name) for name in names]
        return max(found, key=lambda one: (one.finished_at, one.snapshot_id))

    def entry(self, path: str, *, host: str = "folder", owner: str = "src") -> Entry:
        entries = self.manifest(host=host, owner=owner).entries
        return next(entry for entry in entries if entry.path == path)

    def record(self, path: str) -> Record:
        key = self.entry(path).record
        assert key is not None
        return load_record(self.destination, Layout.of(host="folder", owner="src"), key)

    def stored(self) -> frozenset[Key]:
        return frozenset(stored.key for stored in self.destination.list(""))

    def read(self, key: Key) -> bytes:
        with self.destination.open(key) as reader:
            return reader.read()


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "src")


def told(report: RunReport) -> dict[str, Outcome]:
    return {outcome.path: outcome for outcome in report.outcomes}


def statuses(report: RunReport) -> dict[str, str]:
    return {outcome.path: outcome.status for outcome in report.outcomes}


def done(report: RunReport, path: str) -> tuple[str, str | None, str]:
    outcome = told(report)[path]
    return outcome.status, outcome.plan, outcome.reason


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    """List everything below a folder, each file with its size and time."""
    found = ((path, path.lstat()) for path in folder.rglob("*"))
    # That a file could be made in a folder is tried, and shows in the folder's time.
    return {
        str(path): (0, 0) if path.is_dir() else (status.st_size, status.st_mtime_ns)
        for path, status in found
    }


# --- What a night costs ------------------------------------------------------------------------


def test_a_night_without_changes_writes_the_manifest_alone_and_asks_twice_a_repository(
    tmp_path: Path,
) -> None:
    lab = Lab(tmp_path / "src", BehindAWire())
    for number in range(7):
        lab.repository(f"team/r{number}")
    lab.repository("none", commits=0)
    lab.run()
    before = lab.stored()
    report = lab.run()
    assert (report.result, report.exit_code) == ("success", 0)
    assert (report.count("unchanged"), report.count("empty")) == (7, 1)
    assert report.requests["git"] == 2 * 8
    assert report.requests["put"] == report.objects_written == 1
    new = lab.stored() - before
    assert [Key(uri.removeprefix("memory:/")) for uri in report.manifests] == [*new]
    assert report.bytes_uploaded == sum(len(lab.read(key)) for key in new)
    # One listing a kind of document at either end of the run, one of the versions that manifests
    # have, one of drills; one manifest is read.
    assert report.requests["list"] <= 6
    assert report.requests["get"] == 1


def test_the_requests_of_an_unchanged_night_grow_by_two_a_repository_and_no_other(
    tmp_path: Path,
) -> None:
    seen = []
    for count in (1, 12):
        lab = Lab(tmp_path / f"of-{count}", BehindAWire())
        for number in range(count):
            lab.repository(f"r{number}", commits=1)
        lab.run()
        requests = dict(lab.run().requests)
        assert requests.pop("git") == 2 * count
        seen.append(requests)
    assert seen[0] == seen[1]


def test_a_changed_repository_costs_two_objects_whatever_its_size(lab: Lab) -> None:
    for name, commits in {"small": 1, "large": 400, "still": 3, "also": 3}.items():
        lab.repository(name, commits)
    assert lab.run().objects_written == 4 * 2 + 1
    push(lab.root / "small")
    push(lab.root / "large", 300)
    update_refs(lab.root / "large", {b"refs/tags/v%d" % n: lab_tip(lab) for n in range(60)})
    report = lab.run()
    assert statuses(report) == {
        "small": "captured",
        "large": "captured",
        "still": "unchanged",
        "also": "unchanged",
    }
    assert report.objects_written == 2 * 2 + 1


def lab_tip(lab: Lab) -> bytes:
    return git("rev-parse", MAIN, cwd=lab.root / "large").strip()


def test_what_is_uploaded_is_the_new_packs_and_little_more(lab: Lab) -> None:
    wide = lab.repository("wide", 40)
    chain = git("rev-list", MAIN, cwd=wide).split()
    update_refs(wide, {b"refs/tags/t%04d" % n: chain[n % 40] for n in range(1500)})
    for name in ("one", "two", "three"):
        lab.repository(name)
    lab.run()
    before = lab.stored()
    for name in ("wide", "one", "two"):
        push(lab.root / name, 5)
    report = lab.run()
    bundles = [lab.read(key) for key in lab.stored() - before if key.endswith(".bundle")]
    assert len(bundles) == report.count("captured") == 3
    packs = [data[data.index(b"\n\n") + 2 :] for data in bundles]
    assert all(pack.startswith(b"PACK") for pack in packs)
    refs = 1500 + 1 + 2
    limit = sum(len(pack) for pack in packs) + 200 * refs + 3 * 4096
    assert sum(len(data) for data in bundles) < report.bytes_uploaded < limit
    # The allowance is no cover: no pack holds what an earlier one did.
    assert max(len(pack) for pack in packs) < 4096


# --- A listing or a repository that loses much -------------------------------------------------


def folder_of(lab: Lab, count: int) -> list[Path]:
    return [lab.repository(f"r{number:02}", commits=1) for number in range(count)]


def remove(path: Path) -> None:
    path.rename(path.parent.parent / f"removed-{path.name}")


def test_a_listing_that_falls_too_far_fails_the_run_and_marks_nothing(lab: Lab) -> None:
    paths = folder_of(lab, 10)
    lab.run()
    for path in paths[:3]:
        remove(path)
    push(paths[5])
    report = lab.run()
    assert (report.result, report.exit_code) == ("failed", 1)
    assert "7 repositories are listed, 10 were before" in report.problems[0]
    assert "--accept-drop" in report.problems[0]
    assert statuses(report)["r05"] == "captured"
    assert report.count("gone") == 0
    manifest = lab.manifest()
    assert manifest.result == "failed"
    assert len(manifest.entries) == 10
    assert not [entry.path for entry in manifest.entries if entry.absence]
    # It stays so until somebody says that it is right.
    assert lab.run().exit_code == 1
    accepted = lab.run(accept_drop=True)
    assert (accepted.exit_code, accepted.count("gone")) == (0, 3)
    assert {e.path for e in lab.manifest().entries if e.absence} == {"r00", "r01", "r02"}
    assert lab.run().exit_code == 0


@pytest.mark.parametrize(("percent", "kept", "code"), [(20, 8, 0), (20, 7, 1), (0, 9, 1)])
def test_a_listing_may_fall_by_max_drop_percent_and_no_further(
    lab: Lab, percent: int, kept: int, code: int
) -> None:
    paths = folder_of(lab, 10)
    lab.run()
    for path in paths[kept:]:
        remove(path)
    assert lab.run(max_drop_percent=percent).exit_code == code


@pytest.mark.parametrize("percent", [10, 30, 60, 70, 90])
def test_a_fall_by_exactly_max_drop_percent_is_within_it(lab: Lab, percent: int) -> None:
    paths = folder_of(lab, 10)
    lab.run()
    for path in paths[: percent // 10]:
        remove(path)
    assert lab.run(max_drop_percent=percent).problems == ()


def test_an_empty_listing_of_a_known_folder_loses_nothing(lab: Lab) -> None:
    for path in folder_of(lab, 2):
        lab.run()
        remove(path)
    report = lab.run()
    assert (report.result, report.exit_code, report.listed) == ("failed", 1, 0)
    assert {e.path for e in lab.manifest().entries if e.record} == {"r00", "r01"}


def test_a_repository_that_loses_many_refs_is_said_first_and_its_last_state_is_pinned(
    lab: Lab,
) -> None:
    path = lab.repository("widgets")
    tip = git("rev-parse", MAIN, cwd=path).strip()
    update_refs(path, {b"refs/tags/v%d" % n: tip for n in range(39)})
    lab.run()
    # What forges do by themselves.
    update_refs(path, {b"refs/tags/v%d" % n: None for n in range(9)})
    ordinary = lab.run()
    assert (ordinary.result, told(ordinary)["widgets"].urgent) == ("success", "")
    assert lab.entry("widgets").pins == ()
    before = lab.entry("widgets").record
    update_refs(path, {b"refs/tags/v%d" % n: None for n in range(9, 19)})
    report = lab.run()
    assert (report.result, report.exit_code) == ("partial", 3)
    assert told(report)["widgets"].urgent == "10 of its 31 refs are gone"
    assert report.problems == ("src/widgets: 10 of its 31 refs are gone",)
    assert statuses(report) == {"widgets": "captured"}
    (pin,) = lab.entry("widgets").pins
    assert pin.record == before
    # It is said once; the pin stays.
    assert lab.run().exit_code == 0
    assert lab.entry("widgets").pins == (pin,)


def test_a_repository_that_loses_all_branches_is_said_first(lab: Lab) -> None:
    path = lab.repository("widgets")
    tip = git("rev-parse", MAIN, cwd=path).strip()
    update_refs(path, {b"refs/tags/v%d" % n: tip for n in range(30)})
    lab.run()
    update_refs(path, {MAIN: None})
    report = lab.run()
    assert report.exit_code == 3
    assert told(report)["widgets"].urgent == "all its branches are gone"
    assert len(lab.entry("widgets").pins) == 1


def test_a_repository_that_loses_everything_is_pinned_and_its_history_goes_on(lab: Lab) -> None:
    path = lab.repository("widgets")
    lab.run()
    kept = lab.entry("widgets").record
    update_refs(path, {MAIN: None})
    report = lab.run()
    assert (report.exit_code, statuses(report)) == (3, {"widgets": "empty"})
    assert [pin.record for pin in lab.entry("widgets").pins] == [kept]
    assert lab.record("widgets").previous == kept
    push(path, label=b"anew")
    assert done(lab.run(), "widgets") == ("captured", "full", "was empty before")


def test_accept_drop_takes_lost_refs_as_meant_and_pins_all_the_same(lab: Lab) -> None:
    path = lab.repository("widgets")
    lab.run()
    update_refs(path, {MAIN: None, b"refs/tags/kept": git("rev-parse", MAIN, cwd=path).strip()})
    report = lab.run(accept_drop=True)
    assert (report.result, report.exit_code, report.problems) == ("success", 0, ())
    assert told(report)["widgets"].urgent
    assert len(lab.entry("widgets").pins) == 1


def test_a_new_vault_without_repositories_fails_and_is_not_begun(tmp_path: Path) -> None:
    (tmp_path / "src").mkdir()
    done = repo_backup("run", "--from", "src", "--to", "vault", cwd=tmp_path, check=1)
    assert "no repositories were found" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["src"]


def test_one_owner_without_repositories_fails_the_run_but_not_the_others(lab: Lab) -> None:
    lab.repository("a")
    (lab.root.parent / "void").mkdir()
    sources = [
        FolderSource(lab.root.parent / "void", owner="void"),
        FolderSource(lab.root, owner="src"),
    ]
    report = lab.run(sources=sources)
    assert (report.result, report.exit_code) == ("failed", 1)
    assert report.problems[0].startswith("void: no repositories were found")
    assert statuses(report) == {"a": "captured"}
    assert len(report.manifests) == 1


# --- Filters -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("filters", "taken"),
    [
        ({"include": ("team/*",)}, ["team/api", "team/site", "team/sub/deep"]),
        ({"include": ("api",)}, ["api"]),
        ({"include": ("*api",)}, ["api", "team/api"]),
        ({"exclude": ("team/*",)}, ["api", "old"]),
        ({"include": ("*api", "old"), "exclude": ("team/*",)}, ["api", "old"]),
        ({"exclude": ("team/sub/*", "TEAM/*")}, ["api", "old", "team/api", "team/site"]),
    ],
)
def test_filters_match_the_path(lab: Lab, filters: dict[str, Any], taken: list[str]) -> None:
    for name in ("api", "old", "team/api", "team/site", "team/sub/deep"):
        lab.repository(name, commits=1)
    report = lab.run(**filters)
    assert sorted(statuses(report)) == taken
    assert report.listed == 5
    manifest = lab.manifest()
    assert (manifest.include, manifest.exclude) == (
        filters.get("include", ()),
        filters.get("exclude", ()),
    )


def test_what_a_filter_leaves_out_is_carried_forward_as_it_is(lab: Lab) -> None:
    for name in ("a", "b"):
        lab.repository(name)
    first = lab.run()
    before = lab.entry("b")
    push(lab.root / "b")
    report = lab.run(include=("a",))
    assert (report.exit_code, statuses(report)) == (0, {"a": "unchanged"})
    entry = lab.entry("b")
    assert entry.not_selected
    assert entry.absence is None
    kept = ("record", "digest", "checked_at", "captured_at", "selection")
    assert [getattr(entry, n) for n in kept] == [getattr(before, n) for n in kept]
    assert entry.carried_from == first.snapshot_id
    assert statuses(lab.run()) == {"a": "unchanged", "b": "captured"}
    assert not lab.entry("b").not_selected


@pytest.mark.parametrize(
    ("words", "taken"),
    [
        ({"include": ("acme/same",)}, ["acme/same"]),
        ({"include": ("acme/*", "own")}, ["acme/only", "acme/same", "other/own"]),
        ({"exclude": ("other/same", "on?y")}, ["acme/same", "other/own"]),
        ({"include": ("*/same",), "exclude": ("acme/*",)}, ["other/same"]),
        ({"include": ("same",)}, ["acme/same", "other/same"]),
    ],
)
def test_filters_may_name_the_owner(
    tmp_path: Path, words: dict[str, Any], taken: list[str]
) -> None:
    names = {"acme": ("only", "same"), "other": ("own", "same")}
    labs = [Lab(tmp_path / owner) for owner in names]
    for lab in labs:
        for name in names[lab.root.name]:
            lab.repository(name)
    sources = [FolderSource(lab.root, owner=lab.root.name) for lab in labs]
    report = labs[0].run(sources=sources, **words)
    found = [f"{one.owner}/{one.path}" for one in report.outcomes if one.status == "captured"]
    assert sorted(found) == taken


def test_a_repository_whose_name_ends_like_a_wiki_s_is_filtered_by_its_name(lab: Lab) -> None:
    for name in ("docs", "docs.wiki"):
        lab.repository(name)
    report = lab.run(exclude=("docs",))
    assert [one.path for one in report.outcomes if one.status == "captured"] == ["docs.wiki"]
    report = lab.run(exclude=("docs.wiki",))
    assert [one.path for one in report.outcomes if one.status == "captured"] == ["docs"]


def test_a_filter_that_leaves_one_of_several_owners_nothing_is_a_note(tmp_path: Path) -> None:
    labs = [Lab(tmp_path / owner) for owner in ("acme", "other")]
    for lab in labs:
        lab.repository("same")
    sources = [FolderSource(lab.root, owner=lab.root.name) for lab in labs]
    report = labs[0].run(sources=sources, include=("acme/*",))
    assert (report.result, report.count("captured")) == ("success", 1)
    left_out = "other: --include 'acme/*': leaves none of 1 repositories"
    assert [one for one in report.notes if one.startswith("other")] == [left_out]
    assert len(report.manifests) == 1
    with pytest.raises(ConfigError, match="leaves none"):
        labs[0].run(sources=sources, include=("third/*",))


def test_a_filter_does_not_make_the_listing_fall(lab: Lab) -> None:
    folder_of(lab, 10)
    lab.run()
    assert lab.run(include=("r00",)).exit_code == 0
    assert lab.run().exit_code == 0
    assert not [entry for entry in lab.manifest().entries if entry.absence]


@pytest.mark.parametrize("words", ["--include nothing-*", "--exclude *", "--include a --exclude a"])
def test_a_filter_that_leaves_nothing_is_refused_before_anything_is_written(
    words: str, tmp_path: Path
) -> None:
    lab = Lab(tmp_path / "src")
    lab.repository("a")
    args = ("run", "--from", "src", "--to", "vault", *words.split())
    done = repo_backup(*args, cwd=tmp_path, check=2)
    assert "leaves none of 1 repositories" in done.stderr
    assert not (tmp_path / "vault").exists()
    repo_backup("run", "--from", "src", "--to", "vault", cwd=tmp_path)
    before = tree(tmp_path / "vault")
    repo_backup(*args, cwd=tmp_path, check=2)
    assert tree(tmp_path / "vault") == before


# --- Which source a vault is of ----------------------------------------------------------------


def test_another_folder_of_the_same_name_is_refused_and_the_vault_untouched(
    tmp_path: Path,
) -> None:
    for place in ("here", "there"):
        Lab(tmp_path / place / "src").repository("a")
    repo_backup("run", "--from", "here/src", "--to", "vault", cwd=tmp_path)
    before = tree(tmp_path / "vault")
    done = repo_backup("run", "--from", "there/src", "--to", "vault", cwd=tmp_path, check=2)
    assert f"is a backup of {tmp_path}/here/src, not of {tmp_path}/there/src" in done.stderr
    assert "--owner" in done.stderr.splitlines()[-1]
    assert tree(tmp_path / "vault") == before
    words = ("--owner", "elsewhere", "--to", "vault", "--json")
    report = repo_backup("run", "--from", "there/src", *words, cwd=tmp_path).json
    assert [(one["owner"], one["plan"]) for one in report["repositories"]] == [
        ("elsewhere", "full")
    ]
    again = repo_backup("run", "--from", "here/src", "--to", "vault", "--json", cwd=tmp_path).json
    assert again["totals"]["unchanged"] == again["totals"]["listed"] == 1


def test_a_mismatch_of_one_source_does_not_keep_the_other_from_its_backup(lab: Lab) -> None:
    other = Lab(lab.root.parent / "other" / "src", lab.destination)
    for one in (lab, other):
        one.repository("a")
    lab.run()
    sources = [FolderSource(other.root, owner="src"), FolderSource(other.root, owner="mine")]
    report = lab.run(sources=sources)
    assert report.exit_code == 1
    assert [(one.owner, one.status) for one in report.outcomes] == [("mine", "captured")]
    assert lab.manifest().source.location == str(lab.root)


def test_a_mismatch_alone_is_a_matter_of_configuration(lab: Lab) -> None:
    lab.repository("a")
    lab.run()
    before = lab.stored()
    with pytest.raises(ConfigError, match="is a backup of"):
        lab.run(sources=[FolderSource(lab.root.parent, owner="src")])
    assert lab.stored() == before


def test_repositories_named_one_by_one_share_an_owner_and_those_not_named_are_carried(
    tmp_path: Path,
) -> None:
    for name in ("a", "b"):
        Lab(tmp_path / "place").repository(name)
    Lab(tmp_path / "other").repository("a")
    named = [
        word for name in ("place/a", "place/b", "other/a") for word in ("--from", f"git:{name}")
    ]
    args = ("--to", "vault", "--owner", "mine", "--json")
    first = repo_backup("run", *named, *args, cwd=tmp_path).json
    assert [one["path"] for one in first["repositories"]] == ["a", "a", "b"]
    assert len({one["host_id"] for one in first["repositories"]}) == 3
    assert len(first["manifests"]) == 1
    push(tmp_path / "place/b")
    second = repo_backup("run", "--from", "git:place/b", *args, cwd=tmp_path).json
    assert [(one["path"], one["plan"]) for one in second["repositories"]] == [("b", "incremental")]
    assert second["exit_code"] == 0
    # What was not named is neither gone nor forgotten.
    restored = repo_backup(
        "restore", "--all", "--from", "vault", "out", "--json", cwd=tmp_path
    ).json
    assert len(restored["restored"]) == 3
    assert not restored["left_out"]
    several = repo_backup("list", "mine/a", "--from", "vault", cwd=tmp_path, check=2)
    assert "means several" in several.stderr


def test_a_repository_named_that_is_not_there_fails_alone(lab: Lab) -> None:
    here, there = lab.repository("here"), lab.repository("there")
    source = GitUrlSource([str(here), str(there)], owner="mine")
    lab.run(sources=[source])
    remove(there)
    report = lab.run(sources=[source])
    assert (report.exit_code, report.result) == (3, "partial")
    assert statuses(report) == {"here": "unchanged", "there": "failed"}
    assert lab.entry("there", host="git", owner="mine").record is not None


# --- What a run asks for -----------------------------------------------------------------------


def test_another_selection_makes_a_capture_though_no_ref_moved(lab: Lab) -> None:
    path = lab.repository("widgets")
    push(path, branch=b"refs/pull/1/head", label=b"pull")
    push(path, branch=b"refs/pull/1/merge", label=b"merge")
    lab.repository("plain")
    without = Selection(pull_refs=False)
    lab.run(selection=without)
    assert [line.name for line in lab.record("widgets").refs] == ["refs/heads/main"]
    with_pulls = Selection(pull_refs=True)
    report = lab.run(selection=with_pulls)
    assert done(report, "widgets") == ("captured", "incremental", "refs changed")
    assert done(report, "plain") == (
        "captured",
        "incremental",
        "another selection is asked for",
    )
    names = [line.name for line in lab.record("widgets").refs]
    assert names == ["refs/heads/main", "refs/pull/1/head"]
    assert lab.run(selection=with_pulls).count("unchanged") == 2
    back = lab.run(selection=without)
    assert back.count("captured") == 2
    assert [line.name for line in lab.record("widgets").refs] == ["refs/heads/main"]


def test_pull_refs_is_an_option_of_the_program(tmp_path: Path) -> None:
    path = Lab(tmp_path / "src").repository("widgets")
    push(path, branch=b"refs/pull/7/head", label=b"pull")
    args = ("run", "--from", "src", "--to", "vault", "--json")
    repo_backup(*args, "--no-pull-refs", cwd=tmp_path)
    second = repo_backup(*args, "--pull-refs", cwd=tmp_path).json
    assert second["totals"]["captured"] == 1
    # On this machine it is what a run does that nobody told anything.
    assert repo_backup(*args, cwd=tmp_path).json["totals"]["unchanged"] == 1
    history = repo_backup("list", "src/widgets", "--from", "vault", "--json", cwd=tmp_path).json
    assert [list(one["refs"]) for one in history["history"]] == [
        ["refs/heads/main"],
        ["refs/heads/main", "refs/pull/7/head"],
    ]


def mirror_of_a_forge(lab: Lab) -> dict[bytes, bytes]:
    """Make a mirror as ``git clone --mirror`` makes it of GitHub: 44 refs, and 317 heads."""
    path = lab.repository("widgets")
    tip = git("rev-parse", "refs/heads/main", cwd=path).strip()
    kept = {b"refs/heads/topic-%d" % number: tip for number in range(43)}
    heads = {b"refs/pull/%d/head" % number: tip for number in range(1, 318)}
    by_rule = [b"refs/pull/1/merge", b"refs/pull/2/merge", b"refs/keep-around/" + tip]
    update_refs(path, kept | heads | dict.fromkeys(by_rule, tip))
    return {b"refs/heads/main": tip} | kept | heads


BY_RULE = {"refs/keep-around/*": 1, "refs/pull/*/merge": 2}
SAID_BY_RULE = (
    "3 refs made by forges for themselves left out in 1 repository: "
    "1 refs/keep-around/*, 2 refs/pull/*/merge"
)


def test_a_folder_of_mirrors_gives_back_every_head_and_says_what_is_left_out(
    tmp_path: Path,
) -> None:
    expected = mirror_of_a_forge(Lab(tmp_path / "src"))
    assert len(expected) == 361
    report = repo_backup("run", "--from", "src", "--to", "vault", "--json", cwd=tmp_path).json
    (one,) = report["repositories"]
    assert one["refs_not_selected"] == BY_RULE
    assert report["totals"]["refs_not_selected"] == 3
    assert report["notes"][-1:] == [SAID_BY_RULE]
    repo_backup("restore", "src/widgets", "back.git", "--from", "vault", cwd=tmp_path)
    listed = git("for-each-ref", "--format=%(refname) %(objectname)", cwd=tmp_path / "back.git")
    assert dict(line.split() for line in listed.splitlines()) == expected
    listing = repo_backup("list", "--from", "vault", cwd=tmp_path)
    assert SAID_BY_RULE in listing.stdout


def test_a_folder_of_mirrors_without_pull_refs_counts_them(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "src")
    expected = mirror_of_a_forge(lab)
    counts = {"refs/keep-around/*": 1, "refs/pull/*/head": 317, "refs/pull/*/merge": 2}
    night = ("run", "--from", "src", "--to", "vault", "--no-pull-refs", "--json")
    report = repo_backup(*night, cwd=tmp_path).json
    assert report["repositories"][0]["refs_not_selected"] == counts
    assert report["notes"][-2:] == [
        "317 refs of pull requests left out in 1 repository; --pull-refs takes them",
        SAID_BY_RULE,
    ]
    asked = ("list", "src/widgets", "--from", "vault", "--json")
    shown = repo_backup(*asked, cwd=tmp_path).json
    assert shown["repository"]["refs_not_selected"] == counts
    (item,) = shown["history"]
    assert item["refs_not_selected"] == counts
    assert len(item["refs"]) == 44
    # A forge adds such refs all the time: that is no change, and the number is today's.
    tip = expected[b"refs/heads/main"]
    update_refs(lab.root / "widgets", {b"refs/pull/318/head": tip})
    report = repo_backup(*night, cwd=tmp_path).json
    assert report["totals"]["unchanged"] == 1
    shown = repo_backup(*asked, cwd=tmp_path).json
    assert shown["repository"]["refs_not_selected"] == counts | {"refs/pull/*/head": 318}
    assert [one["refs_not_selected"] for one in shown["history"]] == [counts]


def test_heads_on_servers_are_left_out_and_counted_in_the_same_run(lab: Lab) -> None:
    mirror_of_a_forge(lab)
    with GitHttpServer(lab.root) as server:
        there = GitUrlSource([f"{server.url}/widgets"], owner="there")
        here = GitUrlSource([str(lab.root / "widgets")], owner="here")
        report = lab.run(sources=[there, here])
    counted = {one.owner: one.refs_not_selected for one in report.outcomes}
    assert counted == {"there": BY_RULE | {"refs/pull/*/head": 317}, "here": BY_RULE}
    asked = [
        lab.manifest(host="git", owner=owner).selection.pull_refs for owner in ("there", "here")
    ]
    assert asked == [False, True]


def test_a_pull_request_that_cannot_be_had_costs_no_branch(lab: Lab) -> None:
    path = lab.repository("widgets")
    push(path, branch=b"refs/pull/7/head", label=b"pull")
    push(path, branch=b"refs/pull/8/head", label=b"gone")
    # The commit is there, what it holds is not: servers have such refs.
    tree = git("rev-parse", "refs/pull/8/head^{tree}", cwd=path).decode().strip()
    lost = path / "objects" / tree[:2] / tree[2:]
    assert lost.exists()
    lost.rename(path / "lost")
    with_pulls = Selection(pull_refs=True)
    report = lab.run(selection=with_pulls)
    assert report.result == "partial"
    assert done(report, "widgets") == ("captured", "full", "first capture")
    (problem,) = report.problems
    assert problem.startswith("src/widgets: the heads of its pull requests are left out: ")
    entry = lab.entry("widgets")
    assert entry.unfinished[0].startswith("pull requests: ")
    assert not entry.selection.pull_refs
    assert entry.refs_not_selected == {"refs/pull/*/head": 2}
    assert [line.name for line in lab.record("widgets").refs] == ["refs/heads/main"]
    # It is tried again each time, and costs nothing while it does not work.
    report = lab.run(selection=with_pulls)
    assert (report.result, report.objects_written) == ("partial", 1)
    assert done(report, "widgets")[0] == "unchanged"
    assert lab.entry("widgets").unfinished == entry.unfinished
    # A night that does not ask for them is done with it.
    assert lab.run(selection=Selection(pull_refs=False)).result == "success"
    assert lab.entry("widgets").unfinished == ()
    (path / "lost").rename(lost)
    report = lab.run(selection=with_pulls)
    assert report.result == "success"
    names = [line.name for line in lab.record("widgets").refs]
    assert names == ["refs/heads/main", "refs/pull/7/head", "refs/pull/8/head"]
    assert lab.entry("widgets").unfinished == ()


def lose(path: Path, what: str) -> Callable[[], object]:
    """Take a commit's root tree away, as servers lose some; return what brings it back."""
    tree = git("rev-parse", f"{what}^{{tree}}", cwd=path).decode().strip()
    lost, kept = path / "objects" / tree[:2] / tree[2:], path / f"lost-{tree}"
    lost.rename(kept)
    return lambda: kept.rename(lost)


def names_and_ids(lab: Lab) -> dict[str, str]:
    return {line.name: line.id for line in lab.record("widgets").refs}


def test_heads_that_the_vault_has_stay_where_tonights_cannot_be_had(lab: Lab) -> None:
    path = lab.repository("widgets")
    push(path, branch=b"refs/pull/7/head", label=b"seven")
    push(path, branch=b"refs/pull/8/head", label=b"eight")
    with_pulls = Selection(pull_refs=True)
    assert lab.run(selection=with_pulls).result == "success"
    before = names_and_ids(lab)
    push(path, branch=b"refs/pull/8/head", label=b"gone")
    bring_back = lose(path, "refs/pull/8/head")
    push(path)
    report = lab.run(selection=with_pulls)
    assert done(report, "widgets") == ("captured", "incremental", "refs changed")
    (problem,) = report.problems
    assert "the heads of its pull requests stay as they were: " in problem
    after = names_and_ids(lab)
    assert after.keys() == before.keys()
    assert after["refs/heads/main"] != before["refs/heads/main"]
    assert after["refs/pull/8/head"] == before["refs/pull/8/head"]
    assert not report.outcomes[0].refs_not_selected
    # It costs nothing while it does not work, and they come back from the newest state.
    report = lab.run(selection=with_pulls)
    assert (report.result, report.objects_written) == ("partial", 1)
    assert done(report, "widgets")[0] == "unchanged"
    assert [one.ref_name for one in lab.record("widgets").changes] == ["refs/heads/main"]
    bring_back()
    assert lab.run(selection=with_pulls).result == "success"
    assert names_and_ids(lab)["refs/pull/8/head"] != before["refs/pull/8/head"]
    assert lab.entry("widgets").unfinished == ()


def test_heads_that_the_vault_has_stay_though_a_try_without_asking_for_them_failed(
    lab: Lab,
) -> None:
    """What ends such a try is not the heads, and may be over a moment later."""
    path = lab.repository("widgets")
    push(path, branch=b"refs/pull/8/head", label=b"eight")
    with_pulls = Selection(pull_refs=True)
    assert lab.run(selection=with_pulls).result == "success"
    before = names_and_ids(lab)
    push(path, branch=b"refs/pull/8/head", label=b"gone")
    lose(path, "refs/pull/8/head")
    push(path)
    bring_back = lose(path, "refs/heads/main")

    class Heals(TerminalEvents):
        tries = 0

        def capturing(self, name: str, action: str, reason: str) -> None:
            super().capturing(name, action, reason)
            self.tries += 1
            if self.tries == 3:
                bring_back()

    # Where branches cannot be had either, the last state is better than one without the heads.
    report = lab.run(selection=with_pulls)
    assert (done(report, "widgets")[0], names_and_ids(lab)) == ("failed", before)
    report = lab.run(selection=with_pulls, events=Heals(Console(quiet=True)))
    assert done(report, "widgets") == ("captured", "incremental", "refs changed")
    assert "the heads of its pull requests stay as they were: " in report.problems[0]
    after = names_and_ids(lab)
    assert after["refs/pull/8/head"] == before["refs/pull/8/head"]
    assert after["refs/heads/main"] != before["refs/heads/main"]


def test_a_first_try_that_failed_leaves_no_heads_out_where_there_are_none(lab: Lab) -> None:
    path = lab.repository("widgets")
    bring_back = lose(path, "refs/heads/main")

    class Heals(TerminalEvents):
        tries = 0

        def capturing(self, name: str, action: str, reason: str) -> None:
            super().capturing(name, action, reason)
            self.tries += 1
            if self.tries == 2:
                bring_back()

    with_pulls = Selection(pull_refs=True)
    report = lab.run(selection=with_pulls, events=Heals(Console(quiet=True)))
    assert (report.result, report.problems) == ("success", ())
    assert done(report, "widgets") == ("captured", "full", "first capture")
    entry = lab.entry("widgets")
    assert (entry.unfinished, entry.selection.pull_refs) == ((), True)
    assert lab.run(selection=with_pulls).count("unchanged") == 1
    push(path, branch=b"refs/pull/8/head", label=b"eight")
    assert lab.run(selection=with_pulls).result == "success"
    assert [*names_and_ids(lab)] == ["refs/heads/main", "refs/pull/8/head"]


def test_a_head_that_the_vault_has_makes_no_record_that_git_cannot_hold(lab: Lab) -> None:
    path = lab.repository("widgets")
    push(path, branch=b"refs/pull/7/head", label=b"seven")
    with_pulls = Selection(pull_refs=True)
    lab.run(selection=with_pulls)
    tip = git("rev-parse", "refs/heads/main", cwd=path).strip()
    update_refs(path, {b"refs/pull/7/head": None, b"refs/pull": tip})
    push(path, branch=b"refs/merge-requests/1/head", label=b"gone")
    lose(path, "refs/merge-requests/1/head")
    assert lab.run(selection=with_pulls).result == "partial"
    assert [*names_and_ids(lab)] == ["refs/heads/main", "refs/pull"]


def test_heads_that_the_vault_has_do_not_hinder_a_full(lab: Lab) -> None:
    path = lab.repository("widgets")
    push(path, branch=b"refs/pull/7/head", label=b"seven")
    with_pulls = Selection(pull_refs=True)
    lab.run(selection=with_pulls)
    push(path)
    lose(path, "refs/pull/7/head")
    report = lab.run(selection=with_pulls, max_chain_length=1)
    assert done(report, "widgets") == ("captured", "full", "the chain has 1 bundles")
    (problem,) = report.problems
    assert "the heads of its pull requests are left out: " in problem
    assert [*names_and_ids(lab)] == ["refs/heads/main"]
    assert lab.run(selection=with_pulls).count("unchanged") == 1


# --- When the vault was looked over --------------------------------------------------------------


@pytest.mark.parametrize("error", [DeadlineReached("no time"), DestinationError("no answer")])
def test_a_vault_that_was_looked_over_in_part_is_not_called_checked(
    error: BackupError, lab: Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab.repository("widgets")
    gone = lab.repository("gone")
    lab.run()
    checked_at = lab.manifest().vault_checked_at
    assert checked_at is not None
    shutil.rmtree(gone)

    def fail(*_: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr("backup.commands.owner.chain_damage", fail)
        lab.run(accept_drop=True)
    assert lab.manifest().vault_checked_at == checked_at
    lab.run(accept_drop=True)
    assert (lab.manifest().vault_checked_at or checked_at) > checked_at


# --- When a full is due ------------------------------------------------------------------------


def test_a_chain_has_no_more_bundles_than_max_chain_length(lab: Lab) -> None:
    path = lab.repository("widgets", 200)
    plans = []
    for _ in range(8):
        push(path)
        plans.append(done(lab.run(max_chain_length=3), "widgets")[1:])
        assert len(lab.record("widgets").chain) <= 3
    first, *rest = plans
    assert first == ("full", "first capture")
    increment = ("incremental", "refs changed")
    again = ("full", "the chain has 3 bundles")
    assert rest == [increment, increment, again, increment, increment, again, increment]


def test_a_full_is_made_when_the_increments_outweigh_the_base(lab: Lab) -> None:
    path = lab.repository("widgets", 1)
    lab.run()
    kinds: list[tuple[str | None, str]] = []
    while not kinds or kinds[-1][0] == "incremental":
        push(path, 3)
        sizes = [bundle.size_bytes for bundle in lab.record("widgets").chain]
        _, plan, reason = done(lab.run(), "widgets")
        kinds.append((plan, reason))
        assert len(kinds) < 10
        assert (plan == "full") == (sum(sizes[1:]) > sizes[0])
    assert kinds[-1] == (
        "full",
        f"increments ({sum(sizes[1:])} bytes) outweigh the base ({sizes[0]} bytes)",
    )
    assert [bundle.kind for bundle in lab.record("widgets").chain] == ["full"]


def test_an_old_base_is_replaced_only_when_the_repository_changes(lab: Lab) -> None:
    path = lab.repository("widgets", 200)
    lab.run()
    assert statuses(lab.run(days=400)) == {"widgets": "unchanged"}
    push(path)
    assert done(lab.run(), "widgets") == ("captured", "full", "the base is 401 days old")
    push(path)
    assert done(lab.run(days=30), "widgets") == ("captured", "incremental", "refs changed")


def test_fulls_of_repositories_that_began_together_are_spread_over_days(lab: Lab) -> None:
    paths = [lab.repository(f"r{number:02}", commits=30) for number in range(12)]
    lab.run()
    full_on: dict[str, int] = {}
    # A quarter more than asked for is the room to spread in.
    for day in (40, 41, 43, 45, 47, 49, 51):
        for path in paths:
            push(path)
        # Plans only, so that no full makes the next one late.
        days = (START + timedelta(days=1 + day) - lab.now).days
        for name, outcome in told(lab.run(days=days, full_after_days=40, dry_run=True)).items():
            if outcome.plan == "full":
                assert outcome.reason == f"the base is {day} days old"
                full_on.setdefault(name, day)
    assert len(full_on) == len(paths)
    due = [*full_on.values()]
    assert min(due) > 40
    assert len(set(due)) >= 3
    assert max(due.count(day) for day in due) <= 6


def test_a_full_takes_no_more_from_the_source_than_what_is_there(lab: Lab) -> None:
    path = lab.repository("widgets", 3)
    lab.run()
    push(path, 2)
    lab.run(max_chain_length=1)
    (bundle,) = lab.record("widgets").chain
    assert bundle.objects == len(mirror_state(path).objects)
    assert bundle.check == "connected"


# --- Chains that are not there -----------------------------------------------------------------


def base_of(lab: Lab, path: str) -> Key:
    return Layout.of(host="folder", owner="src").key(lab.record(path).chain[0].key)


@pytest.fixture
def far(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "src", BehindAWire())


def test_a_broken_chain_of_an_unchanged_repository_is_found_within_a_week(far: Lab) -> None:
    path = far.repository("widgets")
    far.run()
    push(path)
    far.run()
    base = base_of(far, "widgets")
    far.destination.delete([base])
    for _ in range(5):
        assert statuses(far.run()) == {"widgets": "unchanged"}
    status, plan, reason = done(far.run(), "widgets")
    assert (status, plan) == ("captured", "full")
    assert reason.startswith("the chain is broken: repositories/widgets/")
    assert reason.endswith(".full.bundle is missing")
    assert base_of(far, "widgets") != base
    assert far.run().count("unchanged") == 1


def test_the_week_begins_anew_with_every_proof(far: Lab) -> None:
    far.repository("widgets")
    # The first night asks more: whether the place is empty, and whether it had another name.
    _, *listings = [far.run().requests.get("list", 0) for _ in range(16)]
    often = max(listings)
    assert [day for day, count in enumerate(listings, 1) if count == often] == [7, 14]


@pytest.mark.parametrize("damage", ["missing", "shorter"])
def test_where_looking_is_free_every_run_finds_a_broken_chain(lab: Lab, damage: str) -> None:
    lab.repository("widgets")
    lab.run()
    base = base_of(lab, "widgets")
    data = lab.read(base)
    lab.destination.delete([base])
    if damage == "shorter":
        lab.destination.put_if_absent(base, data[:-1])
    _, plan, reason = done(lab.run(), "widgets")
    assert plan == "full"
    assert reason.startswith("the chain is broken: ")
    assert ("has " in reason) == (damage == "shorter")


def test_a_changed_repository_proves_its_chain_before_every_increment(far: Lab) -> None:
    path = far.repository("widgets")
    far.run()
    far.destination.delete([base_of(far, "widgets")])
    push(path)
    _, plan, reason = done(far.run(), "widgets")
    assert plan == "full"
    assert "is missing" in reason


def test_a_record_that_is_missing_or_damaged_is_replaced_by_a_full(lab: Lab) -> None:
    lab.repository("widgets")
    lab.run()
    for spoiled in (None, b"not a record"):
        record = lab.entry("widgets").record
        assert record is not None
        key = Layout.of(host="folder", owner="src").key(record)
        lab.destination.delete([key])
        if spoiled is not None:
            lab.destination.put_if_absent(key, spoiled)
        report = lab.run()
        assert done(report, "widgets")[:2] == ("captured", "full")
        assert record in told(report)["widgets"].reason
        assert report.exit_code == 0
        assert lab.run().count("unchanged") == 1


def break_chain(lab: Lab, path: str) -> None:
    lab.destination.delete([base_of(lab, path)])


@pytest.mark.parametrize("how", ["gone", "not selected", "not named"])
def test_a_broken_chain_that_nothing_can_replace_is_said(lab: Lab, how: str) -> None:
    for number in range(6):
        lab.repository(f"r{number}", commits=1)
    options: dict[str, Any] = {}
    host, owner = "folder", "src"
    if how == "not named":
        host, owner = "git", "mine"
        options["sources"] = [GitUrlSource([str(lab.root / n) for n in ("r0", "r1")], owner=owner)]
    lab.run(**options)
    if how == "gone":
        remove(lab.root / "r0")
        assert lab.run().exit_code == 0
    elif how == "not selected":
        options["exclude"] = ("r0",)
    else:
        options["sources"] = [GitUrlSource([str(lab.root / "r1")], owner=owner)]
    record = lab.entry("r0", host=host, owner=owner).record
    assert record is not None
    layout = Layout.of(host=host, owner=owner)
    chain = load_record(lab.destination, layout, record).chain
    lab.destination.delete([layout.key(chain[0].key)])
    report = lab.run(**options)
    assert (report.result, report.exit_code) == ("partial", 3)
    (problem,) = report.problems
    assert problem.startswith(f"{owner}/r0 cannot be given back whole")
    assert "is missing" in problem


# --- Dry runs ----------------------------------------------------------------------------------


def test_a_dry_run_says_what_a_run_would_do_and_writes_nothing(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "src")
    lab.repository("new")
    lab.repository("none", commits=0)
    args = ("run", "--from", "src", "--to", "below/vault")
    said = repo_backup(*args, "--dry-run", cwd=tmp_path)
    assert "dry run, nothing stored" in said.stdout
    assert "first capture" in said.stdout
    assert [path.name for path in tmp_path.iterdir()] == ["src"]
    assert_it_does_what_it_said(tmp_path, args)

    push(lab.root / "new")
    lab.repository("later")
    push(lab.root / "none")
    before = tree(tmp_path / "below")
    text = repo_backup(*args, "--dry-run", cwd=tmp_path).stdout
    plans = [line.split()[:3] for line in text.splitlines() if line.startswith("src/")]
    assert plans == [
        ["src/later", "planned", "full"],
        ["src/new", "planned", "incremental"],
        ["src/none", "planned", "full"],
    ]
    assert_it_does_what_it_said(tmp_path, args, before=before)


def assert_it_does_what_it_said(
    cwd: Path, args: Sequence[str], before: dict[str, tuple[int, int]] | None = None
) -> None:
    planned = repo_backup(*args, "--dry-run", "--json", cwd=cwd).json
    assert planned["dry_run"] is True
    assert planned["manifests"] == []
    assert planned["totals"]["bytes_uploaded"] == planned["totals"]["objects_written"] == 0
    assert "put" not in planned["totals"]["requests"]
    assert tree(cwd / "below") == (before or {})
    made = repo_backup(*args, "--json", cwd=cwd).json
    assert made["dry_run"] is False

    def plans(report: dict[str, Any]) -> list[tuple[str, str | None, str]]:
        rows = report["repositories"]
        return [(r["path"], r["plan"], r["reason"]) for r in rows]

    assert plans(made) == plans(planned)
    assert made["exit_code"] == planned["exit_code"]


def test_a_dry_run_ends_as_the_run_would_when_a_repository_cannot_be_asked(lab: Lab) -> None:
    lab.repository("good")
    (lab.repository("bad") / "config").write_text("[broken\n")
    planned = lab.run(dry_run=True)
    made = lab.run()
    assert (made.result, made.exit_code) == ("partial", 3)
    assert (planned.result, planned.exit_code) == ("partial", 3)


def test_a_dry_run_tells_what_is_gone_and_marks_nothing(lab: Lab) -> None:
    paths = folder_of(lab, 6)
    lab.run()
    remove(paths[0])
    before = lab.stored()
    report = lab.run(dry_run=True)
    assert (report.count("gone"), report.exit_code) == (1, 0)
    assert lab.stored() == before


# --- The listing itself ------------------------------------------------------------------------


def test_a_listing_that_breaks_off_changes_nothing(lab: Lab) -> None:
    for path in folder_of(lab, 3):
        push(path)
    lab.run()
    before = lab.stored()

    class BreaksOff(FolderSource):
        def repositories(self) -> Iterator[Any]:
            for number, repository in enumerate(super().repositories()):
                if number == 2:
                    raise SourceError("the listing broke off")
                yield repository

    with pytest.raises(SourceError, match="broke off"):
        lab.run(sources=[BreaksOff(lab.root, owner="src")])
    assert lab.stored() == before


def test_a_repository_that_a_second_look_finds_is_not_gone(lab: Lab) -> None:
    """A listing in pages may miss what moved between them."""
    paths = folder_of(lab, 6)
    lab.run()
    push(paths[0])

    class MissesOne(FolderSource):
        def repositories(self) -> Iterator[Any]:
            yield from (one for one in super().repositories() if one.path != "r00")

        def look_up(self, *, host_id: str, path: str, kind: Kind) -> Any:
            return next(one for one in super().repositories() if one.host_id == host_id)

    report = lab.run(sources=[MissesOne(lab.root, owner="src")])
    assert (report.exit_code, report.count("gone")) == (0, 0)
    assert statuses(report)["r00"] == "captured"


def test_a_repository_that_comes_again_on_the_next_page_is_one(lab: Lab) -> None:
    """One that is made while pages are read moves the last of a page to the next."""
    folder_of(lab, 6)

    class Repeats(FolderSource):
        def repositories(self) -> Iterator[Any]:
            for one in super().repositories():
                yield one
                if one.path in {"r02", "r05"}:
                    yield one

    report = lab.run(sources=[Repeats(lab.root, owner="src")])
    assert (report.exit_code, report.count("captured"), len(report.outcomes)) == (0, 6, 6)
    assert lab.manifest().totals.listed == 6
    assert len([key for key in lab.stored() if key.endswith(".bundle")]) == 6
    # So many there are, and not eight.
    assert lab.run().exit_code == 0


def test_a_renamed_repository_keeps_its_chain_under_both_names(lab: Lab) -> None:
    """Forges know a repository by an id that outlives its name."""
    lab.repository("before", 40)
    lab.run()

    class Renames(FolderSource):
        def repositories(self) -> Iterator[Any]:
            yield from (replace(one, path="after") for one in super().repositories())

    push(lab.root / "before")
    report = lab.run(sources=[Renames(lab.root, owner="src")])
    assert done(report, "after") == ("captured", "incremental", "refs changed")
    assert lab.entry("after").aliases == ("before",)
    folders = [bundle.key.split("/")[1] for bundle in lab.record("after").chain]
    assert folders == ["before", "after"]
    assert lab.run(sources=[Renames(lab.root, owner="src")]).count("unchanged") == 1


def test_the_default_branch_alone_can_change(lab: Lab) -> None:
    path = lab.repository("widgets")
    push(path, branch=b"refs/heads/next", label=b"next")
    lab.run()
    set_head(path, b"refs/heads/next")
    assert done(lab.run(), "widgets") == ("captured", "incremental", "refs changed")
    assert lab.record("widgets").head.symref == "refs/heads/next"
