"""Whatever tolerated clocks runs have, and whichever saw which: one of them is the newest to all.

Real runs by the real program, over minutes, hours and days, two at once among them. By default 25
histories of up to 5 runs, a second each.
"""

import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from backup.commands.as_of import contents_at
from backup.commands.finding import snapshots
from backup.commands.prune import PruneRequest, prune
from backup.commands.run import RunOptions, run
from backup.commands.status import status
from backup.destinations.memory import MemoryDestination
from backup.model import Key, StoredObject
from backup.retention import Rules
from backup.sources.plain import FolderSource
from backup.stopping import Stop
from backup.vault.layout import Layout
from backup.vault.manifest import Identity, State, list_documents, load_record, load_state
from tests.support.faults import OWNER, assert_nothing_false
from tests.support.git import commit_chain, init_bare, run_git, set_head, update_refs
from tests.support.times import Timed
from tests.support.vaults import Silence

BEGIN = datetime(2026, 1, 1, 22, 40, tzinfo=UTC)
LAYOUT = Layout.of(host="folder", owner=OWNER)
MAIN = b"refs/heads/main"
NAMES = ("one", "two")
DEEP = settings.get_current_profile_name() == "deep"


@dataclass(frozen=True)
class Turn:
    """A run, and what happens before it.

    Attributes:
        minutes: since the run before.
        skew: by how many minutes its clock is ahead of the right one.
        pushes: repositories that get a commit.
        blind: how many of the run's looks do not show what the run before it has published; with
            many neither of both knows of the other one.
    """

    minutes: int
    skew: int
    pushes: tuple[str, ...] = ()
    blind: int = 0


turns = st.builds(
    Turn,
    minutes=st.sampled_from([1, 2, 10, 20, 45, 60, 24 * 60]),
    skew=st.integers(-14, 14),
    pushes=st.lists(st.sampled_from(NAMES), unique=True).map(tuple),
    blind=st.sampled_from([0, 0, 0, 1, 2, 99]),
)
rules = st.builds(Rules, hourly=st.integers(0, 2), daily=st.integers(0, 2), weekly=st.just(1))


class Blind(Timed):
    """Does not show some manifests at the first looks, since they are not there yet."""

    _unseen: frozenset[Key] = frozenset()
    _looks = 0

    def hide(self, keys: frozenset[Key], looks: int) -> None:
        self._unseen, self._looks = keys, looks

    def list(self, prefix: str, *, versions: bool = False) -> Iterator[StoredObject]:
        found = super().list(prefix, versions=versions)
        if prefix != LAYOUT.folder("snapshots") or not self._looks:
            return found
        self._looks -= 1
        return (one for one in found if one.key not in self._unseen)


class World:
    """Two repositories and their vault, whose own clock is right."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.vault = MemoryDestination()
        self.times: dict[Key, datetime] = {}
        self.now = BEGIN
        for name in NAMES:
            self.push(init_bare(folder / f"{name}.git"), "begins")

    def push(self, path: Path, label: str) -> None:
        seen = run_git("rev-parse", "--verify", "--quiet", MAIN, cwd=path).stdout.strip()
        tip = commit_chain(path, 1, start=seen or None, label=label.encode())[-1]
        update_refs(path, {MAIN: tip})
        set_head(path, MAIN)

    def live(self, turn: Turn) -> str:
        """Push, and back up by a clock that may be wrong; return the snapshot's id."""
        self.now += timedelta(minutes=turn.minutes)
        for name in turn.pushes:
            self.push(self.folder / f"{name}.git", f"{self.now}")
        store = Blind(self.vault, lambda: self.now, self.times)
        there = [one.key for one in store.list(LAYOUT.folder("snapshots"))] if turn.blind else []
        # Where nothing but objects is in sight the index is lost, and the run fails.
        last = sorted(there, key=lambda key: self.times[key])[1:][-1:]
        store.hide(frozenset(last), turn.blind)
        moment = self.now + timedelta(minutes=turn.skew)
        report = run(
            [FolderSource(self.folder, owner=OWNER)],
            store,
            RunOptions(concurrency=1),
            events=Silence(),
            stop=Stop(),
            clock=lambda: moment,
        )
        assert report.exit_code == 0, report.problems
        return report.snapshot_id

    @property
    def store(self) -> Timed:
        return Timed(self.vault, lambda: self.now, self.times)

    def state(self) -> State:
        return load_state(
            self.store,
            LAYOUT,
            list_documents(self.store, LAYOUT),
            now=self.now + timedelta(hours=1),
        )

    def tips(self) -> dict[str, bytes]:
        return {
            name: run_git("rev-parse", MAIN, cwd=self.folder / f"{name}.git").stdout.strip()
            for name in NAMES
        }


def records(state: State) -> dict[Identity, str | None]:
    return {identity: entry.record for identity, entry in state.entries.items()}


def tips_of(world: World, state: State) -> dict[str, bytes]:
    found = {}
    for entry in state.entries.values():
        assert entry.record is not None
        tips = load_record(world.store, LAYOUT, entry.record).tips()
        found[entry.path] = next(iter(set(tips.values()))).encode()
    return found


@settings(
    max_examples=500 if DEEP else 25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(st.lists(turns, min_size=2, max_size=8 if DEEP else 5), rules)
@example([Turn(1, 13), Turn(2, 0, ("one",))], Rules(daily=1))
@example([Turn(1, 0), Turn(20, 13, ("one",)), Turn(1, 0, ("two",)), Turn(1, -3)], Rules(daily=1))
@example([Turn(1, 0), Turn(60, 13), Turn(1, 0, ("one",), 99)], Rules(hourly=1))
def test_whatever_the_clocks_one_run_is_the_newest_to_all_and_prune_keeps_what_it_says(
    history: list[Turn], rules: Rules
) -> None:
    folder = Path(tempfile.mkdtemp())
    try:
        world = World(folder)
        for turn in history:
            last = world.live(turn)
        before = world.state()
        assert before.newest is not None
        newest = before.newest.snapshot_id
        if not history[-1].blind:
            assert newest == last
            assert tips_of(world, before) == world.tips()
        for days in (0, 8, 40):
            world.now += timedelta(days=days, hours=1)
            report = prune(
                world.store,
                PruneRequest(rules, grace_days=1),
                events=Silence(),
                stop=Stop(),
                clock=lambda: world.now,
            )
            assert (report.exit_code, report.refused) == (0, ())
            after = world.state()
            assert after.newest is not None
            assert (after.newest.snapshot_id, records(after)) == (newest, records(before))
            assert report.keep[-1].snapshot_id == newest
            listed = snapshots(world.store, LAYOUT)
            assert listed[-1].header.snapshot_id == newest
            assert_nothing_false(world.store)
            at = f"{world.now:%Y-%m-%dT%H:%M:%SZ}"
            if len(before.made_of) == 1:
                found = contents_at(world.store, LAYOUT, at, now=world.now).entries
                assert {one.entry.identity: one.entry.record for one in found} == records(before)
            told = status(world.store, owners=(), max_age_hours=24 * 99, now=world.now)
            assert told.exit_code == 0, told.findings
    finally:
        shutil.rmtree(folder)
