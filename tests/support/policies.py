"""What AWS's policies say of a request to S3, conditions included, which no emulator here reads.

Source: IAM User Guide, "Policy evaluation logic" and "IAM JSON policy elements: Condition
operators"; Service Authorization Reference, "Actions, resources, and condition keys for Amazon S3".
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

Statement = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Asked:
    """A request as policies see it.

    Attributes:
        action: such as ``s3:PutObject``.
        resource: the ARN of the bucket or object.
        context: condition keys and their values; a key that is not there is absent.
    """

    action: str
    resource: str
    context: Mapping[str, str] = field(default_factory=dict)


def asked_of_s3(method: str, target: str, headers: Mapping[str, str]) -> Asked:
    """Read a request in path style; it came by TLS 1.3.

    Raises:
        ValueError: it is none that is known here.
    """
    parts = urlsplit(target)
    bucket, _, key = unquote(parts.path).removeprefix("/").partition("/")
    query = parse_qs(parts.query, keep_blank_values=True)
    action, creates = _action(method, key, query)
    context = {"aws:SecureTransport": "true", "s3:TlsVersion": "1.3"}
    if action == "s3:PutObject":
        context["s3:ObjectCreationOperation"] = "true" if creates else "false"
    if "if-none-match" in headers:
        context["s3:if-none-match"] = headers["if-none-match"]
    if action == "s3:DeleteObject" and not key:
        key = "any"
    return Asked(
        action, f"arn:aws:s3:::{bucket}/{key}" if key else f"arn:aws:s3:::{bucket}", context
    )


def _action(method: str, key: str, query: Mapping[str, object]) -> tuple[str, bool]:
    match method, bool(key):
        case (("GET" | "HEAD"), True):
            return "s3:GetObjectVersion" if "versionId" in query else "s3:GetObject", False
        case "GET", False if "uploads" in query:
            return "s3:ListBucketMultipartUploads", False
        case "POST", False if "delete" in query:
            # Each of the keys in the body is asked for.
            return "s3:DeleteObject", False
        case "GET", False if "versions" in query:
            return "s3:ListBucketVersions", False
        case (("GET" | "HEAD"), False):
            return "s3:ListBucket", False
        case "PUT", True:
            return "s3:PutObject", "uploadId" not in query
        case "POST", True if "uploads" in query or "uploadId" in query:
            return "s3:PutObject", "uploadId" in query
        case "DELETE", True if "uploadId" in query:
            return "s3:AbortMultipartUpload", False
        case "DELETE", True:
            return "s3:DeleteObjectVersion" if "versionId" in query else "s3:DeleteObject", False
        case _:
            raise ValueError(f"{method} with {sorted(query)}")


def is_allowed(statements: Iterable[Statement], asked: Asked) -> bool:
    """Decide: a denial wins, and what nobody allows is denied."""
    effects = {one["Effect"] for one in statements if _concerns(one, asked)}
    return effects == {"Allow"}


def _concerns(statement: Statement, asked: Asked) -> bool:
    return (
        any(_like(one, asked.action, ignore_case=True) for one in _list(statement["Action"]))
        and _names(statement, asked.resource)
        and all(
            _holds(operator, key, _list(values), asked.context)
            for operator, keys in statement.get("Condition", {}).items()
            for key, values in keys.items()
        )
    )


def _names(statement: Statement, resource: str) -> bool:
    if "NotResource" in statement:
        return not any(_like(one, resource) for one in _list(statement["NotResource"]))
    return any(_like(one, resource) for one in _list(statement.get("Resource", "*")))


def _holds(operator: str, key: str, values: list[str], context: Mapping[str, str]) -> bool:
    actual = context.get(key)
    if operator == "Null":
        return (actual is None) == (str(values[0]).lower() == "true")
    if actual is None:
        return False
    match operator:
        case "Bool":
            return actual.lower() in {str(one).lower() for one in values}
        case "StringEquals":
            return actual in values
        case "NumericGreaterThan":
            return float(actual) > float(values[0])
        case "NumericLessThan":
            return float(actual) < float(values[0])
        case _:
            raise ValueError(f"{operator} is not known here")


def _like(pattern: str, text: str, *, ignore_case: bool = False) -> bool:
    parts = (re.escape(part).replace(r"\?", ".") for part in pattern.split("*"))
    flags = re.DOTALL | (re.IGNORECASE if ignore_case else 0)
    return re.fullmatch(".*".join(parts), text, flags) is not None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]
