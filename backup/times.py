"""Times as servers write them."""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime


def http_time(text: str | None) -> datetime | None:
    """Read the date of a header; None where there is none, or it is none.

    Source: RFC 9110, section 5.6.7; what names no zone is in UTC.
    """
    try:
        moment = parsedate_to_datetime(text or "")
        return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
