"""This machine's own limits: whether one is used up, by what the system or its programs say.

They are open files, memory and processes, threads included. One that is used up says nothing of the
data, the disk or a server, and passes when others have ended.
"""

import errno
import resource

from backup.errors import MachineLimitReached, causes

_LESS = "or give a smaller --concurrency"
_HINTS = {
    "open files": f"raise the limit (ulimit -n), {_LESS}",
    "open files of the whole system": f"raise the limit (sysctl fs.file-max), {_LESS}",
    "memory": f"give this machine or its container more memory, {_LESS}",
    "processes": f"raise the limit of processes (--pids-limit of a container, ulimit -u), {_LESS}",
}
_BY_NUMBER = {
    errno.EMFILE: "open files",
    errno.ENFILE: "open files of the whole system",
    errno.ENOMEM: "memory",
}
# What the C library and git say in English; the longer words come first.
_BY_WORDS = {
    "Too many open files in system": "open files of the whole system",
    "Too many open files": "open files",
    "Cannot allocate memory": "memory",
    "ut of memory": "memory",
    # ld.so(8), of a library.
    "failed to map segment": "memory",
    "unable to create thread": "processes",
    "Resource temporarily unavailable": "processes",
}
# Source: CPython's _threadmodule.c, ThreadHandle_start.
_NO_THREAD = "can't start new thread"


def limit_reached(
    error: BaseException, *, starts_process: bool = False
) -> MachineLimitReached | None:
    """Build the error that names the limit for which something failed; None where there is none.

    Args:
        error: what was raised; the errors that led to it are looked at, too.
        starts_process: it comes from starting a program. Only there EAGAIN means a limit: of a
            socket or a lock it means that nothing is there yet.
    """
    for cause in causes(error):
        if isinstance(cause, MachineLimitReached):
            return cause
        if limit := _limit(cause, starts_process=starts_process):
            return limit_named(limit, str(error))
    return None


def limit_in(words: str) -> str:
    """Return the limit that a program of this machine says it failed for; empty where none is."""
    # git passes on what a server's git says, which ran elsewhere.
    own = [line for line in words.split("; ") if not line.startswith("remote: ")]
    found = (limit for sign, limit in _BY_WORDS.items() if any(sign in line for line in own))
    return next(found, "")


def limit_named(limit: str, what: str = "") -> MachineLimitReached:
    """Build the error for one of the limits.

    Args:
        limit: one of those that have a hint.
        what: failed for it, in the words of whoever noticed.
    """
    shown = limit
    if limit == "open files":
        shown += f" (ulimit -n {resource.getrlimit(resource.RLIMIT_NOFILE)[0]})"
    message = f"a limit of this machine is used up: {shown}"
    return MachineLimitReached(f"{message}: {what}" if what else message, hint=_HINTS[limit])


def _limit(cause: BaseException, *, starts_process: bool) -> str:
    if isinstance(cause, MemoryError):
        return "memory"
    if isinstance(cause, RuntimeError) and _NO_THREAD in str(cause):
        return "processes"
    if not isinstance(cause, OSError):
        return ""
    if starts_process and cause.errno == errno.EAGAIN:
        return "processes"
    return _BY_NUMBER.get(cause.errno or 0, "")
