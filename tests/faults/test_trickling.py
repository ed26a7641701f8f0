"""git servers that send one byte now and then, for ever: they are given up, and honest ones not."""

import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from backup.errors import HostUnreachable, RepositoryUnavailable
from backup.git import http, transport
from backup.git.http import HttpClient, HttpSettings, HttpTransport
from backup.git.pktline import FLUSH, encode
from backup.git.rate import LeastRate
from backup.git.transport import ProcessTransport
from backup.git.upload_pack import Remote
from backup.model import ObjectId, Selection
from backup.stopping import Stop
from tests.support.git import commit_chain, init_bare, set_head, update_refs
from tests.support.gitserver import Answer, GitHttpServer, Request

WINDOW_SECONDS = 0.3
ADVERTISED = encode(b"# service=git-upload-pack\n") + FLUSH + encode(b"version 2\n")
KEEP_ALIVE = encode(b"\x01")


class Short(LeastRate):
    """The rule itself, over a time that a test can wait for."""

    def __init__(self, named: str, *, window_seconds: float) -> None:
        assert window_seconds >= 600.0
        super().__init__(named, window_seconds=WINDOW_SECONDS)


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "LeastRate", Short)
    monkeypatch.setattr(transport, "LeastRate", Short)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    path = init_bare(tmp_path / "git" / "acme" / "one.git")
    update_refs(path, {b"refs/heads/main": commit_chain(path, 2)[-1]})
    set_head(path, b"refs/heads/main")
    return tmp_path / "git"


def trickle(data: bytes) -> Iterator[bytes]:
    """Send data byte by byte, and go on when there is none left."""
    for byte in itertools.chain(data, itertools.repeat(ord("0"))):
        yield bytes([byte])
        time.sleep(0.01)


def remote(server: GitHttpServer) -> Remote:
    client = HttpClient(HttpSettings(), connections=2, stop=Stop())
    way = HttpTransport(f"{server.url}/acme/one.git", client=client)
    return Remote(way, selection=Selection(), count=lambda _: None)


def result(body: Iterator[bytes]) -> Answer:
    return Answer(200, {"Content-Type": "application/x-git-upload-pack-result"}, body)


@pytest.mark.parametrize("kind", ["advertisement", "files", "refs"])
def test_a_list_of_refs_that_comes_byte_by_byte_is_given_up(kind: str, root: Path) -> None:
    types = {
        "advertisement": "application/x-git-upload-pack-advertisement",
        "files": "text/plain",
    }
    long = b"%04x" % 5000 + b"version 2\n"
    body = b"0123456789" if kind == "files" else ADVERTISED + long

    def answer(request: Request) -> Answer | None:
        if kind == "refs":
            return result(trickle(long)) if request.method == "POST" else None
        return Answer(200, {"Content-Type": types[kind]}, trickle(body))

    with (
        GitHttpServer(root, answer=answer) as server,
        remote(server) as asked,
        pytest.raises(HostUnreachable, match="less than 1024 bytes a second"),
    ):
        asked.list_refs()


def test_a_page_in_place_of_refs_is_read_no_further_when_it_comes_byte_by_byte(root: Path) -> None:
    page = Answer(403, {"Content-Type": "text/html"}, trickle(b"<html>"))
    with (
        GitHttpServer(root, answer=lambda _: page) as server,
        remote(server) as asked,
        pytest.raises(RepositoryUnavailable, match="forbids it"),
    ):
        asked.list_refs()


def test_a_pack_that_comes_byte_by_byte_is_given_up(root: Path) -> None:
    pack = encode(b"packfile\n") + encode(b"\x01PACK") + b"%04x" % 5000

    def answer(request: Request) -> Answer | None:
        return result(trickle(pack)) if request.method == "POST" else None

    with (
        GitHttpServer(root, answer=answer) as server,
        remote(server) as asked,
        pytest.raises(HostUnreachable, match="less than 1024 bytes a second"),
    ):
        [*asked.fetch([ObjectId("1" * 40)], [])]


def test_a_server_that_is_long_at_work_on_a_pack_is_waited_for(root: Path) -> None:
    """It says that it is still there, in five bytes now and then, longer than the rate's time."""

    def pack() -> Iterator[bytes]:
        yield encode(b"packfile\n")
        until = time.monotonic() + 4 * WINDOW_SECONDS
        while time.monotonic() < until:
            yield KEEP_ALIVE
            time.sleep(0.01)
        yield encode(b"\x01PACK") + encode(b"\x01 and more") + FLUSH

    def answer(request: Request) -> Answer | None:
        return result(pack()) if request.method == "POST" else None

    with GitHttpServer(root, answer=answer) as server, remote(server) as asked:
        assert b"".join(asked.fetch([ObjectId("1" * 40)], [])) == b"PACK and more"


TRICKLING = "printf 1388; while printf x; do sleep 0.01; done"


def test_what_a_server_sends_over_ssh_is_held_to_the_same_rate() -> None:
    argv = ["sh", "-c", TRICKLING]
    way = ProcessTransport(list(argv), environment={}, stop=Stop(), named="ssh://git.example/one")
    with (
        Remote(way, selection=Selection(), count=lambda _: None) as asked,
        pytest.raises(HostUnreachable, match=r"ssh://git.example/one: .* less than 1024 bytes"),
    ):
        asked.list_refs()
