"""HTTP requests that keep credentials at the server they are for."""

import base64
from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import requests

from backup.errors import SourceError
from backup.secret import Secret

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
        before, after = response.request.url or "", prepared_request.url or ""
        if not self.should_strip_auth(before, after):
            super().rebuild_auth(prepared_request, response)
            return
        in_the_clear = urlsplit(before).scheme == "https" and urlsplit(after).scheme != "https"
        if not self._goes_elsewhere or in_the_clear:
            raise SourceError(
                f"{self._forge}'s answer leads to another server: {urlsplit(after).netloc}",
                hint="check --server-url and --api-url",
            )
        for name in _CREDENTIALS:
            prepared_request.headers.pop(name, None)
