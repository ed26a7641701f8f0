"""Pushing a repository's refs to a remote, in batches that a forge takes.

The git program pushes, from a repository that has no other refs (``staging``), and each ref with a
lease: the remote has to have what it listed, or nothing where it listed nothing.

What is sent at once is measured before: refs go in one push as long as what the remote lacks of
them fits, by halves where it does not. A single ref whose history is too large goes commit by
commit along its first parents, held meanwhile by refs whose names no one else can have, and which
this push removes at the end. A push that broke off is continued by the next one, which does not
send again what the remote has by then.

Source: git-push(1), "OUTPUT" and ``--force-with-lease``; git-rev-list(1), ``--disk-usage``.
"""

import os
import re
import secrets
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from backup import limits
from backup.errors import BackupError, Interrupted, SourceError
from backup.git.child import Child
from backup.git.command import (
    GitFailed,
    clean_environment,
    newer_format,
    require_unhindered,
    run_git,
)
from backup.git.fallback import Reach
from backup.git.ssh import ssh_error
from backup.git.staging import EVERYTHING, Stage
from backup.model import ObjectId, RefName
from backup.refs import to_bytes, to_name
from backup.stopping import Stop

# For parts of a history: a namespace of ours, and branches where a server keeps nothing else. What
# follows is random, so that no ref of anyone else can have the name.
_PARTS = (b"refs/repo-backup/part-", b"refs/heads/repo-backup-part-")
_A_PART = re.compile(rb"(?:%b)[0-9a-f]{16}-[1-9][0-9]*" % b"|".join(map(re.escape, _PARTS)))
# A command line has a limit, and so has what a server does in one transaction.
_REFS_AT_ONCE = 500
_WORKFLOWS = ".github/workflows"
_BY_REMOTE = "[remote rejected]"
_LEASE_BROKEN = "(stale info)"
# Flags of refs that the remote has now as they were sent, or has no longer where that was asked.
_TAKEN = frozenset(b" +-*=")
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
        symrefs: other names of its refs, each with the ref that it stands for, as far as it says.
    """

    refs: Mapping[RefName, ObjectId]
    head: RefName | None
    symrefs: Mapping[RefName, RefName] = field(default_factory=dict)


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
        stage: what is pushed from; it has all objects.
        url: where to, without credentials.
        reach: how git gets there.
        limit_bytes: how much of packed objects goes in one push, as they lie in the repository.
        force: overwrite what differs, as long as it is what was listed.
        told: hears of each batch, and of each ref that is made or removed for a while.
        stop: ends it.
    """

    def __init__(
        self,
        stage: Stage,
        url: str,
        *,
        reach: Reach,
        limit_bytes: int,
        force: bool,
        told: Callable[[str], None],
        stop: Stop,
    ) -> None:
        self._stage = stage
        self._url = url
        self._limit_bytes = limit_bytes
        self._force = force
        self._told = told
        self._stop = stop
        self._over_http = reach.protocol in ("http", "https")
        self._environment = _environment(reach, safe=[stage.folder]) | stage.variables
        self._known: Mapping[RefName, ObjectId] = {}
        self._symrefs: Mapping[RefName, RefName] = {}
        self._has: set[ObjectId] = set()
        self._token = secrets.token_hex(8)
        self._prefixes = [*_PARTS]
        self._parts: dict[bytes, ObjectId] = {}
        self._result = Pushed()

    def lacks_workflows(self, tips: Iterable[ObjectId], known: RemoteRefs) -> bool:
        """Return whether what the remote lacks holds files that GitHub takes for workflows."""
        self._has = self._present(known.refs.values())
        # Also what one side of a merge had and the merge has not.
        words = ("rev-list", "--full-history", "--max-count=1", "--stdin", "--", _WORKFLOWS)
        found = self._stage.git(*words, data=self._range(tips))
        return bool(found.strip())

    def push(
        self, tips: Mapping[RefName, ObjectId], known: RemoteRefs, *, first: RefName | None
    ) -> Pushed:
        """Push refs; what the remote has besides is left alone.

        Args:
            tips: full name to id.
            known: what the remote has. Without force a ref of it that differs is refused, also
                where it would be a fast-forward.
            first: goes before all others, since a forge makes the first branch its default.

        Raises:
            BackupError: the remote cannot be reached or takes nothing; what went before stays.
        """
        self._known, self._symrefs = known.refs, known.symrefs
        self._has = self._present(known.refs.values())
        wanted = self._permitted(tips)
        try:
            if first in wanted and not known.refs and not _nesting(to_bytes(first)):
                self._send({first: wanted.pop(first)})
            for group in _in_order(wanted):
                self._send(group)
        except BaseException:
            if self._parts:
                self._told(f"{self._named_parts()} stay at the remote: the next push goes on there")
            raise
        self._remove_parts()
        return self._result

    def _permitted(self, tips: Mapping[RefName, ObjectId]) -> dict[RefName, ObjectId]:
        """Return the refs that the remote lacks and may get, and note why it may not get others."""
        wanted: dict[RefName, ObjectId] = {}
        for name, oid in tips.items():
            there = self._known.get(name)
            if there == oid:
                continue
            if to_bytes(name).count(b"/") == 1:
                reason = "git push takes no ref that lies directly in refs/"
                self._result.refused[name] = reason
            elif name in self._symrefs:
                # A push to it would move the ref that it stands for, past every lease.
                reason = f"the remote has it as another name for {self._symrefs[name]}"
                self._result.refused[name] = reason
            elif there is not None and not self._force:
                reason = f"the remote has {there}: only --force overwrites it"
                self._result.refused[name] = reason
            elif self._over_http and (other := self._taken_for(name)) is not None:
                reason = f"over HTTP git push takes the remote's {other} for it: rename that one"
                self._result.refused[name] = reason
            else:
                wanted[name] = oid
        return wanted

    def _taken_for(self, name: RefName) -> RefName | None:
        """Return a ref of the remote that git push may take for one of this name.

        Over HTTP git passes explicit names on to another git, which reads ``refs/heads/main`` as
        ``refs/heads/refs/heads/main`` where the remote has that. The lease would keep it from
        being overwritten, and all other refs of the same push from being sent.
        Source: git's refs.c, ``ref_rev_parse_rules``; transport-helper.c.
        """
        longer = (f"refs/{name}", f"refs/tags/{name}", f"refs/heads/{name}")
        remotes = (f"refs/remotes/{name}", f"refs/remotes/{name}/HEAD")
        return next((RefName(one) for one in (*longer, *remotes) if one in self._known), None)

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
        listed = self._stage.git(
            "rev-list", "--first-parent", "--reverse", "--stdin", data=self._range([tip])
        )
        return [ObjectId(line.decode()) for line in listed.split()]

    def _parents(self, line: Sequence[ObjectId]) -> list[ObjectId]:
        if not line:
            return []
        words = ("rev-list", "--parents", "--max-count=1", "--stdin")
        _, *parents = self._stage.git(*words, data=line[0].encode() + b"\n").split()
        return [ObjectId(parent.decode()) for parent in parents]

    def _size_of(self, tips: Iterable[ObjectId]) -> int:
        answer = self._stage.git(
            "rev-list", "--objects", "--disk-usage", "--stdin", data=self._range(tips)
        )
        return int(answer)

    def _range(self, tips: Iterable[ObjectId]) -> bytes:
        wanted = b"".join(oid.encode() + b"\n" for oid in tips)
        return wanted + b"".join(b"^" + oid.encode() + b"\n" for oid in sorted(self._has))

    def _present(self, ids: Collection[ObjectId]) -> set[ObjectId]:
        """Return which of the remote's ids are in this repository, too."""
        data = b"".join(oid.encode() + b"\n" for oid in ids)
        answer = self._stage.git("cat-file", "--batch-check=%(objectname)", data=data)
        # An id of the other object format may be the beginning of one of ours.
        there = {ObjectId(line.decode("utf-8", "replace")) for line in answer.splitlines()}
        return there.intersection(ids)

    # --- One push ---

    def _push(self, refs: Mapping[RefName, ObjectId]) -> None:
        names = [*refs]
        for begin in range(0, len(names), _REFS_AT_ONCE):
            self._push_some({name: refs[name] for name in names[begin : begin + _REFS_AT_ONCE]})

    def _push_some(self, refs: Mapping[RefName, ObjectId]) -> None:
        names = [*refs]
        self._told(f"pushing {len(names)} refs, beginning with {names[0]}")
        said = self._run_push({to_bytes(name): oid for name, oid in refs.items()})
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

    def _run_push(self, refs: Mapping[bytes, ObjectId]) -> dict[RefName, str]:
        """Push refs, each over what the remote listed under its name, or over nothing."""
        leases = [(name, self._known.get(to_name(name), "")) for name in refs]
        with self._stage.holding(refs):
            return self._run(leases, [EVERYTHING])

    # --- Parts of a history ---

    def _push_part(self, commit: ObjectId) -> None:
        """Bring one commit of a long history to the remote, under a name of ours."""
        self._told(f"pushing the history up to {commit}")
        while True:
            name = b"%b%b-%d" % (self._prefixes[0], self._token.encode(), len(self._parts) + 1)
            reason = self._run_push({name: commit}).get(to_name(name), "no answer")
            if not reason:
                break
            if len(self._prefixes) == 1:
                raise SourceError(f"{self._url} refuses a part of the history: {reason}")
            self._prefixes.pop(0)
        self._told(f"made {to_name(name)} at the remote, to hold that history until all is there")
        self._parts[name] = commit
        self._has.add(commit)

    def _remove_parts(self) -> None:
        """Remove the refs that this push made, as long as they are as it made them."""
        if not self._parts:
            return
        self._told(f"removing {self._named_parts()} from the remote")
        parts = [*self._parts.items()]
        for begin in range(0, len(parts), _REFS_AT_ONCE):
            some = parts[begin : begin + _REFS_AT_ONCE]
            try:
                said = self._run(some, [f":{os.fsdecode(name)}" for name, _ in some])
            except Interrupted:
                raise
            except BackupError as error:
                # Everything else is there; what is left is reported by what the remote lists.
                self._told(error.message)
                continue
            for name, reason in said.items():
                if reason:
                    self._told(f"{name} was not removed: {reason}")

    def _named_parts(self) -> str:
        """Name the refs that hold parts."""
        names = [to_name(name) for name in self._parts]
        if len(names) == 1:
            return f"the ref {names[0]}, which holds a part of the history,"
        return f"the {len(names)} refs from {names[0]} to {names[-1]}, which hold parts of history,"

    # --- The program ---

    def _run(self, leases: Iterable[tuple[bytes, str]], specs: Sequence[str]) -> dict[RefName, str]:
        """Push, and return what was refused: name to reason, empty for what was taken.

        Args:
            leases: what each ref has to be at the remote; empty where it must not exist.
            specs: what to push, or to delete.
        """
        argv: list[str | os.PathLike[str]] = [
            *("git", "-C", self._stage.folder, "push"),
            *("--porcelain", "--no-verify", "--no-follow-tags", "--no-signed"),
            *(f"--force-with-lease={os.fsdecode(name)}:{expected}" for name, expected in leases),
            *("--", self._url, *specs),
        ]
        self._result.batches += 1
        with Child(
            argv, environment=self._environment, stop=self._stop, patience_seconds=_PUSH_SECONDS
        ) as child:
            status, output = child.converse(b"")
            said = child.words()
        answered = dict(_answers(output))
        if status < 0:
            # Words may be the remote's, and say nothing of this machine.
            require_unhindered("push", status, "")
        if status != 0 and not any(answered.values()):
            raise _push_error(self._url, said or f"git push ended with {status}")
        return {name: _explained(reason, said) for name, reason in answered.items()}


def ask_remote(url: str, *, reach: Reach, stop: Stop) -> RemoteRefs:
    """Ask a remote for its refs.

    Raises:
        BackupError: it cannot be reached, or does not let us in.
    """
    return _remote_refs(url, environment=_environment(reach), stop=stop)


def left_parts(refs: Iterable[RefName]) -> list[RefName]:
    """Return the refs of a remote that have names like those of parts of a history."""
    return sorted(name for name in refs if _A_PART.fullmatch(to_bytes(name)))


def _in_order(refs: Mapping[RefName, ObjectId]) -> Iterator[dict[RefName, ObjectId]]:
    """Divide refs into those that may go in one push, in the order in which they go."""
    left = dict(refs)
    # A name inside another one goes before it: with the longer one at the remote, or in the same
    # push, git would not know which is meant.
    for nesting in sorted({_nesting(to_bytes(name)) for name in refs}):
        for prefix in (b"refs/heads/", b"refs/tags/", b"refs/"):
            names = [
                name
                for name in left
                if to_bytes(name).startswith(prefix) and _nesting(to_bytes(name)) == nesting
            ]
            yield {name: left.pop(name) for name in names}


def _nesting(name: bytes) -> int:
    """Return how deep a name like ``refs/heads/refs/heads/main`` is; 0 for usual ones.

    A name that git may take for another, longer one has a lower number than that.
    """
    return name.split(b"/").count(b"refs") - 1


def _explained(reason: str, said: str) -> str:
    if reason.startswith(_BY_REMOTE) and said:
        # A server that refuses as a whole says beside it why.
        return f"{reason}: {said}"
    if _LEASE_BROKEN in reason:
        return f"{reason}: another process changed it meanwhile"
    return reason


def _answers(output: bytes) -> Iterator[tuple[RefName, str]]:
    """Read what git push says of each ref: its name, and why it was refused."""
    for line in output.splitlines():
        flag, _, rest = line.partition(b"\t")
        spec, _, summary = rest.partition(b"\t")
        if len(flag) != 1 or not summary:
            continue
        name = to_name(spec.partition(b":")[2])
        yield name, "" if flag[0] in _TAKEN else summary.decode("utf-8", "backslashreplace")


def _environment(reach: Reach, *, safe: Sequence[Path] = ()) -> dict[str, str]:
    """Build the environment of a git that talks to a remote."""
    environment = clean_environment(
        safe_directories=[*reach.safe, *safe],
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
            most_bytes=limits.MOST_REF_LIST_BYTES,
        )
    except GitFailed as error:
        raise _push_error(url, error.message) from error
    refs: dict[RefName, ObjectId] = {}
    symrefs: dict[RefName, RefName] = {}
    for line in output.splitlines():
        value, _, name = line.partition(b"\t")
        if value.startswith(b"ref: "):
            symrefs[to_name(name)] = to_name(value[5:])
        elif name != b"HEAD" and not name.endswith(b"^{}"):
            refs[to_name(name)] = ObjectId(value.decode())
    head = symrefs.pop(to_name(b"HEAD"), None)
    return RemoteRefs(refs, head, symrefs)


def _push_error(url: str, words: str) -> BackupError:
    """Make the error for what git said of a push that came to nothing."""
    if (error := newer_format(url, words, reader="git") or ssh_error(url, words)) is not None:
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
