"""One repository on its way through a run: ask for its refs, plan, capture, make its entry."""

import re
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial

from backup.capture import Captured, Means, capture
from backup.commands.pace import Pace
from backup.commands.remotes import Remotes, is_local, lacking
from backup.commands.retrying import LONGEST_PAUSE_SECONDS, TRIES, repeat
from backup.errors import (
    AuthenticationError,
    BackupError,
    DeadlineReached,
    DestinationError,
    IncompleteRepository,
    IntegrityError,
    Interrupted,
    NotBegun,
    NotOurRef,
    ObjectNotFound,
    RateLimited,
    RepositoryBlocked,
    RepositoryMissing,
    SessionExpired,
    SourceError,
    sound,
)
from backup.git.upload_pack import Remote
from backup.model import Events, ObjectId, Outcome, Refs, Repository, Selection, Status
from backup.plan import (
    Plan,
    Policy,
    lost_refs,
    make_plan,
    refs_before_and_now,
    selection_line,
    why_not_unchanged,
)
from backup.vault.chain import missing, sizes
from backup.vault.documents import AbsenceLine, ChangeCounts, Entry, PinLine, Record, refs_digest
from backup.vault.layout import folder_of
from backup.vault.manifest import load_record

_LOOKS = 3
_LOOK_FOR_WIKIS_EVERY = timedelta(days=7)
# Where a throttling server does not say how long to wait.
_THROTTLED_SECONDS = 60.0
# What ends so with or without the heads of pull requests.
_NOT_FOR_PULL_REFS = (
    AuthenticationError,
    DeadlineReached,
    DestinationError,
    Interrupted,
    NotBegun,
    RateLimited,
    RepositoryBlocked,
    RepositoryMissing,
)
# After this share of a run's time a capture that does not end in time was only begun too late.
_LATE_SHARE = 0.5
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


@dataclass(frozen=True, slots=True)
class Workshop:
    """What the work on every repository shares. Used from many threads.

    Attributes:
        pace: how many captures may go on at once; asking for refs needs no slot.
        prove_unchanged: look after the chain of a repository that did not change, too.
        stored: what a listing of all repositories found, relative key to size; None where each
            folder is listed by itself.
        max_drop_percent: losing more of its refs than this is said first.
    """

    means: Means
    selection: Selection
    policy: Policy
    remotes: Remotes
    events: Events
    pace: Pace
    prove_unchanged: bool
    stored: Mapping[str, int] | None
    max_drop_percent: int
    accept_drop: bool
    dry_run: bool


def back_up(repository: Repository, entry: Entry | None, shop: Workshop) -> Result:
    """Bring one repository's copy up to date.

    Its own trouble is its result, never an exception.

    Raises:
        Interrupted: the run must stop; nothing of this repository was recorded.
        DeadlineReached: the same, because its time is up.
        SessionExpired: the same, because the destination is closed to it.
    """
    started = time.monotonic()
    retries = 0

    def again(error: BackupError, seconds: float) -> None:
        nonlocal retries
        retries += 1
        name = f"{repository.owner}/{repository.path}"
        shop.events.note(f"{name}: {error.message}; again in {seconds:.0f} s")

    def attempt(shop: Workshop, entry: Entry | None, *, tries: int = TRIES) -> Result:
        return repeat(
            lambda: _at_its_pace(repository, entry, shop),
            tries=tries,
            stop=shop.means.stop,
            again=again,
            may_pass=lambda error: _is_far_away(error, repository, shop),
        )

    try:
        try:
            result = attempt(shop, entry)
        except BackupError as error:
            if not shop.selection.pull_refs or isinstance(error, _NOT_FOR_PULL_REFS):
                raise
            once = partial(attempt, tries=1)
            result = _without_pull_refs(once, entry, shop, reason=sound(error.message))
    except (Interrupted, DeadlineReached):
        raise
    except SessionExpired as error:
        shop.means.stop.abandon(error)
        raise
    except RepositoryBlocked as error:
        result = _blocked(repository, entry, reason=error.message)
    except BackupError as error:
        if repository.kind == "wiki" and isinstance(error, RepositoryMissing):
            result = _no_wiki(repository, entry, now=shop.means.clock())
        else:
            result = _failed(repository, entry, shop, reason=error.message, hint=error.hint)
    except Exception as error:  # noqa: BLE001  one repository never stops the others
        reason = f"a bug of repo-backup: {type(error).__name__}: {error}"
        result = _failed(repository, entry, shop, reason=reason)
    seconds = round(time.monotonic() - started, 3)
    outcome = replace(result.outcome, duration_seconds=seconds, retries=retries)
    result = replace(result, outcome=outcome)
    if result.outcome.status not in {"unchanged", "empty"}:
        # Thousands of manifest entries need not say how fast nothing was done.
        entry = result.entry.model_copy(update={"duration_seconds": seconds})
        result = replace(result, entry=entry)
    shop.events.finished(result.outcome)
    return result


def _without_pull_refs(
    attempt: Callable[[Workshop, Entry | None], Result],
    entry: Entry | None,
    shop: Workshop,
    *,
    reason: str,
) -> Result:
    """Capture all but the heads of pull requests, since one of these may be what fails.

    They can be many and large, and no branch needs them; a server may even lack their objects. What
    is left out stays unfinished, and is tried again by the next run.
    """
    selection = replace(shop.selection, pull_refs=False)
    remotes = replace(shop.remotes, selection=selection)
    # An unfinished entry would never be unchanged.
    known = None if entry is None else entry.model_copy(update={"unfinished": ()})
    result = attempt(replace(shop, selection=selection, remotes=remotes), known)
    problem = f"without the heads of its pull requests: {reason}"
    made = result.entry.model_copy(update={"unfinished": (f"pull requests: {reason}",)})
    return replace(result, entry=made, problem=result.problem or problem)


def _is_far_away(error: BackupError, repository: Repository, shop: Workshop) -> bool:
    """Tell whether the network may be to blame: on this machine an error would come again."""
    if isinstance(error, DestinationError):
        return not shop.means.destination.listing_is_local
    return not is_local(repository)


def _failed(
    repository: Repository, entry: Entry | None, shop: Workshop, *, reason: str, hint: str = ""
) -> Result:
    result = failed(repository, entry, shop.means.clock(), reason=reason, hint=hint)
    # It failed, but it is listed.
    return replace(result, entry=result.entry.model_copy(update={"absence": None}))


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


def failed(
    repository: Repository, entry: Entry | None, now: datetime, *, reason: str, hint: str = ""
) -> Result:
    """Say that a repository could not be captured; what is stored of it stays as it is."""
    reason = sound(reason)
    known = entry is not None and entry.failing_since is not None
    base = entry or Entry(host_id=repository.host_id, path=repository.path, kind=repository.kind)
    return Result(
        replace(outcome_of(repository), status="failed", reason=reason, hint=hint, known=known),
        base.model_copy(
            update={**_NOTHING_DONE}
            | {
                "status": "failed",
                "reason": reason,
                "failing_since": base.failing_since or now,
            }
        ),
    )


def chain_problem(entry: Entry, shop: Workshop) -> str:
    """Look whether everything that gives an entry's repository back is in the vault."""
    record, problem = _load_record(entry, shop)
    if record is None:
        return problem
    return missing(record, _stored(record, shop))


def _blocked(repository: Repository, entry: Entry | None, *, reason: str) -> Result:
    """Say that the source blocks a repository for good; what is stored of it stays as it is."""
    base = entry or Entry(host_id=repository.host_id, path=repository.path, kind=repository.kind)
    known = base.skipped_why is not None
    marks = _listed(repository, base) | {"status": "skipped", "reason": reason}
    return Result(
        replace(outcome_of(repository), status="skipped", reason=reason, known=known),
        base.model_copy(update={**_NOTHING_DONE} | marks | {"skipped_why": reason}),
    )


def _no_wiki(repository: Repository, entry: Entry | None, *, now: datetime) -> Result:
    """Say that a wiki is not there: it has no page yet, or is gone.

    That a repository may have one is all that a forge says; it begins with its first page.
    """
    base = entry or Entry(host_id=repository.host_id, path=repository.path, kind=repository.kind)
    if base.record is None:
        reason = "it has no page yet"
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


def _is_known_to_lack_a_wiki(entry: Entry, *, now: datetime) -> bool:
    """Tell whether a wiki was looked for in vain within the last days."""
    return (
        entry.kind == "wiki"
        and entry.status == "empty"
        and entry.record is None
        and entry.checked_at is not None
        and now - entry.checked_at < _LOOK_FOR_WIKIS_EVERY
    )


def _at_its_pace(repository: Repository, entry: Entry | None, shop: Workshop) -> Result:
    """Do one try, and slow everybody down where the server asks for it."""
    if entry is not None and _is_known_to_lack_a_wiki(entry, now=shop.means.clock()):
        outcome = replace(outcome_of(repository), status="empty", reason=entry.reason)
        return Result(outcome, entry)
    shop.pace.wait()
    try:
        return _with_fresh_credentials(repository, entry, shop)
    except RateLimited as error:
        asked = error.retry_after_seconds
        if asked is None:
            error.retry_after_seconds = asked = _THROTTLED_SECONDS
        if asked <= LONGEST_PAUSE_SECONDS:
            shop.pace.slow_down(asked)
        raise


def _with_fresh_credentials(repository: Repository, entry: Entry | None, shop: Workshop) -> Result:
    """Do one try, and a second where credentials ended meanwhile and there are others."""
    try:
        return _until_refs_hold_still(repository, entry, shop)
    except AuthenticationError:
        if not shop.remotes.renew():
            raise
    return _until_refs_hold_still(repository, entry, shop)


def _until_refs_hold_still(repository: Repository, entry: Entry | None, shop: Workshop) -> Result:
    """Ask and capture; when a ref moved in between and its object is gone, ask again."""
    if repository.problem:
        raise SourceError(repository.problem)
    if repository.blocked:
        raise RepositoryBlocked(repository.blocked)
    refs: Refs | None = None
    for _ in range(_LOOKS):
        with shop.remotes.open(repository) as remote:
            with _only_asking():
                refs = remote.list_refs()
            try:
                return _ask_and_capture(repository, entry, shop, remote=remote, refs=refs)
            except NotOurRef as error:
                refused = error
    raise _why_not_there(refused, refs, repository) from refused


def _ask_and_capture(
    repository: Repository, entry: Entry | None, shop: Workshop, *, remote: Remote, refs: Refs
) -> Result:
    checked_at = shop.means.clock()
    digest = refs_digest(refs)
    why = why_not_unchanged(entry, digest=digest, selection=shop.selection)
    if entry is not None and not why and shop.prove_unchanged:
        problem = chain_problem(entry, shop)
        why = f"the chain is broken: {problem}" if problem else ""
    if entry is not None and not why:
        return _unchanged(repository, entry, refs, checked_at)
    with _slot(shop):
        plan = _plan(repository, entry, shop, refs=refs, why=why)
        if shop.dry_run:
            return _planned_only(plan, entry)
        with _time_enough(shop):
            name = f"{repository.owner}/{repository.path}"
            shop.events.capturing(name, plan.action, plan.reason)
            if refs.protocol_v2 or plan.action == "empty":
                captured = _capture(plan, remote, shop)
            else:
                plan, captured = _capture_from_mirror(plan, shop)
    return _captured(plan, captured, entry, shop, checked_at=checked_at)


def _plan(
    repository: Repository, entry: Entry | None, shop: Workshop, *, refs: Refs, why: str
) -> Plan:
    record, problem = (None, "") if entry is None else _load_record(entry, shop)
    return make_plan(
        repository,
        refs,
        why=problem or why,
        entry=entry,
        record=record,
        stored={} if record is None or refs.empty else _stored(record, shop),
        selection=shop.selection,
        policy=shop.policy,
        now=shop.means.clock(),
    )


def _load_record(entry: Entry, shop: Workshop) -> tuple[Record | None, str]:
    if entry.record is None:
        return None, ""
    means = shop.means
    try:
        version = entry.record_version_id
        return load_record(means.destination, means.layout, entry.record, version=version), ""
    except ObjectNotFound:
        return None, f"{entry.record} is missing"
    except IntegrityError as error:
        return None, error.message


def _stored(record: Record, shop: Workshop) -> Mapping[str, int]:
    if shop.stored is not None:
        return shop.stored
    # A renamed repository's chain lies in more than one folder.
    means = shop.means
    stored: dict[str, int] = {}
    for folder in dict.fromkeys(folder_of(bundle.key) for bundle in record.chain):
        listed = means.destination.list(means.layout.key(folder))
        stored |= sizes(listed, prefix=means.layout.prefix)
    return stored


def _capture(plan: Plan, remote: Remote, shop: Workshop) -> Captured:
    name = f"{plan.repository.owner}/{plan.repository.path}"
    return capture(
        plan, remote, shop.means, transferred=lambda size: shop.events.transferred(name, size)
    )


def _capture_from_mirror(plan: Plan, shop: Workshop) -> tuple[Plan, Captured]:
    means = shop.means
    with shop.remotes.open_mirror(plan.repository, disk=means.disk) as remote:
        mirrored = remote.list_refs()
        if dict(mirrored.tips) != dict(plan.refs.tips) or mirrored.head_id != plan.refs.head_id:
            # The repository moved on while it was mirrored: what is there now is captured.
            refs = replace(mirrored, protocol_v2=False)
            plan = replace(plan, refs=refs, wants=refs.wanted())
        return plan, _capture(plan, remote, shop)


def _unchanged(repository: Repository, entry: Entry, refs: Refs, checked_at: datetime) -> Result:
    status: Status = "empty" if refs.empty else "unchanged"
    return Result(
        replace(outcome_of(repository), status=status),
        entry.model_copy(
            update={**_NOTHING_DONE}
            | _listed(repository, entry)
            | {"status": status, "checked_at": checked_at}
        ),
    )


def _planned_only(plan: Plan, entry: Entry | None) -> Result:
    repository = plan.repository
    return Result(
        replace(
            outcome_of(repository),
            status="skipped",
            plan=plan.bundle_kind,
            reason=f"dry run: {plan.reason}",
        ),
        entry or Entry(host_id=repository.host_id, path=repository.path, kind=repository.kind),
    )


def _captured(
    plan: Plan, captured: Captured, entry: Entry | None, shop: Workshop, *, checked_at: datetime
) -> Result:
    repository, refs = plan.repository, plan.refs
    status: Status = "empty" if refs.empty else "captured"
    urgent = _urgent(plan, shop)
    pins = () if entry is None else entry.pins
    if urgent and entry is not None and entry.record is not None and plan.previous is not None:
        pin = PinLine(
            record=entry.record,
            snapshot_id=plan.previous.snapshot_id,
            at=captured.record.captured_at,
            reason=urgent,
        )
        pins = (*pins, pin)
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
        lfs_objects=len(captured.pointers),
        lfs_bytes=sum(pointer.size_bytes for pointer in captured.pointers),
    )
    counts = {
        kind: sum(change.kind == kind for change in captured.changes)
        for kind in ("added", "advanced", "rewritten", "moved", "deleted")
    }
    base = entry or Entry(host_id=repository.host_id, path=repository.path, kind=repository.kind)
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
            "selection": selection_line(shop.selection),
            "empty": refs.empty,
            "unfinished": (),
            "degraded": _degraded(captured.record),
            "pins": pins,
            "status": status,
            "plan": plan.bundle_kind,
            "reason": plan.reason,
            "bytes": captured.bytes_written,
            "objects": captured.objects,
            "changes": ChangeCounts(**counts),
        }
    )
    problem = "" if shop.accept_drop else urgent
    return Result(outcome, made, problem or _newly_left_out(plan))


def _locked_until(captured: Captured, base: Entry) -> datetime | None:
    """Tell how long all of a chain is locked: of an increment no longer than what it builds on."""
    if captured.retain_until is None or len(captured.record.chain) <= 1:
        return captured.retain_until
    before = base.locked_until
    return None if before is None else min(before, captured.retain_until)


def _urgent(plan: Plan, shop: Workshop) -> str:
    if plan.previous is None:
        return ""
    old, new = refs_before_and_now(plan)
    gone, all_branches = lost_refs(old, new)
    if all_branches:
        return "all its branches are gone"
    if gone * 100 > len(old) * shop.max_drop_percent:
        return f"{gone} of its {len(old)} refs are gone"
    return ""


def _degraded(record: Record) -> tuple[str, ...]:
    reasons = []
    if record.left_out:
        reasons.append("refs left out")
    if any(line.object_type is not None for line in record.refs):
        reasons.append("branches that name no commit: git fetch refuses them, restore does not")
    return tuple(reasons)


def _newly_left_out(plan: Plan) -> str:
    before = set()
    if plan.previous is not None:
        before = {(line.ref_name, line.id) for line in plan.previous.left_out}
    new = [item for item in plan.refs.left_out if (item.name, item.id) not in before]
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


@contextmanager
def _slot(shop: Workshop) -> Iterator[None]:
    with shop.pace.slot():
        if shop.means.stop.abandoned is not None:
            shop.means.stop.check()
        if not shop.means.stop.may_begin:
            raise NotBegun("not reached: no time was left to begin a capture")
        yield


@contextmanager
def _only_asking() -> Iterator[None]:
    """Do not count as work that was begun what took no time of its own."""
    try:
        yield
    except DeadlineReached as error:
        raise NotBegun("not reached: the time was up while it was asked for its refs") from error


@contextmanager
def _time_enough(shop: Workshop) -> Iterator[None]:
    """Tell a capture that was begun late from one that the deadline is too short for."""
    share = shop.means.stop.share_used
    try:
        yield
    except DeadlineReached as error:
        if share > _LATE_SHARE:
            raise NotBegun("begun too late to be done in time") from error
        raise


def _why_not_there(refused: NotOurRef, refs: Refs | None, repository: Repository) -> BackupError:
    if reason := lacking(repository):
        return IncompleteRepository(f"the repository's objects are not all there: {reason}")
    found = re.search(r"[0-9a-f]{40,64}", refused.message)
    if found is None or refs is None:
        return refused
    oid = ObjectId(found[0])
    names = [str(name) for name, tip in refs.tips.items() if tip == oid]
    if refs.head_id == oid:
        names.append("HEAD")
    if not names:
        return refused
    return IncompleteRepository(
        f"{', '.join(names)} points at {oid}, an object that the repository does not have",
        hint="run git fsck on it; delete the ref or bring the object back",
    )
