"""``restore --push``: to remotes behind real ``git http-backend`` and a real sshd."""

import random
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.git import (
    FastImport,
    commit_chain,
    git,
    init_bare,
    set_head,
    update_refs,
    write_blob,
    write_tag,
    write_tree,
)
from tests.support.github import GitHub, Token
from tests.support.gitserver import Answer, GitHttpServer
from tests.support.mirrors import MirrorState, assert_same_mirror, fsck, mirror_state
from tests.support.program import Completed, repo_backup
from tests.support.sshserver import ssh_server
from tests.support.vaults import to_be_kept

MAIN, TOPIC = b"refs/heads/main", b"refs/heads/topic"
SECRET = "s3cret-token-of-the-remote"
PULLS = (b"refs/pull/1/head", b"refs/pull/2/head")


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Back up one repository with every kind of ref, and with pull refs."""
    folder = tmp_path_factory.mktemp("push")
    path = init_bare(folder / "acme" / "widgets.git")
    main = commit_chain(path, 5)
    tag = write_tag(path, main[2], "commit", b"v1")
    update_refs(
        path,
        {
            b"refs/heads/develop": main[4],
            TOPIC: commit_chain(path, 2, start=main[1], label=b"topic")[-1],
            b"refs/heads/\xe9t\xe9": main[0],
            b"refs/tags/v1": tag,
            b"refs/tags/v1-nested": write_tag(path, tag, "tag", b"nested"),
            b"refs/notes/commits": commit_chain(path, 1, label=b"note")[-1],
            b"refs/custom/thing": main[3],
            **dict.fromkeys(PULLS, main[1]),
            b"refs/stash": main[0],
        },
    )
    set_head(path, b"refs/heads/develop")
    repo_backup("run", "--from", folder / "acme", "--to", folder / "vault", "--pull-refs")
    return folder / "vault"


def source(vault: Path) -> Path:
    return vault.parent / "acme" / "widgets.git"


def pushed(vault: Path) -> MirrorState:
    """Return what a remote gets: all but what forges make themselves, and the stash."""
    state = to_be_kept(source(vault))
    return replace(state, refs={n: o for n, o in state.refs.items() if n != b"refs/stash"})


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitHttpServer]:
    with GitHttpServer(tmp_path / "remote", credentials=("x-access-token", SECRET)) as server:
        yield server


def remote(server: GitHttpServer, name: str = "new") -> Path:
    path = init_bare(server.root / f"{name}.git")
    git("config", "http.receivepack", "true", cwd=path)
    return path


def hook(path: Path, script: str, name: str = "pre-receive") -> None:
    place = path / "hooks" / name
    place.parent.mkdir(exist_ok=True)
    place.write_text(f"#!/bin/sh\n{script}\n")
    place.chmod(0o755)


def push(
    vault: Path,
    server: GitHttpServer,
    *words: str | Path,
    name: str = "new",
    check: int = 0,
    repository: str = "widgets",
) -> Completed:
    return repo_backup(
        *("restore", repository, "--from", vault, "--push", f"{server.url}/{name}.git", "--json"),
        *words,
        env={"REPO_BACKUP_TOKEN": SECRET},
        check=check,
    )


def test_a_fresh_remote_has_every_ref_but_a_forge_s_own(
    vault: Path, server: GitHttpServer, tmp_path: Path
) -> None:
    path = remote(server)
    done = push(vault, server)
    told = done.json["push"]
    assert done.json["restored"] == []
    expected = pushed(vault)
    assert mirror_state(path).refs == expected.refs
    assert fsck(path) == []
    assert {name.encode("utf-8", "surrogateescape") for name in told["sent"]} == {*expected.refs}
    assert told["hidden"] == [*(name.decode() for name in PULLS), "refs/stash"]
    assert (told["refused"], told["unchanged"]) == ([], 0)
    # The first branch becomes a forge's default.
    assert "pushing 1 refs, beginning with refs/heads/develop" in done.stderr
    assert told["notes"] == []
    assert not list(tmp_path.glob("*push*"))
    again = push(vault, server).json["push"]
    assert (again["sent"], again["unchanged"], again["batches"]) == ([], len(expected.refs), 0)


def test_what_is_pushed_is_kept_where_a_target_says_so(
    vault: Path, server: GitHttpServer, tmp_path: Path
) -> None:
    remote(server)
    done = push(vault, server, tmp_path / "kept.git")
    assert [one["path"] for one in done.json["restored"]] == [str(tmp_path / "kept.git")]
    assert_same_mirror(tmp_path / "kept.git", to_be_kept(source(vault), pull_refs=True))
    remote(server, "other")
    push(vault, server, "--checkout", tmp_path / "clone", name="other")
    assert (tmp_path / "clone" / ".git").is_dir()


def test_what_differs_is_overwritten_only_by_force(vault: Path, server: GitHttpServer) -> None:
    path = remote(server)
    ahead = commit_chain(path, 3, label=b"theirs")[-1]
    kept = {TOPIC: ahead, b"refs/tags/v1": ahead}
    theirs = {MAIN: ahead, b"refs/heads/theirs": ahead}
    update_refs(path, kept | theirs)
    told = push(vault, server, check=3).json["push"]
    refused = {one["ref"]: one["reason"] for one in told["refused"]}
    assert refused.keys() == {"refs/heads/topic", "refs/tags/v1"}
    assert refused["refs/heads/topic"].endswith(": only --force overwrites it")
    expected = pushed(vault).refs
    assert mirror_state(path).refs == {**expected, **kept, **theirs}
    assert told["notes"] == [
        "the remote's HEAD is refs/heads/main: make refs/heads/develop its default branch",
        "2 refs of the remote are not in this backup, and were left alone",
    ]
    forced = push(vault, server, "--force").json["push"]
    assert sorted(forced["sent"]) == ["refs/heads/topic", "refs/tags/v1"]
    assert mirror_state(path).refs == {**expected, **theirs}


@pytest.mark.parametrize("words", [(), ("--force",)], ids=["", "by force"])
@pytest.mark.parametrize("protocol", [2, 0])
def test_nothing_is_pushed_through_another_name_for_a_ref_of_the_remote(
    vault: Path, server: GitHttpServer, protocol: int, words: tuple[str, ...]
) -> None:
    path = remote(server)
    theirs = commit_chain(path, 3, label=b"theirs")[-1]
    update_refs(path, {MAIN: theirs})
    git("symbolic-ref", TOPIC.decode(), MAIN.decode(), cwd=path)
    server.protocol = protocol
    told = push(vault, server, *words, check=3).json["push"]
    refused = {one["ref"]: one["reason"] for one in told["refused"]}
    if protocol == 2:
        reason = "the remote has it as another name for refs/heads/main"
        assert refused == {"refs/heads/topic": reason}
        assert mirror_state(path).refs[MAIN] == theirs
    elif not words:
        assert "only --force overwrites it" in refused["refs/heads/topic"]
        assert mirror_state(path).refs[MAIN] == theirs
    else:
        # A server of version 0 does not say that it is one; what came of it is told.
        assert "it changed" in refused["refs/heads/main"]
        assert not any("left alone" in note for note in told["notes"])


def test_what_appears_at_the_remote_behind_another_name_is_told(
    vault: Path, server: GitHttpServer
) -> None:
    path = remote(server)
    git("symbolic-ref", TOPIC.decode(), "refs/heads/gone", cwd=path)
    told = push(vault, server, check=3).json["push"]
    (refused,) = told["refused"]
    assert refused["ref"] == "refs/heads/gone"
    assert "as what another name at the remote stands for" in refused["reason"]


def test_a_ref_that_the_remote_refuses_costs_no_other(vault: Path, server: GitHttpServer) -> None:
    path = remote(server)
    # A server that takes all or nothing, and says why beside it.
    refuse = 'case $name in *topic) echo "no topics" >&2; exit 1;; esac'
    hook(path, f"while read old new name; do {refuse}; done")
    git("config", "receive.hideRefs", "refs/custom", cwd=path)
    done = push(vault, server, check=3)
    told = done.json["push"]
    refused = {one["ref"]: one["reason"] for one in told["refused"]}
    assert refused.keys() == {"refs/heads/topic", "refs/custom/thing"}
    assert "no topics" in refused["refs/heads/topic"]
    assert "hidden ref" in refused["refs/custom/thing"]
    expected = pushed(vault).refs
    lacking = {TOPIC, b"refs/custom/thing"}
    assert mirror_state(path).refs == {n: o for n, o in expected.items() if n not in lacking}
    shown = repo_backup(
        *("restore", "widgets", "--from", vault, "--push", f"{server.url}/new.git"),
        env={"REPO_BACKUP_TOKEN": SECRET},
        check=3,
    ).stdout
    assert "refused: refs/heads/topic: [remote rejected]" in shown
    assert "and a stash is its owner's: refs/pull/1/head, refs/pull/2/head, refs/stash" in shown


def test_what_counts_is_what_the_remote_has_afterwards(vault: Path, server: GitHttpServer) -> None:
    path = remote(server)
    hook(path, "git update-ref -d refs/heads/topic", name="post-receive")
    told = push(vault, server, check=3).json["push"]
    (refused,) = told["refused"]
    assert refused == {
        "ref": "refs/heads/topic",
        "reason": "the remote says that it has no such ref",
    }
    assert "refs/heads/topic" not in told["sent"]


def test_a_branch_that_names_no_commit_is_refused_by_name(
    server: GitHttpServer, tmp_path: Path
) -> None:
    path = init_bare(tmp_path / "acme" / "odd.git")
    tree = write_tree(path, [(b"100644", b"blob", write_blob(path, b"x"), b"file")])
    update_refs(path, {MAIN: commit_chain(path, 2)[-1], b"refs/tags/tree": tree})
    (path / "refs/heads/odd").write_bytes(tree + b"\n")
    repo_backup("run", "--from", tmp_path / "acme", "--to", tmp_path / "vault")
    target = remote(server)
    told = push(tmp_path / "vault", server, repository="odd", check=3).json["push"]
    assert [one["ref"] for one in told["refused"]] == ["refs/heads/odd"]
    assert mirror_state(target).refs.keys() == {MAIN, b"refs/tags/tree"}


# --- What cannot be reached, or lets nobody in ---------------------------------------------------


def test_the_remote_is_asked_before_anything_is_restored(
    vault: Path, server: GitHttpServer, tmp_path: Path
) -> None:
    missing = push(vault, server, tmp_path / "kept.git", name="nowhere", check=1)
    assert "make the repository first" in missing.stderr
    remote(server)
    words = ("restore", "widgets", "--from", vault, "--push", f"{server.url}/new.git")
    for token in (None, "wrong"):
        env = {} if token is None else {"REPO_BACKUP_TOKEN": token}
        refused = repo_backup(*words, env=env, check=1)
        assert "give a token with write access in REPO_BACKUP_TOKEN" in refused.stderr, token
        assert "restore" not in refused.stderr.partition("hint")[0].partition("error")[0]
    assert not list(tmp_path.glob("*kept*"))
    # A token that was given to read a forge goes nowhere else.
    repo_backup(*words, env={"BACKUP_GITHUB_PAT": SECRET}, check=1)


def test_a_redirect_gets_no_token(vault: Path, server: GitHttpServer) -> None:
    remote(server)
    with GitHttpServer(server.root) as other:
        server.answer = lambda one: Answer(302, {"Location": f"{other.url}{one.target}"})
        push(vault, server, check=1)
        assert other.requests == []


def test_the_token_is_in_no_command_line_and_on_no_disk(
    vault: Path, server: GitHttpServer, tmp_path: Path
) -> None:
    path = remote(server)
    hook(path, "sleep 2")
    seen: set[bytes] = set()
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            for place in Path("/proc").glob("[0-9]*/cmdline"):
                try:
                    seen.add(place.read_bytes())
                except OSError:
                    continue
            time.sleep(0.02)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        done = push(vault, server, tmp_path / "kept.git")
    finally:
        over.set()
        looking.join()
    assert any(b"--porcelain" in line for line in seen)
    assert not [line for line in seen if SECRET.encode() in line]
    assert SECRET not in done.stdout + done.stderr
    files = [place for place in (tmp_path / "kept.git").rglob("*") if place.is_file()]
    assert not [place for place in files if SECRET.encode() in place.read_bytes()]


def test_a_push_to_a_repository_of_this_machine(vault: Path, tmp_path: Path) -> None:
    path = init_bare(tmp_path / "new.git")
    words = ("restore", "widgets", "--from", vault, "--push", "new.git")
    repo_backup(*words, cwd=tmp_path)
    assert mirror_state(path).refs == pushed(vault).refs
    (tmp_path / "empty").mkdir()
    refused = repo_backup(*words[:-1], "empty", cwd=tmp_path, check=1)
    assert "does not appear to be a git repository" in refused.stderr


def test_a_push_over_ssh(vault: Path, tmp_path: Path) -> None:
    path = init_bare(tmp_path / "root" / "new.git")
    with ssh_server(tmp_path / "root", tmp_path / "ssh", writes=True) as server:
        env = {
            "REPO_BACKUP_SSH_KEY_FILE": str(server.key_file),
            "REPO_BACKUP_SSH_KNOWN_HOSTS_FILE": str(server.known_hosts_file),
        }
        words = ("restore", "widgets", "--from", vault, "--push", f"{server.url}/new.git")
        repo_backup(*words, env=env)
        assert mirror_state(path).refs == pushed(vault).refs
        env["REPO_BACKUP_SSH_KEY_FILE"] = str(server.other_key_file)
        assert "does not accept the key" in repo_backup(*words, env=env, check=1).stderr


# --- More than goes at once ----------------------------------------------------------------------


MIB = 1 << 20


@pytest.fixture(scope="module")
def large(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Back up some MiB that do not compress: a long line, one merge of much, and many branches."""
    folder = tmp_path_factory.mktemp("large")
    path = init_bare(folder / "acme" / "large.git")
    noise = random.Random(7)
    stream = FastImport(path)

    def line(count: int, label: bytes, start: bytes | None = None) -> list[bytes]:
        made = [] if start is None else [start]
        for number in range(count):
            files = {b"%s-%d" % (label, number): noise.randbytes(300_000)}
            made.append(stream.commit(made[-1:], files=files, at=10**9 + number))
        return made

    main = line(16, b"main")
    side = line(6, b"side", main[0])
    own = {b"own": noise.randbytes(900_000)}
    merge = stream.commit([main[-1], side[-1]], files=own, at=10**9 + 100)
    others = [line(1, b"other-%d" % number, main[0])[-1] for number in range(6)]
    ids = stream.run()
    refs = {b"refs/heads/b%d" % number: ids[mark] for number, mark in enumerate(others)}
    tag = write_tag(path, ids[merge], "commit", b"v1")
    update_refs(path, {MAIN: ids[merge], b"refs/tags/v1": tag, **refs})
    repo_backup("run", "--from", folder / "acme", "--to", folder / "vault")
    return folder / "vault"


def push_large(large: Path, server: GitHttpServer, *words: str, check: int = 0) -> Completed:
    return push(large, server, *words, repository="large", check=check)


def test_history_goes_in_batches_that_the_remote_takes(large: Path, server: GitHttpServer) -> None:
    path = remote(server)
    # What a forge's limit does, at a smaller size: a larger pack is refused as a whole.
    git("config", "receive.maxInputSize", str(int(1.2 * MIB)), cwd=path)
    refused = push_large(large, server, check=3).json["push"]
    assert "exceeds maximum allowed size" in refused["refused"][0]["reason"]
    told = push_large(large, server, "--push-batch-mib", "1").json["push"]
    assert told["batches"] > 5
    state = mirror_state(path)
    # Nothing is left of the refs that held parts meanwhile.
    assert state.refs == to_be_kept(large.parent / "acme" / "large.git").refs
    assert fsck(path) == []


def test_a_push_that_broke_off_goes_on(large: Path, server: GitHttpServer, tmp_path: Path) -> None:
    path = remote(server)
    count = tmp_path / "count"
    hook(path, f"echo x >> {count}; test $(wc -l < {count}) -lt 5")
    failed = push_large(large, server, "--push-batch-mib", "1", check=1)
    assert "refuses a part of the history" in failed.stderr
    held = mirror_state(path).refs
    assert held
    assert all(name.startswith(b"refs/repo-backup/part-") for name in held)
    assert "stay at the remote" in failed.stderr
    (path / "hooks" / "pre-receive").unlink()
    again = push_large(large, server, "--push-batch-mib", "1")
    told = again.json["push"]
    assert told["refused"] == []
    # What was there is not sent again, and not taken away: it could be another push's.
    ups = [words.split()[-1] for words in again.stderr.splitlines() if "history up to" in words]
    assert ups
    assert not {oid.encode() for oid in ups} & {*held.values()}
    expected = to_be_kept(large.parent / "acme" / "large.git").refs
    assert mirror_state(path).refs == {**expected, **held}
    (note,) = told["notes"]
    command = note[note.index("git push --delete ") :].split()
    assert command[4:] == [name.decode() for name in sorted(held)]
    # As it is said, but for the way there.
    git(*command[1:3], path, *command[4:], cwd=path)
    assert mirror_state(path).refs == expected


def test_a_server_that_takes_no_names_of_ours_gets_branches(
    large: Path, server: GitHttpServer
) -> None:
    path = remote(server)
    git("config", "receive.hideRefs", "refs/repo-backup", cwd=path)
    git("config", "receive.maxInputSize", str(int(1.2 * MIB)), cwd=path)
    push_large(large, server, "--push-batch-mib", "1")
    assert mirror_state(path).refs == to_be_kept(large.parent / "acme" / "large.git").refs


# --- Workflow files ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scopes", "code", "said"),
    [
        ("repo, gist", 1, "the token may not push workflow files"),
        ("repo, workflow", 0, ""),
        (None, 0, "there are workflow files, which need a right of their own"),
    ],
)
def test_a_token_that_may_push_no_workflow_is_named_before_the_push(
    tmp_path: Path, scopes: str | None, code: int, said: str
) -> None:
    path = init_bare(tmp_path / "acme" / "ci.git")
    stream = FastImport(path)
    mark = stream.commit(files={b".github/workflows/ci.yml": b"on: push\n"})
    # Also where only the history has it, and only one side of a merge.
    plain = stream.commit(files={b"readme": b"hello\n"})
    merge = stream.commit([plain, mark], message=b"Ours.\n")
    update_refs(path, {MAIN: stream.run()[merge]})
    repo_backup("run", "--from", tmp_path / "acme", "--to", tmp_path / "vault")
    with GitHub(tmp_path / "remote") as forge:
        forge.tokens[SECRET] = Token("jane", scopes=scopes)
        target = remote(forge.server)
        words = (
            *("restore", "ci", "--from", tmp_path / "vault"),
            *("--push", f"{forge.url}/new.git", "--server-url", forge.url),
        )
        done = repo_backup(*words, env={"REPO_BACKUP_TOKEN": SECRET}, check=code)
        assert said in done.stdout + done.stderr
        assert bool(mirror_state(target).refs) == (code == 0)
        asked = [one.target for one in forge.requests]
        assert asked == ["/api/v3/rate_limit"]
        # Where the remote has them already there is nothing to ask.
        if code == 0:
            repo_backup(*words, env={"REPO_BACKUP_TOKEN": SECRET})
            assert len(forge.requests) == 1


# --- What is refused -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (
            ("--all", "--push", "https://h.example/x.git", "d"),
            "--push and --all exclude each other",
        ),
        (("*", "--push", "https://h.example/x.git"), "--push takes one repository"),
        (("widgets", "--force"), "--force needs --push too"),
        (("widgets", "--push", "http://h.example/x.git"), "would send"),
        (("widgets", "--push", "https://me:pw@h.example/x.git"), "holds credentials"),
        (("widgets", "--push", "ftp://h.example/x.git"), "is no URL of a repository"),
        (("widgets", "--push", "nowhere"), "'nowhere' does not exist"),
        (("widgets", "--push", "https://h.example/x.git", "--push-batch-mib", "0"), "1 to 1000000"),
    ],
)
def test_what_makes_no_sense_is_refused_before_anything_is_asked(
    vault: Path, tmp_path: Path, words: tuple[str, ...], problem: str
) -> None:
    refused = repo_backup(
        "restore",
        *words,
        "--from",
        vault,
        env={"REPO_BACKUP_TOKEN": SECRET},
        cwd=tmp_path,
        check=2,
    )
    assert problem in refused.stderr
    assert not list(tmp_path.iterdir())
