"""Repositories by their URLs, in numbers: a file of them, one a line."""

import shutil
from pathlib import Path

import pytest

from tests.support.git import commit_chain, init_bare, update_refs
from tests.support.gitserver import GitHttpServer
from tests.support.mirrors import assert_same_mirror
from tests.support.program import repo_backup
from tests.support.vaults import to_be_kept

MANY = 120


def test_a_file_of_urls_is_backed_up_and_comes_back(tmp_path: Path) -> None:
    one = init_bare(tmp_path / "root" / "acme" / "r000.git")
    update_refs(one, {b"refs/heads/main": commit_chain(one, 2)[-1]})
    for number in range(1, MANY):
        shutil.copytree(one, one.with_name(f"r{number:03}.git"))
    with GitHttpServer(tmp_path / "root") as server:
        urls = [f"{server.url}/acme/r{number:03}.git" for number in range(MANY)]
        # As people write them: with remarks, as --from takes them, twice, and with Windows' ends.
        text = f"# ours\n\n  {urls[0]}  \ngit:{urls[1]}\n{urls[1]}\r\n" + "\n".join(urls[2:])
        (tmp_path / "urls.txt").write_text(text)
        run = ("run", "--from", "git:@urls.txt", "--to", "vault", "--json")
        first = repo_backup(*run, cwd=tmp_path).json
        assert first["totals"]["captured"] == first["totals"]["listed"] == MANY
        second = repo_backup(*run, cwd=tmp_path).json
        assert second["totals"]["unchanged"] == MANY
        assert second["totals"]["requests"]["git"] == 2 * MANY
        assert second["totals"]["objects_written"] == 1
    repo_backup("restore", "acme/r077", "--from", "vault", "back.git", cwd=tmp_path)
    assert_same_mirror(tmp_path / "back.git", to_be_kept(one))


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "'git:@urls.txt' cannot be read (No such file or directory)"),
        (b"", "names no repository: give a file of URLs, one a line"),
        (b"# nothing\n\n", "names no repository: give a file of URLs, one a line"),
        (b"\xff\xfe", "is no text: give a file of URLs, one a line"),
        (b"https://host.example\n", "'https://host.example' is no URL of a repository"),
        (b"https://jane:s3cret-pw@host.example/a.git\n", "holds credentials"),
        (b"git:@other.txt\n", "does not exist"),
    ],
)
def test_a_file_that_is_not_one_of_urls_is_refused(
    tmp_path: Path, content: bytes | None, problem: str
) -> None:
    if content is not None:
        (tmp_path / "urls.txt").write_bytes(content)
    run = ("run", "--from", "git:@urls.txt", "--to", "vault")
    refused = repo_backup(*run, cwd=tmp_path, check=2)
    assert problem in refused.stderr
    assert "s3cret-pw" not in refused.stderr
    assert not (tmp_path / "vault").exists()
