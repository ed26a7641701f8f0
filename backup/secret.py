"""Texts that must not be seen: a type that hides itself, and masks for whatever else is printed.

A server may repeat a token in its answer, and a library may print a header that it was part of. So
every secret is remembered for the life of the process, and `mask` takes it out of any text: as it
is, in base64 (also within a longer text that was encoded, such as ``user:token``), and as URLs,
JSON and HTML may write either, with or without white space and unseen characters in between.
"""

import base64
import html
import re
from collections.abc import Callable, Iterator
from threading import Lock
from urllib.parse import quote, quote_plus, unquote

MASK = "***"
# Shorter ones would take harmless words out of messages, and are no secrets.
_LEAST_CHARACTERS = 6
# No token is longer, in any of its forms.
ALLOWANCE = 8192

# One that the cut went through is none any more.
_LONGEST_CODE = 16
# How often a text is decoded: a URL within a URL within JSON within HTML.
_MOST_ROUNDS = 4
_UNSEEN = r"\s\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u180e\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufeff"
# No part of it goes beyond a fixed number of characters, or what it takes it keeps: linear time.
_CODE = re.compile(
    rf"""
    [{_UNSEEN}]+
    | %[0-7][0-9a-f]
    | (?:%[89a-f][0-9a-f])+
    | (?:\\u[0-9a-f]{{4}})+
    | \\x[0-9a-f]{{2}}
    | \\[nrt0]
    | \\[!-/:-@\[-`{{-~]
    | &(?:\#[0-9]{{1,9}}|\#x[0-9a-f]{{1,9}}|[a-z]{{2,31}});
    """,
    re.IGNORECASE | re.VERBOSE,
)

_lock = Lock()
_forms: set[str] = set()
_longest = 0
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
    return left_of(text)


def left_of(text: str, *, at_start: bool = False, at_end: bool = False) -> str:
    """Mask what is left of a longer text, without what may be a part of a secret at the cut.

    That is as much as the longest secret has, however it is written and whatever is in between.

    Args:
        text: what is left.
        at_start: whether something stood before it.
        at_end: whether something stood behind it.
    """
    pattern, longest = _pattern, _longest + _LONGEST_CODE
    if pattern is None:
        return text
    spans: list[tuple[int, int]] = []
    first, last = 0, len(text)
    for plain, places in _rounds(text):
        spans += ((places[m.start()][0], places[m.end() - 1][1]) for m in pattern.finditer(plain))
        # The last round has the fewest characters, so what as many of them take is the most.
        if at_start:
            first = places[longest - 1][1] if longest <= len(places) else len(text)
        if at_end:
            last = places[-longest][0] if longest <= len(places) else 0
    shown: list[str] = []
    position = first
    for start, end in sorted(spans):
        if end > position and start < last:
            # One that begins within another is covered by the same mask.
            if start >= position or not shown:
                shown += [text[position:start], MASK]
            position = end
    return "".join([*shown, text[position:last]])


def _rounds(text: str) -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """Yield a text without what is not seen, then decoded once, twice and so on.

    With it goes where in the text each character comes from.
    """
    plain, places = text, [(at, at + 1) for at in range(len(text))]
    for number in range(_MOST_ROUNDS + 1):
        decoded: list[str] = []
        origins: list[tuple[int, int]] = []
        position = 0
        for found in _CODE.finditer(plain):
            start, end = found.span()
            code = _meaning(found[0], decodes=number > 0)
            if code is None:
                continue
            decoded += plain[position:start], code
            origins += places[position:start]
            origins += [(places[start][0], places[end - 1][1])] * len(code)
            position = end
        if number > 0 and position == 0:
            return
        plain = "".join([*decoded, plain[position:]])
        places = origins + places[position:]
        yield plain, places


def _meaning(code: str, *, decodes: bool) -> str | None:
    """Tell what a code stands for; nothing for what is not seen, None for what stays as it is."""
    if code[0] not in "%\\&":
        return ""
    if not decodes:
        return None
    if code[0] == "%":
        return unquote(code, errors="backslashreplace")
    if code[0] == "&":
        meant = html.unescape(code)
        return None if meant == code else meant
    if code[1] in "uU":
        units = "".join(code[at + 2 : at + 6] for at in range(0, len(code), 6))
        return bytes.fromhex(units).decode("utf-16-be", "replace")
    if code[1] in "xX":
        return chr(int(f"0{code[1:]}", 0))
    return "" if code[1] in "nrtNRT0" else code[1]


def foreign(text: str | bytes, most: int) -> str:
    """Give what somebody else says as a message may have it: on one line, and no longer than that.

    Secrets are masked before it is cut: nobody would know one of which the end is missing. What was
    cut before goes through `left_of` first; who keeps a part of something that is long keeps
    `ALLOWANCE` more than is shown.
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
    global _pattern, _longest  # noqa: PLW0603 - one process has one log, and masks for all of it
    # Texts are searched without what is not seen in them.
    seen = {re.sub(f"[{_UNSEEN}]+", "", form) for form in forms(text)}
    with _lock:
        new = {form for form in seen if len(form) >= _LEAST_CHARACTERS} - _forms
        if new:
            _forms.update(new)
            _longest = max(map(len, _forms))
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
