"""Bitbucket as a source: against an API on loopback, with real git behind it."""

import base64
import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backup.errors import AuthenticationError, BackupError, RateLimited, SourceError
from backup.model import Absence, Repository
from backup.secret import Secret
from backup.sources.bitbucket import (
    AccessToken,
    ApiToken,
    BitbucketSource,
    Consumer,
    Credentials,
)
from tests.support.bitbucket import Bitbucket, Listed
from tests.support.git import commit_chain, init_bare, set_head, update_refs
from tests.support.gitserver import Answer, GitHttpServer, Request
from tests.support.mirrors import assert_same_mirror
from tests.support.program import Completed, repo_backup
from tests.support.runner import Runner
from tests.support.vaults import to_be_kept

KEY, SECRET = "consumer-key", "consumer-secret-0123456789"
ACCESS, API = "ATCTT3xFfGN0-workspace-token", "ATATT3xFfGF0-api-token"
EMAIL = "jane@example.com"


@pytest.fixture
def forge(tmp_path: Path) -> Iterator[Bitbucket]:
    with Bitbucket(tmp_path / "git") as forge:
        forge.consumers = {KEY: SECRET}
        forge.accepted = {ACCESS}
        forge.api_tokens = {API: EMAIL}
        yield forge


def source(
    forge: Bitbucket, workspace: str = "acme", credentials: Credentials | None = None
) -> BitbucketSource:
    known = credentials or AccessToken(Secret(ACCESS))
    return BitbucketSource(
        workspace, credentials=known, server_url=forge.url, api_url=forge.api_url
    )


def real(forge: Bitbucket, slug: str, **more: Any) -> Listed:
    """Make a repository that the API lists and git has."""
    made = forge.repository("acme", slug, **more)
    fill(forge.folder(made), slug)
    return made


def fill(folder: Path, label: str) -> Path:
    init_bare(folder)
    update_refs(folder, {b"refs/heads/main": commit_chain(folder, 2, label=label.encode())[-1]})
    set_head(folder, b"refs/heads/main")
    return folder


# --- Which repositories --------------------------------------------------------------------------


def test_a_workspace_is_listed_to_its_end(forge: Bitbucket) -> None:
    forge.page = 30
    forge.workspace("acme")
    for number in range(250):
        forge.repository("acme", f"r{number:03}", private=bool(number % 2), wiki=number == 7)
    found = list(source(forge, "ACME").repositories())
    assert len(found) == 251
    assert [one.path for one in found if one.kind == "wiki"] == ["r007.wiki"]
    assert {one.owner for one in found} == {"acme"}
    assert forge.asked == ["/workspaces/ACME", *["/repositories/acme"] * 9]
    one = found[1]
    assert (one.path, one.private, one.visibility) == ("r001", True, "private")
    assert one.host_id == "00000001-bbbb-4bbb-8bbb-000000000000"
    # From the server, not from a link that carries a name or leads elsewhere.
    assert one.clone_url == f"{forge.url}/acme/r001.git"


def test_what_became_of_a_repository_is_asked_by_its_id(forge: Bitbucket) -> None:
    forge.workspace("acme")
    forge.workspace("other")
    one = forge.repository("acme", "renamed", wiki=True)
    away = forge.repository("other", "away")
    found = source(forge)

    def look_up(which: Listed, kind: Any = "code") -> Repository | Absence:
        return found.look_up(host_id=which.uuid.strip("{}"), path="old", kind=kind)

    there, wiki = look_up(one), look_up(one, "wiki")
    assert isinstance(there, Repository)
    assert isinstance(wiki, Repository)
    assert (there.path, wiki.path) == ("renamed", "renamed.wiki")
    assert wiki.clone_url == f"{forge.url}/acme/renamed.git/wiki"
    one.wiki = False
    assert look_up(one, "wiki") == Absence("not-visible", "its wiki is switched off")
    gone = look_up(away)
    assert isinstance(gone, Absence)
    assert gone.answer == "not-visible"


def test_a_workspace_that_is_not_there_is_an_error_with_a_hint(forge: Bitbucket) -> None:
    with pytest.raises(SourceError, match="no workspace 'nobody'"):
        list(source(forge, "nobody").repositories())


def test_a_token_that_may_not_see_the_workspace_reads_its_repositories(forge: Bitbucket) -> None:
    forge.workspace("acme")
    forge.repository("acme", "one")
    forge.answer = lambda request: (
        Answer(403, {}, b"{}") if "/workspaces/" in request.target else None
    )
    assert [one.owner for one in source(forge, "Acme").repositories()] == ["acme"]


# --- Credentials ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "credentials",
    [AccessToken(Secret(ACCESS)), ApiToken(EMAIL, Secret(API))],
    ids=["access", "api"],
)
def test_each_kind_of_credentials_opens_api_and_git(
    forge: Bitbucket, credentials: Credentials
) -> None:
    forge.workspace("acme")
    forge.repository("acme", "one")
    found = source(forge, credentials=credentials)
    assert [one.path for one in found.repositories()] == ["one"]
    header = found.authorization()
    assert header is not None
    user = base64.b64decode(header.reveal().split()[1]).decode().partition(":")[0]
    assert (
        user
        == {"AccessToken": "x-token-auth", "ApiToken": "x-bitbucket-api-token-auth"}[
            type(credentials).__name__
        ]
    )


def test_a_consumer_s_token_is_renewed_before_it_ends(forge: Bitbucket) -> None:
    forge.workspace("acme")
    forge.repository("acme", "one")
    now = [0.0]
    consumer = Consumer(KEY, Secret(SECRET), server_url=forge.url, clock=lambda: now[0])
    found = source(forge, credentials=consumer)
    for at, tokens in ((0, 1), (6000, 1), (6899, 1), (6901, 2), (13_000, 2), (14_000, 3)):
        now[0] = at
        list(found.repositories())
        found.authorization()
        assert len(forge.issued) == tokens, at


def test_a_refused_token_is_replaced_once_for_all_threads(forge: Bitbucket) -> None:
    now = [0.0]
    consumer = Consumer(KEY, Secret(SECRET), server_url=forge.url, clock=lambda: now[0])
    consumer.for_git()
    now[0] = 100.0
    forge.accepted.clear()
    for _ in range(5):
        assert consumer.renew()
        consumer.for_git()
    assert len(forge.issued) == 2


def test_a_consumer_that_is_wrong_is_said(forge: Bitbucket) -> None:
    consumer = Consumer(KEY, Secret("wr0ng-5ecret-of-nobody"), server_url=forge.url)
    with pytest.raises(AuthenticationError, match=r"OAuth consumer \(400\): Invalid OAuth client"):
        list(source(forge, credentials=consumer).repositories())


@pytest.mark.parametrize(
    ("status", "kind", "words"),
    [
        (401, AuthenticationError, "app passwords ended on 9 June 2026: give an API token"),
        (403, AuthenticationError, "scope to read repositories"),
        (410, SourceError, "an access token of the workspace, or an OAuth consumer"),
        (429, RateLimited, ""),
        (503, BackupError, ""),
    ],
)
def test_what_bitbucket_refuses_is_told_with_what_to_do(
    forge: Bitbucket, status: int, kind: type[BackupError], words: str
) -> None:
    forge.page = 1
    forge.workspace("acme")
    for number in range(3):
        forge.repository("acme", f"r{number}")

    def answer(request: Request) -> Answer | None:
        if "page=2" in request.target:
            return Answer(status, {"Retry-After": "9"}, b'{"error": {"message": "no"}}')
        return None

    forge.answer = answer
    with pytest.raises(kind) as caught:
        list(source(forge).repositories())
    assert words in caught.value.hint
    if isinstance(caught.value, RateLimited):
        assert caught.value.retry_after_seconds == 9


@pytest.mark.parametrize("how", ["redirect", "next"])
def test_credentials_go_to_no_other_server(forge: Bitbucket, tmp_path: Path, how: str) -> None:
    forge.workspace("acme")
    with GitHttpServer(tmp_path / "other") as other:

        def answer(request: Request) -> Answer | None:
            if "/repositories/" not in request.target:
                return None
            if how == "redirect":
                return Answer(302, {"Location": f"{other.url}{request.target}"})
            return Answer(200, {}, b'{"values": [], "next": "%s/x"}' % other.url.encode())

        forge.answer = answer
        with pytest.raises(SourceError):
            list(source(forge).repositories())
        assert other.requests == []


# --- Nights --------------------------------------------------------------------------------------


def night(
    forge: Bitbucket,
    vault: Path,
    *words: str,
    check: int | None = 0,
    env: Mapping[str, str] | None = None,
) -> Completed:
    known = {
        "REPO_BACKUP_SERVER_URL": forge.url,
        "REPO_BACKUP_API_URL": forge.api_url,
        **(env or {"REPO_BACKUP_OAUTH_KEY": KEY, "REPO_BACKUP_OAUTH_SECRET": SECRET}),
    }
    asked = ("run", "--from", "bitbucket:acme", "--to", str(vault), "--json", *words)
    return repo_backup(*asked, env=known, check=check)


def told(done: Completed) -> dict[str, str]:
    return {one["path"]: one["status"] for one in done.json["repositories"]}


@pytest.mark.parametrize(
    "env",
    [
        {},
        {"REPO_BACKUP_TOKEN": ACCESS},
        {"REPO_BACKUP_TOKEN": API, "REPO_BACKUP_USERNAME": EMAIL},
    ],
    ids=["consumer", "access token", "API token"],
)
def test_a_workspace_is_backed_up_and_comes_back(
    forge: Bitbucket, tmp_path: Path, env: dict[str, str]
) -> None:
    forge.workspace("acme")
    places = {"Mixed-Case": forge.folder(real(forge, "Mixed-Case"))}
    with_wiki = real(forge, "docs", wiki=True)
    places["docs"] = forge.folder(with_wiki)
    places["docs.wiki"] = fill(forge.folder(with_wiki) / "wiki", "wiki")
    vault = tmp_path / "vault"
    assert told(night(forge, vault, env=env)) == dict.fromkeys(places, "captured")
    before = len(forge.server.requests)
    second = night(forge, vault, env=env)
    assert told(second) == dict.fromkeys(places, "unchanged")
    # Two requests of git each, the workspace, one page, and perhaps a token.
    assert len(forge.server.requests) - before == 2 * 3 + 2 + (not env)
    repo_backup("restore", "--all", tmp_path / "back", "--from", vault)
    for name, place in places.items():
        assert_same_mirror(tmp_path / "back" / f"{name}.git", to_be_kept(place))
    # Only ever one workspace's own lists.
    assert {path.split("/")[1] for path in forge.asked} == {"workspaces", "repositories"}
    assert all(len(path.split("/")) > 2 for path in forge.asked)
    secrets = [SECRET, ACCESS, API, *forge.issued]
    stored = [path.read_bytes() for path in vault.rglob("*") if path.is_file()]
    for secret in secrets:
        forms = (secret.encode(), base64.b64encode(secret.encode()))
        assert not any(form in data for form in forms for data in stored)
        assert secret not in second.stdout + second.stderr
    assert not list(tmp_path.rglob("hacked"))


@pytest.mark.parametrize("service", ["info/refs", "git-upload-pack"])
def test_a_token_that_dies_in_the_middle_is_replaced(
    forge: Bitbucket, tmp_path: Path, service: str
) -> None:
    forge.workspace("acme")
    for number in range(6):
        real(forge, f"r{number}")
    died: list[Request] = []

    def answer(request: Request) -> Answer | None:
        if not died and f"/r2.git/{service}" in request.target:
            died.append(request)
            forge.accepted.difference_update(forge.issued)
        return None

    forge.answer = answer
    done = night(forge, tmp_path / "vault", "--concurrency", "1")
    assert set(told(done).values()) == {"captured"}
    assert died
    # Within a minute a new token is taken for a good one, and a third is asked for.
    assert len(forge.issued) == 2


@pytest.mark.parametrize(
    ("env", "problem"),
    [
        ({"REPO_BACKUP_TOKEN": "ATBBxyz"}, "the token is an app password"),
        ({"REPO_BACKUP_TOKEN": API}, "username is missing"),
        ({"REPO_BACKUP_OAUTH_KEY": KEY}, "needs REPO_BACKUP_OAUTH_SECRET too"),
        (
            {
                "REPO_BACKUP_TOKEN": ACCESS,
                "REPO_BACKUP_OAUTH_KEY": KEY,
                "REPO_BACKUP_OAUTH_SECRET": SECRET,
            },
            "exclude each other",
        ),
    ],
)
def test_credentials_that_cannot_work_are_refused_before_anything_is_asked(
    forge: Bitbucket, tmp_path: Path, env: dict[str, str], problem: str
) -> None:
    assert problem in night(forge, tmp_path / "vault", check=2, env=env).stderr
    assert forge.server.requests == []
    assert not (tmp_path / "vault").exists()


def test_a_rename_continues_the_chain(forge: Bitbucket, tmp_path: Path) -> None:
    forge.workspace("acme")
    one = real(forge, "before")
    night(forge, tmp_path / "vault")
    before = forge.folder(one)
    one.slug = "after"
    before.rename(forge.folder(one))
    assert told(night(forge, tmp_path / "vault")) == {"after": "unchanged"}
    repo_backup("restore", "acme/before", "--from", tmp_path / "vault", tmp_path / "back.git")


def test_the_action_backs_up_a_workspace(forge: Bitbucket, tmp_path: Path) -> None:
    forge.workspace("acme")
    real(forge, "one")
    runner = Runner(tmp_path / "runner", "https://github.example.com")
    inputs = {"owner": "acme", "provider": "bitbucket", "token": "", "oauth-key": KEY}
    inputs |= {"server-url": forge.url, "api-url": forge.api_url, "oauth-secret": SECRET}
    done = runner.step(**inputs, destination=str(tmp_path / "vault"))
    assert (done.code, done.outputs["captured"]) == (0, "1")
    # The runner is asked to hide it, and it is nowhere else.
    assert ("add-mask", SECRET) in done.commands
    assert SECRET not in done.shown + json.dumps(done.report)


def test_names_with_spaces_and_mixed_case_are_kept_as_they_are(
    forge: Bitbucket, tmp_path: Path
) -> None:
    forge.workspace("acme")
    names = ["My Repository", "UPPER", "ünïcode", "dots.and-dashes_1"]
    places = {name: forge.folder(real(forge, name)) for name in names}
    assert told(night(forge, tmp_path / "vault")) == dict.fromkeys(names, "captured")
    assert set(told(night(forge, tmp_path / "vault")).values()) == {"unchanged"}
    for name, place in places.items():
        back = tmp_path / "back" / f"{name}.git"
        repo_backup("restore", f"acme/{name}", back, "--from", tmp_path / "vault")
        assert_same_mirror(back, to_be_kept(place))


def test_a_crafted_name_leaves_no_folder_and_runs_nothing(forge: Bitbucket, tmp_path: Path) -> None:
    """As the script that people come from puts names into a shell and into paths."""
    forge.workspace("acme")
    commands = ["$(touch pwned)", "; touch pwned #", "--upload-pack=touch pwned", "`touch pwned`"]
    paths = ["..", "../../outside", "/etc/outside", "a\n::set-output name=x::y", "\x1b[31mred"]
    for name in (*commands, *paths):
        forge.repository("acme", name)
    for name in commands:
        fill(forge.folder(forge.repositories[commands.index(name)]), "crafted")
    vault, here = tmp_path / "vault", tmp_path / "here"
    here.mkdir()
    before = {*tmp_path.iterdir(), vault, tmp_path / "back"}
    forge.answer = lambda one: Answer(404) if "%2F" in one.target else None
    env = {
        "REPO_BACKUP_SERVER_URL": forge.url,
        "REPO_BACKUP_API_URL": forge.api_url,
        "REPO_BACKUP_TOKEN": ACCESS,
    }
    words = ("run", "--from", "bitbucket:acme", "--to", str(vault))
    done = repo_backup(*words, "--json", env=env, cwd=here, check=3)
    rows = told(done)
    assert {name for name, status in rows.items() if status == "captured"} == set(commands)
    assert rows.keys() == {*commands, *paths}
    reasons = {one["path"]: one["reason"] for one in done.json["repositories"]}
    assert reasons["/etc/outside"] == "its name has an empty part, and cannot be kept"
    shown = repo_backup(*words, env=env, cwd=here, check=3)
    assert "\x1b" not in shown.stdout + shown.stderr
    assert not [line for line in shown.stdout.splitlines() if line.startswith("::")]
    repo_backup("restore", "--all", tmp_path / "back", "--from", vault, cwd=here, check=None)
    assert {*tmp_path.iterdir()} <= before
    assert [*here.iterdir()] == []
    assert not [path for path in tmp_path.rglob("*") if path.name == "pwned"]
    assert len([*(tmp_path / "back").glob("**/HEAD")]) == len(commands)


# --- What credentials say of themselves -----------------------------------------------------------


@pytest.mark.parametrize(
    ("scopes", "severity", "words"),
    [
        ("repository, pullrequest", "info", "have the scopes pullrequest, repository"),
        ("read:repository:bitbucket, read:workspace:bitbucket", "info", "read:repository"),
        ("account", "error", "have the scopes account: they cannot read repositories"),
        ("read:workspace:bitbucket", "error", "they cannot read repositories"),
    ],
)
def test_credentials_are_judged_by_their_scopes(
    scopes: str, severity: str, words: str, forge: Bitbucket
) -> None:
    """Bitbucket tells them in a header of every answer."""
    forge.workspace("acme")
    known = source(forge)
    assert known.identity.owner == "acme"

    def answer(request: Request) -> Answer | None:
        fields = {"X-OAuth-Scopes": scopes, "Date": "Sun, 01 Nov 2026 02:30:00 GMT"}
        return Answer(200, fields, b"{}") if "/workspaces/" in request.target else None

    forge.answer = answer
    diagnosis = known.diagnose()
    (finding,) = diagnosis.findings
    assert (finding.severity, words in finding.message) == (severity, True)
    assert diagnosis.server_time == datetime(2026, 11, 1, 2, 30, tzinfo=UTC)
    there = known.server_time()
    assert there is not None
    assert there - diagnosis.server_time < timedelta(hours=1)


def test_without_credentials_or_scopes_little_can_be_said(forge: Bitbucket) -> None:
    forge.workspace("acme")
    assert source(forge).diagnose().findings == ()
    public = BitbucketSource("acme", credentials=None, server_url=forge.url, api_url=forge.api_url)
    (finding,) = public.diagnose().findings
    assert finding.message == "without credentials only what is public is seen"


# --- What credentials say of themselves ----------------------------------------------------------


@pytest.mark.parametrize(
    ("scopes", "expected"),
    [
        ("repository", [("info", "the credentials have the scopes repository")]),
        ("account, repository:write", [("info", "the credentials have the scopes account, rep")]),
        ("read:repository:bitbucket", [("info", "the credentials have the scopes read:")]),
        ("account", [("error", "the credentials have the scopes account: they cannot read")]),
        ("", [("error", "the credentials have the scopes none: they cannot read")]),
        (None, []),
    ],
)
def test_what_credentials_may_do_is_told(
    scopes: str | None, expected: list[tuple[str, str]], forge: Bitbucket
) -> None:
    forge.workspace("acme")
    one = source(forge)
    assert one.identity.owner == "acme"

    def answer(request: Request) -> Answer | None:
        headers = {"Content-Type": "application/json"}
        headers |= {} if scopes is None else {"X-OAuth-Scopes": scopes}
        return Answer(200, headers, b'{"slug": "acme"}')

    forge.answer = answer
    diagnosis = one.diagnose()
    found = [(one.severity, one.message) for one in diagnosis.findings]
    assert [severity for severity, _ in found] == [severity for severity, _ in expected]
    for (_, message), (_, words) in zip(found, expected, strict=True):
        assert message.startswith(words)
    assert all(one.fix for one in diagnosis.findings if one.severity == "error")
    assert diagnosis.server_time is not None


def test_without_credentials_nothing_is_asked(forge: Bitbucket) -> None:
    made = BitbucketSource("acme", credentials=None, server_url=forge.url, api_url=forge.api_url)
    (finding,) = made.diagnose().findings
    assert finding.severity == "warning"
    assert forge.asked == []
