"""Writes ``action.yml`` from the inputs and outputs of the code.

Source: GitHub Docs, "Metadata syntax for GitHub Actions".
"""

import json
import textwrap
from collections.abc import Iterator

from backup.config import INPUTS, Input
from backup.doors.action import OUTPUTS

# Of the Marketplace, where no two actions share one.
NAME = "Repository Vault Backup"
# There it may have 125 characters.
_DESCRIPTION = (
    "Back up every repository of an owner into your bucket, each night only what changed, "
    "restorable with plain git"
)
_WIDTH = 96


def action_yml() -> str:
    """Make the whole file."""
    return "".join(f"{line}\n" for line in _lines())


def _lines() -> Iterator[str]:
    yield "# Written by `make docs`; the inputs come from backup/config/table.py."
    yield f"name: {NAME}"
    yield f"description: {_DESCRIPTION}"
    yield "author: repo-backup-action"
    yield "branding:"
    yield "  icon: archive"
    yield "  color: blue"
    yield ""
    yield "inputs:"
    for one in INPUTS:
        if one.action:
            yield from _input(one)
    yield ""
    yield "outputs:"
    for name, meaning in OUTPUTS.items():
        yield f"  {name}:"
        yield from _description(meaning)
    yield ""
    yield "runs:"
    yield "  using: docker"
    yield "  image: Dockerfile"
    yield "  entrypoint: /entrypoint.py"


def _input(one: Input) -> Iterator[str]:
    yield f"  {one.name}:"
    yield from _description(one.help if one.available else f"{one.help} Not available yet.")
    yield f"    required: {json.dumps(one.name == 'owner')}"
    # Without one the runner gives an empty text, which means that it was not given.
    if one.default:
        yield f"    default: {json.dumps(one.default)}"


def _description(text: str) -> Iterator[str]:
    yield "    description: >-"
    yield from textwrap.wrap(text, _WIDTH, initial_indent=" " * 6, subsequent_indent=" " * 6)
