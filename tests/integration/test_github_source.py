"""The repositories of a GitHub owner: which are listed, what GitHub's refusals mean, whole nights.

The API is a fake whose every answer is held against GitHub's own description; git is real.
"""

import json
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backup.commands.run import RunOptions, run
from backup.destinations.folder import FolderDestination
from backup.errors import (
    AuthenticationError,
    BackupError,
    HostUnreachable,
    RateLimited,
    SourceError,
)
from backup.model import Absence, Repository
from backup.secret import Secret
from backup.sources.github import GitHubSource
from backup.sources.github.api import api_of
from backup.sources.github.credentials import AccessToken
from backup.stopping import Stop
from tests.support.git import commit_chain, init_bare, set_head, update_refs
from tests.support.github import PREFIX, Gist, GitHub, Listed, Owner, Token
from tests.support.gitserver import Answer, Request
from tests.support.mirrors import assert_same_mirror
from tests.support.program import Completed, repo_backup
from tests.support.s3server import S3Server
from tests.support.vaults import Silence, to_be_kept

PAT = "ghp_" + "a" * 36
INSTALLATION = "ghs_" + "b" * 36


@pytest.fixture
def forge(tmp_path: Path) -> Iterator[GitHub]:
    with GitHub(tmp_path / "git") as forge:
        forge.tokens[PAT] = Token("jane")
        forge.owner("jane", kind="User")
        yield forge


@pytest.fixture
def acme(forge: GitHub) -> Owner:
    return forge.owner("Acme")


def source(forge: GitHub, owner: str, token: str | None = PAT) -> GitHubSource:
    secret = None if token is None else Secret(token)
    credentials = None if secret is None else AccessToken(secret)
    return GitHubSource(owner, credentials=credentials, server_url=forge.url)


def listed(forge: GitHub, owner: str, token: str | None = PAT) -> dict[str, Repository]:
    return {one.path: one for one in source(forge, owner, token).repositories()}


def real(forge: GitHub, owner: Owner, name: str, **more: Any) -> Listed:
    """Make a repository that the API lists and git has."""
    path = init_bare(forge.root / owner.login / f"{name}.git")
    update_refs(path, {b"refs/heads/main": commit_chain(path, 2, label=name.encode())[-1]})
    set_head(path, b"refs/heads/main")
    return forge.repository(owner, name, **more)


# --- Which repositories -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("server", "api"),
    [
        ("https://github.com", "https://api.github.com"),
        ("https://github.example.com", "https://github.example.com/api/v3"),
        ("https://octo.ghe.com", "https://api.octo.ghe.com"),
    ],
)
def test_the_api_lies_where_its_product_has_it(server: str, api: str) -> None:
    assert api_of(server) == api


def test_an_organisation_s_repositories_are_all_listed_whatever_the_number(
    forge: GitHub, acme: Owner
) -> None:
    forge.page = 30
    for number in range(100):
        forge.repository(acme, f"r{number}", private=number % 2 == 0)
    found = source(forge, "acme")
    assert [one.path for one in found.repositories()] == [f"r{number}" for number in range(100)]
    pages = [one for one in forge.requests if "/orgs/Acme/repos" in one.target]
    assert len(pages) == 4
    assert found.notes == ()


def test_the_owner_is_spelled_as_github_spells_it(forge: GitHub, acme: Owner) -> None:
    identity = source(forge, "aCME").identity
    assert (identity.owner, identity.owner_id) == ("Acme", str(acme.owner_id))
    assert identity.host == forge.url.removeprefix("http://")
    assert identity.provider == "github"


def test_what_github_says_of_a_repository_is_taken(forge: GitHub, acme: Owner) -> None:
    forge.repository(acme, "inner", private=True, visibility="internal", archived=True)
    forge.repository(acme, "copy", fork=True, disabled=True)
    found = listed(forge, "acme")
    assert (found["inner"].private, found["inner"].visibility) == (True, "internal")
    assert (found["inner"].archived, found["inner"].fork) == (True, False)
    assert (found["copy"].fork, bool(found["copy"].blocked)) == (True, True)
    assert found["copy"].host_id.isdigit()
    # The address is ours to make: nothing that an answer says leads the token elsewhere.
    assert found["copy"].clone_url == f"{forge.url}/Acme/copy.git"
    assert found["copy"].pushed_at is not None


def test_a_wiki_follows_its_repository_under_the_same_id(forge: GitHub, acme: Owner) -> None:
    forge.repository(acme, "with", has_wiki=True)
    forge.repository(acme, "without")
    found = listed(forge, "acme")
    assert [*found] == ["with", "with.wiki", "without"]
    assert found["with.wiki"].kind == "wiki"
    assert found["with.wiki"].host_id == found["with"].host_id
    assert found["with.wiki"].clone_url == f"{forge.url}/Acme/with.wiki.git"


def test_one_s_own_private_repositories_are_listed(forge: GitHub) -> None:
    jane = forge.owners[0]
    forge.repository(jane, "mine", private=True)
    found = source(forge, "JANE")
    assert [one.path for one in found.repositories()] == ["mine"]
    assert found.notes == ()


def test_of_another_user_only_what_is_public_is_seen_and_that_is_said(forge: GitHub) -> None:
    john = forge.owner("john", kind="User")
    forge.repository(john, "shown")
    forge.repository(john, "hidden", private=True)
    found = source(forge, "john")
    assert [one.path for one in found.repositories()] == ["shown"]
    assert "only those that are public" in found.notes[0]


def test_without_a_token_only_what_is_public_is_seen_and_that_is_said(
    forge: GitHub, acme: Owner
) -> None:
    forge.repository(acme, "shown")
    forge.repository(acme, "hidden", private=True)
    found = source(forge, "acme", None)
    assert [one.path for one in found.repositories()] == ["shown"]
    assert "without a token" in found.notes[0]


def test_an_installation_lists_what_it_was_given_of_this_owner(forge: GitHub, acme: Owner) -> None:
    other = forge.owner("other")
    for owner in (acme, other):
        for name in ("one", "two", "three"):
            forge.repository(owner, name, private=True)
    forge.tokens[INSTALLATION] = Token(sees=frozenset({"one", "three"}))
    assert [*listed(forge, "acme", INSTALLATION)] == ["one", "three"]
    assert {one.owner for one in listed(forge, "acme", INSTALLATION).values()} == {"Acme"}


def test_an_owner_that_does_not_exist_is_said(forge: GitHub) -> None:
    with pytest.raises(SourceError, match="has no owner 'nobody'") as caught:
        list(source(forge, "nobody").repositories())
    assert not caught.value.retryable


# --- One that is not listed any more -------------------------------------------------------------


def test_what_became_of_a_repository_is_asked_by_its_id(forge: GitHub, acme: Owner) -> None:
    other = forge.owner("other")
    known = {
        "still there": forge.repository(acme, "renamed", listed=False, has_wiki=True),
        "moved away": forge.repository(other, "moved"),
        "hidden": forge.repository(other, "hidden", private=True),
    }
    forge.tokens[PAT] = Token("jane", sees=frozenset())
    found = source(forge, "acme")

    def look_up(words: str, kind: Any = "code") -> Repository | Absence:
        return found.look_up(host_id=str(known[words].repository_id), path="old", kind=kind)

    there, wiki = look_up("still there"), look_up("still there", "wiki")
    assert isinstance(there, Repository)
    assert isinstance(wiki, Repository)
    assert (there.path, wiki.path) == ("renamed", "renamed.wiki")
    moved = look_up("moved away")
    assert isinstance(moved, Absence)
    assert (moved.answer, moved.detail) == ("transferred", "it is now other/moved")
    hidden = look_up("hidden")
    assert isinstance(hidden, Absence)
    assert hidden.answer == "not-visible"
    known["still there"].has_wiki = False
    off = look_up("still there", "wiki")
    assert isinstance(off, Absence)
    assert "switched off" in off.detail


@pytest.mark.parametrize("status", [451, 403])
def test_a_repository_that_is_blocked_says_by_which_notice(
    status: int, forge: GitHub, acme: Owner
) -> None:
    notice = "https://notice.example/7"
    one = forge.repository(acme, "taken-down", listed=False, blocked=notice, blocked_status=status)
    answer = source(forge, "acme").look_up(
        host_id=str(one.repository_id), path="taken-down", kind="code"
    )
    assert isinstance(answer, Absence)
    assert answer.answer == "blocked"
    assert notice in answer.detail
    # The description of this product does not have it; that of github.com does.
    assert [problem for problem in forge.problems if "never answers 451" not in problem] == []
    forge.problems.clear()


# --- Gists ----------------------------------------------------------------------------------------


def gist(forge: GitHub, owner: Owner, gist_id: str, **more: Any) -> None:
    path = init_bare(forge.root / "gist" / f"{gist_id}.git")
    update_refs(path, {b"refs/heads/main": commit_chain(path, 1, label=gist_id.encode())[-1]})
    set_head(path, b"refs/heads/main")
    forge.gists.append(Gist(owner, gist_id, **more))


def with_gists(forge: GitHub, owner: str, token: str | None = PAT) -> GitHubSource:
    credentials = None if token is None else AccessToken(Secret(token))
    return GitHubSource(owner, credentials=credentials, server_url=forge.url, gists=True)


def test_one_s_own_gists_are_repositories_by_their_id(forge: GitHub, tmp_path: Path) -> None:
    jane = forge.owners[0]
    for number in range(5):
        gist(forge, jane, f"{number:020x}", public=number % 2 == 0)
    forge.page = 2
    found = {one.path: one for one in with_gists(forge, "jane").repositories()}
    assert list(found) == [f"gists/{number:020x}" for number in range(5)]
    secret = found[f"gists/{1:020x}"]
    assert (secret.kind, secret.host_id, secret.private) == ("gist", f"{1:020x}", True)
    forge.page = 100
    run = ("run", "--from", "github:jane", "--to", tmp_path / "vault", "--json")
    env = {"REPO_BACKUP_SERVER_URL": forge.url, "REPO_BACKUP_TOKEN": PAT}
    done = repo_backup(*run, "--gists", env=env)
    assert done.json["totals"]["captured"] == 5
    # One that is deleted is asked for by its id; where they are not asked for, they stay.
    forge.gists.pop(0)
    again = repo_backup(*run, "--gists", env=env).json["repositories"]
    assert {one["status"] for one in again} == {"unchanged", "gone"}
    (gone,) = [one for one in again if one["status"] == "gone"]
    assert "GitHub knows no such gist" in gone["reason"]
    forge.repository(jane, "code")
    init_bare(forge.root / "jane" / "code.git")
    forge.gists.clear()
    assert told(repo_backup(*run, env=env)) == {"code": "empty"}
    back = tmp_path / "back.git"
    repo_backup("restore", f"gists/{1:020x}", back, "--from", tmp_path / "vault")
    assert_same_mirror(back, to_be_kept(forge.root / "gist" / f"{1:020x}.git"))


@pytest.mark.parametrize("token", [None, INSTALLATION, PAT])
def test_of_others_only_public_gists_are_seen_and_that_is_said(
    token: str | None, forge: GitHub
) -> None:
    forge.tokens[INSTALLATION] = Token()
    joe = forge.owner("joe", kind="User")
    gist(forge, joe, "aa")
    gist(forge, joe, "bb", public=False)
    source = with_gists(forge, "joe", token)
    assert [one.path for one in source.repositories()] == ["gists/aa"]
    assert any("of the gists only those that are public" in note for note in source.notes)


def test_an_organisation_has_no_gists(forge: GitHub, acme: Owner) -> None:
    source = with_gists(forge, "acme")
    assert [*source.repositories()] == []
    assert "Acme: an organisation has no gists" in source.notes


def test_a_gist_on_another_server_gets_no_credentials(forge: GitHub) -> None:
    forge.gists.append(Gist(forge.owners[0], "cc", url="https://evil.example/cc.git"))
    (one,) = with_gists(forge, "jane").repositories()
    assert one.clone_url == ""
    assert one.problem == "GitHub names another server for it: https://evil.example/cc.git"


# --- What refusals mean ---------------------------------------------------------------------------


def refusing(status: int, headers: dict[str, str] | None = None, message: str = "no") -> Any:
    body = json.dumps({"message": message}).encode()
    fields = {"Content-Type": "application/json", **(headers or {})}

    def answer(request: Request) -> Answer | None:
        return Answer(status, fields, body) if request.target.startswith(PREFIX) else None

    return answer


def refusal(forge: GitHub, status: int, **more: Any) -> BackupError:
    forge.answer = refusing(status, **more)
    with pytest.raises(BackupError) as caught:
        list(source(forge, "acme").repositories())
    assert len(forge.requests) == 1, "nothing is repeated here"
    return caught.value


def test_a_token_that_is_not_accepted_is_said(forge: GitHub, acme: Owner) -> None:
    with pytest.raises(AuthenticationError, match="401") as caught:
        list(source(forge, "acme", "ghp_wrong-token").repositories())
    assert "REPO_BACKUP_TOKEN" in caught.value.hint
    assert "ghp_wrong" not in str(caught.value)


@pytest.mark.parametrize(
    ("headers", "message", "words"),
    [
        (
            {"X-GitHub-SSO": "required; url=https://github.com/orgs/acme/sso?authorization=1"},
            "Resource protected by organization SAML enforcement",
            "https://github.com/orgs/acme/sso?authorization=1",
        ),
        (
            {"X-Accepted-GitHub-Permissions": "metadata=read"},
            "Resource not accessible by personal access token",
            "metadata=read",
        ),
        (
            {"X-OAuth-Scopes": "gist", "X-Accepted-OAuth-Scopes": "repo, read:org"},
            "Must have admin rights",
            "repo, read:org",
        ),
        ({}, "forbids access via a personal access token (classic)", "approve the token"),
    ],
)
def test_what_is_missing_is_named(
    headers: dict[str, str], message: str, words: str, forge: GitHub, acme: Owner
) -> None:
    error = refusal(forge, 403, headers=headers, message=message)
    assert isinstance(error, AuthenticationError)
    assert words in error.hint
    assert message in error.message


RESET = str(int(time.time()) + 36_000)


@pytest.mark.parametrize(
    ("answer", "least", "most"),
    [
        (
            (403, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": RESET}, ""),
            30_000,
            36_001,
        ),
        ((429, {"Retry-After": "7"}, ""), 7, 7),
        ((403, {"Retry-After": "30"}, ""), 30, 30),
        ((403, {}, "You have exceeded a secondary rate limit."), 60, 60),
    ],
)
def test_a_rate_limit_says_how_long(
    answer: tuple[int, dict[str, str], str], least: float, most: float, forge: GitHub, acme: Owner
) -> None:
    status, headers, message = answer
    error = refusal(forge, status, headers=headers, message=message)
    assert isinstance(error, RateLimited)
    assert error.retry_after_seconds is not None
    assert least <= error.retry_after_seconds <= most


def test_trouble_at_github_may_pass(forge: GitHub, acme: Owner) -> None:
    assert isinstance(refusal(forge, 502), HostUnreachable)
    with pytest.raises(HostUnreachable, match="cannot be reached"):
        list(GitHubSource("acme", credentials=None, server_url="http://127.0.0.1:9").repositories())


def test_a_page_that_fails_is_never_a_shorter_list(forge: GitHub, acme: Owner) -> None:
    forge.page = 10
    for number in range(35):
        forge.repository(acme, f"r{number}")
    forge.answer = lambda request: (
        Answer(502) if "page=3" in request.target.replace("per_page", "") else None
    )
    with pytest.raises(HostUnreachable):
        list(source(forge, "acme").repositories())


@pytest.mark.parametrize("body", [b"", b"<html>", b'{"message": "moved"}', b'"text"'])
def test_an_answer_that_is_no_listing_is_an_error(body: bytes, forge: GitHub, acme: Owner) -> None:
    forge.answer = lambda request: (
        Answer(200, {"Content-Type": "application/json"}, body)
        if "/orgs/" in request.target
        else None
    )
    with pytest.raises(BackupError):
        list(source(forge, "acme").repositories())


def test_a_next_page_on_another_server_is_not_followed(forge: GitHub, acme: Owner) -> None:
    link = '<https://elsewhere.example/api/v3/repos?page=2>; rel="next"'
    forge.answer = lambda request: (
        Answer(200, {"Content-Type": "application/json", "Link": link}, b"[]")
        if "/orgs/" in request.target
        else None
    )
    with pytest.raises(BackupError, match="another server"):
        list(source(forge, "acme").repositories())


# --- Nights ---------------------------------------------------------------------------------------


def night(
    forge: GitHub,
    vault: Path,
    *words: str,
    check: int | None = 0,
    token: str | None = PAT,
    owner: str = "acme",
) -> Completed:
    env = {"REPO_BACKUP_SERVER_URL": forge.url}
    if token is not None:
        env["REPO_BACKUP_TOKEN"] = token
    asked = ("run", "--from", f"github:{owner}", "--to", str(vault), "--json", *words)
    return repo_backup(*asked, env=env, check=check)


def told(done: Completed) -> dict[str, str]:
    return {one["path"]: one["status"] for one in done.json["repositories"]}


def test_however_an_owner_is_spelled_it_is_one(forge: GitHub, acme: Owner, tmp_path: Path) -> None:
    real(forge, acme, "widgets")
    vault = tmp_path / "vault"
    assert told(night(forge, vault, owner="acme")) == {"widgets": "captured"}
    assert told(night(forge, vault, owner="ACME")) == {"widgets": "unchanged"}
    found = vault.glob("*/*/repositories")
    assert [place.parent.name for place in found] == ["Acme"]


def test_an_owner_is_backed_up_and_comes_back(forge: GitHub, acme: Owner, tmp_path: Path) -> None:
    real(forge, acme, "public")
    real(forge, acme, "secret", private=True, has_wiki=True)
    real(forge, acme, "old", archived=True)
    init_bare(forge.root / "Acme" / "empty.git")
    forge.repository(acme, "empty")
    wiki = init_bare(forge.root / "Acme" / "secret.wiki.git")
    update_refs(wiki, {b"refs/heads/master": commit_chain(wiki, 1)[-1]})
    vault = tmp_path / "vault"
    first = night(forge, vault)
    assert told(first) == {
        "empty": "empty",
        "old": "captured",
        "public": "captured",
        "secret": "captured",
        "secret.wiki": "captured",
    }
    before = len(forge.server.requests)
    second = night(forge, vault)
    assert told(second)["secret.wiki"] == "unchanged"
    # Two requests of git each, the owner and one page of the listing.
    assert len(forge.server.requests) - before == 2 * 5 + 2
    assert second.json["totals"]["objects_written"] == 1
    repo_backup("restore", "--all", tmp_path / "back", "--from", vault)
    for name in ("public", "secret", "old", "secret.wiki"):
        expected = to_be_kept(forge.root / "Acme" / f"{name}.git")
        assert_same_mirror(tmp_path / "back" / f"{name}.git", expected)
    host = forge.url.removeprefix("http://").replace(":", "-")
    assert [path.name for path in (vault / host).iterdir()] == ["Acme"]


def test_a_wiki_without_pages_is_looked_for_once_a_week(
    forge: GitHub, acme: Owner, tmp_path: Path
) -> None:
    real(forge, acme, "widgets", has_wiki=True)
    vault = tmp_path / "vault"
    for _ in range(2):
        done = night(forge, vault)
        assert told(done) == {
            "widgets": done.json["repositories"][0]["status"],
            "widgets.wiki": "empty",
        }
    asked = [one for one in forge.server.requests if ".wiki.git" in one.target]
    assert len(asked) == 1
    # The first page is made; nobody looks before the week is over.
    wiki = init_bare(forge.root / "Acme" / "widgets.wiki.git")
    update_refs(wiki, {b"refs/heads/master": commit_chain(wiki, 1)[-1]})
    assert told(night(forge, vault))["widgets.wiki"] == "empty"


def test_a_wiki_that_goes_is_said_and_kept(forge: GitHub, acme: Owner, tmp_path: Path) -> None:
    real(forge, acme, "widgets", has_wiki=True)
    wiki = init_bare(forge.root / "Acme" / "widgets.wiki.git")
    update_refs(wiki, {b"refs/heads/master": commit_chain(wiki, 1)[-1]})
    state = to_be_kept(wiki)
    vault = tmp_path / "vault"
    night(forge, vault)
    wiki.rename(tmp_path / "away")
    for known in (False, True):
        done = night(forge, vault)
        (outcome,) = [one for one in done.json["repositories"] if one["kind"] == "wiki"]
        assert (outcome["status"], outcome["known"]) == ("gone", known)
    repo_backup("restore", "acme/widgets.wiki", "--from", vault, tmp_path / "w.git")
    assert_same_mirror(tmp_path / "w.git", state)


def test_a_wiki_that_is_refused_is_failed_and_no_wiki_without_pages(
    forge: GitHub, acme: Owner, tmp_path: Path
) -> None:
    real(forge, acme, "widgets", has_wiki=True)
    wiki = init_bare(forge.root / "Acme" / "widgets.wiki.git")
    update_refs(wiki, {b"refs/heads/master": commit_chain(wiki, 1)[-1]})
    forge.answer = lambda request: (
        Answer(403, {}, b"Forbidden") if ".wiki.git/" in request.target else None
    )
    vault = tmp_path / "vault"
    done = night(forge, vault, check=3)
    assert told(done) == {"widgets": "captured", "widgets.wiki": "failed"}
    (outcome,) = [one for one in done.json["repositories"] if one["kind"] == "wiki"]
    assert "(403)" in outcome["reason"]
    assert "needs to read this repository" in outcome["hint"]
    forge.answer = lambda _: None
    assert told(night(forge, vault))["widgets.wiki"] == "captured"


def test_a_wiki_that_was_hidden_with_its_repository_is_looked_for_once_that_is_seen(
    forge: GitHub, acme: Owner, tmp_path: Path
) -> None:
    real(forge, acme, "sound")
    real(forge, acme, "widgets", private=True, has_wiki=True)
    wiki = init_bare(forge.root / "Acme" / "widgets.wiki.git")
    update_refs(wiki, {b"refs/heads/master": commit_chain(wiki, 1)[-1]})
    # A token that may list it and not read its contents.
    forge.answer = lambda request: (
        Answer(404, {}, b"Repository not found.") if "/Acme/widgets." in request.target else None
    )
    vault = tmp_path / "vault"
    for _ in range(2):
        done = night(forge, vault, check=3)
        status = told(done).pop("sound")
        assert told(done) == {"sound": status, "widgets": "failed", "widgets.wiki": "empty"}
        (outcome,) = [one for one in done.json["repositories"] if one["kind"] == "wiki"]
        assert outcome["reason"] == "it has no page yet, or is hidden from us"
    forge.answer = lambda _: None
    assert told(night(forge, vault)) == {
        "sound": "unchanged",
        "widgets": "captured",
        "widgets.wiki": "captured",
    }
    repo_backup("restore", "acme/widgets.wiki", "--from", vault, tmp_path / "w.git")
    assert_same_mirror(tmp_path / "w.git", to_be_kept(wiki))


def test_a_rename_continues_the_chain(forge: GitHub, acme: Owner, tmp_path: Path) -> None:
    one = real(forge, acme, "before")
    vault = tmp_path / "vault"
    night(forge, vault)
    (forge.root / "Acme" / "before.git").rename(forge.root / "Acme" / "after.git")
    one.name = "after"
    done = night(forge, vault)
    assert told(done) == {"after": "unchanged"}
    assert done.json["totals"]["objects_written"] == 1
    repo_backup("restore", "acme/before", "--from", vault, tmp_path / "back.git")


def test_a_list_says_what_became_of_each(forge: GitHub, acme: Owner, tmp_path: Path) -> None:
    names = ("sound", "before", "given", "stopped", "gone", *"abcdefgh")
    known = {name: real(forge, acme, name) for name in names}
    vault = tmp_path / "vault"
    night(forge, vault)
    (forge.root / "Acme" / "before.git").rename(forge.root / "Acme" / "after.git")
    known["before"].name = "after"
    known["given"].owner = forge.owner("other")
    known["stopped"].disabled = True
    forge.repositories.remove(known["gone"])
    night(forge, vault)
    listed = repo_backup("list", "--from", vault, "--json").json["repositories"]
    rows = {row["path"]: row for row in listed}
    states = {name: rows[name]["state"] for name in ("sound", "after", "given", "stopped", "gone")}
    assert states == {
        "sound": "ok",
        "after": "renamed",
        "given": "transferred",
        "stopped": "blocked",
        "gone": "not-listed",
    }
    assert rows["after"]["renamed_from"] == "before"
    assert rows["given"]["reason"] == "it is now other/given"
    assert "disabled" in rows["stopped"]["reason"]
    assert rows["gone"]["since"]


def test_filters_leave_out_what_they_say_and_lose_nothing(
    forge: GitHub, acme: Owner, tmp_path: Path
) -> None:
    real(forge, acme, "public")
    real(forge, acme, "secret", private=True)
    real(forge, acme, "old", archived=True)
    real(forge, acme, "copy", fork=True)
    vault = tmp_path / "vault"
    assert len(told(night(forge, vault))) == 4
    for words, left in {
        ("--visibility", "private"): {"secret"},
        ("--no-archived",): {"public", "secret", "copy"},
        ("--no-forks", "--visibility", "public"): {"public", "old"},
    }.items():
        assert told(night(forge, vault, *words)) == dict.fromkeys(left, "unchanged")
    assert told(night(forge, vault)) == dict.fromkeys(
        ("copy", "old", "public", "secret"), "unchanged"
    )
    done = night(forge, vault, "--visibility", "internal", check=2)
    assert "--visibility internal: leaves none of 4" in done.stderr


def test_what_is_not_listed_any_more_is_asked_for_and_kept(
    forge: GitHub, acme: Owner, tmp_path: Path
) -> None:
    names = [f"r{number}" for number in range(6)]
    known = {name: real(forge, acme, name) for name in names}
    vault = tmp_path / "vault"
    night(forge, vault)
    known["r0"].listed = False
    known["r0"].owner = forge.owner("other")
    done = night(forge, vault)
    assert told(done)["r0"] == "gone"
    (outcome,) = [one for one in done.json["repositories"] if one["path"] == "r0"]
    assert "it is now other/r0" in outcome["reason"]


def test_a_listing_that_falls_by_half_fails_and_marks_nothing(
    forge: GitHub, acme: Owner, tmp_path: Path
) -> None:
    known = [real(forge, acme, f"r{number}") for number in range(6)]
    vault = tmp_path / "vault"
    night(forge, vault)
    for one in known[:3]:
        one.listed = False
    done = night(forge, vault, check=1)
    assert done.json["result"] == "failed"
    assert set(told(done).values()) == {"unchanged"}
    for one in known[:3]:
        one.listed = True
    assert len(told(night(forge, vault))) == 6


def test_a_blocked_or_disabled_repository_is_skipped_and_then_known(
    forge: GitHub, acme: Owner, tmp_path: Path
) -> None:
    real(forge, acme, "sound")
    one = real(forge, acme, "stopped")
    vault = tmp_path / "vault"
    night(forge, vault)
    one.disabled = True
    for known in (False, True):
        done = night(forge, vault)
        (outcome,) = [item for item in done.json["repositories"] if item["path"] == "stopped"]
        assert (outcome["status"], outcome["known"]) == ("skipped", known)
        assert "disabled" in outcome["reason"]


SECONDARY = b'{"message": "You have exceeded a secondary rate limit. Please wait a few minutes."}'


def struck(times: int, answer: Answer, requests: list[Request]) -> Any:
    """Answer so in place of the listing, so many times; note every request for it."""

    def strike(request: Request) -> Answer | None:
        if "/orgs/" not in request.target:
            return None
        requests.append(request)
        return answer if len(requests) <= times else None

    return strike


@pytest.mark.parametrize(
    "answer",
    [
        Answer(429, {"Retry-After": "1"}, b"{}"),
        Answer(403, {"Retry-After": "1"}, b"{}"),
        Answer(403, {"Retry-After": "1", "X-RateLimit-Remaining": "4711"}, SECONDARY),
    ],
    ids=["429", "403", "secondary limit"],
)
def test_trouble_in_the_listing_is_waited_out_and_told(
    answer: Answer, forge: GitHub, acme: Owner, tmp_path: Path
) -> None:
    real(forge, acme, "widgets")
    asked = list[Request]()
    forge.answer = struck(2, answer, asked)
    done = night(forge, tmp_path / "vault")
    assert told(done) == {"widgets": "captured"}
    assert done.stderr.count("again in") == 2
    assert len(asked) == 3


class FastStop(Stop):
    """A stop whose pauses take no time, and are noted."""

    def __init__(self) -> None:
        super().__init__()
        self.slept: list[float] = []

    def sleep(self, seconds: float) -> None:
        self.check()
        self.slept.append(seconds)


def test_a_secondary_limit_without_a_time_is_waited_out_for_a_minute_in_a_run(
    forge: GitHub, acme: Owner, tmp_path: Path
) -> None:
    real(forge, acme, "widgets")
    asked = list[Request]()
    forge.answer = struck(1, Answer(403, {"X-RateLimit-Remaining": "4711"}, SECONDARY), asked)
    stop = FastStop()
    report = run(
        [source(forge, "acme")],
        FolderDestination(tmp_path / "vault"),
        RunOptions(),
        events=Silence(),
        stop=stop,
    )
    assert [(one.path, one.status) for one in report.outcomes] == [("widgets", "captured")]
    assert len(asked) == 2
    (pause,) = stop.slept
    assert 60 <= pause <= 61


def test_a_plain_403_is_asked_for_once(forge: GitHub, acme: Owner, tmp_path: Path) -> None:
    real(forge, acme, "widgets")
    asked = list[Request]()
    message = b'{"message": "Resource not accessible by personal access token"}'
    forge.answer = struck(99, Answer(403, {"X-RateLimit-Remaining": "4711"}, message), asked)
    done = night(forge, tmp_path / "vault", check=1)
    assert len(asked) == 1
    assert "again in" not in done.stderr
    assert "Resource not accessible" in done.json["error"]["message"]


def test_a_night_without_a_token_says_what_it_cannot_see(
    forge: GitHub, acme: Owner, tmp_path: Path
) -> None:
    real(forge, acme, "public")
    real(forge, acme, "secret", private=True)
    done = night(forge, tmp_path / "vault", token=None)
    assert told(done) == {"public": "captured"}
    assert "without a token only what is public is seen" in done.stderr
    assert done.json["notes"]


def test_an_owner_that_was_renamed_is_told_where_its_history_is(
    forge: GitHub, acme: Owner, tmp_path: Path
) -> None:
    real(forge, acme, "widgets")
    vault = tmp_path / "vault"
    night(forge, vault)
    (forge.root / "Acme").rename(forge.root / "Umbrella")
    acme.login = "Umbrella"
    env = {"REPO_BACKUP_SERVER_URL": forge.url, "REPO_BACKUP_TOKEN": PAT}
    words = ("run", "--from", "github:umbrella", "--to", vault, "--json")
    first = repo_backup(*words, env=env)
    (note,) = [one for one in first.json["notes"] if "was called" in one]
    assert note.startswith("Umbrella was called Acme before")
    assert note.endswith("Acme/REPOSITORY")
    assert told(first) == {"widgets": "captured"}
    # Said once; both names restore.
    second = repo_backup(*words, env=env)
    assert not [one for one in second.json["notes"] if "was called" in one]
    for owner in ("acme", "umbrella"):
        repo_backup("restore", f"{owner}/widgets", "--from", vault, tmp_path / f"{owner}.git")


def test_another_owner_in_the_vault_is_nobody_s_earlier_name(
    forge: GitHub, acme: Owner, tmp_path: Path
) -> None:
    real(forge, acme, "widgets")
    other = forge.owner("other")
    real(forge, other, "gadgets")
    vault = tmp_path / "vault"
    night(forge, vault)
    env = {"REPO_BACKUP_SERVER_URL": forge.url, "REPO_BACKUP_TOKEN": PAT}
    done = repo_backup("run", "--from", "github:other", "--to", vault, "--json", env=env)
    assert not [one for one in done.json["notes"] if "was called" in one]


def test_the_variables_of_the_old_script_are_enough(
    forge: GitHub, acme: Owner, moto_http: S3Server
) -> None:
    real(forge, acme, "secret", private=True)
    moto_http.make_bucket("cli-old-script")
    env = {
        **moto_http.environment(),
        "AWS_ENDPOINT_URL": moto_http.endpoint_url,
        "REPO_BACKUP_SERVER_URL": forge.url,
        "BACKUP_GITHUB_OWNER": "acme",
        "BACKUP_GITHUB_PAT": PAT,
        "BACKUP_BUCKET_NAME": "cli-old-script",
        "BACKUP_AWS_REGION": "eu-west-1",
    }
    assert told(repo_backup("run", "--json", env=env)) == {"secret": "captured"}
    rows = repo_backup("list", "--json", env=env).json["snapshots"]
    assert [row["captured"] for row in rows] == [1]


def test_a_token_that_is_named_for_github_goes_to_no_other_server(
    forge: GitHub, acme: Owner, tmp_path: Path
) -> None:
    real(forge, acme, "widgets")
    place = f"git:{forge.url}/Acme/widgets.git"
    words = ("run", "--from", place, "--to", str(tmp_path / "vault"), "--json")
    assert told(repo_backup(*words, env={"BACKUP_GITHUB_PAT": PAT})) == {"widgets": "captured"}
    asked = [request.headers for request in forge.server.requests]
    assert asked
    assert not [headers for headers in asked if "authorization" in headers]
    # Given under our own name, it is meant for what was named with it.
    repo_backup(*words, env={"REPO_BACKUP_TOKEN": PAT})
    assert "authorization" in forge.server.requests[-1].headers


# --- Odd answers ----------------------------------------------------------------------------------


def test_a_null_in_the_listing_is_said_and_costs_no_other_repository(
    forge: GitHub, acme: Owner, tmp_path: Path
) -> None:
    real(forge, acme, "one")
    sound = json.loads(json.dumps(forge_item(forge)))

    def answer(request: Request) -> Answer | None:
        if "/orgs/Acme/repos" not in request.target:
            return None
        items = [None, sound, {"owner": {"login": "Acme"}}, {"name": 7}]
        kind = {"Content-Type": "application/json"}
        return Answer(200, kind, json.dumps(items).encode())

    forge.answer = answer
    found = [*source(forge, "acme").repositories()]
    assert [one.path for one in found if not one.problem] == ["one"]
    assert len([one for one in found if one.problem]) == 3


def forge_item(forge: GitHub) -> Any:
    """Ask the fake for the item of its first repository."""
    with urllib.request.urlopen(f"{forge.url}/api/v3/orgs/Acme/repos") as answer:
        return json.load(answer)[0]


def test_a_listing_that_goes_on_at_itself_ends(forge: GitHub, acme: Owner) -> None:
    def answer(request: Request) -> Answer | None:
        if "/orgs/Acme/repos" not in request.target:
            return None
        place = f"{forge.url}{request.target}"
        fields = {"Content-Type": "application/json", "Link": f'<{place}>; rel="next"'}
        return Answer(200, fields, b"[]")

    forge.answer = answer
    with pytest.raises(SourceError, match="goes on at a page that it had already"):
        [*source(forge, "acme").repositories()]
    assert len(forge.requests) <= 4
