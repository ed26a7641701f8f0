"""The way to a repository's upload-pack, by what its source says of it."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from backup.errors import IncompleteRepository, NotOurRef, ProtocolError
from backup.git.check import Disk
from backup.git.fallback import mirrored
from backup.git.transport import open_folder
from backup.git.upload_pack import Remote
from backup.model import Repository, Selection
from backup.sources.plain import broken_alternates, incomplete_because, open_git_folder
from backup.stopping import Stop


@contextmanager
def open_remote(
    repository: Repository, *, selection: Selection, count: Callable[[str], None], stop: Stop
) -> Iterator[Remote]:
    """Open a repository on this machine, and say why where its own history is not whole.

    Raises:
        IncompleteRepository: it is shallow, a partial clone, or borrows objects that are gone.
        RepositoryUnavailable: it is no repository (any more).
    """
    folder = open_git_folder(repository)
    if reason := incomplete_because(folder.git_directory):
        raise IncompleteRepository(f"the repository is {reason}")
    transport = open_folder(folder.git_directory, safe=folder.safe, stop=stop)
    try:
        with Remote(transport, selection=selection, count=count) as remote:
            yield remote
    except NotOurRef:
        # The refs may only have moved; who asks again asks `lacking` in the end.
        raise
    except ProtocolError as error:
        if reason := broken_alternates(folder.git_directory):
            raise IncompleteRepository(
                f"the repository's objects are not all there: {reason}"
            ) from error
        raise


def lacking(repository: Repository) -> str:
    """Say what a repository's store of objects lacks, where that can be seen; empty otherwise."""
    return broken_alternates(open_git_folder(repository).git_directory)


@contextmanager
def open_mirror(
    repository: Repository,
    *,
    selection: Selection,
    count: Callable[[str], None],
    disk: Disk,
    stop: Stop,
) -> Iterator[Remote]:
    """Open a temporary mirror of a repository whose server has no protocol version 2."""
    folder = open_git_folder(repository)
    count("git")
    with (
        mirrored(repository.clone_url, safe=folder.safe, disk=disk, stop=stop) as mirror,
        Remote(
            open_folder(mirror, safe=[mirror], stop=stop), selection=selection, count=lambda _: None
        ) as remote,
    ):
        yield remote
