"""Files of Git LFS that are not stored: what is said of them, and which are asked for (pure).

Whoever may push can commit pointers to nothing, and pointers to a file that is there with a size
that it does not have. So a file is asked for with each size that it is given, what a source says
that it does not have is asked for again by some hundred a night, and each within 30 days, and a
night in which too much came to nothing asks for no more.

The order is not the choice of those who push. What was never asked for goes by when it was first
seen; what was asked for goes round in passes that nothing new comes into. Both have half of a
night. So what is in front of a file was there before it, and is behind it once it was asked for.
"""

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import chain, takewhile, zip_longest
from math import ceil

from backup.git.lfs import MOST_AT_ONCE
from backup.git.pointers import Pointer
from backup.vault.documents import LfsMissing
from backup.vault.documents_of_files import LfsTurn

# So much may come to nothing in a night: a file that its source does not have counts 1, one that it
# gave a link to more, since several requests were made for it alone.
MOST_MISSES = 5_000
OFFERED_MISS = 50
# A server is asked for one size of a file at a time, so a second size takes a request of its own.
OTHER_SIZE = 50
LONGEST_REASON = 300
# One that is found missing while a pass is under way waits for its end, and for its turn.
_PASS = timedelta(days=15)
# Of very many missing files so many keep the words of whoever refused them.
_MOST_REASONS = 1_000
_NOT_ASKED = "not asked for yet: too many others are missing"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why a file is not stored.

    Attributes:
        permanent: its source says that it does not have it.
        condemned: a prune may delete it.
        of_all: what is true of the others, too.
        asked: whether its source was asked for it when its turn came.
        cost: what it counts of `MOST_MISSES`.
    """

    reason: str
    permanent: bool = False
    condemned: bool = False
    of_all: bool = False
    asked: bool = True
    cost: int = 1


class Waiting:
    """Those of a repository's missing files that were asked for before, and whose turn it is.

    What a source says that it does not have is due once in each pass; up to a hundred of these are
    asked for each night, by one request. All else is due each night.

    Args:
        known: what the last record says of them; what was never asked for is left out.
        turn: where the last run left off; None where a pass begins.
        looked_at: when files were last looked for; None where nobody knows: then all are due.
        now: the time of the run.
    """

    def __init__(
        self,
        known: Mapping[Pointer, LfsMissing],
        turn: LfsTurn | None,
        *,
        looked_at: datetime | None,
        now: datetime,
    ) -> None:
        self._all = {pointer: one for pointer, one in known.items() if not is_new(one)}
        self._turn = turn
        self._ahead = self._left_of_the_pass(now)
        if not self._ahead:
            self._turn = None
            self._ahead = self._left_of_the_pass(now)
        missing = [pointer for pointer in self._ahead if self._all[pointer].permanent]
        if looked_at is not None:
            everything = sum(one.permanent for one in self._all.values())
            share = everything * max(now - looked_at, timedelta(0)) / _PASS
            missing = missing[: max(MOST_AT_ONCE, ceil(share))]
        skipped = (pointer for pointer, one in self._all.items() if not _is_gone(one))
        self.due = frozenset((*missing, *skipped))

    def in_order(self, also: Iterable[Pointer], snapshot_id: str) -> list[Pointer]:
        """Sort what is due, and more that waits, as the pass goes; at random what is not in it."""
        asked = self.due | frozenset(also)
        first = [pointer for pointer in self._ahead if pointer in asked]
        return first + shuffled(asked - frozenset(first), snapshot_id)

    def next_turn(self, reached: Collection[Pointer]) -> LfsTurn | None:
        """Tell where the next run goes on: never behind what was not reached."""
        done = [*takewhile(reached.__contains__, self._ahead)]
        if len(done) == len(self._ahead):
            return None
        if not done:
            return self._turn
        last = done[-1]
        return LfsTurn(began=self._began, oid=last.oid, size_bytes=last.size_bytes)

    def _left_of_the_pass(self, now: datetime) -> list[Pointer]:
        turn = self._turn
        self._began = now if turn is None else turn.began
        return sorted(
            pointer
            for pointer, one in self._all.items()
            # A clock that was ahead once must not keep one out for ever.
            if (one.since <= self._began or one.since > now)
            and (turn is None or pointer > Pointer(turn.oid, turn.size_bytes))
        )


def is_new(known: LfsMissing | None) -> bool:
    """Return whether a file was never asked for."""
    return known is None or not (known.asked or known.permanent)


def new_in_order(
    pointers: Iterable[Pointer], before: Mapping[Pointer, LfsMissing], snapshot_id: str
) -> list[Pointer]:
    """Sort what was never asked for: what has waited longest first, else at random."""
    order = shuffled(pointers, snapshot_id)
    waiting = [pointer for pointer in order if pointer in before]
    return sorted(waiting, key=lambda one: before[one].since) + [
        pointer for pointer in order if pointer not in before
    ]


def shuffled(pointers: Iterable[Pointer], snapshot_id: str) -> list[Pointer]:
    """Sort files in an order that nobody knew before the run began."""

    def place(one: Pointer) -> bytes:
        return hashlib.sha256(f"{snapshot_id} {one.oid} {one.size_bytes}".encode()).digest()

    return sorted(pointers, key=place)


def by_turns(one: Iterable[Pointer], other: Iterable[Pointer]) -> list[Pointer]:
    """Take one of each in turn, for as long as both have some."""
    return [each for each in chain.from_iterable(zip_longest(one, other)) if each is not None]


def hundreds(pointers: Iterable[Pointer]) -> Iterator[list[Pointer]]:
    """Yield as many at a time as a server is asked for at once, and each file once among them."""
    some: dict[str, Pointer] = {}
    for one in pointers:
        if len(some) == MOST_AT_ONCE or one.oid in some:
            yield [*some.values()]
            some = {}
        some[one.oid] = one
    if some:
        yield [*some.values()]


def not_asked(known: LfsMissing | None, *, is_due: bool) -> Failure:
    """Say of a file that was not asked for tonight what was known before, and if that is well."""
    if known is None or is_new(known):
        return Failure(_NOT_ASKED, asked=False)
    return Failure(
        known.reason,
        permanent=known.permanent,
        condemned=known.condemned,
        asked=not (is_due and known.permanent),
    )


def missing_lines(
    failures: Mapping[Pointer, Failure],
    before: Mapping[Pointer, LfsMissing],
    *,
    now: datetime,
) -> tuple[LfsMissing, ...]:
    """Make a record's lines of what is not stored, sorted; of very many with fewer words.

    Args:
        failures: by what names the files.
        before: what the last record says of them.
        now: since when those are missing that it does not name.
    """
    return tuple(
        LfsMissing(
            oid=pointer.oid,
            size_bytes=pointer.size_bytes,
            since=before[pointer].since if pointer in before else now,
            reason=failure.reason if number < _MOST_REASONS else _short(failure),
            permanent=failure.permanent,
            condemned=failure.condemned,
            asked=failure.asked,
        )
        for number, (pointer, failure) in enumerate(
            sorted(failures.items(), key=lambda one: one[0])
        )
    )


def _short(failure: Failure) -> str:
    if not failure.asked:
        return "not asked for yet"
    return "missing at the source" if failure.permanent else "not stored"


def _is_gone(one: LfsMissing) -> bool:
    """Return whether its source had it not when it was last due."""
    return one.permanent and one.asked
