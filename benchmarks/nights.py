"""Writes a vault as many nights would have left it, without living them.

Every document is made by the program's own codec. The nights' manifests differ in ids and times
alone, so one is encoded and the others are made of its text: a real one of 10,000 repositories
takes half a second, and there are hundreds. The bundles that records name do not exist.
"""

import gzip
import hashlib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

from backup.model import BundleKind, Key
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
)
from backup.vault.layout import DocumentName, Layout, bundle_key, record_key, repository_folder

HOST = "git"
CHAIN = 30
REFS = 50
_VERSION = "0"
_HOUR = 3


def write_nights(folder: Path, *, owner: str, repositories: int, nights: int) -> str:
    """Write manifests of so many nights and the records of one repository that changed in each.

    Args:
        folder: the vault.
        owner: whose it is.
        repositories: how many each manifest has.
        nights: the last of them was yesterday.

    Returns:
        The name of the repository that changed.
    """
    layout = Layout.of(host=HOST, owner=owner)
    today = datetime.now(UTC).replace(hour=_HOUR, minute=0, second=0, microsecond=0)
    times = [today - timedelta(days=nights - number) for number in range(nights)]
    first = _Night(times[0])
    entries = [_entry(first, number) for number in range(repositories)]
    model = gzip.decompress(encode(_manifest(first, owner, entries))).decode()
    for key, record in _records(owner, times):
        _write(folder, layout.key(key), encode(record))
    for time in times:
        night = _Night(time)
        text = model.replace(first.id, night.id).replace(first.day, night.day)
        data = gzip.compress(text.encode(), compresslevel=6, mtime=0)
        _write(folder, layout.document(DocumentName(night.id)), data)
    return f"{owner}/{entries[0].path}"


class _Night:
    """The names of one night."""

    def __init__(self, time: datetime) -> None:
        self.time = time
        self.day = f"{time:%Y-%m-%d}"
        self.id = f"{time:%Y%m%dT%H%M%SZ}-{_digest(self.day)[:8]}"


def _manifest(night: _Night, owner: str, entries: list[Entry]) -> Manifest:
    count = len(entries)
    return Manifest(
        format=FORMAT,
        document="manifest",
        snapshot_id=night.id,
        started_at=night.time,
        finished_at=night.time + timedelta(minutes=9),
        version=_VERSION,
        source=SourceLine(provider="git", host=HOST, owner=owner),
        complete=True,
        result="success",
        totals=Totals(listed=count, selected=count, captured=1, unchanged=count - 1),
        accepted=count,
        entries=tuple(entries),
    )


def _entry(night: _Night, number: int) -> Entry:
    """Make an entry; the first repository's record is the night's own."""
    path, host_id = _names(number)
    made_by = night.id if number == 0 else f"{night.id[:8]}T010101Z-{_digest(path)[:8]}"
    return Entry(
        host_id=host_id,
        path=path,
        digest=_digest(host_id),
        record=record_key(repository_folder(path=path, host_id=host_id), made_by),
        checked_at=night.time + timedelta(seconds=number // 100),
        captured_at=night.time,
        status="captured" if number == 0 else "unchanged",
        plan="incremental" if number == 0 else None,
    )


def _records(owner: str, times: list[datetime]) -> Iterator[tuple[Key, Record]]:
    path, host_id = _names(0)
    folder = repository_folder(path=path, host_id=host_id)
    chain: list[BundleLine] = []
    previous: str | None = None
    for number, time in enumerate(times):
        night = _Night(time)
        if number % CHAIN == 0:
            chain = []
        chain.append(_bundle(folder, night, first=not chain))
        key = record_key(folder, night.id)
        tips = [RefLine(name=f"refs/heads/{n:03}", id=_oid(night.id, n)) for n in range(REFS)]
        yield (
            key,
            Record(
                format=FORMAT,
                document="record",
                snapshot_id=night.id,
                version=_VERSION,
                repository=RepositoryLine(host=HOST, owner=owner, path=path, host_id=host_id),
                captured_at=time,
                object_format="sha1",
                digest=_digest(night.id),
                head=HeadLine(symref=tips[0].name, id=tips[0].id),
                refs=tuple(tips),
                chain=tuple(chain),
                previous=previous,
            ),
        )
        previous = key


def _bundle(folder: str, night: _Night, *, first: bool) -> BundleLine:
    kind: BundleKind = "full" if first else "incremental"
    return BundleLine(
        key=bundle_key(folder, night.id, kind),
        kind=kind,
        snapshot_id=night.id,
        size_bytes=10_000_000 if first else 10_000,
        sha256=_digest(f"bundle {night.id}"),
        objects=10_000 if first else 10,
        check="connected" if first else "pack",
        header_bytes=60 * REFS,
        prerequisites=() if first else (_oid(night.id, REFS),),
    )


def _names(number: int) -> tuple[str, str]:
    path = f"repository-{number:05}"
    return path, _digest(path)[:16]


def _oid(text: str, number: int) -> str:
    return _digest(f"{text} {number}")[:40]


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _write(folder: Path, key: Key, data: bytes) -> None:
    path = folder / key
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
