"""``prune`` as people run it: its words, its refusals, and a bucket that keeps versions."""

import gzip
import json
import shutil
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backup.commands.prune import PruneRequest, prune
from backup.commands.run import RunOptions
from backup.destinations.folder import FolderDestination
from backup.destinations.s3 import S3Destination, S3Settings
from backup.report.hiding import hide_private_prune
from backup.results import ForgottenRow, PruneReport
from backup.retention import Rules
from backup.sources.plain import FolderSource
from backup.stopping import Stop
from tests.support.dated import DatedDestination
from tests.support.git import commit_chain, init_bare, run_git, set_head, update_refs
from tests.support.mirrors import assert_same_mirror, mirror_state
from tests.support.program import repo_backup, start_repo_backup
from tests.support.proxy import FaultProxy, ProxyFault
from tests.support.runner import Runner
from tests.support.s3server import S3Server
from tests.support.vaults import Silence, run_at, to_be_kept

START = datetime(2026, 1, 1, tzinfo=UTC)
MAIN = b"refs/heads/main"


def push(path: Path, label: str) -> None:
    seen = run_git("rev-parse", "--verify", "--quiet", MAIN, cwd=path).stdout.strip()
    update_refs(path, {MAIN: commit_chain(path, 1, start=seen or None, label=label.encode())[-1]})
    set_head(path, MAIN)


def nights(
    destination: Any,
    source: Path,
    count: int,
    *,
    until: datetime,
    step: timedelta = timedelta(days=1),
) -> None:
    """Back up so many nights that end with a moment, in chains of two."""
    path = source / "one.git"
    if not path.exists():
        init_bare(path)
    for number in range(count):
        push(path, f"night {number}")
        moment = until - (count - 1 - number) * step
        options = RunOptions(max_chain_length=2, concurrency=1)
        run_at(moment, FolderSource(source, owner="acme"), destination, options)


@pytest.fixture
def bucket(
    request: pytest.FixtureRequest,
    moto_http: S3Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[S3Destination]:
    for name, value in moto_http.environment().items():
        monkeypatch.setenv(name, value)
    name = f"prune-{abs(hash(tmp_path)) % 10**10}"
    moto_http.make_bucket(name, versioned="with_versions" in request.node.name)
    destination = S3Destination(
        S3Settings(name, prefix="git", endpoint_url=moto_http.endpoint_url), stop=Stop()
    )
    yield destination
    destination.close()


def pruned(destination: S3Destination, **more: Any) -> Any:
    request = PruneRequest(Rules(daily=2), grace_days=1, **more)
    return prune(DatedDestination(destination), request, events=Silence(), stop=Stop())


def test_what_a_bucket_without_keeps_is_freed(
    bucket: S3Destination, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nights(bucket, tmp_path / "acme", 8, until=datetime.now(UTC) - timedelta(days=20))
    before = {one.key: one.size_bytes for one in bucket.list("")}
    asked: list[str] = []
    begin = bucket._bucket.begin

    def note(operation: str, key: str, **parameters: object) -> Any:
        asked.append(operation)
        return begin(operation, key, **parameters)

    monkeypatch.setattr(bucket._bucket, "begin", note)
    report = pruned(bucket)
    # Nothing is ever locked here, and no object is asked for it.
    assert asked.count("get_object_lock_configuration") == 1
    # But whether the key of the note is free is.
    assert asked.count("head_object") <= 1
    after = {one.key for one in bucket.list("")}
    gone = before.keys() - after
    assert len(gone) == report.objects > 10
    assert report.freed_bytes == sum(before[key] for key in gone)
    assert report.marked_bytes == 0


def test_what_a_bucket_with_versions_keeps_is_only_marked(
    bucket: S3Destination, tmp_path: Path, moto_http: S3Server
) -> None:
    nights(bucket, tmp_path / "acme", 8, until=datetime.now(UTC) - timedelta(days=20))
    report = pruned(bucket)
    assert report.freed_bytes == 0
    assert report.marked_bytes > 0
    assert report.locked == ()
    with moto_http.client() as client:
        name = bucket.uri("").removeprefix("s3://").partition("/")[0]
        pages = client.get_paginator("list_object_versions").paginate(Bucket=name)
        markers = [one for page in pages for one in page.get("DeleteMarkers", [])]
        assert len(markers) == report.objects
    # What is left is a vault like any other.
    assert len([*bucket.list("folder/acme/snapshots/")]) == 2


def test_uploads_that_nobody_completed_are_given_up_when_they_are_old(
    bucket: S3Destination, tmp_path: Path, moto_http: S3Server
) -> None:
    nights(bucket, tmp_path / "acme", 2, until=datetime.now(UTC))
    name = bucket.uri("").removeprefix("s3://").partition("/")[0]
    with moto_http.client() as client:
        for key in ("git/x/y/a.bundle", "git/x/y/b.bundle", "elsewhere/c"):
            client.create_multipart_upload(Bucket=name, Key=key)
        # The emulator says of all of them that they were begun in 2010.
        assert bucket.abort_uploads(older_than=datetime(2009, 1, 1, tzinfo=UTC)) == 0
        assert pruned(bucket).uploads == 2
        left = client.list_multipart_uploads(Bucket=name).get("Uploads", [])
        assert [one["Key"] for one in left] == ["elsewhere/c"]


# --- The command line -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def grown(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Back up one repository for 24 nights; keep a copy of it and of the vault."""
    place, kept = tmp_path_factory.mktemp("grown"), tmp_path_factory.mktemp("kept")
    destination = FolderDestination(place / "vault")
    nights(destination, place / "acme", 24, until=datetime.now(UTC) - timedelta(hours=2))
    shutil.copytree(place, kept, dirs_exist_ok=True)
    return place, kept


@pytest.fixture
def vault(grown: tuple[Path, Path]) -> Path:
    """Put the copy where the vault knows its source to be: in acme, beside it."""
    place, kept = grown
    shutil.rmtree(place)
    shutil.copytree(kept, place)
    return place / "vault"


def ids(rows: list[Mapping[str, str]]) -> list[str]:
    return [row["snapshot"] for row in rows]


def test_people_see_what_stays_and_why(vault: Path) -> None:
    words = ("prune", "--from", vault, "--keep-daily", "3", "--keep-within", "36h")
    assert "a span such as 30d" in repo_backup(*words, check=2).stderr
    words = ("prune", "--from", vault, "--keep-daily", "3", "--keep-within", "2d")
    planned = repo_backup(*words, "--dry-run", "--grace-days", "1")
    assert "dry run: 21 of 24 snapshots and" in planned.stdout
    assert "the newest complete one, within 2d, daily" in planned.stdout
    assert "no window keeps it" in planned.stdout
    assert len([*vault.glob("folder/acme/snapshots/*")]) == 24
    done = repo_backup(*words, "--grace-days", "1", "--json").json
    assert (len(done["keep"]), len(done["remove"])) == (3, 21)
    assert done["deleted_objects"] > 21
    assert done["freed_bytes"] > 0
    assert {"owner", "snapshot", "reason", "finished_at"} <= done["keep"][0].keys()
    there = repo_backup("list", "--from", vault, "--json").json["snapshots"]
    assert sorted(one["id"] for one in there) == sorted(ids(done["keep"]))
    assert repo_backup("verify", "--from", vault, "--depth", "restore").code == 0


def test_without_a_rule_nothing_is_done(vault: Path) -> None:
    done = repo_backup("prune", "--from", vault, check=2)
    assert "keep-within, keep-hourly" in done.stderr
    assert len([*vault.glob("folder/acme/snapshots/*")]) == 24
    assert repo_backup("prune", "--from", vault, "--keep-daily", "0", check=2).code == 2


def test_a_refusal_is_said_and_ends_with_1(vault: Path, tmp_path: Path) -> None:
    (vault.parent / "acme" / "one.git" / "objects").rename(tmp_path / "objects")
    repo_backup("run", "--from", vault.parent / "acme", "--to", vault, check=None)
    done = repo_backup("prune", "--from", vault, "--keep-daily", "1", "--json", check=1)
    assert "the newest run" in done.json["refused"][0]
    assert done.json["deleted_objects"] == 0
    shown = repo_backup("prune", "--from", vault, "--keep-daily", "1", check=1)
    assert "refused: folder/acme: the newest run" in shown.stdout


def test_the_action_prunes_and_tells_it(vault: Path, tmp_path: Path) -> None:
    runner = Runner(tmp_path / "runner", "https://github.example.com")
    inputs = {"owner": "acme", "command": "prune", "token": "", "destination": str(vault)}
    step = runner.step(**inputs, **{"keep-daily": "2", "grace-days": "1"})
    assert (step.code, step.outputs["result"]) == (0, "success")
    assert "22 of 24 snapshots" in step.summary
    assert json.dumps(step.commands).count("error") == 0


def test_a_refused_deletion_in_a_public_log_names_no_repository(
    bucket: S3Destination, tmp_path: Path, moto_http: S3Server
) -> None:
    nights(bucket, tmp_path / "acme", 8, until=datetime.now(UTC), step=timedelta(hours=2))
    name = bucket.uri("").removeprefix("s3://").partition("/")[0]
    body = (
        b'<?xml version="1.0" encoding="UTF-8"?><DeleteResult><Error>'
        b"<Key>git/folder/acme/repositories/one/1/2.full.bundle</Key>"
        b"<Code>AccessDenied</Code><Message>no</Message></Error></DeleteResult>"
    )
    refuse = ProxyFault(action="refuse", method="POST", target="delete", status=200, body=body)
    for public in (True, False):
        with FaultProxy(moto_http.endpoint_url, refuse) as proxy:
            more = moto_http.environment() | {"AWS_ENDPOINT_URL": proxy.url}
            runner = Runner(
                tmp_path / f"r{public}", "https://ghe.example", public=public, more=more
            )
            inputs = {"command": "prune", "token": "", "bucket": name, "prefix": "git"}
            step = runner.step(**inputs, **{"keep-daily": "1", "grace-days": "1"})
        assert step.code == 1
        assert "could not be deleted (AccessDenied: no)" in step.shown
        assert ("repositories/one" in step.shown) == (not public)


def test_what_a_list_names_is_restored_though_its_snapshot_was_pruned(
    vault: Path, tmp_path: Path
) -> None:
    repo_backup("prune", "--from", vault, "--keep-daily", "3", "--grace-days", "1")
    kept = {one["id"] for one in repo_backup("list", "--from", vault, "--json").json["snapshots"]}
    history = repo_backup("list", "acme/one", "--from", vault, "--json").json["history"]
    pruned = [one for one in history if one["snapshot"] not in kept]
    assert pruned
    for one in pruned:
        at = ("--from", vault, "--at", one["snapshot"])
        target = tmp_path / one["snapshot"]
        (done,) = repo_backup("restore", "acme/one", target, *at, "--json").json["restored"]
        assert (done["snapshot"], done["state_at"]) == (one["snapshot"], one["captured_at"])
        assert {
            name.decode(): oid.decode() for name, oid in mirror_state(target).refs.items()
        } == one["refs"]
        # What else that run captured nobody knows.
        refused = repo_backup("restore", "--all", tmp_path / "all", *at, check=2).stderr
        assert f"the vault has no snapshot with the id '{one['snapshot']}'" in refused


def test_forgetting_is_said_and_asked_for_letter_for_letter(vault: Path) -> None:
    words = ("forget", "--from", vault)
    for given, told in (
        ((), "REPOSITORY is missing: forget takes one REPOSITORY"),
        (("acme/one", "acme/two"), "unexpected argument 'acme/two'"),
        (("acme/ONE",), "'acme/ONE' is not the present name of one: acme/one is"),
        (("acme/other",), "'acme/other' is not in this vault"),
    ):
        assert told in repo_backup(*words, *given, check=2).stderr.replace("\nhint", "")
    before = {path for path in vault.rglob("*") if path.is_file()}
    told = repo_backup(*words, "acme/one", "--dry-run").stdout
    assert "dry run: folder/acme/one would be forgotten" in told
    assert {path for path in vault.rglob("*") if path.is_file()} == before
    done = repo_backup(*words, "acme/one", "--json").json
    assert (done["repository"]["path"], done["is_listed"], done["left"]) == ("one", True, [])
    (folder,) = done["folders"]
    assert [*Path(folder.removeprefix("file://")).glob("*.bundle")]
    shown = repo_backup("list", "--from", vault)
    assert "folder/acme/one was forgotten on" in shown.stdout
    listed = repo_backup("list", "--from", vault, "--json").json
    assert listed["repositories"] == []
    assert [one["reason"] for one in listed["forgotten"]] == ["asked for by name"]
    snapshot = listed["snapshots"][0]["id"]
    target = vault.parent / "back"
    for at, error in (
        ((), "the vault holds no repository\n"),
        (("--at", "latest"), "the vault holds no repository\n"),
        (("--at", snapshot), f"everything that the vault held at '{snapshot}' was forgotten\n"),
        (("--at", "2030-01-01"), "everything that the vault held at '2030-01-01' was forgotten\n"),
        (("--at", "1999-01-01"), "--at: the vault has no snapshot of '1999-01-01' or before\n"),
        (
            ("--at", "19990101T000000Z-00000000"),
            "--at: the vault has no snapshot with the id '19990101T000000Z-00000000'\n",
        ),
    ):
        for what in ("acme/one", "--all"):
            refused = repo_backup("restore", what, target, "--from", vault, *at, check=2).stderr
            assert error in refused
            assert "hint: list --from shows" in refused
            assert not target.exists()
    nothing = repo_backup("list", "acme/one", "--from", vault, check=2).stderr
    assert "'acme/one' is not in this vault, which holds none\n" in nothing
    assert "hint: list --from shows what was forgotten" in nothing
    assert repo_backup("status", "--from", vault, check=None).code == 0


def test_what_prune_forgets_is_named_but_not_for_everybody(vault: Path, tmp_path: Path) -> None:
    (vault.parent / "acme" / "one.git").rename(tmp_path / "one.git")
    init_bare(vault.parent / "acme" / "other.git")
    repo_backup("run", "--from", vault.parent / "acme", "--to", vault, "--accept-drop")
    words = ("prune", "--from", vault, "--keep-daily", "2", "--keep-deleted-days", "0")
    planned = repo_backup(*words, "--dry-run")
    assert "would be forgotten: folder/acme/one (not listed since" in planned.stdout
    (row,) = repo_backup(*words, "--dry-run", "--json").json["forgotten"]
    assert row["path"] == "one"
    report = PruneReport(
        dry_run=False,
        keep=(),
        remove=(),
        objects=0,
        freed_bytes=0,
        marked_bytes=0,
        uploads=0,
        refused=(),
        exit_code=0,
        forgotten=(
            ForgottenRow("h/o", "secret", "1", "code", START, "asked for", private=True),
            ForgottenRow("h/o", "open", "2", "code", START, "asked for"),
        ),
    )
    hidden = hide_private_prune(report)
    assert [one.path for one in hidden.forgotten] == ["a private repository", "open"]
    runner = Runner(tmp_path / "runner", "https://github.example.com")
    inputs = {"owner": "acme", "command": "prune", "token": "", "destination": str(vault)}
    step = runner.step(**inputs, **{"keep-daily": "2", "keep-deleted-days": "0"})
    assert step.code == 0
    assert "folder/acme/one (not listed since" in step.summary


def test_real_backups_and_prunes_beside_each_other_lose_nothing(
    vault: Path, tmp_path: Path
) -> None:
    source = vault.parent / "acme"
    for number in range(3):
        init_bare(source / f"more{number}.git")
        push(source / f"more{number}.git", "begins")
    run = ("run", "--from", source, "--to", vault)
    words = ("prune", "--from", vault, "--keep-daily", "1", "--grace-days", "1")
    for number in range(3):
        push(source / "one.git", f"round {number}")
        started = [
            start_repo_backup(*run),
            start_repo_backup(*words),
            start_repo_backup(*run, "--full-after-days", "1"),
            start_repo_backup(*words),
        ]
        for process in started:
            output, errors = process.communicate(timeout=120)
            assert process.returncode == 0, output + errors
    assert repo_backup("verify", "--from", vault, "--depth", "restore").code == 0
    repo_backup("restore", "--all", tmp_path / "back", "--from", vault)
    for path in source.glob("*.git"):
        assert_same_mirror(tmp_path / "back" / path.name, to_be_kept(path))
    # Of the nights before, what the grace does not protect has gone.
    assert len([*vault.glob("folder/acme/snapshots/*")]) < 12


def test_a_refusal_in_a_public_log_names_no_object(vault: Path, tmp_path: Path) -> None:
    newest = max(vault.glob("folder/acme/snapshots/*"))
    newest.write_bytes(gzip.compress(b'{"format": 2}'))
    runner = Runner(tmp_path / "runner", "https://github.example.com", public=True)
    inputs = {"owner": "acme", "command": "prune", "token": "", "destination": str(vault)}
    step = runner.step(**inputs, **{"keep-daily": "2", "grace-days": "1"})
    assert step.code == 4
    assert "something is missing or damaged" in step.summary
    assert newest.name not in step.shown
    told = repo_backup("prune", "--from", vault, "--keep-daily", "2", check=4).stdout
    assert newest.name in told
