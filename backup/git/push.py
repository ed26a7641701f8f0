"""Pushing a repository's refs to a remote, in batches that a forge takes.

The git program pushes. What is sent at once is measured before: refs go in one push as long as
what the remote lacks of them fits, by halves where it does not, and a single ref whose history is
too large goes commit by commit along its first parents, held meanwhile by refs of ours that are
removed at the end. A push that broke off is gone on with: what the remote has by then is not sent
again.
Source: git-push(1), "OUTPUT"; git-rev-list(1), ``--disk-usage``.
"""

import os
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from backup.errors import BackupError, SourceError
from backup.git.child import Child
from backup.git.command import GitFailed, clean_environment, run_git
from backup.git.fallback import Reach
from backup.git.ssh import ssh_error
from backup.model import ObjectId, RefName
from backup.refs import to_bytes, to_name
from backup.stopping import Stop

# Names that are nobody's, and branches where a server keeps nothing else.
_PARTS = (b"refs/repo-backup/part-", b"refs/heads/repo-backup-part-")
# A command line has a limit, and so has what a server does in one transaction.
_REFS_AT_ONCE = 500
_WORKFLOWS = ".github/workflows"
_BY_REMOTE = "[remote rejected]"
# Nothing is heard of a push before it is over.
_PUSH_SECONDS = 6 * 3600.0
_TOO_LARGE = re.compile(
    r"exceeds maximum|too large|\b413\b|unpack|hung up|RPC failed", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class RemoteRefs:
    """What a remote has.

    Attributes:
        refs: full name to id, peeled ones excluded.
        head: the ref that HEAD names; None in an empty repository.
    """

    refs: Mapping[RefName, ObjectId]
    head: RefName | None


@dataclass(slots=True)
class Pushed:
    """What became of each ref.

    Attributes:
        sent: the remote has it now, and had not before.
        refused: with the reason, in git's words or the server's.
        batches: so many pushes were made.
    """

    sent: list[RefName] = field(default_factory=list)
    refused: dict[RefName, str] = field(default_factory=dict)
    batches: int = 0


class PushRemote:
    """A repository to push to.

    Args:
        directory: the repository that is pushed.
        url: where to, without credentials.
        reach: how git gets there.
        limit_bytes: how much of packed objects goes in one push, as they lie in the repository.
        force: overwrite what differs, as long as it is what was listed.
        told: hears of each batch.
        stop: ends it.
    """

    def __init__(
        self,
        directory: Path,
        url: str,
        *,
        reach: Reach,
        limit_bytes: int,
        force: bool,
        told: Callable[[str], None],
        stop: Stop,
    ) -> None:
        self._directory = directory
        self._url = url
        self._limit_bytes = limit_bytes
        self._force = force
        self._told = told
        self._stop = stop
        self._environment = _environment(reach, safe=directory)
        self._known: Mapping[RefName, ObjectId] = {}
        self._has: set[ObjectId] = set()
        self._parts: list[bytes] = []
        self._result = Pushed()

    def ask(self) -> RemoteRefs:
        """Ask the remote for its refs.

        Raises:
            BackupError: it cannot be reached, or does not let us in.
        """
        return _remote_refs(self._url, environment=self._environment, stop=self._stop)

    def lacks_workflows(self, tips: Iterable[ObjectId], known: RemoteRefs) -> bool:
        """Tell whether what the remote lacks holds files that GitHub takes for workflows."""
        self._has = self._present(known.refs.values())
        # Also what one side of a merge had and the merge has not.
        words = ("rev-list", "--full-history", "--max-count=1", "--stdin", "--", _WORKFLOWS)
        found = self._git(*words, data=self._range(tips))
        return bool(found.strip())

    def push(
        self, tips: Mapping[RefName, ObjectId], known: RemoteRefs, *, first: RefName | None
    ) -> Pushed:
        """Push refs; what the remote has besides is left alone.

        Args:
            tips: full name to id.
            known: what the remote has.
            first: goes before all others, since a forge makes the first branch its default.

        Raises:
            BackupError: the remote cannot be reached or takes nothing; what went before stays.
        """
        self._known = known.refs
        self._has = self._present(known.refs.values())
        self._parts = [name for ref in known.refs if (name := to_bytes(ref)).startswith(_PARTS)]
        self._result = Pushed()
        wanted = {name: oid for name, oid in tips.items() if known.refs.get(name) != oid}
        if first in wanted and not known.refs:
            self._send({first: wanted.pop(first)})
        for prefix in (b"refs/heads/", b"refs/tags/", b"refs/"):
            self._send({n: oid for n, oid in wanted.items() if to_bytes(n).startswith(prefix)})
            wanted = {n: oid for n, oid in wanted.items() if not to_bytes(n).startswith(prefix)}
        if self._parts:
            self._told("removing the refs that held parts of the history")
            self._run([f":{os.fsdecode(name)}" for name in self._parts])
        return self._result

    # --- How much goes at once ---

    def _send(self, refs: Mapping[RefName, ObjectId]) -> None:
        """Push some refs, by halves where they are too much for one push."""
        if not refs:
            return
        if self._size_of(refs.values()) <= self._limit_bytes:
            self._push(refs)
            return
        names = [*refs]
        if len(names) > 1:
            for half in (names[: len(names) // 2], names[len(names) // 2 :]):
                self._send({name: refs[name] for name in half})
            return
        for part in self._steps(refs[names[0]]):
            self._push_part(part)
        self._push(refs)

    def _steps(self, tip: ObjectId) -> Iterator[ObjectId]:
        """Yield commits on the way to a tip, each little enough after the ones before it.

        Whoever takes one has pushed it before asking for the next.
        """
        line = self._first_parents(tip)
        if len(line) > 1:
            middle = line[len(line) // 2 - 1]
            if self._size_of([middle]) > self._limit_bytes:
                yield from self._steps(middle)
            yield middle
            if self._size_of([tip]) > self._limit_bytes:
                yield from self._steps(tip)
            return
        # One commit, and too much: what it merges may go first. Beyond that nothing is divided.
        for parent in self._parents(line):
            size_bytes = self._size_of([parent])
            if size_bytes > self._limit_bytes:
                yield from self._steps(parent)
            if size_bytes:
                yield parent

    def _first_parents(self, tip: ObjectId) -> list[ObjectId]:
        listed = self._git(
            "rev-list", "--first-parent", "--reverse", "--stdin", data=self._range([tip])
        )
        return [ObjectId(line.decode()) for line in listed.split()]

    def _parents(self, line: Sequence[ObjectId]) -> list[ObjectId]:
        if not line:
            return []
        words = self._git("rev-list", "--parents", "--max-count=1", line[0]).split()
        return [ObjectId(word.decode()) for word in words[1:]]

    def _size_of(self, tips: Iterable[ObjectId]) -> int:
        answer = self._git(
            "rev-list", "--objects", "--disk-usage", "--stdin", data=self._range(tips)
        )
        return int(answer)

    def _range(self, tips: Iterable[ObjectId]) -> bytes:
        wanted = b"".join(oid.encode() + b"\n" for oid in tips)
        return wanted + b"".join(b"^" + oid.encode() + b"\n" for oid in sorted(self._has))

    def _present(self, ids: Collection[ObjectId]) -> set[ObjectId]:
        """Tell which of the remote's ids are in this repository, too."""
        data = b"".join(oid.encode() + b"\n" for oid in ids)
        answer = self._git("cat-file", "--batch-check=%(objectname)", data=data)
        return {
            ObjectId(line.decode()) for line in answer.splitlines() if not line.endswith(b"missing")
        }

    # --- One push ---

    def _push(self, refs: Mapping[RefName, ObjectId]) -> None:
        names = [*refs]
        for begin in range(0, len(names), _REFS_AT_ONCE):
            self._push_some({name: refs[name] for name in names[begin : begin + _REFS_AT_ONCE]})

    def _push_some(self, refs: Mapping[RefName, ObjectId]) -> None:
        names = [*refs]
        self._told(f"pushing {len(names)} refs, beginning with {names[0]}")
        leases = [
            b"--force-with-lease=%b:%b" % (to_bytes(name), self._known[name].encode())
            for name in names
            if self._force and name in self._known
        ]
        specs = [b"%b:%b" % (refs[name].encode(), to_bytes(name)) for name in names]
        said = self._run([*map(os.fsdecode, leases), *map(os.fsdecode, specs)])
        reasons = [said.get(name, "git did not say what became of it") for name in names]
        if len(names) > 1 and all(reason.startswith(_BY_REMOTE) for reason in reasons):
            # A server may refuse all for the sake of one.
            half = len(names) // 2
            self._push_some({name: refs[name] for name in names[:half]})
            self._push_some({name: refs[name] for name in names[half:]})
            return
        for name, reason in zip(names, reasons, strict=True):
            if reason:
                self._result.refused[name] = reason
            else:
                self._result.sent.append(name)
                self._has.add(refs[name])

    def _push_part(self, commit: ObjectId) -> None:
        """Bring one commit of a long history to the remote, under a name of ours."""
        self._told(f"pushing the history up to {commit}")
        for number, prefix in enumerate(_PARTS):
            name = prefix + commit[:16].encode()
            reason = self._run([f"{commit}:{os.fsdecode(name)}"]).get(to_name(name), "no answer")
            if not reason:
                self._parts.append(name)
                self._has.add(commit)
                return
            if number == len(_PARTS) - 1:
                raise SourceError(f"{self._url} refuses a part of the history: {reason}")

    def _run(self, words: Sequence[str]) -> dict[RefName, str]:
        """Push, and return what was refused: name to reason, empty for what was taken."""
        arguments = ["push", "--porcelain", "--no-verify", "--no-follow-tags", "--no-signed"]
        options = [word for word in words if word.startswith("--force-with-lease=")]
        specs = [word for word in words if not word.startswith("--force-with-lease=")]
        argv: list[str | os.PathLike[str]] = [
            "git",
            "-C",
            self._directory,
            *arguments,
            *options,
            "--",
            self._url,
            *specs,
        ]
        self._result.batches += 1
        with Child(
            argv, environment=self._environment, stop=self._stop, patience_seconds=_PUSH_SECONDS
        ) as child:
            status, output = child.converse(b"")
            said = child.words()
        answered = dict(_answers(output))
        if status != 0 and not any(answered.values()):
            raise _push_error(self._url, said or f"git push ended with {status}")
        # A server that refuses as a whole says beside it why.
        return {
            name: f"{reason}: {said}" if reason.startswith(_BY_REMOTE) and said else reason
            for name, reason in answered.items()
        }

    def _git(self, *arguments: str, data: bytes = b"") -> bytes:
        return run_git(*arguments, directory=self._directory, stop=self._stop, data=data)


def _answers(output: bytes) -> Iterator[tuple[RefName, str]]:
    """Read what git push says of each ref: its name, and why it was refused."""
    for line in output.splitlines():
        flag, _, rest = line.partition(b"\t")
        spec, _, summary = rest.partition(b"\t")
        if len(flag) != 1 or not summary:
            continue
        name = to_name(spec.partition(b":")[2])
        yield name, summary.decode("utf-8", "backslashreplace") if flag == b"!" else ""


def _environment(reach: Reach, *, safe: Path) -> dict[str, str]:
    """Build the environment of a git that talks to a remote."""
    environment = clean_environment(
        safe_directories=[*reach.safe, safe],
        settings=[("http.followRedirects", "false"), *reach.settings],
    )
    environment["GIT_ALLOW_PROTOCOL"] = reach.protocol
    return environment | dict(reach.variables)


def _remote_refs(url: str, *, environment: Mapping[str, str], stop: Stop) -> RemoteRefs:
    try:
        output = run_git(
            *("ls-remote", "--symref", "--", url),
            directory=Path("/"),
            stop=stop,
            environment=environment,
        )
    except GitFailed as error:
        raise _push_error(url, error.message) from error
    refs: dict[RefName, ObjectId] = {}
    head = None
    for line in output.splitlines():
        value, _, name = line.partition(b"\t")
        if name == b"HEAD":
            head = to_name(value[5:]) if value.startswith(b"ref: ") else head
        elif not name.endswith(b"^{}"):
            refs[to_name(name)] = ObjectId(value.decode())
    return RemoteRefs(refs, head)


def _push_error(url: str, words: str) -> BackupError:
    """Make the error for what git said of a push that came to nothing."""
    if (error := ssh_error(url, words)) is not None:
        return error
    hint = ""
    said = words.casefold()
    if "authentication failed" in said or "could not read username" in said or "error: 403" in said:
        hint = "give a token with write access in REPO_BACKUP_TOKEN"
    elif "not found" in said or "error: 404" in said:
        hint = "make the repository first, empty, and check that the token may write to it"
    elif _TOO_LARGE.search(words):
        hint = "the remote may not take so much at once: give a smaller --push-batch-mib"
    return SourceError(f"{url} takes nothing: {words}", hint=hint)
