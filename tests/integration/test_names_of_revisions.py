"""Where git would take a ref for HEAD, or a name for an id."""

from pathlib import Path

import pytest

from backup.errors import BrokenChain
from backup.git.objects import ObjectReader
from backup.git.rebuild import Rebuild
from backup.model import ObjectId
from backup.stopping import Stop
from tests.support.git import commit_chain, git, init_bare, set_head, update_refs, write_blob
from tests.support.mirrors import mirror_state
from tests.support.program import repo_backup


def test_a_branch_called_head_is_not_taken_for_head(tmp_path: Path) -> None:
    path = init_bare(tmp_path / "acme" / "widgets.git")
    update_refs(path, {b"refs/heads/HEAD": commit_chain(path, 1)[0]})
    set_head(path, b"refs/heads/unborn")
    vault = tmp_path / "vault"
    repo_backup("run", "--from", path.parent, "--to", vault)
    repo_backup("restore", "widgets", "--from", vault, "--checkout", tmp_path / "clone")
    assert [one.name for one in (tmp_path / "clone").iterdir()] == [".git"]
    assert mirror_state(tmp_path / "clone").refs == mirror_state(path).refs
    assert git("symbolic-ref", "HEAD", cwd=tmp_path / "clone") == b"refs/heads/unborn\n"


def test_an_object_is_read_by_its_whole_id_alone(tmp_path: Path) -> None:
    path = init_bare(tmp_path / "one.git", "sha256")
    (commit,) = (one.decode() for one in commit_chain(path, 1))
    blob = write_blob(path, b"content").decode()
    update_refs(path, {b"refs/heads/main": commit.encode()})
    # A commit can name anything as its parent.
    names = ["main", "HEAD", "refs/heads/main", commit[:40], f"{commit} x", "a b c", "", blob]
    with ObjectReader(path, Stop()) as objects:
        *others, last = objects.read(names)
    assert (others, last) == ([None] * 7, ("blob", b"content"))


def test_a_tip_is_proved_present_by_its_whole_id_alone(tmp_path: Path) -> None:
    path = tmp_path / "one.git"
    rebuild = Rebuild(path, object_format="sha256", stop=Stop())
    (commit,) = (ObjectId(one.decode()) for one in commit_chain(path, 1))
    rebuild.prove_present([commit, commit])
    for absent in ("0" * 63 + "1", commit[:40]):
        with pytest.raises(BrokenChain, match=f"does not hold {absent}, which a ref points at"):
            rebuild.prove_present([commit, ObjectId(absent)])
