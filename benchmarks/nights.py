"""A vault as many nights would have left it, without living them.

Every document is made by the program's own models. The entries of a manifest differ from those of
the night before in their times alone, but for what was captured meanwhile; so each is written once
for each capture, and a manifest is put together of their texts. The bundles that records name exist
as a name and a size.
"""

import gzip
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from backup.model import BundleKind, ObjectId, Refs
from backup.vault.documents import (
    FORMAT,
    BundleLine,
    Entry,
    HeadLine,
    Manifest,
    Record,
    RefLine,
    RepositoryLine,
    SourceLine,
    Totals,
    encode,
    refs_digest,
)
from backup.vault.layout import DocumentName, Layout, bundle_key, record_key, repository_folder

HOST = "git"
CHAIN = 30
REFS = 10
_VERSION = "0"
_FULL_BYTES, _INCREMENT_BYTES = 10_000_000, 10_000
# A listing tells a record's size, which nobody compares.
_RECORD_BYTES = 1000


@dataclass(frozen=True)
class Nights:
    """So many nights of so many repositories, each of which was captured some thirty times.

    Attributes:
        last: the time of the last night.
    """

    owner: str
    repositories: int
    nights: int
    last: datetime

    @classmethod
    def until_now(cls, owner: str, *, repositories: int, nights: int) -> "Nights":
        """Let the last one have been an hour ago."""
        now = datetime.now(UTC).replace(second=0, microsecond=0)
        return cls(owner, repositories, nights, now - timedelta(hours=1))

    @property
    def layout(self) -> Layout:
        return Layout.of(host=HOST, owner=self.owner)

    @property
    def step(self) -> int:
        """Every so many nights a repository changed."""
        return max(1, self.nights // CHAIN)

    def captures(self, number: int) -> range:
        """Tell the nights in which a repository changed."""
        return range(number % self.step, self.nights, self.step)

    def name_of(self, number: int) -> str:
        """Name a repository as people do."""
        return f"{self.owner}/{_path(number)}"

    def listed(self) -> Iterator[tuple[str, int]]:
        """Yield key and size of every bundle and record."""
        for number in range(self.repositories):
            folder = self._folder(number)
            for count, night in enumerate(self.captures(number)):
                size = _INCREMENT_BYTES if count else _FULL_BYTES
                key = bundle_key(folder, self._id(night), _kind(count))
                yield self.layout.key(key), size
                yield self.layout.key(record_key(folder, self._id(night))), _RECORD_BYTES

    def manifests(self) -> Iterator[tuple[str, bytes]]:
        """Yield key and content of every night's manifest, the oldest first."""
        texts: dict[int, str] = {}
        for night in range(self.nights):
            for number in range(night % self.step, self.repositories, self.step):
                texts[number] = self._entry(number, night).model_dump_json(exclude_defaults=True)
            key = self.layout.document(DocumentName(self._id(night)))
            head, tail = self._frame(night).rsplit("[]", 1)
            checked = self._time(night).isoformat().replace("+00:00", "Z")
            entries = ",".join(texts.values()).replace(_ANY_TIME_TEXT, checked)
            yield key, gzip.compress(f"{head}[{entries}]{tail}".encode(), compresslevel=3, mtime=0)

    def record(self, key: str) -> bytes:
        """Make the record of a key, which is one of those that are listed."""
        path, _, name = key.removeprefix(f"{self.layout.prefix}repositories/").split("/")
        return self._records(int(path.removeprefix("repository-")))[name]

    @lru_cache(maxsize=2)  # noqa: B019 - one of these lives as long as its process
    def _records(self, number: int) -> dict[str, bytes]:
        folder, nights = self._folder(number), self.captures(number)
        chain: list[BundleLine] = []
        made: dict[str, bytes] = {}
        previous: str | None = None
        for count, night in enumerate(nights):
            chain.append(self._bundle(folder, night, count))
            key = record_key(folder, self._id(night))
            # Only the newest of a chain is read, and all of one repository.
            if night == nights[-1] or number == 0:
                made[key.rpartition("/")[2]] = encode(self._record(number, night, chain, previous))
            previous = key
        return made

    def _record(
        self, number: int, night: int, chain: list[BundleLine], previous: str | None
    ) -> Record:
        tips = [
            RefLine(name=f"refs/heads/{n:03}", id=_oid(self._id(night), n)) for n in range(REFS)
        ]
        refs = Refs(
            tips={line.ref_name: ObjectId(line.id) for line in tips},
            head_symref=tips[0].ref_name,
            head_id=ObjectId(tips[0].id),
        )
        return Record(
            format=FORMAT,
            document="record",
            snapshot_id=self._id(night),
            version=_VERSION,
            repository=RepositoryLine(
                host=HOST, owner=self.owner, path=_path(number), host_id=_host_id(number)
            ),
            captured_at=self._time(night),
            object_format="sha1",
            digest=refs_digest(refs),
            head=HeadLine(symref=tips[0].name, id=tips[0].id),
            refs=tuple(tips),
            chain=tuple(chain),
            previous=previous,
        )

    def _bundle(self, folder: str, night: int, count: int) -> BundleLine:
        return BundleLine(
            key=bundle_key(folder, self._id(night), _kind(count)),
            kind=_kind(count),
            snapshot_id=self._id(night),
            size_bytes=_INCREMENT_BYTES if count else _FULL_BYTES,
            sha256=_digest(f"bundle {night}"),
            objects=10 if count else 10_000,
            check="pack" if count else "connected",
            header_bytes=60 * REFS,
            prerequisites=(_oid("before", night),) if count else (),
        )

    def _frame(self, night: int) -> str:
        there = min(self.repositories, night + 1) if night < self.step else self.repositories
        manifest = Manifest(
            format=FORMAT,
            document="manifest",
            snapshot_id=self._id(night),
            started_at=self._time(night),
            finished_at=self._time(night) + timedelta(minutes=9),
            version=_VERSION,
            source=SourceLine(provider="git", host=HOST, owner=self.owner),
            complete=True,
            result="success",
            totals=Totals(listed=there, selected=there),
            accepted=there,
            # Those of runs that may have been under way beside it.
            merged=tuple(
                DocumentName(self._id(one)).stem for one in range(max(0, night - 7), night)
            ),
            entries=(),
        )
        return manifest.model_dump_json(exclude_defaults=True)

    def _entry(self, number: int, night: int) -> Entry:
        captures = self.captures(number).index(night)
        return Entry(
            host_id=_host_id(number),
            path=_path(number),
            digest=_digest(self._id(night)),
            record=record_key(self._folder(number), self._id(night)),
            checked_at=_ANY_TIME,
            captured_at=self._time(night),
            chain_length=captures + 1,
            chain_bytes=_FULL_BYTES + captures * _INCREMENT_BYTES,
            status="unchanged",
        )

    def _folder(self, number: int) -> str:
        return repository_folder(path=_path(number), host_id=_host_id(number))

    def _time(self, night: int) -> datetime:
        return self.last - timedelta(days=self.nights - 1 - night)

    def _id(self, night: int) -> str:
        return f"{self._time(night):%Y%m%dT%H%M%SZ}-{_digest(str(night))[:8]}"


_ANY_TIME = datetime(1999, 1, 1, tzinfo=UTC)
_ANY_TIME_TEXT = "1999-01-01T00:00:00Z"


def _kind(count: int) -> BundleKind:
    return "incremental" if count else "full"


def _path(number: int) -> str:
    return f"repository-{number:05}"


def _host_id(number: int) -> str:
    return _digest(_path(number))[:16]


def _oid(text: str, number: int) -> str:
    return _digest(f"{text} {number}")[:40]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
