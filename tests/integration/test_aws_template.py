"""The CloudFormation template, applied to an emulator that asks IAM, and used as a night does.

The emulator leaves out of a stack what it does not know, and reads no conditions: the bucket's
policy is resolved here, and every request of the night is held against all policies.
"""

import ast
import http.client
import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore.exceptions import ClientError
from cfnlint.decode import cfn_yaml  # type: ignore[import-untyped]

from tests.support import shapes
from tests.support.git import commit_chain, init_bare, update_refs
from tests.support.mirrors import assert_same_mirror
from tests.support.policies import Asked, asked_of_s3, is_allowed
from tests.support.program import repo_backup
from tests.support.proxy import FaultProxy
from tests.support.s3server import REGION, S3Server, moto_server
from tests.support.vaults import to_be_kept

TEMPLATE = Path(__file__).parents[2] / "aws" / "backup.yaml"
# Who makes the administrator that makes everything else: three calls.
FREE_ACTIONS = 3
PARAMETERS = {
    "Owner": "acme",
    "Repository": "backups",
    "OwnerId": "77",
    "RepositoryId": "8899",
    "BucketName": "acme-vault",
    "AlertEmail": "oncall@example.org",
    "SnapshotsPrefix": "git/github.com/acme/snapshots/",
    "PruneEnvironment": "prune",
}


@dataclass(frozen=True)
class Stack:
    """The template as it was applied.

    Attributes:
        admin: opens clients with every right.
    """

    server: S3Server
    admin: Any
    outputs: dict[str, str]
    roles: dict[str, Any]
    bucket_policy: list[Any]

    @property
    def role(self) -> Any:
        """The role that backs up."""
        return self.roles["BackupRole"]

    @property
    def statements(self) -> list[Any]:
        """What decides on the role's requests to the bucket: its own policies, and the bucket's."""
        return self.statements_of("BackupRole")

    def statements_of(self, name: str) -> list[Any]:
        (policy,) = self.roles[name]["policies"].values()
        return [*policy["Statement"], *self.bucket_policy]


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("aws")
    with moto_server(folder / "objects", free_actions=FREE_ACTIONS) as server:
        yield apply(server, PARAMETERS)


def apply(server: S3Server, parameters: dict[str, str]) -> Stack:
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
    everything = {"Version": "2012-10-17", "Statement": [allow("*", "*")]}
    iam.put_user_policy(UserName="admin", PolicyName="all", PolicyDocument=json.dumps(everything))
    key = iam.create_access_key(UserName="admin")["AccessKey"]
    admin = session(key["AccessKeyId"], key["SecretAccessKey"])
    formation = admin("cloudformation")
    formation.create_stack(
        StackName="repo-backup",
        TemplateBody=TEMPLATE.read_text("utf-8"),
        Parameters=[
            {"ParameterKey": name, "ParameterValue": value} for name, value in parameters.items()
        ],
        Capabilities=["CAPABILITY_IAM"],
    )
    (made,) = formation.describe_stacks(StackName="repo-backup")["Stacks"]
    assert made["StackStatus"] == "CREATE_COMPLETE"
    resources = formation.list_stack_resources(StackName="repo-backup")["StackResourceSummaries"]
    names = {one["LogicalResourceId"]: one["PhysicalResourceId"] for one in resources}
    outputs = {one["OutputKey"]: one["OutputValue"] for one in made["Outputs"]}
    roles = {}
    for logical in ("BackupRole", "PruneRole", "RestoreRole"):
        role = roles[logical] = admin("iam").get_role(RoleName=names[logical])["Role"]
        listed = admin("iam").list_role_policies(RoleName=names[logical])["PolicyNames"]
        role["policies"] = {
            name: put_as_json(admin("iam"), names[logical], name) for name in listed
        }
    return Stack(server, admin, outputs, roles, bucket_policy(outputs["Bucket"]))


def put_as_json(iam: Any, role: str, name: str) -> Any:
    """Give a role's policy, of which the emulator has made words of Python that it cannot read."""
    document = iam.get_role_policy(RoleName=role, PolicyName=name)["PolicyDocument"]
    policy = ast.literal_eval(document)
    iam.put_role_policy(RoleName=role, PolicyName=name, PolicyDocument=json.dumps(policy))
    return policy


def properties(logical_id: str) -> Any:
    """Read a resource of the template; intrinsic functions are in their long form."""
    found: Any = cfn_yaml.loads(TEMPLATE.read_text("utf-8"))["Resources"][logical_id]["Properties"]
    return found


def parameter(name: str) -> Any:
    return cfn_yaml.loads(TEMPLATE.read_text("utf-8"))["Parameters"][name]


def bucket_policy(bucket: str) -> list[Any]:
    """Resolve the bucket's policy, which the emulator leaves out of the stack."""
    arn = f"arn:aws:s3:::{bucket}"

    def resolved(value: Any) -> Any:
        match value:
            case {"Fn::GetAtt": ["Bucket", "Arn"]}:
                return arn
            case {"Ref": "LongestLockDays"}:
                return parameter("LongestLockDays")["Default"]
            case {"Fn::Sub": str(text)}:
                return text.replace("${Bucket.Arn}", arn)
            case dict():
                return {key: resolved(one) for key, one in value.items()}
            case list():
                return [resolved(one) for one in value]
            case _:
                return value

    statements: list[Any] = resolved(properties("BucketPolicy")["PolicyDocument"]["Statement"])
    return statements


def allow(action: str, resource: str) -> dict[str, str]:
    return {"Effect": "Allow", "Action": action, "Resource": resource}


def as_the_workflow(stack: Stack, output: str = "RoleArn") -> dict[str, str]:
    """Give the environment after aws-actions/configure-aws-credentials has assumed a role."""
    # The call has no signature, for which the emulator has no place but among the free ones.
    connection = http.client.HTTPConnection(urlsplit(stack.server.endpoint_url).netloc)
    with closing(connection):
        connection.request("POST", "/moto-api/reset-auth", body="1")
        assert connection.getresponse().status == 200
    found = stack.admin("sts").assume_role_with_web_identity(
        RoleArn=stack.outputs[output],
        RoleSessionName="nightly",
        WebIdentityToken="a token that GitHub signed",
    )["Credentials"]
    return {
        "AWS_ACCESS_KEY_ID": found["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": found["SecretAccessKey"],
        "AWS_SESSION_TOKEN": found["SessionToken"],
        "AWS_REGION": REGION,
    }


# --- The role ------------------------------------------------------------------------------------


def test_a_night_and_a_restore_need_no_more_than_the_role_may(stack: Stack, tmp_path: Path) -> None:
    source = init_bare(tmp_path / "acme" / "widgets.git")
    update_refs(source, {b"refs/heads/main": commit_chain(source, 3)[-1]})
    # Large enough for an upload in parts.
    shapes.make("big-blob", tmp_path / "acme" / "big.git")
    # The emulator leaves it out of what it makes of the template.
    stack.admin("s3").put_bucket_versioning(
        Bucket=stack.outputs["Bucket"], VersioningConfiguration={"Status": "Enabled"}
    )
    env = as_the_workflow(stack)
    vault = f"s3://{stack.outputs['Bucket']}/git"
    with FaultProxy(stack.server.endpoint_url) as proxy:
        env["AWS_ENDPOINT_URL"] = proxy.url
        for _ in range(2):
            repo_backup("run", "--from", tmp_path / "acme", "--to", vault, env=env)
        update_refs(source, {b"refs/heads/more": commit_chain(source, 5, label=b"more")[-1]})
        repo_backup("run", "--from", tmp_path / "acme", "--to", vault, env=env)
        repo_backup("list", "--from", vault, env=env)
        assert "not compared" not in repo_backup("verify", "--from", vault, env=env).stderr
        repo_backup("restore", "widgets", "--from", vault, tmp_path / "back.git", env=env)
    assert_same_mirror(tmp_path / "back.git", to_be_kept(source))
    seen = [one for one in proxy.requests if one.target.startswith("/acme-vault")]
    asked = [asked_of_s3(one.method, one.target, one.headers) for one in seen]
    refused = [one for one in asked if not is_allowed(stack.statements, one)]
    assert refused == []
    assert {one.action for one in asked} == {
        *("s3:PutObject", "s3:AbortMultipartUpload", "s3:GetObject", "s3:GetObjectVersion"),
        *("s3:ListBucket", "s3:ListBucketVersions"),
    }
    # Puts, and the completion of an upload in parts, say that the key must be new.
    created = [one for one in asked if one.context.get("s3:ObjectCreationOperation") == "true"]
    assert {one.context.get("s3:if-none-match") for one in created} == {"*"}
    assert any("uploadId" in one.target and one.method == "POST" for one in seen)


def test_pruning_and_restoring_need_no_more_than_their_roles_may(
    stack: Stack, tmp_path: Path
) -> None:
    source = init_bare(tmp_path / "umbrella" / "widgets.git")
    gone = init_bare(tmp_path / "umbrella" / "gone.git")
    vault = f"s3://{stack.outputs['Bucket']}/umbrella"
    # Of a deletion of several keys the emulator asks whether the bucket may be deleted from, AWS
    # whether each key may be.
    stack.admin("iam").put_role_policy(
        RoleName=stack.roles["PruneRole"]["RoleName"],
        PolicyName="emulator",
        PolicyDocument=json.dumps(
            {
                "Version": "2012-10-17",
                "Statement": [allow("s3:DeleteObject", "arn:aws:s3:::acme-vault")],
            }
        ),
    )
    with FaultProxy(stack.server.endpoint_url) as proxy:
        backup = as_the_workflow(stack) | {"AWS_ENDPOINT_URL": proxy.url}
        for number in range(3):
            label = b"night %d" % number
            update_refs(source, {b"refs/heads/main": commit_chain(source, 2, label=label)[-1]})
            run = ("run", "--from", tmp_path / "umbrella", "--to", vault, "--accept-drop")
            repo_backup(*run, env=backup)
            shutil.rmtree(gone, ignore_errors=True)
        # One that nobody completed, to be given up some day.
        stack.admin("s3").create_multipart_upload(
            Bucket=stack.outputs["Bucket"], Key="umbrella/left"
        )
        used = {}
        for output, name, words in (
            (
                "PruneRoleArn",
                "PruneRole",
                ("prune", "--keep-daily", "1", "--keep-deleted-days", "0"),
            ),
            ("RestoreRoleArn", "RestoreRole", ("restore", "widgets", tmp_path / "back.git")),
        ):
            begin = len(proxy.requests)
            env = as_the_workflow(stack, output) | {"AWS_ENDPOINT_URL": proxy.url}
            done = repo_backup(*words, "--from", vault, env=env)
            assert "left alone" not in done.stderr
            assert ("gone (not listed since" in done.stdout) == (name == "PruneRole")
            asked = [
                asked_of_s3(one.method, one.target, one.headers)
                for one in proxy.requests[begin:]
                if one.target.startswith("/acme-vault")
            ]
            statements = stack.statements_of(name)
            assert [one for one in asked if not is_allowed(statements, one)] == []
            used[name] = {one.action for one in asked}
    assert used["PruneRole"] >= {
        *("s3:DeleteObject", "s3:ListBucketMultipartUploads", "s3:PutObject"),
    }
    assert used["RestoreRole"] >= {"s3:GetObject", "s3:ListBucketVersions"}
    assert_same_mirror(tmp_path / "back.git", to_be_kept(source))


@pytest.mark.parametrize(
    ("role", "method", "target", "headers"),
    [
        ("PruneRole", "PUT", "/acme-vault/git/a", {"if-none-match": "*"}),
        ("PruneRole", "PUT", "/acme-vault/git/h/o/checkpoints/a.1.json.gz", {"if-none-match": "*"}),
        ("PruneRole", "PUT", "/acme-vault/git/h/o/checkpoints/a.forgotten.json.gz", {}),
        # What it is told to forget, prune deletes.
        (
            *("BackupRole", "PUT", "/acme-vault/git/h/o/checkpoints/a.forgotten.json.gz"),
            {"if-none-match": "*"},
        ),
        ("PruneRole", "PUT", "/acme-vault/git/h/o/condemned/a.json.gz", {}),
        ("PruneRole", "PUT", "/acme-vault/git/h/o/accepted/a.json.gz", {}),
        # What it says to be accepted makes no night fail.
        (
            *("BackupRole", "PUT", "/acme-vault/git/h/o/accepted/a.json.gz"),
            {"if-none-match": "*"},
        ),
        (
            *("BackupRole", "PUT", "/acme-vault/git/h/o/condemned/a.json.gz"),
            {"if-none-match": "*"},
        ),
        ("PruneRole", "PUT", "/acme-vault/git/h/o/pruned/a.json.gz", {}),
        (
            *("BackupRole", "PUT", "/acme-vault/git/h/o/pruned/a.json.gz"),
            {"if-none-match": "*"},
        ),
        ("PruneRole", "DELETE", "/acme-vault/git/a?versionId=1", {}),
        ("PruneRole", "DELETE", "/another-bucket/git/a", {}),
        ("RestoreRole", "PUT", "/acme-vault/git/a", {"if-none-match": "*"}),
        ("RestoreRole", "DELETE", "/acme-vault/git/a", {}),
        ("RestoreRole", "GET", "/another-bucket/git/a", {}),
    ],
)
def test_the_other_roles_may_no_more(
    stack: Stack, role: str, method: str, target: str, headers: dict[str, str]
) -> None:
    assert not is_allowed(stack.statements_of(role), asked_of_s3(method, target, headers))


def test_only_the_environment_may_prune(stack: Stack) -> None:
    trust = stack.roles["PruneRole"]["AssumeRolePolicyDocument"]["Statement"]
    issuer = "token.actions.githubusercontent.com"

    def may(subject: str) -> bool:
        context = {f"{issuer}:aud": "sts.amazonaws.com", f"{issuer}:sub": subject}
        return is_allowed(trust, Asked("sts:AssumeRoleWithWebIdentity", "*", context))

    assert may("repo:acme/backups:environment:prune")
    assert may("repo:acme@77/backups@8899:environment:prune")
    assert not may("repo:acme/backups:ref:refs/heads/main")
    assert not may("repo:acme/backups:environment:production")


@pytest.mark.parametrize(
    ("method", "target", "headers"),
    [
        ("PUT", "/acme-vault/git/a", {}),
        ("PUT", "/acme-vault/git/a", {"if-match": '"etag"'}),
        ("POST", "/acme-vault/git/a?uploadId=1", {}),
        ("DELETE", "/acme-vault/git/a", {}),
        ("DELETE", "/acme-vault/git/a?versionId=1", {}),
        # No other object of a vault can be named so that it passes for an export.
        ("PUT", "/acme-vault/git/gitlab.com/acme/repositories/exports/1/x.full.bundle", {}),
        ("PUT", "/acme-vault/git/gitlab.com/exports/snapshots/x.json.gz", {}),
        ("PUT", "/acme-vault/git/gitlab.com/exports/exports/x.json.gz", {}),
        ("DELETE", "/acme-vault/git/gitlab.com/acme/exports/one/x.tar.gz", {}),
        ("PUT", "/another-bucket/git/a", {"if-none-match": "*"}),
        ("GET", "/another-bucket/git/a", {}),
    ],
)
def test_it_may_replace_and_remove_nothing_and_see_no_other_bucket(
    stack: Stack, method: str, target: str, headers: dict[str, str]
) -> None:
    assert not is_allowed(stack.statements, asked_of_s3(method, target, headers))


def test_gitlab_may_put_an_export_by_a_url_that_the_role_signed(stack: Stack) -> None:
    target = "/acme-vault/git/gitlab.com/acme/exports/team/one/2026-01-01-00-00-00.tar.gz"
    asked = asked_of_s3("PUT", f"{target}?X-Amz-Signature=1", {"content-type": "application/gzip"})
    assert is_allowed(stack.statements, asked)


@pytest.mark.parametrize("action", ["s3:PutObject", "s3:PutObjectRetention"])
@pytest.mark.parametrize(("days", "may"), [("90", True), ("400", True), ("401", False)])
def test_nobody_locks_for_longer_than_was_said(
    stack: Stack, action: str, days: str, may: bool
) -> None:
    arn = f"arn:aws:s3:::{stack.outputs['Bucket']}/git/github.com/acme/repositories/a/1/b.bundle"
    context = {"s3:object-lock-remaining-retention-days": days, "s3:if-none-match": "*"}
    everything = {"Effect": "Allow", "Action": "*", "Resource": "*"}
    for statements in (stack.statements, [everything, *stack.bucket_policy]):
        assert is_allowed(statements, Asked(action, arn, context)) == may


def test_the_emulator_refuses_its_deletions_too(stack: Stack, tmp_path: Path) -> None:
    env = as_the_workflow(stack)
    as_role = boto3.client(
        "s3",
        endpoint_url=stack.server.endpoint_url,
        region_name=REGION,
        aws_access_key_id=env["AWS_ACCESS_KEY_ID"],
        aws_secret_access_key=env["AWS_SECRET_ACCESS_KEY"],
        aws_session_token=env["AWS_SESSION_TOKEN"],
    )
    bucket = stack.outputs["Bucket"]
    as_role.put_object(Bucket=bucket, Key="git/kept", Body=b"kept", IfNoneMatch="*")
    refusals: list[Callable[[], object]] = [
        lambda: as_role.delete_object(Bucket=bucket, Key="git/kept"),
        lambda: as_role.delete_bucket(Bucket=bucket),
        lambda: as_role.put_bucket_versioning(
            Bucket=bucket, VersioningConfiguration={"Status": "Suspended"}
        ),
        lambda: as_role.put_bucket_policy(Bucket=bucket, Policy="{}"),
        lambda: as_role.put_bucket_lifecycle_configuration(
            Bucket=bucket, LifecycleConfiguration={"Rules": []}
        ),
        lambda: as_role.put_object_acl(Bucket=bucket, Key="git/kept", ACL="public-read"),
        lambda: as_role.list_buckets(MaxBuckets=1),
    ]
    for refused in refusals:
        with pytest.raises(ClientError, match=r"AccessDenied|Access Denied|403"):
            refused()
    assert as_role.get_object(Bucket=bucket, Key="git/kept")["Body"].read() == b"kept"


@pytest.mark.parametrize(
    "action",
    [
        *("s3:DeleteObject", "s3:DeleteObjectVersion", "s3:BypassGovernanceRetention"),
        *("s3:PutBucketPolicy", "s3:DeleteBucketPolicy", "s3:PutLifecycleConfiguration"),
        *("s3:PutBucketVersioning", "s3:PutObjectAcl", "s3:PutReplicationConfiguration"),
        *("s3:PutBucketObjectLockConfiguration", "s3:PutEncryptionConfiguration"),
    ],
)
def test_what_it_may_not_is_denied_whatever_is_attached_later(stack: Stack, action: str) -> None:
    everything = {"Effect": "Allow", "Action": "*", "Resource": "*"}
    (policy,) = stack.role["policies"].values()
    for resource in ("arn:aws:s3:::acme-vault", "arn:aws:s3:::acme-vault/git/a"):
        assert not is_allowed([*policy["Statement"], everything], Asked(action, resource))


def test_only_the_branch_of_the_workflow_may_be_it(stack: Stack) -> None:
    trust = stack.role["AssumeRolePolicyDocument"]["Statement"]

    def may(subject: str, audience: str = "sts.amazonaws.com") -> bool:
        issuer = "token.actions.githubusercontent.com"
        context = {f"{issuer}:aud": audience, f"{issuer}:sub": subject}
        return is_allowed(trust, Asked("sts:AssumeRoleWithWebIdentity", "*", context))

    assert may("repo:acme/backups:ref:refs/heads/main")
    assert may("repo:acme@77/backups@8899:ref:refs/heads/main")
    for other in (
        "repo:acme/backups:ref:refs/heads/topic",
        "repo:acme/backups:pull_request",
        "repo:acme/backups:environment:production",
        "repo:acme/backups-2:ref:refs/heads/main",
        "repo:acme@78/backups@8899:ref:refs/heads/main",
        "repo:acme@77/backups@8900:ref:refs/heads/main",
        "repo:acme@/backups@:ref:refs/heads/main",
    ):
        assert not may(other), other
    assert not may("repo:acme/backups:ref:refs/heads/main", "https://github.com/acme")


# --- The function ---------------------------------------------------------------------------------


def function_statements() -> list[Any]:
    """Resolve the policy of the Lambda function's role."""
    template = cfn_yaml.loads(TEMPLATE.with_name("lambda.yaml").read_text("utf-8"))
    names = {
        "AWS::Partition": "aws",
        "BucketName": "acme-vault",
        "Prefix": "git",
        "TopicArn": "arn:aws:sns:us-east-1:1:topic",
    }

    def resolved(value: Any) -> Any:
        match value:
            case {"Fn::Sub": str(text)}:
                return re.sub(r"\$\{([^}]+)\}", lambda found: names[found[1]], text)
            case {"Ref": str(name)}:
                return names[name]
            case {"Fn::GetAtt": ["Log", "Arn"]}:
                return "arn:aws:logs:us-east-1:1:log-group:log:*"
            case dict():
                return {key: resolved(one) for key, one in value.items()}
            case list():
                return [resolved(one) for one in value]
            case _:
                return value

    (policy,) = template["Resources"]["Role"]["Properties"]["Policies"]
    statements: list[Any] = resolved(policy["PolicyDocument"]["Statement"])
    return statements


@pytest.mark.parametrize(
    ("method", "target", "allowed"),
    [
        ("PUT", "/acme-vault/git/gitlab.com/a", True),
        ("GET", "/acme-vault/git/gitlab.com/a", True),
        ("GET", "/acme-vault?list-type=2&prefix=git/", True),
        ("GET", "/acme-vault?versions=&prefix=git/", True),
        ("POST", "/acme-vault/git/a?uploads=", True),
        ("DELETE", "/acme-vault/git/a?uploadId=1", True),
        ("DELETE", "/acme-vault/git/a", False),
        ("DELETE", "/acme-vault/git/a?versionId=1", False),
        ("PUT", "/acme-vault/elsewhere/a", False),
        ("PUT", "/acme-vault/git/h/o/checkpoints/a.forgotten.json.gz", False),
        ("PUT", "/acme-vault/git/h/o/condemned/a.json.gz", False),
        ("GET", "/another-bucket/git/a", False),
    ],
)
def test_the_function_s_role_writes_one_vault_and_removes_nothing(
    method: str, target: str, allowed: bool
) -> None:
    asked = asked_of_s3(method, target, {"if-none-match": "*"})
    assert is_allowed(function_statements(), asked) == allowed


def test_both_roles_are_denied_the_same(stack: Stack) -> None:
    (policy,) = stack.role["policies"].values()
    denied = [
        [one for one in statements if one["Effect"] == "Deny"]
        for statements in (policy["Statement"], function_statements())
    ]
    assert len(denied[0]) == 2
    assert denied[0] == denied[1]


# --- The bucket, the topic, the alarm ------------------------------------------------------------


def test_the_bucket_is_private_versioned_encrypted_and_loses_nothing_that_is_current(
    stack: Stack,
) -> None:
    s3, bucket = stack.admin("s3"), stack.outputs["Bucket"]
    made = properties("Bucket")
    blocked = made["PublicAccessBlockConfiguration"]
    assert all(blocked.values())
    assert len(blocked) == 4
    assert made["OwnershipControls"] == {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]}
    assert made["VersioningConfiguration"] == {"Status": "Enabled"}
    (rule,) = s3.get_bucket_encryption(Bucket=bucket)["ServerSideEncryptionConfiguration"]["Rules"]
    assert rule["ApplyServerSideEncryptionByDefault"]["SSEAlgorithm"] == "AES256"
    rules = made["LifecycleConfiguration"]["Rules"]
    assert all(one["Status"] == "Enabled" for one in rules)
    said = {name for one in rules for name in one}
    assert "AbortIncompleteMultipartUpload" in said
    assert "NoncurrentVersionExpiration" in said
    # None that ends or moves what is current.
    assert not said & {"ExpirationInDays", "ExpirationDate", "Transition", "Transitions"}
    plain = Asked("s3:GetObject", f"arn:aws:s3:::{bucket}/git/a", {"aws:SecureTransport": "false"})
    everything = {"Effect": "Allow", "Action": "*", "Resource": "*"}
    assert not is_allowed([*stack.bucket_policy, everything], plain)
    old = {"aws:SecureTransport": "true", "s3:TlsVersion": "1.1"}
    assert not is_allowed(
        [*stack.bucket_policy, everything], Asked(plain.action, plain.resource, old)
    )


def test_archive_tiers_are_there_for_those_who_ask(stack: Stack) -> None:
    choice = properties("Bucket")["IntelligentTieringConfigurations"]["Fn::If"]
    assert choice[0] == "HasArchiveTiers"
    tiers = {one["AccessTier"]: one["Days"] for one in choice[1][0]["Tierings"]}
    assert tiers == {"ARCHIVE_ACCESS": 90, "DEEP_ARCHIVE_ACCESS": 180}


def test_what_goes_wrong_is_mailed(stack: Stack) -> None:
    one = properties("Subscription")
    assert (one["Protocol"], one["Endpoint"]) == ("email", {"Ref": "AlertEmail"})
    assert one["TopicArn"] == {"Ref": "Topic"}
    (policy,) = stack.role["policies"].values()
    publish = Asked("sns:Publish", stack.outputs["TopicArn"])
    assert is_allowed(policy["Statement"], publish)
    assert not is_allowed(policy["Statement"], Asked("sns:Publish", publish.resource + "2"))
    alarm = properties("Freshness")
    assert (alarm["MetricName"], alarm["TreatMissingData"]) == ("PutRequests", "breaching")
    # Periods of an hour may look back seven days.
    assert (alarm["Period"], alarm["EvaluationPeriods"]) == (3600, {"Ref": "FreshnessHours"})
    assert alarm["AlarmActions"] == [{"Ref": "Topic"}]
    assert properties("Bucket")["MetricsConfigurations"]["Fn::If"][1][0]["Prefix"] == {
        "Ref": "SnapshotsPrefix"
    }
