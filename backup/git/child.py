"""A child process that can neither hang nor outlive us, and whose words are kept.

Every read and write waits with `select.poll`, looks at the run's `Stop` at least once a second and
gives up after a time without a single byte. What the child says on stderr is drained meanwhile and
its last kilobytes are kept for error messages. The child leads a process group of its own, so that
a terminal's Ctrl-C reaches it through us alone and its own children end with it.
"""

import contextlib
import fcntl
import os
import select
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Self

from backup.errors import AnswerTooLarge, HostUnreachable
from backup.machine import limit_reached
from backup.secret import ALLOWANCE, left_of
from backup.stopping import Stop

_SLICE_MILLISECONDS = 500
_WORDS_SHOWN = 8192
_WORDS_KEPT_BYTES = _WORDS_SHOWN + ALLOWANCE
_PIPE_BYTES = 1 << 20
_F_SETPIPE_SZ = getattr(fcntl, "F_SETPIPE_SZ", None)


class Child:
    """A running program with its three pipes. Used by one thread.

    Args:
        argv: the program and its arguments; never through a shell.
        environment: all of the child's environment.
        stop: looked at while waiting; ends the wait with its own error.
        patience_seconds: how long no byte may move before the child counts as stalled.

    Raises:
        MachineLimitReached: this machine does not allow one more now.
        OSError: it cannot be started.
    """

    def __init__(
        self,
        argv: Sequence[str | os.PathLike[str]],
        *,
        environment: Mapping[str, str],
        stop: Stop,
        patience_seconds: float,
        cwd: str | os.PathLike[str] | None = None,
    ) -> None:
        self._name = os.path.basename(argv[0])  # noqa: PTH119  argv may hold bytes-like paths
        self._stop = stop
        self._patience_seconds = patience_seconds
        self._words = bytearray()
        try:
            self._process = subprocess.Popen(
                list(argv),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=dict(environment),
                cwd=cwd,
                start_new_session=True,
                bufsize=0,
            )
        except OSError as error:
            if limit := limit_reached(error, starts_process=True):
                raise limit from error
            raise
        process = self._process
        if process.stdin is None or process.stdout is None or process.stderr is None:
            raise AssertionError("pipes were asked for")
        self._stdin: int | None = process.stdin.fileno()
        self._stdout = process.stdout.fileno()
        self._stderr: int | None = process.stderr.fileno()
        for descriptor in (self._stdin, self._stdout, self._stderr):
            os.set_blocking(descriptor, False)
            if _F_SETPIPE_SZ is not None:
                # Best effort: unprivileged users have a budget for larger pipes.
                with contextlib.suppress(OSError):
                    fcntl.fcntl(descriptor, _F_SETPIPE_SZ, _PIPE_BYTES)

    def read(self, size: int) -> bytes:
        r"""Return at most size bytes of stdout as soon as there are any; ``b""`` at its end.

        Raises:
            HostUnreachable: nothing came for the time allowed.
            BackupError: the run must stop.
        """
        while True:
            # A child that always has more to say would never be waited for.
            self._stop.check()
            try:
                return os.read(self._stdout, size)
            except BlockingIOError:
                self._wait_for({self._stdout: select.POLLIN})

    def write(self, data: bytes | memoryview) -> None:
        """Write all of data to stdin.

        Raises:
            BrokenPipeError: the child closed its side; its words say why.
            HostUnreachable: nothing could be written for the time allowed.
        """
        if self._stdin is None:
            raise BrokenPipeError("stdin is closed")
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._stdin, rest) :]
            except BlockingIOError:
                self._wait_for({self._stdin: select.POLLOUT})

    def close_stdin(self) -> None:
        """Tell the child that no more comes."""
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._stdin = None

    def converse(self, data: bytes, *, most_bytes: int | None = None) -> tuple[int, bytes]:
        """Write data, read stdout to its end, and return the exit status with what was read.

        Both at once: a child that answers while it is still being asked would block otherwise. A
        child that ends before it was told everything is no error here; its exit status is.

        Args:
            data: all that the child is told.
            most_bytes: of stdout, where what is on it is not ours.

        Raises:
            AnswerTooLarge: there is more.
        """
        rest = memoryview(data)
        parts: list[bytes] = []
        taken_bytes = 0
        while True:
            if rest:
                rest = self._write_some(rest)
            if not rest:
                self.close_stdin()
            self._stop.check()
            try:
                output = os.read(self._stdout, _PIPE_BYTES)
            except BlockingIOError:
                events = {self._stdout: select.POLLIN}
                if self._stdin is not None:
                    events[self._stdin] = select.POLLOUT
                self._wait_for(events)
                continue
            if not output:
                return self.wait(), b"".join(parts)
            parts.append(output)
            taken_bytes += len(output)
            if most_bytes is not None and taken_bytes > most_bytes:
                raise AnswerTooLarge(f"{self._name} says more than {most_bytes} bytes")

    def wait(self) -> int:
        """Wait for the child's end; the patience counts from now, since no byte can move."""
        started = time.monotonic()
        while True:
            self._drain_words()
            try:
                status = self._process.wait(_SLICE_MILLISECONDS / 1000)
            except subprocess.TimeoutExpired:
                self._give_up_if_due(started)
            else:
                self._drain_words()
                return status

    def words(self) -> str:
        """Return the end of what the child said on stderr, as one line."""
        self._drain_words()
        words = self._words.decode("utf-8", "backslashreplace")
        text = left_of(words, at_start=len(self._words) == _WORDS_KEPT_BYTES)[-_WORDS_SHOWN:]
        return "; ".join(line.strip() for line in text.splitlines() if line.strip())

    def kill(self) -> None:
        """End the child and its children now. May be called at any time, any number of times."""
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            if pipe is not None:
                pipe.close()
        self._stdin = self._stderr = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()

    def _write_some(self, rest: memoryview) -> memoryview:
        if self._stdin is None:
            return memoryview(b"")
        try:
            return rest[os.write(self._stdin, rest) :]
        except BlockingIOError:
            return rest
        except BrokenPipeError:
            return memoryview(b"")

    def _wait_for(self, events: Mapping[int, int]) -> None:
        started, since = time.monotonic(), self._stop.clock_seconds()
        while True:
            poll = select.poll()
            for descriptor, event in events.items():
                poll.register(descriptor, event)
            if self._stderr is not None:
                poll.register(self._stderr, select.POLLIN)
            ready = {descriptor for descriptor, _ in poll.poll(_SLICE_MILLISECONDS)}
            self._drain_words()
            self._stop.check_while_waiting(self._name, since=since)
            if not ready.isdisjoint(events):
                return
            self._give_up_if_due(started)

    def _give_up_if_due(self, started: float) -> None:
        self._stop.check()
        if time.monotonic() - started > self._patience_seconds:
            raise HostUnreachable(
                f"{self._name} moved no byte for {self._patience_seconds:.0f} seconds"
            )

    def _drain_words(self) -> None:
        while self._stderr is not None:
            try:
                data = os.read(self._stderr, _WORDS_KEPT_BYTES)
            except BlockingIOError:
                return
            if not data:
                self._stderr = None
                return
            self._words += data
            del self._words[:-_WORDS_KEPT_BYTES]
