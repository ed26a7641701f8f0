"""Prune loses nothing that a kept snapshot needs: whatever the history, the moment, the crash."""

import random
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from backup.commands.forget import ForgetRequest, forget, forgotten_line
from backup.commands.listing import list_history, list_vault
from backup.commands.prune import PruneRequest, prune
from backup.commands.restore import RestoreRequest, restore
from backup.commands.run import RunOptions
from backup.commands.verify import VerifyRequest, verify
from backup.destinations.memory import MemoryDestination
from backup.errors import DestinationError, ExitCode
from backup.model import Destination, Key, StoredObject
from backup.results import ForgetReport, PruneReport
from backup.retention import Rules
from backup.stopping import Stop
from backup.vault.documents import encode
from backup.vault.layout import DocumentName, Layout, export_time, folder_of
from backup.vault.manifest import list_documents, load_manifest
from tests.support.faults import (
    OWNER,
    DestinationFault,
    FaultyDestination,
    Heard,
    assert_nothing_false,
    back_up,
    bring_back,
    states_of,
)
from tests.support.git import commit_chain, git, init_bare, run_git, set_head, update_refs
from tests.support.mirrors import MirrorState
from tests.support.vaults import Silence

START = datetime(2026, 1, 1, 3, 0, tzinfo=UTC)
LAYOUT = Layout.of(host="folder", owner=OWNER)
MAIN = b"refs/heads/main"


def push(path: Path, label: str, *, branch: bytes = MAIN) -> None:
    seen = run_git("rev-parse", "--verify", "--quiet", branch, cwd=path).stdout.strip()
    tip = commit_chain(path, 1, start=seen or None, label=label.encode())[-1]
    update_refs(path, {branch: tip})
    set_head(path, MAIN)


class Estate:
    """A folder of repositories, a vault, the nights, and what every snapshot must give back."""

    def __init__(self, folder: Path, vault: Destination | None = None) -> None:
        self.folder = folder
        self.source = folder / "source"
        self.vault: Destination = vault or MemoryDestination()
        self.now = START
        self.states: dict[str, dict[str, MirrorState]] = {}
        self.forgotten: set[str] = set()
        self.source.mkdir(parents=True)

    def repository(self, name: str) -> Path:
        path = init_bare(self.source / f"{name}.git")
        push(path, f"{name} begins")
        return path

    def night(self, *, days: float = 1, vault: Destination | None = None, **options: Any) -> str:
        """Back up so many days later, and remember the state."""
        self.now += timedelta(days=days)
        chosen = RunOptions(concurrency=1, accept_drop=True, **options)
        report = back_up(self.source, vault or self.vault, chosen, at=self.now)
        assert report.exit_code == 0, report.problems
        self.states[report.snapshot_id] = states_of(self.source)
        return report.snapshot_id

    def prune(
        self, *, vault: Destination | None = None, at: datetime | None = None, **more: Any
    ) -> PruneReport:
        rules = Rules(**{key: more.pop(key) for key in list(more) if key in Rules.__slots__})
        moment = at or self.now + timedelta(hours=1)
        return prune(
            vault or self.vault,
            PruneRequest(rules, **more),
            events=Silence(),
            stop=Stop(),
            clock=lambda: moment,
        )

    def snapshots(self) -> set[str]:
        names = list_documents(self.vault, LAYOUT)
        return {name.snapshot_id for name in names if name.checkpoint is None}

    def forget(self, name: str, *, at: datetime | None = None, **more: Any) -> ForgetReport:
        self.forgotten.add(name)
        request = ForgetRequest(f"{OWNER}/{name}", **more)
        return forget(self.vault, request, now=at or self.now + timedelta(hours=1))

    def of(self, name: str) -> set[str]:
        """Return the keys of one repository's objects."""
        return {key for key in self.stored() if f"/repositories/{name}/" in key}

    def assert_whole(self, *, every: bool = True) -> None:
        """Restore every snapshot that is there, or the newest, and compare it."""
        assert_nothing_false(self.vault)
        there = sorted(self.snapshots())
        for snapshot_id in there if every else there[-1:]:
            target = self.folder / "back"
            found = bring_back(self.vault, target, at=snapshot_id)
            shutil.rmtree(target, ignore_errors=True)
            # What is gone at its source comes back, too.
            expected = self.states[snapshot_id]
            assert {name: found.get(name) for name in expected.keys() - self.forgotten} == {
                name: expected[name] for name in expected.keys() - self.forgotten
            }, snapshot_id
            assert self.forgotten.isdisjoint(found), snapshot_id

    def stored(self, ending: str = "") -> set[str]:
        """Return the keys of all objects, but for what prunes note for each other."""
        notes = LAYOUT.folder("pruned")
        keys = {stored.key for stored in self.vault.list("")}
        return {key for key in keys if key.endswith(ending) and not key.startswith(notes)}


@pytest.fixture
def estate(tmp_path: Path) -> Estate:
    return Estate(tmp_path)


# --- What goes and what stays ---------------------------------------------------------------------


def test_windows_keep_what_they_say_and_nothing_else_is_left(estate: Estate) -> None:
    busy, quiet = estate.repository("busy"), estate.repository("quiet")
    nights = []
    for number in range(32):
        push(busy, f"night {number}")
        nights.append(estate.night(max_chain_length=5))
    push(quiet, "once")
    nights.append(estate.night(max_chain_length=5))
    before = estate.stored(".bundle")
    report = estate.prune(daily=3, weekly=2, grace_days=1)
    assert report.exit_code == 0
    kept = {one.snapshot_id for one in report.keep}
    assert kept == estate.snapshots()
    assert kept | {one.snapshot_id for one in report.remove} == set(nights)
    assert 3 <= len(kept) <= 5
    after = estate.stored(".bundle")
    # The one base of the quiet repository is as old as the vault, and needed.
    assert min(key for key in before if "/quiet/" in key) in after
    assert len(after) < len(before) / 2
    assert report.objects > 0
    assert report.freed_bytes > 0
    estate.assert_whole()
    # A second one finds nothing left to do.
    again = estate.prune(daily=3, weekly=2, grace_days=1)
    assert (again.objects, len(again.remove)) == (0, 0)
    assert estate.stored(".bundle") == after
    # And the nights go on from what there is.
    push(busy, "later")
    estate.night(max_chain_length=5)
    estate.assert_whole(every=False)


def test_a_dry_run_tells_the_same_and_touches_nothing(estate: Estate) -> None:
    one = estate.repository("one")
    for number in range(30):
        push(one, f"night {number}")
        estate.night(max_chain_length=3)
    before = estate.stored()
    planned = estate.prune(daily=2, dry_run=True)
    assert estate.stored() == before
    done = estate.prune(daily=2)
    assert (planned.keep, planned.remove) == (done.keep, done.remove)
    assert planned.objects == done.objects == len(before) - len(estate.stored())
    assert {row.reason for row in done.remove} == {"no window keeps it"}


def test_the_grace_keeps_what_was_named_lately_whatever_the_windows(estate: Estate) -> None:
    one = estate.repository("one")
    for number in range(10):
        push(one, f"night {number}")
        estate.night(max_chain_length=2)
    bundles = estate.stored(".bundle")
    report = estate.prune(daily=1, grace_days=30)
    assert len(report.remove) == 9
    assert estate.stored(".bundle") == bundles
    estate.assert_whole()
    # Weeks later, without another run, they go.
    later = estate.now + timedelta(days=60)
    estate.prune(daily=1, grace_days=30, at=later)
    assert len(estate.stored(".bundle")) < len(bundles)
    estate.assert_whole()


def test_what_a_young_snapshot_named_stays_though_the_snapshot_goes(estate: Estate) -> None:
    one = estate.repository("one")
    for number in range(28):
        push(one, f"night {number}")
        estate.night()
    base = max(estate.stored(".full.bundle"))
    for number in range(3):
        push(one, f"later {number}")
        estate.night(full_after_days=1 if number == 0 else 90)
    # Nothing that stays needs the first chain; runs of this week may.
    estate.prune(daily=1, grace_days=7)
    assert base in estate.stored()
    assert_nothing_false(estate.vault)
    # Their records could be of a run that began this week, until they are two weeks old.
    estate.prune(daily=1, grace_days=7, at=estate.now + timedelta(days=15))
    assert base not in estate.stored()
    estate.assert_whole()


def test_what_was_pinned_stays(estate: Estate) -> None:
    one = estate.repository("one")
    push(one, "precious", branch=b"refs/heads/precious")
    estate.night()
    for name in (b"refs/heads/main", b"refs/heads/precious"):
        git("update-ref", "-d", name.decode(), cwd=one)
    git("gc", "--quiet", "--prune=now", cwd=one)
    # All branches are gone: what was before is pinned.
    estate.night()
    pinned = load_manifest(estate.vault, LAYOUT, newest(estate)).entries[0].pins[0].record
    for _ in range(40):
        estate.night()
    estate.prune(daily=1, grace_days=1)
    assert LAYOUT.key(pinned) in estate.stored()
    assert_nothing_false(estate.vault)


def newest(estate: Estate) -> DocumentName:
    names = [one for one in list_documents(estate.vault, LAYOUT) if one.checkpoint is None]
    return names[-1]


def test_orphans_and_old_checkpoints_go_and_other_files_stay(estate: Estate) -> None:
    estate.repository("one")
    first = estate.night()
    manifest = load_manifest(estate.vault, LAYOUT, newest(estate))
    entry = manifest.entries[0]
    assert entry.record is not None
    folder = entry.record.rpartition("/")[0]
    put = estate.vault.put_if_absent
    orphan = LAYOUT.key(f"{folder}/20260102T030000Z-0000.full.bundle")
    foreign = LAYOUT.key(f"{folder}/notes.txt")
    checkpoint = manifest.model_copy(update={"document": "checkpoint", "complete": False})
    ended = LAYOUT.document(DocumentName(first, checkpoint=1))
    put(orphan, b"# v2 git bundle\n")
    put(foreign, b"mine")
    put(ended, encode(checkpoint))
    young = LAYOUT.key(f"{folder}/20260219T030000Z-0000.full.bundle")
    put(young, b"# v2 git bundle\n")
    for _ in range(50):
        estate.night()
    estate.prune(daily=1, grace_days=1)
    keys = estate.stored()
    assert {orphan, ended} & keys == set()
    # Whose run may still be under way, or who is not ours.
    assert {foreign, young} <= keys


def put_exports(estate: Estate, *days: str) -> list[Key]:
    exports = [LAYOUT.key(f"exports/team/one/{day}-00-00-00.tar.gz") for day in days]
    for key in exports:
        estate.vault.put_if_absent(key, b"x" * 200)
    return exports


def name_export(estate: Estate, key: Key, **fields: Any) -> None:
    """Have the newest manifest name an export as the last one of its only repository."""
    name = newest(estate)
    manifest = load_manifest(estate.vault, LAYOUT, name)
    relative = key.removeprefix(LAYOUT.prefix)
    line = {"requested_at": export_time(relative), "stored_at": START, "size_bytes": 200} | fields
    entry = manifest.entries[0].model_validate(
        manifest.entries[0].model_dump(exclude_none=True) | {"export": line | {"key": relative}}
    )
    estate.vault.delete([LAYOUT.document(name)])
    changed = manifest.model_copy(update={"entries": (entry,)})
    estate.vault.put_if_absent(LAYOUT.document(name), encode(changed))


def test_exports_have_a_window_of_their_own(estate: Estate) -> None:
    estate.repository("one")
    estate.night()
    estate.night(days=100)
    old, middle, named = put_exports(estate, "2026-01-04", "2026-04-05", "2026-01-05")
    other = LAYOUT.key("exports/team/one/readme.txt")
    estate.vault.put_if_absent(other, b"mine")
    name_export(estate, named)
    estate.prune(daily=1)
    assert {old, middle, named, other} <= estate.stored()
    estate.prune(daily=1, keep_exports_days=30)
    assert {old, middle, named, other} & estate.stored() == {middle, named, other}


@pytest.mark.parametrize("size_bytes", [200, 201])
@pytest.mark.parametrize("rules", [{"since": START, "within": "1y"}, {"daily": 1}])
def test_a_manifest_that_is_added_costs_no_newer_export(
    estate: Estate, size_bytes: int, rules: dict[str, Any]
) -> None:
    estate.repository("one")
    estate.night()
    exports = first, _, third = put_exports(estate, "2026-01-03", "2026-01-04", "2026-01-05")
    name_export(estate, third)
    estate.night()
    # It says that the last one is the first, or one that never was.
    name_export(estate, first, size_bytes=size_bytes)
    estate.prune(at=estate.now + timedelta(days=100), keep_exports_days=30, **rules)
    # With one snapshot the manifest that named the newest export goes, and nothing else.
    assert {*exports} & estate.stored() == ({*exports} if "daily" in rules else {first, third})


# --- When it refuses ------------------------------------------------------------------------------


def refused(estate: Estate, **more: Any) -> str:
    before = estate.stored()
    report = estate.prune(daily=1, grace_days=1, **more)
    assert estate.stored() == before
    assert (report.objects, report.remove) == (0, ())
    assert report.exit_code in {ExitCode.FAILED, ExitCode.DAMAGED}
    (words,) = report.refused
    return words


def test_it_refuses_after_a_run_that_was_no_success(estate: Estate) -> None:
    one = estate.repository("one")
    for _ in range(5):
        estate.night()
    (one / "objects").rename(one / "gone")
    estate.now += timedelta(days=1)
    assert back_up(estate.source, estate.vault, at=estate.now).exit_code != 0
    assert "the newest run" in refused(estate)
    (one / "gone").rename(one / "objects")
    estate.night()
    assert estate.prune(daily=1, grace_days=1).exit_code == 0


def test_it_refuses_after_a_fall_of_the_listing_until_it_is_accepted(estate: Estate) -> None:
    for name in ("one", "two", "three"):
        estate.repository(name)
    for _ in range(4):
        estate.night()
    for name in ("two", "three"):
        shutil.rmtree(estate.source / f"{name}.git")
    estate.now += timedelta(days=1)
    back_up(estate.source, estate.vault, at=estate.now)
    assert "was failed" in refused(estate)
    estate.night()
    assert estate.prune(daily=1, grace_days=1).exit_code == 0
    assert_nothing_false(estate.vault)
    for name in ("one", "two", "three"):
        assert any(f"/{name}/" in key for key in estate.stored(".bundle"))


def test_it_refuses_when_a_clock_is_wrong(estate: Estate) -> None:
    estate.repository("one")
    for _ in range(3):
        estate.night()
    assert "from the future" in refused(estate, at=estate.now - timedelta(days=2))


def test_it_refuses_when_the_newest_manifest_is_damaged(estate: Estate) -> None:
    one = estate.repository("one")
    for number in range(3):
        push(one, str(number))
        estate.night()
    key = LAYOUT.document(newest(estate))
    estate.vault.delete([key])
    estate.vault.put_if_absent(key, b"garbage")
    assert "is damaged" in refused(estate)


# --- Any history, any moment ----------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(2))
def test_any_history_with_prunes_in_it_restores_at_every_kept_snapshot(
    seed: int, estate: Estate
) -> None:
    chance = random.Random(seed)
    alive = [estate.repository(name) for name in ("a", "b")]
    for step in range(22):
        for path in alive:
            match chance.randrange(5):
                case 0 | 1:
                    push(path, f"{step}")
                case 2:
                    # A force-push: another history under the same name.
                    update_refs(
                        path, {MAIN: commit_chain(path, 2, label=f"new {step}".encode())[-1]}
                    )
                case 3:
                    push(path, f"{step}", branch=f"refs/heads/b{chance.randrange(3)}".encode())
                case _:
                    pass
        if chance.random() < 0.1:
            alive.append(estate.repository(f"r{step}"))
        days = chance.choice([0.2, 1, 1, 3, 12])
        estate.night(
            days=days,
            max_chain_length=chance.choice([2, 4]),
            full_after_days=chance.choice([5, 90]),
        )
        if chance.random() < 0.4:
            estate.prune(
                daily=chance.randrange(1, 4),
                weekly=chance.randrange(3),
                grace_days=chance.choice([1, 3, 7]),
            )
            assert_nothing_false(estate.vault)
    estate.prune(daily=2, weekly=1, grace_days=1)
    estate.assert_whole()


class Interrupting(MemoryDestination):
    """A store that lets something happen before one operation.

    Attributes:
        seen: operations so far.
    """

    def __init__(self, inner: Destination, at: int, happens: Callable[[], object]) -> None:
        super().__init__()
        self._inner, self._at, self._happens = inner, at, happens
        self.seen = 0

    def _count(self) -> None:
        now, self.seen = self.seen, self.seen + 1
        if now == self._at:
            self._happens()

    def writer(self, key: Key) -> Any:
        self._count()
        return self._inner.writer(key)

    def put_if_absent(self, key: Key, data: bytes) -> StoredObject:
        self._count()
        return self._inner.put_if_absent(key, data)

    def open(self, key: Key, *, offset: int = 0, version: str | None = None) -> Any:
        self._count()
        return self._inner.open(key, offset=offset, version=version)

    def stat(self, key: Key) -> StoredObject:
        self._count()
        return self._inner.stat(key)

    def list(self, prefix: str, *, versions: bool = False) -> Iterator[StoredObject]:
        self._count()
        return self._inner.list(prefix, versions=versions)

    def children(self, prefix: str, *, hidden: bool = False) -> tuple[str, ...]:
        return self._inner.children(prefix, hidden=hidden)

    def delete(self, keys: Any) -> bool:
        marked = False
        for key in [*keys]:
            self._count()
            marked = self._inner.delete([key]) or marked
        return marked


def aged(estate: Estate) -> Path:
    """Make a vault whose newest state is older than the grace."""
    one = estate.repository("one")
    estate.repository("two")
    for number in range(5):
        push(one, f"night {number}")
        estate.night(max_chain_length=3)
    estate.now += timedelta(days=20)
    return one


def copy_of(estate: Estate, folder: Path) -> Estate:
    """Give an estate over the same repositories whose vault is a copy."""
    other = Estate(folder)
    other.source = estate.source
    for stored in estate.vault.list(""):
        with estate.vault.open(stored.key) as reader:
            other.vault.put_if_absent(stored.key, reader.read())
    other.now, other.states = estate.now, dict(estate.states)
    return other


def test_a_prune_at_any_moment_of_a_run_takes_nothing_from_it(
    estate: Estate, tmp_path: Path
) -> None:
    """Also where another run has meanwhile begun new chains, so that nothing names the old ones."""
    aged(estate)
    at = 0
    while True:
        other = copy_of(estate, tmp_path / f"moment-{at}")
        path = other.source / "one.git"
        label = f"tonight {at}"

        def happens(other: Estate = other) -> None:
            other.night(days=0.01, full_after_days=1)
            other.prune(daily=1, grace_days=7)

        push(path, label)
        store = Interrupting(other.vault, at, happens)
        other.night(vault=store, max_chain_length=50)
        if store.seen <= at:
            break
        other.assert_whole(every=False)
        at += 1
    assert at > 10


def test_a_run_at_any_moment_of_a_prune_loses_nothing(estate: Estate, tmp_path: Path) -> None:
    aged(estate)
    at = 0
    while True:
        other = copy_of(estate, tmp_path / f"moment-{at}")

        def happens(other: Estate = other) -> None:
            push(other.source / "one.git", f"meanwhile {other.folder.name}")
            other.night(days=0.001, max_chain_length=4)

        store = Interrupting(other.vault, at, happens)
        other.prune(vault=store, daily=1, grace_days=1)
        if store.seen <= at:
            break
        other.assert_whole(every=False)
        at += 1
    assert at > 20


def test_a_prune_that_breaks_off_at_any_deletion_loses_nothing_and_the_next_finishes(
    estate: Estate, tmp_path: Path
) -> None:
    aged(estate)
    wanted = copy_of(estate, tmp_path / "wanted")
    wanted.prune(daily=1, grace_days=1)
    deletions = len(estate.stored()) - len(wanted.stored())
    assert deletions >= 10
    for at in range(deletions):
        other = copy_of(estate, tmp_path / f"crash-{at}")
        fault = DestinationFault(at, "delete")
        with FaultyDestination(other.vault, fault) as store, pytest.raises(DestinationError):
            other.prune(vault=store, daily=1, grace_days=1)
        # Nor is a record left whose bundles are gone.
        assert_nothing_false(other.vault)
        assert other.prune(daily=1, grace_days=1).exit_code == 0
        assert other.stored() == wanted.stored()
    wanted.assert_whole()


# --- Forgetting -----------------------------------------------------------------------------------


def gone(estate: Estate) -> None:
    """Make a vault in which one of three repositories has been gone for 20 days."""
    for name in ("one", "two", "old"):
        estate.repository(name)
    for number in range(4):
        push(estate.source / "one.git", f"night {number}")
        push(estate.source / "old.git", f"night {number}")
        estate.night(max_chain_length=3)
    shutil.rmtree(estate.source / "old.git")
    estate.night()
    for _ in range(4):
        estate.night(days=5)


def test_what_is_gone_for_long_is_forgotten_when_asked(estate: Estate) -> None:
    gone(estate)
    objects = estate.of("old")
    # Snapshots that name it are kept, and so is it, until somebody asks for it not to be.
    assert estate.prune(within="1y", since=START, grace_days=1).forgotten == ()
    assert estate.prune(within="1y", since=START, keep_deleted_days=21).forgotten == ()
    before = estate.stored()
    planned = estate.prune(within="1y", since=START, keep_deleted_days=20, dry_run=True)
    assert estate.stored() == before
    (row,) = planned.forgotten
    assert (row.path, row.reason) == ("old", "not listed since 2026-01-06")
    done = estate.prune(within="1y", since=START, keep_deleted_days=20, grace_days=3)
    estate.forgotten.add("old")
    assert [one.path for one in done.forgotten] == ["old"]
    # All of it stays until the grace is over; nothing shows it any more, at no snapshot or time.
    estate.prune(within="1y", since=START, keep_deleted_days=20, grace_days=3)
    assert estate.of("old") == objects
    estate.assert_whole()
    assert "old" not in bring_back(estate.vault, estate.folder / "then", at="2026-01-03")
    for _ in range(4):
        estate.night()
    others = estate.of("one") | estate.of("two")
    again = estate.prune(within="1y", since=START, keep_deleted_days=20, grace_days=3)
    assert again.forgotten == ()
    assert estate.of("old") == set()
    assert estate.of("one") | estate.of("two") == others
    estate.assert_whole()
    report = verify(estate.vault, VerifyRequest("objects"), events=Silence(), stop=Stop())
    assert report.damaged == ()


def test_what_is_blocked_or_left_out_is_not_gone(estate: Estate) -> None:
    gone(estate)
    name = newest(estate)
    manifest = load_manifest(estate.vault, LAYOUT, name)
    for change in ({"not_selected": True}, {"absence": {"answer": "blocked"}}):
        entries = []
        for entry in manifest.entries:
            fields = entry.model_dump(exclude_none=True)
            if entry.absence is not None:
                fields["not_selected"] = change.get("not_selected", False)
                fields["absence"] |= change.get("absence", {})
            entries.append(entry.model_validate(fields))
        estate.vault.delete([LAYOUT.document(name)])
        changed = manifest.model_copy(update={"entries": tuple(entries)})
        estate.vault.put_if_absent(LAYOUT.document(name), encode(changed))
        assert estate.prune(daily=9, keep_deleted_days=0, dry_run=True).forgotten == ()


def test_one_named_repository_is_forgotten_with_its_exports(estate: Estate) -> None:
    one, _ = estate.repository("one"), estate.repository("two")
    for number in range(3):
        push(one, f"night {number}")
        estate.night(max_chain_length=2)
    exports = [
        LAYOUT.key(f"exports/{path}/2026-01-0{day}-00-00-00.tar.gz")
        for path, day in (("one", 3), ("one", 9), ("two", 3))
    ]
    for key in exports:
        estate.vault.put_if_absent(key, b"x" * 200)
    before = estate.stored()
    assert estate.forget("one", dry_run=True).is_listed
    assert estate.stored() == before
    report = estate.forget("one")
    assert report.repository.path == "one"
    folders = {estate.vault.uri(folder_of(key)) for key in estate.of("one")}
    assert set(report.folders) == folders
    shutil.rmtree(estate.source / "one.git")
    for _ in range(3):
        estate.night(days=6)
    estate.prune(within="1y", since=START, grace_days=7)
    assert estate.of("one") == set()
    # What was exported since, or of another, stays.
    assert set(exports) & estate.stored() == {exports[1], exports[2]}
    estate.assert_whole()


def test_what_is_forgotten_and_listed_begins_anew(estate: Estate) -> None:
    one = estate.repository("one")
    estate.repository("two")
    for number in range(3):
        push(one, f"night {number}")
        estate.night()
    old = estate.of("one")
    estate.forget("one")
    estate.assert_whole()
    new = estate.night()
    estate.forgotten.clear()
    for _ in range(3):
        estate.night(days=6)
    estate.prune(within="1y", since=START, grace_days=1)
    assert not old & estate.of("one")
    assert all(new in key for key in estate.of("one"))
    history = list_history(estate.vault, f"{OWNER}/one")
    assert [item.snapshot for item in history.items] == [new]
    for snapshot_id in estate.snapshots():
        if snapshot_id < new:
            del estate.states[snapshot_id]["one"]
    estate.assert_whole()


def test_forgetting_at_any_moment_of_a_run_leaves_nothing_false(
    estate: Estate, tmp_path: Path
) -> None:
    aged(estate)
    at = refused = 0
    while True:
        other = copy_of(estate, tmp_path / f"moment-{at}")
        push(other.source / "one.git", f"tonight {at}")
        happens = partial(other.forget, "one", at=other.now + timedelta(minutes=1))
        store = Interrupting(other.vault, at, happens)
        other.now += timedelta(minutes=1)
        report = back_up(other.source, store, RunOptions(concurrency=1), at=other.now)
        forgotten_within = store.seen > at
        if not forgotten_within:
            break
        assert_nothing_false(other.vault)
        names = {row.path for row in list_vault(other.vault).repositories}
        assert "two" in names
        if report.exit_code:
            assert report.exit_code == ExitCode.PARTIAL
            assert report.problems[0].startswith(f"{OWNER}/one was forgotten")
            assert "one" not in names
            refused += 1
        other.forgotten.clear()
        tonight = other.night(days=8)
        assert {row.path for row in list_vault(other.vault).repositories} == {"one", "two"}
        other.prune(daily=1, grace_days=1, at=other.now + timedelta(hours=1))
        other.night(days=16)
        other.prune(daily=1, grace_days=1, at=other.now + timedelta(hours=1))
        assert tonight not in other.snapshots()
        other.assert_whole()
        at += 1
    assert at > 10
    assert 3 < refused < at


def test_a_damaged_word_of_what_is_forgotten_keeps_nothing_from_coming_back(
    estate: Estate,
) -> None:
    for name in ("one", "two"):
        estate.repository(name)
    first = estate.night()
    estate.forget("one")
    (key,) = estate.stored(".forgotten.json.gz")
    estate.vault.delete([Key(key)])
    estate.vault.put_if_absent(Key(key), b"garbage")
    # It is shown again, and what is deleted waits for somebody to look.
    assert {"one", "two"} == bring_back(estate.vault, estate.folder / "then", at=first).keys()
    report = verify(estate.vault, VerifyRequest("objects"), events=Silence(), stop=Stop())
    assert [one.uri for one in report.damaged] == [estate.vault.uri(key)]
    assert "is damaged" in refused(estate)


def test_who_can_write_manifests_cannot_have_prune_delete_what_snapshots_need(
    estate: Estate,
) -> None:
    gone(estate)
    before = estate.stored()
    name = newest(estate)
    manifest = load_manifest(estate.vault, LAYOUT, name)
    lines = tuple(
        forgotten_line(entry, snapshot_id=manifest.snapshot_id, at=START, reason="I say so")
        for entry in manifest.entries
    )
    later = (estate.now + timedelta(days=1)).strftime("%Y%m%dT%H%M%SZ-")
    made = manifest.model_copy(
        update={"snapshot_id": f"{later}0001", "entries": (), "forgotten": lines}
    )
    key = LAYOUT.document(DocumentName(made.snapshot_id))
    estate.vault.put_if_absent(key, encode(made))
    for days in (2, 30, 60):
        at = estate.now + timedelta(days=days)
        estate.prune(within="1y", since=START, grace_days=1, at=at)
    assert estate.stored() >= before
    for snapshot_id in estate.states:
        assert {"one", "two"} <= bring_back(
            estate.vault, estate.folder / "b", at=snapshot_id
        ).keys()
        shutil.rmtree(estate.folder / "b")


# --- What is left is found ------------------------------------------------------------------------


def test_the_history_and_what_was_lost_are_found_over_what_was_pruned(estate: Estate) -> None:
    one = estate.repository("one")
    push(one, "topic", branch=b"refs/heads/topic")
    nights = []
    for number in range(40):
        push(one, f"night {number}")
        if number == 10:
            git("update-ref", "-d", "refs/heads/topic", cwd=one)
        nights.append(estate.night(max_chain_length=3))
    estate.prune(daily=1, weekly=8, grace_days=1)
    kept = estate.snapshots()
    history = list_history(estate.vault, f"{OWNER}/one")
    made = [item.snapshot for item in history.items]
    assert set(made) >= kept
    assert made == sorted(made, reverse=made[0] > made[-1])
    older = [one for one in nights[:10] if one in kept]
    assert older, "a snapshot from before the loss is kept"
    request = RestoreRequest(
        repository=f"{OWNER}/one", all=False, at=None, target=estate.folder / "back", deleted=True
    )
    report = restore(estate.vault, request, events=Heard(), stop=Stop())
    lost = [one for one in report.lost if one.ref == "refs/heads/topic"]
    assert [one.snapshot_id for one in lost] == [max(older)]
    tips = git("for-each-ref", "refs/lost", cwd=estate.folder / "back")
    assert b"/heads/topic" in tips


def test_a_verification_beside_a_prune_calls_nothing_damaged(
    estate: Estate, tmp_path: Path
) -> None:
    aged(estate)
    at = 0
    while True:
        other = copy_of(estate, tmp_path / f"moment-{at}")

        def happens(other: Estate = other) -> None:
            other.prune(daily=1, grace_days=1)

        store = Interrupting(other.vault, at, happens)
        report = verify(store, VerifyRequest(depth="objects"), events=Silence(), stop=Stop())
        assert report.damaged == (), at
        if store.seen <= at:
            break
        at += 1
    assert at > 8
