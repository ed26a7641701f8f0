"""The Lambda function, by AWS's own runtime client against its API, and by POST on this machine."""

import json
import random
import signal
import subprocess
import sys
import time
import traceback
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from cfnlint.decode import cfn_yaml  # type: ignore[import-untyped]

from backup.config import Command, taken_by
from backup.doors import aws_lambda
from backup.doors.lambda_entry import PATH
from backup.report.alert import Alert
from tests.support.disks import small_disk
from tests.support.git import FastImport, commit_chain, init_bare, set_head, update_refs
from tests.support.gitlab import GitLab
from tests.support.gitserver import Answer, GitHttpServer, Request
from tests.support.mirrors import assert_same_mirror
from tests.support.ports import free_port
from tests.support.program import environment, repo_backup
from tests.support.runtime_api import Function, home_variables, started
from tests.support.s3server import S3Server
from tests.support.vaults import to_be_kept

LAMBDA_TEMPLATE = Path(__file__).parents[2] / "aws" / "lambda.yaml"
TOKEN = "glpat-sentinel-of-the-function"
PASSWORD = "sentinel-of-the-git-server-0123"


def repository(root: Path, name: str) -> Path:
    path = init_bare(root / f"{name}.git")
    update_refs(path, {b"refs/heads/main": commit_chain(path, 2, label=name.encode())[-1]})
    set_head(path, b"refs/heads/main")
    return path


@pytest.fixture
def server(tmp_path: Path) -> Iterator[GitHttpServer]:
    (tmp_path / "git" / "acme").mkdir(parents=True)
    with GitHttpServer(tmp_path / "git", credentials=("x-access-token", PASSWORD)) as server:
        yield server


@pytest.fixture
def function(tmp_path: Path) -> Iterator[Function]:
    with started(tmp_path, env=home_variables(tmp_path) | {"REPO_BACKUP_TOKEN": PASSWORD}) as one:
        yield one
        # Nothing stays in the one folder that it may write to, nor a secret in its log.
        assert [*(tmp_path / "tmp").iterdir()] == []
        assert PASSWORD not in one.text


def sources(server: GitHttpServer, *names: str) -> list[str]:
    return [f"git:{server.url}/acme/{name}.git" for name in names]


def last(vault: Path) -> Any:
    return repo_backup("list", "--from", vault, "--json").json["snapshots"][-1]


# --- In Lambda -----------------------------------------------------------------------------------


def test_several_sources_are_backed_up_and_come_back(
    server: GitHttpServer, function: Function, tmp_path: Path
) -> None:
    places = {name: repository(server.root / "acme", name) for name in ("one", "two")}
    repository(tmp_path / "src", "three")
    vault = tmp_path / "vault"
    event = {
        "from": [*sources(server, "one", "two"), str(tmp_path / "src")],
        "to": str(vault),
        "concurrency": 2,
        "pull-refs": True,
    }
    first = function.invoke(event)
    assert not first.is_error, first.body
    assert first.body["result"] == "success"
    assert first.body["totals"]["captured"] == 3
    assert "repositories" not in first.body
    second = function.invoke({"command": "run"} | event)
    assert second.body["totals"]["unchanged"] == 3
    repo_backup("restore", "--all", tmp_path / "back", "--from", vault)
    for name, place in places.items():
        assert_same_mirror(tmp_path / f"back/git/acme/{name}.git", to_be_kept(place))


def test_a_repository_that_fails_fails_the_invocation_and_no_later_one(
    server: GitHttpServer, function: Function, tmp_path: Path
) -> None:
    for name in ("good", "bad"):
        repository(server.root / "acme", name)
    server.answer = lambda one: Answer(403, {}, b"no") if "/bad.git/" in one.target else None
    event = {"from": sources(server, "good", "bad"), "to": str(tmp_path / "vault")}
    failed = function.invoke(event)
    assert (failed.is_error, failed.body["errorType"]) == (True, "Failed")
    assert "acme/bad: " in failed.body["errorMessage"]
    assert last(tmp_path / "vault")["captured"] == 1
    server.answer = None
    done = function.invoke(event)
    assert (done.is_error, done.body["totals"]["captured"]) == (False, 1)


def test_what_is_verified_or_pruned_in_part_fails_its_invocation(
    server: GitHttpServer, tmp_path: Path
) -> None:
    repository(server.root / "acme", "small")
    large = init_bare(server.root / "acme" / "large.git")
    stream = FastImport(large)
    stream.commit(files={b"noise": random.Random(1).randbytes(1 << 20)})
    update_refs(large, {b"refs/heads/main": next(iter(stream.run().values()))})
    vault = str(tmp_path / "vault")
    with small_disk(tmp_path / "small", 1 << 19) as small:
        env = home_variables(tmp_path) | {"REPO_BACKUP_TOKEN": PASSWORD, "TMPDIR": str(small)}
        with started(tmp_path, env=env) as function:
            assert not function.invoke({"from": sources(server, "small"), "to": vault}).is_error
            # A pack that there is no room to search for files of Git LFS makes a run partial.
            every = {"from": sources(server, "small", "large"), "to": vault, "lfs": False}
            assert not function.invoke(every).is_error
            verified = function.invoke({"command": "verify", "from": vault, "depth": "restore"})
            prune = {"command": "prune", "from": vault, "keep-daily": 7}
            pruned = [function.invoke(prune)]
            (kept,) = (tmp_path / "vault/git/acme/snapshots").glob("*.json.gz")
            repo_backup("run", "--from", f"git:{large}", "--owner", "acme", "--to", vault)
            kept.unlink()
            pruned.append(function.invoke(prune))
    assert (verified.is_error, verified.body["errorType"]) == (True, "Failed")
    assert "not everything could be verified" in verified.body["errorMessage"]
    assert "acme/large" in verified.body["errorMessage"]
    assert [one.is_error for one in pruned] == [False, True], pruned
    assert "missing" in pruned[1].body["errorMessage"]


@pytest.mark.parametrize(
    ("event", "problem"),
    [
        ([], "give a JSON object of options"),
        (
            {"command": "restore"},
            "command: 'rest...' is not accepted: give run, verify, prune, status",
        ),
        ({"form": "gitlab:acme"}, "has an option form that run has not (hint: did you mean from"),
        ({"token": "glpat-1"}, "token is not accepted in an event"),
        ({"from": {"a": 1}}, "from: an object is not accepted: give a text"),
        ({"from": "git:/x", "concurrency": ["1"]}, "concurrency: a list is not accepted"),
        ({"from": "git:https://x/a/b", "concurrency": "many"}, "concurrency: 'many' is no"),
        ({}, "from is missing"),
    ],
)
def test_what_is_not_accepted_is_said_by_its_name(
    function: Function, event: Any, problem: str
) -> None:
    failed = function.invoke(event)
    assert (failed.is_error, failed.body["errorType"]) == (True, "Failed")
    assert problem in failed.body["errorMessage"]


ASTRAY = "ghp_s3nt1nelOfTheEventZyXwVuTsRqPo"
SHAPES: dict[str, Any] = {
    "alone": ASTRAY,
    "in a list": [ASTRAY, "x"],
    "in an object": {"a": ASTRAY},
    "of a forge": f"github:{ASTRAY}",
    "in a URL": f"git:https://x:{ASTRAY}@host/a/b",
    "among others": f"x, {ASTRAY}, y",
    "behind a quote": f"it's {ASTRAY}",
    "between quotes": f"\"{ASTRAY}\" '{ASTRAY}'",
    "in two lines": f"x\n{ASTRAY}\\",
}


class Minute:
    """The time of an invocation."""

    def get_remaining_time_in_millis(self) -> int:
        return 60_000


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("command", ["run", "verify", "prune", "status"])
def test_a_secret_in_a_wrong_field_is_not_repeated(
    command: Command, shape: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    value = SHAPES[shape]
    refused = 0
    options = [one.option(command).removeprefix("--") for one in taken_by(command)]
    # What is accepted is followed by what is missing.
    events: list[Any] = [{"command": command, name: value} for name in options]
    events += [{"command": value}, {str(value): "x"}, {"command": command, str(value): 1}]
    for event in events:
        with pytest.raises(aws_lambda.Failed) as caught:
            aws_lambda.handler(event, Minute())
        told = str(caught.value)
        assert not [at for at in range(len(ASTRAY) - 7) if ASTRAY[at : at + 8] in told], told
        assert "bug" not in told
        (name, *_) = [one for one in event if one != "command"] or ["command"]
        is_accepted = "is missing" in told or "prune needs a rule" in told
        if name in options and not is_accepted:
            assert name in told
            refused += 1
    assert refused > 3


def slowly(seconds: float, *names: str) -> Any:
    """Make an answer that lets the packs of these repositories take so long."""

    def answer(request: Request) -> None:
        # What asks for refs alone is shorter.
        asks_for_pack = int(request.headers.get("content-length", "0")) > 130
        if asks_for_pack and any(f"/{name}.git/" in request.target for name in names):
            time.sleep(seconds)

    return answer


def test_when_the_time_runs_out_the_next_invocation_finishes(
    server: GitHttpServer, function: Function, tmp_path: Path
) -> None:
    names = [*"abcdef"]
    places = {name: repository(server.root / "acme", name) for name in names}
    server.answer = slowly(1.2, *names)
    vault = tmp_path / "vault"
    event = {"from": sources(server, *names), "to": str(vault), "concurrency": 1}
    cut = function.invoke(event, seconds=8.0)
    # In its time: Lambda would have killed it otherwise.
    assert cut.seconds < 8.0
    assert (cut.is_error, cut.body["errorType"]) == (True, "Unfinished")
    assert "the time was up before" in cut.body["errorMessage"]
    snapshot = last(vault)
    assert (snapshot["result"], snapshot["complete"]) == ("partial", False)
    assert 0 < snapshot["captured"] < 6
    server.answer = None
    done = function.invoke(event, seconds=60.0)
    assert not done.is_error, done.body
    totals = done.body["totals"]
    assert (totals["captured"], totals["unchanged"]) == (
        6 - snapshot["captured"],
        snapshot["captured"],
    )
    repo_backup("restore", "--all", tmp_path / "back", "--from", vault)
    for name, place in places.items():
        (mirror,) = tmp_path.glob(f"back/**/{name}.git")
        assert_same_mirror(mirror, to_be_kept(place))


class Moment:
    """The time of an invocation in which nothing more can begin."""

    def get_remaining_time_in_millis(self) -> int:
        return 1


def test_a_failed_run_is_told_as_one_though_its_time_was_up_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[Alert] = []
    monkeypatch.setattr(aws_lambda, "alerts", lambda *_, **__: nullcontext(told.append))
    names = [*"abcdefgh"]
    for name in names:
        repository(tmp_path / "acme", name)
    event = {"from": str(tmp_path / "acme"), "to": str(tmp_path / "vault")}
    aws_lambda.handler(event, Minute())
    with pytest.raises(aws_lambda.Unfinished, match="the time was up"):
        aws_lambda.handler(event, Moment())
    # What the next invocation goes on with is no failure yet.
    assert [one.result for one in told] == ["success"]
    for name in names[:5]:
        (tmp_path / "acme" / f"{name}.git").rename(tmp_path / name)
    with pytest.raises(aws_lambda.Failed, match=r"(?s)--max-drop-percent.*the time was up"):
        aws_lambda.handler(event, Moment())
    assert [one.result for one in told] == ["success", "failed"]


def test_a_repository_that_no_invocation_is_long_enough_for_starves_no_other(
    server: GitHttpServer, function: Function, tmp_path: Path
) -> None:
    names = ["a-endless", *"bcdefgh"]
    for name in names:
        repository(server.root / "acme", name)
    server.answer = slowly(30.0, "a-endless")
    vault = tmp_path / "vault"
    event = {"from": sources(server, *names), "to": str(vault), "concurrency": 1}
    captured = 0
    # Five are asked at once, and the first to answer is captured first.
    for _ in range(10):
        cut = function.invoke(event, seconds=3.0)
        assert (cut.is_error, cut.body["errorType"]) == (True, "Unfinished")
        captured += last(vault)["captured"]
        if captured == 7:
            break
    assert captured == 7
    # Alone it has all of the time, and is told from what was only begun too late.
    cut = function.invoke(event, seconds=3.0)
    assert "a-endless" in cut.body["errorMessage"]
    assert "--deadline-minutes" in cut.body["errorMessage"]


def weekly_event(bucket: str) -> dict[str, Any]:
    """Make the event of the template's weekly drill."""
    template = cfn_yaml.loads(LAMBDA_TEMPLATE.read_text("utf-8"))
    (target,) = template["Resources"]["Weekly"]["Properties"]["Targets"]
    text = target["Input"]["Fn::Sub"].replace("${BucketName}/${Prefix}", bucket)
    event: dict[str, Any] = json.loads(text)
    return event


def test_a_schedule_s_event_and_the_older_tool_s_variables_are_enough(
    tmp_path: Path, rclone_http: S3Server
) -> None:
    rclone_http.make_bucket("lambda-vault")
    with GitLab(tmp_path / "git") as forge:
        forge.tokens = {TOKEN: "private-token"}
        forge.group("acme")
        repository(forge.root / "acme", "one")
        forge.project("acme/one", wiki="disabled")
        env = home_variables(tmp_path) | rclone_http.environment()
        env |= {"AWS_ENDPOINT_URL": rclone_http.endpoint_url, "AWS_REGION": "us-east-1"}
        env |= {"GITLAB_TOKEN": TOKEN, "GITLAB_URL": forge.url, "GROUPS_TO_BACKUP": "100"}
        env["AWS_S3_BUCKET"] = "lambda-vault"
        scheduled: dict[str, Any] = {"version": "0", "source": "aws.events", "detail": {}}
        scheduled |= {"detail-type": "Scheduled Event", "resources": [], "region": "us-east-1"}
        with started(tmp_path, env=env) as function:
            done = function.invoke(scheduled)
            assert not done.is_error, done.body
            assert done.body["manifests"][0].startswith("s3://lambda-vault/")
            checked = function.invoke({"command": "status", "from": "s3://lambda-vault"})
            assert not checked.is_error, checked.body
            proved = function.invoke(weekly_event("lambda-vault"))
            assert not proved.is_error, proved.body
            assert (proved.body["depth"], proved.body["checked"]) == ("restore", 1)
            assert TOKEN not in function.text
    with rclone_http.client() as client:
        found = client.list_objects_v2(Bucket="lambda-vault")["Contents"]
        bundle = next(one["Key"] for one in found if one["Key"].endswith(".bundle"))
        client.delete_object(Bucket="lambda-vault", Key=bundle)
    with started(tmp_path, env=env) as function:
        damaged = function.invoke({"command": "verify", "from": "s3://lambda-vault"})
        assert damaged.is_error
        assert damaged.body["errorMessage"].startswith("stored data is damaged: s3://lambda-vault/")
        stale = function.invoke({"command": "status", "from": "s3://lambda-vault/none"})
        assert stale.is_error


# --- On this machine -----------------------------------------------------------------------------


@contextmanager
def local_endpoint(folder: Path, **variables: str) -> Iterator[str]:
    port = free_port()
    argv = [sys.executable, "-m", "backup.doors.lambda_entry", str(port)]
    with subprocess.Popen(
        argv,
        env=environment(home_variables(folder) | variables),
        stderr=subprocess.PIPE,
        text=True,
        cwd=folder,
    ) as process:
        assert process.stderr is not None
        try:
            assert f":{port}{PATH}" in process.stderr.readline()
            yield f"http://127.0.0.1:{port}"
        finally:
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=20)
        assert process.returncode == 0


def post(url: str, body: bytes) -> tuple[int, Any, str | None]:
    request = urllib.request.Request(url, data=body)
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            failed = answer.headers.get("X-Amz-Function-Error")
            return answer.status, json.load(answer), failed
    except urllib.error.HTTPError as error:
        return error.code, json.load(error), None


def test_events_are_taken_by_post_on_this_machine(tmp_path: Path) -> None:
    repository(tmp_path / "src", "one")
    event = {"from": str(tmp_path / "src"), "to": str(tmp_path / "vault")}
    with local_endpoint(tmp_path) as url:
        status, body, failed = post(f"{url}{PATH}", json.dumps(event).encode())
        assert (status, failed, body["totals"]["captured"]) == (200, None, 1)
        status, body, failed = post(f"{url}{PATH}", b'{"to": "./vault"}')
        assert (status, failed, body["errorType"]) == (200, "Unhandled", "Failed")
        assert "from is missing" in body["errorMessage"]
        assert post(f"{url}{PATH}", b"{")[0] == 400
        assert post(f"{url}/elsewhere", b"{}")[0] == 404
        status, body, _ = post(f"{url}{PATH}", json.dumps(event).encode())
        assert (status, body["totals"]["unchanged"]) == (200, 1)


def test_the_time_of_a_local_invocation_ends_too(server: GitHttpServer, tmp_path: Path) -> None:
    repository(server.root / "acme", "slow")
    server.answer = slowly(30.0, "slow")
    event = {"from": sources(server, "slow"), "to": str(tmp_path / "vault")}
    variables = {"AWS_LAMBDA_FUNCTION_TIMEOUT": "3", "REPO_BACKUP_TOKEN": PASSWORD}
    with local_endpoint(tmp_path, **variables) as url:
        began = time.monotonic()
        _, body, failed = post(f"{url}{PATH}", json.dumps(event).encode())
        assert (failed, body["errorType"]) == ("Unhandled", "Unfinished")
        assert time.monotonic() - began < 6
    assert [*(tmp_path / "tmp").iterdir()] == []


class _Minute:
    def get_remaining_time_in_millis(self) -> int:
        return 60_000


def test_a_bug_is_told_by_its_place_and_not_by_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down(*args: object, **more: object) -> None:
        raise RuntimeError(f"a library says {PASSWORD}")

    monkeypatch.setattr(aws_lambda, "make_stop", break_down)
    with pytest.raises(aws_lambda.Failed, match="internal error: RuntimeError at") as caught:
        aws_lambda.handler({"from": "git:https://127.0.0.1:9/a/b", "to": "./vault"}, _Minute())
    assert PASSWORD not in "".join(traceback.format_exception(caught.value))
