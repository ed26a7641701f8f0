"""Files of Git LFS that are not stored: what is said of them, and which are asked for (pure).

Whoever may push can commit pointers to nothing. So what a source says that it does not have is
asked for again by some hundred a night, and each file within 30 days, and a night in which too much
came to nothing asks for no more. What was never asked for is not known to be missing.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime

from backup.git.lfs import MOST_AT_ONCE
from backup.git.pointers import Pointer
from backup.vault.documents import LfsMissing

# So much may come to nothing in a night: a file that its source does not have counts 1, one that it
# gave a link to more, since several requests were made for it alone.
MOST_MISSES = 5_000
OFFERED_MISS = 50
# The last to be asked for.
MISSING = 2
LONGEST_REASON = 300
_ASKED_WITHIN_DAYS = 30
_DAY_SECONDS = 86_400
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
        asked: whether its source was ever asked for it.
        cost: what it counts of `MOST_MISSES`.
    """

    reason: str
    permanent: bool = False
    condemned: bool = False
    of_all: bool = False
    asked: bool = True
    cost: int = 1


def asked_for_later(
    known: Collection[LfsMissing], *, looked_at: datetime | None, now: datetime
) -> set[str]:
    """Choose the ids of those files that need not be asked for tonight.

    Only what its source said that it does not have. Up to a hundred of these are asked for by one
    request, each night. Of more each has its day, by its id, at the latest every 30th; a day on
    which nothing was looked for is made up for.

    Where one of the others is back, the caller asks for these as well.

    Args:
        known: what the last record says of files that nothing new points to.
        looked_at: when files were last looked for; None where nobody knows: then all are due.
        now: the time of the run.
    """
    missing = [one.oid for one in known if one.permanent]
    period = min(-(-len(missing) // MOST_AT_ONCE), _ASKED_WITHIN_DAYS)
    if period <= 1 or looked_at is None:
        return set()
    today = _day(now)
    days = today - _day(looked_at)
    return {oid for oid in missing if (today - int(oid[:8], 16)) % period >= days}


def turn_of(known: LfsMissing | None) -> int:
    """Order what is asked for: first what never was, last what its source said it does not have."""
    if known is None or not known.asked:
        return 0
    return MISSING if known.permanent else 1


def not_asked(known: LfsMissing | None) -> Failure:
    """Say of a file that was not asked for tonight what was known before."""
    if known is not None and known.permanent:
        return Failure(known.reason, permanent=True)
    return Failure(_NOT_ASKED, asked=False)


def missing_lines(
    failures: Mapping[str, Failure],
    pointers: Mapping[str, Pointer],
    before: Mapping[str, LfsMissing],
    *,
    now: datetime,
) -> tuple[LfsMissing, ...]:
    """Make a record's lines of what is not stored, sorted; of very many with fewer words.

    Args:
        failures: by the ids of the files, as the next two.
        pointers: what names them.
        before: what the last record says of them.
        now: since when those are missing that it does not name.
    """
    return tuple(
        LfsMissing(
            oid=oid,
            size_bytes=pointers[oid].size_bytes,
            since=before[oid].since if oid in before else now,
            reason=failure.reason if number < _MOST_REASONS else _short(failure),
            permanent=failure.permanent,
            condemned=failure.condemned,
            asked=failure.asked,
        )
        for number, (oid, failure) in enumerate(sorted(failures.items(), key=lambda one: one[0]))
    )


def _short(failure: Failure) -> str:
    if not failure.asked:
        return "not asked for yet"
    return "missing at the source" if failure.permanent else "not stored"


def _day(moment: datetime) -> int:
    return int(moment.timestamp()) // _DAY_SECONDS
