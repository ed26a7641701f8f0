"""The bundle header: what is written byte for byte, what is read, and what is refused."""

from io import BytesIO

import pytest

from backup.errors import DamagedDocument
from backup.git.bundle import BundleHeader, read_header
from backup.model import ObjectId, RefName
from backup.refs import to_name

ONE = ObjectId("1" * 40)
TWO = ObjectId("2" * 40)
LONG = ObjectId("a" * 64)
MAIN = RefName("refs/heads/main")


def read(data: bytes) -> BundleHeader:
    return read_header(BytesIO(data).read)[0]


def test_a_sha1_header_is_version_2() -> None:
    header = BundleHeader(((MAIN, ONE), (RefName("HEAD"), ONE)), (TWO,))
    assert header.encode() == b"\n".join(
        [
            b"# v2 git bundle",
            b"-" + b"2" * 40 + b" ",
            b"1" * 40 + b" refs/heads/main",
            b"1" * 40 + b" HEAD",
            b"",
            b"",
        ]
    )


def test_a_sha256_header_is_version_3_and_says_so() -> None:
    header = BundleHeader(((MAIN, LONG),), (LONG,), "sha256")
    assert header.encode() == b"\n".join(
        [
            b"# v3 git bundle",
            b"@object-format=sha256",
            b"-" + b"a" * 64 + b" ",
            b"a" * 64 + b" refs/heads/main",
            b"",
            b"",
        ]
    )


def test_names_that_are_not_utf8_keep_their_bytes() -> None:
    name = to_name(b"refs/heads/\xe9t\xe9")
    encoded = BundleHeader(((name, ONE),)).encode()
    assert b" refs/heads/\xe9t\xe9\n" in encoded
    assert read(encoded).refs == ((name, ONE),)


def test_the_pack_follows_the_header_untouched() -> None:
    pack = b"PACK\n\n\0\xff" * 1000
    data = BundleHeader(((MAIN, ONE),)).encode() + pack
    stream = BytesIO(data)
    _, begun = read_header(stream.read)
    assert begun + stream.read() == pack


@pytest.mark.parametrize("step", [1, 2, 7, 100])
def test_the_size_of_the_pieces_does_not_matter(step: int) -> None:
    header = BundleHeader(((MAIN, LONG), (RefName("HEAD"), LONG)), (LONG,), "sha256")
    stream = BytesIO(header.encode() + b"PACK")
    found, begun = read_header(lambda size: stream.read(min(size, step)))
    assert found == header
    assert begun + stream.read() == b"PACK"


@pytest.mark.parametrize(
    ("line", "comment"),
    [
        (b"-" + b"2" * 40, "none"),
        (b"-" + b"2" * 40 + b" ", "empty"),
        (b"-" + b"2" * 40 + b" subject of it", "some"),
    ],
)
def test_a_prerequisites_comment_is_free(line: bytes, comment: str) -> None:
    head = b"# v2 git bundle\n" + line + b"\n" + b"1" * 40 + b" HEAD\n\n"
    assert read(head).prerequisites == (TWO,), comment


def test_a_version_3_bundle_without_capabilities_is_sha1() -> None:
    assert read(b"# v3 git bundle\n" + b"1" * 40 + b" HEAD\n\n").object_format == "sha1"


def test_a_version_3_bundle_may_say_sha1() -> None:
    head = b"# v3 git bundle\n@object-format=sha1\n" + b"1" * 40 + b" HEAD\n\n"
    assert read(head).object_format == "sha1"


REFUSED: dict[str, bytes] = {
    "nothing": b"",
    "a pack": b"PACK\0\0\0\2\0\0\0\0",
    "an unknown version": b"# v4 git bundle\n\n",
    "a version without its newline": b"# v2 git bundle",
    "another line ending": b"# v2 git bundle\r\n\n",
    "a filter": b"# v3 git bundle\n@filter=blob:none\n" + b"1" * 40 + b" HEAD\n\n",
    "an unknown capability": b"# v3 git bundle\n@\xff\n\n",
    "an unknown object format": b"# v3 git bundle\n@object-format=sha512\n\n",
    "a capability in version 2": b"# v2 git bundle\n@object-format=sha256\n\n",
    "an id of the other format": b"# v2 git bundle\n" + b"1" * 64 + b" HEAD\n\n",
    "a short id": b"# v2 git bundle\n" + b"1" * 39 + b" HEAD\n\n",
    "an upper-case id": b"# v2 git bundle\n" + b"A" * 40 + b" HEAD\n\n",
    "a ref without a name": b"# v2 git bundle\n" + b"1" * 40 + b"\n\n",
    "a ref with an empty name": b"# v2 git bundle\n" + b"1" * 40 + b" \n\n",
    "a line that is none": b"# v2 git bundle\nhello\n\n",
    "no empty line": b"# v2 git bundle\n" + b"1" * 40 + b" HEAD\n",
}


@pytest.mark.parametrize("data", REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_header_of_ours_is_refused(data: bytes) -> None:
    with pytest.raises(DamagedDocument):
        read(data)


def test_a_header_cut_anywhere_is_refused() -> None:
    whole = BundleHeader(((MAIN, ONE), (RefName("HEAD"), ONE)), (TWO,)).encode()
    for cut in range(len(whole)):
        with pytest.raises(DamagedDocument):
            read(whole[:cut])


def test_an_endless_line_is_refused_after_some_kilobytes() -> None:
    given = 0

    def endless(size: int) -> bytes:
        nonlocal given
        given += size
        return b"a" * size

    with pytest.raises(DamagedDocument, match="endless"):
        read_header(endless)
    assert given < 1 << 20


def test_a_signature_that_never_ends_is_refused_too() -> None:
    with pytest.raises(DamagedDocument, match="endless"):
        read(b"# v2 git bundle" + b" " * (1 << 20))
