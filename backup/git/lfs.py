"""The client of Git LFS: asks a server for files by their ids, and reads them where it says.

A server is asked for up to a hundred files at once, and answers with a link for each, to itself or
to a store, good for some minutes. Credentials go to the server alone; what a link needs comes with
it.
Source: git-lfs, docs/api/batch.md, docs/api/basic-transfers.md, docs/api/server-discovery.md.
"""

import json
import os
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from errno import ENOENT, ENOTDIR
from pathlib import Path
from stat import S_ISLNK, S_ISREG
from threading import Lock
from typing import Any, Protocol

from backup import limits
from backup.errors import AnswerTooLarge, FileMissing, LinkExpired, SourceError
from backup.git.http import MOST_REDIRECTS, REDIRECTS, Answer, Body, Due, HttpClient
from backup.git.pointers import Pointer
from backup.git.refusals import not_what_was_asked_for, require_success
from backup.secret import Secret, foreign, minted
from backup.urls import Place, joined, place_of

MOST_AT_ONCE = 100

_TYPE = "application/vnd.git-lfs+json"
# Of what ssh was told: at the least when it is used, and where it says nothing.
_LEAST_LIFE = 300.0
_LIFE_SECONDS = 900.0
_THIS_MACHINE = {"127.0.0.1", "localhost", "::1"}
_PIECE_BYTES = 1 << 18
_NOT_THERE = "the repository does not have it"
# What a store says of a link that is over (Amazon's of a token that is: 400), or of nothing there.
_REFUSED = {400, 401, 403, 404, 410}
# Compared, and not looked up: what a server says may be anything.
_GONE = (404, 410)
_TOO_LARGE = 413
_NOT_VALID = 422
_MOST_LIFE = 1e9
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# What a link may not ask for, though it names it. It is ours to say what the connection does, by
# whom it goes, who we are, and that a file is wanted whole and as it is.
# Source: RFC 9110, sections 7.6 (connections), 13 (conditions) and 14 (ranges); RFC 6265.
_OURS = {
    *("accept-encoding", "connection", "content-encoding", "content-length", "cookie", "cookie2"),
    *("expect", "forwarded", "host", "http2-settings", "keep-alive", "range", "te", "trailer"),
    *("transfer-encoding", "upgrade", "via"),
}
_OURS_BY_BEGINNING = ("if-", "proxy-", "x-forwarded-")
# What a link may ask for where our own credentials go along; all that git-lfs servers have there.
# Anything else might have the server do another thing, or take us for somebody else.
_BESIDE_CREDENTIALS = {"accept", "content-type"}
_BESIDE_CREDENTIALS_BY_BEGINNING = ("x-amz-", "x-goog-", "x-ms-")


@dataclass(frozen=True, slots=True)
class Offer:
    """Where a file is to be had.

    Attributes:
        place: a URL, or a path on this machine. Who has it may need nothing else to read the file.
        headers: go with the request to that place.
        over_at: when the link ends, by `time.monotonic`; None where nobody said.
    """

    place: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    over_at: float | None = None

    @property
    def is_over(self) -> bool:
        """Whether the link has ended, by the word of who made it."""
        return self.over_at is not None and time.monotonic() >= self.over_at


@dataclass(frozen=True, slots=True)
class Upload:
    """Where a file is to be sent, and whom to tell; None for either where nobody asks for it."""

    send: Offer | None
    verify: Offer | None


class FileSource(Protocol):
    """Where the files that a repository's pointers name come from. Used from many threads.

    Attributes:
        vouches: whether an offer alone says that the repository has the file; otherwise its
            content must.
    """

    @property
    def vouches(self) -> bool: ...

    def offers(self, pointers: Sequence[Pointer]) -> Mapping[str, Offer | SourceError]:
        """Ask for files, at most `MOST_AT_ONCE`; tell of each by its id where it is, or why not.

        Raises:
            SourceError: none are to be had.
        """

    def read(self, pointer: Pointer, offer: Offer) -> Iterator[bytes]:
        """Yield a file's bytes. Whether they are the right ones is for the reader to see.

        Raises:
            LinkExpired: the offer is not good any more; a new one may be.
            FileMissing: there is no such file.
            BackupError: the network or the server failed.
        """


def file_in(git_directory: Path, oid: str) -> Path:
    """Tell where git-lfs has a file in a repository.

    Source: git-lfs, docs/man/git-lfs-config.adoc, lfs.storage; two levels of folders.
    """
    return git_directory / "lfs" / "objects" / oid[:2] / oid[2:4] / oid


class LocalFiles:
    """The files that a repository on this machine has itself.

    No link below the git directory is followed: anyone who may write there could have one lead to
    any file that this process can read. Source: open(2), O_NOFOLLOW.

    Args:
        git_directory: the repository's.
    """

    # A name is none: anyone who may write there can give any file any name.
    vouches = False

    def __init__(self, git_directory: Path) -> None:
        self._git_directory = git_directory

    def offers(self, pointers: Sequence[Pointer]) -> Mapping[str, Offer | SourceError]:
        return {one.oid: self._offer(one) for one in pointers}

    def _offer(self, pointer: Pointer) -> Offer | SourceError:
        try:
            os.close(self._open(pointer.oid))
        except SourceError as error:
            return error
        return Offer(str(file_in(self._git_directory, pointer.oid)))

    def read(self, pointer: Pointer, offer: Offer) -> Iterator[bytes]:
        try:
            with os.fdopen(self._open(pointer.oid), "rb") as file:
                while data := file.read(_PIECE_BYTES):
                    yield data
        except OSError as error:
            raise SourceError(f"it cannot be read: {error.strerror}") from error

    def _open(self, oid: str) -> int:
        """Open a file, one folder after the other from the git directory on.

        Raises:
            FileMissing: there is none.
            SourceError: it lies behind a link, or cannot be read.
        """
        *folders, name = file_in(Path(), oid).parts
        try:
            place = os.open(self._git_directory, os.O_RDONLY | os.O_DIRECTORY)
        except OSError as error:
            raise SourceError(f"the repository cannot be read: {error.strerror}") from error
        try:
            for folder in folders:
                below = _open_at(place, folder, os.O_DIRECTORY)
                os.close(place)
                place = below
            # What is no file at all, such as a pipe, must not keep us waiting.
            found = _open_at(place, name, os.O_NONBLOCK)
        finally:
            os.close(place)
        if not S_ISREG(os.fstat(found).st_mode):
            os.close(found)
            raise FileMissing(_NOT_THERE)
        return found


def _open_at(folder: int, name: str, flags: int) -> int:
    """Open what lies in an open folder, unless it is a link."""
    try:
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | flags, dir_fd=folder)
    except OSError as error:
        with suppress(OSError):
            if S_ISLNK(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode):
                raise SourceError(f"{name} is a symbolic link, and is not followed") from error
        if error.errno in (ENOENT, ENOTDIR):
            raise FileMissing(_NOT_THERE) from error
        raise SourceError(f"it cannot be read: {error.strerror}") from error


@dataclass(frozen=True, slots=True)
class Access:
    """Where a server is, and what it must be told of who asks.

    Attributes:
        headers: for requests to the server itself.
    """

    url: str
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


def over_http(url: str, authorization: Callable[[], Secret | None]) -> Callable[[], Access]:
    """Reach the server of a repository that is cloned over HTTP, with its credentials.

    Args:
        url: as it is cloned, without credentials.
        authorization: gives the header's value, asked before each request.
    """
    bare = url.rstrip("/")
    base = f"{bare if bare.endswith('.git') else f'{bare}.git'}/info/lfs"

    def access() -> Access:
        value = authorization()
        return Access(base, {} if value is None else {"Authorization": value.reveal()})

    return access


class OverSsh:
    """Reaches the server of a repository that is cloned over ssh: there is told where it is.

    Used from many threads. What was told is used until it has less than five minutes to live.

    Args:
        ask: asks, and gives the answer as it is.
    """

    def __init__(self, ask: Callable[[], bytes]) -> None:
        self._ask = ask
        self._lock = Lock()
        self._known: Access | None = None
        self._good_until = 0.0

    def __call__(self) -> Access:
        """Give the way to the server.

        Raises:
            BackupError: there is none.
        """
        with self._lock:
            if self._known is None or time.monotonic() >= self._good_until:
                self._known, self._good_until = self._read(self._ask())
            return self._known

    def _read(self, answer: bytes) -> tuple[Access, float]:
        # Source: git-lfs, docs/api/server-discovery.md, "SSH".
        try:
            found = json.loads(answer)
        except (ValueError, RecursionError) as error:
            raise SourceError("what git-lfs-authenticate says is no JSON") from error
        url = found.get("href") if isinstance(found, dict) else None
        place = place_of(url) if isinstance(url, str) else None
        if not isinstance(url, str) or place is None:
            raise SourceError("git-lfs-authenticate names no server")
        if place.scheme == "http" and place.host not in _THIS_MACHINE:
            raise SourceError("git-lfs-authenticate names a server without encryption (http)")
        over_at = _over_at(found)
        good_until = time.monotonic() + _LIFE_SECONDS if over_at is None else over_at
        headers = _headers(found.get("header") or {}, note=minted)
        return Access(url.rstrip("/"), headers), good_until - _LEAST_LIFE


class LfsServer:
    """The LFS server of a repository.

    Args:
        access: tells where it is and what it needs, asked before each request.
        named: what messages call it.
        client: its connections are used.
        count: called with ``lfs`` for every request made.
    """

    vouches = True

    def __init__(
        self,
        access: Callable[[], Access],
        *,
        named: str,
        client: HttpClient,
        count: Callable[[str], None],
    ) -> None:
        self._access = access
        self._named = named
        self._client = client
        self._count = count

    def offers(self, pointers: Sequence[Pointer]) -> Mapping[str, Offer | SourceError]:
        lines = self._ask_batch("download", pointers)
        return {one.oid: self._download(lines.get(one.oid)) for one in pointers}

    def uploads(self, pointers: Sequence[Pointer]) -> Mapping[str, Upload | SourceError]:
        """Ask where files are to be sent, at most `MOST_AT_ONCE`; raises as `offers` does."""
        lines = self._ask_batch("upload", pointers)
        return {one.oid: self._upload(lines.get(one.oid)) for one in pointers}

    def send(self, pointer: Pointer, upload: Upload, path: Path) -> None:
        """Send a file, and have it verified where the server asks for that.

        Raises:
            LinkExpired: the link is not good any more; a new one may be.
            BackupError: the network or the server failed.
        """
        named = f"{self._named}, file {pointer.oid}"
        if upload.send is not None:
            headers = {"Content-Type": "application/octet-stream"} | dict(upload.send.headers)
            headers["Content-Length"] = str(path.stat().st_size)
            with path.open("rb") as file:
                self._tell("PUT", upload.send.place, headers, file, named)
        if upload.verify is not None:
            headers = {"Accept": _TYPE, "Content-Type": _TYPE} | dict(upload.verify.headers)
            body = json.dumps({"oid": pointer.oid, "size": pointer.size_bytes}).encode()
            self._tell("POST", upload.verify.place, headers, body, named)

    def _tell(
        self, method: str, url: str, headers: Mapping[str, str], body: Body, named: str
    ) -> None:
        self._count("lfs")
        answer = self._client.ask(method, url, headers=headers, body=body, named=named)
        try:
            _require_good_link(answer, named)
            if not 200 <= answer.status < 300:
                require_success(answer, named, signed_in=True)
        finally:
            answer.close()

    def read(self, pointer: Pointer, offer: Offer) -> Iterator[bytes]:
        named = f"{self._named}, file {pointer.oid}"
        url, headers = offer.place, dict(offer.headers)
        for _ in range(MOST_REDIRECTS):
            self._count("lfs")
            answer = self._client.ask("GET", url, headers=headers, body=None, named=named)
            if answer.status not in REDIRECTS:
                yield from _content(answer, named)
                return
            answer.close()
            target = joined(url, answer.headers.get("location", ""))
            if place_of(target) is None:
                raise SourceError(f"{named}: the store redirects to no URL")
            if self._require_as_safe(target, self._access()) != place_of(url):
                headers = {}
            url = target
        raise SourceError(f"{named}: the store redirects in circles")

    def _ask_batch(
        self, operation: str, pointers: Sequence[Pointer]
    ) -> Mapping[str, Mapping[str, Any]]:
        """Ask for links; give what the server says of each file, by id."""
        asked = {
            "operation": operation,
            "transfers": ["basic"],
            "objects": [{"oid": one.oid, "size": one.size_bytes} for one in pointers],
            "hash_algo": "sha256",
        }
        access, named = self._access(), self._named
        answer = self._post(access, json.dumps(asked).encode())
        if answer.status == _TOO_LARGE and len(pointers) > 1:
            answer.close()
            half = len(pointers) // 2
            first = self._ask_batch(operation, pointers[:half])
            return {**first, **self._ask_batch(operation, pointers[half:])}
        signed_in = "Authorization" in access.headers
        require_success(answer, named, signed_in=signed_in)
        data = _whole(answer, named)
        try:
            found = json.loads(data)
        except (ValueError, RecursionError) as error:
            raise not_what_was_asked_for(
                answer,
                data[: limits.MOST_PAGE_BYTES],
                named,
                due="readable JSON",
                check="that the server has Git LFS",
                signed_in=signed_in,
            ) from error
        if not isinstance(found, dict) or not isinstance(found.get("objects"), list):
            raise SourceError(f"{named}: the answer is not one of Git LFS")
        # Some say nothing by a null, or by an empty text.
        ways = found.get("transfer") or "basic", found.get("hash_algo") or "sha256"
        if ways != ("basic", "sha256"):
            raise SourceError(f"{named}: the server has another way of transfer than was asked")
        lines = {}
        for line in found["objects"]:
            if isinstance(line, dict) and isinstance(line.get("oid"), str):
                lines[line["oid"]] = line
        return lines

    def _post(self, access: Access, body: bytes) -> Answer:
        """Ask the server itself, and follow redirects within the place that it is at."""
        headers = {"Accept": _TYPE, "Content-Type": _TYPE} | dict(access.headers)
        url, place = f"{access.url}/objects/batch", place_of(access.url)
        due = Due(limits.MOST_API_SECONDS)
        for _ in range(MOST_REDIRECTS):
            self._count("lfs")
            answer = self._client.ask(
                "POST", url, headers=headers, body=body, named=self._named, due=due
            )
            if answer.status not in REDIRECTS:
                return answer
            answer.close()
            url = joined(url, answer.headers.get("location", ""))
            if place is None or place_of(url) != place:
                raise SourceError(
                    f"{self._named}: the server redirects elsewhere, and credentials do not follow"
                )
        raise SourceError(f"{self._named}: the server redirects in circles")

    def _download(self, line: Mapping[str, Any] | None) -> Offer | SourceError:
        """Read what the server says of one file that is asked for."""
        try:
            actions = _actions(line)
            offer = None if line is None else self._offer(line, actions.get("download"))
        except SourceError as refused:
            return refused
        return offer or SourceError("the server gives no link to it")

    def _upload(self, line: Mapping[str, Any] | None) -> Upload | SourceError:
        """Read what the server says of one file that it is to have."""
        try:
            actions = _actions(line)
            if line is None:
                raise AssertionError("there are actions")
            return Upload(
                self._offer(line, actions.get("upload")), self._offer(line, actions.get("verify"))
            )
        except SourceError as refused:
            return refused

    def _offer(self, line: Mapping[str, Any], action: object) -> Offer | None:
        if action is None:
            return None
        if not isinstance(action, dict) or not isinstance(action.get("href"), str):
            raise SourceError("the server's link to it is none")
        access = self._access()
        place = self._require_as_safe(action["href"], access)
        headers = _headers(action.get("header") or {})
        is_named = any(name.lower() == "authorization" for name in headers)
        is_ours = place == place_of(access.url)
        # Source: batch.md, "Response": a link to the server itself may need what we came with.
        if is_ours and not is_named and line.get("authenticated") is not True:
            headers = dict(access.headers) | {
                name: text
                for name, text in headers.items()
                if name.lower() in _BESIDE_CREDENTIALS
                or name.lower().startswith(_BESIDE_CREDENTIALS_BY_BEGINNING)
            }
        return Offer(action["href"], headers, _over_at(action))

    def _require_as_safe(self, url: str, access: Access) -> Place:
        """Refuse a link that is none, or that would be less private than the server's own URL."""
        place, own = place_of(url), place_of(access.url)
        if place is None or own is None:
            raise SourceError("the server's link to it is none")
        if place.scheme == "http" and own.scheme != "http":
            raise SourceError("the server's link to it is without encryption (http)")
        return place


def _actions(line: Mapping[str, Any] | None) -> Mapping[str, Any]:
    """Take the links out of what a server says of a file; raise what it refuses."""
    if line is None:
        raise SourceError("the server says nothing of it")
    error = line.get("error")
    if isinstance(error, dict):
        code = error.get("code")
        message = foreign(str(error.get("message") or "the server refuses it"), 200)
        # 422: the server takes no such id or size, and never will.
        kind = FileMissing if code in (*_GONE, _NOT_VALID) else SourceError
        # A code is a number of HTTP (batch.md, "Response Errors"); anything else is not repeated.
        is_code = type(code) is int and 0 < code < 1000
        raise kind(f"{message} ({code if is_code else 'no code'})")
    # Source: docs/api/v1/legacy.md: servers of the first version say "_links".
    actions = line.get("actions") or line.get("_links") or {}
    if not isinstance(actions, dict):
        raise SourceError("the server's link to it is none")
    return actions


def _require_good_link(answer: Answer, named: str) -> None:
    if answer.status in _REFUSED:
        raise LinkExpired(
            f"{named}: the store refuses the link ({answer.status})",
            is_gone=answer.status in _GONE,
        )


def _content(answer: Answer, named: str) -> Iterator[bytes]:
    try:
        _require_good_link(answer, named)
        # A link may lead anywhere: what is there is not for a message.
        require_success(answer, named, signed_in=True, quoted=False)
        while data := answer.read(_PIECE_BYTES):
            yield data
    finally:
        answer.close()


def _whole(answer: Answer, named: str) -> bytes:
    data = bytearray()
    try:
        while piece := answer.read(_PIECE_BYTES):
            data += piece
            if len(data) > limits.MOST_LFS_ANSWER_BYTES:
                most = limits.MOST_LFS_ANSWER_BYTES
                raise AnswerTooLarge(f"{named}: the answer has more than {most} bytes")
    finally:
        answer.close()
    return bytes(data)


def _headers(given: object, *, note: Callable[[str], Secret] = Secret) -> dict[str, str]:
    """Take the headers that a link needs; one that could not be sent as it is makes it unusable.

    Args:
        given: by the server.
        note: makes credentials among them known as a secret.
    """
    if not isinstance(given, dict):
        raise SourceError("the server's link to it is none")
    headers = {}
    for name, value in given.items():
        text = str(value)
        if not _TOKEN.fullmatch(name) or not (text.isascii() and text.isprintable()):
            raise SourceError("the server's link to it has headers that cannot be sent")
        if name.lower() == "authorization":
            note(text)
        # Programs behind a web server cannot tell the two apart. Source: RFC 3875, section 4.1.18.
        known_as = name.lower().replace("_", "-")
        if known_as not in _OURS and not known_as.startswith(_OURS_BY_BEGINNING):
            headers[name] = text
    return headers


def _over_at(action: Mapping[str, Any]) -> float | None:
    """Tell when a link ends, by our own clock that never jumps."""
    seconds = action.get("expires_in")
    if isinstance(seconds, int) and 0 < seconds < _MOST_LIFE:
        return time.monotonic() + seconds
    # Source: batch.md: "expires_in" is preferred, since clocks differ.
    with suppress(KeyError, ValueError):
        until = datetime.fromisoformat(str(action["expires_at"]))
        if until.tzinfo is not None and until.year > 1:
            return time.monotonic() + (until - datetime.now(UTC)).total_seconds()
    return None
