"""``doctor`` against set-ups that are right, and wrong in one way each."""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from backup.commands.doctor import doctor
from backup.commands.remotes import NetworkSettings
from backup.commands.run import RunOptions, run
from backup.destinations.memory import MemoryDestination
from backup.destinations.s3 import settings
from backup.destinations.s3.diagnosis import diagnose, unsafe_rules
from backup.errors import Interrupted
from backup.results import Diagnosis, Finding
from backup.sources.plain import FolderSource
from backup.stopping import Stop
from tests.support.git import commit_chain, init_bare, set_head, update_refs
from tests.support.github import GitHub, Token
from tests.support.gitserver import Answer, Request
from tests.support.program import Completed, repo_backup
from tests.support.proxy import FaultProxy, ProxyFault
from tests.support.runner import Runner
from tests.support.s3server import S3Server
from tests.support.vaults import Silence

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

CLASSIC = "ghp_" + "a" * 36
FINE = "github_pat_" + "b" * 60
LIFECYCLE: list[Any] = [
    {
        "ID": "uploads",
        "Status": "Enabled",
        "Filter": {},
        "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 7},
    },
    {
        "ID": "versions",
        "Status": "Enabled",
        "Filter": {},
        "NoncurrentVersionExpiration": {"NoncurrentDays": 90},
    },
]


@pytest.fixture
def forge(tmp_path: Path) -> Iterator[GitHub]:
    with GitHub(tmp_path / "git") as forge:
        forge.tokens[CLASSIC] = Token("jane", scopes="repo, read:org")
        forge.tokens[FINE] = Token("jane")
        forge.owner("jane", kind="User")
        acme = forge.owner("Acme")
        for name, private in (("open", False), ("closed", True)):
            path = init_bare(forge.root / "Acme" / f"{name}.git")
            update_refs(path, {b"refs/heads/main": commit_chain(path, 1)[-1]})
            set_head(path, b"refs/heads/main")
            forge.repository(acme, name, private=private)
        yield forge


@pytest.fixture
def bucket(tmp_path: Path, moto_http: S3Server) -> Iterator[tuple[str, "S3Client"]]:
    """Make a bucket as the template does."""
    name = f"doctor-{abs(hash(tmp_path)) % 10**10}"
    with moto_http.client() as client:
        moto_http.make_bucket(name, versioned=True)
        client.put_public_access_block(
            Bucket=name,
            PublicAccessBlockConfiguration={
                "BlockPublicAcls": True,
                "IgnorePublicAcls": True,
                "BlockPublicPolicy": True,
                "RestrictPublicBuckets": True,
            },
        )
        client.put_bucket_encryption(
            Bucket=name,
            ServerSideEncryptionConfiguration={
                "Rules": [{"ApplyServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}]
            },
        )
        expire(client, name, LIFECYCLE)
        yield name, client


def expire(client: "S3Client", name: str, rules: Sequence[Any]) -> None:
    client.put_bucket_lifecycle_configuration(
        Bucket=name, LifecycleConfiguration={"Rules": [*rules]}
    )


def asked(
    forge: GitHub,
    store: S3Server,
    bucket: str,
    *words: str,
    token: str | None = CLASSIC,
    check: int = 0,
    more: Mapping[str, str] | None = None,
) -> list[dict[str, str]]:
    env = store.environment() | {
        "REPO_BACKUP_SERVER_URL": forge.url,
        "AWS_ENDPOINT_URL": store.endpoint_url,
        **({} if token is None else {"REPO_BACKUP_TOKEN": token}),
        **(more or {}),
    }
    run = ("doctor", "--from", "github:acme", "--to", f"s3://{bucket}/git", "--json")
    done = repo_backup(*run, *words, env=env, check=check)
    found: list[dict[str, str]] = json.loads(done.stdout)
    return found


def of(found: Sequence[Mapping[str, str]], *severities: str) -> list[str]:
    return [one["message"] for one in found if one["severity"] in severities]


# --- A right one ----------------------------------------------------------------------------------


def test_a_right_set_up_has_no_errors_and_says_what_it_saw(
    forge: GitHub, bucket: tuple[str, "S3Client"], moto_http: S3Server
) -> None:
    found = asked(forge, moto_http, bucket[0])
    assert of(found, "error", "warning") == []
    said = "\n".join(of(found, "info"))
    for words in (
        "the token is a classic one, with the scopes read:org, repo",
        "2 repositories are seen",
        "git reads Acme/closed: 1 refs",
        "no run yet",
        f"bucket {bucket[0]} answers, region us-east-1; nothing is stored yet",
        "AWS identity: arn:aws:",
        "versioning is enabled",
        "encryption at rest: AES256",
        "public access is blocked",
        "lifecycle rules leave everything alone",
        "Object Lock is not switched on",
    ):
        assert words in said
    with FaultProxy(moto_http.endpoint_url) as proxy:
        asked(forge, moto_http, bucket[0], more={"AWS_ENDPOINT_URL_S3": proxy.url})
    # It tries whether it may write, and leaves nothing.
    changing = [one.method for one in proxy.requests if one.method not in {"GET", "HEAD"}]
    assert changing == ["POST", "DELETE"]
    name, client = bucket
    assert "Contents" not in client.list_objects_v2(Bucket=name)
    assert "Uploads" not in client.list_multipart_uploads(Bucket=name)


def test_people_read_it_as_lines_with_hints(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    run = ("doctor", "--from", tmp_path / "empty", "--to", tmp_path / "vault")
    done = repo_backup(*run, check=1)
    assert "error: " in done.stdout
    assert "no repositories are seen" in done.stdout
    assert not (tmp_path / "vault").exists()


def test_the_action_tells_it_in_the_summary(
    forge: GitHub, bucket: tuple[str, "S3Client"], moto_http: S3Server, tmp_path: Path
) -> None:
    more = moto_http.environment() | {"AWS_ENDPOINT_URL": moto_http.endpoint_url}
    runner = Runner(tmp_path / "runner", forge.url, more=more, public=True)
    inputs = {"command": "doctor", "token": CLASSIC, "bucket": bucket[0], "prefix": "git"}
    step = runner.step(**inputs)
    assert (step.code, step.outputs["result"]) == (0, "success")
    assert "The set-up is in order" in step.summary
    assert "closed" not in step.shown
    forge.tokens[CLASSIC].scopes = "gist"
    step = runner.step(**inputs)
    assert (step.code, step.outputs["result"]) == (1, "failed")
    assert any("it cannot read private repositories" in error for error in step.errors)


# --- The token ------------------------------------------------------------------------------------


def test_a_token_without_the_scope_is_an_error(
    forge: GitHub, bucket: tuple[str, "S3Client"], moto_http: S3Server
) -> None:
    forge.tokens[CLASSIC].scopes = "public_repo"
    found = asked(forge, moto_http, bucket[0], "--gists", check=1)
    (error,) = [one for one in found if one["severity"] == "error"]
    assert error["message"] == (
        "the token has the scopes public_repo: it cannot read private repositories"
    )
    assert "give it the scope repo" in error["fix"]
    assert any("without the scope gist" in message for message in of(found, "warning"))


def test_what_nobody_tells_of_a_token_is_said(
    forge: GitHub, bucket: tuple[str, "S3Client"], moto_http: S3Server
) -> None:
    found = asked(forge, moto_http, bucket[0], token=FINE)
    (one,) = [one for one in found if "fine-grained" in one["message"]]
    assert "the token's resource owner must be acme" in one["fix"]
    found = asked(forge, moto_http, bucket[0], token=None)
    assert "without a token only what is public is seen" in "\n".join(of(found, "warning"))


def test_a_token_that_ends_soon_is_a_warning_and_a_wrong_one_an_error(
    forge: GitHub, bucket: tuple[str, "S3Client"], moto_http: S3Server
) -> None:
    ends_at = datetime.now(UTC) + timedelta(days=5, hours=1)
    forge.ends_at = f"{ends_at:%Y-%m-%d %H:%M:%S} UTC"
    found = asked(forge, moto_http, bucket[0])
    assert of(found, "warning") == ["the token ends in 5 days"]
    found = asked(forge, moto_http, bucket[0], token="ghp_wrong-one", check=1)
    assert any("GitHub does not accept the token (401)" in one for one in of(found, "error"))


def test_git_is_a_door_of_its_own(
    forge: GitHub, bucket: tuple[str, "S3Client"], moto_http: S3Server
) -> None:
    def no_git(request: Request) -> Answer | None:
        return Answer(403, {}, b"no") if ".git/" in request.target else None

    forge.answer = no_git
    found = asked(forge, moto_http, bucket[0], check=1)
    (error,) = of(found, "error")
    assert error.startswith("git cannot read Acme/closed: ")


# --- The bucket -----------------------------------------------------------------------------------


def looked_at_bucket(
    store: S3Server, bucket: str, monkeypatch: pytest.MonkeyPatch, *, as_aws: bool, region: str
) -> list[Finding]:
    """Look at a bucket within this process, as one of AWS's or of another store."""
    for name, value in store.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(settings, "is_aws", lambda url: as_aws)
    asked = settings.S3Settings(bucket=bucket, region=region, endpoint_url=store.endpoint_url)
    return [*diagnose(asked, stop=Stop()).findings]


@pytest.mark.parametrize(("as_aws", "severity"), [(True, "error"), (False, "info")])
def test_a_wrong_region_is_named(
    tmp_path: Path,
    moto_http: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    as_aws: bool,
    severity: str,
) -> None:
    name = f"paris-{abs(hash((tmp_path, as_aws))) % 10**10}"
    with moto_http.client() as client:
        place: Any = {"LocationConstraint": "eu-west-3"}
        client.create_bucket(Bucket=name, CreateBucketConfiguration=place)
    found = looked_at_bucket(moto_http, name, monkeypatch, as_aws=as_aws, region="us-east-1")
    (one,) = [one for one in found if "eu-west-3, and us-east-1 is asked for" in one.message]
    assert one.severity == severity


def test_a_bucket_that_is_not_there_or_not_ours_is_named(
    forge: GitHub, bucket: tuple[str, "S3Client"], moto_http: S3Server
) -> None:
    found = asked(forge, moto_http, "nowhere-at-all", check=1)
    assert any("the bucket does not exist" in one for one in of(found, "error"))
    body = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
    fault = ProxyFault(action="refuse", method="GET", status=403, body=body, times=None)
    with FaultProxy(moto_http.endpoint_url, fault) as proxy:
        more = {"AWS_ENDPOINT_URL_S3": proxy.url}
        found = asked(forge, moto_http, bucket[0], more=more, check=1)
    assert any("the store forbids ListObjectsV2 (AccessDenied" in one for one in of(found, "error"))


def test_settings_that_may_not_be_seen_are_no_errors(
    forge: GitHub, bucket: tuple[str, "S3Client"], moto_http: S3Server
) -> None:
    body = b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>"
    settings = r"\?(versioning|encryption|publicAccessBlock|lifecycle|object-lock)"
    fault = ProxyFault(action="refuse", target=settings, status=403, body=body, times=None)
    with FaultProxy(moto_http.endpoint_url, fault) as proxy:
        more = {"AWS_ENDPOINT_URL_S3": proxy.url}
        found = asked(forge, moto_http, bucket[0], more=more)
    seen = [one for one in of(found, "info") if "is not seen" in one]
    assert len(seen) == 5
    assert "BucketVersioning is not seen: these credentials lack s3:GetBucketVersioning" in seen


# What a store has not may be a setting that only AWS knows.
LACKS = (
    "the bucket has no public access block of its own",
    "the bucket has no encryption of its own",
    "no lifecycle rule gives up unfinished uploads: their parts cost",
)


@pytest.mark.parametrize(("as_aws", "severity"), [(True, "warning"), (False, "info")])
def test_what_a_bucket_lacks_is_a_fault_where_it_could_have_it(
    tmp_path: Path,
    moto_http: S3Server,
    monkeypatch: pytest.MonkeyPatch,
    as_aws: bool,
    severity: str,
) -> None:
    name = f"open-{abs(hash((tmp_path, as_aws))) % 10**10}"
    moto_http.make_bucket(name)
    with moto_http.client() as client:
        client.delete_bucket_encryption(Bucket=name)
    found = looked_at_bucket(moto_http, name, monkeypatch, as_aws=as_aws, region="us-east-1")
    told = {one.message: one.severity for one in found}
    assert {told[message] for message in LACKS} == {severity}
    assert [one for one in found if one.severity == "error"] == []
    (versions,) = [one for one in found if "versioning" in one.message]
    assert versions.severity == "warning"


@pytest.mark.parametrize(
    ("status", "code"),
    [
        *((404, "NoSuchPublicAccessBlockConfiguration"), (404, "NoSuchKey"), (404, "")),
        *((501, "NotImplemented"), (405, "MethodNotAllowed"), (400, "InvalidRequest")),
        (500, "InternalError"),
    ],
)
def test_a_store_that_knows_no_such_settings_is_in_order(
    forge: GitHub, bucket: tuple[str, "S3Client"], moto_http: S3Server, status: int, code: str
) -> None:
    body = f"<Error><Code>{code}</Code></Error>".encode() if code else b""
    target = r"\?(encryption|publicAccessBlock|lifecycle|object-lock)"
    fault = ProxyFault(action="refuse", target=target, status=status, body=body, times=None)
    with FaultProxy(moto_http.endpoint_url, fault) as proxy:
        found = asked(forge, moto_http, bucket[0], more={"AWS_ENDPOINT_URL_S3": proxy.url})
    assert of(found, "error", "warning") == []


def test_public_access_that_a_bucket_leaves_open_is_an_error_everywhere(
    forge: GitHub, bucket: tuple[str, "S3Client"], moto_http: S3Server
) -> None:
    name, client = bucket
    client.put_public_access_block(
        Bucket=name, PublicAccessBlockConfiguration={"BlockPublicAcls": True}
    )
    found = asked(forge, moto_http, name, check=1)
    assert any("public access to the bucket is not blocked" in one for one in of(found, "error"))


def test_a_lifecycle_that_expires_what_is_needed_is_an_error(
    forge: GitHub, bucket: tuple[str, "S3Client"], moto_http: S3Server
) -> None:
    name, client = bucket
    rule = {"ID": "old", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 365}}
    expire(client, name, [*LIFECYCLE, rule])
    found = asked(forge, moto_http, name, check=1)
    (error,) = of(found, "error")
    assert error.startswith("the lifecycle rule 'old' removes objects that snapshots need")


EXPIRES = {"Expiration": {"Days": 30}}


@pytest.mark.parametrize(
    ("rule", "severities"),
    [
        ({"Filter": {"Prefix": "git/github.com/acme/exports/"}, **EXPIRES}, []),
        ({"Filter": {"Prefix": "git/github.com/acme/"}, **EXPIRES}, ["error"]),
        ({"Filter": {"Prefix": "git/github.com/acme/repositories/exports/"}, **EXPIRES}, ["error"]),
        ({"Filter": {"Prefix": "git"}, **EXPIRES}, ["error"]),
        ({"Filter": {"Prefix": "logs/"}, **EXPIRES}, []),
        ({"Prefix": "", **EXPIRES}, ["error"]),
        ({"Filter": {}, "Expiration": {"ExpiredObjectDeleteMarker": True}}, []),
        ({"Filter": {}, "Expiration": {"Date": "2027-01-01"}}, ["error"]),
        ({"Filter": {"Tag": {"Key": "a", "Value": "b"}}, **EXPIRES}, []),
        ({"Filter": {"And": {"Prefix": "git/", "ObjectSizeGreaterThan": 9}}, **EXPIRES}, ["error"]),
        ({"Filter": {"And": {"Prefix": "git/", "Tags": [{"Key": "a"}]}}, **EXPIRES}, []),
        ({"Filter": {}, "Transitions": [{"Days": 1, "StorageClass": "DEEP_ARCHIVE"}]}, ["error"]),
        ({"Filter": {}, "Transitions": [{"Days": 1, "StorageClass": "GLACIER_IR"}]}, []),
        ({"Filter": {}, "NoncurrentVersionExpiration": {"NoncurrentDays": 1}}, ["warning"]),
    ],
)
def test_rules_are_judged_by_what_they_reach(rule: dict[str, Any], severities: list[str]) -> None:
    found = [*unsafe_rules([{"ID": "x", "Status": "Enabled"} | rule], prefix="git/")]
    assert [one.severity for one in found] == severities
    assert [*unsafe_rules([{"ID": "x", "Status": "Disabled"} | rule], prefix="git/")] == []


# --- Time -----------------------------------------------------------------------------------------


def test_a_clock_that_is_off_by_twenty_minutes_is_an_error(
    forge: GitHub, bucket: tuple[str, "S3Client"], moto_http: S3Server
) -> None:
    forge.clock = lambda: datetime.now(UTC) + timedelta(minutes=20)
    found = asked(forge, moto_http, bucket[0], check=1)
    host = forge.url.removeprefix("http://")
    assert of(found, "error") == [f"this machine's clock is 20 minutes behind that of {host}"]


def looked_at(source: Path, vault: MemoryDestination, place: Diagnosis) -> list[Finding]:
    report = doctor(
        [FolderSource(source, owner="acme")],
        vault,
        look_at_destination=lambda: place,
        network=NetworkSettings(),
        stop=Stop(),
        clock=lambda: datetime.now(UTC),
    )
    assert report.exit_code == any(one.severity == "error" for one in report.findings)
    return [*report.findings]


def test_the_store_s_clock_and_the_session_are_compared(tmp_path: Path) -> None:
    path = init_bare(tmp_path / "acme" / "one.git")
    update_refs(path, {b"refs/heads/main": commit_chain(path, 1)[-1]})
    vault, minutes = MemoryDestination(), count()
    began = datetime.now(UTC) - timedelta(days=1)
    # Each look at the clock takes ten minutes of this run.
    run(
        [FolderSource(tmp_path / "acme", owner="acme")],
        vault,
        RunOptions(),
        events=Silence(),
        stop=Stop(),
        clock=lambda: began + timedelta(minutes=10 * next(minutes)),
    )
    hour = Diagnosis((), session=timedelta(minutes=60))
    found = looked_at(tmp_path / "acme", vault, hour)
    (error,) = [one for one in found if one.severity == "error"]
    assert error.message.startswith("the credentials end in 60 minutes; the last run took ")
    assert "role-to-assume" in error.fix
    found = looked_at(tmp_path / "acme", vault, Diagnosis((), session=timedelta(hours=6)))
    assert [one for one in found if one.severity == "error"] == []
    late = Diagnosis((), server_time=datetime.now(UTC) - timedelta(minutes=20))
    found = looked_at(tmp_path / "acme", vault, late)
    (error,) = [one for one in found if one.severity == "error"]
    assert error.message == "this machine's clock is 20 minutes ahead of that of the store"


def test_a_signal_is_no_finding(tmp_path: Path) -> None:
    path = init_bare(tmp_path / "acme" / "one.git")
    update_refs(path, {b"refs/heads/main": commit_chain(path, 1)[-1]})
    stop = Stop()

    def interrupted() -> Diagnosis:
        stop.interrupt()
        return Diagnosis(())

    with pytest.raises(Interrupted):
        doctor(
            [FolderSource(tmp_path / "acme", owner="acme")],
            MemoryDestination(),
            look_at_destination=interrupted,
            network=NetworkSettings(),
            stop=stop,
            clock=lambda: datetime.now(UTC),
        )


def test_a_listing_that_fell_is_an_error(tmp_path: Path) -> None:
    for name in ("one", "two", "three"):
        path = init_bare(tmp_path / "acme" / f"{name}.git")
        update_refs(path, {b"refs/heads/main": commit_chain(path, 1)[-1]})
    run_words = ("run", "--from", tmp_path / "acme", "--to", tmp_path / "vault")
    repo_backup(*run_words)
    for name in ("two", "three"):
        (tmp_path / "acme" / f"{name}.git").rename(tmp_path / name)
    words = ("doctor", "--from", tmp_path / "acme", "--to", tmp_path / "vault")
    done: Completed = repo_backup(*words, check=1)
    assert "error: 1 repositories are seen, 3 were in the last run" in done.stdout
