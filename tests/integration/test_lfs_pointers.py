"""Pointers of Git LFS in captured packs: found, noted in the vault, and said not to be all."""

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backup.commands.run import RunOptions
from backup.destinations.folder import FolderDestination
from backup.git.pointers import Pointer, find_pointers
from backup.sources.plain import FolderSource
from backup.stopping import Stop
from backup.vault.documents import LfsIndex
from backup.vault.layout import Layout
from backup.vault.manifest import load, load_record
from tests.support.git import git, init_bare
from tests.support.lfsserver import VERSION, commit, oid_of, pointer
from tests.support.program import repo_backup
from tests.support.vaults import run_at

LAYOUT = Layout.of(host="folder", owner="acme")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = init_bare(tmp_path / "acme" / "media.git")
    commit(path, "main", {"a.bin": pointer(b"first"), "readme": b"no pointer\n" * 30})
    commit(path, "main", {"a.bin": pointer(b"second"), "b.bin": pointer(b"shared")})
    commit(path, "side", {"b.bin": pointer(b"shared"), "c.bin": pointer(b"third" * 100)})
    plain = init_bare(tmp_path / "acme" / "plain.git")
    commit(plain, "main", {"readme": b"x" * 300})
    return tmp_path / "acme"


def night(source: Path, *words: str) -> Any:
    vault = source.parent / "vault"
    words = ("--no-lfs", *words)
    return repo_backup("run", "--from", source, "--to", vault, "--json", *words).json


def counted(report: Any, path: str) -> tuple[int, int]:
    told = of(report, path)["lfs"]
    return told["objects"], told["bytes"]


def of(report: Any, path: str) -> Any:
    return next(one for one in report["repositories"] if one["path"] == path)


def newest_record(source: Path, path: str) -> Any:
    destination = FolderDestination(source.parent / "vault")
    keys = [
        stored.key.removeprefix(LAYOUT.prefix)
        for stored in destination.list(LAYOUT.folder("repositories"))
        if f"/{path}/" in stored.key and stored.key.endswith(".record.json.gz")
    ]
    # Ids of one second are in no order.
    records = [load_record(destination, LAYOUT, key) for key in keys]
    return max(records, key=lambda record: record.captured_at)


def index(source: Path, key: str) -> dict[str, int]:
    destination = FolderDestination(source.parent / "vault")
    found = load(destination, LAYOUT.key(key), LfsIndex)
    return {one.oid: one.size_bytes for one in found.objects}


def ids(*contents: bytes) -> dict[str, int]:
    return {hashlib.sha256(content).hexdigest(): len(content) for content in contents}


def test_they_are_found_on_every_branch_and_in_history(source: Path) -> None:
    found = find_pointers(source / "media.git", stop=Stop()).pointers
    expected = ids(b"first", b"second", b"shared", b"third" * 100)
    assert {one.oid: one.size_bytes for one in found} == expected


def test_nothing_is_missing_for_a_pointer_to_the_empty_file(tmp_path: Path) -> None:
    path = init_bare(tmp_path / "one" / "empty.git")
    commit(path, "main", {"empty.bin": pointer(b""), "readme": b"x" * 200})
    vault = tmp_path / "of-one"
    for _ in range(2):
        report = repo_backup("run", "--lfs", "--from", path.parent, "--to", vault, "--json").json
        assert not [note for note in report["notes"] if "LFS" in note]
    assert "Git LFS" not in repo_backup("status", "--from", vault).stdout
    # Whatever size somebody gives it, there is nothing to be had.
    commit(path, "main", {"empty.bin": pointer(b"", size=5), "full.bin": pointer(b"full")})
    assert find_pointers(path, stop=Stop()).pointers == (Pointer(oid_of(b"full"), len(b"full")),)


def test_the_shortest_of_each_version_are_found(tmp_path: Path) -> None:
    path = init_bare(tmp_path / "short.git")
    versions = (
        "version https://git-lfs.github.com/spec/v1\n",
        "version https://hawser.github.com/spec/v1\n",
        "version http://git-media.io/v/2\n",
    )
    files = {}
    for number, version in enumerate(versions):
        content = b"%d" % number
        short = pointer(content).replace(VERSION.encode(), version.encode()).rstrip(b"\n")
        files[f"f{number}"] = short
    commit(path, "main", files)
    found = {one.oid for one in find_pointers(path, stop=Stop()).pointers}
    assert found == ids(b"0", b"1", b"2").keys()


def test_pointers_that_git_lfs_would_not_write_are_found_all_the_same(source: Path) -> None:
    files = {
        "crlf": pointer(b"crlf").replace(b"\n", b"\r\n"),
        "space": b"\n\n" + pointer(b"space") + b" " * 800,
        "blank": pointer(b"blank").replace(b"\noid", b"\n\noid"),
        "late": pointer(b"late").replace(b"\nsize", b"\next-0-x sha256:%s\nsize" % (b"a" * 64)),
    }
    commit(source / "plain.git", "main", files)
    report = night(source)
    assert counted(report, "plain") == (4, len("crlfspaceblanklate"))
    (bundle,) = newest_record(source, "plain").chain
    assert index(source, bundle.lfs) == ids(b"crlf", b"space", b"blank", b"late")


@pytest.mark.parametrize("asked", [True, False])
def test_what_only_looks_like_a_pointer_is_counted_and_reported(asked: bool, source: Path) -> None:
    files = {
        "wrong": pointer(b"wrong").replace(b"sha256", b"sha512"),
        "short": VERSION.encode(),
        "media": b"version http://git-media.io/v/2",
    }
    commit(source / "plain.git", "main", files)
    words = ("--lfs", "--exclude", "media") if asked else ()
    report = night(source, *words)
    found = of(report, "plain")["lfs"]
    assert (report["result"], found["objects"], found["look_alikes"]) == ("success", 0, 3)
    shown = git("cat-file", "blob", found["first_look_alike"], cwd=source / "plain.git")
    assert shown in files.values()
    assert (
        "acme/plain: 3 files look like pointers of Git LFS, but git-lfs does not read them: "
        f"first blob {found['first_look_alike']}"
    ) in report["notes"]
    # Said of what is new, not each night.
    assert "look like" not in str(night(source, *words)["notes"])


def test_look_alikes_in_packs_that_are_searched_later_are_counted(source: Path) -> None:
    commit(source / "plain.git", "main", {"wrong": pointer(b"x").replace(b"size", b"length")})
    words = ("--exclude", "media")
    night(source, *words, "--check", "trailer")
    report = night(source, *words, "--lfs")
    assert of(report, "plain")["lfs"]["look_alikes"] == 1
    (note,) = [one for one in report["notes"] if "looks like a pointer" in one]
    assert note.endswith(f"blob {of(report, 'plain')['lfs']['first_look_alike']}")


def test_a_capture_notes_and_says_them(source: Path) -> None:
    report = night(source)
    assert counted(report, "media") == (4, 5 + 6 + 6 + 500)
    assert counted(report, "plain") == (0, 0)
    assert report["notes"][-1] == (
        "acme/media: 4 new files are kept by Git LFS (517 bytes), and are not stored"
    )
    record = newest_record(source, "media")
    (bundle,) = record.chain
    assert bundle.lfs_scanned
    assert index(source, bundle.lfs) == ids(b"first", b"second", b"shared", b"third" * 100)
    (bundle,) = newest_record(source, "plain").chain
    assert (bundle.lfs_scanned, bundle.lfs) == (True, None)
    # A bundle, a record and what it points to; a bundle and a record; and the manifest.
    assert report["totals"]["objects_written"] == 6
    # What is new is what is said, and what did not change says nothing.
    commit(source / "media.git", "main", {"a.bin": pointer(b"fourth"), "b": pointer(b"shared")})
    report = night(source)
    assert of(report, "media")["plan"] == "incremental"
    assert of(report, "media")["lfs"]["objects"] == 1
    assert index(source, newest_record(source, "media").chain[1].lfs) == ids(b"fourth")
    assert "Git LFS" not in str(night(source)["notes"])


def test_a_pack_that_is_not_indexed_is_not_searched_and_says_so(source: Path) -> None:
    night(source, "--check", "trailer")
    (bundle,) = newest_record(source, "media").chain
    assert (bundle.lfs_scanned, bundle.lfs) == (False, None)


def test_what_points_to_them_is_looked_after(source: Path) -> None:
    night(source)
    vault = source.parent / "vault"
    assert repo_backup("verify", "--from", vault).code == 0
    (key,) = vault.rglob("*.lfs.json.gz")
    key.unlink()
    done = repo_backup("verify", "--from", vault, "--json", check=4).json
    (damage,) = done["damaged"]
    assert damage["uri"].endswith(".lfs.json.gz")
    assert (damage["problem"], len(damage["snapshots"])) == ("it is missing", 1)
    # The next run has a new one, with a new chain.
    report = night(source)
    assert of(report, "media")["plan"] == "full"
    assert "lfs.json.gz (it is missing), found by verify" in of(report, "media")["reason"]
    assert index(source, newest_record(source, "media").chain[0].lfs)


def test_prune_keeps_it_as_long_as_its_bundle(source: Path) -> None:
    vault = FolderDestination(source.parent / "vault")
    began = datetime.now(UTC) - timedelta(days=60)
    for number in range(4):
        commit(source / "media.git", "main", {"a.bin": pointer(b"night %d" % number)})
        moment = began + timedelta(days=number)
        options = RunOptions(concurrency=1, max_chain_length=2)
        run_at(moment, FolderSource(source, owner="acme"), vault, options)
    before = [*source.parent.rglob("*.lfs.json.gz")]
    words = ("prune", "--from", source.parent / "vault", "--keep-daily", "1", "--grace-days", "1")
    repo_backup(*words)
    after = [*source.parent.rglob("*.lfs.json.gz")]
    assert (len(before), len(after)) == (4, 2)
    chain = newest_record(source, "media").chain
    assert {path.name for path in after} == {Path(line.lfs).name for line in chain}
    assert repo_backup("verify", "--from", source.parent / "vault", "--depth", "restore").code == 0
