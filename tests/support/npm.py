"""Packages of npm that tests and checks read, pinned by hash, and kept in the temporary folder."""

import base64
import fcntl
import hashlib
import subprocess
import tarfile
import tempfile
from pathlib import Path

from tests.support.packages import PackagesMissing, require


def npm_package(name: str, sha512: str, *, only: str = "") -> Path:
    """Give the folder of an unpacked package; fetched once a machine, nothing of it is run.

    Args:
        name: with its version.
        sha512: of the archive, in base64.
        only: the one file that is wanted of a large package; all when empty.

    Raises:
        PackagesMissing: it could not be had, or is not the one that was pinned.
    """
    folder = Path(tempfile.gettempdir()) / "repo-backup-npm"
    folder.mkdir(exist_ok=True)
    # A name for each content: another version is another folder.
    target = folder / hashlib.sha256(f"{sha512} {only}".encode()).hexdigest()[:32]
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not target.exists():
            _fetch(name, sha512, target, only=only)
    return target / "package"


def _fetch(name: str, sha512: str, target: Path, *, only: str) -> None:
    with tempfile.TemporaryDirectory(dir=target.parent) as made:
        folder = Path(made)
        npm = require("npm", "npm")
        words = [str(npm), "pack", "--silent", "--cache", str(folder / "cache")]
        words += ["--pack-destination", made, name]
        done = subprocess.run(words, capture_output=True, check=False, cwd=folder)
        archives = list(folder.glob("*.tgz"))
        if done.returncode or not archives:
            raise PackagesMissing(f"npm pack {name}: {done.stderr.decode(errors='replace')}")
        found = base64.b64encode(hashlib.sha512(archives[0].read_bytes()).digest()).decode()
        if found != sha512:
            raise PackagesMissing(f"{name} has another SHA-512: {found}")
        unpacked = folder / "unpacked"
        with tarfile.open(archives[0]) as archive:
            members = [f"package/{only}"] if only else archive.getnames()
            for member in members:
                archive.extract(member, unpacked, filter="data")
        unpacked.rename(target)
