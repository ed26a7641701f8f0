"""Runs the commands that a document shows, and compares what they say with what it shows."""

import os
import re
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.git import environment
from tests.support.program import PROGRAM


@dataclass(frozen=True, slots=True)
class Shown:
    """A command of a document, and the output that the document shows for it."""

    command: str
    output: tuple[str, ...]


def shown_commands(text: str) -> list[Shown]:
    """Take the console blocks apart: ``$`` begins a command, ``>`` goes on, else it is output."""
    found: list[Shown] = []
    for block in re.findall(r"^```console\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append(Shown(line[2:], ()))
            elif line == ">" or line.startswith("> "):
                found[-1] = Shown(f"{found[-1].command}\n{line[2:]}", ())
            else:
                found[-1] = Shown(found[-1].command, (*found[-1].output, line))
    return found


def run_shown(
    commands: Sequence[Shown],
    here: Path,
    *,
    tools: Path,
    env: Mapping[str, str],
    shown_as: Mapping[str, str] | None = None,
) -> list[tuple[Shown, list[str]]]:
    """Run the commands in one shell, and give each with its output.

    Args:
        commands: one after another.
        here: where the shell begins; shown as /home/you.
        shown_as: what else is shown by another name.
        tools: a folder of programs that come before all others.
        env: added to the clean environment.

    Raises:
        AssertionError: one of them failed.
    """
    mark = "--- command"
    script = "exec 2>&1\nset -e -o pipefail\n"
    script += "".join(f"echo '{mark} {n}'\n{one.command}\n" for n, one in enumerate(commands))
    path = os.pathsep.join([str(tools), str(PROGRAM.parent), os.environ["PATH"]])
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=here,
        env=environment({"PATH": path, **env}),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    output = done.stdout.decode(errors="backslashreplace")
    for actual, name in ({str(here): "/home/you"} | dict(shown_as or {})).items():
        output = output.replace(actual, name)
    assert done.returncode == 0, output
    parts = re.split(rf"^{mark} \d+\n", output, flags=re.MULTILINE)[1:]
    return [(one, part.splitlines()) for one, part in zip(commands, parts, strict=True)]


def assert_said(ran: Sequence[tuple[Shown, list[str]]], *, any_snapshot: bool) -> None:
    """Insist on each command having said what the document shows."""
    for one, output in ran:
        assert agree(one.output, output, any_snapshot=any_snapshot), "\n".join(
            [f"$ {one.command}", *output, "--- but the document shows", *one.output]
        )


def plain(line: str, *, any_snapshot: bool) -> str:
    """Leave out what differs from run to run and from git to git."""
    line = re.sub(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", "TIME", line)
    line = re.sub(r"[\d.,]+ (bytes|kB)", "SIZE", line)
    line = re.sub(r"in [\d.]+ s\b", "in SECONDS", line)
    if any_snapshot:
        line = re.sub(r"\d{8}T\d{6}Z-[0-9a-z]+", "SNAPSHOT", line)
    return " ".join(line.split())


def agree(expected: Sequence[str], actual: Sequence[str], *, any_snapshot: bool) -> bool:
    """Compare output with what is shown; ``...`` stands for anything, alone for any lines."""
    pattern = "".join(
        "(?:.*\n)*"
        if line == "..."
        else re.escape(plain(line, any_snapshot=any_snapshot)).replace(r"\.\.\.", ".*") + "\n"
        for line in expected
    )
    text = "".join(f"{plain(line, any_snapshot=any_snapshot)}\n" for line in actual)
    return re.fullmatch(pattern, text) is not None
