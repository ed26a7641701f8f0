"""Folders of repositories of every kind, as people have them."""

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from backup.errors import RepositoryUnavailable
from backup.git.fallback import Reach
from backup.git.push import ask_remote
from backup.report.terminal import TerminalEvents
from backup.stopping import Stop
from tests.integration.test_run import MAIN, Lab, done, push, statuses, told
from tests.support import shapes
from tests.support.git import commit_chain, git, init_bare, update_refs
from tests.support.lfsserver import commit, keep, pointer
from tests.support.mirrors import assert_same_mirror, mirror_state
from tests.support.program import environment, repo_backup

RUN = ("run", "--from", "src", "--to", "vault")


@pytest.fixture
def lab(tmp_path: Path) -> Lab:
    return Lab(tmp_path / "src")


def working(path: Path) -> Path:
    """Make a repository with a work tree that is checked out."""
    path.mkdir(parents=True)
    git("init", "--quiet", "-b", "main", cwd=path)
    push(path, label=path.name.encode())
    git("reset", "--quiet", "--hard", cwd=path)
    return path


# --- What is a repository ----------------------------------------------------------------------


def test_repositories_are_found_however_deep_bare_and_with_work_trees(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "src")
    lab.repository("bare.git")
    lab.repository("deep/er/still/bare")
    working(lab.root / "tree")
    working(lab.root / "tree/nested/inner")
    working(lab.root / ".hidden/tree")
    (lab.root / "no-repository/objects").mkdir(parents=True)
    (lab.root / "a-file").write_text("text\n")
    (lab.root / "loop").symlink_to(".")
    (lab.root / "nowhere").symlink_to("missing")
    report = repo_backup(*RUN, "--json", cwd=tmp_path).json
    places = {
        "bare": "bare.git",
        "deep/er/still/bare": "deep/er/still/bare",
        "tree": "tree",
        "tree/nested/inner": "tree/nested/inner",
        ".hidden/tree": ".hidden/tree",
    }
    assert {row["path"]: row["status"] for row in report["repositories"]} == dict.fromkeys(
        places, "captured"
    )
    for name, place in places.items():
        repo_backup("restore", f"src/{name}", "--from", "vault", f"out/{place}", cwd=tmp_path)
        assert_same_mirror(tmp_path / "out" / place, lab.root / place)


def test_a_repository_within_a_bare_one_is_one_of_its_own(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "src")
    lab.repository("foo.git")
    lab.repository("foo.git/bar.git")
    working(lab.root / "foo.git/tree")
    git("worktree", "add", "-q", "-b", "linked", "linked", cwd=lab.root / "foo.git")
    # What git keeps there is no other repository.
    lab.repository("foo.git/modules/sub")
    report = repo_backup(*RUN, "--json", cwd=tmp_path).json
    assert [row["path"] for row in report["repositories"]] == ["foo", "foo.git/bar", "foo.git/tree"]
    repo_backup("restore", "src/foo.git/bar", "--from", "vault", "out", cwd=tmp_path)
    assert_same_mirror(tmp_path / "out", lab.root / "foo.git/bar.git")


@pytest.mark.parametrize(
    ("lost", "problem"),
    [
        ("tree/.git/HEAD", "its .git has no HEAD"),
        ("tree/.git/objects", "its .git has no objects"),
        ("tree/.git/refs", "its .git has no refs"),
        ("bare.git/HEAD", "it has no HEAD"),
        ("bare.git/refs", "it has no refs"),
        ("main/.git", "its .git file leads to {root}/main/.git/worktrees/linked"),
        ("main/.git/HEAD", "its .git file leads to {root}/main/.git/worktrees/linked"),
    ],
)
def test_a_repository_that_git_would_not_take_any_more_is_failed_and_not_gone(
    lost: str, problem: str, tmp_path: Path
) -> None:
    lab = Lab(tmp_path / "src")
    lab.repository("bare.git")
    for name in ("tree", "main", "other", "further", "last"):
        working(lab.root / name)
    git("worktree", "add", "-q", "-b", "linked", "../linked", cwd=lab.root / "main")
    (lab.root / "placeholder" / ".git").mkdir(parents=True)
    repo_backup(*RUN, cwd=tmp_path)
    (lab.root / lost).rename(tmp_path / "lost")
    report = repo_backup(*RUN, "--json", cwd=tmp_path, check=3).json
    rows = {row["path"]: row for row in report["repositories"]}
    named = "linked" if lost.startswith("main") else lost.partition("/")[0].removesuffix(".git")
    assert rows[named]["status"] == "failed"
    assert problem.format(root=lab.root) in rows[named]["reason"], rows[named]
    assert rows["other"]["status"] == "unchanged"
    assert "placeholder" not in rows
    # Where nothing is known of it yet, too.
    first = repo_backup(
        "run", "--from", "src", "--to", "another", "--json", cwd=tmp_path, check=3
    ).json
    assert {one["path"] for one in first["repositories"] if one["status"] == "failed"} >= {named}
    (tmp_path / "lost").rename(lab.root / lost)
    repo_backup(*RUN, cwd=tmp_path)


@pytest.mark.parametrize("lost", ["HEAD", "refs"])
def test_what_lies_beside_a_broken_git_folder_is_named_whatever_it_is_called(
    lost: str, tmp_path: Path
) -> None:
    root = tmp_path / "src"
    tree = working(root / "tree")
    inner = ["tree/modules/x", "tree/info", "tree/other"]
    for name in inner:
        working(root / name)
    # Links within a work tree are content, and stay that.
    init_bare(root / "elsewhere/linked.git")
    (tree / "link").symlink_to(root / "elsewhere")
    repo_backup(*RUN, cwd=tmp_path)
    (tree / ".git" / lost).rename(tmp_path / "lost")
    push(root / "tree/modules/x")
    working(root / "tree/modules/new")
    report = repo_backup(*RUN, "--json", cwd=tmp_path, check=3).json
    rows = {row["path"]: row["status"] for row in report["repositories"]}
    assert rows == {
        "tree": "failed",
        "tree/info": "unchanged",
        "tree/modules/new": "captured",
        "tree/modules/x": "captured",
        "tree/other": "unchanged",
        "elsewhere/linked": "empty",
    }


def test_the_folder_itself_may_be_the_repository(tmp_path: Path) -> None:
    working(tmp_path / "src")
    report = repo_backup(*RUN, "--json", cwd=tmp_path).json
    assert [(row["path"], row["status"]) for row in report["repositories"]] == [("src", "captured")]


def test_a_submodule_is_a_repository_of_its_own(lab: Lab) -> None:
    library = init_bare(lab.root.parent / "library")
    push(library, 4)
    top = working(lab.root / "top")
    add = ("-c", "protocol.file.allow=always", "submodule", "--quiet", "add")
    git(*add, library.as_uri(), "lib", cwd=top)
    git("commit", "--quiet", "-m", "add lib", cwd=top)
    assert (top / "lib/.git").is_file()
    report = lab.run()
    assert statuses(report) == {"top": "captured", "top/lib": "captured"}
    refs = {line.name for line in lab.record("top/lib").refs}
    assert {"refs/heads/main", "refs/remotes/origin/main"} <= refs
    assert lab.run().count("unchanged") == 2


def test_a_linked_work_tree_is_left_out_and_its_branch_is_not(lab: Lab) -> None:
    top = working(lab.root / "top")
    git("worktree", "add", "--quiet", "-b", "side", lab.root / "linked", cwd=top)
    tip = push(top, branch=b"refs/heads/side", label=b"side").decode()
    report = lab.run()
    assert statuses(report) == {"top": "captured"}
    assert {line.name: line.id for line in lab.record("top").refs}["refs/heads/side"] == tip


def test_a_link_to_a_repository_elsewhere_fails_by_name_outside_of_work_trees(lab: Lab) -> None:
    elsewhere = init_bare(lab.root.parent / "elsewhere")
    push(elsewhere)
    (lab.root / "linked").symlink_to(elsewhere)
    (working(lab.root / "tree") / "link").symlink_to(elsewhere)
    report = lab.run()
    assert statuses(report) == {"linked": "failed", "tree": "captured"}
    assert "outside of" in told(report)["linked"].reason
    assert not any("linked" in key for key in lab.stored())


def test_what_fails_from_the_first_night_on_is_named_by_every_command(tmp_path: Path) -> None:
    lab = Lab(tmp_path / "src")
    lab.repository("good.git")
    (lab.root / "link").symlink_to(init_bare(tmp_path / "elsewhere"))
    for row in ({"captured": 1, "failed": 1}, {"unchanged": 1, "failed": 1}):
        totals = repo_backup(*RUN, "--json", cwd=tmp_path, check=3).json["totals"]
        assert {name: totals[name] for name in row} == row
        assert totals["listed"] == 2
        looked = repo_backup("status", "--from", "vault", cwd=tmp_path, check=3).stdout
        assert "error: folder/src/link: it has failed since" in looked
        assert "1 of 2 repositories were checked in time" in looked
        rows = repo_backup("list", "--from", "vault", "--json", cwd=tmp_path).json["repositories"]
        assert {one["path"]: one["state"] for one in rows} == {"good": "ok", "link": "stale"}
    restored = repo_backup("restore", "--all", "--from", "vault", "out", cwd=tmp_path, check=3)
    assert "failed: src/link: src/link has no backup: link is a symbolic link" in restored.stdout
    assert_same_mirror(tmp_path / "out/good.git", lab.root / "good.git")
    (lab.root / "link").unlink()
    repo_backup(*RUN, cwd=tmp_path)
    repo_backup("status", "--from", "vault", cwd=tmp_path)
    left = repo_backup("restore", "--all", "--from", "vault", "again", cwd=tmp_path).stdout
    assert "and nothing of it was ever stored" in left
    assert "by name" not in left


def test_nothing_of_another_repository_is_stored_as_ones_own(lab: Lab) -> None:
    """Anyone who may write into a repository can have it lead to another one."""
    private = init_bare(lab.root.parent / "private")
    push(private)
    for name in ("borrows", "links"):
        lab.repository(name)
    lab.run()
    before = lab.stored()
    tip = git("rev-parse", MAIN, cwd=private).decode()
    (lab.root / "borrows" / "objects/info/alternates").write_text(f"{private}/objects\n")
    shutil.rmtree(lab.root / "links" / "objects")
    (lab.root / "links" / "objects").symlink_to(private / "objects")
    for name in ("borrows", "links"):
        (lab.root / name / "refs/heads/theirs").write_text(tip)
    report = lab.run()
    assert statuses(report) == {"borrows": "failed", "links": "failed"}
    assert f"names {private}/objects" in told(report)["borrows"].reason
    assert f"a symbolic link to {private}/objects" in told(report)["links"].reason
    assert told(report)["links"].hint == "name the folder that holds both with --from"
    assert not [key for key in lab.stored() - before if "/repositories/" in key]


def test_names_that_are_no_text_are_escaped_and_distinct(lab: Lab) -> None:
    raw = (b"caf\xe9", b"caf\xe8", "café".encode(), b"caf%E9", b"a b", b"CON", b"x" * 200)
    for name in raw:
        path = Path(os.fsdecode(os.fsencode(lab.root) + b"/" + name))
        push(init_bare(path))
    report = lab.run()
    assert report.count("captured") == len(raw)
    assert len({one.host_id for one in report.outcomes}) == len(raw)
    bundles = {key for key in lab.stored() if key.endswith(".bundle")}
    assert len({key.rpartition("/")[0].casefold() for key in bundles}) == len(raw)
    assert all(key.isascii() and " " not in key for key in bundles)
    assert lab.run().count("unchanged") == len(raw)


# --- Objects that lie elsewhere, or nowhere ----------------------------------------------------


def test_what_is_borrowed_from_alternates_is_captured_whole(
    tmp_path: Path, shaped: Callable[[str], Path]
) -> None:
    source = shaped("alternates")
    (tmp_path / "src").mkdir()
    shutil.copytree(source, tmp_path / "src/borrower")
    repo_backup(*RUN, cwd=tmp_path)
    shutil.rmtree(tmp_path / "src")
    repo_backup("restore", "src/borrower", "--from", "vault", "out.git", cwd=tmp_path)
    assert not (tmp_path / "out.git/objects/info/alternates").exists()
    assert_same_mirror(tmp_path / "out.git", source)


@pytest.mark.parametrize(
    ("shape", "words"),
    [
        ("broken-alternates", ["alternates", "lender.git/objects"]),
        ("shallow", ["shallow", "--unshallow"]),
        ("partial", ["partial clone"]),
        ("missing-id-ref", ["refs/heads/missing", shapes.MISSING_ID.decode()]),
        ("missing-id-head", ["HEAD", shapes.MISSING_ID.decode()]),
    ],
)
def test_a_repository_whose_history_is_not_whole_fails_and_says_why(
    shape: str, words: list[str], tmp_path: Path
) -> None:
    Lab(tmp_path / "src").repository("sound")
    shapes.make(shape, tmp_path / "src/bad")
    finished = repo_backup(*RUN, "--json", cwd=tmp_path, check=3)
    (bad,) = [row for row in finished.json["repositories"] if row["path"] == "bad"]
    assert (bad["status"], bad["bytes"], bad["plan"]) == ("failed", 0, None)
    said = f"{bad['reason']} {bad['hint']}"
    assert all(word in said for word in words), said
    stored = [*(tmp_path / "vault/folder/src/repositories").rglob("*.*")]
    assert all("sound" in path.parts for path in stored)
    assert finished.json["totals"]["captured"] == 1


def test_a_missing_object_is_named(lab: Lab) -> None:
    path = shapes.make("missing-object", lab.root / "bad")
    listed = git("rev-list", "--objects", "--all", "--missing=print", cwd=path).decode()
    (missing,) = [line[1:] for line in listed.splitlines() if line.startswith("?")]
    outcome = told(lab.run())["bad"]
    assert outcome.status == "failed"
    assert missing in outcome.reason


@pytest.mark.parametrize("shape", sorted(shapes.INCOMPLETE | {"missing-id-ref"}))
def test_a_reason_is_one_line_of_text(shape: str, lab: Lab) -> None:
    shapes.make(shape, lab.root / "bad")
    outcome = told(lab.run())["bad"]
    assert outcome.reason.isprintable(), outcome.reason


def test_a_ref_with_a_null_id_is_left_out_said_and_does_not_keep_the_rest_from_the_vault(
    lab: Lab, shaped: Callable[[str], Path]
) -> None:
    shutil.copytree(shaped("null-id-ref"), lab.root / "widgets")
    first = lab.run()
    status, plan, _ = done(first, "widgets")
    assert (status, plan) == ("captured", "full")
    assert [line.name for line in lab.record("widgets").refs] == ["refs/heads/main"]
    assert lab.run().count("unchanged") == 1


@pytest.mark.parametrize(("end", "with_files"), [("mended", False), ("deleted", True)])
def test_a_ref_that_a_crash_has_emptied_is_a_problem_each_night_until_it_is_mended_or_deleted(
    end: str, with_files: bool, tmp_path: Path
) -> None:
    path = Lab(tmp_path / "src").repository("widgets")
    lfs = "--lfs" if with_files else "--no-lfs"
    if with_files:
        # What the source does not have is looked for each night, though no ref moves.
        commit(path, "main", {"big.bin": pointer(b"somewhere else")})
        commit(path, "main", {"other.bin": pointer(b"here")})
        keep(path, b"here")
    topic = path / "refs/heads/topic"
    topic.write_bytes(git("rev-parse", MAIN, cwd=path))
    for code in (3, 0) if with_files else (0,):
        repo_backup(*RUN, lfs, cwd=tmp_path, check=code)
    lost = topic.read_bytes()
    topic.write_bytes(b"")
    named = "broken refs, to be mended or deleted at the source: 'refs/heads/topic'"
    for status in ("captured", "unchanged"):
        report = repo_backup(*RUN, lfs, "--json", cwd=tmp_path, check=3).json
        assert report["problems"] == [f"src/widgets: {named}"]
        assert report["totals"][status] == 1
        looked = repo_backup("status", "--from", "vault", cwd=tmp_path, check=3).stdout
        assert f"error: folder/src/widgets: it is not whole: {named}" in looked
        assert "refs left out" not in looked
        (row,) = repo_backup("list", "--from", "vault", "--json", cwd=tmp_path).json["repositories"]
        assert row["state"] == "unfinished"
        assert row["reason"].startswith(named)
    if end == "mended":
        topic.write_bytes(lost)
    else:
        topic.unlink()
    repo_backup(*RUN, lfs, cwd=tmp_path)
    repo_backup("status", "--from", "vault", cwd=tmp_path)
    repo_backup("restore", "widgets", "--from", "vault", "back.git", cwd=tmp_path)
    assert_same_mirror(tmp_path / "back.git", path)


def test_a_ref_that_no_disk_can_hold_is_named_and_a_problem_once(tmp_path: Path) -> None:
    path = Lab(tmp_path / "src").repository("widgets")
    oid = git("rev-parse", MAIN, cwd=path).strip()
    # git does not look at the names in this file.
    (path / "packed-refs").write_bytes(b"%b refs/heads/%b\n" % (oid, b"a/" + b"b" * 300))
    for code in (3, 0):
        report = repo_backup(*RUN, "--json", cwd=tmp_path, check=code).json
        assert len(report["problems"]) == (code == 3)
        looked = repo_backup("status", "--from", "vault", cwd=tmp_path).stdout
        assert "info: folder/src/widgets: 1 refs left out, first 'refs/heads/a/bbb" in looked


def test_a_history_that_is_cut_off_later_keeps_what_was_stored(lab: Lab, tmp_path: Path) -> None:
    path = lab.repository("widgets", 8)
    lab.run()
    before = lab.entry("widgets").record
    commits = git("rev-list", MAIN, cwd=path).split()
    (path / "shallow").write_bytes(commits[4] + b"\n")
    push(path)
    report = lab.run()
    assert told(report)["widgets"].reason.startswith("the repository is shallow")
    assert lab.entry("widgets").record == before
    (path / "shallow").unlink()
    assert done(lab.run(), "widgets")[:2] == ("captured", "incremental")


def test_a_full_that_lacks_an_object_is_never_recorded(lab: Lab) -> None:
    path = lab.repository("widgets", 5)
    tree = git("rev-parse", MAIN + b"~2^{tree}", cwd=path).strip().decode()
    (path / "objects" / tree[:2] / tree[2:]).unlink()
    report = lab.run()
    assert (report.exit_code, statuses(report)) == (1, {"widgets": "failed"})
    assert lab.entry("widgets").record is None
    assert not [key for key in lab.stored() if "/repositories/" in key]


@pytest.mark.parametrize("shape", ["sha256", "packed-and-loose", "odd-names", "working"])
def test_repositories_of_odd_shapes_come_back_through_the_program(
    shape: str, tmp_path: Path, shaped: Callable[[str], Path]
) -> None:
    (tmp_path / "src").mkdir()
    shutil.copytree(shaped(shape), tmp_path / "src/widgets", symlinks=True)
    repo_backup(*RUN, cwd=tmp_path)
    repo_backup("restore", "src/widgets", "--from", "vault", "out.git", cwd=tmp_path)
    assert_same_mirror(
        tmp_path / "out.git", shaped(shape), ignore=(b"refs/worktree/", b"refs/bisect/")
    )


def test_no_hook_no_alias_and_no_program_of_a_repository_is_run(tmp_path: Path) -> None:
    """A repository's own configuration is not trusted with more than reading it."""
    path = Lab(tmp_path / "src").repository("widgets")
    seen = tmp_path / "seen"
    hook = tmp_path / "hook"
    hook.write_text(f"#!/bin/sh\ntouch {seen}\nexec cat\n")
    hook.chmod(0o755)
    settings = {
        "uploadpack.packObjectsHook": hook,
        "core.fsmonitor": hook,
        "core.sshCommand": hook,
        "core.hooksPath": tmp_path,
    }
    for name, value in settings.items():
        git("config", name, value, cwd=path)
    for name in ("post-checkout", "pre-push", "post-index-change", "reference-transaction"):
        (path / "hooks").mkdir(exist_ok=True)
        shutil.copy(hook, path / "hooks" / name)
    repo_backup(*RUN, cwd=tmp_path)
    assert not seen.exists()


# --- Other users -------------------------------------------------------------------------------


def test_repositories_that_git_takes_for_another_users_are_read(tmp_path: Path) -> None:
    Lab(tmp_path / "src").repository("bare")
    working(tmp_path / "src/tree")
    shim = tmp_path / "bin/git"
    shim.parent.mkdir()
    real = shutil.which("git")
    shim.write_text(f'#!/bin/sh\nGIT_TEST_ASSUME_DIFFERENT_OWNER=1 exec {real} "$@"\n')
    shim.chmod(0o755)
    path = {"PATH": f"{shim.parent}:{os.environ['PATH']}"}
    refused = subprocess.run(
        ["git", "upload-pack", "--strict", tmp_path / "src/tree/.git"],
        env=environment(path),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    assert b"dubious ownership" in refused.stderr
    report = repo_backup(*RUN, "--json", cwd=tmp_path, env=path).json
    assert report["totals"]["captured"] == 2


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Give a folder that every user may enter, unlike the temporary folder of the tests."""
    with tempfile.TemporaryDirectory(prefix="repo-backup-open-") as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


SOMEBODY = 12345
# Only root can give files away and become somebody else; for others the test above stands in.
ROOT = os.geteuid() == 0

AS_SOMEBODY = f"""
import os, sys
from backup.doors.cli import main
# The interpreter may lie where others cannot read: whatever a run imports is imported before.
main(["run", "--from", "src", "--to", "warm"])
os.setgroups([])
os.setgid({SOMEBODY})
os.setuid({SOMEBODY})
sys.exit(main(sys.argv[1:]))
"""


def give_to_somebody(*paths: Path) -> None:
    for path in paths:
        os.chown(path, SOMEBODY, SOMEBODY)


def assert_both_restored(folder: Path) -> None:
    trusted = {
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
    }
    for name in ("bare", "tree"):
        repo_backup("restore", name, "--from", "vault", f"{name}.git", cwd=folder)
        shown = git("for-each-ref", cwd=folder / "src" / name, env=trusted)
        assert shown
        assert git("for-each-ref", cwd=folder / f"{name}.git", env=trusted) == shown


@pytest.mark.parametrize("user", [SOMEBODY] if ROOT else [])
def test_root_reads_the_repositories_of_another_user(user: int, open_folder: Path) -> None:
    Lab(open_folder / "src").repository("bare")
    working(open_folder / "src/tree")
    give_to_somebody(open_folder / "src", *(open_folder / "src").rglob("*"))
    repo_backup(*RUN, cwd=open_folder)
    assert_both_restored(open_folder)


@pytest.mark.parametrize("user", [SOMEBODY] if ROOT else [])
def test_another_user_reads_the_repositories_of_root(user: int, open_folder: Path) -> None:
    Lab(open_folder / "src").repository("bare")
    working(open_folder / "src/tree")
    for name in ("vault", "tmp"):
        (open_folder / name).mkdir()
        give_to_somebody(open_folder / name)
    done = subprocess.run(
        [sys.executable, "-c", AS_SOMEBODY, *RUN],
        env=environment({"TMPDIR": str(open_folder / "tmp")}),
        cwd=open_folder,
        capture_output=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr.decode()
    stored = [path for path in (open_folder / "vault").rglob("*") if path.is_file()]
    assert {path.stat().st_uid for path in stored} == {user}
    assert_both_restored(open_folder)


# --- Vault and source --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "vault"),
    [
        ("src", "src/vault"),
        ("src", "src"),
        ("src/widgets", "src"),
        ("src", "link/vault"),
        ("link", "src/widgets/vault"),
        ("git:src/widgets", "src/widgets/vault"),
        ("git:src/widgets", "src"),
    ],
)
def test_a_vault_within_its_source_or_around_it_is_refused(
    source: str, vault: str, tmp_path: Path
) -> None:
    Lab(tmp_path / "src").repository("widgets")
    (tmp_path / "link").symlink_to("src")
    before = sorted(tmp_path.rglob("*"))
    finished = repo_backup("run", "--from", source, "--to", vault, cwd=tmp_path, check=2)
    assert "give a folder apart from it" in finished.stderr
    assert sorted(tmp_path.rglob("*")) == before


def test_a_run_changes_nothing_in_its_source(tmp_path: Path) -> None:
    Lab(tmp_path / "src").repository("bare")
    working(tmp_path / "src/tree")
    shapes.make("working", tmp_path / "src/with-links")
    shapes.make("missing-object", tmp_path / "src/bad")

    def contents() -> dict[str, tuple[int, int]]:
        found = ((str(path), path.lstat()) for path in (tmp_path / "src").rglob("*"))
        return {name: (status.st_mtime_ns, status.st_size) for name, status in found}

    before = contents()
    repo_backup(*RUN, cwd=tmp_path, check=3)
    assert contents() == before


def test_a_repository_that_is_pushed_to_during_the_run_is_captured_whole(lab: Lab) -> None:
    """What was listed is what is captured: later pushes are the next run's."""
    path = lab.repository("widgets")
    before = mirror_state(path)

    class Pushes(TerminalEvents):
        def capturing(self, name: str, action: str, reason: str) -> None:
            orphan = commit_chain(path, 2, label=b"orphan")[-1]
            update_refs(path, {MAIN: orphan})

    lab.run(events=Pushes(Console(quiet=True)))
    assert {line.name.encode(): line.id.encode() for line in lab.record("widgets").refs} == {
        **before.refs
    }
    assert done(lab.run(), "widgets")[:2] == ("captured", "incremental")


def test_a_ref_whose_object_is_collected_during_the_run_is_asked_for_again(lab: Lab) -> None:
    path = lab.repository("widgets")

    class Collects(TerminalEvents):
        times = 0

        def capturing(self, name: str, action: str, reason: str) -> None:
            self.times += 1
            if self.times == 1:
                update_refs(path, {MAIN: commit_chain(path, 2, label=b"orphan")[-1]})
                git("prune", "--expire=now", cwd=path)

    events = Collects(Console(quiet=True))
    assert statuses(lab.run(events=events)) == {"widgets": "captured"}
    assert events.times == 2
    tip = git("rev-parse", MAIN, cwd=path).strip().decode()
    assert [line.id for line in lab.record("widgets").refs] == [tip]


# --- Formats that the installed git does not read -------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "what"),
    [
        ({"core.repositoryFormatVersion": "99"}, "core.repositoryformatversion = 99"),
        (
            {"core.repositoryFormatVersion": "1", "extensions.notYetInvented": "true"},
            "extensions.notyetinvented",
        ),
        (
            {
                "core.repositoryFormatVersion": "1",
                "extensions.notYetInvented": "true",
                "extensions.norThis": "true",
            },
            "extensions.notyetinvented, extensions.northis",
        ),
    ],
)
def test_a_repository_in_a_newer_format_is_said_to_be_one(
    settings: dict[str, str], what: str, lab: Lab, tmp_path: Path
) -> None:
    newer = lab.repository("newer")
    lab.repository("other")
    for name, value in settings.items():
        # git itself would not touch the file once it says what it cannot read.
        section, _, key = name.partition(".")
        with (newer / "config").open("a") as file:
            file.write(f"[{section}]\n\t{key} = {value}\n")
    rows = repo_backup(*RUN, "--json", cwd=tmp_path, check=3).json["repositories"]
    failed, other = sorted(rows, key=lambda row: str(row["path"]))
    assert (failed["status"], other["status"]) == ("failed", "captured")
    version = git("--version").decode().strip()
    assert failed["reason"].endswith(
        f"src/newer: the repository is in a newer format than {version} reads ({what})"
    )
    assert "a newer git" in failed["hint"]
    with pytest.raises(RepositoryUnavailable, match="in a newer format than git reads"):
        ask_remote(str(newer), reach=Reach("file", safe=[newer]), stop=Stop())
