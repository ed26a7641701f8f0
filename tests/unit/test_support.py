"""The support of the tests is itself tested: a comparison that never fails proves nothing."""

import dataclasses
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings

from tests.conftest import REAL_HOME
from tests.support import program
from tests.support.git import (
    NULL_ID,
    FastImport,
    GitFailed,
    commit_chain,
    empty_home,
    git,
    init_bare,
    object_format,
    run_git,
    set_head,
    update_refs,
    write_tag,
)
from tests.support.hanging import Pulse, WasStuck
from tests.support.history import OPERATIONS, LivingRepository, Step, steps
from tests.support.mirrors import (
    HIDDEN_REFS,
    MirrorState,
    apply_chain_with_plain_git,
    assert_same_mirror,
    clone_mirror,
    fsck,
    mirror_state,
    reachable,
    write_bundle,
)
from tests.support.shapes import (
    BROKEN_REFS,
    INCOMPLETE,
    LARGE,
    MISSING_ID,
    ODD_NAMES,
    SHAPES,
    SOUND,
    make,
)

Shaped = Callable[[str], Path]
ROOT = Path(__file__).parents[2]
MANY = {"five-thousand-refs", "long-chain"}
FEW = settings(max_examples=max(settings().max_examples // 4, 1))


# The environment


def test_home_is_neither_that_of_the_user_nor_ever_written_to() -> None:
    assert Path.home() == empty_home() != REAL_HOME
    assert not list(empty_home().iterdir())


def test_git_reads_no_configuration_but_the_repository_s_own(tmp_path: Path) -> None:
    seen = git("config", "--list", "--show-scope", cwd=tmp_path).splitlines()
    assert seen == [b"command\tcore.fsync=none"]


def test_a_plain_git_process_of_the_tests_reads_none_either(tmp_path: Path) -> None:
    seen = subprocess.run(
        ["git", "config", "--list"], cwd=tmp_path, capture_output=True, check=True
    )
    assert seen.stdout == b""


@pytest.mark.usefixtures("git_identity")
def test_a_plain_git_process_can_commit_once_it_asks_for_an_identity(tmp_path: Path) -> None:
    init_bare(tmp_path)
    empty_tree = git("mktree", cwd=tmp_path).strip().decode()
    words = ["git", "commit-tree", "-m", "x", empty_tree]
    subprocess.run(words, cwd=tmp_path, capture_output=True, check=True)


def test_what_git_says_is_in_the_error_when_it_fails(tmp_path: Path) -> None:
    with pytest.raises(GitFailed, match=r"rev-parse .* not a git repository"):
        git("rev-parse", "HEAD", cwd=tmp_path)
    assert git("rev-parse", "HEAD", cwd=tmp_path, check=False) == b""


SKIPPING = """
import pytest

def test_that_skips():
    pytest.skip("no server here")

@pytest.mark.skip(reason="not today")
def test_that_is_marked():
    pass

@pytest.mark.xfail(strict=True)
def test_that_fails_as_expected():
    raise AssertionError
"""


def _run_pytest(folder: Path, module: str, ci: str) -> str:
    (folder / "test_module.py").write_text(module)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "tests.conftest", "--rootdir", folder, folder],
        env={"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT), "CI": ci},
        cwd=folder,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    return done.stdout + done.stderr


def test_skips_are_failures_in_ci_and_expected_failures_are_not(tmp_path: Path) -> None:
    said = _run_pytest(tmp_path, SKIPPING, "true")
    assert "1 failed, 1 xfailed, 1 error" in said
    assert "In CI nothing may be skipped: Skipped: no server here" in said
    assert "In CI nothing may be skipped: Skipped: not today" in said


def test_skips_are_skips_elsewhere(tmp_path: Path) -> None:
    assert "2 skipped, 1 xfailed" in _run_pytest(tmp_path, SKIPPING, "")


def test_a_module_that_skips_itself_fails_in_ci(tmp_path: Path) -> None:
    module = "import pytest\npytest.importorskip('no_such_library')\n"
    assert "1 error" in _run_pytest(tmp_path, module, "true")


# Making repositories


def test_names_that_exclude_each_other_are_exchanged_in_one_call(tmp_path: Path) -> None:
    chain = commit_chain(init_bare(tmp_path), 2)
    update_refs(tmp_path, {b"refs/heads/a": chain[0]})
    update_refs(tmp_path, {b"refs/heads/a/b": chain[1], b"refs/heads/a": None})
    assert mirror_state(tmp_path).refs == {b"refs/heads/a/b": chain[1]}


@pytest.mark.parametrize("kind", ["sha1", "sha256"])
def test_fast_import_sets_no_ref_and_leaves_none_behind(tmp_path: Path, kind: str) -> None:
    stream = FastImport(init_bare(tmp_path, kind))
    blob = stream.blob(b"data\n")
    root = stream.commit(files={b"a b\xe9": b"x"})
    other_root = stream.commit(message=b"without a parent\n")
    stream.commit([root, other_root], message=b"merge\n")
    ids = stream.run()
    assert git("cat-file", "blob", ids[blob], cwd=tmp_path) == b"data\n"
    assert git("rev-list", "--parents", ids[other_root], cwd=tmp_path).strip() == ids[other_root]
    assert git("for-each-ref", cwd=tmp_path) == b""
    assert all(len(name) == len(NULL_ID[kind]) for name in ids.values())


def test_a_chain_continues_where_the_one_before_ended(tmp_path: Path) -> None:
    first = commit_chain(init_bare(tmp_path), 2)
    second = commit_chain(tmp_path, 2, start=first[-1], label=b"more")
    listed = git("rev-list", "--reverse", second[-1], cwd=tmp_path).split()
    assert listed == first + second


# Comparing mirrors


def _altered(state: MirrorState) -> dict[str, MirrorState]:
    """Give states that differ from this one in one respect each."""
    name, tip = next(iter(state.refs.items()))
    other = min(state.objects - {tip, *state.peeled.values()})
    fewer = {kept: value for kept, value in state.refs.items() if kept != name}
    tag = next(iter(state.peeled))
    return {
        "missing ref": dataclasses.replace(state, refs=fewer),
        "surplus ref": dataclasses.replace(state, refs={**state.refs, b"refs/heads/x": tip}),
        "moved ref": dataclasses.replace(state, refs={**state.refs, name: other}),
        "peeled": dataclasses.replace(state, peeled={**state.peeled, tag: other}),
        "HEAD names": dataclasses.replace(state, head_symref=b"refs/heads/elsewhere"),
        "HEAD detached": dataclasses.replace(state, head_symref=None),
        "HEAD unborn": dataclasses.replace(state, head_id=None),
        "format": dataclasses.replace(state, object_format="sha256"),
        "missing object": dataclasses.replace(state, objects=state.objects - {other}),
        "surplus object": dataclasses.replace(state, objects=state.objects | {MISSING_ID}),
        "cut off": dataclasses.replace(state, shallow=frozenset({tip})),
    }


DIFFERENCES = (
    "missing ref",
    "surplus ref",
    "moved ref",
    "peeled",
    "HEAD names",
    "HEAD detached",
    "HEAD unborn",
    "format",
    "missing object",
    "surplus object",
    "cut off",
)


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_mirrors_that_differ_in_one_respect_are_not_the_same(
    shaped: Shaped, difference: str
) -> None:
    state = mirror_state(shaped("nested-tags"))
    altered = _altered(state)[difference]
    assert_same_mirror(state, state)
    with pytest.raises(AssertionError, match="the mirrors differ"):
        assert_same_mirror(altered, state)
    with pytest.raises(AssertionError, match="the mirrors differ"):
        assert_same_mirror(state, altered)


def test_a_mirror_with_a_lost_object_is_not_the_same(shaped: Shaped, tmp_path: Path) -> None:
    expected = mirror_state(shaped("custom-refs"))
    clone = clone_mirror(shaped("custom-refs"), tmp_path / "clone.git")
    update_refs(clone, {b"refs/custom/x": None, b"refs/added": expected.refs[b"refs/heads/main"]})
    with pytest.raises(AssertionError) as caught:
        assert_same_mirror(clone, expected)
    lost = expected.refs[b"refs/custom/x"].decode()
    assert f"-b'refs/custom/x' {lost}" in str(caught.value)
    assert "+b'refs/added' " in str(caught.value)


def test_ignored_refs_and_what_only_they_reach_do_not_count(shaped: Shaped, tmp_path: Path) -> None:
    source = shaped("hidden-refs")
    clone = clone_mirror(source, tmp_path / "clone.git")
    gone = [name for name in mirror_state(source).refs if name.startswith(HIDDEN_REFS)]
    update_refs(clone, dict.fromkeys(gone))
    assert len(gone) == 7
    assert_same_mirror(clone, source, ignore=HIDDEN_REFS)
    assert len(mirror_state(clone).objects) < len(mirror_state(source).objects)
    with pytest.raises(AssertionError, match="refs/pull/1/head"):
        assert_same_mirror(clone, source)


def test_states_read_with_other_prefixes_are_not_compared(shaped: Shaped) -> None:
    state = mirror_state(shaped("hidden-refs"), HIDDEN_REFS)
    with pytest.raises(ValueError, match="was read with"):
        assert_same_mirror(state, shaped("hidden-refs"))


def test_a_state_sees_the_objects_of_tags_trees_and_a_detached_head(shaped: Shaped) -> None:
    for name in ("nested-tags", "tags-of-trees-and-blobs", "light-tags-of-trees-and-blobs"):
        state = mirror_state(shaped(name))
        assert {*state.refs.values(), *state.peeled.values()} <= state.objects
    detached = mirror_state(shaped("detached-head-alone"))
    assert detached.head_id in detached.objects - reachable(
        shaped("detached-head-alone"), detached.refs.values()
    )


# Shapes


@pytest.mark.parametrize("name", sorted(SHAPES.keys() - LARGE - MANY))
def test_every_shape_is_made_the_same_each_time(name: str, shaped: Shaped, tmp_path: Path) -> None:
    again = make(name, tmp_path / "again.git")
    listing = ("for-each-ref", "--format=%(objectname) %(refname) %(symref)")
    for repository in (again, shaped(name)):
        git("rev-parse", "--git-dir", cwd=repository)
    assert run_git(*listing, cwd=again).stdout == run_git(*listing, cwd=shaped(name)).stdout


@pytest.mark.parametrize("name", SOUND)
def test_a_mirror_clone_of_every_sound_shape_is_the_same(
    name: str, shaped: Shaped, tmp_path: Path
) -> None:
    clone = clone_mirror(shaped(name), tmp_path / "clone.git")
    assert_same_mirror(clone, shaped(name))
    if name != "fsck-warnings":
        assert fsck(clone) == []


@pytest.mark.parametrize("name", SOUND)
def test_one_bundle_of_every_sound_shape_gives_it_back_by_plain_git(
    name: str, shaped: Shaped, tmp_path: Path
) -> None:
    expected = mirror_state(shaped(name))
    bundle = write_bundle(shaped(name), tmp_path / "all.bundle")
    target = tmp_path / "restored.git"
    assert apply_chain_with_plain_git([bundle], target, expected.object_format) == expected.refs
    head = expected.head_symref or expected.head_id
    assert head is not None
    set_head(target, head)
    assert_same_mirror(target, expected)


@pytest.mark.parametrize("name", sorted(INCOMPLETE - {"shallow"}))
def test_incomplete_shapes_can_neither_be_read_nor_cloned(
    name: str, shaped: Shaped, tmp_path: Path
) -> None:
    with pytest.raises(GitFailed):
        mirror_state(shaped(name))
    with pytest.raises(GitFailed):
        clone_mirror(shaped(name), tmp_path / "clone.git")


def test_a_clone_of_a_shallow_repository_succeeds_and_is_shallow(
    shaped: Shaped, tmp_path: Path
) -> None:
    clone = clone_mirror(shaped("shallow"), tmp_path / "clone.git")
    assert len(mirror_state(clone).shallow) == 1
    assert len(git("rev-list", "--all", cwd=clone).split()) == 2


def test_fsck_names_what_is_missing(shaped: Shaped) -> None:
    assert any(line.startswith("missing blob ") for line in fsck(shaped("missing-object")))
    assert any("unable to normalize" in line for line in fsck(shaped("broken-alternates")))


@pytest.mark.parametrize("name", sorted(BROKEN_REFS))
def test_broken_refs_are_advertised_and_break_a_clone(
    name: str, shaped: Shaped, tmp_path: Path
) -> None:
    broken = NULL_ID["sha1"] if name == "null-id-ref" else MISSING_ID
    advertised = git("ls-remote", shaped(name).as_uri()).splitlines()
    assert broken in [line.split(b"\t")[0] for line in advertised]
    with pytest.raises(GitFailed, match="not our ref"):
        clone_mirror(shaped(name), tmp_path / "clone.git")


def test_shapes_are_what_they_are_called(shaped: Shaped) -> None:
    states = {name: mirror_state(shaped(name)) for name in SOUND}
    assert len(states["many-branches"].refs) == 301
    assert len(states["five-thousand-refs"].refs) == 5001
    assert len(states["long-chain"].objects) == 3 * 4000
    assert (states["empty"].refs, states["empty"].head_id) == ({}, None)
    assert states["sha256"].object_format == "sha256"
    assert states["non-utf8-names"].refs.keys() >= {b"refs/heads/\xe9t\xe9", b"refs/tags/\xff\xfe"}
    assert set(ODD_NAMES) < states["odd-names"].refs.keys()
    assert states["symrefs"].head_symref == b"refs/heads/main"
    assert b"refs/stash" in states["working"].refs
    assert len(states["nested-tags"].peeled) == 2
    assert b"refs/heads/deleted" not in states["packed-and-loose"].refs


def test_heads_of_the_shapes_are_what_they_are_called(shaped: Shaped) -> None:
    for name in ("empty", "unborn-head", "unborn-head-under-a-branch"):
        state = mirror_state(shaped(name))
        assert state.head_symref
        assert state.head_id is None
    for name in ("alone", "on-branch", "without-refs"):
        state = mirror_state(shaped(f"detached-head-{name}"))
        assert state.head_symref is None
        assert (state.head_id in state.refs.values()) == (name == "on-branch")


def test_what_the_odd_shapes_hold_is_really_there(shaped: Shaped) -> None:
    findings = " ".join(fsck(shaped("fsck-warnings")))
    for finding in (
        "zeroPaddedFilemode",
        "duplicateEntries",
        "treeNotSorted",
        "missingSpaceBeforeEmail",
        "missingEmail",
        "badTimezone",
        "missingTaggerEntry",
    ):
        assert finding in findings
    unreachable = git("fsck", "--unreachable", cwd=shaped("unreachable-objects"))
    assert unreachable.count(b"unreachable ") == 16
    packs = (shaped("packed-and-loose") / "objects/pack").glob("*.pack")
    assert len(list(packs)) == 2
    octopus = git("log", "-1", "--format=%P", "main", cwd=shaped("octopus"))
    assert len(octopus.split()) == 6
    links = git("ls-tree", "main", cwd=shaped("submodules"))
    assert b"160000 commit " in links


def test_the_big_blob_is_64_megabytes(shaped: Shaped) -> None:
    assert git("cat-file", "-s", "main:big.bin", cwd=shaped("big-blob")).strip() == b"64000000"


# Chains applied by plain git


def _kind(repository: Path, name: bytes) -> bytes | None:
    return run_git("cat-file", "-t", name, cwd=repository).stdout.strip() or None


class _Chain:
    """Bundles a living repository again and again: the first whole, the others what is new."""

    def __init__(self, source: Path, folder: Path) -> None:
        self._source = source
        self._folder = folder
        self._have: list[bytes] = []
        self.bundles: list[Path] = []

    def extend(self) -> None:
        state = mirror_state(self._source)
        # What the source has collected since it knows no more.
        have = [name for name in self._have if _kind(self._source, name)]
        target = self._folder / f"{len(self.bundles)}.bundle"
        needed = [name for name in have if _kind(self._source, name) == b"commit"]
        self.bundles.append(write_bundle(self._source, target, have=have, prerequisites=needed))
        tips = [*state.refs.values(), *([state.head_id] if state.head_id else [])]
        self._have = sorted(set(tips))


def _assert_restores(chain: _Chain, source: Path, target: Path) -> None:
    expected = mirror_state(source)
    assert apply_chain_with_plain_git(chain.bundles, target, object_format(source)) == expected.refs
    head = expected.head_symref or expected.head_id
    assert head is not None
    set_head(target, head)
    assert_same_mirror(target, expected)
    assert fsck(target) == []


def test_a_branch_that_becomes_a_folder_of_branches_and_back_is_applied(tmp_path: Path) -> None:
    source = init_bare(tmp_path / "source.git")
    commits = commit_chain(source, 3)
    chain = _Chain(source, tmp_path)
    for change in (
        {b"refs/heads/a": commits[0], b"refs/tags/t/u": commits[0]},
        {b"refs/heads/a": None, b"refs/heads/a/b": commits[1]},
        {b"refs/tags/t/u": None, b"refs/tags/t": commits[1]},
        {b"refs/heads/a/b": None, b"refs/heads/a": commits[2]},
    ):
        update_refs(source, change)
        chain.extend()
    _assert_restores(chain, source, tmp_path / "restored.git")


def test_a_detached_head_that_moves_alone_is_lost_by_fetch_and_kept_by_unbundle(
    tmp_path: Path,
) -> None:
    source = init_bare(tmp_path / "source.git")
    update_refs(source, {b"refs/heads/main": commit_chain(source, 1)[0]})
    chain = _Chain(source, tmp_path)
    chain.extend()
    detached = commit_chain(source, 2, label=b"detached")
    set_head(source, detached[0])
    chain.extend()
    plain = tmp_path / "plain.git"
    apply_chain_with_plain_git(chain.bundles, plain, fetch_alone=True)
    assert run_git("cat-file", "-e", detached[0], cwd=plain).returncode != 0
    _assert_restores(chain, source, tmp_path / "restored.git")
    # Worse: the next bundle leans on what was never taken out of this one.
    update_refs(source, {b"refs/heads/later": detached[1]})
    chain.extend()
    with pytest.raises(GitFailed, match="lacks these prerequisite commits"):
        apply_chain_with_plain_git(chain.bundles, tmp_path / "broken.git", fetch_alone=True)
    _assert_restores(chain, source, tmp_path / "later.git")


def test_the_deletion_of_every_ref_and_a_new_beginning_are_applied(tmp_path: Path) -> None:
    source = init_bare(tmp_path / "source.git")
    commits = commit_chain(source, 2)
    tag = write_tag(source, commits[0], "commit", b"v1")
    chain = _Chain(source, tmp_path)
    update_refs(source, {b"refs/heads/main": commits[1], b"refs/tags/v1": tag})
    chain.extend()
    update_refs(source, {b"refs/heads/main": None, b"refs/tags/v1": None})
    chain.extend()
    _assert_restores(chain, source, tmp_path / "without-refs.git")
    update_refs(source, {b"refs/heads/main": commits[0]})
    chain.extend()
    _assert_restores(chain, source, tmp_path / "restored.git")


@FEW
@given(parts=steps(min_size=1).flatmap(lambda life: steps().map(lambda more: (life, more))))
def test_a_random_life_in_bundles_is_given_back_by_plain_git(
    parts: tuple[list[Step], list[Step]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("life")
    living = LivingRepository(folder / "source.git")
    chain = _Chain(living.path, folder)
    for part in parts:
        living.live(part)
        chain.extend()
    _assert_restores(chain, living.path, folder / "restored.git")


# Living repositories


@pytest.mark.parametrize("operation", list(OPERATIONS))
def test_every_operation_works_on_an_empty_and_on_a_full_repository(
    operation: str, tmp_path: Path
) -> None:
    living = LivingRepository(tmp_path / "living.git")
    living.apply(operation, 0)
    living.live([("push", 2), ("create-branch", 2), ("create-tag", 1), ("push", 1)])
    before = living.state()
    living.apply(operation, 12345)
    after = living.state()
    assert after.refs == living.refs
    assert (after.head_symref or after.head_id) == living.head
    if operation != "collect":
        assert before != after
    assert fsck(living.path) == []


@FEW
@given(life=steps(max_size=25))
def test_a_living_repository_knows_its_own_state(
    life: list[Step], tmp_path_factory: pytest.TempPathFactory
) -> None:
    living = LivingRepository(tmp_path_factory.mktemp("life") / "living.git")
    living.live(life)
    state = living.state()
    assert state.refs == living.refs
    assert (state.head_symref or state.head_id) == living.head
    assert len(living.log) == len(life)


def test_the_same_life_gives_the_same_repository(tmp_path: Path) -> None:
    life = [(operation, 17 * number) for number, operation in enumerate(OPERATIONS)]
    twins = [LivingRepository(tmp_path / name) for name in ("one.git", "two.git")]
    for twin in twins:
        twin.live(life)
    assert_same_mirror(twins[0].state(), twins[1].state())


def test_a_living_repository_may_have_the_longer_hash(tmp_path: Path) -> None:
    living = LivingRepository(tmp_path / "living.git", "sha256")
    living.live([(operation, 3) for operation in OPERATIONS])
    living.apply("push", 0)
    assert living.state().object_format == "sha256"


# The program


def _stand_in(path: Path, body: str) -> Path:
    path.write_text(f"#!{sys.executable}\n{body}")
    path.chmod(0o755)
    return path


def test_the_program_gets_a_clean_environment_and_its_words_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = "import json, os, sys\nprint(json.dumps([sys.argv[1:], dict(os.environ)]))\n"
    monkeypatch.setattr(program, "PROGRAM", _stand_in(tmp_path / "stand-in", body))
    monkeypatch.setenv("REPO_BACKUP_TOKEN", "of the user")
    words, seen = program.repo_backup("a b", tmp_path, env={"EXTRA": "1"}).json
    assert words == ["a b", str(tmp_path)]
    assert seen.pop("EXTRA") == "1"
    # Python adds LC_CTYPE by itself where the locale is C.
    ours = {"PATH", "HOME", "LC_ALL", "TZ", "PYTHONFAULTHANDLER"}
    assert seen.keys() - {"LC_CTYPE"} == ours
    assert seen["HOME"] == str(empty_home())


def test_local_time_in_the_program_is_far_from_utc(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = "import time\nprint(time.localtime().tm_gmtoff)\n"
    monkeypatch.setattr(program, "PROGRAM", _stand_in(tmp_path / "stand-in", body))
    assert program.repo_backup().json == (13 * 60 + 45) * 60


def test_an_exit_code_that_was_not_asked_for_shows_all_the_program_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = "import sys\nprint('an answer')\nsys.exit('a complaint')\n"
    monkeypatch.setattr(program, "PROGRAM", _stand_in(tmp_path / "stand-in", body))
    with pytest.raises(program.UnexpectedExit, match=r"(?s)with 1, not 0.*an answer.*a complaint"):
        program.repo_backup("run")
    assert program.repo_backup("run", check=1).stderr == "a complaint\n"
    assert program.repo_backup("run", check=None).code == 1


def test_a_program_that_does_not_end_is_ended_with_all_it_started_and_says_where_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = (
        "import subprocess, sys\n"
        "def wait_for_ever():\n"
        "    child = subprocess.Popen(['sleep', '6000'])\n"
        "    print(child.pid, flush=True)\n"
        "    child.wait()\n"
        "wait_for_ever()\n"
    )
    monkeypatch.setattr(program, "PROGRAM", _stand_in(tmp_path / "stand-in", body))
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()),
        pytest.raises(program.StillRunning, match=r"(?s)for 8 seconds.*wait_for_ever") as raised,
    ):
        program.repo_backup("run", timeout_seconds=8)
    found = re.search(r"(?m)^([0-9]+) sleep 6000 .*\b\1 S \w+$", str(raised.value))
    assert found is not None, raised.value
    # Standard output, which the child holds, was read to its end: the child is gone as well.
    assert f"--- stdout\n{found[1]}\n" in str(raised.value)
    # What it waited for is told as well where it ends in the end.
    body = "import time\ntime.sleep(4)\n"
    monkeypatch.setattr(program, "PROGRAM", _stand_in(tmp_path / "slow", body))
    with pytest.warns(WasStuck, match=r"(?s)for 1 seconds.*--- this process.*in repo_backup"):
        assert program.repo_backup("run", patience_seconds=1, timeout_seconds=60).code == 0
    # A server of the tests may be what it waits for: our threads, and who waits to be accepted.
    ours = str(raised.value).partition("--- repo-backup")[0]
    assert "in repo_backup\n" in ours
    assert re.search(r"(?m)^0100007F:[0-9A-F]{4} 00000000:0000 0A 00000000:00000001 ", ours)


def test_a_process_that_stood_still_says_so() -> None:
    script = (
        "import time\n"
        "from tests.support.hanging import Pulse\n"
        "pulse = Pulse(gap_seconds=2, beat_seconds=0.1)\n"
        "print('ready', flush=True)\n"
        "while not (gaps := pulse.gaps()):\n"
        "    time.sleep(0.05)\n"
        "print(gaps, end='')\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, encoding="utf-8"
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.send_signal(signal.SIGSTOP)
        time.sleep(4)
        process.send_signal(signal.SIGCONT)
        said, _ = process.communicate()
    assert re.search(
        rf"(?m)^{process.pid} stood still for \S+ seconds until .* worked for 0\.", said
    )


def test_what_a_test_waits_for_is_looked_at_and_standing_still_is_no_waiting() -> None:
    pulse = Pulse(patience_seconds=0.2, gap_seconds=1000, beat_seconds=0.02)
    while not pulse.seen:
        time.sleep(0.02)
    assert "in test_what_a_test_waits_for_is_looked_at" in pulse.seen
    assert re.search(
        r"(?m)^1 x MainThread: .*test_support.py:\d+ test_what_a_test_", pulse.seen_shortly
    )
    pulse.end()
    looks: list[int] = []

    def clock() -> float:
        looks.append(1)
        return 3600.0 * len(looks)

    pulse = Pulse(patience_seconds=60, gap_seconds=15, beat_seconds=0.001, clock=clock)
    while len(looks) < 50:
        time.sleep(0.001)
    pulse.end()
    assert not pulse.seen
    assert "stood still for 3600.0 seconds" in pulse.gaps()


def test_a_started_program_can_be_signalled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = "import time\nprint('ready', flush=True)\ntime.sleep(60)\n"
    monkeypatch.setattr(program, "PROGRAM", _stand_in(tmp_path / "stand-in", body))
    with program.start_repo_backup("run") as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        assert os.getpgid(running.pid) == running.pid
        running.send_signal(signal.SIGKILL)
        running.communicate()
    assert running.returncode == -signal.SIGKILL


def test_the_program_is_the_installed_one() -> None:
    assert program.PROGRAM.is_file()
    assert program.PROGRAM.name == "repo-backup"
