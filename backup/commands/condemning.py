"""Files of Git LFS that nothing names any more: listed first, and deleted when a grace is over.

A file is stored once for all of an owner's repositories. A run that finds one stored does not write
it anew, so that its age tells nothing of who may be about to need it. Therefore prune notes what
nothing names, and until when each is left alone; a later prune deletes what is on that list, is
over its time and still named by nothing. A run neither leans on what is on the list nor writes it.
What is named again comes off it with the next prune.

What was deleted stays on the list for another grace: a second prune, which began before, may be
about to delete it, too. Of several lists, left by a prune that broke off, the newest counts to
prune; runs leave alone what stands on any.
"""

from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta

from backup.commands.stored_files import read_index
from backup.errors import DamagedDocument, IntegrityError, ObjectNotFound, UnsupportedFormat
from backup.model import Destination, Key
from backup.stopping import Stop
from backup.vault.documents import encode
from backup.vault.documents_of_prune import Condemned, CondemnedLine
from backup.vault.layout import Layout, condemned_of, lfs_key, lfs_oid
from backup.vault.manifest import load

_READERS = 8
_LOOKS = 3


@dataclass(frozen=True, slots=True)
class FileSweep:
    """What becomes of an owner's files of Git LFS.

    Attributes:
        victims: relative keys and sizes of those that go.
        lines: the list as it is to be when these are gone.
        waiting: relative keys and sizes of those on it that are left alone for now.
        documents: the lists that are in the vault.
        is_new: whether the list says anything else than the newest of these.
        problem: why nothing goes this time; empty where that is known.
    """

    victims: Mapping[str, int]
    lines: tuple[CondemnedLine, ...]
    waiting: Mapping[str, int]
    documents: tuple[Key, ...]
    is_new: bool
    problem: str = ""

    @property
    def first(self) -> datetime | None:
        """When the first of those that wait may be deleted; None where none do."""
        times = (line.until for line in self.lines if line.key in self.waiting)
        return min(times, default=None)


def condemned_documents(destination: Destination, layout: Layout) -> tuple[Key, ...]:
    """List the documents that say which files may be deleted."""
    folder = layout.folder("condemned")
    return tuple(one.key for one in destination.list(folder) if condemned_of(layout, one.key))


def condemned_files(destination: Destination, layout: Layout) -> frozenset[str]:
    """Tell the ids of the files that no run may lean on.

    Raises:
        DamagedDocument: a list cannot be read.
        DestinationError: they cannot be had.
    """
    for _ in range(_LOOKS):
        # A prune may just have put another list in the place of one.
        with suppress(ObjectNotFound):
            return _on_lists(destination, layout)
    return _on_lists(destination, layout)


def _on_lists(destination: Destination, layout: Layout) -> frozenset[str]:
    keys = condemned_documents(destination, layout)
    documents = [load(destination, key, Condemned) for key in keys]
    return frozenset(lfs_oid(line.key) for one in documents for line in one.objects)


def list_files(destination: Destination, layout: Layout) -> dict[str, int]:
    """List the files that are stored: relative key to size; what else lies there is left out."""
    start = len(layout.prefix)
    return {
        stored.key[start:]: stored.size_bytes
        for stored in destination.list(layout.folder("lfs"))
        if lfs_oid(stored.key[start:])
    }


def plan_sweep(
    destination: Destination,
    layout: Layout,
    *,
    files: Mapping[str, int],
    indexes: Iterable[str],
    now: datetime,
    grace: timedelta,
    stop: Stop,
) -> FileSweep:
    """Find the files that nothing names, and those that go.

    Args:
        destination: where the vault lies.
        layout: the owner's root.
        files: relative keys and sizes, listed before the indexes were: what a pack points to is
            written before the files are.
        indexes: of every pack that stays, relative keys.
        now: the time.
        grace: how long what is noted today is left alone, and no prune takes longer.
        stop: ends it.

    Where an index cannot be read it is not known what is named: then nothing goes, and the list
    stays.
    """
    documents = condemned_documents(destination, layout)
    known = _newest(destination, documents)
    if not files and not known:
        return FileSweep({}, (), {}, documents, is_new=bool(documents))
    try:
        named = _named(destination, layout, indexes, stop)
    except (DamagedDocument, UnsupportedFormat) as error:
        there = {key: files[key] for key in known if key in files}
        is_new = not known and bool(documents)
        return FileSweep({}, (*known.values(),), there, documents, is_new, error.message)
    lines: dict[str, CondemnedLine] = {}
    victims: dict[str, int] = {}
    for key in files.keys() - named:
        line = known.get(key) or CondemnedLine(key=key, since=now, until=now + grace)
        if line.until <= now:
            victims[key] = files[key]
            line = line.model_copy(update={"deleted_at": now})
        lines[key] = line
    waiting = {key: files[key] for key in lines.keys() - victims.keys()}
    for key in known.keys() - files.keys() - named:
        deleted_at = known[key].deleted_at or now
        if now - deleted_at <= grace:
            lines[key] = known[key].model_copy(update={"deleted_at": deleted_at})
    ordered = tuple(lines[key] for key in sorted(lines))
    # One that cannot be read would keep runs from storing files, though it names none any more.
    is_new = lines != known or (not lines and bool(documents))
    return FileSweep(victims, ordered, waiting, documents, is_new=is_new)


def write_list(
    destination: Destination, layout: Layout, sweep: FileSweep, *, snapshot_id: str, now: datetime
) -> None:
    """Put a new list in the place of those that are there, where it says anything else.

    Raises:
        DestinationError: it cannot be written; the old ones are as they were.
    """
    if not sweep.is_new and len(sweep.documents) <= 1:
        return
    if sweep.lines:
        document = Condemned(
            format=1, document="condemned", snapshot_id=snapshot_id, at=now, objects=sweep.lines
        )
        destination.put_if_absent(layout.condemned(snapshot_id), encode(document))
    destination.delete(sweep.documents)


def _newest(destination: Destination, documents: Iterable[Key]) -> dict[str, CondemnedLine]:
    """Read the newest list; of one that cannot be read every time begins anew."""
    found: list[Condemned] = []
    for key in documents:
        try:
            found.append(load(destination, key, Condemned))
        except (IntegrityError, ObjectNotFound):
            continue
    if not found:
        return {}
    newest = max(found, key=lambda document: (document.at, document.snapshot_id))
    return {line.key: line for line in newest.objects}


def _named(
    destination: Destination, layout: Layout, indexes: Iterable[str], stop: Stop
) -> frozenset[str]:
    """Read what packs point to, as keys of files."""

    def read(key: str) -> set[str]:
        stop.check()
        return {lfs_key(one.oid) for one in read_index(destination, layout, key, sha256=None)}

    named: set[str] = set()
    with ThreadPoolExecutor(_READERS) as pool:
        try:
            for keys in pool.map(read, indexes):
                named |= keys
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return frozenset(named)
