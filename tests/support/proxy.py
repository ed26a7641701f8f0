"""Faults on purpose between a client and a real HTTP server. Each one tells whether it struck.

`FaultProxy` passes requests and answers on as they came, byte for byte in head and body (the Host
header too, which S3 signs), until a request is due for a fault. Bodies stream in both directions;
only the boundaries of chunks may differ. It knows nothing of git or S3.
"""

import re
import socket
import ssl
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from io import BufferedReader, BytesIO
from pathlib import Path
from tempfile import TemporaryFile
from threading import Condition, Event, Thread
from types import TracebackType
from typing import IO, Literal, Self
from urllib.parse import urlsplit

Action = Literal[
    "refuse", "cut", "stall", "delay", "flip", "lose", "twice", "hang up", "cut request"
]

PIECE_BYTES = 256 * 1024
_LINE_BYTES = 64 * 1024
_JOIN_SECONDS = 30


@dataclass(frozen=True, slots=True, kw_only=True)
class ProxyFault:
    """What goes wrong with a request, and with which.

    A request that one fault takes is not counted by those after it, so that faults read as a
    script: refuse two, then cut the third.

    Attributes:
        action: ``refuse`` answers in place of upstream, after it has read the request's body.
            ``cut`` passes on so many bytes of the answer's body and closes the connection.
            ``stall`` passes on so many and falls silent until `FaultProxy.release`. ``delay``
            waits before it asks upstream. ``flip`` changes the lowest bit of one byte of the
            answer's body. ``lose`` lets upstream do all of it and closes without an answer.
            ``twice`` asks upstream twice and passes on the second answer. ``hang up`` closes
            when it has read the request; upstream is not asked. ``cut request`` gives upstream so
            many bytes of the request's body and closes both sides.
        method: any when empty.
        target: a regular expression, searched in path and query; any when empty.
        skip: so many matching requests pass first.
        times: so many are struck then; None for all.
        exact: whether fewer strikes than ``times`` fail the test; one is enough otherwise.
        byte: where ``cut``, ``stall``, ``flip`` and ``cut request`` strike, from 0. They do not
            strike in a body that is whole before it.
        status: of the answer that ``refuse`` gives.
        headers: of that answer, beside its Content-Length.
        body: of that answer.
        seconds: how long ``delay`` waits.
    """

    action: Action
    method: str = ""
    target: str = ""
    skip: int = 0
    times: int | None = 1
    exact: bool = False
    byte: int = 0
    status: int = 503
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b""
    seconds: float = 0.0

    def matches(self, method: str, target: str) -> bool:
        return self.method in {"", method} and re.search(self.target, target) is not None


@dataclass(slots=True)
class Seen:
    """A request that arrived. What a client has got of its answer is counted here already.

    Attributes:
        headers: of the request, names in lower case.
        status: of the answer that upstream or ``refuse`` gave; 0 before that, and without one.
        request_bytes: so much of its body was taken from the client.
        response_bytes: so much of the answer's body was given to the client.
        struck: the action that came to bear; empty for none.
    """

    method: str
    target: str
    headers: dict[str, str]
    status: int = 0
    request_bytes: int = 0
    response_bytes: int = 0
    struck: str = ""


@dataclass(slots=True)
class _Tally:
    fault: ProxyFault
    matched: int = 0
    struck: int = 0

    @property
    def is_enough(self) -> bool:
        return self.struck >= ((self.fault.times or 1) if self.fault.exact else 1)

    def takes_the_next(self) -> bool:
        """Count a request that matches; return whether it is one to strike."""
        self.matched += 1
        times = self.fault.times
        return self.matched > self.fault.skip and (
            times is None or self.matched <= self.fault.skip + times
        )


class FaultProxy:
    """A reverse proxy on loopback. As a context it insists that every fault struck.

    Each client connection has a thread and is kept alive as HTTP says; upstream gets a connection
    per request, so that none can have gone stale. Memory is bounded by a few pieces of 256 KiB per
    connection. Leaving the context closes all connections, stalled or not, and joins all threads.

    Attributes:
        url: where it listens, without a slash at the end; set while the context is open.
        requests: all that arrived, in order of their heads.
    """

    def __init__(
        self,
        upstream: str,
        *faults: ProxyFault,
        tls: ssl.SSLContext | None = None,
        upstream_ca: Path | None = None,
    ) -> None:
        """Make a proxy for one server.

        Args:
            upstream: its URL, without a path.
            faults: what goes wrong.
            tls: for the server side of the proxy; None to speak plain HTTP to clients.
            upstream_ca: a file with the authority that an https upstream is held against.
        """
        place = urlsplit(upstream)
        assert place.hostname, upstream
        assert place.path in {"", "/"}, upstream
        self._tls = tls
        self._upstream_host = place.hostname
        self._upstream_port = place.port or (443 if place.scheme == "https" else 80)
        self._upstream_tls = (
            ssl.create_default_context(cafile=upstream_ca) if place.scheme == "https" else None
        )
        self._tallies = [_Tally(fault) for fault in faults]
        self._changed = Condition()
        self._released = Event()
        self._ended = Event()
        self._open: set[socket.socket] = set()
        self._threads: list[Thread] = []
        self.requests: list[Seen] = []
        self.url = ""

    def __enter__(self) -> Self:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._address = self._listener.getsockname()
        self.url = f"{'https' if self._tls else 'http'}://127.0.0.1:{self._address[1]}"
        self._acceptor = Thread(target=self._accept, name="fault proxy")
        self._acceptor.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()
        if error is None:
            for tally in self._tallies:
                assert tally.is_enough, f"{tally}, in {self.requests}"

    def struck(self, fault: ProxyFault) -> int:
        """Count how often a fault, or one equal to it, came to bear so far."""
        return sum(tally.struck for tally in self._tallies if tally.fault == fault)

    def wait_until_struck(self, fault: ProxyFault, times: int = 1, seconds: float = 30) -> None:
        """Return when a fault came to bear so often; AssertionError if it takes too long."""
        with self._changed:
            came = self._changed.wait_for(lambda: self.struck(fault) >= times, seconds)
        assert came, f"{self.struck(fault)} strikes of {fault} in {seconds} s"

    def release(self) -> None:
        """Let all stalled answers go on, and those that would stall later."""
        self._released.set()

    # --- For the connections ---

    def due(self, seen: Seen) -> _Tally | None:
        """Note a request and return the tally of the fault that takes it."""
        with self._changed:
            self.requests.append(seen)
            for tally in self._tallies:
                if tally.fault.matches(seen.method, seen.target) and tally.takes_the_next():
                    return tally
        return None

    def strike(self, tally: _Tally, seen: Seen) -> None:
        """Note that a fault comes to bear. Called before the client can notice."""
        with self._changed:
            seen.struck = tally.fault.action
            tally.struck += 1
            self._changed.notify_all()

    def stall(self) -> None:
        """Wait for the release; raise ConnectionError if it is the end that came."""
        self._released.wait()
        if self._ended.is_set():
            raise ConnectionError("stalled to the end")

    def delay(self, seconds: float) -> None:
        """Wait; raise ConnectionError if the end came before."""
        if self._ended.wait(seconds):
            raise ConnectionError("delayed to the end")

    @contextmanager
    def peer(
        self, raw: socket.socket, context: ssl.SSLContext | None, host: str | None
    ) -> Iterator["_Peer"]:
        """Own a connection: closed when left, and woken by the end of the proxy.

        Args:
            raw: taken over.
            context: None for no TLS.
            host: whom a client of TLS expects; None for the server's side.
        """
        with raw:
            # From here on the wrapped socket owns the descriptor. The handshake must come after it
            # is registered, or the end of the proxy could not wake it.
            wrapped = raw if context is None else _wrap(raw, context, host)
            with wrapped, self._registered(wrapped):
                wrapped.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if isinstance(wrapped, ssl.SSLSocket):
                    wrapped.do_handshake()
                with wrapped.makefile("rb") as reader:
                    yield _Peer(wrapped, reader)

    @contextmanager
    def upstream(self) -> Iterator["_Peer"]:
        raw = socket.create_connection((self._upstream_host, self._upstream_port))
        with self.peer(raw, self._upstream_tls, self._upstream_host) as peer:
            yield peer

    # --- Its own life ---

    @contextmanager
    def _registered(self, connection: socket.socket) -> Iterator[None]:
        with self._changed:
            if self._ended.is_set():
                raise ConnectionError("the proxy has ended")
            self._open.add(connection)
        try:
            yield
        finally:
            with self._changed:
                self._open.remove(connection)
            _shut(connection)

    def _accept(self) -> None:
        while True:
            raw, _ = self._listener.accept()
            if self._ended.is_set():
                raw.close()
                return
            thread = Thread(target=self._serve, args=(raw,), name="fault proxy connection")
            self._threads.append(thread)
            thread.start()

    def _serve(self, raw: socket.socket) -> None:
        # Either side may go at any time; the other is closed then, as by any proxy.
        with suppress(OSError), self.peer(raw, self._tls, None) as client:
            while client.reader.peek(1) and _Exchange(self, client).run():
                pass

    def _close(self) -> None:
        with self._changed:
            self._ended.set()
            self._released.set()
            for connection in self._open:
                _shut(connection)
        # A connection wakes the acceptor on every system; closing its socket does not.
        socket.create_connection(self._address).close()
        self._acceptor.join(_JOIN_SECONDS)
        for thread in self._threads:
            thread.join(_JOIN_SECONDS)
        self._listener.close()
        alive = [thread.name for thread in self._threads if thread.is_alive()]
        assert not alive, f"{len(alive)} connections of the fault proxy did not end"


def _wrap(raw: socket.socket, context: ssl.SSLContext, host: str | None) -> ssl.SSLSocket:
    return context.wrap_socket(
        raw, server_side=host is None, server_hostname=host, do_handshake_on_connect=False
    )


def _shut(connection: socket.socket) -> None:
    # Not SSLSocket.shutdown: that turns the socket into a plain one under the thread that uses it.
    with suppress(OSError):
        socket.socket.shutdown(connection, socket.SHUT_RDWR)


# --- HTTP -----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _Peer:
    socket: socket.socket
    reader: BufferedReader

    def send(self, data: bytes) -> None:
        self.socket.sendall(data)

    def try_to_send(self, data: bytes) -> bool:
        try:
            self.send(data)
        except OSError:
            return False
        return True

    def say_goodbye(self) -> None:
        """End TLS in order, without which a body that ends with the connection looks cut."""
        if isinstance(self.socket, ssl.SSLSocket):
            self.socket.settimeout(1)
            with suppress(OSError):
                self.socket.unwrap()


@dataclass(frozen=True, slots=True)
class _Head:
    """The first line and the fields as they came, each with its line end."""

    lines: tuple[bytes, ...]

    @property
    def words(self) -> list[str]:
        return self.lines[0].decode("latin-1").split(maxsplit=2)

    @property
    def fields(self) -> dict[str, str]:
        pairs = (line.decode("latin-1").partition(":") for line in self.lines[1:])
        return {name.strip().lower(): value.strip() for name, _, value in pairs}

    @property
    def keeps_alive(self) -> bool:
        closes = "close" in self.fields.get("connection", "").lower()
        return b"HTTP/1.1" in self.lines[0] and not closes

    @property
    def status(self) -> int:
        return int(self.words[1])

    def to_bytes(self) -> bytes:
        # The proxy answers an Expect itself, and botocore does not sign it.
        kept = (line for line in self.lines if not line.lower().startswith(b"expect:"))
        return b"".join((*kept, b"\r\n"))


def _line(reader: BufferedReader) -> bytes:
    line = reader.readline(_LINE_BYTES)
    if not line.endswith(b"\n"):
        raise ConnectionError("the connection ended within a line")
    return line


def _read_head(reader: BufferedReader) -> _Head:
    """Read up to the empty line."""
    lines = []
    while (line := _line(reader)) not in {b"\r\n", b"\n"}:
        lines.append(line)
    return _Head(tuple(lines))


@dataclass(slots=True)
class _Body:
    """A body on its way. ``length`` is None for one that ends with the connection."""

    reader: BufferedReader
    length: int | None = 0
    chunked: bool = False
    _trailer: bytes = field(default=b"\r\n", init=False)

    @classmethod
    def of_request(cls, head: _Head, reader: BufferedReader) -> Self:
        fields = head.fields
        chunked = "chunked" in fields.get("transfer-encoding", "").lower()
        return cls(reader, int(fields.get("content-length", "0")), chunked)

    @classmethod
    def of_answer(cls, head: _Head, reader: BufferedReader, method: str) -> Self:
        fields = head.fields
        if method == "HEAD" or head.status in {204, 304}:
            return cls(reader)
        if "chunked" in fields.get("transfer-encoding", "").lower():
            return cls(reader, chunked=True)
        return cls(reader, int(fields["content-length"]) if "content-length" in fields else None)

    def pieces(self) -> Iterator[bytes]:
        """Yield what there is as soon as it is there; of a chunked body an empty piece at the end.

        Raises:
            ConnectionError: the connection ended first.
        """
        if self.chunked:
            while size := int(_line(self.reader).partition(b";")[0], 16):
                yield from self._exactly(size)
                _line(self.reader)
            self._trailer = _read_head(self.reader).to_bytes()
            yield b""
        elif self.length is None:
            while piece := self.reader.read1(PIECE_BYTES):
                yield piece
        else:
            yield from self._exactly(self.length)

    @property
    def ends_itself(self) -> bool:
        return self.chunked or self.length is not None

    def framed(self, piece: bytes) -> bytes:
        """Give a piece the form in which it travels."""
        if not self.chunked:
            return piece
        return b"%x\r\n%b%b" % (len(piece), piece, b"\r\n" if piece else self._trailer)

    def _exactly(self, size: int) -> Iterator[bytes]:
        while size:
            piece = self.reader.read1(min(size, PIECE_BYTES))
            if not piece:
                raise ConnectionError(f"the connection ended {size} bytes before its body")
            size -= len(piece)
            yield piece


def _split(pieces: Iterable[bytes], at: int) -> Iterator[tuple[int, bytes]]:
    """Yield pieces behind their positions; one of them begins at ``at``, if there is that byte."""
    position = 0
    for piece in pieces:
        if position < at < position + len(piece):
            yield position, piece[: at - position]
            yield at, piece[at - position :]
        else:
            yield position, piece
        position += len(piece)


def _drain(pieces: Iterable[bytes]) -> None:
    for _ in pieces:
        pass


class _Exchange:
    """One request of a client, and what becomes of it."""

    def __init__(self, proxy: FaultProxy, client: _Peer) -> None:
        self._proxy = proxy
        self._client = client
        self._head = _read_head(client.reader)
        self._body = _Body.of_request(self._head, client.reader)
        method, target, _ = self._head.words
        self._seen = Seen(method, target, self._head.fields)
        self._tally = proxy.due(self._seen)
        self._action = self._tally.fault.action if self._tally else ""
        self._at = self._tally.fault.byte if self._tally else 0

    def run(self) -> bool:
        """Carry it out; return whether the connection may carry another request."""
        if self._head.fields.get("expect", "").lower() == "100-continue":
            self._client.send(b"HTTP/1.1 100 Continue\r\n\r\n")
        match self._action:
            case "refuse":
                return self._refuse()
            case "hang up":
                _drain(self._taken())
                self._strike()
                return False
            case "lose":
                self._ask_in_vain(self._taken())
                self._strike()
                return False
            case "twice":
                return self._ask_twice()
            case "delay":
                self._strike()
                self._proxy.delay(self._fault.seconds)
        return self._ask(self._taken())

    @property
    def _fault(self) -> ProxyFault:
        assert self._tally is not None
        return self._tally.fault

    def _strike(self) -> None:
        assert self._tally is not None
        self._proxy.strike(self._tally, self._seen)

    def _refuse(self) -> bool:
        # All of it: who is still sending gets a broken pipe in place of the answer.
        _drain(self._taken())
        self._strike()
        fault = self._fault
        self._seen.status = fault.status
        fields = [*fault.headers, ("Content-Length", str(len(fault.body)))]
        lines = [f"HTTP/1.1 {fault.status} {_reason(fault.status)}"]
        lines += [f"{name}: {value}" for name, value in fields]
        head = _Head(tuple(f"{line}\r\n".encode("latin-1") for line in lines))
        return self._pass_answer(head, BufferedReader(BytesIO(fault.body)))

    def _ask(self, request: Iterable[bytes]) -> bool:
        with self._proxy.upstream() as upstream:
            if not self._send_request(upstream, request):
                return False
            return self._pass_answer(self._read_answer(upstream), upstream.reader)

    def _ask_in_vain(self, request: Iterable[bytes]) -> None:
        with self._proxy.upstream() as upstream:
            self._send_request(upstream, request)
            head = self._read_answer(upstream)
            _drain(_Body.of_answer(head, upstream.reader, self._seen.method).pieces())

    def _ask_twice(self) -> bool:
        with TemporaryFile() as kept:
            kept.writelines(self._taken())
            self._ask_in_vain(self._kept(kept))
            self._strike()
            return self._ask(self._kept(kept))

    def _taken(self) -> Iterator[bytes]:
        for piece in self._body.pieces():
            self._seen.request_bytes += len(piece)
            yield piece

    def _kept(self, file: IO[bytes]) -> Iterator[bytes]:
        file.seek(0)
        while piece := file.read(PIECE_BYTES):
            yield piece
        if self._body.chunked:
            yield b""

    def _send_request(self, upstream: _Peer, pieces: Iterable[bytes]) -> bool:
        """Pass a request on; return whether upstream may answer it."""
        listens = upstream.try_to_send(self._head.to_bytes())
        for position, piece in _split(pieces, self._at):
            if position == self._at and self._action == "cut request":
                self._strike()
                return False
            # Upstream may have answered already and closed. The client is heard to the end all the
            # same, since only then does it read the answer.
            listens = listens and upstream.try_to_send(self._body.framed(piece))
        return True

    def _read_answer(self, upstream: _Peer) -> _Head:
        while (head := _read_head(upstream.reader)).status < HTTPStatus.OK:
            pass
        self._seen.status = head.status
        return head

    def _pass_answer(self, head: _Head, reader: BufferedReader) -> bool:
        """Pass an answer on; return whether the connection may carry another request."""
        body = _Body.of_answer(head, reader, self._seen.method)
        self._client.send(head.to_bytes())
        for position, piece in _split(body.pieces(), self._at):
            passed = piece
            if position == self._at:
                match self._action:
                    case "cut":
                        self._strike()
                        return False
                    case "stall":
                        self._strike()
                        self._proxy.stall()
                    case "flip" if piece:
                        self._strike()
                        passed = bytes([piece[0] ^ 1]) + piece[1:]
            self._seen.response_bytes += len(passed)
            self._client.send(body.framed(passed))
        if self._head.keeps_alive and head.keeps_alive and body.ends_itself:
            return True
        self._client.say_goodbye()
        return False


def _reason(status: int) -> str:
    known = {one.value: one.phrase for one in HTTPStatus}
    return known.get(status, "Unknown")
