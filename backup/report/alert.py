"""What people and monitors are told when a command has ended. Pure.

Told is what happened, to which repositories first, and what to do about it.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from backup.errors import ExitCode
from backup.model import RunReport, RunResult
from backup.report.words import verified_words
from backup.results import Finding, PruneReport, VerifyReport

_MOST_LINES = 20
# Amazon SNS API Reference, "Publish": printable ASCII, shorter than 100, beginning with no blank.
_MOST_SUBJECT = 99
_WHAT_FOLLOWS = {
    "partial": "What could be stored is stored. The next run tries the rest again.",
    "failed": "What earlier runs stored is as it was. The next run tries again.",
}


@dataclass(frozen=True, slots=True)
class Alert:
    """What came of a command.

    Attributes:
        result: only success is a success.
        subject: one short line of ASCII.
        lines: the rest.
        hurried: whether the process is about to be ended, so that there is little time to tell it.
    """

    result: RunResult
    subject: str
    lines: tuple[str, ...] = ()
    hurried: bool = False

    @property
    def text(self) -> str:
        """The whole message."""
        return "\n".join((self.subject, "", *self.lines)) if self.lines else self.subject


def alert_of_run(report: RunReport) -> Alert:
    """Tell of a run; give it what may be shown to those who hear of it."""
    owners = sorted({one.owner for one in report.outcomes})
    failed = [one for one in report.outcomes if one.status == "failed"]
    urgent = [one for one in report.outcomes if one.urgent]
    lines = [f"Snapshot {report.snapshot_id}, {report.listed} repositories listed."]
    if urgent:
        lines += ["", "Look at these first:"]
        lines += _some([f"- {one.owner}/{one.path}: {one.urgent}" for one in urgent])
    if report.problems:
        lines += ["", "Problems:", *_some([f"- {problem}" for problem in report.problems])]
    if failed:
        lines += ["", f"{len(failed)} repositories failed:"]
        lines += _some(
            [
                f"- {one.owner}/{one.path}: {one.reason}" + (f" ({one.hint})" if one.hint else "")
                for one in failed
            ]
        )
    if follows := _WHAT_FOLLOWS.get(report.result):
        lines += ["", follows]
    alert = _alert(report.result, f"Backup of {_names(owners)}: {report.result}", lines)
    return replace(alert, hurried=report.exit_code == ExitCode.INTERRUPTED)


def alert_of_verify(report: VerifyReport) -> Alert:
    """Tell of a verification."""
    open_questions = (*report.not_verified, *report.not_searched)
    if not report.damaged and not open_questions:
        return _alert("success", verified_words(report), ())
    if not report.damaged:
        lines = _some([f"- {words}" for words in open_questions])
        return _alert("partial", f"Backup verification: {verified_words(report)}", lines)
    lines = [f"{len(report.damaged)} stored objects are damaged:"]
    lines += _some(
        [
            f"- {one.uri}: {one.problem}; {len(one.snapshots)} snapshots depend on it"
            for one in report.damaged
        ]
    )
    lines += [
        "",
        *(f"What follows: {fix}." for fix in dict.fromkeys(o.fix for o in report.damaged)),
    ]
    return _alert("failed", "Backup verification: stored data is damaged", lines)


def alert_of_prune(report: PruneReport) -> Alert:
    """Tell of a prune."""
    missing = [note.message for note in report.notes if note.severity == "error"]
    if not report.refused and not missing:
        return _alert("success", f"{len(report.remove)} snapshots pruned", ())
    if not report.refused:
        lines = _some([f"- {message}" for message in missing])
        return _alert("failed", "Prune: manifests are missing or damaged", lines)
    lines = ["Of these owners nothing was deleted:"]
    lines += _some([f"- {words}" for words in report.refused])
    lines += ["", "See to that first, run verify, and prune again."]
    return _alert("failed", "Prune refused", lines)


def alert_of_status(findings: Sequence[Finding], *, is_well: bool) -> Alert:
    """Tell how it stands with a vault."""
    if is_well:
        return _alert("success", "Backup fresh and whole", ())
    errors = [one for one in findings if one.severity == "error"]
    lines = _some([f"- {one.message}" + (f" ({one.fix})" if one.fix else "") for one in errors])
    return _alert("partial", "Backup not fresh, or not whole", lines)


def alert_of_error(message: str, hint: str, *, about: str) -> Alert:
    """Tell of a command that came to nothing."""
    lines = [message, *([f"What to do: {hint}"] if hint else [])]
    return _alert("failed", f"{about}: failed", lines)


def _alert(result: RunResult, subject: str, lines: Sequence[str]) -> Alert:
    plain = "".join(char if " " <= char <= "~" else "?" for char in subject)
    cut = plain if len(plain) <= _MOST_SUBJECT else f"{plain[: _MOST_SUBJECT - 3]}..."
    return Alert(result, cut, tuple("".join(map(_shown, line)) for line in lines))


def _shown(char: str) -> str:
    return char if char.isprintable() else repr(char)[1:-1]


def _names(owners: Sequence[str]) -> str:
    if not owners:
        return "nothing"
    return owners[0] if len(owners) == 1 else f"{owners[0]} and {len(owners) - 1} more"


def _some(lines: Sequence[str]) -> list[str]:
    rest = len(lines) - _MOST_LINES
    return [*lines[:_MOST_LINES], *([f"- and {rest} more"] if rest > 0 else [])]
