"""Building a repository from packs and a ref map: the git side of a restore."""

import os
from collections.abc import Iterable, Mapping
from pathlib import Path

from backup.errors import BrokenChain, DamagedDocument, DestinationError
from backup.git.child import Child
from backup.git.command import (
    PATIENCE_SECONDS,
    GitFailed,
    clean_environment,
    is_disk_full,
    make_bare_repository,
    run_git,
)
from backup.git.work import trouble_with
from backup.model import ObjectFormat, ObjectId, RefName
from backup.refs import to_bytes
from backup.stopping import Stop


class Rebuild:
    """An empty bare repository that packs are added to, then refs. Used by one thread."""

    def __init__(self, directory: Path, *, object_format: ObjectFormat, stop: Stop) -> None:
        self._directory = directory
        self._stop = stop
        make_bare_repository(directory, object_format=object_format, stop=stop)

    def add_pack(self, pieces: Iterable[bytes], *, connected: bool, where: str) -> None:
        """Index one pack into the repository.

        Args:
            pieces: the pack's bytes.
            connected: also prove that it names no object that it lacks.
            where: the bundle's URI, for messages.

        Raises:
            DamagedDocument: git refused the pack.
            DestinationError: the disk is full, or the folder is gone or cannot be written.
        """
        argv: list[str | os.PathLike[str]] = ["git", "-C", self._directory, "index-pack", "--stdin"]
        if connected:
            argv.append("--check-self-contained-and-connected")
        environment = clean_environment(safe_directories=[self._directory])
        with Child(
            argv, environment=environment, stop=self._stop, patience_seconds=PATIENCE_SECONDS
        ) as child:
            try:
                for data in pieces:
                    self._stop.check()
                    child.write(data)
                status, _ = child.converse(b"")
            except BrokenPipeError:
                status = child.wait()
            if status == 0:
                return
            words = child.words()
        if is_disk_full(words):
            raise _disk_full(words)
        self._require_folder()
        raise DamagedDocument(f"{where} is damaged: git index-pack refused its pack: {words}")

    def prove_connected(self, tips: Iterable[ObjectId]) -> None:
        """Prove that every object the tips reach is there.

        Raises:
            BrokenChain: one is not.
        """
        try:
            self._git(
                "rev-list",
                "--objects",
                "--quiet",
                "--stdin",
                data=b"".join(oid.encode() + b"\n" for oid in tips),
            )
        except GitFailed as error:
            self._require_folder()
            raise BrokenChain(f"the chain does not hold all objects: {error.message}") from error

    def _require_folder(self) -> None:
        """Blame nothing stored for what the folder is to blame for."""
        if trouble := trouble_with(self._directory, called="the folder"):
            raise DestinationError(trouble, hint="restore again, to where nothing clears it")

    def prove_present(self, tips: Iterable[ObjectId]) -> None:
        """Prove that the tips themselves are there.

        Raises:
            BrokenChain: one is not.
        """
        asked = [*tips]
        answer = self._git(
            *("cat-file", "--batch-check=%(objectname)"),
            data=b"".join(oid.encode() + b"\n" for oid in asked),
        )
        # What is there is answered with its own id and nothing else.
        present = set(answer.decode().splitlines())
        for oid in asked:
            if oid not in present:
                raise BrokenChain(f"the chain does not hold {oid}, which a ref points at")

    def set_refs(self, tips: Mapping[RefName, ObjectId]) -> None:
        """Create every ref, and prove that exactly these are there.

        Raises:
            BrokenChain: git did not keep one of them.
        """
        # Not by update-ref: it refuses a branch that names no commit, which some servers hold.
        # Source: gitrepository-layout(5), packed-refs. git then writes the file anew in its form.
        lines = sorted((to_bytes(name), oid.encode()) for name, oid in tips.items())
        packed = b"".join(b"%b %b\n" % (oid, name) for name, oid in lines)
        (self._directory / "packed-refs").write_bytes(packed)
        self._git("pack-refs", "--all")
        if not has_refs(self._directory, tips, stop=self._stop):
            raise BrokenChain("git did not keep the refs as they were recorded")

    def set_head(self, *, symref: RefName | None, oid: ObjectId | None) -> None:
        """Point HEAD at a ref, which may be unborn, or at an id."""
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
            DestinationError: the disk is full, or the folder is gone or cannot be written.
            GitFailed: git refuses a file, for its name as a rule.
        """
        self._git("config", "core.bare", "false")
        if (oid := _id_of_head(self._directory, stop=self._stop)) is None:
            return
        try:
            self._git("rev-parse", "--quiet", "--verify", f"{oid}^{{commit}}")
        except GitFailed:
            return
        try:
            run_git("reset", "--quiet", "--hard", directory=folder, stop=self._stop)
        except GitFailed as error:
            if is_disk_full(error.message):
                raise _disk_full(error.message) from error
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


def _disk_full(words: str) -> DestinationError:
    return DestinationError(f"the disk is full: {words}", hint="make room and restore again")
