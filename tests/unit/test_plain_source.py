"""Repositories on this machine: which are found, what they are called, and who they are."""

import hashlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from backup.errors import RepositoryUnavailable, SourceError
from backup.model import Absence, Repository
from backup.sources.confined import way_out
from backup.sources.plain import (
    FolderSource,
    GitUrlSource,
    find_git_folder,
    incomplete_because,
    missing_because,
    open_git_folder,
)


def bare(path: Path) -> Path:
    """Make what git takes for a repository: HEAD, objects and refs."""
    (path / "objects").mkdir(parents=True)
    (path / "refs").mkdir()
    (path / "HEAD").write_text("ref: refs/heads/main\n")
    return path


def working(path: Path) -> Path:
    bare(path / ".git")
    return path


def listed(root: Path, owner: str = "acme") -> dict[str, Repository]:
    found = list(FolderSource(root, owner=owner).repositories())
    by_path = {one.path: one for one in found}
    assert len(by_path) == len(found)
    return by_path


# --- What is found -----------------------------------------------------------------------------


def test_repositories_are_found_however_deep_bare_or_with_a_work_tree(tmp_path: Path) -> None:
    bare(tmp_path / "one.git")
    bare(tmp_path / "group" / "sub" / "two.git")
    working(tmp_path / "group" / "three")
    (tmp_path / "no-repository" / "src").mkdir(parents=True)
    (tmp_path / "file").write_text("")
    found = listed(tmp_path)
    assert [*found] == ["group/sub/two", "group/three", "one"]
    assert found["one"].clone_url == str(tmp_path / "one.git")
    assert {one.kind for one in found.values()} == {"code"}
    assert {one.owner for one in found.values()} == {"acme"}
    assert {one.host for one in found.values()} == {"folder"}


def test_an_empty_folder_has_no_repositories(tmp_path: Path) -> None:
    assert listed(tmp_path) == {}


def test_a_folder_that_is_itself_a_repository_is_listed_by_its_name(tmp_path: Path) -> None:
    bare(tmp_path / "widgets.git")
    assert [*listed(tmp_path / "widgets.git")] == ["widgets"]
    working(tmp_path / "gadgets")
    assert [*listed(tmp_path / "gadgets")] == ["gadgets"]


def test_nothing_is_looked_for_within_a_bare_repository(tmp_path: Path) -> None:
    bare(bare(tmp_path / "outer.git") / "worktrees" / "inner.git")
    assert [*listed(tmp_path)] == ["outer"]


def test_repositories_within_a_work_tree_are_repositories_of_their_own(tmp_path: Path) -> None:
    working(tmp_path / "outer")
    bare(tmp_path / "outer" / "vendor" / "inner.git")
    working(tmp_path / "outer" / "nested")
    assert [*listed(tmp_path)] == ["outer", "outer/nested", "outer/vendor/inner"]


@pytest.mark.parametrize("missing", ["HEAD", "objects", "refs"])
def test_what_lacks_a_part_is_no_repository(missing: str, tmp_path: Path) -> None:
    path = bare(tmp_path / "almost.git")
    part = path / missing
    part.unlink() if part.is_file() else part.rmdir()
    assert find_git_folder(path) is None


@pytest.mark.parametrize("ending", ["", "\n", "\r\n"])
def test_a_submodule_is_a_repository_where_its_file_leads(ending: str, tmp_path: Path) -> None:
    outer = working(tmp_path / "outer")
    bare(outer / ".git" / "modules" / "lib")
    (outer / "lib").mkdir()
    (outer / "lib" / ".git").write_bytes(b"gitdir: ../.git/modules/lib" + ending.encode())
    found = listed(tmp_path)
    assert [*found] == ["outer", "outer/lib"]
    folder = open_git_folder(found["outer/lib"])
    assert folder.git_directory.resolve() == (outer / ".git" / "modules" / "lib").resolve()
    assert folder.work_tree == outer / "lib"


def test_a_linked_work_tree_is_left_out_since_its_repository_is_elsewhere(tmp_path: Path) -> None:
    outer = working(tmp_path / "outer")
    administration = bare(outer / ".git" / "worktrees" / "linked")
    (administration / "commondir").write_text("../..\n")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / ".git").write_text(f"gitdir: {administration}\n")
    assert [*listed(tmp_path)] == ["outer"]


@pytest.mark.parametrize(
    "content", [b"", b"hello", b"gitdir: ", b"gitdir: nowhere\n", b"gitdir: \xff\xfe\n", b"\0" * 99]
)
def test_a_git_file_that_leads_nowhere_is_a_repository_with_a_problem(
    content: bytes, tmp_path: Path
) -> None:
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / ".git").write_bytes(content)
    (found,) = listed(tmp_path).values()
    assert "its .git file " in found.problem
    assert found.problem.isprintable()
    with pytest.raises(RepositoryUnavailable):
        open_git_folder(found)


# --- Links -------------------------------------------------------------------------------------


def test_links_within_the_folder_are_followed_and_loops_end(tmp_path: Path) -> None:
    elsewhere = tmp_path / "work" / "else" / "where"
    # In a work tree links are content, and the folder they lead to is searched on its own.
    bare(elsewhere / "widgets.git")
    (tmp_path / "a-link").symlink_to(elsewhere)
    (elsewhere / "back").symlink_to(tmp_path)
    (tmp_path / "self").symlink_to(tmp_path)
    (tmp_path / "dot").symlink_to(".")
    (tmp_path / "nowhere").symlink_to("missing")
    (tmp_path / "round").symlink_to("round")
    assert [*listed(tmp_path)] == ["work/else/where/widgets"]


@pytest.mark.parametrize("deep", [False, True])
def test_a_link_that_leads_out_of_the_folder_is_named_if_a_repository_lies_behind_it(
    deep: bool, tmp_path: Path
) -> None:
    root, elsewhere = tmp_path / "root", tmp_path / "elsewhere"
    bare(root / "fine.git")
    behind = bare(elsewhere / "secret-name.git" if deep else elsewhere)
    (root / "linked.git").symlink_to(elsewhere)
    (tmp_path / "nothing").mkdir()
    (root / "to-nothing").symlink_to(tmp_path / "nothing")
    source = FolderSource(root, owner="acme")
    fine, linked = source.repositories()
    assert (fine.path, fine.problem) == ("fine", "")
    assert (linked.path, linked.host_id) == ("linked", _hash(b"linked.git"))
    assert linked.problem == (
        f"linked.git is a symbolic link to {elsewhere}, outside of {root}: "
        "name the folder that holds both with --from"
    )
    assert "secret-name" not in linked.problem
    # What was stored of it by that name is not said to be gone.
    with pytest.raises(SourceError, match="is a symbolic link"):
        source.look_up(host_id="1", path=f"linked.git/{behind.name}", kind="code")
    with pytest.raises(RepositoryUnavailable, match=r"leads out of|is no git repository"):
        open_git_folder(linked)


def test_a_folder_that_is_reached_by_a_link_holds_what_lies_in_it(tmp_path: Path) -> None:
    bare(tmp_path / "real" / "one.git")
    (tmp_path / "link").symlink_to("real")
    (repository,) = FolderSource(tmp_path / "link", owner="acme").repositories()
    assert repository.problem == ""
    assert open_git_folder(repository).git_directory == tmp_path / "link" / "one.git"


def test_a_repository_with_two_names_is_listed_once(tmp_path: Path) -> None:
    bare(tmp_path / "a-real.git")
    (tmp_path / "b-link.git").symlink_to("a-real.git")
    assert [*listed(tmp_path)] == ["a-real"]


def test_a_link_that_comes_to_stand_beside_a_repository_does_not_make_it_another(
    tmp_path: Path,
) -> None:
    # Else the same repository would be gone one night and new, with a full, the next.
    bare(tmp_path / "real.git")
    before = listed(tmp_path)
    (tmp_path / "a-link.git").symlink_to("real.git")
    assert listed(tmp_path) == before


def test_links_within_a_work_tree_are_content_and_not_followed(tmp_path: Path) -> None:
    bare(tmp_path / "elsewhere" / "secret.git")
    working(tmp_path / "root" / "project")
    (tmp_path / "root" / "project" / "link").symlink_to(tmp_path / "elsewhere")
    assert [*listed(tmp_path / "root")] == ["project"]


# --- What cannot be read -----------------------------------------------------------------------


def test_a_missing_folder_is_an_error_and_never_an_empty_listing(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="cannot be read: No such file"):
        list(FolderSource(tmp_path / "missing", owner="x").repositories())


def test_a_file_in_place_of_the_folder_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SourceError, match="Not a directory"):
        list(FolderSource(tmp_path / "file", owner="x").repositories())


PROGRAM = """
import os, sys
from pathlib import Path
from backup.sources.plain import FolderSource
from backup.errors import SourceError
root = Path(sys.argv[1])
if os.geteuid() == 0:
    os.setgroups([]); os.setgid(65534); os.setuid(65534)
source = FolderSource(root, owner="acme")
for one in source.repositories():
    print(one.path, one.problem or "fine", sep="|")
for path in sys.argv[2:]:
    try:
        print(path, source.look_up(host_id="1", path=path, kind="code").answer, sep="|")
    except SourceError as error:
        print(path, error.message, sep="|")
"""


def as_somebody_else(root: Path, *paths: str) -> list[str]:
    """List a folder as a user who is not root, whoever runs the tests."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, root, *paths],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """Make a folder that every user can reach, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="plain-source-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        yield folder


def test_a_folder_that_cannot_be_read_is_named_and_hides_nothing_else(open_folder: Path) -> None:
    bare(open_folder / "fine.git")
    bare(open_folder / "locked" / "inner.git")
    (open_folder / "locked").chmod(0)
    try:
        said = as_somebody_else(open_folder, "locked/inner", "lockedness", "other")
    finally:
        (open_folder / "locked").chmod(0o755)
    refused = f"the folder {open_folder}/locked cannot be read: Permission denied"
    assert said == [
        "fine|fine",
        f"locked|{refused}",
        f"locked/inner|{refused}",
        "lockedness|not-visible",
        "other|not-visible",
    ]


def test_an_unreadable_root_is_an_error(open_folder: Path) -> None:
    bare(open_folder / "fine.git")
    root = open_folder / "root"
    root.mkdir(mode=0)
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, root], capture_output=True, text=True, check=False
    )
    assert "Permission denied" in done.stderr
    assert "SourceError" in done.stderr
    assert done.stdout == ""


# --- Who they are ------------------------------------------------------------------------------


def test_identity_is_the_place_below_the_folder(tmp_path: Path) -> None:
    bare(tmp_path / "before" / "group" / "widgets.git")
    before = listed(tmp_path / "before")["group/widgets"]
    (tmp_path / "before").rename(tmp_path / "after")
    after = listed(tmp_path / "after")["group/widgets"]
    assert before.host_id == after.host_id == _hash(b"group/widgets.git")
    (tmp_path / "after" / "group").rename(tmp_path / "after" / "team")
    assert listed(tmp_path / "after")["team/widgets"].host_id != before.host_id


def _hash(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()[:16]


def test_two_repositories_with_one_shown_name_stay_two(tmp_path: Path) -> None:
    bare(tmp_path / "widgets.git")
    working(tmp_path / "widgets")
    found = list(FolderSource(tmp_path, owner="x").repositories())
    assert [one.path for one in found] == ["widgets", "widgets"]
    assert len({one.host_id for one in found}) == 2


def test_names_that_are_not_utf8_are_shown_as_text_and_found_as_they_are(tmp_path: Path) -> None:
    raw = os.fsencode(tmp_path) + b"/odd\xe9/\xff.git"
    bare(Path(os.fsdecode(raw)))
    bare(tmp_path / "größe" / "a.git")
    found = listed(tmp_path)
    assert {*found} == {"odd%E9/%FF", "größe/a"}
    odd = found["odd%E9/%FF"]
    assert odd.host_id == _hash(b"odd\xe9/\xff.git")
    assert os.fsencode(odd.clone_url) == raw
    assert open_git_folder(odd).git_directory.exists()


def test_what_a_source_says_of_an_unreadable_odd_name_is_text(open_folder: Path) -> None:
    # It goes into the manifest, which is UTF-8.
    locked = Path(os.fsdecode(os.fsencode(open_folder) + b"/odd\xe9"))
    locked.mkdir(mode=0)
    program = PROGRAM.replace(
        'print(one.path, one.problem or "fine", sep="|")', "one.problem.encode()"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, open_folder], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr


def test_only_the_ending_is_left_out_of_a_name(tmp_path: Path) -> None:
    for name in ("a.git.git", "b.gitx", ".git.git", "c.GIT"):
        bare(tmp_path / name)
    assert {*listed(tmp_path)} == {"a.git", "b.gitx", ".git", "c.GIT"}


def test_the_source_is_where_it_lies_and_not_where_a_link_leads(tmp_path: Path) -> None:
    (tmp_path / "monday").mkdir()
    (tmp_path / "current").symlink_to("monday")
    source = FolderSource(tmp_path / "current", owner="acme")
    assert source.identity.location == str(tmp_path / "current")
    assert (source.identity.host, source.identity.owner) == ("folder", "acme")
    assert source.lists_everything


def test_a_repository_that_left_is_not_visible(tmp_path: Path) -> None:
    source = FolderSource(tmp_path, owner="acme")
    assert list(source.repositories()) == []
    answer = source.look_up(host_id="1", path="group/widgets", kind="code")
    assert isinstance(answer, Absence)
    assert answer.answer == "not-visible"
    assert "group/widgets" in answer.detail


# --- Paths given one by one --------------------------------------------------------------------


def test_locations_are_listed_in_the_order_given_each_once(tmp_path: Path) -> None:
    one, other = str(tmp_path / "b.git"), str(tmp_path / "a")
    source = GitUrlSource([one, other, f"{one}/", f"{tmp_path}/x/../b.git"], owner="acme")
    found = list(source.repositories())
    assert [(each.path, each.clone_url) for each in found] == [("b", one), ("a", other)]
    assert [each.host_id for each in found] == [_hash(one.encode()), _hash(other.encode())]
    assert {(each.host, each.owner) for each in found} == {("git", "acme")}
    assert not source.lists_everything


def test_locations_of_one_name_are_told_apart_by_where_they_lie(tmp_path: Path) -> None:
    places = [str(tmp_path / folder / "widgets.git") for folder in "ab"]
    found = list(GitUrlSource(places, owner="x").repositories())
    assert [one.path for one in found] == ["widgets", "widgets"]
    assert found[0].host_id != found[1].host_id


@pytest.mark.parametrize("made", [False, True])
def test_a_location_without_a_repository_is_unavailable_when_it_is_opened(
    made: bool, tmp_path: Path
) -> None:
    if made:
        (tmp_path / "x").mkdir()
    (repository,) = GitUrlSource([str(tmp_path / "x")], owner="x").repositories()
    with pytest.raises(RepositoryUnavailable, match="is no git repository"):
        open_git_folder(repository)


# --- What leads elsewhere ----------------------------------------------------------------------

BORROWED = "objects/info/alternates"


def leads(root: Path, place: str, target: Path | str) -> Path:
    """Make a repository of which one part lies elsewhere."""
    path = bare(root / "one.git")
    part = path / place
    if place == BORROWED:
        part.parent.mkdir()
        part.write_text(f"# pool\n{target}\n")
        return path
    if part.is_dir():
        part.rmdir()
    part.unlink(missing_ok=True)
    part.parent.mkdir(parents=True, exist_ok=True)
    part.symlink_to(target)
    return path


def elsewhere(folder: Path, place: str) -> Path:
    """Make another repository, and give that part of it."""
    part = bare(folder / "other.git") / place
    if place == BORROWED:
        return folder / "other.git" / "objects"
    if not part.exists():
        part.parent.mkdir(parents=True, exist_ok=True)
        part.write_text("")
    return part


PLACES = [
    *("HEAD", "objects", "refs", "packed-refs", "config", "info/grafts"),
    *("objects/ab", "objects/pack/pack-1.pack", "refs/heads/main", "refs/heads/a/b/c"),
    BORROWED,
]


@pytest.mark.parametrize("place", PLACES)
def test_a_repository_that_has_git_read_outside_of_its_folder_is_refused(
    place: str, tmp_path: Path
) -> None:
    target = elsewhere(tmp_path, place)
    leads(tmp_path / "root", place, target)
    for source in (
        FolderSource(tmp_path / "root", owner="acme"),
        GitUrlSource([str(tmp_path / "root" / "one.git")], owner="acme"),
    ):
        (repository,) = source.repositories()
        with pytest.raises(RepositoryUnavailable) as caught:
            open_git_folder(repository)
        assert "one.git leads out of" in caught.value.message
        assert str(target) in caught.value.message
        assert caught.value.hint == "name the folder that holds both with --from"


@pytest.mark.parametrize("place", ["objects/info/alternates", "packed-refs", "refs/heads/main"])
@pytest.mark.parametrize("linked", [False, True])
def test_what_is_neither_file_nor_folder_is_named_and_not_waited_for(
    linked: bool, place: str, tmp_path: Path
) -> None:
    """Whoever may write to one repository could else keep every run from ending."""
    repository = bare(tmp_path / "root" / "one.git")
    pipe = tmp_path / "root" / "pipe" if linked else repository / place
    (repository / place).parent.mkdir(parents=True, exist_ok=True)
    os.mkfifo(pipe)
    if linked:
        (repository / place).symlink_to(pipe)
    (one,) = FolderSource(tmp_path / "root", owner="acme").repositories()
    with pytest.raises(RepositoryUnavailable, match="pipe is a pipe|" + f"{place} is a pipe"):
        open_git_folder(one)


def test_a_git_directory_that_is_a_link_is_named_by_where_it_leads(tmp_path: Path) -> None:
    private = bare(tmp_path / "private.git")
    (tmp_path / "root" / "one").mkdir(parents=True)
    (tmp_path / "root" / "one" / ".git").symlink_to(private)
    (one,) = FolderSource(tmp_path / "root", owner="acme").repositories()
    with pytest.raises(RepositoryUnavailable, match=f"its git directory is {private}"):
        open_git_folder(one)


@pytest.mark.parametrize("place", PLACES)
def test_what_leads_elsewhere_within_the_folder_is_allowed(place: str, tmp_path: Path) -> None:
    leads(tmp_path, place, elsewhere(tmp_path, place))
    for repository in FolderSource(tmp_path, owner="acme").repositories():
        open_git_folder(repository)


@pytest.mark.parametrize("place", ["objects", BORROWED])
def test_a_way_out_over_a_place_within_the_folder_is_found(place: str, tmp_path: Path) -> None:
    root = tmp_path / "root"
    leads(root, place, elsewhere(root, place))
    pack = root / "other.git" / "objects" / "pack"
    pack.mkdir()
    (pack / "pack-1.pack").symlink_to(tmp_path / "secret.pack")
    assert "secret.pack" in _refusal(root / "one.git", root)


def test_stores_that_borrow_from_each_other_are_looked_at_once(tmp_path: Path) -> None:
    root = tmp_path / "root"
    path = leads(root, BORROWED, "../../other.git/objects")
    other = bare(root / "other.git") / "objects" / "info"
    other.mkdir()
    (other / "alternates").write_text("../../one.git/objects\n")
    assert way_out(path, root) == ""
    (other / "alternates").write_text(f"{tmp_path}/third.git/objects\n")
    assert "third.git" in _refusal(path, root)


@pytest.mark.parametrize(
    "line",
    [
        '"/quoted/objects"',
        "/elsewhere",
        "../../../elsewhere",
        # One name to git, which other readers take for two lines.
        "pack\x0c/../../../../elsewhere",
        "pack\x85/../../../../elsewhere",
        "pack\r/../../../../elsewhere",
    ],
)
def test_borrowed_objects_are_looked_for_where_git_does(line: str, tmp_path: Path) -> None:
    path = leads(tmp_path / "root", BORROWED, line)
    assert line in _refusal(path, tmp_path / "root")


def test_a_git_file_that_leads_out_of_the_folder_is_refused(tmp_path: Path) -> None:
    real = bare(tmp_path / "elsewhere.git")
    for name in ("file", "link"):
        (tmp_path / "root" / name).mkdir(parents=True)
    (tmp_path / "root" / "file" / ".git").write_text(f"gitdir: {real}\n")
    (tmp_path / "root" / "link" / ".git").symlink_to(real)
    (tmp_path / "root" / "relative" / "x").mkdir(parents=True)
    (tmp_path / "root" / "relative" / "x" / ".git").write_text("gitdir: ../../../elsewhere.git\n")
    found = listed(tmp_path / "root")
    assert len(found) == 3
    for repository in found.values():
        with pytest.raises(RepositoryUnavailable, match="its git directory is"):
            open_git_folder(repository)
    # Where both lie in it, they are its.
    for repository in listed(tmp_path).values():
        open_git_folder(repository)


def test_a_repository_with_the_objects_of_another_is_refused(tmp_path: Path) -> None:
    # git takes objects and refs from there, whatever lies beside it.
    path = bare(tmp_path / "one.git")
    bare(tmp_path / "other.git")
    (path / "commondir").write_text("../other.git\n")
    assert "commondir" in _refusal(path, tmp_path)


def test_links_that_go_round_and_hooks_elsewhere_are_no_way_out(tmp_path: Path) -> None:
    path = bare(tmp_path / "root" / "one.git")
    (path / "refs" / "round").symlink_to("round")
    (path / "hooks").symlink_to(tmp_path)
    (path / "lfs").symlink_to(tmp_path)
    assert way_out(path, tmp_path / "root") == ""


def test_a_link_at_any_depth_is_found(tmp_path: Path) -> None:
    path = bare(tmp_path / "root" / "one.git")
    deepest = path / "refs" / "/".join("a" * 100)
    deepest.mkdir(parents=True)
    assert way_out(path, tmp_path / "root") == ""
    (deepest / "out").symlink_to(tmp_path)
    assert "its refs has a symbolic link" in _refusal(path, tmp_path / "root")


def _refusal(path: Path, root: Path) -> str:
    reason = way_out(path, root)
    assert reason
    return reason


# --- What is known to be incomplete ------------------------------------------------------------


def test_a_whole_repository_has_nothing_against_it(tmp_path: Path) -> None:
    path = bare(tmp_path / "whole.git")
    (path / "shallow").write_bytes(b"")
    (path / "objects" / "pack").mkdir()
    assert incomplete_because(path) == ""
    assert missing_because(path) == ""


def test_a_cut_off_history_is_told(tmp_path: Path) -> None:
    path = bare(tmp_path / "cut.git")
    (path / "shallow").write_text("1" * 40 + "\n")
    assert "shallow" in incomplete_because(path)


def test_a_partial_clone_is_told_where_objects_are_missing(tmp_path: Path) -> None:
    path = bare(tmp_path / "partial.git")
    (path / "objects" / "pack").mkdir()
    (path / "objects" / "pack" / "pack-1.promisor").write_text("")
    # Its objects may all have come since.
    assert incomplete_because(path) == ""
    assert "partial clone" in missing_because(path)


def test_borrowed_objects_that_are_gone_are_told_and_others_are_not(tmp_path: Path) -> None:
    path = bare(tmp_path / "borrower.git")
    bare(tmp_path / "lender.git")
    (path / "objects" / "info").mkdir()
    listing = path / "objects" / "info" / "alternates"
    absolute = tmp_path / "lender.git" / "objects"
    listing.write_text(f"# a comment\n\n{absolute}\n../../lender.git/objects\n")
    assert missing_because(path) == ""
    listing.write_text(f"{absolute}\n../../gone.git/objects\n")
    assert "../../gone.git/objects" in missing_because(path)
