"""``role-to-assume``: the job's own identity becomes an AWS session, and does so again in time."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import botocore.credentials
import pytest

from backup import limits
from backup.commands.run import RunOptions
from backup.destinations.s3 import JobRole, S3Destination, S3Settings, caller_identity
from backup.destinations.s3.bucket import Bucket
from backup.destinations.s3.role import _identity
from backup.errors import DestinationError, DestinationUnreachable
from backup.secret import Secret
from backup.sources.plain import FolderSource
from backup.stopping import Stop
from tests.support.git import commit_chain, init_bare, set_head, update_refs
from tests.support.gitserver import Answer, GitHttpServer, Request
from tests.support.mirrors import assert_same_mirror
from tests.support.program import repo_backup
from tests.support.proxy import FaultProxy, Seen
from tests.support.runner import Runner
from tests.support.s3server import S3Server, s3_error
from tests.support.vaults import run_at, to_be_kept

ROLE = "arn:aws:iam::123456789012:role/backup"
BEARER = "eyJhbGciOi.the-job-s.own"
STATEMENT = "eyJhbGciOi.who-the-job.is"


@dataclass
class Issuers:
    """GitHub's endpoint for a job's identity, and AWS STS, in one; both as their documents have it.

    Attributes:
        identity: answers in place of the first, or None.
        sts: the same for the second: a code of an error.
        sessions: by access key when each was made.
    """

    clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    identity: Answer | None = None
    sts: str = ""
    asked: list[str] = field(default_factory=list)
    sessions: dict[str, datetime] = field(default_factory=dict)

    def answer(self, request: Request) -> Answer:
        place = urlsplit(request.target)
        if place.path == "/identity":
            assert request.headers["authorization"] == f"Bearer {BEARER}"
            self.asked.append(parse_qs(place.query)["audience"][0])
            return self.identity or Answer(200, {}, json.dumps({"value": STATEMENT}).encode())
        form = {name: values[0] for name, values in parse_qs(request.form.decode()).items()}
        assert form["Action"] == "AssumeRoleWithWebIdentity"
        assert (form["RoleArn"], form["WebIdentityToken"]) == (ROLE, STATEMENT)
        assert "authorization" not in request.headers
        if self.sts:
            body = (
                f"<ErrorResponse><Error><Type>Sender</Type><Code>{self.sts}</Code><Message>Not "
                "authorized to perform sts:AssumeRoleWithWebIdentity</Message></Error>"
                "</ErrorResponse>"
            )
            return Answer(403, {"Content-Type": "text/xml"}, body.encode())
        key = f"ASIA{len(self.sessions):016}"
        self.sessions[key] = self.clock()
        ends_at = self.clock() + timedelta(seconds=int(form["DurationSeconds"]))
        body = (
            "<AssumeRoleWithWebIdentityResponse><AssumeRoleWithWebIdentityResult><Credentials>"
            f"<AccessKeyId>{key}</AccessKeyId><SecretAccessKey>{SECRET}</SecretAccessKey>"
            f"<SessionToken>{TOKEN}</SessionToken>"
            f"<Expiration>{ends_at:%Y-%m-%dT%H:%M:%SZ}</Expiration></Credentials>"
            "</AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>"
        )
        return Answer(200, {"Content-Type": "text/xml"}, body.encode())


SECRET = "s" * 40
TOKEN = "t" * 200


@dataclass(frozen=True)
class Place:
    """The issuers, the store, and what a job knows of them."""

    issuers: Issuers
    url: str
    store: S3Server
    bucket: str

    @property
    def env(self) -> dict[str, str]:
        reach = {
            name: value for name, value in self.store.environment().items() if "KEY" not in name
        }
        return reach | {
            "ACTIONS_ID_TOKEN_REQUEST_URL": f"{self.url}/identity?api-version=2.0",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": BEARER,
            "AWS_ENDPOINT_URL_STS": self.url,
            "AWS_ENDPOINT_URL_S3": self.store.endpoint_url,
            "GITHUB_RUN_ID": "4711",
        }


@pytest.fixture
def place(tmp_path: Path, moto_http: S3Server) -> Iterator[Place]:
    issuers = Issuers()
    bucket = f"role-{abs(hash(tmp_path)) % 10**10}"
    moto_http.make_bucket(bucket)
    with GitHttpServer(tmp_path / "none", answer=issuers.answer) as server:
        yield Place(issuers, server.url, moto_http, bucket)


def repository(tmp_path: Path, name: str = "widgets") -> Path:
    path = init_bare(tmp_path / "acme" / f"{name}.git")
    update_refs(path, {b"refs/heads/main": commit_chain(path, 2, label=name.encode())[-1]})
    set_head(path, b"refs/heads/main")
    return path


def test_the_job_s_identity_is_enough(place: Place, tmp_path: Path) -> None:
    path = repository(tmp_path)
    role = ("--role-to-assume", ROLE)
    vault = f"s3://{place.bucket}/git"
    with FaultProxy(place.store.endpoint_url) as proxy:
        env = place.env | {"AWS_ENDPOINT_URL_S3": proxy.url}
        repo_backup("run", "--from", tmp_path / "acme", "--to", vault, *role, env=env)
        repo_backup("restore", "widgets", tmp_path / "back.git", "--from", vault, *role, env=env)
    assert_same_mirror(tmp_path / "back.git", to_be_kept(path))
    # One session for each of the two commands, and every request by one of them.
    assert place.issuers.asked == ["sts.amazonaws.com"] * 2
    keys = {one.headers["authorization"].partition("Credential=")[2][:20] for one in proxy.requests}
    assert keys == place.issuers.sessions.keys()
    assert {one.headers["x-amz-security-token"] for one in proxy.requests} == {TOKEN}


@pytest.mark.parametrize("method", ["GET", "PUT"])
def test_a_session_that_ends_before_its_time_is_renewed(
    method: str, place: Place, tmp_path: Path
) -> None:
    for number in range(3):
        repository(tmp_path, f"r{number}")
    words = ("run", "--from", tmp_path / "acme", "--to", f"s3://{place.bucket}/git")
    expired = s3_error(400, "ExpiredToken", method=method, target=f"/{place.bucket}", skip=2)
    with FaultProxy(place.store.endpoint_url, expired) as proxy:
        env = place.env | {"AWS_ENDPOINT_URL_S3": proxy.url}
        report = repo_backup(*words, "--role-to-assume", ROLE, "--json", env=env).json
        assert proxy.struck(expired) == 1
    assert report["totals"]["captured"] == 3
    assert len(place.issuers.sessions) == 2
    used = [one.headers["authorization"].partition("Credential=")[2][:20] for one in proxy.requests]
    first, second = place.issuers.sessions
    # With the second from the refusal on.
    assert used == [first] * used.count(first) + [second] * used.count(second)


def test_a_session_that_is_refused_for_good_ends_the_run(place: Place, tmp_path: Path) -> None:
    repository(tmp_path)
    words = ("run", "--from", tmp_path / "acme", "--to", f"s3://{place.bucket}/git")
    expired = s3_error(400, "ExpiredToken", method="PUT", target=f"/{place.bucket}", times=None)
    with FaultProxy(place.store.endpoint_url, expired) as proxy:
        env = place.env | {"AWS_ENDPOINT_URL_S3": proxy.url}
        done = repo_backup(*words, "--role-to-assume", ROLE, env=env, check=1)
    assert "the credentials' time is over" in done.stderr
    # Each of its requests renewed it once, and no more.
    assert len(place.issuers.sessions) >= 2
    assert len(place.issuers.sessions) == proxy.struck(expired) // 2 + 1


def test_a_session_that_has_ended_when_it_comes_is_no_bug(place: Place, tmp_path: Path) -> None:
    repository(tmp_path)
    words = ("run", "--from", tmp_path / "acme", "--to", f"s3://{place.bucket}/git")
    place.issuers.clock = lambda: datetime.now(UTC) - timedelta(hours=2)
    done = repo_backup(*words, "--role-to-assume", ROLE, env=place.env, check=None)
    assert done.code not in {0, 5}
    assert f"a session as {ROLE} that has ended already" in done.stderr
    assert "this machine's clock" in done.stderr


def test_without_an_identity_nothing_is_done(place: Place, tmp_path: Path) -> None:
    repository(tmp_path)
    words = ("run", "--from", tmp_path / "acme", "--to", f"s3://{place.bucket}/git")
    env = {name: value for name, value in place.env.items() if not name.startswith("ACTIONS")}
    done = repo_backup(*words, "--role-to-assume", ROLE, env=env, check=2)
    assert "role-to-assume: this is no job of GitHub Actions" in done.stderr
    assert "id-token: write" in done.stderr
    assert place.issuers.asked == []


@pytest.mark.parametrize("what", ["identity", "nonsense", "sts"])
def test_what_refuses_is_named(what: str, place: Place, tmp_path: Path) -> None:
    repository(tmp_path)
    match what:
        case "identity":
            place.issuers.identity = Answer(403, {}, b"{}")
        case "nonsense":
            place.issuers.identity = Answer(200, {}, b"<html>")
        case _:
            place.issuers.sts = "AccessDenied"
    words = ("run", "--from", tmp_path / "acme", "--to", f"s3://{place.bucket}/git")
    done = repo_backup(*words, "--role-to-assume", ROLE, env=place.env, check=1)
    said = {
        "identity": "GitHub does not say who this job is (403)",
        "nonsense": "cannot be understood",
        "sts": f"AWS lets this job not work as {ROLE}: AccessDenied: Not authorized",
    }
    assert said[what] in done.stderr
    if what == "sts":
        assert "the role's trust policy must name GitHub's provider" in done.stderr
    for secret in (BEARER, STATEMENT, SECRET, TOKEN):
        assert secret not in done.stdout + done.stderr


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"7",
        b"[]",
        b"{}",
        b"[" * 100_000,
        b'{"value": null}',
        b'{"value": ""}',
        b'{"value": 7}',
        b'{"value": ["x"]}',
        b'{"value": "two\\nlines"}',
        b'{"value": "\\ud800"}',
    ],
    ids=lambda body: body[:20].decode(),
)
def test_what_is_no_identity_is_an_error_that_says_so(body: bytes, place: Place) -> None:
    place.issuers.identity = Answer(200, {}, body)
    with pytest.raises(DestinationError, match="cannot be understood"):
        _identity(JobRole(ROLE, f"{place.url}/identity", Secret(BEARER), "repo-backup"))


def test_an_identity_without_an_end_is_taken_to_a_limit(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    role = JobRole(ROLE, f"{place.url}/identity", Secret(BEARER), "repo-backup")
    place.issuers.identity = Answer(200, {}, (b" " * 65536 for _ in range(4096)))
    with pytest.raises(DestinationError, match="more than 32 MiB"):
        _identity(role)

    def slow() -> Iterator[bytes]:
        for _ in range(1000):
            yield b" "
            time.sleep(0.02)

    monkeypatch.setattr(limits, "MOST_API_SECONDS", 0.5)
    place.issuers.identity = Answer(200, {}, slow())
    with pytest.raises(DestinationUnreachable, match="takes longer than"):
        _identity(role)


def test_the_action_works_as_the_role_and_names_it(place: Place, tmp_path: Path) -> None:
    """STS here is the emulator's, which also says who is who."""
    runner = Runner(
        tmp_path / "runner",
        "https://github.example.com",
        more=place.env | {"AWS_ENDPOINT_URL_STS": place.store.endpoint_url},
    )
    repository(tmp_path)
    repo_backup(
        *("run", "--from", tmp_path / "acme", "--to", f"s3://{place.bucket}/git"),
        env=place.store.environment() | {"AWS_ENDPOINT_URL": place.store.endpoint_url},
    )
    inputs = {"command": "verify", "token": "", "bucket": place.bucket, "prefix": "git"}
    step = runner.step(**inputs, **{"role-to-assume": ROLE, "owner": "acme"})
    assert (step.code, step.outputs["result"]) == (0, "success")
    assert BEARER not in step.shown


def test_the_identity_is_asked_for_by_the_proxy_of_the_environment(
    place: Place, tmp_path: Path
) -> None:
    repository(tmp_path)
    words = ("run", "--from", tmp_path / "acme", "--to", f"s3://{place.bucket}/git")
    role = ("--role-to-assume", ROLE)
    nowhere = place.env | {"http_proxy": "http://127.0.0.1:9"}
    done = repo_backup(*words, *role, env=nowhere, check=1)
    assert "the identity of this job cannot be asked for" in done.stderr
    assert place.issuers.asked == []
    repo_backup(*words, *role, env=nowhere | {"no_proxy": "127.0.0.1"})
    assert len(place.issuers.asked) == 1


def test_who_works_is_the_role(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    """As the emulator's STS tells; the summary shows it."""
    for name, value in (place.env | {"AWS_ENDPOINT_URL_STS": place.store.endpoint_url}).items():
        monkeypatch.setenv(name, value)
    role = JobRole(ROLE, f"{place.url}/identity", Secret(BEARER), "repo-backup-4711")
    told = caller_identity(S3Settings(place.bucket, role=role))
    assert told == "arn:aws:sts::123456789012:assumed-role/backup/repo-backup-4711"


class Clock:
    """A time that a test moves."""

    def __init__(self) -> None:
        self.began = datetime.now(UTC)
        self.seconds = 0.0

    def now(self) -> datetime:
        return self.began + timedelta(seconds=self.seconds)


def test_a_run_of_three_hours_works_by_sessions_of_one_hour(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    place.issuers.clock = clock.now
    for name, value in place.env.items():
        monkeypatch.setenv(name, value)
    # By this function botocore knows the time: the default of the last argument.
    maker = botocore.credentials.DeferredRefreshableCredentials.__init__
    monkeypatch.setattr(maker, "__defaults__", (clock.now,))
    begin = Bucket.begin

    def takes_long(self: Bucket, operation: str, key: str, **more: object) -> object:
        clock.seconds += 120
        return begin(self, operation, key, **more)

    monkeypatch.setattr(Bucket, "begin", takes_long)
    lives: list[float] = []

    class Noted(list[Seen]):
        def append(self, one: Seen) -> None:
            super().append(one)
            key = one.headers["authorization"].partition("Credential=")[2][:20]
            age = clock.now() - place.issuers.sessions[key]
            lives.append(3600 - age.total_seconds())

    for number in range(30):
        repository(tmp_path, f"r{number}")
    with FaultProxy(place.store.endpoint_url) as proxy:
        proxy.requests = Noted()
        role = JobRole(ROLE, f"{place.url}/identity", Secret(BEARER), "repo-backup")
        settings = S3Settings(place.bucket, prefix="git", endpoint_url=proxy.url, role=role)
        destination = S3Destination(settings, stop=Stop())
        source = FolderSource(tmp_path / "acme", owner="acme")
        report = run_at(clock.now(), source, destination, RunOptions(concurrency=1))
        destination.close()
    assert report.result == "success", report.problems
    assert report.count("captured") == 30
    assert clock.seconds > 3 * 3600
    assert len(place.issuers.sessions) >= 4
    assert min(lives) > 300
