"""Disks that run out of room: of the temporary folder, and of the destination."""

import random
import re
from pathlib import Path
from typing import Any

import pytest

from backup.destinations.folder import FolderDestination
from tests.support.disks import fill, resize, small_disk
from tests.support.faults import OWNER, GitShim, assert_nothing_false, bring_back, states_of
from tests.support.git import FastImport, commit_chain, init_bare, update_refs
from tests.support.lfsserver import commit, keep, oid_of, pointer
from tests.support.program import repo_backup
from tests.support.runner import Runner

MEBIBYTE = 1 << 20
TIP = b"refs/heads/main"


def add_noise(path: Path, size_bytes: int, *, seed: int = 1) -> None:
    """Commit content that does not compress."""
    stream = FastImport(path)
    stream.commit(files={b"noise": random.Random(seed).randbytes(size_bytes)})
    update_refs(path, {TIP: next(iter(stream.run().values()))})


def new_source(folder: Path, large_bytes: int) -> Path:
    """Make a folder with a large repository and a small one."""
    add_noise(init_bare(folder / "large.git"), large_bytes)
    small = init_bare(folder / "small.git")
    update_refs(small, {TIP: commit_chain(small, 2)[-1]})
    return folder


def run(
    source: Path, vault: Path, *, env: dict[str, str] | None = None, check: int = 0
) -> dict[str, Any]:
    words = ("run", "--from", source, "--to", vault, "--owner", OWNER, "--json")
    return {
        one["path"]: one for one in repo_backup(*words, env=env, check=check).json["repositories"]
    }


def files_of(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


# --- The temporary folder -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("large_bytes", "disk_bytes", "taken_bytes", "looked_after"),
    [
        (3 * MEBIBYTE, MEBIBYTE, 4096, 0),
        # A tenth of the disk is kept for others, so that git alone would have had room enough.
        (10 * MEBIBYTE, 40 * MEBIBYTE, 59 * MEBIBYTE // 2, 8 * MEBIBYTE),
    ],
    ids=["git runs into its end", "we see its end coming"],
)
def test_a_pack_that_the_temporary_folder_cannot_hold_is_stored_with_the_lesser_check(
    large_bytes: int, disk_bytes: int, taken_bytes: int, looked_after: int, tmp_path: Path
) -> None:
    source, vault = new_source(tmp_path / "source", large_bytes), tmp_path / "vault"
    with small_disk(tmp_path / "temporary", disk_bytes) as temporary:
        (temporary / "others").write_bytes(bytes(taken_bytes))
        done = run(source, vault, env={"TMPDIR": str(temporary)}, check=3)
        assert [path.name for path in temporary.iterdir()] == ["others"]
    assert {one["status"] for one in done.values()} == {"captured"}
    assert (done["large"]["check"], done["small"]["check"]) == ("trailer (disk)", "connected")
    destination = FolderDestination(vault)
    [record] = [r for r in assert_nothing_false(destination) if r.repository.path == "large"]
    [bundle] = record.chain
    assert bundle.check == "trailer (disk)"
    # Whether it points to files of Git LFS nobody knows, and that is said.
    assert done["large"]["lfs"]["unsearched"] == 1
    assert (bundle.lfs_scanned, record.lfs is None) == (False, False)
    listed = repo_backup("list", "--from", vault, "--json").json["repositories"]
    reasons = {one["path"]: one["reason"] for one in listed}
    detail = bundle.check_detail or ""
    assert reasons["large"] == f"Git LFS: 1 pack was not searched: {detail}"
    # Where git comes first it is said by a look at the folder, and else by numbers.
    if looked_after or not detail.endswith("is full"):
        pack, needed, free = (int(number) for number in re.findall(r"\d+", detail))
        assert pack == bundle.size_bytes - bundle.header_bytes
        assert looked_after <= needed <= pack
        assert 0 <= free < disk_bytes
    assert bring_back(destination, tmp_path / "restored") == states_of(source)


def test_what_could_not_be_searched_for_files_is_open_until_a_night_with_room(
    tmp_path: Path,
) -> None:
    source, vault = new_source(tmp_path / "source", 3 * MEBIBYTE), tmp_path / "vault"
    content = b"a file of Git LFS"
    commit(source / "large.git", "media", {"big.bin": pointer(content)})
    keep(source / "large.git", content)
    verify = ("verify", "--from", vault, "--depth")
    restore = ("restore", "large", "--from", vault)
    words = ("run", "--from", source, "--to", vault, "--owner", OWNER, "--json")
    with small_disk(tmp_path / "temporary", MEBIBYTE) as temporary:
        env = {"TMPDIR": str(temporary)}
        assert run(source, vault, env=env, check=3)["large"]["status"] == "captured"
        bundles = sum(path.stat().st_size for path in vault.rglob("*.bundle"))
        second = repo_backup(*words, env=env, check=3).json
        assert {one["status"] for one in second["repositories"]} == {"unchanged"}
        # Nothing is downloaded to see again that there is no room.
        assert second["totals"]["requests"]["get"] < 5
        assert bundles == sum(path.stat().st_size for path in vault.rglob("*.bundle"))
        (problem,) = second["problems"]
        assert "large: 1 pack was not searched for files of Git LFS: the temporary" in problem
    status = repo_backup("status", "--from", vault, check=3).stdout
    assert "large: it is not whole: Git LFS: 1 pack was not searched: the temporary" in status
    for depth in ("objects", "packs", "restore"):
        answer = repo_backup(*verify, depth, "--json", check=3).json
        assert (answer["checked"], answer["damaged"]) == (2, [])
        (said,) = answer["not_searched"]
        assert said.startswith(f"folder/{OWNER}/large: 1 pack was not searched")
    shown = repo_backup(*verify, "objects", check=3).stdout
    assert "1 repository is not known to be whole: " in shown
    before = repo_backup(*restore, tmp_path / "before.git", "--json", check=3).json
    assert before["restored"][0]["lfs"]["unsearched"] == 1
    said = repo_backup(*restore, tmp_path / "again.git", check=3).stdout
    assert "1 pack was not searched for files of Git LFS when it was captured, and some may" in said

    done = repo_backup(*words).json
    assert {one["path"]: one["lfs"]["stored"] for one in done["repositories"]} == {
        "large": 1,
        "small": 0,
    }
    repo_backup("status", "--from", vault)
    assert repo_backup(*verify, "restore", "--json").json["not_searched"] == []
    repo_backup(*restore, tmp_path / "after.git")
    oid = oid_of(content)
    place = tmp_path / "after.git" / "lfs" / "objects" / oid[:2] / oid[2:4] / oid
    assert place.read_bytes() == content


def test_a_temporary_folder_that_is_full_from_the_beginning_costs_the_check_alone(
    tmp_path: Path,
) -> None:
    source, vault = new_source(tmp_path / "source", MEBIBYTE), tmp_path / "vault"
    with small_disk(tmp_path / "temporary", 64 << 10) as temporary:
        # Room for a folder or two, not for a repository.
        (temporary / "others").write_bytes(b"x" * (56 << 10))
        done = run(source, vault, env={"TMPDIR": str(temporary)}, check=3)
        assert [path.name for path in temporary.iterdir()] == ["others"]
    assert {one["status"] for one in done.values()} == {"captured"}
    assert done["large"]["check"] == "trailer (disk)"
    assert bring_back(FolderDestination(vault), tmp_path / "restored") == states_of(source)


def test_a_mirror_that_the_temporary_folder_cannot_hold_fails_alone_and_leaves_nothing(
    tmp_path: Path,
) -> None:
    source, vault = new_source(tmp_path / "source", 3 * MEBIBYTE), tmp_path / "vault"
    with (
        small_disk(tmp_path / "temporary", MEBIBYTE) as temporary,
        GitShim(tmp_path / "shim", match=str(source), times=None, protocol=0) as shim,
    ):
        done = run(source, vault, env={"TMPDIR": str(temporary), **shim.env}, check=3)
        assert not list(temporary.iterdir())
    assert (done["large"]["status"], done["small"]["status"]) == ("failed", "captured")
    assert "No space left on device" in done["large"]["reason"]
    assert [r.repository.path for r in assert_nothing_false(FolderDestination(vault))] == ["small"]


# --- The destination ------------------------------------------------------------------------------


def test_a_repository_that_the_destination_cannot_hold_fails_alone_until_there_is_room(
    tmp_path: Path,
) -> None:
    source = new_source(tmp_path / "source", 3 * MEBIBYTE)
    with small_disk(tmp_path / "disk", 2 * MEBIBYTE) as disk:
        vault = FolderDestination(disk / "vault")
        done = run(source, disk / "vault", check=3)
        assert (done["large"]["status"], done["small"]["status"]) == ("failed", "captured")
        assert "No space left on device" in done["large"]["reason"]
        assert "free some space" in done["large"]["hint"]
        assert not list((disk / "vault").rglob("repositories/large"))
        assert not list((disk / "vault" / ".partial").iterdir())
        assert [record.repository.path for record in assert_nothing_false(vault)] == ["small"]

        resize(disk, 20 * MEBIBYTE)
        done = run(source, disk / "vault")
        assert (done["large"]["status"], done["small"]["status"]) == ("captured", "unchanged")
        assert bring_back(vault, tmp_path / "restored") == states_of(source)


def test_an_increment_without_room_leaves_the_state_before_it(tmp_path: Path) -> None:
    source = new_source(tmp_path / "source", MEBIBYTE)
    before = states_of(source)
    with small_disk(tmp_path / "disk", 2 * MEBIBYTE) as disk:
        vault = FolderDestination(disk / "vault")
        run(source, disk / "vault")
        add_noise(source / "large.git", 2 * MEBIBYTE, seed=2)
        small = source / "small.git"
        update_refs(small, {TIP: commit_chain(small, 1, label=b"later")[-1]})
        done = run(source, disk / "vault", check=3)
        assert (done["large"]["status"], done["small"]["status"]) == ("failed", "captured")
        assert_nothing_false(vault)
        restored = bring_back(vault, tmp_path / "restored")
        assert restored == {**states_of(source), "large": before["large"]}

        resize(disk, 20 * MEBIBYTE)
        assert run(source, disk / "vault")["large"]["plan"] == "incremental"
        assert bring_back(vault, tmp_path / "again") == states_of(source)


def test_a_run_without_room_for_its_manifest_fails_and_leaves_nothing(tmp_path: Path) -> None:
    source = new_source(tmp_path / "source", MEBIBYTE // 8)
    with small_disk(tmp_path / "disk", MEBIBYTE) as disk:
        vault = FolderDestination(disk / "vault")
        run(source, disk / "vault")
        before = files_of(disk / "vault")
        fill(disk / "others")
        words = ("run", "--from", source, "--to", disk / "vault", "--owner", OWNER)
        done = repo_backup(*words, check=1)
        assert "No space left on device" in done.stderr
        assert files_of(disk / "vault") == before
        assert bring_back(vault, tmp_path / "restored") == states_of(source)

        (disk / "others").unlink()
        assert {one["status"] for one in run(source, disk / "vault").values()} == {"unchanged"}


def test_what_the_action_has_no_room_to_verify_is_not_called_damaged(tmp_path: Path) -> None:
    source, vault = new_source(tmp_path / "source", 3 * MEBIBYTE), tmp_path / "vault"
    run(source, vault)
    with small_disk(tmp_path / "temporary", MEBIBYTE) as temporary:
        runner = Runner(
            tmp_path / "runner", "https://github.example.com", more={"TMPDIR": str(temporary)}
        )
        done = runner.step(command="verify", token="", destination=str(vault), depth="restore")
    assert (done.code, done.outputs) == (3, {"result": "partial"})
    assert done.summary.startswith("## ⚠️ Not everything could be verified")
    assert "large" in done.summary
    assert "No space left on device" in done.summary
    assert "amaged" not in done.summary.replace("othing is damaged", "")


# --- Where a restore goes -------------------------------------------------------------------------


def test_a_restore_and_a_verification_without_room_find_no_damage(tmp_path: Path) -> None:
    source, vault = new_source(tmp_path / "source", MEBIBYTE), tmp_path / "vault"
    run(source, vault)
    remote = init_bare(tmp_path / "remote.git")
    with small_disk(tmp_path / "small", MEBIBYTE // 2) as small:
        env = {"TMPDIR": str(small)}
        restore = ("restore", "large", "--from", vault)
        answers = [
            repo_backup(*restore, small / "large.git", check=1).stderr,
            repo_backup(*restore, "--push", remote, env=env, check=1).stderr,
            repo_backup("verify", "--from", vault, "--depth", "packs", env=env, check=3).stdout,
        ]
        assert not list(small.iterdir())
    for answer in answers:
        (said,) = [line for line in answer.splitlines() if "No space left on device" in line]
        assert " is full: git index-pack failed: fatal: write error: " in said
        assert "is damaged:" not in said


def test_a_restore_without_room_for_a_file_of_git_lfs_finds_no_damage(tmp_path: Path) -> None:
    content = random.Random(1).randbytes(MEBIBYTE)
    media, vault = init_bare(tmp_path / "source" / "media.git"), tmp_path / "vault"
    commit(media, "main", {"a.bin": pointer(content)})
    keep(media, content)
    run(tmp_path / "source", vault)
    with small_disk(tmp_path / "small", MEBIBYTE // 2) as small:
        done = repo_backup("restore", "media", small / "media.git", "--from", vault, check=3)
        assert not list(small.rglob(f"*{oid_of(content)}*"))
    told = done.stdout + done.stderr
    assert f"/{oid_of(content)} cannot be written: No space left on device" in told
    assert "damaged" not in told


def test_the_action_names_what_was_not_searched_for_files(tmp_path: Path) -> None:
    source, vault = new_source(tmp_path / "source", 3 * MEBIBYTE), tmp_path / "vault"
    with small_disk(tmp_path / "temporary", MEBIBYTE) as temporary:
        run(source, vault, env={"TMPDIR": str(temporary)}, check=3)
    runner = Runner(tmp_path / "runner", "https://github.example.com")
    done = runner.step(command="verify", token="", destination=str(vault))
    assert (done.code, done.outputs) == (3, {"result": "partial"})
    assert "1 pack was not searched for files of Git LFS" in done.summary
