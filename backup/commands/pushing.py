"""Pushes what was restored to a remote, and asks the remote afterwards what it has."""

import shlex
from collections.abc import Callable, Iterable, Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from backup.commands.remotes import Network, NetworkSettings, lfs_server
from backup.commands.sending import FILES_AT_ONCE, Sending, SentFiles, stored_locally
from backup.errors import SourceError
from backup.git.fallback import Reach
from backup.git.push import PushRemote, RemoteRefs, ask_remote, left_parts
from backup.git.staging import Stage
from backup.git.work import work_folder
from backup.model import Events, ObjectId, RefName
from backup.refs import HIDDEN_PREFIXES, to_bytes
from backup.results import PushReport, Restored
from backup.secret import Secret
from backup.stopping import Stop

_WORKFLOW_HINT = (
    "classic token: scope workflow; fine-grained token or App: permission Workflows, read and write"
)


@dataclass(frozen=True, slots=True)
class PushRequest:
    """Where to push, and how.

    Attributes:
        url: without credentials.
        reach: how git gets there.
        limit_bytes: how much of packed objects goes in one push.
        force: overwrite refs that differ there.
        network: how servers are reached.
        authorization: what goes into the Authorization header; None where nothing does.
        scopes: asks GitHub what the token may do, None where that cannot be told; None in its
            place where the remote is not GitHub's, or is reached by another key.
    """

    url: str
    reach: Reach
    limit_bytes: int
    network: NetworkSettings
    authorization: Secret | None = None
    force: bool = False
    scopes: Callable[[], frozenset[str] | None] | None = None


class Push:
    """One push, of one repository."""

    def __init__(self, request: PushRequest, *, events: Events, stop: Stop) -> None:
        self._request = request
        self._events = events
        self._stop = stop

    def require_reachable(self) -> None:
        """Ask the remote before anything is restored for it.

        Raises:
            BackupError: it cannot be reached, or does not let us in.
        """
        self._ask()

    def push(
        self,
        state: Restored,
        directory: Path,
        tips: Mapping[RefName, ObjectId],
        *,
        head: RefName | None,
    ) -> PushReport:
        """Push every ref that is not a forge's own.

        Args:
            state: what is pushed.
            directory: where it is.
            tips: its refs.
            head: the ref that HEAD names.

        Raises:
            SourceError: the token may not push workflows and there are some; nothing was pushed.
            BackupError: the remote cannot be reached, or takes nothing.
        """
        # A stash is its owner's own, and git pushes no ref that lies directly in refs/.
        hidden = tuple(
            name
            for name in tips
            if name == "refs/stash" or to_bytes(name).startswith(HIDDEN_PREFIXES)
        )
        left_out = set(hidden)
        wanted = {name: oid for name, oid in tips.items() if name not in left_out}
        before = self._ask()
        with work_folder() as folder:
            stage = Stage(folder / "push.git", directory, stop=self._stop)
            remote = self._remote(stage)
            notes = self._workflows(remote, wanted, before)
            # A forge refuses refs whose files it does not have.
            files = self._send_files(directory)
            pushed = remote.push(wanted, before, first=head)
        after = self._ask()
        refused = dict(pushed.refused)
        for name, oid in wanted.items():
            # What counts is what the remote says it has.
            if after.refs.get(name) != oid and name not in refused:
                refused[name] = (
                    f"the remote says that it has {after.refs.get(name) or 'no such ref'}"
                )
        refused |= _changed_besides(before, after, tips)
        if head in wanted and after.head not in (None, head):
            notes.append(f"the remote's HEAD is {after.head}: make {head} its default branch")
        notes += self._besides(after.refs.keys() - tips.keys() - refused.keys())
        sent = set(pushed.sent) - refused.keys()
        return PushReport(
            state=state,
            url=self._request.url,
            sent=tuple(name for name in wanted if name in sent),
            unchanged=sum(before.refs.get(name) == oid for name, oid in wanted.items()),
            refused=tuple(refused.items()),
            hidden=hidden,
            batches=pushed.batches,
            notes=tuple(notes),
            files=files.sent,
            files_failed=tuple(files.failed),
        )

    def _send_files(self, directory: Path) -> "SentFiles":
        """Send what the repository has of Git LFS and the remote has not."""
        pointers = stored_locally(directory)
        if not pointers:
            return SentFiles()
        url = self._request.url
        if url.startswith("/"):
            count = f"{len(pointers)} files of Git LFS"
            return SentFiles(failed=[f"{count} were not sent: git lfs push --all {url} sends them"])
        network = Network(self._request.network, connections=FILES_AT_ONCE, stop=self._stop)
        with closing(network):
            server = lfs_server(
                url,
                network,
                lambda: self._request.authorization,
                operation="upload",
                count=lambda _: None,
                stop=self._stop,
            )
            sending = Sending(server, directory, events=self._events, stop=self._stop)
            return sending.send(pointers)

    def _besides(self, names: Iterable[RefName]) -> list[str]:
        """Report what the remote has besides: refs of others, and what an unfinished push left."""
        parts = left_parts(names)
        others = len({*names} - {*parts})
        notes = []
        if others:
            notes.append(f"{others} refs of the remote are not in this backup, and were left alone")
        if parts:
            command = shlex.join(["git", "push", "--delete", self._request.url, *parts])
            notes.append(
                f"{len(parts)} refs of the remote hold parts of a push that did not end, or is "
                f"still running; when none is, this removes them: {command}"
            )
        return notes

    def _workflows(
        self, remote: PushRemote, wanted: Mapping[RefName, ObjectId], known: RemoteRefs
    ) -> list[str]:
        """Refuse, or warn of, workflow files that the token may not push."""
        if self._request.scopes is None or not remote.lacks_workflows(wanted.values(), known):
            return []
        scopes = self._request.scopes()
        if scopes is None:
            note = f"there are workflow files, which need a right of their own ({_WORKFLOW_HINT})"
            self._events.note(note)
            return [note]
        if "workflow" not in scopes:
            raise SourceError(
                "the token may not push workflow files, and there are some in "
                f".github/workflows: nothing was pushed (its scopes: {', '.join(sorted(scopes))})",
                hint=f"give it the right ({_WORKFLOW_HINT})",
            )
        return []

    def _ask(self) -> RemoteRefs:
        return ask_remote(self._request.url, reach=self._request.reach, stop=self._stop)

    def _remote(self, stage: Stage) -> PushRemote:
        request = self._request
        return PushRemote(
            stage,
            request.url,
            reach=request.reach,
            limit_bytes=request.limit_bytes,
            force=request.force,
            told=self._events.note,
            stop=self._stop,
        )


def _changed_besides(
    before: RemoteRefs, after: RemoteRefs, tips: Mapping[RefName, ObjectId]
) -> dict[RefName, str]:
    """Name refs of the remote that changed though nothing was pushed to them."""
    parts = {*left_parts(after.refs)}
    return {
        name: "nothing was pushed to it, and it changed: by another process, or as what another "
        "name at the remote stands for"
        for name, oid in after.refs.items()
        if name not in tips and name not in parts and before.refs.get(name) != oid
    }
