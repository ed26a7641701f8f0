"""The simulated time: what the store's clock says, what this machine believes, and who asks."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, tzinfo
from threading import Lock
from typing import Any
from unittest.mock import patch

BEGIN = datetime(2026, 1, 1, 3, tzinfo=UTC)
_TICK = timedelta(milliseconds=20)


class SimulatedTime:
    """A clock that goes on a little whenever it is read, and jumps from night to night.

    Attributes:
        error: how far this machine's own clock is ahead of the true time.
    """

    def __init__(self) -> None:
        self._now = BEGIN
        self._lock = Lock()
        self.error = timedelta()

    def true(self) -> datetime:
        """Return the time that the store and the forge have."""
        with self._lock:
            self._now += _TICK
            return self._now

    def machine(self) -> datetime:
        """Return the time that this machine believes it is."""
        return self.true() + self.error

    def go_on(self, by: timedelta) -> None:
        with self._lock:
            self._now += by


@contextmanager
def restoring_at(clock: Callable[[], datetime]) -> Iterator[None]:
    """Let a restore ask the simulated clock: it takes none as an argument."""

    class Shown(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Any:
            return clock()

    with patch("backup.commands.restore.datetime", Shown):
        yield
