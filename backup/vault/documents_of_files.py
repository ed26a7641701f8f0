"""What a manifest keeps of files of Git LFS that are missing: how far the asking for them came."""

from pydantic import Field

from backup.vault.fields import Count, Part, Sha256, Time


class LfsTurn(Part):
    """A pass over the missing files of a repository that is under way.

    It goes by id and size. What is found missing after it began comes in the next one, so that
    nothing that is pushed meanwhile makes it longer.
    """

    began: Time
    oid: Sha256 = Field(description="the last file that was asked for, with its size")
    size_bytes: Count
