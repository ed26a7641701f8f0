"""Delete markers over what the newest state needs: noticed by every command, and undone.

The store is moto, which answers as AWS does. Whoever may delete in the bucket hides what the
newest state needs; a rule of the bucket would remove it weeks later.
"""

import shlex
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import pytest

from backup.commands.listing import list_history, list_vault
from backup.commands.prune import PruneRequest, prune
from backup.commands.restore import RestoreRequest, restore
from backup.commands.run import RunOptions
from backup.commands.status import status
from backup.commands.verify import VerifyRequest, verify
from backup.counting import RequestCounts
from backup.destinations.counting import CountingDestination
from backup.destinations.s3 import S3Destination, S3Settings
from backup.errors import IndexMissing
from backup.model import RunReport, Selection
from backup.results import RestoreReport, StatusReport, VerifyReport
from backup.retention import Rules
from backup.sources.plain import FolderSource
from backup.stopping import Stop
from backup.vault.documents import encode
from backup.vault.layout import DocumentName, Layout, new_snapshot_id
from backup.vault.manifest import list_documents, load_manifest, load_state
from backup.vault.originals import OriginalsDestination
from tests.support.dated import DatedDestination
from tests.support.faults import Heard
from tests.support.git import commit_chain, init_bare, update_refs
from tests.support.lfsserver import commit, keep, oid_of, pointer
from tests.support.mirrors import assert_same_mirror, mirror_state
from tests.support.program import repo_backup
from tests.support.s3server import S3Server
from tests.support.vaults import Silence, run_at

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

ROOT = "git/folder/acme"
NIGHTS = 3
HOUR = timedelta(hours=1)


class Timeless(S3Destination):
    """A store whose clock nobody asks: the nights here are some days ago, and that is no fault."""

    def now(self) -> None:
        return None


class Vault:
    """Some nights of one repository in a bucket with versions, and who may delete there."""

    def __init__(self, folder: Path, server: S3Server, client: "S3Client") -> None:
        self.server, self.client = server, client
        self.bucket = f"hidden-{uuid4().hex}"
        server.make_bucket(self.bucket, versioned=True)
        self.destination = Timeless(
            S3Settings(self.bucket, prefix="git", endpoint_url=server.endpoint_url), stop=Stop()
        )
        self.folder = folder
        self.source = init_bare(folder / "acme" / "one.git")
        self.began = datetime.now(UTC) - timedelta(days=10)
        for night in range(NIGHTS):
            assert self.night(night, b"file %d" % night).exit_code == 0

    def add(self, name: str) -> None:
        """Make a repository without files of Git LFS."""
        path = init_bare(self.folder / "acme" / f"{name}.git")
        update_refs(path, {b"refs/heads/main": commit_chain(path, 2, label=name.encode())[-1]})

    def night(self, number: int, *contents: bytes, **options: Any) -> RunReport:
        """Run at the hour of this number, after a commit where there is something to commit."""
        if contents:
            keep(self.source, *contents)
            files = {f"file-{count}": pointer(one) for count, one in enumerate(contents)}
            commit(self.source, "main", files)
        source = FolderSource(self.source.parent, owner="acme")
        chosen = replace(RunOptions(concurrency=1, selection=Selection(lfs=True)), **options)
        return run_at(self.began + number * HOUR, source, self.destination, chosen)

    def keys(self, part: str) -> list[str]:
        found = self.client.list_objects_v2(Bucket=self.bucket, Prefix=ROOT).get("Contents", [])
        return sorted(one["Key"] for one in found if part in one["Key"])

    def hide(self, *keys: str) -> None:
        for key in keys:
            self.client.delete_object(Bucket=self.bucket, Key=key)

    def undo(self, text: str) -> None:
        """Do what every command that stands in a message says, with the same client."""
        for command in text.partition("show it again: ")[2].split(" && "):
            words = shlex.split(command)
            assert words[:3] == ["aws", "s3api", "delete-object"], text
            options = dict(zip(words[3::2], words[4::2], strict=True))
            assert options["--endpoint-url"] == self.server.endpoint_url
            self.client.delete_object(
                Bucket=options["--bucket"],
                Key=options["--key"],
                VersionId=options["--version-id"],
            )

    # --- Commands, a day after the last night at most ---

    def status(self) -> StatusReport:
        now = self.began + 5 * HOUR
        return status(self.destination, owners=(), max_age_hours=26, now=now)

    def errors(self) -> list[str]:
        report = self.status()
        found = [one for one in report.findings if one.severity == "error"]
        assert report.exit_code == (3 if found else 0)
        return [f"{one.message}: {one.fix}" for one in found]

    def verify(self) -> VerifyReport:
        return verify(self.destination, VerifyRequest("objects"), events=Silence(), stop=Stop())

    def restore(self, name: str, heard: Heard | None = None) -> RestoreReport:
        request = RestoreRequest(None, all=True, at=None, target=self.folder / name)
        return restore(self.destination, request, events=heard or Heard(), stop=Stop())

    def assert_comes_back(self, name: str, heard: Heard | None = None) -> None:
        report = self.restore(name, heard)
        (one,) = report.restored
        assert (report.failed, one.files_failed) == ((), ())
        assert_same_mirror(one.path, mirror_state(self.source))


@pytest.fixture
def vault(tmp_path: Path, moto_http: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[Vault]:
    for name, value in moto_http.environment().items():
        monkeypatch.setenv(name, value)
    with moto_http.client() as client:
        made = Vault(tmp_path, moto_http, client)
        yield made
        made.destination.close()


def test_a_whole_vault_has_nothing_to_say(vault: Vault) -> None:
    assert vault.errors() == []
    assert vault.verify().exit_code == 0
    assert (list_vault(vault.destination).notes, vault.night(4).problems) == ((), ())


@pytest.mark.parametrize("which", ["the newest manifest", "every manifest"])
def test_a_hidden_manifest_is_read_all_the_same_and_every_command_says_so(
    which: str, vault: Vault
) -> None:
    manifests = vault.keys("/snapshots/")
    newest = manifests[-1]
    hidden = manifests if which == "every manifest" else [newest]
    vault.hide(*hidden)

    errors = vault.errors()
    assert len(errors) == len(hidden)
    assert all(key in said for key, said in zip(hidden, errors, strict=True))
    report = vault.verify()
    assert report.exit_code == 4
    uris = {f"s3://{vault.bucket}/{key}" for key in hidden}
    assert {one.uri for one in report.damaged} == uris
    listing = list_vault(vault.destination)
    assert len(listing.snapshots) == NIGHTS
    assert [key for key in hidden if any(key in note for note in listing.notes)] == hidden
    assert newest in list_history(vault.destination, "one").notes[-1]
    heard = Heard()
    vault.assert_comes_back("hidden", heard)
    assert any(newest in note and "delete-object" in note for note in heard.notes)

    night = vault.night(4)
    assert (night.exit_code, night.count("unchanged")) == (3, 1)
    assert [key for key in hidden if any(key in one for one in night.problems)] == hidden
    for said in errors:
        vault.undo(said)
    assert len(vault.keys("/snapshots/")) == NIGHTS + 1
    assert vault.errors() == []
    assert vault.verify().exit_code == 0
    assert vault.night(5).exit_code == 0


@pytest.mark.parametrize("part", [".record.json.gz", ".bundle", ".lfs.json.gz"])
def test_a_hidden_object_of_the_newest_chain_is_a_problem_and_one_command_undoes_it(
    part: str, vault: Vault
) -> None:
    key = vault.keys(part)[-1]
    vault.hide(key)

    (said,) = vault.errors()
    relative = key.removeprefix(f"{ROOT}/")
    assert relative in said
    report = vault.verify()
    (damage,) = report.damaged
    assert (report.exit_code, damage.uri) == (4, f"s3://{vault.bucket}/{key}")
    assert "show it again: aws s3api delete-object" in damage.problem
    assert list_vault(vault.destination).notes == ()
    restored = vault.restore("hidden")
    assert restored.exit_code == (4 if part == ".lfs.json.gz" else 0)
    if part != ".lfs.json.gz":
        vault.assert_comes_back("again")

    vault.undo(damage.problem)
    # What verify found damaged counts until it passes.
    assert vault.verify().exit_code == 0
    assert vault.errors() == []
    vault.hide(key)
    night = vault.night(NIGHTS, b"later")
    assert night.exit_code == 3
    (outcome,) = night.outcomes
    assert (outcome.status, outcome.plan) == ("captured", "full")
    assert outcome.reason.startswith("the chain is broken: ")
    (problem,) = night.problems
    assert relative in problem
    assert vault.errors() == []
    vault.assert_comes_back("after")
    assert vault.verify().exit_code == 4
    vault.undo(problem)
    assert vault.verify().exit_code == 0


@pytest.mark.parametrize("part", [".record.json.gz", ".full.bundle", ".lfs.json.gz"])
def test_a_run_that_looks_over_the_vault_finds_what_is_hidden_of_an_unchanged_repository(
    part: str, vault: Vault
) -> None:
    key = vault.keys(part)[-1]
    vault.hide(key)
    assert vault.night(3).exit_code == 0, "a bucket is looked over once in seven days"
    night = vault.night(24 * 8)
    assert night.exit_code == 3
    assert [one.plan for one in night.outcomes] == ["full"]
    (problem,) = night.problems
    assert key.removeprefix(f"{ROOT}/") in problem
    vault.undo(problem)
    assert key in vault.keys(part)


def test_a_hidden_file_of_git_lfs_is_named_with_the_command_that_undoes_it(vault: Vault) -> None:
    key = next(one for one in vault.keys("/lfs/") if one.endswith(oid_of(b"file 1")))
    vault.hide(key)
    (damage,) = vault.verify().damaged
    assert damage.uri == f"s3://{vault.bucket}/{key}"
    # Its source has lost it, too: no run can store it again.
    shutil.rmtree(vault.source / "lfs")
    night = vault.night(24 * 8)
    assert night.exit_code == 3
    (problem,) = [one for one in night.problems if oid_of(b"file 1") in one]
    for said in (damage.problem, problem):
        assert "lies under a delete marker; show it again: aws s3api delete-object" in said
    vault.undo(damage.problem)
    assert key in vault.keys("/lfs/")
    assert vault.verify().exit_code == 0
    vault.assert_comes_back("again")


def test_a_hidden_file_of_git_lfs_is_an_error_of_status_before_any_run_looks(vault: Vault) -> None:
    key = next(one for one in vault.keys("/lfs/") if one.endswith(oid_of(b"file 1")))
    vault.hide(key)
    (said,) = vault.errors()
    relative = key.removeprefix(f"{ROOT}/")
    assert f"one: {relative} lies under a delete marker: show it again: aws s3api" in said
    report = vault.restore("without")
    (failed,) = report.restored[0].files_failed
    assert (report.exit_code, said.partition(": show it again: ")[2]) == (
        4,
        failed.partition("; show it again: ")[2],
    )
    vault.undo(said)
    assert vault.errors() == []
    vault.assert_comes_back("again")


def test_hidden_files_of_git_lfs_are_counted_and_the_first_is_named(vault: Vault) -> None:
    keys = vault.keys("/lfs/")
    vault.hide(*keys)
    (said,) = vault.errors()
    assert f"{keys[0].removeprefix(f'{ROOT}/')} and 2 more files of Git LFS lie under" in said
    vault.undo(said.removesuffix("; verify says it for each of the others"))
    damage = vault.verify().damaged
    assert sorted(one.uri for one in damage) == [f"s3://{vault.bucket}/{one}" for one in keys[1:]]
    for one in damage:
        vault.undo(one.problem)
    assert vault.verify().exit_code == 0
    assert vault.errors() == []


@pytest.mark.parametrize("exclude", [(), ("one",)], ids=["unchanged", "left out"])
def test_a_run_that_cannot_store_a_hidden_file_again_says_what_shows_it(
    exclude: tuple[str, ...], vault: Vault
) -> None:
    vault.add("two")
    key = next(one for one in vault.keys("/lfs/") if one.endswith(oid_of(b"file 1")))
    vault.hide(key)
    report = vault.night(24 * 8, exclude=exclude, selection=Selection())
    (problem,) = report.problems
    assert report.exit_code == 3
    assert "lies under a delete marker; show it again: aws s3api delete-object" in problem
    vault.undo(problem.partition(", found by")[0])
    assert key in vault.keys("/lfs/")


def test_status_reads_what_repositories_with_files_of_git_lfs_need_and_nothing_else(
    vault: Vault,
) -> None:
    counts = RequestCounts()
    counted = CountingDestination(vault.destination, counts)
    now = vault.began + 7 * HOUR

    def ask() -> dict[str, int]:
        before = counts.snapshot()
        assert status(counted, owners=(), max_age_hours=26, now=now).exit_code == 0
        return {name: number - before.get(name, 0) for name, number in counts.snapshot().items()}

    # A full on which a small increment follows, each with a list.
    keep(vault.source, b"file 0")
    large = Random(1).randbytes(20_000)
    commit(vault.source, "main", {"large": large, "file-0": pointer(b"file 0")})
    plans = [vault.night(3), vault.night(4, b"later"), vault.night(5, b"last")]
    assert [one.outcomes[0].plan for one in plans] == ["incremental", "full", "incremental"]
    one_repository = ask()
    # The manifest, the record of the repository, and its lists; those of older chains are not read.
    assert len(vault.keys(".lfs.json.gz")) == NIGHTS + 3
    assert one_repository["get"] == 1 + 1 + 2
    for name in ("two", "three"):
        vault.add(name)
    assert vault.night(6).exit_code == 0
    assert ask() == one_repository


def test_markers_that_prune_left_are_nobodys_trouble(vault: Vault) -> None:
    for number in range(3, 6):
        vault.night(number, b"more %d" % number)
    request = PruneRequest(Rules(hourly=1), grace_days=30)
    dated = DatedDestination(vault.destination)
    report = prune(dated, request, events=Silence(), stop=Stop())
    assert (report.exit_code, len(report.remove)) == (0, 5)
    assert len(vault.keys("/snapshots/")) == 1
    assert vault.errors() == []
    assert vault.verify().damaged == ()
    assert list_vault(vault.destination).notes == ()
    assert vault.night(7, b"after").problems == ()


def test_several_markers_over_one_object_are_all_named(vault: Vault) -> None:
    newest = vault.keys("/snapshots/")[-1]
    vault.hide(newest, newest)
    (said,) = vault.errors()
    assert said.count("delete-object") == 2
    vault.undo(said)
    assert vault.errors() == []


def test_an_owner_of_which_everything_is_hidden_is_no_empty_vault(vault: Vault) -> None:
    vault.hide(*vault.keys(""))
    assert vault.keys("") == []
    assert len(vault.errors()) > NIGHTS
    assert vault.verify().exit_code == 4
    assert list_vault(vault.destination).repositories[0].path == "one"
    night = vault.night(3)
    assert night.exit_code == 3
    assert not any("a new vault begins" in note for note in night.notes)


def test_where_no_version_of_a_manifest_is_left_the_owner_has_lost_its_index(
    vault: Vault, tmp_path: Path
) -> None:
    for key in vault.keys("/snapshots/"):
        for one in vault.client.list_object_versions(Bucket=vault.bucket, Prefix=key)["Versions"]:
            vault.client.delete_object(Bucket=vault.bucket, Key=key, VersionId=one["VersionId"])
    (said,) = vault.errors()
    assert f"s3://{vault.bucket}/{ROOT}/ has no manifest" in said
    assert vault.verify().exit_code == 4
    with pytest.raises(IndexMissing, match="has no manifest"):
        list_vault(vault.destination)
    with pytest.raises(IndexMissing, match="has no manifest"):
        vault.restore("nothing")
    env = vault.server.environment() | {"AWS_ENDPOINT_URL": vault.server.endpoint_url}
    words = ("restore", "one", "--from", f"s3://{vault.bucket}/git", tmp_path / "one.git")
    assert "has no manifest" in repo_backup(*words, env=env, check=4).stderr
    night = vault.night(3)
    assert (night.exit_code, night.count("captured")) == (1, 1)
    assert "objects of 1 repository" in night.problems[0]
    assert vault.night(4).exit_code == 0
    vault.assert_comes_back("after")


# --- Runs at once ---------------------------------------------------------------------------------


def at_once(vault: Vault) -> tuple[str, str]:
    """Add what two runs at once have written, and return their keys.

    The one that began first ended last, and has merged the other.
    """
    layout = Layout.of(host="folder", owner="acme")
    newest = list_documents(vault.destination, layout)[-1]
    before = load_manifest(vault.destination, layout, newest)
    keys: list[str] = []
    merged = (*before.merged, newest.stem)
    for began, ended in ((10, 15), (5, 20)):
        moment = before.finished_at + timedelta(minutes=began)
        name = DocumentName(new_snapshot_id(moment))
        changed = before.model_copy(
            update={
                "snapshot_id": name.snapshot_id,
                "started_at": moment,
                "finished_at": before.finished_at + timedelta(minutes=ended),
                "merged": merged,
            }
        )
        vault.destination.put_if_absent(layout.document(name), encode(changed))
        merged = (*merged, name.stem)
        keys.append(f"git/{layout.document(name)}")
    return keys[1], keys[0]


def newest_of(vault: Vault) -> str | None:
    layout = Layout.of(host="folder", owner="acme")
    originals = OriginalsDestination(vault.destination)
    names = list_documents(originals, layout)
    found = load_state(originals, layout, names, now=vault.began + 5 * HOUR).newest
    return None if found is None else found.snapshot_id


def test_the_run_that_ended_last_is_read_also_where_another_began_later(vault: Vault) -> None:
    last, other = at_once(vault)
    assert last < other
    assert f"/{newest_of(vault)}." in last
    vault.hide(last)
    assert f"/{newest_of(vault)}." in last
    (said,) = vault.errors()
    assert f"{last} lies under a delete marker; it was read all the same" in said
    vault.undo(said)
    assert vault.errors() == []


def test_what_prune_took_away_is_not_hidden_also_where_it_began_last(vault: Vault) -> None:
    last, other = at_once(vault)
    vault.hide(other)
    assert f"/{newest_of(vault)}." in last
    assert vault.errors() == []
    assert vault.verify().exit_code == 0
