"""Ref names: which are well formed, and which a capture takes. Pure."""

import re
from collections.abc import Iterable

from backup.model import RefName, Selection

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
    return len(name) <= MAX_NAME_BYTES and all(
        len(segment) <= MAX_SEGMENT_BYTES for segment in name.split(b"/")
    )


def conflicting(names: Iterable[bytes]) -> set[bytes]:
    """Find names that cannot stand beside the others: one would be the other's folder.

    The deeper one is named, but for a name directly under ``refs/``, which could cost all of a
    namespace.
    """
    everything = set(names)
    found = set()
    for name in everything:
        parts = name.split(b"/")
        for depth in range(2, len(parts)):
            above = b"/".join(parts[:depth])
            if above in everything:
                found.add(above if depth == 2 else name)
    return found


def is_selected(name: bytes, selection: Selection) -> bool:
    """Tell whether a capture takes the ref."""
    if not name.startswith(HIDDEN_PREFIXES):
        return True
    return selection.pull_refs and PULL_HEADS.fullmatch(name) is not None


def to_name(raw: bytes) -> RefName:
    """Turn the wire's bytes into a name; bytes that are not UTF-8 become surrogate escapes."""
    return RefName(raw.decode("utf-8", "surrogateescape"))


def to_bytes(name: str) -> bytes:
    """Turn a name back into the wire's bytes."""
    return name.encode("utf-8", "surrogateescape")
