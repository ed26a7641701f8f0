"""What goes wrong tonight: drawn by chance, each kind switchable, and all of it said."""

import gzip
import json
import os
import random
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from threading import Lock
from typing import Literal
from unittest.mock import patch

from backup.config.names import Depth
from backup.model import Destination
from backup.stopping import Stop
from tests.soak.forge import cuts_packs, out_of_order, sends_empty_packs, sends_no_trees
from tests.soak.stores import Store
from tests.soak.world import World
from tests.support.faults import (
    DestinationFault,
    FaultyDestination,
    GitShim,
    How,
    WireAction,
    WireFault,
)

KINDS = {
    "files": "files of Git LFS are pushed, some of them missing at the source",
    "moves": "repositories are added, deleted, renamed, transferred, emptied",
    "servers": "a server fails for one repository: 500, a cut pack, a block, a wire that breaks",
    "liars": "a server answers an increment without the objects that it needs",
    "ends": "the run is killed, interrupted, or out of time",
    "bursts": "the store fails several times in a row",
    "prunes": "snapshots are pruned, sometimes cut off in the middle",
    "drills": "the vault is verified, whole or by samples",
    "damage": "a bundle, record, index or file in the vault is changed, cut or removed",
    "overwrites": "the same by a new version, in a store that keeps the old one",
    "markers": "the same by a delete marker, in a store that keeps what is below",
    "manifests": "the newest manifest is deleted, or made unreadable",
    "clocks": "this machine's clock is wrong for a night",
    "forgeries": "someone who may add writes empty successes with old dates",
}

Ending = Literal["whole", "killed", "interrupted", "out of time", "errors"]
_CLOCK_ERRORS = (
    timedelta(days=-3),
    timedelta(days=3),
    timedelta(minutes=-20),
    timedelta(minutes=20),
)


class Killed(BaseException):
    """The process is dead: nothing that it would have done happens any more."""


@dataclass
class Tonight:
    """What was drawn for one night.

    Attributes:
        ends_at: the operation of the store at which the run ends, or errors begin.
        wire: what happens to one repository of the folder on git's wire, and its name.
        log: all of it, in words.
    """

    clock_error: timedelta = timedelta()
    ending: Ending = "whole"
    ends_at: int = 0
    how: How = "fail"
    with_checkpoints: bool = False
    wire: tuple[WireFault, str] | None = None
    struck: set[str] = field(default_factory=set)
    blocked: set[str] = field(default_factory=set)
    drill: tuple[Depth, int] | None = None
    prune: Literal["", "whole", "cut off"] = ""
    prune_ends_at: int = 0
    log: list[str] = field(default_factory=list)


class HurriedStop(Stop):
    """Waits for nothing: the servers of a soak are as they are all night."""

    def sleep(self, seconds: float) -> None:
        self.check()


class EndingDestination(FaultyDestination):
    """Does something at one operation, or dies: then it takes and gives nothing any more."""

    def __init__(
        self,
        inner: Destination,
        *faults: DestinationFault,
        at: int = -1,
        then: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(inner, *faults)
        self._at = at
        self._then = then or self._die
        self._counted = 0
        self._count_lock = Lock()
        self.is_dead = False

    def before(self, operation: str, key: str) -> DestinationFault | None:
        with self._count_lock:
            self._counted += 1
            is_due = self._counted == self._at
        if is_due:
            self._then()
        if self.is_dead:
            raise Killed
        return super().before(operation, key)

    def _die(self) -> None:
        self.is_dead = True


class FakeSeconds:
    """A monotonic clock that stands still until it is made to jump."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def jump(self) -> None:
        self.now += 10_000.0


def ending(tonight: Tonight, inner: Destination) -> tuple[EndingDestination, Stop]:
    """Make the destination and the stop of a run that ends as it is drawn."""
    seconds = FakeSeconds()
    stop = HurriedStop(deadline_seconds=3600, margin_seconds=60, monotonic=seconds)
    faults: list[DestinationFault] = []
    if tonight.ending == "errors":
        faults = [DestinationFault(tonight.ends_at + n, how=tonight.how) for n in range(5)]
    what: dict[str, Callable[[], None]] = {
        "interrupted": stop.interrupt,
        "out of time": seconds.jump,
    }
    at = -1 if tonight.ending in {"whole", "errors"} else tonight.ends_at
    return EndingDestination(inner, *faults, at=at, then=what.get(tonight.ending)), stop


@contextmanager
def wire_faults(tonight: Tonight, folder: Path) -> Iterator[None]:
    """Have git's wire fail for one repository of the folder; the others notice nothing."""
    if tonight.wire is None:
        yield
        return
    fault, name = tonight.wire
    shim = GitShim(folder, fault, match=f"/{name}.git", times=None)
    with patch.dict(os.environ, {"PATH": shim.path}):
        yield


class Troubles:
    """Draws what happens.

    Args:
        seed: each kind has its own chance of it, so that one that is switched off changes nothing
            in when the others strike.
        without: kinds that never happen.
        intensity: how much more often than by default they do.

    Attributes:
        struck: how often each kind did.
    """

    def __init__(self, seed: int, without: frozenset[str], intensity: float = 1.0) -> None:
        self._chances = {kind: random.Random(f"{seed} {kind}") for kind in KINDS}
        self._without = without
        self._intensity = intensity
        self.struck: Counter[str] = Counter()
        self._operations = 60

    def chance(self, kind: str) -> random.Random:
        return self._chances[kind]

    def strikes(self, kind: str, probability: float) -> bool:
        """Draw whether a kind of trouble strikes."""
        drawn = self._chances[kind].random() < probability * self._intensity
        self.struck[kind] += drawn and kind not in self._without
        return drawn and kind not in self._without

    def remember(self, operations: int) -> None:
        """Note how many operations a run takes, to end the next one in its middle."""
        self._operations = max(20, operations)

    def people(self, world: World) -> None:
        """Let a day pass at the sources."""
        for one in world.chosen(max(1, len(world.residents) // 6)):
            world.live(one)
        if self.strikes("files", 0.4):
            for one in world.chosen(2):
                world.add_files(one, missing=self.chance("files").random() < 0.2)
        if self.strikes("moves", 0.5):
            move = self.chance("moves").choice(("add", "remove", "rename", "transfer", "empty"))
            (one,) = world.chosen(1)
            if move == "add":
                world.add()
            elif move == "empty":
                world.empty(one)
            elif move == "rename":
                world.rename(one)
            else:
                world.remove(one, transfer=move == "transfer")
                world.add()

    def draw(self, world: World) -> Tonight:
        """Draw what will happen to run, verification and prune."""
        tonight = Tonight()
        self._draw_servers(world, tonight)
        if self.strikes("clocks", 0.06):
            tonight.clock_error = self.chance("clocks").choice(_CLOCK_ERRORS)
            minutes = tonight.clock_error.total_seconds() / 60
            tonight.log.append(f"this machine's clock is {minutes:+.0f} minutes wrong")
        self._draw_ending(tonight)
        if self.strikes("drills", 0.3):
            chance = self.chance("drills")
            depth: Depth = chance.choice(("objects", "packs", "restore"))
            tonight.drill = depth, chance.choice((100, 100, 25))
        if self.strikes("prunes", 0.3):
            chance = self.chance("prunes")
            tonight.prune = chance.choice(("whole", "whole", "cut off"))
            tonight.prune_ends_at = chance.randrange(10, 200)
        return tonight

    def _draw_ending(self, tonight: Tonight) -> None:
        if self.strikes("ends", 0.12):
            chance = self.chance("ends")
            tonight.ending = chance.choice(("killed", "interrupted", "out of time"))
        elif self.strikes("bursts", 0.08):
            chance = self.chance("bursts")
            tonight.ending = "errors"
            tonight.how = chance.choice(("fail", "lost", "short"))
        else:
            return
        tonight.ends_at = chance.randrange(4, self._operations)
        tonight.with_checkpoints = chance.random() < 0.5
        tonight.log.append(f"the run: {tonight.ending} at operation {tonight.ends_at}")

    def _draw_servers(self, world: World, tonight: Tonight) -> None:
        world.forge.faults.clear()
        world.forge.blocked.clear()
        if self.strikes("liars", 0.12):
            chance = self.chance("liars")
            one = chance.choice([one for one in world.residents if one.is_on_forge])
            lie = chance.choice((sends_empty_packs, sends_no_trees))
            world.push(one)
            world.forge.faults[one.name] = lie(one.path)
            tonight.struck.add(one.host_id)
            tonight.log.append(f"{one.name}: its server {lie.__name__}")
        if not self.strikes("servers", 0.25):
            return
        chance = self.chance("servers")
        one = chance.choice(world.residents)
        tonight.struck.add(one.host_id)
        # Of what did not change nobody asks for objects.
        world.push(one)
        if not one.is_on_forge:
            actions: tuple[WireAction, ...] = ("cut", "kill", "omit")
            action = chance.choice(actions)
            fault = WireFault(action, answer=2, packet=chance.choice((1, 2)))
            tonight.wire = fault, one.name
            tonight.log.append(f"{one.name}: its wire: {action}")
            return
        how = chance.choice(("blocks", "500", "cuts"))
        if how == "blocks":
            world.forge.blocked.add(one.host_id)
            tonight.blocked.add(one.host_id)
        elif how == "500":
            world.forge.faults[one.name] = out_of_order
        else:
            world.forge.faults[one.name] = cuts_packs(one.path)
        tonight.log.append(f"{one.name}: its server: {how}")


def spoiled(data: bytes, chance: random.Random) -> bytes:
    """Change one byte or cut the end off, so that it is certain to be noticed."""
    if chance.random() < 0.4 or len(data) < 40:
        return data[: len(data) // 2]
    # The first bytes of a gzip stream are read by nobody.
    at = chance.randrange(12, len(data))
    return data[:at] + bytes([data[at] ^ 0x10]) + data[at + 1 :]


def forge_success(store: Store, manifest: str, root: str, *, night: int) -> str:
    """Write an empty success for the end of a manifest's day, as who may only add could.

    Args:
        store: where to.
        manifest: whose day is taken.
        root: of the owner.
        night: of this one; written over, an earlier one would be damage of another kind.
    """
    document = json.loads(gzip.decompress(store.read(manifest)))
    day = document["finished_at"][:10]
    snapshot_id = f"{day.replace('-', '')}T235900Z-feed{night:04x}"
    document |= {
        "snapshot_id": snapshot_id,
        "started_at": f"{day}T23:59:00Z",
        "finished_at": f"{day}T23:59:59Z",
        "entries": [],
        "merged": [],
        "problems": [],
        "complete": True,
        "result": "success",
    }
    key = f"{root}snapshots/{snapshot_id}.json.gz"
    store.put(key, gzip.compress(json.dumps(document).encode()))
    return key
