"""Ref names: which are well formed, and which a capture takes. Pure."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from itertools import pairwise

from backup.model import ObjectId, RefName, Selection

# Names that forges make for themselves and refuse to have pushed back.
HIDDEN_PREFIXES = (
    b"refs/pull/",
    b"refs/merge-requests/",
    b"refs/pull-requests/",
    b"refs/keep-around/",
    b"refs/pipelines/",
    b"refs/environments/",
)
# The heads of pull and merge requests. Their "merge" siblings are made anew by the forge whenever
# either side moves, and would turn every night into a change.
PULL_HEADS = re.compile(rb"refs/(?:pull|merge-requests)/[^/]+/head|refs/pull-requests/[^/]+/from")
# What is not taken is counted by these patterns: a server must not make up as many as it likes.
PULL_HEAD_PATTERNS = ("refs/pull/*/head", "refs/merge-requests/*/head", "refs/pull-requests/*/from")
_PULL_MERGES = re.compile(rb"refs/(?:pull|merge-requests|pull-requests)/[^/]+/merge")

# A file name's limit, less git's ".lock"; and enough room below any folder.
MAX_SEGMENT_BYTES = 250
MAX_NAME_BYTES = 2000

_FORBIDDEN = re.compile(
    rb"[\x00-\x20\x7f~^:?*\[\\]"  # control characters, space and git's own operators
    rb"|\.\.|@\{|//|\.$|/$"
    rb"|(?:^|/)\.|\.lock(?:/|$)"
)


def is_well_formed(name: bytes) -> bool:
    """Tell whether git would store a ref of that name. Source: git-check-ref-format(1)."""
    return name.startswith(b"refs/") and _FORBIDDEN.search(name) is None


def is_storable(name: bytes) -> bool:
    """Tell whether a repository of plain files can hold a ref of that name, and lock it.

    Servers that keep refs otherwise may have longer ones.
    """
    if len(name) <= MAX_SEGMENT_BYTES:
        return True
    return len(name) <= MAX_NAME_BYTES and all(
        len(segment) <= MAX_SEGMENT_BYTES for segment in name.split(b"/")
    )


def conflicting(names: AbstractSet[RefName]) -> set[RefName]:
    """Find names that cannot stand beside the others: one would be the other's folder.

    The deeper one is named, but for a name directly under ``refs/``, which could cost all of a
    namespace.
    """
    found = set()
    for name in names:
        for above in _folders(name):
            if above in names:
                found.add(name if "/" in above.removeprefix("refs/") else above)
    return found


def fitting(names: Iterable[RefName], others: AbstractSet[RefName]) -> set[RefName]:
    """Find the names that can stand beside others: neither is the other's folder."""
    folders = {above for name in others for above in _folders(name)}
    return {name for name in names if name not in folders and others.isdisjoint(_folders(name))}


def _folders(name: RefName) -> Iterator[RefName]:
    end = name.find("/", len("refs/"))
    while end != -1:
        yield RefName(name[:end])
        end = name.find("/", end + 1)


def in_order(refs: Mapping[RefName, ObjectId]) -> Mapping[RefName, ObjectId]:
    """Return refs sorted by the bytes of their names: themselves where they are, as a rule."""
    if all(one <= other for one, other in pairwise(map(_order, refs))):
        return refs
    return {name: refs[name] for name in sorted(refs, key=_order)}


def _order(name: RefName) -> str:
    # Compares as the bytes do, and takes no memory for usual names.
    return name if name.isascii() else to_bytes(name).decode("latin-1")


def is_selected(name: bytes, selection: Selection) -> bool:
    """Tell whether a capture takes the ref."""
    if not name.startswith(HIDDEN_PREFIXES):
        return True
    return bool(selection.pull_refs) and PULL_HEADS.fullmatch(name) is not None


def pattern_of(name: bytes) -> str:
    """Return what a ref that a capture does not take is counted under.

    One of `PULL_HEAD_PATTERNS`, the like for merges, or a hidden prefix with a star.
    """
    if PULL_HEADS.fullmatch(name) or _PULL_MERGES.fullmatch(name):
        above, _, last = name.rpartition(b"/")
        return f"{above.rpartition(b'/')[0].decode()}/*/{last.decode()}"
    return next(f"{prefix.decode()}*" for prefix in HIDDEN_PREFIXES if name.startswith(prefix))


def tell_not_selected(repositories: Iterable[Mapping[str, int]]) -> Iterator[str]:
    """Say which refs were left out by choice, and which by rule: a sentence for each, or none.

    Args:
        repositories: the number of refs of each that were not taken, by pattern.
    """
    counted = [counts for counts in repositories if counts]
    totals: Counter[str] = Counter()
    for counts in counted:
        totals.update(counts)
    heads = {pattern for pattern in totals if pattern in PULL_HEAD_PATTERNS}
    if heads:
        number, where = _in_repositories(counted, heads)
        yield f"{_refs(number)} of pull requests left out in {where}; --pull-refs takes them"
    if others := totals.keys() - heads:
        number, where = _in_repositories(counted, others)
        named = ", ".join(f"{totals[pattern]} {pattern}" for pattern in sorted(others))
        yield f"{_refs(number)} made by forges for themselves left out in {where}: {named}"


def _in_repositories(
    counted: Iterable[Mapping[str, int]], patterns: AbstractSet[str]
) -> tuple[int, str]:
    numbers = [sum(counts.get(pattern, 0) for pattern in patterns) for counts in counted]
    repositories = sum(number > 0 for number in numbers)
    return sum(numbers), f"{repositories} {'repository' if repositories == 1 else 'repositories'}"


def _refs(number: int) -> str:
    return "1 ref" if number == 1 else f"{number} refs"


def to_name(raw: bytes) -> RefName:
    """Turn the wire's bytes into a name; bytes that are not UTF-8 become surrogate escapes."""
    return RefName(raw.decode("utf-8", "surrogateescape"))


def to_bytes(name: str) -> bytes:
    """Turn a name back into the wire's bytes."""
    return name.encode("utf-8", "surrogateescape")
