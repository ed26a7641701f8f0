"""What is counted, and what is not."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from backup.counting import RequestCounts
from backup.destinations.counting import CountingDestination
from backup.destinations.memory import MemoryDestination
from backup.errors import ObjectNotFound, WriteConflict
from backup.model import Key

KEY = Key("folder/object")


@pytest.fixture
def counts() -> RequestCounts:
    return RequestCounts()


@pytest.fixture
def destination(counts: RequestCounts) -> CountingDestination:
    return CountingDestination(MemoryDestination(), counts)


def test_every_request_is_counted_by_what_it_asks(
    destination: CountingDestination, counts: RequestCounts
) -> None:
    with destination.writer(KEY) as writer:
        writer.write(b"12345")
        writer.commit()
    destination.put_if_absent(Key("other"), b"123")
    destination.open(KEY).close()
    destination.stat(KEY)
    list(destination.list(""))
    destination.children("")
    destination.delete([KEY, Key("other")])

    assert counts.snapshot() == {"delete": 1, "get": 2, "list": 2, "put": 2}
    assert (destination.objects_written, destination.bytes_uploaded) == (2, 8)


def test_only_committed_objects_count_as_written(
    destination: CountingDestination, counts: RequestCounts
) -> None:
    with destination.writer(KEY) as writer:
        writer.write(b"aborted")

    assert (destination.objects_written, destination.bytes_uploaded) == (0, 0)
    assert counts.snapshot() == {}


def test_a_refused_request_counts_and_writes_nothing(
    destination: CountingDestination, counts: RequestCounts
) -> None:
    destination.put_if_absent(KEY, b"first")

    with pytest.raises(WriteConflict):
        destination.put_if_absent(KEY, b"second")
    with destination.writer(KEY) as writer, pytest.raises(WriteConflict):
        writer.commit()
    with pytest.raises(ObjectNotFound):
        destination.stat(Key("missing"))

    assert counts.snapshot() == {"get": 1, "put": 3}
    assert (destination.objects_written, destination.bytes_uploaded) == (1, 5)


def test_counts_are_shared_with_others(
    destination: CountingDestination, counts: RequestCounts
) -> None:
    counts.increment("git", 2)
    before = counts.snapshot()
    destination.put_if_absent(KEY, b"")

    assert before == {"git": 2}
    assert counts.snapshot() == {"git": 2, "put": 1}


def test_no_count_is_lost_between_threads(
    destination: CountingDestination, counts: RequestCounts
) -> None:
    def put(number: int) -> None:
        for turn in range(50):
            destination.put_if_absent(Key(f"{number}/{turn}"), b"xy")

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(put, range(8)))

    assert counts.snapshot() == {"put": 400}
    assert (destination.objects_written, destination.bytes_uploaded) == (400, 800)
