"""The last state of a repository that holds anything: of one that was emptied an earlier one.

Its newest record has no chain. What it had until then is what people want back, and what damage is
compared with.
"""

from collections.abc import Mapping

from backup.errors import ObjectNotFound
from backup.model import Destination
from backup.vault.documents import Entry, Record
from backup.vault.layout import Layout
from backup.vault.manifest import load_record


def records_to_chain(
    destination: Destination, layout: Layout, entry: Entry
) -> tuple[tuple[str, Record], ...]:
    """Read the newest record; where it has no chain those before it, up to the first that has.

    Returns:
        Relative keys and records, the newest first; none where the repository has no record.

    Raises:
        ObjectNotFound: one of them is not there.
        IntegrityError: one is damaged.
    """
    pinned = {pin.record for pin in entry.pins}
    found: list[tuple[str, Record]] = []
    key, version = entry.record, entry.record_version_id
    while key is not None:
        try:
            record = load_record(destination, layout, key, version=version)
        except ObjectNotFound:
            if found and key not in pinned:
                # Nothing keeps it from being pruned.
                break
            raise
        found.append((key, record))
        if record.chain:
            break
        key, version = record.previous, None
    return tuple(found)


def with_a_chain(records: Mapping[str, Record], newest: str) -> str:
    """Return the key of the last record that holds anything, as far as records are known."""
    key = newest
    while (record := records.get(key)) is not None and not record.chain:
        before = record.previous
        if before is None or before not in records:
            break
        key = before
    return key
