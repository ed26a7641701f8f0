"""Several repositories by one command: all, or those that a glob names."""

from pathlib import Path

import pytest

from tests.support.git import commit_chain, init_bare, update_refs
from tests.support.mirrors import assert_same_mirror
from tests.support.program import repo_backup
from tests.support.vaults import to_be_kept

NAMES = ("team-a/one", "team-a/two", "team-b/one", "what?", "other")


@pytest.fixture(scope="module")
def vault(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("several")
    for name in NAMES:
        path = init_bare(folder / "acme" / f"{name}.git")
        update_refs(path, {b"refs/heads/main": commit_chain(path, 2, label=name.encode())[-1]})
    repo_backup("run", "--from", folder / "acme", "--to", folder / "vault")
    return folder / "vault"


def source(vault: Path, name: str) -> Path:
    return vault.parent / "acme" / f"{name}.git"


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("team-a/*", ("team-a/one", "team-a/two")),
        ("acme/*/one", ("team-a/one", "team-b/one")),
        ("folder/acme/team-?/*", ("team-a/one", "team-a/two", "team-b/one")),
        ("*", NAMES),
    ],
)
@pytest.mark.parametrize("concurrency", ["1", "4"])
def test_a_glob_restores_what_it_matches_and_nothing_else(
    vault: Path, tmp_path: Path, pattern: str, expected: tuple[str, ...], concurrency: str
) -> None:
    answer = repo_backup(
        *("restore", pattern, "--from", vault, tmp_path / "back", "--json"),
        *("--concurrency", concurrency),
    ).json
    paths = {one["repository"]: Path(one["path"]) for one in answer["restored"]}
    assert paths.keys() == {f"acme/{name}" for name in expected}
    assert list(paths) == sorted(paths)
    for name in expected:
        assert_same_mirror(paths[f"acme/{name}"], to_be_kept(source(vault, name)))


def test_a_name_that_looks_like_a_glob_is_a_name_first(vault: Path, tmp_path: Path) -> None:
    repo_backup("restore", "acme/what?", "--from", vault, tmp_path / "back.git")
    assert_same_mirror(tmp_path / "back.git", to_be_kept(source(vault, "what?")))


def test_a_glob_that_matches_nothing_or_has_no_target_is_refused(
    vault: Path, tmp_path: Path
) -> None:
    nothing = repo_backup("restore", "zzz*", "--from", vault, tmp_path / "back", check=2)
    assert "nothing in this vault matches 'zzz*'" in nothing.stderr
    assert not (tmp_path / "back").exists()
    missing = repo_backup("restore", "team-*", "--from", vault, check=2)
    assert "TARGET is missing" in missing.stderr


def test_one_that_is_damaged_costs_the_others_nothing(vault: Path, tmp_path: Path) -> None:
    (bundle,) = (vault / "folder/acme/repositories/team-a/one").glob("*/*.bundle")
    whole = bundle.read_bytes()
    bundle.chmod(0o644)
    bundle.write_bytes(whole[:-1])
    try:
        done = repo_backup(
            "restore", "team-*", "--from", vault, tmp_path / "back", "--json", check=4
        )
    finally:
        bundle.write_bytes(whole)
    assert [one["repository"] for one in done.json["restored"]] == [
        "acme/team-a/two",
        "acme/team-b/one",
    ]
    (failed,) = done.json["failed"]
    assert failed.startswith("acme/team-a/one: ")
    assert not (tmp_path / "back" / "team-a" / "one.git").exists()
