"""Reading every document of an owner, for prune."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from backup.commands.needing import capture_of
from backup.errors import DamagedDocument, IntegrityError, UnsupportedFormat
from backup.model import Destination, Key, StoredObject
from backup.order import in_order
from backup.retention import Snapshot
from backup.stopping import Stop
from backup.vault.clocks import is_misdated
from backup.vault.documents import ForgottenLine
from backup.vault.inventory import Coverage, Inventory, Row
from backup.vault.layout import DocumentName, Layout, snapshot_time
from backup.vault.manifest import WINDOW


@dataclass(frozen=True, slots=True)
class Survey:
    """The documents of an owner.

    Attributes:
        names: of all of them.
        stored: what the listing says of each, by its key.
        inventory: what they name.
        rows: those that can be read, by their names.
        damaged: those that cannot, and why; those of a newer format among them.
        misdated: those that a wrong clock has dated; they decide nothing.
        young: those that were written within the grace time.
        members: by `run_of` the names of the manifests of one run.
        runs: these together.
        run_by_stem: the run of each of their manifests.
    """

    names: Sequence[DocumentName]
    stored: Mapping[Key, StoredObject]
    inventory: Inventory
    rows: Mapping[DocumentName, Row]
    damaged: Mapping[DocumentName, IntegrityError]
    misdated: Sequence[DocumentName]
    young: frozenset[DocumentName]
    members: Mapping[str, Sequence[DocumentName]]
    runs: Mapping[str, Row]
    run_by_stem: Mapping[str, str]

    @property
    def manifests(self) -> dict[DocumentName, Row]:
        """Those that can be read, are manifests, and were dated by a clock that was not wrong."""
        misdated = set(self.misdated)
        return {name: row for name, row in self.all_manifests.items() if name not in misdated}

    @property
    def all_manifests(self) -> dict[DocumentName, Row]:
        """The same, and those that are misdated."""
        return {name: row for name, row in self.rows.items() if name.checkpoint is None}

    def damaged_ones(self, *, checkpoints: bool) -> list[DocumentName]:
        """Name the checkpoints, or the manifests, that cannot be read."""
        return [name for name in self.damaged if (name.checkpoint is not None) == checkpoints]

    def snapshot(self, run: str) -> Snapshot:
        """Return the manifests of one run as retention looks at them."""
        names = self.members[run]
        headers = [self.rows[name].header for name in names]
        shard = names[0].shard
        whole = shard is None or len(names) == shard[1]
        merged = (self.run_by_stem.get(stem, run) for stem in self.runs[run].merged)
        return Snapshot(
            id=run,
            finished_at=max(header.finished_at for header in headers),
            complete=whole and all(header.complete for header in headers),
            off_by=self.runs[run].off_by,
            merged=tuple(sorted({one for one in merged if one != run})),
        )

    def uncovered(self, names: Iterable[DocumentName]) -> list[Row]:
        """Choose the documents that no other one covers; in an honest history that is the newest.

        Args:
            names: of those that are looked at.
        """
        rows = [self.rows[name] for name in names if name in self.rows]
        rows = in_order(rows, lambda row: row.place)[::-1]
        coverage = Coverage(self.inventory, rows)
        found: list[Row] = []
        for row in rows:
            if not any(coverage.covers(other, row) for other in found):
                found.append(row)
        return found


def survey(
    destination: Destination,
    layout: Layout,
    names: Sequence[DocumentName],
    *,
    forgotten: Sequence[ForgottenLine],
    since: datetime,
    now: datetime,
    stop: Stop,
) -> Survey:
    """Read every manifest and checkpoint; of some only that they are damaged is found.

    Args:
        destination: where the vault lies.
        layout: the owner's root.
        names: what `list_documents` answered.
        forgotten: what documents say of these does not count, unless they knew that they were.
        since: the begin of the grace time.
        now: the time here, which is the store's as well.
        stop: ends it.

    Raises:
        ObjectNotFound: one was deleted meanwhile.
    """
    inventory = Inventory(
        destination,
        layout,
        forgotten=forgotten,
        capture_of=partial(capture_of, destination, layout),
    )
    stored = {
        one.key: one
        for folder in (layout.folder("snapshots"), layout.folder("checkpoints"))
        for one in destination.list(folder)
    }
    rows: dict[DocumentName, Row] = {}
    damaged: dict[DocumentName, IntegrityError] = {}
    for name in names:
        stop.check()
        try:
            rows[name] = inventory.read(name, stored.get(layout.document(name)))
        except (DamagedDocument, UnsupportedFormat) as error:
            damaged[name] = error
    young = {name for name, row in rows.items() if _written_at(row) >= since}
    # When a damaged one was written only its id tells: up to the window and a run after that.
    young |= {name for name in damaged if snapshot_time(name.snapshot_id) >= since - WINDOW}
    misdated: list[DocumentName] = []
    members: dict[str, list[DocumentName]] = {}
    for name, row in rows.items():
        if is_misdated(name, row.header, now=now):
            misdated.append(name)
        elif name.checkpoint is None:
            members.setdefault(run_of(name), []).append(name)
    runs = {one: inventory.together(rows[n] for n in some) for one, some in members.items()}
    return Survey(
        names=names,
        stored=stored,
        inventory=inventory,
        rows=rows,
        damaged=damaged,
        misdated=misdated,
        young=frozenset(young),
        members=members,
        runs=runs,
        run_by_stem={name.stem: run for run, some in members.items() for name in some},
    )


def run_of(name: DocumentName) -> str:
    """Return what names the run of a manifest: its id, and of shards the number of them.

    Whoever may add objects may add a shard to any run that there was. It must not change what the
    run's own manifest says, nor when that was.
    """
    return name.snapshot_id if name.shard is None else f"{name.snapshot_id} of {name.shard[1]}"


def _written_at(row: Row) -> datetime:
    """Return when a document was written: the later one of its own time and the store's."""
    return max(row.header.finished_at, row.stored_at or row.header.finished_at)
