"""A real server of Git LFS and the real git-lfs: what was pushed there comes back in working trees.

Run by ``make test-stores``.
"""

import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.support.giftless import PASSWORD, LfsHost, lfs_host
from tests.support.git import init_bare, run_git
from tests.support.program import repo_backup
from tests.support.tls import Certificates

FILES = {
    "main": {"a.bin": os.urandom(3 << 20), "docs/b.bin": b"small", "plain.txt": b"no LFS\n"},
    "side": {"a.bin": os.urandom(12 << 20), "c.bin": b""},
    "third": {"a.bin": b"third", "docs/b.bin": b"small"},
}
BEFORE = b"in history alone"


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory, tls: Certificates) -> Iterator[LfsHost]:
    with lfs_host(tmp_path_factory.mktemp("lfs"), tls) as running:
        yield running


@pytest.fixture(scope="module")
def env(host: LfsHost, tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    return host.git_environment(tmp_path_factory.mktemp("home"))


def git(*words: str | Path, cwd: Path, env: Mapping[str, str]) -> str:
    done = subprocess.run(
        ["git", *words], cwd=cwd, env=dict(env), capture_output=True, encoding="utf-8", check=False
    )
    assert done.returncode == 0, f"git {words}: {done.stdout}{done.stderr}"
    return done.stdout


@pytest.fixture
def pushed(host: LfsHost, env: Mapping[str, str], tmp_path: Path) -> str:
    """Push three branches with git-lfs, and give the URL."""
    name = tmp_path.name.replace("_", "-")
    make_remote(host, name)
    work = tmp_path / "work"
    work.mkdir()
    git("init", "--quiet", cwd=work, env=env)
    (work / ".gitattributes").write_text("*.bin filter=lfs diff=lfs merge=lfs -text\n")
    (work / "a.bin").write_bytes(BEFORE)
    git("add", ".", cwd=work, env=env)
    git("commit", "--quiet", "-m", "before", cwd=work, env=env)
    for branch, files in FILES.items():
        if branch != "main":
            git("checkout", "--quiet", "-B", branch, "main", cwd=work, env=env)
        for path, content in files.items():
            (work / path).parent.mkdir(exist_ok=True)
            (work / path).write_bytes(content)
        git("add", ".", cwd=work, env=env)
        git("commit", "--quiet", "-m", branch, cwd=work, env=env)
    url = f"{host.url}/acme/{name}.git"
    git("remote", "add", "origin", url, cwd=work, env=env)
    git("push", "--quiet", "--all", "origin", cwd=work, env=env)
    return url


def make_remote(host: LfsHost, name: str) -> None:
    path = init_bare(host.root / "acme" / f"{name}.git")
    run_git("config", "http.receivepack", "true", cwd=path)


def program(host: LfsHost, *words: str | Path, check: int = 0) -> Any:
    env = {"REPO_BACKUP_TOKEN": PASSWORD, "SSL_CERT_FILE": str(host.ca_file)}
    return repo_backup(*words, "--json", env=env, check=check).json


def assert_files(clone: Path, env: Mapping[str, str]) -> None:
    """Check every branch out, and compare every file."""
    for branch, files in FILES.items():
        git("checkout", "--quiet", branch, cwd=clone, env=env)
        for path, content in files.items():
            assert (clone / path).read_bytes() == content, (branch, path)
        assert git("status", "--porcelain", cwd=clone, env=env) == ""
    git("checkout", "--quiet", "main~1", cwd=clone, env=env)
    assert (clone / "a.bin").read_bytes() == BEFORE


def test_every_file_is_checked_out_of_what_is_restored(
    host: LfsHost, env: Mapping[str, str], pushed: str, tmp_path: Path
) -> None:
    vault = tmp_path / "vault"
    run = ("run", "--from", f"git:{pushed}", "--to", vault)
    report = program(host, *run)
    told = report["repositories"][0]["lfs"]
    # The empty file is one, too: git-lfs writes no pointer to it.
    assert (told["stored"], told["missing"]) == (5, [])
    assert program(host, *run)["totals"]["objects_written"] == 1
    name = Path(pushed).stem
    program(host, "restore", name, tmp_path / "mirror.git", "--from", vault)
    git("clone", "--quiet", tmp_path / "mirror.git", "clone", cwd=tmp_path, env=env)
    assert_files(tmp_path / "clone", env)
    # A working clone, whose server is gone.
    program(host, "restore", name, tmp_path / "tree", "--from", vault, "--checkout")
    assert (tmp_path / "tree" / "a.bin").read_bytes().startswith(b"version https://git-lfs")
    git("lfs", "checkout", cwd=tmp_path / "tree", env=env)
    assert_files(tmp_path / "tree", env)
    # A new home, which has every file.
    make_remote(host, f"{name}-new")
    url = f"{host.url}/acme/{name}-new.git"
    pushed_again = program(host, "restore", name, "--from", vault, "--push", url)["push"]
    assert pushed_again["lfs"] == {"sent": 5, "failed": []}
    git("clone", "--quiet", url, "again", cwd=tmp_path, env=env)
    assert_files(tmp_path / "again", env)
    again = program(host, "restore", name, "--from", vault, "--push", url)["push"]
    assert again["lfs"]["sent"] == 0


def test_a_file_that_the_server_lost_is_listed_and_the_rest_is_stored(
    host: LfsHost, pushed: str, tmp_path: Path
) -> None:
    vault = tmp_path / "vault"
    name = Path(pushed).stem
    # The server's folder has the repository's name with its ending.
    files = [path for path in host.files.rglob("*") if path.is_file() and name in str(path)]
    lost = max(files, key=lambda path: path.stat().st_size)
    aside = tmp_path / "aside"
    shutil.move(lost, aside)
    run = ("run", "--from", f"git:{pushed}", "--to", vault)
    told = program(host, *run, check=3)["repositories"][0]["lfs"]
    (missing,) = told["missing"]
    assert (missing["oid"], missing["permanent"]) == (lost.name, True)
    assert told["stored"] == 4
    assert program(host, *run)["repositories"][0]["lfs"]["missing"][0]["known"]
    shutil.move(aside, lost)
    assert program(host, *run)["repositories"][0]["lfs"]["stored"] == 1
