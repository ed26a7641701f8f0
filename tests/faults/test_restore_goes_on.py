"""A restore of several that is gone on with: what was there already is proved, and not believed."""

import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.disks import fill, resize, small_disk
from tests.support.git import git, init_bare
from tests.support.lfsserver import commit, keep, oid_of, pointer
from tests.support.program import repo_backup

CONTENT = b"0123456789abcdef" * (3 << 16)
OID = oid_of(CONTENT)
FILE = Path("lfs") / "objects" / OID[:2] / OID[2:4] / OID
LEFT = Path(".repo-backup-restore")


@pytest.fixture
def vault(tmp_path: Path) -> Path:
    media = init_bare(tmp_path / "acme" / "media.git")
    commit(media, "main", {"big.bin": pointer(CONTENT)})
    keep(media, CONTENT)
    commit(init_bare(tmp_path / "acme" / "other.git"), "main", {"file": b"of another"})
    repo_backup("run", "--from", tmp_path / "acme", "--to", tmp_path / "vault")
    return tmp_path / "vault"


def restored(vault: Path, target: Path, *words: str, check: int) -> dict[str, Any]:
    done = repo_backup(
        "restore", "--all", "--from", vault, target, "--json", *words, check=check
    ).json
    found = {one["repository"]: one for one in done["restored"]}
    return {"media": found.get("acme/media"), "failed": done["failed"]}


def is_whole(target: Path, ending: str = ".git") -> bool:
    git_directory = target / (f"media{ending}" if ending else "media/.git")
    assert not list(git_directory.rglob("*.partial"))
    file = git_directory / FILE
    if not file.exists():
        return False
    assert hashlib.sha256(file.read_bytes()).hexdigest() == OID
    return True


@pytest.mark.parametrize("words", [(), ("--checkout",)])
def test_a_file_that_was_missing_is_missing_until_it_is_given(
    words: tuple[str, ...], vault: Path, tmp_path: Path
) -> None:
    ending = "" if words else ".git"
    target = tmp_path / "back"
    stored = vault / "folder/acme/lfs" / OID[:2] / OID[2:4] / OID
    stored.rename(tmp_path / "away")
    for was_there in (False, True):
        done = restored(vault, target, *words, check=4)["media"]
        assert (done["was_there"], done["lfs"]["files"]) == (was_there, 0)
        assert OID in done["lfs"]["failed"][0]
        assert not is_whole(target, ending)
    (tmp_path / "away").rename(stored)
    done = restored(vault, target, *words, check=0)["media"]
    assert (done["was_there"], done["lfs"]["files"], done["lfs"]["failed"]) == (True, 1, [])
    assert is_whole(target, ending)
    assert not (target / LEFT).exists()


def test_a_file_of_other_content_is_not_taken_for_the_right_one(
    vault: Path, tmp_path: Path
) -> None:
    target = tmp_path / "back"
    restored(vault, target, check=0)
    (target / LEFT).mkdir()
    # Of the right size, as after a power cut.
    (target / "media.git" / FILE).write_bytes(bytes(len(CONTENT)))
    done = restored(vault, target, check=0)["media"]
    assert (done["was_there"], done["lfs"]["files"]) == (True, 1)
    assert is_whole(target)


def test_a_file_that_a_full_disk_has_no_room_for_is_no_damage_and_comes_when_there_is(
    vault: Path, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", 2 << 20) as disk:
        alone = ("restore", "media", "--from", vault, disk / "media.git", "--json")
        (failed,) = repo_backup(*alone, check=3).json["restored"][0]["lfs"]["failed"]
        assert "cannot be written: No space left on device" in failed
        assert not is_whole(disk)
        shutil.rmtree(disk / "media.git")
        for _ in range(2):
            done = restored(vault, disk / "back", check=3)["media"]
            assert "No space left on device" in done["lfs"]["failed"][0]
            assert not is_whole(disk / "back")
        resize(disk, 20 << 20)
        assert restored(vault, disk / "back", check=0)["media"]["was_there"]
        assert is_whole(disk / "back")


def test_a_mirror_that_has_lost_its_objects_is_not_there_already(
    vault: Path, tmp_path: Path
) -> None:
    target = tmp_path / "back"
    restored(vault, target, check=0)
    (target / LEFT).mkdir()
    for path in (target / "media.git").glob("objects/pack/*"):
        path.unlink()
    done = restored(vault, target, check=3)
    assert done["media"] is None
    (failed,) = done["failed"]
    assert "media.git is there already, and is not whole any more: git rev-list failed" in failed
    (target / "media.git").rename(tmp_path / "lost")
    assert not restored(vault, target, check=0)["media"]["was_there"]
    git("rev-list", "--objects", "--all", cwd=target / "media.git")


def test_a_full_disk_leaves_no_note_that_nothing_can_go_on_with(
    vault: Path, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", 1 << 20) as disk:
        (disk / "back" / LEFT).mkdir(parents=True)
        (disk / "back" / LEFT / "lock").touch()
        fill(disk / "others")
        failed = repo_backup("restore", "--all", "--from", vault, disk / "back", check=1)
        assert "cannot be written to: No space left on device" in failed.stderr
        (disk / "others").unlink()
        resize(disk, 20 << 20)
        restored(vault, disk / "back", check=0)
