"""How bytes reach ``git upload-pack``: one small interface, here over a child process.

The client in `upload_pack` sees packets alone. A transport may hold one long conversation (a
child) or make a request for each command (HTTP): both answer `exchange` the same way.
Source: gitprotocol-v2(5), "Initial Client Request", "File and Git Transport".
"""

import os
from contextlib import suppress
from pathlib import Path
from typing import Protocol

from backup import limits
from backup.errors import BackupError, HostUnreachable, ProtocolError, TruncatedResponse
from backup.git.child import Child
from backup.git.command import clean_environment, newer_format
from backup.git.pktline import FLUSH, PacketReader
from backup.git.rate import LeastRate
from backup.stopping import Stop

# Counting and compressing a large repository may take minutes before the first byte of a pack.
PATIENCE_SECONDS = 900.0
# A repository may hide refs from those who fetch; a backup of the folder leaves nothing out.
_SHOW_EVERYTHING = tuple(
    (f"{section}.hideRefs", shown)
    for section in ("transfer", "uploadpack")
    for shown in ("!refs/", "!HEAD")
)


class Transport(Protocol):
    """A way to one repository's upload-pack. Used by one thread."""

    def advertisement(self) -> PacketReader:
        """Connect and return the packets of the server's advertisement. Called first, once."""

    def exchange(self, request: bytes, *, prepares: bool = False) -> PacketReader:
        """Send one whole command and return the packets of its answer.

        The answer before must have been read to its flush packet.

        Args:
            request: the command.
            prepares: the server may be at work for long before what is asked for begins to come;
                `content_begins` then says when it does.
        """

    def content_begins(self) -> None:
        """Hold the answer to the least rate from now on: what was prepared comes."""

    def ended(self) -> bool:
        """Say that nothing more is asked, and tell whether the server has nothing more to say."""

    def explain(self, error: ProtocolError) -> BackupError:
        """Add what the server said beside the protocol to an error, where it said anything."""

    def close(self) -> None:
        """End the conversation. May be called at any time, any number of times."""


class ProcessTransport:
    """upload-pack as a child process: for folders, and for ssh with another argv.

    Args:
        argv: the program that speaks upload-pack on its stdin and stdout.
        environment: all of its environment; asks for protocol version 2 by ``GIT_PROTOCOL``.
        named: what messages call the server whose bytes it passes on, and which is held to the
            least rate; None for this machine's own git, which is no other's.
    """

    def __init__(
        self,
        argv: list[str | os.PathLike[str]],
        *,
        environment: dict[str, str],
        stop: Stop,
        patience_seconds: float = PATIENCE_SECONDS,
        named: str | None = None,
    ) -> None:
        self._named = named
        self._rate: LeastRate | None = None
        self._argv = argv
        self._environment = environment
        self._stop = stop
        self._patience_seconds = patience_seconds
        self._child: Child | None = None
        self._packets: PacketReader | None = None

    def advertisement(self) -> PacketReader:
        try:
            self._child = Child(
                self._argv,
                environment=self._environment,
                stop=self._stop,
                patience_seconds=self._patience_seconds,
            )
        except OSError as error:
            raise HostUnreachable(f"{self._argv[0]} cannot be run: {error.strerror}") from error
        self._packets = PacketReader(self._read)
        self._hold_to_a_rate(prepares=False)
        return self._packets

    def exchange(self, request: bytes, *, prepares: bool = False) -> PacketReader:
        if self._child is None or self._packets is None:
            raise AssertionError("exchange comes after advertisement")
        self._hold_to_a_rate(prepares=prepares)
        try:
            self._child.write(request)
        except BrokenPipeError as error:
            raise TruncatedResponse("the server hung up") from error
        return self._packets

    def content_begins(self) -> None:
        if self._rate is not None:
            self._rate.begin()

    def _hold_to_a_rate(self, *, prepares: bool) -> None:
        if self._named is None:
            return
        self._rate = LeastRate(self._named, window_seconds=2 * self._patience_seconds)
        if prepares:
            self._rate.prepare()
        else:
            self._rate.limit(limits.MOST_REF_LIST_SECONDS)

    def _read(self, size: int) -> bytes:
        child, rate = self._child, self._rate
        if child is None:
            raise AssertionError("nothing was begun")
        return child.read(size) if rate is None else rate.note(lambda: child.read(size))

    def ended(self) -> bool:
        if self._child is None or self._packets is None:
            raise AssertionError("nothing was begun")
        # A flush in place of a command ends the conversation; a server that was never going to be
        # asked anything (version 0 without refs) may have ended it already.
        with suppress(BrokenPipeError):
            self._child.write(FLUSH)
        return self._packets.at_end()

    def explain(self, error: ProtocolError) -> BackupError:
        words = "" if self._child is None else self._child.words()
        if words and words not in error.message:
            error.message = f"{error.message} ({words})"
            error.args = (error.message,)
        return error

    def close(self) -> None:
        if self._child is not None:
            self._child.kill()


class FolderTransport(ProcessTransport):
    """A conversation with the installed git about a repository on this machine."""

    def explain(self, error: ProtocolError) -> BackupError:
        """Name the format, where this git does not read the repository's."""
        explained = super().explain(error)
        return newer_format(os.fspath(self._argv[-1]), explained.message) or explained


def open_folder(git_directory: Path, *, safe: list[Path], stop: Stop) -> FolderTransport:
    """Reach a repository on this machine.

    Args:
        git_directory: the folder with HEAD, objects and refs.
        safe: the paths by which git may know the repository, trusted whoever owns them.
        stop: looked at while waiting.
    """
    environment = clean_environment(safe_directories=safe, settings=_SHOW_EVERYTHING)
    environment["GIT_PROTOCOL"] = "version=2"
    argv: list[str | os.PathLike[str]] = ["git", "upload-pack", "--strict", git_directory]
    return FolderTransport(argv, environment=environment, stop=stop)
