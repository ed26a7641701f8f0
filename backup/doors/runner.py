"""The runner of GitHub Actions: commands on standard output, and files that are appended to.

Source: GitHub Docs, "Workflow commands for GitHub Actions"; actions/runner, `ActionCommand.cs` and
`FileCommandManager.cs`.
"""

import secrets
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

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

    def hide(self, secret: str) -> None:
        """Let the runner mask a text in everything that is printed from now on."""
        if self.is_here:
            for line in filter(None, (line.strip() for line in secret.splitlines())):
                self._command("add-mask", line, masked=False)

    def error(self, message: str, *, title: str = "") -> None:
        """Show an error at the top of the run."""
        self._command("error", mask(message)[:_MOST_CHARACTERS], title=title)

    @contextmanager
    def foreign_text(self) -> Iterator[None]:
        """Let nothing that is printed meanwhile be a command."""
        if not self.is_here:
            yield
            return
        token = secrets.token_hex(16)
        self._command("stop-commands", token)
        try:
            yield
        finally:
            sys.stderr.flush()
            _print(f"::{token}::")

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

    def _command(self, name: str, value: str, *, title: str = "", masked: bool = True) -> None:
        properties = f" title={_escaped(title, more=':,')}" if title else ""
        text = mask(value) if masked else value
        _print(f"::{name}{properties}::{_escaped(text)}")


def _print(line: str) -> None:
    print(line, flush=True)  # noqa: T201


def _escaped(text: str, *, more: str = "") -> str:
    for char in f"%\r\n{more}":
        text = text.replace(char, f"%{ord(char):02X}")
    return text
