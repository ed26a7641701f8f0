"""Checking a pack while it passes: ``git index-pack`` beside the stream, and what it proves.

The pack's copy lies in a repository of its own in the temporary folder until the check is closed.
With it git tells whether every object is whole, for a full whether the history is complete, what
kind of object a ref points at, and whether an old tip is among a new tip's ancestors.
"""

import os
import re
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Literal, Self
from uuid import uuid4

from backup.errors import (
    IncompleteRepository,
    MalformedPack,
    ProtocolError,
    SourceError,
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
)
from backup.git.commits import Commit, read_commits
from backup.git.objects import ObjectReader
from backup.git.pointers import PointersFound, find_pointers
from backup.git.work import ANOTHER_FOLDER, Kept, trouble_with
from backup.model import ObjectFormat, ObjectId, split_ids
from backup.stopping import Stop

_LOOK_EVERY_BYTES = 8 << 20
_LEAST_FREE_BYTES = 1 << 20
_WALK_LIMIT = 200_000
_AT_ONCE = 256
# The first line of a tag; its message may be of any size.
# git takes ids in capitals, too.
_TARGET = re.compile(rb"object ([0-9a-fA-F]{64}|[0-9a-fA-F]{40})\n")
_TARGET_BYTES = len(b"object \n") + 64
# Of a commit; some thousand parents fit.
_HEAD_BYTES = 1 << 18

# index-pack.c and fsck.c: an object that others name is not in the pack.
_LACKING = re.compile(r"did not receive expected object|missing (?:blob|tree|commit|tag) ")

Ancestry = Literal["advanced", "rewritten", "moved"]


@dataclass(frozen=True, slots=True)
class Disk:
    """The room for packs under check, looked at while it fills.

    Attributes:
        folder: where they lie; its owner removes it in the end.
        reserve_bytes: what must stay free for the packs' indexes and for everybody else.
        free_bytes: tells what is free now; shared with every other capture and program.
    """

    folder: Path
    reserve_bytes: int
    free_bytes: Callable[[], int]

    def require_usable(self) -> None:
        """Raise TemporaryFolderError where nothing more can be written in the folder."""
        if trouble := trouble_with(self.folder):
            raise TemporaryFolderError(trouble, hint=ANOTHER_FOLDER)

    @contextmanager
    def blamed(self, kept: Kept | None = None) -> Iterator[None]:
        """Blame the folder for what git fails at here, where the folder is in trouble.

        Args:
            kept: the repository in it that git works in.

        Raises:
            TemporaryFolderError: in place of what the repository would be blamed for.
        """
        try:
            yield
        except (ProtocolError, SourceError, OSError) as error:
            self.require_usable()
            if kept is not None and (trouble := kept.trouble()):
                raise TemporaryFolderError(trouble, hint=ANOTHER_FOLDER) from error
            raise


def disk_of(folder: Path) -> Disk:
    """Look at a folder's file system; a tenth of it stays free, at most 256 MiB.

    A folder that is gone has no room.
    """
    usage = shutil.disk_usage(folder)

    def free_bytes() -> int:
        try:
            return shutil.disk_usage(folder).free
        except OSError:
            return 0

    return Disk(folder, reserve_bytes=min(256 << 20, usage.total // 10), free_bytes=free_bytes)


@dataclass(frozen=True, slots=True)
class DiskTooSmall:
    """Why a pack could not be checked: what it needed so far and what there was.

    Attributes:
        trouble: what is wrong with the folder itself; empty where it is only too small.
    """

    needed_bytes: int
    free_bytes: int
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Survey:
    """What a pack holds.

    Attributes:
        kinds: the types of the objects that were asked for and are there.
        found: the files of Git LFS that blobs point to, and what looks like such a pointer.
        ids: for each type that was to be listed the ids of its objects, one behind another.
    """

    kinds: dict[ObjectId, str]
    found: PointersFound
    ids: Mapping[str, str]


class PackCheck:
    """index-pack beside one stream. Used by one thread; close it to give the disk back.

    When the disk cannot hold what arrives, or the folder is gone or cannot be written any more, the
    check ends and the stream goes on: `feed` then does nothing and `finish` answers DiskTooSmall.

    Args:
        connected: also prove that the pack holds everything its objects name.
    """

    def __init__(
        self, *, object_format: ObjectFormat, connected: bool, disk: Disk, stop: Stop
    ) -> None:
        self._object_format = object_format
        self._disk = disk
        self._stop = stop
        self._fed_bytes = 0
        self._next_look = 0
        self._too_small: DiskTooSmall | None = None
        self._child: Child | None = None
        self.repository = disk.folder / f"check-{uuid4().hex}"
        self._kept = Kept(self.repository)
        # What is gone would be made anew, and nothing would remove it.
        if disk.free_bytes() < disk.reserve_bytes or not disk.folder.is_dir():
            self._give_up()
            return
        try:
            make_bare_repository(self.repository, object_format=object_format, stop=stop)
            argv: list[str | os.PathLike[str]] = ["git", "-C", self.repository, "index-pack"]
            argv.append("--stdin")
            if connected:
                argv.append("--check-self-contained-and-connected")
            self._child = Child(
                argv,
                environment=clean_environment(safe_directories=[self.repository]),
                stop=stop,
                patience_seconds=PATIENCE_SECONDS,
            )
        except (GitFailed, OSError) as error:
            # git does not always say why it could not write.
            is_full = is_disk_full(str(error)) or disk.free_bytes() < _LEAST_FREE_BYTES
            if not is_full and not self._trouble(str(error)):
                raise
            self._give_up(str(error))
        except BaseException:
            self.close()
            raise

    def feed(self, data: bytes) -> None:
        """Pass on the next bytes of the pack.

        Raises:
            GitHindered: the machine kept index-pack from its work, and it is not the disk.
            MachineLimitReached: there was too little of it for index-pack.
            MalformedPack: index-pack refused what came so far.
        """
        if self._child is None:
            return
        if self._fed_bytes >= self._next_look:
            self._next_look = self._fed_bytes + _LOOK_EVERY_BYTES
            if self._disk.free_bytes() < self._disk.reserve_bytes:
                self._give_up()
                return
        self._fed_bytes += len(data)
        try:
            self._child.write(data)
        except BrokenPipeError:
            self._judge(self._child.wait(), self._child.words())

    def finish(self) -> DiskTooSmall | None:
        """Say that the pack is over, and wait for git's word.

        Returns:
            None when the pack passed; what the disk lacked when there is no word.

        Raises:
            GitHindered: the machine kept index-pack from its work, and it is not the disk.
            MachineLimitReached: there was too little of it for index-pack.
            MalformedPack: index-pack refused the pack.
            IncompleteRepository: the pack lacks objects that it names.
        """
        if self._child is None:
            return self._too_small
        status, answer = self._child.converse(b"")
        words = self._child.words()
        self._child.kill()
        self._child = None
        if status != 0:
            self._judge(status, words)
        else:
            self._kept.add_pack(answer, self._fed_bytes)
        return self._too_small

    @contextmanager
    def blamed(self) -> Iterator[None]:
        """Blame the folder for what git fails at here, where it is not as we left it.

        Raises:
            TemporaryFolderError: in place of what the repository would be blamed for.
        """
        # Where the check has ended its copy is gone by our own hand.
        with self._disk.blamed(self._kept if self._too_small is None else None):
            yield

    def survey(self, ids: Iterable[ObjectId], *, listed: Collection[str] = ()) -> Survey:
        """Go through all objects of the pack once.

        Args:
            ids: whose types are asked for.
            listed: types of objects whose ids are asked for.
        """
        kinds = dict.fromkeys(ids, "")
        lists = {kind.encode(): bytearray() for kind in listed}
        found = find_pointers(self.repository, stop=self._stop, kinds=kinds, lists=lists)
        return Survey(
            kinds={oid: kind for oid, kind in kinds.items() if kind},
            found=found,
            ids={kind.decode(): listed_ids.hex() for kind, listed_ids in lists.items()},
        )

    def commits(self, survey: Survey) -> Iterator[Commit]:
        """Yield the commits of the pack, in no particular order.

        Args:
            survey: has listed the commits.
        """
        ids = split_ids(survey.ids["commit"], self._object_format)
        return read_commits(self.repository, ids, stop=self._stop)

    def tags(self, survey: Survey) -> Iterator[tuple[ObjectId, ObjectId]]:
        """Yield the annotated tags of the pack, each with the object that it names.

        Args:
            survey: has listed the tags.

        Raises:
            MalformedPack: one of them names nothing.
        """
        ids = iter(split_ids(survey.ids["tag"], self._object_format))
        with ObjectReader(self.repository, self._stop) as objects:
            while some := [*islice(ids, _AT_ONCE)]:
                for oid, found in zip(some, objects.read(some, most=_TARGET_BYTES), strict=True):
                    target = _TARGET.match(b"" if found is None else found[1])
                    if target is None:
                        raise MalformedPack(f"the pack's tag {oid} does not say what it is of")
                    yield oid, ObjectId(target[1].decode().lower())

    def ancestry(self, pairs: Iterable[tuple[ObjectId, ObjectId]]) -> Iterator[Ancestry]:
        """Tell for each pair of old and new tip what the pack alone proves.

        Advanced: a way from new to old leads through the pack. Rewritten: all of new's history is
        in the pack, and old is not in it. Moved: neither can be said.
        """
        with ObjectReader(self.repository, self._stop) as objects:
            commits = _Commits(objects)
            for old, new in pairs:
                yield _ancestry(old, new, commits.parents)

    def close(self) -> None:
        """End the check and remove the copy. May be called any number of times."""
        if self._child is not None:
            self._child.kill()
            self._child = None
        shutil.rmtree(self.repository, ignore_errors=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _judge(self, status: int, words: str) -> None:
        try:
            require_unhindered("index-pack", status, words)
        except GitHindered as error:
            if not is_disk_full(error.message) and not self._trouble(words):
                raise
            self._give_up(error.message)
            return
        if self._trouble(words):
            self._give_up(words)
            return
        if _LACKING.search(words):
            raise IncompleteRepository(
                f"the repository's own history lacks objects: {words}",
                hint="run git fsck on it; what it lacks cannot be backed up",
            )
        raise MalformedPack(f"git index-pack refused the pack: {words}")

    def _trouble(self, words: str) -> str:
        # A disk that is full is told of by its sizes.
        if is_disk_full(words):
            return trouble_with(self._disk.folder)
        return trouble_with(self._disk.folder) or self._kept.trouble(words)

    def _give_up(self, words: str | None = None) -> None:
        trouble = trouble_with(self._disk.folder) if words is None else self._trouble(words)
        self._too_small = DiskTooSmall(self._fed_bytes, self._disk.free_bytes(), trouble)
        self.close()


def _ancestry(
    old: ObjectId, new: ObjectId, parents: Callable[[ObjectId], tuple[ObjectId, ...] | None]
) -> Ancestry:
    waiting, seen, left_the_pack = [new], {new}, False
    while waiting:
        if len(seen) > _WALK_LIMIT:
            return "moved"
        above = parents(waiting.pop())
        if above is None:
            left_the_pack = True
            continue
        for parent in above:
            if parent == old:
                return "advanced"
            if parent not in seen:
                seen.add(parent)
                waiting.append(parent)
    return "moved" if left_the_pack else "rewritten"


class _Commits:
    """Reads the parents of commits, each once."""

    def __init__(self, objects: ObjectReader) -> None:
        self._objects = objects
        self._known: dict[ObjectId, tuple[ObjectId, ...] | None] = {}

    def parents(self, oid: ObjectId) -> tuple[ObjectId, ...] | None:
        """Return a commit's parents, or None when it is not here or no commit."""
        if oid not in self._known:
            (found,) = self._objects.read([oid], most=_HEAD_BYTES)
            self._known[oid] = None if found is None else _parents(*found)
        return self._known[oid]


def _parents(kind: str, content: bytes) -> tuple[ObjectId, ...] | None:
    head, end, _ = content.partition(b"\n\n")
    # A message may be of any size; of a head that is longer than any real one nothing is known.
    if kind != "commit" or (not end and len(content) == _HEAD_BYTES):
        return None
    lines = (line.split(b" ", 1) for line in head.split(b"\n"))
    return tuple(ObjectId(words[1].decode()) for words in lines if words[0] == b"parent")
