"""Servers that repeat a token where a message is cut: what is left of it is told to nobody.

Each place is tried with the token at every offset from a limit of length, so that an end of it, a
middle or a beginning would be left over.
"""

import gzip
import json
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from github import Auth

from backup import limits
from backup.destinations.s3 import JobRole
from backup.destinations.s3.failures import translate
from backup.destinations.s3.role import _identity
from backup.errors import BackupError, sound
from backup.git.dumb import advertisement
from backup.git.http import HttpClient, HttpSettings, HttpTransport, basic
from backup.git.lfs import LfsServer, Offer, over_http
from backup.git.pktline import FLUSH, PacketReader, encode, refusal
from backup.git.pointers import Pointer
from backup.git.upload_pack import Remote, _side_band
from backup.model import Absence, ObjectId, Selection
from backup.secret import Secret
from backup.sources.bitbucket import AccessToken, BitbucketSource, Consumer
from backup.sources.github import App, GitHubSource
from backup.sources.github.api import Api
from backup.sources.gitlab import GitLabSource
from backup.stopping import Stop
from tests.integration.test_github_app import APP_ID, key
from tests.support.gitserver import Answer, GitHttpServer, Request
from tests.support.lfsserver import TYPE
from tests.support.program import repo_backup

TOKEN = "ghp_s3nt1nelOfAnEcho0123456789abcdefABCD"
SECRET = Secret(TOKEN)
ONE = ObjectId("1" * 40)
FILE = Pointer("a" * 64, 8)
# What is shown of anything is cut at one of these, or near it.
LIMITS = (20, 32, 80, 200, 300, 500, 1000, 2048, 4096, 8192, 10_000)
# And what is shown of a forge.
OF_FORGES = (40, 300, 4096, 10_000)


def assert_untold(text: str, where: object) -> None:
    pieces = {TOKEN[at : at + 8] for at in range(len(TOKEN) - 7)}
    found = sorted(piece for piece in pieces if piece in text)
    assert not found, (where, found, text[:3000])


def echoes(places: Sequence[int] = LIMITS) -> Iterator[bytes]:
    """Give texts with the token across each limit, at several offsets."""
    for limit in places:
        for part in (1, 8, 20, 39):
            yield b"x" * max(0, limit - part) + TOKEN.encode() + b" and more" * 40


# --- On the wire ----------------------------------------------------------------------------------


class Script:
    """A transport that answers what it was given."""

    def __init__(self, *answers: bytes) -> None:
        self._answers = [*answers]

    def advertisement(self) -> PacketReader:
        return self.exchange(b"")

    def content_begins(self) -> None:
        pass

    def exchange(self, _request: bytes, *, prepares: bool = False) -> PacketReader:
        data = self._answers.pop(0)
        position = 0

        def read(size: int) -> bytes:
            nonlocal position
            piece = data[position : position + size]
            position += len(piece)
            return piece

        return PacketReader(read)

    def ended(self) -> bool:
        return True

    def explain(self, error: BackupError) -> BackupError:
        return error

    def close(self) -> None:
        pass


def lines(*texts: bytes) -> bytes:
    return b"".join(encode(text[:65_000] + b"\n") for text in texts) + FLUSH


HELLO = lines(b"version 2", b"agent=x", b"ls-refs", b"fetch")
ON_THE_WIRE: dict[str, Callable[[bytes], Sequence[bytes]]] = {
    "ERR in place of the capabilities": lambda said: [encode(b"ERR " + said)],
    "ERR in place of the refs": lambda said: [HELLO, encode(b"ERR " + said)],
    "a line that is no ref": lambda said: [HELLO, lines(said.replace(b" ", b""))],
    "an id that is none": lambda said: [HELLO, lines(said + b" refs/heads/main")],
    "a ref that is there twice": lambda said: [
        HELLO,
        lines(*2 * [ONE.encode() + b" refs/" + said.replace(b" ", b"")]),
    ],
    "a format of objects": lambda said: [
        lines(b"version 2", b"ls-refs", b"fetch", b"object-format=" + said)
    ],
    "version 0": lambda said: [lines(said)],
}
IN_A_FETCH: dict[str, Callable[[bytes], bytes]] = {
    "ERR in place of the pack": lambda said: encode(b"ERR " + said),
    "a section": lambda said: encode(said[:65_000]),
    "the band of errors": lambda said: encode(b"packfile\n") + encode(b"\x03" + said[:60_000]),
    "the words before an error": lambda said: (
        encode(b"packfile\n")
        + b"".join(encode(b"\x02" + said[at : at + 999]) for at in range(0, len(said), 999))
        + encode(b"\x03died")
    ),
}


@pytest.mark.parametrize("place", ON_THE_WIRE)
def test_in_a_list_of_refs(place: str) -> None:
    for said in echoes():
        remote = Remote(
            Script(*ON_THE_WIRE[place](said)),
            selection=Selection(),
            count=lambda _: None,
        )
        with pytest.raises(BackupError) as caught:
            remote.list_refs()
        assert_untold(f"{caught.value.message} {caught.value.hint}", place)


@pytest.mark.parametrize("place", IN_A_FETCH)
def test_in_a_fetch(place: str) -> None:
    for said in echoes():
        remote = Remote(
            Script(HELLO, IN_A_FETCH[place](said)),
            selection=Selection(),
            count=lambda _: None,
        )
        with pytest.raises(BackupError) as caught:
            [*remote.fetch([ONE], [])]
        assert_untold(caught.value.message, place)


def test_in_a_refusal() -> None:
    for said in echoes():
        assert_untold(refusal(said).message, "a refusal")


# --- Over HTTP ------------------------------------------------------------------------------------

STATUSES = (400, 401, 403, 404, 410, 429, 451, 500, 503, 507)


def whole(text: bytes) -> str:
    return text.decode()


ANSWERS: dict[str, Callable[[bytes, int], Answer]] = {
    "plain text": lambda said, status: Answer(status, {}, said),
    "JSON": lambda said, status: Answer(
        status, {"Content-Type": "application/json"}, json.dumps({"message": whole(said)}).encode()
    ),
    "who blocks": lambda said, status: Answer(451, {"Link": f"<https://{whole(said)}>"}, b""),
    "a kind of content": lambda said, status: Answer(200, {"Content-Type": f"text/{whole(said)}"}),
    "a redirect": lambda said, status: Answer(
        302, {"Location": f"https://e.example/{whole(said)}"}
    ),
}


class Place:
    """A server that answers what a test says."""

    def __init__(self, folder: Path) -> None:
        self.answer = Answer(404)
        self.http = GitHttpServer(folder, answer=self._give)
        self.client = HttpClient(HttpSettings(), connections=2, stop=Stop())

    def _give(self, _request: Request) -> Answer:
        return self.answer


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    made = Place(tmp_path_factory.mktemp("root"))
    with made.http:
        yield made
        made.client.close()


@pytest.mark.parametrize("kind", ANSWERS)
def test_of_a_git_server(kind: str, place: Place) -> None:
    for number, said in enumerate(echoes()):
        place.answer = ANSWERS[kind](said, STATUSES[number % len(STATUSES)])
        transport = HttpTransport(
            f"{place.http.url}/acme/one.git",
            client=place.client,
            authorization=lambda: basic("x-access-token", SECRET),
        )
        with pytest.raises(BackupError) as caught:
            transport.advertisement()
        transport.close()
        assert_untold(f"{caught.value.message} {caught.value.hint}", kind)


@pytest.mark.parametrize("kind", ["an answer", "a file's error", "a code", "a transfer", "a link"])
def test_of_a_server_of_git_lfs(kind: str, place: Place) -> None:
    access = over_http(f"{place.http.url}/acme/one.git", lambda: basic("x", SECRET))
    server = LfsServer(access, named="the server", client=place.client, count=lambda _: None)
    for number, echoed in enumerate(echoes()):
        said = whole(echoed)
        line: dict[str, object] = {"oid": FILE.oid, "size": 8}
        found: dict[str, object] = {"objects": [line]}
        if kind == "a file's error":
            line["error"] = {"code": 500, "message": said}
        elif kind == "a code":
            line["error"] = {"code": said, "message": "no"}
        elif kind == "a transfer":
            found["transfer"] = said
        elif kind == "a link":
            line["actions"] = {"download": {"href": f"ftp://{said}"}}
        place.answer = Answer(200, TYPE, json.dumps(found).encode())
        if kind == "an answer":
            place.answer = ANSWERS["JSON"](echoed, STATUSES[number % len(STATUSES)])
        try:
            told = server.offers([FILE])[FILE.oid]
        except BackupError as error:
            told = error  # type: ignore[assignment]
        assert isinstance(told, BackupError)
        assert_untold(f"{told.message} {told.hint}", kind)


@pytest.mark.parametrize("kind", ["plain text", "JSON"])
def test_of_the_api_of_github(kind: str, place: Place) -> None:
    api = Api(None, place.http.url)
    for number, said in enumerate(echoes()):
        place.answer = ANSWERS[kind](said, STATUSES[number % len(STATUSES)])
        with pytest.raises(BackupError) as caught:
            api.request("GET", "/user")
        assert_untold(f"{caught.value.message} {caught.value.hint}", kind)


# --- Of forges, and where tokens are given out ----------------------------------------------------


def ask_github(url: str) -> None:
    [*Api(Auth.Token(TOKEN), url).pages("/user/repos")]


def ask_gitlab(url: str) -> None:
    [*GitLabSource("acme", token=SECRET, server_url=url).repositories()]


def ask_bitbucket(url: str) -> None:
    source = BitbucketSource("acme", credentials=AccessToken(SECRET), server_url=url)
    # The workspace is not seen by every token: what is asked for then is the listing.
    [*source.repositories()]


def ask_as_consumer(url: str) -> None:
    Consumer("the-key", SECRET, server_url=url).for_api()


def ask_as_app(url: str) -> None:
    App(APP_ID, Secret(key()[0]), owner="acme", api_url=url).token()


def ask_identity(url: str) -> None:
    _identity(JobRole("arn:aws:iam::1:role/x", f"{url}/identity", SECRET, "repo-backup"))


ASKING: dict[str, Callable[[str], None]] = {
    "GitHub": ask_github,
    "GitLab": ask_gitlab,
    "Bitbucket": ask_bitbucket,
    "a consumer's token": ask_as_consumer,
    "an App's token": ask_as_app,
    "a job's identity": ask_identity,
}
JSON = {"Content-Type": "application/json"}


def as_json(value: object, status: int = 200, **fields: str) -> Answer:
    return Answer(status, JSON | fields, json.dumps(value).encode())


SAYING: dict[str, Callable[[str, int], Answer]] = {
    "plain text": lambda said, status: Answer(status, {}, said.encode()),
    "a message": lambda said, status: as_json({"message": said, "error": said}, status),
    "a description": lambda said, status: as_json(
        {"error_description": said, "error": {"message": said}, "block": {"html_url": said}}, status
    ),
    "no JSON": lambda said, _: Answer(200, JSON, said.encode()),
    "in place of everything": lambda said, _: as_json(
        {
            "token": said,
            "access_token": said,
            "expires_at": said,
            "expires_in": said,
            "value": [said],
        }
    ),
    "a redirect": lambda said, _: Answer(
        302, JSON | {"Location": f"https://{said.replace(' ', '-')}.example/"}, b"{}"
    ),
    "a redirect of GitHub": lambda said, _: Answer(
        301, JSON | {"Location": f"https://{said.replace(' ', '-')}.example/"}, b"{}"
    ),
    "a next page": lambda said, _: as_json(
        {
            "repositories": [],
            "values": [],
            "slug": "acme",
            "uuid": "{1}",
            "id": 1,
            "full_path": "acme",
            "next": f"https://e.example/{said.replace(' ', '-')}",
        },
        Link=f'<https://e.example/{said.replace(" ", "-")}>; rel="next"',
    ),
    "a step that is missing": lambda said, _: as_json(
        {},
        403,
        **{"X-GitHub-SSO": f"required; url=https://{said}", "X-Accepted-OAuth-Scopes": said},
        **{"X-OAuth-Scopes": said[:4000]},
    ),
}


@pytest.mark.parametrize("saying", SAYING)
@pytest.mark.parametrize("asking", ASKING)
def test_of_the_api_of_a_forge(asking: str, saying: str, place: Place) -> None:
    for number, said in enumerate(echoes(OF_FORGES)):
        place.answer = SAYING[saying](whole(said), STATUSES[number % len(STATUSES)])
        with pytest.raises(BackupError) as caught:
            ASKING[asking](place.http.url)
        assert_untold(f"{caught.value.message} {caught.value.hint}", (asking, saying))


def test_of_what_a_link_of_git_lfs_needs(place: Place) -> None:
    """Known by the link alone: no input had it."""
    access = over_http(f"{place.http.url}/acme/one.git", lambda: None)
    server = LfsServer(access, named="the server", client=place.client, count=lambda _: None)
    theirs = "lfs-s3nt1nelOfALink-XyZwVuTsRq"
    for status in STATUSES:
        action = {"href": f"{place.http.url}/file", "header": {"Authorization": theirs}}
        line = {"oid": FILE.oid, "size": 8, "actions": {"download": action}}
        place.answer = as_json({"objects": [line]})
        found = server.offers([FILE])[FILE.oid]
        assert isinstance(found, Offer)
        place.answer = Answer(status, {}, f"not with {theirs}".encode())
        with pytest.raises(BackupError) as caught:
            [*server.read(FILE, found)]
        told = f"{caught.value.message} {caught.value.hint}"
        assert not [at for at in range(len(theirs) - 7) if theirs[at : at + 8] in told]


def test_of_an_item_that_is_odd_or_has_moved(place: Place) -> None:
    source = GitHubSource(
        "acme", credentials=None, server_url=place.http.url, api_url=place.http.url
    )
    owner = {"login": "acme", "id": 1, "type": "Organization"}
    place.answer = as_json(owner)
    assert source.identity.owner == "acme"
    for said in map(whole, echoes(OF_FORGES)):
        place.answer = as_json([{"owner": owner, "id": said, "name": said, said: said}])
        (found,) = source.repositories()
        assert_untold(found.problem, "an item")
        place.answer = as_json({"owner": {"login": "other"}, "full_name": said[:4000]})
        gone = source.look_up(host_id="1", path="x", kind="code")
        assert isinstance(gone, Absence)
        assert_untold(sound(gone.detail), "a repository that moved")


def test_of_a_store() -> None:
    for said in echoes():
        response = {"Error": {"Code": "Odd", "Message": whole(said)}}
        error = translate(ClientError(response, "PutObject"), "s3://a/b")  # type: ignore[arg-type]
        assert error is not None
        assert_untold(f"{error.message} {error.hint}", "a store")


# --- A run ----------------------------------------------------------------------------------------


def test_of_a_run_neither_log_nor_report_nor_vault_has_anything_of_it(tmp_path: Path) -> None:
    texts = [*echoes()]

    def answer(request: Request) -> Answer:
        number = int(request.target.partition("/acme/r")[2].partition(".git")[0])
        # None that is asked again.
        return Answer((400, 403, 404, 410, 451, 507)[number % 6], {}, texts[number])

    with GitHttpServer(tmp_path, answer=answer) as server:
        urls = tmp_path / "urls"
        urls.write_text("".join(f"{server.url}/acme/r{n}.git\n" for n in range(len(texts))))
        words = ("run", "--from", f"git:@{urls}", "--owner", "acme", "--to", tmp_path / "vault")
        done = repo_backup(*words, "--json", env={"REPO_BACKUP_TOKEN": TOKEN}, check=None)
        assert done.code in {1, 3}
    assert_untold(done.stdout + done.stderr, "the log")
    for path in (tmp_path / "vault").rglob("*.json.gz"):
        assert_untold(gzip.decompress(path.read_bytes()).decode(), path.name)


# --- What we cut ourselves ------------------------------------------------------------------------


@pytest.mark.parametrize("part", [1, 8, 20, 39])
@pytest.mark.parametrize(
    ("status", "kind", "begin"),
    [(200, "text/html", b"<title>"), (403, "text/html", b"<title>"), (403, "text/plain", b"it ")],
)
def test_a_token_across_the_end_of_what_is_read_of_a_page_is_told_to_nobody(
    status: int, kind: str, begin: bytes, part: int, tmp_path: Path
) -> None:
    page = begin + b"words" + b" " * (limits.MOST_PAGE_BYTES - len(begin) - 5 - part)
    page += TOKEN.encode() + b"</title>"
    with GitHttpServer(
        tmp_path, answer=lambda _: Answer(status, {"Content-Type": kind}, page)
    ) as server:
        http = HttpClient(HttpSettings(), connections=1, stop=Stop())
        with pytest.raises(BackupError) as caught:
            HttpTransport(f"{server.url}/a.git", client=http).advertisement()
    assert_nothing_of_the_token(str(caught.value))


@pytest.mark.parametrize("part", [1, 8, 20, 39])
def test_a_token_across_what_is_kept_of_other_words_is_told_to_nobody(part: int) -> None:
    token = TOKEN.encode()
    for kept in (8192, 9000, 2 * 8192):
        said = b"." * 100 + token + b" " * (kept - part)
        words = said[:-8] + b" is it."
        packets = (encode(b"\x02" + words[at : at + 900]) for at in range(0, len(words), 900))
        wire = b"".join([*packets, encode(b"\x03fatal")])
        with pytest.raises(BackupError) as caught:
            [*_side_band(PacketReader(BytesIO(wire).read))]
        assert_nothing_of_the_token(str(caught.value))
        line = b"odd" + b" " * (kept - 3 - part) + token + b" " * 9000
        with pytest.raises(BackupError) as caught:
            [*advertisement(line, b"")]
        assert_nothing_of_the_token(str(caught.value))


def assert_nothing_of_the_token(text: str) -> None:
    """Require that not even four characters of it stand there."""
    assert not any(TOKEN[at : at + 4] in text for at in range(len(TOKEN) - 3)), text
