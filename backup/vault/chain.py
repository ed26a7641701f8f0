"""Which bundles, in which order, give back a repository; and whether they are all there. Pure."""

from collections.abc import Iterable, Iterator, Mapping

from backup.model import StoredObject
from backup.vault.documents import BundleLine, Record


def differing(record: Record, stored: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Yield each object of a chain that is not stored as recorded, and what is wrong with it.

    Args:
        record: whose chain it is.
        stored: relative key to size in bytes, as listed.
    """
    for bundle in record.chain:
        size = stored.get(bundle.key)
        if size is None:
            yield bundle.key, "it is missing"
        elif size != bundle.size_bytes:
            yield bundle.key, f"it has {size} bytes, recorded were {bundle.size_bytes}"
        for key in bundle.documents:
            if key not in stored:
                yield key, "it is missing"


def missing(record: Record, stored: Mapping[str, int]) -> str:
    """Compare a chain with what is stored.

    Args:
        record: whose chain it is.
        stored: relative key to size in bytes, as listed.

    Returns:
        What is wrong with the first bundle that is not as recorded, or an empty string.
    """
    for key, problem in differing(record, stored):
        return f"{key}{problem.removeprefix('it')}"
    return ""


def unlisted(record: Record, record_key: str, stored: Mapping[str, int]) -> str:
    """Return the first object that a record's repository needs and a listing lacks; or nothing.

    A record that was read by its version may be hidden all the same: only a listing tells.

    Args:
        record: that was read.
        record_key: the relative key that it has.
        stored: relative key to size in bytes, as listed.
    """
    needed = [record_key]
    for bundle in record.chain:
        needed += [bundle.key, *bundle.documents]
    return next((key for key in needed if key not in stored), "")


def sizes(listed: Iterable[StoredObject], *, prefix: str) -> dict[str, int]:
    """Turn a listing into what `missing` compares with: keys relative to the root, and sizes."""
    return {stored.key.removeprefix(prefix): stored.size_bytes for stored in listed}


def base_and_increments(chain: Iterable[BundleLine]) -> tuple[int, int]:
    """Return the size of the first bundle and the sum of the others, in bytes."""
    base, *increments = (bundle.size_bytes for bundle in chain)
    return base, sum(increments)
