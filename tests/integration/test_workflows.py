"""The workflows to copy, the reusable one and the composite action, as far as they run here."""

import json
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.actionlint import findings
from tests.support.engine import BASE, pinned_base
from tests.support.git import commit_chain, init_bare, set_head, update_refs
from tests.support.github import GitHub, Token
from tests.support.mirrors import assert_same_mirror
from tests.support.program import repo_backup
from tests.support.runner import CHECKOUT, TOKEN, Runner
from tests.support.s3server import S3Server
from tests.support.vaults import to_be_kept
from tests.support.workflows import evaluated

OURS = "org/repo-backup-action"
EXAMPLES = sorted((CHECKOUT / "examples").glob("*.yml"))
WORKFLOWS = sorted((CHECKOUT / ".github" / "workflows").glob("*.yml"))
COMPOSITE = CHECKOUT / "with-role" / "action.yml"
EVERY = [*EXAMPLES, *WORKFLOWS, COMPOSITE]


def load(path: Path) -> Any:
    # "on" is a word for true in YAML 1.1.
    return yaml.load(path.read_text("utf-8"), Loader=yaml.BaseLoader)


def steps_of(document: Any) -> Iterator[Any]:
    if "runs" in document:
        yield from document["runs"]["steps"]
    for job in document.get("jobs", {}).values():
        yield from job.get("steps", ())


def inputs_of(uses: str) -> Any:
    """Read the inputs that one of our own actions and workflows declares."""
    place = uses.removeprefix(OURS).partition("@")[0].removeprefix("/")
    if place.endswith(".yml"):
        return load(CHECKOUT / place)["on"]["workflow_call"]["inputs"]
    return load(CHECKOUT / place / "action.yml")["inputs"]


def callers() -> Iterator[tuple[str, Any]]:
    for path in EVERY:
        document = load(path)
        jobs = document.get("jobs", {}).values()
        for one in (*steps_of(document), *(job for job in jobs if "uses" in job)):
            if one.get("uses", "").startswith(OURS):
                yield path.name, one


# --- What they say -------------------------------------------------------------------------------


def test_every_image_begins_with_the_same_base_by_its_digest() -> None:
    bases = {
        line.split()[1]
        for path in CHECKOUT.glob("Dockerfile*")
        for line in path.read_text("utf-8").splitlines()
        if line.startswith("FROM ")
    }
    assert [*bases] == [pinned_base()]
    assert re.fullmatch(rf"{BASE}@sha256:[0-9a-f]{{64}}", pinned_base())


def test_every_action_is_pinned_and_everywhere_to_the_same_commit() -> None:
    pins: dict[str, set[str]] = {}
    for path in (*EVERY, CHECKOUT / "README.md"):
        for match in re.finditer(r"uses: ([\w./-]+)@(\S+)(?: # (\S+))?", path.read_text("utf-8")):
            name, commit, tag = match.groups()
            if name.startswith(OURS):
                assert commit == "v1", path
                continue
            assert re.fullmatch(r"[0-9a-f]{40}", commit), (path, name)
            assert tag, (path, name)
            pins.setdefault(name, set()).add(f"{commit} {tag}")
    assert pins
    assert {name: found for name, found in pins.items() if len(found) > 1} == {}


def test_what_is_handed_on_is_declared_and_what_is_needed_is_there() -> None:
    found = list(callers())
    assert len(found) == 6
    for name, one in found:
        declared = inputs_of(one["uses"])
        assert one["with"].keys() <= declared.keys(), name
        needed = {key for key, value in declared.items() if value.get("required") == "true"}
        assert needed <= one["with"].keys(), name


def test_the_workflows_in_the_documents_are_sound_and_hand_on_what_is_declared(
    tmp_path: Path,
) -> None:
    readme = (CHECKOUT / "README.md").read_text("utf-8")
    (whole,) = re.findall(r"^```yaml\n(name: .*?)^```$", readme, re.DOTALL | re.MULTILINE)
    (tmp_path / "readme.yml").write_text(whole)
    assert findings([tmp_path / "readme.yml"]) == []
    pages = (CHECKOUT / "README.md", CHECKOUT / "docs" / "how-to" / "run-every-night.md")
    found = 0
    for page in pages:
        text = page.read_text("utf-8")
        for block in re.findall(r"^```yaml\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
            document = yaml.safe_load(block)
            steps = document if isinstance(document, list) else [*steps_of(document)]
            for step in steps:
                if step.get("uses", "").startswith(OURS):
                    assert step["with"].keys() <= inputs_of(step["uses"]).keys(), page
                    found += 1
    assert found == 3


def test_the_reusable_workflow_hands_on_all_that_it_takes() -> None:
    reusable = load(CHECKOUT / ".github" / "workflows" / "backup.yml")
    inputs = reusable["on"]["workflow_call"]["inputs"].keys()
    (step,) = steps_of(reusable)
    secrets = reusable["on"]["workflow_call"]["secrets"].keys()
    assert step["with"].keys() == inputs | secrets
    assert step["with"].keys() == load(COMPOSITE)["inputs"].keys()


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_is_scheduled_off_the_hour_and_may_no_more_than_assume_the_role(
    path: Path,
) -> None:
    document = load(path)
    nightly, weekly = [one["cron"] for one in document["on"]["schedule"]]
    assert "0" not in {nightly.split()[0], weekly.split()[0]}
    assert "workflow_dispatch" in document["on"]
    assert document["permissions"] == {}
    for job in document["jobs"].values():
        assert job["permissions"] == {"id-token": "write"}
        called = job.get("uses", "").startswith(OURS)
        assert called or job["concurrency"]["cancel-in-progress"] == "false"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.name)
def test_an_example_holds_a_drill_each_week_that_proves_everything_within_90_days(
    path: Path,
) -> None:
    document = load(path)
    nightly, weekly = [one["cron"] for one in document["on"]["schedule"]]
    assert nightly.split()[2:] == ["*", "*", "*"]
    assert re.fullmatch(r"\d+ \d+ \* \* [0-6]", weekly)
    backup, drill = document["jobs"]["backup"], document["jobs"]["drill"]
    assert backup["if"] == f"github.event.schedule != '{weekly}'"
    assert drill["if"] == f"github.event.schedule == '{weekly}'"
    # A step that fails fails the job: nothing lets it pass.
    assert "continue-on-error" not in path.read_text("utf-8")
    steps = [drill, *drill.get("steps", ())]
    (given,) = [one["with"] for one in steps if one.get("uses", "").startswith(OURS)]
    if "steps" not in drill:
        called = load(CHECKOUT / ".github" / "workflows" / "backup.yml")
        inputs = called["on"]["workflow_call"]["inputs"]
        defaults = {name: one["default"] for name, one in inputs.items() if "default" in one}
        given = defaults | given
    assert (given["command"], given["depth"]) == ("verify", "restore")
    # Twelve weeks are 84 days.
    assert int(given["sample-percent"]) * 12 >= 100
    assert not given.get("sample-bytes")


def test_the_linter_of_workflows_sees_what_is_wrong(tmp_path: Path) -> None:
    bad = tmp_path / "bad.yml"
    bad.write_text(
        'on:\n  schedule:\n    - cron: "17 33 * * *"\njobs:\n  a:\n    runs-on: ubuntu-24.04\n'
        "    steps:\n      - run: echo ${{ github.event.issue.title }}\n"
    )
    assert [one.rpartition("[")[2] for one in findings([bad])] == ["events]", "expression]"]


# --- What they do --------------------------------------------------------------------------------


CONTEXT = {
    "github.repository_owner": "acme",
    "github.server_url": "https://github.example",
    "github.repository": "acme/backups",
    "github.run_id": "4711",
    "secrets.BACKUP_TOKEN": TOKEN,
    "vars.BACKUP_BUCKET": "workflow-vault",
    "vars.BACKUP_TOPIC": "arn:aws:sns:eu-central-1:123456789012:topic",
    "inputs.topic-arn": "arn:aws:sns:eu-central-1:123456789012:topic",
    "inputs.owner": "acme",
    "inputs.command": "run",
    "steps.backup.outputs.result": "partial",
    "steps.backup.outputs.failed": "3",
}


def test_the_example_backs_up_what_the_action_gets_from_it(
    tmp_path: Path, moto_http: S3Server
) -> None:
    moto_http.make_bucket("workflow-vault")
    env = moto_http.environment() | {"AWS_ENDPOINT_URL": moto_http.endpoint_url}
    night, drill = [
        {name.replace("-", "_"): evaluated(text, CONTEXT) for name, text in one["with"].items()}
        for one in steps_of(load(CHECKOUT / "examples" / "backup.yml"))
        if one.get("uses", "").startswith(OURS)
    ]
    with GitHub(tmp_path / "git") as forge:
        forge.tokens[TOKEN] = Token("jane")
        forge.owner("jane", kind="User")
        widgets = init_bare(forge.root / "acme" / "widgets.git")
        update_refs(widgets, {b"refs/heads/main": commit_chain(widgets, 2)[-1]})
        set_head(widgets, b"refs/heads/main")
        forge.repository(forge.owner("acme"), "widgets")
        runner = Runner(tmp_path / "runner", forge.url, more=env)
        done = runner.step(**night)
    assert (done.code, done.outputs["captured"]) == (0, "1"), done.shown
    proved = runner.step(**{"token": "", **drill})
    assert (proved.code, proved.outputs) == (0, {"result": "success"}), proved.shown
    assert "1 repository verified (restore)" in proved.summary
    vault = "s3://workflow-vault/git"
    repo_backup("restore", "acme/widgets", "--from", vault, tmp_path / "back.git", env=env)
    assert_same_mirror(tmp_path / "back.git", to_be_kept(widgets))
    with moto_http.client() as client:
        (bundle,) = [
            one
            for one in client.list_objects_v2(Bucket="workflow-vault")["Contents"]
            if one["Key"].endswith(".bundle")
        ]
        assert bundle["StorageClass"] == "INTELLIGENT_TIERING"


AWS = """#!/usr/bin/env python3
import json, os, sys
with open(os.environ["SAID"], "w") as file:
    json.dump(sys.argv[1:], file)
"""


@pytest.mark.parametrize("path", [EXAMPLES[-1], COMPOSITE], ids=["example", "composite"])
@pytest.mark.parametrize("result", ["partial", ""])
def test_a_failure_is_told_with_what_to_do(path: Path, result: str, tmp_path: Path) -> None:
    step = next(one for one in steps_of(load(path)) if "Tell" in one.get("name", ""))
    assert "failure()" in step["if"]
    assert "cancelled()" in step["if"]
    aws = tmp_path / "bin" / "aws"
    aws.parent.mkdir()
    aws.write_text(AWS)
    aws.chmod(0o755)
    context = CONTEXT | {"steps.backup.outputs.result": result}
    env = {name: evaluated(text, context) for name, text in step["env"].items()}
    script = tmp_path / "script.sh"
    script.write_text(step["run"])
    # As GitHub runs a script of a step.
    subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", str(script)],
        env={
            "PATH": os.pathsep.join((str(aws.parent), os.environ["PATH"])),
            "SAID": str(tmp_path / "said"),
            **env,
        },
        check=True,
    )
    words = json.loads((tmp_path / "said").read_text())
    assert words[:2] == ["sns", "publish"]
    said = dict(zip(words[2::2], words[3::2], strict=True))
    assert said["--topic-arn"] == CONTEXT["vars.BACKUP_TOPIC"]
    assert (result or "failed") in said["--subject"]
    # Amazon SNS, Publish: a subject is at most 100 characters long.
    assert len(said["--subject"]) <= 100
    assert "https://github.example/acme/backups/actions/runs/4711" in said["--message"]


def test_a_release_makes_the_action_pull_the_image_that_it_built(tmp_path: Path) -> None:
    release = load(CHECKOUT / ".github" / "workflows" / "release.yml")
    (step,) = [one for one in steps_of(release) if "pull the image" in one.get("name", "")]
    (tmp_path / "action.yml").write_bytes((CHECKOUT / "action.yml").read_bytes())
    digest = f"sha256:{'7' * 64}"
    subprocess.run(
        ["bash", "-eo", "pipefail", "-c", step["run"]],
        cwd=tmp_path,
        env={"PATH": os.environ["PATH"], "IMAGE": f"ghcr.io/{OURS}", "DIGEST": digest},
        check=True,
    )
    made = load(tmp_path / "action.yml")
    assert made["runs"].pop("image") == f"docker://ghcr.io/{OURS}@{digest}"
    before = load(CHECKOUT / "action.yml")
    assert before["runs"].pop("image") == "Dockerfile"
    assert made == before
