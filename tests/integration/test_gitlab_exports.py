"""GitLab's project exports: put by the forge into a real store, or downloaded and stored."""

import hashlib
import io
import os
import random
import re
import shutil
import signal
import tarfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, urlsplit

import pytest
import requests

from backup.commands import exporting, owner
from backup.commands.exporting import Exported, ExportOptions, Exports, Limit
from backup.commands.prune import PruneRequest, prune
from backup.commands.run import RunOptions, run
from backup.destinations.folder import FolderDestination
from backup.destinations.s3 import S3Destination, S3Settings, presigning
from backup.destinations.s3.settings import connect
from backup.destinations.s3.upload import FIRST_PART_BYTES
from backup.git.http import basic
from backup.model import Destination, Key, Repository, RunReport, Selection
from backup.results import PruneReport
from backup.retention import Rules
from backup.secret import Secret
from backup.sources.gitlab import GitLabSource
from backup.stopping import Stop
from backup.vault.documents import Entry
from backup.vault.documents_of_exports import ExportLine
from backup.vault.layout import Layout
from backup.vault.manifest import list_documents, load_manifest
from tests.support.faults import DestinationFault, FaultyDestination
from tests.support.git import commit_chain, init_bare, set_head, update_refs
from tests.support.gitlab import Export, GitLab, Project, packed
from tests.support.gitserver import Answer, GitHttpServer, Request
from tests.support.program import Completed, repo_backup
from tests.support.proxy import FaultProxy
from tests.support.runner import Runner
from tests.support.s3server import S3Server
from tests.support.times import Timed
from tests.support.vaults import Silence

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

PAT = "glpat-0123456789abcdefghij"
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture
def forge(tmp_path: Path) -> Iterator[GitLab]:
    with GitLab(tmp_path / "git") as forge:
        forge.tokens = {PAT: "private-token"}
        forge.group("acme")
        yield forge


def real(forge: GitLab, path: str) -> Project:
    """Make a project that the API lists and git has, in which nothing happened for years."""
    made = forge.project(path, wiki="disabled", active_at=LONG_AGO)
    folder = init_bare(forge.folder(made))
    update_refs(folder, {b"refs/heads/main": commit_chain(folder, 1)[-1]})
    set_head(folder, b"refs/heads/main")
    return made


@pytest.fixture
def bucket(rclone_http: S3Server, tmp_path: Path) -> str:
    """Make a bucket in a store that checks every signature, those of presigned URLs too."""
    name = f"exports-{abs(hash(tmp_path)) % 10**10}"
    rclone_http.make_bucket(name)
    return name


@pytest.fixture
def store(rclone_http: S3Server) -> "Iterator[S3Client]":
    with rclone_http.client() as client:
        yield client


def night(
    forge: GitLab,
    to: str | Path,
    *words: str,
    server: S3Server | None = None,
    check: int | None = 0,
    env: Mapping[str, str] | None = None,
) -> Completed:
    surroundings = {"REPO_BACKUP_SERVER_URL": forge.url, "REPO_BACKUP_TOKEN": PAT, **(env or {})}
    where: tuple[str, ...] = ()
    if server is not None:
        surroundings |= server.environment()
        where = ("--endpoint-url", server.endpoint_url)
        to = f"s3://{to}/git"
    asked = ("run", "--from", "gitlab:acme", "--to", str(to), "--json", "--exports", *where)
    return repo_backup(*asked, "--export-limit", "1000", *words, env=surroundings, check=check)


def keys(store: "S3Client", bucket: str) -> list[str]:
    found = store.list_objects_v2(Bucket=bucket).get("Contents", [])
    return sorted(one["Key"] for one in found if "/exports/" in one["Key"])


def members(data: bytes) -> list[str]:
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:gz") as archive:
        return archive.getnames()


# --- Nights --------------------------------------------------------------------------------------


def test_gitlab_puts_exports_into_the_bucket_and_only_again_when_something_happened(
    forge: GitLab, rclone_http: S3Server, bucket: str, store: "S3Client"
) -> None:
    forge.group("acme/team")
    pushed = real(forge, "acme/one")
    busy = real(forge, "acme/team/two")
    done = night(forge, bucket, server=rclone_http)
    assert done.json["result"] == "success"
    assert forge.puts == [("acme/one", 200), ("acme/team/two", 200)]
    assert "2 exports of projects were stored" in done.json["notes"]
    first = keys(store, bucket)
    host = forge.url.removeprefix("http://").replace(":", "-")
    assert [key.rpartition("/")[0] for key in first] == [
        f"git/{host}/acme/exports/one",
        f"git/{host}/acme/exports/team/two",
    ]
    assert all(re.fullmatch(r"\d{4}(-\d\d){5}\.tar\.gz", key.rpartition("/")[2]) for key in first)
    stored = store.get_object(Bucket=bucket, Key=first[0])["Body"].read()
    assert stored == forge.archives["acme/one"]
    # The archives went past this machine: what it uploaded is bundles, records, the manifest, and
    # a checkpoint before the wait.
    assert done.json["totals"]["objects_written"] == 6

    night(forge, bucket, server=rclone_http)
    assert len(forge.puts) == 2
    # Nothing but a push happened in this one.
    folder = forge.folder(pushed)
    update_refs(folder, {b"refs/heads/more": commit_chain(folder, 1, label=b"more")[-1]})
    busy.active_at = datetime.now(UTC) + timedelta(seconds=1)
    night(forge, bucket, server=rclone_http)
    assert [path for path, _ in forge.puts[2:]] == ["acme/one", "acme/team/two"]
    night(forge, bucket, "--export-unchanged", server=rclone_http)
    assert len(forge.puts) == 6
    # The URL opens one key to anybody who has it: nobody is told.
    url = forge.asked_for[0][2]
    assert url is not None
    assert "X-Amz-Signature" in url
    assert "X-Amz-Signature" not in done.stdout + done.stderr


def test_exports_go_into_a_folder_by_download(forge: GitLab, tmp_path: Path) -> None:
    real(forge, "acme/one")
    vault = tmp_path / "vault"
    done = night(forge, vault)
    assert done.json["result"] == "success"
    assert [url for _, _, url in forge.asked_for] == [None]
    (stored,) = vault.glob("*/acme/exports/one/*.tar.gz")
    assert stored.read_bytes() == forge.archives["acme/one"]
    assert members(stored.read_bytes()) == [".", "./VERSION"]
    # A folder is looked through every night, so that what is lost is made again.
    stored.unlink()
    night(forge, vault)
    assert len([*vault.glob("*/acme/exports/one/*.tar.gz")]) == 1


def test_what_is_larger_than_a_put_takes_is_downloaded(
    forge: GitLab, rclone_http: S3Server, bucket: str, store: "S3Client"
) -> None:
    real(forge, "acme/large")
    forge.put_limit = 10
    done = night(forge, bucket, server=rclone_http)
    assert done.json["result"] == "success"
    assert [url is not None for _, _, url in forge.asked_for] == [True, False]
    (key,) = keys(store, bucket)
    stored = store.get_object(Bucket=bucket, Key=key)["Body"].read()
    assert stored == forge.archives["acme/large"]


def test_a_download_of_more_than_one_part_is_uploaded_in_parts(
    forge: GitLab, rclone_http: S3Server, bucket: str, store: "S3Client"
) -> None:
    real(forge, "acme/large")
    forge.put_limit = 10
    archive = forge.archives["acme/large"] = incompressible(FIRST_PART_BYTES + 5000)
    with FaultProxy(rclone_http.endpoint_url) as proxy:
        between = replace(rclone_http, endpoint_url=proxy.url)
        done = night(forge, bucket, server=between)
        asked = [one for one in proxy.requests if "/exports/large/" in one.target]
    assert done.json["result"] == "success"
    assert [url is not None for _, _, url in forge.asked_for] == [True, False]
    begun = [one for one in asked if one.method == "POST" and one.target.endswith("?uploads")]
    puts = [one for one in asked if one.method == "PUT"]
    ended = [one for one in asked if one.method == "POST" and "uploadId=" in one.target]
    assert (len(begun), len(ended)) == (1, 1)
    numbers = sorted(parse_qs(urlsplit(one.target).query)["partNumber"] for one in puts)
    assert numbers == [["1"], ["2"]]
    assert max(one.request_bytes for one in puts) <= FIRST_PART_BYTES + 1024
    (key,) = keys(store, bucket)
    stored = store.get_object(Bucket=bucket, Key=key)["Body"].read()
    assert hashlib.sha256(stored).hexdigest() == hashlib.sha256(archive).hexdigest()


def incompressible(size: int) -> bytes:
    """Make an archive that packing does not make smaller."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz", compresslevel=0) as archive:
        member = tarfile.TarInfo("./project.bundle")
        member.size, member.mtime = size, int(time.time())
        archive.addfile(member, io.BytesIO(random.Random(7).randbytes(size)))
    return made.getvalue()


def test_encryption_that_only_headers_ask_for_is_had_by_download(
    rclone_http: S3Server, bucket: str
) -> None:
    settings = S3Settings(bucket, endpoint_url=rclone_http.endpoint_url, encryption="sse-s3")
    with closing(S3Destination(settings, stop=Stop())) as destination:
        key = Key("a/b.tar.gz")
        assert destination.upload_url(key, content_type="application/gzip", seconds=3600) is None


def test_what_does_not_arrive_and_what_is_no_archive_are_failures(
    forge: GitLab, tmp_path: Path
) -> None:
    real(forge, "acme/fine")
    real(forge, "acme/odd")
    forge.archives["acme/odd"] = b"<html>" * 100
    forge.archives["acme/short"] = b"\x1f\x8b\x08"
    real(forge, "acme/short")
    done = night(forge, tmp_path / "vault", check=3)
    assert done.json["result"] == "partial"
    assert sorted(done.json["problems"]) == [
        "acme/odd: what the forge gives is no export: it does not begin as gzip does",
        "acme/short: what the forge gives is no export: it has 3 bytes",
    ]
    assert len([*tmp_path.glob("vault/*/acme/exports/*/*")]) == 1


def test_a_token_that_may_not_export_is_asked_once(forge: GitLab, tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        real(forge, f"acme/{name}")
    forge.export_scope = False
    done = night(forge, tmp_path / "vault", check=3)
    asked = [
        one for one in forge.server.requests if one.method == "POST" and "/export" in one.target
    ]
    assert len(asked) == 1
    assert len(done.json["problems"]) == 3
    assert "the token needs the scope api" in done.json["problems"][0]
    # The number in the refusal is the first one's.
    first, *others = done.json["problems"]
    assert "it was not exported: GitLab forbids /projects/" in first
    assert all("not asked for, since another project's export was refused" in one for one in others)
    assert done.json["totals"]["captured"] == 3


def test_exports_of_others_are_refused(tmp_path: Path) -> None:
    words = ("run", "--from", "github:acme", "--to", str(tmp_path / "vault"), "--exports")
    done = repo_backup(*words, check=2)
    assert "--exports: only GitLab exports projects" in done.stderr


def test_a_store_that_cannot_be_listed_costs_exports_and_no_backup(
    forge: GitLab, tmp_path: Path
) -> None:
    real(forge, "acme/one")
    # Without the right to see versions, and then without any.
    faults = [DestinationFault(number, "list", key="/exports/") for number in range(2)]
    source = GitLabSource(
        "acme",
        token=Secret(PAT),
        authorization=basic("oauth2", Secret(PAT)),
        server_url=forge.url,
    )
    night(forge, tmp_path / "vault")
    with FaultyDestination(FolderDestination(tmp_path / "vault"), *faults) as store:
        options = RunOptions(exports=ExportOptions(), selection=Selection(lfs=True))
        report = run([source], store, options, events=Silence(), stop=Stop())
    assert (report.result, report.count("unchanged"), len(report.manifests)) == ("partial", 1, 1)
    assert report.problems[0].startswith("nothing was exported: ")


def test_a_plan_tells_what_would_be_exported(forge: GitLab, tmp_path: Path) -> None:
    real(forge, "acme/one")
    done = night(forge, tmp_path / "vault", "--dry-run")
    assert "1 projects would be exported" in done.json["notes"]
    assert forge.asked_for == []


def test_a_download_leaves_the_token_behind_when_it_leads_elsewhere(
    forge: GitLab, tmp_path: Path
) -> None:
    real(forge, "acme/one")
    archive = packed("elsewhere")
    with GitHttpServer(tmp_path / "other", answer=lambda _: Answer(200, {}, archive)) as other:

        def answer(request: Request) -> Answer | None:
            if request.target.endswith("/export/download"):
                return Answer(302, {"Location": f"{other.url}/bucket/file?X-Amz-Signature=1"})
            return None

        forge.answer = answer
        night(forge, tmp_path / "vault")
        (asked,) = other.requests
    assert not {"private-token", "job-token", "authorization"} & asked.headers.keys()
    assert PAT not in str(asked.headers)
    (stored,) = tmp_path.glob("vault/*/acme/exports/one/*.tar.gz")
    assert stored.read_bytes() == archive


@pytest.fixture
def at_rclone(
    rclone_http: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[S3Destination]:
    for name, value in rclone_http.environment().items():
        monkeypatch.setenv(name, value)
    settings = S3Settings(bucket, endpoint_url=rclone_http.endpoint_url)
    with closing(S3Destination(settings, stop=Stop())) as destination:
        yield destination


# --- On a fake clock -----------------------------------------------------------------------------


class FakeTime(Stop):
    """A stop whose time passes by sleeping alone, with the wall clock that belongs to it."""

    def __init__(self, **more: Any) -> None:
        self.seconds = 0.0
        super().__init__(monotonic=lambda: self.seconds, **more)

    def sleep(self, seconds: float) -> None:
        self.check()
        self.seconds += seconds

    def now(self) -> datetime:
        return datetime.now(UTC).replace(microsecond=0) + timedelta(seconds=self.seconds)


def repositories(forge: GitLab, *names: str) -> list[tuple[Repository, None]]:
    source = _source(forge)
    for name in names:
        forge.project(f"acme/{name}", wiki="disabled")
    return [(one, None) for one in source.repositories()]


def _source(forge: GitLab, stop: Stop | None = None) -> GitLabSource:
    return GitLabSource("acme", token=Secret(PAT), server_url=forge.url, stop=stop)


def queue(
    forge: GitLab, time: FakeTime, destination: Any, *, limit: Limit | None = None, **more: Any
) -> Exports:
    options = ExportOptions(**more)
    return Exports(
        _source(forge, time),
        destination,
        Layout.of(host="gitlab.example", owner="acme"),
        options,
        limit=limit or Limit(options.limit, monotonic=lambda: time.seconds),
        events=Silence(),
        stop=time,
        clock=time.now,
        monotonic=lambda: time.seconds,
    )


def on_fake_time(forge: GitLab, **more: Any) -> FakeTime:
    time = FakeTime(**more)
    forge.monotonic = lambda: time.seconds
    forge.export_states = ("none", "queued", "started")
    return time


def stored(done: list[Exported]) -> set[str]:
    return {
        one.repository.path
        for one in done
        if one.line is not None and one.line.stored_at is not None
    }


def test_fourteen_exports_never_exceed_six_in_any_minute(forge: GitLab, tmp_path: Path) -> None:
    time, names = on_fake_time(forge), [f"p{number:02}" for number in range(14)]
    # The server itself refuses the seventh.
    forge.export_limit = 6
    destination = FolderDestination(tmp_path / "vault")
    done = list(queue(forge, time, destination).work(repositories(forge, *names)))
    assert stored(done) == set(names)
    asked = [at for at, _, _ in forge.asked_for]
    assert len(asked) == 14
    assert all(later - earlier >= 60 for earlier, later in zip(asked, asked[6:], strict=False))
    # And no slower than that.
    assert asked[-1] < 130


def test_the_limit_holds_over_all_groups_of_a_run(forge: GitLab, tmp_path: Path) -> None:
    time = on_fake_time(forge)
    forge.export_limit = 3
    limit = Limit(3, monotonic=lambda: time.seconds)
    destination = FolderDestination(tmp_path / "vault")
    projects = repositories(forge, *"abcdef")
    for some in (projects[:3], projects[3:]):
        done = list(queue(forge, time, destination, limit=limit).work(some))
        assert len(stored(done)) == 3
    assert len(forge.asked_for) == 6
    assert forge.asked_for[3][0] - forge.asked_for[0][0] >= 60


def test_groups_of_one_run_share_the_limit(
    forge: GitLab, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(exporting, "LIMITED_SECONDS", 5.0)
    forge.group("umbrella")
    for path in ("acme/one", "umbrella/two"):
        real(forge, path)
    groups = [
        GitLabSource(
            name,
            token=Secret(PAT),
            authorization=basic("oauth2", Secret(PAT)),
            server_url=forge.url,
        )
        for name in ("acme", "umbrella")
    ]
    report = run(
        groups,
        FolderDestination(tmp_path / "vault"),
        RunOptions(exports=ExportOptions(limit=1)),
        events=Silence(),
        stop=Stop(),
    )
    assert report.result == "success"
    (first, _, _), (second, _, _) = forge.asked_for
    assert second - first >= 5.0


@pytest.mark.parametrize("limit", [2, 6])
def test_the_input_of_a_step_limits_the_exports_that_it_asks_for(
    forge: GitLab, tmp_path: Path, limit: int
) -> None:
    for number in range(limit + 2):
        real(forge, f"acme/p{number}")
    waits = threading.Event()

    def answer(request: Request) -> Answer | None:
        if request.target.endswith("/export/download"):
            # As many as may be asked for at once were, or nothing would be looked after yet.
            waits.set()
        return None

    forge.answer = answer
    runner = Runner(tmp_path / "runner", "https://github.example.com")
    inputs = {"provider": "gitlab", "server-url": forge.url, "exports": "true"}
    # Six is what an input that is not given means.
    inputs |= {} if limit == 6 else {"export-limit": str(limit)}
    process = runner.start(**inputs, token=PAT, destination=str(tmp_path / "vault"))
    try:
        assert waits.wait(300), process.poll()
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=300)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130
    asked = [at for at, _, _ in forge.asked_for]
    assert len(asked) >= limit
    assert all(later - earlier >= 60 for earlier, later in zip(asked, asked[limit:], strict=False))


def test_a_429_is_waited_out(forge: GitLab, tmp_path: Path) -> None:
    time = on_fake_time(forge)
    # Somebody else with the same token exports too.
    forge.export_limit = 1
    refusals = [Answer(429, {"Retry-After": "5"}, b"Retry later")] * 6

    def answer(request: Request) -> Answer | None:
        return refusals.pop() if refusals and request.method == "POST" else None

    forge.answer = answer
    destination = FolderDestination(tmp_path / "vault")
    done = list(queue(forge, time, destination).work(repositories(forge, "a", "b", "c")))
    assert stored(done) == {"a", "b", "c"}
    assert [path for _, path, _ in forge.asked_for] == ["acme/a", "acme/b", "acme/c"]


def test_a_429_that_never_ends_is_waited_for_as_long_as_an_export(
    forge: GitLab, tmp_path: Path
) -> None:
    time = on_fake_time(forge)
    forge.answer = lambda one: Answer(429, {}, b"Retry later") if one.method == "POST" else None
    destination = FolderDestination(tmp_path / "vault")
    projects = repositories(forge, "a", "b", "c")
    done = list(queue(forge, time, destination, timeout_minutes=20).work(projects))
    assert [one.line for one in done] == [None] * 3
    assert all("rate limit is used up (429)" in one.problem for one in done)
    # Not for each of them anew.
    assert 20 * 60 <= time.seconds < 22 * 60


def test_an_export_that_never_arrives_is_a_failure_in_time(forge: GitLab, tmp_path: Path) -> None:
    time = on_fake_time(forge)
    forge.stuck = {"acme/stuck"}
    destination = FolderDestination(tmp_path / "vault")
    done = list(
        queue(forge, time, destination, timeout_minutes=20).work(
            repositories(forge, "fine", "stuck")
        )
    )
    assert stored(done) == {"fine"}
    assert [one.problem for one in done if one.problem] == [
        "its export did not arrive within 20 minutes"
    ]
    assert 20 * 60 <= time.seconds < 22 * 60


@pytest.mark.parametrize("state", ["finished", "none", "started"])
def test_an_export_that_never_lies_in_the_bucket_is_a_failure_of_the_run(
    forge: GitLab,
    rclone_http: S3Server,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
    state: str,
) -> None:
    time = on_fake_time(forge)
    real(forge, "acme/fine")
    place = f"/projects/{real(forge, 'acme/lost').project_id}/export"

    def answer(request: Request) -> Answer | None:
        if request.method != "GET" or place not in request.target:
            return None
        if request.target.endswith("/download"):
            return Answer(404, {"Content-Type": "application/json"}, b"{}")
        body = f'{{"export_status": "{state}"}}'
        return Answer(200, {"Content-Type": "application/json"}, body.encode())

    forge.answer = answer
    monkeypatch.setattr(owner, "Exports", partial(Exports, monotonic=lambda: time.seconds))
    options = ExportOptions(limit=1000, timeout_minutes=20)
    source = GitLabSource(
        "acme",
        token=Secret(PAT),
        authorization=basic("oauth2", Secret(PAT)),
        server_url=forge.url,
    )
    with opened(rclone_http, bucket, monkeypatch) as destination:
        report = run(
            [source], destination, RunOptions(exports=options), events=Silence(), stop=time
        )
        layout = Layout.of(host=forge.url.removeprefix("http://"), owner="acme")
        (name,) = [one for one in list_documents(destination, layout) if one.checkpoint is None]
        entries = {one.path: one for one in load_manifest(destination, layout, name).entries}
    assert (report.result, report.exit_code) == ("partial", 3)
    assert [one.status for one in report.outcomes] == ["captured"] * 2
    (problem,) = report.problems
    assert problem.startswith("acme/lost: ")
    # It was given a URL, as the other one.
    assert {path for _, path, url in forge.asked_for if url} == {"acme/fine", "acme/lost"}
    assert entries["fine"].export is not None
    assert entries["lost"].export is None
    with rclone_http.client() as client:
        (key,) = keys(client, bucket)
    assert "/exports/fine/" in key


def test_a_bucket_that_the_forge_cannot_reach_is_tried_once_a_run(
    forge: GitLab, at_rclone: S3Destination
) -> None:
    time = on_fake_time(forge)
    forge.put_limit = 0
    # One a minute: what became of the first is known before the others are asked for.
    slow = Limit(1, monotonic=lambda: time.seconds)
    projects = repositories(forge, "a", "b", "c")
    done = list(queue(forge, time, at_rclone, limit=slow).work(projects))
    assert stored(done) == {"a", "b", "c"}
    # What the first could not have put is not tried again for the others.
    assert [url is not None for _, _, url in forge.asked_for] == [True, False, False, False]


def test_what_has_no_time_left_is_collected_by_the_next_run(forge: GitLab, tmp_path: Path) -> None:
    destination = FolderDestination(tmp_path / "vault")
    projects = repositories(forge, "one")
    time = on_fake_time(forge, deadline_seconds=3.0, margin_seconds=1.0)
    (left,) = queue(forge, time, destination).work(projects)
    assert left.line is not None
    assert (left.line.stored_at, left.problem) == (None, "")
    later = on_fake_time(forge)
    (done,) = queue(forge, later, destination).work([(projects[0][0], left.line)])
    assert done.line is not None
    assert (done.line.key, done.line.requested_at) == (left.line.key, left.line.requested_at)
    assert done.line.stored_at is not None
    # It was not asked for a second time.
    assert len(forge.asked_for) == 1


def test_what_could_not_be_asked_for_in_time_is_left_and_no_failure(
    forge: GitLab, tmp_path: Path
) -> None:
    projects = repositories(forge, "one", "two")
    time = on_fake_time(forge, deadline_seconds=3.0)
    time.seconds = 2.0

    def answer(request: Request) -> Answer | None:
        time.seconds += 5.0 * request.target.endswith("/export")
        # What is not read to its end before the time is up.
        return Answer(202, {"Content-Length": "2"}, iter(lambda: b"", None))

    forge.answer = answer
    left = [*queue(forge, time, FolderDestination(tmp_path / "vault")).work(projects)]
    assert [(one.line, one.problem) for one in left] == [(None, "")] * 2


@pytest.mark.parametrize("state", ["none", "started"])
def test_what_was_left_over_and_never_came_is_asked_for_anew(
    forge: GitLab, at_rclone: S3Destination, state: str
) -> None:
    ((repository, _),) = repositories(forge, "one")
    time = on_fake_time(forge)
    if state != "none":
        forge.exports[int(repository.host_id)] = Export(None, [state] * 1000)
    yesterday = time.now() - timedelta(days=1)
    line = ExportLine(key="exports/one/2026-01-01-00-00-00.tar.gz", requested_at=yesterday)
    (done,) = queue(forge, time, at_rclone).work([(repository, line)])
    assert stored([done]) == {"one"}
    # By a URL: nothing speaks against it.
    assert [url is not None for _, _, url in forge.asked_for] == [True]
    assert forge.puts == [("acme/one", 200)]


def test_an_export_that_was_made_before_is_not_taken_for_a_new_one(
    forge: GitLab, tmp_path: Path
) -> None:
    destination = FolderDestination(tmp_path / "vault")
    ((repository, _),) = repositories(forge, "one")
    time = on_fake_time(forge)
    old = packed("old", at=(time.now() - timedelta(hours=3)).timestamp())
    export = forge.exports[int(repository.host_id)] = Export(None, ready=old)
    (done,) = queue(forge, time, destination).work([(repository, None)])
    assert export.ready == old
    assert stored([done]) == {"one"}
    (path,) = tmp_path.glob("vault/*/acme/exports/one/*")
    assert path.read_bytes() == forge.archives["acme/one"]


# --- What counts ---------------------------------------------------------------------------------


def put(url: str | None, data: bytes) -> None:
    """Put something to a presigned URL, as anyone can who has seen it."""
    assert url is not None
    fields = {"Content-Type": "application/gzip"}
    assert requests.put(url, data=data, headers=fields, timeout=10).status_code == 200


def entry_of(destination: Destination, forge: GitLab) -> Entry:
    """Read what the newest manifest says of the only project."""
    layout = Layout.of(host=forge.url.removeprefix("http://"), owner="acme")
    manifests = [one for one in list_documents(destination, layout) if one.checkpoint is None]
    (entry,) = load_manifest(destination, layout, manifests[-1]).entries
    return entry


def line_of(destination: Destination, forge: GitLab) -> ExportLine:
    """Read what the newest manifest says of the only export."""
    line = entry_of(destination, forge).export
    assert line is not None
    return line


# It begins as gzip does, and is long enough.
NO_ARCHIVE = b"\x1f\x8b\x08" + b"x" * 200


def test_what_lies_there_while_the_forge_packs_does_not_count(
    forge: GitLab, at_rclone: S3Destination
) -> None:
    time = on_fake_time(forge)
    forge.export_states = ("queued", *["started"] * 5)

    def answer(request: Request) -> Answer | None:
        if request.method == "GET" and request.target.endswith("/export") and len(forge.puts) < 1:
            put(forge.asked_for[0][2], NO_ARCHIVE)
        return None

    forge.answer = answer
    (done,) = queue(forge, time, at_rclone).work(repositories(forge, "one"))
    archive = forge.archives["acme/one"]
    assert done.problem == ""
    assert done.line is not None
    assert done.line.size_bytes == len(archive) != len(NO_ARCHIVE)
    assert done.line.sha256 == hashlib.sha256(archive).hexdigest()


def test_where_the_forge_says_nothing_the_archive_must_stay_the_same_for_a_while(
    forge: GitLab, at_rclone: S3Destination
) -> None:
    time = on_fake_time(forge)
    # Some versions say "none" all along.
    forge.export_states = ["none"] * 4
    early, at = packed("somebody else was earlier"), list[float]()

    def answer(request: Request) -> Answer | None:
        export = next(iter(forge.exports.values()), None)
        if request.method == "GET" and request.target.endswith("/export") and export:
            if len(export.states) == 4:
                put(export.url, early)
            elif not export.states:
                at.append(time.seconds)
        return None

    forge.answer = answer
    (done,) = queue(forge, time, at_rclone).work(repositories(forge, "one"))
    assert done.line is not None
    assert done.line.size_bytes == len(forge.archives["acme/one"]) != len(early)
    assert time.seconds - at[0] >= exporting.STABLE_SECONDS


def folders_alone() -> bytes:
    """Make a packed archive without a file that is as long as one with files can be."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for number in range(30):
            folder = tarfile.TarInfo(hashlib.sha256(bytes([number])).hexdigest())
            folder.type, folder.mtime = tarfile.DIRTYPE, 1
            archive.addfile(folder)
    return made.getvalue()


LONG = "".join(map(str, range(300)))
NOT_WHOLE: dict[str, tuple[bytes, str]] = {
    "no gzip": (NO_ARCHIVE, "it does not unpack"),
    "cut gzip": (packed("cut", at=1.0)[:-20], "it is cut off: its gzip stream has no end"),
    "cut tar": (packed(LONG, at=1.0, keep=2000), "it is cut off: its archive has no end"),
    "tar without end": (packed("cut", at=1.0, keep=2048), "it is cut off: its archive has no end"),
    "folders alone": (folders_alone(), "it holds no file"),
}


@pytest.mark.parametrize("case", NOT_WHOLE)
def test_what_was_put_and_does_not_unpack_whole_does_not_count(
    forge: GitLab, at_rclone: S3Destination, case: str
) -> None:
    time = on_fake_time(forge)
    forge.archives["acme/one"], why = NOT_WHOLE[case]
    (done,) = queue(forge, time, at_rclone).work(repositories(forge, "one"))
    assert done.line is None
    assert done.problem.startswith(f"what the forge put is no export: {why}")


@pytest.mark.parametrize("case", NOT_WHOLE)
def test_what_is_downloaded_and_does_not_unpack_whole_is_not_stored(
    forge: GitLab, tmp_path: Path, case: str
) -> None:
    time = on_fake_time(forge)
    # A forge that says when it began is not asked how old its archive is.
    forge.archives["acme/one"], why = NOT_WHOLE[case]
    (done,) = queue(forge, time, FolderDestination(tmp_path)).work(repositories(forge, "one"))
    assert done.line is None
    assert done.problem.startswith(f"what the forge gives is no export: {why}")
    assert not [*tmp_path.rglob("*.tar.gz")]


def test_what_is_no_export_and_stays_is_downloaded_in_the_end(
    forge: GitLab, at_rclone: S3Destination
) -> None:
    time = on_fake_time(forge)
    # It never says that it works, and puts nothing.
    forge.export_states = ["none"] * 12
    forge.put_limit = 0

    def answer(request: Request) -> Answer | None:
        if request.method == "GET" and len(forge.asked_for) == 1 and forge.exports:
            (export,) = forge.exports.values()
            if len(export.states) == 12:
                put(export.url, NO_ARCHIVE)
                forge.export_states = ("started",)
        return None

    forge.answer = answer
    (done,) = queue(forge, time, at_rclone).work(repositories(forge, "one"))
    assert done.line is not None
    assert [url is not None for _, _, url in forge.asked_for] == [True, False]
    assert done.line.sha256 == hashlib.sha256(forge.archives["acme/one"]).hexdigest()


def test_what_was_put_after_the_time_was_up_is_proved_by_the_next_run(
    forge: GitLab, at_rclone: S3Destination
) -> None:
    projects = repositories(forge, "one")
    time = on_fake_time(forge, deadline_seconds=1.0, margin_seconds=0.1)
    (left,) = queue(forge, time, at_rclone).work(projects)
    assert left.line is not None
    assert left.line.stored_at is None
    late = packed("late")
    put(forge.asked_for[0][2], late)
    forge.exports.clear()
    line = left.line.model_copy(update={"requested_at": left.line.requested_at - timedelta(days=1)})
    later = on_fake_time(forge)
    (done,) = queue(forge, later, at_rclone).work([(projects[0][0], line)])
    assert done.line is not None
    assert done.line.sha256 == hashlib.sha256(late).hexdigest()
    assert len(forge.asked_for) == 1


# --- What was replaced ---------------------------------------------------------------------------


@pytest.fixture
def versioned(moto_http: S3Server, tmp_path: Path) -> str:
    name = f"versioned-{abs(hash(tmp_path)) % 10**10}"
    moto_http.make_bucket(name, versioned=True)
    return name


@contextmanager
def opened(server: S3Server, bucket: str, patch: pytest.MonkeyPatch) -> Iterator[S3Destination]:
    for name, value in server.environment().items():
        patch.setenv(name, value)
    settings = S3Settings(bucket, prefix="git", endpoint_url=server.endpoint_url)
    with closing(S3Destination(settings, stop=Stop())) as destination:
        yield destination


def test_what_replaces_an_export_after_the_run_is_said_and_its_version_named(
    forge: GitLab, moto_http: S3Server, versioned: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real(forge, "acme/one")
    assert night(forge, versioned, server=moto_http).json["result"] == "success"
    with opened(moto_http, versioned, monkeypatch) as destination:
        before = line_of(destination, forge)
        assert before.version_id is not None
        # Of the same length, by the URL that still lives.
        archive = forge.archives["acme/one"]
        # The time in gzip's own header is another, and nothing else.
        other = archive[:4] + bytes(4) + archive[8:]
        assert other != archive
        put(forge.asked_for[0][2], other)
        done = night(forge, versioned, server=moto_http, check=3)
        (problem,) = done.json["problems"]
        assert problem.startswith("acme/one: its export s3://")
        assert "was replaced after it was recorded; it unpacks whole and counts from now" in problem
        assert problem.endswith(f"; what was recorded is version {before.version_id}")
        after = line_of(destination, forge)
        assert after.version_id != before.version_id
        assert after.sha256 == hashlib.sha256(other).hexdigest()
        assert (after.key, after.size_bytes) == (before.key, before.size_bytes)
        # It was said once, and nothing was asked for because of it.
        assert night(forge, versioned, server=moto_http).json["problems"] == []
        assert len(forge.asked_for) == 1


def test_what_no_more_unpacks_is_asked_for_again(
    forge: GitLab, rclone_http: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real(forge, "acme/one")
    night(forge, bucket, server=rclone_http)
    put(forge.asked_for[0][2], NO_ARCHIVE)
    done = night(forge, bucket, server=rclone_http, check=3)
    (problem,) = done.json["problems"]
    archive = forge.archives["acme/one"]
    assert "was replaced by what is no export (it does not unpack" in problem
    assert f"(recorded: {len(archive)} bytes; now: {len(NO_ARCHIVE)} bytes)" in problem
    with opened(rclone_http, bucket, monkeypatch) as destination:
        line = line_of(destination, forge)
    assert (line.size_bytes, line.sha256) == (len(archive), hashlib.sha256(archive).hexdigest())
    assert len(forge.asked_for) == 2
    assert night(forge, bucket, server=rclone_http).json["problems"] == []


def test_exports_of_a_vault_that_was_copied_are_read_once_and_nothing_is_said(
    forge: GitLab, tmp_path: Path
) -> None:
    real(forge, "acme/one")
    vault = tmp_path / "vault"
    night(forge, vault)
    (stored,) = vault.glob("*/acme/exports/one/*")
    os.utime(stored, (1, 1))
    assert night(forge, vault).json["problems"] == []
    line = line_of(FolderDestination(vault), forge)
    assert line.written_at == datetime.fromtimestamp(1, UTC)
    assert len(forge.asked_for) == 1


# --- What must not be lost ------------------------------------------------------------------------


def in_process(forge: GitLab, vault: Path, *, stop: Stop | None = None) -> RunReport:
    source = GitLabSource(
        "acme",
        token=Secret(PAT),
        authorization=basic("oauth2", Secret(PAT)),
        server_url=forge.url,
    )
    options = RunOptions(exports=ExportOptions(limit=1000), selection=Selection(lfs=True))
    return run([source], FolderDestination(vault), options, events=Silence(), stop=stop or Stop())


def without_exports(forge: GitLab, vault: Path) -> Completed:
    surroundings = {"REPO_BACKUP_SERVER_URL": forge.url, "REPO_BACKUP_TOKEN": PAT}
    words = ("run", "--from", "gitlab:acme", "--to", str(vault), "--json")
    return repo_backup(*words, env=surroundings)


def prune_much_later(vault: Path, **more: Any) -> PruneReport:
    at = datetime.now(UTC) + timedelta(days=400)
    request = PruneRequest(Rules(daily=1), keep_exports_days=30, **more)
    store = Timed(FolderDestination(vault), lambda: at)
    report = prune(store, request, events=Silence(), stop=Stop(), clock=lambda: at)
    assert (report.exit_code, report.refused) == (0, ())
    return report


def exports_in(vault: Path, name: str = "one") -> set[Path]:
    return {*vault.glob(f"*/acme/exports/{name}/*.tar.gz")}


def work_on(project: Project) -> None:
    """Have something happen in a project, and its next export have another name."""
    project.active_at = datetime.now(UTC) + timedelta(days=1)
    time.sleep(1.1)


@pytest.mark.parametrize("then", ["gone", "switched off"])
def test_an_export_that_never_came_does_not_displace_the_last_whole_one(
    forge: GitLab, tmp_path: Path, then: str
) -> None:
    project, vault = real(forge, "acme/one"), tmp_path / "vault"
    real(forge, "acme/other")
    in_process(forge, vault)
    (whole,) = exports_in(vault)
    work_on(project)
    forge.stuck = {"acme/one"}
    stop = Stop(deadline_seconds=6.0, margin_seconds=1.0)
    assert in_process(forge, vault, stop=stop).result == "partial"
    if then == "gone":
        forge.projects.remove(project)
        night(forge, vault, "--accept-drop")
    else:
        without_exports(forge, vault)
    prune_much_later(vault)
    assert exports_in(vault) == {whole}


def test_what_is_pending_is_collected_and_takes_the_place_of_the_last_one(
    forge: GitLab, tmp_path: Path
) -> None:
    project, vault = real(forge, "acme/one"), tmp_path / "vault"
    in_process(forge, vault)
    destination = FolderDestination(vault)
    first = line_of(destination, forge)
    work_on(project)
    forge.stuck = {"acme/one"}
    in_process(forge, vault, stop=Stop(deadline_seconds=6.0, margin_seconds=1.0))
    entry = entry_of(destination, forge)
    assert entry.export == first
    assert entry.pending_export is not None
    forge.stuck = set()
    assert in_process(forge, vault).result == "success"
    assert len(forge.asked_for) == 2
    after = entry_of(destination, forge)
    assert after.pending_export is None
    assert after.export is not None
    assert after.export.key == entry.pending_export.key != first.key


def test_exports_that_lost_manifests_may_have_named_stay(forge: GitLab, tmp_path: Path) -> None:
    project, vault = real(forge, "acme/one"), tmp_path / "vault"
    real(forge, "acme/other")
    in_process(forge, vault)
    named = exports_in(vault)
    forge.projects.remove(project)
    night(forge, vault, "--accept-drop")
    (snapshots,) = vault.glob("*/acme/snapshots")
    shutil.rmtree(snapshots)
    for checkpoints in vault.glob("*/acme/checkpoints"):
        shutil.rmtree(checkpoints)
    time.sleep(1.1)
    night(forge, vault, check=1)
    night(forge, vault)
    report = prune_much_later(vault)
    assert exports_in(vault) == named
    assert any("may name them" in note.message for note in report.notes)
    # As with bundles, a person may say that nothing needs them.
    prune_much_later(vault, accept_missing_index=True)
    assert exports_in(vault) == set()
    assert exports_in(vault, "other")


@pytest.mark.parametrize("by", ["other size", "other time"])
def test_where_the_last_export_was_replaced_the_older_ones_stay(
    forge: GitLab, tmp_path: Path, by: str
) -> None:
    project, vault = real(forge, "acme/one"), tmp_path / "vault"
    real(forge, "acme/other")
    in_process(forge, vault)
    (first,) = exports_in(vault)
    work_on(project)
    in_process(forge, vault)
    (second,) = exports_in(vault) - {first}
    if by == "other size":
        second.unlink()
        second.write_bytes(NO_ARCHIVE)
        forge.projects.remove(project)
        night(forge, vault, "--accept-drop", check=3)
    else:
        os.utime(second, (1, 1))
    without_exports(forge, vault)
    report = prune_much_later(vault)
    assert exports_in(vault) == {first, second}
    (note,) = report.notes
    assert "1 old export stays: no newer one of the same project is as it" in note.message
    if by == "other time":
        # They are the same bytes: once a run has read them they count again.
        project.active_at = LONG_AGO
        night(forge, vault)
        prune_much_later(vault)
        assert exports_in(vault) == {second}


def test_a_lost_export_of_a_project_that_is_gone_is_a_problem_once(
    forge: GitLab, rclone_http: S3Server, bucket: str, store: "S3Client"
) -> None:
    project = real(forge, "acme/one")
    real(forge, "acme/other")
    night(forge, bucket, server=rclone_http)
    (key,) = (key for key in keys(store, bucket) if "/one/" in key)
    forge.projects.remove(project)
    night(forge, bucket, "--accept-drop", server=rclone_http)
    put(next(url for _, path, url in forge.asked_for if path == "acme/one"), NO_ARCHIVE)
    done = night(forge, bucket, server=rclone_http, check=3)
    (problem,) = done.json["problems"]
    assert "was replaced by what is no export (it does not unpack" in problem
    assert "and no other one can be made: its project is not listed any more" in problem
    assert problem.endswith("docs/how-to/repair-a-vault.md")
    for _ in range(2):
        done = night(forge, bucket, server=rclone_http)
        assert done.json["problems"] == []
        (note,) = (note for note in done.json["notes"] if "acme/one" in note)
        assert "was replaced by what is no export, and no other one can be made" in note
    # Another one in its place is news.
    put(next(url for _, path, url in forge.asked_for if path == "acme/one"), NO_ARCHIVE * 2)
    night(forge, bucket, server=rclone_http, check=3)
    night(forge, bucket, server=rclone_http)
    # Removed by hand, nothing is left to be done.
    store.delete_object(Bucket=bucket, Key=key)
    done = night(forge, bucket, server=rclone_http)
    assert not [note for note in done.json["notes"] if "acme/one" in note]


def test_a_hidden_export_of_a_project_that_is_gone_is_said_with_what_shows_it_again(
    forge: GitLab, moto_http: S3Server, versioned: str
) -> None:
    project = real(forge, "acme/one")
    real(forge, "acme/other")
    night(forge, versioned, server=moto_http)
    forge.projects.remove(project)
    night(forge, versioned, "--accept-drop", server=moto_http)
    with moto_http.client() as client:
        (key,) = (key for key in keys(client, versioned) if "/one/" in key)
        marker = client.delete_object(Bucket=versioned, Key=key)["VersionId"]
        (problem,) = night(forge, versioned, server=moto_http, check=3).json["problems"]
        assert "lies under a delete marker, and no other one can be made" in problem
        assert f"--version-id {marker}" in problem
        done = night(forge, versioned, server=moto_http)
        (note,) = (note for note in done.json["notes"] if "acme/one" in note)
        assert f"--version-id {marker}" in note
        client.delete_object(Bucket=versioned, Key=key, VersionId=marker)
        done = night(forge, versioned, server=moto_http)
        assert not [note for note in done.json["notes"] if "acme/one" in note]
        # It counts as if nothing had been: another marker is news.
        client.delete_object(Bucket=versioned, Key=key)
        night(forge, versioned, server=moto_http, check=3)


# --- The URL -------------------------------------------------------------------------------------


@pytest.fixture
def signer(
    rclone_http: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[int], Secret | None]]:
    for name, value in rclone_http.environment().items():
        monkeypatch.setenv(name, value)
    settings = S3Settings(bucket, prefix="git", endpoint_url=rclone_http.endpoint_url)
    made: list[S3Destination] = []

    def sign(seconds: int) -> Secret | None:
        made.append(S3Destination(settings, stop=Stop()))
        key = Key("host/acme/exports/a b/2026-01-01-00-00-00.tar.gz")
        return made[-1].upload_url(key, content_type="application/gzip", seconds=seconds)

    yield sign
    for destination in made:
        destination.close()


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Content-Type": "application/gzip"}, 200),
        ({"Content-Type": "application/octet-stream"}, 403),
        ({}, 403),
    ],
)
def test_the_store_takes_exactly_what_gitlab_sends(
    signer: Callable[[int], Secret | None], headers: dict[str, str], status: int
) -> None:
    url = signer(3600)
    assert url is not None
    text = url.reveal()
    assert "X-Amz-SignedHeaders=content-type%3Bhost&" in text
    assert "X-Amz-Expires=3600&" in text
    assert requests.put(text, data=b"data", headers=headers, timeout=10).status_code == status
    # And nothing but this one key.
    other = text.replace("2026-01-01", "2026-01-02")
    fields = {"Content-Type": "application/gzip"}
    assert requests.put(other, data=b"data", headers=fields, timeout=10).status_code == 403


def life_of(url: str) -> int:
    """Return the seconds that a presigned URL claims to live."""
    return int(url.partition("X-Amz-Expires=")[2].partition("&")[0])


def test_a_url_lives_no_longer_than_its_session(
    signer: Callable[[int], Secret | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def life() -> int:
        url = signer(4 * 3600)
        assert url is not None
        return life_of(url.reveal())

    assert life() == 4 * 3600
    monkeypatch.setenv("AWS_SESSION_TOKEN", "a-session")
    # Nobody says when it ends.
    assert 3590 <= life() <= 3600
    for minutes, expected in ((120, 7200), (20, 1200)):
        end = datetime.now(UTC) + timedelta(minutes=minutes)
        monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", end.isoformat())
        assert expected - 10 <= life() <= expected
    end = datetime.now(UTC) + timedelta(seconds=presigning.LEAST_SECONDS - 5)
    monkeypatch.setenv("AWS_CREDENTIAL_EXPIRATION", end.isoformat())
    assert signer(4 * 3600) is None


def test_where_no_end_of_a_session_is_told_a_url_ends_an_hour_after_its_first_use(
    rclone_http: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in rclone_http.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "a-session")
    connection = connect(S3Settings(bucket, endpoint_url=rclone_http.endpoint_url))
    with closing(connection.client):
        for minutes in (0, 50, 70):
            used_since = replace(connection, connected_at=time.monotonic() - minutes * 60)
            # Whatever time this machine takes, none is added.
            assert presigning.seconds_left(used_since) <= (60 - minutes) * 60


@pytest.mark.parametrize(
    ("minutes", "most_seconds"),
    [(None, 3600), (30, 1800), (4, None)],
    ids=["no end is told", "half an hour is left", "too little is left"],
)
def test_a_url_that_a_run_gives_away_claims_no_longer_life_than_its_session_has(
    forge: GitLab,
    rclone_http: S3Server,
    bucket: str,
    minutes: int | None,
    most_seconds: int | None,
) -> None:
    real(forge, "acme/one")
    env = {"AWS_SESSION_TOKEN": "a-session"}
    if minutes is not None:
        end = datetime.now(UTC) + timedelta(minutes=minutes)
        env["AWS_CREDENTIAL_EXPIRATION"] = end.isoformat()
    waited_for = ("--export-timeout-minutes", "240")
    done = night(forge, bucket, *waited_for, server=rclone_http, env=env)
    assert done.json["result"] == "success"
    ((_, _, url),) = forge.asked_for
    if most_seconds is None:
        # It is downloaded and stored instead.
        assert url is None
    else:
        assert url is not None
        assert presigning.LEAST_SECONDS <= life_of(url) <= most_seconds
        assert "X-Amz-Security-Token=a-session" in url
    assert "1 exports of projects were stored" in done.json["notes"]
