"""Inputs of every origin, checked into one frozen `Config`.

`names` are the words, `syntax` says what each kind of text may be, `table` holds all inputs, and
`reading` turns what a door was given into a `Config`. Nothing here reads the environment.
"""

from backup.config.declaring import Input
from backup.config.names import (
    COMMANDS,
    METADATA_KINDS,
    WORKING_COMMANDS,
    ActionCommand,
    Command,
    Group,
)
from backup.config.reading import (
    Given,
    goes_in_the_clear,
    read_action,
    read_command_line,
    taken_by,
)
from backup.config.syntax import DestinationSpec, Shard, SourceSpec, Span
from backup.config.table import INPUTS, Config

__all__ = [
    "COMMANDS",
    "INPUTS",
    "METADATA_KINDS",
    "WORKING_COMMANDS",
    "ActionCommand",
    "Command",
    "Config",
    "DestinationSpec",
    "Given",
    "Group",
    "Input",
    "Shard",
    "SourceSpec",
    "Span",
    "goes_in_the_clear",
    "read_action",
    "read_command_line",
    "taken_by",
]
