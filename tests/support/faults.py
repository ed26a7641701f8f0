"""Faults on purpose: on git's wire, in a destination, in a vault. Each one tells whether it struck.

`GitShim` stands in for git on PATH and spoils what the real upload-pack says, for processes and
threads alike. `Playback` does the same to a conversation that was recorded, so cheaply that every
byte of it can be tried. `FaultyDestination` fails, lies or dies at the operation that a test names.
"""

import functools
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Literal, Self, TypeVar

from backup.commands.restore import RestoreRequest, restore
from backup.commands.run import RunOptions, run
from backup.commands.stored_files import promised_files
from backup.errors import DestinationError, IncompleteWrite, ProtocolError
from backup.git.pktline import PacketReader
from backup.model import (
    ArchivedObject,
    Destination,
    Events,
    Key,
    ObjectVersions,
    Outcome,
    Reader,
    RunReport,
    SourceIdentity,
    StoredObject,
    Writer,
)
from backup.secret import Secret
from backup.sources.plain import FolderSource
from backup.stopping import Stop
from backup.vault.documents import Manifest, Record
from backup.vault.layout import Layout, lfs_key
from backup.vault.manifest import (
    list_documents,
    load,
    load_forgotten,
    load_record,
    unknown_to,
)
from tests.support import git as support
from tests.support.mirrors import MirrorState, mirror_state
from tests.support.times import Timed, Unaware

Result = TypeVar("Result")

OWNER = "acme"

# --- The wire, by a git of our own on PATH --------------------------------------------------------

WireAction = Literal["cut", "flip", "kill", "stall", "say", "replace", "omit", "run"]


@dataclass(frozen=True, slots=True)
class WireFault:
    """What goes wrong in what one upload-pack says, and where.

    The place is a packet of an answer, or a byte of everything that the server says.

    Attributes:
        action: ``cut`` ends the stream before the place, ``kill`` kills the server there and
            passes on what it had said, ``stall`` says nothing more, ``flip`` changes the byte (or
            the packet's first one), ``say`` adds data before the packet, ``replace`` says data
            in place of the packet and all up to its flush, ``omit`` leaves the packet out,
            ``run`` runs the command before the packet is passed on.
        answer: 0 for the advertisement, then the answers in order.
        packet: within the answer, from 0; -1 is the flush at its end.
        byte: from 0; counts in place of answer and packet.
        ends: whether the stream ends after data.
        mask: what the byte is xored with.
    """

    action: WireAction
    answer: int = 0
    packet: int = 0
    byte: int | None = None
    data: bytes = b""
    ends: bool = False
    mask: int = 1
    command: tuple[str, ...] = ()


_SHELL = """\
#!/bin/sh
if [ "$1" = upload-pack ]; then
    exec {python} -IS {pump} {settings} "$@"
fi
exec {git} {options} "$@"
"""

# Its own program, since the real one must be found where PATH leads; it knows nothing of ours.
_PUMP = '''\
import json, os, signal, subprocess, sys

with open(sys.argv[1]) as file:
    settings = json.load(file)
words = sys.argv[2:]
real, fault = settings["git"], settings["fault"]
environment = dict(os.environ)


def armed():
    """Take one of the times that the fault may strike."""
    if settings["match"] not in words[-1]:
        return False
    number = 0
    while settings["times"] is None or number < settings["times"]:
        try:
            open("%s/armed-%d" % (settings["folder"], number), "x").close()
        except FileExistsError:
            number += 1
        else:
            return True
    return False


def strike(server):
    with open(settings["folder"] + "/struck", "a") as file:
        file.write("%d %d\\n" % (os.getpid(), server))


if not armed():
    os.execv(real, [real, *words])
if settings["protocol"] != 2:
    environment.pop("GIT_PROTOCOL", None)
    if settings["protocol"] == 1:
        environment["GIT_PROTOCOL"] = "version=1"
    strike(os.getpid())
if fault is None:
    os.execve(real, [real, *words], environment)

server = subprocess.Popen([real, *words], stdout=subprocess.PIPE, env=environment)


def packets():
    answer = packet = 0
    while head := server.stdout.read(4):
        size = int(head, 16)
        data = head + (server.stdout.read(size - 4) if size > 4 else b"")
        yield answer, packet, data
        answer, packet = (answer + 1, 0) if data == b"0000" else (answer, packet + 1)


def say(data):
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def end():
    server.kill()
    server.wait()
    sys.exit(0)


said, struck, skipping = 0, False, False
for answer, packet, data in packets():
    place = 0
    if skipping:
        skipping = data != b"0000"
        continue
    if fault["byte"] is not None:
        place = fault["byte"] - said
        here = 0 <= place < len(data)
    else:
        number = -1 if fault["packet"] == -1 and data == b"0000" else packet
        here = (answer, number) == (fault["answer"], fault["packet"])
    said += len(data)
    if not here or struck:
        say(data)
        continue
    struck, action, words_said = True, fault["action"], bytes.fromhex(fault["data"])
    if action == "run":
        subprocess.run(fault["command"], check=True, stdin=subprocess.DEVNULL)
    strike(server.pid)
    if action == "cut":
        say(data[:place])
        end()
    elif action == "kill":
        say(data[:place])
        os.kill(server.pid, signal.SIGKILL)
        say(data[place:] + server.stdout.read())
        sys.exit(137)
    elif action == "stall":
        say(data[:place])
        while True:
            signal.pause()
    elif action == "flip":
        say(data[:place] + bytes([data[place] ^ fault["mask"]]) + data[place + 1 :])
    elif action == "say":
        say(words_said)
        if fault["ends"]:
            end()
        say(data)
    elif action == "replace":
        say(words_said)
        if fault["ends"]:
            end()
        skipping = data != b"0000"
    elif action == "run":
        say(data)
sys.exit(server.wait())
'''


class GitShim:
    """A ``git`` for the front of PATH that strikes in upload-pack and else is the real one.

    As a context it fails the test on the way out unless the fault struck.

    Args:
        folder: its own, not there yet.
        fault: what goes wrong; None spoils nothing but the protocol's version.
        match: part of the path of the repositories that are struck.
        times: how many upload-packs are struck; None for every one.
        protocol: the version that the server knows; clients of this PATH ask for it, too.
    """

    def __init__(
        self,
        folder: Path,
        fault: WireFault | None = None,
        *,
        match: str = "",
        times: int | None = 1,
        protocol: Literal[0, 1, 2] = 2,
    ) -> None:
        self._folder = folder
        folder.mkdir(parents=True)
        program = shutil.which("git")
        assert program is not None
        described = None
        if fault is not None:
            described = {
                "action": fault.action,
                "answer": fault.answer,
                "packet": fault.packet,
                "byte": fault.byte,
                "data": fault.data.hex(),
                "ends": fault.ends,
                "mask": fault.mask,
                "command": fault.command,
            }
        settings = folder / "settings.json"
        settings.write_text(
            json.dumps(
                {
                    "git": program,
                    "folder": str(folder),
                    "match": match,
                    "times": times,
                    "protocol": protocol,
                    "fault": described,
                }
            )
        )
        pump = folder / "pump.py"
        pump.write_text(_PUMP)
        shell = folder / "bin" / "git"
        shell.parent.mkdir()
        shell.write_text(
            _SHELL.format(
                python=shlex.quote(sys.executable),
                pump=shlex.quote(str(pump)),
                settings=shlex.quote(str(settings)),
                git=shlex.quote(program),
                options="" if protocol == 2 else f"-c protocol.version={protocol}",
            )
        )
        shell.chmod(0o755)

    @property
    def path(self) -> str:
        """PATH with this git in front."""
        return f"{self._folder / 'bin'}{os.pathsep}{os.environ['PATH']}"

    @property
    def env(self) -> dict[str, str]:
        """What a process needs to meet the fault."""
        return {"PATH": self.path}

    @property
    def struck(self) -> int:
        """How many times the fault struck."""
        return len(self._lines())

    @property
    def processes(self) -> list[int]:
        """The ids of the shims that struck and of their servers."""
        return [int(word) for line in self._lines() for word in line.split()]

    def wait(self, times: int = 1) -> None:
        """Wait until the fault struck so often, a minute at most."""
        until(lambda: self.struck >= times)

    def insist(self) -> None:
        """Fail unless the fault struck."""
        assert self.struck, "the fault never struck, so nothing was proved"

    def _lines(self) -> list[str]:
        marks = self._folder / "struck"
        # A line that is still being written is none yet.
        text = marks.read_text() if marks.exists() else ""
        return text.split("\n")[:-1]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.insist()


def until(condition: Callable[[], bool]) -> None:
    """Wait for something that another process does; a minute is far more than it ever needs."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.005)


def is_running(process: int) -> bool:
    """Tell whether a process lives; one that ended and was not waited for does not."""
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][:1]
    except FileNotFoundError:
        return False
    return state not in {"Z", "X"}


# --- The wire, played back ------------------------------------------------------------------------


class RecordedServer:
    """What the real upload-pack of a repository says; each request is asked of it once."""

    def __init__(self, git_directory: Path) -> None:
        self._git_directory = git_directory
        self._answers: dict[bytes, bytes] = {}
        self.advertisement = self._ask("--advertise-refs")

    def answer(self, request: bytes) -> bytes:
        if request not in self._answers:
            self._answers[request] = self._ask("--stateless-rpc", request=request)
        return self._answers[request]

    def _ask(self, mode: str, request: bytes = b"") -> bytes:
        return subprocess.run(
            ["git", "upload-pack", mode, self._git_directory],
            input=request,
            env=support.environment({"GIT_PROTOCOL": "version=2"}),
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=False,
        ).stdout


@dataclass(frozen=True, slots=True)
class Tampering:
    """What happens to the bytes of a conversation.

    Attributes:
        cut: the server hangs up before this byte.
        flip: this byte is xored with the mask.
        swap: what the nth thing said (0 is the advertisement) is made into.
    """

    cut: int | None = None
    flip: int | None = None
    mask: int = 1
    swap: Callable[[int, bytes], bytes] | None = None


class Playback:
    """A `backup.git.transport.Transport` to a recorded server, with tampering.

    Attributes:
        said: what was said before any tampering: the advertisement, then each answer.
        struck: whether the tampering came to bear.
    """

    def __init__(self, server: RecordedServer, tampering: Tampering | None = None) -> None:
        self._server = server
        self._tampering = tampering or Tampering()
        self._waiting = b""
        self._position = 0
        self._hung_up = False
        self._packets = PacketReader(self._read)
        self.said: list[bytes] = []
        self.struck = False

    def advertisement(self) -> PacketReader:
        self._say(self._server.advertisement)
        return self._packets

    def content_begins(self) -> None:
        pass

    def exchange(self, request: bytes, *, prepares: bool = False) -> PacketReader:
        self._say(self._server.answer(request))
        return self._packets

    def ended(self) -> bool:
        self._say(b"")
        return self._packets.at_end()

    def explain(self, error: ProtocolError) -> ProtocolError:
        return error

    def close(self) -> None:
        self._hung_up = True

    def _say(self, data: bytes) -> None:
        how, start = self._tampering, self._position
        if how.swap is not None:
            swapped = how.swap(len(self.said), data)
            self.struck = self.struck or swapped != data
            data = swapped
        self.said.append(data)
        self._position += len(data)
        if self._hung_up:
            return
        if how.flip is not None and start <= how.flip < self._position:
            at = how.flip - start
            data = data[:at] + bytes([data[at] ^ how.mask]) + data[at + 1 :]
            self.struck = True
        if how.cut is not None and start <= how.cut < self._position:
            data = data[: how.cut - start]
            self._hung_up = self.struck = True
        self._waiting += data

    def _read(self, size: int) -> bytes:
        data, self._waiting = self._waiting[:size], self._waiting[size:]
        return data


def packets_of(data: bytes) -> list[tuple[int, int]]:
    """Take what a server said apart: for each packet where it begins and where it ends."""
    found, position = [], 0
    while position < len(data):
        size = max(4, int(data[position : position + 4], 16))
        found.append((position, position + size))
        position += size
    return found


# --- The destination ------------------------------------------------------------------------------

How = Literal["fail", "lost", "short", "die", "die after"]


@dataclass(frozen=True, slots=True)
class DestinationFault:
    """What goes wrong in a destination, and when.

    Attributes:
        at: the operation's number, from 0, among those that the next two choose.
        operation: ``probe``, ``writer``, ``write``, ``commit``, ``put``, ``open``, ``read``,
            ``stat``, ``list``, ``children``, ``archived`` or ``delete``; empty counts them all but
            ``probe``.
        how: ``fail`` raises and does nothing; ``lost`` does it and then raises, a listing breaks
            off; ``short`` lets an object end in its middle; ``die`` kills this process, before
            the operation or after it.
        key: part of the key or prefix that is asked for; empty for any.
        error: raised in place of what fits the operation.
    """

    at: int
    operation: str = ""
    how: How = "fail"
    key: str = ""
    error: DestinationError | None = None


class FaultyDestination:
    """Passes everything on, and goes wrong as it is told. As a context it insists that it did.

    Attributes:
        operations: the names of all that was asked, in order.
        struck: how many faults came to bear.
    """

    def __init__(self, inner: Destination, *faults: DestinationFault) -> None:
        self._inner = inner
        self._faults = faults
        self._lock = Lock()
        self._seen = [0] * len(faults)
        self.operations: list[str] = []
        self.struck = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            assert self.struck == len(self._faults), f"{self.struck} of {self._faults} struck"

    @property
    def listing_is_local(self) -> bool:
        return self._inner.listing_is_local

    @property
    def keeps_time(self) -> bool:
        return self._inner.keeps_time

    def uri(self, key: str) -> str:
        return self._inner.uri(key)

    def writer(self, key: Key) -> Writer:
        self.before("writer", key)
        return _FaultyWriter(self._inner.writer(key), self, key)

    def probe(self, key: Key) -> str:
        return self.around("probe", key, lambda: self._inner.probe(key))

    def put_if_absent(self, key: Key, data: bytes) -> StoredObject:
        return self.around("put", key, lambda: self._inner.put_if_absent(key, data))

    def versions(self, prefix: str) -> Iterator[ObjectVersions]:
        return self.around("list", prefix, lambda: self._inner.versions(prefix))

    def open(self, key: Key, *, offset: int = 0, version: str | None = None) -> Reader:
        reader = self.around(
            "open", key, lambda: self._inner.open(key, offset=offset, version=version)
        )
        return _FaultyReader(reader, self, key)

    def stat(self, key: Key) -> StoredObject:
        return self.around("stat", key, lambda: self._inner.stat(key))

    def list(self, prefix: str, *, versions: bool = False) -> Iterator[StoredObject]:
        fault = self.before("list", prefix)
        listed = [*self._inner.list(prefix, versions=versions)]
        if fault is None or fault.how != "lost":
            return iter(listed)
        return _broken_off(listed[: len(listed) // 2], error_of("list", fault))

    def children(self, prefix: str, *, hidden: bool = False) -> tuple[str, ...]:
        return self.around("children", prefix, lambda: self._inner.children(prefix, hidden=hidden))

    def archived(self, keys: Iterable[Key]) -> Iterator[ArchivedObject]:
        return self.around("archived", "", lambda: self._inner.archived(keys))

    def upload_url(self, key: Key, *, content_type: str, seconds: int) -> Secret | None:
        return self._inner.upload_url(key, content_type=content_type, seconds=seconds)

    def delete(self, keys: Iterable[Key]) -> bool:
        marked = False
        for key in keys:
            marked = (
                self.around("delete", key, functools.partial(self._inner.delete, [key])) or marked
            )
        return marked

    def renew_lock(self, key: Key, *, version: str | None) -> datetime | None:
        return self.around("put", key, lambda: self._inner.renew_lock(key, version=version))

    def locked_until(self, keys: Iterable[Key]) -> Mapping[Key, datetime]:
        return self._inner.locked_until(keys)

    def now(self) -> datetime | None:
        return self._inner.now()

    def abort_uploads(self, *, older_than: datetime) -> int:
        return self._inner.abort_uploads(older_than=older_than)

    def before(self, operation: str, key: str) -> DestinationFault | None:
        """Count an operation; fail or die where that is due, else return the fault it has."""
        struck = []
        with self._lock:
            self.operations.append(operation)
            for number, fault in enumerate(self._faults):
                named = {operation} if operation == "probe" else {"", operation}
                if fault.operation in named and fault.key in key:
                    if self._seen[number] == fault.at:
                        struck.append(fault)
                    self._seen[number] += 1
            self.struck += len(struck)
        if not struck:
            return None
        if struck[0].how == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if struck[0].how == "fail":
            raise error_of(operation, struck[0])
        return struck[0]

    def around(self, operation: str, key: str, do: Callable[[], Result]) -> Result:
        """Do one operation, and fail or die after it where that is due."""
        fault = self.before(operation, key)
        result = do()
        if fault is not None and fault.how == "die after":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault is not None and fault.how == "lost":
            raise error_of(operation, fault)
        return result


def error_of(operation: str, fault: DestinationFault) -> DestinationError:
    """Make the error that an operation raises."""
    if fault.error is not None:
        return fault.error
    kind = IncompleteWrite if operation in {"write", "commit", "put"} else DestinationError
    return kind(f"{operation} {fault.at}: {fault.how} on purpose")


def _broken_off(listed: list[StoredObject], error: DestinationError) -> Iterator[StoredObject]:
    yield from listed
    raise error


class _FaultyWriter:
    def __init__(self, inner: Writer, destination: FaultyDestination, key: str) -> None:
        self._inner = inner
        self._destination = destination
        self._key = key

    def write(self, data: bytes | bytearray | memoryview, /) -> None:
        self._destination.around("write", self._key, lambda: self._inner.write(data))

    def commit(self, *, sha256: str | None = None) -> StoredObject:
        return self._destination.around(
            "commit", self._key, lambda: self._inner.commit(sha256=sha256)
        )

    def abort(self) -> None:
        self._inner.abort()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        self._inner.abort()


class _FaultyReader:
    def __init__(self, inner: Reader, destination: FaultyDestination, key: str) -> None:
        self._inner = inner
        self._destination = destination
        self._key = key
        self._ended = False

    def read(self, size: int = -1, /) -> bytes:
        if self._ended:
            return b""
        fault = self._destination.before("read", self._key)
        data = self._inner.read(size)
        if fault is None:
            return data
        if fault.how == "lost":
            raise error_of("read", fault)
        self._ended = True
        return data[: len(data) // 2]

    def close(self) -> None:
        self._inner.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
        /,
    ) -> None:
        self._inner.close()


# --- Runs in this process, and what must be true after any of them --------------------------------


class Heard:
    """Listens to a run and remembers the notes."""

    def __init__(self) -> None:
        self.notes: list[str] = []

    def listing(self, identity: SourceIdentity) -> None: ...

    def listed(self, identity: SourceIdentity, count: int) -> None: ...

    def capturing(self, name: str, action: str, reason: str) -> None: ...

    def transferred(self, name: str, size_bytes: int) -> None: ...

    def finished(self, outcome: Outcome) -> None: ...

    def ended(self, name: str) -> None: ...

    def note(self, message: str) -> None:
        self.notes.append(message)


def back_up(
    source: Path,
    vault: Destination,
    options: RunOptions | None = None,
    *,
    at: datetime | None = None,
    wrong_clock: bool = False,
    events: Events | None = None,
    stop: Stop | None = None,
) -> RunReport:
    """Back up a folder of repositories in this process, one at a time unless options say else.

    Args:
        source: the folder.
        vault: where to.
        options: what is asked.
        at: what the clock shows all the while, and the vault's; None for the time it is.
        wrong_clock: whether the vault dates by the time it is, and the run does not notice.
        events: who listens.
        stop: what ends it early.
    """
    return run(
        [FolderSource(source, owner=OWNER)],
        vault if at is None else (Unaware if wrong_clock else Timed)(vault, lambda: at),
        options or RunOptions(concurrency=1),
        events=events or Heard(),
        stop=stop or Stop(),
        clock=lambda: at or datetime.now(UTC),
    )


def bring_back(
    vault: Destination, target: Path, *, at: str | None = None, ignore: Iterable[bytes] = ()
) -> dict[str, MirrorState]:
    """Restore everything in this process and read it: path to state.

    Args:
        vault: where from.
        target: the folder for the mirrors.
        at: which state; the newest when left out.
        ignore: prefixes of refs that do not count.

    Raises:
        AssertionError: something that was ever captured could not be given back.
    """
    request = RestoreRequest(repository=None, all=True, at=at, target=target)
    report = restore(vault, request, events=Heard(), stop=Stop())
    failed = [words for words in report.failed if "has no backup" not in words]
    assert not failed, failed
    return {one.name.partition("/")[2]: mirror_state(one.path, ignore) for one in report.restored}


def states_of(source: Path) -> dict[str, MirrorState]:
    """Read every bare repository ``<name>.git`` right below a folder."""
    return {path.name.removesuffix(".git"): mirror_state(path) for path in source.glob("*.git")}


def assert_nothing_false(vault: Destination) -> list[Record]:
    """Hold every document of a vault against the objects that it names; return all records.

    A record's bundles must be there, byte for byte, and the files of Git LFS that it promises; an
    entry's record must be there and be of that repository and of those refs, unless the repository
    was forgotten since.
    """
    digests: dict[str, tuple[int, str]] = {}

    def digest_of(key: Key) -> tuple[int, str]:
        if key not in digests:
            with vault.open(key) as reader:
                data = reader.read()
            digests[key] = len(data), hashlib.sha256(data).hexdigest()
        return digests[key]

    records = []
    for stored in vault.list(""):
        layout = Layout("/".join(stored.key.split("/")[:2]) + "/")
        if stored.key.endswith(".record.json.gz"):
            record = load(vault, stored.key, Record)
            records.append(record)
            for bundle in record.chain:
                found = digest_of(layout.key(bundle.key))
                assert found == (bundle.size_bytes, bundle.sha256), bundle.key
            for oid in promised_files(vault, layout, record):
                assert digest_of(layout.key(lfs_key(oid)))[1] == oid
        elif layout.parse_document(stored.key) is not None:
            manifest = load(vault, stored.key, Manifest)
            names = list_documents(vault, layout)
            dropped = unknown_to(manifest.forgotten, load_forgotten(vault, layout, names))
            for entry in manifest.entries:
                if entry.record is None or entry.identity in dropped:
                    continue
                record = load_record(vault, layout, entry.record)
                assert record.repository.host_id == entry.host_id
                assert record.digest == entry.digest, entry.path
    return records
