"""Looks for mistakes in a set-up before they cost a night. Changes nothing.

Whether the vault may be written is tried by something that is begun and taken back at once.
"""

import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from datetime import datetime, timedelta
from typing import Protocol, runtime_checkable

from backup.commands.clocks import difference
from backup.commands.finding import snapshots, state_of_vault
from backup.commands.lost_index import HOW_TO_GO_ON, lost_index
from backup.commands.remotes import Network, NetworkSettings, Remotes
from backup.errors import BackupError, ExitCode, IntegrityError
from backup.git.command import require_git
from backup.git.work import ANOTHER_FOLDER, named_but_unusable
from backup.model import Destination, Repository, Selection, Source
from backup.results import SEE_HOW_TO_REPAIR, Diagnosis, DoctorReport, Finding
from backup.stopping import Stop
from backup.vault.layout import DocumentName, Layout, new_snapshot_id
from backup.vault.manifest import State
from backup.vault.originals import OriginalsDestination

# S3 refuses a clock that is 15 minutes off, and a GitHub App's statement sooner.
_MOST_SKEW = timedelta(minutes=5)
_LEAST_DISK_BYTES = 2 << 30


@runtime_checkable
class Diagnosed(Protocol):
    """A source that can say something of its credentials."""

    def diagnose(self) -> Diagnosis:
        """Tell what can be known of them."""


def doctor(
    sources: Sequence[Source],
    destination: Destination,
    *,
    look_at_destination: Callable[[], Diagnosis],
    network: NetworkSettings,
    stop: Stop,
    clock: Callable[[], datetime],
) -> DoctorReport:
    """Look at the machine, each source, and the destination.

    What cannot be reached is a finding, not an exception.

    Args:
        sources: where repositories come from.
        destination: where the vault lies, or will lie.
        look_at_destination: tells what is special about it.
        network: how servers are reached.
        stop: a signal ends it.
        clock: the time here.

    Raises:
        Interrupted: a signal came.
    """
    findings = [*_machine()]
    try:
        place = look_at_destination()
    except BackupError as error:
        place = Diagnosis((Finding("error", error.message, error.hint),))
    longest: timedelta | None = None
    with closing(Network(network, connections=1, stop=stop)) as connections:
        for source in sources:
            examination = _Examination(source, destination, connections, stop=stop, clock=clock)
            findings += examination.findings()
            # A request that it ended is no finding.
            stop.check()
            if examination.last_run is not None:
                longest = max(examination.last_run, longest or timedelta())
    findings += place.findings
    findings += _clock("the store", place.server_time, clock())
    findings += _session(place.session, longest)
    is_well = all(one.severity != "error" for one in findings)
    return DoctorReport(tuple(findings), ExitCode.DONE if is_well else ExitCode.FAILED)


def _machine() -> Iterator[Finding]:
    try:
        require_git()
    except BackupError as error:
        yield Finding("error", error.message, error.hint)
    if unusable := named_but_unusable():
        yield Finding("warning", unusable, ANOTHER_FOLDER)
    try:
        free = shutil.disk_usage(tempfile.gettempdir()).free
    except OSError as error:
        yield Finding(
            "error",
            f"there is no temporary folder that can be used: {error.strerror}",
            ANOTHER_FOLDER,
        )
        return
    if free < _LEAST_DISK_BYTES:
        yield Finding(
            "warning",
            f"the temporary folder has {free >> 20} MiB left: packs that do not fit are checked by "
            "their trailer alone",
            "free some, or set TMPDIR to another place",
        )


def _clock(name: str, theirs: datetime | None, ours: datetime) -> Iterator[Finding]:
    if theirs is None:
        return
    if abs(ours - theirs) <= _MOST_SKEW:
        return
    yield Finding(
        "error",
        difference(ours, theirs, name),
        "set it (by NTP): from 15 minutes on stores refuse requests, and a run fails before it "
        "publishes",
    )


def _session(left: timedelta | None, longest: timedelta | None) -> Iterator[Finding]:
    """Compare how long the credentials live with how long the last run took."""
    if left is None:
        return
    minutes = round(left.total_seconds() / 60)
    fix = "give role-to-assume, which renews them, or a longer role-duration-seconds"
    if longest is not None and left < longest * 1.2:
        took = round(longest.total_seconds() / 60)
        yield Finding(
            "error", f"the credentials end in {minutes} minutes; the last run took {took}", fix
        )
    else:
        yield Finding(
            "info", f"the credentials end in about {minutes} minutes, as far as they say", fix
        )


class _Examination:
    """The look at one source.

    Attributes:
        last_run: how long the last run of this owner took; None without one.
    """

    def __init__(
        self,
        source: Source,
        destination: Destination,
        network: Network,
        *,
        stop: Stop,
        clock: Callable[[], datetime],
    ) -> None:
        self._source = source
        self._destination = destination
        self._network = network
        self._stop = stop
        self._clock = clock
        self.last_run: timedelta | None = None

    def findings(self) -> list[Finding]:
        found: list[Finding] = []
        try:
            found += self._look()
        except BackupError as error:
            found.append(Finding("error", error.message, error.hint))
        return found

    def _look(self) -> Iterator[Finding]:
        source = self._source
        identity = source.identity
        name = identity.location or identity.owner
        if isinstance(source, Diagnosed):
            diagnosis = source.diagnose()
            yield from diagnosis.findings
            yield from _clock(identity.host, diagnosis.server_time, self._clock())
        layout = Layout.of(host=identity.host, owner=identity.owner)
        yield from self._place(layout)
        self._stop.check()
        listing = list(source.repositories())
        count = sum(not one.problem for one in listing)
        if not count:
            yield Finding("error", f"{name}: no repositories are seen", source.if_too_short)
            return
        yield Finding("info", f"{name}: {count} repositories are seen")
        yield from _unusable(listing)
        for note in source.notes:
            yield Finding("warning", note)
        yield from self._git(listing)
        yield from self._vault(layout, len(listing))

    def _place(self, layout: Layout) -> Iterator[Finding]:
        """Try to begin what a run writes last, and loses the night without."""
        where = self._destination.uri(layout.prefix)
        key = layout.document(DocumentName(new_snapshot_id(self._clock())))
        try:
            note = self._destination.probe(key)
        except BackupError as error:
            yield Finding("error", f"{where} cannot be written: {error.message}", error.hint)
            return
        if note:
            yield Finding("warning", f"{where}: {note}")
        else:
            yield Finding("info", f"{where} can be written")

    def _git(self, listing: Sequence[Repository]) -> Iterator[Finding]:
        """Ask one repository for its refs: the API and git are two doors."""
        some = [one for one in listing if not one.problem and not one.blocked]
        # What everybody may read proves nothing of the credentials.
        chosen = next((one for one in some if one.private), some[0] if some else None)
        if chosen is None:
            return
        remotes = Remotes(
            network=self._network,
            selection=Selection(),
            count=lambda _: None,
            stop=self._stop,
            authorization=self._source.authorization,
            renew=self._source.renew_authorization,
        )
        name = f"{chosen.owner}/{chosen.path}"
        try:
            with remotes.open(chosen) as remote:
                refs = remote.list_refs()
        except BackupError as error:
            yield Finding(
                "error",
                f"git cannot read {name}: {error.message}",
                error.hint or "the credentials open the API, and not this repository's contents",
                private=chosen.private,
            )
            return
        yield Finding("info", f"git reads {name}: {len(refs.tips)} refs", private=chosen.private)
        if not refs.protocol_v2:
            yield Finding(
                "warning",
                "the server has no git protocol version 2: what changed is mirrored to this "
                "machine and stored whole, each time",
                "update the server",
            )

    def _vault(self, layout: Layout, count: int) -> Iterator[Finding]:
        documents = OriginalsDestination(self._destination)
        unreadable: list[tuple[DocumentName, IntegrityError]] = []
        try:
            found = snapshots(documents, layout, unreadable=unreadable)
            # What cannot be read may be what the newest state depends on; then this is refused.
            is_known = found and not unreadable
            state = State() if is_known else state_of_vault(documents, layout, now=self._clock())
            lost = None if found else lost_index(documents, layout, state)
        except BackupError as error:
            yield Finding("error", f"the vault cannot be read: {error.message}", error.hint)
            return
        if lost is not None:
            yield Finding("error", lost.message, HOW_TO_GO_ON)
            return
        if not found:
            yield Finding("info", f"{self._destination.uri(layout.prefix)}: no run yet")
            return
        for _, problem in unreadable:
            yield Finding("warning", problem.message, problem.hint or SEE_HOW_TO_REPAIR)
        newest = found[-1].header
        self.last_run = newest.finished_at - newest.started_at
        minutes = round(self.last_run.total_seconds() / 60)
        yield Finding(
            "info",
            f"the last run finished {newest.finished_at:%Y-%m-%d %H:%M} UTC, took {minutes} "
            f"minutes, and was {newest.result}",
        )
        if count < newest.totals.listed * 0.8:
            yield Finding(
                "error",
                f"{count} repositories are seen, {newest.totals.listed} were in the last run",
                self._source.if_too_short or "check the credentials, or run with --accept-drop",
            )


def _unusable(listing: Sequence[Repository]) -> Iterator[Finding]:
    """Name the first of those that are listed and cannot be captured."""
    found = [one for one in listing if one.problem]
    if found:
        first = found[0]
        yield Finding(
            "warning",
            f"{len(found)} of what is listed cannot be captured, "
            f"first {first.owner}/{first.path}: {first.problem}",
            private=any(one.private for one in found),
        )
