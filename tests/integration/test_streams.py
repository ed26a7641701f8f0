"""Logs that nobody reads to their end: the backup goes on."""

import subprocess
from pathlib import Path

import pytest

from tests.support.git import commit_chain, init_bare, update_refs
from tests.support.program import PROGRAM, environment, repo_backup


@pytest.mark.parametrize("lines", [0, 2])
def test_a_reader_of_the_log_that_goes_away_ends_no_run(lines: int, tmp_path: Path) -> None:
    for number in range(12):
        path = init_bare(tmp_path / "acme" / f"r{number}.git")
        update_refs(path, {b"refs/heads/main": commit_chain(path, 2)[-1]})
    words = ["run", "--from", str(tmp_path / "acme"), "--to", str(tmp_path / "vault")]
    with subprocess.Popen(
        [PROGRAM, *words], env=environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as process:
        assert process.stderr is not None
        for _ in range(lines):
            process.stderr.readline()
        process.stderr.close()
        assert process.wait(120) == 0
    found = repo_backup("list", "--from", tmp_path / "vault", "--json").json["snapshots"]
    assert [one["captured"] for one in found] == [12]


def test_a_log_that_cannot_be_written_ends_no_run(tmp_path: Path) -> None:
    path = init_bare(tmp_path / "acme" / "one.git")
    update_refs(path, {b"refs/heads/main": commit_chain(path, 2)[-1]})
    words = ["run", "--from", str(path.parent), "--to", str(tmp_path / "vault")]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run([PROGRAM, *words], env=environment(), stderr=full, check=False)
    assert done.returncode == 0
