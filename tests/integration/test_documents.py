"""What a later release wrote into entries and chains is carried on by runs of this one."""

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from backup.commands.run import RunOptions, run
from backup.destinations.memory import MemoryDestination
from backup.model import Destination, Key, Outcome, RunReport, SourceIdentity
from backup.sources.plain import FolderSource
from backup.stopping import Stop
from tests.support.history import LivingRepository

NEW = {"from_a_later_release": {"deep": ["größe", 1, None]}}


class Quiet:
    """Hears of everything and says nothing."""

    def listing(self, identity: SourceIdentity) -> None: ...
    def listed(self, identity: SourceIdentity, count: int) -> None: ...
    def capturing(self, name: str, action: str, reason: str) -> None: ...
    def transferred(self, name: str, size_bytes: int) -> None: ...
    def finished(self, outcome: Outcome) -> None: ...
    def ended(self, name: str) -> None: ...
    def note(self, message: str) -> None: ...


def back_up(root: Path, vault: Destination, **options: Any) -> RunReport:
    source = FolderSource(root, owner="acme")
    return run([source], vault, RunOptions(**options), events=Quiet(), stop=Stop())


def read(vault: Destination, key: Key) -> Any:
    with vault.open(key) as reader:
        return json.loads(gzip.decompress(reader.read()))


def documents(vault: Destination, ending: str) -> list[Key]:
    return [one.key for one in vault.list("") if one.key.endswith(ending)]


def newest_manifest(vault: Destination) -> Any:
    found = [read(vault, key) for key in documents(vault, ".json.gz") if "/snapshots/" in key]
    return max(found, key=lambda manifest: str(manifest["finished_at"]))


def grow(vault: Destination) -> None:
    """Put fields of a later release into every manifest, entry, record and bundle line."""
    for key in documents(vault, ".json.gz"):
        document = read(vault, key)
        document.update(NEW)
        for part in (*document.get("entries", ()), *document.get("chain", ())):
            part.update(NEW)
        vault.delete([key])
        vault.put_if_absent(key, gzip.compress(json.dumps(document).encode()))


@pytest.fixture
def life(tmp_path: Path) -> LivingRepository:
    made = LivingRepository(tmp_path / "root" / "widgets.git")
    made.live([("push", 0), ("create-tag", 0)])
    return made


def test_an_unchanged_entry_keeps_what_it_had(life: LivingRepository) -> None:
    vault, root = MemoryDestination(), life.path.parent
    back_up(root, vault)
    grow(vault)
    assert back_up(root, vault).count("unchanged") == 1
    (entry,) = newest_manifest(vault)["entries"]
    assert {**entry, **NEW} == entry


def test_a_chain_that_goes_on_keeps_what_its_bundles_had(life: LivingRepository) -> None:
    vault, root = MemoryDestination(), life.path.parent
    back_up(root, vault)
    grow(vault)
    life.apply("push", 1)
    (outcome,) = back_up(root, vault).outcomes
    assert outcome.plan == "incremental"
    (entry,) = newest_manifest(vault)["entries"]
    assert {**entry, **NEW} == entry
    (record,) = [
        read(vault, key)
        for key in documents(vault, "record.json.gz")
        if key.endswith(entry["record"])
    ]
    base, increment = record["chain"]
    assert {**base, **NEW} == base
    assert increment.keys().isdisjoint(NEW)


@pytest.mark.parametrize("change", ["left out by a filter", "gone", "failed"])
def test_an_entry_that_is_not_captured_keeps_what_it_had(
    change: str, life: LivingRepository
) -> None:
    vault, root = MemoryDestination(), life.path.parent
    LivingRepository(root / "other.git").live([("push", 0)])
    back_up(root, vault)
    grow(vault)
    if change == "gone":
        life.path.rename(root.parent / "elsewhere.git")
    elif change == "failed":
        (life.path / "refs" / "heads" / "broken").write_bytes(b"deadbeef" * 5 + b"\n")
    exclude = ("widgets",) if change == "left out by a filter" else ()
    back_up(root, vault, exclude=exclude, accept_drop=True)
    for entry in newest_manifest(vault)["entries"]:
        assert {**entry, **NEW} == entry


def test_one_odd_name_of_a_broken_ref_does_not_cost_the_manifest(
    life: LivingRepository,
) -> None:
    vault, root = MemoryDestination(), life.path.parent
    broken = LivingRepository(root / "broken.git")
    broken.live([("push", 0)])
    name = bytes(broken.path / "refs" / "heads") + b"/odd\xe9"
    with open(name, "wb") as file:  # noqa: PTH123 - a name that is no text
        file.write(b"deadbeef" * 5 + b"\n")
    report = back_up(root, vault)
    assert (report.count("captured"), report.count("failed")) == (1, 1)
    assert len(newest_manifest(vault)["entries"]) == 2
