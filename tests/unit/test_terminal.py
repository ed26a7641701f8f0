"""What people see: foreign text is shown and never acted on, with a terminal and without."""

import io
import re
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from rich.console import Console

from backup.model import (
    Events,
    ObjectId,
    Outcome,
    RefChange,
    RefName,
    RunReport,
    SourceIdentity,
    Status,
)
from backup.report.terminal import (
    TerminalEvents,
    print_history,
    print_restore,
    print_run,
    print_vault,
    shown,
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

NOW = datetime(2026, 11, 1, 2, 30, tzinfo=UTC)
ID = "20261101T023000Z-1a2b3c4d"
ONE = ObjectId("1" * 40)
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
ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")

HOSTILE = (
    "\x1b[31mred\x1b[0m",
    "\x1b]0;title\x07",
    "\x9b31mred",
    "[red]markup[/red]",
    "[link=file:///x]link[/link]",
    ":smile:",
    "line\nbreak\rreturn\ttab\0null",
    "\u202eright to left\u2066",
    "odd\udce9",
    "%0A::error::injected",
)


def plain(**more: object) -> Console:
    """Make the console of a pipe, as wide as the program makes it."""
    return Console(file=io.StringIO(), width=10_000, **more)  # type: ignore[arg-type]


def terminal(**environment: str) -> Console:
    variables = {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30", **environment}
    return Console(file=io.StringIO(), force_terminal=True, _environ=variables)


def text(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def outcome(path: str = "widgets", status: Status = "captured", owner: str = "acme") -> Outcome:
    return Outcome(
        host="folder",
        owner=owner,
        path=path,
        host_id="42",
        kind="code",
        status=status,
        plan="full" if status == "captured" else None,
        reason="first capture" if status == "captured" else "",
        bytes_written=12345,
        objects=67,
    )


def report(*outcomes: Outcome) -> RunReport:
    return RunReport(
        result="partial",
        exit_code=3,
        snapshot_id=ID,
        started_at=NOW,
        finished_at=NOW + timedelta(seconds=65),
        dry_run=False,
        manifests=("/vault/folder/acme/snapshots/x.json.gz",),
        outcomes=outcomes,
        listed=len(outcomes),
        requests={"get": 1, "git": 18},
        objects_written=3,
        bytes_uploaded=123456,
    )


def printed(report_: RunReport, console: Console | None = None) -> str:
    console = console or plain()
    print_run(report_, console)
    return text(console)


# --- Foreign text ------------------------------------------------------------------------------


def show_run(name: str, console: Console) -> None:
    """Say a name wherever a run can say one."""
    bad = replace(
        outcome(name, "failed", owner=name),
        reason=name,
        hint=name,
        urgent=name,
        changes=(RefChange(RefName(name), "rewritten", ONE, ONE),),
    )
    print_run(
        replace(report(bad, outcome(name)), problems=(name,), notes=(name,), manifests=(name,)),
        console,
    )


def show_vault(name: str, console: Console) -> None:
    row = SnapshotRow(name, name, name, NOW, NOW, True, "success", 1, 1, 0, 0, 5, name)
    repository = replace(
        ROW, owner=name, path=name, state="renamed", renamed_from=name, reason=name
    )
    print_vault(VaultListing((row,), (repository,)), console)


def show_history(name: str, console: Console) -> None:
    change = RefChange(RefName(name), "deleted", ONE, None)
    item = HistoryItem(name, NOW, name, {RefName(name): ONE}, (name,), (change,))
    row = replace(ROW, host=name, owner=name, path=name, host_id=name)
    print_history(History(row, (item,)), console)


def show_restore(name: str, console: Console) -> None:
    made = Restored(name, Path("/x") / name.replace("\0", ""), ID, 1, 1, 1, NOW)
    lost = (LostRef(name, RefName(name), "deleted", ONE, name, NOW, NOW),)
    print_restore(RestoreReport((made,), (name,), (name,), lost=lost), console)
    print_restore(RestoreReport((), failed=(name,), thaw=(name,)), console)
    ref = RefName(name)
    pushed = PushReport(made, name, (ref,), 1, ((ref, name),), (ref,), 1, (name,))
    print_restore(RestoreReport((), push=pushed), console)


def show_progress(name: str, console: Console) -> None:
    identity = SourceIdentity(provider="git", host=name, owner=name, location=name)
    with TerminalEvents(console) as events:
        events.listing(identity)
        events.listed(identity, 1)
        events.capturing(f"{name}/{name}", "full", name)
        events.transferred(f"{name}/{name}", 5)
        events.finished(replace(outcome(name, "failed", owner=name), reason=name))
        events.capturing(f"{name}/{name}", "restore", name)
        events.ended(f"{name}/{name}")
        events.note(name)


SHOWS: list[Callable[[str, Console], None]] = [
    show_run,
    show_vault,
    show_history,
    show_restore,
    show_progress,
]


@pytest.mark.parametrize("show", SHOWS)
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_shown_as_text(name: str, show: Callable[[str, Console], None]) -> None:
    console = plain()
    show(name, console)
    said = text(console)
    assert shown(name).replace("\\x00", "") in said.replace("\\x00", "")
    assert all(char.isprintable() or char == "\n" for char in said)


@pytest.mark.parametrize("show", SHOWS)
@pytest.mark.parametrize("name", HOSTILE)
def test_on_a_terminal_only_our_own_colours_and_movements_are_sent(
    name: str, show: Callable[[str, Console], None]
) -> None:
    harmless, hostile = terminal(), terminal()
    show("harmless", harmless)
    show(name, hostile)
    own = {*ESCAPES.findall(text(harmless))} | {"\x1b[2K", "\x1b[1A", "\x1b[0m"}
    assert {*ESCAPES.findall(text(hostile))} <= own
    rest = ESCAPES.sub("", text(hostile))
    assert all(char.isprintable() or char in "\n\r" for char in rest)


@pytest.mark.parametrize("show", SHOWS)
@pytest.mark.parametrize(
    "name",
    [
        "::error::injected",
        "  ::add-mask::x",
        "\n::error::injected",
        "##[error]x",
        "a ##[add-mask]x",
    ],
)
def test_no_line_begins_like_a_workflow_command(
    name: str, show: Callable[[str, Console], None]
) -> None:
    """A runner takes a line that begins so, or holds the older form anywhere, for a command."""
    console = plain()
    show(name, console)
    begun = [line for line in text(console).splitlines() if line.lstrip().startswith("::")]
    assert begun == []
    assert "##[" not in text(console)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("größe \N{SNOWMAN}", "größe \N{SNOWMAN}"),
        ("\x1b[0m", "\\x1b[0m"),
        ("a\nb", "a\\nb"),
        ("\udce9", "\\udce9"),
        ("\u202e", "\\u202e"),
        ("[red]", "[red]"),
    ],
)
def test_what_a_terminal_would_act_on_is_escaped(name: str, said: str) -> None:
    assert shown(name) == said


# --- A run -------------------------------------------------------------------------------------


def test_what_is_urgent_comes_first_then_problems_then_failures() -> None:
    failed = replace(outcome("broken", "failed"), reason="it broke", hint="mend it")
    urgent = replace(outcome("emptied"), urgent="all its branches are gone")
    document = replace(report(outcome("fine"), urgent, failed), problems=("the time was up",))
    lines = printed(document).splitlines()
    assert lines[0] == "acme/emptied: all its branches are gone"
    assert lines[1] == "problem: the time was up"
    assert lines[2].split()[:3] == ["repository", "status", "plan"]
    assert [line.split()[0] for line in lines[3:6]] == [
        "acme/broken",
        "acme/fine",
        "acme/emptied",
    ]
    assert lines[6] == "hint: acme/broken: mend it"
    assert lines[7].startswith("partial: 3 listed: 2 captured, 1 failed; 3 objects")
    assert lines[8] == "manifest: /vault/folder/acme/snapshots/x.json.gz"


def test_what_did_not_change_is_a_number_alone() -> None:
    said = printed(report(outcome("quiet", "unchanged"), outcome("void", "empty")))
    assert "quiet" not in said
    assert "void" not in said
    assert "1 unchanged, 1 empty" in said


def test_a_dry_run_says_that_nothing_was_stored() -> None:
    said = printed(replace(report(), dry_run=True, manifests=()))
    assert "dry run, nothing stored" in said
    assert "none done" in said


def test_of_very_many_repositories_the_failures_are_shown_and_the_rest_is_counted() -> None:
    many = [outcome(f"r{number:03}") for number in range(200)]
    lines = printed(report(*many, outcome("broken", "failed"))).splitlines()
    assert lines[1].startswith("acme/broken")
    assert "... and 151 more (--json shows all)" in lines
    assert len(lines) < 60


def test_a_capture_is_one_line_with_its_numbers() -> None:
    changes = [RefChange(RefName(f"refs/heads/{n}"), "advanced", ONE, ONE) for n in range(3)]
    changes.append(RefChange(RefName("refs/heads/x"), "deleted", ONE, None))
    line = printed(report(replace(outcome(), changes=tuple(changes)))).splitlines()[1]
    assert re.split(r" {2,}", line.strip()) == [
        "acme/widgets",
        "captured",
        "full",
        "67",
        "12.3 kB",
        "3 advanced, 1 deleted",
        "first capture",
    ]


# --- With a terminal and without ---------------------------------------------------------------


def everything(events: Events) -> None:
    identity = SourceIdentity(provider="git", host="folder", owner="acme", location="/srv/acme")
    events.listing(identity)
    events.listed(identity, 2)
    events.capturing("acme/widgets", "full", "first capture")
    events.transferred("acme/widgets", 1000)
    events.finished(outcome())
    events.finished(replace(outcome("broken", "failed"), reason="it broke"))
    events.finished(outcome("quiet", "unchanged"))
    events.finished(replace(outcome("media"), plan=None, lfs_stored=3))
    events.note("a clock was wrong")


def test_without_a_terminal_progress_is_plain_lines() -> None:
    console = plain()
    with TerminalEvents(console) as events:
        everything(events)
    assert text(console).splitlines() == [
        "listing /srv/acme",
        "acme: 2 repositories",
        "acme/widgets: full (first capture)",
        "acme/widgets: full, 67 objects, 12.3 kB",
        "acme/broken: failed: it broke",
        "acme/media: 3 files of Git LFS, 12.3 kB",
        "a clock was wrong",
    ]


def test_on_a_terminal_the_lines_of_the_progress_are_taken_away_in_the_end() -> None:
    console = terminal()
    with TerminalEvents(console) as events:
        everything(events)
    said = ESCAPES.sub("", text(console))
    assert "acme/broken: failed: it broke" in said
    assert "acme/widgets: full, 67 objects, 12.3 kB" in said
    assert text(console).endswith("\x1b[2K")
    assert "\x1b[?25h" in text(console), "the cursor is shown again"


def test_the_cursor_comes_back_when_a_run_breaks_off() -> None:
    console = terminal()

    def break_off() -> None:
        with TerminalEvents(console) as events:
            events.capturing("acme/widgets", "full", "first capture")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        break_off()
    assert "\x1b[?25h" in text(console)


def test_no_color_is_honoured_on_a_terminal() -> None:
    coloured = printed(report(outcome("a", "failed")), terminal())
    colourless = printed(report(outcome("a", "failed")), terminal(NO_COLOR="1"))
    assert re.search(r"\x1b\[[0-9;]*3\d", coloured)
    assert not re.search(r"\x1b\[[0-9;]*[349]\d", colourless)


def test_output_is_understood_without_colour() -> None:
    assert ESCAPES.search(printed(report(outcome("a", "failed")))) is None


def test_events_may_come_from_many_threads_and_for_work_that_nobody_announced() -> None:
    console = terminal()
    with TerminalEvents(console) as events:
        events.transferred("acme/unknown", 5)
        events.finished(outcome("unknown"))
        events.ended("acme/unknown")
    assert "acme/unknown: full" in ESCAPES.sub("", text(console))


# --- Lists, histories, restores ----------------------------------------------------------------


def test_snapshots_are_a_table_with_utc_times() -> None:
    console = plain()
    row = SnapshotRow(
        ID, "folder", "acme", NOW, NOW + timedelta(hours=1), True, "success", 5, 1, 4, 0, 2000
    )
    rows = (row, replace(row, result="failed", shard="2/3"))
    print_vault(VaultListing(rows, ()), console)
    head, first, second, *_ = text(console).splitlines()
    assert head.split()[:3] == ["snapshot", "owner", "finished"]
    assert re.split(r" {2,}", first.strip()) == [
        *(ID, "folder/acme", "2026-11-01 03:30:00", "success"),
        *("5", "1", "4", "0", "2.0 kB"),
    ]
    assert second.startswith(f"{ID} (2/3)")


@pytest.mark.parametrize(
    ("row", "state"),
    [
        (ROW, "ok"),
        (replace(ROW, state="stale", since=NOW), "stale since 2026-11-01"),
        (replace(ROW, state="stale"), "stale"),
        (replace(ROW, state="not-listed", since=NOW), "not listed since 2026-11-01"),
        (replace(ROW, state="transferred", since=NOW), "transferred since 2026-11-01"),
        (replace(ROW, state="blocked"), "blocked"),
        (replace(ROW, state="renamed", renamed_from="old"), "renamed from old"),
    ],
)
def test_repositories_are_a_table_that_says_how_it_stands_with_each(
    row: RepositoryRow, state: str
) -> None:
    console = plain()
    proved = replace(row, checked_at=None, drill=DrillNote("packs", NOW, ok=True))
    print_vault(VaultListing((), (row, proved)), console)
    first, second = text(console).splitlines()[-2:]
    assert re.split(r" {2,}", first.strip()) == [
        *("acme/widgets", state, "2026-11-01 02:30:00", "2026-11-01 02:30:00", "never"),
        *("2", "2.0 kB"),
    ]
    cells = re.split(r" {2,}", second.strip())
    assert cells[2:5] == ["never", "2026-11-01 02:30:00", "2026-11-01 02:30:00 (packs): sound"]


def test_a_history_ends_with_the_newest_chain_in_the_order_to_apply() -> None:
    console = plain()
    old = HistoryItem("old", NOW, "refs/heads/main", {}, ("/vault/a",), ())
    moved = tuple(RefChange(RefName(f"refs/heads/{n}"), "rewritten", ONE, ONE) for n in range(9))
    new = HistoryItem("new", NOW, None, {}, ("/vault/a", "/vault/b"), moved)
    print_history(History(replace(ROW, checked_at=None), (old, new)), console)
    lines = text(console).splitlines()
    assert lines[0] == "folder/acme/widgets (id 42): ok, last checked never"
    assert lines[-3:] == ["newest chain, in the order to apply:", "  /vault/a", "  /vault/b"]
    (line,) = [line for line in lines if line.startswith("new ")]
    assert line.count("rewritten refs/heads/") == 5
    assert line.rstrip().endswith("...")


def test_a_restore_says_what_is_lost_and_what_came_back_with_it() -> None:
    console = plain()
    made = Restored("acme/w", Path("/w"), ID, 2, 30, 4000, NOW, lost_refs=1, left_out=3)
    losses = (
        LostRef("acme/gone", None, "deleted", None, ID, NOW, NOW),
        LostRef("acme/w", RefName("refs/heads/topic"), "deleted", ONE, ID, NOW, NOW),
    )
    print_restore(RestoreReport((made, replace(made, was_there=True)), lost=losses), console)
    head, gone, topic, first, few, second, _ = text(console).splitlines()
    assert head.split()[:3] == ["repository", "ref", "what"]
    assert re.split(r" {2,}", gone.strip()) == [
        *("acme/gone", "all of it", "not listed", "2026-11-01 02:30:00", ID),
    ]
    assert re.split(r" {2,}", topic.strip()) == [
        *("acme/w", "refs/heads/topic", "deleted", ONE, "2026-11-01 02:30:00", ID),
    ]
    assert first.endswith("/w (2 refs and 1 lost ones, 4.0 kB)")
    assert few == "acme/w: 3 refs of its source could not be stored"
    assert second.endswith("4.0 kB, was there already)")


def test_a_restore_says_what_was_made_left_out_and_failed() -> None:
    console = plain()
    made = Restored("acme/widgets", Path("/restored/widgets.git"), ID, 2, 30, 4000, NOW)
    print_restore(RestoreReport((made,), ("acme/gone: since then",), ("acme/bad: x",)), console)
    assert text(console).splitlines() == [
        "acme/widgets as of 2026-11-01 02:30:00 UTC: /restored/widgets.git (2 refs, 4.0 kB)",
        "left out: acme/gone: since then",
        "failed: acme/bad: x",
    ]
