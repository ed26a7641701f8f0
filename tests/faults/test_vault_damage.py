"""What is stored gets lost or altered behind our back: it is noticed, said, and mended."""

import gzip
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from backup.commands.restore import RestoreRequest, restore
from backup.commands.run import RunOptions
from backup.destinations.folder import FolderDestination
from backup.errors import DamagedDocument, ExitCode, IntegrityError
from backup.model import Outcome
from backup.stopping import Stop
from backup.vault.documents import Manifest, decode, encode
from backup.vault.layout import new_snapshot_id
from tests.support.faults import (
    OWNER,
    Heard,
    assert_nothing_false,
    back_up,
    bring_back,
    states_of,
)
from tests.support.git import commit_chain, git, init_bare, update_refs
from tests.support.mirrors import MirrorState, mirror_state
from tests.support.program import repo_backup

DEEP = settings().max_examples > 25
ROOT = f"folder/{OWNER}"
TIP = b"refs/heads/main"

Damage = Callable[[Path], None]


def push(path: Path, label: str) -> None:
    start = git("rev-parse", "--verify", "HEAD", cwd=path).strip()
    update_refs(path, {TIP: commit_chain(path, 1, start=start, label=label.encode())[-1]})


def new_source(folder: Path) -> Path:
    for name in ("chained", "quiet"):
        path = init_bare(folder / f"{name}.git")
        update_refs(path, {TIP: commit_chain(path, 2, label=name.encode())[-1]})
    return folder


@dataclass(frozen=True, slots=True)
class Nights:
    """Three nights: ``chained.git`` changed in each, ``quiet.git`` never.

    Attributes:
        snapshots: the ids of the runs.
        states: of the source in each night.
    """

    source: Path
    vault: Path
    snapshots: tuple[str, ...]
    states: tuple[Mapping[str, MirrorState], ...]

    @property
    def destination(self) -> FolderDestination:
        return FolderDestination(self.vault)

    def stored(self, pattern: str) -> list[Path]:
        """Find files of the vault, in the order of their snapshots."""
        return sorted((self.vault / ROOT).glob(pattern))

    @property
    def manifests(self) -> list[Path]:
        return [self.vault / ROOT / "snapshots" / f"{one}.json.gz" for one in self.snapshots]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Nights:
    folder = tmp_path_factory.mktemp("nights")
    source, vault = new_source(folder / "source"), folder / "vault"
    snapshots, states = [], []
    for night in range(3):
        if night:
            push(source / "chained.git", f"night {night}")
        # Nights of one second would have ids in no order.
        began = datetime.now(UTC) - timedelta(minutes=3 - night)
        options = RunOptions(snapshot_id=new_snapshot_id(began))
        report = back_up(source, FolderDestination(vault), options)
        assert report.exit_code == 0
        snapshots.append(report.snapshot_id)
        states.append(states_of(source))
    return Nights(source, vault, tuple(snapshots), tuple(states))


@pytest.fixture
def nights(made: Nights, tmp_path: Path) -> Nights:
    """Give the three nights with a vault that may be damaged, and a source that must not be."""
    shutil.copytree(made.vault, tmp_path / "vault")
    return Nights(made.source, tmp_path / "vault", made.snapshots, made.states)


def flip(at: int) -> Damage:
    """Change one byte, counted from the end when negative; the size stays."""

    def damage(path: Path) -> None:
        data = bytearray(path.read_bytes())
        data[at] ^= 0x55
        path.write_bytes(data)

    return damage


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def empty(path: Path) -> None:
    path.write_bytes(b"")


def grow(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"\n")


def foreign(path: Path) -> None:
    path.write_bytes(b"<!DOCTYPE html>")


LOSSES: dict[str, Damage] = {
    "deleted": Path.unlink,
    "truncated": truncate,
    "emptied": empty,
    "grown": grow,
}
BUNDLES = {
    "the base of a chain": ("repositories/chained/*/*.bundle", 0),
    "an increment in the middle": ("repositories/chained/*/*.bundle", 1),
    "the last increment": ("repositories/chained/*/*.bundle", 2),
    "the only full": ("repositories/quiet/*/*.bundle", 0),
}


def by_path(outcomes: tuple[Outcome, ...]) -> dict[str, Outcome]:
    return {one.path: one for one in outcomes}


def files_of(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


# --- Bundles --------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("which", BUNDLES)
def test_a_lost_bundle_is_replaced_by_a_new_full_though_nothing_changed(
    which: str, loss: str, nights: Nights, tmp_path: Path
) -> None:
    pattern, number = BUNDLES[which]
    LOSSES[loss](nights.stored(pattern)[number])
    struck = pattern.split("/")[1]
    report = back_up(nights.source, nights.destination)
    outcome = by_path(report.outcomes)[struck]
    assert (outcome.status, outcome.plan) == ("captured", "full")
    assert "the chain is broken" in outcome.reason
    assert report.count("unchanged") == 1
    assert bring_back(nights.destination, tmp_path / "restored") == nights.states[-1]
    assert back_up(nights.source, nights.destination).count("unchanged") == 2


def test_a_lost_bundle_is_replaced_when_the_repository_changed_as_well(tmp_path: Path) -> None:
    source, vault = new_source(tmp_path / "source"), FolderDestination(tmp_path / "vault")
    for night in range(3):
        push(source / "chained.git", f"night {night}")
        back_up(source, vault)
    [*_, middle, _] = sorted((tmp_path / "vault" / ROOT).glob("repositories/chained/*/*.bundle"))
    middle.unlink()
    push(source / "chained.git", "after")
    outcome = by_path(back_up(source, vault).outcomes)["chained"]
    assert (outcome.status, outcome.plan) == ("captured", "full")
    assert bring_back(vault, tmp_path / "restored") == states_of(source)


@pytest.mark.parametrize("which", ["the base of a chain", "an increment in the middle"])
def test_a_flipped_byte_anywhere_in_a_bundle_is_found_and_nothing_is_left_at_the_target(
    which: str, nights: Nights, tmp_path: Path
) -> None:
    pattern, number = BUNDLES[which]
    bundle = nights.stored(pattern)[number]
    whole = bundle.read_bytes()
    target = tmp_path / "out" / "chained.git"
    request = RestoreRequest(repository="chained", all=False, at=None, target=target)
    for at in range(0, len(whole), 1 if DEEP else 61):
        flip(at)(bundle)
        with pytest.raises(IntegrityError) as caught:
            restore(nights.destination, request, events=Heard(), stop=Stop())
        assert caught.value.exit_code == ExitCode.DAMAGED
        assert bundle.name in caught.value.message, at
        assert not list(target.parent.iterdir()), at
        bundle.write_bytes(whole)
    assert not restore(nights.destination, request, events=Heard(), stop=Stop()).failed


def test_the_program_ends_with_4_and_still_gives_back_the_state_before(
    nights: Nights, tmp_path: Path
) -> None:
    bundle = nights.stored("repositories/chained/*/*.bundle")[2]
    flip(-1)(bundle)
    vault, target = ("--from", nights.vault), tmp_path / "out" / "chained.git"
    done = repo_backup("restore", "chained", *vault, target, check=4)
    assert bundle.name in done.stderr
    assert not list(target.parent.iterdir())
    repo_backup("restore", "chained", *vault, target, "--at", nights.snapshots[1])
    assert mirror_state(target) == nights.states[1]["chained"]


# --- Records --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [Path.unlink, truncate, empty, foreign, flip(30), flip(-6)],
    ids=["deleted", "truncated", "emptied", "foreign", "flipped", "flipped in its checksum"],
)
def test_a_record_that_is_lost_or_damaged_costs_a_full_and_nothing_else(
    damage: Damage, nights: Nights, tmp_path: Path
) -> None:
    record = nights.stored("repositories/chained/*/*.record.json.gz")[-1]
    damage(record)
    target = tmp_path / "out" / "chained.git"
    request = RestoreRequest(repository="chained", all=False, at=None, target=target)
    with pytest.raises(IntegrityError, match=record.name):
        restore(nights.destination, request, events=Heard(), stop=Stop())
    assert not list(target.parent.glob("*"))

    report = back_up(nights.source, nights.destination)
    outcome = by_path(report.outcomes)["chained"]
    assert (report.exit_code, outcome.status, outcome.plan) == (0, "captured", "full")
    assert record.name in outcome.reason
    assert bring_back(nights.destination, tmp_path / "restored") == nights.states[-1]


HOSTILE: dict[str, Callable[[dict[str, Any]], object]] = {
    "a letter that no key has": lambda record: _in_key(record, "é"),
    "a line break": lambda record: _in_key(record, "\n"),
    "a backslash": lambda record: _in_key(record, "\\"),
    "a way out": lambda record: _in_key(record, "/../../../"),
    "a key of something else": lambda record: _in_key(record, ".txt"),
    "a name that is no base64": lambda record: record["refs"][0].update(name_base64="****"),
    "an odd name of what was left out": lambda record: record.update(
        left_out=[{"name": "x", "name_base64": "a", "id": "1", "reason": "odd"}]
    ),
    "a bundle twice": lambda record: record["chain"].append(record["chain"][-1]),
    "a flag for a size": lambda record: record["chain"][0].update(size_bytes=True),
}


def _in_key(record: dict[str, Any], text: str) -> None:
    line = record["chain"][0]
    line["key"] = line["key"].replace(".bundle", f"{text}.bundle")


def make_hostile(nights: Nights, hostile: str) -> Path:
    record = nights.stored("repositories/chained/*/*.record.json.gz")[-1]
    document = json.loads(gzip.decompress(record.read_bytes()))
    HOSTILE[hostile](document)
    record.write_bytes(gzip.compress(json.dumps(document).encode()))
    return record


@pytest.mark.parametrize("hostile", HOSTILE)
def test_a_hostile_record_is_damage_of_its_repository_and_of_no_other(
    hostile: str, nights: Nights, tmp_path: Path
) -> None:
    record = make_hostile(nights, hostile)
    every = RestoreRequest(repository=None, all=True, at=None, target=tmp_path / "all")
    report = restore(nights.destination, every, events=Heard(), stop=Stop())
    assert report.exit_code == ExitCode.DAMAGED
    assert [f"{record.name} is damaged" in words for words in report.failed] == [True]
    assert states_of(tmp_path / "all") == {"quiet": nights.states[-1]["quiet"]}
    one = RestoreRequest(repository="chained", all=False, at=None, target=tmp_path / "one")
    with pytest.raises(DamagedDocument, match=f"{record.name} is damaged"):
        restore(nights.destination, one, events=Heard(), stop=Stop())
    outcomes = by_path(back_up(nights.source, nights.destination).outcomes)
    assert (outcomes["chained"].plan, outcomes["quiet"].status) == ("full", "unchanged")
    assert bring_back(nights.destination, tmp_path / "again") == nights.states[-1]


def test_the_program_names_a_hostile_record_and_ends_with_4(nights: Nights, tmp_path: Path) -> None:
    record = make_hostile(nights, "a letter that no key has")
    vault = ("--from", nights.vault)
    for words in (("restore", "--all", tmp_path / "all"), ("list", "chained"), ("verify",)):
        done = repo_backup(*words, *vault, check=4)
        assert record.name in done.stderr + done.stdout
    assert states_of(tmp_path / "all") == {"quiet": nights.states[-1]["quiet"]}


# --- Manifests and checkpoints --------------------------------------------------------------------


@pytest.mark.parametrize(
    "damage",
    [truncate, empty, foreign, flip(40), flip(-6)],
    ids=["truncated", "emptied", "foreign", "flipped", "flipped in its checksum"],
)
def test_a_damaged_newest_manifest_stops_the_run_and_what_was_before_it_comes_back(
    damage: Damage, nights: Nights, tmp_path: Path
) -> None:
    newest = nights.manifests[-1]
    damage(newest)
    before = files_of(nights.vault)
    run = ("run", "--from", nights.source, "--to", nights.vault, "--owner", OWNER)
    assert newest.name in repo_backup(*run, check=4).stderr
    assert files_of(nights.vault) == before
    everything = ("restore", "--all", "--from", nights.vault)
    assert newest.name in repo_backup(*everything, tmp_path / "newest", check=4).stderr
    assert not (tmp_path / "newest").exists()
    repo_backup(*everything, tmp_path / "before", "--at", nights.snapshots[1])
    assert states_of(tmp_path / "before") == nights.states[1]


def test_the_newest_snapshot_before_a_damaged_one_is_named(nights: Nights, tmp_path: Path) -> None:
    reading = [
        ("list", "quiet"),
        ("status",),
        ("restore", "quiet", tmp_path / "quiet.git"),
        ("restore", "--all", tmp_path / "all"),
        ("restore", "quiet", tmp_path / "quiet.git", "--at", nights.snapshots[2]),
        ("restore", "quiet", tmp_path / "quiet.git", "--at", "2999-01-01"),
    ]
    run = ("run", "--from", nights.source, "--to", nights.vault, "--owner", OWNER)
    for number in (2, 1):
        truncate(nights.manifests[number])
        hint = (
            f"hint: what was stored before it is restored with --at {nights.snapshots[number - 1]};"
        )
        for words in [run, *((*words, "--from", nights.vault) for words in reading)]:
            assert hint in repo_backup(*words, check=4).stderr, words
        listed = repo_backup("list", "--from", nights.vault, check=4).stdout
        # What can be gone back to is shown, and nothing as if it were the present.
        assert hint in listed
        assert all(f"\n{one} " in listed for one in nights.snapshots[:number])
        assert "acme/quiet" not in listed
    before = ("--from", nights.vault, "--at", nights.snapshots[0])
    repo_backup("restore", "--all", tmp_path / "before", *before)
    assert states_of(tmp_path / "before") == nights.states[0]
    truncate(nights.manifests[0])
    assert "hint: no snapshot before it can be read;" in repo_backup(*run, check=4).stderr


def test_any_flipped_bit_of_a_manifest_is_found_or_changes_nothing(nights: Nights) -> None:
    whole = nights.manifests[-1].read_bytes()
    true = decode(whole, Manifest, where="the manifest")
    found = harmless = 0
    for at in range(len(whole)):
        for bit in range(8):
            data = bytearray(whole)
            data[at] ^= 1 << bit
            try:
                read = decode(bytes(data), Manifest, where="the manifest")
            except DamagedDocument:
                found += 1
            else:
                harmless += 1
                assert read == true, (at, bit)
    # gzip's own head has bits that mean nothing to us: a time, an operating system.
    assert found > harmless > 0


def test_an_older_manifest_that_is_damaged_stops_nothing(nights: Nights, tmp_path: Path) -> None:
    truncate(nights.manifests[1])
    assert back_up(nights.source, nights.destination).count("unchanged") == 2
    assert bring_back(nights.destination, tmp_path / "restored") == nights.states[-1]


@pytest.mark.parametrize("number", [0, 1])
def test_an_older_manifest_that_is_damaged_hides_no_other_snapshot(
    number: int, nights: Nights, tmp_path: Path
) -> None:
    struck = nights.manifests[number]
    truncate(struck)
    vault = ("--from", nights.vault)
    listed = repo_backup("list", *vault, check=4).stdout
    assert f"damaged: {struck} is damaged: " in listed
    assert {one for one in nights.snapshots if f"\n{one} " in listed} == {
        one for one in nights.snapshots if one not in struck.name
    }
    assert "acme/quiet" in listed
    answer = repo_backup("list", *vault, "--json", check=4).json
    assert [one["id"] for one in answer["damaged"]] == [nights.snapshots[number]]
    assert len(answer["snapshots"]) == len(answer["repositories"]) == 2
    then = ("--at", "2999-01-01")
    repo_backup("restore", "--all", *vault, tmp_path / "all", *then)
    assert states_of(tmp_path / "all") == nights.states[-1]
    repo_backup("restore", "chained", *vault, tmp_path / "one.git", *then)
    assert mirror_state(tmp_path / "one.git") == nights.states[-1]["chained"]
    doctor = repo_backup("doctor", "--from", nights.source, "--to", nights.vault, "--owner", OWNER)
    assert f"warning: {struck} is damaged" in doctor.stdout


def test_what_a_damaged_manifest_alone_may_tell_is_named_and_not_given_back_older(
    nights: Nights, tmp_path: Path
) -> None:
    last = decode(nights.manifests[2].read_bytes(), Manifest, where="the manifest")
    # In the last night one repository was asked at once, the other two hours later.
    seen = {"quiet": last.started_at, "chained": last.started_at + timedelta(hours=2)}
    entries = [one.model_copy(update={"checked_at": seen[one.path]}) for one in last.entries]
    nights.manifests[2].write_bytes(encode(last.model_copy(update={"entries": tuple(entries)})))
    at = ("--from", nights.vault, "--at", f"{last.started_at + timedelta(hours=1):%FT%TZ}")
    repo_backup("restore", "--all", tmp_path / "sound", *at)
    assert states_of(tmp_path / "sound") == nights.states[1]
    truncate(nights.manifests[1])
    done = repo_backup("restore", "--all", tmp_path / "all", *at, check=4)
    assert states_of(tmp_path / "all") == {"quiet": nights.states[1]["quiet"]}
    (line,) = [one for one in done.stdout.splitlines() if f"{OWNER}/chained" in one]
    assert f"may be in a manifest that cannot be read: {nights.manifests[1]} is damaged" in line
    failed = repo_backup("restore", "chained", tmp_path / "chained.git", *at, check=4)
    assert f"{nights.manifests[1]} is damaged" in failed.stderr
    assert not (tmp_path / "chained.git").exists()
    repo_backup("restore", "quiet", tmp_path / "quiet.git", *at)
    assert mirror_state(tmp_path / "quiet.git") == nights.states[1]["quiet"]


def test_without_the_newest_manifest_the_run_goes_on_from_the_one_before(
    nights: Nights, tmp_path: Path
) -> None:
    nights.manifests[-1].unlink()
    outcome = by_path(back_up(nights.source, nights.destination).outcomes)["chained"]
    assert (outcome.status, outcome.plan) == ("captured", "incremental")
    assert bring_back(nights.destination, tmp_path / "restored") == nights.states[-1]
    assert_nothing_false(nights.destination)


class InterruptAfterTheFirst(Heard):
    """Asks the run to stop once one repository is done."""

    def __init__(self, stop: Stop) -> None:
        super().__init__()
        self._stop = stop

    def finished(self, outcome: Outcome) -> None:
        self._stop.interrupt()


@pytest.mark.parametrize("damage", [truncate, empty, foreign, flip(40)])
def test_a_damaged_checkpoint_is_left_aside_and_said(damage: Damage, tmp_path: Path) -> None:
    source, vault = new_source(tmp_path / "source"), FolderDestination(tmp_path / "vault")
    stop = Stop()
    report = back_up(source, vault, events=InterruptAfterTheFirst(stop), stop=stop)
    assert report.exit_code == ExitCode.INTERRUPTED
    [checkpoint] = (tmp_path / "vault" / ROOT / "checkpoints").iterdir()
    damage(checkpoint)
    again = back_up(source, vault)
    # Nothing else says what the objects are: the manifests might as well have been removed.
    assert (again.exit_code, again.count("captured")) == (1, 2)
    assert any("has no manifest" in problem for problem in again.problems)
    assert any(
        checkpoint.name.removesuffix(".json.gz") in note and "damaged" in note
        for note in again.notes
    )
    assert bring_back(vault, tmp_path / "restored") == states_of(source)
    assert back_up(source, vault).exit_code == 0


# --- Clocks that run ahead ------------------------------------------------------------------------


@pytest.mark.parametrize("days", [1, 400])
def test_a_manifest_from_the_future_is_said_and_decides_nothing(days: int, tmp_path: Path) -> None:
    source, vault = new_source(tmp_path / "source"), FolderDestination(tmp_path / "vault")
    back_up(source, vault)
    push(source / "chained.git", "in the future")
    ahead = datetime.now(UTC) + timedelta(days=days)
    future = back_up(source, vault, at=ahead, wrong_clock=True)
    push(source / "chained.git", "in the present")
    report = back_up(source, vault)
    assert any(future.snapshot_id in note and "wrong clock" in note for note in report.notes)
    outcome = by_path(report.outcomes)["chained"]
    assert (report.exit_code, outcome.status) == (0, "captured")
    assert bring_back(vault, tmp_path / "restored") == states_of(source)
    assert_nothing_false(vault)
    assert back_up(source, vault).count("unchanged") == 2


def test_a_vault_begun_by_a_clock_that_ran_ahead_goes_on_in_the_present(tmp_path: Path) -> None:
    source, vault = new_source(tmp_path / "source"), FolderDestination(tmp_path / "vault")
    back_up(source, vault, at=datetime.now(UTC) + timedelta(days=400), wrong_clock=True)
    push(source / "chained.git", "in the present")
    assert by_path(back_up(source, vault).outcomes)["chained"].status == "captured"
    assert bring_back(vault, tmp_path / "restored") == states_of(source)
    assert back_up(source, vault).count("unchanged") == 2


def test_a_damaged_manifest_from_the_future_decides_nothing_either(
    nights: Nights, tmp_path: Path
) -> None:
    tomorrow = datetime.now(UTC) + timedelta(days=1)
    future = back_up(nights.source, nights.destination, at=tomorrow, wrong_clock=True)
    truncate(nights.vault / ROOT / "snapshots" / f"{future.snapshot_id}.json.gz")
    report = back_up(nights.source, nights.destination)
    assert (report.exit_code, report.count("unchanged")) == (0, 2)
    assert any(future.snapshot_id in note for note in report.notes)
    assert bring_back(nights.destination, tmp_path / "restored") == nights.states[-1]


# --- What nobody can mend now ---------------------------------------------------------------------


def test_damage_to_a_repository_that_is_not_selected_is_said(nights: Nights) -> None:
    nights.stored("repositories/quiet/*/*.bundle")[0].unlink()
    options = RunOptions(include=("chained",), concurrency=1)
    report = back_up(nights.source, nights.destination, options)
    assert report.exit_code == ExitCode.PARTIAL
    [problem] = report.problems
    assert "quiet" in problem
    assert ".full.bundle is missing" in problem
