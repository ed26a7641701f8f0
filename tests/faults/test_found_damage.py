"""What verify says of damage: of the state that a restore would give, and only as far as it saw."""

import gzip
import hashlib
import json
import os
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from backup.commands.restore import RestoreRequest, restore
from backup.errors import IntegrityError
from backup.stopping import Stop
from tests.faults.test_known_damage import ROOT, Place, flip
from tests.faults.test_known_damage import place as place  # noqa: PLC0414  a fixture
from tests.support.git import git
from tests.support.vaults import Silence


def read_document(path: Path) -> Any:
    return json.loads(gzip.decompress(path.read_bytes()))


def write_document(path: Path, document: Any) -> None:
    before = path.stat() if path.exists() else None
    if before is not None:
        path.chmod(0o644)
    path.write_bytes(gzip.compress(json.dumps(document).encode()))
    if before is not None:
        os.utime(path, (before.st_atime, before.st_mtime))


def take_a_file_out(place: Place, name: str) -> None:
    """Take a file's object out of the newest bundle, and have the record say that it is right."""
    root = place.folder / "vault" / ROOT
    record = max(root.glob(f"repositories/{name}/*/*.record.json.gz"))
    document = read_document(record)
    line = document["chain"][-1]
    bundle, header_bytes = root / line["key"], line["header_bytes"]
    data = bundle.read_bytes()
    with tempfile.TemporaryDirectory() as made:
        mirror = Path(made) / "mirror.git"
        git("init", "-q", "--bare", str(mirror), cwd=Path(made))
        git("index-pack", "--stdin", cwd=mirror, input=data[header_bytes:])
        listed = git(
            "cat-file",
            "--batch-all-objects",
            "--batch-check=%(objectname) %(objecttype)",
            cwd=mirror,
        )
        objects = [row.split() for row in listed.decode().splitlines()]
        gone = next(oid for oid, kind in objects if kind == "blob")
        left = "".join(f"{oid}\n" for oid, _ in objects if oid != gone)
        pack = git("pack-objects", "--stdout", "-q", cwd=mirror, input=left.encode())
    made_new = data[:header_bytes] + pack
    bundle.chmod(0o644)
    bundle.write_bytes(made_new)
    line["size_bytes"], line["objects"] = len(made_new), len(objects) - 1
    line["sha256"] = hashlib.sha256(made_new).hexdigest()
    write_document(record, document)


def assert_cannot_be_restored(place: Place, name: str) -> None:
    target = place.folder / "broken" / f"{name}.git"
    request = RestoreRequest(repository=name, all=False, at=None, target=target)
    with pytest.raises(IntegrityError):
        restore(place.vault, request, events=Silence(), stop=Stop())


# --- Which record is the newest -------------------------------------------------------------------


def test_what_is_rebuilt_is_what_a_restore_gives_also_after_runs_that_overlapped(
    place: Place,
) -> None:
    sooner = f"{place.now + timedelta(minutes=70):%Y%m%dT%H%M%SZ}-aaaaaaaa"
    later = f"{place.now + timedelta(minutes=80):%Y%m%dT%H%M%SZ}-bbbbbbbb"
    place.now += timedelta(minutes=30)
    place.push("one")
    place.night(snapshot_id=later)
    # It began before that one, and came to the repository after it.
    place.push("one")
    place.night(snapshot_id=sooner)
    record = place.entry("one").record
    assert record is not None
    assert sooner in record
    flip(next(one for one in place.bundles("one") if sooner in one.name))
    place.drill("restore", code=4)
    assert place.look() == 3
    assert_cannot_be_restored(place, "one")


def test_a_manifest_that_somebody_dated_ahead_does_not_say_what_is_rebuilt(place: Place) -> None:
    snapshots = place.folder / "vault" / ROOT / "snapshots"
    document = read_document(max(snapshots.iterdir()))
    ahead = place.now + timedelta(days=60)
    document["snapshot_id"] = f"{ahead:%Y%m%dT%H%M%SZ}-ffffffff"
    document["started_at"] = document["finished_at"] = f"{ahead:%Y-%m-%dT%H:%M:%SZ}"
    added = snapshots / f"{document['snapshot_id']}.json.gz"
    write_document(added, document)
    os.utime(added, (place.now.timestamp(), place.now.timestamp()))
    place.push("one")
    place.night()
    take_a_file_out(place, "one")
    place.drill("restore", code=4)
    assert place.look() == 3
    assert_cannot_be_restored(place, "one")
