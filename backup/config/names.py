"""The words that inputs are made of: commands, providers, and what can be chosen."""

from typing import Literal, get_args

Command = Literal[
    "run",
    "list",
    "restore",
    "verify",
    "prune",
    "status",
    "doctor",
    "login",
    "report",
    "plan",
    "finalise",
    "forget",
    "accept-damage",
]
ActionCommand = Literal["run", "verify", "prune", "status", "doctor", "plan", "finalise"]
Provider = Literal["github", "gitlab", "bitbucket", "git", "folder"]
Forge = Literal["github", "gitlab", "bitbucket", "git"]
Group = Literal["Source", "Destination", "Behaviour", "Retention", "Alerts and report"]

Visibility = Literal["all", "public", "private", "internal"]
CheckLevel = Literal["pack", "trailer"]
Depth = Literal["objects", "packs", "restore"]
LockMode = Literal["governance", "compliance"]
Encryption = Literal["bucket", "sse-s3", "sse-kms"]
AddressingStyle = Literal["auto", "path", "virtual"]
HideNames = Literal["auto", "true", "false"]
StorageClass = Literal[
    "STANDARD",
    "STANDARD_IA",
    "ONEZONE_IA",
    "INTELLIGENT_TIERING",
    "GLACIER_IR",
    "GLACIER",
    "DEEP_ARCHIVE",
    "REDUCED_REDUNDANCY",
]

COMMANDS: tuple[Command, ...] = get_args(Command)
WORKING_COMMANDS: tuple[Command, ...] = (
    "run",
    "list",
    "restore",
    "verify",
    "prune",
    "status",
    "doctor",
    "login",
    "forget",
    "accept-damage",
)
WORKING_FORGES: tuple[Forge, ...] = ("github", "gitlab", "bitbucket")
METADATA_KINDS = (
    "repository",
    "issues",
    "pulls",
    "releases",
    "labels",
    "milestones",
    "discussions",
    "collaborators",
    "hooks",
    "rulesets",
)

# Which option names the vault: commands that write it have it as --to, readers as --from.
SOURCE_COMMANDS: tuple[Command, ...] = ("run", "plan", "doctor")
WRITING_COMMANDS: tuple[Command, ...] = (*SOURCE_COMMANDS, "finalise")
READING_COMMANDS: tuple[Command, ...] = (
    "list",
    "restore",
    "verify",
    "prune",
    "status",
    "report",
    "forget",
    "accept-damage",
)
VAULT_COMMANDS: tuple[Command, ...] = (*WRITING_COMMANDS, *READING_COMMANDS)
FORGE_COMMANDS: tuple[Command, ...] = (*SOURCE_COMMANDS, "login")
