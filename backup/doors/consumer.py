"""The OAuth consumer of Bitbucket for people at a terminal: asked for, tried, and kept.

It is kept in a file that only its owner can read, by the server that it is for, and goes to no
other. Nothing else of ours reads that file, and no run in a workflow does.
"""

import getpass
import json
import os
import stat
import sys
import tempfile
import warnings
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from errno import ELOOP
from pathlib import Path
from typing import Any

from backup.answers import Odd, parsed, token
from backup.config import Config, goes_in_the_clear
from backup.errors import AuthenticationError, BackupError, ConfigError
from backup.secret import Secret

_KEY, _SECRET = "oauth-key", "oauth-secret"
_VARIABLES = "REPO_BACKUP_OAUTH_KEY and REPO_BACKUP_OAUTH_SECRET, or REPO_BACKUP_TOKEN"
_READ = "repository"
_AGAIN = "remove it, and log in again"
_MOST_BYTES = 1 << 20
_MORE_THAN_READ = (":write", ":admin", ":delete")


def with_consumer(config: Config) -> Config:
    """Add the consumer that a run needs and nobody gave: the one that is kept, or is typed now.

    Raises:
        ConfigError: there is none, and nobody to ask.
    """
    at_bitbucket = any(source.provider == "bitbucket" for source in config.sources)
    if not at_bitbucket or config.token is not None or config.oauth_key is not None:
        return config
    server_url = _server(config)
    found = kept(server_url)
    if found is None and not _is_terminal():
        raise ConfigError(
            f"there are no credentials for {server_url}: set {_VARIABLES}",
            hint="repo-backup login bitbucket keeps those of an OAuth consumer on this machine",
        )
    key, secret = found or ask()
    return replace(config, oauth_key=key, oauth_secret=secret)


def log_in(config: Config) -> tuple[Path, str]:
    """Take a consumer from the environment or the terminal, try it, and keep it.

    Returns:
        Where it is kept, and what the owner should know of it; empty as a rule.

    Raises:
        AuthenticationError: Bitbucket does not take it, or it cannot read; nothing is kept.
        ConfigError: it was not given, and there is nobody to ask.
    """
    from backup.sources.bitbucket import Consumer  # noqa: PLC0415 - a refusal waits for no library

    server_url = _server(config)
    if config.oauth_key is not None and config.oauth_secret is not None:
        key, secret = config.oauth_key, config.oauth_secret
    elif _is_terminal():
        key, secret = ask()
    else:
        raise ConfigError(
            "there is no terminal to ask on: set REPO_BACKUP_OAUTH_KEY and REPO_BACKUP_OAUTH_SECRET"
        )
    consumer = Consumer(key, secret, server_url=server_url)
    consumer.for_api()
    scopes = consumer.scopes
    if scopes and not any(scope.partition(":")[0] == _READ for scope in scopes):
        raise AuthenticationError(
            f"the consumer may not read repositories: its permissions are {', '.join(scopes)}",
            hint="tick Repositories: Read in its settings",
        )
    more = [scope for scope in scopes if scope.endswith(_MORE_THAN_READ)]
    advice = f"it may do more than a backup needs: {', '.join(more)}" if more else ""
    return keep(server_url, key, secret), advice


def _server(config: Config) -> str:
    for url in (config.forge_url("bitbucket"), config.api_url or ""):
        if goes_in_the_clear(url):
            raise ConfigError(
                f"{url!r} would send the consumer's secret in the clear: "
                "give the address with https://"
            )
    return config.forge_url("bitbucket")


def ask() -> tuple[str, Secret]:
    """Ask for key and secret on the terminal; what is typed is not shown.

    Raises:
        ConfigError: nothing was typed, or no key and secret, or the terminal would show it.
    """
    with warnings.catch_warnings():
        # It would go on, and show what is typed.
        warnings.simplefilter("error", getpass.GetPassWarning)
        try:
            key = getpass.getpass("Key of the OAuth consumer: ", stream=sys.stderr).strip()
            secret = getpass.getpass("Secret of the OAuth consumer: ", stream=sys.stderr).strip()
        except (EOFError, getpass.GetPassWarning) as error:
            raise ConfigError(f"the terminal cannot be asked: set {_VARIABLES}") from error
    if not key or not secret:
        raise ConfigError(
            "key and secret of the OAuth consumer are both needed",
            hint="they stand in the workspace's settings, under OAuth consumers",
        )
    return _require_sendable(key, secret, hint="type it as the workspace's settings have it")


def _require_sendable(key: str, secret: str, *, hint: str) -> tuple[str, Secret]:
    try:
        fields = {_KEY: key, _SECRET: secret}
        return token(fields, _KEY), Secret(token(fields, _SECRET))
    except Odd as error:
        raise ConfigError(
            f"the consumer's {error}: it is one line of ASCII characters without blanks", hint=hint
        ) from error


def kept(server_url: str) -> tuple[str, Secret] | None:
    """Read the consumer that is kept for a server; None where there is none.

    Raises:
        ConfigError: others can read the file, it is not ours, or what it has cannot be sent.
    """
    path = _place()
    one = None if path is None else (_read(path) or {}).get(server_url)
    if not isinstance(one, dict):
        return None
    key, secret = one.get(_KEY), one.get(_SECRET)
    if not (isinstance(key, str) and isinstance(secret, str) and key and secret):
        return None
    return _require_sendable(key, secret, hint=f"in {path}: {_AGAIN}")


def keep(server_url: str, key: str, secret: Secret) -> Path:
    """Keep a consumer, in place of one that was kept for the same server.

    Raises:
        BackupError: the file cannot be written.
    """
    path = _place()
    if path is None:
        raise ConfigError("there is no home folder to keep it in: set XDG_CONFIG_HOME")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        everything = {**(_read(path) or {}), server_url: {_KEY: key, _SECRET: secret.reveal()}}
        _write(path, json.dumps(everything, indent=2) + "\n")
    except OSError as error:
        raise BackupError(f"{path} cannot be written: {error.strerror}") from error
    return path


def _write(path: Path, text: str) -> None:
    # mkstemp's files are for their owner alone from the first moment on.
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        Path(name).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(name).unlink()
        raise


def _read(path: Path) -> Mapping[str, Any] | None:
    """Read what is kept; None where nothing is.

    Anyone who could put another file there could have a run send what they like: it must be a file
    of this user, that nobody else can read, and what is looked at is what is read.

    Raises:
        ConfigError: it is none.
    """
    try:
        # What is no file at all, such as a pipe, must not keep us waiting.
        handle = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        words = "is a symbolic link" if error.errno == ELOOP else "cannot be read"
        raise ConfigError(f"{path} {words}", hint=_AGAIN) from error
    try:
        about = os.fstat(handle)
        if not stat.S_ISREG(about.st_mode):
            raise ConfigError(f"{path} is no regular file", hint=_AGAIN)
        if about.st_uid != os.geteuid():
            raise ConfigError(f"{path} belongs to another user", hint=_AGAIN)
        if stat.S_IMODE(about.st_mode) & 0o077:
            raise ConfigError(
                f"{path} can be read by others", hint=f"chmod 600 {path}, and make a new secret"
            )
        found = parsed(os.read(handle, _MOST_BYTES))
    except (OSError, ValueError):
        found = None
    finally:
        os.close(handle)
    if not isinstance(found, dict):
        raise ConfigError(f"{path} is not what login wrote", hint=_AGAIN)
    return found


def _place() -> Path | None:
    above = os.environ.get("XDG_CONFIG_HOME")
    try:
        folder = Path(above) if above else Path.home() / ".config"
    except RuntimeError:
        return None
    return folder / "repo-backup" / "credentials.json"


def _is_terminal() -> bool:
    return sys.stdin.isatty() and sys.stderr.isatty()
