"""Runs that are killed, stopped or doubled, and destinations that fail at any operation."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from backup.commands import owner
from backup.commands.run import RunOptions
from backup.destinations.folder import FolderDestination
from backup.destinations.memory import MemoryDestination
from backup.errors import AccessDenied, BackupError, ExitCode
from backup.model import Destination, RunReport
from backup.vault.documents import Manifest
from backup.vault.layout import Layout
from backup.vault.manifest import list_documents, load_manifest
from tests.support.faults import (
    OWNER,
    DestinationFault,
    FaultyDestination,
    GitShim,
    How,
    WireFault,
    assert_nothing_false,
    back_up,
    bring_back,
    is_running,
    until,
)
from tests.support.git import commit_chain, init_bare, update_refs
from tests.support.history import OPERATIONS, LivingRepository
from tests.support.mirrors import HIDDEN_REFS, MirrorState, mirror_state
from tests.support.program import repo_backup, start_repo_backup

DEEP = settings().max_examples > 25
LAYOUT = Layout.of(host="folder", owner=OWNER)
CHECKOUT = Path(__file__).parents[2]
TIP = b"refs/heads/main"

States = Mapping[str, MirrorState]


def push(path: Path, label: str) -> None:
    update_refs(path, {TIP: commit_chain(path, 2, label=label.encode())[-1]})


def new_source(folder: Path, *names: str) -> Path:
    for name in names:
        push(init_bare(folder / f"{name}.git"), name)
    return folder


def words(source: Path, vault: Path) -> tuple[str | Path, ...]:
    return ("run", "--from", source, "--to", vault, "--owner", OWNER, "--json")


def manifests(vault: Destination, kind: str = "snapshots") -> list[Manifest]:
    """Read all manifests or checkpoints, the one that finished last at the end."""
    found = [
        load_manifest(vault, LAYOUT, name)
        for name in list_documents(vault, LAYOUT)
        if name.stem.startswith(kind)
    ]
    return sorted(found, key=lambda one: one.finished_at)


def comes_back(vault: Destination, target: Path) -> States:
    """Prove that nothing false is recorded, and restore the newest state, if there is one."""
    assert_nothing_false(vault)
    if not manifests(vault):
        return {}
    restored = bring_back(vault, target, ignore=HIDDEN_REFS)
    shutil.rmtree(target, ignore_errors=True)
    return restored


def state_of(source: Path) -> States:
    return {
        path.name.removesuffix(".git"): mirror_state(path, HIDDEN_REFS)
        for path in source.glob("*.git")
    }


def each_is_one_of(restored: States, *allowed: States) -> bool:
    return all(any(state == one.get(path) for one in allowed) for path, state in restored.items())


# --- kill -9 --------------------------------------------------------------------------------------


def kill(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()


def test_a_program_killed_at_any_moment_leaves_what_was_true_and_the_next_run_mends_the_rest(
    tmp_path: Path,
) -> None:
    chance = random.Random(20261101)
    source, vault = tmp_path / "source", tmp_path / "vault"
    living = [LivingRepository(source / f"{name}.git") for name in ("one", "two", "three")]
    destination = FolderDestination(vault)
    temporary = tmp_path / "temporary"
    temporary.mkdir()

    def live() -> States:
        for repository in living:
            for _ in range(2):
                repository.apply(chance.choice([*OPERATIONS]), chance.randrange(2**20))
        return state_of(source)

    def start(number: int) -> tuple[subprocess.Popen[str], GitShim]:
        """Start the program and wait until it asks the first repository."""
        first = WireFault("run", command=("true",))
        shim = GitShim(tmp_path / f"shim-{number}", first)
        env = {**shim.env, "TMPDIR": str(temporary)}
        process = start_repo_backup(*words(source, vault), "--accept-drop", env=env)
        shim.wait()
        return process, shim

    before = live()
    process, _ = start(0)
    began = time.monotonic()
    process.communicate()
    assert process.returncode == 0
    whole_seconds = time.monotonic() - began
    killed = 0
    for number in range(1, 201 if DEEP else 13):
        now = live()
        runs = len(manifests(destination))
        process, shim = start(number)
        began = time.monotonic()
        try:
            process.wait(timeout=chance.uniform(0, whole_seconds))
            # The machine is faster by now: kill earlier.
            whole_seconds = min(whole_seconds, time.monotonic() - began)
        except subprocess.TimeoutExpired:
            killed += 1
        kill(process)
        # What the killed one had started ends by itself.
        until(lambda shim=shim: not any(map(is_running, shim.processes)))  # type: ignore[misc]
        restored = comes_back(destination, tmp_path / "killed")
        ended = len(manifests(destination)) > runs
        assert restored == (now if ended else before), number
        # The next run, here in the same process, and what it leaves of the dead one.
        report = back_up(source, FolderDestination(vault), RunOptions(accept_drop=True))
        assert report.count("failed") == 0, report.problems
        assert comes_back(destination, tmp_path / "mended") == now, number
        assert not list((vault / ".partial").iterdir())
        before = now
    assert killed, "no kill came in time"
    # Its work folders are gone with the next one that uses the same temporary folder.
    process, _ = start(1000)
    process.communicate()
    assert not list(temporary.iterdir())


# A process of one thread that forks: each child runs once and dies at another operation.
DYING = """
import os, sys
from pathlib import Path
from backup.destinations.folder import FolderDestination
from tests.support.faults import DestinationFault, FaultyDestination, back_up

source, vaults = Path(sys.argv[1]), Path(sys.argv[2])
for vault in sorted(vaults.iterdir()):
    child = os.fork()
    if child == 0:
        fault = DestinationFault(int(vault.name), how="die")
        back_up(source, FaultyDestination(FolderDestination(vault), fault))
        os._exit(0)
    print(vault.name, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def test_a_run_that_dies_at_any_operation_of_the_destination_leaves_what_was_true(
    tmp_path: Path,
) -> None:
    source, first = new_source(tmp_path / "source", "changed"), tmp_path / "first"
    back_up(source, FolderDestination(first))
    push(source / "changed.git", "later")
    push(init_bare(source / "new.git"), "new")
    new = state_of(source)
    # How many operations there are depends on how git happens to cut its pack into packets.
    counting = FaultyDestination(vault_in_memory(first))
    back_up(source, counting)
    vaults = tmp_path / "vaults"
    for number in range(len(counting.operations) + 5):
        shutil.copytree(first, vaults / f"{number:03}")
    program = [sys.executable, "-c", DYING, str(source), str(vaults)]
    done = subprocess.run(program, cwd=CHECKOUT, capture_output=True, text=True, check=True)
    codes = {name: int(code) for name, code in map(str.split, done.stdout.splitlines())}
    assert codes.keys() == {folder.name for folder in vaults.iterdir()}
    assert set(codes.values()) == {-signal.SIGKILL, 0}
    assert sum(code != 0 for code in codes.values()) > 15
    for name, code in codes.items():
        vault = FolderDestination(vaults / name)
        # Nothing new is said of a run that died, and all that was said before is there.
        assert_nothing_false(vault)
        assert len(manifests(vault)) == (1 if code else 2), name
        assert back_up(source, vault).exit_code == 0
        assert comes_back(vault, tmp_path / "restored") == new, name


def test_a_first_run_that_died_before_its_checkpoint_fails_the_next_one_once(
    tmp_path: Path,
) -> None:
    """What it leaves cannot be told from a vault whose manifests were removed."""
    source, vault = new_source(tmp_path / "source", "one", "two"), MemoryDestination()
    with suppress(BackupError):
        back_up(source, FaultyDestination(vault, DestinationFault(0, "put", key="/snapshots/")))
    for stored in [*vault.list(LAYOUT.folder("checkpoints"))]:
        vault.delete([stored.key])
    left = {stored.key for stored in vault.list("")}
    assert left

    report = back_up(source, vault)
    assert (report.exit_code, report.count("captured")) == (ExitCode.FAILED, 2)
    (problem,) = report.problems
    assert "objects of 2 repositories (first one/" in problem
    assert "the first run was killed" in problem
    assert left < {stored.key for stored in vault.list("")}
    assert comes_back(vault, tmp_path / "restored") == state_of(source)
    again = back_up(source, vault)
    assert (again.exit_code, again.count("unchanged"), again.problems) == (0, 2, ())


def vault_in_memory(folder: Path) -> MemoryDestination:
    vault = MemoryDestination()
    copy(FolderDestination(folder), vault)
    return vault


def copy(vault: Destination, other: Destination) -> None:
    for stored in vault.list(""):
        with vault.open(stored.key) as reader:
            other.put_if_absent(stored.key, reader.read())


# --- Signals --------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("answer", [1, 2], ids=["asking for refs", "fetching a pack"])
def test_a_signal_ends_with_130_and_a_checkpoint_that_the_next_run_goes_on_from(
    number: signal.Signals, answer: int, tmp_path: Path
) -> None:
    source, vault = new_source(tmp_path / "source", "sound", "stalled"), tmp_path / "vault"
    destination = FolderDestination(vault)
    stall = WireFault("stall", answer=answer, packet=1)
    with GitShim(tmp_path / "shim", stall, match="stalled") as shim:
        process = start_repo_backup(*words(source, vault), env=shim.env)
        shim.wait()
        until(lambda: any(vault.rglob("repositories/sound/*/*.record.json.gz")))
        process.send_signal(number)
        document, errors = process.communicate(timeout=60)
    assert process.returncode == ExitCode.INTERRUPTED, errors
    assert '"result": "failed"' in document
    until(lambda: not any(map(is_running, shim.processes)))
    assert manifests(destination) == []
    [checkpoint] = manifests(destination, "checkpoints")
    assert [entry.path for entry in checkpoint.entries if entry.record] == ["sound"]
    assert not checkpoint.complete
    assert not list((vault / ".partial").iterdir())

    done = {one["path"]: one for one in _run(source, vault)["repositories"]}
    assert (done["sound"]["status"], done["stalled"]["status"]) == ("unchanged", "captured")
    assert len(list(vault.rglob("repositories/sound/*/*.bundle"))) == 1
    assert comes_back(destination, tmp_path / "restored") == state_of(source)


def test_a_signal_before_anything_was_captured_leaves_no_checkpoint(tmp_path: Path) -> None:
    source, vault = new_source(tmp_path / "source", "one", "two"), tmp_path / "vault"
    with GitShim(tmp_path / "shim", WireFault("stall", answer=2), times=None) as shim:
        process = start_repo_backup(*words(source, vault), env=shim.env)
        shim.wait(2)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=60)
    assert process.returncode == ExitCode.INTERRUPTED
    assert [path for path in vault.rglob("*") if path.is_file()] == []
    assert _run(source, vault)["totals"]["captured"] == 2
    restored = comes_back(FolderDestination(vault), tmp_path / "restored")
    assert restored == state_of(source)


def _run(source: Path, vault: Path) -> Any:
    return repo_backup(*words(source, vault)).json


# --- Two at once ----------------------------------------------------------------------------------


def test_two_runs_at_the_same_time_both_end_and_agree(tmp_path: Path) -> None:
    source, vault = new_source(tmp_path / "source", "first"), tmp_path / "vault"
    # Without a manifest the one that is later would take the other's objects for an earlier run's.
    _run(source, vault)
    new_source(source, "one", "two", "three")
    meeting = tmp_path / "meeting"
    meeting.mkdir()
    # Each waits in the middle of its work until the other is there, too.
    meet = tmp_path / "meet"
    meet.write_text(
        f"#!/bin/sh -e\ncd {meeting}\ntouch $$\n"
        "while [ $(ls | wc -l) -lt 2 ]; do sleep 0.01; done\n"
    )
    meet.chmod(0o755)
    fault = WireFault("run", answer=1, command=(str(meet),))
    shims = [GitShim(tmp_path / f"shim-{number}", fault, match="two") for number in (1, 2)]
    both = [start_repo_backup(*words(source, vault), env=shim.env) for shim in shims]
    said = [process.communicate(timeout=120) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    for shim in shims:
        shim.insist()
    destination = FolderDestination(vault)
    assert len(manifests(destination)) == 3
    # Six captures of the same three states under six keys.
    bundles = [path for path in vault.rglob("*.bundle") if "/first/" not in str(path)]
    assert len(bundles) == 6
    assert len({path.parent for path in bundles}) == 3
    assert comes_back(destination, tmp_path / "restored") == state_of(source)
    assert _run(source, vault)["totals"]["unchanged"] == 4
    assert comes_back(destination, tmp_path / "restored") == state_of(source)


def test_a_run_that_was_overtaken_publishes_what_the_faster_one_saw_later(tmp_path: Path) -> None:
    source, vault = new_source(tmp_path / "source", "first"), tmp_path / "vault"
    _run(source, vault)
    new_source(source, "held", "quick")
    go = tmp_path / "go"
    wait = tmp_path / "wait"
    wait.write_text(
        f"#!/bin/sh -e\ntouch {tmp_path}/waiting\nuntil [ -e {go} ]; do sleep 0.01; done\n"
    )
    wait.chmod(0o755)
    fault = WireFault("run", answer=2, command=(str(wait),))
    with GitShim(tmp_path / "shim", fault, match="held") as shim:
        slow = start_repo_backup(*words(source, vault), env=shim.env)
        until((tmp_path / "waiting").exists)
        until(lambda: any(vault.rglob("repositories/quick/*/*.record.json.gz")))
        for name in ("held", "quick"):
            push(source / f"{name}.git", "meanwhile")
        fast = _run(source, vault)
        go.touch()
        _, errors = slow.communicate(timeout=60)
    assert slow.returncode == 0, errors
    destination = FolderDestination(vault)
    last = manifests(destination)[-1]
    assert last.snapshot_id != fast["snapshot"]
    made_by = {entry.path: entry.carried_from for entry in last.entries}
    assert (made_by["held"], made_by["quick"]) == (fast["snapshot"], fast["snapshot"])
    assert comes_back(destination, tmp_path / "restored") == state_of(source)
    assert _run(source, vault)["totals"]["unchanged"] == 3


# --- A destination that refuses, lies or breaks off -----------------------------------------------


class Night:
    """A vault with last night's state, and a source that has changed since."""

    def __init__(self, folder: Path) -> None:
        self._vault = MemoryDestination()
        self.source = new_source(folder / "source", "changed", "same", "gone")
        self.options = RunOptions(concurrency=1, check="trailer", accept_drop=True)
        back_up(self.source, self._vault, self.options)
        self.old = state_of(self.source)
        push(self.source / "changed.git", "later")
        push(init_bare(self.source / "new.git"), "new")
        shutil.rmtree(self.source / "gone.git")
        self.new = state_of(self.source)

    def vault(self) -> MemoryDestination:
        vault = MemoryDestination()
        copy(self._vault, vault)
        return vault


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Night:
    return Night(tmp_path_factory.mktemp("night"))


def attempt(night: Night, vault: Destination) -> RunReport | None:
    """Run; None when nothing came of it."""
    try:
        return back_up(night.source, vault, night.options)
    except BackupError:
        return None


def try_with(night: Night, vault: Destination, fault: DestinationFault) -> RunReport | None:
    with FaultyDestination(vault, fault) as faulty:
        return attempt(night, faulty)


@pytest.mark.parametrize("how", ["fail", "lost", "short"])
def test_whatever_operation_of_the_destination_fails_the_newest_manifest_is_true(
    how: How, night: Night, tmp_path: Path
) -> None:
    operation = "read" if how == "short" else ""
    for number in range(100):
        vault = night.vault()
        faulty = FaultyDestination(vault, DestinationFault(number, operation, how))
        report = attempt(night, faulty)
        if not faulty.struck:
            # The run has no such operation any more.
            break
        where = (number, how, faulty.operations[-1])
        if len(manifests(vault)) == 1:
            assert report is None, where
            assert_nothing_false(vault)
        else:
            restored = comes_back(vault, tmp_path / "restored")
            assert restored.keys() >= {"changed", "same"}, where
            assert each_is_one_of(restored, night.old, night.new), where
        if report is not None:
            done = {one.path for one in report.outcomes if one.status in {"captured", "unchanged"}}
            assert all(restored[path] == night.new[path] for path in done), where
            assert report.exit_code != 0 or restored == night.new, where
        assert back_up(night.source, vault, night.options).exit_code == 0, where
        assert comes_back(vault, tmp_path / "restored") == night.new, where
    assert not faulty.struck
    assert number >= (4 if operation else 20)
    assert report is not None
    assert report.exit_code == 0


def test_a_record_that_may_not_be_read_does_not_cost_the_captures_of_the_others(
    night: Night, tmp_path: Path
) -> None:
    """Whose record it is does not matter: not even that of a repository which is gone."""
    for path, others in (("changed", {"same", "new"}), ("gone", {"changed", "same", "new"})):
        vault = night.vault()
        denied = DestinationFault(
            0, "open", key=f"/repositories/{path}/", error=AccessDenied("not for you")
        )
        result = try_with(night, vault, denied)
        assert result is not None, path
        assert result.exit_code == ExitCode.PARTIAL
        restored = comes_back(vault, tmp_path / "restored")
        assert {one: restored[one] for one in others} == {one: night.new[one] for one in others}


def test_a_checkpoint_that_cannot_be_stored_does_not_cost_the_run(
    night: Night, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, "CHECKPOINT_SECONDS", 0.0)
    vault = night.vault()
    result = try_with(night, vault, DestinationFault(0, "put", key="/checkpoints/"))
    assert result is not None
    assert result.count("captured") == 2
    assert comes_back(vault, tmp_path / "restored") == night.new


def test_a_run_whose_manifest_is_refused_goes_on_from_its_checkpoint(
    night: Night, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(owner, "CHECKPOINT_SECONDS", 0.0)
    vault = night.vault()
    result = try_with(night, vault, DestinationFault(0, "put", key="/snapshots/"))
    assert result is None
    again = back_up(night.source, vault, night.options)
    assert (again.exit_code, again.count("captured"), again.count("unchanged")) == (0, 0, 3)
    assert comes_back(vault, tmp_path / "restored") == night.new
