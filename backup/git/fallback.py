"""Repositories whose server has no protocol version 2: a mirror in the temporary folder.

The mirror is then read like any repository on this machine. It costs the whole repository in
transfer and disk each time, and its captures are fulls (said so in the record).
"""

import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from backup.git.check import Disk
from backup.git.command import clean_environment, run_git
from backup.stopping import Stop

_STALLED_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Reach:
    """What git needs to reach a repository, beside its URL.

    Attributes:
        protocol: the one that is allowed: ``file``, ``http``, ``https`` or ``ssh``.
        safe: paths by which git may know a repository of another user, which is read all the same.
        settings: git's configuration; passed by the environment, where a secret is seen by this
            user's processes alone.
        variables: of the environment.
    """

    protocol: str
    safe: Sequence[Path] = ()
    settings: Sequence[tuple[str, str]] = ()
    variables: Mapping[str, str] = field(default_factory=dict)


@contextmanager
def mirrored(clone_url: str, *, reach: Reach, disk: Disk, stop: Stop) -> Iterator[Path]:
    """Make a mirror and remove it afterwards.

    Raises:
        GitFailed: git could not make it.
    """
    folder = Path(tempfile.mkdtemp(prefix="mirror-", dir=disk.folder))
    mirror = folder / "mirror.git"
    environment = clean_environment(
        safe_directories=[*reach.safe, mirror],
        settings=[
            ("http.followRedirects", "false"),
            ("http.lowSpeedLimit", "1"),
            ("http.lowSpeedTime", str(_STALLED_SECONDS)),
            *reach.settings,
        ],
    )
    environment["GIT_ALLOW_PROTOCOL"] = reach.protocol
    environment |= reach.variables
    try:
        run_git(
            "clone",
            "--quiet",
            "--mirror",
            # A path is read through upload-pack, not copied.
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
