"""Forgetting a repository: from now on no state and no snapshot of the vault has it.

What is written is a checkpoint without entries. It says what is forgotten; readers leave that out
of every document which does not say the same, and runs carry it on in their manifests. Objects are
deleted by prune alone, when its grace is over.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

import backup
from backup.commands.clocks import SET_IT, disagreement
from backup.commands.finding import (
    Found,
    entries_of,
    find_in_vault,
    require_roots,
    state_of_vault,
)
from backup.errors import BackupError
from backup.model import Destination
from backup.results import ForgetReport, ForgottenRow
from backup.vault.documents import Entry, ForgottenLine, Manifest, SourceLine, encode
from backup.vault.layout import DocumentName, Layout, new_snapshot_id, repository_folder
from backup.vault.originals import OriginalsDestination


@dataclass(frozen=True, slots=True)
class ForgetRequest:
    """What is to be forgotten.

    Attributes:
        repository: its present name, letter for letter, or its id.
    """

    repository: str
    dry_run: bool = False


def forget(destination: Destination, request: ForgetRequest, *, now: datetime) -> ForgetReport:
    """Leave one repository out of the vault.

    Raises:
        ConfigError: no repository has this name, or several have.
        IndexMissing: it may be of an owner whose manifests are gone.
        DestinationError: it could not be noted; nothing is forgotten.
        BackupError: this machine's clock or the store's is wrong; nothing is forgotten.
    """
    destination = OriginalsDestination(destination)
    states = {
        layout: state_of_vault(destination, layout, now=now)
        for layout in require_roots(destination)
    }
    everything = [found for layout, state in states.items() for found in entries_of(layout, state)]
    found = find_in_vault(destination, states, request.repository)
    line = forgotten_line(
        found.entry, snapshot_id=new_snapshot_id(now), at=now, reason="asked for by name"
    )
    if words := disagreement(destination, now):
        raise BackupError(f"{words}: nothing was forgotten", hint=SET_IT)
    source = states[found.layout].source
    if source is not None and not request.dry_run:
        note_forgotten(destination, found.layout, source, [line])
    return ForgetReport(
        dry_run=request.dry_run,
        repository=forgotten_row(found.layout, line, private=found.entry.private),
        is_listed=found.entry.absence is None,
        size_bytes=found.entry.chain_bytes,
        folders=tuple(_folders(destination, found)),
        left=tuple(sorted(one.name for one in everything if _belongs_to(one, found))),
    )


def forgotten_line(entry: Entry, *, snapshot_id: str, at: datetime, reason: str) -> ForgottenLine:
    """Make the line that has one repository forgotten.

    Args:
        entry: its newest entry.
        snapshot_id: an id that no other document has; all lines of one checkpoint share it.
        at: the time.
        reason: why.
    """
    return ForgottenLine(
        host_id=entry.host_id,
        kind=entry.kind,
        path=entry.path,
        aliases=entry.aliases,
        snapshot_id=snapshot_id,
        at=at,
        reason=reason,
    )


def forgotten_row(layout: Layout, line: ForgottenLine, *, private: bool = False) -> ForgottenRow:
    """Tell what was forgotten."""
    return ForgottenRow(
        owner=layout.prefix.rstrip("/"),
        path=line.path,
        host_id=line.host_id,
        kind=line.kind,
        at=line.at,
        reason=line.reason,
        private=private,
    )


def note_forgotten(
    destination: Destination, layout: Layout, source: SourceLine, lines: Sequence[ForgottenLine]
) -> None:
    """Write the checkpoint that has repositories forgotten, all by lines of one id."""
    line = lines[0]
    document = Manifest(
        format=1,
        document="checkpoint",
        snapshot_id=line.snapshot_id,
        started_at=line.at,
        finished_at=line.at,
        version=backup.__version__,
        source=source,
        complete=False,
        result="success",
        forgotten=tuple(lines),
        entries=(),
    )
    name = DocumentName.of_forgotten(line.snapshot_id)
    destination.put_if_absent(layout.document(name), encode(document))


def _folders(destination: Destination, found: Found) -> Iterable[str]:
    entry = found.entry
    for path in dict.fromkeys((entry.path, *entry.aliases)):
        folder = repository_folder(path=path, host_id=entry.host_id)
        yield destination.uri(found.layout.key(folder))


def _belongs_to(one: Found, found: Found) -> bool:
    """Tell whether something is the wiki of a repository, or the other way round."""
    is_same = (one.layout, one.entry.host_id) == (found.layout, found.entry.host_id)
    return is_same and one.entry.kind != found.entry.kind
