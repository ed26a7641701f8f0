"""THE MAIN JOB: list, plan, capture, record, report.

For each owner: load what the vault knows, list the repositories, bring each one up to date in a
pool of threads, note what left the listing, publish the manifest (`owner.py`; one repository:
`one.py`). Then one report, from which exit code, summary and outputs are made.
"""

import hashlib
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime

from backup.commands.exporting import ExportOptions, Limit
from backup.commands.owner import REQUESTS_PER_CAPTURE, OwnerRun
from backup.commands.remotes import Network, NetworkSettings
from backup.commands.retrying import TRIES, repeat
from backup.commands.selecting import RunOptions
from backup.counting import RequestCounts
from backup.destinations.counting import CountingDestination
from backup.errors import BackupError, DeadlineReached, ExitCode, NothingSelected
from backup.git.check import disk_of
from backup.git.command import require_git
from backup.git.work import named_but_unusable, work_folder
from backup.machine import limit_reached
from backup.model import Destination, Events, RunReport, RunResult, Source
from backup.stopping import Stop
from backup.vault.layout import DocumentName, Layout, new_snapshot_id

__all__ = ["RunOptions", "run"]


def run(
    sources: Sequence[Source],
    destination: Destination,
    options: RunOptions,
    *,
    events: Events,
    stop: Stop,
    network: NetworkSettings | None = None,
    clock: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> RunReport:
    """Back up every owner given: one run, one snapshot id, a manifest for each owner.

    Raises:
        BackupError: nothing could be done for any owner; the vault is as it was.
    """
    require_git()
    counts = RequestCounts()
    counting = CountingDestination(destination, counts)
    clock = _in_milliseconds(clock)
    started_at = clock()
    snapshot_id = options.snapshot_id or new_snapshot_id(started_at)
    told = (*options.told, *filter(None, [named_but_unusable()]))
    for words in told:
        events.note(words)
    errors: list[BackupError] = []
    left_out: list[BackupError] = []
    connections = Network(
        network or NetworkSettings(),
        connections=options.concurrency * REQUESTS_PER_CAPTURE,
        stop=stop,
    )
    # The server counts for the token, whatever groups it is asked for.
    export_limit = Limit((options.exports or ExportOptions()).limit)
    owners: list[OwnerRun] = []
    unknown: list[str] = []
    internal: list[Exception] = []
    with work_folder() as folder, closing(connections):
        for source in in_turn(sources, snapshot_id) if stop.has_deadline else sources:
            try:
                owner = OwnerRun(
                    source,
                    counting,
                    options,
                    snapshot_id=snapshot_id,
                    started_at=started_at,
                    counts=counts,
                    network=connections,
                    export_limit=export_limit,
                    disk=disk_of(folder),
                    events=events,
                    stop=stop,
                    clock=clock,
                )
            except BackupError as error:
                errors.append(_of_an_owner(error))
                unknown.append(error.message)
                continue
            owners.append(owner)
            try:
                if not options.dry_run:
                    note = _probe(source, counting, snapshot_id, events=events, stop=stop)
                    owner.ledger.notes += [note] if note else []
                owner.back_up()
            except NothingSelected as error:
                left_out.append(error)
                owner.ledger.notes.append(f"{source.identity.owner}: {error.message}")
            except Exception as error:  # noqa: BLE001  it is raised when the other owners are done
                failure = error if isinstance(error, BackupError) else limit_reached(error)
                if failure is None:
                    internal.append(error)
                    continue
                owner.give_up(failure)
                errors.append(_of_an_owner(failure))
    if internal:
        raise internal[0]
    owners.sort(key=lambda owner: sources.index(owner.source))
    if len(errors) + len(left_out) == len(sources) > 0:
        raise (*errors, *left_out)[0]
    result = "failed" if unknown else _worst([owner.ledger.result() for owner in owners])
    return RunReport(
        result=result,
        exit_code=ExitCode.INTERRUPTED if stop.interrupted else _EXIT_CODES[result],
        snapshot_id=snapshot_id,
        started_at=started_at,
        finished_at=clock(),
        dry_run=options.dry_run,
        manifests=tuple(owner.manifest_uri for owner in owners if owner.manifest_uri),
        outcomes=tuple(outcome for owner in owners for outcome in owner.ledger.outcomes()),
        listed=sum(owner.listed for owner in owners),
        requests=counts.snapshot(),
        objects_written=counting.objects_written,
        bytes_uploaded=counting.bytes_uploaded,
        problems=(
            *unknown,
            *(problem for owner in owners for problem in owner.ledger.problems),
        ),
        notes=(*told, *(note for owner in owners for note in owner.ledger.notes)),
        drills=tuple(owner.last_drill for owner in owners if owner.last_drill is not None),
        only_late=not unknown
        and any(owner.ledger.late for owner in owners)
        and all(o.ledger.is_only_late or o.ledger.result() == "success" for o in owners),
    )


def _of_an_owner(error: BackupError) -> BackupError:
    """Return an error that ended an owner's run before anything was published for it.

    That is a failure: a deadline leaves some repositories to the next run, not all of an owner.
    """
    if not isinstance(error, DeadlineReached):
        return error
    return BackupError(
        f"{error.message}: nothing was published",
        hint="see why the forge or the store is so slow, or give more --deadline-minutes",
    )


def in_turn(sources: Sequence[Source], snapshot_id: str) -> Sequence[Source]:
    """Begin with another owner each night: none may take the time of the others for ever."""
    number = int.from_bytes(hashlib.sha256(snapshot_id.encode()).digest()[:4], "big")
    first = number % max(1, len(sources))
    return (*sources[first:], *sources[:first])


def _probe(
    source: Source, destination: Destination, snapshot_id: str, *, events: Events, stop: Stop
) -> str:
    """See that an owner's manifest could be written, before anything is fetched for it.

    Returns:
        What people should know all the same; empty as a rule.

    Raises:
        BackupError: it could not.
    """
    identity = source.identity
    layout = Layout.of(host=identity.host, owner=identity.owner)
    key = layout.document(DocumentName(snapshot_id))
    note = repeat(
        lambda: destination.probe(key),
        tries=TRIES,
        stop=stop,
        again=lambda error, seconds: events.note(f"{error.message}; again in {seconds:.0f} s"),
        may_pass=lambda _: not destination.listing_is_local,
    )
    if note:
        note = f"{destination.uri(layout.prefix)}: {note}"
        events.note(note)
    return note


_EXIT_CODES: dict[RunResult, ExitCode] = {
    "success": ExitCode.DONE,
    "partial": ExitCode.PARTIAL,
    "failed": ExitCode.FAILED,
}


def _in_milliseconds(clock: Callable[[], datetime]) -> Callable[[], datetime]:
    # As exact as reports print it, and half as long in ten thousand manifest entries.
    def tell() -> datetime:
        now = clock()
        return now.replace(microsecond=now.microsecond // 1000 * 1000)

    return tell


def _worst(results: Sequence[RunResult]) -> RunResult:
    if "failed" in results:
        return "failed"
    return "partial" if "partial" in results else "success"
