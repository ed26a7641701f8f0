"""git servers that people have and that are not today's git: each gives all that it has.

Each case names what the server does otherwise. A real ``git http-backend`` answers behind it, or a
web server that has the repository's files and no git at all.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from backup.git.pktline import PacketReader, Special, encode
from tests.support.git import commit_chain, git, init_bare, set_head, update_refs
from tests.support.gitserver import Answer, GitHttpServer, Request
from tests.support.mirrors import assert_same_mirror, mirror_state
from tests.support.program import repo_backup

MAIN = b"refs/heads/main"
TOKEN = "sentinel-of-an-odd-server-0123"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = init_bare(tmp_path / "root" / "acme" / "one.git")
    tip = commit_chain(made, 3)[-1]
    update_refs(made, {MAIN: tip, b"refs/heads/topic": commit_chain(made, 2, label=b"t")[-1]})
    set_head(made, MAIN)
    git("tag", "-a", "-m", "first", "v1", "main", cwd=made)
    git("tag", "light", "topic", cwd=made)
    git("update-server-info", cwd=made)
    return made


def packets(data: bytes) -> Iterator[bytes | Special]:
    """Take an answer apart, as far as it is packets and no pack."""
    position = 0

    def read(size: int) -> bytes:
        nonlocal position
        piece = data[position : position + size]
        position += len(piece)
        return piece

    reader = PacketReader(read)
    while not reader.at_end():
        yield reader.next()


def joined(found: Iterator[bytes | Special]) -> bytes:
    return b"".join(one.value if isinstance(one, Special) else encode(one) for one in found)


@dataclass(frozen=True)
class Old:
    """git 2.18 to 2.27: a server that ends at a capability which it has not named.

    Source: git's serve.c before 2.28, process_request(): "unknown capability" and die.
    """

    unknown: tuple[bytes, ...]

    def dies(self, body: bytes) -> bool:
        said = [one for one in packets(body) if isinstance(one, bytes)] if body else []
        return any(one.startswith(self.unknown) for one in said)

    def says(self, request: Request, body: bytes) -> bytes:
        if request.method != "GET":
            return body
        kept = (
            o for o in packets(body) if isinstance(o, Special) or not o.startswith(self.unknown)
        )
        return joined(kept)


@dataclass(frozen=True)
class NoNewline:
    """A server in another language, whose lines of text have no end."""

    def dies(self, _body: bytes) -> bool:
        return False

    def says(self, request: Request, body: bytes) -> bytes:
        if request.method != "GET":
            return body
        return joined(o if isinstance(o, Special) else o.rstrip(b"\n") for o in packets(body))


class Contradicting:
    """A server whose HEAD is detached, and which says that it names a branch, too."""

    def dies(self, _body: bytes) -> bool:
        return False

    def says(self, request: Request, body: bytes) -> bytes:
        if request.method == "GET":
            return body
        named = b" HEAD symref-target:refs/heads/main\n"
        return joined(
            o.replace(b" HEAD\n", named) if isinstance(o, bytes) else o for o in packets(body)
        )


def back_up(url: str, tmp_path: Path) -> tuple[str, str]:
    """Back up one URL; return the outcome and the plan."""
    env = {"REPO_BACKUP_TOKEN": TOKEN}
    words = ("run", "--from", f"git:{url}", "--to", tmp_path / "vault", "--json")
    (row,) = repo_backup(*words, env=env).json["repositories"]
    return row["status"], row["plan"]


def assert_comes_back(path: Path, tmp_path: Path, name: str) -> None:
    repo_backup("restore", "one", "--from", tmp_path / "vault", tmp_path / name)
    assert_same_mirror(tmp_path / name, path)


def push(path: Path) -> None:
    tip = mirror_state(path).refs[MAIN]
    update_refs(path, {MAIN: commit_chain(path, 1, start=tip, label=b"more")[-1]})
    git("update-server-info", cwd=path)


@pytest.mark.parametrize(
    "imitates",
    [Old((b"object-format=",)), Old((b"object-format=", b"agent=")), NoNewline()],
    ids=["git 2.18 to 2.27", "a server that names nothing", "lines without newline"],
)
def test_a_server_of_version_2_is_told_nothing_that_it_does_not_know(
    imitates: Old | NoNewline, path: Path, tmp_path: Path
) -> None:
    with GitHttpServer(tmp_path / "root", imitates=imitates) as server:
        url = f"{server.url}/acme/one.git"
        assert back_up(url, tmp_path) == ("captured", "full")
        assert_comes_back(path, tmp_path, "first.git")
        push(path)
        assert back_up(url, tmp_path) == ("captured", "incremental")
        assert back_up(url, tmp_path)[0] == "unchanged"
        assert_comes_back(path, tmp_path, "second.git")


def test_a_head_that_is_not_where_the_server_says_comes_back_where_it_is(
    path: Path, tmp_path: Path
) -> None:
    tip = mirror_state(path).refs[MAIN]
    (aside,) = commit_chain(path, 1, start=tip, label=b"of no branch")
    set_head(path, aside)
    with GitHttpServer(tmp_path / "root", imitates=Contradicting()) as server:
        url = f"{server.url}/acme/one.git"
        assert back_up(url, tmp_path) == ("captured", "full")
        assert back_up(url, tmp_path)[0] == "unchanged"
    assert_comes_back(path, tmp_path, "first.git")
    assert git("rev-parse", "HEAD", cwd=tmp_path / "first.git").strip() == aside


def moved(request: Request) -> Answer | None:
    if "/one/" not in request.target:
        return None
    return Answer(301, {"Location": request.target.replace("/one/", "/one.git/", 1)})


def test_a_server_of_version_0_that_redirects_is_mirrored_from_where_it_leads(
    path: Path, tmp_path: Path
) -> None:
    with GitHttpServer(tmp_path / "root", protocol=0, answer=moved) as server:
        url = f"{server.url}/acme/one"
        assert back_up(url, tmp_path) == ("captured", "full")
        assert_comes_back(path, tmp_path, "back.git")


def files_below(root: Path) -> Callable[[Request], Answer]:
    """Serve files as any web server does, and nothing else."""

    def serve(request: Request) -> Answer:
        file = root / request.target.partition("?")[0].lstrip("/")
        if not file.is_file():
            return Answer(404)
        return Answer(200, {"Content-Type": "text/plain"}, file.read_bytes())

    return serve


@pytest.mark.parametrize("head", ["main", "a detached id", "unborn"])
def test_a_web_server_that_has_the_files_alone_is_mirrored_when_something_changed(
    head: str, path: Path, tmp_path: Path
) -> None:
    if head == "a detached id":
        (path / "HEAD").write_bytes(mirror_state(path).refs[b"refs/heads/topic"] + b"\n")
    elif head == "unborn":
        set_head(path, b"refs/heads/none")
    with GitHttpServer(tmp_path / "root", answer=files_below(tmp_path / "root")) as server:
        url = f"{server.url}/acme/one.git"
        assert back_up(url, tmp_path) == ("captured", "full")
        if head == "main":
            assert_comes_back(path, tmp_path, "first.git")
        server.requests.clear()
        assert back_up(url, tmp_path)[0] == "unchanged"
        assert len(server.requests) == 2, "the list of refs, and HEAD"
        push(path)
        assert back_up(url, tmp_path) == ("captured", "full")
    tips = mirror_state(path).refs
    repo_backup("restore", "one", "--from", tmp_path / "vault", tmp_path / "last.git")
    assert mirror_state(tmp_path / "last.git").refs == tips


def test_an_empty_repository_of_files_is_empty_and_a_page_for_people_is_none(
    tmp_path: Path,
) -> None:
    empty = init_bare(tmp_path / "root" / "acme" / "one.git")
    git("update-server-info", cwd=empty)
    with GitHttpServer(tmp_path / "root", answer=files_below(tmp_path / "root")) as server:
        assert back_up(f"{server.url}/acme/one.git", tmp_path)[0] == "empty"
        page = tmp_path / "root" / "acme" / "page.git" / "info"
        page.mkdir(parents=True)
        (page / "refs").write_bytes(b"<html>sign in</html>\n" * 100_000)
        words = ("run", "--from", f"git:{server.url}/acme/page.git", "--to", tmp_path / "v")
        done = repo_backup(*words, check=1)
        assert "not with git's protocol" in done.stderr


def test_alternates_of_files_lead_nowhere_else(path: Path, tmp_path: Path) -> None:
    """Objects that the files borrow from another server are not asked for there."""
    elsewhere = init_bare(tmp_path / "other" / "lender.git")
    for pack in (path / "objects").iterdir():
        if pack.name not in {"info", "pack"}:
            pack.rename(elsewhere / "objects" / pack.name)
    with GitHttpServer(tmp_path / "other", answer=files_below(tmp_path / "other")) as other:
        info = path / "objects" / "info"
        info.mkdir(exist_ok=True)
        (info / "http-alternates").write_text(f"{other.url}/lender.git/objects\n")
        with GitHttpServer(tmp_path / "root", answer=files_below(tmp_path / "root")) as server:
            words = ("run", "--from", f"git:{server.url}/acme/one.git", "--to", tmp_path / "v")
            repo_backup(*words, env={"REPO_BACKUP_TOKEN": TOKEN}, check=1)
        assert other.requests == []
