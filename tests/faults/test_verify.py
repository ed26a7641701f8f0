"""Damage of every kind is found at the depth that reads it, and named with what depends on it.

Two repositories over five nights: ``chained`` has a chain of two bundles and one of three,
``quiet`` one bundle that all nights need.
"""

import gzip
import hashlib
import json
import re
import secrets
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from backup.commands.run import RunOptions, run
from backup.commands.verify import VerifyRequest, verify
from backup.destinations.folder import FolderDestination
from backup.results import VerifyReport
from backup.sources.plain import FolderSource
from backup.stopping import Stop
from backup.vault.documents import Drill, DrillLine, decode
from tests.support.git import commit_chain, init_bare, update_refs
from tests.support.mirrors import assert_same_mirror
from tests.support.program import repo_backup
from tests.support.proxy import FaultProxy, ProxyFault
from tests.support.runner import Runner
from tests.support.s3server import S3Server
from tests.support.times import Timed
from tests.support.vaults import Silence, to_be_kept

ROOT = "folder/acme"
DEPTHS = ("objects", "packs", "restore")
NIGHTS = 5
BEGAN = datetime(2026, 11, 1, 3, tzinfo=UTC)


@dataclass(frozen=True)
class Vault:
    """A vault as files, and the ids of its snapshots, the oldest first."""

    folder: Path
    snapshots: tuple[str, ...]

    def bundles(self, name: str) -> list[Path]:
        return sorted((self.folder / ROOT / "repositories" / name).glob("*/*.bundle"))

    def records(self, name: str) -> list[Path]:
        return sorted((self.folder / ROOT / "repositories" / name).glob("*/*.record.json.gz"))

    def manifest(self, number: int) -> Path:
        return self.folder / ROOT / "snapshots" / f"{self.snapshots[number]}.json.gz"

    def verify(self, depth: Any, **more: Any) -> VerifyReport:
        clock = partial(_as_it_is, BEGAN + timedelta(days=30))
        return verify(
            Timed(FolderDestination(self.folder), clock),
            VerifyRequest(depth, **more),
            events=Silence(),
            stop=Stop(),
            clock=clock,
        )


def _as_it_is(moment: datetime) -> datetime:
    return moment


@dataclass(frozen=True)
class Versioned:
    """A vault in a bucket that keeps versions."""

    client: Any
    bucket: str
    env: Mapping[str, str]
    snapshots: tuple[str, ...]

    def key(self, ending: str) -> str:
        """Find the object of a kind that the last night wrote, or, of fulls, the first."""
        night = self.snapshots[0 if ending == ".full.bundle" else -1]
        found = self.client.list_objects_v2(Bucket=self.bucket, Prefix=f"{ROOT}/repositories/")
        (key,) = (one["Key"] for one in found["Contents"] if one["Key"].endswith(night + ending))
        return str(key)

    def damaged(self, depth: str) -> list[dict[str, Any]]:
        words = ("verify", "--from", f"s3://{self.bucket}", "--depth", depth, "--json")
        done = repo_backup(*words, env=self.env, check=None)
        found: list[dict[str, Any]] = done.json["damaged"]
        assert done.code == (4 if found else 0)
        return found


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Vault:
    folder = tmp_path_factory.mktemp("verify")
    tips = {}
    for name in ("chained", "quiet"):
        path = init_bare(folder / "acme" / f"{name}.git")
        tips[name] = commit_chain(path, 3, label=name.encode())[-1]
        update_refs(path, {b"refs/heads/main": tips[name]})
    ids = []
    for night in range(NIGHTS):
        path = folder / "acme" / "chained.git"
        if night:
            label = f"night {night}".encode()
            tips["chained"] = commit_chain(path, 2, start=tips["chained"], label=label)[-1]
            update_refs(path, {b"refs/heads/main": tips["chained"]})
        moment = BEGAN + timedelta(days=night)
        report = run(
            [FolderSource(folder / "acme", owner="acme")],
            Timed(FolderDestination(folder / "vault"), partial(_as_it_is, moment)),
            # Two bundles in the first chain; in the second three.
            RunOptions(max_chain_length=2 if night < 3 else 50),
            events=Silence(),
            stop=Stop(),
            clock=partial(_as_it_is, moment),
        )
        ids.append(report.snapshot_id)
    vault = Vault(folder / "vault", tuple(ids))
    kinds = [path.name.split(".")[1] for path in vault.bundles("chained")]
    assert kinds == ["full", "incremental", "full", "incremental", "incremental"]
    assert len(vault.bundles("quiet")) == 1
    return vault


@pytest.fixture
def vault(made: Vault, tmp_path: Path) -> Vault:
    copy = shutil.copytree(made.folder, tmp_path / "vault")
    for path in copy.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    return Vault(copy, made.snapshots)


# --- Sound ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("depth", DEPTHS)
def test_a_sound_vault_is_found_sound_and_the_result_is_noted(vault: Vault, depth: str) -> None:
    report = vault.verify(depth)
    assert (report.checked, report.damaged, report.exit_code) == (2, (), 0)
    (noted,) = (vault.folder / ROOT / "drills").glob("*.json.gz")
    drill = decode(noted.read_bytes(), Drill, where="the drill")
    assert (drill.depth, len(drill.checked), drill.damaged) == (depth, 2, ())
    assert all(line.ok for line in drill.checked)


def test_a_vault_that_cannot_be_written_is_verified_all_the_same(vault: Vault) -> None:
    (vault.folder / ROOT / "drills").write_text("in the way")
    assert vault.verify("objects").exit_code == 0


# --- Damage --------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) * 3 // 4] ^= 1
    path.write_bytes(data)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


def swap(path: Path, other: Path) -> None:
    mine, theirs = path.read_bytes(), other.read_bytes()
    path.write_bytes(theirs)
    other.write_bytes(mine)


@dataclass(frozen=True)
class Case:
    """One kind of damage.

    Attributes:
        do: damages the vault and gives the objects that are to be named.
        seen_at: the depths at which it is found.
        nights: of which snapshots are affected, from 0.
        perhaps_at: the depths at which chance decides, such as whether two sizes are equal.
    """

    do: Callable[[Vault], list[Path]]
    seen_at: tuple[str, ...]
    nights: tuple[int, ...]
    perhaps_at: tuple[str, ...] = ()


def on_bundle(
    name: str, number: int, act: Callable[[Path], object]
) -> Callable[[Vault], list[Path]]:
    def do(vault: Vault) -> list[Path]:
        path = vault.bundles(name)[number]
        act(path)
        return [path]

    return do


def swapped_bundles(vault: Vault) -> list[Path]:
    first, second = vault.bundles("chained")[3:]
    swap(first, second)
    return [first, second]


def old_under_a_new_key(vault: Vault) -> list[Path]:
    old, new = vault.bundles("chained")[0], vault.bundles("chained")[2]
    new.write_bytes(old.read_bytes())
    return [new]


def missing_record(vault: Vault) -> list[Path]:
    path = vault.records("chained")[1]
    path.unlink()
    return [path]


def cut_record(vault: Vault) -> list[Path]:
    path = vault.records("chained")[4]
    cut(path)
    return [path]


def foreign_record(vault: Vault) -> list[Path]:
    path = vault.records("chained")[4]
    path.write_bytes(vault.records("quiet")[0].read_bytes())
    return [path]


def older_record_made_current(vault: Vault) -> list[Path]:
    path = vault.records("chained")[4]
    path.write_bytes(vault.records("chained")[3].read_bytes())
    return [path]


def cut_manifest(vault: Vault) -> list[Path]:
    cut(vault.manifest(1))
    return [vault.manifest(1)]


EVERYWHERE = DEPTHS
READS = ("packs",)
CASES: Mapping[str, Case] = {
    "a base that is gone": Case(on_bundle("chained", 2, Path.unlink), EVERYWHERE, (2, 3, 4)),
    "a base of old that is gone": Case(on_bundle("chained", 0, Path.unlink), EVERYWHERE, (0, 1)),
    "an increment that is gone": Case(on_bundle("chained", 3, Path.unlink), EVERYWHERE, (3, 4)),
    "a base that is cut": Case(on_bundle("quiet", 0, cut), EVERYWHERE, (0, 1, 2, 3, 4)),
    "a flipped bit": Case(on_bundle("quiet", 0, flip), ("packs", "restore"), (0, 1, 2, 3, 4)),
    "a flipped bit of old": Case(on_bundle("chained", 1, flip), READS, (1,)),
    "a flipped bit in the last": Case(on_bundle("chained", 4, flip), ("packs", "restore"), (4,)),
    "two objects swapped": Case(
        swapped_bundles, ("packs", "restore"), (3, 4), perhaps_at=("objects",)
    ),
    "an old object under a new key": Case(old_under_a_new_key, EVERYWHERE, (2, 3, 4)),
    "a record that is gone": Case(missing_record, EVERYWHERE, (1,)),
    "a record that is cut": Case(cut_record, EVERYWHERE, (4,)),
    "a record of another repository": Case(foreign_record, EVERYWHERE, (4,)),
    "an older record made current": Case(older_record_made_current, EVERYWHERE, (4,)),
    "a manifest that is cut": Case(cut_manifest, EVERYWHERE, (1,)),
}


def pairs(seen: bool) -> Iterator[tuple[str, str]]:
    for name, case in CASES.items():
        for depth in DEPTHS:
            if depth not in case.perhaps_at and (depth in case.seen_at) == seen:
                yield name, depth


@pytest.mark.parametrize(("name", "depth"), [*pairs(seen=True)])
def test_damage_is_named_with_every_snapshot_that_depends_on_it(
    vault: Vault, name: str, depth: str
) -> None:
    case = CASES[name]
    objects = case.do(vault)
    report = vault.verify(depth)
    assert report.exit_code == 4
    assert {one.uri for one in report.damaged} == {str(path) for path in objects}
    snapshots = {snapshot for one in report.damaged for snapshot in one.snapshots}
    assert snapshots == {vault.snapshots[night] for night in case.nights}
    repositories = {name for one in report.damaged for name in one.repositories}
    if "manifest" not in name:
        assert repositories == {f"{ROOT}/{objects[0].parent.parent.name}"}
    (noted,) = (vault.folder / ROOT / "drills").glob("*.json.gz")
    drill = decode(noted.read_bytes(), Drill, where="the drill")
    assert {line.key for line in drill.damaged} == {
        str(path.relative_to(vault.folder / ROOT)) for path in objects
    }


@pytest.mark.parametrize(("name", "depth"), [*pairs(seen=False)])
def test_a_depth_that_does_not_read_it_says_nothing_of_it(
    vault: Vault, name: str, depth: str
) -> None:
    CASES[name].do(vault)
    assert vault.verify(depth).exit_code == 0


@pytest.mark.parametrize("name", [one for one in CASES if "manifest" not in one])
def test_a_restore_of_what_is_damaged_refuses_and_of_the_rest_succeeds(
    vault: Vault, name: str, tmp_path: Path
) -> None:
    case = CASES[name]
    objects = case.do(vault)
    repository = objects[0].parent.parent.name
    for night, snapshot in enumerate(vault.snapshots):
        target = tmp_path / f"night-{night}.git"
        done = repo_backup(
            *("restore", repository, "--from", vault.folder, "--at", snapshot, target), check=None
        )
        assert done.code == (4 if night in case.nights else 0), (night, done.stderr)
        assert target.exists() == (night not in case.nights)


def test_damage_of_old_hides_none_of_the_newest_state(vault: Vault) -> None:
    new = CASES["a flipped bit in the last"].do(vault)
    old = CASES["a base of old that is gone"].do(vault)
    for depth in ("packs", "restore"):
        found = {one.uri for one in vault.verify(depth).damaged}
        assert found == {str(path) for path in (*old, *new)}


def test_a_bundle_whose_pack_is_not_what_git_takes_is_found(vault: Vault) -> None:
    """The record agrees with the object, and still git cannot use it."""
    bundle, record = vault.bundles("quiet")[0], vault.records("quiet")[0]
    flip(bundle)
    document = json.loads(gzip.decompress(record.read_bytes()))
    document["chain"][0]["sha256"] = hashlib.sha256(bundle.read_bytes()).hexdigest()
    record.write_bytes(gzip.compress(json.dumps(document).encode()))
    for depth in ("packs", "restore"):
        (damage,) = vault.verify(depth).damaged
        assert damage.uri == str(bundle)
        assert "index-pack" in damage.problem
    assert vault.verify("objects").exit_code == 0


# --- Samples -------------------------------------------------------------------------------------


def test_a_sample_checks_less_and_says_how_much(vault: Vault) -> None:
    drilled: list[DrillLine] = []
    for day in range(2):
        clock = partial(_as_it_is, BEGAN + timedelta(days=day))
        request = VerifyRequest("objects", sample_percent=50)
        vault_then = Timed(FolderDestination(vault.folder), clock)
        report = verify(vault_then, request, events=Silence(), stop=Stop(), clock=clock)
        assert (report.checked, report.repositories) == (1, 2)
        (*_, newest) = sorted((vault.folder / ROOT / "drills").glob("*.json.gz"))
        drilled += decode(newest.read_bytes(), Drill, where="the drill").checked
    assert len({one.host_id for one in drilled}) == 2


# --- The command line, and a bucket ---------------------------------------------------------------


def test_the_command_line_tells_damage_by_exit_code_words_and_json(vault: Vault) -> None:
    sound = repo_backup("verify", "--from", vault.folder, "--depth", "packs")
    assert "2 repositories verified (packs): nothing is damaged" in sound.stdout
    (bundle,) = CASES["a flipped bit"].do(vault)
    repo_backup("verify", "--from", vault.folder)
    found = repo_backup("verify", "--from", vault.folder, "--depth", "restore", check=4)
    assert found.stdout.startswith(f"damaged: {bundle}: ")
    assert "2 repositories verified (restore): 1 object is damaged" in found.stdout
    half = repo_backup("verify", "--from", vault.folder, "--sample-percent", "50")
    assert "1 of 2 repositories verified (objects): nothing is damaged of what was" in half.stdout
    assert "1 object that earlier verifications found damaged still counts" in half.stdout
    answer = repo_backup(
        "verify", "--from", vault.folder, "--depth", "packs", "--json", check=4
    ).json
    assert (answer["checked"], answer["repositories"], answer["standing"]) == (2, 2, 0)
    assert answer.keys() == {
        "depth",
        "checked",
        "repositories",
        "standing",
        "damaged",
        "not_readable_now",
        "newer_format",
        "not_verified",
        "not_searched",
    }
    (damage,) = answer["damaged"]
    assert damage["uri"] == str(bundle)
    assert damage["repositories"] == [f"{ROOT}/quiet"]
    assert damage["snapshots"] == list(vault.snapshots)
    hidden = repo_backup("verify", "--from", vault.folder, "--hide-private-names", "true")
    assert "2 repositories" in hidden.stdout
    repo_backup("verify", "--from", vault.folder, "--sample-percent", "0", check=2)


def test_the_next_run_mends_the_newest_state_and_verify_tells_what_stays_lost(
    tmp_path: Path,
) -> None:
    source, vault = tmp_path / "acme", tmp_path / "vault"
    path = init_bare(source / "widgets.git")
    update_refs(path, {b"refs/heads/main": commit_chain(path, 3)[-1]})
    first = repo_backup("run", "--from", source, "--to", vault, "--json").json["snapshot"]
    (bundle,) = vault.rglob("*.full.bundle")
    bundle.unlink()
    again = repo_backup("run", "--from", source, "--to", vault, "--json").json
    assert [one["plan"] for one in again["repositories"]] == ["full"]
    (damage,) = repo_backup("verify", "--from", vault, "--json", check=4).json["damaged"]
    assert (damage["uri"], damage["snapshots"]) == (str(bundle), [first])
    assert "older states damaged" in repo_backup("list", "--from", vault).stdout
    repo_backup("restore", "widgets", "--from", vault, tmp_path / "back.git")
    assert_same_mirror(tmp_path / "back.git", to_be_kept(path))


def test_a_bucket_is_verified_with_few_requests(
    made: Vault, tmp_path: Path, moto_http: S3Server
) -> None:
    moto_http.make_bucket("verified")
    with moto_http.client() as client:
        for path in made.folder.rglob("*"):
            if path.is_file():
                key = str(path.relative_to(made.folder))
                client.put_object(Bucket="verified", Key=key, Body=path.read_bytes())
        env = {**moto_http.environment(), "AWS_ENDPOINT_URL": moto_http.endpoint_url}
        for depth in DEPTHS:
            done = repo_backup(
                "verify", "--from", "s3://verified", "--depth", depth, "--json", env=env
            )
            assert (done.json["depth"], done.json["checked"]) == (depth, 2)
            assert done.json["damaged"] == done.json["not_readable_now"] == []
        found = client.list_objects_v2(Bucket="verified", Prefix=f"{ROOT}/drills/")
        assert found["KeyCount"] == 3
        lost = str(made.bundles("chained")[2].relative_to(made.folder))
        client.delete_object(Bucket="verified", Key=lost)
        answer = repo_backup("verify", "--from", "s3://verified", "--json", env=env, check=4).json
        assert [one["uri"] for one in answer["damaged"]] == [f"s3://verified/{lost}"]


def test_the_action_tells_damage_by_summary_errors_and_exit_code(
    vault: Vault, tmp_path: Path
) -> None:
    runner = Runner(tmp_path / "runner", "https://github.example.com")
    inputs = {"command": "verify", "token": "", "destination": str(vault.folder)}
    sound = runner.step(**inputs, depth="restore")
    assert (sound.code, sound.outputs, sound.errors) == (0, {"result": "success"}, [])
    assert sound.summary.startswith("## ✅ Nothing is damaged")
    assert "2 repositories verified" in sound.summary
    (bundle,) = CASES["a flipped bit"].do(vault)
    found = runner.step(**inputs, depth="packs")
    assert (found.code, found.outputs) == (4, {"result": "failed"})
    assert found.errors[0].startswith(f"{bundle}: ")
    assert f"{NIGHTS} snapshots depend on it" in found.errors[0]
    assert found.summary.startswith("## ❌ Stored data is damaged")


def test_the_history_of_a_repository_tells_when_it_was_last_proved(vault: Vault) -> None:
    def drill(name: str) -> Any:
        answer = repo_backup("list", name, "--from", vault.folder, "--json").json
        return answer["repository"]["drill"]

    assert drill("quiet") is None
    repo_backup("verify", "--from", vault.folder, "--depth", "restore")
    assert (drill("quiet")["depth"], drill("quiet")["ok"]) == ("restore", True)
    told = repo_backup("list", "quiet", "--from", vault.folder).stdout.splitlines()[0]
    assert told.endswith("(restore): sound")
    # One that cannot be read is passed over for the one before.
    (vault.folder / ROOT / "drills" / f"{'9' * 4}0101T000000Z-ffff.json.gz").write_bytes(b"no")
    assert drill("chained")["ok"]
    CASES["a flipped bit"].do(vault)
    repo_backup("verify", "--from", vault.folder, "--depth", "packs", check=4)
    assert (drill("quiet")["depth"], drill("quiet")["ok"]) == ("packs", False)
    assert drill("chained")["ok"]


# --- Versions -------------------------------------------------------------------------------------


@pytest.fixture
def versioned(tmp_path: Path, moto_http: S3Server) -> Iterator[Versioned]:
    """Make a vault in a bucket that keeps versions: a full, an increment, and their records."""
    bucket = f"versions-{secrets.token_hex(4)}"
    moto_http.make_bucket(bucket, versioned=True)
    env = {**moto_http.environment(), "AWS_ENDPOINT_URL": moto_http.endpoint_url}
    path = init_bare(tmp_path / "acme" / "widgets.git")
    with moto_http.client() as client:
        ids = []
        for night in range(2):
            tip = commit_chain(path, 2, label=b"%d" % night)[-1]
            update_refs(path, {b"refs/heads/%d" % night: tip})
            words = ("run", "--from", tmp_path / "acme", "--to", f"s3://{bucket}", "--json")
            ids.append(repo_backup(*words, env=env).json["snapshot"])
        yield Versioned(client, bucket, env, tuple(ids))


@pytest.mark.parametrize(
    ("ending", "snapshots"),
    [(".full.bundle", (0, 1)), (".incremental.bundle", (1,)), (".record.json.gz", (1,))],
)
def test_an_object_of_which_another_version_is_current_is_damaged(
    versioned: Versioned, ending: str, snapshots: tuple[int, ...], tmp_path: Path
) -> None:
    assert versioned.damaged("objects") == []
    key = versioned.key(ending)
    first = versioned.client.list_object_versions(Bucket=versioned.bucket, Prefix=key)
    (written,) = first["Versions"]
    whole = versioned.client.get_object(Bucket=versioned.bucket, Key=key)["Body"].read()
    # As long as the other, so that no size tells.
    other = whole[:-1] + bytes([whole[-1] ^ 1])
    put = versioned.client.put_object(Bucket=versioned.bucket, Key=key, Body=other)
    for depth in DEPTHS:
        (found,) = versioned.damaged(depth)
        assert found["uri"] == f"s3://{versioned.bucket}/{key}"
        assert found["snapshots"] == [versioned.snapshots[number] for number in snapshots]
        expected = f"its version {put['VersionId']} is current, {written['VersionId']} was written"
        assert found["problem"] == expected
    # What is said of it elsewhere is not that it is lost: restore reads what was written.
    vault = ("--from", f"s3://{versioned.bucket}")
    said = repo_backup("status", *vault, env=versioned.env, check=3).stdout
    assert "widgets can be given back only from versions that are not current" in said
    assert "where the written versions are made current again, verify clears this" in said
    assert "cannot be given back" not in said
    listed = repo_backup("list", *vault, env=versioned.env).stdout
    assert "damaged in current versions" in listed
    repo_backup("restore", "widgets", tmp_path / "now.git", *vault, env=versioned.env)
    # The older one is made current again: it is the one that was written.
    versioned.client.delete_object(Bucket=versioned.bucket, Key=key, VersionId=put["VersionId"])
    for depth in DEPTHS:
        assert versioned.damaged(depth) == []
    repo_backup("status", *vault, env=versioned.env)


def test_an_older_version_made_current_is_damage(versioned: Versioned) -> None:
    key = versioned.key(".incremental.bundle")
    client, bucket = versioned.client, versioned.bucket
    whole = client.get_object(Bucket=bucket, Key=key)["Body"].read()
    (written,) = client.list_object_versions(Bucket=bucket, Prefix=key)["Versions"]
    # Somebody had written there before, and the version that counts is taken away.
    client.delete_object(Bucket=bucket, Key=key, VersionId=written["VersionId"])
    client.put_object(Bucket=bucket, Key=key, Body=whole[:-1] + bytes([whole[-1] ^ 1]))
    for depth in DEPTHS:
        (found,) = versioned.damaged(depth)
        assert found["uri"] == f"s3://{bucket}/{key}"


def test_who_may_not_list_versions_is_told_and_verifies_the_rest(
    versioned: Versioned, moto_http: S3Server
) -> None:
    denied = ProxyFault(
        action="refuse",
        target=r"\?.*versions",
        status=403,
        body=b"<Error><Code>AccessDenied</Code></Error>",
        times=None,
    )
    with FaultProxy(moto_http.endpoint_url, denied) as proxy:
        env = {**versioned.env, "AWS_ENDPOINT_URL": proxy.url}
        words = ("verify", "--from", f"s3://{versioned.bucket}", "--json")
        done = repo_backup(*words, env=env)
        assert done.json["damaged"] == []
        assert "versions are not compared" in done.stderr


def test_the_next_run_tells_what_the_last_verification_found(tmp_path: Path) -> None:
    path = init_bare(tmp_path / "acme" / "widgets.git")
    update_refs(path, {b"refs/heads/main": commit_chain(path, 3)[-1]})
    run = ("run", "--from", tmp_path / "acme", "--to", tmp_path / "vault")
    assert repo_backup(*run, "--json").json["drills"] == []
    verify = ("verify", "--from", tmp_path / "vault")
    repo_backup(*verify, "--depth", "restore")
    (drill,) = repo_backup(*run, "--json").json["drills"]
    assert (drill["owner"], drill["depth"], drill["checked"], drill["damaged"]) == (
        *("acme", "restore", 1, 0),
    )
    (bundle,) = (tmp_path / "vault").rglob("*.full.bundle")
    bundle.unlink()
    repo_backup(*verify, check=4)
    told = repo_backup(*run).stdout
    assert re.search(r"acme was last verified on \S+ \(depth objects, .*: 1 objects damaged", told)
