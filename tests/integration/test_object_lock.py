"""Object Lock: what is written is locked, and stays so as long as snapshots need it."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from backup.commands.prune import PruneRequest, prune
from backup.commands.run import RunOptions
from backup.destinations.s3 import S3Destination, S3Settings
from backup.errors import AccessDenied
from backup.model import Key, RunReport, Selection
from backup.retention import Rules
from backup.sources.plain import FolderSource
from backup.stopping import Stop
from backup.vault.documents import Entry
from backup.vault.layout import Layout, lfs_key
from backup.vault.manifest import list_documents, load_manifest, load_record
from tests.support import shapes
from tests.support.git import commit_chain, init_bare, set_head, update_refs
from tests.support.lfsserver import commit, keep, oid_of, pointer
from tests.support.program import repo_backup
from tests.support.proxy import FaultProxy
from tests.support.s3server import S3Server
from tests.support.vaults import Silence, run_at

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MAIN = b"refs/heads/main"
DAYS = 40
LAYOUT = Layout.of(host="folder", owner="acme")


class Watched(S3Destination):
    """Notes whose locks are renewed; refuses those that are named, and may show none at all."""

    renewed: list[tuple[str, str | None]]
    refused: str = ""
    shows_no_locks: bool = False

    def locked_until(self, keys: Iterable[Key]) -> dict[Key, datetime]:
        if self.refused == "HEAD":
            raise AccessDenied("the store forbids HeadObject")
        return {} if self.shows_no_locks else super().locked_until(keys)

    def renew_lock(self, key: Key, *, version: str | None) -> datetime | None:
        if self.refused and self.refused in key:
            raise AccessDenied(f"{key}: the store forbids PutObjectRetention")
        self.renewed.append((key, version))
        return super().renew_lock(key, version=version)


class LockCase:
    """Two repositories, and a vault in a bucket with Object Lock."""

    def __init__(self, folder: Path, server: S3Server, client: "S3Client") -> None:
        self.server = server
        self.client = client
        self.endpoint_url = server.endpoint_url
        self.bucket = f"locked-{abs(hash(folder)) % 10**10}"
        client.create_bucket(Bucket=self.bucket, ObjectLockEnabledForBucket=True)
        settings = S3Settings(
            self.bucket,
            endpoint_url=server.endpoint_url,
            lock_mode="GOVERNANCE",
            lock_days=DAYS,
        )
        self.store = Watched(settings, stop=Stop())
        self.store.renewed = []
        self.source = folder / "acme"
        for name in ("busy", "quiet"):
            self.push(name, "begins")

    @classmethod
    @contextmanager
    def at(
        cls, server: S3Server, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> "Iterator[LockCase]":
        """Make one, with credentials in the environment."""
        for name, value in server.environment().items():
            monkeypatch.setenv(name, value)
        with server.client() as client:
            made = cls(folder, server, client)
            yield made
            made.store.close()

    def push(self, name: str, label: str) -> None:
        path = self.source / f"{name}.git"
        tip = None
        if path.exists():
            tip = self._tips.get(name)
        else:
            init_bare(path)
            self._tips: dict[str, bytes] = getattr(self, "_tips", {})
        self._tips[name] = commit_chain(path, 3, start=tip, label=label.encode())[-1]
        update_refs(path, {MAIN: self._tips[name]})
        set_head(path, MAIN)

    def push_file(self, name: str, *contents: bytes) -> None:
        """Commit files of Git LFS, which the repository has itself."""
        path = self.source / f"{name}.git"
        if not path.exists():
            init_bare(path)
        keep(path, *contents)
        commit(path, "files", {one.decode(): pointer(one) for one in contents})

    def night(
        self, *, days: float = 0, code: int = 0, lfs: bool = False
    ) -> list[tuple[str, str | None]]:
        """Back up so many days from now, and tell whose locks were renewed."""
        self.store.renewed.clear()
        self.night_report(days=days, code=code, lfs=lfs)
        return list(self.store.renewed)

    def night_report(self, *, days: float = 0, code: int = 0, lfs: bool = False) -> RunReport:
        moment = datetime.now(UTC) + timedelta(days=days)
        options = RunOptions(concurrency=1, lock_days=DAYS, selection=Selection(lfs=lfs))
        report = run_at(moment, FolderSource(self.source, owner="acme"), self.store, options)
        assert report.exit_code == code, report.problems
        return report

    @property
    def env(self) -> dict[str, str]:
        return self.server.environment()

    def entry(self, path: str) -> Entry:
        names = [one for one in list_documents(self.store, LAYOUT) if one.checkpoint is None]
        manifests = [load_manifest(self.store, LAYOUT, name) for name in names]
        newest = max(manifests, key=lambda one: one.finished_at)
        return next(one for one in newest.entries if one.path == path)

    def versions(self) -> list[Any]:
        return list(self.client.list_object_versions(Bucket=self.bucket)["Versions"])


@pytest.fixture
def case(
    tmp_path: Path, moto_http: S3Server, monkeypatch: pytest.MonkeyPatch
) -> Iterator[LockCase]:
    with LockCase.at(moto_http, tmp_path, monkeypatch) as made:
        yield made


def in_days(moment: datetime | None) -> float:
    assert moment is not None
    return (moment - datetime.now(UTC)).total_seconds() / 86_400


def test_everything_that_is_written_is_locked_and_cannot_be_removed(case: LockCase) -> None:
    assert case.night() == []
    found = case.versions()
    # Two bundles, two records, a manifest.
    assert len(found) == 5
    for one in found:
        name = {"Bucket": case.bucket, "Key": one["Key"], "VersionId": one["VersionId"]}
        head = case.client.head_object(**name)
        assert head["ObjectLockMode"] == "GOVERNANCE"
        assert in_days(head["ObjectLockRetainUntilDate"]) == pytest.approx(DAYS, abs=0.01)
        with pytest.raises(ClientError, match="AccessDenied"):
            case.client.delete_object(**name)
    entry = case.entry("quiet")
    assert in_days(entry.locked_until) == pytest.approx(DAYS, abs=0.01)
    record = load_record(case.store, LAYOUT, entry.record or "")
    assert record.chain[0].retain_until == entry.locked_until


def test_what_is_uploaded_in_parts_is_locked_too(case: LockCase) -> None:
    """Also where the store forgets it when the parts are joined, as the emulator and Ceph 16 do."""
    shapes.make("big-blob", case.source / "big.git")
    case.night()
    record = load_record(case.store, LAYOUT, case.entry("big").record or "")
    (line,) = record.chain
    assert in_days(line.retain_until) == pytest.approx(DAYS, abs=0.01)
    key = LAYOUT.key(line.key)
    head = case.client.head_object(Bucket=case.bucket, Key=key)
    assert "-" in head["ETag"], "it was one part"
    assert head["ObjectLockMode"] == "GOVERNANCE"
    assert in_days(head["ObjectLockRetainUntilDate"]) == pytest.approx(DAYS, abs=0.01)
    with pytest.raises(ClientError, match="AccessDenied"):
        case.client.delete_object(Bucket=case.bucket, Key=key, VersionId=head["VersionId"])


def test_files_of_git_lfs_are_locked_as_long_as_their_repositories(case: LockCase) -> None:
    """A file is of several repositories, and whoever needs it next renews it in time."""
    for name in ("quiet", "busy"):
        case.push_file(name, b"shared", name.encode())
    assert case.night(lfs=True) == []
    keys = [LAYOUT.key(lfs_key(oid_of(one))) for one in (b"shared", b"quiet", b"busy")]
    for key in keys:
        head = case.client.head_object(Bucket=case.bucket, Key=key)
        assert in_days(head["ObjectLockRetainUntilDate"]) == pytest.approx(DAYS, abs=0.01)
        with pytest.raises(ClientError, match="AccessDenied"):
            case.client.delete_object(Bucket=case.bucket, Key=key, VersionId=head["VersionId"])
    assert in_days(case.entry("busy").locked_until) == pytest.approx(DAYS, abs=0.01)
    # One that comes to a file that is there sees how long it is locked, and locks nothing anew.
    case.push_file("third", b"shared")
    assert case.night(days=8, lfs=True) == []
    assert in_days(case.entry("third").locked_until) == pytest.approx(DAYS, abs=0.01)
    renewed = {key for key, _ in case.night(days=25, lfs=True)}
    assert renewed >= set(keys)


def test_a_lock_that_was_asked_for_and_not_made_is_a_problem(case: LockCase) -> None:
    case.store.shows_no_locks = True
    problems = case.night_report(code=3).problems
    assert len(problems) == 2
    assert all("is not locked, though that was asked for" in one for one in problems)


def test_locks_are_renewed_in_time_by_version_and_never_needlessly(case: LockCase) -> None:
    case.night()
    assert case.night(days=1) == []
    assert case.night(days=8) == []
    renewed = case.night(days=25)
    entry = case.entry("quiet")
    record = load_record(case.store, LAYOUT, entry.record or "")
    wanted = {
        (LAYOUT.key(entry.record or ""), entry.record_version_id),
        (LAYOUT.key(record.chain[0].key), record.chain[0].version_id),
    }
    assert wanted <= set(renewed)
    assert all(version is not None for _, version in renewed)
    assert len(renewed) == 4
    # The store's time did not move meanwhile: seen from now it is the whole time again.
    assert in_days(entry.locked_until) == pytest.approx(DAYS, abs=0.01)
    assert case.night(days=5) == []


def test_an_increment_is_locked_no_longer_than_what_it_builds_on(case: LockCase) -> None:
    bucket = case.store._bucket
    bucket.settings = replace(bucket.settings, lock_days=DAYS - 5)
    case.night()
    bucket.settings = replace(bucket.settings, lock_days=DAYS)
    base = case.entry("busy").locked_until
    case.push("busy", "more")
    case.night(days=1)
    entry = case.entry("busy")
    assert entry.chain_length == 2
    assert entry.locked_until == base
    assert in_days(base) == pytest.approx(DAYS - 5, abs=0.01)
    renewed = case.night(days=25)
    # The base, the increment and the record; beside the quiet one's two.
    assert len([key for key, _ in renewed if "/busy/" in key]) == 3
    assert len(renewed) == 5


def test_a_vault_that_was_not_locked_becomes_it(case: LockCase) -> None:
    settings = case.store._bucket.settings
    plain = S3Destination(
        S3Settings(settings.bucket, endpoint_url=settings.endpoint_url), stop=Stop()
    )
    run_at(datetime.now(UTC), FolderSource(case.source, owner="acme"), plain, RunOptions())
    plain.close()
    renewed = case.night(days=1)
    assert len(renewed) == 4
    for key, version in renewed:
        head = case.client.head_object(Bucket=case.bucket, Key=key, VersionId=version or "")
        assert head["ObjectLockMode"] == "GOVERNANCE"


def test_a_lock_that_is_not_renewed_is_a_problem_and_tried_again(case: LockCase) -> None:
    case.night()
    case.store.refused = "/quiet/"
    case.night(days=35, code=3)
    case.store.refused = ""
    assert {key.split("/")[3] for key, _ in case.night(days=5)} == set()
    assert {key.split("/")[3] for key, _ in case.night(days=36)} >= {"quiet"}


def test_a_lock_that_cannot_be_looked_at_costs_no_manifest(case: LockCase) -> None:
    case.store.refused = "HEAD"
    report = case.night_report(code=3)
    words = "it could not be seen whether the store locks what is written: "
    assert report.problems == (f"{words}the store forbids HeadObject",)
    assert len(report.manifests) == 1
    assert case.entry("quiet").locked_until is not None


def test_prune_hides_and_the_locked_versions_stay(case: LockCase) -> None:
    for number in range(2):
        case.push("busy", f"night {number}")
        case.night(days=(-20 + number) / 24)
    case.night()
    before = {(one["Key"], one["VersionId"]) for one in case.versions()}
    words = ("prune", "--from", f"s3://{case.bucket}", "--keep-hourly", "1", "--grace-days", "1")
    with FaultProxy(case.endpoint_url, upstream_ca=case.server.ca_file) as proxy:
        env = case.env | {"AWS_ENDPOINT_URL": proxy.url}
        planned = repo_backup(*words, "--dry-run", env=env)
    (line,) = [line for line in planned.stdout.splitlines() if "are locked" in line]
    request = PruneRequest(Rules(hourly=1), grace_days=1)
    report = prune(case.store, request, events=Silence(), stop=Stop())
    assert report.objects > 0
    until = (datetime.now(UTC) + timedelta(days=DAYS)).date()
    assert line.startswith(f"folder/acme: {report.objects} of these objects")
    assert line.endswith(f"the last until {until}: versions of them stay until then")
    assert sum(one.method == "HEAD" for one in proxy.requests) == report.objects
    assert report.freed_bytes == 0
    (row,) = report.locked
    assert (row.owner, row.objects) == ("folder/acme", report.objects)
    assert row.size_bytes == report.marked_bytes
    assert row.first <= row.last
    assert in_days(row.first) == pytest.approx(DAYS, abs=0.01)
    after = {(one["Key"], one["VersionId"]) for one in case.versions()}
    assert {key for key, _ in after - before} == {
        stored.key for stored in case.store.list("folder/acme/pruned/")
    }
    assert after >= before


def test_a_bucket_without_is_refused_before_anything_is_written(case: LockCase) -> None:
    server = case.server
    server.make_bucket(f"{case.bucket}-plain", versioned=True)
    words = ("run", "--from", case.source, "--endpoint-url", server.endpoint_url)
    lock = ("--object-lock-mode", "compliance", "--object-lock-days", "7")
    plain = ("--to", f"s3://{case.bucket}-plain")
    done = repo_backup(*words, *plain, *lock, env=server.environment(), check=2)
    assert "has no Object Lock\n" in done.stderr
    assert "does not exist" not in done.stderr
    assert "Contents" not in case.client.list_objects_v2(Bucket=f"{case.bucket}-plain")
    locked = ("--to", f"s3://{case.bucket}")
    repo_backup(*words, *locked, *lock, env=server.environment())
    modes = {
        case.client.head_object(Bucket=case.bucket, Key=one["Key"])["ObjectLockMode"]
        for one in case.versions()
    }
    assert modes == {"COMPLIANCE"}


def test_a_folder_has_none(tmp_path: Path) -> None:
    lock = ("--object-lock-mode", "governance", "--object-lock-days", "7")
    (tmp_path / "acme").mkdir()
    words = ("run", "--from", tmp_path / "acme", "--to", tmp_path / "vault", *lock)
    assert "needs a bucket" in repo_backup(*words, check=2).stderr
