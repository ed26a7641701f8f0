"""The least rate at which a server must send what it was asked for.

A socket's time limit begins anew with each byte, so that one byte now and then would keep a run for
as long as the server likes. What is measured is what came while it was waited for: what a reader
does with it meanwhile takes no time of the server's.

Honest servers are silent for minutes, and at work for hours before the first byte of a pack, when
all they send is that they are still there. So the rate counts from the first byte on, over twice as
long as a server may be silent, and of a pack from its own first byte on.
"""

import time
from collections.abc import Callable

from backup import limits
from backup.errors import HostUnreachable, SourceError


class LeastRate:
    """Tells a transfer from one that has no end. Used by one thread.

    Args:
        named: what messages call the other side.
        window_seconds: of waiting, over which the rate is measured.
        clock: seconds that only grow.
    """

    def __init__(
        self,
        named: str,
        *,
        window_seconds: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._named = named
        self._window_seconds = window_seconds
        self._most_seconds: float | None = None
        self._clock = clock
        self._has_begun = self._is_prepared = False
        self._waited = self._waited_in_window = 0.0
        self._bytes = 0

    def limit(self, seconds: float) -> None:
        """Wait no longer for all of it, from the first read on."""
        self._most_seconds = seconds

    def prepare(self) -> None:
        """Measure no rate before `begin`: until then what comes says that more will come."""
        self._is_prepared = True
        self._most_seconds = limits.MOST_PREPARING_SECONDS

    def begin(self) -> None:
        """Measure from now on: what was prepared comes, as long as it needs."""
        self._is_prepared = False
        self._most_seconds = None

    def note(self, read: Callable[[], bytes]) -> bytes:
        """Return what is read, and look at how long that took; at the end nothing is too slow.

        Raises:
            HostUnreachable: it comes too slowly; it may come faster another time.
            SourceError: it takes too long.
        """
        began = self._clock()
        data = read()
        waited = self._clock() - began
        self._waited += waited
        if not data:
            return data
        if self._most_seconds is not None and self._waited >= self._most_seconds:
            what = "the pack did not begin" if self._is_prepared else "the answer was not whole"
            raise SourceError(f"{self._named}: {what} within {self._most_seconds:.0f} seconds")
        if not self._is_prepared:
            self._measure(len(data), waited)
        return data

    def _measure(self, size_bytes: int, waited: float) -> None:
        if not self._has_begun:
            # How long it may be silent is for others to say.
            self._has_begun, waited = True, 0.0
        self._waited_in_window += waited
        self._bytes += size_bytes
        if self._waited_in_window < self._window_seconds:
            return
        if self._bytes < limits.LEAST_BYTES_PER_SECOND * self._waited_in_window:
            raise HostUnreachable(
                f"{self._named}: {self._bytes} bytes came in {self._waited_in_window:.0f} seconds; "
                f"less than {limits.LEAST_BYTES_PER_SECOND} bytes a second are not waited for"
            )
        self._waited_in_window, self._bytes = 0.0, 0
