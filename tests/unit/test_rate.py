"""Too slow is what comes too slowly while it is waited for; what honest servers do is not."""

import pytest

from backup import limits
from backup.errors import HostUnreachable, SourceError
from backup.git.http import HttpClient, HttpSettings
from backup.git.rate import LeastRate
from backup.git.transport import PATIENCE_SECONDS
from backup.stopping import Stop

LEAST = limits.LEAST_BYTES_PER_SECOND


class Server:
    """What is read of a server, by a clock that moves while it is waited for."""

    def __init__(self, window_seconds: float = 600.0) -> None:
        self.now = 0.0
        self.rate = LeastRate("it", window_seconds=window_seconds, clock=lambda: self.now)

    def sends(self, size_bytes: int, *, after: float) -> bytes:
        def read() -> bytes:
            self.now += after
            return bytes(size_bytes)

        return self.rate.note(read)

    def send_often(self, times: int, size_bytes: int, *, after: float) -> None:
        for _ in range(times):
            self.sends(size_bytes, after=after)


def test_one_byte_now_and_then_is_given_up() -> None:
    server = Server()
    with pytest.raises(HostUnreachable, match="301 bytes came in 600 seconds; less than 1024"):
        server.send_often(302, 1, after=2.0)
    assert server.now == 602.0


def test_what_comes_at_the_least_rate_may_take_for_ever() -> None:
    server = Server()
    for _ in range(10_000):
        server.sends(600 * LEAST, after=600.0)


def test_the_time_of_the_reader_is_none_of_the_server() -> None:
    server = Server()
    for _ in range(100):
        server.sends(4096, after=1.0)
        server.now += 7200.0


def test_a_server_may_be_silent_before_its_first_byte_and_in_between() -> None:
    """As long as a socket waits: what comes then at once is no trickle."""
    server = Server()
    server.sends(12, after=299.0)
    for _ in range(50):
        server.sends(1, after=299.0)
        for _ in range(30):
            server.sends(1 << 18, after=0.2)


def test_at_its_end_nothing_is_too_slow() -> None:
    server = Server()
    server.sends(1, after=1.0)
    assert server.sends(0, after=6000.0) == b""


def test_a_server_that_is_at_work_on_a_pack_may_say_so_for_hours() -> None:
    server = Server()
    server.rate.prepare()
    # Side-band packets without content, one every five seconds.
    for _ in range(4000):
        server.sends(5, after=5.0)
    server.rate.begin()
    server.sends(1 << 16, after=5.0)
    for _ in range(1000):
        server.sends(1 << 16, after=60.0)


def test_a_pack_that_has_begun_is_held_to_the_rate() -> None:
    server = Server()
    server.rate.prepare()
    server.sends(5, after=5.0)
    server.rate.begin()
    with pytest.raises(HostUnreachable, match="less than 1024 bytes a second"):
        server.send_often(200, 5, after=5.0)


def test_a_server_that_says_without_end_that_it_is_at_work_is_given_up() -> None:
    server = Server()
    server.rate.prepare()
    with pytest.raises(SourceError, match="did not begin within 21600 seconds") as caught:
        server.send_often(5000, 5, after=5.0)
    assert not caught.value.retryable


def test_a_list_must_be_whole_within_its_time() -> None:
    server = Server()
    server.rate.limit(limits.MOST_REF_LIST_SECONDS)
    with pytest.raises(SourceError, match="was not whole within 3600 seconds") as caught:
        server.send_often(100, 1 << 20, after=60.0)
    assert not caught.value.retryable
    assert server.now == 3600.0


def test_the_rate_is_measured_over_as_long_as_the_documents_say() -> None:
    client = HttpClient(HttpSettings(), connections=1, stop=Stop())
    assert 2 * client.patience_seconds == limits.LEAST_RATE_SECONDS
    assert 2 * PATIENCE_SECONDS == limits.LEAST_RATE_SECONDS_OVER_SSH
