"""How one input is declared: what doors and documents may know of it."""

from dataclasses import dataclass, field
from typing import Any, TypeVar

from backup.config.names import WRITING_COMMANDS, Command, Group
from backup.config.syntax import BOOLEAN, Syntax

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Input:
    """One input as every door and document sees it.

    Attributes:
        name: kebab-case; the action's input, and the option of the command line but for the
            vault's place (see ``option``).
        attribute: the field of `Config`.
        default: as text; empty where there is none.
        commands: which commands of the command line take it.
        secret: never an option, never printed.
        available: whether it works; others are checked, and refused unless they ask for nothing.
        off: texts besides the default that ask for nothing.
        action: whether the container action has it.
    """

    name: str
    attribute: str
    help: str
    group: Group
    syntax: Syntax[Any]
    default: str
    commands: tuple[Command, ...]
    secret: bool
    available: bool
    off: tuple[str, ...]
    action: bool

    def option(self, command: Command) -> str:
        """Name the option of the command line; a secret has none, only the variable."""
        if self.name != "destination":
            return f"--{self.name}"
        return "--to" if command in WRITING_COMMANDS else "--from"

    def variable(self, command: Command) -> str:
        """Name the environment variable of the command line."""
        return "REPO_BACKUP_" + self.option(command)[2:].upper().replace("-", "_")

    @property
    def is_flag(self) -> bool:
        """Whether it is true or false."""
        return self.syntax.metavar == BOOLEAN.metavar


def declare(
    syntax: Syntax[T],
    help_text: str,
    *,
    group: Group,
    commands: tuple[Command, ...],
    default: str,
    available: bool = False,
    off: tuple[str, ...] = (),
    action: bool = True,
    name: str = "",
) -> T:
    """Declare an input that always has a value; the field's type is checked against the syntax."""
    facts = {
        "name": name,
        "help": help_text,
        "group": group,
        "syntax": syntax,
        "default": default,
        "commands": commands,
        "secret": syntax.metavar == "SECRET",
        "available": available,
        "off": off,
        "action": action,
    }
    return field(default=syntax.parse(default), metadata=facts)


def optional(
    syntax: Syntax[T],
    help_text: str,
    *,
    group: Group,
    commands: tuple[Command, ...],
    available: bool = False,
    action: bool = True,
    name: str = "",
) -> T | None:
    """Declare an input that may be absent."""

    def read(text: str) -> T | None:
        return syntax.parse(text) if text else None

    return declare(
        Syntax(syntax.metavar, syntax.accepts, read, joined_by=syntax.joined_by),
        help_text,
        group=group,
        commands=commands,
        default="",
        available=available,
        action=action,
        name=name,
    )
