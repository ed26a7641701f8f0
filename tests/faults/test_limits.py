"""What others send has limits: what exceeds one fails its repository by name, and nothing else.

The answers come over HTTP on loopback, from a server that is asked by the real client; where a
limit is lowered, the client runs in this process.
"""

import gzip
import subprocess
import sys
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from backup import limits
from backup.errors import AnswerTooLarge, BackupError
from backup.git.fallback import Reach
from backup.git.http import HttpClient, HttpSettings, HttpTransport
from backup.git.pktline import PacketReader, encode, encode_line
from backup.git.push import ask_remote
from backup.git.ssh import ask_for_lfs
from backup.git.upload_pack import Remote
from backup.model import ObjectId, Refs, Selection
from backup.stopping import Stop
from tests.support.git import commit_chain, init_bare, update_refs
from tests.support.gitserver import Answer, GitHttpServer, Request
from tests.support.program import environment, repo_backup
from tests.support.sshserver import ssh_server

ID = b"1" * 40
MILLION = 1_000_000
ADVERTISED = encode(b"# service=git-upload-pack\n") + b"0000"
VERSION_2 = b"".join(map(encode_line, (b"version 2", b"ls-refs", b"fetch"))) + b"0000"
GZIP = {"Content-Encoding": "gzip"}


def kind(of: str) -> dict[str, str]:
    return {"Content-Type": f"application/x-git-upload-pack-{of}"}


def serving(listed: Callable[[Request], Answer]) -> Callable[[Request], Answer | None]:
    """Speak version 2 for ``huge.git``, and answer each of its commands so."""

    def answer(request: Request) -> Answer | None:
        if "huge.git" not in request.target:
            return None
        if request.method == "GET":
            return Answer(200, kind("advertisement"), ADVERTISED + VERSION_2)
        return listed(request)

    return answer


def packed(pieces: Iterator[bytes]) -> bytes:
    packer = zlib.compressobj(wbits=zlib.MAX_WBITS | 16)
    return b"".join([*map(packer.compress, pieces), packer.flush()])


def many_refs(count: int) -> bytes:
    """Make an answer with so many refs; it comes to a thirtieth of its size."""
    names = (b"%b refs/heads/feature/branch-%07d" % (ID, number) for number in range(count))
    return packed(piece for made in (map(encode_line, names), [b"0000"]) for piece in made)


def ask(url: str) -> Refs:
    client = HttpClient(HttpSettings(), connections=1, stop=Stop())
    transport = HttpTransport(url, client=client)
    with Remote(transport, selection=Selection(), count=lambda _: None) as remote:
        return remote.list_refs()


# --- A list of refs ----------------------------------------------------------------------------

_LISTS = """
import sys
from backup.git.http import HttpClient, HttpSettings, HttpTransport
from backup.git.upload_pack import Remote
from backup.model import Selection
from backup.stopping import Stop
from backup.vault.documents import refs_digest


def most_kib():
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmHWM"))


client = HttpClient(HttpSettings(), connections=1, stop=Stop())
before = most_kib()
with Remote(
    HttpTransport(sys.argv[1], client=client), selection=Selection(), count=lambda _: None
) as remote:
    refs = remote.list_refs()
    refs_digest(refs)
print(len(refs.tips), most_kib() - before)
"""


def test_a_million_refs_are_taken_in_the_memory_that_is_documented(tmp_path: Path) -> None:
    """See "Memory and disk" in docs/benchmarks.md: 300 bytes and its name for each ref."""
    body = many_refs(MILLION)
    assert len(body) < 4_000_000
    answer = serving(lambda _: Answer(200, kind("result") | GZIP, body))
    with GitHttpServer(tmp_path, answer=answer) as server:
        words = [sys.executable, "-c", _LISTS, f"{server.url}/huge.git"]
        done = subprocess.run(words, env=environment(), capture_output=True, text=True, check=True)
    count, most_kib = map(int, done.stdout.split())
    assert count == MILLION
    assert most_kib * 1024 < MILLION * (300 + len("refs/heads/feature/branch-0000000"))


def test_more_refs_fail_their_repository_by_name_and_no_other(tmp_path: Path) -> None:
    body = many_refs(MILLION + 1)
    small = init_bare(tmp_path / "src" / "small.git")
    update_refs(small, {b"refs/heads/main": commit_chain(small, 1)[-1]})
    answer = serving(lambda _: Answer(200, kind("result") | GZIP, body))
    with GitHttpServer(tmp_path / "src", answer=answer) as server:
        urls = tmp_path / "urls"
        urls.write_text(f"{server.url}/huge.git\n{server.url}/small.git\n")
        words = ("run", "--from", f"git:@{urls}", "--owner", "x", "--to", tmp_path / "vault")
        rows = repo_backup(*words, "--json", check=3).json["repositories"]
    huge, done = sorted(rows, key=lambda row: str(row["path"]))
    assert (done["path"], done["status"]) == ("small", "captured")
    assert (huge["path"], huge["status"]) == ("huge", "failed")
    assert huge["reason"] == "the list of refs has more than 1000000 refs"
    assert "--exclude" in huge["hint"]
    # It would be the same the next time, so it is asked for once.
    assert [one.method for one in server.requests if "huge" in one.target] == ["GET", "POST"]


def without_end(line: Callable[[int], bytes]) -> tuple[Callable[[int], bytes], list[int]]:
    """Make a stream that never ends, and a list of what was read of it, in bytes."""
    taken: list[int] = []

    def read(size: int) -> bytes:
        data = b"".join(encode_line(line(len(taken) * 1000 + number)) for number in range(1000))
        taken.append(len(data))
        assert sum(taken) < 8 << 20, "far more was read than is taken"
        return data[:size]

    return read, taken


class Scripted:
    """A server whose answers are streams."""

    def __init__(self, *answers: Callable[[int], bytes]) -> None:
        self._answers = list(answers)

    def advertisement(self) -> PacketReader:
        return PacketReader(self._answers.pop(0))

    def content_begins(self) -> None:
        pass

    def exchange(self, request: bytes, *, prepares: bool = False) -> PacketReader:
        del request
        return self.advertisement()

    def ended(self) -> bool:
        return True

    def explain(self, error: BackupError) -> BackupError:
        return error

    def close(self) -> None:
        pass


def once(data: bytes) -> Callable[[int], bytes]:
    pieces = iter([data])
    return lambda _: next(pieces, b"")


STREAMS = {
    "refs": lambda n: b"%b refs/heads/%d" % (ID, n),
    "refs that are not asked for": lambda n: b"%b refs/pull/%d/merge" % (ID, n),
    "names that no disk takes": lambda n: b"%b refs/heads/%b%d" % (ID, b"x" * 60, n),
    "peeled ids": lambda n: b"%b refs/tags/%d^{}" % (ID, n),
    "unborn": lambda n: b"unborn HEAD symref-target:refs/heads/%d" % n,
    "attributes": lambda n: b"%b refs/heads/%d%b" % (ID, n, b" a:b" * 9),
}


# There are no such lines in version 0.
OF_VERSION_2 = {"unborn", "attributes"}


@pytest.mark.parametrize(
    ("what", "version"),
    [
        *((what, 2) for what in STREAMS),
        *((what, 0) for what in sorted(STREAMS.keys() - OF_VERSION_2)),
    ],
)
def test_a_list_of_refs_that_never_ends_is_given_up(
    what: str, version: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MOST_REF_LIST_BYTES", 1 << 20)
    read, taken = without_end(STREAMS[what])
    answers = [read] if version == 0 else [once(VERSION_2), read]
    remote = Remote(Scripted(*answers), selection=Selection(), count=lambda _: None)
    with pytest.raises(AnswerTooLarge, match="the list of refs has more than 1048576 bytes") as e:
        remote.list_refs()
    assert "--exclude" in e.value.hint
    assert not e.value.retryable
    assert sum(taken) < 2 << 20


def test_a_list_of_capabilities_that_never_ends_is_given_up() -> None:
    read, taken = without_end(lambda n: b"capability-%d" % n)
    begin = once(encode_line(b"version 2"))
    remote = Remote(
        Scripted(lambda size: begin(size) or read(size)),
        selection=Selection(),
        count=lambda _: None,
    )
    with pytest.raises(AnswerTooLarge, match="capabilities has more than 1048576 bytes"):
        remote.list_refs()
    assert sum(taken) < 2 << 20


@pytest.mark.parametrize("name", ["refs/heads/%d", "refs/heads/%d.lock"])
def test_refs_that_cannot_be_stored_count_as_well(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MOST_REFS", 100)

    def listed(count: int) -> Refs:
        names = [ID + b" " + (name % number).encode() for number in range(count)]
        other = [b"%b refs/pull/%d/merge" % (ID, number) for number in range(1000)]
        answer = b"".join(map(encode_line, names + other)) + b"0000"
        script = Scripted(once(VERSION_2), once(answer))
        return Remote(script, selection=Selection(), count=lambda _: None).list_refs()

    refs = listed(100)
    assert len(refs.tips) + len(refs.left_out) == 100
    with pytest.raises(AnswerTooLarge, match="more than 100 refs"):
        listed(101)


def test_the_files_of_a_web_server_have_the_same_limits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "MOST_REF_LIST_BYTES", 1 << 20)
    listed = b"".join(b"%b\trefs/heads/%d\n" % (ID, number) for number in range(30_000))
    answer = Answer(200, GZIP, gzip.compress(listed))
    with GitHttpServer(tmp_path, answer=lambda _: answer) as server:
        with pytest.raises(AnswerTooLarge, match="1048576 bytes"):
            ask(f"{server.url}/huge.git")
        monkeypatch.setattr(limits, "MOST_REF_LIST_BYTES", 8 << 20)
        monkeypatch.setattr(limits, "MOST_REFS", 100)
        with pytest.raises(AnswerTooLarge, match="100 refs"):
            ask(f"{server.url}/huge.git")


def test_the_list_of_a_remote_that_is_pushed_to_has_a_limit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = init_bare(tmp_path / "remote.git")
    tip = commit_chain(path, 1)[-1]
    update_refs(path, {b"refs/heads/%d" % number: tip for number in range(100)})
    reach = Reach("file", safe=[path])
    assert len(ask_remote(str(path), reach=reach, stop=Stop()).refs) == 100
    monkeypatch.setattr(limits, "MOST_REF_LIST_BYTES", 1000)
    with pytest.raises(AnswerTooLarge, match="more than 1000 bytes"):
        ask_remote(str(path), reach=reach, stop=Stop())


# --- What unpacks ------------------------------------------------------------------------------


def zeros(size_bytes: int) -> Iterator[bytes]:
    """Make an answer to fetch whose pack is nothing but zeros."""
    yield encode(b"packfile\n")
    for _ in range(size_bytes >> 15):
        yield encode(b"\1" + bytes(1 << 15))
    yield b"0000"


@pytest.mark.parametrize("times", [1, 2])
def test_a_small_answer_that_unpacks_without_end_is_given_up(times: int, tmp_path: Path) -> None:
    """Twice packed, a thousandth of a thousandth comes over the wire."""
    body = packed(zeros(256 << 20))
    for _ in range(times - 1):
        body = gzip.compress(body)
    headers = kind("result") | {"Content-Encoding": ", ".join(["gzip"] * times)}
    with GitHttpServer(tmp_path, answer=serving(lambda _: Answer(200, headers, body))) as server:
        client = HttpClient(HttpSettings(), connections=1, stop=Stop())
        transport = HttpTransport(f"{server.url}/huge.git", client=client)
        taken: list[int] = []
        with (
            Remote(transport, selection=Selection(), count=lambda _: None) as remote,
            pytest.raises(AnswerTooLarge, match="unpacks to more than 250 times its size"),
        ):
            taken.extend(map(len, remote.fetch([ObjectId("1" * 40)], [])))
    taken_bytes = sum(taken)
    assert taken_bytes <= limits.MOST_RATIO * len(body) + limits.UNPACKED_AT_ANY_RATIO_BYTES
    assert 0 < taken_bytes < 256 << 20


def test_an_answer_that_packs_well_is_read_to_its_end(tmp_path: Path) -> None:
    body = packed(zeros(8 << 20))
    assert len(body) < (8 << 20) // limits.MOST_RATIO
    answer = serving(lambda _: Answer(200, kind("result") | GZIP, body))
    with GitHttpServer(tmp_path, answer=answer) as server:
        client = HttpClient(HttpSettings(), connections=1, stop=Stop())
        transport = HttpTransport(f"{server.url}/huge.git", client=client)
        with Remote(transport, selection=Selection(), count=lambda _: None) as remote:
            assert sum(map(len, remote.fetch([ObjectId("1" * 40)], []))) == 8 << 20


# --- Beside git --------------------------------------------------------------------------------


def test_a_server_that_never_ends_telling_where_its_files_are_is_given_up(tmp_path: Path) -> None:
    with (
        ssh_server(tmp_path, tmp_path / "ssh", lfs=Path("/dev/zero")) as server,
        pytest.raises(AnswerTooLarge, match="git-lfs-authenticate says more than 65536 bytes"),
    ):
        ask_for_lfs(
            f"{server.url}/acme/one.git",
            operation="download",
            key_file=server.key_file,
            known_hosts=server.known_hosts_file,
            agent="",
            stop=Stop(),
        )
