"""The documents of format 1: exact, refused when damaged, and kind to what is not known yet."""

import base64
import contextlib
import gzip
import hashlib
import json
import random
import re
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from backup.destinations.memory import MemoryDestination
from backup.errors import DamagedDocument, DocumentTooLarge, UnsupportedFormat
from backup.limits import MAX_ENTRIES, MAX_OBJECTS, MAX_VALUES
from backup.model import Key, LeftOut, ObjectId, RefName, Refs
from backup.refs import to_name
from backup.vault import packing
from backup.vault.documents import (
    STORED,
    Accepted,
    Drill,
    Entry,
    Header,
    Ids,
    LfsIndex,
    Manifest,
    Record,
    RefLine,
    SourceLine,
    Totals,
    decode,
    encode,
    refs_digest,
    shown,
)
from backup.vault.documents_of_prune import Condemned, Pruned
from backup.vault.fields import Part
from backup.vault.manifest import load

GOLDEN = Path(__file__).parent.parent / "golden"
DOCUMENTS: dict[str, type[Part]] = {
    "format-1-manifest": Manifest,
    "format-1-checkpoint": Manifest,
    "format-1-record": Record,
    "format-1-lfs": LfsIndex,
    "format-1-ids": Ids,
    "format-1-condemned": Condemned,
    "format-1-pruned": Pruned,
    "format-1-drill": Drill,
    "format-1-accepted": Accepted,
}
JsonObject = dict[str, Any]


def golden(name: str) -> JsonObject:
    """Load a document with every field that it may have, each other than its default."""
    loaded: JsonObject = json.loads((GOLDEN / f"{name}.json").read_text())
    return loaded


def zipped(data: bytes) -> bytes:
    return gzip.compress(data, mtime=0)


def packed(document: object) -> bytes:
    return zipped(json.dumps(document).encode())


def unpacked(data: bytes) -> JsonObject:
    loaded: JsonObject = json.loads(gzip.decompress(data))
    return loaded


def read(document: object, kind: type[Part]) -> Part:
    return decode(packed(document), kind, where="vault/document")


# --- What is written ---------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "kind"), DOCUMENTS.items())
def test_what_an_earlier_release_wrote_is_read_and_written_back_unchanged(
    name: str, kind: type[Part]
) -> None:
    assert unpacked(encode(read(golden(name), kind))) == golden(name)


@pytest.mark.parametrize(("name", "kind"), DOCUMENTS.items())
def test_the_golden_documents_have_every_field_that_there_is(name: str, kind: type[Part]) -> None:
    seen: dict[str, set[str]] = {}
    _note_fields(read(golden(name), kind), seen)
    for part, fields in seen.items():
        known = next(one for one in _parts(kind) if one.__name__ == part)
        assert fields == {*known.model_fields}, part


def _note_fields(value: object, seen: dict[str, set[str]]) -> None:
    if isinstance(value, Part):
        seen.setdefault(type(value).__name__, set()).update(value.model_fields_set)
        for name in value.model_fields_set:
            _note_fields(getattr(value, name), seen)
    elif isinstance(value, tuple):
        for item in value:
            _note_fields(item, seen)


def _parts(kind: type[Part]) -> Iterator[type[Part]]:
    yield kind
    yield from _all_parts(Part)


def _all_parts(above: type[Part]) -> Iterator[type[Part]]:
    for part in above.__subclasses__():
        yield part
        yield from _all_parts(part)


@pytest.mark.parametrize(("name", "kind"), DOCUMENTS.items())
def test_the_same_document_always_gives_the_same_bytes(name: str, kind: type[Part]) -> None:
    data = encode(read(golden(name), kind))
    assert encode(read(golden(name), kind)) == data
    # A gzip header without a time (bytes 4 to 7) and without a file's name.
    assert data[:8] == b"\x1f\x8b\x08\0\0\0\0\0"
    program = (
        "import sys; from backup.vault import documents as d\n"
        f"document = d.decode(sys.stdin.buffer.read(), d.{kind.__name__}, where='here')\n"
        "sys.stdout.buffer.write(d.encode(document))"
    )
    again = subprocess.run(
        [sys.executable, "-c", program], input=data, capture_output=True, check=True
    )
    assert again.stdout == data


def test_a_field_at_its_default_is_left_out() -> None:
    assert unpacked(encode(Entry(host_id="1", path="a"))) == {"host_id": "1", "path": "a"}


def test_times_are_written_in_utc() -> None:
    written = read({"host_id": "1", "path": "a", "checked_at": "2026-11-01T02:30:00+13:45"}, Entry)
    assert unpacked(encode(written))["checked_at"] == "2026-10-31T12:45:00Z"


@pytest.mark.parametrize(("name", "kind"), DOCUMENTS.items())
def test_every_document_is_valid_by_the_schema_made_from_its_class(
    name: str, kind: type[Part]
) -> None:
    schema = kind.model_json_schema()
    validator = jsonschema.Draft202012Validator(schema)
    validator.check_schema(schema)
    validator.validate(golden(name))
    validator.validate(unpacked(encode(read(golden(name), kind))))


@pytest.mark.parametrize(("name", "kind"), DOCUMENTS.items())
def test_the_schema_refuses_a_document_without_any_one_of_its_required_fields(
    name: str, kind: type[Part]
) -> None:
    schema = kind.model_json_schema()
    validator = jsonschema.Draft202012Validator(schema)
    for required in schema["required"]:
        without = {key: value for key, value in golden(name).items() if key != required}
        assert not validator.is_valid(without), required


def test_every_stored_document_has_its_class() -> None:
    named = {golden(name)["document"] for name in DOCUMENTS}
    assert named == {*STORED, "checkpoint"}


# --- Fields that a later release knows ---------------------------------------------------------


FREE_KEYS = {"requests", "refs_not_selected"}


def with_unknown_fields(value: object) -> object:
    """Add a field to every object of a document, however deep; maps with free keys apart."""
    if isinstance(value, list):
        return [with_unknown_fields(item) for item in value]
    if isinstance(value, dict):
        grown = {
            key: item if key in FREE_KEYS else with_unknown_fields(item)
            for key, item in value.items()
        }
        return {**grown, "from_the_future": {"deep": [1, None, "größe"]}}
    return value


@pytest.mark.parametrize(("name", "kind"), DOCUMENTS.items())
def test_unknown_fields_survive_at_every_level(name: str, kind: type[Part]) -> None:
    grown = with_unknown_fields(golden(name))
    assert unpacked(encode(read(grown, kind))) == grown


def test_a_newer_format_is_refused_and_not_guessed_at() -> None:
    for name, kind in DOCUMENTS.items():
        with pytest.raises(UnsupportedFormat, match=r"vault/document has format 2") as caught:
            read({**golden(name), "format": 2}, kind)
        assert "newer version" in caught.value.hint
    with pytest.raises(UnsupportedFormat):
        read({"format": 7, "nothing": "else is as we know it"}, Manifest)


@pytest.mark.parametrize("written", [0, -1, "1", "2", None, [1]])
def test_a_format_that_never_was_is_damage(written: object) -> None:
    with pytest.raises(DamagedDocument, match="format"):
        read({**golden("format-1-record"), "format": written}, Record)


# --- Damage ------------------------------------------------------------------------------------

WHOLE = packed(golden("format-1-record"))


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{}",
        WHOLE[:5],
        WHOLE[:-1],
        WHOLE[:-9],
        WHOLE + b"\0",
        WHOLE + WHOLE,
        WHOLE[:-6] + bytes([WHOLE[-6] ^ 1]) + WHOLE[-5:],
        zipped(b""),
        zipped(b"{"),
        zipped(b"\xff\xfe{}"),
        zipped(b'{"format": 1}{}'),
        zipped(b'{"a": "\\ud800"}'),
        zipped(b'{"a": NaN, }'),
        zipped(b"[" * 100_000),
        zlib.compress(b"{}"),
        packed([]),
        packed("text"),
        packed(None),
        packed(1),
        packed({}),
    ],
)
def test_bytes_that_are_no_document_are_damage_and_name_the_object(data: bytes) -> None:
    with pytest.raises(DamagedDocument, match=r"^vault/document is damaged: ") as caught:
        decode(data, Record, where="vault/document")
    assert len(caught.value.message) < 1000


def test_a_document_cut_or_flipped_anywhere_is_damage_or_reads_the_same() -> None:
    expected, harmless = decode(WHOLE, Record, where="here"), 0
    for place in range(len(WHOLE)):
        with pytest.raises(DamagedDocument):
            decode(WHOLE[:place], Record, where="here")
        flipped = WHOLE[:place] + bytes([WHOLE[place] ^ 0x10]) + WHOLE[place + 1 :]
        # Some bits are about nothing: the time in gzip's header, the padding before its trailer.
        with contextlib.suppress(DamagedDocument):
            assert decode(flipped, Record, where="here") == expected
            harmless += 1
    assert harmless < 10


WRONG_FIELDS: list[tuple[tuple[str | int, ...], object]] = [
    (("captured_at",), "yesterday"),
    (("captured_at",), "2026-11-01T02:30:00"),
    (("object_format",), "md5"),
    (("digest",), "abc"),
    (("digest",), "A" * 64),
    (("document",), "manifest"),
    (("refs",), None),
    (("refs", 0, "id"), "deadbeef"),
    (("refs", 0, "id"), "a" * 40 + "\n"),
    (("refs", 0, "id"), "A" * 40),
    (("refs", 0, "name"), "refs/heads/a..b"),
    (("refs", 0, "name"), "HEAD"),
    (("refs", 0, "name"), "refs/heads/a\nb"),
    (("refs", 0, "object_type"), "commit"),
    (("refs", 1, "name_base64"), "not base64!"),
    (("refs", 1, "name_base64"), base64.b64encode(b"refs/heads/..").decode()),
    (("head", "symref_base64"), base64.b64encode(b"../../etc/passwd").decode()),
    (("head", "id"), "x"),
    (("chain", 0, "size_bytes"), -1),
    (("chain", 0, "size_bytes"), "many"),
    (("chain", 0, "kind"), "thin"),
    (("chain", 0, "check"), "guessed"),
    (("chain", 0, "sha256"), "0" * 63),
    (("chain", 0, "prerequisites"), ["refs/heads/main"]),
    (("repository", "kind"), "issue"),
    (("repository", "host_id"), ""),
    (("repository", "owner"), ""),
    (("format",), True),
    (("format",), 1.0),
    (("captured_at",), 1764550000),
    (("captured_at",), "1764550000"),
    (("unproven",), 1),
    (("unproven",), "true"),
    (("chain", 0, "size_bytes"), True),
    (("chain", 0, "size_bytes"), "20"),
    (("chain", 0, "size_bytes"), 20.0),
    (("chain", 0, "size_bytes"), 1 << 63),
    (("chain", 0, "size_bytes"), 10**400),
    (("refs_not_selected",), {"refs/pull/*/head": -1}),
    (("refs_not_selected",), {str(number): 1 for number in range(1001)}),
    (("left_out", 0, "name_base64"), "****"),
    (("left_out", 0, "name_base64"), "a"),
    (("changes", 0, "name_base64"), "ä"),
]


def replaced(document: JsonObject, path: tuple[str | int, ...], value: object) -> JsonObject:
    copied: JsonObject = json.loads(json.dumps(document))
    place: Any = copied
    for step in path[:-1]:
        place = place[step]
    place[path[-1]] = value
    return copied


@pytest.mark.parametrize(("path", "value"), WRONG_FIELDS)
def test_a_wrong_field_is_damage_and_the_message_names_its_place(
    path: tuple[str | int, ...], value: object
) -> None:
    with pytest.raises(DamagedDocument) as caught:
        read(replaced(golden("format-1-record"), path, value), Record)
    # A check over several fields can only name what holds them all.
    place = path[:-1] if path[-1] in {"name", "name_base64", "symref_base64"} else path
    assert f"vault/document is damaged: {'.'.join(map(str, place))}" in caught.value.message
    assert len(caught.value.message) < 1000


@pytest.mark.parametrize("value", [1 << 63, float("inf"), float("-inf"), -0.1, True, "1"])
def test_a_duration_that_could_not_be_written_back_is_damage(value: object) -> None:
    document = replaced(golden("format-1-drill"), ("checked", 0, "duration_seconds"), value)
    if value == 1 << 63:
        assert unpacked(encode(read(document, Drill)))["checked"][0]["duration_seconds"] == value
        return
    with pytest.raises(DamagedDocument, match=r"checked\.0\.duration_seconds"):
        read(document, Drill)


def test_a_chain_that_has_a_bundle_twice_or_no_end_is_damage() -> None:
    document = golden("format-1-record")
    base = document["chain"][0]
    for chain, message in (
        ([base, base], "the chain has a bundle twice"),
        ([base, {**base, "key": base["key"].replace("-", "-0")}], "more bytes than there can be"),
    ):
        lines = [{**line, "size_bytes": (1 << 63) - 1} for line in chain]
        with pytest.raises(DamagedDocument, match=message):
            read({**document, "chain": lines}, Record)


def test_of_many_wrong_fields_ten_are_named_and_the_others_counted() -> None:
    document = golden("format-1-record")
    wrong = {"format": 1} | {key: {"no": "such"} for key in document if key != "format"}
    with pytest.raises(DamagedDocument) as caught:
        read(wrong, Record)
    assert caught.value.message.count(": ") >= 10
    assert re.search(r"; and \d+ more$", caught.value.message)
    entries = [{"host_id": number} for number in range(100_000)]
    with pytest.raises(DamagedDocument, match=r"entries\.0\.host_id: ") as caught:
        read({**golden("format-1-manifest"), "entries": entries}, Manifest)
    # Of a list the first that is wrong is enough.
    assert len(caught.value.message) < 300


@pytest.mark.parametrize("number", [10**400, 1 << 16, -2, 2.0])
def test_a_number_that_no_format_will_have_is_damage(number: object) -> None:
    with pytest.raises(DamagedDocument, match="format: "):
        read({**golden("format-1-record"), "format": number}, Record)


# --- Limits --------------------------------------------------------------------------------------


def entries_of(count: int) -> bytes:
    return b"[" + b",".join([b'{"host_id":"1","path":"a"}'] * count) + b"]"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"[" + b"0," * MAX_VALUES + b"0]", "16777217 values, and 16777216 are the most"),
        (b"[" * (MAX_VALUES + 1), "16777217 values, and 16777216 are the most"),
        (
            b"[" + b"{}," * MAX_OBJECTS + b"{}]",
            "4194305 JSON objects, and 4194304 are the most",
        ),
        (
            b'{"entries":' + entries_of(MAX_ENTRIES + 1) + b"}",
            "250001 entries, and 250000 are",
        ),
    ],
    ids=["values", "brackets", "objects", "entries"],
)
def test_a_small_object_that_stands_for_very_much_is_stopped_before_it_is_read(
    text: bytes, message: str
) -> None:
    """The memory of the reader is measured: it grows with the text, not with what it stands for."""
    tracemalloc.start()
    with pytest.raises(DamagedDocument, match=f"^bomb is damaged: it has {message}"):
        decode(gzip.compress(text, compresslevel=1), Manifest, where="bomb")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # What unpacks it holds the text twice for a moment. Entries are read, and nothing made of them.
    most = 150 if b"entries" in text else 2.5 * len(text) / (1 << 20) + 5
    assert peak >> 20 < most


def test_what_readers_refuse_for_its_number_is_not_written(monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = busy_owner(30)
    values = json.dumps(unpacked(encode(manifest)), separators=(",", ":"))
    numbers = {
        "MAX_ENTRIES": (30, "30 entries, and 29 are the most"),
        "MAX_OBJECTS": (values.count("{"), "JSON objects, and"),
        "MAX_VALUES": (sum(map(values.count, "{[,")), "values, and"),
    }
    for name, (number, message) in numbers.items():
        monkeypatch.setattr(packing, name, number)
        assert decode(encode(manifest), Manifest, where="here") == manifest
        whole = encode(manifest)
        monkeypatch.setattr(packing, name, number - 1)
        with pytest.raises(DocumentTooLarge, match=f"^the manifest would have .*{message}"):
            encode(manifest)
        with pytest.raises(DamagedDocument, match=f"it has .*{message}"):
            decode(whole, Manifest, where="here")
        monkeypatch.undo()


def test_no_more_of_an_object_is_read_than_a_document_may_have(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    vault, key = MemoryDestination(), Key("a/b.json.gz")
    data = encode(busy_owner(1))
    vault.put_if_absent(key, data)
    monkeypatch.setattr("backup.vault.manifest.MAX_STORED_BYTES", len(data))
    assert load(vault, key, Manifest).entries
    monkeypatch.setattr("backup.vault.manifest.MAX_STORED_BYTES", len(data) - 1)
    with pytest.raises(DamagedDocument, match="it has more than"):
        load(vault, key, Manifest)


@pytest.mark.parametrize(
    "key",
    [
        *("", "..", ".", "../x", "a/../b", "a/./b", "/etc/passwd", "a//b", "a/", "/", "a/.."),
        *("../../a", "é", "a\nb", "a\\b", "a\0b", "a" * 1025),
    ],
)
@pytest.mark.parametrize(
    ("name", "kind", "path"),
    [
        ("format-1-record", Record, ("chain", 0, "key")),
        ("format-1-record", Record, ("previous",)),
        ("format-1-record", Record, ("metadata", "key")),
        ("format-1-manifest", Manifest, ("entries", 0, "record")),
        ("format-1-manifest", Manifest, ("entries", 0, "pins", 0, "record")),
    ],
)
def test_a_key_that_leaves_its_root_or_is_none_is_damage(
    name: str, kind: type[Part], path: tuple[str | int, ...], key: str
) -> None:
    whole: Any = golden(name)
    for step in path:
        whole = whole[step]
    segments = whole.split("/")
    # Behind what begins and ends as a key of ours does, too.
    hostile = "/".join([segments[0], key, *segments[1:]])
    for wrong in (key, hostile):
        with pytest.raises(DamagedDocument):
            read(replaced(golden(name), path, wrong), kind)


KEYS_OF_KINDS = {
    kind: f"repositories/widgets/1/20261101T023000Z-1a2b3c4d.{kind}"
    for kind in ("record.json.gz", "full.bundle", "lfs.json.gz", "ids.json.gz")
}


@pytest.mark.parametrize(
    ("path", "own"),
    [
        (("previous",), "record.json.gz"),
        (("chain", 0, "key"), "full.bundle"),
        (("chain", 0, "lfs"), "lfs.json.gz"),
        (("chain", 0, "ids"), "ids.json.gz"),
    ],
)
def test_a_key_is_one_of_the_kind_that_stands_there(path: tuple[str | int, ...], own: str) -> None:
    record = golden("format-1-record")
    read(replaced(record, path, KEYS_OF_KINDS[own]), Record)
    others = [key for kind, key in KEYS_OF_KINDS.items() if kind != own]
    for key in (*others, "x", "99991231T235959Z-aaaa", KEYS_OF_KINDS[own].replace("T", "t")):
        with pytest.raises(DamagedDocument, match="this is not the key of"):
            read(replaced(record, path, key), Record)


def test_a_document_that_unpacks_without_end_is_stopped() -> None:
    """Two megabytes that unpack to two gigabytes, read by a process that has but 1.9."""
    program = (
        "import resource, sys\n"
        "from backup.errors import DamagedDocument\n"
        "from backup.vault.documents import Manifest, decode\n"
        "limit = 1900 << 20\n"
        "resource.setrlimit(resource.RLIMIT_AS, (limit, limit))\n"
        "try:\n"
        "    decode(sys.stdin.buffer.read(), Manifest, where='bomb')\n"
        "except DamagedDocument as error:\n"
        "    print(error.message)\n"
    )
    packer = zlib.compressobj(9, zlib.DEFLATED, zlib.MAX_WBITS | 16)
    head = packer.compress(b'{"format": 1, "a": "') + packer.flush(zlib.Z_FULL_FLUSH)
    block = packer.compress(b"a" * (8 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    bomb = head + block * 256
    done = subprocess.run(
        [sys.executable, "-c", program], input=bomb, capture_output=True, check=False
    )
    assert done.stdout.startswith(b"bomb is damaged: "), done.stderr.decode()


# --- Names -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("raw", "fields"),
    [
        (b"refs/heads/main", {"name": "refs/heads/main"}),
        ("refs/heads/größe".encode(), {"name": "refs/heads/größe"}),
        (
            b"refs/heads/\xe9t\xe9",
            {"name": "refs/heads/\\xe9t\\xe9", "name_base64": "cmVmcy9oZWFkcy/pdOk="},
        ),
    ],
)
def test_a_name_is_stored_as_text_and_exactly(raw: bytes, fields: Mapping[str, str]) -> None:
    assert shown(to_name(raw)) == fields
    line = RefLine.model_validate({**fields, "id": "a" * 40})
    again = decode(encode(line), RefLine, where="here")
    assert again.ref_name == to_name(raw)


def test_two_names_that_are_shown_alike_stay_two() -> None:
    odd, plain = to_name(b"refs/heads/\xe9"), RefName("refs/heads/\\xe9")
    assert shown(odd)["name"] == shown(plain)["name"]
    assert shown(odd) != shown(plain)


@pytest.mark.parametrize("field", ["reason", "skipped_why", "path"])
def test_text_that_is_no_unicode_cannot_keep_a_document_from_being_written(field: str) -> None:
    # A message may quote the name of a ref or a file; one odd name must not cost the manifest.
    entry = Entry(host_id="1", path="a").model_copy(update={field: "odd\udce9"})
    written = unpacked(encode(entry))
    assert "odd" in written[field]


# --- The digest of a listing -------------------------------------------------------------------

ONE, TWO = ObjectId("1" * 40), ObjectId("2" * 40)


def test_the_digest_is_as_documented() -> None:
    refs = Refs(
        tips={to_name(b"refs/heads/\xff"): TWO, RefName("refs/heads/main"): ONE},
        peeled={RefName("refs/heads/main"): TWO},
        head_symref=RefName("refs/heads/main"),
        head_id=ONE,
        left_out=(
            LeftOut(RefName("refs/heads/b..c"), ONE, "odd"),
            LeftOut(RefName("refs/heads/a..b"), TWO, "odd"),
        ),
    )
    text = (
        b"sha1\n"
        b"HEAD refs/heads/main " + ONE.encode() + b"\n" + ONE.encode() + b" refs/heads/main\n"
        b"" + TWO.encode() + b" refs/heads/\xff\n"
        b"- " + ONE.encode() + b" refs/heads/b..c\n"
        b"- " + TWO.encode() + b" refs/heads/a..b\n"
    )
    assert refs_digest(refs) == hashlib.sha256(text).hexdigest()


def test_the_digest_of_an_empty_repository_is_as_documented() -> None:
    refs = Refs(tips={}, object_format="sha256")
    assert refs_digest(refs) == hashlib.sha256(b"sha256\nHEAD - -\n").hexdigest()


def test_every_change_of_a_listing_changes_the_digest() -> None:
    main, other = RefName("refs/heads/main"), RefName("refs/heads/other")
    listings = [
        Refs(tips={main: ONE}),
        Refs(tips={main: TWO}),
        Refs(tips={other: ONE}),
        Refs(tips={main: ONE, other: ONE}),
        Refs(tips={main: ONE}, head_symref=main),
        Refs(tips={main: ONE}, head_symref=main, head_id=ONE),
        Refs(tips={main: ONE}, head_symref=other, head_id=ONE),
        Refs(tips={main: ONE}, head_id=ONE),
        Refs(tips={main: ONE}, head_id=TWO),
        Refs(tips={main: ONE}, object_format="sha256"),
        Refs(tips={main: ONE}, left_out=(LeftOut(other, ONE, "odd"),)),
        Refs(tips={main: ONE}, left_out=(LeftOut(other, TWO, "odd"),)),
        Refs(tips={}),
    ]
    assert len({refs_digest(refs) for refs in listings}) == len(listings)


def test_the_order_of_a_listing_and_its_words_do_not_change_the_digest() -> None:
    main, other = RefName("refs/heads/main"), RefName("refs/heads/other")
    left = Refs(tips={main: ONE, other: TWO}, left_out=(LeftOut(main, ONE, "one reason"),))
    right = Refs(tips={other: TWO, main: ONE}, left_out=(LeftOut(main, ONE, "another"),))
    assert refs_digest(left) == refs_digest(right)


# --- Size --------------------------------------------------------------------------------------


def busy_owner(count: int) -> Manifest:
    """Make the manifest of an owner after a year of nights, with chains as long as they get."""
    chance = random.Random(7)
    night = datetime(2026, 11, 1, 2, 30, tzinfo=UTC)
    nights = [night - timedelta(days=age, seconds=chance.randrange(600)) for age in range(365)]
    runs = [f"{one:%Y%m%dT%H%M%SZ}-{chance.randbytes(4).hex()}" for one in nights]
    words = [
        "api",
        "app",
        "auth",
        "billing",
        "client",
        "cloud",
        "core",
        "data",
        "docs",
        "edge",
        "events",
        "graph",
        "infra",
        "lib",
    ]
    entries = []
    for number in range(count):
        path = f"{chance.choice(words)}-{chance.choice(words)}-{number:x}"
        host_id = str(10**8 + chance.randrange(10**9))
        changed = number % 20 == 0
        age = 0 if changed else min(364, int(chance.expovariate(1 / 60)))
        captured_at = nights[age] + timedelta(milliseconds=chance.randrange(600 * 10**3))
        entries.append(
            Entry(
                host_id=host_id,
                path=path,
                private=chance.random() < 0.7,
                pushed_at=captured_at.replace(microsecond=0)
                - timedelta(seconds=chance.randrange(86400)),
                digest=chance.randbytes(32).hex(),
                record=f"repositories/{path}/{host_id}/{runs[age]}.record.json.gz",
                checked_at=night + timedelta(milliseconds=chance.randrange(600 * 10**3)),
                captured_at=captured_at,
                status="captured" if changed else "unchanged",
                plan="incremental" if changed else None,
                reason="refs changed" if changed else "",
                bytes=chance.randrange(10**6) if changed else 0,
                objects=chance.randrange(1000) if changed else 0,
                duration_seconds=round(chance.random() * 3, 3) if changed else 0,
            )
        )
    return Manifest(
        format=1,
        document="manifest",
        snapshot_id=runs[0],
        started_at=night,
        finished_at=night + timedelta(minutes=10),
        version="1.0.0",
        source=SourceLine(provider="github", host="github.com", owner="acme"),
        complete=True,
        result="success",
        totals=Totals(listed=count, selected=count),
        merged=tuple(f"snapshots/{run}" for run in runs[1:8]),
        entries=tuple(entries),
    )


def test_the_manifest_of_ten_thousand_repositories_stays_under_a_megabyte() -> None:
    manifest = busy_owner(10_000)
    data = encode(manifest)
    assert len(data) < 1_000_000
    assert len(decode(data, Manifest, where="here").entries) == 10_000


def test_a_manifests_head_is_read_without_its_entries_being_right() -> None:
    document = golden("format-1-manifest")
    head = read({**document, "entries": "not looked at"}, Header)
    assert isinstance(head, Header)
    assert head.snapshot_id == document["snapshot_id"]
