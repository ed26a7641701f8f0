"""The projects of a GitLab group with its subgroups, or of a user, with their wikis and snippets.

Everything is known by GitLab's own numeric ids, so that a rename or a move within the group
continues the backup. python-gitlab makes the requests, one after another from one thread; it
repeats nothing, since `backup.commands.retrying` does.
Source: GitLab's REST API, "Groups", "Projects", "Project snippets", "Pagination" and "Token types".
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from urllib.parse import quote, urlsplit

import gitlab
import requests
from gitlab.exceptions import GitlabAuthenticationError, GitlabError

import backup
from backup.answers import Odd, header_number, in_time, moment, number, parsed, text
from backup.errors import (
    AuthenticationError,
    BackupError,
    HostUnreachable,
    RateLimited,
    RepositoryMissing,
    SourceError,
)
from backup.model import Absence, ExportState, Kind, Repository, SourceIdentity, Visibility
from backup.results import Diagnosis, Finding
from backup.secret import Secret, foreign
from backup.sources.items import Bounds, each, no_json, taken_for
from backup.sources.one_server import OneServerSession
from backup.stopping import Stop
from backup.times import ServerClock, http_time

PUBLIC_SERVER = "https://gitlab.com"
_PAGE = 100
_TIMEOUT_SECONDS = 60
_API = "/api/v4"
_OFF = "disabled"
_PIECE_BYTES = 1 << 20
_FOR_READING = "the scopes read_api and read_repository"
_FOR_EXPORTS = "the scope api, and its user the role Maintainer or Owner"


@dataclass(frozen=True, slots=True)
class _Owner:
    """A group, or a user.

    Attributes:
        path: as GitLab spells it; subgroups are joined by slashes.
        listing: the path of the API that lists its projects.
        owner_id: what stays the same when it is renamed.
        is_self: whether it is the token's own user.
    """

    path: str
    listing: str
    owner_id: str
    is_self: bool = False


class GitLabSource:
    """Every project of one group, at any depth, or of one user, each followed by its wiki.

    Args:
        owner: the group's full path or id, or the user's name; in any letter case.
        token: a personal, group, project or job token; None sees what is public.
        authorization: what git sends with each request.
        is_job: the token is a CI job's.
        server_url: without a slash at the end; may have a path.
        api_url: the REST API's, up to /api/v4; below the server's when left out.
        snippets: list them, too; costs a request for each project.
        shared: list also projects of others that are shared with the group.
        stop: ends the wait for an answer with its own error.
    """

    lists_everything = True

    def __init__(
        self,
        owner: str,
        *,
        token: Secret | None,
        authorization: Secret | None = None,
        is_job: bool = False,
        server_url: str = PUBLIC_SERVER,
        api_url: str | None = None,
        snippets: bool = False,
        shared: bool = False,
        stop: Stop | None = None,
    ) -> None:
        self._name = owner
        self._token = token
        self._authorization = authorization
        self._is_job = is_job
        self._server_url = server_url
        self._snippets = snippets
        self._shared = shared
        self._headers: Mapping[str, str] = {}
        self._clock = ServerClock()
        self._stop = stop
        self._session = session = OneServerSession("GitLab", stop=stop)
        # python-gitlab's errors do not say how long a server asks to wait.
        session.hooks["response"].append(self._remember_headers)
        secret = None if token is None else token.reveal()
        self._api = gitlab.Gitlab(
            (api_url or server_url).rstrip("/").removesuffix(_API),
            private_token=None if is_job else secret,
            job_token=secret if is_job else None,
            timeout=_TIMEOUT_SECONDS,
            user_agent=f"repo-backup/{backup.__version__}",
            session=session,
        )
        self._owner: _Owner | None = None
        self._notes: dict[str, None] = {}

    @property
    def identity(self) -> SourceIdentity:
        """Who the owner is, in GitLab's own spelling; asks for it the first time.

        Raises:
            SourceError: there is no such group or user, or GitLab does not answer.
        """
        owner = self._find_owner()
        return SourceIdentity(
            provider="gitlab",
            host=urlsplit(self._server_url).netloc.lower(),
            owner=owner.path,
            location=f"{self._server_url}/{owner.path}",
            owner_id=owner.owner_id,
        )

    @property
    def notes(self) -> tuple[str, ...]:
        """What people should know of the listing: what it cannot have seen."""
        return tuple(self._notes)

    @property
    def if_too_short(self) -> str:
        """What kind of token sees less than is there, and what it lacks then."""
        if self._token is None:
            return "without a token only what is public is seen"
        if self._is_job:
            return "a job token sees its own project, and those that allow it"
        return (
            "the token needs the scopes read_api and read_repository, and its user at least the "
            "role Reporter in every subgroup; a project token sees one project"
        )

    def server_time(self) -> datetime | None:
        return self._clock.now()

    def authorization(self) -> Secret | None:
        """Give the header for git: the same token."""
        return self._authorization

    def renew_authorization(self) -> bool:
        return False

    def diagnose(self) -> Diagnosis:
        """Tell what GitLab says of the token: scopes and end."""
        if self._token is None:
            return Diagnosis((Finding("warning", "without a token only what is public is seen"),))
        if self._is_job:
            return Diagnosis(
                (Finding("info", "the token is a CI job's: it ends with the job"),),
            )
        try:
            found = self._ask("/personal_access_tokens/self")
        except (AuthenticationError, RepositoryMissing) as error:
            return Diagnosis((Finding("warning", f"the token says nothing of itself: {error}"),))
        with taken_for("token", forge="GitLab"):
            scopes = {str(scope) for scope in found.get("scopes") or ()}
        shown = foreign(", ".join(sorted(scopes)) or "none", 300)
        findings = [Finding("info", f"the token has the scopes {shown}")]
        if "api" not in scopes and not scopes >= {"read_api", "read_repository"}:
            findings = [
                Finding(
                    "error",
                    f"the token has the scopes {shown}: it cannot list and read projects",
                    f"it needs {_FOR_READING}",
                )
            ]
        if ends_on := found.get("expires_at"):
            findings.append(Finding("info", f"the token ends on {foreign(str(ends_on), 40)}"))
        return Diagnosis(tuple(findings), server_time=http_time(self._headers.get("date")))

    def repositories(self) -> Iterator[Repository]:
        owner, bounds = self._find_owner(), Bounds("GitLab")
        if self._token is None:
            self._notes[f"{owner.path}: without a token only what is public is seen"] = None

        def of_item(item: Mapping[str, Any]) -> Iterator[Repository]:
            if self._path_below(owner, item) is not None or self._shared:
                yield from self._of_project(owner, item, bounds)

        def of_snippet(item: Mapping[str, Any]) -> Iterator[Repository]:
            if item.get("project_id") is None:
                yield self._snippet(owner, item, below=None)

        known = {"forge": "GitLab", "host": self.identity.host, "owner": owner.path}
        listing = self._pages(owner.listing, bounds, **self._wanted(owner))
        yield from each(listing, of_item, **known)
        if self._snippets and owner.is_self:
            yield from each(self._pages("/snippets", bounds), of_snippet, **known)

    def look_up(self, *, host_id: str, path: str, kind: Kind) -> Repository | Absence:
        owner = self._find_owner()
        if kind == "snippet":
            return self._look_up_snippet(owner, host_id=host_id, path=path)
        try:
            item = self._ask(f"/projects/{quote(host_id, safe='')}")
        except RepositoryMissing:
            return Absence("not-visible", "GitLab knows no such project, or hides it from us")
        with taken_for("project", forge="GitLab"):
            return self._meant(owner, item, kind)

    def _meant(self, owner: _Owner, item: Mapping[str, Any], kind: Kind) -> Repository | Absence:
        if self._path_below(owner, item) is None and not self._shared:
            return Absence("transferred", f"it is now {text(item, 'path_with_namespace')}")
        project = self._project(owner, item)
        if kind != "wiki":
            return project
        if not _has(item, "wiki"):
            return Absence("not-visible", "its wiki is switched off")
        return self._wiki(project)

    # --- Exports ---

    def ask_for_export(self, host_id: str, *, upload_url: Secret | None) -> None:
        """Ask for an export; GitLab answers before it begins, and PUTs it as application/gzip.

        Source: GitLab's REST API, "Project import and export", "Schedule an export".
        """
        upload = {}
        if upload_url is not None:
            upload = {"upload": {"http_method": "PUT", "url": upload_url.reveal()}}
        path = f"/projects/{quote(host_id, safe='')}/export"
        self._headers = {}
        with self._our_errors(path, needs=_FOR_EXPORTS):
            self._api.http_request("post", path, post_data=upload, obey_rate_limit=False)

    def export_state(self, host_id: str) -> ExportState:
        path = f"/projects/{quote(host_id, safe='')}/export"
        match self._ask(path, needs=_FOR_EXPORTS).get("export_status"):
            case "none" | "failed":
                return "none"
            case "finished":
                return "ready"
            case _:
                # Also "regeneration_in_progress": what could be downloaded is another one.
                return "under way"

    def download_export(self, host_id: str) -> Iterator[bytes]:
        path = f"/projects/{quote(host_id, safe='')}/export/download"
        self._headers = {}
        with self._our_errors(path, needs=_FOR_EXPORTS):
            with self._session.going_elsewhere():
                answer = self._api.http_request(
                    "get",
                    path,
                    streamed=True,
                    obey_rate_limit=False,
                    # Packed once is enough, and requests would unpack the rest.
                    extra_headers={"Accept-Encoding": "identity"},
                )
            pieces = answer.iter_content(_PIECE_BYTES)
            with closing(answer):
                # A piece in time each: of one byte a second an archive has no end.
                while piece := in_time(
                    lambda: next(pieces, b""), give_up=answer.raw.shutdown, stop=self._stop
                ):
                    yield piece

    # --- Whose ---

    def _find_owner(self) -> _Owner:
        if self._owner is None:
            self._owner = self._find_group() or self._find_user()
        if self._owner is None:
            raise SourceError(
                f"{self._server_url} has no group and no user {self._name!r}, or hides it from us",
                hint="give the full path, with the groups above it, or the id; "
                + self.if_too_short,
            )
        return self._owner

    def _find_group(self) -> _Owner | None:
        try:
            item = self._ask(f"/groups/{quote(self._name, safe='')}", with_projects="false")
        except RepositoryMissing:
            return None
        with taken_for("group", forge="GitLab"):
            group_id = number(item, "id")
            listing = f"/groups/{group_id}/projects"
            return _Owner(text(item, "full_path"), listing, f"group/{group_id}")

    def _find_user(self) -> _Owner | None:
        found = self._request("/users", username=self._name)
        if not isinstance(found, list) or not found:
            return None
        with taken_for("user", forge="GitLab"):
            user_id, name = number(found[0], "id"), text(found[0], "username")
            is_self = False
            if self._token is not None and not self._is_job:
                is_self = number(self._ask("/user"), "id") == user_id
        return _Owner(name, f"/users/{user_id}/projects", f"user/{user_id}", is_self)

    def _wanted(self, owner: _Owner) -> dict[str, str]:
        # In the order of ids nothing that is made meanwhile pushes another project off its page.
        wanted = {"order_by": "id", "sort": "asc"}
        if owner.owner_id.startswith("group/"):
            shared = str(self._shared).lower()
            wanted |= {"include_subgroups": "true", "with_shared": shared}
        return wanted

    # --- What a project has ---

    def _of_project(
        self, owner: _Owner, item: Mapping[str, Any], bounds: Bounds
    ) -> Iterator[Repository]:
        project = self._project(owner, item)
        yield project
        if _has(item, "wiki"):
            yield self._wiki(project)
        if self._snippets and _has(item, "snippets"):
            snippets = self._pages(f"/projects/{project.host_id}/snippets", bounds)
            for snippet in snippets:
                yield self._snippet(owner, snippet, below=project)

    def _project(self, owner: _Owner, item: Mapping[str, Any]) -> Repository:
        whole = text(item, "path_with_namespace")
        return Repository(
            host=urlsplit(self._server_url).netloc.lower(),
            owner=owner.path,
            path=self._path_below(owner, item) or whole,
            host_id=str(number(item, "id")),
            clone_url=f"{self._server_url}/{quote(whole)}.git",
            private=item.get("visibility") != "public",
            visibility=_visibility(item),
            archived=bool(item.get("archived")),
            fork=bool(item.get("forked_from_project")),
            blocked="" if _has(item, "repository") else "its repository is switched off",
            active_at=moment(item.get("last_activity_at")),
        )

    def _wiki(self, project: Repository) -> Repository:
        return replace(
            project,
            path=f"{project.path}.wiki",
            clone_url=f"{project.clone_url.removesuffix('.git')}.wiki.git",
            kind="wiki",
            blocked="",
        )

    def _snippet(
        self, owner: _Owner, item: Mapping[str, Any], *, below: Repository | None
    ) -> Repository:
        snippet_id = number(item, "id")
        # Of a user's own snippets the path begins at the server.
        above = self._server_url if below is None else below.clone_url.removesuffix(".git")
        return Repository(
            host=urlsplit(self._server_url).netloc.lower(),
            owner=owner.path,
            path=f"{'' if below is None else f'{below.path}/'}snippets/{snippet_id}",
            host_id=str(snippet_id),
            clone_url=f"{above}/snippets/{snippet_id}.git",
            kind="snippet",
            private=item.get("visibility") != "public",
            visibility=_visibility(item),
            archived=below is not None and below.archived,
            fork=below is not None and below.fork,
        )

    def _look_up_snippet(self, owner: _Owner, *, host_id: str, path: str) -> Repository | Absence:
        project_path, found, _ = path.rpartition("/snippets/")
        below = None
        try:
            with taken_for("snippet", forge="GitLab"):
                place = f"/snippets/{quote(host_id, safe='')}"
                if found:
                    whole = quote(f"{owner.path}/{project_path}", safe="")
                    below = self._project(owner, self._ask(f"/projects/{whole}"))
                    place = f"/projects/{below.host_id}{place}"
                return self._snippet(owner, self._ask(place), below=below)
        except RepositoryMissing:
            return Absence("not-visible", "GitLab knows no such snippet, or hides it from us")

    def _path_below(self, owner: _Owner, item: Mapping[str, Any]) -> str | None:
        """Tell a project's path within the owner; None for one that lies elsewhere."""
        whole, prefix = text(item, "path_with_namespace"), f"{owner.path}/"
        below = whole.casefold().startswith(prefix.casefold())
        return whole[len(prefix) :] if below else None

    # --- Requests ---

    def _pages(self, path: str, bounds: Bounds, **query: str) -> Iterator[Any]:
        """Yield the items of a listing to its end, as GitLab numbers its pages."""
        page: int | None = 1
        while page is not None:
            wanted = {**query, "page": str(page), "per_page": str(_PAGE)}
            items = bounds.page(self._request(path, **wanted), path)
            # Read now: whoever takes the items may ask for something else meanwhile.
            said = self._headers.get("x-next-page")
            following = header_number(said)
            if (said is None and len(items) >= _PAGE) or (said and following is None):
                raise SourceError(f"GitLab does not say whether {path} has another page")
            if following is not None and following <= page:
                raise SourceError(f"GitLab's listing {path} does not go on after page {page}")
            yield from items
            page = following

    def _ask(self, path: str, *, needs: str = _FOR_READING, **query: str) -> dict[str, Any]:
        found = self._request(path, needs=needs, **query)
        if not isinstance(found, dict):
            raise SourceError(f"GitLab answers {path} with something else than was asked for")
        return found

    def _request(self, path: str, *, needs: str = _FOR_READING, **query: str) -> Any:
        self._headers = {}
        with self._our_errors(path, needs=needs):
            answer = self._api.http_request(
                "get", path, query_data=dict(query), obey_rate_limit=False
            )
            self._clock.hear(self._headers)
            return parsed(answer.content)

    def _remember_headers(self, response: requests.Response, **_: object) -> None:
        self._headers = {name.lower(): value for name, value in response.headers.items()}

    @contextmanager
    def _our_errors(self, path: str, *, needs: str) -> Iterator[None]:
        """Turn what python-gitlab raises into what it asks of people.

        Args:
            path: what is asked for.
            needs: what the token must have for it.
        """
        try:
            yield
        except BackupError:
            raise
        except Odd as error:
            raise SourceError(f"GitLab answers {path} with {error}") from error
        except GitlabAuthenticationError as error:
            raise AuthenticationError(
                f"GitLab does not accept the token (401){_said(error)}",
                hint="it is wrong, expired or revoked (REPO_BACKUP_TOKEN, or the input token)",
            ) from error
        except GitlabError as error:
            raise self._refusal(error, path, needs) from error
        except json.JSONDecodeError as error:
            raise no_json("GitLab", path) from error
        except (OSError, ValueError) as error:
            # requests' own errors are OSErrors.
            words = str(error).strip() or type(error).__name__
            if "CERTIFICATE_VERIFY_FAILED" in words:
                raise SourceError(
                    "GitLab's certificate is not trusted",
                    hint="name your authority's certificates in REQUESTS_CA_BUNDLE",
                ) from error
            raise HostUnreachable(f"GitLab cannot be reached: {foreign(words, 300)}") from error
        except Exception as error:
            # python-gitlab reads refusals by what a sound GitLab answers.
            words = type(error).__name__
            raise SourceError(
                f"GitLab's answer to {path} cannot be understood ({words})"
            ) from error

    def _refusal(self, error: GitlabError, path: str, needs: str) -> BackupError:
        status, said = error.response_code, _said(error)
        wait = header_number(self._headers.get("retry-after"))
        seconds = None if wait is None else float(wait)
        if status == 429:
            return RateLimited(
                f"GitLab's rate limit is used up (429){said}", retry_after_seconds=seconds
            )
        if status == 403:
            return AuthenticationError(
                f"GitLab forbids {path} (403){said}", hint=f"the token needs {needs}"
            )
        if status == 404:
            return RepositoryMissing(f"GitLab knows no {path}, or hides it from us (404)")
        if status is None or status >= 500:
            return HostUnreachable(
                f"GitLab is in trouble ({status}){said}", retry_after_seconds=seconds
            )
        return SourceError(f"GitLab refuses {path} ({status}){said}")


def _has(item: Mapping[str, Any], feature: str) -> bool:
    """Tell whether a project has a feature, for whoever may see it; unless it says no, it does."""
    level = item.get(f"{feature}_access_level")
    if level is not None:
        return bool(level != _OFF)
    return item.get(f"{feature}_enabled") is not False


def _visibility(item: Mapping[str, Any]) -> Visibility:
    match item.get("visibility"):
        case "public" | "internal" as known:
            return "public" if known == "public" else "internal"
        case _:
            return "private"


def _said(error: GitlabError) -> str:
    line = foreign(str(error.error_message or ""), 300)
    return f": {line}" if line else ""
