"""A GitHub App in place of a token: its installations, and tokens that end after an hour."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from backup.commands.run import RunOptions
from backup.destinations.memory import MemoryDestination
from backup.errors import AuthenticationError, ConfigError, ExitCode
from backup.model import Selection
from backup.secret import Secret
from backup.sources.github import GitHubSource
from backup.sources.github.api import api_of
from backup.sources.github.credentials import LEAST_LIFE_SECONDS, App
from tests.support.git import commit_chain, init_bare, set_head, update_refs
from tests.support.github import App as FakeApp
from tests.support.github import GitHub, Owner
from tests.support.gitserver import Answer, GitHttpServer, Request
from tests.support.lfsserver import LfsStore, commit, pointer
from tests.support.mirrors import assert_same_mirror
from tests.support.program import repo_backup
from tests.support.vaults import run_at, to_be_kept

APP_ID = "314159"


@cache
def key(number: int = 0) -> tuple[str, str]:
    """Make a private key and the public one to it; the same for each number."""
    made = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    private = made.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    public = made.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return private.decode(), public.decode()


class Forge(GitHub):
    """A GitHub with one App, and repositories of two owners, most of them private."""

    app: FakeApp

    def fill(self, number: int) -> None:
        self.app = FakeApp(APP_ID, key()[1], {"Acme": None, "jane": frozenset({"notes"})})
        self.apps.append(self.app)
        acme, jane = self.owner("Acme"), self.owner("jane", kind="User")
        for index in range(number):
            self.real(acme, f"r{index}", private=index > 0)
        self.real(jane, "notes", private=True)
        self.real(jane, "secret", private=True)

    def real(self, owner: Owner, name: str, *, private: bool) -> None:
        path = init_bare(self.root / owner.login / f"{name}.git")
        update_refs(path, {b"refs/heads/main": commit_chain(path, 2, label=name.encode())[-1]})
        set_head(path, b"refs/heads/main")
        self.repository(owner, name, private=private)

    def push_to_all(self, label: str) -> None:
        for path in self.root.glob("Acme/*.git"):
            update_refs(path, {b"refs/heads/main": commit_chain(path, 1, label=label.encode())[-1]})

    def environment(self, private_key: str | None = None) -> dict[str, str]:
        return {
            "REPO_BACKUP_SERVER_URL": self.url,
            "REPO_BACKUP_APP_ID": APP_ID,
            "REPO_BACKUP_APP_PRIVATE_KEY": private_key or key()[0],
        }


@pytest.fixture
def forge(tmp_path: Path) -> Iterator[Forge]:
    with Forge(tmp_path / "git") as forge:
        forge.fill(3)
        yield forge


def app(forge: Forge, owner: str = "acme", *, private_key: str | None = None) -> App:
    return App(APP_ID, Secret(private_key or key()[0]), owner=owner, api_url=api_of(forge.url))


# --- Installations --------------------------------------------------------------------------------


def test_every_owner_has_the_installation_of_its_own(forge: Forge, tmp_path: Path) -> None:
    words = ("run", "--from", "github:acme", "--from", "github:jane", "--to", tmp_path / "v")
    done = repo_backup(*words, "--json", env=forge.environment()).json
    assert done["result"] == "success"
    paths = {(one["owner"], one["path"]) for one in done["repositories"]}
    assert paths == {("Acme", "r0"), ("Acme", "r1"), ("Acme", "r2"), ("jane", "notes")}
    # One token each, for a night that takes no hour.
    assert sorted(login for login, _ in forge.app.made.values()) == ["Acme", "jane"]
    for owner, name in paths:
        back = tmp_path / "back" / owner / name
        repo_backup("restore", f"{owner}/{name}", back, "--from", tmp_path / "v")
        assert_same_mirror(back, to_be_kept(forge.root / owner / f"{name}.git"))
    made = [one for one in forge.requests if one.method == "POST"]
    assert {one.form for one in made} == {
        b'{"permissions": {"contents": "read", "metadata": "read"}}'
    }


def test_an_app_is_known_by_its_client_id_too(forge: Forge) -> None:
    forge.app.app_id = "Iv23liABCDEFGHIJ"
    made = App(forge.app.app_id, Secret(key()[0]), owner="acme", api_url=api_of(forge.url))
    assert made.token().reveal() in forge.app.made


def test_an_owner_without_it_is_told_what_to_do(forge: Forge, tmp_path: Path) -> None:
    forge.owner("other")
    words = ("run", "--from", "github:other", "--to", tmp_path / "v")
    done = repo_backup(*words, env=forge.environment(), check=1)
    assert "the GitHub App 314159 is not installed at 'other'" in done.stderr
    assert "hint: install it there" in done.stderr


# --- Refusals -------------------------------------------------------------------------------------


def test_another_key_is_refused(forge: Forge, tmp_path: Path) -> None:
    words = ("run", "--from", "github:acme", "--to", tmp_path / "v")
    done = repo_backup(*words, env=forge.environment(key(1)[0]), check=1)
    assert "GitHub does not accept the App 314159 by this key (401)" in done.stderr
    assert "and the clock right" in done.stderr


def test_what_is_no_key_is_refused_before_anything_is_asked(forge: Forge, tmp_path: Path) -> None:
    lines = key()[0].splitlines()
    broken = "\n".join([lines[0], "MIIE" + "A" * 60, lines[-1]])
    words = ("run", "--from", "github:acme", "--to", tmp_path / "v")
    done = repo_backup(*words, env=forge.environment(broken), check=2)
    assert "is no RSA key that can be read" in done.stderr
    assert "AAAA" not in done.stderr
    assert forge.requests == []
    with pytest.raises(ConfigError):
        app(forge, private_key=broken).token()


def test_an_installation_that_is_suspended_is_told(forge: Forge) -> None:
    forge.app.suspended_at = "2026-11-01T00:00:00Z"
    with pytest.raises(AuthenticationError, match="is suspended at 'acme'"):
        app(forge).token()
    # Between the two requests.
    forge.app.suspended_at = None
    forge.app.refuses = 403, "This installation has been suspended"
    with pytest.raises(AuthenticationError, match="This installation has been") as caught:
        app(forge).token()
    assert "must not be suspended" in caught.value.hint


def test_the_installation_is_found_on_any_page(forge: Forge) -> None:
    for number in range(5):
        forge.app.installed[forge.owner(f"other{number}").login] = None
    forge.app.installed["zeta"] = None
    forge.owner("zeta")
    forge.page = 2
    assert app(forge, "ZETA").token().reveal() in forge.app.made


def test_a_permission_that_it_lacks_is_named(forge: Forge, tmp_path: Path) -> None:
    forge.app.permissions = frozenset({"metadata"})
    words = ("run", "--from", "github:acme", "--to", tmp_path / "v")
    done = repo_backup(*words, env=forge.environment(), check=1)
    assert "The permissions requested are not granted" in done.stderr
    assert "Contents: read and Metadata: read" in done.stderr


def test_an_app_opens_github_alone(forge: Forge, tmp_path: Path) -> None:
    words = ("run", "--from", f"git:{forge.url}/Acme/r0.git", "--to", tmp_path / "v")
    done = repo_backup(*words, env=forge.environment(), check=2)
    assert "a GitHub App opens nothing here" in done.stderr
    clear = forge.environment() | {"REPO_BACKUP_SERVER_URL": "http://github.example"}
    words = ("run", "--from", "github:acme", "--to", tmp_path / "v")
    assert "in the clear" in repo_backup(*words, env=clear, check=2).stderr


def test_the_key_and_the_tokens_are_in_nothing_that_is_kept_or_said(
    forge: Forge, tmp_path: Path
) -> None:
    words = ("run", "--from", "github:acme", "--to", tmp_path / "v")
    done = repo_backup(*words, env=forge.environment())
    secrets = [*forge.app.made, key()[0].splitlines()[1]]
    kept = b"".join(path.read_bytes() for path in (tmp_path / "v").rglob("*") if path.is_file())
    for secret in secrets:
        assert secret.encode() not in kept
        assert secret not in done.stdout + done.stderr


# --- Time -----------------------------------------------------------------------------------------


class Clock:
    """Seconds that a test moves, and the same as a time of day at the forge.

    Attributes:
        behind: so much is the machine's own clock off.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds

    def now(self) -> datetime:
        return datetime(2026, 11, 1, 2, 30, tzinfo=UTC) + timedelta(seconds=self.seconds)


def test_a_token_is_used_until_five_minutes_before_its_end_by_github_s_clock(
    forge: Forge,
) -> None:
    clock = Clock()
    # Weeks away from the machine's: only what GitHub says of its own time counts.
    forge.clock = clock.now
    made = App(APP_ID, Secret(key()[0]), owner="acme", api_url=api_of(forge.url), clock=clock)
    first = made.token().reveal()
    clock.seconds = 3600 - LEAST_LIFE_SECONDS - 2
    assert made.token().reveal() == first
    clock.seconds += 4
    assert made.token().reveal() != first
    # Refused all the same: another one, and not one for each thread that was refused.
    second = made.token().reveal()
    assert made.renew()
    third = made.token().reveal()
    assert made.renew()
    assert third == made.token().reveal() != second


def three_hours(forge: Forge, clock: Clock, *, minutes: float) -> GitHubSource:
    """Let so many minutes pass at each git request, between its begin and the forge's look."""
    forge.clock = clock.now

    def takes_long(request: Request) -> Answer | None:
        if ".git/" in request.target:
            clock.seconds += 60 * minutes
        return None

    forge.answer = takes_long
    credentials = App(
        APP_ID, Secret(key()[0]), owner="acme", api_url=api_of(forge.url), clock=clock
    )
    return GitHubSource("acme", credentials=credentials, server_url=forge.url)


def test_a_run_of_three_hours_has_new_tokens_in_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One request at a time: each of several would let time pass while another one waits.
    monkeypatch.setattr("backup.commands.owner.REQUESTS_PER_CAPTURE", 1)
    clock, vault = Clock(), MemoryDestination()
    with Forge(tmp_path / "git") as forge:
        forge.fill(16)
        source = three_hours(forge, clock, minutes=4)
        report = run_at(clock.now(), source, vault, RunOptions(concurrency=1))
        assert report.result == "success", report.problems
        assert clock.seconds > 3 * 3600
        assert report.count("captured") == 16
        # An hour each, and none was used with less than five minutes to live.
        assert 4 <= len(forge.app.made) <= 5
        assert min(forge.lives) >= LEAST_LIFE_SECONDS - 60 * 4


def test_files_of_git_lfs_are_asked_for_with_tokens_that_live(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One repository, whose files take three hours: so no other request is under way meanwhile."""
    monkeypatch.setattr("backup.commands.missing_files.MOST_AT_ONCE", 2)
    clock, vault, lfs = Clock(), MemoryDestination(), LfsStore()
    contents = [b"file %d" % number for number in range(32)]
    lfs.add(*contents)
    with Forge(tmp_path / "git") as forge, GitHttpServer(tmp_path, answer=lfs.serve) as store:
        lfs.store_url = store.url
        forge.fill(1)
        files = {one.decode(): pointer(one) for one in contents}
        commit(forge.root / "Acme" / "r0.git", "media", files)
        source = three_hours(forge, clock, minutes=0)

        def takes_long(request: Request) -> Answer | None:
            if "/info/lfs/" not in request.target:
                return None
            refused = forge.guard_git(request)
            clock.seconds += 12 * 60
            return refused or lfs.answer(request)

        forge.answer = takes_long
        options = RunOptions(concurrency=1, selection=Selection(lfs=True))
        report = run_at(clock.now(), source, vault, options)
        assert report.result == "success", report.problems
        assert clock.seconds > 3 * 3600
        assert sum(one.lfs_stored for one in report.outcomes) == 32
        # An hour each, of which the last five minutes are not begun with.
        assert 4 <= len(forge.app.made) <= 5
        assert min(forge.lives) >= LEAST_LIFE_SECONDS
        assert lfs.wrong == []


def test_a_token_that_is_revoked_in_the_middle_ends_in_a_clear_partial_result(
    tmp_path: Path,
) -> None:
    with Forge(tmp_path / "git") as forge:
        forge.fill(6)
        vault = tmp_path / "v"

        def revoke(_: Request) -> Answer | None:
            if len([*vault.rglob("*.bundle")]) == 2:
                forge.app.installed.clear()
                forge.app.made.clear()
            return None

        forge.answer = revoke
        words = ("run", "--from", "github:acme", "--to", vault, "--concurrency", "1")
        done = repo_backup(*words, "--json", env=forge.environment(), check=None)
        assert done.code == ExitCode.PARTIAL
        assert done.json["result"] == "partial"
        failed = [one for one in done.json["repositories"] if one["status"] == "failed"]
        stored = [one for one in done.json["repositories"] if one["status"] == "captured"]
        assert stored
        assert failed
        assert len(stored) + len(failed) == 6
        for one in failed:
            assert "the GitHub App 314159 is not installed at 'acme' (any more)" in one["reason"]
