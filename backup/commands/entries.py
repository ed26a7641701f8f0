"""What is said of a repository after the work on it: its outcome, and its entry in the manifest."""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from backup.capture import Captured, FilesKept
from backup.commands.known_damage import run_lines
from backup.commands.remotes import is_local
from backup.errors import sound
from backup.git.pointers import Pointer
from backup.model import Kind, KnownStatus, MissingFile, Outcome, Refs, Repository, Selection
from backup.plan import (
    ABOUT_BROKEN_REFS,
    ABOUT_FILES,
    Plan,
    is_about_files,
    selection_line,
    why_alarming,
)
from backup.results import packs_were
from backup.vault.documents import ChangeCounts, Entry, LfsLine, PinLine, Record
from backup.vault.documents_of_listings import AbsenceLine
from backup.vault.layout import lfs_key

_LOOK_FOR_WIKIS_EVERY = timedelta(days=7)
_MOST_NAMED = 20
# What an entry says of the run that made it; everything else is the repository's state.
_NOTHING_DONE: Mapping[str, object] = {
    "status": None,
    "plan": None,
    "reason": "",
    "bytes": 0,
    "objects": 0,
    "duration_seconds": 0.0,
    "changes": ChangeCounts(),
    "carried_from": None,
    "not_selected": False,
}


@dataclass(frozen=True, slots=True)
class Result:
    """What came of one repository.

    Attributes:
        entry: its line in the manifest.
        problem: what makes the run partial though the repository was captured.
    """

    outcome: Outcome
    entry: Entry
    problem: str = ""


def carried(entry: Entry, **marks: object) -> Entry:
    """Carry an entry forward as it is, without what the run that made it did."""
    return entry.model_copy(update={**_NOTHING_DONE} | {"carried_from": entry.carried_from} | marks)


def outcome_of(repository: Repository) -> Outcome:
    """Begin an outcome with what names the repository."""
    return Outcome(
        host=repository.host,
        owner=repository.owner,
        path=repository.path,
        host_id=repository.host_id,
        kind=repository.kind,
        status="failed",
        private=repository.private,
    )


def first_entry(repository: Repository, *, reason: str = "") -> Entry:
    """Begin the entry of a repository of which nothing is stored.

    Args:
        repository: as its source lists it.
        reason: why nothing is.
    """
    return Entry(
        host_id=repository.host_id,
        path=repository.path,
        kind=repository.kind,
        private=repository.private,
        archived=repository.archived,
        fork=repository.fork,
        pushed_at=repository.pushed_at,
        reason=sound(reason),
    )


def failed(
    repository: Repository, entry: Entry | None, now: datetime, *, reason: str, hint: str = ""
) -> Result:
    """Say that a repository could not be captured; what is stored of it stays as it is."""
    reason = sound(reason)
    known = entry is not None and entry.failing_since is not None
    base = entry or first_entry(repository)
    return Result(
        replace(outcome_of(repository), status="failed", reason=reason, hint=hint, known=known),
        base.model_copy(
            update={**_NOTHING_DONE}
            | {
                "status": "failed",
                "reason": reason,
                "private": repository.private,
                "failing_since": base.failing_since or now,
            }
        ),
    )


def blocked(repository: Repository, entry: Entry | None, *, reason: str) -> Result:
    """Say that the source blocks a repository for good; what is stored of it stays as it is."""
    base = entry or first_entry(repository)
    known = base.skipped_why is not None
    marks = _listed(repository, base) | {"status": "skipped", "reason": reason}
    return Result(
        replace(outcome_of(repository), status="skipped", reason=reason, known=known),
        base.model_copy(update={**_NOTHING_DONE} | marks | {"skipped_why": reason}),
    )


def without_wiki(repository: Repository, entry: Entry | None, *, now: datetime) -> Result:
    """Say that a wiki is not there: it has no page yet, or is gone, or is hidden from us.

    That a repository may have one is all that a forge says; it begins with its first page. One that
    we may not read gets the same answer (404), so the two cannot be told apart.
    """
    base = entry or first_entry(repository)
    if base.record is None:
        reason = "it has no page yet, or is hidden from us"
        marks = _listed(repository, base) | {"status": "empty", "reason": reason, "empty": True}
        return Result(
            replace(outcome_of(repository), status="empty", reason=reason),
            base.model_copy(update={**_NOTHING_DONE} | marks | {"checked_at": now}),
        )
    known = base.absence is not None
    since = base.absence.since if base.absence is not None else now
    detail = "the wiki is not there any more, or hidden from us"
    absence = AbsenceLine(since=since, asked_at=now, answer="not-visible", detail=detail)
    reason = f"not there since {since:%Y-%m-%d}: {detail}"
    marks = _listed(repository, base) | {"status": "gone", "reason": detail, "absence": absence}
    return Result(
        replace(outcome_of(repository), status="gone", reason=reason, known=known),
        base.model_copy(update={**_NOTHING_DONE} | marks),
    )


def known_of(repository: Repository, entries: Mapping[tuple[Kind, str], Entry]) -> Entry | None:
    """Return a repository's entry, which lets a wiki be looked for that was hidden lately.

    Where the repository itself could not be read, its wiki may have been hidden with it: it is
    looked for again, however lately that was done.
    """
    entry = entries.get((repository.kind, repository.host_id))
    if entry is None or repository.kind != "wiki":
        return entry
    code = entries.get(("code", repository.host_id))
    is_readable = code is None or code.failing_since is None
    return entry if is_readable else entry.model_copy(update={"checked_at": None})


def is_known_to_lack_a_wiki(entry: Entry, *, now: datetime) -> bool:
    """Return whether a wiki was looked for without success within the last days."""
    return (
        entry.kind == "wiki"
        and entry.status == "empty"
        and entry.record is None
        and entry.checked_at is not None
        and now - entry.checked_at < _LOOK_FOR_WIKIS_EVERY
    )


def unchanged(
    repository: Repository,
    entry: Entry,
    refs: Refs,
    *,
    selection: Selection,
    checked_at: datetime,
) -> Result:
    """Say that nothing of a repository changed."""
    status: KnownStatus = "empty" if refs.empty else "unchanged"
    files = {} if selection.lfs else _files_not_asked_for(entry)
    counts = refs.not_selected
    made = entry.model_copy(
        update={**_NOTHING_DONE}
        | _listed(repository, entry)
        | {"status": status, "checked_at": checked_at, "refs_not_selected": counts}
        | {"selection": selection_line(selection)}
        | files
    )
    # Told by tonight's refs, and of entries that were written before they were told at all.
    broken = _broken_refs(repository, refs)
    unfinished = [one for one in made.unfinished if not one.startswith(ABOUT_BROKEN_REFS)]
    return Result(
        replace(outcome_of(repository), status=status, refs_not_selected=counts),
        made.model_copy(update={"unfinished": (*unfinished, *broken)}),
        "; ".join(broken),
    )


def _files_not_asked_for(entry: Entry) -> dict[str, object]:
    """Leave out what an entry says of files while nobody asks for them."""
    return {
        name: tuple(one for one in sentences if not is_about_files(one))
        for name, sentences in (("unfinished", entry.unfinished), ("degraded", entry.degraded))
    }


def planned(plan: Plan, entry: Entry | None) -> Result:
    """Say what would be done, in a dry run."""
    repository = plan.repository
    return Result(
        replace(
            outcome_of(repository),
            status="planned",
            plan=plan.bundle_kind,
            reason=plan.reason,
            refs_not_selected=plan.refs.not_selected,
        ),
        entry or first_entry(repository),
    )


def captured_now(
    plan: Plan,
    captured: Captured,
    entry: Entry | None,
    *,
    checked_at: datetime,
    max_drop_percent: int,
    accept_drop: bool,
) -> Result:
    """Say what a capture made.

    Args:
        plan: that was carried out.
        captured: what came of it.
        entry: the repository's before; None for a new one.
        checked_at: when its refs were told.
        max_drop_percent: losing more of its refs than this is said first; see `why_alarming`.
        accept_drop: whether that is no problem.
    """
    repository, refs = plan.repository, plan.refs
    status: KnownStatus = "empty" if refs.empty else "captured"
    urgent = why_alarming(plan, max_drop_percent=max_drop_percent)
    pins = () if entry is None else entry.pins
    if urgent and entry is not None and entry.record is not None and plan.previous is not None:
        pin = PinLine(
            record=entry.record,
            snapshot_id=plan.previous.snapshot_id,
            at=captured.record.captured_at,
            reason=urgent,
        )
        pins = (*pins, pin)
    sizes = {pointer.oid: pointer.size_bytes for pointer in captured.pointers}
    outcome = replace(
        outcome_of(repository),
        status=status,
        plan=plan.bundle_kind,
        reason=plan.reason,
        bytes_written=captured.bytes_written,
        objects=captured.objects,
        check=captured.check,
        changes=captured.changes,
        urgent=urgent,
        lfs_objects=len(sizes),
        lfs_bytes=sum(sizes.values()),
        refs_not_selected=refs.not_selected,
        lfs_look_alikes=captured.look_alikes.count,
        lfs_first_look_alike=captured.look_alikes.first,
    )
    counts = {
        kind: sum(change.kind == kind for change in captured.changes)
        for kind in ("added", "advanced", "rewritten", "moved", "deleted")
    }
    broken = _broken_refs(repository, refs)
    base = entry or first_entry(repository)
    made = base.model_copy(
        update={**_NOTHING_DONE}
        | _listed(repository, base)
        | {
            "digest": captured.record.digest,
            "record": captured.record_key,
            "record_version_id": captured.record_version_id,
            "checked_at": checked_at,
            "captured_at": captured.record.captured_at,
            "locked_until": _locked_until(captured, base),
            "chain_length": len(captured.record.chain),
            "chain_bytes": sum(bundle.size_bytes for bundle in captured.record.chain),
            "selection": selection_line(plan.selection),
            "empty": refs.empty,
            "unfinished": (*_unfinished(captured.files), *broken),
            "lfs_turn": None if captured.files is None else captured.files.turn,
            "degraded": _degraded(captured.record, broken),
            "unproven": captured.record.unproven,
            "refs_not_selected": refs.not_selected,
            "pins": pins,
            "status": status,
            "plan": plan.bundle_kind,
            "reason": plan.reason,
            "bytes": captured.bytes_written,
            "objects": captured.objects,
            "changes": ChangeCounts(**counts),
        }
    )
    problem = ("" if accept_drop else urgent) or _newly_left_out(plan, broken)
    problem = "; ".join(filter(None, (problem, *broken)))
    outcome = _with_files(outcome, captured.files)
    if captured.files is not None:
        made = with_lost_files(made, captured.files.lost, now=captured.record.captured_at)
    return Result(outcome, made, both(problem, _files_problem(outcome, captured.files)))


def _locked_until(captured: Captured, base: Entry) -> datetime | None:
    """Tell how long all of a chain is locked: of an increment no longer than what it builds on."""
    if len(captured.record.chain) <= 1:
        return _no_longer_than(captured.retain_until, captured)
    return _no_longer_than(base.locked_until, captured)


def _no_longer_than(before: datetime | None, captured: Captured) -> datetime | None:
    """Tell how long everything is locked that is new and that was there; None if nobody knows."""
    if captured.files is not None and captured.files.lock_unknown:
        return None
    if before is None or captured.retain_until is None:
        return None
    return min(before, captured.retain_until)


def _broken_refs(repository: Repository, refs: Refs) -> tuple[str, ...]:
    """Name the refs of a repository on this machine that point at nothing; in a sentence, or none.

    A crash leaves them, and they had a commit before: where they lie they can be mended, or
    deleted. Of another machine that is not known, and said once as of any ref that cannot be kept.
    """
    broken = [one.name for one in refs.left_out if _points_at_nothing(one.id)]
    if not broken or not is_local(repository):
        return ()
    named = ", ".join(repr(str(name)) for name in broken[:_MOST_NAMED])
    more = f" and {len(broken) - _MOST_NAMED} more" if len(broken) > _MOST_NAMED else ""
    return (f"{ABOUT_BROKEN_REFS}{named}{more}",)


def _points_at_nothing(oid: str) -> bool:
    return oid != "" and set(oid) == {"0"}


def _degraded(record: Record, unfinished: Collection[str]) -> tuple[str, ...]:
    """Return what a record lacks of its repository and is not reported as unfinished."""
    reasons = []
    said = any(one.startswith(ABOUT_BROKEN_REFS) for one in unfinished)
    left_out = [one for one in record.left_out if not (said and _points_at_nothing(one.id))]
    if left_out:
        first = left_out[0]
        reasons.append(f"{len(left_out)} refs left out, first {first.ref_name!r}: {first.reason}")
    if any(line.object_type is not None for line in record.refs):
        reasons.append("branches that name no commit: git fetch refuses them, restore does not")
    gone = [] if record.lfs is None else [one for one in record.lfs.not_stored if one.permanent]
    if gone:
        reasons.append(
            f"{ABOUT_FILES}{len(gone)} files are missing at the source, first {gone[0].oid}"
        )
    return tuple(reasons)


def _newly_left_out(plan: Plan, broken: Collection[str]) -> str:
    before = set()
    if plan.previous is not None:
        before = {(line.ref_name, line.id) for line in plan.previous.left_out}
    left_out = [one for one in plan.refs.left_out if not (broken and _points_at_nothing(one.id))]
    new = [item for item in left_out if (item.name, item.id) not in before]
    if not new:
        return ""
    return f"{len(new)} refs cannot be stored, first {new[0].name!r}: {new[0].reason}"


def _listed(repository: Repository, entry: Entry) -> dict[str, object]:
    """Make the fields that the listing decides; a new path keeps the old one as an alias."""
    aliases = entry.aliases
    if entry.path != repository.path:
        aliases = tuple(dict.fromkeys((*aliases, entry.path)))
    return {
        "path": repository.path,
        "aliases": tuple(alias for alias in aliases if alias != repository.path),
        "private": repository.private,
        "archived": repository.archived,
        "fork": repository.fork,
        "pushed_at": repository.pushed_at,
        "absence": None,
        "failing_since": None,
        "attempted_at": None,
        "skipped_why": None,
    }


def _with_files(outcome: Outcome, kept: FilesKept | None) -> Outcome:
    if kept is None:
        return outcome
    return replace(
        outcome,
        lfs_unsearched=len(kept.unsearched),
        lfs_stored=kept.stored,
        lfs_stored_bytes=kept.stored_bytes,
        lfs_missing=tuple(
            MissingFile(
                one.oid,
                one.size_bytes,
                one.reason,
                permanent=one.permanent,
                known=((one.permanent and one.asked) or one.condemned)
                and Pointer(one.oid, one.size_bytes) in kept.known,
            )
            for one in kept.line.not_stored
        ),
        lfs_look_alikes=outcome.lfs_look_alikes + kept.look_alikes.count,
        lfs_first_look_alike=outcome.lfs_first_look_alike or kept.look_alikes.first,
    )


def _unfinished(kept: FilesKept | None) -> tuple[str, ...]:
    """Say what of the files must be asked for again, though not for ever in vain."""
    if kept is None:
        return ()
    missing = [one for one in kept.line.not_stored if not (one.permanent and one.asked)]
    found = []
    if missing:
        first = missing[0]
        found.append(
            f"{ABOUT_FILES}{len(missing)} files are not stored, first {first.oid}: {first.reason}"
        )
    if kept.unsearched:
        packs = packs_were(len(kept.unsearched))
        found.append(f"{ABOUT_FILES}{packs} not searched: {kept.unsearched[0]}")
    return tuple(found)


def _files_problem(outcome: Outcome, kept: FilesKept | None) -> str:
    """Say what of the files makes the run partial: all but what is known to be gone for good."""
    if kept is None:
        return ""
    new = [one for one in outcome.lfs_missing if not one.known]
    found = []
    if new:
        found.append(
            f"{len(new)} files of Git LFS are not stored, first {new[0].oid}: {new[0].reason}"
        )
    if unasked := sum(not one.asked for one in kept.line.not_stored):
        found.append(f"{unasked} of them were not asked for, since too many others are missing")
    if kept.unsearched:
        packs = packs_were(len(kept.unsearched))
        found.append(f"{packs} not searched for files of Git LFS: {kept.unsearched[0]}")
    return "; ".join(found)


def both(one: str, other: str) -> str:
    """Join two problems; either may be none."""
    return "; ".join(filter(None, (one, other)))


def tells_more(kept: FilesKept, record: Record) -> bool:
    """Tell whether the record does not say what is known now, but for when and in which words."""

    def key(line: LfsLine | None) -> set[tuple[str, int, bool, bool, bool]]:
        return {
            (one.oid, one.size_bytes, one.permanent, one.condemned, one.asked)
            for one in (() if line is None else line.not_stored)
        }

    is_first = record.lfs is None and kept.wanted > 0
    return is_first or kept.chain != record.chain or key(kept.line) != key(record.lfs)


def files_looked_for(
    result: Result,
    kept: FilesKept,
    record: Record,
    *,
    captured: Captured | None,
    why: str,
    now: datetime,
) -> Result:
    """Say what became of the files of a repository whose git objects did not change.

    Args:
        result: says that nothing changed.
        kept: what became of its files.
        record: the newest.
        captured: that record, if it was made just now.
        why: files were looked for.
        now: the time.
    """
    entry, outcome = result.entry, _with_files(result.outcome, kept)
    broken = [one for one in entry.unfinished if one.startswith(ABOUT_BROKEN_REFS)]
    marks: dict[str, object] = {
        "unfinished": (*_unfinished(kept), *broken),
        "degraded": _degraded(record, broken),
        "lfs_turn": kept.turn,
    }
    if captured is not None:
        size_bytes = captured.bytes_written
        outcome = replace(outcome, status="captured", reason=why, bytes_written=size_bytes)
        marks |= {
            "status": "captured",
            "reason": why,
            "bytes": size_bytes,
            "record": captured.record_key,
            "record_version_id": captured.record_version_id,
            "captured_at": captured.record.captured_at,
            "locked_until": _no_longer_than(entry.locked_until, captured),
        }
    made = with_lost_files(entry.model_copy(update=marks), kept.lost, now=now)
    return Result(outcome, made, both(result.problem, _files_problem(outcome, kept)))


def with_lost_files(entry: Entry, lost: Mapping[str, str], *, now: datetime) -> Entry:
    """Note files that an entry's record promises and that are gone.

    Args:
        entry: of the repository.
        lost: ids of the files, and why they are not stored again; nothing where nobody tried.
        now: the time.
    """
    found = (
        (lfs_key(oid), "; ".join(filter(None, ("it is missing", why))))
        for oid, why in sorted(lost.items())
    )
    lines = run_lines(found, before=entry.damaged, now=now)
    keys = {one.key for one in lines}
    before = tuple(one for one in entry.damaged if one.key not in keys)
    return entry.model_copy(update={"damaged": (*before, *lines)})


def notes_on_files(outcomes: Iterable[Outcome], *, asked: bool) -> Iterator[str]:
    """Say which files of Git LFS came into the vault, and which are not there.

    Args:
        outcomes: of an owner's repositories.
        asked: whether files were asked for.
    """
    everything = [*outcomes]
    if stored := sum(one.lfs_stored for one in everything):
        size_bytes = sum(one.lfs_stored_bytes for one in everything)
        yield f"{stored} files of Git LFS were stored ({size_bytes} bytes)"
    for words in (_known_missing if asked else _not_asked_for, _look_alikes):
        told = [f"{one.owner}/{one.path}: {said}" for one in everything if (said := words(one))]
        yield from told[:_MOST_NAMED]
        if len(told) > _MOST_NAMED:
            yield f"the same goes for {len(told) - _MOST_NAMED} more repositories"


def _known_missing(one: Outcome) -> str:
    gone = sum(file.permanent for file in one.lfs_missing if file.known)
    waiting = sum(not file.permanent for file in one.lfs_missing if file.known)
    words = [f"{gone} files of Git LFS are missing at the source"] if gone else []
    words += [f"{waiting} files of Git LFS wait for the next prune"] if waiting else []
    return f"{' and '.join(words)}, as in the run before" if words else ""


def _look_alikes(one: Outcome) -> str:
    count, first = one.lfs_look_alikes, one.lfs_first_look_alike
    if not count:
        return ""
    if count == 1:
        return f"1 file looks like a pointer of Git LFS, but git-lfs does not read it: blob {first}"
    looks = f"{count} files look like pointers of Git LFS, but git-lfs does not read them"
    return f"{looks}: first blob {first}"


def _not_asked_for(one: Outcome) -> str:
    if not one.lfs_objects:
        return ""
    count, size_bytes = one.lfs_objects, one.lfs_bytes
    return f"{count} new files are kept by Git LFS ({size_bytes} bytes), and are not stored"
