"""Where the machine allows no more threads, those that it allowed do all the work."""

import threading
from concurrent.futures import CancelledError
from threading import Event

import pytest

from backup.errors import MachineLimitReached
from backup.workers import Workers

REAL_START = threading.Thread.start


@pytest.fixture
def allowed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Allow as many threads as the list's only number says."""
    left = [2]

    def start(thread: threading.Thread) -> None:
        if not left[0]:
            raise RuntimeError("can't start new thread")
        left[0] -= 1
        REAL_START(thread)

    monkeypatch.setattr(threading.Thread, "start", start)
    return left


def test_two_threads_do_what_eight_were_asked_for(allowed: list[int]) -> None:
    with Workers(8) as pool:
        futures = [pool.submit(pow, number, 2) for number in range(50)]
        assert [future.result() for future in futures] == [number**2 for number in range(50)]
        assert [*pool.map(str, range(5))] == ["0", "1", "2", "3", "4"]
    assert allowed == [0]


def test_not_one_thread_is_an_error_with_a_hint(allowed: list[int]) -> None:
    allowed[0] = 0
    with Workers(8) as pool, pytest.raises(MachineLimitReached) as raised:
        pool.submit(print)
    assert "--pids-limit" in raised.value.hint


def test_what_has_not_begun_is_cancelled_and_told() -> None:
    begun, go_on = Event(), Event()
    told: list[bool] = []

    def work() -> bool:
        begun.set()
        return go_on.wait(60)

    with Workers(1) as pool:
        first, *others = (pool.submit(work) for _ in range(4))
        for future in others:
            future.add_done_callback(lambda one: told.append(one.cancelled()))
        assert begun.wait(60)
        pool.shutdown(wait=False, cancel_futures=True)
        assert told == [True] * 3
        go_on.set()
    assert first.result() is True
    with pytest.raises(CancelledError):
        others[0].result()


def test_what_the_work_raises_is_raised_where_its_result_is_asked_for() -> None:
    with Workers(1) as pool:
        future = pool.submit(int, "x")
        with pytest.raises(ValueError, match="invalid literal"):
            future.result()
        pool.shutdown()
        with pytest.raises(RuntimeError, match="after shutdown"):
            pool.submit(int)
