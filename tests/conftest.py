"""What holds for every test: nothing of the user, fixed examples, no silent skips in CI.

And the stores of a session, one of each kind, for tests that make a bucket of their own there.
"""

import os
import subprocess
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support import git, shapes
from tests.support.hanging import Pulse
from tests.support.s3server import S3Server, moto_server, rclone_server
from tests.support.tls import Certificates, certificates

REAL_HOME = Path.home()
PULSE = Pulse()
STOOD_STILL, WAITED = "stood still", "waited"

USERS = ("AWS_", "BACKUP_", "GIT_", "GITHUB_", "GITLAB_", "INPUT_", "REPO_BACKUP_", "XDG_")
"""Beginnings of the environment variables that would let a test act for whoever runs it."""

SHUT_OFF = {
    "HOME": str(git.empty_home()),
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_CONFIG_GLOBAL": os.devnull,
    "GIT_ATTR_NOSYSTEM": "1",
    "GIT_TERMINAL_PROMPT": "0",
}

settings.register_profile(
    "default",
    max_examples=25,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.register_profile(
    "deep",
    max_examples=500,
    deadline=None,
    print_blob=True,
    suppress_health_check=[HealthCheck.too_slow],
)


def pytest_configure() -> None:
    for name in [name for name in os.environ if name.startswith(USERS)]:
        del os.environ[name]
    os.environ.update(SHUT_OFF)
    settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "default"))


def pytest_runtest_setup() -> None:
    PULSE.begin()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    _refuse_skips(report)
    if gaps := PULSE.gaps():
        report.user_properties.append((STOOD_STILL, gaps))
    if report.failed and PULSE.seen:
        report.sections.append(("what was waited for", PULSE.seen))
        report.user_properties.append((WAITED, PULSE.seen_shortly))
    return report


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Tell of each time that the machine stood still, and what a failed test has waited for."""
    reports = [
        report
        for reports in terminalreporter.stats.values()
        for report in reports
        if isinstance(report, pytest.TestReport)
    ]
    for report in reports:
        for name, words in report.user_properties:
            if name in {STOOD_STILL, WAITED}:
                terminalreporter.write(f"in {report.nodeid} it {name}: {words}")


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    report = yield
    _refuse_skips(report)
    return report


def _refuse_skips(report: pytest.TestReport | pytest.CollectReport) -> None:
    """Turn a skip into a failure in CI, where nobody would see that something did not run."""
    expected_to_fail = hasattr(report, "wasxfail")
    if os.environ.get("CI") == "true" and report.skipped and not expected_to_fail:
        reason = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome = "failed"
        report.longrepr = f"In CI nothing may be skipped: {reason}"


@pytest.fixture(scope="session", autouse=True)
def _nothing_of_the_user_is_in_reach() -> Iterator[None]:
    """Fail the session if HOME is a real one, or if anything was left in the one that we made."""
    _insist_on_the_empty_home()
    yield
    _insist_on_the_empty_home()
    left = sorted(str(path) for path in git.empty_home().rglob("*"))
    assert not left, f"something wrote into HOME and should have had one of its own: {left}"


def _insist_on_the_empty_home() -> None:
    assert Path.home() == git.empty_home() != REAL_HOME
    assert {name: os.environ.get(name) for name in SHUT_OFF} == SHUT_OFF
    seen = subprocess.run(
        ["git", "config", "--list", "--show-scope"],
        cwd=git.empty_home(),
        capture_output=True,
        check=True,
    )
    assert seen.stdout == b"", f"git reads a configuration that is not ours: {seen.stdout!r}"


@pytest.fixture
def git_identity(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let code that runs git in this process's own environment commit, always at the same time."""
    for name, value in git.environment().items():
        if name.startswith(("GIT_AUTHOR_", "GIT_COMMITTER_")):
            monkeypatch.setenv(name, value)


@pytest.fixture(scope="session")
def shaped(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Give the repository of a named shape, made once a session: to read, never to change."""
    made: dict[str, Path] = {}

    def give(name: str) -> Path:
        if name not in made:
            made[name] = shapes.make(name, tmp_path_factory.mktemp("shape") / f"{name}.git")
        return made[name]

    return give


@pytest.fixture(scope="session")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return certificates(tmp_path_factory.mktemp("tls"))


@pytest.fixture(scope="session")
def moto_http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with moto_server(_folder(tmp_path_factory)) as server:
        yield server


@pytest.fixture(scope="session")
def moto_https(tmp_path_factory: pytest.TempPathFactory, tls: Certificates) -> Iterator[S3Server]:
    with moto_server(_folder(tmp_path_factory), tls) as server:
        yield server


@pytest.fixture(scope="session")
def rclone_http(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    with rclone_server(_folder(tmp_path_factory)) as server:
        yield server


@pytest.fixture(scope="session")
def rclone_https(tmp_path_factory: pytest.TempPathFactory, tls: Certificates) -> Iterator[S3Server]:
    with rclone_server(_folder(tmp_path_factory), tls) as server:
        yield server


def _folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store") / "objects"
