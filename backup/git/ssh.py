"""upload-pack at the other end of ssh: the same conversation, another child process.

The user's own ssh configuration is not read: what happens depends on the URL, the key and the
known hosts alone. A server whose key is not known is refused, and nothing ever asks a person.
Source: gitprotocol-pack(5), "SSH Transport"; ssh_config(5).
"""

import os
import re
import shlex
from pathlib import Path
from typing import Literal
from urllib.parse import unquote, urlsplit

from backup import limits
from backup.errors import (
    AnswerTooLarge,
    AuthenticationError,
    BackupError,
    HostUnreachable,
    ProtocolError,
    RepositoryMissing,
    SourceError,
)
from backup.git.child import Child
from backup.git.command import PATIENCE_SECONDS, clean_environment, newer_format
from backup.git.rate import LeastRate
from backup.git.transport import ProcessTransport
from backup.stopping import Stop

_PORT = 22
_CONNECT_SECONDS = 30
_ALIVE_SECONDS = 30
_ALIVE_TIMES = 10
_SCP_LIKE = re.compile(r"(?P<host>[^/:]+):(?P<path>[^:].*)", re.DOTALL)


def is_ssh(url: str) -> bool:
    """Tell whether git would reach a URL over ssh: ssh://..., or host:path."""
    return urlsplit(url).scheme == "ssh" if "://" in url else _SCP_LIKE.fullmatch(url) is not None


def server_of(url: str) -> str:
    """Return the host and port that a URL of ssh leads to, whoever is signed in there."""
    host, port, _ = _place(url)
    return f"ssh://{host.rpartition('@')[2].lower()}:{port or _PORT}"


def ssh_command(*, key_file: Path | None, known_hosts: Path | None) -> list[str]:
    """Give ssh and its options, up to the host."""
    options = {
        "BatchMode": "yes",
        "StrictHostKeyChecking": "yes",
        "ConnectTimeout": str(_CONNECT_SECONDS),
        "ServerAliveInterval": str(_ALIVE_SECONDS),
        "ServerAliveCountMax": str(_ALIVE_TIMES),
        "SendEnv": "GIT_PROTOCOL",
        "ForwardAgent": "no",
    }
    if known_hosts is not None:
        options["UserKnownHostsFile"] = _option_path(known_hosts)
    if key_file is not None:
        options |= {"IdentityFile": _option_path(key_file), "IdentitiesOnly": "yes"}
    words = [word for name, value in options.items() for word in ("-o", f"{name}={value}")]
    return ["ssh", "-F", os.devnull, *words]


def command_line(*, key_file: Path | None, known_hosts: Path | None) -> str:
    """Give the ssh command as git takes it in GIT_SSH_COMMAND."""
    return shlex.join(ssh_command(key_file=key_file, known_hosts=known_hosts))


def open_ssh(
    url: str, *, key_file: Path | None, known_hosts: Path | None, agent: str, stop: Stop
) -> "SshTransport":
    """Reach a repository over ssh.

    Args:
        url: `is_ssh` is true of it.
        key_file: the private key; None for the agent's, and those that ssh finds by itself.
        known_hosts: the servers' keys; None for the user's and the machine's list.
        agent: the agent's socket; empty when there is none.
        stop: looked at while waiting.
    """
    ssh = ssh_command(key_file=key_file, known_hosts=known_hosts)
    argv = _at_host(ssh, url, "git-upload-pack {path}")
    environment = _with_agent(agent) | {"GIT_PROTOCOL": "version=2"}
    return SshTransport(argv, url=url, environment=environment, stop=stop)


def ask_for_lfs(
    url: str,
    *,
    operation: Literal["download", "upload"],
    key_file: Path | None,
    known_hosts: Path | None,
    agent: str,
    stop: Stop,
) -> bytes:
    """Ask a server where the files of Git LFS of a repository are; give its answer, some JSON.

    Source: git-lfs, docs/api/server-discovery.md, "SSH".

    Args:
        url: `is_ssh` is true of it.
        operation: what is to be done there.
        key_file: as for `open_ssh`.
        known_hosts: as for `open_ssh`.
        agent: as for `open_ssh`.
        stop: looked at while waiting.

    Raises:
        BackupError: the server cannot be reached, or does not know.
    """
    ssh = ssh_command(key_file=key_file, known_hosts=known_hosts)
    argv = _at_host(ssh, url, f"git-lfs-authenticate {{path}} {operation}")
    with Child(
        argv,
        environment=_with_agent(agent),
        stop=stop,
        patience_seconds=PATIENCE_SECONDS,
    ) as child:
        child.close_stdin()
        answer, rate = b"", LeastRate(url, window_seconds=2 * PATIENCE_SECONDS)
        rate.limit(limits.MOST_API_SECONDS)
        while data := rate.note(lambda: child.read(limits.MOST_LFS_SSH_BYTES)):
            answer += data
            if len(answer) > limits.MOST_LFS_SSH_BYTES:
                raise AnswerTooLarge(
                    f"{url}: git-lfs-authenticate says more than {limits.MOST_LFS_SSH_BYTES} bytes"
                )
        if child.wait() == 0:
            return answer
        words = child.words()
    raise ssh_error(url, words) or SourceError(
        f"{url}: the server does not tell where its files of Git LFS are ({words})"
    )


class SshTransport(ProcessTransport):
    """A conversation over ssh, whose failures have names."""

    def __init__(
        self,
        argv: list[str | os.PathLike[str]],
        *,
        url: str,
        environment: dict[str, str],
        stop: Stop,
    ) -> None:
        super().__init__(argv, environment=environment, stop=stop, named=url)
        self._url = url

    def explain(self, error: ProtocolError) -> BackupError:
        """Name what ssh or the other side said on stderr, where it is a failure of its own."""
        explained = super().explain(error)
        return ssh_error(self._url, explained.message) or explained


def ssh_error(url: str, words: str) -> BackupError | None:
    """Tell from ssh's words what went wrong; None when they are about something else."""
    if (error := newer_format(url, words, reader="the server's git")) is not None:
        return error
    said = words.casefold()
    if "host key verification failed" in said or "host identification has changed" in said:
        return SourceError(
            f"{url}: the server's key is not among the known hosts ({words})",
            hint="put its line into --ssh-known-hosts-file, after you have compared the key with "
            "what the server's owner publishes",
        )
    if "permission denied" in said or "too many authentication failures" in said:
        return AuthenticationError(
            f"{url}: the server does not accept the key ({words})",
            hint="name the right one with --ssh-key-file; it must have no passphrase",
        )
    missing = ("does not appear to be a git repository", "repository not found", "does not exist")
    if any(one in said for one in missing):
        return RepositoryMissing(f"{url}: not there, or not visible to this key ({words})")
    unreached = (
        "could not resolve hostname",
        "connection refused",
        "connection timed out",
        "operation timed out",
        "connection reset",
        "connection closed by",
        "no route to host",
        "network is unreachable",
    )
    if any(one in said for one in unreached):
        return HostUnreachable(f"{url}: cannot be reached ({words})")
    return None


def _at_host(ssh: list[str], url: str, command: str) -> list[str | os.PathLike[str]]:
    """Give the words that run a command about a repository at its host, its path put in."""
    host, port, path = _place(url)
    # The other side is a shell, or a program that takes the words apart as one does.
    there = command.format(path=_quoted(path))
    return [*ssh, *([] if port is None else ["-p", str(port)]), "--", host, there]


def _with_agent(agent: str) -> dict[str, str]:
    return clean_environment() | ({"SSH_AUTH_SOCK": agent} if agent else {})


def _place(url: str) -> tuple[str, int | None, str]:
    """Take a URL apart: user and host, port, path as git passes it on."""
    if "://" not in url:
        host, _, path = url.partition(":")
        return host, None, path
    parts = urlsplit(url)
    host = (parts.hostname or "").strip("[]")
    if parts.username:
        host = f"{unquote(parts.username)}@{host}"
    path = unquote(parts.path)
    # ssh://host/~user/path is a path of the user's home (git-fetch(1), "Git URLs").
    return host, parts.port, path[1:] if path.startswith("/~") else path


def _quoted(path: str) -> str:
    # Source: git's quote.c, sq_quote_buf: also ! is taken out of the quotes.
    return "'" + path.replace("'", "'\\''").replace("!", "'\\!'") + "'"


def _option_path(path: Path) -> str:
    """Write a path as ssh_config(5) takes it: quoted, and with no token to expand."""
    return '"' + os.fspath(path).replace("%", "%%") + '"'
