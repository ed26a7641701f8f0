"""Which texts git-lfs reads as pointers, and which it refuses.

Source: git-lfs 3.7, lfs/pointer.go (DecodeFrom and what it calls) and its pointer_test.go.
"""

import pytest

from backup.git.pointers import Pointer, looks_like_a_pointer, parse_pointer

OID = "4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393"
VERSION = "version https://git-lfs.github.com/spec/v1"
KEY = f"oid sha256:{OID}"
SIZE = "size 12345"
LINES = f"{VERSION}\n{KEY}\n{SIZE}\n"
FOO, BAR = (f"ext-{number}-{name} sha256:{OID}" for number, name in enumerate(("foo", "bar")))


@pytest.mark.parametrize(
    "text",
    [
        LINES,
        LINES.rstrip("\n"),
        LINES.replace("https://git-lfs.github.com/spec/v1", "https://hawser.github.com/spec/v1"),
        LINES.replace("https://git-lfs.github.com/spec/v1", "http://git-media.io/v/2"),
        # Lines end as they like, and empty ones do not count.
        LINES.replace("\n", "\r\n"),
        f"{VERSION}\r\n{KEY}\n{SIZE}\r",
        f"{VERSION}\n\n\r\n{KEY}\n\n{SIZE}\n\n\n",
        # What is around it is trimmed, whatever the language calls space.
        f"\n \t\v\f\r\n{LINES}  \t\n",
        f"\u0085\u00a0\u1680\u2000\u200a\u2028\u2029\u202f\u205f\u3000{LINES}\u3000",
        f"{VERSION}\n{KEY}\n{SIZE}   \n",
        LINES + "\n" * (1023 - len(LINES)),
        " " * (1023 - len(LINES)) + LINES,
        # Extensions stand anywhere before the last key, in any order; only keys are read twice.
        f"{FOO}\n{BAR}\n{LINES}",
        f"{VERSION}\n{BAR}\n{FOO}\n{KEY}\n{SIZE}\n",
        f"{VERSION}\n{KEY}\n{FOO}\n{SIZE}\n",
        f"{VERSION}\next-0-foo boom\n{FOO}\n{KEY}\n{SIZE}\n",
        f"{VERSION}\next-9-_$%.-x sha256:{OID}\n{KEY}\n{SIZE}\n",
        # Numbers are those of Go.
        f"{VERSION}\n{KEY}\nsize +12345\n",
        f"{VERSION}\n{KEY}\nsize 000012345\n",
    ],
)
def test_what_git_lfs_reads(text: str) -> None:
    assert parse_pointer(text.encode()) == Pointer(OID, 12345)
    assert looks_like_a_pointer(f"{VERSION}\n".encode())


@pytest.mark.parametrize(
    ("size", "size_bytes"), [("0", 0), ("-0", 0), ("9223372036854775807", (1 << 63) - 1)]
)
def test_sizes_at_the_ends_of_their_range(size: str, size_bytes: int) -> None:
    text = f"{VERSION}\n{KEY}\nsize {size}\n"
    assert parse_pointer(text.encode()) == Pointer(OID, size_bytes)


ALIKE = [
    # Keys that are missing, twice, in another order, unknown, or without a value.
    f"{VERSION}\n",
    f"{VERSION}\n{KEY}\n",
    f"{VERSION}\n{SIZE}\n",
    f"{VERSION}\n{SIZE}\n{KEY}\n",
    f"{VERSION}\n{VERSION}\n{KEY}\n{SIZE}\n",
    f"{VERSION}\n{KEY}\n{KEY}\n{SIZE}\n",
    f"{LINES}wat wat\n",
    f"{LINES}{FOO}\n",
    f"{VERSION}\nwat wat\n{KEY}\n{SIZE}\n",
    f"{VERSION}\n{KEY}\nsize\n",
    f"{VERSION}\n{KEY}\n \n{SIZE}\n",
    f"{VERSION}\n {KEY}\n{SIZE}\n",
    # A failed merge.
    f"{VERSION}\n<<<<<<< HEAD\n{KEY}\n=======\n{KEY}\n>>>>>>> other\n{SIZE}\n",
    f"<<<<<<< HEAD\n{LINES}=======\n{LINES}>>>>>>> other\n",
    # Versions.
    LINES.replace("spec/v1", "spec/v9"),
    LINES.replace("spec/v1\n", "spec/v1 \n"),
    LINES.replace("version ", "version  "),
    f"\ufeff{LINES}",
    # Space to other languages.
    f"\x1c\n{LINES}",
    f"{LINES}\x1c",
    # Ids.
    LINES.replace("sha256", "sha512"),
    LINES.replace("sha256:", ""),
    LINES.replace(OID, "boom"),
    LINES.replace(OID, OID.upper()),
    LINES.replace(OID, f"{OID}&"),
    LINES.replace(OID, f"{OID} "),
    LINES.replace(KEY, f"{KEY}\r\r"),
    LINES.replace(OID, OID[:-1] + "\N{ARABIC-INDIC DIGIT ONE}"),
    # Sizes.
    LINES.replace("12345", "fif"),
    LINES.replace("12345", "-1"),
    LINES.replace("12345", "1_000"),
    LINES.replace("12345", "0x10"),
    LINES.replace("12345", " 12345"),
    LINES.replace("12345", "1.5"),
    LINES.replace("12345", "9223372036854775808"),
    LINES.replace("12345", "\N{ARABIC-INDIC DIGIT ONE}"),
    # Extensions.
    f"{VERSION}\next-0-$$$ sha256:{OID}\n{KEY}\n{SIZE}\n",
    f"{VERSION}\next-#-foo sha256:{OID}\n{KEY}\n{SIZE}\n",
    f"{VERSION}\next-10-foo sha256:{OID}\n{KEY}\n{SIZE}\n",
    f"{VERSION}\next-0- sha256:{OID}\n{KEY}\n{SIZE}\n",
    f"{VERSION}\next-0-é sha256:{OID}\n{KEY}\n{SIZE}\n",
    f"{VERSION}\next-0-foo boom\n{KEY}\n{SIZE}\n",
    f"{VERSION}\next-0-foo\n{KEY}\n{SIZE}\n",
    f"{VERSION}\n{FOO}\next-0-bar sha256:{OID}\n{KEY}\n{SIZE}\n",
    # Too long to be one.
    f"{LINES}" + "\n" * (1024 - len(LINES)),
]


@pytest.mark.parametrize("text", ALIKE)
def test_what_looks_like_a_pointer_and_is_none(text: str) -> None:
    assert parse_pointer(text.encode()) is None
    assert looks_like_a_pointer(text.encode())


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n\n",
        b"this is not a git-lfs file!",
        b"# git-media\n",
        LINES.upper().encode(),
        LINES.replace("version ", "version=").encode(),
        f"{KEY}\n{SIZE}\n".encode(),
        b"version 1.2 of git-lfs\n",
        b"text " * 40 + b"\n" + LINES.encode(),
        b"version https://example.org/spec/v1\n" + f"{KEY}\n{SIZE}\n".encode(),
        LINES.encode("utf-16"),
        bytes(range(256)),
    ],
)
def test_what_is_something_else(content: bytes) -> None:
    assert parse_pointer(content) is None
    assert not looks_like_a_pointer(content)


def test_the_shortest_pointer_has_114_bytes() -> None:
    shortest = f"version http://git-media.io/v/2\n{KEY}\nsize 0"
    assert len(shortest) == 114
    assert parse_pointer(shortest.encode()) == Pointer(OID, 0)
