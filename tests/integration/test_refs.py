"""Ref names are well formed exactly where git says so."""

import atexit
import functools
import itertools
import random
import tempfile
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from backup.refs import is_well_formed
from tests.support.git import init_bare, run_git

# What git has rules about, and what it has none about.
PIECES = (
    *(b".", b"..", b"/", b"//", b"@", b"{", b"@{", b"}", b"~", b"^", b":", b"?", b"*", b"[", b"]"),
    *(b"\\", b".lock", b".lock/", b"lock", b".loc", b"-", b"\x7f", b"\x01", b"\x1f", b"\x80"),
    *(b"\xff", b"a", b"A", b"HEAD", b"refs", b"%", b"'", b'"', b"$", b"(", b"!", "é".encode()),
)


@functools.cache
def without_refs() -> Path:
    """Make a repository whose own refs cannot get between."""
    folder = tempfile.TemporaryDirectory(prefix="without-refs-")
    atexit.register(folder.cleanup)
    return init_bare(Path(folder.name))


def git_accepts(names: list[bytes]) -> list[bool]:
    """Ask one process about many names.

    ``git show-ref --exclude-existing`` puts every line through check_refname_format and prints
    those that pass. It cannot be asked about whitespace and cuts off one trailing ``^{}``.
    """
    asked = b"".join(name + b"\n" for name in names)
    answer = run_git("show-ref", "--exclude-existing", input=asked, cwd=without_refs()).stdout
    accepted = iter(answer.split(b"\n"))
    said, result = next(accepted), []
    for name in names:
        result.append(said == name)
        if said == name:
            said = next(accepted)
    assert said == b"", f"an answer that was not asked for: {said!r}"
    return result


def disagreements(names: list[bytes]) -> list[tuple[bytes, bool]]:
    pairs = zip(names, git_accepts(names), strict=True)
    return [(name, said) for name, said in pairs if is_well_formed(name) != said]


def test_the_oracle_is_git_check_ref_format() -> None:
    names = [b"refs/heads/ok", b"refs/heads/a..b", b"refs/heads/x.lock", b"refs/heads/\xff"]
    single = [run_git("check-ref-format", name).returncode == 0 for name in names]
    assert git_accepts(names) == single == [True, False, False, True]


def test_every_short_name_of_the_pieces_is_judged_as_git_does() -> None:
    names = [
        b"refs/" + b"".join(pieces)
        for count in (0, 1, 2)
        for pieces in itertools.product(PIECES, repeat=count)
    ]
    assert disagreements([*dict.fromkeys(names)]) == []


def test_thousands_of_longer_names_are_judged_as_git_does() -> None:
    chance = random.Random(1)
    names = [
        b"refs/heads/" + b"".join(chance.choices(PIECES, k=chance.randint(3, 8)))
        for _ in range(5000)
    ]
    assert disagreements([*dict.fromkeys(names)]) == []


# Bytes that one line of the question can carry.
_BYTES = st.binary(min_size=1, max_size=40).map(
    lambda raw: bytes(byte for byte in raw if byte not in b"\0\t\n\v\f\r ")
)


@settings(max_examples=10)
@given(st.lists(_BYTES, min_size=1, max_size=200))
def test_any_bytes_are_judged_as_git_does(tails: list[bytes]) -> None:
    names = [b"refs/" + tail for tail in tails if not tail.endswith(b"^{}")]
    assert disagreements(names) == []
