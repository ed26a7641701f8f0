"""The core types. They travel between the stages of a run and import nothing of ours but secrets.

Ids are lower-case hex, ref names are full (``refs/heads/main``) and carry bytes that are not UTF-8
as surrogate escapes (PEP 383). Times are aware and in UTC, sizes are bytes.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from types import TracebackType
from typing import Literal, NewType, Protocol, Self, get_args, runtime_checkable

from backup.secret import Secret

ObjectId = NewType("ObjectId", str)
RefName = NewType("RefName", str)
Key = NewType("Key", str)

ObjectFormat = Literal["sha1", "sha256"]
Kind = Literal["code", "wiki", "gist", "snippet"]
BundleKind = Literal["full", "incremental"]
Check = Literal["trailer", "trailer (disk)", "pack", "connected"]
# What came of a repository; `skipped` is what its forge blocks for good.
KnownStatus = Literal["captured", "unchanged", "empty", "skipped", "failed", "gone"]
# Besides: what a run had no time for, and what a dry run would capture.
Status = Literal[KnownStatus, "not-reached", "planned"]
STATUSES: tuple[Status, ...] = get_args(Status)
Action = Literal["empty", "full", "incremental"]
Visibility = Literal["public", "private", "internal"]
RunResult = Literal["success", "partial", "failed"]
# Of an archive: nothing is known of one, it is being made or put, it can be downloaded.
ExportState = Literal["none", "under way", "ready"]
ChangeKind = Literal["added", "advanced", "rewritten", "moved", "deleted"]
# After these a ref does not lead to what it led to: people are told its name.
NAMED_CHANGES: frozenset[ChangeKind] = frozenset({"rewritten", "moved", "deleted"})

ID_LENGTH: Mapping[ObjectFormat, int] = {"sha1": 40, "sha256": 64}


def split_ids(joined: str, object_format: ObjectFormat) -> Iterator[ObjectId]:
    """Yield the ids of a list in which they stand one behind another."""
    length = ID_LENGTH[object_format]
    for start in range(0, len(joined), length):
        yield ObjectId(joined[start : start + length])


@dataclass(frozen=True, slots=True)
class Repository:
    """One repository as its source lists it.

    Attributes:
        host_id: the source's own identity; survives a rename. Empty where a listing has something
            that cannot be read as a repository.
        path: the name under the owner, without the owner; always valid Unicode.
        clone_url: where git finds it, without credentials; a local path for plain sources.
        visibility: to whom, where the source knows more than ``private``.
        problem: why it is known by name only and cannot be captured; empty as a rule.
        blocked: why its source gives it to nobody, for good; empty as a rule.
        active_at: when anything of it, code or not, was last changed, as far as its source says.
        within: of one on this machine, the folder that nothing of it may lead out of; empty for its
            own folder.
    """

    host: str
    owner: str
    path: str
    host_id: str
    clone_url: str
    kind: Kind = "code"
    private: bool = False
    archived: bool = False
    fork: bool = False
    pushed_at: datetime | None = None
    visibility: Visibility = "public"
    problem: str = ""
    blocked: str = ""
    active_at: datetime | None = None
    within: str = ""


@dataclass(frozen=True, slots=True)
class Absence:
    """What a source answers about a repository that its listing no longer has."""

    answer: Literal["not-visible", "transferred", "blocked"]
    detail: str = ""


@dataclass(frozen=True, slots=True)
class SourceIdentity:
    """Where a vault's root comes from; two sources with one root must have the same location.

    Attributes:
        owner_id: the forge's own identity of the owner; survives a rename.
    """

    provider: str
    host: str
    owner: str
    location: str = ""
    owner_id: str = ""


@dataclass(frozen=True, slots=True)
class Selection:
    """What of each repository is asked for. A change of it makes every repository changed.

    Attributes:
        pull_refs: take the heads of pull and merge requests; None where the caller did not say:
            then they are taken from this machine alone, where no forge has them besides.
    """

    pull_refs: bool | None = None
    lfs: bool = False
    metadata: tuple[str, ...] = ()

    def resolved(self, *, is_local: bool) -> "Selection":
        """Return what is asked of repositories on this machine, or of others."""
        return self if self.pull_refs is not None else replace(self, pull_refs=is_local)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """An advertised ref that cannot be stored, and why."""

    name: RefName
    id: str
    reason: str


@dataclass(frozen=True, slots=True)
class Refs:
    """The state of a repository: what its refs point at.

    Attributes:
        tips: full ref name to object id, sorted by the bytes of the name; HEAD excluded.
        peeled: for annotated tags, the id of what the tag finally points at.
        head_symref: the ref HEAD names, also when that ref does not exist (unborn); None when
            HEAD is detached, leads elsewhere than that ref, or was not advertised.
        head_id: what HEAD resolves to; None when unborn or not advertised.
        left_out: refs that were advertised and cannot be stored.
        not_selected: the number of refs that were advertised and not asked for, by the patterns of
            `backup.refs.pattern_of`. No part of the digest: forges add such refs all the time.
        protocol_v2: whether the server spoke protocol version 2.
    """

    tips: Mapping[RefName, ObjectId]
    peeled: Mapping[RefName, ObjectId] = field(default_factory=dict)
    head_symref: RefName | None = None
    head_id: ObjectId | None = None
    object_format: ObjectFormat = "sha1"
    left_out: tuple[LeftOut, ...] = ()
    not_selected: Mapping[str, int] = field(default_factory=dict)
    protocol_v2: bool = True

    @property
    def empty(self) -> bool:
        """Whether there is nothing to capture."""
        return not self.tips and self.head_id is None

    def wanted(self) -> tuple[ObjectId, ...]:
        """Every id that a capture must hold, each once, HEAD's own included."""
        ids = dict.fromkeys(self.tips.values())
        if self.head_id is not None:
            ids.setdefault(self.head_id)
        return tuple(ids)


@dataclass(frozen=True, slots=True)
class RefChange:
    """What happened to one ref since the capture before."""

    name: RefName
    kind: ChangeKind
    old: ObjectId | None
    new: ObjectId | None


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object in a destination.

    Attributes:
        version_id: the store's own version, where it has versions.
        retain_until: how long nobody can remove that version, where it was just locked, or looked
            at by itself.
        stored_at: when the object was written, by the clock of the store; None where the store
            keeps no time, and in the answer to a write.
    """

    key: Key
    size_bytes: int
    version_id: str | None = None
    retain_until: datetime | None = None
    stored_at: datetime | None = field(default=None, compare=False)


@dataclass(frozen=True, slots=True)
class ObjectVersions:
    """An object of which a store with versions has something else than one version to read.

    Attributes:
        first: the version that was written first; whatever came later, another writer put there.
        count: the number of versions, delete markers not counted.
        size_bytes: of the first version.
        stored_at: when the first version was written, by the clock of the store.
        show_again: where a delete marker hides the object, the command that removes the marker, as
            a line for a shell; else empty.
    """

    key: Key
    first: str
    count: int
    size_bytes: int = 0
    stored_at: datetime | None = field(default=None, compare=False)
    show_again: str = ""

    @property
    def is_hidden(self) -> bool:
        """Whether listings leave it out, and reading it without a version fails."""
        return bool(self.show_again)


@dataclass(frozen=True, slots=True)
class ArchivedObject:
    """An object that cannot be read before somebody has it thawed.

    Attributes:
        is_thawing: somebody asked for it already.
        command: asks for it, as a line for a shell.
    """

    key: Key
    is_thawing: bool
    command: str


class Writer(Protocol):
    """An object being written. Used by one thread.

    Nothing is visible under the key before ``commit`` returns. Leaving the ``with`` block without
    a commit aborts, as do an exception and a crash: an object nobody committed does not exist.
    Using a writer after its end is a ValueError; after a failed write it fails the same way again.
    """

    def write(self, data: bytes | bytearray | memoryview, /) -> None:
        """Append all of data. Raises IncompleteWrite; nothing is then published."""

    def commit(self, *, sha256: str | None = None) -> StoredObject:
        """Publish what was written, durably.

        Args:
            sha256: of everything written, in hex. A store whose answer was lost tells by it
                whether the object that it finds is this one.

        Raises:
            WriteConflict: an object has that key already; it is untouched.
            IncompleteWrite: the bytes could not be stored.
        """

    def abort(self) -> None:
        """Drop what was written. May be called at any time, any number of times; never raises."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None: ...


class Reader(Protocol):
    """An object being read. Used by one thread; closed by whoever opened it."""

    def read(self, size: int = -1, /) -> bytes:
        """Return exactly size bytes, fewer only at the object's end, all of them for -1.

        Raises:
            DestinationError: the object broke off; never a short answer instead.
        """

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None: ...


class Destination(Protocol):
    """Where a vault lies: objects under keys, each written once. Safe to call from many threads.

    Keys are ``/``-joined segments of printable ASCII without empty, ``.`` or ``..`` segments;
    `backup.vault.layout` makes them; any other is a ValueError, since it would be our bug. A
    missing object is ObjectNotFound, a forbidden one AccessDenied, other trouble DestinationError.

    Attributes:
        listing_is_local: whether listing and reading cost no requests, so that a run may look at
            all of it every time.
        keeps_time: whether `StoredObject.stored_at` is the store's own, which no writer can choose.
    """

    @property
    def listing_is_local(self) -> bool: ...

    @property
    def keeps_time(self) -> bool: ...

    def uri(self, key: str) -> str:
        """Name the object for people and other tools; needs no request."""

    def writer(self, key: Key) -> Writer:
        """Begin an object; a present one makes ``commit`` raise WriteConflict."""

    def probe(self, key: Key) -> str:
        """Prove that an object can be begun under key, and leave none: at most two requests.

        Returns:
            What people should know all the same, in one line; empty as a rule.

        Raises:
            BackupError: nothing could be stored there.
        """

    def put_if_absent(self, key: Key, data: bytes) -> StoredObject:
        """Store a small object whole; equal content already there is success.

        Raises:
            WriteConflict: another content has that key; it is untouched.
        """

    def open(self, key: Key, *, offset: int = 0, version: str | None = None) -> Reader:
        """Read an object from offset on; at its very end that is nothing.

        Args:
            key: of the object.
            offset: where to begin.
            version: read this one, whatever has been put there since. Where the store has it not
                (a vault that was copied), or keeps it from us, the current one is read.

        Raises:
            DestinationError: the object is shorter than offset.
        """

    def versions(self, prefix: str) -> Iterator[ObjectVersions]:
        """Yield the objects below prefix that were overwritten or are hidden, ordered by key.

        Keys are written once: a second version is another writer's, and a delete marker is what
        prune or another program left. Nothing where the store has no versions, and nothing of an
        object that has no version left. May need a right of its own.
        """

    def stat(self, key: Key) -> StoredObject:
        """Tell an object's size."""

    def list(self, prefix: str, *, versions: bool = False) -> Iterator[StoredObject]:
        """Yield every committed object whose key starts with prefix, ordered by key.

        Objects written before the call are all yielded. The prefix ends in ``/`` or is empty.

        Args:
            prefix: where to look.
            versions: tell the version of each, where the store has versions; may need a right of
                its own.
        """

    def children(self, prefix: str, *, hidden: bool = False) -> tuple[str, ...]:
        """Name the folders below prefix (one level, sorted); objects lying there are none.

        Args:
            prefix: where to look.
            hidden: name also folders of which every object lies under a delete marker, where the
                store tells that.
        """

    def archived(self, keys: Iterable[Key]) -> Iterator[ArchivedObject]:
        """Yield those of these objects that cannot be read as they are; missing ones are none."""

    def upload_url(self, key: Key, *, content_type: str, seconds: int) -> Secret | None:
        """Make a URL to which somebody else can put the object, by one PUT of at most 5 GB.

        Args:
            key: of the object; another one that has it would be replaced.
            content_type: the header that the PUT must have. It may have no other that says
                anything of the object.
            seconds: how long the URL is to live, unless the session that signs it ends before.

        Returns:
            None where nobody else can put anything, or the session ends too soon.
        """

    def delete(self, keys: Iterable[Key]) -> bool:
        """Remove objects; one that is not there is no error.

        Returns:
            Whether the store keeps them as versions that are not current, so that nothing is freed.
        """

    def renew_lock(self, key: Key, *, version: str | None) -> datetime | None:
        """Lock an object anew, for as long as new ones are; None where nothing is locked.

        Args:
            key: of the object.
            version: that is meant; the current one when nobody knows.
        """

    def locked_until(self, keys: Iterable[Key]) -> Mapping[Key, datetime]:
        """Tell until when objects are locked; those that are not, or are not there, are left out.

        Costs a request for each, but where nothing is ever locked.
        """

    def now(self) -> datetime | None:
        """Return the time by the clock that dates the objects; None where it is not known.

        Costs no request: a store over a network tells it with its other answers.
        """

    def abort_uploads(self, *, older_than: datetime) -> int:
        """Give up writing what was begun before that and never committed; tell how much.

        What a living process writes is none of it where the store can tell.
        """


class Source(Protocol):
    """Where repositories come from. Used from one thread, but for the two of `authorization`."""

    @property
    def identity(self) -> SourceIdentity:
        """Tell whose repositories they are.

        Raises:
            SourceError: it had to be asked, and could not be.
        """

    @property
    def notes(self) -> Sequence[str]:
        """What people should know of the listing, such as what it cannot have seen."""

    @property
    def if_too_short(self) -> str:
        """What to look at when the listing lacks what should be there; empty if nobody knows."""

    @property
    def lists_everything(self) -> bool:
        """Whether a repository missing from the listing is missing at the source.

        False where the listing is what the user named on the command line.
        """

    def server_time(self) -> datetime | None:
        """Return the time by the server's clock, from its answers; None where there is no server.

        Costs no request.
        """

    def authorization(self) -> Secret | None:
        """Give the Authorization header's value for git over HTTP; None where none is needed.

        Asked before each request, from many threads, since credentials may be renewed.
        """

    def renew_authorization(self) -> bool:
        """Get other credentials, since a server refused these; False where there are no others.

        Called from many threads; what one of them got will do for the others.
        """

    def repositories(self) -> Iterator[Repository]:
        """Yield every repository of the owner, each once.

        Raises:
            SourceError: the listing could not be read to its end; never a shorter list instead.
        """

    def look_up(self, *, host_id: str, path: str, kind: Kind) -> Repository | Absence:
        """Ask for one repository that the listing did not have."""


@runtime_checkable
class Exporter(Protocol):
    """A source that packs whole projects into archives. Used from one thread.

    All raise SourceError; a server that asks to wait is RateLimited.
    """

    def ask_for_export(self, host_id: str, *, upload_url: Secret | None) -> None:
        """Ask for an archive of a project, to be put to a URL, or to be kept for a download."""

    def export_state(self, host_id: str) -> ExportState:
        """Tell how far an archive has come."""

    def download_export(self, host_id: str) -> Iterator[bytes]:
        """Yield the bytes of an archive that is ready, to its end."""


@dataclass(frozen=True, slots=True)
class MissingFile:
    """A file of Git LFS that is not stored.

    Attributes:
        oid: SHA-256 of its content, its id.
        size_bytes: as its pointer says.
        permanent: the source says that it does not have it.
        known: the run before found the same; the file is gone for good, or waits for a prune.
    """

    oid: str
    size_bytes: int
    reason: str
    permanent: bool
    known: bool


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one run did with one repository.

    Attributes:
        owner: with path, how people name the repository.
        plan: full or incremental where something was or would be captured.
        reason: why this was done; for a failure, what failed.
        bytes_written: stored for this repository, bundle and record together.
        objects: git objects in the new pack.
        check: how the pack was checked.
        changes: refs that differ from the capture before; empty for a first capture.
        urgent: something an owner must see first, such as all branches being gone.
        known: a failure or block that the run before had already.
        private: whether its name is nobody's business.
        retries: how often it was tried again before it came to this.
        lfs_objects: files of Git LFS that the new pack points to.
        lfs_bytes: their sizes together, as the pointers say.
        lfs_unsearched: packs that may point to more, since they could not be searched.
        lfs_stored: files of Git LFS that were stored.
        lfs_stored_bytes: their sizes together.
        lfs_missing: files that pointers name and that are not stored.
        refs_not_selected: the number of refs that its source has and that are not asked for, by
            pattern.
        lfs_look_alikes: the number of blobs in the new pack that look like pointers of Git LFS and
            are none that git-lfs reads.
        lfs_first_look_alike: the id of one of them.
    """

    host: str
    owner: str
    path: str
    host_id: str
    kind: Kind
    status: Status
    plan: BundleKind | None = None
    reason: str = ""
    hint: str = ""
    bytes_written: int = 0
    objects: int = 0
    duration_seconds: float = 0.0
    check: Check | None = None
    changes: tuple[RefChange, ...] = ()
    urgent: str = ""
    known: bool = False
    retries: int = 0
    private: bool = False
    lfs_objects: int = 0
    lfs_bytes: int = 0
    lfs_unsearched: int = 0
    lfs_stored: int = 0
    lfs_stored_bytes: int = 0
    lfs_missing: tuple[MissingFile, ...] = ()
    refs_not_selected: Mapping[str, int] = field(default_factory=dict)
    lfs_look_alikes: int = 0
    lfs_first_look_alike: str = ""


@dataclass(frozen=True, slots=True)
class LastDrill:
    """The newest verification of an owner's vault.

    Attributes:
        checked: so many repositories.
        damaged: so many objects.
        standing: so many more had been found damaged before and had not passed since.
    """

    owner: str
    depth: str
    at: datetime
    checked: int
    damaged: int
    standing: int = 0

    @property
    def words(self) -> str:
        """All of it in one sentence."""
        found = f"{self.damaged} objects damaged" if self.damaged else "nothing damaged"
        if self.standing:
            objects = "1 object" if self.standing == 1 else f"{self.standing} objects"
            new = f"{self.damaged} objects" if self.damaged else "nothing new"
            found = f"{new} damaged, and {objects} found damaged before had not passed"
        return (
            f"{self.owner} was last verified on {self.at:%Y-%m-%d} "
            f"(depth {self.depth}, {self.checked} repositories): {found}"
        )


@dataclass(frozen=True, slots=True)
class RunReport:
    """What a run did: the one truth behind exit code, summary, outputs and JSON report.

    Attributes:
        result: success, partial or failed.
        exit_code: see `backup.errors.ExitCode`.
        dry_run: whether plans were made and nothing was stored.
        manifests: URIs of the manifests written, one an owner.
        outcomes: every repository of the listing and every one that left it, in the order of
            owner and path.
        listed: repositories in the listings.
        requests: counted by what was asked (``git``, ``probe``, ``list``, ``get``,
            ``put``).
        objects_written: objects created in the destination, manifests included.
        problems: what concerns the run as a whole and made it partial or failed.
        notes: what people should know and what changed no result.
        drills: the newest verification of each owner that had one.
        only_late: whether nothing but its time keeps the run from a success: another run goes on.
    """

    result: RunResult
    exit_code: int
    snapshot_id: str
    started_at: datetime
    finished_at: datetime
    dry_run: bool
    manifests: tuple[str, ...]
    outcomes: tuple[Outcome, ...]
    listed: int
    requests: Mapping[str, int]
    objects_written: int
    bytes_uploaded: int
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    drills: tuple[LastDrill, ...] = ()
    only_late: bool = False

    def count(self, status: Status) -> int:
        """Count the repositories that ended so."""
        return sum(outcome.status == status for outcome in self.outcomes)


class Events(Protocol):
    """Hears of a run, a restore or a listing while it goes on. Called from many threads.

    Implementations return at once and never raise.
    """

    def listing(self, identity: SourceIdentity) -> None:
        """A source's listing begins."""

    def listed(self, identity: SourceIdentity, count: int) -> None:
        """A source's listing ended with so many selected repositories."""

    def capturing(self, name: str, action: str, reason: str) -> None:
        """Work on one repository begins; name is ``owner/path``, action what is done to it."""

    def transferred(self, name: str, size_bytes: int) -> None:
        """So many more bytes of it have gone through."""

    def finished(self, outcome: Outcome) -> None:
        """One repository of a run is done, whatever its result."""

    def ended(self, name: str) -> None:
        """Other work on one repository, begun with `capturing`, is over."""

    def note(self, message: str) -> None:
        """Something people should know, one line."""
