"""Real repositories in a folder: what git made is found as git has it."""

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from backup.commands.remotes import Network, NetworkSettings, Remotes
from backup.errors import IncompleteRepository
from backup.model import Refs, Repository, Selection
from backup.sources.plain import FolderSource, GitUrlSource, open_git_folder
from backup.stopping import Stop
from tests.support.git import commit_chain, git, init_bare, update_refs
from tests.support.mirrors import assert_same_mirror, mirror_state
from tests.support.program import repo_backup

Shaped = Callable[[str], Path]


def listed(root: Path) -> dict[str, Repository]:
    return {one.path: one for one in FolderSource(root, owner="acme").repositories()}


def refs_of(repository: Repository) -> Refs:
    stop = Stop()
    network = Network(NetworkSettings(), connections=1, stop=stop)
    remotes = Remotes(network, Selection(), lambda _: None, stop)
    with remotes.open(repository) as remote:
        return remote.list_refs()


def test_a_work_tree_its_submodules_and_its_linked_work_trees(
    shaped: Shaped, tmp_path: Path
) -> None:
    library = shaped("custom-refs")
    project = tmp_path / "project"
    shutil.copytree(shaped("working"), project, symlinks=True)
    add = ("-c", "protocol.file.allow=always", "submodule", "--quiet", "add")
    git(*add, library, "vendor/library", cwd=project)
    git("worktree", "add", "--quiet", "--detach", tmp_path / "beside", cwd=project)
    found = listed(tmp_path)
    assert [*found] == ["project", "project/vendor/library"]
    expected = mirror_state(project)
    refs = refs_of(found["project"])
    assert {name.encode() for name in refs.tips} >= {
        name for name in expected.refs if name.startswith((b"refs/heads/", b"refs/tags/"))
    }
    assert "refs/stash" in refs.tips
    submodule = refs_of(found["project/vendor/library"])
    assert (submodule.head_id or "").encode() == mirror_state(library).refs[b"refs/heads/main"]


def test_a_folder_moved_with_its_repositories_keeps_their_identities(tmp_path: Path) -> None:
    init_bare(tmp_path / "one" / "a.git")
    before = listed(tmp_path / "one")
    (tmp_path / "one").rename(tmp_path / "two")
    after = listed(tmp_path / "two")
    assert [one.host_id for one in before.values()] == [one.host_id for one in after.values()]


def test_a_repository_whose_history_is_cut_is_refused_by_its_reason(
    shaped: Shaped, tmp_path: Path
) -> None:
    shutil.copytree(shaped("shallow"), tmp_path / "x.git", symlinks=True)
    (repository,) = listed(tmp_path).values()
    with pytest.raises(IncompleteRepository, match="shallow"):
        refs_of(repository)


def test_a_partial_clone_that_has_fetched_all_of_its_objects_is_captured(tmp_path: Path) -> None:
    upstream = init_bare(tmp_path / "upstream.git")
    update_refs(upstream, {b"refs/heads/main": commit_chain(upstream, 3)[-1]})
    git("config", "uploadpack.allowFilter", "true", cwd=upstream)
    path = tmp_path / "root" / "x.git"
    path.parent.mkdir()
    git("clone", "-q", "--mirror", "--filter=blob:none", upstream.as_uri(), str(path), cwd=tmp_path)
    words = ("run", "--from", path.parent, "--to", tmp_path / "vault", "--json")
    (outcome,) = repo_backup(*words, check=1).json["repositories"]
    assert "partial clone" in outcome["reason"]
    git("fetch", "-q", "--refetch", "--no-filter", "origin", cwd=path)
    shutil.rmtree(upstream)
    assert [*path.rglob("*.promisor")]
    (outcome,) = repo_backup(*words).json["repositories"]
    assert (outcome["status"], outcome["plan"]) == ("captured", "full")
    repo_backup("restore", "x", "--from", tmp_path / "vault", tmp_path / "back.git")
    assert_same_mirror(tmp_path / "back.git", path)


def test_borrowed_objects_that_are_gone_are_the_reason_that_is_told(
    shaped: Shaped, tmp_path: Path
) -> None:
    shutil.copytree(shaped("broken-alternates"), tmp_path / "root" / "x.git")
    done = repo_backup(
        "run", "--from", tmp_path / "root", "--to", tmp_path / "vault", "--json", check=1
    )
    (outcome,) = done.json["repositories"]
    assert outcome["status"] == "failed"
    assert "alternates" in outcome["reason"]


def test_git_is_told_of_every_path_by_which_it_may_know_the_repository(
    shaped: Shaped, tmp_path: Path
) -> None:
    shutil.copytree(shaped("working"), tmp_path / "real", symlinks=True)
    (tmp_path / "link").symlink_to("real")
    (repository,) = GitUrlSource([str(tmp_path / "link")], owner="acme").repositories()
    folder = open_git_folder(repository)
    real = (tmp_path / "real").resolve()
    assert set(folder.safe) == {tmp_path / "link/.git", real / ".git", tmp_path / "link", real}


@pytest.mark.parametrize("hidden", ["HEAD", "refs/heads/main", "refs"])
@pytest.mark.parametrize("section", ["transfer", "uploadpack"])
def test_what_a_repository_hides_from_those_who_fetch_is_backed_up(
    section: str, hidden: str, tmp_path: Path
) -> None:
    path = init_bare(tmp_path / "root" / "x.git")
    chain = commit_chain(path, 3)
    update_refs(path, {b"refs/heads/main": chain[1]})
    (path / "HEAD").write_bytes(chain[2] + b"\n")
    git("config", f"{section}.hideRefs", hidden, cwd=path)
    repo_backup("run", "--from", path.parent, "--to", tmp_path / "vault")
    repo_backup("restore", "x", "--from", tmp_path / "vault", tmp_path / "back.git")
    assert_same_mirror(tmp_path / "back.git", path)


def test_folders_may_lie_deeper_than_a_program_calls_itself(tmp_path: Path) -> None:
    deep = tmp_path / "root"
    inner = init_bare(tmp_path / "inner.git")
    # By steps: no path is longer than a file system takes in one go.
    deep.mkdir()
    here = os.open(deep, os.O_RDONLY)
    for _ in range(1500):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(here)
    inner.rename(deep / "x.git")
    try:
        assert "x" in listed(deep)
    finally:
        # Python's own way calls itself, too.
        subprocess.run(["rm", "-rf", deep], check=True)


def test_a_large_file_in_the_place_of_a_git_directory_is_not_read(tmp_path: Path) -> None:
    (tmp_path / "root" / "x").mkdir(parents=True)
    with (tmp_path / "root" / "x" / ".git").open("wb") as file:
        file.write(b"gitdir: ")
        file.truncate(1 << 40)
    init_bare(tmp_path / "root" / "y.git")
    found = listed(tmp_path / "root")
    assert found.keys() == {"x", "y"}
    assert found["x"].problem.endswith("its .git file names no folder of git's")
