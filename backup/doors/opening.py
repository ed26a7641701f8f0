"""Opens what a `Config` names: sources, destination, network, the run's limits.

Every door does it the same way. Libraries of a forge or a store are imported where they are needed,
so that a refusal waits for none, and a missing one breaks nothing else.
"""
# ruff: noqa: PLC0415 - see above

import os
import shutil
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from backup.config import Config, SourceSpec
from backup.errors import ConfigError, ExitCode
from backup.model import Destination, Selection, Source
from backup.results import Diagnosis, Finding
from backup.secret import Secret
from backup.stopping import Stop

if TYPE_CHECKING:
    from backup.commands.prune import PruneRequest
    from backup.commands.pushing import PushRequest
    from backup.commands.remotes import NetworkSettings
    from backup.commands.run import RunOptions
    from backup.commands.verify import VerifyRequest
    from backup.destinations.s3 import JobRole, S3Settings
    from backup.sources import github
    from backup.sources.bitbucket import Credentials

_MOST_MARGIN_SECONDS = 120.0
_MARGIN_SHARE = 0.1
# Servers that take tokens mostly look at no name; GitHub documents this one.
_ANY_USERNAME = "x-access-token"
_NO_FILES = "with check trailer no pack is searched for files of Git LFS, and none are stored"
_CA_BUNDLES = ("GIT_SSL_CAINFO", "CURL_CA_BUNDLE", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE")


def run_options(config: Config) -> "RunOptions":
    """Take what a run is asked to do, apart from where from and where to."""
    from backup.commands.exporting import ExportOptions
    from backup.commands.run import RunOptions

    exports = ExportOptions(
        limit=config.export_limit,
        timeout_minutes=config.export_timeout_minutes,
        unchanged=config.export_unchanged,
    )
    return RunOptions(
        selection=Selection(
            pull_refs=config.pull_refs,
            # What points to files is found while packs are indexed.
            lfs=config.lfs and config.check == "pack",
            metadata=config.metadata,
        ),
        include=config.include,
        exclude=config.exclude,
        visibility=config.visibility,
        archived=config.archived,
        forks=config.forks,
        wikis=config.wikis,
        gists=config.gists,
        snippets=config.snippets,
        concurrency=config.concurrency,
        check=config.check,
        full_after_days=config.full_after_days,
        max_chain_length=config.max_chain_length,
        max_drop_percent=config.max_drop_percent,
        accept_drop=config.accept_drop,
        dry_run=config.dry_run,
        snapshot_id=config.snapshot_id,
        grace_days=config.grace_days,
        exports=exports if config.exports else None,
        lock_days=config.object_lock_days or 0,
        told=(_NO_FILES,) if config.lfs and config.check != "pack" else (),
    )


def verify_request(config: Config) -> "VerifyRequest":
    """Take what a verification is asked to prove."""
    from backup.commands.verify import VerifyRequest

    return VerifyRequest(
        depth=config.depth,
        sample_percent=config.sample_percent,
        sample_bytes=config.sample_bytes,
        concurrency=config.concurrency,
    )


def prune_request(config: Config) -> "PruneRequest":
    """Take what retention is asked to keep."""
    from backup.commands.prune import PruneRequest
    from backup.retention import Rules

    within = config.keep_within
    rules = Rules(
        since=None if within is None else within.before(datetime.now(UTC)),
        within=str(within or ""),
        hourly=config.keep_hourly or 0,
        daily=config.keep_daily or 0,
        weekly=config.keep_weekly or 0,
        monthly=config.keep_monthly or 0,
        yearly=config.keep_yearly or 0,
    )
    return PruneRequest(
        rules,
        grace_days=config.grace_days,
        keep_deleted_days=config.keep_deleted_days,
        keep_exports_days=config.keep_exports_days,
        accept_missing_index=config.accept_missing_index,
        dry_run=config.dry_run,
    )


def push_request(config: Config, stop: Stop) -> "PushRequest | None":
    """Take where a restored repository is to be pushed; None where it is not."""
    if config.push is None:
        return None
    from backup.commands.pushing import PushRequest
    from backup.commands.remotes import reach_of

    network, authorization = network_settings(config), _authorization(config)
    return PushRequest(
        config.push,
        reach=reach_of(config.push, network, authorization),
        limit_bytes=config.push_batch_mib << 20,
        network=network,
        authorization=authorization,
        force=config.force,
        scopes=_scopes(config, config.push, stop),
    )


def _scopes(config: Config, url: str, stop: Stop) -> "Callable[[], frozenset[str] | None] | None":
    """Make what asks GitHub for the token's rights; None where the remote is not GitHub's."""
    server_url, token, place = config.forge_url("github"), config.token, urlsplit(url)
    if token is None or f"{place.scheme}://{place.netloc}" != server_url:
        return None

    def ask() -> frozenset[str] | None:
        from backup.sources.github import token_scopes

        return token_scopes(token, server_url=server_url, api_url=config.api_url, stop=stop)

    return ask


def open_sources(config: Config, stop: Stop) -> list[Source]:
    """Open what was named; repositories named one by one share a source per owner.

    Args:
        config: names them.
        stop: ends every wait for a forge.
    """
    from backup.sources.plain import FolderSource, GitUrlSource

    sources: list[Source] = []
    locations: dict[str, list[str]] = {}
    for spec in dict.fromkeys(config.sources):
        owner, path = config.owner_of(spec), spec.path
        if spec.provider == "github":
            sources.append(_github(config, spec, stop))
        elif spec.provider == "gitlab":
            sources.append(_gitlab(config, spec, stop))
        elif spec.provider == "bitbucket":
            sources.append(_bitbucket(config, spec, stop))
        elif spec.provider == "folder" and path is not None:
            sources.append(FolderSource(path, owner=owner))
        else:
            place = spec.url if path is None else os.fspath(path)
            locations.setdefault(owner, []).append(place)
    authorization = _authorization(config)
    named = [
        GitUrlSource(places, owner=owner, authorization=authorization)
        for owner, places in locations.items()
    ]
    return [*sources, *named]


def _github(config: Config, spec: SourceSpec, stop: Stop) -> Source:
    from backup.sources.github import GitHubSource

    return GitHubSource(
        spec.value,
        credentials=_github_credentials(config, spec.value, stop),
        username=config.username or _ANY_USERNAME,
        server_url=config.forge_url("github"),
        api_url=config.api_url,
        gists=config.gists,
        stop=stop,
    )


def _github_credentials(config: Config, owner: str, stop: Stop) -> "github.Credentials | None":
    from backup.sources.github import AccessToken, App, api_of

    if config.app_id is not None and config.app_private_key is not None:
        return App(
            config.app_id,
            config.app_private_key,
            owner=owner,
            api_url=config.api_url or api_of(config.forge_url("github")),
            stop=stop,
        )
    return None if config.token is None else AccessToken(config.token)


def _gitlab(config: Config, spec: SourceSpec, stop: Stop) -> Source:
    from backup.sources.gitlab import GitLabSource

    token = config.token
    # Source: GitLab Docs, "CI/CD job token": its prefix, and the user name that goes with it.
    is_job = token is not None and (
        token.reveal().startswith("glcbt-") or token.reveal() == os.environ.get("CI_JOB_TOKEN")
    )
    return GitLabSource(
        spec.value,
        token=token,
        authorization=_authorization(config, "gitlab-ci-token" if is_job else "oauth2"),
        is_job=is_job,
        server_url=config.forge_url("gitlab"),
        api_url=config.api_url,
        snippets=config.snippets,
        shared=config.shared,
        stop=stop,
    )


def _bitbucket(config: Config, spec: SourceSpec, stop: Stop) -> Source:
    from backup.sources.bitbucket import BitbucketSource

    return BitbucketSource(
        spec.value,
        credentials=_bitbucket_credentials(config, stop),
        server_url=config.forge_url("bitbucket"),
        api_url=config.api_url,
        stop=stop,
    )


def _bitbucket_credentials(config: Config, stop: Stop) -> "Credentials | None":
    """Tell the kinds of credentials apart, as Atlassian marks them."""
    from backup.sources.bitbucket import (
        INSTEAD_OF_APP_PASSWORDS,
        AccessToken,
        ApiToken,
        Consumer,
    )

    if config.oauth_key is not None and config.oauth_secret is not None:
        server_url = config.forge_url("bitbucket")
        return Consumer(config.oauth_key, config.oauth_secret, server_url=server_url, stop=stop)
    if config.token is None:
        return None
    # Source: Atlassian Support, "API tokens", "Access tokens": how each kind begins.
    kind = config.token.reveal()[:5]
    if kind.startswith("ATBB"):
        raise ConfigError(
            "the token is an app password, which Bitbucket takes no more",
            hint=INSTEAD_OF_APP_PASSWORDS,
        )
    if kind == "ATCTT":
        return AccessToken(config.token)
    if config.username:
        return ApiToken(config.username, config.token)
    if kind == "ATATT":
        raise ConfigError(
            "username is missing: an API token of Bitbucket needs the email of its Atlassian "
            "account (--username, or the input username)"
        )
    return AccessToken(config.token)


def _authorization(config: Config, username: str = _ANY_USERNAME) -> Secret | None:
    if config.token is None:
        return None
    from backup.git.http import basic

    return basic(config.username or username, config.token)


def network_settings(config: Config) -> "NetworkSettings":
    """Take what the environment says of proxies and certificates, as curl and git name it."""
    from backup.commands.remotes import NetworkSettings
    from backup.git.http import HttpSettings

    environment = os.environ
    proxies = {
        scheme: url
        for scheme in ("http", "https", "all")
        if (url := environment.get(f"{scheme}_proxy") or environment.get(f"{scheme}_proxy".upper()))
    }
    return NetworkSettings(
        http=HttpSettings(
            proxies=proxies,
            no_proxy=environment.get("no_proxy") or environment.get("NO_PROXY") or "",
            ca_bundle=next(
                (environment[name] for name in _CA_BUNDLES if environment.get(name)), None
            ),
        ),
        ssh_key_file=_existing_file(config.ssh_key_file, "--ssh-key-file"),
        ssh_known_hosts_file=_existing_file(config.ssh_known_hosts_file, "--ssh-known-hosts-file"),
        ssh_agent=environment.get("SSH_AUTH_SOCK", ""),
    )


def _ca_bundle() -> str | None:
    return next((os.environ[name] for name in _CA_BUNDLES if os.environ.get(name)), None)


def _existing_file(name: str | None, option: str) -> Path | None:
    if name is None:
        return None
    path = Path(name).expanduser().absolute()
    if not path.is_file():
        raise ConfigError(f"{option}: {name!r} is no file: give the path of a file")
    return path


@contextmanager
def open_destination(config: Config, stop: Stop) -> Iterator[Destination]:
    """Open the vault's place; makes no request yet, but to see that it can lock.

    Raises:
        ConfigError: Object Lock is asked for, and the bucket has none.
    """
    if config.vault.folder is not None:
        from backup.destinations.folder import FolderDestination

        yield FolderDestination(config.vault.folder)
        return
    from backup.destinations.s3 import S3Destination

    with closing(S3Destination(_s3_settings(config), stop=stop)) as destination:
        if config.object_lock_mode is not None:
            destination.require_lock()
        yield destination


def look_at_destination(config: Config, stop: Stop) -> Diagnosis:
    """Tell what there is to know of the vault's place; writes nothing."""
    folder = config.vault.folder
    if folder is None:
        from backup.destinations.s3 import diagnose

        return diagnose(_s3_settings(config), stop=stop)
    existing = next(one for one in (folder, *folder.absolute().parents) if one.exists())
    free = shutil.disk_usage(existing).free
    return Diagnosis((Finding("info", f"{folder}: {free >> 30} GiB are free"),))


def caller_of(config: Config) -> str:
    """Tell whose credentials store the vault, as AWS knows them; empty for any other place."""
    if config.vault.folder is not None:
        return ""
    from backup.destinations.s3 import caller_identity

    return caller_identity(_s3_settings(config))


def _s3_settings(config: Config) -> "S3Settings":
    from backup.destinations.s3 import S3Settings

    return S3Settings(
        bucket=config.vault.bucket,
        prefix=config.vault.prefix,
        region=config.region
        or os.environ.get("AWS_REGION")
        or os.environ.get("AWS_DEFAULT_REGION")
        or None,
        endpoint_url=config.endpoint_url,
        addressing_style=config.addressing_style,
        storage_class=config.storage_class,
        encryption="sse-kms" if config.kms_key_id else config.encryption,
        kms_key_id=config.kms_key_id,
        expected_bucket_owner=config.expected_bucket_owner,
        lock_mode=_LOCK_MODES.get(config.object_lock_mode or ""),
        lock_days=config.object_lock_days or 0,
        captures=config.concurrency,
        role=job_role(config),
    )


def job_role(config: Config) -> "JobRole | None":
    """Take where the job has its identity from; None where no role is asked for.

    Source: GitHub Docs, "OpenID Connect reference"; the runner gives both to steps in containers.
    """
    if config.role_to_assume is None:
        return None
    url = os.environ.get("ACTIONS_ID_TOKEN_REQUEST_URL")
    bearer = os.environ.get("ACTIONS_ID_TOKEN_REQUEST_TOKEN")
    if not url or not bearer:
        raise ConfigError(
            "role-to-assume: this is no job of GitHub Actions that may ask for its identity",
            hint="give the job the permission id-token: write; anywhere else leave role-to-assume "
            "out, and have AWS's own configuration assume the role (role_arn in a profile)",
        )
    from backup.destinations.s3 import JobRole

    run = os.environ.get("GITHUB_RUN_ID", "")
    return JobRole(
        config.role_to_assume,
        token_url=url,
        bearer=Secret(bearer),
        session_name=f"repo-backup-{run}" if run.isalnum() else "repo-backup",
        ca_bundle=_ca_bundle(),
    )


_LOCK_MODES: Mapping[str, Literal["GOVERNANCE", "COMPLIANCE"]] = {
    "governance": "GOVERNANCE",
    "compliance": "COMPLIANCE",
}


def make_stop(config: Config, *, most_seconds: float | None = None) -> Stop:
    """Start the clock of the deadline, where there is one.

    Args:
        config: may name one.
        most_seconds: what there is in any case; None for no end.
    """
    asked = None if config.deadline_minutes is None else config.deadline_minutes * 60
    limits = [limit for limit in (asked, most_seconds) if limit is not None]
    if not limits:
        return Stop()
    seconds = min(limits)
    margin = min(_MOST_MARGIN_SECONDS, seconds * _MARGIN_SHARE)
    return Stop(deadline_seconds=seconds, margin_seconds=margin)


@contextmanager
def stopped_by_signals(stop: Stop) -> Iterator[None]:
    """Let SIGINT and SIGTERM end the work in hand; a second SIGINT ends the process at once."""

    def ask(number: int, _frame: FrameType | None) -> None:
        if stop.interrupted and number == signal.SIGINT:
            os._exit(ExitCode.INTERRUPTED)
        stop.interrupt()
        # Nothing with a lock: the handler may run inside whatever holds it.
        with suppress(OSError):
            os.write(2, b"repo-backup: stopping; interrupt again to end at once\n")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
