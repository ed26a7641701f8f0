"""Finding the pointers of Git LFS in a pack: small files that name large ones kept elsewhere.

A pointer names its file by SHA-256. It is a blob like any other, so every blob that is small enough
is read; packs that stand alone can be read without what they build on.
Source: git-lfs, "Git LFS Specification", "The Pointer" (docs/spec.md).
"""

import re
from collections.abc import Iterator, MutableMapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from backup.errors import MalformedPack
from backup.git.child import Child
from backup.git.command import PATIENCE_SECONDS, clean_environment
from backup.git.objects import ObjectReader
from backup.model import ObjectId
from backup.stopping import Stop

# "Pointer files must be less than 1024 bytes"; the shortest are of the oldest version, with one
# digit of size.
_MOST_BYTES = 1023
_LEAST_BYTES = 114
_AT_ONCE = 256
_READ_BYTES = 1 << 18
# The first two versions were those of its beginnings, under another name.
_POINTER = re.compile(
    rb"version (?:https://git-lfs\.github\.com/spec/v1|https://hawser\.github\.com/spec/v1"
    rb"|http://git-media\.io/v/2)\n"
    rb"(?:ext-\d-[^\n]{1,200}\n){0,10}"
    rb"oid sha256:(?P<oid>[0-9a-f]{64})\n"
    rb"size (?P<size>\d{1,19})\n?"
)


@dataclass(frozen=True, slots=True, order=True)
class Pointer:
    """A file that Git LFS keeps.

    Attributes:
        oid: SHA-256 of its content.
        size_bytes: as the pointer says.
    """

    oid: str
    size_bytes: int


def parse_pointer(content: bytes) -> Pointer | None:
    """Read a blob as a pointer; None where it is none."""
    found = _POINTER.fullmatch(content)
    return None if found is None else Pointer(found["oid"].decode(), int(found["size"]))


def find_pointers(
    repository: Path,
    *,
    stop: Stop,
    kinds: MutableMapping[ObjectId, str] | None = None,
    lists: MutableMapping[bytes, bytearray] | None = None,
) -> tuple[Pointer, ...]:
    """Read all pointers in a repository's packs: each file once, with the largest size said of it.

    Memory grows with the number of files that pointers name, and with nothing else.

    Args:
        repository: a bare one that holds the packs, and not necessarily what they build on.
        stop: ends it.
        kinds: has the objects whose types are asked for as keys, and gets their types, which cost
            nothing here; those that are not there keep what they have.
        lists: for each type that is a key, takes the ids of that type's objects, one behind
            another.

    Raises:
        MalformedPack: git cannot read the packs.
    """
    found: dict[str, int] = {}
    candidates = _small_blobs(
        repository, stop, {} if kinds is None else kinds, {} if lists is None else lists
    )
    with ObjectReader(repository, stop) as objects:
        while some := [*islice(candidates, _AT_ONCE)]:
            for blob in objects.read(some):
                pointer = None if blob is None else parse_pointer(blob[1])
                if pointer is not None:
                    # Anybody can commit one with another size.
                    found[pointer.oid] = max(pointer.size_bytes, found.get(pointer.oid, 0))
    return tuple(Pointer(oid, size_bytes) for oid, size_bytes in sorted(found.items()))


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
            raise MalformedPack(f"git cat-file cannot read the pack: {child.words()}")
