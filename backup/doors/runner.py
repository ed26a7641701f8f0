"""The runner of GitHub Actions: commands in the log, and files that are appended to.

All commands go to standard error, where everything else that people read goes: of two streams
nobody knows what the runner reads first, and whether it obeys commands depends on it.
Source: GitHub Docs, "Workflow commands for GitHub Actions"; actions/runner, `ActionCommand.cs` and
`FileCommandManager.cs`.
"""

import os
import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from stat import S_ISREG
from threading import Lock

from backup.secret import mask

# The runner keeps ten errors a step, and cuts each at 4,096 characters.
MOST_ANNOTATIONS = 10
_MOST_CHARACTERS = 4000


class Runner:
    """What a workflow's step can say. Outside of a workflow all of it is plain output.

    Args:
        environment: of the process.
    """

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = environment
        self.is_here = environment.get("GITHUB_ACTIONS") == "true"
        self._lock = Lock()
        self._resumes = ""

    @property
    def reads_our_log(self) -> bool:
        """Whether standard error is the runner's own, and no file or other program of the step.

        Then it is the one that the shell of the step has. Where that cannot be seen it is not.
        """
        if not self.is_here:
            return False
        with suppress(OSError):
            ours, theirs = os.fstat(2), Path(f"/proc/{os.getppid()}/fd/2").stat()
            is_one = (ours.st_dev, ours.st_ino) == (theirs.st_dev, theirs.st_ino)
            return is_one and not S_ISREG(ours.st_mode)
        return False

    def hide(self, secret: str) -> None:
        """Let the runner mask a text in everything that is printed from now on; any thread may."""
        if not self.is_here:
            return
        lines = filter(None, (line.strip() for line in secret.splitlines()))
        commands = [f"::add-mask::{_escaped(line)}" for line in lines]
        with self._lock:
            if self._resumes:
                # It would print them, and obey nothing. What is printed meanwhile comes before
                # all of this or behind it: it is written at once.
                before, self._resumes = self._resumes, secrets.token_hex(16)
                commands = [f"::{before}::", *commands, f"::stop-commands::{self._resumes}"]
            _print("\n".join(commands))

    def error(self, message: str, *, title: str = "") -> None:
        """Show an error at the top of the run."""
        self._command("error", mask(message)[:_MOST_CHARACTERS], title=title)

    @contextmanager
    def foreign_text(self) -> Iterator[None]:
        """Let nothing that is printed meanwhile be a command."""
        if not self.is_here:
            yield
            return
        with self._lock:
            self._resumes = secrets.token_hex(16)
            self._command("stop-commands", self._resumes)
        try:
            yield
        finally:
            with self._lock:
                _print(f"::{self._resumes}::")
                self._resumes = ""

    def set_output(self, name: str, value: str) -> None:
        """Give an output to later steps."""
        mark = f"end-{secrets.token_hex(16)}"
        self._append("GITHUB_OUTPUT", f"{name}<<{mark}\n{value}\n{mark}\n")

    def add_summary(self, markdown: str) -> None:
        """Append to the step's summary."""
        self._append("GITHUB_STEP_SUMMARY", f"{markdown}\n")

    def _append(self, variable: str, text: str) -> None:
        place = self._environment.get(variable)
        if not place:
            return
        # A run is what it was, whether or not the runner takes its words.
        with suppress(OSError), Path(place).open("a", encoding="utf-8") as file:
            file.write(mask(text.encode("utf-8", "backslashreplace").decode()))

    def _command(self, name: str, value: str, *, title: str = "") -> None:
        properties = f" title={_escaped(title, more=':,')}" if title else ""
        _print(f"::{name}{properties}::{_escaped(mask(value))}")


def _print(lines: str) -> None:
    sys.stderr.write(f"{lines}\n")
    sys.stderr.flush()


def _escaped(text: str, *, more: str = "") -> str:
    for char in f"%\r\n{more}":
        text = text.replace(char, f"%{ord(char):02X}")
    return text
