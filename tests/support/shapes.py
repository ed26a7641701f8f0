"""Repositories of every shape that a forge may serve, each made by its name.

A maker takes a path that does not exist and makes one repository there, the same at every call.
What a shape needs beside itself (a lender of objects, a linked working tree) lies inside it, so
that it can be moved, and so that a folder of shapes holds nothing else.
"""

import random
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.support.git import (
    COMMITTER,
    EPOCH,
    FastImport,
    commit_chain,
    git,
    init_bare,
    set_head,
    update_refs,
    write_blob,
    write_object,
    write_tag,
    write_tree,
)

Maker = Callable[[Path], None]

SHAPES: dict[str, Maker] = {}
"""Every maker by name: that of its function, with hyphens."""

INCOMPLETE = frozenset({"shallow", "partial", "broken-alternates", "missing-object"})
"""Shapes that lack objects, so that no backup of them can be whole."""

BROKEN_REFS = frozenset({"null-id-ref", "missing-id-ref", "missing-id-head"})
"""Shapes that advertise a ref or HEAD at an object that never was, on which ``git clone`` fails."""

LARGE = frozenset({"big-blob"})
"""Shapes that take long to move about."""

MISSING_ID = b"deadbeef" * 5
LENDER = "lender.git"


def _shape(maker: Maker) -> Maker:
    SHAPES[maker.__name__.replace("_", "-")] = maker
    return maker


def _with_main(path: Path, count: int = 3) -> list[bytes]:
    init_bare(path)
    chain = commit_chain(path, count)
    update_refs(path, {b"refs/heads/main": chain[-1]})
    return chain


@_shape
def empty(path: Path) -> None:
    init_bare(path)


@_shape
def many_branches(path: Path) -> None:
    """300 branches, each with a commit of its own, over one shared history."""
    chain = _with_main(path, 20)
    stream = FastImport(path)
    for number in range(300):
        stream.commit(
            [chain[number % 20]], files={b"own.txt": b"%d\n" % number}, message=b"own %d\n" % number
        )
    tips = stream.run().values()
    update_refs(path, {b"refs/heads/topic/%03d" % number: tip for number, tip in enumerate(tips)})


@_shape
def five_thousand_refs(path: Path) -> None:
    chain = _with_main(path, 100)
    update_refs(path, {b"refs/tags/build-%04d" % n: chain[n % 100] for n in range(5000)})


@_shape
def long_chain(path: Path) -> None:
    _with_main(path, 4000)


@_shape
def nested_tags(path: Path) -> None:
    """Annotated tags of annotated tags, one of which no ref names itself."""
    chain = _with_main(path)
    first = write_tag(path, chain[0], "commit", b"first")
    second = write_tag(path, first, "tag", b"second")
    third = write_tag(path, second, "tag", b"third")
    tags = {b"refs/tags/first": first, b"refs/tags/third": third}
    update_refs(path, {**tags, b"refs/tags/light": chain[1], b"refs/heads/tagged": chain[0]})


@_shape
def tags_of_trees_and_blobs(path: Path) -> None:
    """Annotated tags of objects that no commit holds."""
    _with_main(path)
    blob = write_blob(path, b"a public key\n")
    tree = write_tree(path, [(b"100644", b"blob", write_blob(path, b"data\n"), b"data.txt")])
    of_blob = write_tag(path, blob, "blob", b"key")
    of_tree = write_tag(path, tree, "tree", b"data")
    nested = write_tag(path, of_blob, "tag", b"nested")
    tags = {b"refs/tags/key": of_blob, b"refs/tags/data": of_tree, b"refs/tags/nested": nested}
    update_refs(path, tags)


@_shape
def light_tags_of_trees_and_blobs(path: Path) -> None:
    """Refs straight to a blob and a tree that no commit holds."""
    _with_main(path)
    blob = write_blob(path, b"a public key\n")
    tree = write_tree(path, [(b"100644", b"blob", write_blob(path, b"data\n"), b"data.txt")])
    update_refs(path, {b"refs/tags/blob": blob, b"refs/tags/tree": tree, b"refs/data/tree": tree})


@_shape
def notes(path: Path) -> None:
    for commit in _with_main(path):
        git("notes", "add", "-m", "a note", commit.decode(), cwd=path)
        git("notes", "--ref=review", "add", "-m", "a review", commit.decode(), cwd=path)


ODD_NAMES: tuple[bytes, ...] = (
    "refs/heads/größe/ünïcode".encode(),
    "refs/heads/日本語".encode(),
    "refs/heads/🚀-launch".encode(),
    "refs/tags/e\u0301-and-\u00e9".encode(),
    b"refs/heads/100%/%2F%20%00",
    b"refs/heads/user@host",
    b"refs/heads/a+b=c,d",
    b"refs/heads/it's",
    b'refs/heads/"quoted"',
    b"refs/heads/$(touch-hacked)`id`",
    b"refs/heads/a;b&c|d",
    b"refs/heads/<script>alert(1)<",
    b"refs/heads/!bang#hash{x}",
    b"refs/heads/-rf",
    b"refs/heads/--upload-pack=x",
    b"refs/heads/topic/-x/y",
    b"refs/heads/%0A%0D-%25",
    "refs/heads/line\u2028separator-and-next\u0085line".encode(),
    "refs/heads/right-to-\u202eleft".encode(),
    b"refs/heads/HEAD",
    b"refs/heads/refs/heads/x",
    b"refs/heads/deadbeefdeadbeefdeadbeefdeadbeefdeadbeef",
    b"refs/heads/UPPER",
    b"refs/heads/|pipe|in|a|table|",
    b"refs/heads/deep/" + b"/".join(b"%d" % level for level in range(60)),
    b"refs/heads/long/" + b"/".join(letter * 200 for letter in (b"a", b"b", b"c")),
    b"refs/tags/v1.0.0-rc.1+build.5",
    b"refs/tags/x" + b"y" * 230,
)


@_shape
def odd_names(path: Path) -> None:
    """Names that git allows and scripts break on, all of them UTF-8."""
    chain = commit_chain(init_bare(path), len(ODD_NAMES))
    refs = dict(zip(ODD_NAMES, chain, strict=True))
    update_refs(path, {**refs, b"refs/heads/main": chain[-1]})


@_shape
def letter_case(path: Path) -> None:
    """Names that differ only in case, hence collide on some file systems."""
    chain = _with_main(path)
    update_refs(path, {b"refs/heads/Topic": chain[0], b"refs/heads/topic": chain[1]})
    git("pack-refs", "--all", cwd=path)


@_shape
def non_utf8_names(path: Path) -> None:
    chain = _with_main(path)
    latin = (b"refs/heads/\xe9t\xe9", b"refs/tags/\xff\xfe", b"refs/heads/\x80mixed-\xc3\xa9")
    update_refs(path, dict(zip(latin, chain, strict=True)))


@_shape
def custom_refs(path: Path) -> None:
    """Refs outside of heads, tags and notes."""
    init_bare(path)
    chain = commit_chain(path, 5)
    names = (
        b"refs/heads/main",
        b"refs/custom/x",
        b"refs/changes/01/1/1",
        b"refs/meta/config",
        b"refs/backup",
    )
    update_refs(path, dict(zip(names, chain, strict=True)))


@_shape
def hidden_refs(path: Path) -> None:
    """What GitHub and GitLab keep for themselves, each with a commit that nothing else reaches."""
    base = _with_main(path)[-1]
    names = (
        b"refs/pull/1/head",
        b"refs/pull/1/merge",
        b"refs/merge-requests/1/head",
        b"refs/merge-requests/1/merge",
        b"refs/keep-around/" + base,
        b"refs/pipelines/1",
        b"refs/environments/production/deployments/1",
    )
    refs = {name: commit_chain(path, 1, start=base, label=name[5:])[0] for name in names}
    update_refs(path, {**refs, b"refs/heads/pull": base, b"refs/tags/pull/1/head": base})


@_shape
def unborn_head(path: Path) -> None:
    """HEAD names a branch that does not exist, while others do."""
    chain = commit_chain(init_bare(path), 3)
    update_refs(path, {b"refs/heads/develop": chain[-1], b"refs/heads/old": chain[0]})
    set_head(path, b"refs/heads/gone")


@_shape
def unborn_head_under_a_branch(path: Path) -> None:
    """HEAD names ``refs/heads/main``, which cannot exist beside ``refs/heads/main/next``."""
    chain = commit_chain(init_bare(path), 3)
    update_refs(path, {b"refs/heads/main/next": chain[-1]})


@_shape
def detached_head_alone(path: Path) -> None:
    """HEAD is a commit that no ref reaches."""
    chain = _with_main(path)
    set_head(path, commit_chain(path, 2, start=chain[0], label=b"detached")[-1])


@_shape
def detached_head_without_refs(path: Path) -> None:
    set_head(init_bare(path), commit_chain(path, 2)[-1])


@_shape
def detached_head_on_branch(path: Path) -> None:
    set_head(path, _with_main(path)[-1])


@_shape
def head_among_equals(path: Path) -> None:
    """HEAD names one of several branches at the same commit, not the first of them."""
    tip = _with_main(path)[-1]
    update_refs(path, {b"refs/heads/a": tip, b"refs/heads/develop": tip, b"refs/heads/master": tip})
    set_head(path, b"refs/heads/develop")


@_shape
def symrefs(path: Path) -> None:
    """Symbolic refs other than HEAD, also one to nowhere; HEAD goes through one of them."""
    chain = _with_main(path)
    update_refs(path, {b"refs/remotes/origin/main": chain[0]})
    git("symbolic-ref", "refs/remotes/origin/HEAD", "refs/remotes/origin/main", cwd=path)
    git("symbolic-ref", "refs/heads/alias", "refs/heads/main", cwd=path)
    git("symbolic-ref", "refs/heads/dangling", "refs/heads/nowhere", cwd=path)
    set_head(path, b"refs/heads/alias")


@_shape
def sha256(path: Path) -> None:
    init_bare(path, "sha256")
    chain = commit_chain(path, 10)
    tag = write_tag(path, chain[4], "commit", b"v1")
    update_refs(path, {b"refs/heads/main": chain[-1], b"refs/tags/v1": tag})


@_shape
def orphans(path: Path) -> None:
    """Branches that share no history."""
    init_bare(path)
    for label in (b"main", b"gh-pages", b"docs"):
        update_refs(path, {b"refs/heads/" + label: commit_chain(path, 3, label=label)[-1]})


@_shape
def octopus(path: Path) -> None:
    """A merge of six branches, and a criss-cross of merges."""
    base = commit_chain(init_bare(path), 1)[0]
    arms = [commit_chain(path, 2, start=base, label=b"arm-%d" % n)[-1] for n in range(6)]
    stream = FastImport(path)
    merged = stream.commit(arms, files={b"merged": b"all\n"}, message=b"octopus\n")
    left = stream.commit([arms[0], arms[1]], message=b"left\n")
    right = stream.commit([arms[1], arms[0]], message=b"right\n")
    crossed = stream.commit([left, right], message=b"crossed\n")
    ids = stream.run()
    update_refs(path, {b"refs/heads/main": ids[merged], b"refs/heads/crossed": ids[crossed]})


@_shape
def submodules(path: Path) -> None:
    """Links to commits of other repositories, which no backup of this one can hold."""
    init_bare(path)
    stream = FastImport(path)
    described = b'[submodule "lib"]\n\tpath = lib\n\turl = https://example.org/lib.git\n'
    first = stream.commit(files={b".gitmodules": described}, links={b"lib": b"ab" * 20})
    stream.commit([first], links={b"lib": b"cd" * 20}, message=b"bump\n")
    update_refs(path, {b"refs/heads/main": list(stream.run().values())[-1]})


@_shape
def fsck_warnings(path: Path) -> None:
    """Objects that ``git fsck --strict`` refuses and old repositories are full of."""
    init_bare(path)
    raw = bytes.fromhex(write_blob(path, b"text\n").decode())
    subtree = bytes.fromhex(write_object(path, "tree", b"100644 f\0" + raw).decode())
    padded = b"100664 group-writable\0" + raw + b"040000 padded\0" + subtree
    twice = b"100644 twice\0" + raw + b"100644 twice\0" + raw
    unsorted = b"100644 z\0" + raw + b"100644 a\0" + raw
    trees = [write_object(path, "tree", body) for body in (padded, twice, unsorted)]
    authors = (
        b"No Space<ada@example.org> %d +0000" % EPOCH,
        b"No Email %d +0000" % EPOCH,
        b"Odd Zone <ada@example.org> %d +051800" % EPOCH,
    )
    for number, (tree, author) in enumerate(zip(trees, authors, strict=True)):
        lines = (
            b"tree " + tree,
            b"author " + author,
            b"committer %s %d +0000" % (COMMITTER, EPOCH),
        )
        commit = write_object(path, "commit", b"\n".join([*lines, b"", b"message\n"]))
        update_refs(path, {b"refs/heads/old-%d" % number: commit})
    update_refs(path, {b"refs/heads/main": commit_chain(path, 1)[0]})
    # Tags of 2005 have no tagger.
    tip = git("rev-parse", "refs/heads/main", cwd=path).strip()
    bare = write_object(path, "tag", b"object %s\ntype commit\ntag v0\n\nv0\n" % tip)
    update_refs(path, {b"refs/tags/v0": bare})


@_shape
def odd_content(path: Path) -> None:
    """Empty trees, blobs and messages, bytes that are no text, an executable and a link."""
    init_bare(path)
    blobs = [write_blob(path, data) for data in (b"", b"\0\xff" * 500, b"#!/bin/sh\n", b"target")]
    kinds = (b"100644", b"100644", b"100755", b"120000")
    names = (b"empty", b"bin\xe9ry", b"run", b"symlink")
    rows = zip(kinds, blobs, names, strict=True)
    tree = write_tree(path, [(mode, b"blob", blob, name) for mode, blob, name in rows])
    parent = b""
    for body in (write_tree(path, []), tree):
        lineage = b"parent %s\n" % parent if parent else b""
        signature = b"encoding latin1\ngpgsig -----BEGIN-----\n x\n -----END-----\n"
        who = b"%s %d +1345\n" % (COMMITTER, EPOCH)
        lines = b"tree %s\n%sauthor %scommitter %s%s\n" % (body, lineage, who, who, signature)
        parent = write_object(path, "commit", lines)
    update_refs(path, {b"refs/heads/main": parent})


@_shape
def big_blob(path: Path) -> None:
    """64 MB that cannot be compressed."""
    init_bare(path)
    data = random.Random(64).randbytes(64_000_000)
    store = ("-c", "core.compression=0", "hash-object", "-w", "--stdin")
    blob = git(*store, cwd=path, input=data).strip()
    tree = write_tree(path, [(b"100644", b"blob", blob, b"big.bin")])
    commit = git("commit-tree", "-m", "big", tree, cwd=path).strip()
    update_refs(path, {b"refs/heads/main": commit})


@_shape
def packed_and_loose(path: Path) -> None:
    """Objects in two packs and loose, refs packed, loose, and packed but moved since."""
    chain = _with_main(path, 30)
    update_refs(path, {b"refs/heads/moved": chain[5], b"refs/heads/still": chain[6]})
    tag = write_tag(path, chain[7], "commit", b"packed")
    update_refs(path, {b"refs/tags/packed": tag, b"refs/heads/deleted": chain[8]})
    git("repack", "-adq", cwd=path)
    git("pack-refs", "--all", cwd=path)
    more = commit_chain(path, 120, start=chain[-1], label=b"more")
    loose = commit_chain(path, 3, start=more[-1], label=b"loose")
    moved = {b"refs/heads/main": more[-1], b"refs/heads/moved": loose[-1]}
    update_refs(path, {**moved, b"refs/heads/deleted": None})


@_shape
def unreachable_objects(path: Path) -> None:
    """Objects that a force-push left behind: in the repository, but no part of its state."""
    chain = _with_main(path)
    left = commit_chain(path, 5, start=chain[0], label=b"left-behind")
    write_tag(path, left[-1], "commit", b"deleted")


@_shape
def replaced_objects(path: Path) -> None:
    """A replacement and a graft, which change what git shows but not what is stored."""
    chain = _with_main(path, 5)
    other = commit_chain(path, 2, label=b"other")
    root = commit_chain(path, 1, label=b"grafted")[0]
    update_refs(path, {b"refs/replace/" + chain[2]: other[1], b"refs/replace/" + chain[4]: root})


@_shape
def working(path: Path) -> None:
    """A working tree with a stash, a linked working tree and refs of its own."""
    path.mkdir(parents=True)
    git("init", "--quiet", "-b", "main", cwd=path)
    chain = commit_chain(path, 3)
    update_refs(path, {b"refs/heads/main": chain[-1], b"refs/remotes/origin/main": chain[0]})
    git("reset", "--quiet", "--hard", cwd=path)
    (path / "work.txt").write_text("not committed\n")
    git("stash", "push", "--quiet", cwd=path)
    (path / "work.txt").write_text("not even stashed\n")
    git("worktree", "add", "--quiet", "--detach", "linked", chain[1].decode(), cwd=path)
    alone = commit_chain(path, 1, start=chain[1], label=b"linked")[0]
    set_head(path / "linked", alone)
    update_refs(path, {b"refs/worktree/mine": chain[1], b"refs/bisect/bad": chain[2]})


@_shape
def alternates(path: Path) -> None:
    """Borrows most of its objects from another repository, which is there."""
    path.mkdir(parents=True)
    tip = _with_main(path / LENDER, 10)[-1]
    init_bare(path)
    (path / "objects/info/alternates").write_text(f"../{LENDER}/objects\n")
    update_refs(path, {b"refs/heads/main": tip})
    own = commit_chain(path, 2, start=tip, label=b"own")[-1]
    update_refs(path, {b"refs/heads/own": own})


@_shape
def broken_alternates(path: Path) -> None:
    """Borrows from a repository that is gone; the newest commits are its own."""
    alternates(path)
    shutil.rmtree(path / LENDER)


@_shape
def shallow(path: Path) -> None:
    """A clone of the newest two commits."""
    path.mkdir(parents=True)
    _with_main(path / LENDER, 10)
    source = (path / LENDER).resolve().as_uri()
    git("clone", "--quiet", "--bare", "--depth=2", source, path / "made.git")
    _move_up(path)


@_shape
def partial(path: Path) -> None:
    """A clone without blobs, whose promisor is gone."""
    path.mkdir(parents=True)
    _with_main(path / LENDER, 10)
    git("config", "uploadpack.allowFilter", "true", cwd=path / LENDER)
    source = (path / LENDER).resolve().as_uri()
    git("clone", "--quiet", "--bare", "--filter=blob:none", source, path / "made.git")
    _move_up(path)


@_shape
def missing_object(path: Path) -> None:
    """A blob in the middle of the history is gone."""
    chain = _with_main(path, 5)
    blob = git("rev-parse", chain[2] + b":work.txt", cwd=path).strip().decode()
    (path / "objects" / blob[:2] / blob[2:]).unlink()


@_shape
def null_id_ref(path: Path) -> None:
    _with_main(path)
    (path / "refs/heads/null").write_bytes(b"0" * 40 + b"\n")


@_shape
def missing_id_ref(path: Path) -> None:
    _with_main(path)
    (path / "refs/heads/missing").write_bytes(MISSING_ID + b"\n")


@_shape
def missing_id_head(path: Path) -> None:
    """All refs are sound; HEAD is detached at nothing."""
    _with_main(path)
    (path / "HEAD").write_bytes(MISSING_ID + b"\n")


SOUND = tuple(sorted(SHAPES.keys() - INCOMPLETE - BROKEN_REFS - LARGE))
"""Shapes that a backup must give back object for object, all but the large ones."""


def make(name: str, path: Path) -> Path:
    """Make the shape of that name."""
    SHAPES[name](path)
    return path


def _move_up(path: Path) -> None:
    """Put the clone in place of the folder around it, and drop what it was cloned from."""
    shutil.rmtree(path / LENDER)
    for item in (path / "made.git").iterdir():
        item.rename(path / item.name)
    (path / "made.git").rmdir()
