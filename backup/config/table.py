"""The table of all inputs: the fields of `Config`.

Each field is one input: its type, what it accepts, its help, its default, which commands take it
and whether it works yet. Everything that names inputs is made from them (`INPUTS`): the options
of the command line, the inputs of the action, the tables of the documents.
"""
# ruff: noqa: RUF009 - the fields of Config are declared by functions that return field(...)

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import get_args

from backup.config.declaring import Input, declare, optional
from backup.config.names import (
    VAULT_COMMANDS,
    WRITING_COMMANDS,
    AddressingStyle,
    CheckLevel,
    Depth,
    Encryption,
    HideNames,
    LockMode,
    Provider,
    StorageClass,
)
from backup.config.sourcing import SourceInputs
from backup.config.syntax import (
    ACCOUNT,
    AT,
    BOOLEAN,
    BUCKET,
    DESTINATION,
    FILE,
    HEARTBEAT_URL,
    KMS_KEY,
    MINUTES,
    PREFIX,
    PUSH_URL,
    REGION,
    ROLE,
    SHARD,
    SNAPSHOT_ID,
    SPAN,
    TOPIC,
    WEB_URL,
    DestinationSpec,
    Shard,
    SourceSpec,
    Span,
    choice,
    whole,
)
from backup.errors import ConfigError
from backup.secret import Secret

PUBLIC_SERVERS: Mapping[Provider, str] = {
    "github": "https://github.com",
    "gitlab": "https://gitlab.com",
    "bitbucket": "https://bitbucket.org",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(SourceInputs):
    """What was asked for, checked. Every field is an input; the comments are its sections."""

    # Destination
    destination: DestinationSpec | None = optional(
        DESTINATION,
        "Where the vault lies: a folder, or s3://BUCKET/PREFIX.",
        group="Destination",
        commands=VAULT_COMMANDS,
        available=True,
    )
    bucket: str | None = optional(
        BUCKET,
        "The bucket of the vault, in place of s3://BUCKET/PREFIX.",
        group="Destination",
        commands=VAULT_COMMANDS,
        available=True,
    )
    prefix: str | None = optional(
        PREFIX,
        "The path inside the bucket where the vault begins.",
        group="Destination",
        commands=VAULT_COMMANDS,
        available=True,
    )
    region: str | None = optional(
        REGION,
        "The bucket's region; asked from the bucket when left out.",
        group="Destination",
        commands=VAULT_COMMANDS,
        available=True,
    )
    endpoint_url: str | None = optional(
        WEB_URL,
        "The address of an S3-compatible store, such as https://minio.example.com.",
        group="Destination",
        commands=VAULT_COMMANDS,
        available=True,
    )
    addressing_style: AddressingStyle = declare(
        choice(get_args(AddressingStyle)),
        "How the bucket is named to an S3-compatible store: in the path, or as a part of the "
        "host's name (virtual), as some stores want it. auto: as AWS does, elsewhere path.",
        group="Destination",
        commands=VAULT_COMMANDS,
        default="auto",
        available=True,
    )
    storage_class: StorageClass | None = optional(
        choice(get_args(StorageClass), metavar="CLASS"),
        "The storage class of bundles, such as STANDARD_IA or GLACIER_IR. Manifests and records "
        "are always instantly readable.",
        group="Destination",
        commands=WRITING_COMMANDS,
        available=True,
    )
    encryption: Encryption = declare(
        choice(get_args(Encryption)),
        "How the store encrypts: as the bucket is set (bucket), or as asked for with each object; "
        "what it answers is compared, and what it did not encrypt fails.",
        group="Destination",
        commands=WRITING_COMMANDS,
        default="bucket",
        available=True,
    )
    kms_key_id: str | None = optional(
        KMS_KEY,
        "Encrypt what is stored with this KMS key (encryption sse-kms), and fail where the store "
        "does not.",
        group="Destination",
        commands=WRITING_COMMANDS,
        available=True,
    )
    expected_bucket_owner: str | None = optional(
        ACCOUNT,
        "Refuse a bucket that belongs to another AWS account than this.",
        group="Destination",
        commands=VAULT_COMMANDS,
        available=True,
    )
    object_lock_mode: LockMode | None = optional(
        choice(get_args(LockMode)),
        "Lock what is stored against deletion; with object-lock-days. The bucket must have Object "
        "Lock.",
        group="Destination",
        commands=WRITING_COMMANDS,
        available=True,
    )
    object_lock_days: int | None = optional(
        whole(1, 36_500, metavar="DAYS"),
        "How many days what is stored stays locked; with object-lock-mode. Each run renews the "
        "locks of what its snapshot needs, before they end.",
        group="Destination",
        commands=WRITING_COMMANDS,
        available=True,
    )
    role_to_assume: str | None = optional(
        ROLE,
        "The AWS role to work as, assumed by the identity of the GitHub Actions job itself and "
        "renewed in time; the job needs the permission id-token: write.",
        group="Destination",
        commands=VAULT_COMMANDS,
        available=True,
    )

    # Behaviour
    concurrency: int = declare(
        whole(1, 64),
        "How many repositories are worked on at once.",
        group="Behaviour",
        commands=("run", "restore", "verify"),
        default="4",
        available=True,
    )
    check: CheckLevel = declare(
        choice(get_args(CheckLevel)),
        "How a pack is checked before it counts: pack has git index it on a local copy, trailer "
        "compares its checksum and needs no disk.",
        group="Behaviour",
        commands=("run",),
        default="pack",
        available=True,
    )
    full_after_days: int = declare(
        whole(1, 36_500, metavar="DAYS"),
        "Take a full bundle of a changed repository when the last one is older.",
        group="Behaviour",
        commands=("run",),
        default="90",
        available=True,
    )
    max_chain_length: int = declare(
        whole(1, 1000),
        "Take a full bundle when a repository's chain has so many bundles; 1 makes every bundle a "
        "full one.",
        group="Behaviour",
        commands=("run",),
        default="50",
        available=True,
    )
    deadline_minutes: float | None = optional(
        MINUTES,
        "End in time: no new work near the end, and the rest is left to the next run. No limit "
        "when left out.",
        group="Behaviour",
        commands=("run",),
        available=True,
    )
    shard: Shard | None = optional(
        SHARD,
        "Do one part of the work: 3/8 is the third of eight.",
        group="Behaviour",
        commands=("run",),
    )
    snapshot_id: str | None = optional(
        SNAPSHOT_ID,
        "The id of the snapshot to write, for runs that share one. Made anew when left out.",
        group="Behaviour",
        commands=("run", "finalise"),
        available=True,
    )
    max_drop_percent: int = declare(
        whole(0, 100, metavar="PERCENT"),
        "Fail when the listing, or a repository's refs (ten at least), fell by more than this.",
        group="Behaviour",
        commands=("run",),
        default="20",
        available=True,
    )
    accept_drop: bool = declare(
        BOOLEAN,
        "Accept, this once, a listing, or a repository's refs, that fell further.",
        group="Behaviour",
        commands=("run",),
        default="false",
        available=True,
    )
    max_age_hours: int = declare(
        whole(1, 87_600, metavar="HOURS"),
        "How long ago the newest snapshot may have finished, and each repository been checked.",
        group="Behaviour",
        commands=("status",),
        default="26",
        available=True,
    )
    dry_run: bool = declare(
        BOOLEAN,
        "Say what would be done and why, and write nothing.",
        group="Behaviour",
        commands=("run", "prune", "forget", "accept-damage"),
        default="false",
        available=True,
    )
    export_limit: int = declare(
        whole(1, 1000),
        "How many GitLab exports may be asked for in any 60 seconds; GitLab itself takes six.",
        group="Behaviour",
        commands=("run",),
        default="6",
        available=True,
    )
    export_unchanged: bool = declare(
        BOOLEAN,
        "Export also projects in which nothing happened since their last export.",
        group="Behaviour",
        commands=("run",),
        default="false",
        available=True,
    )
    export_timeout_minutes: int = declare(
        whole(1, 1440, metavar="MINUTES"),
        "How long to wait for one GitLab export; what has not arrived then is a failure.",
        group="Behaviour",
        commands=("run",),
        default="60",
        available=True,
    )
    sample_percent: int = declare(
        whole(1, 100, metavar="PERCENT"),
        "Verify this percentage of the repositories: those first that were not verified to this "
        "depth for the longest time.",
        group="Behaviour",
        commands=("verify",),
        default="100",
        available=True,
    )
    sample_bytes: int | None = optional(
        whole(1, 10**15, metavar="BYTES"),
        "Verify repositories whose bundles have no more than these bytes together, chosen in the "
        "same order; one at least.",
        group="Behaviour",
        commands=("verify",),
        available=True,
    )
    depth: Depth = declare(
        choice(get_args(Depth)),
        "How much to prove: everything is there with its size (objects), every bundle has its "
        "checksum and a pack that git can index (packs), or the newest state of every repository "
        "can be rebuilt (restore).",
        group="Behaviour",
        commands=("verify",),
        default="objects",
        available=True,
    )
    at: str | None = optional(
        AT,
        "Restore the state of that date, time or snapshot; the newest when left out. Times are UTC "
        "unless they name a zone.",
        group="Behaviour",
        commands=("restore",),
        available=True,
        action=False,
    )
    everything: bool = declare(
        BOOLEAN,
        "Restore every repository, each to its own folder below the one given.",
        group="Behaviour",
        commands=("restore",),
        default="false",
        available=True,
        action=False,
        name="all",
    )
    checkout: bool = declare(
        BOOLEAN,
        "Restore working clones, with HEAD's files checked out, in place of mirrors.",
        group="Behaviour",
        commands=("restore",),
        default="false",
        available=True,
        action=False,
    )
    deleted: bool = declare(
        BOOLEAN,
        "List the refs and repositories that were deleted at their source; with a TARGET, restore "
        "them beside what is there today.",
        group="Behaviour",
        commands=("restore",),
        default="false",
        available=True,
        action=False,
    )
    rewritten: bool = declare(
        BOOLEAN,
        "The same for refs that were rewritten, or moved and not proved to have kept their past.",
        group="Behaviour",
        commands=("restore",),
        default="false",
        available=True,
        action=False,
    )
    push: str | None = optional(
        PUSH_URL,
        "Push every branch, tag and other ref of the one restored repository there; no TARGET is "
        "needed then.",
        group="Behaviour",
        commands=("restore",),
        available=True,
        action=False,
    )
    force: bool = declare(
        BOOLEAN,
        "With --push: overwrite refs that the remote has with another id, unless they move "
        "meanwhile. Without it they are refused, fast-forwards too.",
        group="Behaviour",
        commands=("restore",),
        default="false",
        available=True,
        action=False,
    )
    push_batch_mib: int = declare(
        whole(1, 1_000_000, metavar="MIB"),
        "With --push: send at most so much of packed objects at once. GitHub takes 2 GB.",
        group="Behaviour",
        commands=("restore",),
        default="1000",
        available=True,
        action=False,
    )

    # Retention
    keep_within: Span | None = optional(
        SPAN,
        "Keep every snapshot younger than this.",
        group="Retention",
        commands=("prune",),
        available=True,
    )
    keep_hourly: int | None = optional(
        whole(0, 10_000),
        "Keep the last snapshot of each of the newest N hours that have one.",
        group="Retention",
        commands=("prune",),
        available=True,
    )
    keep_daily: int | None = optional(
        whole(0, 10_000),
        "Keep the last snapshot of each of the newest N days that have one.",
        group="Retention",
        commands=("prune",),
        available=True,
    )
    keep_weekly: int | None = optional(
        whole(0, 10_000),
        "Keep the last snapshot of each of the newest N weeks that have one.",
        group="Retention",
        commands=("prune",),
        available=True,
    )
    keep_monthly: int | None = optional(
        whole(0, 10_000),
        "Keep the last snapshot of each of the newest N months that have one.",
        group="Retention",
        commands=("prune",),
        available=True,
    )
    keep_yearly: int | None = optional(
        whole(0, 10_000),
        "Keep the last snapshot of each of the newest N years that have one.",
        group="Retention",
        commands=("prune",),
        available=True,
    )
    keep_deleted_days: int | None = optional(
        whole(0, 36_500, metavar="DAYS"),
        "Forget repositories that have not been listed for so many days; none when left out.",
        group="Retention",
        commands=("prune",),
        available=True,
    )
    keep_exports_days: int | None = optional(
        whole(1, 36_500, metavar="DAYS"),
        "Delete GitLab exports older than so many days, but the newest whole one of each project; "
        "none when left out.",
        group="Retention",
        commands=("prune",),
        available=True,
    )
    accept_missing_index: bool = declare(
        BOOLEAN,
        "Delete, this once, also objects that missing manifests may name.",
        group="Retention",
        commands=("prune",),
        default="false",
        available=True,
    )
    grace_days: int = declare(
        whole(1, 365, metavar="DAYS"),
        "Delete nothing that was referenced in the last so many days; a run that takes longer "
        "refuses to publish.",
        group="Retention",
        commands=("run", "prune"),
        default="7",
        available=True,
    )

    # Alerts and report
    heartbeat_url: Secret | None = optional(
        HEARTBEAT_URL,
        "Call this address after a success, so that a monitor notices a night without one; with "
        "/start at its end when it begins, and with /fail when it is no success.",
        group="Alerts and report",
        commands=("run", "verify", "prune"),
        available=True,
    )
    sns_topic_arn: str | None = optional(
        TOPIC,
        "Send a message to this SNS topic when something is not a success.",
        group="Alerts and report",
        commands=("run", "verify", "prune", "status"),
        available=True,
    )
    hide_private_names: HideNames = declare(
        choice(get_args(HideNames)),
        "Hide the names of private repositories in what is printed. auto does so in the action, "
        "where its workflow's repository is public; on the command line, give true.",
        group="Alerts and report",
        commands=("run", "verify", "prune", "status"),
        default="auto",
        off=("false",),
        available=True,
    )
    as_json: bool = declare(
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
            "accept-damage",
        ),
        default="false",
        available=True,
        action=False,
        name="json",
    )
    html: str | None = optional(
        FILE,
        "Write the report as a page to this file.",
        group="Alerts and report",
        commands=("report",),
        action=False,
    )

    @property
    def vault(self) -> DestinationSpec:
        """Where the vault lies, however it was given.

        Raises:
            ConfigError: it was not given.
        """
        if self.destination is not None:
            return self.destination
        if self.bucket is None:
            raise ConfigError("there is no destination")
        prefix = self.prefix or ""
        value = "/".join(filter(None, (f"s3://{self.bucket}", prefix)))
        return DestinationSpec(value, bucket=self.bucket, prefix=prefix)

    def owner_of(self, source: SourceSpec) -> str:
        """Name the owner: of a forge as it was named, of other places as given or by the place."""
        if source.is_forge:
            return source.value
        return self.owner[0] if self.owner else source.default_owner

    def server_of(self, source: SourceSpec) -> str:
        """Give the URL of the server that a source is at; empty for this machine."""
        return self.forge_url(source.provider) or source.url

    def forge_url(self, provider: Provider) -> str:
        """Give the URL of a forge's server, without a slash at the end; empty for no forge."""
        public = PUBLIC_SERVERS.get(provider, "")
        return (self.server_url or public).rstrip("/") if public else ""


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
