"""Tokens that are made while we run: the runner knows each before anything is done with it."""

import base64
import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.test_github_app import APP_ID, Forge, key
from tests.integration.test_job_role import BEARER, ROLE, SECRET, STATEMENT, TOKEN, Issuers
from tests.support.bitbucket import Bitbucket
from tests.support.git import commit_chain, init_bare, set_head, update_refs
from tests.support.gitserver import Answer, GitHttpServer, Request
from tests.support.program import PROGRAM, environment
from tests.support.proxy import FaultProxy, Seen
from tests.support.runner import Runner, Step, masked
from tests.support.s3server import S3Server


class Log:
    """A step's log, and the secrets that came to a server before they stood in it to be masked."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.used: set[str] = set()
        self.unknown: list[str] = []

    def used_now(self, *secrets: str) -> None:
        known = masked(self.path.read_text())
        self.used.update(secrets)
        self.unknown += [secret for secret in secrets if secret not in known]

    def require_masked(self, step: Step) -> None:
        """Insist that all were known in time, and that they stand nowhere else."""
        assert self.unknown == []
        rest = step.shown + json.dumps(step.report)
        assert [secret for secret in self.used if secret in rest] == []


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "log")


def token_of(request: Request) -> str:
    """Give the token that a request came with; nothing of one that came with none."""
    kind, _, value = request.headers.get("authorization", "").partition(" ")
    if kind == "Basic":
        value = base64.b64decode(value).decode().partition(":")[2]
    return value


@pytest.mark.parametrize("public", [True, False])
def test_the_tokens_of_an_app_also_those_that_are_renewed(
    public: bool, log: Log, tmp_path: Path
) -> None:
    with Forge(tmp_path / "git") as forge:
        forge.fill(3)
        said = b"::add-mask::x\n::set-output name=x::y"
        ended: list[str] = []

        def answer(request: Request) -> Answer | None:
            if not (token := token_of(request)):
                return None
            log.used_now(token)
            # What it says to people are no commands, before and after a mask.
            if "/r1.git/" in request.target:
                return Answer(400, {}, said)
            if "/r2.git/" in request.target and not ended:
                ended.append(token)
                forge.app.made.clear()
            return None

        forge.answer = answer
        runner = Runner(tmp_path / "runner", forge.url, public=public, log=log.path)
        step = runner.step(
            token="",
            app_id=APP_ID,
            app_private_key=key()[0],
            destination=str(tmp_path / "vault"),
            concurrency="1",
        )
    assert (step.code, step.outputs["failed"]) == (3, "1"), step.shown
    tokens = {secret for secret in log.used if secret.startswith("ghs_")}
    assert len(tokens) == 2
    # And for each a statement of who the App is; two of one second are the same.
    assert len(log.used - tokens) in (1, 2)
    log.require_masked(step)
    assert {name for name, _ in step.commands} == {"add-mask", "error"}
    assert step.errors
    assert "x" not in {value for name, value in step.commands if name == "add-mask"}


def test_the_tokens_of_a_consumer(log: Log, tmp_path: Path) -> None:
    with Bitbucket(tmp_path / "git") as forge:
        forge.consumers = {"the-key": "the-secret-of-the-consumer"}
        forge.workspace("acme")
        for name in ("one", "two"):
            folder = init_bare(forge.folder(forge.repository("acme", name)))
            update_refs(folder, {b"refs/heads/main": commit_chain(folder, 1)[-1]})
            set_head(folder, b"refs/heads/main")

        def answer(request: Request) -> Answer | None:
            token = token_of(request)
            if token in forge.issued:
                log.used_now(token)
                if ".git/" in request.target and len(forge.issued) == 1:
                    forge.accepted.clear()
            return None

        forge.answer = answer
        runner = Runner(tmp_path / "runner", forge.url, log=log.path)
        step = runner.step(
            provider="bitbucket",
            server_url=forge.url,
            api_url=forge.api_url,
            token="",
            oauth_key="the-key",
            oauth_secret="the-secret-of-the-consumer",
            destination=str(tmp_path / "vault"),
            concurrency="1",
        )
        assert step.code == 0, step.shown
        assert log.used == {*forge.issued}
        assert len(forge.issued) == 2
    log.require_masked(step)


def test_the_session_of_a_role(log: Log, tmp_path: Path, moto_http: S3Server) -> None:
    issuers = Issuers()
    bucket = f"minted-{abs(hash(tmp_path)) % 10**10}"
    moto_http.make_bucket(bucket)

    class Noted(list[Seen]):
        def append(self, one: Seen) -> None:
            super().append(one)
            log.used_now(one.headers["x-amz-security-token"], SECRET)

    def issue(request: Request) -> Answer:
        if STATEMENT.encode() in request.form:
            log.used_now(STATEMENT)
        return issuers.answer(request)

    with (
        GitHttpServer(tmp_path / "none", answer=issue) as server,
        FaultProxy(moto_http.endpoint_url) as proxy,
        Forge(tmp_path / "git") as forge,
    ):
        forge.fill(1)
        proxy.requests = Noted()
        reach = {name: text for name, text in moto_http.environment().items() if "KEY" not in name}
        more = reach | {
            "ACTIONS_ID_TOKEN_REQUEST_URL": f"{server.url}/identity?api-version=2.0",
            "ACTIONS_ID_TOKEN_REQUEST_TOKEN": BEARER,
            "AWS_ENDPOINT_URL_STS": server.url,
            "AWS_ENDPOINT_URL_S3": proxy.url,
        }
        runner = Runner(tmp_path / "runner", forge.url, log=log.path, more=more)
        step = runner.step(
            command="status", token="", bucket=bucket, prefix="git", role_to_assume=ROLE
        )
        assert step.code == 2, step.shown
        assert proxy.requests
    assert log.used == {STATEMENT, SECRET, TOKEN}
    log.require_masked(step)


# --- The command line -----------------------------------------------------------------------------


@pytest.fixture
def forge(tmp_path: Path) -> Iterator[Forge]:
    with Forge(tmp_path / "git") as forge:
        forge.fill(1)
        yield forge


@pytest.mark.parametrize("how", ["in a job", "in no job", "into a file", "by another program"])
def test_the_command_line_in_a_job_tells_the_runner_and_nobody_else(
    how: str, forge: Forge, tmp_path: Path
) -> None:
    words = [
        str(PROGRAM),
        *("run", "--from", "github:acme", "--to", str(tmp_path / "vault"), "--json"),
    ]
    # A step of a workflow is a script, and the runner reads what the script's shell writes to.
    script = {
        "into a file": '"$@" 2>log; code=$?; cat log >&2; exit $code',
        "by another program": '"$@" 2>&1 >out | cat >&2; cat out',
    }.get(how, '"$@"; exit $?')
    env = environment(forge.environment())
    if how != "in no job":
        env["GITHUB_ACTIONS"] = "true"
    done = subprocess.run(
        ["/bin/sh", "-c", script, "sh", *words],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    assert done.returncode == 0, done.stderr
    # Data is for programs.
    assert json.loads(done.stdout)["result"] == "success"
    (token,) = forge.app.made
    if how == "in a job":
        assert masked(done.stderr)[-1] == token
        assert done.stderr.count(token) == 1
    else:
        assert masked(done.stderr) == []
        assert token not in done.stderr + done.stdout
