"""What verify says of damage: of the state that a restore would give, and only as far as it saw."""

import gzip
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest

from backup.commands.drills import load_drill_state
from backup.commands.restore import RestoreRequest, restore
from backup.commands.status import status
from backup.config.names import Depth
from backup.destinations.s3 import S3Destination, S3Settings
from backup.errors import IntegrityError, ObjectArchived
from backup.model import Key, Repository, RunReport, Selection
from backup.stopping import Stop
from backup.vault.layout import lfs_key
from tests.faults.test_known_damage import MAIN, ROOT, Listing, Place, emptied, flip, gone
from tests.faults.test_known_damage import place as place  # noqa: PLC0414  a fixture
from tests.support.git import commit_chain, git, init_bare, update_refs
from tests.support.lfsserver import commit, keep, oid_of, pointer
from tests.support.program import repo_backup
from tests.support.s3server import S3Server
from tests.support.times import Timed
from tests.support.vaults import Silence


def read_document(path: Path) -> Any:
    return json.loads(gzip.decompress(path.read_bytes()))


def write_document(path: Path, document: Any) -> None:
    before = path.stat() if path.exists() else None
    if before is not None:
        path.chmod(0o644)
    path.write_bytes(gzip.compress(json.dumps(document).encode()))
    if before is not None:
        os.utime(path, (before.st_atime, before.st_mtime))


def take_a_file_out(place: Place, name: str) -> None:
    """Take a file's object out of the newest bundle, and have the record say that it is right."""
    root = place.folder / "vault" / ROOT
    record = max(root.glob(f"repositories/{name}/*/*.record.json.gz"))
    document = read_document(record)
    line = document["chain"][-1]
    bundle, header_bytes = root / line["key"], line["header_bytes"]
    data = bundle.read_bytes()
    with tempfile.TemporaryDirectory() as made:
        mirror = Path(made) / "mirror.git"
        git("init", "-q", "--bare", str(mirror), cwd=Path(made))
        git("index-pack", "--stdin", cwd=mirror, input=data[header_bytes:])
        listed = git(
            "cat-file",
            "--batch-all-objects",
            "--batch-check=%(objectname) %(objecttype)",
            cwd=mirror,
        )
        objects = [row.split() for row in listed.decode().splitlines()]
        gone = next(oid for oid, kind in objects if kind == "blob")
        left = "".join(f"{oid}\n" for oid, _ in objects if oid != gone)
        pack = git("pack-objects", "--stdout", "-q", cwd=mirror, input=left.encode())
    made_new = data[:header_bytes] + pack
    bundle.chmod(0o644)
    bundle.write_bytes(made_new)
    line["size_bytes"], line["objects"] = len(made_new), len(objects) - 1
    line["sha256"] = hashlib.sha256(made_new).hexdigest()
    write_document(record, document)


def assert_cannot_be_restored(place: Place, name: str) -> None:
    target = place.folder / "broken" / f"{name}.git"
    request = RestoreRequest(repository=name, all=False, at=None, target=target)
    with pytest.raises(IntegrityError):
        restore(place.vault, request, events=Silence(), stop=Stop())


# --- Which record is the newest -------------------------------------------------------------------


def test_what_is_rebuilt_is_what_a_restore_gives_also_after_runs_that_overlapped(
    place: Place,
) -> None:
    sooner = f"{place.now + timedelta(minutes=70):%Y%m%dT%H%M%SZ}-aaaaaaaa"
    later = f"{place.now + timedelta(minutes=80):%Y%m%dT%H%M%SZ}-bbbbbbbb"
    place.now += timedelta(minutes=30)
    place.push("one")
    place.night(snapshot_id=later)
    # It began before that one, and came to the repository after it.
    place.push("one")
    place.night(snapshot_id=sooner)
    record = place.entry("one").record
    assert record is not None
    assert sooner in record
    flip(next(one for one in place.bundles("one") if sooner in one.name))
    place.drill("restore", code=4)
    assert place.look() == 3
    assert_cannot_be_restored(place, "one")


def test_a_manifest_that_somebody_dated_ahead_does_not_say_what_is_rebuilt(place: Place) -> None:
    snapshots = place.folder / "vault" / ROOT / "snapshots"
    document = read_document(max(snapshots.iterdir()))
    ahead = place.now + timedelta(days=60)
    document["snapshot_id"] = f"{ahead:%Y%m%dT%H%M%SZ}-ffffffff"
    document["started_at"] = document["finished_at"] = f"{ahead:%Y-%m-%dT%H:%M:%SZ}"
    added = snapshots / f"{document['snapshot_id']}.json.gz"
    write_document(added, document)
    os.utime(added, (place.now.timestamp(), place.now.timestamp()))
    place.push("one")
    place.night()
    take_a_file_out(place, "one")
    place.drill("restore", code=4)
    assert place.look() == 3
    assert_cannot_be_restored(place, "one")


# --- What has passed ------------------------------------------------------------------------------


class Archive:
    """A store of which some objects lie in an archive, once somebody has put them there."""

    def __init__(self, inner: Any, ending: str = ".bundle") -> None:
        self._inner = inner
        self._ending = ending
        self.has_them = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    def open(self, key: Key, **more: Any) -> Any:
        if self.has_them and key.endswith(self._ending):
            raise ObjectArchived(f"{key} lies in an archive")
        return self._inner.open(key, **more)


def test_what_cannot_be_rebuilt_has_not_passed_because_its_bundles_are_archived(
    place: Place,
) -> None:
    archive = Archive(place.vault)
    place.vault = archive  # type: ignore[assignment]
    place.push("one")
    place.night()
    take_a_file_out(place, "one")
    options = gone(place)
    place.night(**options)
    place.drill("restore", code=4)
    archive.has_them = True
    place.drill("restore")
    place.night(code=3, **options)
    assert place.look() == 3


def test_what_cannot_be_rebuilt_has_not_passed_because_a_bundle_was_missing_for_a_while(
    place: Place,
) -> None:
    take_a_file_out(place, "one")
    options = gone(place)
    place.night(**options)
    place.drill("restore", code=4)
    (bundle,) = place.bundles("one")
    bundle.rename(place.folder / "aside")
    place.drill("restore", code=4)
    (place.folder / "aside").rename(bundle)
    standing = load_drill_state(place.vault, place.layout, now=place.now).standing
    assert place.entry("one").record in standing


# --- A repository that was emptied ----------------------------------------------------------------


@pytest.mark.parametrize("depth", ["packs", "restore"])
def test_of_an_emptied_repository_the_last_state_that_it_had_is_proved(
    place: Place, depth: Depth
) -> None:
    options = emptied(place)
    place.night(**options)
    flip(place.bundles("one")[0])
    place.drill(depth, code=4)
    assert place.look() == 3
    place.night(code=3, **options)


def test_an_emptied_repository_that_cannot_be_rebuilt_stays_damaged(place: Place) -> None:
    take_a_file_out(place, "one")
    place.drill("restore", code=4)
    options = emptied(place)
    for _ in range(2):
        place.night(code=3, **options)
        assert place.look() == 3
    place.drill("restore", code=4)
    place.night(code=3, **options)
    assert place.look() == 3


def test_what_a_listing_lacks_is_not_there_because_the_repository_was_emptied(
    place: Place,
) -> None:
    (bundle,) = place.bundles("one")
    whole = bundle.read_bytes()
    bundle.unlink()
    place.night(code=3, exclude=("one",))
    options = emptied(place)
    for _ in range(2):
        place.night(code=3, **options)
        assert place.look() == 3
    bundle.write_bytes(whole)
    place.night(**options)
    assert place.look() == 0
    # It is looked for, though its source has nothing to compare with.
    bundle.unlink()
    assert place.look() == 3
    place.night(code=3, **options)
    place.accept("one")
    place.night(**options)
    assert place.look() == 0


# --- Documents beside bundles ---------------------------------------------------------------------


def test_the_ids_of_a_pack_that_are_damaged_cost_a_full(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backup.capture._MOST_IDS_IN_RECORD", 0)
    path = init_bare(place.folder / "acme" / "big.git")
    update_refs(path, {MAIN: commit_chain(path, 5, label=b"big")[-1]})
    place.night()
    (ids,) = (place.folder / "vault" / ROOT).glob("repositories/big/*/*.ids.json.gz")
    flip(ids)
    report = place.drill("packs", code=4)
    assert [one.repositories for one in report.damaged] == [("folder/acme/big",)]
    assert place.look() == 3
    monkeypatch.undo()
    assert place.outcome(place.night(), "big")[:2] == ("captured", "full")
    assert place.look() == 0
    assert place.night().exit_code == 0


# --- Files of Git LFS -----------------------------------------------------------------------------


class Files:
    """Repositories with files of Git LFS, in a vault that has them."""

    SHARED, OWN = b"shared" * 9, b"A" * 50

    def __init__(self, place: Place) -> None:
        self.place = place
        self.options: dict[str, Any] = {"selection": Selection(lfs=True)}
        for name, contents in (("one", (self.OWN, self.SHARED)), ("two", (self.SHARED,))):
            keep(place.path(name), *contents)
            self.commit(name, *contents)
        self.night()

    def commit(self, name: str, *contents: bytes, **more: bytes) -> None:
        files = {f"f{number}": pointer(content) for number, content in enumerate(contents)}
        # What changes is little beside it, and an increment.
        files["large"] = Random(1).randbytes(20_000)
        commit(self.place.path(name), "main", files | more)

    def night(self, *, code: int = 0, **more: Any) -> RunReport:
        return self.place.night(code=code, **(self.options | more))

    def stored(self, content: bytes) -> Path:
        return self.place.folder / "vault" / ROOT / lfs_key(oid_of(content))

    def at_source(self, name: str, content: bytes) -> Path:
        oid = oid_of(content)
        return self.place.path(name) / "lfs" / "objects" / oid[:2] / oid[2:4] / oid

    def flip(self, content: bytes) -> None:
        path = self.stored(content)
        path.chmod(0o644)
        path.write_bytes(b"x" + content[1:])

    def restore(self, name: str, *, at: str | None = None) -> int:
        target = self.place.folder / f"files-{self.place.now:%d%H%M}{at or ''}" / f"{name}.git"
        request = RestoreRequest(repository=name, all=False, at=at, target=target)
        return restore(self.place.vault, request, events=Silence(), stop=Stop()).exit_code


@pytest.fixture
def files(place: Place) -> Files:
    return Files(place)


@pytest.mark.parametrize("changes", [False, True], ids=["unchanged", "changed each night"])
def test_that_a_file_was_stored_once_is_not_taken_back_because_its_source_lost_it(
    files: Files, changes: bool
) -> None:
    place = files.place
    old = (place.entry("one").record or "").rpartition("/")[2].partition(".")[0]
    content = files.stored(files.OWN).read_bytes()
    files.stored(files.OWN).unlink()
    files.at_source("one", files.OWN).unlink()
    for night in range(3):
        if changes:
            files.commit("one", files.OWN, files.SHARED, more=b"%d" % night)
        report = files.night(code=3)
        assert any(oid_of(files.OWN) in one for one in report.problems)
        assert "accept-damage" in report.problems[0]
        assert place.look() == 3
    place.drill("objects", code=4)
    assert files.restore("one") == files.restore("one", at=old) == 4
    # Somebody has a copy.
    files.stored(files.OWN).write_bytes(content)
    place.drill("objects")
    files.night()
    assert place.look() == 0
    assert files.restore("one") == files.restore("one", at=old) == 0


def test_a_file_that_nobody_has_any_more_is_accepted_once(files: Files) -> None:
    place = files.place
    files.stored(files.OWN).unlink()
    files.at_source("one", files.OWN).unlink()
    files.night(code=3)
    words = ("accept-damage", "one", "--from", place.folder / "vault", "--dry-run")
    told = repo_backup(*words).stdout
    assert "note: the next run stores a missing file of Git LFS again, where the source" in told
    assert "full" not in told
    accepted = place.accept("one")
    assert accepted.accepted
    # No full follows: it would point to the same file.
    assert accepted.what_follows == (
        "the next run stores a missing file of Git LFS again, where the source has it",
    )
    for _ in range(2):
        assert place.outcome(files.night(), "one")[:2] == ("unchanged", None)
        assert place.look() == 0
    keep(place.path("one"), files.OWN)
    files.night()
    assert files.stored(files.OWN).read_bytes() == files.OWN


def test_what_accepting_says_of_a_damaged_file_and_of_a_bundle_is_what_follows(
    files: Files,
) -> None:
    place = files.place
    files.flip(files.OWN)
    place.drill("packs", code=4)
    (says,) = place.accept("one").what_follows
    assert "can be removed, with a role that may delete there: the next run then stores" in says
    assert place.outcome(files.night(), "one")[:2] == ("unchanged", None)
    files.stored(files.OWN).unlink()
    files.night()
    assert files.stored(files.OWN).read_bytes() == files.OWN
    flip(place.bundles("one")[0])
    place.drill("packs", code=4)
    assert place.accept("one").what_follows == (
        "its source still has it: the next run that reaches it takes a new full",
    )
    assert place.outcome(files.night(), "one")[:2] == ("captured", "full")


@pytest.mark.parametrize("stays", [True, False], ids=["at the source", "nowhere"])
def test_a_file_that_is_gone_is_an_error_of_status_before_any_run_looks(
    files: Files, stays: bool
) -> None:
    place = files.place
    files.stored(files.SHARED).unlink()
    if not stays:
        for name in ("one", "two"):
            files.at_source(name, files.SHARED).unlink()
    report = status(place.vault, owners=(), max_age_hours=26, now=place.now)
    errors = [one for one in report.findings if one.severity == "error"]
    key = lfs_key(oid_of(files.SHARED))
    assert [one.message for one in errors] == [
        f"folder/acme/one: {key} is missing",
        f"folder/acme/two: {key} is missing",
    ]
    assert {one.fix for one in errors} == {
        "the next run that looks over the vault stores it again, where the source has it"
    }
    assert report.exit_code == 3
    files.night(code=0 if stays else 3)
    assert place.look() == (0 if stays else 3)
    if not stays:
        # Told once, as the damage that the run has found, and not at all when it is accepted.
        report = status(place.vault, owners=(), max_age_hours=26, now=place.now)
        assert len([one for one in report.findings if one.severity == "error"]) == 2
        assert [place.accept(name).accepted != () for name in ("one", "two")] == [True, True]
        assert place.look() == 0


def test_a_list_of_files_that_cannot_be_read_is_an_error_of_status(files: Files) -> None:
    place = files.place
    (index,) = (place.folder / "vault" / ROOT).glob("repositories/one/*/*.lfs.json.gz")
    index.chmod(0o644)
    index.write_bytes(b"")
    report = status(place.vault, owners=(), max_age_hours=26, now=place.now)
    (error,) = [one for one in report.findings if one.severity == "error"]
    assert error.message.startswith("folder/acme/one: ")
    assert index.name in error.message
    assert "takes a new full" in error.fix


def test_a_file_that_was_stored_again_and_is_lost_is_damage_once_more(files: Files) -> None:
    place = files.place
    files.flip(files.OWN)
    place.drill("packs", code=4)
    files.stored(files.OWN).unlink()
    files.night()
    assert place.look() == 0
    # Its repository is not worked on: only the listing can tell.
    content = files.stored(files.OWN).read_bytes()
    files.stored(files.OWN).unlink()
    for _ in range(2):
        report = files.night(code=3, exclude=("one",))
        assert any(oid_of(files.OWN) in one for one in report.problems)
        assert place.look() == 3
    assert place.accept("one").accepted
    assert place.look() == 0
    files.night(exclude=("one",))
    # Stored once more it is as sound as before.
    files.night()
    assert files.stored(files.OWN).read_bytes() == content
    assert place.look() == 0
    files.night()
    assert files.restore("one") == 0


def test_a_file_that_was_stored_again_after_it_was_accepted_is_new_damage(files: Files) -> None:
    place = files.place
    files.options |= gone(place)
    files.night()
    files.flip(files.SHARED)
    place.drill("packs", code=4)
    place.accept("one")
    files.stored(files.SHARED).unlink()
    files.night()
    place.path("two").rename(place.folder / "too")
    path = init_bare(place.folder / "acme" / "three.git")
    update_refs(path, {MAIN: commit_chain(path, 2, label=b"three")[-1]})
    files.night()
    assert place.look() == 0
    files.flip(files.SHARED)
    place.drill("packs", code=4)
    report = files.night(code=3)
    assert len(report.problems) == 2
    assert [one.accepted for one in place.entry("one").damaged] == [False]
    assert place.look() == 3


@pytest.mark.parametrize("is_local", [True, False], ids=["a folder", "a bucket with versions"])
def test_a_file_that_is_gone_is_stored_again_though_its_repository_changes_each_night(
    place: Place, moto_http: S3Server, monkeypatch: pytest.MonkeyPatch, is_local: bool
) -> None:
    if not is_local:
        for name, value in moto_http.environment().items():
            monkeypatch.setenv(name, value)
        moto_http.make_bucket("gone-files", versioned=True)
        settings = S3Settings("gone-files", endpoint_url=moto_http.endpoint_url)
        place.vault = Timed(S3Destination(settings, stop=Stop()), place.clock)
    files = Files(place)
    # A full, on which small increments follow.
    files.commit("one", files.OWN, files.SHARED, more=b"first")
    files.night()
    key = place.layout.key(lfs_key(oid_of(files.OWN)))
    place.vault.delete([key])
    # In a bucket the vault is looked over once a week.
    for night in range(1 if is_local else 8):
        place.now += timedelta(days=1)
        files.commit("one", files.OWN, files.SHARED, more=b"%d" % night)
        files.night()
    assert place.vault.stat(key).size_bytes == len(files.OWN)
    assert files.restore("one") == 0


def test_a_file_that_is_gone_is_damage_also_where_files_are_not_asked_for_any_more(
    files: Files,
) -> None:
    place = files.place
    files.stored(files.OWN).unlink()
    for _ in range(2):
        (problem,) = files.night(code=3, selection=Selection()).problems
        assert oid_of(files.OWN) in problem
        assert "; the next run with files of Git LFS stores it again, where the source" in problem
        assert place.look() == 3
    place.drill("objects", code=4)
    files.night(code=3, selection=Selection())
    files.night()
    assert place.look() == 0
    assert files.restore("one") == 0


@pytest.mark.parametrize("is_copied", [False, True], ids=["in place", "with new times"])
def test_a_file_that_is_known_to_be_damaged_is_no_new_repository_s_file(
    files: Files, is_copied: bool
) -> None:
    place = files.place
    files.options |= gone(place)
    files.night()
    before = files.stored(files.OWN).stat().st_mtime
    files.flip(files.OWN)
    if not is_copied:
        os.utime(files.stored(files.OWN), (before, before))
    place.drill("packs", code=4)
    place.accept("one")
    files.night()
    path = init_bare(place.folder / "acme" / "three.git")
    keep(path, files.OWN)
    files.commit("three", files.OWN)
    for _ in range(2):
        report = files.night(code=3)
        assert f"{files.stored(files.OWN)} is damaged: remove it" in report.problems[0]
        assert place.look() == 3
    files.stored(files.OWN).unlink()
    files.night()
    assert place.look() == 0
    assert files.restore("three") == 0
    assert files.restore("one") == 0
    # What was stored again is good for others.
    path = init_bare(place.folder / "acme" / "four.git")
    keep(path, files.OWN)
    files.commit("four", files.OWN)
    files.night()


def test_lists_of_files_that_are_archived_are_no_damage_for_status(files: Files) -> None:
    archive = Archive(files.place.vault, ".lfs.json.gz")
    archive.has_them = True
    report = status(archive, owners=(), max_age_hours=26, now=files.place.now)
    assert report.exit_code == 0
    said = [one.message for one in report.findings if "cannot be read now" in one.message]
    assert [one.partition(":")[0] for one in said] == ["folder/acme/one", "folder/acme/two"]


# --- Drills and acceptance ------------------------------------------------------------------------


def test_an_older_result_does_not_take_back_what_a_newer_one_found(place: Place) -> None:
    place.drill("packs")
    options = gone(place)
    place.night(**options)
    (bundle,) = place.bundles("one")
    whole = flip(bundle)
    place.drill("packs", code=4)
    place.night(code=3, **options)
    max((place.folder / "vault" / ROOT / "drills").iterdir()).unlink()
    for _ in range(2):
        assert place.look() == 3
        place.night(code=3, **options)
    # Another one goes on from what the manifest has noted.
    place.drill("objects")
    assert place.look() == 3
    bundle.write_bytes(whole)
    place.drill("packs")
    assert place.look() == 0
    place.night(**options)


def test_what_a_clock_some_minutes_ahead_found_can_be_accepted_now(place: Place) -> None:
    options = gone(place)
    place.night(**options)
    flip(place.bundles("one")[0])
    place.now += timedelta(minutes=10)
    place.drill("packs", code=4)
    place.now -= timedelta(minutes=10)
    assert place.accept("one").accepted
    assert place.look() == 0
    place.night(**options)
    assert place.look() == 0


def test_what_a_command_is_to_be_given_can_be_pasted(place: Place) -> None:
    odd = "two words;touch x"
    path = init_bare(place.folder / "acme" / f"{odd}.git")
    update_refs(path, {MAIN: commit_chain(path, 2, label=b"odd")[-1]})
    place.night()
    (bundle,) = (place.folder / "vault" / ROOT).glob("repositories/two%20*/*/*.bundle")
    path.rename(place.folder / "away")
    place.night(accept_drop=True)
    flip(bundle)
    place.drill("packs", code=4)
    (problem,) = place.night(code=3, accept_drop=True).problems
    assert "repo-backup accept-damage 'acme/two words;touch x' --from VAULT" in problem
    report = status(place.vault, owners=(), max_age_hours=26, now=place.now)
    (fix,) = [one.fix for one in report.findings if one.severity == "error"]
    assert "repo-backup accept-damage 'folder/acme/two words;touch x' --from VAULT" in fix


class Renewed(Listing):
    """A folder in which a repository was deleted and made anew, as a forge tells by its id."""

    is_new = False

    def repositories(self) -> Iterator[Repository]:
        for one in super().repositories():
            yield replace(one, host_id="f" * 16) if self.is_new and one.path == "one" else one


def test_where_two_have_one_name_the_command_names_the_id(place: Place) -> None:
    old = place.entry("one").host_id
    place.source = renewed = Renewed(place.folder / "acme", owner="acme")
    renewed.is_new = True
    flip(place.bundles("one")[0])
    place.drill("packs", code=4)
    (problem,) = place.night(code=3, accept_drop=True).problems
    assert f"repo-backup accept-damage {old} --from VAULT" in problem
    assert place.accept(old).accepted
    place.night(accept_drop=True)
