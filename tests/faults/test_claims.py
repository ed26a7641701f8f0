"""States in which a run could claim what a restore cannot keep."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backup.commands.run import RunOptions
from backup.destinations.memory import MemoryDestination
from backup.errors import ConfigError
from tests.support.faults import back_up, bring_back
from tests.support.git import commit_chain, git, init_bare, set_head, update_refs
from tests.support.mirrors import MirrorState, mirror_state

NOW = datetime(2026, 11, 20, 3, tzinfo=UTC)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "acme"
    init_bare(folder / "widgets.git")
    push(folder / "widgets.git", b"one")
    return folder


def push(repository: Path, label: bytes) -> None:
    parent = git("for-each-ref", "--format=%(objectname)", "refs/heads/main", cwd=repository)
    (*_, tip) = commit_chain(repository, 1, start=parent.strip() or None, label=label)
    update_refs(repository, {b"refs/heads/main": tip})


def given_back(vault: MemoryDestination, tmp_path: Path) -> MirrorState:
    return bring_back(vault, tmp_path / "restored")["widgets"]


@pytest.mark.parametrize("ahead", [timedelta(minutes=50), timedelta(days=3)])
def test_a_clock_that_was_ahead_costs_no_later_capture(
    ahead: timedelta, source: Path, tmp_path: Path
) -> None:
    vault = MemoryDestination()
    # The id says one time, the entries another: the clock jumped during the run.
    options = RunOptions(snapshot_id="20261119T030000Z-aaaa")
    assert back_up(source, vault, options, at=NOW + ahead - timedelta(days=1)).exit_code == 0
    for night in range(3):
        push(source / "widgets.git", b"night %d" % night)
        assert back_up(source, vault, at=NOW + timedelta(minutes=night)).count("captured") == 1
    assert given_back(vault, tmp_path) == mirror_state(source / "widgets.git")


@pytest.mark.parametrize("snapshot_id", ["20200101T000000Z-aaaa", "20990101T000000Z-aaaa"])
def test_an_id_under_which_nobody_would_look_is_refused(snapshot_id: str, source: Path) -> None:
    vault = MemoryDestination()
    back_up(source, vault)
    before = list(vault.list(""))
    with pytest.raises(ConfigError, match=f"--snapshot-id: '{snapshot_id}'"):
        back_up(source, vault, RunOptions(snapshot_id=snapshot_id))
    assert list(vault.list("")) == before


def test_grafts_pretend_no_other_history(source: Path, tmp_path: Path) -> None:
    vault, repository = MemoryDestination(), source / "widgets.git"
    first = git("rev-parse", "main", cwd=repository).strip()
    back_up(source, vault)
    push(repository, b"between")
    push(repository, b"last")
    last = git("rev-parse", "main", cwd=repository).strip()
    (repository / "info").mkdir(exist_ok=True)
    (repository / "info" / "grafts").write_bytes(b"%b %b\n" % (last, first))
    assert back_up(source, vault).exit_code == 0
    (repository / "info" / "grafts").unlink()
    assert given_back(vault, tmp_path) == mirror_state(repository)


def test_a_head_that_names_a_hidden_ref_comes_back_as_what_it_leads_to(
    source: Path, tmp_path: Path
) -> None:
    vault, repository = MemoryDestination(), source / "widgets.git"
    (*_, hidden) = commit_chain(repository, 2, label=b"hidden")
    update_refs(repository, {b"refs/pull/1/head": hidden})
    set_head(repository, b"refs/pull/1/head")
    assert back_up(source, vault).exit_code == 0
    bring_back(vault, tmp_path / "restored")
    (mirror,) = (tmp_path / "restored").glob("*.git")
    assert git("rev-parse", "HEAD", cwd=mirror).strip() == hidden


def test_a_repository_that_returns_and_fails_is_listed_again(source: Path, tmp_path: Path) -> None:
    vault = MemoryDestination()
    init_bare(source / "other.git")
    back_up(source, vault)
    (source / "widgets.git").rename(tmp_path / "away")
    back_up(source, vault, RunOptions(accept_drop=True))
    (tmp_path / "away").rename(source / "widgets.git")
    (source / "widgets.git" / "shallow").write_text("0" * 40 + "\n")
    report = back_up(source, vault)
    assert {one.path: one.status for one in report.outcomes}["widgets"] == "failed"
    assert "widgets" in bring_back(vault, tmp_path / "restored")
