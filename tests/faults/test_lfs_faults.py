"""Files of Git LFS while things go wrong: nothing is claimed that is not there, git comes first."""

from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from backup import capture
from backup.commands.restore import RestoreRequest, restore
from backup.commands.run import RunOptions
from backup.commands.verify import VerifyRequest, verify
from backup.destinations.s3 import S3Destination, S3Settings
from backup.errors import BackupError, DestinationError, ExitCode
from backup.model import Key, ObjectId, RunReport
from backup.stopping import Stop
from backup.vault.documents import Ids, LfsIndex, encode
from backup.vault.holdings import not_held
from backup.vault.layout import lfs_key
from backup.vault.manifest import load, load_record
from tests.faults.test_prune import LAYOUT, Interrupting
from tests.faults.test_prune_files import FILES, FileEstate, ids
from tests.support.faults import (
    OWNER,
    DestinationFault,
    FaultyDestination,
    assert_nothing_false,
    back_up,
)
from tests.support.lfsserver import oid_of
from tests.support.program import repo_backup
from tests.support.s3server import S3Server
from tests.support.vaults import Silence

CONTENTS = (b"one", b"two", b"three")


@pytest.fixture
def estate(tmp_path: Path) -> FileEstate:
    made = FileEstate(tmp_path)
    made.media("media", *CONTENTS)
    made.media("more", b"one", b"four")
    return made


def files_of(estate: FileEstate, **more: Any) -> RunReport:
    estate.now += timedelta(minutes=1)
    options = RunOptions(concurrency=1, accept_drop=True, selection=FILES)
    return back_up(estate.source, estate.vault, options, at=estate.now, **more)


def whole(estate: FileEstate) -> None:
    """Back up undisturbed, after which everything is there."""
    report = files_of(estate)
    if report.problems and "has no manifest" in report.problems[0]:
        # The very first run left objects and no manifest, which is said once.
        assert report.exit_code == 1
        report = files_of(estate)
    assert (report.exit_code, report.problems) == (0, ())
    assert_nothing_false(estate.vault)
    assert estate.files() == ids(*CONTENTS, b"four")
    again = files_of(estate)
    assert again.objects_written == 1
    estate.assert_files_come_back(again.snapshot_id)


@pytest.mark.parametrize("operation", ["writer", "commit", "write"])
def test_a_store_that_fails_once_is_asked_again(operation: str, estate: FileEstate) -> None:
    fault = DestinationFault(1, operation, key="/lfs/")
    with FaultyDestination(estate.vault, fault) as store:
        options = RunOptions(concurrency=1, selection=FILES)
        report = back_up(estate.source, store, options, at=estate.now)
    missing = [one for found in report.outcomes for one in found.lfs_missing]
    assert {one.status for one in report.outcomes} == {"captured"}
    assert report.exit_code == (3 if missing else 0)
    assert_nothing_false(estate.vault)
    whole(estate)


def test_a_store_that_takes_no_files_keeps_nothing_else_from_being_stored(
    estate: FileEstate,
) -> None:
    faults = [
        DestinationFault(0, "writer", key=lfs_key(oid), error=DestinationError("no room for files"))
        for oid in ids(*CONTENTS, b"four")
    ]
    with FaultyDestination(estate.vault, *faults) as store:
        options = RunOptions(concurrency=1, selection=FILES)
        report = back_up(estate.source, store, options, at=estate.now)
    assert report.exit_code == 3
    assert {one.status for one in report.outcomes} == {"captured"}
    assert "no room for files" in report.problems[0]
    # What both need failed for the first of them alone.
    assert sum(len(one.lfs_missing) for one in report.outcomes) == 4
    assert estate.files() == ids(b"one")
    assert_nothing_false(estate.vault)
    whole(estate)


def moments(
    estate: FileEstate, tmp_path: Path, happens: Callable[[Stop], object], stop: Callable[[], Stop]
) -> Iterator[tuple[FileEstate, RunReport | None]]:
    """Let something happen at each operation of a first run."""
    at = 0
    while True:
        other = FileEstate(tmp_path / f"moment-{at}")
        other.source = estate.source
        ends = stop()
        store = Interrupting(other.vault, at, lambda ends=ends: happens(ends))  # type: ignore[misc]
        report = None
        with suppress(BackupError):
            options = RunOptions(concurrency=1, selection=FILES)
            report = back_up(other.source, store, options, at=other.now, stop=ends)
        if store.seen <= at:
            assert at > 15
            return
        yield other, report
        at += 1


def test_a_run_that_is_interrupted_at_any_moment_goes_on(
    estate: FileEstate, tmp_path: Path
) -> None:
    for other, _ in moments(estate, tmp_path, Stop.interrupt, Stop):
        assert_nothing_false(other.vault)
        whole(other)


def test_a_run_whose_time_is_up_at_any_moment_keeps_what_it_captured(
    estate: FileEstate, tmp_path: Path
) -> None:
    clock = [0.0]

    def time_is_up(_: Stop) -> None:
        clock[0] += 100

    def begin() -> Stop:
        clock[0] = 0.0
        return Stop(deadline_seconds=50, monotonic=lambda: clock[0])

    unfinished = 0
    for other, report in moments(estate, tmp_path, time_is_up, begin):
        assert_nothing_false(other.vault)
        for one in () if report is None else report.outcomes:
            # Its git objects are stored, and which files are not is said.
            unfinished += one.status == "captured" and bool(one.lfs_missing)
            assert all("time given" in missing.reason for missing in one.lfs_missing)
        whole(other)
    assert unfinished > 3


def test_a_failure_at_any_moment_claims_nothing(estate: FileEstate, tmp_path: Path) -> None:
    def fail(_: Stop) -> None:
        raise DestinationError("the store had enough")

    for other, report in moments(estate, tmp_path, fail, Stop):
        assert_nothing_false(other.vault)
        assert report is None or report.exit_code != 0 or not report.problems
        whole(other)


def test_a_file_that_was_overwritten_comes_back_as_it_was_written(
    estate: FileEstate, moto_http: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in moto_http.environment().items():
        monkeypatch.setenv(name, value)
    moto_http.make_bucket("files-with-versions", versioned=True)
    settings = S3Settings("files-with-versions", endpoint_url=moto_http.endpoint_url)
    estate.vault = store = S3Destination(settings, stop=Stop())
    whole(estate)
    key = LAYOUT.key(lfs_key(oid_of(b"two")))
    with moto_http.client() as client:
        client.put_object(Bucket="files-with-versions", Key=key, Body=b"TWO")
    estate.assert_files_come_back()
    env = {**moto_http.environment(), "REPO_BACKUP_ENDPOINT_URL": moto_http.endpoint_url}
    words = ("verify", "--from", "s3://files-with-versions", "--depth", "packs", "--json")
    (damage,) = repo_backup(*words, env=env, check=4).json["damaged"]
    assert damage["uri"].endswith(oid_of(b"two"))
    assert damage["problem"].startswith("it was overwritten: its version ")
    assert damage["repositories"] == [f"folder/{OWNER}/media"]
    target = estate.folder / "one.git"
    repo_backup("restore", "media", target, "--from", "s3://files-with-versions", env=env)
    oid = oid_of(b"two")
    assert (target / "lfs" / "objects" / oid[:2] / oid[2:4] / oid).read_bytes() == b"two"
    store.close()


# --- Lists that were replaced ---------------------------------------------------------------------


def replaced(estate: FileEstate, ending: str, update: dict[str, Any]) -> Key:
    """Put another document, as sound as the first, in the place of one beside a bundle."""
    key = Key(min(one for one in estate.stored(ending) if "/media/" in one))
    kind: type[LfsIndex | Ids] = LfsIndex if ending.startswith(".lfs") else Ids
    document = load(estate.vault, key, kind).model_copy(update=update)
    estate.vault.delete([key])
    estate.vault.put_if_absent(key, encode(document))
    return key


def looked_at(estate: FileEstate, depth: Any) -> dict[str, str]:
    report = verify(estate.vault, VerifyRequest(depth), events=Silence(), stop=Stop())
    return {one.uri.removeprefix("memory:/"): one.problem for one in report.damaged}


@pytest.mark.parametrize("depth", ["objects", "packs", "restore"])
def test_a_list_of_files_that_another_one_replaced_is_noticed(
    depth: str, estate: FileEstate
) -> None:
    whole(estate)
    key = replaced(estate, ".lfs.json.gz", {"objects": ()})
    problems = looked_at(estate, depth)
    assert problems.keys() == {key}
    assert "it is not the object that was recorded" in problems[key]
    target = estate.folder / "back"
    request = RestoreRequest(repository=None, all=True, at=None, target=target)
    report = restore(estate.vault, request, events=Silence(), stop=Stop())
    assert report.exit_code == ExitCode.DAMAGED
    failed = {one.name: one.files_failed for one in report.restored}
    assert failed["acme/more"] == ()
    assert "it is not the object that was recorded" in failed["acme/media"][0]


def test_a_list_of_ids_that_another_one_replaced_is_noticed_and_proves_nothing(
    estate: FileEstate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture, "_MOST_IDS_IN_RECORD", 0)
    whole(estate)
    (record_key,) = (one for one in estate.stored(".record.json.gz") if "/media/" in one)
    record = load_record(estate.vault, LAYOUT, record_key.removeprefix(LAYOUT.prefix))
    assert looked_at(estate, "packs") == {}
    nowhere = ObjectId("a" * 40)
    key = replaced(estate, ".ids.json.gz", {"ids": nowhere})
    assert not_held(estate.vault, LAYOUT, record, [nowhere]) == {nowhere}
    problems = looked_at(estate, "packs")
    assert problems.keys() == {key}
    assert "it is not the object that was recorded" in problems[key]
