"""Compares repo-backup with what people do otherwise, side by side over one folder of repositories.

Every competitor is a program of its own and so is repo-backup: what is measured is what a user
would wait for. The repositories are only read; what must change is changed in copies. What each
row does and why it is fair is told in docs/benchmarks.md.
"""

import argparse
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from backup.commands.remotes import open_remote
from backup.errors import BackupError
from backup.git.pktline import DELIMITER, FLUSH, encode_line
from backup.model import Refs, Repository, Selection
from backup.sources.plain import FolderSource, open_git_folder
from backup.stopping import Stop
from benchmarks.measure import CommandFailed, Cost, contents, measure, size_of, written

PROGRAM = Path(sys.executable).parent / "repo-backup"
OWNER = "bench"
# A row that has taken so long is not begun again.
ENOUGH_SECONDS = 240.0
CHAINED_REPOSITORIES = 5
COMMITS_A_NIGHT = 3
# The most files that ext4 lets share one inode, with room to spare.
MOST_REPOSITORIES = 60_000

MIRROR = "git clone --mirror"
FETCH = "git fetch --prune in the mirrors"
SCRIPT = "clone and copy"
DOWNLOAD = "raw download"
LS_REMOTE = "git ls-remote"
PACK = "repo-backup run"
TRAILER = "repo-backup run --check trailer"
RESTORE = "repo-backup restore"
LIST = "repo-backup list"
LIST_ONE = "repo-backup list REPOSITORY"


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of one variant.

    Attributes:
        objects: files, or objects of the vault, that it wrote.
        requests: what it asked of others, by kind, where it says so.
    """

    cost: Cost
    objects: int
    bytes_written: int
    requests: Mapping[str, int] = field(default_factory=dict)


@dataclass(slots=True)
class Row:
    """One kind of work, done by several variants.

    Attributes:
        against: the variants that the others are divided by.
        alone: variants that do other work, so that dividing means nothing.
    """

    name: str
    title: str
    against: tuple[str, ...] = ()
    alone: tuple[str, ...] = ()
    samples: dict[str, list[Sample]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def best(self, variant: str) -> Sample:
        """Return the fastest run of a variant."""
        return min(self.samples[variant], key=lambda sample: sample.cost.seconds)

    def ratio(self, variant: str, base: str) -> float:
        """Divide the best time of a variant by that of another."""
        return self.best(variant).cost.seconds / self.best(base).cost.seconds


@dataclass(frozen=True, slots=True)
class Figure:
    """A number that is promised, and whether this run kept it."""

    name: str
    measured: str
    promised: str
    kept: bool


@dataclass(frozen=True, slots=True)
class Subject:
    """One repository to measure with."""

    repository: Repository
    git_directory: Path
    size_bytes: int

    @property
    def url(self) -> str:
        """The address that makes git speak its protocol: nothing is copied or hard-linked."""
        return Path(self.repository.clone_url).absolute().as_uri()


@dataclass(frozen=True, slots=True)
class Settings:
    """What is asked for."""

    concurrency: int
    repeat: int
    many: int
    nights: int


class Bench:
    """The rows, and what they share: the repositories, the scratch folder, one vault, mirrors."""

    def __init__(self, root: Path, scratch: Path, settings: Settings) -> None:
        self.root = root
        self.settings = settings
        self.machine = machine()
        self.subjects = find_subjects(root)
        self.rows: list[Row] = []
        self.figures: list[Figure] = []
        self._scratch = scratch
        self._count = 0
        self._vault: Path | None = None
        self._mirrors: Path | None = None
        home = self.fresh("home")
        self._git_config = home.parent / "gitconfig"
        # Repositories of other users are read too, as repo-backup does. No competitor pays for
        # housekeeping after its fetch.
        self._git_config.write_text("[safe]\n\tdirectory = *\n[maintenance]\n\tauto = false\n")
        self._environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": os.fspath(home),
            "LC_ALL": "C",
        }

    # --- the rows

    def first(self) -> None:
        """Everything, with nothing there yet."""
        row = self._row("first", "First night", (MIRROR, SCRIPT, DOWNLOAD))
        download = Download(self)

        def mirror() -> Sample:
            self._forget(self._mirrors)
            self._mirrors, sample = self.mirror(self.subjects)
            return sample

        def pack() -> Sample:
            self._forget(self._vault)
            self._vault = self.fresh("vault")
            return self.run(self.root, self._vault)

        self._rounds(
            row,
            {
                MIRROR: mirror,
                SCRIPT: lambda: self.script(self.subjects),
                DOWNLOAD: download.measure,
                PACK: pack,
                TRAILER: lambda: self._throw_away(
                    lambda vault: self.run(self.root, vault, "--check", "trailer")
                ),
            },
        )
        pack_sample = row.best(PACK)
        self._promise("first night, checked / clone --mirror", row.ratio(PACK, MIRROR), 1.0)
        self._promise(
            "first night, trailer / raw download", row.ratio(TRAILER, DOWNLOAD), 1.25, below=True
        )
        self._promise_memory(row, PACK)
        self._promise_memory(row, TRAILER)
        most = max(sample.cost.temporary_bytes for sample in row.samples[TRAILER])
        self._promise_bytes("first night, trailer: temporary disk", most, 0)
        most = max(sample.cost.temporary_bytes for sample in row.samples[PACK])
        largest = self._largest_captures_bytes()
        self._promise_bytes("first night, checked: temporary disk, against", most, largest)
        if memory := pack_sample.cost.memory_of.get("index-pack"):
            row.notes.append(f"the largest git index-pack had {megabytes(memory)} MB")

    def unchanged(self) -> None:
        """The second night, when nothing happened."""
        row = self._row("unchanged", "A night without changes", (FETCH, SCRIPT))
        vault, mirrors = self.vault(), self.mirrors()
        self._rounds(
            row,
            {
                FETCH: lambda: self.fetch(mirrors, self.subjects),
                SCRIPT: lambda: self.script(self.subjects),
                PACK: lambda: self.run(self.root, vault, unchanged=len(self.subjects)),
            },
        )
        sample = row.best(PACK)
        self._promise(
            "a night without changes / clone and copy", row.ratio(PACK, SCRIPT), 0.01, below=True
        )
        self._promise_requests("a night without changes", sample, len(self.subjects))

    def changed(self) -> None:
        """A night on which some repositories got commits; in copies of them."""
        row = self._row("changed", "A night with changes", (FETCH, SCRIPT))
        place = self.fresh("copies")
        subjects = copy_all(self.subjects, place)
        alive = [subject for subject in subjects if branch_of(subject, self._environment)]
        chosen = evenly(alive, max(3, round(len(subjects) / 10)))
        vault = self.fresh("vault")
        self.run(place, vault)
        mirrors, _ = self.mirror(subjects)
        bounds: list[int] = []

        def advance() -> None:
            packs = sum(advance_one(subject, self._environment) for subject in chosen)
            refs = sum(len(refs_of(subject).tips) for subject in chosen)
            bounds.append(packs + 200 * refs + 4096 * len(chosen))
            row.notes.append(
                f"night {len(bounds)}: {len(chosen)} repositories changed, their new packs have "
                f"{packs:,} bytes; allowed are {bounds[-1]:,}"
            )

        self._rounds(
            row,
            {
                FETCH: lambda: self.fetch(mirrors, subjects),
                SCRIPT: lambda: self.script(subjects),
                PACK: lambda: self.run(place, vault, captured=len(chosen)),
            },
            before=advance,
        )
        samples = row.samples[PACK]
        worst = max(
            zip(samples, bounds, strict=True), key=lambda pair: pair[0].bytes_written / pair[1]
        )
        self._promise_bytes("a night with changes: bytes", worst[0].bytes_written, worst[1])
        self._promise_count(
            "a night with changes: objects written",
            max(sample.objects for sample in samples),
            2 * len(chosen) + 1,
        )
        for folder in (place, vault, mirrors):
            self._forget(folder)

    def restore(self) -> None:
        """Everything back, one repository after another."""
        row = self._row("restore", "Restore of everything, one after another", (MIRROR,))
        vault = self.vault()
        self._rounds(
            row,
            {
                MIRROR: lambda: self._mirror_and_forget(self.subjects),
                RESTORE: lambda: self.restore_all(vault, expected=len(self.subjects)),
            },
        )
        self._promise("restore of everything / clone --mirror", row.ratio(RESTORE, MIRROR), 1.3)

    def largest(self) -> None:
        """The largest repository by itself, both ways."""
        subject = max(self.subjects, key=lambda one: one.size_bytes)
        row = self._row("largest", "The largest repository alone", (MIRROR,))
        row.notes.append(
            f"it has {megabytes(subject.size_bytes)} MB on disk and "
            f"{len(refs_of(subject).tips):,} refs"
        )
        vault = self.vault()
        name = f"{OWNER}/{subject.repository.path}"
        alone = f"git:{subject.repository.clone_url}"
        self._rounds(
            row,
            {
                MIRROR: lambda: self._mirror_and_forget([subject]),
                PACK: lambda: self._throw_away(lambda to: self.run(alone, to)),
                TRAILER: lambda: self._throw_away(
                    lambda to: self.run(alone, to, "--check", "trailer")
                ),
                RESTORE: lambda: self._restored(vault, name, expected=1),
            },
        )
        self._promise("the largest, restored / clone --mirror", row.ratio(RESTORE, MIRROR), 1.3)
        self._promise_memory(row, PACK)
        if memory := row.best(PACK).cost.memory_of.get("index-pack"):
            row.notes.append(f"its git index-pack had {megabytes(memory)} MB")

    def chain(self) -> None:
        """Restore and listing after many nights, each of which changed every repository."""
        nights = self.settings.nights
        row = self._row("chain", f"A chain of {nights} nights", (MIRROR,))
        row.alone = (PACK, LIST, LIST_ONE)
        place = self.fresh("copies")
        by_size = sorted(self.subjects, key=lambda one: one.size_bytes)
        middle = max(0, (len(by_size) - CHAINED_REPOSITORIES) // 2)
        subjects = copy_all(by_size[middle : middle + CHAINED_REPOSITORIES], place)
        subjects = [one for one in subjects if branch_of(one, self._environment)]
        vault = self.fresh("vault")
        bound = ("--max-chain-length", str(nights + 1))
        self.run(place, vault, *bound)
        for _ in range(nights - 1):
            for subject in subjects:
                advance_one(subject, self._environment)
            self._add(row, PACK, self.run(place, vault, *bound, captured=len(subjects)))
        name = f"{OWNER}/{subjects[0].repository.path}"
        lengths = [len(self.history(vault, one)[-1]["chain"]) for one in subjects]
        row.notes.append(
            f"{len(subjects)} repositories, chains of {min(lengths)} to {max(lengths)} bundles; "
            f"{PACK} is one of the nights"
        )
        self._rounds(
            row,
            {
                MIRROR: lambda: self._mirror_and_forget(subjects),
                RESTORE: lambda: self.restore_all(vault, expected=len(subjects)),
                LIST: lambda: self.show(vault, expected=nights),
                LIST_ONE: lambda: self.show(vault, name, expected=nights),
            },
        )
        self._promise("restore of chains / clone --mirror", row.ratio(RESTORE, MIRROR), 1.3)
        for folder in (place, vault):
            self._forget(folder)

    def many(self) -> None:
        """A great number of tiny repositories that do not change."""
        number = self.settings.many
        row = self._row("many", f"{number:,} tiny repositories, unchanged", (LS_REMOTE,))
        row.alone = (LIST,)
        place, vault = self.fresh("many"), self.fresh("vault")
        make_many(place, number, self._environment)
        sample = self.run(place, vault, "--check", "trailer", captured=number)
        row.notes.append(
            f"their first night (--check trailer) took {sample.cost.seconds:.1f} s and "
            f"{megabytes(sample.cost.own_memory_bytes or 0)} MB"
        )
        jobs = [["ls-remote", "--quiet", one.as_uri()] for one in sorted(place.iterdir())]
        self._rounds(
            row,
            {
                LS_REMOTE: lambda: self._sample(lambda: self._git_each(jobs), place),
                PACK: lambda: self.run(place, vault, unchanged=number),
                LIST: lambda: self.show(vault, expected=None),
            },
        )
        best = row.best(PACK)
        row.notes.append(f"the manifest has {best.bytes_written:,} bytes")
        self._promise_memory(row, PACK, 400_000_000)
        self._promise_requests(f"{number:,} unchanged", best, number)
        self._promise_bytes(f"{number:,} unchanged: manifest", best.bytes_written, 1_000_000)
        for folder in (place, vault):
            self._forget(folder)

    # --- what is measured

    def mirror(self, subjects: Sequence[Subject], at_once: int = 0) -> tuple[Path, Sample]:
        """Mirror repositories into a fresh folder with plain git."""
        place = self.fresh("mirrors")
        jobs = []
        for number, subject in enumerate(subjects):
            jobs.append(["clone", "--mirror", "--quiet", subject.url, f"{place}/{number}.git"])
        return place, self._sample(lambda: self._git_each(jobs, at_once), place)

    def fetch(self, mirrors: Path, subjects: Sequence[Subject]) -> Sample:
        """Bring mirrors up to date with plain git."""
        jobs = [
            ["-C", f"{mirrors}/{number}.git", "fetch", "--prune", "--quiet"]
            for number in range(len(subjects))
        ]
        return self._sample(lambda: self._git_each(jobs), mirrors)

    def script(self, subjects: Sequence[Subject]) -> Sample:
        """Do what the well-known script does: clone each one, copy every file under a new date."""
        clones, dated = self.fresh("clones"), self.fresh("dated")
        jobs = [
            ["clone", "--quiet", subject.url, f"{clones}/{number}"]
            for number, subject in enumerate(subjects)
        ]
        cost = self._git_each(jobs, at_once=1)
        temporary = Cost(temporary_bytes=size_of(clones))
        copied, _ = measure(["cp", "-R", f"{clones}/.", dated], environment=self._environment)
        count, size = written({}, contents(dated))
        self._forget(clones)
        self._forget(dated)
        return Sample(cost.then(temporary).then(copied), count, size)

    def run(
        self,
        source: Path | str,
        vault: Path,
        *options: str,
        captured: int | None = None,
        unchanged: int | None = None,
    ) -> Sample:
        """Back up with the real program, and insist on what came of it."""
        concurrency = str(self.settings.concurrency)
        words = ["--from", source, "--owner", OWNER, "--to", vault, "--concurrency", concurrency]
        before = contents(vault)
        cost, answer = self._ours("run", *words, *options)
        totals = answer["totals"]
        for name, wanted in (("captured", captured), ("unchanged", unchanged)):
            # An empty repository is neither.
            if wanted is not None and totals[name] + totals["empty"] != wanted:
                raise CommandFailed(f"{totals[name]} repositories were {name}, not {wanted}")
        count, size = written(before, contents(vault))
        if (count, size) != (totals["objects_written"], totals["bytes_uploaded"]):
            raise CommandFailed(
                f"{count} objects with {size} bytes were written, reported were "
                f"{totals['objects_written']} with {totals['bytes_uploaded']}"
            )
        return Sample(cost, count, size, totals["requests"])

    def restore_all(self, vault: Path, *, expected: int) -> Sample:
        """Give every repository back."""
        return self._restored(vault, "--all", expected=expected)

    def show(self, vault: Path, *words: str, expected: int | None) -> Sample:
        """List the snapshots, or one repository's history."""
        cost, answer = self._ours("list", *words, "--from", vault)
        items = answer["history"] if words else answer["snapshots"]
        if expected is not None and len(items) != expected:
            raise CommandFailed(f"list shows {len(items)} snapshots, not {expected}")
        return Sample(cost, 0, 0)

    def history(self, vault: Path, subject: Subject) -> list[dict[str, Any]]:
        """Return what the vault knows of one repository's past."""
        _, answer = self._ours("list", f"{OWNER}/{subject.repository.path}", "--from", vault)
        items: list[dict[str, Any]] = answer["history"]
        return items

    def vault(self) -> Path:
        """Return a vault of all the repositories, made now if no row made it."""
        if self._vault is None:
            self._vault = self.fresh("vault")
            self.run(self.root, self._vault)
        return self._vault

    def mirrors(self) -> Path:
        """Return mirrors of all the repositories, made now if no row made them."""
        if self._mirrors is None:
            self._mirrors, _ = self.mirror(self.subjects)
        return self._mirrors

    def fresh(self, name: str) -> Path:
        """Make a folder that nobody has used."""
        self._count += 1
        folder = self._scratch / f"{self._count:04}" / name
        folder.mkdir(parents=True)
        return folder

    def git(self, words: Sequence[str], **added: str) -> tuple[Cost, bytes]:
        """Measure a program with git's environment, as its user would have it."""
        environment = self._environment | {
            "GIT_CONFIG_GLOBAL": os.fspath(self._git_config),
            "GIT_CONFIG_NOSYSTEM": "1",
            "GIT_TERMINAL_PROMPT": "0",
        }
        stdin = added.pop("stdin", "")
        return measure(words, environment=environment | added, stdin=os.fsencode(stdin))

    def _git_each(self, jobs: Sequence[Sequence[str]], at_once: int = 0) -> Cost:
        """Run git for each list of arguments, all of one length, some at once."""
        at_once = at_once or self.settings.concurrency
        argv = ["xargs", "-0", "-n", str(len(jobs[0])), "-P", str(at_once), "git"]
        cost, _ = self.git(argv, stdin="".join(f"{word}\0" for job in jobs for word in job))
        return cost

    def _sample(self, act: Callable[[], Cost], place: Path) -> Sample:
        before = contents(place)
        cost = act()
        return Sample(cost, *written(before, contents(place)))

    def _mirror_and_forget(self, subjects: Sequence[Subject]) -> Sample:
        place, sample = self.mirror(subjects, at_once=1)
        self._forget(place)
        return sample

    def _restored(self, vault: Path, what: str, *, expected: int) -> Sample:
        place = self.fresh("restored")
        target = place / "all"
        cost, answer = self._ours("restore", what, "--from", vault, target)
        count, size = written({}, contents(place))
        self._forget(place)
        if len(answer["restored"]) != expected:
            raise CommandFailed(f"{len(answer['restored'])} were restored, not {expected}")
        return Sample(cost, count, size)

    def _throw_away(self, act: Callable[[Path], Sample]) -> Sample:
        vault = self.fresh("vault")
        try:
            return act(vault)
        finally:
            self._forget(vault)

    def _ours(self, *words: str | Path) -> tuple[Cost, dict[str, Any]]:
        temporary = self.fresh("temporary")
        environment = self._environment | {"TMPDIR": os.fspath(temporary)}
        argv = [PROGRAM, *words, "--json"]
        cost, output = measure(argv, environment=environment, temporary=temporary)
        left = sorted(path.name for path in temporary.iterdir())
        if left:
            raise CommandFailed(f"repo-backup left {left} in its temporary folder")
        self._forget(temporary)
        answer: dict[str, Any] = json.loads(output)
        return cost, answer

    def _forget(self, folder: Path | None) -> None:
        if folder is not None:
            shutil.rmtree(folder.parent)

    # --- what comes of it

    def _row(self, name: str, title: str, against: tuple[str, ...]) -> Row:
        row = Row(name, title, against)
        self.rows.append(row)
        return row

    def _rounds(
        self,
        row: Row,
        variants: Mapping[str, Callable[[], Sample]],
        *,
        before: Callable[[], None] = lambda: None,
    ) -> None:
        """Measure the variants in turn, several times, each time another one first."""
        started = time.monotonic()
        names = list(variants)
        for number in range(self.settings.repeat):
            if time.monotonic() - started > ENOUGH_SECONDS:
                return
            before()
            turn = number % len(names)
            for name in names[turn:] + names[:turn]:
                self._add(row, name, variants[name]())

    def _add(self, row: Row, variant: str, sample: Sample) -> None:
        row.samples.setdefault(variant, []).append(sample)
        say(f"{row.name}: {variant}: {sample.cost.seconds:.2f} s")

    def _promise(self, name: str, value: float, most: float, *, below: bool = False) -> None:
        kept = value < most if below else value <= most
        bound = f"{'under' if below else 'at most'} {most:g}"
        self.figures.append(Figure(name, f"{value:.3g}", bound, kept))

    def _promise_bytes(self, name: str, value: int, most: int) -> None:
        self.figures.append(Figure(name, f"{value:,} B", f"at most {most:,} B", value <= most))

    def _promise_count(self, name: str, value: int, most: int) -> None:
        self.figures.append(Figure(name, f"{value:,}", f"at most {most:,}", value <= most))

    def _promise_memory(self, row: Row, variant: str, most: int = 150_000_000) -> None:
        known = [sample.cost.own_memory_bytes for sample in row.samples[variant]]
        value = max((size for size in known if size is not None), default=None)
        if value is not None:
            self._promise_bytes(f"{row.name}: memory of {variant}", value, most)

    def _promise_requests(self, name: str, sample: Sample, repositories: int) -> None:
        self._promise_count(f"{name}: git requests", sample.requests["git"], 2 * repositories)
        self._promise_count(f"{name}: objects written", sample.objects, 1)

    def _largest_captures_bytes(self) -> int:
        """Add up the packs, and their indexes, that could be captured at one moment."""
        sizes = []
        for subject in self.subjects:
            newest = self.history(self.vault(), subject)[-1]["chain"]
            bundles = sum(Path(uri).stat().st_size for uri in newest)
            sizes.append(bundles + 36 * objects_of(subject, self._environment) + 65536)
        return sum(sorted(sizes)[-self.settings.concurrency :])


class Download:
    """The packs of a first night, sent by git and thrown away by what received them.

    The requests are made beforehand. The receiver is ``wc -c``: it reads a pipe and does nothing
    else that costs, and its count shows that the packs came.
    """

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._folder = bench.fresh("requests")
        self._jobs: list[str] = []
        for number, subject in enumerate(bench.subjects):
            refs = refs_of(subject)
            if refs.wanted():
                request = self._folder / str(number)
                request.write_bytes(fetch_request(refs))
                self._jobs += [os.fspath(subject.git_directory), os.fspath(request)]

    def measure(self) -> Sample:
        send = 'git upload-pack --strict "$1" < "$2" || : > "$2.failed"'
        at_once = str(self._bench.settings.concurrency)
        each = ["sh", "-c", f"{{ {send}; }} | wc -c", "sh"]
        cost, counts = self._bench.git(
            ["xargs", "-0", "-n", "2", "-P", at_once, *each],
            stdin="".join(f"{word}\0" for word in self._jobs),
            GIT_PROTOCOL="version=2",
        )
        if any(self._folder.glob("*.failed")):
            raise CommandFailed("git upload-pack failed")
        return Sample(cost, 0, sum(map(int, counts.split())))


def fetch_request(refs: Refs) -> bytes:
    """Ask for everything, as repo-backup does. Source: gitprotocol-v2(5), fetch."""
    head = [b"command=fetch", b"object-format=" + refs.object_format.encode()]
    asked = [b"ofs-delta", b"no-progress"]
    asked += [b"want " + oid.encode() for oid in refs.wanted()]
    lines = [*map(encode_line, head), DELIMITER, *map(encode_line, [*asked, b"done"])]
    return b"".join((*lines, FLUSH))


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
    return Subject(repository, git_directory, size_of(git_directory))


def refs_of(subject: Subject) -> Refs:
    """List the refs that repo-backup takes."""
    with open_remote(
        subject.repository, selection=Selection(), count=lambda _: None, stop=Stop()
    ) as remote:
        return remote.list_refs()


def copy_all(subjects: Iterable[Subject], place: Path) -> list[Subject]:
    """Copy repositories, so that they may be changed."""
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


# --- showing it


def machine() -> dict[str, str | float]:
    """Tell what the numbers depend on, without a name of the machine.

    The load is what others run meanwhile, so it is asked for before anything is measured.
    """
    said = subprocess.run(["git", "--version"], capture_output=True, check=True).stdout.decode()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "system": f"{platform.system()} {platform.machine()}",
        "cores": os.cpu_count() or 0,
        "memory_bytes": memory,
        "git": said.split()[2],
        "python": platform.python_version(),
        "load": round(os.getloadavg()[0], 1),
    }


def document(bench: Bench) -> dict[str, Any]:
    """Make everything that was measured a JSON document."""
    return {
        "machine": bench.machine,
        "settings": asdict(bench.settings),
        "repositories": len(bench.subjects),
        "size_bytes": sum(subject.size_bytes for subject in bench.subjects),
        "rows": [asdict(row) for row in bench.rows],
        "figures": [asdict(figure) for figure in bench.figures],
    }


def markdown(bench: Bench) -> str:
    """Make everything that was measured a page."""
    about = bench.machine
    size = sum(subject.size_bytes for subject in bench.subjects)
    head = (
        f"{len(bench.subjects)} repositories, {megabytes(size)} MB on disk; "
        f"{bench.settings.concurrency} at once. {about['cores']} cores, "
        f"{int(about['memory_bytes']) / 1e9:.0f} GB of memory, {about['system']}, "
        f"git {about['git']}, Python {about['python']}; "
        f"load before it began {about['load']}."
    )
    parts = [
        head,
        *(row_table(row) for row in bench.rows),
        figure_table(bench.figures),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def row_table(row: Row) -> str:
    """Show a row as a table, with its notes."""
    names = ["", "best s", "median s", "runs", "CPU s", "own MB", "all MB", "temp MB"]
    names += ["objects", "bytes", "requests", *(f"÷ {base}" for base in row.against)]
    lines = [list(line_of(row, variant)) for variant in row.samples]
    notes = [f"- {note}" for note in row.notes]
    return "\n".join([f"### {row.title} (`{row.name}`)", "", *table(names, lines), "", *notes])


def line_of(row: Row, variant: str) -> Iterator[str]:
    """Yield the cells of a variant's line."""
    best, samples = row.best(variant), row.samples[variant]
    ours = variant.startswith("repo-backup")
    yield f"`{variant}`" if ours or variant.startswith("git ") else variant
    yield f"{best.cost.seconds:.2f}"
    yield f"{statistics.median(sample.cost.seconds for sample in samples):.2f}"
    yield str(len(samples))
    yield f"{best.cost.cpu_seconds:.2f}"
    # Of the others the program itself only starts git.
    yield highest(sample.cost.own_memory_bytes for sample in samples) if ours else ""
    yield highest(sample.cost.memory_bytes for sample in samples)
    yield highest(sample.cost.temporary_bytes for sample in samples)
    yield f"{best.objects:,}"
    yield f"{best.bytes_written:,}"
    yield ", ".join(f"{count} {name}" for name, count in best.requests.items())
    for base in row.against:
        yield "" if variant in {base, *row.alone} else f"{row.ratio(variant, base):.3f}"


def figure_table(figures: Sequence[Figure]) -> str:
    """Show what was promised and what was kept."""
    if not figures:
        return ""
    lines = [[one.name, one.measured, one.promised, "yes" if one.kept else "no"] for one in figures]
    return "\n".join(["### Figures", "", *table(["", "measured", "promised", "kept"], lines)])


def table(names: Sequence[str], lines: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a Markdown table; all columns but the first are numbers."""
    yield f"| {' | '.join(names)} |"
    yield f"|---|{'---:|' * (len(names) - 1)}"
    for line in lines:
        yield f"| {' | '.join(line)} |"


def highest(values: Iterable[int | None]) -> str:
    known = [value for value in values if value is not None]
    return megabytes(max(known)) if known else ""


def megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f}"


def say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


# --- the door

ROWS: Mapping[str, Callable[[Bench], None]] = {
    "first": Bench.first,
    "unchanged": Bench.unchanged,
    "changed": Bench.changed,
    "restore": Bench.restore,
    "largest": Bench.largest,
    "chain": Bench.chain,
    "many": Bench.many,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is asked for and print it; 2 when it cannot be begun, 1 when it breaks off."""
    asked = parser().parse_args(arguments)
    root = Path(asked.repositories)
    if not asked.repositories or not root.is_dir():
        return refuse(f"REPOS: {asked.repositories!r} is no folder; name one of git repositories")
    # An end by signal removes the scratch folder, too.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    settings = Settings(asked.concurrency, asked.repeat, asked.many, asked.nights)
    with scratch_folder(keep=asked.keep) as scratch:
        try:
            bench = Bench(root, scratch, settings)
            if not bench.subjects:
                return refuse(f"REPOS: no git repository lies in {asked.repositories!r}")
        except BackupError as error:
            return refuse(f"REPOS: {error.message}")
        try:
            for name, measure_row in ROWS.items():
                if not asked.only or name in asked.only:
                    measure_row(bench)
        except (CommandFailed, BackupError) as error:
            say(f"benchmarks: {error}")
            return 1
        print(markdown(bench))
        if asked.json is not None:
            asked.json.write_text(json.dumps(document(bench), indent=1) + "\n")
    return 0


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(prog="benchmarks.folder", description=__doc__)
    made.add_argument("repositories", metavar="REPOS", help="a folder that holds git repositories")
    made.add_argument(
        "--only", nargs="+", choices=list(ROWS), metavar="ROW", help=f"of {', '.join(ROWS)}"
    )
    made.add_argument("--concurrency", type=count_from(1), default=4, help="default: 4")
    made.add_argument("--repeat", type=count_from(1), default=3, help="rounds a row; default: 3")
    made.add_argument(
        "--many",
        type=count_from(1, MOST_REPOSITORIES),
        default=1000,
        help="tiny repositories of the row many; default: 1000",
    )
    made.add_argument(
        "--nights", type=count_from(2), default=30, help="of the row chain; default: 30"
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="write every run's numbers there")
    made.add_argument("--keep", action="store_true", help="leave the scratch folder where it is")
    return made


def count_from(least: int, most: int | None = None) -> Callable[[str], int]:
    """Make the reader of a whole number within bounds."""

    def count(text: str) -> int:
        number = int(text)
        if number < least or (most is not None and number > most):
            bounds = f"{least} or more" if most is None else f"{least} to {most}"
            raise argparse.ArgumentTypeError(f"{text} is not {bounds}")
        return number

    return count


@contextmanager
def scratch_folder(*, keep: bool) -> Iterator[Path]:
    """Make the folder for everything that is written, in TMPDIR, and remove it."""
    folder = Path(tempfile.mkdtemp(prefix="repo-backup-bench-"))
    try:
        yield folder
    finally:
        if keep:
            say(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)


def refuse(why: str) -> int:
    say(f"benchmarks: {why}")
    return 2


if __name__ == "__main__":
    sys.exit(main())
