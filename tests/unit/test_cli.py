"""What the command line does around a command: what it hands over, how it ends, what it prints."""

import json
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from backup.commands.remotes import NetworkSettings
from backup.commands.restore import RestoreRequest
from backup.commands.run import RunOptions
from backup.doors import cli
from backup.errors import BackupError, DestinationError, Interrupted
from backup.model import Destination, Events, Outcome, RunReport, Selection, Source
from backup.results import RestoreReport
from backup.stopping import Stop

NOW = datetime(2026, 11, 1, 3, 15, tzinfo=UTC)
REPORT = RunReport(
    result="success",
    exit_code=0,
    snapshot_id="20261101T031500Z-4f9c",
    started_at=NOW,
    finished_at=NOW,
    dry_run=False,
    manifests=(),
    outcomes=(),
    listed=0,
    requests={},
    objects_written=0,
    bytes_uploaded=0,
)


@dataclass
class FakeRun:
    """Stands in for the main job: remembers what it was given, ends as it was told."""

    report: RunReport = REPORT
    error: BaseException | None = None
    interrupt: bool = False
    sources: Sequence[Source] = ()
    options: list[RunOptions] = field(default_factory=list)
    stops: list[Stop] = field(default_factory=list)

    def __call__(
        self,
        sources: Sequence[Source],
        destination: Destination,
        options: RunOptions,
        *,
        events: Events,
        stop: Stop,
        network: NetworkSettings,
    ) -> RunReport:
        self.sources = sources
        self.options.append(options)
        self.stops.append(stop)
        if self.interrupt:
            signal.raise_signal(signal.SIGTERM)
        if self.error is not None:
            raise self.error
        return self.report


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeRun:
    """Stand in a folder with two repositories' places, the main job replaced."""
    (tmp_path / "repositories" / "a.git").mkdir(parents=True)
    (tmp_path / "others" / "b.git").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    instead = FakeRun()
    monkeypatch.setattr("backup.commands.run.run", instead)
    return instead


def run(*words: str) -> int:
    return cli.main(["run", "--from", "repositories", "--to", "vault", *words])


def test_the_defaults_reach_the_run(fake: FakeRun) -> None:
    assert run() == 0
    assert fake.options == [
        RunOptions(
            selection=Selection(lfs=True),
            include=(),
            exclude=(),
            concurrency=4,
            check="pack",
            full_after_days=90,
            max_chain_length=50,
            max_drop_percent=20,
            accept_drop=False,
            dry_run=False,
            snapshot_id=None,
            grace_days=7,
        )
    ]


def test_what_is_typed_reaches_the_run(fake: FakeRun) -> None:
    words = (
        "--include a* --include b,c --exclude x --concurrency 2 --check trailer --pull-refs "
        "--full-after-days 3 --max-chain-length 1 --max-drop-percent 0 --accept-drop --dry-run "
        "--snapshot-id 20261101T031500Z-4f9c --grace-days 9"
    )
    assert run(*words.split()) == 0
    assert fake.options == [
        RunOptions(
            selection=Selection(pull_refs=True),
            include=("a*", "b", "c"),
            exclude=("x",),
            concurrency=2,
            check="trailer",
            full_after_days=3,
            max_chain_length=1,
            max_drop_percent=0,
            accept_drop=True,
            dry_run=True,
            snapshot_id="20261101T031500Z-4f9c",
            grace_days=9,
            told=(
                "with check trailer no pack is searched for files of Git LFS, and none are stored",
            ),
        )
    ]


def test_the_environment_reaches_the_run(fake: FakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REPO_BACKUP_FROM", "repositories\nothers")
    monkeypatch.setenv("REPO_BACKUP_TO", "vault")
    monkeypatch.setenv("REPO_BACKUP_DRY_RUN", "true")
    monkeypatch.setenv("REPO_BACKUP_ACCEPT_DROP", "true")
    assert cli.main(["run", "--no-accept-drop"]) == 0
    assert (fake.options[0].dry_run, fake.options[0].accept_drop) == (True, False)
    assert [source.identity.owner for source in fake.sources] == ["repositories", "others"]


def test_repositories_named_one_by_one_share_a_source_for_each_owner(fake: FakeRun) -> None:
    sources = ["git:repositories/a.git", "git:others/b.git", "repositories", "git:others/b.git"]
    words = [word for source in sources for word in ("--from", source)]
    assert cli.main(["run", *words, "--to", "vault"]) == 0
    found = [(one.identity.host, one.identity.owner) for one in fake.sources]
    assert found == [("folder", "repositories"), ("git", "repositories"), ("git", "others")]
    cli.main(["run", *words, "--to", "vault", "--owner", "acme"])
    found = [(one.identity.host, one.identity.owner) for one in fake.sources]
    assert found == [("folder", "acme"), ("git", "acme")]
    paths = [repository.path for repository in fake.sources[1].repositories()]
    assert paths == ["a", "b"]


@pytest.mark.parametrize(("minutes", "begins"), [("0.0001", False), ("60", True)])
def test_a_deadline_reaches_the_run(fake: FakeRun, minutes: str, begins: bool) -> None:
    assert run("--deadline-minutes", minutes) == 0
    deadline = fake.stops[0]
    signal.sigtimedwait([], 0.05)
    assert deadline.may_begin == begins


@pytest.mark.parametrize("code", [0, 1, 3, 4])
@pytest.mark.parametrize("words", [[], ["--json"]])
def test_the_exit_code_is_the_report_s(fake: FakeRun, code: int, words: list[str]) -> None:
    fake.report = replace(REPORT, exit_code=code)
    assert run(*words) == code


def test_the_exit_code_of_a_restore_is_its_report_s(
    fake: FakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    Path("vault").mkdir()
    requests: list[RestoreRequest] = []

    def instead(_: Destination, request: RestoreRequest, **others: object) -> RestoreReport:
        requests.append(request)
        return RestoreReport((), failed=("acme/a: damaged",), exit_code=4)

    monkeypatch.setattr("backup.commands.restore.restore", instead)
    assert cli.main(["restore", "--all", "--from", "vault", "out", "--at", "2026-11-01"]) == 4
    assert cli.main(["restore", "acme/a.git", "--from", "vault"]) == 4
    assert requests == [
        RestoreRequest(
            repository=None, all=True, at="2026-11-01", target=Path("out"), concurrency=4
        ),
        RestoreRequest(
            repository="acme/a.git", all=False, at=None, target=Path("a.git"), concurrency=4
        ),
    ]


def test_an_answer_without_a_terminal_is_not_folded(
    fake: FakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    path, reason = "/".join(["deep"] * 30), " ".join(["word"] * 30)
    outcome = Outcome(
        "folder", "acme", path, "1", kind="code", status="captured", plan="full", reason=reason
    )
    fake.report = replace(REPORT, outcomes=(outcome,))
    run()
    (line,) = [line for line in capsys.readouterr().out.splitlines() if path in line]
    assert reason in line


def test_json_is_one_document_in_ascii(fake: FakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    fake.report = replace(REPORT, result="partial", exit_code=3, notes=("naïve \udcff",))
    assert run("--json") == 3
    printed = capsys.readouterr().out
    assert printed.isascii()
    assert json.loads(printed)["result"] == "partial"


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (BackupError("it failed"), 1, "it failed"),
        (DestinationError("two\nlines \x1b[0m"), 1, r"two\nlines \x1b[0m"),
        (Interrupted("interrupted"), 130, "interrupted"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_an_error_is_one_line_and_its_exit_code(
    fake: FakeRun,
    capsys: pytest.CaptureFixture[str],
    *,
    error: BaseException,
    code: int,
    line: str,
) -> None:
    fake.error = error
    assert run() == code
    assert capsys.readouterr().err.endswith(f"repo-backup: error: {line}\n")


def test_a_hint_is_a_line_of_its_own(fake: FakeRun, capsys: pytest.CaptureFixture[str]) -> None:
    fake.error = BackupError("it failed", hint="try again")
    run()
    assert capsys.readouterr().err.endswith("repo-backup: error: it failed\nhint: try again\n")


def test_an_error_with_json_is_a_document(
    fake: FakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.error = BackupError("it failed", hint="try again")
    assert run("--json") == 1
    assert json.loads(capsys.readouterr().out) == {
        "error": {"message": "it failed", "hint": "try again", "exit_code": 1}
    }


def test_a_bug_of_ours_is_said_without_what_it_may_hold(
    fake: FakeRun, capsys: pytest.CaptureFixture[str]
) -> None:
    fake.error = RuntimeError("sentinel-3f1c")
    assert run() == 5
    printed = capsys.readouterr().err
    assert "internal error: RuntimeError at test_cli.py:" in printed
    assert "hint: please report it" in printed
    assert "Traceback" not in printed
    assert "sentinel-3f1c" not in printed


def test_a_bug_of_ours_shows_where_it_is_when_asked(
    fake: FakeRun, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REPO_BACKUP_DEBUG", "1")
    fake.error = RuntimeError("what happened")
    assert run() == 5
    assert "Traceback" in capsys.readouterr().err


def test_a_signal_asks_the_run_to_stop_and_its_handler_is_put_back(fake: FakeRun) -> None:
    before: Any = signal.getsignal(signal.SIGTERM)
    fake.interrupt = True
    fake.report = replace(REPORT, result="partial", exit_code=130)
    assert run() == 130
    assert fake.stops[0].interrupted
    assert signal.getsignal(signal.SIGTERM) == before
