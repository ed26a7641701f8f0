"""File systems that lack what others have: modes, syncing, locks (SMB, exFAT, FUSE, NFS 4)."""

import errno
import fcntl
import os
import stat
import tempfile
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from backup.commands.restore import RestoreRequest, restore
from backup.commands.verify import VerifyRequest, verify
from backup.destinations.folder import FolderDestination
from backup.errors import BackupError
from backup.results import RestoreReport
from backup.sources.plain import FolderSource
from backup.stopping import Stop
from tests.support.git import commit_chain, init_bare, update_refs
from tests.support.mirrors import assert_same_mirror
from tests.support.vaults import Silence, run_at, to_be_kept


def no_modes(monkeypatch: pytest.MonkeyPatch) -> None:
    def chmod(self: Path, mode: int, **_more: Any) -> None:
        raise PermissionError(errno.EPERM, os.strerror(errno.EPERM), str(self))

    monkeypatch.setattr(Path, "chmod", chmod)


def no_syncing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fsync(_descriptor: int) -> None:
        raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))

    monkeypatch.setattr(os, "fsync", fsync)


def no_locks_of_folders(monkeypatch: pytest.MonkeyPatch) -> None:
    honest = fcntl.flock

    def flock(descriptor: int, operation: int) -> None:
        # Source: fcntl(2), F_SETLK: exclusive ones need a descriptor that is open for writing.
        if stat.S_ISDIR(os.fstat(descriptor).st_mode) and operation & fcntl.LOCK_EX:
            raise OSError(errno.EBADF, os.strerror(errno.EBADF))
        honest(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", flock)


def no_locks(monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(_descriptor: int, _operation: int) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", flock)


@pytest.fixture(autouse=True)
def _temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Give a temporary folder that is on the same file system for all who use it."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))


@pytest.fixture
def source(tmp_path: Path) -> FolderSource:
    for name in ("one", "two"):
        path = init_bare(tmp_path / "acme" / f"{name}.git")
        update_refs(path, {b"refs/heads/main": commit_chain(path, 3, label=name.encode())[-1]})
    return FolderSource(tmp_path / "acme", owner="acme")


def give_back(vault: FolderDestination, target: Path, name: str | None) -> RestoreReport:
    request = RestoreRequest(repository=name, all=name is None, at=None, target=target)
    return restore(vault, request, events=Silence(), stop=Stop())


@pytest.mark.parametrize("lacks", [no_modes, no_syncing, no_locks_of_folders, no_locks])
def test_runs_and_restores_go_on(
    lacks: Callable[[pytest.MonkeyPatch], None],
    source: FolderSource,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    lacks(monkeypatch)
    vault = FolderDestination(tmp_path / "vault")
    for _ in range(2):
        assert run_at(datetime.now(UTC), source, vault).exit_code == 0
    request = VerifyRequest("restore")
    assert verify(vault, request, events=Silence(), stop=Stop()).exit_code == 0
    assert give_back(vault, tmp_path / "one.git", "one").exit_code == 0
    assert give_back(vault, tmp_path / "all", None).exit_code == 0
    for path in (tmp_path / "one.git", tmp_path / "all" / "one.git"):
        assert_same_mirror(path, to_be_kept(tmp_path / "acme" / "one.git"))


def test_what_a_disk_could_not_keep_is_not_there(
    source: FolderSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that can sync and fails to is no file system that has no such thing."""

    def fsync(_descriptor: int) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "fsync", fsync)
    vault = FolderDestination(tmp_path / "vault")
    with pytest.raises(BackupError, match="Input/output error"):
        run_at(datetime.now(UTC), source, vault)
    monkeypatch.undo()
    assert [*vault.list("")] == []
