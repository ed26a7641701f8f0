"""Every way in which a server's answer can go wrong: a clean failure, never anything false."""

import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from backup.capture import CheckMode, Means, capture
from backup.destinations.folder import FolderDestination
from backup.destinations.memory import MemoryDestination
from backup.errors import (
    BackupError,
    HostUnreachable,
    IncompleteRepository,
    MalformedPack,
    MalformedPacket,
    NotOurRef,
    RemoteRefused,
    TruncatedPack,
    TruncatedResponse,
)
from backup.git.bundle import read_header
from backup.git.check import PackCheck, disk_of
from backup.git.command import clean_environment
from backup.git.pktline import FLUSH, encode, encode_line
from backup.git.transport import ProcessTransport
from backup.git.upload_pack import Remote
from backup.model import Repository, Selection
from backup.plan import Policy, make_plan
from backup.stopping import Stop
from backup.vault.chain import sizes
from backup.vault.documents import Record
from backup.vault.layout import Layout
from tests.support.faults import (
    GitShim,
    Playback,
    RecordedServer,
    Tampering,
    WireFault,
    assert_nothing_false,
    bring_back,
    is_running,
    packets_of,
    states_of,
    until,
)
from tests.support.git import (
    FastImport,
    commit_chain,
    git,
    init_bare,
    update_refs,
    write_tag,
)
from tests.support.mirrors import assert_same_mirror, clone_mirror, fsck, mirror_state
from tests.support.program import Completed, repo_backup

Shaped = Callable[[str], Path]
CHECKS: tuple[CheckMode, ...] = ("trailer", "pack")
DEEP = settings().max_examples > 25
LAYOUT = Layout.of(host="folder", owner="acme")
MISSING = b"deadbeef" * 5


# --- A capture over a recorded conversation -----------------------------------------------------


@dataclass(frozen=True, slots=True)
class Scene:
    """A repository whose conversation is tampered with, and what is true of it.

    Attributes:
        previous: the capture before, when the conversation is that of an increment.
        vault: what that capture stored: key to content.
        truth: the record of an undisturbed capture.
        said: what the server says meanwhile: advertisement, refs, pack.
    """

    server: RecordedServer
    folder: Path
    previous: Record | None
    vault: dict[str, bytes]
    truth: Record
    said: tuple[bytes, ...]


def capture_over(
    transport: Playback | ProcessTransport,
    vault: MemoryDestination,
    folder: Path,
    *,
    previous: Record | None = None,
    check: CheckMode = "trailer",
    snapshot_id: str = "20261101T000000Z-0000aaaa",
) -> Record:
    """Capture one repository, by whatever transport."""
    means = Means(
        destination=vault,
        layout=LAYOUT,
        snapshot_id=snapshot_id,
        check=check,
        disk=disk_of(folder),
        clock=lambda: datetime(2026, 11, 1, tzinfo=UTC),
        stop=Stop(),
    )
    repository = Repository("folder", "acme", "widgets", "1", "")
    with Remote(transport, selection=Selection(), count=lambda _: None) as remote:
        plan = make_plan(
            repository,
            remote.list_refs(),
            why="a test",
            entry=None,
            record=previous,
            stored=sizes(vault.list(""), prefix=LAYOUT.prefix),
            selection=Selection(),
            policy=Policy(),
            now=means.clock(),
        )
        return capture(plan, remote, means, transferred=lambda _: None).record


def contents(vault: MemoryDestination) -> dict[str, bytes]:
    found = {}
    for stored in vault.list(""):
        with vault.open(stored.key) as reader:
            found[str(stored.key)] = reader.read()
    return found


def vault_of(scene: Scene) -> MemoryDestination:
    vault = MemoryDestination()
    for stored, data in scene.vault.items():
        vault.put_if_absent(LAYOUT.key(stored.removeprefix(LAYOUT.prefix)), data)
    return vault


@pytest.fixture(scope="module", params=["full", "incremental"])
def scene(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """Make a small repository with an annotated tag, to be captured whole or as an increment."""
    folder = tmp_path_factory.mktemp("scene")
    path = init_bare(folder / "widgets.git")
    chain = commit_chain(path, 3)
    update_refs(path, {b"refs/heads/main": chain[0], b"refs/heads/old": chain[1]})
    vault, previous = MemoryDestination(), None
    if request.param == "incremental":
        before = Playback(RecordedServer(path))
        previous = capture_over(
            before, vault, folder, check="pack", snapshot_id="20261031T000000Z-0000aaaa"
        )
    update_refs(path, {b"refs/heads/main": chain[2], b"refs/heads/old": None})
    update_refs(path, {b"refs/tags/v1": write_tag(path, chain[1], "commit", b"v1")})
    stored = contents(vault)
    server = RecordedServer(path)
    playback = Playback(server)
    truth = capture_over(playback, vault, folder, previous=previous)
    assert truth.chain[-1].kind == request.param
    return Scene(server, folder, previous, stored, truth, tuple(playback.said))


def try_with(
    scene: Scene, tampering: Tampering, check: CheckMode = "trailer"
) -> Record | BackupError:
    """Capture with tampering; whatever is no error of ours fails the test."""
    playback, vault = Playback(scene.server, tampering), vault_of(scene)
    try:
        record = capture_over(playback, vault, scene.folder, previous=scene.previous, check=check)
    except BackupError as error:
        assert contents(vault) == scene.vault, "a failed capture left something behind"
        return error
    finally:
        assert playback.struck, "the tampering never came to bear"
    kinds = [f"{line.kind}.bundle" for line in record.chain[-1:]] + ["record.json.gz"]
    assert set(contents(vault)) - set(scene.vault) == {
        LAYOUT.key(f"repositories/widgets/1/{record.snapshot_id}.{kind}") for kind in kinds
    }
    return record


def test_a_conversation_that_breaks_off_at_any_byte_stores_nothing(scene: Scene) -> None:
    listed = len(scene.said[0] + scene.said[1])
    for at in range(sum(map(len, scene.said))):
        error = try_with(scene, Tampering(cut=at))
        assert isinstance(error, TruncatedResponse if at < listed else TruncatedPack), at


@pytest.mark.parametrize("check", CHECKS)
def test_a_pack_of_many_packets_that_ends_after_any_of_them_stores_nothing(
    check: CheckMode, tmp_path: Path
) -> None:
    path = init_bare(tmp_path / "widgets.git")
    stream = FastImport(path)
    # Content that does not compress, so that the pack needs several packets.
    noise = b"".join(os.urandom(1 << 16) for _ in range(5))
    stream.commit(files={b"noise": noise})
    update_refs(path, {b"refs/heads/main": next(iter(stream.run().values()))})
    server = RecordedServer(path)
    undisturbed = Playback(server)
    capture_over(undisturbed, MemoryDestination(), tmp_path)
    before, pack = len(b"".join(undisturbed.said[:2])), undisturbed.said[2]
    boundaries = packets_of(pack)
    assert len(boundaries) > 6
    for begin, _ in boundaries:
        vault = MemoryDestination()
        playback = Playback(server, Tampering(cut=before + begin))
        with pytest.raises(TruncatedPack) as caught:
            capture_over(playback, vault, tmp_path, check=check)
        assert playback.struck
        assert contents(vault) == {}
        assert (caught.value.received_bytes > 0) == (begin > boundaries[1][0])


def text_without_a_checksum(scene: Scene) -> set[int]:
    """Give the places of names and attributes in the list of refs: nothing proves these."""
    start = len(scene.said[0])
    places: set[int] = set()
    for begin, end in packets_of(scene.said[1]):
        # After the packet's length, the id and a space.
        places.update(range(start + begin + 4 + 40 + 1, start + end))
    return places


def state(record: Record) -> tuple[Any, ...]:
    chain = [(bundle.key, bundle.kind, bundle.sha256) for bundle in record.chain]
    refs = [(line.ref_name, line.id, line.peeled) for line in record.refs]
    return refs, record.head, record.left_out, record.digest, record.object_format, chain


def ids_behind_names(record: Record) -> set[str]:
    """Give every id that a name stands for, also those whose name could not be stored."""
    ids = {line.id for line in record.refs} | {line.id for line in record.left_out if line.id}
    return ids | ({record.head.id} if record.head.id else set())


def test_a_flipped_bit_anywhere_is_refused_or_changes_nothing_that_is_recorded(
    scene: Scene,
) -> None:
    masks = range(1, 256) if DEEP else (0x01, 0x20, 0x80)
    unproved = text_without_a_checksum(scene)
    refused = harmless = 0
    for at in range(sum(map(len, scene.said))):
        for mask in masks:
            record = try_with(scene, Tampering(flip=at, mask=mask))
            if isinstance(record, BackupError):
                refused += 1
            elif at in unproved:
                # The name of a ref is what the server says it is; the object behind it is proved.
                assert ids_behind_names(record) <= ids_behind_names(scene.truth), (at, mask)
            else:
                harmless += 1
                assert state(record) == state(scene.truth), (at, mask)
    assert refused > harmless > 0


def test_a_flipped_byte_of_the_pack_is_a_malformed_pack(scene: Scene) -> None:
    listed = len(scene.said[0] + scene.said[1])
    for begin, end in packets_of(scene.said[2])[1:-1]:
        # After the packet's length and the number of its side-band.
        for at in range(listed + begin + 5, listed + end):
            error = try_with(scene, Tampering(flip=at, mask=0xFF))
            assert isinstance(error, MalformedPack), (at, error)


def test_a_damaged_pack_is_never_blamed_on_the_history_of_the_repository(
    scene: Scene, tmp_path: Path
) -> None:
    """What index-pack says of bytes that do not unpack is not what it says of missing objects."""
    packets = packets_of(scene.said[2])[1:-1]
    pack = b"".join(scene.said[2][begin + 5 : end] for begin, end in packets)
    for at in range(12, len(pack), 1 if DEEP else 7):
        damaged = pack[:at] + bytes([pack[at] ^ 0xFF]) + pack[at + 1 :]
        full = scene.previous is None
        with PackCheck(
            object_format="sha1", connected=full, disk=disk_of(tmp_path), stop=Stop()
        ) as check:
            check.feed(damaged)
            with pytest.raises(MalformedPack):
                check.finish()


def test_a_packet_of_another_length_is_refused_or_changes_nothing(scene: Scene) -> None:
    start = 0
    for answer in scene.said:
        for begin, _ in packets_of(answer):
            for place in range(begin, begin + 4):
                for digit in b"0123456789abcdef":
                    if digit == answer[place]:
                        continue
                    flip = Tampering(flip=start + place, mask=digit ^ answer[place])
                    record = try_with(scene, flip)
                    where = (start + place, chr(digit))
                    assert isinstance(record, BackupError) or state(record) == state(scene.truth), (
                        where
                    )
        start += len(answer)


def said_instead(number: int, change: Callable[[bytes], bytes]) -> Tampering:
    return Tampering(swap=lambda answer, data: change(data) if answer == number else data)


def band(number: int, data: bytes) -> bytes:
    return encode(bytes([number]) + data)


REFUSALS = {
    "refused before anything": (0, lambda _: encode(b"ERR no such repository"), RemoteRefused),
    "refused within the refs": (
        1,
        lambda said: said[: packets_of(said)[1][0]] + encode(b"ERR too busy"),
        RemoteRefused,
    ),
    "refused instead of the pack": (2, lambda _: encode(b"ERR too busy"), RemoteRefused),
    "not our ref": (2, lambda _: encode(b"ERR upload-pack: not our ref 1234"), NotOurRef),
    "fatal on side-band 3": (
        2,
        lambda said: said[: packets_of(said)[1][0]] + band(3, b"out of memory\n") + FLUSH,
        RemoteRefused,
    ),
    "fatal on side-band 3 after the pack": (
        2,
        lambda said: said[:-4] + band(3, b"out of memory\n") + FLUSH,
        RemoteRefused,
    ),
    "refused after the pack": (2, lambda said: said[:-4] + encode(b"ERR broken"), MalformedPacket),
    "a side-band that is none": (2, lambda said: said[:-4] + band(4, b"x"), MalformedPacket),
    "an empty packet in the pack": (2, lambda said: said[:-4] + encode(b""), MalformedPacket),
    "a pack without side-bands": (
        2,
        lambda said: said[: packets_of(said)[1][0]] + encode(b"PACK\0\0\0\2") + FLUSH,
        MalformedPacket,
    ),
    "a pack with something after it": (
        2,
        lambda said: said[:-4] + band(1, b"x") + FLUSH,
        MalformedPack,
    ),
    "a pack of nothing": (
        2,
        lambda said: said[: packets_of(said)[1][0]] + FLUSH,
        TruncatedPack,
    ),
    "two packs": (
        2,
        lambda said: said[:-4] + said[packets_of(said)[1][0] :],
        MalformedPack,
    ),
    "an answer that is a shallow one": (
        2,
        lambda said: encode_line(b"shallow-info") + said,
        IncompleteRepository,
    ),
    "a section nobody asked for": (
        2,
        lambda said: encode_line(b"wanted-refs") + said,
        MalformedPacket,
    ),
    "a flush instead of an answer": (2, lambda _: FLUSH, MalformedPacket),
    "an advertisement of nothing": (0, lambda _: b"", TruncatedResponse),
    # A flush alone is what version 0 says of an empty repository; with more behind it, it is not.
    "a flush before the advertisement": (0, lambda said: FLUSH + said, BackupError),
    "an advertisement that is a web page": (0, lambda _: b"<!DOCTYPE html>", MalformedPacket),
    "an unknown version": (
        0,
        lambda said: said.replace(b"version 2", b"version 3"),
        MalformedPacket,
    ),
    "no fetch": (0, lambda said: said.replace(b"fetch=", b"fetcj="), MalformedPacket),
    "an unknown object format": (
        0,
        lambda said: said.replace(b"object-format=sha1", b"object-format=sha9"),
        MalformedPacket,
    ),
    "ids of another object format": (
        0,
        lambda said: said.replace(
            encode_line(b"object-format=sha1"), encode_line(b"object-format=sha256")
        ),
        BackupError,
    ),
    "refs that are delimited": (1, lambda said: said[:-4] + b"0001", MalformedPacket),
    "refs that end the response": (1, lambda said: said[:-4] + b"0002", MalformedPacket),
    "garbage among the refs": (1, lambda said: said[:-4] + b"what?" + FLUSH, MalformedPacket),
    "a ref without an id": (
        1,
        lambda said: said[:-4] + encode_line(b"refs/heads/x") + FLUSH,
        MalformedPacket,
    ),
    "an id in upper case": (
        1,
        lambda said: said[:-4] + encode_line(b"A" * 40 + b" refs/heads/x") + FLUSH,
        MalformedPacket,
    ),
    "a short id": (
        1,
        lambda said: said[:-4] + encode_line(b"a" * 39 + b" refs/heads/x") + FLUSH,
        MalformedPacket,
    ),
    "a ref named twice": (
        1,
        lambda said: said[:-4] + said[slice(*packets_of(said)[1])] + FLUSH,
        MalformedPacket,
    ),
    "HEAD named twice": (
        1,
        lambda said: said[:-4] + said[slice(*packets_of(said)[0])] + FLUSH,
        MalformedPacket,
    ),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_an_answer_that_is_none_stores_nothing(name: str, scene: Scene) -> None:
    number, change, error = REFUSALS[name]
    found = try_with(scene, said_instead(number, change), check="pack")
    assert isinstance(found, error), found


def test_progress_and_keepalives_do_no_harm(scene: Scene) -> None:
    def chatter(said: bytes) -> bytes:
        (_, section), *rest = packets_of(said)
        words = b"".join(band(2, b"Counting\r") + band(1, b"") + said[b:e] for b, e in rest)
        return said[:section] + words

    record = try_with(scene, said_instead(2, chatter))
    assert isinstance(record, Record)
    assert state(record) == state(scene.truth)


# --- A server that stalls -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "fault",
    [
        WireFault("stall", answer=0, packet=3),
        WireFault("stall", answer=1, packet=1),
        WireFault("stall", answer=2, packet=1),
        WireFault("omit", answer=2, packet=-1),
    ],
    ids=["in its advertisement", "in its refs", "in its pack", "for want of the last flush"],
)
def test_a_server_that_stalls_is_given_up_and_ended(fault: WireFault, tmp_path: Path) -> None:
    path = init_bare(tmp_path / "widgets.git")
    update_refs(path, {b"refs/heads/main": commit_chain(path, 2)[-1]})
    vault = MemoryDestination()
    with GitShim(tmp_path / "shim", fault) as shim:
        transport = ProcessTransport(
            ["git", "upload-pack", path],
            environment=clean_environment() | {"GIT_PROTOCOL": "version=2"} | shim.env,
            stop=Stop(),
            patience_seconds=1.0,
        )
        with pytest.raises(HostUnreachable, match="moved no byte for 1 seconds"):
            capture_over(transport, vault, tmp_path)
    assert contents(vault) == {}
    until(lambda: not any(map(is_running, shim.processes)))


# --- The real program, the real server and something in between -----------------------------------


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Make a folder of two repositories, of which ``struck.git`` will be."""
    folder = tmp_path / "acme"
    for name, count in (("struck", 3), ("sound", 2)):
        path = init_bare(folder / f"{name}.git")
        chain = commit_chain(path, count, label=name.encode())
        update_refs(path, {b"refs/heads/main": chain[-1], b"refs/heads/first": chain[0]})
    return folder


def run(source: Path, shim: GitShim | None = None, *, check: int | None = 0) -> Completed:
    return repo_backup(
        "run",
        "--from",
        source,
        "--to",
        source.parent / "vault",
        "--json",
        env=None if shim is None else shim.env,
        check=check,
        timeout_seconds=60,
    )


def outcomes(done: Completed) -> dict[str, dict[str, Any]]:
    return {one["path"]: one for one in done.json["repositories"]}


def assert_comes_back(source: Path, target: Path) -> None:
    vault = FolderDestination(source.parent / "vault")
    assert_nothing_false(vault)
    restored, expected = bring_back(vault, target), states_of(source)
    assert restored.keys() == expected.keys()
    for path, mirror in restored.items():
        assert_same_mirror(mirror, expected[path])
        assert fsck(target / f"{path}.git") == []


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (WireFault("cut", byte=0), "ended in the middle"),
        (WireFault("cut", answer=1, packet=1), "ended in the middle"),
        (WireFault("cut", answer=2, packet=1), "the pack broke off after 0 bytes"),
        (WireFault("kill", answer=1, packet=0), "the pack broke off|hung up|ended in the middle"),
        (WireFault("say", answer=2, data=encode(b"ERR \x1b[2Jbusy"), ends=True), "busy"),
        (WireFault("say", answer=2, packet=1, data=band(3, b"oom"), ends=True), "oom"),
        (WireFault("say", answer=1, packet=1, data=b"garbage!"), "where a packet begins"),
        (WireFault("flip", answer=2, mask=0x40), "where a packet begins"),
    ],
    ids=lambda value: value.action if isinstance(value, WireFault) else "",
)
def test_the_run_is_partial_names_the_cause_and_the_next_one_mends_it(
    fault: WireFault, words: str, source: Path, tmp_path: Path
) -> None:
    run(source)
    struck = source / "struck.git"
    before = states_of(source)
    update_refs(struck, {b"refs/heads/main": commit_chain(struck, 2, label=b"more")[-1]})
    # What may pass is tried again; here it never passes.
    with GitShim(tmp_path / "shim", fault, match="struck", times=None) as shim:
        done = run(source, shim, check=3)
    assert done.json["result"] == "partial"
    failed = outcomes(done)
    assert (failed["struck"]["status"], failed["sound"]["status"]) == ("failed", "unchanged")
    assert re.search(words, failed["struck"]["reason"]), failed["struck"]["reason"]
    assert "\x1b" not in done.stdout + done.stderr
    # What was there before still comes back, and nothing of the failure was recorded.
    vault = FolderDestination(source.parent / "vault")
    assert len(assert_nothing_false(vault)) == 2
    assert bring_back(vault, tmp_path / "before") == before
    mended = outcomes(run(source))
    assert (mended["struck"]["status"], mended["struck"]["plan"]) == ("captured", "incremental")
    assert_comes_back(source, tmp_path / "after")


def test_a_ref_that_moves_between_list_and_fetch_is_listed_again(
    source: Path, tmp_path: Path
) -> None:
    struck = source / "struck.git"
    [other] = commit_chain(struck, 1, label=b"other")
    main = git("rev-parse", "refs/heads/main", cwd=struck).strip()
    # Force-pushed and collected after the refs were said, before the pack is asked for.
    move = tmp_path / "move"
    move.write_text(
        "#!/bin/sh -e\n"
        f"cd {struck}\n"
        f"git update-ref refs/heads/main {other.decode()} {main.decode()}\n"
        "git update-ref -d refs/heads/first\n"
        "git -c gc.pruneExpire=now gc --quiet --prune=now\n"
        f"! git cat-file -e {main.decode()}\n"
    )
    move.chmod(0o755)
    fault = WireFault("run", answer=1, packet=2, command=(str(move),))
    with GitShim(tmp_path / "shim", fault, match="struck") as shim:
        done = run(source, shim)
    assert shim.struck == 1
    assert outcomes(done)["struck"]["status"] == "captured"
    assert_comes_back(source, tmp_path / "restored")


def test_refs_that_never_hold_still_fail_and_name_what_is_missing(
    source: Path, tmp_path: Path
) -> None:
    # Every time the server says that the ref it has just listed is not there.
    tip = git("rev-parse", "refs/heads/first", cwd=source / "struck.git").strip()
    words = encode(b"ERR upload-pack: not our ref " + tip)
    fault = WireFault("replace", answer=2, data=words, ends=True)
    with GitShim(tmp_path / "shim", fault, match="struck", times=None) as shim:
        done = run(source, shim, check=3)
    # Three looks, and three without the heads of pull requests, one of which might be to blame.
    assert shim.struck == 6
    reason = outcomes(done)["struck"]["reason"]
    assert f"refs/heads/first points at {tip.decode()}" in reason
    assert outcomes(done)["sound"]["status"] == "captured"


@pytest.mark.parametrize(
    ("shape", "name"), [("missing-id-ref", "refs/"), ("missing-id-head", "HEAD|refs/")]
)
def test_a_ref_to_a_missing_object_fails_and_is_named(
    shape: str, name: str, source: Path, shaped: Shaped
) -> None:
    shutil.copytree(shaped(shape), source / "missing.git", symlinks=True)
    done = run(source, check=3)
    missing = outcomes(done)["missing"]
    assert missing["status"] == "failed"
    assert re.search(f"({name}).* points at {MISSING.decode()}", missing["reason"])


# --- Servers without protocol version 2 -----------------------------------------------------------

OLD_SHAPES = ["nested-tags", "detached-head-alone", "unborn-head", "light-tags-of-trees-and-blobs"]


@pytest.mark.parametrize("protocol", [0, 1])
def test_an_old_server_s_repositories_are_captured_whole_each_time_they_change(
    protocol: int, source: Path, tmp_path: Path, shaped: Shaped
) -> None:
    for shape in OLD_SHAPES:
        clone_mirror(shaped(shape), source / f"{shape}.git")
    init_bare(source / "empty.git")
    vault = FolderDestination(source.parent / "vault")
    shims = (
        GitShim(
            tmp_path / f"shim-{n}", match=str(source), times=None, protocol=1 if protocol else 0
        )
        for n in range(3)
    )
    with next(shims) as shim:
        first = outcomes(run(source, shim))
    empty = first.pop("empty")
    assert empty["status"] == "empty"
    assert {one["status"] for one in first.values()} == {"captured"}
    assert {one["plan"] for one in first.values()} == {"full"}
    for record in assert_nothing_false(vault):
        assert bool(record.chain) == (record.repository.path != "empty")
        assert "version 2" in (record.fallback or "")
    assert_old_servers_come_back(source, tmp_path / "first")

    with next(shims) as shim:
        again = run(source, shim)
    assert {one["status"] for one in outcomes(again).values()} == {"unchanged", "empty"}
    assert again.json["totals"]["objects_written"] == 1

    struck = source / "struck.git"
    update_refs(struck, {b"refs/heads/main": commit_chain(struck, 1, label=b"more")[-1]})
    with next(shims) as shim:
        changed = outcomes(run(source, shim))
    assert (changed["struck"]["status"], changed["struck"]["plan"]) == ("captured", "full")
    assert [one["path"] for one in changed.values() if one["status"] == "captured"] == ["struck"]
    assert_old_servers_come_back(source, tmp_path / "changed")


def assert_old_servers_come_back(source: Path, target: Path) -> None:
    vault = FolderDestination(source.parent / "vault")
    restored, expected = bring_back(vault, target), states_of(source)
    assert restored.keys() == expected.keys()
    for path, mirror in restored.items():
        # Version 0 cannot say which branch HEAD names while there is no such branch.
        true = expected[path]
        unborn = true.head_symref is not None and true.head_id is None
        assert_same_mirror(
            replace(mirror, head_symref=true.head_symref) if unborn else mirror, true
        )


# --- Hostile servers ------------------------------------------------------------------------------

HOSTILE_NAMES = {
    "climbing": b"refs/heads/../../../../etc/passwd",
    "dots": b"refs/heads/a..b",
    "outside of refs": b"../../x",
    "absolute": b"/etc/passwd",
    "not below refs": b"config",
    "a path within the repository": b"objects/info/alternates",
    "line feed": b"refs/heads/a\nrefs/heads/b",
    "header": b"refs/heads/x\n\nPACK",
    "NUL": b"refs/heads/a\0b",
    "escape": b"refs/heads/\x1b[2J",
    "delete": b"refs/heads/\x7f",
    "backslash": b"refs/heads/a\\b",
    "colon": b"refs/heads/a:b",
    "glob": b"refs/heads/*",
    "lock": b"refs/heads/main.lock",
    "lock of a folder": b"refs/heads.lock/x",
    "hidden": b"refs/heads/.git/config",
    "ending dot": b"refs/heads/a.",
    "slashes": b"refs/heads//a",
    "ending slash": b"refs/heads/a/",
    "reflog": b"refs/heads/main@{1}",
    "nothing": b"refs/",
    "carriage return": b"refs/heads/a\r",
}


def hostile_shim(source: Path, names: dict[str, bytes], folder: Path) -> GitShim:
    """Make a server add refs of these names, each at the tip of main, to its true list."""
    tip = git("rev-parse", "refs/heads/main", cwd=source / "struck.git").strip()
    lines = [encode(tip + b" " + name + b"\n") for name in names.values()]
    # Before the flush, after HEAD and two branches.
    fault = WireFault("say", answer=1, packet=3, data=b"".join(lines))
    return GitShim(folder, fault, match="struck", times=None)


def assert_only_true_names_were_kept(source: Path, names: dict[str, bytes]) -> Record:
    """Look into record and bundle of the struck repository."""
    vault = FolderDestination(source.parent / "vault")
    true = set(mirror_state(source / "struck.git").refs)
    [record] = [r for r in assert_nothing_false(vault) if r.repository.path == "struck"]
    assert {os.fsencode(line.ref_name) for line in record.refs} == true
    [key] = [stored.key for stored in vault.list("") if stored.key.endswith(record.chain[0].key)]
    with vault.open(key) as reader:
        header, _ = read_header(reader.read)
    assert {os.fsencode(name) for name, _ in header.refs} == true | {b"HEAD"}
    assert len(record.left_out) == len(names)
    return record


def test_names_that_git_refuses_reach_no_header_no_ref_map_and_no_folder(
    source: Path, tmp_path: Path
) -> None:
    with hostile_shim(source, HOSTILE_NAMES, tmp_path / "shim") as shim:
        done = run(source, shim, check=3)
    assert f"{len(HOSTILE_NAMES)} refs cannot be stored" in " ".join(done.json["problems"])
    assert "\x1b" not in done.stdout + done.stderr
    assert outcomes(done)["struck"]["status"] == "captured"
    record = assert_only_true_names_were_kept(source, HOSTILE_NAMES)
    assert {os.fsencode(line.ref_name) for line in record.left_out} == {
        # A line is what stands before the line feed at its end, whatever is in it.
        *HOSTILE_NAMES.values()
    }
    assert_comes_back(source, tmp_path / "restored")
    # Said once, as new; the same degraded refs every night are no news.
    with hostile_shim(source, HOSTILE_NAMES, tmp_path / "again") as shim:
        assert outcomes(run(source, shim))["struck"]["status"] == "unchanged"


@pytest.mark.parametrize(
    "names",
    [
        {"a segment longer than a file's name": b"refs/heads/" + b"a" * 300},
        {"longer than a path": b"refs/heads/" + b"/".join([b"a" * 200] * 30)},
        {"nearly a packet": b"refs/heads/" + b"x" * 60_000},
        {"below another ref": b"refs/heads/main/below"},
        {"above another ref": b"refs/heads"},
    ],
    ids=lambda names: next(iter(names)),
)
def test_names_that_no_repository_can_hold_beside_the_others_do_not_cost_the_others(
    names: dict[str, bytes], source: Path, tmp_path: Path
) -> None:
    with hostile_shim(source, names, tmp_path / "shim") as shim:
        done = run(source, shim, check=None)
    assert done.code in {0, 3}
    vault = FolderDestination(source.parent / "vault")
    true = mirror_state(source / "struck.git")
    restored = bring_back(vault, tmp_path / "restored")["struck"]
    assert true.refs.items() <= restored.refs.items()
    assert restored.head_symref == b"refs/heads/main"


@pytest.mark.parametrize(
    "target",
    [
        b"refs/../../x",
        b"../../../etc/passwd",
        b"refs/heads/a\nb",
        b"refs/heads/\x1b[2J",
        b"HEAD",
        b"",
        b"-x",
    ],
)
def test_a_hostile_head_reaches_no_record_and_no_mirror(
    target: bytes, source: Path, tmp_path: Path
) -> None:
    tip = git("rev-parse", "refs/heads/main", cwd=source / "struck.git").strip()
    state = mirror_state(source / "struck.git")
    lines = [encode_line(tip + b" HEAD symref-target:" + target)]
    lines += [encode_line(oid + b" " + name) for name, oid in sorted(state.refs.items())]
    fault = WireFault("replace", answer=1, data=b"".join([*lines, FLUSH]))
    with GitShim(tmp_path / "shim", fault, match="struck", times=None) as shim:
        done = run(source, shim, check=None)
    assert done.code in {0, 3}
    vault = FolderDestination(source.parent / "vault")
    [record] = [r for r in assert_nothing_false(vault) if r.repository.path == "struck"]
    assert record.head.symref is None
    assert record.head.id == tip.decode()
    restored = bring_back(vault, tmp_path / "restored")["struck"]
    assert (restored.head_symref, restored.head_id) == (None, tip)
    assert restored.refs == state.refs
