"""Files of Git LFS: stored once, checked, never a reason not to capture, and given back."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from backup.git.http import basic
from backup.secret import Secret
from tests.support.git import git, init_bare
from tests.support.gitserver import Answer, GitHttpServer
from tests.support.lfsserver import LfsStore, commit, keep, lfs_server, oid_of, pointer
from tests.support.program import Completed, repo_backup
from tests.support.sshserver import SshServer, ssh_server

TOKEN = "hunter2-and-more"
FILES = (b"first" * 100, b"second", b"shared" * 9, b"third" * 1000)


@dataclass
class Case:
    """A server with two repositories, and a vault."""

    folder: Path
    server: GitHttpServer
    lfs: LfsStore

    @property
    def vault(self) -> Path:
        return self.folder / "vault"

    def night(
        self, *words: str, code: int = 0, names: tuple[str, ...] = ("media",), **env: str
    ) -> Any:
        return json.loads(self.run(*words, code=code, names=names, **env).stdout)

    def run(
        self, *words: str, code: int = 0, names: tuple[str, ...] = ("media",), **env: str
    ) -> Completed:
        sources = "\n".join(f"git:{self.server.url}/acme/{name}.git" for name in names)
        return repo_backup(
            *("run", "--to", str(self.vault), "--owner", "acme", "--json", *words),
            env={"REPO_BACKUP_FROM": sources, "REPO_BACKUP_TOKEN": TOKEN, **env},
            check=code,
        )

    def stored(self) -> dict[str, int]:
        """Tell the files in the vault and their sizes; each is under its own id."""
        found = {}
        for path in self.vault.glob("git/acme/lfs/**/*"):
            if path.is_file():
                content = path.read_bytes()
                assert path.name == hashlib.sha256(content).hexdigest()
                assert path.parts[-3:-1] == (path.name[:2], path.name[2:4])
                found[path.name] = len(content)
        return found

    def state(self) -> Any:
        listed = repo_backup("list", "--from", self.vault, "--json").json
        return {one["path"]: one for one in listed["repositories"]}["media"]


def of(report: Any, path: str = "media") -> Any:
    return next(one for one in report["repositories"] if one["path"].endswith(path))


def sizes(*contents: bytes) -> dict[str, int]:
    return {oid_of(content): len(content) for content in contents}


@pytest.fixture
def case(tmp_path: Path) -> Iterator[Case]:
    media = init_bare(tmp_path / "acme" / "media.git")
    first, second, shared, third = FILES
    commit(media, "main", {"a.bin": pointer(first)})
    commit(media, "main", {"a.bin": pointer(second), "b.bin": pointer(shared)})
    commit(media, "side", {"b.bin": pointer(shared), "c.bin": pointer(third)})
    commit(media, "third", {"c.bin": pointer(third), "readme": b"no pointer" * 20})
    more = init_bare(tmp_path / "acme" / "more.git")
    commit(more, "main", {"x.bin": pointer(shared)})
    with lfs_server(tmp_path, credentials=("x-access-token", TOKEN)) as (server, lfs):
        lfs.add(*FILES)
        yield Case(tmp_path, server, lfs)
        assert lfs.wrong == []


def test_every_file_of_every_branch_and_of_history_is_stored_once(case: Case) -> None:
    report = case.night(names=("media", "more"))
    assert case.stored() == sizes(*FILES)
    assert case.lfs.links == dict.fromkeys(sizes(*FILES), 1)
    told = [of(report, name)["lfs"] for name in ("media", "more")]
    assert sum(one["stored"] for one in told) == 4
    assert sum(one["stored_bytes"] for one in told) == sum(map(len, FILES))
    assert [one["missing"] for one in told] == [[], []]
    assert f"4 files of Git LFS were stored ({sum(map(len, FILES))} bytes)" in report["notes"]
    # The next night has one request of refs for each, asks for no file and stores nothing.
    before = len(case.lfs.batches)
    again = case.night(names=("media", "more"))
    assert (again["totals"]["unchanged"], again["totals"]["objects_written"]) == (2, 1)
    assert len(case.lfs.batches) == before
    # A file that is new is asked for alone.
    case.lfs.add(b"new")
    commit(
        case.folder / "acme" / "media.git", "main", {"n": pointer(b"new"), "a": pointer(FILES[0])}
    )
    assert of(case.night())["lfs"]["stored"] == 1
    assert case.lfs.batches[before:] == [1]


def test_what_the_server_does_not_have_is_listed_and_the_rest_is_stored(case: Case) -> None:
    gone = oid_of(FILES[1])
    content = case.lfs.files.pop(gone)
    report = case.night(code=3)
    assert case.stored() == sizes(FILES[0], FILES[2], FILES[3])
    assert of(report)["status"] == "captured"
    (missing,) = of(report)["lfs"]["missing"]
    assert missing == {
        "oid": gone,
        "bytes": len(content),
        "reason": "Object does not exist (404)",
        "permanent": True,
        "known": False,
    }
    assert f"1 files of Git LFS are not stored, first {gone}" in report["problems"][0]
    assert case.state()["state"] == "unfinished"
    assert gone in case.state()["reason"]
    # Known by now: said, and no failure. It is asked for all the same; nothing is written.
    report = case.night()
    assert (of(report)["status"], report["totals"]["objects_written"]) == ("unchanged", 1)
    assert of(report)["lfs"]["missing"][0]["known"]
    assert (
        "1 files of Git LFS are missing at the source, as in the run before" in report["notes"][0]
    )
    assert case.lfs.batches[-1] == 1
    # A full begins anew and knows it still.
    commit(case.folder / "acme" / "media.git", "side", {"c.bin": pointer(FILES[3])})
    assert of(case.night("--max-chain-length", "1"))["plan"] == "full"
    # Somebody found it.
    case.lfs.add(content)
    report = case.night()
    assert (of(report)["status"], of(report)["plan"]) == ("captured", None)
    assert case.stored() == sizes(*FILES)
    assert case.state()["state"] == "ok"
    assert case.night()["totals"]["objects_written"] == 1


def test_a_link_that_ended_is_asked_for_again(case: Case) -> None:
    oid = oid_of(FILES[2])
    case.lfs.ends[oid] = 2
    report = case.night()
    assert case.stored() == sizes(*FILES)
    assert of(report)["lfs"]["missing"] == []
    assert (case.lfs.links[oid], case.lfs.batches) == (3, [4, 1, 1])


def test_a_file_that_is_gone_at_the_store_is_gone(case: Case) -> None:
    case.lfs.missing_at_the_store.add(oid_of(FILES[0]))
    (missing,) = of(case.night(code=3))["lfs"]["missing"]
    assert (missing["permanent"], "404" in missing["reason"]) == (True, True)
    assert of(case.night())["lfs"]["missing"][0]["known"]


def test_another_file_than_was_asked_for_is_not_stored(case: Case) -> None:
    oid = oid_of(FILES[3])
    case.lfs.corrupt.add(oid)
    report = case.night(code=3)
    assert case.stored() == sizes(*FILES[:3])
    (missing,) = of(report)["lfs"]["missing"]
    assert (missing["oid"], missing["permanent"]) == (oid, False)
    assert missing["reason"] == "the source has other content under its id"
    # The server may be mended; until then each night says it.
    assert of(case.night(code=3))["lfs"]["missing"][0]["oid"] == oid
    case.lfs.corrupt.clear()
    assert of(case.night())["lfs"]["stored"] == 1
    assert case.stored() == sizes(*FILES)


def test_a_pointer_with_a_wrong_size_keeps_no_file_from_being_stored(case: Case) -> None:
    wrong = {"a": pointer(FILES[0], size=3), "b": pointer(FILES[1], size=1 << 40)}
    commit(case.folder / "acme" / "media.git", "wrong", wrong)
    case.night()
    assert case.stored() == sizes(*FILES)
    # Nor from being found there, nor from coming back.
    assert case.night()["totals"]["objects_written"] == 1
    assert repo_backup("verify", "--from", case.vault).code == 0
    assert restore(case, "back.git")["restored"][0]["lfs"]["files"] == 4


def test_a_server_that_does_not_stop_is_not_listened_to(case: Case) -> None:
    case.lfs.files[oid_of(FILES[1])] = bytes(1 << 20)
    (missing,) = of(case.night(code=3))["lfs"]["missing"]
    assert missing["reason"] == "the source has other content under its id"
    assert case.stored() == sizes(FILES[0], FILES[2], FILES[3])


QUOTA = "This repository is over its data quota. Account responsible should purchase more."


@pytest.mark.parametrize("status", [403, 507, 509])
def test_a_quota_that_is_used_up_is_named_and_git_is_captured(case: Case, status: int) -> None:
    body = json.dumps({"message": QUOTA}).encode()
    case.lfs.refuse = Answer(status, {"Content-Type": "application/vnd.git-lfs+json"}, body)
    report = case.night(code=3)
    assert (of(report)["status"], of(report)["plan"]) == ("captured", "full")
    assert [QUOTA in one["reason"] for one in of(report)["lfs"]["missing"]] == [True] * 4
    assert QUOTA in report["problems"][0]
    assert case.stored() == {}
    # One batch was asked for, and no file.
    asked = [one.target for one in case.server.requests if "lfs" in one.target]
    assert (len(asked), case.lfs.links) == (1, {})
    case.lfs.refuse = None
    report = case.night()
    assert (of(report)["status"], of(report)["plan"]) == ("captured", None)
    assert case.stored() == sizes(*FILES)


def test_a_server_without_lfs_is_said_once_as_new(case: Case) -> None:
    case.server.answer = None
    report = case.night(code=3)
    assert "404" in of(report)["lfs"]["missing"][0]["reason"]
    assert of(case.night())["lfs"]["missing"][0]["known"]


def test_files_of_packs_that_were_captured_before(case: Case) -> None:
    report = case.night("--no-lfs")
    assert (case.stored(), case.lfs.batches) == ({}, [])
    assert "4 new files are kept by Git LFS" in report["notes"][-1]
    assert case.night("--no-lfs")["totals"]["objects_written"] == 1
    report = case.night()
    assert (of(report)["status"], of(report)["plan"]) == ("captured", None)
    assert of(report)["reason"] == "the files of Git LFS are asked for"
    assert case.stored() == sizes(*FILES)
    # Four files, a record and the manifest.
    assert report["totals"]["objects_written"] == 6
    assert case.night()["totals"]["objects_written"] == 1
    assert case.night("--no-lfs")["totals"]["objects_written"] == 1


def test_packs_that_were_not_searched_are_searched_when_files_are_asked_for(case: Case) -> None:
    report = case.night("--check", "trailer")
    assert case.stored() == {}
    assert report["notes"][0].startswith("with check trailer no pack is searched")
    commit(case.folder / "acme" / "media.git", "main", {"a.bin": pointer(FILES[0])})
    case.night("--check", "trailer")
    report = case.night()
    assert (of(report)["plan"], case.stored()) == (None, sizes(*FILES))
    # Four files, what the first pack points to and the second, a record and the manifest.
    assert report["totals"]["objects_written"] == 8
    assert case.night()["totals"]["objects_written"] == 1


def test_a_file_that_is_gone_from_the_vault_is_stored_anew(case: Case) -> None:
    case.night()
    oid = oid_of(FILES[2])
    (case.vault / "git/acme/lfs" / oid[:2] / oid[2:4] / oid).unlink()
    report = case.night()
    assert of(report)["reason"] == "1 files of Git LFS are gone from the vault"
    assert case.stored() == sizes(*FILES)
    assert case.night()["totals"]["objects_written"] == 1


def test_a_folder_has_its_files_itself(tmp_path: Path) -> None:
    media = init_bare(tmp_path / "acme" / "media.git")
    commit(media, "main", {"a.bin": pointer(FILES[0]), "b.bin": pointer(FILES[1])})
    oid = oid_of(FILES[0])
    keep(media, FILES[0])
    vault = tmp_path / "vault"
    words = ("run", "--from", tmp_path / "acme", "--to", vault, "--json")
    report = repo_backup(*words, check=3).json
    (missing,) = of(report)["lfs"]["missing"]
    assert missing["reason"] == "the repository does not have it"
    assert (vault / "folder/acme/lfs" / oid[:2] / oid[2:4] / oid).read_bytes() == FILES[0]
    assert of(repo_backup(*words).json)["lfs"]["missing"][0]["known"]


def test_two_thousand_files_are_asked_for_by_hundreds_and_had_once_each(case: Case) -> None:
    contents = [b"file %d" % number for number in range(2000)]
    case.lfs.add(*contents)
    files = {f"{number}.bin": pointer(one) for number, one in enumerate(contents)}
    commit(case.folder / "acme" / "more.git", "many", files)
    report = case.night(names=("more",))
    assert of(report, "more")["lfs"]["stored"] == 2001
    assert case.stored() == sizes(*contents, FILES[2])
    assert set(case.lfs.links.values()) == {1}
    assert sorted(case.lfs.batches) == [1, *[100] * 20]
    # Two requests of git, and of each file one; a file, a record and what the pack points to.
    requests = report["totals"]["requests"]
    assert requests["lfs"] == 21 + 2001
    assert requests["put"] == 2001 + 4
    assert case.night(names=("more",))["totals"]["requests"].get("lfs", 0) == 0


def test_what_a_pack_points_to_is_made_anew_when_it_cannot_be_read(case: Case) -> None:
    case.night()
    (index,) = case.vault.rglob("*.lfs.json.gz")
    index.write_bytes(index.read_bytes()[:-3])
    report = case.night()
    assert (of(report)["status"], of(report)["plan"]) == ("captured", "full")
    assert of(report)["reason"].startswith("the chain is broken: ")
    assert index.name in of(report)["reason"]
    assert case.stored() == sizes(*FILES)
    assert case.night()["totals"]["objects_written"] == 1
    assert restore(case, "back.git")["restored"][0]["lfs"]["files"] == 4


# --- Given back ---


def given_back(folder: Path) -> dict[str, bytes]:
    """Read the files that a restored repository has where git-lfs looks for them."""
    found = {path.name: path for path in folder.glob("lfs/objects/*/*/*")}
    assert all(path.parts[-3:-1] == (name[:2], name[2:4]) for name, path in found.items())
    return {name: path.read_bytes() for name, path in found.items()}


def restore(case: Case, target: str, *words: str, code: int = 0) -> Any:
    place = case.folder / target
    given = ("acme/media", "--from", str(case.vault), str(place), "--json", *words)
    return repo_backup("restore", *given, check=code).json


def test_files_come_back_with_their_repository(case: Case) -> None:
    gone = case.lfs.files.pop(oid_of(FILES[1]))
    case.night(code=3)
    report = restore(case, "back.git")
    expected = {oid_of(one): one for one in FILES if one != gone}
    assert given_back(case.folder / "back.git") == expected
    assert report["restored"][0]["lfs"] == {
        "files": 3,
        "bytes": sum(map(len, expected.values())),
        "not_stored": 1,
        "not_asked": False,
        "unsearched": 0,
        "failed": [],
    }
    restore(case, "clone", "--checkout")
    assert given_back(case.folder / "clone" / ".git") == expected
    # By hand: the vault's folder is the one that git-lfs has.
    assert {path.name for path in (case.vault / "git/acme/lfs").glob("*/*/*")} == set(expected)


def test_a_file_that_is_damaged_keeps_nothing_else_from_coming_back(case: Case) -> None:
    case.night()
    first, second = (oid_of(FILES[number]) for number in (0, 1))
    place = case.vault / "git/acme/lfs"
    (place / first[:2] / first[2:4] / first).write_bytes(b"other")
    (place / second[:2] / second[2:4] / second).unlink()
    report = restore(case, "back.git", code=4)
    assert given_back(case.folder / "back.git").keys() == {oid_of(FILES[2]), oid_of(FILES[3])}
    told = report["restored"][0]["lfs"]["failed"]
    assert [first in line or second in line for line in told] == [True, True]


@pytest.mark.parametrize("depth", ["objects", "packs", "restore"])
def test_verify_looks_after_files(case: Case, depth: str) -> None:
    case.night(names=("media", "more"))

    def damaged() -> dict[str, tuple[str, int]]:
        words = ("verify", "--from", case.vault, "--depth", depth, "--json")
        found = repo_backup(*words, check=None)
        told = found.json["damaged"]
        assert found.code == (4 if told else 0)
        return {
            one["uri"].rpartition("/")[2]: (one["problem"], len(one["repositories"]))
            for one in told
        }

    assert damaged() == {}
    first, shared = oid_of(FILES[0]), oid_of(FILES[2])
    place = case.vault / "git/acme/lfs"
    changed = place / first[:2] / first[2:4] / first
    changed.write_bytes(FILES[0].upper())
    (place / shared[:2] / shared[2:4] / shared).unlink()
    expected = {shared: ("it is missing", 2)}
    if depth != "objects":
        expected[first] = ("its content is not the one that its name is the SHA-256 of", 1)
    assert damaged() == expected
    # Shorter is seen in the listing.
    changed.write_bytes(b"short")
    assert damaged().keys() == {first, shared}


def test_verify_reads_what_packs_point_to(case: Case) -> None:
    case.night()
    (index,) = case.vault.rglob("*.lfs.json.gz")
    index.write_bytes(index.read_bytes()[:-3])
    words = ("verify", "--from", case.vault, "--json")
    (damage,) = repo_backup(*words, check=4).json["damaged"]
    assert damage["uri"].endswith(".lfs.json.gz")
    # What git has comes back all the same.
    assert restore(case, "back.git", code=4)["restored"][0]["refs"] == 3
    assert given_back(case.folder / "back.git") == {}


# --- To a new home ---


@pytest.fixture
def new_home(tmp_path: Path) -> Iterator[tuple[GitHttpServer, LfsStore]]:
    path = init_bare(tmp_path / "home" / "acme" / "media.git")
    git("config", "http.receivepack", "true", cwd=path)
    with lfs_server(tmp_path / "home", credentials=("x-access-token", TOKEN)) as (server, lfs):
        yield server, lfs
        assert lfs.wrong == []


def push(case: Case, server: GitHttpServer, *, code: int = 0, name: str = "media") -> Any:
    words = ("acme/media", "--from", str(case.vault), "--json")
    to = f"{server.url}/acme/{name}.git"
    env = {"REPO_BACKUP_TOKEN": TOKEN}
    return repo_backup("restore", *words, "--push", to, env=env, check=code).json["push"]


def test_a_push_sends_files_first(case: Case, new_home: tuple[GitHttpServer, LfsStore]) -> None:
    server, lfs = new_home
    case.night()
    lfs.add(FILES[0])
    lfs.ends[oid_of(FILES[1])] = 1
    told = push(case, server)
    assert told["lfs"] == {"sent": 3, "failed": []}
    assert lfs.files == case.lfs.files
    assert sorted(lfs.verified) == sorted(oid_of(one) for one in FILES[1:])
    # A forge refuses refs whose files it does not have.
    sent = [one.target for one in server.requests]
    last_batch = max(number for number, one in enumerate(sent) if one.endswith("objects/batch"))
    assert last_batch < next(n for n, one in enumerate(sent) if one.endswith("/git-receive-pack"))
    # What is there is not sent again.
    again = push(case, server)
    assert (again["lfs"]["sent"], again["sent"]) == (0, [])


def test_what_the_new_home_does_not_take_is_named(
    case: Case, new_home: tuple[GitHttpServer, LfsStore]
) -> None:
    server, lfs = new_home
    case.night()
    full = oid_of(FILES[3])
    lfs.corrupt.add(full)
    told = push(case, server, code=3)
    assert told["lfs"]["sent"] == 3
    (problem,) = told["lfs"]["failed"]
    assert full in problem
    assert "full" in problem
    assert len(told["sent"]) == 3
    server.answer = None
    told = push(case, server, code=3)
    (problem,) = told["lfs"]["failed"]
    assert problem.startswith("4 files of Git LFS: ")


def test_files_are_not_sent_where_that_cannot_be_done(case: Case, tmp_path: Path) -> None:
    case.night()
    target = init_bare(tmp_path / "plain.git")
    words = ("acme/media", "--from", str(case.vault), "--push", str(target), "--json")
    told = repo_backup("restore", *words, check=3).json["push"]
    assert told["lfs"]["failed"] == [
        f"4 files of Git LFS were not sent: git lfs push --all {target} sends them"
    ]


# --- Over ssh ---


@pytest.fixture
def over_ssh(case: Case, tmp_path: Path) -> Iterator[tuple[SshServer, Path]]:
    told = tmp_path / "told.json"
    with ssh_server(tmp_path, tmp_path / "ssh", writes=True, lfs=told) as server:
        yield server, told


def tell(case: Case, told: Path, **more: Any) -> None:
    """Let the ssh server say where the LFS server is, and what it needs."""
    value = basic("x-access-token", Secret(TOKEN)).reveal()
    answer = {
        "href": f"{case.server.url}/acme/media.git/info/lfs",
        "header": {"Authorization": value},
        "expires_in": 3600,
    }
    told.write_text(json.dumps(answer | more))


def ssh_words(server: SshServer) -> dict[str, str]:
    return {
        "REPO_BACKUP_FROM": f"git:{server.url}/acme/media.git",
        "REPO_BACKUP_SSH_KEY_FILE": str(server.key_file),
        "REPO_BACKUP_SSH_KNOWN_HOSTS_FILE": str(server.known_hosts_file),
    }


def test_over_ssh_the_server_tells_where_files_are(
    case: Case, over_ssh: tuple[SshServer, Path]
) -> None:
    server, told = over_ssh
    tell(case, told)
    words = ("run", "--to", str(case.vault), "--owner", "acme", "--json")
    report = repo_backup(*words, env=ssh_words(server)).json
    assert case.stored() == sizes(*FILES)
    # ssh is asked once, the server for links once, and the store for each file.
    assert report["totals"]["requests"]["lfs"] == 1 + 1 + 4
    again = repo_backup(*words, env=ssh_words(server)).json
    assert again["totals"]["requests"].get("lfs", 0) == 0
    case.lfs.files.clear()
    env = ssh_words(server)
    env.pop("REPO_BACKUP_FROM")
    restored = ("restore", "acme/media", "--from", str(case.vault), "--json", "--force")
    pushed = repo_backup(*restored, "--push", f"{server.url}/acme/more.git", env=env, check=None)
    assert pushed.json["push"]["lfs"] == {"sent": 4, "failed": []}
    assert case.lfs.files == {oid_of(one): one for one in FILES}


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        ({"href": "http://elsewhere.example/lfs"}, "without encryption"),
        ({"href": 7}, "names no server"),
        ({"header": {"A": "b\nc"}}, "headers that cannot be sent"),
    ],
)
def test_over_ssh_a_server_that_is_none(
    answer: dict[str, Any], words: str, case: Case, over_ssh: tuple[SshServer, Path]
) -> None:
    server, told = over_ssh
    tell(case, told, **answer)
    run = ("run", "--to", str(case.vault), "--owner", "acme", "--json")
    report = repo_backup(*run, env=ssh_words(server), check=3).json
    assert of(report)["status"] == "captured"
    assert words in of(report)["lfs"]["missing"][0]["reason"]


def test_over_ssh_a_server_without_files(case: Case, tmp_path: Path) -> None:
    with ssh_server(tmp_path, tmp_path / "ssh") as server:
        run = ("run", "--to", str(case.vault), "--owner", "acme", "--json")
        report = repo_backup(*run, env=ssh_words(server), check=3).json
    reason = of(report)["lfs"]["missing"][0]["reason"]
    assert "does not tell where its files of Git LFS are (only reading is allowed" in reason
