"""A store that may not be written is found before anything is fetched, and by ``doctor``.

The store asks IAM of each request, so that rights are what they are at AWS.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import pytest

from backup.commands.run import RunOptions, run
from backup.destinations.folder import FolderDestination
from backup.errors import AccessDenied
from backup.sources.plain import FolderSource
from backup.stopping import Stop
from tests.support.disks import make_read_only, small_disk
from tests.support.faults import DestinationFault, FaultyDestination
from tests.support.git import commit_chain, init_bare, update_refs
from tests.support.program import Completed, repo_backup
from tests.support.proxy import FaultProxy, ProxyFault
from tests.support.s3server import REGION, S3Server, moto_server
from tests.support.vaults import Silence

# Who makes the administrator that makes everything else: three calls.
FREE_ACTIONS = 3
BUCKET = "vault"
OBJECTS = f"arn:aws:s3:::{BUCKET}/git/*"
READS = ("s3:GetObject", "s3:GetObjectVersion", "s3:GetObjectRetention")
# The last is what the emulator calls the right to ask whether a bucket is there.
LISTS = ("s3:ListBucket", "s3:ListBucketVersions", "s3:HeadBucket")
ALL = (*READS, *LISTS, "s3:PutObject", "s3:AbortMultipartUpload")
REPOSITORIES = 5


@dataclass(frozen=True)
class Account:
    """An account with a bucket.

    Attributes:
        admin: opens clients with every right.
    """

    server: S3Server
    admin: Any

    def user(self, *actions: str, resource: str = "*", denied: str = "") -> dict[str, str]:
        """Make a user who may do this, and return the environment that makes one it."""
        statements = [{"Effect": "Allow", "Action": [*actions], "Resource": resource}]
        if denied:
            statements += [{"Effect": "Deny", "Action": "s3:PutObject", "Resource": denied}]
        iam, name = self.admin("iam"), f"user-{len(self.admin('iam').list_users()['Users'])}"
        policy = {"Version": "2012-10-17", "Statement": statements}
        iam.create_user(UserName=name)
        iam.put_user_policy(UserName=name, PolicyName="all", PolicyDocument=json.dumps(policy))
        key = iam.create_access_key(UserName=name)["AccessKey"]
        return {
            "AWS_ACCESS_KEY_ID": key["AccessKeyId"],
            "AWS_SECRET_ACCESS_KEY": key["SecretAccessKey"],
            "AWS_REGION": REGION,
            "AWS_ENDPOINT_URL": self.server.endpoint_url,
        }

    def left(self) -> list[str]:
        """Name all objects and all uploads that were begun and never given up."""
        s3 = self.admin("s3")
        objects = s3.list_objects_v2(Bucket=BUCKET).get("Contents", [])
        uploads = s3.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
        return [one["Key"] for one in (*objects, *uploads)]


@pytest.fixture
def account(tmp_path: Path) -> Iterator[Account]:
    with moto_server(tmp_path / "objects", free_actions=FREE_ACTIONS) as server:

        def session(key: str, secret: str) -> Any:
            return lambda service: boto3.client(
                service,
                endpoint_url=server.endpoint_url,
                region_name=REGION,
                aws_access_key_id=key,
                aws_secret_access_key=secret,
            )

        iam = session("nobody", "nothing")("iam")
        iam.create_user(UserName="admin")
        allow = {"Effect": "Allow", "Action": "*", "Resource": "*"}
        policy = json.dumps({"Version": "2012-10-17", "Statement": [allow]})
        iam.put_user_policy(UserName="admin", PolicyName="all", PolicyDocument=policy)
        key = iam.create_access_key(UserName="admin")["AccessKey"]
        admin = session(key["AccessKeyId"], key["SecretAccessKey"])
        admin("s3").create_bucket(Bucket=BUCKET)
        yield Account(server, admin)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for number in range(REPOSITORIES):
        path = init_bare(tmp_path / "acme" / f"r{number}.git")
        update_refs(path, {b"refs/heads/main": commit_chain(path, 1)[-1]})
    return tmp_path / "acme"


def night(source: Path, env: dict[str, str], *words: str, check: int = 0) -> Completed:
    place = f"s3://{BUCKET}/git"
    return repo_backup("run", "--from", source, "--to", place, *words, env=env, check=check)


def looked(source: Path, env: dict[str, str], *words: str, check: int = 0) -> list[dict[str, str]]:
    run = ("doctor", "--to", f"s3://{BUCKET}/git", "--json", *words)
    found: list[dict[str, str]] = repo_backup(*run, "--from", source, env=env, check=check).json
    return found


def errors(found: list[dict[str, str]]) -> list[tuple[str, str]]:
    return [(one["message"], one["fix"]) for one in found if one["severity"] == "error"]


def test_who_may_only_read_is_refused_once_and_told_the_right(
    account: Account, source: Path
) -> None:
    env = account.user(*READS, *LISTS)
    (error,) = errors(looked(source, env, check=1))
    assert f"s3://{BUCKET}/git/folder/acme/ cannot be written: " in error[0]
    assert error[1].startswith(f"it needs s3:PutObject on {OBJECTS}; ")
    with FaultProxy(account.server.endpoint_url) as proxy:
        done = night(source, env | {"AWS_ENDPOINT_URL": proxy.url}, "--json", check=1)
    (refused,) = [one for one in proxy.requests if one.method != "GET"]
    assert (refused.method, refused.target.endswith("?uploads")) == ("POST", True)
    assert set(done.json) == {"error"}
    assert "the store forbids CreateMultipartUpload (AccessDenied" in done.json["error"]["message"]
    assert f"s3:PutObject on {OBJECTS}" in done.json["error"]["hint"]
    assert account.left() == []


def test_a_policy_by_prefix_is_met_where_the_run_writes(account: Account, source: Path) -> None:
    env = account.user(*ALL, denied=f"arn:aws:s3:::{BUCKET}/git/folder/acme/*")
    (error,) = errors(looked(source, env, check=1))
    assert "/git/folder/acme/ cannot be written: " in error[0]
    done = night(source, env, "--json", check=1)
    assert "the store forbids CreateMultipartUpload" in done.json["error"]["message"]
    assert account.left() == []


def test_the_least_rights_are_enough_and_nothing_is_left(account: Account, source: Path) -> None:
    env = account.user(*ALL)
    found = looked(source, env)
    assert errors(found) == []
    assert f"s3://{BUCKET}/git/folder/acme/ can be written" in [one["message"] for one in found]
    assert account.left() == []


def test_a_night_costs_two_requests_more_and_a_dry_one_none(account: Account, source: Path) -> None:
    env = account.user(*ALL)
    for words, probes in (((), 1), ((), 1), (("--dry-run",), 0)):
        with FaultProxy(account.server.endpoint_url) as proxy:
            done = night(source, env | {"AWS_ENDPOINT_URL": proxy.url}, "--json", *words)
        tried = [(one.method, one.target) for one in proxy.requests if "upload" in one.target]
        assert [method for method, _ in tried] == ["POST", "DELETE"] * probes
        assert all("/acme/snapshots/" in target for _, target in tried)
        assert done.json["totals"]["requests"].get("probe", 0) == probes
        # Before anything else is written.
        writing = [one.method for one in proxy.requests if one.method not in {"GET", "HEAD"}]
        assert writing[: 2 * probes] == ["POST", "DELETE"] * probes


def test_uploads_that_cannot_be_given_up_are_said_and_cost_no_night(
    account: Account, source: Path
) -> None:
    env = account.user(*READS, *LISTS, "s3:PutObject")
    (warning,) = [
        one["message"]
        for one in looked(source, env)
        if "uploads that break off stay" in one["message"]
    ]
    assert f"s3:AbortMultipartUpload on {OBJECTS}" in warning
    done = night(source, env, "--json")
    (note,) = [one for one in done.json["notes"] if "uploads that break off stay" in one]
    assert f"s3:AbortMultipartUpload on {OBJECTS}" in note


@pytest.mark.parametrize(
    ("missing", "right"),
    [
        ("s3:ListBucket", f"s3:ListBucket on arn:aws:s3:::{BUCKET}"),
        ("s3:GetObject", f"s3:GetObject and s3:GetObjectVersion on {OBJECTS}"),
    ],
)
def test_other_rights_that_a_run_lacks_are_named(
    account: Account, source: Path, missing: str, right: str
) -> None:
    night(source, account.user(*ALL))
    env = account.user(*(one for one in ALL if one != missing))
    assert any(right in fix for _, fix in errors(looked(source, env, check=1)))
    assert right in night(source, env, "--json", check=1).json["error"]["hint"]


def test_a_key_that_may_not_be_used_is_found_before_the_night(
    account: Account, source: Path
) -> None:
    body = (
        b"<Error><Code>AccessDenied</Code><Message>User: arn:aws:iam::1:user/a is not authorized "
        b"to perform: kms:GenerateDataKey on resource: arn:aws:kms:us-east-1:1:key/2</Message>"
        b"</Error>"
    )
    words = ("--kms-key-id", "arn:aws:kms:us-east-1:123456789012:key/2")
    fault = ProxyFault(action="refuse", target=r"\?uploads", status=403, body=body, times=None)
    env = account.user(*ALL)
    with FaultProxy(account.server.endpoint_url, fault) as proxy:
        env["AWS_ENDPOINT_URL"] = proxy.url
        (error,) = errors(looked(source, env, *words, check=1))
        night(source, env, *words, check=1)
    assert "kms:GenerateDataKey and kms:Decrypt on the KMS key" in error[1]
    begun = [one for one in proxy.requests if one.target.endswith("?uploads")]
    assert {one.headers["x-amz-server-side-encryption-aws-kms-key-id"] for one in begun} == {
        words[1]
    }
    assert len(begun) == 2
    assert account.left() == []


def test_encryption_that_the_store_does_not_do_is_found_before_the_night(
    account: Account, source: Path
) -> None:
    # An answer that says nothing of encryption is what a store gives that ignores the wish.
    body = b"<InitiateMultipartUploadResult><UploadId>1</UploadId></InitiateMultipartUploadResult>"
    fault = ProxyFault(action="refuse", target=r"\?uploads", status=200, body=body, times=None)
    env = account.user(*ALL)
    with FaultProxy(account.server.endpoint_url, fault) as proxy:
        env["AWS_ENDPOINT_URL"] = proxy.url
        done = night(source, env, "--encryption", "sse-s3", "--json", check=1)
    assert (
        "encryption AES256 was asked for, and the store did none" in done.json["error"]["message"]
    )
    writing = [one.method for one in proxy.requests if one.method not in {"GET", "HEAD"}]
    assert writing == ["POST", "DELETE"]
    assert account.left() == []


# --- Folders --------------------------------------------------------------------------------------


def test_a_folder_that_may_not_be_written_is_found_before_the_night(
    source: Path, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", 1 << 20) as read_only:
        make_read_only(read_only)
        vault = read_only / "vault"
        done = repo_backup("run", "--from", source, "--to", vault, "--json", check=1)
        found = repo_backup("doctor", "--from", source, "--to", vault, "--json", check=1).json
    assert done.json["error"]["message"] == f"{read_only} cannot be written: Read-only file system"
    assert done.json["error"]["hint"] == "give the right to write there, or another folder"
    assert "listing" not in done.stderr
    (error,) = errors(found)
    assert error[0].endswith(f"{read_only} cannot be written: Read-only file system")


def test_a_folder_is_tried_where_the_run_writes_and_left_as_it_was(
    source: Path, tmp_path: Path
) -> None:
    vault = tmp_path / "new" / "vault"
    found = repo_backup("doctor", "--from", source, "--to", vault, "--json").json
    assert f"{vault}/folder/acme/ can be written" in [one["message"] for one in found]
    assert not (tmp_path / "new").exists()
    repo_backup("run", "--from", source, "--to", vault)
    before = {*vault.rglob("*")}
    repo_backup("doctor", "--from", source, "--to", vault)
    assert {*vault.rglob("*")} == before
    # A file in the place of a folder that a run needs.
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "folder").write_text("no folder")
    done = repo_backup("run", "--from", source, "--to", tmp_path / "other", "--json", check=1)
    assert "/other/folder cannot be written: Not a directory" in done.json["error"]["message"]


def test_one_owner_that_may_not_be_written_does_not_stop_the_others(tmp_path: Path) -> None:
    for owner in ("one", "two"):
        path = init_bare(tmp_path / owner / "widgets.git")
        update_refs(path, {b"refs/heads/main": commit_chain(path, 1)[-1]})
    refused = AccessDenied("a policy forbids it")
    fault = DestinationFault(0, operation="probe", key="/one/", error=refused)
    with FaultyDestination(FolderDestination(tmp_path / "vault"), fault) as vault:
        report = run(
            [FolderSource(tmp_path / owner, owner=owner) for owner in ("one", "two")],
            vault,
            RunOptions(),
            events=Silence(),
            stop=Stop(),
        )
    assert (report.exit_code, report.problems) == (1, ("one: a policy forbids it",))
    assert [outcome.status for outcome in report.outcomes] == ["captured"]
