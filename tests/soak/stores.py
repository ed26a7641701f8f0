"""The store that the vault lies in, reached from below: what damages it goes past the program."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Protocol
from unittest.mock import patch
from uuid import uuid4

from backup.destinations.folder import FolderDestination
from backup.destinations.s3.destination import S3Destination
from backup.destinations.s3.settings import S3Settings
from backup.model import Destination, Key, ObjectVersions
from backup.stopping import Stop
from tests.soak.times import SimulatedTime
from tests.support.s3server import S3Server, moto_server
from tests.support.times import Timed

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client


class Store(Protocol):
    """A store and its back door.

    Attributes:
        destination: as the program has it.
        is_versioned: whether what is overwritten or hidden is still there.
    """

    is_versioned: bool

    @property
    def destination(self) -> Timed: ...

    def keys(self, prefix: str = "") -> list[str]:
        """List what can be seen, in order."""

    def read(self, key: str) -> bytes:
        """Read what can be seen."""

    def put(self, key: str, data: bytes) -> None:
        """Write, over whatever is there."""

    def remove(self, key: str) -> None:
        """Remove an object with all that was ever there."""

    def hide(self, key: str) -> None:
        """Delete an object as the store's own tools do; where there are versions that hides it."""

    def show(self, key: str) -> None:
        """Undo that."""

    def tidy(self) -> None:
        """Do what the bucket's own rules do now and then."""


class FolderStore:
    is_versioned = False

    def __init__(self, root: Path, time: SimulatedTime) -> None:
        self._root = root
        self._time = time
        self.destination = Timed(FolderDestination(root), time.true)

    def keys(self, prefix: str = "") -> list[str]:
        found = (path for path in (self._root / prefix).rglob("*") if path.is_file())
        names = (path.relative_to(self._root).as_posix() for path in found)
        return sorted(name for name in names if not name.startswith(".partial/"))

    def read(self, key: str) -> bytes:
        return (self._root / key).read_bytes()

    def put(self, key: str, data: bytes) -> None:
        path = self._root / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        moment = self._time.true().timestamp()
        os.utime(path, (moment, moment))

    def remove(self, key: str) -> None:
        (self._root / key).unlink()

    def hide(self, key: str) -> None:
        self.remove(key)

    def show(self, key: str) -> None:
        raise NotImplementedError(f"nothing is left of {key}")

    def tidy(self) -> None:
        """There is nothing to do."""


class _Versioned(Timed):
    """Dates the versions, too, that were written first."""

    def __init__(self, inner: Destination, time: SimulatedTime, times: dict[Key, datetime]) -> None:
        super().__init__(inner, time.true, times)
        self._now_written = times
        self.first_written: dict[Key, datetime] = {}

    def versions(self, prefix: str) -> Iterator[ObjectVersions]:
        for one in super().versions(prefix):
            moment = self.first_written.get(one.key, self._now_written.get(one.key))
            yield replace(one, stored_at=moment)


class BucketStore:
    is_versioned = True
    _PREFIX = "git"

    def __init__(
        self, client: "S3Client", bucket: str, server: S3Server, time: SimulatedTime
    ) -> None:
        self._client = client
        self._bucket = bucket
        self.inner = S3Destination(
            S3Settings(bucket, prefix=self._PREFIX, endpoint_url=server.endpoint_url), stop=Stop()
        )
        self._time = time
        self._times: dict[Key, datetime] = {}
        self.destination = _Versioned(self.inner, time, self._times)
        self._hidden: set[str] = set()

    def keys(self, prefix: str = "") -> list[str]:
        pages = self._client.get_paginator("list_objects_v2").paginate(
            Bucket=self._bucket, Prefix=f"{self._PREFIX}/{prefix}"
        )
        return sorted(
            one["Key"].removeprefix(f"{self._PREFIX}/")
            for page in pages
            for one in page.get("Contents", ())
        )

    def read(self, key: str) -> bytes:
        answer = self._client.get_object(Bucket=self._bucket, Key=f"{self._PREFIX}/{key}")
        return answer["Body"].read()

    def put(self, key: str, data: bytes) -> None:
        self._client.put_object(Bucket=self._bucket, Key=f"{self._PREFIX}/{key}", Body=data)
        if Key(key) in self._times:
            self.destination.first_written.setdefault(Key(key), self._times[Key(key)])
        self._times[Key(key)] = self._time.true()

    def remove(self, key: str) -> None:
        for version in self._versions(f"{self._PREFIX}/{key}"):
            self._client.delete_object(
                Bucket=self._bucket, Key=f"{self._PREFIX}/{key}", VersionId=version
            )
        self._times.pop(Key(key), None)
        self.destination.first_written.pop(Key(key), None)

    def hide(self, key: str) -> None:
        self._client.delete_object(Bucket=self._bucket, Key=f"{self._PREFIX}/{key}")
        self._hidden.add(key)

    def show(self, key: str) -> None:
        name = f"{self._PREFIX}/{key}"
        page = self._client.list_object_versions(Bucket=self._bucket, Prefix=name)
        for one in page.get("DeleteMarkers", ()):
            self._client.delete_object(Bucket=self._bucket, Key=name, VersionId=one["VersionId"])
        self._hidden.discard(key)

    def tidy(self) -> None:
        """Remove the versions of what prune has deleted, as a rule for old versions does."""
        there = set(self.keys()) | self._hidden
        pages = self._client.get_paginator("list_object_versions").paginate(Bucket=self._bucket)
        items = [
            (one["Key"], one["VersionId"])
            for page in pages
            for one in (*page.get("Versions", ()), *page.get("DeleteMarkers", ()))
        ]
        for key, version in items:
            if key.removeprefix(f"{self._PREFIX}/") not in there:
                self._client.delete_object(Bucket=self._bucket, Key=key, VersionId=version)

    def _versions(self, name: str) -> list[str]:
        page = self._client.list_object_versions(Bucket=self._bucket, Prefix=name)
        items = (*page.get("Versions", ()), *page.get("DeleteMarkers", ()))
        return [one["VersionId"] for one in items if one["Key"] == name]


@contextmanager
def opened(
    kind: str, folder: Path, time: SimulatedTime, server: S3Server | None = None
) -> Iterator[Store]:
    """Make an empty store: ``folder``, or ``bucket`` for one with versions."""
    if kind == "folder":
        # No soak outlives a power cut.
        with patch("os.fsync", lambda _: None):
            yield FolderStore(folder / "vault", time)
    elif server is None:
        with moto_server(folder / "moto") as started:
            yield from _bucket(started, time)
    else:
        yield from _bucket(server, time)


def _bucket(server: S3Server, time: SimulatedTime) -> Iterator[Store]:
    name = f"soak-{uuid4().hex[:8]}"
    with patch.dict("os.environ", server.environment()), server.client() as client:
        server.make_bucket(name, versioned=True)
        store = BucketStore(client, name, server, time)
        try:
            yield store
        finally:
            store.inner.close()
