r"""The bundle header codec. A bundle is this header and then one pack.

::

    # v2 git bundle\n                    version 3 for SHA-256 repositories
    @object-format=sha256\n              version 3 only
    -<id> <comment>\n                    each prerequisite: a commit the reader must have
    <id> <ref name>\n                    each ref the bundle gives
    \n
    PACK...

Source: gitformat-bundle(5). A bundle with prerequisites may hold a thin pack; ours never do.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from backup.errors import DamagedDocument
from backup.model import ID_LENGTH, ObjectFormat, ObjectId, RefName
from backup.refs import to_bytes, to_name

_SIGNATURES = {2: b"# v2 git bundle\n", 3: b"# v3 git bundle\n"}
_LINE = re.compile(rb"(-?)([0-9a-f]+)(?: (.*))?", re.DOTALL)
_MAX_LINE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class BundleHeader:
    """What stands before the pack.

    Attributes:
        prerequisites: commits that must exist where the bundle is applied.
        refs: full names, and ``HEAD`` where it resolves, each with its id; in the order written.
    """

    refs: tuple[tuple[RefName, ObjectId], ...]
    prerequisites: tuple[ObjectId, ...] = ()
    object_format: ObjectFormat = "sha1"

    def encode(self) -> bytes:
        """Write the header; the pack's bytes follow directly.

        SHA-1 repositories get version 2, which every git since 2006 reads; git itself chooses so.
        """
        lines = [_SIGNATURES[2 if self.object_format == "sha1" else 3]]
        if self.object_format != "sha1":
            lines.append(b"@object-format=%b\n" % self.object_format.encode())
        lines += [b"-%b \n" % oid.encode() for oid in self.prerequisites]
        lines += [b"%b %b\n" % (oid.encode(), to_bytes(name)) for name, oid in self.refs]
        lines.append(b"\n")
        return b"".join(lines)


def read_header(read: Callable[[int], bytes]) -> tuple[BundleHeader, bytes]:
    """Read a header from a stream.

    Args:
        read: gives at most the asked number of bytes, an empty answer at the end only.

    Returns:
        The header, and the bytes after it that were read already: the pack's beginning.

    Raises:
        DamagedDocument: it is no bundle, or one with features this program does not know.
    """
    lines = _Lines(read)
    signature = lines.next() + b"\n"
    version = next((number for number, text in _SIGNATURES.items() if text == signature), None)
    if version is None:
        raise DamagedDocument("the object is no git bundle")
    object_format: ObjectFormat = "sha1"
    prerequisites: list[ObjectId] = []
    refs: list[tuple[RefName, ObjectId]] = []
    while line := lines.next():
        if version == 3 and line.startswith(b"@"):
            object_format = _object_format(line)
            continue
        found = _LINE.fullmatch(line)
        if found is None or len(found[2]) != ID_LENGTH[object_format]:
            raise DamagedDocument("the bundle's header has a line that is none")
        oid = ObjectId(found[2].decode())
        if found[1]:
            prerequisites.append(oid)
        elif found[3]:
            refs.append((to_name(found[3]), oid))
        else:
            raise DamagedDocument("the bundle's header has a ref without a name")
    return BundleHeader(tuple(refs), tuple(prerequisites), object_format), lines.rest


def _object_format(line: bytes) -> ObjectFormat:
    match line:
        case b"@object-format=sha1":
            return "sha1"
        case b"@object-format=sha256":
            return "sha256"
        case _:
            raise DamagedDocument(f"the bundle needs {line.decode('utf-8', 'replace')!r}")


class _Lines:
    def __init__(self, read: Callable[[int], bytes]) -> None:
        self._read = read
        self.rest = b""

    def next(self) -> bytes:
        while (end := self.rest.find(b"\n")) < 0:
            if len(self.rest) > _MAX_LINE_BYTES:
                raise DamagedDocument("the bundle's header has an endless line")
            data = self._read(_MAX_LINE_BYTES)
            if not data:
                raise DamagedDocument("the bundle ended within its header")
            self.rest += data
        line, self.rest = self.rest[:end], self.rest[end + 1 :]
        return line
