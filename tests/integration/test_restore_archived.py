"""Bundles in an archive tier: found before anything is downloaded, with what thaws them."""

import json
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from backup.destinations.s3.archive import is_readable
from tests.support.git import commit_chain, init_bare, update_refs
from tests.support.lfsserver import commit, keep, pointer
from tests.support.mirrors import assert_same_mirror
from tests.support.program import repo_backup
from tests.support.s3server import S3Server
from tests.support.vaults import to_be_kept

MAIN = b"refs/heads/main"


@pytest.fixture
def archived(tmp_path: Path, moto_http: S3Server) -> Iterator[tuple[Any, dict[str, str], Path]]:
    """Make a vault of two repositories: of one the base is archived, of the other nothing."""
    bucket = tmp_path.name.replace("_", "-")[:50]
    moto_http.make_bucket(bucket)
    env = {**moto_http.environment(), "AWS_ENDPOINT_URL": moto_http.endpoint_url}
    env |= {"REPO_BACKUP_FROM": f"s3://{bucket}/vault"}
    run = ("run", "--from", tmp_path / "acme", "--to", f"s3://{bucket}/vault")
    cold = init_bare(tmp_path / "acme" / "it's cold.git")
    update_refs(cold, {MAIN: commit_chain(cold, 2)[-1]})
    repo_backup(*run, "--storage-class", "GLACIER", env=env)
    for path in (cold, init_bare(tmp_path / "acme" / "warm.git")):
        update_refs(path, {MAIN: commit_chain(path, 3, label=b"more")[-1]})
    repo_backup(*run, env=env)
    with moto_http.client() as client:
        yield client, env, cold


def keys_in_glacier(client: Any, bucket: str) -> list[str]:
    found = client.list_objects_v2(Bucket=bucket)["Contents"]
    return [one["Key"] for one in found if one["StorageClass"] == "GLACIER"]


def test_an_archived_bundle_is_named_before_anything_is_downloaded(
    archived: tuple[Any, dict[str, str], Path], tmp_path: Path
) -> None:
    client, env, cold = archived
    bucket = env["REPO_BACKUP_FROM"].split("/")[2]
    (key,) = keys_in_glacier(client, bucket)
    for words in (("acme/it's cold", tmp_path / "back.git"), ("--all", tmp_path / "back")):
        refused = repo_backup("restore", *words, env=env, check=1)
        reason, command = refused.stdout.splitlines()
        # The whole of it is a script for a shell.
        assert reason == "# 1 object is archived, nothing is downloaded"
        assert "capturing" not in refused.stderr
        assert not list((tmp_path / "back").rglob("*.git"))
        assert not (tmp_path / "back.git").exists()
        asked = shlex.split(command)
        assert asked[:3] == ["aws", "s3api", "restore-object"]
        options = dict(zip(asked[3::2], asked[4::2], strict=True))
        assert (options["--bucket"], options["--key"]) == (bucket, key)
    assert repo_backup("restore", "--all", "--json", tmp_path / "b", env=env, check=1).json[
        "thaw"
    ] == [command]
    repo_backup("restore", "acme/warm", tmp_path / "warm.git", env=env)

    client.restore_object(
        Bucket=bucket, Key=key, RestoreRequest=json.loads(options["--restore-request"])
    )
    # A restore that broke off goes on.
    repo_backup("restore", "--all", tmp_path / "back", env=env)
    assert_same_mirror(tmp_path / "back" / "it%27s%20cold.git", to_be_kept(cold))


@pytest.mark.parametrize("depth", ["objects", "packs", "restore"])
def test_a_drill_counts_what_is_archived_and_takes_it_for_no_damage(
    archived: tuple[Any, dict[str, str], Path], depth: str
) -> None:
    client, env, _ = archived
    bucket = env["REPO_BACKUP_FROM"].split("/")[2]
    (key,) = keys_in_glacier(client, bucket)
    told = repo_backup("verify", "--depth", depth, "--json", env=env).json
    assert (told["checked"], told["damaged"]) == (2, [])
    read = depth != "objects"
    assert told["not_readable_now"] == ([f"s3://{bucket}/{key}"] if read else [])
    shown = repo_backup("verify", "--depth", depth, env=env).stdout
    assert ("1 object is archived and not readable now" in shown) == read
    drill = repo_backup("list", "--json", env=env).json["repositories"][0]["drill"]
    # What could not be read was not proved.
    assert (drill is None) == read
    # Nothing of it makes the vault less than whole.
    repo_backup("status", env=env)


def test_a_drill_finds_damage_beside_what_is_archived(
    archived: tuple[Any, dict[str, str], Path],
) -> None:
    client, env, _ = archived
    bucket = env["REPO_BACKUP_FROM"].split("/")[2]
    (key,) = keys_in_glacier(client, bucket)
    found = client.list_objects_v2(Bucket=bucket, Prefix=key.rpartition("/")[0])["Contents"]
    (other,) = [one["Key"] for one in found if one["Key"].endswith(".incremental.bundle")]
    whole = client.get_object(Bucket=bucket, Key=other)["Body"].read()
    client.put_object(Bucket=bucket, Key=other, Body=whole[:-1] + bytes([whole[-1] ^ 1]))
    for depth in ("packs", "restore"):
        told = repo_backup("verify", "--depth", depth, "--json", env=env, check=4).json
        assert [one["uri"] for one in told["damaged"]] == [f"s3://{bucket}/{other}"]
        assert told["not_readable_now"] == [f"s3://{bucket}/{key}"]


def test_damage_to_what_names_files_keeps_git_objects_from_nobody(
    tmp_path: Path, moto_http: S3Server
) -> None:
    """Nor does the look for what is archived, which comes before."""
    bucket = "names-of-files-damaged"
    moto_http.make_bucket(bucket)
    env = {**moto_http.environment(), "AWS_ENDPOINT_URL": moto_http.endpoint_url}
    media = init_bare(tmp_path / "acme" / "media.git")
    commit(media, "main", {"a.bin": pointer(b"content")})
    keep(media, b"content")
    repo_backup("run", "--from", tmp_path / "acme", "--to", f"s3://{bucket}", env=env)
    with moto_http.client() as client:
        stored = [one["Key"] for one in client.list_objects_v2(Bucket=bucket)["Contents"]]
        (key,) = [one for one in stored if one.endswith(".lfs.json.gz")]
        client.put_object(Bucket=bucket, Key=key, Body=b"garbage")
    words = ("media", "--from", f"s3://{bucket}", tmp_path / "back.git", "--json")
    (restored,) = repo_backup("restore", *words, env=env, check=4).json["restored"]
    assert (restored["refs"], restored["lfs"]["files"]) == (1, 0)
    (problem,) = restored["lfs"]["failed"]
    assert "is damaged" in problem


@pytest.mark.parametrize(
    ("answer", "readable"),
    [
        ({}, True),
        ({"StorageClass": "INTELLIGENT_TIERING"}, True),
        ({"StorageClass": "INTELLIGENT_TIERING", "ArchiveStatus": "ARCHIVE_ACCESS"}, False),
        (
            {
                "StorageClass": "INTELLIGENT_TIERING",
                "ArchiveStatus": "DEEP_ARCHIVE_ACCESS",
                "Restore": 'ongoing-request="true"',
            },
            False,
        ),
        ({"StorageClass": "GLACIER_IR"}, True),
        ({"StorageClass": "GLACIER"}, False),
        ({"StorageClass": "DEEP_ARCHIVE", "Restore": 'ongoing-request="true"'}, False),
        (
            {
                "StorageClass": "DEEP_ARCHIVE",
                "Restore": 'ongoing-request="false", expiry-date="Fri, 21 Dec 2026 00:00:00 GMT"',
            },
            True,
        ),
    ],
)
def test_what_a_store_says_of_an_object_tells_whether_it_can_be_read(
    answer: dict[str, str], readable: bool
) -> None:
    assert is_readable(answer) is readable
