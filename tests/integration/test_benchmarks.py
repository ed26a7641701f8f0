"""The benchmark measures what it says, over repositories that it leaves as they are. No times."""

import json
import os
import subprocess
import sys
from pathlib import Path
from random import Random
from typing import Any

import pytest

from benchmarks.measure import CommandFailed, contents, measure, written
from tests.support.git import commit_chain, git, init_bare, update_refs, write_blob
from tests.support.program import environment

# What they share takes long to make: once, on one worker.
pytestmark = pytest.mark.xdist_group("benchmarks")

CHECKOUT = Path(__file__).parents[2]
NAMES = ("alpha", "beta", "team/gamma")
MANY, NIGHTS = 4, 3
MIRROR, SCRIPT, FETCH = "git clone --mirror", "clone and copy", "git fetch --prune in the mirrors"
RUN, TRAILER = "repo-backup run", "repo-backup run --check trailer"
RESTORE, LIST = "repo-backup restore", "repo-backup list"
ROWS = {
    "first": [MIRROR, SCRIPT, "raw download", RUN, TRAILER],
    "unchanged": [FETCH, SCRIPT, RUN],
    "changed": [FETCH, SCRIPT, RUN],
    "restore": [MIRROR, RESTORE],
    "largest": [MIRROR, RUN, TRAILER, RESTORE],
    "chain": [RUN, MIRROR, RESTORE, LIST, f"{LIST} REPOSITORY"],
    "many": ["git ls-remote", RUN, LIST],
}
SYNC = "clone and sync"
NETWORK_ROWS = {
    "first": [MIRROR, SYNC, "raw download", RUN, TRAILER],
    "unchanged": [FETCH, SYNC, RUN],
    "changed": [FETCH, SYNC, RUN],
    "restore": [MIRROR, RESTORE],
    "largest": [MIRROR, RUN, TRAILER, RESTORE],
    "many": [RUN],
    "snapshots": [
        *(LIST, f"{LIST} REPOSITORY", "repo-backup status", "repo-backup verify"),
        "repo-backup prune --dry-run",
    ],
}


class Ran:
    """One run of a benchmark over three repositories, and what it left."""

    def __init__(self, place: Path, which: str, *, repeat: int) -> None:
        self.repositories = place / "repositories"
        for number, name in enumerate(NAMES):
            make_repository(self.repositories / f"{name}.git", 3 + number)
        before = contents(self.repositories)
        self.temporary = place / "temporary"
        self.temporary.mkdir()
        answer = place / "answer.json"
        options: list[str | Path]
        options = ["--repeat", str(repeat), "--many", str(MANY), "--nights", str(NIGHTS)]
        options += ["--json", answer]
        self.done = benchmark(self.repositories, *options, temporary=self.temporary, which=which)
        assert self.done.returncode == 0, self.done.stderr
        self.changed = written(before, contents(self.repositories))
        self.answer: dict[str, Any] = json.loads(answer.read_text())

    def samples(self, row: str, variant: str) -> list[dict[str, Any]]:
        rows = {one["name"]: one for one in self.answer["rows"]}
        found: list[dict[str, Any]] = rows[row]["samples"][variant]
        return found

    def rows(self) -> dict[str, list[str]]:
        return {row["name"]: list(row["samples"]) for row in self.answer["rows"]}

    def notes(self, row: str) -> list[str]:
        found: list[str] = {one["name"]: one for one in self.answer["rows"]}[row]["notes"]
        return found

    def figures(self) -> dict[str, dict[str, Any]]:
        return {one["name"]: one for one in self.answer["figures"]}


def make_repository(path: Path, commits: int) -> Path:
    init_bare(path)
    ids = commit_chain(path, commits, label=path.name.encode())
    # Heavier than some nights together, or the chain would begin anew.
    heavy = write_blob(path, Random(commits).randbytes(50_000))
    refs = {b"refs/heads/main": ids[-1], b"refs/tags/v1": ids[0], b"refs/tags/heavy": heavy}
    update_refs(path, refs)
    return path


def benchmark(
    *words: str | Path, temporary: Path, which: str = "folder"
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", f"benchmarks.{which}", *words],
        cwd=CHECKOUT,
        env=environment({"TMPDIR": os.fspath(temporary)}),
        capture_output=True,
        encoding="utf-8",
        check=False,
    )


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return Ran(tmp_path_factory.mktemp("benchmark"), "folder", repeat=2)


@pytest.fixture(scope="module")
def over_network(tmp_path_factory: pytest.TempPathFactory) -> Ran:
    return Ran(tmp_path_factory.mktemp("network"), "network", repeat=1)


def test_every_row_has_every_variant(ran: Ran) -> None:
    assert ran.rows() == ROWS


def test_every_variant_is_measured_as_often_as_asked(ran: Ran) -> None:
    for row, variants in ROWS.items():
        for variant in variants:
            nights = (row, variant) == ("chain", RUN)
            assert len(ran.samples(row, variant)) == (NIGHTS - 1 if nights else 2), (row, variant)


def test_every_row_is_printed_with_its_variants_as_a_table(ran: Ran) -> None:
    parts = {part.partition("\n")[0]: part for part in ran.done.stdout.split("### ")}
    for row, variants in ROWS.items():
        (part,) = [part for head, part in parts.items() if head.endswith(f"(`{row}`)")]
        lines = [line for line in part.splitlines() if line.startswith("|")]
        assert len(lines) == 2 + len(variants)
        assert len({line.count("|") for line in lines}) == 1
        for line, variant in zip(lines[2:], variants, strict=True):
            assert line.replace("`", "").startswith(f"| {variant} |")


def test_the_first_night_writes_a_bundle_and_a_record_each_and_one_manifest(ran: Ran) -> None:
    for variant in (RUN, TRAILER):
        for sample in ran.samples("first", variant):
            assert sample["objects"] == 2 * len(NAMES) + 1
            assert sample["requests"]["git"] == 3 * len(NAMES)


def test_the_raw_download_brings_the_packs_that_the_backup_stores(ran: Ran) -> None:
    # Beside its pack a bundle has its header; the wire has what the server says of itself, too.
    wire = ran.samples("first", "raw download")[0]["bytes_written"]
    stored = ran.samples("first", RUN)[0]["bytes_written"]
    packs = sum(
        len(git("pack-objects", "--all", "--stdout", "--quiet", "--delta-base-offset", cwd=path))
        for path in (ran.repositories / f"{name}.git" for name in NAMES)
    )
    assert packs < wire < packs + 300 * len(NAMES)
    assert stored > packs


def test_the_script_copies_every_file_of_every_clone(ran: Ran, tmp_path: Path) -> None:
    for name in NAMES:
        git("clone", "--quiet", (ran.repositories / f"{name}.git").as_uri(), tmp_path / name)
    count, _ = written({}, contents(tmp_path))
    for row in ("first", "unchanged"):
        for sample in ran.samples(row, SCRIPT):
            assert sample["objects"] == count
            assert sample["cost"]["temporary_bytes"] == sample["bytes_written"]


def test_an_unchanged_night_writes_the_manifest_alone(ran: Ran) -> None:
    for row, number in (("unchanged", len(NAMES)), ("many", MANY)):
        for sample in ran.samples(row, RUN):
            assert sample["objects"] == 1
            assert sample["requests"]["git"] == 2 * number


def test_a_changed_night_changes_at_least_three_repositories_each_time(ran: Ran) -> None:
    for sample in ran.samples("changed", RUN):
        assert sample["objects"] == 2 * 3 + 1
        assert sample["requests"]["git"] == 3 * 3
    for sample in ran.samples("changed", FETCH):
        assert sample["objects"] > 3


def test_a_chain_has_a_bundle_for_each_night(ran: Ran) -> None:
    (row,) = [row for row in ran.answer["rows"] if row["name"] == "chain"]
    words = f"{len(NAMES)} repositories, chains of {NIGHTS} to {NIGHTS} bundles"
    assert row["notes"][0].startswith(words)
    for sample in ran.samples("chain", RUN):
        assert sample["objects"] == 2 * len(NAMES) + 1


def promises(ran: Ran) -> dict[str, bool]:
    """Take the figures that are the same on every machine."""
    return {
        name: figure["kept"]
        for name, figure in ran.figures().items()
        if name.endswith((": bytes", "objects written", "git requests", ": manifest"))
        or "temporary disk" in name
    }


def test_what_does_not_depend_on_the_machine_is_kept(ran: Ran) -> None:
    promised = promises(ran)
    assert len(promised) == 9, list(promised)
    assert all(promised.values()), promised


def test_over_the_network_every_row_has_every_variant_once(over_network: Ran) -> None:
    assert over_network.rows() == NETWORK_ROWS
    for row, variants in NETWORK_ROWS.items():
        for variant in variants:
            assert len(over_network.samples(row, variant)) == 1, (row, variant)


def test_over_the_network_as_much_is_written_and_asked_as_from_a_folder(over_network: Ran) -> None:
    number = len(NAMES)
    for row, variant, objects, asked in (
        ("first", RUN, 2 * number + 1, 3 * number),
        ("first", TRAILER, 2 * number + 1, 3 * number),
        ("unchanged", RUN, 1, 2 * number),
        ("changed", RUN, 2 * 3 + 1, 3 * 3),
        ("many", RUN, 1, 2 * MANY),
    ):
        for sample in over_network.samples(row, variant):
            assert sample["objects"] == objects, (row, variant)
            assert sample["requests"]["git"] == asked, (row, variant)


def test_the_raw_download_over_http_brings_the_packs_that_are_stored(over_network: Ran) -> None:
    packs = over_network.samples("first", "raw download")[0]["bytes_written"]
    stored = over_network.samples("first", TRAILER)[0]["bytes_written"]
    assert 0 < packs < stored < packs + 4096 * len(NAMES)


def test_the_script_uploads_every_file_of_every_clone(over_network: Ran, tmp_path: Path) -> None:
    for name in NAMES:
        git(
            "clone",
            "--quiet",
            (over_network.repositories / f"{name}.git").as_uri(),
            tmp_path / name,
        )
    count, _ = written({}, contents(tmp_path))
    for row in ("first", "unchanged"):
        for sample in over_network.samples(row, SYNC):
            assert sample["objects"] == count
            assert sample["cost"]["temporary_bytes"] == sample["bytes_written"]


def test_lists_of_many_nights_say_how_many_requests_they_make(over_network: Ran) -> None:
    for variant in NETWORK_ROWS["snapshots"]:
        head = f"{variant} makes "
        (note,) = [note for note in over_network.notes("snapshots") if note.startswith(head)]
        # Each document that is read costs one: of every night, but for status.
        least = 0 if variant.endswith("status") else NIGHTS
        assert int(note.removeprefix(head).split()[0]) > least


def test_over_the_network_what_does_not_depend_on_the_machine_is_kept(over_network: Ran) -> None:
    promised = promises(over_network)
    assert len(promised) == 9, list(promised)
    assert all(promised.values()), promised


@pytest.mark.parametrize("which", ["ran", "over_network"])
def test_the_repositories_are_as_before_and_nothing_is_left(
    which: str, request: pytest.FixtureRequest
) -> None:
    ran: Ran = request.getfixturevalue(which)
    assert ran.changed == (0, 0)
    assert list(ran.temporary.iterdir()) == []


@pytest.mark.parametrize("which", ["ran", "over_network"])
def test_nothing_it_prints_names_the_machine_or_a_path(
    which: str, request: pytest.FixtureRequest
) -> None:
    ran: Ran = request.getfixturevalue(which)
    for text in (ran.done.stdout, json.dumps(ran.answer)):
        assert os.uname().nodename not in text
        assert str(ran.repositories.parent) not in text


def test_only_the_rows_asked_for_are_measured(ran: Ran, tmp_path: Path) -> None:
    answer = tmp_path / "answer.json"
    done = benchmark(
        *(ran.repositories, "--only", "restore", "--repeat", "1", "--keep", "--json", answer),
        temporary=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert [row["name"] for row in json.loads(answer.read_text())["rows"]] == ["restore"]
    (kept,) = tmp_path.glob("repo-backup-bench-*")
    assert done.stderr.splitlines()[-1] == f"kept: {kept}"


@pytest.mark.parametrize("which", ["", "missing", "empty"])
def test_a_folder_without_repositories_is_refused_in_one_line(which: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "temporary").mkdir()
    done = benchmark(tmp_path / which if which else "", temporary=tmp_path / "temporary")
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("benchmarks: REPOS: ")
    assert list((tmp_path / "temporary").iterdir()) == []


def test_a_repository_that_cannot_be_backed_up_ends_the_comparison(tmp_path: Path) -> None:
    whole = make_repository(tmp_path / "whole.git", 3)
    temporary, repositories = tmp_path / "temporary", tmp_path / "repositories"
    temporary.mkdir()
    shallow = ("clone", "--quiet", "--bare", "--depth=1", whole.as_uri())
    git(*shallow, repositories / "shallow.git")
    done = benchmark(repositories, "--only", "unchanged", temporary=temporary)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "shallow" in done.stderr.splitlines()[-1]
    assert list(temporary.iterdir()) == []


def test_memory_of_the_program_and_of_its_children_are_told_apart(tmp_path: Path) -> None:
    # The child stays for a second, so that it is seen.
    child = "import time; held = bytearray(90_000_000); time.sleep(1)"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {child!r}])"
    cost, _ = measure([sys.executable, "-c", parent], environment=environment())
    assert cost.own_memory_bytes is not None
    assert cost.memory_bytes is not None
    assert cost.own_memory_bytes < 80_000_000
    assert max(cost.memory_of.values()) > 90_000_000
    assert cost.memory_bytes > 90_000_000 + cost.own_memory_bytes // 2


def test_processor_time_of_children_counts(tmp_path: Path) -> None:
    work = "import time\nwhile time.process_time() < 0.5: pass"
    parent = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {work!r}])"
    cost, _ = measure([sys.executable, "-c", parent], environment=environment())
    assert cost.cpu_seconds >= 0.5


def test_a_temporary_file_counts_though_it_is_gone_at_the_end(tmp_path: Path) -> None:
    lines = (
        "import pathlib, sys, time",
        "place = pathlib.Path(sys.argv[1], 'file')",
        "place.write_bytes(bytes(3_000_000))",
        "time.sleep(1)",
        "place.unlink()",
    )
    script = "\n".join(lines)
    argv = (sys.executable, "-c", script, os.fspath(tmp_path))
    cost, _ = measure(argv, environment=environment(), temporary=tmp_path)
    assert cost.temporary_bytes == 3_000_000


def test_a_program_that_fails_is_not_measured_but_said(tmp_path: Path) -> None:
    with pytest.raises(CommandFailed, match=r"ended with 3: no such luck$"):
        measure(["sh", "-c", "echo no such luck >&2; exit 3"], environment=environment())


def test_files_that_changed_in_place_or_were_replaced_count_as_written(tmp_path: Path) -> None:
    for name in ("kept", "changed", "replaced"):
        (tmp_path / name).write_bytes(b"12345")
    before = contents(tmp_path)
    (tmp_path / "changed").write_bytes(b"123456")
    (tmp_path / "fresh").write_bytes(b"54321")
    (tmp_path / "fresh").rename(tmp_path / "replaced")
    (tmp_path / "new").write_bytes(b"1")
    assert written(before, contents(tmp_path)) == (3, 12)
