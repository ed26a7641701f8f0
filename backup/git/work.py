"""A process's own folder in the system's temporary folder, gone when the process is.

It is locked while the process lives, however that ends: what a killed process left behind is
removed by the next one, and what a living process works in never is.
"""

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from backup.errors import TemporaryFolderError

_PREFIX = ".repo-backup-work-"
# Only a folder that says so of itself is ever removed.
_MARK = "made-by-repo-backup-and-removed-by-it"
ANOTHER_FOLDER = (
    "name another in TMPDIR, one with room that nothing clears while it is used, or make room in it"
)
_TRIED_BYTES = 4096
_FULL = {errno.ENOSPC, errno.EDQUOT}
_MODE = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


@contextmanager
def work_folder() -> Iterator[Path]:
    """Make the folder, and remove it with all it holds.

    Raises:
        TemporaryFolderError: there is no place for it.
    """
    try:
        above = Path(tempfile.gettempdir())
        _remove_abandoned(above)
        folder, lock = _make_locked(above)
    except OSError as error:
        raise TemporaryFolderError(
            f"the temporary folder cannot be used: {error.strerror}", hint=ANOTHER_FOLDER
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def trouble_with(folder: Path, *, called: str = "the temporary folder") -> str:
    """Say why nothing more can be written in a folder of ours; empty where it can."""
    named = f"{called} {folder}"
    if not os.path.lexists(folder):
        return f"{named} is gone"
    if not folder.is_dir():
        return f"{named} is no folder any more"
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_TRIED_BYTES))
    except OSError as error:
        if error.errno in _FULL:
            return f"{named} is full"
        return f"{named} cannot be written any more: {error.strerror}"
    return ""


def _make_locked(above: Path) -> tuple[Path, int]:
    while True:
        folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=above))
        # In the moment before the lock another process may take it for an abandoned one.
        with suppress(FileNotFoundError):
            lock = os.open(folder, _MODE)
            with suppress(OSError):
                # Without locks nobody removes anything.
                fcntl.flock(lock, fcntl.LOCK_EX)
            if folder.exists():
                (folder / _MARK).touch()
                return folder, lock
            os.close(lock)


def _remove_abandoned(above: Path) -> None:
    for folder in above.glob(f"{_PREFIX}*"):
        # Locked, somebody else's, or no folder: it stays.
        with suppress(OSError):
            lock = os.open(folder, _MODE)
            try:
                if os.fstat(lock).st_uid == os.geteuid() and (folder / _MARK).is_file():
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
