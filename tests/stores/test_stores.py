"""The contract of destinations, and a night, against a Ceph RADOS gateway and OpenStack Swift.

Run by ``make test-stores``; plain ``pytest`` does not come here, since the servers take packages of
some hundred megabytes and root.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from backup.model import Destination
from tests.contract.destination_contract import bucket_destination
from tests.contract.test_destinations import (
    TestConflicts,
    TestDeleting,
    TestListing,
    TestReading,
    TestWriting,
)
from tests.integration.test_object_lock import (
    LockCase,
    test_a_bucket_without_is_refused_before_anything_is_written,
    test_a_lock_that_is_not_renewed_is_a_problem_and_tried_again,
    test_a_lock_that_was_asked_for_and_not_made_is_a_problem,
    test_a_vault_that_was_not_locked_becomes_it,
    test_an_increment_is_locked_no_longer_than_what_it_builds_on,
    test_everything_that_is_written_is_locked_and_cannot_be_removed,
    test_files_of_git_lfs_are_locked_as_long_as_their_repositories,
    test_locks_are_renewed_in_time_by_version_and_never_needlessly,
    test_prune_hides_and_the_locked_versions_stay,
    test_what_is_uploaded_in_parts_is_locked_too,
)
from tests.support.mirrors import assert_same_mirror
from tests.support.program import repo_backup
from tests.support.s3server import S3Server
from tests.support.shapes import LARGE, SOUND, make
from tests.support.stores import ceph_gateway, swift
from tests.support.tls import Certificates
from tests.support.vaults import to_be_kept

__all__ = [
    "TestConflicts",
    "TestDeleting",
    "TestListing",
    "TestReading",
    "TestWriting",
    # Of Object Lock, where the store has it.
    "test_a_bucket_without_is_refused_before_anything_is_written",
    "test_a_lock_that_is_not_renewed_is_a_problem_and_tried_again",
    "test_a_lock_that_was_asked_for_and_not_made_is_a_problem",
    "test_a_vault_that_was_not_locked_becomes_it",
    "test_an_increment_is_locked_no_longer_than_what_it_builds_on",
    "test_everything_that_is_written_is_locked_and_cannot_be_removed",
    "test_files_of_git_lfs_are_locked_as_long_as_their_repositories",
    "test_locks_are_renewed_in_time_by_version_and_never_needlessly",
    "test_prune_hides_and_the_locked_versions_stay",
    "test_what_is_uploaded_in_parts_is_locked_too",
]

STORES = ["ceph", "ceph, https", "swift", "swift, https"]
# Swift refuses conditional writes: of two writers of one key at the same moment both succeed.
DECISIVE = [store for store in STORES if store.startswith("ceph")]


@pytest.fixture(scope="session")
def ceph(
    tmp_path_factory: pytest.TempPathFactory, tls: Certificates
) -> Iterator[tuple[S3Server, S3Server]]:
    # Ceph's sockets have long names, and the system takes 107 bytes.
    with ceph_gateway(tmp_path_factory.mktemp("c"), tls) as servers:
        yield servers


@pytest.fixture(scope="session")
def swifts(
    tmp_path_factory: pytest.TempPathFactory, tls: Certificates
) -> Iterator[tuple[S3Server, S3Server]]:
    with swift(tmp_path_factory.mktemp("swift") / "files", tls) as servers:
        yield servers


def server_of(request: pytest.FixtureRequest, store: str) -> S3Server:
    plain, secure = request.getfixturevalue("ceph" if store.startswith("ceph") else "swifts")
    server: S3Server = secure if store.endswith("https") else plain
    return server


@pytest.fixture(params=STORES)
def destination(request: pytest.FixtureRequest) -> Destination:
    return bucket_destination(request, server_of(request, request.param))


@pytest.fixture(params=DECISIVE)
def exact_destination(request: pytest.FixtureRequest) -> Destination:
    return bucket_destination(request, server_of(request, request.param))


@pytest.fixture
def case(
    ceph: tuple[S3Server, S3Server], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[LockCase]:
    with LockCase.at(ceph[1], tmp_path, monkeypatch) as made:
        yield made


@pytest.mark.parametrize("store", STORES)
def test_every_shape_comes_back(store: str, request: pytest.FixtureRequest, tmp_path: Path) -> None:
    server = server_of(request, store)
    bucket = f"night-{STORES.index(store)}"
    server.make_bucket(bucket)
    names = sorted({*SOUND, *LARGE})
    for name in names:
        make(name, tmp_path / "acme" / f"{name}.git")
    env = {**server.environment(), "REPO_BACKUP_ENDPOINT_URL": server.endpoint_url}
    words = ("run", "--from", tmp_path / "acme", "--to", f"s3://{bucket}/git", "--json")
    assert repo_backup(*words, env=env).json["result"] == "success"
    again = repo_backup(*words, env=env).json
    assert again["totals"]["objects_written"] == 1
    repo_backup("restore", "--all", tmp_path / "back", "--from", f"s3://{bucket}/git", env=env)
    for name in names:
        expected = to_be_kept(tmp_path / "acme" / f"{name}.git")
        assert_same_mirror(tmp_path / "back" / f"{name}.git", expected)
