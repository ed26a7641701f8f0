"""What a check proves of a pack: whole, connected, which kinds, and what became of a branch."""

import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from backup.errors import IncompleteRepository, Interrupted, MalformedPack
from backup.git.check import Ancestry, Disk, DiskTooSmall, PackCheck, disk_of
from backup.git.objects import ObjectReader
from backup.git.pack import empty_pack
from backup.model import ObjectFormat, ObjectId
from backup.stopping import Stop
from tests.support.git import FastImport, commit_chain, git, init_bare, update_refs
from tests.support.history import LivingRepository
from tests.support.mirrors import mirror_state
from tests.support.program import repo_backup

Shaped = Callable[[str], Path]


def pack(repository: Path, tips: Sequence[bytes], without: Sequence[bytes] = ()) -> bytes:
    asked = b"\n".join([*tips, *(b"^" + tip for tip in without)])
    return git("pack-objects", "--revs", "--stdout", "--quiet", cwd=repository, input=asked)


def everything(repository: Path) -> bytes:
    state = mirror_state(repository)
    return pack(repository, [*state.refs.values(), *([state.head_id] if state.head_id else [])])


def roomy(folder: Path) -> Disk:
    return Disk(folder, reserve_bytes=0, free_bytes=lambda: 1 << 40)


@contextmanager
def checking(
    folder: Path,
    *,
    connected: bool = False,
    object_format: ObjectFormat = "sha1",
    disk: Disk | None = None,
    stop: Stop | None = None,
) -> Iterator[PackCheck]:
    with PackCheck(
        object_format=object_format,
        connected=connected,
        disk=disk or roomy(folder),
        stop=stop or Stop(),
    ) as check:
        yield check
    assert not check.repository.exists(), "the copy of the pack was left behind"


def judged(data: bytes, folder: Path, *, connected: bool = False) -> DiskTooSmall | None:
    with checking(folder, connected=connected) as check:
        check.feed(data)
        return check.finish()


def text_id(raw: bytes) -> ObjectId:
    return ObjectId(raw.decode())


# --- Whole and connected -----------------------------------------------------------------------


@pytest.mark.parametrize("name", ["nested-tags", "octopus", "fsck-warnings", "odd-content"])
@pytest.mark.parametrize("connected", [False, True])
def test_a_whole_pack_passes(name: str, connected: bool, shaped: Shaped, tmp_path: Path) -> None:
    assert judged(everything(shaped(name)), tmp_path, connected=connected) is None


def test_a_whole_sha256_pack_passes(shaped: Shaped, tmp_path: Path) -> None:
    with checking(tmp_path, connected=True, object_format="sha256") as check:
        check.feed(everything(shaped("sha256")))
        assert check.finish() is None


def test_an_empty_pack_passes(tmp_path: Path) -> None:
    assert judged(empty_pack("sha1"), tmp_path) is None


def test_links_to_submodules_need_not_be_in_the_pack(shaped: Shaped, tmp_path: Path) -> None:
    assert judged(everything(shaped("submodules")), tmp_path, connected=True) is None


def test_a_full_that_lacks_an_object_is_refused_and_an_increment_may(
    shaped: Shaped, tmp_path: Path
) -> None:
    repository = shaped("notes")
    state = mirror_state(repository)
    blob = next(
        oid
        for oid in sorted(state.objects)
        if git("cat-file", "-t", oid, cwd=repository) == b"blob\n"
    )
    ids = b"\n".join(sorted(state.objects - {blob}))
    data = git("pack-objects", "--stdout", "--quiet", cwd=repository, input=ids)
    assert judged(data, tmp_path) is None
    with pytest.raises(IncompleteRepository, match="lacks objects"):
        judged(data, tmp_path, connected=True)


def test_a_thin_pack_is_refused_because_no_stored_pack_may_lean_on_another(
    shaped: Shaped, tmp_path: Path
) -> None:
    repository = shaped("long-chain")
    tip = git("rev-parse", "refs/heads/main", cwd=repository).strip()
    asked = b"%s\n^%s~1\n" % (tip, tip)
    thin = git("pack-objects", "--revs", "--thin", "--stdout", "-q", cwd=repository, input=asked)
    with pytest.raises(MalformedPack, match="unresolved"):
        judged(thin, tmp_path)


@pytest.mark.parametrize("connected", [False, True])
def test_an_altered_pack_is_refused(connected: bool, shaped: Shaped, tmp_path: Path) -> None:
    data = bytearray(everything(shaped("octopus")))
    data[len(data) // 2] ^= 0xFF
    with pytest.raises(MalformedPack, match="index-pack"):
        judged(bytes(data), tmp_path, connected=connected)


def test_a_cut_pack_is_refused(shaped: Shaped, tmp_path: Path) -> None:
    data = everything(shaped("octopus"))
    for cut in (0, 3, 12, len(data) // 2, len(data) - 1):
        with pytest.raises(MalformedPack):
            judged(data[:cut], tmp_path)


def test_what_is_no_pack_is_refused_while_it_comes(tmp_path: Path) -> None:
    def feed_for_ever(check: PackCheck) -> None:
        while True:
            check.feed(b"<html>" * 10_000)

    with checking(tmp_path) as check, pytest.raises(MalformedPack):
        feed_for_ever(check)


def test_a_stop_ends_the_check_and_gives_the_disk_back(shaped: Shaped, tmp_path: Path) -> None:
    stop = Stop()
    with checking(tmp_path, stop=stop) as check:
        check.feed(everything(shaped("octopus")))
        stop.interrupt()
        with pytest.raises(Interrupted):
            check.survey([])
    assert not any(tmp_path.iterdir())


# --- The disk ----------------------------------------------------------------------------------


def test_a_disk_without_room_ends_the_check_and_not_the_stream(
    shaped: Shaped, tmp_path: Path
) -> None:
    disk = Disk(tmp_path, reserve_bytes=1000, free_bytes=lambda: 999)
    with checking(tmp_path, disk=disk) as check:
        check.feed(b"this is not even a pack")
        assert not any(tmp_path.iterdir()), "the disk is given back at once"
        check.feed(everything(shaped("octopus")))
        assert check.finish() == DiskTooSmall(needed_bytes=0, free_bytes=999)


def test_a_disk_that_fills_while_the_pack_comes_is_noticed(tmp_path: Path) -> None:
    free = iter([10_000, 10_000, 10_000, 500, 400, 400])
    disk = Disk(tmp_path, reserve_bytes=1000, free_bytes=lambda: next(free))
    chunk = bytes(1 << 20)
    # One object of 64 MiB, stored without compression, of which 30 MiB come.
    with checking(tmp_path, disk=disk) as check:
        check.feed(b"PACK" + (2).to_bytes(4, "big") + (1).to_bytes(4, "big"))
        check.feed(_stored_object_header(64 << 20))
        for _ in range(30):
            check.feed(_stored_block(chunk))
        too_small = check.finish()
    assert too_small is not None
    assert too_small.free_bytes == 400
    assert 16 << 20 <= too_small.needed_bytes < 30 << 20


def _stored_object_header(size: int) -> bytes:
    """Begin a blob: its type and size as in gitformat-pack(5), then zlib's two bytes."""
    out = bytearray([(3 << 4) | (size & 15)])
    size >>= 4
    while size:
        out[-1] |= 0x80
        out.append(size & 0x7F)
        size >>= 7
    return bytes(out) + b"\x78\x01"


def _stored_block(data: bytes) -> bytes:
    """Store data without compression, in deflate blocks none of which is the last."""
    pieces = [data[place : place + 65535] for place in range(0, len(data), 65535)]
    return b"".join(
        b"\0" + len(one).to_bytes(2, "little") + (65535 - len(one)).to_bytes(2, "little") + one
        for one in pieces
    )


def test_the_reserve_of_a_real_disk_is_a_part_of_it(tmp_path: Path) -> None:
    disk = disk_of(tmp_path)
    assert disk.folder == tmp_path
    assert 0 < disk.reserve_bytes <= 256 << 20
    assert disk.free_bytes() > 0


# --- Kinds -------------------------------------------------------------------------------------


def test_kinds_tell_what_refs_point_at_and_leave_out_what_the_pack_lacks(
    shaped: Shaped, tmp_path: Path
) -> None:
    repository = shaped("light-tags-of-trees-and-blobs")
    tips = mirror_state(repository).refs
    absent = ObjectId("deadbeef" * 5)
    with checking(tmp_path, connected=True) as check:
        check.feed(everything(repository))
        check.finish()
        kinds = check.survey([*map(text_id, tips.values()), absent]).kinds
    assert {name: kinds[text_id(tip)] for name, tip in tips.items()} == {
        b"refs/heads/main": "commit",
        b"refs/tags/blob": "blob",
        b"refs/tags/tree": "tree",
        b"refs/data/tree": "tree",
    }
    assert absent not in kinds


def test_kinds_tell_an_annotated_tag_from_what_it_is_of(shaped: Shaped, tmp_path: Path) -> None:
    repository = shaped("nested-tags")
    tips = mirror_state(repository).refs
    with checking(tmp_path) as check:
        check.feed(everything(repository))
        check.finish()
        kinds = check.survey(map(text_id, tips.values())).kinds
    assert kinds[text_id(tips[b"refs/tags/third"])] == "tag"
    assert kinds[text_id(tips[b"refs/tags/light"])] == "commit"


# --- What became of a branch -------------------------------------------------------------------


def proved(
    repository: Path, folder: Path, old: bytes, new: bytes, *, without: Sequence[bytes] = ()
) -> Ancestry:
    with checking(folder) as check:
        check.feed(pack(repository, [new], without))
        check.finish()
        return next(iter(check.ancestry([(text_id(old), text_id(new))])))


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """Make a base, a line on top of it, a rewriting of that line, merges and an orphan."""
    path = init_bare(tmp_path_factory.mktemp("history") / "repository.git")
    base = commit_chain(path, 3, label=b"base")
    line = commit_chain(path, 3, start=base[-1], label=b"line")
    rewritten = commit_chain(path, 3, start=base[-1], label=b"rewritten")
    orphan = commit_chain(path, 2, label=b"orphan")
    stream = FastImport(path)
    merge = stream.commit([rewritten[-1], line[-1]], message=b"merge\n")
    octopus = stream.commit([orphan[-1], base[0], line[-1]], message=b"octopus\n")
    other = stream.commit([rewritten[-1], orphan[-1]], message=b"other\n")
    made = stream.run()
    tips = {
        "root": base[0],
        "base": base[-1],
        "line": line[-1],
        "rewritten": rewritten[-1],
        "orphan": orphan[-1],
        "merge": made[merge],
        "octopus": made[octopus],
        "other": made[other],
    }
    update_refs(path, {b"refs/heads/" + name.encode(): tip for name, tip in tips.items()})
    return {**tips, "path": str(path).encode()}


@pytest.mark.parametrize(
    ("old", "new", "without", "answer"),
    [
        ("base", "line", ["base"], "advanced"),
        ("line", "merge", ["line"], "advanced"),
        ("line", "octopus", ["line"], "advanced"),
        ("root", "octopus", ["line"], "advanced"),
        ("base", "line", [], "advanced"),
        ("root", "line", [], "advanced"),
        ("line", "rewritten", [], "rewritten"),
        ("line", "orphan", ["line"], "rewritten"),
        ("line", "other", [], "rewritten"),
        ("line", "rewritten", ["line"], "moved"),
        ("orphan", "rewritten", ["orphan", "line"], "moved"),
        ("line", "other", ["line"], "moved"),
        ("root", "line", ["base"], "moved"),
    ],
)
def test_a_branch_is_said_to_be_what_the_pack_proves(
    *,
    old: str,
    new: str,
    without: list[str],
    answer: Ancestry,
    history: dict[str, bytes],
    tmp_path: Path,
) -> None:
    repository = Path(history["path"].decode())
    held = [history[name] for name in without]
    assert proved(repository, tmp_path, history[old], history[new], without=held) == answer


def test_an_orphan_grafted_onto_the_old_history_is_still_rewritten(
    history: dict[str, bytes], tmp_path: Path
) -> None:
    repository = Path(history["path"].decode())
    git("replace", "--graft", history["orphan"], history["line"], cwd=repository)
    try:
        answer = proved(repository, tmp_path, history["line"], history["orphan"])
    finally:
        git("replace", "-d", history["orphan"], cwd=repository)
    assert answer == "rewritten"


def test_a_tip_that_is_not_in_the_pack_is_moved(history: dict[str, bytes], tmp_path: Path) -> None:
    repository = Path(history["path"].decode())
    with checking(tmp_path) as check:
        check.feed(pack(repository, [history["orphan"]]))
        check.finish()
        pairs = [(text_id(history["line"]), text_id(history["base"]))]
        assert list(check.ancestry(pairs)) == ["moved"]


@pytest.mark.parametrize("seed", range(4))
def test_what_is_proved_is_true_in_a_random_history(seed: int, tmp_path: Path) -> None:
    life = LivingRepository(tmp_path / "life.git")
    growth = ["push", "create-branch", "merge", "force-push", "replace-by-orphan", "push"]
    for step in range(12):
        life.apply(growth[(seed + step) % len(growth)], seed * 7919 + step * 104729)
    branches = [tip for name, tip in life.refs.items() if name.startswith(b"refs/heads/")]
    pairs = [(old, new) for old in branches for new in branches if old != new]
    with checking(tmp_path) as check:
        check.feed(pack(life.path, branches))
        check.finish()
        answers = list(check.ancestry([(text_id(old), text_id(new)) for old, new in pairs]))
    for (old, new), answer in zip(pairs, answers, strict=True):
        base = git("merge-base", "--all", old, new, cwd=life.path, check=False).split()
        assert answer == ("advanced" if base == [old] else "rewritten")


# --- Objects of any size ------------------------------------------------------------------------


def huge_commit(path: Path, size_bytes: int) -> bytes:
    """Write a commit whose message is so long, on top of main."""
    tree = git("mktree", cwd=path, input=b"").strip()
    words = ("commit-tree", "-p", "main", tree.decode())
    return git(*words, cwd=path, input=b"x" * size_bytes).strip()


def test_what_is_not_asked_for_of_a_large_object_is_passed_over(tmp_path: Path) -> None:
    path = init_bare(tmp_path / "huge.git")
    first = commit_chain(path, 1)[-1]
    update_refs(path, {b"refs/heads/main": first})
    huge = huge_commit(path, 48 << 20).decode()
    with ObjectReader(path, Stop()) as objects:
        tracemalloc.start()
        found = [*objects.read([huge, first.decode(), huge], most=1000)]
        _, peak = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert peak < 4 << 20
    assert found[0] is not None
    assert len(found[0][1]) == 1000
    assert found[1] == ("commit", git("cat-file", "commit", first.decode(), cwd=path))
    assert found[0] == found[2]
    with ObjectReader(path, Stop()) as objects:
        (whole,) = objects.read([huge])
    assert whole is not None
    assert whole[1] == git("cat-file", "commit", huge, cwd=path)


def test_a_signal_ends_the_reading_of_an_object_that_comes_without_a_pause(tmp_path: Path) -> None:
    path = init_bare(tmp_path / "huge.git")
    update_refs(path, {b"refs/heads/main": commit_chain(path, 1)[-1]})
    huge, stop = huge_commit(path, 8 << 20).decode(), Stop()
    with ObjectReader(path, stop) as objects:
        reading = objects.read([huge, huge], most=10)
        next(reading)
        stop.interrupt()
        with pytest.raises(Interrupted):
            next(reading)


def test_a_commit_with_a_message_of_any_size_is_captured_and_stops_nobody(tmp_path: Path) -> None:
    for name in ("bad", "good"):
        path = init_bare(tmp_path / "src" / f"{name}.git")
        update_refs(path, {b"refs/heads/main": commit_chain(path, 2, label=name.encode())[-1]})
    words = ("run", "--from", tmp_path / "src", "--to", tmp_path / "vault", "--json")
    repo_backup(*words)
    bad, good = tmp_path / "src" / "bad.git", tmp_path / "src" / "good.git"
    update_refs(bad, {b"refs/heads/main": huge_commit(bad, 32 << 20)})
    update_refs(good, {b"refs/heads/main": huge_commit(good, 10)})
    rows = repo_backup(*words).json["repositories"]
    assert {row["path"]: row["status"] for row in rows} == {"bad": "captured", "good": "captured"}
    assert {row["plan"] for row in rows} == {"incremental"}
    for name in ("bad", "good"):
        target = tmp_path / f"{name}.git"
        repo_backup("restore", name, "--from", tmp_path / "vault", target)
        assert mirror_state(target).refs == mirror_state(tmp_path / "src" / f"{name}.git").refs
