"""Which documents a wrong clock has dated: what their times say against that of their object. Pure.

The store dates each object by its own clock when it is written, which is never before what the
document says of itself. One that is dated later than its object therefore proves that a clock was
wrong: the writer's, or the store's, where the writer has noted that the source agreed with it. The
other way round nothing is proved: a copy of a vault has newer objects.
"""

from datetime import datetime, timedelta

from backup.vault.documents import Header
from backup.vault.layout import DocumentName

# S3 itself refuses requests that are further off.
MOST_SKEW = timedelta(minutes=15)
# Two clocks, each of which is off by no more than that.
MOST_APART = 2 * MOST_SKEW
# What lies further in our own future has a wrong clock behind it, or we have one. More than two
# clocks that are each off by less than `MOST_SKEW` can make of it.
FUTURE_TOLERANCE = timedelta(hours=1)


def is_dated_after_object(name: DocumentName) -> bool:
    """Return whether a document's id begins with a later time than its object has."""
    return name.stored_at is not None and name.time - name.stored_at > MOST_SKEW


def is_suspect(name: DocumentName, *, now: datetime | None) -> bool:
    """Return whether a document's name alone speaks for a wrong clock; see `is_misdated`."""
    if name.stored_at is None:
        return now is not None and name.time > now + FUTURE_TOLERANCE
    return is_dated_after_object(name)


def is_misdated(name: DocumentName, header: Header, *, now: datetime | None) -> bool:
    """Return whether a wrong clock has dated a document.

    Args:
        name: as it was listed, with the time of its object.
        header: of the document.
        now: the time here; None asks the store's clock alone. It decides by itself only where the
            object's time is not known: what lies in our future and not in the store's speaks
            against our clock.
    """
    if name.stored_at is None:
        return is_suspect(name, now=now)
    latest = max(name.time, header.started_at, header.finished_at)
    ahead_seconds = (latest - name.stored_at - MOST_SKEW).total_seconds()
    if ahead_seconds <= 0:
        return False
    # The store's clock was behind, as the run says; unless our clock contradicts the run, too.
    is_future = now is not None and latest > now + FUTURE_TOLERANCE
    return is_future or ahead_seconds > header.store_behind_seconds
