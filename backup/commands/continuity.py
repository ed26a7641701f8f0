"""Which manifests a prune left, so that the next one notices when one is missing.

What no manifest names is garbage only as long as no manifest is hidden. So a prune notes the
manifests that it leaves before it deletes any. The next one looks for each of them. While one is
missing that no prune has removed, nothing is deleted that it may have named: nothing that was
written before its run had to be over.

The first prune finds no note. What is older than the oldest manifest that it can read may belong to
manifests that it cannot see: that stays until a person says otherwise, whatever later prunes find.

Only the role that prunes may write these notes.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from backup.errors import DamagedDocument, ObjectNotFound, UnsupportedFormat
from backup.model import Destination, Key
from backup.vault.documents import encode
from backup.vault.documents_of_prune import Pruned
from backup.vault.inventory import Row, stamp, stamp_of
from backup.vault.layout import DocumentName, Layout, pruned_of, snapshot_time
from backup.vault.manifest import WINDOW, list_documents, load

BRING_BACK = (
    "bring it back (in a bucket with versions: remove its delete marker), or prune once with "
    "--accept-missing-index"
)
_BRING_BACK_FIRST = (
    "bring it back (in a bucket with versions: remove its delete marker); prune refuses, also with "
    "--accept-missing-index, before a run has published a manifest"
)


def way_back(has_index: bool) -> str:  # noqa: FBT001 - the one thing that it asks
    """Return what is done about a missing manifest.

    Args:
        has_index: whether another manifest can be read; prune deletes nothing where none can.
    """
    return BRING_BACK if has_index else _BRING_BACK_FIRST


@dataclass(frozen=True, slots=True)
class Continuity:
    """What is known of manifests that cannot be read.

    Attributes:
        documents: the notes that are there.
        damaged: those of them that cannot be read.
        missing: stems of manifests that are not there, though no prune removed them.
        spared_before: what is older stays, but for what `known` runs wrote.
        unknown_until: what is not younger stays: manifests that cannot be read may name it.
    """

    documents: tuple[Key, ...]
    damaged: tuple[Key, ...]
    missing: tuple[str, ...]
    spared_before: datetime | None
    known: frozenset[str]
    unknown_until: datetime | None

    def spares(self, snapshot_id: str) -> bool:
        """Return whether an object of a run stays, though nothing that can be read needs it."""
        time = stamp_of(snapshot_id)
        if self.unknown_until is not None and time <= stamp(self.unknown_until):
            return True
        if self.spared_before is None or snapshot_id in self.known:
            return False
        return time < stamp(self.spared_before)


def look_back(
    destination: Destination,
    layout: Layout,
    *,
    readable: Mapping[DocumentName, Row],
    damaged: Collection[DocumentName],
    grace: timedelta,
    is_accepted: bool,
) -> Continuity:
    """Find out which manifests are missing, and what has to stay for their sake.

    Args:
        destination: where the vault lies.
        layout: the owner's root.
        readable: the manifests that can be read.
        damaged: those that cannot.
        grace: no run takes longer.
        is_accepted: whether a person said that what is missing need not be waited for.

    Raises:
        DamagedDocument: no manifest can be read.
    """
    documents, notes, unreadable = _read_notes(destination, layout)
    newest = _newest(notes)
    missing: tuple[str, ...] = ()
    if not is_accepted:
        missing = _missing(notes, there={name.stem for name in (*readable, *damaged)})
    spared_before, known = _begin(readable, newest, grace=grace)
    unseen = [name.snapshot_id for name in damaged] + [_id_of(stem) for stem in missing]
    return Continuity(
        documents=documents,
        damaged=tuple(unreadable),
        missing=missing,
        spared_before=None if is_accepted else spared_before,
        known=known,
        unknown_until=max((_end_of(one, grace) for one in unseen), default=None),
    )


def _end_of(snapshot_id: str, grace: timedelta) -> datetime:
    """Return when a run was over for sure."""
    try:
        # An id may begin with a time that lies up to the window before its run.
        return snapshot_time(snapshot_id) + WINDOW + grace
    except OverflowError:
        return datetime.max.replace(tzinfo=UTC)


def missing_manifests(destination: Destination, layout: Layout) -> frozenset[str]:
    """Return the stems of manifests that are not there, though no prune removed them.

    Requests: a listing and the notes of prunes, mostly one; one more listing where there is one.
    """
    missing = _look_for_manifests(destination, layout)
    # A run or a prune may have been at work between the two looks.
    return missing and missing & _look_for_manifests(destination, layout)


def _look_for_manifests(destination: Destination, layout: Layout) -> frozenset[str]:
    try:
        _, notes, _ = _read_notes(destination, layout)
    except UnsupportedFormat:
        # What a newer version's prune deleted is not known: nothing is missed that it may have.
        return frozenset()
    if not notes:
        return frozenset()
    there = {name.stem for name in list_documents(destination, layout)}
    return frozenset(_missing(notes, there=there))


def _read_notes(
    destination: Destination, layout: Layout
) -> tuple[tuple[Key, ...], list[Pruned], list[Key]]:
    """Return the keys of all notes, those that can be read, and the keys of those that cannot."""
    notes: list[Pruned] = []
    unreadable: list[Key] = []
    folder = layout.folder("pruned")
    documents = tuple(one.key for one in destination.list(folder) if pruned_of(layout, one.key))
    for key in documents:
        try:
            notes.append(load(destination, key, Pruned))
        except DamagedDocument:
            unreadable.append(key)
        except ObjectNotFound:
            # Another prune has just put its own in the place of this one.
            continue
    return documents, notes, unreadable


def _newest(notes: Iterable[Pruned]) -> Pruned | None:
    return max(notes, key=lambda note: (note.at, note.snapshot_id), default=None)


def _missing(notes: Collection[Pruned], *, there: Collection[str]) -> tuple[str, ...]:
    newest = _newest(notes)
    if newest is None:
        return ()
    removed = {stem for note in notes for stem in note.removed}
    return tuple(sorted(set(newest.left).difference(there, removed)))


def _begin(
    readable: Mapping[DocumentName, Row], newest: Pruned | None, *, grace: timedelta
) -> tuple[datetime | None, frozenset[str]]:
    """Tell before which time nothing is known, and which runs of that time are known after all.

    These are runs that broke off, and whose checkpoints the oldest manifest took over. A run whose
    manifest it took over has one, which is missing.
    """
    if newest is not None:
        return newest.spared_before, frozenset(newest.known)
    # Somebody may have added one that claims to be older than all. In a copy all are late.
    in_time = {name: row for name, row in readable.items() if not _is_late(name, row, grace)}
    believed = in_time or readable
    if not believed:
        return None, frozenset()
    first = min(believed, key=lambda name: (stamp_of(name.snapshot_id), name.stem))
    merged = believed[first].merged
    ended = {_id_of(stem) for stem in merged if not _is_of_checkpoint(stem)}
    broken_off = {_id_of(stem) for stem in merged if _is_of_checkpoint(stem)} - ended
    oldest = stamp_of(first.snapshot_id)
    known = frozenset(one for one in broken_off if stamp_of(one) < oldest)
    return snapshot_time(oldest), known


def _is_late(name: DocumentName, row: Row, grace: timedelta) -> bool:
    """Return whether a manifest was stored later than the run of its id can have taken."""
    if row.stored_at is None:
        return False
    return row.stored_at - snapshot_time(name.snapshot_id) > WINDOW + grace


def _is_of_checkpoint(stem: str) -> bool:
    return stem.startswith("checkpoints/")


def _id_of(stem: str) -> str:
    return stem.partition("/")[2].partition(".")[0]


def write_note(
    destination: Destination,
    layout: Layout,
    continuity: Continuity,
    *,
    left: Iterable[str],
    removed: Iterable[str],
    snapshot_id: str,
    now: datetime,
) -> None:
    """Note which manifests stay, in place of the notes that are there.

    Args:
        destination: where the vault lies.
        layout: the owner's root.
        continuity: what was found.
        left: stems of the manifests that stay.
        removed: stems of those that are about to be deleted.
        snapshot_id: an id that no other document has.
        now: the time.

    Raises:
        DestinationError: it cannot be written; the old ones are as they were.
    """
    note = Pruned(
        format=1,
        document="pruned",
        snapshot_id=snapshot_id,
        at=now,
        # What is missing goes on being missed.
        left=tuple(sorted({*left, *continuity.missing})),
        removed=tuple(sorted(removed)),
        spared_before=continuity.spared_before,
        known=tuple(sorted(continuity.known)) if continuity.spared_before else (),
    )
    destination.put_if_absent(layout.pruned(snapshot_id), encode(note))
    destination.delete(continuity.documents)
