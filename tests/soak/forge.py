"""A forge whose listing is a Python list and whose git is real, over HTTP: identities are numbers.

What `tests/support/github.py` proves of GitHub's API is not proved again here.
"""

from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from backup.model import Absence, Kind, Repository, SourceIdentity
from tests.support.git import git
from tests.support.gitserver import Answer, GitHttpServer, Request

HOST = "forge.example"
NOTICE = "https://notice.example/7"


class Forge:
    """A source (`backup.model.Source`) that lists what it is told to list.

    Attributes:
        listed: path below the owner, by id.
        transferred: ids that were given to another owner.
        blocked: ids that nobody is given.
        faults: what the git server does to a repository tonight, by its path.
    """

    lists_everything = True
    notes = ()
    if_too_short = ""

    def __init__(self, root: Path, owner: str, clock: Callable[[], datetime]) -> None:
        self.root = root
        self._clock = clock
        self.listed: dict[str, str] = {}
        self.transferred: set[str] = set()
        self.blocked: set[str] = set()
        self.faults: dict[str, Callable[[Request], Answer | None]] = {}
        self.identity = SourceIdentity(
            provider="git", host=HOST, owner=owner, location=f"https://{HOST}/{owner}"
        )
        self._server = GitHttpServer(root, answer=self._answer)

    def __enter__(self) -> Self:
        self._server.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._server.__exit__(kind, error, trace)

    def repositories(self) -> Iterator[Repository]:
        for host_id, path in sorted(self.listed.items(), key=lambda one: one[1]):
            yield Repository(
                host=HOST,
                owner=self.identity.owner,
                path=path,
                host_id=host_id,
                clone_url=f"{self._server.url}/{path}.git",
                blocked=f"unavailable: {NOTICE}" if host_id in self.blocked else "",
            )

    def server_time(self) -> datetime:
        return self._clock()

    def authorization(self) -> None:
        return

    def renew_authorization(self) -> bool:
        return False

    def look_up(self, *, host_id: str, path: str, kind: Kind) -> Repository | Absence:
        if host_id in self.transferred:
            return Absence("transferred", "it is now elsewhere/there")
        return Absence("not-visible", "404")

    def forget_requests(self) -> None:
        """Drop what was remembered of requests: there are hundreds of thousands."""
        self._server.requests.clear()

    def _answer(self, request: Request) -> Answer | None:
        path = request.target.removeprefix("/").partition(".git/")[0]
        fault = self.faults.get(path)
        return None if fault is None else fault(request)


def out_of_order(request: Request) -> Answer | None:
    """Answer 500 to everything."""
    return Answer(500, {}, b"out of order")


def cuts_packs(repository: Path) -> Callable[[Request], Answer | None]:
    """Answer every request for objects with the first half of a pack."""
    return _instead_of_packs(
        lambda: _packfile(_pack(repository, with_trees=True)[:-40], ends=False)
    )


def sends_empty_packs(repository: Path) -> Callable[[Request], Answer | None]:
    """Answer every request for objects with a sound pack that holds nothing."""
    return _instead_of_packs(lambda: _packfile(_pack(repository, tips=b"")))


def sends_no_trees(repository: Path) -> Callable[[Request], Answer | None]:
    """Answer every request for objects with what refs name, and without the trees of it."""
    return _instead_of_packs(lambda: _packfile(_pack(repository)))


def _instead_of_packs(answer: Callable[[], bytes]) -> Callable[[Request], Answer | None]:
    posts = 0

    def fault(request: Request) -> Answer | None:
        nonlocal posts
        posts += request.method == "POST"
        # The first asks for refs.
        if request.method != "POST" or posts < 2:
            return None
        kind = {"Content-Type": "application/x-git-upload-pack-result"}
        return Answer(200, kind, answer())

    return fault


def _pack(repository: Path, *, tips: bytes | None = None, with_trees: bool = False) -> bytes:
    if tips is None:
        tips = git("for-each-ref", "--format=%(objectname)", cwd=repository)
    more = ("--revs",) if with_trees else ()
    return git("pack-objects", *more, "--stdout", "-q", cwd=repository, input=tips)


def _packfile(pack: bytes, *, ends: bool = True) -> bytes:
    pieces = [pack[start : start + 60_000] for start in range(0, len(pack), 60_000)]
    lines = [b"packfile\n", *(b"\x01" + piece for piece in pieces)]
    said = b"".join(b"%04x%b" % (len(line) + 4, line) for line in lines)
    return said + (b"0000" if ends else b"")
