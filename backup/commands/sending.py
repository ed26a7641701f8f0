"""Sends the files of Git LFS of a restored repository to its new home."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

from backup.commands.retrying import TRIES, repeat
from backup.errors import BackupError, Interrupted
from backup.git.lfs import MOST_AT_ONCE, LfsServer, Upload
from backup.git.pointers import Pointer
from backup.model import Events
from backup.stopping import Stop
from backup.vault.layout import lfs_key, lfs_oid

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


def send_files(
    server: LfsServer,
    directory: Path,
    pointers: Sequence[Pointer],
    *,
    events: Events,
    stop: Stop,
) -> SentFiles:
    """Send all that the server has not; one that it does not take keeps back no other.

    Args:
        server: where to.
        directory: the repository that has them.
        pointers: the files.
        events: hears of what is tried again.
        stop: ends it.

    Raises:
        Interrupted: somebody asked to stop.
    """
    result = SentFiles()

    def again(error: BackupError, seconds: float) -> None:
        events.note(f"{error.message}; again in {seconds:.0f} s")

    def send(pointer: Pointer, first: Upload | BackupError) -> bool:
        """Send one, and tell whether the server lacked it."""
        left = [first]

        def attempt() -> bool:
            stop.check()
            upload = left.pop() if left else server.uploads([pointer])[pointer.oid]
            if not isinstance(upload, Upload):
                raise upload
            path = directory / "lfs" / "objects" / pointer.oid[:2] / pointer.oid[2:4] / pointer.oid
            server.send(pointer, upload, path)
            return upload.send is not None

        return repeat(attempt, tries=TRIES, stop=stop, again=again)

    def try_to_send(pointer: Pointer, first: Upload | BackupError) -> bool | BackupError:
        try:
            return send(pointer, first)
        except Interrupted:
            raise
        except BackupError as error:
            return error

    for start in range(0, len(pointers), MOST_AT_ONCE):
        some = pointers[start : start + MOST_AT_ONCE]
        try:
            uploads = repeat(
                lambda some=some: server.uploads(some),  # type: ignore[misc]
                tries=TRIES,
                stop=stop,
                again=again,
            )
        except Interrupted:
            raise
        except BackupError as error:
            left = len(pointers) - start
            result.failed.append(f"{left} files of Git LFS: {error.message}")
            break
        with ThreadPoolExecutor(FILES_AT_ONCE) as pool:
            done = pool.map(try_to_send, some, [uploads[one.oid] for one in some])
            for pointer, sent in zip(some, done, strict=True):
                if isinstance(sent, BackupError):
                    result.failed.append(f"file {pointer.oid} of Git LFS: {sent.message}")
                else:
                    result.sent += sent
    return result
