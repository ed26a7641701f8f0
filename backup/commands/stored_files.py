"""The files of Git LFS that are in a vault: which a chain points to, whether they are whole.

A file's key is the SHA-256 of its content. So nothing else need be believed to tell whether it is
the right one; in a store with versions one that was overwritten is found among the older ones.
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from backup.commands.hidden import hidden_files
from backup.errors import (
    BackupError,
    ChecksumMismatch,
    DestinationError,
    IntegrityError,
    ObjectNotFound,
)
from backup.git.lfs import file_in
from backup.git.pointers import Pointer
from backup.model import Destination, Key
from backup.stopping import Stop
from backup.vault.documents import BundleLine, LfsIndex, Record
from backup.vault.layout import Layout, folder_of, lfs_key
from backup.vault.manifest import load

_READ_BYTES = 1 << 18
_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class GivenFiles:
    """The files that were given back with a repository.

    Attributes:
        count: so many; with their bytes together.
        not_stored: ids of those that were not to be had when the repository was captured.
        failed: what is wrong with each that did not come.
        is_damaged: whether one of them is missing or damaged in the vault; others could not be
            read or written this time.
        not_asked: whether files were not asked for when it was captured, and there were some.
        unsearched: packs of which nobody knows to which files they point.
    """

    count: int = 0
    size_bytes: int = 0
    not_stored: tuple[str, ...] = ()
    failed: tuple[str, ...] = ()
    is_damaged: bool = False
    not_asked: bool = False
    unsearched: int = 0


def is_whole(destination: Destination, key: Key, oid: str, *, version: str | None = None) -> bool:
    """Read a stored file, and tell whether it is the one that its id names."""
    digest = hashlib.sha256()
    for data in _content(destination, key, version):
        digest.update(data)
    return digest.hexdigest() == oid


def pointers_of(
    destination: Destination, layout: Layout, chain: Iterable[BundleLine]
) -> dict[str, Pointer]:
    """Read what the searched packs of a chain point to, by id; raises as `read_index` does.

    The size is one that pointers give, and not necessarily the file's.
    """
    found: dict[str, Pointer] = {}
    digests = {line.lfs: line.lfs_sha256 for line in chain if line.lfs is not None}
    for key, sha256 in digests.items():
        found |= {one.oid: one for one in read_index(destination, layout, key, sha256=sha256)}
    return found


def read_index(
    destination: Destination, layout: Layout, key: str, *, sha256: str | None
) -> tuple[Pointer, ...]:
    """Read what one searched pack points to: a file once for each size that pointers give it.

    Args:
        destination: where the vault lies.
        layout: the owner's root.
        key: of the list.
        sha256: that a chain has for it; None where no chain is at hand.

    Raises:
        ObjectNotFound: the document is missing.
        DamagedDocument: it cannot be read, or another one was put in its place.
    """
    objects = load(destination, layout.key(key), LfsIndex, sha256=sha256).objects
    return tuple(Pointer(one.oid, one.size_bytes) for one in objects)


def promised_files(destination: Destination, layout: Layout, record: Record) -> dict[str, Pointer]:
    """Tell which files a record says are stored, by id; raises as `pointers_of` does."""
    if record.lfs is None:
        return {}
    missing = {one.oid for one in record.lfs.not_stored}
    wanted = pointers_of(destination, layout, record.chain)
    return {oid: one for oid, one in wanted.items() if oid not in missing}


def unsearched_packs(records: Iterable[Record]) -> int:
    """Count packs that were to be searched for files when they were captured, and were not."""
    lines = (line for record in records if record.lfs is not None for line in record.chain)
    return len({line.key for line in lines if not line.lfs_scanned})


def promises_all_files(record: Record) -> bool:
    """Return whether a record says that all files are stored that its chain points to.

    Where it does not, a record before it may have promised one that it does not.
    """
    if record.lfs is None:
        return not any(line.lfs for line in record.chain)
    return not record.lfs.not_stored


def lost_files(
    destination: Destination, layout: Layout, record: Record, stored: Mapping[str, int] | None
) -> tuple[Pointer, ...]:
    """Tell which files of a record are not in the vault, though it says that they are.

    Args:
        destination: where the vault lies.
        layout: the owner's root.
        record: of the repository.
        stored: relative key to size, as listed; None to look for each file by itself.
    """
    return tuple(
        pointer
        for oid, pointer in sorted(promised_files(destination, layout, record).items())
        if not _is_stored(destination, layout, oid, stored)
    )


def _is_stored(
    destination: Destination, layout: Layout, oid: str, stored: Mapping[str, int] | None
) -> bool:
    if stored is not None:
        return lfs_key(oid) in stored
    try:
        destination.stat(layout.key(lfs_key(oid)))
    except ObjectNotFound:
        return False
    return True


def problem_of(destination: Destination, layout: Layout, oid: str) -> str:
    """Read a file, and say what is wrong with it; empty where nothing is.

    Raises:
        DestinationError: it could not be read, and is not missing.
    """
    key = layout.key(lfs_key(oid))
    try:
        if is_whole(destination, key, oid):
            return ""
    except ObjectNotFound:
        return "it is missing"
    for version in _first_version(destination, key):
        if is_whole(destination, key, oid, version=version):
            return f"it was overwritten: its version {version} was written"
    return "its content is not the one that its name is the SHA-256 of"


def give_files(
    destination: Destination,
    layout: Layout,
    records: Iterable[Record],
    git_directory: Path,
    *,
    transferred: Callable[[int], None],
    stop: Stop,
) -> GivenFiles:
    """Put the files that some records promise where git-lfs looks for them, unless they are there.

    Nothing else is given, even if the vault has it: it may be another repository's, whose readers
    are not the same. One that is missing or damaged keeps no other from being given back.

    Args:
        destination: where the vault lies.
        layout: the owner's root.
        records: of one repository.
        git_directory: of the restored repository.
        transferred: hears of the bytes that are read; called from several threads.
        stop: ends it.

    Raises:
        Interrupted: somebody asked to stop.
    """
    records = tuple(records)
    promised: set[str] = set()
    not_stored: set[str] = set()
    not_asked = False
    problems: list[str] = []
    errors: list[BackupError] = []
    for record in records:
        if record.lfs is None:
            not_asked |= any(line.lfs is not None for line in record.chain)
            continue
        try:
            promised |= promised_files(destination, layout, record).keys()
        except (IntegrityError, DestinationError) as error:
            problems.append(f"files of Git LFS of {record.snapshot_id}: {error.message}")
            errors.append(error)
            continue
        not_stored |= {one.oid for one in record.lfs.not_stored}

    def give(oid: str) -> int | BackupError:
        stop.check()
        try:
            return _give(destination, layout, oid, git_directory, transferred)
        except (IntegrityError, DestinationError) as error:
            return error

    ids = sorted(promised)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        results = dict(zip(ids, pool.map(give, ids), strict=True))
    sizes = [size for size in results.values() if isinstance(size, int)]
    errors += [error for error in results.values() if isinstance(error, BackupError)]
    hidden: dict[str, str] = {}
    with suppress(DestinationError):
        gone = [oid for oid, error in results.items() if isinstance(error, ObjectNotFound)]
        hidden = hidden_files(destination, layout, gone)
    problems += [
        f"file {oid} of Git LFS: {error.message}"
        + (
            f": it lies under a delete marker; show it again: {hidden[oid]}"
            if oid in hidden
            else ""
        )
        for oid, error in results.items()
        if isinstance(error, BackupError)
    ]
    return GivenFiles(
        count=len(sizes),
        size_bytes=sum(sizes),
        not_stored=tuple(sorted(not_stored - promised)),
        failed=tuple(problems),
        is_damaged=any(isinstance(error, IntegrityError | ObjectNotFound) for error in errors),
        not_asked=not_asked,
        unsearched=unsearched_packs(records),
    )


def _give(
    destination: Destination,
    layout: Layout,
    oid: str,
    git_directory: Path,
    transferred: Callable[[int], None],
) -> int:
    """Write one file, and give its size; it has its name when it is whole, and not before."""
    key = layout.key(lfs_key(oid))
    target = file_in(git_directory, oid)
    # The same each time: what a killed process left is written over.
    partial = target.with_name(f"{oid}.partial")
    try:
        if target.is_file() and _digest_of(target) == oid:
            return target.stat().st_size
        target.parent.mkdir(parents=True, exist_ok=True)
        for version in _versions(destination, key):
            digest, size_bytes = hashlib.sha256(), 0
            with partial.open("wb") as file:
                for data in _content(destination, key, version):
                    digest.update(data)
                    size_bytes += len(data)
                    file.write(data)
                    transferred(len(data))
            if digest.hexdigest() == oid:
                partial.replace(target)
                return size_bytes
    except OSError as error:
        raise DestinationError(f"{target} cannot be written: {error.strerror}") from error
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)
    raise ChecksumMismatch(f"{destination.uri(key)} is damaged: it has another SHA-256")


def _digest_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _versions(destination: Destination, key: Key) -> Iterator[str | None]:
    """Yield what may be the file: the current object, then the one that was written first."""
    yield None
    yield from _first_version(destination, key)


def _first_version(destination: Destination, key: Key) -> Iterator[str]:
    """Yield the first version of an object that has several, where that can be told."""
    with suppress(DestinationError):
        for one in destination.versions(folder_of(key)):
            if one.key == key and one.count > 1:
                yield one.first


def _content(destination: Destination, key: Key, version: str | None) -> Iterator[bytes]:
    with destination.open(key, version=version) as reader:
        while data := reader.read(_READ_BYTES):
            yield data
