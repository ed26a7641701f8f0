"""The repositories of a GitHub organisation or user, and what GitHub answers about one of them.

Repositories and wikis are known by GitHub's numeric id, so that a rename continues the backup.
Requests are made one after another from one thread, but for an App's new tokens, which any thread
may ask for.
Source: GitHub's REST API, "Repositories" and "Apps".
"""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote, urlsplit

from backup.answers import flag, moment, number, text
from backup.errors import (
    AuthenticationError,
    RepositoryBlocked,
    RepositoryMissing,
    SourceError,
)
from backup.model import Absence, Kind, Repository, SourceIdentity, Visibility
from backup.results import Diagnosis, Finding
from backup.secret import Secret
from backup.sources.github.api import PUBLIC_SERVER, Api, api_of, end_of
from backup.sources.github.credentials import AccessToken, Credentials, Live
from backup.sources.items import Bounds, each, taken_for
from backup.sources.one_server import basic
from backup.stopping import Stop
from backup.times import http_time
from backup.urls import place_of, shown

# Source: "Authenticating as a GitHub App installation"; GitHub takes it with any token.
ANY_USERNAME = "x-access-token"
_SOON_DAYS = 14
_FEW_REQUESTS = 100
_OWN_REPOSITORIES = "/user/repos?affiliation=owner"


def token_scopes(
    token: Secret,
    *,
    server_url: str = PUBLIC_SERVER,
    api_url: str | None = None,
    stop: Stop | None = None,
) -> frozenset[str] | None:
    """Ask what a token may do; None for kinds of tokens of which GitHub does not say it.

    Raises:
        SourceError: GitHub does not accept it, or does not answer.
    """
    api = Api(Live(AccessToken(token)), api_url or api_of(server_url), stop=stop)
    headers, _ = api.request("GET", "/rate_limit")
    scopes = headers.get("x-oauth-scopes")
    if scopes is None:
        return None
    return frozenset(scope for word in scopes.split(",") if (scope := word.strip()))


@dataclass(frozen=True, slots=True)
class _Owner:
    login: str
    owner_id: str
    is_organization: bool


def _ending(ends_at: datetime) -> Finding:
    """Say when a token ends."""
    days = (ends_at - datetime.now(UTC)).days
    if days < _SOON_DAYS:
        return Finding("warning", f"the token ends in {days} days", "make another one in time")
    return Finding("info", f"the token ends on {ends_at:%Y-%m-%d}")


class GitHubSource:
    """Every repository of one owner that the token may see, each followed by its wiki.

    Args:
        owner: a login, in any letter case.
        credentials: None sees what is public.
        username: goes with the token for git.
        server_url: without a slash at the end.
        api_url: the REST API's; where `api_of` has it by default.
        gists: list a user's gists, too.
        stop: ends the wait for an answer with its own error.
    """

    lists_everything = True

    def __init__(
        self,
        owner: str,
        *,
        credentials: Credentials | None,
        username: str = ANY_USERNAME,
        server_url: str = PUBLIC_SERVER,
        api_url: str | None = None,
        gists: bool = False,
        stop: Stop | None = None,
    ) -> None:
        self._gists = gists
        self._name = owner
        self._credentials = credentials
        self._username = username
        self._server_url = server_url
        auth = None if credentials is None else Live(credentials)
        self._api = Api(auth, api_url or api_of(server_url), stop=stop)
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
        if self._credentials is None:
            return "without a token only what is public is seen"
        if self._credentials.is_installation:
            return "the GitHub App must be installed for all repositories"
        match self._credentials.token().reveal().partition("_")[0]:
            case "github":
                return (
                    f"the token's resource owner must be {self._name}, with access to all of its "
                    "repositories, and the organisation may have to approve the token"
                )
            case _:
                return (
                    "the token needs the scope repo, and where the organisation has single sign-on "
                    "it must be authorised for it"
                )

    def server_time(self) -> datetime | None:
        return self._api.clock.now()

    def authorization(self) -> Secret | None:
        """Give the header for git: the same token."""
        if self._credentials is None:
            return None
        return basic(self._username, self._credentials.token())

    def renew_authorization(self) -> bool:
        return self._credentials is not None and self._credentials.renew()

    def diagnose(self) -> Diagnosis:
        """Tell what GitHub says of the token: kind, scopes, end, and what is left of the limit."""
        if self._credentials is None:
            return Diagnosis((Finding("warning", "without a token only what is public is seen"),))
        headers, data = self._request("/rate_limit")
        findings = [*self._of_token(headers)]
        if (ends_at := end_of(headers)) is not None:
            findings.append(_ending(ends_at))
        # A server of one's own may have no limit, and then says nothing of it.
        with suppress(LookupError, TypeError, ValueError):
            core = data["resources"]["core"]
            if (remaining := number(core, "remaining")) < _FEW_REQUESTS:
                findings.append(
                    Finding(
                        "warning",
                        f"{remaining} of {number(core, 'limit')} requests are left in this hour",
                        "others use the same token; a GitHub App has a limit of its own",
                    )
                )
        return Diagnosis(tuple(findings), server_time=http_time(headers.get("date")))

    def _of_token(self, headers: Mapping[str, str]) -> Iterator[Finding]:
        if self._credentials is None:
            return
        if self._credentials.is_installation:
            yield Finding("info", "the token is an installation's of a GitHub App")
            return
        said = headers.get("x-oauth-scopes")
        if said is None:
            yield Finding(
                "info",
                "the token is fine-grained: GitHub does not say what it may not see",
                self.if_too_short,
            )
            return
        scopes = {scope.strip() for scope in said.split(",")}
        shown = ", ".join(sorted(scopes - {""})) or "none"
        if "repo" not in scopes:
            yield Finding(
                "error",
                f"the token has the scopes {shown}: it cannot read private repositories",
                "give it the scope repo, or a fine-grained token Contents: read",
            )
        else:
            yield Finding("info", f"the token is a classic one, with the scopes {shown}")
        if self._gists and "gist" not in scopes:
            yield Finding(
                "warning", "without the scope gist secret gists are not seen", "add it to the token"
            )

    def repositories(self) -> Iterator[Repository]:
        owner, bounds = self._find_owner(), Bounds("GitHub")

        def of_item(item: Mapping[str, Any]) -> Iterator[Repository]:
            if text(item["owner"], "login").casefold() != owner.login.casefold():
                return
            repository = self._repository(item)
            yield repository
            if item.get("has_wiki"):
                yield self._wiki(repository)

        known = {"forge": "GitHub", "host": self.identity.host, "owner": owner.login}
        listing = self._api.pages(self._listing_of(owner), bounds)
        yield from each(listing, of_item, **known)
        if self._gists and (path := self._gists_of(owner)):
            listing = self._api.pages(path, bounds)
            yield from each(listing, lambda item: [self._gist(item)], **known)

    def look_up(self, *, host_id: str, path: str, kind: Kind) -> Repository | Absence:
        place = "gists" if kind == "gist" else "repositories"
        try:
            item = self._ask(f"/{place}/{quote(host_id, safe='')}")
        except RepositoryMissing:
            name = "gist" if kind == "gist" else "repository"
            return Absence("not-visible", f"GitHub knows no such {name}, or hides it from us")
        except RepositoryBlocked as error:
            return Absence("blocked", error.message)
        with taken_for("repository", forge="GitHub"):
            return self._meant(item, kind)

    def _meant(self, item: Mapping[str, Any], kind: Kind) -> Repository | Absence:
        if kind == "gist":
            return self._gist(item)
        owner = self._find_owner()
        if text(item["owner"], "login").casefold() != owner.login.casefold():
            return Absence("transferred", f"it is now {text(item, 'full_name')}")
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
            with taken_for("owner", forge="GitHub"):
                is_organization = text(item, "type") == "Organization"
                owner_id = str(number(item, "id"))
                self._owner = _Owner(text(item, "login"), owner_id, is_organization)
        return self._owner

    def _listing_of(self, owner: _Owner) -> str:
        """Choose the listing that sees the most with this kind of token."""
        login = quote(owner.login, safe="")
        public = (
            f"/orgs/{login}/repos?type=all"
            if owner.is_organization
            else f"/users/{login}/repos?type=owner"
        )
        if self._credentials is None:
            self._notes[f"{owner.login}: without a token only what is public is seen"] = None
            return public
        if self._credentials.is_installation:
            return "/installation/repositories"
        if owner.is_organization:
            return public
        if self._is_own(owner):
            return _OWN_REPOSITORIES
        self._notes[
            f"{owner.login}: of another user's repositories only those that are public are seen"
        ] = None
        return public

    def _gists_of(self, owner: _Owner) -> str:
        """Choose the listing that sees the most of somebody's gists; empty where there are none."""
        if owner.is_organization:
            self._notes[f"{owner.login}: an organisation has no gists"] = None
            return ""
        # Source: "Gists": installations see none but the public ones.
        credentials = self._credentials
        if credentials is not None and not credentials.is_installation and self._is_own(owner):
            return "/gists"
        self._notes[f"{owner.login}: of the gists only those that are public are seen"] = None
        return f"/users/{quote(owner.login, safe='')}/gists"

    def _is_own(self, owner: _Owner) -> bool:
        """Tell whether the token is the owner's own."""
        item = self._ask("/user")
        with taken_for("user", forge="GitHub"):
            return text(item, "login").casefold() == owner.login.casefold()

    # --- Requests ---

    def _ask(self, path: str) -> dict[str, Any]:
        _, data = self._request(path)
        if not isinstance(data, dict):
            raise SourceError(f"GitHub answers {path} with something that is no object")
        return data

    def _request(self, url: str) -> tuple[Mapping[str, str], Any]:
        try:
            return self._api.request("GET", url)
        except AuthenticationError:
            if not self.renew_authorization():
                raise
            return self._api.request("GET", url)

    # --- What an item means ---

    def _repository(self, item: Mapping[str, Any]) -> Repository:
        return Repository(
            host=urlsplit(self._server_url).netloc.lower(),
            owner=self._find_owner().login,
            path=text(item, "name"),
            host_id=str(number(item, "id")),
            clone_url=f"{self._server_url}/{quote(text(item, 'full_name'))}.git",
            private=flag(item, "private"),
            visibility=_visibility(item),
            archived=bool(item.get("archived")),
            fork=flag(item, "fork"),
            pushed_at=moment(item.get("pushed_at")),
            blocked="GitHub has disabled it" if item.get("disabled") else "",
        )

    def _gist(self, item: Mapping[str, Any]) -> Repository:
        gist_id, url = text(item, "id"), text(item, "git_pull_url")
        host = urlsplit(self._server_url).netloc.lower()
        # Gists have a host of their own, or a folder; credentials go nowhere else.
        server, place = place_of(self._server_url), place_of(url)
        ours = () if server is None else (server, server._replace(host=f"gist.{server.host}"))
        is_ours = place in ours
        is_public = flag(item, "public")
        return Repository(
            host=host,
            owner=self._find_owner().login,
            path=f"gists/{gist_id}",
            host_id=gist_id,
            clone_url=url if is_ours else "",
            kind="gist",
            private=not is_public,
            visibility="public" if is_public else "private",
            pushed_at=None,
            problem="" if is_ours else f"GitHub names another server for it: {shown(url)}",
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


def _visibility(item: Mapping[str, Any]) -> Visibility:
    match item.get("visibility"):
        case "internal":
            return "internal"
        case "public" | "private" as known:
            return "public" if known == "public" else "private"
        case _:
            return "private" if item["private"] else "public"
