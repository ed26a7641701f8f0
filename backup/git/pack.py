"""A pack on its way through: counted, hashed, and refused when it is cut or altered.

A pack is ``PACK``, a version and an object count of four bytes each, the objects, and a trailer:
the hash of all bytes before it. Source: gitformat-pack(5).
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from backup.errors import MalformedPack, TruncatedPack
from backup.model import ObjectFormat

HASHES: dict[ObjectFormat, Callable[[], "hashlib._Hash"]] = {
    "sha1": lambda: hashlib.sha1(usedforsecurity=False),
    "sha256": hashlib.sha256,
}
_HEADER_BYTES = 12


@dataclass(frozen=True, slots=True)
class PackSummary:
    """A whole pack that passed.

    Attributes:
        objects: as the header says; counted by nobody unless the pack is indexed.
    """

    objects: int
    size_bytes: int


def empty_pack(object_format: ObjectFormat) -> bytes:
    """Make the pack of no objects: 32 bytes for SHA-1, 44 for SHA-256."""
    header = b"PACK" + (2).to_bytes(4, "big") + (0).to_bytes(4, "big")
    digest = HASHES[object_format]()
    digest.update(header)
    return header + digest.digest()


class PackMeter:
    """Sees every byte of one pack and says at the end whether it was whole.

    The trailer is only known to be the trailer when the stream ends, so as many bytes as it has
    are always kept back from the hash. Memory: those bytes.
    """

    def __init__(self, object_format: ObjectFormat) -> None:
        self._digest = HASHES[object_format]()
        self._trailer_bytes = self._digest.digest_size
        self._header = b""
        self._kept = b""
        self._size_bytes = 0

    @property
    def size_bytes(self) -> int:
        """How much has come so far."""
        return self._size_bytes

    def update(self, data: bytes) -> None:
        """Take the next bytes.

        Raises:
            MalformedPack: the stream does not begin like a pack.
        """
        self._size_bytes += len(data)
        if len(self._header) < _HEADER_BYTES:
            self._header += data[: _HEADER_BYTES - len(self._header)]
            self._check_header()
        if len(data) >= self._trailer_bytes:
            self._digest.update(self._kept)
            self._digest.update(memoryview(data)[: -self._trailer_bytes])
            self._kept = data[-self._trailer_bytes :]
        else:
            joined = self._kept + data
            cut = max(0, len(joined) - self._trailer_bytes)
            self._digest.update(joined[:cut])
            self._kept = joined[cut:]

    def finish(self) -> PackSummary:
        """Say that no more comes.

        Raises:
            TruncatedPack: too short to be a pack.
            MalformedPack: the trailer does not agree with the bytes.
        """
        if self._size_bytes < _HEADER_BYTES + self._trailer_bytes:
            raise TruncatedPack(
                f"the pack ended after {self._size_bytes} bytes", received_bytes=self._size_bytes
            )
        if self._digest.digest() != self._kept:
            raise MalformedPack(
                f"the pack of {self._size_bytes} bytes does not agree with its own checksum"
            )
        return PackSummary(int.from_bytes(self._header[8:12], "big"), self._size_bytes)

    def _check_header(self) -> None:
        if not b"PACK".startswith(self._header[:4]):
            raise MalformedPack("the server sent something that is no pack")
        if len(self._header) == _HEADER_BYTES:
            version = int.from_bytes(self._header[4:8], "big")
            if version not in {2, 3}:
                raise MalformedPack(f"the server sent a pack of version {version}")
