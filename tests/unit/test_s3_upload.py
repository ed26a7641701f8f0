"""Uploads in parts, counted by a store that keeps nothing."""

import threading
from concurrent.futures import Future
from typing import Any

import pytest

from backup.destinations.s3 import upload
from backup.destinations.s3.bucket import Bucket
from backup.destinations.s3.settings import PARTS_IN_FLIGHT, S3Settings
from backup.destinations.s3.upload import (
    EQUAL_PART_BYTES,
    FIRST_PART_BYTES,
    MOST_PARTS,
    S3Writer,
    part_bytes,
)
from backup.errors import DestinationError
from backup.model import Key
from backup.stopping import Stop

GIBIBYTE = 1 << 30
KEY = Key("acme/repositories/widgets/1/one.full.bundle")


class DiscardingBucket(Bucket):
    """Answers as a store of AWS does, and counts what it is given."""

    def __init__(self) -> None:
        super().__init__(S3Settings(bucket="vault"), stop=Stop())
        self.operations: list[str] = []
        self.part_sizes: list[int] = []
        self.completed: list[int] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self.held_bytes = 0
        self.most_held_bytes = 0
        self.slow = threading.Event()
        self.slow.set()
        self._counting = threading.Lock()

    @property
    def is_aws(self) -> bool:
        return True

    def begin(self, operation: str, key: str, **parameters: Any) -> "Future[dict[str, Any]]":
        self.operations.append(operation)
        if operation == "upload_part":
            with self._counting:
                self.part_sizes.append(len(parameters["Body"]))
                self.in_flight += 1
                self.held_bytes += len(parameters["Body"])
                self.most_in_flight = max(self.most_in_flight, self.in_flight)
                self.most_held_bytes = max(self.most_held_bytes, self.held_bytes)
        return self.aside(lambda: self._answer(operation, parameters))

    def _answer(self, operation: str, parameters: dict[str, Any]) -> dict[str, Any]:
        if operation == "upload_part":
            self.slow.wait()
            with self._counting:
                self.in_flight -= 1
                self.held_bytes -= len(parameters["Body"])
            return {"ETag": f"{parameters['PartNumber']}", "ChecksumCRC32": "AAAA"}
        if operation == "complete_multipart_upload":
            self.completed = [part["PartNumber"] for part in parameters["MultipartUpload"]["Parts"]]
            return {"VersionId": "v1"}
        return {"UploadId": "1"} if operation == "create_multipart_upload" else {}


def write(bucket: Bucket, size_bytes: int, *, chunk_bytes: int = 16 << 20) -> Any:
    chunk = memoryview(bytes(chunk_bytes))
    with S3Writer(bucket, KEY) as writer:
        left = size_bytes
        while left:
            writer.write(chunk[: min(left, chunk_bytes)])
            left -= min(left, chunk_bytes)
        return writer.commit()


def test_parts_double_every_2000() -> None:
    assert [part_bytes(number, equal=False) >> 20 for number in (1, 2000, 2001, 4000, 4001)] == [
        8, 8, 16, 16, 32,
    ]  # fmt: skip
    assert part_bytes(MOST_PARTS, equal=False) == 128 << 20
    assert {part_bytes(number, equal=True) for number in (1, 5000, 10_000)} == {EQUAL_PART_BYTES}


def test_an_object_may_be_as_long_as_is_documented() -> None:
    longest = sum(part_bytes(number, equal=False) for number in range(1, MOST_PARTS + 1))
    assert longest // GIBIBYTE == 484
    assert MOST_PARTS * EQUAL_PART_BYTES // GIBIBYTE == 625


def test_a_stream_that_ends_beyond_78_gibibytes_is_stored(monkeypatch: pytest.MonkeyPatch) -> None:
    # At a scale of 1 to 1024; the number of parts is that of the full size, which
    # `python -m benchmarks.longest` writes over HTTP.
    monkeypatch.setattr(upload, "FIRST_PART_BYTES", FIRST_PART_BYTES // 1024)
    # So long is an object at most, when each part has the size of the first.
    assert MOST_PARTS * FIRST_PART_BYTES // GIBIBYTE == 78
    bucket = DiscardingBucket()
    size_bytes = (79 * GIBIBYTE + 12_345_678) // 1024
    stored = write(bucket, size_bytes)
    assert (stored.size_bytes, stored.version_id) == (size_bytes, "v1")
    assert sum(bucket.part_sizes) == size_bytes
    assert bucket.completed == [*range(1, len(bucket.part_sizes) + 1)]
    assert len(bucket.part_sizes) == 5029 < MOST_PARTS
    assert bucket.most_in_flight <= PARTS_IN_FLIGHT
    assert bucket.most_held_bytes <= PARTS_IN_FLIGHT * max(bucket.part_sizes)


def test_at_most_three_parts_are_in_flight_however_slow_the_store_is() -> None:
    bucket = DiscardingBucket()
    bucket.slow.clear()
    done = threading.Event()

    def work() -> None:
        write(bucket, 10 * FIRST_PART_BYTES)
        done.set()

    thread = threading.Thread(target=work)
    thread.start()
    assert not done.wait(0.5)
    assert len(bucket.part_sizes) == PARTS_IN_FLIGHT
    bucket.slow.set()
    thread.join(30)
    assert done.is_set()
    assert len(bucket.part_sizes) == 10


@pytest.mark.parametrize(
    ("size_bytes", "parts"),
    [(FIRST_PART_BYTES, 0), (FIRST_PART_BYTES + 1, 2), (2 * FIRST_PART_BYTES, 2)],
)
def test_nothing_is_begun_before_the_first_part_is_full(size_bytes: int, parts: int) -> None:
    bucket = DiscardingBucket()
    assert write(bucket, size_bytes).size_bytes == size_bytes
    assert len(bucket.part_sizes) == parts
    assert bucket.operations.count("put_object") == (0 if parts else 1)


def test_an_object_that_is_too_long_is_refused_and_aborted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(upload, "MOST_PARTS", 3)
    bucket = DiscardingBucket()
    writer = S3Writer(bucket, KEY)
    with pytest.raises(DestinationError, match="longer than a store takes") as caught:
        writer.write(bytes(5 * FIRST_PART_BYTES))
    assert not caught.value.retryable
    with pytest.raises(DestinationError, match="longer than a store takes"):
        writer.write(b"more")
    assert bucket.operations[-1] == "abort_multipart_upload"
    assert "complete_multipart_upload" not in bucket.operations
