"""A signal and the deadline end the wait for a forge, however little it sends and for how long.

GitHub, GitLab and Bitbucket alike; where tokens are given out, and where AWS gives credentials.
"""

import signal
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from backup.commands.run import RunOptions, run
from backup.destinations.memory import MemoryDestination
from backup.errors import BackupError, DeadlineReached, ExitCode, Interrupted
from backup.model import RunReport
from backup.secret import Secret
from backup.sources.bitbucket import Consumer
from backup.sources.github import App, api_of
from backup.sources.plain import FolderSource
from backup.stopping import Stop
from tests.integration.test_github_app import APP_ID, key
from tests.integration.test_odd_answers import (
    FORGES,
    JSON,
    TOKEN,
    Forge,
    make_repository,
    opened,
)
from tests.support.github import GitHub
from tests.support.gitserver import Answer, Request
from tests.support.program import start_repo_backup
from tests.support.vaults import Silence

# What must end at all, and without the change would take hours.
PATIENCE_SECONDS = 60


class Clock:
    """A clock that moves when it is told to."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds

    def jump(self) -> None:
        self.seconds += 1_000_000


@pytest.fixture(params=FORGES)
def forge(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Forge]:
    with opened(request.param, tmp_path / "git") as made:
        yield made


class Trickle:
    """A server that says one letter now and then, for hours: in its head, or in its body.

    Attributes:
        url: where it listens.
        asked: set when it was asked anything.
        ended: set when a client has gone.
    """

    def __init__(self, where: str) -> None:
        self._begin = b"HTTP/1.1 200 OK\r\nX-Long: "
        if where == "body":
            fields = b"Content-Type: application/json\r\nContent-Length: 99999"
            self._begin = b"HTTP/1.1 200 OK\r\n%b\r\n\r\n" % fields
        self.asked, self.ended, self._over = threading.Event(), threading.Event(), threading.Event()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self._thread = threading.Thread(target=self._accept, daemon=True)
        self._thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listening.accept()
                threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.recv(65536)
            connection.sendall(self._begin)
            self.asked.set()
            while not self._over.wait(0.05):
                connection.sendall(b" ")
        self.ended.set()

    def close(self) -> None:
        self._over.set()
        self._listening.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._listening.close()


@contextmanager
def trickling(where: str) -> Iterator[Trickle]:
    server = Trickle(where)
    try:
        yield server
    finally:
        server.close()


def words(kind: str, url: str, tmp_path: Path) -> list[str | Path]:
    where = ["--api-url", f"{url}/api"] if kind == "bitbucket" else []
    source = ["--from", f"{kind}:acme", "--server-url", url, *where]
    return ["run", *source, "--to", tmp_path / "vault"]


def ended_by_a_signal(
    process: "subprocess.Popen[str]", when: threading.Event
) -> "subprocess.Popen[str]":
    """Send SIGTERM when the event has come, and wait for the end."""
    try:
        assert when.wait(PATIENCE_SECONDS)
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=PATIENCE_SECONDS)
    finally:
        process.kill()
        process.communicate()
    return process


# --- Signals -------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["head", "body"])
@pytest.mark.parametrize("kind", FORGES)
@pytest.mark.parametrize("command", ["run", "doctor"])
def test_a_signal_ends_the_wait_for_an_answer_that_trickles(
    command: str, kind: str, where: str, tmp_path: Path
) -> None:
    with trickling(where) as server:
        asked = [command, *words(kind, server.url, tmp_path)[1:]]
        process = start_repo_backup(*asked, env={"REPO_BACKUP_TOKEN": TOKEN})
        assert ended_by_a_signal(process, server.asked).returncode == ExitCode.INTERRUPTED


def test_a_signal_ends_a_listing_between_two_pages(forge: Forge, tmp_path: Path) -> None:
    some, pages = threading.Event(), 0

    def answer(request: Request) -> Answer | None:
        nonlocal pages
        if not forge.is_listing(request):
            return None
        pages += 1
        if pages == 5:
            some.set()
        fields = {
            "Link": f'<{forge.fake.url}{request.target}&more={pages}>; rel="next"',
            "X-Next-Page": str(pages + 1),
        }
        return Answer(200, JSON | fields, forge.page(following=str(pages)))

    forge.fake.answer = answer
    process = start_repo_backup(
        *words(forge.kind, forge.fake.url, tmp_path), env={"REPO_BACKUP_TOKEN": TOKEN}
    )
    # 50,000 pages are taken, and then the listing fails with another code.
    assert ended_by_a_signal(process, some).returncode == ExitCode.INTERRUPTED


def test_a_signal_ends_the_wait_for_the_credentials_of_the_machine(tmp_path: Path) -> None:
    make_repository(tmp_path / "src" / "one.git")
    with trickling("head") as server:
        env = {
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": server.url,
            "AWS_EC2_METADATA_SERVICE_TIMEOUT": "3600",
        }
        process = start_repo_backup(
            *("run", "--from", tmp_path / "src", "--to", "s3://vault-of-nobody/git"),
            *("--region", "eu-central-1", "--endpoint-url", server.url),
            env=env,
        )
        assert ended_by_a_signal(process, server.asked).returncode == ExitCode.INTERRUPTED


# --- The deadline --------------------------------------------------------------------------------


def run_until(stop: Stop, forge: Forge, tmp_path: Path) -> RunReport:
    """Back up the forge's owner, and before it another one."""
    other = tmp_path / "other" / "two.git"
    if not other.exists():
        make_repository(other)
    options = RunOptions(snapshot_id=SNAPSHOT)
    sources = [FolderSource(other.parent, owner="other"), forge.source(stop)]
    return run(sources, MemoryDestination(), options, events=Silence(), stop=stop)


# With two owners the first of the list is the first of this snapshot's night.
SNAPSHOT = "20260801T000000Z-00000008"


def test_a_deadline_ends_a_listing_and_says_so(forge: Forge, tmp_path: Path) -> None:
    clock, pages = Clock(), 0

    def answer(request: Request) -> Answer | None:
        nonlocal pages
        if not forge.is_listing(request):
            return None
        pages += 1
        if pages == 3:
            clock.jump()
        fields = {
            "Link": f'<{forge.fake.url}{request.target}&more={pages}>; rel="next"',
            "X-Next-Page": str(pages + 1),
        }
        return Answer(200, JSON | fields, forge.page(following=str(pages)))

    forge.fake.answer = answer
    stop = Stop(deadline_seconds=1000, monotonic=clock)
    report = run_until(stop, forge, tmp_path)
    assert pages == 3
    assert {one.path: one.status for one in report.outcomes} == {"two": "captured"}
    # Of this owner nothing is stored, whatever became of the other.
    assert (report.result, report.exit_code) == ("failed", ExitCode.FAILED)
    (problem,) = report.problems
    assert problem.startswith("acme: the time given to this run was used up before 127.0.0.1")


def test_a_deadline_before_the_only_owner_is_listed_is_a_failure(forge: Forge) -> None:
    clock = Clock()
    stop = Stop(deadline_seconds=1000, monotonic=clock)
    forge.reply(pieces(clock))
    with pytest.raises(BackupError, match="nothing was published") as caught:
        run([forge.source(stop)], MemoryDestination(), RunOptions(), events=Silence(), stop=stop)
    assert caught.value.exit_code == ExitCode.FAILED


def pieces(clock: Clock) -> Iterator[bytes]:
    """Let the time pass in the middle of a body that comes to no end."""
    over = threading.Event()
    yield b"["
    clock.jump()
    while not over.wait(0.05):
        yield b" "


def test_what_there_was_no_time_to_ask_for_is_neither_gone_nor_done(tmp_path: Path) -> None:
    """Two of five are not listed any more, and the time is up while the first is asked for."""
    names = ("one", "two", "three", "four", "five")
    for name in names:
        make_repository(tmp_path / "git" / "acme" / f"{name}.git")
    with opened("github", tmp_path / "git") as forge:
        forge.add(*names[1:])
        destination, clock = MemoryDestination(), Clock()
        run([forge.source()], destination, RunOptions(), events=Silence(), stop=Stop())
        asked = []

        def answer(request: Request) -> Answer | None:
            if "/repositories/" in request.target:
                asked.append(request.target)
                clock.jump()
            return None

        forge.fake.answer = answer
        assert isinstance(forge.fake, GitHub)
        del forge.fake.repositories[-2:]
        stop = Stop(deadline_seconds=1000, monotonic=clock)
        options = RunOptions(max_drop_percent=50)
        report = run([forge.source(stop)], destination, options, events=Silence(), stop=stop)
    assert len(asked) == 1
    # What was answered counts; of the other one nobody knows.
    statuses = sorted(one.status for one in report.outcomes)
    assert statuses == ["gone", "not-reached", "not-reached", "not-reached", "not-reached"]
    assert (report.result, report.exit_code) == ("partial", ExitCode.PARTIAL)


@pytest.mark.parametrize("ends", [Stop.interrupt, Stop.check])
@pytest.mark.parametrize("kind", ["app", "consumer"])
def test_who_waits_for_a_token_is_let_go(kind: str, ends: Callable[[Stop], None]) -> None:
    clock = Clock()
    stop = Stop(deadline_seconds=1000, monotonic=clock)

    def end() -> None:
        server.asked.wait(PATIENCE_SECONDS)
        if ends is Stop.interrupt:
            stop.interrupt()
        else:
            clock.jump()

    with trickling("head") as server:
        threading.Thread(target=end, daemon=True).start()
        url, secret = server.url, Secret(key()[0])
        ask = (
            App(APP_ID, secret, owner="acme", api_url=api_of(url), stop=stop).token
            if kind == "app"
            else Consumer("key", Secret("of-it"), server_url=url, stop=stop).for_api
        )
        with pytest.raises((Interrupted, DeadlineReached)):
            ask()
        # And no thread goes on with it.
        assert server.ended.wait(PATIENCE_SECONDS)
