"""The action as GitHub's runner starts it: its variables, its files, its commands."""

import gzip
import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.estate import furnish
from tests.support.git import commit_chain, init_bare, set_head, update_refs
from tests.support.github import GitHub, Owner, Token
from tests.support.gitserver import Answer, Request
from tests.support.mirrors import assert_same_mirror
from tests.support.program import repo_backup
from tests.support.runner import TOKEN, Runner
from tests.support.s3server import S3Server
from tests.support.vaults import to_be_kept


@pytest.fixture
def forge(tmp_path: Path) -> Iterator[GitHub]:
    with GitHub(tmp_path / "git") as forge:
        forge.tokens[TOKEN] = Token("jane")
        forge.owner("jane", kind="User")
        yield forge


@pytest.fixture
def acme(forge: GitHub) -> Owner:
    return forge.owner("acme")


@pytest.fixture
def runner(forge: GitHub, tmp_path: Path) -> Runner:
    return Runner(tmp_path / "runner", forge.url)


def real(forge: GitHub, owner: Owner, name: str, **more: Any) -> None:
    path = init_bare(forge.root / owner.login / f"{name}.git")
    update_refs(path, {b"refs/heads/main": commit_chain(path, 2, label=name.encode())[-1]})
    set_head(path, b"refs/heads/main")
    forge.repository(owner, name, **more)


# --- A night --------------------------------------------------------------------------------------


def test_a_night_is_told_by_outputs_summary_and_report(
    runner: Runner, forge: GitHub, acme: Owner, tmp_path: Path
) -> None:
    for name in ("one", "two", "three"):
        real(forge, acme, name, private=name == "two")
    vault = tmp_path / "vault"
    step = runner.step(destination=str(vault))
    assert step.code == 0
    (manifest,) = vault.rglob("snapshots/*.json.gz")
    assert step.outputs == {
        "result": "success",
        "snapshot-id": step.report["snapshot"],
        "manifest": str(manifest),
        "report": "repo-backup-report.json",
        "repositories": "3",
        "captured": "3",
        "unchanged": "0",
        "skipped": "0",
        "not-reached": "0",
        "failed": "0",
        "bytes-uploaded": str(step.report["totals"]["bytes_uploaded"]),
    }
    assert step.summary.startswith("## ✅ Backup complete")
    assert "acme&#47;two" in step.summary or "acme/two" in step.summary
    assert step.errors == []
    second = runner.step(destination=str(vault))
    assert (second.outputs["captured"], second.outputs["unchanged"]) == ("0", "3")
    repo_backup("restore", "--all", tmp_path / "back", "--from", vault)
    for name in ("one", "two", "three"):
        expected = to_be_kept(forge.root / "acme" / f"{name}.git")
        assert_same_mirror(tmp_path / "back" / f"{name}.git", expected)


def test_into_a_bucket_with_the_identity_shown(
    runner: Runner, forge: GitHub, acme: Owner, moto_http: S3Server
) -> None:
    real(forge, acme, "widgets")
    moto_http.make_bucket("action-vault")
    runner.more = {**moto_http.environment(), "AWS_ENDPOINT_URL": moto_http.endpoint_url}
    step = runner.step(bucket="action-vault", prefix="git", region="eu-central-1")
    assert step.code == 0, step.shown
    assert step.outputs["manifest"].startswith("s3://action-vault/git/")
    assert "arn:aws:sts::" in step.stderr
    assert "Stored by arn" in step.summary


def test_the_variables_of_the_old_script_are_enough(
    runner: Runner, forge: GitHub, acme: Owner, moto_http: S3Server
) -> None:
    real(forge, acme, "widgets")
    moto_http.make_bucket("old-script-vault")
    runner.more = {
        **moto_http.environment(),
        "AWS_ENDPOINT_URL": moto_http.endpoint_url,
        "BACKUP_GITHUB_OWNER": "acme",
        "BACKUP_GITHUB_PAT": TOKEN,
        "BACKUP_BUCKET_NAME": "old-script-vault",
        "BACKUP_AWS_REGION": "eu-west-1",
    }
    step = runner.step(owner="", token="")
    assert step.code == 0, step.shown
    assert step.outputs["manifest"].startswith("s3://old-script-vault/")


# --- What goes wrong ------------------------------------------------------------------------------


def test_repositories_that_fail_are_annotated_up_to_nine_and_counted(
    runner: Runner, forge: GitHub, acme: Owner, tmp_path: Path
) -> None:
    for number in range(12):
        real(forge, acme, f"r{number:02}")
    forge.answer = lambda request: (
        Answer(403, {}, b"no ::error::access\n::set-output name=x::y")
        if request.target.startswith("/acme/r") and "/r00.git" not in request.target
        else None
    )
    step = runner.step(destination=str(tmp_path / "vault"))
    assert (step.code, step.outputs["result"]) == (3, "partial")
    assert len(step.errors) == 10
    assert step.errors[-1].startswith("the backup is partial: 11 of 12 repositories failed")
    assert {name for name, _ in step.commands} == {"add-mask", "error"}
    assert step.summary.count("| acme/r") == 11 + 1
    assert step.outputs["failed"] == "11"


def test_a_wrong_input_is_one_error_that_names_it(
    runner: Runner, forge: GitHub, acme: Owner
) -> None:
    step = runner.step(destination="vault", concurrency="many")
    assert step.code == 2
    assert len(step.errors) == 1
    assert step.errors[0].startswith("concurrency: 'many' ")
    assert step.outputs == {"result": "failed"}
    assert "Backup failed" in step.summary
    assert forge.requests == []


def test_a_token_that_is_not_accepted_is_said(
    runner: Runner, forge: GitHub, acme: Owner, tmp_path: Path
) -> None:
    forge.tokens.clear()
    step = runner.step(destination=str(tmp_path / "vault"))
    assert step.code == 1
    assert "GitHub does not accept the token" in step.errors[0]
    assert step.outputs == {"result": "failed"}


def test_no_secret_is_shown_or_written(
    runner: Runner, forge: GitHub, acme: Owner, tmp_path: Path
) -> None:
    real(forge, acme, "widgets")
    forge.answer = lambda request: (
        Answer(403, {}, f"not with {request.headers.get('authorization')} {TOKEN}".encode())
        if ".git/" in request.target
        else None
    )
    step = runner.step(destination=str(tmp_path / "vault"))
    assert step.code == 1
    assert ("add-mask", TOKEN) in step.commands
    assert TOKEN not in step.shown + json.dumps(step.report)
    for path in (tmp_path / "vault").rglob("*"):
        assert not path.is_file() or TOKEN.encode() not in path.read_bytes()


def test_names_from_the_forge_are_no_commands_and_no_markup(
    runner: Runner, forge: GitHub, acme: Owner, tmp_path: Path
) -> None:
    said = b"::error::x | <script>alert(1)</script> [a](http://x) @everyone `code` **b**"
    real(forge, acme, "widgets")
    forge.answer = lambda request: Answer(403, {}, said) if ".git/" in request.target else None
    step = runner.step(destination=str(tmp_path / "vault"))
    assert "<script>" not in step.summary
    assert "](http" not in step.summary
    assert "@everyone" not in step.summary
    (row,) = [line for line in step.summary.splitlines() if line.startswith("| acme/widgets")]
    assert row.count("|") == 4


def test_private_names_stay_out_of_a_public_log(
    runner: Runner, forge: GitHub, acme: Owner, tmp_path: Path
) -> None:
    runner.public = True
    real(forge, acme, "shown")
    real(forge, acme, "topsecret-sound", private=True)
    real(forge, acme, "topsecret-broken", private=True)
    forge.answer = lambda request: (
        Answer(403, {}, b"no") if "topsecret-broken.git/" in request.target else None
    )
    step = runner.step(destination=str(tmp_path / "vault"))
    assert (step.code, step.outputs["failed"]) == (3, "1")
    assert "topsecret" not in step.shown
    assert "private repository 1" in step.summary
    assert "acme/shown" in step.summary
    assert "topsecret-broken" in json.dumps(step.report)
    runner.public = False
    assert "topsecret" in runner.step(destination=str(tmp_path / "vault")).shown
    hidden = runner.step(destination=str(tmp_path / "vault"), hide_private_names="true")
    assert "topsecret" not in hidden.shown


def test_a_cancelled_run_ends_within_ten_seconds_and_says_so(
    runner: Runner, forge: GitHub, acme: Owner, tmp_path: Path
) -> None:
    for number in range(3):
        real(forge, acme, f"r{number}")
    begun = []

    def answer(request: Request) -> Answer | None:
        if request.target.endswith("/git-upload-pack"):
            begun.append(request)
            time.sleep(30)
        return None

    forge.answer = answer
    process = runner.start(destination=str(tmp_path / "vault"))
    while not begun and process.poll() is None:
        time.sleep(0.05)
    step = runner.cancel(process)
    assert step.code == 130
    assert step.outputs["result"] in {"failed", "partial"}
    assert os.fspath(tmp_path) not in step.summary


def test_an_owner_with_everything_is_backed_up_told_and_given_back(
    tmp_path: Path, rclone_https: S3Server
) -> None:
    """The image's test does the same among 1,234."""
    rclone_https.make_bucket("everything")
    env = rclone_https.environment() | {"AWS_ENDPOINT_URL": rclone_https.endpoint_url}
    with GitHub(tmp_path / "git") as forge:
        estate = furnish(forge, forge.owner("acme"), listed=234)
        runner = Runner(tmp_path / "runner", forge.url, more=env)
        first = runner.step(bucket="everything", prefix="git")
        estate.assert_told(first, first=True)
        assert len([one for one in forge.requests if "/orgs/" in one.target]) == 3
        second = runner.step(bucket="everything", prefix="git")
        estate.assert_told(second, first=False)
    vault = "s3://everything/git"
    back = repo_backup("restore", "--all", tmp_path / "back", "--from", vault, "--json", env=env)
    estate.assert_restored(back.json)
    assert TOKEN not in first.shown + json.dumps(first.report)
    with rclone_https.client() as client:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket="everything"):
            for one in page["Contents"]:
                body = client.get_object(Bucket="everything", Key=one["Key"])["Body"].read()
                assert TOKEN.encode() not in plain(body)


def plain(body: bytes) -> bytes:
    return gzip.decompress(body) if body.startswith(b"\x1f\x8b") else body
