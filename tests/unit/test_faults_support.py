"""A fault that does something else than it says, or nothing at all, would prove nothing."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from backup.destinations.memory import MemoryDestination
from backup.errors import AccessDenied, DestinationError, IncompleteWrite, WriteConflict
from backup.model import Key
from tests.support.faults import (
    DestinationFault,
    FaultyDestination,
    GitShim,
    How,
    Playback,
    RecordedServer,
    Tampering,
    WireFault,
    assert_nothing_false,
    back_up,
    bring_back,
    is_running,
    packets_of,
    states_of,
)
from tests.support.git import commit_chain, environment, git, init_bare, update_refs

LS_REFS = b"0014command=ls-refs\n0001000bsymrefs0000"
Spoil = Callable[[bytes, int, int], bytes]

ONE, TWO = Key("one/a"), Key("two/b")


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    path = init_bare(tmp_path / "repositories" / "widgets.git")
    update_refs(path, {b"refs/heads/main": commit_chain(path, 2)[-1]})
    return path


def upload_pack(repository: Path, shim: GitShim | None = None) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        ["git", "upload-pack", "--strict", repository],
        env=environment({"GIT_PROTOCOL": "version=2", **({} if shim is None else shim.env)}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


def said(repository: Path, shim: GitShim | None = None) -> bytes:
    """Return all that a server says that is asked for its refs."""
    with upload_pack(repository, shim) as server:
        return server.communicate(LS_REFS)[0]


# The shim


def test_a_shim_for_another_repository_changes_nothing(tmp_path: Path, repository: Path) -> None:
    shim = GitShim(tmp_path / "shim", WireFault("cut"), match="gadgets")
    assert said(repository, shim) == said(repository)
    assert shim.struck == 0


def test_a_shim_leaves_every_other_command_of_git_alone(tmp_path: Path, repository: Path) -> None:
    shim = GitShim(tmp_path / "shim", WireFault("cut"))
    odd = "a b'c\"d"
    spoken = subprocess.run(
        ["git", "-C", repository, "rev-parse", "--sq-quote", odd],
        env=environment(shim.env),
        capture_output=True,
        check=True,
    )
    assert spoken.stdout == git("rev-parse", "--sq-quote", odd, cwd=repository)


def test_a_fault_that_never_struck_fails_the_test(tmp_path: Path) -> None:
    with (
        pytest.raises(AssertionError, match="never struck"),
        GitShim(tmp_path / "shim", WireFault("cut")),
    ):
        pass


def test_a_fault_strikes_as_often_as_it_is_told(tmp_path: Path, repository: Path) -> None:
    true = said(repository)
    with GitShim(tmp_path / "twice", WireFault("cut", answer=1), times=2) as twice:
        cut = [said(repository, twice) != true for _ in range(3)]
    with GitShim(tmp_path / "always", WireFault("cut", answer=1), times=None) as always:
        cut += [said(repository, always) != true for _ in range(3)]
    assert cut == [True, True, False, True, True, True]
    assert (twice.struck, always.struck) == (2, 3)


@pytest.mark.parametrize(
    ("fault", "spoil"),
    [
        (WireFault("cut", answer=1, packet=1), lambda said, at, end: said[:at]),
        (WireFault("cut", byte=17), lambda said, at, end: said[:17]),
        (
            WireFault("flip", byte=17, mask=0x81),
            lambda said, at, end: said[:17] + bytes([said[17] ^ 0x81]) + said[18:],
        ),
        (WireFault("omit", answer=1, packet=1), lambda said, at, end: said[:at] + said[end:]),
        (WireFault("omit", answer=1, packet=-1), lambda said, at, end: said[:-4]),
        (
            WireFault("say", answer=1, packet=1, data=b"xyz"),
            lambda said, at, end: said[:at] + b"xyz" + said[at:],
        ),
        (
            WireFault("say", answer=1, packet=1, data=b"xyz", ends=True),
            lambda said, at, end: said[:at] + b"xyz",
        ),
        (
            WireFault("replace", answer=1, packet=1, data=b"xyz"),
            lambda said, at, end: said[:at] + b"xyz",
        ),
        (
            WireFault("replace", answer=0, packet=1, data=b"xyz"),
            lambda said, at, end: said[:14] + b"xyz" + said[said.index(b"0000") + 4 :],
        ),
        (WireFault("run", answer=1, command=("true",)), lambda said, at, end: said),
    ],
    ids=lambda value: value.action if isinstance(value, WireFault) else "",
)
def test_each_fault_spoils_what_it_says_and_nothing_else(
    fault: WireFault, spoil: Spoil, tmp_path: Path, repository: Path
) -> None:
    true = said(repository)
    # The second packet of the second answer: the line after HEAD's.
    at = true.index(b"0000") + 4
    at += int(true[at : at + 4], 16)
    end = at + int(true[at : at + 4], 16)
    with GitShim(tmp_path / "shim", fault) as shim:
        assert said(repository, shim) == spoil(true, at, end)
    assert shim.struck == 1


def test_a_killed_server_is_dead_when_what_it_said_arrives(
    tmp_path: Path, repository: Path
) -> None:
    with GitShim(tmp_path / "shim", WireFault("kill", answer=1)) as shim:
        assert said(repository, shim).startswith(said(repository)[:100])
    assert [is_running(process) for process in shim.processes] == [False, False]


def test_a_stalled_server_says_the_beginning_and_lives_on(tmp_path: Path, repository: Path) -> None:
    with GitShim(tmp_path / "shim", WireFault("stall", answer=1, packet=1)) as shim:
        true = said(repository)
        at = true.index(b"0000") + 4
        with upload_pack(repository, shim) as server:
            assert server.stdin is not None
            assert server.stdout is not None
            server.stdin.write(LS_REFS)
            server.stdin.flush()
            begun = server.stdout.read(at + int(true[at : at + 4], 16))
            shim.wait()
            lives = server.poll() is None
            os.killpg(server.pid, signal.SIGKILL)
        assert true.startswith(begun)
        assert lives


@pytest.mark.parametrize("protocol", [0, 1])
def test_an_old_server_is_asked_for_version_2_and_does_not_know_it(
    protocol: int, tmp_path: Path, repository: Path
) -> None:
    with (
        GitShim(tmp_path / "shim", protocol=1 if protocol else 0) as shim,
        upload_pack(repository, shim) as server,
    ):
        spoken = server.communicate(b"0000")[0]
    first = spoken[4 : int(spoken[:4], 16)]
    tip = git("rev-parse", "HEAD", cwd=repository).strip()
    assert (first == b"version 1\n") == bool(protocol)
    assert tip + b" refs/heads/main\n" in spoken


# The playback


def test_a_playback_says_what_the_real_server_says(repository: Path) -> None:
    playback = Playback(RecordedServer(repository))
    packets = playback.advertisement()
    assert [*packets.lines()][:1] == [b"version 2"]
    refs = list(playback.exchange(LS_REFS).lines())
    assert refs[0].endswith(b" HEAD symref-target:refs/heads/main")
    assert b"".join(playback.said) == said(repository)
    assert not playback.struck


def test_a_playback_is_cut_and_flipped_at_the_byte_and_tells_so(repository: Path) -> None:
    server = RecordedServer(repository)
    true = server.advertisement + server.answer(LS_REFS)
    for at in (0, 20, len(server.advertisement), len(true) - 1):
        cut, flipped = Playback(server, Tampering(cut=at)), Playback(server, Tampering(flip=at))
        for playback in (cut, flipped):
            playback.advertisement()
            playback.exchange(LS_REFS)
            assert playback.struck
        assert cut._read(len(true)) == true[:at]
        heard = flipped._read(len(true))
        assert [place for place in range(len(true)) if heard[place] != true[place]] == [at]


def test_packets_are_taken_apart_where_they_begin() -> None:
    assert packets_of(b"0005a000000010008abcd") == [(0, 5), (5, 9), (9, 13), (13, 21)]


# The destination


def test_a_destination_without_faults_counts_and_changes_nothing() -> None:
    inner = MemoryDestination()
    with FaultyDestination(inner) as faulty:
        faulty.put_if_absent(ONE, b"one")
        with faulty.writer(TWO) as writer:
            writer.write(b"t")
            writer.write(b"wo")
            assert writer.commit().size_bytes == 3
        with faulty.open(TWO) as reader:
            assert (reader.read(1), reader.read()) == (b"t", b"wo")
        assert [one.key for one in faulty.list("")] == [ONE, TWO]
        assert faulty.children("") == ("one", "two")
        assert faulty.stat(ONE).size_bytes == 3
        faulty.delete([ONE])
    done = "put writer write write commit open read read list children stat delete"
    assert " ".join(faulty.operations) == done
    assert [one.key for one in inner.list("")] == [TWO]


@pytest.mark.parametrize("how", ["fail", "lost"])
def test_a_put_that_fails_stores_nothing_and_one_whose_answer_is_lost_does(how: How) -> None:
    inner = MemoryDestination()
    with FaultyDestination(inner, DestinationFault(1, "put", how)) as faulty:
        faulty.put_if_absent(ONE, b"one")
        with pytest.raises(IncompleteWrite, match="on purpose"):
            faulty.put_if_absent(TWO, b"two")
        with faulty.writer(Key("three")) as writer:
            writer.commit()
    assert (TWO in {one.key for one in inner.list("")}) == (how == "lost")


@pytest.mark.parametrize(
    ("fault", "stored"),
    [
        (DestinationFault(0), False),
        (DestinationFault(0, "write"), False),
        (DestinationFault(0, "write", "lost"), False),
        (DestinationFault(2), False),
        (DestinationFault(0, "commit", "lost"), True),
    ],
)
def test_a_writer_fails_where_it_is_told(fault: DestinationFault, stored: bool) -> None:
    inner = MemoryDestination()
    faulty = FaultyDestination(inner, fault)

    def write() -> None:
        with faulty.writer(ONE) as writer:
            writer.write(b"one")
            writer.commit()

    with pytest.raises(DestinationError, match="on purpose"):
        write()
    assert faulty.struck == 1
    assert bool(list(inner.list(""))) == stored


def test_a_listing_whose_answer_is_lost_breaks_off() -> None:
    faulty = FaultyDestination(MemoryDestination(), DestinationFault(0, "list", "lost"))
    faulty.put_if_absent(ONE, b"")
    faulty.put_if_absent(TWO, b"")
    listed = faulty.list("")
    assert next(listed).key == ONE
    with pytest.raises(DestinationError, match="on purpose"):
        next(listed)


def test_a_short_read_ends_the_object_in_its_middle() -> None:
    faulty = FaultyDestination(MemoryDestination(), DestinationFault(0, "read", "short"))
    faulty.put_if_absent(ONE, b"12345678")
    with faulty.open(ONE) as reader:
        assert (reader.read(4), reader.read()) == (b"12", b"")
    with faulty.open(ONE) as reader:
        assert reader.read() == b"12345678"


def test_the_error_can_be_named_and_those_of_the_inner_one_come_through() -> None:
    denied = AccessDenied("not for you")
    faulty = FaultyDestination(MemoryDestination(), DestinationFault(0, "stat", error=denied))
    faulty.put_if_absent(ONE, b"one")
    with pytest.raises(AccessDenied, match="not for you"):
        faulty.stat(ONE)
    with pytest.raises(WriteConflict):
        faulty.put_if_absent(ONE, b"other")


def test_a_fault_may_be_that_of_one_key() -> None:
    faulty = FaultyDestination(MemoryDestination(), DestinationFault(1, key="two/"))
    faulty.put_if_absent(TWO, b"two")
    faulty.put_if_absent(ONE, b"one")
    with pytest.raises(IncompleteWrite, match="on purpose"):
        faulty.put_if_absent(TWO, b"two")


def test_a_destination_whose_fault_never_struck_fails_the_test() -> None:
    with (
        pytest.raises(AssertionError, match="0 of"),
        FaultyDestination(MemoryDestination(), DestinationFault(3)) as faulty,
    ):
        faulty.put_if_absent(ONE, b"one")


@pytest.mark.parametrize("how", ["die", "die after"])
def test_a_process_dies_at_once_before_or_after_an_operation(how: How, tmp_path: Path) -> None:
    program = (
        "from pathlib import Path\n"
        "from backup.destinations.folder import FolderDestination\n"
        "from tests.support.faults import DestinationFault, FaultyDestination\n"
        f"inner = FolderDestination(Path({str(tmp_path)!r}))\n"
        f"faulty = FaultyDestination(inner, DestinationFault(0, 'put', {how!r}))\n"
        "faulty.put_if_absent('a/b', b'c')\n"
    )
    words = [sys.executable, "-c", program]
    done = subprocess.run(words, cwd=Path(__file__).parents[2], check=False)
    assert done.returncode == -signal.SIGKILL
    assert (tmp_path / "a" / "b").exists() == (how == "die after")


# The comparison with what is true


def test_a_vault_that_is_whole_comes_back_and_has_nothing_false(
    tmp_path: Path, repository: Path
) -> None:
    vault = MemoryDestination()
    report = back_up(repository.parent, vault)
    assert report.exit_code == 0
    assert [record.repository.path for record in assert_nothing_false(vault)] == ["widgets"]
    assert bring_back(vault, tmp_path / "restored") == states_of(repository.parent)


@pytest.mark.parametrize("ending", [".bundle", ".record.json.gz"])
def test_a_vault_that_lacks_an_object_is_found_out(ending: str, repository: Path) -> None:
    vault = MemoryDestination()
    back_up(repository.parent, vault)
    vault.delete([one.key for one in vault.list("") if one.key.endswith(ending)])
    with pytest.raises(DestinationError, match="does not exist"):
        assert_nothing_false(vault)


def test_a_vault_with_other_bytes_than_were_recorded_is_found_out(repository: Path) -> None:
    vault = MemoryDestination()
    back_up(repository.parent, vault)
    [bundle] = [one.key for one in vault.list("") if one.key.endswith(".bundle")]
    with vault.open(bundle) as reader:
        data = reader.read()
    vault.delete([bundle])
    vault.put_if_absent(bundle, data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(AssertionError, match=r"\.bundle"):
        assert_nothing_false(vault)
