"""Dates as servers write them, and what is none."""

from datetime import UTC, datetime

import pytest

from backup.times import http_time

THEN = datetime(2026, 11, 1, 2, 30, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    [
        "Sun, 01 Nov 2026 02:30:00 GMT",
        "Sun, 01 Nov 2026 04:30:00 +0200",
        # It says that nobody knows the zone (RFC 5322, section 3.3).
        "Sun, 01 Nov 2026 02:30:00 -0000",
    ],
)
def test_a_date_is_a_moment_in_utc(text: str) -> None:
    assert http_time(text) == THEN


@pytest.mark.parametrize(
    "text",
    [None, "", "soon", "60", "Sun, 99 Nov 2026 02:30:00 GMT", "Fri, 31 Dec 9999 23:59:59 -2300"],
)
def test_what_is_no_date_is_none(text: str | None) -> None:
    assert http_time(text) is None
