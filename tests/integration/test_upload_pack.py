"""The protocol client against the real ``git upload-pack``."""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from backup.errors import IncompleteRepository, NotOurRef, ProtocolError
from backup.git.pack import PackMeter
from backup.git.transport import ProcessTransport, open_folder
from backup.git.upload_pack import HEADS_TAGS_NOTES, MAX_REQUEST_BYTES, Remote, fit_haves
from backup.model import ObjectId, Selection
from backup.refs import to_bytes
from backup.stopping import Stop
from tests.support.git import environment, git, init_bare
from tests.support.mirrors import mirror_state
from tests.support.shapes import SOUND

Shaped = Callable[[str], Path]
SLOW_TO_MAKE = {"five-thousand-refs", "long-chain", "packed-and-loose"}
LIVELY = tuple(name for name in SOUND if name not in {"working", "alternates", *SLOW_TO_MAKE})


def opened(repository: Path, selection: Selection | None = None) -> Remote:
    transport = open_folder(repository, safe=[repository], stop=Stop())
    return Remote(transport, selection=selection or Selection(), count=lambda _: None)


def older(repository: Path, version: int) -> Remote:
    variables = environment({"GIT_PROTOCOL": f"version={version}"})
    transport = ProcessTransport(
        ["git", "upload-pack", repository], environment=variables, stop=Stop()
    )
    return Remote(transport, selection=Selection(pull_refs=True), count=lambda _: None)


def fetch(repository: Path, wants: Sequence[ObjectId], haves: Sequence[ObjectId] = ()) -> bytes:
    with opened(repository) as remote:
        return b"".join(remote.fetch(wants, haves))


@pytest.mark.parametrize("name", LIVELY)
def test_the_list_of_refs_is_what_git_lists(name: str, shaped: Shaped) -> None:
    repository = shaped(name)
    hidden = (b"refs/pull/", b"refs/merge-requests/", b"refs/keep-around/", b"refs/pipelines/")
    state = mirror_state(repository, [*hidden, b"refs/environments/"])
    with opened(repository) as remote:
        refs = remote.list_refs()
    assert {to_bytes(ref): tip.encode() for ref, tip in refs.tips.items()} == state.refs
    assert {to_bytes(ref): tip.encode() for ref, tip in refs.peeled.items()} == state.peeled
    assert refs.object_format == state.object_format
    assert (refs.head_id or "").encode() == (state.head_id or b"")
    if state.head_id is not None or state.head_symref is not None:
        assert to_bytes(refs.head_symref or "") == (state.head_symref or b"")
    assert refs.left_out == ()


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("name", ["nested-tags", "non-utf8-names", "sha256", "hidden-refs"])
def test_an_older_protocol_gives_the_same_list(name: str, version: int, shaped: Shaped) -> None:
    repository = shaped(name)
    with opened(repository, Selection(pull_refs=True)) as remote, older(repository, version) as old:
        new_refs, old_refs = remote.list_refs(), old.list_refs()
    assert (old_refs.protocol_v2, new_refs.protocol_v2) == (False, True)
    assert old_refs.tips == new_refs.tips
    assert old_refs.peeled == new_refs.peeled
    assert (old_refs.head_symref, old_refs.head_id) == (new_refs.head_symref, new_refs.head_id)
    assert old_refs.object_format == new_refs.object_format


def test_prefixes_leave_the_rest_out(shaped: Shaped) -> None:
    with opened(shaped("custom-refs")) as remote:
        refs = remote.list_refs(prefixes=HEADS_TAGS_NOTES)
        everything = remote.list_refs()
    assert [*refs.tips] == ["refs/heads/main"]
    assert len(everything.tips) == 5
    assert refs.head_id is not None


def test_the_pack_of_everything_is_whole_and_leans_on_nothing(
    shaped: Shaped, tmp_path: Path
) -> None:
    repository = shaped("packed-and-loose")
    with opened(repository) as remote:
        refs = remote.list_refs()
        pieces = list(remote.fetch(refs.wanted(), ()))
    meter = PackMeter("sha1")
    for data in pieces:
        meter.update(data)
    assert meter.finish().objects == len(mirror_state(repository).objects)
    assert max(map(len, pieces)) <= 65515
    alone = init_bare(tmp_path / "alone.git")
    strict = ("index-pack", "--stdin", "--check-self-contained-and-connected")
    git(*strict, cwd=alone, input=b"".join(pieces))


def test_an_increment_can_be_indexed_without_what_it_continues(
    shaped: Shaped, tmp_path: Path
) -> None:
    repository = shaped("long-chain")
    tip = ObjectId(git("rev-parse", "refs/heads/main", cwd=repository).decode().strip())
    base = ObjectId(git("rev-parse", "refs/heads/main~50", cwd=repository).decode().strip())
    pack = fetch(repository, [tip], [base])
    git("index-pack", "--stdin", cwd=init_bare(tmp_path / "alone.git"), input=pack)
    new = git("rev-list", "--objects", "--count", tip, f"^{base}", cwd=repository)
    meter = PackMeter("sha1")
    meter.update(pack)
    assert meter.finish().objects == int(new)


def test_a_fetch_with_as_many_haves_as_fit_still_gives_an_increment(shaped: Shaped) -> None:
    repository = shaped("long-chain")
    tip = ObjectId(git("rev-parse", "refs/heads/main", cwd=repository).decode().strip())
    base = ObjectId(git("rev-parse", "refs/heads/main~10", cwd=repository).decode().strip())
    tags = tuple(ObjectId(f"{number:040x}") for number in range(1, 300_000))
    haves = fit_haves([tip], (base, *tags))
    assert MAX_REQUEST_BYTES // 60 < len(haves) < len(tags)
    meter = PackMeter("sha1")
    meter.update(fetch(repository, [tip], haves))
    assert meter.finish().objects == 30


def test_a_want_that_the_repository_does_not_have_is_told_apart(shaped: Shaped) -> None:
    gone = ObjectId("deadbeef" * 5)
    with pytest.raises(NotOurRef, match=gone):
        fetch(shaped("custom-refs"), [gone])


def test_an_error_of_git_itself_comes_in_its_own_words(tmp_path: Path) -> None:
    with (
        opened(tmp_path / "nothing.git") as remote,
        pytest.raises(ProtocolError, match=r"nothing\.git"),
    ):
        remote.list_refs()


def test_a_repository_that_lacks_an_object_gives_an_error_and_no_shorter_pack(
    shaped: Shaped,
) -> None:
    repository = shaped("missing-object")
    tip = ObjectId(git("rev-parse", "refs/heads/main", cwd=repository).decode().strip())
    with pytest.raises(IncompleteRepository, match="lacks objects"):
        fetch(repository, [tip])


def test_another_users_repository_is_read_because_exactly_it_is_declared_safe(
    shaped: Shaped, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A git that takes every folder for another user's, by the variable of its own test suite.
    real = shutil.which("git")
    distrustful = tmp_path / "bin" / "git"
    distrustful.parent.mkdir()
    distrustful.write_text(f'#!/bin/sh\nGIT_TEST_ASSUME_DIFFERENT_OWNER=1 exec {real} "$@"\n')
    distrustful.chmod(0o755)
    monkeypatch.setenv("PATH", str(distrustful.parent), prepend=os.pathsep)
    repository = shaped("custom-refs")
    with opened(repository) as remote:
        assert len(remote.list_refs().tips) == 5
    for trusted in ([], [repository.parent], [tmp_path]):
        transport = open_folder(repository, safe=trusted, stop=Stop())
        with (
            Remote(transport, selection=Selection(), count=lambda _: None) as remote,
            pytest.raises(ProtocolError, match="dubious ownership"),
        ):
            remote.list_refs()


@pytest.mark.parametrize("name", ["empty", "custom-refs"])
def test_the_real_server_ends_where_its_list_ends(name: str, shaped: Shaped) -> None:
    with opened(shaped(name)) as remote:
        remote.list_refs()
        remote.require_end()
    with older(shaped(name), 0) as remote:
        assert remote.list_refs().empty == (name == "empty")
