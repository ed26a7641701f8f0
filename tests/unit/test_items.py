"""Odd items of a forge's listing: each is said, and none keeps another from being read."""

from collections.abc import Iterator, Mapping
from typing import Any

import pytest

from backup.errors import SourceError
from backup.model import Repository
from backup.sources.items import each, taken_for


def of_item(item: Mapping[str, Any]) -> Iterator[Repository]:
    name = item["name"]
    made = Repository(
        host="h", owner="o", path=name.lower(), host_id=str(int(item["id"])), clone_url="u"
    )
    yield made
    if item.get("has_wiki"):
        yield made


ODD: list[Any] = [
    None,
    7,
    "text",
    [],
    {},
    {"name": "x"},
    {"name": None, "id": 1},
    {"name": "x", "id": "none"},
    {"name": ["x"], "id": 1},
    {"name": "x", "id": {}},
]


@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_what_is_no_repository_is_said_and_the_others_are_read(odd: Any) -> None:
    sound = {"name": "A", "id": 1, "has_wiki": True}
    items = [sound, odd, sound | {"name": "B"}]
    found = [*each(items, of_item, forge="GitHub", host="h", owner="o")]
    assert [one.path for one in found] == ["a", "a", "item 2 of the listing", "b", "b"]
    assert [bool(one.problem) for one in found] == [False, False, True, False, False]
    assert found[2].host_id == ""
    assert found[2].problem.startswith("GitHub lists something that is no repository (")
    with pytest.raises(SourceError, match="is no repository"), taken_for("repository", forge="X"):
        [*of_item(odd)]


def test_what_fails_for_another_reason_fails() -> None:
    def broken(_item: Mapping[str, Any]) -> Iterator[Repository]:
        raise SourceError("the network")

    with pytest.raises(SourceError, match="the network"):
        [*each([{}], broken, forge="GitHub", host="h", owner="o")]
