"""Whatever boto3 raises is one of our errors, with words that help."""

import inspect
import string
from collections.abc import Iterator

import botocore.exceptions
import pytest
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from backup.destinations.s3.failures import (
    BeyondTheEnd,
    NotSupported,
    Undecided,
    UnequalParts,
    UploadGone,
    translate,
)
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

URI = "s3://vault/git/acme/x"


def refusal(code: str, status: int, message: str = "words of the store") -> ClientError:
    return ClientError(
        {
            "Error": {"Code": code, "Message": message},
            "ResponseMetadata": {
                "HTTPStatusCode": status,
                "RequestId": "1",
                "HostId": "1",
                "HTTPHeaders": {},
                "RetryAttempts": 0,
            },
        },
        "PutObject",
    )


def every_error_of_boto() -> Iterator[BotoCoreError]:
    """Make one of each, with something in place of every field of its message."""
    for name, kind in vars(botocore.exceptions).items():
        if inspect.isclass(kind) and issubclass(kind, BotoCoreError):
            fields = {field for _, field, _, _ in string.Formatter().parse(kind.fmt) if field}
            fields |= set(inspect.signature(kind.__init__).parameters) - {"self", "args", "kwargs"}
            made = kind(**dict.fromkeys(fields, "something"))
            assert isinstance(made, BotoCoreError), name
            yield made


EVERY = {type(error).__name__: error for error in every_error_of_boto()}


def test_there_are_errors_to_translate() -> None:
    assert len(EVERY) > 60
    assert {"NoCredentialsError", "EndpointConnectionError", "ReadTimeoutError"} <= EVERY.keys()


@pytest.mark.parametrize("name", EVERY)
def test_every_error_of_boto_becomes_one_of_ours(name: str) -> None:
    ours = translate(EVERY[name], URI)
    assert isinstance(ours, (ConfigError, DestinationError))
    assert ours.message.startswith(URI)
    assert ours.retryable == isinstance(ours, DestinationUnreachable)


@pytest.mark.parametrize(
    "error",
    [
        EVERY["EndpointConnectionError"],
        EVERY["ConnectTimeoutError"],
        EVERY["ReadTimeoutError"],
        EVERY["ConnectionClosedError"],
        EVERY["ResponseStreamingError"],
        EVERY["IncompleteReadError"],
        EVERY["FlexibleChecksumError"],
        ResponseParserError("an answer that is cut is no XML"),
        ConnectionResetError("reset"),
        TimeoutError("timed out"),
    ],
)
def test_what_the_network_does_may_pass(error: Exception) -> None:
    assert isinstance(translate(error, URI), DestinationUnreachable)


@pytest.mark.parametrize("name", ["NoCredentialsError", "PartialCredentialsError"])
def test_missing_credentials_are_named(name: str) -> None:
    ours = translate(EVERY[name], URI)
    assert isinstance(ours, ConfigError)
    assert "AWS_ACCESS_KEY_ID" in ours.hint


def test_distrust_is_not_tried_again() -> None:
    ours = translate(EVERY["SSLError"], URI)
    assert ours is not None
    assert "AWS_CA_BUNDLE" in ours.hint
    assert not ours.retryable


def test_a_bug_is_left_as_it_is() -> None:
    assert translate(TypeError("not ours"), URI) is None


@pytest.mark.parametrize(
    ("code", "status", "kind", "hint"),
    [
        ("ExpiredToken", 400, SessionExpired, "role-duration-seconds"),
        ("ExpiredTokenException", 400, SessionExpired, "duration"),
        ("RequestTimeTooSkewed", 403, DestinationError, "clock"),
        ("NoSuchBucket", 404, ConfigError, "--to"),
        ("AuthorizationHeaderMalformed", 400, ConfigError, "--region"),
        ("PermanentRedirect", 301, ConfigError, "--region"),
        ("InvalidAccessKeyId", 403, ConfigError, "AWS_ACCESS_KEY_ID"),
        ("SignatureDoesNotMatch", 403, AccessDenied, "AWS_SECRET_ACCESS_KEY"),
        ("AccessDenied", 403, AccessDenied, "policy"),
        ("403", 403, AccessDenied, "policy"),
        ("QuotaExceeded", 403, AccessDenied, "policy"),
        ("InvalidObjectState", 403, ObjectArchived, "restore-object"),
        ("NoSuchKey", 404, ObjectNotFound, ""),
        ("404", 404, ObjectNotFound, ""),
        ("NoSuchUpload", 404, UploadGone, ""),
        ("InvalidPart", 400, UnequalParts, ""),
        ("EntityTooSmall", 400, UnequalParts, ""),
        ("InvalidRange", 416, BeyondTheEnd, ""),
        ("PreconditionFailed", 412, WriteConflict, ""),
        ("ConditionalRequestConflict", 409, Undecided, ""),
        ("NotImplemented", 501, NotSupported, ""),
        ("MethodNotAllowed", 405, NotSupported, ""),
        ("SlowDown", 503, DestinationUnreachable, ""),
        ("InternalError", 500, DestinationUnreachable, ""),
        ("TooManyRequests", 429, DestinationUnreachable, ""),
        ("RequestTimeout", 400, DestinationUnreachable, ""),
        ("KeyTooLongError", 400, DestinationError, ""),
        ("", 502, DestinationUnreachable, ""),
    ],
)
def test_an_answer_of_the_store_has_a_name(
    code: str, status: int, kind: type[BackupError], hint: str
) -> None:
    ours = translate(refusal(code, status), URI)
    assert type(ours) is kind
    assert ours.message.startswith(URI)
    assert hint in ours.hint
    assert ours.retryable == (kind in {DestinationUnreachable, Undecided})


def test_the_store_s_own_words_are_told() -> None:
    ours = translate(refusal("KeyTooLongError", 400, "Your key is too long"), URI)
    assert ours is not None
    assert "KeyTooLongError: Your key is too long" in ours.message
    assert "PutObject" in ours.message
