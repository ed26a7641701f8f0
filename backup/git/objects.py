"""Reads objects out of a repository, by one long-lived ``git cat-file --batch``."""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from backup.errors import MalformedPack
from backup.git.child import Child
from backup.git.command import PATIENCE_SECONDS, clean_environment, require_unhindered
from backup.stopping import Stop

_READ_BYTES = 1 << 16
# Anything else is a name to git: of a ref, of a revision, or the beginning of an id.
_ID = re.compile(r"[0-9a-f]{40}|[0-9a-f]{64}")


class ObjectReader:
    """Reads objects by their ids. Used by one thread; git is started when the first is asked for.

    Args:
        repository: a bare one.
        stop: ends every wait.
    """

    def __init__(self, repository: Path, stop: Stop) -> None:
        self._repository = repository
        self._stop = stop
        self._child: Child | None = None
        self._buffer = b""

    def read(
        self, ids: Sequence[str], *, most: int | None = None
    ) -> Iterator[tuple[str, bytes] | None]:
        """Yield type and content of each object, in the order of the ids; None for a missing one.

        Args:
            ids: no more than fit into a pipe; some hundreds. What is not a whole id of this
                repository's format is missing: a commit can claim anything as its parent.
            most: give no more than so many bytes of each; None for all.

        Raises:
            MalformedPack: git cannot read what is there.
        """
        child = self._child = self._child or _cat_file(self._repository, self._stop)
        child.write("".join(f"{oid}\n" for oid in ids if _ID.fullmatch(oid)).encode())
        for oid in ids:
            yield self._answer(child, oid, most) if _ID.fullmatch(oid) else None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._child is not None:
            self._child.kill()

    def _answer(self, child: Child, oid: str, most: int | None) -> tuple[str, bytes] | None:
        named, kind, *size = self._line(child).decode().split(" ")
        if not size:
            return None
        content = self._content(child, int(size[0]), most)
        # In a repository of SHA-256 an id of SHA-1's length is the beginning of one.
        return (kind, content) if named == oid else None

    def _line(self, child: Child) -> bytes:
        while (end := self._buffer.find(b"\n")) < 0:
            self._more(child)
        line, self._buffer = self._buffer[:end], self._buffer[end + 1 :]
        return line

    def _content(self, child: Child, size: int, most: int | None) -> bytes:
        content = self._exactly(child, size if most is None else min(size, most))
        self._skip(child, size + 1 - len(content))
        return content

    def _exactly(self, child: Child, size: int) -> bytes:
        """Take so many bytes, however many pieces they come in; the cost grows with them alone."""
        pieces, missing = [self._buffer[:size]], size - len(self._buffer)
        self._buffer = self._buffer[size:]
        while missing > 0:
            data = self._piece(child)
            pieces.append(data[:missing])
            self._buffer = data[missing:]
            missing -= len(data)
        return b"".join(pieces)

    def _skip(self, child: Child, size: int) -> None:
        """Pass over so many bytes, of which none is kept."""
        while size > len(self._buffer):
            size -= len(self._buffer)
            self._buffer = self._piece(child)
        self._buffer = self._buffer[size:]

    def _more(self, child: Child) -> None:
        self._buffer += self._piece(child)

    def _piece(self, child: Child) -> bytes:
        data = child.read(_READ_BYTES)
        if not data:
            require_unhindered("cat-file", child.wait(), child.words())
            raise MalformedPack(f"git cat-file ended early: {child.words()}")
        return data


def _cat_file(repository: Path, stop: Stop) -> Child:
    return Child(
        ["git", "-C", repository, "cat-file", "--batch"],
        environment=clean_environment(safe_directories=[repository]),
        stop=stop,
        patience_seconds=PATIENCE_SECONDS,
    )
