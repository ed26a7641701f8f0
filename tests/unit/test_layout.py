"""Keys: no two names share one, no store or file system mangles one, and each is read back."""

import re
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from backup.keys import check_key, is_key, is_segment
from backup.vault.layout import (
    SNAPSHOT_ID,
    DocumentName,
    Layout,
    bundle_key,
    escape_path,
    escape_segment,
    new_snapshot_id,
    record_key,
    repository_folder,
    snapshot_time,
)

LAYOUT = Layout.of(host="github.com", owner="acme")
ID = "20261101T023000Z-1a2b3c4d"
DEVICES = ("con", "prn", "aux", "nul", *(f"com{n}" for n in range(10)), *(f"lpt{n}" for n in "19"))


@pytest.mark.parametrize(
    ("name", "segment"),
    [
        ("widgets", "widgets"),
        ("Widgets-2_0.x", "Widgets-2_0.x"),
        ("a b", "a%20b"),
        ("größe", "gr%C3%B6%C3%9Fe"),
        ("a/b", "a%2Fb"),
        ("a\\b", "a%5Cb"),
        ("a%2Fb", "a%252Fb"),
        ("a~b", "a%7Eb"),
        ("a\nb\0", "a%0Ab%00"),
        (".", "%2E"),
        ("..", "%2E%2E"),
        ("...", "%2E.%2E"),
        (".github", "%2Egithub"),
        ("name.", "name%2E"),
        ("name..", "name.%2E"),
        ("con", "%63on"),
        ("CON.txt", "%43ON.txt"),
        ("com1", "%63om1"),
        ("nul.", "%6Eul%2E"),
        ("console", "console"),
        ("com10", "com10"),
        ("a" * 120, "a" * 120),
        ("a" * 121, "a" * 103 + "~e9615320128cc7a3"),
        ("\N{SNOWMAN}" * 40, "%E2%98%83" * 11 + "%E2~906ae2915bae4c73"),
    ],
)
def test_a_name_becomes_its_segment(name: str, segment: str) -> None:
    assert escape_segment(name) == segment


@pytest.mark.parametrize("path", ["", "/", "a//b", "/a", "a/"])
def test_an_empty_segment_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="empty"):
        escape_path(path)


# Names that come near each other once they are escaped or cut.
_LETTERS = st.sampled_from(
    [*'aAé.%2E5~-_ /\\:*?"<>|\0\n', "con", "COM1", "nul", "\N{SNOWMAN}", "%2", "\udcff", "x" * 40]
)
NAMES = st.lists(_LETTERS, min_size=1, max_size=12).map("".join) | st.text(min_size=1, max_size=150)


def encodable(name: str) -> bool:
    try:
        name.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return False
    return True


@given(NAMES.filter(encodable))
@example("." * 200)
@example("%" * 200)
@example("a" * 103 + "é" * 10)
def test_any_name_becomes_a_segment_that_nothing_mangles(name: str) -> None:
    segment = escape_segment(name)
    assert is_segment(segment)
    assert re.fullmatch(r"[A-Za-z0-9._%~-]{1,120}", segment)
    assert not segment.startswith(".")
    assert not segment.endswith(".")
    assert segment.partition(".")[0].lower() not in DEVICES
    # A percent sign always begins a whole escape, also where the name was cut.
    assert re.search(r"%(?![0-9A-F]{2})", segment) is None


@given(
    st.lists(
        NAMES.filter(encodable),
        min_size=2,
        max_size=30,
        unique_by=lambda n: n.encode("utf-8", "surrogateescape"),
    )
)
def test_different_names_never_share_a_segment(names: list[str]) -> None:
    assert len({escape_segment(name) for name in names}) == len(names)


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (".", "%2E"),
        ("con", "%63on"),
        ("a b", "a%20b"),
        ("a" * 121, escape_segment("a" * 121)),
        ("a" * 130, "a" * 131),
        ("é" * 60, "é" * 61),
        ("name.", "name%2E"),
    ],
)
def test_names_that_look_like_each_others_escapes_stay_apart(one: str, other: str) -> None:
    assert escape_segment(one) != escape_segment(other)


PATHS = st.lists(NAMES.filter(encodable).filter(lambda n: "/" not in n), min_size=1, max_size=8)


@given(PATHS)
@example(["x" * 120] * 8)
@example(["é" * 100] * 8)
@example(["%"] * 300)
def test_any_path_gives_keys_that_are_bounded_and_stay_below_the_root(path: list[str]) -> None:
    escaped = escape_path("/".join(path))
    assert len(escaped) <= 480
    folder = repository_folder(path="/".join(path), host_id="1234567890123456")
    for key in (bundle_key(folder, ID, "incremental"), record_key(folder, ID)):
        whole = LAYOUT.key(key)
        check_key(whole)
        assert whole.startswith("github.com/acme/repositories/")
        assert ".." not in whole.split("/")
        assert len(whole) < 1024


@given(st.text(st.sampled_from("a./\\é\n~ [\x7f"), max_size=8))
@example("../a")
@example("a/..")
@example("...")
def test_a_key_is_what_its_segments_are(text: str) -> None:
    assert is_key(text) == all(map(is_segment, text.split("/")))


@given(st.lists(PATHS.map("/".join), min_size=2, max_size=20, unique=True))
def test_different_paths_never_share_a_folder(paths: list[str]) -> None:
    unequal = {path.encode("utf-8", "surrogateescape") for path in paths}
    assert len({escape_path(path) for path in paths}) == len(unequal)


def test_two_repositories_of_one_name_have_folders_of_their_own() -> None:
    one = repository_folder(path="widgets", host_id="1")
    other = repository_folder(path="widgets", host_id="2")
    assert one != other


def test_the_keys_are_those_of_the_format() -> None:
    folder = repository_folder(path="group/widgets", host_id="42")
    assert folder == "repositories/group/widgets/42/"
    assert bundle_key(folder, ID, "full") == f"{folder}{ID}.full.bundle"
    assert bundle_key(folder, ID, "incremental") == f"{folder}{ID}.incremental.bundle"
    assert record_key(folder, ID) == f"{folder}{ID}.record.json.gz"
    assert LAYOUT.document(DocumentName(ID)) == f"github.com/acme/snapshots/{ID}.json.gz"
    shard = DocumentName(ID, (2, 3), 7)
    assert LAYOUT.document(shard) == f"github.com/acme/checkpoints/{ID}.shard-2-of-3.7.json.gz"
    assert LAYOUT.folder("snapshots") == "github.com/acme/snapshots/"
    assert LAYOUT.folder("checkpoints") == "github.com/acme/checkpoints/"


@pytest.mark.parametrize(
    ("host", "owner", "prefix"),
    [
        ("git.example.org:8443", "acme", "git.example.org-8443/acme/"),
        ("folder", "my repositories", "folder/my%20repositories/"),
        ("github.com", "..", "github.com/%2E%2E/"),
        ("[::1]:8443", "a/b", "%5B--1%5D-8443/a%2Fb/"),
    ],
)
def test_hosts_and_owners_become_the_root(host: str, owner: str, prefix: str) -> None:
    assert Layout.of(host=host, owner=owner).prefix == prefix


# --- Documents ---------------------------------------------------------------------------------

IDS = st.builds(
    lambda moment, end: f"{moment:%Y%m%dT%H%M%SZ}-{end}",
    st.datetimes(min_value=datetime(2000, 1, 1), max_value=datetime(2999, 1, 1)),  # noqa: DTZ001
    st.from_regex(r"[0-9a-z]{4,32}", fullmatch=True),
)
SHARDS = st.none() | st.integers(1, 500).flatmap(
    lambda count: st.tuples(st.integers(1, count), st.just(count))
)
DOCUMENTS = st.builds(DocumentName, IDS, SHARDS, st.none() | st.integers(1, 10_000))


@given(DOCUMENTS)
def test_a_documents_name_is_read_back_from_its_key(name: DocumentName) -> None:
    assert LAYOUT.parse_document(LAYOUT.document(name)) == name
    assert name.manifest.checkpoint is None
    assert (name.manifest.snapshot_id, name.manifest.shard) == (name.snapshot_id, name.shard)


FOREIGN = [
    "snapshots/notes.txt",
    "snapshots/.json.gz",
    f"snapshots/{ID}.json",
    f"snapshots/{ID}.json.gz.part",
    f"snapshots/{ID}.1.json.gz",
    f"snapshots/below/{ID}.json.gz",
    f"checkpoints/{ID}.json.gz",
    f"drills/{ID}.json.gz",
    f"other/snapshots/{ID}.json.gz",
    "snapshots/20261101T023000Z.json.gz",
    "snapshots/20261101T023000Z-AB CD.json.gz",
    f"repositories/snapshots/{ID}/{ID}.json.gz",
]


@pytest.mark.parametrize("relative", FOREIGN)
def test_any_other_object_is_no_document(relative: str) -> None:
    assert LAYOUT.parse_document(LAYOUT.key(relative)) is None


@pytest.mark.parametrize(
    "relative",
    [
        "snapshots/20261399T023000Z-1a2b3c4d.json.gz",
        "snapshots/20260230T023000Z-1a2b3c4d.json.gz",
        "snapshots/20261101T993000Z-1a2b3c4d.json.gz",
        "snapshots/\u0662\u0660261101T023000Z-1a2b3c4d.json.gz",
    ],
)
def test_an_object_named_for_a_time_that_never_is_is_no_document(relative: str) -> None:
    # Somebody's file in the folder must not end every run with a bug.
    assert LAYOUT.parse_document(LAYOUT.key(relative)) is None


@pytest.mark.parametrize(
    "relative",
    [
        f"snapshots/{ID}.shard-01-of-02.json.gz",
        f"snapshots/{ID}.shard-0-of-2.json.gz",
        f"snapshots/{ID}.shard-3-of-2.json.gz",
        f"checkpoints/{ID}.007.json.gz",
    ],
)
def test_an_object_whose_key_would_not_be_made_again_is_no_document(relative: str) -> None:
    assert LAYOUT.parse_document(LAYOUT.key(relative)) is None


def test_a_snapshots_id_begins_with_its_time_in_utc_and_is_never_the_same() -> None:
    moment = datetime(2026, 11, 1, 2, 30, tzinfo=timezone(timedelta(hours=13, minutes=45)))
    ids = {new_snapshot_id(moment) for _ in range(100)}
    assert len(ids) == 100
    assert all(SNAPSHOT_ID.fullmatch(one) for one in ids)
    assert {snapshot_time(one) for one in ids} == {datetime(2026, 10, 31, 12, 45, tzinfo=UTC)}
