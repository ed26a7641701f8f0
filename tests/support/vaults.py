"""Reads a vault as strangers do: by what ``list --json`` says of it, and with git alone."""

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from backup.commands.listing import list_history
from backup.commands.run import RunOptions, run
from backup.destinations.folder import FolderDestination
from backup.model import Destination, Outcome, RunReport, Source, SourceIdentity
from backup.report.document import history_document
from backup.stopping import Stop
from tests.support.git import git, init_bare, set_head
from tests.support.mirrors import HIDDEN_REFS, MirrorState, assert_same_mirror, mirror_state
from tests.support.program import repo_backup
from tests.support.times import Timed

PULL_HEADS = (b"refs/pull/", b"refs/merge-requests/")


class Silence:
    """Hears everything that a run says, and says nothing (`backup.model.Events`)."""

    def listing(self, identity: SourceIdentity) -> None: ...

    def listed(self, identity: SourceIdentity, count: int) -> None: ...

    def capturing(self, name: str, action: str, reason: str) -> None: ...

    def transferred(self, name: str, size_bytes: int) -> None: ...

    def finished(self, outcome: Outcome) -> None: ...

    def ended(self, name: str) -> None: ...

    def note(self, message: str) -> None: ...


@dataclass(frozen=True, slots=True)
class Capture:
    """One item of a repository's history, as ``list NAME --json`` shows it.

    Attributes:
        head: the ref that HEAD names, or the id of a detached one.
        chain: the bundles in the order to apply.
    """

    snapshot: str
    captured_at: str
    head: bytes | None
    refs: Mapping[bytes, bytes]
    chain: tuple[Path, ...]


def run_into(vault: Path, *sources: Path | str, code: int = 0, extra: tuple[str, ...] = ()) -> Any:
    """Back up into a vault with the real program, and return its JSON report."""
    named = [word for source in sources for word in ("--from", source)]
    return repo_backup("run", *named, "--to", vault, "--json", *extra, check=code).json


def run_at(
    moment: datetime,
    source: Source,
    destination: Destination,
    options: RunOptions | None = None,
) -> RunReport:
    """Back up within this process, with a clock that stands still.

    The destination has the same clock, unless it is a `Timed` one already.
    """
    timed = destination if isinstance(destination, Timed) else Timed(destination, lambda: moment)
    return run(
        [source],
        timed,
        options or RunOptions(),
        events=Silence(),
        stop=Stop(),
        clock=lambda: moment,
    )


def history(vault: Path, repository: str) -> list[Capture]:
    """Read the captures of one repository, the newest last, from what ``list --json`` prints."""
    answer = history_document(list_history(FolderDestination(vault), repository))
    return captures_of(json.loads(json.dumps(answer)))


def captures_of(document: Any) -> list[Capture]:
    """Take apart what ``list NAME --json`` printed."""
    return [
        Capture(
            snapshot=item["snapshot"],
            captured_at=item["captured_at"],
            head=None if item["head"] is None else _bytes(item["head"]),
            refs={_bytes(name): _bytes(oid) for name, oid in item["refs"].items()},
            chain=tuple(Path(uri) for uri in item["chain"]),
        )
        for item in document["history"]
    ]


def restored(vault: Path, target: Path, repository: str, *, at: str | None = None) -> Path:
    """Restore one repository with the real program."""
    when = [] if at is None else ["--at", at]
    repo_backup("restore", repository, target, "--from", vault, *when)
    return target


def to_be_kept(path: Path, *, pull_refs: bool = False) -> MirrorState:
    """Read what a backup must give back of a repository: all but what its forge hides.

    Args:
        path: the repository.
        pull_refs: keep the heads of pull and merge requests too, but not their merges.
    """
    listed = git("for-each-ref", "--format=%(refname)", cwd=path).splitlines()
    hidden = [name for name in listed if name.startswith(HIDDEN_REFS)]
    if pull_refs:
        heads = {n for n in hidden if n.startswith(PULL_HEADS) and n.endswith(b"/head")}
        hidden = [name for name in hidden if name not in heads]
    return replace(mirror_state(path, hidden), ignore=())


class PlainMirror:
    """A mirror that follows a chain with ``git fetch`` alone, as someone without us would.

    Bundles are applied as the reference says, one after another and nothing else, so that a
    bundle which leans on more than the refs of the one before it is refused.
    """

    def __init__(self, path: Path, object_format: str = "sha1") -> None:
        self.path = init_bare(path, object_format)
        self._last: Path | None = None

    def apply(self, bundle: Path) -> None:
        """Take the next bundle.

        Raises:
            GitFailed: git refused it.
            AssertionError: it demands something that is no commit.
        """
        needed = prerequisites(bundle)
        asked = b"".join(oid + b"\n" for oid in needed)
        kinds = git("cat-file", "--batch-check=%(objecttype)", cwd=self.path, input=asked)
        assert set(kinds.split()) <= {b"commit"}, f"{bundle} demands {kinds.split()}"
        git("fetch", "--quiet", "--prune", bundle.resolve(), "+refs/*:refs/*", cwd=self.path)
        self._last = bundle

    def assert_gives(self, expected: MirrorState) -> None:
        """Fail unless what was applied is this state, once HEAD is set as the record has it."""
        if expected.head_symref is not None:
            set_head(self.path, expected.head_symref)
            assert_same_mirror(self.path, expected)
            return
        assert expected.head_id is not None
        # In a copy: what a detached HEAD needs must not be there for the next bundle.
        with tempfile.TemporaryDirectory(dir=self.path.parent) as folder:
            mirror = Path(folder) / "mirror.git"
            shutil.copytree(self.path, mirror)
            if self._last is not None:
                git("fetch", "--quiet", self._last.resolve(), "HEAD", cwd=mirror)
            set_head(mirror, expected.head_id)
            assert_same_mirror(mirror, expected)


def plain_mirror(chain: tuple[Path, ...], path: Path, object_format: str = "sha1") -> PlainMirror:
    """Apply a whole chain by plain git."""
    mirror = PlainMirror(path, object_format)
    for bundle in chain:
        mirror.apply(bundle)
    return mirror


def prerequisites(bundle: Path) -> list[bytes]:
    """Read the ids that a bundle's header demands."""
    return [line[1:].split()[0] for line in _header(bundle) if line.startswith(b"-")]


def objects_in_pack(bundle: Path, scratch: Path) -> frozenset[bytes]:
    """Index a bundle's pack on its own, away from every repository, and list its objects.

    Raises:
        GitFailed: the pack leans on objects outside of it, or is damaged.
    """
    data = bundle.read_bytes()
    sha256 = b"@object-format=sha256" in _header(bundle)
    pack = scratch / f"{bundle.name}.pack"
    pack.write_bytes(data[data.index(b"\n\n") + 2 :])
    index = pack.with_suffix(".idx")
    kind = f"--object-format={'sha256' if sha256 else 'sha1'}"
    git("index-pack", kind, "-o", index, pack, cwd=scratch)
    shown = git("show-index", kind, cwd=scratch, input=index.read_bytes())
    return frozenset(line.split()[1] for line in shown.splitlines())


def files(vault: Path) -> set[Path]:
    """List every file in a vault's folder."""
    return {path for path in vault.rglob("*") if path.is_file()}


def _header(bundle: Path) -> list[bytes]:
    return bundle.read_bytes().partition(b"\n\n")[0].split(b"\n")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")
