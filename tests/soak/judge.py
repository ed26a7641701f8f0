"""What must be true after each night, by a model of its own: git's word, and plain JSON.

The judge knows what every repository held on every night, which runs were published, and which
objects were damaged on purpose. It reads documents of the vault as a stranger would; only restores
go through the program, for they are what it judges.
"""

import gzip
import hashlib
import json
import random
import shutil
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from backup.commands.restore import RestoreRequest, restore
from backup.config.names import Depth
from backup.errors import BackupError
from backup.model import RunReport
from backup.results import PruneReport, VerifyReport
from backup.retention import Rules, Snapshot, decide
from backup.stopping import Stop
from tests.soak.figures import Figures, Lie
from tests.soak.forge import HOST
from tests.soak.stores import Store
from tests.soak.times import SimulatedTime, restoring_at
from tests.soak.world import OWNER, Expected
from tests.support.mirrors import fsck, mirror_state
from tests.support.vaults import Silence

ROOTS = (f"folder/{OWNER}/", f"{HOST}/{OWNER}/")
_FRESH = timedelta(hours=26)
# A run lists the whole vault once a week.
_NIGHTS_TO_FIND_HIDDEN = 8


@dataclass(frozen=True, slots=True, order=True)
class Name:
    """A repository: its root, and the id that its source has for it."""

    root: str
    host_id: str

    def __str__(self) -> str:
        return f"{self.root}{self.host_id}"


@dataclass(slots=True)
class Claim:
    """What the vault has said that it can give back of a repository.

    Attributes:
        states: any of these; several where a run ended without a word.
        must: whether it must come back.
        night: of the last run that said so, and its time.
        open_since: the night of the last run that ended without a word.
    """

    states: tuple[Expected, ...]
    must: bool
    night: int
    at: datetime
    open_since: int = -1


@dataclass(slots=True)
class Past:
    """A published run, as far as one root goes.

    Attributes:
        is_honest: written while this machine's clock was right.
        records: key of the record by the repository's id.
        lost: the soak itself has removed or damaged its manifest.
    """

    night: int
    root: str
    snapshot_id: str
    finished_at: datetime
    complete: bool
    is_honest: bool
    states: dict[str, Expected]
    records: dict[str, str]
    lost: bool = False

    @property
    def key(self) -> str:
        return f"{self.root}snapshots/{self.snapshot_id}.json.gz"


@dataclass(slots=True)
class Damage:
    """An object that was damaged on purpose.

    Attributes:
        harmful: whether what is left of it cannot be the whole object.
        named: the night on which a verification named it.
        left: SHA-256 of what was left there; empty where nothing can be seen.
        healed: no newest chain needs it any more.
        accepted: its owner has said that it cannot be mended.
        taken_away: the night on which somebody removed what was left, for a run to store it anew.
    """

    key: str
    how: str
    night: int
    harmful: bool
    left: str = ""
    named: int | None = None
    healed: bool = False
    accepted: bool = False
    taken_away: int | None = None

    def waits_for_people(self, night: int) -> bool:
        """No run writes over a file of Git LFS: somebody has to remove what is left of it."""
        return "/lfs/" in self.key and (self.taken_away is None or self.taken_away >= night)


@dataclass
class Judge:
    """Keeps the model, and compares.

    Attributes:
        night: the number of this one.
        context: what goes wrong tonight, for the words of a lie.
        samples: the number of restores of a night: of what its run claims, of other repositories,
            and of old states.
    """

    store: Store
    time: SimulatedTime
    figures: Figures
    chance: random.Random
    folder: Path
    samples: tuple[int, int, int] = (4, 2, 2)
    night: int = 0
    context: str = ""
    claims: dict[Name, Claim] = field(default_factory=dict)
    past: list[Past] = field(default_factory=list)
    damages: dict[str, Damage] = field(default_factory=dict)
    current: dict[str, Past] = field(default_factory=dict)
    _seen: set[Name] = field(default_factory=set)
    _excused: set[Name] = field(default_factory=set)
    _chains: dict[tuple[str, str], frozenset[str]] = field(default_factory=dict)
    _lasting: set[tuple[str, str]] = field(default_factory=set)
    _silent: set[Name] = field(default_factory=set)

    # --- What was said ---------------------------------------------------------------------------

    def lie(self, kind: str, about: object, words: str) -> None:
        """Note a lie, unless it is only the one of yesterday that lasts."""
        if (kind, str(about)) in self._lasting:
            return
        self._lasting.add((kind, str(about)))
        self.figures.counts["lies"] += 1
        self.figures.lies.append(Lie(self.night, kind, str(about), f"{words} ({self.context})"))

    def after_run(
        self,
        report: RunReport | None,
        present: dict[Name, Expected],
        *,
        before: set[str],
        is_honest: bool,
        blocked: set[str],
    ) -> set[Name]:
        """Take up what a run said; return the repositories that it claims to hold since tonight."""
        new = {key for root in ROOTS for key in self.store.keys(f"{root}snapshots/")} - before
        claimed: set[Name] = set()
        for root in ROOTS:
            here = {name: state for name, state in present.items() if name.root == root}
            published = [key for key in new if key.startswith(root)]
            if not published:
                self._leave_open(here)
                continue
            claimed |= self._take(published[0], here, is_honest=is_honest)
            self._seen |= here.keys()
            if report is not None:
                self._hold_against(report, self.current[root], here)
        self._end_damage()
        if report is not None:
            self._judge_report(report, present, blocked)
        return claimed

    def _leave_open(self, here: dict[Name, Expected]) -> None:
        """A run that published nothing may have left a checkpoint, with files left to be stored."""
        for name, whole in here.items():
            state = replace(whole, files=frozenset())
            claim = self.claims.get(name)
            if claim is None:
                claim = self.claims[name] = Claim((), must=False, night=-1, at=_NEVER)
            before = claim.states[0] if claim.states else None
            possible = (*claim.states, state, state.with_heads_of(before))
            claim.states = tuple(dict.fromkeys(possible))
            claim.open_since = self.night

    def _take(self, key: str, here: dict[Name, Expected], *, is_honest: bool) -> set[Name]:
        """Take up what a manifest claims, which is also a run's own report."""
        root = key.partition("snapshots/")[0]
        document = self._document(key)
        entries = {one["host_id"]: one for one in document["entries"]}
        past = Past(
            night=self.night,
            root=root,
            snapshot_id=document["snapshot_id"],
            finished_at=datetime.fromisoformat(document["finished_at"]),
            complete=document["complete"],
            is_honest=is_honest,
            states={},
            records={
                host_id: one["record"] for host_id, one in entries.items() if one.get("record")
            },
        )
        self.past.append(past)
        self.current[root] = past
        claimed, at = set(), self.time.true()
        for host_id, entry in entries.items():
            name, status = Name(root, host_id), entry.get("status")
            is_excused = status in {"skipped", "empty"}
            (self._excused.add if is_excused else self._excused.discard)(name)
            # What another run saw in the meantime is carried over.
            if status in {"captured", "unchanged"} and name in here:
                state = self._promised(past, host_id, here[name])
                if any(one.startswith("pull requests: ") for one in entry.get("unfinished", ())):
                    self.figures.counts["without new heads"] += 1
                    before = self.claims.get(name)
                    state = state.with_heads_of(None if before is None else before.states[0])
                self.claims[name] = Claim((state,), must=True, night=self.night, at=at)
                past.states[host_id] = state
                claimed.add(name)
            elif status in {"captured", "unchanged"} and not entry.get("carried_from"):
                self.lie("an outcome of what is not there", name, status)
            elif status == "empty":
                self.claims.pop(name, None)
        return claimed

    def _promised(self, past: Past, host_id: str, state: Expected) -> Expected:
        """Leave out the files that the record says are not stored."""
        record = past.root + past.records[host_id]
        if not state.files or record in self.damages:
            return state
        lfs = self._document(record).get("lfs") or {}
        return replace(state, files=state.files - {one["oid"] for one in lfs.get("not_stored", ())})

    def _hold_against(self, report: RunReport, past: Past, here: dict[Name, Expected]) -> None:
        """See that report and manifest agree, and that no success leaves files behind."""
        told = {
            outcome.host_id
            for outcome in report.outcomes
            if (outcome.host, outcome.owner) == tuple(past.root.split("/")[:2])
            and outcome.status in {"captured", "unchanged"}
        }
        if told != past.states.keys():
            different = sorted(told ^ past.states.keys())
            self.lie("report and manifest differ", past.key, f"about {different[:3]}")
        if report.exit_code != 0:
            return
        for host_id, state in past.states.items():
            name = Name(past.root, host_id)
            if left := here[name].files - state.files:
                self.lie("a success without files", name, f"not stored: {sorted(left)[:3]}")

    def _judge_report(
        self, report: RunReport, present: dict[Name, Expected], blocked: set[str]
    ) -> None:
        for outcome in report.outcomes:
            if "internal error" in outcome.reason:
                self.lie("an internal error", outcome.path, outcome.reason)
        if report.exit_code == 5:
            self.lie("an internal error", report.snapshot_id, "exit code 5")
        if report.exit_code != 0:
            return
        self.figures.counts["green runs"] += 1
        self.after_green("run")
        for name, state in present.items():
            claim = self.claims.get(name)
            is_held = claim is not None and claim.night == self.night
            if not is_held and not state.empty and name.host_id not in blocked:
                self.lie("a success without a repository", name, "it was neither stored nor named")

    def after_status(self, present: dict[Name, Expected]) -> None:
        """Judge a status that said fresh and whole."""
        self.figures.counts["green states"] += 1
        self.after_green("state")
        oldest = self.time.true() - _FRESH
        # What no run has listed yet the vault cannot know of; what was blocked or empty
        # when it was last looked at is no fault of it.
        for name, state in present.items():
            if name not in self._seen or name in self._excused:
                continue
            claim = self.claims.get(name)
            is_fresh = claim is not None and (claim.at >= oldest or claim.open_since == self.night)
            if not is_fresh and not state.empty:
                self.lie("a green state of old age", name, "nothing was stored of it in time")

    def after_drill(self, report: VerifyReport, depth: Depth, percent: int) -> None:
        """Take up what a verification named, and judge what it did not."""
        found = {one.uri.removeprefix(self.store.destination.uri("")) for one in report.damaged}
        for key in found:
            damage = self.damages.get(key)
            if damage is None and key.endswith("/snapshots") and f"{key[:-9]}" not in self.current:
                # The first run died: nobody can tell that from manifests that were removed.
                continue
            if damage is None and any(past.lost and past.key == key for past in self.past):
                continue
            if damage is None:
                words = "; ".join(o.problem for o in report.damaged if o.uri.endswith(key))
                self.lie("damage that was not done", key, words)
            elif damage.named is None:
                damage.named = self.night
                self.figures.counts["damage found"] += 1
        if depth == "objects" or percent < 100:
            return
        for key, names in self._harm_in_current_chains().items():
            # What a damaged record names is not looked for.
            records = {name.root + self.current[name.root].records[name.host_id] for name in names}
            if key not in found and records.isdisjoint(self.damages):
                words = f"{self.damages[key].how} in night {self.damages[key].night}, of {names[0]}"
                self.lie(f"verify --depth {depth} passes over damage", key, words)

    def after_green(self, what: str) -> None:
        """Judge a run or a state that said that all is well: nothing known may be wrong."""
        for key, names in self._harm_in_current_chains().items():
            damage = self.damages[key]
            is_known = damage.named is not None and damage.named < self.night
            if is_known and not damage.accepted:
                words = f"{damage.how} in night {damage.night}, named in {damage.named}"
                self.lie(f"a green {what} over known damage", key, f"{words}, of {names[0]}")
            if damage.how == "hidden" and self.night - damage.night > _NIGHTS_TO_FIND_HIDDEN:
                words = f"hidden since night {damage.night}, of {names[0]}"
                self.lie(f"a green {what} over a hidden object", key, words)

    # --- Damage ----------------------------------------------------------------------------------

    def damage(self, key: str, how: str, *, harmful: bool) -> None:
        """Note what was just done to an object."""
        self.damages[key] = Damage(key, how, self.night, harmful, self._left(key))
        self.figures.counts["damage done"] += 1

    def take_away(self, damage: Damage) -> None:
        """Note that what was left of a named file was removed."""
        damage.left, damage.taken_away = "", self.night

    def show_again(self, key: str) -> None:
        """Note that what was hidden is there again."""
        del self.damages[key]
        for past in self.past:
            if past.key == key:
                past.lost = False

    def lose_manifest(self, root: str) -> None:
        """Note that the newest manifest of a root is gone: until the next run nobody knows more."""
        for past in self.past:
            if past.root == root and past is self.current.get(root):
                past.lost = True
        for name, claim in self.claims.items():
            if name.root == root:
                claim.must = False

    def chain_of(self, past: Past, host_id: str) -> frozenset[str]:
        """Return the keys of all that gives a repository back as of a run."""
        record = past.records.get(host_id)
        if record is None:
            return frozenset()
        if (past.root, record) not in self._chains:
            keys = {past.root + record}
            if past.root + record not in self.damages:
                for line in self._document(past.root + record)["chain"]:
                    texts = (text for text in line.values() if isinstance(text, str))
                    keys |= {past.root + one for one in texts if one.startswith("repositories/")}
            self._chains[past.root, record] = frozenset(keys)
        return self._chains[past.root, record]

    def needed(self, past: Past, host_id: str, state: Expected | None) -> frozenset[str]:
        """Return the same with the files of Git LFS."""
        files = () if state is None else state.files
        return self.chain_of(past, host_id) | {_lfs_key(past.root, oid) for oid in files}

    def _harm(self, past: Past, host_id: str, state: Expected | None) -> list[Damage]:
        keys = self.needed(past, host_id, state)
        found = (self.damages.get(key) for key in sorted(keys))
        return [one for one in found if one is not None and one.harmful]

    def _harm_in_current_chains(self) -> dict[str, list[Name]]:
        harmed: dict[str, list[Name]] = {}
        for root, past in self.current.items():
            if past.lost:
                continue
            for host_id in past.records:
                name = Name(root, host_id)
                claim = self.claims.get(name)
                state = claim.states[0] if claim and len(claim.states) == 1 else None
                for one in self._harm(past, host_id, state):
                    harmed.setdefault(one.key, []).append(name)
        return harmed

    def _end_damage(self) -> None:
        """Forget of the damage what was written again, and count what no chain needs any more."""
        for key, damage in [*self.damages.items()]:
            if "/lfs/" in key and self._left(key) != damage.left:
                del self.damages[key]
                self.figures.counts["damage healed"] += 1
        needed = set(self._harm_in_current_chains())
        for name, claim in self.claims.items():
            # After a run without a word any of the states may be the newest.
            needed |= {_lfs_key(name.root, oid) for state in claim.states for oid in state.files}
        for key, damage in self.damages.items():
            if damage.harmful and not damage.healed and key not in needed:
                damage.healed = True
                self.figures.counts["damage healed"] += 1

    def _left(self, key: str) -> str:
        try:
            return hashlib.sha256(self.store.read(key)).hexdigest()
        except Exception:  # noqa: BLE001 - a folder and a bucket say it in their own ways
            return ""

    def beyond_repair(self, present: Iterable[Name]) -> dict[Name, list[Damage]]:
        """Find known damage of what no source has any more."""
        there, found = set(present), dict[Name, list[Damage]]()
        for name in self.claims:
            harm = [] if name in there else self._named_harm(name)
            if still_open := [one for one in harm if not one.accepted]:
                found[name] = still_open
        return found

    # --- What comes back -------------------------------------------------------------------------

    def compare(self, claimed: set[Name], *, everything: bool, is_green: str) -> None:
        """Restore what was captured tonight and some of the rest, and compare.

        Args:
            claimed: tonight.
            everything: restore all of it.
            is_green: which of run and state said that all is well.
        """
        held = sorted(name for name, claim in self.claims.items() if claim.must)
        tonight, others = sorted(claimed), [name for name in held if name not in claimed]
        named = [name for name in held if self._named_harm(name)]
        if not everything:
            tonight = self.chance.sample(tonight, min(self.samples[0], len(tonight)))
            others = self.chance.sample(others, min(self.samples[1], len(others)))
        for name in dict.fromkeys((*tonight, *others, *named, *self._disputed())):
            self._compare_one(name, claimed, is_green)

    def _disputed(self) -> Iterator[Name]:
        """Find what did not come back the last time: it is looked at until it does."""
        for kind, about in sorted(self._lasting):
            if kind in _OF_RESTORES:
                yield from (name for name in self.claims if str(name) == about)

    def _named_harm(self, name: Name) -> list[Damage]:
        past, claim = self.current.get(name.root), self.claims[name]
        if past is None or past.lost:
            return []
        harm = self._harm(past, name.host_id, claim.states[0])
        return [one for one in harm if one.named is not None and one.named < self.night]

    def _compare_one(self, name: Name, claimed: set[Name], is_green: str) -> None:
        claim, past = self.claims[name], self.current.get(name.root)
        if past is None or past.lost or not claim.must:
            return
        harm = self._harm(past, name.host_id, claim.states[0])
        named = self._named_harm(name)
        if harm and not named:
            return
        problem = self._restored(name, claim.states, at=None)
        if not problem:
            self._lasting -= {(kind, str(name)) for kind in _OF_RESTORES}
            return
        if not harm:
            self.lie(_LOST, name, problem)
        elif name in claimed and (
            is_green or not any(one.waits_for_people(self.night) for one in named)
        ):
            words = f"{named[0].how} {named[0].key}, named in night {named[0].named}"
            self.lie(_KNOWN, name, f"{words}; green: {is_green or 'none'}; {problem}")

    def compare_past(self) -> None:
        """Restore some old states."""
        there = {key for root in ROOTS for key in self.store.keys(f"{root}snapshots/")}
        old = [one for one in self.past if not one.lost and one.states and one.key in there]
        for past in self.chance.sample(old, min(self.samples[2], len(old))):
            host_id = self.chance.choice(sorted(past.states))
            name = Name(past.root, host_id)
            if name in self._silent or self._harm(past, host_id, past.states[host_id]):
                continue
            self.figures.counts["old states compared"] += 1
            if problem := self._restored(name, (past.states[host_id],), at=past.snapshot_id):
                self.lie("an old state is lost", f"{name} of night {past.night}", problem)

    def _restored(self, name: Name, states: Iterable[Expected], *, at: str | None) -> str:
        """Restore a repository; say what is wrong, or nothing."""
        target = self.folder / "restored.git"
        shutil.rmtree(target, ignore_errors=True)
        self.figures.counts["restores compared"] += 1
        request = RestoreRequest(repository=name.host_id, all=False, at=at, target=target)
        try:
            with restoring_at(self.time.true):
                report = restore(self.store.destination, request, events=Silence(), stop=Stop())
            if report.exit_code != 0:
                return f"restore ended with {report.exit_code}: {report.restored}"
            actual = _read(target)
            if self.chance.random() < 0.05 and (problems := fsck(target)):
                return f"git fsck: {problems[0]}"
        except BackupError as error:
            return f"{type(error).__name__}: {error.message}"
        except Exception as error:  # noqa: BLE001 - a bug is one more thing to find
            return f"{type(error).__name__}: {error}"
        differences = [state.differs(actual) for state in states]
        return "" if "" in differences else differences[-1]

    # --- Retention -------------------------------------------------------------------------------

    def to_be_kept(self, rules: Rules) -> list[Past]:
        """Decide what a prune must keep, of what honest runs with a right clock wrote."""
        kept: list[Past] = []
        for root in ROOTS:
            there = set(self.store.keys(f"{root}snapshots/"))
            runs = [one for one in self.past if one.root == root and one.is_honest]
            runs = [one for one in runs if one.key in there and not one.lost]
            rows = [Snapshot(one.snapshot_id, one.finished_at, one.complete) for one in runs]
            ids = {one.snapshot.id for one in decide(rows, rules) if one.keep}
            kept += [one for one in runs if one.snapshot_id in ids]
        return kept

    def after_prune(self, report: PruneReport | None, kept: list[Past]) -> None:
        """See that everything which had to stay is there, and forget what was forgotten."""
        there = {key for root in ROOTS for key in self.store.keys(f"{root}snapshots/")}
        if gone := [past for past in kept if past.key not in there]:
            nights = ", ".join(str(past.night) for past in gone)
            self.lie("prune removed what had to stay", gone[0].key, f"of nights {nights}")
        for row in () if report is None else report.forgotten:
            name = Name(f"{row.owner}/", row.host_id)
            self._silent.add(name)
            self.claims.pop(name, None)

    def _document(self, key: str) -> Any:
        return json.loads(gzip.decompress(self.store.read(key)))


def _lfs_key(root: str, oid: str) -> str:
    return f"{root}lfs/{oid[:2]}/{oid[2:4]}/{oid}"


_NEVER = datetime.min.replace(tzinfo=UTC)
_LOST = "what is held does not come back"
_KNOWN = "known damage stays"
_OF_RESTORES = (_LOST, _KNOWN)


def _read(path: Path) -> Expected:
    found = (path / "lfs" / "objects").rglob("*")
    files = (one for one in found if one.is_file())
    whole = {one.name for one in files if hashlib.sha256(one.read_bytes()).hexdigest() == one.name}
    return Expected.of(mirror_state(path), frozenset(whole))
