"""The temporary folder is lost while a run works: removed, replaced, or made read-only.

The bare facts are stored all the same, with the lesser check, as where it is full; what cannot do
without it fails by its name.
"""

import random
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from backup.destinations.folder import FolderDestination
from backup.errors import DestinationError, TemporaryFolderError
from backup.git.check import disk_of
from backup.git.command import run_git
from backup.git.fallback import Reach, mirrored
from backup.git.rebuild import Rebuild
from backup.git.work import trouble_with
from backup.stopping import Stop
from tests.support.disks import fill, make_read_only, small_disk
from tests.support.faults import (
    OWNER,
    GitShim,
    WireFault,
    assert_nothing_false,
    bring_back,
    states_of,
)
from tests.support.git import FastImport, commit_chain, init_bare, update_refs
from tests.support.program import Completed, repo_backup

MEBIBYTE = 1 << 20
TIP = b"refs/heads/main"
WORK = ".repo-backup-work-*"
LOSSES = {
    "removed": ("rm -rf {temporary}/{work}", "is gone"),
    "replaced by a file": (
        "for one in {temporary}/{work}; do rm -rf $one; touch $one; done",
        "is no folder any more",
    ),
    "read-only": (
        "mount -o remount,ro {temporary} || sudo -n mount -o remount,ro {temporary}",
        "cannot be written any more: Read-only file system",
    ),
}
# Answer and packet. What is being written to cannot be made read-only by a person.
BEFORE_THE_CHECK, WHILE_IT_ARRIVES = (1, 0), (2, 3)
MOMENTS = [
    *((loss, BEFORE_THE_CHECK) for loss in LOSSES),
    *((loss, WHILE_IT_ARRIVES) for loss in LOSSES if loss != "read-only"),
]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    large = init_bare(tmp_path / "source" / "large.git")
    stream = FastImport(large)
    stream.commit(files={b"noise": random.Random(1).randbytes(MEBIBYTE)})
    update_refs(large, {TIP: next(iter(stream.run().values()))})
    small = init_bare(tmp_path / "source" / "small.git")
    update_refs(small, {TIP: commit_chain(small, 2)[-1]})
    return tmp_path / "source"


@pytest.fixture
def temporary(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "temporary", 40 * MEBIBYTE) as temporary:
        yield temporary


def losing(loss: str, temporary: Path, answer: int, packet: int) -> WireFault:
    command = LOSSES[loss][0].format(temporary=temporary, work=WORK)
    return WireFault("run", answer=answer, packet=packet, command=("sh", "-c", command))


def night(
    source: Path, vault: Path, temporary: Path, shim: GitShim, *words: str, check: int = 0
) -> Completed:
    run = ("run", "--owner", OWNER, "--concurrency", "1", "--json", *words)
    env = {"TMPDIR": str(temporary), **shim.env}
    return repo_backup(*run, "--from", source, "--to", vault, env=env, check=check)


@pytest.mark.parametrize(("loss", "moment"), MOMENTS)
def test_packs_are_stored_with_the_lesser_check_and_it_is_said_why(
    loss: str, moment: tuple[int, int], source: Path, temporary: Path, tmp_path: Path
) -> None:
    fault = losing(loss, temporary, *moment)
    with GitShim(tmp_path / "shim", fault, match="large") as shim:
        done = night(source, tmp_path / "vault", temporary, shim)
    found = {one["path"]: one for one in done.json["repositories"]}
    assert (found["large"]["status"], found["large"]["check"]) == ("captured", "trailer (disk)")
    assert found["small"]["status"] == "captured"
    (said,) = [line for line in done.stderr.splitlines() if "large: checked by" in line]
    assert f"the temporary folder {temporary}/.repo-backup-work-" in said
    assert said.endswith(LOSSES[loss][1])
    vault = FolderDestination(tmp_path / "vault")
    (record,) = [one for one in assert_nothing_false(vault) if one.repository.path == "large"]
    assert (record.chain[0].check_detail or "").endswith(LOSSES[loss][1])
    # Nobody makes a folder anew that somebody else has removed.
    assert loss == "read-only" or not [path for path in temporary.glob(WORK) if path.is_dir()]
    assert bring_back(vault, tmp_path / "restored") == states_of(source)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_mirror_fails_by_the_name_of_what_it_lost(
    loss: str, source: Path, temporary: Path, tmp_path: Path
) -> None:
    # While it is asked for its refs; git itself asks for the mirror.
    fault = losing(loss, temporary, 0, 0)
    shim = GitShim(tmp_path / "shim", fault, match="large", times=None, protocol=0)
    with shim:
        done = night(source, tmp_path / "vault", temporary, shim, check=3)
    found = {one["path"]: one for one in done.json["repositories"]}
    large = found["large"]
    assert large["status"] == "failed"
    assert large["reason"].startswith(f"the temporary folder {temporary}/.repo-backup-work-")
    assert large["reason"].endswith(LOSSES[loss][1])
    assert "TMPDIR" in large["hint"]
    assert found["small"]["status"] == "captured"


def test_a_mirror_that_is_lost_while_it_is_read_is_not_the_repository_s_fault(
    source: Path, tmp_path: Path
) -> None:
    (tmp_path / "work").mkdir()
    stop, reach = Stop(), Reach("file", safe=[source / "large.git"])

    def lose() -> None:
        disk = disk_of(tmp_path / "work")
        url = str(source / "large.git")
        with mirrored(url, reach=reach, disk=disk, stop=stop) as mirror:
            assert run_git("rev-list", "--all", directory=mirror, stop=stop)
            shutil.rmtree(tmp_path / "work")
            run_git("rev-list", "--all", directory=mirror, stop=stop)

    with pytest.raises(TemporaryFolderError, match=r"/work is gone"):
        lose()


def test_packs_that_cannot_be_searched_for_files_are_searched_another_night(
    source: Path, temporary: Path, tmp_path: Path
) -> None:
    whole = GitShim(tmp_path / "whole")
    night(source, tmp_path / "vault", temporary, whole, "--check", "trailer")
    with GitShim(tmp_path / "shim", losing("removed", temporary, 1, 0), match="large") as shim:
        done = night(source, tmp_path / "vault", temporary, shim, check=3)
    assert "bug" not in done.stdout
    problems = [one["reason"] for one in done.json["repositories"]] + done.json["problems"]
    assert any("/.repo-backup-work-" in one and "is gone" in one for one in problems)
    again = night(source, tmp_path / "vault", temporary, whole)
    assert again.json["result"] == "success"


def test_a_folder_says_what_is_wrong_with_it(tmp_path: Path) -> None:
    place = tmp_path / "disk"
    with small_disk(place, MEBIBYTE):
        assert trouble_with(place) == ""
        assert trouble_with(place / "none") == f"the temporary folder {place}/none is gone"
        (place / "file").touch()
        assert trouble_with(place / "file").endswith("/file is no folder any more")
        fill(place / "others")
        assert trouble_with(place) == f"the temporary folder {place} is full"
        (place / "others").unlink()
        make_read_only(place)
        assert trouble_with(place).endswith(" cannot be written any more: Read-only file system")


def test_a_restore_that_loses_its_folder_finds_nothing_damaged(tmp_path: Path) -> None:
    rebuild = Rebuild(tmp_path / "mirror.git", object_format="sha1", stop=Stop())

    def pieces() -> Iterator[bytes]:
        yield b"PACK"
        shutil.rmtree(tmp_path / "mirror.git")
        yield b"\0\0\0\2"

    with pytest.raises(DestinationError, match=r"the folder .*mirror\.git is gone"):
        rebuild.add_pack(pieces(), connected=True, where="a bundle")
