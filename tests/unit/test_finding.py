"""What a person means: a moment, a snapshot, a repository by any of its names."""

import gzip
import json
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pytest

from backup.commands.as_of import contents_at
from backup.commands.finding import (
    Found,
    find_repository,
    newest_drills,
    parse_moment,
    require_roots,
    snapshots,
)
from backup.destinations.memory import MemoryDestination
from backup.errors import ConfigError, IntegrityError, ManifestDamaged
from backup.model import Destination, Kind
from backup.vault.documents import Drill, Entry, Manifest, ShardLine, SourceLine, encode
from backup.vault.documents_of_listings import AbsenceLine
from backup.vault.layout import DocumentName, Layout
from tests.support.times import Timed

NOW = datetime(2026, 11, 15, 2, 30, tzinfo=UTC)
HOUR, DAY = timedelta(hours=1), timedelta(days=1)
LAYOUT = Layout.of(host="github.com", owner="acme")


# --- A moment ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2026-11-01", "2026-11-01T23:59:59.999999+00:00"),
        ("2026-11-01T02:30", "2026-11-01T02:30:59.999999+00:00"),
        ("2026-11-01 02:30", "2026-11-01T02:30:59.999999+00:00"),
        ("2026-11-01T02:30:15", "2026-11-01T02:30:15.999999+00:00"),
        ("2026-11-01T02:30:15Z", "2026-11-01T02:30:15.999999+00:00"),
        ("2026-11-01T02:30:15.25Z", "2026-11-01T02:30:15.259999+00:00"),
        ("2026-11-01T02:30:15.000001Z", "2026-11-01T02:30:15.000001+00:00"),
        ("2026-11-01T02:30+02:00", "2026-11-01T00:30:59.999999+00:00"),
        ("2026-11-01T00:30:00-05:30", "2026-11-01T06:00:00.999999+00:00"),
        ("2024-02-29", "2024-02-29T23:59:59.999999+00:00"),
        ("9999-12-31", "9999-12-31T23:59:59.999999+00:00"),
        ("0001-01-01", "0001-01-01T23:59:59.999999+00:00"),
    ],
)
def test_a_date_or_time_is_its_last_instant_in_utc(text: str, instant: str) -> None:
    assert parse_moment(text).isoformat(timespec="microseconds") == instant


@pytest.mark.parametrize(
    "text",
    [
        "",
        "yesterday",
        "2026",
        "2026-11",
        "2026-13-01",
        "2026-02-29",
        "2026-11-31",
        "26-11-01",
        "01/11/2026",
        "2026-11-01T",
        "2026-11-01T02",
        "2026-11-01T24:00",
        "2026-11-01T02:60",
        "2026-11-01T02:30:60",
        "2026-11-01T02:30:15.1234567Z",
        "2026-11-01T02:30z",
        "2026-11-01Z",
        "2026-11-01T02:30+2",
        "2026-11-01T02:30+24:00",
        " 2026-11-01",
        "2026-11-01\n",
        "0001-01-01T00:00+05:00",
        "9999-12-31T23:59-05:00",
        "2026-11-01T02:30:00Z; rm -rf /",
    ],
)
def test_anything_else_is_refused_and_the_message_says_what_is_accepted(text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_moment(text)
    assert repr(text) in caught.value.message
    assert "2026-11-01" in caught.value.message


# --- A repository ------------------------------------------------------------------------------


def found(
    path: str,
    host_id: str,
    *,
    owner: str = "acme",
    host: str = "github.com",
    aliases: tuple[str, ...] = (),
    gone: bool = False,
    kind: Kind = "code",
) -> Found:
    absence = AbsenceLine(since=NOW, asked_at=NOW, answer="not-visible") if gone else None
    entry = Entry(host_id=host_id, path=path, aliases=aliases, absence=absence, kind=kind)
    return Found(Layout.of(host=host, owner=owner), host, owner, entry)


def meant(text: str, *candidates: Found) -> str:
    return find_repository(candidates, text).entry.host_id


@pytest.mark.parametrize(
    "text",
    [
        "group/widgets",
        "acme/group/widgets",
        "github.com/acme/group/widgets",
        "acme/group/widgets.git",
        "group/widgets.git",
        "42",
    ],
)
def test_a_repository_has_several_names(text: str) -> None:
    assert meant(text, found("group/widgets", "42"), found("widgets", "43")) == "42"


def test_an_ending_that_belongs_to_the_name_goes_before_one_that_was_added() -> None:
    candidates = (found("widgets", "1"), found("widgets.git", "2"))
    assert meant("widgets.git", *candidates) == "2"
    assert meant("acme/widgets", *candidates) == "1"


def test_an_earlier_name_finds_it_too() -> None:
    renamed = found("new", "1", aliases=("old", "older"))
    assert meant("acme/older", renamed, found("x", "2")) == "1"


def test_a_present_name_goes_before_an_earlier_one() -> None:
    candidates = (found("new", "1", aliases=("widgets",)), found("widgets", "2"))
    assert meant("widgets", *candidates) == "2"


def test_a_live_repository_goes_before_one_that_is_gone() -> None:
    candidates = (found("widgets", "1", gone=True), found("widgets", "2"))
    assert meant("widgets", *candidates) == "2"
    assert meant("1", *candidates) == "1"


def test_one_that_is_gone_is_found_when_nothing_else_is_meant() -> None:
    assert meant("widgets", found("widgets", "1", gone=True)) == "1"


@pytest.mark.parametrize("gone", [False, True])
def test_a_name_that_means_several_is_refused_and_all_are_listed(gone: bool) -> None:
    candidates = [
        found("widgets", "1", gone=gone),
        found("widgets", "2", host="gitlab.example.org", gone=gone),
    ]
    with pytest.raises(ConfigError, match="means several") as caught:
        find_repository(candidates, "widgets")
    assert "github.com/acme/widgets (id 1)" in caught.value.message
    assert "gitlab.example.org/acme/widgets (id 2)" in caught.value.message
    assert caught.value.hint == "give the id"
    assert meant("gitlab.example.org/acme/widgets", *candidates) == "2"


def test_where_ids_are_the_same_the_whole_name_is_what_to_give() -> None:
    candidates = [found("widgets", "1"), found("widgets", "1", host="gitlab.example.org")]
    with pytest.raises(ConfigError, match="means several") as caught:
        find_repository(candidates, "widgets")
    assert caught.value.hint == "give one by its whole name, such as github.com/acme/widgets"
    assert find_repository(candidates, "github.com/acme/widgets") is candidates[0]


def test_a_name_that_means_none_is_refused_with_some_that_are_there() -> None:
    candidates = [found(f"r{number:02}", f"{number}") for number in range(12)]
    with pytest.raises(ConfigError, match="'acme/nothing' is not in this vault") as caught:
        find_repository(candidates, "acme/nothing")
    ten = ", ".join(f"acme/r{number:02}" for number in range(10))
    assert f"it holds {ten} and 2 more; list" in caught.value.hint


def test_of_very_many_that_a_name_means_ten_are_told() -> None:
    candidates = [found("r", f"{number}") for number in range(1000)]
    with pytest.raises(ConfigError, match=r"means several: .* and 990 more$") as caught:
        find_repository(candidates, "r")
    assert caught.value.message.count("(id ") == 10


def test_the_same_letter_case_comes_first_and_another_will_do() -> None:
    assert meant("Widgets", found("widgets", "1"), found("Widgets", "2")) == "2"
    assert meant("WIDGETS", found("widgets", "1")) == "1"
    assert meant("ACME/widgets.GIT", found("widgets", "1")) == "1"
    with pytest.raises(ConfigError, match="means several"):
        meant("WIDGETS", found("widgets", "1"), found("Widgets", "2"))


def test_a_wiki_is_told_from_its_repository_by_name_and_id() -> None:
    both = (found("widgets", "1"), found("widgets.wiki", "1", kind="wiki"))
    assert find_repository(both, "1").entry.kind == "code"
    assert find_repository(both, "1.wiki").entry.kind == "wiki"
    assert find_repository(both, "acme/widgets.wiki").entry.kind == "wiki"


# --- A state -----------------------------------------------------------------------------------


def put(
    vault: Destination,
    started_at: datetime,
    entries: Iterable[Entry],
    *,
    took: timedelta = HOUR,
    shard: tuple[int, int] | None = None,
    merged: Iterable[DocumentName] = (),
) -> DocumentName:
    name = DocumentName(f"{started_at:%Y%m%dT%H%M%SZ}-0000", shard)
    document = Manifest(
        format=1,
        document="manifest",
        snapshot_id=name.snapshot_id,
        started_at=started_at,
        finished_at=started_at + took,
        version="0.1.0",
        source=SourceLine(provider="github", host="github.com", owner="acme"),
        complete=True,
        result="success",
        shard=None if shard is None else ShardLine(index=shard[0], count=shard[1]),
        merged=tuple(one.stem for one in merged),
        entries=tuple(entries),
    )
    vault.put_if_absent(LAYOUT.document(name), encode(document))
    return name


def entry(name: str, checked_at: datetime, reason: str = "") -> Entry:
    return Entry(host_id=name, path=name, checked_at=checked_at, reason=reason)


def at(vault: Destination, text: str | None) -> dict[str, str]:
    return {
        one.entry.path: one.entry.reason
        for one in contents_at(vault, LAYOUT, text, now=NOW).entries
    }


@pytest.fixture
def vault() -> MemoryDestination:
    """Three nights; in the second, a was asked before midnight and b after it."""
    made = MemoryDestination()
    first, second, third = (datetime(2026, 11, day, 23, 30, tzinfo=UTC) for day in (1, 2, 3))
    put(made, first, [entry("a", first, "a1"), entry("b", first, "b1")])
    put(made, second, [entry("a", second, "a2"), entry("b", second + HOUR, "b2")])
    put(made, third, [entry("a", third, "a3"), entry("c", third, "c3")])
    return made


@pytest.mark.parametrize("text", [None, "latest"])
def test_the_newest_state_is_what_every_run_knows(
    text: str | None, vault: MemoryDestination
) -> None:
    assert at(vault, text) == {"a": "a3", "b": "b2", "c": "c3"}


def test_a_snapshot_is_what_its_manifest_says(vault: MemoryDestination) -> None:
    assert at(vault, "20261101T233000Z-0000") == {"a": "a1", "b": "b1"}


def test_a_snapshot_that_never_was_has_nothing(vault: MemoryDestination) -> None:
    assert at(vault, "20261101T233001Z-0000") == {}


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("2026-10-31", {}),
        ("2026-11-01T23:29", {}),
        ("2026-11-01", {"a": "a1", "b": "b1"}),
        ("2026-11-02T23:29", {"a": "a1", "b": "b1"}),
        ("2026-11-02", {"a": "a2", "b": "b1"}),
        ("2026-11-03T00:30:00", {"a": "a2", "b": "b2"}),
        ("2026-11-03", {"a": "a3", "c": "c3"}),
    ],
)
def test_a_moment_has_each_repositorys_last_state_that_was_seen_by_then(
    text: str, state: dict[str, str], vault: MemoryDestination
) -> None:
    assert at(vault, text) == state


def test_at_a_moment_shards_are_put_together() -> None:
    vault = MemoryDestination()
    put(vault, NOW - 3 * DAY, [entry(name, NOW - 3 * DAY, "old") for name in "abc"])
    for index, name in ((1, "a"), (2, "b")):
        put(vault, NOW - DAY, [entry(name, NOW - DAY, "new")], shard=(index, 3))
    assert at(vault, "2026-11-14T12:00") == {"a": "new", "b": "new", "c": "old"}


def test_a_whole_manifest_is_not_mixed_with_shards_that_somebody_added() -> None:
    vault = MemoryDestination()
    name = put(vault, NOW - DAY, [entry("a", NOW - DAY, "a"), entry("b", NOW - DAY, "b")])
    put(vault, NOW - DAY, [entry("a", NOW, "forged")], shard=(1, 1))
    assert at(vault, name.snapshot_id) == {"a": "a", "b": "b"}
    assert len(contents_at(vault, LAYOUT, name.snapshot_id, now=NOW).entries) == 2


def test_of_shards_those_that_were_stored_first_make_the_snapshot() -> None:
    moments = iter([NOW - DAY, NOW - DAY + HOUR, NOW])
    now = NOW

    def clock() -> datetime:
        return now

    vault = Timed(MemoryDestination(), clock)
    for index, path in ((1, "a"), (2, "b")):
        now = next(moments)
        put(vault, NOW - DAY, [entry(path, now, path), entry("c", now, path)], shard=(index, 2))
    now = next(moments)
    name = put(vault, NOW - DAY, [entry("a", NOW, "forged")], shard=(1, 1))
    assert at(vault, name.snapshot_id) == {"a": "a", "b": "b", "c": "b"}


@pytest.mark.parametrize(
    "data",
    [b"damaged", gzip.compress(b'{"format": 2}')],
    ids=["damaged", "of a newer format"],
)
def test_what_cannot_be_read_is_passed_over_only_where_an_earlier_state_is_asked_for(
    data: bytes, vault: MemoryDestination
) -> None:
    key = LAYOUT.document(DocumentName("20261103T233000Z-0000"))
    vault.delete([key])
    vault.put_if_absent(key, data)
    assert at(vault, "2026-11-02") == {"a": "a2", "b": "b1"}
    for text in ("2026-11-03", None, "20261103T233000Z-0000"):
        with pytest.raises(IntegrityError):
            at(vault, text)


# --- A damaged snapshot ------------------------------------------------------------------------

FIRST, SECOND, THIRD = (DocumentName(f"2026110{night}T233000Z-0000") for night in (1, 2, 3))


@pytest.fixture
def merging() -> MemoryDestination:
    """The same three nights, each of which has merged those before."""
    made = MemoryDestination()
    first, second, third = (name.time for name in (FIRST, SECOND, THIRD))
    put(made, first, [entry("a", first, "a1"), entry("b", first, "b1")])
    put(made, second, [entry("a", second, "a2"), entry("b", second + HOUR, "b2")], merged=[FIRST])
    put(made, third, [entry("a", third, "a3"), entry("c", third, "c3")], merged=[FIRST, SECOND])
    return made


def replace_by(vault: MemoryDestination, name: DocumentName, data: bytes = b"damaged") -> None:
    vault.delete([LAYOUT.document(name)])
    vault.put_if_absent(LAYOUT.document(name), data)


def with_bad_entry(vault: MemoryDestination, name: DocumentName) -> bytes:
    """Return a manifest of which the head can be read, and not the entries."""
    with vault.open(LAYOUT.document(name)) as reader:
        document = json.loads(gzip.decompress(reader.read()))
    return gzip.compress(json.dumps({**document, "entries": [{"no": "such"}]}).encode())


@pytest.mark.parametrize(
    ("damaged", "text", "state"),
    [
        (FIRST, "2026-11-03T00:30:00", {"a": "a2", "b": "b2"}),
        (FIRST, "2026-11-03", {"a": "a3", "c": "c3"}),
        (SECOND, "2026-11-01", {"a": "a1", "b": "b1"}),
        (SECOND, "2026-11-03", {"a": "a3", "c": "c3"}),
        (THIRD, "2026-11-02", {"a": "a2", "b": "b1"}),
    ],
)
def test_what_a_later_snapshot_has_merged_is_not_missed_at_a_moment(
    damaged: DocumentName, text: str, state: dict[str, str], merging: MemoryDestination
) -> None:
    replace_by(merging, damaged)
    assert at(merging, text) == state


@pytest.mark.parametrize("part", ["all of it", "its entries"])
@pytest.mark.parametrize(
    ("damaged", "text", "hint"),
    [
        (
            FIRST,
            "2026-11-01",
            f"no snapshot before it .* after it is .* --at {SECOND.snapshot_id};",
        ),
        (
            SECOND,
            "2026-11-02",
            f"before it .* --at {FIRST.snapshot_id}, .* after it with --at {THIRD.snapshot_id};",
        ),
        (THIRD, "2026-11-03", f"before it is restored with --at {SECOND.snapshot_id};"),
    ],
)
def test_where_the_one_that_decides_is_damaged_those_around_it_are_named(
    damaged: DocumentName, text: str, hint: str, part: str, merging: MemoryDestination
) -> None:
    data = b"damaged" if part == "all of it" else with_bad_entry(merging, damaged)
    replace_by(merging, damaged, data)
    with pytest.raises(ManifestDamaged, match=f"{damaged.snapshot_id}.* is damaged") as caught:
        at(merging, text)
    assert re.search(hint, caught.value.hint)


def test_a_snapshot_of_which_only_the_head_can_be_read_is_not_named(
    merging: MemoryDestination,
) -> None:
    replace_by(merging, SECOND, with_bad_entry(merging, SECOND))
    replace_by(merging, THIRD)
    with pytest.raises(ManifestDamaged) as caught:
        at(merging, "2026-11-03")
    assert f"before it is restored with --at {FIRST.snapshot_id};" in caught.value.hint


@pytest.mark.parametrize("part", ["all of it", "its entries"])
def test_only_what_was_seen_later_is_undecided_without_the_snapshot_before(
    part: str, merging: MemoryDestination
) -> None:
    data = b"damaged" if part == "all of it" else with_bad_entry(merging, FIRST)
    replace_by(merging, FIRST, data)
    contents = contents_at(merging, LAYOUT, "2026-11-02", now=NOW)
    assert [one.entry.reason for one in contents.entries] == ["a2"]
    assert [one.name for one in contents.undecided] == ["acme/b"]
    assert contents.doubt is not None
    assert "by 2026-11-02 23:59:59 UTC may be in a manifest that" in contents.doubt.message
    assert f"{FIRST.snapshot_id}.json.gz is damaged" in contents.doubt.message
    assert f"--at {SECOND.snapshot_id};" in contents.doubt.hint


def test_an_older_entry_is_not_given_for_one_that_a_damaged_snapshot_may_have() -> None:
    vault = MemoryDestination()
    first = put(vault, NOW - 3 * DAY, [entry("b", NOW - 3 * DAY, "old")])
    second = put(vault, NOW - 2 * DAY, [entry("b", NOW - 2 * DAY, "new")], merged=[first])
    seen = [entry("a", NOW - DAY, "a"), entry("b", NOW, "later")]
    put(vault, NOW - DAY, seen, merged=[first, second])
    assert at(vault, "2026-11-14T12:00") == {"a": "a", "b": "new"}
    replace_by(vault, second)
    assert at(vault, "2026-11-14T12:00") == {"a": "a"}


def test_of_snapshots_that_have_not_merged_a_damaged_one_the_newest_is_named() -> None:
    vault = MemoryDestination()
    before = put(vault, NOW - 9 * HOUR, [entry("a", NOW - 9 * HOUR, "before")])
    long = put(vault, NOW - 8 * HOUR, [entry("a", NOW - 8 * HOUR)], merged=[before])
    beside = put(vault, NOW - 7 * HOUR, [entry("a", NOW - 7 * HOUR)], merged=[before])
    newest = put(vault, NOW - 5 * HOUR, [entry("a", NOW - 5 * HOUR)], merged=[before, beside])
    replace_by(vault, long)
    with pytest.raises(ManifestDamaged) as caught:
        at(vault, "2026-11-14T22:30")
    assert f"--at {before.snapshot_id}, " in caught.value.hint
    assert f"--at {newest.snapshot_id};" in caught.value.hint


def test_a_damaged_snapshot_beside_which_no_run_can_have_been_decides_nothing() -> None:
    vault = MemoryDestination()
    old = put(vault, NOW - 9 * DAY, [entry("a", NOW - 9 * DAY, "old")])
    put(vault, NOW - DAY, [entry("a", NOW - DAY, "new")])
    replace_by(vault, old)
    assert at(vault, "2026-11-14") == {"a": "new"}
    between = put(vault, NOW - 7 * DAY, [entry("a", NOW - 7 * DAY, "between")])
    replace_by(vault, between)
    with pytest.raises(ManifestDamaged, match=between.snapshot_id):
        at(vault, "2026-11-14")


def test_a_damaged_snapshot_that_only_a_part_of_a_run_has_merged_may_decide() -> None:
    vault = MemoryDestination()
    whole = put(vault, NOW - 2 * DAY, [entry("a", NOW - 2 * DAY), entry("b", NOW - 2 * DAY)])
    put(vault, NOW - DAY, [entry("a", NOW - DAY)], shard=(1, 2), merged=[whole])
    replace_by(vault, whole)
    with pytest.raises(ManifestDamaged, match=whole.snapshot_id):
        at(vault, "2026-11-14")


def test_a_damaged_snapshot_from_a_wrong_clock_decides_nothing_at_a_moment() -> None:
    vault = Timed(memory := MemoryDestination(), lambda: NOW - DAY)
    put(vault, NOW - 2 * DAY, [entry("a", NOW - 2 * DAY, "true")])
    vault.put_if_absent(LAYOUT.document(DocumentName(f"{NOW:%Y%m%dT%H%M%SZ}-0000")), b"damaged")
    assert at(vault, "2026-11-15") == {"a": "true"}
    # Without the store's time nothing speaks against it.
    with pytest.raises(ManifestDamaged):
        at(memory, "2026-11-15")


def test_snapshots_that_cannot_be_read_are_told_apart_for_those_who_can_do_without(
    merging: MemoryDestination,
) -> None:
    replace_by(merging, FIRST)
    replace_by(merging, SECOND, gzip.compress(b'{"format": 2}'))
    unreadable: list[tuple[DocumentName, IntegrityError]] = []
    assert [one.name for one in snapshots(merging, LAYOUT, unreadable=unreadable)] == [THIRD]
    assert [name for name, _ in unreadable] == [FIRST, SECOND]
    with pytest.raises(IntegrityError):
        snapshots(merging, LAYOUT)


def test_what_is_found_tells_which_snapshot_made_it(vault: MemoryDestination) -> None:
    for text in (None, "2026-11-03T00:30:00", "20261102T233000Z-0000"):
        one = find_repository(contents_at(vault, LAYOUT, text, now=NOW).entries, "b")
        assert one.entry.carried_from == "20261102T233000Z-0000"
        assert one.name == "acme/b"


def test_snapshots_are_ordered_by_the_time_they_finished() -> None:
    vault = MemoryDestination()
    long = put(vault, NOW - 5 * HOUR, [], took=4 * HOUR)
    short = put(vault, NOW - 4 * HOUR, [], took=HOUR)
    assert [one.name for one in snapshots(vault, LAYOUT)] == [short, long]


def test_a_destination_without_snapshots_is_no_vault() -> None:
    with pytest.raises(ConfigError, match="holds no snapshots"):
        require_roots(MemoryDestination())


def test_of_drills_within_one_second_the_later_is_the_newest() -> None:
    destination = MemoryDestination()
    layout = Layout.of(host="git", owner="acme")
    began = datetime(2026, 11, 1, 3, tzinfo=UTC)
    # The random part of the ids says the opposite of the times.
    for ending, seconds in (("ffff", 0.1), ("aaaa", 0.7), ("cccc", 0.4)):
        moment = began + timedelta(seconds=seconds)
        drill = Drill(
            format=1,
            document="drill",
            snapshot_id=f"20261101T030000Z-{ending}",
            started_at=began,
            finished_at=moment,
            version="0",
            depth="objects",
            checked=(),
        )
        destination.put_if_absent(layout.drill(drill.snapshot_id), encode(drill))
    found = [one.snapshot_id[-4:] for one in newest_drills(destination, layout)]
    assert found == ["aaaa", "cccc", "ffff"]
