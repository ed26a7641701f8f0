"""The process's own streams: what nobody reads any more ends no backup."""

import os
import sys
from io import BufferedWriter, FileIO, TextIOWrapper


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

    Names of refs and files need not be valid text. A log is read by `head` and `less`, which go
    when they have enough: a run of hours must not end by that.
    """
    log = sys.stderr
    if log is sys.__stderr__ and isinstance(log, TextIOWrapper):
        log.flush()
        raw = _Log(log.fileno(), "w", closefd=False)
        sys.stderr = TextIOWrapper(BufferedWriter(raw), encoding=log.encoding, line_buffering=True)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
