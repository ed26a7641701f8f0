"""The repositories of a Bitbucket Cloud workspace, with their wikis.

Repositories are known by Bitbucket's UUID, so that a rename continues the backup. Requests are made
one after another from one thread, but for new tokens, which any thread may ask for; nothing is
repeated here, since `backup.commands.retrying` does. The lists across workspaces, which Bitbucket
removed in 2026, are never asked for.
Source: Bitbucket Cloud REST API, "Repositories", "Workspaces", "Pagination"; "OAuth 2.0";
"Authentication methods".
"""

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol
from urllib.parse import quote, urlsplit

import requests
from requests.auth import AuthBase

import backup
from backup.answers import Odd, flag, header_number, life_seconds, parsed, text, token
from backup.errors import (
    AuthenticationError,
    BackupError,
    HostUnreachable,
    RateLimited,
    RepositoryMissing,
    SourceError,
)
from backup.model import Absence, Kind, Repository, SourceIdentity
from backup.results import Diagnosis, Finding
from backup.secret import Secret, foreign, minted
from backup.sources.items import Bounds, each, no_json, taken_for
from backup.sources.one_server import OneServerSession, basic, bearer
from backup.stopping import Stop
from backup.times import ServerClock, http_time
from backup.urls import place_of, shown

PUBLIC_SERVER = "https://bitbucket.org"
PUBLIC_API = "https://api.bitbucket.org"
_PAGE = 100
_TIMEOUT_SECONDS = 60
# No request begins with a token that has less than this to live.
_LEAST_LIFE_SECONDS = 300.0
# Threads that were refused with one token at one moment need one new token between them.
_JUST_RENEWED_SECONDS = 60.0
_ANY_TOKEN = "x-token-auth"  # noqa: S105 - a user name
_API_TOKEN = "x-bitbucket-api-token-auth"  # noqa: S105 - a user name
INSTEAD_OF_APP_PASSWORDS = (
    "app passwords ended on 9 June 2026: give an API token with the account's email as username, "
    "an access token of the workspace, or an OAuth consumer (oauth-key, oauth-secret)"
)


class Credentials(Protocol):
    """What opens Bitbucket's API and git. Used from many threads."""

    def for_api(self) -> Secret:
        """Give the Authorization header's value for the API."""

    def for_git(self) -> Secret:
        """Give it for git."""

    def renew(self) -> bool:
        """Get others, since these were refused; False where there are none."""


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A token of a workspace, a project or a repository."""

    token: Secret

    def for_api(self) -> Secret:
        return bearer(self.token)

    def for_git(self) -> Secret:
        return basic(_ANY_TOKEN, self.token)

    def renew(self) -> bool:
        return False


@dataclass(frozen=True, slots=True)
class ApiToken:
    """A person's API token, used with the email of the Atlassian account."""

    email: str
    token: Secret

    def for_api(self) -> Secret:
        return basic(self.email, self.token)

    def for_git(self) -> Secret:
        return basic(_API_TOKEN, self.token)

    def renew(self) -> bool:
        return False


class Consumer:
    """An OAuth consumer: its tokens live some hours, and are asked for as they are needed.

    Args:
        key: the consumer's; it must be a private one.
        secret: the consumer's.
        server_url: where tokens are given out.
        stop: ends the wait for a token with its own error.
        clock: seconds that only grow.

    Attributes:
        scopes: what its newest token may do; empty before there is one, and where nobody says.
    """

    def __init__(
        self,
        key: str,
        secret: Secret,
        *,
        server_url: str = PUBLIC_SERVER,
        stop: Stop | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._key = key
        self._secret = secret
        self._url = f"{server_url}/site/oauth2/access_token"
        self._stop = stop
        self._clock = clock
        self._lock = threading.Lock()
        self.scopes: tuple[str, ...] = ()
        self._token: Secret | None = None
        self._ends_at = self._renewed_at = float("-inf")

    def for_api(self) -> Secret:
        return bearer(self._current())

    def for_git(self) -> Secret:
        return basic(_ANY_TOKEN, self._current())

    def renew(self) -> bool:
        with self._lock:
            now = self._clock()
            if now - self._renewed_at > _JUST_RENEWED_SECONDS:
                self._token, self._renewed_at = None, now
        return True

    def _current(self) -> Secret:
        with self._lock:
            left = self._ends_at - self._clock()
            if self._token is None or left < _LEAST_LIFE_SECONDS:
                self._token = self._ask()
            return self._token

    def _ask(self) -> Secret:
        now = self._clock()
        session = OneServerSession("Bitbucket", stop=self._stop)
        with _our_errors("the token endpoint"), session:
            answer = session.post(
                self._url,
                data={"grant_type": "client_credentials"},
                headers={"User-Agent": _agent()},
                auth=_Header(basic(self._key, self._secret)),
                timeout=_TIMEOUT_SECONDS,
                allow_redirects=False,
            )
            if answer.status_code in {400, 401, 403}:
                raise AuthenticationError(
                    f"Bitbucket does not accept the OAuth consumer ({answer.status_code})"
                    f"{_said(answer)}",
                    hint="check oauth-key and oauth-secret; the consumer must be a private one, "
                    "with a callback URL and the permission to read repositories",
                )
            _require_good(answer, "the token endpoint")
            fields = parsed(answer.content)
        with taken_for("token", forge="Bitbucket"):
            value, life = token(fields, "access_token"), life_seconds(fields, "expires_in")
            self.scopes = tuple(str(fields.get("scopes") or "").split())
        self._ends_at = now + life
        return minted(value)


class BitbucketSource:
    """Every repository of one workspace that the credentials see, each followed by its wiki.

    Args:
        workspace: its id, in any letter case.
        credentials: None sees what is public.
        server_url: where repositories are cloned from, without a slash at the end.
        api_url: where the API is, up to /2.0.
        stop: ends the wait for an answer with its own error.
    """

    lists_everything = True

    def __init__(
        self,
        workspace: str,
        *,
        credentials: Credentials | None,
        server_url: str = PUBLIC_SERVER,
        api_url: str | None = None,
        stop: Stop | None = None,
    ) -> None:
        self._name = workspace
        self._credentials = credentials
        self._server_url = server_url
        default = PUBLIC_API if server_url == PUBLIC_SERVER else server_url
        self._api_url = (api_url or default).rstrip("/").removesuffix("/2.0")
        self._session = OneServerSession("Bitbucket", stop=stop)
        self._clock = ServerClock()
        self._identity: SourceIdentity | None = None
        self._notes: dict[str, None] = {}

    @property
    def identity(self) -> SourceIdentity:
        """Whose repositories they are, in Bitbucket's own spelling; asks for it the first time.

        Raises:
            SourceError: there is no such workspace, or Bitbucket does not answer.
        """
        if self._identity is None:
            slug, owner_id = self._find_workspace()
            self._identity = SourceIdentity(
                provider="bitbucket",
                host=urlsplit(self._server_url).netloc.lower(),
                owner=slug,
                location=f"{self._server_url}/{slug}",
                owner_id=owner_id,
            )
        return self._identity

    @property
    def notes(self) -> tuple[str, ...]:
        """What people should know of the listing: what it cannot have seen."""
        return tuple(self._notes)

    @property
    def if_too_short(self) -> str:
        """What kind of credentials sees less than is there, and what they lack then."""
        if self._credentials is None:
            return "without credentials only what is public is seen"
        return (
            "the credentials need the scope to read repositories, and see only what their user, "
            "project or repository sees"
        )

    def server_time(self) -> datetime | None:
        return self._clock.now()

    def authorization(self) -> Secret | None:
        """Give the header for git, with a token that lives on for some minutes."""
        return None if self._credentials is None else self._credentials.for_git()

    def renew_authorization(self) -> bool:
        return self._credentials is not None and self._credentials.renew()

    def diagnose(self) -> Diagnosis:
        """Tell what Bitbucket says of the credentials."""
        if self._credentials is None:
            words = "without credentials only what is public is seen"
            return Diagnosis((Finding("warning", words),))
        path = f"/workspaces/{quote(self.identity.owner, safe='')}"
        answer = self._send(f"{self._api_url}/2.0{path}", path)
        said = answer.headers.get("x-oauth-scopes")
        findings = []
        if said is not None:
            scopes = {scope.strip() for scope in said.split(",")}
            shown = ", ".join(sorted(scopes - {""})) or "none"
            # Of consumers and of tokens. Source: Atlassian, "OAuth 2.0 scopes", "API tokens".
            reads = any("repository" in scope.split(":")[:2] for scope in scopes)
            findings.append(
                Finding("info", f"the credentials have the scopes {shown}")
                if reads
                else Finding(
                    "error",
                    f"the credentials have the scopes {shown}: they cannot read repositories",
                    "give them the scope to read repositories",
                )
            )
        return Diagnosis(tuple(findings), server_time=http_time(answer.headers.get("date")))

    def repositories(self) -> Iterator[Repository]:
        workspace = self.identity.owner
        if self._credentials is None:
            self._notes[f"{workspace}: without credentials only what is public is seen"] = None

        def of_item(item: Mapping[str, Any]) -> Iterator[Repository]:
            repository = self._repository(item)
            yield repository
            if item.get("has_wiki"):
                yield self._wiki(repository)

        listing = self._pages(f"/repositories/{quote(workspace, safe='')}")
        host = self.identity.host
        yield from each(listing, of_item, forge="Bitbucket", host=host, owner=workspace)

    def look_up(self, *, host_id: str, path: str, kind: Kind) -> Repository | Absence:
        workspace = self.identity.owner
        named = quote(f"{{{host_id}}}", safe="")
        try:
            item = self._ask(f"/repositories/{quote(workspace, safe='')}/{named}")
        except RepositoryMissing:
            return Absence("not-visible", "Bitbucket knows no such repository there, or hides it")
        with taken_for("repository", forge="Bitbucket"):
            return self._meant(item, workspace, kind)

    def _meant(self, item: Mapping[str, Any], workspace: str, kind: Kind) -> Repository | Absence:
        whole = text(item, "full_name")
        if whole.partition("/")[0].casefold() != workspace.casefold():
            return Absence("transferred", f"it is now {whole}")
        repository = self._repository(item)
        if kind != "wiki":
            return repository
        if not item.get("has_wiki"):
            return Absence("not-visible", "its wiki is switched off")
        return self._wiki(repository)

    def _find_workspace(self) -> tuple[str, str]:
        try:
            item = self._ask(f"/workspaces/{quote(self._name, safe='')}")
        except RepositoryMissing as error:
            raise SourceError(
                f"Bitbucket has no workspace {self._name!r}, or hides it from us",
                hint="give its id, as it stands in the address of its repositories",
            ) from error
        except AuthenticationError:
            if self._credentials is None or isinstance(self._credentials, ApiToken):
                raise
            # Tokens that read repositories need not see the workspace; ids are in lower case.
            return self._name.lower(), ""
        with taken_for("workspace", forge="Bitbucket"):
            return text(item, "slug"), text(item, "uuid").strip("{}")

    def _repository(self, item: Mapping[str, Any]) -> Repository:
        workspace, _, slug = text(item, "full_name").partition("/")
        is_private = flag(item, "is_private")
        return Repository(
            host=self.identity.host,
            owner=self.identity.owner,
            path=slug,
            host_id=text(item, "uuid").strip("{}"),
            clone_url=f"{self._server_url}/{quote(workspace, safe='')}/{quote(slug, safe='')}.git",
            private=is_private,
            visibility="private" if is_private else "public",
            fork=bool(item.get("parent")),
        )

    def _wiki(self, repository: Repository) -> Repository:
        return replace(
            repository,
            path=f"{repository.path}.wiki",
            clone_url=f"{repository.clone_url}/wiki",
            kind="wiki",
        )

    # --- Requests ---

    def _pages(self, path: str) -> Iterator[Any]:
        """Yield the items of a listing to its end, following Bitbucket's own links."""
        url: Any = f"{self._api_url}/2.0{path}?pagelen={_PAGE}"
        seen: set[str] = set()
        bounds = Bounds("Bitbucket")
        while url is not None:
            is_ours = isinstance(url, str) and url.startswith(f"{self._api_url}/")
            if not is_ours or url in seen or place_of(url) != place_of(self._api_url):
                raise SourceError(
                    f"Bitbucket's listing {path} goes on at {shown(str(url))}, where it cannot",
                    hint="check --api-url",
                )
            seen.add(url)
            page = self._get(url, path)
            is_page = isinstance(page, dict)
            yield from bounds.page(page.get("values") if is_page else None, path)
            url = page.get("next")

    def _ask(self, path: str) -> dict[str, Any]:
        found = self._get(f"{self._api_url}/2.0{path}", path)
        if not isinstance(found, dict):
            raise SourceError(f"Bitbucket answers {path} with something else than was asked for")
        return found

    def _get(self, url: str, path: str) -> Any:
        answer = self._send(url, path)
        if answer.status_code == 401 and self.renew_authorization():
            answer = self._send(url, path)
        with _our_errors(path):
            _require_good(answer, path)
            return parsed(answer.content)

    def _send(self, url: str, path: str) -> requests.Response:
        auth = None if self._credentials is None else _Header(self._credentials.for_api())
        fields = {"Accept": "application/json", "User-Agent": _agent()}
        with _our_errors(path):
            answer = self._session.get(url, headers=fields, auth=auth, timeout=_TIMEOUT_SECONDS)
        self._clock.hear(answer.headers)
        return answer


@contextmanager
def _our_errors(path: str) -> Iterator[None]:
    """Turn what requests raises into what it asks of people."""
    try:
        yield
    except Odd as error:
        raise SourceError(f"Bitbucket answers {path} with {error}") from error
    except requests.exceptions.SSLError as error:
        raise SourceError(
            "Bitbucket's certificate is not trusted",
            hint="name your authority's certificates in REQUESTS_CA_BUNDLE",
        ) from error
    except json.JSONDecodeError as error:
        raise no_json("Bitbucket", path) from error
    except (OSError, ValueError) as error:
        # requests' own errors are OSErrors.
        words = str(error).strip() or type(error).__name__
        raise HostUnreachable(f"Bitbucket does not answer {path}: {foreign(words, 300)}") from error


def _require_good(answer: requests.Response, path: str) -> None:
    if not answer.ok:
        raise _refusal(answer, path)


def _refusal(answer: requests.Response, path: str) -> BackupError:
    status, said = answer.status_code, _said(answer)
    wait = header_number(answer.headers.get("Retry-After"))
    seconds = None if wait is None else float(wait)
    match status:
        case 401:
            return AuthenticationError(
                f"Bitbucket does not accept the credentials (401){said}",
                hint=f"they are wrong, expired or revoked; {INSTEAD_OF_APP_PASSWORDS}",
            )
        case 403:
            return AuthenticationError(
                f"Bitbucket forbids {path} (403){said}",
                hint="the credentials need the scope to read repositories",
            )
        case 404:
            return RepositoryMissing(f"Bitbucket knows no {path}, or hides it from us (404)")
        case 410:
            return SourceError(
                f"Bitbucket has removed {path} (410){said}",
                hint="a newer version of repo-backup may know what takes its place; "
                f"{INSTEAD_OF_APP_PASSWORDS}",
            )
        case 429:
            return RateLimited(
                f"Bitbucket's rate limit is used up (429){said}", retry_after_seconds=seconds
            )
    if status >= 500:
        return HostUnreachable(f"Bitbucket is in trouble ({status})", retry_after_seconds=seconds)
    return SourceError(f"Bitbucket refuses {path} ({status}){said}")


def _said(answer: requests.Response) -> str:
    try:
        body = parsed(answer.content)
        found = body.get("error_description") or body.get("error")
        words = found.get("message") if isinstance(found, dict) else found
    except (ValueError, AttributeError):
        return ""
    line = foreign(str(words or ""), 300)
    return f": {line}" if line else ""


class _Header(AuthBase):
    """An Authorization header; given as one, nothing of a .netrc takes its place."""

    def __init__(self, value: Secret) -> None:
        self._value = value

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = self._value.reveal()
        return request


def _agent() -> str:
    return f"repo-backup/{backup.__version__}"
