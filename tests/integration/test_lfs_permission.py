"""A file of Git LFS is a repository's when its own source offers it, wherever else it is stored."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.support.git import git, init_bare
from tests.support.gitserver import GitHttpServer
from tests.support.lfsserver import LfsStore, commit, keep, lfs_server, oid_of, pointer
from tests.support.program import Completed, repo_backup

SECRET = b"only for readers of b"
OID = oid_of(SECRET)
PLACE = Path("lfs") / "objects" / OID[:2] / OID[2:4] / OID


@dataclass
class Folder:
    """A folder with the repositories a and b, and a vault."""

    root: Path

    @property
    def a(self) -> Path:
        return self.root / "src" / "a.git"

    @property
    def b(self) -> Path:
        return self.root / "src" / "b.git"

    def run(self, *words: str, code: int) -> Any:
        return self.program("run", "--from", "src", "--to", "vault", *words, code=code).json

    def program(self, *words: str, code: int | None = 0) -> Completed:
        return repo_backup(*words, "--json", cwd=self.root, check=code)

    def restored(self, name: str, *words: str) -> tuple[Any, list[str]]:
        """Restore a repository; give what is reported of its files, and their ids."""
        target = self.root / f"restored-{len([*self.root.iterdir()])}"
        report = self.program("restore", name, "--from", "vault", str(target), *words).json
        return report["restored"][0]["lfs"], sorted(
            path.name for path in target.glob("lfs/objects/*/*/*")
        )


def of(report: Any, name: str) -> Any:
    return next(one for one in report["repositories"] if one["path"] == name)


def missing(report: Any, name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = of(report, name)["lfs"]["missing"]
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    """Give a vault that has b's file, and an a that came to point to it."""
    made = Folder(tmp_path)
    for path in (made.a, made.b):
        init_bare(path)
        commit(path, "main", {"readme": b"hello\n"})
    commit(made.b, "main", {"f": pointer(SECRET)})
    keep(made.b, SECRET)
    made.run(code=0)
    commit(made.a, "main", {"f": pointer(SECRET)})
    return made


def test_what_another_repository_has_stored_is_not_given_to_who_points_to_it(
    folder: Folder,
) -> None:
    report = folder.run(code=3)
    (line,) = missing(report, "a")
    assert (line["oid"], line["reason"]) == (OID, "the repository does not have it")
    assert folder.restored("a")[1] == []
    assert folder.restored("b")[1] == [OID]
    # Nor to a push.
    target = init_bare(folder.root / "home.git")
    words = ("restore", "a", "--from", "vault", "--push", str(target))
    assert folder.program(*words).json["push"]["lfs"] == {"sent": 0, "failed": []}
    # Nor later, nor with a new chain.
    folder.run(code=0)
    commit(folder.a, "main", {"f": pointer(SECRET), "g": b"more\n"})
    assert of(folder.run("--max-chain-length", "1", code=0), "a")["plan"] == "full"
    assert folder.restored("a")[1] == []


def test_nothing_tells_whether_the_vault_has_a_file_that_is_not_offered(folder: Folder) -> None:
    nowhere = b"in no vault at all, y"
    commit(folder.a, "main", {"f": pointer(SECRET), "g": pointer(nowhere)})
    report = folder.run(code=3)
    lines = missing(report, "a")
    assert {one["oid"] for one in lines} == {OID, oid_of(nowhere)}
    assert len({(one["reason"], one["permanent"], one["bytes"]) for one in lines}) == 1


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("content", [b"x" * len(SECRET), b"", SECRET + b"more", SECRET[:-1]])
def test_other_content_under_the_name_gives_no_right_to_the_file(
    content: bytes, stored: bool, folder: Folder
) -> None:
    if not stored:
        (folder.root / "vault/folder/src" / PLACE.relative_to("lfs/objects")).unlink(
            missing_ok=True
        )
        (stored_file,) = (folder.root / "vault").rglob(OID)
        stored_file.unlink()
        (folder.b / PLACE).unlink()
    place = folder.a / PLACE
    place.parent.mkdir(parents=True)
    place.write_bytes(content)
    done = folder.program("run", "--from", "src", "--to", "vault", code=3)
    (line,) = missing(done.json, "a")
    assert line["reason"] == "the source has other content under its id"
    said = done.stdout + done.stderr
    assert oid_of(content) not in said
    assert folder.restored("a")[1] == []


def test_what_both_have_is_stored_once_and_given_to_both(folder: Folder) -> None:
    keep(folder.a, SECRET)
    report = folder.run(code=0)
    assert (missing(report, "a"), of(report, "a")["lfs"]["stored"]) == ([], 0)
    assert [folder.restored(name)[1] for name in ("a", "b")] == [[OID], [OID]]


def test_what_was_promised_stays_promised_when_the_source_has_it_no_more(folder: Folder) -> None:
    (folder.b / PLACE).unlink()
    # In an increment that points to it again, and in a new chain.
    commit(folder.b, "other", {"f": pointer(SECRET, size=7)})
    report = folder.run(code=3)
    assert (of(report, "b")["lfs"]["objects"], missing(report, "b")) == (1, [])
    commit(folder.b, "main", {"f": pointer(SECRET), "g": b"more\n"})
    report = folder.run("--max-chain-length", "1", code=0)
    assert (of(report, "b")["plan"], missing(report, "b")) == ("full", [])
    assert OID in folder.restored("b")[1]


def test_what_was_not_to_be_had_then_does_not_come_though_it_is_stored_now(folder: Folder) -> None:
    snapshot = folder.run(code=3)["snapshot"]
    keep(folder.a, SECRET)
    folder.run(code=0)
    assert folder.restored("a")[1] == [OID]
    told, files = folder.restored("a", "--at", snapshot)
    assert (files, told["not_stored"], told["not_asked"]) == ([], 1, False)


def test_files_that_were_not_asked_for_do_not_come_though_they_are_stored(folder: Folder) -> None:
    report = folder.run("--no-lfs", code=0)
    assert of(report, "a")["status"] == "captured"
    told, files = folder.restored("a")
    assert (files, told["files"], told["not_asked"]) == ([], 0, True)
    words = ("restore", "a", "--from", "vault", "shown.git")
    shown = repo_backup(*words, cwd=folder.root)
    assert "were not asked for when it was captured" in shown.stdout + shown.stderr


def test_each_record_of_a_lost_state_gives_what_it_promises(folder: Folder) -> None:
    keep(folder.a, SECRET)
    folder.run(code=0)
    git("update-ref", "-d", "refs/heads/main", cwd=folder.a)
    commit(folder.a, "new", {"readme": b"all new\n"})
    folder.run("--max-chain-length", "1", "--accept-drop", code=0)
    assert folder.restored("a")[1] == []
    assert folder.restored("a", "--deleted")[1] == [OID]


# --- Behind links ---


@pytest.mark.parametrize("depth", range(5))
def test_no_link_below_the_git_directory_is_followed(depth: int, folder: Folder) -> None:
    """Each part of the path may be the link; what it leads to has the right name and content."""
    part = [*reversed(PLACE.parents), PLACE][depth + 1]
    elsewhere = folder.root / "elsewhere"
    (folder.b / part).rename(elsewhere)
    (folder.a / part).parent.mkdir(parents=True, exist_ok=True)
    (folder.a / part).symlink_to(elsewhere)
    (line,) = missing(folder.run(code=3), "a")
    assert line["reason"] == f"{part.name} is a symbolic link, and is not followed"
    assert not line["permanent"]
    assert folder.restored("a")[1] == []


def test_what_a_link_leads_to_is_neither_told_nor_stored(folder: Folder) -> None:
    password = folder.root / "password"
    password.write_bytes(b"of somebody else\n")
    guessed = pointer(b"nobody knows", size=1000), pointer(password.read_bytes())
    commit(folder.a, "main", {str(number): one for number, one in enumerate(guessed)})
    for oid in (oid_of(b"nobody knows"), oid_of(password.read_bytes())):
        place = folder.a / "lfs/objects" / oid[:2] / oid[2:4] / oid
        place.parent.mkdir(parents=True)
        place.symlink_to(password)
    lines = {one["oid"]: one["reason"] for one in missing(folder.run(code=3), "a")}
    for oid in (oid_of(b"nobody knows"), oid_of(password.read_bytes())):
        assert lines[oid] == f"{oid} is a symbolic link, and is not followed"
    assert not [*(folder.root / "vault").rglob(oid_of(password.read_bytes()))]
    # Nor is anything told of it that was not in the pointers.
    (folder.a / "lfs").rename(folder.root / "moved")
    lines = {one["oid"]: one["bytes"] for one in missing(folder.run(code=3), "a")}
    assert lines[oid_of(b"nobody knows")] == 1000


def test_what_is_no_file_is_not_waited_for(folder: Folder) -> None:
    (folder.a / PLACE).parent.mkdir(parents=True)
    os.mkfifo(folder.a / PLACE)
    (line,) = missing(folder.run(code=3), "a")
    assert line["reason"] == "the repository does not have it"


# --- Servers ---


@dataclass
class Servers:
    """Two servers of one machine, each with a repository, and one vault for both."""

    vault: Path
    a: tuple[GitHttpServer, LfsStore]
    b: tuple[GitHttpServer, LfsStore]

    def run(self, *, code: int) -> Any:
        sources = f"git:{self.a[0].url}/acme/a.git\ngit:{self.b[0].url}/acme/b.git"
        words = ("run", "--to", str(self.vault), "--owner", "acme", "--json")
        done = repo_backup(*words, env={"REPO_BACKUP_FROM": sources}, check=code)
        return json.loads(done.stdout)


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    for name in ("a", "b"):
        path = init_bare(tmp_path / f"server-{name}" / "acme" / f"{name}.git")
        commit(path, "main", {"f": pointer(SECRET)})
    with lfs_server(tmp_path / "server-a") as a, lfs_server(tmp_path / "server-b") as b:
        b[1].add(SECRET)
        yield Servers(tmp_path / "vault", a, b)


def test_a_file_of_another_server_is_not_given(servers: Servers) -> None:
    report = servers.run(code=3)
    assert [one["reason"] for one in missing(report, "a")] == ["Object does not exist (404)"]
    assert missing(report, "b") == []
    target = servers.vault.parent / "a.git"
    repo_backup("restore", "acme/a", "--from", servers.vault, target)
    assert not [*target.rglob(OID)]


def test_an_answer_without_a_link_is_no_offer(servers: Servers) -> None:
    """As of a server that says of everything that it is there."""
    _, lfs = servers.a
    lfs.add(SECRET)
    lfs.without_links.add(OID)
    assert servers.run(code=3)
    report = servers.run(code=3)
    assert [one["reason"] for one in missing(report, "a")] == ["the server gives no link to it"]


def test_what_a_server_offers_and_the_vault_has_is_not_downloaded(servers: Servers) -> None:
    servers.run(code=3)
    servers.a[1].add(SECRET)
    report = servers.run(code=0)
    assert (missing(report, "a"), of(report, "a")["lfs"]["stored"]) == ([], 0)
    assert (servers.a[1].batches, servers.a[1].links[OID]) == ([1, 1], 0)
    target = servers.vault.parent / "a.git"
    repo_backup("restore", "acme/a", "--from", servers.vault, target)
    assert [one.read_bytes() for one in target.rglob(OID)] == [SECRET]
