"""git over HTTP against real git http-backend: what is on the wire, and what answers mean."""

import base64
import gzip
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path

import pytest

from backup.errors import (
    AuthenticationError,
    BackupError,
    ConfigError,
    HostUnreachable,
    Interrupted,
    RateLimited,
    RepositoryBlocked,
    RepositoryMissing,
    RepositoryUnavailable,
    SourceError,
    TruncatedPack,
)
from backup.git.http import HttpClient, HttpSettings, HttpTransport, basic, bearer
from backup.git.upload_pack import Remote
from backup.model import ObjectId, Refs, Selection
from backup.secret import Secret
from backup.stopping import Stop
from tests.support.git import EPOCH, FastImport, commit_chain, init_bare, set_head, update_refs
from tests.support.gitserver import Answer, GitHttpServer, Request
from tests.support.proxy import FaultProxy, ProxyFault
from tests.support.tls import Certificates

TOKEN = "a-token+of/tests"
Authorization = Callable[[], Secret | None]


def nobody() -> None:
    return None


@pytest.fixture
def widgets(tmp_path: Path) -> Path:
    path = init_bare(tmp_path / "src" / "acme" / "widgets.git")
    update_refs(path, {b"refs/heads/main": commit_chain(path, 3)[-1]})
    set_head(path, b"refs/heads/main")
    return path


@pytest.fixture
def root(widgets: Path) -> Path:
    return widgets.parent.parent


@contextmanager
def client(
    settings: HttpSettings | None = None, *, stop: Stop | None = None, patience: float = 30.0
) -> Iterator[HttpClient]:
    made = HttpClient(
        settings or HttpSettings(),
        connections=4,
        stop=stop or Stop(),
        patience_seconds=patience,
        connect_seconds=5.0,
    )
    try:
        yield made
    finally:
        made.close()


def remote(url: str, http: HttpClient, authorization: Authorization = nobody) -> Remote:
    transport = HttpTransport(url, client=http, authorization=authorization)
    return Remote(transport, selection=Selection(), count=lambda _: None)


def ask(url: str, http: HttpClient, authorization: Authorization = nobody) -> Refs:
    with remote(url, http, authorization) as one:
        return one.list_refs()


def failure(server: GitHttpServer, **more: Authorization) -> BackupError:
    with client() as http, pytest.raises(BackupError) as caught:
        ask(f"{server.url}/acme/widgets.git", http, **more)
    return caught.value


def answering(status: int, headers: dict[str, str] | None = None, body: bytes = b"said") -> object:
    return lambda request: Answer(status, headers or {}, body)


# --- On the wire ---------------------------------------------------------------------------------


def test_refs_and_pack_come_over_one_connection(root: Path) -> None:
    with GitHttpServer(root) as server, client() as http:
        for _ in range(3):
            with remote(f"{server.url}/acme/widgets.git", http) as one:
                refs = one.list_refs()
                pack = b"".join(one.fetch(refs.wanted(), []))
        assert pack.startswith(b"PACK")
        assert [*refs.tips] == ["refs/heads/main"]
        assert server.connections == 1
    asked = [(request.method, request.target) for request in server.requests[:3]]
    assert asked == [
        ("GET", "/acme/widgets.git/info/refs?service=git-upload-pack"),
        ("POST", "/acme/widgets.git/git-upload-pack"),
        ("POST", "/acme/widgets.git/git-upload-pack"),
    ]
    assert {request.headers["git-protocol"] for request in server.requests} == {"version=2"}


def test_a_large_request_is_compressed_and_understood(root: Path, widgets: Path) -> None:
    ids = commit_chain(widgets, 400, label=b"many")
    update_refs(widgets, {b"refs/heads/many-%d" % n: oid for n, oid in enumerate(ids)})
    with GitHttpServer(root) as server, client() as http:
        with remote(f"{server.url}/acme/widgets.git", http) as one:
            refs = one.list_refs()
            size = sum(len(data) for data in one.fetch(refs.wanted(), []))
        fetch = server.requests[-1]
    assert size > 1000
    assert fetch.headers["content-encoding"] == "gzip"
    # 401 lines of 50 bytes.
    assert int(fetch.headers["content-length"]) < 401 * 50


def test_a_compressed_answer_is_read(root: Path) -> None:
    target = "info/refs"

    with GitHttpServer(root) as plain, client() as http:
        raw = http.request(
            "GET",
            f"{plain.url}/acme/widgets.git/info/refs?service=git-upload-pack",
            headers={"Git-Protocol": "version=2"},
            body=None,
        ).read()

    def answer(request: Request) -> Answer | None:
        if target not in request.target:
            return None
        kind = "application/x-git-upload-pack-advertisement"
        return Answer(200, {"Content-Type": kind, "Content-Encoding": "gzip"}, gzip.compress(raw))

    with GitHttpServer(root, answer=answer) as server, client() as http:
        assert [*ask(f"{server.url}/acme/widgets.git", http).tips] == ["refs/heads/main"]


def test_the_service_line_of_some_servers_is_no_part_of_the_answer(root: Path) -> None:
    # git http-backend sends it to clients of version 0 only; some forges always do.
    with GitHttpServer(root, protocol=0) as server, client() as http:
        refs = ask(f"{server.url}/acme/widgets.git", http)
    assert [*refs.tips] == ["refs/heads/main"]
    assert not refs.protocol_v2


def test_credentials_go_with_the_first_request(root: Path) -> None:
    with GitHttpServer(root, credentials=("jane", TOKEN)) as server, client() as http:
        ask(f"{server.url}/acme/widgets.git", http, lambda: basic("jane", Secret(TOKEN)))
        pair = base64.b64encode(f"jane:{TOKEN}".encode()).decode()
        assert {request.headers["authorization"] for request in server.requests} == {
            f"Basic {pair}"
        }
    with GitHttpServer(root, bearer=TOKEN) as server, client() as http:
        ask(f"{server.url}/acme/widgets.git", http, lambda: bearer(Secret(TOKEN)))


def test_credentials_are_asked_for_anew_before_each_request(root: Path) -> None:
    given: list[str] = []

    def renewed() -> Secret:
        given.append(f"token-{len(given)}")
        return bearer(Secret(given[-1]))

    with GitHttpServer(root) as server, client() as http:
        ask(f"{server.url}/acme/widgets.git", http, renewed)
        used = [request.headers["authorization"] for request in server.requests]
    assert len(set(used)) == 2


def test_https_needs_the_authority_that_is_named(root: Path, tls: Certificates) -> None:
    with GitHttpServer(root, tls=tls.server_context()) as server:
        url = f"{server.url}/acme/widgets.git"
        with client(HttpSettings(ca_bundle=str(tls.ca_file))) as http:
            assert [*ask(url, http).tips] == ["refs/heads/main"]
        with client() as http, pytest.raises(SourceError, match="not trusted") as caught:
            ask(url, http)
    assert not caught.value.retryable
    assert "SSL_CERT_FILE" in caught.value.hint


def test_certificates_that_cannot_be_read_are_a_matter_of_configuration(tmp_path: Path) -> None:
    for name in ("missing.pem", "empty.pem"):
        (tmp_path / "empty.pem").touch()
        with (
            pytest.raises(ConfigError, match=name),
            client(HttpSettings(ca_bundle=str(tmp_path / name))),
        ):
            pass


# --- Redirects -----------------------------------------------------------------------------------


def test_a_redirect_within_the_place_is_followed_by_all_requests(root: Path) -> None:
    def answer(request: Request) -> Answer | None:
        if not request.target.startswith("/old/"):
            return None
        return Answer(301, {"Location": request.target.replace("/old/", "/acme/")})

    with GitHttpServer(root, answer=answer) as server, client() as http:
        with remote(f"{server.url}/old/widgets.git", http, lambda: bearer(Secret(TOKEN))) as one:
            refs = one.list_refs()
            assert b"".join(one.fetch(refs.wanted(), []))
        targets = [request.target.split("/")[1] for request in server.requests]
    assert targets == ["old", "acme", "acme", "acme"]


def test_a_redirect_elsewhere_is_refused_and_named(root: Path) -> None:
    with GitHttpServer(root) as other:
        away = f"{other.url}/acme/widgets.git"
        with GitHttpServer(root, answer=answering(302, {"Location": away})) as server:  # type: ignore[arg-type]
            error = failure(server, authorization=lambda: bearer(Secret(TOKEN)))
        assert other.requests == []
    assert "redirects to another place" in error.message
    assert away in error.message
    assert not error.retryable
    # Single sign-on leads elsewhere, too.
    assert "where people sign in" in error.hint


def test_redirects_in_circles_end(root: Path) -> None:
    with GitHttpServer(root, answer=lambda request: Answer(302, {"Location": request.target})) as s:
        error = failure(s)
    assert "in circles" in error.message
    assert len(s.requests) < 10


# --- What an answer means ------------------------------------------------------------------------

MEANINGS = {
    401: (AuthenticationError, "REPO_BACKUP_TOKEN"),
    403: (RepositoryUnavailable, "forbids"),
    404: (RepositoryMissing, "not visible"),
    410: (RepositoryMissing, "gone"),
    418: (RepositoryUnavailable, "418"),
    429: (RateLimited, "slow down"),
    451: (RepositoryBlocked, "legal"),
    500: (HostUnreachable, "500"),
    503: (HostUnreachable, "503"),
}


@pytest.mark.parametrize("status", MEANINGS)
def test_every_refusal_has_a_name_and_says_of_what(status: int, root: Path) -> None:
    kind, words = MEANINGS[status]
    with GitHttpServer(root, answer=answering(status)) as server:  # type: ignore[arg-type]
        error = failure(server)
        assert len(server.requests) == 1, "nothing is repeated here"
    assert type(error) is kind
    assert words in f"{error.message} {error.hint}"
    assert f"{server.url}/acme/widgets.git" in error.message
    assert "said" in error.message
    assert error.retryable == (kind in {RateLimited, HostUnreachable})


def test_a_refused_token_is_told_from_a_missing_one(root: Path) -> None:
    with GitHttpServer(root, credentials=("jane", TOKEN)) as server:
        missing = failure(server)
        wrong = failure(server, authorization=lambda: basic("jane", Secret("an0ther-pa55word")))
    assert "set REPO_BACKUP_TOKEN" in missing.hint
    assert "expired" in wrong.hint


@pytest.mark.parametrize(
    ("status", "headers", "least", "most"),
    [
        (429, {"Retry-After": "7"}, 7, 7),
        (429, {"Retry-After": formatdate(time.time() + 36_000, usegmt=True)}, 30_000, 36_000),
        (429, {"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, 0, 0),
        (403, {"Retry-After": "60"}, 60, 60),
        (
            403,
            {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": str(int(time.time()) + 36_000)},
            30_000,
            36_000,
        ),
        (503, {"Retry-After": "5"}, 5, 5),
    ],
)
def test_what_a_server_asks_to_wait_is_read(
    status: int, headers: dict[str, str], least: float, most: float, root: Path
) -> None:
    with GitHttpServer(root, answer=answering(status, headers)) as server:  # type: ignore[arg-type]
        error = failure(server)
    assert isinstance(error, RateLimited if status != 503 else HostUnreachable)
    assert error.retry_after_seconds is not None
    assert least <= error.retry_after_seconds <= most


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Retry-After": "soon"},
        {"Retry-After": "\xb2"},
        {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "\xb9"},
    ],
)
def test_a_throttle_that_says_nothing_leaves_the_time_to_us(
    headers: dict[str, str], root: Path
) -> None:
    with GitHttpServer(root, answer=answering(429, headers)) as server:  # type: ignore[arg-type]
        error = failure(server)
    assert isinstance(error, RateLimited)
    assert error.retry_after_seconds is None


HTML = {"Content-Type": "text/html; charset=utf-8"}
JSON = {"Content-Type": "application/json"}
LOGIN = b"<html><head><title>Sign in \xc2\xb7 Acme&#39;s</title></head><body>..."
PASSWORD = b"<title>Acme</title><form><input name=p type='password'></form>"
SQUID = HTML | {"Server": "squid/5.7", "X-Squid-Error": "ERR_ACCESS_DENIED 0"}
DENIED = b"<HTML><HEAD>\n<TITLE lang=en>ERROR: Access\nDenied</TITLE></HEAD>"
AS_GIT = {"Content-Type": "application/x-git-upload-pack-advertisement"}


@pytest.mark.parametrize(
    ("answer", "message", "hint"),
    [
        (
            Answer(200, HTML, LOGIN),
            (
                "the server answers with a page to sign in ('text/html; charset=utf-8'), not with "
                "git's protocol: a page titled \"Sign in · Acme's\""
            ),
            "set REPO_BACKUP_TOKEN",
        ),
        (Answer(200, HTML, PASSWORD), "a page to sign in", "set REPO_BACKUP_TOKEN"),
        (Answer(200, {}, LOGIN), "a page to sign in ('text/plain')", "set REPO_BACKUP_TOKEN"),
        (
            Answer(200, HTML, b"<!doctype html><title>Welcome to Airport WiFi</title>"),
            (
                "a web page ('text/html; charset=utf-8'), not with git's protocol: a page titled "
                "'Welcome to Airport WiFi'"
            ),
            "a portal of the network, or a proxy in between",
        ),
        (
            Answer(200, JSON, b'{"message": "Not here"}'),
            "'application/json', not with git's protocol: Not here",
            "check the URL",
        ),
        (Answer(200, JSON, b"[" * 60_000), "'application/json', not with git's", "check the URL"),
        (Answer(200, JSON, b'{"message": {"a": 1}}'), "not with git's protocol", "check the URL"),
        (
            Answer(200, {"Content-Type": "application/octet-stream"}, b"\0\1\2" * 9000),
            "the server answers with 'application/octet-stream', not with git's protocol",
            "check the URL",
        ),
        (
            Answer(403, SQUID, DENIED),
            "a proxy forbids it (403): a page titled 'ERROR: Access Denied'",
            "have it let git pass",
        ),
        (
            Answer(403, HTML, b"<title>Forbidden</title>"),
            "the server forbids it (403): a page titled 'Forbidden'",
            "the token needs to read",
        ),
        (
            Answer(407, HTML, b"<title>Who are you</title>"),
            "the proxy wants to know who we are (407): a page titled 'Who are you'",
            "the proxy's URL",
        ),
        (
            Answer(502, HTML | {"Via": "1.1 proxy (squid/4.10)"}, b"<title>Bad Gateway</title>"),
            "a proxy is in trouble (502): a page titled 'Bad Gateway'",
            "have it let git pass",
        ),
        (
            Answer(503, HTML, b"<title>502 Bad Gateway</title>"),
            "the server is in trouble (503): a page titled '502 Bad Gateway'",
            "",
        ),
        (
            Answer(404, HTML, b"<title>Page not found</title>"),
            "not visible to us (404): a page titled 'Page not found'",
            "",
        ),
        (Answer(200, AS_GIT, LOGIN), "'<htm' where a packet begins", ""),
    ],
)
def test_what_comes_in_place_of_git_is_said_for_what_it_is(
    answer: Answer, message: str, hint: str, root: Path
) -> None:
    with GitHttpServer(root, answer=lambda _: answer) as server:
        error = failure(server)
    assert message in error.message
    assert hint in error.hint
    assert bool(hint) == bool(error.hint)
    assert error.message.isprintable()
    assert "<" not in error.message.replace("'<htm'", "")


def test_a_page_to_sign_in_tells_a_refused_token_from_a_missing_one(root: Path) -> None:
    with GitHttpServer(root, answer=lambda _: Answer(200, HTML, LOGIN)) as server:
        error = failure(server, authorization=lambda: bearer(Secret(TOKEN)))
    assert "single sign-on" in error.hint


def test_a_page_in_place_of_an_answer_to_a_command_is_said_as_well(root: Path) -> None:
    def answer(request: Request) -> Answer | None:
        return Answer(200, HTML, LOGIN) if request.method == "POST" else None

    with GitHttpServer(root, answer=answer) as server:
        error = failure(server)
    assert "a page to sign in" in error.message


@pytest.mark.parametrize(
    "page",
    [
        b"<title>" + b"x" * 300_000,
        b"<title " * 50_000,
        b"<input " * 50_000,
        b"<title>\x1b]0;owned\x07" + TOKEN.encode() + b"\n::error::x</title>",
        b"<title></title>",
        b"<html>" + b" " * 300_000 + b"<title>far away</title>",
    ],
)
def test_a_page_is_data_whatever_is_in_it(page: bytes, root: Path) -> None:
    with GitHttpServer(root, answer=lambda _: Answer(200, HTML, page)) as server:
        error = failure(server, authorization=lambda: bearer(Secret(TOKEN)))
    assert "a web page" in error.message
    assert len(error.message) < 500
    assert error.message.isprintable()
    assert TOKEN not in error.message
    assert "far away" not in error.message


def test_what_a_server_says_is_shown_on_one_line_and_without_secrets(root: Path) -> None:
    said = f"first {TOKEN} \x1b[31mline\nsecond".encode()
    with GitHttpServer(root, answer=answering(403, {}, said)) as server:  # type: ignore[arg-type]
        error = failure(server, authorization=lambda: bearer(Secret(TOKEN)))
    assert "first *** " in error.message
    assert "second" not in error.message
    assert error.message.isprintable()


# --- The network ---------------------------------------------------------------------------------

UPLOAD_PACK = "/git-upload-pack$"


def test_a_server_that_is_not_there_may_come_back() -> None:
    with client() as http, pytest.raises(HostUnreachable, match="cannot be reached") as caught:
        ask("http://127.0.0.1:9/acme/widgets.git", http)
    assert "refused" in caught.value.message


def test_a_stalled_server_is_given_up(root: Path) -> None:
    stall = ProxyFault(action="stall", target=UPLOAD_PACK, byte=10)
    with (
        GitHttpServer(root) as server,
        FaultProxy(server.url, stall) as proxy,
        client(patience=0.5) as http,
        pytest.raises(HostUnreachable, match="no byte came"),
    ):
        ask(f"{proxy.url}/acme/widgets.git", http)


def test_a_pack_that_breaks_off_tells_how_much_had_come(root: Path, widgets: Path) -> None:
    stream = FastImport(widgets)
    noise = random.Random(5).randbytes(300_000)
    stream.commit((), files={b"noise": noise}, message=b"x", at=EPOCH)
    update_refs(widgets, {b"refs/heads/large": next(iter(stream.run().values()))})
    cut = ProxyFault(action="cut", target=UPLOAD_PACK, skip=1, byte=150_000)
    with (
        GitHttpServer(root) as server,
        FaultProxy(server.url, cut) as proxy,
        client() as http,
        remote(f"{proxy.url}/acme/widgets.git", http) as one,
    ):
        refs = one.list_refs()
        with pytest.raises(TruncatedPack) as caught:
            list(one.fetch(refs.wanted(), []))
    assert 0 < caught.value.received_bytes < 150_000
    assert caught.value.retryable
    assert caught.value.message.endswith("the answer broke off: the connection ended too early")


@pytest.mark.parametrize("where", ["before the head", "within the pack"])
def test_a_signal_ends_a_wait_within_a_second(where: str, root: Path) -> None:
    stop = Stop()
    if where == "before the head":
        fault = ProxyFault(action="delay", target=UPLOAD_PACK, seconds=600)
    else:
        fault = ProxyFault(action="stall", target=UPLOAD_PACK, byte=10)
    with (
        GitHttpServer(root) as server,
        FaultProxy(server.url, fault) as proxy,
        client(stop=stop) as http,
    ):

        def interrupt() -> None:
            proxy.wait_until_struck(fault)
            stop.interrupt()

        threading.Thread(target=interrupt).start()
        began = time.monotonic()
        with pytest.raises(Interrupted):
            ask(f"{proxy.url}/acme/widgets.git", http)
        assert time.monotonic() - began < 5


def test_who_hangs_up_early_leaves_no_thread_behind(root: Path, widgets: Path) -> None:
    ids = commit_chain(widgets, 3000, label=b"long")
    update_refs(widgets, {b"refs/heads/long": ids[-1]})
    before = threading.active_count()
    with GitHttpServer(root) as server, client() as http:
        for _ in range(5):
            with remote(f"{server.url}/acme/widgets.git", http) as one:
                refs = one.list_refs()
                next(one.fetch([ObjectId(oid) for oid in refs.tips.values()], []))
    end = time.monotonic() + 10
    while threading.active_count() > before and time.monotonic() < end:
        time.sleep(0.05)
    assert threading.active_count() <= before


# --- Proxies -------------------------------------------------------------------------------------


def test_a_proxy_is_used_for_what_it_is_for(root: Path) -> None:
    with GitHttpServer(root) as server:
        url = f"{server.url}/acme/widgets.git"
        # Nobody listens there.
        nowhere = "http://user:pass-word-of-proxy@127.0.0.1:9"
        for settings in (
            HttpSettings(proxies={"http": nowhere}),
            HttpSettings(proxies={"all": "127.0.0.1:9"}),
        ):
            with client(settings) as http, pytest.raises(HostUnreachable) as caught:
                ask(url, http)
            assert "pass-word" not in caught.value.message
        for settings in (
            HttpSettings(proxies={"https": nowhere}),
            HttpSettings(proxies={"all": nowhere}, no_proxy="127.0.0.1"),
            HttpSettings(proxies={"all": nowhere}, no_proxy="example.org, *"),
        ):
            with client(settings) as http:
                if "*" in settings.no_proxy:
                    assert settings.proxy_for(url) == nowhere
                    continue
                assert ask(url, http).tips


def test_a_request_through_a_proxy_says_who_we_are_to_the_proxy_alone(root: Path) -> None:
    # A server that is asked for a whole URL is asked as a proxy (RFC 9112, section 3.2.2).
    seen: list[Request] = []

    def answer(request: Request) -> Answer | None:
        seen.append(request)
        return Answer(404)

    with GitHttpServer(root, answer=answer) as proxy:
        place = proxy.url.removeprefix("http://")
        settings = HttpSettings(proxies={"http": f"http://jane:pass-word@{place}"})
        with client(settings) as http, pytest.raises(RepositoryUnavailable):
            ask("http://git.example/acme/widgets.git", http)
    assert seen[0].target.startswith("http://git.example/acme/widgets.git/info/refs")
    pair = base64.b64encode(b"jane:pass-word").decode()
    assert seen[0].headers["proxy-authorization"] == f"Basic {pair}"


def test_a_proxy_that_wants_credentials_is_said(root: Path) -> None:
    with GitHttpServer(root, answer=answering(407)) as proxy:  # type: ignore[arg-type]
        with (
            client(HttpSettings(proxies={"http": proxy.url})) as http,
            pytest.raises(SourceError, match="407"),
        ):
            ask("http://git.example/acme/widgets.git", http)
        with (
            client(HttpSettings(proxies={"https": proxy.url})) as http,
            pytest.raises(BackupError) as caught,
        ):
            ask("https://git.example/acme/widgets.git", http)
    assert "proxy" in caught.value.message


def test_a_page_that_comes_through_a_proxy_names_the_proxy_and_not_its_password(
    root: Path,
) -> None:
    page = Answer(403, HTML, b"<title>Blocked by policy</title>")
    with GitHttpServer(root, answer=lambda _: page) as proxy:
        named = proxy.url.removeprefix("http://")
        settings = HttpSettings(proxies={"http": f"http://user:pass-word-of-proxy@{named}"})
        with client(settings) as http, pytest.raises(RepositoryUnavailable) as caught:
            ask("http://git.example/acme/widgets.git", http)
    error = caught.value
    assert f"(403) (through the proxy {named}): a page titled 'Blocked by policy'" in error.message
    assert "no_proxy" in error.hint
    assert "pass-word-of-proxy" not in error.message
