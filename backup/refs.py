"""Ref names: which are well formed, and which a capture takes. Pure."""

import re

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

_FORBIDDEN = re.compile(
    rb"[\x00-\x20\x7f~^:?*\[\\]"  # control characters, space and git's own operators
    rb"|\.\.|@\{|//|\.$|/$"
    rb"|(?:^|/)\.|\.lock(?:/|$)"
)


def is_well_formed(name: bytes) -> bool:
    """Tell whether git would store a ref of that name. Source: git-check-ref-format(1)."""
    return name.startswith(b"refs/") and _FORBIDDEN.search(name) is None


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
