"""git's smart HTTP: one GET for the advertisement, one POST for each command.

Each answer is received by a thread of its own, some pieces ahead of its reader. The reader waits
on that thread alone, so that a signal or a deadline ends the wait at once, whatever the network
does. Nothing is repeated here: a failure is one of our errors, and says whether it may pass.
Source: gitprotocol-http(5); gitprotocol-v2(5), "HTTP Transport".
"""

import base64
import gzip
import ssl
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, Full, Queue
from threading import Event, Thread
from time import monotonic
from typing import BinaryIO
from urllib.parse import urlsplit
from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined] # undocumented

from urllib3 import BaseHTTPResponse, PoolManager, ProxyManager
from urllib3.exceptions import HTTPError, ProxyError, ReadTimeoutError, SSLError
from urllib3.exceptions import ProtocolError as BrokenConnection
from urllib3.util import Timeout, make_headers, parse_url

import backup
from backup import limits
from backup.connections import Line, hold_connections
from backup.errors import (
    AnswerTooLarge,
    BackupError,
    ConfigError,
    HostUnreachable,
    MalformedPacket,
    ProtocolError,
    RepositoryMissing,
    RepositoryUnavailable,
    SourceError,
    TruncatedResponse,
    causes,
)
from backup.git.dumb import advertisement, read_list
from backup.git.pktline import PacketReader, Special
from backup.git.rate import LeastRate
from backup.git.refusals import PROXY_HINT, media_type, not_what_was_asked_for, require_success
from backup.machine import limit_reached
from backup.secret import Secret
from backup.stopping import Stop
from backup.urls import joined, place_of, shown

# What a request sends: bytes, or a file whose length a header tells.
Body = bytes | BinaryIO | None

_SERVICE = "git-upload-pack"
# Some servers tell git from a browser by how the name begins.
_USER_AGENT = f"git/2 (repo-backup {backup.__version__})"

REDIRECTS = {301, 302, 303, 307, 308}
MOST_REDIRECTS = 5
_GZIP_ABOVE_BYTES = 1024
_HEAD_BYTES = 2048
_PIECE_BYTES = 1 << 18
_PIECES_AHEAD = 8
_LOOK_SECONDS = 0.25
_CLOSING_SECONDS = 0.2


@dataclass(frozen=True, slots=True)
class HttpSettings:
    """How servers are reached.

    Attributes:
        proxies: a proxy's URL for ``http``, ``https`` or ``all``.
        no_proxy: hosts that are reached directly, by comma.
        ca_bundle: a file of certificates trusted in place of the system's.
    """

    proxies: Mapping[str, str] = field(default_factory=dict)
    no_proxy: str = ""
    ca_bundle: str | None = None

    def proxy_for(self, url: str) -> str | None:
        """Name the proxy that a URL is asked through, if there is one."""
        place = urlsplit(url)
        if self.no_proxy and proxy_bypass_environment(place.netloc, {"no": self.no_proxy}):
            return None
        proxy = self.proxies.get(place.scheme) or self.proxies.get("all")
        return f"http://{proxy}" if proxy and "://" not in proxy else proxy


@dataclass(frozen=True, slots=True)
class Due:
    """By when an answer must be there whole, with all redirects on the way to it.

    Attributes:
        seconds: from now on.
        at: by `time.monotonic`.
    """

    seconds: float
    at: float = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "at", monotonic() + self.seconds)


class HttpClient:
    """The connections of a run: kept open, and shared by threads.

    Args:
        connections: how many to one server are kept open.
        stop: ends every wait with its own error.
        patience_seconds: how long a server may send no byte, also before the first. Of what comes
            and is no part of an answer, such as a head without end, twice that is taken.
        connect_seconds: how long it may take to reach one.

    Raises:
        ConfigError: the certificates cannot be read.
    """

    def __init__(
        self,
        settings: HttpSettings,
        *,
        connections: int,
        stop: Stop,
        patience_seconds: float = 300.0,
        connect_seconds: float = 30.0,
    ) -> None:
        self.stop = stop
        self.patience_seconds = patience_seconds
        self._settings = settings
        self._timeout = Timeout(connect=connect_seconds, read=patience_seconds)
        try:
            tls = ssl.create_default_context(cafile=settings.ca_bundle)
        except OSError as error:
            raise ConfigError(
                f"{settings.ca_bundle!r} gives no certificates: {error.strerror or error}"
            ) from error
        self._direct = PoolManager(maxsize=connections, ssl_context=tls)
        hold_connections(self._direct)
        self._proxied: dict[str, ProxyManager] = {}
        for scheme in settings.proxies:
            proxy = HttpSettings({"all": settings.proxies[scheme]}).proxy_for("https://any") or ""
            manager = _proxy_manager(proxy, connections=connections, tls=tls)
            hold_connections(manager)
            self._proxied[proxy] = manager

    def request(
        self, method: str, url: str, *, headers: Mapping[str, str], body: Body
    ) -> BaseHTTPResponse:
        """Send one request and return its answer when the head is there; raises as urllib3 does."""
        proxy = self._settings.proxy_for(url)
        pool = self._direct if proxy is None else self._proxied[proxy]
        return pool.request(
            method,
            url,
            body=body,
            headers=dict(headers),
            preload_content=False,
            redirect=False,
            retries=False,
            timeout=self._timeout,
        )

    def ask(
        self,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str],
        body: Body,
        named: str,
        due: "Due | None" = None,
    ) -> "Answer":
        """Send one request and wait for the head of its answer, whatever its status is.

        Args:
            method: such as GET.
            url: what is asked.
            headers: all that are sent beside those of the connection.
            body: None for none.
            named: what messages call the place that is asked.
            due: by when the answer must be there, to its last byte; None for no such time.

        Raises:
            BackupError: there was no answer, or the run must stop.
        """

        def begin() -> BaseHTTPResponse:
            return self.request(method, url, headers=headers, body=body)

        proxy = self._settings.proxy_for(url)
        return Answer(
            begin,
            url=url,
            proxy="" if proxy is None else urlsplit(proxy).netloc.rpartition("@")[2],
            named=named,
            stop=self.stop,
            patience_seconds=self.patience_seconds,
            due=due,
        )

    def close(self) -> None:
        """End the connections that nobody uses."""
        for pool in (self._direct, *self._proxied.values()):
            pool.clear()


def _proxy_manager(proxy: str, *, connections: int, tls: ssl.SSLContext) -> ProxyManager:
    try:
        place = parse_url(proxy)
        headers = make_headers(proxy_basic_auth=place.auth) if place.auth else {}
        if place.auth:
            Secret(place.auth)
            Secret(place.auth.partition(":")[2])
        bare = place._replace(auth=None).url
        return ProxyManager(bare, proxy_headers=headers, maxsize=connections, ssl_context=tls)
    except (HTTPError, ValueError) as error:
        raise ConfigError(
            "a proxy of the environment has no usable URL: "
            "give http://HOST:PORT or https://HOST:PORT (https_proxy, http_proxy, all_proxy)"
        ) from error


def basic(username: str, password: Secret) -> Secret:
    """Make the Authorization header's value for a name and a password or token."""
    pair = f"{username}:{password.reveal()}".encode()
    return Secret(f"Basic {base64.b64encode(pair).decode()}")


def bearer(token: Secret) -> Secret:
    """Make the Authorization header's value for a bearer token."""
    return Secret(f"Bearer {token.reveal()}")


def git_settings(
    url: str, settings: HttpSettings, authorization: Secret | None
) -> list[tuple[str, str]]:
    """Give the git program's configuration for the same way to a server."""
    found = []
    if settings.ca_bundle is not None:
        found.append(("http.sslCAInfo", settings.ca_bundle))
    if (proxy := settings.proxy_for(url)) is not None:
        found.append(("http.proxy", proxy))
    if authorization is not None:
        place = urlsplit(url)
        # To this place alone (git-config(1), http.<url>.*).
        name = f"http.{place.scheme}://{place.netloc}/.extraHeader"
        found.append((name, f"Authorization: {authorization.reveal()}"))
    return found


class HttpTransport:
    """One repository over HTTP; see `backup.git.transport.Transport`. Used by one thread.

    Credentials go with every request to the scheme, host and port of the URL, and nowhere else:
    a redirect to another place is an error.

    Args:
        url: as it is cloned, without credentials.
        client: its connections are used and left open.
        authorization: gives the header's value, asked before each request.
    """

    def __init__(
        self,
        url: str,
        *,
        client: HttpClient,
        authorization: Callable[[], Secret | None] = lambda: None,
    ) -> None:
        self._named = url
        self._base = url.rstrip("/")
        self._client = client
        self._authorization = authorization
        self._answer: Answer | None = None
        self._packets: PacketReader | None = None

    def advertisement(self) -> PacketReader:
        suffix = f"/info/refs?service={_SERVICE}"
        answer = self._ask("GET", self._base + suffix, body=None)
        answer.rate.limit(limits.MOST_REF_LIST_SECONDS)
        if answer.url.endswith(suffix):
            # What the server redirected to is where the next requests go as well.
            self._base = answer.url.removesuffix(suffix)
        if media_type(answer) != f"application/x-{_SERVICE}-advertisement":
            return self._from_files(answer)
        packets = self._packets = PacketReader(_within_ratio(answer))
        first = packets.next()
        if first is Special.FLUSH or _service_line(first) is None:
            packets.put_back(first)
            return packets
        # Source: gitprotocol-http(5), "Smart Server Response": the service, then a flush.
        if packets.next() is not Special.FLUSH:
            raise MalformedPacket(f"{self._named}: no flush packet follows the service's name")
        return packets

    def exchange(self, request: bytes, *, prepares: bool = False) -> PacketReader:
        answer = self._ask("POST", f"{self._base}/{_SERVICE}", body=request)
        if prepares:
            answer.rate.prepare()
        else:
            answer.rate.limit(limits.MOST_REF_LIST_SECONDS)
        if media_type(answer) != f"application/x-{_SERVICE}-result":
            raise self._no_git(answer)
        self._packets = PacketReader(_within_ratio(answer))
        return self._packets

    def content_begins(self) -> None:
        if self._answer is not None:
            self._answer.rate.begin()

    @property
    def base(self) -> str:
        """The URL that answers: what the server redirected to, once it was asked."""
        return self._base

    def ended(self) -> bool:
        if self._packets is None:
            raise AssertionError("nothing was begun")
        return self._packets.at_end()

    def explain(self, error: ProtocolError) -> BackupError:
        return error

    def close(self) -> None:
        if self._answer is not None:
            self._answer.close()

    def _ask(self, method: str, url: str, *, body: bytes | None) -> "Answer":
        """Make a request and follow redirects within the place it is made to."""
        self.close()
        for _ in range(MOST_REDIRECTS):
            answer = self._answer = self._send(method, url, body)
            if answer.status not in REDIRECTS:
                require_success(answer, self._named, signed_in=self._is_signed_in())
                return answer
            answer.close()
            target = joined(url, answer.headers.get("location", ""))
            place = place_of(target)
            if place is None or place != place_of(self._named):
                raise SourceError(
                    f"{self._named}: the server redirects to another place, {shown(target)}",
                    hint="give that URL, if you trust it: credentials never follow a redirect; "
                    "where people sign in there, the token is missing or not accepted "
                    "(REPO_BACKUP_TOKEN)",
                )
            url = target
        raise SourceError(f"{self._named}: the server redirects in circles")

    def _send(self, method: str, url: str, body: bytes | None) -> "Answer":
        headers = {
            "User-Agent": _USER_AGENT,
            "Git-Protocol": "version=2",
            "Accept-Encoding": "gzip",
            "Accept": "*/*",
            "Pragma": "no-cache",
        }
        if body is not None:
            headers["Content-Type"] = f"application/x-{_SERVICE}-request"
            headers["Accept"] = f"application/x-{_SERVICE}-result"
            if len(body) > _GZIP_ABOVE_BYTES:
                headers["Content-Encoding"] = "gzip"
                body = gzip.compress(body, mtime=0)
        if (authorization := self._authorization()) is not None:
            headers["Authorization"] = authorization.reveal()
        return self._client.ask(method, url, headers=headers, body=body, named=self._named)

    def _from_files(self, answer: "Answer") -> PacketReader:
        """Make the advertisement of a repository of which a web server has the files alone."""
        begin = bytearray()

        def read(size: int) -> bytes:
            piece = answer.read(size)
            begin.extend(piece[: limits.MOST_PAGE_BYTES - len(begin)])
            return piece

        listed = read_list(read)
        if listed is None:
            raise self._no_git(answer, bytes(begin))
        head = b""
        with suppress(RepositoryMissing):
            head = self._ask("GET", f"{self._base}/HEAD", body=None).read(_HEAD_BYTES)
        if not listed and not head.startswith(b"ref: refs/"):
            raise self._no_git(answer)
        packets = advertisement(listed, head)
        self._packets = PacketReader(lambda _: next(packets, b""))
        return self._packets

    def _no_git(self, answer: "Answer", begin: bytes = b"") -> RepositoryUnavailable:
        """Build the error for an answer that is none of git, of which the beginning was read."""
        return not_what_was_asked_for(
            answer,
            begin,
            self._named,
            due="git's protocol",
            check="the URL: it must be the one that git clone takes",
            signed_in=self._is_signed_in(),
        )

    def _is_signed_in(self) -> bool:
        return self._authorization() is not None


def _within_ratio(answer: "Answer") -> Callable[[int], bytes]:
    """Read an answer as long as it does not unpack to far more than what came of it.

    A pack may have any size: that someone has to send it is what keeps it from being endless.
    """
    unpacked_bytes = 0

    def read(size: int) -> bytes:
        nonlocal unpacked_bytes
        piece = answer.read(size)
        unpacked_bytes += len(piece)
        if unpacked_bytes > max(
            limits.UNPACKED_AT_ANY_RATIO_BYTES, answer.received_bytes * limits.MOST_RATIO
        ):
            raise AnswerTooLarge(
                f"the server's answer unpacks to more than {limits.MOST_RATIO} times its size"
            )
        return piece

    return read


def _service_line(packet: bytes | Special) -> bytes | None:
    if isinstance(packet, bytes) and packet.rstrip(b"\n") == b"# service=git-upload-pack":
        return packet
    return None


class Answer:
    """One answer on its way. The thread that receives it ends with it, or when it is closed.

    Attributes:
        url: what was asked.
        proxy: the host and port of the proxy that it was asked through; empty where there is none.
        headers: names in lower case.
        rate: what its body is held to.
    """

    def __init__(
        self,
        begin: Callable[[], BaseHTTPResponse],
        *,
        url: str,
        proxy: str,
        named: str,
        stop: Stop,
        patience_seconds: float,
        due: Due | None = None,
    ) -> None:
        self.url = url
        self.proxy = proxy
        self._named = named
        self._stop = stop
        self._patience_seconds = patience_seconds
        self._due = due
        self.rate = LeastRate(named, window_seconds=2 * patience_seconds)
        self._line = Line()
        # Pieces, the head before them, an error in their place; an empty piece is the end.
        self._pieces: Queue[BaseHTTPResponse | bytes | BackupError] = Queue(_PIECES_AHEAD)
        self._closed = Event()
        self._rest = b""
        self._over: BackupError | None = None
        self._is_whole = False
        self._response: BaseHTTPResponse | None = None
        self._thread = Thread(target=self._receive, args=(begin,), daemon=True)
        # The server may answer, or let the time pass, before this thread goes on.
        asked_at = stop.clock_seconds()
        self._thread.start()
        head = self._next(asked_at)
        if isinstance(head, bytes):
            raise AssertionError("the head comes first")  # noqa: TRY004 - no caller's mistake
        self.status = head.status
        self.headers = {name.lower(): value for name, value in head.headers.items()}

    @property
    def received_bytes(self) -> int:
        """How much of the body came so far, before it was unpacked."""
        return 0 if self._response is None else self._response.tell()

    def read(self, size: int) -> bytes:
        """Return at most size bytes as soon as there are any; nothing at the end only.

        Raises:
            TruncatedResponse: the connection broke before the answer's end.
            HostUnreachable: nothing came for too long, or too little (`LeastRate`).
            SourceError: it takes longer than its rate allows.
        """
        if not self._rest and not self._is_whole:
            self._rest = self.rate.note(self._piece)
            self._is_whole = not self._rest
        if len(self._rest) <= size:
            taken, self._rest = self._rest, b""
        else:
            taken, self._rest = self._rest[:size], self._rest[size:]
        return taken

    def close(self) -> None:
        """Receive no more. May be called any number of times.

        The connection of an answer that is over is used again; any other is ended.
        """
        if self._pieces.empty() and not self._stop.interrupted:
            # After the last packet, the end of the body takes one more moment.
            self._thread.join(_CLOSING_SECONDS)
        self._closed.set()
        # Wakes the thread where it waits for bytes; it closes the connection itself.
        self._line.cut()

    def _piece(self) -> bytes:
        piece = self._next(self._stop.clock_seconds())
        if not isinstance(piece, bytes):
            raise AssertionError("one head only")  # noqa: TRY004 - no caller's mistake
        return piece

    def _next(self, since: float) -> BaseHTTPResponse | bytes:
        if self._over is not None:
            raise self._over
        began = monotonic()
        while True:
            try:
                self._require_in_time(began)
                item = self._pieces.get(timeout=_LOOK_SECONDS)
            except Empty:
                try:
                    self._stop.check_while_waiting(self._named, since=since)
                except BackupError:
                    self.close()
                    raise
                continue
            if isinstance(item, BackupError):
                self._over = item
                raise item
            return item

    def _require_in_time(self, began: float) -> None:
        """Give an answer up that takes too long, whatever comes meanwhile."""
        now, due = monotonic(), self._due
        # How long a request takes to be sent is for the socket to limit.
        began = began if self._response is not None else (self._line.sent_at or now)
        most = 2 * self._patience_seconds
        if due is not None and now > due.at:
            words = f"the answer takes longer than {due.seconds:.0f} seconds"
        elif now - began > most:
            words = f"nothing of the answer could be read for {most:.0f} seconds"
        else:
            return
        self._over = HostUnreachable(f"{self._named}: {words}")
        self.close()
        raise self._over

    # --- In the thread ---

    def _receive(self, begin: Callable[[], BaseHTTPResponse]) -> None:
        with self._line.held():
            self._receive_held(begin)

    def _receive_held(self, begin: Callable[[], BaseHTTPResponse]) -> None:
        response: BaseHTTPResponse | None = None
        try:
            response = self._response = begin()
            self._put(response)
            while not self._closed.is_set() and (piece := response.read1(_PIECE_BYTES)):
                self._put(piece)
            if not self._closed.is_set():
                self._line.let_go()
            self._put(b"")
        except (HTTPError, OSError) as error:
            self._put(_network_error(error, self._named, self._patience_seconds, response))
        except Exception as error:  # noqa: BLE001  told where it is read, whatever it is
            unknown = SourceError(f"{self._named}: {type(error).__name__}: {error}")
            self._put(limit_reached(error) or unknown)
        finally:
            if response is not None and self._closed.is_set():
                response.close()

    def _put(self, item: BaseHTTPResponse | bytes | BackupError) -> None:
        while not self._closed.is_set():
            try:
                self._pieces.put(item, timeout=_LOOK_SECONDS)
            except Full:
                continue
            return


def _network_error(
    error: Exception, url: str, patience_seconds: float, response: BaseHTTPResponse | None
) -> BackupError:
    """Name what the network did, and tell what may pass from what will not."""
    if limit := limit_reached(error):
        return limit
    cause = error.args[-1] if isinstance(error, ProxyError) else error
    words = _reason(error)
    if isinstance(error, ReadTimeoutError):
        return HostUnreachable(f"{url}: no byte came for {patience_seconds:.0f} seconds")
    if _is_distrust(error):
        return SourceError(
            f"{url}: the server's certificate is not trusted: {words}",
            hint="name the authority's certificates in SSL_CERT_FILE, if it is your own",
        )
    if isinstance(error, ProxyError) and " 407 " in f" {cause} ":
        return SourceError(
            f"{url}: the proxy wants to know who we are (407)",
            hint=PROXY_HINT,
        )
    if response is None:
        way = " through the proxy" if isinstance(error, ProxyError) else ""
        return HostUnreachable(f"{url}: cannot be reached{way}: {words}")
    return TruncatedResponse(f"{url}: the answer broke off: {words}")


def _reason(error: Exception) -> str:
    """Say what lies at the bottom of an error, in the system's words where there are any."""
    words = ""
    for place in causes(error):
        if isinstance(place, OSError) and place.strerror:
            words = place.strerror
    if words:
        return words
    if isinstance(error, BrokenConnection):
        return "the connection ended too early"
    return str(error)


def _is_distrust(error: Exception) -> bool:
    if any(isinstance(place, ssl.SSLCertVerificationError) for place in causes(error)):
        return True
    return isinstance(error, SSLError) and "CERTIFICATE_VERIFY_FAILED" in str(error)
