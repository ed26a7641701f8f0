"""Repositories whose server has no protocol version 2: a mirror in the temporary folder.

The mirror is then read like any repository on this machine. It costs the whole repository in
transfer and disk each time, and its captures are fulls (said so in the record).
"""

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from uuid import uuid4

from backup.errors import TemporaryFolderError
from backup.git.check import Disk
from backup.git.command import GitFailed, clean_environment, is_disk_full, run_git
from backup.git.work import ANOTHER_FOLDER, Kept
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
        TemporaryFolderError: there is no place for it, or there is none any more.
    """
    folder = disk.folder / f"mirror-{uuid4().hex}"
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
        with disk.blamed():
            folder.mkdir(mode=0o700)
            _clone(clone_url, mirror, environment=environment, stop=stop)
            kept = Kept(mirror)
            for file in mirror.glob("objects/pack/*"):
                kept.add(os.fspath(file.relative_to(mirror)), file.stat().st_size)
        with disk.blamed(kept):
            yield mirror
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _clone(clone_url: str, mirror: Path, *, environment: Mapping[str, str], stop: Stop) -> None:
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
            directory=mirror.parent,
            stop=stop,
            environment=environment,
        )
    except GitFailed as error:
        if is_disk_full(error.message):
            # git has removed by now what filled it.
            raise TemporaryFolderError(
                f"the temporary folder {mirror.parent.parent} is full: {error.message}",
                hint=ANOTHER_FOLDER,
            ) from error
        raise
