"""What the vault knows: found by listing, ordered by times, merged by repository, cheaply."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Literal

import pytest

from backup.counting import RequestCounts
from backup.destinations.counting import CountingDestination
from backup.destinations.memory import MemoryDestination
from backup.errors import (
    ConfigError,
    DamagedDocument,
    DestinationError,
    ObjectNotFound,
    UnsupportedFormat,
)
from backup.model import Destination, Key, Reader, Refs, SourceIdentity
from backup.vault.documents import (
    Entry,
    HeadLine,
    Manifest,
    Record,
    RefLine,
    RepositoryLine,
    ShardLine,
    SourceLine,
    encode,
    refs_digest,
)
from backup.vault.layout import DocumentName, Layout, record_key
from backup.vault.manifest import (
    State,
    list_documents,
    load_contents,
    load_header,
    load_manifest,
    load_record,
    load_state,
    merge,
    newer,
    require_same_source,
    roots,
)

LAYOUT = Layout.of(host="github.com", owner="acme")
NOW = datetime(2026, 11, 15, 2, 30, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
PLACE = "/srv/repositories"


def run_id(started_at: datetime, end: str = "0000") -> str:
    return f"{started_at:%Y%m%dT%H%M%SZ}-{end}"


def entry(
    name: str, checked_at: datetime | None = NOW, *, reason: str = "", by: str | None = None
) -> Entry:
    return Entry(host_id=name, path=name, checked_at=checked_at, reason=reason, carried_from=by)


def put(
    vault: Destination,
    started_at: datetime,
    *entries: Entry,
    took: timedelta = HOUR,
    end: str = "0000",
    shard: tuple[int, int] | None = None,
    checkpoint: int | None = None,
    merged: Iterable[DocumentName] = (),
    location: str = PLACE,
    accepted: int | None = None,
) -> DocumentName:
    """Store one manifest or checkpoint."""
    kind: Literal["manifest", "checkpoint"] = "manifest" if checkpoint is None else "checkpoint"
    name = DocumentName(run_id(started_at, end), shard, checkpoint)
    document = Manifest(
        format=1,
        document=kind,
        snapshot_id=name.snapshot_id,
        started_at=started_at,
        finished_at=started_at + took,
        version="0.1.0",
        source=SourceLine(provider="git", host="folder", owner="acme", location=location),
        shard=None if shard is None else ShardLine(index=shard[0], count=shard[1]),
        complete=True,
        result="success",
        accepted=accepted,
        merged=tuple(one.stem for one in merged),
        entries=entries,
    )
    vault.put_if_absent(LAYOUT.document(name), encode(document))
    return name


def damage(vault: Destination, name: DocumentName) -> None:
    key = LAYOUT.document(name)
    with vault.open(key) as reader:
        data = reader.read()
    vault.delete([key])
    vault.put_if_absent(key, data[: len(data) // 2])


def state_of(vault: Destination, *, now: datetime = NOW) -> State:
    return load_state(vault, LAYOUT, list_documents(vault, LAYOUT), now=now)


def reasons(state: State) -> dict[str, str]:
    return {one.path: one.reason for one in state.entries.values()}


@pytest.fixture
def vault() -> MemoryDestination:
    return MemoryDestination()


# --- Which is newest ---------------------------------------------------------------------------


def test_a_new_vault_knows_nothing(vault: MemoryDestination) -> None:
    assert state_of(vault) == State()


def test_the_newest_manifest_has_nearly_everything(vault: MemoryDestination) -> None:
    first = put(vault, NOW - 2 * DAY, entry("a", NOW - 2 * DAY, reason="first"), accepted=1)
    put(vault, NOW - DAY, entry("a", NOW - DAY, reason="second"), merged=[first], accepted=7)
    state = state_of(vault)
    assert reasons(state) == {"a": "second"}
    assert state.newest is not None
    assert state.newest.snapshot_id == run_id(NOW - DAY)
    assert state.accepted == 7


def test_what_was_checked_last_counts_whatever_the_ids_say(vault: MemoryDestination) -> None:
    # The run that began first asked last.
    put(vault, NOW - 5 * HOUR, entry("a", NOW - HOUR, reason="asked last"), took=4 * HOUR)
    put(vault, NOW - 4 * HOUR, entry("a", NOW - 4 * HOUR, reason="asked first"))
    state = state_of(vault)
    assert reasons(state) == {"a": "asked last"}
    assert state.newest is not None
    assert state.newest.snapshot_id == run_id(NOW - 5 * HOUR)


def test_what_has_merged_another_one_is_the_newest_whatever_their_clocks_say(
    vault: MemoryDestination,
) -> None:
    ahead = put(vault, NOW, entry("a", NOW, reason="ahead"), took=HOUR / 60, accepted=10)
    right = put(
        vault,
        NOW - HOUR / 5,
        entry("a", NOW - HOUR / 5, reason="right"),
        took=HOUR / 60,
        merged=[ahead],
        accepted=6,
    )
    state = state_of(vault)
    assert reasons(state) == {"a": "right"}
    assert state.newest is not None
    assert (state.newest.snapshot_id, state.accepted) == (right.snapshot_id, 6)
    assert state.made_of == {right.stem}


def test_manifests_that_name_each_other_or_themselves_are_not_all_left_out(
    vault: MemoryDestination,
) -> None:
    lone = DocumentName(run_id(NOW - 2 * HOUR))
    put(vault, NOW - 2 * HOUR, entry("a", reason="alone"), merged=[lone])
    assert reasons(state_of(vault)) == {"a": "alone"}
    first, second = DocumentName(run_id(NOW - HOUR)), DocumentName(run_id(NOW - HOUR / 2))
    put(vault, NOW - HOUR, entry("b", reason="first"), merged=[second, lone])
    put(vault, NOW - HOUR / 2, entry("b", reason="second"), merged=[first])
    assert reasons(state_of(vault)) == {"a": "alone", "b": "second"}


def test_runs_beside_each_other_are_merged_by_repository(vault: MemoryDestination) -> None:
    put(vault, NOW - 3 * HOUR, entry("a", NOW - HOUR, reason="one"), entry("b", NOW - 3 * HOUR))
    put(
        vault,
        NOW - 2 * HOUR,
        entry("a", NOW - 2 * HOUR, reason="other"),
        entry("b", NOW - 2 * HOUR, reason="other"),
        entry("c", NOW - 2 * HOUR, reason="other"),
    )
    state = state_of(vault)
    assert reasons(state) == {"a": "one", "b": "other", "c": "other"}
    assert len(state.made_of) == 2


def test_the_state_is_not_made_of_what_lies_a_week_behind(vault: MemoryDestination) -> None:
    """Which is read in case that no one has merged it."""
    put(vault, NOW - 7 * DAY, entry("a", NOW - 7 * DAY, reason="week"))
    newest = put(vault, NOW, entry("a", NOW, reason="tonight"), entry("b", NOW))
    assert state_of(vault).made_of == {newest.stem}


def test_of_one_path_a_code_repository_and_its_wiki_are_two(vault: MemoryDestination) -> None:
    wiki = entry("a").model_copy(update={"kind": "wiki", "reason": "wiki"})
    put(vault, NOW - HOUR, entry("a", reason="code"), wiki)
    assert {one.reason for one in state_of(vault).entries.values()} == {"code", "wiki"}


def test_two_runs_of_one_second_are_told_apart(vault: MemoryDestination) -> None:
    put(vault, NOW - HOUR, entry("a", NOW - HOUR, reason="a"), end="aaaa")
    put(vault, NOW - HOUR, entry("b", NOW - HOUR, reason="b"), end="bbbb")
    assert reasons(state_of(vault)) == {"a": "a", "b": "b"}


def test_a_run_older_than_any_job_is_not_read_again(vault: MemoryDestination) -> None:
    old = put(vault, NOW - 9 * DAY, entry("a", NOW, reason="not read"))
    put(vault, NOW - DAY, entry("b", NOW - DAY, reason="read"))
    damage(vault, old)
    assert reasons(state_of(vault)) == {"b": "read"}


def test_entries_tell_which_snapshot_made_them(vault: MemoryDestination) -> None:
    put(vault, NOW - DAY, entry("a"), entry("b", by="20260101T000000Z-0000"))
    made = {one.path: one.carried_from for one in state_of(vault).entries.values()}
    assert made == {"a": run_id(NOW - DAY), "b": "20260101T000000Z-0000"}


def test_an_entry_that_was_never_checked_is_older_than_any_other() -> None:
    never, once = entry("a", None), entry("a", NOW - 1000 * DAY)
    assert newer(once, never)
    assert not newer(never, once)
    assert not newer(never, never)
    assert merge([never, once])["code", "a"] == once
    assert merge([once, never])["code", "a"] == once


def test_of_entries_checked_at_once_the_first_is_taken() -> None:
    first, second = entry("a", reason="first"), entry("a", reason="second")
    assert merge([first, second])["code", "a"] == first


# --- What it costs -----------------------------------------------------------------------------


def test_a_normal_night_costs_two_lists_and_one_read(vault: MemoryDestination) -> None:
    """After weeks of nights, each of which merged what was there, with its checkpoints."""
    for age in range(30, 0, -1):
        known = state_of(vault, now=NOW - age * DAY).merged
        began = NOW - age * DAY
        checkpoint = put(vault, began, entry("a", began), checkpoint=1)
        put(vault, began, entry("a", began), merged=[*map(parsed, known), checkpoint])
    counts = RequestCounts()
    state = state_of(CountingDestination(vault, counts))
    assert counts.snapshot() == {"get": 1, "list": 2}
    assert state.newest is not None
    assert state.newest.started_at == NOW - DAY


def parsed(stem: str) -> DocumentName:
    name = LAYOUT.parse_document(LAYOUT.key(f"{stem}.json.gz"))
    assert name is not None
    return name


def test_what_a_manifest_merged_is_not_read_again(vault: MemoryDestination) -> None:
    one = put(vault, NOW - 4 * HOUR, entry("a"), end="aaaa")
    other = put(vault, NOW - 3 * HOUR, entry("a"), end="bbbb")
    put(vault, NOW - 2 * HOUR, entry("a"), merged=[one, other])
    counts = RequestCounts()
    state_of(CountingDestination(vault, counts))
    assert counts.snapshot()["get"] == 1


def test_merged_documents_are_remembered_as_long_as_runs_can_overlap(
    vault: MemoryDestination,
) -> None:
    recent, old = DocumentName(run_id(NOW - 3 * DAY)), DocumentName(run_id(NOW - 8 * DAY))
    newest = put(vault, NOW - DAY, entry("a"), merged=[recent, old])
    assert state_of(vault).merged == tuple(sorted([newest.stem, recent.stem]))


# --- Shards ------------------------------------------------------------------------------------


def test_complete_shards_are_one_state(vault: MemoryDestination) -> None:
    put(vault, NOW - 3 * DAY, entry("old", NOW - 3 * DAY))
    for index, name in enumerate("abc", start=1):
        put(vault, NOW - DAY, entry(name, NOW - DAY), shard=(index, 3))
    assert {*reasons(state_of(vault))} == {"a", "b", "c", "old"}


def test_complete_shards_are_as_good_as_a_whole_manifest(vault: MemoryDestination) -> None:
    too_old = put(vault, NOW - 10 * DAY, entry("old", NOW - 10 * DAY))
    damage(vault, too_old)
    for index in (1, 2):
        put(vault, NOW - DAY, entry(f"of-{index}", NOW - DAY), shard=(index, 2))
    assert {*reasons(state_of(vault))} == {"of-1", "of-2"}


def test_a_lone_shard_is_merged_with_the_last_whole_state(vault: MemoryDestination) -> None:
    put(
        vault,
        NOW - 20 * DAY,
        entry("a", NOW - 20 * DAY, reason="whole"),
        entry("b", NOW - 20 * DAY, reason="whole"),
    )
    put(vault, NOW - DAY, entry("a", NOW - DAY, reason="shard"), shard=(1, 3))
    assert reasons(state_of(vault)) == {"a": "shard", "b": "whole"}


def test_shards_of_different_runs_and_counts_never_make_one_whole(
    vault: MemoryDestination,
) -> None:
    put(vault, NOW - 20 * DAY, entry("whole", NOW - 20 * DAY))
    put(vault, NOW - 2 * DAY, entry("a", NOW - 2 * DAY), shard=(1, 2))
    put(vault, NOW - DAY, entry("b", NOW - DAY), shard=(2, 2))
    put(vault, NOW - DAY, entry("c", NOW - DAY), shard=(1, 3))
    assert {*reasons(state_of(vault))} == {"a", "b", "c", "whole"}


def test_the_manifest_that_ends_a_sharded_run_lies_beside_its_shards(
    vault: MemoryDestination,
) -> None:
    shards = [
        put(vault, NOW - DAY, entry(name, NOW - DAY), shard=(index, 2))
        for index, name in ((1, "a"), (2, "b"))
    ]
    put(vault, NOW - DAY, entry("a", NOW), entry("b", NOW), took=2 * HOUR, merged=shards)
    counts = RequestCounts()
    state = state_of(CountingDestination(vault, counts))
    assert {*reasons(state)} == {"a", "b"}
    assert counts.snapshot() == {"get": 1, "list": 2}


# --- Checkpoints -------------------------------------------------------------------------------


def test_the_last_checkpoint_of_a_run_that_ended_badly_counts(vault: MemoryDestination) -> None:
    put(vault, NOW - 2 * DAY, entry("a", NOW - 2 * DAY, reason="manifest"))
    for number in (1, 2, 10):
        put(vault, NOW - DAY, entry("a", NOW - DAY, reason=f"{number}"), checkpoint=number)
    assert reasons(state_of(vault)) == {"a": "10"}


def test_a_vault_may_have_checkpoints_alone(vault: MemoryDestination) -> None:
    put(vault, NOW - DAY, entry("a", NOW - DAY, reason="checkpoint"), checkpoint=1)
    state = state_of(vault)
    assert reasons(state) == {"a": "checkpoint"}
    assert state.newest is None
    assert state.source is not None
    assert state.source.location == PLACE


def test_checkpoints_of_a_run_that_ended_are_not_read(vault: MemoryDestination) -> None:
    checkpoint = put(vault, NOW - DAY, entry("a", NOW, reason="checkpoint"), checkpoint=9)
    put(vault, NOW - DAY, entry("a", NOW - DAY, reason="manifest"))
    damage(vault, checkpoint)
    state = state_of(vault)
    assert reasons(state) == {"a": "manifest"}
    assert state.left_aside == ()


def test_a_shard_that_ended_says_nothing_of_its_sisters_checkpoint(
    vault: MemoryDestination,
) -> None:
    put(vault, NOW - DAY, entry("a", NOW - DAY), shard=(1, 2))
    put(vault, NOW - DAY, entry("b", NOW - DAY), shard=(2, 2), checkpoint=1)
    assert {*reasons(state_of(vault))} == {"a", "b"}


def test_a_checkpoint_that_a_manifest_merged_is_not_read(vault: MemoryDestination) -> None:
    checkpoint = put(vault, NOW - 2 * DAY, entry("a", NOW, reason="checkpoint"), checkpoint=2)
    put(vault, NOW - DAY, entry("a", NOW - DAY, reason="manifest"), merged=[checkpoint])
    assert reasons(state_of(vault)) == {"a": "manifest"}


def test_a_later_checkpoint_than_the_one_that_was_merged_is_read(
    vault: MemoryDestination,
) -> None:
    merged = put(vault, NOW - 2 * DAY, entry("a", NOW - 2 * DAY), checkpoint=2)
    put(vault, NOW - 2 * DAY, entry("a", NOW, reason="later"), checkpoint=3)
    put(vault, NOW - DAY, entry("a", NOW - DAY, reason="manifest"), merged=[merged])
    assert reasons(state_of(vault)) == {"a": "later"}


def test_a_checkpoint_older_than_any_job_is_not_read(vault: MemoryDestination) -> None:
    checkpoint = put(vault, NOW - 9 * DAY, entry("a", NOW, reason="checkpoint"), checkpoint=1)
    put(vault, NOW - DAY, entry("a", NOW - DAY, reason="manifest"))
    damage(vault, checkpoint)
    assert reasons(state_of(vault)) == {"a": "manifest"}


def test_a_damaged_checkpoint_is_left_aside_and_named(vault: MemoryDestination) -> None:
    put(vault, NOW - 2 * DAY, entry("a", NOW - 2 * DAY, reason="manifest"))
    checkpoint = put(vault, NOW - DAY, entry("a", NOW - DAY), checkpoint=1)
    damage(vault, checkpoint)
    state = state_of(vault)
    assert reasons(state) == {"a": "manifest"}
    (words,) = state.left_aside
    assert f"{checkpoint.stem}.json.gz is damaged: " in words


# --- The future --------------------------------------------------------------------------------


def test_a_manifest_from_the_future_decides_nothing(vault: MemoryDestination) -> None:
    put(vault, NOW - DAY, entry("a", NOW - DAY, reason="now"), accepted=5)
    future = put(
        vault,
        NOW + 365 * DAY,
        entry("a", NOW + 365 * DAY, reason="dream"),
        entry("only-there", NOW + 365 * DAY, reason="dream"),
        accepted=1,
    )
    state = state_of(vault)
    assert reasons(state) == {"a": "now", "only-there": "dream"}
    assert state.misdated == (future.stem,)
    assert state.accepted == 5
    assert state.newest is not None
    assert state.newest.snapshot_id == run_id(NOW - DAY)
    assert future.stem not in state.merged


def test_a_damaged_manifest_from_the_future_decides_nothing_either(
    vault: MemoryDestination,
) -> None:
    put(vault, NOW - DAY, entry("a", NOW - DAY, reason="now"))
    future = put(vault, NOW + 365 * DAY, entry("a", NOW))
    damage(vault, future)
    state = state_of(vault)
    assert reasons(state) == {"a": "now"}
    assert state.misdated == (future.stem,)


def test_clocks_that_differ_by_minutes_are_no_future(vault: MemoryDestination) -> None:
    put(vault, NOW + timedelta(minutes=30), entry("a", NOW + HOUR, reason="ahead"))
    state = state_of(vault)
    assert reasons(state) == {"a": "ahead"}
    assert state.misdated == ()


# --- What cannot be read -----------------------------------------------------------------------


def test_a_damaged_newest_manifest_is_an_error_and_never_an_older_state(
    vault: MemoryDestination,
) -> None:
    put(vault, NOW - 2 * DAY, entry("a"))
    damage(vault, put(vault, NOW - DAY, entry("a")))
    with pytest.raises(DamagedDocument, match=run_id(NOW - DAY)):
        state_of(vault)


def test_a_sound_snapshot_of_the_same_second_is_named_whatever_its_id(
    vault: MemoryDestination,
) -> None:
    first = put(vault, NOW - DAY, entry("a"), end="ffff")
    damage(vault, put(vault, NOW - DAY, entry("a"), end="0000"))
    with pytest.raises(DamagedDocument) as raised:
        state_of(vault)
    assert f"--at {first.snapshot_id}" in (raised.value.hint or "")


def test_a_damaged_manifest_that_a_later_one_has_merged_stops_nothing(
    vault: MemoryDestination,
) -> None:
    # Of two runs in one second, or with clocks that differ, the earlier one may have the later id.
    earlier = put(vault, NOW - HOUR, entry("a", reason="earlier"))
    put(vault, NOW - 2 * HOUR, entry("a", NOW, reason="later"), merged=[earlier])
    damage(vault, earlier)
    assert reasons(state_of(vault)) == {"a": "later"}
    # One that only a part of a run has merged may be all that is known of the rest.
    damage(vault, part := put(vault, NOW - 3 * HOUR, entry("b")))
    put(vault, NOW - 4 * HOUR, entry("c"), merged=[part], shard=(1, 2))
    with pytest.raises(DamagedDocument, match=run_id(NOW - 3 * HOUR)):
        state_of(vault)


def test_a_manifest_of_a_newer_release_is_an_error(vault: MemoryDestination) -> None:
    name = put(vault, NOW - DAY, entry("a"))
    document = load_manifest(vault, LAYOUT, name)
    newer_name = DocumentName(run_id(NOW - HOUR))
    changed = document.model_copy(update={"format": 2})
    vault.put_if_absent(LAYOUT.document(newer_name), encode(changed))
    with pytest.raises(UnsupportedFormat):
        state_of(vault)


def test_a_checkpoint_of_a_newer_release_is_left_aside_and_not_called_damaged(
    vault: MemoryDestination,
) -> None:
    manifest = put(vault, NOW - 2 * DAY, entry("a", NOW - 2 * DAY, reason="manifest"))
    name = DocumentName(run_id(NOW - DAY), checkpoint=1)
    document = load_manifest(vault, LAYOUT, manifest)
    vault.put_if_absent(LAYOUT.document(name), encode(document.model_copy(update={"format": 2})))
    state = state_of(vault)
    assert reasons(state) == {"a": "manifest"}
    (words,) = state.left_aside
    assert words.endswith(f"{name.stem}.json.gz has format 2, this version reads format 1")


def test_a_destination_that_does_not_answer_is_an_error_and_never_an_empty_vault(
    vault: MemoryDestination,
) -> None:
    class Silent(CountingDestination):
        def open(self, key: Key, *, offset: int = 0, version: str | None = None) -> Reader:
            raise DestinationError("the store answers 503")

    put(vault, NOW - DAY, entry("a"))
    with pytest.raises(DestinationError, match="503"):
        state_of(Silent(vault, RequestCounts()))


def test_a_manifest_that_vanishes_after_it_was_listed_is_an_error(
    vault: MemoryDestination,
) -> None:
    names = [put(vault, NOW - DAY, entry("a"))]
    vault.delete([LAYOUT.document(names[0])])
    with pytest.raises(ObjectNotFound):
        load_state(vault, LAYOUT, names, now=NOW)


# --- Listing and loading -----------------------------------------------------------------------


def test_other_objects_in_the_folders_are_no_documents(vault: MemoryDestination) -> None:
    name = put(vault, NOW - DAY, entry("a"))
    for foreign in ("snapshots/readme.txt", "snapshots/x/y.json.gz", "checkpoints/z"):
        vault.put_if_absent(LAYOUT.key(foreign), b"")
    assert list_documents(vault, LAYOUT) == (name,)


def test_a_file_named_for_a_time_that_never_is_stops_nobody(vault: MemoryDestination) -> None:
    put(vault, NOW - DAY, entry("a", reason="manifest"))
    vault.put_if_absent(LAYOUT.key("snapshots/20261399T000000Z-abcd.json.gz"), b"")
    assert reasons(state_of(vault)) == {"a": "manifest"}


def test_every_owner_of_a_vault_is_found(vault: MemoryDestination) -> None:
    others = [Layout("folder/x/"), Layout("github.com/other/")]
    vault.put_if_absent(LAYOUT.key("snapshots/a"), b"")
    vault.put_if_absent(others[0].key("checkpoints/a"), b"")
    vault.put_if_absent(others[1].key("snapshots/a"), b"")
    vault.put_if_absent(Key("github.com/nothing/repositories/a"), b"")
    vault.put_if_absent(Key("loose"), b"")
    assert set(roots(vault)) == {LAYOUT, *others}
    assert roots(MemoryDestination()) == ()


def test_a_head_is_read_without_the_entries(vault: MemoryDestination) -> None:
    name = put(vault, NOW - DAY, *(entry(f"r{number}") for number in range(100)))
    head = load_header(vault, LAYOUT, name)
    assert head.snapshot_id == name.snapshot_id
    assert not head.model_extra
    assert "entries" not in head.model_dump()


def test_a_record_is_read_below_its_root(vault: MemoryDestination) -> None:
    record = Record(
        format=1,
        document="record",
        snapshot_id=run_id(NOW),
        version="0.1.0",
        repository=RepositoryLine(host="github.com", owner="acme", path="a", host_id="1"),
        captured_at=NOW,
        object_format="sha1",
        digest=refs_digest(Refs(tips={})),
        refs=(),
        chain=(),
    )
    key = record_key("repositories/a/1/", run_id(NOW))
    vault.put_if_absent(LAYOUT.key(key), encode(record))
    assert load_record(vault, LAYOUT, key) == record
    with pytest.raises(ObjectNotFound):
        load_record(vault, LAYOUT, "repositories/a/1/y.record.json.gz")
    # Of another run, and with other refs than it was written with.
    for where, update in (
        (record_key("repositories/a/1/", run_id(NOW - DAY)), {}),
        (key, {"refs": (RefLine(name="refs/heads/main", id="1" * 40),)}),
        (key, {"head": HeadLine(symref="refs/heads/other")}),
    ):
        vault.delete([LAYOUT.key(where)])
        vault.put_if_absent(LAYOUT.key(where), encode(record.model_copy(update=update)))
        with pytest.raises(DamagedDocument, match="is damaged: it"):
            load_record(vault, LAYOUT, where)


def test_a_document_under_the_name_of_another_one_is_damaged() -> None:
    vault = MemoryDestination()
    name = DocumentName(run_id(NOW))
    put(vault, NOW)
    with vault.open(LAYOUT.document(name)) as reader:
        data = reader.read()
    for other in (DocumentName(run_id(NOW - DAY)), replace(name, checkpoint=1)):
        vault.put_if_absent(LAYOUT.document(other), data)
        for load in (load_manifest, load_header, load_contents):
            assert load(vault, LAYOUT, name).snapshot_id == name.snapshot_id
            with pytest.raises(DamagedDocument, match="it is the manifest of"):
                load(vault, LAYOUT, other)


# --- One source for one root -------------------------------------------------------------------


def identity(location: str) -> SourceIdentity:
    return SourceIdentity(provider="git", host="folder", owner="acme", location=location)


@pytest.mark.parametrize("checkpoint", [None, 1], ids=["manifest", "checkpoint alone"])
def test_a_root_of_another_source_is_refused(
    checkpoint: int | None, vault: MemoryDestination
) -> None:
    put(vault, NOW - DAY, entry("a"), checkpoint=checkpoint)
    state = state_of(vault)
    require_same_source(state, identity(PLACE))
    with pytest.raises(ConfigError, match="/srv/repositories") as caught:
        require_same_source(state, identity("/srv/elsewhere"))
    assert "/srv/elsewhere" in caught.value.message
    assert "--owner" in caught.value.hint


def test_a_new_root_takes_any_source() -> None:
    require_same_source(State(), identity("/anywhere"))
