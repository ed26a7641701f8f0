"""Compares repo-backup with what people do otherwise, side by side over one folder of repositories.

Every competitor is a program of its own and so is repo-backup: what is measured is what a user
would wait for. The repositories are only read; what must change is changed in copies. What each
row does and why it is fair is told in docs/benchmarks.md.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from backup.git.pktline import DELIMITER, FLUSH, encode_line
from backup.model import Refs
from benchmarks.bench import (
    LIST,
    LIST_ONE,
    LS_REMOTE,
    MIRROR,
    PACK,
    RESTORE,
    Bench,
    parser,
    run_benchmark,
)
from benchmarks.measure import CommandFailed, contents, measure, written
from benchmarks.rows import Sample, megabytes
from benchmarks.subjects import OWNER, Subject, advance_one, branch_of, copy_all, make_many, refs_of

CHAINED_REPOSITORIES = 5


class FolderBench(Bench):
    """From a folder of repositories into a folder."""

    script_name = "clone and copy"

    def source(self, subject: Subject) -> str:
        return f"git:{subject.repository.clone_url}"

    def sources(self, place: Path, subjects: Sequence[Subject]) -> list[str]:
        return [os.fspath(place)]

    def copies(self, subjects: Sequence[Subject]) -> tuple[Path, list[Subject]]:
        place = self.fresh("copies")
        return place, copy_all(subjects, place)

    def fresh_vault(self) -> Path:
        return self.fresh("vault")

    def vault_name(self, vault: Path) -> str:
        return os.fspath(vault)

    def file_of(self, uri: str) -> Path:
        return Path(uri)

    def download(self) -> Callable[[], Sample]:
        return Download(self).measure

    def upload(self, clones: Path) -> Sample:
        dated = self.fresh("dated")
        cost, _ = measure(["cp", "-R", f"{clones}/.", dated], environment=self.environment)
        count, size = written({}, contents(dated))
        self._forget(dated)
        return Sample(cost, count, size)

    def chain(self) -> None:
        """Restore and listing after many nights, each of which changed every repository."""
        nights = self.settings.nights
        row = self._row("chain", f"A chain of {nights} nights", (MIRROR,))
        row.alone = (PACK, LIST, LIST_ONE)
        place = self.fresh("copies")
        by_size = sorted(self.subjects, key=lambda one: one.size_bytes)
        middle = max(0, (len(by_size) - CHAINED_REPOSITORIES) // 2)
        subjects = copy_all(by_size[middle : middle + CHAINED_REPOSITORIES], place)
        subjects = [one for one in subjects if branch_of(one, self.environment)]
        vault, sources = self.fresh_vault(), self.sources(place, subjects)
        bound = ("--max-chain-length", str(nights + 1))
        self.run(sources, vault, *bound)
        for _ in range(nights - 1):
            for subject in subjects:
                advance_one(subject, self.environment)
            self._add(row, PACK, self.run(sources, vault, *bound, captured=len(subjects)))
        name = f"{OWNER}/{subjects[0].repository.path}"
        lengths = [len(self.history(vault, one)[-1]["chain"]) for one in subjects]
        row.notes.append(
            f"{len(subjects)} repositories, chains of {min(lengths)} to {max(lengths)} bundles; "
            f"{PACK} is one of the nights"
        )
        self._rounds(
            row,
            {
                MIRROR: lambda: self._mirror_and_forget(subjects),
                RESTORE: lambda: self.restore_all(vault, expected=len(subjects)),
                LIST: lambda: self.show(vault, expected=nights),
                LIST_ONE: lambda: self.show(vault, name, expected=nights),
            },
        )
        self._promise("restore of chains / clone --mirror", row.ratio(RESTORE, MIRROR), 1.3)
        for folder in (place, vault):
            self._forget(folder)

    def many(self) -> None:
        """A great number of tiny repositories that do not change."""
        number = self.settings.many
        row = self._row("many", f"{number:,} tiny repositories, unchanged", (LS_REMOTE,))
        row.alone = (LIST,)
        place, vault = self.fresh("many"), self.fresh_vault()
        sources = [os.fspath(place)]
        make_many(place, number, self.environment)
        sample = self.run(sources, vault, "--check", "trailer", captured=number)
        row.notes.append(
            f"their first night (--check trailer) took {sample.cost.seconds:.1f} s and "
            f"{megabytes(sample.cost.own_memory_bytes or 0)} MB"
        )
        jobs = [["ls-remote", "--quiet", one.as_uri()] for one in sorted(place.iterdir())]
        self._rounds(
            row,
            {
                LS_REMOTE: lambda: self._sample(lambda: self._git_each(jobs), place),
                # What was not searched for files of Git LFS would be now.
                PACK: lambda: self.run(sources, vault, "--check", "trailer", unchanged=number),
                LIST: lambda: self.show(vault, expected=None),
            },
        )
        best = row.best(PACK)
        row.notes.append(f"the manifest has {best.bytes_written:,} bytes")
        self._promise_memory(row, PACK, 400_000_000)
        self._promise_requests(f"{number:,} unchanged", best, number)
        self._promise_bytes(f"{number:,} unchanged: manifest", best.bytes_written, 1_000_000)
        for folder in (place, vault):
            self._forget(folder)


class Download:
    """The packs of a first night, sent by git and thrown away by what received them.

    The requests are made beforehand. The receiver is ``wc -c``: it reads a pipe and does nothing
    else that costs, and its count shows that the packs came.
    """

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._folder = bench.fresh("requests")
        self._jobs: list[str] = []
        for number, subject in enumerate(bench.subjects):
            refs = refs_of(subject)
            if refs.wanted():
                request = self._folder / str(number)
                request.write_bytes(fetch_request(refs))
                self._jobs += [os.fspath(subject.git_directory), os.fspath(request)]

    def measure(self) -> Sample:
        send = 'git upload-pack --strict "$1" < "$2" || : > "$2.failed"'
        at_once = str(self._bench.settings.concurrency)
        each = ["sh", "-c", f"{{ {send}; }} | wc -c", "sh"]
        cost, counts = self._bench.git(
            ["xargs", "-0", "-n", "2", "-P", at_once, *each],
            stdin="".join(f"{word}\0" for word in self._jobs),
            GIT_PROTOCOL="version=2",
        )
        if any(self._folder.glob("*.failed")):
            raise CommandFailed("git upload-pack failed")
        return Sample(cost, 0, sum(map(int, counts.split())))


def fetch_request(refs: Refs) -> bytes:
    """Ask for everything, as repo-backup does. Source: gitprotocol-v2(5), fetch."""
    head = [b"command=fetch", b"object-format=" + refs.object_format.encode()]
    asked = [b"ofs-delta", b"no-progress"]
    asked += [b"want " + oid.encode() for oid in refs.wanted()]
    lines = [*map(encode_line, head), DELIMITER, *map(encode_line, [*asked, b"done"])]
    return b"".join((*lines, FLUSH))


# --- the door

ROWS: Mapping[str, Callable[[FolderBench], None]] = {
    "first": FolderBench.first,
    "unchanged": FolderBench.unchanged,
    "changed": FolderBench.changed,
    "restore": FolderBench.restore,
    "largest": FolderBench.largest,
    "chain": FolderBench.chain,
    "many": FolderBench.many,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is asked for and print it."""
    asked = parser("benchmarks.folder", __doc__, ROWS, nights=50).parse_args(arguments)
    return run_benchmark(FolderBench, ROWS, asked)


if __name__ == "__main__":
    sys.exit(main())
