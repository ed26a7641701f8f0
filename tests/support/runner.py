"""GitHub's runner, as far as a step of a container action meets it.

`Runner` starts the entry as a child process; `tests.support.engine` has one for the built image.
Source: actions/runner, `ActionRunner.cs`, `Handler.cs`, `ContainerActionHandler.cs`,
`FileCommandManager.cs`, `ActionCommand.cs`, `ProcessInvoker.cs`.
"""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from tests.support.program import environment

CHECKOUT = Path(__file__).parents[2]
TOKEN = "ghp_sentinel+of/the-action0123456789"

_FILES = ("GITHUB_OUTPUT", "GITHUB_STEP_SUMMARY", "GITHUB_ENV", "GITHUB_STATE", "GITHUB_PATH")
_REPORT = "repo-backup-report.json"
# How long it waits after a SIGINT, and then after a SIGTERM, before it kills.
_INTERRUPT_SECONDS = 7.5
_TERMINATE_SECONDS = 2.5


@dataclass
class Step:
    """One step that ran.

    Attributes:
        commands: workflow commands that the runner would obey, as (name, value).
        stderr: as the log has it: without the lines by which the runner learns what to mask.
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
    """The folders and variables of one job, and its steps.

    Attributes:
        folder: holds the workspace and the runner's temporary folder.
        server_url: the GitHub that the workflow is at.
        public: whether the workflow's repository is.
        more: the job's variables.
        log: takes standard error, where a test must know what stood in it at a moment.
    """

    folder: Path
    server_url: str
    public: bool = False
    more: dict[str, str] = field(default_factory=dict)
    log: Path | None = None

    def __post_init__(self) -> None:
        for place in (self.workspace, self.home, self.workflow, self.file_commands):
            place.mkdir(parents=True, exist_ok=True)

    @property
    def workspace(self) -> Path:
        return self.folder / "work" / "repository"

    @property
    def temporary(self) -> Path:
        return self.folder / "_temp"

    @property
    def home(self) -> Path:
        return self.temporary / "_github_home"

    @property
    def workflow(self) -> Path:
        return self.temporary / "_github_workflow"

    @property
    def file_commands(self) -> Path:
        return self.temporary / "_runner_file_commands"

    def env(self, inputs: Mapping[str, str]) -> dict[str, str]:
        """Give the variables of a step: every declared input, empty where it was not given."""
        declared = yaml.safe_load((CHECKOUT / "action.yml").read_text("utf-8"))["inputs"]
        unknown = inputs.keys() - declared.keys()
        assert not unknown, f"action.yml declares no {unknown}"
        defaults = {name: str(one.get("default", "")) for name, one in declared.items()}
        event = self.workflow / "event.json"
        event.write_text(json.dumps({"repository": {"private": not self.public}}))
        return {
            **{f"INPUT_{name.upper()}": text for name, text in (defaults | dict(inputs)).items()},
            **{name: str(self.file_commands / name) for name in _FILES},
            "GITHUB_WORKSPACE": str(self.workspace),
            "GITHUB_EVENT_PATH": str(event),
            "GITHUB_SERVER_URL": self.server_url,
            "HOME": str(self.home),
            **self.more,
        }

    def start(self, **inputs: str) -> "subprocess.Popen[str]":
        """Begin a step; inputs have underscores for dashes, owner and token are given as a rule."""
        for name in _FILES:
            (self.file_commands / name).write_bytes(b"")
        (self.workspace / _REPORT).unlink(missing_ok=True)
        given = {name.replace("_", "-"): text for name, text in inputs.items()}
        argv, env = self.command(self.env({"owner": "acme", "token": TOKEN} | given))
        with ExitStack() as open_files:
            log = subprocess.PIPE
            if self.log is not None:
                log = open_files.enter_context(self.log.open("wb")).fileno()
            return subprocess.Popen(
                argv,
                env=env,
                cwd=self.workspace,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                encoding="utf-8",
            )

    def command(self, env: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
        """Give the words and the whole environment of the process to start."""
        argv = [sys.executable, str(CHECKOUT / "entrypoint.py")]
        return argv, {**environment(), "GITHUB_ACTIONS": "true", "CI": "true", **env}

    def step(self, **inputs: str) -> Step:
        """Run a step to its end."""
        process = self.start(**inputs)
        stdout, stderr = process.communicate(timeout=300)
        return self.seen(
            process.returncode, stdout, stderr if self.log is None else self.log.read_text("utf-8")
        )

    def cancel(self, process: "subprocess.Popen[str]") -> Step:
        """End a step as the runner does when the job is cancelled; it must not come to a kill."""
        process.send_signal(signal.SIGINT)
        try:
            stdout, stderr = process.communicate(timeout=_INTERRUPT_SECONDS)
        except subprocess.TimeoutExpired:
            process.terminate()
            stdout, stderr = process.communicate(timeout=_TERMINATE_SECONDS)
        return self.seen(process.returncode, stdout, stderr)

    def seen(self, code: int, stdout: str, stderr: str) -> Step:
        """Gather what a step that ended has left."""
        report = self.workspace / _REPORT
        (commands, stdout), (more, stderr) = obeyed(stdout), obeyed(stderr)
        return Step(
            code,
            stdout,
            stderr,
            _outputs((self.file_commands / "GITHUB_OUTPUT").read_text("utf-8")),
            (self.file_commands / "GITHUB_STEP_SUMMARY").read_text("utf-8"),
            json.loads(report.read_text("utf-8")) if report.exists() else None,
            commands + more,
        )


def _outputs(text: str) -> dict[str, str]:
    """Read the file as the runner does: NAME<<MARK, lines, MARK."""
    found, lines = {}, iter(text.splitlines())
    for line in lines:
        name, _, mark = line.partition("<<")
        found[name] = "\n".join(iter(lambda: next(lines), mark))
    return found


def obeyed(text: str) -> tuple[list[tuple[str, str]], str]:
    """Take the commands as the runner does; while they are stopped it obeys none.

    Returns:
        The commands, and what the log shows: all but what tells the runner what to mask.
    """
    found, token, shown = [], None, []
    for line in text.splitlines():
        match = re.match(r"\s*::([\w-]+)(?: [^:]*)?::(.*)", line)
        if token is not None:
            token = None if line.strip() == f"::{token}::" else token
        elif match is not None and match[1] == "stop-commands":
            token = match[2]
        elif match is not None:
            value = match[2].replace("%0A", "\n").replace("%25", "%")
            found.append((match[1], value))
            if match[1] == "add-mask":
                continue
        shown.append(line)
    return found, "\n".join(shown)


def masked(text: str) -> list[str]:
    """Give what a runner that reads this masks from then on."""
    return [value for name, value in obeyed(text)[0] if name == "add-mask"]
