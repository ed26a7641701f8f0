"""What is done with a repository, and why: every decision with its reason."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from backup.model import (
    BundleKind,
    Kind,
    ObjectFormat,
    ObjectId,
    RefName,
    Refs,
    Repository,
    Selection,
)
from backup.plan import (
    Plan,
    Policy,
    haves_of,
    make_plan,
    order_of_work,
    refs_before_and_now,
    why_alarming,
    why_files_are_due,
    why_not_unchanged,
)
from backup.vault.documents import (
    BundleLine,
    Entry,
    HeadLine,
    Record,
    RefLine,
    RepositoryLine,
    SelectionLine,
    refs_digest,
)

NOW = datetime(2026, 11, 15, 2, 30, tzinfo=UTC)
DAY = timedelta(days=1)
REPOSITORY = Repository(
    host="github.com", owner="acme", path="widgets", host_id="1", clone_url="/srv/widgets.git"
)
FOLDER = "repositories/widgets/1/"
RECORD_KEY = f"{FOLDER}20261114T023000Z-0000.record.json.gz"
MAIN, DEVELOP, TAG = map(RefName, ("refs/heads/main", "refs/heads/develop", "refs/tags/v1"))


def oid(number: int, object_format: ObjectFormat = "sha1") -> ObjectId:
    return ObjectId(f"{number:0{40 if object_format == 'sha1' else 64}x}")


ONE, TWO, THREE, FOUR = map(oid, (1, 2, 3, 4))


def bundle(number: int, size_bytes: int, made_at: datetime) -> BundleLine:
    kind: BundleKind = "full" if number == 0 else "incremental"
    return BundleLine(
        key=f"{FOLDER}{made_at:%Y%m%dT%H%M%SZ}-{number:04}.{kind}.bundle",
        kind=kind,
        snapshot_id=f"{made_at:%Y%m%dT%H%M%SZ}-0000",
        size_bytes=size_bytes,
        sha256="0" * 64,
        objects=1,
        check="pack",
        header_bytes=10,
    )


def recorded(
    tips: Mapping[RefName, ObjectId],
    *,
    sizes: tuple[int, ...] = (1000,),
    base_age: timedelta = DAY,
    object_format: ObjectFormat = "sha1",
    kinds: Mapping[RefName, str] | None = None,
    **more: Any,
) -> Record:
    lines = [
        RefLine.model_validate({"name": name, "id": tip, "object_type": (kinds or {}).get(name)})
        for name, tip in tips.items()
    ]
    return Record(
        format=1,
        document="record",
        snapshot_id="20261114T023000Z-0000",
        version="0.1.0",
        repository=RepositoryLine(host="github.com", owner="acme", path="widgets", host_id="1"),
        captured_at=NOW - DAY,
        object_format=object_format,
        digest="0" * 64,
        refs=tuple(lines),
        chain=tuple(bundle(number, size, NOW - base_age) for number, size in enumerate(sizes)),
        **more,
    )


def planned(
    refs: Refs,
    record: Record | None = None,
    *,
    stored: Mapping[str, int] | None = None,
    policy: Policy | None = None,
    repository: Repository = REPOSITORY,
    selection: Selection | None = None,
    why: str = "refs changed",
) -> Plan:
    there = {} if record is None else {line.key: line.size_bytes for line in record.chain}
    return make_plan(
        repository,
        refs,
        why=why,
        entry=None if record is None else Entry(host_id="1", path="widgets", record=RECORD_KEY),
        record=record,
        stored=there if stored is None else stored,
        selection=selection or Selection(),
        policy=policy or Policy(),
        now=NOW,
    )


# --- Whether anything is to do -----------------------------------------------------------------

REFS = Refs(tips={MAIN: ONE})
DIGEST = refs_digest(REFS)
LAST = Entry(host_id="1", path="widgets", record=RECORD_KEY, digest=DIGEST)


@pytest.mark.parametrize(
    ("entry", "selection", "reason"),
    [
        (None, Selection(), "first capture"),
        (LAST.model_copy(update={"record": None}), Selection(), "first capture"),
        (LAST.model_copy(update={"digest": "0" * 64}), Selection(), "refs changed"),
        (LAST.model_copy(update={"digest": None}), Selection(), "refs changed"),
        (
            LAST.model_copy(update={"unfinished": ("an LFS object", "the wiki")}),
            Selection(),
            "unfinished: an LFS object, the wiki",
        ),
        (LAST, Selection(pull_refs=True), "another selection is asked for"),
        # Files are looked for by themselves.
        (LAST, Selection(lfs=True), ""),
        (LAST.model_copy(update={"unfinished": ("Git LFS: 1 files",)}), Selection(lfs=True), ""),
        (LAST, Selection(metadata=("issues",)), "another selection is asked for"),
        (
            LAST.model_copy(update={"selection": SelectionLine(lfs=True)}),
            Selection(),
            "",
        ),
        (LAST, Selection(), ""),
        (LAST.model_copy(update={"failing_since": NOW, "degraded": ("refs",)}), Selection(), ""),
        (
            LAST.model_copy(update={"selection": SelectionLine(metadata=("issues",))}),
            Selection(metadata=("issues",)),
            "",
        ),
    ],
)
def test_unchanged_is_said_only_where_nothing_can_have_changed(
    entry: Entry | None, selection: Selection, reason: str
) -> None:
    assert why_not_unchanged(entry, digest=DIGEST, selection=selection) == reason


# --- Full or increment -------------------------------------------------------------------------


def test_a_first_capture_is_a_full_of_everything() -> None:
    refs = Refs(tips={MAIN: ONE, DEVELOP: ONE, TAG: TWO}, head_id=THREE)
    plan = planned(refs, why="first capture")
    assert (plan.action, plan.reason, plan.bundle_kind) == ("full", "first capture", "full")
    assert sorted(plan.wants) == [ONE, TWO, THREE]
    assert (plan.haves, plan.prerequisites, plan.previous) == ((), (), None)


def test_a_repository_without_refs_is_empty_and_has_no_bundle() -> None:
    plan = planned(Refs(tips={}, head_symref=MAIN))
    assert (plan.action, plan.bundle_kind, plan.wants) == ("empty", None, ())


def test_a_repository_that_lost_all_its_refs_keeps_its_history_in_reach() -> None:
    record = recorded({MAIN: ONE})
    plan = planned(Refs(tips={}), record)
    assert plan.action == "empty"
    assert plan.previous == record
    assert plan.previous_key == RECORD_KEY


def test_a_detached_head_alone_is_something_to_hold() -> None:
    assert planned(Refs(tips={}, head_id=ONE)).wants == (ONE,)


def test_a_changed_repository_gets_an_increment_of_what_is_new() -> None:
    record = recorded({MAIN: ONE, TAG: TWO})
    plan = planned(Refs(tips={MAIN: THREE, TAG: TWO}), record)
    assert (plan.action, plan.reason) == ("incremental", "refs changed")
    assert plan.wants == (THREE,)
    assert plan.haves == (ONE, TWO)
    assert plan.prerequisites == (ONE,)
    assert (plan.previous, plan.previous_key) == (record, RECORD_KEY)


@pytest.mark.parametrize(
    "tips",
    [{MAIN: ONE}, {MAIN: TWO, TAG: ONE}, {DEVELOP: ONE, MAIN: ONE}],
    ids=["a deleted tag", "moved among what is held", "a new name"],
)
def test_a_change_without_new_objects_wants_nothing(tips: dict[RefName, ObjectId]) -> None:
    plan = planned(Refs(tips=tips), recorded({MAIN: ONE, TAG: TWO}))
    assert (plan.action, plan.wants) == ("incremental", ())


WHOLE = recorded({MAIN: ONE}, sizes=(1000, 100, 50))
KEYS = [line.key for line in WHOLE.chain]


@pytest.mark.parametrize(
    ("record", "refs", "stored", "policy", "reason"),
    [
        (recorded({}, sizes=()), REFS, None, Policy(), "was empty before"),
        (
            WHOLE,
            replace(REFS, protocol_v2=False),
            None,
            Policy(),
            "the server has no protocol version 2",
        ),
        (
            recorded({MAIN: ONE}, object_format="sha256"),
            REFS,
            None,
            Policy(),
            "the object format changed from sha256 to sha1",
        ),
        (
            WHOLE,
            REFS,
            {KEYS[0]: 1000, KEYS[2]: 50},
            Policy(),
            f"the chain is broken: {KEYS[1]} is missing",
        ),
        (
            WHOLE,
            REFS,
            {KEYS[0]: 999, KEYS[1]: 100, KEYS[2]: 50},
            Policy(),
            f"the chain is broken: {KEYS[0]} has 999 bytes, recorded were 1000",
        ),
        (WHOLE, REFS, None, Policy(max_chain_length=3), "the chain has 3 bundles"),
        (WHOLE, REFS, None, Policy(max_chain_length=1), "the chain has 3 bundles"),
        (
            recorded({MAIN: ONE}, sizes=(1000, 600, 401)),
            REFS,
            None,
            Policy(),
            "increments (1001 bytes) outweigh the base (1000 bytes)",
        ),
        (
            recorded({MAIN: ONE}, base_age=200 * DAY),
            REFS,
            None,
            Policy(full_after_days=90),
            "the base is 200 days old",
        ),
        (WHOLE, REFS, None, Policy(max_chain_length=4), ""),
        (recorded({MAIN: ONE}, sizes=(1000, 600, 400)), REFS, None, Policy(), ""),
        (recorded({MAIN: ONE}, base_age=89 * DAY), REFS, None, Policy(full_after_days=90), ""),
    ],
)
def test_a_full_has_its_reason_and_otherwise_the_chain_goes_on(
    *,
    record: Record,
    refs: Refs,
    stored: dict[str, int] | None,
    policy: Policy,
    reason: str,
) -> None:
    plan = planned(refs, record, stored=stored, policy=policy)
    if reason:
        assert (plan.action, plan.reason) == ("full", reason)
        assert plan.wants == refs.wanted()
        assert (plan.haves, plan.prerequisites) == ((), ())
        assert plan.previous == record
    else:
        assert (plan.action, plan.reason) == ("incremental", "refs changed")


def test_fulls_of_repositories_first_captured_together_are_spread_over_days() -> None:
    def days_until_full(host_id: str) -> int:
        repository = replace(REPOSITORY, host_id=host_id)
        for days in range(80, 130):
            record = recorded({MAIN: ONE}, base_age=days * DAY)
            if planned(REFS, record, repository=repository).action == "full":
                return days
        raise AssertionError("no full in 130 days")

    due = [days_until_full(str(number)) for number in range(60)]
    assert min(due) > 90
    assert max(due) <= 113
    assert len(set(due)) > 10
    assert due[0] == days_until_full("0")


# --- What a chain holds ------------------------------------------------------------------------


def test_branch_heads_are_the_first_haves() -> None:
    record = recorded({RefName("refs/changes/1"): THREE, MAIN: ONE, DEVELOP: TWO, TAG: FOUR})
    haves, prerequisites = haves_of(record)
    assert (haves, prerequisites) == ((ONE, TWO, THREE, FOUR), (ONE, TWO))


def test_an_id_with_several_names_is_one_have() -> None:
    haves, prerequisites = haves_of(recorded({TAG: ONE, MAIN: ONE, DEVELOP: ONE}))
    assert (haves, prerequisites) == ((ONE,), (ONE,))


@pytest.mark.parametrize("kind", ["tag", "tree", "blob"])
def test_what_is_proved_no_commit_is_no_prerequisite(kind: str) -> None:
    record = recorded({MAIN: ONE, DEVELOP: TWO}, kinds={DEVELOP: kind})
    assert haves_of(record) == ((ONE, TWO), (ONE,))


def test_a_commit_that_only_a_detached_head_names_is_no_have() -> None:
    record = recorded({MAIN: ONE}, head={"id": TWO})
    assert haves_of(record) == ((ONE,), (ONE,))


TIPS = st.dictionaries(
    st.sampled_from([MAIN, DEVELOP, TAG, *(RefName(f"refs/odd/{n}") for n in range(6))]),
    st.integers(1, 8).map(oid),
    max_size=9,
)


@given(TIPS, TIPS, st.none() | st.integers(1, 9).map(oid), st.none() | st.integers(1, 9).map(oid))
def test_what_is_wanted_and_what_is_held_cover_every_tip(
    old: dict[RefName, ObjectId],
    new: dict[RefName, ObjectId],
    old_head: ObjectId | None,
    new_head: ObjectId | None,
) -> None:
    record = recorded(old, head={"id": old_head}) if old or old_head else None
    refs = Refs(tips=new, head_id=new_head)
    plan = planned(refs, record)
    if plan.action == "empty":
        assert not refs.wanted()
        return
    held = set(plan.haves)
    assert held | set(plan.wants) >= {*new.values(), *([new_head] if new_head else [])}
    assert held <= set(old.values())
    assert held.isdisjoint(plan.wants)
    assert set(plan.prerequisites) <= held
    assert len(plan.wants) == len(set(plan.wants))
    assert len(plan.haves) == len(held)


# --- Refs that are gone ------------------------------------------------------------------------


TAGS = {RefName(f"refs/tags/v{number}"): ONE for number in range(60)}
HEAD_ON_MAIN = HeadLine(symref=MAIN, id=ONE)


def without(names: Mapping[RefName, ObjectId], count: int) -> dict[RefName, ObjectId]:
    return dict([*names.items()][count:])


@pytest.mark.parametrize(
    ("old", "new", "head", "words"),
    [
        ({}, {MAIN: ONE}, MAIN, ""),
        ({MAIN: ONE}, {MAIN: TWO}, MAIN, ""),
        # A merged branch of two, and nine of ten tags.
        ({MAIN: ONE, DEVELOP: TWO}, {MAIN: TWO}, MAIN, ""),
        ({MAIN: ONE} | without(TAGS, 50), {MAIN: ONE, **without(TAGS, 59)}, MAIN, ""),
        # The default branch has another name now.
        ({MAIN: ONE}, {DEVELOP: ONE}, DEVELOP, ""),
        ({MAIN: ONE, DEVELOP: TWO}, {DEVELOP: TWO}, MAIN, "HEAD names refs/heads/main, which is"),
        ({MAIN: ONE, TAG: ONE}, {TAG: ONE}, MAIN, "all its branches are gone"),
        ({MAIN: ONE, DEVELOP: TWO}, {}, MAIN, "all its branches are gone"),
        ({MAIN: ONE} | TAGS, {MAIN: ONE, **without(TAGS, 12)}, MAIN, ""),
        ({MAIN: ONE} | TAGS, {MAIN: ONE, **without(TAGS, 13)}, MAIN, "13 of its 61 refs are gone"),
        ({MAIN: ONE} | without(TAGS, 50), {MAIN: ONE}, MAIN, "10 of its 11 refs are gone"),
    ],
)
def test_what_speaks_for_a_mishap_in_refs_that_are_gone(
    old: dict[RefName, ObjectId], new: dict[RefName, ObjectId], head: RefName, words: str
) -> None:
    refs = Refs(tips=new, head_symref=head, head_id=new.get(head))
    plan = planned(refs, recorded(old, head=HEAD_ON_MAIN))
    assert why_alarming(plan, max_drop_percent=20).startswith(words)
    assert bool(words) == bool(why_alarming(plan, max_drop_percent=20))


def test_a_first_capture_has_lost_nothing() -> None:
    assert why_alarming(planned(REFS), max_drop_percent=0) == ""


PULL = RefName("refs/pull/1/head")


@pytest.mark.parametrize(
    ("before", "now", "names"),
    [
        (False, False, set()),
        (False, True, set()),
        (True, False, set()),
        (True, True, {PULL}),
    ],
)
def test_what_a_change_of_the_selection_brings_did_not_happen_to_the_repository(
    before: bool, now: bool, names: set[RefName]
) -> None:
    record = recorded(
        {MAIN: ONE, **({PULL: TWO} if before else {})}, selection={"pull_refs": before}
    )
    refs = Refs(tips={MAIN: THREE, **({PULL: TWO} if now else {})})
    old, new = refs_before_and_now(planned(refs, record, selection=Selection(pull_refs=now)))
    assert old.keys() == new.keys() == {MAIN, *names}
    assert (old[MAIN], new[MAIN]) == (ONE, THREE)


def test_before_a_first_capture_there_were_no_refs() -> None:
    assert refs_before_and_now(planned(REFS)) == ({}, {MAIN: ONE})


# --- The order of work -------------------------------------------------------------------------


def test_the_longest_unchecked_come_first_and_those_never_checked_before_them() -> None:
    names = ["b-yesterday", "a-never", "c-long-ago", "d-never", "e-failed"]
    checked: dict[str, datetime | None] = {
        "b-yesterday": NOW - DAY,
        "c-long-ago": NOW - 9 * DAY,
        "e-failed": None,
    }
    repositories = [replace(REPOSITORY, path=name, host_id=name) for name in names]
    entries: dict[tuple[Kind, str], Entry] = {
        ("code", name): Entry(host_id=name, path=name, checked_at=moment)
        for name, moment in checked.items()
    }
    ordered = [one.path for one in order_of_work(repositories, entries)]
    assert ordered == ["a-never", "d-never", "e-failed", "c-long-ago", "b-yesterday"]


def test_what_never_fits_into_the_deadline_does_not_come_first_every_night() -> None:
    repositories = [replace(REPOSITORY, path=name, host_id=name) for name in ("huge", "small")]
    entries: dict[tuple[Kind, str], Entry] = {
        ("code", "huge"): Entry(host_id="huge", path="huge", attempted_at=NOW - DAY),
        ("code", "small"): Entry(host_id="small", path="small", checked_at=NOW - 2 * DAY),
    }
    assert [one.path for one in order_of_work(repositories, entries)] == ["small", "huge"]


@pytest.mark.parametrize(
    ("field", "sentence"),
    [
        ("unfinished", "Git LFS: 1 pack was not searched: no room"),
        # As it was noted before such packs were searched by the next run.
        ("degraded", "2 packs were not searched for files of Git LFS"),
    ],
)
def test_a_pack_that_was_not_searched_for_files_is_due(field: str, sentence: str) -> None:
    entry = Entry.model_validate(
        {"host_id": "1", "path": "one", "kind": "code", "selection": {"lfs": True}}
        | {field: (sentence,)}
    )
    assert why_files_are_due(entry, Selection(lfs=True)) == sentence
    assert why_files_are_due(entry, Selection(lfs=False)) == ""
