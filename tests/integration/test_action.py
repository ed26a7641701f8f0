"""The action as GitHub's runner starts it: its variables, its files, its commands."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.git import commit_chain, init_bare, set_head, update_refs
from tests.support.github import GitHub, Owner, Token
from tests.support.gitserver import Answer, Request
from tests.support.mirrors import assert_same_mirror
from tests.support.program import environment, repo_backup
from tests.support.s3server import S3Server
from tests.support.vaults import to_be_kept

CHECKOUT = Path(__file__).parents[2]
TOKEN = "ghp_sentinel+of/the-action0123456789"
FILES = ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY", "GITHUB_ENV", "GITHUB_STATE", "GITHUB_PATH")


@dataclass
class Step:
    """One step that ran.

    Attributes:
        commands: workflow commands that the runner would obey, as (name, value).
        shown: all that a reader of the run sees: the log, and the summary.
    """

    code: int
    stdout: str
    stderr: str
    outputs: dict[str, str]
    summary: str
    report: Any
    commands: list[tuple[str, str]] = field(default_factory=list)

    @property
    def shown(self) -> str:
        return self.stdout + self.stderr + self.summary

    @property
    def errors(self) -> list[str]:
        return [value for name, value in self.commands if name == "error"]


@dataclass
class Runner:
    """The folders and files that the runner mounts."""

    folder: Path
    forge: GitHub
    public: bool = False
    more: dict[str, str] = field(default_factory=dict)

    def env(self, inputs: Mapping[str, str]) -> dict[str, str]:
        commands = self.folder / "file_commands"
        workspace = self.folder / "workspace"
        for place in (commands, workspace):
            place.mkdir(parents=True, exist_ok=True)
        for name in FILES:
            (commands / name).touch()
        event = self.folder / "event.json"
        event.write_text(json.dumps({"repository": {"private": not self.public}}))
        given = {"owner": "acme", "token": TOKEN, "server-url": self.forge.url} | dict(inputs)
        # Every declared input is there; one that was not given is empty.
        every = {"INPUT_EXCLUDE": "", "INPUT_WIKIS": "", "INPUT_APP-ID": ""}
        return {
            **environment(),
            **every,
            **{f"INPUT_{name.upper()}": value for name, value in given.items()},
            **{name: str(commands / name) for name in FILES},
            "GITHUB_ACTIONS": "true",
            "CI": "true",
            "GITHUB_WORKSPACE": str(workspace),
            "GITHUB_EVENT_PATH": str(event),
            **self.more,
        }

    def start(self, **inputs: str) -> "subprocess.Popen[str]":
        given = {name.replace("_", "-"): value for name, value in inputs.items()}
        return subprocess.Popen(
            [sys.executable, CHECKOUT / "entrypoint.py"],
            env=self.env(given),
            cwd=self.folder / "workspace",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            encoding="utf-8",
        )

    def step(self, **inputs: str) -> Step:
        for name in FILES:
            (self.folder / "file_commands" / name).unlink(missing_ok=True)
        process = self.start(**inputs)
        stdout, stderr = process.communicate(timeout=120)
        return self.seen(process.returncode, stdout, stderr)

    def seen(self, code: int, stdout: str, stderr: str) -> Step:
        commands = self.folder / "file_commands"
        report = self.folder / "workspace" / "repo-backup-report.json"
        return Step(
            code,
            stdout,
            stderr,
            outputs_of((commands / "GITHUB_OUTPUT").read_text("utf-8")),
            (commands / "GITHUB_STEP_SUMMARY").read_text("utf-8"),
            json.loads(report.read_text("utf-8")) if report.exists() else None,
            obeyed(stdout) + obeyed(stderr),
        )


def outputs_of(text: str) -> dict[str, str]:
    """Read the file as the runner does: NAME<<MARK, lines, MARK."""
    found, lines = {}, iter(text.splitlines())
    for line in lines:
        name, _, mark = line.partition("<<")
        found[name] = "\n".join(iter(lambda: next(lines), mark))
    return found


def obeyed(text: str) -> list[tuple[str, str]]:
    """Take the commands as the runner does; while they are stopped it obeys none."""
    found, token = [], None
    for line in text.splitlines():
        match = re.match(r"\s*::([\w-]+)(?: [^:]*)?::(.*)", line)
        if token is not None:
            token = None if line.strip() == f"::{token}::" else token
        elif match is not None and match[1] == "stop-commands":
            token = match[2]
        elif match is not None:
            value = match[2].replace("%0A", "\n").replace("%25", "%")
            found.append((match[1], value))
    return found


@pytest.fixture
def forge(tmp_path: Path) -> Iterator[GitHub]:
    with GitHub(tmp_path / "git") as forge:
        forge.tokens[TOKEN] = Token("jane")
        forge.owner("jane", kind="User")
        yield forge


@pytest.fixture
def acme(forge: GitHub) -> Owner:
    return forge.owner("acme")


@pytest.fixture
def runner(forge: GitHub, tmp_path: Path) -> Runner:
    (tmp_path / "runner" / "workspace").mkdir(parents=True)
    return Runner(tmp_path / "runner", forge)


def real(forge: GitHub, owner: Owner, name: str, **more: Any) -> None:
    path = init_bare(forge.root / owner.login / f"{name}.git")
    update_refs(path, {b"refs/heads/main": commit_chain(path, 2, label=name.encode())[-1]})
    set_head(path, b"refs/heads/main")
    forge.repository(owner, name, **more)


# --- A night --------------------------------------------------------------------------------------


def test_a_night_is_told_by_outputs_summary_and_report(
    runner: Runner, forge: GitHub, acme: Owner, tmp_path: Path
) -> None:
    for name in ("one", "two", "three"):
        real(forge, acme, name, private=name == "two")
    vault = tmp_path / "vault"
    step = runner.step(destination=str(vault))
    assert step.code == 0
    (manifest,) = vault.rglob("snapshots/*.json.gz")
    assert step.outputs == {
        "result": "success",
        "snapshot-id": step.report["snapshot"],
        "manifest": str(manifest),
        "report": "repo-backup-report.json",
        "repositories": "3",
        "captured": "3",
        "unchanged": "0",
        "skipped": "0",
        "failed": "0",
        "bytes-uploaded": str(step.report["totals"]["bytes_uploaded"]),
    }
    assert step.summary.startswith("## ✅ Backup complete")
    assert "acme&#47;two" in step.summary or "acme/two" in step.summary
    assert step.errors == []
    second = runner.step(destination=str(vault))
    assert (second.outputs["captured"], second.outputs["unchanged"]) == ("0", "3")
    repo_backup("restore", "--all", tmp_path / "back", "--from", vault)
    for name in ("one", "two", "three"):
        expected = to_be_kept(forge.root / "acme" / f"{name}.git")
        assert_same_mirror(tmp_path / "back" / f"{name}.git", expected)


def test_into_a_bucket_with_the_identity_shown(
    runner: Runner, forge: GitHub, acme: Owner, moto_http: S3Server
) -> None:
    real(forge, acme, "widgets")
    moto_http.make_bucket("action-vault")
    runner.more = {**moto_http.environment(), "AWS_ENDPOINT_URL": moto_http.endpoint_url}
    step = runner.step(bucket="action-vault", prefix="git", region="eu-central-1")
    assert step.code == 0, step.shown
    assert step.outputs["manifest"].startswith("s3://action-vault/git/")
    assert "arn:aws:sts::" in step.stderr
    assert "Stored by arn" in step.summary


def test_the_variables_of_the_old_script_are_enough(
    runner: Runner, forge: GitHub, acme: Owner, moto_http: S3Server
) -> None:
    real(forge, acme, "widgets")
    moto_http.make_bucket("old-script-vault")
    runner.more = {
        **moto_http.environment(),
        "AWS_ENDPOINT_URL": moto_http.endpoint_url,
        "BACKUP_GITHUB_OWNER": "acme",
        "BACKUP_GITHUB_PAT": TOKEN,
        "BACKUP_BUCKET_NAME": "old-script-vault",
        "BACKUP_AWS_REGION": "eu-west-1",
        "GITHUB_SERVER_URL": forge.url,
    }
    step = runner.step(owner="", token="", server_url="")
    assert step.code == 0, step.shown
    assert step.outputs["manifest"].startswith("s3://old-script-vault/")


# --- What goes wrong ------------------------------------------------------------------------------


def test_repositories_that_fail_are_annotated_up_to_nine_and_counted(
    runner: Runner, forge: GitHub, acme: Owner, tmp_path: Path
) -> None:
    for number in range(12):
        real(forge, acme, f"r{number:02}")
    forge.answer = lambda request: (
        Answer(403, {}, b"no ::error::access\n::set-output name=x::y")
        if request.target.startswith("/acme/r") and "/r00.git" not in request.target
        else None
    )
    step = runner.step(destination=str(tmp_path / "vault"))
    assert (step.code, step.outputs["result"]) == (3, "partial")
    assert len(step.errors) == 10
    assert step.errors[-1].startswith("the backup is partial: 11 of 12 repositories failed")
    assert {name for name, _ in step.commands} == {"add-mask", "error"}
    assert step.summary.count("| acme/r") == 11 + 1
    assert step.outputs["failed"] == "11"


def test_a_wrong_input_is_one_error_that_names_it(runner: Runner, acme: Owner) -> None:
    step = runner.step(destination="vault", concurrency="many")
    assert step.code == 2
    assert len(step.errors) == 1
    assert step.errors[0].startswith("concurrency: 'many' ")
    assert step.outputs == {"result": "failed"}
    assert "Backup failed" in step.summary
    assert runner.forge.server.requests == []


def test_a_token_that_is_not_accepted_is_said(
    runner: Runner, forge: GitHub, acme: Owner, tmp_path: Path
) -> None:
    forge.tokens.clear()
    step = runner.step(destination=str(tmp_path / "vault"))
    assert step.code == 1
    assert "GitHub does not accept the token" in step.errors[0]
    assert step.outputs == {"result": "failed"}


def test_no_secret_is_shown_or_written(
    runner: Runner, forge: GitHub, acme: Owner, tmp_path: Path
) -> None:
    real(forge, acme, "widgets")
    forge.answer = lambda request: (
        Answer(403, {}, f"not with {request.headers.get('authorization')} {TOKEN}".encode())
        if ".git/" in request.target
        else None
    )
    step = runner.step(destination=str(tmp_path / "vault"))
    assert step.code == 1
    # The one line by which the runner learns what to mask.
    (mask,) = [line for line in step.stdout.splitlines() if TOKEN in line]
    assert mask == f"::add-mask::{TOKEN}"
    assert TOKEN not in step.stderr + step.summary + json.dumps(step.report)
    for path in (tmp_path / "vault").rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes()


def test_names_from_the_forge_are_no_commands_and_no_markup(
    runner: Runner, forge: GitHub, acme: Owner, tmp_path: Path
) -> None:
    said = b"::error::x | <script>alert(1)</script> [a](http://x) @everyone `code` **b**"
    real(forge, acme, "widgets")
    forge.answer = lambda request: Answer(403, {}, said) if ".git/" in request.target else None
    step = runner.step(destination=str(tmp_path / "vault"))
    assert "<script>" not in step.summary
    assert "](http" not in step.summary
    assert "@everyone" not in step.summary
    (row,) = [line for line in step.summary.splitlines() if line.startswith("| acme/widgets")]
    assert row.count("|") == 4


def test_private_names_stay_out_of_a_public_log(
    runner: Runner, forge: GitHub, acme: Owner, tmp_path: Path
) -> None:
    runner.public = True
    real(forge, acme, "shown")
    real(forge, acme, "topsecret-sound", private=True)
    real(forge, acme, "topsecret-broken", private=True)
    forge.answer = lambda request: (
        Answer(403, {}, b"no") if "topsecret-broken.git/" in request.target else None
    )
    step = runner.step(destination=str(tmp_path / "vault"))
    assert (step.code, step.outputs["failed"]) == (3, "1")
    assert "topsecret" not in step.shown
    assert "private repository 1" in step.summary
    assert "acme/shown" in step.summary
    assert "topsecret-broken" in json.dumps(step.report)
    runner.public = False
    assert "topsecret" in runner.step(destination=str(tmp_path / "vault")).shown
    hidden = runner.step(destination=str(tmp_path / "vault"), hide_private_names="true")
    assert "topsecret" not in hidden.shown


def test_a_cancelled_run_ends_within_ten_seconds_and_says_so(
    runner: Runner, forge: GitHub, acme: Owner, tmp_path: Path
) -> None:
    for number in range(3):
        real(forge, acme, f"r{number}")
    begun = []

    def answer(request: Request) -> Answer | None:
        if request.target.endswith("/git-upload-pack"):
            begun.append(request)
            time.sleep(30)
        return None

    forge.answer = answer
    process = runner.start(destination=str(tmp_path / "vault"))
    while not begun and process.poll() is None:
        time.sleep(0.05)
    began = time.monotonic()
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=30)
    assert time.monotonic() - began < 10
    step = runner.seen(process.returncode, stdout, stderr)
    assert step.code == 130
    assert step.outputs["result"] in {"failed", "partial"}
    assert os.fspath(tmp_path) not in step.summary


def test_1234_repositories_are_listed_and_captured(
    runner: Runner, forge: GitHub, acme: Owner, tmp_path: Path
) -> None:
    model = init_bare(forge.root / "acme" / "model.git")
    update_refs(model, {b"refs/heads/main": commit_chain(model, 1)[-1]})
    set_head(model, b"refs/heads/main")
    for number in range(1234):
        forge.repository(acme, f"r{number:04}")
        (forge.root / "acme" / f"r{number:04}.git").symlink_to(model)
    step = runner.step(destination=str(tmp_path / "vault"), check="trailer")
    assert (step.code, step.outputs["captured"]) == (0, "1234")
    assert len([one for one in forge.requests if "/orgs/" in one.target]) == 13
    assert len(step.summary.encode()) < 1_000_000
