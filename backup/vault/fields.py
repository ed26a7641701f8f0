"""The types that the fields of documents have, and what a value must be to be one."""

from base64 import b64decode
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    FailFast,
    Field,
    StringConstraints,
    ValidationError,
)

from backup.keys import is_key
from backup.vault.layout import (
    export_time,
    is_bundle,
    is_ids,
    is_key_of_record,
    is_lfs_index,
    is_of_repository,
    is_snapshot_id,
)

T = TypeVar("T")

# S3 takes no longer key, and this one is behind the root's and the bucket's prefix.
_MAX_KEY_CHARACTERS = 1024
_MAX_NUMBERS = 1000
# Of what is wrong in a document a person reads so much.
_MOST_NAMED = 10
_LONGEST_PLACE = 100


def _no_flag(value: Any) -> Any:
    # 1.0 and `true` are equal to 1.
    if type(value) is not int:
        raise ValueError("a format is a whole number")
    return value


def _written(value: Any) -> Any:
    # Numbers would be taken for seconds, and texts of digits, too.
    if isinstance(value, datetime) or (isinstance(value, str) and "T" in value):
        return value
    raise ValueError("a time is written as in RFC 3339")


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
    if not is_key(key) or len(key) > _MAX_KEY_CHARACTERS:
        raise ValueError("a key must stay below its root, and has no characters but plain ones")
    return key


def _key_of(what: str, is_one: Callable[[str], object]) -> AfterValidator:
    def check(key: str) -> str:
        if not is_one(key):
            raise ValueError(f"this is not the key of {what}")
        return key

    return AfterValidator(check)


def _of_repository(is_one: Callable[[str], bool]) -> Callable[[str], bool]:
    return lambda key: is_of_repository(key) and is_one(key)


def _base64(text: str) -> str:
    b64decode(text, validate=True)
    return text


def _few(value: Any) -> Any:
    if isinstance(value, Mapping) and len(value) > _MAX_NUMBERS:
        raise ValueError(f"{len(value)} numbers, and {_MAX_NUMBERS} are the most")
    return value


Format = Annotated[Literal[1], BeforeValidator(_no_flag)]
# What JSON has for a value is that value and no other: `true` is no number, and "1" is none.
Flag = Annotated[bool, Field(strict=True)]
# As large as any program's integers, and none whose digits alone fill a document.
Count = Annotated[int, Field(strict=True, ge=0, lt=1 << 63)]
Seconds = Annotated[float, Field(strict=True, ge=0, allow_inf_nan=False)]
Counts = Annotated[Mapping[str, Count], BeforeValidator(_few)]
Time = Annotated[AwareDatetime, BeforeValidator(_written), AfterValidator(_in_utc)]
HexId = Annotated[str, StringConstraints(pattern=r"^(?:[0-9a-f]{40}|[0-9a-f]{64})$")]
# Ids one behind another: each has the length of the record's object format.
HexIds = Annotated[str, StringConstraints(pattern=r"^(?:[0-9a-f]{8})*$")]
Sha256 = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]
SnapshotId = Annotated[str, AfterValidator(_timely)]
Stem = Annotated[str, AfterValidator(_stem)]
Path = Annotated[str, AfterValidator(_segments)]
# What a segment of a key is made of cannot be empty.
Name = Annotated[str, Field(min_length=1)]
RelativeKey = Annotated[str, AfterValidator(_relative)]
RecordKey = Annotated[RelativeKey, _key_of("a record", is_key_of_record)]
BundleKey = Annotated[RelativeKey, _key_of("a bundle", _of_repository(is_bundle))]
LfsIndexKey = Annotated[RelativeKey, _key_of("a list of files", _of_repository(is_lfs_index))]
IdsKey = Annotated[RelativeKey, _key_of("a list of ids", _of_repository(is_ids))]
ExportKey = Annotated[RelativeKey, _key_of("an export", export_time)]
Base64 = Annotated[str, AfterValidator(_base64)]
Depth = Literal["objects", "packs", "restore"]
# Of a million parts the first that is wrong is enough, and all of them would fill the memory.
Many = Annotated[tuple[T, ...], FailFast()]


class Part(BaseModel):
    """A part of a document. Frozen; unknown fields are kept."""

    model_config = ConfigDict(frozen=True, extra="allow")


def first_of(error: ValidationError) -> str:
    """Name the first places that are wrong, and count the others."""
    wrong = error.errors(include_url=False, include_context=False, include_input=False)
    places = [".".join(map(str, one["loc"]))[:_LONGEST_PLACE] for one in wrong[:_MOST_NAMED]]
    named = [
        f"{place}: {one['msg'].removeprefix('Value error, ')}"
        for place, one in zip(places, wrong, strict=False)
    ]
    more = len(wrong) - len(named)
    return "; ".join(named) + (f"; and {more} more" if more else "")
