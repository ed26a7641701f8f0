"""A real sshd on loopback that lets one key read the repositories below a folder, or write."""

import os
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.support.packages import require
from tests.support.ports import free_port

_START_SECONDS = 20

# What a forge does: this key may do with a repository what it was given for, and nothing else.
_FORCED = """#!/bin/sh
case "$SSH_ORIGINAL_COMMAND" in
"git-upload-pack '/"*) ;;
{writing}
{lfs}
*) echo "only reading is allowed, not: $SSH_ORIGINAL_COMMAND" >&2; exit 1 ;;
esac
path=${{SSH_ORIGINAL_COMMAND#*\\'/}}
path=${{path%\\'}}
export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=safe.directory GIT_CONFIG_VALUE_0='*'
exec "${{SSH_ORIGINAL_COMMAND%% *}}" "{root}/$path"
"""

_CONFIG = """
ListenAddress 127.0.0.1
Port {port}
HostKey "{folder}/hostkey"
PidFile none
AuthorizedKeysFile "{folder}/authorized_keys"
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin forced-commands-only
StrictModes no
UsePAM no
{accept}
"""


@dataclass(frozen=True, slots=True)
class SshServer:
    """A running sshd.

    Attributes:
        url: what comes before ``/acme/widgets.git``.
        key_file: the private key that it knows.
        other_key_file: one that it does not.
    """

    url: str
    key_file: Path
    other_key_file: Path
    known_hosts_file: Path
    log_file: Path


@contextmanager
def ssh_server(
    root: Path, folder: Path, *, protocol: int = 2, writes: bool = False, lfs: Path | None = None
) -> Iterator[SshServer]:
    """Run sshd.

    Args:
        root: where the repositories are.
        folder: for its keys and logs.
        protocol: 0 for a server that does not pass on which protocol is asked for, as sshd does
            unless it is told to.
        writes: let the key push, too.
        lfs: a file with what the server says of its files of Git LFS; None where it has none.
    """
    sshd = require("sshd", "openssh-server")
    # It insists on this folder.
    Path("/run/sshd").mkdir(exist_ok=True)
    folder.mkdir(parents=True)
    folder.chmod(0o700)
    for name in ("hostkey", "key", "other key"):
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", os.fspath(folder / name)]
        subprocess.run(words, check=True, stdin=subprocess.DEVNULL)
    forced = folder / "forced"
    writing = '"git-receive-pack \'/"*) ;;' if writes else ""
    known = f'"git-lfs-authenticate \'/"*) cat "{lfs}"; exit ;;' if lfs else ""
    forced.write_text(_FORCED.format(root=root, writing=writing, lfs=known))
    forced.chmod(0o755)
    public = (folder / "key.pub").read_text()
    (folder / "authorized_keys").write_text(f"restrict,command=\"'{forced}'\" {public}")
    (folder / "authorized_keys").chmod(0o600)
    port = free_port()
    accept = "AcceptEnv GIT_PROTOCOL" if protocol == 2 else ""
    config = folder / "sshd_config"
    config.write_text(_CONFIG.format(port=port, folder=folder, accept=accept))
    host_key = " ".join((folder / "hostkey.pub").read_text().split()[:2])
    known_hosts = folder / "known hosts"
    known_hosts.write_text(f"[127.0.0.1]:{port} {host_key}\n")
    log_file = folder / "sshd.log"
    with subprocess.Popen([sshd, "-D", "-f", config, "-E", log_file]) as process:
        try:
            _wait_until_it_listens(port, process, log_file)
            yield SshServer(
                f"ssh://{_user()}@127.0.0.1:{port}",
                folder / "key",
                folder / "other key",
                known_hosts,
                log_file,
            )
        finally:
            process.terminate()


def _user() -> str:
    return Path("/proc/self").owner() if os.getuid() else "root"


def _wait_until_it_listens(port: int, process: "subprocess.Popen[bytes]", log_file: Path) -> None:
    end = time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < end:
        with socket.socket() as client:
            if client.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.02)
    raise AssertionError(f"sshd did not start: {log_file.read_text()}")
