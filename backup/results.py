"""What the reading commands answer: made by commands, shown by reports."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from backup.errors import ExitCode
from backup.model import ChangeKind, Kind, ObjectId, RefChange, RefName

DAMAGE_HINT = (
    "the next run takes a new full where the newest state is damaged and the source still has it; "
    "earlier snapshots may still restore with --at; docs/how-to/repair-a-vault.md tells the rest"
)
SEE_HOW_TO_REPAIR = "docs/how-to/repair-a-vault.md tells what follows, and what to do"


def packs_were(count: int) -> str:
    """Return the beginning of a sentence about a number of packs."""
    return "1 pack was" if count == 1 else f"{count} packs were"


def lies_in_versions(problem: str) -> bool:
    """Return whether damage is of what is current, and what was written may lie under it.

    Args:
        problem: what is wrong with the object, as verify notes it.
    """
    is_hidden = problem.startswith("it is missing: ") and " lies under a delete marker" in problem
    return is_hidden or problem.startswith("its version ")


@dataclass(frozen=True, slots=True)
class SnapshotRow:
    """One run of one owner, in numbers.

    Attributes:
        misdated: whether a wrong clock gave it its times; it is ordered by the store's.
    """

    id: str
    host: str
    owner: str
    started_at: datetime
    finished_at: datetime
    complete: bool
    result: str
    repositories: int
    captured: int
    unchanged: int
    failed: int
    bytes_uploaded: int
    shard: str | None = None
    misdated: bool = False


@dataclass(frozen=True, slots=True)
class DamagedSnapshotRow:
    """A snapshot, or a part of one, that cannot be read.

    Attributes:
        problem: what is wrong with it; names it.
        hint: what to do about it.
        counts: whether the newest state depends on it, so that its owner's repositories are not
            listed.
    """

    id: str
    host: str
    owner: str
    shard: str | None
    problem: str
    hint: str
    counts: bool


@dataclass(frozen=True, slots=True)
class HistoryItem:
    """One capture of a repository.

    Attributes:
        head: the ref that HEAD names, or the id of a detached HEAD, or None.
        chain: URIs of the bundles, in the order to apply.
        refs_not_selected: the number of refs that were there and not asked for, by pattern.
    """

    snapshot: str
    captured_at: datetime
    head: str | None
    refs: dict[RefName, ObjectId]
    chain: tuple[str, ...]
    changes: tuple[RefChange, ...]
    refs_not_selected: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class DrillNote:
    """The last time that a repository was verified.

    Attributes:
        ok: whether nothing was damaged.
    """

    depth: str
    at: datetime
    ok: bool


@dataclass(frozen=True, slots=True)
class DamageNote:
    """Damage of a repository's newest chain that stands.

    Attributes:
        accepted: whether its owner accepts it, and keeps what can still be restored.
    """

    uri: str
    problem: str
    found_at: datetime
    accepted: bool


@dataclass(frozen=True, slots=True)
class RepositoryRow:
    """How it stands with one repository of a vault.

    Attributes:
        state: see docs/reference/json.md.
        since: since when it is stale, or not where it was; None in any other state.
        reason: why it is in this state; empty where there is nothing to say.
        renamed_from: its path before; empty if it had no other.
        checked_at: when the source last answered with its refs.
        captured_at: when something of it was last stored.
        bundles: in the newest chain.
        size_bytes: of these bundles together.
        drill: None when none of the last drills had its turn.
        refs_not_selected: the number of refs that its source had when it was last checked and that
            were not asked for, by pattern.
        damaged: objects of its newest chain that are known to be missing or damaged.
    """

    host: str
    owner: str
    path: str
    host_id: str
    kind: str
    state: str
    since: datetime | None
    reason: str
    renamed_from: str
    checked_at: datetime | None
    captured_at: datetime | None
    bundles: int
    size_bytes: int
    drill: DrillNote | None = None
    refs_not_selected: Mapping[str, int] = field(default_factory=dict)
    damaged: tuple["DamageNote", ...] = ()


@dataclass(frozen=True, slots=True)
class VaultListing:
    """What a vault holds: its snapshots, the newest last, and its repositories by name.

    Attributes:
        forgotten: what it was told to forget, the oldest first.
        notes: what people must know of it, such as manifests that are hidden.
        damaged: snapshots that cannot be read, the newest last.
        exit_code: 0 when all of it could be read, else 4.
    """

    snapshots: tuple[SnapshotRow, ...]
    repositories: tuple[RepositoryRow, ...]
    forgotten: tuple["ForgottenRow", ...] = ()
    notes: tuple[str, ...] = ()
    damaged: tuple["DamagedSnapshotRow", ...] = ()
    exit_code: int = ExitCode.DONE


@dataclass(frozen=True, slots=True)
class History:
    """A repository and its captures, oldest first."""

    repository: RepositoryRow
    items: tuple[HistoryItem, ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LostRef:
    """A ref, or a whole repository, that its source has no more and that is still stored.

    Attributes:
        ref: None for a whole repository, as its id is.
        snapshot_id: the snapshot that captured it; later ones may have had it, too.
        had_at: when that was; of a whole repository, when it was last seen.
        lost_at: when it was found to be gone.
    """

    repository: str
    ref: RefName | None
    change: ChangeKind
    id: ObjectId | None
    snapshot_id: str
    had_at: datetime
    lost_at: datetime


@dataclass(frozen=True, slots=True)
class Restored:
    """One repository that was given back.

    Attributes:
        snapshot_id: the snapshot whose state it is.
        state_at: when the source was seen in that state.
        lost_refs: so many refs beside them are ones that its source has no more.
        left_out: so many refs were there and could not be stored.
        was_there: whether a restore before this one had made it.
        files: so many files of Git LFS came with it; with their bytes together.
        files_not_stored: so many more were not to be had when it was captured.
        files_failed: what is wrong with each of those that should have come and did not.
        files_damaged: whether one of these is missing or damaged in the vault.
        files_not_asked: whether there are more that were not asked for when it was captured.
        packs_unsearched: packs that may point to more, since they could not be searched then.
    """

    name: str
    path: Path
    snapshot_id: str
    refs: int
    objects: int
    size_bytes: int
    state_at: datetime
    lost_refs: int = 0
    left_out: int = 0
    was_there: bool = False
    files: int = 0
    files_bytes: int = 0
    files_not_stored: int = 0
    files_failed: tuple[str, ...] = ()
    files_damaged: bool = False
    files_not_asked: bool = False
    packs_unsearched: int = 0


@dataclass(frozen=True, slots=True)
class PushReport:
    """What a push brought to a remote, as the remote says afterwards.

    Attributes:
        state: what was pushed.
        sent: refs that it has now and had not before.
        unchanged: so many refs it had already.
        refused: refs that it has not, each with the reason.
        hidden: refs that forges make themselves, and a stash; they were not pushed.
        batches: so many pushes were made.
        notes: what is left to do or to know.
        files: so many files of Git LFS were sent, which the remote had not.
        files_failed: those that could not be, each with the reason.
    """

    state: Restored
    url: str
    sent: tuple[RefName, ...]
    unchanged: int
    refused: tuple[tuple[RefName, str], ...]
    hidden: tuple[RefName, ...]
    batches: int
    notes: tuple[str, ...] = ()
    files: int = 0
    files_failed: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RestoreReport:
    """What a restore did.

    Attributes:
        lost: what is lost upstream, where that was asked for; nothing is restored when it was all.
        push: None where nothing was pushed.
        thaw: commands that bring archived objects back; nothing is restored when there are any.
        left_out: repositories that were not asked for in the end, with why: gone at that time, or
            without anything that could be stored.
        failed: repositories that could not be given back, with why.
        exit_code: 0 when everything asked for is there.
    """

    restored: tuple[Restored, ...]
    left_out: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    lost: tuple[LostRef, ...] = ()
    thaw: tuple[str, ...] = ()
    push: PushReport | None = None
    exit_code: int = ExitCode.DONE


Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Something to know of a vault or a set-up, and what to do about it.

    Attributes:
        fix: empty where there is nothing to do.
        private: whether it names a repository whose name is nobody's business.
    """

    severity: Severity
    message: str
    fix: str = ""
    private: bool = False


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """What was found out about one side of a set-up.

    Attributes:
        server_time: what the other side's clock says; None where it did not.
        session: how long the credentials live on; None for ever, or where nobody knows.
    """

    findings: tuple[Finding, ...]
    server_time: datetime | None = None
    session: timedelta | None = None


@dataclass(frozen=True, slots=True)
class DoctorReport:
    """What is wrong with a set-up, and what is right.

    Attributes:
        exit_code: 0 without an error among the findings.
    """

    findings: tuple[Finding, ...]
    exit_code: int


@dataclass(frozen=True, slots=True)
class StatusReport:
    """How it stands with a vault.

    Attributes:
        exit_code: 0 when it is fresh and whole, 3 when it is not.
    """

    findings: tuple[Finding, ...]
    exit_code: int


@dataclass(frozen=True, slots=True)
class Damage:
    """An object that is not what was stored, and what depends on it.

    Attributes:
        repositories: by host, owner and path.
        snapshots: ids of those that cannot give their repository back whole.
        private: whether it names a repository whose name is nobody's business.
        fix: what to do.
    """

    uri: str
    problem: str
    repositories: tuple[str, ...]
    snapshots: tuple[str, ...]
    private: bool = False
    holders: tuple[tuple[Kind, str], ...] = ()
    fix: str = SEE_HOW_TO_REPAIR


@dataclass(frozen=True, slots=True)
class VerifyReport:
    """What a verification proved.

    Attributes:
        checked: so many repositories.
        repositories: so many there are.
        standing: objects that earlier verifications found damaged, which this one did not look at,
            or not so deep.
        exit_code: 4 when something is damaged, else 3 when something was not verified or nobody
            knows whether it is whole, else 0.
        not_readable: URIs of objects that lie in an archive: neither damaged nor proved.
        newer: of documents that a newer version of this program wrote, that they cannot be read:
            they are not damaged, and what they may promise was not looked at.
        not_verified: of repositories that this machine could not verify, each with the reason.
        not_searched: repositories of which nobody knows whether the newest state has all files of
            Git LFS, each with the number of packs that were not searched for them.
    """

    depth: str
    checked: int
    repositories: int
    damaged: tuple[Damage, ...]
    exit_code: int
    standing: int = 0
    not_readable: tuple[str, ...] = ()
    newer: tuple[str, ...] = ()
    not_verified: tuple[str, ...] = ()
    not_searched: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PruneRow:
    """What retention decided of one snapshot.

    Attributes:
        owner: host and owner, as the vault has them.
    """

    owner: str
    snapshot_id: str
    finished_at: datetime
    reason: str


@dataclass(frozen=True, slots=True)
class ForgottenRow:
    """A repository that the vault forgets.

    Attributes:
        owner: host and owner, as the vault has them.
        private: whether its name is nobody's business.
    """

    owner: str
    path: str
    host_id: str
    kind: str
    at: datetime
    reason: str
    private: bool = False


@dataclass(frozen=True, slots=True)
class ForgetReport:
    """What was forgotten by name, or would be.

    Attributes:
        is_listed: whether its source still had it, so that the next run captures it anew.
        size_bytes: of the bundles of its newest chain.
        folders: URIs of the folders with all that is stored of it.
        left: names of what belongs to it and stays: a repository's wiki.
    """

    dry_run: bool
    repository: ForgottenRow
    is_listed: bool
    size_bytes: int
    folders: tuple[str, ...]
    left: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class AcceptedRow:
    """A damaged object, and what is wrong with it."""

    uri: str
    problem: str


@dataclass(frozen=True, slots=True)
class AcceptReport:
    """The damage of a repository that was accepted, or would be.

    Attributes:
        accepted: what was not accepted before.
        before: what was.
        is_within_reach: whether its source still gives the repository.
        what_follows: what runs do then about the damage all the same, in sentences.
    """

    dry_run: bool
    repository: str
    host: str
    host_id: str
    kind: Kind
    accepted: tuple[AcceptedRow, ...]
    before: tuple[AcceptedRow, ...]
    is_within_reach: bool
    what_follows: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class CondemnedRow:
    """Files of Git LFS of an owner that nothing names, and that are left alone for now.

    Attributes:
        owner: host and owner, as the vault has them.
        first: when the first of them may be deleted.
    """

    owner: str
    objects: int
    size_bytes: int
    first: datetime


@dataclass(frozen=True, slots=True)
class LockedRow:
    """What of an owner is deleted and stays locked all the same, as versions.

    Attributes:
        owner: host and owner, as the vault has them.
        first: when the first of these objects may be removed.
        last: when the last may.
    """

    owner: str
    objects: int
    size_bytes: int
    first: datetime
    last: datetime


@dataclass(frozen=True, slots=True)
class PruneReport:
    """What a prune did, or would do.

    Attributes:
        forgotten: repositories that were forgotten.
        condemned: files that nothing names any more, and that a later prune may delete.
        locked: what is locked of the objects that are deleted, and until when.
        objects: deleted, or to be deleted.
        freed_bytes: given back by the store.
        marked_bytes: of objects that a store with versions only marks as deleted: they are freed
            when the bucket's own rule removes the versions.
        uploads: so many unfinished uploads were given up.
        refused: owners of whom nothing was deleted, with why.
        exit_code: 0 when no owner was refused, and no manifest is damaged or missing.
        notes: what could not be read, and what stays for its sake.
    """

    dry_run: bool
    keep: tuple[PruneRow, ...]
    remove: tuple[PruneRow, ...]
    objects: int
    freed_bytes: int
    marked_bytes: int
    uploads: int
    refused: tuple[str, ...]
    exit_code: int
    forgotten: tuple[ForgottenRow, ...] = ()
    locked: tuple[LockedRow, ...] = ()
    condemned: tuple[CondemnedRow, ...] = ()
    notes: tuple[Finding, ...] = ()
