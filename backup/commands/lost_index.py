"""A root with objects of repositories and no manifest: damage, and never an empty owner.

What was stored there is as good as before, but nothing says what it is: the manifests were removed,
or the first run of all was killed before its first checkpoint. No listing tells which.
"""

from dataclasses import dataclass
from datetime import datetime

from backup.errors import IndexMissing
from backup.model import Destination
from backup.vault.layout import Layout, folder_of, is_snapshot_id, snapshot_of, snapshot_time
from backup.vault.manifest import State, stored_keys

HOW_TO_GO_ON = (
    "docs/how-to/repair-a-vault.md tells how manifests come back, and how repositories are "
    "restored without them"
)
_MOST_NAMED = 3


@dataclass(frozen=True, slots=True)
class LostIndex:
    """What lies in a root without a manifest.

    Attributes:
        uri: of the root.
        repositories: the number of folders of repositories.
        first: some of these, relative to the root.
        oldest: the time that the oldest object's snapshot id begins with, and `newest` that of the
            newest; None where only files of Git LFS or exports are there.
    """

    layout: Layout
    uri: str
    repositories: int
    first: tuple[str, ...]
    oldest: datetime | None
    newest: datetime | None

    @property
    def message(self) -> str:
        """All of it in one sentence."""
        number = "1 repository" if self.repositories == 1 else f"{self.repositories} repositories"
        named = f" (first {', '.join(self.first)})" if self.first else ""
        when = ""
        if self.oldest is not None and self.newest is not None:
            begin, end = (f"{at:%Y-%m-%d %H:%M}" for at in (self.oldest, self.newest))
            when = f", of runs between {begin} and {end} UTC"
        return (
            f"{self.uri} has no manifest, and objects of {number}{named}{when}: "
            "the manifests were removed, or the first run was killed"
        )

    @property
    def error(self) -> IndexMissing:
        """The error for commands that need a manifest."""
        return IndexMissing(self.message, hint=HOW_TO_GO_ON)


def lost_index(destination: Destination, layout: Layout, state: State) -> LostIndex | None:
    """Look for objects in a root without a manifest; None where there is no trouble.

    A first run that died after a checkpoint leaves one, and nothing that is older: the next run
    goes on from there. What is older was named by manifests that are gone.

    Requests: none where there is a manifest; else a listing of all that lies in the root.

    Args:
        destination: where the vault lies.
        layout: the owner's root.
        state: what `load_state` made of its documents.
    """
    if state.newest is not None:
        return None
    # A checkpoint names the manifests that its run went on from.
    is_first = state.entries and not any(stem.startswith("snapshots/") for stem in state.merged)
    first_run = min((_id_of(stem) for stem in state.merged), default="")
    folders: set[str] = set()
    oldest = newest = ""
    found = False
    for prefix in layout.object_folders():
        for key in stored_keys(destination, prefix):
            if not layout.is_object(key):
                continue
            snapshot_id = snapshot_of(key)
            if is_first and not (snapshot_id and snapshot_id < first_run):
                continue
            found = True
            if snapshot_id:
                folders.add(folder_of(key).removeprefix(prefix).rstrip("/"))
                oldest = min(oldest or snapshot_id, snapshot_id)
                newest = max(newest, snapshot_id)
    if not found:
        return None
    return LostIndex(
        layout,
        destination.uri(layout.prefix),
        repositories=len(folders),
        first=tuple(sorted(folders)[:_MOST_NAMED]),
        oldest=snapshot_time(oldest) if is_snapshot_id(oldest) else None,
        newest=snapshot_time(newest) if is_snapshot_id(newest) else None,
    )


def _id_of(stem: str) -> str:
    return stem.partition("/")[2].partition(".")[0]
