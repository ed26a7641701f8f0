"""Whether what the newest state names is in the vault, as far as a listing tells.

Manifests say how many bundles a repository's chain has, and how many bytes these have together. So
one listing of everything shows where something may be missing, and only there a record is read.
"""

from collections.abc import Iterable, Iterator, Mapping
from itertools import groupby

from backup.commands.hidden import how_hidden
from backup.commands.last_state import records_to_chain
from backup.errors import DestinationError, IntegrityError, ObjectNotFound
from backup.model import Destination, StoredObject
from backup.results import Finding
from backup.vault.chain import missing, unlisted
from backup.vault.documents import Entry
from backup.vault.layout import Layout, folder_of, is_bundle, is_ids, is_lfs_index, snapshot_of
from backup.vault.manifest import State

_NEXT_RUN = "the next run that looks over the vault takes a new full, where the source still has it"


def not_there(
    destination: Destination, layout: Layout, state: State, *, name: str
) -> Iterator[Finding]:
    """Yield a finding for each repository of which the newest state names what is not listed.

    Requests: one LIST for every 1,000 objects of repositories; where files of Git LFS are kept one
    more for every 1,000 versions; a record for each repository that is not obviously whole.

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
    whole: set[tuple[str, str]] = set()
    start = len(layout.prefix)
    listed = destination.list(layout.folder("repositories"))
    for folder, objects in groupby(listed, key=lambda one: folder_of(one.key)[start:]):
        if folder in wanted:
            there = {one.key[start:]: one.size_bytes for one in objects}
            entries = wanted[folder]
            whole |= {one.identity for one in entries if _is_whole(one, there, indexes)}
    for entries in wanted.values():
        for entry in entries:
            if entry.identity in whole:
                continue
            if problem := _problem(destination, layout, entry):
                message, fix = problem
                yield Finding(
                    "error", f"{name}/{entry.path}: {message}", fix, private=entry.private
                )


def _is_whole(entry: Entry, there: Mapping[str, int], indexes: Iterable[str]) -> bool:
    """Return whether a folder obviously has all of a repository's chain.

    Its last bundles are as many and have as many bytes as the manifest says; those of an
    overlapping run among them, or under an earlier name, make it less than obvious.
    """
    if entry.record is None or entry.record not in there or not entry.chain_length:
        # Of what was emptied an earlier record says what is to be there.
        return False
    last = snapshot_of(entry.record)
    bundles = sorted(key for key in there if is_bundle(key) and snapshot_of(key) <= last)
    chain = bundles[len(bundles) - entry.chain_length :]
    if sum(there[key] for key in chain) != entry.chain_bytes:
        return False
    return not any(_stem(key) in indexes for key in chain)


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


def _problem(destination: Destination, layout: Layout, entry: Entry) -> tuple[str, str] | None:
    """Compare a record with listings of its folders; say what is wrong, and what to do."""
    relative = entry.record or ""
    accepted = {one.key for one in entry.damaged if one.accepted}
    if relative in accepted:
        return None
    try:
        records = records_to_chain(destination, layout, entry)
    except ObjectNotFound as error:
        if destination.uri(layout.key(relative)) in error.message:
            return _absent(destination, layout, relative)
        # Of what was emptied it is an earlier one that is missing.
        return error.message, _NEXT_RUN
    except IntegrityError as error:
        return error.message, _NEXT_RUN
    start = len(layout.prefix)
    _, record = records[-1]
    stored: dict[str, int] = {}
    keys = [key for key, _ in records]
    for folder in {folder_of(key) for key in (*keys, *(line.key for line in record.chain))}:
        stored |= _sizes(destination.list(layout.key(folder)), start)
    for line in record.chain:
        expected = {line.key: line.size_bytes, **dict.fromkeys(line.documents, 0)}
        stored |= {key: size for key, size in expected.items() if key in accepted}
    for each in keys:
        if key := unlisted(record, each, stored):
            return _absent(destination, layout, key)
    problem = missing(record, stored)
    return (problem, _NEXT_RUN) if problem else None


def _sizes(listed: Iterable[StoredObject], start: int) -> dict[str, int]:
    return {one.key[start:]: one.size_bytes for one in listed}


def _absent(destination: Destination, layout: Layout, key: str) -> tuple[str, str]:
    command = how_hidden(destination, layout.key(key))
    if command:
        return f"{key} lies under a delete marker", f"show it again: {command}"
    return f"{key} is missing", _NEXT_RUN
