"""Runs the program at a terminal of its own, and types what it asks for."""

import os
import pty
import select
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.program import PROGRAM, environment

_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Session:
    """What was seen on the terminal, and the exit code."""

    code: int
    screen: str


def at_terminal(
    *args: str | Path,
    answers: Sequence[tuple[str, str]] = (),
    env: Mapping[str, str] | None = None,
) -> Session:
    """Run ``repo-backup`` with a terminal for all three streams.

    Args:
        args: as on the command line.
        answers: a piece of each prompt, and what is typed there, without the end of the line.
        env: added to the clean environment.

    Raises:
        AssertionError: a prompt did not come.
    """
    here, there = pty.openpty()
    with subprocess.Popen(
        # Not by a function in the child, which waits for ever where a thread of this process held a
        # lock when it was made.
        ["setsid", "--ctty", PROGRAM, *(str(arg) for arg in args)],
        env=environment({"TERM": "xterm", "COLUMNS": "200", **(env or {})}),
        stdin=there,
        stdout=there,
        stderr=there,
    ) as process:
        os.close(there)
        screen = b""
        try:
            for prompt, answer in answers:
                seen = len(screen)
                while prompt.encode() not in screen[seen:]:
                    more = _read(here)
                    assert more, f"{prompt!r} was not asked for: {screen!r}"
                    screen += more
                # The echo is switched off before the prompt is written.
                os.write(here, answer.encode() + b"\n")
            while more := _read(here):
                screen += more
        finally:
            os.close(here)
            if process.poll() is None:
                process.terminate()
        return Session(process.wait(_SECONDS), screen.decode(errors="replace"))


def _read(handle: int) -> bytes:
    end = time.monotonic() + _SECONDS
    while time.monotonic() < end:
        if select.select([handle], [], [], 0.2)[0]:
            try:
                return os.read(handle, 4096)
            except OSError:
                # Linux says so when the other end was closed.
                return b""
    return b""
