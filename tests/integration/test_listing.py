"""What is printed: documents for programs, tables and progress for people."""

import os
import pty
import re
import select
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.integration.test_run import MAIN, Lab, push
from tests.support import shapes
from tests.support.git import git, set_head, update_refs
from tests.support.program import PROGRAM, Completed, environment, repo_backup

RUN = ("run", "--from", "src", "--to", "vault")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z")


def moment(text: str) -> datetime:
    assert TIME.fullmatch(text), text
    return datetime.fromisoformat(text)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Make a folder with ./src: two sound repositories, an empty and a bad one."""
    lab = Lab(tmp_path / "src")
    lab.repository("team/api")
    lab.repository("site")
    lab.repository("none", commits=0)
    shapes.make("shallow", tmp_path / "src/bad")
    return tmp_path


def assert_report(report: dict[str, Any]) -> None:
    """Check the fields of a report that stay, and that they agree with each other."""
    assert report["result"] in {"success", "partial", "failed"}
    assert re.fullmatch(r"\d{8}T\d{6}Z-[0-9a-z]{4,32}", report["snapshot"])
    totals, rows = report["totals"], report["repositories"]
    statuses = [row["status"] for row in rows]
    for status in ("captured", "unchanged", "empty", "skipped", "failed", "gone"):
        assert totals[status] == statuses.count(status), status
    assert totals["listed"] == len(rows) - totals["gone"]
    for row in rows:
        assert {
            "path",
            "host_id",
            "kind",
            "status",
            "plan",
            "reason",
            "bytes",
            "objects",
            "duration_seconds",
        } <= row.keys()
        assert row["kind"] == "code"
        assert row["plan"] in {"full", "incremental", None}
        assert (row["plan"] is None) == (row["status"] != "captured")
        assert row["duration_seconds"] >= 0
        assert bool(row["objects"]) <= (row["status"] == "captured")
        assert row["reason"] or row["status"] == "unchanged" or row["status"] == "empty"
    assert sum(row["bytes"] for row in rows) < totals["bytes_uploaded"]
    assert all(type(number) is int and number > 0 for number in totals["requests"].values())
    assert {"git", "list", "put"} <= totals["requests"].keys()


def test_the_report_of_a_run_has_the_fields_that_stay(folder: Path) -> None:
    report = repo_backup(*RUN, "--json", cwd=folder, check=3).json
    assert_report(report)
    assert [row["path"] for row in report["repositories"]] == ["bad", "none", "site", "team/api"]
    assert report["totals"]["objects_written"] == 2 * 2 + 1 + 1
    # Two for the refs and one for the pack; what is known to be shallow is not even asked.
    assert report["totals"]["requests"]["git"] == 2 * 3 + 2
    assert report["totals"]["requests"]["put"] == report["totals"]["objects_written"]
    push(folder / "src/site")
    (folder / "src/none").rename(folder / "none")
    assert_report(repo_backup(*RUN, "--json", "--accept-drop", cwd=folder, check=3).json)


def test_the_bytes_of_the_report_are_those_in_the_vault(folder: Path) -> None:
    def stored() -> int:
        return sum(p.stat().st_size for p in (folder / "vault/folder").rglob("*.*") if p.is_file())

    report = repo_backup(*RUN, "--json", cwd=folder, check=3).json
    assert report["totals"]["bytes_uploaded"] == (before := stored())
    push(folder / "src/site")
    report = repo_backup(*RUN, "--json", cwd=folder, check=3).json
    assert report["totals"]["bytes_uploaded"] == stored() - before


def test_a_list_has_every_snapshot_newest_last(folder: Path) -> None:
    reports = [repo_backup(*RUN, "--json", cwd=folder, check=3).json for _ in range(3)]
    document = repo_backup("list", "--from", "vault", "--json", cwd=folder).json
    assert document.keys() == {"snapshots", "damaged", "repositories", "forgotten", "notes"}
    rows = document["snapshots"]
    assert [row["id"] for row in rows] == [report["snapshot"] for report in reports]
    assert [(row["captured"], row["unchanged"], row["failed"]) for row in rows] == [
        (2, 0, 1),
        (0, 2, 1),
        (0, 2, 1),
    ]
    for row, report in zip(rows, reports, strict=True):
        assert row["complete"] is True
        assert row["repositories"] == 4
        assert row["started_at"] == report["started_at"]
        assert moment(row["started_at"]) <= moment(row["finished_at"])
        assert moment(row["finished_at"]) <= moment(report["finished_at"])


def test_a_history_has_every_capture_newest_last(folder: Path) -> None:
    path = folder / "src/team/api"
    first = repo_backup(*RUN, "--json", cwd=folder, check=3).json
    repo_backup(*RUN, cwd=folder, check=3)
    tip = push(path, branch=b"refs/heads/next", label=b"next").decode()
    set_head(path, b"refs/heads/next")
    last = repo_backup(*RUN, "--json", cwd=folder, check=3).json
    words = ("list", "src/team/api", "--from", "vault", "--json")
    document = repo_backup(*words, cwd=folder).json
    assert document.keys() == {"repository", "history", "notes"}
    (row,) = [row for row in last["repositories"] if row["path"] == "team/api"]
    repository = document["repository"]
    assert {name: repository[name] for name in ("path", "host_id", "kind", "state")} == {
        "path": "team/api",
        "host_id": row["host_id"],
        "kind": "code",
        "state": "ok",
    }
    main = git("rev-parse", MAIN, cwd=path).decode().strip()
    history = document["history"]
    assert [(item["snapshot"], item["head"], item["refs"]) for item in history] == [
        (first["snapshot"], "refs/heads/main", {"refs/heads/main": main}),
        (
            last["snapshot"],
            "refs/heads/next",
            {"refs/heads/main": main, "refs/heads/next": tip},
        ),
    ]
    assert [len(item["chain"]) for item in history] == [1, 2]
    assert history[1]["chain"][0] == history[0]["chain"][0]
    for bundle in history[1]["chain"]:
        heads = git("bundle", "list-heads", bundle, cwd=folder)
        assert b"refs/heads/main" in heads
    assert moment(history[0]["captured_at"]) < moment(history[1]["captured_at"])


def test_a_history_says_how_it_stands_with_a_repository(folder: Path) -> None:
    Lab(folder / "src").repository("gone")
    repo_backup(*RUN, cwd=folder, check=3)
    (folder / "src/gone").rename(folder / "gone")
    # One of five is as much as may go without a word.
    repo_backup(*RUN, cwd=folder, check=3)
    states = {"none": "ok", "bad": "stale", "site": "ok", "gone": "not-listed"}
    for name, state in states.items():
        document = repo_backup("list", name, "--from", "vault", "--json", cwd=folder).json
        assert document["repository"]["state"] == state
        assert len(document["history"]) == (0 if name == "bad" else 1)


def test_a_list_tells_of_every_repository_what_its_history_tells(folder: Path) -> None:
    Lab(folder / "src").repository("gone")
    repo_backup(*RUN, cwd=folder, check=3)
    (folder / "src/gone").rename(folder / "gone")
    push(folder / "src/site")
    repo_backup(*RUN, cwd=folder, check=3)
    repo_backup("verify", "--from", "vault", "--depth", "packs", cwd=folder)
    rows = repo_backup("list", "--from", "vault", "--json", cwd=folder).json["repositories"]
    assert [row["path"] for row in rows] == ["bad", "gone", "none", "site", "team/api"]
    for row in rows:
        words = ("list", row["path"], "--from", "vault", "--json")
        history = repo_backup(*words, cwd=folder).json
        assert history["repository"] == row
        chain = history["history"][-1]["chain"] if history["history"] else []
        assert row["bundles"] == len(chain)
        assert row["bytes"] == sum(Path(uri).stat().st_size for uri in chain)
    bad, gone, _, site, _ = rows
    assert site["bundles"] == 2
    assert (site["drill"]["depth"], site["drill"]["ok"]) == ("packs", True)
    assert bad["drill"] is None
    assert bad["reason"]
    assert datetime.fromisoformat(bad["since"]) < datetime.fromisoformat(gone["since"])
    shown = repo_backup("list", "--from", "vault", cwd=folder).stdout
    assert re.search(r"^src/bad +stale since \d{4}-\d\d-\d\d +never", shown, re.MULTILINE)
    assert re.search(r"^src/gone +not listed since \d{4}-\d\d-\d\d", shown, re.MULTILINE)


@pytest.mark.parametrize("zone", ["<+1345>-13:45", "<-1200>12"])
def test_times_are_utc_whatever_the_zone_of_the_machine(zone: str, folder: Path) -> None:
    env = {"TZ": zone}
    before = datetime.now(UTC) - timedelta(seconds=1)
    report = repo_backup(*RUN, "--json", cwd=folder, env=env, check=3).json
    after = datetime.now(UTC) + timedelta(seconds=1)
    (row,) = repo_backup("list", "--from", "vault", "--json", cwd=folder, env=env).json["snapshots"]
    words = ("list", "src/site", "--from", "vault")
    history = repo_backup(*words, "--json", cwd=folder, env=env).json
    times = [
        *(report[name] for name in ("started_at", "finished_at")),
        *(row[name] for name in ("started_at", "finished_at")),
        history["repository"]["checked_at"],
        history["history"][0]["captured_at"],
    ]
    assert all(before <= moment(text) <= after for text in times)
    stamp = datetime.strptime(report["snapshot"][:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    assert before <= stamp <= after
    text = repo_backup(*words, cwd=folder, env=env).stdout
    assert f"{moment(history['history'][0]['captured_at']):%Y-%m-%d %H:%M:%S}" in text


# --- Where it goes -----------------------------------------------------------------------------


def test_without_a_terminal_progress_is_plain_lines_on_stderr(folder: Path) -> None:
    finished = repo_backup(*RUN, cwd=folder, check=3)
    lines = finished.stderr.splitlines()
    assert f"listing {folder}/src" in lines
    assert "src: 4 repositories" in lines
    assert "src/site: full (first capture)" in lines
    assert [line for line in lines if line.startswith("src/bad: failed: ")]
    assert_plain(finished)
    assert "src/site" in finished.stdout
    assert finished.stdout.splitlines()[-1].startswith("manifest: ")
    assert finished.stdout.splitlines()[-2].startswith("partial: 4 listed: 2 captured, ")
    assert "listing" not in finished.stdout.replace(" listed", "")


def assert_plain(finished: Completed) -> None:
    for text in (finished.stdout, finished.stderr):
        assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)


@pytest.mark.parametrize("env", [{"NO_COLOR": "1"}, {"TERM": "xterm-256color"}])
def test_into_a_pipe_nothing_is_coloured(env: dict[str, str], folder: Path) -> None:
    assert_plain(repo_backup(*RUN, cwd=folder, env=env, check=3))
    for words in (("list",), ("list", "src/site")):
        assert_plain(repo_backup(*words, "--from", "vault", cwd=folder, env=env))


def test_a_table_in_a_pipe_is_not_folded(tmp_path: Path) -> None:
    name = "/".join(["a-rather-long-name-of-a-folder"] * 8)
    Lab(tmp_path / "src").repository(name)
    finished = repo_backup(*RUN, cwd=tmp_path, env={"COLUMNS": "40"})
    assert f"src/{name}" in finished.stdout


def test_with_json_stdout_is_one_document_whatever_the_result(folder: Path) -> None:
    assert repo_backup(*RUN, "--json", "--dry-run", cwd=folder, check=None).json["dry_run"]
    assert repo_backup(*RUN, "--json", cwd=folder, check=3).json["exit_code"] == 3
    assert repo_backup("list", "--from", "vault", "--json", cwd=folder).json["snapshots"]
    assert repo_backup(*RUN, "--json", "--include", "x", cwd=folder, check=2).json["error"]
    (folder / "src/site").rename(folder / "site")
    assert repo_backup(*RUN, "--json", cwd=folder, check=1).json["result"] == "failed"


# --- A terminal --------------------------------------------------------------------------------

HOSTILE = "evil\x1b[31mname\x07\r::error::\n[bold]x[/bold]"


def on_a_terminal(*args: str, cwd: Path, env: dict[str, str] | None = None) -> tuple[int, str]:
    """Run the program with stdout and stderr on one pseudo-terminal and return what came."""
    ours, theirs = pty.openpty()
    size = {"TERM": "xterm-256color", "COLUMNS": "160", "LINES": "50"}
    process = subprocess.Popen(
        [PROGRAM, *args],
        cwd=cwd,
        env=environment({**size, "LC_ALL": "C.UTF-8", **(env or {})}),
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    )
    os.close(theirs)
    parts = []
    try:
        while select.select([ours], [], [], 60)[0]:
            parts.append(os.read(ours, 65536))
    except OSError:
        # The end of a pseudo-terminal, as Linux says it.
        pass
    finally:
        os.close(ours)
        code = process.wait(60)
    return code, b"".join(parts).decode()


def without_controls(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", text)


@pytest.fixture
def hostile(tmp_path: Path) -> Path:
    lab = Lab(tmp_path / "src")
    lab.repository("plain", 60)
    lab.repository(HOSTILE)
    shapes.make("shallow", tmp_path / "src" / f"bad-{HOSTILE}")
    return tmp_path


def test_on_a_terminal_a_run_shows_progress_and_a_table(hostile: Path) -> None:
    code, text = on_a_terminal(*RUN, cwd=hostile)
    assert code == 3
    assert "\x1b[?25l" in text
    assert text.rfind("\x1b[?25h") > text.rfind("\x1b[?25l")
    plain = without_controls(text)
    assert re.search(r"src/plain +captured +full", plain)
    assert "partial: 3 listed: 2 captured, 1 failed" in plain


@pytest.mark.parametrize("words", [RUN, ("list", "--from", "vault")])
def test_names_with_control_characters_are_shown_escaped_on_a_terminal(
    words: tuple[str, ...], hostile: Path
) -> None:
    repo_backup(*RUN, cwd=hostile, check=3)
    push(hostile / "src" / HOSTILE)
    _, text = on_a_terminal(*words, cwd=hostile)
    assert "\x1b[31mname" not in text
    assert "\x07" not in text
    assert not [line for line in without_controls(text).splitlines() if line.startswith("::")]
    if words == RUN:
        shown = HOSTILE.encode("unicode_escape").decode()
        assert f"src/{shown}" in without_controls(text)


def test_names_with_control_characters_are_shown_escaped_in_a_pipe(hostile: Path) -> None:
    finished = repo_backup(*RUN, cwd=hostile, check=3)
    assert_plain(finished)
    shown = HOSTILE.encode("unicode_escape").decode()
    assert f"src/{shown}: full, 9 objects" in finished.stderr
    assert f"src/bad-{shown}" in finished.stdout
    report = repo_backup(*RUN, "--json", cwd=hostile, check=3).json
    assert sorted(row["path"] for row in report["repositories"]) == sorted(
        [HOSTILE, f"bad-{HOSTILE}", "plain"]
    )


def test_no_color_leaves_a_terminal_without_colours(hostile: Path) -> None:
    colour = re.compile(r"\x1b\[(?:\d+;)*(?:3[0-7]|9[0-7]|38|48)(?:;\d+)*m")
    assert colour.search(on_a_terminal(*RUN, cwd=hostile)[1])
    assert not colour.search(on_a_terminal(*RUN, cwd=hostile, env={"NO_COLOR": "1"})[1])


def test_refs_that_are_no_text_are_listed_exactly(tmp_path: Path) -> None:
    path = Lab(tmp_path / "src").repository("widgets")
    odd = b"refs/heads/\xe9t\xe9"
    tip = git("rev-parse", MAIN, cwd=path).strip()
    update_refs(path, {odd: tip, "refs/heads/größe".encode(): tip})
    repo_backup(*RUN, cwd=tmp_path)
    words = ("list", "widgets", "--from", "vault")
    history = repo_backup(*words, "--json", cwd=tmp_path).json
    names = [name.encode("utf-8", "surrogateescape") for name in history["history"][0]["refs"]]
    assert names == sorted([MAIN, odd, "refs/heads/größe".encode()])
    update_refs(path, {odd: None})
    repo_backup(*RUN, "--accept-drop", cwd=tmp_path)
    assert r"deleted refs/heads/\udce9t\udce9" in repo_backup(*words, cwd=tmp_path).stdout
