"""URLs by which somebody else puts an object: presigned, and never alive longer than their session.

Signed are Host and Content-Type, as Signature Version 4 has it in a query. A PUT by such a URL can
bring no other header of S3's: not the one that keeps what is there from being replaced, nor one
that asks for encryption.
Source: "Authenticating Requests: Using Query Parameters", Amazon S3 API Reference.
"""

import time
from datetime import UTC, datetime

from backup.destinations.s3.bucket import Bucket
from backup.destinations.s3.settings import Connection
from backup.model import Key
from backup.secret import Secret, minted

# What configure-aws-credentials asks for, and what STS gives to whom names no duration.
UNTOLD_SESSION_SECONDS = 3600
# Nothing is queued, packed and sent in less.
LEAST_SECONDS = 300
# The longest life that S3 takes.
_MOST_SECONDS = 7 * 24 * 3600


def upload_url(bucket: Bucket, key: Key, *, content_type: str, seconds: int) -> Secret | None:
    """Sign a PUT; see `backup.model.Destination.upload_url`.

    Asks nothing of the store, once the connection is there.
    """
    if bucket.keeping(is_bundle=False):
        # Encryption that is asked for with each object is asked for by headers.
        return None

    def sign() -> Secret | None:
        connection = bucket.connection
        life = min(seconds, _MOST_SECONDS, seconds_left(connection))
        if life < LEAST_SECONDS:
            return None
        url = connection.client.generate_presigned_url(  # type: ignore[attr-defined]
            "put_object",
            Params={
                "Bucket": bucket.settings.bucket,
                "Key": bucket.name(key),
                "ContentType": content_type,
            },
            ExpiresIn=int(life),
        )
        return minted(str(url))

    return bucket.wait(bucket.aside(sign), key)


def seconds_left(connection: Connection) -> float:
    """Tell how long the session will live whose credentials sign; without an end it is infinite.

    Credentials in environment variables say nothing of their end (unless
    ``AWS_CREDENTIAL_EXPIRATION`` does). They are then taken to end an hour after their first use.
    """
    credentials = connection.credentials
    if credentials is None:
        return 0.0
    frozen = credentials.get_frozen_credentials()
    if not frozen.token:
        return float("inf")
    expires_at = getattr(credentials, "_expiry_time", None)
    if isinstance(expires_at, datetime):
        return (expires_at - datetime.now(UTC)).total_seconds()
    return connection.connected_at + UNTOLD_SESSION_SECONDS - time.monotonic()
