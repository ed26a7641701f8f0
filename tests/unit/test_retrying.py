"""What may pass is done again: how often, after which pause, and what ends it."""

import gc
import random
import weakref
from collections.abc import Callable

import pytest

from backup.commands.retrying import LONGEST_PAUSE_SECONDS, TRIES, repeat
from backup.errors import (
    AccessDenied,
    BackupError,
    HostUnreachable,
    IncompleteWrite,
    Interrupted,
    RateLimited,
    TruncatedPack,
)
from backup.stopping import Stop


class Clock(Stop):
    """A stop whose time passes by sleeping alone."""

    def __init__(self) -> None:
        self.now = 0.0
        self.slept: list[float] = []
        super().__init__(deadline_seconds=10_000, monotonic=lambda: self.now)

    def sleep(self, seconds: float) -> None:
        self.check()
        self.slept.append(seconds)
        self.now += seconds


def failing(*errors: BackupError) -> Callable[[], str]:
    left = list(errors)

    def do() -> str:
        if left:
            raise left.pop(0)
        return "done"

    return do


def heard() -> tuple[list[tuple[str, float]], Callable[[BackupError, float], None]]:
    told: list[tuple[str, float]] = []
    return told, lambda error, seconds: told.append((error.message, seconds))


def test_what_breaks_twice_and_then_works_is_done_and_both_failures_are_told() -> None:
    told, again = heard()
    clock = Clock()
    do = failing(HostUnreachable("reset"), TruncatedPack("broke off", received_bytes=7))
    assert repeat(do, tries=TRIES, stop=clock, again=again) == "done"
    assert [message for message, _ in told] == ["reset", "broke off"]
    assert [seconds for _, seconds in told] == clock.slept


def test_pauses_grow_and_differ() -> None:
    def pauses(seed: int) -> list[float]:
        clock = Clock()
        errors = [HostUnreachable("x")] * 3
        chance = random.Random(seed)
        repeat(failing(*errors), tries=4, stop=clock, again=lambda *_: None, pauses=chance)
        return clock.slept

    first, second, third = pauses(1)
    assert 0.5 <= first <= 1.5
    assert 2 <= second <= 6
    assert 8 <= third <= 24
    assert pauses(1) != pauses(2)


def test_the_last_failure_is_raised_when_it_was_tried_often_enough() -> None:
    errors = [IncompleteWrite(f"try {number}") for number in range(4)]
    with pytest.raises(IncompleteWrite, match="try 3"):
        repeat(failing(*errors), tries=4, stop=Clock(), again=lambda *_: None)


@pytest.mark.parametrize("error", [AccessDenied("no"), BackupError("no"), Interrupted("no")])
def test_what_cannot_pass_is_not_tried_again(error: BackupError) -> None:
    clock = Clock()
    with pytest.raises(type(error)):
        repeat(failing(error), tries=4, stop=clock, again=lambda *_: None)
    assert clock.slept == []


def test_a_bug_is_not_tried_again() -> None:
    def do() -> str:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        repeat(do, tries=4, stop=Clock(), again=lambda *_: None)


def test_a_server_is_given_the_time_that_it_asks_for() -> None:
    clock = Clock()
    do = failing(RateLimited("slowly", retry_after_seconds=40))
    repeat(do, tries=2, stop=clock, again=lambda *_: None)
    assert 40 <= clock.slept[0] <= 41


def test_a_server_that_asks_for_too_much_is_left_to_the_next_run() -> None:
    clock = Clock()
    error = RateLimited("tomorrow", retry_after_seconds=LONGEST_PAUSE_SECONDS + 1)
    with pytest.raises(RateLimited):
        repeat(failing(error), tries=4, stop=clock, again=lambda *_: None)
    assert clock.slept == []


def test_an_interrupt_ends_a_pause() -> None:
    stop = Stop()

    def again(error: BackupError, seconds: float) -> None:
        stop.interrupt()

    with pytest.raises(Interrupted):
        repeat(failing(HostUnreachable("x")), tries=4, stop=stop, again=again)


class Large:
    """Stands for a list of refs."""


def test_what_a_failed_try_held_is_let_go_at_once() -> None:
    held: list[weakref.ref[Large]] = []

    def do() -> str:
        large = Large()
        held.append(weakref.ref(large))
        try:
            int("no number")
        except ValueError as error:
            raise HostUnreachable("x") from error
        return "done"

    gc.disable()
    try:
        with pytest.raises(HostUnreachable):
            repeat(do, tries=2, stop=Clock(), again=lambda *_: None)
        assert [one() for one in held] == [None, None]
    finally:
        gc.enable()


def test_an_error_that_stands_in_its_own_context_ends() -> None:
    one, other = AccessDenied("one"), AccessDenied("other")
    one.__context__, other.__context__ = other, one
    with pytest.raises(AccessDenied, match="one"):
        repeat(failing(one), tries=2, stop=Clock(), again=lambda *_: None)
