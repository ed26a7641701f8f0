"""A restore of several that is gone on with: what was there already is proved, and not believed."""

import hashlib
import os
import shutil
from pathlib import Path
from random import Random
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


def lose_bytes(path: Path) -> None:
    """Put zeros into the middle of a file, as a power cut does, and leave its size and times."""
    before = path.stat()
    path.chmod(0o644)
    data = bytearray(path.read_bytes())
    middle = len(data) // 2
    data[middle : middle + 64] = bytes(len(data[middle : middle + 64]))
    path.write_bytes(data)
    path.chmod(before.st_mode)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("object_format", ["sha1", "sha256"])
@pytest.mark.parametrize("words", [(), ("--checkout",)])
def test_what_was_there_is_whole_in_content_and_not_in_names_alone(
    words: tuple[str, ...], object_format: str, tmp_path: Path
) -> None:
    source, target = tmp_path / "acme/media.git", tmp_path / "back"
    init_bare(source, object_format=object_format)
    # What the middle of the pack is a part of, and git reads none of when it follows the refs.
    commit(source, "main", {"noise": Random(7).randbytes(1 << 16)})
    repo_backup("run", "--from", tmp_path / "acme", "--to", tmp_path / "vault")
    vault = tmp_path / "vault"
    restored(vault, target, *words, check=0)
    (target / LEFT).mkdir()
    assert restored(vault, target, *words, check=0)["media"]["was_there"]
    place = target / ("media" if words else "media.git")
    (pack,) = place.rglob("*.pack")
    whole = pack.read_bytes()
    lose_bytes(pack)
    (target / LEFT).mkdir()
    done = restored(vault, target, *words, check=3)
    assert done["media"] is None
    (failed,) = done["failed"]
    assert f"{place} is there already, and is not whole any more: git index-pack failed" in failed
    # An object that somebody unpacked counts like one in a pack.
    pack.chmod(0o644)
    pack.write_bytes(whole)
    away = tmp_path / pack.name
    for path in [*pack.parent.iterdir()]:
        path.rename(tmp_path / path.name)
    git("unpack-objects", "-q", cwd=place, input=away.read_bytes())
    assert restored(vault, target, *words, check=0)["media"]["was_there"]
    loose = max(place.rglob("objects/??/*"), key=lambda path: path.stat().st_size)
    lose_bytes(loose)
    (target / LEFT).mkdir()
    (failed,) = restored(vault, target, *words, check=3)["failed"]
    assert f"{loose} is damaged" in failed
    place.rename(tmp_path / "lost")
    assert not restored(vault, target, *words, check=0)["media"]["was_there"]
    git("fsck", "--full", "--strict", cwd=target / place.name)


def test_files_that_were_checked_out_have_the_content_of_their_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source, target = Path("acme/media.git"), Path("back")
    init_bare(source)
    # Such files are changed ones to git, as soon as it looks at them.
    odd = {".gitattributes": b"*.txt text=auto eol=crlf\n", "a.txt": b"1\r\n2\r\n", "b.txt": b"\n"}
    commit(source, "main", {**odd, "noise": Random(7).randbytes(1 << 10)})
    vault = Path("vault")
    repo_backup("run", "--from", "acme", "--to", vault)
    restored(vault, target, "--checkout", check=0)
    (target / "media/mine").touch()
    (target / LEFT).mkdir()
    assert restored(vault, target, "--checkout", check=0)["media"]["was_there"]
    lose_bytes(target / "media/noise")
    (target / LEFT).mkdir()
    (failed,) = restored(vault, target, "--checkout", check=3)["failed"]
    assert "not whole any more: noise is not as it was checked out" in failed
    assert (target / "media/mine").exists()
    assert [path.name for path in (target / LEFT).iterdir() if "half-made" in path.name] == []


@pytest.mark.parametrize("name", ["shallow", "objects/info/alternates"])
def test_what_is_hidden_or_lies_elsewhere_is_not_taken_for_whole(
    name: str, vault: Path, tmp_path: Path
) -> None:
    target = tmp_path / "back"
    restored(vault, target, check=0)
    (target / LEFT).mkdir()
    (target / "media.git" / name).parent.mkdir(exist_ok=True)
    (target / "media.git" / name).touch()
    (failed,) = restored(vault, target, check=3)["failed"]
    assert f"not whole any more: since it was made it was given {name}" in failed


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
