"""What a forge's API answers, taken for what it should be: one odd item is one odd item.

A listing may hold a null, or an item without a name. The others are as good as before; what could
not be read is yielded with its problem, so that the run says so.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from backup.errors import SourceError
from backup.model import Repository

# What reading an item raises that is not as it should be.
_ODD = (KeyError, TypeError, ValueError, AttributeError, RecursionError)


def each(
    items: Iterable[Any],
    make: Callable[[Mapping[str, Any]], Iterable[Repository]],
    *,
    forge: str,
    host: str,
    owner: str,
) -> Iterator[Repository]:
    """Yield what each item of a listing means, and for one that means nothing what it was.

    Args:
        items: as the API gave them.
        make: gives an item's repositories: its own, its wiki.
        forge: how people call it.
        host: of the repositories.
        owner: of the repositories.
    """
    for number, item in enumerate(items, 1):
        try:
            found = [*make(item)]
        except _ODD as error:
            name = f"item {number} of the listing"
            yield Repository(
                host=host,
                owner=owner,
                path=name,
                host_id=f"unreadable-{number}",
                clone_url="",
                problem=f"{forge} lists something that is no repository ({_what(error)})",
            )
        else:
            yield from found


@contextmanager
def taken_for(what: str, *, forge: str) -> Iterator[None]:
    """Turn what an odd answer raises into an error that says what was asked for."""
    try:
        yield
    except _ODD as error:
        raise SourceError(
            f"{forge} answers with something that is no {what} ({_what(error)})"
        ) from error


def _what(error: Exception) -> str:
    if isinstance(error, KeyError):
        return f"without {error}"
    return type(error).__name__
