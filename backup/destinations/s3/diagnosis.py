"""What a bucket's settings mean for a vault. Looks only, and needs rights that backing up does not.

Other stores than AWS need not know a setting: what such a store has not is no fault, and is told.

Source: Amazon S3 User Guide, "Managing the lifecycle of objects", "Blocking public access",
"Locking objects with Object Lock", "Retaining multiple versions".
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import closing
from datetime import datetime, timedelta
from typing import Any

from backup.destinations.s3.bucket import Answer, Bucket
from backup.destinations.s3.identity import caller_identity
from backup.destinations.s3.presigning import seconds_left
from backup.destinations.s3.settings import S3Settings
from backup.errors import AccessDenied, BackupError, DestinationError, ObjectNotFound
from backup.results import Diagnosis, Finding
from backup.stopping import Stop
from backup.times import http_time

_EXPORTS = re.compile(r"(?:[^/]+/){2}exports/")
_ARCHIVES = {"GLACIER", "DEEP_ARCHIVE"}
_LEAST_NONCURRENT_DAYS = 30
_BLOCKS = ("BlockPublicAcls", "IgnorePublicAcls", "BlockPublicPolicy", "RestrictPublicBuckets")


def diagnose(settings: S3Settings, *, stop: Stop) -> Diagnosis:
    """Look at a bucket and at the credentials that reach it; writes nothing."""
    with closing(Bucket(settings, stop=stop)) as bucket:
        look = _Look(bucket)
        return Diagnosis(tuple(look.findings()), server_time=look.server_time, session=look.session)


def unsafe_rules(rules: Iterable[Mapping[str, Any]], *, prefix: str) -> Iterator[Finding]:
    """Judge lifecycle rules: only exports may ever expire, and only bundles be archived.

    Args:
        rules: as GetBucketLifecycleConfiguration has them.
        prefix: of the vault, with a slash at its end; empty for the whole bucket.
    """
    for rule in rules:
        if rule.get("Status") != "Enabled" or not _concerns(rule, prefix):
            continue
        name = f"the lifecycle rule {str(rule.get('ID') or 'without a name')!r}"
        expiration = rule.get("Expiration", {})
        if "Days" in expiration or "Date" in expiration:
            yield Finding(
                "error",
                f"{name} removes objects that snapshots need: age says nothing of that",
                "confine it to exports/, or take it out; prune knows what is needed",
            )
        classes = {str(one.get("StorageClass")) for one in rule.get("Transitions", ())}
        if archives := sorted(classes & _ARCHIVES):
            yield Finding(
                "error",
                f"{name} moves manifests and records to {', '.join(archives)}, where no run can "
                "read them",
                "take the transition out, and give runs --storage-class INTELLIGENT_TIERING, which "
                "concerns bundles alone",
            )
        days = rule.get("NoncurrentVersionExpiration", {}).get("NoncurrentDays")
        if days is not None and days < _LEAST_NONCURRENT_DAYS:
            yield Finding(
                "warning",
                f"{name} removes versions {days} days after they were hidden or overwritten",
                f"{_LEAST_NONCURRENT_DAYS} days or more leave time to notice",
            )


def _concerns(rule: Mapping[str, Any], prefix: str) -> bool:
    """Tell whether a rule reaches what a vault needs."""
    conditions = rule.get("Filter", {})
    conditions = conditions.get("And", conditions)
    if "Tag" in conditions or conditions.get("Tags"):
        # Nothing in a vault has tags.
        return False
    own = str(rule.get("Prefix") or conditions.get("Prefix") or "")
    if own.startswith(prefix):
        return _EXPORTS.match(own.removeprefix(prefix)) is None
    return prefix.startswith(own)


class _Look:
    """One look at a bucket.

    Attributes:
        server_time: what the store said that it is.
        session: how long the credentials live on; None for ever, or where nobody knows.
    """

    def __init__(self, bucket: Bucket) -> None:
        self._bucket = bucket
        self._name = bucket.settings.bucket
        self.server_time: datetime | None = None
        self.session: timedelta | None = None

    def findings(self) -> Iterator[Finding]:
        try:
            # First what answers with a reason: to HEAD there is none.
            listed = self._bucket.ask("list_objects_v2", "", Prefix=self._prefix, MaxKeys=1)
            answer = self._bucket.ask("head_bucket", "")
        except BackupError as error:
            yield Finding("error", f"bucket {self._name}: {error.message}", error.hint)
            return
        headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
        self.server_time = http_time(headers.get("date"))
        region = headers.get("x-amz-bucket-region") or "untold"
        asked = self._bucket.settings.region
        if asked is not None and region not in {asked, "untold"}:
            # Another store that answered did not mind.
            yield Finding(
                "error" if self._bucket.is_aws else "info",
                f"bucket {self._name} lies in {region}, and {asked} is asked for it",
                f"give --region {region}, or leave it out",
            )
        held = "" if listed.get("KeyCount") or listed.get("Contents") else "; nothing is stored yet"
        yield Finding("info", f"bucket {self._name} answers, region {region}{held}")
        yield from self._who()
        for look in (
            self._versions,
            self._encryption,
            self._public,
            self._lifecycle,
            self._object_lock,
        ):
            yield from look()

    @property
    def _prefix(self) -> str:
        return self._bucket.name("")

    def _who(self) -> Iterator[Finding]:
        if identity := caller_identity(self._bucket.settings):
            yield Finding("info", f"AWS identity: {identity}")
        left = seconds_left(self._bucket.connection)
        if left != float("inf") and self._bucket.settings.role is None:
            self.session = timedelta(seconds=left)

    def _versions(self) -> Iterator[Finding]:
        answer = self._ask("get_bucket_versioning", "s3:GetBucketVersioning")
        if isinstance(answer, Finding):
            yield answer
        elif answer.get("Status") == "Enabled":
            yield Finding("info", "versioning is enabled: what is overwritten or deleted stays")
        else:
            yield Finding(
                "warning",
                "versioning is not enabled: who may write the bucket can replace what is stored",
                "enable it, and expire versions that are not current after 90 days",
            )

    def _encryption(self) -> Iterator[Finding]:
        answer = self._ask("get_bucket_encryption", "s3:GetEncryptionConfiguration")
        if isinstance(answer, Finding):
            yield answer
            return
        rules = answer.get("ServerSideEncryptionConfiguration", {}).get("Rules", [])
        kinds = [
            one.get("ApplyServerSideEncryptionByDefault", {}).get("SSEAlgorithm") for one in rules
        ]
        if any(kinds):
            yield Finding("info", f"encryption at rest: {', '.join(filter(None, kinds))}")
        else:
            yield self._lacks(
                "the bucket has no encryption of its own",
                "set a default encryption, or give runs --encryption sse-s3",
            )

    def _public(self) -> Iterator[Finding]:
        answer = self._ask("get_public_access_block", "s3:GetBucketPublicAccessBlock")
        if isinstance(answer, Finding):
            yield answer
            return
        block = answer.get("PublicAccessBlockConfiguration")
        if block is None:
            yield self._lacks(
                "the bucket has no public access block of its own",
                "switch on all four settings of Block Public Access, unless the account has them",
            )
        elif not all(block.get(name) for name in _BLOCKS):
            yield Finding(
                "error",
                "public access to the bucket is not blocked: one policy shows all of it",
                "switch on all four settings of Block Public Access",
            )
        else:
            yield Finding("info", "public access is blocked")

    def _lifecycle(self) -> Iterator[Finding]:
        answer = self._ask("get_bucket_lifecycle_configuration", "s3:GetLifecycleConfiguration")
        if isinstance(answer, Finding):
            yield answer
            return
        rules = answer.get("Rules", [])
        found = [*unsafe_rules(rules, prefix=self._prefix)]
        yield from found
        aborts = any(
            one.get("Status") == "Enabled" and "AbortIncompleteMultipartUpload" in one
            for one in rules
        )
        if not aborts:
            yield self._lacks(
                "no lifecycle rule gives up unfinished uploads: their parts cost",
                "add AbortIncompleteMultipartUpload after 7 days, or run prune",
            )
        elif not found:
            yield Finding("info", "lifecycle rules leave everything alone that snapshots need")

    def _object_lock(self) -> Iterator[Finding]:
        answer = self._ask("get_object_lock_configuration", "s3:GetBucketObjectLockConfiguration")
        if isinstance(answer, Finding):
            yield answer
        elif answer.get("ObjectLockConfiguration", {}).get("ObjectLockEnabled") == "Enabled":
            yield Finding("info", "Object Lock is available (--object-lock-mode)")
        else:
            yield Finding("info", "Object Lock is not switched on")

    def _lacks(self, what: str, fix: str) -> Finding:
        """Say what the bucket has not: at AWS it could have it, another store may not know it."""
        if self._bucket.is_aws:
            return Finding("warning", what, fix)
        return Finding("info", what, f"where the store has such a setting: {fix}")

    def _ask(self, operation: str, right: str) -> Answer | Finding:
        """Ask for one of the bucket's settings; what it has not is an empty answer."""
        try:
            return self._bucket.ask(operation, "")
        except ObjectNotFound:
            return {}
        except AccessDenied:
            what = right.removeprefix("s3:Get")
            return Finding(
                "info",
                f"{what} is not seen: these credentials lack {right}",
                "run doctor with credentials that may look at the bucket's settings",
            )
        except DestinationError as error:
            # Stores that know no such setting say so in many ways.
            return Finding("info", f"{right.removeprefix('s3:Get')} is not seen: {error.message}")
