"""The proxy that spoils HTTP on purpose: what it lets pass is unaltered, and each fault strikes."""

import hashlib
import http.client
import select
import socket
import ssl
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from queue import SimpleQueue
from urllib.parse import urlsplit

import pytest
import trustme

from tests.support.proxy import PIECE_BYTES, FaultProxy, ProxyFault

BODY = bytes(range(256)) * 40
MANY_BYTES = 50 * 1024 * 1024


@dataclass
class Authority:
    """Certificates for both legs, and whether they are used."""

    server: ssl.SSLContext
    client: ssl.SSLContext
    file: Path


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = trustme.CA()
    file = tmp_path_factory.mktemp("authority") / "ca.pem"
    made.cert_pem.write_to_path(str(file))
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.issue_cert("127.0.0.1", "localhost").configure_cert(server)
    return Authority(server, ssl.create_default_context(cafile=str(file)), file)


class Handler(BaseHTTPRequestHandler):
    """Answers as the first part of the path asks; with BODY and its length if it asks nothing."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: "Upstream"

    def do_GET(self) -> None:
        _, kind, *rest = self.path.split("/")
        if kind == "early":
            self._head(403, ("Content-Length", "0"), ("Connection", "close"))
            return
        request = self._body()
        self.server.heads.append(self.headers.items())
        self.server.bodies.put(request)
        if kind == "chunked":
            self._head(200, ("Transfer-Encoding", "chunked"))
            for at in range(0, len(BODY), 1000):
                piece = BODY[at : at + 1000]
                self.wfile.write(b"%x;note=1\r\n%b\r\n" % (len(piece), piece))
            self.wfile.write(b"0\r\nX-Sum: 7\r\n\r\n")
        elif kind == "until-close":
            self._head(200, ("Connection", "close"))
            self.wfile.write(BODY)
        elif kind == "many":
            self._head(200, ("Content-Length", str(MANY_BYTES)))
            for number in range(MANY_BYTES // PIECE_BYTES):
                self.wfile.write(bytes([number]) * PIECE_BYTES)
        elif kind == "slow":
            self._head(200, ("Content-Length", "2"))
            self.wfile.write(b"1")
            self.server.go_on.wait(20)
            self.wfile.write(b"2")
        elif kind == "status":
            self._head(int(rest[0]))
        elif kind == "echo":
            self._head(200, ("Content-Length", str(len(request))))
            self.wfile.write(request)
        else:
            self._head(200, ("Content-Length", str(len(BODY))))
            self.wfile.write(b"" if self.command == "HEAD" else BODY)

    do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815 - so the base class looks for them

    def _head(self, status: int, *fields: tuple[str, str]) -> None:
        self.send_response(status)
        for name, value in fields:
            self.send_header(name, value)
        self.end_headers()

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            data = b""
            while size := int(self.rfile.readline() or b"0", 16):
                data += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return data
        left = int(self.headers.get("Content-Length", "0"))
        if self.path.startswith("/sum"):
            digest = hashlib.sha256()
            while left and (piece := self.rfile.read(min(left, PIECE_BYTES))):
                digest.update(piece)
                left -= len(piece)
            return digest.digest()
        return self.rfile.read(left)

    def log_message(self, *args: object) -> None: ...


class Upstream(ThreadingHTTPServer):
    """A real server that remembers what came to it."""

    daemon_threads = False

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.heads: list[list[tuple[str, str]]] = []
        self.bodies: SimpleQueue[bytes] = SimpleQueue()
        self.go_on = threading.Event()
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self.server_address[1]}"
        if tls is not None:
            self.socket = tls.wrap_socket(self.socket, server_side=True)

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: whom it answers has gone, on purpose."""


@dataclass
class Rig:
    """One upstream, and proxies in front of it that speak as it does."""

    upstream: Upstream
    authority: Authority | None

    def proxy(self, *faults: ProxyFault) -> FaultProxy:
        if self.authority is None:
            return FaultProxy(self.upstream.url, *faults)
        return FaultProxy(
            self.upstream.url,
            *faults,
            tls=self.authority.server,
            upstream_ca=self.authority.file,
        )

    def client(self, proxy: FaultProxy) -> http.client.HTTPConnection:
        place = urlsplit(proxy.url)
        assert place.hostname
        if self.authority is None:
            return http.client.HTTPConnection(place.hostname, place.port, timeout=20)
        return http.client.HTTPSConnection(
            place.hostname, place.port, timeout=20, context=self.authority.client
        )

    def ask(
        self, proxy: FaultProxy, target: str = "/", method: str = "GET", body: bytes | None = None
    ) -> tuple[int, bytes]:
        """Send one request on a connection of its own; return the status and the whole body."""
        with closing(self.client(proxy)) as client:
            client.request(method, target, body)
            with client.getresponse() as answer:
                return answer.status, answer.read()


@pytest.fixture(params=["http", "https"])
def rig(request: pytest.FixtureRequest, authority: Authority) -> Iterator[Rig]:
    secure = request.param == "https"
    with Upstream(authority.server if secure else None) as upstream:
        thread = threading.Thread(target=upstream.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield Rig(upstream, authority if secure else None)
        finally:
            upstream.shutdown()
            thread.join()


def _in_chunks() -> Iterator[bytes]:
    yield from (BODY[:10], BODY[10:])


# --- What passes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("target", ["/", "//a%2Fb/../c?x=%20&y", "/chunked", "/until-close"])
def test_an_answer_passes_as_it_is(rig: Rig, target: str) -> None:
    with rig.proxy() as proxy:
        assert rig.ask(proxy, target) == (200, BODY)
        (seen,) = proxy.requests
    assert (seen.method, seen.target, seen.status, seen.struck) == ("GET", target, 200, "")
    assert seen.response_bytes == len(BODY)


def test_a_head_passes_as_it_is(rig: Rig) -> None:
    sent = [("Host", "bucket.example:99"), ("Authorization", "AWS4 x=y"), ("X-Two", "1")]
    with rig.proxy() as proxy, closing(rig.client(proxy)) as client:
        client.putrequest("GET", "/", skip_host=True, skip_accept_encoding=True)
        for name, value in [*sent, ("X-Two", "2")]:
            client.putheader(name, value)
        client.endheaders()
        client.getresponse().read()
        assert proxy.requests[0].headers["host"] == "bucket.example:99"
    assert rig.upstream.heads == [[*sent, ("X-Two", "2")]]


@pytest.mark.parametrize("body", [BODY, _in_chunks], ids=["with a length", "in chunks"])
def test_a_request_body_passes_as_it_is(
    rig: Rig, body: bytes | Callable[[], Iterator[bytes]]
) -> None:
    with rig.proxy() as proxy, closing(rig.client(proxy)) as client:
        client.request("POST", "/echo", body if isinstance(body, bytes) else body())
        assert client.getresponse().read() == BODY
        assert proxy.requests[0].request_bytes == len(BODY)


def test_a_connection_is_kept_alive(rig: Rig) -> None:
    asked = [("GET", "/"), ("HEAD", "/"), ("GET", "/status/204"), ("GET", "/chunked"), ("GET", "/")]
    with rig.proxy() as proxy, closing(rig.client(proxy)) as client:
        client.connect()
        first = client.sock
        for method, target in [*asked, ("GET", "/status/304"), ("POST", "/echo")]:
            client.request(method, target, BODY if method == "POST" else None)
            answer = client.getresponse()
            data = answer.read()
            assert data in {b"", BODY}
            assert client.sock is first
        client.request("GET", "/", headers={"Connection": "close"})
        assert client.getresponse().read() == BODY
        assert client.sock.recv(1) == b""
        assert len(proxy.requests) == 8


def test_a_trailer_passes(rig: Rig) -> None:
    with rig.proxy() as proxy, closing(rig.client(proxy)) as client:
        client.request("GET", "/chunked", headers={"Connection": "close"})
        sock = client.sock
        assert isinstance(sock, socket.socket)
        data = b"".join(iter(lambda: sock.recv(1 << 16), b""))
    assert data.endswith(b"\r\n0\r\nX-Sum: 7\r\n\r\n")


def test_who_expects_100_continue_gets_it_before_the_body_is_sent(rig: Rig) -> None:
    with rig.proxy() as proxy, closing(rig.client(proxy)) as client:
        client.putrequest("PUT", "/echo")
        client.putheader("Content-Length", "5")
        client.putheader("Expect", "100-continue")
        client.endheaders()
        assert client.sock.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
        client.send(b"12345")
        assert client.getresponse().read() == b"12345"
    assert "expect" not in {name.lower() for name, _ in rig.upstream.heads[0]}


def test_50_mb_pass_in_both_directions_in_little_memory(rig: Rig) -> None:
    expected, got = hashlib.sha256(), hashlib.sha256()
    pieces = [bytes([number]) for number in range(MANY_BYTES // PIECE_BYTES)]
    with rig.proxy() as proxy, closing(rig.client(proxy)) as client:
        tracemalloc.start()
        try:
            client.request("GET", "/many")
            answer = client.getresponse()
            while piece := answer.read(PIECE_BYTES):
                got.update(piece)
            body = (piece * PIECE_BYTES for piece in pieces)
            client.request("PUT", "/sum", body, {"Content-Length": str(MANY_BYTES)})
            client.getresponse().read()
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
        assert rig.upstream.bodies.get() == b""
        assert proxy.requests[0].response_bytes == proxy.requests[1].request_bytes == MANY_BYTES
    for one in pieces:
        expected.update(one * PIECE_BYTES)
    assert got.digest() == expected.digest() == rig.upstream.bodies.get()
    assert peak < MANY_BYTES / 8


def test_a_slow_answer_is_not_held_back(rig: Rig) -> None:
    with rig.proxy() as proxy, closing(rig.client(proxy)) as client:
        client.request("GET", "/slow")
        answer = client.getresponse()
        assert answer.read(1) == b"1"
        rig.upstream.go_on.set()
        assert answer.read() == b"2"


def test_an_answer_that_comes_before_the_request_was_read_passes(rig: Rig) -> None:
    with rig.proxy() as proxy:
        assert rig.ask(proxy, "/early", "PUT", BODY * 1000) == (403, b"")
        assert proxy.requests[0].request_bytes == len(BODY) * 1000


def test_several_connections_are_served_at_once(rig: Rig) -> None:
    with rig.proxy() as proxy, closing(rig.client(proxy)) as client:
        client.request("GET", "/slow")
        answer = client.getresponse()
        assert rig.ask(proxy) == (200, BODY)
        rig.upstream.go_on.set()
        assert answer.read() == b"12"


def test_a_client_finds_the_connection_closed_where_upstream_is_away(rig: Rig) -> None:
    rig.upstream.server_close()
    with rig.proxy() as proxy, pytest.raises(http.client.RemoteDisconnected):
        rig.ask(proxy)


def test_an_upstream_of_another_authority_is_not_trusted(rig: Rig, tmp_path: Path) -> None:
    if rig.authority is None:
        return
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(str(other))
    proxy = FaultProxy(rig.upstream.url, tls=rig.authority.server, upstream_ca=other)
    with proxy, pytest.raises(http.client.RemoteDisconnected):
        rig.ask(proxy)


# --- What is struck -------------------------------------------------------------------------------


def test_refused_is_answered_without_upstream(rig: Rig) -> None:
    slow_down = ProxyFault(
        action="refuse", status=429, headers=(("Retry-After", "7"),), body=b"slow", times=2
    )
    with rig.proxy(slow_down) as proxy, closing(rig.client(proxy)) as client:
        client.request("PUT", "/echo", BODY * 1000)
        sock = client.sock
        answer = client.getresponse()
        assert (answer.status, answer.headers["Retry-After"]) == (429, "7")
        assert answer.read() == b"slow"
        client.request("HEAD", "/")
        assert client.getresponse().read() == b""
        assert proxy.struck(slow_down) == 2
        assert rig.upstream.heads == []
        client.request("GET", "/")
        assert client.getresponse().read() == BODY
        assert client.sock is sock
    assert [(seen.status, seen.struck) for seen in proxy.requests] == [
        (429, "refuse"),
        (429, "refuse"),
        (200, ""),
    ]


@pytest.mark.parametrize("target", ["/", "/chunked"])
@pytest.mark.parametrize("byte", [0, 1, 5000, len(BODY) - 1])
def test_an_answer_is_cut_at_the_byte(rig: Rig, target: str, byte: int) -> None:
    with rig.proxy(ProxyFault(action="cut", byte=byte)) as proxy:
        with pytest.raises(http.client.IncompleteRead) as raised:
            rig.ask(proxy, target)
        assert raised.value.partial == BODY[:byte]
        assert proxy.requests[0].response_bytes == byte
        assert rig.ask(proxy, target) == (200, BODY)


def test_a_chunked_answer_is_cut_even_before_its_end_alone(rig: Rig) -> None:
    with rig.proxy(ProxyFault(action="cut", byte=len(BODY))) as proxy:
        with pytest.raises(http.client.IncompleteRead) as raised:
            rig.ask(proxy, "/chunked")
        assert raised.value.partial == BODY


@pytest.mark.parametrize("target", ["/", "/chunked"])
def test_an_answer_stalls_until_it_is_released(rig: Rig, target: str) -> None:
    fault = ProxyFault(action="stall", byte=5000)
    with rig.proxy(fault) as proxy, closing(rig.client(proxy)) as client:
        client.request("GET", target)
        answer = client.getresponse()
        assert answer.read(5000) == BODY[:5000]
        proxy.wait_until_struck(fault)
        assert select.select([client.sock], [], [], 0.05)[0] == []
        assert proxy.requests[0].response_bytes == 5000
        proxy.release()
        assert answer.read() == BODY[5000:]


def test_a_request_is_delayed(rig: Rig) -> None:
    with rig.proxy(ProxyFault(action="delay", seconds=0.2)) as proxy:
        began = time.monotonic()
        assert rig.ask(proxy) == (200, BODY)
        assert time.monotonic() - began >= 0.2


def test_upstream_does_not_see_a_delayed_request_before_its_time(rig: Rig) -> None:
    fault = ProxyFault(action="delay", seconds=600)
    with rig.proxy(fault) as proxy, closing(rig.client(proxy)) as client:
        client.request("GET", "/")
        proxy.wait_until_struck(fault)
    assert rig.upstream.heads == []


@pytest.mark.parametrize("target", ["/", "/chunked", "/until-close"])
@pytest.mark.parametrize("byte", [0, 5000, len(BODY) - 1])
def test_one_bit_of_one_byte_is_flipped(rig: Rig, target: str, byte: int) -> None:
    with rig.proxy(ProxyFault(action="flip", byte=byte)) as proxy:
        _, got = rig.ask(proxy, target)
    different = [at for at in range(len(BODY)) if got[at] != BODY[at]]
    assert (len(got), different) == (len(BODY), [byte])
    assert got[byte] ^ BODY[byte] == 1


def test_an_answer_is_lost_though_upstream_did_the_work(rig: Rig) -> None:
    with rig.proxy(ProxyFault(action="lose")) as proxy:
        with pytest.raises(http.client.RemoteDisconnected):
            rig.ask(proxy, "/echo", "PUT", BODY)
        assert rig.upstream.bodies.get(timeout=20) == BODY
        (seen,) = proxy.requests
        assert (seen.status, seen.response_bytes, seen.struck) == (200, 0, "lose")


@pytest.mark.parametrize("body", [BODY, _in_chunks], ids=["with a length", "in chunks"])
def test_a_request_is_made_twice(rig: Rig, body: bytes | Callable[[], Iterator[bytes]]) -> None:
    with rig.proxy(ProxyFault(action="twice")) as proxy, closing(rig.client(proxy)) as client:
        client.request("POST", "/echo", body if isinstance(body, bytes) else body())
        assert client.getresponse().read() == BODY
        assert [rig.upstream.bodies.get(timeout=20) for _ in range(2)] == [BODY, BODY]
        assert rig.upstream.heads[0] == rig.upstream.heads[1]
        assert proxy.requests[0].request_bytes == len(BODY)


def test_the_proxy_hangs_up_on_a_request_that_upstream_never_sees(rig: Rig) -> None:
    with rig.proxy(ProxyFault(action="hang up")) as proxy:
        with pytest.raises(http.client.RemoteDisconnected):
            rig.ask(proxy, "/echo", "PUT", BODY * 1000)
        assert proxy.requests[0].request_bytes == len(BODY) * 1000
    assert rig.upstream.heads == []


@pytest.mark.parametrize("body", [BODY, _in_chunks], ids=["with a length", "in chunks"])
@pytest.mark.parametrize("byte", [0, 5, 5000])
def test_a_request_is_cut_at_the_byte(
    rig: Rig, byte: int, body: bytes | Callable[[], Iterator[bytes]]
) -> None:
    fault = ProxyFault(action="cut request", byte=byte)
    with rig.proxy(fault) as proxy, closing(rig.client(proxy)) as client:
        with pytest.raises((ConnectionError, ssl.SSLError)):  # noqa: PT012 - either may find it
            client.request("PUT", "/echo", body if isinstance(body, bytes) else body())
            client.getresponse()
        assert rig.upstream.bodies.get(timeout=20) == BODY[:byte]


# --- Which requests are struck, and whether -------------------------------------------------------


def test_faults_read_as_a_script(rig: Rig) -> None:
    faults = (
        ProxyFault(action="refuse", status=500, method="PUT", times=2),
        ProxyFault(action="refuse", status=501, target=r"^/a\?x=1$", skip=1, times=None),
        ProxyFault(action="refuse", status=502, method="PUT", exact=True),
    )
    asked = [("PUT", "/"), ("GET", "/a?x=1"), ("PUT", "/a?x=1"), ("PUT", "/"), ("PUT", "/")]
    asked += [("GET", "/a?x=1"), ("GET", "/a?x=12"), ("GET", "/a?x=1")]
    with rig.proxy(*faults) as proxy:
        got = [rig.ask(proxy, target, method)[0] for method, target in asked]
        assert [proxy.struck(fault) for fault in faults] == [2, 2, 1]
    assert got == [500, 200, 500, 502, 200, 501, 200, 501]


@pytest.mark.parametrize(
    "fault",
    [
        ProxyFault(action="refuse", method="PUT"),
        ProxyFault(action="refuse", target="/nowhere"),
        ProxyFault(action="refuse", skip=2),
        ProxyFault(action="refuse", times=3, exact=True),
        ProxyFault(action="cut", byte=len(BODY)),
        ProxyFault(action="stall", byte=len(BODY)),
        ProxyFault(action="flip", byte=len(BODY)),
        ProxyFault(action="cut request"),
    ],
    ids=repr,
)
def test_a_fault_that_did_not_strike_fails_the_test(rig: Rig, fault: ProxyFault) -> None:
    with pytest.raises(AssertionError, match=fault.action), rig.proxy(fault) as proxy:
        assert [rig.ask(proxy)[1][:1] for _ in range(2)]


def test_waiting_for_a_strike_that_does_not_come_fails_the_test(rig: Rig) -> None:
    fault = ProxyFault(action="cut")
    with pytest.raises(AssertionError, match=r"0 strikes.* in 0\.01 s"), rig.proxy(fault) as proxy:
        proxy.wait_until_struck(fault, seconds=0.01)


def test_an_error_of_the_test_is_not_covered_by_a_fault_that_did_not_strike(rig: Rig) -> None:
    with pytest.raises(KeyError), rig.proxy(ProxyFault(action="cut")):
        raise KeyError


# --- The end --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault", [ProxyFault(action="stall", byte=10), None], ids=["stall", "idle"]
)
def test_the_end_of_the_proxy_closes_everything(rig: Rig, fault: ProxyFault | None) -> None:
    with rig.proxy(*([fault] if fault else [])) as proxy:
        client = rig.client(proxy)
        client.request("GET", "/")
        answer = client.getresponse()
        assert answer.read(10) == BODY[:10]
        if fault:
            proxy.wait_until_struck(fault)
        else:
            # All of it, or the end could come before the rest was passed on.
            assert answer.read() == BODY[10:]
    assert [one for one in threading.enumerate() if "fault proxy" in one.name] == []
    with closing(client), answer:
        if fault:
            with pytest.raises(http.client.IncompleteRead):
                answer.read()
        else:
            assert client.sock.recv(1) == b""
