"""No secret gets out: not printed, not in a process list, not in a key, an object or a file."""

import base64
import gzip
import json
import threading
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

import pytest

from tests.support.bitbucket import Bitbucket
from tests.support.github import GitHub, Token
from tests.support.gitlab import GitLab
from tests.support.gitserver import Answer, GitHttpServer, Request
from tests.support.program import Completed, repo_backup
from tests.support.proxy import FaultProxy, ProxyFault
from tests.support.runner import TOKEN as ACTION_TOKEN
from tests.support.runner import Runner
from tests.support.s3server import S3Server, rclone_server
from tests.support.shapes import make

TOKEN = "ghx_Sentinel+7c1f/9aB2"
USERNAME = "jane"
SECRET_NAMES = ("AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")


def spellings(secret: str) -> set[bytes]:
    """Give the forms in which a secret would be recognised, also within ``user:token``."""
    raw = secret.encode()
    encoded = {base64.b64encode(b"x" * before + raw) for before in range(3)}
    # Without what depends on the neighbours.
    inner = {one.rstrip(b"=")[4:-4] for one in encoded}
    return {raw, quote(secret, safe="").encode(), *inner}


def held_by(folder: Path) -> Iterator[tuple[str, bytes]]:
    """Yield the name and the bytes of every file, and what is packed in it."""
    for path in folder.rglob("*"):
        yield str(path), str(path).encode()
        if path.is_file() and not path.is_symlink():
            data = path.read_bytes()
            yield str(path), data
            if data[:2] == b"\x1f\x8b":
                yield str(path), gzip.decompress(data)
            elif b"PACK" in data[:4096]:
                yield str(path), b"".join(_inflated(data))


def download(server: S3Server, bucket: str, folder: Path) -> None:
    """Copy every object of a bucket into a folder."""
    with server.client() as client:
        for item in client.list_objects_v2(Bucket=bucket).get("Contents", []):
            copy = folder / item["Key"]
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_bytes(client.get_object(Bucket=bucket, Key=item["Key"])["Body"].read())


def _inflated(data: bytes) -> Iterator[bytes]:
    at = 0
    while (at := data.find(b"\x78\x9c", at)) >= 0:
        with suppress(zlib.error):
            yield zlib.decompressobj().decompress(data[at:])
        at += 1


@contextmanager
def watched_process_list() -> Iterator[set[bytes]]:
    """Collect every command line on this machine while the block runs."""
    seen: set[bytes] = set()
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            # Processes come and go at any moment.
            with suppress(OSError):
                for path in Path("/proc").glob("[0-9]*/cmdline"):
                    with suppress(OSError):
                        seen.add(path.read_bytes())

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


def assert_nowhere(secret: str, places: list[tuple[str, bytes]]) -> None:
    found = [(where, form) for where, data in places for form in spellings(secret) if form in data]
    assert found == []


@pytest.mark.parametrize("trouble", ["none", "refused", "echoed", "broken", "old server"])
def test_no_secret_gets_out(trouble: str, tmp_path: Path) -> None:
    make("notes", tmp_path / "src" / "acme" / "widgets.git")
    temporary, home = tmp_path / "tmp", tmp_path / "home"
    temporary.mkdir()
    home.mkdir()

    def answer(request: Request) -> Answer | None:
        if trouble == "echoed" and request.target.endswith("git-upload-pack"):
            said = request.headers["authorization"]
            return Answer(403, {}, f"not with {said} nor {TOKEN} nor {quote(TOKEN)}".encode())
        return None

    password = "wrong-password" if trouble == "refused" else TOKEN
    faults = []
    if trouble == "broken":
        faults = [ProxyFault(action="cut", target="git-upload-pack", byte=90, times=None)]
    with (
        GitHttpServer(
            tmp_path / "src",
            credentials=(USERNAME, password),
            answer=answer,
            protocol=0 if trouble == "old server" else 2,
        ) as server,
        FaultProxy(server.url, *faults) as proxy,
        rclone_server(tmp_path / "objects", None) as store,
        watched_process_list() as seen,
    ):
        store.make_bucket("vault")
        secrets = {n: v for n, v in store.environment().items() if n in SECRET_NAMES}
        env = {
            **store.environment(),
            "REPO_BACKUP_FROM": f"git:{proxy.url}/acme/widgets.git",
            "REPO_BACKUP_TO": "s3://vault/git",
            "REPO_BACKUP_ENDPOINT_URL": store.endpoint_url,
            "REPO_BACKUP_TOKEN": TOKEN,
            "REPO_BACKUP_USERNAME": USERNAME,
            "REPO_BACKUP_DEBUG": "1",
            # What never passes is tried again until then.
            "REPO_BACKUP_DEADLINE_MINUTES": "0.1" if trouble == "broken" else "60",
            "TMPDIR": str(temporary),
            "HOME": str(home),
        }
        done = [
            repo_backup("run", "--json", env=env, check=None),
            repo_backup("run", env=env, check=None),
            repo_backup("list", "--from", "s3://vault/git", env=env, check=None),
        ]
    codes = {"none": [0, 0], "old server": [0, 0], "broken": [3, 3]}
    assert [one.code for one in done[:2]] == codes.get(trouble, [1, 1])
    assert TOKEN.encode() not in b"".join(seen)
    assert any(b"repo-backup" in line for line in seen), "the process list was looked at"
    places = [
        *(("process list", line) for line in seen),
        *(("printed", text) for one in done for text in _printed(one)),
        *held_by(tmp_path / "objects"),
        *held_by(temporary),
        *held_by(home),
    ]
    assert_nowhere(TOKEN, places)
    for name, value in secrets.items():
        assert len(value) > 8, name
        # rclone was started with its own keys as arguments; that is not ours to hide.
        assert_nowhere(value, [place for place in places if place[0] != "process list"])
    assert not list(temporary.iterdir())
    assert not list(home.iterdir())


# What each kind of credentials gives to a run; all of it is secret but the names of users.
KINDS: dict[str, dict[str, str]] = {
    "GitHub token": {"TOKEN": "ghp_Sentinel+github/0123456789"},
    "GitLab token": {"TOKEN": "glpat-Sentinel-gitlab+0123"},
    "GitLab job token": {"TOKEN": "glcbt-64_Sentinel-job+0123"},
    "Bitbucket consumer": {"OAUTH_KEY": "a-key", "OAUTH_SECRET": "Sentinel+consumer/0123456789"},
    "Bitbucket access token": {"TOKEN": "ATCTT3xSentinel-access+0123"},
    "Bitbucket API token": {"TOKEN": "ATATT3xSentinel-api+0123", "USERNAME": "jane@example.com"},
}


@contextmanager
def forge_for(kind: str, root: Path, secret: str) -> Iterator[GitHub | GitLab | Bitbucket]:
    """Serve one private repository to who has the credentials."""
    forge: GitHub | GitLab | Bitbucket
    match kind.split(maxsplit=1)[0]:
        case "GitHub":
            with GitHub(root) as forge:
                forge.tokens[secret] = Token("jane")
                forge.owner("jane", kind="User")
                forge.repository(forge.owner("acme"), "widgets", private=True)
                yield forge
        case "GitLab":
            with GitLab(root) as forge:
                header = "job-token" if "job" in kind else "private-token"
                forge.tokens = {secret: header}
                forge.group("acme")
                forge.project("acme/widgets", wiki="disabled")
                yield forge
        case _:
            with Bitbucket(root) as forge:
                forge.consumers = {"a-key": secret}
                forge.accepted = {secret}
                forge.api_tokens = {secret: "jane@example.com"}
                forge.workspace("acme")
                forge.repository("acme", "widgets")
                yield forge


@pytest.mark.parametrize("trouble", ["none", "echoed by git", "echoed by the API"])
@pytest.mark.parametrize("kind", KINDS)
def test_no_credentials_of_a_forge_get_out(
    kind: str, trouble: str, tmp_path: Path, rclone_http: S3Server
) -> None:
    given = KINDS[kind]
    secret = given.get("OAUTH_SECRET") or given["TOKEN"]
    make("notes", tmp_path / "git" / "acme" / "widgets.git")
    bucket = f"secrets-{abs(hash(tmp_path)) % 10**10}"
    rclone_http.make_bucket(bucket)
    temporary, home = tmp_path / "tmp", tmp_path / "home"
    temporary.mkdir()
    home.mkdir()
    provider = kind.split(maxsplit=1)[0].lower()

    def answer(request: Request) -> Answer | None:
        by_git = ".git/" in request.target
        to_be_had = "access_token" in request.target
        if trouble == "none" or to_be_had or by_git != trouble.endswith("git"):
            return None
        said = [value for name, value in request.headers.items() if "token" in name]
        said.append(request.headers.get("authorization", ""))
        body = {"message": f"not with {said} nor {secret} nor {quote(secret)}"}
        return Answer(403, {"Content-Type": "application/json"}, json.dumps(body).encode())

    with (
        forge_for(kind, tmp_path / "git", secret) as forge,
        watched_process_list() as seen,
    ):
        forge.answer = answer
        env = {
            **rclone_http.environment(),
            **{f"REPO_BACKUP_{name}": value for name, value in given.items()},
            "REPO_BACKUP_FROM": f"{provider}:acme",
            "REPO_BACKUP_TO": f"s3://{bucket}/git",
            "REPO_BACKUP_ENDPOINT_URL": rclone_http.endpoint_url,
            "REPO_BACKUP_SERVER_URL": forge.url,
            "REPO_BACKUP_DEBUG": "1",
            "TMPDIR": str(temporary),
            "HOME": str(home),
        }
        if provider == "bitbucket":
            assert isinstance(forge, Bitbucket)
            env["REPO_BACKUP_API_URL"] = forge.api_url
        is_exported = kind == "GitLab token" and trouble == "none"
        words = ("run", "--exports") if is_exported else ("run",)
        # For programs, and for people.
        done = [repo_backup(*words, "--json", env=env, check=None)]
        if trouble != "echoed by the API":
            done.append(repo_backup(*words, env=env, check=None))
        secrets = [secret]
        if isinstance(forge, Bitbucket):
            secrets += forge.issued
        if isinstance(forge, GitLab):
            # Who has such a URL can write to the bucket.
            secrets += [url for _, _, url in forge.asked_for if url]
    assert {one.code for one in done} == ({0} if trouble == "none" else {1})
    if kind == "Bitbucket consumer" or is_exported:
        assert len(secrets) > 1
    download(rclone_http, bucket, tmp_path / "objects")
    places = [
        *(("process list", line) for line in seen),
        *(("printed", text) for one in done for text in _printed(one)),
        *held_by(tmp_path / "objects"),
        *held_by(temporary),
        *held_by(home),
    ]
    for each in secrets:
        assert_nowhere(each, places)
    assert [*temporary.iterdir()] == []
    assert [*home.iterdir()] == []


@pytest.mark.parametrize("status", [403, 500])
def test_nothing_that_a_step_leaves_has_a_token_that_was_echoed(
    status: int, tmp_path: Path, rclone_http: S3Server
) -> None:
    make("notes", tmp_path / "git" / "acme" / "widgets.git")
    bucket = f"echoed-{abs(hash(tmp_path)) % 10**10}"
    rclone_http.make_bucket(bucket)
    echoed: list[str] = []

    def answer(request: Request) -> Answer | None:
        if ".git/" not in request.target:
            return None
        header = request.headers["authorization"].partition(" ")[2]
        alone = base64.b64encode(ACTION_TOKEN.encode()).decode()
        url = quote(ACTION_TOKEN, safe="")
        echoed.append(f"{header} {alone} {url} {url.lower()} {quote(header, safe='')}")
        fields = {"Retry-After": "0"} if status == 500 else {}
        return Answer(status, fields, f"not with {echoed[-1]}".encode())

    with GitHub(tmp_path / "git") as forge:
        forge.tokens[ACTION_TOKEN] = Token("jane")
        forge.owner("jane", kind="User")
        forge.repository(forge.owner("acme"), "widgets", private=True)
        forge.answer = answer
        runner = Runner(tmp_path / "runner", forge.url)
        runner.more = {
            **rclone_http.environment(),
            "AWS_ENDPOINT_URL": rclone_http.endpoint_url,
            # All that makes a step say more.
            "REPO_BACKUP_DEBUG": "1",
            "RUNNER_DEBUG": "1",
        }
        step = runner.step(bucket=bucket, prefix="git")
    assert (step.code, step.outputs["failed"]) == (1, "1")
    assert echoed
    (outcome,) = step.report["repositories"]
    # It was shown, and masked.
    assert "*** *** *** ***" in outcome["reason"]
    assert "not with" in step.summary
    objects = tmp_path / "objects"
    download(rclone_http, bucket, objects)
    assert [path.name for path in objects.rglob("*.json.gz")]
    printed = (step.stdout, step.stderr, step.summary, json.dumps(step.report))
    places = [
        *(("printed", text.encode()) for text in printed),
        *(("outputs", text.encode()) for text in step.outputs.values()),
        # The report as it is, and whatever else lies there.
        *held_by(runner.folder),
        *held_by(objects),
    ]
    assert_nowhere(ACTION_TOKEN, places)
    lower = quote(ACTION_TOKEN, safe="").lower()
    assert not [where for where, data in places if lower.encode() in data.lower()]


def _printed(done: Completed) -> list[bytes]:
    return [text.encode("utf-8", "surrogateescape") for text in (done.stdout, done.stderr)]


def test_the_search_finds_what_it_looks_for(tmp_path: Path) -> None:
    places = [
        TOKEN.encode(),
        base64.b64encode(f"{USERNAME}:{TOKEN}".encode()),
        b"https://host/?t=" + quote(TOKEN, safe="").encode(),
    ]
    for data in places:
        with pytest.raises(AssertionError):
            assert_nowhere(TOKEN, [("somewhere", data)])
    (tmp_path / "x.gz").write_bytes(gzip.compress(TOKEN.encode()))
    with pytest.raises(AssertionError):
        assert_nowhere(TOKEN, list(held_by(tmp_path)))


def test_a_token_goes_nowhere_else_after_a_redirect(tmp_path: Path) -> None:
    make("notes", tmp_path / "src" / "acme" / "widgets.git")
    with GitHttpServer(tmp_path / "src") as other:

        def answer(request: Request) -> Answer | None:
            return Answer(302, {"Location": f"{other.url}{request.target}"}, b"")

        with GitHttpServer(tmp_path / "src", answer=answer) as server:
            done = repo_backup(
                *("run", "--from", f"git:{server.url}/acme/widgets.git"),
                *("--to", tmp_path / "vault", "--json"),
                env={"REPO_BACKUP_TOKEN": TOKEN},
                check=1,
            )
    assert other.requests == []
    (outcome,) = done.json["repositories"]
    assert "redirect" in outcome["reason"]
    assert TOKEN not in done.stdout + done.stderr
