"""A GitHub of one's own on loopback: its REST API, and git below the same address.

What the API answers is built from GitHub's own examples and held against GitHub's description of a
GitHub Enterprise Server, each time; git is `git http-backend`. Repositories and owners are plain
data, to be changed between two nights.
"""

import base64
import json
import re
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, urlsplit

import jwt

from tests.support.gitserver import Answer, GitHttpServer, Request
from tests.support.openapi import description

PREFIX = "/api/v3"
_PRODUCT = "ghes-3.19"


@dataclass(slots=True)
class Owner:
    """An organisation or a user."""

    login: str
    owner_id: int
    kind: str = "Organization"


@dataclass(slots=True)
class Listed:
    """A repository as the API has it; the git side is the folder ``owner/name.git``.

    Attributes:
        blocked: the notice that the API names in place of it; empty as a rule.
        blocked_status: with which it does; 451, or 403 where the terms of service are the reason.
    """

    owner: Owner
    name: str
    repository_id: int
    private: bool = False
    visibility: str = ""
    archived: bool = False
    disabled: bool = False
    fork: bool = False
    has_wiki: bool = False
    listed: bool = True
    blocked: str = ""
    blocked_status: int = 451


@dataclass(slots=True)
class Gist:
    """A gist as the API has it; the git side is the folder ``gist/id.git``."""

    owner: Owner
    gist_id: str
    public: bool = True
    url: str = ""


@dataclass(slots=True)
class Token:
    """Who a token is, and what it sees.

    Attributes:
        login: the user's; empty for an installation.
        sees: the names of private repositories; None for all.
        scopes: what GitHub says that it may do; None for kinds of which it says nothing.
        of: for an installation's, its owner's login; empty for all owners.
    """

    login: str = ""
    sees: frozenset[str] | None = None
    scopes: str | None = None
    of: str = ""


@dataclass(slots=True)
class App:
    """A GitHub App: who signs with its key has tokens made for its installations.

    Attributes:
        public_key: PEM text.
        installed: logins of owners, and what it was given there: names of repositories, or all.
        permissions: that it was granted.
        suspended_at: since when its owners have suspended it; None as a rule.
        refuses: status and words with which every token is refused that is asked for.
        made: for each token that was made, whose it is and when it ends, by the fake's clock.
    """

    app_id: str
    public_key: str
    installed: dict[str, frozenset[str] | None] = field(default_factory=dict)
    permissions: frozenset[str] = frozenset({"contents", "metadata"})
    suspended_at: str | None = None
    refuses: tuple[int, str] | None = None
    made: dict[str, tuple[str, datetime]] = field(default_factory=dict)


@dataclass(slots=True)
class GitHub:
    """The whole of it. As a context it insists that all its answers fitted the description.

    Attributes:
        answer: gives an answer in place of the API's or git's, or None.
        page: how many items a page has at most, whatever is asked for.
        clock: tells the time by which an App's tokens end.
        ends_at: what it says of every token's end; empty where it says nothing.
        lives: of each request with an App's token the seconds that this had left.
    """

    root: Path
    owners: list[Owner] = field(default_factory=list)
    repositories: list[Listed] = field(default_factory=list)
    gists: list[Gist] = field(default_factory=list)
    tokens: dict[str, Token] = field(default_factory=dict)
    answer: Callable[[Request], Answer | None] = lambda _: None
    page: int = 100
    apps: list[App] = field(default_factory=list)
    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ends_at: str = ""
    lives: list[float] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    server: GitHttpServer = field(init=False)

    def __enter__(self) -> Self:
        self.server = GitHttpServer(self.root, answer=self._answer)
        self.server.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.server.__exit__(kind, error, trace)
        if error is None:
            assert not self.problems, self.problems[:5]

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def requests(self) -> list[Request]:
        """Every request to the API so far."""
        return [one for one in self.server.requests if one.target.startswith(PREFIX)]

    def owner(self, login: str, *, kind: str = "Organization") -> Owner:
        """Make an owner."""
        made = Owner(login, 1000 + len(self.owners), kind)
        self.owners.append(made)
        return made

    def repository(self, owner: Owner, name: str, **more: Any) -> Listed:
        """Make a repository known to the API."""
        made = Listed(owner, name, 7_000_000_000 + len(self.repositories), **more)
        self.repositories.append(made)
        return made

    # --- Answers -----------------------------------------------------------------------------

    def _answer(self, request: Request) -> Answer | None:
        if (instead := self.answer(request)) is not None:
            return instead
        if not request.target.startswith(PREFIX):
            return self.guard_git(request)
        place = urlsplit(request.target.removeprefix(PREFIX))
        query = {name: values[0] for name, values in parse_qs(place.query).items()}
        status, body, headers = self._respond(place.path, query, request)
        # By id is how GitHub's own redirects work; the description has it by name alone.
        described = re.sub(r"^/repositories/\d+$", "/repos/owner/name", place.path)
        # Any path may be refused for want of a valid token; the description does not repeat it.
        if status != 401:
            found = description(_PRODUCT).problems(request.method, described, status, body)
            self.problems += [f"{place.path} {status}: {one}" for one in found]
        fields = {
            "Content-Type": "application/json; charset=utf-8",
            "Date": format_datetime(self.clock(), usegmt=True),
            **({"GitHub-Authentication-Token-Expiration": self.ends_at} if self.ends_at else {}),
            **headers,
        }
        return Answer(status, fields, json.dumps(body).encode())

    def guard_git(self, request: Request) -> Answer | None:
        """Refuse private repositories to those who may not see them, as GitHub does: with 404."""
        path = request.target.removeprefix("/").partition(".git/")[0].removesuffix(".wiki")
        found = [one for one in self.repositories if f"{one.owner.login}/{one.name}" == path]
        token = self._token(request)
        if found and found[0].private and (token is None or not _sees(token, found[0])):
            status = 401 if token is None else 404
            return Answer(status, {}, b"Repository not found.")
        return None

    def _token(self, request: Request) -> Token | None:
        said = request.headers.get("authorization", "")
        kind, _, value = said.partition(" ")
        if kind.lower() == "basic":
            value = base64.b64decode(value).decode().partition(":")[2]
        for app in self.apps:
            if value in app.made:
                login, ends_at = app.made[value]
                left = (ends_at - self.clock()).total_seconds()
                self.lives.append(left)
                return Token(sees=app.installed.get(login), of=login) if left > 0 else None
        return self.tokens.get(value)

    def _as_app(
        self, path: list[str], query: Mapping[str, str], request: Request
    ) -> tuple[int, Any, dict[str, str]]:
        """Answer what is asked with a signed statement in place of a token."""
        said = request.headers.get("authorization", "").partition(" ")[2]
        try:
            claims = jwt.decode(said, options={"verify_signature": False})
            app = next(one for one in self.apps if one.app_id == claims["iss"])
            # PyJWT compares with the machine's clock, which is ours too.
            jwt.decode(said, app.public_key, algorithms=["RS256"])
            assert claims["exp"] - claims["iat"] <= 600
        except (jwt.PyJWTError, StopIteration, KeyError, AssertionError):
            message = "A JSON web token could not be decoded"
            return 401, {"message": message, "documentation_url": "https://x"}, {}
        match path:
            case ["app", "installations"]:
                example = description(_PRODUCT).example("/app/installations")[0]
                # This description wants the fields of a user and those of an enterprise at once.
                account = description(_PRODUCT).example("/orgs/{org}/repos")[0]["owner"] | {
                    "name": "Acme",
                    "slug": "acme",
                    "created_at": None,
                    "updated_at": None,
                }
                found = [
                    example
                    | {
                        "id": owner.owner_id,
                        "account": account | {"login": owner.login, "type": owner.kind},
                        "suspended_at": app.suspended_at,
                    }
                    for owner in self.owners
                    if owner.login in app.installed
                ]
                return self._page(urlsplit(request.target).path.removeprefix(PREFIX), query, found)
            case ["app", "installations", number, "access_tokens"]:
                owner = next(one for one in self.owners if str(one.owner_id) == number)
                wanted = json.loads(request.form or b"{}").get("permissions", {})
                if app.refuses is not None:
                    status, message = app.refuses
                    return status, {"message": message, "documentation_url": "https://x"}, {}
                if owner.login not in app.installed:
                    return _missing()
                if not app.permissions >= wanted.keys():
                    message = "The permissions requested are not granted to this installation."
                    return 422, {"message": message, "documentation_url": "https://x"}, {}
                token = f"ghs_{secrets.token_hex(18)}"
                app.made[token] = owner.login, self.clock() + timedelta(hours=1)
                ends_at = f"{app.made[token][1]:%Y-%m-%dT%H:%M:%SZ}"
                return 201, {"token": token, "expires_at": ends_at, "permissions": wanted}, {}
        return _missing()

    def _respond(
        self, path: str, query: Mapping[str, str], request: Request
    ) -> tuple[int, Any, dict[str, str]]:
        parts = path.strip("/").split("/")
        if parts[0] == "app" or "gists" in parts[::2]:
            return self._respond_on_others(parts, query, request)
        token = self._token(request)
        if token is None and "authorization" in request.headers:
            return 401, {"message": "Bad credentials", "documentation_url": "https://x"}, {}
        match parts:
            case ["rate_limit"] if token is not None:
                fields = {} if token.scopes is None else {"X-OAuth-Scopes": token.scopes}
                return 200, description(_PRODUCT).example("/rate_limit"), fields
            case ["users", login]:
                owner = self._owner(login)
                return _missing() if owner is None else (200, self._user(owner), {})
            case ["user"] if token is not None and token.login:
                owner = self._owner(token.login)
                assert owner is not None, token
                return 200, self._user(owner), {}
            case ["user"]:
                said = "Resource not accessible by integration"
                return (403, {"message": said, "documentation_url": "https://x"}, {})
            case ["orgs", login, "repos"] | ["users", login, "repos"]:
                owner = self._owner(login)
                if owner is None or (path.startswith("/orgs/") != (owner.kind == "Organization")):
                    return _missing()
                public = path.startswith("/users/") or token is None
                return self._listing(
                    path, query, lambda one: one.owner is owner, None if public else token
                )
            case ["user", "repos"] if token is not None:
                return self._listing(path, query, lambda one: one.owner.login == token.login, token)
            case ["installation", "repositories"] if token is not None and not token.login:
                return self._listing(path, query, lambda one: _sees(token, one), token)
            case ["repositories", number]:
                return self._single(lambda one: one.repository_id == int(number), token)
            case ["repos", login, name]:
                return self._single(lambda one: (one.owner.login, one.name) == (login, name), token)
        return _missing()

    def _respond_on_others(
        self, parts: list[str], query: Mapping[str, str], request: Request
    ) -> tuple[int, Any, dict[str, str]]:
        if parts[0] == "app":
            return self._as_app(parts, query, request)
        path, token = "/" + "/".join(parts), self._token(request)
        match parts:
            case ["gists"] if token is not None and token.login:
                mine = [one for one in self.gists if one.owner.login == token.login]
                return self._page(path, query, [self._gist(one) for one in mine])
            case ["users", login, "gists"]:
                theirs = [one for one in self.gists if one.owner.login == login and one.public]
                return self._page(path, query, [self._gist(one) for one in theirs])
            case ["gists", gist_id]:
                found = [one for one in self.gists if one.gist_id == gist_id]
                if not found:
                    return _missing()
                whole = description(_PRODUCT).example("/gists/{gist_id}")
                return 200, whole | self._gist(found[0]), {}
        return _missing()

    def _owner(self, login: str) -> Owner | None:
        return next((one for one in self.owners if one.login.lower() == login.lower()), None)

    def _single(
        self, is_it: Callable[[Listed], bool], token: Token | None
    ) -> tuple[int, Any, dict[str, str]]:
        found = next(filter(is_it, self.repositories), None)
        if found is None or (found.private and (token is None or not _sees(token, found))):
            return _missing()
        if found.blocked:
            # Not among the described answers of this product; api.github.com describes it so.
            body = {
                "message": "Repository access blocked",
                "block": {
                    "reason": "tos" if found.blocked_status == 403 else "dmca",
                    "created_at": "2026-01-01T00:00:00Z",
                    "html_url": found.blocked,
                },
            }
            return found.blocked_status, body, {}
        return 200, _whole_repository() | self._fields(found), {}

    def _listing(
        self,
        path: str,
        query: Mapping[str, str],
        belongs: Callable[[Listed], bool],
        token: Token | None,
    ) -> tuple[int, Any, dict[str, str]]:
        seen = [
            one
            for one in self.repositories
            if one.listed and belongs(one) and (not one.private or (token and _sees(token, one)))
        ]
        _, some, headers = self._page(path, query, seen)
        # Listings of an owner have the shorter kind of item.
        short = path.startswith(("/orgs/", "/users/"))
        base = (
            description(_PRODUCT).example("/orgs/{org}/repos")[0] if short else _whole_repository()
        )
        items = [base | self._fields(one) for one in some]
        if path == "/installation/repositories":
            return 200, {"total_count": len(seen), "repositories": items}, headers
        return 200, items, headers

    def _page(
        self, path: str, query: Mapping[str, str], everything: Sequence[Any]
    ) -> tuple[int, Any, dict[str, str]]:
        """Give one page of a listing, and the way to the next."""
        size = min(int(query.get("per_page", "30")), self.page)
        number = int(query.get("page", "1"))
        some = everything[(number - 1) * size : number * size]
        if number * size >= len(everything):
            return 200, some, {}
        kept = {name: value for name, value in query.items() if name != "page"}
        words = "&".join(f"{name}={value}" for name, value in kept.items())
        url = f"{self.url}{PREFIX}{path}?{words}&page={number + 1}"
        return 200, some, {"Link": f'<{url}>; rel="next", <{url}>; rel="last"'}

    def _gist(self, one: Gist) -> dict[str, Any]:
        example: dict[str, Any] = description(_PRODUCT).example("/gists")[0]
        url = one.url or f"{self.url}/gist/{one.gist_id}.git"
        owner = example["owner"] | {"login": one.owner.login, "id": one.owner.owner_id}
        said = {"id": one.gist_id, "git_pull_url": url, "public": one.public, "owner": owner}
        return example | said

    def _user(self, owner: Owner) -> Any:
        template = description(_PRODUCT).example("/users/{username}")
        return template | {"login": owner.login, "id": owner.owner_id, "type": owner.kind}

    def _fields(self, one: Listed) -> dict[str, Any]:
        owner = description(_PRODUCT).example("/orgs/{org}/repos")[0]["owner"]
        name = f"{one.owner.login}/{one.name}"
        return {
            "id": one.repository_id,
            "name": one.name,
            "full_name": name,
            "owner": owner
            | {"login": one.owner.login, "id": one.owner.owner_id, "type": one.owner.kind},
            "private": one.private,
            "visibility": one.visibility or ("private" if one.private else "public"),
            "archived": one.archived,
            "disabled": one.disabled,
            "fork": one.fork,
            "has_wiki": one.has_wiki,
            "size": 0,
            "clone_url": f"https://elsewhere.example/{name}.git",
        }


def _whole_repository() -> dict[str, Any]:
    example: dict[str, Any] = description(_PRODUCT).example("/repos/{owner}/{repo}")
    # The example names other repositories, and lacks what the description requires.
    others = {"source", "parent", "template_repository", "organization"}
    return {name: value for name, value in example.items() if name not in others} | {
        "language": None
    }


def _missing() -> tuple[int, Any, dict[str, str]]:
    return 404, {"message": "Not Found", "documentation_url": "https://x", "status": "404"}, {}


def _sees(token: Token, one: Listed) -> bool:
    if token.of and token.of != one.owner.login:
        return False
    return token.sees is None or one.name in token.sees
