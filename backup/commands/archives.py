"""Proves that a packed tar archive is whole, from its bytes as they pass. Knows nothing of forges.

Whole means: the gzip stream ends where the bytes end, with the checksum and the length of its
trailer (zlib compares both), and what it holds is a tar archive to its end: every header has its
checksum, every member all of its data, at least one is a file, two blocks of zeros follow the last
one, and nothing else.
Source: RFC 1952; GNU tar manual, "Basic Tar Format"; POSIX.1-2017, pax, "ustar Interchange Format".
"""

import tarfile
import zlib
from collections.abc import Iterable, Iterator

from backup.errors import BrokenArchive
from backup.limits import MOST_RATIO

_BLOCK = tarfile.BLOCKSIZE
_ZEROS = bytes(_BLOCK)
_UNPACKED_AT_ONCE = 1 << 20
_ALWAYS_UNPACKED_BYTES = 1 << 30
# Of the header that says what another one has no room for: names, times, a size.
_MOST_HEADER_BYTES = 1 << 20
_HAVE_DATA = (tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK)


def require_whole(pieces: Iterable[bytes]) -> None:
    """Read a packed archive to its end and prove that it is whole.

    Memory stays at a piece and 2 MiB, whatever the archive unpacks to.

    Args:
        pieces: all of its bytes; each is taken before the next is asked for, to the last one.

    Raises:
        BrokenArchive: it is not; the message goes on from "it".
    """
    content = _Content(_unpacked(pieces))
    members, files, size_bytes = 0, 0, 0
    while (block := content.read(_BLOCK)) != _ZEROS:
        member = _member(block, number=members + 1)
        members += 1
        files += member.isreg()
        if member.type == tarfile.XHDTYPE:
            size_bytes = _size_in(_header_data(content, member)) or size_bytes
            continue
        if member.type == tarfile.GNUTYPE_SPARSE:
            _skip_map(content, block)
        if _has_data(member):
            own = member.size if member.type in _HAVE_DATA else size_bytes or member.size
            content.skip(_padded(own))
        if member.type not in _HAVE_DATA:
            size_bytes = 0
    if not members:
        raise BrokenArchive("it is an empty archive")
    if not files:
        raise BrokenArchive("it holds no file")
    if content.read(_BLOCK) != _ZEROS:
        raise BrokenArchive("it is cut off: its archive has no end")
    content.require_zeros()


def _unpacked(pieces: Iterable[bytes]) -> Iterator[bytes]:
    unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
    packed_bytes = unpacked_bytes = 0
    for piece in pieces:
        packed_bytes += len(piece)
        data = piece
        while True:
            if unpacker.eof and data:
                # Another member may follow (RFC 1952, 2.2); what is none, zlib refuses.
                unpacker = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
            try:
                made = unpacker.decompress(data, _UNPACKED_AT_ONCE)
            except zlib.error as error:
                raise BrokenArchive(f"it does not unpack: {error}") from error
            unpacked_bytes += len(made)
            if unpacked_bytes > max(_ALWAYS_UNPACKED_BYTES, packed_bytes * MOST_RATIO):
                raise BrokenArchive(f"it unpacks to more than {MOST_RATIO} times its size")
            if made:
                yield made
            data = unpacker.unused_data if unpacker.eof else unpacker.unconsumed_tail
            if not data and len(made) < _UNPACKED_AT_ONCE:
                break
    if not unpacker.eof:
        raise BrokenArchive(f"it is cut off: its gzip stream has no end after {packed_bytes} bytes")


class _Content:
    """What an archive unpacks to, in the pieces that the reader of a tar asks for."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._rest = memoryview(b"")

    def read(self, size: int) -> bytes:
        """Return exactly so many bytes."""
        taken = bytearray()
        while len(taken) < size:
            taken += self._take(size - len(taken))
        return bytes(taken)

    def skip(self, size: int) -> None:
        """Leave out exactly so many bytes."""
        while size:
            size -= len(self._take(size))

    def require_zeros(self) -> None:
        """Read to the end, where nothing may be but padding."""
        rest = bytes(self._rest)
        while True:
            if rest.count(0) != len(rest):
                raise BrokenArchive("it has something after the end of its archive")
            if (following := next(self._pieces, None)) is None:
                return
            rest = following

    def _take(self, size: int) -> memoryview:
        if not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                raise BrokenArchive("it is cut off: its archive has no end")
            self._rest = memoryview(piece)
        taken, self._rest = self._rest[:size], self._rest[size:]
        return taken


def _member(block: bytes, *, number: int) -> tarfile.TarInfo:
    try:
        return tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError, OverflowError) as error:
        raise BrokenArchive(f"it holds no tar archive: header {number}: {error}") from error


def _has_data(member: tarfile.TarInfo) -> bool:
    # As tarfile itself has it: links, folders and devices have none, whatever their size says.
    kind = member.type
    return member.isreg() or kind in _HAVE_DATA or kind not in tarfile.SUPPORTED_TYPES


def _padded(size_bytes: int) -> int:
    if size_bytes < 0:
        raise BrokenArchive("it holds no tar archive: a member has a negative size")
    return -(-size_bytes // _BLOCK) * _BLOCK


def _header_data(content: _Content, member: tarfile.TarInfo) -> bytes:
    if member.size > _MOST_HEADER_BYTES:
        raise BrokenArchive(f"it holds an extended header of {member.size} bytes")
    return content.read(_padded(member.size))[: member.size]


def _size_in(records: bytes) -> int:
    """Return the size that an extended header gives; 0 where it gives none."""
    for line in records.split(b"\n"):
        # "<length> size=<digits>"; a record's own length is not needed to find it.
        name, _, value = line.partition(b" ")[2].partition(b"=")
        if name == b"size" and value.isdigit() and len(value) < 20:
            return int(value)
    return 0


def _skip_map(content: _Content, block: bytes) -> None:
    """Leave out the blocks that say more of where a sparse file has data."""
    is_extended = block[482]
    while is_extended:
        is_extended = content.read(_BLOCK)[504]
