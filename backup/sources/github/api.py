"""Requests to GitHub's REST API by PyGithub, and what its refusals ask of people.

PyGithub repeats nothing here, since `backup.commands.retrying` does.
Source: GitHub's REST API, "Rate limits" and "Best practices".
"""

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import urlsplit

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
from backup.secret import foreign
from backup.times import ServerClock

PUBLIC_SERVER = "https://github.com"
PUBLIC_API = "https://api.github.com"
PAGE = 100
# As GitHub writes it: 2026-12-31 23:59:59 UTC, or with an offset.
_END = re.compile(r"(?P<moment>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d)(?: (?P<zone>UTC|[+-]\d{4}))?")
_NEXT = re.compile(r'<([^>]+)>;\s*rel="next"')
_TIMEOUT_SECONDS = 30


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

    Attributes:
        clock: the server's, by the answers so far.
    """

    def __init__(self, auth: Auth.Auth | None, api_url: str) -> None:
        self._signed_in = auth is not None
        self.clock = ServerClock()
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
        with our_errors(url, signed_in=self._signed_in):
            headers, data = self._github.requester.requestJsonAndCheck(
                method, url, input=None if body is None else dict(body)
            )
        told = {str(name).lower(): str(value) for name, value in headers.items()}
        self.clock.hear(told)
        return told, data

    def pages(self, path: str) -> Iterator[dict[str, Any]]:
        """Yield the items of a listing to its end, following GitHub's own links.

        Raises:
            SourceError: a page is missing, or no list; never a shorter list.
        """
        url: str | None = f"{path}{'&' if '?' in path else '?'}per_page={PAGE}"
        seen: set[str] = set()
        while url is not None:
            if url in seen:
                raise SourceError(f"GitHub's listing {path} goes on at a page that it had already")
            seen.add(url)
            headers, data = self.request("GET", url)
            items = data.get("repositories") if isinstance(data, dict) else data
            if not isinstance(items, list):
                raise SourceError(f"GitHub answers {url} with something that is no list")
            yield from items
            found = _NEXT.search(headers.get("link", ""))
            url = None if found is None else found[1]


def end_of(headers: Mapping[str, str]) -> datetime | None:
    """Tell when the token ends; None for those that do not, or of which GitHub does not say it."""
    said = headers.get("github-authentication-token-expiration", "")
    found = _END.fullmatch(said.strip())
    if found is None:
        return None
    moment = datetime.strptime(found["moment"], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
    zone = found["zone"]
    if zone in {"UTC", None}:
        return moment
    offset = timedelta(hours=int(zone[1:3]), minutes=int(zone[3:5]))
    return moment - offset if zone[0] == "+" else moment + offset


@contextmanager
def our_errors(url: str, *, signed_in: bool) -> Iterator[None]:
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
        raise HostUnreachable(f"GitHub cannot be reached: {foreign(words, 300)}") from error
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
    line = foreign(str(words or ""), 300)
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
