"""A repository to push from: the objects of another one, and as refs only what is being pushed.

What git push takes for the source of a refspec is looked up among the refs first: an id means the
branch of that name, where there is one. A full name is no better: ``refs/heads/main`` also means
``refs/heads/refs/heads/main``. Here the refs that are pushed are the only ones, they are named by a
pattern, which matches names exactly, and while objects are asked for by their ids there is no ref.
The other repository is only read.
Source: git's remote.c, ``match_explicit``, ``refname_match`` and ``get_ref_match``.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from backup.errors import TemporaryFolderError
from backup.git.command import clean_environment, make_bare_repository, run_git
from backup.git.work import ANOTHER_FOLDER, trouble_with
from backup.model import ObjectFormat, ObjectId
from backup.stopping import Stop

# Every ref that there is, under its own name.
EVERYTHING = "refs/*:refs/*"


class Stage:
    """A bare repository with the objects of another one. Used by one thread.

    Args:
        folder: becomes the repository; it does not exist, or is empty.
        source: the bare repository, or the ``.git`` of a working clone, that has the objects.
        stop: ends every wait.
    """

    def __init__(self, folder: Path, source: Path, *, stop: Stop) -> None:
        self.folder = folder
        self._stop = stop
        shown = run_git("rev-parse", "--show-object-format", directory=source, stop=stop)
        object_format: ObjectFormat = "sha256" if shown.strip() == b"sha256" else "sha1"
        make_bare_repository(folder, object_format=object_format, stop=stop)
        # git takes no variable of its own along to the program at the other end.
        self.variables = {"GIT_OBJECT_DIRECTORY": os.fspath((source / "objects").resolve())}

    def git(self, *arguments: str, data: bytes = b"") -> bytes:
        """Run a git command that asks for objects by their ids, and return its stdout.

        Raises:
            GitFailed: it ended with an error.
        """
        environment = clean_environment(safe_directories=[self.folder]) | self.variables
        return run_git(
            *arguments, directory=self.folder, stop=self._stop, data=data, environment=environment
        )

    @contextmanager
    def holding(self, refs: Mapping[bytes, ObjectId]) -> Iterator[None]:
        """Have these refs for a while, and no other.

        Args:
            refs: full name to id.

        Raises:
            TemporaryFolderError: they cannot be written.
        """
        # Source: gitrepository-layout(5), packed-refs. No id goes through a command.
        packed = self.folder / "packed-refs"
        lines = sorted((name, oid.encode()) for name, oid in refs.items())
        try:
            packed.write_bytes(b"".join(b"%b %b\n" % (oid, name) for name, oid in lines))
        except OSError as error:
            raise TemporaryFolderError(
                trouble_with(self.folder)
                or f"the temporary folder {self.folder} cannot be used: {error.strerror}",
                hint=ANOTHER_FOLDER,
            ) from error
        try:
            yield
        finally:
            packed.unlink(missing_ok=True)
