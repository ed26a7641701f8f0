"""The job summary of a workflow: Markdown, failures first, never too long. Pure.

Names and messages come from repositories and servers. Everything in them that Markdown or HTML
could take for more than text is written as a character reference.
Source: GitHub Docs, "Workflow commands", "Adding a job summary"; actions/runner,
`CreateStepSummaryCommand`: above 1 MiB nothing is shown at all.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TypeVar

from backup.model import NAMED_CHANGES, ChangeKind, Outcome, RefChange, RunReport
from backup.results import Finding

T = TypeVar("T")

MOST_BYTES = 1_000_000
_ROOM_FOR_THE_END = 4_000
_PLAIN = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,;/()'%=?-")
_CHANGES: tuple[ChangeKind, ...] = ("added", "advanced", "rewritten", "moved", "deleted")
_HEADINGS = {
    "success": "✅ Backup complete",
    "partial": "⚠️ Backup partial",
    "failed": "❌ Backup failed",
}
_NOT_CAPTURED = frozenset({"skipped", "not-reached", "planned", "gone"})
_MOST_CHARACTERS = 500
_MOST_REFS = 10
_BRING_BACK = (
    "What they pointed at is still stored: repo-backup restore --deleted --rewritten "
    "brings it back.\n\n"
)


def run_summary(report: RunReport, *, identity: str = "") -> str:
    """Write the summary of a run.

    Args:
        report: what was done.
        identity: the account and role that stored it; empty where nobody knows.
    """
    page = _Page()
    page.add(f"## {_HEADINGS[report.result]}\n\n")
    if report.dry_run:
        page.add("Dry run: plans were made, and nothing was stored.\n\n")
    page.add(_facts(report, identity))
    page.add(_totals(report))
    urgent = [one for one in report.outcomes if one.urgent]
    page.table("### Look at these first", ("Repository", "What"), urgent, _urgent_row)
    if report.problems:
        page.list("### Problems", report.problems)
    failed = [one for one in report.outcomes if one.status == "failed"]
    page.table("### Failed", ("Repository", "Why", "What to do"), failed, _failed_row)
    others = [one for one in report.outcomes if one.status in _NOT_CAPTURED]
    page.table("### Not captured", ("Repository", "Status", "Why"), others, _other_row)
    lost = [one for one in report.outcomes if any(_lost(one))]
    if lost:
        page.table("### Rewritten and deleted refs", ("Repository", "Refs"), lost, _lost_row)
        page.add(_BRING_BACK)
    captured = [one for one in report.outcomes if one.status == "captured"]
    headings = ("Repository", "Kind", "Objects", "Bytes", "Refs")
    page.table("### Captured", headings, captured, _captured_row)
    if report.notes:
        page.list("### Notes", report.notes)
    return page.text()


def findings_summary(findings: Sequence[Finding], *, heading: str) -> str:
    """Write the summary of a command that looks and changes nothing.

    Args:
        findings: what it found.
        heading: with a sign for whether all is well.
    """
    page = _Page()
    page.add(f"## {heading}\n\n")
    for severity, title in (("error", "### Errors"), ("warning", "### Warnings")):
        some = [one for one in findings if one.severity == severity]
        page.table(title, ("What", "What to do"), some, _finding_row)
    told = [one.message for one in findings if one.severity == "info"]
    if told:
        page.list("### Notes", told)
    return page.text()


def error_summary(message: str, hint: str) -> str:
    """Write the summary of a run that came to nothing."""
    then = f"\n\n{plain(hint)}" if hint else ""
    return f"## {_HEADINGS['failed']}\n\n{plain(message)}{then}\n"


def plain(text: str) -> str:
    """Write foreign text so that it is shown as it is, on one line."""
    cut = text if len(text) <= _MOST_CHARACTERS else f"{text[: _MOST_CHARACTERS - 1]}…"
    shown = "".join(map(_character, cut))
    # At the beginning of a line it would make a list.
    return f"&#45;{shown[1:]}" if shown.startswith("-") else shown


def _character(char: str) -> str:
    if char in _PLAIN:
        return char
    if not char.isprintable():
        return plain(char.encode("unicode_escape", "surrogatepass").decode())
    return char if ord(char) > 127 else f"&#{ord(char)};"


class _Page:
    """Text that stays short enough: rows that have no room are counted instead."""

    def __init__(self) -> None:
        self._parts: list[str] = []
        self._size_bytes = 0

    def add(self, text: str) -> bool:
        """Append text; false when there is no room for it."""
        size_bytes = len(text.encode())
        if self._size_bytes + size_bytes > MOST_BYTES - _ROOM_FOR_THE_END:
            return False
        self._parts.append(text)
        self._size_bytes += size_bytes
        return True

    def table(
        self,
        heading: str,
        columns: Sequence[str],
        items: Sequence[T],
        row: Callable[[T], Iterable[str]],
    ) -> None:
        """Append a table, if there is anything to show in it."""
        if not items:
            return
        head = f"{heading} ({len(items)})\n\n{_row(columns)}{_row(['---'] * len(columns))}"
        self._rows(head, [_row(row(one)) for one in items])

    def list(self, heading: str, lines: Sequence[str]) -> None:
        """Append a list of sentences."""
        self._rows(f"{heading}\n\n", [f"- {plain(line)}\n" for line in lines])

    def text(self) -> str:
        """Return all of it."""
        return "".join(self._parts)

    def _rows(self, head: str, rows: Sequence[str]) -> None:
        if not self.add(head):
            return
        for number, row in enumerate(rows):
            if not self.add(row):
                # What is kept back for the end has room for this.
                self._parts.append(f"\n… and {len(rows) - number} more, in the report.\n")
                break
        self._parts.append("\n")


def _facts(report: RunReport, identity: str) -> str:
    seconds = (report.finished_at - report.started_at).total_seconds()
    finished = f"{report.finished_at:%Y-%m-%d %H:%M} UTC after {seconds:,.0f} seconds"
    lines = [
        f"- Snapshot {plain(report.snapshot_id)}, finished {finished}\n",
        *(f"- Manifest {plain(uri)}\n" for uri in report.manifests),
    ]
    lines += [f"- {plain(drill.words)}\n" for drill in report.drills]
    if identity:
        lines.append(f"- Stored by {plain(identity)}\n")
    return "".join(lines) + "\n"


def _totals(report: RunReport) -> str:
    numbers = {
        "Listed": report.listed,
        "Captured": report.count("captured"),
        "Unchanged": report.count("unchanged"),
        "Empty": report.count("empty"),
        "Skipped": report.count("skipped"),
        "Not reached": report.count("not-reached"),
        "Gone": report.count("gone"),
        "Failed": report.count("failed"),
        "Uploaded": size(report.bytes_uploaded),
        "Objects": report.objects_written,
        "Requests": sum(report.requests.values()),
    }
    return (
        _row(numbers)
        + _row(["--:"] * len(numbers))
        + _row(str(value) for value in numbers.values())
        + "\n"
    )


def size(size_bytes: int) -> str:
    """Write a number of bytes for people."""
    amount = float(size_bytes)
    for unit in ("B", "kB", "MB", "GB"):
        if amount < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"


def _urgent_row(one: Outcome) -> Iterator[str]:
    yield _name(one)
    yield plain(one.urgent)


def _failed_row(one: Outcome) -> Iterator[str]:
    yield _name(one)
    yield plain(f"{one.reason} (as in the run before)" if one.known else one.reason)
    yield plain(one.hint)


def _finding_row(one: Finding) -> Iterator[str]:
    yield plain(one.message)
    yield plain(one.fix)


def _other_row(one: Outcome) -> Iterator[str]:
    yield _name(one)
    yield one.status if one.known or one.status != "gone" else f"{one.status}, new"
    yield plain(one.reason)


def _lost(one: Outcome) -> Iterator[RefChange]:
    """Find the refs that do not lead to what they led to; of a hidden repository none is told."""
    return (
        change for change in one.changes if change.kind in NAMED_CHANGES and change.old is not None
    )


def _lost_row(one: Outcome) -> Iterator[str]:
    yield _name(one)
    lost = [*_lost(one)]
    words = [f"{plain(change.name)} was {change.kind} (it was {change.old})" for change in lost]
    if len(words) > _MOST_REFS:
        words[_MOST_REFS:] = [f"… and {len(words) - _MOST_REFS} more, in the report"]
    yield "<br>".join(words)


def _captured_row(one: Outcome) -> Iterator[str]:
    yield _name(one)
    yield one.plan or ""
    yield f"{one.objects:,}"
    yield size(one.bytes_written)
    counts = ((kind, sum(change.kind == kind for change in one.changes)) for kind in _CHANGES)
    yield ", ".join(f"{number} {kind}" for kind, number in counts if number)


def _row(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |\n"


def _name(one: Outcome) -> str:
    return plain(f"{one.owner}/{one.path}")
