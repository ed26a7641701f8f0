"""What every benchmark has: the rows that any source and any vault share, and the door.

A benchmark of one kind of source and vault says in a subclass where its repositories are found,
where its vaults lie, and what the well-known script does there.
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Self

from backup.errors import BackupError
from benchmarks.measure import CommandFailed, Cost, contents, measure, size_of, written
from benchmarks.rows import (
    Figure,
    Row,
    Sample,
    figure_table,
    machine,
    megabytes,
    row_table,
    say,
)
from benchmarks.subjects import (
    OWNER,
    Subject,
    advance_one,
    branch_of,
    evenly,
    find_subjects,
    objects_of,
    refs_of,
)

PROGRAM = Path(sys.executable).parent / "repo-backup"
# A row that has taken so long is not begun again.
ENOUGH_SECONDS = 240.0
# The most files that ext4 lets share one inode, with room to spare.
MOST_REPOSITORIES = 60_000

MIRROR = "git clone --mirror"
FETCH = "git fetch --prune in the mirrors"
DOWNLOAD = "raw download"
LS_REMOTE = "git ls-remote"
PACK = "repo-backup run"
TRAILER = "repo-backup run --check trailer"
RESTORE = "repo-backup restore"
LIST = "repo-backup list"
LIST_ONE = "repo-backup list REPOSITORY"
STATUS = "repo-backup status"
VERIFY = "repo-backup verify"
PRUNE = "repo-backup prune --dry-run"


@dataclass(frozen=True, slots=True)
class Settings:
    """What is asked for."""

    concurrency: int
    repeat: int
    many: int
    nights: int


class Bench(ABC):
    """The rows, and what they share: the repositories, the scratch folder, one vault, mirrors.

    Attributes:
        script_name: the row of what the well-known script does.
        memory_bytes: what the program may have of its own.
    """

    script_name: str
    memory_bytes = 150_000_000

    def __init__(self, root: Path, scratch: Path, settings: Settings) -> None:
        self.place = root
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
        self.environment: dict[str, str] = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": os.fspath(home),
            "LC_ALL": "C",
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:  # noqa: B027 - most have nothing to end
        pass

    # --- what differs

    @abstractmethod
    def source(self, subject: Subject) -> str:
        """Name one repository as ``--from`` takes it."""

    @abstractmethod
    def sources(self, place: Path, subjects: Sequence[Subject]) -> list[str]:
        """Name all the repositories of a folder as ``--from`` takes them."""

    @abstractmethod
    def copies(self, subjects: Sequence[Subject]) -> tuple[Path, list[Subject]]:
        """Copy repositories into a fresh folder, so that they may be changed."""

    @abstractmethod
    def fresh_vault(self) -> Path:
        """Make a folder where a vault's objects will lie."""

    @abstractmethod
    def vault_name(self, vault: Path) -> str:
        """Name a vault as ``--to`` takes it."""

    @abstractmethod
    def file_of(self, uri: str) -> Path:
        """Find the file that an object of a vault is."""

    @abstractmethod
    def download(self) -> Callable[[], Sample]:
        """Prepare the download of the packs of a first night by something that keeps nothing."""

    @abstractmethod
    def upload(self, clones: Path) -> Sample:
        """Store every file of the clones under a new date, as the well-known script does."""

    # --- the rows

    def first(self) -> None:
        """Everything, with nothing there yet."""
        row = self._row("first", "First night", (MIRROR, self.script_name, DOWNLOAD))
        sources, download = self.sources(self.place, self.subjects), self.download()

        def mirror() -> Sample:
            self._forget(self._mirrors)
            self._mirrors, sample = self.mirror(self.subjects)
            return sample

        def pack() -> Sample:
            self._forget(self._vault)
            self._vault = self.fresh_vault()
            return self.run(sources, self._vault)

        self._rounds(
            row,
            {
                MIRROR: mirror,
                self.script_name: lambda: self.script(self.subjects),
                DOWNLOAD: download,
                PACK: pack,
                TRAILER: lambda: self._throw_away(
                    lambda vault: self.run(sources, vault, "--check", "trailer")
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
        row = self._row("unchanged", "A night without changes", (FETCH, self.script_name))
        vault, mirrors, sources = (
            self.vault(),
            self.mirrors(),
            self.sources(self.place, self.subjects),
        )
        self._rounds(
            row,
            {
                FETCH: lambda: self.fetch(mirrors, self.subjects),
                self.script_name: lambda: self.script(self.subjects),
                PACK: lambda: self.run(sources, vault, unchanged=len(self.subjects)),
            },
        )
        sample = row.best(PACK)
        self._promise(
            f"a night without changes / {self.script_name}",
            row.ratio(PACK, self.script_name),
            0.01,
            below=True,
        )
        self._promise_requests("a night without changes", sample, len(self.subjects))

    def changed(self) -> None:
        """A night on which some repositories got commits; in copies of them."""
        row = self._row("changed", "A night with changes", (FETCH, self.script_name))
        place, subjects = self.copies(self.subjects)
        sources = self.sources(place, subjects)
        alive = [subject for subject in subjects if branch_of(subject, self.environment)]
        chosen = evenly(alive, max(3, round(len(subjects) / 10)))
        vault = self.fresh_vault()
        self.run(sources, vault)
        mirrors, _ = self.mirror(subjects)
        bounds: list[int] = []

        def advance() -> None:
            packs = sum(advance_one(subject, self.environment) for subject in chosen)
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
                self.script_name: lambda: self.script(subjects),
                PACK: lambda: self.run(sources, vault, captured=len(chosen)),
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
        alone = [self.source(subject)]
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
        """Do what the well-known script does: clone each one, store every file under a date."""
        clones = self.fresh("clones")
        jobs = [
            ["clone", "--quiet", subject.url, f"{clones}/{number}"]
            for number, subject in enumerate(subjects)
        ]
        cost = self._git_each(jobs, at_once=1)
        temporary = Cost(temporary_bytes=size_of(clones))
        uploaded = self.upload(clones)
        self._forget(clones)
        return replace(uploaded, cost=cost.then(temporary).then(uploaded.cost))

    def run(
        self,
        sources: Sequence[str],
        vault: Path,
        *options: str,
        captured: int | None = None,
        unchanged: int | None = None,
    ) -> Sample:
        """Back up with the real program, and insist on what came of it."""
        words = [word for source in sources for word in ("--from", source)]
        words += ["--owner", OWNER, "--to", self.vault_name(vault)]
        words += ["--concurrency", str(self.settings.concurrency)]
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

    def show(self, vault: Path | str, *words: str, expected: int | None) -> Sample:
        """List the snapshots, or one repository's history."""
        name = vault if isinstance(vault, str) else self.vault_name(vault)
        cost, answer = self._ours("list", *words, "--from", name)
        items = answer["history"] if words else answer["snapshots"]
        if expected is not None and len(items) != expected:
            raise CommandFailed(f"list shows {len(items)} snapshots, not {expected}")
        return Sample(cost, 0, 0)

    def look(self, command: str, vault: str, *words: str) -> Sample:
        """Let a command look at a vault that is sound."""
        cost, answer = self._ours(command, "--from", vault, *words)
        if command == "verify" and (answer["damaged"] or not answer["checked"]):
            raise CommandFailed(f"verify of a sound vault says {answer}")
        if command == "prune" and (answer["refused"] or not answer["keep"]):
            raise CommandFailed(f"prune of a vault of many nights says {answer}")
        return Sample(cost, 0, 0)

    def history(self, vault: Path, subject: Subject) -> list[dict[str, Any]]:
        """Return what the vault knows of one repository's past."""
        name = f"{OWNER}/{subject.repository.path}"
        _, answer = self._ours("list", name, "--from", self.vault_name(vault))
        items: list[dict[str, Any]] = answer["history"]
        return items

    def vault(self) -> Path:
        """Return a vault of all the repositories, made now if no row made it."""
        if self._vault is None:
            self._vault = self.fresh_vault()
            self.run(self.sources(self.place, self.subjects), self._vault)
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
        environment = self.environment | {
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
        cost, answer = self._ours("restore", what, "--from", self.vault_name(vault), target)
        count, size = written({}, contents(place))
        self._forget(place)
        if len(answer["restored"]) != expected:
            raise CommandFailed(f"{len(answer['restored'])} were restored, not {expected}")
        return Sample(cost, count, size)

    def _throw_away(self, act: Callable[[Path], Sample]) -> Sample:
        vault = self.fresh_vault()
        try:
            return act(vault)
        finally:
            self._forget(vault)

    def _ours(self, *words: str | Path) -> tuple[Cost, Any]:
        temporary = self.fresh("temporary")
        environment = self.environment | {"TMPDIR": os.fspath(temporary)}
        argv = [PROGRAM, *words, "--json"]
        cost, output = measure(argv, environment=environment, temporary=temporary)
        left = sorted(path.name for path in temporary.iterdir())
        if left:
            raise CommandFailed(f"repo-backup left {left} in its temporary folder")
        self._forget(temporary)
        return cost, json.loads(output)

    def _forget(self, folder: Path | None) -> None:
        if folder is not None:
            shutil.rmtree(folder.parent, ignore_errors=True)

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

    def _promise_memory(self, row: Row, variant: str, most: int | None = None) -> None:
        most = self.memory_bytes if most is None else most
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
            bundles = sum(self.file_of(uri).stat().st_size for uri in newest)
            sizes.append(bundles + 36 * objects_of(subject, self.environment) + 65536)
        return sum(sorted(sizes)[-self.settings.concurrency :])


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


def count_from(least: int, most: int | None = None) -> Callable[[str], int]:
    """Make the reader of a whole number within bounds."""

    def count(text: str) -> int:
        number = int(text)
        if number < least or (most is not None and number > most):
            bounds = f"{least} or more" if most is None else f"{least} to {most}"
            raise argparse.ArgumentTypeError(f"{text} is not {bounds}")
        return number

    return count


def run_benchmark(
    make: Callable[[Path, Path, Settings], Bench],
    rows: Mapping[str, Callable[[Any], None]],
    asked: argparse.Namespace,
) -> int:
    """Measure what is asked for and print it; 2 when it cannot be begun, 1 when it breaks off."""
    root = Path(asked.repositories)
    if not asked.repositories or not root.is_dir():
        return refuse(f"REPOS: {asked.repositories!r} is no folder; name one of git repositories")
    # An end by signal removes the scratch folder, too.
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    settings = Settings(asked.concurrency, asked.repeat, asked.many, asked.nights)
    with scratch_folder(keep=asked.keep) as scratch:
        try:
            bench = make(root, scratch, settings)
            if not bench.subjects:
                return refuse(f"REPOS: no git repository lies in {asked.repositories!r}")
        except BackupError as error:
            return refuse(f"REPOS: {error.message}")
        try:
            with bench:
                for name, measure_row in rows.items():
                    if not asked.only or name in asked.only:
                        measure_row(bench)
        except (CommandFailed, BackupError) as error:
            say(f"benchmarks: {error}")
            return 1
        print(markdown(bench))
        if asked.json is not None:
            asked.json.write_text(json.dumps(document(bench), indent=1) + "\n")
    return 0


def parser(
    program: str, about: str | None, rows: Mapping[str, object], *, nights: int
) -> argparse.ArgumentParser:
    """Make the reader of the command line.

    Args:
        program: its name.
        about: what it does.
        rows: the rows there are.
        nights: how many nights the row with many of them has, unless another number is asked for.
    """
    made = argparse.ArgumentParser(prog=program, description=about)
    made.add_argument("repositories", metavar="REPOS", help="a folder that holds git repositories")
    made.add_argument(
        "--only", nargs="+", choices=list(rows), metavar="ROW", help=f"of {', '.join(rows)}"
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
        "--nights", type=count_from(2), default=nights, help=f"of many nights; default: {nights}"
    )
    made.add_argument("--json", type=Path, metavar="FILE", help="write every run's numbers there")
    made.add_argument("--keep", action="store_true", help="leave the scratch folder where it is")
    return made


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
