"""The process's own streams: what nobody reads any more ends no backup."""

import os
import sys
from contextlib import suppress
from io import BufferedWriter, FileIO, TextIOWrapper
from pathlib import Path


class _Log(FileIO):
    """Standard error, until its reader has gone or its disk is full; then nothing."""

    def write(self, data: object, /) -> int:
        try:
            return super().write(data)  # type: ignore[arg-type] # as its base takes it
        except OSError:
            null = os.open(os.devnull, os.O_WRONLY)
            os.dup2(null, self.fileno())
            os.close(null)
            return super().write(data)  # type: ignore[arg-type]


def prepare_streams() -> None:
    """Let names be written that a terminal cannot show, and a log that cannot be written be lost.

    A stream that was closed before we began (``>&-``, some schedulers) is one that nobody reads.

    Names of refs and files need not be valid text. A log is read by `head` and `less`, which go
    when they have enough: a run of hours must not end by that.
    """
    _replace_closed()
    log = sys.stderr
    if log is sys.__stderr__ and isinstance(log, TextIOWrapper):
        log.flush()
        raw = _Log(log.fileno(), "w", closefd=False)
        sys.stderr = TextIOWrapper(BufferedWriter(raw), encoding=log.encoding, line_buffering=True)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _replace_closed() -> None:
    """Open the null device where the process was begun without one of its three streams.

    The next file would get its number: what a child, or Python at an abort, writes to its standard
    error would go into that file.
    """
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            _reserve(number)
            # For as long as the process lives, like the one that it stands for.
            stream = Path(os.devnull).open("w" if number else "r", encoding="utf-8")  # noqa: SIM115
            setattr(sys, name, stream)


def _reserve(number: int) -> None:
    """Have a descriptor be the null device, for children too, unless a file has it already."""
    with suppress(OSError):
        os.fstat(number)
        return
    null = os.open(os.devnull, os.O_RDWR)
    if null == number:
        os.set_inheritable(null, True)  # noqa: FBT003 - it has no name for it
    else:
        os.dup2(null, number)
        os.close(null)
