"""Asking a run to stop: by a signal, or because its time is up."""

import threading
import time
from collections.abc import Callable

from backup.errors import DeadlineReached, Interrupted


class Stop:
    """One flag that every thread of a run looks at. Safe to use from signal handlers.

    Args:
        deadline_seconds: from now until no capture may go on, or None for no limit.
        margin_seconds: before the deadline, how long no new work may begin.
        monotonic: the clock, in seconds.
    """

    def __init__(
        self,
        *,
        deadline_seconds: float | None = None,
        margin_seconds: float = 0.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._monotonic = monotonic
        self._interrupted = threading.Event()
        self._begin = monotonic()
        self._end = None if deadline_seconds is None else monotonic() + deadline_seconds
        self._margin_seconds = margin_seconds

    def interrupt(self) -> None:
        """Ask every thread to end what it does and drop it."""
        self._interrupted.set()

    @property
    def interrupted(self) -> bool:
        """Whether somebody asked."""
        return self._interrupted.is_set()

    @property
    def out_of_time(self) -> bool:
        """Whether the deadline has passed."""
        return self._end is not None and self._monotonic() >= self._end

    @property
    def share_used(self) -> float:
        """How much of the time given is used up: 0 at the start, 1 at the deadline."""
        if self._end is None:
            return 0.0
        return (self._monotonic() - self._begin) / max(self._end - self._begin, 1e-9)

    @property
    def may_begin(self) -> bool:
        """Whether new work may begin: nobody asked to stop and the deadline is not near."""
        if self.interrupted:
            return False
        return self._end is None or self._monotonic() < self._end - self._margin_seconds

    def check(self) -> None:
        """Raise Interrupted or DeadlineReached when work in hand must end now."""
        if self.interrupted:
            raise Interrupted("interrupted")
        if self.out_of_time:
            raise DeadlineReached("the time given to this run is used up")
