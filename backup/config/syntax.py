"""How texts become values: what each kind of input accepts, and how it is refused.

Nothing here reads the environment; the file system is asked only whether a folder that was named
is there.
"""

import calendar
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Generic, Literal, TypeVar
from urllib.parse import SplitResult, unquote, urlsplit

from backup.config.names import METADATA_KINDS, Forge, Provider
from backup.secret import Secret

T = TypeVar("T")


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
    def is_forge(self) -> bool:
        """Whether it names an owner at a forge, and not a place."""
        return self.path is None and not self.url

    @property
    def url(self) -> str:
        """Where a single repository lies on a server; empty for everything else."""
        return self.value if self.provider == "git" and self.path is None else ""

    @property
    def default_owner(self) -> str:
        """The owner's name where none is given; empty when the place gives no usable name."""
        if self.path is None:
            name = _folder_of_url(self.url) if self.url else ""
        else:
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

    def __str__(self) -> str:
        return f"{self.count}{self.unit[0]}"

    def before(self, moment: datetime) -> datetime:
        """Go so far back; a day that its month has not is that month's last one."""
        if self.unit in {"days", "weeks"}:
            days = self.count * (7 if self.unit == "weeks" else 1)
            return moment - timedelta(days=days)
        months = moment.year * 12 + moment.month - 1
        months -= self.count * (12 if self.unit == "years" else 1)
        year, month = max(1, months // 12), months % 12 + 1
        last = calendar.monthrange(year, month)[1]
        return moment.replace(year=year, month=month, day=min(moment.day, last))


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


def choice(names: tuple[T, ...], *, metavar: str = "") -> Syntax[T]:
    """Accept one of the names, in their letter case; a line of help has them all by default."""
    by_text = {str(name): name for name in names}

    def read(text: str) -> T:
        if text not in by_text:
            raise ValueError
        return by_text[text]

    return Syntax(metavar or "|".join(by_text), either(*by_text), read)


def whole(low: int, high: int, *, metavar: str = "N") -> Syntax[int]:
    """Accept whole numbers of a range, in plain digits."""

    def read(text: str) -> int:
        number = int(_matched("[0-9]{1,16}", text))
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


def secret(
    pattern: str, *, accepts: str, before: Callable[[str], str] = lambda text: text
) -> Syntax[Secret]:
    """Accept texts that match the pattern, and hide them.

    Args:
        pattern: of the whole text.
        accepts: goes on after "give".
        before: makes of a text what is matched and taken.
    """
    return Syntax("SECRET", accepts, lambda text: Secret(_matched(pattern, before(text))))


def url(schemes: tuple[str, ...], *, accepts: str) -> Syntax[str]:
    """Accept a URL with a host, without credentials."""
    return Syntax("URL", accepts, lambda text: _read_url(text, schemes).geturl())


def either(*names: str) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} or {names[-1]}"


def _break_lines(text: str) -> str:
    """Put line breaks for the backslash and n that stores of secrets have in their place."""
    return text if "\n" in text.strip() else text.replace("\\n", "\n")


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

_FILE_OF_URLS = "git:@"
_SOURCES = "github:OWNER, gitlab:GROUP, bitbucket:WORKSPACE, git:URL or a folder of repositories"
OWNER_PATTERNS: Mapping[Forge, str] = {
    "github": "[A-Za-z0-9][A-Za-z0-9_-]{0,99}",
    "gitlab": "[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*",
    "bitbucket": "[A-Za-z0-9_-]{1,62}",
}
# git's own scp-like form. One letter before the colon is a drive of Windows, two colons are a
# remote helper, which would run a program.
_SCP_LIKE = r"([A-Za-z0-9_][A-Za-z0-9._-]*@)?[A-Za-z0-9][A-Za-z0-9.-]+:[^:\s]\S*"


def _has_scheme(text: str) -> bool:
    return ":" in text.split("/", maxsplit=1)[0]


def _folder_of_url(url: str) -> str:
    """Name the folder around a repository on a server: the last but one part, or the host."""
    if "://" in url:
        parts = urlsplit(url)
        host, path = parts.hostname or "", unquote(parts.path)
    else:
        before, _, path = url.partition(":")
        host = before.rpartition("@")[2]
    above = [part for part in path.split("/") if part][:-1]
    return above[-1] if above else host


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


def _read_sources(text: str) -> tuple[SourceSpec, ...]:
    items = [item for line in text.split("\n") if (item := line.strip())]
    named = (one for item in items for one in _named_by(item))
    return tuple(dict.fromkeys(map(_read_source, named)))


def _named_by(item: str) -> Iterator[str]:
    """Yield the sources that one word names: itself, or those of a file of URLs and paths."""
    if not item.startswith(_FILE_OF_URLS):
        yield item
        return
    try:
        text = _absolute(item.removeprefix(_FILE_OF_URLS)).read_text("utf-8")
    except OSError as error:
        why = f"cannot be read ({error.strerror}): give a file of URLs, one a line"
        raise Refusal(item, why) from error
    except UnicodeDecodeError as error:
        raise Refusal(item, "is no text: give a file of URLs, one a line") from error
    lines = [line.strip() for line in text.splitlines()]
    places = [line for line in lines if line and not line.startswith("#")]
    if not places:
        raise Refusal(item, "names no repository: give a file of URLs, one a line")
    # As they stand in the file, or as --from takes them.
    yield from (f"git:{place.removeprefix('git:')}" for place in places)


def _read_source(text: str) -> SourceSpec:
    for provider in OWNER_PATTERNS:
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
    if re.fullmatch(OWNER_PATTERNS[provider], owner, re.ASCII) is None:
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


def _push_url(text: str) -> str:
    if "://" in text:
        return _remote_url(text)
    if re.fullmatch(_SCP_LIKE, text, re.ASCII) is not None:
        return text
    what = "https://HOST/PATH, ssh://USER@HOST/PATH, or a repository of this machine"
    return os.fspath(_existing_folder(text, text, what=what))


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
        raise Refusal(
            text,
            "names no bucket and prefix: give s3://BUCKET/PREFIX, the bucket's name with 3 to 63 "
            "lower-case letters, digits, dots and dashes",
        ) from error


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
SOURCES = Syntax("SOURCE", f"{_SOURCES}, one a line", _read_sources, joined_by="\n")
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
    before=_break_lines,
)
HEARTBEAT_URL = Syntax(
    "SECRET",
    "a URL that begins with https://",
    lambda text: Secret(_read_url(text, ("https",)).geturl()),
)
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
PUSH_URL = Syntax(
    "URL", "a repository's URL (https://, ssh:// or USER@HOST:PATH), or its path", _push_url
)
