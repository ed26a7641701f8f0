"""A role that a job of GitHub Actions assumes by its own identity, again before the session ends.

The job asks GitHub for a statement of who it is, and AWS for a session in exchange. Both can be
done again for as long as the job lives, so that no session's end stops a run.
Source: GitHub Docs, "OpenID Connect reference"; AWS STS, "AssumeRoleWithWebIdentity".
"""

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

import boto3
import botocore.session
from botocore import UNSIGNED
from botocore.awsrequest import AWSRequest
from botocore.client import BaseClient
from botocore.config import Config
from botocore.credentials import (
    Credentials,
    DeferredRefreshableCredentials,
    RefreshableCredentials,
)
from botocore.exceptions import BotoCoreError, ClientError
from botocore.httpsession import URLLib3Session
from botocore.utils import get_environ_proxies

from backup.answers import Odd, in_time, parsed, token, whole
from backup.errors import AccessDenied, DestinationError, DestinationUnreachable
from backup.secret import Secret, foreign, minted

# Where nothing names a region; any bucket of the partition can be asked for its own from there.
DEFAULT_REGION = "us-east-1"
_AUDIENCE = "sts.amazonaws.com"
_SECONDS = 20
# What every role allows; it is renewed in time.
_SESSION_SECONDS = 3600
_METHOD = "assume-role-with-web-identity"
# What a store calls credentials whose time is over.
EXPIRED = frozenset({"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"})
# In botocore's notes on a request: by what it is signed, and whether that was renewed for it.
_SIGNED_WITH, _RENEWED = "repo_backup_signed_with", "repo_backup_renewed"


@dataclass(frozen=True, slots=True)
class JobRole:
    """Which role, and where the job has its identity from.

    Attributes:
        arn: the role's.
        token_url: where the statement of the job's identity is asked for.
        bearer: what opens that, for as long as the job lives.
        session_name: by which AWS's own log knows the session.
        ca_bundle: certificates of the host that gives the statement; None for those of the machine.
    """

    arn: str
    token_url: str
    bearer: Secret
    session_name: str
    ca_bundle: str | None = None


def session_of(role: JobRole | None, *, region: str | None) -> boto3.session.Session:
    """Make a session: of a role, or with the credentials of boto3's standard chain.

    Args:
        role: None for that chain.
        region: whose STS is asked; None for the configured one.
    """
    if role is None:
        return boto3.session.Session()
    core = botocore.session.get_session()
    _assume(core, role, region=region or core.get_config_variable("region") or DEFAULT_REGION)
    return boto3.session.Session(botocore_session=core)


def _assume(session: botocore.session.Session, role: JobRole, *, region: str) -> None:
    """Have a session sign with a role's credentials, fetched when first needed and renewed.

    What fails in fetching them fails the request that needed them, as AccessDenied or
    DestinationUnreachable.
    """

    def fetch() -> dict[str, str]:
        return _fetch(session, role, region)

    credentials = DeferredRefreshableCredentials(refresh_using=fetch, method=_METHOD)
    # botocore has no other way in.
    session._credentials = credentials  # type: ignore[attr-defined]  # noqa: SLF001


def renew_what_ends_early(client: BaseClient, credentials: Credentials | None) -> None:
    """Have a client renew a session that the store calls expired before its time, once a request.

    Sessions end early where an administrator revokes them, and by a clock that is wrong. Only
    credentials that can be renewed are: others are refused as before.
    """
    if not isinstance(credentials, RefreshableCredentials):
        return

    def note(request: AWSRequest, **_: object) -> None:
        request.context[_SIGNED_WITH] = credentials.get_frozen_credentials().token

    def renew(
        *,
        response: tuple[object, Mapping[str, Any]] | None,
        request_dict: Mapping[str, Any],
        **_: object,
    ) -> float | None:
        code = "" if response is None else response[1].get("Error", {}).get("Code")
        context = request_dict["context"]
        if code not in EXPIRED or context.get(_RENEWED):
            return None
        context[_RENEWED] = True
        # Of many threads that are refused at once, one renews. botocore has no other way in.
        inner: Any = credentials
        with inner._refresh_lock:  # noqa: SLF001
            if inner._frozen_credentials.token == context.get(_SIGNED_WITH):  # noqa: SLF001
                inner._protected_refresh(is_mandatory=True)  # noqa: SLF001
        return 0.0

    events: Any = client.meta.events
    events.register("before-sign.s3", note)
    events.register("needs-retry.s3", renew)


def _fetch(session: botocore.session.Session, role: JobRole, region: str) -> dict[str, str]:
    statement = _identity(role)
    config = Config(
        signature_version=UNSIGNED,
        connect_timeout=_SECONDS,
        read_timeout=_SECONDS,
        retries={"mode": "standard", "total_max_attempts": 3},
    )
    client: Any = session.create_client("sts", region_name=region, config=config)
    try:
        answer = client.assume_role_with_web_identity(
            RoleArn=role.arn,
            RoleSessionName=role.session_name,
            WebIdentityToken=statement.reveal(),
            DurationSeconds=_SESSION_SECONDS,
        )
    except ClientError as error:
        said = error.response.get("Error", {})
        raise AccessDenied(
            f"AWS lets this job not work as {role.arn}: {said.get('Code')}: {said.get('Message')}",
            hint="the role's trust policy must name GitHub's provider, the audience "
            f"{_AUDIENCE}, and this repository with its branch or environment",
        ) from error
    except BotoCoreError as error:
        raise DestinationUnreachable(f"AWS STS cannot be reached: {error}") from error
    finally:
        client.close()
    found = answer["Credentials"]
    if found["Expiration"] <= datetime.now(UTC):
        raise AccessDenied(
            f"AWS gives a session as {role.arn} that has ended already, at "
            f"{found['Expiration'].isoformat()}",
            hint="look at this machine's clock: it must not be ahead",
        )
    return {
        "access_key": found["AccessKeyId"],
        "secret_key": minted(found["SecretAccessKey"]).reveal(),
        "token": minted(found["SessionToken"]).reveal(),
        "expiry_time": found["Expiration"].isoformat(),
    }


def _identity(role: JobRole) -> Secret:
    """Ask GitHub who the job is; the statement lives for some minutes."""
    joint = "&" if "?" in role.token_url else "?"
    url = f"{role.token_url}{joint}audience={quote(_AUDIENCE)}"
    request = AWSRequest(
        method="GET",
        url=url,
        headers={"Authorization": f"Bearer {role.bearer.reveal()}", "Accept": "application/json"},
        stream_output=True,
    )
    verify: Any = role.ca_bundle or True
    # botocore's clients find proxies by themselves; its bare session does not.
    proxies = get_environ_proxies(url)
    http = URLLib3Session(verify=verify, proxies=proxies, timeout=_SECONDS)

    begun: list[Any] = []

    def ask() -> tuple[int, bytes]:
        answer = http.send(request.prepare())
        begun.append(answer.raw)
        with closing(answer.raw):
            return answer.status_code, whole(answer.raw.stream())

    def give_up() -> None:
        for raw in begun:
            raw.shutdown()

    try:
        status, body = in_time(ask, give_up=give_up)
    except Odd as error:
        raise DestinationError(
            f"GitHub's answer to who this job is has {error}, and cannot be understood"
        ) from error
    except Exception as error:
        # botocore's own errors, those of urllib3 below it, and that it takes too long.
        raise DestinationUnreachable(
            f"the identity of this job cannot be asked for: {foreign(str(error), 300)}"
        ) from error
    finally:
        http.close()
    if status >= 500:
        raise DestinationUnreachable(f"GitHub does not say who this job is ({status})")
    if status != 200:
        raise AccessDenied(
            f"GitHub does not say who this job is ({status})",
            hint="the job needs the permission id-token: write",
        )
    try:
        return minted(token(parsed(body), "value"))
    except (ValueError, LookupError, TypeError) as error:
        raise DestinationError("GitHub's answer to who this job is cannot be understood") from error
