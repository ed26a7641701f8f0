"""A Bitbucket Cloud: its REST API as far as it is asked for, its tokens, and real git behind it.

Every answer of the API is held against Atlassian's own description of it, of which
``bitbucket-api.json`` has the paths and definitions that are used here.
"""

import base64
import functools
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import parse_qs, unquote, urlsplit

from jsonschema import Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from tests.support.gitserver import Answer, GitHttpServer, Request

_API = "/api/2.0"
_TOKENS = "/site/oauth2/access_token"
_BASE = "urn:bitbucket"


@functools.cache
def _description() -> tuple[dict[str, Any], Registry[Any]]:
    text = Path(__file__).with_name("bitbucket-api.json").read_text()
    document: dict[str, Any] = json.loads(text.replace('"$ref": "#/', f'"$ref": "{_BASE}#/'))
    resource = Resource.from_contents(document, default_specification=DRAFT202012)
    return document, Registry().with_resource(_BASE, resource)


def problems_of(path: str, status: int, body: Any) -> list[str]:
    """Tell where an answer to GET differs from what Atlassian describes."""
    document, registry = _description()
    for template, operations in document["paths"].items():
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), path):
            answer = operations["get"]["responses"].get(str(status))
            if answer is None:
                return [f"{template} never answers {status}"]
            validator = Draft202012Validator(answer["schema"], registry=registry)
            return [f"{path}: {error.json_path}: {error.message[:200]}"
                    for error in validator.iter_errors(body)]  # fmt: skip
    return [f"{path} is no path of the API"]


@dataclass(slots=True)
class Listed:
    """A repository; the git side is the folder ``workspace/slug.git``."""

    workspace: str
    slug: str
    uuid: str
    private: bool = True
    fork: bool = False
    wiki: bool = False


@dataclass(slots=True)
class Bitbucket:
    """The whole of it. As a context it insists that all its answers fitted the description.

    Attributes:
        workspaces: slug to UUID.
        consumers: an OAuth consumer's key to its secret.
        life_seconds: of the tokens that it gives out, as it says.
        scopes: what they may do.
        issued: those tokens, in order.
        accepted: tokens that open the API and git; issued ones are until they are taken out.
        api_tokens: of people: a token to the email that goes with it.
        answer: gives an answer in place of the API's or git's, or None.
        page: how many items a page has at most, whatever is asked for.
    """

    root: Path
    workspaces: dict[str, str] = field(default_factory=dict)
    repositories: list[Listed] = field(default_factory=list)
    consumers: dict[str, str] = field(default_factory=dict)
    life_seconds: int = 7200
    scopes: str = "repository"
    issued: list[str] = field(default_factory=list)
    accepted: set[str] = field(default_factory=set)
    api_tokens: dict[str, str] = field(default_factory=dict)
    answer: Callable[[Request], Answer | None] = lambda _: None
    page: int = 100
    problems: list[str] = field(default_factory=list)
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
        if error is None:
            assert not self.problems, self.problems[:5]

    @property
    def url(self) -> str:
        return self.server.url

    @property
    def api_url(self) -> str:
        return f"{self.url}/api"

    @property
    def asked(self) -> list[str]:
        """Every path of the API that was asked for, without its query."""
        return [
            urlsplit(one.target).path.removeprefix(_API)
            for one in self.server.requests
            if one.target.startswith(_API)
        ]

    def workspace(self, slug: str) -> str:
        number = len(self.workspaces)
        self.workspaces[slug] = f"{{{number:08}-aaaa-4aaa-8aaa-000000000000}}"
        return slug

    def repository(self, workspace: str, slug: str, **more: Any) -> Listed:
        uuid = f"{{{len(self.repositories):08}-bbbb-4bbb-8bbb-000000000000}}"
        made = Listed(workspace, slug, uuid, **more)
        self.repositories.append(made)
        return made

    def folder(self, one: Listed) -> Path:
        """Tell where the git side of a repository lies; its wiki's is the folder ``wiki`` in it."""
        return self.root / one.workspace / f"{one.slug}.git"

    # --- Answers ---------------------------------------------------------------------------------

    def _answer(self, request: Request) -> Answer | None:
        if (instead := self.answer(request)) is not None:
            return instead
        if request.target == _TOKENS:
            return self._give_token(request)
        if not request.target.startswith(f"{_API}/"):
            return self._guard_git(request)
        place = urlsplit(request.target.removeprefix(_API))
        if "authorization" in request.headers and not self._is_known(request, git=False):
            return _error(401, "Access token expired. Use your refresh token to obtain a new one.")
        query = {name: values[0] for name, values in parse_qs(place.query).items()}
        status, body = self._respond(place.path, query, seen="authorization" in request.headers)
        self.problems += problems_of(place.path, status, body)
        return Answer(status, {"Content-Type": "application/json"}, json.dumps(body).encode())

    def _give_token(self, request: Request) -> Answer:
        asked = parse_qs(request.form.decode())
        key, _, secret = _basic_of(request).partition(":")
        if request.method != "POST" or asked != {"grant_type": ["client_credentials"]}:
            return Answer(400, {}, b'{"error": "unsupported_grant_type"}')
        if self.consumers.get(key) != secret:
            body = {"error": "unauthorized_client", "error_description": "Invalid OAuth client"}
            return Answer(400, {}, json.dumps(body).encode())
        token = f"issued-token-{len(self.issued)}=="
        self.issued.append(token)
        self.accepted.add(token)
        fields: dict[str, str | int] = {
            "access_token": token,
            "expires_in": self.life_seconds,
            "scopes": self.scopes,
            "token_type": "bearer",
        }
        return Answer(200, {"Content-Type": "application/json"}, json.dumps(fields).encode())

    def _is_known(self, request: Request, *, git: bool) -> bool:
        kind, _, value = request.headers.get("authorization", "").partition(" ")
        if kind == "Bearer":
            return not git and value in self.accepted
        user, _, token = _basic_of(request).partition(":")
        if git:
            return (user == "x-token-auth" and token in self.accepted) or (
                user == "x-bitbucket-api-token-auth" and token in self.api_tokens
            )
        return self.api_tokens.get(token) == user

    def _guard_git(self, request: Request) -> Answer | None:
        path = request.target.removeprefix("/").partition(".git/")[0]
        found = [o for o in self.repositories if f"{o.workspace}/{o.slug}" == unquote(path)]
        if found and not found[0].private:
            return None
        if self._is_known(request, git=True):
            return None
        return Answer(401, {"WWW-Authenticate": 'Basic realm="Bitbucket.org HTTP"'}, b"")

    def _respond(self, path: str, query: Mapping[str, str], *, seen: bool) -> tuple[int, Any]:
        match [unquote(one) for one in path.strip("/").split("/")]:
            case ["workspaces", name]:
                slug = self._workspace(name)
                return _missing() if slug is None else (200, self._workspace_fields(slug))
            case ["repositories", name]:
                slug = self._workspace(name)
                return _missing() if slug is None else (200, self._listing(slug, query, seen=seen))
            case ["repositories", name, named]:
                found = [o for o in self.repositories if named in {o.slug, o.uuid}]
                mine = [o for o in found if o.workspace == self._workspace(name)]
                return (200, self._fields(mine[0])) if mine else _missing()
        return 404, {"type": "error", "error": {"message": "Resource not found"}}

    def _workspace(self, name: str) -> str | None:
        return next((s for s in self.workspaces if s.casefold() == name.casefold()), None)

    def _listing(self, slug: str, query: Mapping[str, str], *, seen: bool) -> Any:
        mine = [o for o in self.repositories if o.workspace == slug and (seen or not o.private)]
        size, number = min(int(query.get("pagelen", "10")), self.page), int(query.get("page", "1"))
        some = mine[(number - 1) * size : number * size]
        body: dict[str, Any] = {
            "values": [self._fields(one) for one in some],
            "pagelen": size,
            "page": number,
            "size": len(mine),
        }
        if number * size < len(mine):
            here = f"{self.url}{_API}/repositories/{slug}"
            body["next"] = f"{here}?pagelen={size}&page={number + 1}"
        return body

    def _workspace_fields(self, slug: str) -> Any:
        return {"type": "workspace", "slug": slug, "uuid": self.workspaces[slug], "name": slug}

    def _fields(self, one: Listed) -> Any:
        name = f"{one.workspace}/{one.slug}"
        # The link carries the name of whoever asks, as Bitbucket's does.
        clone = f"https://jane@elsewhere.example/{name}.git"
        made = {
            "type": "repository",
            "uuid": one.uuid,
            "full_name": name,
            "name": f"{one.slug.title()} with blanks; $(touch hacked)",
            "is_private": one.private,
            "scm": "git",
            "has_wiki": one.wiki,
            "links": {"clone": [{"name": "https", "href": clone}]},
        }
        return made | ({"parent": {"type": "repository"}} if one.fork else {})


def _basic_of(request: Request) -> str:
    kind, _, value = request.headers.get("authorization", "").partition(" ")
    return base64.b64decode(value).decode() if kind == "Basic" else ""


def _missing() -> tuple[int, Any]:
    return 404, {"type": "error", "error": {"message": "No such thing"}}


def _error(status: int, message: str) -> Answer:
    body = {"type": "error", "error": {"message": message}}
    return Answer(status, {"Content-Type": "application/json"}, json.dumps(body).encode())
