"""Damage that is known stands until it passes: nights, drills and status say so until then."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from backup.commands.accepting import AcceptRequest, accept_damage
from backup.commands.drills import load_drill_state
from backup.commands.listing import list_vault
from backup.commands.prune import PruneRequest, prune
from backup.commands.restore import RestoreRequest, restore
from backup.commands.run import RunOptions, run
from backup.commands.status import status
from backup.commands.verify import VerifyRequest, verify
from backup.config.names import Depth
from backup.destinations.folder import FolderDestination
from backup.errors import ConfigError, IntegrityError
from backup.model import Absence, Kind, Repository, RunReport
from backup.results import AcceptReport, VerifyReport
from backup.retention import Rules
from backup.sources.plain import FolderSource
from backup.stopping import Stop
from backup.vault.documents import Drill, Entry
from backup.vault.layout import Layout
from backup.vault.manifest import list_documents, load, load_state
from tests.support.git import commit_chain, git, init_bare, update_refs
from tests.support.mirrors import assert_same_mirror
from tests.support.program import repo_backup
from tests.support.s3server import S3Server
from tests.support.times import Timed
from tests.support.vaults import Silence, to_be_kept

START = datetime(2026, 11, 1, 3, 0, tzinfo=UTC)
MAIN = b"refs/heads/main"
ROOT = "folder/acme"


class Listing(FolderSource):
    """A folder that can block a repository, as a forge does."""

    blocked: frozenset[str] = frozenset()

    def repositories(self) -> Iterator[Repository]:
        for one in super().repositories():
            yield replace(one, blocked="disabled" if one.path in self.blocked else "")

    def look_up(self, *, host_id: str, path: str, kind: Kind) -> Repository | Absence:
        return Absence("not-visible", "gone")


class Place:
    """Two repositories, their vault, and hours that pass between what is done with it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.now = START
        # Its store has the same clock.
        self.vault = Timed(FolderDestination(folder / "vault"), self.clock)
        self.layout = Layout.of(host="folder", owner="acme")
        for name in ("one", "two"):
            path = init_bare(folder / "acme" / f"{name}.git")
            update_refs(path, {MAIN: commit_chain(path, 3, label=name.encode())[-1]})
        self.source = Listing(folder / "acme", owner="acme")

    def path(self, name: str) -> Path:
        return self.folder / "acme" / f"{name}.git"

    def push(self, name: str) -> None:
        start = git("rev-parse", "--verify", "main", cwd=self.path(name)).strip()
        update_refs(self.path(name), {MAIN: commit_chain(self.path(name), 1, start=start)[-1]})

    def clock(self) -> datetime:
        return self.now

    def night(self, *, code: int = 0, **options: Any) -> RunReport:
        self.now += timedelta(hours=1)
        report = run(
            [self.source],
            self.vault,
            RunOptions(**options),
            events=Silence(),
            stop=Stop(),
            clock=self.clock,
        )
        assert report.exit_code == code, report.problems
        return report

    def drill(self, depth: Depth, *, code: int = 0) -> VerifyReport:
        self.now += timedelta(hours=1)
        report = verify(
            self.vault, VerifyRequest(depth), events=Silence(), stop=Stop(), clock=self.clock
        )
        assert report.exit_code == code
        return report

    def look(self) -> int:
        report = status(self.vault, owners=(), max_age_hours=26, now=self.now)
        return report.exit_code

    def accept(self, name: str, **more: Any) -> AcceptReport:
        return accept_damage(self.vault, AcceptRequest(name, **more), now=self.now)

    def bundles(self, name: str) -> list[Path]:
        return sorted((self.folder / "vault" / ROOT).glob(f"repositories/{name}/*/*.bundle"))

    def entry(self, name: str) -> Entry:
        names = list_documents(self.vault, self.layout)
        entries = load_state(self.vault, self.layout, names, now=self.now).entries
        return next(one for one in entries.values() if one.path == name)

    def outcome(self, report: RunReport, name: str) -> tuple[str, str | None, str]:
        one = next(one for one in report.outcomes if one.path == name)
        return one.status, one.plan, one.reason

    def assert_restores(self, name: str) -> None:
        target = self.folder / f"back-{self.now:%H%M%S}" / f"{name}.git"
        request = RestoreRequest(repository=name, all=False, at=None, target=target)
        restore(self.vault, request, events=Silence(), stop=Stop())
        assert_same_mirror(target, to_be_kept(self.path(name)))


def flip(path: Path) -> bytes:
    """Change one byte, and return what was there."""
    whole = path.read_bytes()
    path.chmod(0o644)
    path.write_bytes(whole[:-30] + bytes([whole[-30] ^ 1]) + whole[-29:])
    return whole


@pytest.fixture
def place(tmp_path: Path) -> Place:
    made = Place(tmp_path)
    made.night()
    return made


# --- A source that can give a new full ------------------------------------------------------------


@pytest.mark.parametrize("changed", [False, True], ids=["unchanged", "changed"])
@pytest.mark.parametrize("depth", ["packs", "restore"])
def test_the_night_after_a_drill_takes_a_full_of_what_is_damaged_and_says_why(
    place: Place, depth: Depth, changed: bool
) -> None:
    (bundle,) = place.bundles("one")
    flip(bundle)
    assert place.look() == 0
    place.drill(depth, code=4)
    assert place.look() == 3
    if changed:
        place.push("one")
    report = place.night()
    assert place.outcome(report, "one") == (
        "captured",
        "full",
        (
            f"damaged: {bundle.relative_to(place.folder / 'vault' / ROOT)} "
            f"({_problem(place)}), found by verify on 2026-11-01"
        ),
    )
    assert place.outcome(report, "two")[0] == "unchanged"
    assert place.look() == 0
    place.assert_restores("one")
    # The damage is still there, and what is captured from now on does not need it.
    assert place.night().count("unchanged") == 2
    place.drill(depth, code=4 if depth == "packs" else 0)
    assert place.night().count("unchanged") == 2
    assert place.look() == 0


def _problem(place: Place) -> str:
    state = load_drill_state(place.vault, place.layout, now=place.now)
    (line,) = state.standing.values()
    return line.problem


def test_a_record_that_is_damaged_costs_a_full_as_well(place: Place) -> None:
    (record,) = (place.folder / "vault" / ROOT).glob("repositories/one/*/*.record.json.gz")
    flip(record)
    place.drill("objects", code=4)
    assert place.look() == 3
    assert place.outcome(place.night(), "one")[:2] == ("captured", "full")
    assert place.look() == 0
    place.assert_restores("one")


def test_a_night_that_does_not_come_to_it_is_partial(place: Place) -> None:
    flip(place.bundles("one")[0])
    place.drill("packs", code=4)
    broken = place.path("one") / "refs" / "heads" / "more"
    broken.write_bytes(b"deadbeef" * 5 + b"\n")
    report = place.night(code=3)
    assert any("acme/one cannot be given back whole" in one for one in report.problems)
    assert any("takes a new full" in one for one in report.problems)
    assert place.entry("one").damaged[0].found_by == "verify"
    assert place.look() == 3
    broken.unlink()
    assert place.outcome(place.night(), "one")[1] == "full"
    assert place.look() == 0


def test_what_was_found_deep_is_not_cleared_by_a_look_at_the_surface(place: Place) -> None:
    (bundle,) = place.bundles("one")
    whole = flip(bundle)
    place.drill("packs", code=4)
    place.drill("objects")
    assert place.look() == 3
    # Somebody puts the right one back: only who reads it can tell.
    bundle.write_bytes(whole)
    place.drill("objects")
    assert place.look() == 3
    place.drill("packs")
    assert place.look() == 0
    assert place.night().count("unchanged") == 2


def test_nothing_is_called_sound_beside_known_damage(place: Place) -> None:
    vault = place.folder / "vault"
    flip(place.bundles("one")[0])
    place.drill("packs", code=4)
    place.drill("objects")
    words = ("run", "--from", place.folder / "acme", "--to", vault, "--exclude", "one")
    done = repo_backup(*words, check=3).stdout
    assert "nothing new damaged, and 1 object found damaged before had not passed" in done
    assert "nothing damaged" not in done
    (row,) = [
        line
        for line in repo_backup("list", "--from", vault).stdout.splitlines()
        if line.startswith("acme/one ")
    ]
    assert "known damage stands" in row
    assert not {"ok", "ok,", "sound"} & {*row.split()}
    report = repo_backup(*words, "--json", check=3).json
    (drill,) = report["drills"]
    assert (drill["damaged"], drill["standing"]) == (0, 1)
    rows = repo_backup("list", "--from", vault, "--json").json["repositories"]
    assert {one["path"]: one["state"] for one in rows} == {"one": "damaged", "two": "ok"}
    history = repo_backup("list", "one", "--from", vault).stdout
    assert ": damaged, last checked" in history


def test_a_look_at_the_surface_that_finds_more_forgets_nothing_of_the_depth(place: Place) -> None:
    (bundle,) = place.bundles("one")
    flip(bundle)
    damaged = bundle.read_bytes()
    place.drill("packs", code=4)
    bundle.unlink()
    place.drill("objects", code=4)
    # It is there again, as damaged as before.
    bundle.write_bytes(damaged)
    place.drill("objects")
    assert place.look() == 3
    assert place.outcome(place.night(), "one")[1] == "full"


def test_damage_of_an_older_chain_changes_neither_nights_nor_status_nor_prune(
    place: Place,
) -> None:
    place.push("one")
    place.night(max_chain_length=1)
    flip(place.bundles("one")[0])
    place.drill("packs", code=4)
    assert place.look() == 0
    assert place.night().count("unchanged") == 2
    rules = Rules(since=None, within="", hourly=0, daily=1, weekly=0, monthly=0, yearly=0)
    report = prune(
        place.vault, PruneRequest(rules), events=Silence(), stop=Stop(), clock=place.clock
    )
    assert report.exit_code == 0


def test_what_no_manifest_needs_any_more_is_dropped_by_the_next_drill(place: Place) -> None:
    flip(place.bundles("one")[0])
    place.drill("packs", code=4)
    for manifest in (place.folder / "vault" / ROOT / "snapshots").iterdir():
        first = manifest
    place.night()
    first.unlink()
    place.drill("objects")
    assert load_drill_state(place.vault, place.layout, now=place.now).standing == {}


# --- Drills ---------------------------------------------------------------------------------------


def test_a_drill_that_did_not_look_at_it_carries_damage_on(place: Place) -> None:
    flip(place.bundles("one")[0])
    place.drill("packs", code=4)
    for _ in range(3):
        place.now += timedelta(hours=1)
        sampled = VerifyRequest("packs", sample_percent=50)
        report = verify(place.vault, sampled, events=Silence(), stop=Stop(), clock=place.clock)
        assert report.checked == 1
        assert place.look() == 3
    assert place.outcome(place.night(), "one")[1] == "full"


def test_of_two_drills_side_by_side_neither_hides_what_the_other_found(place: Place) -> None:
    drills = place.folder / "vault" / ROOT / "drills"
    flip(place.bundles("one")[0])
    whole = flip(place.bundles("two")[0])
    place.drill("packs", code=4)
    (before,) = drills.iterdir()
    aside = place.folder / before.name
    before.rename(aside)
    # The other knows nothing of the first, sees another damage, and finishes later.
    place.bundles("two")[0].write_bytes(whole)
    one = place.bundles("one")[0]
    one.rename(place.folder / "one.bundle")
    place.drill("objects", code=4)
    aside.rename(before)
    (place.folder / "one.bundle").rename(one)
    state = load_drill_state(place.vault, place.layout, now=place.now)
    assert len(state.standing) == 2
    assert {one.depth for one in state.standing.values()} == {"packs"}
    # The next one knows both, and the three are read as one.
    place.drill("packs", code=4)
    newest = max(drills.iterdir())
    drill = load(place.vault, place.layout.drill(newest.name.partition(".")[0]), Drill)
    assert len(drill.merged) == 2
    assert [one.key.split("/")[1] for one in drill.damaged] == ["one"]
    assert [one.key.split("/")[1] for one in drill.passed] == ["two"]
    state = load_drill_state(place.vault, place.layout, now=place.now)
    assert [key.split("/")[1] for key in state.standing] == ["one"]


def test_without_the_drills_what_the_last_manifest_names_still_counts(place: Place) -> None:
    flip(place.bundles("one")[0])
    place.drill("packs", code=4)
    place.night(code=3, exclude=("one",))
    for drill in (place.folder / "vault" / ROOT / "drills").iterdir():
        drill.unlink()
    assert place.look() == 3
    place.night(code=3, exclude=("one",))
    assert place.outcome(place.night(), "one")[1] == "full"
    assert place.look() == 0


def test_a_drill_of_a_wrong_clock_hides_nothing_that_later_ones_find(place: Place) -> None:
    now = place.now
    place.now += timedelta(days=400)
    place.drill("packs")
    place.now = now
    flip(place.bundles("one")[0])
    place.drill("packs", code=4)
    assert place.look() == 3
    assert place.outcome(place.night(), "one")[1] == "full"


# --- A source that cannot -------------------------------------------------------------------------


def gone(place: Place) -> dict[str, Any]:
    place.path("one").rename(place.folder / "away")
    return {"accept_drop": True}


def blocked(place: Place) -> dict[str, Any]:
    place.source.blocked = frozenset({"one"})
    return {}


def deselected(_place: Place) -> dict[str, Any]:
    return {"exclude": ("one",)}


def emptied(place: Place) -> dict[str, Any]:
    update_refs(place.path("one"), {MAIN: b"0" * 40})
    return {"accept_drop": True}


OUT_OF_REACH = {
    "gone": gone,
    "blocked": blocked,
    "deselected": deselected,
    "emptied": emptied,
}


@pytest.mark.parametrize("how", OUT_OF_REACH)
def test_what_no_source_gives_again_is_told_each_night_until_it_is_accepted(
    place: Place, how: str
) -> None:
    bundle = place.bundles("one")[0]
    options = OUT_OF_REACH[how](place)
    place.night(**options)
    flip(bundle)
    place.drill("packs", code=4)
    for _ in range(2):
        report = place.night(code=3, **options)
        (problem,) = report.problems
        assert problem.startswith("acme/one cannot be given back whole: ")
        assert "repo-backup accept-damage acme/one --from VAULT" in problem
        assert place.look() == 3
    done = place.accept("one")
    assert [one.uri for one in done.accepted] == [str(bundle)]
    assert place.look() == 0
    report = place.night(**options)
    assert [one for one in report.notes if "damaged objects are accepted" in one] == [
        "acme/one: 1 damaged objects are accepted from now on: what can still be restored is kept"
    ]
    report = place.night(**options)
    assert not any("accepted" in one for one in report.notes)
    (row,) = [one for one in list_vault(place.vault).repositories if one.path == "one"]
    assert [one.accepted for one in row.damaged] == [True]
    assert place.look() == 0
    request = RestoreRequest(repository="one", all=False, at=None, target=place.folder / "out.git")
    if how != "emptied":
        with pytest.raises(IntegrityError):
            restore(place.vault, request, events=Silence(), stop=Stop())


def test_what_a_listing_found_of_a_gone_repository_stands_between_the_listings(
    place: Place,
) -> None:
    options = gone(place)
    place.night(**options)
    (bundle,) = place.bundles("one")
    whole = bundle.read_bytes()
    bundle.unlink()
    place.night(code=3, **options)
    assert place.entry("one").damaged[0].found_by == "run"
    assert place.look() == 3
    bundle.write_bytes(whole)
    # A folder is listed each night.
    place.night(**options)
    assert place.look() == 0


def test_new_damage_is_not_accepted_by_what_was_accepted_before(place: Place) -> None:
    place.push("one")
    place.night()
    base, increment = place.bundles("one")
    options = gone(place)
    place.night(**options)
    flip(increment)
    place.drill("packs", code=4)
    place.night(code=3, **options)
    assert place.accept("one", dry_run=True).dry_run
    place.night(code=3, **options)
    place.accept("one")
    place.night(**options)
    flip(base)
    place.drill("packs", code=4)
    (problem,) = place.night(code=3, **options).problems
    assert base.name in problem
    done = place.accept("one")
    assert [one.uri for one in done.accepted] == [str(base)]
    assert [one.uri for one in done.before] == [str(increment)]
    place.night(**options)
    assert place.look() == 0


def test_what_was_whole_again_after_it_was_accepted_is_new_damage(place: Place) -> None:
    options = gone(place)
    place.night(**options)
    (bundle,) = place.bundles("one")
    whole = flip(bundle)
    place.drill("packs", code=4)
    place.drill("packs", code=4)
    place.accept("one")
    place.drill("packs", code=4)
    place.night(**options)
    # Found once more it is the damage that was accepted. Somebody has a copy, and puts it back.
    bundle.write_bytes(whole)
    place.drill("packs")
    flip(bundle)
    place.drill("packs", code=4)
    assert place.look() == 3
    (problem,) = place.night(code=3, **options).problems
    assert bundle.name in problem
    place.accept("one")
    place.night(**options)
    assert place.look() == 0


def test_the_same_of_what_listings_find_and_a_drill_confirms(place: Place) -> None:
    options = gone(place)
    place.night(**options)
    (bundle,) = place.bundles("one")
    whole = bundle.read_bytes()
    bundle.unlink()
    place.night(code=3, **options)
    place.accept("one")
    place.drill("objects", code=4)
    for _ in range(2):
        # That a drill finds it, too, makes no new damage of it.
        place.night(**options)
        assert place.look() == 0
    bundle.write_bytes(whole)
    place.drill("objects")
    place.night(**options)
    bundle.unlink()
    place.night(code=3, **options)
    assert place.look() == 3


def test_a_source_that_comes_back_mends_what_was_accepted(place: Place) -> None:
    options = gone(place)
    place.night(**options)
    flip(place.bundles("one")[0])
    place.drill("packs", code=4)
    place.accept("one")
    place.night(**options)
    (place.folder / "away").rename(place.path("one"))
    assert place.outcome(place.night(), "one")[1] == "full"
    (row,) = [one for one in list_vault(place.vault).repositories if one.path == "one"]
    assert row.damaged == ()
    place.assert_restores("one")


def test_only_what_is_damaged_can_be_accepted(place: Place) -> None:
    with pytest.raises(ConfigError, match="nothing that acme/one's newest state needs"):
        place.accept("one")


def test_the_command_line_accepts_by_name_in_words_and_json(place: Place) -> None:
    vault = ("--from", place.folder / "vault")
    options: Callable[[Place], dict[str, Any]] = gone
    options(place)
    place.night(accept_drop=True)
    bundle = place.bundles("one")[0]
    flip(bundle)
    place.drill("packs", code=4)
    repo_backup("accept-damage", *vault, check=2)
    repo_backup("accept-damage", "three", *vault, check=2)
    told = repo_backup("accept-damage", "acme/one", *vault, "--dry-run", "--json").json
    assert [one["uri"] for one in told["accepted"]] == [str(bundle)]
    assert (told["dry_run"], told["is_within_reach"]) == (True, False)
    listed = repo_backup("list", *vault).stdout
    assert "damaged" in listed
    assert (
        "the damage of acme/one is accepted" in repo_backup("accept-damage", "one", *vault).stdout
    )
    assert "damage accepted" in repo_backup("list", *vault).stdout
    assert "was accepted before" in repo_backup("accept-damage", "one", *vault).stdout


@pytest.mark.parametrize("more", [0, 1], ids=["one capture", "two captures"])
def test_of_what_is_gone_and_damaged_no_more_is_promised_than_is_left(
    place: Place, more: int
) -> None:
    vault = ("--from", place.folder / "vault")
    state = to_be_kept(place.path("one"))
    for _ in range(more):
        place.push("one")
        place.night(max_chain_length=1)
    gone(place)
    place.night(accept_drop=True)
    flip(place.bundles("one")[-1])
    place.drill("packs", code=4)
    place.accept("one")
    everything = repo_backup("restore", "--all", *vault, place.folder / "all").stdout
    refused = repo_backup("restore", "one", *vault, place.folder / "one.git", check=4).stderr
    if not more:
        assert "nothing of it can be restored: all of its captures are damaged" in everything
        assert "by name" not in everything
        assert "hint: no earlier capture of it is without this damage" in refused
        assert "--at" not in refused
        return
    first = place.bundles("one")[0].name.partition(".")[0]
    assert "its newest state is damaged: 1 capture is left" in everything
    assert f"(restore it by name with --at {first})" in everything
    assert f"hint: restore an earlier state with --at {first}" in refused
    repo_backup("restore", "one", *vault, "--at", first, place.folder / "one.git")
    assert_same_mirror(place.folder / "one.git", state)


def test_in_a_bucket_with_versions_what_was_accepted_first_counts(
    tmp_path: Path, moto_http: S3Server
) -> None:
    bucket = "accepted-with-versions"
    moto_http.make_bucket(bucket, versioned=True)
    env = {**moto_http.environment(), "AWS_ENDPOINT_URL": moto_http.endpoint_url}
    for name in ("one", "two"):
        path = init_bare(tmp_path / "acme" / f"{name}.git")
        update_refs(path, {MAIN: commit_chain(path, 2, label=name.encode())[-1]})
    run_words = ("run", "--from", tmp_path / "acme", "--to", f"s3://{bucket}", "--accept-drop")
    vault = ("--from", f"s3://{bucket}")
    repo_backup(*run_words, env=env)
    (tmp_path / "acme" / "one.git").rename(tmp_path / "away")
    repo_backup(*run_words, env=env)
    with moto_http.client() as client:
        found = client.list_objects_v2(Bucket=bucket)["Contents"]
        (key,) = [one["Key"] for one in found if "/one/" in one["Key"] and "bundle" in one["Key"]]
        # Every version is gone: nothing else is left to be read.
        for one in client.list_object_versions(Bucket=bucket, Prefix=key)["Versions"]:
            client.delete_object(Bucket=bucket, Key=key, VersionId=one["VersionId"])
        repo_backup("verify", *vault, env=env, check=4)
        repo_backup(*run_words, env=env, check=3)
        repo_backup("accept-damage", "one", *vault, env=env)
        repo_backup(*run_words, env=env)
        accepted = client.list_objects_v2(Bucket=bucket, Prefix=f"{ROOT}/accepted/")["Contents"]
        (document,) = [one["Key"] for one in accepted]
        # By somebody who has the right, though the template gives it to no run.
        client.put_object(Bucket=bucket, Key=document, Body=b"no document")
        repo_backup(*run_words, env=env)
        repo_backup("status", *vault, env=env)
