"""Runs one program to its end and says what it cost: time, processor, memory, temporary disk.

Processor time is exact and counts every child that was waited for (wait4(2)). Memory is read from
``/proc`` while the program runs, and is None on systems that have none. Of each process it is the
kernel's own high-water mark, so that only what grows in its last moments can be missed; of several
together, and of the temporary folder, it is the most that was seen at one look.
"""

import contextlib
import os
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

_OWN_EVERY_SECONDS = 0.01
# Looking at all processes may take a twentieth of one core, so that it changes little.
_PAUSE_PER_LOOK = 20
_WORDS_SHOWN = 2000

Argument = str | os.PathLike[str]
Contents = dict[str, tuple[int, int, int]]
"""Path below a folder to size, time of change and inode of the file there."""


class CommandFailed(Exception):
    """A program that was to be measured did not end well, so there is nothing to compare."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What a program took.

    Attributes:
        cpu_seconds: user and system time, of its children too.
        own_memory_bytes: most resident memory of the program itself.
        memory_bytes: most resident memory of it and its children at one moment, pages that they
            share counted in each; the children of others' git servers are among them.
        memory_of: most resident memory of a single child, by what it is (``index-pack``).
        temporary_bytes: most that lay in the temporary folder at one moment.
    """

    seconds: float = 0.0
    cpu_seconds: float = 0.0
    own_memory_bytes: int | None = None
    memory_bytes: int | None = None
    memory_of: Mapping[str, int] = field(default_factory=dict)
    temporary_bytes: int = 0

    def then(self, other: "Cost") -> "Cost":
        """Add the cost of a program that ran after this one."""
        names = {**self.memory_of, **other.memory_of}
        return Cost(
            seconds=self.seconds + other.seconds,
            cpu_seconds=self.cpu_seconds + other.cpu_seconds,
            own_memory_bytes=_most(self.own_memory_bytes, other.own_memory_bytes),
            memory_bytes=_most(self.memory_bytes, other.memory_bytes),
            memory_of={
                name: max(self.memory_of.get(name, 0), other.memory_of.get(name, 0))
                for name in names
            },
            temporary_bytes=max(self.temporary_bytes, other.temporary_bytes),
        )


def measure(
    argv: Sequence[Argument],
    *,
    environment: Mapping[str, str],
    stdin: bytes = b"",
    temporary: Path | None = None,
) -> tuple[Cost, bytes]:
    """Run a program and return its cost and its standard output.

    What others left to be written to the disk is written before the clock starts.

    Args:
        argv: the program and its arguments.
        environment: all of its environment.
        stdin: its standard input.
        temporary: the folder whose size is watched.

    Raises:
        CommandFailed: it ended with another status than 0.
    """
    with (
        tempfile.TemporaryFile() as said,
        tempfile.TemporaryFile() as words,
        tempfile.TemporaryFile() as given,
    ):
        given.write(stdin)
        given.seek(0)
        os.sync()
        started = time.perf_counter()
        process = subprocess.Popen(
            list(argv),
            stdin=given,
            stdout=said,
            stderr=words,
            env=dict(environment),
            start_new_session=True,
        )
        with _Watch(process.pid, temporary) as watch:
            try:
                _, status, usage = os.wait4(process.pid, 0)
            except BaseException:
                _end(process)
                raise
            seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        said.seek(0)
        words.seek(0)
        if process.returncode != 0:
            line = " ".join(os.fspath(word) for word in argv[:6])
            text = words.read()[-_WORDS_SHOWN:].decode("utf-8", "backslashreplace").strip()
            raise CommandFailed(f"{line} ... ended with {process.returncode}: {text}")
        return (
            Cost(
                seconds=seconds,
                cpu_seconds=usage.ru_utime + usage.ru_stime,
                own_memory_bytes=watch.own_bytes or None,
                memory_bytes=max(watch.together_bytes, watch.own_bytes) or None,
                memory_of=dict(watch.most_of),
                temporary_bytes=watch.temporary_bytes,
            ),
            said.read(),
        )


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End a program and what it started: it may tidy up, its children may not stay."""
    os.killpg(process.pid, signal.SIGTERM)
    process.wait()
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


class _Watch:
    """Looks at a process and all below it from a thread of its own until it is left."""

    def __init__(self, pid: int, temporary: Path | None) -> None:
        self._pid = pid
        self._temporary = temporary
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self.own_bytes = 0
        self.together_bytes = 0
        self.temporary_bytes = 0
        self.most_of: dict[str, int] = {}

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        due = 0.0
        while True:
            self.own_bytes = max(self.own_bytes, _memory(self._pid)[0])
            if time.monotonic() >= due:
                before = time.thread_time()
                self._look_at_all()
                due = time.monotonic() + _PAUSE_PER_LOOK * (time.thread_time() - before)
            if self._over.wait(_OWN_EVERY_SECONDS):
                return

    def _look_at_all(self) -> None:
        together = _memory(self._pid)[1]
        for pid in _below(self._pid):
            most, now = _memory(pid)
            together += now
            name = _what_it_is(pid)
            if name and most > self.most_of.get(name, 0):
                self.most_of[name] = most
        self.together_bytes = max(self.together_bytes, together)
        if self._temporary is not None:
            self.temporary_bytes = max(self.temporary_bytes, size_of(self._temporary))


def _memory(pid: int) -> tuple[int, int]:
    """Tell a process's most and present resident memory; nothing of one that is gone.

    Source: proc(5), ``/proc/PID/status``, VmHWM and VmRSS.
    """
    most = now = 0
    for line in _read(f"/proc/{pid}/status").splitlines():
        if line.startswith(b"VmHWM:"):
            most = int(line.split()[1]) * 1024
        elif line.startswith(b"VmRSS:"):
            now = int(line.split()[1]) * 1024
    return most, now


def _below(root: int) -> list[int]:
    """List the children of a process and theirs."""
    children: dict[int, list[int]] = {}
    try:
        names = [path.name for path in Path("/proc").iterdir()]
    except OSError:
        return []
    for name in names:
        if name.isdigit():
            # The name in brackets may hold anything; the parent is the second field after it.
            fields = _read(f"/proc/{name}/stat").rpartition(b")")[2].split()
            if len(fields) > 1:
                children.setdefault(int(fields[1]), []).append(int(name))
    found, waiting = [], [root]
    while waiting:
        below = children.get(waiting.pop(), [])
        found += below
        waiting += below
    return found


def _what_it_is(pid: int) -> str:
    """Name a process by its program, and git by what it does."""
    words = [os.fsdecode(word) for word in _read(f"/proc/{pid}/cmdline").split(b"\0")]
    program = Path(words[0]).name
    if program != "git":
        return program
    rest = iter(words[1:])
    for word in rest:
        if word == "-C":
            next(rest, "")
        elif not word.startswith("-"):
            return word
    return program


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError:
        return b""


def size_of(folder: Path) -> int:
    """Add up the sizes of the files below a folder; of what vanishes meanwhile, nothing."""
    return sum(size for size, _, _ in contents(folder).values())


def contents(folder: Path) -> Contents:
    """Look at every file below a folder, without following links."""
    found: Contents = {}
    waiting = [os.fspath(folder)]
    while waiting:
        place = waiting.pop()
        try:
            with os.scandir(place) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                        continue
                    try:
                        status = entry.stat(follow_symlinks=False)
                    except OSError:
                        continue
                    found[entry.path] = (status.st_size, status.st_mtime_ns, status.st_ino)
        except OSError:
            continue
    return found


def written(before: Contents, after: Contents) -> tuple[int, int]:
    """Count the files that are new or changed, and their bytes."""
    sizes = [look[0] for path, look in after.items() if before.get(path) != look]
    return len(sizes), sum(sizes)


def _most(one: int | None, other: int | None) -> int | None:
    known = [value for value in (one, other) if value is not None]
    return max(known, default=None)
