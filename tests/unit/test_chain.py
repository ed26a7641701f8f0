"""Whether a chain is all there, and how heavy it is."""

import pytest

from backup.model import BundleKind, Key, StoredObject
from backup.vault.chain import base_and_increments, missing, sizes
from backup.vault.documents import BundleLine, Record, RepositoryLine

FOLDER = "repositories/widgets/1/"


def bundle(number: int, size_bytes: int) -> BundleLine:
    kind: BundleKind = "full" if number == 0 else "incremental"
    return BundleLine(
        key=f"{FOLDER}2026110{number + 1}T023000Z-0000.{kind}.bundle",
        kind=kind,
        snapshot_id=f"2026110{number + 1}T023000Z-0000",
        size_bytes=size_bytes,
        sha256="0" * 64,
        objects=1,
        check="pack",
        header_bytes=10,
    )


def record(*size_bytes: int) -> Record:
    return Record.model_validate(
        {
            "format": 1,
            "document": "record",
            "snapshot_id": "20261101T023000Z-0000",
            "version": "0.1.0",
            "repository": RepositoryLine(host="h", owner="o", path="widgets", host_id="1"),
            "captured_at": "2026-11-01T02:30:00Z",
            "object_format": "sha1",
            "digest": "0" * 64,
            "refs": (),
            "chain": tuple(bundle(number, size) for number, size in enumerate(size_bytes)),
        }
    )


def stored(whole: Record) -> dict[str, int]:
    return {line.key: line.size_bytes for line in whole.chain}


def test_a_chain_whose_bundles_are_there_lacks_nothing() -> None:
    whole = record(100, 20, 30)
    assert missing(whole, stored(whole) | {"another": 5}) == ""


def test_a_chain_without_bundles_lacks_nothing() -> None:
    assert missing(record(), {}) == ""


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_missing_bundle_is_named(number: int) -> None:
    whole = record(100, 20, 30)
    there = stored(whole)
    del there[whole.chain[number].key]
    assert missing(whole, there) == f"{whole.chain[number].key} is missing"


@pytest.mark.parametrize("size_bytes", [0, 19, 21])
def test_a_bundle_of_another_size_is_named_with_both(size_bytes: int) -> None:
    whole = record(100, 20, 30)
    problem = missing(whole, stored(whole) | {whole.chain[1].key: size_bytes})
    assert problem == f"{whole.chain[1].key} has {size_bytes} bytes, recorded were 20"


def test_the_first_of_several_problems_is_told() -> None:
    whole = record(100, 20, 30)
    assert missing(whole, {}).startswith(whole.chain[0].key)


def test_a_listing_becomes_sizes_relative_to_the_root() -> None:
    listed = [StoredObject(Key("github.com/acme/repositories/a"), 5), StoredObject(Key("x"), 6)]
    assert sizes(listed, prefix="github.com/acme/") == {"repositories/a": 5, "x": 6}


def test_a_chain_is_weighed_as_its_base_and_all_else() -> None:
    assert base_and_increments(record(100, 20, 30).chain) == (100, 50)
    assert base_and_increments(record(100).chain) == (100, 0)
