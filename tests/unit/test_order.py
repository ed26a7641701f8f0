"""Which of several documents is later: by what they have merged, then by their clocks."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from backup.order import Place, in_order

BEGIN = datetime(2026, 11, 1, 3, tzinfo=UTC)


@dataclass(frozen=True)
class Document:
    name: str
    minute: int
    merged: tuple[str, ...] = ()

    @property
    def place(self) -> Place:
        return Place((self.name,), self.merged, BEGIN + timedelta(minutes=self.minute))


def ordered(*documents: Document) -> str:
    return " ".join(one.name for one in in_order(documents, lambda one: one.place))


def test_where_no_document_names_another_their_clocks_decide() -> None:
    documents = [Document("c", 3), Document("a", 1), Document("b", 2), Document("a2", 1)]
    assert ordered(*documents) == "a a2 b c"
    assert ordered() == ""


def test_a_document_is_later_than_what_it_has_merged_whatever_the_clocks_say() -> None:
    ahead, right = Document("ahead", 13), Document("right", 1, ("ahead", "of a pruned one"))
    assert ordered(ahead, right) == ordered(right, ahead) == "ahead right"
    # Through others, too: no document names for ever what it has merged.
    last = Document("last", 2, ("right",))
    assert ordered(last, ahead, right) == "ahead right last"


def test_the_newest_is_of_those_that_none_names_the_one_that_finished_last() -> None:
    ahead, right, beside = Document("ahead", 13), Document("right", 1, ("ahead",)), Document("b", 5)
    assert ordered(ahead, right, beside) == "ahead right b"
    # So a reader that knows only what none has merged finds the same one.
    assert ordered(right, beside) == "right b"


def test_documents_that_stand_for_several_are_named_by_each() -> None:
    shards = Place(("one", "two"), (), BEGIN + timedelta(hours=1))
    whole = Place(("whole",), ("two",), BEGIN)
    assert in_order([whole, shards], lambda one: one) == [shards, whole]


def test_of_documents_that_name_each_other_the_clocks_decide() -> None:
    assert ordered(Document("self", 1, ("self",)), Document("b", 0)) == "b self"
    first, second, third = (
        Document("first", 1, ("third",)),
        Document("second", 2, ("first",)),
        Document("third", 3, ("second",)),
    )
    assert ordered(third, first, second) == "first second third"
    # What is in no circle keeps its place: forged ones do not set an honest pair against itself.
    ahead = Document("ahead", 13, ("third",))
    right = Document("right", 1, ("ahead", "first"))
    forged = Document("forged", 14, ("forged2",)), Document("forged2", 0, ("forged", "right"))
    assert ordered(*forged, right, ahead, first, second, third) == (
        "first second third ahead right forged2 forged"
    )


def test_a_history_of_years_is_no_trouble() -> None:
    count = 20_000
    chain = [
        Document(f"{n}", count - n, tuple(f"{n - back}" for back in range(1, 8)))
        for n in range(count)
    ]
    assert ordered(*chain) == " ".join(f"{n}" for n in range(count))
    circle = [Document("0", 0, (f"{count - 1}",)), *chain[1:]]
    assert len(in_order(circle, lambda one: one.place)) == count


@st.composite
def histories(draw: st.DrawFn) -> list[Document]:
    """Draw documents of which each may name any before it, by whatever clocks."""
    count = draw(st.integers(0, 12))
    return [
        Document(
            f"d{n:02}",
            draw(st.integers(0, 30)),
            tuple(f"d{m:02}" for m in range(n) if draw(st.booleans())),
        )
        for n in range(count)
    ]


def behind(documents: Sequence[Document]) -> dict[str, set[str]]:
    """Return what each one has merged, directly or through others."""
    found: dict[str, set[str]] = {}
    for one in documents:
        found[one.name] = {name for m in one.merged for name in (m, *found[m])}
    return found


@given(histories(), st.randoms())
def test_whatever_the_clocks_what_has_merged_another_one_is_later(
    history: list[Document], chance: object
) -> None:
    found = in_order(history, lambda one: one.place)
    places = {one.name: number for number, one in enumerate(found)}
    assert places.keys() == {one.name for one in history}
    for name, merged in behind(history).items():
        assert all(places[one] < places[name] for one in merged)
    shuffled = list(history)
    chance.shuffle(shuffled)  # type: ignore[attr-defined]
    assert in_order(shuffled, lambda one: one.place) == found
    if not history:
        return
    named = {name for one in history for name in one.merged}
    free = [one for one in history if one.name not in named]
    assert found[-1] == max(free, key=lambda one: (one.minute, one.name))
    assert in_order(free, lambda one: one.place)[-1] == found[-1]


@given(st.lists(st.tuples(st.integers(0, 5), st.sets(st.integers(0, 7), max_size=4)), max_size=8))
def test_whatever_documents_claim_each_has_one_place(
    drawn: list[tuple[int, set[int]]],
) -> None:
    history = [
        Document(f"{n}", minute, tuple(map(str, merged)))
        for n, (minute, merged) in enumerate(drawn)
    ]
    found = in_order(history, lambda one: one.place)
    assert sorted(one.name for one in found) == sorted(one.name for one in history)
