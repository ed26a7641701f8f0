r"""URLs that came from outside: the place that they name, as the parser that connects reads it.

Credentials belong to one scheme, host and port. What is compared with that must be what is asked,
so a URL that two parsers read differently (``http://one\@other/``) names no place at all.
"""

import re
from typing import NamedTuple
from urllib.parse import urljoin, urlsplit

from urllib3.exceptions import HTTPError
from urllib3.util import parse_url

from backup.secret import foreign

PORTS = {"http": 80, "https": 443}
# What may stand in a URL, by RFC 3986, section 2, and "%" in front of what else is meant.
_SOUND = re.compile(r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]{1,8192}")


class Place(NamedTuple):
    """What credentials are for.

    Attributes:
        host: in lower case; an IPv6 address without brackets.
    """

    scheme: str
    host: str
    port: int


def place_of(url: str) -> Place | None:
    """Tell which place a URL names; None for one that no request may be made to.

    That is one of another scheme than http and https, with a name or password, without a host, with
    a character that no URL has, or one that urllib3, which connects, and urllib read differently.
    """
    if _SOUND.fullmatch(url) is None:
        return None
    try:
        connected, read = parse_url(url), urlsplit(url)
        ports = connected.port, read.port
    except (HTTPError, ValueError):
        return None
    scheme = (connected.scheme or "").lower()
    host = (connected.host or "").strip("[]").lower()
    is_one = scheme == read.scheme and host == (read.hostname or "") and ports[0] == ports[1]
    if scheme not in PORTS or not host or not is_one:
        return None
    if connected.auth is not None or "@" in read.netloc:
        return None
    return Place(scheme, host, ports[0] or PORTS[scheme])


def joined(base: str, location: str) -> str:
    """Resolve where an answer leads; an empty string for what is no URL."""
    try:
        return urljoin(base, location)
    except ValueError:
        return ""


def shown(url: str) -> str:
    """Name a URL's scheme, host and path for people: without a name, password or query."""
    try:
        place = urlsplit(url)
    except ValueError:
        return "what is no URL"
    return foreign(f"{place.scheme}://{place.netloc.rpartition('@')[2]}{place.path}", 300)
