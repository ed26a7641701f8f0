"""The sources: real git repositories, half in a folder and half on a forge, and what people do."""

import hashlib
import random
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

from backup.model import Source
from backup.sources.plain import FolderSource
from tests.soak.forge import Forge
from tests.support.git import write_blob
from tests.support.history import OPERATIONS, LivingRepository
from tests.support.lfsserver import keep, oid_of, pointer
from tests.support.mirrors import MirrorState
from tests.support.vaults import to_be_kept

OWNER = "acme"
# Growth outweighs loss, as at a forge.
_COMMON = ("push", "push", "push", "create-branch", "create-tag", "merge", "add-pull-ref") * 3
_DAILY = (*_COMMON, *(name for name in OPERATIONS if name != "delete-everything"))


@dataclass(frozen=True, slots=True)
class Expected:
    """What a restore must give back; of the objects only a digest, since there are many nights.

    Attributes:
        is_floor: more heads of pull requests may come back than these, and their objects.
    """

    refs: tuple[tuple[bytes, bytes], ...]
    head: tuple[bytes | None, bytes | None]
    objects: bytes
    files: frozenset[str] = frozenset()
    is_floor: bool = False

    @classmethod
    def of(cls, state: MirrorState, files: frozenset[str] = frozenset()) -> "Expected":
        digest = hashlib.sha256(b"".join(sorted(state.objects))).digest()
        head = (state.head_symref, state.head_id)
        return cls(tuple(sorted(state.refs.items())), head, digest, files)

    @property
    def empty(self) -> bool:
        return not self.refs and self.head[1] is None

    def with_heads_of(self, before: "Expected | None") -> "Expected":
        """Make it what must come back where the heads of pull requests could not be had."""
        heads = () if before is None else (ref for ref in before.refs if _is_pull_head(ref[0]))
        others = (ref for ref in self.refs if not _is_pull_head(ref[0]))
        return replace(self, refs=tuple(sorted((*heads, *others))), is_floor=True)

    def differs(self, other: "Expected") -> str:
        """Say where a restored state differs from this one; empty where it does not."""
        lost, odd = set(self.refs) - set(other.refs), set(other.refs) - set(self.refs)
        if self.is_floor:
            odd = {ref for ref in odd if not _is_pull_head(ref[0])}
        if lost or odd:
            return f"refs: missing {sorted(lost)[:3]}, surplus {sorted(odd)[:3]}"
        if self.head != other.head:
            return f"HEAD: {other.head} in place of {self.head}"
        if self.objects != other.objects and not self.is_floor:
            return "objects"
        missing = self.files - other.files
        return f"files of Git LFS: {sorted(missing)[:3]}" if missing else ""


def _is_pull_head(name: bytes) -> bool:
    return name.startswith(b"refs/pull/")


class Resident(LivingRepository):
    """A repository that lives, has files of Git LFS, and moves.

    Attributes:
        host_id: by which its source knows it; empty for one in a folder, whose path is.
        name: below its owner, without an ending.
        pointers: for the blob of each pointer the file that it names.
    """

    def __init__(self, path: Path, name: str, host_id: str = "") -> None:
        super().__init__(path)
        self.name = name
        self.host_id = host_id or hashlib.sha256(path.name.encode()).hexdigest()[:16]
        self.is_on_forge = bool(host_id)
        self.pointers: dict[bytes, str] = {}
        self._expected: Expected | None = None

    def touch(self) -> None:
        """Note that it changed."""
        self._expected = None

    @property
    def expected(self) -> Expected:
        """Read, or remember, what a backup of it must give back."""
        if self._expected is None:
            state = to_be_kept(self.path, pull_refs=True)
            named = {oid for blob, oid in self.pointers.items() if blob in state.objects}
            there = frozenset(oid for oid in named if self._place(oid).is_file())
            self._expected = Expected.of(state, there)
        return self._expected

    def add_file(self, content: bytes, *, is_there: bool) -> None:
        """Push a pointer, and the file that it names where that is there."""
        text = pointer(content)
        self.pointers[write_blob(self.path, text)] = oid_of(content)
        if is_there:
            keep(self.path, content)
        name = self.head if self.head in self.refs else next(iter(self._branches()), b"")
        tip = self.refs.get(name) if name else None
        name = name or b"refs/heads/main"
        where = b"media/%d.bin" % len(self.pointers)
        self._set(name, self._commit(tip, 1, files={where: text})[-1])

    def _place(self, oid: str) -> Path:
        return self.path / "lfs" / "objects" / oid[:2] / oid[2:4] / oid


@dataclass
class World:
    """All repositories that are there now.

    Attributes:
        log: what happened since the night before, in words.
    """

    folder: Path
    forge: Forge
    chance: random.Random
    residents: list[Resident] = field(default_factory=list)
    log: list[str] = field(default_factory=list)
    _made: int = 0

    @property
    def sources(self) -> list[Source]:
        return [FolderSource(self.folder, owner=OWNER), self.forge]

    def settle(self, count: int) -> None:
        """Make the repositories of the first night."""
        for _ in range(count):
            self.add()
        self.log.clear()

    def add(self) -> None:
        """Make a repository, in the folder or on the forge by turns."""
        self._made += 1
        name = f"r{self._made:03}"
        if self._made % 2:
            made = Resident(self.folder / f"{name}.git", name)
        else:
            host_id = str(7000 + self._made)
            made = Resident(self.forge.root / f"{name}.git", name, host_id)
            self.forge.listed[host_id] = name
        made.live([("push", 2), ("create-branch", 0)])
        self.residents.append(made)
        self.log.append(f"added {name}")

    def live(self, one: Resident) -> None:
        """Let people work on a repository for a day."""
        for _ in range(self.chance.randint(1, 3)):
            one.apply(self.chance.choice(_DAILY), self.chance.randrange(2**20))
        one.touch()
        self.log.append(f"{one.name}: {'; '.join(one.log)[:200]}")
        one.log.clear()

    def push(self, one: Resident) -> None:
        """Let one commit be pushed."""
        one.apply("push", 0)
        one.touch()
        one.log.clear()

    def add_files(self, one: Resident, *, missing: bool) -> None:
        """Push a file of Git LFS, or a pointer to one that is nowhere."""
        if one.is_on_forge:
            # The forge has no server of Git LFS; `tests/integration/test_lfs.py` has.
            return
        content = b"%s %d" % (one.name.encode(), self.chance.randrange(2**40)) * 20
        one.add_file(content, is_there=not missing)
        one.touch()
        self.log.append(f"{one.name}: a file of Git LFS{', which is missing' if missing else ''}")

    def empty(self, one: Resident) -> None:
        one.apply("delete-everything", 0)
        one.touch()
        one.log.clear()
        self.log.append(f"{one.name}: emptied")

    def remove(self, one: Resident, *, transfer: bool = False) -> None:
        """Delete a repository, or give it to another owner."""
        shutil.rmtree(one.path)
        self.residents.remove(one)
        if one.is_on_forge:
            del self.forge.listed[one.host_id]
            if transfer:
                self.forge.transferred.add(one.host_id)
        self.log.append(f"{one.name}: {'transferred' if transfer else 'deleted'}")

    def rename(self, one: Resident) -> None:
        """Rename a repository: on the forge it stays itself, in the folder it is a new one."""
        self._made += 1
        name = f"r{self._made:03}-renamed"
        path = one.path.with_name(f"{name}.git")
        one.path.rename(path)
        if one.is_on_forge:
            self.forge.listed[one.host_id] = name
        else:
            one.host_id = hashlib.sha256(path.name.encode()).hexdigest()[:16]
        self.log.append(f"{one.name}: renamed to {name}")
        one.path, one.name = path, name

    def chosen(self, count: int) -> Iterator[Resident]:
        """Choose some repositories."""
        yield from self.chance.sample(self.residents, min(count, len(self.residents)))
