"""What every destination promises, asked of each of them."""

import os
import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from threading import Barrier

import pytest
import requests

from backup.destinations.memory import MemoryDestination
from backup.errors import DestinationError, ObjectNotFound, WriteConflict
from backup.model import Destination, Key, StoredObject
from tests.contract.destination_contract import (
    IMPLEMENTATIONS,
    INEXACT,
    MEBIBYTE,
    in_chunks,
    keys_of,
    pattern,
    put,
    read,
)

KEY = Key("acme/repositories/widgets/1/one.full.bundle")
THREADS = 16

ODD_KEYS = [
    "a",
    "with space/ leading/trailing /x",
    "percent%2F/100%/%00",
    "-rf/--help/~",
    'quotes\'/"double"/`ticks`',
    "*/?/[a-z]/{b}/$HOME/;ls",
    "..a/a../...",
    "".join(chr(code) for code in range(0x20, 0x7F) if chr(code) not in "/\\"),
    "x" * 255,
    "/".join(["deep"] * 150),
]

NO_KEYS = [
    "",
    "/",
    "/absolute",
    "folder/",
    "two//slashes",
    ".",
    "..",
    "a/./b",
    "a/../b",
    "../outside",
    "back\\slash",
    "new\nline",
    "zero\0byte",
    "delete\x7f",
    "höhe",
    "half\udc80",
]


@pytest.fixture(params=list(IMPLEMENTATIONS.values()), ids=list(IMPLEMENTATIONS))
def destination(request: pytest.FixtureRequest) -> Destination:
    make: Callable[[pytest.FixtureRequest], Destination] = request.param
    return make(request)


EXACT = {name: make for name, make in IMPLEMENTATIONS.items() if name not in INEXACT}


@pytest.fixture(params=list(EXACT.values()), ids=list(EXACT))
def exact_destination(request: pytest.FixtureRequest) -> Destination:
    make: Callable[[pytest.FixtureRequest], Destination] = request.param
    return make(request)


def in_threads(work: Callable[[int], StoredObject]) -> list[StoredObject | DestinationError]:
    """Run work in many threads at the same moment and return what each of them met."""
    together = Barrier(THREADS)

    def meet(number: int) -> StoredObject | DestinationError:
        together.wait()
        try:
            return work(number)
        except DestinationError as error:
            return error

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(meet, range(THREADS)))


class TestWriting:
    def test_a_committed_object_is_found_by_every_way_of_looking(
        self, destination: Destination
    ) -> None:
        with destination.writer(KEY) as writer:
            writer.write(b"one ")
            writer.write(b"two")
            stored = writer.commit()

        assert (stored.key, stored.size_bytes) == (KEY, 7)
        assert destination.stat(KEY).size_bytes == 7
        assert [(found.key, found.size_bytes) for found in destination.list("")] == [(KEY, 7)]
        assert destination.children("") == ("acme",)
        assert read(destination, KEY) == b"one two"

    def test_nothing_is_visible_before_the_commit(self, destination: Destination) -> None:
        with destination.writer(KEY) as writer:
            writer.write(pattern(MEBIBYTE))

            assert keys_of(destination) == []
            assert keys_of(destination, "acme/") == []
            assert destination.children("") == ()
            with pytest.raises(ObjectNotFound):
                destination.stat(KEY)
            with pytest.raises(ObjectNotFound):
                destination.open(KEY)
            writer.commit()

        assert keys_of(destination) == [KEY]

    def test_it_is_tried_whether_a_key_could_be_written_and_nothing_is_left(
        self, destination: Destination
    ) -> None:
        other = Key(f"{KEY}.other")
        for _ in range(2):
            assert destination.probe(KEY) == ""
            assert keys_of(destination) == []
            assert destination.abort_uploads(older_than=datetime.now(UTC) + timedelta(1)) == 0
            put(destination, other)
            assert destination.probe(KEY) == ""
            assert keys_of(destination) == [other]
            destination.delete([other])

    def test_leaving_without_a_commit_leaves_nothing(self, destination: Destination) -> None:
        with destination.writer(KEY) as writer:
            writer.write(b"half")

        assert keys_of(destination) == []

    def test_an_exception_leaves_nothing_and_passes_through(self, destination: Destination) -> None:
        def write_half() -> None:
            with destination.writer(KEY) as writer:
                writer.write(b"half")
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            write_half()
        assert keys_of(destination) == []

    def test_an_aborted_key_can_be_written_again(self, destination: Destination) -> None:
        with destination.writer(KEY) as writer:
            writer.write(b"first try")
            writer.abort()
        put(destination, KEY, data=b"second try")

        assert read(destination, KEY) == b"second try"

    def test_abort_may_be_called_at_any_time_and_again(self, destination: Destination) -> None:
        destination.writer(KEY).abort()
        with destination.writer(KEY) as writer:
            writer.write(b"kept")
            writer.commit()
            writer.abort()
            writer.abort()

        assert read(destination, KEY) == b"kept"

    def test_a_finished_writer_takes_nothing_more(self, destination: Destination) -> None:
        committed = destination.writer(KEY)
        committed.commit()
        aborted = destination.writer(Key("other"))
        aborted.abort()

        for writer in (committed, aborted):
            with pytest.raises(ValueError, match="finished"):
                writer.write(b"more")
            with pytest.raises(ValueError, match="finished"):
                writer.commit()
        assert [(found.key, found.size_bytes) for found in destination.list("")] == [(KEY, 0)]

    def test_an_object_may_be_empty(self, destination: Destination) -> None:
        with destination.writer(KEY) as writer:
            writer.write(b"")
            stored = writer.commit()

        assert stored.size_bytes == 0
        assert destination.stat(KEY).size_bytes == 0
        assert read(destination, KEY) == b""

    def test_every_kind_of_bytes_is_written_as_it_was_at_the_call(
        self, destination: Destination
    ) -> None:
        buffer = bytearray(b"-once")
        with destination.writer(KEY) as writer:
            writer.write(b"bytes")
            writer.write(buffer)
            writer.write(memoryview(buffer)[:3])
            buffer[:] = b"-more"
            writer.write(memoryview(buffer))
            writer.commit()

        assert read(destination, KEY) == b"bytes-once-on-more"

    def test_large_objects_come_back_whole_whatever_the_sizes_of_the_chunks(
        self, destination: Destination
    ) -> None:
        content = pattern(9 * MEBIBYTE + 5)
        with destination.writer(KEY) as writer:
            for chunk in in_chunks(content, 1, 65_536, 100_003, 2 * MEBIBYTE):
                writer.write(chunk)
            stored = writer.commit()

        assert stored.size_bytes == len(content)
        with destination.open(KEY) as reader:
            parts = list(iter(lambda: reader.read(777_777), b""))
        assert {len(part) for part in parts[:-1]} == {777_777}
        assert b"".join(parts) == content

    @pytest.mark.parametrize("key", ODD_KEYS)
    def test_odd_keys_are_keys_like_others(self, destination: Destination, key: str) -> None:
        put(destination, key, data=key.encode())

        assert read(destination, key) == key.encode()
        assert keys_of(destination) == [key]
        destination.delete([Key(key)])
        assert keys_of(destination) == []

    @pytest.mark.parametrize("text", NO_KEYS)
    def test_what_is_no_key_is_refused_everywhere(
        self, destination: Destination, text: str
    ) -> None:
        key = Key(text)
        uses: list[Callable[[], object]] = [
            lambda: destination.writer(key),
            lambda: destination.put_if_absent(key, b""),
            lambda: destination.open(key),
            lambda: destination.stat(key),
            lambda: destination.delete([key]),
        ]

        for use in uses:
            with pytest.raises(ValueError, match="no key"):
                use()
        assert keys_of(destination) == []


class TestConflicts:
    def test_a_present_key_refuses_the_commit_and_stays_as_it_is(
        self, destination: Destination
    ) -> None:
        put(destination, KEY, data=b"first")

        with destination.writer(KEY) as writer:
            writer.write(b"second")
            with pytest.raises(WriteConflict, match="widgets"):
                writer.commit()

        assert read(destination, KEY) == b"first"
        assert keys_of(destination) == [KEY]

    @pytest.mark.parametrize("content", [b"", b"equal"])
    def test_a_commit_conflicts_with_equal_content_as_well(
        self, destination: Destination, content: bytes
    ) -> None:
        put(destination, KEY, data=content)

        with destination.writer(KEY) as writer:
            writer.write(content)
            with pytest.raises(WriteConflict):
                writer.commit()

    def test_the_first_of_two_writers_to_commit_wins(self, destination: Destination) -> None:
        with destination.writer(KEY) as early, destination.writer(KEY) as late:
            early.write(b"begun first")
            late.write(b"committed first")
            late.commit()
            with pytest.raises(WriteConflict):
                early.commit()

        assert read(destination, KEY) == b"committed first"

    @pytest.mark.parametrize("content", [b"", b"equal"])
    def test_putting_equal_content_again_is_success(
        self, destination: Destination, content: bytes
    ) -> None:
        put(destination, KEY, data=content)
        again = destination.put_if_absent(KEY, content)

        assert (again.key, again.size_bytes) == (KEY, len(content))
        assert keys_of(destination) == [KEY]

    @pytest.mark.parametrize("other", [b"", b"CONTENT", b"conte", b"contents"])
    def test_putting_other_content_is_a_conflict(
        self, destination: Destination, other: bytes
    ) -> None:
        put(destination, KEY, data=b"content")

        with pytest.raises(WriteConflict, match="widgets"):
            destination.put_if_absent(KEY, other)
        assert read(destination, KEY) == b"content"

    def test_of_many_contents_put_at_once_exactly_one_wins(
        self, exact_destination: Destination
    ) -> None:
        contents = [f"content {number}".encode() for number in range(THREADS)]

        met = in_threads(lambda number: exact_destination.put_if_absent(KEY, contents[number]))

        winners = [number for number, answer in enumerate(met) if isinstance(answer, StoredObject)]
        assert [read(exact_destination, KEY)] == [contents[winner] for winner in winners]
        assert sum(isinstance(answer, WriteConflict) for answer in met) == THREADS - 1

    def test_of_many_commits_at_once_exactly_one_wins(self, exact_destination: Destination) -> None:
        def write(number: int) -> StoredObject:
            with exact_destination.writer(KEY) as writer:
                writer.write(b"the same")
                return writer.commit()

        met = in_threads(write)

        assert sum(isinstance(answer, StoredObject) for answer in met) == 1
        assert sum(isinstance(answer, WriteConflict) for answer in met) == THREADS - 1

    def test_equal_content_put_at_once_is_success_for_all(self, destination: Destination) -> None:
        met = in_threads(lambda number: destination.put_if_absent(KEY, b"equal"))

        sizes = [answer.size_bytes for answer in met if isinstance(answer, StoredObject)]
        assert sizes == [5] * THREADS

    def test_many_threads_write_into_one_new_folder(self, destination: Destination) -> None:
        met = in_threads(
            lambda number: destination.put_if_absent(Key(f"new/folder/{number:02}"), b"x" * number)
        )

        assert [found.size_bytes for found in destination.list("new/")] == list(range(THREADS))
        assert all(isinstance(answer, StoredObject) for answer in met)

    def test_writing_and_deleting_in_one_folder_get_along(self, destination: Destination) -> None:
        def come_and_go(number: int) -> StoredObject:
            for turn in range(10):
                key = Key(f"folder/below/{number}-{turn}")
                stored = destination.put_if_absent(key, b"content")
                destination.delete([key])
            return stored

        met = in_threads(come_and_go)

        assert all(isinstance(answer, StoredObject) for answer in met), met
        assert keys_of(destination) == []


class TestReading:
    @pytest.mark.parametrize(("offset", "expected"), [(0, b"abcdef"), (1, b"bcdef"), (6, b"")])
    def test_reading_begins_at_the_offset(
        self, destination: Destination, offset: int, expected: bytes
    ) -> None:
        put(destination, KEY, data=b"abcdef")

        assert read(destination, KEY, offset=offset) == expected

    def test_an_offset_behind_the_end_is_an_error(self, destination: Destination) -> None:
        put(destination, KEY, data=b"abcdef")

        with pytest.raises(DestinationError, match="ends at byte 6"):
            destination.open(KEY, offset=7)

    def test_a_negative_offset_is_refused(self, destination: Destination) -> None:
        put(destination, KEY, data=b"abcdef")

        with pytest.raises(ValueError, match="negative"):
            destination.open(KEY, offset=-1)

    def test_a_read_fills_until_the_end(self, destination: Destination) -> None:
        content = pattern(3 * MEBIBYTE + 1)
        put(destination, KEY, data=content)

        with destination.open(KEY, offset=10) as reader:
            assert reader.read(0) == b""
            assert reader.read(1) == content[10:11]
            assert reader.read(2 * MEBIBYTE) == content[11 : 11 + 2 * MEBIBYTE]
            assert reader.read(2 * MEBIBYTE) == content[11 + 2 * MEBIBYTE :]
            assert reader.read(1) == b""
            assert reader.read() == b""

    def test_a_read_without_a_size_gives_the_rest(self, destination: Destination) -> None:
        put(destination, KEY, data=b"abcdef")

        with destination.open(KEY) as reader:
            assert (reader.read(2), reader.read(), reader.read()) == (b"ab", b"cdef", b"")

    def test_several_readers_do_not_disturb_each_other(self, destination: Destination) -> None:
        put(destination, KEY, data=b"abcdef")

        with destination.open(KEY) as one, destination.open(KEY, offset=3) as other:
            assert (one.read(2), other.read(2), one.read(2)) == (b"ab", b"de", b"cd")

    def test_reading_goes_on_while_others_write(self, destination: Destination) -> None:
        content = pattern(MEBIBYTE)
        put(destination, KEY, data=content)

        def write_and_read(number: int) -> StoredObject:
            with (
                destination.open(KEY) as reader,
                destination.writer(Key(f"copies/{number}")) as writer,
            ):
                while part := reader.read(50_000):
                    writer.write(part)
                return writer.commit()

        in_threads(write_and_read)

        assert {read(destination, key) for key in keys_of(destination, "copies/")} == {content}

    @pytest.mark.parametrize("key", ["missing", "acme", "acme/repositories/widgets", KEY + "/x"])
    def test_what_is_no_object_is_not_found(self, destination: Destination, key: str) -> None:
        put(destination, KEY)

        for look in (destination.stat, destination.open):
            with pytest.raises(ObjectNotFound) as caught:
                look(Key(key))
            assert destination.uri(key) in caught.value.message

    def test_an_empty_destination_reads_as_empty(self, destination: Destination) -> None:
        with pytest.raises(ObjectNotFound):
            destination.stat(KEY)
        with pytest.raises(ObjectNotFound):
            destination.open(KEY)
        assert keys_of(destination) == []
        assert destination.children("acme/") == ()
        destination.delete([KEY])

    def test_a_uri_names_the_object_before_it_exists(self, destination: Destination) -> None:
        assert destination.uri(KEY).endswith("/" + KEY)


class TestListing:
    def test_keys_come_in_the_order_of_their_bytes(self, destination: Destination) -> None:
        # Each has a neighbour that walking folder by folder would put in the wrong place.
        keys = [
            "B", "a b", "a!/x", "a-b/x", "a-b/y/z", "a.full", "a/b/c", "a/b-c", "a/b.d", "a/b0",
            "a/x", "a0/x", "aa", "z/1", "z/10", "z/2", "~",
        ]  # fmt: skip
        shuffled = keys.copy()
        random.Random(7).shuffle(shuffled)
        put(destination, *shuffled)

        assert keys_of(destination) == sorted(keys, key=str.encode)

    def test_random_trees_come_in_the_order_of_their_bytes(self, destination: Destination) -> None:
        dice = random.Random(11)
        folders = ["/".join(dice.choices(["a", "a-", "a.b", "a0", "b"], k=3)) for _ in range(40)]
        keys = {f"{folder}/{dice.choice('xyz')}.object" for folder in folders}
        put(destination, *keys)

        assert keys_of(destination) == sorted(keys)
        for prefix in {folder.split("/")[0] + "/" for folder in folders}:
            expected = sorted(key for key in keys if key.startswith(prefix))
            assert keys_of(destination, prefix) == expected

    def test_a_prefix_ends_at_its_slash(self, destination: Destination) -> None:
        put(destination, "a/x", "a/b/x", "ab/x", "a-b/x", "b/a/x")

        assert keys_of(destination, "a/") == ["a/b/x", "a/x"]
        assert keys_of(destination, "a/b/") == ["a/b/x"]
        assert keys_of(destination, "x/") == []
        assert keys_of(destination, "a/x/") == []

    @pytest.mark.parametrize("prefix", ["a", "/", "a//", "../", "a/./", "\n/", "é/"])
    def test_what_is_no_prefix_is_refused_at_once(
        self, destination: Destination, prefix: str
    ) -> None:
        for look in (destination.list, destination.children):
            with pytest.raises(ValueError, match="no prefix"):
                look(prefix)

    def test_what_was_there_is_listed_while_others_come_and_go(
        self, destination: Destination
    ) -> None:
        stays = [f"folder {number}/stays" for number in range(10)]
        put(destination, *stays, *(f"folder {number}/goes/x" for number in range(10)))

        listing = destination.list("")
        seen = [next(listing).key]
        destination.delete([Key(f"folder {number}/goes/x") for number in range(10)])
        put(destination, "folder 9/comes", "another/comes")
        seen += [found.key for found in listing]

        assert set(stays) <= set(seen)
        assert seen == sorted(seen)

    def test_children_are_the_next_segments_that_lead_to_objects(
        self, destination: Destination
    ) -> None:
        put(destination, "a/b/c/d", "a/b-c/x", "a/b.c/x/y/z", "a/object", "z/x")

        assert destination.children("") == ("a", "z")
        assert destination.children("a/") == ("b", "b-c", "b.c")
        assert destination.children("a/b/") == ("c",)
        assert destination.children("a/b/c/") == ()
        assert destination.children("missing/") == ()


class TestDeleting:
    def test_deleted_objects_are_gone_and_others_stay(self, destination: Destination) -> None:
        put(destination, "a/x", "a/y", "a/b/x", "b/x")

        destination.delete([Key("a/x"), Key("b/x")])

        assert keys_of(destination) == ["a/b/x", "a/y"]
        assert destination.children("") == ("a",)
        with pytest.raises(ObjectNotFound):
            destination.stat(Key("a/x"))

    def test_deleting_what_is_not_there_is_no_error(self, destination: Destination) -> None:
        put(destination, "a/x")

        destination.delete([Key("a/y"), Key("missing/x")])
        destination.delete([])

        assert keys_of(destination) == ["a/x"]

    def test_deleting_a_name_above_or_below_an_object_deletes_nothing(
        self, exact_destination: Destination
    ) -> None:
        put(exact_destination, "a/x")

        exact_destination.delete([Key("a"), Key("a/x/below")])

        assert keys_of(exact_destination) == ["a/x"]

    def test_keys_to_delete_may_come_from_the_listing_itself(
        self, destination: Destination
    ) -> None:
        put(destination, *(f"a/{number % 7}/{number}" for number in range(50)), "b/x")

        def listed() -> Iterator[Key]:
            return (found.key for found in destination.list("a/"))

        destination.delete(listed())

        assert keys_of(destination) == ["b/x"]

    def test_a_deleted_key_can_be_written_again(self, destination: Destination) -> None:
        put(destination, KEY, data=b"first")
        destination.delete([KEY])
        put(destination, KEY, data=b"second")

        assert read(destination, KEY) == b"second"


def test_somebody_else_puts_an_object_by_a_url_where_there_are_urls(
    destination: Destination,
) -> None:
    url = destination.upload_url(KEY, content_type="application/gzip", seconds=600)
    assert (url is None) == destination.listing_is_local
    if url is None:
        return
    fields = {"Content-Type": "application/gzip"}
    trusted = os.environ.get("AWS_CA_BUNDLE") or True
    answer = requests.put(url.reveal(), b"put", headers=fields, timeout=10, verify=trusted)
    assert answer.status_code == 200
    assert destination.stat(KEY).size_bytes == 3
    assert read(destination, KEY) == b"put"


def test_a_listing_and_a_look_say_when_an_object_was_written(destination: Destination) -> None:
    before = datetime.now(UTC)
    put(destination, "a/b")
    after = datetime.now(UTC)
    for stored in (*destination.list("a/"), destination.stat(Key("a/b"))):
        if stored.stored_at is None:
            assert isinstance(destination, MemoryDestination)
            continue
        # What costs no requests has files or a dictionary under it, whose times anyone may set.
        assert destination.keeps_time == (not destination.listing_is_local)
        # S3 tells whole seconds.
        assert before - timedelta(seconds=2) <= stored.stored_at <= after + timedelta(seconds=2)


def test_it_tells_the_time_by_the_clock_that_dates_objects(destination: Destination) -> None:
    put(destination, KEY)
    stored_at, there = destination.stat(KEY).stored_at, destination.now()
    assert (stored_at is None) == (there is None)
    if stored_at is not None and there is not None:
        assert timedelta(seconds=-2) <= there - stored_at < timedelta(minutes=10)
