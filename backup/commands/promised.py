"""What a root's manifests promise, as verify looks at it: repositories, and the records of each."""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime

from backup.commands.finding import forgotten_in_vault, state_of_vault
from backup.errors import (
    BackupError,
    DamagedDocument,
    ManifestDamaged,
    ObjectNotFound,
    UnsupportedFormat,
)
from backup.model import Destination
from backup.results import Damage
from backup.stopping import Stop
from backup.vault.documents import Entry, EntryDamage, ForgottenLine
from backup.vault.layout import DocumentName, Layout
from backup.vault.manifest import (
    Identity,
    State,
    list_documents,
    load_manifest,
    unknown_to,
)


@dataclass(slots=True)
class Promised:
    """One repository as the manifests have it.

    Attributes:
        name: host, owner and path, as its newest entry has it.
        snapshots: for each record that a manifest names, the snapshots that do; the oldest first.
        newest: the record of its newest entry, by the rule that every command goes by.
        versions: for each of these records the version that was written, where it is known.
        damaged: the damage that its newest entry names.
    """

    identity: Identity
    name: str = ""
    private: bool = False
    unproven: bool = False
    chain_bytes: int = 0
    newest: str = ""
    snapshots: dict[str, list[str]] = field(default_factory=dict)
    versions: dict[str, str | None] = field(default_factory=dict)
    damaged: tuple[EntryDamage, ...] = ()

    def take_newest(self, entry: Entry, layout: Layout) -> None:
        """Take an entry for the newest one."""
        if entry.record is None:
            return
        self.name = f"{layout.prefix}{entry.path}"
        self.private = entry.private
        self.unproven, self.chain_bytes = entry.unproven, entry.chain_bytes
        self.newest = entry.record
        self.damaged = entry.damaged


@dataclass(slots=True)
class Promises:
    """All that the manifests of a root promise.

    Attributes:
        repositories: by name.
        damaged: documents that cannot be read.
        newer: why others cannot: a newer version of this program wrote them.
        has_index: whether a manifest could be read.
        state: the newest, as every command has it; None where a document keeps it from being known.
        stopped_by: what every command ends with then, runs included.
    """

    repositories: list[Promised] = field(default_factory=list)
    damaged: list[Damage] = field(default_factory=list)
    newer: list[str] = field(default_factory=list)
    has_index: bool = False
    state: State | None = None
    stopped_by: BackupError | None = None


def read_promises(
    destination: Destination, layout: Layout, *, now: datetime, stop: Stop
) -> Promises:
    """Read every manifest and checkpoint; one that is damaged is damage of its own.

    One that a newer version wrote is none: it is named, and what it may promise is not known.
    Which entry of a repository is the newest says the reader that every command uses. Where it
    cannot say that, the last document in the order of the ids has it.
    """
    made = Promises()
    # Read before the documents are listed: what it names is in one of them.
    try:
        made.state = state_of_vault(destination, layout, now=now)
    except (DamagedDocument, ObjectNotFound) as stopped_by:
        # Named below.
        made.state, made.stopped_by = None, stopped_by
    found: dict[Identity, Promised] = {}
    forgotten, unreadable = forgotten_in_vault(destination, layout)
    for name, error in unreadable:
        if isinstance(error, UnsupportedFormat):
            made.newer.append(error.message)
            continue
        uri = destination.uri(layout.document(name))
        problem = "it is damaged: the repositories that it names are not forgotten"
        made.damaged.append(Damage(uri, problem, (), ()))
    for name in list_documents(destination, layout):
        if name.is_forgotten:
            continue
        # Runs go on from a checkpoint, and prune keeps what it names, as they do by a manifest.
        stop.check()
        for entry in _stored_by(destination, layout, name, forgotten, made):
            if entry.record is None:
                continue
            one = found.setdefault(entry.identity, Promised(entry.identity))
            one.take_newest(entry, layout)
            one.snapshots.setdefault(entry.record, []).append(name.snapshot_id)
            one.versions[entry.record] = entry.record_version_id
            for pin in entry.pins:
                # prune needs it, also when the snapshot that it is of is gone.
                of = one.snapshots.setdefault(pin.record, [])
                of += [] if name.snapshot_id in of else [name.snapshot_id]
                one.versions.setdefault(pin.record, None)
    for identity, entry in ({} if made.state is None else made.state.entries).items():
        known = found.get(identity)
        if known is not None and entry.record in known.snapshots:
            known.take_newest(entry, layout)
    made.repositories = sorted(found.values(), key=lambda one: one.name)
    return made


def _stored_by(
    destination: Destination,
    layout: Layout,
    name: DocumentName,
    forgotten: tuple[ForgottenLine, ...],
    made: Promises,
) -> Iterator[Entry]:
    """Read all of a manifest, as the most demanding command does; one at a time is held."""
    try:
        manifest = load_manifest(destination, layout, name)
    except UnsupportedFormat as error:
        made.newer.append(error.message)
        return
    except (DamagedDocument, ObjectNotFound) as error:
        damage = Damage(
            destination.uri(layout.document(name)), error.message, (), (name.snapshot_id,)
        )
        stopped_by = made.stopped_by
        if isinstance(stopped_by, ManifestDamaged) and stopped_by.stem == name.stem:
            damage = replace(damage, fix=f"no run goes on from it: {stopped_by.hint}")
        made.damaged.append(damage)
        return
    made.has_index = made.has_index or name.checkpoint is None
    dropped = unknown_to(manifest.forgotten, forgotten)
    yield from (entry for entry in manifest.entries if entry.identity not in dropped)
