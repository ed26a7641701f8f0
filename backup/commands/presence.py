"""Whether what the newest state names is in the vault, as far as a listing tells.

Manifests say how many bundles a repository's chain has, and how many bytes these have together. So
one listing of everything shows where something may be missing, and only there a record is read.

Which files of Git LFS a repository needs no manifest says: its record and the lists beside its
bundles do. The same listing shows where there are such lists. So these are read of the repositories
that have files, and nothing of the others.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby

from backup.commands.hidden import hidden_files, how_hidden
from backup.commands.known_damage import standing
from backup.commands.last_state import records_to_chain
from backup.commands.stored_files import lost_files
from backup.errors import DestinationError, IntegrityError, ObjectArchived, ObjectNotFound
from backup.model import Destination
from backup.results import Finding
from backup.vault.chain import missing, sizes, unlisted
from backup.vault.documents import Entry
from backup.vault.layout import (
    Layout,
    folder_of,
    is_bundle,
    is_ids,
    is_lfs_index,
    lfs_index_key,
    lfs_key,
    lfs_oid,
    snapshot_of,
)
from backup.vault.manifest import Identity, State
from backup.workers import Workers

# Reading lists of files of Git LFS is waiting, mostly.
_AT_ONCE = 8
_NEXT_RUN = "the next run that looks over the vault takes a new full, where the source still has it"


@dataclass(frozen=True, slots=True)
class _Looked:
    """What a closer look at one repository found.

    Attributes:
        problem: what is wrong; empty where nothing is.
        fix: what to do about it.
        may_need_files: whether its record, which is whole, promises files of Git LFS.
    """

    problem: str = ""
    fix: str = ""
    may_need_files: bool = False


def not_there(
    destination: Destination, layout: Layout, state: State, *, name: str
) -> Iterator[Finding]:
    """Yield a finding for each repository of which the newest state names what is not listed.

    Requests: one LIST for every 1,000 objects of repositories; where files of Git LFS are kept one
    more for every 1,000 versions of these, and for every 1,000 of the files; a record for each
    repository that is not obviously whole or points to files, and each of its lists of files. Where
    files are missing one more LIST for each of a few, or for every 1,000 versions of all.

    Args:
        destination: where the vault lies.
        layout: the owner's root.
        state: the newest, whose entries say what damage was accepted: it is no finding.
        name: of the owner, for people.
    """
    wanted: dict[str, list[Entry]] = {}
    for entry in state.entries.values():
        if entry.record is not None:
            wanted.setdefault(folder_of(entry.record), []).append(entry)
    if not wanted:
        return
    indexes = _hidden_indexes(destination, layout, wanted.values())
    whole: set[Identity] = set()
    pointing: set[Identity] = set()
    start = len(layout.prefix)
    listed = destination.list(layout.folder("repositories"))
    for folder, objects in groupby(listed, key=lambda one: folder_of(one.key)[start:]):
        if folder in wanted:
            there = {one.key[start:]: one.size_bytes for one in objects}
            for entry in wanted[folder]:
                if chain := _whole_chain(entry, there, indexes):
                    whole.add(entry.identity)
                    if any(_index_of(key) in there for key in chain):
                        pointing.add(entry.identity)
    entries = [entry for some in wanted.values() for entry in some]
    for entry in entries:
        if entry.identity in whole:
            continue
        looked = _look(destination, layout, entry)
        if looked.problem:
            message = f"{name}/{entry.path}: {looked.problem}"
            yield Finding("error", message, looked.fix, private=entry.private)
        elif looked.may_need_files:
            pointing.add(entry.identity)
    needing = [entry for entry in entries if entry.identity in pointing]
    yield from _of_files(destination, layout, needing, name=name)


def _whole_chain(
    entry: Entry, there: Mapping[str, int], indexes: Collection[str]
) -> Collection[str]:
    """Return a repository's bundles, where a folder obviously has all of them; else nothing.

    Its last bundles are as many and have as many bytes as the manifest says; those of an
    overlapping run among them, or under an earlier name, make it less than obvious.
    """
    if entry.record is None or entry.record not in there or not entry.chain_length:
        # Of what was emptied an earlier record says what is to be there.
        return ()
    last = snapshot_of(entry.record)
    bundles = sorted(key for key in there if is_bundle(key) and snapshot_of(key) <= last)
    chain = bundles[len(bundles) - entry.chain_length :]
    if sum(there[key] for key in chain) != entry.chain_bytes:
        return ()
    return () if any(_stem(key) in indexes for key in chain) else chain


def _index_of(bundle: str) -> str:
    return lfs_index_key(folder_of(bundle), snapshot_of(bundle))


def _hidden_indexes(
    destination: Destination, layout: Layout, wanted: Iterable[Iterable[Entry]]
) -> frozenset[str]:
    """Return what hidden lists of files of Git LFS lie beside, without the ending.

    No manifest says which bundles have such a list.
    """
    if not any(entry.selection.lfs for entries in wanted for entry in entries):
        return frozenset()
    start = len(layout.prefix)
    try:
        return frozenset(
            _stem(one.key[start:])
            for one in destination.versions(layout.folder("repositories"))
            if one.is_hidden and (is_lfs_index(one.key) or is_ids(one.key))
        )
    except DestinationError as error:
        if error.retryable:
            raise
        return frozenset()


def _stem(key: str) -> str:
    folder = folder_of(key)
    return folder + key.removeprefix(folder).partition(".")[0]


def _look(destination: Destination, layout: Layout, entry: Entry) -> _Looked:
    """Compare a record with listings of its folders; say what is wrong, and what to do."""
    relative = entry.record or ""
    accepted = {one.key for one in entry.damaged if one.accepted}
    if relative in accepted:
        return _Looked()
    try:
        records = records_to_chain(destination, layout, entry)
    except ObjectNotFound as error:
        if destination.uri(layout.key(relative)) in error.message:
            return _absent(destination, layout, relative)
        # Of what was emptied it is an earlier one that is missing.
        return _Looked(error.message, _NEXT_RUN)
    except IntegrityError as error:
        return _Looked(error.message, _NEXT_RUN)
    _, record = records[-1]
    stored: dict[str, int] = {}
    keys = [key for key, _ in records]
    for folder in {folder_of(key) for key in (*keys, *(line.key for line in record.chain))}:
        stored |= sizes(destination.list(layout.key(folder)), prefix=layout.prefix)
    for line in record.chain:
        expected = {line.key: line.size_bytes, **dict.fromkeys(line.documents, 0)}
        stored |= {key: size for key, size in expected.items() if key in accepted}
    for each in keys:
        if key := unlisted(record, each, stored):
            return _absent(destination, layout, key)
    problem = missing(record, stored)
    return (
        _Looked(problem, _NEXT_RUN) if problem else _Looked(may_need_files=record.lfs is not None)
    )


def _absent(destination: Destination, layout: Layout, key: str) -> _Looked:
    command = how_hidden(destination, layout.key(key))
    if command:
        return _Looked(f"{key} lies under a delete marker", f"show it again: {command}")
    return _Looked(f"{key} is missing", _NEXT_RUN)


# --- Files of Git LFS ---


def _of_files(
    destination: Destination, layout: Layout, entries: Collection[Entry], *, name: str
) -> Iterator[Finding]:
    """Yield what is missing of the files that repositories need, one or two for each of these.

    Args:
        destination: where the vault lies.
        layout: the owner's root.
        entries: of those that may need files. No record is held: there may be many.
        name: of the owner, for people.
    """
    if not entries:
        return
    stored = sizes(destination.list(layout.folder("lfs")), prefix=layout.prefix)

    def look(entry: Entry) -> Collection[str] | Finding:
        path = f"{name}/{entry.path}"
        try:
            _, record = records_to_chain(destination, layout, entry)[-1]
            lost = lost_files(destination, layout, record, stored)
        except ObjectArchived as error:
            message = f"{path}: which files of Git LFS it needs cannot be read now: {error.message}"
            return Finding("info", message, private=entry.private)
        except (IntegrityError, ObjectNotFound) as error:
            return Finding("error", f"{path}: {error.message}", _NEXT_RUN, private=entry.private)
        accepted = {lfs_oid(one.key) for one in standing(entry).accepted}
        return [one.oid for one in lost if one.oid not in accepted]

    with Workers(_AT_ONCE) as pool:
        results = [*zip(entries, pool.map(look, entries), strict=True)]
    all_lost = {oid for _, one in results if not isinstance(one, Finding) for oid in one}
    commands = hidden_files(destination, layout, all_lost)
    for entry, result in results:
        if isinstance(result, Finding):
            yield result
        else:
            yield from _of_lost(entry, result, commands, path=f"{name}/{entry.path}")


def _of_lost(
    entry: Entry, lost: Collection[str], commands: Mapping[str, str], *, path: str
) -> Iterator[Finding]:
    """Name one repository's files that markers hide, and those that are gone."""

    def words(oids: Collection[str], lies: str, lie: str) -> str:
        first, *more = map(lfs_key, oids)
        if not more:
            return f"{path}: {first} {lies}"
        return f"{path}: {first} and {len(more)} more files of Git LFS {lie}"

    if hidden := [oid for oid in lost if oid in commands]:
        others = "; verify says it for each of the others" if len(hidden) > 1 else ""
        yield Finding(
            "error",
            words(hidden, "lies under a delete marker", "lie under delete markers"),
            f"show it again: {commands[hidden[0]]}{others}",
            private=entry.private,
        )
    # What a drill or a run has found is told as known damage.
    known = {lfs_oid(one.key) for one in standing(entry).open}
    if gone := [oid for oid in lost if oid not in commands and oid not in known]:
        run = "the next run" if entry.selection.lfs else "the next run with files of Git LFS"
        yield Finding(
            "error",
            words(gone, "is missing", "are missing"),
            f"{run} that looks over the vault stores it again, where the source has it",
            private=entry.private,
        )
