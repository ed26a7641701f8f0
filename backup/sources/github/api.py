"""Requests to GitHub's REST API by PyGithub, and what its refusals ask of people.

PyGithub repeats nothing here, since `backup.commands.retrying` does. It is given a connection of
ours, since its own takes answers without end.
Source: GitHub's REST API, "Rate limits" and "Best practices".
"""

import json
import re
import time
from collections.abc import ItemsView, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

import github
from github import Auth

import backup
from backup import limits
from backup.answers import Odd, header_number, parsed
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
from backup.secret import foreign
from backup.sources.items import Bounds, no_json
from backup.sources.one_server import OneServerSession
from backup.stopping import Stop
from backup.times import ServerClock
from backup.urls import place_of

PUBLIC_SERVER = "https://github.com"
PUBLIC_API = "https://api.github.com"
PAGE = 100
# As GitHub writes it: 2026-12-31 23:59:59 UTC, or with an offset.
_END = re.compile(r"(?P<moment>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(?: (?P<zone>UTC|[+-]\d{4}))?")
_NEXT = re.compile(r'<([^>]+)>;\s*rel="next"')
_TIMEOUT_SECONDS = 30
# PyGithub asks again where an answer redirects, or is not ready yet (202).
_MOST_TRIES = limits.MOST_API_REDIRECTS


def api_of(server_url: str) -> str:
    """Tell where a server's REST API is: GitHub Enterprise Server has it below its own name."""
    if server_url == PUBLIC_SERVER:
        return PUBLIC_API
    place = urlsplit(server_url)
    if (place.hostname or "").endswith(".ghe.com"):
        return f"{place.scheme}://api.{place.netloc}"
    return f"{server_url}/api/v3"


class Api:
    """GitHub's REST API at one server, for one kind of credentials. Used from one thread.

    Args:
        auth: PyGithub's; asked anew for each request. None sees what is public.
        api_url: without a slash at the end.
        stop: ends the wait for an answer with its own error.

    Attributes:
        clock: the server's, by the answers so far.
    """

    def __init__(self, auth: Auth.Auth | None, api_url: str, *, stop: Stop | None = None) -> None:
        self._signed_in = auth is not None
        self._place = place_of(api_url)
        self.clock = ServerClock()
        self._connection = _Connection(api_url, stop)
        self._github = github.Github(
            auth=auth,
            base_url=api_url,
            timeout=_TIMEOUT_SECONDS,
            user_agent=f"repo-backup/{backup.__version__}",
            per_page=PAGE,
            retry=None,
            seconds_between_requests=None,
        )

    def request(
        self, method: str, url: str, body: Mapping[str, Any] | None = None
    ) -> tuple[Mapping[str, str], Any]:
        """Make a request; give the answer's headers, by lower-case names, and its JSON.

        Raises:
            BackupError: see `our_errors`.
        """
        if not url.startswith("/") and place_of(url) != self._place:
            raise _leads_elsewhere(url)
        self._connection.tries = 0
        with our_errors(url):
            status, headers, answer = self._github.requester.requestJson(
                method,
                url,
                input=None if body is None else dict(body),
                cnx=self._connection,  # type: ignore[arg-type] # has what is used of PyGithub's
            )
            told = {str(name).lower(): str(value) for name, value in headers.items()}
            if status < 400:
                self.clock.hear(told)
                return told, parsed(answer)
        data = None
        with suppress(ValueError):
            data = parsed(answer)
        raise _refusal(status, told, data, url, signed_in=self._signed_in)

    def pages(self, path: str, bounds: Bounds | None = None) -> Iterator[Any]:
        """Yield the items of a listing to its end, following GitHub's own links.

        Args:
            path: of the API.
            bounds: counts this listing with others.

        Raises:
            SourceError: a page is missing, or no list, or there is no end; never a shorter list.
        """
        url: str | None = f"{path}{'&' if '?' in path else '?'}per_page={PAGE}"
        seen: set[str] = set()
        bounds = bounds or Bounds("GitHub")
        while url is not None:
            if url in seen:
                raise SourceError(f"GitHub's listing {path} goes on at a page that it had already")
            seen.add(url)
            headers, data = self.request("GET", url)
            yield from bounds.page(
                data.get("repositories") if isinstance(data, dict) else data, path
            )
            found = _NEXT.search(headers.get("link", ""))
            url = None if found is None else found[1]


class _Connection:
    """What PyGithub sends by: it takes no answer without end, and nothing of a .netrc.

    Attributes:
        tries: how often it was used for the question in hand.
    """

    def __init__(self, api_url: str, stop: Stop | None) -> None:
        place = urlsplit(api_url)
        self._server = f"{place.scheme}://{place.netloc}"
        self._session = OneServerSession("GitHub", stop=stop)
        self._asked: tuple[str, str, Any, dict[str, str]] | None = None
        self.tries = 0

    def request(
        self,
        verb: str,
        url: str,
        input: Any,  # noqa: A002 - as PyGithub calls it
        headers: dict[str, str],
        stream: bool = False,  # noqa: FBT001, FBT002 - as PyGithub calls it
    ) -> None:
        self._asked = verb, url, input, headers

    def getresponse(self) -> "_Response":
        if self._asked is None:
            raise AssertionError("nothing was asked")
        self.tries += 1
        if self.tries > _MOST_TRIES:
            raise Odd("one redirect after another")
        verb, url, data, headers = self._asked
        answer = self._session.request(
            verb,
            f"{self._server}{url}",
            headers=headers,
            data=data,
            timeout=_TIMEOUT_SECONDS,
            allow_redirects=False,
            auth=lambda request: request,
        )
        return _Response(
            answer.status_code, answer.headers, answer.content.decode("utf-8", "replace")
        )


@dataclass(frozen=True, slots=True)
class _Response:
    """An answer, as PyGithub reads it."""

    status: int
    headers: Mapping[str, str]
    body: str

    def getheaders(self) -> ItemsView[str, str]:
        return self.headers.items()

    def read(self) -> str:
        return self.body


def end_of(headers: Mapping[str, str]) -> datetime | None:
    """Tell when the token ends; None for those that do not, or of which GitHub does not say it."""
    said = headers.get("github-authentication-token-expiration", "")
    found = _END.fullmatch(said.strip())
    if found is None:
        return None
    zone = "+0000" if found["zone"] in {"UTC", None} else found["zone"]
    with suppress(ValueError, OverflowError):
        return datetime.strptime(f"{found['moment']}{zone}", "%Y-%m-%d %H:%M:%S%z").astimezone(UTC)
    return None


@contextmanager
def our_errors(url: str) -> Iterator[None]:
    """Turn what PyGithub raises into what it asks of people."""
    try:
        yield
    except BackupError:
        raise
    except Odd as error:
        raise SourceError(f"GitHub answers {urlsplit(url).path} with {error}") from error
    except json.JSONDecodeError as error:
        raise no_json("GitHub", urlsplit(url).path) from error
    except (OSError, ValueError) as error:
        # requests' own errors are OSErrors.
        words = str(error).strip() or type(error).__name__
        if "CERTIFICATE_VERIFY_FAILED" in words:
            raise SourceError(
                "GitHub's certificate is not trusted",
                hint="name your authority's certificates in REQUESTS_CA_BUNDLE",
            ) from error
        raise HostUnreachable(f"GitHub cannot be reached: {foreign(words, 300)}") from error
    except AssertionError as error:
        raise _leads_elsewhere(str(error)) from error
    except Exception as error:
        # PyGithub reads headers, and follows redirects, by what a sound GitHub answers.
        words = foreign(str(error), 300)
        raise SourceError(
            f"GitHub's answer cannot be understood: {words or type(error).__name__}"
        ) from error


def _leads_elsewhere(url: str) -> ConfigError:
    return ConfigError(
        f"GitHub's answer leads to another server than its API: {foreign(url, 300)}",
        hint="check --server-url and --api-url",
    )


def _refusal(
    status: int, headers: Mapping[str, str], data: object, url: str, *, signed_in: bool
) -> BackupError:
    said = _said(data)
    wait = _seconds_to_wait(headers, said)
    place = urlsplit(url).path
    if status == 401:
        return AuthenticationError(
            f"GitHub does not accept the token (401){said}",
            hint="it is wrong, expired or revoked (REPO_BACKUP_TOKEN, or the input token)",
        )
    if status == 429 or (status == 403 and wait is not None):
        hint = "" if signed_in else "with a token (REPO_BACKUP_TOKEN) the limit is 5,000 an hour"
        return RateLimited(
            f"GitHub's rate limit is used up ({status}){said}",
            hint=hint,
            retry_after_seconds=wait,
        )
    if status == 451:
        return RepositoryBlocked(f"blocked for legal reasons{said}{_notice(data)}")
    # Seen where terms of service are the reason: PyGithub/PyGithub#1015, octokit/octokit.rb#563.
    if status == 403 and isinstance(data, dict) and isinstance(data.get("block"), dict):
        return RepositoryBlocked(f"blocked by GitHub (403){said}{_notice(data)}")
    if status == 403:
        return _forbidden(headers, place, said)
    if status == 404:
        return RepositoryMissing(f"GitHub knows no {place}, or hides it from us (404)")
    if status >= 500:
        return HostUnreachable(f"GitHub is in trouble ({status})", retry_after_seconds=wait)
    return SourceError(f"GitHub refuses {place} ({status}){said}")


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


def _said(data: object) -> str:
    words = data.get("message") if isinstance(data, dict) else None
    line = foreign(str(words or ""), 300)
    return f": {line}" if line else ""


def _notice(data: object) -> str:
    block = data.get("block") if isinstance(data, dict) else None
    url = block.get("html_url") if isinstance(block, dict) else None
    return f" ({foreign(str(url), 300)})" if url else ""


def _seconds_to_wait(headers: Mapping[str, str], said: str) -> float | None:
    """Read how long GitHub asks us to wait; None where it is no matter of a rate limit."""
    asked = header_number(headers.get("retry-after"))
    if asked is not None:
        return float(asked)
    reset = header_number(headers.get("x-ratelimit-reset"))
    if headers.get("x-ratelimit-remaining") == "0" and reset is not None:
        return max(0.0, reset - time.time()) + 1
    # "If neither is there, wait for at least one minute."
    return 60.0 if "secondary rate limit" in said.lower() else None
