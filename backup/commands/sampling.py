"""Which repositories a verification looks at when it may not look at all of them. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from backup.commands.drills import DrillState
from backup.vault.fields import Depth
from backup.vault.layout import is_snapshot_id, snapshot_of, snapshot_time
from backup.vault.manifest import Identity

# Of what nobody ever looked at. It must be possible to be sooner than that.
_NEVER = datetime.min.replace(tzinfo=UTC) + timedelta(days=365)
# So much sooner comes the turn of what nobody has looked into. A repository that changes each night
# can be so each time: with a tenth a week every other one still has its turn within 90 days.
_SOONER = timedelta(days=14)
# Longer than a run takes: what it stored may not have been there yet when a drill began within it.
_LONGEST_RUN = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Candidate:
    """A repository that may be looked at.

    Attributes:
        name: how people name it; it decides between those of which nothing else does.
        record: key of its newest record.
        unproven: what is in a pack of its chain was never looked at.
        size_bytes: of the bundles of its newest chain.
    """

    identity: Identity
    name: str
    record: str
    unproven: bool = False
    size_bytes: int = 0


def choose(
    candidates: Sequence[Candidate],
    drills: DrillState,
    *,
    depth: Depth,
    percent: int,
    most_bytes: int | None,
) -> frozenset[Identity]:
    """Choose those whose turn it is: the longest not looked at, unproven ones two weeks sooner.

    A look counts whatever came of it, or what is damaged or archived would be chosen each time.

    Args:
        candidates: every repository of the vault.
        drills: when each was last looked at.
        depth: how much is to be proved; a look to a lesser depth does not count.
        percent: of the number of repositories, rounded up.
        most_bytes: of their chains together; None for no limit. What does not fit is passed over
            until it is first: that one is chosen at any size.
    """
    if percent == 100 and most_bytes is None:
        return frozenset(one.identity for one in candidates)

    def order(one: Candidate) -> tuple[datetime, str]:
        last = drills.last_look(one.identity, depth) or _NEVER
        # What takes a whole drill has its turn when all others had theirs.
        fits = most_bytes is None or one.size_bytes <= most_bytes
        return last - _SOONER if fits and _is_unproven(one, drills) else last, one.name

    most = -(-len(candidates) * percent // 100)
    chosen: list[Identity] = []
    left = most_bytes
    for one in sorted(candidates, key=order):
        if len(chosen) == most:
            break
        if left is not None:
            if chosen and one.size_bytes > left:
                continue
            left -= one.size_bytes
        chosen.append(one.identity)
    return frozenset(chosen)


def _is_unproven(one: Candidate, drills: DrillState) -> bool:
    """Return whether no drill has read the packs since the newest record was made."""
    if not one.unproven:
        return False
    last = drills.last_look(one.identity, "packs")
    made_by = snapshot_of(one.record)
    if last is None or not is_snapshot_id(made_by):
        return True
    return last < snapshot_time(made_by) + _LONGEST_RUN
