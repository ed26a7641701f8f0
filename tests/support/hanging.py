"""Says what processes wait for, when one did not end in its time.

A program that waits for a server of the tests hangs because of the server as often as of itself:
the servers are threads of this process, so its own threads and sockets are told too.
"""

import faulthandler
import os
import re
import sys
import tempfile
import threading
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from threading import Event, Thread
from time import monotonic, process_time


class WasStuck(UserWarning):
    """A program went on in the end; says what it and this process waited for."""


class Pulse:
    """Notices when this process stood still, and looks at a test that takes very long.

    A virtual machine that is halted takes its clock on when it goes on: all that was waited for
    then seems to have taken that long. Two processes that stood still at the same moment, and
    worked no second of it, were halted with their machine.

    Args:
        gap_seconds: is called standing still.
        patience_seconds: of a test; it counts none of the time in which this process stood still.
        beat_seconds: between two looks.
    """

    def __init__(
        self,
        *,
        gap_seconds: float = 15.0,
        patience_seconds: float = 240.0,
        beat_seconds: float = 1.0,
        clock: Callable[[], float] = monotonic,
    ) -> None:
        self._gap, self._patience, self._beat = gap_seconds, patience_seconds, beat_seconds
        self._clock = clock
        self._gaps: list[str] = []
        self._seen = ""
        self._seen_shortly = ""
        self._waited = 0.0
        self._ended = Event()
        Thread(target=self._watch, name="pulse", daemon=True).start()

    def begin(self) -> None:
        """A test begins."""
        self._waited, self._seen, self._seen_shortly = 0.0, "", ""

    def gaps(self) -> str:
        """Tell when this process stood still since this was asked last."""
        found, self._gaps = self._gaps, []
        return "".join(found)

    @property
    def seen(self) -> str:
        """What was waited for when the test's patience was over; nothing if it never was."""
        return self._seen

    @property
    def seen_shortly(self) -> str:
        """The same in a few lines, for a log of which the end alone is kept."""
        return self._seen_shortly

    def end(self) -> None:
        self._ended.set()

    def _watch(self) -> None:
        at, worked = self._clock(), process_time()
        while not self._ended.wait(self._beat):
            before, at = at, self._clock()
            before_worked, worked = worked, process_time()
            if (gap := at - before) >= self._gap:
                now = datetime.now(UTC).strftime("%H:%M:%S")
                self._gaps.append(
                    f"{os.getpid()} stood still for {gap:.1f} seconds until {now}, and worked for "
                    f"{worked - before_worked:.1f} of them\n"
                )
                continue
            self._waited += gap
            if self._waited > self._patience and not self._seen:
                self._seen_shortly = shortly()
                self._seen = this_process()


def family(pid: int) -> list[int]:
    """List a process and all that it started, those that it started itself first."""
    found = [pid]
    for one in found:
        for task in Path(f"/proc/{one}/task").glob("*"):
            with suppress(OSError):
                found += map(int, (task / "children").read_text().split())
    return found


def described(pid: int) -> str:
    """Say what a process is, what each of its threads waits for in the kernel, and its files."""
    with suppress(OSError):
        place = Path(f"/proc/{pid}")
        words = (place / "cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        files = [os.readlink(file) for file in (place / "fd").iterdir()]  # noqa: PTH115 - no paths
        threads = ", ".join(map(_thread, sorted((place / "task").iterdir())))
        return f"{pid} {words}{files} {threads}\n"
    return f"{pid} has ended\n"


def this_process() -> str:
    """Say where each thread of this process is, what it started, and which sockets are open."""
    with tempfile.TemporaryFile() as file:
        faulthandler.dump_traceback(file)
        file.seek(0)
        stacks = file.read().decode("utf-8", "replace")
    return f"{''.join(map(described, family(os.getpid())))}{stacks}{_sockets()}"


def shortly() -> str:
    """Say in few lines where the threads of this process are, and which sockets hold what waits."""
    names = {one.ident: re.sub(r"\d+", "", one.name) for one in threading.enumerate()}
    places: Counter[str] = Counter()
    for ident, frame in sys._current_frames().items():
        callers = [
            f"{Path(one.f_code.co_filename).name}:{line} {one.f_code.co_name}"
            for one, line in islice(traceback.walk_stack(frame), 4)
        ]
        places[f"{names.get(ident)}: {' < '.join(callers)}"] += 1
    threads = "".join(f"{count} x {place}\n" for place, count in sorted(places.items()))
    nothing = "00000000:00000000"
    waiting = [line for line in _sockets().splitlines() if line.split()[3] != nothing]
    return threads + "".join(f"{line}\n" for line in waiting[:20])


def _thread(task: Path) -> str:
    with suppress(OSError):
        state = (task / "stat").read_text().rpartition(")")[2].split()[0]
        return f"{task.name} {state} {(task / 'wchan').read_text()}"
    return f"{task.name} ended"


def _sockets() -> str:
    """List the sockets of loopback, without those that only wait for stragglers.

    Each line has its addresses, its state, how much waits to be sent and to be read, its timer,
    how many times it has sent again, and its inode, all as the kernel writes them; of one that
    listens, what waits is connections.
    """
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    waits_for_stragglers = "06"
    told = (line.split() for line in lines)
    return "".join(
        f"{one[1]} {one[2]} {one[3]} {one[4]} {one[5]} {one[6]} {one[9]}\n"
        for one in told
        if one[3] != waits_for_stragglers
    )
