"""What to do with a repository, and why. Pure: data in, data out, a reason with every decision."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from backup.model import Action, BundleKind, Kind, ObjectId, RefName, Refs, Repository, Selection
from backup.refs import is_selected, to_bytes
from backup.vault.chain import base_and_increments, missing
from backup.vault.documents import Entry, Record, SelectionLine
from backup.vault.layout import snapshot_time


@dataclass(frozen=True, slots=True)
class Policy:
    """When a chain has been long enough."""

    max_chain_length: int = 50
    full_after_days: int = 90


@dataclass(frozen=True, slots=True)
class Plan:
    """What a capture will do.

    Attributes:
        selection: what of the repository was asked for.
        wants: ids to ask for; empty when the chain holds every tip already.
        haves: ids that the chain holds with all they reach, the most useful first.
        prerequisites: those haves that may stand in a bundle's header: commits.
        previous: the record whose chain an increment goes on from; for a full, what to compare
            refs with.
        previous_key: where that record lies.
    """

    repository: Repository
    refs: Refs
    action: Action
    reason: str
    selection: Selection
    wants: tuple[ObjectId, ...] = ()
    haves: tuple[ObjectId, ...] = ()
    prerequisites: tuple[ObjectId, ...] = ()
    previous: Record | None = None
    previous_key: str | None = None

    @property
    def bundle_kind(self) -> BundleKind | None:
        """The kind of bundle that is written; None when there is nothing to hold."""
        return None if self.action == "empty" else self.action


def selection_line(selection: Selection) -> SelectionLine:
    """Turn what is asked for into what an entry records."""
    return SelectionLine(
        pull_refs=bool(selection.pull_refs), lfs=selection.lfs, metadata=selection.metadata
    )


# What an entry's sentences about files of Git LFS begin with.
ABOUT_FILES = "Git LFS: "
# What the sentence about refs of a repository on this machine that point at nothing begins with.
ABOUT_BROKEN_REFS = "broken refs, to be mended or deleted at the source: "
# How entries ended that were written before such packs were searched by the next run.
_NOT_SEARCHED = " packs were not searched for files of Git LFS"
# So few refs go in an ordinary week.
_FEW = 10


def why_files_are_due(entry: Entry, selection: Selection) -> str:
    """Say why the files of Git LFS of an unchanged repository must be looked at, if they must.

    What could not be had is looked at by each run, for good or not; which of it is asked for is
    chosen there (`backup.commands.missing_files`).
    """
    if not selection.lfs:
        return ""
    if not entry.selection.lfs:
        return "the files of Git LFS are asked for"
    return next((one for one in (*entry.unfinished, *entry.degraded) if is_about_files(one)), "")


def is_about_files(sentence: str) -> bool:
    """Tell whether something unfinished is a file of Git LFS, and nothing of git itself."""
    return sentence.startswith(ABOUT_FILES) or sentence.endswith(_NOT_SEARCHED)


def _has_its_own_way(sentence: str) -> bool:
    """Return whether no capture ends what is unfinished: what is broken must be mended."""
    return is_about_files(sentence) or sentence.startswith(ABOUT_BROKEN_REFS)


def why_not_unchanged(entry: Entry | None, *, digest: str, selection: Selection) -> str:
    """Compare tonight's refs with the last entry.

    Returns:
        Why the repository must be looked at, or an empty string when nothing can have changed.
    """
    if entry is None or entry.record is None:
        return "first capture"
    if entry.digest != digest:
        return "refs changed"
    if unfinished := [one for one in entry.unfinished if not _has_its_own_way(one)]:
        return f"unfinished: {', '.join(unfinished)}"
    # Files are looked for by themselves.
    before = entry.selection.model_copy(update={"lfs": selection.lfs})
    if before != selection_line(selection):
        return "another selection is asked for"
    return ""


def make_plan(
    repository: Repository,
    refs: Refs,
    *,
    why: str,
    why_full: str = "",
    broken: str = "",
    damaged: str = "",
    entry: Entry | None,
    record: Record | None,
    stored: Mapping[str, int],
    selection: Selection,
    policy: Policy,
    now: datetime,
) -> Plan:
    """Choose between a full and an increment.

    Args:
        repository: what to capture.
        refs: its refs now.
        why: the reason there is anything to do.
        why_full: why an increment will not do; empty where it may.
        broken: what is wrong with the chain though all of it is stored; empty where nothing is.
        damaged: why the chain must begin again though all of it is there with its size.
        entry: its entry in the newest state.
        record: the record that entry names; None when there is none or it cannot be used.
        stored: objects in the repository's folder, relative key to size.
        selection: what of the repository is asked for.
        policy: when a chain has been long enough.
        now: the time of the run.
    """
    previous_key = None if entry is None else entry.record
    if refs.empty:
        return Plan(
            repository,
            refs,
            "empty",
            "no refs",
            selection,
            previous=record,
            previous_key=previous_key,
        )
    full = Plan(
        repository,
        refs,
        "full",
        why,
        selection,
        wants=refs.wanted(),
        previous=record,
        previous_key=previous_key,
    )
    if record is None:
        return full
    reason = (
        why_full
        or damaged
        or _why_full(repository, refs, record, broken=broken, stored=stored, policy=policy, now=now)
    )
    if reason:
        return replace(full, reason=reason)
    haves, prerequisites = haves_of(record)
    held = frozenset(haves)
    return Plan(
        repository,
        refs,
        "incremental",
        why,
        selection,
        wants=tuple(oid for oid in refs.wanted() if oid not in held),
        haves=haves,
        prerequisites=prerequisites,
        previous=record,
        previous_key=previous_key,
    )


def haves_of(record: Record) -> tuple[tuple[ObjectId, ...], tuple[ObjectId, ...]]:
    """List what a record's chain holds: haves, branch heads first, and prerequisites among them.

    A commit that only a detached HEAD names is none of them: who applies the chain with ``git
    fetch`` alone may not have it, since git does not unpack a bundle whose refs it has already.

    git accepts commits alone as prerequisites: branch heads are, unless the capture proved
    otherwise (some servers hold refs/heads that name other objects).
    """
    heads: dict[ObjectId, None] = {}
    others: dict[ObjectId, None] = {}
    commits: dict[ObjectId, None] = {}
    for line in record.refs:
        oid = ObjectId(line.id)
        if line.ref_name.startswith("refs/heads/"):
            heads[oid] = None
            if line.object_type is None:
                commits[oid] = None
        else:
            others[oid] = None
    return tuple(heads | others), tuple(commits)


def refs_before_and_now(
    plan: Plan,
) -> tuple[dict[RefName, ObjectId], dict[RefName, ObjectId]]:
    """Return the refs of the record before and of now, as far as both were asked for.

    What a change of the selection brings or leaves out did not happen to the repository.
    """
    if plan.previous is None:
        return {}, dict(plan.refs.tips)
    line = plan.previous.selection
    before = Selection(pull_refs=line.pull_refs)

    def both(tips: Mapping[RefName, ObjectId]) -> dict[RefName, ObjectId]:
        return {
            name: oid
            for name, oid in tips.items()
            if is_selected(to_bytes(name), plan.selection) and is_selected(to_bytes(name), before)
        }

    return both(plan.previous.tips()), both(plan.refs.tips)


def why_alarming(plan: Plan, *, max_drop_percent: int) -> str:
    """Say what speaks for a mishap in the refs that are gone; empty where nothing does.

    Forges delete merged branches by themselves: few refs that go are an ordinary night, unless HEAD
    goes with them, or all branches.

    Args:
        plan: holds both sides.
        max_drop_percent: of the refs; fewer than ten are never too many.
    """
    if plan.previous is None:
        return ""
    old, new = refs_before_and_now(plan)
    gone = sum(name not in new for name in old)
    if _has_branches(old) and not _has_branches(new):
        return "all its branches are gone"
    if plan.previous.head.id is not None and plan.refs.head_id is None:
        return f"HEAD names {plan.refs.head_symref or 'a branch'}, which is not there any more"
    if gone >= _FEW and gone * 100 > len(old) * max_drop_percent:
        return f"{gone} of its {len(old)} refs are gone"
    return ""


def _has_branches(names: Iterable[RefName]) -> bool:
    return any(name.startswith("refs/heads/") for name in names)


def _why_full(
    repository: Repository,
    refs: Refs,
    record: Record,
    *,
    broken: str,
    stored: Mapping[str, int],
    policy: Policy,
    now: datetime,
) -> str:
    if not record.chain:
        return "was empty before"
    if not refs.protocol_v2:
        return "the server has no protocol version 2"
    if record.object_format != refs.object_format:
        return f"the object format changed from {record.object_format} to {refs.object_format}"
    if problem := broken or missing(record, stored):
        return f"the chain is broken: {problem}"
    if len(record.chain) >= policy.max_chain_length:
        return f"the chain has {len(record.chain)} bundles"
    base_bytes, increment_bytes = base_and_increments(record.chain)
    if increment_bytes > base_bytes:
        return f"increments ({increment_bytes} bytes) outweigh the base ({base_bytes} bytes)"
    age = now - snapshot_time(record.chain[0].snapshot_id)
    if age > timedelta(days=_full_after_days(repository, policy)):
        return f"the base is {age.days} days old"
    return ""


def _full_after_days(repository: Repository, policy: Policy) -> int:
    # Repositories first captured together must not all become due in one night.
    spread = max(1, policy.full_after_days // 4)
    number = int.from_bytes(hashlib.sha256(repository.host_id.encode()).digest()[:4], "big")
    return policy.full_after_days + number % spread


def order_of_work(
    repositories: Sequence[Repository], entries: Mapping[tuple[Kind, str], Entry]
) -> list[Repository]:
    """Put the longest untouched first, so that a short deadline starves nobody.

    A capture that was begun and did not end in time counts: what never fits into the deadline must
    not come first every night.
    """

    def last_touched(repository: Repository) -> tuple[float, str]:
        entry = entries.get((repository.kind, repository.host_id))
        times = () if entry is None else (entry.checked_at, entry.attempted_at)
        last = max((time.timestamp() for time in times if time is not None), default=0.0)
        return last, repository.path

    return sorted(repositories, key=last_touched)
