"""Times as servers write them, and what their clocks show."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from threading import Lock

# Linux has one that goes on while the machine sleeps; what it slept through is no wrong clock.
_SINCE_START = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


def http_time(text: str | None) -> datetime | None:
    """Read the date of a header; None where there is none, or it is none.

    Source: RFC 9110, section 5.6.7; what names no zone is in UTC.
    """
    try:
        moment = parsedate_to_datetime(text or "")
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


class ServerClock:
    """What a server's clock shows, by the dates of its answers. Safe to use from many threads.

    No request is made for it: between two answers the time is counted on from the last one, by a
    clock of this machine that nobody sets.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._last: tuple[datetime, float] | None = None

    def hear(self, headers: Mapping[str, str]) -> None:
        """Take the time from an answer's headers, whose names are in lower case or in any."""
        moment = http_time(headers.get("date"))
        if moment is None:
            return
        # A cache on the way says how old its copy is. Source: RFC 9111, section 5.1.
        age = headers.get("age", "")
        if age.isdecimal() and len(age) < 10:
            moment += timedelta(seconds=int(age))
        with self._lock:
            self._last = moment, time.clock_gettime(_SINCE_START)

    def now(self) -> datetime | None:
        """Return the time there; None before the first answer that had a date."""
        with self._lock:
            last = self._last
        if last is None:
            return None
        moment, heard_at = last
        return moment + timedelta(seconds=time.clock_gettime(_SINCE_START) - heard_at)
