"""What entries say of project exports: the archives that a forge made."""

from typing import Literal

from pydantic import Field

from backup.vault.fields import Count, ExportKey, Part, Sha256, Time


class ExportLoss(Part):
    """What a run found where an export was to lie."""

    since: Time = Field(description="when a run first found that the export is not there")
    what: Literal["missing", "hidden", "replaced"] = Field(
        description="`hidden` is under a delete marker; `replaced` is by what is no export"
    )
    size_bytes: Count = Field(0, description="of what lies there instead")
    version_id: str | None = Field(None, description="of what lies there instead")
    written_at: Time | None = Field(None, description="of what lies there instead")


class ExportLine(Part):
    """An archive of a project that its forge made."""

    key: ExportKey
    requested_at: Time
    stored_at: Time | None = None
    size_bytes: Count = 0
    version_id: str | None = None
    sha256: Sha256 | None = Field(None, description="computed while it was read to its end")
    written_at: Time | None = Field(
        None, description="when it was written, by the clock of the store"
    )
    loss: ExportLoss | None = Field(
        None, description="why it counts no more; left out while it is there as it was recorded"
    )
