"""git over ssh against a real sshd that lets a key read, as forges do."""

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from backup.errors import (
    AuthenticationError,
    BackupError,
    HostUnreachable,
    RepositoryUnavailable,
    SourceError,
)
from backup.git.ssh import is_ssh, open_ssh, ssh_command, ssh_error
from backup.git.upload_pack import Remote
from backup.model import Selection
from backup.stopping import Stop
from tests.support.git import commit_chain, init_bare, set_head, update_refs
from tests.support.mirrors import assert_same_mirror
from tests.support.program import repo_backup, start_repo_backup
from tests.support.sshserver import SshServer, ssh_server
from tests.support.vaults import to_be_kept


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("src")
    for name in ("widgets.git", "it's a !name.git"):
        path = init_bare(root / "acme" / name)
        update_refs(path, {b"refs/heads/main": commit_chain(path, 3)[-1]})
        set_head(path, b"refs/heads/main")
    return root


@pytest.fixture(scope="module")
def server(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SshServer]:
    with ssh_server(root, tmp_path_factory.mktemp("ssh") / "a server") as server:
        yield server


def refs_of(
    server: SshServer, path: str = "/acme/widgets.git", *, key: Path | None = None, **more: Path
) -> list[str]:
    transport = open_ssh(
        f"{server.url}{path}",
        key_file=key or server.key_file,
        known_hosts=more.get("known_hosts", server.known_hosts_file),
        agent="",
        stop=Stop(),
    )
    with Remote(transport, selection=Selection(), count=lambda _: None) as remote:
        refs = remote.list_refs()
        assert b"".join(remote.fetch(refs.wanted(), [])).startswith(b"PACK")
        return [str(name) for name in refs.tips]


def test_refs_and_pack_come_with_a_key_and_known_hosts(server: SshServer) -> None:
    assert refs_of(server) == ["refs/heads/main"]


def env_of(server: SshServer, path: str = "/acme/widgets.git") -> dict[str, str]:
    return {
        "REPO_BACKUP_FROM": f"git:{server.url}{path}",
        "REPO_BACKUP_SSH_KEY_FILE": str(server.key_file),
        "REPO_BACKUP_SSH_KNOWN_HOSTS_FILE": str(server.known_hosts_file),
    }


def test_a_repository_is_backed_up_over_ssh(server: SshServer, root: Path, tmp_path: Path) -> None:
    vault = tmp_path / "vault"
    first = repo_backup("run", "--to", vault, "--json", env=env_of(server)).json
    assert [one["check"] for one in first["repositories"]] == ["connected"]
    second = repo_backup("run", "--to", vault, "--json", env=env_of(server)).json
    assert [one["status"] for one in second["repositories"]] == ["unchanged"]
    repo_backup("restore", "acme/widgets", "--from", vault, tmp_path / "w.git")
    assert_same_mirror(tmp_path / "w.git", to_be_kept(root / "acme" / "widgets.git"))


def test_a_server_that_passes_no_protocol_on_is_mirrored(root: Path, tmp_path: Path) -> None:
    vault = tmp_path / "vault"
    with ssh_server(root, tmp_path / "ssh", protocol=0) as server:
        done = repo_backup("run", "--to", vault, "--json", env=env_of(server)).json
    assert [one["plan"] for one in done["repositories"]] == ["full"]
    repo_backup("restore", "acme/widgets", "--from", vault, tmp_path / "w.git")
    assert_same_mirror(tmp_path / "w.git", to_be_kept(root / "acme" / "widgets.git"))


def test_a_key_that_is_not_accepted_is_said(server: SshServer) -> None:
    with pytest.raises(AuthenticationError, match="does not accept the key") as caught:
        refs_of(server, key=server.other_key_file)
    assert "--ssh-key-file" in caught.value.hint
    assert not caught.value.retryable


def test_a_server_that_is_not_known_is_refused(server: SshServer, tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    with pytest.raises(SourceError, match="known hosts") as caught:
        refs_of(server, known_hosts=tmp_path / "empty")
    assert "--ssh-known-hosts-file" in caught.value.hint
    assert not caught.value.retryable
    assert (tmp_path / "empty").read_text() == "", "nothing is learnt by itself"


def test_a_repository_that_is_not_there_is_said(server: SshServer) -> None:
    with pytest.raises(RepositoryUnavailable, match="not there") as caught:
        refs_of(server, "/acme/gone.git")
    assert not caught.value.retryable


def test_a_server_that_is_not_there_may_come_back(server: SshServer) -> None:
    transport = open_ssh(
        "ssh://git@127.0.0.1:9/acme/widgets.git",
        key_file=server.key_file,
        known_hosts=server.known_hosts_file,
        agent="",
        stop=Stop(),
    )
    with (
        Remote(transport, selection=Selection(), count=lambda _: None) as remote,
        pytest.raises(HostUnreachable, match="cannot be reached"),
    ):
        remote.list_refs()


def test_an_agent_s_key_is_used_when_no_file_is_named(server: SshServer, tmp_path: Path) -> None:
    socket = tmp_path / "agent"
    agent = subprocess.Popen(["ssh-agent", "-D", "-a", socket], stdout=subprocess.DEVNULL)
    try:
        end = time.monotonic() + 10
        while not socket.exists() and time.monotonic() < end:
            time.sleep(0.02)
        environment = {"PATH": os.environ["PATH"], "SSH_AUTH_SOCK": str(socket)}
        subprocess.run(
            ["ssh-add", "-q", server.key_file], env=environment, check=True, capture_output=True
        )
        env = env_of(server)
        del env["REPO_BACKUP_SSH_KEY_FILE"]
        env["SSH_AUTH_SOCK"] = str(socket)
        done = repo_backup("run", "--to", tmp_path / "vault", "--json", env=env).json
        assert [one["status"] for one in done["repositories"]] == ["captured"]
    finally:
        agent.terminate()
        agent.wait()


def test_a_signal_ends_a_wait_for_a_silent_server(server: SshServer, tmp_path: Path) -> None:
    # A port that listens and never says who it is.
    import socket as sockets

    with sockets.create_server(("127.0.0.1", 0)) as silent:
        env = env_of(server)
        env["REPO_BACKUP_FROM"] = f"git:ssh://git@127.0.0.1:{silent.getsockname()[1]}/acme/w.git"
        process = start_repo_backup("run", "--to", tmp_path / "vault", env=env)
        silent.settimeout(30)
        connection, _ = silent.accept()
        with connection:
            began = time.monotonic()
            process.send_signal(signal.SIGTERM)
            process.communicate(timeout=30)
    assert time.monotonic() - began < 10
    assert process.returncode == 130


def test_a_format_that_the_servers_git_does_not_read_is_said(server: SshServer, root: Path) -> None:
    path = init_bare(root / "acme" / "newer.git")
    with (path / "config").open("a") as file:
        file.write("[core]\n\trepositoryFormatVersion = 1\n[extensions]\n\tnotYetInvented = 1\n")
    with pytest.raises(RepositoryUnavailable) as caught:
        refs_of(server, "/acme/newer.git")
    assert "newer format than the server's git reads (extensions.notyetinvented)" in (
        caught.value.message
    )


# --- Command lines -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("ssh://git@git.example/acme/widgets.git", True),
        ("git@git.example:acme/widgets.git", True),
        ("git.example:widgets", True),
        ("https://git.example/acme/widgets.git", False),
        ("/srv/git:odd/widgets.git", False),
        ("./widgets", False),
    ],
)
def test_ssh_is_told_from_other_urls(url: str, expected: bool) -> None:
    assert is_ssh(url) is expected


@pytest.mark.parametrize(
    ("url", "words"),
    [
        (
            "ssh://git@git.example/acme/widgets.git",
            ["--", "git@git.example", "git-upload-pack '/acme/widgets.git'"],
        ),
        (
            "ssh://git.example:2222/~jane/w.git",
            ["-p", "2222", "--", "git.example", "git-upload-pack '~jane/w.git'"],
        ),
        (
            "git@git.example:acme/widgets.git",
            ["--", "git@git.example", "git-upload-pack 'acme/widgets.git'"],
        ),
        (
            "ssh://git@[::1]:2222/a%20b/it's;rm%20-rf.git",
            ["-p", "2222", "--", "git@::1", "git-upload-pack '/a b/it'\\''s;rm -rf.git'"],
        ),
    ],
)
def test_the_command_line_is_git_s_own(url: str, words: list[str]) -> None:
    transport = open_ssh(url, key_file=None, known_hosts=None, agent="", stop=Stop())
    assert [str(word) for word in transport._argv][-len(words) :] == words


def test_the_other_side_s_shell_sees_one_word(tmp_path: Path) -> None:
    path = '/a\'b!c "d" $(touch x) `touch x` ;|&\\n.git'
    url = f"git@git.example:{path}"
    transport = open_ssh(url, key_file=None, known_hosts=None, agent="", stop=Stop())
    command = str(transport._argv[-1])
    done = subprocess.run(
        ["sh", "-c", command.replace("git-upload-pack", "printf %s", 1)],
        capture_output=True,
        check=True,
        cwd=tmp_path,
        encoding="utf-8",
    )
    assert done.stdout == path
    assert not list(tmp_path.iterdir())


def test_paths_with_spaces_and_percents_are_one_option(tmp_path: Path) -> None:
    words = ssh_command(key_file=Path("/a b/100%h"), known_hosts=Path("/k h"))
    assert 'IdentityFile="/a b/100%%h"' in words
    assert 'UserKnownHostsFile="/k h"' in words
    assert "IdentitiesOnly=yes" in words
    shown = subprocess.run(
        [*words, "-G", "--", "git.example"], capture_output=True, check=True, encoding="utf-8"
    ).stdout
    assert "stricthostkeychecking true" in shown.casefold()
    assert "batchmode yes" in shown
    assert shlex.join(words)


def test_words_that_say_nothing_of_ssh_are_left_alone() -> None:
    assert ssh_error("ssh://x/y", "the server refused: out of memory") is None
    assert isinstance(ssh_error("ssh://x/y", "Connection reset by peer"), BackupError)
