"""Heartbeats and messages: what monitors and people hear of each kind of end."""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qs

import pytest

from tests.support.git import commit_chain, init_bare, set_head, update_refs
from tests.support.gitserver import Answer, GitHttpServer, Request
from tests.support.program import Completed, repo_backup
from tests.support.runner import Runner
from tests.support.tls import Certificates

KEY = "3f1c0de5-c0de-4b1d-9a55-5ec2e7c0ffee"
TOPIC = "arn:aws:sns:us-east-1:123456789012:alerts"


@dataclass
class Monitor:
    """A monitor of heartbeats, and a topic.

    Attributes:
        refuses: statuses to answer with in place of 200, one after another.
    """

    url: str
    ca_file: Path
    beats: list[str] = field(default_factory=list)
    texts: list[str] = field(default_factory=list)
    messages: list[dict[str, str]] = field(default_factory=list)
    refuses: list[int] = field(default_factory=list)
    topic_refuses: bool = False

    def answer(self, request: Request) -> Answer:
        if request.target == "/":
            form = {name: values[0] for name, values in parse_qs(request.form.decode()).items()}
            assert form["Action"] == "Publish"
            if self.topic_refuses:
                body = (
                    b"<ErrorResponse><Error><Code>AuthorizationError</Code></Error></ErrorResponse>"
                )
                return Answer(403, {"Content-Type": "text/xml"}, body)
            self.messages.append(form)
            result = "<PublishResult><MessageId>1</MessageId></PublishResult>"
            body = f"<PublishResponse>{result}</PublishResponse>".encode()
            return Answer(200, {"Content-Type": "text/xml"}, body)
        assert request.method == "POST"
        assert request.target.startswith(f"/ping/{KEY}")
        assert "authorization" not in request.headers
        self.beats.append(request.target.removeprefix(f"/ping/{KEY}"))
        self.texts.append(request.form.decode())
        return Answer(self.refuses.pop(0) if self.refuses else 200)

    @property
    def env(self) -> dict[str, str]:
        return {
            "REPO_BACKUP_HEARTBEAT_URL": f"{self.url}/ping/{KEY}",
            "REPO_BACKUP_SNS_TOPIC_ARN": TOPIC,
            "REQUESTS_CA_BUNDLE": str(self.ca_file),
            "AWS_CA_BUNDLE": str(self.ca_file),
            "AWS_ENDPOINT_URL_SNS": self.url,
            "AWS_ACCESS_KEY_ID": "AKIATESTTESTTESTTEST",
            "AWS_SECRET_ACCESS_KEY": "none",
        }


@pytest.fixture
def monitor(tmp_path: Path, tls: Certificates) -> Iterator[Monitor]:
    made = Monitor("", tls.ca_file)
    answer = made.answer
    with GitHttpServer(tmp_path / "none", tls=tls.server_context(), answer=answer) as server:
        made.url = server.url
        yield made


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for name in ("one", "two"):
        path = init_bare(tmp_path / "acme" / f"{name}.git")
        update_refs(path, {b"refs/heads/main": commit_chain(path, 2, label=name.encode())[-1]})
        set_head(path, b"refs/heads/main")
    return tmp_path / "acme"


def spoil(path: Path) -> None:
    """Leave a repository whose refs can be read, and whose objects cannot."""
    update_refs(path, {b"refs/heads/main": commit_chain(path, 3, label=b"spoilt")[-1]})
    for file in (path / "objects").glob("[0-9a-f][0-9a-f]/*"):
        file.chmod(0o600)
        file.write_bytes(b"")
    for file in (path / "objects" / "pack").glob("*.pack"):
        file.chmod(0o600)
        file.write_bytes(b"")


def night(
    source: Path,
    monitor: Monitor,
    *words: str,
    check: int = 0,
    env: Mapping[str, str] | None = None,
) -> Completed:
    vault = source.parent / "vault"
    env = monitor.env | dict(env or {})
    return repo_backup("run", "--from", source, "--to", vault, *words, env=env, check=check)


def test_a_success_is_a_beat_and_no_message(monitor: Monitor, source: Path) -> None:
    done = night(source, monitor)
    assert monitor.beats == ["/start", ""]
    assert monitor.texts[1].startswith("Backup of acme: success\n\nSnapshot ")
    assert monitor.messages == []
    assert KEY not in done.stdout + done.stderr


@pytest.mark.parametrize("status", [200, 404])
def test_a_monitor_that_says_something_without_an_end_is_heard_to_a_limit(
    status: int, source: Path, tmp_path: Path, tls: Certificates
) -> None:
    sent = 0

    def without_end() -> Iterator[bytes]:
        nonlocal sent
        while sent < 1 << 30:
            yield b" " * 65536
            sent += 65536

    with GitHttpServer(
        tmp_path / "none",
        tls=tls.server_context(),
        answer=lambda _: Answer(status, {}, without_end()),
    ) as server:
        monitor = Monitor(server.url, tls.ca_file)
        done = night(source, monitor, env={"REPO_BACKUP_SNS_TOPIC_ARN": ""})
        assert len(server.requests) >= 2
    assert ("was not heard" in done.stderr) == (status == 404)
    # Of each of eight refusals at the most the limit, and what the network holds.
    assert sent < (16 << 20 if status == 200 else 8 * (48 << 20))


def test_a_partial_night_is_a_failure_for_both_and_says_what_to_do(
    monitor: Monitor, source: Path
) -> None:
    spoil(source / "one.git")
    night(source, monitor, check=3)
    assert monitor.beats == ["/start", "/fail"]
    (message,) = monitor.messages
    assert (message["TopicArn"], message["Subject"]) == (TOPIC, "Backup of acme: partial")
    assert "1 repositories failed:\n- acme/one: " in message["Message"]
    assert "The next run tries the rest again." in message["Message"]
    assert message["Message"] == monitor.texts[1]


def test_what_comes_to_nothing_is_told_with_its_hint(monitor: Monitor, source: Path) -> None:
    night(source, monitor)
    shutil.rmtree(source)
    source.mkdir()
    night(source, monitor, check=1)
    assert monitor.beats[2:] == ["/start", "/fail"]
    assert monitor.messages[0]["Subject"] == "Backup of nothing: failed"
    assert "0 repositories are listed, 2 were before" in monitor.messages[0]["Message"]
    for manifest in (source.parent / "vault").rglob("snapshots/*"):
        manifest.write_bytes(b"garbage")
    night(source, monitor, check=4)
    assert monitor.beats[4:] == ["/start", "/fail"]
    assert monitor.messages[1]["Subject"] == "Backup: failed"
    assert "is damaged" in monitor.messages[1]["Message"]
    assert "What to do: no snapshot before it can be read" in monitor.messages[1]["Message"]


def test_a_dry_run_and_a_wrong_word_tell_nobody(monitor: Monitor, source: Path) -> None:
    night(source, monitor, "--dry-run")
    night(source, monitor, "--concurrency", "no", check=2)
    assert (monitor.beats, monitor.messages) == ([], [])


def test_a_monitor_in_trouble_is_asked_again_and_changes_nothing(
    monitor: Monitor, source: Path
) -> None:
    monitor.refuses = [200, 503, 200]
    night(source, monitor)
    assert monitor.beats == ["/start", "", ""]
    monitor.refuses = [404, 200]
    done = night(source, monitor)
    assert monitor.beats[3:] == ["/start", ""]
    assert "note: the heartbeat/start was not heard: it answers 404" in done.stderr
    dead = {"REPO_BACKUP_HEARTBEAT_URL": f"https://127.0.0.1:9/ping/{KEY}"}
    done = night(source, monitor, env=dead)
    assert "note: the heartbeat was not heard: ConnectionError" in done.stderr
    assert KEY not in done.stdout + done.stderr


def test_a_topic_that_refuses_is_noted(monitor: Monitor, source: Path) -> None:
    monitor.topic_refuses = True
    spoil(source / "one.git")
    done = night(source, monitor, check=3)
    assert "note: publishing to the topic failed" in done.stderr
    assert "the role needs sns:Publish" in done.stderr


def test_the_address_is_no_word_of_a_command(monitor: Monitor, source: Path) -> None:
    done = night(source, monitor, "--heartbeat-url", f"{monitor.url}/ping/{KEY}", check=2)
    assert "what is typed here can be read by others" in done.stderr
    assert KEY not in done.stderr
    assert monitor.beats == []


def test_verify_prune_and_status_tell_too(monitor: Monitor, source: Path) -> None:
    night(source, monitor)
    vault = source.parent / "vault"
    repo_backup("verify", "--from", vault, env=monitor.env)
    repo_backup("prune", "--from", vault, "--keep-daily", "1", env=monitor.env)
    env = {name: value for name, value in monitor.env.items() if "HEARTBEAT" not in name}
    repo_backup("status", "--from", vault, env=env)
    assert monitor.beats == ["/start", ""] * 3
    assert monitor.texts[3::2] == ["2 repositories verified (objects)", "0 snapshots pruned"]
    assert monitor.messages == []
    next(vault.rglob("*.bundle")).unlink()
    repo_backup("verify", "--from", vault, env=monitor.env, check=4)
    spoil(source / "one.git")
    repo_backup("run", "--from", source, "--to", vault, check=3)
    repo_backup("prune", "--from", vault, "--keep-daily", "1", env=monitor.env, check=1)
    repo_backup("status", "--from", vault, env=env, check=3)
    assert monitor.beats[6:] == ["/start", "/fail"] * 2
    assert [one["Subject"] for one in monitor.messages] == [
        "Backup verification: stored data is damaged",
        "Prune refused",
        "Backup not fresh, or not whole",
    ]
    assert "snapshots depend on it" in monitor.messages[0]["Message"]
    assert "the newest run" in monitor.messages[1]["Message"]


def test_the_action_says_where_the_log_is_and_hides_the_address(
    monitor: Monitor, source: Path, tmp_path: Path
) -> None:
    night(source, monitor)
    next((tmp_path / "vault").rglob("*.bundle")).unlink()
    env = monitor.env
    more = {name: value for name, value in env.items() if not name.startswith("REPO_BACKUP")} | {
        "GITHUB_REPOSITORY": "acme/backups",
        "GITHUB_RUN_ID": "4711",
    }
    runner = Runner(tmp_path / "runner", "https://github.example.com", more=more)
    inputs = {"command": "verify", "token": "", "destination": str(tmp_path / "vault")}
    alerts = {"heartbeat-url": env["REPO_BACKUP_HEARTBEAT_URL"], "sns-topic-arn": TOPIC}
    step = runner.step(**inputs, **alerts)
    assert step.code == 4
    assert monitor.beats[2:] == ["/start", "/fail"]
    page = "https://github.example.com/acme/backups/actions/runs/4711"
    assert monitor.messages[0]["Message"].endswith(f"\n\nLog: {page}")
    assert KEY not in step.shown
