"""Whether a repository on this machine keeps to its folder, or has git read what lies elsewhere.

git follows symbolic links, ``.git`` files and borrowed stores of objects (alternates) wherever they
lead. Anyone who may write into a repository could so have another repository, or any file that this
process can read, stored and given back as its own. This is looked at before git is started.
Source: gitrepository-layout(5); git's object-file.c, link_alt_odb_entries.
"""

import os
from errno import EINVAL
from pathlib import Path

# What upload-pack reads; hooks, logs and the like it does not.
_READ_BY_GIT = (
    *("HEAD", "config", "config.worktree", "packed-refs", "shallow"),
    *("info", "objects", "refs", "reftable"),
)


def way_out(git_directory: Path, root: Path) -> str:
    """Say what has git read outside of a folder, as it is written there; empty where nothing does.

    What leads elsewhere within the folder is allowed, and looked at in the same way.

    Args:
        git_directory: of the repository, with HEAD, objects and refs.
        root: the folder; it may itself be reached by a link.

    Raises:
        OSError: something cannot be looked at.
    """
    base, place = _real(root), _real(git_directory)
    if not place.is_relative_to(base):
        return f"its git directory is {place}"
    if (place / "commondir").exists():
        return "its objects and refs are those of another repository (commondir)"
    seen: set[Path] = set()
    for name in _READ_BY_GIT:
        if reason := _link_out(place / name, base, seen):
            return reason
    stores, borrowed = [place / "objects"], {_real(place / "objects")}
    while stores:
        objects = stores.pop()
        for line in alternates_of(objects):
            # As git does it: from where the store really is, and ".." by the names alone.
            store = _real(Path(os.path.normpath(_real(objects) / line)))
            # git reads a quoted path as another one.
            if line.startswith('"') or not store.is_relative_to(base):
                return f"its objects/info/alternates names {line}"
            if store not in borrowed:
                borrowed.add(store)
                stores.append(store)
                if reason := _link_out(store, base, seen):
                    return reason
    return ""


def alternates_of(objects: Path) -> list[str]:
    """Return the stores that one borrows objects from, as its own file names them."""
    try:
        content = (objects / "info" / "alternates").read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return []
    # git splits at nothing else, and takes what follows a zero byte for nothing.
    lines = os.fsdecode(content.partition(b"\0")[0]).split("\n")
    return [line for line in lines if line and not line.startswith("#")]


def _link_out(place: Path, base: Path, seen: set[Path]) -> str:
    """Look for a link that leads out of a folder, in a file or folder and in all below it.

    Args:
        place: where to begin.
        base: the folder, as it really is.
        seen: folders that were looked through; is added to.

    Raises:
        OSError: something cannot be looked at, or is neither file nor folder.
    """
    waiting = [place]
    while waiting:
        each = waiting.pop()
        if each.is_symlink():
            target = each.readlink()
            each = _real(each)
            if not each.is_relative_to(base):
                return f"its {place.name} has a symbolic link to {target}"
        if not each.is_dir():
            if each.exists() and not each.is_file():
                # Whoever opens a pipe waits for somebody at its other end.
                raise OSError(EINVAL, f"{each} is a pipe, a socket or a device")
            continue
        if each in seen:
            continue
        seen.add(each)
        with os.scandir(each) as entries:
            # Of thousands of loose objects none is looked at by itself.
            waiting += [Path(one.path) for one in entries if not one.is_file(follow_symlinks=False)]
    return ""


def _real(path: Path) -> Path:
    # Path.resolve raises where links go round.
    return Path(os.path.realpath(path))
