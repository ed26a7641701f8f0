"""What verifications found so far: the damage that stands, and who was last looked at when.

Each drill carries on what the drills before it found and what has not passed since. So the newest
one is all there is to read, with those of the last days that it did not know: they ran beside it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from backup.errors import IntegrityError, ObjectNotFound
from backup.model import Destination
from backup.vault.clocks import FUTURE_TOLERANCE
from backup.vault.documents import (
    DamageLine,
    Drill,
    EarlierLine,
    EntryDamage,
    HolderLine,
    PassedLine,
)
from backup.vault.fields import Depth
from backup.vault.layout import Layout, drill_of, snapshot_time
from backup.vault.manifest import WINDOW, Identity, load

_RANKS: Mapping[Depth, int] = {"objects": 0, "packs": 1, "restore": 2}
LastLooks = Mapping[tuple[Identity, Depth], datetime]


@dataclass(frozen=True, slots=True)
class DrillState:
    """What the drills of one owner say together.

    Attributes:
        standing: damage that was found and has not passed since, by the object's key.
        last_looks: when each repository was last looked at, to each depth.
        newest: the drill that finished last; None where there is none.
        merged: ids of all drills of the last days that are behind this.
        is_complete: whether every drill that counts could be read; where not, damage that is not
            among `standing` need not have passed.
        latest: what is dated later is of the future.
    """

    standing: Mapping[str, DamageLine] = field(default_factory=dict)
    last_looks: LastLooks = field(default_factory=dict)
    newest: Drill | None = None
    merged: tuple[str, ...] = ()
    is_complete: bool = False
    latest: datetime | None = None

    def has_judged(self, found_at: datetime) -> bool:
        """Return whether damage that was found then has passed where no drill speaks of it.

        Only a drill that began later knew of it. One that was there may have been taken away.
        """
        if not self.is_complete or self.newest is None or self.latest is None:
            return False
        # A wrong clock has dated it. No drill would begin later for as long.
        return self.newest.started_at >= found_at or found_at > self.latest

    def of_holders(self) -> dict[Identity, list[DamageLine]]:
        """Return the damage that stands by the repositories that need the object."""
        found: dict[Identity, list[DamageLine]] = {}
        for line in self.standing.values():
            for holder in line.holders:
                found.setdefault(holder.identity, []).append(line)
        return found

    def last_look(self, identity: Identity, depth: Depth) -> datetime | None:
        """Return when a repository was last looked at, to that depth or a greater one."""
        times = (
            self.last_looks.get((identity, other)) for other in _RANKS if reaches(other, depth)
        )
        return max((time for time in times if time is not None), default=None)


def with_noted(
    state: DrillState, noted: Iterable[tuple[Identity, Iterable[EntryDamage]]]
) -> DrillState:
    """Take up what drills have found that are not there any more, as entries have noted it."""
    standing = dict(state.standing)
    for (kind, host_id), lines in noted:
        for one in lines:
            if one.found_by != "verify" or one.key in state.standing:
                continue
            if state.has_judged(one.found_at):
                continue
            line = DamageLine(
                key=one.key,
                problem=one.problem,
                depth=one.depth,
                found_at=one.found_at,
                holders=(HolderLine(host_id=host_id, kind=kind),),
            )
            standing[one.key] = found_again(line, standing.get(one.key))
    return replace(state, standing=standing)


def reaches(depth: Depth, other: Depth) -> bool:
    """Return whether a depth is the other one or a greater one."""
    return _RANKS[depth] >= _RANKS[other]


def deeper(depth: Depth, other: Depth) -> Depth:
    """Return the greater of two depths."""
    return depth if reaches(depth, other) else other


def load_drill_state(destination: Destination, layout: Layout, *, now: datetime) -> DrillState:
    """Read what drills found; as a rule by one listing and one read.

    A drill whose document cannot be read is passed over. One from the future counts, and displaces
    none.

    Raises:
        DestinationError: the drills cannot be listed or read.
    """
    ids = [
        snapshot_id
        for stored in destination.list(layout.folder("drills"))
        if (snapshot_id := drill_of(layout, stored.key))
    ]
    latest = now + FUTURE_TOLERANCE
    past = [one for one in ids if snapshot_time(one) <= latest]
    since = snapshot_time(max(past)) - WINDOW if past else latest
    recent = sorted((one for one in ids if snapshot_time(one) >= since), reverse=True)
    # The newest of the present first: it names nearly all the others.
    order = sorted(recent, key=lambda one: snapshot_time(one) > latest)
    found: dict[str, Drill] = {}
    covered: set[str] = set()
    is_complete = bool(order)
    for snapshot_id in order:
        if snapshot_id in covered:
            continue
        try:
            drill = load(destination, layout.drill(snapshot_id), Drill)
        except (IntegrityError, ObjectNotFound):
            is_complete = False
            continue
        found[snapshot_id] = drill
        covered.update(drill.merged)
    drills = [drill for key, drill in found.items() if key not in covered]
    return _together(drills, merged=covered | found.keys(), latest=latest, is_complete=is_complete)


def _together(
    drills: Sequence[Drill], *, merged: Iterable[str], latest: datetime, is_complete: bool
) -> DrillState:
    passed: dict[str, datetime] = {}
    for one in (line for drill in drills for line in drill.passed):
        passed[one.key] = max(one.found_at, passed.get(one.key, one.found_at))
    standing: dict[str, DamageLine] = {}
    for drill in sorted(drills, key=lambda one: one.finished_at):
        for line in (*drill.standing, *drill.damaged):
            found_at = line.found_at or drill.finished_at
            if not line.holders or (line.key in passed and found_at <= passed[line.key]):
                continue
            stamped = line.model_copy(update={"found_at": found_at})
            standing[line.key] = found_again(stamped, standing.get(line.key))
    present = [drill for drill in drills if snapshot_time(drill.snapshot_id) <= latest]
    return DrillState(
        standing=standing,
        last_looks=_last_looks(drills, latest=latest),
        newest=max(present, key=lambda drill: drill.finished_at, default=None),
        merged=tuple(sorted(merged)),
        is_complete=is_complete,
        latest=latest,
    )


def found_again(line: DamageLine, before: DamageLine | None) -> DamageLine:
    """Join what is known of one damaged object; the later finding words it."""
    if before is None:
        return line
    holders = {one.identity: one for one in (*before.holders, *line.holders)}
    return line.model_copy(
        update={
            "depth": deeper(line.depth, before.depth),
            "repositories": tuple(sorted({*before.repositories, *line.repositories})),
            "snapshots": tuple(sorted({*before.snapshots, *line.snapshots})),
            "holders": tuple(holders[identity] for identity in sorted(holders)),
            "since": min(
                (one for one in (first_found(before), first_found(line)) if one), default=None
            ),
        }
    )


def first_found(line: DamageLine) -> datetime | None:
    """Return when damage that stands was found first."""
    return line.since or line.found_at


def _last_looks(
    drills: Iterable[Drill], *, latest: datetime
) -> dict[tuple[Identity, Depth], datetime]:
    found: dict[tuple[Identity, Depth], datetime] = {}

    def take(identity: Identity, depth: Depth, at: datetime) -> None:
        # By a look that a wrong clock has dated it would not be its turn for as long.
        if at <= latest:
            found[identity, depth] = max(at, found.get((identity, depth), at))

    for drill in drills:
        for line in drill.checked:
            take((line.kind, line.host_id), drill.depth, drill.finished_at)
        for earlier in drill.earlier:
            for name in earlier.repositories:
                take(_identity(name), earlier.depth, earlier.at)
    return found


def earlier_lines(
    state: DrillState,
    *,
    repositories: Iterable[Identity],
    checked: Iterable[Identity],
    depth: Depth,
) -> tuple[EarlierLine, ...]:
    """Return what a new drill carries on of when repositories were last looked at.

    Args:
        state: what the drills before it say.
        repositories: all that the vault has.
        checked: those of the new drill.
        depth: of the new drill.
    """
    there, now = set(repositories), set(checked)
    groups: dict[tuple[Depth, datetime], list[str]] = {}
    for (identity, known), at in state.last_looks.items():
        if identity in there and not (identity in now and reaches(depth, known)):
            groups.setdefault((known, at), []).append("/".join(identity))
    return tuple(
        EarlierLine(depth=known, at=at, repositories=tuple(sorted(groups[known, at])))
        for known, at in sorted(groups)
    )


def passed_lines(lines: Iterable[DamageLine]) -> tuple[PassedLine, ...]:
    """Return what a drill says of damage that it found no more."""
    return tuple(
        PassedLine(key=line.key, found_at=line.found_at)
        for line in lines
        if line.found_at is not None
    )


def _identity(name: str) -> Identity:
    kind, _, host_id = name.partition("/")
    # What no version of this program wrote names a repository that nobody has.
    return kind, host_id  # type: ignore[return-value]
