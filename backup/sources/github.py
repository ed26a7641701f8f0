"""The repositories of a GitHub organisation or user, and what GitHub answers about one of them.

Repositories and wikis are known by GitHub's numeric id, so that a rename continues the backup.
PyGithub makes the requests, one after another from one thread; it repeats nothing, since
`backup.commands.retrying` does.
Source: GitHub's REST API, "Repositories", "Apps", "Rate limits" and "Best practices".
"""

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlsplit

import github
from github import Auth, GithubException

import backup
from backup.errors import (
    AuthenticationError,
    BackupError,
    ConfigError,
    HostUnreachable,
    RateLimited,
    RepositoryBlocked,
    RepositoryMissing,
    SourceError,
)
from backup.model import Absence, Kind, Repository, SourceIdentity, Visibility
from backup.secret import Secret

PUBLIC_SERVER = "https://github.com"
PUBLIC_API = "https://api.github.com"
_PAGE = 100
_TIMEOUT_SECONDS = 30
_NEXT = re.compile(r'<([^>]+)>;\s*rel="next"')
_OWN_REPOSITORIES = "/user/repos?affiliation=owner"


def api_of(server_url: str) -> str:
    """Tell where a server's REST API is: GitHub Enterprise Server has it below its own name."""
    if server_url == PUBLIC_SERVER:
        return PUBLIC_API
    place = urlsplit(server_url)
    if (place.hostname or "").endswith(".ghe.com"):
        return f"{place.scheme}://api.{place.netloc}"
    return f"{server_url}/api/v3"


def token_scopes(
    token: Secret, *, server_url: str = PUBLIC_SERVER, api_url: str | None = None
) -> frozenset[str] | None:
    """Ask what a token may do; None for kinds of tokens of which GitHub does not say it.

    Raises:
        SourceError: GitHub does not accept it, or does not answer.
    """
    api = _connect(token, api_url or api_of(server_url))
    path = "/rate_limit"
    with _our_errors(path, signed_in=True):
        headers, _ = api.requester.requestJsonAndCheck("GET", path)
    scopes = {str(name).lower(): str(value) for name, value in headers.items()}.get(
        "x-oauth-scopes"
    )
    if scopes is None:
        return None
    return frozenset(scope for word in scopes.split(",") if (scope := word.strip()))


@dataclass(frozen=True, slots=True)
class _Owner:
    login: str
    owner_id: str
    is_organization: bool


class GitHubSource:
    """Every repository of one owner that the token may see, each followed by its wiki.

    Args:
        owner: a login, in any letter case.
        token: of any kind; None sees what is public.
        server_url: without a slash at the end.
        api_url: the REST API's; where `api_of` has it by default.
    """

    lists_everything = True

    def __init__(
        self,
        owner: str,
        *,
        token: Secret | None,
        authorization: Secret | None = None,
        server_url: str = PUBLIC_SERVER,
        api_url: str | None = None,
    ) -> None:
        self._name = owner
        self._token = token
        self._authorization = authorization
        self._server_url = server_url
        self._api = _connect(token, api_url or api_of(server_url))
        self._owner: _Owner | None = None
        self._notes: dict[str, None] = {}

    @property
    def identity(self) -> SourceIdentity:
        """Who the owner is, in GitHub's own spelling; asks for it the first time.

        Raises:
            SourceError: there is no such owner, or GitHub does not answer.
        """
        owner = self._find_owner()
        return SourceIdentity(
            provider="github",
            host=urlsplit(self._server_url).netloc.lower(),
            owner=owner.login,
            location=f"{self._server_url}/{owner.login}",
            owner_id=owner.owner_id,
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What people should know of the listing: what it cannot have seen."""
        return tuple(self._notes)

    @property
    def if_too_short(self) -> str:
        """What kind of token sees less than is there, and what it lacks then.

        Source: GitHub Docs, "Managing your personal access tokens" and "Authorizing a personal
        access token for use with single sign-on".
        """
        if self._token is None:
            return "without a token only what is public is seen"
        match self._token.reveal().partition("_")[0]:
            case "github":
                return (
                    f"the token's resource owner must be {self._name}, with access to all of its "
                    "repositories, and the organisation may have to approve the token"
                )
            case "ghs":
                return "the GitHub App must be installed for all repositories"
            case _:
                return (
                    "the token needs the scope repo, and where the organisation has single sign-on "
                    "it must be authorised for it"
                )

    def authorization(self) -> Secret | None:
        """Give the header for git: the same token."""
        return self._authorization

    def renew_authorization(self) -> bool:
        return False

    def repositories(self) -> Iterator[Repository]:
        owner = self._find_owner()
        for item in self._pages(self._listing_of(owner)):
            if str(item["owner"]["login"]).casefold() != owner.login.casefold():
                continue
            repository = self._repository(item)
            yield repository
            if item.get("has_wiki"):
                yield self._wiki(repository)

    def look_up(self, *, host_id: str, path: str, kind: Kind) -> Repository | Absence:
        try:
            item = self._ask(f"/repositories/{quote(host_id, safe='')}")
        except RepositoryMissing:
            return Absence("not-visible", "GitHub knows no such repository, or hides it from us")
        except RepositoryBlocked as error:
            return Absence("blocked", error.message)
        owner = self._find_owner()
        if str(item["owner"]["login"]).casefold() != owner.login.casefold():
            return Absence("transferred", f"it is now {item['full_name']}")
        repository = self._repository(item)
        if kind != "wiki":
            return repository
        if not item.get("has_wiki"):
            return Absence("not-visible", "its wiki is switched off")
        return self._wiki(repository)

    # --- Which listing ---

    def _find_owner(self) -> _Owner:
        if self._owner is None:
            try:
                item = self._ask(f"/users/{quote(self._name, safe='')}")
            except RepositoryMissing as error:
                raise SourceError(
                    f"{self._server_url} has no owner {self._name!r}",
                    hint="check the name; an organisation that was renamed has a new one",
                ) from error
            is_organization = item["type"] == "Organization"
            self._owner = _Owner(str(item["login"]), str(item["id"]), is_organization)
        return self._owner

    def _listing_of(self, owner: _Owner) -> str:
        """Choose the listing that sees the most with this kind of token."""
        public = (
            f"/orgs/{owner.login}/repos?type=all"
            if owner.is_organization
            else f"/users/{owner.login}/repos?type=owner"
        )
        if self._token is None:
            self._notes[f"{owner.login}: without a token only what is public is seen"] = None
            return public
        # Source: "Authenticating as a GitHub App installation": such tokens begin so.
        if self._token.reveal().startswith("ghs_"):
            return "/installation/repositories"
        if owner.is_organization:
            return public
        if str(self._ask("/user")["login"]).casefold() == owner.login.casefold():
            return _OWN_REPOSITORIES
        self._notes[
            f"{owner.login}: of another user's repositories only those that are public are seen"
        ] = None
        return public

    # --- Requests ---

    def _pages(self, path: str) -> Iterator[dict[str, Any]]:
        """Yield the items of a listing to its end, following GitHub's own links."""
        url: str | None = f"{path}{'&' if '?' in path else '?'}per_page={_PAGE}"
        while url is not None:
            headers, data = self._request(url)
            items = data.get("repositories") if isinstance(data, dict) else data
            if not isinstance(items, list):
                raise SourceError(f"GitHub answers {url} with something that is no list")
            yield from items
            found = _NEXT.search(headers.get("link", ""))
            url = None if found is None else found[1]

    def _ask(self, path: str) -> dict[str, Any]:
        _, data = self._request(path)
        if not isinstance(data, dict):
            raise SourceError(f"GitHub answers {path} with something that is no object")
        return data

    def _request(self, url: str) -> tuple[Mapping[str, str], Any]:
        with _our_errors(url, signed_in=self._token is not None):
            headers, data = self._api.requester.requestJsonAndCheck("GET", url)
        return {str(name).lower(): str(value) for name, value in headers.items()}, data

    # --- What an item means ---

    def _repository(self, item: Mapping[str, Any]) -> Repository:
        pushed_at = item.get("pushed_at")
        return Repository(
            host=urlsplit(self._server_url).netloc.lower(),
            owner=self._find_owner().login,
            path=str(item["name"]),
            host_id=str(item["id"]),
            clone_url=f"{self._server_url}/{quote(str(item['full_name']))}.git",
            private=bool(item["private"]),
            visibility=_visibility(item),
            archived=bool(item.get("archived")),
            fork=bool(item["fork"]),
            pushed_at=datetime.fromisoformat(pushed_at) if pushed_at else None,
            blocked="GitHub has disabled it" if item.get("disabled") else "",
        )

    def _wiki(self, repository: Repository) -> Repository:
        return replace(
            repository,
            path=f"{repository.path}.wiki",
            clone_url=f"{repository.clone_url.removesuffix('.git')}.wiki.git",
            kind="wiki",
            # Neither is the wiki's own.
            pushed_at=None,
        )


def _connect(token: Secret | None, api_url: str) -> github.Github:
    return github.Github(
        auth=None if token is None else Auth.Token(token.reveal()),
        base_url=api_url,
        timeout=_TIMEOUT_SECONDS,
        user_agent=f"repo-backup/{backup.__version__}",
        per_page=_PAGE,
        retry=None,
        seconds_between_requests=None,
    )


def _visibility(item: Mapping[str, Any]) -> Visibility:
    match item.get("visibility"):
        case "internal":
            return "internal"
        case "public" | "private" as known:
            return "public" if known == "public" else "private"
        case _:
            return "private" if item["private"] else "public"


@contextmanager
def _our_errors(url: str, *, signed_in: bool) -> Iterator[None]:
    """Turn what PyGithub raises into what it asks of people."""
    try:
        yield
    except GithubException as error:
        raise _refusal(error, url, signed_in=signed_in) from error
    except (OSError, ValueError) as error:
        # requests' own errors are OSErrors; ValueError is an answer that is no JSON.
        words = str(error).strip() or type(error).__name__
        if "CERTIFICATE_VERIFY_FAILED" in words:
            raise SourceError(
                "GitHub's certificate is not trusted",
                hint="name your authority's certificates in REQUESTS_CA_BUNDLE",
            ) from error
        raise HostUnreachable(f"GitHub cannot be reached: {words[:300]}") from error
    except AssertionError as error:
        raise ConfigError(
            f"GitHub's answer leads to another server than its API: {error}",
            hint="check --server-url and --api-url",
        ) from error


def _refusal(error: GithubException, url: str, *, signed_in: bool) -> BackupError:
    headers = {str(name).lower(): str(value) for name, value in (error.headers or {}).items()}
    said = _said(error)
    wait = _seconds_to_wait(headers, said)
    place = urlsplit(url).path
    if error.status == 401:
        return AuthenticationError(
            f"GitHub does not accept the token (401){said}",
            hint="it is wrong, expired or revoked (REPO_BACKUP_TOKEN, or the input token)",
        )
    if error.status == 429 or (error.status == 403 and wait is not None):
        hint = "" if signed_in else "with a token (REPO_BACKUP_TOKEN) the limit is 5,000 an hour"
        return RateLimited(
            f"GitHub's rate limit is used up ({error.status}){said}",
            hint=hint,
            retry_after_seconds=wait,
        )
    if error.status == 403:
        return _forbidden(headers, place, said)
    if error.status == 404:
        return RepositoryMissing(f"GitHub knows no {place}, or hides it from us (404)")
    if error.status == 451:
        return RepositoryBlocked(f"blocked for legal reasons{said}{_notice(error)}")
    if error.status >= 500:
        return HostUnreachable(f"GitHub is in trouble ({error.status})", retry_after_seconds=wait)
    return SourceError(f"GitHub refuses {place} ({error.status}){said}")


def _forbidden(headers: Mapping[str, str], place: str, said: str) -> BackupError:
    """Say which step or permission is missing, as far as GitHub tells."""
    sso = re.search(r"url=(\S+)", headers.get("x-github-sso", ""))
    if "required" in headers.get("x-github-sso", ""):
        where = f": {sso[1]}" if sso else ""
        return AuthenticationError(
            f"the organisation wants the token authorised for single sign-on (403){said}",
            hint=f"authorise it{where}",
        )
    wanted = headers.get("x-accepted-github-permissions")
    scopes, has = headers.get("x-accepted-oauth-scopes"), headers.get("x-oauth-scopes")
    hint = "the organisation may have to approve the token, or forbid this kind of token"
    if wanted:
        hint = f"the token lacks a permission: GitHub asks for {wanted}"
    elif scopes and has is not None and scopes != has:
        hint = f"the token has the scopes {has or '(none)'}; GitHub accepts any of {scopes}"
    return AuthenticationError(f"GitHub forbids {place} (403){said}", hint=hint)


def _said(error: GithubException) -> str:
    data = error.data
    words = data.get("message") if isinstance(data, dict) else None
    line = " ".join(str(words or "").split())[:300]
    return f": {line}" if line else ""


def _notice(error: GithubException) -> str:
    block = error.data.get("block") if isinstance(error.data, dict) else None
    url = block.get("html_url") if isinstance(block, dict) else None
    return f" ({url})" if url else ""


def _seconds_to_wait(headers: Mapping[str, str], said: str) -> float | None:
    """Read how long GitHub asks us to wait; None where it is no matter of a rate limit."""
    asked = headers.get("retry-after", "")
    if asked.isdigit():
        return float(asked)
    reset = headers.get("x-ratelimit-reset", "")
    if headers.get("x-ratelimit-remaining") == "0" and reset.isdigit():
        return max(0.0, float(reset) - time.time()) + 1
    # "If neither is there, wait for at least one minute."
    return 60.0 if "secondary rate limit" in said.lower() else None
