"""What a repository holds, compared whole; and the restore that needs git alone."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from tests.support.git import git, object_format, run_git, set_head

HIDDEN_REFS: tuple[bytes, ...] = (
    b"refs/pull/",
    b"refs/merge-requests/",
    b"refs/keep-around/",
    b"refs/pipelines/",
    b"refs/environments/",
)
"""Prefixes of the refs that forges keep for themselves."""


@dataclass(frozen=True, slots=True)
class MirrorState:
    """Everything in a repository that a backup must give back.

    Attributes:
        refs: full name to id, HEAD excluded; refs with a null id are no refs.
        peeled: for refs to annotated tags, what the tag finally points at.
        head_symref: the ref that HEAD names, existing or not; None when it is detached.
        head_id: what HEAD resolves to; None when it is unborn.
        objects: every object that the refs and HEAD reach.
        shallow: commits whose parents are cut off; empty for a whole repository.
        ignore: prefixes of the refs that were left out.
    """

    refs: Mapping[bytes, bytes]
    peeled: Mapping[bytes, bytes]
    head_symref: bytes | None
    head_id: bytes | None
    object_format: str
    objects: frozenset[bytes] = field(repr=False)
    shallow: frozenset[bytes] = frozenset()
    ignore: tuple[bytes, ...] = ()


def mirror_state(path: Path, ignore: Iterable[bytes] = ()) -> MirrorState:
    """Read a repository's refs, HEAD and objects.

    Args:
        path: a bare repository or a working tree.
        ignore: prefixes of refs to leave out, together with what only they reach.

    Raises:
        GitFailed: an object that a ref reaches is missing.
    """
    ignored = tuple(ignore)
    listed = git("for-each-ref", "--format=%(objectname) %(refname)", cwd=path)
    lines = [line.split(b" ", 1) for line in listed.splitlines()]
    refs = {name: tip for tip, name in lines if not name.startswith(ignored)}
    head_id = run_git("rev-parse", "--verify", "--quiet", "HEAD", cwd=path).stdout.strip() or None
    cut_off = Path(git("rev-parse", "--git-path", "shallow", cwd=path).decode().strip())
    shallow = (path / cut_off).read_bytes().split() if (path / cut_off).exists() else []
    return MirrorState(
        refs=refs,
        peeled=_peel(path, refs),
        head_symref=run_git("symbolic-ref", "--quiet", "HEAD", cwd=path).stdout.strip() or None,
        head_id=head_id,
        object_format=object_format(path),
        objects=reachable(path, [*refs.values(), *([head_id] if head_id else [])]),
        shallow=frozenset(shallow),
        ignore=ignored,
    )


def reachable(path: Path, tips: Iterable[bytes]) -> frozenset[bytes]:
    """List every object that these reach, tags and their targets included."""
    asked = b"".join(b"%s\n" % tip for tip in sorted(set(tips)))
    if not asked:
        return frozenset()
    walk = ("rev-list", "--objects", "--no-object-names", "--stdin")
    return frozenset(git(*walk, cwd=path, input=asked).split())


def clone_mirror(source: Path, target: Path) -> Path:
    """Clone everything with ``git clone --mirror`` over upload-pack.

    HEAD is set as the source has it: git makes a detached one a branch that happens to be at the
    same commit.
    """
    git("clone", "--quiet", "--mirror", source.resolve().as_uri(), target)
    state = run_git("symbolic-ref", "--quiet", "HEAD", cwd=source).stdout.strip()
    set_head(target, state or git("rev-parse", "--verify", "HEAD", cwd=source).strip())
    return target


def fsck(path: Path) -> list[str]:
    """Check every object and return what git found wrong, nothing for a sound repository.

    Raises:
        AssertionError: git failed without naming anything.
    """
    done = run_git("fsck", "--full", "--strict", "--no-dangling", "--no-progress", cwd=path)
    text = (done.stdout + done.stderr).decode(errors="backslashreplace")
    found = [line for line in text.splitlines() if not line.startswith("notice:")]
    assert found or done.returncode == 0, f"git fsck ended with {done.returncode}, silently"
    return found


def assert_same_mirror(
    actual: Path | MirrorState, expected: Path | MirrorState, *, ignore: Iterable[bytes] = ()
) -> None:
    """Fail, and say where, unless both have equal refs, HEAD, format and objects.

    Args:
        actual: a repository, or a state read earlier.
        expected: the same.
        ignore: prefixes of refs that do not count, nor what only they reach; a state must have
            been read with the same.
    """
    ignored = tuple(ignore)
    left, right = (
        side if isinstance(side, MirrorState) else mirror_state(side, ignored)
        for side in (actual, expected)
    )
    if left.ignore != ignored or right.ignore != ignored:
        raise ValueError(f"a state was read with {left.ignore}, {right.ignore} and not {ignored}")
    different = list(
        difflib.unified_diff(_describe(right), _describe(left), "expected", "actual", "", "", 0, "")
    )
    missing, surplus = right.objects - left.objects, left.objects - right.objects
    different += _sample("missing object", missing) + _sample("surplus object", surplus)
    assert not different, "the mirrors differ:\n" + "\n".join(different)


def write_bundle(
    source: Path,
    target: Path,
    *,
    have: Sequence[bytes] = (),
    prerequisites: Sequence[bytes] = (),
    ignore: Iterable[bytes] = (),
) -> Path:
    """Write all refs of a repository as a bundle, whatever git bundle would leave out.

    ``git bundle create`` drops refs that have nothing new and refuses an empty pack; a chain that
    is applied with ``--prune`` needs all refs in each bundle.

    Args:
        source: the repository.
        target: the file to write.
        have: what the reader has, left out of the pack.
        prerequisites: the commits that the header demands.
        ignore: prefixes of refs to leave out.
    """
    state = mirror_state(source, ignore)
    names = dict(state.refs)
    if state.head_id:
        names[b"HEAD"] = state.head_id
    sha256 = state.object_format == "sha256"
    header = [b"# v3 git bundle", b"@object-format=sha256"] if sha256 else [b"# v2 git bundle"]
    header += [b"-%s " % commit for commit in prerequisites]
    header += [b"%s %s" % (names[name], name) for name in sorted(names)]
    revisions = [*names.values(), *(b"^" + tip for tip in have)]
    pack = git(
        "pack-objects", "--revs", "--stdout", "--quiet", cwd=source, input=b"\n".join(revisions)
    )
    target.write_bytes(b"\n".join([*header, b"", b""]) + pack)
    return target


def apply_chain_with_plain_git(
    bundles: Iterable[Path],
    target: Path,
    object_format: str = "sha1",
    *,
    fetch_alone: bool = False,
) -> dict[bytes, bytes]:
    """Restore as a stranger does who has git and the bundles, and return the refs.

    HEAD stays what ``git init`` made it: no bundle can carry which branch it names.

    Args:
        bundles: in the order to apply.
        target: the bare repository to make.
        object_format: sha1 or sha256.
        fetch_alone: do without ``git bundle unbundle``. ``git fetch`` takes no pack out of a
            bundle whose refs are all there already, so that commits which only a detached HEAD
            reaches are lost, and with them any later bundle that needs them.
    """
    git("init", "--quiet", "--bare", f"--object-format={object_format}", target)
    for bundle in bundles:
        if not fetch_alone:
            git("bundle", "unbundle", bundle.resolve(), cwd=target)
        git("fetch", "--quiet", "--prune", bundle.resolve(), "+refs/*:refs/*", cwd=target)
    listed = git("for-each-ref", "--format=%(objectname) %(refname)", cwd=target)
    return {name: tip for tip, name in (line.split(b" ", 1) for line in listed.splitlines())}


def _peel(path: Path, refs: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    if not refs:
        return {}
    tips = sorted(set(refs.values()))
    asked = b"".join(b"%s^{}\n" % tip for tip in tips)
    answers = git("cat-file", "--batch-check=%(objectname)", cwd=path, input=asked).splitlines()
    final = dict(zip(tips, answers, strict=True))
    return {name: final[tip] for name, tip in refs.items() if final[tip] != tip}


def _describe(state: MirrorState) -> list[str]:
    lines = [
        f"object format: {state.object_format}",
        f"HEAD names: {state.head_symref!r}",
        f"HEAD is: {state.head_id!r}",
        *(f"cut off at: {commit!r}" for commit in sorted(state.shallow)),
    ]
    lines += [f"{name!r} {tip.decode()}" for name, tip in sorted(state.refs.items())]
    return lines + [f"{name!r}^{{}} {tip.decode()}" for name, tip in sorted(state.peeled.items())]


def _sample(what: str, ids: frozenset[bytes]) -> list[str]:
    lines = [f"{what}: {name.decode()}" for name in sorted(ids)[:10]]
    return lines + ([f"... {len(ids)} in all"] if len(ids) > len(lines) else [])
