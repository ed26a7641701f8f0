"""Redirects and links of every form: what opens a server goes to that server and nowhere else.

Two servers on loopback, told apart by their ports, and one that the other tries to send us to.
"""

import base64
import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
import requests

from backup.errors import BackupError
from backup.git.http import HttpClient, HttpSettings, HttpTransport, basic
from backup.git.lfs import LfsServer, Offer, over_http
from backup.git.pointers import Pointer
from backup.secret import Secret
from backup.sources.one_server import OneServerSession
from backup.stopping import Stop
from tests.support.gitserver import Answer, GitHttpServer, Request
from tests.support.lfsserver import TYPE, oid_of
from tests.support.places import FORMS

PASSWORD = "sentinel-0123456789-of-a-redirect"
AUTHORIZATION = basic("x-access-token", Secret(PASSWORD))
ONE = Pointer(oid_of(b"the file"), 8)
STATUSES = (301, 302, 303, 307, 308)


class Two:
    """The forge, and who wants to be taken for it.

    Attributes:
        form: where the forge leads; see `tests.support.places`.
    """

    def __init__(self, folder: Path) -> None:
        self.form = ""
        self.status = 302
        self.evil = GitHttpServer(folder, answer=lambda _: Answer(200, TYPE, b"{}"))
        self.forge = GitHttpServer(folder, answer=self._lead_away)
        self.client = HttpClient(
            HttpSettings(), connections=2, stop=Stop(), patience_seconds=5.0, connect_seconds=5.0
        )

    @property
    def target(self) -> str:
        return self.form.format(forge=_netloc(self.forge), evil=_netloc(self.evil))

    def _lead_away(self, request: Request) -> Answer:
        if request.target.endswith("/objects/batch"):
            action = {"href": self.target}
            found = {"objects": [{"oid": ONE.oid, "size": 8, "actions": {"download": action}}]}
            return Answer(200, TYPE, json.dumps(found).encode())
        if not request.target.startswith("/away"):
            return Answer(404)
        # A header has no end of line in it, and is sent in Latin-1.
        place = self.target.replace("\n", "").encode("utf-8").decode("latin-1")
        return Answer(self.status, {"Location": place})

    def assert_nothing_was_told(self) -> None:
        pair = base64.b64encode(f"x-access-token:{PASSWORD}".encode()).decode()
        for one in self.evil.requests:
            told = f"{one.target} {one.headers} {one.form!r}"
            assert PASSWORD not in told
            assert pair not in told


def _netloc(server: GitHttpServer) -> str:
    return server.url.removeprefix("http://")


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    made = Two(tmp_path_factory.mktemp("root"))
    with made.evil, made.forge:
        yield made
        made.client.close()


@pytest.fixture
def led(two: Two, request: pytest.FixtureRequest) -> Two:
    two.form = request.param
    two.evil.requests.clear()
    two.forge.requests.clear()
    return two


@pytest.mark.parametrize("led", FORMS, indirect=True)
def test_git(led: Two) -> None:
    for led.status in STATUSES:
        url = f"{led.forge.url}/away/one.git"
        transport = HttpTransport(url, client=led.client, authorization=lambda: AUTHORIZATION)
        with pytest.raises(BackupError):
            transport.advertisement()
        with pytest.raises(BackupError):
            transport.exchange(b"0000")
        transport.close()
    assert led.evil.requests == []
    assert {one.headers["authorization"] for one in led.forge.requests} == {AUTHORIZATION.reveal()}


@pytest.mark.parametrize("led", FORMS, indirect=True)
def test_links_of_git_lfs(led: Two) -> None:
    access = over_http(f"{led.forge.url}/acme/one.git", lambda: AUTHORIZATION)
    server = LfsServer(access, named="the server", client=led.client, count=lambda _: None)
    offer = server.offers([ONE])[ONE.oid]
    if isinstance(offer, Offer):
        with suppress(BackupError):
            [*server.read(ONE, offer)]
    led.assert_nothing_was_told()


@pytest.mark.parametrize("led", FORMS, indirect=True)
def test_redirects_of_git_lfs(led: Two) -> None:
    access = over_http(f"{led.forge.url}/acme/one.git", lambda: AUTHORIZATION)
    server = LfsServer(access, named="the server", client=led.client, count=lambda _: None)
    offer = Offer(f"{led.forge.url}/away/file", {"Authorization": AUTHORIZATION.reveal()}, None)
    for led.status in STATUSES:
        with suppress(BackupError):
            [*server.read(ONE, offer)]
    led.assert_nothing_was_told()


@pytest.mark.parametrize("led", FORMS, indirect=True)
@pytest.mark.parametrize("name", ["Authorization", "Private-Token", "Job-Token"])
def test_the_api_of_a_forge(led: Two, name: str) -> None:
    value = AUTHORIZATION.reveal() if name == "Authorization" else PASSWORD
    for led.status in STATUSES:
        session = OneServerSession("the forge")
        session.headers[name] = value
        with suppress(BackupError, requests.RequestException, ValueError):
            session.get(f"{led.forge.url}/away/projects", timeout=5)
        refused = suppress(BackupError, requests.RequestException, ValueError)
        with session.going_elsewhere(), refused:
            session.get(f"{led.forge.url}/away/archive", timeout=5)
    led.assert_nothing_was_told()
