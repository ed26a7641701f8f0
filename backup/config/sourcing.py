"""The inputs that say where repositories come from: the first part of the table of all inputs."""
# ruff: noqa: RUF009 - the fields are declared by functions that return field(...)

from dataclasses import dataclass
from typing import get_args

from backup.config.declaring import declare, optional
from backup.config.names import (
    FORGE_COMMANDS,
    METADATA_KINDS,
    SOURCE_COMMANDS,
    ActionCommand,
    Command,
    Forge,
    Visibility,
)
from backup.config.syntax import (
    APP_ID,
    BOOLEAN,
    FILE,
    GLOBS,
    METADATA,
    OAUTH_KEY,
    OWNERS,
    PRIVATE_KEY,
    SOURCES,
    TOKEN,
    USERNAME,
    WEB_URL,
    SourceSpec,
    choice,
)
from backup.secret import Secret

# A restore reaches a server when it pushes.
_SERVER_COMMANDS: tuple[Command, ...] = (*SOURCE_COMMANDS, "restore")
_FORGE_COMMANDS: tuple[Command, ...] = (*FORGE_COMMANDS, "restore")


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceInputs:
    """What was asked for of the sources, checked."""

    sources: tuple[SourceSpec, ...] = declare(
        SOURCES,
        "Where the repositories are: github:OWNER, gitlab:GROUP, bitbucket:WORKSPACE, a folder "
        "that holds them, git:URL or git:PATH for a single one, or git:@FILE for a file of URLs, "
        "one a line; may be given several times.",
        group="Source",
        commands=SOURCE_COMMANDS,
        default="",
        available=True,
        action=False,
        name="from",
    )
    owner: tuple[str, ...] = declare(
        OWNERS,
        "Whose repositories they are: an organisation or user, or several. At a forge it is the "
        "one that was named; for a folder its own name is the default, for git:URL and git:PATH "
        "that of the folder around the repository. With status: look at these alone.",
        group="Source",
        commands=(*SOURCE_COMMANDS, "status"),
        default="",
        available=True,
    )
    provider: Forge = declare(
        choice(get_args(Forge)),
        "Which forge the owner is at: github, gitlab or bitbucket; git is for the command line.",
        group="Source",
        commands=(),
        default="github",
        available=True,
    )
    command: Command = declare(
        choice(get_args(ActionCommand)),
        "What to do: back up (run), prove backups (verify), delete old ones (prune), tell their "
        "age (status), look for mistakes in the set-up (doctor), or a step of a sharded run. Only "
        "run, verify, prune, status and doctor are available yet.",
        group="Behaviour",
        commands=(),
        default="run",
        available=True,
    )
    token: Secret | None = optional(
        TOKEN,
        "The access token of the forge or git server, with read access to the repositories; for "
        "restore --push one that may write there.",
        group="Source",
        commands=_SERVER_COMMANDS,
        available=True,
    )
    app_id: str | None = optional(
        APP_ID,
        "The id or client id of a GitHub App that is installed at the owner, used with "
        "app-private-key in place of a token.",
        group="Source",
        commands=SOURCE_COMMANDS,
        available=True,
    )
    app_private_key: Secret | None = optional(
        PRIVATE_KEY,
        "The private key of the GitHub App, the PEM text itself.",
        group="Source",
        commands=SOURCE_COMMANDS,
        available=True,
    )
    oauth_key: str | None = optional(
        OAUTH_KEY,
        "The key of a Bitbucket OAuth consumer, used with oauth-secret in place of a token.",
        group="Source",
        commands=FORGE_COMMANDS,
        available=True,
    )
    oauth_secret: Secret | None = optional(
        TOKEN,
        "The secret of the Bitbucket OAuth consumer.",
        group="Source",
        commands=FORGE_COMMANDS,
        available=True,
    )
    username: str | None = optional(
        USERNAME,
        "The user name that goes with a token, where the forge or git server wants one; with an "
        "API token of Bitbucket the email of the Atlassian account.",
        group="Source",
        commands=_SERVER_COMMANDS,
        available=True,
    )
    ssh_key_file: str | None = optional(
        FILE,
        "The private key for git over ssh; the ssh agent's keys when left out.",
        group="Source",
        commands=_SERVER_COMMANDS,
        available=True,
    )
    ssh_known_hosts_file: str | None = optional(
        FILE,
        "The servers' keys for git over ssh (ssh-keyscan prints them); those known to ssh when "
        "left out. Unknown servers are refused.",
        group="Source",
        commands=_SERVER_COMMANDS,
        available=True,
    )
    server_url: str | None = optional(
        WEB_URL,
        "Your own server of the forge, such as https://github.example.com; the public service "
        "when left out.",
        group="Source",
        commands=_FORGE_COMMANDS,
        available=True,
    )
    api_url: str | None = optional(
        WEB_URL,
        "Where that server's API is, if not where its kind has it.",
        group="Source",
        commands=_SERVER_COMMANDS,
        available=True,
    )
    include: tuple[str, ...] = declare(
        GLOBS,
        "Take only repositories whose path matches one of these globs, such as 'team-*', or where "
        "there are several owners 'acme/team-*'. A repository's wiki goes with it.",
        group="Source",
        commands=SOURCE_COMMANDS,
        default="",
        available=True,
    )
    exclude: tuple[str, ...] = declare(
        GLOBS,
        "Leave out repositories whose path, or OWNER/ and path, matches one of these globs, even "
        "if included. What the vault already has of them stays.",
        group="Source",
        commands=SOURCE_COMMANDS,
        default="",
        available=True,
    )
    visibility: Visibility = declare(
        choice(get_args(Visibility)),
        "Take only public, private or internal repositories.",
        group="Source",
        commands=SOURCE_COMMANDS,
        available=True,
        default="all",
    )
    archived: bool = declare(
        BOOLEAN,
        "Take archived repositories too.",
        group="Source",
        commands=SOURCE_COMMANDS,
        available=True,
        default="true",
    )
    forks: bool = declare(
        BOOLEAN,
        "Take forks too.",
        group="Source",
        commands=SOURCE_COMMANDS,
        available=True,
        default="true",
    )
    pull_refs: bool | None = optional(
        BOOLEAN,
        "Take the heads of pull and merge requests too. They can make a repository several times "
        "as large. When left out, they are taken of repositories on this machine, where no forge "
        "has them besides, and of no others; the number of those left out is reported.",
        group="Source",
        commands=SOURCE_COMMANDS,
        available=True,
    )
    wikis: bool = declare(
        BOOLEAN,
        "Take the wikis of the repositories too.",
        group="Source",
        commands=SOURCE_COMMANDS,
        available=True,
        default="true",
    )
    gists: bool = declare(
        BOOLEAN,
        "Take the owner's gists too (GitHub users): the secret ones of the token's own user, of "
        "others those that are public.",
        group="Source",
        commands=SOURCE_COMMANDS,
        default="false",
        available=True,
    )
    snippets: bool = declare(
        BOOLEAN,
        "Take the snippets of projects too (GitLab); costs a request for each project.",
        group="Source",
        commands=SOURCE_COMMANDS,
        default="false",
        available=True,
    )
    shared: bool = declare(
        BOOLEAN,
        "Take also projects of others that are shared with the group (GitLab).",
        group="Source",
        commands=SOURCE_COMMANDS,
        default="false",
        available=True,
    )
    lfs: bool = declare(
        BOOLEAN,
        "Store the files of Git LFS too, each once; not with check: trailer, which searches no "
        "pack for them. Without it they are counted and said.",
        group="Source",
        commands=SOURCE_COMMANDS,
        default="true",
        available=True,
    )
    metadata: tuple[str, ...] = declare(
        METADATA,
        f"Store what the forge keeps beside git: all, or some of {', '.join(METADATA_KINDS)}. "
        "Comments and reviews come with their issue or pull request.",
        group="Source",
        commands=SOURCE_COMMANDS,
        default="none",
    )
    exports: bool = declare(
        BOOLEAN,
        "Have GitLab put its own export of each project into the bucket too, where anything "
        "happened in it since the last one. The token needs the scope api then.",
        group="Source",
        commands=SOURCE_COMMANDS,
        default="false",
        available=True,
    )
