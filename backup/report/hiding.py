"""Keeps names of private repositories out of a log that everybody can read.

A workflow in a public repository shows its log, summary and annotations to the world. What is
hidden there stands in the report's file, which the runner shows to nobody by itself.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from threading import Lock

from backup.errors import ExitCode
from backup.model import Outcome, RefChange, RefName, RunReport, SourceIdentity
from backup.results import Finding, PruneReport, VerifyReport

_HIDDEN_REF = RefName("(hidden)")
_WHY = {
    "captured": "",
    "unchanged": "",
    "empty": "",
    "failed": "it failed; the report's file says why",
    "skipped": "it was skipped; the report's file says why",
    "not-reached": "not reached",
    "planned": "",
    "gone": "it is not listed any more; the report's file says more",
}


# The folders whose keys hold names of repositories, see `backup.vault.layout`.
_PLACES = re.compile(r"(?<=/)(repositories|exports)/\S+")


def hide_places(message: str) -> str:
    """Leave out of a message where in the vault an object lies: its key has a repository's name."""
    return _PLACES.sub(r"\1/(hidden)", message)


def hide_private_names(report: RunReport) -> RunReport:
    """Put a number in place of each private repository's name, and leave out what is said of it."""
    private = [one for one in report.outcomes if one.private]
    names = {id(one): f"private repository {number}" for number, one in enumerate(private, 1)}
    spoken = {one.path for one in private} | {f"{one.owner}/{one.path}" for one in private}
    return replace(
        report,
        outcomes=tuple(
            _hidden(one, names[id(one)]) if one.private else one for one in report.outcomes
        ),
        problems=_without(report.problems, spoken),
        notes=_without(report.notes, spoken),
    )


def _hidden(one: Outcome, name: str) -> Outcome:
    return replace(
        one,
        path=name,
        host_id="",
        reason=_WHY[one.status],
        hint="",
        urgent="it lost refs; the report's file says which" if one.urgent else "",
        lfs_missing=(),
        lfs_first_look_alike="",
        changes=tuple(RefChange(_HIDDEN_REF, c.kind, None, None) for c in one.changes),
    )


def _without(lines: tuple[str, ...], spoken: set[str]) -> tuple[str, ...]:
    kept = tuple(line for line in lines if not any(name in line for name in spoken))
    left = len(lines) - len(kept)
    return (*kept, f"{left} about private repositories, in the report's file") if left else kept


class CountingEvents:
    """Tells how far a run is, and nothing by name. Called from many threads.

    Args:
        say: prints one line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._lock = Lock()
        self._selected = 0
        self._done = 0

    def listing(self, identity: SourceIdentity) -> None:
        self._say(f"listing {identity.owner}")

    def listed(self, identity: SourceIdentity, count: int) -> None:
        with self._lock:
            self._selected += count
        self._say(f"{identity.owner}: {count} repositories; names are hidden")

    def capturing(self, name: str, action: str, reason: str) -> None:
        """Say nothing: a name would be in it."""

    def transferred(self, name: str, size_bytes: int) -> None:
        """Say nothing."""

    def finished(self, outcome: Outcome) -> None:
        with self._lock:
            self._done += 1
            done, every = self._done, max(1, self._selected // 20)
        if done % every == 0:
            self._say(f"{done} of {self._selected} done")

    def ended(self, name: str) -> None:
        """Say nothing."""

    def note(self, message: str) -> None:
        """Say nothing: a name may be in it."""


def hide_private_findings(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Leave out what names a private repository, and say how much of each severity that is."""
    counts = Counter(one.severity for one in findings if one.private)
    return tuple(one for one in findings if not one.private) + tuple(
        Finding(severity, f"{number} findings about private repositories, whose names are hidden")
        for severity, number in counts.items()
    )


def hide_private_prune(report: PruneReport) -> PruneReport:
    """Leave out names of private repositories: of those forgotten, and in objects' names."""
    hidden_name = "a private repository"
    forgotten = tuple(
        replace(one, path=hidden_name, host_id="") if one.private else one
        for one in report.forgotten
    )
    notes = hide_private_findings(report.notes)
    report = replace(report, forgotten=forgotten, notes=notes)
    if report.exit_code != ExitCode.DAMAGED:
        return report
    owners = (words.partition(":")[0] for words in report.refused)
    hidden = tuple(f"{owner}: something is missing or damaged; verify names it" for owner in owners)
    return replace(report, refused=hidden)


def hide_private_damage(report: VerifyReport) -> VerifyReport:
    """Leave out which private repository is damaged; that one is, and since when, stays."""
    hidden = ("a private repository",)
    return replace(
        report,
        # Whose they are is not known here.
        not_readable=("an archived object",) * len(report.not_readable),
        newer=("a document has a newer format",) * len(report.newer),
        not_verified=("a repository",) * len(report.not_verified),
        not_searched=("a repository",) * len(report.not_searched),
        damaged=tuple(
            replace(one, uri=hidden[0], problem="it is damaged", repositories=hidden)
            if one.private
            else one
            for one in report.damaged
        ),
    )
