"""What a deadline ended: work that was tried, or what it had no time for.

The next run begins with what was not tried. So whoever took time of this one was tried, though it
came to nothing: a server that tells its refs by one byte a second would else come first every
night, and nobody after it.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from backup.errors import DeadlineReached, NotBegun, ServerSilent
from backup.stopping import Stop

# Most servers tell their refs within one.
_LONG_ASKING_SECONDS = 5.0
# After this share of a run's time a capture that does not end in time was only begun too late.
_LATE_SHARE = 0.5


@contextmanager
def asking(stop: Stop) -> Iterator[None]:
    """Tell a server that took the time of a run from one that there was no time to ask.

    Raises:
        NotBegun: the time was up as soon as it was asked.
        ServerSilent: it was up, and the server had had long enough.
    """
    began = stop.clock_seconds()
    try:
        yield
    except ServerSilent:
        raise
    except DeadlineReached as error:
        seconds = stop.clock_seconds() - began
        if seconds < _LONG_ASKING_SECONDS:
            message = "not reached: the time was up while it was asked for its refs"
            raise NotBegun(message) from error
        raise ServerSilent(
            f"its server had not sent all refs after {seconds:.0f} seconds, "
            "when the run's time was up"
        ) from error


@contextmanager
def capturing(stop: Stop) -> Iterator[None]:
    """Tell a capture that was begun late from one that the deadline is too short for.

    Raises:
        NotBegun: it was begun late.
    """
    share = stop.share_used
    try:
        yield
    except ServerSilent:
        raise
    except DeadlineReached as error:
        if share > _LATE_SHARE:
            raise NotBegun("not reached: it was begun too late to end in time") from error
        raise
