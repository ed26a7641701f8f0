"""Plain git: a folder tree that holds repositories, or repositories named one by one.

A repository's identity is a hash of where it lies: its path below the folder, or its path or URL.
So a repository that is moved is a new one.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import unquote

from backup.errors import RepositoryUnavailable, SourceError, sound
from backup.model import Absence, Kind, Repository, SourceIdentity
from backup.secret import Secret
from backup.sources.confined import alternates_of, way_out

_ID_DIGITS = 16
_NAME_BOTH = "name the folder that holds both with --from"
# Longer than any path that a file system takes.
_MOST_DOT_GIT_BYTES = 1 << 16
# Source: git's setup.c, is_git_directory.
_PARTS = ("HEAD", "objects", "refs")
# What git keeps in a repository. Source: gitrepository-layout(5); git-lfs and git-svn for theirs.
_GITS_OWN = (
    *(".git", "branches", "hooks", "info", "lfs", "logs", "modules", "objects", "refs"),
    *("reftable", "rr-cache", "svn", "worktrees"),
)


@dataclass(frozen=True, slots=True)
class GitFolder:
    """Where git keeps one repository.

    Attributes:
        git_directory: the folder with HEAD, objects and refs.
        work_tree: the folder it is checked out in; None for a bare repository.
    """

    git_directory: Path
    work_tree: Path | None = None

    @property
    def safe(self) -> list[Path]:
        """The paths by which git knows the repository."""
        both = (
            [self.git_directory] if self.work_tree is None else [self.git_directory, self.work_tree]
        )
        return list(dict.fromkeys(path for one in both for path in (one, one.resolve())))


def find_git_folder(folder: Path) -> GitFolder | None:
    """Tell whether a folder is a repository, bare or with a work tree.

    A linked work tree (git-worktree(1)) is none: its repository lies elsewhere. A submodule's
    ``.git`` file leads to a repository of its own.

    Raises:
        OSError: it cannot be looked into.
    """
    dot_git = folder / ".git"
    if dot_git.is_file():
        git_directory = _follow(dot_git)
        if git_directory is None or (git_directory / "commondir").exists():
            return None
        return GitFolder(git_directory, folder) if _is_git_directory(git_directory) else None
    if _is_git_directory(dot_git):
        return GitFolder(dot_git, folder)
    if _is_git_directory(folder):
        return GitFolder(folder)
    return None


@dataclass(frozen=True, slots=True)
class Broken:
    """What git would not take for the repository that it was.

    Attributes:
        reason: why not.
        is_bare: whether the folder itself was the repository, and holds files of git's.
    """

    reason: str
    is_bare: bool = False


def find_broken(folder: Path, *, within_work_tree: bool) -> Broken | None:
    """Tell whether a folder was a repository that git would not take for one any more.

    A crash that loses HEAD makes no absence of a repository.

    Args:
        folder: one that is no repository (`find_git_folder`).
        within_work_tree: whether only a ``.git`` counts: files of a repository look like anything.

    Raises:
        OSError: it cannot be looked into.
    """
    dot_git = folder / ".git"
    useless = "without which git takes it for no repository"
    if dot_git.is_file():
        git_directory = _follow(dot_git)
        if git_directory is None:
            return Broken("its .git file names no folder of git's")
        if not _is_git_directory(_main(git_directory)):
            return Broken(f"its .git file leads to {git_directory}, where no repository is")
    elif any(_parts(dot_git)):
        return Broken(f"its .git has no {_lacking(dot_git)}, {useless}")
    elif not within_work_tree and sum(_parts(folder)) == len(_PARTS) - 1:
        return Broken(f"it has no {_lacking(folder)}, {useless}", is_bare=True)
    return None


def incomplete_because(git_directory: Path) -> str:
    """Tell why a repository's own history cannot be complete, or an empty string.

    Source: gitrepository-layout(5); git-config(1), ``extensions.partialClone``.
    """
    shallow = git_directory / "shallow"
    if shallow.is_file() and shallow.stat().st_size > 0:
        return "shallow: its history is cut off (git fetch --unshallow completes it)"
    return ""


def missing_because(git_directory: Path) -> str:
    """Tell why objects may be missing, of a repository that lacks some, or an empty string.

    A partial clone may have fetched all of them since, and keeps its marks.
    """
    for line in alternates_of(git_directory / "objects"):
        store = Path(line) if line.startswith("/") else git_directory / "objects" / line
        if not store.is_dir():
            return f"it borrows objects (alternates) from {line}, which is not there"
    if any((git_directory / "objects" / "pack").glob("*.promisor")):
        return "it is a partial clone (promisor), which leaves objects at its remote"
    return ""


@dataclass(slots=True)
class _Walk:
    """What one walk has met: folders, by device and number, and links left for the end."""

    seen: set[tuple[int, int]] = field(default_factory=set)
    links: list[tuple[Path, str]] = field(default_factory=list)


class FolderSource:
    """Every repository below a folder, however deep, bare or with a work tree.

    Symbolic links to folders are followed outside of work trees, each folder once. One that leads
    out of the folder is named where a repository lies behind it, and is not followed.
    """

    lists_everything = True
    notes = ()
    if_too_short = ""

    def __init__(self, root: Path, *, owner: str) -> None:
        self._root = root
        self._unreadable: dict[str, str] = {}
        self.identity = SourceIdentity(
            provider="git", host="folder", owner=owner, location=_shown(_absolute(root))
        )

    def repositories(self) -> Iterator[Repository]:
        """Yield repositories by path, and with its problem each folder that cannot be read.

        Raises:
            SourceError: the folder itself cannot be read.
        """
        self._unreadable.clear()
        walk = _Walk()
        yield from self._below(self._root, "", walk, within_work_tree=False)
        # Links last: a repository is known by its own path where it has one below the folder.
        while walk.links:
            folder, relative = walk.links.pop(0)
            if self._leads_out(folder):
                yield from self._link_out(folder, relative, walk)
                continue
            yield from self._below(folder, relative, walk, within_work_tree=False)

    def server_time(self) -> None:
        """Answer that there is no server."""
        return

    def authorization(self) -> None:
        """Answer that nothing is needed: folders are read as they are."""
        return

    def renew_authorization(self) -> bool:
        """Answer that there is nothing to renew."""
        return False

    def look_up(self, *, host_id: str, path: str, kind: Kind) -> Repository | Absence:
        """Answer for a repository that the last listing did not have.

        Raises:
            SourceError: it may lie in a folder that could not be read.
        """
        for folder, problem in self._unreadable.items():
            if f"{path}/".startswith(f"{_shown(folder)}/"):
                raise SourceError(problem)
        return Absence("not-visible", f"no repository lies at {path}")

    def _below(
        self, folder: Path, relative: str, walk: "_Walk", *, within_work_tree: bool
    ) -> Iterator[Repository]:
        # Not by recursion: whoever makes folders decides how deep they lie.
        waiting = [(folder, relative, within_work_tree)]
        while waiting:
            inner: list[tuple[Path, str, bool]] = []
            yield from self._look_into(*waiting.pop(), walk, inner)
            waiting += reversed(inner)

    def _look_into(
        self,
        folder: Path,
        relative: str,
        within_work_tree: bool,  # noqa: FBT001 - it travels with the other two
        walk: "_Walk",
        inner: list[tuple[Path, str, bool]],
    ) -> Iterator[Repository]:
        """Yield the repository of one folder, if it is one, and add what is to be looked into."""
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in walk.seen:
                return
            walk.seen.add((status.st_dev, status.st_ino))
            found, broken = find_git_folder(folder), None
            if found is None:
                broken = find_broken(folder, within_work_tree=within_work_tree)
            children = sorted(os.scandir(folder), key=lambda child: child.name)
        except OSError as error:
            if not relative:
                raise SourceError(
                    f"the folder {folder} cannot be read: {error.strerror}"
                ) from error
            if not isinstance(error, FileNotFoundError):
                problem = f"the folder {_shown(str(folder))} cannot be read: {error.strerror}"
                yield self._not_readable(folder, relative, problem)
            return
        is_bare = False
        if found is not None:
            yield self._repository(folder, relative)
            is_bare = found.work_tree is None
        elif broken is not None:
            yield self._not_readable(folder, relative, f"{folder}: {broken.reason}")
            is_bare = broken.is_bare
        is_one = found is not None or broken is not None
        # Beside a .git, sound or not, lie the files of people, whatever they are called.
        within_work_tree = within_work_tree or (is_one and not is_bare)
        gits_own = _GITS_OWN if is_bare else (".git",)
        for child in children:
            place = folder / child.name
            below = f"{relative}/{child.name}" if relative else child.name
            if child.name in gits_own or not _is_folder(child):
                continue
            if not child.is_symlink():
                inner.append((place, below, within_work_tree))
            elif not within_work_tree:
                walk.links.append((place, below))

    def _leads_out(self, folder: Path) -> bool:
        real = Path(os.path.realpath(folder))
        return not real.is_relative_to(os.path.realpath(self._root))

    def _link_out(self, link: Path, relative: str, walk: "_Walk") -> Iterator[Repository]:
        """Yield a link that leads out of the folder, if there is a repository behind it.

        Which ones is not told: what lies there was not asked for.
        """
        beyond = _Walk(seen=set(walk.seen))
        if next(self._below(link, relative, beyond, within_work_tree=False), None) is not None:
            problem = (
                f"{_shown(relative)} is a symbolic link to {_shown(os.fspath(link.readlink()))}, "
                f"outside of {_shown(os.fspath(self._root))}: {_NAME_BOTH}"
            )
            yield self._not_readable(link, relative, problem)

    def _not_readable(self, folder: Path, relative: str, problem: str) -> Repository:
        problem = sound(_shown(problem))
        self._unreadable[relative] = problem
        return replace(self._repository(folder, relative), problem=problem)

    def _repository(self, folder: Path, relative: str) -> Repository:
        return Repository(
            host=self.identity.host,
            owner=self.identity.owner,
            path=_without_ending(_shown(relative or self._root.resolve().name)),
            host_id=_hash(os.fsencode(relative)),
            clone_url=os.fspath(folder),
            within=os.fspath(self._root),
        )


class GitUrlSource:
    """Repositories named one by one, by their paths on this machine or their URLs.

    Args:
        locations: paths, URLs, and ``user@host:path`` as git takes it.
        authorization: the Authorization header's value for git over HTTP.
    """

    lists_everything = False
    notes = ()
    if_too_short = ""

    def __init__(
        self, locations: Sequence[str], *, owner: str, authorization: Secret | None = None
    ) -> None:
        self._locations = list(dict.fromkeys(_location(one) for one in locations))
        self._authorization = authorization
        self.identity = SourceIdentity(provider="git", host="git", owner=owner)

    def server_time(self) -> None:
        """Answer that it is not known: each location may have a server of its own, or none."""
        return

    def authorization(self) -> Secret | None:
        """Give what was given."""
        return self._authorization

    def renew_authorization(self) -> bool:
        """Answer that no other was given."""
        return False

    def repositories(self) -> Iterator[Repository]:
        """Yield the repositories in the order given."""
        for location in self._locations:
            yield Repository(
                host=self.identity.host,
                owner=self.identity.owner,
                path=_without_ending(_name(location)),
                host_id=_hash(os.fsencode(location)),
                clone_url=location,
            )

    def look_up(self, *, host_id: str, path: str, kind: Kind) -> Repository | Absence:
        """Answer for a location that was not given this time."""
        return Absence("not-visible", f"{path} ({host_id}) was not named")


def open_git_folder(repository: Repository) -> GitFolder:
    """Find the repository behind a plain source's clone_url.

    Raises:
        RepositoryUnavailable: there is none (any more), or it leads out of its folder.
    """
    folder = Path(repository.clone_url)
    root = Path(repository.within or folder)
    try:
        found = find_git_folder(folder)
        reason = "" if found is None else way_out(found.git_directory, root)
    except OSError as error:
        raise RepositoryUnavailable(f"{folder} cannot be read: {error.strerror}") from error
    if found is None:
        raise RepositoryUnavailable(f"{folder} is no git repository")
    if reason:
        raise RepositoryUnavailable(
            f"{folder} leads out of {root}, which git would follow: {reason}", hint=_NAME_BOTH
        )
    return found


def _follow(dot_git: Path) -> Path | None:
    with dot_git.open("rb") as file:
        text = file.read(_MOST_DOT_GIT_BYTES + 1)
    if not text.startswith(b"gitdir: ") or len(text) > _MOST_DOT_GIT_BYTES:
        return None
    target = Path(os.fsdecode(text.removeprefix(b"gitdir: ").rstrip(b"\r\n")))
    return target if target.is_absolute() else dot_git.parent / target


def _is_git_directory(folder: Path) -> bool:
    return all(_parts(folder))


def _parts(folder: Path) -> tuple[bool, ...]:
    """Return of each of `_PARTS` whether a folder has it."""
    head = folder / "HEAD"
    return (
        head.is_file() or head.is_symlink(),
        (folder / "objects").is_dir(),
        (folder / "refs").exists(),
    )


def _lacking(folder: Path) -> str:
    return " and no ".join(
        name for name, is_there in zip(_PARTS, _parts(folder), strict=True) if not is_there
    )


def _main(git_directory: Path) -> Path:
    """Return the repository of a linked work tree's own folder, or the folder itself."""
    common = git_directory / "commondir"
    if not common.is_file():
        return git_directory
    with common.open("rb") as file:
        return git_directory / os.fsdecode(file.read(_MOST_DOT_GIT_BYTES).rstrip(b"\r\n"))


def _is_folder(child: "os.DirEntry[str]") -> bool:
    try:
        return child.is_dir()
    except OSError:
        # A link that leads nowhere.
        return False


def _absolute(path: str | os.PathLike[str]) -> str:
    # Not resolved: a link that keeps its name may lead elsewhere tomorrow, and is the same source.
    return os.path.abspath(path)  # noqa: PTH100


def _location(text: str) -> str:
    # A colon before the first slash: a URL, or user@host:path (git-clone(1), "GIT URLS").
    if ":" in text.split("/", maxsplit=1)[0]:
        return text.rstrip("/")
    return _absolute(text)


def _name(location: str) -> str:
    last = location.rstrip("/").rpartition("/")[2]
    if ":" in location.split("/", maxsplit=1)[0]:
        # user@host:name has no slash at all.
        return _shown(unquote(last.rpartition(":")[2], errors="surrogateescape"))
    return _shown(last)


def _hash(location: bytes) -> str:
    return hashlib.sha256(location).hexdigest()[:_ID_DIGITS]


def _without_ending(path: str) -> str:
    shorter = path.removesuffix(".git")
    return shorter if shorter and not shorter.endswith("/") else path


def _shown(path: str) -> str:
    """Make a path valid Unicode; bytes that are not UTF-8 become ``%XX``."""
    return "".join(
        f"%{ord(char) - 0xDC00:02X}" if "\udc80" <= char <= "\udcff" else char for char in path
    )
