"""Runs the installed program as its users do, in an environment with nothing of the caller's."""

import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support import hanging
from tests.support.git import empty_home

PROGRAM = Path(sys.executable).parent / "repo-backup"


# As long as the program itself waits for a server that is silent, before it asks again.
PATIENCE_SECONDS = 300.0


class UnexpectedExit(AssertionError):
    """The program ended with another exit code than the one asked for."""


class StillRunning(AssertionError):
    """The program did not end in the time it was given; says what it and this process wait for."""


@dataclass(frozen=True, slots=True)
class Completed:
    """A run of the program that is over."""

    args: tuple[str, ...]
    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """Parse standard output, which must be one JSON document and nothing else."""
        return json.loads(self.stdout)


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """Give the whole environment of the program.

    The zone is far from UTC and off by a quarter of an hour, so that no local time passes for a
    right one; it is written out because a machine without zone files reads a name as UTC.
    """
    return {
        "PATH": os.environ["PATH"],
        "HOME": str(empty_home()),
        "LC_ALL": "C",
        "TZ": "<+1345>-13:45",
        # Where it has to be ended, by SIGABRT, it says where each of its threads was.
        "PYTHONFAULTHANDLER": "1",
        **(extra or {}),
    }


def repo_backup(
    *args: str | Path,
    env: Mapping[str, str] | None = None,
    check: int | None = 0,
    input: str | None = None,  # noqa: A002 - the name it has in subprocess
    cwd: Path | None = None,
    patience_seconds: float = PATIENCE_SECONDS,
    timeout_seconds: float = 2.2 * PATIENCE_SECONDS,
) -> Completed:
    """Run ``repo-backup`` to its end.

    Warns:
        WasStuck: it was still at work when its patience had to be over, and ended all the same.

    Args:
        args: as on the command line.
        env: added to the clean environment.
        check: the exit code to insist on; None takes any.
        input: standard input, which is never a terminal.
        cwd: where it runs.
        patience_seconds: after which it is looked at.
        timeout_seconds: after which it is killed.

    Raises:
        StillRunning: it had to be killed.
        UnexpectedExit: it ended with another code than check.
    """
    words = tuple(str(arg) for arg in args)
    with subprocess.Popen(
        [PROGRAM, *words],
        env=environment(env),
        cwd=cwd,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="surrogateescape",
    ) as process:
        seen = ""
        try:
            first = min(patience_seconds, timeout_seconds)
            try:
                stdout, stderr = process.communicate(input or "", timeout=first)
            except subprocess.TimeoutExpired:
                described = "".join(map(hanging.described, hanging.family(process.pid)))
                seen = (
                    f"repo-backup {' '.join(words)} was at work for {first:.0f} seconds\n"
                    f"--- this process\n{hanging.this_process()}--- repo-backup\n{described}"
                )
                stdout, stderr = process.communicate(timeout=timeout_seconds - first)
                warnings.warn(hanging.WasStuck(seen), stacklevel=2)
        except subprocess.TimeoutExpired:
            pids = hanging.family(process.pid)
            process.send_signal(signal.SIGABRT)
            process.wait()
            for pid in pids[1:]:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            stdout, stderr = process.communicate()
            raise StillRunning(
                f"{seen}--- at its end, after {timeout_seconds:.0f} seconds\n"
                f"--- stdout\n{stdout}\n--- stderr\n{stderr}"
            ) from None
        except BaseException:
            process.kill()
            raise
    completed = Completed(words, process.returncode, stdout, stderr)
    if check is not None and completed.code != check:
        raise UnexpectedExit(
            f"repo-backup {' '.join(words)} ended with {completed.code}, not {check}\n"
            f"--- stdout\n{completed.stdout}\n--- stderr\n{completed.stderr}"
        )
    return completed


def start_repo_backup(
    *args: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.Popen[str]:
    """Start ``repo-backup`` in a process group of its own, to be signalled or killed.

    The caller ends it. Both outputs are pipes, so a long run must be read (``communicate``).
    """
    return subprocess.Popen(
        [PROGRAM, *(str(arg) for arg in args)],
        env=environment(env),
        cwd=cwd,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="surrogateescape",
        start_new_session=True,
    )
