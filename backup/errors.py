"""The error tree, its exit codes and hints.

Every failure a person can meet is one of these classes. Adapters turn what a library or a program
raised into one of them with ``raise ... from``; only the doors turn them into exit codes.

The exit codes are an interface (docs/reference/exit-codes.md): 0 done, 1 the run failed,
2 configuration, 3 partial, 4 stored data is damaged, 5 internal error, 130 interrupted.
"""

from collections.abc import Iterator
from enum import IntEnum

from backup.secret import mask


class ExitCode(IntEnum):
    """What the process returns."""

    DONE = 0
    FAILED = 1
    CONFIGURATION = 2
    PARTIAL = 3
    DAMAGED = 4
    BUG = 5
    INTERRUPTED = 130


# More is read by no person, and a manifest must have room for what failed of each repository.
_LONGEST_MESSAGE = 10_000


def causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that led to it, each once.

    One that is raised again may come to stand in its own context.
    """
    found: BaseException | None = error
    seen: set[int] = set()
    while found is not None and id(found) not in seen:
        yield found
        seen.add(id(found))
        found = found.__cause__ or found.__context__


def sound(text: str) -> str:
    """Make text that every document may hold: no secret, and what is not UTF-8 shown escaped."""
    return mask(text.encode("utf-8", "backslashreplace").decode())


def _message(text: str) -> str:
    """Return text as a message has it: sound, and no longer than a server has a right to be."""
    message = sound(text)
    if len(message) <= _LONGEST_MESSAGE:
        return message
    return f"{message[:_LONGEST_MESSAGE]}... ({len(message)} characters)"


class BackupError(Exception):
    """The root: one line for people, and where we know it what to do next.

    Args:
        message: one line, starts with what failed, no trailing full stop.
        hint: what the reader can do about it, or an empty string.
    """

    exit_code = ExitCode.FAILED
    retryable = False

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(_message(message))
        self.message = _message(message)
        self.hint = _message(hint)


class ConfigError(BackupError):
    """An input is missing, unknown or has a value that is not accepted."""

    exit_code = ExitCode.CONFIGURATION


class NotYetAvailable(ConfigError):
    """An input or command that is part of the interface and does not work yet."""


class Interrupted(BackupError):
    """Somebody asked us to stop; what was finished is kept."""

    exit_code = ExitCode.INTERRUPTED


class NothingSelected(ConfigError):
    """The filters leave nothing of an owner; an error only where they leave nothing of any."""


class DeadlineReached(BackupError):
    """The time given to the run is used up; the work goes on in the next run."""

    exit_code = ExitCode.PARTIAL


class FullIsDue(BackupError):
    """Nothing but an increment may be captured, and a full is due."""


class NotBegun(DeadlineReached):
    """The same, before anything of a repository was tried."""


class ServerSilent(DeadlineReached):
    """The time was up while a server had sent nothing, or too little, for long: it is to blame."""


class SourceError(BackupError):
    """The place where repositories come from failed or refused.

    Args:
        retry_after_seconds: how long it asked us to wait; None where it said nothing.
    """

    def __init__(
        self, message: str, *, hint: str = "", retry_after_seconds: float | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.retry_after_seconds = retry_after_seconds


class AuthenticationError(SourceError):
    """The source did not accept who we are."""


class RateLimited(SourceError):
    """The source asks us to wait."""

    retryable = True


class HostUnreachable(SourceError):
    """The source did not answer, or stopped answering."""

    retryable = True


class RepositoryUnavailable(SourceError):
    """One repository cannot be read, for a reason the source states."""


class RepositoryMissing(RepositoryUnavailable):
    """No such repository is there, or none that we may see."""


class RepositoryBlocked(RepositoryUnavailable):
    """One repository is blocked for good, such as for legal reasons; the message says by whom."""


class IncompleteRepository(RepositoryUnavailable):
    """The source's own history lacks objects: shallow, partial clone, broken alternates."""


class FileMissing(SourceError):
    """The source does not have a file of Git LFS, and says so."""


class LinkExpired(SourceError):
    """A link to a file is not good any more; another one may be.

    Args:
        is_gone: the store says that nothing is there.
    """

    retryable = True

    def __init__(self, message: str, *, is_gone: bool) -> None:
        super().__init__(message, retry_after_seconds=0.0)
        self.is_gone = is_gone


class BrokenArchive(SourceError):
    """An archive that a forge made does not unpack whole; the message goes on from "it"."""


class ProtocolError(BackupError):
    """The other side of the git wire broke the protocol."""


class MalformedPacket(ProtocolError):
    """Bytes that are no pkt-line, or a pkt-line that does not belong there."""


class TruncatedResponse(ProtocolError):
    """An answer ended before its end was said."""

    retryable = True


class AnswerTooLarge(ProtocolError):
    """An answer has more than is taken of it (`backup.limits`); it would be the same next time."""

    def __init__(self, message: str) -> None:
        super().__init__(
            message,
            hint="so much is not taken, whatever sends it; if the repository is really that large, "
            "make it smaller at the source, or leave it out with --exclude",
        )


class TruncatedPack(ProtocolError):
    """A pack ended before its trailer agreed.

    Args:
        received_bytes: how much of the pack had come.
    """

    retryable = True

    def __init__(self, message: str, *, received_bytes: int, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.received_bytes = received_bytes


class MalformedPack(ProtocolError):
    """A pack that git does not accept."""


class AnswerLacksObjects(ProtocolError):
    """A server left objects out of an increment that its refs lead to and the vault has not."""


class RemoteRefused(ProtocolError):
    """The server said no, in its own words (an ``ERR`` packet or side-band 3)."""


class NotOurRef(RemoteRefused):
    """A wanted object is gone or never was: the refs moved since they were listed."""


class DestinationError(BackupError):
    """The place where backups go failed."""


class ObjectNotFound(DestinationError):
    """No object has that key."""


class AccessDenied(DestinationError):
    """The destination knows us and forbids it; never the same as not found."""


class ObjectArchived(DestinationError):
    """The object lies in an archive, and cannot be read before it is thawed."""


class SessionExpired(DestinationError):
    """The credentials' time is over: nothing more can be stored or read in this run."""


class DestinationUnreachable(DestinationError):
    """The destination did not answer, or asks us to slow down; it may answer later."""

    retryable = True


class WriteConflict(DestinationError):
    """Another object, with other content, already has that key."""


class IncompleteWrite(DestinationError):
    """An object could not be stored whole; nothing was published."""

    retryable = True


class TemporaryFolderError(BackupError):
    """The temporary folder is gone, cannot be written, or is full."""


class MachineLimitReached(BackupError):
    """Open files, memory or processes are used up here, of the machine or its container.

    It says nothing of the data, the disk or a server, and passes when others have ended.
    """

    retryable = True


class IntegrityError(BackupError):
    """Stored data is not what was recorded."""

    exit_code = ExitCode.DAMAGED


class ChecksumMismatch(IntegrityError):
    """An object's bytes differ from those that were recorded."""


class BrokenChain(IntegrityError):
    """A bundle that a chain needs is missing or has another size."""


class RefusedByGit(BrokenChain):
    """What is stored is what was recorded, and git makes no repository of it."""


class DamagedDocument(IntegrityError):
    """A manifest or record that cannot be read."""


class ManifestDamaged(DamagedDocument):
    """A manifest that a command cannot do without is damaged.

    Args:
        message: what is wrong with it.
        stem: of the manifest.
        before: the id of the newest snapshot before it that can be read; empty where none can.
        after: the same of one after it.
    """

    def __init__(self, message: str, *, stem: str, before: str, after: str = "") -> None:
        stored = (
            f"what was stored before it is restored with --at {before}"
            if before
            else "no snapshot before it can be read"
        )
        if after:
            is_restored = "" if before else " is restored"
            stored += f", what was stored after it{is_restored} with --at {after}"
        super().__init__(
            message,
            hint=f"{stored}; docs/how-to/repair-a-vault.md tells how to go on from there",
        )
        self.stem = stem


class IndexMissing(IntegrityError):
    """Objects of repositories are there, and no manifest that says what they are."""


class UnsupportedFormat(IntegrityError):
    """A document written by a newer version of this program."""


class DocumentTooLarge(BackupError):
    """A document would be larger than readers accept; it was not written."""


class PruneRefused(BackupError):
    """This is no time to delete anything; nothing was."""


class PartialFailure(BackupError):
    """The run ended; something selected was not captured."""

    exit_code = ExitCode.PARTIAL
