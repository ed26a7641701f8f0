"""What a pack's commits lead to: the root tree and the parents of each.

Read from the heads of the commits alone. What they name need not be in the repository: a pack that
stands alone is not the whole history.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from backup.errors import MalformedPack
from backup.git.child import Child
from backup.git.command import PATIENCE_SECONDS, clean_environment, require_unhindered
from backup.model import ObjectId
from backup.stopping import Stop

# As many as one git is asked for: their answers are held in memory.
_AT_ONCE = 20_000


@dataclass(frozen=True, slots=True)
class Commit:
    """One commit and what it names."""

    id: ObjectId
    tree: ObjectId
    parents: tuple[ObjectId, ...]


def read_commits(repository: Path, ids: Iterable[ObjectId], *, stop: Stop) -> Iterator[Commit]:
    """Yield the commits of a repository that have these ids, in no particular order.

    Args:
        repository: a bare one; it needs no refs.
        ids: of the commits.
        stop: ends it.

    Raises:
        GitHindered: the machine kept git from its work.
        MachineLimitReached: there was too little of it for git.
        MalformedPack: git cannot read one of them as a commit.
    """
    remaining = iter(ids)
    while some := [*islice(remaining, _AT_ONCE)]:
        yield from _read_some(repository, some, stop)


def _read_some(repository: Path, ids: Sequence[ObjectId], stop: Stop) -> Iterator[Commit]:
    """Read some commits by one git, which reads those that are named and no parent of theirs.

    Source: git-rev-list(1), ``--no-walk``.
    """
    stop.check()
    words = ("rev-list", "--no-walk=unsorted", "--no-commit-header", "--format=%H %T %P", "--stdin")
    with Child(
        ["git", "-C", repository, *words],
        environment=clean_environment(safe_directories=[repository]),
        stop=stop,
        patience_seconds=PATIENCE_SECONDS,
    ) as child:
        status, output = child.converse("".join(f"{oid}\n" for oid in ids).encode())
        if status != 0:
            require_unhindered("rev-list", status, child.words())
            raise MalformedPack(f"git cannot read the commits of the pack: {child.words()}")
    for line in output.decode().splitlines():
        oid, tree, *parents = line.split()
        yield Commit(ObjectId(oid), ObjectId(tree), tuple(map(ObjectId, parents)))
