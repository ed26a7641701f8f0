"""What comes back is what was there: refs, HEAD and every object, as ``git clone --mirror`` has it.

The real program backs up and restores; git alone, given the bundles, must come to the same.
"""

import re
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from backup.destinations.folder import FolderDestination
from backup.sources.plain import FolderSource
from tests.support.git import (
    FastImport,
    commit_chain,
    git,
    init_bare,
    set_head,
    update_refs,
    write_blob,
    write_tag,
)
from tests.support.mirrors import (
    MirrorState,
    assert_same_mirror,
    clone_mirror,
    fsck,
    mirror_state,
)
from tests.support.program import PROGRAM, Completed, environment, repo_backup
from tests.support.shapes import LARGE, SOUND, make
from tests.support.vaults import (
    Capture,
    PlainMirror,
    captures_of,
    files,
    history,
    objects_in_pack,
    plain_mirror,
    prerequisites,
    restored,
    run_at,
    run_into,
    to_be_kept,
)

WHOLE = sorted({*SOUND, *LARGE})


@dataclass(frozen=True)
class BackedUp:
    """A folder of all sound shapes, backed up twice and restored whole.

    Attributes:
        first: the report of the first run.
        second: that of the second, with nothing changed in between.
        written: the files that the second added to the vault.
        answer: that of the restore.
    """

    folder: Path
    vault: Path
    restored: Path
    first: Any
    second: Any
    written: frozenset[Path]
    answer: Any


# What a shape borrows objects from lies inside it, and is a repository of its own.
APART = ("--exclude", "*/lender")


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> BackedUp:
    folder = tmp_path_factory.mktemp("shapes")
    source, vault, target = folder / "acme", folder / "vault", folder / "restored"
    for name in WHOLE:
        make(name, source / f"{name}.git")
    first = run_into(vault, source, extra=APART)
    before = files(vault)
    second = run_into(vault, source, extra=APART)
    written = frozenset(files(vault) - before)
    answer = repo_backup("restore", "--all", target, "--from", vault, "--json").json
    return BackedUp(source, vault, target, first, second, written, answer)


# Every shape


@pytest.mark.parametrize("name", WHOLE)
def test_a_shape_is_restored_as_git_clone_mirror_makes_it(
    name: str, everything: BackedUp, tmp_path: Path
) -> None:
    clone = clone_mirror(everything.folder / f"{name}.git", tmp_path / "clone.git")
    expected = to_be_kept(clone, pull_refs=True)
    mirror = everything.restored / f"{name}.git"
    assert_same_mirror(mirror, expected)
    assert fsck(mirror) == (fsck(clone) if name == "fsck-warnings" else [])
    assert git("rev-parse", "--is-bare-repository", cwd=mirror) == b"true\n"


@pytest.mark.parametrize("name", WHOLE)
def test_a_shape_is_given_back_by_plain_git_from_its_listed_chain(
    name: str, everything: BackedUp, tmp_path: Path
) -> None:
    expected = to_be_kept(everything.folder / f"{name}.git", pull_refs=True)
    (item,) = history(everything.vault, f"acme/{name}")
    assert item.refs == expected.refs
    assert item.head == (expected.head_symref or expected.head_id)
    assert len(item.chain) == (0 if name == "empty" else 1)
    plain_mirror(item.chain, tmp_path / "plain.git", expected.object_format).assert_gives(expected)


def test_a_folder_of_all_shapes_is_backed_up_whole(everything: BackedUp) -> None:
    assert everything.first["result"] == "success"
    status = {one["path"]: (one["status"], one["plan"]) for one in everything.first["repositories"]}
    assert status == {
        name: ("empty", None) if name == "empty" else ("captured", "full") for name in WHOLE
    }


def test_a_night_without_changes_writes_one_object_for_all_shapes(everything: BackedUp) -> None:
    status = {one["path"]: one["status"] for one in everything.second["repositories"]}
    assert status == {name: "empty" if name == "empty" else "unchanged" for name in WHOLE}
    assert everything.second["totals"]["objects_written"] == 1
    assert [path.parent.name for path in everything.written] == ["snapshots"]


def test_restore_all_makes_one_mirror_for_each_repository_and_nothing_else(
    everything: BackedUp,
) -> None:
    made = {path.name for path in everything.restored.iterdir()}
    assert made == {f"{name}.git" for name in WHOLE}
    answered = {one["repository"]: one["path"] for one in everything.answer["restored"]}
    assert answered == {f"acme/{n}": str(everything.restored / f"{n}.git") for n in WHOLE}
    assert everything.answer["left_out"] == everything.answer["failed"] == []


# Refs that are left out


def test_hidden_refs_come_only_when_they_are_asked_for(tmp_path: Path) -> None:
    source, vault = make("hidden-refs", tmp_path / "acme/widgets.git"), tmp_path / "vault"
    expected = []
    for extra in ("--no-pull-refs", "--pull-refs", "--no-pull-refs"):
        run_into(vault, source.parent, extra=(extra,))
        expected.append(to_be_kept(source, pull_refs=extra == "--pull-refs"))
    pulls = {b"refs/pull/1/head", b"refs/merge-requests/1/head"}
    assert [pulls & state.refs.keys() for state in expected] == [set(), pulls, set()]
    _assert_each_state_comes_back(vault, "widgets", expected, tmp_path)


def test_a_ref_with_a_null_id_is_left_out_and_said_each_night(tmp_path: Path) -> None:
    source, vault = make("null-id-ref", tmp_path / "acme/widgets.git"), tmp_path / "vault"
    for status in ("captured", "unchanged"):
        report = run_into(vault, source.parent, code=3)
        (problem,) = report["problems"]
        assert "refs/heads/null" in problem
        assert report["totals"][status] == 1
    kept = to_be_kept(source)
    assert set(kept.refs) == {b"refs/heads/main"}
    _assert_each_state_comes_back(vault, "widgets", [kept], tmp_path)


@pytest.mark.parametrize("kind", ["tag", "blob"])
def test_a_branch_that_names_no_commit_is_restored_as_git_clone_mirror_makes_it(
    kind: str, tmp_path: Path
) -> None:
    source, vault = init_bare(tmp_path / "acme/widgets.git"), tmp_path / "vault"
    commits = commit_chain(source, 30)
    odd = (
        write_tag(source, commits[0], "commit", b"v1") if kind == "tag" else write_blob(source, b"")
    )
    for tip in commits[-2:]:
        update_refs(source, {b"refs/heads/main": tip})
        # update-ref refuses it; git clone --mirror takes it as it is advertised.
        (source / "refs/heads/odd").write_bytes(odd + b"\n")
        run_into(vault, source.parent)
    clone = clone_mirror(source, tmp_path / "clone.git")
    assert_same_mirror(restored(vault, tmp_path / "out.git", "widgets"), clone)


# States over time


def test_an_increment_may_hold_more_than_256_changed_tips(tmp_path: Path) -> None:
    source, vault = make("many-branches", tmp_path / "acme/widgets.git"), tmp_path / "vault"
    run_into(vault, source.parent)
    states = [to_be_kept(source)]
    branches = sorted(name for name in states[0].refs if b"topic" in name)
    stream = FastImport(source)
    for name in branches:
        stream.commit([states[0].refs[name]], files={b"new.txt": name}, message=b"new\n")
    tips = list(stream.run().values())
    update_refs(source, dict(zip(branches, tips, strict=True)))
    (outcome,) = run_into(vault, source.parent)["repositories"]
    states.append(to_be_kept(source))
    assert outcome["plan"] == "incremental"
    assert outcome["refs"]["advanced"] == len(branches) == 300
    newest = _assert_each_state_comes_back(vault, "widgets", states, tmp_path)[-1].chain[-1]
    # Every one of the old tips was known: nothing that they reach came again.
    assert objects_in_pack(newest, tmp_path) == states[1].objects - states[0].objects
    assert set(prerequisites(newest)) == set(states[0].refs.values()) - set(tips)


def test_names_that_exclude_each_other_follow_one_another(tmp_path: Path) -> None:
    source, vault = init_bare(tmp_path / "acme/widgets.git"), tmp_path / "vault"
    commits = commit_chain(source, 3)
    states = []
    for change in (
        {b"refs/heads/a": commits[0], b"refs/heads/main": commits[0], b"refs/tags/t/u": commits[0]},
        {b"refs/heads/a": None, b"refs/heads/a/b": commits[1]},
        {b"refs/heads/a/b": None, b"refs/heads/a/b/c": commits[1], b"refs/tags/t/u": None},
        {b"refs/tags/t": commits[2], b"refs/heads/main": None, b"refs/heads/main/next": commits[2]},
        {b"refs/heads/a/b/c": None, b"refs/heads/a": commits[0]},
    ):
        update_refs(source, change)
        run_into(vault, source.parent, extra=("--accept-drop",))
        states.append(to_be_kept(source))
    _assert_each_state_comes_back(vault, "widgets", states, tmp_path)


def test_an_empty_repository_fills_and_empties_and_fills_again(tmp_path: Path) -> None:
    source, vault = init_bare(tmp_path / "acme/widgets.git"), tmp_path / "vault"
    commits = commit_chain(source, 4)
    states, plans, codes = [], [], []
    for tip in (None, commits[1], None, commits[3], commits[0]):
        update_refs(source, {b"refs/heads/main": tip})
        done = repo_backup("run", "--from", source.parent, "--to", vault, "--json", check=None)
        states.append(to_be_kept(source))
        plans.append(done.json["repositories"][0]["plan"])
        codes.append(done.code)
    assert plans == [None, "full", None, "full", "incremental"]
    # To lose all branches is said once, and nothing else here is worth it.
    assert codes == [0, 0, 3, 0, 0]
    captures = _assert_each_state_comes_back(vault, "widgets", states, tmp_path)
    assert [len(item.chain) for item in captures] == [0, 1, 0, 1, 2]


def test_a_detached_head_moves_every_night_until_a_branch_is_put_on_it(tmp_path: Path) -> None:
    source, vault = init_bare(tmp_path / "acme/widgets.git"), tmp_path / "vault"
    main = commit_chain(source, 40)
    update_refs(source, {b"refs/heads/main": main[-1]})
    detached = commit_chain(source, 5, start=main[0], label=b"detached")
    states, plans = [], []
    for night, commit in enumerate(detached):
        set_head(source, commit)
        if night == 3:
            update_refs(source, {b"refs/heads/found": detached[1]})
        (outcome,) = run_into(vault, source.parent)["repositories"]
        states.append(to_be_kept(source))
        plans.append(outcome["plan"])
    set_head(source, b"refs/heads/found")
    run_into(vault, source.parent)
    states.append(to_be_kept(source))
    assert plans == ["full", *["incremental"] * 4]
    assert [state.head_id for state in states] == [*detached, detached[1]]
    _assert_each_state_comes_back(vault, "widgets", states, tmp_path)


def test_a_repository_that_comes_back_to_an_earlier_state_is_captured_anew(tmp_path: Path) -> None:
    source, vault = init_bare(tmp_path / "acme/widgets.git"), tmp_path / "vault"
    commits = commit_chain(source, 3)
    states, objects = [], []
    for tip in (commits[1], commits[2], commits[1], commits[0]):
        update_refs(source, {b"refs/heads/main": tip})
        (outcome,) = run_into(vault, source.parent)["repositories"]
        states.append(to_be_kept(source))
        objects.append(outcome["objects"])
    # What the chain holds already does not travel again, as long as a ref names it.
    assert objects[:3] == [6, 3, 0]
    assert states[0] == states[2] != states[3]
    _assert_each_state_comes_back(vault, "widgets", states, tmp_path)


# Which state


MOMENTS = (
    datetime(2025, 2, 27, 3, 0, 0, tzinfo=UTC),
    datetime(2025, 2, 28, 3, 0, 0, 500_000, UTC),
    datetime(2025, 2, 28, 23, 59, 0, tzinfo=UTC),
    datetime(2025, 3, 2, 0, 0, 0, tzinfo=UTC),
)


@pytest.fixture(scope="module")
def dated(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[MirrorState]]:
    """A vault with another state of one repository at each of the moments."""
    folder = tmp_path_factory.mktemp("dated")
    source, vault = init_bare(folder / "acme/widgets.git"), folder / "vault"
    states = []
    for moment, tip in zip(MOMENTS, commit_chain(source, len(MOMENTS)), strict=True):
        update_refs(source, {b"refs/heads/main": tip})
        run_at(moment, FolderSource(source.parent, owner="acme"), FolderDestination(vault))
        states.append(to_be_kept(source))
    return vault, states


@pytest.mark.parametrize(
    ("at", "number"),
    [
        ("2025-02-27", 0),
        ("2025-02-28", 2),
        ("2025-03-01", 2),
        ("2025-03-02", 3),
        ("2025-02-27T03:00:00Z", 0),
        ("2025-02-28T02:59:59Z", 0),
        ("2025-02-28T03:00Z", 1),
        ("2025-02-28T03:00:00Z", 1),
        ("2025-02-28 03:00:00.499Z", 0),
        ("2025-02-28 03:00:00.5Z", 1),
        ("2025-02-28T23:58:59", 1),
        ("2025-03-01T13:44+13:45", 2),
        ("2025-03-01T13:43:59+13:45", 1),
        ("2025-03-01T23:59:59Z", 2),
        ("2025-03-02T00:00:00Z", 3),
        ("2099-12-31", 3),
        ("latest", 3),
    ],
)
def test_a_date_or_time_means_the_last_state_that_was_seen_by_then(
    at: str, number: int, dated: tuple[Path, list[MirrorState]], tmp_path: Path
) -> None:
    vault, states = dated
    assert_same_mirror(restored(vault, tmp_path / "out.git", "widgets", at=at), states[number])


@pytest.mark.parametrize("at", ["2025-02-26", "2025-02-27T02:59:59Z", "1999-01-01"])
def test_a_time_before_the_first_snapshot_is_refused(
    at: str, dated: tuple[Path, list[MirrorState]], tmp_path: Path
) -> None:
    target = tmp_path / "out.git"
    refused = _refused("restore", "widgets", target, "--from", dated[0], "--at", at)
    assert at in refused.stderr
    assert not target.exists()


def test_listed_ids_and_times_lead_to_the_states_that_were_listed(tmp_path: Path) -> None:
    source, vault = init_bare(tmp_path / "acme/widgets.git"), tmp_path / "vault"
    states = []
    for tip in commit_chain(source, 2):
        update_refs(source, {b"refs/heads/main": tip})
        run_into(vault, source.parent)
        states.append(to_be_kept(source))
    rows = repo_backup("list", "--from", vault, "--json").json["snapshots"]
    items = captures_of(repo_backup("list", "widgets", "--from", vault, "--json").json)
    assert items == history(vault, "widgets")
    assert [row["id"] for row in rows] == [item.snapshot for item in items]
    for number, (row, item) in enumerate(zip(rows, items, strict=True)):
        for at in (row["id"], row["finished_at"], item.captured_at):
            target = tmp_path / f"{number}-{at}.git"
            assert_same_mirror(restored(vault, target, "widgets", at=at), states[number])


def test_the_time_that_a_restore_names_leads_to_the_same_state(tmp_path: Path) -> None:
    source, vault = init_bare(tmp_path / "acme/widgets.git"), tmp_path / "vault"
    for tip in commit_chain(source, 2):
        update_refs(source, {b"refs/heads/main": tip})
        run_into(vault, source.parent)
    words = ("restore", "widgets", "--from", vault, "--json")
    first = repo_backup(*words, tmp_path / "first.git").json["restored"][0]
    again = repo_backup(*words, tmp_path / "again.git", "--at", first["state_at"]).json
    assert again["restored"][0]["snapshot"] == first["snapshot"]
    assert_same_mirror(tmp_path / "again.git", tmp_path / "first.git")


# Which repository


@pytest.fixture(scope="module")
def two_owners(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A vault of two owners with a repository of one name, and of two beside each other."""
    folder = tmp_path_factory.mktemp("owners")
    for number, place in enumerate(REPOSITORIES):
        source = init_bare(folder / place)
        update_refs(source, {b"refs/heads/main": commit_chain(source, 1 + number)[-1]})
    run_into(folder / "vault", folder / "acme", folder / "bolt")
    return folder


REPOSITORIES = (
    "acme/lib.git",
    "acme/team/tool.git",
    "bolt/lib",
    "bolt/same",
    "bolt/same.git",
)


@pytest.mark.parametrize(
    ("words", "place"),
    [
        ("acme/lib", "acme/lib.git"),
        ("acme/lib.git", "acme/lib.git"),
        ("bolt/lib.git", "bolt/lib"),
        ("folder/bolt/lib", "bolt/lib"),
        ("folder/bolt/lib.git", "bolt/lib"),
        ("team/tool", "acme/team/tool.git"),
        ("team/tool.git", "acme/team/tool.git"),
        ("acme/team/tool", "acme/team/tool.git"),
    ],
)
def test_a_repository_is_found_by_path_with_or_without_owner_host_and_ending(
    words: str, place: str, two_owners: Path, tmp_path: Path
) -> None:
    mirror = restored(two_owners / "vault", tmp_path / "out.git", words)
    assert_same_mirror(mirror, two_owners / place)


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("lib", ["acme/lib.git", "bolt/lib"]),
        ("lib.git", ["acme/lib.git", "bolt/lib"]),
        ("bolt/same", ["bolt/same", "bolt/same.git"]),
    ],
)
def test_a_name_of_several_repositories_is_refused_and_the_ids_it_lists_lead_to_each(
    name: str, places: list[str], two_owners: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out.git"
    refused = _refused("restore", name, target, "--from", two_owners / "vault")
    assert not target.exists()
    listed = re.findall(r"folder/(\S+) \(id (\w+)\)", refused.stderr)
    assert sorted(path for path, _ in listed) == [p.removesuffix(".git") for p in places]
    found = [
        mirror_state(restored(two_owners / "vault", tmp_path / host_id, host_id))
        for _, host_id in listed
    ]
    expected = [mirror_state(two_owners / place) for place in places]
    for state in expected:
        assert state in found


@pytest.mark.parametrize("name", ["tool", "acme", "acme/same", "LIB"])
def test_a_name_of_no_repository_is_refused(name: str, two_owners: Path, tmp_path: Path) -> None:
    target = tmp_path / "out.git"
    refused = _refused("restore", name, target, "--from", two_owners / "vault")
    assert repr(name) in refused.stderr
    assert not target.exists()


def test_mirrors_of_several_owners_and_of_one_name_lie_apart(
    two_owners: Path, tmp_path: Path
) -> None:
    answer = repo_backup(
        "restore", "--all", tmp_path / "out", "--from", two_owners / "vault", "--json"
    ).json
    made = [Path(one["path"]) for one in answer["restored"]]
    states = [mirror_state(path) for path in made]
    assert len(set(made)) == len(REPOSITORIES)
    for place in REPOSITORIES:
        assert mirror_state(two_owners / place) in states
    for place in ("acme/lib.git", "acme/team/tool.git", "bolt/lib"):
        mirror = tmp_path / f"out/folder/{place.removesuffix('.git')}.git"
        assert_same_mirror(mirror, two_owners / place)


# Where to


def test_without_a_target_the_mirror_is_made_here_under_its_name(
    two_owners: Path, tmp_path: Path
) -> None:
    repo_backup("restore", "team/tool", "--from", two_owners / "vault", cwd=tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["tool.git"]
    assert_same_mirror(tmp_path / "tool.git", two_owners / "acme/team/tool.git")


def test_a_target_in_a_folder_that_is_gone_is_refused_by_name(
    two_owners: Path, tmp_path: Path
) -> None:
    (tmp_path / "gone").mkdir()
    words: list[str | Path] = [PROGRAM, "restore", "acme/lib", "--from", two_owners / "vault"]
    done = subprocess.run(
        ["sh", "-c", 'cd gone && rmdir ../gone && exec "$@"', "sh", *words],
        env=environment(),
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 2
    assert "TARGET: 'lib.git' is no path that can be used" in done.stderr


def test_an_empty_folder_and_folders_that_do_not_exist_yet_may_be_the_target(
    two_owners: Path, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    for target in (tmp_path / "empty", tmp_path / "not/yet/there.git"):
        mirror = restored(two_owners / "vault", target, "acme/lib")
        assert_same_mirror(mirror, two_owners / "acme/lib.git")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "not"]


def _a_full_folder(target: Path) -> None:
    target.mkdir()
    (target / "precious.txt").write_text("mine\n")


def _a_repository(target: Path) -> None:
    update_refs(init_bare(target), {b"refs/heads/main": commit_chain(target, 1)[0]})


def _a_link_to_nowhere(target: Path) -> None:
    target.symlink_to(target.parent / "nowhere")


@pytest.mark.parametrize("words", [("acme/lib",), ("--all",)])
@pytest.mark.parametrize(
    "occupy", [_a_full_folder, _a_repository, _a_link_to_nowhere, lambda path: path.write_text("")]
)
def test_a_target_in_use_is_refused_and_left_as_it_is(
    occupy: Callable[[Path], object], words: tuple[str, ...], two_owners: Path, tmp_path: Path
) -> None:
    target = tmp_path / "target.git"
    occupy(target)
    before = _contents(tmp_path)
    refused = _refused("restore", *words, target, "--from", two_owners / "vault")
    assert str(target) in refused.stderr
    assert _contents(tmp_path) == before


def _contents(folder: Path) -> dict[Path, bytes | str | None]:
    """Map everything below a folder to what it holds."""

    def content(path: Path) -> bytes | str | None:
        if path.is_symlink():
            return str(path.readlink())
        return path.read_bytes() if path.is_file() else None

    return {path: content(path) for path in folder.rglob("*")}


def _refused(*words: str | Path) -> Completed:
    """Run what must be refused for its words, in one line and without a trace."""
    done = repo_backup(*words, check=2)
    assert done.stdout == ""
    assert "Traceback" not in done.stderr
    return done


def _assert_each_state_comes_back(
    vault: Path, name: str, states: list[MirrorState], scratch: Path
) -> list[Capture]:
    """Restore every capture of a repository by its snapshot id, and by plain git from its chain."""
    captures = history(vault, name)
    assert len(captures) == len(states)
    plain: PlainMirror | None = None
    for number, (item, state) in enumerate(zip(captures, states, strict=True)):
        mirror = restored(vault, scratch / f"by-us-{number}.git", name, at=item.snapshot)
        assert_same_mirror(mirror, state)
        assert item.refs == state.refs
        if len(item.chain) <= 1 or plain is None:
            plain = plain_mirror(item.chain, scratch / f"by-git-{number}.git", state.object_format)
        else:
            assert item.chain[:-1] == captures[number - 1].chain
            plain.apply(item.chain[-1])
        plain.assert_gives(state)
    return captures
