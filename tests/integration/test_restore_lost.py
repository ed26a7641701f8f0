"""What was deleted or rewritten upstream: listed, and given back from the snapshot that had it."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.git import commit_chain, git, init_bare, update_refs
from tests.support.mirrors import fsck, mirror_state
from tests.support.program import repo_backup
from tests.support.vaults import run_into, to_be_kept

MAIN, TOPIC, TAG = b"refs/heads/main", b"refs/heads/topic", b"refs/tags/v1"


@dataclass
class Nights:
    """A repository, a vault, the snapshots of its nights, and the tips that it lost in them."""

    root: Path
    snapshots: list[str] = field(default_factory=list)
    old: bytes = b""
    topic: bytes = b""
    tag: bytes = b""

    @property
    def path(self) -> Path:
        return self.root / "acme" / "widgets.git"

    @property
    def vault(self) -> Path:
        return self.root / "vault"

    def night(self, updates: dict[bytes, bytes | None], *words: str) -> None:
        update_refs(self.path, updates)
        # Dropping what was lost is no news here.
        report = run_into(self.vault, self.root / "acme", extra=("--accept-drop", *words))
        self.snapshots.append(report["snapshot"])

    def commits(self, label: bytes, count: int = 2) -> bytes:
        return commit_chain(self.path, count, label=label)[-1]


@pytest.fixture(params=[(), ("--max-chain-length", "1")], ids=["one chain", "fulls alone"])
def nights(request: pytest.FixtureRequest, tmp_path: Path) -> Nights:
    """Lose a branch, a rewritten tip and a tag; also where each night begins a new chain."""
    made = Nights(tmp_path)
    init_bare(made.path)
    old, topic, tag = made.commits(b"old"), made.commits(b"topic"), made.commits(b"tag", 1)
    words: tuple[str, ...] = request.param
    made.night({MAIN: old, TOPIC: topic, TAG: tag}, *words)
    made.night({TOPIC: None}, *words)
    made.night({MAIN: made.commits(b"new"), TAG: None}, *words)
    # Upstream throws away what no ref leads to.
    git("reflog", "expire", "--expire=now", "--all", cwd=made.path)
    git("gc", "--quiet", "--prune=now", cwd=made.path)
    made.night({b"refs/heads/other": made.commits(b"other")}, *words)
    made.old, made.topic, made.tag = old, topic, tag
    return made


def lost(nights: Nights, *words: str) -> list[dict[str, Any]]:
    answer = repo_backup("restore", *words, "--from", nights.vault, "--json").json
    assert answer["restored"] == []
    found: list[dict[str, Any]] = answer["lost"]
    return found


def test_what_was_deleted_is_listed_with_the_snapshot_that_still_had_it(nights: Nights) -> None:
    found = lost(nights, "widgets", "--deleted")
    assert [(one["ref"], one["change"], one["id"], one["snapshot"]) for one in found] == [
        ("refs/tags/v1", "deleted", nights.tag.decode(), nights.snapshots[1]),
        ("refs/heads/topic", "deleted", nights.topic.decode(), nights.snapshots[0]),
    ]
    assert all(one["had_at"] < one["lost_at"] for one in found)
    assert lost(nights, "--all", "--deleted") == found
    assert lost(nights, "acme/w*", "--deleted") == found
    shown = repo_backup("restore", "widgets", "--deleted", "--from", nights.vault).stdout
    assert "refs/heads/topic" in shown
    assert nights.topic.decode() in shown
    # Later snapshots may have had it, too.
    assert "captured in snapshot" in shown


def test_what_was_rewritten_is_listed(nights: Nights) -> None:
    (one,) = lost(nights, "widgets", "--rewritten")
    assert (one["ref"], one["id"], one["snapshot"]) == (
        *("refs/heads/main", nights.old.decode(), nights.snapshots[1]),
    )
    assert one["change"] in {"rewritten", "moved"}
    assert len(lost(nights, "widgets", "--deleted", "--rewritten")) == 3


def test_what_was_lost_comes_back_beside_what_is_there_today(
    nights: Nights, tmp_path: Path
) -> None:
    words = ("restore", "widgets", "--deleted", "--rewritten", "--from", nights.vault)
    answer = repo_backup(*words, tmp_path / "back.git", "--json").json
    (restored,) = answer["restored"]
    assert (restored["refs"], restored["lost_refs"]) == (2, 3)
    assert len(answer["lost"]) == 3
    today, back = to_be_kept(nights.path), mirror_state(tmp_path / "back.git")
    first, second = (snapshot.encode() for snapshot in nights.snapshots[:2])
    assert back.refs == {
        **today.refs,
        b"refs/lost/" + first + b"/heads/topic": nights.topic,
        b"refs/lost/" + second + b"/heads/main": nights.old,
        b"refs/lost/" + second + b"/tags/v1": nights.tag,
    }
    assert (back.head_symref, back.head_id) == (today.head_symref, today.head_id)
    assert fsck(tmp_path / "back.git") == []


def test_what_a_later_push_brought_back_is_not_lost(nights: Nights) -> None:
    update_refs(nights.path, {MAIN: nights.commits(b"old"), TOPIC: nights.commits(b"topic")})
    run_into(nights.vault, nights.root / "acme", extra=("--accept-drop",))
    refs = [one["ref"] for one in lost(nights, "widgets", "--deleted", "--rewritten")]
    assert refs == ["refs/heads/main", "refs/tags/v1"]


def test_a_repository_that_is_gone_is_listed_and_comes_back_whole(
    nights: Nights, tmp_path: Path
) -> None:
    state = to_be_kept(nights.path)
    kept = init_bare(nights.root / "acme" / "kept.git")
    update_refs(kept, {MAIN: commit_chain(kept, 1)[-1]})
    run_into(nights.vault, nights.root / "acme")
    nights.path.rename(tmp_path / "away.git")
    run_into(nights.vault, nights.root / "acme", code=1)
    run_into(nights.vault, nights.root / "acme", extra=("--accept-drop",))
    first, *others = lost(nights, "--all", "--deleted")
    assert (first["repository"], first["ref"], first["id"]) == ("acme/widgets", None, None)
    assert [one["ref"] for one in others] == ["refs/tags/v1", "refs/heads/topic"]
    words = ("restore", "--all", "--deleted", "--from", nights.vault, "--json")
    answer = repo_backup(*words, tmp_path / "back").json
    assert [one["repository"] for one in answer["restored"]] == ["acme/widgets"]
    back = mirror_state(tmp_path / "back" / "widgets.git")
    assert {name: oid for name, oid in back.refs.items() if b"/lost/" not in name} == state.refs
    assert (
        "all of it" in repo_backup("restore", "--all", "--deleted", "--from", nights.vault).stdout
    )


def test_nothing_lost_is_said_and_restores_nothing(tmp_path: Path) -> None:
    path = init_bare(tmp_path / "acme" / "quiet.git")
    update_refs(path, {MAIN: commit_chain(path, 2)[-1]})
    run_into(tmp_path / "vault", tmp_path / "acme")
    words = ("restore", "quiet", "--deleted", "--from", tmp_path / "vault")
    done = repo_backup(*words)
    assert (done.stdout, done.stderr.strip()) == (
        *("", "nothing of what is stored is lost at its source"),
    )
    everything = ("restore", "--all", "--rewritten", "--from", tmp_path / "vault")
    for some in (words, everything):
        refused = repo_backup(*some, tmp_path / "back", check=2)
        assert "nothing that was asked for is lost at its source" in refused.stderr
        assert not (tmp_path / "back").exists()


def test_a_damaged_history_costs_no_other_repository_its_list(
    nights: Nights, tmp_path: Path
) -> None:
    other = init_bare(nights.root / "acme" / "other.git")
    update_refs(other, {MAIN: commit_chain(other, 1)[-1], TOPIC: commit_chain(other, 2)[-1]})
    run_into(nights.vault, nights.root / "acme")
    update_refs(other, {TOPIC: None})
    run_into(nights.vault, nights.root / "acme", extra=("--accept-drop",))
    record = max((nights.vault / "folder/acme/repositories/widgets").rglob("*.record.json.gz"))
    record.write_bytes(record.read_bytes()[:-9])
    words = ("restore", "--all", "--deleted", "--from", nights.vault, "--json")
    answer = repo_backup(*words, check=4).json
    assert [one["repository"] for one in answer["lost"]] == ["acme/other"]
    (failed,) = answer["failed"]
    assert failed.startswith("acme/widgets: ")
