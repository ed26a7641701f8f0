"""A repository that lives: people push, rewrite, rename and delete, and no step ever fails.

A life is a list of (operation, seed). A seed is spent digit by digit on the choices of its
operation, always with zero for the plainest, so that Hypothesis can shrink a life to its point.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

from hypothesis import strategies

from tests.support.git import (
    EPOCH,
    FastImport,
    git,
    init_bare,
    set_head,
    update_refs,
    write_blob,
    write_tag,
)
from tests.support.mirrors import MirrorState, mirror_state

Item = TypeVar("Item")
Step = tuple[str, int]

BRANCHES: tuple[bytes, ...] = (
    b"refs/heads/main",
    b"refs/heads/develop",
    b"refs/heads/topic",
    b"refs/heads/topic/one",
    b"refs/heads/topic/one/deep",
    "refs/heads/größe".encode(),
    b"refs/heads/\xe9t\xe9",
    b"refs/heads/main/next",
    b"refs/heads/-dash",
)
"""Names for branches; some cannot exist beside others."""

MAIN = BRANCHES[0]


class Choices:
    """Spends a number on choices: the same number gives the same choices, zero the first ones."""

    def __init__(self, seed: int) -> None:
        self._left = seed

    def below(self, limit: int) -> int:
        self._left, choice = divmod(self._left, limit)
        return choice

    def of(self, items: Iterable[Item]) -> Item:
        listed = list(items)
        return listed[self.below(len(listed))]


class LivingRepository:
    """A bare repository and what may happen to one on a forge.

    Attributes:
        path: the repository.
        refs: full name to id, as `state` would read them.
        head: the ref that HEAD names, or the id of a detached one.
        log: what was done, in words, for the message of a failed test.
    """

    def __init__(self, path: Path, object_format: str = "sha1") -> None:
        self.path = init_bare(path, object_format)
        self.refs: dict[bytes, bytes] = {}
        self.head = MAIN
        self.log: list[str] = []
        self._parents: dict[bytes, tuple[bytes, ...]] = {}
        self._count = 0

    def apply(self, operation: str, seed: int) -> None:
        """Do one of `OPERATIONS`; what is impossible just now becomes a push."""
        done = OPERATIONS[operation](self, Choices(seed))
        if done is None:
            done = self._push(Choices(seed))
        self.log.append(f"{operation} {seed}: {done}")

    def live(self, steps: Iterable[Step]) -> None:
        for operation, seed in steps:
            self.apply(operation, seed)

    def state(self, ignore: Iterable[bytes] = ()) -> MirrorState:
        """Read the repository from disk."""
        return mirror_state(self.path, ignore)

    # Every operation says what it did, or returns None where there was nothing to do it to.

    def _push(self, choices: Choices) -> str:
        name = choices.of(self._branches() or [MAIN])
        commits = self._commit(self.refs.get(name), 1 + choices.below(3))
        return self._set(name, commits[-1])

    def _merge(self, choices: Choices) -> str | None:
        branches = self._branches()
        if len(branches) < 2:
            return None
        name = choices.of(branches)
        others = {self.refs[other] for other in branches} - {self.refs[name]}
        parents = [self.refs[name], *sorted(others)[: 1 + choices.below(4)]]
        return self._set(name, self._commit(parents[0], 1, also=parents[1:])[0])

    def _force_push(self, choices: Choices) -> str | None:
        """Amend, or rewrite the last commits of a branch."""
        if not (branches := self._branches()):
            return None
        name = choices.of(branches)
        lineage = self._lineage(self.refs[name])
        count = 1 + choices.below(min(3, len(lineage)))
        base = lineage[count] if count < len(lineage) else None
        return self._set(name, self._commit(base, count)[-1])

    def _rewind(self, choices: Choices) -> str | None:
        lineages = {name: self._lineage(self.refs[name]) for name in self._branches()}
        deep = {name: line for name, line in lineages.items() if len(line) > 1}
        if not deep:
            return None
        name = choices.of(deep)
        return self._set(name, deep[name][1 + choices.below(len(deep[name]) - 1)])

    def _move_to_old_commit(self, choices: Choices) -> str | None:
        """Point a branch at any commit that was ever there, as undoing a force-push does."""
        if not (self._branches() and self._parents):
            return None
        return self._set(choices.of(self._branches()), choices.of(self._parents))

    def _replace_by_orphan(self, choices: Choices) -> str | None:
        if not (branches := self._branches()):
            return None
        return self._set(choices.of(branches), self._commit(None, 1)[0])

    def _create_branch(self, choices: Choices) -> str | None:
        names = [name for name in BRANCHES if self._is_free(name)]
        if not (names and self._parents):
            return None
        return self._set(choices.of(names), choices.of(reversed(self._parents)))

    def _delete_branch(self, choices: Choices) -> str | None:
        if not (branches := self._branches()):
            return None
        return self._delete([choices.of(branches)])

    def _rename_branch(self, choices: Choices) -> str | None:
        names = [name for name in BRANCHES if self._is_free(name)]
        if not (names and self._branches()):
            return None
        return self._rename(
            choices.of(self._branches()), choices.of(names), follow=choices.below(2)
        )

    def _rename_into_folder(self, choices: Choices) -> str | None:
        """Rename x to x/y, or x/y to x: names that cannot exist at once."""
        branches = self._branches()
        if not branches:
            return None
        old = choices.of(branches)
        up = old.rpartition(b"/")[0]
        neighbours = [name for name in self.refs if name.startswith(up + b"/")]
        can_rise = up not in {b"refs/heads", b""} and neighbours == [old]
        new = up if can_rise and choices.below(2) == 0 else old + b"/below"
        return self._rename(old, new, follow=choices.below(2))

    def _create_tag(self, choices: Choices) -> str | None:
        if not self._parents:
            return None
        number = len([name for name in self.refs if name.startswith(b"refs/tags/")])
        name = b"refs/tags/v%d" % number
        if name in self.refs:
            name = b"refs/tags/again-%d" % self._next()
        return self._set(name, self._tagged(choices))

    def _move_tag(self, choices: Choices) -> str | None:
        tags = self._named(b"refs/tags/")
        if not (tags and self._parents):
            return None
        return self._set(choices.of(tags), self._tagged(choices))

    def _delete_tag(self, choices: Choices) -> str | None:
        tags = self._named(b"refs/tags/")
        return self._delete([choices.of(tags)]) if tags else None

    def _add_note(self, choices: Choices) -> str | None:
        if not self._parents:
            return None
        about = choices.of(reversed(self._parents))
        name = b"refs/notes/commits"
        commits = self._commit(self.refs.get(name), 1, files={about: b"note %d\n" % self._next()})
        return self._set(name, commits[0])

    def _change_default_branch(self, choices: Choices) -> str:
        """Let HEAD name another branch, which need not exist."""
        others = [*self._branches(), MAIN, b"refs/heads/unborn"]
        return self._point_head(choices.of([name for name in others if name != self.head]))

    def _detach_head(self, choices: Choices) -> str | None:
        if not self._parents:
            return None
        fresh = choices.below(3) == 2
        base = choices.of(reversed(self._parents))
        return self._point_head(self._commit(base, 1)[0] if fresh else base)

    def _delete_everything(self, choices: Choices) -> str:
        said = self._delete(list(self.refs))
        return said if choices.below(2) else f"{said}; {self._point_head(MAIN)}"

    def _add_pull_ref(self, choices: Choices) -> str | None:
        if not (branches := self._branches()):
            return None
        base = self.refs[choices.of(branches)]
        head = self._commit(base, 1)[0]
        number = self._next()
        merge = self._commit(base, 1, also=[head])[0]
        self._set(b"refs/pull/%d/merge" % number, merge)
        return self._set(b"refs/pull/%d/head" % number, head)

    def _add_custom_ref(self, choices: Choices) -> str | None:
        """Point a ref outside of heads and tags at a blob or a commit."""
        if not self._parents:
            return None
        name = b"refs/custom/%d" % choices.below(3)
        if choices.below(2):
            return self._set(name, write_blob(self.path, b"data %d\n" % self._next()))
        return self._set(name, choices.of(reversed(self._parents)))

    def _collect(self, choices: Choices) -> str:
        """Pack everything and drop what nothing reaches, as forges do from time to time."""
        git("pack-refs", "--all", cwd=self.path)
        git("repack", "-adq", cwd=self.path)
        git("prune", "--expire=now", cwd=self.path)
        kept = set(git("rev-list", "--all", cwd=self.path).split())
        self._parents = {commit: up for commit, up in self._parents.items() if commit in kept}
        return f"collected, {len(self._parents)} commits left"

    def _branches(self) -> list[bytes]:
        return self._named(b"refs/heads/")

    def _named(self, prefix: bytes) -> list[bytes]:
        return sorted(name for name in self.refs if name.startswith(prefix))

    def _is_free(self, name: bytes) -> bool:
        """Tell whether git could create a ref beside those that exist."""
        taken = [other + b"/" for other in self.refs]
        wanted = name + b"/"
        return not any(wanted.startswith(other) or other.startswith(wanted) for other in taken)

    def _lineage(self, commit: bytes) -> list[bytes]:
        """List a commit and its first parents, newest first."""
        line = [commit]
        while parents := self._parents[line[-1]]:
            line.append(parents[0])
        return line

    def _next(self) -> int:
        self._count += 1
        return self._count

    def _commit(
        self,
        base: bytes | None,
        count: int,
        *,
        also: Iterable[bytes] = (),
        files: dict[bytes, bytes] | None = None,
    ) -> list[bytes]:
        """Write commits in a row, each like none before it."""
        stream = FastImport(self.path)
        parents = [base, *also] if base is not None else []
        lineages = []
        for _ in range(count):
            number = self._next()
            text = b"".join(b"line %d\n" % line for line in range(40)) + b"change %d\n" % number
            changed = files or {b"work.txt": text, b"folder/%d.txt" % (number % 5): text * 2}
            mark = stream.commit(
                parents, files=changed, message=b"commit %d\n" % number, at=EPOCH + number
            )
            lineages.append(parents)
            parents = [mark]
        ids = stream.run()
        for mark, up in zip(ids, lineages, strict=True):
            self._parents[ids[mark]] = tuple(ids.get(parent, parent) for parent in up)
        return list(ids.values())

    def _tagged(self, choices: Choices) -> bytes:
        """Give what a tag may point at: a commit, annotated, annotated twice, or no commit."""
        commit = choices.of(reversed(self._parents))
        kind = choices.below(5)
        message = b"tag %d\n" % self._next()
        if kind == 0:
            return commit
        if kind == 4:
            blob = write_blob(self.path, message)
            return write_tag(self.path, blob, "blob", b"of-blob", message)
        inner = write_tag(self.path, commit, "commit", b"inner", message)
        return inner if kind in {1, 2} else write_tag(self.path, inner, "tag", b"outer", message)

    def _set(self, name: bytes, target: bytes) -> str:
        update_refs(self.path, {name: target})
        self.refs[name] = target
        return f"{name!r} is {target[:8].decode()}"

    def _delete(self, names: list[bytes]) -> str:
        update_refs(self.path, dict.fromkeys(names))
        for name in names:
            del self.refs[name]
        return f"deleted {names}"

    def _rename(self, old: bytes, new: bytes, *, follow: int) -> str:
        """Rename a branch; HEAD follows it, as on most forges, or is left unborn."""
        update_refs(self.path, {old: None, new: self.refs[old]})
        self.refs[new] = self.refs.pop(old)
        if self.head == old and not follow:
            self._point_head(new)
        return f"renamed {old!r} to {new!r}"

    def _point_head(self, target: bytes) -> str:
        set_head(self.path, target)
        self.head = target
        return f"HEAD is {target!r}"


OPERATIONS: dict[str, Callable[[LivingRepository, Choices], str | None]] = {
    "push": LivingRepository._push,
    "create-branch": LivingRepository._create_branch,
    "create-tag": LivingRepository._create_tag,
    "merge": LivingRepository._merge,
    "force-push": LivingRepository._force_push,
    "rewind": LivingRepository._rewind,
    "move-to-old-commit": LivingRepository._move_to_old_commit,
    "replace-by-orphan": LivingRepository._replace_by_orphan,
    "delete-branch": LivingRepository._delete_branch,
    "rename-branch": LivingRepository._rename_branch,
    "rename-into-folder": LivingRepository._rename_into_folder,
    "move-tag": LivingRepository._move_tag,
    "delete-tag": LivingRepository._delete_tag,
    "add-note": LivingRepository._add_note,
    "add-custom-ref": LivingRepository._add_custom_ref,
    "add-pull-ref": LivingRepository._add_pull_ref,
    "change-default-branch": LivingRepository._change_default_branch,
    "detach-head": LivingRepository._detach_head,
    "collect": LivingRepository._collect,
    "delete-everything": LivingRepository._delete_everything,
}
"""Everything that may happen, the plainest first."""


_COMMON = ("push", "create-branch", "create-tag", "push", "merge", "add-note") * 2


def steps(min_size: int = 0, max_size: int = 12) -> strategies.SearchStrategy[list[Step]]:
    """Draw a life, or a part of one, in which growth outweighs loss."""
    operation = strategies.sampled_from([*_COMMON, *OPERATIONS])
    step = strategies.tuples(operation, strategies.integers(0, 2**20))
    return strategies.lists(step, min_size=min_size, max_size=max_size)
