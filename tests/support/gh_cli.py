"""Stands for GitHub's command line in the commands of documents, as far as these use it.

Run as a program. Variables and secrets are kept in a folder; a workflow that is run is read from
the repository that it was pushed to, and its step of ours is started as the runner starts it, under
the role that the step before it assumes.
"""

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import boto3
import urllib3
import yaml

from tests.support.program import environment
from tests.support.runner import Runner
from tests.support.workflows import evaluated

# What the test gives: a folder for what is kept, the fake's address, its folder of repositories.
STATE, SERVER_URL, REPOSITORIES = "GH_STATE", "GH_SERVER_URL", "GH_REPOSITORIES"


def main(words: Sequence[str]) -> int:
    """Do what `gh` with these words would."""
    match words:
        case ["api", path, "--jq", query] if query == ".id":
            sys.stdout.write(f"{_api(path)['id']}\n")
        case ["secret", "set", name, "--repo", repository]:
            _keep(repository, f"secrets.{name}", sys.stdin.read().strip())
        case ["variable", "set", name, "--repo", repository, "--body", text]:
            _keep(repository, f"vars.{name}", text)
        case ["repo", "clone", repository, target]:
            _git("clone", "--quiet", _remote(repository), target)
        case ["workflow", "run", name, "--repo", repository]:
            _run_workflow(repository, name)
        case ["run", "watch", "--repo", repository, "--exit-status"]:
            return int(_kept(repository)["exit"])
        case _:
            sys.stderr.write(f"the tests' gh does not know {words}\n")
            return 2
    return 0


def _api(path: str) -> Any:
    answer = urllib3.request("GET", f"{os.environ[SERVER_URL]}/api/v3/{path}")
    if answer.status != 200:
        raise SystemExit(f"gh: {path}: {answer.status}")
    return answer.json()


def _remote(repository: str) -> str:
    return f"{os.environ[REPOSITORIES]}/{repository}.git"


def _git(*words: str) -> str:
    done = subprocess.run(["git", *words], stdout=subprocess.PIPE, encoding="utf-8", check=True)
    return done.stdout


def _file(repository: str) -> Path:
    return Path(os.environ[STATE]) / f"{repository.replace('/', '--')}.json"


def _kept(repository: str) -> dict[str, str]:
    file = _file(repository)
    found: dict[str, str] = json.loads(file.read_text("utf-8")) if file.exists() else {}
    return found


def _keep(repository: str, name: str, text: str) -> None:
    _file(repository).write_text(json.dumps(_kept(repository) | {name: text}), encoding="utf-8")


def _run_workflow(repository: str, name: str) -> None:
    text = _git("--git-dir", _remote(repository), "show", f"HEAD:.github/workflows/{name}")
    workflow = yaml.load(text, Loader=yaml.BaseLoader)
    # A run by hand has no schedule: jobs that ask for one are skipped.
    (job,) = (
        job
        for job in workflow["jobs"].values()
        if not job.get("if", "").startswith("github.event.schedule ==")
    )
    known = _kept(repository) | {"github.repository_owner": repository.partition("/")[0]}
    role, ours = (_inputs(step, known) for step in job["steps"][:2])
    runner = Runner(Path(os.environ[STATE]) / "runner", os.environ[SERVER_URL], more=_as_role(role))
    done = runner.step(**{key.replace("-", "_"): value for key, value in ours.items()})
    _keep(repository, "exit", str(done.code))
    _keep(repository, "summary", done.summary)


def _inputs(step: Mapping[str, Any], known: Mapping[str, str]) -> dict[str, str]:
    return {name: evaluated(text, known) for name, text in step["with"].items()}


def _as_role(role: Mapping[str, str]) -> dict[str, str]:
    found = boto3.client("sts", region_name=role["aws-region"]).assume_role_with_web_identity(
        RoleArn=role["role-to-assume"],
        RoleSessionName="GitHubActions",
        WebIdentityToken="a token that GitHub signed",
        DurationSeconds=int(role["role-duration-seconds"]),
    )["Credentials"]
    endpoint = {name: value for name, value in os.environ.items() if name == "AWS_ENDPOINT_URL"}
    return endpoint | {
        "AWS_ACCESS_KEY_ID": found["AccessKeyId"],
        "AWS_SECRET_ACCESS_KEY": found["SecretAccessKey"],
        "AWS_SESSION_TOKEN": found["SessionToken"],
        "AWS_REGION": role["aws-region"],
    }


if __name__ == "__main__":
    # Of the git identity and the like nothing is the user's.
    os.environ.update({name: text for name, text in environment().items() if name != "PATH"})
    sys.exit(main(sys.argv[1:]))
