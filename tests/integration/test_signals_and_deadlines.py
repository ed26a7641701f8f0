"""Runs that must end before they are done: by a signal, or because their time is up."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import pytest
from rich.console import Console

from backup.commands.run import in_turn
from backup.model import Outcome
from backup.report.terminal import TerminalEvents
from backup.sources.plain import GitUrlSource
from backup.stopping import Stop
from tests.integration.test_run import Lab, push, statuses, told
from tests.support.mirrors import assert_same_mirror, mirror_state
from tests.support.program import repo_backup, start_repo_backup

RUN = ("run", "--from", "src", "--to", "vault", "--concurrency", "1")
PATIENCE_SECONDS = 60


class Hanging:
    """A git that is the real one until it has checked so many packs, and then hangs at the next.

    Attributes:
        env: for the program, which then finds this git, and a temporary folder of its own.
    """

    def __init__(self, folder: Path, *, after: int) -> None:
        self._seen = folder / "seen"
        self._pid = folder / "pid"
        self._process: subprocess.Popen[str] | None = None
        self.temporary = folder / "tmp"
        for one in (folder / "bin", self._seen, self.temporary):
            one.mkdir(parents=True)
        shim = folder / "bin/git"
        shim.write_text(
            "#!/bin/sh\n"
            'case " $* " in *" index-pack "*)\n'
            f'  if [ "$(ls {self._seen} | wc -l)" -ge {after} ]; then\n'
            f"    echo $$ > {self._pid}.part && mv {self._pid}.part {self._pid}\n"
            "    exec sleep 1000\n"
            "  fi\n"
            f"  : > {self._seen}/$$ ;;\n"
            "esac\n"
            f'exec {shutil.which("git")} "$@"\n'
        )
        shim.chmod(0o755)
        self.env = {
            "PATH": f"{shim.parent}:{os.environ['PATH']}",
            "TMPDIR": str(self.temporary),
        }

    def start(self, *args: str, cwd: Path) -> "subprocess.Popen[str]":
        """Start the program, and return when its git hangs."""
        self._process = start_repo_backup(*args, cwd=cwd, env=self.env)
        end = time.monotonic() + PATIENCE_SECONDS
        while not self._pid.exists():
            assert self._process.poll() is None, self._process.communicate()
            assert time.monotonic() < end, "nothing hung"
            time.sleep(0.01)
        return self._process

    def end(self) -> None:
        """End what a failed test would leave behind."""
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.communicate()
        if self._pid.exists() and is_running(int(self._pid.read_text())):
            os.kill(int(self._pid.read_text()), signal.SIGKILL)

    def assert_gone(self) -> None:
        assert not is_running(int(self._pid.read_text()))
        assert [*self.temporary.iterdir()] == []


def is_running(pid: int) -> bool:
    """Tell whether a process is there and is no zombie that waits for a reaper."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return text.rpartition(")")[2].split()[0] != "Z"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a folder with ./src of five repositories."""
    lab = Lab(tmp_path / "src")
    for name in "abcde":
        lab.repository(name)
    return tmp_path


class Hang(Protocol):
    def __call__(self, *, after: int) -> Hanging: ...


@pytest.fixture
def hang(folder: Path) -> Iterator[Hang]:
    """Make the git that hangs, and leave no process behind."""
    made: list[Hanging] = []

    def make(*, after: int) -> Hanging:
        made.append(Hanging(folder / "shim", after=after))
        return made[-1]

    yield make
    for one in made:
        one.end()


def stored(folder: Path, kind: str) -> list[str]:
    root = folder / "vault/folder/src"
    return sorted(path.name for path in (root / kind).glob("*")) if root.exists() else []


# --- Signals -----------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_run_and_the_next_one_goes_on_from_there(
    number: signal.Signals, folder: Path, hang: Hang
) -> None:
    hanging = hang(after=2)
    process = hanging.start(*RUN, "--json", cwd=folder)
    process.send_signal(number)
    _, errors = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130
    assert "repo-backup: stopping" in errors
    assert "bug" not in errors
    hanging.assert_gone()
    assert [*(folder / "vault/.partial").iterdir()] == []
    assert stored(folder, "snapshots") == []
    assert len(stored(folder, "checkpoints")) == 1

    second = repo_backup(*RUN, "--json", cwd=folder).json
    plans = [row["plan"] for row in second["repositories"]]
    assert (plans.count(None), plans.count("full")) == (2, 3)
    assert (second["totals"]["unchanged"], second["totals"]["captured"]) == (2, 3)
    repo_backup("restore", "--all", "--from", "vault", "out", cwd=folder)
    for name in "abcde":
        assert_same_mirror(folder / f"out/{name}.git", folder / "src" / name)


def test_what_an_interrupted_run_says_is_one_document_with_every_repository(
    folder: Path, hang: Hang
) -> None:
    hanging = hang(after=2)
    process = hanging.start(*RUN, "--json", cwd=folder)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=PATIENCE_SECONDS)
    report = json.loads(output)
    assert (report["result"], report["exit_code"], report["manifests"]) == ("failed", 130, [])
    rows = {row["path"]: row["status"] for row in report["repositories"]}
    assert sorted(rows) == [*"abcde"]
    assert sorted(rows.values()) == [
        "captured",
        "captured",
        "not-reached",
        "not-reached",
        "not-reached",
    ]
    assert any("interrupted" in problem for problem in report["problems"])
    reasons = {row["reason"] for row in report["repositories"] if row["status"] == "not-reached"}
    assert reasons <= {"interrupted", "not reached: the run was interrupted"}
    assert "time was up" not in output


def test_what_a_first_run_stored_before_it_was_interrupted_can_be_restored(
    folder: Path, hang: Hang
) -> None:
    hanging = hang(after=2)
    process = hanging.start(*RUN, "--json", cwd=folder)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE_SECONDS)
    rows = repo_backup("list", "--from", "vault", "--json", cwd=folder).json
    assert sorted(row["path"] for row in rows["repositories"]) == [*"abcde"]
    unfinished = "it had not reached 3 of 5 repositories"
    assert any(unfinished in note for note in rows["notes"])
    looked = repo_backup("status", "--from", "vault", cwd=folder, check=3).stdout
    assert "no run has ever finished" in looked
    assert "2 of 5 repositories were checked in time" in looked
    done = repo_backup("restore", "--all", "--from", "vault", "out", "--json", cwd=folder, check=3)
    assert unfinished in done.stderr
    report = done.json
    assert len(report["restored"]) == 2
    assert len(report["failed"]) == 3
    for one in report["restored"]:
        name = one["repository"].removeprefix("src/")
        assert_same_mirror(folder / f"out/{name}.git", folder / "src" / name)


def test_an_interrupted_run_that_captured_nothing_leaves_the_vault_as_it_was(
    folder: Path,
    hang: Hang,
) -> None:
    repo_backup(*RUN, cwd=folder)
    push(folder / "src/a")
    before = sorted((folder / "vault").rglob("*"))
    hanging = hang(after=0)
    process = hanging.start(*RUN, cwd=folder)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130
    hanging.assert_gone()
    assert sorted((folder / "vault").rglob("*")) == before


def test_a_killed_run_leaves_nothing_that_the_next_one_trips_over(folder: Path, hang: Hang) -> None:
    hanging = hang(after=2)
    process = hanging.start(*RUN, cwd=folder)
    process.kill()
    process.communicate(timeout=PATIENCE_SECONDS)
    # Nobody was left to end its child.
    hanging.end()
    assert [*hanging.temporary.iterdir()]
    assert stored(folder, "snapshots") == []
    # A first run that was killed and lost manifests look the same: that is said once.
    second = repo_backup(*RUN, cwd=folder, env={"TMPDIR": str(hanging.temporary)}, check=1)
    assert "5 captured" in second.stdout
    assert [*hanging.temporary.iterdir()] == []
    assert [*(folder / "vault/.partial").iterdir()] == []
    repo_backup("restore", "--all", "--from", "vault", "out", cwd=folder)
    for name in "abcde":
        assert_same_mirror(folder / f"out/{name}.git", folder / "src" / name)


def test_a_signal_during_a_restore_leaves_no_half_made_mirror(folder: Path, hang: Hang) -> None:
    repo_backup(*RUN, cwd=folder)
    hanging = hang(after=0)
    words = ("restore", "src/a", "--from", "vault", "out/a.git")
    process = hanging.start(*words, cwd=folder)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 130
    hanging.assert_gone()
    assert [*(folder / "out").iterdir()] == []


# --- Deadlines ---------------------------------------------------------------------------------


class Watch(TerminalEvents):
    """A clock that stands still but for what work costs; tells every capture that began.

    Args:
        each: seconds that a capture takes.
        endless: repositories that take longer than any deadline.
    """

    def __init__(self, *, each: float = 0.0, endless: tuple[str, ...] = ()) -> None:
        super().__init__(Console(quiet=True))
        self._each = each
        self._endless = {f"src/{name}" for name in endless}
        self._guard = threading.Lock()
        self._seconds = 0.0
        self.begun: list[str] = []

    def __call__(self) -> float:
        with self._guard:
            return self._seconds

    def spend(self, seconds: float) -> None:
        with self._guard:
            self._seconds += seconds

    def capturing(self, name: str, action: str, reason: str) -> None:
        self.begun.append(name.removeprefix("src/"))
        self.spend(1_000_000 if name in self._endless else self._each)


def in_time(lab: Lab, watch: Watch, seconds: float, *, margin: float = 0.0) -> dict[str, str]:
    stop = Stop(deadline_seconds=seconds, margin_seconds=margin, monotonic=watch)
    report = lab.run(stop=stop, events=watch, concurrency=1)
    assert report.exit_code in {0, 3}
    assert bool(report.problems) == (report.exit_code == 3)
    return statuses(report)


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    made = Lab(tmp_path / "src")
    for number in range(8):
        made.repository(f"r{number}", commits=1)
    return made


def test_a_deadline_ends_a_run_as_partial_and_says_what_was_not_done(lab: Lab) -> None:
    watch = Watch(each=10)
    stop = Stop(deadline_seconds=25, monotonic=watch)
    report = lab.run(stop=stop, events=watch, concurrency=1)
    assert (report.result, report.exit_code) == ("partial", 3)
    captured = report.count("captured")
    assert captured == 2
    assert len(watch.begun) == 3
    assert report.count("not-reached") == 8 - captured
    (problem,) = report.problems
    assert f"before {8 - captured} repositories were done" in problem
    manifest = lab.manifest()
    assert (manifest.complete, manifest.result) == (False, "partial")
    assert len([entry for entry in manifest.entries if entry.record]) == captured
    # What was never reached is in the vault by name: who reads it must hear of it.
    assert len(manifest.entries) == 8
    reasons = [entry.reason for entry in manifest.entries if not entry.record]
    assert all(reason.startswith("not reached: ") for reason in reasons), reasons


def test_what_an_interrupted_run_did_not_reach_was_not_out_of_time(lab: Lab) -> None:
    stop = Stop()

    class Interrupting(TerminalEvents):
        def finished(self, outcome: Outcome) -> None:
            stop.interrupt()

    events = Interrupting(Console(quiet=True))
    report = lab.run(stop=stop, events=events, concurrency=1)
    assert report.exit_code == 130
    left = [one for one in report.outcomes if one.status == "not-reached"]
    reasons = {one.reason for one in left}
    assert "not reached: the run was interrupted" in reasons
    assert reasons <= {"interrupted", "not reached: the run was interrupted"}
    assert not any("time was up" in problem for problem in report.problems)


def test_short_runs_get_to_every_repository_in_the_end(lab: Lab) -> None:
    captured: set[str] = set()
    for _ in range(8):
        rows = in_time(lab, Watch(each=10), 25)
        new = {path for path, status in rows.items() if status == "captured"}
        assert new
        assert not new & captured
        captured |= new
        if len(captured) == 8:
            break
    assert len(captured) == 8
    assert set(in_time(lab, Watch(each=10), 1000).values()) == {"unchanged"}


def test_with_changes_every_night_each_has_its_turn(lab: Lab) -> None:
    captured = dict.fromkeys(in_time(lab, Watch(), 1000), 0)
    for _ in range(24):
        for name in captured:
            push(lab.root / name)
        for name, status in in_time(lab, Watch(each=10), 35).items():
            captured[name] += status == "captured"
    # Three a night of eight make nine each, but five are asked at once and come in any order.
    assert min(captured.values()) >= 4, captured


def test_no_work_begins_near_the_deadline(lab: Lab) -> None:
    watch = Watch(each=10)
    in_time(lab, watch, 100, margin=95)
    assert len(watch.begun) == 1
    assert lab.manifest().totals.captured == 1


def test_a_deadline_that_is_over_at_once_keeps_everything_as_it_was(lab: Lab) -> None:
    lab.run()
    state = mirror_state(lab.root / "r0")
    before = lab.entry("r0")
    push(lab.root / "r0")
    watch = Watch()
    watch.spend(1)
    assert set(in_time(lab, watch, 0).values()) == {"not-reached"}
    after = lab.entry("r0")
    assert (after.record, after.checked_at) == (before.record, before.checked_at)
    assert len(lab.manifest().entries) == 8
    tips = {line.name.encode(): line.id.encode() for line in lab.record("r0").refs}
    assert tips == {**state.refs}


def test_a_repository_that_was_under_way_at_the_deadline_is_told_from_those_not_reached(
    lab: Lab,
) -> None:
    watch = Watch(endless=("r3",))
    stop = Stop(deadline_seconds=100, monotonic=watch)
    report = lab.run(stop=stop, events=watch, include=("r3",), concurrency=1)
    under_way = told(report)["r3"]
    assert (under_way.status, report.exit_code) == ("not-reached", 3)
    assert "r3" in report.problems[0]
    stop = Stop(deadline_seconds=0, monotonic=watch)
    not_reached = told(lab.run(stop=stop, events=watch, include=("r3",), concurrency=1))["r3"]
    assert under_way.reason != not_reached.reason
    bundles = [key for key in lab.stored() if key.endswith(".bundle")]
    assert bundles == []


@contextmanager
def silent_server(accepted: Callable[[], object]) -> Iterator[str]:
    """Accept connections and never say a word; yield the address."""
    kept = []
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def accept() -> None:
            while True:
                try:
                    kept.append(listening.accept())
                except OSError:
                    return
                accepted()

        thread = threading.Thread(target=accept, daemon=True)
        thread.start()
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()
    for connection, _ in kept:
        connection.close()


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (100, "nothing had come for [0-9]+ seconds when the time"),
        (10, "had not sent all refs after [0-9]+ seconds, when the run's time"),
    ],
)
def test_a_server_that_was_silent_until_the_deadline_is_called_silent(
    lab: Lab, seconds: int, words: str
) -> None:
    watch = Watch()
    with silent_server(lambda: watch.spend(2 * seconds)) as place:
        silent = GitUrlSource([f"http://{place}/acme/quiet.git"], owner="acme")
        stop = Stop(deadline_seconds=seconds, monotonic=watch)
        report = lab.run(sources=[silent], stop=stop, events=watch)
    (one,) = report.outcomes
    assert (one.status, report.exit_code) == ("not-reached", 3)
    assert re.search(words, one.reason)
    assert report.problems == (f"acme/quiet: {one.reason}",)
    manifest = lab.manifest(host="git", owner="acme")
    assert (manifest.complete, manifest.totals.not_reached) == (False, 1)
    # It was tried, so that it does not come first every night.
    assert [entry.attempted_at is not None for entry in manifest.entries] == [True]


def test_owners_take_turns_where_there_is_a_deadline() -> None:
    sources = [GitUrlSource([f"https://git.example/{name}/r"], owner=name) for name in "abc"]
    orders = [in_turn(sources, f"20261130T0230{number:02}Z-0000000a") for number in range(60)]
    assert {order[0].identity.owner for order in orders} == {"a", "b", "c"}
    assert all(sorted(one.identity.owner for one in order) == ["a", "b", "c"] for order in orders)


def test_repositories_that_no_deadline_is_long_enough_for_starve_no_other(lab: Lab) -> None:
    """Being the longest unchecked, they would come first every night, and be all that is done."""
    endless = tuple(f"r{number}" for number in range(5))
    captured: set[str] = set()
    # Five are asked at once, and the first to answer is captured first: some nights are wasted.
    for _ in range(30):
        rows = in_time(lab, Watch(endless=endless), 100)
        captured |= {path for path, status in rows.items() if status == "captured"}
        if len(captured) == 3:
            break
    assert captured == {"r5", "r6", "r7"}


def test_what_a_deadline_left_undone_is_neither_gone_nor_missing_from_the_listing(
    lab: Lab,
) -> None:
    lab.run()
    in_time(lab, Watch(each=10), 25)
    assert lab.manifest().accepted == 8
    assert not [entry.path for entry in lab.manifest().entries if entry.absence]


def test_a_deadline_ends_a_capture_that_hangs(folder: Path, hang: Hang) -> None:
    hanging = hang(after=2)
    words = (*RUN, "--deadline-minutes", "0.05", "--json")
    report = repo_backup(*words, cwd=folder, env=hanging.env, check=3).json
    assert (report["totals"]["captured"], report["totals"]["not_reached"]) == (2, 3)
    assert "the time was up before 3 repositories were done" in report["problems"][0]
    hanging.assert_gone()
    (snapshot,) = repo_backup("list", "--from", "vault", "--json", cwd=folder).json["snapshots"]
    assert (snapshot["complete"], snapshot["captured"]) == (False, 2)
    rest = repo_backup(*RUN, "--json", cwd=folder).json
    assert (rest["totals"]["captured"], rest["totals"]["unchanged"]) == (3, 2)
