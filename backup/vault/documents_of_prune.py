"""The documents that prune alone writes: what it may delete another time, and what it left."""

from typing import Literal

from pydantic import Field

from backup.vault.fields import Format, Many, Part, RelativeKey, SnapshotId, Stem, Time


class CondemnedLine(Part):
    """A file that nothing named when prune looked."""

    key: RelativeKey
    since: Time = Field(description="when that was first seen")
    until: Time = Field(description="no prune deletes it before")
    deleted_at: Time | None = Field(None, description="when a prune did")


class Condemned(Part):
    """The files that a prune may delete: no run leans on them."""

    format: Format
    document: Literal["condemned"]
    snapshot_id: SnapshotId
    at: Time
    objects: Many[CondemnedLine] = Field(description="sorted by key")


class Pruned(Part):
    """Which manifests a prune left, so that the next one notices when others are missing."""

    format: Format
    document: Literal["pruned"]
    snapshot_id: SnapshotId
    at: Time
    left: tuple[Stem, ...] = Field(description="manifests that stayed, sorted")
    removed: tuple[Stem, ...] = Field((), description="manifests that it deleted, sorted")
    spared_before: Time | None = Field(
        None, description="objects older than the oldest manifest of the first prune stay"
    )
    known: tuple[SnapshotId, ...] = Field(
        (), description="runs before that time whose work those manifests had taken over"
    )
