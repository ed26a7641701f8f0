"""Runs the real git program, shut off from every configuration but the repository's own.

Repositories for tests are made through git's plumbing (fast-import, hash-object, update-ref),
which is fast and takes what the porcelain refuses. Object ids and ref names are bytes, as git
prints them.
"""

import atexit
import functools
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

NULL_ID: Mapping[str, bytes] = {"sha1": b"0" * 40, "sha256": b"0" * 64}

AUTHOR = b"Ada Author <ada@example.org>"
COMMITTER = b"Carl Committer <carl@example.org>"
EPOCH = 1_700_000_000

Argument = str | bytes | os.PathLike[str]

_SCRATCH = b"refs/scratch/import"


class GitFailed(Exception):
    """The git program ended with another exit status than 0."""


@functools.cache
def empty_home() -> Path:
    """Make the empty folder that is HOME for everything the tests start."""
    home = Path(tempfile.mkdtemp(prefix="repo-backup-home-"))
    atexit.register(shutil.rmtree, home, ignore_errors=True)
    return home


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Give the whole environment of a git process: nothing of the caller's but PATH."""
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(empty_home()),
        "LC_ALL": "C",
        "TZ": "UTC",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_NO_REPLACE_OBJECTS": "1",
        "GIT_AUTHOR_NAME": "Ada Author",
        "GIT_AUTHOR_EMAIL": "ada@example.org",
        "GIT_AUTHOR_DATE": f"{EPOCH} +0000",
        "GIT_COMMITTER_NAME": "Carl Committer",
        "GIT_COMMITTER_EMAIL": "carl@example.org",
        "GIT_COMMITTER_DATE": f"{EPOCH} +0000",
        # No test outlives a power cut.
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "core.fsync",
        "GIT_CONFIG_VALUE_0": "none",
        **(extra or {}),
    }


def run_git(
    *args: Argument,
    cwd: Path | None = None,
    input: bytes | None = None,  # noqa: A002 - the name it has in subprocess
    env: Mapping[str, str] | None = None,
) -> subprocess.CompletedProcess[bytes]:
    """Run git and return whatever came of it."""
    return subprocess.run(
        ["git", *args],
        cwd=cwd,
        input=b"" if input is None else input,
        env=environment(env),
        capture_output=True,
        check=False,
    )


def git(
    *args: Argument,
    cwd: Path | None = None,
    input: bytes | None = None,  # noqa: A002 - the name it has in subprocess
    check: bool = True,
    env: Mapping[str, str] | None = None,
) -> bytes:
    """Run git and return its standard output.

    Raises:
        GitFailed: the exit status is not 0 and check is set.
    """
    done = run_git(*args, cwd=cwd, input=input, env=env)
    if check and done.returncode != 0:
        words = " ".join(os.fsdecode(arg) for arg in args)
        errors = done.stderr.decode(errors="backslashreplace").strip()
        raise GitFailed(f"git {words} ended with {done.returncode} in {cwd}: {errors}")
    return done.stdout


def init_bare(path: Path, object_format: str = "sha1") -> Path:
    """Make an empty bare repository with HEAD at the unborn ``refs/heads/main``."""
    path.mkdir(parents=True, exist_ok=True)
    git("init", "--quiet", "--bare", "-b", "main", f"--object-format={object_format}", path)
    return path


def object_format(path: Path) -> str:
    """Tell the hash of a repository's ids: sha1 or sha256."""
    return git("rev-parse", "--show-object-format", cwd=path).decode().strip()


def write_object(path: Path, kind: str, body: bytes) -> bytes:
    """Store one object exactly as given, also one that git itself would not write."""
    arguments = ("hash-object", "-t", kind, "-w", "--stdin", "--literally")
    return git(*arguments, cwd=path, input=body).strip()


def write_blob(path: Path, data: bytes) -> bytes:
    return write_object(path, "blob", data)


def write_tree(path: Path, entries: Iterable[tuple[bytes, bytes, bytes, bytes]]) -> bytes:
    """Store a tree of (mode, kind, id, name); the ids of gitlinks need not exist."""
    lines = [b"%s %s %s\t%s\0" % entry for entry in entries]
    return git("mktree", "-z", "--missing", cwd=path, input=b"".join(lines)).strip()


def write_tag(
    path: Path, target: bytes, kind: str, name: bytes, message: bytes = b"A tag.\n"
) -> bytes:
    """Store an annotated tag of any kind of object, without a ref to it."""
    lines = (
        b"object " + target,
        b"type " + kind.encode(),
        b"tag " + name,
        b"tagger %s %d +0000" % (COMMITTER, EPOCH),
        b"",
        message,
    )
    return write_object(path, "tag", b"\n".join(lines))


def update_refs(path: Path, updates: Mapping[bytes, bytes | None]) -> None:
    """Set refs to ids, or delete those that are to be None; names that exist are overwritten.

    Deletions are a transaction of their own, since git refuses to delete ``a`` and to create
    ``a/b`` in one.
    """
    deleted = [b"delete %s\0\0" % name for name, new in updates.items() if new is None]
    written = [b"update %s\0%s\0\0" % item for item in updates.items() if item[1] is not None]
    for commands in (deleted, written):
        if commands:
            update = ("update-ref", "--no-deref", "--stdin", "-z")
            git(*update, cwd=path, input=b"".join(commands))


def set_head(path: Path, target: bytes) -> None:
    """Let HEAD name a ref (which need not exist) or, detached, a commit id."""
    if target.startswith(b"refs/"):
        git("symbolic-ref", "HEAD", target, cwd=path)
    else:
        git("update-ref", "--no-deref", "HEAD", target, cwd=path)


class FastImport:
    """Composes one run of ``git fast-import``, which writes objects and touches no ref.

    Every method that makes an object returns its mark; `run` turns marks into ids. Wherever an
    object is named a mark and the id of an object already in the repository are the same.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lines: list[bytes] = []
        self._marks: list[bytes] = []

    def blob(self, data: bytes) -> bytes:
        mark = self._mark()
        self._lines.append(b"blob\nmark %s\ndata %d\n%s\n" % (mark, len(data), data))
        return mark

    def commit(
        self,
        parents: Sequence[bytes] = (),
        *,
        files: Mapping[bytes, bytes] | None = None,
        links: Mapping[bytes, bytes] | None = None,
        message: bytes = b"A commit.\n",
        at: int = EPOCH,
    ) -> bytes:
        """Add a commit: its first parent's tree with these changes.

        Args:
            parents: first one first; none makes a root.
            files: path to content.
            links: path to the commit id of a submodule.
            message: whole, with its last newline.
            at: seconds since 1970.
        """
        mark = self._mark()
        reset = b"reset %s\n" % _SCRATCH
        head = b"commit %s\nmark %s\nauthor %s %d +0000\ncommitter %s %d +0000\ndata %d\n%s\n" % (
            _SCRATCH,
            mark,
            AUTHOR,
            at,
            COMMITTER,
            at,
            len(message),
            message,
        )
        words = [b"from", *[b"merge"] * (len(parents) - 1)]
        lineage = [b"%s %s\n" % line for line in zip(words, parents, strict=False)]
        changes = [
            b"M 644 inline %s\ndata %d\n%s\n" % (name, len(data), data)
            for name, data in (files or {}).items()
        ]
        changes += [b"M 160000 %s %s\n" % (target, name) for name, target in (links or {}).items()]
        self._lines += [reset, head, *lineage, *changes, b"\n"]
        return mark

    def run(self) -> dict[bytes, bytes]:
        """Write all objects and map each mark to its id."""
        asked = [b"get-mark %s\n" % mark for mark in self._marks]
        # A scratch ref that is null when the stream ends is never written.
        null = NULL_ID[object_format(self._path)]
        end = b"reset %s\nfrom %s\n\n" % (_SCRATCH, null)
        arguments = ("fast-import", "--quiet", "--force")
        answer = git(*arguments, cwd=self._path, input=b"".join([*self._lines, *asked, end]))
        return dict(zip(self._marks, answer.split(), strict=True))

    def _mark(self) -> bytes:
        self._marks.append(b":%d" % (len(self._marks) + 1))
        return self._marks[-1]


def commit_chain(
    path: Path,
    count: int,
    *,
    start: bytes | None = None,
    label: bytes = b"work",
    at: int = EPOCH,
) -> list[bytes]:
    """Write count commits, each the child of the one before, and return their ids, oldest first.

    Each changes one file of some lines, so that packs of them hold deltas. No ref is set.

    Args:
        path: the repository.
        count: how many.
        start: the parent of the first; None makes it a root.
        label: part of each file and message; commits of different labels have different ids.
        at: the date of the first; each other is a second later. Where a parent is younger than its
            child a server may send more than it has to.
    """
    stream = FastImport(path)
    parents = () if start is None else (start,)
    for number in range(count):
        lines = b"".join(b"line %d of %s\n" % (line, label) for line in range(30))
        mark = stream.commit(
            parents,
            files={b"%s.txt" % label: lines + b"change %d\n" % number},
            message=b"%s %d\n" % (label, number),
            at=at + number,
        )
        parents = (mark,)
    return list(stream.run().values())
