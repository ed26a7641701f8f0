"""Asks a source one by one for repositories that its listing had before and has no longer."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime

from backup.commands.entries import carried, failed, outcome_of
from backup.commands.ledger import Ledger
from backup.commands.retrying import TRIES, repeat
from backup.commands.selecting import RunOptions
from backup.errors import BackupError, DeadlineReached, SourceError
from backup.model import Absence, Repository, Source
from backup.stopping import Stop
from backup.vault.documents import Entry
from backup.vault.documents_of_listings import AbsenceLine

_NOT_ASKED = "not reached: the time was up before it was asked for"


def ask_for_absent(
    absent: Iterable[Entry],
    source: Source,
    options: RunOptions,
    ledger: Ledger,
    *,
    stop: Stop,
    again: Callable[[BackupError, float], None],
    clock: Callable[[], datetime],
) -> list[Repository]:
    """Ask for each of them, and note the answers in the ledger.

    Args:
        absent: what the listing does not have.
        source: is asked.
        options: say which kinds are listed at all.
        ledger: takes the answers.
        stop: its deadline leaves the rest to the next run.
        again: is told of a failed try, and of the seconds until the next.
        clock: the time that entries have.

    Returns:
        Those that are there all the same.

    Raises:
        Interrupted: the run must stop.
    """
    found = []
    for entry in absent:
        if not options.lists(entry.kind):
            # They were not asked for, and so not listed.
            ledger.marks[entry.identity] = carried(entry, not_selected=True)
            continue
        repository = _repository(source, entry)
        try:
            answer = _look_up(source, entry, stop=stop, again=again)
        except SourceError as error:
            ledger.results[entry.identity] = failed(
                repository, entry, clock(), reason=error.message
            )
            continue
        except DeadlineReached:
            # Whether it is there nobody knows: what is known of its absence stays.
            ledger.leave(repository, None, reason=_NOT_ASKED)
            ledger.marks[entry.identity] = carried(entry, reason=_NOT_ASKED)
            continue
        if isinstance(answer, Repository):
            found.append(answer)
        else:
            _mark(ledger, repository, entry, answer, now=clock())
    return found


def _look_up(
    source: Source, entry: Entry, *, stop: Stop, again: Callable[[BackupError, float], None]
) -> Repository | Absence:
    stop.check()
    return repeat(
        lambda: source.look_up(host_id=entry.host_id, path=entry.path, kind=entry.kind),
        tries=TRIES,
        stop=stop,
        again=again,
        may_pass=lambda error: isinstance(error, SourceError),
    )


def _mark(
    ledger: Ledger, repository: Repository, entry: Entry, answer: Absence, *, now: datetime
) -> None:
    since = now if entry.absence is None else entry.absence.since
    line = AbsenceLine(since=since, asked_at=now, answer=answer.answer, detail=answer.detail)
    outcome = replace(
        outcome_of(repository),
        status="gone",
        reason=f"not listed since {since:%Y-%m-%d}: {answer.detail}",
        known=entry.absence is not None,
    )
    ledger.tell(outcome, mark=carried(entry, absence=line, status="gone", reason=answer.detail))


def _repository(source: Source, entry: Entry) -> Repository:
    identity = source.identity
    return Repository(
        host=identity.host,
        owner=identity.owner,
        path=entry.path,
        host_id=entry.host_id,
        clone_url="",
        kind=entry.kind,
        private=entry.private,
    )
