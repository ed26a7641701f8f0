"""The guides that need a forge and a bucket, followed to the letter as a new user would."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.support.git import commit_chain, git, init_bare, set_head, update_refs
from tests.support.github import GitHub, Token
from tests.support.mirrors import assert_same_mirror
from tests.support.program import repo_backup
from tests.support.runner import CHECKOUT, TOKEN
from tests.support.s3server import S3Server
from tests.support.shown import Shown, assert_said, run_shown, shown_commands
from tests.support.vaults import to_be_kept
from tests.test_documents import make_example

GUIDES = CHECKOUT / "docs"


@pytest.fixture
def forge(tmp_path: Path) -> Iterator[GitHub]:
    with GitHub(tmp_path / "git") as forge:
        forge.tokens[TOKEN] = Token("jane")
        forge.owner("jane", kind="User")
        forge.owner("acme")
        yield forge


@pytest.fixture
def tools(tmp_path: Path) -> Path:
    """Give programs that stand for `aws` and `gh`."""
    folder = tmp_path / "tools"
    folder.mkdir()
    for name in ("aws", "gh"):
        tool = folder / name
        run = f"{sys.executable} -m tests.support.{name}_cli"
        tool.write_text(f'#!/bin/sh\nPYTHONPATH={CHECKOUT} exec {run} "$@"\n')
        tool.chmod(0o755)
    return folder


@pytest.fixture
def here(tmp_path: Path) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    (folder / "token").write_text(f"{TOKEN}\n")
    return folder


def made(forge: GitHub, name: str, **branches: int) -> Path:
    """Make a repository of some branches, each so many commits beside the first."""
    acme = forge.owners[-1]
    path = init_bare(forge.root / acme.login / f"{name}.git")
    first = commit_chain(path, 1, label=name.encode())[-1]
    update_refs(
        path,
        {
            f"refs/heads/{branch}".encode(): commit_chain(
                path, count, start=first, label=f"{name} {branch}".encode()
            )[-1]
            for branch, count in branches.items()
        },
    )
    set_head(path, b"refs/heads/main")
    forge.repository(acme, name)
    return path


def environment(store: S3Server, forge: GitHub) -> dict[str, str]:
    return {
        **store.environment(),
        "AWS_ENDPOINT_URL": store.endpoint_url,
        "AWS_REGION": "us-east-1",
        # In place of github.com.
        "REPO_BACKUP_SERVER_URL": forge.url,
    }


def as_github(forge: GitHub) -> dict[str, str]:
    """Give the name of the forge in keys, and what it stands for."""
    return {urlsplit(forge.url).netloc.replace(":", "-"): "github.com"}


def test_the_tutorial_leads_from_nothing_to_a_restored_repository(
    forge: GitHub, tools: Path, here: Path, tmp_path: Path, moto_http: S3Server
) -> None:
    widgets = made(forge, "widgets", main=3)
    made(forge, "backups", main=1)
    project = tmp_path / "project"
    for name in ("aws", "examples"):
        shutil.copytree(CHECKOUT / name, project / name)
    git("init", "--quiet", project)
    git("add", ".", cwd=project)
    git("commit", "--quiet", "--message", "The project", cwd=project)
    (here / "repo-backup-action").mkdir()
    (here / "token").rename(here / "repo-backup-action" / "token")
    (here / "repo-backup-action").rename(here / "left")
    env = environment(moto_http, forge) | {
        "GH_STATE": str(tmp_path),
        "GH_SERVER_URL": forge.url,
        "GH_REPOSITORIES": str(forge.root),
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.{project}.insteadOf",
        "GIT_CONFIG_VALUE_0": "https://github.com/org/repo-backup-action",
    }
    commands = shown_commands((GUIDES / "tutorial-github.md").read_text("utf-8"))
    (token,) = [n for n, one in enumerate(commands) if "< token" in one.command]
    # "Put it into the file token": the one thing that is said and not shown.
    commands.insert(token, Shown("cp ../left/token token", ()))
    ran = run_shown(commands, here, tools=tools, env=env, shown_as=as_github(forge))
    assert_said(ran, any_snapshot=True)
    back = here / "repo-backup-action" / "widgets.git"
    assert_same_mirror(back, to_be_kept(widgets))
    by_hand = here / "repo-backup-action" / "by-hand.git"
    tip = git("rev-parse", "main", cwd=widgets)
    assert git("rev-parse", "main", cwd=by_hand) == tip
    assert not (here / "repo-backup-action" / "token").exists()
    kept = json.loads((tmp_path / "acme--backups.json").read_text())
    assert "Backup complete" in kept["summary"]
    assert TOKEN not in kept["summary"]


# --- From the script that clones and syncs --------------------------------------------------------

SCRIPT = """
set -euo pipefail
for name in $NAMES; do git clone --quiet "$FORGE/acme/$name.git"; done
"""


def run_old_script(forge: GitHub, store: S3Server, folder: Path, names: list[str]) -> None:
    """Do as the script does: clone each with a work tree, and put every file into the bucket."""
    folder.mkdir()
    subprocess.run(
        ["bash", "-c", SCRIPT],
        cwd=folder,
        env=os.environ | {"NAMES": " ".join(names), "FORGE": forge.url},
        check=True,
    )
    store.make_bucket("acme-backup")
    with store.client() as client:
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                key = f"github.com/acme/2025-03-01/{path.relative_to(folder)}"
                client.put_object(Bucket="acme-backup", Key=key, Body=path.read_bytes())


def objects_below(store: S3Server, prefix: str) -> dict[str, str]:
    with store.client() as client:
        pages = client.get_paginator("list_objects_v2").paginate(
            Bucket="acme-backup", Prefix=prefix
        )
        return {one["Key"]: one["ETag"] for page in pages for one in page.get("Contents", ())}


def test_the_migration_guide_leads_from_the_old_bucket_to_ours(
    forge: GitHub, tools: Path, here: Path, tmp_path: Path, moto_http: S3Server
) -> None:
    widgets = made(forge, "widgets", main=3, topic=2)
    gadgets = made(forge, "gadgets", main=2, experiment=2)
    gizmos = made(forge, "gizmos", main=4)
    run_old_script(forge, moto_http, tmp_path / "old", ["gadgets", "gizmos", "widgets"])
    before = objects_below(moto_http, "github.com/")
    assert len(before) > 50
    with moto_http.client() as client:
        of_old = "github.com/acme/2024-03-01/widgets/README"
        client.put_object(Bucket="acme-backup", Key=of_old, Body=b"a day that may go")
    # What happened since: a push, a rewritten branch, a deleted repository.
    tip = git("rev-parse", "main", cwd=widgets).strip()
    update_refs(widgets, {b"refs/heads/main": commit_chain(widgets, 2, start=tip)[-1]})
    root = git("rev-list", "--max-parents=0", "main", cwd=gadgets).strip()
    other = commit_chain(gadgets, 1, start=root, label=b"again")[-1]
    update_refs(gadgets, {b"refs/heads/experiment": other})
    last = to_be_kept(gizmos)
    forge.repositories[:] = [one for one in forge.repositories if one.name != "gizmos"]
    shutil.rmtree(gizmos)
    guide = GUIDES / "how-to" / "move-from-the-clone-and-sync-script.md"
    commands = shown_commands(guide.read_text("utf-8"))
    env = environment(moto_http, forge)
    ran = run_shown(commands, here, tools=tools, env=env, shown_as=as_github(forge))
    assert_said(ran, any_snapshot=True)
    # All there is, as it is now, and the last of what is gone.
    for name, source in (("widgets", widgets), ("gadgets", gadgets)):
        assert_same_mirror(here / "new" / f"{name}.git", to_be_kept(source))
    vault = "s3://acme-backup/git"
    repo_backup("restore", "acme-before/gizmos", "--from", vault, tmp_path / "g.git", env=env)
    tips = {line.split()[0] for line in git("show-ref", cwd=tmp_path / "g.git").splitlines()}
    assert {oid for name, oid in last.refs.items()} <= tips
    assert objects_below(moto_http, "github.com/") == before
    vaults = {key.split("/")[1] for key in objects_below(moto_http, "git/")}
    assert vaults == {"folder", *as_github(forge)}


# --- Lines that stand alone ----------------------------------------------------------------------

PAGES = (
    "README.md",
    "docs/reference/cli.md",
    "docs/how-to/use-a-bucket.md",
    "docs/how-to/back-up-a-github-owner.md",
    "docs/how-to/back-up-a-git-server.md",
    "docs/how-to/run-every-night.md",
)
LINE = re.compile(
    r"^(?:\$ )?((?:REPO_BACKUP_\w+=.* )?repo-backup (?:run|list|restore|verify|status) .*)$",
    re.MULTILINE,
)
# What stands in capitals is for the reader to fill in.
LINES = sorted(
    {
        line
        for page in PAGES
        for line in LINE.findall((CHECKOUT / page).read_text("utf-8"))
        if not re.search(r" (VAULT|SOURCE)", line)
    }
)


@pytest.fixture(scope="module")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("example")
    make_example(folder)
    return folder


def test_the_lines_are_found() -> None:
    assert len(LINES) > 15
    assert any("repositories.txt" in line for line in LINES)


@pytest.mark.parametrize("line", [line for line in LINES if "git@git.example.org" not in line])
def test_a_line_of_the_documents_does_what_it_says(
    line: str, forge: GitHub, tmp_path: Path, moto_http: S3Server, example: Path
) -> None:
    # Git over ssh has tests of its own, with a real server.
    here = shutil.copytree(example, tmp_path / "here")
    made(forge, "widgets", main=2)
    (here / "repositories.txt").write_text(f"{forge.url}/acme/widgets.git\n")
    # The store is everybody's in this session.
    bucket = f"line-{LINES.index(line)}"
    moto_http.make_bucket(bucket)
    env = environment(moto_http, forge)
    if "s3://" in line and not re.search(r"\brun\b", line):
        repo_backup("run", "--from", "acme", "--to", f"s3://{bucket}/git", env=env, cwd=here)
    elsewhere = {
        "https://git.example.org": forge.url,
        "https://github.example.com": forge.url,
        "https://minio.example.com": moto_http.endpoint_url,
        "s3://example-vault": f"s3://{bucket}",
        "s3://vault": f"s3://{bucket}",
        "TOKEN=...": f"TOKEN={TOKEN}",
        # The example's snapshots are of today, whatever their names.
        "--at 2025-03-01": f"--at {datetime.now(UTC):%Y-%m-%d}",
    }
    for said, actual in elsewhere.items():
        line = line.replace(said, actual)
    # The example's vault is of the folder that it was copied from.
    line = line.replace("--to ./vault", "--to ./another-vault")
    run_shown([Shown(line, ())], here, tools=tmp_path, env=env)
