"""What stops any command is damage for verify: every field of every kind of document, in turn."""

import gzip
import json
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backup.commands.forget import ForgetRequest, forget
from backup.commands.listing import list_history, list_vault
from backup.commands.prune import PruneRequest, prune
from backup.commands.restore import RestoreRequest, restore
from backup.commands.run import RunOptions
from backup.commands.status import status
from backup.commands.verify import VerifyRequest, verify
from backup.destinations.memory import MemoryDestination
from backup.errors import BackupError, ExitCode, IntegrityError, UnsupportedFormat
from backup.model import Key
from backup.report.words import newer_words, soundness_words
from backup.results import VerifyReport
from backup.retention import Rules
from backup.stopping import Stop
from backup.vault.documents import Accepted, AcceptedLine, Ids, Manifest, encode
from backup.vault.documents_of_prune import Condemned, CondemnedLine, Pruned
from backup.vault.layout import DocumentName, folder_of, ids_key, lfs_key, new_snapshot_id
from backup.vault.manifest import list_documents, load_manifest
from tests.faults.test_prune import LAYOUT
from tests.faults.test_prune_files import FILES, FileEstate
from tests.support.faults import OWNER, Heard, back_up
from tests.support.mutations import changed, overlaid, pack, paths, standing_at
from tests.support.vaults import Silence

GOLDEN = Path(__file__).parents[1] / "golden"
FOLDER = LAYOUT.prefix
# Each kind of document, its golden example, and where the vault has one: the newest, the oldest.
KINDS = {
    "manifest": ("manifest", f"{FOLDER}snapshots/", ".json.gz", -1),
    "older manifest": ("manifest", f"{FOLDER}snapshots/", ".json.gz", 0),
    "checkpoint": ("checkpoint", f"{FOLDER}checkpoints/", ".1.json.gz", -1),
    "forgotten": ("checkpoint", f"{FOLDER}checkpoints/", ".forgotten.json.gz", -1),
    "record": ("record", f"{FOLDER}repositories/one/", ".record.json.gz", -1),
    "older record": ("record", f"{FOLDER}repositories/one/", ".record.json.gz", 0),
    "lfs": ("lfs", f"{FOLDER}repositories/one/", ".lfs.json.gz", 0),
    "ids": ("ids", f"{FOLDER}repositories/one/", ".ids.json.gz", -1),
    "accepted": ("accepted", f"{FOLDER}accepted/", ".json.gz", -1),
    "condemned": ("condemned", f"{FOLDER}condemned/", ".json.gz", -1),
    "pruned": ("pruned", f"{FOLDER}pruned/", ".json.gz", -1),
    "drill": ("drill", f"{FOLDER}drills/", ".json.gz", -1),
}


@dataclass(frozen=True, slots=True)
class Vault:
    """Two nights of a repository with files, a run that broke off, and all other documents."""

    folder: Path
    source: Path
    stored: MemoryDestination
    now: datetime

    def key(self, kind: str) -> Key:
        _, prefix, ending, number = KINDS[kind]
        return sorted(one.key for one in self.stored.list(prefix) if one.key.endswith(ending))[
            number
        ]

    def with_content(self, key: Key, data: bytes) -> MemoryDestination:
        copy = copy_of(self.stored)
        copy.delete([key])
        copy.put_if_absent(key, data)
        return copy

    def read(self, key: Key) -> bytes:
        with self.stored.open(key) as reader:
            return reader.read()


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Vault:
    folder = tmp_path_factory.mktemp("documents")
    estate = FileEstate(folder)
    path = estate.media("one", b"a file")
    estate.media("two", b"another")
    estate.night()
    estate.commit(path, b"a file", b"a second file")
    estate.night()
    forget(estate.vault, ForgetRequest(f"{OWNER}/two"), now=estate.now + timedelta(hours=1))
    newest = load_manifest(estate.vault, LAYOUT, list_documents(estate.vault, LAYOUT)[1])
    broken_off = new_snapshot_id(estate.now + timedelta(hours=2))
    checkpoint = newest.model_copy(
        update={
            "document": "checkpoint",
            "snapshot_id": broken_off,
            "finished_at": estate.now + timedelta(hours=2),
            "complete": False,
        }
    )
    name = DocumentName(broken_off, checkpoint=1)
    estate.vault.put_if_absent(LAYOUT.document(name), encode(checkpoint))
    listed = Condemned(
        format=1,
        document="condemned",
        snapshot_id=broken_off,
        at=estate.now,
        objects=(CondemnedLine(key=lfs_key("a" * 64), since=estate.now, until=estate.now),),
    )
    estate.vault.put_if_absent(LAYOUT.condemned(broken_off), encode(listed))
    damaged = estate.vault.list(f"{FOLDER}repositories/one/")
    accepted = Accepted(
        format=1,
        document="accepted",
        snapshot_id=broken_off,
        at=estate.now,
        host_id="another",
        path="another",
        objects=(AcceptedLine(key=next(damaged).key.removeprefix(FOLDER), problem="gone"),),
    )
    estate.vault.put_if_absent(LAYOUT.accepted(broken_off), encode(accepted))
    left = tuple(name.stem for name in list_documents(estate.vault, LAYOUT) if not name.checkpoint)
    pruned = Pruned(
        format=1, document="pruned", snapshot_id=broken_off, at=estate.now, left=left[:2]
    )
    estate.vault.put_if_absent(LAYOUT.pruned(broken_off), encode(pruned))
    # Those of a full have a document of their own only where there are very many.
    ids = Ids(format=1, document="ids", snapshot_id=broken_off, ids="a" * 40)
    folder_of_one = folder_of(newest.entries[0].record or "")
    estate.vault.put_if_absent(LAYOUT.key(ids_key(folder_of_one, broken_off)), encode(ids))
    assert look(estate.vault) == set()
    assert isinstance(estate.vault, MemoryDestination)
    return Vault(folder, estate.source, estate.vault, estate.now + timedelta(hours=3))


def copy_of(stored: MemoryDestination) -> MemoryDestination:
    copy = MemoryDestination()
    for one in stored.list(""):
        with stored.open(one.key) as reader:
            copy.put_if_absent(one.key, reader.read())
    return copy


def look(stored: Any) -> set[str]:
    """Verify to the depth that reads every document; return the keys of what is damaged."""
    report = verify(stored, VerifyRequest("packs"), events=Silence(), stop=Stop())
    assert (report.exit_code == ExitCode.DAMAGED) == bool(report.damaged)
    return {one.uri.removeprefix("memory:/") for one in report.damaged}


# --- What the other commands make of a vault ---


def commands(vault: Vault, target: Path) -> Iterator[Callable[[MemoryDestination], Any]]:
    """Yield every other command that reads documents; none changes anything."""
    oldest = list_documents(vault.stored, LAYOUT)[0].snapshot_id
    yield list_vault
    yield lambda stored: list_history(stored, "one")
    yield lambda stored: status(stored, owners=(), max_age_hours=26, now=vault.now)
    rules = PruneRequest(Rules(daily=1), grace_days=0, dry_run=True)
    yield lambda stored: prune(
        stored, rules, events=Silence(), stop=Stop(), clock=lambda: vault.now
    )
    options = RunOptions(concurrency=1, selection=FILES, dry_run=True)
    yield lambda stored: back_up(vault.source, stored, options, at=vault.now)
    for number, at in enumerate((None, oldest)):
        request = RestoreRequest("one", all=False, at=at, target=target / f"{number}.git")
        yield lambda stored, request=request: restore(  # type: ignore[misc]
            stored, request, events=Heard(), stop=Stop()
        )


def stopped_by_damage(vault: Vault, stored: MemoryDestination, target: Path) -> bool:
    for do in commands(vault, target):
        try:
            report = do(copy_of(stored))
        except IntegrityError:
            return True
        except BackupError:
            continue
        if getattr(report, "exit_code", 0) == ExitCode.DAMAGED:
            return True
    return False


# --- Mutations ---


def mutations(real: Any, golden: Any) -> Iterator[tuple[str, Any]]:
    """Yield documents with one field of a wrong type, or without a field that they had."""
    rich = overlaid(real, golden)
    for path in paths(rich):
        # Only what leads to the field comes from the example: the rest stays as it was.
        for wrong in ({"no": "such"}, None, -1):
            yield f"{path} is {wrong}", changed(real, rich, path, wrong)
        if path in {*paths(real)} and isinstance(path[-1], str):
            document = deepcopy(real)
            del standing_at(document, path[:-1])[path[-1]]
            yield f"{path} is gone", document


def packed(document: Any) -> bytes:
    return pack(json.dumps(document).encode())


@pytest.mark.parametrize("kind", KINDS)
def test_a_field_that_stops_any_command_is_damage_for_verify(
    kind: str, vault: Vault, tmp_path: Path
) -> None:
    key = vault.key(kind)
    real = json.loads(gzip.decompress(vault.read(key)))
    golden = json.loads((GOLDEN / f"format-1-{KINDS[kind][0]}.json").read_text())
    found = harmless = 0
    for what, document in mutations(real, golden):
        stored = vault.with_content(key, packed(document))
        if damaged := look(copy_of(stored)):
            # Of a sound document that names what is not there, that is named.
            found += key in damaged
            continue
        harmless += 1
        assert not stopped_by_damage(vault, stored, tmp_path / str(harmless)), (kind, what)
    assert found > harmless


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data + b"\n",
        lambda data: b"",
        lambda data: b"<!DOCTYPE html>",
        lambda data: packed([]),
    ],
    ids=["cut", "grown", "empty", "foreign", "no object"],
)
def test_a_document_that_is_none_is_damage(
    kind: str, damage: Callable[[bytes], bytes], vault: Vault
) -> None:
    key = vault.key(kind)
    stored = vault.with_content(key, damage(vault.read(key)))
    report = verify(stored, VerifyRequest("packs"), events=Silence(), stop=Stop())
    uris = [one.uri for one in report.damaged]
    assert uris.count(f"memory:/{key}") == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_document_of_a_newer_format_is_damage_only_where_ours_name_it(
    kind: str, vault: Vault
) -> None:
    key = vault.key(kind)
    data = packed({**json.loads(gzip.decompress(vault.read(key))), "format": 2})
    stored = vault.with_content(key, data)

    def verified() -> VerifyReport:
        return verify(stored, VerifyRequest("packs"), events=Silence(), stop=Stop())

    if kind == "manifest":
        # It may be the newest state, of which nothing is known then.
        with pytest.raises(UnsupportedFormat, match="has format 2"):
            verified()
        return
    report = verified()
    if kind in {"record", "older record", "lfs"}:
        assert (report.exit_code, report.newer) == (ExitCode.DAMAGED, ())
        assert [one.uri for one in report.damaged] == [f"memory:/{key}"]
        return
    assert (report.exit_code, report.damaged) == (0, ())
    assert report.newer == (f"memory:/{key} has format 2, this version reads format 1",)
    assert soundness_words(report) == "nothing is damaged of what was looked at"
    # What a newer version had the vault forget is not known.
    assert report.checked == (2 if kind == "forgotten" else 1)


def test_what_a_newer_version_wrote_is_told_and_the_others_are_counted() -> None:
    newer = tuple(f"{number} has format 2" for number in range(12))
    words = newer_words(VerifyReport("packs", 1, 1, (), 0, newer=newer))
    assert words.count("has format 2") == 10
    assert "9 has format 2; and 2 more: what a newer version wrote was not looked at" in words


def test_a_record_and_a_list_of_files_that_a_killed_run_left_are_read(vault: Vault) -> None:
    folder = vault.key("record").rpartition("/")[0]
    for ending in ("record.json.gz", "lfs.json.gz"):
        stored = copy_of(vault.stored)
        left = Key(f"{folder}/{new_snapshot_id(vault.now)}.{ending}")
        stored.put_if_absent(left, b"no document")
        assert look(stored) == {left}


def test_the_examples_have_every_kind_that_is_read(vault: Vault) -> None:
    document = Manifest.model_validate(
        json.loads(gzip.decompress(vault.read(vault.key("manifest"))))
    )
    assert document.entries
    assert {kind for kind, *_ in KINDS.values()} == {
        path.stem.removeprefix("format-1-") for path in GOLDEN.glob("format-1-*.json")
    }
