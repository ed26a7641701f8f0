"""What a manifest keeps of a source's listing: what is missing there, and what is unreadable."""

from typing import Literal

from pydantic import Field

from backup.vault.fields import Flag, Part, Time


class AbsenceLine(Part):
    """A repository that its source does not list any more."""

    since: Time
    asked_at: Time
    answer: Literal["not-visible", "transferred", "blocked"]
    detail: str = ""


class UnreadableLine(Part):
    """Something that a source lists and that no entry can be made of."""

    path: str = Field(description="its name, or its place in the listing")
    reason: str = Field(description="why it cannot be kept as a repository")
    private: Flag = False
