"""What a night of the action does when something fails, and the same night again after repair.

Five repositories; the forge, git and the store are real servers, with faults between them.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.support.git import commit_chain, init_bare, set_head, update_refs
from tests.support.github import GitHub, Token
from tests.support.gitserver import Answer, Request
from tests.support.mirrors import assert_same_mirror
from tests.support.program import repo_backup
from tests.support.proxy import FaultProxy, ProxyFault
from tests.support.runner import TOKEN, Runner, Step
from tests.support.s3server import S3Server
from tests.support.vaults import to_be_kept

NAMES = ("one", "two", "three", "four", "five")
BUCKET = "failing"


@dataclass
class Night:
    """An organisation, a bucket, and the job that backs the one up into the other."""

    forge: GitHub
    store: S3Server
    folder: Path
    number: int = 0
    inputs: dict[str, str] = field(default_factory=dict)

    def run(self, *faults: ProxyFault, **inputs: str) -> Step:
        """Run the step; faults are between it and the store."""
        self.number += 1
        with FaultProxy(self.store.endpoint_url, *faults) as proxy:
            runner = Runner(self.folder / f"run-{self.number}", self.forge.url)
            runner.more = {**self.store.environment(), "AWS_ENDPOINT_URL": proxy.url}
            return runner.step(bucket=BUCKET, prefix=self.folder.name, **inputs)

    @property
    def vault(self) -> str:
        return f"s3://{BUCKET}/{self.folder.name}"

    @property
    def env(self) -> dict[str, str]:
        return {**self.store.environment(), "AWS_ENDPOINT_URL": self.store.endpoint_url}

    def assert_given_back(self, *names: str) -> None:
        """Insist on these by one command; it leaves out what is not listed any more."""
        back = self.folder / f"back-{self.number}"
        repo_backup("restore", "acme/*", "--from", self.vault, back, env=self.env, check=None)
        for name in names:
            self.assert_same(back, name)

    def assert_given_back_by_name(self, name: str) -> None:
        back = self.folder / f"back-{self.number}"
        place = back / f"{name}.git"
        repo_backup("restore", f"acme/{name}", "--from", self.vault, place, env=self.env)
        self.assert_same(back, name)

    def assert_same(self, back: Path, name: str) -> None:
        expected = to_be_kept(self.forge.root / "acme" / f"{name}.git")
        assert_same_mirror(back / f"{name}.git", expected)


@pytest.fixture(scope="module")
def store(moto_http: S3Server) -> S3Server:
    moto_http.make_bucket(BUCKET)
    return moto_http


@pytest.fixture
def night(store: S3Server, tmp_path: Path) -> Iterator[Night]:
    with GitHub(tmp_path / "git") as forge:
        forge.tokens[TOKEN] = Token("jane")
        forge.owner("jane", kind="User")
        acme = forge.owner("acme")
        for name in NAMES:
            path = init_bare(forge.root / "acme" / f"{name}.git")
            update_refs(path, {b"refs/heads/main": commit_chain(path, 3, label=name.encode())[-1]})
            set_head(path, b"refs/heads/main")
            forge.repository(acme, name)
        yield Night(forge, store, tmp_path)


def assert_agreement(step: Step) -> None:
    """Insist on exit code, outputs, summary, annotations and report telling the same."""
    outputs, totals = step.outputs, step.report["totals"]
    assert step.report["result"] == outputs["result"]
    headings = {"success": "complete", "partial": "partial", "failed": "failed"}
    assert f"Backup {headings[outputs['result']]}" in step.summary.splitlines()[0]
    for name in ("captured", "unchanged", "skipped", "not-reached", "failed"):
        assert str(totals[name.replace("-", "_")]) == outputs[name]
        counted = [one for one in step.report["repositories"] if one["status"] == name]
        assert str(len(counted)) == outputs[name]
    assert {"success": {0}, "partial": {3}, "failed": {1}}[outputs["result"]] == {step.code}
    assert bool(step.errors) == (step.code != 0)
    assert f"### Failed ({outputs['failed']})" in step.summary or outputs["failed"] == "0"


# --- One repository ------------------------------------------------------------------------------

Refuses = Callable[[Request], Answer | None]


def on_git(ending: str, answer: Answer) -> Refuses:
    return lambda one: answer if one.target.startswith(f"/acme/two.git/{ending}") else None


FORBIDDEN = Answer(403, {}, b"no")
RESULT = {"Content-Type": "application/x-git-upload-pack-result"}
CUT = Answer(200, RESULT, b"000dpackfile\n0009\x01PACK")


def denied(target: str) -> ProxyFault:
    return ProxyFault(action="refuse", method="PUT", target=target, status=403, times=None)


@pytest.mark.parametrize(
    ("stage", "answer", "faults"),
    [
        ("asking for the refs", on_git("info/refs", FORBIDDEN), ()),
        ("fetching", on_git("git-upload-pack", FORBIDDEN), ()),
        ("a pack that is cut", on_git("git-upload-pack", CUT), ()),
        (
            "uploading",
            lambda one: None,
            (denied(r"/two/.*bundle"),),
        ),
        (
            "recording",
            lambda one: None,
            (denied(r"/two/.*record"),),
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_one_repository_that_fails_costs_the_others_nothing(
    night: Night, stage: str, answer: Refuses, faults: tuple[ProxyFault, ...]
) -> None:
    night.forge.answer = answer
    step = night.run(*faults)
    assert_agreement(step)
    assert (step.code, step.outputs["captured"], step.outputs["failed"]) == (3, "4", "1")
    assert step.errors[0].startswith("acme/two: ")
    assert "| acme/two |" in step.summary
    night.assert_given_back("one", "three", "four", "five")
    none = repo_backup(
        "restore", "acme/two", "--from", night.vault, night.folder / "no", env=night.env, check=1
    )
    assert "has no backup" in none.stderr
    night.forge.answer = lambda one: None
    again = night.run()
    assert_agreement(again)
    assert (again.code, again.outputs["captured"], again.outputs["unchanged"]) == (0, "1", "4")
    night.assert_given_back(*NAMES)


# --- All of them, and the listing ----------------------------------------------------------------


def test_all_that_fail_fail_the_run_and_keep_what_there_is(night: Night) -> None:
    assert night.run().code == 0
    night.forge.answer = lambda one: FORBIDDEN if one.target.startswith("/acme/") else None
    step = night.run()
    assert_agreement(step)
    assert (step.code, step.outputs["result"], step.outputs["failed"]) == (1, "failed", "5")
    night.assert_given_back(*NAMES)
    night.forge.answer = lambda one: None
    again = night.run()
    assert (again.code, again.outputs["unchanged"]) == (0, "5")


def test_a_page_of_the_listing_that_fails_is_no_shorter_list(night: Night) -> None:
    night.forge.page = 2
    assert night.run().outputs["captured"] == "5"
    night.forge.answer = lambda one: (
        Answer(404, {}, b"{}")
        if "/orgs/acme/repos" in one.target and "page=2" in one.target
        else None
    )
    step = night.run()
    assert (step.code, step.outputs) == (1, {"result": "failed"})
    assert len(step.errors) == 1
    assert "Backup failed" in step.summary
    night.forge.answer = lambda one: None
    again = night.run()
    # Nothing was marked as gone.
    assert (again.code, again.outputs["unchanged"]) == (0, "5")
    assert "not listed since" not in json.dumps(again.report)


@pytest.mark.parametrize("left", [0, 2], ids=["zero listed", "a fall by more than half"])
def test_a_listing_that_falls_fails_the_run_and_marks_nothing(night: Night, left: int) -> None:
    assert night.run().code == 0
    everything = list(night.forge.repositories)
    night.forge.repositories[:] = everything[:left]
    step = night.run()
    assert (step.code, step.outputs["result"]) == (1, "failed")
    (error,) = step.errors
    assert f"{left} repositories are listed, 5 were before" in error
    assert "the scope repo" in error
    night.forge.repositories[:] = everything
    again = night.run()
    assert_agreement(again)
    assert (again.code, again.outputs["unchanged"], again.outputs["repositories"]) == (0, "5", "5")
    night.assert_given_back(*NAMES)


def test_a_fall_that_is_accepted_is_the_new_truth_and_loses_nothing(night: Night) -> None:
    assert night.run().code == 0
    night.forge.repositories[:] = night.forge.repositories[:2]
    accepted = night.run(accept_drop="true")
    assert_agreement(accepted)
    assert (accepted.code, accepted.outputs["unchanged"]) == (0, "2")
    assert night.run().code == 0
    night.assert_given_back("one", "two")
    night.assert_given_back_by_name("five")


def test_a_new_owner_with_nothing_listed_is_told_where_to_look(night: Night) -> None:
    night.forge.repositories.clear()
    step = night.run()
    assert (step.code, step.outputs["result"]) == (1, "failed")
    (error,) = step.errors
    assert "no repositories were found" in error
    assert "the scope repo" in error
    assert "single sign-on" in error


# --- The store -----------------------------------------------------------------------------------


def test_a_bucket_that_is_denied_fails_the_run_before_anything_is_captured(night: Night) -> None:
    step = night.run(ProxyFault(action="refuse", target=r"list-type=2", status=403, times=None))
    assert (step.code, step.outputs) == (1, {"result": "failed"})
    assert len(step.errors) == 1


def test_a_manifest_that_cannot_be_written_fails_the_run_and_the_next_one_goes_on(
    night: Night,
) -> None:
    assert night.run().code == 0
    step = night.run(denied(r"/snapshots/"))
    assert (step.code, step.outputs["result"]) == (1, "failed")
    again = night.run()
    assert_agreement(again)
    assert again.code == 0
    night.assert_given_back(*NAMES)
