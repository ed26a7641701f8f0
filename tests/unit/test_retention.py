"""Retention's windows over calendars worked out by hand."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone

from backup.retention import Rules, Snapshot, decide


def snapshot(text: str, *, complete: bool = True) -> Snapshot:
    moment = datetime.fromisoformat(text)
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return Snapshot(text, aware, complete)


def kept(rules: Rules, *texts: str) -> dict[str, str]:
    decisions = decide([snapshot(text) for text in texts], rules)
    return {one.snapshot.id: one.reason for one in decisions if one.keep}


def test_a_month_of_nights_becomes_days_weeks_and_months() -> None:
    nights = [
        f"{datetime(2026, 10, 1, 3, tzinfo=UTC) + timedelta(days=day):%Y-%m-%dT%H:%M}"
        for day in range(58)
    ]
    assert nights[-1] == "2026-11-27T03:00"
    assert kept(Rules(daily=3, weekly=3, monthly=2), *nights) == {
        "2026-10-31T03:00": "monthly 2026-10",
        "2026-11-15T03:00": "weekly 2026-W46",
        "2026-11-22T03:00": "weekly 2026-W47",
        "2026-11-25T03:00": "daily 2026-11-25",
        "2026-11-26T03:00": "daily 2026-11-26",
        "2026-11-27T03:00": (
            "the newest complete one, daily 2026-11-27, weekly 2026-W48, monthly 2026-11"
        ),
    }


def test_weeks_and_years_are_those_of_the_calendar() -> None:
    # 31 December 2024 lies in the first week of 2025.
    texts = ("2024-12-29T12:00", "2024-12-31T12:00", "2025-01-02T12:00")
    assert kept(Rules(weekly=2), *texts) == {
        "2024-12-29T12:00": "weekly 2024-W52",
        "2025-01-02T12:00": "the newest complete one, weekly 2025-W01",
    }
    assert kept(Rules(yearly=2), *texts) == {
        "2024-12-31T12:00": "yearly 2024",
        "2025-01-02T12:00": "the newest complete one, yearly 2025",
    }


def test_hours_are_those_of_utc_whatever_zone_a_time_is_in() -> None:
    east = timezone(timedelta(hours=5, minutes=45))
    first = datetime(2026, 3, 29, 1, 10, tzinfo=UTC)
    times = [first, first + timedelta(minutes=20), first + timedelta(minutes=60)]
    history = [Snapshot(str(n), time.astimezone(east), True) for n, time in enumerate(times)]
    alive = [one.snapshot.id for one in decide(history, Rules(hourly=2)) if one.keep]
    assert alive == ["1", "2"]


def test_gaps_do_not_use_windows_up() -> None:
    texts = ("2026-01-01T03:00", "2026-06-01T03:00", "2026-11-01T03:00")
    assert list(kept(Rules(daily=2), *texts)) == ["2026-06-01T03:00", "2026-11-01T03:00"]


def test_what_was_cut_short_is_kept_only_where_nothing_better_is() -> None:
    history = [
        snapshot("2026-11-25T03:00", complete=False),
        snapshot("2026-11-26T01:00"),
        snapshot("2026-11-26T03:00", complete=False),
        snapshot("2026-11-27T03:00", complete=False),
    ]
    found = {one.snapshot.id: (one.keep, one.reason) for one in decide(history, Rules(daily=2))}
    assert found == {
        "2026-11-25T03:00": (False, "no window keeps it"),
        "2026-11-26T01:00": (True, "the newest complete one, daily 2026-11-26"),
        "2026-11-26T03:00": (False, "no window keeps it"),
        "2026-11-27T03:00": (True, "daily 2026-11-27"),
    }


def test_what_the_store_dates_more_than_a_day_off_uses_up_no_day() -> None:
    weeks = [snapshot(f"2026-11-{day:02}T03:00") for day in (1, 8, 15, 22)]
    days = [snapshot(f"2026-11-{day:02}T23:00") for day in range(15, 22)]

    def kept_weeks(off_by: timedelta) -> list[Snapshot]:
        added = [replace(one, off_by=off_by) for one in days]
        decisions = decide([*weeks, *added], Rules(daily=2))
        return [one.snapshot for one in decisions if one.keep and one.snapshot in weeks]

    assert kept_weeks(timedelta(hours=24)) == weeks[-1:]
    assert kept_weeks(timedelta(hours=25)) == weeks[-2:]


def test_young_ones_are_kept_whatever_else() -> None:
    rules = Rules(since=datetime(2026, 11, 20, tzinfo=UTC), within="1w")
    texts = ("2026-11-19T23:59", "2026-11-20T00:00", "2026-11-20T12:00")
    assert kept(rules, *texts) == {
        "2026-11-20T00:00": "within 1w",
        "2026-11-20T12:00": "the newest complete one, within 1w",
    }


def test_what_has_merged_another_one_is_the_newest_whatever_their_clocks_say() -> None:
    ahead = snapshot("2026-11-25T03:13")
    right = replace(snapshot("2026-11-25T03:01"), merged=(ahead.id, "of a run that was pruned"))
    decisions = decide([ahead, right], Rules(daily=1))
    assert [(one.snapshot, one.keep) for one in decisions] == [(ahead, False), (right, True)]
    assert decisions[-1].reason == "the newest complete one, daily 2026-11-25"


def test_what_a_clock_that_was_ahead_took_for_tomorrow_is_a_day_of_its_own() -> None:
    before = snapshot("2026-11-24T03:00")
    ahead = snapshot("2026-11-26T00:05")
    right = replace(snapshot("2026-11-25T23:53"), merged=(ahead.id, before.id))

    def covers(one: Snapshot, other: Snapshot) -> bool:
        return (one, other) != (ahead, right)

    found = {
        one.snapshot.id: one.reason
        for one in decide([before, ahead, right], Rules(daily=1), covers)
        if one.keep
    }
    assert found == {
        ahead.id: "daily 2026-11-26",
        right.id: "the newest complete one, daily 2026-11-25",
    }


def test_who_claims_to_have_merged_many_nights_changes_the_day_of_none() -> None:
    nights = [snapshot(f"2026-11-{day:02}T03:00") for day in range(1, 21)]
    claims = tuple(one.id for one in nights)
    for text in ("2001-01-01T00:00", "2026-11-10T23:59", "2026-11-20T23:59"):
        forged = replace(snapshot(text), merged=claims)

        def covers(one: Snapshot, other: Snapshot, forged: Snapshot = forged) -> bool:
            return forged not in (one, other)

        decisions = decide([forged, *nights], Rules(daily=10), covers)
        kept_nights = [one.snapshot for one in decisions if one.keep and one.snapshot != forged]
        assert kept_nights == nights[10:]
