"""What APIs answer: how much of it is taken, how long it is waited for, and which types it has.

A server may be broken or hostile: its answer never ends, unpacks to gigabytes, comes at one byte a
second, or holds something else than was asked for. All of that is an error of that one server. No
forge that works meets one of the limits, which `backup.limits` has.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import Future
from concurrent.futures import wait as wait_for
from datetime import UTC, datetime
from threading import Thread
from time import monotonic
from typing import Any, TypeVar

from backup import limits
from backup.connections import Line
from backup.stopping import Stop

T = TypeVar("T")

_LOOK_SECONDS = 0.25
_MOST_CHARACTERS = 4096
_MOST_NUMBER = (1 << 63) - 1
# Longer than any token lives.
_MOST_LIFE_SECONDS = 1e9
# What a header takes; no token has a space or a line's end in it. Source: RFC 6750, section 2.1.
_TOKEN = re.compile(r"[!-~]{1,8192}")


class Odd(ValueError):
    """An answer, or a part of one, that is not what it should be; the text says why."""


def in_time(
    do: Callable[[], T],
    *,
    give_up: Callable[[], None] = lambda: None,
    seconds: float | None = None,
    stop: Stop | None = None,
) -> T:
    """Do something in a thread of its own, and wait for it no longer than that.

    A time limit of a socket is none of an answer: it begins anew with each byte. When it is waited
    for no more, the connection of the request that it makes is ended, if a `Line` can hold it.

    Args:
        do: is done.
        give_up: lets anything else end then; called from this thread.
        seconds: that of an answer when left out.
        stop: ends the wait with its own error, and keeps a request from being begun.

    Raises:
        TimeoutError: it took longer.
        BackupError: the run must stop.
    """
    if stop is not None:
        stop.check()
    limit = limits.MOST_API_SECONDS if seconds is None else seconds
    due = monotonic() + limit
    future: Future[T] = Future()
    line = Line()

    def work() -> None:
        try:
            with line.held():
                found = do()
            future.set_result(found)
        except BaseException as error:  # noqa: BLE001 - raised where it is waited for
            future.set_exception(error)

    Thread(target=work, daemon=True).start()
    is_done = False
    try:
        while not future.done() and (left := due - monotonic()) > 0:
            if stop is not None:
                stop.check()
            wait_for([future], min(left, _LOOK_SECONDS))
        is_done = future.done()
    finally:
        if not is_done:
            line.cut()
            give_up()
    if not is_done:
        raise TimeoutError(f"the answer takes longer than {limit:.0f} seconds")
    return future.result()


def whole(pieces: Iterable[bytes], *, came: Callable[[], int] = lambda: 0) -> bytes:
    """Join what arrives of an answer.

    Args:
        pieces: of the answer, unpacked.
        came: tells how many bytes came so far as they were sent.

    Raises:
        Odd: it is longer than is taken.
    """
    data = bytearray()
    for piece in pieces:
        data += piece
        if max(len(data), came()) > limits.MOST_API_BYTES:
            raise Odd(f"more than {limits.MOST_API_BYTES >> 20} MiB")
    return bytes(data)


def parsed(data: bytes | str) -> Any:
    """Return the value of a document in JSON. Of a name that is there twice the last one counts.

    Raises:
        Odd: its nesting has no end.
        ValueError: it is no JSON.
    """
    try:
        return json.loads(data)
    except RecursionError as error:
        raise Odd("JSON that is nested too deeply") from error


# --- Values --------------------------------------------------------------------------------------


def text(fields: Mapping[str, Any], name: str) -> str:
    """Take a text: one that is not empty, and that every document can hold.

    Raises:
        KeyError: there is none of that name.
        Odd: it is something else.
    """
    value = fields[name]
    if not isinstance(value, str) or not 0 < len(value) <= _MOST_CHARACTERS:
        raise Odd(f"{name} is no text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise Odd(f"{name} is no valid Unicode") from error
    return value


def number(fields: Mapping[str, Any], name: str) -> int:
    """Take a whole number, such as an id: from 0 to 2**63-1; raises as `text` does."""
    value = fields[name]
    if type(value) is not int or not 0 <= value <= _MOST_NUMBER:
        raise Odd(f"{name} is no number")
    return value


def flag(fields: Mapping[str, Any], name: str) -> bool:
    """Take true or false; raises as `text` does."""
    value = fields[name]
    if not isinstance(value, bool):
        raise Odd(f"{name} is neither true nor false")
    return value


def token(fields: Mapping[str, Any], name: str) -> str:
    """Take a token, which a header can carry as it is; raises as `text` does."""
    value = fields[name]
    if not isinstance(value, str) or _TOKEN.fullmatch(value) is None:
        raise Odd(f"{name} is no token")
    return value


def life_seconds(fields: Mapping[str, Any], name: str) -> float:
    """Take the seconds that a token lives; raises as `text` does."""
    value = fields[name]
    if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
        raise Odd(f"{name} is no number of seconds")
    return float(min(value, _MOST_LIFE_SECONDS))


def moment(value: object) -> datetime | None:
    """Read a date and a time, into UTC; None for what is none, or names no zone."""
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) else None
        return None if found is None or found.tzinfo is None else found.astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def header_number(value: str | None) -> int | None:
    """Read the number that a header holds; None for what is none, or has more than 18 digits."""
    found = (value or "").strip()
    return int(found) if found.isascii() and found.isdigit() and len(found) <= 18 else None
