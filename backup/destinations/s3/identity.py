"""Whose credentials are in use, as AWS's security token service knows them."""

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from backup.destinations.s3.role import DEFAULT_REGION, session_of
from backup.destinations.s3.settings import S3Settings, is_aws

_SECONDS = 10


def caller_identity(settings: S3Settings) -> str:
    """Name the role or user, which holds the account's number; empty where nobody can tell.

    A role that cannot be assumed is an error all the same.

    Whoever has credentials may ask (AWS STS, GetCallerIdentity). Other stores have no such
    service, so that for them AWS is not asked either.
    """
    config = Config(
        connect_timeout=_SECONDS,
        read_timeout=_SECONDS,
        retries={"mode": "standard", "total_max_attempts": 2},
    )
    try:
        session = session_of(settings.role, region=settings.region)
        region = settings.region or session.region_name or DEFAULT_REGION
        client = session.client("sts", region_name=region, config=config)
        elsewhere = settings.endpoint_url is not None and not is_aws(settings.endpoint_url)
        if elsewhere and is_aws(client.meta.endpoint_url):
            return ""
        return str(client.get_caller_identity()["Arn"])
    except (BotoCoreError, ClientError):
        return ""
