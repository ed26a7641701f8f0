"""The table of all inputs: the fields of `Config`.

Each field is one input: its type, what it accepts, its help, its default, which commands take it
and whether it works yet. Everything that names inputs is made from them (`INPUTS`): the options
of the command line, the inputs of the action, the tables of the documents.
"""
# ruff: noqa: RUF009 - the fields of Config are declared by functions that return field(...)

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar, get_args

from backup.config.names import (
    FORGE_COMMANDS,
    METADATA_KINDS,
    SOURCE_COMMANDS,
    VAULT_COMMANDS,
    WRITING_COMMANDS,
    ActionCommand,
    CheckLevel,
    Command,
    Depth,
    Forge,
    Group,
    HideNames,
    LockMode,
    StorageClass,
    Visibility,
)
from backup.config.syntax import (
    ACCOUNT,
    APP_ID,
    AT,
    BOOLEAN,
    BUCKET,
    DESTINATION,
    FILE,
    GLOBS,
    HTTPS_URL,
    KMS_KEY,
    METADATA,
    MINUTES,
    OAUTH_KEY,
    OWNERS,
    PREFIX,
    PRIVATE_KEY,
    PUSH_URL,
    REGION,
    ROLE,
    SHARD,
    SNAPSHOT_ID,
    SOURCES,
    SPAN,
    TOKEN,
    TOPIC,
    USERNAME,
    WEB_URL,
    DestinationSpec,
    Shard,
    SourceSpec,
    Span,
    Syntax,
    choice,
    whole,
)
from backup.errors import ConfigError
from backup.secret import Secret

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Input:
    """One input as every door and document sees it.

    Attributes:
        name: kebab-case; the action's input, and the option of the command line but for the
            vault's place (see ``option``).
        attribute: the field of `Config`.
        default: as text; empty where there is none.
        commands: which commands of the command line take it.
        secret: never an option, never printed.
        available: whether it works; others are checked, and refused unless they ask for nothing.
        off: texts besides the default that ask for nothing.
        action: whether the container action has it.
    """

    name: str
    attribute: str
    help: str
    group: Group
    syntax: Syntax[Any]
    default: str
    commands: tuple[Command, ...]
    secret: bool
    available: bool
    off: tuple[str, ...]
    action: bool

    def option(self, command: Command) -> str:
        """Name the option of the command line; a secret has none, only the variable."""
        if self.name != "destination":
            return f"--{self.name}"
        return "--to" if command in WRITING_COMMANDS else "--from"

    def variable(self, command: Command) -> str:
        """Name the environment variable of the command line."""
        return "REPO_BACKUP_" + self.option(command)[2:].upper().replace("-", "_")

    @property
    def is_flag(self) -> bool:
        """Whether it is true or false."""
        return self.syntax is BOOLEAN


def _input(
    syntax: Syntax[T],
    help_text: str,
    *,
    group: Group,
    commands: tuple[Command, ...],
    default: str,
    available: bool = False,
    off: tuple[str, ...] = (),
    action: bool = True,
    name: str = "",
) -> T:
    """Declare an input that always has a value; the field's type is checked against the syntax."""
    facts = {
        "name": name,
        "help": help_text,
        "group": group,
        "syntax": syntax,
        "default": default,
        "commands": commands,
        "secret": syntax.metavar == "SECRET",
        "available": available,
        "off": off,
        "action": action,
    }
    return field(default=syntax.parse(default), metadata=facts)


def _optional(
    syntax: Syntax[T],
    help_text: str,
    *,
    group: Group,
    commands: tuple[Command, ...],
    available: bool = False,
    action: bool = True,
    name: str = "",
) -> T | None:
    """Declare an input that may be absent."""

    def read(text: str) -> T | None:
        return syntax.parse(text) if text else None

    return _input(
        Syntax(syntax.metavar, syntax.accepts, read, joined_by=syntax.joined_by),
        help_text,
        group=group,
        commands=commands,
        default="",
        available=available,
        action=action,
        name=name,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What was asked for, checked. Every field is an input; the comments are its sections."""

    # Source
    sources: tuple[SourceSpec, ...] = _input(
        SOURCES,
        "Where the repositories are: a folder that holds them, or git:PATH for a single one; may "
        "be given several times. github:OWNER, gitlab:GROUP, bitbucket:WORKSPACE and git:URL are "
        "not available yet.",
        group="Source",
        commands=SOURCE_COMMANDS,
        default="",
        available=True,
        action=False,
        name="from",
    )
    owner: tuple[str, ...] = _input(
        OWNERS,
        "Whose repositories they are; the name of the first folders in the vault. For a folder its "
        "own name is the default, for git:PATH that of the folder around the repository.",
        group="Source",
        commands=SOURCE_COMMANDS,
        default="",
        available=True,
    )
    provider: Forge = _input(
        choice(get_args(Forge)),
        "Which forge the owner is at.",
        group="Source",
        commands=(),
        default="github",
    )
    command: Command = _input(
        choice(get_args(ActionCommand)),
        "What to do: back up (run), prove backups (verify), delete old ones (prune), tell their "
        "age (status), look for mistakes in the set-up (doctor), or a step of a sharded run.",
        group="Behaviour",
        commands=(),
        default="run",
    )
    token: Secret | None = _optional(
        TOKEN,
        "The forge's access token, with read access to the owner's repositories.",
        group="Source",
        commands=FORGE_COMMANDS,
    )
    app_id: str | None = _optional(
        APP_ID,
        "The id of a GitHub App installed at the owner, used with app-private-key in place of "
        "a token.",
        group="Source",
        commands=FORGE_COMMANDS,
    )
    app_private_key: Secret | None = _optional(
        PRIVATE_KEY,
        "The private key of the GitHub App, the PEM text itself.",
        group="Source",
        commands=FORGE_COMMANDS,
    )
    oauth_key: str | None = _optional(
        OAUTH_KEY,
        "The key of a Bitbucket OAuth consumer, used with oauth-secret in place of a token.",
        group="Source",
        commands=FORGE_COMMANDS,
    )
    oauth_secret: Secret | None = _optional(
        TOKEN,
        "The secret of the Bitbucket OAuth consumer.",
        group="Source",
        commands=FORGE_COMMANDS,
    )
    username: str | None = _optional(
        USERNAME,
        "The user name that goes with a token, where the forge or git server wants one.",
        group="Source",
        commands=FORGE_COMMANDS,
    )
    server_url: str | None = _optional(
        WEB_URL,
        "Your own server of the forge, such as https://github.example.com; the public service "
        "when left out.",
        group="Source",
        commands=FORGE_COMMANDS,
    )
    api_url: str | None = _optional(
        WEB_URL,
        "Where that server's API is, if not where its kind has it.",
        group="Source",
        commands=FORGE_COMMANDS,
    )
    include: tuple[str, ...] = _input(
        GLOBS,
        "Take only repositories whose path matches one of these globs, such as 'team-*'. A "
        "repository's wiki goes with it.",
        group="Source",
        commands=SOURCE_COMMANDS,
        default="",
        available=True,
    )
    exclude: tuple[str, ...] = _input(
        GLOBS,
        "Leave out repositories whose path matches one of these globs, even if included. What "
        "the vault already has of them stays.",
        group="Source",
        commands=SOURCE_COMMANDS,
        default="",
        available=True,
    )
    visibility: Visibility = _input(
        choice(get_args(Visibility)),
        "Take only public, private or internal repositories.",
        group="Source",
        commands=SOURCE_COMMANDS,
        default="all",
    )
    archived: bool = _input(
        BOOLEAN,
        "Take archived repositories too.",
        group="Source",
        commands=SOURCE_COMMANDS,
        default="true",
    )
    forks: bool = _input(
        BOOLEAN,
        "Take forks too.",
        group="Source",
        commands=SOURCE_COMMANDS,
        default="true",
    )
    pull_refs: bool = _input(
        BOOLEAN,
        "Take the heads of pull and merge requests too. They can make a repository several times "
        "as large.",
        group="Source",
        commands=SOURCE_COMMANDS,
        default="false",
        available=True,
    )
    wikis: bool = _input(
        BOOLEAN,
        "Take the wikis of the repositories too.",
        group="Source",
        commands=SOURCE_COMMANDS,
        default="true",
    )
    gists: bool = _input(
        BOOLEAN,
        "Take the owner's gists too (GitHub users).",
        group="Source",
        commands=SOURCE_COMMANDS,
        default="false",
    )
    snippets: bool = _input(
        BOOLEAN,
        "Take the snippets too (GitLab, Bitbucket).",
        group="Source",
        commands=SOURCE_COMMANDS,
        default="false",
    )
    lfs: bool = _input(
        BOOLEAN,
        "Store the files that Git LFS pointers name. Without it they are counted and said.",
        group="Source",
        commands=SOURCE_COMMANDS,
        default="false",
    )
    metadata: tuple[str, ...] = _input(
        METADATA,
        f"Store what the forge keeps beside git: all, or some of {', '.join(METADATA_KINDS)}. "
        "Comments and reviews come with their issue or pull request.",
        group="Source",
        commands=SOURCE_COMMANDS,
        default="none",
    )
    exports: bool = _input(
        BOOLEAN,
        "Store GitLab's own project exports too.",
        group="Source",
        commands=SOURCE_COMMANDS,
        default="false",
    )

    # Destination
    destination: DestinationSpec | None = _optional(
        DESTINATION,
        "The folder where the vault lies. s3://BUCKET/PREFIX is not available yet.",
        group="Destination",
        commands=VAULT_COMMANDS,
        available=True,
    )
    bucket: str | None = _optional(
        BUCKET,
        "The bucket of the vault, in place of s3://BUCKET/PREFIX.",
        group="Destination",
        commands=VAULT_COMMANDS,
    )
    prefix: str | None = _optional(
        PREFIX,
        "The path inside the bucket where the vault begins.",
        group="Destination",
        commands=VAULT_COMMANDS,
    )
    region: str | None = _optional(
        REGION,
        "The bucket's region; asked from the bucket when left out.",
        group="Destination",
        commands=VAULT_COMMANDS,
    )
    endpoint_url: str | None = _optional(
        WEB_URL,
        "The address of an S3-compatible store, such as https://minio.example.com.",
        group="Destination",
        commands=VAULT_COMMANDS,
    )
    storage_class: StorageClass | None = _optional(
        choice(get_args(StorageClass)),
        "The storage class of bundles. Manifests and records are always instantly readable.",
        group="Destination",
        commands=WRITING_COMMANDS,
    )
    kms_key_id: str | None = _optional(
        KMS_KEY,
        "Encrypt what is stored with this KMS key, and fail where the store does not.",
        group="Destination",
        commands=WRITING_COMMANDS,
    )
    expected_bucket_owner: str | None = _optional(
        ACCOUNT,
        "Refuse a bucket that belongs to another AWS account than this.",
        group="Destination",
        commands=VAULT_COMMANDS,
    )
    object_lock_mode: LockMode | None = _optional(
        choice(get_args(LockMode)),
        "Lock what is stored against deletion; with object-lock-days.",
        group="Destination",
        commands=WRITING_COMMANDS,
    )
    object_lock_days: int | None = _optional(
        whole(1, 36_500, metavar="DAYS"),
        "How many days what is stored stays locked; with object-lock-mode.",
        group="Destination",
        commands=WRITING_COMMANDS,
    )
    role_to_assume: str | None = _optional(
        ROLE,
        "The AWS role to work as, assumed by the job's own identity and renewed in time.",
        group="Destination",
        commands=VAULT_COMMANDS,
    )

    # Behaviour
    concurrency: int = _input(
        whole(1, 64),
        "How many repositories are captured at once.",
        group="Behaviour",
        commands=("run", "verify"),
        default="4",
        available=True,
    )
    check: CheckLevel = _input(
        choice(get_args(CheckLevel)),
        "How a pack is checked before it counts: pack has git index it on a local copy, trailer "
        "compares its checksum and needs no disk.",
        group="Behaviour",
        commands=("run",),
        default="pack",
        available=True,
    )
    full_after_days: int = _input(
        whole(1, 36_500, metavar="DAYS"),
        "Take a full bundle of a changed repository when the last one is older.",
        group="Behaviour",
        commands=("run",),
        default="90",
        available=True,
    )
    max_chain_length: int = _input(
        whole(1, 1000),
        "Take a full bundle when a repository's chain has so many bundles; 1 makes every bundle a "
        "full one.",
        group="Behaviour",
        commands=("run",),
        default="50",
        available=True,
    )
    deadline_minutes: float | None = _optional(
        MINUTES,
        "End in time: no new work near the end, and the rest is left to the next run. No limit "
        "when left out.",
        group="Behaviour",
        commands=("run",),
        available=True,
    )
    shard: Shard | None = _optional(
        SHARD,
        "Do one part of the work: 3/8 is the third of eight.",
        group="Behaviour",
        commands=("run",),
    )
    snapshot_id: str | None = _optional(
        SNAPSHOT_ID,
        "The id of the snapshot to write, for runs that share one. Made anew when left out.",
        group="Behaviour",
        commands=("run", "finalise"),
        available=True,
    )
    max_drop_percent: int = _input(
        whole(0, 100, metavar="PERCENT"),
        "Fail when the listing, or a repository's refs, fell by more than this since the last run.",
        group="Behaviour",
        commands=("run",),
        default="20",
        available=True,
    )
    accept_drop: bool = _input(
        BOOLEAN,
        "Take a listing that fell further as the new truth, this once.",
        group="Behaviour",
        commands=("run",),
        default="false",
        available=True,
    )
    max_age_hours: int = _input(
        whole(1, 87_600, metavar="HOURS"),
        "How old the newest snapshot may be.",
        group="Behaviour",
        commands=("status",),
        default="26",
    )
    dry_run: bool = _input(
        BOOLEAN,
        "Say what would be done and why, and write nothing.",
        group="Behaviour",
        commands=("run", "prune", "forget"),
        default="false",
        available=True,
    )
    export_limit: int = _input(
        whole(1, 1000),
        "How many GitLab exports may be asked for in a minute.",
        group="Behaviour",
        commands=("run",),
        default="6",
    )
    export_timeout_minutes: int = _input(
        whole(1, 1440, metavar="MINUTES"),
        "How long to wait for one GitLab export.",
        group="Behaviour",
        commands=("run",),
        default="60",
    )
    sample_percent: int = _input(
        whole(1, 100, metavar="PERCENT"),
        "Verify only so much of the vault, another part each time.",
        group="Behaviour",
        commands=("verify",),
        default="100",
    )
    depth: Depth = _input(
        choice(get_args(Depth)),
        "How much to prove: sizes and checksums (objects), packs that git can index (packs), or "
        "repositories rebuilt and compared (restore).",
        group="Behaviour",
        commands=("verify",),
        default="objects",
    )
    at: str | None = _optional(
        AT,
        "Restore the state of that date, time or snapshot; the newest when left out. Times are UTC "
        "unless they name a zone.",
        group="Behaviour",
        commands=("restore",),
        available=True,
        action=False,
    )
    everything: bool = _input(
        BOOLEAN,
        "Restore every repository, each to its own folder below the one given.",
        group="Behaviour",
        commands=("restore",),
        default="false",
        available=True,
        action=False,
        name="all",
    )
    push: str | None = _optional(
        PUSH_URL,
        "Push the restored repository there.",
        group="Behaviour",
        commands=("restore",),
        action=False,
    )

    # Retention
    keep_within: Span | None = _optional(
        SPAN,
        "Keep every snapshot younger than this.",
        group="Retention",
        commands=("prune",),
    )
    keep_hourly: int | None = _optional(
        whole(0, 10_000),
        "Keep the last snapshot of each of so many hours.",
        group="Retention",
        commands=("prune",),
    )
    keep_daily: int | None = _optional(
        whole(0, 10_000),
        "Keep the last snapshot of each of so many days.",
        group="Retention",
        commands=("prune",),
    )
    keep_weekly: int | None = _optional(
        whole(0, 10_000),
        "Keep the last snapshot of each of so many weeks.",
        group="Retention",
        commands=("prune",),
    )
    keep_monthly: int | None = _optional(
        whole(0, 10_000),
        "Keep the last snapshot of each of so many months.",
        group="Retention",
        commands=("prune",),
    )
    keep_yearly: int | None = _optional(
        whole(0, 10_000),
        "Keep the last snapshot of each of so many years.",
        group="Retention",
        commands=("prune",),
    )
    keep_deleted_days: int | None = _optional(
        whole(0, 36_500, metavar="DAYS"),
        "Keep repositories that are no longer listed for so many days; for good when left out.",
        group="Retention",
        commands=("prune",),
    )
    grace_days: int = _input(
        whole(1, 365, metavar="DAYS"),
        "Delete nothing that was referenced in the last so many days; a run that takes longer "
        "refuses to publish.",
        group="Retention",
        commands=("run", "prune"),
        default="7",
        available=True,
    )

    # Alerts and report
    heartbeat_url: str | None = _optional(
        HTTPS_URL,
        "Call this address after a success, so that a monitor notices a night without one.",
        group="Alerts and report",
        commands=("run", "verify", "prune"),
    )
    sns_topic_arn: str | None = _optional(
        TOPIC,
        "Send a message to this SNS topic when something is not a success.",
        group="Alerts and report",
        commands=("run", "verify", "prune", "status"),
    )
    hide_private_names: HideNames = _input(
        choice(get_args(HideNames)),
        "Hide the names of private repositories in what is printed; auto does so when the "
        "workflow's repository is public.",
        group="Alerts and report",
        commands=("run", "verify", "prune", "status"),
        default="auto",
        off=("false",),
    )
    as_json: bool = _input(
        BOOLEAN,
        "Print one JSON document on stdout, in place of the table. When there is no answer to "
        'give it is {"error": {"message", "hint", "exit_code"}}.',
        group="Alerts and report",
        commands=(
            "run",
            "list",
            "restore",
            "verify",
            "prune",
            "status",
            "doctor",
            "plan",
            "finalise",
            "forget",
        ),
        default="false",
        available=True,
        action=False,
        name="json",
    )
    html: str | None = _optional(
        FILE,
        "Write the report as a page to this file.",
        group="Alerts and report",
        commands=("report",),
        action=False,
    )

    @property
    def folder(self) -> Path:
        """The vault's folder.

        Raises:
            ConfigError: no destination was given, or one that is no folder.
        """
        if self.destination is None or self.destination.folder is None:
            raise ConfigError("the destination is no folder")
        return self.destination.folder

    def owner_of(self, source: SourceSpec) -> str:
        """Name the owner of a plain source."""
        return self.owner[0] if self.owner else source.default_owner


INPUTS: tuple[Input, ...] = tuple(
    Input(
        attribute=declared.name,
        **{
            **declared.metadata,
            "name": declared.metadata["name"] or declared.name.replace("_", "-"),
        },
    )
    for declared in fields(Config)
)
BY_NAME: Mapping[str, Input] = {one.name: one for one in INPUTS}
