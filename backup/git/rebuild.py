"""Building a repository from packs and a ref map: the git side of a restore.

What git says is believed only as long as the folder is as it was left: a file that somebody else
took out of it says nothing of what is stored.
"""

import filecmp
import hashlib
import os
import stat
import zlib
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from backup.errors import (
    BackupError,
    DestinationError,
    RefusedByGit,
    TemporaryFolderError,
)
from backup.git.child import Child
from backup.git.command import (
    PATIENCE_SECONDS,
    GitFailed,
    GitHindered,
    clean_environment,
    is_disk_full,
    make_bare_repository,
    require_unhindered,
    run_git,
)
from backup.git.work import ANOTHER_FOLDER, Kept
from backup.model import ObjectFormat, ObjectId, RefName
from backup.refs import to_bytes
from backup.stopping import Stop

# A restore makes neither; of what they hide, or lies elsewhere, nothing would be read.
_HIDING = ("shallow", "objects/info/alternates")
# What else says of objects what they are may be older than they.
_OBJECTS_ALONE = (("core.commitGraph", "false"), ("core.multiPackIndex", "false"))
_READ_BYTES = 1 << 18


class Rebuild:
    """An empty bare repository that packs are added to, then refs. Used by one thread.

    Args:
        directory: becomes the repository.
        temporary: whether it lies in the temporary folder.

    Raises:
        TemporaryFolderError: here and below, with temporary: somebody took from the folder what
            was put there, or nothing more can be written to it. Without, a DestinationError.
    """

    def __init__(
        self, directory: Path, *, object_format: ObjectFormat, temporary: bool = False, stop: Stop
    ) -> None:
        self._directory = directory
        self._temporary = temporary
        self._stop = stop
        self._kept = Kept(directory, called="the temporary folder" if temporary else "the folder")
        with self._blamed():
            make_bare_repository(directory, object_format=object_format, stop=stop)

    def add_pack(self, pieces: Iterable[bytes], *, connected: bool, where: str) -> None:
        """Index one pack into the repository.

        Args:
            pieces: the pack's bytes; where they are not those that were recorded they end with an
                error that says so, which stands above git's.
            connected: also prove that it names no object that it lacks.
            where: the bundle's URI, for messages.

        Raises:
            GitHindered: the machine kept git from its work.
            MachineLimitReached: there was too little of it for git.
            RefusedByGit: git refused the pack.
        """
        with self._blamed():
            self._add_pack(iter(pieces), connected=connected, where=where)

    def _add_pack(self, pieces: Iterator[bytes], *, connected: bool, where: str) -> None:
        argv: list[str | os.PathLike[str]] = ["git", "-C", self._directory, "index-pack", "--stdin"]
        if connected:
            argv.append("--check-self-contained-and-connected")
        environment = clean_environment(safe_directories=[self._directory])
        size_bytes, answer = 0, b""
        with Child(
            argv, environment=environment, stop=self._stop, patience_seconds=PATIENCE_SECONDS
        ) as child:
            try:
                for data in pieces:
                    self._stop.check()
                    size_bytes += len(data)
                    child.write(data)
                status, answer = child.converse(b"")
            except BrokenPipeError:
                status = child.wait()
            words = child.words()
        if status == 0:
            self._kept.add_pack(answer, size_bytes)
            return
        # Whether these are the bytes that were recorded does not hang on git, nor on the folder.
        for _ in pieces:
            self._stop.check()
        require_unhindered("index-pack", status, words)
        raise RefusedByGit(f"{where} is damaged: git index-pack refused its pack: {words}")

    def prove_connected(self, tips: Iterable[ObjectId]) -> None:
        """Prove that every object the tips reach is there.

        Raises:
            GitHindered: the machine kept git from its work.
            MachineLimitReached: there was too little of it for git.
            RefusedByGit: one is not.
        """
        asked = b"".join(oid.encode() + b"\n" for oid in tips)
        with self._blamed():
            try:
                self._git("rev-list", "--objects", "--quiet", "--stdin", data=asked)
            except GitHindered:
                raise
            except GitFailed as error:
                raise RefusedByGit(
                    f"the chain does not hold all objects: {error.message}"
                ) from error

    @contextmanager
    def _blamed(self) -> Iterator[None]:
        """Blame the folder for what it has lost, whatever git says of the rest.

        Raises:
            TemporaryFolderError: or DestinationError, as the class says.
        """
        try:
            yield
        except (GitFailed, RefusedByGit, OSError) as error:
            words = error.message if isinstance(error, BackupError) else str(error)
            # git may have removed by now what filled the disk.
            if is_disk_full(words):
                raise self._trouble(self._full(self._directory, words)) from error
            if trouble := self._kept.trouble(words):
                raise self._trouble(trouble) from error
            if isinstance(error, OSError):
                raise GitHindered(f"git cannot work in {self._directory}: {words}") from error
            raise
        if lost := self._kept.lost():
            raise self._trouble(lost)

    def _full(self, folder: Path, words: str) -> str:
        # Of a limit for one file (ulimit -f, FAT) there may be any room.
        is_full = "takes no file so large" if "File too large" in words else "is full"
        return f"{self._kept.called} {folder} {is_full}: {words}"

    def _trouble(self, trouble: str) -> BackupError:
        if self._temporary:
            return TemporaryFolderError(trouble, hint=ANOTHER_FOLDER)
        return DestinationError(
            trouble, hint="restore again, to where there is room and nothing clears it"
        )

    def prove_present(self, tips: Iterable[ObjectId]) -> None:
        """Prove that the tips themselves are there.

        Raises:
            RefusedByGit: one is not.
        """
        asked = [*tips]
        with self._blamed():
            answer = self._git(
                *("cat-file", "--batch-check=%(objectname)"),
                data=b"".join(oid.encode() + b"\n" for oid in asked),
            )
            # What is there is answered with its own id and nothing else.
            present = set(answer.decode().splitlines())
            for oid in asked:
                if oid not in present:
                    raise RefusedByGit(f"the chain does not hold {oid}, which a ref points at")

    def set_refs(self, tips: Mapping[RefName, ObjectId]) -> None:
        """Create every ref, and prove that exactly these are there.

        Raises:
            RefusedByGit: git did not keep one of them.
        """
        # Not by update-ref: it refuses a branch that names no commit, which some servers hold.
        # Source: gitrepository-layout(5), packed-refs. git then writes the file anew in its form.
        lines = sorted((to_bytes(name), oid.encode()) for name, oid in tips.items())
        packed = b"".join(b"%b %b\n" % (oid, name) for name, oid in lines)
        with self._blamed():
            (self._directory / "packed-refs").write_bytes(packed)
            # Its form has all these lines, and more.
            self._kept.add("packed-refs", len(packed))
            self._git("pack-refs", "--all")
            if not has_refs(self._directory, tips, stop=self._stop):
                raise RefusedByGit("git did not keep the refs as they were recorded")

    def set_head(self, *, symref: RefName | None, oid: ObjectId | None) -> None:
        """Point HEAD at a ref, which may be unborn, or at an id."""
        with self._blamed():
            if symref is not None:
                self._git("symbolic-ref", "HEAD", os.fsdecode(to_bytes(symref)))
            elif oid is not None:
                self._git("update-ref", "--no-deref", "HEAD", oid)

    def check_out(self, folder: Path) -> None:
        """Make it the repository of a folder, and fill the folder with HEAD's files.

        Where HEAD names no commit the folder stays empty.

        Args:
            folder: the one that this repository is ``.git`` of.

        Raises:
            DestinationError: the disk is full.
            GitFailed: git refuses a file, for its name as a rule.
        """
        self._git("config", "core.bare", "false")
        if _commit_of_head(self._directory, stop=self._stop) is None:
            return
        try:
            run_git("reset", "--quiet", "--hard", directory=folder, stop=self._stop)
        except GitFailed as error:
            if is_disk_full(error.message):
                raise self._trouble(self._full(folder, error.message)) from error
            if trouble := self._kept.trouble():
                raise self._trouble(trouble) from error
            raise GitFailed(
                error.message, hint="without --checkout it comes back as a mirror, files or not"
            ) from error

    def _git(self, *arguments: str, data: bytes = b"") -> bytes:
        return run_git(*arguments, directory=self._directory, stop=self._stop, data=data)


def holds(
    directory: Path,
    tips: Mapping[RefName, ObjectId],
    *,
    symref: RefName | None,
    oid: ObjectId | None,
    stop: Stop,
) -> bool:
    """Tell whether a repository has exactly these refs and this HEAD; False if it is none."""
    try:
        if not has_refs(directory, tips, stop=stop):
            return False
        if symref is not None:
            head = run_git("symbolic-ref", "HEAD", directory=directory, stop=stop)
            return head.rstrip(b"\n") == to_bytes(symref)
        if oid is not None:
            return _id_of_head(directory, stop=stop) == oid
    except GitFailed:
        return False
    return True


def why_not_whole(
    directory: Path, tips: Iterable[ObjectId], *, object_format: ObjectFormat, stop: Stop
) -> str:
    """Return what is wrong with what a repository has of what some tips reach; empty if nothing.

    Every object that git would read is read, and has the content that its id names: of a disk that
    lost some of what was written, git itself notices nothing until it comes to that place. The time
    grows with the size of the repository, the memory does not.

    Args:
        directory: a bare repository, or the ``.git`` of another, that `Rebuild` has made.
        tips: objects that are asked for.
        object_format: of the repository.
        stop: ends it.

    Raises:
        GitHindered: the machine kept git from looking.
        MachineLimitReached: there was too little of it for git.
    """
    objects = directory / "objects"
    for name in _HIDING:
        if (directory / name).exists():
            return f"since it was made it was given {name}"
    asked = b"".join(oid.encode() + b"\n" for oid in tips)
    try:
        for pack in sorted(objects.glob("pack/*.pack")):
            # Named from there, which is where git works.
            name = os.fspath(pack.relative_to(directory))
            run_git("index-pack", "--verify", name, directory=directory, stop=stop)
        for path in sorted(objects.glob("[0-9a-f][0-9a-f]/*")):
            stop.check()
            if not _is_whole(path, object_format):
                return f"{path} is damaged"
        run_git(
            *("rev-list", "--objects", "--quiet", "--stdin"),
            directory=directory,
            stop=stop,
            data=asked,
            environment=clean_environment(safe_directories=[directory], settings=_OBJECTS_ALONE),
        )
    except GitHindered:
        raise
    except GitFailed as error:
        return error.message
    except OSError as error:
        return f"{error.filename} cannot be read: {error.strerror}"
    return ""


def why_not_checked_out(folder: Path, scratch: Path, *, stop: Stop) -> str:
    """Return which file of HEAD is not in a folder as `Rebuild.check_out` puts it; empty if none.

    Other files in the folder are ignored.

    Args:
        folder: that was checked out, whose repository is whole.
        scratch: an empty folder, on the same file system as a rule.
        stop: ends it.

    Raises:
        GitFailed: git cannot compare them.
    """
    if (oid := _commit_of_head(folder / ".git", stop=stop)) is None:
        return ""
    scratch = scratch.absolute()
    # The folder's own index believes times and sizes; with a new one git reads every file.
    index = {"GIT_INDEX_FILE": os.fspath(scratch / "index")}
    environment = clean_environment(safe_directories=[folder]) | index

    def git(*arguments: str, data: bytes = b"") -> bytes:
        return run_git(*arguments, directory=folder, stop=stop, data=data, environment=environment)

    git("read-tree", oid)
    # With -q what differs is no error; it is listed by the next.
    git("update-index", "-q", "--refresh")
    suspects = git("diff-files", "--name-only", "--ignore-submodules=all", "-z")
    if not suspects:
        return ""
    # Some differ to git by their attributes alone (line ends): what counts is what it would write.
    fresh = scratch / "files"
    git("checkout-index", f"--prefix={fresh}/", "-z", "--stdin", data=suspects)
    for name in map(os.fsdecode, suspects.rstrip(b"\0").split(b"\0")):
        stop.check()
        if not _is_same(folder / name, fresh / name):
            return f"{name} is not as it was checked out"
    return ""


def _is_same(one: Path, other: Path) -> bool:
    try:
        if one.is_symlink() or other.is_symlink():
            return one.readlink() == other.readlink()
        if (one.stat().st_mode ^ other.stat().st_mode) & stat.S_IXUSR:
            return False
        return filecmp.cmp(one, other, shallow=False)
    except OSError:
        return False


def _is_whole(path: Path, object_format: ObjectFormat) -> bool:
    """Return whether a loose object is the one that its path names."""
    digest, inflate = hashlib.new(object_format), zlib.decompressobj()
    try:
        with path.open("rb") as file:
            while data := file.read(_READ_BYTES):
                while data and not inflate.eof:
                    digest.update(inflate.decompress(data, _READ_BYTES))
                    data = inflate.unconsumed_tail
        digest.update(inflate.flush())
    except zlib.error:
        return False
    return inflate.eof and digest.hexdigest() == path.parent.name + path.name


def has_refs(directory: Path, tips: Mapping[RefName, ObjectId], *, stop: Stop) -> bool:
    """Tell whether a repository has exactly these refs; HEAD is none of them."""
    listed = run_git(
        "for-each-ref", "--format=%(objectname) %(refname)", directory=directory, stop=stop
    )
    wanted = {b"%b %b" % (oid.encode(), to_bytes(name)) for name, oid in tips.items()}
    return set(listed.split(b"\n")) - {b""} == wanted


def _id_of_head(directory: Path, *, stop: Stop) -> ObjectId | None:
    """Return what HEAD itself points at; None where it is unborn."""
    # Elsewhere git takes a branch called HEAD for it, when there is one and HEAD is unborn.
    try:
        answer = run_git("show-ref", "--verify", "--hash", "HEAD", directory=directory, stop=stop)
    except GitFailed:
        return None
    return ObjectId(answer.decode().strip())


def _commit_of_head(directory: Path, *, stop: Stop) -> ObjectId | None:
    """Return what HEAD points at, where it leads to a commit; None otherwise."""
    if (oid := _id_of_head(directory, stop=stop)) is None:
        return None
    try:
        commit = f"{oid}^{{commit}}"
        run_git("rev-parse", "--quiet", "--verify", commit, directory=directory, stop=stop)
    except GitHindered:
        raise
    except GitFailed:
        return None
    return oid
