"""What the environment says of inputs: by our names, and by those of older scripts."""

import os
import re
from collections.abc import Mapping

from backup.config import Command, Given, taken_by

# Names in use by the scripts that people come from. What is named for a forge counts for it alone.
_OF_STORES: Mapping[str, tuple[str, ...]] = {
    "bucket": ("BACKUP_BUCKET_NAME",),
    "region": ("BACKUP_AWS_REGION",),
}
_OF_FORGES: Mapping[str, Mapping[str, tuple[str, ...]]] = {
    "github": {"owner": ("BACKUP_GITHUB_OWNER",), "token": ("BACKUP_GITHUB_PAT",)},
    "gitlab": {
        "owner": ("GROUPS_TO_BACKUP",),
        "token": ("GITLAB_TOKEN",),
        "server-url": ("GITLAB_URL",),
        "bucket": ("AWS_S3_BUCKET",),
    },
}


def fallbacks(provider: str) -> Mapping[str, tuple[str, ...]]:
    """Tell which variables of the environment stand in for which inputs.

    Args:
        provider: the forge; any other text for none.
    """
    return {**_OF_STORES, **_OF_FORGES.get(provider, {})}


def with_environment(command: Command, given: Mapping[str, Given]) -> dict[str, Given]:
    """Add what the environment says of inputs that nobody gave.

    By ``REPO_BACKUP_<INPUT>``, and where that says nothing by the names of older scripts.

    Args:
        command: what is to be done.
        given: input name to what was given for it.
    """
    known = dict(given)
    for one in taken_by(command):
        variable = one.variable(command)
        if one.name not in known and os.environ.get(variable):
            known[one.name] = Given(os.environ[variable], variable)
    return _with_fallbacks(command, known)


def _with_fallbacks(command: Command, given: dict[str, Given]) -> dict[str, Given]:
    names = {one.name for one in taken_by(command)}
    if "destination" in given:
        names.discard("bucket")
    if command == "restore":
        # A token that was given for reading is not for pushing, and not for any server.
        names.discard("token")
    if "from" in names and "from" not in given:
        given |= _sources_by_environment()
    others = fallbacks(_only_forge(given["from"].text) if "from" in given else "")
    for name in names & {"token", "server-url", "bucket", "region"} - given.keys():
        for variable in others.get(name, ()):
            if os.environ.get(variable):
                given[name] = Given(os.environ[variable], variable)
                break
    return given


def _sources_by_environment() -> dict[str, Given]:
    """Find the owners that an older script would back up."""
    for forge in _OF_FORGES:
        for variable in fallbacks(forge)["owner"]:
            owners = [name for name in re.split(r"[,\s]+", os.environ.get(variable, "")) if name]
            if owners:
                return {"from": Given("\n".join(f"{forge}:{name}" for name in owners), variable)}
    return {}


def _only_forge(sources: str) -> str:
    """Name the forge that all sources are at; empty where they are not at one."""
    # A token that is named for one forge goes nowhere else.
    found = {place.strip().partition(":")[0] for place in sources.splitlines() if place.strip()}
    return found.pop() if len(found) == 1 else ""
