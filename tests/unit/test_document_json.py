"""The JSON that ``--json`` prints: its fields are an interface, and more may come."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from backup.model import (
    STATUSES,
    LastDrill,
    MissingFile,
    ObjectId,
    Outcome,
    RefChange,
    RefName,
    RunReport,
)
from backup.report.document import (
    history_document,
    restore_document,
    run_document,
    vault_document,
)
from backup.results import (
    DrillNote,
    History,
    HistoryItem,
    LostRef,
    PushReport,
    RepositoryRow,
    Restored,
    RestoreReport,
    SnapshotRow,
    VaultListing,
)

NOW = datetime(2026, 11, 1, 2, 30, 0, 123456, tzinfo=UTC)
ONE, TWO = ObjectId("1" * 40), ObjectId("2" * 40)
ROW = RepositoryRow(
    host="folder",
    owner="acme",
    path="widgets",
    host_id="42",
    kind="code",
    state="ok",
    since=None,
    reason="",
    renamed_from="",
    checked_at=NOW,
    captured_at=NOW,
    bundles=2,
    size_bytes=2000,
)
MAIN = RefName("refs/heads/main")


def outcome(path: str, **more: Any) -> Outcome:
    known = {"host": "folder", "owner": "acme", "path": path, "host_id": "42", "kind": "code"}
    return Outcome(**{**known, "status": "unchanged", **more})


def report(*outcomes: Outcome, **more: Any) -> RunReport:
    known: dict[str, Any] = {
        "result": "partial",
        "exit_code": 3,
        "snapshot_id": "20261101T023000Z-1a2b3c4d",
        "started_at": NOW,
        "finished_at": NOW + timedelta(seconds=65),
        "dry_run": False,
        "manifests": ("/vault/folder/acme/snapshots/x.json.gz",),
        "outcomes": outcomes,
        "listed": 9,
        "requests": {"get": 1, "git": 18, "list": 5, "put": 3},
        "objects_written": 3,
        "bytes_uploaded": 123456,
        "problems": ("acme/broken: it is broken",),
        "notes": ("something to know",),
    }
    return RunReport(**{**known, **more})


def over_the_wire(document: dict[str, Any]) -> Any:
    return json.loads(json.dumps(document, ensure_ascii=True))


def test_a_run_is_reported_with_the_fields_of_the_interface() -> None:
    changes = (
        RefChange(MAIN, "advanced", ONE, TWO),
        RefChange(RefName("refs/heads/x"), "rewritten", ONE, TWO),
        RefChange(RefName("refs/tags/v"), "advanced", ONE, TWO),
    )
    captured = outcome(
        "group/widgets",
        kind="wiki",
        status="captured",
        plan="incremental",
        reason="refs changed",
        bytes_written=4567,
        objects=89,
        duration_seconds=1.25,
        check="pack",
        changes=changes,
        urgent="all its branches are gone",
        lfs_objects=2,
        lfs_bytes=30,
        lfs_unsearched=1,
        lfs_stored=1,
        lfs_stored_bytes=10,
        lfs_look_alikes=3,
        lfs_first_look_alike=ONE,
        lfs_missing=(MissingFile("ab" * 32, 20, "gone (404)", permanent=True, known=False),),
        refs_not_selected={"refs/pull/*/head": 2, "refs/pull/*/merge": 1},
    )
    drill = LastDrill("acme", "packs", NOW, checked=5, damaged=1)
    document = over_the_wire(run_document(report(captured, drills=(drill,))))
    assert document == {
        "result": "partial",
        "exit_code": 3,
        "snapshot": "20261101T023000Z-1a2b3c4d",
        "dry_run": False,
        "started_at": "2026-11-01T02:30:00.123Z",
        "finished_at": "2026-11-01T02:31:05.123Z",
        "manifests": ["/vault/folder/acme/snapshots/x.json.gz"],
        "totals": {
            "listed": 9,
            "captured": 1,
            "unchanged": 0,
            "empty": 0,
            "skipped": 0,
            "not_reached": 0,
            "planned": 0,
            "failed": 0,
            "gone": 0,
            "refs_not_selected": 3,
            "bytes_uploaded": 123456,
            "objects_written": 3,
            "requests": {"get": 1, "git": 18, "list": 5, "put": 3},
        },
        "problems": ["acme/broken: it is broken"],
        "notes": ["something to know"],
        "drills": [
            {
                "owner": "acme",
                "depth": "packs",
                "at": "2026-11-01T02:30:00.123Z",
                "checked": 5,
                "damaged": 1,
                "standing": 0,
            }
        ],
        "repositories": [
            {
                "path": "group/widgets",
                "host": "folder",
                "owner": "acme",
                "host_id": "42",
                "kind": "wiki",
                "status": "captured",
                "plan": "incremental",
                "reason": "refs changed",
                "hint": "",
                "bytes": 4567,
                "objects": 89,
                "duration_seconds": 1.25,
                "check": "pack",
                "urgent": "all its branches are gone",
                "known": False,
                "retries": 0,
                "lfs": {
                    "objects": 2,
                    "bytes": 30,
                    "unsearched": 1,
                    "stored": 1,
                    "stored_bytes": 10,
                    "look_alikes": 3,
                    "first_look_alike": ONE,
                    "missing": [
                        {
                            "oid": "ab" * 32,
                            "bytes": 20,
                            "reason": "gone (404)",
                            "permanent": True,
                            "known": False,
                        }
                    ],
                },
                "refs": {"added": 0, "advanced": 2, "rewritten": 1, "moved": 0, "deleted": 0},
                "refs_not_selected": {"refs/pull/*/head": 2, "refs/pull/*/merge": 1},
                "changes": [
                    {"name": "refs/heads/main", "change": "advanced", "old": ONE, "new": TWO},
                    {"name": "refs/heads/x", "change": "rewritten", "old": ONE, "new": TWO},
                    {"name": "refs/tags/v", "change": "advanced", "old": ONE, "new": TWO},
                ],
            }
        ],
    }


def test_totals_count_every_status() -> None:
    outcomes = [
        outcome(f"{status}-{number}", status=status)
        for count, status in enumerate(STATUSES, start=1)
        for number in range(count)
    ]
    totals = run_document(report(*outcomes))["totals"]
    counted = {name.replace("_", "-"): totals[name] for name in totals}
    assert {name: counted[name] for name in STATUSES} == {
        status: count for count, status in enumerate(STATUSES, start=1)
    }


def test_what_was_not_planned_has_no_plan() -> None:
    (one,) = over_the_wire(run_document(report(outcome("a"))))["repositories"]
    assert one["plan"] is None
    assert one["check"] is None


def test_snapshots_are_listed_in_the_order_given_with_the_fields_of_the_interface() -> None:
    row = SnapshotRow(
        id="20261101T023000Z-1a2b3c4d",
        host="folder",
        owner="acme",
        started_at=NOW,
        finished_at=NOW,
        complete=True,
        result="success",
        repositories=5,
        captured=1,
        unchanged=4,
        failed=0,
        bytes_uploaded=1000,
    )
    sharded = SnapshotRow(**{**{f: getattr(row, f) for f in row.__slots__}, "shard": "2/3"})
    first, second = over_the_wire(vault_document(VaultListing((row, sharded), ())))["snapshots"]
    assert first == {
        "id": "20261101T023000Z-1a2b3c4d",
        "host": "folder",
        "owner": "acme",
        "shard": None,
        "started_at": "2026-11-01T02:30:00.123Z",
        "finished_at": "2026-11-01T02:30:00.123Z",
        "complete": True,
        "result": "success",
        "repositories": 5,
        "captured": 1,
        "unchanged": 4,
        "failed": 0,
        "bytes_uploaded": 1000,
        "misdated": False,
    }
    assert second == {**first, "shard": "2/3"}


def history(*items: HistoryItem, checked_at: datetime | None = NOW) -> History:
    return History(replace(ROW, checked_at=checked_at), items)


def test_a_history_has_the_fields_of_the_interface() -> None:
    item = HistoryItem(
        snapshot="20261101T023000Z-1a2b3c4d",
        captured_at=NOW,
        head="refs/heads/main",
        refs={MAIN: ONE},
        chain=("/vault/a.full.bundle", "/vault/b.incremental.bundle"),
        changes=(RefChange(MAIN, "added", None, ONE),),
        refs_not_selected={"refs/pull/*/merge": 1},
    )
    row = replace(ROW, refs_not_selected={"refs/pull/*/merge": 2})
    assert over_the_wire(history_document(History(row, (item,)))) == {
        "repository": {
            "path": "widgets",
            "host_id": "42",
            "kind": "code",
            "state": "ok",
            "host": "folder",
            "owner": "acme",
            "since": None,
            "reason": "",
            "renamed_from": None,
            "checked_at": "2026-11-01T02:30:00.123Z",
            "captured_at": "2026-11-01T02:30:00.123Z",
            "bundles": 2,
            "bytes": 2000,
            "drill": None,
            "refs_not_selected": {"refs/pull/*/merge": 2},
            "damaged": [],
        },
        "notes": [],
        "history": [
            {
                "snapshot": "20261101T023000Z-1a2b3c4d",
                "captured_at": "2026-11-01T02:30:00.123Z",
                "head": "refs/heads/main",
                "refs": {"refs/heads/main": ONE},
                "chain": ["/vault/a.full.bundle", "/vault/b.incremental.bundle"],
                "changes": [
                    {"name": "refs/heads/main", "change": "added", "old": None, "new": ONE}
                ],
                "refs_not_selected": {"refs/pull/*/merge": 1},
            }
        ],
    }


def test_repositories_are_listed_beside_the_snapshots() -> None:
    row = replace(
        ROW,
        state="stale",
        since=NOW,
        reason="it broke",
        renamed_from="gadgets",
        drill=DrillNote("restore", NOW, ok=False),
    )
    document = over_the_wire(vault_document(VaultListing((), (ROW, row))))
    assert document["snapshots"] == []
    (plain, stale) = document["repositories"]
    assert plain["drill"] is None
    assert stale == {
        **plain,
        "state": "stale",
        "since": "2026-11-01T02:30:00.123Z",
        "reason": "it broke",
        "renamed_from": "gadgets",
        "drill": {"depth": "restore", "at": "2026-11-01T02:30:00.123Z", "ok": False},
    }


def test_a_push_is_reported_with_what_came_through_and_what_did_not() -> None:
    state = Restored("acme/widgets", Path("/x"), "20261101T023000Z-1a2b3c4d", 2, 30, 4000, NOW)
    pushed = PushReport(
        state,
        "https://host.example/a.git",
        sent=(MAIN,),
        unchanged=3,
        refused=((RefName("refs/heads/b"), "[rejected]"),),
        hidden=(RefName("refs/pull/1/head"),),
        batches=2,
        notes=("look",),
    )
    document = over_the_wire(restore_document(RestoreReport((), push=pushed)))
    assert document["push"] == {
        "repository": "acme/widgets",
        "snapshot": "20261101T023000Z-1a2b3c4d",
        "state_at": "2026-11-01T02:30:00.123Z",
        "url": "https://host.example/a.git",
        "sent": ["refs/heads/main"],
        "unchanged": 3,
        "refused": [{"ref": "refs/heads/b", "reason": "[rejected]"}],
        "hidden": ["refs/pull/1/head"],
        "batches": 2,
        "lfs": {"sent": 0, "failed": []},
        "notes": ["look"],
    }


def test_a_repository_never_checked_has_no_time() -> None:
    document = history_document(history(checked_at=None))
    assert document["repository"]["checked_at"] is None
    assert document["history"] == []


def test_ref_names_that_are_not_utf8_keep_their_bytes_in_json() -> None:
    odd = RefName("refs/heads/\udce9t\udce9")
    item = HistoryItem("s", NOW, odd, {odd: ONE}, (), (RefChange(odd, "added", None, ONE),))
    document = over_the_wire(history_document(history(item)))
    (made,) = document["history"]
    (name,) = made["refs"]
    assert name.encode("utf-8", "surrogateescape") == b"refs/heads/\xe9t\xe9"
    assert made["head"] == name == made["changes"][0]["name"]


def test_a_restore_is_reported_with_what_was_made() -> None:
    made = Restored(
        name="acme/widgets",
        path=Path("/restored/widgets.git"),
        snapshot_id="20261101T023000Z-1a2b3c4d",
        refs=2,
        objects=30,
        size_bytes=4000,
        state_at=NOW,
        files=3,
        files_bytes=40,
        files_not_stored=1,
        files_failed=("one",),
        files_not_asked=True,
        packs_unsearched=2,
    )
    lost = LostRef("acme/widgets", MAIN, "rewritten", ONE, "20261031T023000Z-1a2b3c4d", NOW, NOW)
    document = restore_document(
        RestoreReport(
            (made,),
            left_out=("acme/gone: not listed",),
            failed=("acme/bad",),
            lost=(lost,),
            thaw=("aws s3api restore-object",),
        )
    )
    assert over_the_wire(document) == {
        "restored": [
            {
                "repository": "acme/widgets",
                "path": "/restored/widgets.git",
                "snapshot": "20261101T023000Z-1a2b3c4d",
                "state_at": "2026-11-01T02:30:00.123Z",
                "refs": 2,
                "objects": 30,
                "bytes": 4000,
                "lost_refs": 0,
                "refs_left_out": 0,
                "was_there": False,
                "lfs": {
                    "files": 3,
                    "bytes": 40,
                    "not_stored": 1,
                    "not_asked": True,
                    "unsearched": 2,
                    "failed": ["one"],
                },
            }
        ],
        "left_out": ["acme/gone: not listed"],
        "failed": ["acme/bad"],
        "lost": [
            {
                "repository": "acme/widgets",
                "ref": "refs/heads/main",
                "change": "rewritten",
                "id": ONE,
                "snapshot": "20261031T023000Z-1a2b3c4d",
                "had_at": "2026-11-01T02:30:00.123Z",
                "lost_at": "2026-11-01T02:30:00.123Z",
            }
        ],
        "thaw": ["aws s3api restore-object"],
        "push": None,
    }
