"""The client of Git LFS against a server that says anything: links, credentials, quotas, ends."""

import gzip
import json
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from backup import limits
from backup.errors import (
    AnswerTooLarge,
    BackupError,
    FileMissing,
    HostUnreachable,
    LinkExpired,
    RateLimited,
    RepositoryUnavailable,
    SourceError,
)
from backup.git.http import HttpClient, HttpSettings, basic
from backup.git.lfs import Access, LfsServer, Offer, OverSsh, Upload, over_http
from backup.git.pointers import Pointer
from backup.secret import Secret
from backup.sources.one_server import OneServerSession
from backup.stopping import Stop
from tests.support.gitserver import Answer, GitHttpServer, Request
from tests.support.lfsserver import TYPE, oid_of
from tests.support.tls import Certificates

HTML = {"Content-Type": "text/html; charset=utf-8"}
CONTENT = b"the file"
ONE = Pointer(oid_of(CONTENT), len(CONTENT))
AUTHORIZATION = basic("x-access-token", Secret("s3cret-of-this-test"))


class Server:
    """A server of which each test says what it answers."""

    def __init__(self, folder: Path, tls: Certificates | None = None) -> None:
        self.batch: Answer | dict[str, Any] = {}
        self.files: dict[str, Answer] = {}
        context = None if tls is None else tls.server_context()
        self._tls = tls
        self.http = GitHttpServer(folder, answer=self._answer, tls=context)

    def _answer(self, request: Request) -> Answer:
        if request.target.endswith("/objects/batch"):
            if isinstance(self.batch, Answer):
                return self.batch
            return Answer(200, TYPE, json.dumps(self.batch).encode())
        return self.files.get(request.target, Answer(404))

    def client(
        self,
        *,
        clone: str = "/acme/media.git",
        stop: Stop | None = None,
        patience_seconds: float = 300.0,
    ) -> LfsServer:
        bundle = None if self._tls is None else str(self._tls.ca_file)
        http = HttpClient(
            HttpSettings(ca_bundle=bundle),
            connections=2,
            stop=stop or Stop(),
            patience_seconds=patience_seconds,
        )
        access = over_http(self.http.url + clone, lambda: AUTHORIZATION)
        return LfsServer(access, named="the server", client=http, count=lambda _: None)

    def links(self, href: str, **more: Any) -> None:
        """Give a link to the file."""
        action = {"href": href, **more}
        self.batch = {"objects": [{"oid": ONE.oid, "size": 8, "actions": {"download": action}}]}

    def asked(self, target: str) -> Request:
        return next(one for one in self.http.requests if one.target == target)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    made = Server(tmp_path)
    with made.http:
        yield made


def offer(client: LfsServer) -> Offer:
    found = client.offers([ONE])[ONE.oid]
    assert isinstance(found, Offer), found
    return found


def refusal(client: LfsServer) -> SourceError:
    found = client.offers([ONE])[ONE.oid]
    assert isinstance(found, SourceError), found
    return found


# --- Where the server is, and what it is asked ---


@pytest.mark.parametrize("clone", ["/acme/media.git", "/acme/media", "/acme/media/"])
def test_the_server_is_beside_the_repository(clone: str, server: Server) -> None:
    server.links(f"{server.http.url}/file")
    offer(server.client(clone=clone))
    request = server.asked("/acme/media.git/info/lfs/objects/batch")
    assert request.headers["authorization"] == AUTHORIZATION.reveal()
    assert request.headers["accept"] == TYPE["Content-Type"]
    assert json.loads(request.form) == {
        "operation": "download",
        "transfers": ["basic"],
        "objects": [{"oid": ONE.oid, "size": 8}],
        "hash_algo": "sha256",
    }


@pytest.mark.parametrize(
    ("answer", "kind", "words"),
    [
        (Answer(401), SourceError, "does not accept who we are"),
        (Answer(403, TYPE, b'{"message": "over its data quota"}'), RepositoryUnavailable, "quota"),
        (Answer(404, TYPE, b'{"message": "no LFS"}'), RepositoryUnavailable, "(404): no LFS"),
        (Answer(429, {"Retry-After": "7"}), RateLimited, "slow down"),
        (Answer(507, TYPE, b'{"message": "x"}'), RepositoryUnavailable, "quota is used up (507)"),
        (Answer(509), RepositoryUnavailable, "quota is used up (509)"),
        (Answer(302, {"Location": "http://other.example/"}), SourceError, "redirects elsewhere"),
        (Answer(302, {"Location": "/x/objects/batch"}), SourceError, "redirects in circles"),
        (Answer(413), RepositoryUnavailable, "413"),
        (Answer(200, {}, b"<html>"), SourceError, "a web page"),
        (Answer(200, HTML, b"<title>Log in</title>"), SourceError, "a page to sign in ('text/html"),
        (Answer(403, HTML, b"<title>Filtered</title>"), SourceError, "a page titled 'Filtered'"),
        (Answer(200, TYPE, b"[" * 200_000), SourceError, "not with readable JSON"),
        (Answer(200, TYPE, b"[]"), SourceError, "not one of Git LFS"),
        (Answer(200, TYPE, b'{"objects": 1}'), SourceError, "not one of Git LFS"),
        (Answer(200, TYPE, b'{"objects": [], "transfer": "tus"}'), SourceError, "another way"),
        (Answer(200, TYPE, b'{"objects": [], "hash_algo": "md5"}'), SourceError, "another way"),
    ],
)
def test_a_server_that_gives_no_links(
    answer: Answer, kind: type[BackupError], words: str, server: Server
) -> None:
    server.batch = answer
    with pytest.raises(kind) as caught:
        server.client().offers([ONE])
    assert words in caught.value.message


def test_an_answer_about_files_has_a_limit(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOST_LFS_ANSWER_BYTES", 1 << 20)
    packed = gzip.compress(b'{"objects": [' + b" " * (64 << 20))
    server.batch = Answer(200, TYPE | {"Content-Encoding": "gzip"}, packed)
    with pytest.raises(AnswerTooLarge, match="the answer has more than 1048576 bytes") as caught:
        server.client().offers([ONE])
    assert not caught.value.retryable
    assert AUTHORIZATION.reveal() not in caught.value.message


@pytest.mark.parametrize(
    "more", [{"transfer": None}, {"transfer": ""}, {"hash_algo": ""}, {"hash_algo": None}, {}]
)
@pytest.mark.parametrize("name", ["actions", "_links"])
def test_a_server_may_say_nothing_of_the_way_and_name_links_as_the_first_version_did(
    name: str, more: dict[str, Any], server: Server
) -> None:
    action = {"download": {"href": f"{server.http.url}/file"}}
    server.batch = {"objects": [{"oid": ONE.oid, "size": 8, name: action}], **more}
    server.files["/file"] = Answer(200, {}, CONTENT)
    client = server.client()
    assert b"".join(client.read(ONE, offer(client))) == CONTENT


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_a_redirect_of_the_server_at_its_own_place_is_followed_with_all_that_was_asked(
    status: int, server: Server
) -> None:
    server.links(f"{server.http.url}/file")
    links, led = server.batch, []

    def lead(request: Request) -> Answer | None:
        if request.target.startswith("/acme/"):
            led.append(request.target)
            return Answer(status, {"Location": "/moved/objects/batch"})
        return server._answer(request)

    server.http.answer = lead
    assert offer(server.client()).place == f"{server.http.url}/file"
    assert (server.batch, len(led)) == (links, 1)
    asked = server.asked("/moved/objects/batch")
    assert asked.method == "POST"
    assert json.loads(asked.form)["objects"] == [{"oid": ONE.oid, "size": 8}]
    assert asked.headers["authorization"] == AUTHORIZATION.reveal()


def test_what_is_too_much_for_a_server_is_asked_for_by_halves(server: Server) -> None:
    pointers = [Pointer(oid_of(b"%d" % number), 1) for number in range(11)]

    def answer(request: Request) -> Answer:
        asked = json.loads(request.form)["objects"]
        if len(asked) > 3:
            return Answer(413)
        href = {"download": {"href": f"{server.http.url}/file"}}
        return Answer(
            200, TYPE, json.dumps({"objects": [o | {"actions": href} for o in asked]}).encode()
        )

    server.http.answer = answer
    found = server.client().offers(pointers)
    assert all(isinstance(found[one.oid], Offer) for one in pointers)
    assert len(server.http.requests) == 7


@pytest.mark.parametrize(
    ("line", "kind", "words"),
    [
        ({"error": {"code": 404, "message": "gone"}}, FileMissing, "gone (404)"),
        ({"error": {"code": 410}}, FileMissing, "the server refuses it (410)"),
        ({"error": {"code": 422, "message": "bad size"}}, FileMissing, "bad size (422)"),
        ({"error": {"code": "4" * 140_000}}, SourceError, "the server refuses it (no code)"),
        ({"error": {"code": True}}, SourceError, "the server refuses it (no code)"),
        ({"error": {"code": [404], "message": {}}}, SourceError, "the server refuses it (no code)"),
        ({}, SourceError, "gives no link"),
        ({"actions": []}, SourceError, "gives no link"),
        ({"actions": "x"}, SourceError, "is none"),
        ({"actions": {"download": {"href": 7}}}, SourceError, "is none"),
        ({"actions": {"download": {"href": "ftp://host/file"}}}, SourceError, "is none"),
        ({"actions": {"download": {"href": "file:///etc/passwd"}}}, SourceError, "is none"),
        ({"actions": {"download": {"href": "https://user:pw@host/"}}}, SourceError, "is none"),
        ({"actions": {"download": {"href": "https://host:99999/"}}}, SourceError, "is none"),
        ({"actions": {"download": {"href": "/file"}}}, SourceError, "is none"),
        # Two readers of this see two hosts.
        ({"actions": {"download": {"href": "https://one\\@other/"}}}, SourceError, "is none"),
        ({"actions": {"download": {"href": "https://[one]/"}}}, SourceError, "is none"),
        (
            {"actions": {"download": {"href": "https://host/", "header": {"A": "b\r\nC: d"}}}},
            SourceError,
            "headers that cannot be sent",
        ),
        (
            {"actions": {"download": {"href": "https://host/", "header": {"A:": "b"}}}},
            SourceError,
            "headers that cannot be sent",
        ),
        (
            {"actions": {"download": {"href": "https://host/", "header": ["A"]}}},
            SourceError,
            "is none",
        ),
    ],
)
def test_a_link_that_is_none(
    line: dict[str, Any], kind: type[SourceError], words: str, server: Server
) -> None:
    server.batch = {"objects": [7, {"oid": 8}, {"oid": ONE.oid, "size": 8} | line]}
    found = refusal(server.client())
    assert type(found) is kind
    assert words in found.message


def test_a_file_that_the_server_says_nothing_of(server: Server) -> None:
    server.batch = {"objects": [{"oid": "0" * 64}]}
    assert "says nothing of it" in refusal(server.client()).message


# --- Who gets the credentials ---


def test_a_link_to_the_server_itself_gets_what_we_came_with(server: Server) -> None:
    server.links(f"{server.http.url}/file")
    server.files["/file"] = Answer(200, {}, CONTENT)
    client = server.client()
    assert b"".join(client.read(ONE, offer(client))) == CONTENT
    assert server.asked("/file").headers["authorization"] == AUTHORIZATION.reveal()
    # Unless the server says what is needed, or that nothing is.
    server.http.requests.clear()
    server.links(f"{server.http.url}/file", header={"authorization": "RemoteAuth of-the-link"})
    b"".join(client.read(ONE, offer(client)))
    assert server.asked("/file").headers["authorization"] == "RemoteAuth of-the-link"
    server.http.requests.clear()
    assert isinstance(server.batch, dict)
    server.links(f"{server.http.url}/file")
    server.batch["objects"][0]["authenticated"] = True
    b"".join(client.read(ONE, offer(client)))
    assert "authorization" not in server.asked("/file").headers


def test_nothing_that_a_link_needs_follows_a_redirect_elsewhere(
    server: Server, tmp_path: Path
) -> None:
    store = Server(tmp_path)
    with store.http:
        server.links(f"{server.http.url}/file", header={"X-Amz-Of-The-Link": "1"})
        server.files["/file"] = Answer(307, {"Location": "/again"})
        server.files["/again"] = Answer(302, {"Location": f"{store.http.url}/there"})
        store.files["/there"] = Answer(200, {}, CONTENT)
        client = server.client()
        assert b"".join(client.read(ONE, offer(client))) == CONTENT
        assert server.asked("/again").headers["x-amz-of-the-link"] == "1"
        there = store.asked("/there").headers
        assert {"authorization", "x-amz-of-the-link"}.isdisjoint(there)
        store.files["/there"] = Answer(302, {"Location": "http://["})
        with pytest.raises(SourceError, match="redirects to no URL"):
            b"".join(client.read(ONE, offer(client)))
        store.files["/there"] = Answer(302, {"Location": "/there"})
        with pytest.raises(SourceError, match="in circles"):
            b"".join(client.read(ONE, offer(client)))


def test_a_link_is_as_private_as_the_server(server: Server, tls: Certificates) -> None:
    secure = Server(server.http.root, tls)
    with secure.http:
        client = secure.client()
        secure.links(f"{server.http.url}/file")
        assert "without encryption" in refusal(client).message
        # Nor does a redirect lead out of it.
        secure.links(f"{secure.http.url}/file")
        secure.files["/file"] = Answer(302, {"Location": f"{server.http.url}/file"})
        with pytest.raises(SourceError, match="without encryption"):
            b"".join(client.read(ONE, offer(client)))
    assert server.http.requests == []


# --- Over ssh ---


def test_what_ssh_was_told_is_used_for_as_long_as_it_is_good() -> None:
    asked: list[int] = []

    def ask(**more: object) -> bytes:
        asked.append(1)
        told = {"href": "https://host/lfs/", "header": {"Authorization": "RemoteAuth x"}}
        return json.dumps(told | more).encode()

    access = OverSsh(ask)
    assert access() == access()
    assert access() == Access("https://host/lfs", {"Authorization": "RemoteAuth x"})
    assert len(asked) == 1
    # No request begins with less than five minutes.
    short = OverSsh(partial(ask, expires_in=299))
    short()
    short()
    assert len(asked) == 3


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"welcome", "no JSON"),
        (b"[]", "names no server"),
        (b'{"href": "ssh://host/"}', "names no server"),
        (b'{"href": "https://u:p@host/"}', "names no server"),
        (b'{"href": "http://host/"}', "without encryption"),
    ],
)
def test_ssh_may_be_told_anything(answer: bytes, words: str) -> None:
    with pytest.raises(SourceError, match=words):
        OverSsh(lambda: answer)()


# --- Links that end ---


@pytest.mark.parametrize(
    ("more", "is_over"),
    [
        ({}, False),
        ({"expires_in": 3600}, False),
        ({"expires_in": -1, "expires_at": "2020-01-01T00:00:00Z"}, True),
        ({"expires_at": "2999-01-01T00:00:00.5+02:00"}, False),
        ({"expires_at": "2020-01-01T00:00:00"}, False),
        ({"expires_at": "0001-01-01T00:00:00Z"}, False),
        ({"expires_at": "some day"}, False),
        ({"expires_in": "soon"}, False),
        ({"expires_in": 10**400}, False),
    ],
)
def test_a_link_says_when_it_ends(more: Mapping[str, Any], is_over: bool, server: Server) -> None:
    server.links(f"{server.http.url}/file", **more)
    assert offer(server.client()).is_over == is_over


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410])
def test_a_store_that_refuses_a_link_is_asked_with_another(status: int, server: Server) -> None:
    server.links(f"{server.http.url}/file?X-Signature=abcdef")
    server.files["/file?X-Signature=abcdef"] = Answer(status)
    client = server.client()
    with pytest.raises(LinkExpired) as caught:
        b"".join(client.read(ONE, offer(client)))
    assert caught.value.retryable
    assert caught.value.is_gone == (status in {404, 410})
    # Who has the link can read the file: it is not for a log.
    assert "abcdef" not in caught.value.message
    assert "abcdef" not in repr(offer(client))


@pytest.mark.parametrize("status", [402, 429, 451, 500, 507])
def test_what_a_link_leads_to_is_not_repeated(status: int, server: Server) -> None:
    """It may be anything that this machine can reach, and its link comes from the server."""
    said = {"Content-Type": "text/plain", "Link": '<http://of.somebody/else>; rel="blocked-by"'}
    server.links(f"{server.http.url}/file")
    server.files["/file"] = Answer(status, said, b"password of somebody else")
    client = server.client()
    with pytest.raises(BackupError) as caught:
        b"".join(client.read(ONE, offer(client)))
    assert "somebody" not in caught.value.message
    assert str(status) in caught.value.message


# --- What a link asks for that it may not ---------------------------------------------------------

NOT_PASSED_ON = (
    *("Range", "range", "Cookie", "Cookie2", "Host", "Connection", "Content-Length", "Via"),
    *("Transfer-Encoding", "Accept-Encoding", "TE", "Upgrade", "Trailer", "Keep-Alive", "Expect"),
    *("Proxy-Authorization", "proxy-connection", "Proxy-X", "If-None-Match", "If-Range"),
    *("If-Modified-Since", "X-Forwarded-For", "X-Forwarded-Host", "Forwarded", "HTTP2-Settings"),
    *("Content-Encoding", "Transfer_Encoding", "X_Forwarded_For", "if_match"),
)


@pytest.mark.parametrize("place", ["a link", "an upload", "a verification", "ssh"])
def test_no_header_of_a_link_changes_what_is_asked_or_by_whom(
    place: str, server: Server, tmp_path: Path
) -> None:
    given = {name: f"odd-{number}" for number, name in enumerate(NOT_PASSED_ON)}
    headers = given | {"X-Amz-Date": "today", "Authorization": "Bearer of-the-link-0123456"}
    server.files = {"/file": Answer(200, {}, CONTENT)}
    link = {"href": f"{server.http.url}/file", "header": headers}
    client = server.client()
    if place == "ssh":
        said = json.dumps({"href": f"{server.http.url}/lfs", "header": headers}).encode()
        http = HttpClient(HttpSettings(), connections=1, stop=Stop())
        client = LfsServer(OverSsh(lambda: said), named="x", client=http, count=lambda _: None)
        server.links(f"{server.http.url}/file")
        offer(client)
        asked = [one for one in server.http.requests if one.target == "/lfs/objects/batch"]
    elif place == "a link":
        server.links(f"{server.http.url}/file", header=headers)
        assert b"".join(client.read(ONE, offer(client))) == CONTENT
        asked = [server.asked("/file")]
    else:
        name = "upload" if place == "an upload" else "verify"
        server.batch = {"objects": [{"oid": ONE.oid, "size": 8, "actions": {name: link}}]}
        (tmp_path / "file").write_bytes(CONTENT)
        upload = client.uploads([ONE])[ONE.oid]
        assert isinstance(upload, Upload)
        client.send(ONE, upload, tmp_path / "file")
        asked = [server.asked("/file")]
    (request,) = asked
    assert [text for text in request.headers.values() if text.startswith("odd-")] == []
    # What it needs it gets.
    assert request.headers["x-amz-date"] == "today"
    assert request.headers["authorization"] == "Bearer of-the-link-0123456"


BESIDE_CREDENTIALS = (
    *("X-HTTP-Method-Override", "X-HTTP-Method", "X-Original-URL", "X-Rewrite-URL", "Sudo"),
    *("Private-Token", "Job-Token", "X-Real-IP", "True-Client-IP", "Request-Range"),
    *("Unless-Modified-Since", "User-Agent", "Origin", "Referer", "X-Anything", *NOT_PASSED_ON),
)
OF_STORES = {"X-Amz-Date": "a", "x-goog-hash": "b", "X-Ms-Blob-Type": "c", "Accept": "text/x"}


@pytest.mark.parametrize("name", ["download", "upload", "verify"])
def test_with_our_own_credentials_go_only_a_few_headers_of_a_link(
    name: str, server: Server, tmp_path: Path
) -> None:
    given = {one: f"odd-{number}" for number, one in enumerate(BESIDE_CREDENTIALS)}
    link = {"href": f"{server.http.url}/file", "header": given | OF_STORES}
    server.batch = {"objects": [{"oid": ONE.oid, "size": 8, "actions": {name: link}}]}
    server.files = {"/file": Answer(200, {}, CONTENT)}
    client = server.client()
    if name == "download":
        assert b"".join(client.read(ONE, offer(client))) == CONTENT
    else:
        (tmp_path / "file").write_bytes(CONTENT)
        upload = client.uploads([ONE])[ONE.oid]
        assert isinstance(upload, Upload)
        client.send(ONE, upload, tmp_path / "file")
    headers = server.asked("/file").headers
    assert headers["authorization"] == AUTHORIZATION.reveal()
    assert [text for text in headers.values() if text.startswith("odd-")] == []
    assert {one: headers[one.lower()] for one in OF_STORES} == OF_STORES


# --- Ends -----------------------------------------------------------------------------------------


def drip(sent: list[int], *, most: int) -> Iterator[bytes]:
    """Send one byte now and then, as often as that."""
    for number in range(most):
        sent.append(number)
        yield b"x"
        time.sleep(0.02)


def test_a_file_of_one_byte_now_and_then_is_given_up(server: Server) -> None:
    sent: list[int] = []
    server.links(f"{server.http.url}/file")
    server.files = {"/file": Answer(200, {}, drip(sent, most=3000))}
    client = server.client(patience_seconds=0.5)
    with pytest.raises(HostUnreachable):
        [*client.read(ONE, offer(client))]
    assert len(sent) < 3000


def test_an_answer_of_one_byte_now_and_then_is_given_up(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MOST_API_SECONDS", 0.5)
    sent: list[int] = []
    server.batch = Answer(200, TYPE, drip(sent, most=3000))
    with pytest.raises(HostUnreachable, match="takes longer than"):
        server.client().offers([ONE])
    assert len(sent) < 3000


class Raw:
    """A server that says what it likes to whoever connects, until nobody takes it any more."""

    def __init__(self, begin: bytes, more: bytes, *, pause_seconds: float) -> None:
        self._begin, self._more, self._pause_seconds = begin, more, pause_seconds
        # Set when the other side has ended the connection.
        self.is_left = threading.Event()
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._socket.accept()
                threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def _talk(self, connection: socket.socket) -> None:
        try:
            with connection:
                connection.recv(65536)
                connection.sendall(self._begin)
                while True:
                    connection.sendall(self._more)
                    time.sleep(self._pause_seconds)
        except OSError:
            self.is_left.set()

    def close(self) -> None:
        # Closed alone, its number would be the next server's, whose first connection this thread
        # could take.
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()


# Source: TCP_RTO_MAX: so long Linux waits at most before it asks again whether a full window
# opened, and learns that the connection is gone.
MOST_PROBING_SECONDS = 120
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.git-lfs+json\r\n"
WITHOUT_END = {
    "a head, byte by byte": (HEAD + b"X-A: ", b"a", 0.02),
    "a flood of interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 100, 0.0),
    "an interim answer now and then": (b"", b"HTTP/1.1 100 Continue\r\n\r\n", 0.02),
    "a trailer": (HEAD + b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n", b"X: y\r\n", 0.02),
}


@pytest.fixture(params=list(WITHOUT_END.values()), ids=list(WITHOUT_END))
def raw(request: pytest.FixtureRequest) -> Iterator[Raw]:
    begin, more, pause_seconds = request.param
    server = Raw(begin, more, pause_seconds=pause_seconds)
    yield server
    server.close()


def no_thread_goes_on() -> bool:
    """Tell whether all threads that receive answers end; waits for them for a minute at most."""
    for thread in threading.enumerate():
        if "_receive" in thread.name:
            thread.join(60)
            if thread.is_alive():
                return False
    return True


def test_an_answer_without_end_is_given_up_wherever_it_has_none(
    raw: Raw, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MOST_API_SECONDS", 0.5)
    # The deadline ends the test alone, where the limit does not.
    http = HttpClient(HttpSettings(), connections=2, stop=Stop(deadline_seconds=60))
    server = LfsServer(
        over_http(f"{raw.url}/a.git", lambda: None), named="it", client=http, count=lambda _: None
    )
    with pytest.raises(HostUnreachable, match="takes longer than"):
        server.offers([ONE])
    assert raw.is_left.wait(2 * MOST_PROBING_SECONDS)
    assert no_thread_goes_on()


def test_git_gives_up_an_answer_of_which_nothing_can_be_read(raw: Raw) -> None:
    http = HttpClient(
        HttpSettings(), connections=2, stop=Stop(deadline_seconds=60), patience_seconds=0.5
    )

    def read() -> None:
        answer = http.ask("GET", raw.url, headers={}, body=None, named="it")
        while answer.read(1024):
            pass

    with pytest.raises(HostUnreachable, match="nothing of the answer could be read"):
        read()
    assert raw.is_left.wait(2 * MOST_PROBING_SECONDS)
    assert no_thread_goes_on()


def test_an_api_gives_up_an_answer_without_end(raw: Raw, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MOST_API_SECONDS", 0.5)
    with OneServerSession("it") as session, pytest.raises(TimeoutError, match="takes longer than"):
        session.get(raw.url, timeout=60)
    assert raw.is_left.wait(2 * MOST_PROBING_SECONDS)
