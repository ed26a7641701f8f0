"""A vault in a bucket; see `backup.model.Destination` for the promises."""

import hashlib
from collections.abc import Iterable, Iterator
from contextlib import suppress
from datetime import UTC, datetime
from itertools import islice

from backup.destinations.s3.archive import archived_among, folders_of
from backup.destinations.s3.bucket import Answer, Bucket, version_of
from backup.destinations.s3.failures import NotSupported, UploadGone
from backup.destinations.s3.presigning import upload_url
from backup.destinations.s3.reading import S3Reader
from backup.destinations.s3.settings import S3Settings
from backup.destinations.s3.upload import S3Writer, probe, put
from backup.destinations.s3.versions import irregular_versions
from backup.errors import AccessDenied, ConfigError, DestinationError, ObjectNotFound
from backup.keys import check_key, check_prefix, is_segment
from backup.model import ArchivedObject, Key, ObjectVersions, Reader, StoredObject, Writer
from backup.secret import Secret
from backup.stopping import Stop

# Inside the class, list is a method.
_Keys = list[Key]

_DELETED_AT_ONCE = 1000
_ASKED_AT_ONCE = 8
_DENIED = {"AccessDenied", "AccessForbidden"}


class S3Destination:
    """Keeps objects in a bucket, below a prefix.

    An object is written whole or not at all, and its key never changes hands: by ``If-None-Match``
    on AWS, and by asking first at other stores, where two writers at the same moment are told
    apart only if the store understands the condition. Keys of two runs never meet.

    Args:
        settings: where and how; nothing is asked before the first use.
        stop: a signal ends every wait within seconds; a deadline ends those of writers.
    """

    def __init__(self, settings: S3Settings, *, stop: Stop) -> None:
        self._bucket = Bucket(settings, stop=stop)
        self._locks: bool | None = None if settings.lock_mode is None else True

    def close(self) -> None:
        """End the connections."""
        self._bucket.close()

    @property
    def listing_is_local(self) -> bool:
        return False

    @property
    def keeps_time(self) -> bool:
        return True

    def uri(self, key: str) -> str:
        """Return ``s3://bucket/prefix/key``, as the aws program takes it."""
        return self._bucket.uri(key)

    def writer(self, key: Key) -> Writer:
        check_key(key)
        return S3Writer(self._bucket, key)

    def probe(self, key: Key) -> str:
        """Begin an upload in parts and abort it.

        The rights are ``s3:PutObject`` and ``s3:AbortMultipartUpload``, and those of the
        encryption that is asked for.
        """
        check_key(key)
        return probe(self._bucket, key)

    def put_if_absent(self, key: Key, data: bytes) -> StoredObject:
        check_key(key)
        sha256 = hashlib.sha256(data).hexdigest()
        return put(self._bucket, key, data, is_bundle=False, sha256=sha256)

    def open(self, key: Key, *, offset: int = 0, version: str | None = None) -> Reader:
        """Read an object; with a version the right is ``s3:GetObjectVersion``."""
        check_key(key)
        if offset < 0:
            raise ValueError(f"offset {offset} is negative")
        if version is not None:
            try:
                return S3Reader(self._bucket, key, offset=offset, version=version)
            except DestinationError as error:
                if error.retryable:
                    raise
        return S3Reader(self._bucket, key, offset=offset)

    def versions(self, prefix: str) -> Iterator[ObjectVersions]:
        """Yield what was overwritten or is hidden; the right is ``s3:ListBucketVersions``."""
        check_prefix(prefix)
        return irregular_versions(self._bucket, self._version_pages(prefix))

    def stat(self, key: Key) -> StoredObject:
        check_key(key)
        answer = self._bucket.ask("head_object", key, Key=self._bucket.name(key))
        until = answer.get("ObjectLockRetainUntilDate")
        size_bytes = int(answer["ContentLength"])
        return StoredObject(key, size_bytes, version_of(answer), until, _stored_at(answer))

    def list(self, prefix: str, *, versions: bool = False) -> Iterator[StoredObject]:
        """Yield the objects below prefix; what other programs put there is left out.

        With versions the right is ``s3:ListBucketVersions``, without it ``s3:ListBucket``.

        Raises:
            DestinationError: a page of the listing is missing or out of order; never a shorter
                list instead.
        """
        check_prefix(prefix)
        items = self._current_versions(prefix) if versions else self._items(prefix)
        return (stored for stored, _ in self._objects(prefix, items))

    def children(self, prefix: str, *, hidden: bool = False) -> tuple[str, ...]:
        """Name the folders below prefix; for hidden ones the right is ``s3:ListBucketVersions``."""
        check_prefix(prefix)
        found = self._folders(prefix, self._pages(prefix, Delimiter="/"))
        if hidden:
            try:
                found |= self._folders(prefix, self._version_pages(prefix, Delimiter="/"))
            except DestinationError as error:
                if error.retryable:
                    raise
        return tuple(sorted(filter(is_segment, found)))

    def _folders(self, prefix: str, pages: Iterable[Answer]) -> set[str]:
        start = len(self._bucket.name(prefix))
        return {
            str(folder["Prefix"])[start:-1]
            for page in pages
            for folder in page.get("CommonPrefixes", ())
        }

    def archived(self, keys: Iterable[Key]) -> Iterator[ArchivedObject]:
        """Yield what has to be thawed: one listing a folder, and a request for each that may be."""
        wanted = [*keys]
        for folder in folders_of(wanted):
            listed = self._objects(folder, self._items(folder))
            yield from archived_among(self._bucket, wanted, listed)

    def upload_url(self, key: Key, *, content_type: str, seconds: int) -> Secret | None:
        check_key(key)
        return upload_url(self._bucket, key, content_type=content_type, seconds=seconds)

    def delete(self, keys: Iterable[Key]) -> bool:
        """Remove objects by their names; in a bucket with versions that hides them.

        The right is ``s3:DeleteObject``.
        """
        remaining = iter(keys)
        only_marked = False
        while some := [*islice(remaining, _DELETED_AT_ONCE)]:
            for key in some:
                check_key(key)
            only_marked = self._delete_some(some) or only_marked
        return only_marked

    def require_lock(self) -> None:
        """See that the bucket can lock what it is asked to.

        The right is ``s3:GetBucketObjectLockConfiguration``.

        Raises:
            ConfigError: it cannot, or does not say; nothing was written.
        """
        name = self._bucket.settings.bucket
        try:
            answer = self._bucket.ask("get_object_lock_configuration", "")
        except ObjectNotFound as error:
            # What is not there is the configuration. Without the bucket it is another error.
            raise ConfigError(
                f"object-lock-mode: bucket {name!r} has no Object Lock",
                hint="Object Lock is switched on for a bucket with versions, as a rule when it is "
                "made",
            ) from error
        except (AccessDenied, NotSupported) as error:
            raise ConfigError(
                f"object-lock-mode: bucket {name!r} has no Object Lock, or does not say so: "
                f"{error.message}",
                hint="Object Lock is switched on for a bucket with versions; to see it the role "
                "needs s3:GetBucketObjectLockConfiguration",
            ) from error
        if answer.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled") != "Enabled":
            raise ConfigError(f"object-lock-mode: bucket {name!r} has no Object Lock")

    def renew_lock(self, key: Key, *, version: str | None) -> datetime | None:
        """Lock an object anew; the right is ``s3:PutObjectRetention``."""
        check_key(key)
        if self._bucket.settings.lock_mode is None:
            return None
        return self._bucket.lock(key, version=version)

    def locked_until(self, keys: Iterable[Key]) -> dict[Key, datetime]:
        """Ask until when objects are locked; the right is ``s3:GetObjectRetention``.

        What the role may not see counts as not locked; whether the bucket locks anything at all is
        asked once, by ``s3:GetBucketObjectLockConfiguration``.
        """
        found: dict[Key, datetime] = {}
        remaining = iter(keys)
        while self._may_be_locked() and (some := [*islice(remaining, _ASKED_AT_ONCE)]):
            asked = [
                (key, self._bucket.begin("head_object", key, Key=self._bucket.name(key)))
                for key in some
            ]
            for key, future in asked:
                with suppress(ObjectNotFound):
                    until = self._bucket.wait(future, key).get("ObjectLockRetainUntilDate")
                    if isinstance(until, datetime) and until > datetime.now(UTC):
                        found[key] = until.astimezone(UTC)
        return found

    def _may_be_locked(self) -> bool:
        if self._locks is None:
            try:
                answer = self._bucket.ask("get_object_lock_configuration", "")
            except DestinationError as error:
                if error.retryable:
                    raise
                answer = {}
            state = answer.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled")
            self._locks = state == "Enabled"
        return self._locks

    def now(self) -> datetime | None:
        """Return the time by the dates of the store's answers so far."""
        return self._bucket.clock.now()

    def abort_uploads(self, *, older_than: datetime) -> int:
        """Abort uploads in parts that nobody completed.

        The rights are ``s3:ListBucketMultipartUploads`` and ``s3:AbortMultipartUpload``.
        """
        bucket, aborted = self._bucket, 0
        mark: Answer = {}
        while True:
            page = bucket.ask("list_multipart_uploads", "", Prefix=bucket.name(""), **mark)
            for upload in page.get("Uploads", ()):
                if upload["Initiated"] >= older_than:
                    continue
                name, upload_id = str(upload["Key"]), str(upload["UploadId"])
                with suppress(UploadGone):
                    bucket.ask("abort_multipart_upload", name, Key=name, UploadId=upload_id)
                    aborted += 1
            if not page.get("IsTruncated"):
                return aborted
            mark = {
                "KeyMarker": page["NextKeyMarker"],
                "UploadIdMarker": page["NextUploadIdMarker"],
            }

    def _objects(self, prefix: str, items: Iterable[Answer]) -> Iterator[tuple[StoredObject, str]]:
        """Yield the objects of a listing with their storage class."""
        start = len(self._bucket.name(""))
        before = ""
        for item in items:
            key = str(item["Key"])[start:]
            if key <= before:
                raise DestinationError(
                    f"{self.uri(prefix)}: the store's listing is out of order: "
                    f"{key!r} comes after {before!r}"
                )
            before = key
            if all(map(is_segment, key.split("/"))):
                size_bytes, at = int(item["Size"]), _stored_at(item)
                stored = StoredObject(Key(key), size_bytes, version_of(item), stored_at=at)
                yield stored, str(item.get("StorageClass", ""))

    def _items(self, prefix: str) -> Iterator[Answer]:
        for page in self._pages(prefix):
            yield from page.get("Contents", ())

    def _current_versions(self, prefix: str) -> Iterator[Answer]:
        """Yield the versions that are read when nobody names one."""
        return (
            item
            for page in self._version_pages(prefix)
            for item in page.get("Versions", ())
            if item.get("IsLatest")
        )

    def _version_pages(self, prefix: str, **parameters: str) -> Iterator[Answer]:
        mark: Answer = {}
        while True:
            name = self._bucket.name(prefix)
            page = self._bucket.ask(
                "list_object_versions", prefix, Prefix=name, **parameters, **mark
            )
            yield page
            if not page.get("IsTruncated"):
                return
            if not (key := page.get("NextKeyMarker")):
                raise self._broken_off(prefix)
            mark = {"KeyMarker": key}
            if version := page.get("NextVersionIdMarker"):
                mark["VersionIdMarker"] = version

    def _pages(self, prefix: str, **parameters: str) -> Iterator[Answer]:
        token: Answer = {}
        while True:
            page = self._bucket.ask(
                "list_objects_v2",
                prefix,
                Prefix=self._bucket.name(prefix),
                **parameters,
                **token,
            )
            yield page
            if not page.get("IsTruncated"):
                return
            if not (mark := page.get("NextContinuationToken")):
                raise self._broken_off(prefix)
            token = {"ContinuationToken": mark}

    def _broken_off(self, prefix: str) -> DestinationError:
        return DestinationError(
            f"{self.uri(prefix)}: the store's listing breaks off without saying where"
        )

    def _delete_some(self, keys: _Keys) -> bool:
        """Delete objects at once, or one by one; tell whether versions of them stay."""
        bucket = self._bucket
        are_marked = False
        if bucket.deletes_many:
            names = [{"Key": bucket.name(key)} for key in keys]
            try:
                # Not quiet: only so it says whether it marked them.
                answer = bucket.ask("delete_objects", "", Delete={"Objects": names})
            except AccessDenied:
                raise
            except (NotSupported, DestinationError) as error:
                if error.retryable:
                    raise
                bucket.deletes_many = False
            else:
                self._require_deleted(answer)
                deleted = answer.get("Deleted", ())
                are_marked = any(one.get("DeleteMarker") for one in deleted)
                # A store that does not name an object may have passed over it.
                told = {one.get("Key") for one in deleted}
                keys = [key for key in keys if bucket.name(key) not in told]
        answers = [self._delete_one(key) for key in keys]
        return are_marked or any(answer.get("DeleteMarker") for answer in answers)

    def _delete_one(self, key: Key) -> Answer:
        try:
            return self._bucket.ask("delete_object", key, Key=self._bucket.name(key))
        except ObjectNotFound:
            # S3 itself does not say so, others do.
            return {}

    def _require_deleted(self, answer: Answer) -> None:
        for failure in answer.get("Errors", ()):
            kind = AccessDenied if failure.get("Code") in _DENIED else DestinationError
            uri = f"s3://{self._bucket.settings.bucket}/{failure.get('Key')}"
            words = f"{failure.get('Code')}: {failure.get('Message', '')}"
            raise kind(f"{uri} could not be deleted ({words})")


def _stored_at(answer: Answer) -> datetime | None:
    """Read when an object was written; some stores do not say so in every listing."""
    moment = answer.get("LastModified")
    return moment.astimezone(UTC) if isinstance(moment, datetime) else None
