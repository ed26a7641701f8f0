"""Several repositories by one command: all, or those that a glob names."""

import fcntl
import os
import shutil
from pathlib import Path

import pytest

from tests.support.git import (
    commit_chain,
    git,
    init_bare,
    set_head,
    update_refs,
    write_blob,
    write_object,
    write_tree,
)
from tests.support.mirrors import assert_same_mirror
from tests.support.program import repo_backup
from tests.support.vaults import to_be_kept

NAMES = ("team-a/one", "team-a/two", "team-b/one", "what?", "other")


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("several")
    for name in NAMES:
        path = init_bare(folder / "acme" / f"{name}.git")
        update_refs(path, {b"refs/heads/main": commit_chain(path, 2, label=name.encode())[-1]})
    repo_backup("run", "--from", folder / "acme", "--to", folder / "vault")
    return folder / "vault"


def source(vault: Path, name: str) -> Path:
    return vault.parent / "acme" / f"{name}.git"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("team-a/*", ("team-a/one", "team-a/two")),
        ("acme/*/one", ("team-a/one", "team-b/one")),
        ("folder/acme/team-?/*", ("team-a/one", "team-a/two", "team-b/one")),
        ("*", NAMES),
    ],
)
@pytest.mark.parametrize("concurrency", ["1", "4"])
def test_a_glob_restores_what_it_matches_and_nothing_else(
    vault: Path, tmp_path: Path, pattern: str, expected: tuple[str, ...], concurrency: str
) -> None:
    answer = repo_backup(
        *("restore", pattern, "--from", vault, tmp_path / "back", "--json"),
        *("--concurrency", concurrency),
    ).json
    paths = {one["repository"]: Path(one["path"]) for one in answer["restored"]}
    assert paths.keys() == {f"acme/{name}" for name in expected}
    assert list(paths) == sorted(paths)
    for name in expected:
        assert_same_mirror(paths[f"acme/{name}"], to_be_kept(source(vault, name)))


def test_a_name_that_looks_like_a_glob_is_a_name_first(vault: Path, tmp_path: Path) -> None:
    repo_backup("restore", "acme/what?", "--from", vault, tmp_path / "back.git")
    assert_same_mirror(tmp_path / "back.git", to_be_kept(source(vault, "what?")))


def test_a_glob_that_matches_nothing_or_has_no_target_is_refused(
    vault: Path, tmp_path: Path
) -> None:
    nothing = repo_backup("restore", "zzz*", "--from", vault, tmp_path / "back", check=2)
    assert "nothing in this vault matches 'zzz*'" in nothing.stderr
    assert not (tmp_path / "back").exists()
    missing = repo_backup("restore", "team-*", "--from", vault, check=2)
    assert "TARGET is missing" in missing.stderr


def test_one_that_is_damaged_costs_the_others_nothing(vault: Path, tmp_path: Path) -> None:
    (bundle,) = (vault / "folder/acme/repositories/team-a/one").glob("*/*.bundle")
    whole = bundle.read_bytes()
    bundle.chmod(0o644)
    bundle.write_bytes(whole[:-1])
    try:
        done = repo_backup(
            "restore", "team-*", "--from", vault, tmp_path / "back", "--json", check=4
        )
    finally:
        bundle.write_bytes(whole)
    assert [one["repository"] for one in done.json["restored"]] == [
        "acme/team-a/two",
        "acme/team-b/one",
    ]
    (failed,) = done.json["failed"]
    assert failed.startswith("acme/team-a/one: ")
    assert not (tmp_path / "back" / "team-a" / "one.git").exists()


def test_no_repository_is_put_inside_another_one(tmp_path: Path) -> None:
    for name in ("a", "a.git/b", "a.git/b.git/c"):
        path = init_bare(tmp_path / "acme" / name)
        update_refs(path, {b"refs/heads/main": commit_chain(path, 1, label=name.encode())[-1]})
    repo_backup("run", "--from", tmp_path / "acme", "--to", tmp_path / "vault")
    done = repo_backup(
        "restore", "--all", "--from", tmp_path / "vault", tmp_path / "back", "--json"
    )
    places = [Path(one["path"]) for one in done.json["restored"]]
    assert len(places) == 3
    assert not [one for one in places if not set(places).isdisjoint(one.parents)], places


# --- Going on -------------------------------------------------------------------------------------


def test_a_restore_that_broke_off_goes_on_where_it_stopped(vault: Path, tmp_path: Path) -> None:
    mine = tmp_path / "vault"
    shutil.copytree(vault, mine)
    (bundle,) = (mine / "folder/acme/repositories/team-b/one").rglob("*.bundle")
    whole = bundle.read_bytes()
    bundle.write_bytes(whole[:-1])
    words = ("restore", "--all", "--from", mine, tmp_path / "back", "--json")
    first = repo_backup(*words, check=4).json
    assert len(first["restored"]) == len(NAMES) - 1
    left = tmp_path / "back" / ".repo-backup-restore"
    (left / "half-made-x").mkdir()
    marks = {place: place.stat().st_ino for place in (tmp_path / "back").rglob("*.git")}
    bundle.write_bytes(whole)
    second = repo_backup(*words).json
    there = {one["repository"]: one["was_there"] for one in second["restored"]}
    assert there == {f"acme/{name}": name != "team-b/one" for name in NAMES}
    assert all(place.stat().st_ino == inode for place, inode in marks.items())
    assert not left.exists()
    for one in second["restored"]:
        name = one["repository"].removeprefix("acme/")
        assert_same_mirror(Path(one["path"]), to_be_kept(source(vault, name)))
    # It is done: the folder is somebody's now.
    assert "exists already" in repo_backup(*words, check=2).stderr


def test_what_is_there_in_another_state_is_neither_kept_nor_overwritten(
    vault: Path, tmp_path: Path
) -> None:
    words = ("restore", "acme/team-a/*", "--from", vault, tmp_path / "back", "--json")
    repo_backup(*words)
    (tmp_path / "back" / ".repo-backup-restore").mkdir()
    changed = tmp_path / "back" / "team-a" / "one.git"
    update_refs(changed, {b"refs/heads/mine": commit_chain(changed, 1)[-1]})
    again = repo_backup(*words, check=3).json
    assert [one["repository"] for one in again["restored"]] == ["acme/team-a/two"]
    (failed,) = again["failed"]
    assert "one.git is there already, and in another state" in failed
    assert b"refs/heads/mine" in git("for-each-ref", cwd=changed)


def test_two_restores_never_work_in_one_folder(vault: Path, tmp_path: Path) -> None:
    workplace = tmp_path / "back" / ".repo-backup-restore"
    workplace.mkdir(parents=True)
    words = ("restore", "--all", "--from", vault, tmp_path / "back")
    lock = os.open(workplace / "lock", os.O_RDWR | os.O_CREAT)
    fcntl.flock(lock, fcntl.LOCK_EX)
    assert "another restore is at work in" in repo_backup(*words, check=2).stderr
    os.close(lock)
    (workplace / "vault").write_text("s3://another/vault/")
    refused = repo_backup(*words, check=2)
    assert "holds a restore of s3://another/vault/ that is not done" in refused.stderr


# --- Working clones -------------------------------------------------------------------------------


def test_a_working_clone_has_every_ref_and_the_files_of_head(vault: Path, tmp_path: Path) -> None:
    words = ("restore", "acme/team-a/one", "--checkout", "--from", vault)
    repo_backup(*words, cwd=tmp_path)
    made = tmp_path / "one"
    assert git("status", "--porcelain", cwd=made) == b""
    files = git("ls-tree", "--name-only", "HEAD", cwd=made).decode().split()
    assert files
    assert {path.name for path in made.iterdir()} == {".git", *files}
    state = to_be_kept(source(vault, "team-a/one"))
    assert_same_mirror(made / ".git", state)
    answer = repo_backup(
        "restore", "--all", "--checkout", "--from", vault, tmp_path / "all", "--json"
    ).json
    assert {Path(one["path"]).name for one in answer["restored"]} == {
        *("one", "two", "other", "what%3F"),
    }
    assert git("rev-parse", "--is-bare-repository", cwd=tmp_path / "all/other") == b"false\n"


@pytest.mark.parametrize("head", [b"refs/heads/unborn", None])
def test_a_working_clone_of_no_branch(tmp_path: Path, head: bytes | None) -> None:
    path = init_bare(tmp_path / "acme" / "odd.git")
    tip = commit_chain(path, 2)[-1]
    update_refs(path, {b"refs/heads/main": tip})
    set_head(path, head or tip)
    repo_backup("run", "--from", tmp_path / "acme", "--to", tmp_path / "vault")
    repo_backup("restore", "odd", "--checkout", "--from", tmp_path / "vault", tmp_path / "odd")
    files = [place for place in (tmp_path / "odd").iterdir() if place.name != ".git"]
    assert bool(files) == (head is None)
    assert_same_mirror(tmp_path / "odd" / ".git", to_be_kept(path))


def test_a_file_that_git_will_not_check_out_is_said_and_nothing_is_left(tmp_path: Path) -> None:
    path = init_bare(tmp_path / "acme" / "evil.git")
    blob = write_blob(path, b"[core]")
    inner = write_tree(path, [(b"100644", b"blob", blob, b"config")])
    tree = write_object(path, "tree", b"40000 .GIT\0" + bytes.fromhex(inner.decode()))
    tip = git("commit-tree", tree, "-m", "evil", cwd=path).strip()
    update_refs(path, {b"refs/heads/main": tip})
    repo_backup("run", "--from", tmp_path / "acme", "--to", tmp_path / "vault")
    words = ("restore", "evil", "--from", tmp_path / "vault")
    failed = repo_backup(*words, "--checkout", tmp_path / "evil", check=1)
    assert "invalid path" in failed.stderr
    assert "without --checkout" in failed.stderr
    assert not list(tmp_path.glob("*evil*"))
    repo_backup(*words, tmp_path / "evil.git")
    assert_same_mirror(tmp_path / "evil.git", to_be_kept(path))
