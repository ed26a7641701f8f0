"""``restore --push`` where names are not what they seem, and where others push at the same time."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.git import (
    FastImport,
    commit_chain,
    git,
    init_bare,
    update_refs,
)
from tests.support.gitserver import Answer, GitHttpServer, Request
from tests.support.mirrors import assert_same_mirror, mirror_state
from tests.support.program import Completed, repo_backup

MAIN, TOPIC, TAG = b"refs/heads/main", b"refs/heads/topic", b"refs/tags/v1"
NESTED = b"refs/heads/refs/heads/main"
SECRET = "s3cret-token-of-the-remote"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitHttpServer]:
    with GitHttpServer(tmp_path / "remote", credentials=("x-access-token", SECRET)) as server:
        yield server


def remote(server: GitHttpServer, object_format: str = "sha1") -> Path:
    path = init_bare(server.root / "new.git", object_format)
    git("config", "http.receivepack", "true", cwd=path)
    return path


def backed_up(source: Path) -> Path:
    """Back up the one repository of a folder."""
    vault = source.parent.parent / "vault"
    repo_backup("run", "--from", source.parent, "--to", vault)
    return vault


def push(vault: Path, to: str | Path, *words: str | Path, check: int = 0) -> Completed:
    return repo_backup(
        *("restore", "widgets", "--from", vault, "--push", str(to), "--json", *words),
        env={"REPO_BACKUP_TOKEN": SECRET},
        check=check,
    )


def refused(done: Completed) -> dict[str, str]:
    return {one["ref"]: one["reason"] for one in done.json["push"]["refused"]}


def hook(path: Path, name: str, script: str) -> None:
    place = path / "hooks" / name
    place.parent.mkdir(exist_ok=True)
    place.write_text(f"#!/bin/sh\n{script}\n")
    place.chmod(0o755)


# --- Names that git takes for others -------------------------------------------------------------


@pytest.mark.parametrize("object_format", ["sha1", "sha256"])
def test_a_ref_named_like_an_id_is_never_taken_for_the_object(
    server: GitHttpServer, tmp_path: Path, object_format: str
) -> None:
    path = init_bare(tmp_path / "acme" / "widgets.git", object_format)
    line = commit_chain(path, 4)
    decoy = line[3]
    # The backup's tips, named by other refs, whole and as far as a shorter id would go.
    update_refs(
        path,
        {
            MAIN: line[0],
            TOPIC: line[1],
            b"refs/notes/commits": line[2],
            b"refs/heads/" + line[0]: decoy,
            b"refs/tags/" + line[1]: decoy,
            b"refs/" + line[2]: decoy,
            b"refs/heads/" + line[0][:16]: decoy,
            b"refs/tags/" + line[0][:40] + b"-": decoy,
            **({b"refs/heads/" + line[0][:40]: decoy} if object_format == "sha256" else {}),
        },
    )
    vault = backed_up(path)
    # Neither git at the one end sends it, nor git at the other takes it.
    alone = (b"refs/" + line[2]).decode()
    refs = mirror_state(path).refs
    expected = {name: oid for name, oid in refs.items() if name != alone.encode()}
    assert len(expected) >= 7
    here, there = init_bare(tmp_path / "here.git", object_format), remote(server, object_format)
    kept = tmp_path / "kept.git"
    assert refused(push(vault, here, kept, check=3)) == {
        alone: "git push takes no ref that lies directly in refs/"
    }
    push(vault, f"{server.url}/new.git", check=3)
    assert mirror_state(here).refs == mirror_state(there).refs == expected
    # Nothing of the push stays in the folder that is kept.
    assert_same_mirror(kept, path)
    # What differs goes by its own id, too.
    update_refs(there, {MAIN: line[1], TOPIC: line[0]})
    push(vault, f"{server.url}/new.git", "--force", check=3)
    assert mirror_state(there).refs == expected


def test_a_name_inside_another_one_is_pushed_as_itself(
    server: GitHttpServer, tmp_path: Path
) -> None:
    path = init_bare(tmp_path / "acme" / "widgets.git")
    line = commit_chain(path, 5)
    # git push takes refs/heads/main for refs/heads/refs/heads/main, also at the other end.
    refs = {
        MAIN: line[4],
        NESTED: line[0],
        b"refs/heads/zed": line[1],
        b"refs/heads/refs/heads/zed": line[2],
        b"refs/tags/refs/heads/zed": line[3],
        b"refs/heads/refs/heads/refs/heads/zed": line[3],
        b"refs/refs/tags/v1": line[2],
        TAG: line[3],
    }
    update_refs(path, refs)
    vault = backed_up(path)
    here, there = init_bare(tmp_path / "here.git"), remote(server)
    for target, url in ((here, str(here)), (there, f"{server.url}/new.git")):
        push(vault, url)
        assert mirror_state(target).refs == refs, url


def test_a_longer_name_of_the_remote_is_not_overwritten(
    server: GitHttpServer, tmp_path: Path
) -> None:
    path = init_bare(tmp_path / "acme" / "widgets.git")
    line = commit_chain(path, 3)
    update_refs(path, {MAIN: line[2], TOPIC: line[1]})
    vault = backed_up(path)
    here, there = init_bare(tmp_path / "here.git"), remote(server)
    for target in (here, there):
        git("fetch", "--quiet", path, line[0].decode(), cwd=target)
        update_refs(target, {NESTED: line[0]})
    push(vault, here)
    assert mirror_state(here).refs == {NESTED: line[0], MAIN: line[2], TOPIC: line[1]}
    # Over HTTP git cannot be told which is meant: that ref is refused, and no other.
    done = push(vault, f"{server.url}/new.git", "--force", check=3)
    assert refused(done).keys() == {"refs/heads/main"}
    assert "takes the remote's refs/heads/refs/heads/main for it" in refused(done)[MAIN.decode()]
    assert mirror_state(there).refs == {NESTED: line[0], TOPIC: line[1]}


# --- Parts of a history --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[bytes]]:
    """Back up a line of five commits of 400 kB, each with a branch that names another by its id."""
    path = init_bare(tmp_path_factory.mktemp("long") / "acme" / "widgets.git")
    noise, stream = random.Random(7), FastImport(path)
    marks: list[bytes] = []
    for number in range(5):
        files = {b"%d" % number: noise.randbytes(400_000)}
        marks.append(stream.commit(marks[-1:], files=files, at=10**9 + number))
    decoy = stream.commit(files={b"decoy": b"decoy"})
    ids = stream.run()
    line = [ids[mark] for mark in marks]
    update_refs(path, {MAIN: line[-1], **{b"refs/heads/" + one: ids[decoy] for one in line}})
    return backed_up(path), line


def parts_of(log: Path) -> dict[str, list[str]]:
    """Read what the hook wrote down of refs for parts: name to its ids, zeros for none."""
    seen: dict[str, list[str]] = {}
    for words in map(str.split, log.read_text().splitlines()):
        seen.setdefault(words[2], []).extend(words[:2])
    return {name: ids for name, ids in seen.items() if "repo-backup" in name}


def test_parts_have_names_that_nobody_has_and_only_those_are_removed(
    long: tuple[Path, list[bytes]], server: GitHttpServer, tmp_path: Path
) -> None:
    vault, line = long
    path, log = remote(server), tmp_path / "log"
    own = commit_chain(path, 1, label=b"own")[0]
    theirs = {
        b"refs/heads/repo-backup-part-mine": own,
        b"refs/repo-backup/part-" + line[1][:16]: own,
        b"refs/repo-backup/part-%b-1" % line[1][:16]: own,
        b"refs/heads/" + line[0] + b"-": own,
    }
    update_refs(path, theirs)
    hook(path, "post-receive", f"cat >> {log}")
    done = push(vault, f"{server.url}/new.git", "--push-batch-mib", "1")
    assert mirror_state(path).refs == {**mirror_state(source(vault)).refs, **theirs}
    parts = parts_of(log)
    assert parts
    for name, ids in parts.items():
        # Made of nothing, out of the line itself, and removed as it was made.
        assert ids[1].encode() in line
        assert ids == ["0" * 40, ids[1], ids[1], "0" * 40]
        assert f"made {name} at the remote" in done.stderr
    assert "from the remote" in done.stderr
    (note,) = (one for one in done.json["push"]["notes"] if "git push --delete" in one)
    assert note.endswith(f" {server.url}/new.git refs/repo-backup/part-{line[1][:16].decode()}-1")


def source(vault: Path) -> Path:
    return vault.parent / "acme" / "widgets.git"


def test_a_ref_for_parts_that_another_process_moved_stays(
    long: tuple[Path, list[bytes]], server: GitHttpServer
) -> None:
    vault, _ = long
    path = remote(server)
    own = commit_chain(path, 1, label=b"own")[0].decode()
    moves = f'case $name in *repo-backup*) git update-ref "$name" {own} "$new";; esac'
    hook(path, "post-receive", f"while read old new name; do {moves}; done")
    done = push(vault, f"{server.url}/new.git", "--push-batch-mib", "1")
    left = mirror_state(path).refs.keys() - mirror_state(source(vault)).refs.keys()
    assert left
    assert {mirror_state(path).refs[name].decode() for name in left} == {own}
    assert "was not removed" in done.stderr
    (note,) = done.json["push"]["notes"]
    assert all(name.decode() in note for name in left)


# --- What others do at the same time -------------------------------------------------------------


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[bytes]]:
    path = init_bare(tmp_path_factory.mktemp("small") / "acme" / "widgets.git")
    line = commit_chain(path, 3)
    update_refs(path, {MAIN: line[2], TOPIC: line[2], TAG: line[2]})
    return backed_up(path), line


def when(server: GitHttpServer, word: str, do: Callable[[], None]) -> None:
    """Do something once, before a request with this word in its target is answered."""
    waiting = [do]

    def answer(request: Request) -> Answer | None:
        if word in request.target and waiting:
            waiting.pop()()
        return None

    server.answer = answer


@pytest.mark.parametrize("force", [(), ("--force",)], ids=["plain", "force"])
@pytest.mark.parametrize(
    "moment", ["info/refs?service=git-receive-pack", "new.git/git-receive-pack"]
)
def test_what_another_process_pushes_meanwhile_is_not_overwritten(
    small: tuple[Path, list[bytes]], server: GitHttpServer, force: tuple[str, ...], moment: str
) -> None:
    vault, line = small
    path = remote(server)
    git("fetch", "--quiet", source(vault), "refs/heads/main", cwd=path)
    update_refs(path, {MAIN: line[0], b"refs/heads/other": line[0]})
    # One that was there moves, and one that was not comes; a push could go forward from both.
    theirs = {MAIN: line[1], TOPIC: line[0]}
    when(server, moment, lambda: update_refs(path, theirs))
    done = push(vault, f"{server.url}/new.git", *force, check=3)
    assert mirror_state(path).refs == {**theirs, TAG: line[2], b"refs/heads/other": line[0]}
    assert refused(done).keys() == {"refs/heads/main", "refs/heads/topic"}
    told: dict[str, Any] = done.json["push"]
    assert told["sent"] == ["refs/tags/v1"]
    if "info/refs" in moment:
        assert "another process changed it meanwhile" in refused(done)["refs/heads/topic"]


def test_what_the_remote_has_is_not_moved_forward_without_force(
    small: tuple[Path, list[bytes]], server: GitHttpServer
) -> None:
    vault, line = small
    path = remote(server)
    git("fetch", "--quiet", source(vault), "refs/heads/main", cwd=path)
    had = {MAIN: line[0], TAG: line[1]}
    update_refs(path, had)
    url = f"{server.url}/new.git"
    done = push(vault, url, check=3)
    assert refused(done) == {
        name.decode(): f"the remote has {oid.decode()}: only --force overwrites it"
        for name, oid in had.items()
    }
    assert mirror_state(path).refs == {**had, TOPIC: line[2]}
    push(vault, url, "--force")
    assert mirror_state(path).refs == dict.fromkeys((MAIN, TOPIC, TAG), line[2])
