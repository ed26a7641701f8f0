"""Counts what a run asks of others. Knows no source and no destination."""

from collections import Counter
from threading import Lock


class RequestCounts:
    """Numbers by name (``git``, ``list``, ``get``, ``put``). Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._numbers: Counter[str] = Counter()

    def increment(self, name: str, by: int = 1) -> None:
        """Add to a number; one never heard of begins at zero."""
        with self._lock:
            self._numbers[name] += by

    def snapshot(self) -> dict[str, int]:
        """Return all numbers as they are now, sorted by name; later ones don't change it."""
        with self._lock:
            return dict(sorted(self._numbers.items()))
