"""Damage of the state that a vault would give back today: what is known of it, and stands.

Verifications and the listings of runs find damage. It stands until the same object passes, or until
the current chain of its repository needs it no more; which chain is current, only the newest entry
tells. Damage of older chains is none of it: nothing that is captured tonight leans on them.
"""

import shlex
from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime

from backup.commands.drills import DrillState, first_found
from backup.commands.last_state import records_to_chain
from backup.commands.stored_files import promised_files
from backup.errors import IntegrityError, ObjectNotFound, sound
from backup.model import Destination
from backup.results import lies_in_versions
from backup.vault.documents import Accepted, DamageLine, Entry, EntryDamage
from backup.vault.layout import Layout, accepted_of, lfs_key, lfs_oid
from backup.vault.manifest import Identity, load

AcceptedKeys = Mapping[tuple[Identity, str], Accepted]


@dataclass(frozen=True, slots=True)
class StandingDamage:
    """The damage of one repository that counts.

    Attributes:
        open: what nobody has accepted.
        accepted: what somebody has.
    """

    open: tuple[EntryDamage, ...] = ()
    accepted: tuple[EntryDamage, ...] = ()


def with_known_damage(
    destination: Destination,
    layout: Layout,
    entries: Mapping[Identity, Entry],
    drills: DrillState,
) -> dict[Identity, Entry]:
    """Return the entries with all damage of their current chains that is known.

    Requests: one for the record of each repository that damage is known of, and one for each
    document of accepted damage; where no damage is known there are none.
    """
    of_drills = drills.of_holders()
    found = dict(entries)
    accepted: AcceptedKeys | None = None
    for identity, entry in entries.items():
        lines = _candidates(entry, of_drills.get(identity, ()), drills)
        if not lines:
            if entry.damaged:
                found[identity] = entry.model_copy(update={"damaged": ()})
            continue
        lines = still_needed(destination, layout, entry, lines)
        if lines and accepted is None:
            accepted = load_accepted(destination, layout)
        lines = marked(identity, lines, accepted or {})
        found[identity] = entry.model_copy(update={"damaged": lines})
    return found


def marked(
    identity: Identity, lines: Iterable[EntryDamage], accepted: AcceptedKeys
) -> tuple[EntryDamage, ...]:
    """Mark the damage of a repository that was accepted; what a manifest says of it is no word.

    What was whole again after it was accepted is new damage when it is found once more.
    """

    def is_accepted(one: EntryDamage) -> bool:
        document = accepted.get((identity, one.key))
        return document is not None and one.found_at <= document.at

    return tuple(one.model_copy(update={"accepted": is_accepted(one)}) for one in lines)


def run_lines(
    found: Iterable[tuple[str, str]], *, before: Iterable[EntryDamage], now: datetime
) -> tuple[EntryDamage, ...]:
    """Return what a listing found wrong, by key, as an entry notes it.

    Args:
        found: relative keys, each with what is wrong.
        before: what was known: damage that a drill has found is known already, unless a run has
            stored the file again since.
        now: the time.
    """
    known = {one.key: one for one in before}
    lines = []
    for key, problem in found:
        line = known.get(key)
        if line is not None and line.found_by == "verify" and line.repaired_at is None:
            continue
        is_old = line is not None and line.found_by == "run"
        found_at = line.found_at if line is not None and is_old else now
        lines.append(
            EntryDamage(key=key, problem=sound(problem), found_at=found_at, found_by="run")
        )
    return tuple(lines)


def _candidates(
    entry: Entry, of_drills: Iterable[DamageLine], drills: DrillState
) -> tuple[EntryDamage, ...]:
    before = {one.key: one for one in entry.damaged}
    lines: dict[str, EntryDamage] = {}
    for one in entry.damaged:
        # Only a drill can say that what drills found has passed.
        if one.found_by == "run" or not drills.has_judged(one.found_at):
            lines[one.key] = one
    for line in of_drills:
        if line.found_at is None:
            continue
        known = before.get(line.key)
        if known is not None and _is_found_later(known, line.found_at):
            continue
        repaired_at = None if known is None else known.repaired_at
        if repaired_at is not None and repaired_at < line.found_at:
            repaired_at = None
        lines[line.key] = found_by_drill(line).model_copy(update={"repaired_at": repaired_at})
    return tuple(lines[key] for key in sorted(lines))


def _is_found_later(one: EntryDamage, found_at: datetime) -> bool:
    """Return whether a listing lacks a file that was stored again after a drill had found it."""
    return one.found_by == "run" and bool(lfs_oid(one.key)) and one.found_at > found_at


def found_by_drill(line: DamageLine) -> EntryDamage:
    """Return what drills found, as an entry notes it."""
    found_at = first_found(line)
    if found_at is None:
        raise ValueError(f"{line.key}: it is not known when it was found")
    return EntryDamage(key=line.key, problem=line.problem, depth=line.depth, found_at=found_at)


def still_needed(
    destination: Destination, layout: Layout, entry: Entry, lines: Iterable[EntryDamage]
) -> tuple[EntryDamage, ...]:
    """Return those damaged objects that the current chain of an entry needs."""
    lines = tuple(lines)
    needed = _needed(destination, layout, entry, {one.key for one in lines})
    return tuple(one for one in lines if one.key in needed)


def _needed(
    destination: Destination, layout: Layout, entry: Entry, keys: Collection[str]
) -> Collection[str]:
    if entry.record is None or not keys:
        return ()
    try:
        records = records_to_chain(destination, layout, entry)
    except (IntegrityError, ObjectNotFound):
        # What it needs cannot be told; it cannot be given back either.
        return keys
    needed = {entry.record, *(key for key, _ in records)}
    _, record = records[-1]
    for bundle in record.chain:
        needed.update((bundle.key, *bundle.documents))
    files = {key for key in keys if lfs_oid(key)}
    if files:
        try:
            promised = promised_files(destination, layout, record)
        except (IntegrityError, ObjectNotFound):
            return needed | files
        needed.update(lfs_key(oid) for oid in promised)
    return needed


def load_accepted(destination: Destination, layout: Layout) -> dict[tuple[Identity, str], Accepted]:
    """Read which damage was accepted, by repository and object.

    A document that cannot be read accepts nothing.
    """
    found: dict[tuple[Identity, str], Accepted] = {}
    for stored in destination.list(layout.folder("accepted")):
        if not accepted_of(layout, stored.key):
            continue
        try:
            document = load(destination, stored.key, Accepted)
        except (IntegrityError, ObjectNotFound):
            continue
        for line in document.objects:
            known = found.get((document.identity, line.key))
            if known is None or known.at < document.at:
                found[document.identity, line.key] = document
    return found


def standing(entry: Entry) -> StandingDamage:
    """Return what stands of an entry's damage: all but files that a run has stored again."""
    lines = [one for one in entry.damaged if one.repaired_at is None]
    return StandingDamage(
        open=tuple(one for one in lines if not one.accepted),
        accepted=tuple(one for one in lines if one.accepted),
    )


def damaged_files(entry: Entry) -> tuple[str, ...]:
    """Return the ids of the files of Git LFS that are known to be damaged."""
    oids = (lfs_oid(one.key) for one in entry.damaged if one.repaired_at is None)
    return tuple(oid for oid in oids if oid)


def why_begin_again(entry: Entry) -> str:
    """Return why the chain of a repository must begin again; empty where nothing is known.

    Files of Git LFS are no reason: a new full would point to the same ones. What a listing found is
    proved by another listing.
    """
    for one in entry.damaged:
        if one.found_by == "verify" and not lfs_oid(one.key):
            return f"damaged: {one.key} ({one.problem}), found by verify on {_day(one.found_at)}"
    return ""


def was_missing(entry: Entry) -> bool:
    """Return whether the listing of an earlier run found that something is missing."""
    return any(one.found_by == "run" and not lfs_oid(one.key) for one in entry.damaged)


def damage_words(name: str, lines: Iterable[EntryDamage]) -> str:
    """Say in one sentence what of a repository is damaged."""
    first, *more = lines = tuple(lines)
    found_by = "verify" if first.found_by == "verify" else "a run"
    are = "object is" if len(more) == 1 else "objects are"
    and_more = f" and {len(more)} more {are} damaged" if more else ""
    what = (
        "can be given back only from versions that are not current, while the bucket has them"
        if all(lies_in_versions(one.problem) for one in lines)
        else "cannot be given back whole"
    )
    return (
        f"{name} {what}: {_sentence(first)}, "
        f"found by {found_by} on {_day(first.found_at)}{and_more}"
    )


def damage_hint(text: str, entry: Entry, lines: Iterable[EntryDamage]) -> str:
    """Say what is to be done about damage.

    Args:
        text: what a command takes for this repository; see `ways_to_name`.
        entry: of the repository.
        lines: its damage.
    """
    lines = tuple(lines)
    if is_out_of_reach(entry):
        return (
            "nothing can be captured in its place now: repo-backup accept-damage "
            f"{shlex.quote(text)} --from VAULT keeps what can still be restored"
        )
    if not all(lfs_oid(one.key) for one in lines):
        later = ""
        if any(lies_in_versions(one.problem) for one in lines):
            later = "; where the written versions are made current again, verify clears this"
        return f"the next run that reaches its source takes a new full{later}"
    run = _run_for_files(entry)
    if all(is_missing(one) for one in lines):
        return (
            f"{run} stores it again, where the source has it; if it never will, repo-backup "
            f"accept-damage {shlex.quote(text)} --from VAULT keeps what is left"
        )
    return f"remove the damaged file, with a role that may delete there: {run} stores it again"


def what_follows(entry: Entry, lines: Iterable[EntryDamage]) -> tuple[str, ...]:
    """Return what later runs do about accepted damage: what the source has they store as before.

    Args:
        entry: of the repository.
        lines: its damage.

    Returns:
        A sentence for each kind of damage; none where its source gives the repository no more.
    """
    if is_out_of_reach(entry):
        return ()
    lines = tuple(lines)
    files = [one for one in lines if lfs_oid(one.key)]
    run, found = _run_for_files(entry), []
    if len(files) < len(lines):
        found.append("its source still has it: the next run that reaches it takes a new full")
    if any(is_missing(one) for one in files):
        found.append(f"{run} stores a missing file of Git LFS again, where the source has it")
    if not all(is_missing(one) for one in files):
        found.append(
            "a damaged file of Git LFS can be removed, with a role that may delete there: "
            f"{run} then stores it again, where the source has it"
        )
    return tuple(found)


def _run_for_files(entry: Entry) -> str:
    return "the next run" if entry.selection.lfs else "the next run with files of Git LFS"


def is_missing(one: EntryDamage) -> bool:
    """Return whether an object is not there, and not there with other content."""
    return one.problem.startswith("it is missing")


def ways_to_name(entries: Iterable[Entry], *, owner: str) -> dict[Identity, str]:
    """Return what commands take for each repository: its name; its id where two have that name."""
    entries = tuple(entries)
    times = Counter(entry.path for entry in entries)
    found = {}
    for entry in entries:
        ending = ".wiki" if entry.kind == "wiki" else ""
        is_shared = times[entry.path] > 1
        found[entry.identity] = f"{entry.host_id}{ending}" if is_shared else f"{owner}/{entry.path}"
    return found


def is_out_of_reach(entry: Entry) -> bool:
    """Return whether the source cannot give a full now, or was not asked for one."""
    return (
        entry.absence is not None
        or entry.not_selected
        or entry.skipped_why is not None
        or entry.empty
    )


def _sentence(one: EntryDamage) -> str:
    if one.problem.startswith("it "):
        return f"{one.key} {one.problem.removeprefix('it ')}"
    return f"{one.key}: {one.problem}"


def _day(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d}"
