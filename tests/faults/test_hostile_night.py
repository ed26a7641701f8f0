"""One night in which every second repository is hostile or broken: the others are all backed up.

``HOSTILE_REPOSITORIES=2000 pytest --junitxml=FILE tests/faults/test_hostile_night.py`` makes it a
large one, and the file says what it took.
"""

import gzip
import os
import re
import resource
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.git import commit_chain, git, init_bare, run_git, set_head, update_refs
from tests.support.github import GitHub, Token
from tests.support.gitserver import Answer, Request
from tests.support.lfsserver import commit, pointer
from tests.support.mirrors import assert_same_mirror
from tests.support.program import repo_backup
from tests.support.runner import TOKEN, Runner
from tests.support.s3server import S3Server
from tests.support.vaults import to_be_kept

COUNT = int(os.environ.get("HOSTILE_REPOSITORIES", "84"))
MAIN = b"refs/heads/main"
LISTED = {"Content-Type": "application/x-git-upload-pack-advertisement"}
ANSWERED = {"Content-Type": "application/x-git-upload-pack-result"}
HTML = {"Content-Type": "text/html; charset=utf-8"}
PAGE = f"<html><title>Sign in</title>\x1b[2J::error::no {TOKEN}{'<p>x' * 5000}</html>".encode()
ID = b"1" * 40


def line(data: bytes) -> bytes:
    return b"%04x%b" % (len(data) + 4, data)


def squeezed(data: bytes, fields: dict[str, str]) -> Answer:
    return Answer(200, fields | {"Content-Encoding": "gzip"}, gzip.compress(data))


# What a server answers to the first request, and to the second and third, in place of git.
FIRST: dict[str, Callable[[Request], Answer]] = {
    "error": lambda _: Answer(500, HTML, PAGE),
    "login": lambda _: Answer(200, HTML, PAGE),
    "forbidden": lambda _: Answer(403, HTML, PAGE),
    "gone": lambda _: Answer(410, HTML, PAGE),
    "nothing": lambda _: Answer(200, LISTED),
    "garbage": lambda _: Answer(200, LISTED, b"\xff" * 1000),
    "shouting": lambda _: Answer(
        200, LISTED, line(b"ERR \x1b[31m" + TOKEN.encode() + b"!" * 60000)
    ),
    "old-and-cut": lambda _: Answer(200, LISTED, line(b"# service=git-upload-pack\n") + b"0000"),
    "loop": lambda request: Answer(302, {"Location": request.target}),
    "away": lambda request: Answer(302, {"Location": f"http://127.0.0.1:9{request.target}"}),
    "bomb": lambda _: squeezed(bytes(300_000_000), LISTED),
}
SECOND: dict[str, Callable[[Request], Answer]] = {
    "cut-refs": lambda _: Answer(200, ANSWERED, line(ID + b" refs/heads/main\n")),
    "odd-refs": lambda _: Answer(
        200, ANSWERED, line(ID + b" refs/heads/../x\n") + line(b"z" * 40 + b" HEAD\n") + b"0000"
    ),
    "many-refs": lambda _: squeezed(
        b"".join(line(ID + b" refs/heads/%090d\n" % one) for one in range(100_000)), ANSWERED
    ),
}
THIRD: dict[str, Callable[[Request], Answer]] = {
    "no-pack": lambda _: Answer(200, ANSWERED, b"0000"),
    "bad-pack": lambda _: Answer(
        200, ANSWERED, line(b"packfile\n") + line(b"\x01PACK" + b"\xff" * 50000) + b"0000"
    ),
    "fatal": lambda _: Answer(
        200, ANSWERED, line(b"packfile\n") + line(b"\x03\x1b[0m" + TOKEN.encode()) + b"0000"
    ),
}
ON_DISK = ("lacking", "long", "pointers", "bad-link")
KINDS = (*FIRST, *SECOND, *THIRD, *ON_DISK)
# What can be had of these is stored.
STORED = frozenset({"long", "pointers", "bad-link"})


class Hostile:
    """Answers by a repository's name; one worker at a time asks for one."""

    def __init__(self) -> None:
        self._asked: dict[str, int] = {}

    def __call__(self, request: Request) -> Answer | None:
        found = re.match(r"/acme/(([a-z-]+)-\d+)\.git/(?!info/lfs)", request.target)
        if found is None:
            return None
        name, kind = found[1], found[2]
        # Each try begins with what the server can do; the refs and the pack follow.
        self._asked[name] = 1 if request.method == "GET" else self._asked.get(name, 0) + 1
        answers = {1: FIRST, 2: SECOND, 3: THIRD}.get(self._asked[name], {})
        return answers[kind](request) if kind in answers else None


def make(path: Path, kind: str) -> None:
    match kind:
        case "lacking":
            tree = git("rev-parse", "main^{tree}", cwd=path).decode().strip()
            (path / "objects" / tree[:2] / tree[2:]).unlink()
        case "long":
            tree = git("rev-parse", "main^{tree}", cwd=path).decode().strip()
            words = run_git("commit-tree", tree, cwd=path, input=b"x" * 30_000_000).stdout
            update_refs(path, {MAIN: words.strip()})
        case "pointers":
            many = {f"f{number}": pointer(b"%d" % number) for number in range(150)}
            commit(path, "main", many)
        case "bad-link":
            (path / "objects" / "info" / "alternates").write_text("/proc/self/root\n")
            (path / "HEAD").write_text("ref: refs/heads/\x1b[31m\n")


@pytest.fixture(scope="module")
def forge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GitHub]:
    root = tmp_path_factory.mktemp("forge")
    templates = {}
    for kind in ("", *ON_DISK):
        path = templates[kind] = init_bare(root / "templates" / f"{kind or 'honest'}.git")
        update_refs(path, {MAIN: commit_chain(path, 3, label=kind.encode())[-1]})
        set_head(path, MAIN)
        make(path, kind)
    with GitHub(root, answer=Hostile()) as made:
        acme = made.owner("acme")
        made.tokens[TOKEN] = Token("jane")
        made.owner("jane", kind="User")
        for number in range(COUNT):
            kind = KINDS[number // 2 % len(KINDS)] if number % 2 else ""
            name = f"{kind or 'honest'}-{number}"
            template = templates[kind if kind in ON_DISK else ""]
            shutil.copytree(template, root / "acme" / f"{name}.git")
            made.repository(acme, name)
        yield made


def test_every_other_repository_is_backed_up_whole(
    forge: GitHub,
    moto_http: S3Server,
    tmp_path: Path,
    record_testsuite_property: Callable[[str, object], None],
) -> None:
    bucket = f"hostile-{COUNT}"
    moto_http.make_bucket(bucket)
    store = moto_http.environment() | {"AWS_ENDPOINT_URL": moto_http.endpoint_url}
    runner = Runner(tmp_path / "runner", forge.url, more=store)
    process = runner.start(bucket=bucket, prefix="git", wikis="false", concurrency="8")
    stdout, stderr = process.communicate(timeout=300 + COUNT)
    step = runner.seen(process.returncode, stdout, stderr)
    rows = {one["path"]: one for one in step.report["repositories"]}
    assert (step.code, len(rows)) == (3, COUNT), step.stderr[-2000:]
    honest = [name for name in rows if name.startswith("honest-")]
    assert {rows[name]["status"] for name in honest} == {"captured"}
    assert len(honest) == COUNT // 2
    for name, row in rows.items():
        kind = name.rpartition("-")[0]
        if kind != "honest":
            assert row["status"] == ("captured" if kind in STORED else "failed"), row
        assert "bug" not in row["reason"], row
    # What servers shout into everybody's face is shown as text, and no secret is.
    masks = {f"::add-mask::{value}" for name, value in step.commands if name == "add-mask"}
    said = "\n".join(one for one in step.shown.splitlines() if one not in masks)
    said += str(step.report)
    assert "\x1b" not in said
    # Its digits at the end stand in the emulator's account number, too.
    letters = TOKEN.rstrip("0123456789")
    assert [at for at in range(len(letters) - 7) if letters[at : at + 8] in said] == []
    assert not [name for name, value in step.commands if value.startswith("no ")]
    assert len(step.summary.encode()) < 1_000_000
    for name in (honest[0], honest[-1]):
        words = ("restore", f"acme/{name}", "--from", f"s3://{bucket}/git")
        repo_backup(*words, tmp_path / name, env=store)
        assert_same_mirror(tmp_path / name, to_be_kept(forge.root / "acme" / f"{name}.git"))
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    record_testsuite_property("statuses", dict(Counter(one["status"] for one in rows.values())))
    record_testsuite_property("summary_bytes", len(step.summary.encode()))
    record_testsuite_property("largest_process_megabytes", used.ru_maxrss // 1000)
    record_testsuite_property("log", step.stderr.strip().splitlines()[-1])
