"""A server of Git LFS beside `GitHttpServer`, by the published API, and a store on another port.

The server hands out links to the store, which can be made to end before they are used.
Source: git-lfs, docs/api/batch.md, docs/api/basic-transfers.md.
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from threading import Lock
from typing import Any

from tests.support.git import git, run_git
from tests.support.gitserver import Answer, GitHttpServer, Request

TYPE = {"Content-Type": "application/vnd.git-lfs+json"}
VERSION = "version https://git-lfs.github.com/spec/v1\n"


def oid_of(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def commit(path: Path, branch: str, files: Mapping[str, bytes]) -> None:
    """Commit files on a branch of a bare repository, as all that it holds."""
    lines = []
    for name, content in files.items():
        words = run_git("hash-object", "-w", "--stdin", cwd=path, input=content).stdout
        lines.append(b"100644 blob %b\t%b\n" % (words.strip(), name.encode()))
    tree = run_git("mktree", cwd=path, input=b"".join(lines)).stdout.strip().decode()
    seen = run_git("rev-parse", "--verify", "--quiet", f"refs/heads/{branch}", cwd=path).stdout
    parents = ["-p", seen.decode().strip()] if seen.strip() else []
    made = git("commit-tree", tree, "-m", branch, *parents, cwd=path).decode().strip()
    git("update-ref", f"refs/heads/{branch}", made, cwd=path)


def pointer(content: bytes, *, extra: str = "", size: int | None = None) -> bytes:
    """Write the pointer of a file."""
    length = len(content) if size is None else size
    return f"{VERSION}{extra}oid sha256:{oid_of(content)}\nsize {length}\n".encode()


def keep(path: Path, *contents: bytes) -> None:
    """Put files where git-lfs has them in a repository."""
    for content in contents:
        oid = oid_of(content)
        place = path / "lfs" / "objects" / oid[:2] / oid[2:4] / oid
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)


@dataclass
class LfsStore:
    """The files, and what is wrong with the server.

    Attributes:
        files: by their ids.
        refuse: an answer to every batch, in place of links.
        missing_at_the_store: ids that have links and are not there.
        corrupt: ids of which other bytes come.
        without_links: ids that the server says it has, and gives no link to.
        strict: whether a file is refused that is asked for with a size that it does not have.
        ends: for an id, how many of its links end before they are used.
        batches: how many files each batch asked for.
        links: how often a file was asked for at the store.
        verified: ids that the server was told were sent.
        wrong: what no client may do.
    """

    files: dict[str, bytes] = field(default_factory=dict)
    refuse: Answer | None = None
    missing_at_the_store: set[str] = field(default_factory=set)
    corrupt: set[str] = field(default_factory=set)
    without_links: set[str] = field(default_factory=set)
    strict: bool = False
    ends: Counter[str] = field(default_factory=Counter)
    batches: list[int] = field(default_factory=list)
    links: Counter[str] = field(default_factory=Counter)
    verified: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    store_url: str = ""
    header: dict[str, str] = field(default_factory=lambda: {"X-Link": "good"})
    _lock: Lock = field(default_factory=Lock)
    _made: int = 0
    _ended: set[str] = field(default_factory=set)

    def add(self, *contents: bytes) -> None:
        self.files |= {oid_of(content): content for content in contents}

    def answer(self, request: Request) -> Answer | None:
        """Answer what is asked of the server; None for what is git's."""
        if not request.target.endswith(".git/info/lfs/objects/batch"):
            return None
        with self._lock:
            return self.refuse or self._batch(request)

    def serve(self, request: Request) -> Answer:
        """Answer what is asked of the store."""
        with self._lock:
            return self._serve(request)

    def _batch(self, request: Request) -> Answer:
        asked = json.loads(request.form)
        if request.method != "POST" or "basic" not in asked.get("transfers", ["basic"]):
            self.wrong.append(f"{request.method} {asked}")
        if len(asked["objects"]) > 100:
            self.wrong.append(f"{len(asked['objects'])} at once")
        self.batches.append(len(asked["objects"]))
        lines = [self._line(one, asked["operation"]) for one in asked["objects"]]
        body = {"transfer": "basic", "objects": lines, "hash_algo": "sha256"}
        return Answer(200, TYPE, json.dumps(body).encode())

    def _line(self, one: dict[str, Any], operation: str) -> dict[str, Any]:
        oid = one["oid"]
        line: dict[str, Any] = {"oid": oid, "size": one["size"]}
        if operation == "upload":
            if oid not in self.files:
                line["actions"] = {"upload": self._link(oid), "verify": self._link("verify")}
            return line
        if oid in self.without_links:
            return line
        if oid not in self.files:
            return line | {"error": {"code": 404, "message": "Object does not exist"}}
        if self.strict and one["size"] != len(self.files[oid]):
            return line | {"error": {"code": 422, "message": "Object size does not match"}}
        return line | {"actions": {"download": self._link(oid)}}

    def _link(self, oid: str) -> dict[str, Any]:
        self._made += 1
        name = f"/{oid}?number={self._made}"
        if self.ends[oid]:
            self.ends[oid] -= 1
            self._ended.add(name)
        return {"href": f"{self.store_url}{name}", "header": self.header, "expires_in": 300}

    def _serve(self, request: Request) -> Answer:
        if "authorization" in request.headers:
            self.wrong.append("credentials at the store")
        oid = request.target[1:].partition("?")[0]
        self.links[oid] += 1
        if request.target in self._ended:
            return Answer(403, {"Content-Type": "application/xml"}, b"<Error>expired</Error>")
        if any(request.headers.get(name.lower()) != text for name, text in self.header.items()):
            return Answer(403, {}, b"without the link's header")
        if oid == "verify":
            told = json.loads(request.form)
            self.verified.append(told["oid"])
            is_there = len(self.files.get(told["oid"], b"")) == told["size"]
            return Answer(200 if is_there else 422)
        if request.method == "PUT":
            if oid in self.corrupt:
                return Answer(507, {"Content-Type": TYPE["Content-Type"]}, b'{"message": "full"}')
            self.files[oid] = request.form
            return Answer(200)
        if oid in self.missing_at_the_store or oid not in self.files:
            return Answer(404, {}, b"no such key")
        content = self.files[oid]
        if oid in self.corrupt:
            content = bytes([content[0] ^ 1]) + content[1:]
        return Answer(200, {"Content-Type": "application/octet-stream"}, content)


@contextmanager
def lfs_server(
    root: Path, *, credentials: tuple[str, str] | None = None
) -> Iterator[tuple[GitHttpServer, LfsStore]]:
    """Serve the repositories below a folder, with their files of Git LFS."""
    store = LfsStore()
    with (
        GitHttpServer(root / "nothing", answer=store.serve) as files,
        GitHttpServer(
            root, credentials=credentials, answer=store.answer, asks_first=True
        ) as server,
    ):
        store.store_url = files.url
        yield server, store
