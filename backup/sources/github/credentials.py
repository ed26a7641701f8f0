"""What opens GitHub for one owner: a token that somebody made, or a GitHub App's own.

A GitHub App signs a short statement with its private key, finds its installation at the owner by
it, and has tokens made for that installation. They live for an hour, and their last minutes are not
used.
Source: GitHub Docs, "Generating a JSON Web Token (JWT) for a GitHub App" and "Generating an
installation access token for a GitHub App".
"""

import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from github import Auth

from backup.answers import Odd, moment, number, token
from backup.errors import (
    AuthenticationError,
    ConfigError,
    RateLimited,
    RepositoryMissing,
    SourceError,
)
from backup.secret import Secret, minted
from backup.sources.github.api import Api
from backup.sources.items import taken_for
from backup.stopping import Stop
from backup.times import http_time

# No request begins with a token that has less than this to live.
LEAST_LIFE_SECONDS = 300.0
# Threads that were refused with one token at one moment need one new token between them.
_JUST_RENEWED_SECONDS = 60.0
# What reading and listing repositories takes. Whatever else the App may do, the tokens may not.
_PERMISSIONS = {"contents": "read", "metadata": "read"}
_OF_INSTALLATIONS = "ghs_"
_STATUS = re.compile(r"\((\d{3})\)")


class Credentials(Protocol):
    """What opens GitHub's API and git. Used from many threads."""

    @property
    def is_installation(self) -> bool:
        """Whether it sees what a GitHub App was installed for, and nothing else."""

    def token(self) -> Secret:
        """Give a token that can be used now."""

    def renew(self) -> bool:
        """Get another one, since that was refused; False where there is none."""


@dataclass(frozen=True, slots=True)
class AccessToken:
    """A token that somebody made: of a person, of an installation, of a workflow's job."""

    value: Secret

    @property
    def is_installation(self) -> bool:
        return self.value.reveal().startswith(_OF_INSTALLATIONS)

    def token(self) -> Secret:
        return self.value

    def renew(self) -> bool:
        return False


class App:
    """A GitHub App at one owner. Makes no request before a token is asked for.

    Args:
        app_id: its id, or its client id.
        private_key: the PEM text.
        owner: where it is installed.
        api_url: the REST API's.
        stop: ends the wait for a token with its own error.
        clock: seconds that only grow.
    """

    is_installation = True

    def __init__(
        self,
        app_id: str,
        private_key: Secret,
        *,
        owner: str,
        api_url: str,
        stop: Stop | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._app_id = app_id
        self._private_key = private_key
        self._owner = owner
        self._api_url = api_url
        self._stop = stop
        self._clock = clock
        self._lock = threading.Lock()
        self._token: Secret | None = None
        self._ends_at = self._renewed_at = float("-inf")

    def token(self) -> Secret:
        """Give the installation's token, a new one where the old one ends soon.

        Raises:
            AuthenticationError: GitHub does not accept the App, or has it no more at the owner.
            SourceError: GitHub does not answer.
        """
        with self._lock:
            if self._token is None or self._ends_at - self._clock() < LEAST_LIFE_SECONDS:
                self._token = self._ask()
            return self._token

    def renew(self) -> bool:
        with self._lock:
            now = self._clock()
            if now - self._renewed_at > _JUST_RENEWED_SECONDS:
                self._token, self._renewed_at = None, now
        return True

    def _ask(self) -> Secret:
        api = Api(Auth.AppAuthToken(self._signed().reveal()), self._api_url, stop=self._stop)
        try:
            installation = self._installation(api)
            began = self._clock()
            headers, answer = api.request(
                "POST",
                f"/app/installations/{installation}/access_tokens",
                {"permissions": _PERMISSIONS},
            )
        except RepositoryMissing as error:
            raise self._not_installed() from error
        except SourceError as error:
            refused = self._refusal(error)
            if refused is error:
                raise
            raise refused from error
        with taken_for("token", forge="GitHub"):
            value, ends_at = token(answer, "token"), moment(answer["expires_at"])
            # By GitHub's clock: ours may be wrong by minutes.
            now = http_time(headers.get("date")) or datetime.now(UTC)
            if ends_at is None or ends_at <= now:
                raise Odd("expires_at is no time to come")
        self._ends_at = began + (ends_at - now).total_seconds()
        return minted(value)

    def _installation(self, api: Api) -> int:
        """Find the installation; asked each time, since it may have been made anew.

        Raises:
            AuthenticationError: there is none, or it is suspended.
        """
        for one in api.pages("/app/installations"):
            account = one.get("account") if isinstance(one, dict) else None
            login = account.get("login") if isinstance(account, dict) else None
            if str(login).casefold() != self._owner.casefold():
                continue
            if one.get("suspended_at"):
                raise AuthenticationError(
                    f"the GitHub App {self._app_id} is suspended at {self._owner!r}",
                    hint="an owner of it can lift that in its settings, under GitHub Apps",
                )
            with taken_for("installation", forge="GitHub"):
                return number(one, "id")
        raise self._not_installed()

    def _not_installed(self) -> AuthenticationError:
        return AuthenticationError(
            f"the GitHub App {self._app_id} is not installed at {self._owner!r} (any more)",
            hint="install it there, for all repositories, or check owner and app-id",
        )

    def _signed(self) -> Secret:
        """Make the statement by which the App is known for some minutes.

        Raises:
            ConfigError: the private key is none.
        """
        try:
            app = Auth.AppAuth(self._app_id, self._private_key.reveal())
            return minted(app.create_jwt())
        except Exception as error:
            # PyGithub passes on what the libraries below it say, in their own classes.
            raise ConfigError(
                "REPO_BACKUP_APP_PRIVATE_KEY (the input app-private-key) is no RSA key that can be "
                "read",
                hint="give the whole text of the .pem file that GitHub made, with its line breaks",
            ) from error

    def _refusal(self, error: SourceError) -> SourceError:
        """Say what a refusal means where it is an App that was refused."""
        status = _STATUS.search(error.message)
        match status and status[1]:
            case "401":
                said = error.message.partition("(401)")[2]
                return AuthenticationError(
                    f"GitHub does not accept the App {self._app_id} by this key (401){said}",
                    hint="the key must be one of this App's that was not deleted, and the clock "
                    "right",
                )
            case "403" | "422" if not isinstance(error, RateLimited):
                return AuthenticationError(
                    f"the GitHub App {self._app_id} may not read {self._owner!r}: {error.message}",
                    hint="it needs the permissions Contents: read and Metadata: read there, and "
                    "must not be suspended",
                )
            case _:
                return error


class Live(Auth.Auth):
    """Has PyGithub ask for the token anew with each request."""

    def __init__(self, credentials: Credentials) -> None:
        self._credentials = credentials

    @property
    def token_type(self) -> str:
        return "token"

    @property
    def token(self) -> str:
        return self._credentials.token().reveal()
