"""Inputs of every origin, checked into one frozen `Config`.

Each field of `Config` is one input: its type, what it accepts, its help, its default, which
commands take it and whether it works yet. Everything that names inputs is made from them
(`INPUTS`): the options of the command line, the inputs of the action, the tables of the documents.

Origins hand over texts, an empty one meaning "not given". Nothing here reads the environment;
the file system is asked only whether a folder that was named is there.
"""
# ruff: noqa: RUF009 - the fields of Config are declared by functions that return field(...)

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Generic, Literal, NoReturn, TypeVar, get_args
from urllib.parse import SplitResult, unquote, urlsplit

from backup.errors import ConfigError, NotYetAvailable

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
]
ActionCommand = Literal["run", "verify", "prune", "status", "doctor", "plan", "finalise"]
Provider = Literal["github", "gitlab", "bitbucket", "git", "folder"]
Forge = Literal["github", "gitlab", "bitbucket", "git"]
Group = Literal["Source", "Destination", "Behaviour", "Retention", "Alerts and report"]

Visibility = Literal["all", "public", "private", "internal"]
CheckLevel = Literal["pack", "trailer"]
Depth = Literal["objects", "packs", "restore"]
LockMode = Literal["governance", "compliance"]
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
WORKING_COMMANDS: tuple[Command, ...] = ("run", "list", "restore")
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
_SOURCE_COMMANDS: tuple[Command, ...] = ("run", "plan", "doctor")
_WRITING: tuple[Command, ...] = (*_SOURCE_COMMANDS, "finalise")
_READING: tuple[Command, ...] = (
    "list",
    "restore",
    "verify",
    "prune",
    "status",
    "report",
    "forget",
)
_VAULT_COMMANDS: tuple[Command, ...] = (*_WRITING, *_READING)
_FORGE_COMMANDS: tuple[Command, ...] = (*_SOURCE_COMMANDS, "login")

T = TypeVar("T")


class Secret:
    """A text that hides itself wherever it is printed; ``reveal`` is the one way to it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text, for the one request that needs it."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(***)"

    def __str__(self) -> str:
        return "***"

    def __format__(self, _spec: str) -> str:
        return "***"


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """Where repositories come from, as it was named.

    Attributes:
        value: the owner, the URL or the path, as typed but without ``provider:``.
        path: the folder on this machine, absolute; None for what lies on a server.
    """

    provider: Provider
    value: str
    path: Path | None = None

    def __str__(self) -> str:
        return self.value if self.provider == "folder" else f"{self.provider}:{self.value}"

    @property
    def default_owner(self) -> str:
        """The owner's name where none is given; empty when the place gives no usable name."""
        if self.path is None:
            return ""
        name = self.path.name if self.provider == "folder" else self.path.parent.name
        return name if _is_owner(name) else ""


@dataclass(frozen=True, slots=True)
class DestinationSpec:
    """Where the vault lies: a folder on this machine (absolute), or a bucket and a prefix."""

    value: str
    folder: Path | None = None
    bucket: str = ""
    prefix: str = ""

    def __str__(self) -> str:
        return self.value


@dataclass(frozen=True, slots=True)
class Shard:
    """One part of several: the index counts from 1."""

    index: int
    count: int


@dataclass(frozen=True, slots=True)
class Span:
    """A length of time in calendar units; a month's days depend on where it begins."""

    count: int
    unit: Literal["days", "weeks", "months", "years"]


class Refusal(ValueError):
    """A text that is not accepted, before anyone knows which input it was meant for.

    Args:
        text: what to show of it; None where it may hold credentials.
        problem: goes on after the text.
    """

    def __init__(self, text: str | None, problem: str, *, hint: str = "") -> None:
        super().__init__(problem)
        self.text = text
        self.problem = problem
        self.hint = hint


@dataclass(frozen=True, slots=True)
class Syntax(Generic[T]):
    """How a text becomes a value.

    Attributes:
        metavar: stands for the value in a line of help.
        accepts: goes on after "give".
        read: raises ValueError for other texts, or Refusal to say more than ``accepts`` does.
        joined_by: for a list, what the command line puts between values given one by one.
    """

    metavar: str
    accepts: str
    read: Callable[[str], T]
    joined_by: str = ""

    def parse(self, text: str) -> T:
        """Return the value. Raises Refusal."""
        try:
            return self.read(text)
        except Refusal:
            raise
        except ValueError as error:
            raise Refusal(text, f"is not accepted: give {self.accepts}") from error


# --- What texts are accepted -------------------------------------------------------------------


def _matched(pattern: str, text: str) -> str:
    if re.fullmatch(pattern, text, re.ASCII) is None:
        raise ValueError
    return text


def words(metavar: str, pattern: str, *, accepts: str) -> Syntax[str]:
    """Accept texts that match the pattern from end to end."""
    return Syntax(metavar, accepts, lambda text: _matched(pattern, text))


def choice(names: tuple[T, ...]) -> Syntax[T]:
    """Accept one of the names, in their letter case."""
    by_text = {str(name): name for name in names}

    def read(text: str) -> T:
        if text not in by_text:
            raise ValueError
        return by_text[text]

    return Syntax("|".join(by_text), _either(*by_text), read)


def whole(low: int, high: int, *, metavar: str = "N") -> Syntax[int]:
    """Accept whole numbers of a range, in plain digits."""

    def read(text: str) -> int:
        number = int(_matched("[0-9]{1,9}", text))
        if not low <= number <= high:
            raise ValueError
        return number

    return Syntax(metavar, f"a whole number from {low} to {high}", read)


def listed(one: Syntax[T], *, accepts: str, separators: str = ",\n") -> Syntax[tuple[T, ...]]:
    """Accept several values, each once, in the order given; blanks around them do not count."""

    def read(text: str) -> tuple[T, ...]:
        items = (item.strip() for item in re.split(f"[{separators}]", text))
        return tuple(dict.fromkeys(one.parse(item) for item in items if item))

    return Syntax(one.metavar, accepts, read, joined_by="\n")


def secret(pattern: str, *, accepts: str) -> Syntax[Secret]:
    """Accept texts that match the pattern, and hide them."""
    return Syntax("SECRET", accepts, lambda text: Secret(_matched(pattern, text)))


def url(schemes: tuple[str, ...], *, accepts: str) -> Syntax[str]:
    """Accept a URL with a host, without credentials."""
    return Syntax("URL", accepts, lambda text: _read_url(text, schemes).geturl())


def _either(*names: str) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _read_boolean(text: str) -> bool:
    # The spellings of the Actions toolkit's getBooleanInput, and no others.
    if text in {"true", "True", "TRUE"}:
        return True
    if text in {"false", "False", "FALSE"}:
        return False
    raise ValueError


def _read_url(text: str, schemes: tuple[str, ...]) -> SplitResult:
    parts = urlsplit(_matched(r"[!-~]{1,2048}", text))
    if parts.username is not None or parts.password is not None:
        raise Refusal(None, "holds credentials: give the URL without them")
    # Reading the port checks it.
    if parts.scheme not in schemes or not parts.hostname or parts.port == 0 or parts.fragment:
        raise ValueError
    return parts


def _read_minutes(text: str) -> float:
    minutes = float(_matched(r"[0-9]{1,5}(\.[0-9]{1,6})?", text))
    if not 0 < minutes <= MOST_MINUTES:
        raise ValueError
    return minutes


def _is_owner(text: str) -> bool:
    segments = text.split("/")
    return text.isprintable() and len(text) <= 255 and not {"", ".", ".."} & set(segments)


def _read_owner(text: str) -> str:
    if not _is_owner(text):
        raise ValueError
    return text


def _read_glob(text: str) -> str:
    bare = re.sub(r"\[!?\]?[^\]]*\]", "", text)
    if not text.isprintable() or "[" in bare or text.startswith("/") or text.endswith("/"):
        raise ValueError
    return text


def _read_bucket(text: str) -> str:
    _matched(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", text)
    if ".." in text or re.fullmatch(r"[0-9]+(\.[0-9]+){3}", text):
        raise ValueError
    if text.startswith(("xn--", "sthree-")) or text.endswith(("-s3alias", "--ol-s3")):
        raise ValueError
    return text


def _read_prefix(text: str) -> str:
    segments = text.strip("/").split("/")
    for segment in segments:
        _matched(r"[A-Za-z0-9!_.*'()=@+-]{1,200}", segment)
    if {".", ".."} & set(segments) or len(text) > 512:
        raise ValueError
    return "/".join(segments)


def _read_metadata(text: str) -> tuple[str, ...]:
    if text in {"none", ""}:
        return ()
    if text == "all":
        return METADATA_KINDS
    chosen = listed(choice(METADATA_KINDS), accepts="").parse(text)
    return tuple(kind for kind in METADATA_KINDS if kind in chosen)


def _read_snapshot_id(text: str) -> str:
    _matched(r"[0-9]{8}T[0-9]{6}Z-[0-9a-z]{4,32}", text)
    datetime.strptime(text[:16], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    return text


def _read_at(text: str) -> str:
    if text == "latest":
        return text
    if "Z-" in text:
        return _read_snapshot_id(text)
    _matched(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d(:\d\d(\.\d{1,6})?)?(Z|[+-]\d\d:\d\d)?)?", text)
    datetime.fromisoformat(text)
    return text


def _read_shard(text: str) -> Shard:
    index, count = (int(part) for part in _matched("[0-9]{1,5}/[0-9]{1,5}", text).split("/"))
    if not 1 <= index <= count <= 10_000:
        raise ValueError
    return Shard(index, count)


def _read_span(text: str) -> Span:
    _matched("[1-9][0-9]{0,4}[dwmy]", text)
    units: Mapping[str, Literal["days", "weeks", "months", "years"]] = {
        "d": "days",
        "w": "weeks",
        "m": "months",
        "y": "years",
    }
    return Span(int(text[:-1]), units[text[-1]])


# --- Sources and destinations ------------------------------------------------------------------

MOST_MINUTES = 7 * 24 * 60

_SOURCES = "github:OWNER, gitlab:GROUP, bitbucket:WORKSPACE, git:URL or a folder of repositories"
_OWNER_PATTERNS: Mapping[Forge, str] = {
    "github": "[A-Za-z0-9][A-Za-z0-9_-]{0,99}",
    "gitlab": "[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*",
    "bitbucket": "[A-Za-z0-9_-]{1,62}",
}
# git's own scp-like form. One letter before the colon is a drive of Windows, two colons are a
# remote helper, which would run a program.
_SCP_LIKE = r"([A-Za-z0-9_][A-Za-z0-9._-]*@)?[A-Za-z0-9][A-Za-z0-9.-]+:[^:\s]\S*"


def _has_scheme(text: str) -> bool:
    return ":" in text.split("/", maxsplit=1)[0]


def _absolute(text: str) -> Path:
    try:
        path = Path(text).expanduser()
        # A link keeps the name it was given by, unless ".." makes the name depend on its target.
        return path.resolve() if ".." in path.parts else path.absolute()
    except (OSError, RuntimeError) as error:
        raise Refusal(text, f"is no path that can be used: {error}") from error


def _existing_folder(path_text: str, text: str, *, what: str) -> Path:
    path = _absolute(path_text)
    try:
        there, folder = path.exists(), path.is_dir()
    except OSError as error:
        raise Refusal(text, f"cannot be looked at: {error.strerror}") from error
    if not there:
        raise Refusal(text, f"does not exist: give {what}")
    if not folder:
        raise Refusal(text, f"is not a folder: give {what}")
    return path


def _read_source(text: str) -> SourceSpec:
    for provider in _OWNER_PATTERNS:
        if text.startswith(f"{provider}:"):
            return _forge_source(provider, text.removeprefix(f"{provider}:"))
    if text.startswith("git:"):
        return _git_source(text.removeprefix("git:"))
    if _has_scheme(text):
        hint = "a repository's URL is given as git:URL, a folder with a colon in its name as ./NAME"
        raise Refusal(text, f"names no source we know: give {_SOURCES}", hint=hint)
    return SourceSpec(
        "folder", text, _existing_folder(text, text, what="a folder of repositories, or git:PATH")
    )


def _forge_source(provider: Forge, owner: str) -> SourceSpec:
    if re.fullmatch(_OWNER_PATTERNS[provider], owner, re.ASCII) is None:
        raise Refusal(f"{provider}:{owner}", f"names no owner: give {provider}:NAME")
    return SourceSpec(provider, owner)


def _git_source(value: str) -> SourceSpec:
    text, what = f"git:{value}", "git:PATH with the folder of a repository"
    if value.startswith("file://"):
        return SourceSpec("git", value, _existing_folder(_file_path(value), text, what=what))
    if "://" in value:
        return SourceSpec("git", _remote_url(value))
    if _has_scheme(value):
        return SourceSpec("git", _scp_like(value))
    if not value:
        raise Refusal(text, "names no repository: give git:PATH or git:URL")
    return SourceSpec("git", value, _existing_folder(value, text, what=what))


def _file_path(text: str) -> str:
    parts = urlsplit(text)
    if parts.netloc not in {"", "localhost"} or parts.query or parts.fragment or not parts.path:
        raise Refusal(text, "is no path of this machine: give file:///PATH")
    return unquote(parts.path, errors="surrogateescape")


def _remote_url(text: str) -> str:
    problem = "is no URL of a repository: give https://HOST/PATH or ssh://USER@HOST/PATH"
    try:
        parts = urlsplit(_matched(r"[!-~]{1,2048}", text))
        port_is_bad = parts.port == 0
    except ValueError as error:
        raise Refusal(None, problem) from error
    if parts.password is not None or (parts.username is not None and parts.scheme != "ssh"):
        hint = "REPO_BACKUP_TOKEN and REPO_BACKUP_USERNAME are the places for them"
        raise Refusal(None, "holds credentials: give the URL without them", hint=hint)
    if parts.query or parts.fragment:
        raise Refusal(None, problem)
    if parts.scheme not in {"https", "http", "ssh"} or port_is_bad:
        raise Refusal(text, problem)
    # A host that begins with a dash would be an option to ssh.
    if not parts.hostname or parts.hostname.startswith("-") or not parts.path.strip("/"):
        raise Refusal(text, problem)
    return text


def _scp_like(text: str) -> str:
    if re.fullmatch(_SCP_LIKE, text, re.ASCII) is None:
        raise Refusal(
            f"git:{text}", "is not accepted: give git:PATH, git:URL or git:USER@HOST:PATH"
        )
    return text


_DESTINATIONS = "a folder, or s3://BUCKET/PREFIX"


def _read_destination(text: str) -> DestinationSpec:
    if text.startswith("s3://"):
        return _bucket_destination(text)
    if _has_scheme(text):
        hint = "a folder with a colon in its name is given as ./NAME"
        raise Refusal(text, f"names no destination we know: give {_DESTINATIONS}", hint=hint)
    path = _absolute(text)
    try:
        nearest = next(place for place in (path, *path.parents) if place.exists())
        folder = nearest.is_dir()
    except OSError as error:
        raise Refusal(text, f"cannot be looked at: {error.strerror}") from error
    if not folder:
        raise Refusal(text, f"is not a folder or lies in none: give {_DESTINATIONS}")
    return DestinationSpec(text, folder=path)


def _bucket_destination(text: str) -> DestinationSpec:
    bucket, _, prefix = text.removeprefix("s3://").partition("/")
    try:
        return DestinationSpec(
            text,
            bucket=_read_bucket(bucket),
            prefix=_read_prefix(prefix) if prefix.strip("/") else "",
        )
    except ValueError as error:
        raise Refusal(text, "names no bucket and prefix: give s3://BUCKET/PREFIX") from error


BOOLEAN = Syntax("true|false", "true or false", _read_boolean)
OWNERS = listed(
    Syntax("NAME", "an owner's name", _read_owner),
    accepts="the names of owners, one a line or parted by commas",
)
GLOBS = listed(
    Syntax("GLOB", "a glob over paths such as 'team-*' or 'group/*'", _read_glob),
    accepts="globs over paths such as 'team-*', one a line or parted by commas",
)
# A comma may be part of a folder's name.
SOURCES = listed(
    Syntax("SOURCE", _SOURCES, _read_source),
    accepts=f"{_SOURCES}, one a line",
    separators="\n",
)
DESTINATION = Syntax("DESTINATION", _DESTINATIONS, _read_destination)
METADATA = Syntax(
    "KINDS",
    f"none, all, or a list of {', '.join(METADATA_KINDS)}",
    _read_metadata,
    joined_by="\n",
)
MINUTES = Syntax(
    "MINUTES",
    f"a number of minutes above 0, {MOST_MINUTES} (7 days) at most",
    _read_minutes,
)
SNAPSHOT_ID = Syntax(
    "ID",
    "a snapshot's id such as 20261101T031500Z-4f9c",
    _read_snapshot_id,
)
AT = Syntax(
    "WHEN",
    "a date (2026-11-01), a time (2026-11-01T03:15:00Z), a snapshot's id, or latest",
    _read_at,
)
SHARD = Syntax("I/N", "I/N with I from 1 to N, and N up to 10000", _read_shard)
SPAN = Syntax("SPAN", "a span such as 30d, 12w, 6m or 1y", _read_span)
TOKEN = secret("[!-~]{1,8192}", accepts="a token: one line without blanks")
PRIVATE_KEY = secret(
    r"(?s)-----BEGIN [A-Z ]*PRIVATE KEY-----.{10,20000}-----END [A-Z ]*PRIVATE KEY-----",
    accepts="the whole PEM text, from -----BEGIN to -----END, with its line breaks",
)
HTTPS_URL = url(("https",), accepts="a URL that begins with https://")
WEB_URL = url(("https", "http"), accepts="a URL that begins with https:// or http://")
BUCKET = Syntax(
    "BUCKET",
    "a bucket's name: 3 to 63 lower-case letters, digits, dots and dashes",
    _read_bucket,
)
PREFIX = Syntax(
    "PREFIX",
    "a path such as backups/git, in which no part is empty or .. or has blanks",
    _read_prefix,
)
REGION = words(
    "REGION",
    "[a-z0-9]+(-[a-z0-9]+){0,5}",
    accepts="a region's name such as eu-central-1",
)
_PARTITION = "arn:aws(-[a-z]+){0,3}"
KMS_KEY = words(
    "KEY",
    rf"(mrk-)?[0-9a-f-]{{32,36}}|alias/[A-Za-z0-9/_-]{{1,250}}"
    rf"|{_PARTITION}:kms:[a-z0-9-]+:[0-9]{{12}}:(key|alias)/[A-Za-z0-9/_-]{{1,250}}",
    accepts="a key's id, its ARN, or alias/NAME",
)
ACCOUNT = words("ACCOUNT", "[0-9]{12}", accepts="the 12 digits of an AWS account")
ROLE = words(
    "ARN",
    rf"{_PARTITION}:iam::[0-9]{{12}}:role/[A-Za-z0-9+=,.@_/-]{{1,512}}",
    accepts="a role's ARN such as arn:aws:iam::123456789012:role/backup",
)
TOPIC = words(
    "ARN",
    rf"{_PARTITION}:sns:[a-z0-9-]+:[0-9]{{12}}:[A-Za-z0-9_-]{{1,256}}(\.fifo)?",
    accepts="a topic's ARN such as arn:aws:sns:eu-central-1:123456789012:alerts",
)
APP_ID = words(
    "ID",
    r"[0-9]{1,18}|Iv[0-9A-Za-z.]{8,40}",
    accepts="an App's id (digits) or client id (Iv...)",
)
OAUTH_KEY = words("KEY", "[!-~]{1,255}", accepts="a consumer's key: one line without blanks")
USERNAME = words("NAME", r"[^\s:\x00-\x1f]{1,255}", accepts="a name without blanks and colons")
FILE = words("FILE", r"[^\x00-\x1f]*[^\x00-\x1f/]", accepts="the path of a file")
PUSH_URL = Syntax("URL", "a repository's URL: https:// or ssh://", _remote_url)


# --- The table ---------------------------------------------------------------------------------


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
        return "--to" if command in _WRITING else "--from"

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
        commands=_SOURCE_COMMANDS,
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
        commands=_SOURCE_COMMANDS,
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
        commands=_FORGE_COMMANDS,
    )
    app_id: str | None = _optional(
        APP_ID,
        "The id of a GitHub App installed at the owner, used with app-private-key in place of "
        "a token.",
        group="Source",
        commands=_FORGE_COMMANDS,
    )
    app_private_key: Secret | None = _optional(
        PRIVATE_KEY,
        "The private key of the GitHub App, the PEM text itself.",
        group="Source",
        commands=_FORGE_COMMANDS,
    )
    oauth_key: str | None = _optional(
        OAUTH_KEY,
        "The key of a Bitbucket OAuth consumer, used with oauth-secret in place of a token.",
        group="Source",
        commands=_FORGE_COMMANDS,
    )
    oauth_secret: Secret | None = _optional(
        TOKEN,
        "The secret of the Bitbucket OAuth consumer.",
        group="Source",
        commands=_FORGE_COMMANDS,
    )
    username: str | None = _optional(
        USERNAME,
        "The user name that goes with a token, where the forge or git server wants one.",
        group="Source",
        commands=_FORGE_COMMANDS,
    )
    server_url: str | None = _optional(
        WEB_URL,
        "Your own server of the forge, such as https://github.example.com; the public service "
        "when left out.",
        group="Source",
        commands=_FORGE_COMMANDS,
    )
    api_url: str | None = _optional(
        WEB_URL,
        "Where that server's API is, if not where its kind has it.",
        group="Source",
        commands=_FORGE_COMMANDS,
    )
    include: tuple[str, ...] = _input(
        GLOBS,
        "Take only repositories whose path matches one of these globs, such as 'team-*'. A "
        "repository's wiki goes with it.",
        group="Source",
        commands=_SOURCE_COMMANDS,
        default="",
        available=True,
    )
    exclude: tuple[str, ...] = _input(
        GLOBS,
        "Leave out repositories whose path matches one of these globs, even if included. What "
        "the vault already has of them stays.",
        group="Source",
        commands=_SOURCE_COMMANDS,
        default="",
        available=True,
    )
    visibility: Visibility = _input(
        choice(get_args(Visibility)),
        "Take only public, private or internal repositories.",
        group="Source",
        commands=_SOURCE_COMMANDS,
        default="all",
    )
    archived: bool = _input(
        BOOLEAN,
        "Take archived repositories too.",
        group="Source",
        commands=_SOURCE_COMMANDS,
        default="true",
    )
    forks: bool = _input(
        BOOLEAN,
        "Take forks too.",
        group="Source",
        commands=_SOURCE_COMMANDS,
        default="true",
    )
    pull_refs: bool = _input(
        BOOLEAN,
        "Take the heads of pull and merge requests too. They can make a repository several times "
        "as large.",
        group="Source",
        commands=_SOURCE_COMMANDS,
        default="false",
        available=True,
    )
    wikis: bool = _input(
        BOOLEAN,
        "Take the wikis of the repositories too.",
        group="Source",
        commands=_SOURCE_COMMANDS,
        default="true",
    )
    gists: bool = _input(
        BOOLEAN,
        "Take the owner's gists too (GitHub users).",
        group="Source",
        commands=_SOURCE_COMMANDS,
        default="false",
    )
    snippets: bool = _input(
        BOOLEAN,
        "Take the snippets too (GitLab, Bitbucket).",
        group="Source",
        commands=_SOURCE_COMMANDS,
        default="false",
    )
    lfs: bool = _input(
        BOOLEAN,
        "Store the files that Git LFS pointers name. Without it they are counted and said.",
        group="Source",
        commands=_SOURCE_COMMANDS,
        default="false",
    )
    metadata: tuple[str, ...] = _input(
        METADATA,
        f"Store what the forge keeps beside git: all, or some of {', '.join(METADATA_KINDS)}. "
        "Comments and reviews come with their issue or pull request.",
        group="Source",
        commands=_SOURCE_COMMANDS,
        default="none",
    )
    exports: bool = _input(
        BOOLEAN,
        "Store GitLab's own project exports too.",
        group="Source",
        commands=_SOURCE_COMMANDS,
        default="false",
    )

    # Destination
    destination: DestinationSpec | None = _optional(
        DESTINATION,
        "The folder where the vault lies. s3://BUCKET/PREFIX is not available yet.",
        group="Destination",
        commands=_VAULT_COMMANDS,
        available=True,
    )
    bucket: str | None = _optional(
        BUCKET,
        "The bucket of the vault, in place of s3://BUCKET/PREFIX.",
        group="Destination",
        commands=_VAULT_COMMANDS,
    )
    prefix: str | None = _optional(
        PREFIX,
        "The path inside the bucket where the vault begins.",
        group="Destination",
        commands=_VAULT_COMMANDS,
    )
    region: str | None = _optional(
        REGION,
        "The bucket's region; asked from the bucket when left out.",
        group="Destination",
        commands=_VAULT_COMMANDS,
    )
    endpoint_url: str | None = _optional(
        WEB_URL,
        "The address of an S3-compatible store, such as https://minio.example.com.",
        group="Destination",
        commands=_VAULT_COMMANDS,
    )
    storage_class: StorageClass | None = _optional(
        choice(get_args(StorageClass)),
        "The storage class of bundles. Manifests and records are always instantly readable.",
        group="Destination",
        commands=_WRITING,
    )
    kms_key_id: str | None = _optional(
        KMS_KEY,
        "Encrypt what is stored with this KMS key, and fail where the store does not.",
        group="Destination",
        commands=_WRITING,
    )
    expected_bucket_owner: str | None = _optional(
        ACCOUNT,
        "Refuse a bucket that belongs to another AWS account than this.",
        group="Destination",
        commands=_VAULT_COMMANDS,
    )
    object_lock_mode: LockMode | None = _optional(
        choice(get_args(LockMode)),
        "Lock what is stored against deletion; with object-lock-days.",
        group="Destination",
        commands=_WRITING,
    )
    object_lock_days: int | None = _optional(
        whole(1, 36_500, metavar="DAYS"),
        "How many days what is stored stays locked; with object-lock-mode.",
        group="Destination",
        commands=_WRITING,
    )
    role_to_assume: str | None = _optional(
        ROLE,
        "The AWS role to work as, assumed by the job's own identity and renewed in time.",
        group="Destination",
        commands=_VAULT_COMMANDS,
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
_BY_NAME: Mapping[str, Input] = {one.name: one for one in INPUTS}


# --- From texts to a Config --------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Given:
    """An input's text, and what its giver calls the input: ``--check``, ``REPO_BACKUP_CHECK``."""

    text: str
    label: str


def taken_by(command: Command) -> tuple[Input, ...]:
    """Tell which inputs a command of the command line takes, in the order of the table."""
    return tuple(one for one in INPUTS if command in one.commands)


def read_command_line(command: Command, given: Mapping[str, Given]) -> Config:
    """Check what was given, by input name, to a command that takes all of it.

    Raises:
        ConfigError: a value is not accepted, two contradict each other, or one is missing.
        NotYetAvailable: all is well formed, but the command or an input does not work yet.
    """
    labels = {one.name: one.option(command) for one in taken_by(command)} | _labels(given)
    config = _read(given, command=command)
    _check_together(config, labels)
    if command not in WORKING_COMMANDS:
        raise NotYetAvailable(
            f"{command} is not available yet", hint=f"what works is {_either(*WORKING_COMMANDS)}"
        )
    _check_available(config, given)
    _check_complete(config, labels)
    _check_plain_sources(config, labels)
    return config


def read_action(given: Mapping[str, Given]) -> Config:
    """Check the inputs of the container action.

    Raises:
        ConfigError: a value is not accepted, two contradict each other, or one is missing.
        NotYetAvailable: all is well formed, but an input does not work yet.
    """
    labels = {one.name: one.name for one in INPUTS if one.action} | _labels(given)
    config = _read(given)
    _check_together(config, labels)
    if not config.owner:
        raise ConfigError("owner is missing: give the organisation, user, group or workspace")
    _check_owners_of_forge(config)
    if config.provider != "git" and not (config.token or config.app_id or config.oauth_key):
        raise ConfigError("token is missing: give a token, or app-id and app-private-key")
    if config.destination is None and config.bucket is None:
        raise ConfigError("destination is missing: give bucket, or destination")
    _check_available(config, given)
    return config


def _labels(given: Mapping[str, Given]) -> dict[str, str]:
    return {name: one.label for name, one in given.items()}


def _read(given: Mapping[str, Given], *, command: Command | None = None) -> Config:
    values: dict[str, Any] = {}
    for name, one in given.items():
        text = one.text.strip()
        if text:
            values[_BY_NAME[name].attribute] = _value(_BY_NAME[name], text, label=one.label)
    if command is not None:
        values["command"] = command
    return Config(**values)


def _value(one: Input, text: str, *, label: str) -> object:
    try:
        return one.syntax.parse(text)
    except Refusal as refusal:
        shown = _shown(None if one.secret else refusal.text)
        raise ConfigError(f"{label}: {shown} {refusal.problem}", hint=refusal.hint) from None


_CREDENTIALS = re.compile(r"[:/]\S*@|gh[a-z]_\w|github_pat_|glpat-|AKIA|ATBB|PRIVATE KEY")


def _shown(text: str | None) -> str:
    # A value in the wrong place may well be a secret.
    if text is None or _CREDENTIALS.search(text):
        return "the value (not shown)"
    return repr(text if len(text) <= 100 else f"{text[:97]}...")


def _check_together(config: Config, labels: Mapping[str, str]) -> None:
    if config.destination is not None and config.bucket is not None:
        raise ConfigError(
            f"{labels['bucket']} and {labels['destination']} exclude each other: give one of them"
        )
    if config.token is not None and config.app_id is not None:
        raise ConfigError(
            f"{labels['token']} and {labels['app-id']} exclude each other: give one of them"
        )
    for first, second in (
        ("prefix", "bucket"),
        ("app-id", "app-private-key"),
        ("app-private-key", "app-id"),
        ("oauth-key", "oauth-secret"),
        ("oauth-secret", "oauth-key"),
        ("object-lock-mode", "object-lock-days"),
        ("object-lock-days", "object-lock-mode"),
    ):
        if _is_set(config, first) and not _is_set(config, second):
            raise ConfigError(f"{labels[first]} needs {labels[second]} too")


def _is_set(config: Config, name: str) -> bool:
    return getattr(config, _BY_NAME[name].attribute) is not None


def _check_available(config: Config, given: Mapping[str, Given]) -> None:
    for name, one in given.items():
        wanted = _BY_NAME[name]
        if not wanted.available and not _asks_for_nothing(wanted, one.text.strip()):
            raise NotYetAvailable(f"{one.label} is not available yet", hint="leave it out")
    if config.destination is not None and config.destination.folder is None:
        raise NotYetAvailable(
            f"{given['destination'].label}: {str(config.destination)!r} is not available yet",
            hint="what works is a folder",
        )
    for source in config.sources:
        if source.path is None:
            raise NotYetAvailable(
                f"{given['from'].label}: {str(source)!r} is not available yet",
                hint="what works is a folder of repositories, and git:PATH",
            )


def _asks_for_nothing(one: Input, text: str) -> bool:
    if not text:
        return True
    return text in one.off or bool(one.syntax.parse(text) == one.syntax.parse(one.default))


def _check_complete(config: Config, labels: Mapping[str, str]) -> None:
    command = config.command
    if command in _SOURCE_COMMANDS and not config.sources:
        _refuse_missing("from", command, labels, what="a folder of repositories, or git:PATH")
    if config.destination is None:
        what = "the folder to back up to" if command in _WRITING else "the folder of a vault"
        _refuse_missing("destination", command, labels, what=what)
    if command in _READING and not config.folder.exists():
        raise ConfigError(
            f"{labels['destination']}: {str(config.destination)!r} does not exist: "
            "give the folder of a vault"
        )


def _refuse_missing(
    name: str, command: Command, labels: Mapping[str, str], *, what: str
) -> NoReturn:
    raise ConfigError(
        f"{labels[name]} is missing: give {what}",
        hint=f"repo-backup {command} --help shows an example",
    )


def _check_plain_sources(config: Config, labels: Mapping[str, str]) -> None:
    """Refuse sources that the vault could not keep apart, from itself and from each other."""
    if len(config.owner) > 1:
        raise ConfigError(f"{labels['owner']}: give one name; folders and git:PATH share it")
    places: dict[tuple[Provider, str], SourceSpec] = {}
    for source in config.sources:
        _check_apart(config, source, labels)
        owner = config.owner_of(source)
        if not owner:
            raise ConfigError(
                f"{labels['from']}: {str(source)!r} gives no name for the owner: "
                f"name it with {labels['owner']}"
            )
        other = places.setdefault((source.provider, owner), source)
        if other is not source and source.provider == "folder":
            raise ConfigError(
                f"{labels['from']}: {str(other)!r} and {str(source)!r} are both {owner!r} in the "
                "vault",
                hint=f"back them up in two runs, and name one with {labels['owner']}",
            )


def _check_apart(config: Config, source: SourceSpec, labels: Mapping[str, str]) -> None:
    # The walk of a source would find the vault, and a vault may hold nothing but its own objects.
    if source.path is None:
        return
    vault, place = config.folder.resolve(), source.path.resolve()
    if not (vault.is_relative_to(place) or place.is_relative_to(vault)):
        return
    relation = "is" if vault == place else "lies in" if vault.is_relative_to(place) else "holds"
    raise ConfigError(
        f"{labels['destination']}: {str(config.destination)!r} {relation} "
        f"the source {str(source)!r}: give a folder apart from it"
    )


def _check_owners_of_forge(config: Config) -> None:
    pattern = _OWNER_PATTERNS.get(config.provider)
    for name in config.owner:
        if pattern is not None and re.fullmatch(pattern, name, re.ASCII) is None:
            raise ConfigError(f"owner: {_shown(name)} is no owner's name at {config.provider}")
