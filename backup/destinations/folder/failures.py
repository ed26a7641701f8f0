"""What the errors of a file system mean for a destination in a folder."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from backup.errors import AccessDenied, DestinationError, IncompleteWrite, ObjectNotFound

_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}
_IMPOSSIBLE_NAMES = {errno.ENOTDIR, errno.ENAMETOOLONG, errno.EILSEQ, errno.EINVAL}
_FULL_HINTS = {
    errno.ENOSPC: "free some space there or choose another folder",
    errno.EDQUOT: "raise the quota, free some space or choose another folder",
    errno.EFBIG: "choose a file system that takes larger files, or raise `ulimit -f`",
}


@contextmanager
def reading(uri: str) -> Iterator[None]:
    """Turn what reading an object raises into an error of ours."""
    try:
        yield
    except FileNotFoundError as error:
        raise ObjectNotFound(f"{uri} does not exist") from error
    except OSError as error:
        raise _error(error, f"{uri} could not be read") from error


@contextmanager
def writing(uri: str) -> Iterator[None]:
    """Turn what storing an object raises into an error of ours."""
    try:
        yield
    except OSError as error:
        raise write_error(error, f"{uri} could not be stored") from error


@contextmanager
def deleting(uri: str) -> Iterator[None]:
    """Turn what deleting an object raises into an error of ours."""
    try:
        yield
    except OSError as error:
        raise _error(error, f"{uri} could not be deleted") from error


def write_error(error: OSError, what: str) -> DestinationError:
    """Make the error for something that could not be written, with a hint for full disks."""
    if error.errno in _FORBIDDEN:
        return AccessDenied(
            f"{what}: {_reason(error)}", hint="give the right to write there, or another folder"
        )
    if error.errno in _IMPOSSIBLE_NAMES:
        return _error(error, what)
    hint = _FULL_HINTS.get(error.errno or 0, "")
    return IncompleteWrite(f"{what}: {_reason(error)}", hint=hint)


def _error(error: OSError, what: str) -> DestinationError:
    kind = AccessDenied if error.errno in _FORBIDDEN else DestinationError
    return kind(f"{what}: {_reason(error)}")


def _reason(error: OSError) -> str:
    return error.strerror or type(error).__name__
