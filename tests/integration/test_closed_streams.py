"""Streams that were closed before the program began, and readers that go: neither ends its work."""

import subprocess
from pathlib import Path

import pytest

from tests.support.git import commit_chain, init_bare, update_refs
from tests.support.mirrors import mirror_state
from tests.support.program import PROGRAM, environment, repo_backup

CLOSED = {"stdout": ">&-", "stderr": "2>&-", "stdin": "<&-", "all": "<&- >&- 2>&-"}


def through_shell(redirection: str, *words: str | Path) -> subprocess.CompletedProcess[str]:
    """Run the program in a shell, with something behind it on its line; a pipe keeps its code."""
    return subprocess.run(
        ["bash", "-c", f'"$0" "$@" {redirection}; exit "${{PIPESTATUS[0]}}"', PROGRAM, *words],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


@pytest.fixture
def source(tmp_path: Path) -> Path:
    path = init_bare(tmp_path / "source" / "one.git")
    update_refs(path, {b"refs/heads/main": commit_chain(path, 2)[-1]})
    return tmp_path / "source"


@pytest.mark.parametrize("which", CLOSED)
def test_every_command_does_its_work_with_a_stream_closed(
    which: str, source: Path, tmp_path: Path
) -> None:
    vault, mirror = tmp_path / "vault", tmp_path / "one.git"
    for words in (
        ("run", "--from", source, "--to", vault),
        ("list", "--from", vault),
        ("list", "--from", vault, "--json"),
        ("status", "--from", vault),
        ("verify", "--from", vault, "--depth", "restore"),
        ("restore", "one", mirror, "--from", vault),
        ("--version",),
        ("run", "--help"),
    ):
        done = through_shell(CLOSED[which], *words)
        assert done.returncode == 0, (words, done.stderr)
        assert "error" not in done.stderr
        if which in {"stderr", "all"}:
            # Nor does what was meant for one stream come out at another.
            assert done.stderr == ""
            assert "listing /" not in done.stdout
    assert mirror_state(mirror) == mirror_state(source / "one.git")
    assert repo_backup("verify", "--from", vault, "--depth", "restore").code == 0


@pytest.mark.parametrize("which", CLOSED)
def test_a_refusal_keeps_its_code_with_a_stream_closed(which: str, tmp_path: Path) -> None:
    done = through_shell(CLOSED[which], "list", "--from", tmp_path / "none", "--json")
    assert done.returncode == 2


@pytest.mark.parametrize("form", [(), ("--json",)], ids=["table", "json"])
def test_a_reader_that_goes_changes_no_exit_code(
    form: tuple[str, ...], source: Path, tmp_path: Path
) -> None:
    vault = tmp_path / "vault"
    assert through_shell("| true", "run", "--from", source, "--to", vault, *form).returncode == 0
    for words in (("list",), ("status",), ("verify",)):
        assert through_shell("| true", *words, "--from", vault, *form).returncode == 0
    (source / "one.git" / "HEAD").unlink()
    failed = through_shell("| true", "run", "--from", source, "--to", vault, *form)
    assert failed.returncode == repo_backup("run", "--from", source, "--to", vault, check=None).code
    assert failed.returncode != 0
