"""The way to a repository's upload-pack, by what its source says of it."""

import re
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Literal
from urllib.parse import urlsplit

from backup.errors import BackupError, IncompleteRepository, NotOurRef, ProtocolError
from backup.git.check import Disk
from backup.git.fallback import Reach, mirrored
from backup.git.http import HttpClient, HttpSettings, HttpTransport, git_settings
from backup.git.lfs import FileSource, LfsServer, LocalFiles, OverSsh, over_http
from backup.git.ssh import ask_for_lfs, command_line, is_ssh, open_ssh
from backup.git.ssh import server_of as ssh_server_of
from backup.git.transport import Transport, open_folder
from backup.git.upload_pack import Remote
from backup.machine import limit_in, limit_named
from backup.model import ObjectId, Refs, Repository, Selection
from backup.secret import Secret
from backup.sources.plain import incomplete_because, missing_because, open_git_folder
from backup.stopping import Stop
from backup.urls import place_of

Authorization = Callable[[], Secret | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkSettings:
    """How servers are reached.

    Attributes:
        ssh_key_file: the private key; None for the agent's keys.
        ssh_known_hosts_file: the servers' keys; None for those that ssh knows.
        ssh_agent: the agent's socket; empty when there is none.
    """

    http: HttpSettings = field(default_factory=HttpSettings)
    ssh_key_file: Path | None = None
    ssh_known_hosts_file: Path | None = None
    ssh_agent: str = ""


class Network:
    """The connections of one run, shared by its threads.

    Args:
        connections: how many requests may go on at once.
    """

    def __init__(self, settings: NetworkSettings, *, connections: int, stop: Stop) -> None:
        self.settings = settings
        self._connections = connections
        self._stop = stop
        self._lock = Lock()
        self._http: HttpClient | None = None

    @property
    def http(self) -> HttpClient:
        """The client, made when it is first needed."""
        with self._lock:
            if self._http is None:
                self._http = HttpClient(
                    self.settings.http, connections=self._connections, stop=self._stop
                )
            return self._http

    def close(self) -> None:
        """End all connections."""
        if self._http is not None:
            self._http.close()


@dataclass(frozen=True, slots=True)
class Remotes:
    """Opens the upload-packs of one source's repositories. Used from many threads.

    Attributes:
        selection: which refs are taken.
        count: called with ``git`` for every request made.
        authorization: tells what goes into the Authorization header, asked anew for each request.
        renew: gets other credentials where these were refused; false where there are none.
    """

    network: Network
    selection: Selection
    count: Callable[[str], None]
    stop: Stop
    authorization: Authorization = lambda: None
    renew: Callable[[], bool] = lambda: False

    @contextmanager
    def open(self, repository: Repository) -> Iterator[Remote]:
        """Open a repository, and say why where its own history is not whole.

        Raises:
            MachineLimitReached: there is too little here for git to read it now.
            IncompleteRepository: it is shallow, or lacks objects: as a partial clone, or since it
                borrows some that are gone.
            RepositoryUnavailable: it is no repository (any more).
        """
        if not is_local(repository):
            with self._remote(self._over_the_network(repository.clone_url)) as remote:
                yield remote
            return
        folder = open_git_folder(repository)
        if reason := incomplete_because(folder.git_directory):
            raise IncompleteRepository(f"the repository is {reason}")
        transport = open_folder(folder.git_directory, safe=folder.safe, stop=self.stop)
        try:
            with self._remote(transport) as remote:
                yield remote
        except NotOurRef:
            # The refs may only have moved; who asks again asks `why_not_there` in the end.
            raise
        except (ProtocolError, IncompleteRepository) as error:
            # All that git says here is said on this machine.
            if limit := limit_in(error.message):
                raise limit_named(limit, error.message) from error
            if reason := missing_because(folder.git_directory):
                raise IncompleteRepository(
                    f"the repository's objects are not all there: {reason}"
                ) from error
            raise

    @contextmanager
    def open_mirror(self, repository: Repository, *, disk: Disk) -> Iterator[Remote]:
        """Open a temporary mirror of a repository whose server has no protocol version 2."""
        url = repository.clone_url
        if not is_local(repository) and not is_ssh(url):
            # git does not follow redirects here: it would take the credentials along.
            asked = HttpTransport(url, client=self.network.http, authorization=self.authorization)
            with closing(asked):
                self.count("git")
                asked.advertisement()
                url = asked.base
        self.count("git")
        reach = self._reach(repository)
        with mirrored(url, reach=reach, disk=disk, stop=self.stop) as mirror:
            transport = open_folder(mirror, safe=[mirror], stop=self.stop)
            with Remote(transport, selection=self.selection, count=lambda _: None) as remote:
                yield remote

    def files(self, repository: Repository) -> FileSource:
        """Give the way to a repository's files of Git LFS."""
        if is_local(repository):
            return LocalFiles(open_git_folder(repository).git_directory)
        return lfs_server(
            repository.clone_url,
            self.network,
            self.authorization,
            operation="download",
            count=self.count,
            stop=self.stop,
        )

    def _remote(self, transport: Transport) -> Remote:
        return Remote(transport, selection=self.selection, count=self.count)

    def _over_the_network(self, url: str) -> Transport:
        settings = self.network.settings
        if is_ssh(url):
            return open_ssh(
                url,
                key_file=settings.ssh_key_file,
                known_hosts=settings.ssh_known_hosts_file,
                agent=settings.ssh_agent,
                stop=self.stop,
            )
        return HttpTransport(url, client=self.network.http, authorization=self.authorization)

    def _reach(self, repository: Repository) -> Reach:
        if is_local(repository):
            return Reach("file", safe=open_git_folder(repository).safe)
        return reach_of(repository.clone_url, self.network.settings, self.authorization())


def lfs_server(
    url: str,
    network: Network,
    authorization: Authorization,
    *,
    operation: Literal["download", "upload"],
    count: Callable[[str], None],
    stop: Stop,
) -> LfsServer:
    """Give the LFS server of a repository on another machine."""
    access = over_http(url, authorization)
    if is_ssh(url):
        settings = network.settings

        def ask() -> bytes:
            count("lfs")
            return ask_for_lfs(
                url,
                operation=operation,
                key_file=settings.ssh_key_file,
                known_hosts=settings.ssh_known_hosts_file,
                agent=settings.ssh_agent,
                stop=stop,
            )

        access = OverSsh(ask)
    return LfsServer(access, named=f"{url} (Git LFS)", client=network.http, count=count)


def reach_of(url: str, settings: NetworkSettings, authorization: Secret | None) -> Reach:
    """Tell the git program what the transports know of the way to a server, or to a folder."""
    if url.startswith("/"):
        return Reach("file", safe=[Path(url)])
    if is_ssh(url):
        ssh = command_line(
            key_file=settings.ssh_key_file, known_hosts=settings.ssh_known_hosts_file
        )
        agent = {"SSH_AUTH_SOCK": settings.ssh_agent} if settings.ssh_agent else {}
        return Reach("ssh", variables={"GIT_SSH_COMMAND": ssh, **agent})
    known = git_settings(url, settings.http, authorization)
    return Reach(urlsplit(url).scheme, settings=known)


def is_local(repository: Repository) -> bool:
    """Tell whether a repository lies on this machine."""
    return repository.clone_url.startswith("/")


def server_of(repository: Repository) -> str:
    """Name the scheme, host and port that a repository is had from; empty for this machine."""
    url = repository.clone_url
    if is_local(repository):
        return ""
    if is_ssh(url):
        return ssh_server_of(url)
    place = place_of(url)
    return url if place is None else f"{place.scheme}://{place.host}:{place.port}"


def why_not_there(refused: NotOurRef, refs: Refs | None, repository: Repository) -> BackupError:
    """Build the error that names the ref or the loss for which an object was not to be had.

    Args:
        refused: what the repository answered.
        refs: that it had named; None where it named none.
        repository: which it is.
    """
    if reason := _lacking(repository):
        return IncompleteRepository(f"the repository's objects are not all there: {reason}")
    found = re.search(r"[0-9a-f]{40,64}", refused.message)
    if found is None or refs is None:
        return refused
    oid = ObjectId(found[0])
    names = [str(name) for name, tip in refs.tips.items() if tip == oid]
    if refs.head_id == oid:
        names.append("HEAD")
    if not names:
        return refused
    return IncompleteRepository(
        f"{', '.join(names)} points at {oid}, an object that the repository does not have",
        hint="run git fsck on it; delete the ref or bring the object back",
    )


def _lacking(repository: Repository) -> str:
    """Say what a repository's store of objects lacks, where that can be seen; empty otherwise."""
    if not is_local(repository):
        return ""
    return missing_because(open_git_folder(repository).git_directory)
