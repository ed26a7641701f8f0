"""Turns what boto3 raises into our errors, so that nothing above knows of it.

Source: "Error responses", Amazon S3 API Reference; `botocore.exceptions`.
"""

from dataclasses import dataclass
from http.client import HTTPException

from botocore.exceptions import (
    BotoCoreError,
    ChecksumError,
    ClientError,
    FlexibleChecksumError,
    HTTPClientError,
    IncompleteReadError,
    MetadataRetrievalError,
    NoCredentialsError,
    ParamValidationError,
    PartialCredentialsError,
    ProxyConnectionError,
    SSLError,
)
from botocore.exceptions import (
    ConnectionError as BotoConnectionError,
)
from botocore.parsers import ResponseParserError

from backup.errors import (
    AccessDenied,
    BackupError,
    ConfigError,
    DestinationError,
    DestinationUnreachable,
    ObjectArchived,
    ObjectNotFound,
    SessionExpired,
    WriteConflict,
)
from backup.secret import foreign

_NETWORK = (
    BotoConnectionError,
    HTTPClientError,
    IncompleteReadError,
    ResponseParserError,
    ChecksumError,
    FlexibleChecksumError,
    MetadataRetrievalError,
    OSError,
    HTTPException,
)


class UploadGone(DestinationError):
    """The store knows no such upload (any more): it was completed, or aborted."""


class NotSupported(DestinationError):
    """The store cannot do this."""


class BeyondTheEnd(DestinationError):
    """The object ends before the offset asked for."""


class UnequalParts(DestinationError):
    """The store does not like the sizes of an upload's parts."""


class Undecided(DestinationUnreachable):
    """Somebody else writes the same key at this moment; it is to be asked again."""


_TO_WRITE = "s3:PutObject on {objects}"
# What is missing is refused, too, to who may not list.
_TO_READ = "s3:GetObject and s3:GetObjectVersion on {objects}, and s3:ListBucket on {bucket}"
_TO_DELETE = "s3:DeleteObject on {objects}"
_TO_LIST = "s3:ListBucket on {bucket}"
# What a policy must allow, by the operation.
_RIGHTS = {
    "AbortMultipartUpload": "s3:AbortMultipartUpload on {objects}",
    "CompleteMultipartUpload": _TO_WRITE,
    "CreateMultipartUpload": _TO_WRITE,
    "DeleteObject": _TO_DELETE,
    "DeleteObjects": _TO_DELETE,
    "GetObject": _TO_READ,
    "GetObjectLockConfiguration": "s3:GetBucketObjectLockConfiguration on {bucket}",
    "HeadBucket": _TO_LIST,
    "HeadObject": _TO_READ,
    "ListMultipartUploads": "s3:ListBucketMultipartUploads on {bucket}",
    "ListObjectVersions": "s3:ListBucketVersions on {bucket}",
    "ListObjectsV2": _TO_LIST,
    "PutObject": _TO_WRITE,
    "PutObjectRetention": "s3:PutObjectRetention on {objects}",
    "UploadPart": _TO_WRITE,
}


def translate(error: Exception, uri: str, *, objects: str = "") -> BackupError | None:
    """Make the error of ours for what a request for an object raised.

    Args:
        error: what was raised.
        uri: of the object.
        objects: all that the vault may hold, as policies name it: ``arn:aws:s3:::bucket/prefix/*``.

    Returns:
        None for what has nothing to do with the store or the way to it: a bug.
    """
    if isinstance(error, ClientError):
        return _refusal(error, uri, objects)
    if isinstance(error, SSLError):
        return DestinationError(
            f"{uri}: the store's certificate is not trusted, or TLS fails: {error}",
            hint="name the authority's certificates in AWS_CA_BUNDLE, if it is your own",
        )
    if isinstance(error, ProxyConnectionError) and "407" in str(error):
        return DestinationError(
            f"{uri}: the proxy wants to know who we are (407)",
            hint="put its user and password into the proxy's URL in the environment",
        )
    if isinstance(error, _NETWORK) or type(error).__module__.startswith("urllib3."):
        return DestinationUnreachable(f"{uri}: the store cannot be reached: {_words(error)}")
    if isinstance(error, (NoCredentialsError, PartialCredentialsError)):
        return ConfigError(
            f"{uri}: there are no AWS credentials",
            hint="set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a profile by AWS_PROFILE; "
            "in a workflow, run aws-actions/configure-aws-credentials first",
        )
    if isinstance(error, ParamValidationError):
        return DestinationError(f"{uri}: the request is not valid: {_words(error)}")
    if isinstance(error, BotoCoreError):
        return ConfigError(f"{uri}: AWS is not set up: {_words(error)}")
    return None


@dataclass(frozen=True, slots=True)
class _Meaning:
    """What a code of the store says to people; ``{words}`` are the store's own."""

    kind: type[BackupError]
    problem: str = "{words}"
    hint: str = ""


_EXPIRED = _Meaning(
    SessionExpired,
    "the credentials' time is over ({words})",
    "give role-to-assume, which renews them in time; or a longer session: role-duration-seconds of "
    "configure-aws-credentials, up to the role's own maximum session duration",
)
_UNKNOWN_KEY = _Meaning(
    ConfigError,
    "the store does not know the access key ({words})",
    "check AWS_ACCESS_KEY_ID (and AWS_SESSION_TOKEN, where there is one)",
)
_WRONG_REGION = _Meaning(
    ConfigError, "the bucket lies in another region ({words})", "name it with --region"
)
_OTHER_STYLE = _Meaning(
    ConfigError,
    "the store does not take the bucket's name in the path ({words})",
    "give --addressing-style virtual",
)
_IN_TROUBLE = _Meaning(DestinationUnreachable, "the store is in trouble ({words})")
_MISSING = _Meaning(ObjectNotFound, "does not exist")
_TAKEN = _Meaning(WriteConflict, "exists already")
_FORBIDDEN = _Meaning(
    AccessDenied,
    "the store forbids {operation} ({words})",
    "{needs}check the role's policy, the bucket's policy and --expected-bucket-owner",
)
_OF_CODE = {
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "TokenRefreshRequired": _EXPIRED,
    "RequestExpired": _EXPIRED,
    "NoSuchBucket": _Meaning(
        ConfigError,
        "the bucket does not exist ({words})",
        "make it first, or check --to, --region and --endpoint-url",
    ),
    # Alibaba Cloud's OSS and Tencent Cloud's COS.
    "SecondLevelDomainForbidden": _OTHER_STYLE,
    "PathStyleDomainForbidden": _OTHER_STYLE,
    "AuthorizationHeaderMalformed": _WRONG_REGION,
    "IllegalLocationConstraintException": _WRONG_REGION,
    "PermanentRedirect": _WRONG_REGION,
    "RequestTimeTooSkewed": _Meaning(
        DestinationError,
        "this machine's clock differs too much from the store's ({words})",
        "set the clock, for example by NTP; more than 15 minutes are refused",
    ),
    "InvalidAccessKeyId": _UNKNOWN_KEY,
    "InvalidToken": _UNKNOWN_KEY,
    "InvalidClientTokenId": _UNKNOWN_KEY,
    "SignatureDoesNotMatch": _Meaning(
        AccessDenied,
        "the request's signature is refused ({words})",
        "check AWS_SECRET_ACCESS_KEY, --region, and proxies that change requests",
    ),
    "InvalidObjectState": _Meaning(
        ObjectArchived,
        "the object is archived ({words})",
        "have it thawed first: aws s3api restore-object",
    ),
    "NoSuchUpload": _Meaning(UploadGone),
    "InvalidPart": _Meaning(UnequalParts),
    "InvalidPartOrder": _Meaning(UnequalParts),
    "EntityTooSmall": _Meaning(UnequalParts),
    "InvalidRange": _Meaning(BeyondTheEnd),
    "PreconditionFailed": _TAKEN,
    "ConditionalRequestConflict": _Meaning(Undecided),
    "NotImplemented": _Meaning(NotSupported),
    "OperationAborted": _IN_TROUBLE,
    "RequestTimeout": _IN_TROUBLE,
    "SlowDown": _IN_TROUBLE,
    "Throttling": _IN_TROUBLE,
    "ThrottlingException": _IN_TROUBLE,
}
_OF_STATUS = {
    401: _FORBIDDEN,
    403: _FORBIDDEN,
    404: _MISSING,
    405: _Meaning(NotSupported),
    408: _IN_TROUBLE,
    412: _TAKEN,
    416: _Meaning(BeyondTheEnd),
    429: _IN_TROUBLE,
    501: _Meaning(NotSupported),
}
_REFUSED = _Meaning(DestinationError, "the store refuses {operation} ({words})")


def _needs(operation: str, words: str, objects: str) -> str:
    """Say which right a refused request needs, and on what; empty where nobody knows."""
    if "kms:" in words:
        return "to encrypt it needs kms:GenerateDataKey and kms:Decrypt on the KMS key; "
    if (right := _RIGHTS.get(operation)) is None:
        return ""
    bucket = objects.partition("/")[0]
    return f"it needs {right.format(objects=objects, bucket=bucket)}; "


def _refusal(error: ClientError, uri: str, objects: str) -> BackupError:
    """Name what the store's answer says: by its code, or else by the status."""
    code = str(error.response.get("Error", {}).get("Code", ""))
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    said = foreign(str(error.response.get("Error", {}).get("Message", "")), 300)
    meaning = _OF_CODE.get(code) or _OF_STATUS.get(status)
    if meaning is None:
        meaning = _IN_TROUBLE if status >= 500 else _REFUSED
    words = f"{code}: {said}" if said and said != code else code or str(status)
    problem = meaning.problem.format(words=words, operation=error.operation_name)
    joint = " " if meaning in {_MISSING, _TAKEN} else ": "
    hint = meaning.hint
    if meaning is _FORBIDDEN:
        hint = hint.format(needs=_needs(error.operation_name, words, objects))
    return meaning.kind(f"{uri}{joint}{problem}", hint=hint)


def _words(error: Exception) -> str:
    return str(error).strip() or type(error).__name__
