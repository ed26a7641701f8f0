"""Finding the pointers of Git LFS in a pack: small files that name large ones kept elsewhere.

A pointer names its file by SHA-256. It is a blob like any other, so every blob that is small enough
is read; packs that stand alone can be read without what they build on.
What git-lfs reads as a pointer is more than what it writes, and more than its specification says:
what counts is what it reads, since a clone gets the file for it.
Source: git-lfs 3.7, lfs/pointer.go (DecodeFrom), lfs/scanner.go (BlobSizeCutoff).
"""

import hashlib
import re
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from backup.errors import MalformedPack
from backup.git.child import Child
from backup.git.command import PATIENCE_SECONDS, clean_environment, require_unhindered
from backup.git.objects import ObjectReader
from backup.model import ObjectId
from backup.stopping import Stop

# The first two versions were those of its beginnings, under another name.
_VERSIONS = (
    b"http://git-media.io/v/2",
    b"https://hawser.github.com/spec/v1",
    b"https://git-lfs.github.com/spec/v1",
)
_KEYS = (b"version", b"oid", b"size")
_OID = re.compile(rb"sha256:([0-9a-f]{64})")
# As Go's strconv.ParseInt takes it.
_SIZE = re.compile(rb"[+-]?[0-9]+")
_MOST_SIZE = (1 << 63) - 1
# The beginning of a key; git-lfs does not look at the rest of it.
_EXTENSION = re.compile(rb"ext-[0-9]-[0-9A-Za-z_]")
# What Go calls space (unicode.IsSpace), which is less than what Python does.
_SPACE = (
    "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
    "\u2028\u2029\u202f\u205f\u3000"
)
# Every pointer has it, and so has what looks like one; to find it is quicker than to read a blob.
_MARK = b"version "
# One of the first lines, possibly behind what an editor or a failed merge put there.
_LOOKS = re.compile(
    rb"(?:\A|\n)(?:\xef\xbb\xbf)?[ \t]*version[ \t]+https?://\S*(?:git-media|hawser|git-lfs)"
)
_LOOKS_WITHIN = 128

# "BlobSizeCutoff": git-lfs neither sends nor fetches a file for a blob of 1024 bytes or more. Its
# smudge filter alone knows no such limit: of any file it takes the first 1024 bytes for one.
_MOST_BYTES = 1023
# A version line alone looks like a pointer; the shortest pointer has 114 bytes.
_LEAST_BYTES = len(b"version ") + min(map(len, _VERSIONS))
# This file is empty: nothing of it can be missing, and git-lfs does not ask for it either.
# Source: git-lfs 3.7, fs/fs.go (ObjectExists, EmptyObjectSHA256).
_EMPTY = hashlib.sha256().hexdigest()
_AT_ONCE = 256
_READ_BYTES = 1 << 18


@dataclass(frozen=True, slots=True, order=True)
class Pointer:
    """A file that Git LFS keeps.

    Attributes:
        oid: SHA-256 of its content.
        size_bytes: as the pointer says.
    """

    oid: str
    size_bytes: int


@dataclass(frozen=True, slots=True)
class LookAlikes:
    """Blobs below the cutoff with the version line of a pointer that git-lfs does not read as one.

    Attributes:
        count: the number of them.
        first: the id of one; empty where there is none.
    """

    count: int = 0
    first: str = ""

    def __add__(self, other: "LookAlikes") -> "LookAlikes":
        return LookAlikes(self.count + other.count, self.first or other.first)


@dataclass(frozen=True, slots=True)
class PointersFound:
    """What a search found.

    Attributes:
        pointers: by id and size; a file once for each size that pointers give it.
        look_alikes: what is not among them.
    """

    pointers: tuple[Pointer, ...]
    look_alikes: LookAlikes


NO_LOOK_ALIKES = LookAlikes()


def parse_pointer(content: bytes) -> Pointer | None:
    """Read a blob as git-lfs reads it; None where it is no pointer.

    Space around it is trimmed, lines may end in CRLF, empty lines do not count. The three keys must
    come in their order; lines of extensions may stand anywhere before the last of them.
    """
    if len(content) > _MOST_BYTES or _MARK not in content:
        return None
    values: dict[bytes, bytes] = {}
    extensions: dict[bytes, bytes] = {}
    for each in _trimmed(content).split(b"\n"):
        line = each.removesuffix(b"\r")
        if not line:
            continue
        key, space, value = line.partition(b" ")
        if not space or len(values) == len(_KEYS):
            return None
        if key == _KEYS[len(values)]:
            values[key] = value
        elif _EXTENSION.match(key):
            # Of a key that is there twice the last value counts.
            extensions[key] = value
        else:
            return None
    if values.get(b"version") not in _VERSIONS or not _are_extensions(extensions):
        return None
    oid, size = _OID.fullmatch(values.get(b"oid", b"")), _SIZE.fullmatch(values.get(b"size", b""))
    if oid is None or size is None or not 0 <= int(size[0]) <= _MOST_SIZE:
        return None
    return Pointer(oid[1].decode(), int(size[0]))


def looks_like_a_pointer(content: bytes) -> bool:
    """Return whether one of a blob's first lines is the version line of a pointer."""
    return _MARK in content and _LOOKS.search(content, 0, _LOOKS_WITHIN) is not None


def _trimmed(content: bytes) -> bytes:
    text = content.decode("utf-8", "surrogateescape")
    return text.strip(_SPACE).encode("utf-8", "surrogateescape")


def _are_extensions(extensions: dict[bytes, bytes]) -> bool:
    priorities = {key.split(b"-")[1] for key in extensions}
    return len(priorities) == len(extensions) and all(map(_OID.fullmatch, extensions.values()))


def find_pointers(
    repository: Path,
    *,
    stop: Stop,
    kinds: MutableMapping[ObjectId, str] | None = None,
    lists: MutableMapping[bytes, bytearray] | None = None,
) -> PointersFound:
    """Read all pointers in a repository's packs, and count what only looks like one.

    Those to the empty file are left out: nothing need be had for them.

    Memory grows with the number of files that pointers name, and of sizes that they give them, and
    with nothing else.

    Args:
        repository: a bare one that holds the packs, and not necessarily what they build on.
        stop: ends it.
        kinds: has the objects whose types are asked for as keys, and gets their types, which cost
            nothing here; those that are not there keep what they have.
        lists: for each type that is a key, takes the ids of that type's objects, one behind
            another.

    Raises:
        GitHindered: the machine kept git from its work.
        MachineLimitReached: there was too little of it for git.
        MalformedPack: git cannot read the packs.
    """
    # Anybody can commit one with another size; which is right, the file's source knows.
    found: set[Pointer] = set()
    look_alikes = NO_LOOK_ALIKES
    candidates = _small_blobs(
        repository, stop, {} if kinds is None else kinds, {} if lists is None else lists
    )
    with ObjectReader(repository, stop) as objects:
        while some := [*islice(candidates, _AT_ONCE)]:
            for oid, blob in zip(some, objects.read(some), strict=True):
                content = b"" if blob is None else blob[1]
                pointer = parse_pointer(content)
                if pointer is not None:
                    if pointer.oid != _EMPTY:
                        found.add(pointer)
                elif looks_like_a_pointer(content):
                    look_alikes += LookAlikes(1, oid)
    return PointersFound(tuple(sorted(found)), look_alikes)


def _small_blobs(
    repository: Path,
    stop: Stop,
    kinds: MutableMapping[ObjectId, str],
    lists: MutableMapping[bytes, bytearray],
) -> Iterator[str]:
    """Yield the ids of blobs that may be pointers, in the order in which packs hold them."""
    # Where git is quicker than any wait for it, nothing else would look.
    stop.check()
    asked = {oid.encode(): oid for oid in kinds}
    shape = "--batch-check=%(objectname) %(objecttype) %(objectsize)"
    with Child(
        ["git", "-C", repository, "cat-file", "--batch-all-objects", "--unordered", shape],
        environment=clean_environment(safe_directories=[repository]),
        stop=stop,
        patience_seconds=PATIENCE_SECONDS,
    ) as child:
        child.close_stdin()
        rest = b""
        while data := child.read(_READ_BYTES):
            stop.check()
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                oid, kind, size = line.split(b" ")
                if oid in asked:
                    kinds[asked[oid]] = kind.decode()
                if kind == b"blob":
                    if _LEAST_BYTES <= int(size) <= _MOST_BYTES:
                        yield oid.decode()
                elif kind in lists:
                    lists[kind] += bytes.fromhex(oid.decode())
        if child.wait() != 0 or rest:
            require_unhindered("cat-file", child.wait(), child.words())
            raise MalformedPack(f"git cat-file cannot read the pack: {child.words()}")
