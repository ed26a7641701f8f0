"""Objects that were overwritten, and objects that a delete marker hides.

Source: "ListObjectVersions", Amazon S3 API Reference; "Working with delete markers", User Guide.
"""

import shlex
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from itertools import groupby

from backup.destinations.s3.bucket import Answer, Bucket
from backup.keys import is_segment
from backup.model import Key, ObjectVersions


def irregular_versions(bucket: Bucket, pages: Iterable[Answer]) -> Iterator[ObjectVersions]:
    """Yield the objects that have several versions or lie under a delete marker.

    Args:
        bucket: where they lie.
        pages: of ListObjectVersions; ordered by key, of each key the newest first. One object's
            versions may stand on several.
    """
    start = len(bucket.name(""))
    for name, items in groupby(_items(pages), key=_name_of):
        key = name[start:]
        if all(map(is_segment, key.split("/"))):
            found = _versions_of(bucket, Key(key), [*items])
            if found is not None:
                yield found


def _items(pages: Iterable[Answer]) -> Iterator[Answer]:
    for page in pages:
        both = [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]
        yield from sorted(both, key=_name_of)


def _name_of(item: Answer) -> str:
    return str(item["Key"])


def _versions_of(bucket: Bucket, key: Key, items: Iterable[Answer]) -> ObjectVersions | None:
    versions: list[Answer] = []
    markers: list[Answer] = []
    for item in items:
        # Only versions have a size.
        (versions if "Size" in item else markers).append(item)
    is_hidden = any(marker.get("IsLatest") for marker in markers)
    if not versions or (len(versions) == 1 and not is_hidden):
        return None
    # What was written before the bucket had versions is "null".
    first = versions[-1]
    moment = first.get("LastModified")
    return ObjectVersions(
        key,
        first=str(first["VersionId"]),
        count=len(versions),
        size_bytes=int(first["Size"]),
        stored_at=moment.astimezone(UTC) if isinstance(moment, datetime) else None,
        show_again=_command(bucket, key, _above(versions[0], markers)) if is_hidden else "",
    )


def _above(newest: Answer, markers: Iterable[Answer]) -> list[str]:
    """Return the ids of the delete markers that hide the newest version; often it is one."""
    moment = newest.get("LastModified")
    return [
        str(marker["VersionId"])
        for marker in markers
        if marker.get("IsLatest") or moment is None or marker["LastModified"] >= moment
    ]


def _command(bucket: Bucket, key: Key, markers: Iterable[str]) -> str:
    settings = bucket.settings
    more: list[str] = []
    if settings.region is not None:
        more += ["--region", settings.region]
    if settings.endpoint_url is not None:
        more += ["--endpoint-url", settings.endpoint_url]
    words = ["aws", "s3api", "delete-object", "--bucket", settings.bucket]
    words += ["--key", bucket.name(key), "--version-id"]
    return " && ".join(shlex.join([*words, marker, *more]) for marker in markers)
