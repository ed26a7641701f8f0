"""Carries out one plan: streams header and pack into the destination, checks, makes the record.

The bundle is committed only after its check, the record only after its bundle; on any error
nothing of this capture is visible in the vault, or a bundle that no record names.
"""

import hashlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Literal, Protocol

import backup
from backup.errors import (
    AnswerLacksObjects,
    DocumentTooLarge,
    IncompleteRepository,
    IncompleteWrite,
    TemporaryFolderError,
)
from backup.git.bundle import BundleHeader
from backup.git.check import Ancestry, Disk, DiskTooSmall, PackCheck, Survey
from backup.git.pack import PackMeter, PackSummary, empty_pack
from backup.git.pointers import NO_LOOK_ALIKES, LookAlikes, Pointer
from backup.git.upload_pack import Remote, fit_haves
from backup.limits import MAX_DOCUMENT_BYTES
from backup.model import (
    BundleKind,
    Check,
    Destination,
    ObjectFormat,
    ObjectId,
    RefChange,
    RefName,
    Refs,
    split_ids,
)
from backup.plan import Plan, refs_before_and_now
from backup.recording import encode_to_fit, make_record
from backup.stopping import Stop
from backup.vault.documents import (
    BundleLine,
    Ids,
    LfsIndex,
    LfsLine,
    LfsObject,
    Record,
    encode,
)
from backup.vault.documents_of_files import LfsTurn
from backup.vault.holdings import not_held
from backup.vault.layout import (
    Layout,
    bundle_key,
    folder_of,
    ids_key,
    lfs_index_key,
    record_key,
    repository_folder,
)

# Digits; of some 800 commits. The newest record is read each time that refs have changed.
_MOST_IDS_IN_RECORD = 1 << 16

CheckMode = Literal["pack", "trailer"]


@dataclass(frozen=True, slots=True)
class Means:
    """What captures work with; the same for all of a run.

    Attributes:
        check: whether packs are indexed, or only their trailers compared.
        clock: tells the time in UTC.
        stop: ends a capture in flight.
    """

    destination: Destination
    layout: Layout
    snapshot_id: str
    check: CheckMode
    disk: Disk
    clock: Callable[[], datetime]
    stop: Stop


@dataclass(frozen=True, slots=True)
class FilesKept:
    """What became of the files of Git LFS that a chain points to.

    Attributes:
        chain: with what was found out about its packs.
        line: what the record says of it.
        wanted: files that were looked for.
        known: what the source was known not to have.
        unsearched: why packs could not be searched, which the next run tries again.
        stored: files that were stored just now; with their bytes together.
        retain_until: until when all of them are locked, those included that were there before.
        lock_unknown: whether it cannot be told how long some are locked, or they are not.
        look_alikes: in packs that were searched just now, blobs that are no pointers.
        lost: ids of files that the record before promises, that are not in the vault any more, and
            that could not be stored again; each with why.
        turn: where the next run goes on to ask for what is missing; None: at the beginning.
    """

    chain: tuple[BundleLine, ...]
    line: LfsLine
    wanted: int
    known: frozenset[Pointer]
    unsearched: tuple[str, ...]
    stored: int
    stored_bytes: int
    retain_until: datetime | None
    lock_unknown: bool
    look_alikes: LookAlikes = NO_LOOK_ALIKES
    lost: Mapping[str, str] = field(default_factory=dict)
    turn: LfsTurn | None = None


class Files(Protocol):
    """Stores the files of Git LFS of one repository."""

    def keep(
        self,
        chain: tuple[BundleLine, ...],
        *,
        previous: Record | None,
        goes_on: bool,
        object_format: ObjectFormat,
        found: Mapping[str, tuple[Pointer, ...]],
    ) -> FilesKept:
        """Store all that a chain points to; see `backup.commands.files`."""


@dataclass(frozen=True, slots=True)
class Captured:
    """What a capture stored.

    Attributes:
        record_key: relative to the root.
        record_version_id: the store's own version of it, where it has versions.
        retain_until: how long the record is locked, and the new bundle with it.
        bytes_written: all that was stored, files of Git LFS included.
        objects: git objects in the new pack.
        pointers: the files of Git LFS that the new pack points to.
        look_alikes: blobs of it that look like such pointers and are none.
        files: what became of these and of others; None where they are not asked for.
    """

    record: Record
    record_key: str
    record_version_id: str | None
    retain_until: datetime | None
    bytes_written: int
    objects: int
    check: Check | None
    changes: tuple[RefChange, ...]
    pointers: tuple[Pointer, ...] = ()
    look_alikes: LookAlikes = NO_LOOK_ALIKES
    files: FilesKept | None = None


@dataclass(frozen=True, slots=True)
class _Checked:
    """A pack that went through.

    Attributes:
        pointers: the files of Git LFS that it points to; None where they were not looked for.
        look_alikes: blobs that look like such pointers and are none.
        ids: of its commits, root trees and annotated tags, joined; None where they are unknown.
    """

    summary: PackSummary
    check: Check
    detail: str
    kinds: dict[ObjectId, str]
    changes: tuple[RefChange, ...]
    pointers: tuple[Pointer, ...] | None = None
    look_alikes: LookAlikes = NO_LOOK_ALIKES
    ids: str | None = None


def capture(
    plan: Plan,
    remote: Remote,
    means: Means,
    *,
    transferred: Callable[[int], None],
    files: Files | None = None,
) -> Captured:
    """Store what a plan says and return the record of it.

    Args:
        plan: a full, an increment, or an empty repository.
        remote: the repository's upload-pack.
        means: where to, and how.
        transferred: hears of every so many bytes that went through.
        files: stores the files of Git LFS; None where they are not asked for.

    Raises:
        BackupError: nothing was recorded.
    """
    folder = repository_folder(path=plan.repository.path, host_id=plan.repository.host_id)
    _require_recordable(plan, means)
    if not plan.wants:
        remote.require_end()
    if plan.action == "empty":
        changes = compare_refs(plan, {})
        return _save_record(plan, means, folder=folder, chain=(), kinds={}, changes=changes)
    bundle, checked = _save_bundle(
        plan, remote, means, kind=plan.action, folder=folder, transferred=transferred
    )
    bundle, index_bytes = save_lfs_index(checked.pointers or (), bundle, means)
    bundle, ids_bytes = _save_ids(checked.ids, bundle, means)
    goes_on = plan.previous is not None and plan.action == "incremental"
    chain = (*plan.previous.chain, bundle) if plan.previous and goes_on else (bundle,)
    kept = None
    if files is not None:
        found = {} if checked.pointers is None else {bundle.key: checked.pointers}
        kept = files.keep(
            chain,
            previous=plan.previous,
            goes_on=goes_on,
            object_format=plan.refs.object_format,
            found=found,
        )
        chain = kept.chain
    captured = _save_record(
        plan,
        means,
        folder=folder,
        chain=chain,
        kinds=checked.kinds,
        changes=checked.changes,
        files=kept,
        ids=None if bundle.ids is not None else checked.ids,
    )
    return replace(
        captured,
        retain_until=_earlier(captured.retain_until, bundle.retain_until),
        bytes_written=captured.bytes_written + bundle.size_bytes + index_bytes + ids_bytes,
        objects=bundle.objects,
        check=bundle.check,
        pointers=checked.pointers or (),
        look_alikes=checked.look_alikes,
    )


def _require_recordable(plan: Plan, means: Means) -> None:
    """Refuse refs that no record can hold, before anything is fetched for them.

    Raises:
        DocumentTooLarge: their names are too many or too long.
    """
    refs = plan.refs
    least = sum(len(name) + len(oid) for name, oid in refs.tips.items())
    least += sum(len(item.name) for item in refs.left_out)
    if least < MAX_DOCUMENT_BYTES // 4:
        return
    try:
        encode(
            make_record(
                plan,
                snapshot_id=means.snapshot_id,
                captured_at=means.clock(),
                chain=(),
                kinds={},
                changes=(),
                lfs=None,
                ids=None,
            )
        )
    except DocumentTooLarge as error:
        raise DocumentTooLarge(
            f"{error.message}: it has {len(refs.tips)} refs, whose names are too many or too long",
            hint="delete refs at the source, or leave the repository out with --exclude",
        ) from error


def _save_bundle(
    plan: Plan,
    remote: Remote,
    means: Means,
    *,
    kind: BundleKind,
    folder: str,
    transferred: Callable[[int], None],
) -> tuple[BundleLine, _Checked]:
    """Stream header and pack into the destination, and publish them when the pack was checked."""
    key = bundle_key(folder, means.snapshot_id, kind)
    haves = fit_haves(plan.wants, plan.haves)
    header = _header(plan, frozenset(haves))
    head = header.encode()
    digest = hashlib.sha256(head)
    with means.destination.writer(means.layout.key(key)) as writer:
        writer.write(head)
        sinks = (digest.update, writer.write)
        plan = replace(plan, haves=haves)
        checked = _pass_through(plan, remote, means, sinks=sinks, transferred=transferred)
        stored = writer.commit(sha256=digest.hexdigest())
    size_bytes = len(head) + checked.summary.size_bytes
    if stored.size_bytes != size_bytes:
        raise IncompleteWrite(
            f"{means.destination.uri(stored.key)} has {stored.size_bytes} bytes, "
            f"{size_bytes} were written"
        )
    bundle = BundleLine(
        key=key,
        kind=kind,
        snapshot_id=means.snapshot_id,
        size_bytes=size_bytes,
        sha256=digest.hexdigest(),
        objects=checked.summary.objects,
        check=checked.check,
        check_detail=checked.detail or None,
        header_bytes=len(head),
        prerequisites=header.prerequisites,
        version_id=stored.version_id,
        retain_until=stored.retain_until,
        lfs_scanned=checked.pointers is not None,
    )
    return bundle, checked


def capture_files(record: Record, key: str, files: FilesKept, means: Means) -> Captured:
    """Store a new record of a repository of which only files of Git LFS were looked for.

    Args:
        record: that it has.
        key: of that record.
        files: what became of its files.
        means: where to.
    """
    made = record.model_copy(
        update={
            "snapshot_id": means.snapshot_id,
            "version": backup.__version__,
            "captured_at": means.clock(),
            "selection": record.selection.model_copy(update={"lfs": True}),
            "chain": files.chain,
            "changes": (),
            "previous": key,
            "lfs": files.line,
            # No bundle was made with this one.
            "ids": None,
        }
    )
    line = record.repository
    folder = repository_folder(path=line.path, host_id=line.host_id)
    return _put_record(made, encode(made), means, folder=folder, files=files)


def save_lfs_index(
    pointers: Iterable[Pointer], bundle: BundleLine, means: Means
) -> tuple[BundleLine, int]:
    """Store what a pack's pointers name beside its bundle, so that no pack is searched twice.

    Returns:
        The bundle's line, which names the document where there is one, and the document's size.
    """
    objects = tuple(LfsObject(oid=one.oid, size_bytes=one.size_bytes) for one in pointers)
    if not objects:
        return bundle, 0
    # Whoever searches the same pack another time writes the same document.
    snapshot_id = bundle.snapshot_id
    index = LfsIndex(format=1, document="lfs", snapshot_id=snapshot_id, objects=objects)
    key, data = lfs_index_key(folder_of(bundle.key), snapshot_id), encode(index)
    means.destination.put_if_absent(means.layout.key(key), data)
    return bundle.model_copy(update={"lfs": key, "lfs_sha256": _digest(data)}), len(data)


def _save_ids(ids: str | None, bundle: BundleLine, means: Means) -> tuple[BundleLine, int]:
    """Store the ids that a full's pack is known by beside its bundle, where they are many.

    Returns:
        The bundle's line, which names the document where there is one, and the document's size.
    """
    if ids is None or _is_for_record(ids, bundle.kind):
        return bundle, 0
    snapshot_id = bundle.snapshot_id
    document = Ids(format=1, document="ids", snapshot_id=snapshot_id, ids=ids)
    key, data = ids_key(folder_of(bundle.key), snapshot_id), encode(document)
    means.destination.put_if_absent(means.layout.key(key), data)
    return bundle.model_copy(update={"ids": key, "ids_sha256": _digest(data)}), len(data)


def _digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _is_for_record(ids: str, kind: BundleKind) -> bool:
    """Return whether a record holds the ids itself: a changed night makes two objects."""
    return kind == "incremental" or len(ids) <= _MOST_IDS_IN_RECORD


def compare_refs(
    plan: Plan, proved: Mapping[tuple[ObjectId, ObjectId], Ancestry]
) -> tuple[RefChange, ...]:
    """Tell what happened to each ref since the record before; nothing for a first capture.

    Args:
        plan: holds both sides.
        proved: for a branch's old and new tip, what the pack proves.
    """
    if plan.previous is None:
        return ()
    old, new = refs_before_and_now(plan)
    changes = [
        *(RefChange(name, "added", None, new[name]) for name in new if name not in old),
        *(RefChange(name, "deleted", old[name], None) for name in old if name not in new),
    ]
    for name, before, after in _moved(old, new):
        known = proved.get((before, after), "moved") if _is_branch(name) else "moved"
        changes.append(RefChange(name, known, before, after))
    return tuple(sorted(changes, key=lambda change: change.name))


def _pass_through(
    plan: Plan,
    remote: Remote,
    means: Means,
    *,
    sinks: tuple[Callable[[bytes], object], ...],
    transferred: Callable[[int], None],
) -> _Checked:
    """Pour the pack from the remote into the sinks and the check at once."""
    meter = PackMeter(plan.refs.object_format)
    if not plan.wants:
        # Nothing new to hold: refs were deleted, or moved to what the chain holds.
        if plan.previous is not None and means.check == "pack":
            _require_held_before(plan, plan.previous, means)
        pieces: Iterable[bytes] = [empty_pack(plan.refs.object_format)]
        _pour(pieces, meter.update, *sinks)
        changes = compare_refs(plan, {})
        return _Checked(meter.finish(), "pack", "", {}, changes, pointers=(), ids="")
    pieces = _watched(remote.fetch(plan.wants, plan.haves), means.stop, transferred)
    if means.check == "trailer":
        _pour(pieces, meter.update, *sinks)
        return _Checked(meter.finish(), "trailer", "", {}, compare_refs(plan, {}))
    with PackCheck(
        object_format=plan.refs.object_format,
        connected=plan.action == "full",
        disk=means.disk,
        stop=means.stop,
    ) as check:
        _pour(pieces, meter.update, *sinks, check.feed)
        summary = meter.finish()
        too_small = check.finish()
        if too_small is None:
            try:
                with check.blamed():
                    return _surveyed(plan, check, summary, means)
            except TemporaryFolderError as error:
                too_small = DiskTooSmall(summary.size_bytes, 0, error.message)
        detail = _disk_detail(too_small, summary)
        return _Checked(summary, "trailer (disk)", detail, {}, compare_refs(plan, {}))


def _surveyed(plan: Plan, check: PackCheck, summary: PackSummary, means: Means) -> _Checked:
    """Go through a pack that passed its check, and prove that it holds what the plan needs."""
    listed = ("commit", "tag") if plan.action == "full" else ("commit", "tree", "tag")
    # What a tag names may be a blob, and these are not listed.
    survey = check.survey({*plan.wants, *plan.refs.peeled.values()}, listed=listed)
    ids = _ids_of(plan, check, survey, means)
    level: Check = "connected" if plan.action == "full" else "pack"
    return _Checked(
        summary,
        level,
        "",
        survey.kinds,
        _proved_changes(plan, check, survey.kinds),
        pointers=survey.found.pointers,
        look_alikes=survey.found.look_alikes,
        ids=ids,
    )


def _ids_of(plan: Plan, check: PackCheck, survey: Survey, means: Means) -> str | None:
    """Return the ids that the vault is to know the pack by, once it is proved to lack nothing.

    Of a full git has said so; of an increment the chain must hold what the pack does not. None
    where the ids are too many for a document.

    Raises:
        IncompleteRepository: a full lacks what a ref names.
        AnswerLacksObjects: an increment and its chain do.
    """
    if plan.action == "full":
        _require_every_tip(plan.refs, survey.kinds)
        trees = [commit.tree for commit in check.commits(survey)]
    else:
        trees, needed = [], {*plan.refs.wanted(), *plan.refs.peeled.values()}
        for commit in check.commits(survey):
            trees.append(commit.tree)
            needed.update((commit.tree, *commit.parents))
        # What the server says that a tag leads to is its word; the tags themselves are here.
        needed.update(target for _, target in check.tags(survey))
        _require_held(plan, needed, check, survey, means)
    ids = "".join((survey.ids["commit"], *trees, survey.ids["tag"]))
    # Of a history of millions of commits the refs alone are known: what else is not found, a full
    # brings.
    return ids if len(ids) <= MAX_DOCUMENT_BYTES // 2 else None


def _require_held(
    plan: Plan, needed: set[ObjectId], check: PackCheck, survey: Survey, means: Means
) -> None:
    """Require that all of some objects are in the pack of an increment or in its chain.

    Raises:
        AnswerLacksObjects: they are not.
    """
    if plan.previous is None:
        raise AssertionError("an increment goes on from a record")
    left = needed - survey.kinds.keys()
    for joined in survey.ids.values():
        left.difference_update(split_ids(joined, plan.refs.object_format))
    lacking = not_held(means.destination, means.layout, plan.previous, left)
    if lacking:
        raise _lacks(lacking, _what_it_is(min(lacking), plan, check, survey))


def _require_held_before(plan: Plan, previous: Record, means: Means) -> None:
    """Require that a chain holds all that refs name now, where nothing was asked for.

    A server can say that a tag leads to something else than it does, and be believed the next time.

    Raises:
        AnswerLacksObjects: it is not known to.
    """
    named = {*plan.refs.wanted(), *plan.refs.peeled.values()}
    lacking = not_held(means.destination, means.layout, previous, named)
    if lacking:
        raise _lacks(lacking, "the target of a ref")


def _lacks(lacking: Collection[ObjectId], what: str) -> AnswerLacksObjects:
    count = "1 object" if len(lacking) == 1 else f"{len(lacking)} objects"
    return AnswerLacksObjects(
        f"the server left out {count} that the vault is not known to hold, first {min(lacking)} "
        f"({what})"
    )


def _what_it_is(oid: ObjectId, plan: Plan, check: PackCheck, survey: Survey) -> str:
    """Say what needs an object."""
    for name, tip in {**plan.refs.tips, RefName("HEAD"): plan.refs.head_id}.items():
        if oid == tip:
            return str(name)
    for name, target in plan.refs.peeled.items():
        if oid == target:
            return f"the target of {name}"
    for commit in check.commits(survey):
        if oid == commit.tree:
            return f"the root tree of commit {commit.id}"
        if oid in commit.parents:
            return f"a parent of commit {commit.id}"
    for tag, target in check.tags(survey):
        if oid == target:
            return f"the target of tag {tag}"
    raise AssertionError("something needs it")


def _pour(pieces: Iterable[bytes], *sinks: Callable[[bytes], object]) -> None:
    for data in pieces:
        for sink in sinks:
            sink(data)


def _watched(
    pieces: Iterable[bytes], stop: Stop, transferred: Callable[[int], None]
) -> Iterator[bytes]:
    for data in pieces:
        stop.check()
        yield data
        transferred(len(data))


def _proved_changes(
    plan: Plan, check: PackCheck, kinds: Mapping[ObjectId, str]
) -> tuple[RefChange, ...]:
    if plan.previous is None:
        return ()
    pairs = [
        (before, after)
        for name, before, after in _moved(*refs_before_and_now(plan))
        if _is_branch(name) and kinds.get(after) == "commit"
    ]
    return compare_refs(plan, dict(zip(pairs, check.ancestry(pairs), strict=True)))


def _require_every_tip(refs: Refs, kinds: dict[ObjectId, str]) -> None:
    """Require that a full has all that its record will name: that counts as held from then on."""
    for name, oid in {**refs.tips, RefName("HEAD"): refs.head_id}.items():
        if oid is not None and oid not in kinds:
            raise IncompleteRepository(f"the server left {name} ({oid}) out of the pack")
    for name, oid in refs.peeled.items():
        if oid not in kinds:
            raise IncompleteRepository(
                f"the server says that {name} leads to {oid}, and left that out of the pack"
            )


def _disk_detail(too_small: DiskTooSmall, summary: PackSummary) -> str:
    if too_small.trouble:
        return too_small.trouble
    return (
        f"the pack has {summary.size_bytes} bytes; after {too_small.needed_bytes} bytes of it "
        f"{too_small.free_bytes} were free in the temporary folder"
    )


def _moved(
    old: Mapping[RefName, ObjectId], new: Mapping[RefName, ObjectId]
) -> list[tuple[RefName, ObjectId, ObjectId]]:
    return [(name, old[name], new[name]) for name in old if name in new and old[name] != new[name]]


def _is_branch(name: RefName) -> bool:
    return name.startswith("refs/heads/")


def _header(plan: Plan, sent: frozenset[ObjectId]) -> BundleHeader:
    refs = [*plan.refs.tips.items()]
    if plan.refs.head_id is not None:
        refs.append((RefName("HEAD"), plan.refs.head_id))
    # Only what was sent as a have: the server leans on nothing else.
    prerequisites = tuple(oid for oid in plan.prerequisites if oid in sent)
    return BundleHeader(tuple(refs), prerequisites, plan.refs.object_format)


def _save_record(
    plan: Plan,
    means: Means,
    *,
    folder: str,
    chain: tuple[BundleLine, ...],
    kinds: dict[ObjectId, str],
    changes: tuple[RefChange, ...],
    files: FilesKept | None = None,
    ids: str | None = None,
) -> Captured:
    record = make_record(
        plan,
        snapshot_id=means.snapshot_id,
        captured_at=means.clock(),
        chain=chain,
        kinds=kinds,
        changes=changes,
        lfs=None if files is None else files.line,
        ids=ids,
    )
    record, data = encode_to_fit(record)
    captured = _put_record(record, data, means, folder=folder, files=files)
    return replace(captured, changes=changes)


def _put_record(
    record: Record, data: bytes, means: Means, *, folder: str, files: FilesKept | None
) -> Captured:
    """Store a record, and say what it and the files made together."""
    key = record_key(folder, means.snapshot_id)
    stored = means.destination.put_if_absent(means.layout.key(key), data)
    return Captured(
        record,
        key,
        stored.version_id,
        _earlier(stored.retain_until, None if files is None else files.retain_until),
        bytes_written=len(data) + (0 if files is None else files.stored_bytes),
        objects=0,
        check=None,
        changes=(),
        files=files,
    )


def _earlier(one: datetime | None, other: datetime | None) -> datetime | None:
    return min((time for time in (one, other) if time is not None), default=None)
