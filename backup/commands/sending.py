"""Sends the files of Git LFS of a restored repository to its new home."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

from backup.commands.retrying import TRIES, repeat
from backup.errors import BackupError, Interrupted
from backup.git.lfs import MOST_AT_ONCE, LfsServer, Upload, file_in
from backup.git.pointers import Pointer
from backup.model import Events
from backup.stopping import Stop
from backup.vault.layout import lfs_key, lfs_oid

T = TypeVar("T")

FILES_AT_ONCE = 4


@dataclass(slots=True)
class SentFiles:
    """What became of the files.

    Attributes:
        sent: so many the remote has now and had not before.
        failed: what could not be sent, with the reason.
    """

    sent: int = 0
    failed: list[str] = field(default_factory=list)


def stored_locally(directory: Path) -> list[Pointer]:
    """List the files that a repository has where git-lfs looks for them.

    Args:
        directory: the bare repository, or the ``.git`` of a working clone.
    """
    return [
        Pointer(path.name, path.stat().st_size)
        for path in sorted((directory / "lfs" / "objects").glob("*/*/*"))
        if lfs_oid(lfs_key(path.name)) and path.is_file()
    ]


class Sending:
    """Sends the files of one repository.

    Args:
        server: where to.
        directory: the repository that has them.
        events: hears of what is tried again.
        stop: ends it.
    """

    def __init__(self, server: LfsServer, directory: Path, *, events: Events, stop: Stop) -> None:
        self._server = server
        self._directory = directory
        self._events = events
        self._stop = stop

    def send(self, pointers: Sequence[Pointer]) -> SentFiles:
        """Send all that the server has not; one that it does not take keeps back no other.

        Raises:
            Interrupted: somebody asked to stop.
        """
        result = SentFiles()
        for start in range(0, len(pointers), MOST_AT_ONCE):
            some = pointers[start : start + MOST_AT_ONCE]
            try:
                uploads = self._repeat(partial(self._server.uploads, some))
            except Interrupted:
                raise
            except BackupError as error:
                left = len(pointers) - start
                result.failed.append(f"{left} files of Git LFS: {error.message}")
                break
            with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
                done = pool.map(self._send_one, some, [uploads[one.oid] for one in some])
                for pointer, sent in zip(some, done, strict=True):
                    if isinstance(sent, BackupError):
                        result.failed.append(f"file {pointer.oid} of Git LFS: {sent.message}")
                    else:
                        result.sent += sent
        return result

    def _send_one(self, pointer: Pointer, first: Upload | BackupError) -> bool | BackupError:
        """Send one, and tell whether the server lacked it, or why it does not take it."""
        left = [first]

        def attempt() -> bool:
            self._stop.check()
            upload = left.pop() if left else self._server.uploads([pointer])[pointer.oid]
            if not isinstance(upload, Upload):
                raise upload
            self._server.send(pointer, upload, file_in(self._directory, pointer.oid))
            return upload.send is not None

        try:
            return self._repeat(attempt)
        except Interrupted:
            raise
        except BackupError as error:
            return error

    def _repeat(self, do: Callable[[], T]) -> T:
        return repeat(do, tries=TRIES, stop=self._stop, again=self._again)

    def _again(self, error: BackupError, seconds: float) -> None:
        self._events.note(f"{error.message}; again in {seconds:.0f} s")
