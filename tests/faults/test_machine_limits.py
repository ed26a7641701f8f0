"""Open files, memory or processes of this machine are used up while many repositories are captured.

No disk, no data and no server is to blame. What was tried is tried again, with fewer beside it.
"""

import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from backup.destinations.folder import FolderDestination
from tests.faults.test_temporary_folder import sweeper
from tests.support.faults import assert_nothing_false
from tests.support.git import git, init_bare
from tests.support.gitserver import GitHttpServer
from tests.support.lfsserver import commit, keep, oid_of, pointer
from tests.support.program import PROGRAM, Completed, environment, repo_backup

COUNT = 12
USED_UP = "a limit of this machine is used up: "
# Each would send people to look for what is not there.
MISTAKEN = (
    "temporary folder",
    "has lost",
    "damaged",
    "refused",
    "internal error",
    "lacks objects",
    "cannot be reached",
)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("source") / "acme"
    for number in range(COUNT):
        path = init_bare(root / f"r{number}.git")
        content = f"content of {number}".encode()
        commit(path, "main", {"big.bin": pointer(content)})
        keep(path, content)
    return root


@pytest.fixture
def sources(request: pytest.FixtureRequest, root: Path) -> Iterator[list[str]]:
    """Give the words that name twelve repositories in a folder, or behind git's own server."""
    if request.param == "folder":
        yield ["--from", str(root)]
        return
    with GitHttpServer(root) as server:
        urls = [f"git:{server.url}/r{number}.git" for number in range(COUNT)]
        yield ["--no-lfs", *(word for url in urls for word in ("--from", url))]


def run_with(open_files: int, *words: str | Path, env: dict[str, str]) -> Completed:
    """Run the program, which may have no more than so many open files."""
    argv = [str(PROGRAM), *map(str, words)]
    done = subprocess.run(
        ["sh", "-c", f'ulimit -n {open_files}; exec "$@"', "sh", *argv],
        env=environment(env),
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    return Completed(tuple(argv), done.returncode, done.stdout, done.stderr)


@pytest.mark.parametrize(
    ("sources", "open_files"),
    [("folder", 32), ("folder", 52), ("server", 32)],
    indirect=["sources"],
)
def test_too_few_open_files_are_named_and_nothing_else_is_blamed(
    open_files: int, sources: list[str], tmp_path: Path
) -> None:
    vault = tmp_path / "vault"
    # All ask before the first is done, however fast this machine is.
    env = sweeper(tmp_path / "shim", word="upload-pack", does="sleep 0.5")
    done = run_with(open_files, "run", *sources, "--to", vault, "--json", env=env)
    assert done.code in (0, 1, 3), done.stderr
    for words in MISTAKEN:
        assert words not in done.stdout + done.stderr
    for repository in done.json["repositories"]:
        assert repository["status"] == "captured" or repository["reason"].startswith(USED_UP)
    records = assert_nothing_false(FolderDestination(vault))
    assert all(bundle.check == "connected" for record in records for bundle in record.chain)

    repo_backup("run", *sources, "--to", vault)
    verified = repo_backup("verify", "--from", vault, "--depth", "restore").stdout
    assert f"{COUNT} repositories verified (restore): nothing is damaged" in verified


def test_a_second_try_captures_what_there_were_too_few_open_files_for(
    root: Path, tmp_path: Path
) -> None:
    env = sweeper(tmp_path / "shim", word="upload-pack", does="sleep 1")
    done = run_with(44, "run", "--from", root, "--to", tmp_path / "vault", "--json", env=env)
    # The twelve that ask hold three pipes each.
    assert f"{USED_UP}open files (ulimit -n 44)" in done.stderr
    again = [one for one in done.json["repositories"] if one["retries"]]
    captured = {one["path"] for one in again if one["status"] == "captured"}
    assert captured
    stored = {path.name for path in (tmp_path / "vault" / "folder/acme/lfs").rglob("*")}
    for name in captured:
        assert oid_of(f"content of {name.removeprefix('r')}".encode()) in stored


# What git says where it gets too little, or how it ends.
ENDS = {
    "files": "echo 'fatal: unable to create file: Too many open files' >&2; exit 128",
    "memory": "echo 'fatal: Out of memory, malloc failed' >&2; exit 128",
    "threads": (
        "echo 'fatal: unable to create thread: Resource temporarily unavailable' >&2; exit 128"
    ),
    "killed": "kill -KILL $$",
}


@pytest.mark.parametrize(
    ("word", "end"),
    [
        ("init", "files"),
        ("upload-pack", "memory"),
        ("index-pack", "threads"),
        ("index-pack", "killed"),
        ("cat-file", "memory"),
    ],
)
def test_a_capture_for_which_git_got_too_little_is_tried_again(
    word: str, end: str, root: Path, tmp_path: Path
) -> None:
    env = sweeper(tmp_path / "shim", word=word, does=ENDS[end], once=True)
    run = ("run", "--from", root, "--to", tmp_path / "vault", "--include", "r1", "--json")
    done = repo_backup(*run, env=env)
    assert (tmp_path / "shim" / "struck").exists()
    assert done.json["problems"] == []
    (repository,) = done.json["repositories"]
    assert (repository["check"], repository["retries"]) == ("connected", 1)
    # Of the second try everything is there, files of Git LFS included.
    assert_nothing_false(FolderDestination(tmp_path / "vault"))
    assert (tmp_path / "vault" / "folder/acme/lfs").is_dir()


def test_a_repository_that_git_has_no_memory_to_read_does_not_lack_objects(
    tmp_path: Path,
) -> None:
    path = init_bare(tmp_path / "acme" / "large.git")
    # Loose and not compressed, git needs all of it at once.
    git("config", "core.compression", "0", cwd=path)
    commit(path, "main", {"large": random.Random(1).randbytes(60 << 20)})
    env = sweeper(tmp_path / "shim", word="upload-pack", does="ulimit -v 40000", once=True)
    run = ("run", "--from", path.parent, "--to", tmp_path / "vault", "--json")
    done = repo_backup(*run, env=env)
    assert f"{USED_UP}memory: " in done.stderr
    assert "lacks objects" not in done.stderr
    assert done.json["repositories"][0]["status"] == "captured"


def test_what_fails_each_time_fails_by_the_limit_s_name_and_the_others_are_captured(
    root: Path, tmp_path: Path
) -> None:
    only = f'case "$*" in *r1.git) {ENDS["threads"]};; esac'
    env = sweeper(tmp_path / "shim", word="upload-pack", does=only)
    run = ("run", "--from", root, "--to", tmp_path / "vault", "--json")
    done = repo_backup(*run, "--include", "r1", "--include", "r2", env=env, check=3)
    first, second = done.json["repositories"]
    assert (first["path"], first["status"], first["retries"]) == ("r1", "failed", 3)
    assert first["reason"].startswith(f"{USED_UP}processes: ")
    assert "--pids-limit" in first["hint"]
    assert second["status"] == "captured"
    again = repo_backup(*run, "--include", "r1").json["repositories"]
    assert [(one["path"], one["status"]) for one in again] == [("r1", "captured")]
