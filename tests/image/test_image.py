"""The built image as the action, by the runner's own command line, and as the command line.

Run by ``make image-test``; it installs and starts what it needs, as root.
"""

import gzip
import json
import os
import re
import subprocess
import time
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest

from backup.doors.lambda_entry import PATH
from tests.support.engine import ContainerRunner, Docker, build, docker_engine
from tests.support.estate import furnish
from tests.support.git import commit_chain, init_bare, set_head, update_refs
from tests.support.github import GitHub, Token
from tests.support.gitserver import Answer, Request
from tests.support.mirrors import assert_same_mirror
from tests.support.ports import free_port
from tests.support.program import repo_backup
from tests.support.runner import CHECKOUT, TOKEN
from tests.support.runtime_api import started
from tests.support.s3server import S3Server
from tests.support.vaults import to_be_kept

# More than git, ssh and our packages with all that they need; a compiler alone would be as much.
MOST_MEGABYTES_ABOVE_BASE = 260


@dataclass(frozen=True)
class Image:
    docker: Docker
    name: str

    def run(self, *words: str) -> str:
        """Run a container with options, the image's place marked by IMAGE, and its arguments."""
        marked = [self.name if word == "IMAGE" else word for word in words]
        return self.docker("run", "--rm", "--network", "host", *marked)

    def shell(self, script: str) -> str:
        return self.run("--entrypoint", "sh", "IMAGE", "-c", script)


@pytest.fixture(scope="session")
def image() -> Iterator[Image]:
    with docker_engine() as docker:
        yield Image(docker, build(docker))


@pytest.fixture(scope="session")
def lambda_image(image: Image) -> Image:
    return Image(image.docker, build(image.docker, "Dockerfile.lambda"))


@pytest.fixture
def forge(tmp_path: Path) -> Iterator[GitHub]:
    with GitHub(tmp_path / "git") as forge:
        forge.tokens[TOKEN] = Token("jane")
        forge.owner("jane", kind="User")
        acme = forge.owner("acme")
        for name in ("widgets", "gadgets"):
            path = init_bare(forge.root / "acme" / f"{name}.git")
            update_refs(path, {b"refs/heads/main": commit_chain(path, 2, label=name.encode())[-1]})
            set_head(path, b"refs/heads/main")
            forge.repository(acme, name, private=True)
        yield forge


def runner_of(image: Image, folder: Path, forge: GitHub, store: S3Server) -> ContainerRunner:
    runner = ContainerRunner(folder, forge.url, docker=image.docker, image=image.name)
    runner.more = {**store.environment(), "AWS_ENDPOINT_URL": store.endpoint_url}
    if store.ca_file is not None:
        # A bundle of one's own must lie where the container sees it.
        (runner.workspace / "ca.pem").write_bytes(store.ca_file.read_bytes())
        runner.more["AWS_CA_BUNDLE"] = str(runner.workspace / "ca.pem")
    return runner


# --- As the action -------------------------------------------------------------------------------


def test_an_owner_with_everything_among_1234_is_backed_up_told_and_given_back(
    image: Image, tmp_path: Path, rclone_https: S3Server
) -> None:
    rclone_https.make_bucket("image-everything")
    with GitHub(tmp_path / "git") as forge:
        estate = furnish(forge, forge.owner("acme"))
        runner = runner_of(image, tmp_path / "runner", forge, rclone_https)
        first = runner.step(bucket="image-everything", prefix="git")
        estate.assert_told(first, first=True)
        second = runner.step(bucket="image-everything", prefix="git")
        estate.assert_told(second, first=False)
    vault, env = "s3://image-everything/git", dict(rclone_https.environment())
    env["AWS_ENDPOINT_URL"] = rclone_https.endpoint_url
    back = repo_backup("restore", "--all", tmp_path / "back", "--from", vault, "--json", env=env)
    estate.assert_restored(back.json)
    for step in (first, second):
        assert TOKEN not in step.shown + json.dumps(step.report)
        assert ("add-mask", TOKEN) in step.commands
    with rclone_https.client() as client:
        for page in client.get_paginator("list_objects_v2").paginate(Bucket="image-everything"):
            for one in page["Contents"]:
                found = client.get_object(Bucket="image-everything", Key=one["Key"])
                body = found["Body"].read()
                plain = gzip.decompress(body) if body.startswith(b"\x1f\x8b") else body
                assert TOKEN.encode() not in plain


def test_the_role_in_use_is_shown(
    image: Image, forge: GitHub, tmp_path: Path, moto_https: S3Server
) -> None:
    moto_https.make_bucket("image-role")
    step = runner_of(image, tmp_path / "runner", forge, moto_https).step(bucket="image-role")
    assert step.code == 0, step.shown
    assert "arn:aws:sts::" in step.stderr
    assert "Stored by arn" in step.summary
    assert step.outputs["manifest"].startswith("s3://image-role/")


def test_a_repository_that_fails_makes_the_step_fail(
    image: Image, forge: GitHub, tmp_path: Path, moto_http: S3Server
) -> None:
    moto_http.make_bucket("image-partial")
    forge.answer = lambda one: Answer(403, {}, b"no") if "/widgets.git/" in one.target else None
    step = runner_of(image, tmp_path / "runner", forge, moto_http).step(bucket="image-partial")
    assert (step.code, step.outputs["result"], step.outputs["failed"]) == (3, "partial", "1")
    assert step.errors[0].startswith("acme/widgets: ")


def test_a_wrong_input_is_told_and_touches_nothing(
    image: Image, forge: GitHub, tmp_path: Path, moto_http: S3Server
) -> None:
    step = runner_of(image, tmp_path / "runner", forge, moto_http).step(
        bucket="image-wrong", check="maybe"
    )
    assert (step.code, step.outputs) == (2, {"result": "failed"})
    assert step.errors[0].startswith("check: 'maybe' "), step.errors
    assert forge.requests == []


def test_a_cancelled_job_ends_in_time_and_the_next_run_goes_on(
    image: Image, forge: GitHub, tmp_path: Path, moto_http: S3Server
) -> None:
    moto_http.make_bucket("image-cancelled")
    runner = runner_of(image, tmp_path / "runner", forge, moto_http)
    silent: list[Request] = []

    def answer(request: Request) -> Answer | None:
        if request.target == "/acme/widgets.git/git-upload-pack":
            silent.append(request)
            time.sleep(30)
        return None

    forge.answer = answer
    process = runner.start(bucket="image-cancelled", concurrency="1")
    while not silent and process.poll() is None:
        time.sleep(0.05)
    began = time.monotonic()
    step = runner.cancel(process)
    assert time.monotonic() - began < 10
    assert step.code == 130, step.shown
    assert step.outputs["result"] in {"failed", "partial"}
    assert image.docker("ps", "--quiet") == ""
    forge.answer = lambda _: None
    again = runner.step(bucket="image-cancelled")
    assert (again.code, again.outputs["result"]) == (0, "success")


def test_a_cancel_before_anything_began_ends_it_too(
    image: Image, forge: GitHub, tmp_path: Path, moto_http: S3Server
) -> None:
    runner = runner_of(image, tmp_path / "runner", forge, moto_http)
    held: list[Request] = []

    def answer(request: Request) -> Answer | None:
        held.append(request)
        time.sleep(15)
        return None

    forge.answer = answer
    # Nobody answers with the identity, which is asked for first.
    runner.more["AWS_ENDPOINT_URL_STS"] = f"{forge.url}/silent"
    process = runner.start(bucket="image-cancelled")
    while not held and process.poll() is None:
        time.sleep(0.05)
    began = time.monotonic()
    step = runner.cancel(process)
    assert time.monotonic() - began < 10
    assert step.code == 130, step.shown


# --- As a job's container ------------------------------------------------------------------------


def test_the_steps_of_a_job_run_in_it_as_a_container(
    image: Image, forge: GitHub, tmp_path: Path, moto_https: S3Server
) -> None:
    moto_https.make_bucket("image-job")
    runner = runner_of(image, tmp_path / "runner", forge, moto_https)
    script = runner.temporary / "step.sh"
    script.write_text("repo-backup run --from github:acme --to s3://image-job/git\n")
    work = "/__w/repository/repository"
    (container,) = image.docker(
        *("create", "--name", f"job_{os.urandom(3).hex()}", "--label", "repo-backup-test"),
        *("--workdir", work, "--network", "host"),
        *("-e", "HOME=/github/home", "-e", "GITHUB_ACTIONS=true", "-e", "CI=true"),
        *("-v", f"{image.docker.socket}:/var/run/docker.sock"),
        *(
            "-v",
            f"{runner.folder / 'work'}:/__w/repository",
            "-v",
            f"{runner.temporary}:/__w/_temp",
        ),
        *("-v", f"{runner.home}:/github/home", "-v", f"{runner.workflow}:/github/workflow"),
        *("--entrypoint", "tail", image.name, "-f", "/dev/null"),
    ).splitlines()
    image.docker("start", container)
    try:
        env = {
            **runner.more,
            "AWS_CA_BUNDLE": f"{work}/ca.pem",
            "REPO_BACKUP_TOKEN": TOKEN,
            "REPO_BACKUP_SERVER_URL": forge.url,
        }
        names = [word for name in env for word in ("-e", name)]
        argv = [str(image.docker.client), "exec", "-i", "--workdir", work, *names, container]
        done = subprocess.run(
            [*argv, "sh", "-e", "/__w/_temp/step.sh"],
            env=image.docker.environment | env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            check=False,
        )
    finally:
        image.docker("rm", "--force", container)
    assert done.returncode == 0, done.stderr
    assert "success: 2 listed: 2 captured" in done.stdout + done.stderr
    assert TOKEN not in done.stdout + done.stderr


# --- As the command line -------------------------------------------------------------------------


def test_with_arguments_it_is_the_command_line(image: Image) -> None:
    assert image.run("IMAGE", "--version") == "repo-backup 0.1.0"
    assert "Usage: repo-backup" in image.run("IMAGE", "run", "--help")


def test_any_user_may_run_it_on_a_file_system_that_is_read_only(
    image: Image, forge: GitHub, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    data.mkdir()
    data.chmod(0o777)
    limits = ("--read-only", "--tmpfs", "/tmp", "--user", "1234:1234", "--cap-drop", "all")
    image.run(
        *(*limits, "--security-opt", "no-new-privileges"),
        *("-v", f"{data}:/data", "-v", f"{forge.root}:/git:ro"),
        *("IMAGE", "run", "--from", "/git/acme", "--to", "/data/vault"),
    )
    image.run(
        *limits,
        *("-v", f"{data}:/data", "IMAGE", "restore", "acme/widgets", "--from", "/data/vault"),
        "/data/widgets.git",
    )
    # git reads no repository of somebody else.
    for path in (data / "widgets.git", *(data / "widgets.git").rglob("*")):
        os.chown(path, os.getuid(), os.getgid())
    expected = to_be_kept(forge.root / "acme" / "widgets.git")
    assert_same_mirror(data / "widgets.git", expected)


@pytest.mark.parametrize(
    "page", ["reference/action.md", "how-to/move-from-the-clone-and-sync-script.md"]
)
def test_the_command_lines_of_the_documents_work(
    page: str, image: Image, forge: GitHub, tmp_path: Path, moto_http: S3Server
) -> None:
    text = (CHECKOUT / "docs" / page).read_text("utf-8")
    (line,) = re.findall(r"^docker run ((?:[^\\\n]|\\\n)*)$", text, re.MULTILINE)
    bucket = f"image-line-{len(page)}"
    moto_http.make_bucket(bucket)
    words = line.replace("\\\n", " ").split()
    words = [
        image.name
        if word.startswith("ghcr.io/")
        else word.replace("s3://example-vault", f"s3://{bucket}")
        for word in words
    ]
    here = ("--network", "host", "--env", "AWS_ENDPOINT_URL", "--env", "REPO_BACKUP_SERVER_URL")
    env = {
        **moto_http.environment(),
        "AWS_ENDPOINT_URL": moto_http.endpoint_url,
        "AWS_SESSION_TOKEN": "",
        "REPO_BACKUP_SERVER_URL": forge.url,
        "REPO_BACKUP_TOKEN": TOKEN,
        "BACKUP_GITHUB_OWNER": "acme",
        "BACKUP_GITHUB_PAT": TOKEN,
        "BACKUP_BUCKET_NAME": bucket,
        "BACKUP_AWS_REGION": "eu-central-1",
    }
    done = subprocess.run(
        [str(image.docker.client), "run", *here, *words],
        env=image.docker.environment | env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "success: 2 listed: 2 captured" in done.stdout + done.stderr


# --- What is in it -------------------------------------------------------------------------------


def test_it_holds_git_and_ssh_and_nothing_that_builds(image: Image) -> None:
    assert image.shell("git --version; command -v ssh").startswith("git version 2.")
    for program in ("pip", "pip3", "gcc", "cc", "make", "curl", "wget"):
        assert image.shell(f"command -v {program} || true") == "", program
    assert image.shell("python3 -m pip --version 2>&1 || true").endswith("No module named pip")
    assert image.shell("python3 -c 'import flit_core' 2>&1 || true").endswith("'flit_core'")
    left = image.shell("ls /var/lib/apt/lists /var/cache/apt /root /build 2>/dev/null || true")
    assert "Packages" not in left
    assert "archives" not in left


def test_it_is_small_and_says_what_it_is(image: Image) -> None:
    (found,) = json.loads(image.docker("inspect", image.name))
    (base,) = json.loads(image.docker("inspect", "python:3.13-slim"))
    assert (found["Size"] - base["Size"]) / 1_000_000 < MOST_MEGABYTES_ABOVE_BASE
    labels = found["Config"]["Labels"]
    assert labels["org.opencontainers.image.title"] == "repo-backup-action"
    assert labels["org.opencontainers.image.licenses"] == "MIT"
    assert found["Config"]["User"] == ""
    assert found["Config"]["Entrypoint"] == ["/entrypoint.py"]


def test_it_holds_the_locked_versions(image: Image) -> None:
    script = (
        "import importlib.metadata as m;"
        "print(*(f'{d.name}=={d.version}' for d in m.distributions()))"
    )
    names = image.shell(f'python3 -c "{script}"').lower().replace("_", "-")
    inside = set(names.split())
    lock = (Path(__file__).parents[2] / "requirements" / "runtime.txt").read_text("utf-8")
    locked = {line.split()[0] for line in lock.splitlines() if "==" in line and line[0] != " "}
    missing = {one for one in locked if not one.startswith("flit-core")} - inside
    assert not missing
    assert inside - locked == {"repo-backup-action==0.1.0"}


# --- As a Lambda function -------------------------------------------------------------------------


def as_lambda(image: Image, env: Mapping[str, str], *words: str) -> list[str]:
    """Give the command of a container that is closed as Lambda's are, and sees no more."""
    argv = [str(image.docker.client), "run", "--rm", "--network", "host", "--read-only"]
    argv += ["--tmpfs", "/tmp:size=64m", "--user", "993:990", "--cap-drop", "ALL"]
    for name, value in env.items():
        argv += ["-e", f"{name}={value}"]
    return [*argv, image.name, *words]


def vault_of(store: S3Server, bucket: str) -> dict[str, str]:
    store.make_bucket(bucket)
    return store.environment() | {
        "AWS_ENDPOINT_URL": store.endpoint_url,
        "AWS_REGION": "us-east-1",
        "REPO_BACKUP_TO": f"s3://{bucket}/git",
        "REPO_BACKUP_FROM": "github:acme",
        "REPO_BACKUP_TOKEN": TOKEN,
    }


def test_lambda_s_runtime_calls_it_with_a_read_only_file_system(
    lambda_image: Image, forge: GitHub, tmp_path: Path, rclone_http: S3Server
) -> None:
    env = vault_of(rclone_http, "lambda-image") | {"REPO_BACKUP_SERVER_URL": forge.url}

    def command(variables: Mapping[str, str]) -> list[str]:
        return as_lambda(lambda_image, variables)

    with started(tmp_path, command, env=env, outside=lambda_image.docker.environment) as function:
        first = function.invoke({})
        assert not first.is_error, (first.body, function.text)
        assert first.body["totals"]["captured"] == 2
        assert function.invoke({}).body["totals"]["unchanged"] == 2
        wrong = function.invoke({"check": "maybe"})
        assert (wrong.is_error, wrong.body["errorType"]) == (True, "Failed")
        assert TOKEN not in function.text
    assert any("aws-lambda-python" in one.get("User-Agent", "") for one in function.headers)


def test_an_event_is_taken_by_post_where_there_is_no_lambda(
    lambda_image: Image, forge: GitHub, tmp_path: Path, rclone_http: S3Server
) -> None:
    env = vault_of(rclone_http, "lambda-local") | {"REPO_BACKUP_SERVER_URL": forge.url}
    port = free_port()
    with subprocess.Popen(
        as_lambda(lambda_image, env, str(port)),
        env=lambda_image.docker.environment,
        stdin=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stderr is not None
        try:
            assert PATH in process.stderr.readline()
            url = f"http://127.0.0.1:{port}{PATH}"
            with urllib.request.urlopen(url, data=b"{}", timeout=120) as answer:
                assert json.load(answer)["totals"]["captured"] == 2
        finally:
            process.terminate()
            process.communicate(timeout=30)
