"""Says what processes wait for, when one did not end in its time.

A program that waits for a server of the tests hangs because of the server as often as of itself:
the servers are threads of this process, so its own threads and sockets are told too.
"""

import faulthandler
import os
import tempfile
from contextlib import suppress
from pathlib import Path


class WasStuck(UserWarning):
    """A program went on in the end; says what it and this process waited for."""


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


def _thread(task: Path) -> str:
    with suppress(OSError):
        state = (task / "stat").read_text().rpartition(")")[2].split()[0]
        return f"{task.name} {state} {(task / 'wchan').read_text()}"
    return f"{task.name} ended"


def _sockets() -> str:
    """List the sockets of loopback, without those that only wait for stragglers.

    Each line has its addresses, its state, how much waits to be sent and to be read, and its
    inode, all as the kernel writes them; of one that listens, what waits is connections.
    """
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    waits_for_stragglers = "06"
    told = (line.split() for line in lines)
    return "".join(
        f"{one[1]} {one[2]} {one[3]} {one[4]} {one[9]}\n"
        for one in told
        if one[3] != waits_for_stragglers
    )
