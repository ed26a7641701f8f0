"""The client of git's protocol version 2: what refs are there, and give me these objects.

Two commands over a `Transport`: ``ls-refs`` and ``fetch`` with every want, every have and ``done``
in one request, so that the answer is one pack. Asked for are ``ofs-delta`` and ``no-progress``;
not ``thin-pack``, since every stored pack must be readable alone, and nothing that would make the
answer shallow or partial. A server of version 0 is understood as far as its list of refs.
Source: gitprotocol-v2(5), gitprotocol-pack(5).
"""

import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import backup
from backup import limits
from backup.errors import (
    AnswerTooLarge,
    BackupError,
    IncompleteRepository,
    MalformedPacket,
    NotOurRef,
    ProtocolError,
    RemoteRefused,
    TruncatedPack,
    TruncatedResponse,
)
from backup.git.pktline import (
    DELIMITER,
    FLUSH,
    PacketReader,
    Special,
    encode_line,
    refusal,
    text_line,
)
from backup.git.transport import Transport
from backup.machine import limit_in
from backup.model import ID_LENGTH, LeftOut, ObjectFormat, ObjectId, RefName, Refs, Selection
from backup.refs import (
    conflicting,
    in_order,
    is_selected,
    is_storable,
    is_well_formed,
    pattern_of,
    to_bytes,
    to_name,
)
from backup.secret import ALLOWANCE, foreign, left_of

# git http-backend buffers a request and refuses one over 10 MiB (GIT_HTTP_MAX_REQUEST_BUFFER).
MAX_REQUEST_BYTES = 8 << 20
HEADS_TAGS_NOTES = ("refs/heads/", "refs/tags/", "refs/notes/")
_AGENT = f"repo-backup/{backup.__version__}".encode()
# Of what explains a fatal error, of which some hundred characters are shown.
_WORDS_KEPT_BYTES = 2 * ALLOWANCE
_NO_REFS_YET = b"capabilities^{}"


@dataclass(frozen=True, slots=True)
class Advertised:
    """What a server says of itself before it is asked anything.

    Attributes:
        version: 2, or 0 for a server without protocol version 2.
        refs: with version 0 the advertisement is the list of refs itself.
        nothing_said: it was a lone flush, as version 0 has it for an empty repository.
        known: names of its capabilities; a server may end at one that it has not named.
    """

    version: int
    object_format: ObjectFormat
    unborn: bool = False
    refs: Refs | None = None
    nothing_said: bool = False
    known: frozenset[bytes] = frozenset()


class Remote:
    """One repository's upload-pack, spoken to over a transport. Used by one thread.

    Args:
        transport: not yet connected; closed with this object.
        selection: which refs are taken.
        count: called with ``git`` for every request made.
    """

    def __init__(
        self, transport: Transport, *, selection: Selection, count: Callable[[str], None]
    ) -> None:
        self._transport = transport
        self._selection = selection
        self._count = count
        self._advertised: Advertised | None = None

    def list_refs(self, *, prefixes: Sequence[str] = ()) -> Refs:
        """Ask for the refs. Two requests the first time, one after that.

        Args:
            prefixes: take only refs that begin so; everything selected when empty.

        Raises:
            AnswerTooLarge: there are more refs, or more bytes of them, than are taken.
            ProtocolError: the list is broken or ended before its flush packet; never a shorter
                list instead.
        """
        try:
            advertised = self._connect()
            if advertised.refs is not None:
                return advertised.refs
            self._count("git")
            packets = self._transport.exchange(_ls_refs_request(advertised, prefixes))
            collector = _RefCollector(advertised.object_format, self._selection, prefixes)
            for line in _ref_lines(packets):
                collector.add_line(line)
            return collector.refs(protocol_v2=True)
        except ProtocolError as error:
            raise self._transport.explain(error) from error.__cause__

    def fetch(self, wants: Sequence[ObjectId], haves: Sequence[ObjectId]) -> Iterator[bytes]:
        """Yield the pack that holds what wants reach and haves do not, as it arrives.

        The joined pieces are one pack that leans on no object outside itself. Each piece has at
        most 65,515 bytes; none is kept.

        Raises:
            NotOurRef: a want is not there (any more); before the first piece.
            IncompleteRepository: the server's own history is shallow.
            TruncatedPack: the answer broke off.
            ProtocolError: anything else that is no pack.
        """
        received_bytes = 0
        try:
            advertised = self._connect()
            if advertised.version != 2:
                raise AssertionError("the server has no protocol version 2")
            self._count("git")
            request = _fetch_request(advertised, wants, haves)
            packets = self._transport.exchange(request, prepares=True)
            _expect_packfile(packets)
            for data in _side_band(packets):
                if not received_bytes:
                    self._transport.content_begins()
                received_bytes += len(data)
                yield data
        except TruncatedResponse as error:
            explained = self._transport.explain(error)
            raise TruncatedPack(
                f"the pack broke off after {received_bytes} bytes: {explained.message}",
                received_bytes=received_bytes,
            ) from error
        except ProtocolError as error:
            raise self._transport.explain(error) from error.__cause__

    def require_end(self) -> None:
        """Prove that the list of refs ended where its flush packet said; nothing comes after it.

        That refs are gone must not rest on four bytes. Where a pack is fetched, the pack's place
        in the answer proves it; where none is, this does. The last call but `close`.

        Raises:
            MalformedPacket: the server goes on.
        """
        if not self._transport.ended():
            raise MalformedPacket("the server's list of refs goes on after its end")

    def close(self) -> None:
        """End the conversation."""
        self._transport.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _connect(self) -> Advertised:
        if self._advertised is None:
            self._count("git")
            advertised = _read_advertisement(self._transport.advertisement(), self._selection)
            self._advertised = advertised
            if advertised.nothing_said:
                self.require_end()
        return self._advertised


def _read_advertisement(packets: PacketReader, selection: Selection) -> Advertised:
    first = packets.next()
    # Some servers write no newline behind it.
    if first in {b"version 2\n", b"version 2"}:
        return _capabilities(
            packets.lines(
                most_bytes=limits.MOST_CAPABILITY_BYTES, what="the server's list of capabilities"
            )
        )
    if first in {b"version 1\n", b"version 1"}:
        first = packets.next()
    if first is Special.FLUSH:
        return Advertised(0, "sha1", refs=Refs(tips={}, protocol_v2=False), nothing_said=True)
    return _version_0(text_line(first), _ref_lines(packets), selection)


def _ref_lines(packets: PacketReader) -> Iterator[bytes]:
    return packets.lines(most_bytes=limits.MOST_REF_LIST_BYTES, what="the list of refs")


def _capabilities(lines: Iterator[bytes]) -> Advertised:
    values: dict[bytes, bytes] = {}
    for line in lines:
        name, _, value = line.partition(b"=")
        values[name] = value
    if b"ls-refs" not in values or b"fetch" not in values:
        raise MalformedPacket("the server speaks version 2 without ls-refs and fetch")
    return Advertised(
        2,
        _object_format(values.get(b"object-format", b"sha1")),
        unborn=b"unborn" in values[b"ls-refs"].split(),
        known=frozenset(values),
    )


def _version_0(first: bytes, lines: Iterator[bytes], selection: Selection) -> Advertised:
    # <id> SP <name> NUL <capabilities>, then <id> SP <name>; peeled ids as <name>^{}.
    entry, _, said = first.partition(b"\0")
    features = said.split()
    values = dict(feature.partition(b"=")[::2] for feature in features)
    object_format = _object_format(values.get(b"object-format", b"sha1"))
    collector = _RefCollector(object_format, selection, ())
    for feature in features:
        if feature.startswith(b"symref=HEAD:"):
            collector.head_symref = feature.removeprefix(b"symref=HEAD:")
    if not entry.endswith(b" " + _NO_REFS_YET):
        collector.add_version_0(entry)
    for line in lines:
        if line.startswith(b"shallow "):
            raise IncompleteRepository("the repository is shallow: its history is cut off")
        collector.add_version_0(line)
    return Advertised(0, object_format, refs=collector.refs(protocol_v2=False))


def _object_format(name: bytes) -> ObjectFormat:
    match name:
        case b"sha1":
            return "sha1"
        case b"sha256":
            return "sha256"
        case _:
            raise MalformedPacket(f"the server has an unknown object format {foreign(name, 32)!r}")


class _RefCollector:
    """Turns the lines of a ref list into Refs, and refuses what git would refuse."""

    def __init__(
        self, object_format: ObjectFormat, selection: Selection, prefixes: Sequence[str]
    ) -> None:
        length = ID_LENGTH[object_format]
        self._object_format = object_format
        self._id = re.compile(rb"[0-9a-f]{%d}" % length)
        self._null = b"0" * length
        self._selection = selection
        # A server may answer with more than was asked for (gitprotocol-v2, ref-prefix).
        self._prefixes = tuple(to_bytes(prefix) for prefix in prefixes)
        # A million refs are nothing odd: each name and id is kept once, in what is returned.
        self._tips: dict[RefName, ObjectId] = {}
        self._peeled: dict[RefName, ObjectId] = {}
        self._left_out: dict[RefName, LeftOut] = {}
        self._not_selected: Counter[str] = Counter()
        self._newest = RefName("")
        self._has_head = False
        self._head_id: ObjectId | None = None
        self.head_symref: bytes | None = None

    def add_line(self, line: bytes) -> None:
        """Take one line of ls-refs: ``<id or unborn> SP <name> *(SP <attribute>)``."""
        oid, space, rest = line.partition(b" ")
        if not space:
            raise MalformedPacket(f"the list of refs has a line {foreign(line, 80)!r}")
        name, _, attributes = rest.partition(b" ")
        values = dict(attribute.partition(b":")[::2] for attribute in attributes.split(b" "))
        if name == b"HEAD":
            self.head_symref = values.get(b"symref-target")
        if oid == b"unborn":
            return
        self._add(oid, name, values.get(b"peeled"))

    def add_version_0(self, line: bytes) -> None:
        """Take one line of a version 0 advertisement: ``<id> SP <name>``."""
        oid, _, name = line.partition(b" ")
        if name.endswith(b"^{}"):
            tag = to_name(name.removesuffix(b"^{}"))
            if tag in self._tips:
                # Right behind its tag, as a rule, whose name is kept once then.
                self._peeled[self._newest if tag == self._newest else tag] = self._checked(oid)
            return
        self._add(oid, name, None)

    def refs(self, *, protocol_v2: bool) -> Refs:
        """Return everything taken."""
        for name in sorted(conflicting(self._tips.keys()), key=to_bytes):
            oid = self._tips.pop(name)
            self._peeled.pop(name, None)
            reason = "lies below another ref, or another below it"
            self._left_out[name] = LeftOut(name, oid, reason)
        symref = None if self.head_symref is None else to_name(self.head_symref)
        left_out = [*self._left_out.values()]
        if self.head_symref is not None and not is_well_formed(self.head_symref):
            left_out.append(LeftOut(to_name(b"HEAD"), "", "names no well-formed ref"))
            symref = None
        if symref and self._head_id is not None and self._tips.get(symref) != self._head_id:
            # It names a ref that is not taken, or that points elsewhere, as the server says in the
            # same answer: kept as what it leads to, like a detached HEAD. By its name alone the
            # commit would be lost.
            symref = None
        return Refs(
            tips=in_order(self._tips),
            peeled=in_order(self._peeled),
            head_symref=symref,
            head_id=self._head_id,
            object_format=self._object_format,
            left_out=tuple(left_out),
            not_selected=dict(sorted(self._not_selected.items())),
            protocol_v2=protocol_v2,
        )

    def _add(self, oid: bytes, name: bytes, peeled: bytes | None) -> None:
        tip = self._checked(oid)
        if name == b"HEAD":
            self._require_new(name, is_new=not self._has_head)
            self._has_head = True
            self._head_id = None if oid == self._null else tip
            return
        if self._prefixes and not name.startswith(self._prefixes):
            return
        if not is_selected(name, self._selection):
            self._not_selected[pattern_of(name)] += 1
            return
        taken = to_name(name)
        self._require_new(name, is_new=taken not in self._tips and taken not in self._left_out)
        if len(self._tips) + len(self._left_out) >= limits.MOST_REFS:
            raise AnswerTooLarge(f"the list of refs has more than {limits.MOST_REFS} refs")
        if reason := self._reason_to_leave_out(oid, name):
            self._left_out[taken] = LeftOut(taken, tip, reason)
            return
        self._tips[taken] = tip
        self._newest = taken
        if peeled is not None:
            self._peeled[taken] = self._checked(peeled)

    def _require_new(self, name: bytes, *, is_new: bool) -> None:
        if not is_new:
            raise MalformedPacket(f"the list of refs names {foreign(name, 200)!r} twice")

    def _reason_to_leave_out(self, oid: bytes, name: bytes) -> str:
        if oid == self._null:
            return "points at nothing (a null id)"
        if not is_well_formed(name):
            return "git does not accept the name"
        if not is_storable(name):
            return "the name is too long for a repository on disk"
        return ""

    def _checked(self, oid: bytes) -> ObjectId:
        if self._id.fullmatch(oid) is None:
            raise MalformedPacket(f"the list of refs has {foreign(oid, 80)!r} where an id is due")
        return ObjectId(oid.decode())


def _command(name: bytes, advertised: Advertised) -> list[bytes]:
    # git 2.18 to 2.27 know no object-format, and end at what they do not know.
    told = {b"agent": _AGENT, b"object-format": advertised.object_format.encode()}
    return [
        encode_line(b"command=" + name),
        *(encode_line(b"%b=%b" % one) for one in told.items() if one[0] in advertised.known),
        DELIMITER,
    ]


def _ls_refs_request(advertised: Advertised, prefixes: Sequence[str]) -> bytes:
    request = _command(b"ls-refs", advertised)
    request += [encode_line(b"peel"), encode_line(b"symrefs")]
    if advertised.unborn:
        request.append(encode_line(b"unborn"))
    if prefixes:
        wanted = ("HEAD", *prefixes)
        request += [encode_line(b"ref-prefix " + to_bytes(prefix)) for prefix in wanted]
    return b"".join((*request, FLUSH))


def _fetch_request(
    advertised: Advertised, wants: Sequence[ObjectId], haves: Sequence[ObjectId]
) -> bytes:
    # Wants can be a million: the lines are not kept beside the request.
    request = bytearray(b"".join(_command(b"fetch", advertised)))
    request += encode_line(b"ofs-delta") + encode_line(b"no-progress")
    for oid in wants:
        request += encode_line(b"want " + oid.encode())
    for oid in haves:
        request += encode_line(b"have " + oid.encode())
    return bytes(request + encode_line(b"done") + FLUSH)


def fit_haves(
    wants: Sequence[ObjectId],
    haves: tuple[ObjectId, ...],
    *,
    limit_bytes: int = MAX_REQUEST_BYTES,
) -> tuple[ObjectId, ...]:
    """Cut haves, from the end, so that the fetch request stays under the servers' limit.

    Leaving one out never loses anything: the pack then holds more than it had to.
    """
    line_bytes = len(encode_line(b"want ")) + (len(wants[0]) if wants else 0)
    room = limit_bytes - 1024 - len(wants) * line_bytes
    return haves[: max(0, room // line_bytes)]


def _expect_packfile(packets: PacketReader) -> None:
    try:
        section = text_line(packets.next())
    except RemoteRefused as error:
        if "not our ref" in error.message:
            raise NotOurRef(error.message) from error
        raise
    if section == b"shallow-info":
        raise IncompleteRepository("the repository is shallow: its history is cut off")
    if section != b"packfile":
        raise MalformedPacket(
            f"the server sent a section {foreign(section, 80)!r} that was not asked for"
        )


def _fatal(said: bytes, words: bytes) -> BackupError:
    error = refusal(said.rstrip(b"\0\n") + b": " + words.strip(b"\0\n") if words else said)
    if b"repository corruption" not in said or limit_in(error.message):
        return error
    # Source: git's upload-pack.c: pack-objects died, as it does when an object cannot be read.
    return IncompleteRepository(
        f"the repository's own history lacks objects: {error.message}",
        hint="run git fsck on it; what it lacks cannot be backed up",
    )


def _side_band(packets: PacketReader) -> Iterator[bytes]:
    # Source: gitprotocol-pack(5), "Packfile Data": 1 pack data, 2 progress, 3 fatal error. Progress
    # was not asked for: what comes there are the words that explain a fatal error.
    words, is_cut = b"", False
    while (packet := packets.next()) is not Special.FLUSH:
        if isinstance(packet, Special) or not packet:
            raise MalformedPacket("the server sent an empty packet within the pack")
        match packet[0]:
            case 1:
                if len(packet) > 1:
                    yield packet[1:]
            case 2:
                words += packet[1:]
                is_cut = is_cut or len(words) > _WORDS_KEPT_BYTES
                words = words[-_WORDS_KEPT_BYTES:]
            case 3:
                text = words.decode("utf-8", "backslashreplace")
                raise _fatal(packet[1:], left_of(text, at_start=is_cut).encode())
            case band:
                raise MalformedPacket(f"the server sent side-band {band}")
