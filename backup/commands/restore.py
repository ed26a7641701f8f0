"""Gives repositories back: the chain's packs in order, then the refs, then HEAD, each proved.

A repository is built under another name and moved into place at the end: a folder that has the name
asked for is whole.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

from backup.commands.as_of import contents_at, has_snapshot
from backup.commands.finding import (
    HOW_TO_SEE_FORGOTTEN,
    Found,
    captured_by,
    entries_of,
    find_repository,
    is_name_of,
    matches,
    require_roots,
    state_of_vault,
    unfinished_note,
)
from backup.commands.hidden import hidden_notes
from backup.commands.leaving_out import what_is_left, why_left_out
from backup.commands.lost import DELETED, REWRITTEN, find_losses, gone
from backup.commands.lost_index import lost_index
from backup.commands.placing import (
    Workplace,
    half_made_beside,
    move_into_place,
    places,
    require_free,
)
from backup.commands.pushing import Push, PushRequest
from backup.commands.rebuilding import head_id, rebuild_repository, record_of
from backup.commands.stored_files import give_files, promised_files
from backup.errors import (
    BackupError,
    ConfigError,
    ExitCode,
    IntegrityError,
    Interrupted,
    ObjectNotFound,
)
from backup.git.command import require_git
from backup.git.rebuild import holds, why_not_checked_out, why_not_whole
from backup.git.work import named_but_unusable, work_folder
from backup.model import ArchivedObject, ChangeKind, Destination, Events, ObjectId, RefName
from backup.results import LostRef, PushReport, Restored, RestoreReport
from backup.stopping import Stop
from backup.vault.documents import Record
from backup.vault.layout import Layout, is_snapshot_id, lfs_key
from backup.vault.manifest import Identity, State, list_documents
from backup.vault.originals import OriginalsDestination

S = TypeVar("S")
T = TypeVar("T")
Beside = Sequence[tuple[Record, dict[RefName, ObjectId]]]


@dataclass(frozen=True, slots=True)
class RestoreRequest:
    """What to give back.

    Attributes:
        repository: a name or id, or a glob over names for several, each to its own folder below
            the target; None with all.
        all: every repository that was listed then.
        at: a date, a time, a snapshot id, ``latest`` or None.
        target: the repository's folder, which must not exist or be empty; for several the folder
            for theirs, where a restore that broke off is gone on with; None to list what is lost,
            or to push without keeping anything.
        deleted: give back what was deleted upstream: refs beside today's, and repositories.
        rewritten: the same for what was rewritten.
        checkout: make working clones.
        push: where the one repository goes besides.
    """

    repository: str | None
    all: bool
    at: str | None
    target: Path | None
    concurrency: int = 1
    deleted: bool = False
    rewritten: bool = False
    checkout: bool = False
    push: PushRequest | None = None

    @property
    def asks_for_lost(self) -> bool:
        """Whether it is about what is lost upstream."""
        return self.deleted or self.rewritten

    @property
    def kinds(self) -> frozenset[ChangeKind]:
        """What must have become of a ref to count as lost."""
        return (DELETED if self.deleted else frozenset()) | (
            REWRITTEN if self.rewritten else frozenset()
        )


@dataclass(frozen=True, slots=True)
class _Failure:
    """One repository that could not be given back."""

    name: str
    error: BackupError


@dataclass(frozen=True, slots=True)
class _Work:
    """One repository to give back, and what of its past beside it."""

    found: Found
    beside: Beside = ()


@dataclass(slots=True)
class _Contents:
    """What a vault has at the time that is asked for.

    Attributes:
        everything: every repository.
        unreadable: owners whose manifests are damaged or gone.
        undecided: what of everything cannot be told as of that time, and why.
        not_stored: what was listed and no entry could be made of.
        is_forgotten: whether there is a state of that time, and all of it was forgotten.
    """

    everything: list[Found] = field(default_factory=list)
    unreadable: list[_Failure] = field(default_factory=list)
    undecided: dict[tuple[Layout, Identity], _Failure] = field(default_factory=dict)
    not_stored: list[_Failure] = field(default_factory=list)
    is_forgotten: bool = False


@dataclass(slots=True)
class _Lost:
    """What to give back, and what of it is lost upstream."""

    works: list[_Work]
    refs: tuple[LostRef, ...] = ()
    failures: list[_Failure] = field(default_factory=list)


def is_glob(repository: str) -> bool:
    """Tell whether a name may be a pattern; a forge lets neither character into a name."""
    return not {"*", "?"}.isdisjoint(repository)


def restore(
    destination: Destination, request: RestoreRequest, *, events: Events, stop: Stop
) -> RestoreReport:
    """Give back one repository, or several, or list what they lost.

    Raises:
        ConfigError: the request names nothing, too much, or a target that is in use.
        IntegrityError: stored data is damaged; nothing is left at the target.
    """
    require_git()
    originals = OriginalsDestination(destination)
    destination = originals
    chosen, several, failures = _chosen(originals, request, events)
    if request.push is not None and several:
        raise ConfigError("--push takes one repository: name it")
    if request.target is not None and not several:
        require_free(request.target)
    work = _Restoring(destination, request, events=events, stop=stop)
    if request.target is None:
        if request.push is None:
            return work.list_lost(chosen, failures if several else ())
        if unusable := named_but_unusable():
            events.note(unusable)
        with work_folder() as folder:
            return work.restore_one(chosen[0], folder / "pushed")
    if several:
        return work.restore_several(chosen, request.target, failures)
    return work.restore_one(chosen[0], request.target)


def _chosen(
    destination: OriginalsDestination, request: RestoreRequest, events: Events
) -> tuple[list[Found], bool, list[_Failure]]:
    """Find what is asked for, whether it is meant as several, and what of it cannot be had."""
    contents = _contents(destination, request, events)
    unreadable = contents.unreadable
    if unreadable and not contents.everything:
        raise unreadable[0].error
    try:
        found, several = _meant(contents, request)
    except ConfigError:
        # It may be what cannot be read.
        if unreadable:
            raise unreadable[0].error from None
        captured = _captured_then(destination, request)
        if captured is None:
            raise
        return [captured], False, []
    failures = [
        contents.undecided[_place(one)] for one in found if _place(one) in contents.undecided
    ]
    found = [one for one in found if _place(one) not in contents.undecided]
    if failures and not found:
        raise failures[0].error
    failures = [*unreadable, *failures]
    if request.all and not request.asks_for_lost:
        return found, several, [*failures, *contents.not_stored]
    return found, several, failures


def _place(found: Found) -> tuple[Layout, Identity]:
    return found.layout, found.entry.identity


def _contents(
    destination: OriginalsDestination, request: RestoreRequest, events: Events
) -> _Contents:
    """Return every repository; an owner whose manifests are damaged or gone hinders no other."""
    now = datetime.now(UTC)
    contents = _Contents()
    for layout in require_roots(destination):
        name = layout.prefix.rstrip("/")
        try:
            found, state = _of_owner(destination, layout, request.at, contents.undecided, now=now)
        except IntegrityError as error:
            contents.unreadable.append(_Failure(name, error))
            events.note(f"{name} cannot be read: {error.message}")
            continue
        contents.everything.extend(found)
        contents.is_forgotten |= not found and has_snapshot(destination, layout, request.at)
        contents.not_stored.extend(_not_stored(state))
        for note in (*hidden_notes(destination, layout), unfinished_note(layout, state)):
            if note:
                events.note(note)
    return contents


def _of_owner(
    destination: Destination,
    layout: Layout,
    at: str | None,
    undecided: dict[tuple[Layout, Identity], _Failure],
    *,
    now: datetime,
) -> tuple[list[Found], State]:
    """Return an owner's repositories as of a time; for the present also what else is known of it.

    Args:
        destination: where the vault lies.
        layout: the owner's root.
        at: the time.
        undecided: takes up what of them cannot be told as of that time, and why.
        now: the time here.

    Raises:
        IntegrityError: a manifest that counts is damaged, or none is there.
    """
    if at is None or at == "latest":
        state = state_of_vault(destination, layout, now=now)
        found = entries_of(layout, state)
    else:
        then = contents_at(destination, layout, at, now=now)
        found = [*then.entries, *then.undecided]
        if then.doubt is not None:
            undecided |= {_place(one): _Failure(one.name, then.doubt) for one in then.undecided}
        state = State(source=then.source, unreadable=then.unreadable)
        names = list_documents(destination, layout)
        if found or any(name.checkpoint is None for name in names):
            return found, state
    if (lost := lost_index(destination, layout, state)) is not None:
        raise lost.error
    return found, state


def _not_stored(state: State) -> list[_Failure]:
    """Return what was listed and no entry could be made of."""
    owner = "" if state.source is None else state.source.owner
    return [
        _Failure(f"{owner}/{one.path}", BackupError(f"nothing of it is stored: {one.reason}"))
        for one in state.unreadable
    ]


def _meant(contents: _Contents, request: RestoreRequest) -> tuple[list[Found], bool]:
    """Choose what is asked for, and tell whether it is meant as several."""
    everything = contents.everything
    if not everything and not (request.all and contents.not_stored):
        raise _nothing_there(request, is_forgotten=contents.is_forgotten)
    if request.all:
        return everything, True
    name = request.repository or ""
    # In a folder a name may have such a character.
    if is_glob(name) and not any(is_name_of(found, name) for found in everything):
        matching = [found for found in everything if matches(found, name)]
        if not matching:
            raise ConfigError(
                f"REPOSITORY: nothing in this vault matches {name!r}",
                hint="list --from shows what there is; * stands for any part of a name",
            )
        return matching, True
    return [find_repository(everything, name)], False


def _captured_then(destination: OriginalsDestination, request: RestoreRequest) -> Found | None:
    """Find the capture of one repository by a run whose snapshot is not there, or not any more."""
    name, at = request.repository, request.at
    if name is None or at is None or not is_snapshot_id(at):
        return None
    now = datetime.now(UTC)
    everything: list[Found] = []
    for layout in require_roots(destination):
        # Where the snapshot was looked for, what is unreadable was reported.
        with suppress(IntegrityError):
            everything += entries_of(layout, state_of_vault(destination, layout, now=now))
    try:
        found = find_repository(everything, name)
    except ConfigError:
        return None
    return captured_by(destination, found, at)


def _nothing_there(request: RestoreRequest, *, is_forgotten: bool) -> ConfigError:
    """Make the error for a vault that holds no repository at the time that is asked for."""
    name = "--all" if request.repository is None else "REPOSITORY"
    at = request.at
    if at is None or at == "latest":
        return ConfigError(f"{name}: the vault holds no repository", hint=HOW_TO_SEE_FORGOTTEN)
    if is_forgotten:
        return ConfigError(
            f"--at: everything that the vault held at {at!r} was forgotten",
            hint=HOW_TO_SEE_FORGOTTEN,
        )
    what = f"with the id {at!r}" if is_snapshot_id(at) else f"of {at!r} or before"
    return ConfigError(
        f"--at: the vault has no snapshot {what}", hint="list --from shows the snapshots"
    )


class _Restoring:
    """One restore at work."""

    def __init__(
        self, destination: Destination, request: RestoreRequest, *, events: Events, stop: Stop
    ) -> None:
        self._destination = destination
        self._request = request
        self._events = events
        self._stop = stop

    # --- What is asked for -----------------------------------------------------------------------

    def list_lost(self, chosen: Sequence[Found], unreadable: Sequence[_Failure]) -> RestoreReport:
        found = self._lost(chosen)
        if not found.refs:
            self._events.note("nothing of what is stored is lost at its source")
        return _report((), [*found.failures, *unreadable], lost=found.refs)

    def restore_one(self, found: Found, target: Path) -> RestoreReport:
        work, lost = _Work(found), tuple[LostRef, ...]()
        if self._request.asks_for_lost:
            losses = self._lost([found])
            if losses.failures:
                raise losses.failures[0].error
            (work,), lost = losses.works, losses.refs
        if commands := self._archived([work]):
            return _thaw_first(commands)
        push = None
        with half_made_beside(target) as folder:
            if self._request.push is not None:
                push = Push(self._request.push, events=self._events, stop=self._stop)
                push.require_reachable()
            try:
                restored = self._restore(work, folder)
            except IntegrityError as error:
                self._add_what_is_left(error, work.found)
                raise
            move_into_place(folder, target)
        made = replace(restored, path=target)
        kept = () if self._request.target is None else (made,)
        code = _code_of([made])
        if push is None:
            return RestoreReport(kept, lost=lost, exit_code=code)
        done = self._pushed(work, push, made)
        if done.refused or done.files_failed:
            code = ExitCode.PARTIAL
        return RestoreReport(kept, lost=lost, push=done, exit_code=code)

    def _add_what_is_left(self, error: IntegrityError, found: Found) -> None:
        """Have an error say which earlier state can be restored, where it says what is damaged."""
        with suppress(BackupError):
            record = self._record(found)
            key = found.layout.key
            keys = [line.key for line in record.chain]
            damaged = [one for one in keys if self._destination.uri(key(one)) in error.message]
            if damaged:
                left = what_is_left(self._destination, found, damaged)
                error.hint = "; ".join(filter(None, (left, error.hint)))

    def _pushed(self, work: _Work, push: Push, made: Restored) -> PushReport:
        record = self._record(work.found)
        return push.push(
            made,
            made.path / ".git" if self._request.checkout else made.path,
            _tips(record, work),
            head=record.head.symref_name,
        )

    def restore_several(
        self, chosen: Sequence[Found], target: Path, unreadable: Sequence[_Failure]
    ) -> RestoreReport:
        left_out: tuple[str, ...] = ()
        if self._request.asks_for_lost:
            losses = self._lost(chosen)
        else:
            reasons = why_left_out(self._destination, chosen, now=datetime.now(UTC))
            pairs = [*zip(chosen, reasons, strict=True)]
            losses = _Lost([_Work(found) for found, reason in pairs if not reason])
            left_out = tuple(f"{found.name}: {reason}" for found, reason in pairs if reason)
        works = losses.works
        workplace = Workplace(target, vault=self._destination.uri(""))
        with workplace.opened():
            if commands := self._archived(works):
                return _thaw_first(commands)
            of = {id(work.found): work for work in works}
            ending = "" if self._request.checkout else ".git"
            placed = [*places([work.found for work in works], target, ending=ending)]
            results = self._each(
                lambda one: self._restore_at(of[id(one[0])], one[1], workplace), placed
            )
            failures = [result for result in results if isinstance(result, _Failure)]
            failures += [*losses.failures, *unreadable]
            restored = tuple(result for result in results if isinstance(result, Restored))
            if not failures and not any(one.files_failed for one in restored):
                workplace.done()
        return _report(restored, failures, left_out=left_out, lost=losses.refs)

    # --- What was lost ---------------------------------------------------------------------------

    def _lost(self, chosen: Sequence[Found]) -> "_Lost":
        """Find the repositories that lost something, and what it is; by name."""
        result = _Lost([])
        stored = [found for found in chosen if found.entry.record is not None]
        for one in self._each(self._losses_of, sorted(stored, key=lambda one: one.name)):
            if isinstance(one, _Failure):
                result.failures.append(one)
                continue
            work, refs = one
            if refs:
                result.works.append(work)
                result.refs += refs
        if self._keeps_something and not result.works and not result.failures:
            raise ConfigError(
                "nothing that was asked for is lost at its source",
                hint="without TARGET what is lost is listed",
            )
        return result

    def _losses_of(self, found: Found) -> tuple[_Work, tuple[LostRef, ...]] | _Failure:
        self._stop.check()
        try:
            losses = find_losses(self._destination, found, self._request.kinds)
        except Interrupted:
            raise
        except BackupError as error:
            return _Failure(found.name, error)
        refs = losses.refs
        if self._request.deleted and (all_of_it := gone(found)) is not None:
            refs = (all_of_it, *refs)
        # For a list alone the records of ten thousand repositories need not be kept.
        beside = tuple(losses.by_holder()) if self._keeps_something else ()
        return _Work(found, beside), refs

    @property
    def _keeps_something(self) -> bool:
        return self._request.target is not None or self._request.push is not None

    # --- Archived objects ------------------------------------------------------------------------

    def _archived(self, works: Sequence[_Work]) -> tuple[ArchivedObject, ...]:
        """Look, before anything is downloaded, for what cannot be."""
        if self._destination.listing_is_local:
            return ()
        found = self._each(self._archived_of, works)
        return tuple(one for archived in found for one in archived)

    def _archived_of(self, work: _Work) -> tuple[ArchivedObject, ...]:
        self._stop.check()
        try:
            records = (self._record(work.found), *(record for record, _ in work.beside))
        except Interrupted:
            raise
        except BackupError:
            # Said where it is restored; the others are looked at.
            return ()
        key = work.found.layout.key
        keys = dict.fromkeys(key(line.key) for record in records for line in record.chain)
        files = []
        for record in records:
            # What cannot be read of them is reported with the repository, which comes back.
            with suppress(IntegrityError, ObjectNotFound):
                promised = promised_files(self._destination, work.found.layout, record)
                files += [key(lfs_key(oid)) for oid in promised]
        # They lie in as many folders, which are listed as one.
        return (*self._destination.archived(keys), *self._destination.archived(files))

    # --- One repository --------------------------------------------------------------------------

    def _restore_at(self, work: _Work, place: Path, workplace: Workplace) -> Restored | _Failure:
        try:
            if place.exists():
                return self._found_there(work, place, workplace)
            with workplace.half_made() as folder:
                made = self._restore(work, folder)
                move_into_place(folder, place)
        except Interrupted:
            raise
        except BackupError as error:
            return _Failure(work.found.name, error)
        return replace(made, path=place)

    def _found_there(self, work: _Work, place: Path, workplace: Workplace) -> Restored:
        """Keep what a restore before this one has made, if it is what is asked for."""
        record = self._record(work.found)
        head, tips = record.head, _tips(record, work)
        if not holds(place, tips, symref=head.symref_name, oid=head_id(record), stop=self._stop):
            raise ConfigError(
                f"{place} is there already, and in another state",
                hint="move it away, or name the state that it has with --at",
            )
        asked = [*tips.values(), *filter(None, [head_id(record)])]
        wrong = why_not_whole(
            place / ".git" if self._request.checkout else place,
            asked,
            object_format=record.object_format,
            stop=self._stop,
        )
        if self._request.checkout and not wrong:
            with workplace.half_made() as scratch:
                wrong = why_not_checked_out(place, scratch, stop=self._stop)
        if wrong:
            raise BackupError(
                f"{place} is there already, and is not whole any more: {wrong}",
                hint="move it away, and it is restored again",
            )
        return replace(self._with_files(work, record, place), was_there=True)

    def _restore(self, work: _Work, folder: Path) -> Restored:
        name = work.found.name
        record = self._record(work.found)
        self._events.capturing(name, "restore", f"{len(record.chain)} bundles")
        try:
            rebuild_repository(
                self._destination,
                work.found.layout,
                record,
                folder,
                beside=work.beside,
                checkout=self._request.checkout,
                temporary=self._request.target is None,
                transferred=lambda size: self._events.transferred(name, size),
                stop=self._stop,
            )
            return self._with_files(work, record, folder)
        finally:
            self._events.ended(name)

    def _with_files(self, work: _Work, record: Record, folder: Path) -> Restored:
        """Put files of Git LFS beside what is restored, as far as they are not there."""
        name = work.found.name
        given = give_files(
            self._destination,
            work.found.layout,
            (record, *(other for other, _ in work.beside)),
            folder / ".git" if self._request.checkout else folder,
            transferred=lambda size: self._events.transferred(name, size),
            stop=self._stop,
        )
        return replace(
            _restored(work, record, folder),
            files=given.count,
            files_bytes=given.size_bytes,
            files_not_stored=len(given.not_stored),
            files_failed=given.failed,
            files_damaged=given.is_damaged,
            files_not_asked=given.not_asked,
            packs_unsearched=given.unsearched,
        )

    def _record(self, found: Found) -> Record:
        entry = found.entry
        if entry.record is None:
            reason = entry.reason or "nothing of it was captured yet"
            raise BackupError(f"{found.name} has no backup: {reason}")
        return record_of(
            self._destination,
            found.layout,
            entry.record,
            version=entry.record_version_id,
            identity=entry.identity,
            name=found.name,
        )

    def _each(self, do: Callable[[S], T], items: Sequence[S]) -> list[T]:
        with ThreadPoolExecutor(self._request.concurrency) as pool:
            try:
                return [*pool.map(do, items)]
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def _tips(record: Record, work: _Work) -> dict[RefName, ObjectId]:
    tips = record.tips()
    for _, refs in work.beside:
        tips |= refs
    return tips


def _restored(work: _Work, record: Record, folder: Path) -> Restored:
    return Restored(
        name=work.found.name,
        path=folder,
        snapshot_id=record.snapshot_id,
        refs=len(record.refs),
        objects=sum(bundle.objects for bundle in record.chain),
        size_bytes=sum(bundle.size_bytes for bundle in record.chain),
        state_at=work.found.entry.checked_at or record.captured_at,
        lost_refs=sum(len(refs) for _, refs in work.beside),
        left_out=len(record.left_out),
    )


def _thaw_first(archived: Sequence[ArchivedObject]) -> RestoreReport:
    asked = sum(one.is_thawing for one in archived)
    number = "1 object is" if len(archived) == 1 else f"{len(archived)} objects are"
    waiting = f"; {asked} of them being thawed already" if asked else ""
    return RestoreReport(
        (),
        failed=(f"{number} archived, nothing is downloaded{waiting}",),
        thaw=tuple(one.command for one in archived if not one.is_thawing),
        exit_code=ExitCode.FAILED,
    )


def _report(
    restored: tuple[Restored, ...],
    failures: Sequence[_Failure],
    *,
    left_out: tuple[str, ...] = (),
    lost: tuple[LostRef, ...] = (),
) -> RestoreReport:
    damaged = any(isinstance(failure.error, IntegrityError) for failure in failures)
    code = ExitCode.PARTIAL if failures else ExitCode.DONE
    return RestoreReport(
        restored,
        left_out=left_out,
        failed=tuple(f"{failure.name}: {failure.error.message}" for failure in failures),
        lost=lost,
        exit_code=ExitCode.DAMAGED if damaged else max(code, _code_of(restored)),
    )


def _code_of(restored: Sequence[Restored]) -> ExitCode:
    """Return what the exit code is for what lies in its place, and may lack files of Git LFS."""
    if any(one.files_damaged for one in restored):
        return ExitCode.DAMAGED
    is_partial = any(one.files_failed or one.packs_unsearched for one in restored)
    return ExitCode.PARTIAL if is_partial else ExitCode.DONE
