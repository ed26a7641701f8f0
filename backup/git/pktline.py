"""Framing of git's wire protocol: bytes to packets and back, without any I/O of its own.

A pkt-line is four hex digits that count themselves and the payload, then the payload; ``0000``,
``0001`` and ``0002`` are the flush, delimiter and response-end packets.
Source: gitprotocol-common(5), "pkt-line Format"; gitprotocol-v2(5), "Packet-Line Framing".
"""

from collections.abc import Callable, Iterator
from enum import Enum

from backup import limits
from backup.errors import AnswerTooLarge, MalformedPacket, RemoteRefused, TruncatedResponse
from backup.secret import foreign

MAX_PACKET_BYTES = 65520
_HEX = frozenset(b"0123456789abcdefABCDEF")
_READ_BYTES = 1 << 18


class Special(Enum):
    """Packets that carry no payload."""

    FLUSH = b"0000"
    DELIMITER = b"0001"
    RESPONSE_END = b"0002"


FLUSH = Special.FLUSH.value
DELIMITER = Special.DELIMITER.value
Packet = bytes | Special


def encode(payload: bytes) -> bytes:
    """Frame one payload of at most 65,516 bytes."""
    length = len(payload) + 4
    if length > MAX_PACKET_BYTES:
        raise ValueError(f"a packet holds at most {MAX_PACKET_BYTES - 4} bytes, not {len(payload)}")
    return b"%04x%b" % (length, payload)


def encode_line(text: bytes) -> bytes:
    r"""Frame one line of text, ended by ``\n`` as git writes it."""
    return encode(text + b"\n")


class PacketReader:
    r"""Turn a byte stream into packets.

    Whatever the other side sends gives packets or one of our errors. The stream's own end is never
    an end of anything: only a special packet is, so running dry raises TruncatedResponse.

    Args:
        read: gives at most the asked number of bytes, ``b""`` at the end of the stream only.
    """

    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self._buffer = b""
        self._position = 0

    def next(self) -> Packet:
        """Return the next packet's payload, or the special packet.

        Raises:
            MalformedPacket: four bytes that are no length.
            TruncatedResponse: the stream ended before the packet did.
        """
        prefix = self._take(4)
        if not _HEX.issuperset(prefix):
            raise MalformedPacket(f"the server sent {foreign(prefix, 20)!r} where a packet begins")
        length = int(prefix, 16)
        if length >= 4:
            if length > MAX_PACKET_BYTES:
                raise MalformedPacket(f"the server sent a packet of {length} bytes")
            return self._take(length - 4)
        if length == 3:
            raise MalformedPacket("the server sent a packet of 3 bytes")
        return Special(b"%04d" % length)

    def lines(
        self, *, most_bytes: int = limits.MOST_REF_LIST_BYTES, what: str = "the answer"
    ) -> Iterator[bytes]:
        r"""Yield lines up to the flush packet, each without its ``\n``.

        Args:
            most_bytes: of all lines together, framing included.
            what: is made of the lines, for messages.

        Raises:
            RemoteRefused: the server sent an ``ERR`` packet in place of a line.
            AnswerTooLarge: there are more bytes than that before the flush packet.
        """
        taken_bytes = 0
        while (packet := self.next()) is not Special.FLUSH:
            line = text_line(packet)
            taken_bytes += len(packet) + 4 if isinstance(packet, bytes) else 4
            if taken_bytes > most_bytes:
                raise AnswerTooLarge(f"{what} has more than {most_bytes} bytes")
            yield line

    def put_back(self, packet: Packet) -> None:
        """Give back the packet that was taken last; it is the next one again."""
        data = packet.value if isinstance(packet, Special) else encode(packet)
        self._buffer, self._position = data + self._buffer[self._position :], 0

    def at_end(self) -> bool:
        """Wait for the stream's next byte or its end, and tell whether it is the end."""
        if self._position == len(self._buffer):
            self._buffer, self._position = self._read(_READ_BYTES), 0
        return not self._buffer

    def _take(self, size: int) -> bytes:
        end = self._position + size
        if end <= len(self._buffer):
            taken = self._buffer[self._position : end]
            self._position = end
            return taken
        parts = [self._buffer[self._position :]]
        missing = end - len(self._buffer)
        self._buffer, self._position = b"", 0
        while missing > 0:
            data = self._read(_READ_BYTES)
            if not data:
                raise TruncatedResponse("the server's answer ended in the middle")
            if len(data) > missing:
                parts.append(data[:missing])
                self._buffer, self._position = data, missing
                missing = 0
            else:
                parts.append(data)
                missing -= len(data)
        return b"".join(parts)


def text_line(packet: Packet) -> bytes:
    r"""Return a packet's text without its ``\n``.

    Raises:
        RemoteRefused: it is an ``ERR`` packet.
        MalformedPacket: it is a special packet, where text was due.
    """
    if isinstance(packet, Special):
        raise MalformedPacket(f"the server sent a {packet.name.lower()} packet where text was due")
    line = packet.removesuffix(b"\n")
    if line.startswith(b"ERR "):
        raise refusal(line[4:])
    return line


def refusal(words: bytes) -> RemoteRefused:
    """Make the error for what a server said when it said no."""
    return RemoteRefused(f"the server refused: {foreign(words, 500)}")
