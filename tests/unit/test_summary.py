"""The job summary, held against files that a person has read (tests/golden)."""

import os
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backup.model import LastDrill, ObjectId, Outcome, RefChange, RefName, RunReport
from backup.report.hiding import CountingEvents, hide_private_names
from backup.report.summary import MOST_BYTES, error_summary, plain, run_summary, size

GOLDEN = Path(__file__).parents[1] / "golden"
BEGAN = datetime(2026, 11, 25, 2, 30, tzinfo=UTC)
ONE, TWO = ObjectId("1" * 40), ObjectId("2" * 40)
IDENTITY = "arn:aws:sts::123456789012:assumed-role/backup/nightly"


def outcome(path: str, status: str = "captured", **more: Any) -> Outcome:
    base = Outcome(
        host="github.com", owner="acme", path=path, host_id="7", kind="code", status="captured"
    )
    return replace(base, status=status, **more)  # type: ignore[arg-type]


def captured(path: str, **more: Any) -> Outcome:
    usual: dict[str, Any] = {
        "plan": "incremental",
        "reason": "refs changed",
        "bytes_written": 1_234_567,
        "objects": 1234,
        "check": "pack",
        "changes": (
            RefChange(RefName("refs/heads/main"), "advanced", ONE, TWO),
            RefChange(RefName("refs/heads/topic"), "rewritten", ONE, TWO),
            RefChange(RefName("refs/tags/v1"), "added", None, TWO),
        ),
    }
    return outcome(path, **(usual | more))


def report(*outcomes: Outcome, **more: object) -> RunReport:
    base = RunReport(
        result="success",
        exit_code=0,
        snapshot_id="20261125T023000Z-1a2b3c4d",
        started_at=BEGAN,
        finished_at=BEGAN + timedelta(seconds=95),
        dry_run=False,
        manifests=("s3://vault/git/github.com/acme/snapshots/20261125T023000Z-1a2b3c4d.json.gz",),
        outcomes=outcomes,
        listed=len(outcomes),
        requests={"git": 8, "put": 3, "list": 4},
        objects_written=5,
        bytes_uploaded=2_469_134,
    )
    return replace(base, **more)  # type: ignore[arg-type]


FAILED = outcome(
    "broken",
    "failed",
    reason="https://github.com/acme/broken.git: the server forbids it (403)",
    hint="the token needs to read this repository's contents (REPO_BACKUP_TOKEN, or "
    "the input token)",
)
HOSTILE = "x|y `z` <b>&amp; [a](http://evil) ![i](x) @all #1 *s* _u_ ~~d~~\n::error::no\x1b[31m ü"

DRILL = LastDrill("acme", "restore", BEGAN - timedelta(days=3), checked=61, damaged=0)

PAGES = {
    "success": run_summary(
        report(captured("widgets"), captured("gadgets", plan="full", changes=()),
               outcome("quiet", "unchanged"), outcome("void", "empty"), drills=(DRILL,)),
        identity=IDENTITY,
    ),
    "partial": run_summary(
        report(
            FAILED,
            replace(FAILED, path="broken-too", known=True),
            captured("widgets", urgent="all its branches are gone"),
            outcome("away", "gone", reason="not listed since 2026-11-25: it is now other/away"),
            outcome("notice", "skipped", reason="blocked for legal reasons", known=True),
            result="partial",
            exit_code=3,
            problems=("acme/widgets: all its branches are gone",),
            notes=("acme: without a token only what is public is seen",),
            drills=(replace(DRILL, damaged=2),),
        ),
        identity=IDENTITY,
    ),
    "failed": run_summary(report(FAILED, result="failed", exit_code=1, manifests=())),
    "nothing-changed": run_summary(report(*(outcome(f"r{n}", "unchanged") for n in range(40)))),
    "empty": run_summary(
        report(*(outcome(name, "empty") for name in ("one", "two", "two.wiki"))), identity=IDENTITY
    ),
    "5000-repositories": run_summary(
        report(
            *(replace(FAILED, path=f"broken-{n:02}") for n in range(20)),
            *(captured(f"changed-{n:03}") for n in range(200)),
            *(outcome(f"r{n:04}", "unchanged") for n in range(4780)),
            result="partial",
            exit_code=3,
        ),
        identity=IDENTITY,
    ),
    "dry-run": run_summary(
        report(outcome("widgets", "planned", plan="full", reason="first capture"),
               dry_run=True, manifests=())
    ),
    "hostile": run_summary(
        report(replace(FAILED, path=HOSTILE, reason=HOSTILE, hint=HOSTILE),
               result="partial", problems=(HOSTILE,), notes=(HOSTILE,))
    ),
    "error": error_summary("owner is missing: give the organisation", "see the README"),
}  # fmt: skip


def gone(count: int, kind: Any = "deleted") -> tuple[RefChange, ...]:
    return tuple(RefChange(RefName(f"refs/heads/t{n}"), kind, ONE, None) for n in range(count))


def test_refs_that_were_lost_are_named_and_the_rest_counted() -> None:
    page = run_summary(report(captured("many", changes=gone(13)), captured("few", changes=gone(1))))
    (row,) = re.findall(r"^\| acme/many \| (refs.*) \|$", page, re.MULTILINE)
    refs = row.split("<br>")
    assert refs[0] == f"refs/heads/t0 was deleted (it was {ONE})"
    assert (len(refs), refs[-1]) == (11, "… and 3 more, in the report")
    assert f"| acme/few | refs/heads/t0 was deleted (it was {ONE}) |" in page
    assert "restore --deleted --rewritten" in page


def test_refs_that_only_went_on_are_not_named() -> None:
    page = run_summary(report(captured("on", changes=gone(3, "advanced"))))
    assert "refs/heads/t0" not in page
    assert "deleted refs" not in page


def test_a_lost_ref_of_a_hidden_repository_is_only_counted() -> None:
    shown = hide_private_names(report(captured("secret", changes=gone(2), private=True)))
    page = run_summary(shown)
    assert "hidden" not in page
    assert "| acme/private repository 1 | incremental | 1,234 | 1.2 MB | 2 deleted |" in page


@pytest.mark.parametrize("name", PAGES)
def test_a_summary_is_the_one_that_was_read(name: str) -> None:
    file = GOLDEN / f"summary-{name}.md"
    if os.environ.get("WRITE_GOLDEN"):
        file.parent.mkdir(exist_ok=True)
        file.write_text(PAGES[name], encoding="utf-8")
    assert PAGES[name] == file.read_text("utf-8")


def test_foreign_text_stays_text() -> None:
    text = plain(HOSTILE)
    # Nothing that Markdown, HTML or the runner acts on is left as it was.
    assert not re.search(r"[|`<>\[\]!@#*_~\\\n\x1b:]", re.sub(r"&#\d+;", "", text))
    assert "ü" in text


def test_5000_repositories_stay_below_the_runner_s_limit() -> None:
    many = [
        replace(FAILED, path=f"{HOSTILE}-{number}", reason=HOSTILE * 5, hint=HOSTILE)
        for number in range(5000)
    ]
    page = run_summary(report(*many, result="failed", problems=(HOSTILE,) * 100))
    assert 900_000 < len(page.encode()) < MOST_BYTES
    assert re.search(r"… and [\d,]+ more, in the report", page)
    assert page.endswith("\n")
    short = run_summary(report(*(captured(f"r{number:04}") for number in range(5000))))
    assert short.count(" | incremental | ") == 5000
    assert len(short.encode()) < MOST_BYTES


@pytest.mark.parametrize(
    ("size_bytes", "expected"),
    [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (1_234_567, "1.2 MB"), (5e12, "5.0 TB")],
)
def test_sizes_are_for_people(size_bytes: int, expected: str) -> None:
    assert size(size_bytes) == expected


def test_names_and_words_of_private_repositories_are_hidden() -> None:
    secret = captured("hush", private=True, reason="hush: refs changed", urgent="gone: hush")
    shown = hide_private_names(
        report(
            captured("open"),
            secret,
            replace(FAILED, path="mum", private=True),
            problems=("acme/hush: all its branches are gone", "a problem of all"),
            notes=("acme/mum: again in 4 s",),
        )
    )
    assert "hush" not in repr(shown)
    assert "mum" not in repr(shown)
    assert [one.path for one in shown.outcomes] == [
        "open",
        "private repository 1",
        "private repository 2",
    ]
    assert [change.kind for change in shown.outcomes[1].changes] == [
        change.kind for change in secret.changes
    ]
    assert "topic" not in repr(shown.outcomes[1])
    assert shown.problems[0] == "a problem of all"
    assert "1 about private repositories" in shown.problems[1]
    assert shown.count("failed") == 1


def test_progress_without_names_is_counted() -> None:
    said: list[str] = []
    events = CountingEvents(said.append)
    from backup.model import SourceIdentity

    identity = SourceIdentity("github", "github.com", "acme", "https://github.com/acme")
    events.listing(identity)
    events.listed(identity, 40)
    for number in range(40):
        events.capturing(f"acme/r{number}", "full", "first capture")
        events.transferred(f"acme/r{number}", 5)
        events.note(f"acme/r{number}: something")
        events.finished(captured(f"r{number}"))
        events.ended(f"acme/r{number}")
    assert not any("/r" in line for line in said)
    assert said[-1] == "40 of 40 done"
    assert len(said) == 2 + 20
