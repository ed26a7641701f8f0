"""What is counted, and what was found to be untrue."""

import time
from collections import Counter
from dataclasses import dataclass, field

COUNTED = (
    "nights",
    "runs",
    "runs ended early",
    "runs without a result",
    "captured",
    "unchanged",
    "failed",
    "full",
    "incremental",
    "bytes",
    "objects",
    "prunes",
    "prunes cut off",
    "prunes refused",
    "snapshots removed",
    "verifications",
    "damage done",
    "damage found",
    "damage healed",
    "damage accepted",
    "green runs",
    "green states",
    "restores compared",
    "old states compared",
    "without new heads",
    "lies",
)


@dataclass(frozen=True, slots=True)
class Lie:
    """Something that was said and is not so.

    Attributes:
        kind: the promise that was broken, in few words.
        about: the repository, snapshot or command.
    """

    night: int
    kind: str
    about: str
    words: str

    def __str__(self) -> str:
        return f"night {self.night}: {self.kind}: {self.about}: {self.words}"


@dataclass
class Figures:
    """The sum of a soak.

    Attributes:
        lies: each once, as long as it lasts.
    """

    counts: Counter[str] = field(default_factory=Counter)
    lies: list[Lie] = field(default_factory=list)
    _began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self._began

    def table(self) -> str:
        """Write the figures, one a line, and below them which promises were broken."""
        lines = [f"{name:<24}{self.counts[name]:>14,}" for name in COUNTED]
        lines.append(f"{'seconds':<24}{self.seconds:>14,.0f}")
        kinds = Counter(lie.kind for lie in self.lies)
        return "\n".join([*lines, *(f"  {kind}: {count}" for kind, count in kinds.most_common())])
