"""Captures at once: never more than the limit; it halves for a throttle and grows back."""

import threading

import pytest

from backup.commands.pace import Pace
from backup.commands.remotes import server_of
from backup.errors import DeadlineReached, Interrupted
from backup.model import Repository
from backup.stopping import Stop

HERE, THERE = "https://git.example:443", "https://other.example:443"


def run_captures(pace: Pace, count: int) -> None:
    for _ in range(count):
        with pace.slot(HERE):
            pass


def test_no_more_captures_go_on_than_there_are_slots() -> None:
    pace, under_way, most = Pace(3, stop=Stop()), 0, 0
    lock, three = threading.Lock(), threading.Barrier(3, timeout=10)

    def work() -> None:
        nonlocal under_way, most
        with pace.slot(HERE):
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
        pace.slow_down(HERE, 0)
        limits.append(pace.limit(HERE))
    assert limits == [4, 2, 1, 1, 1]


def test_undisturbed_captures_give_the_slots_back_one_by_one() -> None:
    pace = Pace(4, stop=Stop())
    pace.slow_down(HERE, 0)
    run_captures(pace, 7)
    assert pace.limit(HERE) == 2
    run_captures(pace, 1)
    assert pace.limit(HERE) == 3
    run_captures(pace, 12 + 16 + 99)
    assert pace.limit(HERE) == 4


def test_a_failed_capture_begins_the_count_anew() -> None:
    pace = Pace(2, stop=Stop())
    pace.slow_down(HERE, 0)
    run_captures(pace, 3)
    with pytest.raises(ValueError), pace.slot(HERE):
        raise ValueError
    run_captures(pace, 3)
    assert pace.limit(HERE) == 1
    run_captures(pace, 1)
    assert pace.limit(HERE) == 2


def test_everybody_waits_for_as_long_as_the_server_asked() -> None:
    now, slept = 0.0, []

    class Sleeper(Stop):
        def sleep(self, seconds: float) -> None:
            slept.append(seconds)

    pace = Pace(4, stop=Sleeper(), monotonic=lambda: now)
    pace.wait(HERE)
    pace.slow_down(HERE, 30)
    pace.slow_down(HERE, 10)
    pace.wait(HERE)
    now = 31
    pace.wait(HERE)
    assert slept == [30]


def test_an_interrupt_ends_the_wait_for_a_slot() -> None:
    stop = Stop()
    pace = Pace(1, stop=stop)
    with pace.slot(HERE):
        stop.interrupt()
        with pytest.raises(Interrupted), pace.slot(HERE):
            pass


def test_a_pause_that_would_pass_the_deadline_is_not_begun() -> None:
    pace = Pace(1, stop=Stop(deadline_seconds=5))
    pace.slow_down(HERE, 10)
    with pytest.raises(DeadlineReached):
        pace.wait(HERE)


def test_a_throttle_of_one_server_slows_down_no_other() -> None:
    slept = []

    class Sleeper(Stop):
        def sleep(self, seconds: float) -> None:
            slept.append(seconds)

    pace = Pace(4, stop=Sleeper(), monotonic=lambda: 0.0)
    pace.slow_down(HERE, 800)
    pace.wait(THERE)
    assert slept == []
    assert (pace.limit(HERE), pace.limit(THERE)) == (2, 4)
    run_captures(pace, 1)
    pace.wait(HERE)
    assert slept == [800]


def test_who_waits_for_a_throttled_server_keeps_nobody_else_from_a_slot() -> None:
    pace = Pace(2, stop=Stop())
    pace.slow_down(HERE, 0)
    waits, done = threading.Event(), threading.Event()

    def second() -> None:
        waits.set()
        with pace.slot(HERE):
            done.set()

    thread = threading.Thread(target=second)
    with pace.slot(HERE):
        thread.start()
        assert waits.wait(10)
        while not pace._waiting:
            pass
        # It came first, and its own server has no room.
        with pace.slot(THERE):
            assert not done.is_set()
    thread.join(10)
    assert done.is_set()


def test_all_servers_together_have_no_more_than_there_are_slots() -> None:
    pace, came = Pace(1, stop=Stop()), threading.Event()

    def other() -> None:
        with pace.slot(THERE):
            came.set()

    thread = threading.Thread(target=other)
    with pace.slot(HERE):
        thread.start()
        while not pace._waiting:
            pass
        assert not came.is_set()
    thread.join(10)
    assert came.is_set()


@pytest.mark.parametrize(
    ("url", "server"),
    [
        ("/srv/git/one.git", ""),
        ("https://Git.example/acme/one.git", "https://git.example:443"),
        ("https://git.example:443/acme/two.git", "https://git.example:443"),
        ("http://git.example/acme/one.git", "http://git.example:80"),
        ("ssh://git@git.example/acme/one.git", "ssh://git.example:22"),
        ("ssh://git.example:2222/acme/one.git", "ssh://git.example:2222"),
        ("git@Git.example:acme/one.git", "ssh://git.example:22"),
    ],
)
def test_repositories_share_a_server_by_scheme_host_and_port(url: str, server: str) -> None:
    one = Repository(host="git", owner="all", path="one", host_id="1", clone_url=url)
    assert server_of(one) == server
