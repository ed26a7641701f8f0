"""Any bytes give a result or our error, and what was written is read back."""

from collections.abc import Callable
from io import BytesIO

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from backup.errors import (
    DamagedDocument,
    IntegrityError,
    MalformedPack,
    MalformedPacket,
    ProtocolError,
    SourceError,
    TruncatedPack,
    TruncatedResponse,
)
from backup.git.bundle import BundleHeader, read_header
from backup.git.pack import HASHES, PackMeter
from backup.git.pktline import MAX_PACKET_BYTES, PacketReader, Special, encode
from backup.git.upload_pack import Remote
from backup.model import ObjectFormat, ObjectId, RefName, Refs, Selection
from backup.refs import is_selected, is_well_formed, to_bytes, to_name
from backup.vault.documents import Manifest, Record, RefLine, decode, shown
from backup.vault.documents import encode as encode_document

FORMATS: st.SearchStrategy[ObjectFormat] = st.sampled_from(["sha1", "sha256"])
WIRE = st.lists(
    st.sampled_from([b"0000", b"0001", b"0002", b"0003", b"0004", b"fff0", b"ffff", b"000"])
    | st.binary(max_size=40)
    | st.binary(max_size=40).map(encode)
).map(b"".join)


def in_pieces(data: bytes, sizes: list[int]) -> Callable[[int], bytes]:
    """Give data as a socket might: each time some bytes, in the end none."""
    stream, turns = BytesIO(data), iter(sizes)
    return lambda size: stream.read(min(size, next(turns, size)))


PIECES = st.lists(st.integers(1, 50), max_size=30)


# --- pkt-lines ---------------------------------------------------------------------------------


@given(WIRE, PIECES)
def test_any_bytes_give_packets_or_our_error(data: bytes, sizes: list[int]) -> None:
    reader, taken = PacketReader(in_pieces(data, sizes)), 0
    try:
        while True:
            packet = reader.next()
            taken += 4 if isinstance(packet, Special) else 4 + len(packet)
    except TruncatedResponse:
        # Everything whole was given before.
        assert len(data) - taken < MAX_PACKET_BYTES
    except MalformedPacket:
        assert taken <= len(data) - 4


@given(st.lists(st.binary(max_size=300) | st.sampled_from(Special)), PIECES)
def test_packets_are_read_back_as_they_were_written(
    packets: list[bytes | Special], sizes: list[int]
) -> None:
    wire = b"".join(one.value if isinstance(one, Special) else encode(one) for one in packets)
    reader = PacketReader(in_pieces(wire, sizes))
    assert [reader.next() for _ in packets] == packets


# --- A server ----------------------------------------------------------------------------------


class Server:
    """Says these bytes to whatever it is asked."""

    def __init__(self, *answers: bytes) -> None:
        self._answers = list(answers)

    def advertisement(self) -> PacketReader:
        return PacketReader(BytesIO(self._answers.pop(0)).read)

    def content_begins(self) -> None:
        pass

    def exchange(self, request: bytes, *, prepares: bool = False) -> PacketReader:
        return PacketReader(BytesIO(self._answers.pop(0)).read)

    def ended(self) -> bool:
        return True

    def explain(self, error: ProtocolError) -> ProtocolError:
        return error

    def close(self) -> None:
        pass


ONE = "1" * 40
LINES = st.lists(
    st.sampled_from(
        [
            "version 2",
            "version 1",
            "ls-refs=unborn",
            "fetch=shallow",
            "object-format=sha256",
            f"{ONE} HEAD symref-target:refs/heads/main",
            f"{ONE} HEAD\0symref=HEAD:refs/heads/main",
            f"{ONE} refs/heads/main",
            f"{ONE} refs/tags/v peeled:{ONE}",
            f"{ONE} refs/tags/v^{{}}",
            f"{'0' * 40} capabilities^{{}}\0",
            "unborn HEAD symref-target:refs/heads/main",
            "ERR no",
            "shallow " + ONE,
            "packfile",
            "\1PACK",
            "\2progress",
            "\3fatal",
        ]
    ).map(str.encode)
    | st.binary(max_size=60),
    max_size=8,
).map(lambda lines: b"".join(encode(line) for line in lines))
ANSWERS = st.tuples(LINES, st.sampled_from([b"0000", b"0000", b"0001", b""])).map(b"".join) | WIRE
GREETING = b"".join(encode(line) for line in (b"version 2", b"ls-refs", b"fetch")) + b"0000"


@given(ANSWERS | st.just(GREETING), ANSWERS)
def test_any_answers_give_refs_that_git_would_take_or_our_error(one: bytes, other: bytes) -> None:
    remote = Remote(Server(one, other), selection=Selection(), count=lambda _: None)
    try:
        refs = remote.list_refs()
    except (ProtocolError, SourceError):
        return
    for name, oid in refs.tips.items():
        assert is_well_formed(to_bytes(name))
        assert is_selected(to_bytes(name), Selection())
        assert len(oid) == (40 if refs.object_format == "sha1" else 64)
        assert set(oid) <= set("0123456789abcdef")
    # What was listed can be written down, and read again.
    header = BundleHeader(tuple(refs.tips.items()), (), refs.object_format)
    assert read_header(BytesIO(header.encode()).read)[0] == header
    assert all(RefLine.model_validate({**shown(name), "id": ONE}) for name in refs.tips)


@given(ANSWERS)
def test_any_answer_to_a_fetch_gives_bytes_or_our_error(answer: bytes) -> None:
    remote = Remote(Server(GREETING, answer), selection=Selection(), count=lambda _: None)
    try:
        pieces = list(remote.fetch([ObjectId(ONE)], []))
    except (ProtocolError, SourceError):
        return
    assert all(pieces)
    assert answer.startswith(encode(b"packfile"))
    assert b"0000" in answer


# --- Bundle headers ----------------------------------------------------------------------------

IDS = {
    "sha1": st.integers(0, 2**160 - 1).map(lambda n: ObjectId(f"{n:040x}")),
    "sha256": st.integers(0, 2**256 - 1).map(lambda n: ObjectId(f"{n:064x}")),
}
NAMES = st.binary(min_size=1, max_size=30).map(lambda tail: b"refs/" + tail).filter(
    is_well_formed
).map(to_name) | st.sampled_from(
    [RefName("HEAD"), RefName("refs/heads/main"), to_name(b"refs/\xff\xfe")]
)


@st.composite
def headers(draw: st.DrawFn) -> BundleHeader:
    object_format = draw(FORMATS)
    ids = IDS[object_format]
    refs = draw(st.lists(st.tuples(NAMES, ids), max_size=6))
    return BundleHeader(tuple(refs), tuple(draw(st.lists(ids, max_size=4))), object_format)


@given(headers(), st.binary(max_size=100), PIECES)
def test_a_header_is_read_back_and_the_pack_is_whole(
    header: BundleHeader, pack: bytes, sizes: list[int]
) -> None:
    read = in_pieces(header.encode() + pack, sizes)
    found, begun = read_header(read)
    while data := read(1 << 16):
        begun += data
    assert (found, begun) == (header, pack)


HEADER_BYTES = st.lists(
    st.sampled_from(
        [
            *(b"# v2 git bundle\n", b"# v3 git bundle\n", b"@object-format=sha256\n", b"\n"),
            *(b"-" + ONE.encode() + b" \n", ONE.encode() + b" HEAD\n", b"@filter=x\n", b"-"),
        ]
    )
    | st.binary(max_size=30)
).map(b"".join)


@given(HEADER_BYTES, PIECES)
@example(b"", [])
@example(b"# v2 git bundle\n\n", [])
def test_any_bytes_give_a_header_or_our_error(data: bytes, sizes: list[int]) -> None:
    try:
        header, rest = read_header(in_pieces(data, sizes))
    except DamagedDocument:
        return
    assert data.startswith((b"# v2 git bundle\n", b"# v3 git bundle\n"))
    assert rest in data
    again, _ = read_header(BytesIO(header.encode()).read)
    assert again == header


# --- Packs -------------------------------------------------------------------------------------


@st.composite
def packs(draw: st.DrawFn) -> tuple[ObjectFormat, int, bytes]:
    object_format = draw(FORMATS)
    objects = draw(st.integers(0, 2**32 - 1))
    version = draw(st.sampled_from([2, 3]))
    content = b"PACK" + version.to_bytes(4, "big") + objects.to_bytes(4, "big")
    content += draw(st.binary(max_size=200))
    digest = HASHES[object_format]()
    digest.update(content)
    return object_format, objects, content + digest.digest()


def metered(data: bytes, object_format: ObjectFormat, sizes: list[int]) -> tuple[int, int]:
    meter, read = PackMeter(object_format), in_pieces(data, sizes)
    while piece := read(1 << 16):
        meter.update(piece)
    summary = meter.finish()
    return summary.objects, summary.size_bytes


@given(packs(), PIECES)
def test_a_whole_pack_passes_however_it_comes(
    pack: tuple[ObjectFormat, int, bytes], sizes: list[int]
) -> None:
    object_format, objects, data = pack
    assert metered(data, object_format, sizes) == (objects, len(data))


@given(packs(), PIECES, st.data())
def test_a_pack_cut_or_altered_anywhere_never_passes(
    pack: tuple[ObjectFormat, int, bytes], sizes: list[int], data: st.DataObject
) -> None:
    object_format, _, whole = pack
    place = data.draw(st.integers(0, len(whole) - 1))
    flip = data.draw(st.integers(0, 255))
    altered = whole[:place] + (bytes([whole[place] ^ flip]) + whole[place + 1 :] if flip else b"")
    try:
        metered(altered, object_format, sizes)
    except (MalformedPack, TruncatedPack):
        return
    raise AssertionError("an altered pack passed")


# --- Documents ---------------------------------------------------------------------------------


KINDS: list[type[Manifest] | type[Record]] = [Manifest, Record]


@given(st.binary(max_size=200), st.sampled_from(KINDS))
def test_no_random_bytes_are_a_document(data: bytes, kind: type[Manifest] | type[Record]) -> None:
    with pytest.raises(IntegrityError, match=r"^here "):
        decode(data, kind, where="here")


@given(NAMES.filter(lambda name: name != "HEAD"))
def test_any_name_of_a_ref_is_read_back_from_a_document(name: RefName) -> None:
    line = RefLine.model_validate({**shown(name), "id": ONE})
    assert decode(encode_document(line), RefLine, where="here").ref_name == name


@given(st.lists(st.tuples(NAMES, IDS["sha1"]), max_size=5))
def test_wanted_ids_are_each_wanted_once(pairs: list[tuple[RefName, ObjectId]]) -> None:
    assume(pairs)
    refs = Refs(tips=dict(pairs), head_id=pairs[0][1])
    assert len(refs.wanted()) == len(set(refs.wanted()))
    assert set(refs.wanted()) == {*dict(pairs).values(), pairs[0][1]}
