"""Which keys a destination takes. A key that breaks the rule is a bug of ours: ValueError."""

import re

_SEGMENT = re.compile(r"[ -\[\]-~]+")


def is_segment(text: str) -> bool:
    """Tell whether text can stand between two slashes: printable ASCII, no backslash, no dots."""
    return _SEGMENT.fullmatch(text) is not None and text not in {".", ".."}


def check_key(key: str) -> None:
    """Refuse what is no key.

    Raises:
        ValueError: the key is empty, absolute, leaves its root or has characters no key has.
    """
    if not all(map(is_segment, key.split("/"))):
        raise ValueError(f"{key!r} is no key")


def check_prefix(prefix: str) -> None:
    """Refuse what is no prefix of keys.

    Raises:
        ValueError: the prefix is neither empty nor segments that each end in a slash.
    """
    if prefix and not (prefix.endswith("/") and all(map(is_segment, prefix[:-1].split("/")))):
        raise ValueError(f"{prefix!r} is no prefix: it is neither empty nor ends in a slash")
