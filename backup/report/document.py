r"""The JSON documents that ``--json`` prints. Pure; the field names are an interface.

Times are RFC 3339 in UTC. Ref names that are not UTF-8 keep their bytes as surrogate escapes,
which JSON writes as ``\udcXX``.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from backup.model import ChangeKind, Outcome, RefChange, RunReport
from backup.results import (
    AcceptedRow,
    AcceptReport,
    Finding,
    ForgetReport,
    ForgottenRow,
    History,
    PruneReport,
    PruneRow,
    PushReport,
    RepositoryRow,
    RestoreReport,
    VaultListing,
    VerifyReport,
)

JsonObject = dict[str, Any]
_CHANGES: tuple[ChangeKind, ...] = ("added", "advanced", "rewritten", "moved", "deleted")


def run_document(report: RunReport) -> JsonObject:
    """Make the report of a run."""
    return {
        "result": report.result,
        "exit_code": int(report.exit_code),
        "snapshot": report.snapshot_id,
        "dry_run": report.dry_run,
        "started_at": _time(report.started_at),
        "finished_at": _time(report.finished_at),
        "manifests": list(report.manifests),
        "totals": {
            "listed": report.listed,
            "captured": report.count("captured"),
            "unchanged": report.count("unchanged"),
            "empty": report.count("empty"),
            "skipped": report.count("skipped"),
            "not_reached": report.count("not-reached"),
            "planned": report.count("planned"),
            "failed": report.count("failed"),
            "gone": report.count("gone"),
            "refs_not_selected": sum(
                sum(outcome.refs_not_selected.values()) for outcome in report.outcomes
            ),
            "bytes_uploaded": report.bytes_uploaded,
            "objects_written": report.objects_written,
            "requests": dict(report.requests),
        },
        "problems": list(report.problems),
        "notes": list(report.notes),
        "drills": [
            {
                "owner": drill.owner,
                "depth": drill.depth,
                "at": _time(drill.at),
                "checked": drill.checked,
                "damaged": drill.damaged,
                "standing": drill.standing,
            }
            for drill in report.drills
        ],
        "repositories": [_outcome(outcome) for outcome in report.outcomes],
    }


def vault_document(listing: VaultListing) -> JsonObject:
    """Make the list of snapshots, the newest last, and of repositories."""
    return {
        "snapshots": [
            {
                "id": row.id,
                "host": row.host,
                "owner": row.owner,
                "shard": row.shard,
                "started_at": _time(row.started_at),
                "finished_at": _time(row.finished_at),
                "complete": row.complete,
                "result": row.result,
                "repositories": row.repositories,
                "captured": row.captured,
                "unchanged": row.unchanged,
                "failed": row.failed,
                "bytes_uploaded": row.bytes_uploaded,
                "misdated": row.misdated,
            }
            for row in listing.snapshots
        ],
        "damaged": [
            {
                "id": row.id,
                "host": row.host,
                "owner": row.owner,
                "shard": row.shard,
                "problem": row.problem,
                "hint": row.hint,
                "counts": row.counts,
            }
            for row in listing.damaged
        ],
        "repositories": [_repository(row) for row in listing.repositories],
        "forgotten": [_forgotten(one) for one in listing.forgotten],
        "notes": list(listing.notes),
    }


def history_document(history: History) -> JsonObject:
    """Make one repository's history, the newest last."""
    return {
        "repository": _repository(history.repository),
        "history": [
            {
                "snapshot": item.snapshot,
                "captured_at": _time(item.captured_at),
                "head": item.head,
                "refs": dict(item.refs),
                "chain": list(item.chain),
                "changes": [_change(one) for one in item.changes],
                "refs_not_selected": dict(item.refs_not_selected),
            }
            for item in history.items
        ],
        "notes": list(history.notes),
    }


def _repository(row: RepositoryRow) -> JsonObject:
    drill = row.drill
    return {
        "path": row.path,
        "host_id": row.host_id,
        "kind": row.kind,
        "state": row.state,
        "host": row.host,
        "owner": row.owner,
        "since": _time_or_none(row.since),
        "reason": row.reason,
        "renamed_from": row.renamed_from or None,
        "checked_at": _time_or_none(row.checked_at),
        "captured_at": _time_or_none(row.captured_at),
        "bundles": row.bundles,
        "bytes": row.size_bytes,
        "drill": drill and {"depth": drill.depth, "at": _time(drill.at), "ok": drill.ok},
        "refs_not_selected": dict(row.refs_not_selected),
        "damaged": [
            {
                "uri": one.uri,
                "problem": one.problem,
                "found_at": _time(one.found_at),
                "accepted": one.accepted,
            }
            for one in row.damaged
        ],
    }


def restore_document(report: RestoreReport) -> JsonObject:
    """Make the report of a restore."""
    return {
        "restored": [
            {
                "repository": one.name,
                "path": str(one.path),
                "snapshot": one.snapshot_id,
                "state_at": _time(one.state_at),
                "refs": one.refs,
                "objects": one.objects,
                "bytes": one.size_bytes,
                "lost_refs": one.lost_refs,
                "refs_left_out": one.left_out,
                "was_there": one.was_there,
                "lfs": {
                    "files": one.files,
                    "bytes": one.files_bytes,
                    "not_stored": one.files_not_stored,
                    "not_asked": one.files_not_asked,
                    "unsearched": one.packs_unsearched,
                    "failed": list(one.files_failed),
                },
            }
            for one in report.restored
        ],
        "left_out": list(report.left_out),
        "failed": list(report.failed),
        "lost": [
            {
                "repository": one.repository,
                "ref": one.ref,
                "change": one.change,
                "id": one.id,
                "snapshot": one.snapshot_id,
                "had_at": _time(one.had_at),
                "lost_at": _time(one.lost_at),
            }
            for one in report.lost
        ],
        "thaw": list(report.thaw),
        "push": None if report.push is None else _push(report.push),
    }


def _push(report: PushReport) -> JsonObject:
    return {
        "repository": report.state.name,
        "snapshot": report.state.snapshot_id,
        "state_at": _time(report.state.state_at),
        "url": report.url,
        "sent": list(report.sent),
        "unchanged": report.unchanged,
        "refused": [{"ref": name, "reason": reason} for name, reason in report.refused],
        "hidden": list(report.hidden),
        "batches": report.batches,
        "lfs": {"sent": report.files, "failed": list(report.files_failed)},
        "notes": list(report.notes),
    }


def verify_document(report: VerifyReport) -> JsonObject:
    """Make the result of a verification."""
    return {
        "depth": report.depth,
        "checked": report.checked,
        "repositories": report.repositories,
        "standing": report.standing,
        "damaged": [
            {
                "uri": one.uri,
                "problem": one.problem,
                "repositories": list(one.repositories),
                "snapshots": list(one.snapshots),
            }
            for one in report.damaged
        ],
        "not_readable_now": list(report.not_readable),
        "newer_format": list(report.newer),
        "not_verified": list(report.not_verified),
        "not_searched": list(report.not_searched),
    }


def prune_document(report: PruneReport) -> JsonObject:
    """Make the result of a prune, or its plan."""

    def rows(some: Sequence[PruneRow]) -> list[JsonObject]:
        return [
            {
                "owner": one.owner,
                "snapshot": one.snapshot_id,
                "finished_at": _time(one.finished_at),
                "reason": one.reason,
            }
            for one in some
        ]

    return {
        "dry_run": report.dry_run,
        "keep": rows(report.keep),
        "remove": rows(report.remove),
        "forgotten": [_forgotten(one) for one in report.forgotten],
        "deleted_objects": report.objects,
        "freed_bytes": report.freed_bytes,
        "marked_bytes": report.marked_bytes,
        "locked": [
            {
                "owner": one.owner,
                "objects": one.objects,
                "bytes": one.size_bytes,
                "first": _time(one.first),
                "last": _time(one.last),
            }
            for one in report.locked
        ],
        "condemned": [
            {
                "owner": one.owner,
                "objects": one.objects,
                "bytes": one.size_bytes,
                "first": _time(one.first),
            }
            for one in report.condemned
        ],
        "aborted_uploads": report.uploads,
        "refused": list(report.refused),
        "notes": [
            {"severity": one.severity, "message": one.message, "fix": one.fix}
            for one in report.notes
        ],
    }


def forget_document(report: ForgetReport) -> JsonObject:
    """Make what was forgotten by name."""
    return {
        "dry_run": report.dry_run,
        "repository": _forgotten(report.repository),
        "is_listed": report.is_listed,
        "folders": list(report.folders),
        "left": list(report.left),
    }


def accept_document(report: AcceptReport) -> JsonObject:
    """Make what damage of a repository was accepted."""

    def rows(some: Sequence[AcceptedRow]) -> list[JsonObject]:
        return [{"uri": one.uri, "problem": one.problem} for one in some]

    return {
        "dry_run": report.dry_run,
        "repository": report.repository,
        "host": report.host,
        "host_id": report.host_id,
        "kind": report.kind,
        "accepted": rows(report.accepted),
        "accepted_before": rows(report.before),
        "is_within_reach": report.is_within_reach,
        "what_follows": list(report.what_follows),
    }


def _forgotten(row: ForgottenRow) -> JsonObject:
    return {
        "owner": row.owner,
        "path": row.path,
        "host_id": row.host_id,
        "kind": row.kind,
        "at": _time(row.at),
        "reason": row.reason,
    }


def findings_document(findings: Sequence[Finding]) -> list[JsonObject]:
    """Make the list of what was found."""
    return [{"severity": one.severity, "message": one.message, "fix": one.fix} for one in findings]


def _outcome(outcome: Outcome) -> JsonObject:
    return {
        "path": outcome.path,
        "host": outcome.host,
        "owner": outcome.owner,
        "host_id": outcome.host_id,
        "kind": outcome.kind,
        "status": outcome.status,
        "plan": outcome.plan,
        "reason": outcome.reason,
        "hint": outcome.hint,
        "bytes": outcome.bytes_written,
        "objects": outcome.objects,
        "duration_seconds": outcome.duration_seconds,
        "check": outcome.check,
        "urgent": outcome.urgent,
        "known": outcome.known,
        "retries": outcome.retries,
        "lfs": {
            "objects": outcome.lfs_objects,
            "bytes": outcome.lfs_bytes,
            "unsearched": outcome.lfs_unsearched,
            "stored": outcome.lfs_stored,
            "stored_bytes": outcome.lfs_stored_bytes,
            "look_alikes": outcome.lfs_look_alikes,
            "first_look_alike": outcome.lfs_first_look_alike or None,
            "missing": [
                {
                    "oid": one.oid,
                    "bytes": one.size_bytes,
                    "reason": one.reason,
                    "permanent": one.permanent,
                    "known": one.known,
                }
                for one in outcome.lfs_missing
            ],
        },
        "refs": {kind: sum(one.kind == kind for one in outcome.changes) for kind in _CHANGES},
        "refs_not_selected": dict(outcome.refs_not_selected),
        "changes": [_change(one) for one in outcome.changes],
    }


def _change(change: RefChange) -> JsonObject:
    return {"name": change.name, "change": change.kind, "old": change.old, "new": change.new}


def _time_or_none(moment: datetime | None) -> str | None:
    return None if moment is None else _time(moment)


def _time(moment: datetime) -> str:
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
