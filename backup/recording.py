"""The record of a capture: made of the plan and of what came of it. Pure.

What a record can be without is left out of one that readers would refuse for its size.
"""

from contextlib import suppress
from datetime import datetime

import backup
from backup.errors import DocumentTooLarge
from backup.model import ObjectId, RefChange, Refs, Repository
from backup.plan import Plan, selection_line
from backup.vault.documents import (
    BundleLine,
    HeadLine,
    LeftOutLine,
    LfsLine,
    Record,
    RefChangeLine,
    RefLine,
    RepositoryLine,
    encode,
    refs_digest,
    shown,
)


def make_record(
    plan: Plan,
    *,
    snapshot_id: str,
    captured_at: datetime,
    chain: tuple[BundleLine, ...],
    kinds: dict[ObjectId, str],
    changes: tuple[RefChange, ...],
    lfs: LfsLine | None,
    ids: str | None,
) -> Record:
    """Make the record of a repository.

    Args:
        plan: that was carried out.
        snapshot_id: of the run.
        captured_at: the time.
        chain: what gives the repository back.
        kinds: of objects that refs name, as far as they are known.
        changes: what happened to each ref.
        lfs: what is known of its files; None where they are not asked for.
        ids: of the new pack; None where they are unknown, or stand beside the bundle.
    """
    refs = plan.refs
    return Record(
        format=1,
        document="record",
        snapshot_id=snapshot_id,
        version=backup.__version__,
        repository=_repository_line(plan.repository),
        captured_at=captured_at,
        object_format=refs.object_format,
        selection=selection_line(plan.selection),
        digest=refs_digest(refs),
        head=_head_line(refs),
        refs=_ref_lines(plan, kinds),
        left_out=tuple(
            LeftOutLine(**shown(item.name), id=item.id, reason=item.reason)
            for item in refs.left_out
        ),
        refs_not_selected=refs.not_selected,
        chain=chain,
        changes=tuple(
            RefChangeLine(**shown(one.name), change=one.kind, old=one.old, new=one.new)
            for one in changes
        ),
        previous=plan.previous_key,
        fallback=None if refs.protocol_v2 else "mirror: the server has no protocol version 2",
        lfs=lfs,
        ids=ids,
        unproven=any(line.check.startswith("trailer") for line in chain),
    )


def encode_to_fit(record: Record) -> tuple[Record, bytes]:
    """Write a record; one that is too large without what it can be without.

    What happened to each ref can be told by the record before. Without the ids a later capture may
    have to be a full.
    """
    for left_out in ({}, {"changes": ()}):
        smaller = record.model_copy(update=left_out)
        with suppress(DocumentTooLarge):
            return smaller, encode(smaller)
    smaller = record.model_copy(update={"changes": (), "ids": None})
    return smaller, encode(smaller)


def _repository_line(repository: Repository) -> RepositoryLine:
    return RepositoryLine(
        host=repository.host,
        owner=repository.owner,
        path=repository.path,
        host_id=repository.host_id,
        kind=repository.kind,
    )


def _head_line(refs: Refs) -> HeadLine:
    if refs.head_symref is None:
        return HeadLine(id=refs.head_id)
    names = {f"symref{key.removeprefix('name')}": v for key, v in shown(refs.head_symref).items()}
    return HeadLine(**names, id=refs.head_id)


def _ref_lines(plan: Plan, kinds: dict[ObjectId, str]) -> tuple[RefLine, ...]:
    odd = {oid: kind for oid, kind in kinds.items() if kind != "commit"}
    if plan.previous is not None:
        known = (line for line in plan.previous.refs if line.object_type is not None)
        odd = {ObjectId(line.id): str(line.object_type) for line in known} | odd
    return tuple(
        RefLine.model_validate(
            {
                **shown(name),
                "id": oid,
                "peeled": plan.refs.peeled.get(name),
                "object_type": odd.get(oid) if name.startswith("refs/heads/") else None,
            }
        )
        for name, oid in plan.refs.tips.items()
    )
