"""Repositories on a plain web server: the files that git keeps there, read as a list of refs.

Such a server runs no program of git. ``git update-server-info`` has left the refs in ``info/refs``;
what HEAD is stands in the file itself. Both together make what a server of version 0 says, and
objects come as from such a server: by a mirror that git makes.
Source: gitprotocol-http(5), "Dumb Clients"; git-update-server-info(1).
"""

import re
from collections.abc import Callable, Iterator
from itertools import chain

from backup import limits
from backup.errors import AnswerTooLarge, MalformedPacket
from backup.git.pktline import FLUSH, MAX_PACKET_BYTES, encode_line
from backup.secret import ALLOWANCE, foreign, left_of

_LINE = re.compile(rb"((?:[0-9a-f]{40}|[0-9a-f]{64}))\t([^\0\n]+)\n")
_ID = re.compile(rb"[0-9a-f]{40}|[0-9a-f]{64}")
_SYMREF = re.compile(rb"ref: (refs/[^\0\s]+)\s*")
_FIRST_BYTES = 4096
_SHOWN = 80


def read_list(read: Callable[[int], bytes]) -> bytearray | None:
    """Read ``info/refs``; None where it is something else, of which no more than a piece is read.

    Raises:
        AnswerTooLarge: it is longer than any list that is taken.
    """
    listed = bytearray()
    while piece := read(1 << 18):
        is_begin = len(listed) < _FIRST_BYTES
        listed += piece
        has_line = len(listed) >= _FIRST_BYTES or b"\n" in listed
        if is_begin and has_line and _LINE.match(listed) is None:
            return None
        if len(listed) > limits.MOST_REF_LIST_BYTES:
            raise AnswerTooLarge(
                f"the list of refs has more than {limits.MOST_REF_LIST_BYTES} bytes"
            )
    return listed if not listed or _LINE.match(listed) else None


def advertisement(listed: bytes | bytearray, head: bytes) -> Iterator[bytes]:
    """Yield the packets that a server of version 0 would send, one after the other.

    Args:
        listed: the contents of ``info/refs``.
        head: the contents of ``HEAD``; empty where there is none.

    Raises:
        MalformedPacket: the list is none.
    """
    some_id = next(_lines(listed), (b"0" * 40, b""))[0]
    features = b"object-format=sha256" if len(some_id) == 64 else b"object-format=sha1"
    found = _SYMREF.fullmatch(head)
    symref = b"" if found is None else found[1]
    if symref:
        features += b" symref=HEAD:" + symref
    head_id = next((oid for oid, name in _lines(listed) if name == symref), b"")
    if not symref and _ID.fullmatch(head.strip()):
        head_id = head.strip()
    entries = _lines(listed) if listed else iter([(b"0" * len(some_id), b"capabilities^{}")])
    for oid, name in chain([(head_id, b"HEAD")] if head_id else [], entries):
        line = b"%b %b" % (oid, name)
        if features:
            line, features = b"%b\0%b" % (line, features), b""
        if len(line) > MAX_PACKET_BYTES - 5:
            raise MalformedPacket(f"the list of refs has a name of {len(name)} bytes")
        yield encode_line(line)
    yield FLUSH


def _lines(listed: bytes | bytearray) -> Iterator[tuple[bytes, bytes]]:
    position = 0
    while position < len(listed):
        found = _LINE.match(listed, position)
        if found is None:
            line = bytes(listed[position : position + ALLOWANCE + _SHOWN])
            is_cut = position + len(line) < len(listed)
            words = left_of(line.decode("utf-8", "backslashreplace"), at_end=is_cut)
            raise MalformedPacket(f"the list of refs has a line {foreign(words, _SHOWN)!r}")
        yield bytes(found[1]), bytes(found[2])
        position = found.end()
