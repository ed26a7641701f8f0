"""Objects that lie in an archive: which they are, and how they are brought back.

Source: "Restoring an archived object" and "HeadObject", Amazon S3 User Guide and API Reference.
"""

import shlex
from collections.abc import Iterable, Iterator
from os.path import commonpath

from backup.destinations.s3.bucket import Answer, Bucket
from backup.model import ArchivedObject, Key, StoredObject

# What a listing says of an object that may have to be thawed; only the object itself tells.
# More than these are listed by what lies around them.
_MOST_FOLDERS = 20
_MAY_BE_ARCHIVED = {"GLACIER", "DEEP_ARCHIVE", "INTELLIGENT_TIERING"}
_DAYS = 7


def archived_among(
    bucket: Bucket, keys: Iterable[Key], listed: Iterable[tuple[StoredObject, str]]
) -> Iterator[ArchivedObject]:
    """Yield those of the keys that a listing has in an archive, after having asked each of them.

    Args:
        bucket: where they lie.
        keys: of the objects.
        listed: objects with their storage class.
    """
    wanted = set(keys)
    for stored, storage_class in listed:
        if stored.key not in wanted or storage_class not in _MAY_BE_ARCHIVED:
            continue
        answer = bucket.ask("head_object", stored.key, Key=bucket.name(stored.key))
        if is_readable(answer):
            continue
        yield ArchivedObject(
            stored.key,
            is_thawing='ongoing-request="true"' in str(answer.get("Restore", "")),
            command=_command(bucket, stored.key, answer),
        )


def folders_of(keys: Iterable[Key]) -> Iterator[str]:
    """Yield the folders that keys lie in, each once; of many the one that all lie below."""
    folders = sorted({key[: key.rindex("/") + 1] for key in keys})
    if len(folders) > _MOST_FOLDERS:
        common = commonpath(folders)
        folders = [f"{common}/" if common else ""]
    yield from folders


def is_readable(answer: Answer) -> bool:
    """Tell from HeadObject's answer whether an object can be downloaded as it is."""
    if answer.get("ArchiveStatus"):
        # An archive tier of Intelligent-Tiering; it leaves the tier when it is thawed.
        return False
    if answer.get("StorageClass") not in {"GLACIER", "DEEP_ARCHIVE"}:
        return True
    return 'ongoing-request="false"' in str(answer.get("Restore", ""))


def _command(bucket: Bucket, key: Key, answer: Answer) -> str:
    # What comes back from Intelligent-Tiering stays, and takes neither days nor a tier.
    how = "{}"
    if answer.get("StorageClass") in {"GLACIER", "DEEP_ARCHIVE"}:
        how = f'{{"Days":{_DAYS},"GlacierJobParameters":{{"Tier":"Bulk"}}}}'
    settings = bucket.settings
    words = ["aws", "s3api", "restore-object", "--bucket", settings.bucket]
    words += ["--key", bucket.name(key), "--restore-request", how]
    if settings.region is not None:
        words += ["--region", settings.region]
    if settings.endpoint_url is not None:
        words += ["--endpoint-url", settings.endpoint_url]
    return shlex.join(words)
