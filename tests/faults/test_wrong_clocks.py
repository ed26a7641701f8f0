"""Nights by a wrong clock (this machine's, the store's, the forge's) over folder and bucket."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

import pytest

from backup.commands.accepting import AcceptRequest, accept_damage
from backup.commands.drills import DrillState, load_drill_state
from backup.commands.forget import ForgetRequest, forget
from backup.commands.listing import list_vault
from backup.commands.prune import PruneRequest, prune
from backup.commands.restore import RestoreRequest, restore
from backup.commands.run import RunOptions, run
from backup.commands.status import status
from backup.commands.verify import VerifyRequest, verify
from backup.destinations.folder import FolderDestination
from backup.destinations.s3 import S3Destination, S3Settings
from backup.errors import BackupError
from backup.model import Destination, Key, RunReport, Source
from backup.results import PruneReport, StatusReport
from backup.retention import Rules
from backup.secret import Secret
from backup.sources.github import GitHubSource
from backup.sources.github.credentials import AccessToken
from backup.sources.plain import FolderSource
from backup.stopping import Stop
from backup.vault.clocks import FUTURE_TOLERANCE
from backup.vault.manifest import roots
from tests.support.git import commit_chain, init_bare, set_head, update_refs
from tests.support.github import GitHub, Token
from tests.support.mirrors import assert_same_mirror
from tests.support.s3server import S3Server
from tests.support.times import Timed, Unaware
from tests.support.vaults import Silence

MAIN = b"refs/heads/main"
PAT = "ghp_" + "a" * 36
DAY, MINUTE = timedelta(days=1), timedelta(minutes=1)
OFFSETS = [-3 * DAY, -20 * MINUTE, 20 * MINUTE, 3 * DAY]
NONE = timedelta()


def shifted(off: timedelta) -> Callable[[], datetime]:
    return lambda: datetime.now(UTC) + off


class Heard(Silence):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, message: str) -> None:
        self.notes.append(message)


class Nights:
    """One repository, a vault, and nights by clocks that are off by as much as a test says."""

    def __init__(self, folder: Path, store: Destination, forge: GitHub) -> None:
        self.folder = folder
        self.store: Destination = store
        self.forge = forge
        self.acme = forge.owner("acme")
        self.path = init_bare(forge.root / "acme" / "one.git")
        forge.repository(self.acme, "one")
        forge.tokens[PAT] = Token("jane")
        forge.owner("jane", kind="User")
        self._times: dict[Key, datetime] = {}
        self._tip: bytes | None = None
        self._restored = 0

    def push(self) -> None:
        self._tip = commit_chain(self.path, 1, start=self._tip, label=b"%d" % id(object()))[-1]
        update_refs(self.path, {MAIN: self._tip})
        set_head(self.path, MAIN)

    def damage_bundle(self) -> None:
        """Delete the newest bundle; in a bucket with versions that hides it."""
        (*_, key) = [one.key for one in self.store.list("") if one.key.endswith(".bundle")]
        self.store.delete([key])

    def store_that_is_off(self, off: timedelta) -> Destination:
        return Timed(self.store, shifted(off), self._times)

    def night(
        self,
        *,
        ours: timedelta = NONE,
        forge: timedelta | None = None,
        store: Destination | None = None,
    ) -> RunReport:
        """Push and back up; without a forge's clock the source is a folder."""
        self.push()
        source: Source = FolderSource(self.path.parent, owner="acme")
        if forge is not None:
            self.forge.clock = shifted(forge)
            credentials = AccessToken(Secret(PAT))
            source = GitHubSource("acme", credentials=credentials, server_url=self.forge.url)
        return run(
            [source],
            store or self.store,
            RunOptions(concurrency=1),
            events=Silence(),
            stop=Stop(),
            clock=shifted(ours),
        )

    def assert_refused(self, *, ours: timedelta, forge: timedelta | None) -> str:
        """Insist on a night that fails and publishes nothing; return why."""
        before = self.documents()
        with pytest.raises(BackupError) as caught:
            self.night(ours=ours, forge=forge)
        assert caught.value.exit_code == 1
        assert self.documents() == before
        return caught.value.message

    def documents(self) -> list[str]:
        folders = ("/snapshots/", "/checkpoints/")
        return [one.key for one in self.store.list("") if any(f in one.key for f in folders)]

    def assert_restores_the_newest(self, store: Destination | None = None) -> None:
        self._restored += 1
        target = self.folder / f"restored-{self._restored}.git"
        request = RestoreRequest(repository="one", all=False, at=None, target=target)
        restore(store or self.store, request, events=Silence(), stop=Stop())
        assert_same_mirror(target, self.path)

    def status(self, *, ours: timedelta = NONE, store: Destination | None = None) -> StatusReport:
        now = shifted(ours)()
        return status(store or self.store, owners=(), max_age_hours=26, now=now)

    def drills(self) -> DrillState:
        (layout,) = roots(self.store)
        return load_drill_state(self.store, layout, now=datetime.now(UTC))

    def verify(self) -> int:
        request = VerifyRequest("objects")
        return verify(self.store, request, events=Silence(), stop=Stop()).exit_code

    def prune(self, *, ours: timedelta = NONE) -> PruneReport:
        request = PruneRequest(Rules(daily=1))
        return prune(self.store, request, events=Silence(), stop=Stop(), clock=shifted(ours))


@pytest.fixture(params=["a folder", "a bucket with versions"])
def nights(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    moto_http: S3Server,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Nights]:
    with GitHub(tmp_path / "git") as forge:
        if request.param == "a folder":
            yield Nights(tmp_path, FolderDestination(tmp_path / "vault"), forge)
            return
        for name, value in moto_http.environment().items():
            monkeypatch.setenv(name, value)
        bucket = f"clocks-{abs(hash(tmp_path)) % 10**10}"
        moto_http.make_bucket(bucket, versioned=True)
        settings = S3Settings(bucket, prefix="vault", endpoint_url=moto_http.endpoint_url)
        store = S3Destination(settings, stop=Stop())
        yield Nights(tmp_path, store, forge)
        store.close()


def direction(off: timedelta) -> Literal["ahead of", "behind"]:
    return "ahead of" if off > NONE else "behind"


# --- Three clocks ------------------------------------------------------------------------------


@pytest.mark.parametrize("off", OFFSETS)
def test_where_this_machine_s_clock_is_the_odd_one_nothing_is_published(
    nights: Nights, off: timedelta
) -> None:
    assert nights.night(forge=NONE).exit_code == 0
    why = nights.assert_refused(ours=off, forge=NONE)
    assert f"{direction(off)} that of the store and that of 127.0.0.1" in why
    assert nights.night(forge=NONE).exit_code == 0
    nights.assert_restores_the_newest()


@pytest.mark.parametrize("off", OFFSETS)
def test_where_the_store_s_clock_is_the_odd_one_it_is_a_note_and_nothing_is_lost(
    nights: Nights, off: timedelta
) -> None:
    # The clock was right at first: what it dates later is not told by its likes.
    right = nights.store_that_is_off(NONE)
    assert nights.night(forge=NONE, store=right).exit_code == 0
    wrong = nights.store_that_is_off(off)
    for _ in range(2):
        report = nights.night(forge=NONE, store=wrong)
        assert report.exit_code == 0
        (note,) = [one for one in report.notes if one.startswith("the store's clock is ")]
        assert f"{direction(off)} that of this machine" in note
        nights.assert_restores_the_newest(wrong)
    warnings = [
        one.message for one in nights.status(store=wrong).findings if "clock" in one.message
    ]
    assert len(warnings) == 1
    assert warnings[0].endswith("that of the store")


@pytest.mark.parametrize("off", OFFSETS)
def test_where_the_forge_s_clock_is_the_odd_one_it_is_a_note(
    nights: Nights, off: timedelta
) -> None:
    report = nights.night(forge=off)
    assert report.exit_code == 0
    assert len([one for one in report.notes if one.startswith("the clock of 127.0.0.1:")]) == 1
    nights.assert_restores_the_newest()
    assert [one.severity for one in nights.status().findings] == ["info"]


def test_where_all_three_differ_nothing_is_published(nights: Nights) -> None:
    assert nights.night(forge=NONE).exit_code == 0
    why = nights.assert_refused(ours=-3 * DAY, forge=3 * DAY)
    assert "3 days behind that of the store, and 6 days behind that of 127.0.0.1" in why


# --- Two clocks --------------------------------------------------------------------------------


@pytest.mark.parametrize("off", OFFSETS)
def test_without_a_forge_two_clocks_that_differ_publish_nothing(
    nights: Nights, off: timedelta
) -> None:
    assert nights.night().exit_code == 0
    why = nights.assert_refused(ours=off, forge=None)
    assert f"{direction(off)} that of the store: nothing was published" in why
    assert nights.night().exit_code == 0
    nights.assert_restores_the_newest()


def test_a_first_night_by_a_wrong_clock_publishes_nothing(nights: Nights) -> None:
    nights.assert_refused(ours=3 * DAY, forge=None)
    assert nights.documents() == []


def test_a_clock_that_is_set_back_during_a_run_publishes_nothing(nights: Nights) -> None:
    # For its begin and for the look at the vault; a folder that is not there yet tells no time.
    moments = iter([shifted(3 * DAY)(), shifted(3 * DAY)()])
    nights.push()
    with pytest.raises(BackupError, match="was set back while the run was at work"):
        run(
            [FolderSource(nights.path.parent, owner="acme")],
            nights.store,
            RunOptions(concurrency=1),
            events=Silence(),
            stop=Stop(),
            clock=lambda: next(moments, None) or datetime.now(UTC),
        )
    assert nights.documents() == []


# --- After a wrong one -------------------------------------------------------------------------


@pytest.mark.parametrize("off", [20 * MINUTE, 3 * DAY, 400 * DAY])
def test_a_manifest_of_a_clock_that_was_ahead_disturbs_no_later_night(
    nights: Nights, off: timedelta
) -> None:
    assert nights.night().exit_code == 0
    # As a program would write it that compares no clocks.
    unaware = Unaware(nights.store, shifted(off))
    assert nights.night(ours=off, store=unaware).exit_code == 0
    (wrong,) = [one for one in list_vault(nights.store).snapshots if one.misdated]
    for _ in range(2):
        report = nights.night()
        assert report.exit_code == 0
        assert [one for one in report.notes if "wrong clock" in one] == [
            f"snapshots/{wrong.id} was dated by a wrong clock and decides nothing"
        ]
        nights.assert_restores_the_newest()
    found = nights.status()
    assert found.exit_code == 0
    assert [wrong.id in one.message for one in found.findings if one.severity != "info"] == [True]
    listed = list_vault(nights.store).snapshots
    assert [one.id for one in listed if one.misdated] == [wrong.id]
    assert not listed[-1].misdated
    pruned = nights.prune()
    assert (pruned.exit_code, pruned.refused) == (0, ())
    assert wrong.id not in {row.snapshot_id for row in (*pruned.keep, *pruned.remove)}
    nights.assert_restores_the_newest()
    last = nights.night()
    assert last.exit_code == 0, last.problems
    nights.assert_restores_the_newest()


@pytest.mark.parametrize("pruned_before", [False, True])
def test_a_manifest_of_the_future_that_was_taken_away_is_missed_by_nobody(
    nights: Nights, pruned_before: bool
) -> None:
    assert nights.night().exit_code == 0
    nights.night(ours=3 * DAY, store=Unaware(nights.store, shifted(3 * DAY)))
    assert nights.night().exit_code == 0
    (wrong,) = [one for one in list_vault(nights.store).snapshots if one.misdated]
    if pruned_before:
        assert nights.prune().exit_code == 0
    (key,) = [one for one in nights.documents() if wrong.id in one]
    # The prune role may do no more: in a bucket with versions that hides it.
    nights.store.delete([Key(key)])
    report = nights.night()
    assert (report.exit_code, report.notes) == (0, ())
    found = nights.status()
    assert (found.exit_code, [one for one in found.findings if one.severity != "info"]) == (0, [])
    assert not [one for one in list_vault(nights.store).snapshots if one.misdated]
    nights.assert_restores_the_newest()
    # What a prune has seen is missed until somebody says that it is gone on purpose.
    assert nights.verify() == nights.prune().exit_code == (4 if pruned_before else 0)
    request = PruneRequest(Rules(daily=1), accept_missing_index=True)
    if pruned_before:
        told = prune(nights.store, request, events=Silence(), stop=Stop())
        assert (told.exit_code, told.refused) == (0, ())
    assert nights.verify() == nights.prune().exit_code == 0
    nights.assert_restores_the_newest()


# --- Minutes, which are tolerated ----------------------------------------------------------------


def test_a_run_by_a_clock_that_was_minutes_ahead_is_not_the_newest_for_ever(
    nights: Nights,
) -> None:
    first = nights.night(ours=13 * MINUTE)
    second = nights.night()
    assert (first.exit_code, second.exit_code) == (0, 0)
    for _ in range(2):
        assert [one.id for one in list_vault(nights.store).snapshots][-1] == second.snapshot_id
        nights.assert_restores_the_newest()
        assert nights.status().exit_code == 0
        pruned = nights.prune()
        assert (pruned.exit_code, pruned.refused) == (0, ())
        assert pruned.keep[-1].snapshot_id == second.snapshot_id
    assert nights.night().exit_code == 0
    nights.assert_restores_the_newest()
    assert nights.status().exit_code == 0


def test_a_failed_run_is_not_hidden_by_one_whose_clock_was_minutes_ahead(nights: Nights) -> None:
    for number in range(4):
        tip = commit_chain(init_bare(nights.path.parent / f"{number}.git"), 1)[-1]
        update_refs(nights.path.parent / f"{number}.git", {MAIN: tip})
        set_head(nights.path.parent / f"{number}.git", MAIN)
    assert nights.night(ours=13 * MINUTE).exit_code == 0
    for number in range(4):
        (nights.path.parent / f"{number}.git").rename(nights.folder / f"{number}.git")
    # Too many are gone at once.
    failed = nights.night()
    assert failed.exit_code == 1
    found = nights.status()
    assert found.exit_code == 3
    assert any("the last run failed" in one.message for one in found.findings)
    pruned = nights.prune()
    assert pruned.exit_code == 1
    assert f"the newest run (snapshots/{failed.snapshot_id}) was failed" in pruned.refused[0]


@pytest.mark.parametrize("off", [-3 * DAY, 3 * DAY])
def test_what_is_read_by_a_wrong_clock_is_the_newest_all_the_same(
    nights: Nights, off: timedelta, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(2):
        assert nights.night().exit_code == 0

    class Wrong(datetime):
        @classmethod
        def now(cls, tz: object = None) -> "datetime":  # type: ignore[override]
            return datetime.now(UTC) + off

    monkeypatch.setattr("backup.commands.restore.datetime", Wrong)
    monkeypatch.setattr("backup.commands.listing.datetime", Wrong)
    nights.assert_restores_the_newest()
    assert [one.state for one in list_vault(nights.store).repositories] == ["ok"]


def test_a_status_by_a_clock_that_is_behind_is_no_reason_for_calm(nights: Nights) -> None:
    old = nights.store_that_is_off(-2 * DAY)
    assert nights.night(ours=-2 * DAY, store=old).exit_code == 0
    found = nights.status(ours=-2 * DAY, store=nights.store_that_is_off(NONE))
    assert found.exit_code == 3
    warnings = [one.message for one in found.findings if one.severity == "warning"]
    assert warnings == ["this machine's clock is 2 days behind that of the store"]


@pytest.mark.parametrize("off", [-3 * DAY, 30 * DAY])
def test_nothing_is_deleted_or_forgotten_by_a_wrong_clock(nights: Nights, off: timedelta) -> None:
    assert nights.night().exit_code == 0
    before = [one.key for one in nights.store.list("")]
    report = nights.prune(ours=off)
    assert report.exit_code == 1
    assert "that of the store; nothing is deleted" in report.refused[0]
    with pytest.raises(BackupError, match="nothing was forgotten"):
        forget(nights.store, ForgetRequest("one"), now=shifted(off)())
    assert [one.key for one in nights.store.list("")] == before


@pytest.mark.parametrize("off", [-3 * DAY, 30 * DAY])
def test_that_nothing_is_damaged_is_not_noted_by_a_wrong_clock(
    nights: Nights, off: timedelta
) -> None:
    assert nights.night().exit_code == 0
    before = [one.key for one in nights.store.list("")]
    heard = Heard()
    request = VerifyRequest("packs")
    report = verify(nights.store, request, events=heard, stop=Stop(), clock=shifted(off))
    assert not report.damaged
    (note,) = [one for one in heard.notes if "not noted in the vault" in one]
    assert "that of the store" in note
    assert [one.key for one in nights.store.list("")] == before


@pytest.mark.parametrize("off", [-400 * DAY, -20 * MINUTE, 20 * MINUTE, 400 * DAY])
@pytest.mark.parametrize("after", [False, True], ids=["the first", "after another"])
def test_damage_is_noted_by_whatever_clock_until_it_has_passed(
    nights: Nights, off: timedelta, after: bool
) -> None:
    assert nights.night().exit_code == 0
    request = VerifyRequest("objects")
    if after:
        verify(nights.store, request, events=Silence(), stop=Stop())
    nights.damage_bundle()
    report = verify(nights.store, request, events=Silence(), stop=Stop(), clock=shifted(off))
    assert report.damaged
    state = nights.drills()
    assert len(state.standing) == 1
    # It is the turn of what was looked at by a wrong clock like that of everything else.
    assert all(at <= datetime.now(UTC) + FUTURE_TOLERANCE for at in state.last_looks.values())
    assert [one.plan for one in nights.night().outcomes] == ["full"]
    assert nights.status().exit_code == 0
    nights.assert_restores_the_newest()
    # A drill by the right clock knows of it, and says so.
    assert verify(nights.store, request, events=Silence(), stop=Stop()).damaged
    assert len(nights.drills().standing) == 1


@pytest.mark.parametrize("off", [-20 * MINUTE, 20 * MINUTE])
def test_damage_is_noted_in_a_store_whose_clock_is_the_odd_one(
    nights: Nights, off: timedelta
) -> None:
    wrong = nights.store_that_is_off(off)
    assert nights.night(forge=NONE, store=wrong).exit_code == 0
    nights.damage_bundle()
    assert verify(wrong, VerifyRequest("objects"), events=Silence(), stop=Stop()).damaged
    assert len(nights.drills().standing) == 1


@pytest.mark.parametrize("off", [-3 * DAY, 30 * DAY])
def test_nothing_is_accepted_by_a_wrong_clock(nights: Nights, off: timedelta) -> None:
    assert nights.night().exit_code == 0
    nights.damage_bundle()
    request = VerifyRequest("objects")
    assert verify(nights.store, request, events=Silence(), stop=Stop()).damaged
    nights.path.rename(nights.path.with_name("gone"))
    before = [one.key for one in nights.store.list("")]
    with pytest.raises(BackupError, match="nothing was accepted"):
        accept_damage(nights.store, AcceptRequest("one"), now=shifted(off)())
    assert [one.key for one in nights.store.list("")] == before
    if isinstance(nights.store, FolderDestination):
        assert accept_damage(nights.store, AcceptRequest("one"), now=datetime.now(UTC)).accepted
        return
    with pytest.raises(BackupError, match="not lost: nothing was accepted") as caught:
        accept_damage(nights.store, AcceptRequest("one"), now=datetime.now(UTC))
    assert "show it again: aws s3api delete-object" in caught.value.hint
    assert [one.key for one in nights.store.list("")] == before
