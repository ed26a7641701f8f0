"""The repositories to measure with: found, copied, changed, and made in great numbers."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from backup.errors import BackupError
from backup.git.transport import open_folder
from backup.git.upload_pack import Remote
from backup.model import Refs, Repository, Selection
from backup.sources.plain import FolderSource, open_git_folder
from backup.stopping import Stop
from benchmarks.measure import CommandFailed, contents, size_of

OWNER = "bench"
COMMITS_A_NIGHT = 3


@dataclass(frozen=True, slots=True)
class Subject:
    """One repository to measure with.

    Attributes:
        url: the address that makes git speak its protocol: nothing is copied or hard-linked.
    """

    repository: Repository
    git_directory: Path
    size_bytes: int
    url: str


def find_subjects(root: Path) -> list[Subject]:
    """Find the repositories as repo-backup does, and read every byte of them once.

    Raises:
        BackupError: the folder, or a part of it, cannot be read.
    """
    subjects = []
    for repository in FolderSource(root, owner=OWNER).repositories():
        if repository.problem:
            raise BackupError(repository.problem)
        subjects.append(subject_of(repository))
    for subject in subjects:
        for path in contents(subject.git_directory):
            with Path(path).open("rb") as file:
                while file.read(1 << 20):
                    pass
    return subjects


def subject_of(repository: Repository) -> Subject:
    git_directory = open_git_folder(repository).git_directory.resolve()
    url = Path(repository.clone_url).absolute().as_uri()
    return Subject(repository, git_directory, size_of(git_directory), url)


def refs_of(subject: Subject) -> Refs:
    """List the refs that repo-backup takes."""
    folder = subject.git_directory
    transport = open_folder(folder, safe=[folder], stop=Stop())
    with Remote(transport, selection=Selection(), count=lambda _: None) as remote:
        return remote.list_refs()


def copy_all(subjects: Iterable[Subject], place: Path) -> list[Subject]:
    """Copy repositories into a folder, by their paths."""
    for subject in subjects:
        target = place / f"{subject.repository.path}.git"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(subject.git_directory, target, symlinks=True)
    return [subject_of(one) for one in FolderSource(place, owner=OWNER).repositories()]


def evenly(subjects: Sequence[Subject], number: int) -> list[Subject]:
    """Choose some, spread over the sizes."""
    by_size = sorted(subjects, key=lambda one: one.size_bytes)
    number = min(number, len(by_size))
    return [by_size[(2 * turn + 1) * len(by_size) // (2 * number)] for turn in range(number)]


def branch_of(subject: Subject, environment: Mapping[str, str]) -> str:
    """Name a branch that commits can be added to: HEAD's, or the first; none is empty."""
    listed = git(subject.git_directory, environment, "for-each-ref", "--format=%(HEAD) %(refname)")
    branches = [line.split(" ", 1) for line in listed.decode("utf-8", "replace").splitlines()]
    branches = [pair for pair in branches if pair[-1].lstrip().startswith("refs/heads/")]
    branches.sort(key=lambda pair: pair[0] != "*")
    return branches[0][-1].strip() if branches else ""


def advance_one(subject: Subject, environment: Mapping[str, str]) -> int:
    """Add some commits to a copy and return the size of the pack that holds what is new."""
    folder, branch = subject.git_directory, branch_of(subject, environment)
    old = git(folder, environment, "rev-parse", branch).strip()
    at = time.time_ns() // 1_000_000_000
    who = f"Bench <bench@example.org> {at} +0000"
    lines = []
    for number in range(COMMITS_A_NIGHT):
        text = "".join(f"line {line} after {old.decode()}\n" for line in range(60 + number))
        lines += [
            f"commit {branch}",
            f"author {who}",
            f"committer {who}",
            *("data 8", "A change"),
            *([f"from {branch}^0"] if number == 0 else []),
            f"M 644 inline bench/{number}.txt",
            *(f"data {len(text)}", text),
        ]
    git(folder, environment, "fast-import", "--quiet", stdin="\n".join([*lines, ""]).encode())
    new = git(folder, environment, "rev-parse", branch).strip()
    pack = ("pack-objects", "--revs", "--stdout", "--quiet", "--delta-base-offset")
    return len(git(folder, environment, *pack, stdin=b"%b\n^%b\n" % (new, old)))


def make_many(place: Path, number: int, environment: Mapping[str, str]) -> None:
    """Make tiny repositories that share one pack by hard links."""
    model = place / "0.git"
    subprocess.run(
        ["git", "init", "--quiet", "--bare", "--template=", "-b", "main", model],
        env=dict(environment),
        check=True,
    )
    who = b"Bench <bench@example.org> 1700000000 +0000"
    script = b"commit refs/heads/main\ncommitter %b\ndata 7\nA start\nM 644 inline a\ndata 2\na\n\n"
    git(model, environment, "fast-import", "--quiet", stdin=script % who)
    git(model, environment, "repack", "-adq")
    git(model, environment, "pack-refs", "--all")
    for count in range(1, number):
        shutil.copytree(model, place / f"{count}.git", copy_function=link_or_copy)


def link_or_copy(source: str, target: str) -> None:
    if "/objects/" in source:
        os.link(source, target)
    else:
        shutil.copyfile(source, target)


def objects_of(subject: Subject, environment: Mapping[str, str]) -> int:
    """Count all the objects that a repository keeps."""
    counted = git(subject.git_directory, environment, "count-objects", "-v").decode()
    numbers = dict(line.split(": ", 1) for line in counted.splitlines())
    return int(numbers["count"]) + int(numbers["in-pack"])


def git(folder: Path, environment: Mapping[str, str], *words: str, stdin: bytes = b"") -> bytes:
    """Run git where nothing is measured."""
    done = subprocess.run(
        ["git", "-c", f"safe.directory={folder}", "--git-dir", folder, *words],
        env=dict(environment) | {"GIT_CONFIG_NOSYSTEM": "1", "GIT_CONFIG_GLOBAL": os.devnull},
        input=stdin,
        capture_output=True,
        check=False,
    )
    if done.returncode != 0:
        raise CommandFailed(f"git {words[0]}: {done.stderr.decode('utf-8', 'replace').strip()}")
    return done.stdout
