"""The documents of format 1: manifest, checkpoint and record, their fields and their codec.

All are gzipped JSON in UTF-8. A field at its default is left out; a field this program does not
know survives reading and writing; a document of a newer format is refused. Keys are relative to
the root, times are UTC in RFC 3339, sizes are bytes. docs/reference/format.md explains each field;
docs/reference/schemas/ holds the JSON Schemas made from these classes.
"""

import base64
import hashlib
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self, TypeVar

import pydantic_core
from pydantic import Field, ValidationError, model_validator

from backup.errors import DamagedDocument, DocumentTooLarge, UnsupportedFormat, sound
from backup.model import (
    BundleKind,
    ChangeKind,
    Check,
    Kind,
    KnownStatus,
    ObjectFormat,
    ObjectId,
    RefName,
    Refs,
)
from backup.refs import in_order, is_well_formed, to_bytes
from backup.vault.documents_of_exports import ExportLine
from backup.vault.documents_of_files import LfsTurn
from backup.vault.documents_of_listings import AbsenceLine, UnreadableLine
from backup.vault.documents_of_prune import Condemned, Pruned
from backup.vault.fields import (
    Base64,
    BundleKey,
    Count,
    Counts,
    Depth,
    Flag,
    Format,
    HexId,
    HexIds,
    IdsKey,
    LfsIndexKey,
    Many,
    Name,
    Part,
    Path,
    RecordKey,
    RelativeKey,
    Seconds,
    Sha256,
    SnapshotId,
    Stem,
    Time,
    first_of,
)
from backup.vault.packing import excess, fields_in, pack, too_many

T = TypeVar("T", bound=Part)

FORMAT = 1
_NO_FORMAT = 1 << 16


class SourceLine(Part):
    """Where the root's repositories come from."""

    provider: str
    host: Name
    owner: Name
    location: str = Field("", description="for a folder its absolute path, else empty")
    owner_id: str | None = Field(None, description="the forge's identity of the owner")


class ShardLine(Part):
    """Which part of a run a document is of."""

    index: Annotated[Count, Field(ge=1)]
    count: Annotated[Count, Field(ge=1)]


class SelectionLine(Part):
    """What of a repository was asked for."""

    pull_refs: Flag = False
    lfs: Flag = False
    metadata: tuple[str, ...] = ()


class PinLine(Part):
    """A record that retention must keep, and why."""

    record: RecordKey
    snapshot_id: SnapshotId
    at: Time
    reason: str


class ChangeCounts(Part):
    """How many refs differ from the capture before, by what happened to them."""

    added: Count = 0
    advanced: Count = 0
    rewritten: Count = 0
    moved: Count = 0
    deleted: Count = 0


class ForgottenLine(Part):
    """A repository that the vault was told to forget."""

    host_id: Name
    kind: Kind = "code"
    path: Path
    aliases: tuple[Path, ...] = ()
    snapshot_id: SnapshotId
    at: Time
    reason: str

    @property
    def identity(self) -> tuple[Kind, str]:
        """Which repository."""
        return self.kind, self.host_id


class EntryDamage(Part):
    """A damaged object that the current chain of a repository needs."""

    key: RelativeKey
    problem: str
    depth: Depth = "objects"
    found_at: Time
    found_by: Literal["run", "verify"] = "verify"
    accepted: Flag = Field(
        default=False, description="what can still be restored is kept: somebody accepted it"
    )
    repaired_at: Time | None = Field(
        None, description="when a run stored this file of Git LFS again; no drill has read it since"
    )


class Entry(Part):
    """One repository in a manifest: its state, and what the run did with it."""

    host_id: Name
    path: Path
    kind: Kind = "code"
    aliases: tuple[Path, ...] = Field((), description="earlier paths, oldest first")
    private: Flag = False
    archived: Flag = False
    fork: Flag = False
    pushed_at: Time | None = None

    digest: Sha256 | None = Field(None, description="of the refs that the record holds")
    record: RecordKey | None = Field(None, description="key of the newest record")
    record_version_id: str | None = Field(None, description="in a versioned store")
    checked_at: Time | None = Field(None, description="when the source last answered with refs")
    captured_at: Time | None = Field(None, description="when the record was made")
    attempted_at: Time | None = Field(
        None, description="when a capture was begun that the run's time was too short for"
    )
    locked_until: Time | None = Field(
        None, description="until when everything that gives it back is locked, by object lock"
    )
    chain_length: Count = Field(0, description="bundles in the record's chain")
    chain_bytes: Count = Field(0, description="their sizes together")
    selection: SelectionLine = SelectionLine()
    empty: Flag = Field(default=False, description="the repository had nothing to capture")
    unfinished: tuple[str, ...] = Field((), description="what must be captured again")
    degraded: tuple[str, ...] = Field((), description="what cannot be stored, and is said")
    refs_not_selected: Counts = Field(
        default_factory=dict,
        description="the number of refs that the source has and that are not asked for, by pattern",
    )
    unproven: Flag = Field(
        default=False,
        description="what is in a pack of the chain was never looked at: its check is trailer",
    )
    damaged: tuple[EntryDamage, ...] = Field(
        (), description="objects of the current chain that are known to be missing or damaged"
    )
    lfs_turn: LfsTurn | None = Field(None, description="where missing files are asked for next")
    absence: AbsenceLine | None = None
    not_selected: Flag = Field(default=False, description="left out by a filter of this run")
    carried_from: str | None = Field(None, description="snapshot that made this entry")
    failing_since: Time | None = None
    pins: tuple[PinLine, ...] = ()
    skipped_why: str | None = Field(None, description="the forge's permanent block")
    export: ExportLine | None = Field(None, description="the last project export that was whole")
    pending_export: ExportLine | None = Field(
        None, description="a newer one: asked for, and not there when the run's time was up"
    )

    status: KnownStatus | None = Field(None, description="what the run did; None: not reached")
    plan: BundleKind | None = None
    reason: str = ""
    bytes: Count = 0
    objects: Count = 0
    duration_seconds: Seconds = 0.0
    changes: ChangeCounts = ChangeCounts()

    @property
    def identity(self) -> tuple[Kind, str]:
        """What stays the same when the repository is renamed."""
        return self.kind, self.host_id


class Totals(Part):
    """The run in numbers."""

    listed: Count = 0
    selected: Count = 0
    captured: Count = 0
    unchanged: Count = 0
    empty: Count = 0
    skipped: Count = 0
    not_reached: Count = 0
    failed: Count = 0
    gone: Count = 0
    bytes_uploaded: Count = 0
    objects_written: Count = 0
    requests: Counts = Field(default_factory=dict)


class Header(Part):
    """What stands at the head of every manifest and checkpoint."""

    format: Format
    document: Literal["manifest", "checkpoint"]
    snapshot_id: SnapshotId
    started_at: Time
    finished_at: Time
    version: str = Field(description="of the program that wrote it")
    source: SourceLine
    shard: ShardLine | None = None
    complete: Flag = Field(description="every selected repository was reached")
    result: Literal["success", "partial", "failed"]
    totals: Totals = Totals()
    store_behind_seconds: Count = Field(
        0, description="how far the store's clock was behind, where the source's agreed with ours"
    )


class Manifest(Header):
    """The state of every repository of an owner at one run; also that run's report."""

    selection: SelectionLine = SelectionLine()
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    accepted: Count | None = Field(None, description="repositories in the last accepted listing")
    vault_checked_at: Time | None = Field(None, description="last listing of the whole vault")
    merged: tuple[Stem, ...] = Field((), description="documents whose entries are merged here")
    forgotten: tuple[ForgottenLine, ...] = Field(
        (), description="what older documents say of these repositories does not count any more"
    )
    problems: tuple[str, ...] = ()
    unreadable: tuple[UnreadableLine, ...] = Field(
        (), description="what the source listed and no entry can be made of"
    )
    writer: str | None = Field(None, description="account and role that wrote it, where known")
    entries: Many[Entry]


class NamedRef(Part):
    """A ref's name as it can be shown, and exactly where that differs."""

    name: str
    name_base64: Base64 | None = Field(
        None, description="the name's bytes, when they are not UTF-8"
    )

    @property
    def ref_name(self) -> RefName:
        """The exact name."""
        return _exact(self.name, self.name_base64)


class RefLine(NamedRef):
    """One ref of a record."""

    id: HexId
    peeled: HexId | None = Field(None, description="for an annotated tag, what it leads to")
    object_type: Literal["tree", "blob", "tag"] | None = Field(
        None, description="proved not to be a commit, though under refs/heads/"
    )

    @model_validator(mode="after")
    def _check_name(self) -> Self:
        if not is_well_formed(to_bytes(self.ref_name)):
            raise ValueError("git does not accept the ref's name")
        return self


class LeftOutLine(NamedRef):
    """A ref that was advertised and could not be stored."""

    id: str
    reason: str


class HeadLine(Part):
    """Where HEAD points: to a ref by name, or, detached, to an id."""

    symref: str | None = None
    symref_base64: Base64 | None = None
    id: HexId | None = Field(None, description="what HEAD resolves to; None when unborn")

    @property
    def symref_name(self) -> RefName | None:
        """The exact name of the ref that HEAD names."""
        return None if self.symref is None else _exact(self.symref, self.symref_base64)

    @model_validator(mode="after")
    def _check_name(self) -> Self:
        if self.symref_name is not None and not is_well_formed(to_bytes(self.symref_name)):
            raise ValueError("git does not accept the name that HEAD points to")
        return self


class RefChangeLine(NamedRef):
    """What happened to one ref since the record before."""

    change: ChangeKind
    old: HexId | None = None
    new: HexId | None = None


class BundleLine(Part):
    """One bundle of a chain."""

    key: BundleKey
    kind: BundleKind
    snapshot_id: SnapshotId
    size_bytes: Count
    sha256: Sha256
    objects: Count
    check: Check
    check_detail: str | None = Field(None, description="why the check is less than was asked for")
    header_bytes: Count = Field(description="the pack begins here")
    prerequisites: tuple[HexId, ...] = ()
    version_id: str | None = Field(None, description="in a versioned store")
    storage_class: str | None = None
    retain_until: Time | None = Field(None, description="object lock")
    lfs_scanned: Flag = False
    lfs: LfsIndexKey | None = Field(None, description="ids of LFS objects this pack points to")
    lfs_sha256: Sha256 | None = Field(None, description="of that whole object")
    ids: IdsKey | None = Field(
        None, description="of a full: the ids in its pack, where its record has no room for them"
    )
    ids_sha256: Sha256 | None = Field(None, description="of that whole object")

    @property
    def documents(self) -> tuple[str, ...]:
        """The keys of the documents that belong to this bundle."""
        return tuple(key for key in (self.lfs, self.ids) if key is not None)


class DocumentLine(Part):
    """Another document that belongs to a record."""

    key: RelativeKey
    size_bytes: Count
    sha256: Sha256
    version_id: str | None = None
    kinds: tuple[str, ...] = ()


class LfsMissing(Part):
    """An LFS object that pointers name and that is not stored, with one of the sizes they give."""

    oid: Sha256
    size_bytes: Count
    since: Time = Field(description="when it was first asked for without success")
    reason: str
    permanent: Flag = Field(
        default=False, description="the source itself says that it does not have it"
    )
    condemned: Flag = Field(
        default=False, description="a prune may delete it, or take it off its list"
    )
    asked: Flag = Field(
        default=True,
        description="false where too many others were missing: its turn came, and not it",
    )


class LfsLine(Part):
    """How a record's chain stands with LFS: all that its packs point to is stored, but for these.

    Packs whose lines say that they were not searched may point to more.
    """

    not_stored: Many[LfsMissing] = Field((), description="sorted by id and size")


class RepositoryLine(Part):
    """Which repository a record is of, as it was called then."""

    host: Name
    owner: Name
    path: Path
    host_id: Name
    kind: Kind = "code"


class Record(Part):
    """One repository's refs and chain at one capture; holds exactly what its chain holds."""

    format: Format
    document: Literal["record"]
    snapshot_id: SnapshotId
    version: str = Field(description="of the program that wrote it")
    repository: RepositoryLine
    captured_at: Time
    object_format: ObjectFormat
    selection: SelectionLine = SelectionLine()
    digest: Sha256
    head: HeadLine = HeadLine()
    refs: Many[RefLine] = Field(description="sorted by the bytes of the name")
    left_out: Many[LeftOutLine] = ()
    refs_not_selected: Counts = Field(
        default_factory=dict,
        description="the number of refs that were advertised and not asked for, by pattern",
    )
    chain: Many[BundleLine] = Field(description="in the order to apply")
    changes: Many[RefChangeLine] = ()
    previous: RecordKey | None = Field(None, description="the record before this one")
    fallback: str | None = Field(None, description="how it was captured without protocol v2")
    metadata: DocumentLine | None = None
    lfs: LfsLine | None = Field(None, description="what became of the chain's LFS objects")
    ids: HexIds | None = Field(
        None,
        description="of the commits, root trees and tags in the pack that came with this record",
    )
    unproven: Flag = Field(
        default=False,
        description="what is in a pack of the chain was never looked at: its check is trailer",
    )

    @model_validator(mode="after")
    def _check_chain(self) -> Self:
        if len({line.key for line in self.chain}) < len(self.chain):
            raise ValueError("the chain has a bundle twice")
        if sum(line.size_bytes for line in self.chain) >= 1 << 63:
            raise ValueError("the chain's bundles have more bytes than there can be")
        return self

    def tips(self) -> dict[RefName, ObjectId]:
        """Return the exact ref map."""
        return {line.ref_name: ObjectId(line.id) for line in self.refs}


class LfsObject(Part):
    """One LFS object that captured pointers name; one more line for each other size they give."""

    oid: Sha256
    size_bytes: Count


class LfsIndex(Part):
    """The LFS objects that one bundle's pack points to."""

    format: Format
    document: Literal["lfs"]
    snapshot_id: SnapshotId
    objects: Many[LfsObject]


class Ids(Part):
    """The ids of the commits, root trees and annotated tags that a full's pack holds."""

    format: Format
    document: Literal["ids"]
    snapshot_id: SnapshotId
    ids: HexIds = Field(description="one behind another, in no order")


class HolderLine(Part):
    """A repository that needs a damaged object."""

    host_id: Name
    kind: Kind = "code"

    @property
    def identity(self) -> tuple[Kind, str]:
        """Which repository."""
        return self.kind, self.host_id


class DamageLine(Part):
    """Damage that a drill found."""

    key: RelativeKey
    problem: str
    repositories: tuple[str, ...] = ()
    snapshots: tuple[str, ...] = ()
    depth: Depth = Field("objects", description="the greatest depth at which it was found")
    found_at: Time | None = Field(None, description="when it was last found")
    since: Time | None = Field(
        None, description="when it was first found, since it was last seen whole; none: `found_at`"
    )
    holders: tuple[HolderLine, ...] = Field(
        (), description="the repositories by their identities; none for a manifest"
    )


class PassedLine(Part):
    """An object that was damaged and is not any more, or that nothing needs any more."""

    key: RelativeKey
    found_at: Time = Field(description="when it was last found to be damaged")


class EarlierLine(Part):
    """Repositories that a drill did not look at, and when they were last looked at."""

    depth: Depth
    at: Time
    repositories: tuple[str, ...] = Field(description="kind and id of each, parted by a slash")


class DrillLine(Part):
    """One repository of a drill."""

    host_id: Name
    kind: Kind = "code"
    record: RecordKey
    ok: Flag
    not_readable: Count = Field(
        0, description="objects of it that lie in an archive and were not read"
    )
    duration_seconds: Seconds = 0.0


class Drill(Part):
    """What a verification found."""

    format: Format
    document: Literal["drill"]
    snapshot_id: SnapshotId
    started_at: Time
    finished_at: Time
    version: str
    depth: Depth
    checked: Many[DrillLine]
    damaged: Many[DamageLine] = ()
    standing: Many[DamageLine] = Field(
        (), description="damage found by earlier drills that has not passed one since"
    )
    passed: Many[PassedLine] = Field(
        (), description="damage found by earlier drills that this one found no more"
    )
    merged: tuple[SnapshotId, ...] = Field(
        (), description="earlier drills of the last days whose damage is in this document"
    )
    earlier: Many[EarlierLine] = Field(
        (), description="when the repositories were last looked at that are not in `checked`"
    )


class AcceptedLine(Part):
    """A damaged object that was accepted."""

    key: RelativeKey
    problem: str


class Accepted(Part):
    """Damage of one repository that its owner accepts: what can still be restored is kept.

    An object that was whole again after that, and is damaged once more, is not accepted by it.
    """

    format: Format
    document: Literal["accepted"]
    snapshot_id: SnapshotId
    at: Time
    by: str | None = Field(None, description="account and role, where known")
    host_id: Name
    kind: Kind = "code"
    path: Path
    objects: tuple[AcceptedLine, ...]

    @property
    def identity(self) -> tuple[Kind, str]:
        """Which repository."""
        return self.kind, self.host_id


STORED: Mapping[str, type[Part]] = {
    "manifest": Manifest,
    "record": Record,
    "lfs": LfsIndex,
    "ids": Ids,
    "condemned": Condemned,
    "pruned": Pruned,
    "drill": Drill,
    "accepted": Accepted,
}


def encode(document: Part) -> bytes:
    """Write a document; the same document always gives the same bytes.

    Raises:
        DocumentTooLarge: readers would refuse it.
    """
    try:
        text = document.model_dump_json(exclude_defaults=True).encode()
    except (UnicodeEncodeError, pydantic_core.PydanticSerializationError):
        # A message with bytes of a name in it must not keep a manifest from being written.
        text = pydantic_core.to_json(_sound(document.model_dump(exclude_defaults=True)))
    if problem := excess(text) or too_many(vars(document)):
        kind = getattr(document, "document", type(document).__name__)
        raise DocumentTooLarge(f"the {kind} would have {problem}")
    return pack(text)


def decode(data: bytes, kind: type[T], *, where: str, sha256: str | None = None) -> T:
    """Read a document.

    Args:
        data: the object as it is stored.
        kind: what it should be.
        where: its URI, for messages.
        sha256: of the object that was written, where it is known.

    Raises:
        DamagedDocument: it is not what was written.
        UnsupportedFormat: a newer version of this program wrote it.
    """
    try:
        fields = fields_in(data)
    except ValueError as error:
        raise DamagedDocument(f"{where} is damaged: {error}") from error
    written = fields.get("format") if isinstance(fields, dict) else None
    # A greater one than there will ever be is no newer format.
    if type(written) is int and FORMAT < written < _NO_FORMAT:
        raise UnsupportedFormat(
            f"{where} has format {written}, this version reads format {FORMAT}",
            hint="use a newer version of repo-backup",
        )
    try:
        document = kind.model_validate(fields)
    except ValidationError as error:
        raise DamagedDocument(f"{where} is damaged: {first_of(error)}") from error
    # Last: where more than that is wrong, everyone who reads it says the same of it.
    if sha256 is not None and hashlib.sha256(data).hexdigest() != sha256:
        raise DamagedDocument(f"{where} is damaged: it is not the object that was recorded")
    return document


def _sound(value: Any) -> Any:
    if isinstance(value, str):
        return sound(value)
    if isinstance(value, Mapping):
        return {_sound(name): _sound(one) for name, one in value.items()}
    return [_sound(one) for one in value] if isinstance(value, list | tuple) else value


def shown(name: str) -> dict[str, Any]:
    """Return the fields that carry a ref's name: as text, and exactly where text cannot."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raw = to_bytes(name)
        text = raw.decode("utf-8", "backslashreplace")
        return {"name": text, "name_base64": base64.b64encode(raw).decode()}
    return {"name": name}


def refs_digest(refs: Refs) -> str:
    r"""Hash everything a listing of refs said.

    SHA-256 over lines of bytes: ``<object format>\n``, ``HEAD <symref or -> <id or ->\n``, then
    ``<id> <name>\n`` for each ref, sorted by name, then ``- <id> <name>\n`` for each ref that was
    left out, sorted.
    """
    symref = b"-" if refs.head_symref is None else to_bytes(refs.head_symref)
    head = b"-" if refs.head_id is None else refs.head_id.encode()
    digest = hashlib.sha256(b"%b\nHEAD %b %b\n" % (refs.object_format.encode(), symref, head))
    for name, oid in in_order(refs.tips).items():
        digest.update(b"%b %b\n" % (oid.encode(), to_bytes(name)))
    for line in sorted(b"%b %b" % (one.id.encode(), to_bytes(one.name)) for one in refs.left_out):
        digest.update(b"- %b\n" % line)
    return digest.hexdigest()


def _exact(name: str, name_base64: str | None) -> RefName:
    if name_base64 is None:
        return RefName(name)
    return RefName(base64.b64decode(name_base64).decode("utf-8", "surrogateescape"))
