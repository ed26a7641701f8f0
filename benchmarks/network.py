"""Compares repo-backup with what people do otherwise, from git over HTTP into a store.

The same rows as benchmarks.folder has, with servers between: git's http-backend and rclone's S3
server, on this machine, each a process of its own whose cost no row counts. What each row does and
why it is fair is told in docs/benchmarks.md.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Self
from urllib.parse import quote

from benchmarks.bench import (
    LIST,
    LIST_ONE,
    PACK,
    PRUNE,
    STATUS,
    VERIFY,
    Bench,
    Settings,
    parser,
    run_benchmark,
)
from benchmarks.measure import Cost, contents, measure, written
from benchmarks.nights import CHAIN
from benchmarks.rows import Sample, megabytes
from benchmarks.servers import BUCKET, git_server_of, reached_at, store_of
from benchmarks.shelf import shelf_of
from benchmarks.subjects import OWNER, Subject, copy_all, make_many
from tests.support.proxy import FaultProxy

# docs/how-to/use-a-bucket.md: parts that a capture holds, and the size of each up to 16 GiB.
PARTS, PART_BYTES = 4, 8 << 20
LARGE_VAULT_MEMORY_BYTES = 400_000_000
LOAD = (sys.executable, "-m", "benchmarks.load")


class NetworkBench(Bench):
    """From git over HTTP into a bucket."""

    script_name = "clone and sync"

    def __init__(self, root: Path, scratch: Path, settings: Settings) -> None:
        super().__init__(root, scratch, settings)
        self._scratch = scratch
        self.memory_bytes = Bench.memory_bytes + settings.concurrency * PARTS * PART_BYTES

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            self._git_url = stack.enter_context(git_server_of(self._scratch))
            self._store = stack.enter_context(store_of(self.fresh("store")))
            self.environment |= self._store.environment
            self.place, self.subjects = self.copies(self.subjects)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    # --- what differs

    def source(self, subject: Subject) -> str:
        return f"git:{subject.url}"

    def sources(self, place: Path, subjects: Sequence[Subject]) -> list[str]:
        return [self.source(subject) for subject in subjects]

    def copies(self, subjects: Sequence[Subject]) -> tuple[Path, list[Subject]]:
        # A repository named by URL is called by the last part of it.
        place = self.fresh("served")
        flat = [
            replace(one, repository=replace(one.repository, path=_flat(one.repository.path)))
            for one in subjects
        ]
        made = copy_all(flat, place)
        return place, [replace(one, url=self._url_of(one.git_directory)) for one in made]

    def fresh_vault(self) -> Path:
        # Only rclone makes folders in the bucket: it remembers which there are.
        return self._store.folder / self.fresh("vault").parent.name / "vault"

    def vault_name(self, vault: Path) -> str:
        return f"s3://{BUCKET}/{vault.relative_to(self._store.folder)}"

    def file_of(self, uri: str) -> Path:
        return self._store.folder / uri.removeprefix(f"s3://{BUCKET}/")

    def download(self) -> Callable[[], Sample]:
        urls = [subject.url for subject in self.subjects]
        argv = [*LOAD, "download", str(self.settings.concurrency), *urls]

        def measured() -> Sample:
            cost, said = measure(argv, environment=self.environment)
            return Sample(cost, 0, int(said))

        return measured

    def upload(self, clones: Path) -> Sample:
        dated = self.fresh_vault()
        cost = self._sync(clones, dated)
        count, size = written({}, contents(dated))
        self._forget(dated)
        return Sample(cost, count, size)

    # --- the rows that only this has

    def many(self) -> None:
        """A great number of tiny repositories that do not change."""
        number = self.settings.many
        row = self._row("many", f"{number:,} tiny repositories, unchanged", ())
        place, vault = self.fresh("many"), self.fresh_vault()
        make_many(place, number, self.environment)
        sources = [f"git:{self._url_of(place / f'{count}.git')}" for count in range(number)]
        sample = self.run(sources, vault, "--check", "trailer", captured=number)
        row.notes.append(
            f"their first night (--check trailer) took {sample.cost.seconds:.1f} s and "
            f"{megabytes(sample.cost.own_memory_bytes or 0)} MB"
        )
        # What was not searched for files of Git LFS would be now.
        words = ("--check", "trailer")
        self._rounds(row, {PACK: lambda: self.run(sources, vault, *words, unchanged=number)})
        best = row.best(PACK)
        row.notes.append(f"the manifest has {best.bytes_written:,} bytes")
        self._promise_memory(row, PACK, LARGE_VAULT_MEMORY_BYTES)
        self._promise_requests(f"{number:,} unchanged", best, number)
        self._promise_bytes(f"{number:,} unchanged: manifest", best.bytes_written, 1_000_000)
        for folder in (place, vault):
            self._forget(folder)

    def snapshots(self) -> None:
        """What reading commands cost in a vault of many repositories and many nights."""
        number, nights = self.settings.many, self.settings.nights
        title = f"{nights} snapshots of {number:,} repositories, chains of {CHAIN}"
        row = self._row("snapshots", title, ())
        vault = f"s3://{BUCKET}"
        name = f"{OWNER}/repository-00000"
        variants: dict[str, Callable[[], Sample]] = {
            LIST: lambda: self.show(vault, expected=nights),
            LIST_ONE: lambda: self.show(vault, name, expected=None),
            STATUS: lambda: self.look("status", vault),
            VERIFY: lambda: self.look("verify", vault),
            PRUNE: lambda: self.look("prune", vault, "--keep-daily", "30", "--dry-run"),
        }
        own = self.environment
        with shelf_of(OWNER, repositories=number, nights=nights) as (url, said):
            row.notes.append(said)
            try:
                self.environment = own | reached_at(url)
                self._rounds(row, variants)
                for variant, act in variants.items():
                    self._promise_memory(row, variant, LARGE_VAULT_MEMORY_BYTES)
                    # Counted by looking at the wire, in a run whose time does not count.
                    with FaultProxy(url) as proxy:
                        self.environment = own | reached_at(proxy.url)
                        act()
                        row.notes.append(f"{variant} makes {len(proxy.requests):,} requests")
            finally:
                self.environment = own

    def _sync(self, folder: Path, vault: Path) -> Cost:
        prefix = str(vault.relative_to(self._store.folder))
        argv = [*LOAD, "sync", os.fspath(folder), BUCKET, prefix]
        cost, _ = measure(argv, environment=self.environment)
        return cost

    def _url_of(self, folder: Path) -> str:
        relative = folder.relative_to(self._scratch.resolve())
        return f"{self._git_url}/{quote(str(relative))}"


def _flat(path: str) -> str:
    return path.replace("/", "-")


ROWS: Mapping[str, Callable[[NetworkBench], None]] = {
    "first": NetworkBench.first,
    "unchanged": NetworkBench.unchanged,
    "changed": NetworkBench.changed,
    "restore": NetworkBench.restore,
    "largest": NetworkBench.largest,
    "many": NetworkBench.many,
    "snapshots": NetworkBench.snapshots,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what is asked for and print it."""
    asked = parser("benchmarks.network", __doc__, ROWS, nights=400).parse_args(arguments)
    return run_benchmark(NetworkBench, ROWS, asked)


if __name__ == "__main__":
    sys.exit(main())
