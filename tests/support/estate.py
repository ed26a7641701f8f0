"""An organisation at the tests' GitHub that has one of everything, among a thousand others."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.support.git import commit_chain, init_bare, set_head, update_refs
from tests.support.github import GitHub, Owner, Token
from tests.support.gitserver import Answer, Request
from tests.support.mirrors import assert_same_mirror
from tests.support.runner import TOKEN, Step
from tests.support.shapes import LARGE, SOUND, make
from tests.support.vaults import to_be_kept

# More than any page, and than a thousand.
MANY = 1234
WIKIS = 2
NOTICE = "https://notice.example/7"

# What a forge lets a repository be called, and systems of files and keys may not like.
_NAMES = (".github", "CON", "aux.c", "a..b", "-dash", "ends.", "x" * 100, "100-percent", "_")
# Everything but one wiki without pages, an empty repository, and what GitHub does not give out.
_EMPTY, _SKIPPED = 2, 2


@dataclass(frozen=True, slots=True)
class Estate:
    """What is there, and what a backup of it has to say.

    Attributes:
        repositories: the git folder of each that has something, by its path in the vault.
        listed: how many the forge lists.
    """

    repositories: dict[str, Path]
    listed: int

    def assert_told(self, step: Step, *, first: bool) -> None:
        """Insist on outputs, summary and report of a night, and on their agreement."""
        captured = len(self.repositories)
        expected = {
            "result": "success",
            "repositories": str(self.listed + WIKIS),
            "captured": str(captured if first else 0),
            "unchanged": str(0 if first else captured),
            "skipped": str(_SKIPPED),
            "failed": "0",
        }
        assert step.code == 0, step.shown[-3000:]
        assert {name: step.outputs[name] for name in expected} == expected
        totals = step.report["totals"]
        assert [str(totals[name]) for name in ("listed", "captured", "unchanged", "skipped")] == [
            expected[name] for name in ("repositories", "captured", "unchanged", "skipped")
        ]
        assert str(totals["bytes_uploaded"]) == step.outputs["bytes-uploaded"]
        assert step.summary.startswith("## ✅ Backup complete")
        assert len(step.summary.encode()) < 1_000_000
        assert step.errors == []
        statuses = [one["status"] for one in step.report["repositories"]]
        assert (statuses.count("empty"), statuses.count("skipped")) == (_EMPTY, _SKIPPED)
        reasons = {one["path"]: one["reason"] for one in step.report["repositories"]}
        assert NOTICE in reasons["taken-down"]

    def assert_restored(self, answer: Any) -> None:
        """Insist on every repository being there, object for object and ref for ref.

        Args:
            answer: of ``restore --all --json``.
        """
        paths = {one["repository"]: Path(one["path"]) for one in answer["restored"]}
        assert paths.keys() == {f"acme/{name}" for name in (*self.repositories, "empty")}
        assert (len(answer["left_out"]), answer["failed"]) == (_EMPTY - 1 + _SKIPPED, [])
        for name, source in self.repositories.items():
            # What is the same folder there, need not be compared a thousand times.
            if not source.is_symlink():
                assert_same_mirror(paths[f"acme/{name}"], to_be_kept(source))


def furnish(forge: GitHub, acme: Owner, *, listed: int = MANY) -> Estate:
    """Make the organisation: every shape, every state that a listing knows, and many alike."""
    forge.tokens[TOKEN] = Token("jane")
    forge.owner("jane", kind="User")
    folder = forge.root / acme.login
    repositories: dict[str, Path] = {}

    def add(name: str, *, path: Path | None = None, **more: Any) -> None:
        place = folder / f"{name}.git"
        if path is None:
            init_bare(place)
            update_refs(
                place, {b"refs/heads/main": commit_chain(place, 2, label=name.encode())[-1]}
            )
            set_head(place, b"refs/heads/main")
        elif path != place:
            place.symlink_to(path)
        forge.repository(acme, name, **more)
        repositories[name] = place

    for name in sorted({*SOUND, *LARGE}):
        add(name, path=make(name, folder / f"{name}.git"))
    del repositories["empty"]
    for name in _NAMES:
        add(name)
    add("private", private=True)
    add("internal", private=True, visibility="internal")
    add("archived", archived=True)
    add("fork", fork=True)
    add("with-wiki", has_wiki=True)
    wiki = init_bare(folder / "with-wiki.wiki.git")
    update_refs(wiki, {b"refs/heads/master": commit_chain(wiki, 1)[-1]})
    repositories["with-wiki.wiki"] = wiki
    add("wiki-without-pages", has_wiki=True)
    for name in ("switched-off", "taken-down"):
        add(name, disabled=name == "switched-off")
        del repositories[name]
    model = folder / "private.git"
    for number in range(listed - len(forge.repositories)):
        add(f"r{number:04}", path=model)

    def answer(request: Request) -> Answer | None:
        if request.target.startswith(f"/{acme.login}/taken-down.git"):
            return Answer(451, {}, f"unavailable: {NOTICE}".encode())
        return None

    forge.answer = answer
    return Estate(repositories, listed)
