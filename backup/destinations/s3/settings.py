"""What is asked of a bucket, and the client that asks it."""

import time
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

import boto3
from botocore.client import BaseClient
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError

import backup
from backup.destinations.s3.role import DEFAULT_REGION, JobRole, renew_what_ends_early, session_of

PARTS_IN_FLIGHT = 3
_AWS_HOSTS = (".amazonaws.com", ".amazonaws.com.cn", ".api.aws", ".api.amazonwebservices.com.cn")
_CONNECT_SECONDS = 20
_READ_SECONDS = 60
# With pauses of at most 1, 2, 4, 8, 16, 20, 20 seconds in between, each shortened by chance.
_ATTEMPTS = 8


@dataclass(frozen=True, slots=True)
class S3Settings:
    """Where a vault lies in S3, and how its objects are stored.

    Attributes:
        prefix: before every key, without slashes at its ends; may be empty.
        region: None asks the bucket.
        endpoint_url: None for AWS, or what AWS_ENDPOINT_URL_S3 says.
        addressing_style: how the bucket is named: in the path, or as a part of the host's name.
        storage_class: of bundles. Manifests, records and other small documents stay instant.
        encryption: ``bucket`` leaves it to the bucket's own setting.
        kms_key_id: for ``sse-kms``; None for the account's own key.
        expected_bucket_owner: an AWS account; requests fail when the bucket is another's.
        lock_mode: Object Lock's, for every object that is written; None asks for none.
        lock_days: how long.
        captures: how many objects are written at once.
        role: to work as; None for what boto3 finds in the environment.
    """

    bucket: str
    prefix: str = ""
    region: str | None = None
    endpoint_url: str | None = None
    addressing_style: Literal["auto", "path", "virtual"] = "auto"
    storage_class: str | None = None
    encryption: Literal["bucket", "sse-s3", "sse-kms"] = "bucket"
    kms_key_id: str | None = None
    expected_bucket_owner: str | None = None
    lock_mode: Literal["GOVERNANCE", "COMPLIANCE"] | None = None
    lock_days: int = 0
    captures: int = 4
    role: JobRole | None = None


@dataclass(frozen=True, slots=True)
class Connection:
    """A client and what is known of it.

    Attributes:
        is_aws: whether AWS is at its other end.
        credentials: what it signs with; None without any.
        connected_at: on the monotonic clock.
    """

    client: BaseClient
    is_aws: bool
    credentials: Credentials | None
    connected_at: float


def is_aws(endpoint_url: str) -> bool:
    """Tell AWS's own endpoints from those of other stores."""
    return f".{urlsplit(endpoint_url).hostname}".endswith(_AWS_HOSTS)


def connect(settings: S3Settings) -> Connection:
    """Make a client for a bucket; asks the bucket for its region where nothing names one.

    Raises as boto3 does.
    """
    session = session_of(settings.role, region=settings.region)
    # None where nothing names one, whatever the stubs say.
    configured: str | None = session.region_name
    region = settings.region or configured
    if settings.endpoint_url is not None and not is_aws(settings.endpoint_url):
        return _connect_elsewhere(session, settings, region)
    client = _client(session, settings, region, _style(settings))
    if not is_aws(client.meta.endpoint_url):
        # An endpoint of the environment or of the user's configuration.
        client.close()
        return _connect_elsewhere(session, settings, region)
    if region is None and (found := _region_of(client, settings)) != DEFAULT_REGION:
        client.close()
        client = _client(session, settings, found, _style(settings))
    return _connection(session, client, is_aws=True)


def _connect_elsewhere(
    session: boto3.session.Session, settings: S3Settings, region: str | None
) -> Connection:
    # Not every store takes boto3's own checksums, or has a host name for each bucket.
    profile: Any = session._session.get_scoped_config().get("s3")  # noqa: SLF001 - no other way
    style = profile.get("addressing_style") if isinstance(profile, dict) else None
    more: dict[str, Any] = {
        "request_checksum_calculation": "when_required",
        "response_checksum_validation": "when_required",
        "s3": {"addressing_style": style or "path"},
        **_style(settings),
    }
    return _connection(session, _client(session, settings, region, more), is_aws=False)


def _style(settings: S3Settings) -> dict[str, Any]:
    """Give what was asked for; nothing leaves it to boto3 and to the user's configuration."""
    style = settings.addressing_style
    return {} if style == "auto" else {"s3": {"addressing_style": style}}


def _connection(session: boto3.session.Session, client: BaseClient, *, is_aws: bool) -> Connection:
    credentials = session.get_credentials()
    renew_what_ends_early(client, credentials)
    return Connection(client, is_aws, credentials, time.monotonic())


def _client(
    session: boto3.session.Session, settings: S3Settings, region: str | None, more: dict[str, Any]
) -> BaseClient:
    config = Config(
        signature_version="s3v4",
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_READ_SECONDS,
        retries={"mode": "standard", "total_max_attempts": _ATTEMPTS},
        max_pool_connections=settings.captures * (PARTS_IN_FLIGHT + 5),
        user_agent_extra=f"repo-backup/{backup.__version__}",
        **more,
    )
    return session.client(
        "s3",
        region_name=region or DEFAULT_REGION,
        endpoint_url=settings.endpoint_url,
        config=config,
    )


def _region_of(client: BaseClient, settings: S3Settings) -> str:
    """Ask a bucket where it lies; it says so also to those who may see nothing else of it."""
    owner = settings.expected_bucket_owner
    try:
        answer: Any = client.head_bucket(  # type: ignore[attr-defined]
            Bucket=settings.bucket, **({"ExpectedBucketOwner": owner} if owner else {})
        )
    except ClientError as error:
        answer = error.response
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    return str(headers.get("x-amz-bucket-region") or DEFAULT_REGION)
