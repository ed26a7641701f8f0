"""GitLab as a source: against an API on loopback, with real git behind it."""

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backup.errors import AuthenticationError, BackupError, RateLimited, SourceError
from backup.model import Absence, Repository
from backup.secret import Secret
from backup.sources.gitlab import GitLabSource
from tests.support.git import commit_chain, init_bare, set_head, update_refs
from tests.support.gitlab import GitLab, Project, is_listing
from tests.support.gitserver import Answer, GitHttpServer, Request
from tests.support.mirrors import assert_same_mirror
from tests.support.program import Completed, repo_backup
from tests.support.runner import Runner
from tests.support.vaults import to_be_kept

PAT, JOB = "glpat-0123456789abcdefghij", "glcbt-64_0123456789abcdefghij"


@pytest.fixture
def forge(tmp_path: Path) -> Iterator[GitLab]:
    with GitLab(tmp_path / "git") as forge:
        forge.tokens = {PAT: "private-token", JOB: "job-token"}
        yield forge


def source(forge: GitLab, owner: str, token: str | None = PAT, **more: Any) -> GitLabSource:
    secret = None if token is None else Secret(token)
    return GitLabSource(owner, token=secret, server_url=forge.url, **more)


def listed(forge: GitLab, owner: str, **more: Any) -> dict[str, Repository]:
    return {one.path: one for one in source(forge, owner, **more).repositories()}


def real(forge: GitLab, path: str, **more: Any) -> Project:
    """Make a project that the API lists and git has."""
    made = forge.project(path, **{"wiki": "disabled", **more})
    fill(forge.folder(made), path)
    return made


def fill(folder: Path, label: str) -> Path:
    init_bare(folder)
    name = label.replace("/", "-").encode()
    update_refs(folder, {b"refs/heads/main": commit_chain(folder, 2, label=name)[-1]})
    set_head(folder, b"refs/heads/main")
    return folder


# --- Which repositories --------------------------------------------------------------------------


def test_a_tree_of_groups_is_listed_to_its_end(forge: GitLab) -> None:
    forge.page = 20
    for path in ("acme", "acme/a", "acme/a/deep", "acme/b", "acmes", "other"):
        forge.group(path)
    paths = [
        f"{group}/p{number:02}"
        for group, count in {"acme": 40, "acme/a": 50, "acme/a/deep": 39, "acme/b": 1}.items()
        for number in range(count)
    ]
    assert len(paths) == 130
    for path in (*paths, "acmes/not-ours", "other/not-ours"):
        forge.project(path, wiki="disabled")
    found = listed(forge, "acme")
    assert list(found) == [path.removeprefix("acme/") for path in paths]
    assert {one.owner for one in found.values()} == {"acme"}
    assert len(forge.asked) == 1 + 7


@pytest.mark.parametrize("name", ["acme/Team", "ACME/team", "100"])
def test_a_group_is_found_by_path_or_id_and_called_as_gitlab_calls_it(
    forge: GitLab, name: str
) -> None:
    forge.group("acme/Team")
    forge.project("acme/Team/one", wiki="disabled")
    found = source(forge, name)
    assert (found.identity.owner, found.identity.owner_id) == ("acme/Team", "group/100")
    assert found.identity.location == f"{forge.url}/acme/Team"
    assert [one.path for one in found.repositories()] == ["one"]


def test_what_a_project_is_and_has_is_told(forge: GitLab) -> None:
    forge.group("acme")
    forge.project("acme/public", visibility="public", wiki="private")
    forge.project("acme/internal", visibility="internal", archived=True, wiki="disabled")
    forge.project("acme/copy", fork=True, wiki="disabled")
    forge.project("acme/off", repository="disabled", wiki="enabled")
    found = listed(forge, "acme")
    assert list(found) == ["public", "public.wiki", "internal", "copy", "off", "off.wiki"]
    assert [one.visibility for one in found.values()] == [
        *("public", "public", "internal", "private", "private", "private"),
    ]
    assert (found["internal"].archived, found["copy"].fork) == (True, True)
    assert found["off"].blocked == "its repository is switched off"
    assert not found["off.wiki"].blocked
    wiki = found["public.wiki"]
    assert (wiki.kind, wiki.host_id) == ("wiki", found["public"].host_id)
    # As the server is reached, whatever it says of itself.
    assert wiki.clone_url == f"{forge.url}/acme/public.wiki.git"


def test_projects_that_are_shared_are_listed_only_when_asked_for(forge: GitLab) -> None:
    forge.group("acme")
    forge.project("acme/mine", wiki="disabled")
    forge.project("other/theirs", wiki="disabled", shared_with=["acme"])
    assert list(listed(forge, "acme")) == ["mine"]
    assert list(listed(forge, "acme", shared=True)) == ["mine", "other/theirs"]


def test_snippets_are_repositories_of_their_own_when_asked_for(forge: GitLab) -> None:
    forge.users["jane"] = 7
    forge.project("jane/dots", wiki="disabled", snippets=[31, 32])
    forge.personal_snippets = [33]
    assert list(listed(forge, "jane")) == ["dots"]
    found = listed(forge, "jane", snippets=True)
    assert list(found) == ["dots", "dots/snippets/31", "dots/snippets/32", "snippets/33"]
    one, own = found["dots/snippets/31"], found["snippets/33"]
    assert (one.kind, one.host_id) == ("snippet", "31")
    assert one.clone_url == f"{forge.url}/jane/dots/snippets/31.git"
    assert own.clone_url == f"{forge.url}/snippets/33.git"


def test_an_owner_that_is_not_there_is_an_error_with_a_hint(forge: GitLab) -> None:
    with pytest.raises(SourceError, match="no group and no user 'nobody'") as caught:
        list(source(forge, "nobody").repositories())
    assert "full path" in caught.value.hint


def test_what_became_of_a_project_is_asked_by_its_id(forge: GitLab) -> None:
    forge.group("acme")
    known = {
        "moved inside": forge.project("acme/new/place"),
        "moved away": forge.project("other/place"),
        "no wiki": forge.project("acme/bare", wiki="disabled"),
        "snippet": forge.project("acme/dots", snippets=[31]),
    }
    found = source(forge, "acme")

    def look_up(words: str, kind: Any = "code") -> Repository | Absence:
        return found.look_up(host_id=str(known[words].project_id), path="old", kind=kind)

    there = look_up("moved inside")
    assert isinstance(there, Repository)
    assert there.path == "new/place"
    assert look_up("moved away") == Absence("transferred", "it is now other/place")
    assert look_up("no wiki", "wiki") == Absence("not-visible", "its wiki is switched off")
    gone = found.look_up(host_id="9", path="old", kind="code")
    assert isinstance(gone, Absence)
    assert gone.answer == "not-visible"
    snippet = found.look_up(host_id="31", path="dots/snippets/31", kind="snippet")
    assert isinstance(snippet, Repository)
    gone = found.look_up(host_id="32", path="dots/snippets/32", kind="snippet")
    assert isinstance(gone, Absence)


# --- Tokens and trouble --------------------------------------------------------------------------


def test_each_kind_of_token_goes_into_its_own_header(forge: GitLab) -> None:
    forge.group("acme")
    for token, header in ((PAT, "private-token"), (JOB, "job-token")):
        list(source(forge, "acme", token, is_job=token is JOB).repositories())
        said = [one.headers for one in forge.server.requests]
        assert all(fields.get(header) == token for fields in said)
        forge.server.requests.clear()
    with pytest.raises(AuthenticationError, match="does not accept the token"):
        list(source(forge, "acme", "glpat-wrong").repositories())
    found = source(forge, "acme", None)
    list(found.repositories())
    assert found.notes == ("acme: without a token only what is public is seen",)


def test_a_token_does_not_follow_a_redirect_to_another_server(
    forge: GitLab, tmp_path: Path
) -> None:
    with GitHttpServer(tmp_path / "other") as other:
        forge.answer = lambda one: Answer(302, {"Location": f"{other.url}{one.target}"})
        with pytest.raises(BackupError, match="another server"):
            list(source(forge, "acme").repositories())
        assert other.requests == []


@pytest.mark.parametrize(
    ("status", "fields", "kind"),
    [
        (429, {"Retry-After": "7"}, RateLimited),
        (429, {}, RateLimited),
        (403, {}, AuthenticationError),
        (502, {}, BackupError),
        (200, {}, SourceError),
    ],
)
def test_a_page_that_does_not_come_is_an_error_never_a_shorter_list(
    forge: GitLab, status: int, fields: dict[str, str], kind: type[BackupError]
) -> None:
    forge.page = 1
    forge.group("acme")
    for number in range(3):
        forge.project(f"acme/p{number}", wiki="disabled")

    def answer(request: Request) -> Answer | None:
        if is_listing(request) and "page=2&" in f"{request.target}&":
            return Answer(status, fields, b'{"message": "no"}')
        return None

    forge.answer = answer
    with pytest.raises(kind) as caught:
        list(source(forge, "acme").repositories())
    if isinstance(caught.value, RateLimited):
        assert caught.value.retry_after_seconds == (7 if fields else None)


def test_a_full_page_that_names_no_other_is_no_end(forge: GitLab) -> None:
    forge.group("acme")
    one = b'{"id": %d, "path_with_namespace": "acme/x", "wiki_access_level": "disabled"}'
    body = b"[" + b",".join(one % number for number in range(100)) + b"]"
    forge.answer = lambda request: Answer(200, {}, body) if is_listing(request) else None
    with pytest.raises(SourceError, match="does not say whether"):
        list(source(forge, "acme").repositories())


# --- Nights --------------------------------------------------------------------------------------


def night(
    forge: GitLab, vault: Path, *words: str, check: int | None = 0, token: str | None = PAT
) -> Completed:
    env = {"REPO_BACKUP_SERVER_URL": forge.url}
    if token is not None:
        env["REPO_BACKUP_TOKEN"] = token
    asked = ("run", "--from", "gitlab:acme", "--to", str(vault), "--json", *words)
    return repo_backup(*asked, env=env, check=check)


def told(done: Completed) -> dict[str, str]:
    return {one["path"]: one["status"] for one in done.json["repositories"]}


@pytest.mark.parametrize("base", ["", "/deep/gitlab"])
@pytest.mark.parametrize("token", [PAT, JOB])
def test_a_group_is_backed_up_and_comes_back(tmp_path: Path, base: str, token: str) -> None:
    with GitLab(tmp_path / "git", base=base) as forge:
        forge.tokens = {PAT: "private-token", JOB: "job-token"}
        for path in ("acme", "acme/team", "acme/team/deep"):
            forge.group(path)
        places = {
            "top": forge.folder(real(forge, "acme/top")),
            "team/api": forge.folder(real(forge, "acme/team/api", visibility="public")),
            "team/deep/api": forge.folder(real(forge, "acme/team/deep/api", archived=True)),
        }
        with_wiki = real(forge, "acme/docs", wiki="enabled", snippets=[31])
        places["docs"] = forge.folder(with_wiki)
        places["docs.wiki"] = fill(forge.folder(with_wiki, ".wiki"), "wiki")
        snippet = forge.folder(with_wiki).with_suffix("") / "snippets" / "31.git"
        places["docs/snippets/31"] = fill(snippet, "snippet")
        update_refs(
            places["top"], {b"refs/merge-requests/1/head": commit_chain(places["top"], 1)[-1]}
        )
        vault = tmp_path / "vault"
        words = ("--snippets", "--pull-refs")
        assert told(night(forge, vault, *words, token=token)) == dict.fromkeys(places, "captured")
        # Credentials go with the first request: GitLab counts those without.
        git = [one for one in forge.server.requests if ".git/" in one.target]
        assert all("authorization" in one.headers for one in git)
        before = len(forge.server.requests)
        second = night(forge, vault, *words, token=token)
        assert told(second) == dict.fromkeys(places, "unchanged")
        assert second.json["totals"]["objects_written"] == 1
        # Two requests of git each; the group, its one page, and the snippets of each project.
        assert len(forge.server.requests) - before == 2 * len(places) + 2 + 4
        repo_backup("restore", "--all", tmp_path / "back", "--from", vault)
        for name, place in places.items():
            state = to_be_kept(place, pull_refs=True)
            assert_same_mirror(tmp_path / "back" / f"{name}.git", state)
        files = [path for path in tmp_path.joinpath("vault").rglob("*") if path.is_file()]
        assert not [path for path in files if token.encode() in path.read_bytes()]


def test_a_project_that_moves_within_its_group_keeps_its_chain(
    forge: GitLab, tmp_path: Path
) -> None:
    forge.group("acme")
    one = real(forge, "acme/before")
    vault = tmp_path / "vault"
    night(forge, vault)
    (forge.root / "acme" / "new").mkdir()
    forge.folder(one).rename(forge.root / "acme" / "new" / "after.git")
    one.path = "acme/new/after"
    done = night(forge, vault)
    assert told(done) == {"new/after": "unchanged"}
    repo_backup("restore", "acme/before", "--from", vault, tmp_path / "back.git")


def test_filters_and_snippets_that_are_not_asked_for_lose_nothing(
    forge: GitLab, tmp_path: Path
) -> None:
    forge.group("acme")
    kept = real(forge, "acme/kept", snippets=[31])
    fill(forge.folder(kept).with_suffix("") / "snippets" / "31.git", "snippet")
    real(forge, "acme/old", archived=True)
    vault = tmp_path / "vault"
    assert len(told(night(forge, vault, "--snippets"))) == 3
    assert told(night(forge, vault, "--no-archived")) == {"kept": "unchanged"}
    assert set(told(night(forge, vault, "--snippets")).values()) == {"unchanged"}


def test_a_storm_of_429_is_waited_out(forge: GitLab, tmp_path: Path) -> None:
    forge.group("acme")
    real(forge, "acme/one")
    left = [3]

    def answer(request: Request) -> Answer | None:
        if is_listing(request) and left[0]:
            left[0] -= 1
            return Answer(429, {"Retry-After": "1"}, b"Retry later")
        return None

    forge.answer = answer
    done = night(forge, tmp_path / "vault")
    assert told(done) == {"one": "captured"}
    assert done.stderr.count("again in") == 3


def test_the_variables_of_the_older_tool_are_enough(forge: GitLab, tmp_path: Path) -> None:
    for name in ("acme", "other"):
        forge.group(name)
        real(forge, f"{name}/one")
    env = {
        "GITLAB_TOKEN": PAT,
        "GITLAB_URL": forge.url,
        "GROUPS_TO_BACKUP": "100, 101",
    }
    done = repo_backup("run", "--to", tmp_path / "vault", "--json", env=env)
    owners = {(one["owner"], one["path"], one["status"]) for one in done.json["repositories"]}
    assert owners == {("acme", "one", "captured"), ("other", "one", "captured")}
    # What is named for GitLab goes nowhere else.
    asked = len(forge.server.requests)
    env |= {"REPO_BACKUP_FROM": f"git:{forge.url}/acme/one.git"}
    repo_backup("run", "--to", tmp_path / "else", env=env, check=1)
    said = [one.headers.get("authorization") for one in forge.server.requests[asked:]]
    assert set(said) == {None}


def test_the_action_backs_up_a_group(forge: GitLab, tmp_path: Path) -> None:
    forge.group("acme")
    real(forge, "acme/one")

    class Busy(Runner):
        def command(self, env: Mapping[str, str]) -> tuple[list[str], dict[str, str]]:
            others = {"AWS_S3_BUCKET": "pages", "BACKUP_BUCKET_NAME": "other"}
            return super().command({**env, **others})

    runner = Busy(tmp_path / "runner", "https://github.example.com")
    # The runner's own server is GitHub's, and no GitLab.
    inputs = {"owner": "acme", "provider": "gitlab", "server-url": forge.url}
    # Nor is a bucket that the workflow has for something else the vault's.
    done = runner.step(**inputs, token=PAT, destination=str(tmp_path / "vault"))
    assert (done.code, done.outputs["captured"]) == (0, "1")


# --- What a token says of itself ------------------------------------------------------------------


def saying(body: dict[str, Any], status: int = 200) -> Any:
    """Answer for the token itself. Source: GitLab Docs, "Personal access tokens API"."""

    def answer(request: Request) -> Answer | None:
        if not request.target.endswith("/personal_access_tokens/self"):
            return None
        fields = {"Content-Type": "application/json", "Date": "Sun, 01 Nov 2026 02:30:00 GMT"}
        return Answer(status, fields, json.dumps(body).encode())

    return answer


@pytest.mark.parametrize(
    ("scopes", "severity", "words"),
    [
        (["read_api", "read_repository"], "info", "has the scopes read_api, read_repository"),
        (["api"], "info", "has the scopes api"),
        (["read_user"], "error", "has the scopes read_user: it cannot list and read projects"),
        ([], "error", "has the scopes none"),
    ],
)
def test_a_token_is_judged_by_what_it_says_of_itself(
    scopes: list[str], severity: str, words: str, forge: GitLab
) -> None:
    forge.answer = saying({"id": 1, "scopes": scopes, "expires_at": "2026-12-24"})
    known = source(forge, "acme")
    assert known.server_time() is None
    diagnosis = known.diagnose()
    first, last = diagnosis.findings
    assert (first.severity, words in first.message) == (severity, True)
    assert last.message == "the token ends on 2026-12-24"
    assert diagnosis.server_time == datetime(2026, 11, 1, 2, 30, tzinfo=UTC)
    there = known.server_time()
    assert there is not None
    assert there - diagnosis.server_time < timedelta(hours=1)


def test_what_says_nothing_of_itself_is_a_warning(forge: GitLab) -> None:
    forge.answer = saying({"message": "404 Not Found"}, 404)
    (finding,) = source(forge, "acme").diagnose().findings
    assert (finding.severity, "says nothing of itself" in finding.message) == ("warning", True)
    (finding,) = source(forge, "acme", None).diagnose().findings
    assert finding.message == "without a token only what is public is seen"
    (finding,) = source(forge, "acme", is_job=True).diagnose().findings
    assert "it ends with the job" in finding.message


# --- What a token says of itself -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "token", "expected"),
    [
        (
            {"scopes": ["read_api", "read_repository"], "expires_at": "2027-01-31"},
            PAT,
            [
                ("info", "the token has the scopes read_api, read_repository"),
                ("info", "the token ends on 2027-01-31"),
            ],
        ),
        ({"scopes": ["api"], "expires_at": None}, PAT, [("info", "the token has the scopes api")]),
        (
            {"scopes": ["read_api"]},
            PAT,
            [("error", "the token has the scopes read_api: it cannot list and read projects")],
        ),
        ({"scopes": []}, PAT, [("error", "the token has the scopes none: it cannot list")]),
        (None, PAT, [("warning", "the token says nothing of itself")]),
        (None, JOB, [("info", "the token is a CI job's: it ends with the job")]),
        (None, None, [("warning", "without a token only what is public is seen")]),
    ],
)
def test_what_a_token_may_do_is_told(
    said: dict[str, Any] | None, token: str | None, expected: list[tuple[str, str]], forge: GitLab
) -> None:
    def answer(request: Request) -> Answer | None:
        if request.target != "/api/v4/personal_access_tokens/self" or said is None:
            return None
        fields = {"id": 1, "name": "backup", "active": True, "revoked": False}
        return Answer(200, {"Content-Type": "application/json"}, json.dumps(fields | said).encode())

    forge.answer = answer
    diagnosis = source(forge, "acme", token, is_job=token == JOB).diagnose()
    found = [(one.severity, one.message) for one in diagnosis.findings]
    assert [severity for severity, _ in found] == [severity for severity, _ in expected]
    for (_, message), (_, words) in zip(found, expected, strict=True):
        assert message.startswith(words)
    assert all(one.fix for one in diagnosis.findings if one.severity == "error")
    assert (diagnosis.server_time is not None) == (said is not None)
