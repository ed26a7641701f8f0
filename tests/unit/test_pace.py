"""Captures at once: never more than the limit; it halves for a throttle and grows back."""

import threading

import pytest

from backup.commands.pace import Pace
from backup.errors import DeadlineReached, Interrupted
from backup.stopping import Stop


def run_captures(pace: Pace, count: int) -> None:
    for _ in range(count):
        with pace.slot():
            pass


def test_no_more_captures_go_on_than_there_are_slots() -> None:
    pace, under_way, most = Pace(3, stop=Stop()), 0, 0
    lock, three = threading.Lock(), threading.Barrier(3, timeout=10)

    def work() -> None:
        nonlocal under_way, most
        with pace.slot():
            with lock:
                under_way += 1
                most = max(most, under_way)
            three.wait()
            with lock:
                under_way -= 1

    threads = [threading.Thread(target=work) for _ in range(9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert most == 3


def test_a_throttle_halves_the_captures_and_one_is_always_left() -> None:
    pace, limits = Pace(8, stop=Stop()), []
    for _ in range(5):
        pace.slow_down(0)
        limits.append(pace.limit)
    assert limits == [4, 2, 1, 1, 1]


def test_undisturbed_captures_give_the_slots_back_one_by_one() -> None:
    pace = Pace(4, stop=Stop())
    pace.slow_down(0)
    run_captures(pace, 7)
    assert pace.limit == 2
    run_captures(pace, 1)
    assert pace.limit == 3
    run_captures(pace, 12 + 16 + 99)
    assert pace.limit == 4


def test_a_failed_capture_begins_the_count_anew() -> None:
    pace = Pace(2, stop=Stop())
    pace.slow_down(0)
    run_captures(pace, 3)
    with pytest.raises(ValueError), pace.slot():
        raise ValueError
    run_captures(pace, 3)
    assert pace.limit == 1
    run_captures(pace, 1)
    assert pace.limit == 2


def test_everybody_waits_for_as_long_as_the_server_asked() -> None:
    now, slept = 0.0, []

    class Sleeper(Stop):
        def sleep(self, seconds: float) -> None:
            slept.append(seconds)

    pace = Pace(4, stop=Sleeper(), monotonic=lambda: now)
    pace.wait()
    pace.slow_down(30)
    pace.slow_down(10)
    pace.wait()
    now = 31
    pace.wait()
    assert slept == [30]


def test_an_interrupt_ends_the_wait_for_a_slot() -> None:
    stop = Stop()
    pace = Pace(1, stop=stop)
    with pace.slot():
        stop.interrupt()
        with pytest.raises(Interrupted), pace.slot():
            pass


def test_a_pause_that_would_pass_the_deadline_is_not_begun() -> None:
    pace = Pace(1, stop=Stop(deadline_seconds=5))
    pace.slow_down(10)
    with pytest.raises(DeadlineReached):
        pace.wait()
