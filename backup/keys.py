"""Which keys a destination takes. A key of ours that breaks the rule is a bug: ValueError."""

import re

_SEGMENT = re.compile(r"[ -\[\]-~]+")
# The same, joined by slashes: the keys of a large document are a million.
_KEY = re.compile(r"{one}(?:/{one})*".format(one=r"(?!\.\.?(?:/|\Z))[ -.0-\[\]-~]+"))


def is_segment(text: str) -> bool:
    """Tell whether text can stand between two slashes: printable ASCII, no backslash, no dots."""
    return _SEGMENT.fullmatch(text) is not None and text not in {".", ".."}


def is_key(text: str) -> bool:
    """Tell whether text is a key: segments that are joined by slashes."""
    return _KEY.fullmatch(text) is not None


def check_key(key: str) -> None:
    """Refuse what is no key.

    Raises:
        ValueError: the key is empty, absolute, leaves its root or has characters no key has.
    """
    if not is_key(key):
        raise ValueError(f"{key!r} is no key")


def check_prefix(prefix: str) -> None:
    """Refuse what is no prefix of keys.

    Raises:
        ValueError: the prefix is neither empty nor segments that each end in a slash.
    """
    if prefix and not (prefix.endswith("/") and is_key(prefix[:-1])):
        raise ValueError(f"{prefix!r} is no prefix: it is neither empty nor ends in a slash")
