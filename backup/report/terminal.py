"""The terminal: progress while something goes on, tables when it is done. rich lives here alone.

Without a terminal progress is plain lines. Names and messages come from repositories and servers:
they are shown as text, never as markup, and control characters are escaped.
"""

import sys
import threading
from collections.abc import Sequence
from datetime import datetime
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.filesize import decimal
from rich.progress import (
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
)
from rich.table import Table
from rich.text import Text

from backup.model import NAMED_CHANGES, STATUSES, ChangeKind, Outcome, RunReport, SourceIdentity
from backup.refs import tell_not_selected
from backup.report.words import (
    newer_words,
    not_readable_words,
    not_searched_words,
    not_verified_words,
    soundness_words,
    standing_words,
    verified_words,
)
from backup.results import (
    AcceptReport,
    DrillNote,
    Finding,
    ForgetReport,
    History,
    HistoryItem,
    LostRef,
    PruneReport,
    PushReport,
    RepositoryRow,
    Restored,
    RestoreReport,
    Severity,
    SnapshotRow,
    VaultListing,
    VerifyReport,
    lies_in_versions,
    packs_were,
)

_STYLES = {
    "success": "green",
    "captured": "green",
    "partial": "yellow",
    "gone": "yellow",
    "skipped": "yellow",
    "not-reached": "yellow",
    "planned": "cyan",
    "failed": "bold red",
}
_CHANGES: tuple[ChangeKind, ...] = ("added", "advanced", "rewritten", "moved", "deleted")
_STYLES_OF_STATES = {
    "stale": "bold red",
    "damaged": "bold red",
    "unfinished": "yellow",
    "not-listed": "yellow",
    "transferred": "yellow",
    "blocked": "yellow",
}
_LOG_COLUMNS = 200
_MAX_LINES = 50
_MAX_NAMES = 10
_QUIET = {"unchanged", "empty"}


def shown(text: str) -> str:
    """Escape what a terminal would act on, and what a workflow's runner obeys wherever it stands.

    Source: actions/runner, `ActionCommand.TryParse`: "##[" is looked for in all of a line.
    """
    safe = "".join(
        char if char.isprintable() else char.encode("unicode_escape", "surrogatepass").decode()
        for char in text
    )
    return safe.replace("##[", "## [")


def line(text: str) -> str:
    """Escape a line, and keep a workflow's runner from taking it for a command."""
    safe = shown(text)
    return f"> {safe}" if safe.lstrip().startswith("::") else safe


class OpenConsole(Console):
    """A console whose owner decides what follows when its reader has gone."""

    def on_broken_pipe(self) -> None:
        """Raise BrokenPipeError as every other file does; rich itself ends the program with 1."""
        raise BrokenPipeError


def log_console() -> Console:
    """Make a console for a log that nobody looks at while it grows: plain lines on stderr."""
    return Console(file=sys.stderr, force_terminal=False, width=_LOG_COLUMNS)


class TerminalEvents:
    """Shows what goes on. Called from many threads."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = console.is_terminal
        self._lock = threading.Lock()
        self._tasks: dict[str, TaskID] = {}
        self._overall: TaskID | None = None
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            _Amount(),
            console=console,
            transient=True,
            disable=not self._live,
        )

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def listing(self, identity: SourceIdentity) -> None:
        self._say(f"listing {identity.location or identity.owner}")

    def listed(self, identity: SourceIdentity, count: int) -> None:
        self._say(f"{identity.owner}: {count} repositories")
        with self._lock:
            if self._live:
                description = shown(identity.owner)
                self._overall = self._progress.add_task(description, total=count)

    def capturing(self, name: str, action: str, reason: str) -> None:
        if not self._live:
            self._say(f"{name}: {action} ({reason})")
            return
        with self._lock:
            if (task := self._tasks.pop(name, None)) is not None:
                # Tried again: what went through before does not count.
                self._progress.remove_task(task)
            description = f"  {shown(name)} {action}"
            self._tasks[name] = self._progress.add_task(description, total=None)

    def transferred(self, name: str, size_bytes: int) -> None:
        if self._live and (task := self._tasks.get(name)) is not None:
            self._progress.advance(task, size_bytes)

    def finished(self, outcome: Outcome) -> None:
        name = f"{outcome.owner}/{outcome.path}"
        with self._lock:
            if (task := self._tasks.pop(name, None)) is not None:
                self._progress.remove_task(task)
            if self._overall is not None:
                self._progress.advance(self._overall)
        if outcome.status == "failed":
            self._say(f"{name}: failed: {outcome.reason}")
        elif outcome.status == "captured":
            size = decimal(outcome.bytes_written)
            what = f"{outcome.plan}, {outcome.objects} objects"
            if outcome.plan is None:
                what = f"{outcome.lfs_stored} files of Git LFS"
            self._say(f"{name}: {what}, {size}")

    def ended(self, name: str) -> None:
        with self._lock:
            if (task := self._tasks.pop(name, None)) is not None:
                self._progress.remove_task(task)

    def note(self, message: str) -> None:
        self._say(message)

    def _say(self, message: str) -> None:
        self._progress.console.print(Text(line(message)), soft_wrap=True)


class _Amount(ProgressColumn):
    """Counts repositories on the overall line, bytes and their rate on the others."""

    def render(self, task: Task) -> Text:
        if task.total is not None:
            return Text(f"{task.completed:.0f}/{task.total:.0f}")
        rate = f", {decimal(int(task.speed))}/s" if task.speed else ""
        return Text(f"{decimal(int(task.completed))}{rate}")


def print_run(report: RunReport, console: Console) -> None:
    """Print what a run did: problems first, then what changed, then the totals."""
    for outcome in report.outcomes:
        if outcome.urgent:
            _line(console, f"{_name(outcome)}: {outcome.urgent}", style="bold red")
    for problem in report.problems:
        _line(console, f"problem: {problem}", style="yellow")
    told = [outcome for outcome in report.outcomes if outcome.status not in _QUIET]
    told.sort(key=lambda outcome: outcome.status != "failed")
    if told:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for heading in ("repository", "status", "plan", "objects", "size", "refs", "why"):
            table.add_column(
                heading,
                justify="right" if heading in {"objects", "size"} else "left",
                overflow="fold",
            )
        for outcome in told[:_MAX_LINES]:
            table.add_row(*_run_row(outcome))
        console.print(table)
        if len(told) > _MAX_LINES:
            _line(console, f"... and {len(told) - _MAX_LINES} more (--json shows all)")
    for outcome in told[:_MAX_LINES]:
        _print_lost(outcome, console)
    for outcome in told:
        if outcome.hint:
            _line(console, f"hint: {_name(outcome)}: {outcome.hint}")
    _line(console, _totals(report), style=_STYLES[report.result])
    for uri in report.manifests:
        _line(console, f"manifest: {uri}")
    for drill in report.drills:
        style = "bold red" if drill.damaged or drill.standing else ""
        _line(console, drill.words, style=style)


def print_vault(listing: VaultListing, console: Console) -> None:
    """Print the snapshots, the newest last, and below them the repositories."""
    _print_snapshots(listing.snapshots, console)
    for broken in listing.damaged:
        _line(console, f"damaged: {broken.problem}", style="bold red")
        if broken.counts:
            words = f"what {broken.host}/{broken.owner} holds now depends on it, and is not listed"
            _line(console, f"  {words}", style="bold red")
        _line(console, f"  hint: {broken.hint}")
    console.print()
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("repository", "state", "checked (UTC)", "captured (UTC)", "verified (UTC)"):
        table.add_column(heading, overflow="fold")
    for heading in ("bundles", "size"):
        table.add_column(heading, justify="right")
    for row in listing.repositories:
        table.add_row(
            Text(line(f"{row.owner}/{row.path}")),
            Text(shown(_state(row)), style=_STYLES_OF_STATES.get(row.state, "")),
            Text(_time_or_never(row.checked_at)),
            Text(_time_or_never(row.captured_at)),
            Text("never" if row.drill is None else _proved(row.drill, row)),
            str(row.bundles),
            decimal(row.size_bytes),
        )
    console.print(table)
    for words in tell_not_selected(row.refs_not_selected for row in listing.repositories):
        _line(console, words)
    for one in listing.forgotten:
        words = f"{one.owner}/{one.path} was forgotten on {one.at:%Y-%m-%d} ({one.reason})"
        _line(console, words, style="yellow")
    for note in listing.notes:
        _line(console, note, style="bold red")


def _print_snapshots(rows: Sequence[SnapshotRow], console: Console) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("snapshot", "owner", "finished (UTC)", "result"):
        table.add_column(heading, overflow="fold")
    for heading in ("repositories", "captured", "unchanged", "failed", "uploaded"):
        table.add_column(heading, justify="right")
    for row in rows:
        shard = "" if row.shard is None else f" ({row.shard})"
        table.add_row(
            Text(line(f"{row.id}{shard}")),
            Text(shown(f"{row.host}/{row.owner}")),
            Text(f"{_time(row.finished_at)}{' (wrong clock)' if row.misdated else ''}"),
            Text(row.result, style=_STYLES[row.result]),
            *(str(n) for n in (row.repositories, row.captured, row.unchanged, row.failed)),
            decimal(row.bytes_uploaded),
        )
    console.print(table)


def print_history(history: History, console: Console) -> None:
    """Print one repository's captures, the newest last."""
    row = history.repository
    proved = "" if row.drill is None else f", verified {_proved(row.drill, row)}"
    _line(
        console,
        f"{row.host}/{row.owner}/{row.path} (id {row.host_id}): {_state(row)}, "
        f"last checked {_time_or_never(row.checked_at)}{proved}",
    )
    for words in tell_not_selected([row.refs_not_selected]):
        _line(console, words)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("snapshot", "captured (UTC)", "HEAD", "refs", "bundles", "changes"):
        table.add_column(heading, overflow="fold")
    for item in history.items:
        table.add_row(
            Text(line(item.snapshot)),
            Text(_time(item.captured_at)),
            Text(shown((item.head or "-").removeprefix("refs/heads/"))),
            _number_of_refs(item),
            str(len(item.chain)),
            Text(_changed(item)),
        )
    console.print(table)
    if history.items and history.items[-1].chain:
        _line(console, "newest chain, in the order to apply:")
        for uri in history.items[-1].chain:
            _line(console, f"  {uri}")
    for note in history.notes:
        _line(console, note, style="bold red")


def print_restore(report: RestoreReport, console: Console) -> None:
    """Print what was given back, what is lost, or how archived objects are thawed."""
    if report.thaw:
        # What is printed is a script for a shell.
        for reason in report.failed:
            _line(console, f"# {reason}", style="bold red")
        for command in report.thaw:
            _line(console, command)
        return
    if report.lost:
        _print_losses(report.lost, console)
    for one in report.restored:
        more = f" and {one.lost_refs} lost ones" if one.lost_refs else ""
        there = ", was there already" if one.was_there else ""
        _line(
            console,
            f"{one.name} as of {_time(one.state_at)} UTC: {one.path} "
            f"({one.refs} refs{more}, {decimal(one.size_bytes)}{there})",
        )
        if one.left_out:
            few = f"{one.name}: {one.left_out} refs of its source could not be stored"
            _line(console, few, style="yellow")
        _print_files(one, console)
    if report.push is not None:
        _print_push(report.push, console)
    for name in report.left_out:
        _line(console, f"left out: {name}", style="yellow")
    for name in report.failed:
        _line(console, f"failed: {name}", style="bold red")


def _print_files(one: Restored, console: Console) -> None:
    if one.files:
        _line(
            console,
            f"{one.name}: {one.files} files of Git LFS came with it ({decimal(one.files_bytes)}); "
            "in a clone git lfs checkout puts them in their places",
        )
    if one.files_not_stored:
        few = f"{one.files_not_stored} files of Git LFS were not to be had when it was captured"
        _line(console, f"{one.name}: {few}", style="yellow")
    if one.files_not_asked:
        none = "files of Git LFS were not asked for when it was captured, and none came with it"
        _line(console, f"{one.name}: {none}", style="yellow")
    if one.packs_unsearched:
        packs = packs_were(one.packs_unsearched)
        why = f"{packs} not searched for files of Git LFS when it was captured"
        _line(console, f"{one.name}: {why}, and some may be missing", style="bold red")
    for problem in one.files_failed:
        _line(console, f"failed: {one.name}: {problem}", style="bold red")


def _print_push(push: PushReport, console: Console) -> None:
    there = f", {push.unchanged} were there already" if push.unchanged else ""
    as_of = f"{push.state.name} as of {_time(push.state.state_at)} UTC"
    _line(console, f"{as_of}, pushed to {push.url}: {len(push.sent)} refs{there}")
    if push.files:
        _line(console, f"{push.state.name}: {push.files} files of Git LFS were sent")
    for problem in push.files_failed:
        _line(console, f"not sent: {problem}", style="bold red")
    for name, reason in push.refused:
        _line(console, f"refused: {name}: {reason}", style="bold red")
    if push.hidden:
        some = ", ".join(push.hidden[:_MAX_NAMES])
        more = len(push.hidden) - _MAX_NAMES
        _line(
            console,
            f"left out, as forges make them themselves and a stash is its owner's: {some}"
            f"{f' and {more} more' if more > 0 else ''}",
        )
    for note in push.notes:
        _line(console, note, style="yellow")


def _print_losses(lost: Sequence[LostRef], console: Console) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("repository", "ref", "what", "it was", "lost (UTC)", "captured in snapshot"):
        table.add_column(heading, overflow="fold")
    for one in lost:
        table.add_row(
            Text(line(one.repository)),
            Text("all of it" if one.ref is None else shown(one.ref)),
            Text("not listed" if one.ref is None else one.change),
            Text(one.id or ""),
            Text(_time(one.lost_at)),
            Text(shown(one.snapshot_id)),
        )
    console.print(table)


def print_verify(report: VerifyReport, console: Console) -> None:
    """Print what a verification proved, the damage first."""
    for one in report.damaged:
        _line(console, f"damaged: {one.uri}: {one.problem}", style="bold red")
        for name in one.repositories:
            _line(console, f"  of {name}")
        some = ", ".join(one.snapshots[:_MAX_NAMES])
        more = len(one.snapshots) - _MAX_NAMES
        if some:
            _line(console, f"  in {some}{f' and {more} more' if more > 0 else ''}")
    words, number = verified_words(report), len(report.damaged)
    if report.damaged:
        objects = "1 object is" if number == 1 else f"{number} objects are"
        _line(console, f"{words}: {objects} damaged", style="bold red")
        for fix in dict.fromkeys(one.fix for one in report.damaged):
            _line(console, f"hint: {fix}")
    else:
        _line(console, f"{words}: {soundness_words(report)}", style="green")
    if report.standing:
        _line(console, f"note: {standing_words(report)}", style="yellow")
    if report.newer:
        _line(console, f"note: {newer_words(report)}", style="yellow")
    if report.not_verified:
        _line(console, f"note: {not_verified_words(report)}", style="yellow")
    if report.not_searched:
        _line(console, f"note: {not_searched_words(report)}", style="yellow")
    if report.not_readable:
        _line(console, f"note: {not_readable_words(report)}", style="yellow")


def print_prune(report: PruneReport, console: Console) -> None:
    """Print what was decided of each snapshot, and what became of it."""
    rows = [*(("keep", one) for one in report.keep), *(("remove", one) for one in report.remove)]
    if rows:
        table = Table(box=None, pad_edge=False, header_style="bold")
        for heading in ("", "owner", "snapshot", "finished (UTC)", "why"):
            table.add_column(heading, overflow="fold")
        for word, one in sorted(rows, key=lambda pair: (pair[1].owner, pair[1].finished_at)):
            cells = (word, one.owner, one.snapshot_id, _time(one.finished_at), one.reason)
            table.add_row(*map(Text, cells))
        console.print(table)
    for line in forgotten_words(report):
        _line(console, line, style="yellow")
    for line in staying_words(report):
        _line(console, line)
    for words in report.refused:
        _line(console, f"refused: {words}", style="bold red")
    print_findings(report.notes, console)
    _line(console, prune_words(report))


def forgotten_words(report: PruneReport) -> list[str]:
    """Say which repositories are forgotten, a line each."""
    verb = "would be forgotten" if report.dry_run else "forgotten"
    return [f"{verb}: {one.owner}/{one.path} ({one.reason})" for one in report.forgotten]


def staying_words(report: PruneReport) -> list[str]:
    """Say of each owner what stays for now: locked versions, and files in their grace."""
    return [
        f"{one.owner}: {one.objects} of these objects ({decimal(one.size_bytes)}) are locked, the "
        f"first until {one.first:%Y-%m-%d}, the last until {one.last:%Y-%m-%d}: versions of them "
        "stay until then"
        for one in report.locked
    ] + [
        f"{one.owner}: {one.objects} files of Git LFS ({decimal(one.size_bytes)}) are named by "
        f"nothing any more: the first may be deleted from {one.first:%Y-%m-%d}"
        for one in report.condemned
    ]


def print_forget(report: ForgetReport, console: Console) -> None:
    """Print what was forgotten, and what follows from it."""
    name = f"{report.repository.owner}/{report.repository.path}"
    if report.dry_run:
        _line(console, f"dry run: {name} would be forgotten, with all its past")
    else:
        _line(console, f"{name} is forgotten: nothing lists or restores it any more", style="green")
    if report.is_listed:
        _line(console, "note: its source lists it: the next run begins it anew, or --exclude it")
    for left in report.left:
        _line(console, f"note: {left} stays")
    size = decimal(report.size_bytes)
    _line(console, f"prune deletes its objects when its grace is over ({size} and more), from")
    for folder in report.folders:
        _line(console, f"  {folder}")


def print_accept(report: AcceptReport, console: Console) -> None:
    """Print what damage was accepted, and what follows from it."""
    for one in (*report.before, *report.accepted):
        _line(console, f"damaged: {one.uri}: {one.problem}", style="red")
    if not report.accepted:
        _line(console, f"the damage of {report.repository} was accepted before")
    elif report.dry_run:
        _line(console, f"dry run: the damage of {report.repository} would be accepted")
    else:
        _line(console, f"the damage of {report.repository} is accepted", style="green")
        _line(console, "what can still be restored is kept; other damage is told as before")
    for words in report.what_follows:
        _line(console, f"note: {words}")


def prune_words(report: PruneReport) -> str:
    """Say in one sentence what a prune did, or would do."""
    snapshots = f"{len(report.remove)} of {len(report.keep) + len(report.remove)} snapshots"
    if report.dry_run:
        return f"dry run: {snapshots} and {report.objects} objects would be deleted"
    words = f"{snapshots} and {report.objects} objects deleted"
    if report.marked_bytes:
        size = decimal(report.marked_bytes)
        words += f"; {size} are only marked, until the bucket's rule removes earlier versions"
    else:
        words += f"; {decimal(report.freed_bytes)} freed"
    return f"{words}; {report.uploads} unfinished uploads given up" if report.uploads else words


def print_findings(findings: Sequence[Finding], console: Console) -> None:
    """Print what was found, what is worst first."""
    order: dict[Severity, str] = {"error": "bold red", "warning": "yellow", "info": ""}
    for severity, style in order.items():
        for one in findings:
            if one.severity == severity:
                _line(console, f"{severity}: {one.message}", style=style)
                if one.fix:
                    _line(console, f"  hint: {one.fix}")


def _print_lost(outcome: Outcome, console: Console) -> None:
    lost = [one for one in outcome.changes if one.kind in NAMED_CHANGES]
    for one in lost[:_MAX_NAMES]:
        _line(console, f"{_name(outcome)}: {one.name} was {one.kind} (it was {one.old})")
    if len(lost) > _MAX_NAMES:
        _line(console, f"{_name(outcome)}: ... and {len(lost) - _MAX_NAMES} more refs")


def _run_row(outcome: Outcome) -> list[Text]:
    captured = outcome.status == "captured"
    counts = [
        f"{number} {kind}"
        for kind in _CHANGES
        if (number := sum(one.kind == kind for one in outcome.changes))
    ]
    return [
        Text(line(_name(outcome))),
        Text(outcome.status, style=_STYLES.get(outcome.status, "")),
        Text(outcome.plan or ""),
        Text(str(outcome.objects) if captured else ""),
        Text(decimal(outcome.bytes_written) if captured else ""),
        Text(", ".join(counts)),
        Text(shown(outcome.reason)),
    ]


def _totals(report: RunReport) -> str:
    counted = [f"{number} {status}" for status in STATUSES if (number := report.count(status))]
    requests = ", ".join(f"{number} {name}" for name, number in report.requests.items())
    seconds = (report.finished_at - report.started_at).total_seconds()
    dry = "dry run, nothing stored; " if report.dry_run else ""
    return (
        f"{report.result}: {dry}{report.listed} listed: {', '.join(counted) or 'none done'}; "
        f"{report.objects_written} objects, {decimal(report.bytes_uploaded)} written "
        f"in {seconds:.1f} s ({requests} requests)"
    )


def _number_of_refs(item: HistoryItem) -> str:
    left_out = sum(item.refs_not_selected.values())
    return f"{len(item.refs)} ({left_out} left out)" if left_out else str(len(item.refs))


def _changed(item: HistoryItem) -> str:
    told = [one for one in item.changes if one.kind != "advanced"]
    names = [f"{one.kind} {shown(one.name)}" for one in told[:5]]
    advanced = len(item.changes) - len(told)
    if advanced:
        names.insert(0, f"{advanced} advanced")
    if len(told) > len(names[-5:]):
        names.append("...")
    return ", ".join(names)


def _state(row: RepositoryRow) -> str:
    words = {"not-listed": "not listed", "renamed": f"renamed from {row.renamed_from}"}
    state = words.get(row.state, row.state)
    if row.since is not None:
        state = f"{state} since {row.since:%Y-%m-%d}"
    if not row.damaged:
        return state
    standing = [one for one in row.damaged if not one.accepted]
    if not standing:
        return "damage accepted" if state == "ok" else f"{state}, damage accepted"
    found = state if row.state == "damaged" else f"{state}, damaged"
    if all(lies_in_versions(one.problem) for one in standing):
        return f"{found} in current versions"
    return found


def _proved(drill: DrillNote, row: RepositoryRow) -> str:
    # What is damaged may be needed by older states alone.
    if drill.ok:
        found = "known damage stands" if row.damaged else "sound"
    else:
        found = "damaged" if row.damaged else "older states damaged"
    return f"{_time(drill.at)} ({drill.depth}): {found}"


def _time_or_never(moment: datetime | None) -> str:
    return "never" if moment is None else _time(moment)


def _name(outcome: Outcome) -> str:
    return f"{outcome.owner}/{outcome.path}"


def _line(console: Console, text: str, *, style: str = "") -> None:
    console.print(Text(line(text), style=style), soft_wrap=True)


def _time(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%d %H:%M:%S")
