"""Small file systems of a test's own. Mounting takes root, or sudo without a password."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


def _as_root(*command: str | Path) -> None:
    rights = [] if os.geteuid() == 0 else ["sudo", "-n"]
    subprocess.run([*rights, *command], check=True, capture_output=True)


@contextmanager
def small_disk(place: Path, size_bytes: int) -> Iterator[Path]:
    """Mount a file system of so many bytes at a new folder, and unmount it afterwards."""
    place.mkdir()
    _as_root("mount", "-t", "tmpfs", "-o", f"size={size_bytes},mode=1777", "tmpfs", place)
    try:
        yield place
    finally:
        # Lazily: a child that is just being ended may still have a file open there.
        _as_root("umount", "--lazy", place)


@contextmanager
def mounted_over(place: Path, disk: Path) -> Iterator[None]:
    """Have a folder of another file system lie over a folder that is there."""
    _as_root("mount", "--bind", disk, place)
    try:
        yield
    finally:
        _as_root("umount", "--lazy", place)


def resize(place: Path, size_bytes: int) -> None:
    """Give a mounted file system another size."""
    _as_root("mount", "-o", f"remount,size={size_bytes}", place)


def make_read_only(place: Path) -> None:
    """Let nobody write a mounted file system any more, not even root."""
    _as_root("mount", "-o", "remount,ro", place)


def fill(path: Path) -> None:
    """Write a file until there is no room left."""
    with suppress(OSError), path.open("wb", buffering=0) as file:
        while True:
            file.write(b"x" * 4096)
    assert shutil.disk_usage(path.parent).free == 0
