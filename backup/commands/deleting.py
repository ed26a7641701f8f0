"""Deleting one kind of object after the other, for prune.

A store deletes what one request names in any order, and may refuse single keys of it. So no request
names objects of two kinds, and the next kind is begun when all of the one before is gone: what a
manifest needs is there as long as the manifest is.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import IntEnum
from itertools import groupby, islice

from backup.model import Destination, Key
from backup.stopping import Stop
from backup.vault.layout import is_bundle, is_record

_DELETED_AT_ONCE = 1000


class Kind(IntEnum):
    """Kinds of objects, in the order in which they are deleted; none needs one before it."""

    MANIFEST = 0
    CHECKPOINT = 1
    RECORD = 2
    BESIDE_RECORD = 3
    BUNDLE = 4
    EXPORT = 5
    FILE = 6


@dataclass(frozen=True, slots=True)
class Candidate:
    """An object that goes."""

    kind: Kind
    key: Key
    size_bytes: int


@dataclass(slots=True)
class Deleted:
    """What became of objects that go; filled while they are deleted.

    Attributes:
        freed_bytes: given back by the store.
        marked_bytes: of objects that a store with versions keeps as such.
        locked: sizes of objects, and until when each is locked.
    """

    freed_bytes: int = 0
    marked_bytes: int = 0
    locked: list[tuple[int, datetime]] = field(default_factory=list)


def kind_of(key: str) -> Kind:
    """Return the kind of an object in a repository's folder."""
    if is_bundle(key):
        return Kind.BUNDLE
    return Kind.RECORD if is_record(key) else Kind.BESIDE_RECORD


def delete_in_order(
    destination: Destination,
    candidates: Iterable[Candidate],
    deleted: Deleted,
    *,
    dry_run: bool,
    stop: Stop,
) -> None:
    """Delete objects kind by kind; in a dry run only look which of them are locked.

    Raises:
        DestinationError: the store refuses one; nothing of the kinds after it was deleted.
    """
    ordered = sorted(candidates, key=lambda one: one.kind)
    for _, kind in groupby(ordered, key=lambda one: one.kind):
        while some := [*islice(kind, _DELETED_AT_ONCE)]:
            stop.check()
            _delete(destination, some, deleted, dry_run=dry_run)


def _delete(
    destination: Destination, some: Sequence[Candidate], deleted: Deleted, *, dry_run: bool
) -> None:
    size_bytes = sum(one.size_bytes for one in some)
    until = destination.locked_until(one.key for one in some)
    deleted.locked += [(one.size_bytes, until[one.key]) for one in some if one.key in until]
    if dry_run:
        return
    if destination.delete([one.key for one in some]):
        deleted.marked_bytes += size_bytes
    else:
        deleted.freed_bytes += size_bytes
