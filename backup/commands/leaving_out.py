"""What restore --all leaves out, and what is left of a repository that is damaged."""

from collections.abc import Collection, Sequence
from contextlib import suppress
from datetime import datetime

from backup.commands.drills import DrillState, load_drill_state
from backup.commands.finding import Found, captures_back
from backup.commands.known_damage import with_known_damage
from backup.errors import DestinationError, IntegrityError, ObjectNotFound
from backup.model import Destination
from backup.vault.layout import Layout, snapshot_of


def captures_without(
    destination: Destination, found: Found, damaged: Collection[str]
) -> tuple[str, ...] | None:
    """Return the captures of a repository that need none of some objects, the newest first.

    Args:
        destination: where the vault lies.
        found: the repository.
        damaged: relative keys.

    Returns:
        Snapshot ids; None where its records cannot be followed, and so nothing can be told.
    """
    captures = []
    try:
        for entry, record in captures_back(destination, found):
            needed = {entry.record, *(line.key for line in record.chain)}
            if needed.isdisjoint(damaged):
                captures.append(record.snapshot_id)
    except (IntegrityError, ObjectNotFound):
        return None
    return tuple(captures)


def why_left_out(
    destination: Destination, chosen: Sequence[Found], *, now: datetime
) -> tuple[str, ...]:
    """Return for each repository why it is not asked for; empty where it is.

    Requests: what verifications found, for each owner of whom something is not listed any more, and
    the records of what is damaged of it.
    """
    drills: dict[Layout, DrillState] = {}
    return tuple(_why(destination, found, drills, now=now) for found in chosen)


def _why(
    destination: Destination, found: Found, drills: dict[Layout, DrillState], *, now: datetime
) -> str:
    entry = found.entry
    if entry.absence is None:
        if entry.record is None and entry.status in ("empty", "skipped"):
            return f"there is nothing of it: {entry.reason or entry.status}"
        return ""
    since = f"not listed since {entry.absence.since:%Y-%m-%d}"
    if entry.record is None:
        return f"{since}, and nothing of it was ever stored"
    damaged = _known_damage(destination, found, drills, now=now)
    by_name = f"{since} (restore it by name)"
    if not damaged:
        return by_name
    captures = captures_without(destination, found, damaged)
    if captures is None:
        return f"{since}, and its newest state is damaged (--at may restore an earlier one by name)"
    if snapshot_of(entry.record) in captures:
        return by_name
    if not captures:
        return f"{since}, and nothing of it can be restored: all of its captures are damaged"
    left = "1 capture is" if len(captures) == 1 else f"{len(captures)} captures are"
    return (
        f"{since}, and its newest state is damaged: {left} left "
        f"(restore it by name with --at {captures[0]})"
    )


def _known_damage(
    destination: Destination, found: Found, drills: dict[Layout, DrillState], *, now: datetime
) -> frozenset[str]:
    """Return the keys of what is known to be damaged or missing of a repository's newest state."""
    # Without them what the manifest names still counts.
    with suppress(DestinationError):
        if found.layout not in drills:
            drills[found.layout] = load_drill_state(destination, found.layout, now=now)
    known = with_known_damage(
        destination,
        found.layout,
        {found.entry.identity: found.entry},
        drills.get(found.layout, DrillState()),
    )
    damaged = known[found.entry.identity].damaged
    return frozenset(one.key for one in damaged if one.repaired_at is None)


def what_is_left(destination: Destination, found: Found, damaged: Collection[str]) -> str:
    """Say which earlier state of a repository can be restored in place of one that is damaged.

    Args:
        destination: where the vault lies.
        found: the repository.
        damaged: relative keys of objects that are missing or damaged.
    """
    captures = captures_without(destination, found, damaged)
    if captures is None:
        return "an earlier snapshot may still restore with --at"
    if not captures:
        return "no earlier capture of it is without this damage"
    return f"restore an earlier state with --at {captures[0]}"
