"""What a vault had of an owner as of a time or a snapshot, though some manifests are damaged.

Each manifest states every repository, and names the documents that it has merged. So one that is
damaged costs what it alone knows, and nothing else: what a later one has merged of it is there.
Never is an older state given for one that cannot be read.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime

from backup.commands.finding import (
    Found,
    Snapshot,
    entries_of,
    forgotten_in_vault,
    parse_moment,
    snapshots,
    state_of_vault,
)
from backup.errors import IntegrityError, ManifestDamaged, ObjectNotFound, UnsupportedFormat
from backup.model import Destination
from backup.vault.clocks import is_dated_after_object
from backup.vault.documents import Entry, ForgottenLine, Manifest, SourceLine
from backup.vault.documents_of_listings import UnreadableLine
from backup.vault.layout import DocumentName, Layout, is_snapshot_id
from backup.vault.manifest import (
    WINDOW,
    Identity,
    list_documents,
    load_manifest,
    needed,
    unknown_to,
)


@dataclass(frozen=True, slots=True)
class Contents:
    """What a vault had of an owner as of a time or snapshot.

    Attributes:
        entries: of every repository of which that can be told.
        source: what it was a backup of; None where there was none yet.
        unreadable: what the newest listing until then had that no entry could be made of.
        undecided: repositories whose entry may be in a damaged manifest, as they were seen
            afterwards; they are not among the entries.
        doubt: what is wrong with that manifest.
    """

    entries: tuple[Found, ...] = ()
    source: SourceLine | None = None
    unreadable: tuple[UnreadableLine, ...] = ()
    undecided: tuple[Found, ...] = ()
    doubt: IntegrityError | None = None


def contents_at(
    destination: Destination, layout: Layout, at: str | None, *, now: datetime
) -> Contents:
    """Return what a vault has of an owner as of a time or snapshot.

    Args:
        destination: where the vault lies.
        layout: the owner's root.
        at: a snapshot id, a date or time, ``latest`` or None; for a time, each repository's last
            state that was seen at or before it.
        now: the time.

    Raises:
        ManifestDamaged: what would decide cannot be read; never an older state instead.
        UnsupportedFormat: the same, where a newer version wrote it.
    """
    if at is None or at == "latest":
        state = state_of_vault(destination, layout, now=now)
        return Contents(tuple(entries_of(layout, state)), state.source, state.unreadable)
    moment = None if is_snapshot_id(at) else parse_moment(at)
    # What is damaged of it must not keep anything from coming back.
    forgotten, _ = forgotten_in_vault(destination, layout)
    if moment is None:
        return _of_snapshot(destination, layout, at, forgotten)
    return _of_moment(_past_of(destination, layout, moment), forgotten)


def has_snapshot(destination: Destination, layout: Layout, at: str | None) -> bool:
    """Return whether an owner has a sound snapshot with an id, or one of a time or before."""
    if at is None or at == "latest":
        return True
    if is_snapshot_id(at):
        return bool(_manifests_of(list_documents(destination, layout), at))
    return bool(_past_of(destination, layout, parse_moment(at)).begun)


def _of_snapshot(
    destination: Destination,
    layout: Layout,
    snapshot_id: str,
    forgotten: Sequence[ForgottenLine],
) -> Contents:
    found: dict[Identity, Found] = {}
    source: SourceLine | None = None
    unreadable: list[UnreadableLine] = []
    for name in _manifests_of(list_documents(destination, layout), snapshot_id):
        with needed(destination, layout, name):
            manifest = load_manifest(destination, layout, name)
        source = manifest.source
        unreadable += manifest.unreadable
        dropped = unknown_to(manifest.forgotten, forgotten)
        for entry in manifest.entries:
            known = found.get(entry.identity)
            is_older = known is not None and not _is_checked_later(entry, known.entry)
            if entry.identity in dropped or is_older:
                continue
            maker = entry.carried_from or manifest.snapshot_id
            stamped = entry.model_copy(update={"carried_from": maker})
            found[entry.identity] = Found(layout, source.host, source.owner, stamped)
    return Contents(tuple(found.values()), source, tuple(unreadable))


def _manifests_of(names: Iterable[DocumentName], snapshot_id: str) -> list[DocumentName]:
    """Choose the manifests of one run: the whole one, or else the shards.

    Whoever may add objects may add a shard to any run that there was. It must not change what is
    given back: the whole manifest is not mixed with it, nor are shards of two numbers, of which
    those count that were stored first.
    """
    sets: dict[int, list[DocumentName]] = {}
    for name in names:
        if name.checkpoint is None and name.snapshot_id == snapshot_id:
            sets.setdefault(0 if name.shard is None else name.shard[1], []).append(name)

    def order(count: int) -> tuple[bool, datetime, int]:
        times = [one.stored_at for one in sets[count] if one.stored_at is not None]
        return count != 0, min(times, default=datetime.max.replace(tzinfo=UTC)), -count

    return sets[min(sets, key=order)] if sets else []


def _is_checked_later(entry: Entry, than: Entry) -> bool:
    if entry.checked_at is None or than.checked_at is None:
        return than.checked_at is None
    return entry.checked_at > than.checked_at


@dataclass(slots=True)
class _Past:
    """The snapshots of an owner, parted by a moment, and those that cannot be read.

    Attributes:
        begun: those that had begun by the moment, in their order, the oldest first; what is
            misdated comes before all others, as if it were the oldest.
        later: those that began after it, in their order.
        damaged: what may have begun by the moment and cannot be read, with the reason.
        known_from: for each damaged one the place in ``begun`` of the first that comes after it.
    """

    destination: Destination
    layout: Layout
    moment: datetime
    begun: list[Snapshot]
    later: list[Snapshot]
    damaged: dict[DocumentName, IntegrityError] = field(default_factory=dict)
    known_from: dict[DocumentName, int] = field(default_factory=dict)

    def add_damaged(self, name: DocumentName, error: IntegrityError) -> None:
        """Note what cannot be read, and which snapshots are certainly later."""
        self.damaged[name] = error
        self.known_from[name] = next(
            (
                place
                for place, one in enumerate(self.begun)
                if not one.is_misdated and _is_after(one, name)
            ),
            len(self.begun),
        )

    def doubt(self, place: int, *, of_some: bool) -> IntegrityError | None:
        """Return what keeps a snapshot from being the newest that is left; None where nothing does.

        Args:
            place: of the snapshot in ``begun``; -1 for what is before the first.
            of_some: whether some repositories alone are still looked for.
        """
        # One at that place or before it that comes after the damaged one is between the two.
        doubtful = [name for name in self.damaged if self.known_from[name] > place]
        if not doubtful:
            return None
        name = max(doubtful, key=lambda one: (one.time, one.stem))
        error = self.damaged[name]
        why = f"what was seen of it by {self.moment:%Y-%m-%d %H:%M:%S} UTC may be in a manifest "
        message = f"{why}that cannot be read: {error.message}" if of_some else error.message
        if isinstance(error, UnsupportedFormat):
            return UnsupportedFormat(message, hint=error.hint)
        before, after = self._beside(name)
        return ManifestDamaged(message, stem=name.stem, before=before, after=after)

    def load(self, one: Snapshot) -> Manifest | None:
        """Read a manifest of which the head was read; None, and noted, where the rest cannot be."""
        try:
            return load_manifest(self.destination, self.layout, one.name)
        except IntegrityError as error:
            self.add_damaged(one.name, error)
            return None

    def _beside(self, damaged: DocumentName) -> tuple[str, str]:
        """Name the newest that can be read and was begun by the moment, and one after it.

        Where the newest began after the damaged one it is itself the one after: what was before
        the damaged one is older than what is asked for.
        """
        before = [one for one in self.begun if one.name.time <= damaged.time]
        after = [one for one in self.begun if one.name.time > damaged.time]
        return (
            self._first_whole(reversed(before)),
            self._first_whole(reversed(after)) or self._first_whole(self.later),
        )

    def _first_whole(self, candidates: Iterable[Snapshot]) -> str:
        """Return the id of the first snapshot of which every manifest can be read, or nothing."""
        broken = {name.snapshot_id for name in self.damaged}
        for one in candidates:
            if one.name.snapshot_id in broken:
                continue
            try:
                load_manifest(self.destination, self.layout, one.name)
            except (IntegrityError, ObjectNotFound):
                broken.add(one.name.snapshot_id)
                continue
            return one.name.snapshot_id
        return ""


def _is_after(one: Snapshot, damaged: DocumentName) -> bool:
    """Return whether a snapshot has all that a damaged one had, as far as that is known.

    It has merged it, or began so much later that no run can have been beside both. What a wrong
    clock has dated decides nothing, as where it can be read.
    """
    return (
        damaged.stem in one.header.merged
        or damaged.time < one.name.time - WINDOW
        or is_dated_after_object(damaged)
    )


def _past_of(destination: Destination, layout: Layout, moment: datetime) -> _Past:
    unreadable: list[tuple[DocumentName, IntegrityError]] = []
    found = snapshots(destination, layout, unreadable=unreadable)
    # What is misdated is asked last, as if it were the oldest.
    begun = [one for one in found if one.header.started_at <= moment]
    begun.sort(key=lambda one: not one.is_misdated)
    later = [one for one in found if one.header.started_at > moment]
    past = _Past(destination, layout, moment, begun, later)
    for name, error in unreadable:
        # Chosen against where it is of a later time: what was before it is asked for.
        if name.time <= moment:
            past.add_damaged(name, error)
    return past


def _of_moment(past: _Past, forgotten: Sequence[ForgottenLine]) -> Contents:
    """Take for each repository the newest entry that was checked at or before the moment.

    The newest manifest begun by then has nearly all; for what it saw later, older ones are read.
    Where one that cannot be read may be newer than the next of these, nothing more is decided.
    """
    found: dict[Identity, Found] = {}
    newest: Manifest | None = None
    too_new: Mapping[Identity, Found] | None = None
    doubt: IntegrityError | None = None
    for place in reversed(range(-1, len(past.begun))):
        doubt = past.doubt(place, of_some=too_new is not None)
        if doubt is not None or place < 0:
            break
        manifest = past.load(past.begun[place])
        if manifest is None:
            continue
        source = manifest.source
        newest = newest or manifest
        dropped = unknown_to(manifest.forgotten, forgotten)
        seen_later: dict[Identity, Found] = {}
        for entry in manifest.entries:
            if entry.identity in found or entry.identity in dropped:
                continue
            if too_new is not None and entry.identity not in too_new:
                continue
            maker = entry.carried_from or manifest.snapshot_id
            stamped = entry.model_copy(update={"carried_from": maker})
            one = Found(past.layout, source.host, source.owner, stamped)
            if entry.checked_at is not None and entry.checked_at > past.moment:
                seen_later[entry.identity] = one
            else:
                found[entry.identity] = one
        if past.begun[place].name.shard is None:
            # A whole manifest names every repository; a shard's says nothing of the others.
            too_new = seen_later
            if not too_new:
                break
    if doubt is not None and too_new is None:
        raise doubt
    if newest is None:
        return Contents()
    undecided = () if doubt is None or too_new is None else tuple(too_new.values())
    return Contents(tuple(found.values()), newest.source, newest.unreadable, undecided, doubt)
