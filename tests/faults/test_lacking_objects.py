"""Servers that leave objects out of an increment, and what it costs to prove that none does."""

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any

import pytest

from backup.commands.prune import PruneRequest, prune
from backup.commands.run import RunOptions
from backup.destinations.memory import MemoryDestination
from backup.git.upload_pack import _RefCollector
from backup.model import Key, Outcome
from backup.retention import Rules
from backup.sources.plain import FolderSource, GitUrlSource
from backup.stopping import Stop
from backup.vault.documents import Record
from backup.vault.layout import Layout
from backup.vault.manifest import list_documents, load_manifest, load_record
from tests.support.forgetful import Forgetful
from tests.support.git import EPOCH, commit_chain, git, init_bare, set_head, update_refs, write_tag
from tests.support.gitserver import GitHttpServer
from tests.support.program import repo_backup
from tests.support.vaults import Silence, run_at

START = datetime(2026, 3, 1, 2, 0, tzinfo=UTC)
MAIN = b"refs/heads/main"


@dataclass
class Scene:
    """A repository at a forgetful server, and a vault that every look at costs a request."""

    path: Path
    url: str
    server: Forgetful
    vault: MemoryDestination = field(default_factory=MemoryDestination)
    nights: int = 0

    def push(self, count: int = 1, label: bytes = b"work") -> list[bytes]:
        start = git("rev-parse", "--verify", "--quiet", MAIN, cwd=self.path).strip()
        commits = commit_chain(self.path, count, start=start, label=label)
        update_refs(self.path, {MAIN: commits[-1]})
        return commits

    def night(self, **options: Any) -> Outcome:
        self.nights += 1
        source = GitUrlSource([self.url], owner="acme")
        moment = START + timedelta(days=self.nights)
        report = run_at(moment, source, self.vault, RunOptions(**options))
        (outcome,) = report.outcomes
        return outcome

    def record(self) -> Record:
        return newest_record(self.vault, Layout.of(host="git", owner="acme"))

    def restored(self, tmp_path: Path) -> dict[bytes, bytes]:
        """Give the refs that the real program restores, from a copy of the vault in a folder."""
        folder = tmp_path / f"vault-{self.nights}"
        for stored in self.vault.list(""):
            with self.vault.open(stored.key) as reader:
                (folder / stored.key).parent.mkdir(parents=True, exist_ok=True)
                (folder / stored.key).write_bytes(reader.read())
        target = tmp_path / f"restored-{self.nights}.git"
        repo_backup("restore", "one", "--from", folder, target)
        return refs_of(target)


def newest_record(vault: MemoryDestination, layout: Layout) -> Record:
    names = [name for name in list_documents(vault, layout) if name.checkpoint is None]
    (entry,) = load_manifest(vault, layout, names[-1]).entries
    assert entry.record is not None
    return load_record(vault, layout, entry.record)


def refs_of(path: Path) -> dict[bytes, bytes]:
    lines = git("for-each-ref", "--format=%(refname) %(objectname)", cwd=path).splitlines()
    return dict(map(bytes.split, lines))


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    path = init_bare(tmp_path / "acme" / "one.git")
    commits = commit_chain(path, 3)
    update_refs(path, {MAIN: commits[-1], b"refs/tags/old": commits[0]})
    set_head(path, MAIN)
    server = Forgetful(tmp_path / "server")
    with GitHttpServer(tmp_path, settings=server.settings) as place:
        made = Scene(path, f"{place.url}/acme/one.git", server)
        assert made.night().status == "captured"
        yield made


def everything_new(scene: Scene) -> list[bytes]:
    commits = scene.push(3, b"new")
    return git(
        "rev-list", "--objects", "--no-object-names", *(c.decode() for c in commits), cwd=scene.path
    ).split()


def the_tip_alone(scene: Scene) -> list[bytes]:
    return scene.push()


def a_root_tree(scene: Scene) -> list[bytes]:
    (tip,) = scene.push(label=b"tree")
    return [git("rev-parse", f"{tip.decode()}^{{tree}}", cwd=scene.path).strip()]


def a_commit_in_the_middle(scene: Scene) -> list[bytes]:
    return [scene.push(3, b"three")[1]]


def the_target_of_a_tag(scene: Scene) -> list[bytes]:
    (commit,) = commit_chain(scene.path, 1, label=b"tagged")
    tag = write_tag(scene.path, commit, "commit", b"v2")
    update_refs(scene.path, {b"refs/tags/v2": tag})
    return [commit]


def a_tag_that_a_tag_names(scene: Scene) -> list[bytes]:
    (commit,) = scene.push(label=b"tagged twice")
    inner = write_tag(scene.path, commit, "commit", b"inner")
    outer = write_tag(scene.path, inner, "tag", b"outer")
    update_refs(scene.path, {b"refs/tags/outer": outer})
    return [inner]


def a_tag_that_a_tag_names_in_capitals(scene: Scene) -> list[bytes]:
    (commit,) = scene.push(label=b"tagged twice")
    inner = write_tag(scene.path, commit, "commit", b"inner")
    # git takes it so.
    outer = write_tag(scene.path, inner.upper(), "tag", b"outer")
    update_refs(scene.path, {b"refs/tags/outer": outer})
    return [inner]


def a_blob_that_a_tag_names(scene: Scene) -> list[bytes]:
    return [tag_a_blob(scene)]


def tag_a_blob(scene: Scene) -> bytes:
    blob = git("hash-object", "-w", "--stdin", cwd=scene.path, input=b"a key\n").strip()
    tag = write_tag(scene.path, blob, "blob", b"key")
    update_refs(scene.path, {b"refs/tags/key": tag})
    return blob


LEFT_OUT = [
    everything_new,
    the_tip_alone,
    a_root_tree,
    a_commit_in_the_middle,
    the_target_of_a_tag,
    a_tag_that_a_tag_names,
    a_tag_that_a_tag_names_in_capitals,
    a_blob_that_a_tag_names,
]


@pytest.mark.parametrize("lacking", LEFT_OUT)
def test_a_server_that_leaves_objects_out_is_never_believed(
    scene: Scene, lacking: Any, tmp_path: Path
) -> None:
    before = scene.restored(tmp_path)
    scene.server.leave_out(lacking(scene), of="increment full")
    stored = {one.key for one in scene.vault.list("")}
    outcome = scene.night()
    assert outcome.status == "failed"
    # Nothing of it is stored but the manifest that says so, and what there was comes back.
    new = {one.key for one in scene.vault.list("")} - stored
    assert all("/snapshots/" in key for key in new)
    assert scene.restored(tmp_path) == before
    assert scene.night().status == "failed"
    scene.server.leave_out([])
    healed = scene.night()
    assert (healed.status, healed.plan) == ("captured", "incremental")
    assert scene.restored(tmp_path) == refs_of(scene.path)


@pytest.mark.parametrize("lacking", LEFT_OUT)
def test_what_an_increment_lacks_twice_a_full_brings(
    scene: Scene, lacking: Any, tmp_path: Path
) -> None:
    scene.server.leave_out(lacking(scene))
    outcome = scene.night()
    assert (outcome.status, outcome.plan) == ("captured", "full")
    assert "left out" in outcome.reason
    assert scene.server.asked() == ["full", "increment", "increment", "full"]
    assert scene.restored(tmp_path) == refs_of(scene.path)


def test_what_an_increment_lacks_once_is_asked_for_once_more(scene: Scene, tmp_path: Path) -> None:
    scene.server.leave_out(a_root_tree(scene), times=1)
    outcome = scene.night()
    assert (outcome.status, outcome.plan) == ("captured", "incremental")
    assert scene.server.asked() == ["full", "increment", "increment"]
    assert scene.restored(tmp_path) == refs_of(scene.path)


def test_a_tag_of_a_blob_takes_no_full(scene: Scene, tmp_path: Path) -> None:
    tag_a_blob(scene)
    outcome = scene.night()
    assert (outcome.status, outcome.plan) == ("captured", "incremental")
    assert scene.server.asked() == ["full", "increment"]
    assert scene.restored(tmp_path) == refs_of(scene.path)


def peel_as(monkeypatch: pytest.MonkeyPatch, target: bytes) -> None:
    """Have every server say that all tags lead to one object."""
    honest = _RefCollector._add

    def add(self: _RefCollector, oid: bytes, name: bytes, peeled: bytes | None) -> None:
        honest(self, oid, name, None if peeled is None else target)

    monkeypatch.setattr(_RefCollector, "_add", add)


def test_a_server_is_not_believed_what_a_tag_leads_to(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    (commit,) = commit_chain(scene.path, 1, label=b"tagged")
    tag = write_tag(scene.path, commit, "commit", b"v2")
    update_refs(scene.path, {b"refs/tags/v2": tag})
    peel_as(monkeypatch, refs_of(scene.path)[MAIN])
    scene.server.leave_out([commit], of="increment full")
    assert scene.night().status == "failed"


def test_a_server_is_not_believed_either_where_nothing_was_asked_for(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tagged,) = scene.push()
    tag = write_tag(scene.path, tagged, "commit", b"v2")
    update_refs(scene.path, {b"refs/tags/v2": tag, b"refs/heads/gone": tagged})
    assert scene.night().status == "captured"
    (never_sent,) = commit_chain(scene.path, 1, start=tagged, label=b"never sent")
    update_refs(scene.path, {b"refs/heads/gone": None})
    with monkeypatch.context() as lying:
        peel_as(lying, never_sent)
        assert scene.night().status == "failed"
    update_refs(scene.path, {MAIN: never_sent})
    lacking = git(
        "rev-list",
        "--objects",
        "--no-object-names",
        f"{never_sent.decode()}",
        "^v2",
        cwd=scene.path,
    )
    scene.server.leave_out(lacking.split())
    assert scene.night().plan == "full"
    assert scene.restored(tmp_path) == refs_of(scene.path)


def test_a_full_has_what_its_server_says_that_tags_lead_to(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first,), (never_sent,) = scene.push(), commit_chain(scene.path, 1, label=b"never sent")
    update_refs(scene.path, {b"refs/tags/v2": write_tag(scene.path, first, "commit", b"v2")})
    peel_as(monkeypatch, never_sent)
    # Were it believed, an increment without that commit would be, too.
    assert scene.night(max_chain_length=1).status == "failed"


def test_the_message_names_what_is_lacking_and_what_needs_it(scene: Scene) -> None:
    (tree,) = a_root_tree(scene)
    tip = refs_of(scene.path)[MAIN].decode()
    scene.server.leave_out([tree])
    assert scene.night().reason == (
        "the server left out 1 object that the vault is not known to hold, "
        f"first {tree.decode()} (the root tree of commit {tip})"
    )


# --- What it costs -------------------------------------------------------------------------------


def prune_at(moment: datetime, vault: MemoryDestination, rules: Rules) -> None:
    request = PruneRequest(rules, grace_days=1)
    prune(vault, request, events=Silence(), stop=Stop(), clock=lambda: moment)


def test_refs_that_move_to_older_commits_take_no_full_in_ninety_nights(tmp_path: Path) -> None:
    """A branch and a tag are put on older commits each night, while prune removes old snapshots."""
    choices = Random(17)
    path = init_bare(tmp_path / "src" / "one.git")
    history = commit_chain(path, 500)
    update_refs(path, {MAIN: history[-1]})
    vault, layout = MemoryDestination(), Layout.of(host="folder", owner="src")
    options = RunOptions(max_chain_length=200, full_after_days=1000)
    plans, uploaded = [], []
    for night in range(90):
        moment = START + timedelta(days=night)
        if night % 3 == 1:
            at = EPOCH + 10_000 * (night + 1)
            history += commit_chain(path, 2, start=history[-1], label=b"night %d" % night, at=at)
        older = choices.choice(history[:-3])
        tag = write_tag(path, choices.choice(history[:-3]), "commit", b"moving")
        update_refs(
            path, {MAIN: history[-1], b"refs/heads/moving": older, b"refs/tags/moving": tag}
        )
        report = run_at(moment, FolderSource(tmp_path / "src", owner="src"), vault, options)
        assert report.result == "success", report
        (outcome,) = report.outcomes
        plans.append((outcome.plan, outcome.reason))
        uploaded.append(outcome.bytes_written)
        assert night == 0 or report.objects_written <= 3
        if night % 10 == 9:
            prune_at(moment, vault, Rules(daily=5))
    assert plans == [("full", "first capture"), *[("incremental", "refs changed")] * 89]
    # The record has a line for each bundle of its chain.
    assert max(uploaded[1:]) < 16 << 10
    record = newest_record(vault, layout)
    assert len(record.chain) == 90
    assert not record.unproven


def test_an_increment_with_nothing_to_look_up_reads_no_list(tmp_path: Path) -> None:
    path = init_bare(tmp_path / "src" / "one.git")
    commits = commit_chain(path, 3)
    update_refs(path, {MAIN: commits[-1]})
    source = FolderSource(tmp_path / "src", owner="src")
    vault = MemoryDestination()
    run_at(START, source, vault)
    update_refs(path, {MAIN: commit_chain(path, 2, start=commits[-1], label=b"b")[-1]})
    report = run_at(START + timedelta(days=1), source, vault)
    quiet = run_at(START + timedelta(days=2), source, vault)
    # The manifest, the record before, and no list.
    assert report.requests["get"] == quiet.requests["get"]


def test_the_ids_of_a_large_full_have_a_document_of_their_own(tmp_path: Path) -> None:
    path = init_bare(tmp_path / "src" / "one.git")
    commits = commit_chain(path, 900)
    tag = write_tag(path, commits[5], "commit", b"v1")
    update_refs(path, {MAIN: commits[-1], b"refs/tags/v1": tag})
    source = FolderSource(tmp_path / "src", owner="src")
    vault, layout = MemoryDestination(), Layout.of(host="folder", owner="src")
    run_at(START, source, vault)
    record = newest_record(vault, layout)
    (bundle,) = record.chain
    assert bundle.ids is not None
    assert record.ids is None
    with vault.open(Key(layout.prefix + bundle.ids)) as reader:
        joined = json.loads(gzip.decompress(reader.read()))["ids"]
    stored = {joined[at : at + 40] for at in range(0, len(joined), 40)}
    trees = git("log", "--format=%T", "main", cwd=path).decode().split()
    assert stored == {oid.decode() for oid in (*commits, tag)} | {*trees}
    # A branch on an old commit is found there.
    update_refs(path, {b"refs/heads/old": commits[450]})
    report = run_at(START + timedelta(days=1), source, vault)
    assert [outcome.plan for outcome in report.outcomes] == ["incremental"]


# --- Packs that were not looked into ---------------------------------------------------------


def test_what_the_trailer_alone_proved_is_said_to_be_unproven_until_a_full(
    scene: Scene, tmp_path: Path
) -> None:
    scene.push(3, b"more")
    assert scene.night(check="trailer").plan == "incremental"
    assert scene.record().unproven
    older = git("rev-parse", "main~1", cwd=scene.path).strip()
    update_refs(scene.path, {b"refs/heads/older": older})
    # It lies in the pack that nobody looked into: it is asked for, and a full proves all.
    outcome = scene.night()
    assert (outcome.status, outcome.plan) == ("captured", "full")
    assert not scene.record().unproven
    assert scene.restored(tmp_path) == refs_of(scene.path)
