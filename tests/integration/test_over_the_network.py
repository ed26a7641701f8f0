"""Over HTTP and into S3, by the real program: what comes back is what was there.

rclone's S3 server keeps objects as plain files, so that a vault in its bucket can be looked at as
the folder that it is.
"""

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from threading import Condition
from typing import Any

import pytest

from tests.support.git import commit_chain, init_bare, set_head, update_refs
from tests.support.gitserver import Answer, GitHttpServer, Request
from tests.support.history import LivingRepository
from tests.support.mirrors import HIDDEN_REFS, assert_same_mirror, clone_mirror, mirror_state
from tests.support.program import Completed, repo_backup
from tests.support.s3server import S3Server, rclone_server
from tests.support.shapes import LARGE, SOUND, make
from tests.support.tls import certificates
from tests.support.vaults import captures_of, plain_mirror, to_be_kept

# What they share takes long to make: once, on one worker.
pytestmark = pytest.mark.xdist_group("over-the-network")

WHOLE = sorted({*SOUND, *LARGE})
BUCKET = "vault"
TO = f"s3://{BUCKET}/git"


@dataclass(frozen=True)
class Store:
    """A bucket that is a folder too."""

    server: S3Server
    folder: Path

    def env(self, **more: str) -> dict[str, str]:
        return {
            **self.server.environment(),
            "REPO_BACKUP_ENDPOINT_URL": self.server.endpoint_url,
            **more,
        }

    def objects(self) -> list[str]:
        found = (path.relative_to(self.folder) for path in self.folder.rglob("*"))
        return sorted(str(path) for path in found if (self.folder / path).is_file())

    def document(self, kind: str) -> Any:
        key = [key for key in self.objects() if f"/{kind}/" in key][-1]
        return json.loads(gzip.decompress((self.folder / key).read_bytes()))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    folder = tmp_path_factory.mktemp("store")
    with rclone_server(folder / "objects", certificates(folder / "tls")) as server:
        server.make_bucket(BUCKET)
        yield Store(server, folder / "objects" / BUCKET / "git")


@pytest.fixture
def plain_store(tmp_path: Path) -> Iterator[Store]:
    with rclone_server(tmp_path / "objects", None) as server:
        server.make_bucket(BUCKET)
        yield Store(server, tmp_path / "objects" / BUCKET / "git")


def urls(server: GitHttpServer, names: list[str], owner: str = "acme") -> str:
    return "\n".join(f"git:{server.url}/{owner}/{name}.git" for name in names)


def back_up(
    store: Store, sources: str, *extra: str, check: int | None = 0, **env: str
) -> Completed:
    return repo_backup(
        *("run", "--to", TO, "--json", *extra),
        env=store.env(REPO_BACKUP_FROM=sources, **env),
        check=check,
    )


# --- Every shape, by us and by plain git ---------------------------------------------------------


@dataclass(frozen=True)
class BackedUp:
    source: Path
    store: Store
    restored: Path
    first: Any
    second: Any
    written: frozenset[str]
    requests: int


@pytest.fixture(scope="module")
def everything(store: Store, tmp_path_factory: pytest.TempPathFactory) -> BackedUp:
    folder = tmp_path_factory.mktemp("shapes")
    source = folder / "acme"
    for name in WHOLE:
        make(name, source / f"{name}.git")
    with GitHttpServer(folder) as server:
        sources = urls(server, WHOLE)
        first = back_up(store, sources).json
        before, asked = set(store.objects()), len(server.requests)
        second = back_up(store, sources).json
        requests = len(server.requests) - asked
    written = frozenset(set(store.objects()) - before)
    target = folder / "restored"
    repo_backup("restore", "--all", target, "--from", TO, env=store.env())
    return BackedUp(source, store, target, first, second, written, requests)


@pytest.mark.parametrize("name", WHOLE)
def test_a_shape_is_restored_as_git_clone_mirror_makes_it(
    name: str, everything: BackedUp, tmp_path: Path
) -> None:
    clone = clone_mirror(everything.source / f"{name}.git", tmp_path / "clone.git")
    expected = replace(mirror_state(clone, HIDDEN_REFS), ignore=())
    assert_same_mirror(everything.restored / f"{name}.git", expected)


def test_every_shape_is_given_back_by_plain_git_from_the_listed_uris(
    everything: BackedUp, tmp_path: Path
) -> None:
    # What is listed and stored does not depend on the way there.
    names = WHOLE if everything.store.server.ca_file is None else WHOLE[:2]
    for name in names:
        answer = repo_backup(
            "list", f"acme/{name}", "--from", TO, "--json", env=everything.store.env()
        )
        (item,) = captures_of(answer.json)
        # The same objects, as files.
        uris = [str(uri) for uri in item.chain]
        assert all(uri.startswith(f"s3:/{BUCKET}/git/") for uri in uris)
        chain = tuple(
            everything.store.folder / uri.removeprefix(f"s3:/{BUCKET}/git/") for uri in uris
        )
        expected = to_be_kept(everything.source / f"{name}.git")
        mirror = plain_mirror(chain, tmp_path / f"{name}.git", expected.object_format)
        mirror.assert_gives(expected)


def test_a_night_without_changes_writes_one_object_and_asks_twice_a_repository(
    everything: BackedUp,
) -> None:
    status = {one["path"]: one["status"] for one in everything.second["repositories"]}
    assert status == {name: "empty" if name == "empty" else "unchanged" for name in WHOLE}
    assert everything.second["totals"]["objects_written"] == 1
    assert [key.split("/")[-2] for key in everything.written] == ["snapshots"]
    assert everything.requests == 2 * len(WHOLE)
    assert everything.second["totals"]["requests"]["git"] == 2 * len(WHOLE)


def test_the_first_night_is_whole(everything: BackedUp) -> None:
    assert everything.first["result"] == "success"
    assert all(one["retries"] == 0 for one in everything.first["repositories"])


# --- A life of many nights -----------------------------------------------------------------------


def test_every_night_of_a_living_repository_comes_back(plain_store: Store, tmp_path: Path) -> None:
    life = LivingRepository(tmp_path / "src" / "acme" / "widgets.git")
    life.live([("push", 0), ("create-tag", 0)])
    nights = []
    with GitHttpServer(tmp_path / "src") as server:
        sources = urls(server, ["widgets"])
        for action in ("push", "force-push", "create-branch", "push", "delete-branch", "push"):
            report = back_up(plain_store, sources, "--max-drop-percent", "100").json
            nights.append((report["snapshot"], to_be_kept(life.path)))
            life.apply(action, 1)
    for number, (snapshot, state) in enumerate(nights):
        target = tmp_path / f"{number}.git"
        words = ("restore", "acme/widgets", target, "--from", TO, "--at", snapshot)
        repo_backup(*words, env=plain_store.env())
        assert_same_mirror(target, state)


# --- Many ----------------------------------------------------------------------------------------


def test_hundreds_of_repositories_are_all_taken(plain_store: Store, tmp_path: Path) -> None:
    """The image's test takes 1,234."""
    many = 434
    model = init_bare(tmp_path / "src" / "acme" / "model.git")
    update_refs(model, {b"refs/heads/main": commit_chain(model, 1)[-1]})
    set_head(model, b"refs/heads/main")
    names = [f"r{number:04}" for number in range(many)]
    for name in names:
        (model.parent / f"{name}.git").symlink_to(model)
    with GitHttpServer(tmp_path / "src") as server:
        report = back_up(plain_store, urls(server, names), "--check", "trailer").json
    assert report["totals"]["captured"] == report["totals"]["listed"] == many
    assert report["totals"]["objects_written"] == 2 * many + 1
    rows = repo_backup("list", "--from", TO, "--json", env=plain_store.env()).json["snapshots"]
    assert [row["captured"] for row in rows] == [many]
    assert len({key for key in plain_store.objects() if key.endswith(".full.bundle")}) == many


# --- What a server answers -----------------------------------------------------------------------


@pytest.fixture
def acme(tmp_path: Path) -> Path:
    for name in ("a", "b", "c"):
        make("notes", tmp_path / "src" / "acme" / f"{name}.git")
    return tmp_path / "src"


def told(done: Completed) -> dict[str, Any]:
    return {one["path"]: one for one in done.json["repositories"]}


LINK = '<https://forge.example/notices/7>; rel="blocked-by"'


@pytest.mark.parametrize(
    ("refusal", "words"),
    [
        (Answer(451, {"Link": LINK}, b"Taken down."), "https://forge.example/notices/7"),
        (Answer(403, {}, b"Repository access blocked"), "Repository access blocked"),
        (
            Answer(403, {}, b"Access to this repository has been disabled by GitHub staff."),
            "disabled by GitHub staff",
        ),
    ],
)
def test_a_repository_that_is_blocked_is_skipped_with_the_notice_and_then_known(
    refusal: Answer, words: str, plain_store: Store, acme: Path
) -> None:
    blocked = False

    def answer(request: Request) -> Answer | None:
        return refusal if blocked and "/b.git/" in request.target else None

    with GitHttpServer(acme, answer=answer) as server:
        sources = urls(server, ["a", "b", "c"])
        back_up(plain_store, sources)
        blocked = True
        first, second = (back_up(plain_store, sources) for _ in range(2))
        assert first.json["result"] == second.json["result"] == "success"
        assert told(first)["b"]["status"] == "skipped"
        assert words in told(first)["b"]["reason"]
        assert [told(one)["b"]["known"] for one in (first, second)] == [False, True]
        entry = next(e for e in plain_store.document("snapshots")["entries"] if e["path"] == "b")
        assert "blocked" in entry["skipped_why"]
        # Its earlier backup is untouched, and it goes on once the block is lifted.
        target = acme / "b-restored.git"
        repo_backup("restore", "acme/b", target, "--from", TO, env=plain_store.env())
        assert_same_mirror(target, to_be_kept(acme / "acme" / "b.git"))
        blocked = False
        assert told(back_up(plain_store, sources))["b"]["status"] == "unchanged"


@pytest.mark.parametrize(
    ("status", "words"),
    [(401, "REPO_BACKUP_TOKEN"), (403, "b.git"), (404, "b.git"), (410, "b.git")],
)
def test_a_repository_that_is_refused_fails_alone_and_says_why(
    status: int, words: str, plain_store: Store, acme: Path
) -> None:
    def answer(request: Request) -> Answer | None:
        return Answer(status, {}, b"no") if "/b.git/" in request.target else None

    with GitHttpServer(acme, answer=answer) as server:
        done = back_up(plain_store, urls(server, ["a", "b", "c"]), check=3)
    outcomes = told(done)
    assert {path: one["status"] for path, one in outcomes.items()} == {
        "a": "captured",
        "b": "failed",
        "c": "captured",
    }
    assert words in outcomes["b"]["reason"] + outcomes["b"]["hint"]
    assert outcomes["b"]["retries"] == 0


def test_a_throttle_is_waited_out_and_told(plain_store: Store, acme: Path) -> None:
    left = 2

    def answer(request: Request) -> Answer | None:
        nonlocal left
        if left and "/b.git/git-upload-pack" in request.target:
            left -= 1
            return Answer(429, {"Retry-After": "1"}, b"slow down")
        return None

    with GitHttpServer(acme, answer=answer) as server:
        done = back_up(plain_store, urls(server, ["a", "b", "c"]))
    assert done.json["result"] == "success"
    assert told(done)["b"]["retries"] == 2
    assert done.stderr.count("acme/b:") >= 2
    assert "again in" in done.stderr


class AtOnce:
    """Today's git, which notes how many packs it is asked for at the same time."""

    def __init__(self, patience_seconds: float) -> None:
        self.most = self._now = 0
        self._changed = Condition()
        self._patience_seconds = patience_seconds

    def dies(self, body: bytes) -> bool:
        if b"command=fetch" in body:
            with self._changed:
                self._now += 1
                self.most = max(self.most, self._now)
                self._changed.notify_all()
                # Who may come beside this one comes now.
                self._changed.wait_for(lambda: self.most > 1, self._patience_seconds)
                self._now -= 1
        return False

    def says(self, _request: Request, body: bytes) -> bytes:
        return body


@pytest.mark.parametrize("throttled", [False, True])
def test_a_server_that_throttles_is_asked_for_fewer_packs_at_once(
    throttled: bool, tmp_path: Path
) -> None:
    names = ["a", "b", "c", "d"]
    for name in names:
        path = init_bare(tmp_path / "git" / "acme" / f"{name}.git")
        update_refs(path, {b"refs/heads/main": commit_chain(path, 1, label=name.encode())[-1]})
    refused: set[str] = set()

    def answer(request: Request) -> Answer | None:
        if not throttled or request.target in refused:
            return None
        refused.add(request.target)
        return Answer(429, {"Retry-After": "1"}, b"slow down")

    at_once = AtOnce(0.5 if throttled else 60)
    with GitHttpServer(tmp_path / "git", answer=answer, imitates=at_once) as server:
        words = ("run", "--from", urls(server, names), "--to", tmp_path / "vault", "--json")
        done = repo_backup(*words, "--concurrency", "2")
    assert {one["status"] for one in done.json["repositories"]} == {"captured"}
    assert at_once.most == (1 if throttled else 2)


def test_a_server_without_version_2_is_mirrored_and_the_record_says_so(
    plain_store: Store, acme: Path, tmp_path: Path
) -> None:
    with GitHttpServer(acme, protocol=0, credentials=("x-access-token", "sentinel-7c1f")) as server:
        done = back_up(plain_store, urls(server, ["a"]), REPO_BACKUP_TOKEN="sentinel-7c1f")
    assert told(done)["a"]["plan"] == "full"
    target = tmp_path / "a.git"
    repo_backup("restore", "acme/a", target, "--from", TO, env=plain_store.env())
    assert_same_mirror(target, to_be_kept(acme / "acme" / "a.git"))


def test_a_server_that_throttles_for_long_keeps_no_other_from_being_backed_up(
    tmp_path: Path,
) -> None:
    places = []
    for number in range(12):
        path = init_bare(tmp_path / "here" / f"r{number}.git")
        update_refs(path, {b"refs/heads/main": commit_chain(path, 1)[-1]})
        places.append(str(path))
    throttle = Answer(429, {"Retry-After": "800"}, b"slow down")
    with GitHttpServer(tmp_path / "git", answer=lambda _: throttle) as server:
        (tmp_path / "list").write_text("\n".join([f"{server.url}/acme/bad.git", *places]))
        words = ("run", "--from", "git:@list", "--owner", "all", "--to", "vault", "--json")
        # A pause beyond the deadline is not begun.
        limits = ("--deadline-minutes", "10", "--concurrency", "1")
        report = repo_backup(*words, *limits, cwd=tmp_path, check=3).json
    rows = {one["path"]: one["status"] for one in report["repositories"]}
    assert rows.pop("bad") == "not-reached"
    assert list(rows.values()) == ["captured"] * 12
