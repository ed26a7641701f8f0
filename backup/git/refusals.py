"""What an HTTP answer means that is not the one that was asked for, said for people.

A server says no by a status. Others answer in its place: a page to sign in, a portal of the
network, a proxy. Which of them it was is told by what came; nothing of it is shown but a page's
title, a message, or the first line of a text.
"""

import html
import json
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Protocol

from backup import limits
from backup.errors import (
    AuthenticationError,
    HostUnreachable,
    ProtocolError,
    RateLimited,
    RepositoryBlocked,
    RepositoryMissing,
    RepositoryUnavailable,
    SourceError,
)
from backup.secret import foreign, left_of
from backup.times import http_time

PROXY_HINT = "put its user and password into the proxy's URL in the environment"
_LET_GIT_THROUGH = (
    "a proxy between this machine and the server answers: have it let git pass, or name the host "
    "in no_proxy"
)
_SHOWN = 200
_PAGES = {"text/html", "application/xhtml+xml"}
# None of them goes beyond the next "<": their time grows with the page alone, whatever is in it.
_BEGIN_OF_PAGE = re.compile(rb"\s*<(?:!doctype\s+html|html|head|title)\b", re.IGNORECASE)
_TITLE = re.compile(rb"<title\b[^<>]*>([^<]*)", re.IGNORECASE)
_PASSWORD = re.compile(rb"<input\b[^<>]*\stype\s*=\s*[\"']?password", re.IGNORECASE)
# What GitHub says of a repository that it has shut; seen in octokit/octokit.rb#563 and elsewhere.
_BLOCKED = re.compile(
    rb"repository access blocked|access to this repository has been disabled", re.IGNORECASE
)
_SIGN_IN = re.compile(r"\b(?:sign|log)[ -]?(?:in|on)\b|\bsso\b|authentica|anmelde", re.IGNORECASE)
# Headers of proxies alone; "Via" is none of them, since servers have gateways of their own.
_OF_PROXIES = {"proxy-agent", "proxy-authenticate", "proxy-status", "x-bluecoat-via"}
_PROXIES = re.compile(
    r"squid|zscaler|blue ?coat|bluecoat|mcafee|forcepoint|fortigate|sophos", re.IGNORECASE
)


class Answered(Protocol):
    """An answer whose head is there.

    Attributes:
        proxy: what it was asked through; empty where nothing is set.
        headers: names in lower case.
    """

    @property
    def status(self) -> int: ...

    @property
    def proxy(self) -> str: ...

    @property
    def headers(self) -> Mapping[str, str]: ...

    def read(self, size: int, /) -> bytes: ...

    def close(self) -> None: ...


def media_type(answer: Answered) -> str:
    """Return what kind of document an answer says that it is; empty where it does not say."""
    return answer.headers.get("content-type", "").partition(";")[0].strip().lower()


def require_success(answer: Answered, url: str, *, signed_in: bool, quoted: bool = True) -> None:
    """Turn an answer that is no success into the error that says what it asks of people.

    Args:
        answer: is closed where it is no success.
        url: of what was asked.
        signed_in: whether credentials came with the request.
        quoted: whether the error repeats what the answer says.
    """
    if answer.status == 200:
        return
    data = _beginning(answer) if quoted else b""
    said = _words(answer, data) if quoted else ""
    is_proxys = _is_of_proxy(answer) or (bool(answer.proxy) and _is_page(answer, data))
    who = "a proxy" if _is_of_proxy(answer) else "the server"
    said = f"{_way(answer)}{said}"
    wait = _seconds_to_wait(answer.headers)
    answer.close()
    match answer.status:
        case 401:
            raise AuthenticationError(
                f"{url}: the server does not accept who we are (401){said}",
                hint="the token is wrong or expired (REPO_BACKUP_TOKEN, or the input token)"
                if signed_in
                else "set REPO_BACKUP_TOKEN to a token that may read it",
            )
        case 429:
            raise RateLimited(
                f"{url}: the server asks us to slow down (429){said}", retry_after_seconds=wait
            )
        case 403 if wait is not None:
            raise RateLimited(
                f"{url}: the server limits how much is asked (403){said}", retry_after_seconds=wait
            )
        case 403 | 451 as status if status == 451 or _BLOCKED.search(data):
            why = "for legal reasons" if status == 451 else "by the server"
            notice = _notice(answer.headers) if quoted else ""
            raise RepositoryBlocked(f"{url}: blocked {why} ({status}){notice or said}")
        case 403:
            raise RepositoryUnavailable(
                f"{url}: {who} forbids it (403){said}",
                hint=_LET_GIT_THROUGH
                if is_proxys
                else "the token needs to read this repository's contents (REPO_BACKUP_TOKEN, or "
                "the input token)",
            )
        case 404:
            raise RepositoryMissing(f"{url}: not there, or not visible to us (404){said}")
        case 407:
            raise SourceError(
                f"{url}: the proxy wants to know who we are (407){said}", hint=PROXY_HINT
            )
        case 410:
            raise RepositoryMissing(f"{url}: gone for good (410){said}")
        case 507 | 509:
            # Source: git-lfs, docs/api/batch.md, "Response Errors".
            raise RepositoryUnavailable(f"{url}: its quota is used up ({answer.status}){said}")
        case status if status >= 500:
            raise HostUnreachable(
                f"{url}: {who} is in trouble ({status}){said}",
                hint=_LET_GIT_THROUGH if is_proxys else "",
                retry_after_seconds=wait,
            )
        case status:
            raise RepositoryUnavailable(f"{url}: {who} answers {status}{said}")


def not_what_was_asked_for(
    answer: Answered, begin: bytes, url: str, *, due: str, check: str, signed_in: bool
) -> RepositoryUnavailable:
    """Build the error for a success that is something else: a page, or another document.

    Args:
        answer: is read a little further, and closed.
        begin: what was read of it already.
        url: of what was asked.
        due: what was to come.
        check: what a person should look at first.
        signed_in: whether credentials came with the request.
    """
    data = _beginning(answer, begin)
    answer.close()
    kind = foreign(answer.headers.get("content-type", "no content type"), 80)
    words = _words(answer, data).removeprefix(": ")
    what, hint = repr(kind), f"check {check}"
    if _is_page(answer, data):
        is_sign_in = _PASSWORD.search(data) or _SIGN_IN.search(words)
        what = f"a page to sign in ({kind!r})" if is_sign_in else f"a web page ({kind!r})"
        if is_sign_in and signed_in:
            hint = "the token is wrong, expired, or not let in by the server's single sign-on"
        elif is_sign_in:
            hint = "set REPO_BACKUP_TOKEN to a token that may read it"
        elif _is_of_proxy(answer) or answer.proxy:
            hint = _LET_GIT_THROUGH
        else:
            hint += "; a portal of the network, or a proxy in between, answers so as well"
    who = "a proxy" if _is_of_proxy(answer) else "the server"
    told = f": {words}" if words else ""
    return RepositoryUnavailable(
        f"{url}: {who} answers with {what}, not with {due}{_way(answer)}{told}", hint=hint
    )


def _beginning(answer: Answered, begin: bytes = b"") -> bytes:
    """Read on until there is enough for a title or a message."""
    data = bytearray(begin)
    with suppress(ProtocolError, SourceError):
        while (room := limits.MOST_PAGE_BYTES - len(data)) > 0 and (piece := answer.read(room)):
            data += piece
    return bytes(data)


def _is_page(answer: Answered, data: bytes) -> bool:
    return media_type(answer) in _PAGES or _BEGIN_OF_PAGE.match(data) is not None


def _is_of_proxy(answer: Answered) -> bool:
    if answer.status == 407 or not _OF_PROXIES.isdisjoint(answer.headers):
        return True
    who = (answer.headers.get(name, "") for name in ("server", "x-squid-error", "via"))
    return _PROXIES.search(" ".join(who)) is not None


def _way(answer: Answered) -> str:
    return f" (through the proxy {foreign(answer.proxy, 100)})" if answer.proxy else ""


def _words(answer: Answered, data: bytes) -> str:
    """Return what an answer says to people, with a colon before; empty where it says nothing.

    That is the title of a page, the message of a document in JSON, or the first line of a text.
    """
    is_page = _is_page(answer, data)
    if len(data) >= limits.MOST_PAGE_BYTES:
        data = left_of(data.decode("utf-8", "backslashreplace"), at_end=True).encode()
    if is_page:
        found = _TITLE.search(data)
        text = "" if found is None else html.unescape(found[1].decode("utf-8", "backslashreplace"))
        title = foreign(text, _SHOWN)
        return f": a page titled {title!r}" if title else ""
    kind = media_type(answer)
    line = ""
    if kind == "application/json" or kind.endswith("+json"):
        line = _message(data)
    elif kind in {"", "text/plain"}:
        line = data.strip().partition(b"\n")[0].decode("utf-8", "backslashreplace")
    line = foreign(line, _SHOWN)
    return f": {line}" if line else ""


def _message(data: bytes) -> str:
    try:
        found = json.loads(data)
    except (ValueError, RecursionError):
        return ""
    message = found.get("message") if isinstance(found, dict) else None
    return message if isinstance(message, str) else ""


def _seconds_to_wait(headers: Mapping[str, str]) -> float | None:
    """Read how long a server asks us to wait.

    Source: RFC 9110, section 10.2.3; for x-ratelimit-*, GitHub's "Rate limits for the REST API".
    """
    asked = headers.get("retry-after", "").strip()
    if _is_number(asked):
        return float(asked)
    if (until := http_time(asked)) is not None:
        return max(0.0, (until - datetime.now(UTC)).total_seconds())
    reset = headers.get("x-ratelimit-reset", "")
    if headers.get("x-ratelimit-remaining") == "0" and _is_number(reset):
        return max(0.0, float(reset) - time.time())
    return None


def _is_number(text: str) -> bool:
    # isdigit alone is true of a raised 2, which a header may have.
    return text.isascii() and text.isdigit()


def _notice(headers: Mapping[str, str]) -> str:
    # Source: RFC 7725, section 4: who blocks is named by a link of type blocked-by.
    link = headers.get("link", "")
    return f": {foreign(link, 500)}" if link else ""
