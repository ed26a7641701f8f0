"""A destination in a folder of this machine, on any file system.

A key is the object's path below the root, so that plain tools read the vault. Objects are regular
files; symbolic links below the root are neither followed nor listed, while the root itself may be
one. Names that are no keys (another program's files) are left alone and never listed.

An object is written to ``.partial/`` below the root and gets its name when it is whole, by an
operation that cannot replace. While it is written it is locked, so that another process can tell
a living writer's file from one that a killed process left behind.

Keys are exact also where the file system ignores letter case (taken to be the same for the whole
folder): an object is found under its own spelling alone, and one whose name could not be told
from a present one is refused. Permissions of new files and folders are the umask's affair.
"""

import errno
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from datetime import UTC, datetime
from io import FileIO
from itertools import accumulate
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from threading import Lock
from types import TracebackType
from typing import BinaryIO, Self
from uuid import uuid4

from backup.destinations.folder.failures import deleting, reading, write_error, writing
from backup.errors import DestinationError, IncompleteWrite, ObjectNotFound, WriteConflict
from backup.keys import check_key, check_prefix, is_segment
from backup.model import ArchivedObject, Key, ObjectVersions, Reader, StoredObject, Writer

# Inside the class, list is a method.
_Names = list[str]

_PARTIAL = ".partial"
_PROBE = ".probe-"

# Times that a folder may be pruned by another process between its making and its first object.
_PUBLISH_ATTEMPTS = 20

_NO_HARD_LINKS = {errno.EPERM, errno.ENOSYS, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP}
_NO_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS}


class _FolderReader:
    """Knows the object's size, so that a file cut while it is read is no end."""

    def __init__(self, file: BinaryIO, *, uri: str, remaining: int) -> None:
        self._file = file
        self._uri = uri
        self._remaining = remaining

    def read(self, size: int = -1, /) -> bytes:
        wanted = self._remaining if size < 0 else min(size, self._remaining)
        with reading(self._uri):
            data = self._file.read(wanted)
        self._remaining -= len(data)
        if len(data) < wanted:
            raise DestinationError(f"{self._uri} broke off {self._remaining} bytes before its end")
        return data

    def close(self) -> None:
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        self.close()


class _FolderWriter:
    """Writes through to a locked temporary file, without a buffer of its own."""

    def __init__(
        self, file: FileIO, *, key: Key, uri: str, publish: Callable[[Path, Key], None]
    ) -> None:
        self._file: FileIO | None = file
        self._temporary = Path(str(file.name))
        self._key = key
        self._uri = uri
        self._publish = publish
        self._size_bytes = 0
        self._failure: DestinationError | None = None

    def write(self, data: bytes | bytearray | memoryview, /) -> None:
        file = self._unfinished()
        try:
            written = file.write(data)
            self._size_bytes += written
            size_bytes = memoryview(data).nbytes
            while written < size_bytes:
                more = file.write(memoryview(data).cast("B")[written:])
                written += more
                self._size_bytes += more
        except OSError as error:
            self.abort()
            self._failure = write_error(error, f"{self._uri} could not be stored")
            raise self._failure from error

    def commit(self, *, sha256: str | None = None) -> StoredObject:
        file = self._unfinished()
        try:
            with writing(self._uri):
                _sync(file.fileno())
                self._publish(self._temporary, self._key)
        except WriteConflict:
            # A try before this one may have come as far as here, and failed at the record.
            if sha256 is None or sha256 != self._stored_sha256():
                raise
        finally:
            self.abort()
        return StoredObject(self._key, self._size_bytes)

    def abort(self) -> None:
        if self._file is None:
            return
        file, self._file = self._file, None
        # Still locked, so that nobody else takes the file for a left-over in between.
        with suppress(OSError):
            self._temporary.unlink()
        with suppress(OSError):
            file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        self.abort()

    def _stored_sha256(self) -> str:
        with reading(self._uri), Path(self._uri).open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    def _unfinished(self) -> FileIO:
        if self._failure is not None:
            raise type(self._failure)(self._failure.message, hint=self._failure.hint)
        if self._file is None:
            raise ValueError(f"the writer of {self._uri} is finished")
        return self._file


class FolderDestination:
    """Keeps objects as files below a folder; see `backup.model.Destination` for the promises.

    A full disk, quota or file size limit is IncompleteWrite with a hint, a read-only place
    AccessDenied, a name longer than the file system takes a DestinationError at `writer`. What
    was committed or deleted outlasts a power cut: files and changed folders are synced.

    Args:
        root: may be missing: it then reads as empty, and the first writer makes it.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._partial = self._root / _PARTIAL
        self._lock = Lock()
        # Of the file system that it was prepared on.
        self._device: int | None = None
        self._durable_folders: set[Path] = set()

    @property
    def listing_is_local(self) -> bool:
        return True

    @property
    def keeps_time(self) -> bool:
        # Anyone who may write a file may set its time, and copying tools do.
        return False

    def uri(self, key: str) -> str:
        """Return the absolute path of the object's file."""
        return f"{self._root}/{key}"

    def writer(self, key: Key) -> Writer:
        """Begin an object; the first call also clears what killed processes left behind.

        Raises:
            DestinationError: the file system has no room for a name as long as the key.
        """
        _check_key(key)
        with writing(self.uri(key)):
            self._prepare()
            self._check_length(key)
            file = _open_locked(self._partial)
        return _FolderWriter(file, key=key, uri=self.uri(key), publish=self._publish)

    def probe(self, key: Key) -> str:
        """Write a file and name it as objects are named, in a folder that key's object needs.

        That is the deepest one that is there; none is made.
        """
        _check_key(key)
        folder = self._path(key).parent
        while not os.path.lexists(folder):
            folder = folder.parent
        _try_folder(folder)
        if self._partial.is_dir():
            _try_folder(self._partial)
        return ""

    def put_if_absent(self, key: Key, data: bytes) -> StoredObject:
        try:
            with self.writer(key) as writer:
                writer.write(data)
                return writer.commit()
        except WriteConflict as conflict:
            if not self._holds(key, data):
                raise WriteConflict(f"{self.uri(key)} exists with other content") from conflict
        # Whoever wrote it may not have come to this yet.
        with writing(self.uri(key)):
            _sync_folder(self._path(key).parent)
        return StoredObject(key, len(data))

    def versions(self, prefix: str) -> Iterator[ObjectVersions]:
        return iter(())

    def open(self, key: Key, *, offset: int = 0, version: str | None = None) -> Reader:
        """Read an object from offset on.

        Raises:
            DestinationError: the object ends before offset; its end itself reads as empty.
        """
        if offset < 0:
            raise ValueError(f"offset {offset} is negative")
        size_bytes = self.stat(key).size_bytes
        if offset > size_bytes:
            raise DestinationError(f"{self.uri(key)} ends at byte {size_bytes}, before {offset}")
        with reading(self.uri(key)):
            file = self._path(key).open("rb")
            file.seek(offset)
        return _FolderReader(file, uri=self.uri(key), remaining=size_bytes - offset)

    def stat(self, key: Key) -> StoredObject:
        _check_key(key)
        with reading(self.uri(key)):
            status = self._look_up(key)
        if status is None or not S_ISREG(status.st_mode):
            raise ObjectNotFound(f"{self.uri(key)} does not exist")
        return StoredObject(key, status.st_size, stored_at=_stored_at(status))

    def list(self, prefix: str, *, versions: bool = False) -> Iterator[StoredObject]:
        """Yield the objects below prefix by the byte order of their keys.

        Holds the names in the folders that it is in, never the whole tree. A folder or object
        that vanishes meanwhile is left out; one that may not be read is AccessDenied.
        """
        check_prefix(prefix)
        return self._walk(prefix)

    def children(self, prefix: str, *, hidden: bool = False) -> tuple[str, ...]:
        """Name the folders below prefix that hold an object at any depth."""
        check_prefix(prefix)
        folders = [name for name in self._names_at(prefix) if name.endswith("/")]
        filled = (name for name in folders if next(self._walk(name), None) is not None)
        return tuple(sorted(name.removeprefix(prefix)[:-1] for name in filled))

    def archived(self, keys: Iterable[Key]) -> Iterator[ArchivedObject]:
        return iter(())

    def upload_url(self, key: Key, *, content_type: str, seconds: int) -> None:
        return None

    def delete(self, keys: Iterable[Key]) -> bool:
        """Remove objects and the folders that this leaves empty, but never the root."""
        changed = set()
        for key in keys:
            _check_key(key)
            with deleting(self.uri(key)):
                status = self._look_up(key)
                if status is None or not S_ISREG(status.st_mode):
                    continue
                with suppress(FileNotFoundError):
                    self._path(key).unlink()
                changed.add(self._remove_empty_parents(key))
        for folder in sorted(changed):
            # Another process may have gone on and removed it.
            with deleting(str(folder)), suppress(FileNotFoundError):
                _sync_folder(folder)
        return False

    def renew_lock(self, key: Key, *, version: str | None) -> None:
        return None

    def locked_until(self, keys: Iterable[Key]) -> dict[Key, datetime]:
        return {}

    def now(self) -> datetime | None:
        """Return the time that a new file gets; None where none can be made.

        On a network file system that is the server's clock. Nothing in the folder changes, but
        where the file system has no files without a name: there it is one that is removed at once.
        """
        with suppress(OSError), closing(self._open_unnamed()) as file:
            return _stored_at(os.fstat(file.fileno()))
        path = self._partial / uuid4().hex
        with suppress(OSError), FileIO(str(path), "x") as file:
            path.unlink(missing_ok=True)
            return _stored_at(os.fstat(file.fileno()))
        return None

    def _open_unnamed(self) -> FileIO:
        """Open a file that has no name and is gone when it is closed (open(2), O_TMPFILE)."""
        flag = getattr(os, "O_TMPFILE", None)
        if flag is None:
            raise OSError(errno.ENOTSUP, os.strerror(errno.ENOTSUP))
        return FileIO(os.open(self._root, os.O_WRONLY | flag, 0o600), "w")

    def abort_uploads(self, *, older_than: datetime) -> int:
        """Do nothing: every writer removes what dead ones left, whatever its age."""
        return 0

    def _path(self, name: str) -> Path:
        return self._root / name

    def _look_up(self, name: str) -> os.stat_result | None:
        """Find what has exactly this name below the root, with no link on the way."""
        status = None
        for part in accumulate(name.split("/"), "{}/{}".format):
            if status is not None and not S_ISDIR(status.st_mode):
                return None
            try:
                status = os.lstat(self.uri(part))
            except FileNotFoundError:
                return None
            except OSError as error:
                if error.errno == errno.ENAMETOOLONG:
                    return None
                raise
        return status if self._is_spelled_so(name) else None

    def _is_spelled_so(self, name: str) -> bool:
        """Tell a present name from one that a file system without letter case takes for it."""
        other = name.swapcase()
        if other == name:
            return True
        try:
            if not os.path.samestat(os.lstat(self.uri(name)), os.lstat(self.uri(other))):
                return True
        except OSError:
            return True
        folder = self._root
        for segment in name.split("/"):
            if all(path.name != segment for path in folder.iterdir()):
                return False
            folder /= segment
        return True

    def _walk(self, prefix: str) -> Iterator[StoredObject]:
        pending = self._names_at(prefix)
        while pending:
            name = pending.pop()
            if name.endswith("/"):
                pending += self._names_in(name)
                continue
            try:
                with reading(self.uri(name)):
                    status = os.lstat(self.uri(name))
            except ObjectNotFound:
                continue
            yield StoredObject(Key(name), status.st_size, stored_at=_stored_at(status))

    def _names_at(self, prefix: str) -> _Names:
        """Name what is in the folder of prefix, if there is such a folder; see `_names_in`."""
        if prefix:
            with reading(self.uri(prefix)):
                status = self._look_up(prefix[:-1])
            if status is None or not S_ISDIR(status.st_mode):
                return []
        return self._names_in(prefix)

    def _names_in(self, folder: str) -> _Names:
        """Name objects and folders in a folder, the last first.

        A folder's name ends in a slash, which puts it where the keys below it belong.
        """
        names = []
        try:
            with reading(self.uri(folder)), os.scandir(self.uri(folder)) as entries:
                for entry in entries:
                    if not is_segment(entry.name) or _is_reserved(folder + entry.name):
                        continue
                    if entry.is_dir(follow_symlinks=False):
                        names.append(f"{folder}{entry.name}/")
                    elif entry.is_file(follow_symlinks=False):
                        names.append(folder + entry.name)
        except ObjectNotFound:
            return []
        return sorted(names, reverse=True)

    def _prepare(self) -> None:
        """Make the root and clear what killed processes left, once."""
        with self._lock:
            if self._device is not None:
                self._require_same_disk()
                return
            missing = []
            folder = self._root
            while not folder.exists():
                missing.append(folder)
                folder = folder.parent
            for folder in reversed(missing):
                folder.mkdir(exist_ok=True)
                _sync_folder(folder.parent)
            self._make_folders(_PARTIAL)
            _remove_left_overs(self._partial.iterdir())
            self._device = self._root.stat().st_dev

    def _require_same_disk(self) -> None:
        """Refuse to go on in the folder below a mount point whose disk went away.

        What the run stored until then is not there, and must not be named by what it stores next.
        """
        if self._root.stat().st_dev != self._device:
            raise DestinationError(
                f"{self._root} lies on another file system than when this began",
                hint="mount the disk of the vault again; the next run goes on there",
            )

    def _check_length(self, key: Key) -> None:
        longest_segment = os.pathconf(self._root, "PC_NAME_MAX")
        for segment in key.split("/"):
            if len(segment) > longest_segment:
                raise DestinationError(
                    f"{self.uri(key)} could not be stored: a name of {len(segment)} bytes, where"
                    f" the file system takes {longest_segment}"
                )
        # The limit counts the zero byte at the end.
        longest_path = os.pathconf(self._root, "PC_PATH_MAX") - 1
        if len(os.fsencode(self.uri(key))) > longest_path:
            raise DestinationError(
                f"{self.uri(key)} could not be stored: its path is longer than the {longest_path}"
                " bytes that the system takes",
                hint="choose a folder with a shorter path",
            )

    def _publish(self, temporary: Path, key: Key) -> None:
        """Give a whole temporary file its name, durably; on any error nothing has that name."""
        target = self._path(key)
        try:
            self._require_same_disk()
            self._name(temporary, key)
            try:
                _sync_folder(target.parent)
            except BaseException:
                with suppress(OSError):
                    target.unlink()
                raise
        except BaseException:
            self._remove_empty_parents(key)
            raise

    def _name(self, temporary: Path, key: Key) -> None:
        target = self._path(key)
        for _ in range(_PUBLISH_ATTEMPTS):
            try:
                self._make_folders(*key.split("/")[:-1])
                _name_without_replacing(temporary, target)
            except FileExistsError as error:
                raise self._conflict(key) from error
            except FileNotFoundError:
                # Somebody removed a folder that was empty so far.
                self._durable_folders.clear()
            else:
                return
        raise IncompleteWrite(f"{target} could not be stored: its folder vanishes again and again")

    def _make_folders(self, *segments: str) -> None:
        """Make the folders below the root that lead there, durably.

        One that exists may be another thread's that is not durable yet, so each is synced the
        first time it is seen.
        """
        for name in accumulate(segments, "{}/{}".format):
            folder = self._path(name)
            if folder in self._durable_folders:
                continue
            with suppress(FileExistsError):
                folder.mkdir()
            if not S_ISDIR(folder.lstat().st_mode):
                raise DestinationError(f"{folder} is no folder, so nothing can be stored below it")
            if not self._is_spelled_so(name):
                raise _letter_case_error(str(folder))
            _sync_folder(folder.parent)
            self._durable_folders.add(folder)

    def _conflict(self, key: Key) -> DestinationError:
        """Say why a name is taken."""
        status = self._look_up(key)
        if status is None:
            return _letter_case_error(self.uri(key))
        if not S_ISREG(status.st_mode):
            return DestinationError(f"{self.uri(key)} is no file, so no object can be stored there")
        return WriteConflict(f"{self.uri(key)} exists already")

    def _holds(self, key: Key, data: bytes) -> bool:
        try:
            if self.stat(key).size_bytes != len(data):
                return False
            with self.open(key) as reader:
                return reader.read() == data
        except ObjectNotFound:
            return False

    def _remove_empty_parents(self, key: Key) -> Path:
        """Remove the folders that key's object left empty; return the first that stays."""
        folder = self._path(key).parent
        while folder != self._root:
            try:
                folder.rmdir()
            except FileNotFoundError:
                pass
            except OSError:
                break
            self._durable_folders.discard(folder)
            folder = folder.parent
        return folder


def _check_key(key: Key) -> None:
    check_key(key)
    if _is_reserved(key):
        raise ValueError(f"{key!r} is no key: it is the name of what is being written or tried")


def _is_reserved(name: str) -> bool:
    # In any letter case, since the file system may not tell them apart.
    first, last = name.split("/", 1)[0].lower(), name.rpartition("/")[2].lower()
    return first == _PARTIAL or last.startswith(_PROBE)


def _open_locked(folder: Path, prefix: str = "") -> FileIO:
    """Make a file of no other name, which nobody takes for a left-over while it is open."""
    while True:
        file = FileIO(str(folder / f"{prefix}{uuid4().hex}"), "x")
        # Without locks nobody can have this one either, and so nobody removes the file.
        with suppress(OSError):
            fcntl.flock(file.fileno(), fcntl.LOCK_EX)
        if os.fstat(file.fileno()).st_nlink:
            return file
        # Another process cleared it in the moment before the lock.
        file.close()


def _remove_left_overs(paths: Iterable[Path]) -> None:
    """Remove those of our files that no living process holds a lock on."""
    for path in paths:
        # Locked, without locks, or somebody else's: it stays.
        with suppress(OSError):
            descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink()
            finally:
                os.close(descriptor)


def _name_without_replacing(temporary: Path, target: Path) -> None:
    """Give a file its final name.

    Raises:
        FileExistsError: something has that name; it is untouched.
    """
    try:
        os.link(temporary, target)
    except FileExistsError:
        # NFS repeats a request whose answer was lost, and then refuses what it has done itself.
        if not os.path.samestat(temporary.lstat(), target.lstat()):
            raise
        return
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
    else:
        return
    # Renaming replaces. All who come here take turns, so that the look before it is still true.
    descriptor = os.open(temporary.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError as error:
            raise DestinationError(
                f"{target} could not be stored: the file system has neither hard links nor locks",
                hint="choose a folder on another file system",
            ) from error
        if os.path.lexists(target):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(target))
        temporary.rename(target)
    finally:
        os.close(descriptor)


def _try_folder(folder: Path) -> None:
    """Write a file in a folder as objects are written, and remove it.

    What a process left that was killed at this is removed as well.

    Raises:
        DestinationError: that cannot be done.
    """
    _remove_left_overs(folder.glob(f"{_PROBE}{'[0-9a-f]' * 32}"))
    named = folder / f"{_PROBE}{uuid4().hex}"
    try:
        with _open_locked(folder, _PROBE) as file:
            written = Path(str(file.name))
            try:
                file.write(b"\0")
                _sync(file.fileno())
                _name_without_replacing(written, named)
            finally:
                for path in (written, named):
                    with suppress(OSError):
                        path.unlink()
    except OSError as error:
        raise write_error(error, f"{folder} cannot be written") from error


def _stored_at(status: os.stat_result) -> datetime:
    return datetime.fromtimestamp(status.st_mtime, UTC)


def _sync(descriptor: int) -> None:
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some network file systems have no such thing and are as durable as they are.
        if error.errno not in _NO_SYNC:
            raise


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def _letter_case_error(path: str) -> DestinationError:
    return DestinationError(
        f"{path} could not be stored: the file system takes it for a present name in other"
        " letter case",
        hint="choose a folder on a file system that tells upper from lower case",
    )
