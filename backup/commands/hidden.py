"""What is needed and lies under a delete marker: noticed, told, and shown again by a command.

The rule of a bucket removes a hidden version some weeks later, and every snapshot that needs it is
broken from then on. Until then one command brings it back.
"""

from collections.abc import Collection
from dataclasses import dataclass

from backup.errors import DestinationError
from backup.model import Destination, Key, ObjectVersions
from backup.vault.layout import DocumentName, Layout, folder_of, lfs_key
from backup.vault.originals import OriginalsDestination

# Of more files than this it is fewer requests to list the versions of all.
_FEW = 20


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

    No request is made where nothing is hidden.

    Args:
        destination: with which the documents of this root were listed before.
        layout: the owner's root.
    """
    hidden: dict[Key, ObjectVersions] = {}
    for kind in ("snapshots", "checkpoints"):
        hidden |= destination.hidden(layout.folder(kind))
    if not hidden:
        return ()
    return tuple(
        HiddenDocument(name, destination.uri(key), one.show_again)
        for key, one in sorted(hidden.items())
        if (name := layout.parse_document(key)) is not None
    )


def hidden_notes(destination: OriginalsDestination, layout: Layout) -> list[str]:
    """Say which documents are hidden, a line for each, for commands that go on all the same."""
    return [f"{one.message}; {one.fix}" for one in hidden_documents(destination, layout)]


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


def hidden_files(destination: Destination, layout: Layout, oids: Collection[str]) -> dict[str, str]:
    """Return the commands that show files of Git LFS again, by the ids of those that are hidden.

    Where versions may not be listed nothing is known. Requests: one for each of a few, else one for
    every 1,000 versions of the owner's files.
    """
    wanted = {layout.key(lfs_key(oid)): oid for oid in oids}
    folders = {folder_of(key) for key in wanted}
    found = {}
    try:
        for folder in sorted(folders) if len(folders) <= _FEW else [layout.folder("lfs")]:
            for one in destination.versions(folder):
                if one.is_hidden and one.key in wanted:
                    found[wanted[one.key]] = one.show_again
    except DestinationError as error:
        if error.retryable:
            raise
    return found


def hidden_words(destination: Destination, layout: Layout, relative: str) -> str:
    """Say that an object lies under a delete marker, and what shows it again; empty if it does not.

    Args:
        destination: where the vault lies.
        layout: the owner's root.
        relative: the object's key below the root.
    """
    return hidden_as(relative, how_hidden(destination, layout.key(relative)))


def hidden_as(relative: str, command: str) -> str:
    """Say that an object lies under a delete marker, and what shows it again; or nothing."""
    return command and f"{relative} lies under a delete marker; show it again: {command}"
