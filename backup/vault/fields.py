"""The types that the fields of documents have, and what a value must be to be one."""

from datetime import UTC, datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints

from backup.vault.layout import is_snapshot_id


def _in_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("no such time in UTC") from error


def _timely(snapshot_id: str) -> str:
    if not is_snapshot_id(snapshot_id):
        raise ValueError("no snapshot id")
    return snapshot_id


def _stem(stem: str) -> str:
    _timely(stem.partition("/")[2].partition(".")[0])
    return stem


def is_path(text: str) -> bool:
    """Tell whether a repository can be called so in a document: no segment is empty."""
    return all(text.split("/"))


def _segments(path: str) -> str:
    if not is_path(path):
        raise ValueError("a path has no empty segments")
    return path


def _relative(key: str) -> str:
    if not key or any(segment in {"", ".", ".."} for segment in key.split("/")):
        raise ValueError("a key must stay below its root")
    return key


Time = Annotated[AwareDatetime, AfterValidator(_in_utc)]
HexId = Annotated[str, StringConstraints(pattern=r"^(?:[0-9a-f]{40}|[0-9a-f]{64})$")]
# Ids one behind another: each has the length of the record's object format.
HexIds = Annotated[str, StringConstraints(pattern=r"^(?:[0-9a-f]{8})*$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
SnapshotId = Annotated[str, AfterValidator(_timely)]
Stem = Annotated[str, AfterValidator(_stem)]
Path = Annotated[str, AfterValidator(_segments)]
RelativeKey = Annotated[str, AfterValidator(_relative)]
Depth = Literal["objects", "packs", "restore"]
Count = Annotated[int, Field(ge=0)]


class Part(BaseModel):
    """A part of a document. Frozen; unknown fields are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")
