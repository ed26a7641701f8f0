"""pkt-lines: what is taken, what is refused, and that an end which nobody said is never one."""

from collections.abc import Callable

import pytest

from backup.errors import MalformedPacket, RemoteRefused, TruncatedResponse
from backup.git.pktline import (
    MAX_PACKET_BYTES,
    Packet,
    PacketReader,
    Special,
    encode,
    encode_line,
    refusal,
    text_line,
)


def stream(data: bytes, step: int = 1 << 20) -> Callable[[int], bytes]:
    """Give data in pieces of at most step bytes."""
    position = 0

    def read(size: int) -> bytes:
        nonlocal position
        piece = data[position : position + min(size, step)]
        position += len(piece)
        return piece

    return read


def until_flush(reader: PacketReader) -> None:
    while reader.next() is not Special.FLUSH:
        pass


def first(data: bytes) -> Packet:
    return PacketReader(stream(data)).next()


@pytest.mark.parametrize(
    ("wire", "packet"),
    [
        (b"0000", Special.FLUSH),
        (b"0001", Special.DELIMITER),
        (b"0002", Special.RESPONSE_END),
        (b"0004", b""),
        (b"0005a", b"a"),
        (b"0006a\n", b"a\n"),
        (b"000bfoobar\n", b"foobar\n"),
        (b"000Bfoobar\n", b"foobar\n"),
        (b"fff0" + b"x" * 65516, b"x" * 65516),
    ],
)
def test_a_packet_is_read_as_git_documents_it(wire: bytes, packet: Packet) -> None:
    assert first(wire) == packet


@pytest.mark.parametrize(
    "prefix",
    [b"0003", b"fff1", b"ffff", b"-001", b"+005", b" 005", b"00 5", b"0x05", b"000g", b"5\n\n\n"],
)
def test_four_bytes_that_are_no_length_are_refused(prefix: bytes) -> None:
    with pytest.raises(MalformedPacket):
        first(prefix + b"a" * 70000)


def test_digits_of_other_scripts_are_no_length() -> None:
    with pytest.raises(MalformedPacket):
        first("\u0660\u0665".encode() + b"a" * 100)


@pytest.mark.parametrize("wire", [b"0000", b"0004", b"0009hello", b"0008done0000"])
def test_a_stream_cut_anywhere_is_truncated_and_never_ended(wire: bytes) -> None:
    for cut in range(len(wire)):
        reader = PacketReader(stream(wire[:cut]))
        with pytest.raises(TruncatedResponse):
            until_flush(reader)


@pytest.mark.parametrize("step", [1, 2, 3, 5, 7, 4096])
def test_the_size_of_the_pieces_does_not_matter(step: int) -> None:
    payloads = [b"", b"a", b"0000", b"x" * 65516, b"\0\xff\n"]
    wire = b"".join(encode(payload) for payload in payloads) + b"0001" + b"0000"
    reader = PacketReader(stream(wire, step))
    assert [reader.next() for _ in payloads] == payloads
    assert [reader.next(), reader.next()] == [Special.DELIMITER, Special.FLUSH]
    with pytest.raises(TruncatedResponse):
        reader.next()


def test_the_longest_payload_is_framed_and_one_byte_more_is_not() -> None:
    assert encode(b"x" * (MAX_PACKET_BYTES - 4))[:4] == b"fff0"
    with pytest.raises(ValueError, match="65516"):
        encode(b"x" * (MAX_PACKET_BYTES - 3))


def test_a_line_is_framed_with_its_newline_as_git_writes_it() -> None:
    assert encode_line(b"command=ls-refs") == b"0014command=ls-refs\n"


def test_lines_end_at_the_flush_packet_and_the_next_answer_follows() -> None:
    reader = PacketReader(stream(b"0006a\n0005b00000005c"))
    assert list(reader.lines()) == [b"a", b"b"]
    assert reader.next() == b"c"


def test_only_one_newline_is_taken_off_a_line() -> None:
    assert text_line(b"name\n\n") == b"name\n"
    assert text_line(b"name") == b"name"


@pytest.mark.parametrize("special", [b"0001", b"0002"])
def test_a_list_that_another_special_packet_ends_is_no_shorter_list(special: bytes) -> None:
    lines = PacketReader(stream(b"0006a\n" + special + b"0000")).lines()
    assert next(lines) == b"a"
    with pytest.raises(MalformedPacket):
        next(lines)


def test_a_list_that_ends_with_the_stream_is_no_shorter_list() -> None:
    lines = PacketReader(stream(b"0006a\n")).lines()
    assert next(lines) == b"a"
    with pytest.raises(TruncatedResponse):
        next(lines)


def test_an_err_packet_is_the_servers_refusal_in_its_words() -> None:
    lines = PacketReader(stream(encode(b"ERR access denied\n"))).lines()
    with pytest.raises(RemoteRefused, match=r"^the server refused: access denied$"):
        next(lines)


def test_a_refusal_shows_nothing_that_a_terminal_would_act_on() -> None:
    message = refusal(b"\x1b[31mred\x07\r\n::error::x\xff").message
    assert message.isprintable()
    assert "\\x1b[31mred" in message
    assert "\\xff" in message


def test_an_endless_refusal_is_cut() -> None:
    assert len(refusal(b"a" * 60000).message) < 600
