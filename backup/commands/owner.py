"""One owner's part of a run: from the newest state in the vault to the next manifest."""

import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from queue import Empty, SimpleQueue
from typing import Literal

import backup
from backup.capture import Means
from backup.commands.absent import ask_for_absent
from backup.commands.clocks import Witnesses
from backup.commands.condemning import condemned_files
from backup.commands.damage_of_run import DamageOfRun
from backup.commands.entries import Result, carried, known_of, notes_on_files
from backup.commands.exporting import Exports, Limit
from backup.commands.files import Turns
from backup.commands.finding import roots_of_same_owner
from backup.commands.hidden import hidden_documents
from backup.commands.ledger import Ledger
from backup.commands.locking import Locks
from backup.commands.lost_index import HOW_TO_GO_ON, lost_index
from backup.commands.one import Workshop, back_up, chain_damage
from backup.commands.pace import Pace
from backup.commands.remotes import Network, Remotes, is_local
from backup.commands.replaced import LastExports, due_exports, note_export
from backup.commands.retrying import TRIES, repeat
from backup.commands.selecting import (
    RunOptions,
    can_be_kept,
    filters,
    is_counted,
    is_wanted,
    once_each,
    with_a_name,
)
from backup.counting import RequestCounts
from backup.destinations.counting import CountingDestination
from backup.errors import (
    BackupError,
    DeadlineReached,
    DestinationError,
    DocumentTooLarge,
    Interrupted,
    NotBegun,
    NothingSelected,
    SessionExpired,
    SourceError,
    sound,
)
from backup.git.check import Disk
from backup.model import (
    Events,
    Exporter,
    LastDrill,
    Repository,
    Source,
)
from backup.plan import Policy, order_of_work, selection_line
from backup.refs import tell_not_selected
from backup.stopping import Stop
from backup.vault.chain import sizes
from backup.vault.documents import Entry, Manifest, SourceLine, Totals, encode
from backup.vault.layout import DocumentName, Layout, snapshot_time
from backup.vault.manifest import (
    WINDOW,
    Identity,
    State,
    load_state,
    require_findable,
    require_same_source,
    unknown_to,
    with_documents,
)
from backup.vault.originals import OriginalsDestination
from backup.workers import Workers

CHECKPOINT_SECONDS = 240.0
VAULT_CHECK_EVERY = timedelta(days=7)
# Asking an unchanged repository for its refs is waiting, mostly; capturing is work.
_ASKING_PER_CAPTURE = 4
REQUESTS_PER_CAPTURE = 1 + _ASKING_PER_CAPTURE
_LOOK_SECONDS = 0.5


class OwnerRun:
    """Everything one run does for one owner. Its methods belong to the run's main thread."""

    def __init__(
        self,
        source: Source,
        destination: CountingDestination,
        options: RunOptions,
        *,
        snapshot_id: str,
        started_at: datetime,
        counts: RequestCounts,
        network: Network,
        export_limit: Limit,
        disk: Disk,
        events: Events,
        stop: Stop,
        clock: Callable[[], datetime],
    ) -> None:
        self.source = source
        self._destination = destination
        self._options = options
        self._started_at = started_at
        self._events = events
        self._stop = stop
        self._clock = clock
        self._counts = counts
        self._network = network
        self._export_limit = export_limit
        identity = repeat(
            lambda: source.identity,
            tries=TRIES,
            stop=stop,
            again=self._again,
            may_pass=lambda error: isinstance(error, SourceError),
        )
        self._layout = Layout.of(host=identity.host, owner=identity.owner)
        self._means = Means(
            destination=destination,
            layout=self._layout,
            snapshot_id=snapshot_id,
            check=options.check,
            disk=disk,
            clock=clock,
            stop=stop,
        )
        # What was put in place of documents would be tonight's state, and soon all there is.
        self._documents = OriginalsDestination(destination)
        self._turns = Turns(partial(condemned_files, destination, self._layout))
        self._state = State()
        self._seen_documents: tuple[DocumentName, ...] = ()
        self.ledger = Ledger()
        self._damage = DamageOfRun(
            destination,
            self._layout,
            self.ledger,
            owner=identity.owner,
            is_stored=lambda oid: self._turns.stored(oid) is not None,
            clock=clock,
        )
        self._dropped = False
        self._accepted: int | None = None
        self._selected = 0
        self._to_work_off: Sequence[Repository] = ()
        self._is_local = False
        self._vault_check_due = False
        self._vault_checked = False
        self._stored: dict[str, int] | None = None
        self._witnesses = Witnesses(destination, source)
        self._checkpoints = 0
        self._stored_at_checkpoint = 0
        self.listed = self._counted = 0
        self.manifest_uri = ""
        self.last_drill: LastDrill | None = None

    def back_up(self) -> None:
        """Do all of it.

        Raises:
            BackupError: the vault's state or the listing could not be had, or the manifest could
                not be written.
        """
        self._load_state()
        listing = self._list()
        selected = self._select(listing)
        self._tell_of_a_new_vault()
        self._judge_drop()
        selected += self._ask_for_absent(listing)
        try:
            self._work_off(selected)
        except Exception:
            # Whatever it was: what is captured is found by the next run.
            self._save_checkpoint()
            raise
        self._look_after_the_rest()
        self._export(selected)
        asked = self._options.selection.lfs
        for words in notes_on_files(self.ledger.outcomes(), asked=asked):
            self._note(words)
        for words in tell_not_selected(one.refs_not_selected for one in self.ledger.outcomes()):
            self._note(words)
        if self._stop.abandoned is not None:
            raise self._stop.abandoned
        if self._stop.interrupted:
            self._save_checkpoint()
            self.ledger.be_late("interrupted; the next run goes on from the last checkpoint")
            self.ledger.failed = True
        elif not self._options.dry_run:
            with self._stop.finishing():
                self._damage.report(self._state.entries.values())
                self._publish()

    def give_up(self, error: BackupError) -> None:
        """Note that this owner could not be backed up at all."""
        self.ledger.fail(f"{self.source.identity.owner}: {error.message}")

    def _load_state(self) -> None:
        now = self._clock()
        documents = self._documents

        def load(names: tuple[DocumentName, ...]) -> State:
            self._seen_documents = names
            # What follows goes by our clock. A store without a time yet has one at the end.
            if self._destination.now() is not None:
                self._require_clock()
            require_findable(self._means.snapshot_id, names, now=now)
            return load_state(documents, self._layout, names, now=now)

        self._state = with_documents(documents, self._layout, load)
        require_same_source(self._state, self.source.identity)
        entries = self._damage.load(self._state.entries, now=now)
        self._state = replace(self._state, entries=entries)
        self._turns.distrust(self._damage.known_files(entries.values()))
        for words in self._damage.notes:
            self._note(words)
        if (drill := self._damage.newest_drill) is not None:
            self.last_drill = LastDrill(
                owner=self.source.identity.owner,
                depth=drill.depth,
                at=drill.finished_at,
                checked=len(drill.checked),
                damaged=len(drill.damaged),
                standing=self._damage.standing_beside(drill),
            )
        self._accepted = self._state.accepted
        checked_at = self._state.vault_checked_at
        self._vault_check_due = (
            self._destination.listing_is_local
            or checked_at is None
            or now - checked_at >= VAULT_CHECK_EVERY
        )
        if self._vault_check_due and not self._destination.listing_is_local:
            # One listing for all, in place of one for each repository.
            self._stored = {}
            for folder in ("repositories", "lfs"):
                listed = self._destination.list(self._layout.folder(folder))
                self._stored |= sizes(listed, prefix=self._layout.prefix)
        self._look_for_lost_documents()
        for stem in self._state.misdated:
            self._note(f"{stem} was dated by a wrong clock and decides nothing")
        for words in self._state.left_aside:
            self._note(f"{words}; it was left aside")

    def _tell_of_a_new_vault(self) -> None:
        if self._state.source is None and not self.ledger.failed:
            self._note(f"a new vault begins at {self._destination.uri(self._layout.prefix)}")
            self._tell_earlier_names()

    def _require_clock(self) -> None:
        """Compare the clocks; by one that is wrong nothing may be published."""
        began = max(self._started_at, snapshot_time(self._means.snapshot_id))
        if note := self._witnesses.require(self._clock(), began=began):
            self._note(note)

    def _look_for_lost_documents(self) -> None:
        """Notice what is no new vault, and what would be an older state without a word."""
        for one in hidden_documents(self._documents, self._layout):
            self.ledger.problems.append(f"{one.message}; {one.fix}")
        if (lost := lost_index(self._destination, self._layout, self._state)) is not None:
            self.ledger.fail(
                f"{lost.message}. All that is at the source is captured from the beginning; what "
                f"was there before stays, and {HOW_TO_GO_ON}"
            )

    def _tell_earlier_names(self) -> None:
        identity = self.source.identity
        for name, root in roots_of_same_owner(self._destination, self._layout, identity):
            self._note(
                f"{identity.owner} was called {name} before: what was stored until then stays at "
                f"{self._destination.uri(root.prefix)}, and is restored as {name}/REPOSITORY"
            )

    def _list(self) -> list[Repository]:
        self._events.listing(self.source.identity)
        listing = repeat(
            lambda: [with_a_name(one) for one in once_each(self.source.repositories())],
            tries=TRIES,
            stop=self._stop,
            again=self._again,
            may_pass=lambda error: isinstance(error, SourceError),
        )
        for note in self.source.notes:
            self._note(note)
        self.listed = len(listing)
        stored = {one.identity for one in self._state.entries.values() if one.record is not None}
        self._counted = sum(is_counted(one, stored) for one in listing)
        if not listing and not self._state.entries:
            identity = self.source.identity
            raise SourceError(
                f"no repositories were found in {identity.location or identity.owner}",
                hint="; ".join(filter(None, ("check the name", self.source.if_too_short))),
            )
        return listing

    def _select(self, listing: Sequence[Repository]) -> list[Repository]:
        options = self._options
        selected = []
        for repository in listing:
            if is_wanted(repository, options):
                selected.append(repository)
                continue
            identity = (repository.kind, repository.host_id)
            if (entry := self._state.entries.get(identity)) is not None:
                # It is listed, whatever was before.
                self.ledger.marks[identity] = carried(entry, not_selected=True, absence=None)
        if listing and not selected:
            raise NothingSelected(
                f"{', '.join(filters(options))}: leaves none of {len(listing)} repositories"
            )
        self._selected = len(selected)
        self._is_local = all(map(is_local, selected))
        self._events.listed(self.source.identity, len(selected))
        return selected

    def _judge_drop(self) -> None:
        """Compare the listing with the last one that was accepted."""
        if not self.source.lists_everything:
            return
        options, accepted = self._options, self._state.accepted
        gone = 0 if accepted is None else accepted - self._counted
        too_many = gone * 100 > (accepted or 0) * options.max_drop_percent
        self._dropped = too_many and not options.accept_drop
        if self._dropped:
            why = self.source.if_too_short
            self.ledger.fail(
                f"{self._counted} repositories are listed, {accepted} were before: "
                f"more than --max-drop-percent {options.max_drop_percent} are gone; "
                "nothing was marked as gone (--accept-drop accepts it"
                f"{f'; or {why}' if why else ''})"
            )
        else:
            self._accepted = self._counted

    def _ask_for_absent(self, listing: Sequence[Repository]) -> list[Repository]:
        """Ask one by one for what the listing had before, and note the answers."""
        if self._dropped or not self.source.lists_everything:
            return []
        listed = {(repository.kind, repository.host_id) for repository in listing}
        return ask_for_absent(
            (entry for identity, entry in self._state.entries.items() if identity not in listed),
            self.source,
            self._options,
            self.ledger,
            stop=self._stop,
            again=self._again,
            clock=self._clock,
        )

    def _work_off(self, selected: Sequence[Repository]) -> None:
        """Bring every selected repository up to date, the longest unchecked first."""
        options, entries = self._options, self._state.entries
        shop = self._workshop()
        self._to_work_off = selected
        finished: SimpleQueue[tuple[Future[Result], Repository]] = SimpleQueue()
        saved_at, left = time.monotonic(), 0
        with Workers(options.concurrency * REQUESTS_PER_CAPTURE) as pool:
            for repository in order_of_work(selected, entries):
                entry = known_of(repository, entries)
                if entry is None and not can_be_kept(repository):
                    self._events.finished(self.ledger.refuse(repository))
                    continue
                future = pool.submit(_begin, repository, entry, shop)
                future.add_done_callback(lambda f, r=repository: finished.put((f, r)))  # type: ignore[misc]
                left += 1
            while left:
                with suppress(Empty):
                    self._collect(*finished.get(timeout=_LOOK_SECONDS))
                    left -= 1
                if self._stop.interrupted or self._stop.abandoned is not None:
                    pool.shutdown(wait=False, cancel_futures=True)
                if time.monotonic() - saved_at >= CHECKPOINT_SECONDS:
                    self._save_checkpoint()
                    saved_at = time.monotonic()
        if not self._stop.interrupted and self._stop.abandoned is None:
            self._say_what_was_not_done()

    def _workshop(self) -> Workshop:
        options = self._options
        return Workshop(
            means=self._means,
            selection=options.selection,
            policy=Policy(options.max_chain_length, options.full_after_days),
            remotes=Remotes(
                network=self._network,
                selection=options.selection,
                count=self._counts.increment,
                stop=self._stop,
                authorization=self.source.authorization,
                renew=self.source.renew_authorization,
            ),
            events=self._events,
            pace=Pace(options.concurrency, stop=self._stop),
            prove_unchanged=self._vault_check_due,
            stored=self._stored,
            turns=self._turns,
            max_drop_percent=options.max_drop_percent,
            accept_drop=options.accept_drop,
            dry_run=options.dry_run,
        )

    def _collect(self, future: "Future[Result]", repository: Repository) -> None:
        entry = self._state.entries.get((repository.kind, repository.host_id))
        if future.cancelled():
            reason = f"not reached: {self._stop.why_nothing_begins}"
            self.ledger.leave(repository, entry, reason=reason)
            return
        try:
            self.ledger.add(repository, future.result())
        except (Interrupted, NotBegun, SessionExpired) as error:
            self.ledger.leave(repository, entry, reason=error.message)
        except DeadlineReached as error:
            self.ledger.cut(repository, entry, error, now=self._clock())

    def _say_what_was_not_done(self) -> None:
        cut_off, left = sorted(self.ledger.cut_off), sorted(self.ledger.not_reached)
        undone = [*cut_off, *left]
        if not undone:
            return
        problem = (
            f"the time was up before {len(undone)} repositories were done "
            f"(first {', '.join(undone[:5])}); the next run begins with them"
        )
        if cut_off:
            problem += (
                f", but for {', '.join(cut_off)}: what was under way for most of the time needs "
                "more --deadline-minutes"
            )
        self.ledger.be_late(problem)

    def _look_after_the_rest(self) -> None:
        """Check the chains of what was not worked on, or is empty: nothing else would notice.

        Only when all were looked at the vault counts as checked; otherwise the next run does it.
        """
        if not self._vault_check_due or self._dropped or self._options.dry_run:
            return
        shop, looked_at_all = self._workshop(), True
        for identity, entry in self._state.entries.items():
            if entry.record is None or (
                self.ledger.was_worked_on(identity) and not self.ledger.entry_now(entry).empty
            ):
                continue
            if not self._stop.may_begin:
                return
            try:
                found = chain_damage(entry, shop)
            except DeadlineReached:
                return
            except DestinationError as error:
                name = f"{self.source.identity.owner}/{entry.path}"
                self.ledger.problems.append(f"{name} could not be checked: {error.message}")
                looked_at_all = False
                continue
            self._damage.note_found(entry, found)
        self._vault_checked = looked_at_all

    def _export(self, selected: Sequence[Repository]) -> None:
        """Have projects exported in which anything happened since their last export."""
        options, source = self._options.exports, self.source
        if options is None or not isinstance(source, Exporter) or self._stop.interrupted:
            return
        try:
            last_exports = LastExports(
                self._destination,
                self._layout,
                reads=not self._options.dry_run,
                events=self._events,
                stop=self._stop,
                clock=self._clock,
            )
            lost = last_exports.compare_all(self.ledger, owner=source.identity.owner)
            due = due_exports(selected, self.ledger, lost=lost, unchanged=options.unchanged)
        except SessionExpired as error:
            self._stop.abandon(error)
            return
        except Interrupted:
            return
        except (DeadlineReached, DestinationError) as error:
            # Git is stored by now: its manifest must not fail for the sake of exports.
            self.ledger.problems.append(f"nothing was exported: {error.message}")
            return
        if self._options.dry_run:
            self._note(f"{len(due)} projects would be exported")
            return
        exports = Exports(
            source,
            self._destination,
            self._layout,
            options,
            limit=self._export_limit,
            events=self._events,
            stop=self._stop,
            clock=self._clock,
        )
        # Exports can take longer than everything before them.
        self._save_checkpoint()
        saved_at, left = time.monotonic(), []
        try:
            for one in exports.work(due):
                left += [] if note_export(self.ledger, one) else [one.repository.path]
                if time.monotonic() - saved_at >= CHECKPOINT_SECONDS:
                    self._save_checkpoint()
                    saved_at = time.monotonic()
        except SessionExpired as error:
            self._stop.abandon(error)
        except Interrupted:
            return
        if left and self._stop.abandoned is None and not self._stop.interrupted:
            self.ledger.problems.append(
                f"the time was up before {len(left)} exports were done "
                f"(first {', '.join(left[:5])}); the next run goes on with them"
            )
        if self.ledger.exports:
            self._note(f"{self.ledger.exports} exports of projects were stored")

    def _newest_of_others(self) -> dict[Identity, Entry]:
        def load(names: tuple[DocumentName, ...]) -> State:
            others = [name for name in names if name.snapshot_id != self._means.snapshot_id]
            if set(others) == set(self._seen_documents):
                return self._state
            # What was put there meanwhile may have been overwritten meanwhile.
            fresh = OriginalsDestination(self._destination)
            return load_state(fresh, self._layout, others, now=self._clock())

        self._state = with_documents(self._documents, self._layout, load)
        # In a new vault another source may have begun beside this one.
        require_same_source(self._state, self.source.identity)
        return dict(self._state.entries)

    def _publish(self) -> None:
        age = self._clock() - self._started_at
        # Beyond the window no reader would look for it; beyond the grace prune may have been here.
        most = min(timedelta(days=self._options.grace_days), WINDOW)
        if age > most:
            raise BackupError(
                f"the run is {age.days} days old, older than the {most.days} days in which runs "
                "take notice of each other (at most --grace-days): nothing was published",
                hint="run again; a longer grace or a --deadline-minutes avoids this",
            )
        name = DocumentName(self._means.snapshot_id)
        before, known = self._state.entries, self._state.forgotten
        others = self._newest_of_others()
        self._require_clock()
        self._drop_forgotten(unknown_to(known, self._state.forgotten))
        entries = self.ledger.entries(others, before=before)
        if self._options.lock_days:
            entries = self._renew_locks(entries)
        manifest = self._document("manifest", entries)
        key = self._layout.document(name)
        self._destination.put_if_absent(key, encode(manifest))
        self.manifest_uri = self._destination.uri(key)

    def _drop_forgotten(self, identities: frozenset[Identity]) -> None:
        """Take back what was made on top of what somebody had the vault forget meanwhile."""
        for path in self.ledger.drop(identities):
            self.ledger.problems.append(
                f"{self.source.identity.owner}/{path} was forgotten while this run was at work: "
                "the next one captures it anew"
            )

    def _renew_locks(self, entries: Sequence[Entry]) -> Sequence[Entry]:
        """Lock what the manifest names for longer, where the time that is left is short."""
        locks = Locks(self._destination, self._layout, days=self._options.lock_days)
        renewed = locks.renew(entries, now=self._clock(), stop=self._stop)
        locks.prove(renewed, snapshot_id=self._means.snapshot_id)
        for problem in locks.problems:
            self.ledger.problems.append(problem)
        if locks.renewed:
            self._note(f"the locks of {locks.renewed} repositories were renewed")
        return renewed

    def _save_checkpoint(self) -> None:
        """Store what is finished, where anything was stored since the last checkpoint."""
        stored = self.ledger.stored()
        if stored == self._stored_at_checkpoint or self._options.dry_run:
            return
        try:
            self._require_clock()
        except BackupError as error:
            # Whether the run fails is decided when it is about to publish.
            self._note(f"a checkpoint was left out: {error.message}")
            return
        self._checkpoints += 1
        name = DocumentName(self._means.snapshot_id, checkpoint=self._checkpoints)
        entries = self.ledger.entries_so_far(self._to_work_off, known=self._state.entries)
        document = self._document("checkpoint", entries)
        try:
            with self._stop.finishing():
                self._destination.put_if_absent(self._layout.document(name), encode(document))
        except (DeadlineReached, DestinationError, DocumentTooLarge) as error:
            # It would have saved work after a crash; the run itself can still end well.
            self._note(f"a checkpoint could not be stored: {error.message}")
        else:
            self._stored_at_checkpoint = stored

    def _document(
        self, kind: Literal["manifest", "checkpoint"], entries: Iterable[Entry]
    ) -> Manifest:
        options, now, identity = self._options, self._clock(), self.source.identity
        complete = kind == "manifest" and not self.ledger.left_undone
        return Manifest(
            format=1,
            document=kind,
            snapshot_id=self._means.snapshot_id,
            started_at=self._started_at,
            finished_at=now,
            version=backup.__version__,
            source=SourceLine(
                provider=identity.provider,
                host=identity.host,
                owner=identity.owner,
                location=identity.location,
                owner_id=identity.owner_id or None,
            ),
            complete=complete,
            result=self.ledger.result(),
            totals=self.ledger.totals(
                Totals(
                    listed=self.listed,
                    selected=self._selected,
                    # Without this document itself.
                    bytes_uploaded=self._destination.bytes_uploaded,
                    objects_written=self._destination.objects_written,
                    requests=self._counts.snapshot(),
                )
            ),
            store_behind_seconds=self._witnesses.store_behind_seconds,
            selection=selection_line(options.selection.resolved(is_local=self._is_local)),
            include=tuple(map(sound, options.include)),
            exclude=tuple(map(sound, options.exclude)),
            accepted=self._accepted,
            vault_checked_at=now
            if self._vault_checked and complete
            else self._state.vault_checked_at,
            merged=self._state.merged,
            forgotten=self._state.forgotten,
            problems=tuple(self.ledger.problems),
            unreadable=tuple(self.ledger.unreadable),
            entries=tuple(entries),
        )

    def _again(self, error: BackupError, seconds: float) -> None:
        self._events.note(f"{error.message}; again in {seconds:.0f} s")

    def _note(self, message: str) -> None:
        self.ledger.notes.append(message)
        self._events.note(message)


def _begin(repository: Repository, entry: Entry | None, shop: Workshop) -> Result:
    if not shop.means.stop.may_begin:
        raise NotBegun(f"not reached: {shop.means.stop.why_nothing_begins}")
    return back_up(repository, entry, shop)
