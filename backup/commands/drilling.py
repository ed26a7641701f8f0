"""What a verification notes of what it saw: whether known damage has passed, and its document."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

import backup
from backup.commands.clocks import disagreement
from backup.commands.drills import (
    DrillState,
    earlier_lines,
    found_again,
    passed_lines,
    reaches,
)
from backup.errors import DestinationError, DocumentTooLarge
from backup.model import Destination
from backup.results import DAMAGE_HINT, Damage
from backup.vault.documents import DamageLine, Drill, DrillLine, HolderLine, Record, encode
from backup.vault.fields import Depth
from backup.vault.layout import (
    Layout,
    is_bundle,
    is_record,
    lfs_oid,
    new_snapshot_id,
    snapshot_time,
)
from backup.vault.manifest import WINDOW, Identity


@dataclass(slots=True)
class Look:
    """What was seen of one repository's objects, by keys relative to the root.

    Attributes:
        needed: what its records name, of what is known to be damaged.
        archived: what lies in an archive.
        rebuilt: key of the record of which a repository was rebuilt; empty where none was.
        indexed: bundles that were read and indexed.
        unreadable_record: whether nobody can tell all that its records name.
        not_verified: why this machine could not look at all of it; empty where it could.
    """

    needed: set[str] = field(default_factory=set)
    archived: set[str] = field(default_factory=set)
    rebuilt: str = ""
    indexed: set[str] = field(default_factory=set)
    unreadable_record: bool = False
    not_verified: str = ""

    def note_needed(
        self,
        standing: Mapping[str, DamageLine],
        record_keys: Iterable[str],
        records: Iterable[Record],
    ) -> None:
        """Note what of the known damage the repository needs; files are noted on the way.

        Records that were not read have beginnings of the chains of those that were.
        """
        named = {*record_keys}
        for record in records:
            for line in record.chain:
                named.update((line.key, *line.documents))
        self.needed |= named & standing.keys()

    def sound(
        self,
        standing: Mapping[str, DamageLine],
        *,
        depth: Depth,
        damaged: Collection[str],
        records: Mapping[str, Record],
    ) -> frozenset[str]:
        """Return what has passed of the known damage, to the depth that it was found at.

        Args:
            standing: damage that was known before.
            depth: of this drill.
            damaged: keys of what it found.
            records: those that could be read, by key.
        """
        return frozenset(
            key
            for key in self.needed - self.archived - {*damaged}
            if reaches(self._seen(key, depth, records), standing[key].depth)
        )

    def _seen(self, key: str, depth: Depth, records: Mapping[str, Record]) -> Depth:
        """Return the depth to which an object was looked at, whatever the drill was asked for."""
        if self.not_verified and is_bundle(key):
            return "packs" if key in self.indexed else "objects"
        if depth != "restore" or not (is_bundle(key) or is_record(key)):
            return depth
        rebuilt = records.get(self.rebuilt)
        if rebuilt is not None and key in {self.rebuilt, *(line.key for line in rebuilt.chain)}:
            return "restore"
        bundles = {key}
        if is_record(key):
            # It was read. That its bundles together make the repository is not known.
            if key not in records:
                return "objects"
            bundles = {line.key for line in records[key].chain}
        return "packs" if bundles <= self.indexed else "objects"


@dataclass(slots=True)
class Looked:
    """What came of one repository.

    Attributes:
        needed: what its records name, of what is known to be damaged; None where nobody can tell.
        sound: what of that was looked at, to the depth at which it was damaged, and is not.
        archived: keys of objects that cannot be read now.
        name: of the repository, as people have it.
        not_verified: why this machine could not look at all of it; empty where it could.
        unsearched: packs of its newest state that nobody has searched for files of Git LFS.
    """

    line: DrillLine
    damaged: list[Damage]
    needed: frozenset[str] | None = frozenset()
    sound: frozenset[str] = frozenset()
    archived: frozenset[str] = frozenset()
    name: str = ""
    not_verified: str = ""
    unsearched: int = 0

    @property
    def counts(self) -> bool:
        """Whether the repository has had its turn: it was looked at, or something was found."""
        return not self.not_verified or bool(self.damaged)


def make_drill(
    before: DrillState,
    results: Sequence[Looked],
    found: Iterable[tuple[str, Damage]],
    *,
    there: Collection[Identity],
    known_since: Mapping[str, datetime],
    repaired: Mapping[str, datetime],
    knows_all: bool,
    depth: Depth,
    began: datetime,
    ended: datetime,
) -> Drill:
    """Make the document that says what was found, and what stands of what was found before.

    Args:
        before: what earlier drills say.
        results: of the repositories that were looked at.
        found: the damage, each with the object's key.
        there: every repository that a manifest names.
        known_since: what runs have found before, by its key, and when.
        repaired: files that runs have stored again, by their keys, and when.
        knows_all: whether every manifest could be read.
        depth: of the drill.
        began: when it began.
        ended: when it ended.
    """
    damaged = tuple(
        found_again(
            _line(key, one, depth=depth, found_at=ended, since=known_since.get(key)),
            _before(before.standing.get(key), known_since.get(key), repaired.get(key)),
        )
        for key, one in found
    )
    found_now = {line.key for line in damaged}
    left = [line for key, line in before.standing.items() if key not in found_now]
    counted = [one for one in results if one.counts]
    looked = {(one.line.kind, one.line.host_id): one for one in counted}
    passed = {
        line.key: line
        for line in left
        if _has_passed(line, looked, there=there, knows_all=knows_all)
    }
    return Drill(
        format=1,
        document="drill",
        snapshot_id=new_snapshot_id(began),
        started_at=began,
        finished_at=ended,
        version=backup.__version__,
        depth=depth,
        checked=tuple(result.line for result in counted),
        damaged=damaged,
        standing=tuple(line for line in left if line.key not in passed),
        passed=passed_lines(passed.values()),
        merged=tuple(one for one in before.merged if snapshot_time(one) >= began - WINDOW),
        earlier=earlier_lines(before, repositories=there, checked=looked, depth=depth),
    )


def _before(
    line: DamageLine | None, since: datetime | None, repaired_at: datetime | None
) -> DamageLine | None:
    """Return what stood of an object; without its time if it is damaged anew.

    A file that was stored again since then was whole, and what was accepted until then is over. If
    it was lost after that, a run has noted that it is missing in place of when it was stored.
    """
    if line is None or line.found_at is None:
        return line
    again = max(filter(None, (repaired_at, since if lfs_oid(line.key) else None)), default=None)
    if again is None or again <= line.found_at:
        return line
    return line.model_copy(update={"found_at": None, "since": None})


def _has_passed(
    line: DamageLine,
    looked: Mapping[Identity, Looked],
    *,
    there: Collection[Identity],
    knows_all: bool,
) -> bool:
    """Return whether an object is sound now, or nothing in the vault names it any more."""
    if any(line.key in one.sound for one in looked.values()):
        return True
    if not knows_all:
        # What a manifest names that cannot be read is not known.
        return False
    for holder in line.holders:
        if holder.identity not in there:
            continue
        one = looked.get(holder.identity)
        if one is None or one.needed is None or line.key in one.needed:
            return False
    return True


def _line(
    key: str, one: Damage, *, depth: Depth, found_at: datetime, since: datetime | None
) -> DamageLine:
    return DamageLine(
        key=key,
        problem=one.problem,
        repositories=one.repositories,
        snapshots=one.snapshots,
        depth=depth,
        found_at=found_at,
        since=since,
        holders=tuple(
            HolderLine(host_id=host_id, kind=kind) for kind, host_id in sorted(one.holders)
        ),
    )


def together(damaged: Iterable[Damage]) -> list[Damage]:
    """Tell of each object once, whoever needs it: a file may be of several repositories."""
    found: dict[tuple[str, str], Damage] = {}
    for one in damaged:
        # An error names the object, which is named anyway.
        is_named = one.problem.startswith(f"{one.uri} is ")
        problem = f"it{one.problem.removeprefix(one.uri)}" if is_named else one.problem
        known = found.get((one.uri, problem))
        if known is None:
            found[one.uri, problem] = replace(one, problem=problem)
            continue
        found[one.uri, problem] = replace(
            known,
            repositories=tuple(sorted({*known.repositories, *one.repositories})),
            snapshots=tuple(sorted({*known.snapshots, *one.snapshots})),
            private=known.private or one.private,
            holders=tuple(sorted({*known.holders, *one.holders})),
            # Whoever read the chain knows more than whoever read the document alone.
            fix=DAMAGE_HINT if DAMAGE_HINT in (known.fix, one.fix) else known.fix,
        )
    return [*found.values()]


def of_snapshots(damaged: list[Damage], there: set[str]) -> list[Damage]:
    """Keep the damage that a snapshot which is still there depends on, and name no other."""
    kept = []
    for one in damaged:
        snapshots = tuple(snapshot for snapshot in one.snapshots if snapshot in there)
        if snapshots or not one.snapshots:
            kept.append(replace(one, snapshots=snapshots))
    return kept


def time_of_drill(destination: Destination, ours: datetime) -> datetime:
    """Return the time by which the result is dated.

    Where the store has quite another clock nobody here can tell which of them is right. By the
    earlier one what is found would lie behind what was noted before, and might never be read.
    """
    store = destination.now()
    return ours if store is None or not disagreement(destination, ours) else max(ours, store)


def note_drill(destination: Destination, layout: Layout, drill: Drill, *, words: str) -> str:
    """Put the result into the vault, or say why not.

    Damage is damage whatever the time. That nothing was found would be said of another day.

    Args:
        destination: where the vault lies.
        layout: the owner's root.
        drill: the result.
        words: how this machine's clock and the store's differ, if they do.
    """
    if words and not drill.damaged:
        return words
    try:
        destination.put_if_absent(layout.drill(drill.snapshot_id), encode(drill))
    except (DestinationError, DocumentTooLarge) as error:
        return error.message
    return ""
