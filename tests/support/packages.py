"""Programs that tests need and a machine may lack: Debian's packages, installed when needed."""

import fcntl
import os
import shutil
import subprocess
import tempfile
from pathlib import Path


class PackagesMissing(AssertionError):
    """A program is not there, and could not be installed."""


def require(program: str, *packages: str) -> Path:
    """Find a program, after its packages were installed if it is missing.

    Raises:
        PackagesMissing: with what apt-get said. Nothing is skipped for want of a program.
    """
    path = os.pathsep.join((os.environ["PATH"], "/usr/sbin", "/usr/local/sbin"))
    # Several test processes may find it missing at once.
    with (Path(tempfile.gettempdir()) / "repo-backup-packages.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        found = shutil.which(program, path=path)
        if found is None:
            _install(packages)
            found = shutil.which(program, path=path)
    if found is None:
        raise PackagesMissing(f"{program} is in none of {', '.join(packages)}")
    return Path(found)


def _install(packages: tuple[str, ...]) -> None:
    environment = {
        "PATH": os.pathsep.join((os.environ["PATH"], "/usr/sbin", "/sbin")),
        "DEBIAN_FRONTEND": "noninteractive",
        "LC_ALL": "C",
        # No service may start by itself.
        "RUNLEVEL": "1",
    }
    for words in (
        ["update"],
        ["install", "--yes", "--no-install-recommends", *packages],
    ):
        done = subprocess.run(
            ["apt-get", "--quiet", *words], env=environment, capture_output=True, check=False
        )
        if done.returncode:
            said = (done.stdout + done.stderr).decode(errors="replace")
            raise PackagesMissing(f"apt-get {' '.join(words)} failed:\n{said}")
