"""Finding and merging manifests and checkpoints: what the vault knows of every repository.

A manifest states every repository that its owner had or has, those of runs before it included, and
names the documents that it merged. So the newest one is nearly all there is to read; what ran
beside it or after it is found by listing and merged per repository.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TypeVar

from backup.errors import (
    ConfigError,
    DamagedDocument,
    DestinationError,
    IntegrityError,
    ManifestDamaged,
    ObjectNotFound,
    UnsupportedFormat,
)
from backup.model import Destination, Key, Kind, LeftOut, ObjectId, Refs, SourceIdentity
from backup.order import Place, in_order
from backup.vault.clocks import MOST_SKEW, is_dated_after_object, is_misdated, is_suspect
from backup.vault.documents import (
    Entry,
    ForgottenLine,
    Header,
    Manifest,
    PinLine,
    Record,
    SourceLine,
    decode,
    refs_digest,
)
from backup.vault.documents_of_exports import ExportLine
from backup.vault.documents_of_listings import UnreadableLine
from backup.vault.fields import Count, Flag, Many, Name, Part, Path, RecordKey, Stem
from backup.vault.layout import (
    DOCUMENT_FOLDERS,
    DocumentName,
    Layout,
    folder,
    snapshot_of,
    snapshot_time,
)
from backup.vault.packing import MAX_STORED_BYTES

T = TypeVar("T", bound=Part)
R = TypeVar("R")
Identity = tuple[Kind, str]

# Longer than the longest job: beyond it no run can still be under way beside another.
WINDOW = timedelta(days=7)
_NEVER = datetime.min.replace(tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class State:
    """What the vault knows of one owner.

    Attributes:
        entries: the newest entry of every repository.
        merged: the documents behind them, by stem, as far back as runs can overlap.
        newest: the newest manifest, by `backup.order`; None in a new vault.
        made_of: stems of the documents that these entries are of, and of the newest manifest.
        source: what the root is a backup of; known from a checkpoint, too.
        forgotten: repositories that the vault was told to forget, as often as it was.
        misdated: stems of documents that a wrong clock has dated; they decide nothing.
        unreadable: what the newest listing had that no entry can be made of.
        left_aside: what keeps each checkpoint and misdated manifest from being read that was left
            aside: it is damaged, or of a newer format.
    """

    entries: Mapping[Identity, Entry] = field(default_factory=dict)
    merged: tuple[str, ...] = ()
    newest: Manifest | None = None
    made_of: frozenset[str] = frozenset()
    source: SourceLine | None = None
    accepted: int | None = None
    vault_checked_at: datetime | None = None
    forgotten: tuple[ForgottenLine, ...] = ()
    misdated: tuple[str, ...] = ()
    unreadable: tuple[UnreadableLine, ...] = ()
    left_aside: tuple[str, ...] = ()


def roots(destination: Destination) -> tuple[Layout, ...]:
    """Find every owner that a destination holds; one listing a level, two where it has versions.

    A root whose documents are gone is one by the objects of its repositories, and a root that lies
    under delete markers by what they hide. A folder of another program is none, whatever its name.
    """
    places = (
        Layout(folder(host, owner))
        for host in destination.children("", hidden=True)
        for owner in destination.children(folder(host), hidden=True)
    )
    return tuple(layout for layout in places if _is_root(destination, layout))


def _is_root(destination: Destination, layout: Layout) -> bool:
    found = destination.children(layout.prefix, hidden=True)
    if not DOCUMENT_FOLDERS.isdisjoint(found):
        return True
    return any(
        layout.is_object(key)
        for prefix in layout.object_folders(found)
        for key in stored_keys(destination, prefix)
    )


def stored_keys(destination: Destination, prefix: str) -> Iterator[Key]:
    """Yield the keys below prefix, and behind them those that lie under delete markers."""
    yield from (stored.key for stored in destination.list(prefix))
    try:
        yield from (one.key for one in destination.versions(prefix) if one.is_hidden)
    except DestinationError as error:
        if error.retryable:
            raise


def list_documents(destination: Destination, layout: Layout) -> tuple[DocumentName, ...]:
    """List manifests and checkpoints, oldest id first.

    Where every one of them is dated after its object, it is the objects' times that are wrong (a
    file system that keeps local time, or another clock): they are left out.
    """
    names = [
        replace(name, stored_at=stored.stored_at)
        for kind in ("snapshots", "checkpoints")
        for stored in destination.list(layout.folder(kind))
        if (name := layout.parse_document(stored.key)) is not None
    ]
    if names and all(is_dated_after_object(name) for name in names):
        names = [replace(name, stored_at=None) for name in names]
    return tuple(sorted(names, key=lambda name: (name.snapshot_id, name.stem)))


def with_documents(
    destination: Destination, layout: Layout, use: Callable[[tuple[DocumentName, ...]], R]
) -> R:
    """List manifests and checkpoints and use them; again when one is deleted meanwhile.

    Raises:
        ObjectNotFound: what is listed is not there, and not because somebody prunes.
    """
    names = list_documents(destination, layout)
    while True:
        try:
            return use(names)
        except ObjectNotFound:
            before, names = names, list_documents(destination, layout)
            if set(before) <= set(names):
                raise


def load(
    destination: Destination,
    key: Key,
    kind: type[T],
    *,
    version: str | None = None,
    sha256: str | None = None,
) -> T:
    """Read one document, and see that it is the one that was recorded, as far as that is known.

    Raises:
        ObjectNotFound: it is not there.
        DamagedDocument: it is not what was written.
    """
    where = destination.uri(key)
    with destination.open(key, version=version) as reader:
        data = reader.read(MAX_STORED_BYTES + 1)
    if len(data) > MAX_STORED_BYTES:
        raise DamagedDocument(f"{where} is damaged: it has more than {MAX_STORED_BYTES} bytes")
    return decode(data, kind, where=where, sha256=sha256)


def load_manifest(destination: Destination, layout: Layout, name: DocumentName) -> Manifest:
    """Read one manifest or checkpoint; raises as `load` does, also where it is another one."""
    return _load_own(destination, layout, name, Manifest)


@contextmanager
def needed(destination: Destination, layout: Layout, name: DocumentName) -> Iterator[None]:
    """Read a manifest that nothing replaces; where it is damaged, look for those around it.

    Raises:
        ManifestDamaged: it is.
    """
    try:
        yield
    except DamagedDocument as error:
        before, after = _sound_around(destination, layout, name)
        raise ManifestDamaged(error.message, stem=name.stem, before=before, after=after) from error


def _sound_around(
    destination: Destination, layout: Layout, damaged: DocumentName
) -> tuple[str, str]:
    """Return the ids of the snapshots next to a damaged one that can be read; empty if none can."""
    parts: dict[str, list[DocumentName]] = {}
    for name in list_documents(destination, layout):
        if name.checkpoint is None and name.snapshot_id != damaged.snapshot_id:
            parts.setdefault(name.snapshot_id, []).append(name)
    # The ids of one second have no order.
    before = [one for one in parts if snapshot_time(one) <= damaged.time]
    after = [one for one in parts if snapshot_time(one) > damaged.time]

    def first_sound(ids: Iterable[str]) -> str:
        for snapshot_id in ids:
            try:
                for name in parts[snapshot_id]:
                    load_manifest(destination, layout, name)
            except (IntegrityError, ObjectNotFound):
                continue
            return snapshot_id
        return ""

    return first_sound(sorted(before, reverse=True)), first_sound(sorted(after))


H = TypeVar("H", bound=Header)


def _load_own(destination: Destination, layout: Layout, name: DocumentName, kind: type[H]) -> H:
    """Read a document as far as is asked for, if it is the one that its name says."""
    found = load(destination, layout.document(name), kind)
    meant = "manifest" if name.checkpoint is None else "checkpoint"
    if (found.snapshot_id, found.document) != (name.snapshot_id, meant):
        where = destination.uri(layout.document(name))
        raise DamagedDocument(
            f"{where} is damaged: it is the {found.document} of {found.snapshot_id}"
        )
    return found


def load_header(destination: Destination, layout: Layout, name: DocumentName) -> "Head":
    """Read what stands at the head of a manifest, not its entries; small whatever the owner."""
    return _load_own(destination, layout, name, Head)


def load_record(
    destination: Destination, layout: Layout, key: str, *, version: str | None = None
) -> Record:
    """Read one record, as the version that was written where that is known.

    Raises:
        ObjectNotFound: it is not there.
        DamagedDocument: it is not what was written: it is of another run, or its refs are not those
            that its digest is of.
    """
    record = load(destination, layout.key(key), Record, version=version)
    where = destination.uri(layout.key(key))
    if record.snapshot_id != snapshot_of(key):
        raise DamagedDocument(f"{where} is damaged: it is the record of {record.snapshot_id}")
    if _digest_of(record) != record.digest:
        raise DamagedDocument(f"{where} is damaged: its refs are not those of its digest")
    return record


def _digest_of(record: Record) -> str:
    """Hash the refs that a record has, as `refs_digest` hashed the listing that it was made of."""
    return refs_digest(
        Refs(
            tips=record.tips(),
            head_symref=record.head.symref_name,
            head_id=None if record.head.id is None else ObjectId(record.head.id),
            object_format=record.object_format,
            left_out=tuple(
                LeftOut(line.ref_name, line.id, line.reason) for line in record.left_out
            ),
        )
    )


class Head(Header, extra="ignore"):
    """The head and what its place in the order depends on, so that hundreds fit in memory."""

    merged: tuple[Stem, ...] = ()


class Stored(Part, extra="ignore"):
    """What of a repository a manifest says is stored, and nothing else of it."""

    host_id: Name
    path: Path
    kind: Kind = "code"
    private: Flag = False
    record: RecordKey | None = None
    record_version_id: str | None = None
    unproven: Flag = False
    chain_bytes: Count = 0
    pins: tuple[PinLine, ...] = ()
    export: ExportLine | None = None

    @property
    def identity(self) -> Identity:
        """What stays the same when the repository is renamed."""
        return self.kind, self.host_id


class Contents(Header, extra="ignore"):
    """What a manifest or checkpoint says is stored; a fifth of the memory of all of it."""

    entries: Many[Stored]
    merged: tuple[Stem, ...] = ()
    forgotten: tuple[ForgottenLine, ...] = ()


def load_contents(destination: Destination, layout: Layout, name: DocumentName) -> Contents:
    """Read what a manifest or checkpoint says is stored."""
    return _load_own(destination, layout, name, Contents)


def load_forgotten(
    destination: Destination,
    layout: Layout,
    names: Iterable[DocumentName],
    *,
    unreadable: list[tuple[DocumentName, IntegrityError]] | None = None,
) -> tuple[ForgottenLine, ...]:
    """Read what the vault was told to forget, from where no run can have written it.

    Args:
        destination: where the vault lies.
        layout: the owner's root.
        names: what `list_documents` answered.
        unreadable: takes up what cannot be read, and why, for those who can do without; None has
            it raised.

    Raises:
        DamagedDocument: it cannot be read.
        UnsupportedFormat: a newer version wrote it.
    """
    lines: list[ForgottenLine] = []
    for name in names:
        if not name.is_forgotten:
            continue
        try:
            lines += load_manifest(destination, layout, name).forgotten
        except (DamagedDocument, UnsupportedFormat) as error:
            if unreadable is None:
                raise
            unreadable.append((name, error))
    return tuple(lines)


def unknown_to(
    known: Iterable[ForgottenLine], forgotten: Iterable[ForgottenLine]
) -> frozenset[Identity]:
    """Tell which repositories were forgotten without a document's knowledge.

    What such a document says of them does not count; what one says that knew counts again: there
    the repository was captured anew. No clock is asked.

    Args:
        known: the lines that the document has.
        forgotten: the lines of all documents.
    """
    there = {(line.identity, line.snapshot_id) for line in known}
    return frozenset(
        line.identity for line in forgotten if (line.identity, line.snapshot_id) not in there
    )


def load_state(
    destination: Destination, layout: Layout, names: Sequence[DocumentName], *, now: datetime
) -> State:
    """Find what the vault knows; as a rule by one read.

    Args:
        destination: where the vault lies.
        layout: the owner's root.
        names: what `list_documents` answered.
        now: the time here; see `backup.vault.clocks.is_misdated`.

    Raises:
        DamagedDocument: a manifest that counts cannot be read; never a smaller state instead.
        DestinationError: the same, for a destination that does not answer.
    """
    aside = _LeftAside(destination, layout, now)
    believed = [name for name in names if not aside.takes_by_name(name)]
    manifests = [*_newest_manifests(aside, believed)]
    checkpoints = [*_open_checkpoints(aside, believed, manifests)]
    misdated = aside.newest_first()
    ordered = in_order(manifests, _place)
    newest = ordered[-1][1] if ordered else None
    # The id of a run that was merged may be the greater one: its clock was ahead.
    covered = _covered(ordered)
    counted = [pair for pair in manifests if pair[0].stem not in covered]
    # Of entries that were checked at one time the one written last knows more.
    loaded = in_order([*counted, *checkpoints], _place)[::-1]
    # What was forgotten stays so, whatever the clock.
    telling = [*loaded, *(pair for pair in misdated if pair[0].is_forgotten)]
    lines = [line for _, document in telling for line in document.forgotten]
    forgotten = {(line.identity, line.snapshot_id): line for line in lines}
    known = [(name.stem, entry) for name, m in loaded for entry in _stamped(m, forgotten.values())]
    entries = merge(entry for _, entry in known)
    since = now - WINDOW
    recent = {stem for _, m in loaded for stem in m.merged if _time_of_stem(stem) >= since}
    recent.update(name.stem for name, _ in loaded)
    return State(
        # What is misdated counts only for a repository that no other document knows.
        entries=merge(
            _timeless(entry) for _, m in misdated for entry in _stamped(m, forgotten.values())
        )
        | entries,
        merged=tuple(sorted(recent)),
        newest=newest,
        made_of=frozenset(stem for stem, entry in known if entries[entry.identity] is entry)
        | {name.stem for name, _ in ordered[-1:]},
        source=_source_of(newest, (*loaded, *misdated)),
        accepted=None if newest is None else newest.accepted,
        vault_checked_at=None if newest is None else newest.vault_checked_at,
        forgotten=tuple(sorted(forgotten.values(), key=lambda line: (line.at, line.path))),
        misdated=tuple(sorted(name.stem for name in aside.names)),
        unreadable=_listed_last(newest, loaded),
        left_aside=tuple(aside.unreadable),
    )


def _place(pair: tuple[DocumentName, Manifest]) -> Place:
    name, document = pair
    return Place((name.stem,), document.merged, document.finished_at)


def _covered(ordered: Sequence[tuple[DocumentName, Manifest]]) -> frozenset[str]:
    """Return the stems of the manifests that a later whole one has merged.

    None is left out for the sake of one that is not later: of some that name each other in a
    circle, or themselves, nothing would be left.

    Args:
        ordered: the oldest first.
    """
    merged: set[str] = set()
    covered: set[str] = set()
    for name, manifest in reversed(ordered):
        if name.stem in merged:
            covered.add(name.stem)
        if manifest.shard is None:
            merged.update(manifest.merged)
    return frozenset(covered)


def _source_of(
    newest: Manifest | None, others: Iterable[tuple[DocumentName, Manifest]]
) -> SourceLine | None:
    if newest is not None:
        return newest.source
    return next((document.source for _, document in others), None)


def _listed_last(
    newest: Manifest | None, others: Iterable[tuple[DocumentName, Manifest]]
) -> tuple[UnreadableLine, ...]:
    """Return what could not be read of the last listing; a document of forget has none."""
    if newest is not None:
        return newest.unreadable
    listings = (document.unreadable for name, document in others if not name.is_forgotten)
    return next(listings, ())


def merge(entries: Iterable[Entry]) -> dict[Identity, Entry]:
    """Take for each repository the entry that was checked last; of equals the first."""
    found: dict[Identity, Entry] = {}
    for entry in entries:
        known = found.get(entry.identity)
        if known is None or newer(entry, known):
            found[entry.identity] = entry
    return found


def _stamped(manifest: Manifest, forgotten: Iterable[ForgottenLine]) -> Iterator[Entry]:
    dropped = unknown_to(manifest.forgotten, forgotten)
    for entry in manifest.entries:
        if entry.identity in dropped:
            continue
        if entry.carried_from is None:
            yield entry.model_copy(update={"carried_from": manifest.snapshot_id})
        else:
            yield entry


def _timeless(entry: Entry) -> Entry:
    # Its times would win against everything for as long as its clock was wrong. What was not listed
    # is asked for again.
    return entry.model_copy(update={"checked_at": None, "attempted_at": None, "absence": None})


def newer(entry: Entry, other: Entry) -> bool:
    """Tell whether entry was checked later than the other; a never checked one never was."""
    return (entry.checked_at or _NEVER) > (other.checked_at or _NEVER)


def require_findable(snapshot_id: str, names: Iterable[DocumentName], *, now: datetime) -> None:
    """Refuse an id under which readers would not look for a run's manifest.

    Raises:
        ConfigError: its time has not come, or lies more than the window before other runs.
    """
    time = snapshot_time(snapshot_id)
    newest = max((name.time for name in names if not is_suspect(name, now=now)), default=time)
    if newest - WINDOW < time <= now + MOST_SKEW:
        return
    raise ConfigError(
        f"--snapshot-id: {snapshot_id!r} is not accepted: give one that begins with a time between "
        f"{WINDOW.days} days before the newest snapshot and now"
    )


def require_same_source(state: State, identity: SourceIdentity) -> None:
    """Refuse to mix two sources in one root.

    Raises:
        ConfigError: the root is a backup of something else.
    """
    if state.source is None or state.source.location == identity.location:
        return
    recorded = state.source.location
    raise ConfigError(
        f"--owner: {identity.owner!r} in this vault is a backup of {recorded}, "
        f"not of {identity.location}",
        hint="give another name with --owner, or another vault with --to",
    )


@dataclass(slots=True)
class _LeftAside:
    """Documents that decide nothing, or cannot be read and can be done without.

    Attributes:
        names: of what a wrong clock has dated.
        misdated: as much of it as can be read.
        unreadable: what is wrong with what cannot.
    """

    destination: Destination
    layout: Layout
    now: datetime
    names: list[DocumentName] = field(default_factory=list)
    misdated: list[tuple[DocumentName, Manifest]] = field(default_factory=list)
    unreadable: list[str] = field(default_factory=list)

    def takes_by_name(self, name: DocumentName) -> bool:
        """Leave a document aside that its name makes suspect, unless its head excuses it."""
        if not is_suspect(name, now=self.now):
            return False
        document = self.load(name)
        if document is None:
            self.names.append(name)
        return document is None or self.takes(name, document)

    def takes(self, name: DocumentName, document: Manifest) -> bool:
        """Leave a document aside if a wrong clock has dated it."""
        if not is_misdated(name, document, now=self.now):
            return False
        self.names.append(name)
        self.misdated.append((name, document))
        return True

    def load(self, name: DocumentName) -> Manifest | None:
        """Read a document that may be damaged, or of a newer format."""
        try:
            return load_manifest(self.destination, self.layout, name)
        except (DamagedDocument, UnsupportedFormat) as error:
            self.unreadable.append(error.message)
            return None

    def newest_first(self) -> list[tuple[DocumentName, Manifest]]:
        """Order what is misdated by the store's clock, which was the same for all of it."""
        return sorted(self.misdated, key=_stored_at, reverse=True)


def _newest_manifests(
    aside: _LeftAside, names: Iterable[DocumentName]
) -> Iterator[tuple[DocumentName, Manifest]]:
    """Load what is needed so that every repository's newest entry is among it.

    Ids only say where to look, never which is newer: whatever may have run beside the newest whole
    manifest, and was not merged by it, is loaded too. So one that is damaged stops nothing before
    it is known that no later one has merged it.
    """
    damaged: list[tuple[DocumentName, DamagedDocument]] = []
    covered: set[str] = set()
    oldest_needed: datetime | None = None
    parts: dict[tuple[str, int], set[int]] = {}
    for name in sorted((n for n in names if n.checkpoint is None), key=_by_id, reverse=True):
        time = snapshot_time(name.snapshot_id)
        if oldest_needed is not None and time < oldest_needed:
            break
        if name.stem in covered:
            continue
        try:
            manifest = load_manifest(aside.destination, aside.layout, name)
        except DamagedDocument as error:
            damaged.append((name, error))
            continue
        if aside.takes(name, manifest):
            continue
        yield name, manifest
        if name.shard is None:
            covered.update(manifest.merged)
            whole = True
        else:
            index, count = name.shard
            have = parts.setdefault((name.snapshot_id, count), set())
            have.add(index)
            whole = len(have) == count
        if whole and oldest_needed is None:
            oldest_needed = time - WINDOW
    for name, damage in damaged:
        if name.stem not in covered:
            with needed(aside.destination, aside.layout, name):
                raise damage


def _open_checkpoints(
    aside: _LeftAside,
    names: Sequence[DocumentName],
    manifests: Iterable[tuple[DocumentName, Manifest]],
) -> Iterator[tuple[DocumentName, Manifest]]:
    """Load the last checkpoint of every run that wrote no manifest and that nobody merged."""
    ended = {name.stem for name in names if name.checkpoint is None}
    covered = {stem for _, manifest in manifests for stem in manifest.merged}
    newest_time = max((snapshot_time(name.snapshot_id) for name, _ in manifests), default=_NEVER)
    last: dict[DocumentName, DocumentName] = {}
    for name in names:
        if name.checkpoint is not None and name.manifest.stem not in ended:
            known = last.get(name.manifest)
            if known is None or (known.checkpoint or 0) < name.checkpoint:
                last[name.manifest] = name
    for name in last.values():
        too_old = newest_time - snapshot_time(name.snapshot_id) > WINDOW
        if name.stem in covered or too_old:
            continue
        # What it alone knew is captured again; it must not stop tonight's run.
        checkpoint = aside.load(name)
        if checkpoint is not None and not aside.takes(name, checkpoint):
            yield name, checkpoint


def _stored_at(pair: tuple[DocumentName, Manifest]) -> datetime:
    name, document = pair
    return name.stored_at or document.finished_at


def _by_id(name: DocumentName) -> tuple[str, bool, tuple[int, int]]:
    # Of one run the whole manifest is met before its shards.
    return name.snapshot_id, name.shard is None, name.shard or (0, 0)


def _time_of_stem(stem: str) -> datetime:
    return snapshot_time(stem.partition("/")[2])
