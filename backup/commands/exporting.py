"""Project exports: archives that a forge makes of whole projects, one queue for all of a run.

Where the destination lets somebody else write, the forge puts the archive there itself. It never
says how that ended, and anyone who has seen the URL can put something there. So an archive counts
when the forge no longer works on it, it lies in the destination, and it unpacks whole: it is read
back to its end. Where the forge said nothing while it worked, what lies there must also have stayed
the same for a while. What a forge could not put (a PUT takes 5 GB, and not every forge reaches
every bucket) is asked for once more, downloaded and stored.
"""

import hashlib
import tarfile
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import chain

from backup.commands.archives import require_whole
from backup.commands.retrying import TRIES
from backup.errors import (
    AuthenticationError,
    BackupError,
    BrokenArchive,
    DeadlineReached,
    Interrupted,
    ObjectNotFound,
    RateLimited,
    SessionExpired,
)
from backup.model import Destination, Events, Exporter, Key, Reader, Repository, StoredObject
from backup.stopping import Stop
from backup.vault.documents_of_exports import ExportLine
from backup.vault.layout import Layout, export_key

CONTENT_TYPE = "application/gzip"
LIMITED_SECONDS = 60.0
# A PUT to S3 takes no more.
MOST_BY_URL_BYTES = 5 * 10**9
# A packed archive of nothing but the forge's version is longer.
LEAST_BYTES = 100
# A forge may say "none" until it begins; so long after it was asked it means that nothing comes.
BEGINS_WITHIN_SECONDS = 300.0
# What could be downloaded is still being put.
_PUT_WITHIN_SECONDS = 60.0
# Where a forge does not say that it works, what lies there stays the same for so long.
STABLE_SECONDS = 20.0
_FIRST_LOOK_SECONDS = 0.5
_LONGEST_LOOK_SECONDS = 60.0
_SHORTEST_SLEEP_SECONDS = 0.05
_HEAD_BYTES = 1 << 16
_PIECE_BYTES = 1 << 20
# A forge need not write down every activity at once, nor have our time.
_ACTIVITY_MARGIN = timedelta(hours=2)
_CLOCK_MARGIN = timedelta(minutes=10)
_GZIP = b"\x1f\x8b\x08"
_TAR_BLOCK = 512


@dataclass(frozen=True, slots=True)
class ExportOptions:
    """What is asked of exports.

    Attributes:
        limit: requests in any 60 seconds.
        unchanged: export also projects in which nothing happened since their last export.
    """

    limit: int = 6
    timeout_minutes: int = 60
    unchanged: bool = False


class Limit:
    """Never more than so many requests in any 60 seconds, as the server counts them.

    A request reaches the server some time before it is answered, and the next one some time after
    it is made. So 60 seconds are waited from an answer to a request.

    Args:
        requests: so many.
        monotonic: the clock, in seconds.
    """

    def __init__(self, requests: int, *, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._answered: deque[float] = deque(maxlen=requests)
        self._monotonic = monotonic

    def seconds_left(self) -> float:
        """Tell how long the next request must wait."""
        if len(self._answered) < (self._answered.maxlen or 0):
            return 0.0
        return max(0.0, self._answered[0] + LIMITED_SECONDS - self._monotonic())

    def answered(self) -> None:
        """Note that a request was answered, whatever the answer was."""
        self._answered.append(self._monotonic())


@dataclass(frozen=True, slots=True)
class Exported:
    """What came of one project's export.

    Attributes:
        line: what its entry says from now on; without `stored_at` it is still being made. None
            where nothing new is known.
        problem: why there is none; empty where there is one, or the time was up.
    """

    repository: Repository
    line: ExportLine | None = None
    problem: str = ""


@dataclass(slots=True)
class _Export:
    """A project on its way; seconds are those of the monotonic clock.

    Attributes:
        key: where it is to lie, relative to the root.
        is_direct: the forge was given a URL to put it there.
        is_asked: it was asked for; False once more when it must be asked for without a URL.
        failed_once: the forge could not put it.
        was_begun: the forge said that it works on it.
        ready_since: since when it could be downloaded; None if it cannot.
        tries: requests that failed, one after another.
        is_left_over: a run before this one asked for it.
        seen: what lies at its key, by `_mark`; since when it is the same.
        fault: why what lies there does not count; empty until it was read.
    """

    repository: Repository
    key: Key
    requested_at: datetime
    asked_since: float
    look_at: float
    pause: float = _FIRST_LOOK_SECONDS
    is_direct: bool = False
    is_asked: bool = False
    failed_once: bool = False
    was_begun: bool = False
    ready_since: float | None = None
    tries: int = 0
    is_left_over: bool = False
    seen: tuple[object, ...] = ()
    seen_since: float = 0.0
    fault: str = ""

    @property
    def may_count(self) -> bool:
        """Whether something lies at its key that may turn out to be the export."""
        return bool(self.seen) and not self.fault

    @property
    def name(self) -> str:
        return f"{self.repository.owner}/{self.repository.path}"


def is_due(
    repository: Repository,
    last: ExportLine | None,
    *,
    captured_at: datetime | None,
    unchanged: bool,
) -> bool:
    """Tell whether a project must be exported.

    Args:
        repository: as it is listed.
        last: its last export that is still there.
        captured_at: when anything of its git repositories was last stored.
        unchanged: export it whether or not anything happened since the last time.
    """
    if unchanged or last is None or last.stored_at is None or repository.active_at is None:
        return True
    if captured_at is not None and captured_at > last.requested_at:
        return True
    return repository.active_at > last.requested_at - _ACTIVITY_MARGIN


class Exports:
    """The queue of one owner's projects. Used from the run's main thread.

    Args:
        exporter: the source, which makes them.
        destination: where they are to lie.
        layout: of the owner's root.
        options: what is asked for.
        limit: shared by all owners of a run.
        clock: the time that keys and entries have.
        monotonic: what is waited by.
    """

    def __init__(
        self,
        exporter: Exporter,
        destination: Destination,
        layout: Layout,
        options: ExportOptions,
        *,
        limit: Limit,
        events: Events,
        stop: Stop,
        clock: Callable[[], datetime],
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._exporter = exporter
        self._destination = destination
        self._layout = layout
        self._limit = limit
        self._events = events
        self._stop = stop
        self._clock = clock
        self._monotonic = monotonic
        self._timeout_seconds = options.timeout_minutes * 60.0
        self._to_ask: deque[_Export] = deque()
        self._waiting: list[_Export] = []
        self._ask_at = 0.0
        # What could not be put once, though it is small enough, will not be put the next time.
        self._can_put = True
        # Why nothing more is asked for, and since when the server asks to wait.
        self._refused: BackupError | None = None
        self._limited_since: float | None = None

    def work(self, projects: Iterable[tuple[Repository, ExportLine | None]]) -> Iterator[Exported]:
        """Have every project exported, and yield what came of each as soon as it is known.

        When the time is up, what is still being made comes with a line that says so, and what was
        not asked for with nothing.

        Args:
            projects: each with the export that an earlier run asked for and did not see arrive.

        Raises:
            Interrupted: somebody asked to stop.
            SessionExpired: the destination is closed to this run.
        """
        for repository, pending in projects:
            self._add(repository, pending)
        with suppress(DeadlineReached):
            while (self._to_ask or self._waiting) and self._stop.may_begin:
                yield from self._ask_next()
                yield from self._look_around()
                self._sleep()
        if self._stop.interrupted:
            raise Interrupted("interrupted")
        for one in self._waiting:
            yield Exported(one.repository, _pending(one))
        for one in self._to_ask:
            yield Exported(one.repository)

    def _add(self, repository: Repository, pending: ExportLine | None) -> None:
        now, monotonic = self._clock(), self._monotonic()
        key, requested_at = export_key(repository.path, now), now
        waited, is_asked = 0.0, False
        if pending is not None:
            # The run before had no time to wait for it.
            key, requested_at, is_asked = Key(pending.key), pending.requested_at, True
            waited = max(0.0, (now - pending.requested_at).total_seconds())
        one = _Export(
            repository,
            key,
            requested_at,
            asked_since=monotonic - waited,
            look_at=monotonic,
            is_direct=is_asked,
            is_asked=is_asked,
            is_left_over=is_asked,
        )
        (self._waiting if is_asked else self._to_ask).append(one)

    def _sleep(self) -> None:
        if not (self._to_ask or self._waiting):
            return
        now = self._monotonic()
        waits = [one.look_at - now for one in self._waiting]
        if self._to_ask:
            waits.append(max(self._limit.seconds_left(), self._ask_at - now))
        self._stop.sleep(max(min(waits), _SHORTEST_SLEEP_SECONDS))

    # --- Asking ---

    def _ask_next(self) -> Iterator[Exported]:
        """Ask for as many as may be asked for now."""
        while self._to_ask and self._stop.may_begin:
            if self._refused is not None:
                yield _not_asked_for(self._to_ask.popleft(), self._refused)
                continue
            if self._limit.seconds_left() > 0 or self._ask_at > self._monotonic():
                return
            one = self._to_ask.popleft()
            try:
                self._ask(one)
            except (SessionExpired, Interrupted):
                raise
            except DeadlineReached:
                # The next run asks for it.
                self._to_ask.appendleft(one)
                raise
            except BackupError as error:
                if (done := self._not_asked(one, error)) is not None:
                    yield done
            else:
                self._limited_since = None
                self._events.capturing(one.name, "export", "asked for")
                self._waiting.append(one)

    def _ask(self, one: _Export) -> None:
        one.requested_at, one.asked_since = self._clock(), self._monotonic()
        one.key = export_key(one.repository.path, one.requested_at)
        one.pause, one.look_at = _FIRST_LOOK_SECONDS, one.asked_since + _FIRST_LOOK_SECONDS
        one.was_begun, one.ready_since = False, None
        one.seen, one.fault = (), ""
        url = None
        if self._can_put and not one.failed_once:
            url = self._destination.upload_url(
                self._layout.key(one.key),
                content_type=CONTENT_TYPE,
                seconds=int(self._timeout_seconds),
            )
        one.is_direct, one.is_asked, one.is_left_over = url is not None, True, False
        try:
            self._exporter.ask_for_export(one.repository.host_id, upload_url=url)
        finally:
            self._limit.answered()

    def _not_asked(self, one: _Export, error: BackupError) -> Exported | None:
        """Decide what follows when a project could not be asked for; None for another try."""
        if isinstance(error, AuthenticationError) and _concerns_all(error):
            self._refused = error
        if isinstance(error, RateLimited):
            now = self._monotonic()
            self._limited_since = now if self._limited_since is None else self._limited_since
            if now - self._limited_since >= self._timeout_seconds:
                # Somebody else uses up the limit, or it is none that time helps against.
                self._refused = error
                return _given_up(one, error)
        one.tries += not isinstance(error, RateLimited)
        if not error.retryable or one.tries >= TRIES:
            return _given_up(one, error)
        asked = getattr(error, "retry_after_seconds", None)
        seconds = LIMITED_SECONDS if asked is None else asked
        self._ask_at = self._monotonic() + seconds
        self._to_ask.appendleft(one)
        self._events.note(f"{one.name}: {error.message}; asked for again in {seconds:.0f} s")
        return None

    # --- Looking after what was asked for ---

    def _look_around(self) -> Iterator[Exported]:
        for one in [*self._waiting]:
            if one.look_at > self._monotonic():
                continue
            done = self._look_and_judge(one)
            if done is not None:
                self._waiting.remove(one)
                self._events.ended(one.name)
                yield done
            elif not one.is_asked:
                self._waiting.remove(one)
                self._to_ask.appendleft(one)

    def _look_and_judge(self, one: _Export) -> Exported | None:
        """Look after an export; None as long as it may still come."""
        pause = one.pause = min(one.pause * 2, _LONGEST_LOOK_SECONDS)
        try:
            done = self._look(one)
            one.tries = 0
        except (SessionExpired, Interrupted, DeadlineReached):
            raise
        except BackupError as error:
            one.tries += not isinstance(error, RateLimited)
            if not error.retryable or one.tries >= TRIES:
                return _given_up(one, error)
            done, pause = None, getattr(error, "retry_after_seconds", None) or pause
        now = self._monotonic()
        one.look_at = now + pause
        is_late = one.is_asked and now - one.asked_since >= self._timeout_seconds
        if done is None and is_late and not one.may_count:
            return self._did_not_arrive(one)
        return done

    def _did_not_arrive(self, one: _Export) -> Exported | None:
        if one.is_left_over:
            one.is_asked = False
            return None
        problem = f"its export did not arrive within {self._timeout_seconds / 60:.0f} minutes"
        if one.fault:
            problem += f"; what lies in its place is no export: {one.fault}"
        return Exported(one.repository, problem=problem)

    def _look(self, one: _Export) -> Exported | None:
        # Asked first: what lies there once the forge is done was put by the time it said so.
        state = self._exporter.export_state(one.repository.host_id)
        if state == "under way":
            # Whatever lies there by now is not what the forge still makes.
            one.was_begun, one.ready_since = True, None
            one.seen, one.fault = (), ""
            return None
        if one.is_direct:
            done = self._in_destination(one)
            if done is not None or one.may_count:
                return done
        now = self._monotonic()
        match state:
            case "ready":
                one.ready_since = now if one.ready_since is None else one.ready_since
                if not one.is_direct or now - one.ready_since >= _PUT_WITHIN_SECONDS:
                    return self._download(one)
            case "none" if one.was_begun or now - one.asked_since >= BEGINS_WITHIN_SECONDS:
                return self._came_to_nothing(one)
        return None

    def _came_to_nothing(self, one: _Export) -> Exported | None:
        if one.is_left_over:
            one.is_asked = False
            return None
        if not one.is_direct:
            return Exported(one.repository, problem="the forge was asked for it and made no export")
        self._events.note(f"{one.name}: the forge could not put its export; it will be downloaded")
        one.failed_once, one.is_asked = True, False
        return None

    def _in_destination(self, one: _Export) -> Exported | None:
        """Judge what lies at an export's key; None while nothing lies there that counts."""
        stored = self._find(one)
        if stored is None or one.fault:
            return None
        if not one.was_begun and self._monotonic() - one.seen_since < STABLE_SECONDS:
            return None
        before, fault, sha256 = one.seen, "", ""
        try:
            sha256 = self._read_back(one, stored)
        except BrokenArchive as error:
            fault = error.message
        if self._find(one) is None or one.seen != before:
            # Something else was put there while it was read.
            return None
        if not fault:
            return Exported(one.repository, self._line(one, stored, sha256=sha256))
        one.fault = fault
        if not one.was_begun:
            # The forge may not have begun yet.
            return None
        return Exported(one.repository, problem=f"what the forge put is no export: {fault}")

    def _find(self, one: _Export) -> StoredObject | None:
        """Look what lies at an export's key, and note since when it is the same."""
        try:
            stored = self._destination.stat(self._layout.key(one.key))
        except ObjectNotFound:
            one.seen, one.fault = (), ""
            return None
        if (mark := _mark(stored)) != one.seen:
            one.seen, one.seen_since, one.fault = mark, self._monotonic(), ""
        return stored

    def _read_back(self, one: _Export, stored: StoredObject) -> str:
        return read_back(
            self._destination,
            stored,
            stop=self._stop,
            transferred=lambda size: self._events.transferred(one.name, size),
        )

    def _download(self, one: _Export) -> Exported | None:
        """Store what is ready; None where it is an export that was made before."""
        pieces = self._exporter.download_export(one.repository.host_id)
        head = _head_of(pieces)
        if problem := _why_no_archive(head):
            return Exported(one.repository, problem=f"what the forge gives is no export: {problem}")
        packed_at = None if one.was_begun else _packed_at(head)
        if packed_at is not None and packed_at < one.requested_at - _CLOCK_MARGIN:
            return None
        if one.seen:
            # What lies there is no export, and a key is written once.
            one.key = export_key(one.repository.path, self._clock())
        key, digest = self._layout.key(one.key), hashlib.sha256()
        with self._destination.writer(key) as writer:

            def passing() -> Iterator[bytes]:
                for piece in chain((head,), pieces):
                    self._stop.check()
                    digest.update(piece)
                    writer.write(piece)
                    self._events.transferred(one.name, len(piece))
                    yield piece

            try:
                require_whole(passing())
            except BrokenArchive as error:
                why = f"what the forge gives is no export: {error.message}"
                return Exported(one.repository, problem=why)
            written = writer.commit(sha256=digest.hexdigest())
        # The answer to a write does not say when it was.
        stored = replace(written, stored_at=self._destination.stat(key).stored_at)
        if (one.is_direct or one.failed_once) and stored.size_bytes <= MOST_BY_URL_BYTES:
            # It was small enough to be put.
            if self._can_put:
                self._events.note("the forge does not reach the bucket; exports are downloaded")
            self._can_put = False
        return Exported(one.repository, self._line(one, stored, sha256=digest.hexdigest()))

    def _line(self, one: _Export, stored: StoredObject, *, sha256: str) -> ExportLine:
        return stored_line(_pending(one), stored, sha256=sha256, now=self._clock())


def stored_line(
    line: ExportLine, stored: StoredObject, *, sha256: str, now: datetime
) -> ExportLine:
    """Note what lies at an export's key, after it was read to its end."""
    written_at = stored.stored_at
    return line.model_copy(
        update={
            "stored_at": now,
            "size_bytes": stored.size_bytes,
            "version_id": stored.version_id,
            "sha256": sha256,
            # Stores do not agree with themselves on less than a second.
            "written_at": None if written_at is None else written_at.replace(microsecond=0),
            "loss": None,
        }
    )


def read_back(
    destination: Destination,
    stored: StoredObject,
    *,
    stop: Stop,
    transferred: Callable[[int], None],
) -> str:
    """Read an export to its end and prove that it is whole.

    One GET, and as many bytes as it has; nothing of it is kept.

    Returns:
        Its SHA-256.

    Raises:
        BrokenArchive: it is not whole.
        DestinationError: it could not be read.
    """
    digest = hashlib.sha256()

    def passing(reader: Reader) -> Iterator[bytes]:
        while piece := reader.read(_PIECE_BYTES):
            stop.check()
            digest.update(piece)
            transferred(len(piece))
            yield piece

    if stored.size_bytes < LEAST_BYTES:
        raise BrokenArchive(f"it has {stored.size_bytes} bytes")
    with destination.open(stored.key, version=stored.version_id) as reader:
        require_whole(passing(reader))
    return digest.hexdigest()


def _mark(stored: StoredObject) -> tuple[object, ...]:
    """Return what tells an object from another that is put in its place."""
    return stored.size_bytes, stored.version_id, stored.stored_at


def _pending(one: _Export) -> ExportLine:
    return ExportLine(key=one.key, requested_at=one.requested_at)


def _given_up(one: _Export, error: BackupError) -> Exported:
    hint = f" ({error.hint})" if error.hint else ""
    return Exported(one.repository, problem=f"it was not exported: {error.message}{hint}")


def _not_asked_for(one: _Export, error: BackupError) -> Exported:
    """Say why a project was not asked for, without taking another project's refusal for its own."""
    hint = f" ({error.hint})" if error.hint else ""
    why = f"another project's export was refused for a reason that concerns all: {error.message}"
    return Exported(one.repository, problem=f"it was not asked for, since {why}{hint}")


def _concerns_all(error: AuthenticationError) -> bool:
    # What a token itself is refused, it is refused for every project (RFC 6750, section 3.1).
    return "(401)" in error.message or "insufficient_scope" in error.message


def _head_of(pieces: Iterator[bytes]) -> bytes:
    head = bytearray()
    while len(head) < _HEAD_BYTES and (piece := next(pieces, None)) is not None:
        head += piece
    return bytes(head)


def _why_no_archive(head: bytes) -> str:
    """Tell why what begins so is no packed archive; empty if it is one."""
    if len(head) < LEAST_BYTES:
        return f"it has {len(head)} bytes"
    return "" if head.startswith(_GZIP) else "it does not begin as gzip does"


def _packed_at(head: bytes) -> datetime | None:
    """Tell when the first member of an archive was made; None where it does not say."""
    try:
        block = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16).decompress(head, _TAR_BLOCK)
        member = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
        return datetime.fromtimestamp(member.mtime, UTC) if member.mtime else None
    except (zlib.error, tarfile.TarError, ValueError, OverflowError, OSError):
        return None
