"""Reading one object: exact counts, and going on where the connection broke off."""

from types import TracebackType
from typing import Any, Self

from backup.destinations.s3.bucket import Answer, Bucket, version_of
from backup.destinations.s3.failures import BeyondTheEnd
from backup.errors import DestinationError, DestinationUnreachable, WriteConflict
from backup.model import Key

_BLOCK_BYTES = 1 << 20
_RESUMES = 5
_FIRST_PAUSE_SECONDS = 0.5


class S3Reader:
    """One object being read; see `backup.model.Reader`.

    A connection that breaks is made again from the byte that it broke at, and only as long as the
    object is still the same (``If-Match``). The tries count anew whenever bytes have come.

    Attributes:
        size_bytes: the whole object's size.
        version_id: of the object that is read, where the store has versions.
    """

    def __init__(
        self, bucket: Bucket, key: Key, *, offset: int, version: str | None = None
    ) -> None:
        self._bucket = bucket
        self._key = key
        self._version = version
        self._position = offset
        self._etag: str | None = None
        self._body: Any = None
        self._rest = memoryview(b"")
        self._resumes = 0
        self.size_bytes = 0
        self.version_id: str | None = None
        self._connect()

    def read(self, size: int = -1, /) -> bytes:
        left = self.size_bytes - self._position
        wanted = left if size < 0 else min(size, left)
        taken = bytearray()
        while len(taken) < wanted:
            if not self._rest:
                self._rest = memoryview(self._next_block())
            piece = self._rest[: wanted - len(taken)]
            self._rest = self._rest[len(piece) :]
            self._position += len(piece)
            taken += piece
        return bytes(taken)

    def close(self) -> None:
        if self._body is not None:
            self._body.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        self.close()

    def _next_block(self) -> bytes:
        while True:
            try:
                block = self._receive()
            except DestinationUnreachable:
                self.close()
                self._body = None
                if self._resumes == _RESUMES:
                    raise
                self._bucket.stop.sleep(_FIRST_PAUSE_SECONDS * 2**self._resumes)
                self._resumes += 1
            else:
                self._resumes = 0
                return block

    def _receive(self) -> bytes:
        if self._body is None:
            self._connect()
        body = self._body
        block = self._bucket.wait(self._bucket.aside(lambda: body.read(_BLOCK_BYTES)), self._key)
        if not block:
            uri = self._bucket.uri(self._key)
            raise DestinationUnreachable(f"{uri} broke off at byte {self._position}")
        return bytes(block)

    def _connect(self) -> None:
        parameters: Answer = {"Key": self._bucket.name(self._key)}
        if self._position:
            parameters["Range"] = f"bytes={self._position}-"
        if self._version is not None:
            parameters["VersionId"] = self._version
        if self._etag is not None:
            parameters["IfMatch"] = self._etag
        uri = self._bucket.uri(self._key)
        try:
            answer = self._bucket.ask("get_object", self._key, **parameters)
        except BeyondTheEnd:
            self._begin_beyond_the_end()
            return
        except WriteConflict as error:
            raise DestinationError(f"{uri} was changed while it was read") from error
        self._body = answer["Body"]
        begin, size_bytes = self._range_of(answer)
        if begin != self._position:
            self.close()
            raise DestinationError(
                f"{uri}: the store gave bytes from {begin} on instead of those "
                f"from {self._position} on"
            )
        if self._etag is not None and size_bytes != self.size_bytes:
            raise DestinationError(f"{uri} was changed while it was read")
        self.size_bytes = size_bytes
        self._etag = answer.get("ETag")
        self.version_id = version_of(answer)

    def _size_by_head(self) -> int:
        more = {} if self._version is None else {"VersionId": self._version}
        name = self._bucket.name(self._key)
        answer = self._bucket.ask("head_object", self._key, Key=name, **more)
        length = answer.get("ContentLength")
        if length is None:
            uri = self._bucket.uri(self._key)
            raise DestinationError(f"{uri}: the store does not say how long the object is")
        return int(length)

    def _range_of(self, answer: Answer) -> tuple[int, int]:
        """Tell where the answer's bytes begin, and how long the whole object is."""
        # Source: RFC 9110, section 14.4: bytes FIRST-LAST/SIZE.
        text = str(answer.get("ContentRange") or "")
        span, _, size = text.removeprefix("bytes ").partition("/")
        begin = int(span.partition("-")[0]) if text else 0
        if size.isdigit():
            return begin, int(size)
        # Behind some proxies a body has chunks in place of a length.
        length = answer.get("ContentLength")
        return begin, begin + int(length) if length is not None else self._size_by_head()

    def _begin_beyond_the_end(self) -> None:
        self.size_bytes = self._size_by_head()
        if self.size_bytes != self._position:
            raise DestinationError(
                f"{self._bucket.uri(self._key)} ends at byte {self.size_bytes}, "
                f"before {self._position}"
            )
