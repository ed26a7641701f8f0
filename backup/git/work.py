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
from backup.machine import limit_reached

_PREFIX = ".repo-backup-work-"
# Only a folder that says so of itself is ever removed.
_MARK = "made-by-repo-backup-and-removed-by-it"
ANOTHER_FOLDER = (
    "name another in TMPDIR, one with room that nothing clears while it is used, or make room in it"
)
_TRIED_BYTES = 4096
# As git has it, in English.
_NOT_FOUND = "No such file or directory"
_FULL = {errno.ENOSPC, errno.EDQUOT}
_MODE = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW


@contextmanager
def work_folder() -> Iterator[Path]:
    """Make the folder, and remove it with all it holds.

    Raises:
        TemporaryFolderError: there is no place for it.
        MachineLimitReached: it cannot be made now, and the place is not to blame.
    """
    try:
        above = Path(tempfile.gettempdir())
        _remove_abandoned(above)
        folder, lock = _make_locked(above)
    except OSError as error:
        if limit := limit_reached(error):
            raise limit from error
        # Not set where Python finds none.
        named = f" {tempfile.tempdir}" if tempfile.tempdir else ""
        raise TemporaryFolderError(
            f"the temporary folder{named} cannot be used: {error.strerror}", hint=ANOTHER_FOLDER
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def named_but_unusable() -> str:
    """Say that another folder is used than TMPDIR names; empty where none is, or that one."""
    # Source: Python's tempfile, _candidate_tempdir_list and _get_default_tempdir.
    for name in ("TMPDIR", "TEMP", "TMP"):
        if not (named := os.environ.get(name)):
            continue
        try:
            used = tempfile.gettempdir()
        except OSError as error:
            return (
                f"{name} names {named}, which cannot be used, and there is no other temporary "
                f"folder: {error.strerror}"
            )
        if used == os.path.abspath(named):  # noqa: PTH100  as tempfile has it; links stay
            return ""
        return f"{name} names {named}, which cannot be used: {used} is used instead"
    return ""


def trouble_with(folder: Path, *, called: str = "the temporary folder") -> str:
    """Say why nothing more can be written in a folder of ours; empty where it can.

    Raises:
        MachineLimitReached: that cannot be tried now, and the folder is not to blame.
    """
    named = f"{called} {folder}"
    if not os.path.lexists(folder):
        return f"{named} is gone"
    if not folder.is_dir():
        return f"{named} is no folder any more"
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(bytes(_TRIED_BYTES))
    except OSError as error:
        if limit := limit_reached(error):
            raise limit from error
        if error.errno in _FULL:
            return f"{named} is full"
        return f"{named} cannot be written any more: {error.strerror}"
    return ""


class Kept:
    """What must be in a repository of ours as long as nobody else takes anything out of it.

    A cleaner of temporary folders deletes files one by one, by their age. What git says of the rest
    is no word about the repository.

    Args:
        repository: a bare one that git has just made.
        called: what messages call it.
    """

    def __init__(self, repository: Path, *, called: str = "the temporary folder") -> None:
        self.repository = repository
        self.called = called
        # Without these git takes it for no repository. Source: gitrepository-layout(5).
        self._least_bytes = {"HEAD": 1, "config": 1, "objects": 0, "refs": 0}

    def add(self, name: str, least_bytes: int) -> None:
        """Note what is there from now on.

        Args:
            name: its path in the repository.
            least_bytes: its size, or what it does not fall below.
        """
        self._least_bytes[name] = least_bytes

    def add_pack(self, answer: bytes, size_bytes: int) -> None:
        """Note a pack that ``git index-pack --stdin`` took.

        Args:
            answer: what it said on stdout.
            size_bytes: of the pack.
        """
        # Source: git-index-pack(1): "pack", a tab, and the name.
        name = answer.decode("ascii", "replace").strip().rpartition("\t")[2]
        self.add(f"objects/pack/pack-{name}.pack", size_bytes)
        self.add(f"objects/pack/pack-{name}.idx", 1)

    def trouble(self, words: str = "") -> str:
        """Say what is wrong with the repository's folder; empty where it is as we left it.

        Args:
            words: with which git failed.
        """
        if trouble := trouble_with(self.repository, called=self.called):
            return trouble
        if lost := self.lost():
            return lost
        # What git was still writing. Of the content of a pack it never says so.
        if _NOT_FOUND in words:
            return f"{self.called} {self.repository} has lost what git was at work on"
        return ""

    def lost(self) -> str:
        """Say what was taken out of the repository; empty where everything is there."""
        named = f"{self.called} {self.repository}"
        for name, least_bytes in self._least_bytes.items():
            try:
                status = (self.repository / name).stat()
            except OSError as error:
                return f"{named} has lost {name}: {error.strerror}"
            if status.st_size < least_bytes:
                return f"{named} has lost {name}: it has {status.st_size} bytes"
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
