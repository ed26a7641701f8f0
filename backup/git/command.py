"""The git program, run in a clean environment.

No configuration of the user or the machine is read, nothing may prompt, no transport may be used
unless a caller allows it, and replacement refs are ignored: what git does depends on its arguments
and on the one repository it is pointed at.
"""

import os
import re
import signal
import subprocess
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from backup.errors import (
    ConfigError,
    MachineLimitReached,
    ProtocolError,
    RepositoryUnavailable,
)
from backup.git.child import Child
from backup.machine import limit_in, limit_named, limit_reached
from backup.model import ObjectFormat
from backup.stopping import Stop

OLDEST_GIT = (2, 38)
PATIENCE_SECONDS = 3600.0
_NEWER_FORMAT = re.compile(
    r"Expected git repo version <= \d+, found (\d+)"
    r"|unknown repository extensions? found:;? ([\w-]+(?:; [\w-]+(?![\w: -]))*)"
    r"|invalid value for 'extensions\.([\w-]+)': '([^']{0,80})'"
)


# What git and its C library say of the disk and of rights, whatever the data are.
_FULL = ("No space left on device", "Disk quota exceeded", "File too large", "unable to write")
_HINDERED = (
    *_FULL,
    *("Input/output error", "Read-only file system"),
    *("Permission denied", "Operation not permitted"),
)


class GitFailed(ProtocolError):
    """A git command ended with an error; its words are the message."""


class GitHindered(GitFailed):
    """The machine kept git from its work, which says nothing of the data."""


def clean_environment(
    *, safe_directories: Sequence[Path] = (), settings: Sequence[tuple[str, str]] = ()
) -> dict[str, str]:
    """Build all of a git child's environment.

    Args:
        settings: configuration that stands above the repository's own.
        safe_directories: repositories of other users that may be read all the same, exactly these
            (git refuses them otherwise; git-config(1), ``safe.directory``).
    """
    # The one variable that comes from outside: where programs are.
    environment = {
        "PATH": os.environ.get("PATH", os.defpath),
        "HOME": os.devnull,
        "LC_ALL": "C",
        "TZ": "UTC",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_ATTR_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_ASKPASS": "true",
        "GIT_NO_REPLACE_OBJECTS": "1",
        # Grafts would pretend another history than the objects have.
        "GIT_GRAFT_FILE": os.devnull,
        "GIT_NO_LAZY_FETCH": "1",
        "GIT_ALLOW_PROTOCOL": "none",
        "GIT_DEFAULT_REF_FORMAT": "files",
        "GIT_OPTIONAL_LOCKS": "0",
    }
    # git speaks of the graft file above; its words are for errors.
    quiet = [("advice.graftFileDeprecated", "false")]
    safe = [("safe.directory", os.fspath(directory)) for directory in safe_directories]
    # Source: git-config(1), GIT_CONFIG_COUNT.
    environment["GIT_CONFIG_COUNT"] = str(len(quiet) + len(safe) + len(settings))
    for number, (name, value) in enumerate([*quiet, *safe, *settings]):
        environment[f"GIT_CONFIG_KEY_{number}"] = name
        environment[f"GIT_CONFIG_VALUE_{number}"] = value
    return environment


def run_git(
    *arguments: str | os.PathLike[str],
    directory: Path,
    stop: Stop,
    data: bytes = b"",
    environment: Mapping[str, str] | None = None,
    most_bytes: int | None = None,
) -> bytes:
    """Run one git command inside a repository of ours and return its stdout.

    Raises:
        AnswerTooLarge: its stdout has more than most_bytes.
        GitFailed: it ended with an error.
    """
    argv = ["git", "-C", directory, *arguments]
    environment = environment or clean_environment(safe_directories=[directory])
    with Child(
        argv, environment=environment, stop=stop, patience_seconds=PATIENCE_SECONDS
    ) as child:
        status, output = child.converse(data, most_bytes=most_bytes)
        if status != 0:
            name = os.fspath(arguments[0])
            require_unhindered(name, status, child.words())
            raise GitFailed(f"git {name} failed: {child.words() or f'exit status {status}'}")
        return output


def require_unhindered(name: str, status: int, words: str) -> None:
    """Require that git failed for what it was given, and not for the machine that it ran on.

    Args:
        name: of the git command.
        status: that it ended with; negative for a signal, as `subprocess` has it.
        words: that it said.

    Raises:
        MachineLimitReached: it names a limit, or the system killed it, as it does for memory.
        GitHindered: another signal ended it, or it names the disk or a right that it lacks.
    """
    if status < 0:
        ended = signal.Signals(-status).name
        if -status == signal.SIGKILL:
            raise MachineLimitReached(
                f"git {name} was ended by {ended}",
                hint="something on this machine ended it, as a rule for want of memory: give it "
                "more, or a smaller --concurrency",
            )
        if -status == signal.SIGXFSZ:
            raise GitHindered(f"git {name} was ended by {ended}: File too large")
        raise GitHindered(f"git {name} was ended by {ended}")
    if limit := limit_in(words):
        raise limit_named(limit, f"git {name} failed: {words}")
    if any(reason in words for reason in _HINDERED):
        raise GitHindered(f"git {name} failed: {words}")


def make_bare_repository(directory: Path, *, object_format: ObjectFormat, stop: Stop) -> None:
    """Make an empty bare repository at a path that does not exist or is an empty folder."""
    directory.mkdir(parents=True, exist_ok=True)
    run_git(
        "init",
        "--quiet",
        "--bare",
        "--template=",
        f"--object-format={object_format}",
        directory=directory,
        stop=stop,
    )


def require_git() -> None:
    """Require that a git that is new enough can be run.

    Raises:
        ConfigError: there is none.
        MachineLimitReached: it cannot be started now.
    """
    wanted = ".".join(map(str, OLDEST_GIT))
    try:
        answer = git_version()
    except (OSError, subprocess.SubprocessError) as error:
        if limit := limit_reached(error, starts_process=True):
            raise limit from error
        raise ConfigError(
            "the git program cannot be run", hint=f"install git {wanted} or newer"
        ) from error
    found = re.search(r"(\d+)\.(\d+)", answer)
    if found is None or (int(found[1]), int(found[2])) < OLDEST_GIT:
        raise ConfigError(f"git {wanted} or newer is needed, found {answer!r}")


def git_version() -> str:
    """Return what git calls itself, such as ``git version 2.39.5``; raises as `subprocess` does."""
    done = subprocess.run(
        ["git", "--version"],  # noqa: S607  found on PATH, as every git of ours
        capture_output=True,
        check=True,
        env=clean_environment(),
        timeout=60,
    )
    return done.stdout.decode("utf-8", "replace").strip()


def newer_format(where: str, words: str, *, reader: str = "") -> RepositoryUnavailable | None:
    """Build the error for a repository in a format that git does not read, by what git says of it.

    Source: git's setup.c, verify_repository_format and handle_extension.

    Args:
        where: the repository, as messages have it.
        words: that git said.
        reader: which git it was; empty for the installed one.

    Returns:
        The error that says so; None where the words are about something else.
    """
    found = _NEWER_FORMAT.search(words)
    if found is None:
        return None
    with suppress(OSError, subprocess.SubprocessError):
        reader = reader or git_version()
    version, names, name, value = found.groups()
    what = f"extensions.{name} = {value}" if name else f"core.repositoryformatversion = {version}"
    if names:
        what = ", ".join(f"extensions.{one}" for one in names.split("; "))
    hint = "have it read by a newer git, one that knows what is named here"
    if "refstorage" in what:
        hint = "have it read by a newer git; refs in reftable need git 2.45"
    return RepositoryUnavailable(
        f"{where}: the repository is in a newer format than {reader or 'git'} reads ({what})",
        hint=hint,
    )


def is_disk_full(words: str) -> bool:
    """Tell whether git's words blame the disk rather than the data."""
    return any(reason in words for reason in _FULL)
