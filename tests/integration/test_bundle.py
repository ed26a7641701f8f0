"""Bundles and git agree: what we write git reads, and what git writes we read."""

from collections.abc import Callable
from pathlib import Path

import pytest

from backup.git.bundle import BundleHeader, read_header
from backup.git.pack import PackMeter, empty_pack
from backup.model import ObjectFormat, ObjectId, RefName
from backup.refs import to_bytes, to_name
from tests.support.git import git, init_bare, run_git
from tests.support.mirrors import MirrorState, mirror_state

Shaped = Callable[[str], Path]
SHAPES = ("nested-tags", "sha256", "odd-names", "non-utf8-names", "head-among-equals")


def pack_of(repository: Path, state: MirrorState, *, without: tuple[bytes, ...] = ()) -> bytes:
    tips = [*state.refs.values(), *([state.head_id] if state.head_id else [])]
    asked = b"\n".join([*tips, *(b"^" + tip for tip in without)])
    return git("pack-objects", "--revs", "--stdout", "--quiet", cwd=repository, input=asked)


def header_of(state: MirrorState, prerequisites: tuple[bytes, ...] = ()) -> BundleHeader:
    refs = [(to_name(name), ObjectId(tip.decode())) for name, tip in state.refs.items()]
    if state.head_id:
        refs.append((RefName("HEAD"), ObjectId(state.head_id.decode())))
    object_format: ObjectFormat = "sha256" if state.object_format == "sha256" else "sha1"
    ids = tuple(ObjectId(one.decode()) for one in prerequisites)
    return BundleHeader(tuple(refs), ids, object_format)


def listed_heads(bundle: Path) -> dict[bytes, bytes]:
    lines = git("bundle", "list-heads", bundle).splitlines()
    return {name: tip for tip, name in (line.split(b" ", 1) for line in lines)}


@pytest.fixture(params=SHAPES)
def repository(request: pytest.FixtureRequest, shaped: Shaped) -> Path:
    return shaped(request.param)


def test_git_lists_and_clones_a_bundle_that_we_wrote(repository: Path, tmp_path: Path) -> None:
    state = mirror_state(repository)
    bundle = tmp_path / "full.bundle"
    bundle.write_bytes(header_of(state).encode() + pack_of(repository, state))
    assert listed_heads(bundle) == {**state.refs, b"HEAD": state.head_id}
    git("clone", "--quiet", "--mirror", bundle, tmp_path / "clone.git")
    assert mirror_state(tmp_path / "clone.git").refs == state.refs


def test_we_read_a_bundle_that_git_wrote(repository: Path, tmp_path: Path) -> None:
    bundle = tmp_path / "git.bundle"
    git("bundle", "create", "--quiet", bundle, "--all", "HEAD", cwd=repository)
    with bundle.open("rb") as stream:
        header, begun = read_header(stream.read)
        meter = PackMeter(header.object_format)
        meter.update(begun)
        meter.update(stream.read())
    assert meter.finish().objects == len(mirror_state(repository).objects)
    assert {to_bytes(name): oid.encode() for name, oid in header.refs} == listed_heads(bundle)
    assert header.encode() == bundle.read_bytes()[: len(header.encode())]


def test_git_verifies_prerequisites_that_we_wrote_where_they_are(
    shaped: Shaped, tmp_path: Path
) -> None:
    repository = shaped("packed-and-loose")
    state = mirror_state(repository)
    base = state.refs[b"refs/heads/still"]
    bundle = tmp_path / "increment.bundle"
    pack = pack_of(repository, state, without=(base,))
    bundle.write_bytes(header_of(state, (base,)).encode() + pack)
    assert run_git("bundle", "verify", bundle, cwd=repository).returncode == 0
    with bundle.open("rb") as stream:
        assert read_header(stream.read)[0].prerequisites == (base.decode(),)
    elsewhere = init_bare(tmp_path / "elsewhere.git")
    refused = run_git("bundle", "verify", bundle, cwd=elsewhere)
    assert refused.returncode != 0
    assert base in refused.stderr


def test_we_read_the_prerequisites_that_git_wrote(shaped: Shaped, tmp_path: Path) -> None:
    repository = shaped("packed-and-loose")
    base = mirror_state(repository).refs[b"refs/heads/still"]
    bundle = tmp_path / "git.bundle"
    git("bundle", "create", "--quiet", bundle, "--all", b"^" + base, cwd=repository)
    with bundle.open("rb") as stream:
        assert base.decode() in read_header(stream.read)[0].prerequisites


@pytest.mark.parametrize("object_format", ["sha1", "sha256"])
def test_an_empty_pack_is_gits_own(object_format: ObjectFormat, tmp_path: Path) -> None:
    repository = init_bare(tmp_path / "empty.git", object_format)
    made = git("pack-objects", "--stdout", "--quiet", cwd=repository)
    assert empty_pack(object_format) == made
