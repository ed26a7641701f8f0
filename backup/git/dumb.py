"""Repositories on a plain web server: the files that git keeps there, read as a list of refs.

Such a server runs no program of git. ``git update-server-info`` has left the refs in ``info/refs``;
what HEAD is stands in the file itself. Both together make what a server of version 0 says, and
objects come as from such a server: by a mirror that git makes.
Source: gitprotocol-http(5), "Dumb Clients"; git-update-server-info(1).
"""

import re
from collections.abc import Callable, Iterator

from backup.errors import MalformedPacket
from backup.git.pktline import FLUSH, MAX_PACKET_BYTES, encode_line
from backup.secret import foreign

# A million refs with long names; no server's list was seen to have a tenth of it.
MAX_LIST_BYTES = 128 << 20
_LINE = re.compile(rb"((?:[0-9a-f]{40}|[0-9a-f]{64}))\t([^\0\n]+)\n")
_ID = re.compile(rb"[0-9a-f]{40}|[0-9a-f]{64}")
_SYMREF = re.compile(rb"ref: (refs/[^\0\s]+)\s*")
_FIRST_BYTES = 4096


def read_list(read: Callable[[int], bytes]) -> bytes | None:
    """Read ``info/refs``; None where it is something else, of which no more than a piece is read.

    Raises:
        MalformedPacket: it is longer than any list that is taken.
    """
    pieces: list[bytes] = []
    size_bytes = 0
    first = b""
    while piece := read(1 << 18):
        pieces.append(piece)
        size_bytes += len(piece)
        if len(first) < _FIRST_BYTES:
            first = (first + piece)[:_FIRST_BYTES]
            if b"\n" in first and _LINE.match(first) is None:
                return None
        if size_bytes > MAX_LIST_BYTES:
            raise MalformedPacket(f"the list of refs has more than {MAX_LIST_BYTES} bytes")
    listed = b"".join(pieces)
    return listed if not listed or _LINE.match(listed) else None


def advertisement(listed: bytes, head: bytes) -> Iterator[bytes]:
    """Make the packets that a server of version 0 would send.

    Args:
        listed: the contents of ``info/refs``.
        head: the contents of ``HEAD``; empty where there is none.

    Raises:
        MalformedPacket: the list is none.
    """
    refs = {name: oid for oid, name in _lines(listed)}
    some_id = next(iter(refs.values()), b"0" * 40)
    features = b"object-format=sha256" if len(some_id) == 64 else b"object-format=sha1"
    found = _SYMREF.fullmatch(head)
    symref = b"" if found is None else found[1]
    if symref:
        features += b" symref=HEAD:" + symref
    head_id = refs.get(symref) or (head.strip() if _ID.fullmatch(head.strip()) else None)
    entries = [(b"HEAD", head_id)] if head_id else []
    entries += [*refs.items()]
    for name, oid in entries or [(b"capabilities^{}", b"0" * len(some_id))]:
        line = b"%b %b" % (oid, name)
        if features:
            line, features = b"%b\0%b" % (line, features), b""
        if len(line) > MAX_PACKET_BYTES - 5:
            raise MalformedPacket(f"the list of refs has a name of {len(name)} bytes")
        yield encode_line(line)
    yield FLUSH


def _lines(listed: bytes) -> Iterator[tuple[bytes, bytes]]:
    position = 0
    while position < len(listed):
        found = _LINE.match(listed, position)
        if found is None:
            raise MalformedPacket(
                f"the list of refs has a line {foreign(listed[position : position + 9000], 80)!r}"
            )
        yield found[1], found[2]
        position = found.end()
