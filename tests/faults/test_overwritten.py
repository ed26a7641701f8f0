"""Who may put objects puts others in their place: in a bucket with versions it changes nothing.

The store is moto, which answers as AWS does; the overwriting is done by the rights that a backup
role has in a bucket without our policy.
"""

import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from backup.commands.prune import PruneRequest, prune
from backup.commands.run import RunOptions
from backup.destinations.s3 import S3Destination, S3Settings
from backup.retention import Rules
from backup.sources.plain import FolderSource
from backup.stopping import Stop
from backup.vault.documents import Manifest, decode, encode
from tests.support.dated import DatedDestination
from tests.support.git import commit_chain, init_bare, set_head, update_refs
from tests.support.mirrors import MirrorState, assert_same_mirror, mirror_state
from tests.support.program import repo_backup
from tests.support.s3server import S3Server
from tests.support.vaults import Silence, run_at

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

MAIN = b"refs/heads/main"


class Case:
    """A vault of three nights in a bucket with versions, and whoever overwrites it."""

    def __init__(self, folder: Path, server: S3Server, client: "S3Client") -> None:
        self.server = server
        self.client = client
        self.bucket = f"overwritten-{abs(hash(folder)) % 10**10}"
        server.make_bucket(self.bucket, versioned=True)
        self.destination = S3Destination(
            S3Settings(self.bucket, prefix="git", endpoint_url=server.endpoint_url), stop=Stop()
        )
        self.states: list[MirrorState] = []
        source = init_bare(folder / "acme" / "one.git")
        tip = None
        for night in range(3):
            tip = commit_chain(source, 2, start=tip, label=b"night %d" % night)[-1]
            refs = {MAIN: tip, b"refs/heads/n%d" % night: tip}
            update_refs(source, refs)
            set_head(source, MAIN)
            moment = datetime.now(UTC) - timedelta(days=40 - night)
            run_at(moment, FolderSource(source.parent, owner="acme"), self.destination,
                   RunOptions(concurrency=1))  # fmt: skip
            self.states.append(mirror_state(source))

    @property
    def env(self) -> dict[str, str]:
        return self.server.environment() | {"AWS_ENDPOINT_URL": self.server.endpoint_url}

    @property
    def vault(self) -> str:
        return f"s3://{self.bucket}/git"

    def keys(self, part: str) -> list[str]:
        found = self.client.list_objects_v2(Bucket=self.bucket)["Contents"]
        return sorted(one["Key"] for one in found if part in one["Key"])

    def overwrite(self, key: str, data: bytes) -> None:
        self.client.put_object(Bucket=self.bucket, Key=key, Body=data)

    def read(self, key: str) -> bytes:
        return self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read()

    def assert_restores(self, folder: Path) -> None:
        repo_backup("restore", "one", "--from", self.vault, folder / "now.git", env=self.env)
        assert_same_mirror(folder / "now.git", self.states[-1])
        first = repo_backup("list", "--from", self.vault, "--json", env=self.env).json["snapshots"]
        at = ("--at", first[0]["id"])
        repo_backup("restore", "one", "--from", self.vault, folder / "old.git", *at, env=self.env)
        assert_same_mirror(folder / "old.git", self.states[0])


@pytest.fixture
def case(tmp_path: Path, moto_http: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Case]:
    for name, value in moto_http.environment().items():
        monkeypatch.setenv(name, value)
    with moto_http.client() as client:
        made = Case(tmp_path, moto_http, client)
        yield made
        made.destination.close()


@pytest.mark.parametrize(
    ("part", "how"),
    [
        ("/snapshots/", "an older one"),
        (".record.json.gz", "an older one"),
        ("git/", "an older one"),
        ("git/", "garbage"),
    ],
)
def test_a_restore_gives_back_what_was_written(
    case: Case, tmp_path: Path, part: str, how: str
) -> None:
    keys = case.keys(part)
    oldest = {key.rpartition(".")[2]: case.read(key) for key in reversed(keys)}
    for key in keys:
        # Sound, and of the same repository, but of another night.
        older = oldest[key.rpartition(".")[2]]
        case.overwrite(key, b"x" * 100 if how == "garbage" else older)
    case.assert_restores(tmp_path)
    done = repo_backup("verify", "--from", case.vault, "--json", env=case.env, check=4)
    damaged = {one["uri"].removeprefix(f"s3://{case.bucket}/") for one in done.json["damaged"]}
    documents = {key for key in keys if "/snapshots/" in key}
    assert documents <= damaged
    assert len(damaged) >= len(documents) > 0 or damaged


def test_what_needs_nothing_deletes_nothing(case: Case, tmp_path: Path) -> None:
    """A manifest without repositories would make everything garbage."""
    empty = case.keys("/snapshots/")[0]
    for key in case.keys("/snapshots/"):
        case.overwrite(key, case.read(empty))
    request = PruneRequest(Rules(daily=1), grace_days=1)
    prune(DatedDestination(case.destination), request, events=Silence(), stop=Stop())
    # One night stays, and its chain is all there.
    assert len(case.keys("/snapshots/")) == 1
    repo_backup("restore", "one", "--from", case.vault, tmp_path / "now.git", env=case.env)
    assert_same_mirror(tmp_path / "now.git", case.states[-1])


def test_a_vault_that_was_copied_has_other_versions_and_restores(
    case: Case, tmp_path: Path
) -> None:
    other = f"{case.bucket}-copy"
    case.server.make_bucket(other, versioned=True)
    for key in case.keys("git/"):
        case.client.put_object(Bucket=other, Key=key, Body=case.read(key))
    vault = ("--from", f"s3://{other}/git")
    repo_backup("restore", "one", *vault, tmp_path / "now.git", env=case.env)
    assert_same_mirror(tmp_path / "now.git", case.states[-1])


def test_what_was_written_before_the_bucket_had_versions_is_the_first(
    case: Case, tmp_path: Path
) -> None:
    name = f"{case.bucket}-late"
    case.server.make_bucket(name)
    for key in case.keys("git/"):
        case.client.put_object(Bucket=name, Key=key, Body=case.read(key))
    case.client.put_bucket_versioning(Bucket=name, VersioningConfiguration={"Status": "Enabled"})
    for key in case.keys("/snapshots/"):
        case.client.put_object(Bucket=name, Key=key, Body=b"x" * 100)
    vault = ("--from", f"s3://{name}/git")
    repo_backup("restore", "one", *vault, tmp_path / "now.git", env=case.env)
    assert_same_mirror(tmp_path / "now.git", case.states[-1])


def test_a_run_goes_on_from_what_was_written(case: Case, tmp_path: Path) -> None:
    """A manifest that gives an old record for the newest would make every later one wrong."""
    first, *_, newest = case.keys("/snapshots/")
    (old,) = decode(case.read(first), Manifest, where=first).entries
    manifest = decode(case.read(newest), Manifest, where=newest)
    (entry,) = manifest.entries
    forged = entry.model_copy(
        update={"record": old.record, "record_version_id": old.record_version_id}
    )
    case.overwrite(newest, encode(manifest.model_copy(update={"entries": (forged,)})))
    run = ("run", "--from", tmp_path / "acme", "--to", case.vault)
    report = repo_backup(*run, "--json", env=case.env).json
    assert report["totals"]["unchanged"] == 1
    case.assert_restores(tmp_path)
    # Nor does a record in the place of another one spoil what is based on it.
    for key in case.keys(".record.json.gz"):
        case.overwrite(key, b"x" * 100)
    tip = commit_chain(tmp_path / "acme" / "one.git", 1, label=b"later")[-1]
    update_refs(tmp_path / "acme" / "one.git", {b"refs/heads/later": tip})
    (one,) = repo_backup(*run, "--json", env=case.env).json["repositories"]
    assert one["plan"] == "incremental"
    case.states.append(mirror_state(tmp_path / "acme" / "one.git"))
    shutil.rmtree(tmp_path / "now.git")
    shutil.rmtree(tmp_path / "old.git")
    case.assert_restores(tmp_path)
