"""The container action: inputs in ``INPUT_`` variables, or a command line when there are words."""

import os
import sys
from collections.abc import Mapping, Sequence

from backup.config import INPUTS, Given, read_action
from backup.doors import cli
from backup.errors import ConfigError, ExitCode, NotYetAvailable


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as the action, or with arguments as the command line; return the exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    # An action whose `args` is an empty expression still gets one empty word.
    if any(words):
        return cli.main(words)
    for message in _refusals(os.environ):
        print(f"::error::{_escaped(message)}")  # noqa: T201
    return ExitCode.CONFIGURATION


def _refusals(environment: Mapping[str, str]) -> list[str]:
    """Name a wrong input first: it would be wrong in every release."""
    not_yet = "the container action is not available yet: use the command line, repo-backup run"
    try:
        read_action(_inputs(environment))
    except NotYetAvailable:
        return [not_yet]
    except ConfigError as error:
        return [error.message, not_yet]
    return [not_yet]


def _inputs(environment: Mapping[str, str]) -> dict[str, Given]:
    # The runner keeps dashes: max-chain-length is INPUT_MAX-CHAIN-LENGTH.
    texts = {one.name: environment.get(f"INPUT_{one.name.upper()}", "") for one in INPUTS}
    return {
        one.name: Given(texts[one.name], one.name)
        for one in INPUTS
        if one.action and texts[one.name]
    }


def _escaped(message: str) -> str:
    # Source: actions/runner, ActionCommand.cs.
    return message.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")
