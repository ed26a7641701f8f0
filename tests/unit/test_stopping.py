"""One flag ends a run: by a signal, or because the time is up."""

import subprocess
import sys
import threading
import time

import pytest

from backup.errors import DeadlineReached, ExitCode, Interrupted, SessionExpired
from backup.stopping import FINISHING_SECONDS, GRACE_SECONDS, Stop


class Clock:
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_without_a_deadline_the_time_is_never_up(clock: Clock) -> None:
    stop = Stop(monotonic=clock)
    clock.seconds += 10**9
    assert stop.may_begin
    assert not stop.out_of_time
    stop.check()


def test_before_the_deadline_work_may_begin_and_go_on(clock: Clock) -> None:
    stop = Stop(deadline_seconds=600, margin_seconds=60, monotonic=clock)
    clock.seconds += 539.9
    assert stop.may_begin
    stop.check()


def test_near_the_deadline_work_goes_on_and_none_begins(clock: Clock) -> None:
    stop = Stop(deadline_seconds=600, margin_seconds=60, monotonic=clock)
    clock.seconds += 540
    assert not stop.may_begin
    assert not stop.out_of_time
    stop.check()


def test_at_the_deadline_work_in_hand_ends(clock: Clock) -> None:
    stop = Stop(deadline_seconds=600, margin_seconds=60, monotonic=clock)
    clock.seconds += 600
    assert stop.out_of_time
    with pytest.raises(DeadlineReached) as caught:
        stop.check()
    assert caught.value.exit_code == ExitCode.PARTIAL


def test_what_a_store_is_asked_ends_some_seconds_after_the_deadline(clock: Clock) -> None:
    stop = Stop(deadline_seconds=600, monotonic=clock)
    clock.seconds += 600 + GRACE_SECONDS - 0.1
    stop.check_with_grace()
    clock.seconds += 0.2
    with pytest.raises(DeadlineReached):
        stop.check_with_grace()


@pytest.mark.parametrize("seconds", [0, 600, 5000])
def test_what_was_done_has_some_minutes_to_be_recorded(seconds: int, clock: Clock) -> None:
    stop = Stop(deadline_seconds=600, monotonic=clock)
    clock.seconds += seconds
    with stop.finishing():
        clock.seconds += max(0, 600 - seconds) + FINISHING_SECONDS - 0.1
        stop.check_with_grace()
        clock.seconds += 0.2
        with pytest.raises(DeadlineReached, match="could not be recorded"):
            stop.check_with_grace()
    with pytest.raises(DeadlineReached, match="is used up"):
        stop.check_with_grace()


def test_without_a_deadline_recording_has_no_end(clock: Clock) -> None:
    stop = Stop(monotonic=clock)
    clock.seconds += 1e6
    with stop.finishing():
        clock.seconds += 1e6
        stop.check_with_grace()
    stop.check_with_grace()


def test_an_interrupt_ends_work_and_lets_none_begin(clock: Clock) -> None:
    stop = Stop(deadline_seconds=600, monotonic=clock)
    stop.interrupt()
    assert stop.interrupted
    assert not stop.may_begin
    with pytest.raises(Interrupted) as caught:
        stop.check()
    assert caught.value.exit_code == ExitCode.INTERRUPTED


def test_an_interrupt_goes_before_the_deadline(clock: Clock) -> None:
    stop = Stop(deadline_seconds=0, monotonic=clock)
    stop.interrupt()
    with pytest.raises(Interrupted):
        stop.check()


def test_every_thread_sees_the_interrupt() -> None:
    stop = Stop()
    thread = threading.Thread(target=stop.interrupt)
    thread.start()
    thread.join()
    assert stop.interrupted


def test_a_run_that_is_given_up_tells_everybody_why() -> None:
    stop = Stop()
    stop.abandon(SessionExpired("the session is over", hint="make it longer"))
    stop.abandon(SessionExpired("another reason"))
    assert not stop.may_begin
    assert not stop.interrupted
    with pytest.raises(SessionExpired, match="the session is over") as caught:
        stop.check()
    assert caught.value.hint == "make it longer"
    assert stop.abandoned is not None


def test_a_pause_lasts_as_long_as_was_said() -> None:
    began = time.monotonic()
    Stop().sleep(0.05)
    assert time.monotonic() - began >= 0.05


def test_an_interrupt_ends_a_pause_at_once() -> None:
    stop = Stop()
    threading.Timer(0.05, stop.interrupt).start()
    began = time.monotonic()
    with pytest.raises(Interrupted):
        stop.sleep(60)
    assert time.monotonic() - began < 30


SIGNALS = """
import random, signal
from backup.errors import Interrupted
from backup.stopping import Stop

chance = random.Random(1)
for _ in range(3000):
    stop = Stop()
    signal.signal(signal.SIGALRM, lambda *_: stop.interrupt())
    signal.setitimer(signal.ITIMER_REAL, chance.uniform(1e-5, 3e-4))
    try:
        while True:
            stop.sleep(5e-6)
    except Interrupted:
        pass
"""


def test_a_signal_at_any_moment_of_a_pause_ends_it() -> None:
    """A handler runs between two steps of the main thread, also where that holds a lock."""
    done = subprocess.run([sys.executable, "-c", SIGNALS], timeout=120, check=False)
    assert done.returncode == 0


def test_a_pause_beyond_the_deadline_is_not_begun() -> None:
    with pytest.raises(DeadlineReached):
        Stop(deadline_seconds=1).sleep(2)


def test_why_nothing_begins_is_told_as_it_is() -> None:
    late = Stop(deadline_seconds=0)
    assert late.why_nothing_begins == "the time was up"
    late.abandon(SessionExpired("the credentials ended"))
    assert late.why_nothing_begins == "the run was given up: the credentials ended"
    late.interrupt()
    assert late.why_nothing_begins == "the run was interrupted"
