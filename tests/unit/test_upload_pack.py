"""The protocol client against scripted servers: every answer gives refs, a pack or our error."""

from collections.abc import Sequence
from io import BytesIO

import pytest

import backup
from backup.errors import (
    IncompleteRepository,
    MalformedPacket,
    NotOurRef,
    ProtocolError,
    RemoteRefused,
    TruncatedPack,
    TruncatedResponse,
)
from backup.git.pktline import PacketReader, encode
from backup.git.upload_pack import HEADS_TAGS_NOTES, MAX_REQUEST_BYTES, Remote, fit_haves
from backup.model import ObjectId, RefName, Refs, Selection

ONE, TWO, THREE = (ObjectId(digit * 40) for digit in "123")
LONG = ObjectId("a" * 64)
NULL = "0" * 40
FLUSH = b"0000"
DELIMITER = b"0001"
MAIN = RefName("refs/heads/main")
AGENT = f"agent=repo-backup/{backup.__version__}\n".encode()


class Script:
    """A server that says what it was told to say, and keeps what it was asked."""

    def __init__(self, *answers: bytes, goes_on: bool = False) -> None:
        self._answers = list(answers)
        self._goes_on = goes_on
        self.requests: list[bytes] = []
        self.closed = 0

    def advertisement(self) -> PacketReader:
        return PacketReader(BytesIO(self._answers.pop(0)).read)

    def content_begins(self) -> None:
        pass

    def exchange(self, request: bytes, *, prepares: bool = False) -> PacketReader:
        self.requests.append(request)
        return PacketReader(BytesIO(self._answers.pop(0)).read)

    def ended(self) -> bool:
        return not self._goes_on

    def explain(self, error: ProtocolError) -> ProtocolError:
        error.message += " (explained)"
        error.args = (error.message,)
        return error

    def close(self) -> None:
        self.closed += 1


def lines(*texts: str | bytes, end: bytes = FLUSH) -> bytes:
    raw = (text if isinstance(text, bytes) else text.encode() for text in texts)
    return b"".join(encode(text + b"\n") for text in raw) + end


def version_2(*more: str) -> bytes:
    return lines("version 2", "agent=git/2.39.5", "ls-refs=unborn", "fetch=shallow filter", *more)


def list_refs(
    *answers: bytes, selection: Selection | None = None, prefixes: Sequence[str] = ()
) -> Refs:
    remote = Remote(Script(*answers), selection=selection or Selection(), count=lambda _: None)
    return remote.list_refs(prefixes=prefixes)


def listed(*texts: str | bytes, selection: Selection | None = None) -> Refs:
    return list_refs(version_2(), lines(*texts), selection=selection)


def fetch(answer: bytes, *, advertisement: bytes = b"") -> list[bytes]:
    script = Script(advertisement or version_2(), answer)
    return list(Remote(script, selection=Selection(), count=lambda _: None).fetch([ONE], [TWO]))


def band(number: int, data: bytes) -> bytes:
    return encode(bytes([number]) + data)


def packfile(*packets: bytes, end: bytes = FLUSH) -> bytes:
    return encode(b"packfile\n") + b"".join(packets) + end


# --- What is asked -----------------------------------------------------------------------------


def test_the_requests_are_exactly_as_documented() -> None:
    counted: list[str] = []
    script = Script(version_2("object-format=sha1"), lines(), packfile())
    with Remote(script, selection=Selection(), count=counted.append) as remote:
        remote.list_refs()
        assert list(remote.fetch([ONE, TWO], [THREE])) == []
    head = encode(AGENT) + encode(b"object-format=sha1\n") + DELIMITER
    assert script.requests == [
        encode(b"command=ls-refs\n") + head + lines("peel", "symrefs", "unborn"),
        encode(b"command=fetch\n")
        + head
        + lines("ofs-delta", "no-progress", f"want {ONE}", f"want {TWO}", f"have {THREE}", "done"),
    ]
    assert counted == ["git", "git", "git"]
    assert script.closed == 1


def test_the_second_listing_takes_one_request() -> None:
    counted: list[str] = []
    script = Script(version_2(), lines(), lines(f"{ONE} refs/heads/main"))
    remote = Remote(script, selection=Selection(), count=counted.append)
    assert remote.list_refs().tips == {}
    assert remote.list_refs().tips == {MAIN: ONE}
    assert counted == ["git", "git", "git"]


def test_unborn_is_asked_for_only_where_it_is_offered() -> None:
    script = Script(lines("version 2", "ls-refs", "fetch"), lines())
    Remote(script, selection=Selection(), count=lambda _: None).list_refs()
    assert b"unborn" not in script.requests[0]


def test_the_servers_object_format_is_spoken() -> None:
    script = Script(version_2("object-format=sha256"), lines(f"{LONG} refs/heads/main"))
    refs = Remote(script, selection=Selection(), count=lambda _: None).list_refs()
    assert b"object-format=sha256\n" in script.requests[0]
    assert refs.object_format == "sha256"
    assert refs.tips == {MAIN: LONG}


def test_prefixes_are_asked_for_and_a_server_that_ignores_them_is_filtered() -> None:
    script = Script(
        version_2(),
        lines(f"{ONE} HEAD", f"{ONE} refs/heads/main", f"{TWO} refs/odd/x", f"{TWO} refs/tags/v"),
    )
    remote = Remote(script, selection=Selection(), count=lambda _: None)
    refs = remote.list_refs(prefixes=HEADS_TAGS_NOTES)
    assert [*refs.tips] == [MAIN, "refs/tags/v"]
    assert refs.head_id == ONE
    wanted = ("HEAD", *HEADS_TAGS_NOTES)
    assert script.requests[0].endswith(lines(*(f"ref-prefix {prefix}" for prefix in wanted)))


# --- The list of refs, version 2 ---------------------------------------------------------------


def test_refs_symrefs_and_peeled_tags_are_understood() -> None:
    refs = listed(
        f"{ONE} HEAD symref-target:refs/heads/main",
        f"{TWO} refs/tags/v1 peeled:{ONE}",
        f"{ONE} refs/heads/main",
        f"{ONE} refs/remotes/origin/HEAD symref-target:refs/remotes/origin/main",
    )
    assert refs == Refs(
        tips={
            MAIN: ONE,
            RefName("refs/remotes/origin/HEAD"): ONE,
            RefName("refs/tags/v1"): TWO,
        },
        peeled={RefName("refs/tags/v1"): ONE},
        head_symref=MAIN,
        head_id=ONE,
    )
    assert [*refs.tips] == sorted(refs.tips)


def test_a_detached_head_is_an_id_without_a_name() -> None:
    refs = listed(f"{TWO} HEAD", f"{ONE} refs/heads/main")
    assert (refs.head_symref, refs.head_id) == (None, TWO)
    assert set(refs.wanted()) == {ONE, TWO}


def test_a_head_that_is_elsewhere_than_the_ref_it_names_is_an_id() -> None:
    refs = listed(f"{TWO} HEAD symref-target:refs/heads/main", f"{ONE} refs/heads/main")
    assert (refs.head_symref, refs.head_id) == (None, TWO)
    assert set(refs.wanted()) == {ONE, TWO}


def test_an_unborn_head_is_a_name_without_an_id() -> None:
    refs = listed("unborn HEAD symref-target:refs/heads/next", f"{ONE} refs/heads/main")
    assert (refs.head_symref, refs.head_id) == ("refs/heads/next", None)


def test_an_empty_repository_has_no_refs_and_an_unborn_head() -> None:
    refs = listed("unborn HEAD symref-target:refs/heads/main")
    assert refs.empty
    assert refs.head_symref == MAIN


def test_names_that_are_not_utf8_keep_their_bytes() -> None:
    refs = listed(ONE.encode() + b" refs/heads/\xe9t\xe9")
    assert [*refs.tips] == ["refs/heads/\udce9t\udce9"]


def test_attributes_that_nobody_knows_are_skipped() -> None:
    assert listed(f"{ONE} refs/heads/main colour:blue new").tips == {MAIN: ONE}


def test_the_refs_of_the_forge_are_not_listed() -> None:
    texts = (f"{ONE} refs/heads/main", f"{TWO} refs/pull/1/head", f"{TWO} refs/pull/1/merge")
    without = listed(*texts)
    assert [*without.tips] == [MAIN]
    assert without.not_selected == {"refs/pull/*/head": 1, "refs/pull/*/merge": 1}
    with_pulls = listed(*texts, selection=Selection(pull_refs=True))
    assert [*with_pulls.tips] == [MAIN, "refs/pull/1/head"]
    assert with_pulls.not_selected == {"refs/pull/*/merge": 1}


@pytest.mark.parametrize(
    ("text", "name", "reason"),
    [
        (f"{NULL} refs/heads/x", "refs/heads/x", "null id"),
        (f"{ONE} refs/heads/a..b", "refs/heads/a..b", "git does not accept"),
        (f"{ONE} refs/heads/x.lock", "refs/heads/x.lock", "git does not accept"),
        (f"{ONE} heads/x", "heads/x", "git does not accept"),
        (f"{ONE} ../../x", "../../x", "git does not accept"),
    ],
)
def test_a_ref_that_cannot_be_stored_is_left_out_and_said(
    text: str, name: str, reason: str
) -> None:
    refs = listed(f"{ONE} refs/heads/main", text)
    assert [*refs.tips] == [MAIN]
    (left_out,) = refs.left_out
    assert left_out.name == name
    assert reason in left_out.reason


def test_a_head_that_names_no_ref_is_said() -> None:
    refs = listed(f"{ONE} HEAD symref-target:../../etc/passwd", f"{ONE} refs/heads/main")
    assert refs.head_symref is None
    assert [left_out.name for left_out in refs.left_out] == ["HEAD"]


def test_names_that_cannot_stand_beside_each_other_lose_the_deeper_one() -> None:
    # Servers that keep refs in a table can have both; a repository of files cannot.
    refs = listed(
        f"{ONE} refs/heads/a",
        f"{TWO} refs/heads/a/b peeled:{ONE}",
        f"{ONE} refs/heads/ab",
        f"{ONE} refs/heads",
    )
    assert [*refs.tips] == ["refs/heads/a", "refs/heads/ab"]
    assert refs.peeled == {}
    assert {one.name for one in refs.left_out} == {"refs/heads", "refs/heads/a/b"}


def test_a_name_longer_than_a_file_may_have_is_left_out_and_said() -> None:
    refs = listed(f"{ONE} refs/heads/{'x' * 250}", f"{ONE} refs/heads/{'y' * 251}")
    assert [*refs.tips] == [f"refs/heads/{'x' * 250}"]
    assert "too long" in refs.left_out[0].reason


def test_that_refs_are_gone_must_not_rest_on_four_bytes() -> None:
    for goes_on in (False, True):
        script = Script(version_2(), lines(f"{ONE} refs/heads/main"), goes_on=goes_on)
        remote = Remote(script, selection=Selection(), count=lambda _: None)
        assert remote.list_refs().tips == {MAIN: ONE}
        if goes_on:
            with pytest.raises(MalformedPacket, match="goes on"):
                remote.require_end()
        else:
            remote.require_end()


BROKEN_LISTS: dict[str, bytes] = {
    "a line without a name": lines(ONE),
    "an empty line": lines(""),
    "a short id": lines("1234 refs/heads/main"),
    "an id of the other format": lines(f"{LONG} refs/heads/main"),
    "an upper-case id": lines(f"{'A' * 40} refs/heads/main"),
    "an id that is none": lines(f"{'g' * 40} refs/heads/main"),
    "an id of another ref that is not taken": lines("x refs/pull/1/head"),
    "a peeled id that is none": lines(f"{ONE} refs/tags/v peeled:../x"),
    "a name twice": lines(f"{ONE} refs/heads/main", f"{TWO} refs/heads/main"),
    "HEAD twice": lines(f"{ONE} HEAD", f"{TWO} HEAD"),
    "a delimiter in place of the end": lines(f"{ONE} refs/heads/main", end=DELIMITER),
    "a response end in place of the end": lines(f"{ONE} refs/heads/main", end=b"0002"),
}


@pytest.mark.parametrize("answer", BROKEN_LISTS.values(), ids=BROKEN_LISTS.keys())
def test_a_broken_list_is_an_error_and_never_a_shorter_list(answer: bytes) -> None:
    with pytest.raises(MalformedPacket, match="explained"):
        list_refs(version_2(), answer)


def test_a_list_cut_anywhere_is_an_error_and_never_a_shorter_list() -> None:
    whole = lines(f"{ONE} HEAD symref-target:refs/heads/main", f"{ONE} refs/heads/main")
    for cut in range(len(whole)):
        with pytest.raises(TruncatedResponse):
            list_refs(version_2(), whole[:cut])


@pytest.mark.parametrize("place", [0, 1])
def test_a_servers_refusal_is_told_in_its_words(place: int) -> None:
    refusal = encode(b"ERR access denied: no such project\n")
    answers = [version_2(), lines(f"{ONE} refs/heads/main", end=refusal)]
    answers[place] = refusal if place == 0 else answers[1]
    with pytest.raises(RemoteRefused, match="no such project"):
        list_refs(*answers)


# --- What a server says of itself --------------------------------------------------------------


@pytest.mark.parametrize(
    "advertisement",
    [
        lines("version 2", "ls-refs"),
        lines("version 2", "fetch"),
        lines("version 2"),
        version_2("object-format=sha512"),
        lines("version 2", "ls-refs", "fetch", end=DELIMITER),
        lines("version 3"),
        lines("# service=git-upload-pack"),
        DELIMITER,
    ],
)
def test_a_server_that_cannot_be_spoken_to_is_refused(advertisement: bytes) -> None:
    with pytest.raises(MalformedPacket):
        list_refs(advertisement, lines())


def test_an_advertisement_cut_anywhere_is_an_error() -> None:
    whole = version_2("object-format=sha1")
    for cut in range(len(whole)):
        with pytest.raises(TruncatedResponse):
            list_refs(whole[:cut], lines())


# --- Version 0 ---------------------------------------------------------------------------------

FEATURES = "multi_ack side-band-64k symref=HEAD:refs/heads/main agent=git/2.1"


@pytest.mark.parametrize("version", [(), ("version 1",)], ids=["version 0", "version 1"])
def test_the_advertisement_of_an_older_server_is_its_list_of_refs(version: tuple[str, ...]) -> None:
    script = Script(
        lines(
            *version,
            f"{ONE} HEAD\0{FEATURES}",
            f"{ONE} refs/heads/main",
            f"{TWO} refs/tags/v1",
            f"{ONE} refs/tags/v1^{{}}",
            f"{THREE} refs/pull/1/head",
            f"{ONE} refs/pull/1/head^{{}}",
        )
    )
    counted: list[str] = []
    refs = Remote(script, selection=Selection(), count=counted.append).list_refs()
    assert refs == Refs(
        tips={MAIN: ONE, RefName("refs/tags/v1"): TWO},
        peeled={RefName("refs/tags/v1"): ONE},
        head_symref=MAIN,
        head_id=ONE,
        not_selected={"refs/pull/*/head": 1},
        protocol_v2=False,
    )
    assert counted == ["git"]
    assert script.requests == []


def test_an_older_server_without_refs_says_only_what_it_can() -> None:
    refs = list_refs(lines(f"{NULL} capabilities^{{}}\0{FEATURES}"))
    assert refs.empty
    assert not refs.protocol_v2


def test_an_older_server_with_nothing_to_say_is_empty() -> None:
    assert list_refs(FLUSH) == Refs(tips={}, protocol_v2=False)


@pytest.mark.parametrize("advertisement", [FLUSH, lines("version 1")])
def test_a_lone_flush_is_an_empty_repository_only_where_nothing_follows(
    advertisement: bytes,
) -> None:
    remote = Remote(
        Script(advertisement, goes_on=True), selection=Selection(), count=lambda _: None
    )
    with pytest.raises(MalformedPacket, match="goes on"):
        remote.list_refs()


def test_an_older_server_may_speak_sha256() -> None:
    refs = list_refs(lines(f"{LONG} refs/heads/main\0object-format=sha256"))
    assert (refs.object_format, refs.tips) == ("sha256", {MAIN: LONG})


def test_an_older_server_whose_history_is_cut_off_is_refused() -> None:
    with pytest.raises(IncompleteRepository, match="shallow"):
        list_refs(lines(f"{ONE} refs/heads/main\0{FEATURES}", f"shallow {TWO}"))


def test_an_older_servers_list_cut_anywhere_is_an_error() -> None:
    whole = lines(f"{ONE} HEAD\0{FEATURES}", f"{ONE} refs/heads/main")
    for cut in range(len(whole)):
        with pytest.raises(ProtocolError):
            list_refs(whole[:cut])


@pytest.mark.parametrize(
    "texts",
    [
        (f"{ONE} refs/heads/main\0", f"{TWO} refs/heads/main"),
        (f"{ONE} refs/heads/main\0", "hello"),
        (f"{ONE} refs/tags/v\0", "hello refs/tags/v^{}"),
        ("hello",),
    ],
)
def test_an_older_servers_broken_list_is_an_error(texts: tuple[str, ...]) -> None:
    with pytest.raises(MalformedPacket):
        list_refs(lines(*texts))


# --- The pack ----------------------------------------------------------------------------------


def test_the_pack_is_band_1_alone_in_the_pieces_that_came() -> None:
    answer = packfile(
        band(2, b"Counting objects: 3\r"),
        band(1, b"PACK"),
        band(1, b""),
        band(2, b""),
        band(1, b"\0" * 65515),
    )
    assert fetch(answer) == [b"PACK", b"\0" * 65515]


def test_keepalives_before_the_pack_give_nothing_and_end_nothing() -> None:
    assert fetch(packfile(*[band(1, b"")] * 100, band(1, b"PACK"))) == [b"PACK"]


def test_band_3_is_the_servers_refusal() -> None:
    answer = packfile(band(1, b"PACK"), band(3, b"upload-pack: out of memory\n"), end=b"")
    with pytest.raises(RemoteRefused, match="out of memory"):
        fetch(answer)


def test_a_history_that_lacks_objects_is_told_apart_with_the_words_that_explain_it() -> None:
    answer = packfile(
        band(1, b"PACK"),
        band(2, f"fatal: unable to read {TWO}\n".encode()),
        band(3, b"aborting due to possible repository corruption on the remote side.\0"),
        end=b"",
    )
    with pytest.raises(IncompleteRepository, match=f"unable to read {TWO}"):
        fetch(answer)


@pytest.mark.parametrize(
    "packet", [band(4, b"x"), band(0, b"x"), band(0x50, b"ACK"), b"0004", DELIMITER, b"0002"]
)
def test_anything_else_within_the_pack_is_refused(packet: bytes) -> None:
    with pytest.raises(MalformedPacket):
        fetch(packfile(band(1, b"PACK"), packet))


def test_a_pack_cut_anywhere_says_how_much_came() -> None:
    whole = packfile(band(1, b"PACK"), band(1, b"0123456789"))
    for cut in range(len(whole)):
        with pytest.raises(TruncatedPack, match="explained") as caught:
            fetch(whole[:cut])
        first = len(packfile(band(1, b"PACK"), end=b""))
        second = len(packfile(band(1, b"PACK"), band(1, b"0123456789"), end=b""))
        assert caught.value.received_bytes == (0 if cut < first else 4 if cut < second else 14)


def test_a_shallow_servers_pack_is_refused_before_a_byte_of_it() -> None:
    answer = lines("shallow-info", f"shallow {ONE}", end=DELIMITER) + packfile(band(1, b"PACK"))
    with pytest.raises(IncompleteRepository, match="shallow"):
        fetch(answer)


@pytest.mark.parametrize(
    "answer",
    [
        lines("acknowledgments", "NAK", end=DELIMITER) + packfile(band(1, b"PACK")),
        lines("wanted-refs", f"{ONE} refs/heads/main", end=DELIMITER) + packfile(),
        lines("packfile-uris", f"{ONE} file:///x", end=DELIMITER) + packfile(),
        FLUSH,
        DELIMITER,
    ],
)
def test_a_section_that_nobody_asked_for_is_refused(answer: bytes) -> None:
    with pytest.raises(MalformedPacket):
        fetch(answer)


def test_a_want_that_is_not_there_any_more_is_told_apart() -> None:
    with pytest.raises(NotOurRef, match=ONE):
        fetch(encode(f"ERR upload-pack: not our ref {ONE}".encode()))


def test_another_refusal_is_no_want_that_is_gone() -> None:
    with pytest.raises(RemoteRefused, match="over quota") as caught:
        fetch(encode(b"ERR over quota\n"))
    assert not isinstance(caught.value, NotOurRef)


# --- Fitting the request -----------------------------------------------------------------------


def many(count: int, start: int = 1) -> tuple[ObjectId, ...]:
    return tuple(ObjectId(f"{number:040x}") for number in range(start, start + count))


def request_bytes(wants: Sequence[ObjectId], haves: Sequence[ObjectId]) -> int:
    script = Script(version_2(), packfile())
    list(Remote(script, selection=Selection(), count=lambda _: None).fetch(wants, haves))
    return len(script.requests[0])


def test_few_haves_are_all_sent() -> None:
    assert fit_haves([ONE], (TWO, THREE)) == (TWO, THREE)


@pytest.mark.parametrize("wanted", [1, 1000])
def test_more_haves_than_a_request_holds_are_cut_from_the_end(wanted: int) -> None:
    wants, haves = many(wanted), many(200_000, start=10_000)
    kept = fit_haves(wants, haves)
    assert kept == haves[: len(kept)]
    size = request_bytes(wants, kept)
    assert MAX_REQUEST_BYTES - 2048 < size <= MAX_REQUEST_BYTES


def test_longer_ids_are_counted_as_they_are() -> None:
    wants = (LONG,)
    haves = tuple(ObjectId(f"{number:064x}") for number in range(2000))
    kept = fit_haves(wants, haves, limit_bytes=20_000)
    assert len(haves) > len(kept) > 0
    script = Script(version_2("object-format=sha256"), packfile())
    list(Remote(script, selection=Selection(), count=lambda _: None).fetch(wants, kept))
    assert 18_000 < len(script.requests[0]) <= 20_000


def test_wants_alone_over_the_limit_leave_no_room_for_haves() -> None:
    assert fit_haves(many(1000), many(10), limit_bytes=20_000) == ()
