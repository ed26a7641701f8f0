"""Which refs a capture takes."""

import pytest

from backup.model import ObjectId, RefName, Selection
from backup.refs import (
    HIDDEN_PREFIXES,
    conflicting,
    fitting,
    in_order,
    is_selected,
    is_storable,
    is_well_formed,
    pattern_of,
    tell_not_selected,
    to_bytes,
    to_name,
)

PLAIN = Selection()
WITH_PULLS = Selection(pull_refs=True)


@pytest.mark.parametrize(
    "name",
    [
        b"refs/heads/main",
        b"refs/tags/v1",
        b"refs/notes/commits",
        b"refs/remotes/origin/HEAD",
        b"refs/changes/01/1/1",
        b"refs/replace/" + b"a" * 40,
        b"refs/heads/pull/1/head",
        b"refs/pullrequests",
        b"refs/pull",
    ],
)
def test_refs_that_people_push_are_always_taken(name: bytes) -> None:
    assert is_selected(name, PLAIN)
    assert is_selected(name, WITH_PULLS)


@pytest.mark.parametrize(
    "name",
    [
        b"refs/pull/1/merge",
        b"refs/merge-requests/1/merge",
        b"refs/merge-requests/1/train",
        b"refs/pull-requests/1/merge",
        b"refs/keep-around/" + b"a" * 40,
        b"refs/pipelines/1",
        b"refs/environments/production/deployments/1",
        b"refs/pull/1/head/x",
        b"refs/pull/1/2/head",
        b"refs/pull//head",
        b"refs/pull/1/head\n",
        b"refs/pull/1/headx",
    ],
)
def test_refs_that_forges_make_for_themselves_are_never_taken(name: bytes) -> None:
    assert not is_selected(name, PLAIN)
    assert not is_selected(name, WITH_PULLS)


@pytest.mark.parametrize(
    "name",
    [b"refs/pull/1/head", b"refs/merge-requests/12345/head", b"refs/pull-requests/7/from"],
)
def test_heads_of_pull_and_merge_requests_are_taken_when_asked_for(name: bytes) -> None:
    assert not is_selected(name, PLAIN)
    assert is_selected(name, WITH_PULLS)


def test_every_hidden_prefix_hides() -> None:
    assert not any(is_selected(prefix + b"1", WITH_PULLS) for prefix in HIDDEN_PREFIXES)


@pytest.mark.parametrize(
    ("name", "pattern"),
    [
        (b"refs/pull/1/head", "refs/pull/*/head"),
        (b"refs/merge-requests/12/head", "refs/merge-requests/*/head"),
        (b"refs/pull-requests/7/from", "refs/pull-requests/*/from"),
        (b"refs/pull/1/merge", "refs/pull/*/merge"),
        (b"refs/merge-requests/1/train", "refs/merge-requests/*"),
        (b"refs/pull/1/2/head", "refs/pull/*"),
        (b"refs/pull/\xff/anything", "refs/pull/*"),
        (b"refs/keep-around/" + b"a" * 40, "refs/keep-around/*"),
    ],
)
def test_what_is_not_taken_is_counted_under_few_patterns(name: bytes, pattern: str) -> None:
    assert pattern_of(name) == pattern


def test_what_was_left_out_is_told_by_choice_and_by_rule() -> None:
    assert [*tell_not_selected([{}, {}])] == []
    some = [
        {"refs/pull/*/head": 300, "refs/pull/*/merge": 2},
        {"refs/merge-requests/*/head": 17, "refs/keep-around/*": 1},
        {"refs/pull/*/merge": 1},
    ]
    by_choice, by_rule = tell_not_selected(some)
    assert by_choice == (
        "317 refs of pull requests left out in 2 repositories; --pull-refs takes them"
    )
    assert by_rule == (
        "4 refs made by forges for themselves left out in 3 repositories: "
        "1 refs/keep-around/*, 3 refs/pull/*/merge"
    )
    assert [*tell_not_selected([{"refs/pull/*/head": 1}])] == [
        "1 ref of pull requests left out in 1 repository; --pull-refs takes them"
    ]


@pytest.mark.parametrize(
    ("asked", "is_local", "taken"),
    [
        (None, True, True),
        (None, False, False),
        (True, False, True),
        (False, True, False),
    ],
)
def test_heads_of_pull_requests_are_taken_of_this_machine_unless_said_otherwise(
    asked: bool | None, *, is_local: bool, taken: bool
) -> None:
    selection = Selection(pull_refs=asked).resolved(is_local=is_local)
    assert is_selected(b"refs/pull/1/head", selection) is taken


@pytest.mark.parametrize("name", [b"HEAD", b"heads/main", b"", b"/refs/heads/x", b"REFS/heads/x"])
def test_a_name_outside_of_refs_is_not_well_formed(name: bytes) -> None:
    assert not is_well_formed(name)


@pytest.mark.parametrize("byte", [*range(0x21), 0x7F])
def test_control_characters_and_spaces_are_refused(byte: int) -> None:
    # Whitespace and NUL cannot be asked of git a line at a time, unlike all other names.
    assert not is_well_formed(b"refs/heads/a" + bytes([byte]) + b"b")
    assert not is_well_formed(b"refs/heads/a" + bytes([byte]))


@pytest.mark.parametrize("raw", [b"refs/heads/\xff\xfe", "refs/heads/größe".encode(), b"\x80"])
def test_a_name_keeps_its_bytes(raw: bytes) -> None:
    assert to_bytes(to_name(raw)) == raw


@pytest.mark.parametrize(
    ("name", "storable"),
    [
        (b"refs/heads/" + b"x" * 250, True),
        (b"refs/heads/" + b"x" * 251, False),
        (b"refs/" + b"x" * 251 + b"/head", False),
        (b"refs/heads/" + b"x/" * 990 + b"x", True),
        (b"refs/heads/" + b"x/" * 1000 + b"x", False),
    ],
)
def test_a_name_must_fit_into_files_and_folders(name: bytes, storable: bool) -> None:
    assert is_storable(name) is storable


@pytest.mark.parametrize(
    ("names", "found"),
    [
        ([], set()),
        ([b"refs/heads/a", b"refs/heads/ab", b"refs/heads/b/a"], set()),
        ([b"refs/heads/a", b"refs/heads/a/b"], {b"refs/heads/a/b"}),
        ([b"refs/heads/a/b/c/d", b"refs/heads/a"], {b"refs/heads/a/b/c/d"}),
        ([b"refs/heads", b"refs/heads/a", b"refs/heads/b"], {b"refs/heads"}),
        ([b"refs/x", b"refs/x/y", b"refs/x/y/z"], {b"refs/x", b"refs/x/y/z"}),
    ],
)
def test_of_names_that_cannot_stand_together_the_deeper_is_found(
    names: list[bytes], found: set[bytes]
) -> None:
    every = {to_name(name) for name in names}
    clashes = conflicting(every)
    assert {to_bytes(name) for name in clashes} == found
    assert conflicting(every - clashes) == set()


def test_refs_are_in_the_order_of_their_bytes_and_stay_themselves_where_they_are() -> None:
    # A byte that is no UTF-8 is a surrogate in a str, and lies elsewhere among the characters.
    names = [b"refs/a", b"refs/\x80", b"refs/\xc3\xa4", b"refs/\xee\x80\x80", b"refs/\xff"]
    refs = {to_name(name): ObjectId("1" * 40) for name in names}
    assert in_order(refs) is refs
    turned = dict(reversed(refs.items()))
    assert [to_bytes(name) for name in in_order(turned)] == names


def test_names_that_cannot_stand_beside_others_are_left_out() -> None:
    others = {RefName("refs/pull"), RefName("refs/heads/a/b"), RefName("refs/tags/v")}
    names = {
        "refs/pull/1/head",
        "refs/heads/a",
        "refs/heads/a/b/c",
        "refs/heads/a/c",
        "refs/tags/w",
    }
    found = fitting(map(RefName, names), others)
    assert found == {"refs/heads/a/c", "refs/tags/w"}
    assert conflicting({*found, *others}) == set()
