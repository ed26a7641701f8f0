"""Whatever stands in a document of a vault: every command ends with an answer or an error of ours.

Each document in turn is spoilt in many ways, and every command that reads a vault meets each of
them. None may end as an internal error, and a restore of everything gives back all repositories
that the document has nothing to do with.

A part of it runs with the other tests. `HOSTILE_MUTATIONS=200` gives each document so many, and
lets every command read each of them; that takes some hours.
"""

import gzip
import io
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from backup.commands.accepting import AcceptRequest, accept_damage
from backup.commands.doctor import doctor
from backup.commands.forget import ForgetRequest, forget
from backup.commands.listing import list_history, list_vault
from backup.commands.prune import PruneRequest, prune
from backup.commands.remotes import NetworkSettings
from backup.commands.restore import RestoreRequest, restore
from backup.commands.run import RunOptions, run
from backup.commands.status import status
from backup.commands.verify import VerifyRequest, verify
from backup.destinations.memory import MemoryDestination
from backup.errors import BackupError, ExitCode, IntegrityError
from backup.model import Destination, Key, Repository, RunReport, Selection
from backup.report import document as documents
from backup.report import terminal
from backup.report.summary import run_summary
from backup.results import Diagnosis, RestoreReport
from backup.retention import Rules
from backup.sources.plain import FolderSource
from backup.stopping import Stop
from backup.vault.documents import STORED, Ids, Manifest, decode, encode
from backup.vault.layout import Layout, bundles_beside, folder_of, ids_key
from tests.support.dated import DatedDestination
from tests.support.git import commit_chain, git, init_bare, update_refs
from tests.support.lfsserver import commit, keep, pointer
from tests.support.mirrors import MirrorState, mirror_state
from tests.support.mutations import spoilt
from tests.support.vaults import Silence

MUTATIONS = int(os.environ.get("HOSTILE_MUTATIONS", "0"))
SEED = os.environ.get("HOSTILE_SEED", "1")
GOLDEN = Path(__file__).parents[1] / "golden"
START = datetime(2026, 11, 1, 3, tzinfo=UTC)
MAIN = b"refs/heads/main"
ROOT = "folder/acme/"
# Each kind of document, its golden example, and where the vault has one: the newest, the oldest.
KINDS = {
    "manifest": ("manifest", "snapshots/", ".json.gz", -1),
    "older manifest": ("manifest", "snapshots/", ".json.gz", 0),
    "checkpoint": ("checkpoint", "checkpoints/", ".1.json.gz", -1),
    "forgotten": ("checkpoint", "checkpoints/", ".forgotten.json.gz", -1),
    "record": ("record", "repositories/media/", ".record.json.gz", -1),
    "older record": ("record", "repositories/media/", ".record.json.gz", 0),
    "wiki's record": ("record", "repositories/media.wiki/", ".record.json.gz", -1),
    "emptied record": ("record", "repositories/emptied/", ".record.json.gz", -1),
    "lfs": ("lfs", "repositories/media/", ".lfs.json.gz", 0),
    "ids": ("ids", "repositories/media/", ".ids.json.gz", -1),
    "accepted": ("accepted", "accepted/", ".json.gz", -1),
    "condemned": ("condemned", "condemned/", ".json.gz", -1),
    "pruned": ("pruned", "pruned/", ".json.gz", -1),
    "drill": ("drill", "drills/", ".json.gz", -1),
}
# What a document may keep from coming back; of the others nothing depends on them.
CONCERNS = {
    "record": {"acme/media"},
    "wiki's record": {"acme/media.wiki"},
    "emptied record": {"acme/emptied"},
    "lfs": {"acme/media"},
}
# The state that every command goes by is made of them: any of the owner's may not come back.
OF_THE_OWNER = {"manifest", "checkpoint", "forgotten"}


class Forge(FolderSource):
    """A folder in which one repository is a wiki."""

    def repositories(self) -> Iterator[Repository]:
        for one in super().repositories():
            is_wiki = one.path.endswith(".wiki")
            yield replace(one, kind="wiki" if is_wiki else "code")


@dataclass(frozen=True, slots=True)
class Vault:
    """Two owners; what of the first one can be spoilt, and what a restore gives back."""

    sources: tuple[FolderSource, ...]
    stored: MemoryDestination
    now: datetime
    states: Mapping[str, MirrorState]

    def key(self, kind: str) -> Key:
        _, folder, ending, number = KINDS[kind]
        found = sorted(one.key for one in self.stored.list(f"{ROOT}{folder}"))
        return [key for key in found if key.endswith(ending)][number]

    def read(self, key: Key) -> bytes:
        with self.stored.open(key) as reader:
            return reader.read()

    def with_content(self, key: Key, data: bytes) -> MemoryDestination:
        copy = copy_of(self.stored)
        copy.delete([key])
        copy.put_if_absent(key, data)
        return copy


def copy_of(stored: MemoryDestination) -> MemoryDestination:
    copy = MemoryDestination()
    for one in stored.list(""):
        with stored.open(one.key) as reader:
            copy.put_if_absent(one.key, reader.read())
    return copy


OPTIONS = RunOptions(concurrency=1, accept_drop=True, selection=Selection(pull_refs=True, lfs=True))


def night(
    sources: tuple[FolderSource, ...],
    vault: Destination,
    now: datetime,
    *,
    stop: Stop | None = None,
    events: Any = None,
    **more: Any,
) -> RunReport:
    return run(
        sources,
        vault,
        replace(OPTIONS, **more),
        events=events or Silence(),
        stop=stop or Stop(),
        clock=lambda: now,
    )


class _Interrupting(Silence):
    """Asks a run to stop once one repository is captured."""

    def __init__(self, stop: Stop) -> None:
        self._stop = stop

    def finished(self, outcome: Any) -> None:
        if outcome.status == "captured":
            self._stop.interrupt()


def push(path: Path, label: str) -> None:
    seen = git("for-each-ref", "--format=%(objectname)", "refs/heads/main", cwd=path).strip()
    update_refs(path, {MAIN: commit_chain(path, 1, start=seen or None, label=label.encode())[-1]})


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Vault:
    """Make it as nights, prunes and verifications do, and people who forget and accept."""
    folder = tmp_path_factory.mktemp("hostile")
    acme, other = folder / "acme", folder / "other"
    media = init_bare(acme / "media.git")
    for name in ("media.wiki", "plain", "emptied", "forgotten", "damaged"):
        push(init_bare(acme / f"{name}.git"), name)
    push(init_bare(other / "apart.git"), "apart")
    sources = Forge(acme, owner="acme"), Forge(other, owner="other")
    stored, now = MemoryDestination(), START
    for number, content in enumerate((b"first", b"second", b"third")):
        keep(media, content)
        commit(media, "main", {"file": pointer(content)})
        push(acme / "media.wiki.git", f"night {number}")
        if number == 1:
            git("update-ref", "-d", "refs/heads/main", cwd=acme / "emptied.git")
        assert night(sources, stored, now).exit_code in (0, 3)
        now += timedelta(days=1)
    # Known damage: of one repository that its source has no more, accepted.
    shutil.rmtree(acme / "damaged.git")
    for one in [*stored.list(f"{ROOT}repositories/damaged/")]:
        if one.key.endswith(".bundle"):
            stored.delete([one.key])
    looked = VerifyRequest("packs")
    verify(stored, looked, events=Silence(), stop=Stop(), clock=lambda: now)
    accept_damage(stored, AcceptRequest("acme/damaged"), now=now)
    forget(stored, ForgetRequest("acme/forgotten"), now=now)
    shutil.rmtree(acme / "forgotten.git")
    stored.put_if_absent(Key(f"{ROOT}lfs/ab/cd/abcd{'0' * 60}"), b"nothing points to it")
    rules = PruneRequest(Rules(daily=5), grace_days=0)
    late = now + timedelta(minutes=30)
    report = prune(stored, rules, events=Silence(), stop=Stop(), clock=lambda: late)
    assert report.exit_code == 0, report.refused
    # A run that broke off.
    now += timedelta(hours=1)
    push(acme / "media.wiki.git", "broken off")
    stop = Stop()
    night(sources[:1], stored, now, stop=stop, events=_Interrupting(stop))
    # Those of a full have a document of their own only where there are very many.
    layout = Layout.of(host="folder", owner="acme")
    record = next(
        one.key
        for one in stored.list(f"{ROOT}repositories/media/")
        if one.key.endswith(".record.json.gz")
    )
    snapshot_id = record.rpartition("/")[2].partition(".")[0]
    ids = Ids(format=1, document="ids", snapshot_id=snapshot_id, ids="a" * 40)
    relative = folder_of(record.removeprefix(ROOT))
    stored.put_if_absent(layout.key(ids_key(relative, snapshot_id)), encode(ids))
    _name_ids(stored, record, ids_key(relative, snapshot_id))
    made = Vault(sources, stored, now + timedelta(hours=1), {})
    states = restored(copy_of(stored), folder / "back")
    assert states.keys() == {
        "acme/media",
        "acme/media.wiki",
        "acme/plain",
        "acme/emptied",
        "other/apart",
    }
    for name in ("acme/media", "acme/plain", "other/apart"):
        assert states[name] == mirror_state(folder / f"{name}.git")
    return replace(made, states=states)


def _name_ids(stored: MemoryDestination, record: Key, key: str) -> None:
    """Have the records that a bundle's line stands in name the ids beside it."""
    bundle = str(bundles_beside(record.removeprefix(ROOT))[0])
    for one in [*stored.list(folder_of(record))]:
        if not one.key.endswith(".record.json.gz"):
            continue
        with stored.open(one.key) as reader:
            document = json.loads(gzip.decompress(reader.read()))
        for line in document["chain"]:
            if line["key"] == bundle:
                line["ids"] = key
        stored.delete([one.key])
        stored.put_if_absent(one.key, gzip.compress(json.dumps(document).encode(), mtime=0))


def restored(stored: Destination, target: Path) -> dict[str, MirrorState]:
    """Restore everything; return what came back."""
    request = RestoreRequest(repository=None, all=True, at=None, target=target)
    report = restore(stored, request, events=Silence(), stop=Stop())
    show(report)
    return {one.name: mirror_state(one.path) for one in report.restored}


# --- What reads a vault ---------------------------------------------------------------------------

SHOWN: dict[str, tuple[Callable[[Any], Any], Callable[[Any, Console], None]]] = {
    "RunReport": (documents.run_document, terminal.print_run),
    "VaultListing": (documents.vault_document, terminal.print_vault),
    "History": (documents.history_document, terminal.print_history),
    "RestoreReport": (documents.restore_document, terminal.print_restore),
    "VerifyReport": (documents.verify_document, terminal.print_verify),
    "PruneReport": (documents.prune_document, terminal.print_prune),
    "ForgetReport": (documents.forget_document, terminal.print_forget),
    "AcceptReport": (documents.accept_document, terminal.print_accept),
    "StatusReport": (
        lambda report: documents.findings_document(report.findings),
        lambda report, console: terminal.print_findings(report.findings, console),
    ),
    "DoctorReport": (
        lambda report: documents.findings_document(report.findings),
        lambda report, console: terminal.print_findings(report.findings, console),
    ),
}


def show(report: Any) -> None:
    """Say what a command answers, as the command line does."""
    to_document, to_terminal = SHOWN[type(report).__name__]
    json.dumps(to_document(report)).encode()
    written = io.StringIO()
    to_terminal(report, Console(file=written, width=100))
    written.getvalue().encode()
    if isinstance(report, RunReport):
        run_summary(report)
        for outcome in report.outcomes:
            assert "internal error" not in outcome.reason, outcome.reason
    assert getattr(report, "exit_code", ExitCode.DONE) != ExitCode.BUG


Command = Callable[[Any, Path], Any]


def commands(vault: Vault) -> dict[str, Command]:
    """Return every command, but for a restore of everything: each gets a vault of its own."""
    now = vault.now
    names = sorted(one.key for one in vault.stored.list(f"{ROOT}snapshots/"))
    oldest = names[0].rpartition("/")[2].partition(".")[0]
    rules = Rules(daily=1)

    def verified(depth: Any) -> Command:
        return lambda stored, _: verify(
            stored, VerifyRequest(depth), events=Silence(), stop=Stop(), clock=lambda: now
        )

    def pruned(**more: Any) -> Command:
        request = PruneRequest(rules, grace_days=0, **more)
        return lambda stored, _: prune(
            stored, request, events=Silence(), stop=Stop(), clock=lambda: now
        )

    def given_back(**more: Any) -> Command:
        asked: dict[str, Any] = {"repository": "acme/media", "all": False, "at": None} | more

        def give_back(stored: Any, target: Path) -> RestoreReport:
            request = RestoreRequest(target=None if asked.get("deleted") else target, **asked)
            return restore(stored, request, events=Silence(), stop=Stop())

        return give_back

    return {
        "run": lambda stored, _: night(vault.sources, stored, now),
        "run --dry-run": lambda stored, _: night(vault.sources, stored, now, dry_run=True),
        "restore": given_back(),
        "restore --at snapshot": given_back(at=oldest),
        "restore --at time": given_back(at="2026-11-03T04:00:00Z"),
        "restore --deleted --rewritten": given_back(
            repository=None, all=True, deleted=True, rewritten=True
        ),
        "list": lambda stored, _: list_vault(stored),
        "list media": lambda stored, _: list_history(stored, "acme/media"),
        "status": lambda stored, _: status(stored, owners=(), max_age_hours=26, now=now),
        "verify objects": verified("objects"),
        "verify packs": verified("packs"),
        "verify restore": verified("restore"),
        "prune --dry-run": pruned(dry_run=True),
        "prune": pruned(),
        "prune --keep-deleted": pruned(keep_deleted_days=0),
        "doctor": lambda stored, _: doctor(
            vault.sources,
            stored,
            look_at_destination=lambda: Diagnosis(()),
            network=NetworkSettings(),
            stop=Stop(),
            clock=lambda: now,
        ),
        "accept-damage": lambda stored, _: accept_damage(
            stored, AcceptRequest("acme/damaged"), now=now
        ),
        "forget": lambda stored, _: forget(stored, ForgetRequest("acme/plain"), now=now),
    }


def assert_answers(do: Command, stored: Any, target: Path) -> None:
    """Run a command over a vault, and insist on an answer or an error of ours."""
    with suppress(BackupError):
        show(do(stored, target))


# --- Each document, spoilt ------------------------------------------------------------------------


def mutants(kind: str, whole: bytes, chance: random.Random) -> Iterator[tuple[str, bytes]]:
    """Spoil a document; where there is no time for many, mostly so that it can still be read."""
    golden = KINDS[kind][0]
    example = json.loads((GOLDEN / f"format-1-{golden}.json").read_text())
    document = STORED.get(golden, Manifest)
    readable = unreadable = 0
    while readable + unreadable < (MUTATIONS or 10):
        what, data = spoilt(whole, example, chance)
        try:
            decode(data, document, where="x")
        except IntegrityError:
            if not MUTATIONS and unreadable > 1:
                continue
            unreadable += 1
        else:
            readable += 1
        yield what, data


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_in_a_document_ends_any_command_as_a_bug(
    kind: str, vault: Vault, tmp_path: Path
) -> None:
    key = vault.key(kind)
    whole = vault.read(key)
    chance = random.Random(f"{SEED} {kind}")
    every = commands(vault)
    failures = []
    for number, (what, data) in enumerate(mutants(kind, whole, chance)):
        stored = vault.with_content(key, data)
        # By turns, where there is no time for all.
        chosen = [*every] if MUTATIONS else [chance.choice([*every])]
        for name in ("restore --all", *chosen):
            target = tmp_path / "target"
            own: Any = copy_of(stored)
            if chance.random() < 0.5:
                own = DatedDestination(own)
            try:
                if name == "restore --all":
                    assert_others_come_back(kind, vault, own, target)
                else:
                    assert_answers(every[name], own, target)
            except Exception as error:  # noqa: BLE001 - all that went wrong is told together
                place = _place_of(error)
                failures.append(f"{number}: {what}: {name}: {type(error).__name__} {place} {error}")
            shutil.rmtree(target, ignore_errors=True)
    assert not failures, "\n" + "\n".join(failures)


def _place_of(error: BaseException) -> str:
    place, trace = "", error.__traceback__
    while trace is not None:
        file = trace.tb_frame.f_code.co_filename
        if "/backup/" in file:
            place = f"{Path(file).name}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place


def assert_others_come_back(kind: str, vault: Vault, stored: Any, target: Path) -> None:
    """Insist that what a document has nothing to do with is given back, as its source had it."""
    found = restored(stored, target)
    concerned = CONCERNS.get(kind, set())
    for name, state in vault.states.items():
        if name in concerned or (kind in OF_THE_OWNER and name.startswith("acme/")):
            continue
        assert found.get(name) == state, name
