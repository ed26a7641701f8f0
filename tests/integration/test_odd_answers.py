"""Odd answers of an API: each ends, is an error of its own owner by name, and costs no other one.

GitHub, GitLab and Bitbucket alike; and where tokens are given out.
"""

import gzip
import json
import time
import tracemalloc
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from backup import limits
from backup.commands.retrying import TRIES
from backup.commands.run import RunOptions, run
from backup.destinations.memory import MemoryDestination
from backup.errors import BackupError, HostUnreachable, SourceError
from backup.git.pktline import DELIMITER, FLUSH, encode
from backup.model import RunReport, Source
from backup.secret import Secret
from backup.sources.bitbucket import AccessToken as BitbucketToken
from backup.sources.bitbucket import BitbucketSource, Consumer
from backup.sources.github import AccessToken, App, GitHubSource, api_of
from backup.sources.gitlab import GitLabSource
from backup.sources.one_server import OneServerSession, basic
from backup.sources.plain import FolderSource
from backup.stopping import Stop
from tests.integration.test_github_app import APP_ID, key
from tests.support.bitbucket import Bitbucket
from tests.support.git import commit_chain, init_bare, set_head, update_refs
from tests.support.github import PREFIX, GitHub, Token
from tests.support.github import App as FakeApp
from tests.support.gitlab import GitLab, is_listing
from tests.support.gitserver import Answer, GitHttpServer, Request
from tests.support.program import Completed, repo_backup
from tests.support.vaults import Silence

TOKEN = "ghp_0123456789abcdefghijABCDEFGHIJ012345"
FORGES = ("github", "gitlab", "bitbucket")
JSON = {"Content-Type": "application/json"}
Reply = Callable[[Request], Answer | None]


@dataclass
class Forge:
    """A forge with one repository of ``acme``.

    Attributes:
        is_listing: tells a request for a page of its repositories.
        is_owner: tells a request for the owner itself.
    """

    kind: str
    fake: GitHub | GitLab | Bitbucket
    is_listing: Callable[[Request], bool]
    is_owner: Callable[[Request], bool]

    @property
    def api_url(self) -> str:
        return f"{self.fake.url}/api" if self.kind == "bitbucket" else self.fake.url

    def source(self, stop: Stop | None = None) -> Source:
        secret = Secret(TOKEN)
        match self.kind:
            case "github":
                credentials = AccessToken(secret)
                url = self.fake.url
                return GitHubSource("acme", credentials=credentials, server_url=url, stop=stop)
            case "gitlab":
                return GitLabSource(
                    "acme",
                    token=secret,
                    authorization=basic("oauth2", secret),
                    server_url=self.fake.url,
                    stop=stop,
                )
            case _:
                return BitbucketSource(
                    "acme",
                    credentials=BitbucketToken(secret),
                    server_url=self.fake.url,
                    api_url=self.api_url,
                    stop=stop,
                )

    def add(self, *names: str) -> None:
        """Make more repositories of ``acme`` known to the API."""
        for name in names:
            match self.fake:
                case GitHub():
                    self.fake.repository(self.fake.owners[-1], name)
                case GitLab():
                    self.fake.project(f"acme/{name}", wiki="disabled")
                case _:
                    self.fake.repository("acme", name)

    def reply(self, body: bytes | Iterator[bytes], **fields: str) -> None:
        """Answer every page of the listing so."""
        self.fake.answer = lambda request: (
            Answer(
                200, JSON | {name.replace("_", "-"): text for name, text in fields.items()}, body
            )
            if self.is_listing(request)
            else None
        )

    def item(self, number: int = 1, **more: Any) -> dict[str, Any]:
        """Make an item as the API has it."""
        match self.kind:
            case "github":
                made = {
                    "id": number,
                    "name": f"r{number}",
                    "full_name": f"acme/r{number}",
                    "owner": {"login": "acme"},
                    "private": False,
                    "fork": False,
                }
            case "gitlab":
                made = {
                    "id": number,
                    "path_with_namespace": f"acme/r{number}",
                    "wiki_enabled": False,
                }
            case _:
                made = {
                    "uuid": f"{{{number}}}",
                    "full_name": f"acme/r{number}",
                    "is_private": False,
                }
        return made | more

    def page(self, *items: str, following: str = "") -> bytes:
        """Make a page of items that are written out."""
        listed = f"[{', '.join(items)}]"
        if self.kind == "bitbucket":
            more = f', "next": "{self.api_url}/2.0/x?page={following}"' if following else ""
            return f'{{"values": {listed}{more}}}'.encode()
        return listed.encode()


@contextmanager
def opened(kind: str, root: Path) -> Iterator[Forge]:
    made: GitHub | GitLab | Bitbucket
    match kind:
        case "github":
            with GitHub(root) as made:
                made.tokens[TOKEN] = Token("jane")
                made.repository(made.owner("acme"), "one")
                yield Forge(
                    kind,
                    made,
                    lambda one: "/orgs/acme/repos" in one.target,
                    lambda one: one.target == f"{PREFIX}/users/acme",
                )
        case "gitlab":
            with GitLab(root) as made:
                made.tokens = {TOKEN: "private-token"}
                made.group("acme")
                made.project("acme/one", wiki="disabled")
                yield Forge(kind, made, is_listing, lambda one: "/groups/acme?" in one.target)
        case _:
            with Bitbucket(root) as made:
                made.accepted = {TOKEN}
                made.workspace("acme")
                made.repository("acme", "one")
                yield Forge(
                    kind,
                    made,
                    lambda one: "/2.0/repositories/acme" in one.target or "/2.0/x" in one.target,
                    lambda one: "/workspaces/acme" in one.target,
                )


@pytest.fixture(params=FORGES)
def forge(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Forge]:
    with opened(request.param, tmp_path / "git") as made:
        make_repository(tmp_path / "git" / "acme" / "one.git")
        yield made


def make_repository(path: Path) -> Path:
    init_bare(path)
    update_refs(path, {b"refs/heads/main": commit_chain(path, 1)[-1]})
    set_head(path, b"refs/heads/main")
    return path


def run_with_another(forge: Forge, tmp_path: Path) -> RunReport:
    """Back up the forge's owner, and another one after it, that must not suffer."""
    if not (tmp_path / "other" / "two.git").exists():
        make_repository(tmp_path / "other" / "two.git")
    report = run(
        [forge.source(), FolderSource(tmp_path / "other", owner="other")],
        MemoryDestination(),
        RunOptions(),
        events=Silence(),
        stop=Stop(),
    )
    assert [one.path for one in report.outcomes if one.owner == "other"] == ["two"]
    assert all(one.status == "captured" for one in report.outcomes if one.owner == "other")
    return report


# --- Answers without an end -----------------------------------------------------------------------


class Endless:
    """A body without an end, which counts what was taken of it."""

    def __init__(self, piece: bytes, *, pause_seconds: float = 0.0, most: int = 1 << 40) -> None:
        self._piece, self._pause, self._most = piece, pause_seconds, most
        self.sent_bytes = 0

    def __iter__(self) -> Iterator[bytes]:
        yield b"["
        while self.sent_bytes < self._most:
            yield self._piece
            self.sent_bytes += len(self._piece)
            time.sleep(self._pause)


def test_of_a_body_without_an_end_so_much_is_taken_and_no_more(
    forge: Forge, tmp_path: Path
) -> None:
    body = Endless(b" " * 65536, most=256 << 20)
    forge.reply(body)  # type: ignore[arg-type]
    with pytest.raises(SourceError, match="more than 32 MiB"):
        [*forge.source().repositories()]
    # And what the network holds of it.
    assert limits.MOST_API_BYTES < body.sent_bytes < limits.MOST_API_BYTES + (16 << 20)
    report = run_with_another(forge, tmp_path)
    assert report.exit_code == 1
    assert any("more than 32 MiB" in one for one in report.problems), report.problems


@pytest.mark.parametrize("status", [200, 403])
def test_a_body_that_unpacks_to_a_gigabyte_takes_no_gigabyte(status: int, forge: Forge) -> None:
    packed = gzip.compress(b" " * (16 << 20), 9) * 64
    assert len(packed) < 2 << 20
    forge.fake.answer = lambda request: (
        Answer(status, JSON | {"Content-Encoding": "gzip"}, packed)
        if forge.is_listing(request)
        else None
    )
    source = forge.source()
    assert source.identity.owner == "acme"
    tracemalloc.start()
    try:
        with pytest.raises(SourceError, match="more than 32 MiB"):
            [*source.repositories()]
        assert tracemalloc.get_traced_memory()[1] < 8 * limits.MOST_API_BYTES
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("where", ["listing", "owner", "refusal"])
def test_a_body_of_one_byte_now_and_then_is_waited_for_no_longer_than_that(
    where: str, forge: Forge, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = forge.source()
    monkeypatch.setattr(limits, "MOST_API_SECONDS", 0.5)
    body = Endless(b" ", pause_seconds=0.02, most=3000)
    is_it = forge.is_owner if where == "owner" else forge.is_listing
    forge.fake.answer = lambda request: (
        Answer(403 if where == "refusal" else 200, JSON, body) if is_it(request) else None
    )
    with pytest.raises(HostUnreachable, match="takes longer than"):
        [*source.repositories()]
    assert body.sent_bytes < 3000


def test_an_export_of_one_byte_now_and_then_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    body = Endless(b" ", pause_seconds=0.02, most=3000)
    with GitLab(tmp_path / "git") as fake:
        fake.tokens = {TOKEN: "private-token"}
        fake.answer = lambda request: (
            Answer(200, {}, body) if request.target.endswith("/export/download") else None
        )
        source = GitLabSource("acme", token=Secret(TOKEN), server_url=fake.url)
        monkeypatch.setattr(limits, "MOST_API_SECONDS", 0.5)
        with pytest.raises(HostUnreachable, match="takes longer than"):
            [*source.download_export("7")]
    assert body.sent_bytes < 3000


def test_a_listing_of_ever_more_pages_ends(
    forge: Forge, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(limits, "MOST_PAGES", 20)
    asked = 0

    def answer(request: Request) -> Answer | None:
        nonlocal asked
        if not forge.is_listing(request):
            return None
        asked += 1
        fields = {
            "Link": f'<{forge.fake.url}{PREFIX}/orgs/acme/repos?page={asked}>; rel="next"',
            "X-Next-Page": str(asked + 1),
        }
        return Answer(200, JSON | fields, forge.page(following=str(asked)))

    forge.fake.answer = answer
    with pytest.raises(SourceError, match="does not end"):
        [*forge.source().repositories()]
    assert asked == 21
    # The same by the number of items, of which a page may have any.
    asked = 0
    monkeypatch.setattr(limits, "MOST_PAGES", 10_000)
    monkeypatch.setattr(limits, "MOST_ITEMS", 40)
    items = [json.dumps(forge.item(number)) for number in range(1, 11)]
    monkeypatch.setattr(Forge, "page", _with_items(items))
    with pytest.raises(SourceError, match="does not end"):
        [*forge.source().repositories()]
    assert asked == 5


def _with_items(items: list[str]) -> Callable[..., bytes]:
    plain = Forge.page

    def page(self: Forge, *_: str, following: str = "") -> bytes:
        return plain(self, *items, following=following)

    return page


def test_no_owner_that_there_is_meets_a_limit() -> None:
    assert limits.MOST_ITEMS >= 250_000
    assert limits.MOST_PAGES * 100 >= 250_000
    assert limits.MOST_API_BYTES >= 10 << 20


# --- The whole list, or none ----------------------------------------------------------------------


def run_by_command(forge: Forge, vault: Path, *, check: int = 0) -> Completed:
    env = {"REPO_BACKUP_TOKEN": TOKEN, "REPO_BACKUP_SERVER_URL": forge.fake.url}
    if forge.kind == "bitbucket":
        env["REPO_BACKUP_API_URL"] = forge.api_url
    words = ("run", "--from", f"{forge.kind}:acme", "--to", vault, "--json")
    return repo_backup(*words, env=env, check=check)


def recorded(root: Path) -> Reply:
    """Let real git answer for one empty repository, and every other one be answered the same."""
    refs, upload_pack = "/info/refs?service=git-upload-pack", "/git-upload-pack"
    fields = {
        "Git-Protocol": "version=2",
        "Content-Type": "application/x-git-upload-pack-request",
    }
    command = encode(b"command=ls-refs\n") + DELIMITER + encode(b"symrefs\n") + FLUSH
    init_bare(root / "empty.git")
    with GitHttpServer(root) as server:
        place = f"{server.url}/empty.git"
        hello = requests.get(f"{place}{refs}", headers=fields, timeout=60)
        none = requests.post(f"{place}{upload_pack}", data=command, headers=fields, timeout=60)
    assert hello.content.startswith(b"000eversion 2\n")

    def answer(request: Request) -> Answer | None:
        for ending, reply in ((refs, hello), (upload_pack, none)):
            if request.target.endswith(ending):
                return Answer(200, {"Content-Type": reply.headers["Content-Type"]}, reply.content)
        return None

    return answer


def test_every_repository_is_processed_whatever_number_a_page_has(
    forge: Forge, tmp_path: Path
) -> None:
    names = {"one"} | {f"r{number}" for number in range(1, 1234)}
    forge.add(*sorted(names - {"one"}))
    # Though a hundred are asked for.
    forge.fake.page = 17
    forge.fake.answer = recorded(tmp_path / "recorded")
    report = run_by_command(forge, tmp_path / "vault").json
    done = Counter((one["path"], one["status"]) for one in report["repositories"])
    # Of so many, a comparison of the whole would be told for minutes.
    assert sorted(names - {path for path, _ in done}) == []
    assert {(status, times) for (_, status), times in done.items()} == {("empty", 1)}
    assert (report["result"], report["totals"]["listed"], len(done)) == ("success", 1234, 1234)
    pages = [one for one in forge.fake.server.requests if forge.is_listing(one)]
    assert len(pages) == -(-1234 // 17)


def test_a_page_that_never_comes_fails_the_run_and_changes_nothing_in_the_vault(
    forge: Forge, tmp_path: Path
) -> None:
    names = ("one", "two", "three", "four", "five")
    forge.add(*names[1:])
    for name in names[1:]:
        make_repository(forge.fake.root / "acme" / f"{name}.git")
    forge.fake.page = 2
    vault = tmp_path / "vault"
    run_by_command(forge, vault)
    before = sorted(path for path in vault.rglob("*") if path.is_file())
    refused = 0

    def answer(request: Request) -> Answer | None:
        nonlocal refused
        number = parse_qs(urlsplit(request.target).query).get("page")
        if not forge.is_listing(request) or number != ["2"]:
            return None
        refused += 1
        return Answer(503, JSON | {"Retry-After": "0"}, b"{}")

    forge.fake.answer = answer
    done = run_by_command(forge, vault, check=1)
    assert refused == TRIES
    assert "(503)" in done.json["error"]["message"]
    assert sorted(path for path in vault.rglob("*") if path.is_file()) == before
    forge.fake.answer = lambda _: None
    again = run_by_command(forge, vault).json
    assert {one["path"]: one["status"] for one in again["repositories"]} == dict.fromkeys(
        names, "unchanged"
    )
    listed = repo_backup("list", "--from", vault, "--json").json["repositories"]
    assert [row["state"] for row in listed] == ["ok"] * 5


# --- JSON that is none, or another than was asked for ---------------------------------------------

# Odd in one item: that one has a problem, and the others are read.
ODD_VALUES = ("1e999999", "9" * 4000, "-1", "true", "null", '""', '"\\ud800"', "[]", '{"a": 1}')
# Odd as a whole: an error.
ODD_PAGES = {
    "nested without end": "[" * 100_000 + "]" * 100_000,
    "objects without end": '{"a":' * 100_000 + "1" + "}" * 100_000,
    "a number of many digits": "9" * 5000,
    "a text": '"text"',
    "null": "null",
    "true": "true",
    "an object": '{"a": 1}',
    "nothing": "",
    "cut": '[{"id": 1',
    "no JSON": "<html>",
}


@pytest.mark.parametrize("value", ODD_VALUES, ids=lambda text: text[:12])
def test_an_odd_value_costs_its_own_item_alone(value: str, forge: Forge, tmp_path: Path) -> None:
    names = {"github": ("id", "name"), "gitlab": ("id", "path_with_namespace")}
    sound = json.dumps(forge.item(1)).replace("r1", "one")
    odd = []
    for number, name in enumerate(names.get(forge.kind, ("uuid", "full_name")), 2):
        item = forge.item(number)
        del item[name]
        odd.append(f'{json.dumps(item)[:-1]}, "{name}": {value}}}')
    forge.reply(forge.page(odd[0], sound, odd[1]), X_Next_Page="")
    found = [*forge.source().repositories()]
    assert [one.path for one in found if not one.problem] == ["one"]
    assert len([one for one in found if one.problem]) == 2
    report = run_with_another(forge, tmp_path)
    assert report.exit_code == 3
    assert [one.status for one in report.outcomes if one.path == "one"] == ["captured"]


def test_of_a_name_that_is_there_twice_the_last_one_counts(forge: Forge) -> None:
    item = json.dumps(forge.item(1))
    forge.reply(forge.page(f"{item[:-1]}, {json.dumps(forge.item(2))[1:]}"), X_Next_Page="")
    assert [one.path for one in forge.source().repositories()] == ["r2"]


@pytest.mark.parametrize("date", ['"0000-99-99"', '"9999-12-31T23:59:59-23:59"', "7", "[]", '"x"'])
def test_an_odd_date_costs_nothing(date: str, forge: Forge) -> None:
    name = {"github": "pushed_at", "gitlab": "last_activity_at"}.get(forge.kind, "updated_on")
    forge.reply(forge.page(f'{json.dumps(forge.item(1))[:-1]}, "{name}": {date}}}'), X_Next_Page="")
    (found,) = forge.source().repositories()
    assert (found.problem, found.pushed_at, found.active_at) == ("", None, None)


@pytest.mark.parametrize("where", ["listing", "owner"])
@pytest.mark.parametrize("body", ODD_PAGES.values(), ids=ODD_PAGES)
def test_an_odd_answer_is_an_error_of_its_owner(
    body: str, where: str, forge: Forge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backup.commands.owner.TRIES", 1)
    is_it = forge.is_owner if where == "owner" else forge.is_listing
    forge.fake.answer = lambda request: Answer(200, JSON, body.encode()) if is_it(request) else None
    report = run_with_another(forge, tmp_path)
    assert report.exit_code == 1
    (problem,) = report.problems
    assert {"github": "GitHub", "gitlab": "GitLab"}.get(forge.kind, "Bitbucket") in problem


@pytest.mark.parametrize("body", ["[" * 100_000, "7", "[]", '{"message": {"a": [1]}}', '"x"', "{}"])
@pytest.mark.parametrize("status", [401, 403, 404, 422, 429, 451, 500])
def test_an_odd_refusal_is_a_refusal(status: int, body: str, forge: Forge) -> None:
    headers = {
        "Retry-After": "9" * 400,
        "X-RateLimit-Remaining": "0",
        "X-RateLimit-Limit": "1e999",
        "X-RateLimit-Reset": "\xb2",
    }
    forge.fake.answer = lambda request: (
        Answer(status, JSON | headers, body.encode()) if forge.is_listing(request) else None
    )
    with pytest.raises(BackupError):
        [*forge.source().repositories()]


@pytest.mark.parametrize("status", [202, 301, 302, 307])
def test_an_answer_that_leads_on_and_on_ends(
    status: int, forge: Forge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("github.Consts.PROCESSING_202_WAIT_TIME", 0)
    asked = 0

    def answer(request: Request) -> Answer | None:
        nonlocal asked
        if not forge.is_listing(request):
            return None
        asked += 1
        place = f"{forge.fake.url}{request.target.partition('?')[0]}?x={asked}"
        return Answer(status, JSON | {"Location": place}, b"{}")

    forge.fake.answer = answer
    with pytest.raises(BackupError):
        [*forge.source().repositories()]
    assert asked <= 40


def test_the_command_line_says_whose_answer_it_is_and_goes_on(forge: Forge, tmp_path: Path) -> None:
    make_repository(tmp_path / "other" / "two.git")
    forge.reply(forge.page(f'{{"a": {"[" * 100_000}'))
    words = ("run", "--from", f"{forge.kind}:acme", "--from", tmp_path / "other")
    env = {"REPO_BACKUP_TOKEN": TOKEN, "REPO_BACKUP_SERVER_URL": forge.fake.url}
    if forge.kind == "bitbucket":
        env["REPO_BACKUP_API_URL"] = forge.api_url
    done = repo_backup(*words, "--to", tmp_path / "vault", env=env, check=1)
    assert "is nested too deeply" in done.stderr + done.stdout
    assert len([*(tmp_path / "vault").rglob("*.bundle")]) == 1


def test_what_cannot_be_read_of_a_listing_is_named_by_every_command(
    forge: Forge, tmp_path: Path
) -> None:
    sound = json.dumps(forge.item(1)).replace("r1", "one")
    forge.reply(forge.page("null", sound), X_Next_Page="")
    vault = tmp_path / "vault"
    env = {"REPO_BACKUP_TOKEN": TOKEN, "REPO_BACKUP_SERVER_URL": forge.fake.url}
    if forge.kind == "bitbucket":
        env["REPO_BACKUP_API_URL"] = forge.api_url
    words = ("run", "--from", f"{forge.kind}:acme", "--to", vault, "--json")
    totals = repo_backup(*words, env=env, check=3).json["totals"]
    assert (totals["listed"], totals["captured"], totals["failed"]) == (2, 1, 1)
    looked = repo_backup("status", "--from", vault, check=3).stdout
    assert "/acme/item 1 of the listing: nothing of it is stored: " in looked
    restored = repo_backup("restore", "--all", "--from", vault, tmp_path / "out", check=3).stdout
    assert "failed: acme/item 1 of the listing: nothing of it is stored: " in restored
    assert (tmp_path / "out" / "one.git" / "HEAD").exists()
    rows = repo_backup("list", "--from", vault, "--json").json["repositories"]
    assert [one["path"] for one in rows] == ["one"]

    forge.reply(forge.page(sound), X_Next_Page="")
    (snapshot,) = {file.name.partition(".")[0] for file in vault.rglob("snapshots/*")}
    time.sleep(1.1)
    later = datetime.now(UTC).isoformat(timespec="seconds")
    time.sleep(1.1)
    assert repo_backup(*words, env=env).json["totals"]["unchanged"] == 1
    repo_backup("status", "--from", vault)
    # What was not stored then is still not there of then.
    restore = ("restore", "--all", "--from", vault)
    repo_backup(*restore, tmp_path / "now")
    for number, at in enumerate((snapshot, later)):
        said = repo_backup(*restore, tmp_path / f"then-{number}", "--at", at, check=3).stdout
        assert "failed: acme/item 1 of the listing: nothing of it is stored: " in said


# --- Where tokens are given out -------------------------------------------------------------------

GOOD = "ghs_0123456789abcdefghij0123456789"
ODD_TOKENS: tuple[Any, ...] = (None, "", 7, [], {}, True, f"{GOOD}\n", f"a\r\nX: {GOOD}", "\ud800x")
ODD_LIVES: tuple[str, ...] = ("null", '"soon"', "-7200", "0", "true", "[]", "NaN", "-1e999")


def consumer(tmp_path: Path, body: bytes, status: int = 200) -> tuple[Any, list[Request]]:
    """Ask a Bitbucket that answers so for a token; give what came of it."""
    with Bitbucket(tmp_path / "git") as fake:
        fake.answer = lambda request: Answer(status, JSON, body)
        made = Consumer("key", Secret("the-consumer-s-secret"), server_url=fake.url)
        try:
            return made.for_api().reveal(), fake.server.requests
        except BackupError as error:
            return error, fake.server.requests


@pytest.mark.parametrize("value", ODD_TOKENS, ids=repr)
def test_what_is_no_token_of_a_consumer_is_said_and_never_sent(value: Any, tmp_path: Path) -> None:
    told, _ = consumer(tmp_path, json.dumps({"access_token": value, "expires_in": 7200}).encode())
    assert isinstance(told, SourceError)
    assert "Bitbucket answers with something that is no token" in told.message
    assert GOOD not in told.message


@pytest.mark.parametrize("life", ODD_LIVES)
def test_what_is_no_life_of_a_consumer_s_token_is_said(life: str, tmp_path: Path) -> None:
    told, _ = consumer(tmp_path, f'{{"access_token": "{GOOD}", "expires_in": {life}}}'.encode())
    assert isinstance(told, SourceError)
    assert "expires_in is no number of seconds" in told.message


@pytest.mark.parametrize("life", ["1e999", "9" * 400, "7200.5"])
def test_a_token_may_live_for_ever(life: str, tmp_path: Path) -> None:
    told, _ = consumer(tmp_path, f'{{"access_token": "{GOOD}", "expires_in": {life}}}'.encode())
    assert told == f"Bearer {GOOD}"


@pytest.mark.parametrize("body", ODD_PAGES.values(), ids=ODD_PAGES)
def test_an_odd_answer_in_place_of_a_consumer_s_token_is_an_error(
    body: str, tmp_path: Path
) -> None:
    for status in (200, 400, 500):
        told, _ = consumer(tmp_path, body.encode(), status)
        assert isinstance(told, BackupError)


def installation(tmp_path: Path, **changed: Any) -> Any:
    """Ask a GitHub that answers so for an App's token; give what came of it."""
    written = changed.pop("written", None)
    with GitHub(tmp_path / "git") as fake:
        fake.owner("acme")
        fake.apps.append(FakeApp(APP_ID, key()[1], {"acme": None}))
        sound = {"token": GOOD, "expires_at": "2999-01-01T00:00:00Z"} | changed
        sound = {name: value for name, value in sound.items() if value != "missing"}
        body = json.dumps(sound) if written is None else written
        fake.answer = lambda request: (
            Answer(201, JSON, body.encode()) if "access_tokens" in request.target else None
        )
        made = App(APP_ID, Secret(key()[0]), owner="acme", api_url=api_of(fake.url))
        try:
            return made.token().reveal()
        except BackupError as error:
            return error


@pytest.mark.parametrize("value", ODD_TOKENS, ids=repr)
def test_what_is_no_token_of_an_app_is_said_and_never_sent(value: Any, tmp_path: Path) -> None:
    told = installation(tmp_path, token=value)
    assert isinstance(told, SourceError)
    assert "GitHub answers with something that is no token" in told.message
    assert GOOD not in told.message


@pytest.mark.parametrize(
    "date",
    [
        None,
        "missing",
        "",
        "tomorrow",
        7,
        [],
        "2999-01-01",
        "2999-01-01T00:00:00",
        "1999-01-01T00:00:00Z",
    ],
    ids=repr,
)
def test_what_is_no_end_of_an_app_s_token_is_said(date: Any, tmp_path: Path) -> None:
    told = installation(tmp_path, expires_at=date)
    assert isinstance(told, SourceError)
    assert "no token" in told.message
    assert "expires_at" in told.message


@pytest.mark.parametrize("body", ODD_PAGES.values(), ids=ODD_PAGES)
def test_an_odd_answer_in_place_of_an_app_s_token_is_an_error(body: str, tmp_path: Path) -> None:
    assert isinstance(installation(tmp_path, written=body), BackupError)


@pytest.mark.parametrize("odd", ["null", "7", '{"account": 7}', '{"account": {"login": null}}'])
def test_an_odd_installation_hides_no_other(odd: str, tmp_path: Path) -> None:
    with GitHub(tmp_path / "git") as fake:
        sound = json.dumps({"id": 5, "account": {"login": "acme"}})
        token = json.dumps({"token": GOOD, "expires_at": "2999-01-01T00:00:00Z"})
        fake.answer = lambda request: (
            Answer(201, JSON, token.encode())
            if "access_tokens" in request.target
            else Answer(200, JSON, f"[{odd}, {sound}]".encode())
        )
        made = App(APP_ID, Secret(key()[0]), owner="acme", api_url=api_of(fake.url))
        assert made.token().reveal() == GOOD


def test_a_page_for_people_is_no_answer_and_says_what_may_be_in_between(forge: Forge) -> None:
    forge.reply(b"<html><title>Sign in</title>", X_Next_Page="")
    with pytest.raises(HostUnreachable, match="with something that is no JSON") as caught:
        [*forge.source().repositories()]
    assert "--server-url" in caught.value.hint


def test_an_answer_that_leads_on_without_end_is_not_followed_for_long(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(limits, "MOST_API_REDIRECTS", 3)
    asked: list[str] = []

    def answer(request: Request) -> Answer:
        asked.append(request.target)
        return Answer(302, {"Location": f"/api/v4/{len(asked)}"})

    with GitHttpServer(tmp_path, answer=answer) as server:
        session = OneServerSession("GitLab")
        with pytest.raises(requests.TooManyRedirects):
            session.get(server.url)
    assert len(asked) == 4
