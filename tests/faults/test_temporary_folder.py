"""The temporary folder is lost while a run works: removed, replaced, or made read-only.

The bare facts are stored all the same, with the lesser check, as where it is full; what cannot do
without it fails by its name.
"""

import os
import random
import shutil
import sys
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
from tests.support.git import FastImport, commit_chain, git, init_bare, update_refs
from tests.support.program import Completed, repo_backup

MEBIBYTE = 1 << 20
TIP = b"refs/heads/main"
WORK = ".repo-backup-work-*"
# There is always the one or the other. Source: renameat2(2), RENAME_EXCHANGE.
SWAP = f"""{sys.executable} -c '
import ctypes, os, pathlib, shutil, sys
folder, file = sys.argv[1], sys.argv[1] + ".file"
pathlib.Path(file).touch()
here, exchange = -100, 2
names = (here, os.fsencode(folder), here, os.fsencode(file))
assert ctypes.CDLL(None).renameat2(*names, exchange) == 0
while os.path.lexists(file):
    shutil.rmtree(file, ignore_errors=True)
'"""
# The other repository may be at work there meanwhile, which hinders them for a moment.
LOSSES = {
    "removed": ("until rm -rf {temporary}/{work}; do sleep 0.05; done", "is gone"),
    "replaced by a file": (
        "for one in {temporary}/{work}; do {swap} $one; done",
        "is no folder any more",
    ),
    "read-only": (
        (
            "until mount -o remount,ro {temporary} || sudo -n mount -o remount,ro {temporary}; "
            "do sleep 0.05; done"
        ),
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
    command = LOSSES[loss][0].format(temporary=temporary, work=WORK, swap=SWAP)
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
        # It could not be searched for files of Git LFS.
        done = night(source, tmp_path / "vault", temporary, shim, check=3)
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


# --- Files are taken out of the folder one by one, as cleaners of /tmp do -------------------------

SWEEPS = {
    "files": "find {temporary} -mindepth 2 -type f -delete",
    "packs": "find {temporary} -mindepth 2 -name '*.pack' -delete",
    "emptied": "for one in $(find {temporary} -name mirror.git -o -name 'check-*'); "
    "do rm -rf $one; mkdir -m 700 $one; done",
    "removed": "find {temporary} -mindepth 1 -delete",
}
# The temporary file that git itself writes, as soon as it is there.
AT_WORK = (
    "until find {temporary} -name 'tmp_pack_*' | grep -q .; do sleep 0.01; done; "
    "find {temporary} -name 'tmp_pack_*' -delete"
)
WORDS = ("index-pack", "cat-file", "rev-list", "pack-refs", "for-each-ref", "symbolic-ref")
NOT_VERIFIED = "1 repository could not be verified here: "
REFUSES = "echo 'fatal: pack is corrupted' >&2; exit 128"


def sweeper(folder: Path, *, word: str, does: str, once: bool = False) -> dict[str, str]:
    """Make a git for the front of PATH that does something before it is called with a word."""
    real = shutil.which("git")
    asked = f'case " $* " in *" {word} "*)'
    unless = f"[ -e {folder}/struck ] ||" if once else ""
    folder.mkdir()
    git = folder / "git"
    git.write_text(
        f"#!/bin/sh\n{asked} {unless} {{ touch {folder}/struck; {does}; }};; esac\n"
        f'exec {real} "$@"\n'
    )
    git.chmod(0o755)
    return {"PATH": f"{folder}{os.pathsep}{os.environ['PATH']}"}


@pytest.fixture
def chained(two_bundles: Path, tmp_path: Path) -> Path:
    """A vault with one repository in two bundles."""
    shutil.copytree(two_bundles, tmp_path / "vault")
    return tmp_path / "vault"


@pytest.fixture(scope="module")
def two_bundles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("two-bundles")
    path = init_bare(folder / "chained" / "one.git")
    vault = folder / "vault"
    start = None
    for label in (b"first", b"second"):
        start = commit_chain(path, 2, start=start, label=label)[-1]
        update_refs(path, {TIP: start})
        repo_backup("run", "--from", path.parent, "--to", vault)
    return vault


@pytest.fixture
def swept(tmp_path: Path) -> Path:
    (tmp_path / "swept").mkdir()
    return tmp_path / "swept"


@pytest.mark.parametrize("sweep", SWEEPS)
@pytest.mark.parametrize("word", WORDS)
def test_what_was_swept_from_the_folder_is_no_damage_of_the_vault(
    sweep: str, word: str, chained: Path, swept: Path, tmp_path: Path
) -> None:
    env = sweeper(tmp_path / "shim", word=word, does=SWEEPS[sweep].format(temporary=swept))
    env["TMPDIR"] = str(swept)
    done = repo_backup("verify", "--from", chained, "--depth", "restore", env=env, check=3)
    assert f"{NOT_VERIFIED}folder/chained/one: the temporary folder {swept}/" in done.stdout
    assert "TMPDIR" in done.stdout
    assert "0 of 1 repository verified (restore): nothing is damaged" in done.stdout
    repo_backup("status", "--from", chained)


@pytest.mark.parametrize("does", [SWEEPS["files"], AT_WORK], ids=["before", "at work"])
@pytest.mark.parametrize("depth", ["packs", "restore"])
def test_what_git_is_still_writing_is_no_damage_either(
    does: str, depth: str, chained: Path, swept: Path, tmp_path: Path
) -> None:
    does = does.format(temporary=swept)
    if "tmp_pack" in does:
        # It ends when its output is there to be renamed.
        does = (
            f'{{ dd bs=1 count=40 2>/dev/null; {does}; cat; }} | {shutil.which("git")} "$@"; exit'
        )
    env = sweeper(tmp_path / "shim", word="index-pack", does=does) | {"TMPDIR": str(swept)}
    answer = repo_backup(
        "verify", "--from", chained, "--depth", depth, "--json", env=env, check=3
    ).json
    assert (answer["checked"], answer["damaged"]) == (0, [])
    (said,) = answer["not_verified"]
    assert said.startswith(f"folder/chained/one: the temporary folder {swept}/")
    repo_backup("status", "--from", chained)


def test_what_git_refuses_is_asked_again_in_another_folder(
    chained: Path, swept: Path, tmp_path: Path
) -> None:
    verify = ("verify", "--from", chained, "--depth")
    for depth, word in (
        ("packs", "index-pack"),
        ("restore", "index-pack"),
        ("restore", "rev-list"),
    ):
        env = sweeper(tmp_path / f"{depth}-{word}", word=word, does=REFUSES, once=True)
        done = repo_backup(*verify, depth, env=env | {"TMPDIR": str(swept)})
        assert "took the same bytes in another" in done.stderr
    env = sweeper(tmp_path / "always", word="index-pack", does=REFUSES)
    done = repo_backup(*verify, "restore", env=env | {"TMPDIR": str(swept)}, check=4)
    assert "git index-pack refused its pack: fatal: pack is corrupted" in done.stdout


# What a machine at its limit does to git, and what is said of it.
LIMITS = {
    "killed": ("kill -KILL $$", "was ended by SIGKILL"),
    "memory": ("echo 'fatal: Out of memory, malloc failed' >&2; exit 128", "Out of memory"),
    "quota": ("echo 'fatal: write error: Disk quota exceeded' >&2; exit 128", "is full: git "),
    "threads": (
        "echo 'fatal: unable to create thread: Resource temporarily unavailable' >&2; exit 128",
        "unable to create thread",
    ),
}
OF_A_FILE = ("ulimit -f 0", "takes no file so large: git index-pack was ended by SIGXFSZ")


@pytest.mark.parametrize(
    ("word", "limit"),
    [
        *((word, LIMITS[limit]) for word in ("index-pack", "rev-list") for limit in LIMITS),
        ("index-pack", OF_A_FILE),
    ],
)
def test_a_machine_at_its_limit_is_no_damage_of_the_vault(
    word: str, limit: tuple[str, str], chained: Path, swept: Path, tmp_path: Path
) -> None:
    does, said = limit
    env = sweeper(tmp_path / "shim", word=word, does=does) | {"TMPDIR": str(swept)}
    answer = repo_backup(
        "verify", "--from", chained, "--depth", "restore", "--json", env=env, check=3
    ).json
    assert (answer["checked"], answer["damaged"]) == (0, [])
    assert said in answer["not_verified"][0]
    mirror = tmp_path / "one.git"
    done = repo_backup("restore", "one", mirror, "--from", chained, env=env, check=1)
    assert said in done.stderr
    for words in (answer["not_verified"][0], done.stderr):
        assert "damaged" not in words
        assert "does not hold" not in words
    assert not mirror.exists()
    repo_backup("status", "--from", chained)


def test_what_was_restored_before_is_not_called_broken_by_a_git_that_was_killed(
    chained: Path, tmp_path: Path
) -> None:
    restore = ("restore", "--all", "--from", chained, tmp_path / "back")
    repo_backup(*restore)
    (tmp_path / "back" / ".repo-backup-restore").mkdir()
    env = sweeper(tmp_path / "shim", word="rev-list", does=LIMITS["killed"][0])
    done = repo_backup(*restore, env=env, check=3)
    assert "git rev-list was ended by SIGKILL" in done.stdout + done.stderr
    assert "not whole" not in done.stdout + done.stderr


def test_a_git_that_was_killed_is_not_the_repository_s_fault(source: Path, tmp_path: Path) -> None:
    env = sweeper(tmp_path / "shim", word="index-pack", does=LIMITS["killed"][0])
    done = repo_backup("run", "--from", source, "--to", tmp_path / "vault", env=env, check=1)
    assert "git index-pack was ended by SIGKILL" in done.stdout
    assert "refused" not in done.stdout
    assert "for want of memory" in done.stdout


def test_bytes_that_are_not_those_recorded_are_damage_whatever_becomes_of_the_folder(
    swept: Path, tmp_path: Path
) -> None:
    path = init_bare(tmp_path / "source" / "one.git")
    stream = FastImport(path)
    # More than the pipe to git takes, which is not read.
    stream.commit(files={b"noise": random.Random(1).randbytes(4 * MEBIBYTE)})
    update_refs(path, {TIP: next(iter(stream.run().values()))})
    vault = tmp_path / "vault"
    repo_backup("run", "--from", path.parent, "--to", vault)
    (bundle,) = vault.glob("**/*.bundle")
    data = bytearray(bundle.read_bytes())
    data[-MEBIBYTE] ^= 1
    bundle.chmod(0o600)
    bundle.write_bytes(data)
    does = f"{SWEEPS['files'].format(temporary=swept)}; {REFUSES}"
    env = sweeper(tmp_path / "shim", word="index-pack", does=does) | {"TMPDIR": str(swept)}
    for depth in ("packs", "restore"):
        done = repo_backup("verify", "--from", vault, "--depth", depth, env=env, check=4)
        assert f"damaged: {bundle}: it is damaged: {len(data)} bytes with SHA-256" in done.stdout


@pytest.mark.parametrize("sweep", ["files", "packs"])
def test_a_restore_puts_nothing_in_place_that_was_swept(
    sweep: str, chained: Path, tmp_path: Path
) -> None:
    for word in WORDS:
        above = tmp_path / f"restored-{word}"
        above.mkdir()
        does = SWEEPS[sweep].format(temporary=above)
        env = sweeper(tmp_path / f"shim-{word}", word=word, does=does)
        words = ("restore", "folder/chained/one", above / "target", "--from", chained)
        failed = repo_backup(*words, env=env, check=1)
        assert "error: the folder " in failed.stderr
        assert not (above / "target").exists()


@pytest.mark.parametrize("sweep", SWEEPS)
@pytest.mark.parametrize("word", ["index-pack", "rev-list", "cat-file"])
def test_what_was_swept_in_a_run_is_not_said_to_be_of_pull_requests(
    sweep: str, word: str, source: Path, swept: Path, tmp_path: Path
) -> None:
    head = git("rev-parse", "refs/heads/main", cwd=source / "small.git").strip()
    update_refs(source / "small.git", {b"refs/pull/1/head": head})
    does = SWEEPS[sweep].format(temporary=swept)
    env = sweeper(tmp_path / "shim", word=word, does=does) | {"TMPDIR": str(swept)}
    vault = tmp_path / "vault"
    run = ("run", "--from", source, "--to", vault, "--concurrency", "1", "--json")
    done = repo_backup(*run, "--pull-refs", env=env, check=None).json
    # A pack that was swept before it was searched is searched by the next run.
    for problem in done["problems"]:
        assert "not searched for files of Git LFS" in problem
        assert "pull" not in problem
    assert {one["status"] for one in done["repositories"]} == {"captured"}
    assert bring_back(FolderDestination(vault), tmp_path / "restored") == states_of(source)


# --- No room, or another place than was named ----------------------------------------------------


def test_a_repository_without_room_is_named_and_the_others_are_verified(
    source: Path, tmp_path: Path
) -> None:
    vault = tmp_path / "vault"
    repo_backup("run", "--from", source, "--to", vault)
    with small_disk(tmp_path / "small", MEBIBYTE // 2) as small:
        for depth in ("packs", "restore"):
            verify = ("verify", "--from", vault, "--depth", depth, "--concurrency", "1", "--json")
            answer = repo_backup(*verify, env={"TMPDIR": str(small)}, check=3).json
            assert (answer["checked"], answer["repositories"], answer["damaged"]) == (1, 2, [])
            (said,) = answer["not_verified"]
            assert said.startswith(f"folder/source/large: the temporary folder {small}/")
            assert " is full" in said
            assert "make room in it" in said
    repo_backup("status", "--from", vault)
    # Who was not verified is due before the one that was.
    sampled = repo_backup(
        "verify", "--from", vault, "--depth", "restore", "--sample-percent", "50", "--json"
    ).json
    assert sampled["checked"] == 1
    drills = sorted(vault.glob("**/drills/**/*.json*"))
    assert "large" not in "".join(str(path) for path in drills)


def test_a_folder_that_is_named_and_cannot_be_used_is_said_once(
    chained: Path, two_bundles: Path, tmp_path: Path
) -> None:
    env = {"TMPDIR": str(tmp_path / "none")}
    said = f"TMPDIR names {tmp_path / 'none'}, which cannot be used: "
    source = two_bundles.parent / "chained"
    for words in (
        ("run", "--from", source, "--to", chained),
        ("verify", "--from", chained, "--depth", "restore"),
        ("doctor", "--from", source, "--to", chained),
    ):
        done = repo_backup(*words, env=env)
        assert (done.stdout + done.stderr).count(said) == 1, words
        assert "is used instead" in done.stdout + done.stderr
