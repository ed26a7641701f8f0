"""Accepting damage: of a repository that its source cannot give again, what is left is kept.

Damage of a current chain makes every run partial until a new full was taken. Where none can be, the
owner accepts it by a document that no run may write. It names the damaged objects: what is damaged
later is not accepted by it. Nothing is deleted, and no object becomes sound.
"""

from dataclasses import dataclass
from datetime import datetime

from backup.commands.clocks import SET_IT, disagreement
from backup.commands.drills import load_drill_state
from backup.commands.finding import Found, find_in_vault, require_roots, state_of_vault
from backup.commands.hidden import how_hidden
from backup.commands.known_damage import (
    is_out_of_reach,
    standing,
    what_follows,
    with_known_damage,
)
from backup.errors import BackupError, ConfigError
from backup.model import Destination
from backup.results import AcceptedRow, AcceptReport
from backup.vault.documents import Accepted, AcceptedLine, EntryDamage, encode
from backup.vault.layout import new_snapshot_id
from backup.vault.originals import OriginalsDestination


@dataclass(frozen=True, slots=True)
class AcceptRequest:
    """Whose damage is to be accepted.

    Attributes:
        repository: its present name, letter for letter, or its id.
        by: account and role of the caller, where known.
    """

    repository: str
    dry_run: bool = False
    by: str = ""


def accept_damage(
    destination: Destination, request: AcceptRequest, *, now: datetime
) -> AcceptReport:
    """Accept all damage that is known of one repository's current chain.

    Raises:
        ConfigError: no repository has this name, several have, or nothing that its newest state
            needs is damaged.
        IndexMissing: it may be of an owner whose manifests are gone.
        BackupError: one command brings back what is damaged, or this machine's clock is wrong.
        DestinationError: it could not be noted; nothing is accepted.
    """
    destination = OriginalsDestination(destination)
    states = {
        layout: state_of_vault(destination, layout, now=now)
        for layout in require_roots(destination)
    }
    found = find_in_vault(destination, states, request.repository)
    layout, entry = found.layout, found.entry
    drills = load_drill_state(destination, layout, now=now)
    entry = with_known_damage(destination, layout, {entry.identity: entry}, drills)[entry.identity]
    known = standing(entry)
    if not known.open and not known.accepted:
        raise ConfigError(
            f"REPOSITORY: nothing that {found.name}'s newest state needs is known to be damaged",
            hint="what only older snapshots need makes no run partial, and needs no accepting",
        )
    if words := disagreement(destination, now):
        raise BackupError(f"{words}: nothing was accepted", hint=SET_IT)
    for one in known.open:
        if command := how_hidden(destination, found.layout.key(one.key)):
            raise BackupError(
                f"{destination.uri(found.layout.key(one.key))} lies under a delete marker and is "
                "not lost: nothing was accepted",
                hint=f"show it again: {command}",
            )
    if known.open and not request.dry_run:
        document = Accepted(
            format=1,
            document="accepted",
            snapshot_id=new_snapshot_id(now),
            # The clock of a verification may have been some minutes ahead of this one.
            at=max((now, *(one.found_at for one in known.open))),
            by=request.by or None,
            host_id=entry.host_id,
            kind=entry.kind,
            path=entry.path,
            objects=tuple(AcceptedLine(key=one.key, problem=one.problem) for one in known.open),
        )
        destination.put_if_absent(layout.accepted(document.snapshot_id), encode(document))
    return AcceptReport(
        dry_run=request.dry_run,
        repository=found.name,
        host=found.host,
        host_id=entry.host_id,
        kind=entry.kind,
        accepted=tuple(_row(destination, found, one) for one in known.open),
        before=tuple(_row(destination, found, one) for one in known.accepted),
        is_within_reach=not is_out_of_reach(entry),
        what_follows=what_follows(entry, (*known.open, *known.accepted)),
    )


def _row(destination: Destination, found: Found, one: EntryDamage) -> AcceptedRow:
    return AcceptedRow(destination.uri(found.layout.key(one.key)), one.problem)
