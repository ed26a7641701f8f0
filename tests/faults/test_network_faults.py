"""Faults between us and servers: git's and the store's. What is claimed afterwards is true."""

import os
import random
import re
import signal
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import botocore.endpoint
import pytest
from urllib3 import BaseHTTPResponse

from backup.commands import owner, remotes, retrying
from backup.commands.run import RunOptions, run
from backup.destinations.folder import FolderDestination
from backup.destinations.s3 import S3Destination, S3Settings
from backup.errors import AccessDenied, BackupError, SessionExpired
from backup.git.http import HttpClient, HttpSettings
from backup.model import RunReport
from backup.report.document import run_document
from backup.sources.plain import GitUrlSource
from backup.stopping import Stop
from tests.support.faults import assert_nothing_false
from tests.support.git import EPOCH, FastImport, commit_chain, init_bare, set_head, update_refs
from tests.support.gitserver import GitHttpServer
from tests.support.mirrors import MirrorState, assert_same_mirror
from tests.support.program import Completed, repo_backup, start_repo_backup
from tests.support.proxy import FaultProxy, ProxyFault
from tests.support.s3server import S3Server, moto_server, rclone_server, s3_error
from tests.support.vaults import Silence, to_be_kept

BUCKET = "vault"
TO = f"s3://{BUCKET}/git"
NAMES = ("a", "b", "c")


def push(path: Path, label: bytes, count: int = 2) -> None:
    tips = commit_chain(path, count, label=label)
    update_refs(path, {b"refs/heads/main": tips[-1]})


@dataclass
class Scene:
    """Three repositories behind git http-backend, and a bucket that is a folder too."""

    root: Path
    git: GitHttpServer
    store: S3Server
    objects: Path

    def repository(self, name: str) -> Path:
        return self.root / "acme" / f"{name}.git"

    def states(self) -> dict[str, MirrorState]:
        return {name: to_be_kept(self.repository(name)) for name in NAMES}

    def back_up(
        self,
        *extra: str,
        git: str = "",
        store: str = "",
        check: int | None = 0,
    ) -> Completed:
        return repo_backup(*self.words(*extra), env=self.env(git=git, store=store), check=check)

    def words(self, *extra: str) -> tuple[str, ...]:
        return ("run", "--to", TO, "--json", *extra)

    def env(self, *, git: str = "", store: str = "") -> dict[str, str]:
        place = git or self.git.url
        return {
            **self.store.environment(),
            "REPO_BACKUP_ENDPOINT_URL": store or self.store.endpoint_url,
            "REPO_BACKUP_OWNER": "acme",
            "REPO_BACKUP_FROM": "\n".join(f"git:{place}/acme/{name}.git" for name in NAMES),
        }

    def run_here(self, *, git: str = "", store: str = "", **options: Any) -> RunReport:
        """Run in this process."""
        place = git or self.git.url
        source = GitUrlSource([f"{place}/acme/{name}.git" for name in NAMES], owner="acme")
        stop = Stop()
        settings = S3Settings(
            bucket=BUCKET, prefix="git", endpoint_url=store or self.store.endpoint_url
        )
        destination = S3Destination(settings, stop=stop)
        try:
            return run([source], destination, RunOptions(**options), events=Silence(), stop=stop)
        finally:
            destination.close()

    def vault(self) -> FolderDestination:
        """Look at the bucket as the folder that it is."""
        return FolderDestination(self.objects / BUCKET / "git")

    def assert_comes_back(self, target: Path, states: dict[str, MirrorState]) -> None:
        repo_backup("restore", "--all", target, "--from", TO, env=self.env())
        made = {path.name.removesuffix(".git"): path for path in target.iterdir()}
        assert made.keys() == states.keys()
        for name, path in made.items():
            assert_same_mirror(path, states[name])


@pytest.fixture
def scene(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    for name in NAMES:
        path = init_bare(tmp_path / "src" / "acme" / f"{name}.git")
        push(path, name.encode())
        set_head(path, b"refs/heads/main")
    with (
        GitHttpServer(tmp_path / "src") as server,
        rclone_server(tmp_path / "objects", None) as store,
    ):
        store.make_bucket(BUCKET)
        for name, value in store.environment().items():
            monkeypatch.setenv(name, value)
        yield Scene(tmp_path / "src", server, store, tmp_path / "objects")


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrying, "_FIRST_PAUSE_SECONDS", 0.01)


# --- Git's side ----------------------------------------------------------------------------------

REFS = r"/b\.git/info/refs"
ASK = r"/b\.git/git-upload-pack"
PASSING = {
    "hung up before the advertisement": ProxyFault(action="hang up", target=REFS, times=2),
    "an advertisement that is cut": ProxyFault(action="cut", target=REFS, byte=20, times=2),
    "a gateway without a server": ProxyFault(action="refuse", target=REFS, status=502, times=2),
    "a server that restarts": ProxyFault(action="refuse", target=ASK, status=503, times=2),
    "a request that is cut": ProxyFault(action="cut request", target=ASK, byte=30, times=2),
    "a list of refs that is lost": ProxyFault(action="lose", target=ASK, times=2),
    "a list of refs that is cut": ProxyFault(action="cut", target=ASK, byte=60, times=2),
}
# The second request to upload-pack is the fetch, when no fault made it another one.
PACKS = {
    "a pack that is cut": ProxyFault(action="cut", target=ASK, skip=1, byte=200),
    "a pack that is lost": ProxyFault(action="lose", target=ASK, skip=1),
    "a fetch that is hung up": ProxyFault(action="hang up", target=ASK, skip=1),
}


@pytest.mark.parametrize("name", [*PASSING, *PACKS])
def test_what_passes_is_tried_again_and_told(name: str, scene: Scene, tmp_path: Path) -> None:
    fault = (PASSING | PACKS)[name]
    with FaultProxy(scene.git.url, fault) as proxy:
        report = scene.run_here(git=proxy.url)
    assert report.result == "success"
    retries = {outcome.path: outcome.retries for outcome in report.outcomes}
    assert retries == {"a": 0, "b": fault.times, "c": 0}
    assert_nothing_false(scene.vault())
    scene.assert_comes_back(tmp_path / "restored", scene.states())


def test_a_server_that_never_works_costs_its_repository_alone_and_keeps_the_old_state(
    scene: Scene, tmp_path: Path
) -> None:
    fault = ProxyFault(action="cut", target=ASK, byte=100, times=None)
    with FaultProxy(scene.git.url, fault) as proxy:
        scene.run_here(git=scene.git.url)
        before = scene.states()
        for name in NAMES:
            push(scene.repository(name), b"later")
        report = scene.run_here()
        assert report.result == "success"
        after = scene.states()
        push(scene.repository("b"), b"lost")
        # Another address is another repository: what was stored is under the first one.
        failed = scene.run_here(git=proxy.url)
        assert proxy.struck(fault) == retrying.TRIES
    assert failed.result == "partial"
    assert before != after
    (broken,) = [one for one in failed.outcomes if one.status == "failed"]
    assert (broken.path, broken.retries) == ("b", retrying.TRIES - 1)
    assert_nothing_false(scene.vault())


class Impatient(HttpClient):
    """A client that waits a second for what b's upload-pack answers, and long for all others."""

    def __init__(self, settings: HttpSettings, *, connections: int, stop: Stop) -> None:
        super().__init__(settings, connections=connections, stop=stop)
        self._hasty = HttpClient(settings, connections=connections, stop=stop, patience_seconds=1.0)

    def request(self, method: str, url: str, **more: Any) -> BaseHTTPResponse:
        if re.search(ASK, url):
            return self._hasty.request(method, url, **more)
        return super().request(method, url, **more)

    def close(self) -> None:
        self._hasty.close()
        super().close()


def test_a_server_that_stalls_is_given_up_and_its_repository_reported_as_failed(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remotes, "HttpClient", Impatient)
    stall = ProxyFault(action="stall", target=ASK, byte=20, times=retrying.TRIES)
    with FaultProxy(scene.git.url, stall) as proxy:
        told = run_document(scene.run_here(git=proxy.url))
        assert (told["result"], told["exit_code"]) == ("partial", 3)
        assert (told["totals"]["captured"], told["totals"]["failed"]) == (2, 1)
        rows = {one["path"]: one for one in told["repositories"]}
        assert {path: row["status"] for path, row in rows.items()} == {
            "a": "captured",
            "b": "failed",
            "c": "captured",
        }
        assert "no byte came for" in rows["b"]["reason"]
        assert rows["b"]["retries"] == retrying.TRIES - 1
        assert_nothing_false(scene.vault())
        monkeypatch.setattr(remotes, "HttpClient", HttpClient)
        again = scene.run_here(git=proxy.url)
    assert {one.path: one.status for one in again.outcomes} == {
        "a": "unchanged",
        "b": "captured",
        "c": "unchanged",
    }
    scene.assert_comes_back(tmp_path / "restored", scene.states())


def test_a_pack_with_a_flipped_bit_is_never_recorded(scene: Scene) -> None:
    faults = [
        ProxyFault(action="flip", target=ASK, skip=1, byte=byte, times=1) for byte in (60, 150, 300)
    ]
    for fault in faults:
        with FaultProxy(scene.git.url, fault) as proxy:
            report = scene.run_here(git=proxy.url, check="trailer")
        (b,) = [one for one in report.outcomes if one.path == "b"]
        assert b.status in {"captured", "failed"}
        assert_nothing_false(scene.vault())


def test_the_program_itself_tells_its_retries(scene: Scene) -> None:
    fault = PASSING["a server that restarts"]
    with FaultProxy(scene.git.url, fault) as proxy:
        done = scene.back_up(git=proxy.url)
    outcomes = {one["path"]: one for one in done.json["repositories"]}
    assert outcomes["b"]["retries"] == 2
    assert done.stderr.count("again in") == 2


# --- The store's side ----------------------------------------------------------------------------


def count_requests(scene: Scene) -> int:
    with FaultProxy(scene.store.endpoint_url) as proxy:
        scene.run_here(store=proxy.url)
        return len(proxy.requests)


@pytest.mark.parametrize("action", ["hang up", "lose", "refuse", "twice"])
def test_one_fault_at_any_request_of_a_night_costs_nothing(
    action: Any, scene: Scene, tmp_path: Path
) -> None:
    scene.run_here()
    push(scene.repository("b"), b"first")
    requests = count_requests(scene)
    assert requests > 10
    for number in range(requests):
        push(scene.repository("b"), b"night %d" % number)
        fault = ProxyFault(action=action, skip=number)
        with FaultProxy(scene.store.endpoint_url, fault) as proxy:
            report = scene.run_here(store=proxy.url)
            where = (action, number, proxy.requests[number])
        assert report.result == "success", where
        assert_nothing_false(scene.vault())
    scene.assert_comes_back(tmp_path / "restored", scene.states())


def test_access_denied_at_one_key_costs_that_repository_alone(scene: Scene, tmp_path: Path) -> None:
    fault = s3_error(403, "AccessDenied", method="PUT", target="/repositories/b/", times=None)
    with FaultProxy(scene.store.endpoint_url, fault) as proxy:
        report = scene.run_here(store=proxy.url)
    assert report.result == "partial"
    outcomes = {outcome.path: outcome for outcome in report.outcomes}
    assert {path: one.status for path, one in outcomes.items()} == {
        "a": "captured",
        "b": "failed",
        "c": "captured",
    }
    assert outcomes["b"].retries == 0
    assert "repositories/b/" in outcomes["b"].reason
    assert_nothing_false(scene.vault())
    assert scene.run_here().result == "success"
    scene.assert_comes_back(tmp_path / "restored", scene.states())


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_a_newest_manifest_that_is_denied_is_never_an_empty_vault(
    method: str, scene: Scene
) -> None:
    scene.run_here()
    push(scene.repository("a"), b"later")
    fault = s3_error(403, "AccessDenied", method=method, target=r"/snapshots/\d", times=None)
    before = {path for path in scene.objects.rglob("*") if "/snapshots/" in str(path)}
    with (
        FaultProxy(scene.store.endpoint_url, fault) as proxy,
        pytest.raises(AccessDenied, match="snapshots"),
    ):
        scene.run_here(store=proxy.url)
    after = {path for path in scene.objects.rglob("*") if "/snapshots/" in str(path)}
    assert before == after


def test_a_lost_answer_to_the_manifest_is_a_success_and_one_manifest(
    scene: Scene, tmp_path: Path
) -> None:
    fault = ProxyFault(action="lose", method="PUT", target="/snapshots/")
    with FaultProxy(scene.store.endpoint_url, fault) as proxy:
        report = scene.run_here(store=proxy.url)
    assert report.result == "success"
    assert len([p for p in scene.objects.rglob("*") if "/snapshots/2" in str(p)]) == 1
    scene.assert_comes_back(tmp_path / "restored", scene.states())


def test_a_storm_of_slow_downs_is_sat_out(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # How long boto3 waits between its tries is its own affair, and half a minute here.
    monkeypatch.setattr(botocore.endpoint, "time", SimpleNamespace(sleep=lambda seconds: None))
    storm = s3_error(503, "SlowDown", times=7, exact=True)
    with FaultProxy(scene.store.endpoint_url, storm) as proxy:
        report = scene.run_here(store=proxy.url)
    assert report.result == "success"
    scene.assert_comes_back(tmp_path / "restored", scene.states())


def test_a_session_that_expires_ends_the_run_and_the_checkpoint_stands(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(owner, "CHECKPOINT_SECONDS", 0.0)
    # The first repository's bundle and record are stored.
    expired = s3_error(
        400, "ExpiredToken", method="PUT", target="/repositories/", skip=2, times=None
    )
    with (
        FaultProxy(scene.store.endpoint_url, expired) as proxy,
        pytest.raises(SessionExpired) as caught,
    ):
        scene.run_here(store=proxy.url, concurrency=1)
    assert "duration" in caught.value.hint
    assert [p for p in scene.objects.rglob("*") if "/checkpoints/" in str(p)]
    assert not [p for p in scene.objects.rglob("*") if "/snapshots/" in str(p)]
    report = scene.run_here()
    assert report.result == "success"
    statuses = sorted(outcome.status for outcome in report.outcomes)
    assert statuses == ["captured", "captured", "unchanged"]
    scene.assert_comes_back(tmp_path / "restored", scene.states())


def test_the_program_says_which_setting_makes_a_session_longer(scene: Scene) -> None:
    expired = s3_error(400, "ExpiredToken", method="PUT", target="/repositories/", times=None)
    with FaultProxy(scene.store.endpoint_url, expired) as proxy:
        done = scene.back_up(store=proxy.url, check=1)
    assert "role-duration-seconds" in done.stderr
    assert "error:" in done.stderr


def test_a_clock_that_is_off_is_said(scene: Scene) -> None:
    skewed = s3_error(403, "RequestTimeTooSkewed", times=None)
    with FaultProxy(scene.store.endpoint_url, skewed) as proxy:
        done = scene.back_up(store=proxy.url, check=1)
    assert "clock" in done.stderr


def test_a_bucket_that_does_not_exist_is_a_matter_of_configuration(scene: Scene) -> None:
    done = repo_backup(
        *("run", "--to", "s3://no-such-bucket/git", "--json"), env=scene.env(), check=2
    )
    assert "s3://no-such-bucket" in done.stderr


def test_without_credentials_nothing_is_asked(scene: Scene) -> None:
    env = scene.env()
    del env["AWS_ACCESS_KEY_ID"], env["AWS_SECRET_ACCESS_KEY"]
    done = repo_backup(*scene.words(), env=env, check=2)
    assert "AWS_ACCESS_KEY_ID" in done.stderr


# --- Large enough for parts ----------------------------------------------------------------------


@pytest.fixture
def large(scene: Scene) -> Scene:
    """Make b a repository of more than two parts."""
    path = scene.repository("b")
    noise = random.Random(7)
    for number in range(5):
        stream = FastImport(path)
        stream.commit((), files={b"noise": noise.randbytes(4 << 20)}, message=b"x", at=EPOCH)
        (tip,) = stream.run().values()
        update_refs(path, {b"refs/heads/large-%d" % number: tip})
    return scene


MULTIPART = {
    "the upload cannot begin once": ProxyFault(action="lose", method="POST", target="uploads"),
    "a part is lost": ProxyFault(action="lose", method="PUT", target="partNumber=2"),
    "a part is sent twice": ProxyFault(action="twice", method="PUT", target="partNumber=1"),
    "a part is cut": ProxyFault(
        action="cut request", method="PUT", target="partNumber=1", byte=5000
    ),
    "the answer to the end is lost": ProxyFault(action="lose", method="POST", target="uploadId"),
    "the end is asked for twice": ProxyFault(action="twice", method="POST", target="uploadId"),
    "the end is refused once": s3_error(503, "SlowDown", method="POST", target="uploadId"),
}


@pytest.mark.parametrize("name", MULTIPART)
def test_a_fault_within_an_upload_of_parts_costs_nothing(
    name: str, large: Scene, tmp_path: Path
) -> None:
    with FaultProxy(large.store.endpoint_url, MULTIPART[name]) as proxy:
        report = large.run_here(store=proxy.url)
    assert report.result == "success"
    assert_nothing_false(large.vault())
    large.assert_comes_back(tmp_path / "restored", large.states())


def test_a_pack_that_breaks_off_leaves_no_upload_behind(
    tmp_path: Path, large: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    cut = ProxyFault(action="cut", target=ASK, skip=1, byte=17 << 20)
    with moto_server(tmp_path / "moto", None) as store, FaultProxy(large.git.url, cut) as proxy:
        store.make_bucket(BUCKET)
        for name, value in store.environment().items():
            monkeypatch.setenv(name, value)
        large.store = store
        with FaultProxy(store.endpoint_url) as seen:
            report = large.run_here(git=proxy.url, store=seen.url)
        asked = [(one.method, one.target) for one in seen.requests]
    assert report.result == "success"
    assert [one for one in asked if one[0] == "DELETE" and "uploadId" in one[1]]
    begun = [one for one in asked if one[0] == "POST" and one[1].endswith("?uploads")]
    # The run itself begins one where it will write its manifest, and one is of each try.
    assert ["/snapshots/" in target for _, target in begun] == [True, False, False]


# --- Processes -----------------------------------------------------------------------------------


def test_a_program_killed_at_any_moment_leaves_what_is_true(scene: Scene, tmp_path: Path) -> None:
    scene.back_up()
    known = [scene.states()]
    chance = random.Random(11)
    for number in range(6):
        for name in NAMES:
            push(scene.repository(name), b"round %d" % number)
        known.append(scene.states())
        process = start_repo_backup(*scene.words(), env=scene.env())
        time.sleep(chance.uniform(0.2, 1.2))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        assert_nothing_false(scene.vault())
    scene.back_up()
    scene.assert_comes_back(tmp_path / "restored", scene.states())


def test_a_signal_ends_within_ten_seconds_though_the_server_is_silent(scene: Scene) -> None:
    fault = ProxyFault(action="stall", target=ASK, skip=1, byte=50)
    with FaultProxy(scene.git.url, fault) as proxy:
        process = start_repo_backup(*scene.words(), env=scene.env(git=proxy.url))
        proxy.wait_until_struck(fault)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        assert time.monotonic() - began < 10
    assert process.returncode == 130
    assert_nothing_false(scene.vault())
    scene.back_up()


def test_a_signal_ends_within_ten_seconds_though_the_store_is_silent(scene: Scene) -> None:
    fault = ProxyFault(
        action="delay", method="PUT", target="/repositories/", seconds=600, times=None
    )
    with FaultProxy(scene.store.endpoint_url, fault) as proxy:
        process = start_repo_backup(*scene.words(), env=scene.env(store=proxy.url))
        proxy.wait_until_struck(fault)
        began = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=30)
        assert time.monotonic() - began < 10
    assert process.returncode == 130


def test_overlapping_runs_agree(scene: Scene, tmp_path: Path) -> None:
    scene.back_up()
    for number in range(3):
        for name in NAMES:
            push(scene.repository(name), b"overlap %d" % number)
        processes = [start_repo_backup(*scene.words(), env=scene.env()) for _ in range(3)]
        for process in processes:
            _end_well(process)
        assert_nothing_false(scene.vault())
    scene.assert_comes_back(tmp_path / "restored", scene.states())
    assert scene.back_up().json["totals"]["unchanged"] == 3


def _end_well(process: subprocess.Popen[str]) -> None:
    _, words = process.communicate(timeout=120)
    assert process.returncode == 0, words


def test_every_error_of_ours_names_the_place(scene: Scene) -> None:
    fault = s3_error(403, "AccessDenied", times=None)
    with (
        FaultProxy(scene.store.endpoint_url, fault) as proxy,
        pytest.raises(BackupError) as caught,
    ):
        scene.run_here(store=proxy.url)
    assert f"s3://{BUCKET}/git" in caught.value.message
