"""Whatever happens to a repository, every night of it is given back: by us and by plain git.

By default 25 lives of up to 6 nights with up to 4 steps each, half a second a life; under
``HYPOTHESIS_PROFILE=deep`` 500 lives of up to 20 nights with up to 10 steps, some seconds each.
"""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import event, example, given, note, settings
from hypothesis import strategies as st

from backup.capture import CheckMode
from backup.commands.listing import list_history
from backup.commands.restore import RestoreRequest, restore
from backup.commands.run import RunOptions
from backup.destinations.folder import FolderDestination
from backup.destinations.memory import MemoryDestination
from backup.model import Destination, Key, RunReport, Selection
from backup.sources.plain import FolderSource
from backup.stopping import Stop
from tests.support.history import LivingRepository, Step, steps
from tests.support.mirrors import MirrorState, assert_same_mirror
from tests.support.vaults import PlainMirror, Silence, objects_in_pack, run_at, to_be_kept

DEEP = settings.get_current_profile_name() == "deep"
MAX_NIGHTS, MAX_STEPS = (20, 10) if DEEP else (6, 4)

BEGIN = datetime(2014, 12, 30, 23, 59, 58, 250_000, UTC)
NAME = "widgets"

DAY, SECOND, SEASON = timedelta(days=1), timedelta(seconds=1), timedelta(days=120)


@dataclass(frozen=True)
class Night:
    """What happens before a backup, and how the backup is made.

    Attributes:
        later: how long after the backup before; a season makes every base too old.
    """

    steps: list[Step]
    pull_refs: bool = False
    check: CheckMode = "pack"
    later: timedelta = DAY


@dataclass(frozen=True)
class Seen:
    """What a backup saw, and what it said."""

    night: Night
    state: MirrorState
    report: RunReport


nights = st.lists(
    st.builds(
        Night,
        steps(max_size=MAX_STEPS),
        pull_refs=st.sampled_from([False, False, False, True]),
        check=st.sampled_from(["pack", "trailer"]),
        later=st.sampled_from([DAY, SECOND, DAY, SEASON]),
    ),
    min_size=2,
    max_size=MAX_NIGHTS,
)


class History:
    """A living repository, its vault, and what each backup of it saw."""

    def __init__(
        self, folder: Path, *, object_format: str, in_memory: bool, max_chain_length: int
    ) -> None:
        self.living = LivingRepository(folder / f"source/{NAME}.git", object_format)
        self.destination: Destination = (
            MemoryDestination() if in_memory else FolderDestination(folder / "vault")
        )
        self.seen: list[Seen] = []
        self._folder = folder
        self._now = BEGIN
        self._max_chain_length = max_chain_length

    def live_through(self, night: Night) -> None:
        """Let the steps happen, back up, and compare what was stored with what had to be."""
        self.living.live(night.steps)
        state = to_be_kept(self.living.path, pull_refs=night.pull_refs)
        before = self._keys()
        self._now += night.later
        options = RunOptions(
            selection=Selection(pull_refs=night.pull_refs),
            check=night.check,
            max_chain_length=self._max_chain_length,
        )
        source = FolderSource(self._folder / "source", owner="acme")
        report = run_at(self._now, source, self.destination, options)
        written = self._keys() - before
        self._judge(night, state, report, written)
        self.seen.append(Seen(night, state, report))

    def assert_restored_by_us(self) -> None:
        """Restore every snapshot by its id."""
        for number, seen in enumerate(self.seen):
            target = self._folder / f"restored-{number}.git"
            request = RestoreRequest(
                repository=NAME, all=False, at=seen.report.snapshot_id, target=target
            )
            restore(self.destination, request, events=Silence(), stop=Stop())
            assert_same_mirror(target, seen.state)

    def assert_restored_by_plain_git(self) -> None:
        """Follow every chain bundle by bundle; each must give the state of its snapshot."""
        items = {item.snapshot: item for item in list_history(self.destination, NAME).items}
        captured = [seen for seen in self.seen if seen.report.outcomes[0].plan]
        done: tuple[str, ...] = ()
        mirror: PlainMirror | None = None
        for number, seen in enumerate(captured):
            chain = items[seen.report.snapshot_id].chain
            assert len(chain) <= self._max_chain_length
            if mirror is None or seen.report.outcomes[0].plan == "full":
                done = ()
                mirror = PlainMirror(self._folder / f"plain-{number}.git", seen.state.object_format)
            assert chain[:-1] == done, "a chain is the one before and one bundle"
            bundle = self._copy(chain[-1])
            packed = objects_in_pack(bundle, self._folder)
            assert len(packed) == seen.report.outcomes[0].objects
            mirror.apply(bundle)
            mirror.assert_gives(seen.state)
            done = chain

    def assert_remembered(self) -> None:
        """Compare what the history says of every capture with what was there."""
        stored = [seen for seen in self.seen if seen.report.outcomes[0].bytes_written]
        items = list_history(self.destination, NAME).items
        assert [item.snapshot for item in items] == [seen.report.snapshot_id for seen in stored]
        for item, seen in zip(items, stored, strict=True):
            refs = {_bytes(name): _bytes(oid) for name, oid in item.refs.items()}
            assert refs == seen.state.refs
            head = None if item.head is None else _bytes(item.head)
            assert head == (seen.state.head_symref or seen.state.head_id)
            assert item.captured_at <= seen.report.finished_at

    def _judge(
        self, night: Night, state: MirrorState, report: RunReport, written: set[str]
    ) -> None:
        (outcome,) = report.outcomes
        assert report.objects_written == len(written)
        assert sum("/snapshots/" in key for key in written) == 1
        last = self.seen[-1] if self.seen else None
        asked_before = last is not None and last.night.pull_refs == night.pull_refs
        if last is not None and asked_before and last.state == state:
            assert outcome.status == ("unchanged" if _has_tips(state) else "empty")
            assert len(written) == 1
            event("unchanged")
            return
        assert outcome.status == ("captured" if _has_tips(state) else "empty"), outcome.reason
        assert len(written) == (3 if _has_tips(state) else 2)
        event(f"{outcome.plan or 'empty'}: {outcome.reason.split('(')[0].rstrip('0123456789 ')}")
        if night.check == "trailer":
            assert outcome.check in {"trailer", "pack", None}
        else:
            assert outcome.check == {"full": "connected", "incremental": "pack"}.get(
                outcome.plan or ""
            )

    def _keys(self) -> set[str]:
        return {stored.key for stored in self.destination.list("")}

    def _copy(self, uri: str) -> Path:
        key = uri.removeprefix(self.destination.uri(""))
        with self.destination.open(Key(key)) as reader:
            target = self._folder / key.replace("/", "-")
            target.write_bytes(reader.read())
        return target


def _has_tips(state: MirrorState) -> bool:
    return bool(state.refs) or state.head_id is not None


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


EVERYTHING = [
    Night([("push", 0), ("create-branch", 0), ("create-tag", 4), ("add-pull-ref", 0)]),
    Night([("push", 0), ("detach-head", 1)]),
    Night([]),
    Night([("create-branch", 1), ("add-pull-ref", 1)], pull_refs=True, check="trailer"),
    Night([("rename-into-folder", 0), ("force-push", 1), ("collect", 0)]),
    Night([("delete-everything", 1)]),
    Night([("push", 0)], later=SEASON),
    Night([("push", 0)], later=SEASON),
]
LEAVES_AND_RETURNS = [
    Night([("push", 2), ("create-branch", 0)]),
    Night([("delete-branch", 1)]),
    Night([("collect", 0), ("move-to-old-commit", 0)]),
    Night([("push", 0)], later=SECOND),
]
ADRIFT = [
    Night([("push", 2), ("push", 2), ("push", 2)]),
    Night([("detach-head", 2)]),
    Night([("create-branch", 0)]),
    Night([("change-default-branch", 0)]),
    Night([("detach-head", 2), ("push", 0)]),
]


@example(life=EVERYTHING, object_format="sha1", in_memory=True, max_chain_length=3)
@example(life=EVERYTHING, object_format="sha256", in_memory=False, max_chain_length=4)
@example(life=LEAVES_AND_RETURNS, object_format="sha1", in_memory=True, max_chain_length=2)
@example(life=ADRIFT, object_format="sha1", in_memory=True, max_chain_length=4)
@given(
    life=nights,
    object_format=st.sampled_from(["sha1", "sha1", "sha1", "sha256"]),
    in_memory=st.booleans(),
    max_chain_length=st.integers(2, 4),
)
def test_every_night_of_any_life_is_given_back_by_us_and_by_plain_git(
    life: list[Night],
    object_format: str,
    in_memory: bool,
    max_chain_length: int,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    history = History(
        tmp_path_factory.mktemp("life"),
        object_format=object_format,
        in_memory=in_memory,
        max_chain_length=max_chain_length,
    )
    for number, night in enumerate(life):
        history.live_through(night)
        note(f"night {number}: {history.living.log}")
    history.assert_remembered()
    history.assert_restored_by_us()
    history.assert_restored_by_plain_git()
