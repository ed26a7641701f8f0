"""Takes the words of the command line apart, by click, and prints the help.

The options are made from `backup.config.INPUTS`; what their values mean is checked there.
"""

import difflib
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast, get_args

import click

from backup import __version__
from backup.config import (
    COMMANDS,
    INPUTS,
    WORKING_COMMANDS,
    Command,
    Given,
    Group,
    Input,
    taken_by,
)
from backup.doors.environment import with_environment
from backup.doors.pages import EXIT_CODES, PAGES, Page
from backup.errors import ConfigError

PROGRAM = "repo-backup"


@dataclass(frozen=True, slots=True)
class Invocation:
    """A command with its words, taken apart and not yet understood.

    Attributes:
        given: input name to what was typed for it.
        arguments: the words that belong to no option.
    """

    command: Command
    given: Mapping[str, Given]
    arguments: tuple[str, ...]


def take_apart(words: Sequence[str]) -> Invocation | None:
    """Tell command, options and arguments; None when there was only help to print.

    Raises:
        ConfigError: a word belongs nowhere.
    """
    program = make_program()
    try:
        with program.make_context(PROGRAM, list(words)) as context:
            return cast("Invocation", program.invoke(context))
    except click.exceptions.Exit:
        return None
    except click.NoSuchOption as error:
        raise _no_such_option(error.option_name, _command_of(error)) from None
    except click.BadOptionUsage as error:
        raise _bad_usage(error.option_name) from None
    except click.UsageError as error:
        # What is left is a line without a command; unknown words are ours to refuse.
        raise ConfigError(
            "a command is missing", hint=f"{PROGRAM} --help lists the commands"
        ) from error


class _Program(click.Group):
    """Names commands in their own order and refuses unknown ones in our words."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if self.get_command(ctx, args[0]) is None:
            near = difflib.get_close_matches(args[0], COMMANDS, n=1)
            hint = f"did you mean {near[0]}?" if near else f"{PROGRAM} --help lists the commands"
            raise ConfigError(f"there is no command {args[0]!r}", hint=hint)
        return super().resolve_command(ctx, args)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        missing = [name for name in COMMANDS if name not in WORKING_COMMANDS]
        _section(formatter, "Not available yet", ", ".join(missing))
        super().format_epilog(ctx, formatter)


class _Command(click.Command):
    """Shows its options by subject and says which do not work yet."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        records = {one.name: one.get_help_record(ctx) for one in self.get_params(ctx)}
        inputs = taken_by(cast("Command", self.name))
        for group in get_args(Group):
            shown = [records.get(one.attribute) for one in inputs if one.group == group]
            lines = [record for record in shown if record is not None]
            if lines:
                with formatter.section(group):
                    formatter.write_dl(lines)
        missing = [
            one.option(cast("Command", self.name))
            for one in inputs
            if not one.available and not one.secret
        ]
        if missing:
            _section(formatter, "Not available yet", ", ".join(missing))

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        page = PAGES.get(cast("Command", self.name))
        if page is not None:
            with formatter.section("Examples"):
                for line in page.example.splitlines():
                    formatter.write(f"{'':{formatter.current_indent}}$ {line}\n")
        super().format_epilog(ctx, formatter)


def _section(formatter: click.HelpFormatter, title: str, text: str) -> None:
    # Not write_text: it would break --long-names at their dashes.
    with formatter.section(title):
        indent = " " * formatter.current_indent
        formatter.write(
            textwrap.fill(
                text,
                width=formatter.width,
                initial_indent=indent,
                subsequent_indent=indent,
                break_on_hyphens=False,
            )
        )
        formatter.write("\n")


def make_program() -> click.Group:
    """Make click's program of all commands."""
    program = _Program(
        name=PROGRAM,
        no_args_is_help=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        help="Back up git repositories as plain git bundles into a bucket or a folder, "
        "incrementally, and give every state back.",
        epilog="Every option is also an environment variable: --max-chain-length is "
        f"REPO_BACKUP_MAX_CHAIN_LENGTH. Secrets are given in no other way.\n\n{EXIT_CODES}",
    )
    click.version_option(__version__, prog_name=PROGRAM, message="%(prog)s %(version)s")(program)
    for name in COMMANDS:
        program.add_command(_command(name))
    return program


def _command(name: Command) -> click.Command:
    page = PAGES.get(name, Page("Not available yet.", ""))
    inputs = [one for one in taken_by(name) if not one.secret]

    def invoke(arguments: tuple[str, ...], **typed: Any) -> Invocation:
        return Invocation(name, _gather(name, typed), arguments)

    return _Command(
        name,
        callback=invoke,
        params=[
            *(_option(one, name) for one in inputs),
            click.Argument(["arguments"], nargs=-1, metavar=page.arguments),
        ],
        help="\n\n".join(text for text in (page.summary, page.text) if text),
        short_help=page.summary,
        hidden=name not in WORKING_COMMANDS,
    )


def _option(one: Input, command: Command) -> click.Option:
    name = one.option(command)
    text = one.help + (f"  [default: {one.default}]" if one.default and not one.is_flag else "")
    if one.is_flag:
        names = f"{name}/--no-{name[2:]}" if one.action else name
        kind: dict[str, Any] = {"is_flag": True, "default": None}
    else:
        names = name
        kind = {"multiple": True, "type": click.UNPROCESSED, "metavar": one.syntax.metavar}
    return click.Option([names, one.attribute], help=text, hidden=not one.available, **kind)


def _gather(command: Command, typed: Mapping[str, Any]) -> dict[str, Given]:
    """Join what was typed with what the environment gives; what was typed wins."""
    texts = {
        one.name: _typed_text(one, typed.get(one.attribute), command) for one in taken_by(command)
    }
    given = {name: text for name, text in texts.items() if text is not None}
    return with_environment(command, given)


def _typed_text(one: Input, value: Any, command: Command) -> Given | None:
    name = one.option(command)
    if value is None or value == ():
        return None
    if one.is_flag:
        return Given("true", name) if value else Given("false", f"--no-{name[2:]}")
    for text in value:
        if text.startswith("--"):
            raise _bad_usage(name)
    if len(value) > 1 and not one.syntax.joined_by:
        raise ConfigError(f"{name} is given {len(value)} times: give it once")
    return Given(one.syntax.joined_by.join(value), name)


def _command_of(error: click.UsageError) -> Command | None:
    name = error.ctx.command.name if error.ctx is not None else None
    return name if name in COMMANDS else None


def _no_such_option(option: str, command: Command | None) -> ConfigError:
    """Word the refusal of an unknown option; its value is never part of it."""
    for one in INPUTS:
        if option == f"--{one.name}" and one.secret:
            variable = one.variable("run")
            return ConfigError(
                f"{option} is not accepted: what is typed here can be read by others",
                hint=f"give it in the environment variable {variable}",
            )
    if command is None:
        hint = f"options follow their command; {PROGRAM} --help lists the commands"
        return ConfigError(f"there is no option {option}", hint=hint)
    return ConfigError(f"{command} has no option {option}", hint=_near_option(option, command))


def _near_option(option: str, command: Command) -> str:
    renamed = {
        "--destination": next(
            (one.option(command) for one in taken_by(command) if one.name == "destination"), ""
        ),
        "--provider": "--from PROVIDER:OWNER" if command == "run" else "",
    }
    if renamed.get(option):
        return f"here it is {renamed[option]}"
    elsewhere = [
        name for name in COMMANDS if option in {one.option(name) for one in taken_by(name)}
    ]
    if elsewhere:
        return f"it belongs to {', '.join(elsewhere)}"
    names = [one.option(command) for one in taken_by(command) if not one.secret]
    near = difflib.get_close_matches(option, [*names, "--help"], n=1)
    return f"did you mean {near[0]}?" if near else f"{PROGRAM} {command} --help lists the options"


def _bad_usage(option: str) -> ConfigError:
    flags = {f"--{prefix}{one.name}" for one in INPUTS if one.is_flag for prefix in ("", "no-")}
    if option in flags:
        return ConfigError(f"{option} takes no value", hint=f"give {option} alone")
    return ConfigError(f"{option} is given without a value")
