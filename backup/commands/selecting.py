"""What a run is asked to do, and which repositories its filters leave."""

from collections.abc import Container, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Literal

from backup.capture import CheckMode
from backup.commands.exporting import ExportOptions
from backup.model import Kind, Repository, Selection, Visibility
from backup.vault.fields import is_path


@dataclass(frozen=True, slots=True)
class RunOptions:
    """What a run is asked to do, apart from where from and where to.

    Attributes:
        told: what people should know of how it was asked.
    """

    selection: Selection = field(default_factory=Selection)
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    visibility: Visibility | Literal["all"] = "all"
    archived: bool = True
    forks: bool = True
    wikis: bool = True
    gists: bool = False
    snippets: bool = False
    concurrency: int = 4
    check: CheckMode = "pack"
    full_after_days: int = 90
    max_chain_length: int = 50
    max_drop_percent: int = 20
    accept_drop: bool = False
    dry_run: bool = False
    snapshot_id: str | None = None
    grace_days: int = 7
    exports: ExportOptions | None = None
    lock_days: int = 0
    told: tuple[str, ...] = ()

    def lists(self, kind: Kind) -> bool:
        """Tell whether a source was asked to list what is of a kind."""
        return {"gist": self.gists, "snippet": self.snippets}.get(kind, True)


def once_each(listing: Iterable[Repository]) -> Iterator[Repository]:
    """Yield each repository once, and all that are no more than a problem.

    A repository that is made while pages are read moves another one to the page that comes next,
    where it is listed again. Two workers would capture it at the same time.
    """
    seen = set()
    for one in listing:
        identity = (one.kind, one.host_id)
        if one.problem or identity not in seen:
            yield one
            seen.add(identity)


def with_a_name(repository: Repository) -> Repository:
    """Return a repository, as a problem where no document can hold its name."""
    if is_path(repository.path):
        return repository
    return replace(repository, problem="its name has an empty part, and cannot be kept")


def can_be_kept(repository: Repository) -> bool:
    """Return whether an entry can be made of what the listing has."""
    return bool(repository.host_id) and is_path(repository.path)


def is_counted(repository: Repository, stored: Container[tuple[Kind, str]]) -> bool:
    """Return whether a repository counts where a listing is compared with the last one.

    Args:
        repository: as it is listed.
        stored: kind and id of each that is in the vault.
    """
    if repository.kind in {"gist", "snippet"}:
        # Whether these are listed is a choice, and no sign of what a token sees.
        return False
    return not repository.problem or (repository.kind, repository.host_id) in stored


def is_wanted(repository: Repository, options: RunOptions) -> bool:
    """Tell whether the filters leave a repository."""
    return (
        options.visibility in {"all", repository.visibility}
        and (options.archived or not repository.archived)
        and (options.forks or not repository.fork)
        and (options.wikis or repository.kind != "wiki")
        and _matches(repository, options.include, options.exclude)
    )


def filters(options: RunOptions) -> list[str]:
    """Name the filters in force, as they were given."""
    names = [f"--include {pattern!r}" for pattern in options.include]
    names += [f"--exclude {pattern!r}" for pattern in options.exclude]
    names += [] if options.visibility == "all" else [f"--visibility {options.visibility}"]
    names += [] if options.archived else ["--no-archived"]
    names += [] if options.forks else ["--no-forks"]
    return names + ([] if options.wikis else ["--no-wikis"])


def _matches(repository: Repository, include: Sequence[str], exclude: Sequence[str]) -> bool:
    paths = {repository.path}
    if repository.kind == "wiki":
        # It goes with its repository.
        paths.add(repository.path.removesuffix(".wiki"))
    names = (*paths, *(f"{repository.owner}/{path}" for path in paths))

    def is_among(patterns: Sequence[str]) -> bool:
        return any(fnmatchcase(name, pattern) for name in names for pattern in patterns)

    return (not include or is_among(include)) and not is_among(exclude)
