"""What goes wrong in practice with backups of repositories, each held to its criterion."""

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from backup.commands.restore import RestoreRequest, restore
from backup.destinations.folder import FolderDestination
from backup.destinations.memory import MemoryDestination
from backup.errors import BackupError, DestinationError, ExitCode
from backup.model import Key, Outcome, StoredObject, Writer
from backup.report.terminal import TerminalEvents
from backup.sources.plain import FolderSource
from backup.stopping import Stop
from backup.vault.layout import Layout
from tests.integration.test_run import MAIN, START, Lab, done, push, statuses, told
from tests.support import shapes
from tests.support.git import commit_chain, git, init_bare, set_head, update_refs
from tests.support.mirrors import assert_same_mirror, mirror_state
from tests.support.program import Completed, repo_backup

RUN = ("run", "--from", "src", "--to", "vault")
FOUR = ("a", "b", "c", "d")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "src", FolderDestination(tmp_path / "vault"))


def restored(lab: Lab, name: str, place: Path, at: str | None = None) -> Path:
    request = RestoreRequest(repository=name, all=False, at=at, target=place)
    with TerminalEvents(Console(quiet=True)) as events:
        restore(lab.destination, request, events=events, stop=Stop())
    return place


# --- One bad repository ------------------------------------------------------------------------


def cannot_be_looked_into(src: Path, vault: Path) -> None:
    (src / "bad").mkdir()
    (src / "bad/.git").write_text(f"gitdir: {'x' * 5000}\n")


def cannot_list_its_refs(src: Path, vault: Path) -> None:
    (shapes.make("notes", src / "bad") / "config").write_text("[broken\n")


def cannot_be_packed(src: Path, vault: Path) -> None:
    shapes.make("missing-object", src / "bad")


def cannot_be_stored(src: Path, vault: Path) -> None:
    shapes.make("notes", src / "bad")
    place = vault / "folder/src/repositories"
    place.mkdir(parents=True)
    (place / "bad").write_text("in the way\n")


@pytest.mark.parametrize(
    "spoil", [cannot_be_looked_into, cannot_list_its_refs, cannot_be_packed, cannot_be_stored]
)
def test_one_bad_repository_does_not_keep_the_other_four_from_the_vault(
    spoil: Callable[[Path, Path], None], tmp_path: Path
) -> None:
    lab = Lab(tmp_path / "src")
    for name in FOUR:
        lab.repository(name)
    spoil(tmp_path / "src", tmp_path / "vault")
    finished = repo_backup(*RUN, "--json", cwd=tmp_path, check=3)
    report = finished.json
    assert {one["path"]: one["status"] for one in report["repositories"]} == {
        **dict.fromkeys(FOUR, "captured"),
        "bad": "failed",
    }
    (bad,) = [one for one in report["repositories"] if one["path"] == "bad"]
    assert bad["reason"]
    assert f"src/bad: failed: {bad['reason']}" in finished.stderr
    (snapshot,) = repo_backup("list", "--from", "vault", "--json", cwd=tmp_path).json["snapshots"]
    assert (snapshot["captured"], snapshot["failed"]) == (4, 1)
    listed = repo_backup("list", "src/a", "--from", "vault", "--json", cwd=tmp_path).json
    assert listed["repository"]["state"] == "ok"
    repo_backup("restore", "--all", "--from", "vault", "out", cwd=tmp_path, check=3)
    for name in FOUR:
        assert_same_mirror(tmp_path / f"out/{name}.git", tmp_path / f"src/{name}")
    assert_exit_code_report_and_manifest_agree(tmp_path, finished)


def assert_exit_code_report_and_manifest_agree(cwd: Path, finished: Completed) -> None:
    report = finished.json
    lab = Lab(cwd / "src", FolderDestination(cwd / "vault"))
    manifest = lab.manifest()
    assert manifest.snapshot_id == report["snapshot"]
    assert report["manifests"][0].endswith(f"{report['snapshot']}.json.gz")
    assert (manifest.result, finished.code) == (report["result"], report["exit_code"])
    rows = {one["host_id"]: one["status"] for one in report["repositories"]}
    entries = {entry.host_id: entry.status for entry in manifest.entries}
    # What cannot even be looked into is said and not remembered: it may be no repository.
    assert entries.items() <= rows.items()
    assert {rows[host_id] for host_id in rows.keys() - entries.keys()} <= {"failed"}
    for name in (
        "listed",
        "captured",
        "unchanged",
        "empty",
        "skipped",
        "not_reached",
        "failed",
        "gone",
    ):
        assert getattr(manifest.totals, name) == report["totals"][name], name
    for name in ("captured", "unchanged", "empty", "skipped", "failed", "gone"):
        assert list(rows.values()).count(name) == report["totals"][name], name
    (listed,) = [
        row
        for row in repo_backup("list", "--from", "vault", "--json", cwd=cwd).json["snapshots"]
        if row["id"] == report["snapshot"]
    ]
    assert listed["result"] == report["result"]
    assert listed["failed"] == report["totals"]["failed"]


def test_a_run_in_which_nothing_could_be_stored_is_failed(tmp_path: Path) -> None:
    for name in FOUR:
        shapes.make("missing-object", tmp_path / "src" / name)
    finished = repo_backup(*RUN, "--json", cwd=tmp_path, check=1)
    assert (finished.json["result"], finished.json["totals"]["failed"]) == ("failed", 4)
    assert_exit_code_report_and_manifest_agree(tmp_path, finished)


def test_every_result_is_the_same_in_exit_code_report_and_manifest(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "src")
    for name in FOUR:
        lab.repository(name)
    lab.repository("none", commits=0)
    shapes.make("shallow", tmp_path / "src/bad")
    assert_exit_code_report_and_manifest_agree(
        tmp_path, repo_backup(*RUN, "--json", cwd=tmp_path, check=3)
    )
    push(tmp_path / "src/a")
    (tmp_path / "src/d").rename(tmp_path / "d")
    second = repo_backup(*RUN, "--json", cwd=tmp_path, check=3)
    assert {one["path"]: one["status"] for one in second.json["repositories"]} == {
        "a": "captured",
        "b": "unchanged",
        "bad": "failed",
        "c": "unchanged",
        "d": "gone",
        "none": "empty",
    }
    assert_exit_code_report_and_manifest_agree(tmp_path, second)
    shutil.rmtree(tmp_path / "src/bad")
    (tmp_path / "d").rename(tmp_path / "src/d")
    assert_exit_code_report_and_manifest_agree(
        tmp_path, repo_backup(*RUN, "--json", cwd=tmp_path, check=0)
    )


def test_a_repository_that_fails_keeps_what_was_stored_and_is_known_the_next_time(
    lab: Lab, tmp_path: Path
) -> None:
    for name in FOUR:
        lab.repository(name)
    state = mirror_state(lab.root / "a")
    lab.run()
    config = (lab.root / "a/config").read_text()
    (lab.root / "a/config").write_text("[broken\n")
    failures = [told(lab.run())["a"] for _ in range(2)]
    assert [(one.status, one.known) for one in failures] == [("failed", False), ("failed", True)]
    since = lab.entry("a").failing_since
    assert since == START + timedelta(days=2)
    assert_same_mirror(restored(lab, "src/a", tmp_path / "out"), state)
    (lab.root / "a/config").write_text(config)
    push(lab.root / "a")
    assert done(lab.run(), "a") == ("captured", "incremental", "refs changed")
    assert lab.entry("a").failing_since is None


# --- Empty repositories ------------------------------------------------------------------------


def test_an_empty_repository_is_reported_as_empty_and_its_first_push_is_captured(
    tmp_path: Path,
) -> None:
    path = Lab(tmp_path / "src").repository("fresh", commits=0)
    for objects in (2, 1):
        report = repo_backup(*RUN, "--json", cwd=tmp_path).json
        assert [one["status"] for one in report["repositories"]] == ["empty"]
        assert report["totals"]["objects_written"] == objects
    push(path)
    report = repo_backup(*RUN, "--json", cwd=tmp_path).json
    assert [(one["status"], one["plan"], one["reason"]) for one in report["repositories"]] == [
        ("captured", "full", "was empty before")
    ]
    push(path)
    report = repo_backup(*RUN, "--json", cwd=tmp_path).json
    assert report["repositories"][0]["plan"] == "incremental"
    repo_backup("restore", "src/fresh", "--from", "vault", "out.git", cwd=tmp_path)
    assert_same_mirror(tmp_path / "out.git", path)


def test_an_empty_repository_restores_as_an_empty_one(lab: Lab, tmp_path: Path) -> None:
    path = lab.repository("fresh", commits=0)
    set_head(path, b"refs/heads/trunk")
    lab.run()
    assert_same_mirror(restored(lab, "src/fresh", tmp_path / "out"), path)


# --- History that is rewritten, removed, renamed -----------------------------------------------


def rewritten(tmp_path: Path) -> tuple[Path, Any]:
    """Back up a repository, then replace its default branch by an orphan and delete another."""
    path = Lab(tmp_path / "src").repository("widgets")
    push(path, branch=b"refs/heads/doomed", label=b"doomed")
    before = mirror_state(path)
    repo_backup(*RUN, cwd=tmp_path)
    orphan = commit_chain(path, 1, label=b"orphan")[0]
    update_refs(path, {MAIN: orphan, b"refs/heads/doomed": None})
    git("reflog", "expire", "--expire=now", "--all", cwd=path)
    git("gc", "--quiet", "--prune=now", cwd=path)
    return path, before


def test_the_tips_before_a_rewrite_and_a_deletion_can_be_restored(tmp_path: Path) -> None:
    path, before = rewritten(tmp_path)
    assert b"refs/heads/doomed" not in mirror_state(path).refs
    (first,) = repo_backup("list", "--from", "vault", "--json", cwd=tmp_path).json["snapshots"]
    repo_backup(*RUN, "--accept-drop", cwd=tmp_path)
    words = ("restore", "src/widgets", "--from", "vault")
    for number, at in enumerate((first["id"], first["finished_at"])):
        repo_backup(*words, f"{number}.git", "--at", at, cwd=tmp_path)
        assert_same_mirror(tmp_path / f"{number}.git", before)
    repo_backup(*words, "now.git", cwd=tmp_path)
    assert_same_mirror(tmp_path / "now.git", path)


def test_the_state_of_a_day_is_restored_by_its_date(lab: Lab, tmp_path: Path) -> None:
    path = lab.repository("widgets")
    lab.run()
    before = mirror_state(path)
    update_refs(path, {MAIN: commit_chain(path, 1, label=b"orphan")[0]})
    git("gc", "--quiet", "--prune=now", cwd=path)
    lab.run()
    day = f"{START + timedelta(days=1):%Y-%m-%d}"
    assert_same_mirror(restored(lab, "src/widgets", tmp_path / "out", day), before)
    with pytest.raises(BackupError, match="has no snapshot"):
        restored(lab, "src/widgets", tmp_path / "too-early", f"{START:%Y-%m-%d}")


def test_the_printed_summary_names_the_rewritten_and_the_deleted_refs(tmp_path: Path) -> None:
    rewritten(tmp_path)
    text = repo_backup(*RUN, cwd=tmp_path).stdout
    assert "1 rewritten" in text
    assert "1 deleted" in text
    assert "refs/heads/main" in text
    assert "refs/heads/doomed" in text


def test_the_report_names_the_rewritten_and_the_deleted_refs(tmp_path: Path) -> None:
    rewritten(tmp_path)
    (row,) = repo_backup(*RUN, "--json", cwd=tmp_path).json["repositories"]
    assert (row["refs"]["rewritten"], row["refs"]["deleted"]) == (1, 1)
    assert "refs/heads/main" in json.dumps(row)
    assert "refs/heads/doomed" in json.dumps(row)


def test_the_history_names_the_rewritten_and_the_deleted_refs(tmp_path: Path) -> None:
    _, before = rewritten(tmp_path)
    repo_backup(*RUN, "--accept-drop", cwd=tmp_path)
    history = repo_backup("list", "src/widgets", "--from", "vault", "--json", cwd=tmp_path).json
    changes = {one["name"]: one for one in history["history"][-1]["changes"]}
    assert {name: one["change"] for name, one in changes.items()} == {
        "refs/heads/main": "rewritten",
        "refs/heads/doomed": "deleted",
    }
    assert changes["refs/heads/main"]["old"] == before.refs[MAIN].decode()
    assert changes["refs/heads/doomed"]["new"] is None
    text = repo_backup("list", "src/widgets", "--from", "vault", cwd=tmp_path).stdout
    assert "rewritten refs/heads/main" in text
    assert "deleted refs/heads/doomed" in text


def test_a_repository_that_left_is_kept_restorable_and_continues_when_it_comes_back(
    lab: Lab, tmp_path: Path
) -> None:
    for name in (*FOUR, "widgets"):
        lab.repository(name, commits=20)
    state = mirror_state(lab.root / "widgets")
    lab.run()
    (lab.root / "widgets").rename(tmp_path / "aside")
    stored = lab.stored()
    report = lab.run()
    assert (report.exit_code, statuses(report)["widgets"]) == (0, "gone")
    assert told(report)["widgets"].reason.startswith("not listed since 2026-03-03")
    lab.run()
    absence = lab.entry("widgets").absence
    assert absence is not None
    assert (absence.since, absence.asked_at) == (
        START + timedelta(days=2),
        START + timedelta(days=3),
    )
    assert told(lab.run())["widgets"].reason.startswith("not listed since 2026-03-03")
    assert stored <= lab.stored()
    assert_same_mirror(restored(lab, "src/widgets", tmp_path / "out"), state)
    words = ("list", "src/widgets", "--from", "vault")
    listed = repo_backup(*words, "--json", cwd=tmp_path).json
    assert listed["repository"]["state"] == "not-listed"
    assert "deleted" not in repo_backup(*words, cwd=tmp_path).stdout

    (tmp_path / "aside").rename(lab.root / "widgets")
    push(lab.root / "widgets")
    assert done(lab.run(), "widgets") == ("captured", "incremental", "refs changed")
    assert lab.entry("widgets").absence is None
    assert len(lab.record("widgets").chain) == 2
    assert_same_mirror(restored(lab, "src/widgets", tmp_path / "back"), lab.root / "widgets")


def test_a_repository_that_comes_back_as_it_was_needs_no_capture(lab: Lab, tmp_path: Path) -> None:
    for name in (*FOUR, "widgets"):
        lab.repository(name)
    lab.run()
    (lab.root / "widgets").rename(tmp_path / "aside")
    lab.run()
    (tmp_path / "aside").rename(lab.root / "widgets")
    assert lab.run().count("unchanged") == 5
    assert lab.entry("widgets").absence is None


def test_all_that_is_listed_is_restored_and_what_is_gone_is_named(lab: Lab, tmp_path: Path) -> None:
    for name in (*FOUR, "widgets"):
        lab.repository(name)
    lab.run()
    shutil.rmtree(lab.root / "widgets")
    lab.run()
    finished = repo_backup("restore", "--all", "--from", "vault", "out", "--json", cwd=tmp_path)
    assert finished.json["left_out"] == [
        "src/widgets: not listed since 2026-03-03 (restore it by name)"
    ]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        f"{name}.git" for name in FOUR
    ]


def test_a_folder_that_is_renamed_is_another_repository(lab: Lab, tmp_path: Path) -> None:
    for name in (*FOUR, "before"):
        lab.repository(name)
    lab.run()
    (lab.root / "before").rename(lab.root / "after")
    report = lab.run()
    assert report.exit_code == 0
    assert done(report, "after") == ("captured", "full", "first capture")
    assert statuses(report)["before"] == "gone"
    assert lab.entry("before").host_id != lab.entry("after").host_id
    assert_same_mirror(restored(lab, "src/before", tmp_path / "old"), lab.root / "after")


def test_the_ending_of_a_bare_repository_belongs_to_its_identity_but_not_to_its_name(
    lab: Lab,
) -> None:
    lab.repository("widgets.git")
    lab.repository("widgets")
    report = lab.run()
    assert [one.path for one in report.outcomes] == ["widgets", "widgets"]
    assert len({one.host_id for one in report.outcomes}) == 2
    assert report.count("captured") == 2


# --- Damage ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made_once(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Make a folder with ./src of one repository, backed up twice to ./vault."""
    folder = tmp_path_factory.mktemp("made-once")
    lab = Lab(folder / "src", FolderDestination(folder / "vault"))
    path = lab.repository("widgets", 30)
    lab.run()
    push(path, 3)
    lab.run()
    return folder


@pytest.fixture
def objects(made_once: Path, tmp_path: Path) -> dict[str, Path]:
    """Copy ./src and ./vault here, and name each object that the newest state depends on."""
    shutil.copytree(made_once, tmp_path, dirs_exist_ok=True)
    root = tmp_path / "vault/folder/src"
    kinds = {
        "full": ".full.bundle",
        "incremental": ".incremental.bundle",
        "record": ".record.json.gz",
    }
    folder = next((root / "repositories/widgets").iterdir())
    found = {kind: max(folder.glob(f"*{end}")) for kind, end in kinds.items()}
    return found | {"manifest": max((root / "snapshots").iterdir())}


OBJECTS = ("full", "incremental", "record", "manifest")


@pytest.mark.parametrize("kind", OBJECTS)
@pytest.mark.parametrize("damage", ["flipped", "cut", "emptied"])
def test_a_restore_finds_damage_and_gives_back_nothing(
    kind: str, damage: str, objects: dict[str, Path], tmp_path: Path
) -> None:
    place = objects[kind]
    data = bytearray(place.read_bytes())
    if damage == "flipped":
        data[len(data) // 2] ^= 0x10
    else:
        del data[0 if damage == "emptied" else len(data) - 1 :]
    place.write_bytes(data)
    words = ("restore", "src/widgets", "--from", "vault", "out.git")
    finished = repo_backup(*words, cwd=tmp_path, check=4)
    assert place.name in finished.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["src", "vault"]


@pytest.mark.parametrize("kind", ["full", "incremental"])
def test_no_byte_of_a_bundle_can_be_flipped_unnoticed(
    kind: str, objects: dict[str, Path], tmp_path: Path
) -> None:
    place = objects[kind]
    sound = place.read_bytes()
    header = sound.index(b"\n\n") + 2
    positions = {0, 3, 20, header - 2, header, header + 11, header + 12, len(sound) - 21}
    positions |= {len(sound) - 1, *range(30, len(sound), len(sound) // 7)}
    vault = FolderDestination(tmp_path / "vault")
    target = tmp_path / "out.git"
    request = RestoreRequest(repository="src/widgets", all=False, at=None, target=target)
    with TerminalEvents(Console(quiet=True)) as events:
        for position in sorted(positions):
            flipped = bytearray(sound)
            flipped[position] ^= 1
            place.write_bytes(flipped)
            with pytest.raises(BackupError) as refused:
                restore(vault, request, events=events, stop=Stop())
            assert refused.value.exit_code == ExitCode.DAMAGED, (position, refused.value)
            assert not target.exists()
        place.write_bytes(sound)
        restore(vault, request, events=events, stop=Stop())
    assert_same_mirror(target, tmp_path / "src/widgets")


@pytest.mark.parametrize("kind", ["full", "incremental", "record"])
def test_a_missing_object_is_damage_and_named(
    kind: str, objects: dict[str, Path], tmp_path: Path
) -> None:
    place = objects[kind]
    place.unlink()
    words = ("restore", "src/widgets", "--from", "vault", "out.git")
    finished = repo_backup(*words, cwd=tmp_path, check=4)
    assert place.name in finished.stderr


def test_damage_to_one_repository_does_not_keep_the_others_from_being_restored(
    tmp_path: Path,
) -> None:
    lab = Lab(tmp_path / "src")
    for name in FOUR:
        lab.repository(name)
    repo_backup(*RUN, cwd=tmp_path)
    (bundle,) = (tmp_path / "vault/folder/src/repositories/b").rglob("*.bundle")
    bundle.write_bytes(bundle.read_bytes()[:-1])
    words = ("restore", "--all", "--from", "vault", "out", "--json")
    report = repo_backup(*words, cwd=tmp_path, check=None)
    assert report.code in {3, 4}
    assert [line.split(":")[0] for line in report.json["failed"]] == ["src/b"]
    assert sorted(path.name for path in (tmp_path / "out").glob("[!.]*")) == [
        f"{name}.git" for name in "acd"
    ]


def test_a_damaged_newest_manifest_stops_a_run_and_is_never_an_empty_vault(
    objects: dict[str, Path], tmp_path: Path
) -> None:
    place = objects["manifest"]
    place.write_bytes(place.read_bytes()[:-9])
    before = {path: path.read_bytes() for path in (tmp_path / "vault/folder").rglob("*.*")}
    finished = repo_backup(*RUN, cwd=tmp_path, check=4)
    assert place.name in finished.stderr
    assert {path: path.read_bytes() for path in before} == before
    assert len([*(tmp_path / "vault/folder").rglob("*.*")]) == len(before)


# --- Every snapshot, from the vault alone ------------------------------------------------------


def test_every_snapshot_restores_from_the_vault_alone(lab: Lab, tmp_path: Path) -> None:
    path = lab.repository("widgets", 5)
    states = []

    def night(**options: Any) -> None:
        lab.run(**options)
        states.append((lab.manifest().snapshot_id, mirror_state(path)))

    night()
    push(path, branch=b"refs/heads/topic", label=b"topic")
    night()
    update_refs(path, {b"refs/heads/topic": None})
    night(accept_drop=True)
    update_refs(path, {MAIN: commit_chain(path, 2, label=b"orphan")[-1]})
    git("gc", "--quiet", "--prune=now", cwd=path)
    night()
    night()
    push(path, 2)
    night(max_chain_length=1)
    set_head(path, commit_chain(path, 1, label=b"detached")[0])
    night()
    push(path)
    set_head(path, MAIN)
    night()
    shutil.move(tmp_path / "vault", tmp_path / "elsewhere")
    shutil.rmtree(lab.root)
    lab.destination = FolderDestination(tmp_path / "elsewhere")
    for number, (snapshot, state) in enumerate(states):
        assert_same_mirror(
            restored(lab, "src/widgets", tmp_path / f"out/{number}", snapshot), state
        )


# --- What counts as a change -------------------------------------------------------------------


def tag_an_old_commit(path: Path) -> None:
    old = git("rev-list", MAIN, cwd=path).split()[-1]
    update_refs(path, {b"refs/tags/late": old})


def delete_a_branch(path: Path) -> None:
    update_refs(path, {b"refs/heads/topic": None})


def push_back(path: Path) -> None:
    update_refs(path, {MAIN: git("rev-list", MAIN, cwd=path).split()[1]})


def change_the_default_branch(path: Path) -> None:
    set_head(path, b"refs/heads/topic")


def name_an_unborn_branch(path: Path) -> None:
    set_head(path, b"refs/heads/unborn")


def detach_head(path: Path) -> None:
    set_head(path, git("rev-parse", MAIN, cwd=path).strip())


def move_a_tag(path: Path) -> None:
    update_refs(path, {b"refs/tags/v1": git("rev-list", MAIN, cwd=path).split()[1]})


CHANGES = (
    tag_an_old_commit,
    delete_a_branch,
    push_back,
    change_the_default_branch,
    name_an_unborn_branch,
    detach_head,
    move_a_tag,
)


def subject(lab: Lab) -> Path:
    path = lab.repository("widgets", 5)
    push(path, branch=b"refs/heads/topic", label=b"topic")
    tip = git("rev-parse", MAIN, cwd=path).strip()
    update_refs(path, {b"refs/tags/v%d" % n: tip for n in range(6)})
    return path


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_that_brings_no_commit_makes_a_capture(
    change: Callable[[Path], None], lab: Lab, tmp_path: Path
) -> None:
    path = subject(lab)
    lab.run()
    change(path)
    report = lab.run()
    assert done(report, "widgets") == ("captured", "incremental", "refs changed")
    assert told(report)["widgets"].objects == 0
    assert_same_mirror(restored(lab, "src/widgets", tmp_path / "out"), path)
    assert statuses(lab.run()) == {"widgets": "unchanged"}


def touch(path: Path) -> None:
    for one in path.rglob("*"):
        os.utime(one, (1, 1))


def repack(path: Path) -> None:
    git("gc", "--quiet", "--prune=now", cwd=path)
    git("pack-refs", "--all", cwd=path)


def leave_objects_that_no_ref_reaches(path: Path) -> None:
    commit_chain(path, 3, label=b"unreachable")


def move_a_hidden_ref(path: Path) -> None:
    push(path, branch=b"refs/pull/1/merge", label=b"pull")


@pytest.mark.parametrize(
    "change", [touch, repack, leave_objects_that_no_ref_reaches, move_a_hidden_ref]
)
def test_what_is_no_change_makes_no_capture(change: Callable[[Path], None], lab: Lab) -> None:
    path = subject(lab)
    lab.run()
    change(path)
    report = lab.run()
    assert statuses(report) == {"widgets": "unchanged"}
    assert report.objects_written == 1


# --- Disk --------------------------------------------------------------------------------------


class Refuses(MemoryDestination):
    """Stores nothing of the repositories whose path has a word."""

    def __init__(self, word: str) -> None:
        super().__init__()
        self._word = word

    def writer(self, key: Key) -> Writer:
        if self._word in key:
            raise DestinationError(f"{key} is refused")
        return super().writer(key)

    def put_if_absent(self, key: Key, data: bytes) -> StoredObject:
        if self._word in key:
            raise DestinationError(f"{key} is refused")
        return super().put_if_absent(key, data)


class LooksAtTheDisk(TerminalEvents):
    """Notes which folders of captures there are when a repository is done, and under way."""

    def __init__(self, folder: Path) -> None:
        super().__init__(Console(quiet=True))
        self._folder = folder
        self.left: dict[str, list[str]] = {}
        self.most = 0

    def folders(self) -> list[str]:
        # A run has one folder, with one for each capture in it.
        return [path.name for path in self._folder.glob("*/*") if path.is_dir()]

    def transferred(self, name: str, size_bytes: int) -> None:
        self.most = max(self.most, len(self.folders()))

    def finished(self, outcome: Outcome) -> None:
        self.left[outcome.path] = self.folders()


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    assert [*folder.iterdir()] == []


BAD = {"unpackable": "missing-object", "partial": "partial", "lost-tip": "missing-id-ref"}


def test_after_each_repository_whatever_its_result_its_temporary_files_are_gone(
    tmp_path: Path, temporary: Path
) -> None:
    lab = Lab(tmp_path / "src", Refuses("refused"))
    for name, commits in {"good": 50, "refused": 3, "none": 0}.items():
        lab.repository(name, commits)
    for name, shape in BAD.items():
        shapes.make(shape, lab.root / name)
    expected = dict.fromkeys((*BAD, "refused"), "failed") | {"good": "captured", "none": "empty"}
    events = LooksAtTheDisk(temporary)
    for name, status in expected.items():
        # One a run, so that what is seen is its own.
        report = lab.run(include=(name,), events=events)
        assert statuses(report) == {name: status}
    assert events.left == {name: [] for name in expected}
    assert events.most == 1


def test_no_more_captures_than_asked_for_use_the_disk_at_once(
    tmp_path: Path, temporary: Path
) -> None:
    lab = Lab(tmp_path / "src")
    for number in range(8):
        lab.repository(f"r{number}", 50)
    events = LooksAtTheDisk(temporary)
    assert lab.run(concurrency=2, events=events).count("captured") == 8
    assert 1 <= events.most <= 2


def test_the_program_leaves_nothing_in_the_temporary_folder(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "src")
    lab.repository("good")
    shapes.make("missing-object", lab.root / "bad")
    (tmp_path / "tmp").mkdir()
    repo_backup(*RUN, cwd=tmp_path, env={"TMPDIR": str(tmp_path / "tmp")}, check=3)
    repo_backup(
        *("restore", "src/good", "--from", "vault", "out.git"),
        cwd=tmp_path,
        env={"TMPDIR": str(tmp_path / "tmp")},
    )
    assert [*(tmp_path / "tmp").iterdir()] == []
    assert [*(tmp_path / "vault/.partial").iterdir()] == []


# --- Next in line ------------------------------------------------------------------------------


def test_equal_names_and_names_that_differ_in_case_share_no_key(lab: Lab, tmp_path: Path) -> None:
    names = ("a/x", "b/x", "g/s1/x", "g/s2/x", "Case", "case", "g-s1-x", "a/x2", "x")
    for name in names:
        lab.repository(name, commits=1)
    lab.run()
    folders = {lab.record(name).chain[0].key.rpartition("/")[0] for name in names}
    assert len({folder.casefold() for folder in folders}) == len(names)
    repo_backup("restore", "--all", "--from", "vault", "out", cwd=tmp_path)
    made = sorted(path.parent for path in (tmp_path / "out").rglob("HEAD"))
    assert len({str(path).casefold() for path in made}) == len(names)
    for name in names:
        place = tmp_path / f"one/{name}.git"
        assert_same_mirror(restored(lab, f"src/{name}", place), lab.root / name)


def test_objects_per_changed_repository_do_not_grow_with_refs_or_with_history(lab: Lab) -> None:
    path = lab.repository("widgets", 200)
    written = [lab.run().objects_written]
    for number in range(5):
        for branch in range(number * 10):
            push(path, branch=b"refs/heads/b%d-%d" % (number, branch), label=b"%d" % branch)
        push(path)
        written.append(lab.run().objects_written)
    assert set(written) == {3}


def test_no_run_whatever_its_result_deletes_anything(lab: Lab) -> None:
    for name in FOUR:
        lab.repository(name)
    keys = lab.stored()
    results = set()

    def night(**options: Any) -> None:
        nonlocal keys
        results.add(lab.run(**options).result)
        assert keys < lab.stored()
        keys = lab.stored()

    night()
    push(lab.root / "a", 2)
    night(max_chain_length=1)
    (lab.root / "b/config").write_text("[broken\n")
    night()
    shutil.rmtree(lab.root / "c")
    shutil.rmtree(lab.root / "d")
    night()
    night(accept_drop=True)
    assert results == {"success", "partial", "failed"}


def test_the_backup_of_a_backup_is_a_backup(lab: Lab, tmp_path: Path) -> None:
    """A vault copied to another place is a vault: keys inside it are relative."""
    lab.repository("widgets")
    lab.run()
    shutil.copytree(tmp_path / "vault", tmp_path / "copy")
    shutil.rmtree(tmp_path / "vault")
    lab.destination = FolderDestination(tmp_path / "copy")
    push(lab.root / "widgets")
    assert done(lab.run(), "widgets") == ("captured", "incremental", "refs changed")
    assert_same_mirror(restored(lab, "src/widgets", tmp_path / "out"), lab.root / "widgets")


def test_two_owners_in_one_vault_share_no_key(tmp_path: Path) -> None:
    vault = FolderDestination(tmp_path / "vault")
    labs = {owner: Lab(tmp_path / owner, vault) for owner in ("acme", "ACME", "acme inc")}
    for owner, one in labs.items():
        push(init_bare(one.root / "widgets"), label=owner.encode())
        one.run(sources=[FolderSource(one.root, owner=owner)])
    prefixes = {Layout.of(host="folder", owner=owner).prefix for owner in labs}
    assert len(prefixes) == 3
    for owner, one in labs.items():
        place = tmp_path / "out" / owner
        assert_same_mirror(restored(one, f"{owner}/widgets", place), one.root / "widgets")
