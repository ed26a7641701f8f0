"""The nights, one after another: what people do, what goes wrong, the run, and the judgement."""

import random
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar
from unittest.mock import patch

from backup.commands.accepting import AcceptRequest, accept_damage
from backup.commands.prune import PruneRequest, prune
from backup.commands.run import RunOptions, run
from backup.commands.status import status
from backup.commands.verify import VerifyRequest, verify
from backup.errors import BackupError
from backup.model import RunReport, Selection
from backup.retention import Rules
from backup.stopping import Stop
from tests.soak.figures import Figures
from tests.soak.forge import HOST, Forge
from tests.soak.judge import ROOTS, Damage, Judge, Name
from tests.soak.stores import Store, opened
from tests.soak.times import SimulatedTime
from tests.soak.troubles import (
    EndingDestination,
    Killed,
    Tonight,
    Troubles,
    ending,
    forge_success,
    spoiled,
    wire_faults,
)
from tests.soak.world import OWNER, Expected, Resident, World
from tests.support.s3server import S3Server
from tests.support.vaults import Silence

R = TypeVar("R")

RULES = Rules(daily=30, weekly=12)
_TIDY_EVERY, _ALL_EVERY = 30, 25
# Damage that no verification has met yet must not pile up.
_MOST_UNKNOWN = 3
_SHARE_OF_GONE = 0.15
# So long nobody removes a delete marker.
_NIGHTS_HIDDEN = 10


@dataclass(frozen=True, slots=True)
class Plan:
    """What is asked of a soak.

    Attributes:
        without: kinds of trouble that never strike.
        keep_going: after the first lie, too.
        intensity: how much more often trouble strikes than in 300 nights.
        samples: the number of restores of a night (`Judge.samples`).
    """

    nights: int
    repositories: int
    seed: int
    store: str
    without: frozenset[str] = frozenset()
    keep_going: bool = False
    intensity: float = 1.0
    samples: tuple[int, int, int] = (4, 2, 2)


class Soak:
    """One soak over one store.

    Args:
        plan: what is asked.
        folder: an empty one.
        store: an empty one.
        forge: an empty one, at work.
        time: the simulated clock.
        say: hears a line a night.
    """

    def __init__(
        self,
        plan: Plan,
        folder: Path,
        *,
        store: Store,
        forge: Forge,
        time: SimulatedTime,
        say: Callable[[str], None],
    ) -> None:
        self._plan = plan
        self._folder = folder
        self._store = store
        self._time = time
        self._say = say
        self._chance = random.Random(plan.seed)
        self._world = World(folder / "source", forge, random.Random(f"{plan.seed} world"))
        self._troubles = Troubles(plan.seed, plan.without, plan.intensity)
        self.figures = Figures()
        judging = random.Random(f"{plan.seed} judge")
        self.judge = Judge(store, time, self.figures, judging, folder, plan.samples)
        self._spoiled: list[str] = []
        self._is_index_gone = False

    def live(self) -> Figures:
        """Live through all nights, or to the first lie."""
        self._world.settle(self._plan.repositories)
        for number in range(self._plan.nights):
            self.judge.night = number
            self._night(number)
            if self.figures.lies and not self._plan.keep_going:
                break
        return self.figures

    # --- A night ---------------------------------------------------------------------------------

    def _night(self, number: int) -> None:
        counts, before = self.figures.counts, self.figures.counts.copy()
        counts["nights"] += 1
        self._time.go_on(timedelta(days=1, minutes=self._chance.randint(-20, 20)))
        if number:
            self._troubles.people(self._world)
        tonight = self._troubles.draw(self._world)
        if number:
            self._damage(tonight)
        self.judge.context = "; ".join(tonight.log)
        lies = len(self.figures.lies)
        present = self._present()
        report, claimed = self._run(tonight, present)
        self._repair(present)
        is_green = self._look(tonight, report, present)
        self.judge.compare(claimed, everything=(number + 1) % _ALL_EVERY == 0, is_green=is_green)
        self.judge.compare_past()
        if (number + 1) % _TIDY_EVERY == 0:
            self._store.tidy()
        told = counts - before
        self._say(
            f"night {number:3} {'-' if report is None else report.result:8} "
            f"captured {told['captured']:2} unchanged {told['unchanged']:2} "
            f"failed {told['failed']:2} restored {told['restores compared']:2}  "
            + "; ".join(tonight.log)
        )
        for problem in () if report is None else report.problems:
            self._say(f"  {problem}")
        self._world.log.clear()
        for lie in self.figures.lies[lies:]:
            self._say(f"  LIE {lie}")

    def _present(self) -> dict[Name, Expected]:
        return {_name(one): one.expected for one in self._world.residents}

    def _run(
        self, tonight: Tonight, present: dict[Name, Expected]
    ) -> tuple[RunReport | None, set[Name]]:
        """Back up, and have the judge hear of it."""
        counts = self.figures.counts
        before = {key for root in ROOTS for key in self._store.keys(f"{root}snapshots/")}
        self._time.error = tonight.clock_error
        report = self._try("run", lambda: self._back_up(tonight))
        self._time.error = timedelta()
        self._world.forge.forget_requests()
        counts["runs"] += 1
        counts["runs ended early"] += tonight.ending in {"killed", "interrupted", "out of time"}
        if report is None:
            counts["runs without a result"] += 1
        else:
            for status_ in ("captured", "unchanged", "failed"):
                counts[status_] += report.count(status_)
            for plan in ("full", "incremental"):
                counts[plan] += sum(one.plan == plan for one in report.outcomes)
            counts["bytes"] += report.bytes_uploaded
            counts["objects"] += report.objects_written
        claimed = self.judge.after_run(
            report,
            present,
            before=before,
            is_honest=not tonight.clock_error,
            blocked=tonight.blocked,
        )
        return report, claimed

    def _back_up(self, tonight: Tonight) -> RunReport:
        options = RunOptions(
            selection=Selection(pull_refs=True, lfs=True),
            concurrency=2,
            max_chain_length=12,
            full_after_days=45,
            accept_drop=self._chance.random() < 0.9,
        )
        destination, stop = ending(tonight, self._store.destination)
        with ExitStack() as stack:
            stack.enter_context(wire_faults(tonight, self._folder / f"shim-{self.judge.night}"))
            if tonight.with_checkpoints:
                stack.enter_context(patch("backup.commands.owner.CHECKPOINT_SECONDS", 0.0))
            report = run(
                self._world.sources,
                destination,
                options,
                events=Silence(),
                stop=stop,
                clock=self._time.machine,
            )
        self._troubles.remember(len(destination.operations))
        return report

    def _look(
        self, tonight: Tonight, report: RunReport | None, present: dict[Name, Expected]
    ) -> str:
        """Ask for the state, verify and prune; return what of run and state was green."""
        green = ["run"] if report is not None and report.exit_code == 0 else []
        state = self._try(
            "status",
            lambda: status(
                self._store.destination, owners=(), max_age_hours=26, now=self._time.true()
            ),
        )
        if state is not None and state.exit_code == 0:
            self.judge.after_status(present)
            green.append("status")
        if tonight.drill is not None:
            self._verify(tonight)
        if tonight.prune:
            self._prune(tonight)
        return " and ".join(green)

    def _verify(self, tonight: Tonight) -> None:
        assert tonight.drill is not None
        depth, percent = tonight.drill
        request = VerifyRequest(depth, sample_percent=percent, concurrency=2)
        destination = self._store.destination
        report = self._try(
            "verify",
            lambda: verify(
                destination, request, events=Silence(), stop=Stop(), clock=self._time.true
            ),
        )
        self.figures.counts["verifications"] += 1
        if report is not None:
            self.judge.after_drill(report, depth, percent)
            tonight.log.append(f"verify {depth} {percent}%: {report.exit_code}")

    def _prune(self, tonight: Tonight) -> None:
        kept = self.judge.to_be_kept(RULES)
        # Said once a manifest is gone for good, as run, verify and prune say until then.
        request = PruneRequest(
            RULES, keep_deleted_days=60, accept_missing_index=self._is_index_gone
        )
        at = tonight.prune_ends_at if tonight.prune == "cut off" else -1
        destination = EndingDestination(self._store.destination, at=at)
        report = self._try(
            "prune",
            lambda: prune(
                destination, request, events=Silence(), stop=Stop(), clock=self._time.true
            ),
        )
        counts = self.figures.counts
        counts["prunes"] += 1
        counts["prunes cut off"] += destination.is_dead
        if report is not None:
            counts["prunes refused"] += bool(report.refused)
            self._is_index_gone = self._is_index_gone and bool(report.refused)
            counts["snapshots removed"] += len(report.remove)
            refused = f" ({report.refused[0]})" if report.refused else ""
            tonight.log.append(f"prune: {report.exit_code}, {len(report.remove)} removed{refused}")
        self.judge.after_prune(report, kept)

    def _try(self, what: str, do: Callable[[], R]) -> R | None:
        """Do something that may fail with an error of ours, or be killed; others are lies."""
        try:
            return do()
        except Killed:
            return None
        except BackupError as error:
            self.judge.context += f"; {what}: {error.message}"
            return None
        except Exception as error:  # noqa: BLE001 - to be found, and not to end the soak
            self.judge.lie("an internal error", what, f"{type(error).__name__}: {error}")
            return None

    # --- Damage ----------------------------------------------------------------------------------

    def _damage(self, tonight: Tonight) -> None:
        """Damage what lies in the vault, past the program, in every way that is drawn."""
        troubles, store = self._troubles, self._store
        if troubles.strikes("damage", 0.12) and (key := self._victim("damage")):
            chance = troubles.chance("damage")
            how = "removed" if chance.random() < 0.3 else "changed"
            data = store.read(key)
            store.remove(key)
            if how == "changed":
                store.put(key, spoiled(data, chance))
            self.judge.damage(key, how, harmful=True)
            tonight.log.append(f"{how} {key}")
        if not store.is_versioned:
            self._damage_manifest(tonight)
            return
        if troubles.strikes("overwrites", 0.08) and (key := self._victim("overwrites")):
            store.put(key, spoiled(store.read(key), troubles.chance("overwrites")))
            self.judge.damage(key, "overwritten", harmful=False)
            tonight.log.append(f"overwritten {key}")
        if troubles.strikes("markers", 0.08) and (key := self._victim("markers")):
            store.hide(key)
            self.judge.damage(key, "hidden", harmful=True)
            tonight.log.append(f"hidden {key}")
        if troubles.strikes("forgeries", 0.05):
            honest = [one for one in self.judge.past if not one.lost]
            there = {key for root in ROOTS for key in store.keys(f"{root}snapshots/")}
            for past in honest:
                if past.key in there and past.night < self.judge.night - 1:
                    forge_success(store, past.key, past.root, night=self.judge.night)
            tonight.log.append("empty successes were forged")
        self._damage_manifest(tonight)

    def _damage_manifest(self, tonight: Tonight) -> None:
        """Take away or spoil the newest manifest of a root; what is spoiled is seen to be named."""
        if not self._troubles.strikes("manifests", 0.05):
            return
        chance, store = self._troubles.chance("manifests"), self._store
        root = chance.choice(ROOTS)
        past = self.judge.current.get(root)
        if past is None or past.lost or past.key not in store.keys(f"{root}snapshots/"):
            return
        self.judge.lose_manifest(root)
        if chance.random() < 0.5:
            store.hide(past.key)
            tonight.log.append(f"hidden {past.key}")
            if store.is_versioned:
                self.judge.damage(past.key, "hidden", harmful=False)
                self._ask_for_state_of_hidden(past.key)
            else:
                self._is_index_gone = True
            return
        data = store.read(past.key)
        store.remove(past.key)
        store.put(past.key, spoiled(data, chance))
        self._spoiled.append(past.key)
        tonight.log.append(f"spoiled {past.key}")

    def _ask_for_state_of_hidden(self, key: str) -> None:
        """The newest manifest lies under a delete marker: the state cannot be whole."""
        state = self._try(
            "status",
            lambda: status(
                self._store.destination, owners=(), max_age_hours=50, now=self._time.true()
            ),
        )
        if state is not None and state.exit_code == 0:
            self.judge.lie("a green state over a hidden manifest", key, "status ended with 0")

    def _repair(self, present: Iterable[Name]) -> None:
        """Do what docs/how-to/repair-a-vault.md tells people to do, where no run can help."""
        while self._spoiled:
            self._store.remove(self._spoiled.pop())
            self._is_index_gone = True
        for key, damage in [*self.judge.damages.items()]:
            # By the command that run, status and verify print.
            nights = 0 if "/snapshots/" in key else _NIGHTS_HIDDEN
            if damage.how == "hidden" and self.judge.night - damage.night > nights:
                self._store.show(key)
                self.judge.show_again(key)
        beyond_repair = self.judge.beyond_repair(present)
        for one in (one for damages in beyond_repair.values() for one in damages):
            if one.how == "hidden" and one.key in self.judge.damages:
                # Nothing that one command brings back can be accepted.
                self._store.show(one.key)
                self.judge.show_again(one.key)
        beyond_repair = self.judge.beyond_repair(present)
        self._take_damaged_files_away(beyond_repair)
        for name, damages in beyond_repair.items():
            request = AcceptRequest(name.host_id)
            report = self._try(
                "accept-damage",
                lambda request=request: accept_damage(  # type: ignore[misc]
                    self._store.destination, request, now=self._time.true()
                ),
            )
            if report is not None:
                self.figures.counts["damage accepted"] += len(damages)
                for one in damages:
                    one.accepted = True

    def _take_damaged_files_away(self, beyond_repair: Mapping[Name, Iterable[Damage]]) -> None:
        """Remove what is left of files of Git LFS, as the hint of run and status says."""
        last_copies = {one.key for damages in beyond_repair.values() for one in damages}
        for key, damage in self.judge.damages.items():
            is_open = damage.harmful and not damage.healed and not damage.accepted
            is_named = damage.named is not None and damage.how != "hidden"
            if not is_open or not is_named or not damage.waits_for_people(self.judge.night):
                continue
            if key not in last_copies and damage.taken_away is None:
                if key in self._store.keys(key.rpartition("/")[0]):
                    self._store.remove(key)
                self.judge.take_away(damage)

    def _victim(self, kind: str) -> str:
        """Choose an object that a newest chain needs; seldom of a repository that is gone."""
        chance = self._troubles.chance(kind)
        unknown = [one for one in self.judge.damages.values() if one.harmful and one.named is None]
        if len(unknown) >= _MOST_UNKNOWN:
            return ""
        keys: set[str] = set()
        there = {_name(one) for one in self._world.residents}
        gone = [name for name in self.judge.claims if name not in there]
        if gone and chance.random() < _SHARE_OF_GONE:
            there = {chance.choice(sorted(gone))}
        for name in there:
            past, claim = self.judge.current.get(name.root), self.judge.claims.get(name)
            if past is not None and claim is not None and claim.must and not past.lost:
                keys |= self.judge.needed(past, name.host_id, claim.states[0])
        left = keys & set(self._store.keys()) - self.judge.damages.keys()
        return chance.choice(sorted(left)) if left else ""


def _name(one: Resident) -> Name:
    return Name(f"{HOST if one.is_on_forge else 'folder'}/{OWNER}/", one.host_id)


def soak(
    plan: Plan, folder: Path, *, say: Callable[[str], None], server: S3Server | None = None
) -> Figures:
    """Live through a soak in an empty folder, with a bucket at a server, or at one of its own."""
    time = SimulatedTime()
    with (
        Forge(folder / "forge", OWNER, time.true) as forge,
        opened(plan.store, folder, time, server) as store,
    ):
        return Soak(plan, folder, store=store, forge=forge, time=time, say=say).live()
