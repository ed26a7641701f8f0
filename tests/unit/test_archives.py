"""A packed tar archive is whole, or it is refused with the reason."""

import gzip
import io
import random
import tarfile
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup.commands import archives
from backup.commands.archives import require_whole
from backup.errors import BrokenArchive

LONG_NAME = "folder/" * 20 + "file"


def tar(**more: int) -> bytes:
    """Make an archive of everything that a tar can hold."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", **more) as archive:  # type: ignore[call-overload]
        folder = tarfile.TarInfo("./")
        folder.type = tarfile.DIRTYPE
        archive.addfile(folder)
        for name, size in (("VERSION", 5), ("empty", 0), ("block", 512), (LONG_NAME, 5000)):
            member = tarfile.TarInfo(name)
            member.size = size
            archive.addfile(member, io.BytesIO(random.Random(1).randbytes(size)))
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "VERSION"
        archive.addfile(link)
    return made.getvalue()


PLAIN = tar()
PACKED = gzip.compress(PLAIN, mtime=0)


def in_pieces(data: bytes, size: int = 7) -> Iterator[bytes]:
    return (data[at : at + size] for at in range(0, len(data), size))


def refused(data: bytes) -> str:
    with pytest.raises(BrokenArchive) as caught:
        require_whole([data])
    return caught.value.message


@pytest.mark.parametrize("kind", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_what_programs_pack_is_whole(kind: int) -> None:
    require_whole(in_pieces(gzip.compress(tar(format=kind))))


def test_a_size_that_only_an_extended_header_gives_is_followed() -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w", format=tarfile.PAX_FORMAT) as archive:
        member = tarfile.TarInfo("large")
        member.pax_headers = {"size": "1000"}
        archive.addfile(member)
    header = made.getvalue()[: 3 * 512]
    whole = header + b"x" * 1000 + bytes(24) + bytes(1024)
    require_whole([gzip.compress(whole)])
    assert "cut off" in refused(gzip.compress(header + b"x" * 1000))


def test_several_packed_members_are_one_archive() -> None:
    require_whole([gzip.compress(PLAIN[:1000]) + gzip.compress(PLAIN[1000:])])


def test_an_archive_without_a_file_is_no_export() -> None:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        for number in range(100):
            folder = tarfile.TarInfo(f"folder/{number}")
            folder.type = tarfile.DIRTYPE
            archive.addfile(folder)
        link = tarfile.TarInfo("link")
        link.type, link.linkname = tarfile.SYMTYPE, "VERSION"
        archive.addfile(link)
    assert refused(gzip.compress(made.getvalue())) == "it holds no file"


def test_every_cut_of_the_packed_bytes_is_refused() -> None:
    for length in range(len(PACKED)):
        assert "cut off" in refused(PACKED[:length]), length


def test_every_cut_inside_a_whole_gzip_is_refused() -> None:
    # Behind the two blocks of zeros there is padding alone.
    end = len(PLAIN.rstrip(b"\0")) // 512 * 512 + 512
    for length in range(0, end + 1024, 64):
        assert "cut off" in refused(gzip.compress(PLAIN[:length], compresslevel=1)), length
    require_whole([gzip.compress(PLAIN[: end + 1024])])


NO_ARCHIVE: dict[str, tuple[bytes, str]] = {
    "garbage after it": (PACKED + b"xyz", "does not unpack"),
    "zeros after it": (PACKED + bytes(10), "does not unpack"),
    "wrong checksum": (PACKED[:-6] + b"\1\2" + PACKED[-4:], "does not unpack"),
    "wrong length": (PACKED[:-1] + b"\7", "does not unpack"),
    "a page": (b"<html>" * 100, "does not unpack"),
    "no gzip": (b"\x1f\x8b\x08" + b"x" * 200, "does not unpack"),
    "more in the tar": (gzip.compress(PLAIN + b"more"), "something after the end"),
    "no tar": (gzip.compress(b"no archive" * 100), "holds no tar archive"),
    "nothing but zeros": (gzip.compress(bytes(10240)), "empty archive"),
    "a damaged header": (
        gzip.compress(PLAIN[:600] + b"\xff" + PLAIN[601:]),
        "holds no tar archive",
    ),
}


@pytest.mark.parametrize("case", NO_ARCHIVE)
def test_what_is_no_whole_archive_is_refused_with_the_reason(case: str) -> None:
    data, why = NO_ARCHIVE[case]
    assert why in refused(data)


def test_what_unpacks_without_end_is_refused_in_bounded_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(archives, "_ALWAYS_UNPACKED_BYTES", 1 << 20)
    member = tarfile.TarInfo("zeros")
    member.size = 64 << 20
    bomb = gzip.compress(member.tobuf() + bytes(64 << 20))
    assert "more than 250 times its size" in refused(bomb)


@given(st.binary(max_size=2000))
def test_any_bytes_give_an_answer_or_our_refusal(data: bytes) -> None:
    for candidate in (data, gzip.compress(data), gzip.compress(PLAIN[:512] + data)):
        try:
            require_whole(in_pieces(candidate, 100))
        except BrokenArchive:
            continue
