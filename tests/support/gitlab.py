"""A GitLab: its REST API as far as it is asked for, and real git behind it.

Fields, paging headers and status codes are those of GitLab's API documentation ("Groups",
"Projects", "Users", "Snippets", "Pagination", "Rate limits").
"""

import base64
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
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


@dataclass(slots=True)
class GitLab:
    """The whole of it.

    Attributes:
        base: the path below which it is served; empty as a rule.
        tokens: what is accepted: a token to the kind of header that it must come in.
        answer: gives an answer in place of the API's or git's, or None.
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
        found = self._respond([unquote(one) for one in place.path.strip("/").split("/")], query)
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
