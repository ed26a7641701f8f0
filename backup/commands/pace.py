"""How much is done at once: fewer captures when a server asks us to slow down."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from backup.errors import DeadlineReached, NotBegun
from backup.stopping import Stop

_LOOK_SECONDS = 0.5


class Pace:
    """A number of captures at once that halves when a server throttles, and grows again.

    Safe to use from many threads.

    Args:
        captures: how many may go on at once.
        stop: ends every wait: with NotBegun, when the time is up.
        monotonic: the clock, in seconds.
    """

    def __init__(
        self, captures: int, *, stop: Stop, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._most = captures
        self._limit = captures
        self._under_way = 0
        self._waiting: deque[object] = deque()
        self._undisturbed = 0
        self._resume_at = 0.0
        self._stop = stop
        self._monotonic = monotonic
        self._changed = threading.Condition()

    @property
    def limit(self) -> int:
        """How many captures may go on at once now."""
        return self._limit

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Wait for room for one more capture, first come first served; give it back afterwards."""
        ticket = object()
        with self._changed:
            self._waiting.append(ticket)
            try:
                while self._waiting[0] is not ticket or self._under_way >= self._limit:
                    self._changed.wait(_LOOK_SECONDS)
                    with self._not_begun():
                        self._stop.check()
            finally:
                self._waiting.remove(ticket)
                self._changed.notify_all()
            self._under_way += 1
        try:
            yield
        except BaseException:
            self._give_back(undisturbed=False)
            raise
        self._give_back(undisturbed=True)

    def wait(self) -> None:
        """Wait until the time that a server asked for is over."""
        left = self._resume_at - self._monotonic()
        if left > 0:
            with self._not_begun():
                self._stop.sleep(left)

    def slow_down(self, seconds: float) -> None:
        """Halve the captures at once, and let nobody ask anything for so many seconds."""
        with self._changed:
            self._limit = max(1, self._limit // 2)
            self._undisturbed = 0
            self._resume_at = max(self._resume_at, self._monotonic() + seconds)

    @contextmanager
    def _not_begun(self) -> Iterator[None]:
        """Tell who waits in vain from who was cut off in its work."""
        try:
            yield
        except DeadlineReached as error:
            raise NotBegun("not reached: no time was left to begin a capture") from error

    def _give_back(self, *, undisturbed: bool) -> None:
        with self._changed:
            self._under_way -= 1
            self._undisturbed = self._undisturbed + 1 if undisturbed else 0
            if self._undisturbed >= 4 * self._limit and self._limit < self._most:
                self._limit += 1
                self._undisturbed = 0
            self._changed.notify_all()
