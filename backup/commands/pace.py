"""How much is done at once: fewer captures from a server that asks us to slow down."""

import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from backup.errors import DeadlineReached, NotBegun
from backup.stopping import Stop

_LOOK_SECONDS = 0.5


@dataclass(slots=True)
class _Server:
    """What one server allows now.

    Attributes:
        limit: how many captures of it may go on at once.
        under_way: how many do.
        undisturbed: how many ended well since the limit was last changed.
        resume_at: before then nothing is asked of it.
    """

    limit: int
    under_way: int = 0
    undisturbed: int = 0
    resume_at: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class _Ticket:
    """A place in the queue."""

    server: str


class Pace:
    """A number of captures at once that halves for a server that throttles, and grows again.

    A throttle of one server slows down none of the others. Safe to use from many threads.

    Args:
        captures: how many may go on at once, of all servers together.
        stop: ends every wait: with NotBegun, when the time is up.
        monotonic: the clock, in seconds.
    """

    def __init__(
        self, captures: int, *, stop: Stop, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._most = captures
        self._under_way = 0
        self._servers: defaultdict[str, _Server] = defaultdict(lambda: _Server(captures))
        self._waiting: deque[_Ticket] = deque()
        self._stop = stop
        self._monotonic = monotonic
        self._changed = threading.Condition()

    def limit(self, server: str) -> int:
        """Return how many captures of a server may go on at once now."""
        with self._changed:
            return self._servers[server].limit

    @contextmanager
    def slot(self, server: str) -> Iterator[None]:
        """Wait for room for one more capture of a server; give it back afterwards.

        First come, first served, but for those whose own server has no room.
        """
        ticket = _Ticket(server)
        with self._changed:
            self._waiting.append(ticket)
            try:
                while not self._is_next(ticket):
                    self._changed.wait(_LOOK_SECONDS)
                    with self._not_begun():
                        self._stop.check()
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()
            self._under_way += 1
            self._servers[server].under_way += 1
        try:
            yield
        except BaseException:
            self._give_back(server, undisturbed=False)
            raise
        self._give_back(server, undisturbed=True)

    def _is_next(self, ticket: _Ticket) -> bool:
        if self._under_way >= self._most:
            return False
        fitting = (
            other
            for other in self._waiting
            if (one := self._servers[other.server]).under_way < one.limit
        )
        return next(fitting, None) is ticket

    def wait(self, server: str) -> None:
        """Wait until the time that a server asked for is over."""
        with self._changed:
            left = self._servers[server].resume_at - self._monotonic()
        if left > 0:
            with self._not_begun():
                self._stop.sleep(left)

    def slow_down(self, server: str, seconds: float) -> None:
        """Halve a server's captures at once, and let nobody ask it anything for so many seconds."""
        with self._changed:
            one = self._servers[server]
            one.limit = max(1, one.limit // 2)
            one.undisturbed = 0
            one.resume_at = max(one.resume_at, self._monotonic() + seconds)

    @contextmanager
    def _not_begun(self) -> Iterator[None]:
        """Tell who waits in vain from who was cut off in its work."""
        try:
            yield
        except DeadlineReached as error:
            raise NotBegun("not reached: no time was left to begin a capture") from error

    def _give_back(self, server: str, *, undisturbed: bool) -> None:
        with self._changed:
            one = self._servers[server]
            self._under_way -= 1
            one.under_way -= 1
            one.undisturbed = one.undisturbed + 1 if undisturbed else 0
            if one.undisturbed >= 4 * one.limit and one.limit < self._most:
                one.limit += 1
                one.undisturbed = 0
            self._changed.notify_all()
