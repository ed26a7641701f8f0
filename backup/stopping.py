"""Asking a run to stop: by a signal, or because its time is up."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from backup.errors import BackupError, DeadlineReached, Interrupted, ServerSilent

_LOOK_SECONDS = 0.25
# So long an honest server may think.
_SILENT_SECONDS = 30.0
# After the deadline: for the store to answer what is under way, and for what is written last.
GRACE_SECONDS = 10.0
FINISHING_SECONDS = 300.0


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
        # No threading.Event: that has a lock, and a signal handler may run inside it.
        self._is_interrupted = False
        self._begin = monotonic()
        self._end = None if deadline_seconds is None else monotonic() + deadline_seconds
        self._margin_seconds = margin_seconds
        self._finish_by: float | None = None
        self._abandoned: BackupError | None = None

    def interrupt(self) -> None:
        """Ask every thread to end what it does and drop it."""
        self._is_interrupted = True

    def abandon(self, error: BackupError) -> None:
        """Give the run up: whoever looks next gets this error."""
        self._abandoned = self._abandoned or error

    @property
    def abandoned(self) -> BackupError | None:
        """Why the run was given up, if it was."""
        return self._abandoned

    @property
    def interrupted(self) -> bool:
        """Whether somebody asked."""
        return self._is_interrupted

    @property
    def has_deadline(self) -> bool:
        """Whether there is one."""
        return self._end is not None

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
        if self.interrupted or self._abandoned is not None:
            return False
        return self._end is None or self._monotonic() < self._end - self._margin_seconds

    @property
    def why_nothing_begins(self) -> str:
        """Why no new work may begin, where that is so."""
        if self.interrupted:
            return "the run was interrupted"
        if self._abandoned is not None:
            return f"the run was given up: {self._abandoned.message}"
        return "the time was up"

    def check(self) -> None:
        """Raise Interrupted or DeadlineReached when work in hand must end now."""
        if self.interrupted:
            raise Interrupted("interrupted")
        if self._abandoned is not None:
            kind = type(self._abandoned)
            raise kind(self._abandoned.message, hint=self._abandoned.hint)
        if self.out_of_time:
            raise DeadlineReached("the time given to this run is used up")

    def check_with_grace(self) -> None:
        """Raise DeadlineReached when the deadline has passed by more than a grace.

        For a store's answers, without which what is done would be lost: `GRACE_SECONDS`, and
        within `finishing` as long as that has it.
        """
        if self._end is None:
            return
        now = self._monotonic()
        if self._finish_by is not None:
            if now >= self._finish_by:
                raise DeadlineReached(
                    "what was done could not be recorded within "
                    f"{FINISHING_SECONDS:.0f} seconds after the time given to this run"
                )
        elif now >= self._end + GRACE_SECONDS:
            raise DeadlineReached("the time given to this run is used up")

    @contextmanager
    def finishing(self) -> Iterator[None]:
        """Let what was done be recorded, also after the deadline: within `FINISHING_SECONDS`.

        They count from the deadline, or from now where that has passed already. Used by the main
        thread alone, when no work is under way or only work that obeys the deadline.
        """
        if self._end is not None:
            self._finish_by = max(self._end, self._monotonic()) + FINISHING_SECONDS
        try:
            yield
        finally:
            self._finish_by = None

    def clock_seconds(self) -> float:
        """Return the time by the clock of the deadline, for `check_while_waiting`."""
        return self._monotonic()

    def check_while_waiting(self, whom: str, *, since: float) -> None:
        """Raise as `check` does; where it was the server that let the time pass, say so.

        Args:
            whom: who sends nothing.
            since: when it was last heard, by `clock_seconds`.

        Raises:
            ServerSilent: the time is up, and nothing came for long.
        """
        silent_seconds = self._monotonic() - since
        if self.out_of_time and not self.interrupted and silent_seconds >= _SILENT_SECONDS:
            raise ServerSilent(
                f"{whom}: nothing had come for {silent_seconds:.0f} seconds when the time was up"
            )
        self.check()

    def sleep(self, seconds: float) -> None:
        """Pause. Raises as `check` does, as soon as there is reason to, or when the time is up."""
        wake_at = self._monotonic() + seconds
        if self._end is not None and wake_at > self._end:
            raise DeadlineReached("the time given to this run is used up before the next try")
        self.check()
        while (left := wake_at - self._monotonic()) > 0:
            time.sleep(min(left, _LOOK_SECONDS))
            self.check()
