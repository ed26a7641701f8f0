"""HTTP requests that keep credentials at the server they are for."""

from urllib.parse import urlsplit

import requests

from backup.errors import SourceError


class OneServerSession(requests.Session):
    """A session that refuses to follow a redirect to another server.

    requests itself would go, and takes only the Authorization header away.

    Args:
        forge: how messages call the server.
    """

    def __init__(self, forge: str) -> None:
        super().__init__()
        self._forge = forge

    def rebuild_auth(
        self, prepared_request: requests.PreparedRequest, response: requests.Response
    ) -> None:
        before, after = response.request.url or "", prepared_request.url or ""
        if self.should_strip_auth(before, after):
            raise SourceError(
                f"{self._forge}'s answer leads to another server: {urlsplit(after).netloc}",
                hint="check --server-url and --api-url",
            )
        super().rebuild_auth(prepared_request, response)
