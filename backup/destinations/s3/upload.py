"""Writing one object: in parts, of which nothing is seen before the commit.

An object that fits into the first part is one PutObject. Otherwise parts are uploaded while the
next one is filled. A store takes 10,000 parts; since nobody knows how long a stream is, parts grow:
the first 2,000 have 8 MiB each, the next 2,000 twice as much, and so on, up to 484 GiB.

Memory of one writer: (`PARTS_IN_FLIGHT` + 1) times the part's size.
"""

import hashlib
from collections import deque
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from types import TracebackType
from typing import Self

from backup.destinations.s3.bucket import Answer, Bucket, version_of
from backup.destinations.s3.failures import NotSupported, UnequalParts, UploadGone
from backup.destinations.s3.reading import S3Reader
from backup.destinations.s3.settings import PARTS_IN_FLIGHT
from backup.errors import (
    BackupError,
    DestinationError,
    DestinationUnreachable,
    IncompleteWrite,
    ObjectNotFound,
    WriteConflict,
)
from backup.model import Key, StoredObject

FIRST_PART_BYTES = 8 << 20
EQUAL_PART_BYTES = 64 << 20
MOST_PARTS = 10_000
_PARTS_OF_A_SIZE = 2_000
_READ_BYTES = 1 << 20
_ABORT_SECONDS = 5.0


def part_bytes(number: int, *, equal: bool) -> int:
    """Tell how long an upload's part is, from number 1 on; the last one may be shorter."""
    if equal:
        return EQUAL_PART_BYTES
    return FIRST_PART_BYTES << ((number - 1) // _PARTS_OF_A_SIZE)


class S3Writer:
    """One object on its way; see `backup.model.Writer`."""

    def __init__(self, bucket: Bucket, key: Key) -> None:
        self._bucket = bucket
        self._key = key
        self._equal = bucket.wants_equal_parts
        self._filling = bytearray()
        self._sent_bytes = 0
        self._upload_id: str | None = None
        self._in_flight: deque[tuple[int, Future[Answer]]] = deque()
        self._parts: list[Answer] = []
        self._begun = 0
        self._failure: BackupError | None = None
        self._finished = False
        self._retain_until: datetime | None = None

    def write(self, data: bytes | bytearray | memoryview, /) -> None:
        self._require_unfinished()
        rest = memoryview(data).cast("B")
        while rest:
            room = part_bytes(self._begun + 1, equal=self._equal) - len(self._filling)
            if not room:
                # Only now is it known that the object does not end here.
                self._send_part_or_fail()
                continue
            self._filling += rest[:room]
            rest = rest[room:]

    def commit(self, *, sha256: str | None = None) -> StoredObject:
        self._require_unfinished()
        size_bytes = self._sent_bytes + len(self._filling)
        try:
            if self._upload_id is None:
                stored = put(self._bucket, self._key, self._filling, is_bundle=True, sha256=sha256)
            else:
                self._send_part()
                while self._in_flight:
                    self._collect()
                stored = self._complete(size_bytes, sha256)
        except DestinationError as error:
            raise _as_write_failure(error) from error
        finally:
            self.abort()
        return stored

    def abort(self) -> None:
        if self._finished:
            return
        self._finished = True
        self._filling = bytearray()
        upload_id, self._upload_id = self._upload_id, None
        if upload_id is None:
            return
        with suppress(Exception):
            self._abort(upload_id)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        self.abort()

    def _require_unfinished(self) -> None:
        if self._failure is not None:
            raise type(self._failure)(self._failure.message, hint=self._failure.hint)
        if self._finished:
            raise ValueError(f"the writer of {self._bucket.uri(self._key)} is finished")

    def _send_part_or_fail(self) -> None:
        try:
            self._send_part()
        except DestinationError as error:
            self.abort()
            self._failure = _as_write_failure(error)
            raise self._failure from error

    def _send_part(self) -> None:
        """Send what is filled on its way, and wait where too many parts are."""
        if self._upload_id is None:
            self._begin()
        while len(self._in_flight) >= PARTS_IN_FLIGHT:
            self._collect()
        if self._begun == MOST_PARTS:
            raise DestinationError(
                f"{self._bucket.uri(self._key)} is longer than a store takes: "
                f"{self._sent_bytes} bytes in {MOST_PARTS} parts"
            )
        self._begun += 1
        body, self._filling = self._filling, bytearray()
        self._sent_bytes += len(body)
        future = self._bucket.begin(
            "upload_part",
            self._key,
            Key=self._bucket.name(self._key),
            UploadId=self._upload_id,
            PartNumber=self._begun,
            Body=body,
        )
        self._in_flight.append((self._begun, future))

    def _begin(self) -> None:
        answer, self._retain_until = _begin_upload(self._bucket, self._key)
        self._upload_id = str(answer["UploadId"])
        self._bucket.require_encryption(answer, self._key)

    def _collect(self) -> None:
        """Wait for the part that was sent first."""
        number, future = self._in_flight[0]
        answer = self._bucket.wait(future, self._key, obey=True)
        self._in_flight.popleft()
        part: Answer = {"PartNumber": number, "ETag": answer["ETag"]}
        if self._bucket.is_aws and "ChecksumCRC32" in answer:
            part["ChecksumCRC32"] = answer["ChecksumCRC32"]
        self._parts.append(part)

    def _complete(self, size_bytes: int, sha256: str | None) -> StoredObject:
        bucket, key = self._bucket, self._key
        known = _Known(size_bytes, sha256)
        if (present := _present(bucket, key, known)) is not None:
            return present
        while True:
            conditions = {"IfNoneMatch": "*"} if bucket.takes_conditions else {}
            try:
                answer = bucket.ask(
                    "complete_multipart_upload",
                    key,
                    Key=bucket.name(key),
                    UploadId=self._upload_id,
                    MultipartUpload={"Parts": self._parts},
                    **conditions,
                )
            except NotSupported:
                if not conditions:
                    raise
                bucket.takes_conditions = False
            except UnequalParts as error:
                if self._equal or self._begun < _PARTS_OF_A_SIZE:
                    raise
                bucket.wants_equal_parts = True
                raise IncompleteWrite(
                    f"{error.message}; the next try has parts of equal size"
                ) from error
            except (WriteConflict, UploadGone, DestinationUnreachable) as error:
                return resolve(bucket, key, known, error)
            else:
                self._upload_id = None
                version = version_of(answer)
                return StoredObject(key, size_bytes, version, self._locked_until(version))

    def _locked_until(self, version: str | None) -> datetime | None:
        """See that the object has the lock that its upload began with, or lock it now.

        Ceph 16 forgets it when the parts are joined.
        """
        if self._retain_until is None:
            return None
        bucket, key = self._bucket, self._key
        more = {} if version is None else {"VersionId": version}
        # Where neither can be had, the run finds no lock noted, and tries again for itself.
        with suppress(DestinationError):
            head = bucket.ask("head_object", key, Key=bucket.name(key), **more)
            if head.get("ObjectLockRetainUntilDate") is not None:
                return self._retain_until
            return bucket.lock(key, version=version)
        return None

    def _abort(self, upload_id: str) -> None:
        futures = [future for _, future in self._in_flight]
        # A part that arrives after the abort would stay.
        patience_seconds = 1.0 if self._bucket.stop.interrupted else _ABORT_SECONDS
        wait_for(futures, patience_seconds)
        # Where it takes longer, it goes on without us.
        self._bucket.begin(
            "abort_multipart_upload",
            self._key,
            Key=self._bucket.name(self._key),
            UploadId=upload_id,
        ).result(patience_seconds)


def _begin_upload(bucket: Bucket, key: Key) -> tuple[Answer, datetime | None]:
    """Begin an upload as bundles are kept; return the answer, and how long they are locked."""
    parameters = bucket.keeping(is_bundle=True)
    until: datetime | None = parameters.get("ObjectLockRetainUntilDate")
    if bucket.is_aws:
        parameters["ChecksumAlgorithm"] = "CRC32"
    future = bucket.begin("create_multipart_upload", key, Key=bucket.name(key), **parameters)
    return bucket.wait(future, key, obey=True), until


def probe(bucket: Bucket, key: Key) -> str:
    """Prove that an upload can be begun as those of bundles are, and abort it: two requests.

    Returns:
        What people should know all the same, in one line; empty as a rule.

    Raises:
        BackupError: it cannot be begun.
    """
    try:
        answer, _ = _begin_upload(bucket, key)
    except NotSupported as error:
        return (
            f"objects of more than {FIRST_PART_BYTES >> 20} MiB cannot be stored: {error.message}"
        )
    try:
        bucket.require_encryption(answer, key)
    finally:
        problem = _why_not_aborted(bucket, key, str(answer["UploadId"]))
    return problem


def _why_not_aborted(bucket: Bucket, key: Key, upload_id: str) -> str:
    try:
        bucket.ask("abort_multipart_upload", key, Key=bucket.name(key), UploadId=upload_id)
    except (UploadGone, ObjectNotFound):
        return ""
    except DestinationError as error:
        hint = f" ({error.hint})" if error.hint else ""
        return f"uploads that break off stay, and their parts cost: {error.message}{hint}"
    return ""


@dataclass(frozen=True, slots=True)
class _Known:
    """What an object must be to be the one that was written.

    Attributes:
        sha256: None when nobody can tell.
    """

    size_bytes: int
    sha256: str | None


def put(
    bucket: Bucket, key: Key, data: bytes | bytearray, *, is_bundle: bool, sha256: str | None
) -> StoredObject:
    """Store an object in one request, if the key is free.

    Args:
        bucket: where.
        key: of the object.
        data: all of it.
        is_bundle: whether it goes to the storage class that bundles have.
        sha256: of data. An object that is there already and has it is success; None never finds
            out.

    Raises:
        WriteConflict: another object has the key.
        DestinationError: it could not be stored.
    """
    known = _Known(len(data), sha256)
    if (present := _present(bucket, key, known)) is not None:
        return present
    while True:
        conditions = {"IfNoneMatch": "*"} if bucket.takes_conditions else {}
        kept = bucket.keeping(is_bundle=is_bundle)
        try:
            answer = bucket.ask(
                "put_object", key, Key=bucket.name(key), Body=data, **kept, **conditions
            )
        except NotSupported:
            if not conditions:
                raise
            bucket.takes_conditions = False
        except (WriteConflict, DestinationUnreachable) as error:
            return resolve(bucket, key, known, error)
        else:
            bucket.require_encryption(answer, key)
            until = kept.get("ObjectLockRetainUntilDate")
            return StoredObject(key, len(data), version_of(answer), until)


def resolve(bucket: Bucket, key: Key, known: _Known, error: DestinationError) -> StoredObject:
    """Find out whether the object that may be there is the one that was written.

    The answer to a request can be lost after the store did what it asked; repeated, the request is
    then refused. So what is stored is read back: equal size and SHA-256 is success.

    Raises:
        WriteConflict: another object has the key.
        DestinationError: the error given, when nothing is there, or nobody can tell.
    """
    if known.sha256 is None:
        raise error
    digest, size_bytes = hashlib.sha256(), 0
    try:
        with S3Reader(bucket, key, offset=0) as reader:
            while data := reader.read(_READ_BYTES):
                digest.update(data)
                size_bytes += len(data)
    except (ObjectNotFound, DestinationUnreachable):
        raise error from None
    if (size_bytes, digest.hexdigest()) == (known.size_bytes, known.sha256):
        return StoredObject(key, size_bytes, reader.version_id)
    raise WriteConflict(f"{bucket.uri(key)} exists with other content")


def _present(bucket: Bucket, key: Key, known: _Known) -> StoredObject | None:
    """Look whether a key is taken, at a store that might ignore the condition on a write."""
    if bucket.is_aws:
        return None
    try:
        bucket.ask("head_object", key, Key=bucket.name(key))
    except ObjectNotFound:
        return None
    return resolve(bucket, key, known, WriteConflict(f"{bucket.uri(key)} exists already"))


def _as_write_failure(error: DestinationError) -> DestinationError:
    """Say of what may pass that nothing was published; everything else keeps its name."""
    if isinstance(error, IncompleteWrite) or not error.retryable:
        return error
    return IncompleteWrite(error.message, hint=error.hint)
