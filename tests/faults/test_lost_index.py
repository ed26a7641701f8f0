"""Manifests that are gone, with the repositories still there: damage, and never an empty owner."""

import shutil
from datetime import UTC, datetime
from pathlib import Path

import pytest

from backup.commands.accepting import AcceptRequest, accept_damage
from backup.commands.doctor import doctor
from backup.commands.forget import ForgetRequest, forget
from backup.commands.listing import list_history, list_vault
from backup.commands.remotes import NetworkSettings
from backup.commands.restore import RestoreRequest, restore
from backup.commands.status import status
from backup.commands.verify import VerifyRequest, verify
from backup.destinations.folder import FolderDestination
from backup.errors import ConfigError, IndexMissing
from backup.results import Diagnosis, RestoreReport
from backup.sources.plain import FolderSource
from backup.stopping import Stop
from backup.vault.manifest import roots
from tests.support.faults import Heard
from tests.support.git import commit_chain, init_bare, update_refs
from tests.support.mirrors import assert_same_mirror, mirror_state
from tests.support.vaults import Silence, files, run_at

OWNERS = ("one", "two")


class Vault:
    """Two owners with a repository each; the manifests of the first are gone."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.place = folder, folder / "vault"
        self.destination = FolderDestination(self.place)
        for owner in OWNERS:
            self.push(owner)
            assert self.run(owner) == 0

    def push(self, owner: str) -> Path:
        path = self.folder / owner / f"{owner}-code.git"
        if not path.exists():
            init_bare(path)
        update_refs(path, {b"refs/heads/main": commit_chain(path, 2, label=owner.encode())[-1]})
        return path

    def run(self, owner: str) -> int:
        source = FolderSource(self.folder / owner, owner=owner)
        self.report = run_at(datetime.now(UTC), source, self.destination)
        return self.report.exit_code

    def lose(self, owner: str) -> None:
        shutil.rmtree(self.place / "folder" / owner / "snapshots")

    def restore(self, name: str | None, target: str, at: str | None = None) -> RestoreReport:
        request = RestoreRequest(name, all=name is None, at=at, target=self.folder / target)
        return restore(self.destination, request, events=Heard(), stop=Stop())


@pytest.fixture
def vault(tmp_path: Path) -> Vault:
    made = Vault(tmp_path)
    made.lose("one")
    return made


def test_status_and_verify_name_the_root(vault: Vault) -> None:
    def look(*owners: str) -> tuple[int, list[str]]:
        now = datetime.now(UTC)
        report = status(vault.destination, owners=owners, max_age_hours=26, now=now)
        return report.exit_code, [f.message for f in report.findings if f.severity == "error"]

    for owners in ((), ("one",), OWNERS):
        code, (said,) = look(*owners)
        assert code == 3
        assert str(vault.place / "folder" / "one") in said
        assert "objects of 1 repository (first one-code/" in said
    assert look("two") == (0, [])
    report = verify(vault.destination, VerifyRequest("objects"), events=Silence(), stop=Stop())
    assert (report.exit_code, report.checked) == (4, 1)
    (damage,) = report.damaged
    assert damage.uri.endswith("folder/one/snapshots")
    # No run takes a full of what it refuses.
    assert "how manifests come back" in damage.fix


def test_doctor_names_the_root(vault: Vault) -> None:
    source = FolderSource(vault.folder / "one", owner="one")

    def told() -> list[str]:
        report = doctor(
            [source],
            vault.destination,
            look_at_destination=lambda: Diagnosis(()),
            network=NetworkSettings(),
            stop=Stop(),
            clock=lambda: datetime.now(UTC),
        )
        return [one.message for one in report.findings if one.severity == "error"]

    (error,) = told()
    assert "folder/one/ has no manifest, and objects of 1 repository" in error
    shutil.rmtree(vault.place / "folder" / "one")
    assert told() == []


def test_list_refuses(vault: Vault) -> None:
    with pytest.raises(IndexMissing, match="has no manifest"):
        list_vault(vault.destination)
    with pytest.raises(IndexMissing, match="has no manifest"):
        list_history(vault.destination, "one-code")


def test_what_is_to_be_forgotten_or_accepted_may_be_of_the_root(vault: Vault) -> None:
    now = datetime.now(UTC)
    with pytest.raises(IndexMissing, match="has no manifest"):
        forget(vault.destination, ForgetRequest("one/one-code"), now=now)
    with pytest.raises(IndexMissing, match="has no manifest"):
        accept_damage(vault.destination, AcceptRequest("one/one-code"), now=now)
    # What can be seen is not held up by it.
    request = ForgetRequest("two/two-code", dry_run=True)
    assert forget(vault.destination, request, now=now).repository.path == "two-code"
    with pytest.raises(ConfigError, match="nothing that two/two-code's newest state needs"):
        accept_damage(vault.destination, AcceptRequest("two/two-code"), now=now)


@pytest.mark.parametrize("at", [None, "2099-01-01"])
def test_restore_gives_back_the_other_owner_and_fails_for_this_one_by_name(
    at: str | None, vault: Vault
) -> None:
    report = vault.restore(None, "all", at)
    assert report.exit_code == 4
    (failed,) = report.failed
    assert failed.startswith("folder/one: ")
    (restored,) = report.restored
    assert_same_mirror(restored.path, mirror_state(vault.folder / "two" / "two-code.git"))
    assert vault.restore("two-code", "two.git", at).exit_code == 0
    with pytest.raises(IndexMissing, match="has no manifest"):
        vault.restore("one-code", "one.git", at)
    with pytest.raises(IndexMissing, match="has no manifest"):
        vault.restore("one*", "several", at)


def test_a_checkpoint_does_not_stand_for_the_manifests_that_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    vault = Vault(tmp_path)
    monkeypatch.setattr("backup.commands.owner.CHECKPOINT_SECONDS", 0.0)
    other = init_bare(vault.folder / "one" / "two-code.git")
    update_refs(other, {b"refs/heads/main": commit_chain(other, 2, label=b"two")[-1]})
    assert vault.run("one") == 0
    assert (vault.place / "folder" / "one" / "checkpoints").exists()
    vault.lose("one")
    report = status(vault.destination, owners=(), max_age_hours=26, now=datetime.now(UTC))
    assert report.exit_code == 3
    assert any("has no manifest" in one.message for one in report.findings)
    with pytest.raises(IndexMissing):
        list_vault(vault.destination)
    found = verify(vault.destination, VerifyRequest("objects"), events=Silence(), stop=Stop())
    assert found.exit_code == 4
    assert any(one.uri.endswith("folder/one/snapshots") for one in found.damaged)
    assert vault.restore(None, "all").exit_code == 4
    assert vault.run("one") == 1
    assert vault.run("one") == 0


def test_a_first_run_that_died_after_a_checkpoint_lost_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("backup.commands.owner.CHECKPOINT_SECONDS", 0.0)
    vault = Vault(tmp_path)
    root = vault.place / "folder" / "one"
    # As it lies there when the end of the run is missing.
    assert [*(root / "checkpoints").iterdir()]
    vault.lose("one")
    request = VerifyRequest("objects")
    assert verify(vault.destination, request, events=Silence(), stop=Stop()).exit_code == 0
    assert vault.run("one") == 0


def test_a_damaged_manifest_of_one_owner_keeps_no_other_from_coming_back(tmp_path: Path) -> None:
    vault = Vault(tmp_path)
    (manifest,) = (vault.place / "folder" / "one" / "snapshots").iterdir()
    manifest.write_bytes(manifest.read_bytes()[:-1])
    report = vault.restore(None, "all")
    assert (report.exit_code, len(report.restored)) == (4, 1)
    assert manifest.name in report.failed[0]


def test_a_run_captures_everything_fails_once_and_is_an_ordinary_night_the_next_time(
    vault: Vault,
) -> None:
    before = files(vault.place)
    assert vault.run("one") == 1
    (problem,) = vault.report.problems
    assert "has no manifest, and objects of 1 repository" in problem
    assert not any("a new vault" in note for note in vault.report.notes)
    assert [(one.status, one.plan) for one in vault.report.outcomes] == [("captured", "full")]
    assert before < files(vault.place)
    assert vault.run("one") == 0
    assert vault.restore(None, "all").exit_code == 0


@pytest.mark.parametrize("left", ["repositories", "lfs", "exports"])
def test_whatever_runs_store_of_repositories_makes_a_root(left: str, tmp_path: Path) -> None:
    name = {
        "repositories": "repositories/a/1/20261101T000000Z-abcd1234.full.bundle",
        "lfs": f"lfs/aa/aa/{'a' * 64}",
        "exports": "exports/a/2026-11-01-00-00-00.tar.gz",
    }[left]
    path = tmp_path / "vault" / "github.com" / "acme" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b"something")
    destination = FolderDestination(tmp_path / "vault")
    (layout,) = roots(destination)
    assert layout.prefix == "github.com/acme/"
    with pytest.raises(IndexMissing):
        list_vault(destination)


def test_a_folder_of_another_program_is_no_root(tmp_path: Path) -> None:
    for name in ("repositories/a/b/c.bundle", "lfs/objects/file", "exports/x.tar.gz", "other/x"):
        path = tmp_path / "vault" / "some" / "where" / name
        path.parent.mkdir(parents=True)
        path.write_bytes(b"something")
    destination = FolderDestination(tmp_path / "vault")
    assert roots(destination) == ()
    with pytest.raises(ConfigError, match="holds no snapshots"):
        list_vault(destination)
