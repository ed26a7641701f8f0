"""Which git objects a chain is known to hold: the proof that an increment lacks nothing.

A server leaves out of an increment what it believes the vault to have. Whether the vault has it is
looked up in what each capture noted of its own pack: the ids of its commits, of their root trees
and of its annotated tags. They stand in the record that was written with the pack; those of a large
full in a document beside its bundle. What is not found there may be there all the same (packs whose
check was the trailer alone are unknown); nothing is proved by it either way.
"""

from collections.abc import Collection, Iterator

from backup.errors import IntegrityError, ObjectNotFound
from backup.model import Destination, ObjectId, split_ids
from backup.vault.documents import Ids, Record
from backup.vault.layout import Layout, record_beside
from backup.vault.manifest import load, load_record


def not_held(
    destination: Destination, layout: Layout, record: Record, ids: Collection[ObjectId]
) -> set[ObjectId]:
    """Return those of some ids that the chain of a record is not known to hold.

    Requests: none where the record's own refs name them all, else one for each list that is read,
    until all are found: the full's first, which is the longest, then the increments', the newest
    first. A list that is missing or damaged proves nothing.

    Args:
        destination: where the vault lies.
        layout: the owner's root.
        record: whose chain it is.
        ids: in the object format of the record.
    """
    left = set(ids) - _named_by(record)
    lists = _lists(destination, layout, record)
    while left and (found := next(lists, None)) is not None:
        names, joined = found
        left -= names
        left.difference_update(split_ids(joined, record.object_format))
    return left


def _lists(
    destination: Destination, layout: Layout, record: Record
) -> Iterator[tuple[set[ObjectId], str]]:
    """Yield what the chain's captures noted: ids that refs had then, and the joined list."""
    yield set(), record.ids or ""
    base, *increments = record.chain
    for bundle in (base, *reversed(increments)):
        if bundle.ids is not None:
            yield set(), _ids_beside(destination, layout, bundle.ids, bundle.ids_sha256)
        elif bundle.snapshot_id != record.snapshot_id:
            yield _ids_in_record(destination, layout, record_beside(bundle.key))


def _ids_in_record(destination: Destination, layout: Layout, key: str) -> tuple[set[ObjectId], str]:
    try:
        record = load_record(destination, layout, key)
    except (IntegrityError, ObjectNotFound):
        return set(), ""
    return _named_by(record), record.ids or ""


def _ids_beside(destination: Destination, layout: Layout, key: str, sha256: str | None) -> str:
    try:
        return load(destination, layout.key(key), Ids, sha256=sha256).ids
    except (IntegrityError, ObjectNotFound):
        return ""


def _named_by(record: Record) -> set[ObjectId]:
    """Return the ids that a record's refs name: its chain holds them."""
    peeled = (line.peeled for line in record.refs if line.peeled is not None)
    return {ObjectId(oid) for oid in (*(line.id for line in record.refs), *peeled)}
