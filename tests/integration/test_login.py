"""The OAuth consumer of a person at a terminal: asked for, tried, kept, and used by runs."""

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from backup.doors import consumer
from backup.errors import ConfigError
from backup.secret import Secret
from tests.support.bitbucket import Bitbucket
from tests.support.git import commit_chain, init_bare, set_head, update_refs
from tests.support.program import repo_backup
from tests.support.terminal import at_terminal

KEY, SECRET = "consumer-key-ABC", "consumer-secret-0123456789"
MADE = Secret(SECRET)
PROMPTS = ("Key of the OAuth consumer", "Secret of the OAuth consumer")


@pytest.fixture
def forge(tmp_path: Path) -> Iterator[Bitbucket]:
    with Bitbucket(tmp_path / "git") as forge:
        forge.consumers = {KEY: SECRET}
        forge.workspace("acme")
        folder = init_bare(forge.folder(forge.repository("acme", "one")))
        update_refs(folder, {b"refs/heads/main": commit_chain(folder, 1)[-1]})
        set_head(folder, b"refs/heads/main")
        yield forge


@pytest.fixture
def env(forge: Bitbucket, tmp_path: Path) -> dict[str, str]:
    return {"REPO_BACKUP_SERVER_URL": forge.url, "XDG_CONFIG_HOME": str(tmp_path / "config")}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "config" / "repo-backup" / "credentials.json"


def run_words(tmp_path: Path, forge: Bitbucket) -> list[str]:
    where = ("--to", str(tmp_path / "vault"), "--api-url", forge.api_url)
    return ["run", "--from", "bitbucket:acme", *where]


def test_a_consumer_is_asked_for_tried_and_kept_and_a_run_takes_it(
    forge: Bitbucket, tmp_path: Path, env: dict[str, str], file: Path
) -> None:
    typed = tuple(zip(PROMPTS, (KEY, SECRET), strict=True))
    done = at_terminal("login", "bitbucket", answers=typed, env=env)
    assert done.code == 0, done.screen
    assert f"It is kept in {file}" in done.screen
    # Neither is echoed.
    assert SECRET not in done.screen
    assert KEY not in done.screen
    assert len(forge.issued) == 1
    assert (file.stat().st_mode & 0o777, file.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    kept = json.loads(file.read_text())
    assert kept == {forge.url: {"oauth-key": KEY, "oauth-secret": SECRET}}

    done_ = repo_backup(*run_words(tmp_path, forge), "--json", env=env)
    assert done_.json["totals"]["captured"] == 1
    assert SECRET not in done_.stdout + done_.stderr
    # What is kept for one server goes to no other.
    other = env | {"REPO_BACKUP_SERVER_URL": "http://127.0.0.1:9"}
    refused = repo_backup(*run_words(tmp_path, forge), env=other, check=2)
    assert "there are no credentials for http://127.0.0.1:9" in refused.stderr


def test_what_bitbucket_does_not_take_is_not_kept(
    forge: Bitbucket, env: dict[str, str], file: Path
) -> None:
    typed = tuple(zip(PROMPTS, (KEY, "wrong"), strict=True))
    done = at_terminal("login", "bitbucket", answers=typed, env=env)
    assert done.code == 1
    assert "does not accept the OAuth consumer" in done.screen
    assert not file.exists()
    assert forge.issued == []


def test_a_consumer_that_cannot_read_is_refused_and_one_that_can_write_is_said(
    forge: Bitbucket, env: dict[str, str], file: Path
) -> None:
    env = env | {"REPO_BACKUP_OAUTH_KEY": KEY, "REPO_BACKUP_OAUTH_SECRET": SECRET}
    forge.scopes = "account email"
    refused = repo_backup("login", "bitbucket", env=env, check=1)
    assert "may not read repositories: its permissions are account, email" in refused.stderr
    assert not file.exists()
    forge.scopes = "repository:write wiki"
    done = repo_backup("login", "bitbucket", env=env)
    assert "it may do more than a backup needs: repository:write" in done.stderr
    assert file.exists()


def test_a_run_asks_on_a_terminal_and_keeps_nothing(
    forge: Bitbucket, tmp_path: Path, env: dict[str, str], file: Path
) -> None:
    typed = tuple(zip(PROMPTS, (KEY, SECRET), strict=True))
    done = at_terminal(*run_words(tmp_path, forge), answers=typed, env=env)
    assert done.code == 0, done.screen
    assert SECRET not in done.screen
    assert not file.exists()
    assert len([*tmp_path.glob("vault/*/acme/snapshots/*")]) == 1


def test_without_a_terminal_the_variables_are_named(
    forge: Bitbucket, tmp_path: Path, env: dict[str, str]
) -> None:
    done = repo_backup(*run_words(tmp_path, forge), env=env, check=2)
    for name in ("REPO_BACKUP_OAUTH_KEY", "REPO_BACKUP_OAUTH_SECRET", "REPO_BACKUP_TOKEN"):
        assert name in done.stderr
    assert "repo-backup login bitbucket" in done.stderr
    assert "no terminal" in repo_backup("login", "bitbucket", env=env, check=2).stderr
    assert forge.server.requests == []
    assert not (tmp_path / "vault").exists()


def test_nothing_typed_is_refused(env: dict[str, str], file: Path) -> None:
    done = at_terminal("login", "bitbucket", answers=[(one, "") for one in PROMPTS], env=env)
    assert done.code == 2
    assert "both needed" in done.screen
    assert not file.exists()


def test_a_file_that_others_can_read_or_that_is_something_else_is_refused(
    forge: Bitbucket, tmp_path: Path, env: dict[str, str], file: Path
) -> None:
    given = env | {"REPO_BACKUP_OAUTH_KEY": KEY, "REPO_BACKUP_OAUTH_SECRET": SECRET}
    repo_backup("login", "bitbucket", env=given)
    file.chmod(0o640)
    for words, more in ((run_words(tmp_path, forge), env), (["login", "bitbucket"], given)):
        done = repo_backup(*words, env=more, check=2)
        assert "can be read by others" in done.stderr
        assert "chmod 600" in done.stderr
    for text in ("[1", "[]", "null", "[" * 100_000, ""):
        file.write_text(text)
        file.chmod(0o600)
        done = repo_backup(*run_words(tmp_path, forge), env=env, check=2)
        assert "is not what login wrote" in done.stderr
        assert "log in again" in done.stderr


@pytest.mark.parametrize("kept", ["{}", '{"oauth-key": 7, "oauth-secret": ["x"]}', "7"])
def test_what_is_no_consumer_is_as_if_nothing_were_kept(
    kept: str, forge: Bitbucket, tmp_path: Path, env: dict[str, str], file: Path
) -> None:
    file.parent.mkdir(parents=True)
    file.write_text(f'{{"{forge.url}": {kept}}}')
    file.chmod(0o600)
    done = repo_backup(*run_words(tmp_path, forge), env=env, check=2)
    assert "there are no credentials for" in done.stderr


@pytest.mark.parametrize("text", ["\\ud800abcdefgh", "two\\nlines-of-it", "caf\\u00e9-of-this"])
def test_what_no_header_can_carry_is_refused_before_it_is_sent(
    text: str, forge: Bitbucket, tmp_path: Path, env: dict[str, str], file: Path
) -> None:
    file.parent.mkdir(parents=True)
    for name in ("oauth-key", "oauth-secret"):
        both = {"oauth-key": "the-key", "oauth-secret": "the-secret"} | {name: "X"}
        file.write_text(json.dumps({forge.url: both}).replace('"X"', f'"{text}"'))
        file.chmod(0o600)
        done = repo_backup(*run_words(tmp_path, forge), env=env, check=2)
        assert f"the consumer's {name} is no token" in done.stderr
        assert "log in again" in done.stderr
    assert forge.server.requests == []


@pytest.mark.parametrize("what", ["a link", "a pipe", "a folder", "a socket", "a link to nothing"])
def test_what_is_no_regular_file_is_refused_and_not_waited_for(
    what: str, forge: Bitbucket, tmp_path: Path, env: dict[str, str], file: Path
) -> None:
    given = env | {"REPO_BACKUP_OAUTH_KEY": KEY, "REPO_BACKUP_OAUTH_SECRET": SECRET}
    repo_backup("login", "bitbucket", env=given)
    elsewhere = file.rename(tmp_path / "elsewhere.json")
    match what:
        case "a link":
            file.symlink_to(elsewhere)
        case "a link to nothing":
            file.symlink_to(tmp_path / "nothing")
        case "a pipe":
            os.mkfifo(file, 0o600)
        case "a folder":
            file.mkdir(0o700)
        case _:
            os.mknod(file, 0o600 | stat.S_IFSOCK)
    before = elsewhere.read_text()
    for words, more in ((run_words(tmp_path, forge), env), (["login", "bitbucket"], given)):
        done = repo_backup(*words, env=more, check=2, timeout_seconds=60)
        assert str(file) in done.stderr
        assert "remove it, and log in again" in done.stderr
        assert SECRET not in done.stdout + done.stderr
    assert elsewhere.read_text() == before


def test_a_file_of_another_user_is_refused(
    forge: Bitbucket, env: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    given = env | {"REPO_BACKUP_OAUTH_KEY": KEY, "REPO_BACKUP_OAUTH_SECRET": SECRET}
    repo_backup("login", "bitbucket", env=given)
    monkeypatch.setenv("XDG_CONFIG_HOME", env["XDG_CONFIG_HOME"])
    assert consumer.kept(forge.url) is not None
    other = os.geteuid() + 1
    monkeypatch.setattr(os, "geteuid", lambda: other)
    for use in (lambda: consumer.kept(forge.url), lambda: consumer.keep("https://x", KEY, MADE)):
        with pytest.raises(ConfigError, match="belongs to another user"):
            use()


def test_several_servers_are_kept_beside_each_other(
    forge: Bitbucket, env: dict[str, str], file: Path, tmp_path: Path
) -> None:
    given = env | {"REPO_BACKUP_OAUTH_KEY": KEY, "REPO_BACKUP_OAUTH_SECRET": SECRET}
    repo_backup("login", "bitbucket", env=given)
    with Bitbucket(tmp_path / "other") as other:
        other.consumers = {KEY: SECRET}
        repo_backup("login", "bitbucket", env=given | {"REPO_BACKUP_SERVER_URL": other.url})
        assert set(json.loads(file.read_text())) == {forge.url, other.url}


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        ((), "FORGE is missing"),
        (("github",), "'github' is not accepted: give bitbucket"),
        (("bitbucket", "acme"), "'bitbucket acme' is not accepted"),
        (("bitbucket", "--server-url", "http://git.example.com"), "in the clear"),
    ],
)
def test_words_that_mean_nothing_are_refused(words: tuple[str, ...], problem: str) -> None:
    given = {"REPO_BACKUP_OAUTH_KEY": KEY, "REPO_BACKUP_OAUTH_SECRET": SECRET}
    assert problem in repo_backup("login", *words, env=given, check=2).stderr
