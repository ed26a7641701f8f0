"""Reads the documents of a root that no manifest names, as the commands that need them do.

What stops another command must be damage for verify, too: a list of files that may be deleted, the
result of a drill, which damage is accepted, what a pack points to in Git LFS, the ids in a pack,
and a record that a run left behind. What a newer version of this program wrote is no damage, where
nothing of this one's names it.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from backup.commands.promised import Promised
from backup.errors import IntegrityError, ObjectNotFound, UnsupportedFormat
from backup.model import Destination, Key
from backup.results import Damage
from backup.stopping import Stop
from backup.vault.documents import Accepted, Drill, Ids, LfsIndex, Record
from backup.vault.documents_of_prune import Condemned, Pruned
from backup.vault.fields import Part
from backup.vault.layout import (
    Layout,
    accepted_of,
    condemned_of,
    folder_of,
    is_ids,
    is_lfs_index,
    is_record,
    pruned_of,
    record_key,
    snapshot_of,
)
from backup.vault.manifest import Identity, load


@dataclass(frozen=True, slots=True)
class Holders:
    """The repositories that have records in one folder: one, but where a name was given twice."""

    names: tuple[str, ...] = ()
    private: bool = False
    identities: tuple[Identity, ...] = ()


def holders_by_folder(repositories: Iterable[Promised]) -> dict[str, Holders]:
    """Return the repositories by the folders that their records lie in, relative to the root."""
    found: dict[str, Holders] = {}
    for one in repositories:
        for folder in {folder_of(key) for key in one.snapshots}:
            known = found.get(folder, Holders())
            found[folder] = Holders(
                names=tuple(sorted({*known.names, one.name})),
                private=known.private or one.private,
                identities=tuple(sorted({*known.identities, one.identity})),
            )
    return found


def damaged_documents(
    destination: Destination,
    layout: Layout,
    listed: Iterable[str],
    *,
    named: Collection[str],
    holders: Mapping[str, Holders],
    concurrency: int,
    stop: Stop,
) -> tuple[list[Damage], list[str]]:
    """Read every document but those of runs and the records that they name.

    Return the damaged ones, and of those that a newer version wrote that they cannot be read.

    One that is gone by now was pruned, or is missed where something names it.

    Args:
        destination: where the vault lies.
        layout: the owner's root.
        listed: relative keys of all objects of repositories.
        named: the relative keys of records that manifests name.
        holders: for each folder of a repository whose records lie in it; a run that knows what is
            damaged takes a new full where a chain needs it.
        concurrency: the number of documents that are read at once; each is dropped when read.
        stop: ends it.
    """

    def read(one: tuple[Key, type[Part]]) -> Damage | str | None:
        key, kind = one
        stop.check()
        try:
            load(destination, key, kind)
        except ObjectNotFound:
            return None
        except IntegrityError as error:
            if isinstance(error, UnsupportedFormat) and not is_named(key):
                return error.message
            of = holders.get(folder_of(key.removeprefix(layout.prefix)), Holders())
            return Damage(
                destination.uri(key), error.message, of.names, (), of.private, of.identities
            )
        return None

    def is_named(key: Key) -> bool:
        # What stands beside a bundle is named where its record is.
        relative = key.removeprefix(layout.prefix)
        return record_key(folder_of(relative), snapshot_of(relative)) in named

    documents = [*_documents(destination, layout, listed, named)]
    with ThreadPoolExecutor(concurrency) as pool:
        try:
            found = [*pool.map(read, documents)]
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return (
        [one for one in found if isinstance(one, Damage)],
        [one for one in found if isinstance(one, str)],
    )


def _documents(
    destination: Destination, layout: Layout, listed: Iterable[str], named: Collection[str]
) -> Iterator[tuple[Key, type[Part]]]:
    for stored in destination.list(layout.folder("condemned")):
        if condemned_of(layout, stored.key):
            yield stored.key, Condemned
    for stored in destination.list(layout.folder("accepted")):
        if accepted_of(layout, stored.key):
            yield stored.key, Accepted
    for stored in destination.list(layout.folder("pruned")):
        if pruned_of(layout, stored.key):
            yield stored.key, Pruned
    for stored in destination.list(layout.folder("drills")):
        yield stored.key, Drill
    for key in listed:
        if not snapshot_of(key):
            continue
        if is_lfs_index(key):
            yield layout.key(key), LfsIndex
        elif is_ids(key):
            yield layout.key(key), Ids
        elif is_record(key) and key not in named:
            yield layout.key(key), Record
