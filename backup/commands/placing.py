"""Where restored repositories are put: nothing has the name asked for before it is whole."""

import errno
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from backup.commands.finding import Found
from backup.errors import ConfigError, DestinationError
from backup.vault.layout import escape_segment

# In the folder of a restore of several, for as long as it is not done.
WORKPLACE = ".repo-backup-restore"
_VAULT = "vault"
_LOCK = "lock"
# File systems of the network that know no locks at all.
_NO_LOCKS = {errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.ENOLCK, errno.EBADF, errno.EINVAL}


def require_free(target: Path) -> None:
    """Refuse a target that holds anything.

    Raises:
        ConfigError: it does.
    """
    if target.is_dir() and not any(target.iterdir()):
        return
    if target.exists() or target.is_symlink():
        raise ConfigError(
            f"TARGET: {target} exists already", hint="name a folder that does not exist or is empty"
        )


@contextmanager
def half_made_beside(target: Path) -> Iterator[Path]:
    """Make a folder on the target's file system that is removed unless it was moved away."""
    with _half_made(target.parent, prefix=f".{target.name[:100]}.") as folder:
        yield folder


class Workplace:
    """A folder in which several repositories are restored, now or by going on another time.

    Half-made ones lie in a folder of their own inside it, which is there for as long as the restore
    is not done: by it another restore knows that everything beside it is whole and its own to keep.

    Args:
        target: the folder for the repositories; new, empty, or left by a restore that broke off.
        vault: where they come from; a restore goes on from the same vault alone.
    """

    def __init__(self, target: Path, *, vault: str) -> None:
        self._target = target
        self._folder = target / WORKPLACE
        self._vault = vault
        self._lock: int | None = None

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Claim the folder, and let go of it at the end; what is whole stays either way.

        Raises:
            ConfigError: the target holds something else, or another restore is at work in it.
            DestinationError: it cannot be written to.
        """
        if not self._folder.is_dir():
            require_free(self._target)
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            self._claim()
        except OSError as error:
            raise _unwritable(self._target, error) from error
        try:
            yield
        finally:
            if self._lock is not None:
                os.close(self._lock)

    @contextmanager
    def half_made(self) -> Iterator[Path]:
        """Make a folder that is removed unless it was moved away."""
        with _half_made(self._folder, prefix="half-made-") as folder:
            yield folder

    def done(self) -> None:
        """Say that everything asked for is there, so that nothing is left to go on with."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _claim(self) -> None:
        # A file: over NFS 4 no folder can be locked.
        place = self._folder / _LOCK
        self._lock = os.open(place, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            # Ends with the process, whatever ends it.
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"TARGET: another restore is at work in {self._target}") from error
        except OSError as error:
            # Two at once would each make the whole of it; what is done has its place once.
            if error.errno not in _NO_LOCKS:
                raise
        note = self._folder / _VAULT
        begun = note.read_text("utf-8", "surrogateescape") if note.exists() else self._vault
        if begun != self._vault:
            raise ConfigError(
                f"TARGET: {self._target} holds a restore of {begun} that is not done",
                hint="go on with the same --from, or name another folder",
            )
        for left in self._folder.glob("half-made-*"):
            shutil.rmtree(left, ignore_errors=True)
        if not note.exists():
            # A full disk must leave no other name, which nothing would ever go on with.
            partial = self._folder / f"{_VAULT}.partial"
            partial.write_text(self._vault, "utf-8", "surrogateescape")
            partial.replace(note)


def move_into_place(folder: Path, target: Path) -> None:
    """Give a folder that is whole its name.

    Raises:
        DestinationError: something else has that name.
    """
    # mkdtemp makes folders for their owner alone; a restored one is like any other.
    umask = os.umask(0)
    os.umask(umask)
    with suppress(PermissionError, NotADirectoryError):
        # Where files have no modes (SMB, exFAT), the folder has the one that all have there.
        folder.chmod(0o777 & ~umask)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Succeeds over an empty folder, fails over any other.
        folder.rename(target)
    except OSError as error:
        raise DestinationError(f"TARGET: {target} is in use: {error.strerror}") from error


def places(chosen: Sequence[Found], target: Path, *, ending: str) -> Iterator[tuple[Found, Path]]:
    """Give every repository a path of its own below target, on any file system.

    Names that differ in case alone, or of which one would lie inside another, get the id added.
    """
    several = len({found.layout for found in chosen}) > 1
    taken: set[str] = set()
    for found in sorted(chosen, key=lambda one: (one.name, one.entry.host_id)):
        segments = [escape_segment(segment) for segment in found.entry.path.split("/")]
        if several:
            segments = [escape_segment(found.host), escape_segment(found.owner), *segments]
        place = "/".join(segments)
        if _collides(f"{place}{ending}".casefold(), taken):
            place = _beside(place, taken, f"~{escape_segment(found.entry.host_id)}")
        taken.add(f"{place}{ending}".casefold())
        yield found, target / f"{place}{ending}"


def _beside(place: str, taken: set[str], mark: str) -> str:
    """Mark the segment by which a place lies inside another one, or is the same."""
    parts = place.split("/")
    for depth in range(1, len(parts)):
        if "/".join(parts[:depth]).casefold() in taken:
            parts[depth - 1] += mark
            return "/".join(parts)
    return place + mark


def _collides(name: str, taken: set[str]) -> bool:
    if name in taken:
        return True
    parts = name.split("/")
    above = {"/".join(parts[:depth]) for depth in range(1, len(parts))}
    return not above.isdisjoint(taken) or any(one.startswith(f"{name}/") for one in taken)


@contextmanager
def _half_made(parent: Path, *, prefix: str) -> Iterator[Path]:
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=prefix, dir=parent))
    except OSError as error:
        raise _unwritable(parent, error) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _unwritable(folder: Path, error: OSError) -> DestinationError:
    return DestinationError(f"TARGET: {folder} cannot be written to: {error.strerror}")
