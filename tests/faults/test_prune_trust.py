"""What a writer adds makes prune delete nothing, and what cannot be read stops it nowhere else."""

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import Any

import pytest

from backup.commands.verify import VerifyRequest, verify
from backup.destinations.folder import FolderDestination
from backup.destinations.memory import MemoryDestination
from backup.errors import DestinationError, ExitCode
from backup.model import Destination, Key
from backup.report.hiding import hide_private_prune
from backup.results import PruneReport, VerifyReport
from backup.sources.plain import FolderSource
from backup.stopping import Stop
from backup.vault.documents import Entry, Manifest, Record, encode
from backup.vault.documents_of_prune import Pruned
from backup.vault.layout import DocumentName, bundles_beside, snapshot_time
from backup.vault.manifest import list_documents, load, load_manifest, load_record
from tests.faults.test_prune import LAYOUT, MAIN, START, Estate, newest, push
from tests.support.dated import DatedDestination
from tests.support.faults import OWNER, assert_nothing_false, back_up, bring_back, states_of
from tests.support.git import commit_chain, update_refs
from tests.support.times import Timed
from tests.support.vaults import Silence, run_at


@pytest.fixture
def estate(tmp_path: Path) -> Estate:
    return Estate(tmp_path)


@pytest.fixture
def dated(tmp_path: Path) -> Estate:
    """Have a store that keeps time."""
    return Estate(tmp_path, DatedDestination(MemoryDestination()))


def grown(estate: Estate, nights: int = 8, *, days: float = 5, **options: Any) -> list[str]:
    """Back up one repository that changes every night."""
    one = estate.repository("one")
    made = []
    for number in range(nights):
        push(one, f"night {number}")
        made.append(estate.night(days=days, **options))
    return made


def name_of(snapshot_id: str) -> DocumentName:
    return DocumentName(snapshot_id)


def manifest_of(estate: Estate, snapshot_id: str) -> Manifest:
    return load_manifest(estate.vault, LAYOUT, name_of(snapshot_id))


def forge(
    estate: Estate,
    finished_at: datetime,
    entries: Iterable[Entry] = (),
    *,
    stored_at: datetime | None = None,
    **more: Any,
) -> str:
    """Add a manifest that looks like a success, as anyone can who may write objects."""
    pattern = load_manifest(estate.vault, LAYOUT, newest(estate))
    snapshot_id = f"{finished_at:%Y%m%dT%H%M%SZ}-feedbeef"
    fields = {"started_at": finished_at, "finished_at": finished_at, "merged": ()} | more
    made = pattern.model_copy(
        update={"snapshot_id": snapshot_id, "entries": tuple(entries), **fields}
    )
    key = LAYOUT.document(name_of(snapshot_id))
    estate.vault.put_if_absent(key, encode(made))
    if isinstance(estate.vault, DatedDestination):
        estate.vault.times[key] = stored_at or estate.now
    return snapshot_id


def end_of(snapshot_id: str) -> datetime:
    return snapshot_time(snapshot_id).replace(hour=23, minute=59, second=59)


def damage(estate: Estate, key: str) -> None:
    estate.vault.delete([Key(key)])
    estate.vault.put_if_absent(Key(key), b"garbage")


def record_of(estate: Estate, snapshot_id: str) -> str:
    (entry,) = manifest_of(estate, snapshot_id).entries
    assert entry.record is not None
    return entry.record


# --- Documents that someone added ---------------------------------------------------------------


@pytest.mark.parametrize("kind", ["estate", "dated"])
def test_backdated_empty_snapshots_displace_none(kind: str, request: pytest.FixtureRequest) -> None:
    estate: Estate = request.getfixturevalue(kind)
    made = grown(estate, max_chain_length=1)
    before = estate.stored()
    for snapshot_id in made[:-1]:
        forge(estate, end_of(snapshot_id))
    report = estate.prune(daily=30, grace_days=1)
    assert report.exit_code == 0
    assert estate.stored() >= before
    estate.forgotten.clear()
    for snapshot_id in made:
        assert {"one"} == bring_back(
            estate.vault, estate.folder / snapshot_id, at=snapshot_id
        ).keys()


def test_forged_days_use_no_window_up(estate: Estate) -> None:
    made = grown(estate, nights=6)
    for snapshot_id in made[:-1]:
        for day in (1, 2):
            forge(estate, end_of(snapshot_id) + timedelta(days=day))
    estate.prune(daily=4, grace_days=1)
    assert estate.snapshots() >= set(made[-4:])
    # Honest nights go as ever, for the sake of honest ones.
    assert estate.snapshots().isdisjoint(made[:2])


@pytest.mark.parametrize("kind", ["estate", "dated"])
@pytest.mark.parametrize("carries", ["nothing", "what the first night had"])
def test_who_claims_to_have_merged_honest_snapshots_displaces_none(
    kind: str, carries: str, request: pytest.FixtureRequest
) -> None:
    """Neither by a manifest of another year, nor by one beside each night, nor in a circle."""
    estate: Estate = request.getfixturevalue(kind)
    made = grown(estate, max_chain_length=1)
    objects = {key for key in estate.stored() if "/repositories/" in key}
    names = [name_of(one).stem for one in made]
    entries = () if carries == "nothing" else manifest_of(estate, made[0]).entries
    moments = [START - timedelta(days=700), *map(end_of, made[:-1]), estate.now]
    ids = [f"snapshots/{at:%Y%m%dT%H%M%SZ}-feedbeef" for at in moments]
    for at in moments:
        forge(estate, at, entries, merged=(*names, *ids))
    for days in (0, 60):
        report = estate.prune(daily=30, grace_days=1, at=estate.now + timedelta(days=days, hours=1))
        assert report.exit_code == 0
        # Who has all of the first night takes its place where nobody keeps time.
        assert estate.snapshots() >= set(made[1:])
        assert {key for key in estate.stored() if "/repositories/" in key} >= objects
    for snapshot_id in made[1:]:
        target = estate.folder / snapshot_id
        assert {"one"} == bring_back(estate.vault, target, at=snapshot_id).keys()


def test_of_two_runs_at_once_the_one_whose_answer_readers_believe_stays(estate: Estate) -> None:
    """It ended first and had asked last: the other one has a later record of what it had asked."""
    one = estate.repository("one")
    first = estate.night()
    was = states_of(estate.source)
    push(one, "seen by the other one alone")
    estate.night(days=0.1)
    (entry,) = manifest_of(estate, first).entries
    asked_last = entry.model_copy(update={"checked_at": estate.now + timedelta(minutes=5)})
    beside = forge(estate, estate.now - timedelta(minutes=1), [asked_last])
    assert bring_back(estate.vault, estate.folder / "before") == was
    for days in (0, 30):
        at = estate.now + timedelta(days=days, hours=1)
        report = estate.prune(daily=1, grace_days=1, at=at)
        reasons = {one.snapshot_id: one.reason for one in report.keep}
        assert reasons[beside] == "the newest state is made of it"
        assert bring_back(estate.vault, estate.folder / f"after {days}") == was


def test_a_clock_that_was_days_ahead_where_nothing_else_tells_the_time_loses_nothing(
    tmp_path: Path,
) -> None:
    """A folder on the machine's own disk has no other clock than the machine."""
    estate = Estate(tmp_path)
    estate.vault = Timed(FolderDestination(tmp_path / "vault"), lambda: estate.now)
    one = estate.repository("one")
    made = []
    for days in (3.0, 0.5):
        push(one, f"{days} days later")
        estate.now = START + timedelta(days=days)
        source = FolderSource(estate.source, owner=OWNER)
        made.append(run_at(estate.now, source, estate.vault).snapshot_id)
    for days in (6, 20):
        estate.now = START + timedelta(days=days)
        report = estate.prune(daily=1, grace_days=1, at=estate.now)
        assert (report.exit_code, report.refused) == (0, ())
        assert report.keep[-1].snapshot_id == made[-1]
        found = bring_back(estate.vault, estate.folder / f"after {days}")
        assert found == states_of(estate.source)


def test_a_past_day_cannot_be_taken_by_naming_what_was_stored_after_it(estate: Estate) -> None:
    made = grown(estate)
    tonight = manifest_of(estate, made[-1]).entries
    for snapshot_id in made[:-1]:
        forge(estate, end_of(snapshot_id), tonight)
    estate.prune(daily=30, grace_days=1)
    assert estate.snapshots() >= set(made)


def forged_record(estate: Estate, snapshot_id: str, *, at: datetime, **change: Any) -> Entry:
    """Add a record that looks like a later one of a snapshot's repository, and name it."""
    (entry,) = manifest_of(estate, snapshot_id).entries
    assert entry.record is not None
    record = load_record(estate.vault, LAYOUT, entry.record)
    made = f"{at:%Y%m%dT%H%M%SZ}-feedbeef"
    key = f"{entry.record.rpartition('/')[0]}/{made}.record.json.gz"
    changed = record.model_copy(update={"snapshot_id": made, "captured_at": at, **change})
    estate.vault.put_if_absent(LAYOUT.key(key), encode(changed))
    if isinstance(estate.vault, DatedDestination):
        estate.vault.times[LAYOUT.key(key)] = estate.now
    return entry.model_copy(update={"record": key, "captured_at": at, "checked_at": at})


def test_where_the_store_keeps_time_no_past_day_can_be_taken(dated: Estate) -> None:
    made = grown(dated)
    for snapshot_id in made[:-2]:
        at = end_of(snapshot_id)
        forge(dated, at, [forged_record(dated, snapshot_id, at=at - timedelta(hours=1))])
    report = dated.prune(daily=30, grace_days=1)
    assert dated.snapshots() >= set(made)
    assert len(report.keep) == 2 * len(made) - 2
    # Nor do they go before no window reaches back to the day on which they were really stored.
    tonight = f"stored on {dated.now:%Y-%m-%d}, far from its own time"
    for _ in range(3):
        dated.night(days=1)
    report = dated.prune(daily=5, grace_days=1)
    assert {one.reason for one in report.keep if one.snapshot_id.endswith("feedbeef")} == {tonight}
    for _ in range(5):
        dated.night(days=8)
    dated.prune(daily=5, grace_days=1)
    left = {one for one in dated.snapshots() if one.endswith("feedbeef")}
    assert left == set()


def without_last(entries: tuple[Entry, ...], estate: Estate) -> tuple[Entry, ...]:
    return entries[:-1]


def with_a_record_that_is_not_stored(
    entries: tuple[Entry, ...], estate: Estate
) -> tuple[Entry, ...]:
    first, *others = entries
    assert first.record is not None
    stamp = first.record.rpartition("/")[2][:16]
    key = first.record.replace(stamp, f"{stamp[:9]}050000Z")
    return (first.model_copy(update={"record": key}), *others)


def with_the_record_of_another(entries: tuple[Entry, ...], estate: Estate) -> tuple[Entry, ...]:
    first, second, *others = entries
    later = forged_of(estate, second)
    return (first.model_copy(update={"record": later}), second, *others)


def forged_of(estate: Estate, entry: Entry) -> str:
    assert entry.record is not None
    record = load_record(estate.vault, LAYOUT, entry.record)
    stamp = entry.record.rpartition("/")[2][:16]
    key = entry.record.replace(stamp, f"{stamp[:9]}050000Z")
    estate.vault.put_if_absent(LAYOUT.key(key), encode(record))
    return key


def without_pins(entries: tuple[Entry, ...], estate: Estate) -> tuple[Entry, ...]:
    return tuple(entry.model_copy(update={"pins": ()}) for entry in entries)


@pytest.mark.parametrize(
    "change",
    [
        without_last,
        with_a_record_that_is_not_stored,
        with_the_record_of_another,
        without_pins,
    ],
)
def test_within_the_grace_only_what_has_all_of_a_snapshot_displaces_it(
    dated: Estate, change: Callable[[tuple[Entry, ...], Estate], tuple[Entry, ...]]
) -> None:
    one, two = dated.repository("one"), dated.repository("two")
    dated.night()
    # All its branches go once: what was before is pinned from then on.
    update_refs(one, {b"refs/heads/other": commit_chain(one, 1, label=b"other")[-1]})
    dated.night()
    update_refs(one, {b"refs/heads/main": None, b"refs/heads/other": None})
    dated.night()
    push(one, "back again")
    push(two, "again")
    victim = dated.night(days=3)
    for number in range(2):
        push(one, f"{number}")
        push(two, f"{number}")
        dated.night()
    entries = manifest_of(dated, victim).entries
    assert any(entry.pins for entry in entries)
    forge(dated, end_of(victim), change(entries, dated), stored_at=end_of(victim))
    dated.prune(daily=30)
    assert victim in dated.snapshots()
    dated.prune(daily=30, grace_days=30)
    assert victim in dated.snapshots()


def test_what_has_all_of_a_snapshot_may_displace_it_and_nothing_is_lost(dated: Estate) -> None:
    made = grown(dated, nights=4, days=1)
    # This, too, is what an honest second run of a day looks like.
    at = end_of(made[1])
    copy = forge(dated, at, manifest_of(dated, made[1]).entries, stored_at=at)
    dated.states[copy] = dated.states[made[1]]
    dated.prune(daily=30)
    assert dated.snapshots() == {*made, copy} - {made[1]}
    dated.assert_whole()


def test_a_clock_that_is_days_behind_takes_nothing_and_loses_nothing(dated: Estate) -> None:
    made = grown(dated, nights=8, days=5)
    vault = dated.vault
    assert isinstance(vault, DatedDestination)
    there = {stored.key for stored in vault.list("")}
    tonight, dated.now = dated.now, dated.now - timedelta(days=25)
    push(dated.source / "one.git", "by a clock that is behind")
    behind = dated.night(days=0.5)
    dated.now = tonight
    written = {stored.key for stored in vault.list("")} - there
    vault.times |= dict.fromkeys(written, tonight)
    # While its manifest is not there yet, it may be about to name what it has written.
    hidden = hide(dated, behind)
    dated.prune(daily=30, grace_days=1)
    assert written - hidden.keys() <= {stored.key for stored in vault.list("")}
    bring_again(dated, hidden)
    dated.prune(daily=30, grace_days=1)
    assert dated.snapshots() >= {*made, behind}
    dated.assert_whole()


def test_what_a_clock_that_was_ahead_has_dated_goes_when_no_window_reaches_back_to_it(
    dated: Estate,
) -> None:
    made = grown(dated, nights=3)
    entries = manifest_of(dated, made[-1]).entries
    known = forge(dated, dated.now + timedelta(days=3), entries)
    assert dated.prune(daily=3, grace_days=1).exit_code == 0
    assert known in dated.snapshots()
    grown(dated, nights=4)
    # The same with a repository that no other manifest knows.
    lone = entries[0].model_copy(update={"host_id": "lone", "path": "lone"})
    stored_at = dated.now - timedelta(days=15)
    alone = forge(dated, stored_at + timedelta(days=3), [*entries, lone], stored_at=stored_at)
    dated.prune(daily=3, grace_days=1)
    assert dated.snapshots() & {known, alone} == {alone}


def test_a_record_that_leaves_its_base_out_has_no_base_deleted(estate: Estate) -> None:
    """Of records of one chain as a rule the newest is read: it could say that this is all."""
    one = large(estate)
    for number in range(2):
        push(one, f"{number}")
        last = estate.night()
    record = load_record(estate.vault, LAYOUT, record_of(estate, last))
    for number in range(3):
        push(one, f"new chain {number}")
        estate.night(days=40, full_after_days=1)
    assert len(record.chain) == 3
    at = estate.now - timedelta(days=1)
    entry = forged_record(estate, last, at=at, chain=record.chain[-1:])
    (own,) = load_manifest(estate.vault, LAYOUT, newest(estate)).entries
    forge(estate, estate.now + timedelta(minutes=1), [entry.model_copy(update={"path": own.path})])
    report = estate.prune(monthly=9, grace_days=1)
    # None of those is left that the beginning of the chain was made for.
    assert len(report.remove) == 2
    assert {LAYOUT.key(line.key) for line in record.chain} <= estate.stored()
    assert {"one"} == bring_back(estate.vault, estate.folder / "back", at=last).keys()


def large(estate: Estate) -> Path:
    """Make a repository whose increments do not outweigh what it began with."""
    one = estate.repository("one")
    update_refs(one, {MAIN: commit_chain(one, 40, label=b"much")[-1]})
    estate.night()
    return one


class Versioned(MemoryDestination):
    """Another version of one record is current than the one that was written."""

    def __init__(self) -> None:
        super().__init__()
        self.forged: tuple[str, bytes] = ("", b"")

    def open(self, key: Key, *, offset: int = 0, version: str | None = None) -> Any:
        forged, data = self.forged
        if key != forged or version == "written":
            return super().open(key, offset=offset)
        other = MemoryDestination()
        other.put_if_absent(key, data)
        return other.open(key, offset=offset)


def test_who_names_another_version_of_a_record_has_nothing_of_it_deleted(tmp_path: Path) -> None:
    vault = Versioned()
    estate = Estate(tmp_path, vault)
    one = large(estate)
    push(one, "more")
    last = estate.night()
    name = newest(estate)
    manifest = load_manifest(vault, LAYOUT, name)
    (entry,) = manifest.entries
    assert entry.record is not None
    written = entry.model_copy(update={"record_version_id": "written"})
    vault.delete([LAYOUT.document(name)])
    vault.put_if_absent(
        LAYOUT.document(name), encode(manifest.model_copy(update={"entries": (written,)}))
    )
    record = load_record(vault, LAYOUT, entry.record)
    assert len(record.chain) == 2
    vault.forged = (
        LAYOUT.key(entry.record),
        encode(record.model_copy(update={"chain": record.chain[-1:]})),
    )
    for number in range(2):
        push(one, f"new chain {number}")
        estate.night(days=40, full_after_days=1)
    other = entry.model_copy(update={"record_version_id": "forged"})
    forge(estate, estate.now + timedelta(minutes=1), [other])
    assert len(estate.prune(monthly=9, grace_days=1).remove) == 1
    assert last in estate.snapshots()
    assert {LAYOUT.key(line.key) for line in record.chain} <= estate.stored()


@pytest.mark.parametrize("version", ["forged", None])
def test_who_names_another_version_of_a_record_displaces_no_snapshot(
    tmp_path: Path, version: str | None
) -> None:
    """Once only forged documents name the record, only what these name of it would be read."""
    vault = Versioned()
    estate = Estate(tmp_path, vault)
    one = large(estate)
    push(one, "more")
    last = estate.night()
    (entry,) = manifest_of(estate, last).entries
    assert entry.record is not None
    name_version(estate, last, "written")
    record = load_record(vault, LAYOUT, entry.record)
    vault.forged = (
        LAYOUT.key(entry.record),
        encode(record.model_copy(update={"chain": record.chain[-1:]})),
    )
    other = entry.model_copy(update={"record_version_id": version})
    forge(estate, estate.now + timedelta(minutes=1), [other])
    for number in range(2):
        push(one, f"new chain {number}")
        estate.night(days=40, full_after_days=1)
        estate.prune(monthly=9, grace_days=1)
        assert last in estate.snapshots()
        assert {LAYOUT.key(line.key) for line in record.chain} <= estate.stored()


def name_version(estate: Estate, snapshot_id: str, version: str) -> None:
    """Have a manifest name the version of its record, as in a bucket that keeps versions."""
    manifest = manifest_of(estate, snapshot_id)
    entries = tuple(
        one.model_copy(update={"record_version_id": version}) for one in manifest.entries
    )
    key = LAYOUT.document(name_of(snapshot_id))
    estate.vault.delete([key])
    estate.vault.put_if_absent(key, encode(manifest.model_copy(update={"entries": entries})))


@pytest.mark.parametrize("count", [1, 2])
def test_shards_that_are_added_to_a_run_change_nothing_of_it(dated: Estate, count: int) -> None:
    """A shard that finished today would have old runs be of today, for which there is another."""
    made = grown(dated, max_chain_length=1)
    before = dated.stored()
    pattern = manifest_of(dated, made[-1])
    for snapshot_id in made[:-1]:
        fields = {"snapshot_id": snapshot_id, "finished_at": dated.now, "merged": ()}
        for entries in ((), pattern.entries):
            index = 1 if entries else count
            key = LAYOUT.document(DocumentName(snapshot_id, shard=(index, count)))
            shard = pattern.model_copy(update={**fields, "entries": entries})
            if key not in dated.stored():
                dated.vault.put_if_absent(key, encode(shard))
    push(dated.source / "one.git", "the next night")
    dated.night()
    dated.prune(daily=30, grace_days=1)
    assert dated.stored() >= before


def test_a_checkpoint_whose_work_nobody_took_over_stays(estate: Estate) -> None:
    """A run that broke off, and a manifest after it that knows nothing of what it did."""
    grown(estate, nights=3)
    push(estate.source / "one.git", "only the checkpoint names it")
    broken = estate.night()
    manifest = manifest_of(estate, broken)
    checkpoint = manifest.model_copy(update={"document": "checkpoint", "complete": False})
    estate.vault.delete([LAYOUT.document(name_of(broken))])
    key = LAYOUT.document(DocumentName(broken, checkpoint=1))
    estate.vault.put_if_absent(key, encode(checkpoint))
    needed = LAYOUT.key(record_of_checkpoint(checkpoint))
    estate.now += timedelta(days=30)
    forge(estate, estate.now)
    estate.prune(since=START, within="1y", grace_days=1)
    assert {key, needed} <= estate.stored()
    # The next run goes on from it, and then nothing keeps it any more.
    del estate.states[broken]
    estate.night(days=1)
    estate.night(days=15)
    estate.prune(daily=1, grace_days=1)
    assert key not in estate.stored()


def record_of_checkpoint(manifest: Manifest) -> str:
    (entry,) = manifest.entries
    assert entry.record is not None
    return entry.record


# --- What cannot be read ------------------------------------------------------------------------


def two(estate: Estate) -> tuple[str, str]:
    """Make a vault with two repositories, whose old chains are about to go."""
    paths = [estate.repository(name) for name in ("one", "two")]
    for number in range(3):
        for path in paths:
            push(path, f"{number}")
        first = estate.night()
    for number in range(2):
        for path in paths:
            push(path, f"new chain {number}")
        last = estate.night(days=20, full_after_days=1)
    return first, last


def entry_of(estate: Estate, snapshot_id: str, path: str) -> Entry:
    (found,) = [one for one in manifest_of(estate, snapshot_id).entries if one.path == path]
    return found


@pytest.mark.parametrize("is_there", [True, False])
def test_a_record_that_cannot_be_read_keeps_its_repository_and_nothing_else(
    estate: Estate, is_there: bool
) -> None:
    _, last = two(estate)
    record = entry_of(estate, last, "one").record
    assert record is not None
    key = LAYOUT.key(record)
    estate.vault.delete([key])
    if is_there:
        estate.vault.put_if_absent(key, b"garbage")
    one, other = estate.of("one"), estate.of("two")
    report = estate.prune(daily=1, grace_days=1)
    assert report.exit_code == 0
    assert estate.of("one") == one
    assert len(estate.of("two")) < len(other)
    (note,) = report.notes
    assert key in note.message
    assert note.message.endswith("everything that is stored of its repository stays")
    assert not note.private


def test_a_damaged_record_of_a_private_repository_is_not_named_in_public(estate: Estate) -> None:
    _, last = two(estate)
    name = name_of(last)
    manifest = manifest_of(estate, last)
    entries = tuple(one.model_copy(update={"private": True}) for one in manifest.entries)
    for snapshot_id in estate.snapshots() - {last}:
        estate.vault.delete([LAYOUT.document(name_of(snapshot_id))])
    estate.vault.delete([LAYOUT.document(name)])
    changed = manifest.model_copy(update={"entries": entries})
    estate.vault.put_if_absent(LAYOUT.document(name), encode(changed))
    record = entry_of(estate, last, "one").record
    assert record is not None
    damage(estate, LAYOUT.key(record))
    report = hide_private_prune(estate.prune(daily=1, grace_days=1))
    assert len(report.notes) > 0
    assert not any("repositories/one" in note.message for note in report.notes)


def test_a_damaged_checkpoint_stops_nothing_and_goes_when_its_run_is_over(
    estate: Estate,
) -> None:
    first, last = two(estate)
    old = LAYOUT.document(DocumentName(first, checkpoint=1))
    young = LAYOUT.document(DocumentName(last, checkpoint=1))
    for key in (old, young):
        estate.vault.put_if_absent(key, b"garbage")
    report = estate.prune(daily=1, grace_days=1)
    assert report.exit_code == 0
    assert len(report.remove) == 4
    assert {old, young} & estate.stored() == {young}
    assert [note.message.partition(": ")[2].partition(" ")[0] for note in report.notes] == [
        estate.vault.uri(old),
        estate.vault.uri(young),
    ]
    estate.vault.delete([young])
    estate.assert_whole()


def test_what_a_damaged_manifest_may_name_stays_and_the_rest_goes(estate: Estate) -> None:
    first, _ = two(estate)
    old = {key for key in estate.stored(".bundle") if first[:8] >= key.rpartition("/")[2][:8]}
    damage(estate, LAYOUT.document(name_of(first)))
    for number in range(3):
        push(estate.source / "one.git", f"later {number}")
        estate.night(days=20, full_after_days=1)
    report = estate.prune(daily=1, grace_days=1)
    assert report.exit_code == ExitCode.DAMAGED
    assert report.refused == ()
    assert old <= estate.stored()
    assert len(report.remove) == 6
    assert report.objects > len(report.remove)
    (note,) = report.notes
    assert "is damaged" in note.message
    assert (note.severity, "repair-a-vault" in note.fix) == ("error", True)


def test_a_damaged_manifest_of_the_last_days_stops_its_owner(estate: Estate) -> None:
    two(estate)
    damage(estate, LAYOUT.document(newest(estate)))
    before = estate.stored()
    report = estate.prune(daily=1, grace_days=1)
    assert (report.exit_code, report.remove) == (ExitCode.DAMAGED, ())
    assert estate.stored() == before


def test_a_damaged_list_of_files_that_names_none_goes(estate: Estate) -> None:
    """Runs store no file as long as it is there, and nothing would ever replace it."""
    grown(estate, nights=2)
    key = LAYOUT.condemned("20260101T000000Z-0001")
    estate.vault.put_if_absent(key, b"garbage")
    assert estate.prune(daily=1).exit_code == 0
    assert key not in estate.stored()


# --- Manifests that are missing -----------------------------------------------------------------


def hide(estate: Estate, *snapshots: str) -> dict[Key, bytes]:
    """Take manifests away, as a delete marker does, and return what brings them back."""
    hidden = {}
    for snapshot_id in snapshots:
        key = LAYOUT.document(name_of(snapshot_id))
        with estate.vault.open(key) as reader:
            hidden[key] = reader.read()
    estate.vault.delete(hidden)
    return hidden


def bring_again(estate: Estate, hidden: dict[Key, bytes]) -> None:
    for key, data in hidden.items():
        estate.vault.put_if_absent(key, data)


def begin_again(estate: Estate) -> None:
    """Back up on after all manifests are gone: everything is new, and the first night says so."""
    estate.now += timedelta(days=15)
    report = back_up(estate.source, estate.vault, at=estate.now)
    assert report.exit_code == ExitCode.FAILED
    estate.states[report.snapshot_id] = states_of(estate.source)
    for _ in range(2):
        estate.night(days=15)


def pruned_so_far(estate: Estate) -> None:
    estate.prune(since=START, within="1y", grace_days=1)


@pytest.mark.parametrize("was_pruned", [True, False])
def test_while_manifests_are_missing_nothing_is_deleted_that_they_may_name(
    estate: Estate, was_pruned: bool
) -> None:
    made = grown(estate)
    if was_pruned:
        pruned_so_far(estate)
    old = estate.of("one")
    states = dict(estate.states)
    hidden = hide(estate, *made)
    begin_again(estate)
    for _ in range(2):
        report = estate.prune(daily=1, grace_days=1)
        assert estate.of("one") >= old
        assert len(report.notes) == (len(made) if was_pruned else 1)
        assert report.exit_code == (ExitCode.DAMAGED if was_pruned else 0)
        assert all("--accept-missing-index" in note.fix for note in report.notes)
    # When they are back, everything is as it was.
    bring_again(estate, hidden)
    estate.states |= states
    report = estate.prune(since=START, within="1y", grace_days=1)
    assert [note for note in report.notes if note.severity == "error"] == []
    estate.assert_whole()


def test_with_a_persons_word_it_goes_for_good(estate: Estate) -> None:
    made = grown(estate)
    pruned_so_far(estate)
    old = estate.of("one")
    hide(estate, *made)
    begin_again(estate)
    before = estate.stored()
    planned = estate.prune(daily=1, grace_days=1, accept_missing_index=True, dry_run=True)
    assert estate.stored() == before
    report = estate.prune(daily=1, grace_days=1, accept_missing_index=True)
    assert (report.exit_code, report.notes) == (0, ())
    assert planned.objects == report.objects > len(old) / 2
    assert not estate.of("one") & old
    again = estate.prune(daily=1, grace_days=1)
    assert (again.exit_code, again.notes, again.objects) == (0, (), 0)
    for snapshot_id in made:
        del estate.states[snapshot_id]
    estate.assert_whole()


@pytest.mark.parametrize("dry_run", [False, True])
def test_without_any_manifest_nothing_goes_by_any_word(dry_run: bool, estate: Estate) -> None:
    made = grown(estate)
    pruned_so_far(estate)
    hide(estate, *made)
    before = estate.stored()
    report = estate.prune(daily=1, grace_days=1, accept_missing_index=True, dry_run=dry_run)
    assert (report.exit_code, report.objects) == (ExitCode.DAMAGED, 0)
    assert "no manifest that can be read: nothing is deleted" in report.refused[0]
    assert estate.stored() == before


def test_one_manifest_that_is_missing_is_missed_until_it_is_back(estate: Estate) -> None:
    made = grown(estate, max_chain_length=2)
    pruned_so_far(estate)
    hidden = hide(estate, made[4])
    needed = load(estate.vault, LAYOUT.key(list_record(hidden)), Record).chain
    for _ in range(2):
        report = estate.prune(daily=1, grace_days=1)
        assert report.exit_code == ExitCode.DAMAGED
        (note,) = report.notes
        assert f"{made[4]}.json.gz is missing, and no prune deleted it" in note.message
        assert [one.uri.rpartition("/")[2] for one in verified(estate).damaged] == [
            f"{made[4]}.json.gz"
        ]
    assert {LAYOUT.key(line.key) for line in needed} <= estate.stored()
    bring_again(estate, hidden)
    assert verified(estate).damaged == ()
    for snapshot_id in made[:-1]:
        if snapshot_id != made[4]:
            del estate.states[snapshot_id]
    estate.assert_whole()
    assert estate.prune(daily=1, grace_days=1).exit_code == 0


def verified(estate: Estate) -> VerifyReport:
    return verify(estate.vault, VerifyRequest("objects"), events=Silence(), stop=Stop())


def list_record(hidden: dict[Key, bytes]) -> str:
    other = MemoryDestination()
    for key, data in hidden.items():
        other.put_if_absent(key, data)
    (name,) = list_documents(other, LAYOUT)
    (entry,) = load_manifest(other, LAYOUT, name).entries
    assert entry.record is not None
    return entry.record


def test_an_owner_without_a_manifest_loses_nothing(estate: Estate) -> None:
    made = grown(estate, nights=3)
    manifest = manifest_of(estate, made[0])
    checkpoint = manifest.model_copy(update={"document": "checkpoint", "complete": False})
    key = LAYOUT.document(DocumentName(made[0], checkpoint=1))
    estate.vault.put_if_absent(key, encode(checkpoint))
    hide(estate, *made)
    before = estate.stored()
    at = estate.now + timedelta(days=60)
    report = estate.prune(daily=1, grace_days=1, at=at)
    assert report.exit_code == ExitCode.DAMAGED
    assert "no manifest that can be read: nothing is deleted" in report.refused[0]
    assert estate.stored() == before


def test_two_prunes_with_different_windows_miss_nothing(estate: Estate) -> None:
    grown(estate)
    for days in (6, 2, 5, 1):
        report = estate.prune(grace_days=1, daily=days)
        assert (report.exit_code, report.notes) == (0, ())
    estate.states = {one: estate.states[one] for one in estate.snapshots()}
    estate.assert_whole()


def test_what_an_older_run_left_that_the_first_one_took_over_goes_some_day(
    estate: Estate,
) -> None:
    """The very first run broke off; its work is older than the oldest manifest there ever was."""
    one = estate.repository("one")
    broken = estate.night()
    manifest = manifest_of(estate, broken)
    checkpoint = manifest.model_copy(update={"document": "checkpoint", "complete": False})
    estate.vault.delete([LAYOUT.document(name_of(broken))])
    estate.vault.put_if_absent(
        LAYOUT.document(DocumentName(broken, checkpoint=1)), encode(checkpoint)
    )
    estate.night(days=0.2)
    old = {key for key in estate.stored(".bundle") if broken in key}
    assert old
    assert estate.prune(daily=1, grace_days=1).notes == ()
    for number in range(3):
        push(one, f"{number}")
        estate.night(days=20, full_after_days=1)
    report = estate.prune(daily=1, grace_days=1)
    assert report.notes == ()
    assert not old & estate.stored()
    del estate.states[broken]
    estate.assert_whole()


@pytest.mark.parametrize("forged", ["nothing", "backdated", "merged"])
def test_the_first_prune_takes_nobodys_word_for_what_is_missing(dated: Estate, forged: str) -> None:
    made = grown(dated, days=3, max_chain_length=1)
    before = dated.stored()
    # The manifest after these has merged them.
    hide(dated, *made[:-2])
    if forged == "backdated":
        forge(dated, START - timedelta(days=400))
    if forged == "merged":
        forge(dated, dated.now, merged=tuple(name_of(one).stem for one in made))
    push(dated.source / "one.git", "the next night")
    dated.night(days=30)
    report = dated.prune(daily=300, grace_days=1)
    assert "older than the oldest manifest" in "".join(one.message for one in report.notes)
    gone = {key for key in before - dated.stored() if "/snapshots/" not in key}
    assert not gone


def test_a_note_that_is_damaged_is_replaced(estate: Estate) -> None:
    grown(estate)
    estate.prune(daily=2, grace_days=1)
    (stored,) = estate.vault.list(LAYOUT.folder("pruned"))
    damage(estate, stored.key)
    found = verify(estate.vault, VerifyRequest("objects"), events=Silence(), stop=Stop())
    assert [one.uri for one in found.damaged] == [estate.vault.uri(stored.key)]
    report = estate.prune(daily=2, grace_days=1)
    assert (report.exit_code, len(report.notes)) == (0, 1)
    (after,) = estate.vault.list(LAYOUT.folder("pruned"))
    assert after.key != stored.key
    left = load(estate.vault, after.key, Pruned).left
    assert {stem.partition("/")[2] for stem in left} == estate.snapshots()


# --- One kind after the other -------------------------------------------------------------------


class Capricious(MemoryDestination):
    """A store that deletes in any order what one request names, and may refuse one key of it.

    Attributes:
        requests: the kinds of objects in each.
    """

    def __init__(self, inner: Destination, *, refuses: int | None = None) -> None:
        super().__init__()
        self._inner, self._refuses = inner, refuses
        self.requests: list[set[str]] = []
        self.deleted = 0

    def open(self, key: Key, *, offset: int = 0, version: str | None = None) -> Any:
        return self._inner.open(key, offset=offset, version=version)

    def list(self, prefix: str, *, versions: bool = False) -> Any:
        return self._inner.list(prefix, versions=versions)

    def children(self, prefix: str, *, hidden: bool = False) -> tuple[str, ...]:
        return self._inner.children(prefix, hidden=hidden)

    def put_if_absent(self, key: Key, data: bytes) -> Any:
        return self._inner.put_if_absent(key, data)

    def delete(self, keys: Iterable[Key]) -> bool:
        some = [key for key in keys if "/pruned/" not in key]
        if some:
            self.requests.append({kind_of(key) for key in some})
        refused = False
        for key in sorted(some, reverse=True):
            if self.deleted == self._refuses and not refused:
                refused = True
                continue
            self._inner.delete([key])
            self.deleted += 1
        if refused:
            raise DestinationError("one of them could not be deleted (InternalError)")
        return False


def kind_of(key: str) -> str:
    if "/snapshots/" in key or "/checkpoints/" in key:
        return key.split("/")[2]
    return key.rpartition(".json.gz")[0].rpartition(".")[2] or key.rpartition(".")[2]


def test_a_store_that_deletes_in_any_order_and_not_all_leaves_no_snapshot_that_lacks_anything(
    tmp_path: Path,
) -> None:
    estate = Estate(tmp_path)
    one = estate.repository("one")
    for number in range(4):
        push(one, f"{number}")
        estate.night(max_chain_length=2)
    estate.now += timedelta(days=30)
    whole = {stored.key: read(estate, stored.key) for stored in estate.vault.list("")}
    deletions = 0
    refuses = 0
    while True:
        estate.vault = MemoryDestination()
        for key, data in whole.items():
            estate.vault.put_if_absent(key, data)
        store = Capricious(estate.vault, refuses=refuses)
        try:
            report: PruneReport | None = estate.prune(vault=store, daily=1, grace_days=1)
        except DestinationError:
            report = None
        assert_nothing_false(estate.vault)
        estate.assert_whole()
        # Never two kinds at once, and none twice.
        kinds = [kind for request in store.requests for kind in request]
        assert all(len(request) == 1 for request in store.requests)
        assert [kind for kind, _ in groupby(kinds)] == kinds
        if report is not None:
            break
        assert estate.prune(daily=1, grace_days=1).notes == ()
        deletions, refuses = store.deleted, refuses + 1
    assert kinds == ["snapshots", "record", "bundle"]
    assert refuses > 6
    assert deletions > 0


def read(estate: Estate, key: Key) -> bytes:
    with estate.vault.open(key) as reader:
        return reader.read()


def test_kinds_of_the_fake_store_are_told_apart() -> None:
    folder = "folder/acme/repositories/one/1"
    record = f"{folder}/20260102T030000Z-0000.record.json.gz"
    assert kind_of(record) == "record"
    assert {kind_of(LAYOUT.key(key)) for key in bundles_beside(record)} == {"bundle"}
    assert kind_of(LAYOUT.document(name_of("20260102T030000Z-0000"))) == "snapshots"
