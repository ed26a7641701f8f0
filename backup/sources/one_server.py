"""HTTP requests that keep credentials at the server they are for."""

import base64
from collections.abc import Iterator
from contextlib import contextmanager

import requests

from backup.errors import SourceError
from backup.secret import Secret
from backup.urls import place_of, shown

_CREDENTIALS = ("Authorization", "Private-Token", "Job-Token")


def bearer(token: Secret) -> Secret:
    """Make the Authorization header's value for a token alone."""
    return Secret(f"Bearer {token.reveal()}")


def basic(username: str, password: Secret) -> Secret:
    """Make the Authorization header's value for a name and a password."""
    pair = f"{username}:{password.reveal()}".encode()
    return Secret(f"Basic {base64.b64encode(pair).decode()}")


class OneServerSession(requests.Session):
    """A session that refuses to follow a redirect to another server.

    requests itself would go, and takes only the Authorization header away. Used from one thread.

    Args:
        forge: how messages call the server.
    """

    def __init__(self, forge: str) -> None:
        super().__init__()
        self._forge = forge
        self._goes_elsewhere = False

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
