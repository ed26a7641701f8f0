"""The files of a repository on a plain web server, as a list of refs."""

import random
from collections.abc import Callable

import pytest

from backup import limits
from backup.errors import AnswerTooLarge, BackupError
from backup.git.dumb import advertisement, read_list
from backup.git.pktline import PacketReader

ONE, TWO = b"1" * 40, b"2" * 40
LISTED = b"%b\trefs/heads/main\n%b\trefs/tags/v1\n%b\trefs/tags/v1^{}\n" % (ONE, TWO, ONE)


def pieces_of(data: bytes) -> Callable[[int], bytes]:
    """Give a reader of bytes, in pieces of any size."""
    position, chance = 0, random.Random(len(data))

    def read(size: int) -> bytes:
        nonlocal position
        piece = data[position : position + min(size, chance.randint(1, 64))]
        position += len(piece)
        return piece

    return read


def lines(listed: bytes, head: bytes) -> list[bytes]:
    reader = PacketReader(pieces_of(b"".join(advertisement(listed, head))))
    return [*reader.lines()]


def test_refs_and_head_make_what_a_server_of_version_0_says() -> None:
    features = b"\0object-format=sha1 symref=HEAD:refs/heads/main"
    assert lines(LISTED, b"ref: refs/heads/main\n") == [
        ONE + b" HEAD" + features,
        ONE + b" refs/heads/main",
        TWO + b" refs/tags/v1",
        ONE + b" refs/tags/v1^{}",
    ]
    assert lines(LISTED, TWO + b"\n")[0] == TWO + b" HEAD\0object-format=sha1"
    unborn = lines(LISTED, b"ref: refs/heads/none\n")
    assert unborn[0] == ONE + b" refs/heads/main\0object-format=sha1 symref=HEAD:refs/heads/none"
    assert lines(b"", b"ref: refs/heads/main\n")[0].startswith(b"0" * 40 + b" capabilities^{}\0")
    long = b"3" * 64
    (only,) = lines(long + b"\trefs/heads/main\n", b"")
    assert only == long + b" refs/heads/main\0object-format=sha256"


@pytest.mark.parametrize("head", [b"ref: refs/heads/a b\0c\n", b"<html>", b"ref: ", b"\xff" * 99])
def test_a_head_that_names_nothing_is_left_out(head: bytes) -> None:
    assert lines(LISTED, head)[0] == ONE + b" refs/heads/main\0object-format=sha1"


@pytest.mark.parametrize(
    "data",
    [
        b"<html>\n" + LISTED,
        b"ref: refs/heads/main\n",
        ONE + b" refs/heads/main\n",
        ONE[:-1] + b"\trefs/heads/main\n",
        b"x" * 100_000,
    ],
)
def test_what_is_no_list_is_told_by_its_first_lines(data: bytes) -> None:
    assert read_list(pieces_of(data)) is None


def test_a_list_comes_in_pieces_and_may_be_empty() -> None:
    assert read_list(pieces_of(LISTED)) == bytearray(LISTED)
    assert read_list(pieces_of(b"")) == bytearray()


def test_a_list_without_end_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOST_REF_LIST_BYTES", 1000)
    with pytest.raises(AnswerTooLarge, match="more than 1000 bytes"):
        read_list(lambda size: LISTED)


@pytest.mark.parametrize(
    "listed",
    [
        LISTED + b"more",
        LISTED + b"\n",
        LISTED + ONE + b"\t" + b"r" * 70_000 + b"\n",
        LISTED + ONE + b"\trefs/heads/\0x\n",
    ],
)
def test_a_list_that_is_cut_or_odd_is_an_error(listed: bytes) -> None:
    with pytest.raises(BackupError):
        lines(listed, b"")
