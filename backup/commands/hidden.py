"""What is needed and lies under a delete marker: noticed, told, and shown again by a command.

The rule of a bucket removes a hidden version some weeks later, and every snapshot that needs it is
broken from then on. Until then one command brings it back.
"""

from dataclasses import dataclass
from datetime import datetime

from backup.destinations.originals import OriginalsDestination
from backup.errors import DamagedDocument, DestinationError, ObjectNotFound
from backup.model import Destination, Key, ObjectVersions
from backup.vault.clocks import is_dated_after_object
from backup.vault.layout import DocumentName, Layout, folder_of
from backup.vault.manifest import list_documents, load_manifest


@dataclass(frozen=True, slots=True)
class HiddenDocument:
    """A manifest or checkpoint that is newer than all that are in sight, under a delete marker.

    Attributes:
        command: shows it again.
    """

    name: DocumentName
    uri: str
    command: str

    @property
    def message(self) -> str:
        """What is wrong, in one sentence."""
        return f"{self.uri} lies under a delete marker; it was read all the same"

    @property
    def fix(self) -> str:
        """What to do about it."""
        return f"show it again: {self.command}"


def hidden_documents(
    destination: OriginalsDestination, layout: Layout
) -> tuple[HiddenDocument, ...]:
    """Return the documents that `list_documents` gave though delete markers hide them.

    One that a manifest in sight has merged is none: prune may have removed it. No request is made
    where nothing is hidden.

    Args:
        destination: with which the documents of this root were listed before.
        layout: the owner's root.
    """
    hidden: dict[Key, ObjectVersions] = {}
    for kind in ("snapshots", "checkpoints"):
        hidden |= destination.hidden(layout.folder(kind))
    if not hidden:
        return ()
    names = {layout.document(name): name for name in list_documents(destination, layout)}
    merged = _merged_in_sight(
        destination, layout, [name for key, name in names.items() if key not in hidden]
    )
    return tuple(
        HiddenDocument(names[key], destination.uri(key), hidden[key].show_again)
        for key in sorted(hidden)
        if key in names and names[key].stem not in merged
    )


def hidden_notes(destination: OriginalsDestination, layout: Layout) -> list[str]:
    """Say which documents are hidden, a line for each, for commands that go on all the same."""
    return [f"{one.message}; {one.fix}" for one in hidden_documents(destination, layout)]


def _merged_in_sight(
    destination: Destination, layout: Layout, names: list[DocumentName]
) -> frozenset[str]:
    """Read which documents the newest manifest in sight has merged.

    Of those that began within one second each may be the newest.
    """
    manifests = [one for one in names if one.checkpoint is None and not is_dated_after_object(one)]
    merged: set[str] = set()
    newest: datetime | None = None
    for name in sorted(manifests, key=lambda one: one.time, reverse=True):
        if newest is not None and name.time < newest:
            break
        try:
            merged.update(load_manifest(destination, layout, name).merged)
        except (DamagedDocument, ObjectNotFound):
            continue
        newest = name.time
    return frozenset(merged)


def how_hidden(destination: Destination, key: Key) -> str:
    """Return the command that shows a missing object again; empty where no marker hides it.

    Where versions may not be listed nothing is known, and it counts as missing.
    """
    try:
        for one in destination.versions(folder_of(key)):
            if one.key == key:
                return one.show_again
    except DestinationError as error:
        if error.retryable:
            raise
    return ""


def hidden_words(destination: Destination, layout: Layout, relative: str) -> str:
    """Say that an object lies under a delete marker, and what shows it again; empty if it does not.

    Args:
        destination: where the vault lies.
        layout: the owner's root.
        relative: the object's key below the root.
    """
    command = how_hidden(destination, layout.key(relative))
    return command and f"{relative} lies under a delete marker; show it again: {command}"
