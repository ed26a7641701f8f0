"""Which of several manifests is later: the one order that every command goes by. Pure.

A manifest names the documents that its run has merged, so it is later than these, whatever the
clocks say: those of two machines may differ by minutes, and one may be set between two runs. Only
where neither names the other, directly or through others, the times inside them decide.

So the newest is, of those that no other one names, the one that finished last.

No run can have merged what was written after it. Documents that name each other in a circle are
therefore somebody's invention: among themselves their clocks decide.

The order says what is later, never what may be deleted for its sake: a document may claim to have
merged what it has nothing of. Nor does it change the time of anything: a document that claims to
have merged the nights of a year would otherwise make one day of them.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeVar

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Place:
    """What the order of a document depends on.

    Attributes:
        names: under which others may name it; several where it stands for several documents.
        merged: what it names itself.
        finished_at: the time inside it.
    """

    names: tuple[str, ...]
    merged: tuple[str, ...]
    finished_at: datetime


def in_order(documents: Iterable[T], place: Callable[[T], Place]) -> list[T]:
    """Return documents in their order, the oldest first.

    Args:
        documents: in any order.
        place: returns what the order of one depends on. What it names and is not among the
            documents does not matter.
    """
    pairs = [(place(one), one) for one in documents]
    pairs.sort(key=lambda pair: (pair[0].finished_at, pair[0].names))
    number = {name: n for n, (one, _) in enumerate(pairs) for name in one.names}
    merged = [sorted({number[name] for name in one.merged if name in number}) for one, _ in pairs]
    return [pairs[n][1] for circle in _circles(merged) for n in sorted(circle)]


def _circles(leads_to: Sequence[Sequence[int]]) -> Iterator[list[int]]:
    """Yield the numbers that lead to each other together, after all others that they lead to.

    As a rule each is alone. This is Tarjan's algorithm, with a path of its own in place of calls.
    """
    met_as: dict[int, int] = {}
    reaches: dict[int, int] = {}
    unfinished: list[int] = []
    is_unfinished = [False] * len(leads_to)
    for root in range(len(leads_to)):
        path: list[tuple[int, Iterator[int]]] = []
        following: int | None = None if root in met_as else root
        while following is not None or path:
            if following is not None:
                met_as[following] = reaches[following] = len(met_as)
                unfinished.append(following)
                is_unfinished[following] = True
                path.append((following, iter(leads_to[following])))
            number, others = path[-1]
            following = None
            for other in others:
                if other not in met_as:
                    following = other
                    break
                if is_unfinished[other]:
                    reaches[number] = min(reaches[number], met_as[other])
            if following is not None:
                continue
            path.pop()
            if path:
                before = path[-1][0]
                reaches[before] = min(reaches[before], reaches[number])
            if reaches[number] == met_as[number]:
                circle = [unfinished.pop()]
                while circle[-1] != number:
                    circle.append(unfinished.pop())
                for one in circle:
                    is_unfinished[one] = False
                yield circle
