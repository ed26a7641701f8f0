"""What a forge's API answers, taken for what it should be: one odd item is one odd item.

A listing may hold a null, or an item without a name. The others are as good as before; what could
not be read is yielded with its problem, so that the run says so. A listing that does not end is an
error of its owner.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from backup import limits
from backup.answers import Odd
from backup.errors import HostUnreachable, SourceError
from backup.model import Repository

# What reading an item raises that is not as it should be.
_ODD = (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError)


class Bounds:
    """Counts what one owner's listings gave.

    Args:
        forge: how people call it.
    """

    def __init__(self, forge: str) -> None:
        self._forge = forge
        self._pages = self._items = 0

    def page(self, items: object, path: str) -> list[Any]:
        """Return the items of a page.

        Raises:
            SourceError: it is no list, or one page or item more than any owner has.
        """
        if not isinstance(items, list):
            raise SourceError(f"{self._forge} answers {path} with something that is no list")
        self._pages += 1
        self._items += len(items)
        if self._pages > limits.MOST_PAGES or self._items > limits.MOST_ITEMS:
            raise SourceError(
                f"{self._forge}'s listing {path} does not end: more than {limits.MOST_PAGES:,} "
                f"pages or {limits.MOST_ITEMS:,} items"
            )
        return items


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
                host_id="",
                clone_url="",
                problem=f"{forge} lists something that is no repository ({_what(error)})",
            )
        else:
            yield from found


def no_json(forge: str, path: str) -> HostUnreachable:
    """Make the error for an answer that is no JSON; it may have been cut, and come whole again."""
    return HostUnreachable(
        f"{forge} answers {path} with something that is no JSON",
        hint="a page to sign in or a proxy may answer in its place, or the address may be another "
        "server's (--server-url, --api-url)",
    )


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
    return str(error) if isinstance(error, Odd) else type(error).__name__
