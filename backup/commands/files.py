"""The files of Git LFS: whatever a repository's packs point to is stored once for its owner.

What each pack points to stands in a document beside its bundle. A file's id is the SHA-256 of its
content, and its key in the vault. That a file is in the vault gives no repository a claim to it:
each repository's own source is asked for what is new to it. What the source offers and the vault
has is not downloaded again. That a file is not to be had never keeps a repository from being
captured; it is noted, and asked for again (when, `backup.commands.missing_files` says).
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from threading import Condition, Lock

from backup.capture import FilesKept, Means, save_lfs_index
from backup.commands.hidden import hidden_words
from backup.commands.missing_files import (
    LONGEST_REASON,
    MOST_MISSES,
    OFFERED_MISS,
    OTHER_SIZE,
    Failure,
    Waiting,
    by_turns,
    hundreds,
    is_new,
    missing_lines,
    new_in_order,
    not_asked,
    shuffled,
)
from backup.commands.rebuilding import verified_pack
from backup.commands.retrying import TRIES, repeat
from backup.commands.stored_files import is_whole, read_index
from backup.errors import (
    AccessDenied,
    AuthenticationError,
    BackupError,
    DeadlineReached,
    FileMissing,
    IntegrityError,
    Interrupted,
    LinkExpired,
    ObjectNotFound,
    RepositoryMissing,
    SessionExpired,
    SourceError,
    TemporaryFolderError,
    WriteConflict,
    sound,
)
from backup.git.check import PackCheck
from backup.git.lfs import FileSource, Offer
from backup.git.pointers import NO_LOOK_ALIKES, Pointer, PointersFound
from backup.machine import limit_reached
from backup.model import Key, ObjectFormat
from backup.secret import foreign
from backup.stopping import Stop
from backup.vault.documents import BundleLine, Entry, LfsLine, LfsMissing, Record
from backup.vault.layout import lfs_key

# Small files are mostly waiting; of a large one parts are in memory, so these go one by one.
_SMALL_AT_ONCE = 4
_SMALL_BYTES = 8 << 20
_LOOK_SECONDS = 0.5
# Nothing is told of the other content: it may be anything that this machine or a server can read.
_OTHER_CONTENT = "the source has other content under its id"
_NO_ROOM = "the temporary folder (TMPDIR) has no room for a pack of {} bytes"
# Of an object in a pack's index, with the longer ids. Source: gitformat-pack(5).
_INDEXED_BYTES = 44
_CONDEMNED = (
    "nothing needed it for a while, and a prune may delete it; the next prune keeps it, and the "
    "run after that stores it"
)


@dataclass(slots=True)
class _Work:
    """What came of the files so far. Its numbers are added to by one thread.

    Attributes:
        there: ids of those that are in the vault.
        reached: what was asked for, or need not be.
        unasked: what was not asked for, since too much had come to nothing.
        misses: how much has.
    """

    failures: dict[Pointer, Failure] = field(default_factory=dict)
    there: set[str] = field(default_factory=set)
    reached: set[Pointer] = field(default_factory=set)
    unasked: set[Pointer] = field(default_factory=set)
    misses: int = 0
    stored: int = 0
    stored_bytes: int = 0
    retain_until: datetime | None = None
    lock_unknown: bool = False


@dataclass(frozen=True, slots=True)
class _Stored:
    """A file that is in the vault now.

    Attributes:
        retain_until: how long it is locked; None where nobody knows, or it is not.
        was_there: it was, before this repository came to it.
        stored_at: when, by the store's clock; None where that is not known.
    """

    size_bytes: int
    retain_until: datetime | None = None
    was_there: bool = False
    stored_at: datetime | None = None


@dataclass(slots=True)
class _Searched:
    """What a chain points to.

    Attributes:
        lines: of its bundles, with what was found out about them.
        pointers: of those bundles that had to be looked at.
        unsearched: why others could not be.
    """

    lines: list[BundleLine] = field(default_factory=list)
    pointers: list[Pointer] = field(default_factory=list)
    unsearched: list[str] = field(default_factory=list)


class Turns:
    """Has each file stored by one repository alone. Shared by an owner's repositories in a run.

    Args:
        condemned: asks the vault which files a prune may delete.
    """

    def __init__(self, condemned: Callable[[], frozenset[str]]) -> None:
        self._changed = Condition()
        self._ask_condemned = condemned
        self._condemned: frozenset[str] | BackupError | None = None
        self._under_way: set[str] = set()
        # Half as long as in hex; there may be many.
        self._stored: dict[bytes, datetime | None] = {}
        self._damaged: Mapping[str, datetime] = {}

    def distrust(self, damaged: Mapping[str, datetime]) -> None:
        """Take no file for a sound one that was found to be damaged, by its id, and when."""
        self._damaged = damaged

    def found_damaged_at(self, oid: str) -> datetime | None:
        """Return when a file was found to be damaged; None where nothing is known."""
        return self._damaged.get(oid)

    def is_condemned(self, oid: str) -> bool:
        """Tell whether a prune may delete a file. The vault is asked once, by whoever is first.

        Raises:
            BackupError: nobody can tell.
        """
        with self._changed:
            if self._condemned is None:
                try:
                    self._condemned = self._ask_condemned()
                except BackupError as error:
                    self._condemned = error
            if isinstance(self._condemned, BackupError):
                raise self._condemned
            return oid in self._condemned

    @contextmanager
    def turn(self, oid: str, stop: Stop) -> Iterator["_Stored | None"]:
        """Wait until nobody else stores the file, and give it where this run has stored it.

        Raises:
            BackupError: the run must stop.
        """
        with self._changed:
            while oid in self._under_way:
                self._changed.wait(_LOOK_SECONDS)
                stop.check()
            self._under_way.add(oid)
        try:
            yield self.stored(oid)
        finally:
            with self._changed:
                self._under_way.discard(oid)
                self._changed.notify_all()

    def stored(self, oid: str) -> "_Stored | None":
        """Give a file that this run has stored; None for any other."""
        with self._changed:
            if bytes.fromhex(oid) not in self._stored:
                return None
            return _Stored(0, self._stored[bytes.fromhex(oid)], was_there=True)

    def note(self, oid: str, stored: _Stored) -> None:
        """Note that a file is in the vault now."""
        with self._changed:
            self._stored[bytes.fromhex(oid)] = stored.retain_until


class FileKeeper:
    """Stores what one repository's chain points to. Used by one thread.

    Args:
        source: where its files come from.
        means: where to.
        turns: shared with the other repositories.
        also: files that are looked for whatever is captured: they are known to be damaged.
        entry: what the last run says of the repository; None where there was none.
        renew: gets other credentials where these were refused; false where there are none.
        again: hears of what failed and will be tried again, and of the seconds until then.
        transferred: hears of every so many bytes that went through; called from several threads.
    """

    def __init__(
        self,
        source: FileSource,
        means: Means,
        *,
        turns: Turns,
        also: tuple[Pointer, ...] = (),
        entry: Entry | None = None,
        renew: Callable[[], bool],
        again: Callable[[BackupError, float], None],
        transferred: Callable[[int], None],
    ) -> None:
        self._source = source
        self._means = means
        self._turns = turns
        self._also = also
        self._entry = entry
        self._renew = renew
        self._again = again
        self._transferred = transferred
        self._lock = Lock()
        self._given_up: Failure | None = None
        self._look_alikes = NO_LOOK_ALIKES

    def keep(
        self,
        chain: tuple[BundleLine, ...],
        *,
        previous: Record | None,
        goes_on: bool,
        object_format: ObjectFormat,
        found: Mapping[str, tuple[Pointer, ...]],
        also: Iterable[Pointer] = (),
    ) -> FilesKept:
        """Store all that a chain points to, that the source offers and that is not stored yet.

        What the record before promises is not asked for again while it is in the vault.
        Ends early, and says so, where the run must stop.

        Args:
            chain: of the record that is being made.
            previous: the record before, if there was one.
            goes_on: whether the chain goes on from that one's, and does not begin anew.
            object_format: of the repository's ids.
            found: what packs that were searched just now point to, by their bundles' keys.
            also: files that the record before promises and that are known not to be there.

        Raises:
            SessionExpired: nothing more can be stored.
        """
        known = previous.lfs if previous is not None else None
        lines = known.not_stored if known is not None else ()
        before = {Pointer(one.oid, one.size_bytes): one for one in lines}
        was_missing = {one.oid for one in lines}
        gone = frozenset(one.oid for one in also)
        # What was stored once stays promised: that it is gone is damage, and not the source's word.
        once = {one.oid for one in (*also, *self._also)}
        wanted = {*also, *self._also}
        done: set[str] = set()
        if previous is not None and known is not None and goes_on:
            wanted |= before.keys()
            done = {line.key for line in previous.chain if line.lfs_scanned}
        searched = self._search_chain(chain, done, found, object_format)
        wanted.update(searched.pointers)
        promised = gone
        if previous is not None and known is not None and {one.oid for one in wanted} - was_missing:
            named = self._named(previous.chain)
            wanted |= {one for one in named if one.oid in once}
            if any(one.oid not in was_missing | gone for one in wanted):
                promised |= {one.oid for one in named} - was_missing
        # A full points to everything: what of it is new nobody can tell.
        new = frozenset(searched.pointers if goes_on else ())
        now, tonight = self._means.clock(), self._means.snapshot_id
        waiting = Waiting(
            {one: line for one, line in before.items() if one in wanted and one.oid not in once},
            None if self._entry is None else self._entry.lfs_turn,
            looked_at=None if self._entry is None else self._entry.checked_at,
            now=now,
        )
        again = [one for one in wanted if not is_new(before.get(one)) and one.oid not in once]
        due = waiting.in_order((one for one in again if one in new), tonight)
        first = wanted.difference(again)
        lost_first = sorted(one for one in first if one.oid in once)
        never = new_in_order((one for one in first if one.oid not in once), before, tonight)
        work = _Work()
        self._store([*lost_first, *by_turns(never, due)], promised, work)
        later = frozenset(again).difference(due)
        if any(before[one].permanent and one.oid in work.there for one in due):
            # Where one is back others may be.
            self._store(shuffled(later, tonight), promised, work)
            later -= work.reached
        for one in (*later, *work.unasked):
            work.failures[one] = not_asked(before.get(one), is_due=one not in later)
        failures = {
            one: failure for one, failure in work.failures.items() if one.oid not in work.there
        }
        lost = {
            one.oid: self._why_lost(one.oid, failure)
            for one, failure in failures.items()
            if one.oid in once and not failure.condemned
        }
        failures = {one: failure for one, failure in failures.items() if one.oid not in lost}
        return FilesKept(
            chain=tuple(searched.lines),
            line=LfsLine(not_stored=missing_lines(failures, before, now=now)),
            wanted=len({one.oid for one in wanted}),
            known=frozenset(one for one, line in before.items() if _is_known(line)),
            unsearched=tuple(searched.unsearched),
            stored=work.stored,
            stored_bytes=work.stored_bytes,
            retain_until=work.retain_until,
            lock_unknown=work.lock_unknown,
            look_alikes=self._look_alikes,
            lost=lost,
            turn=waiting.next_turn(work.reached),
        )

    def _search_chain(
        self,
        chain: tuple[BundleLine, ...],
        done: Collection[str],
        found: Mapping[str, tuple[Pointer, ...]],
        object_format: ObjectFormat,
    ) -> _Searched:
        searched = _Searched()
        for line in chain:
            each = line
            if line.key not in done:
                each, pointers, problem = self._pointers_of(line, found, object_format)
                searched.pointers += pointers
                searched.unsearched += [problem] if problem else []
            searched.lines.append(each)
        return searched

    def _why_lost(self, oid: str, failure: Failure) -> str:
        means = self._means
        hidden = hidden_words(means.destination, means.layout, lfs_key(oid))
        return "; ".join(filter(None, (failure.reason, hidden)))

    # --- What packs point to ---

    def _pointers_of(
        self,
        line: BundleLine,
        found: Mapping[str, tuple[Pointer, ...]],
        object_format: ObjectFormat,
    ) -> tuple[BundleLine, tuple[Pointer, ...], str]:
        """Tell what one bundle points to, or why nobody knows; its line says that it was searched.

        Packs that were captured without being indexed are searched now, from the vault.
        """
        if line.key in found:
            return line, found[line.key], ""
        try:
            if line.lfs is not None:
                means = self._means
                listed = read_index(
                    means.destination, means.layout, line.lfs, sha256=line.lfs_sha256
                )
                return line, listed, ""
            if line.lfs_scanned:
                return line, (), ""
            result = self._search(line, object_format)
            self._look_alikes += result.look_alikes
            pointers = result.pointers
            searched, _ = save_lfs_index(pointers, line, self._means)
        except BackupError as error:
            if isinstance(error, SessionExpired) or limit_reached(error):
                raise
            return line, (), sound(error.message)
        return searched.model_copy(update={"lfs_scanned": True}), pointers, ""

    def _search(self, line: BundleLine, object_format: ObjectFormat) -> PointersFound:
        """Have git index a stored pack, and search it.

        Raises:
            BackupError: it cannot be read, or the temporary folder has no room for it.
        """
        means = self._means
        no_room = TemporaryFolderError(_NO_ROOM.format(line.size_bytes))
        if line.snapshot_id == means.snapshot_id:
            # It was tried while the pack arrived.
            raise TemporaryFolderError(line.check_detail or no_room.message)
        means.disk.require_usable()
        # What did not fit before would not now, and need not be downloaded to see that.
        needed_bytes = line.size_bytes + line.objects * _INDEXED_BYTES
        if needed_bytes > means.disk.free_bytes() - means.disk.reserve_bytes:
            raise no_room
        with (
            PackCheck(
                object_format=object_format, connected=False, disk=means.disk, stop=means.stop
            ) as check,
            check.blamed(),
        ):
            for piece in verified_pack(
                means.destination, means.layout, line, transferred=self._transferred
            ):
                means.stop.check()
                check.feed(piece)
            if check.finish() is not None:
                means.disk.require_usable()
                raise no_room
            return check.survey(()).found

    def _named(self, chain: tuple[BundleLine, ...]) -> frozenset[Pointer]:
        """Return what packs of an earlier record point to.

        What stands in a document that cannot be read is asked for again.
        """
        layout, destination = self._means.layout, self._means.destination

        def read(line: BundleLine) -> tuple[Pointer, ...]:
            if line.lfs is None:
                return ()
            try:
                return read_index(destination, layout, line.lfs, sha256=line.lfs_sha256)
            except SessionExpired:
                raise
            except BackupError:
                return ()

        with ThreadPoolExecutor(_SMALL_AT_ONCE) as pool:
            return frozenset().union(*pool.map(read, chain))

    # --- Storing ---

    def _store(self, pointers: list[Pointer], promised: frozenset[str], work: _Work) -> None:
        """Store files, in their order; of those that are promised, only what is gone, and first."""
        asked: list[Pointer] = []
        for some in hundreds([one for one in pointers if one.oid in promised]):
            asked += self._absent(some, work)
        asked += [one for one in pointers if one.oid not in promised]
        tried: set[str] = set()
        for some in hundreds(asked):
            left = [one for one in some if one.oid not in work.there]
            if left and work.misses >= MOST_MISSES and self._given_up is None:
                work.unasked.update(left)
                continue
            offers = self._offers(left)
            if self._given_up is None:
                work.reached.update(some)
            large = [one for one in left if one.size_bytes > _SMALL_BYTES]
            small = [one for one in left if one.size_bytes <= _SMALL_BYTES]
            for group, at_once in ((small, _SMALL_AT_ONCE), (large, 1)):
                for pointer, result in self._each(group, offers, at_once=at_once):
                    self._take(result, pointer, work)
                    if isinstance(result, Failure) and pointer.oid in tried:
                        work.misses += OTHER_SIZE
            tried.update(one.oid for one in left)

    def _take(self, result: "_Stored | Failure", pointer: Pointer, work: _Work) -> None:
        if isinstance(result, Failure):
            work.failures[pointer] = result
            work.misses += result.cost
            return
        work.there.add(pointer.oid)
        if not result.was_there:
            work.stored += 1
            work.stored_bytes += result.size_bytes
        if result.retain_until is None:
            work.lock_unknown = True
        else:
            known = work.retain_until or result.retain_until
            work.retain_until = min(known, result.retain_until)

    def _absent(self, pointers: list[Pointer], work: _Work) -> list[Pointer]:
        """Leave out what is stored already; of others, what cannot be looked for has failed."""
        absent = []
        with ThreadPoolExecutor(_SMALL_AT_ONCE) as pool:
            for pointer, found in zip(pointers, pool.map(self._look, pointers), strict=True):
                if found is None:
                    absent.append(pointer)
                else:
                    self._take(found, pointer, work)
        return absent

    def _look(self, pointer: Pointer) -> "_Stored | Failure | None":
        """Tell whether a file is in the vault; None where it is not."""
        destination, key = self._means.destination, self._key(lfs_key(pointer.oid))
        if (stored := self._turns.stored(pointer.oid)) is not None:
            return stored
        try:
            if self._turns.is_condemned(pointer.oid):
                return Failure(_CONDEMNED, condemned=True, cost=0)
        except IntegrityError as error:
            # It may be: nobody knows before the next prune, which must not wait for this run.
            return Failure(sound(error.message), condemned=True, cost=0)
        except SessionExpired:
            raise
        except BackupError as error:
            return Failure(sound(error.message))
        try:
            found = destination.stat(key)
            if found.size_bytes == pointer.size_bytes or is_whole(destination, key, pointer.oid):
                return _Stored(
                    found.size_bytes,
                    found.retain_until,
                    was_there=True,
                    stored_at=found.stored_at,
                )
        except ObjectNotFound:
            return None
        except SessionExpired:
            raise
        except BackupError as error:
            return Failure(sound(error.message))
        return self._damaged(pointer)

    def _look_for_new(self, pointer: Pointer) -> "_Stored | Failure | None":
        """Look as `_look` does for a file that this repository did not have before.

        Its size does not make a file sound that is known to be damaged. It is not read again to see
        that, unless it was put there since.
        """
        found = self._look(pointer)
        found_at = self._turns.found_damaged_at(pointer.oid)
        if found_at is None or not isinstance(found, _Stored):
            return found
        is_new = found.stored_at is not None and found.stored_at > found_at
        key = self._key(lfs_key(pointer.oid))
        if is_new and is_whole(self._means.destination, key, pointer.oid):
            return found
        return self._damaged(pointer)

    def _damaged(self, pointer: Pointer) -> Failure:
        uri = self._means.destination.uri(self._key(lfs_key(pointer.oid)))
        return Failure(f"{uri} is damaged: remove it, and the next run stores it anew")

    def _offers(self, pointers: list[Pointer]) -> "Mapping[str, Offer | SourceError | Failure]":
        """Ask for links to all of them; where there are none, nothing more is asked for."""
        if not pointers:
            return {}
        if self._given_up is None:
            try:
                return self._ask(pointers)
            except SessionExpired:
                raise
            except BackupError as error:
                self._fail(error, of_all=True)
        failure = self._given_up or Failure("not tried")
        return dict.fromkeys((one.oid for one in pointers), failure)

    def _ask(self, pointers: list[Pointer]) -> Mapping[str, Offer | SourceError]:
        def ask() -> Mapping[str, Offer | SourceError]:
            self._means.stop.check()
            try:
                return self._source.offers(pointers)
            except AuthenticationError:
                if not self._renew():
                    raise
            return self._source.offers(pointers)

        return repeat(ask, tries=TRIES, stop=self._means.stop, again=self._again)

    def _each(
        self,
        pointers: list[Pointer],
        offers: "Mapping[str, Offer | SourceError | Failure]",
        *,
        at_once: int,
    ) -> "Iterator[tuple[Pointer, _Stored | Failure]]":
        with ThreadPoolExecutor(at_once) as pool:
            results = pool.map(lambda one: self._fetch(one, offers[one.oid]), pointers)
            yield from zip(pointers, results, strict=True)

    def _fetch(
        self, pointer: Pointer, offer: "Offer | SourceError | Failure"
    ) -> "_Stored | Failure":
        """Store one file that its source offers; whatever keeps it from being stored is the result.

        The vault is looked at only then, so that nothing tells what it has of others.
        """
        if isinstance(offer, Failure):
            return offer
        if isinstance(offer, SourceError):
            return self._fail(offer, of_all=False)
        stop = self._means.stop
        try:
            with self._turns.turn(pointer.oid, stop) as there:
                known = there or self._look_for_new(pointer)
                if known is not None:
                    return self._prove(pointer, offer, known)
                if self._given_up is not None:
                    return self._given_up
                stored = self._download(pointer, offer)
                self._turns.note(pointer.oid, stored)
                return stored
        except SessionExpired:
            raise
        except BackupError as error:
            return replace(self._fail(error, of_all=False), cost=OFFERED_MISS)

    def _download(self, pointer: Pointer, offer: Offer) -> "_Stored":
        left, gone = [offer], 0

        def attempt() -> _Stored:
            nonlocal gone
            given = left.pop() if left else self._ask([pointer])[pointer.oid]
            if isinstance(given, Offer) and given.is_over:
                given = self._ask([pointer])[pointer.oid]
            if not isinstance(given, Offer):
                raise given
            try:
                return self._pour(pointer, given)
            except LinkExpired as error:
                gone += error.is_gone
                if gone > 1:
                    # Another link led to nothing, too.
                    raise FileMissing(error.message) from error
                raise

        return repeat(attempt, tries=TRIES, stop=self._means.stop, again=self._again)

    def _prove(
        self, pointer: Pointer, offer: Offer, known: "_Stored | Failure"
    ) -> "_Stored | Failure":
        """Have a source that cannot vouch for a file show that it has it, before it gets ours."""
        if not self._source.vouches:
            for _ in self._content(pointer, offer):
                pass
        return known

    def _fail(self, error: BackupError, *, of_all: bool) -> Failure:
        """Turn an error into what is said of a file; what hinders every file is not tried again."""
        if isinstance(error, Interrupted | DeadlineReached):
            failure = Failure(f"not reached: {error.message}", of_all=True)
        else:
            permanent = isinstance(error, FileMissing | RepositoryMissing) or (
                isinstance(error, LinkExpired) and error.is_gone
            )
            # Tried often enough: a server or store that is away is away for the next file, too.
            away = error.retryable and not isinstance(error, LinkExpired)
            away = away or isinstance(error, AccessDenied)
            reason = foreign(error.message, LONGEST_REASON)
            failure = Failure(reason, permanent=permanent, of_all=of_all or away)
        if failure.of_all:
            with self._lock:
                self._given_up = self._given_up or failure
        return failure

    def _pour(self, pointer: Pointer, offer: Offer) -> "_Stored":
        destination, key = self._means.destination, self._key(lfs_key(pointer.oid))
        size_bytes = 0
        with destination.writer(key) as writer:
            for piece in self._content(pointer, offer):
                size_bytes += len(piece)
                writer.write(piece)
                self._transferred(len(piece))
            try:
                stored = writer.commit(sha256=pointer.oid)
            except WriteConflict:
                # Another repository's, or another run's, may just have been stored.
                if not is_whole(destination, key, pointer.oid):
                    raise
                return _Stored(size_bytes, was_there=True)
        return _Stored(size_bytes, retain_until=stored.retain_until)

    def _content(self, pointer: Pointer, offer: Offer) -> Iterator[bytes]:
        """Yield a file's bytes; after the last of them it is the right one.

        Raises:
            SourceError: it is another one.
            BackupError: it cannot be read.
        """
        digest, size_bytes = hashlib.sha256(), 0
        for piece in self._source.read(pointer, offer):
            self._means.stop.check()
            digest.update(piece)
            size_bytes += len(piece)
            if size_bytes > pointer.size_bytes:
                raise SourceError(_OTHER_CONTENT)
            yield piece
        if digest.hexdigest() != pointer.oid:
            raise SourceError(_OTHER_CONTENT)

    def _key(self, relative: str) -> Key:
        return self._means.layout.key(relative)


def _is_known(line: LfsMissing) -> bool:
    return line.permanent or line.condemned
