"""Texts that must not be seen: a type that hides itself, and masks for whatever else is printed.

A server may repeat a token in its answer, and a library may print a header that it was part of. So
every secret is remembered for the life of the process, and `mask` takes it out of any text: as it
is, in base64 (also within a longer text that was encoded, such as ``user:token``), and as it
stands in a URL.
"""

import base64
import re
from collections.abc import Callable
from threading import Lock
from urllib.parse import quote, quote_plus

MASK = "***"
# Shorter ones would take harmless words out of messages, and are no secrets.
_LEAST_CHARACTERS = 6
# No token is longer, in any of its forms.
ALLOWANCE = 8192

_lock = Lock()
_forms: set[str] = set()
_pattern: re.Pattern[str] | None = None
_announce: Callable[[str], None] | None = None


class Secret:
    """A text that hides itself wherever it is printed; ``reveal`` is the one way to it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text
        _remember(text)

    def reveal(self) -> str:
        """Return the text, for the one request that needs it."""
        return self._text

    def __repr__(self) -> str:
        return f"Secret({MASK})"

    def __str__(self) -> str:
        return MASK

    def __format__(self, _spec: str) -> str:
        return MASK


def minted(text: str) -> Secret:
    """Make a secret of what came up while we run, such as a token that lives for an hour.

    What shows our log has heard of it when this returns, so before anything can be done with it.
    """
    secret = Secret(text)
    if _announce is not None:
        _announce(text)
    return secret


def announce_minted(announce: Callable[[str], None]) -> None:
    """Have every secret that is minted from now on told to what shows our log.

    Args:
        announce: called with the text, from any thread, before the secret is used.
    """
    global _announce  # noqa: PLW0603 - one process has one log
    _announce = announce


def mask(text: str) -> str:
    """Put ``***`` in place of every secret that was made in this process, in any of its forms."""
    pattern = _pattern
    return text if pattern is None else pattern.sub(MASK, text)


def foreign(text: str | bytes, most: int) -> str:
    """Give what somebody else says as a message may have it: on one line, and no longer than that.

    Secrets are masked before it is cut: nobody would know one of which the end is missing. Who
    keeps the end of something that is long keeps `ALLOWANCE` more than is shown.
    """
    data = text if isinstance(text, bytes) else text.encode("utf-8", "backslashreplace")
    line = " ".join(mask(data.decode("utf-8", "backslashreplace")).split())
    shown = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in line)
    return shown if len(shown) <= most else f"{shown[:most]}..."


def forms(text: str) -> frozenset[str]:
    """Give the texts by which a secret could be told: itself, its lines, base64, URL-encoded."""
    lines = {line.strip() for line in text.splitlines()} | {text}
    found = set(lines)
    for line in lines:
        found |= {quote(line, safe=""), quote_plus(line), *_base64_forms(line.encode())}
    return frozenset(form for form in found if len(form) >= _LEAST_CHARACTERS)


def _remember(text: str) -> None:
    global _pattern  # noqa: PLW0603 - one process has one log, and masks for all of it
    with _lock:
        new = forms(text) - _forms
        if new:
            _forms.update(new)
            longest_first = sorted(_forms, key=len, reverse=True)
            _pattern = re.compile("|".join(map(re.escape, longest_first)))


def _base64_forms(data: bytes) -> set[str]:
    # Within a longer text the same bytes are encoded in one of three ways; the characters that
    # they share with their neighbours are left out.
    found = set()
    for before, first in ((0, 0), (1, 2), (2, 3)):
        encoded = base64.b64encode(bytes(before) + data).decode()
        whole = encoded[first : (before + len(data)) * 8 // 6]
        found |= {whole, whole.replace("+", "-").replace("/", "_")}
    return found
