"""HTTP requests that keep credentials at their server, and take no answer without end."""

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.adapters import HTTPAdapter

from backup import limits
from backup.answers import in_time, whole
from backup.connections import hold_connections
from backup.errors import DeadlineReached, SourceError
from backup.secret import Secret
from backup.stopping import Stop
from backup.urls import place_of, shown

_CREDENTIALS = ("Authorization", "Private-Token", "Job-Token")


def bearer(token: Secret) -> Secret:
    """Make the Authorization header's value for a token alone."""
    return Secret(f"Bearer {token.reveal()}")


def basic(username: str, password: Secret) -> Secret:
    """Make the Authorization header's value for a name and a password."""
    pair = f"{username}:{password.reveal()}".encode()
    return Secret(f"Basic {base64.b64encode(pair).decode()}")


class LimitedAdapter(HTTPAdapter):
    """Takes no more of an answer, and waits no longer for it, than `backup.answers` has it.

    An answer that is streamed ends when its reader says so; of that only the head has a limit.

    Args:
        seconds: for an answer, where that is less.
        stop: ends the wait for an answer with its own error.
    """

    def __init__(self, *, seconds: float | None = None, stop: Stop | None = None) -> None:
        super().__init__()
        self._seconds = seconds
        self._stop = stop

    def init_poolmanager(self, *given: Any, **settings: Any) -> None:
        super().init_poolmanager(*given, **settings)
        hold_connections(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **settings: Any) -> Any:
        is_new = proxy not in self.proxy_manager
        manager = super().proxy_manager_for(proxy, **settings)
        if is_new:
            hold_connections(manager)
        return manager

    def send(  # type: ignore[override] # the rest is passed on as it comes
        self,
        request: requests.PreparedRequest,
        stream: bool = False,  # noqa: FBT001, FBT002 - as the base has it
        **settings: Any,
    ) -> requests.Response:
        base = super().send

        def receive() -> requests.Response:
            answer = base(request, stream=True, **settings)
            # Those that say something else than was asked for are read whole by requests.
            if not stream or answer.is_redirect or not answer.ok:
                answer.raw = _Whole(answer.raw)
                try:
                    _ = answer.content
                except BaseException:
                    answer.close()
                    raise
            return answer

        try:
            return in_time(receive, seconds=self._seconds, stop=self._stop)
        except DeadlineReached as error:
            place = urlsplit(request.url or "")
            raise DeadlineReached(
                f"the time given to this run was used up before {place.hostname} answered "
                f"{place.path}"
            ) from error


class _Whole:
    """An answer that requests reads at once, within the limit."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def stream(self, size: int, *, decode_content: bool) -> Iterator[bytes]:
        yield whole(self._raw.stream(size, decode_content=decode_content), came=self._raw.tell)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._raw, name)


class OneServerSession(requests.Session):
    """A session that refuses to follow a redirect to another server, and what has no end.

    requests itself would go, and takes only the Authorization header away. Used from one thread.

    Args:
        forge: how messages call the server.
        stop: ends the wait for an answer with its own error.
    """

    def __init__(self, forge: str, *, stop: Stop | None = None) -> None:
        super().__init__()
        self.max_redirects = limits.MOST_API_REDIRECTS
        self._forge = forge
        self._goes_elsewhere = False
        for scheme in ("http://", "https://"):
            self.mount(scheme, LimitedAdapter(stop=stop))

    @contextmanager
    def going_elsewhere(self) -> Iterator[None]:
        """Follow redirects to other servers meanwhile, and leave every credential behind.

        Forges keep large files at a storage host of its own.
        """
        self._goes_elsewhere = True
        try:
            yield
        finally:
            self._goes_elsewhere = False

    def rebuild_auth(
        self, prepared_request: requests.PreparedRequest, response: requests.Response
    ) -> None:
        after = prepared_request.url or ""
        before, place = place_of(response.request.url or ""), place_of(after)
        if place is not None and place == before:
            super().rebuild_auth(prepared_request, response)
            return
        was_clear = before is not None and before.scheme == "http"
        is_safe = place is not None and (place.scheme == "https" or was_clear)
        if not self._goes_elsewhere or not is_safe:
            raise SourceError(
                f"{self._forge}'s answer leads to another server: {shown(after)}",
                hint="check --server-url and --api-url",
            )
        for name in _CREDENTIALS:
            prepared_request.headers.pop(name, None)
