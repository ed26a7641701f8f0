"""A vault that an earlier development version has written: read as it is, and never called damaged.

It holds a repository with a push by force and a tag, one with files of Git LFS, one without refs,
one that is gone and one that was forgotten; it was verified and pruned. It is one of a folder,
whose place is part of it.
"""

import fcntl
import shutil
import tarfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.git import git
from tests.support.program import repo_backup

WRITTEN = Path(__file__).parents[1] / "golden" / "vault-of-a-development-version.tar.gz"
PLACE = Path("/tmp/repo-backup-golden/source")
REFS = {
    "plain": {
        "refs/heads/main": "4c427e987f4f708e697af8d5c0b167396ffca462",
        "refs/heads/next": "869d51ccffd9606837f9ff6776dba69a95a80c73",
        "refs/tags/v1": "35a7b9c041eaf8b497b3f79b7899322080907dcd",
    },
    "media": {"refs/heads/main": "7b4859a3e5627a3f868b9427067ec798281e01c3"},
    "empty": {},
}


@pytest.fixture
def vault(tmp_path: Path) -> Path:
    with tarfile.open(WRITTEN) as archive:
        archive.extractall(tmp_path / "vault", filter="data")
    return tmp_path / "vault"


@pytest.fixture
def place() -> Iterator[Path]:
    """The place of the source, for one test on this machine at a time."""
    with PLACE.parent.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        shutil.rmtree(PLACE.parent, ignore_errors=True)
        PLACE.parent.mkdir()
        yield PLACE
        shutil.rmtree(PLACE.parent)


def refs_of(repository: Path) -> dict[str, str]:
    lines = git("for-each-ref", "--format=%(refname) %(objectname)", cwd=repository)
    return dict(line.split(" ") for line in lines.decode().splitlines())


def test_it_is_verified_and_given_back(vault: Path, tmp_path: Path) -> None:
    for depth in ("objects", "packs", "restore"):
        repo_backup("verify", "--from", vault, "--depth", depth)
    repo_backup("restore", "--all", "--from", vault, tmp_path / "out")
    assert {one.stem: refs_of(one) for one in (tmp_path / "out").iterdir()} == REFS
    repo_backup("restore", "source/leaves", "--from", vault, tmp_path / "leaves.git")
    repo_backup("restore", "source/secret", "--from", vault, tmp_path / "secret.git", check=2)


def test_a_run_goes_on_from_it_and_prune_leaves_it_whole(vault: Path, place: Path) -> None:
    repo_backup("restore", "--all", "--from", vault, place)
    totals = repo_backup("run", "--from", place, "--to", vault, "--json").json["totals"]
    assert (totals["listed"], totals["failed"], totals["gone"]) == (3, 0, 1)
    repo_backup("status", "--from", vault)
    repo_backup("prune", "--from", vault, "--keep-daily", "1", "--keep-deleted-days", "3650")
    repo_backup("verify", "--from", vault, "--depth", "restore")
    repo_backup("restore", "source/leaves", "--from", vault, place.parent / "leaves.git")
