"""What verify advises is true of what it found, and what it recommends is not refused."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.git import commit_chain, init_bare, update_refs
from tests.support.lfsserver import commit, keep, oid_of, pointer
from tests.support.program import repo_backup

TIP = b"refs/heads/main"
CONTENT = b"an asset\n" * 400
NEW_FULL = "the next run takes a new full"
ROOT = "folder/source"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A source and a vault of two nights; in the second, ``one`` has a full of its own."""
    folder = tmp_path_factory.mktemp("hints")
    one = init_bare(folder / "source" / "one.git")
    first = commit_chain(one, 2, label=b"first")[-1]
    update_refs(one, {TIP: first})
    media = init_bare(folder / "source" / "media.git")
    commit(media, "main", {"a.bin": pointer(CONTENT)})
    keep(media, CONTENT)
    run = ("run", "--from", folder / "source", "--to", folder / "vault")
    repo_backup(*run)
    update_refs(one, {TIP: commit_chain(one, 1, start=first, label=b"second")[-1]})
    repo_backup(*run, "--max-chain-length", "1")
    return folder


@pytest.fixture
def here(made: Path, tmp_path: Path) -> Path:
    shutil.copytree(made / "vault", tmp_path / "vault")
    # What a vault is a backup of has its place.
    (tmp_path / "source").symlink_to(made / "source")
    return tmp_path


def stored(here: Path, pattern: str) -> list[Path]:
    """List what is stored, the oldest first; the names of one second have no order."""
    found = sorted((here / "vault" / ROOT).glob(pattern), key=lambda one: one.stat().st_mtime_ns)
    assert found
    return found


def truncate(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(path.read_bytes()[:-10])


def hints(here: Path) -> list[str]:
    done = repo_backup("verify", "--from", here / "vault", "--depth", "packs", check=4)
    return [line for line in done.stdout.splitlines() if line.startswith("hint: ")]


def run(here: Path, code: int) -> dict[str, str | None]:
    """Run, and return the plan of each repository; nothing where the run refuses."""
    words = ("run", "--from", (here / "source").resolve(), "--to", here / "vault", "--json")
    answer = repo_backup(*words, check=code).json
    return {one["path"]: one["plan"] for one in answer.get("repositories", ())}


def test_a_new_full_is_promised_where_the_newest_state_needs_it(here: Path) -> None:
    truncate(stored(here, "repositories/one/*/*.bundle")[-1])
    (hint,) = hints(here)
    assert hint.startswith(f"hint: {NEW_FULL}")
    assert run(here, 0)["one"] == "full"


def test_no_new_full_is_promised_where_older_states_alone_need_it(here: Path) -> None:
    truncate(stored(here, "repositories/one/*/*.bundle")[0])
    (hint,) = hints(here)
    assert NEW_FULL not in hint
    assert "older states alone need it, and no new full is taken for it" in hint
    assert "full" not in run(here, 0).values()


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (Path.unlink, "hint: the next run with files of Git LFS stores a missing file again"),
        (truncate, "hint: remove a damaged file of Git LFS, with a role that may delete there"),
    ],
    ids=["missing", "damaged"],
)
def test_no_new_full_is_promised_for_a_file_of_git_lfs(
    damage: Callable[[Path], None], said: str, here: Path
) -> None:
    (file,) = stored(here, f"lfs/*/*/{oid_of(CONTENT)}")
    damage(file)
    (hint,) = hints(here)
    assert hint.startswith(said)
    if damage is truncate:
        assert "full" not in run(here, 3).values()
        file.unlink()
    assert "full" not in run(here, 0).values()
    assert file.read_bytes() == CONTENT
    repo_backup("verify", "--from", here / "vault", "--depth", "packs")


def test_nothing_is_promised_of_the_next_run_where_it_refuses(here: Path) -> None:
    before, newest = stored(here, "snapshots/*")
    truncate(newest)
    (hint,) = hints(here)
    snapshot = before.name.partition(".")[0]
    assert hint.startswith("hint: no run goes on from it: ")
    assert f"--at {snapshot}" in hint
    assert run(here, 4) == {}
    repo_backup(
        *("restore", "one", here / "one.git", "--from", here / "vault", "--at", snapshot),
    )
    # Nor is it of what else is damaged.
    truncate(stored(here, "repositories/one/*/*.bundle")[0])
    assert not any(hint.startswith(f"hint: {NEW_FULL}") for hint in hints(here))


def test_an_older_manifest_that_is_damaged_stops_no_run(here: Path) -> None:
    truncate(stored(here, "snapshots/*")[0])
    (hint,) = hints(here)
    assert hint.startswith("hint: docs/how-to/repair-a-vault.md")
    run(here, 0)


def test_prune_is_not_recommended_where_it_refuses(here: Path) -> None:
    vault = here / "vault"
    prune = ("prune", "--from", vault, "--keep-daily", "30")
    repo_backup(*prune)
    for manifest in stored(here, "snapshots/*"):
        manifest.unlink()
    said = repo_backup("verify", "--from", vault, check=4).stdout
    assert "or prune once with" not in said
    assert "prune refuses, also with --accept-missing-index, before a run has published" in said
    repo_backup(*prune, "--accept-missing-index", check=4)
    # What it says of afterwards is so.
    run(here, 1)
    run(here, 0)
    assert "or prune once with --accept-missing-index" in (
        repo_backup("verify", "--from", vault, check=4).stdout
    )
    repo_backup(*prune, "--accept-missing-index")
    repo_backup("verify", "--from", vault)
