"""Gives repositories back: the chain's packs in order, then the refs, then HEAD, each proved.

A mirror is built under another name and moved into place at the end: a folder that has the name
asked for is whole.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

from backup.commands.finding import (
    Found,
    entries_at,
    find_repository,
    is_name_of,
    matches,
    require_roots,
)
from backup.commands.rebuilding import rebuild_mirror, record_of
from backup.errors import (
    BackupError,
    ConfigError,
    DestinationError,
    ExitCode,
    IntegrityError,
    Interrupted,
)
from backup.git.command import require_git
from backup.model import Destination, Events
from backup.results import Restored, RestoreReport
from backup.stopping import Stop
from backup.vault.documents import Entry, Record
from backup.vault.layout import escape_segment


@dataclass(frozen=True, slots=True)
class RestoreRequest:
    """What to give back.

    Attributes:
        repository: a name or id, or a glob over names for several, each to its own folder below
            the target; None with all.
        all: every repository that was listed then.
        at: a date, a time, a snapshot id, ``latest`` or None.
        target: the mirror's folder, or with all the folder for the mirrors; must not exist or be
            empty.
    """

    repository: str | None
    all: bool
    at: str | None
    target: Path
    concurrency: int = 1


@dataclass(frozen=True, slots=True)
class _Failure:
    """One repository that could not be given back."""

    name: str
    error: BackupError


def is_glob(repository: str) -> bool:
    """Tell whether a name may be a pattern; a forge lets neither character into a name."""
    return not {"*", "?"}.isdisjoint(repository)


def restore(
    destination: Destination, request: RestoreRequest, *, events: Events, stop: Stop
) -> RestoreReport:
    """Give back one repository, or all of them.

    Raises:
        ConfigError: the request names nothing, too much, or a target that is in use.
        IntegrityError: stored data is damaged; nothing is left at the target.
    """
    require_git()
    _require_free(request.target)
    now = datetime.now(UTC)
    everything = [
        found
        for layout in require_roots(destination)
        for found in entries_at(destination, layout, request.at, now=now)
    ]
    if not everything:
        raise ConfigError(
            f"--at: no snapshot was made by {request.at!r}", hint="list --from shows the snapshots"
        )
    if request.all:
        return _restore_all(destination, everything, request, events=events, stop=stop)
    name = request.repository or ""
    # In a folder a name may have such a character.
    if is_glob(name) and not any(is_name_of(found, name) for found in everything):
        matching = [found for found in everything if matches(found, name)]
        if not matching:
            raise ConfigError(
                f"REPOSITORY: nothing in this vault matches {name!r}",
                hint="list --from shows what there is; * stands for any part of a name",
            )
        return _restore_all(destination, matching, request, events=events, stop=stop)
    found = find_repository(everything, name)
    with _half_made_beside(request.target) as folder:
        restored = _restore_one(destination, found, folder, events=events, stop=stop)
        _move_into_place(folder, request.target)
    return RestoreReport((_at(restored, request.target),))


def _restore_all(
    destination: Destination,
    everything: list[Found],
    request: RestoreRequest,
    *,
    events: Events,
    stop: Stop,
) -> RestoreReport:
    left_out = {id(found): reason for found in everything if (reason := _left_out(found.entry))}
    live = [found for found in everything if id(found) not in left_out]

    def one(placed: tuple[Found, Path]) -> Restored | _Failure:
        found, place = placed
        try:
            with _half_made_beside(place) as folder:
                made = _restore_one(destination, found, folder, events=events, stop=stop)
                _move_into_place(folder, place)
        except Interrupted:
            raise
        except BackupError as error:
            return _Failure(found.name, error)
        return _at(made, place)

    with ThreadPoolExecutor(request.concurrency) as pool:
        try:
            results = [*pool.map(one, _places(live, request.target))]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    restored = [result for result in results if isinstance(result, Restored)]
    failures = [result for result in results if isinstance(result, _Failure)]
    failed = [f"{failure.name}: {failure.error.message}" for failure in failures]
    damaged = any(isinstance(failure.error, IntegrityError) for failure in failures)
    return RestoreReport(
        tuple(restored),
        left_out=tuple(
            f"{found.name}: {left_out[id(found)]}" for found in everything if id(found) in left_out
        ),
        failed=tuple(failed),
        exit_code=_exit_code(failed, damaged=damaged),
    )


def _left_out(entry: Entry) -> str:
    """Say why there is nothing to restore of a repository; empty if there should be something."""
    if entry.absence is not None:
        return f"not listed since {entry.absence.since:%Y-%m-%d} (restore it by name)"
    if entry.record is None and entry.status in ("empty", "skipped"):
        return f"there is nothing of it: {entry.reason or entry.status}"
    return ""


def _exit_code(failed: list[str], *, damaged: bool) -> ExitCode:
    if damaged:
        return ExitCode.DAMAGED
    return ExitCode.PARTIAL if failed else ExitCode.DONE


def _restore_one(
    destination: Destination, found: Found, folder: Path, *, events: Events, stop: Stop
) -> Restored:
    record = _record(destination, found)
    events.capturing(found.name, "restore", f"{len(record.chain)} bundles")
    try:
        return _rebuild(destination, found, record, folder, events=events, stop=stop)
    finally:
        events.ended(found.name)


def _rebuild(
    destination: Destination,
    found: Found,
    record: Record,
    folder: Path,
    *,
    events: Events,
    stop: Stop,
) -> Restored:
    rebuild_mirror(
        destination,
        found.layout,
        record,
        folder,
        transferred=lambda size: events.transferred(found.name, size),
        stop=stop,
    )
    return Restored(
        name=found.name,
        path=folder,
        snapshot_id=record.snapshot_id,
        refs=len(record.refs),
        objects=sum(bundle.objects for bundle in record.chain),
        size_bytes=sum(bundle.size_bytes for bundle in record.chain),
        state_at=found.entry.checked_at or record.captured_at,
    )


def _record(destination: Destination, found: Found) -> Record:
    entry = found.entry
    if entry.record is None:
        reason = entry.reason or "nothing of it was captured yet"
        raise BackupError(f"{found.name} has no backup: {reason}")
    return record_of(
        destination, found.layout, entry.record, identity=entry.identity, name=found.name
    )


def _places(live: list[Found], target: Path) -> Iterator[tuple[Found, Path]]:
    """Give every mirror a path of its own below target, on any file system.

    Names that differ in case alone, or of which one would lie inside another, get the id added.
    """
    several = len({found.layout for found in live}) > 1
    taken: set[str] = set()
    for found in sorted(live, key=lambda one: (one.name, one.entry.host_id)):
        segments = [escape_segment(segment) for segment in found.entry.path.split("/")]
        if several:
            segments = [escape_segment(found.host), escape_segment(found.owner), *segments]
        place = "/".join(segments)
        if _collides(f"{place}.git".casefold(), taken):
            place = f"{place}~{escape_segment(found.entry.host_id)}"
        taken.add(f"{place}.git".casefold())
        yield found, target / f"{place}.git"


def _collides(name: str, taken: set[str]) -> bool:
    if name in taken:
        return True
    parts = name.split("/")
    above = {"/".join(parts[:depth]) for depth in range(1, len(parts))}
    return not above.isdisjoint(taken) or any(one.startswith(f"{name}/") for one in taken)


def _require_free(target: Path) -> None:
    if target.is_dir() and not any(target.iterdir()):
        return
    if target.exists() or target.is_symlink():
        raise ConfigError(
            f"TARGET: {target} exists already", hint="name a folder that does not exist or is empty"
        )


@contextmanager
def _half_made_beside(target: Path) -> Iterator[Path]:
    """Make a folder on the target's file system that is removed unless it was moved away."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=f".{target.name[:100]}.", dir=target.parent))
    except OSError as error:
        raise DestinationError(
            f"TARGET: {target.parent} cannot be written to: {error.strerror}"
        ) from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _move_into_place(folder: Path, target: Path) -> None:
    # mkdtemp makes folders for their owner alone; a mirror is like any other folder.
    umask = os.umask(0)
    os.umask(umask)
    folder.chmod(0o777 & ~umask)
    try:
        # Succeeds over an empty folder, fails over any other.
        folder.rename(target)
    except OSError as error:
        raise DestinationError(f"TARGET: {target} is in use: {error.strerror}") from error


def _at(restored: Restored, place: Path) -> Restored:
    return replace(restored, path=place)
