"""A pack on its way through: whole in pieces of any size, refused when it is cut or altered."""

import hashlib

import pytest

from backup.errors import MalformedPack, TruncatedPack
from backup.git.pack import PackMeter, PackSummary, empty_pack
from backup.model import ObjectFormat


def pack(objects: int = 3, body: bytes = b"x" * 100, version: int = 2) -> bytes:
    """Make something that is a pack as far as header and trailer go."""
    content = b"PACK" + version.to_bytes(4, "big") + objects.to_bytes(4, "big") + body
    return content + hashlib.sha1(content).digest()


def meter(data: bytes, step: int = 1 << 20, object_format: ObjectFormat = "sha1") -> PackSummary:
    passing = PackMeter(object_format)
    for begin in range(0, len(data), step):
        passing.update(data[begin : begin + step])
    return passing.finish()


@pytest.mark.parametrize("step", [1, 2, 3, 11, 12, 13, 19, 20, 21, 33, 100, 1000])
def test_any_cutting_of_the_stream_gives_the_same_summary(step: int) -> None:
    assert meter(pack(), step) == PackSummary(objects=3, size_bytes=132)


def test_the_object_count_is_the_headers() -> None:
    assert meter(pack(objects=2**32 - 1)).objects == 2**32 - 1


def test_version_3_is_a_pack_too() -> None:
    assert meter(pack(version=3)).objects == 3


@pytest.mark.parametrize(
    ("object_format", "size_bytes"), [("sha1", 32), ("sha256", 44)], ids=["sha1", "sha256"]
)
def test_the_empty_pack_is_whole(object_format: ObjectFormat, size_bytes: int) -> None:
    made = empty_pack(object_format)
    assert meter(made, object_format=object_format) == PackSummary(0, size_bytes)


def test_a_pack_cut_anywhere_is_refused() -> None:
    whole = pack()
    for cut in range(len(whole)):
        with pytest.raises((TruncatedPack, MalformedPack)):
            meter(whole[:cut])


def test_a_pack_without_room_for_a_trailer_says_how_much_came() -> None:
    with pytest.raises(TruncatedPack) as caught:
        meter(pack()[:31])
    assert caught.value.received_bytes == 31
    assert caught.value.retryable


def test_nothing_at_all_is_a_truncated_pack() -> None:
    with pytest.raises(TruncatedPack):
        PackMeter("sha1").finish()


@pytest.mark.parametrize("step", [7, 1000])
def test_a_pack_with_any_flipped_byte_is_refused(step: int) -> None:
    whole = pack()
    for place in range(len(whole)):
        with pytest.raises(MalformedPack):
            meter(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :], step)


def test_a_pack_with_bytes_after_its_trailer_is_refused() -> None:
    with pytest.raises(MalformedPack):
        meter(pack() + b"\0")


def test_two_packs_are_not_one() -> None:
    with pytest.raises(MalformedPack):
        meter(pack() + pack())


def test_a_pack_of_the_other_format_is_refused() -> None:
    with pytest.raises(MalformedPack):
        meter(pack(), object_format="sha256")


@pytest.mark.parametrize("data", [b"<html>", b"PACX", b"pack", b"\0"])
def test_what_does_not_begin_like_a_pack_is_refused_at_once(data: bytes) -> None:
    with pytest.raises(MalformedPack):
        PackMeter("sha1").update(data)


@pytest.mark.parametrize("version", [0, 1, 4, 2**32 - 1])
def test_another_version_is_refused_as_soon_as_it_is_known(version: int) -> None:
    with pytest.raises(MalformedPack, match=str(version)):
        PackMeter("sha1").update(pack(version=version)[:12])


def test_the_size_is_known_while_it_passes() -> None:
    passing = PackMeter("sha1")
    passing.update(pack()[:50])
    assert passing.size_bytes == 50
