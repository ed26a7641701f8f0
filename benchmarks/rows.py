"""What was measured: samples, rows, figures; and how they are shown."""

import os
import platform
import statistics
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from benchmarks.measure import Cost


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
