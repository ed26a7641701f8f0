"""Documents that readers would refuse are never written; what needs one fails by its name."""

import gzip
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from backup import capture
from backup.commands.run import RunOptions
from backup.destinations.memory import MemoryDestination
from backup.errors import BackupError, DamagedDocument, DocumentTooLarge, SourceError
from backup.model import Key, Outcome, RunReport
from backup.sources.plain import FolderSource
from backup.vault import packing
from backup.vault.documents import Ids, Record, decode, encode
from tests.support.git import commit_chain, init_bare, update_refs
from tests.support.vaults import run_at

START = datetime(2026, 3, 1, 2, 0, tzinfo=UTC)
MAIN = b"refs/heads/main"


def limit(monkeypatch: pytest.MonkeyPatch, size_bytes: int) -> None:
    """Let readers and writers accept less than they do: a quarter of a gigabyte takes too long."""
    for module in (packing, capture):
        monkeypatch.setattr(module, "MAX_DOCUMENT_BYTES", size_bytes)


@pytest.fixture
def source(tmp_path: Path) -> FolderSource:
    for name in ("large", "small"):
        path = init_bare(tmp_path / "src" / name)
        update_refs(path, {MAIN: commit_chain(path, 2, label=name.encode())[-1]})
    return FolderSource(tmp_path / "src", owner="src")


def night(number: int, source: FolderSource, vault: MemoryDestination) -> RunReport:
    return run_at(START + timedelta(days=number), source, vault, RunOptions())


def told(report: RunReport) -> dict[str, Outcome]:
    return {outcome.path: outcome for outcome in report.outcomes}


def stored_of(vault: MemoryDestination, name: str) -> list[str]:
    return [one.key for one in vault.list("") if f"/{name}/" in one.key]


def make_many_refs(path: Path) -> dict[bytes, bytes]:
    (tip,) = commit_chain(path, 1, label=b"many")
    names = [b"refs/heads/" + b"long-%03d-" % number + b"x" * 200 for number in range(40)]
    update_refs(path, dict.fromkeys(names, tip))
    return dict.fromkeys(names, tip)


def test_a_repository_with_too_many_names_fails_alone_and_nothing_of_it_is_stored(
    source: FolderSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit(monkeypatch, 6000)
    vault = MemoryDestination()
    night(0, source, vault)
    before = stored_of(vault, "large")
    names = make_many_refs(tmp_path / "src" / "large")
    report = night(1, source, vault)
    assert report.result == "partial"
    outcome = told(report)["large"]
    assert outcome.status == "failed"
    assert outcome.reason.startswith("the record would have ")
    assert "6000 are the most: it has 41 refs, whose names are too many or too long" in (
        outcome.reason
    )
    assert "--exclude" in outcome.hint
    assert told(report)["small"].status == "unchanged"
    assert stored_of(vault, "large") == before
    # It stays so until its source has fewer, and then goes on.
    assert told(night(2, source, vault))["large"].known
    update_refs(tmp_path / "src" / "large", dict.fromkeys([*names][:-1]))
    assert told(night(3, source, vault))["large"].status == "captured"


def test_a_record_that_is_too_large_leaves_out_what_happened_to_each_ref(
    source: FolderSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, vault = tmp_path / "src" / "large", MemoryDestination()
    names = make_many_refs(path)
    night(0, source, vault)
    (first,) = [one for one in stored_of(vault, "large") if one.endswith(".record.json.gz")]
    with vault.open(Key(first)) as reader:
        size_bytes = len(gzip.decompress(reader.read()))
    # The same names, and on each of them something that is new.
    (tip,) = commit_chain(path, 1, start=next(iter(names.values())), label=b"moved")
    update_refs(path, dict.fromkeys(names, tip))
    limit(monkeypatch, size_bytes + 2000)
    report = night(1, source, vault)
    assert told(report)["large"].status == "captured"
    assert len(told(report)["large"].changes) == len(names)
    record = newest_record(vault, "large")
    assert record.changes == ()
    assert {line.id for line in record.refs if line.name in map(bytes.decode, names)} == {
        tip.decode()
    }
    assert told(night(2, source, vault))["large"].status == "unchanged"


def newest_record(vault: MemoryDestination, name: str) -> Record:
    *_, key = [one for one in stored_of(vault, name) if one.endswith(".record.json.gz")]
    with vault.open(Key(key)) as reader:
        return decode(reader.read(), Record, where=key)


def test_a_manifest_that_is_too_large_fails_its_owner_and_leaves_the_last_one(
    source: FolderSource, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault = MemoryDestination()
    night(0, source, vault)
    (last,) = vault.list("folder/src/snapshots/")
    before = {last.key}
    with vault.open(last.key) as reader:
        limit(monkeypatch, len(gzip.decompress(reader.read())) + 400)
    for number in range(5):
        init_bare(tmp_path / "src" / f"new-{number}")
    with pytest.raises(DocumentTooLarge, match="the manifest would have") as refused:
        night(1, source, vault)
    assert refused.value.exit_code == 1
    assert {one.key for one in vault.list("folder/src/snapshots/")} == before


def test_writers_and_readers_have_one_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    document = Ids(
        format=1, document="ids", snapshot_id="20260301T020000Z-1a2b3c4d", ids="ab" * 500
    )
    text_bytes = len(document.model_dump_json(exclude_defaults=True))
    limit(monkeypatch, text_bytes)
    data = encode(document)
    assert decode(data, Ids, where="x") == document
    limit(monkeypatch, text_bytes - 1)
    with pytest.raises(DocumentTooLarge, match="the ids would have"):
        encode(document)
    with pytest.raises(DamagedDocument, match="unpacks to more than"):
        decode(data, Ids, where="x")


def test_a_message_is_no_longer_than_a_person_reads() -> None:
    error: BackupError = SourceError("no " * 1_000_000, hint="why " * 1_000_000)
    assert len(error.message) < 10_100
    assert error.message.endswith("... (3000000 characters)")
    assert len(error.hint) < 10_100
    assert SourceError("short").message == "short"
