"""Tells whether a vault is fresh and whole: what a second place looks at, every day.

Manifests are read, what the last verifications noted, and a listing tells whether what manifests
name is there. What bundles hold is not
proved here.
"""

from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from datetime import datetime, timedelta

from backup.commands.clocks import disagreement
from backup.commands.drills import load_drill_state
from backup.commands.finding import require_roots
from backup.commands.hidden import hidden_documents
from backup.commands.known_damage import (
    damage_hint,
    damage_words,
    standing,
    ways_to_name,
    with_known_damage,
)
from backup.commands.lost_index import HOW_TO_GO_ON, lost_index
from backup.commands.presence import not_there
from backup.errors import ExitCode
from backup.model import Destination
from backup.results import Finding, StatusReport
from backup.vault.documents import Entry
from backup.vault.layout import Layout, escape_segment
from backup.vault.manifest import State, list_documents, load_state
from backup.vault.originals import OriginalsDestination

_MOST_NAMED = 20
_WORDS_OF_AGE = (("days", 86_400), ("hours", 3600), ("minutes", 60))


def status(
    destination: Destination, *, owners: tuple[str, ...], max_age_hours: int, now: datetime
) -> StatusReport:
    """Look at every owner of a vault, or at those that are named.

    A repository counts when its source still has it and the last run selected it. It is fresh when
    its refs were asked for within the limit, and whole when all of it was captured. Known damage of
    a current chain counts of every repository, unless it was accepted.

    Args:
        destination: where the vault lies.
        owners: whose; all when empty. One that has nothing here is an error among the findings.
        max_age_hours: the limit.
        now: the time.

    Requests: the documents that make the newest state, a listing of all objects of repositories,
    a record for each repository of which that listing lacks something; and for files of Git LFS
    what `not_there` says.

    Raises:
        ConfigError: the destination holds no vault.
        DamagedDocument: a manifest that counts cannot be read.
    """
    destination = OriginalsDestination(destination)
    states = [
        (layout, load_state(destination, layout, list_documents(destination, layout), now=now))
        for layout in require_roots(destination)
    ]
    findings: list[Finding] = []
    if words := disagreement(destination, now):
        findings.append(
            Finding(
                "warning", words, "set the one that is wrong (by NTP); ages go by the later one"
            )
        )
        # Too old by one of them is reported as too old.
        now = max(now, destination.now() or now)
    limit = now - timedelta(hours=max_age_hours)
    seen: set[str] = set()
    for layout, state in states:
        findings += _of_lost_index(destination, layout, state, owners=owners, seen=seen)
        if state.source is None:
            continue
        # As list shows it, too.
        ways = {state.source.owner, f"{state.source.host}/{state.source.owner}"}
        if owners and ways.isdisjoint(owners):
            continue
        seen |= ways
        name = _name(layout, state)
        for one in hidden_documents(destination, layout):
            findings.append(Finding("error", f"{name}: {one.message}", one.fix))
        heir = _heir(state, [other for _, other in states])
        if heir:
            message = f"{name}: its owner is now {heir}, whose backup goes on from here"
            findings.append(Finding("info", message))
            continue
        findings += _of_owner(name, state, limit=limit, now=now)
        drills = load_drill_state(destination, layout, now=now)
        known = with_known_damage(destination, layout, state.entries, drills)
        findings += not_there(destination, layout, replace(state, entries=known), name=name)
        findings += _of_damage(known.values(), name=name)
    findings += [
        Finding("error", f"{owner}: nothing of it is in this vault", "check --owner, or run once")
        for owner in owners
        if owner not in seen
    ]
    fresh = all(one.severity != "error" for one in findings)
    return StatusReport(tuple(findings), ExitCode.DONE if fresh else ExitCode.PARTIAL)


def _of_lost_index(
    destination: OriginalsDestination,
    layout: Layout,
    state: State,
    *,
    owners: tuple[str, ...],
    seen: set[str],
) -> Iterator[Finding]:
    """Tell of a root without manifests, and note which of the owners asked for it is of."""
    host, folder = layout.prefix.rstrip("/").split("/")
    asked = [
        owner
        for owner in owners
        if folder == escape_segment(owner.removeprefix(f"{host}/"))
        or folder == escape_segment(owner)
    ]
    if owners and not asked:
        return
    if (lost := lost_index(destination, layout, state)) is not None:
        seen.update(asked)
        yield Finding("error", lost.message, HOW_TO_GO_ON)


def _name(layout: Layout, state: State) -> str:
    return (
        layout.prefix.rstrip("/")
        if state.source is None
        else (f"{state.source.host}/{state.source.owner}")
    )


def _heir(state: State, others: Iterable[State]) -> str:
    """Name the owner under whose new name this one's backup goes on; empty if there is none."""
    mine, newest = state.source, state.newest
    if mine is None or not mine.owner_id or newest is None:
        return ""
    for other in others:
        theirs = other.source
        if theirs is None or other.newest is None or other is state:
            continue
        is_same = (theirs.host, theirs.owner_id) == (mine.host, mine.owner_id)
        if is_same and other.newest.finished_at > newest.finished_at:
            return theirs.owner
    return ""


def _of_owner(name: str, state: State, *, limit: datetime, now: datetime) -> Iterator[Finding]:
    for stem in state.misdated:
        yield Finding(
            "warning",
            f"{name}: {stem} was dated by a wrong clock and decides nothing",
            "set the clock of the machine that wrote it",
        )
    yield from _of_run(name, state, limit=limit, now=now)
    counted = [entry for entry in state.entries.values() if _counts(entry)]
    for entry in sorted(counted, key=lambda one: (one.path, one.kind)):
        yield from _of_repository(f"{name}/{entry.path}", entry, limit=limit, now=now)
    fresh = sum(_is_fresh(entry, limit) for entry in counted)
    last = "" if state.newest is None else _ago(state.newest.finished_at, now)
    yield Finding(
        "info",
        f"{name}: {fresh} of {len(counted)} repositories were checked in time"
        f"{last and f', the last run finished {last}'}",
    )


def _of_damage(entries: Collection[Entry], *, name: str) -> Iterator[Finding]:
    names = ways_to_name(entries, owner=name)
    for entry in sorted(entries, key=lambda one: (one.path, one.kind)):
        path = f"{name}/{entry.path}"
        known = standing(entry)
        if known.open:
            fix = damage_hint(names[entry.identity], entry, known.open)
            yield Finding("error", damage_words(path, known.open), fix, private=entry.private)
        if known.accepted:
            words = f"{path}: {len(known.accepted)} damaged objects are accepted"
            yield Finding("info", words, private=entry.private)


def _of_run(name: str, state: State, *, limit: datetime, now: datetime) -> Iterator[Finding]:
    newest = state.newest
    if newest is None:
        yield Finding(
            "error", f"{name}: no run has ever finished", "look at the log of the run that began"
        )
        return
    if newest.finished_at < limit:
        yield Finding(
            "error",
            f"{name}: the last run finished {_ago(newest.finished_at, now)}",
            "look whether the schedule still runs: GitHub switches it off without a word",
        )
    if newest.result == "failed":
        yield Finding("error", f"{name}: the last run failed", "look at its summary")
    elif not newest.complete:
        yield Finding(
            "error",
            f"{name}: the last run did not get to every repository",
            "give it more time: the next one begins with the rest",
        )
    yield from _of_unreadable(name, state)
    private = {entry.path for entry in state.entries.values() if entry.private}
    for problem in newest.problems:
        is_private = any(path in problem for path in private)
        yield Finding("warning", f"{name}: the last run said: {problem}", private=is_private)


def _of_unreadable(name: str, state: State) -> Iterator[Finding]:
    """Name what the last listing had and no entry can be made of."""
    fix = "look at it where it is listed: each run tries it again"
    for one in state.unreadable[:_MOST_NAMED]:
        yield Finding(
            "error", f"{name}/{one.path}: nothing of it is stored: {one.reason}", fix, one.private
        )
    if (more := len(state.unreadable) - _MOST_NAMED) > 0:
        yield Finding("error", f"{name}: nothing is stored of {more} more that are listed", fix)


def _counts(entry: Entry) -> bool:
    """Leave out what the source has no more, what was not selected, what is blocked for good."""
    is_absent = entry.absence is not None or entry.not_selected or entry.skipped_why is not None
    # A wiki without pages is looked for once a week.
    return not is_absent and not (entry.kind == "wiki" and entry.empty and entry.record is None)


def _is_fresh(entry: Entry, limit: datetime) -> bool:
    return entry.checked_at is not None and entry.checked_at >= limit


def _of_repository(name: str, entry: Entry, *, limit: datetime, now: datetime) -> Iterator[Finding]:
    again = "the next run tries again"

    def error(message: str, fix: str) -> Finding:
        return Finding("error", f"{name}: {message}", fix, private=entry.private)

    if entry.failing_since is not None:
        # A run that did not come to it knows no reason of its own.
        why = f": {entry.reason}" if entry.reason else ""
        yield error(f"it has failed since {entry.failing_since:%Y-%m-%d}{why}", again)
    elif entry.checked_at is None:
        why = f": {entry.reason}" if entry.reason else ""
        yield error(f"it was never checked{why}", "look at the last run's summary")
    elif not _is_fresh(entry, limit):
        when = _ago(entry.checked_at, now)
        yield error(f"it was checked last {when}", "look at the last run's summary")
    elif entry.unfinished:
        yield error(f"it is not whole: {'; '.join(entry.unfinished)}", again)
    for reason in entry.degraded:
        yield Finding("info", f"{name}: {reason}", private=entry.private)


def _ago(moment: datetime, now: datetime) -> str:
    seconds = (now - moment).total_seconds()
    for unit, size in _WORDS_OF_AGE:
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit} ago"
    return "just now"
