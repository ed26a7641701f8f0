"""Repositories whose server has no protocol version 2: a mirror in the temporary folder.

The mirror is then read like any repository on this machine. It costs the whole repository in
transfer and disk each time, and its captures are fulls (said so in the record).
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from backup.git.check import Disk
from backup.git.command import clean_environment, run_git
from backup.stopping import Stop


@contextmanager
def mirrored(clone_url: str, *, safe: list[Path], disk: Disk, stop: Stop) -> Iterator[Path]:
    """Make a mirror and remove it afterwards.

    Raises:
        GitFailed: git could not make it.
    """
    folder = Path(tempfile.mkdtemp(prefix="mirror-", dir=disk.folder))
    mirror = folder / "mirror.git"
    environment = clean_environment(safe_directories=[*safe, mirror])
    # A path is read through upload-pack, not copied: --no-local.
    environment["GIT_ALLOW_PROTOCOL"] = "file"
    try:
        run_git(
            "clone",
            "--quiet",
            "--mirror",
            "--no-local",
            "--template=",
            "--",
            clone_url,
            os.fspath(mirror),
            directory=folder,
            stop=stop,
            environment=environment,
        )
        yield mirror
    finally:
        shutil.rmtree(folder, ignore_errors=True)
