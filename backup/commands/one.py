"""One repository on its way through a run: ask for its refs, plan, capture, make its entry."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from datetime import datetime
from functools import partial

from backup.capture import Captured, Means, capture, capture_files
from backup.commands.deadlines import asking, capturing
from backup.commands.entries import (
    Result,
    blocked,
    both,
    captured_now,
    failed,
    files_looked_for,
    is_known_to_lack_a_wiki,
    outcome_of,
    planned,
    tells_more,
    unchanged,
    with_lost_files,
    without_wiki,
)
from backup.commands.files import FileKeeper, Turns
from backup.commands.hidden import hidden_as, hidden_files, hidden_words
from backup.commands.known_damage import damaged_files, was_missing, why_begin_again
from backup.commands.last_state import records_to_chain
from backup.commands.pace import Pace
from backup.commands.remotes import Remotes, is_local, server_of, why_not_there
from backup.commands.retrying import LONGEST_PAUSE_SECONDS, TRIES, repeat
from backup.commands.stored_files import lost_files, promised_files
from backup.errors import (
    AnswerLacksObjects,
    AuthenticationError,
    BackupError,
    DeadlineReached,
    DestinationError,
    FullIsDue,
    IntegrityError,
    Interrupted,
    MachineLimitReached,
    NotBegun,
    NotOurRef,
    ObjectNotFound,
    RateLimited,
    RepositoryBlocked,
    RepositoryMissing,
    SessionExpired,
    SourceError,
    TemporaryFolderError,
    sound,
)
from backup.git.pointers import Pointer
from backup.git.upload_pack import Remote
from backup.git.work import trouble_with
from backup.machine import limit_reached
from backup.model import (
    Events,
    ObjectId,
    RefName,
    Refs,
    Repository,
    Selection,
)
from backup.plan import (
    Plan,
    Policy,
    is_about_files,
    make_plan,
    selection_line,
    why_files_are_due,
    why_not_unchanged,
)
from backup.refs import PULL_HEAD_PATTERNS, PULL_HEADS, fitting, in_order, to_bytes
from backup.vault.chain import differing, missing, sizes, unlisted
from backup.vault.documents import (
    Entry,
    Record,
    refs_digest,
)
from backup.vault.layout import folder_of, lfs_key
from backup.vault.manifest import load_record

_LOOKS = 3
# Where a throttling server does not say how long to wait.
_THROTTLED_SECONDS = 60.0
_NOT_FOR_PULL_REFS = (  # What ends so with or without the heads of pull requests.
    AuthenticationError,
    DeadlineReached,
    DestinationError,
    Interrupted,
    MachineLimitReached,
    RateLimited,
    RepositoryBlocked,
    RepositoryMissing,
    TemporaryFolderError,
)


@dataclass(frozen=True, slots=True)
class Workshop:
    """What the work on every repository shares. Used from many threads.

    Attributes:
        pace: how many captures may go on at once, by server; asking for refs needs no slot.
        prove_unchanged: look after the chain of a repository that did not change, too.
        stored: what a listing of all repositories found, relative key to size; None where each
            folder is listed by itself.
        turns: have each file of Git LFS stored once.
        max_drop_percent: losing more of its refs than this is said first.
        known_heads: of pull requests, which are not asked for tonight and stay as they were.
        no_full: whether nothing but an increment may be captured.
    """

    means: Means
    selection: Selection
    policy: Policy
    remotes: Remotes
    events: Events
    pace: Pace
    prove_unchanged: bool
    stored: Mapping[str, int] | None
    turns: Turns
    max_drop_percent: int
    accept_drop: bool
    dry_run: bool
    known_heads: Mapping[RefName, ObjectId] = field(default_factory=dict)
    no_full: bool = False


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

    shop = _asking(shop, shop.selection.resolved(is_local=is_local(repository)))
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
        result = blocked(repository, entry, reason=error.message)
    except BackupError as error:
        if repository.kind == "wiki" and isinstance(error, RepositoryMissing):
            result = without_wiki(repository, entry, now=shop.means.clock())
        else:
            result = _failed(repository, entry, shop, reason=error.message, hint=error.hint)
    except Exception as error:  # noqa: BLE001  one repository never stops the others
        reason = f"internal error (please report): {type(error).__name__}: {error}"
        if isinstance(error, OSError):
            with suppress(MachineLimitReached):
                reason = trouble_with(shop.means.disk.folder) or reason
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

    They can be many and large, and no branch needs them; a server may even lack their objects.
    Those that the last record has stay as they were in every increment; only a full, which asks the
    server for them, may go without. What is left out stays unfinished, and is tried again by the
    next run.

    Raises:
        BackupError: the rest could not be captured either, or not without losing those heads.
    """
    # An unfinished entry would never be unchanged; files have their own way.
    known = entry
    if entry is not None:
        about_files = tuple(filter(is_about_files, entry.unfinished))
        known = entry.model_copy(update={"unfinished": about_files})
    without = replace(shop.selection, pull_refs=False)
    result = None
    if heads := _known_heads(entry, shop):
        remotes = replace(shop.remotes, selection=without)
        keeping = replace(shop, remotes=remotes, known_heads=heads)
        problem = f"the heads of its pull requests stay as they were: {reason}"
        # A full asks for them, and the server may not have them any more. An increment does not:
        # what ended the first try was something else, and may be over.
        for one in (keeping, replace(keeping, no_full=True)):
            try:
                result = attempt(one, known)
                break
            except FullIsDue:
                break
            except BackupError as error:
                if one.no_full or isinstance(error, _NOT_FOR_PULL_REFS):
                    raise
    if result is None:
        problem = f"the heads of its pull requests are left out: {reason}"
        result = attempt(_asking(shop, without), known)
        if result.entry.refs_not_selected.keys().isdisjoint(PULL_HEAD_PATTERNS):
            # There are none: what ended the first try was something else, and is over.
            made = result.entry.model_copy(update={"selection": selection_line(shop.selection)})
            return replace(result, entry=made)
    unfinished = (*result.entry.unfinished, f"pull requests: {reason}")
    made = result.entry.model_copy(update={"unfinished": unfinished})
    return replace(result, entry=made, problem=both(result.problem, problem))


def _known_heads(entry: Entry | None, shop: Workshop) -> dict[RefName, ObjectId]:
    """Read the heads of pull requests that the last record has."""
    record = None if entry is None else _load_record(entry, shop)[0]
    tips = {} if record is None else record.tips()
    return {name: oid for name, oid in tips.items() if PULL_HEADS.fullmatch(to_bytes(name))}


def _asking(shop: Workshop, selection: Selection) -> Workshop:
    return replace(shop, selection=selection, remotes=replace(shop.remotes, selection=selection))


def _is_far_away(error: BackupError, repository: Repository, shop: Workshop) -> bool:
    """Tell whether the network may be to blame: on this machine an error would come again.

    Only what others have used up here is there again when they are done.
    """
    if isinstance(error, MachineLimitReached):
        return True
    if isinstance(error, DestinationError):
        return not shop.means.destination.listing_is_local
    return not is_local(repository)


def _failed(
    repository: Repository, entry: Entry | None, shop: Workshop, *, reason: str, hint: str = ""
) -> Result:
    result = failed(repository, entry, shop.means.clock(), reason=reason, hint=hint)
    # It failed, but it is listed.
    return replace(result, entry=result.entry.model_copy(update={"absence": None}))


def chain_damage(entry: Entry, shop: Workshop) -> tuple[tuple[str, str], ...]:
    """List what is missing, or not as recorded, of all that gives an entry's repository back.

    Returns:
        Relative keys, each with what is wrong.
    """
    if entry.record is None:
        return ()
    means = shop.means
    record, problem = _load_record(entry, shop)
    if record is None:
        return ((entry.record, both(problem, _hidden(entry.record, shop))),)
    records = [(entry.record, record)]
    if not record.chain:
        try:
            records = [*records_to_chain(means.destination, means.layout, entry)]
        except (IntegrityError, ObjectNotFound) as error:
            return ((entry.record, f"what was there before it: {error.message}"),)
    record = records[-1][1]
    stored = _stored(record, shop, *(key for key, _ in records))
    found = {key: "it is missing" for key, _ in records if key not in stored}
    found |= differing(record, stored)
    if found:
        return tuple(
            (key, problem if key in stored else both(problem, _hidden(key, shop)))
            for key, problem in found.items()
        )
    try:
        lost = lost_files(means.destination, means.layout, record, shop.stored)
    except (IntegrityError, ObjectNotFound) as error:
        return ((entry.record, error.message),)
    why = _why_lost(lost, shop)
    return tuple((lfs_key(oid), both("it is missing", why[oid])) for oid in why)


def _hidden(relative: str, shop: Workshop) -> str:
    """Say that what is not listed lies under a delete marker; empty where nothing does."""
    means = shop.means
    return relative and hidden_words(means.destination, means.layout, relative)


def _prove(
    record: Record, entry: Entry, stored: Mapping[str, int], shop: Workshop
) -> tuple[str, tuple[Pointer, ...]]:
    """Say what is wrong with a chain; where nothing is, which of its files of Git LFS are gone."""
    if entry.record is not None and entry.record not in stored:
        return f"{entry.record} is missing", ()
    problem = missing(record, stored)
    if problem:
        return problem, ()
    means = shop.means
    try:
        return "", lost_files(means.destination, means.layout, record, shop.stored)
    except (IntegrityError, ObjectNotFound) as error:
        # What a pack points to cannot be read, and is written once.
        return error.message, ()


def _at_its_pace(repository: Repository, entry: Entry | None, shop: Workshop) -> Result:
    """Do one try, and slow down all that ask the same server where it asks for that."""
    if entry is not None and is_known_to_lack_a_wiki(entry, now=shop.means.clock()):
        outcome = replace(outcome_of(repository), status="empty", reason=entry.reason)
        return Result(outcome, entry)
    server = server_of(repository)
    shop.pace.wait(server)
    try:
        return _with_fresh_credentials(repository, entry, shop)
    except RateLimited as error:
        asked = error.retry_after_seconds
        if asked is None:
            error.retry_after_seconds = asked = _THROTTLED_SECONDS
        if asked <= LONGEST_PAUSE_SECONDS:
            shop.pace.slow_down(server, asked)
        raise
    except Exception as error:
        if limit := limit_reached(error):
            # Whatever it was taken for. With fewer others beside it the next try may have enough.
            shop.pace.slow_down(server, 0.0)
            raise limit from error
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
    """Ask and capture; ask again where a ref moved in between, or the answer lacks something.

    What an increment lacks a second time a full is to bring.
    """
    if repository.problem:
        raise SourceError(repository.problem)
    if repository.blocked:
        raise RepositoryBlocked(repository.blocked)
    refs: Refs | None = None
    lacking = why_full = ""
    for _ in range(_LOOKS):
        with shop.remotes.open(repository) as remote:
            with asking(shop.means.stop):
                refs = _with_known_heads(remote.list_refs(), shop)
            try:
                return _ask_and_capture(
                    repository, entry, shop, remote=remote, refs=refs, why_full=why_full
                )
            except NotOurRef as error:
                refused: BackupError = error
            except AnswerLacksObjects as error:
                refused = error
                lacking, why_full = error.message, lacking
    if isinstance(refused, NotOurRef):
        refused = why_not_there(refused, refs, repository)
    raise refused


def _with_known_heads(refs: Refs, shop: Workshop) -> Refs:
    """Put the heads of pull requests that were not asked for beside the refs that were."""
    if not shop.known_heads:
        return refs
    beside = fitting(shop.known_heads, refs.tips.keys())
    heads = {name: oid for name, oid in shop.known_heads.items() if name in beside}
    tips = in_order({**heads, **refs.tips})
    counts = {
        pattern: count
        for pattern, count in refs.not_selected.items()
        if pattern not in PULL_HEAD_PATTERNS
    }
    return replace(refs, tips=tips, not_selected=counts)


def _ask_and_capture(
    repository: Repository,
    entry: Entry | None,
    shop: Workshop,
    *,
    remote: Remote,
    refs: Refs,
    why_full: str,
) -> Result:
    checked_at = shop.means.clock()
    digest = refs_digest(refs)
    why = why_not_unchanged(entry, digest=digest, selection=shop.selection)
    broken = damaged = ""
    if entry is not None and not refs.empty:
        damaged = why_begin_again(entry)
    if entry is not None and not why and not damaged:
        looked = _look_after(repository, entry, shop, refs=refs, checked_at=checked_at)
        if isinstance(looked, Result):
            return looked
        broken, why = looked, f"the chain is broken: {looked}"
    with _slot(repository, shop):
        plan, hidden, lost = _plan(
            repository,
            entry,
            shop,
            refs=refs,
            why=damaged or why,
            why_full=why_full,
            broken=broken,
            damaged=damaged,
        )
        if plan.action == "full" and shop.no_full:
            raise FullIsDue("a full is due")
        if shop.dry_run:
            return planned(plan, entry)
        with capturing(shop.means.stop):
            name = f"{repository.owner}/{repository.path}"
            shop.events.capturing(name, plan.action, plan.reason)
            if refs.protocol_v2 or plan.action == "empty":
                captured = _capture(plan, remote, shop, entry, lost=lost)
            else:
                plan, captured = _capture_from_mirror(plan, shop, entry, lost=lost)
    result = captured_now(
        plan,
        captured,
        entry,
        checked_at=checked_at,
        max_drop_percent=shop.max_drop_percent,
        accept_drop=shop.accept_drop,
    )
    # The state is whole again, but every snapshot before it needs what is hidden.
    return replace(result, problem=both(result.problem, hidden))


def _look_after(
    repository: Repository, entry: Entry, shop: Workshop, *, refs: Refs, checked_at: datetime
) -> Result | str:
    """Say that nothing changed, after whatever is due, or why the chain must begin anew."""
    as_before = unchanged(repository, entry, refs, selection=shop.selection, checked_at=checked_at)
    due = why_files_are_due(entry, shop.selection)
    damaged = damaged_files(entry) if shop.selection.lfs else ()
    prove = shop.prove_unchanged or was_missing(entry)
    if not due and not prove and not damaged:
        return as_before
    record, problem = _load_record(entry, shop)
    lost: tuple[Pointer, ...] = ()
    if record is not None and prove:
        problem, lost = _prove(record, entry, _stored(record, shop, entry.record), shop)
    if record is None or problem:
        return problem
    if lost and not shop.selection.lfs:
        why_lost = _why_lost(lost, shop)
        made = with_lost_files(as_before.entry, why_lost, now=shop.means.clock())
        return replace(as_before, entry=made)
    if lost and not due:
        due = f"{len(lost)} files of Git LFS are gone from the vault"
    if damaged:
        lost += _pointers(damaged, record, shop)
        due = due or f"{len(damaged)} files of Git LFS are damaged in the vault"
    if not due:
        return as_before
    return _look_for_files(repository, entry, as_before, record, shop, why=due, lost=lost)


def _plan(
    repository: Repository,
    entry: Entry | None,
    shop: Workshop,
    *,
    refs: Refs,
    why: str,
    why_full: str,
    broken: str,
    damaged: str,
) -> tuple[Plan, str, tuple[Pointer, ...]]:
    """Make the plan.

    Returns:
        It, what of the last record's chain lies under a delete marker, and the files of Git LFS
        that this record promises and that are gone, where it is time to look.
    """
    lost: tuple[Pointer, ...] = ()
    record, problem, lacks = None, "", ""
    stored: Mapping[str, int] = {}
    if entry is not None and entry.record is not None:
        record, problem = _load_record(entry, shop)
        if any(one.key == entry.record for one in entry.damaged):
            # It may be read, and be another's.
            record, problem = None, damaged
        if record is None:
            lacks = entry.record
        elif not refs.empty:
            stored = _stored(record, shop, entry.record)
            lacks = unlisted(record, entry.record, stored)
            broken = broken or (lacks and f"{lacks} is missing")
            if not broken and (shop.prove_unchanged or was_missing(entry)):
                broken, lost = _prove(record, entry, stored, shop)
    plan = make_plan(
        repository,
        refs,
        why=problem or why,
        why_full=why_full,
        broken=broken,
        damaged=damaged,
        entry=entry,
        record=record,
        stored=stored,
        selection=shop.selection,
        policy=shop.policy,
        now=shop.means.clock(),
    )
    return plan, _hidden(lacks, shop), lost


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


def _stored(record: Record, shop: Workshop, *keys: str | None) -> Mapping[str, int]:
    """List what is stored in the folders of a chain and of its records."""
    if shop.stored is not None:
        return shop.stored
    # A renamed repository's chain lies in more than one folder.
    means = shop.means
    stored: dict[str, int] = {}
    needed = (*(bundle.key for bundle in record.chain), *filter(None, keys))
    for folder in dict.fromkeys(folder_of(key) for key in needed):
        listed = means.destination.list(means.layout.key(folder))
        stored |= sizes(listed, prefix=means.layout.prefix)
    return stored


def _capture(
    plan: Plan,
    remote: Remote,
    shop: Workshop,
    entry: Entry | None,
    *,
    lost: tuple[Pointer, ...],
) -> Captured:
    name = f"{plan.repository.owner}/{plan.repository.path}"
    damaged: tuple[Pointer, ...] = ()
    if entry is not None and plan.previous is not None:
        damaged = _pointers(damaged_files(entry), plan.previous, shop)
    captured = capture(
        plan,
        remote,
        shop.means,
        transferred=lambda size: shop.events.transferred(name, size),
        files=_keeper(plan.repository, entry, shop, also=(*lost, *damaged))
        if shop.selection.lfs
        else None,
    )
    if captured.check == "trailer (disk)":
        why = captured.record.chain[-1].check_detail
        shop.events.note(f"{name}: checked by its trailer alone: {why}")
    return captured


# --- Files of Git LFS ---


def _why_lost(lost: Collection[Pointer], shop: Workshop) -> dict[str, str]:
    """Return, by id of each lost file, how a delete marker over it is undone; or nothing."""
    means = shop.means
    commands = hidden_files(means.destination, means.layout, [one.oid for one in lost])
    return {one.oid: hidden_as(lfs_key(one.oid), commands.get(one.oid, "")) for one in lost}


def _pointers(oids: Collection[str], record: Record, shop: Workshop) -> tuple[Pointer, ...]:
    """Return those of some files that a record says are stored."""
    if not oids:
        return ()
    try:
        promised = promised_files(shop.means.destination, shop.means.layout, record)
    except (IntegrityError, ObjectNotFound):
        return ()
    return tuple(promised[oid] for oid in sorted(oids) if oid in promised)


def _keeper(
    repository: Repository, entry: Entry | None, shop: Workshop, *, also: tuple[Pointer, ...] = ()
) -> FileKeeper:
    name = f"{repository.owner}/{repository.path}"

    def again(error: BackupError, seconds: float) -> None:
        shop.events.note(f"{name}: {error.message}; again in {seconds:.0f} s")

    return FileKeeper(
        shop.remotes.files(repository),
        shop.means,
        turns=shop.turns,
        also=also,
        entry=entry,
        renew=shop.remotes.renew,
        again=again,
        transferred=lambda size: shop.events.transferred(name, size),
    )


def _look_for_files(
    repository: Repository,
    entry: Entry,
    as_before: Result,
    record: Record,
    shop: Workshop,
    *,
    why: str,
    lost: tuple[Pointer, ...],
) -> Result:
    """Store files of a repository whose git objects did not change; most nights there are none."""
    with _slot(repository, shop):
        if shop.dry_run:
            outcome = replace(as_before.outcome, status="planned", reason=why)
            return replace(as_before, outcome=outcome)
        shop.events.capturing(f"{repository.owner}/{repository.path}", "files", why)
        kept = _keeper(repository, entry, shop).keep(
            record.chain,
            previous=record,
            goes_on=True,
            object_format=record.object_format,
            found={},
            also=lost,
        )
        captured = None
        if kept.stored or tells_more(kept, record):
            captured = capture_files(record, as_before.entry.record or "", kept, shop.means)
            record = captured.record
    now = shop.means.clock()
    return files_looked_for(as_before, kept, record, captured=captured, why=why, now=now)


def _capture_from_mirror(
    plan: Plan, shop: Workshop, entry: Entry | None, *, lost: tuple[Pointer, ...]
) -> tuple[Plan, Captured]:
    means = shop.means
    with shop.remotes.open_mirror(plan.repository, disk=means.disk) as remote:
        mirrored = _with_known_heads(remote.list_refs(), shop)
        if dict(mirrored.tips) != dict(plan.refs.tips) or mirrored.head_id != plan.refs.head_id:
            # The repository moved on while it was mirrored: what is there now is captured.
            refs = replace(mirrored, protocol_v2=False)
            plan = replace(plan, refs=refs, wants=refs.wanted())
        return plan, _capture(plan, remote, shop, entry, lost=lost)


@contextmanager
def _slot(repository: Repository, shop: Workshop) -> Iterator[None]:
    with shop.pace.slot(server_of(repository)):
        if shop.means.stop.abandoned is not None or shop.means.stop.interrupted:
            shop.means.stop.check()
        if not shop.means.stop.may_begin:
            raise NotBegun("not reached: no time was left to begin a capture")
        yield
