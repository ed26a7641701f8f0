"""A GitLab: its REST API as far as it is asked for, and real git behind it.

Fields, paging headers and status codes are those of GitLab's API documentation ("Groups",
"Projects", "Users", "Snippets", "Project import and export", "Pagination", "Rate limits").
"""

import base64
import gzip
import http.client
import io
import json
import re
import tarfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

from tests.support.gitserver import Answer, GitHttpServer, Request

_API = "/api/v4"


@dataclass(slots=True)
class Group:
    """A group; its path has the groups above it."""

    path: str
    group_id: int


@dataclass(slots=True)
class Project:
    """A project; the git side is the folder ``path.git``."""

    path: str
    project_id: int
    visibility: str = "private"
    archived: bool = False
    fork: bool = False
    wiki: str = "enabled"
    repository: str = "enabled"
    snippets: list[int] = field(default_factory=list)
    shared_with: list[str] = field(default_factory=list)
    active_at: datetime = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Export:
    """An export that was asked for; it goes on a little whenever somebody asks for its state.

    Attributes:
        url: where it is to be put; None for one that is downloaded.
        states: what is still answered before it is done.
    """

    url: str | None
    states: list[str] = field(default_factory=list)
    ready: bytes | None = None


@dataclass(slots=True)
class GitLab:
    """The whole of it.

    Attributes:
        base: the path below which it is served; empty as a rule.
        tokens: what is accepted: a token to the kind of header that it must come in.
        answer: gives an answer in place of the API's or git's, or None.
        export_limit: exports that may be asked for in 60 seconds of `monotonic`.
        put_limit: longer archives are not put anywhere.
        stuck: projects whose exports are never done.
        export_states: what an export's state is before it is done.
        export_scope: whether the tokens have the scope api.
    """

    root: Path
    base: str = ""
    groups: list[Group] = field(default_factory=list)
    users: dict[str, int] = field(default_factory=dict)
    projects: list[Project] = field(default_factory=list)
    personal_snippets: list[int] = field(default_factory=list)
    tokens: dict[str, str] = field(default_factory=dict)
    answer: Callable[[Request], Answer | None] = lambda _: None
    page: int = 100
    export_limit: int = 1000
    put_limit: int = 1 << 40
    stuck: set[str] = field(default_factory=set)
    export_scope: bool = True
    export_states: Sequence[str] = ("started",)
    monotonic: Callable[[], float] = time.monotonic
    exports: dict[int, Export] = field(default_factory=dict)
    asked_for: list[tuple[float, str, str | None]] = field(default_factory=list)
    puts: list[tuple[str, int]] = field(default_factory=list)
    archives: dict[str, bytes] = field(default_factory=dict)
    server: GitHttpServer = field(init=False)

    def __enter__(self) -> Self:
        self.server = GitHttpServer(self.root, answer=self._answer)
        self.server.__enter__()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.server.__exit__(kind, error, trace)

    @property
    def url(self) -> str:
        return f"{self.server.url}{self.base}"

    @property
    def asked(self) -> list[str]:
        """Every path of the API that was asked for, with its query."""
        prefix = f"{self.base}{_API}"
        return [
            one.target.removeprefix(prefix)
            for one in self.server.requests
            if one.target.startswith(prefix)
        ]

    def group(self, path: str) -> Group:
        made = Group(path, 100 + len(self.groups))
        self.groups.append(made)
        return made

    def project(self, path: str, **more: Any) -> Project:
        made = Project(path, 5000 + len(self.projects), **more)
        self.projects.append(made)
        return made

    def folder(self, project: Project, ending: str = "") -> Path:
        """Tell where the git side of a project lies."""
        return self.root / self.base.lstrip("/") / f"{project.path}{ending}.git"

    # --- Answers ---------------------------------------------------------------------------------

    def _answer(self, request: Request) -> Answer | None:
        if (instead := self.answer(request)) is not None:
            return instead
        prefix = f"{self.base}{_API}"
        if not request.target.startswith(prefix):
            return self._guard_git(request)
        if (refused := self._guard_api(request)) is not None:
            return refused
        place = urlsplit(request.target.removeprefix(prefix))
        query = {name: values[0] for name, values in parse_qs(place.query).items()}
        # An encoded slash is part of a path's one segment.
        segments = [unquote(one) for one in place.path.strip("/").split("/")]
        if segments[0] == "projects" and "export" in segments[2:]:
            return self._export(self._project(segments[1]), segments[3:], request)
        found = self._respond(segments, query)
        if found is None:
            return _json(404, {"message": "404 Not Found"})
        if isinstance(found, list):
            return self._page(found, query)
        return _json(200, found)

    def _guard_api(self, request: Request) -> Answer | None:
        for header in ("private-token", "job-token"):
            said = request.headers.get(header)
            if said is not None and self.tokens.get(said) != header:
                return _json(401, {"message": "401 Unauthorized"})
        return None

    def _guard_git(self, request: Request) -> Answer | None:
        """Let in whoever has a token, as the user that goes with its kind."""
        path = request.target.removeprefix(self.base).removeprefix("/").partition(".git/")[0]
        project = next((one for one in self.projects if path.startswith(one.path)), None)
        if project is not None and project.visibility == "public":
            return None
        kind, _, value = request.headers.get("authorization", "").partition(" ")
        user, _, token = base64.b64decode(value).decode().partition(":")
        users = {"private-token": "oauth2", "job-token": "gitlab-ci-token"}
        if kind == "Basic" and users.get(self.tokens.get(token, "")) == user:
            return None
        return Answer(
            401, {"WWW-Authenticate": 'Basic realm="GitLab"'}, b"HTTP Basic: Access denied"
        )

    def _respond(self, path: Sequence[str], query: Mapping[str, str]) -> Any:
        match path:
            case ["groups", name]:
                group = self._group(name)
                return None if group is None else self._group_fields(group)
            case ["groups", name, "projects"]:
                group = self._group(name)
                return None if group is None else list(self._of_group(group, query))
            case ["users"]:
                name = query.get("username", "").casefold()
                found = [one for one in self.users if one.casefold() == name]
                return [{"id": self.users[one], "username": one} for one in found]
            case ["users", number, "projects"]:
                (user,) = (one for one, id_ in self.users.items() if id_ == int(number))
                below = [one for one in self.projects if one.path.startswith(f"{user}/")]
                return [self._fields(one) for one in below]
            case ["user"]:
                login, user_id = next(iter(self.users.items()))
                return {"id": user_id, "username": login}
            case ["snippets"]:
                return [_snippet(number, None) for number in self.personal_snippets]
            case ["snippets", number] if int(number) in self.personal_snippets:
                return _snippet(int(number), None)
            case ["projects", name, *rest]:
                project = self._project(name)
                return None if project is None else self._of_project(project, rest)
        return None

    def _of_project(self, project: Project, rest: Sequence[str]) -> Any:
        match rest:
            case []:
                return self._fields(project)
            case ["snippets"]:
                return [_snippet(number, project) for number in project.snippets]
            case ["snippets", number] if int(number) in project.snippets:
                return _snippet(int(number), project)
        return None

    # --- Exports ---------------------------------------------------------------------------------

    def archive(self, project: Project) -> bytes:
        """Give what an export of a project holds now."""
        if project.path not in self.archives:
            self.archives[project.path] = packed(project.path)
        return self.archives[project.path]

    def _export(self, project: Project | None, rest: Sequence[str], request: Request) -> Answer:
        if project is None:
            return _json(404, {"message": "404 Project Not Found"})
        if not self.export_scope:
            return _json(403, {"error": "insufficient_scope", "scope": "api"})
        if request.method == "POST":
            return self._ask_for_export(project, json.loads(request.form))
        export = self.exports.get(project.project_id)
        if rest == ["download"]:
            if export is None or export.ready is None:
                return _json(404, {"message": "404 Not found or has expired"})
            return Answer(200, {"Content-Type": "application/gzip"}, export.ready)
        state = "none" if export is None else self._go_on(project, export)
        return _json(200, {"id": project.project_id, "export_status": state})

    def _ask_for_export(self, project: Project, body: Mapping[str, Any]) -> Answer:
        now = self.monotonic()
        if sum(now - at < 60 for at, _, _ in self.asked_for) >= self.export_limit:
            words = "This endpoint has been requested too many times. Try again later."
            return _json(429, {"message": {"error": words}})
        upload = body.get("upload") or {}
        assert upload.get("http_method", "PUT") == "PUT"
        url = upload.get("url")
        self.asked_for.append((now, project.path, url))
        before = self.exports.get(project.project_id)
        # What was made before stays until the new one is there.
        ready = None if before is None else before.ready
        self.exports[project.project_id] = Export(url, [*self.export_states], ready)
        return _json(202, {"message": "202 Accepted"})

    def _go_on(self, project: Project, export: Export) -> str:
        if export.states:
            state = export.states.pop(0)
            if export.ready is not None:
                return "finished" if state == "none" else "regeneration_in_progress"
            return state
        if project.path in self.stuck:
            return "started"
        data = self.archive(project)
        if export.url is None:
            export.ready = data
            return "finished"
        if len(data) <= self.put_limit:
            self.puts.append((project.path, self._put(export.url, data)))
        # Whether or not it could be put, it is removed.
        del self.exports[project.project_id]
        return "none"

    def _put(self, url: str, data: bytes) -> int:
        """Put an archive with exactly the headers that GitLab sends."""
        place = urlsplit(url)
        assert place.hostname is not None
        with closing(http.client.HTTPConnection(place.hostname, place.port)) as connection:
            connection.putrequest("PUT", f"{place.path}?{place.query}", skip_accept_encoding=True)
            connection.putheader("Content-Type", "application/gzip")
            connection.putheader("Content-Length", str(len(data)))
            connection.endheaders(data)
            return connection.getresponse().status

    def _group(self, name: str) -> Group | None:
        wanted = name.casefold()
        names = ((one, {str(one.group_id), one.path.casefold()}) for one in self.groups)
        return next((one for one, known in names if wanted in known), None)

    def _project(self, name: str) -> Project | None:
        names = ((one, {str(one.project_id), one.path}) for one in self.projects)
        return next((one for one, known in names if name in known), None)

    def _of_group(self, group: Group, query: Mapping[str, str]) -> Iterator[dict[str, Any]]:
        deep = query.get("include_subgroups") == "true"
        shared = query.get("with_shared", "true") == "true"
        for one in sorted(self.projects, key=lambda one: one.project_id):
            above = one.path.rpartition("/")[0]
            inside = above == group.path or (deep and above.startswith(f"{group.path}/"))
            if inside or (shared and group.path in one.shared_with):
                yield self._fields(one)

    def _group_fields(self, group: Group) -> dict[str, Any]:
        return {
            "id": group.group_id,
            "name": group.path.rpartition("/")[2].title(),
            "path": group.path.rpartition("/")[2],
            "full_path": group.path,
            "visibility": "private",
        }

    def _fields(self, one: Project) -> dict[str, Any]:
        made = {
            "id": one.project_id,
            "name": one.path.rpartition("/")[2].title(),
            "path": one.path.rpartition("/")[2],
            "path_with_namespace": one.path,
            # What a server says of itself need not be how it is reached.
            "http_url_to_repo": f"https://elsewhere.example/{one.path}.git",
            "visibility": one.visibility,
            "archived": one.archived,
            "last_activity_at": one.active_at.isoformat(timespec="milliseconds"),
            "empty_repo": False,
            "wiki_access_level": one.wiki,
            "wiki_enabled": one.wiki != "disabled",
            "repository_access_level": one.repository,
            "snippets_access_level": "enabled",
        }
        return made | ({"forked_from_project": {"id": 1}} if one.fork else {})

    def _page(self, items: list[Any], query: Mapping[str, str]) -> Answer:
        size = min(int(query.get("per_page", "20")), self.page)
        number = int(query.get("page", "1"))
        some = items[(number - 1) * size : number * size]
        following = str(number + 1) if number * size < len(items) else ""
        fields = {"X-Page": str(number), "X-Per-Page": str(size), "X-Next-Page": following}
        # Above ten thousand there are no totals.
        return _json(200, some, fields)


def packed(label: str, *, at: float | None = None, keep: int | None = None) -> bytes:
    """Make an archive as GitLab's exports are: a packed tar that begins with its folder.

    Args:
        label: what is in it.
        at: when it was made; now when left out.
        keep: the number of bytes of the tar that are packed; all of them when left out.
    """
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as archive:
        folder = tarfile.TarInfo("./")
        folder.type, folder.mtime = tarfile.DIRTYPE, int(time.time() if at is None else at)
        archive.addfile(folder)
        data = f"{label}\n".encode() * 50
        member = tarfile.TarInfo("./VERSION")
        member.size = len(data)
        archive.addfile(member, io.BytesIO(data))
    return gzip.compress(made.getvalue()[:keep])


def _snippet(number: int, project: Project | None) -> dict[str, Any]:
    return {
        "id": number,
        "title": "A snippet",
        "visibility": "private",
        "project_id": None if project is None else project.project_id,
    }


def _json(status: int, body: Any, fields: Mapping[str, str] | None = None) -> Answer:
    return Answer(
        status, {"Content-Type": "application/json", **(fields or {})}, json.dumps(body).encode()
    )


def is_listing(request: Request) -> bool:
    """Tell whether a request asks for a page of a group's projects."""
    return re.search(r"/groups/[^/]+/projects", request.target) is not None
