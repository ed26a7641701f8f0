"""A machine that allows few threads, and an error that nobody thought of: the rest is backed up."""

import threading
from pathlib import Path

import pytest

from backup.commands.owner import OwnerRun
from backup.commands.run import RunOptions, run
from backup.destinations.memory import MemoryDestination
from backup.errors import MachineLimitReached
from backup.model import RunReport
from backup.sources.plain import FolderSource
from backup.stopping import Stop
from tests.support.git import commit_chain, init_bare, set_head, update_refs
from tests.support.vaults import Silence

REAL_START = threading.Thread.start


def make_repositories(root: Path, *names: str) -> FolderSource:
    for name in names:
        path = init_bare(root / f"{name}.git")
        update_refs(path, {b"refs/heads/main": commit_chain(path, 1, label=name.encode())[-1]})
        set_head(path, b"refs/heads/main")
    return FolderSource(root, owner=root.name)


def back_up(destination: MemoryDestination, *sources: FolderSource) -> RunReport:
    return run(sources, destination, RunOptions(concurrency=4), events=Silence(), stop=Stop())


def allow(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    left = [threads]

    def start(thread: threading.Thread) -> None:
        if not left[0]:
            raise RuntimeError("can't start new thread")
        left[0] -= 1
        REAL_START(thread)

    monkeypatch.setattr(threading.Thread, "start", start)


@pytest.mark.parametrize("threads", [1, 3])
def test_a_run_is_done_by_the_threads_that_the_machine_allows(
    threads: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_repositories(tmp_path / "acme", *(f"r{number}" for number in range(12)))
    allow(threads, monkeypatch)
    report = back_up(MemoryDestination(), source)
    assert (report.result, report.count("captured")) == ("success", 12)


def test_a_run_for_which_no_thread_can_be_started_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = make_repositories(tmp_path / "acme", "one")
    allow(0, monkeypatch)
    with pytest.raises(MachineLimitReached, match="is used up: processes"):
        back_up(MemoryDestination(), source)


def test_an_error_that_nobody_thought_of_stops_no_other_owner(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme = make_repositories(tmp_path / "acme", "one", "two")
    other = make_repositories(tmp_path / "other", "three")
    real = OwnerRun._collect

    def collect(owner: OwnerRun, *rest: object) -> None:
        real(owner, *rest)  # type: ignore[arg-type]
        if owner.source is acme:
            raise KeyError("a bug")

    monkeypatch.setattr(OwnerRun, "_collect", collect)
    destination = MemoryDestination()
    with pytest.raises(KeyError, match="a bug"):
        back_up(destination, acme, other)
    keys = [str(one.key) for one in destination.list("")]
    assert any("folder/other/snapshots/" in key for key in keys)
    # What was captured before it is found by the next run.
    assert any("folder/acme/checkpoints/" in key for key in keys), keys
    monkeypatch.undo()
    report = back_up(destination, acme, other)
    assert report.result == "success"
    assert report.count("unchanged") >= 2


def test_an_owner_whose_own_thread_has_no_memory_fails_by_that_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    acme = make_repositories(tmp_path / "acme", "one")
    other = make_repositories(tmp_path / "other", "two")
    real = OwnerRun._collect

    def collect(owner: OwnerRun, *rest: object) -> None:
        real(owner, *rest)  # type: ignore[arg-type]
        if owner.source is acme:
            raise MemoryError

    monkeypatch.setattr(OwnerRun, "_collect", collect)
    report = back_up(MemoryDestination(), acme, other)
    assert report.result == "failed"
    assert any("acme: a limit of this machine is used up: memory" in one for one in report.problems)
    assert report.count("captured") == 2
