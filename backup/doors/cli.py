"""The command line: ``repo-backup run``, ``list`` and ``restore``.

click takes the words apart and prints the help; its options are made from `backup.config.INPUTS`.
What the words mean is checked there, and every refusal is one line and perhaps a hint on standard
error. Data goes to standard output, everything else to standard error.
"""
# ruff: noqa: PLC0415 - commands and rich are imported where they run: a refusal waits for none

import difflib
import json
import os
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from io import TextIOWrapper
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import click

from backup import __version__
from backup.config import (
    COMMANDS,
    INPUTS,
    WORKING_COMMANDS,
    Command,
    Config,
    Given,
    Group,
    Input,
    read_command_line,
    taken_by,
)
from backup.doors.alerts import alerts
from backup.doors.consumer import log_in, with_consumer
from backup.doors.environment import with_environment
from backup.doors.opening import (
    make_stop,
    network_settings,
    open_destination,
    open_sources,
    prune_request,
    push_request,
    run_options,
    stopped_by_signals,
    verify_request,
)
from backup.doors.pages import EXIT_CODES, PAGES, Page
from backup.errors import BackupError, ConfigError, ExitCode
from backup.report.alert import (
    alert_of_prune,
    alert_of_run,
    alert_of_status,
    alert_of_verify,
)
from backup.secret import mask
from backup.stopping import Stop

if TYPE_CHECKING:
    from rich.console import Console

PROGRAM = "repo-backup"

_UNFOLDED = 10_000


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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the words after the program's name; those of the process when left out.

    Returns:
        The exit code, see `backup.errors.ExitCode`.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    _escape_what_cannot_be_encoded()
    try:
        return _run_words(words)
    except BackupError as error:
        return _report(error.message, error.hint, code=error.exit_code, words=words)
    except KeyboardInterrupt:
        return _report("interrupted", code=ExitCode.INTERRUPTED, words=words)
    except Exception as error:  # noqa: BLE001 - the last boundary: nobody else would say it
        return _report_bug(error, words)


def _run_words(words: Sequence[str]) -> int:
    invocation = None
    with _output():
        invocation = _take_apart(words)
    if invocation is None:
        return ExitCode.DONE
    config = read_command_line(invocation.command, invocation.given)
    return _COMMANDS[invocation.command](config, invocation.arguments)


# --- The commands ------------------------------------------------------------------------------


def _run(config: Config, arguments: tuple[str, ...]) -> int:
    if arguments:
        raise ConfigError(
            f"unexpected argument {arguments[0]!r}",
            hint="sources are given with --from, the vault with --to",
        )
    from backup.commands.run import run
    from backup.report.document import run_document
    from backup.report.hiding import CountingEvents, hide_private_names
    from backup.report.terminal import TerminalEvents, print_run

    hides = config.hide_private_names == "true"

    config = with_consumer(config)
    stop = make_stop(config)
    with (
        alerts(config, about="Backup") as tell,
        stopped_by_signals(stop),
        open_destination(config, stop) as destination,
        TerminalEvents(_console(stderr=True)) as events,
    ):
        report = run(
            open_sources(config),
            destination,
            run_options(config),
            events=CountingEvents(events.note) if hides else events,
            stop=stop,
            network=network_settings(config),
        )
        shown = hide_private_names(report) if hides else report
        tell(alert_of_run(shown))
    _answer(config, run_document(shown), lambda console: print_run(shown, console))
    return report.exit_code


def _list(config: Config, arguments: tuple[str, ...]) -> int:
    if len(arguments) > 1:
        raise ConfigError(f"unexpected argument {arguments[1]!r}", hint="list takes one REPOSITORY")
    repository = _repository(arguments[0]) if arguments else None
    from backup.commands.listing import list_history, list_vault
    from backup.report.document import history_document, vault_document
    from backup.report.terminal import print_history, print_vault

    if repository is not None:
        with open_destination(config, Stop()) as destination:
            history = list_history(destination, repository)
        document = history_document(history)
        _answer(config, document, lambda console: print_history(history, console))
        return ExitCode.DONE
    with open_destination(config, Stop()) as destination:
        listing = list_vault(destination)
    _answer(config, vault_document(listing), lambda console: print_vault(listing, console))
    return ExitCode.DONE


def _restore(config: Config, arguments: tuple[str, ...]) -> int:
    repository, target = _restore_words(config, arguments)
    from backup.commands.restore import RestoreRequest, restore
    from backup.report.document import restore_document
    from backup.report.terminal import TerminalEvents, print_restore

    request = RestoreRequest(
        repository=repository,
        all=config.everything,
        at=config.at,
        target=target,
        concurrency=config.concurrency,
        deleted=config.deleted,
        rewritten=config.rewritten,
        checkout=config.checkout,
        push=push_request(config),
    )
    stop = make_stop(config)
    with (
        stopped_by_signals(stop),
        open_destination(config, stop) as destination,
        TerminalEvents(_console(stderr=True)) as events,
    ):
        report = restore(destination, request, events=events, stop=stop)
    _answer(config, restore_document(report), lambda console: print_restore(report, console))
    return report.exit_code


def _status(config: Config, arguments: tuple[str, ...]) -> int:
    _refuse_words(arguments)
    from backup.commands.status import status
    from backup.report.document import findings_document
    from backup.report.hiding import hide_private_findings
    from backup.report.terminal import print_findings

    with (
        alerts(config, about="Backup status") as tell,
        open_destination(config, Stop()) as destination,
    ):
        report = status(
            destination,
            owners=config.owner,
            max_age_hours=config.max_age_hours,
            now=datetime.now(UTC),
        )
        hides = config.hide_private_names == "true"
        findings = hide_private_findings(report.findings) if hides else report.findings
        tell(alert_of_status(findings, is_well=report.exit_code == ExitCode.DONE))
    _answer(config, findings_document(findings), lambda console: print_findings(findings, console))
    return report.exit_code


def _verify(config: Config, arguments: tuple[str, ...]) -> int:
    _refuse_words(arguments)
    from backup.commands.verify import verify
    from backup.report.document import verify_document
    from backup.report.hiding import hide_private_damage
    from backup.report.terminal import TerminalEvents, print_verify

    stop = make_stop(config)
    with (
        alerts(config, about="Backup verification") as tell,
        stopped_by_signals(stop),
        open_destination(config, stop) as destination,
        TerminalEvents(_console(stderr=True)) as events,
    ):
        report = verify(destination, verify_request(config), events=events, stop=stop)
        shown = hide_private_damage(report) if config.hide_private_names == "true" else report
        tell(alert_of_verify(shown))
    _answer(config, verify_document(shown), lambda console: print_verify(shown, console))
    return report.exit_code


def _prune(config: Config, arguments: tuple[str, ...]) -> int:
    _refuse_words(arguments)
    from backup.commands.prune import prune
    from backup.report.document import prune_document
    from backup.report.hiding import hide_private_prune
    from backup.report.terminal import TerminalEvents, print_prune

    stop = make_stop(config)
    with (
        alerts(config, about="Prune") as tell,
        stopped_by_signals(stop),
        open_destination(config, stop) as destination,
        TerminalEvents(_console(stderr=True)) as events,
    ):
        report = prune(destination, prune_request(config), events=events, stop=stop)
        if config.hide_private_names == "true":
            report = hide_private_prune(report)
        tell(alert_of_prune(report))
    _answer(config, prune_document(report), lambda console: print_prune(report, console))
    return report.exit_code


def _forget(config: Config, arguments: tuple[str, ...]) -> int:
    if len(arguments) != 1:
        raise ConfigError(
            f"unexpected argument {arguments[1]!r}" if arguments else "REPOSITORY is missing",
            hint="forget takes one REPOSITORY",
        )
    repository = _repository(arguments[0])
    from backup.commands.forget import ForgetRequest, forget
    from backup.report.document import forget_document
    from backup.report.terminal import print_forget

    request = ForgetRequest(repository, dry_run=config.dry_run)
    with open_destination(config, Stop()) as destination:
        report = forget(destination, request, now=datetime.now(UTC))
    _answer(config, forget_document(report), lambda console: print_forget(report, console))
    return ExitCode.DONE


def _login(config: Config, arguments: tuple[str, ...]) -> int:
    if arguments != ("bitbucket",):
        given = " ".join(arguments)
        raise ConfigError(
            f"FORGE: {given!r} is not accepted: give bitbucket"
            if arguments
            else "FORGE is missing: give bitbucket",
            hint="other forges take a token, in REPO_BACKUP_TOKEN",
        )
    path, advice = log_in(config)
    with _output():
        print(f"Bitbucket accepts the consumer. It is kept in {path}.")  # noqa: T201
    if advice:
        _say(f"note: {advice}")
    return ExitCode.DONE


_COMMANDS: Mapping[Command, Callable[[Config, tuple[str, ...]], int]] = {
    "run": _run,
    "list": _list,
    "restore": _restore,
    "verify": _verify,
    "status": _status,
    "prune": _prune,
    "login": _login,
    "forget": _forget,
}


def _refuse_words(arguments: tuple[str, ...]) -> None:
    if arguments:
        raise ConfigError(
            f"unexpected argument {arguments[0]!r}", hint="the vault is given with --from"
        )


def _restore_words(config: Config, arguments: tuple[str, ...]) -> tuple[str | None, Path | None]:
    """Tell REPOSITORY and TARGET from the words.

    Without TARGET what is lost is listed, and what is pushed is not kept.
    """
    if len(arguments) > 2:
        raise ConfigError(
            f"unexpected argument {arguments[2]!r}", hint="restore takes REPOSITORY and TARGET"
        )
    lists = config.deleted or config.rewritten
    if config.everything:
        if lists and not arguments:
            return None, None
        return None, _target(config, _target_of_all(arguments))
    if not arguments:
        raise ConfigError(
            "a REPOSITORY or --all is missing", hint=f"{PROGRAM} restore --help shows an example"
        )
    repository = _repository(arguments[0])
    from backup.commands.restore import is_glob

    if len(arguments) == 1 and (lists or config.push is not None):
        return repository, None
    if len(arguments) == 1 and is_glob(repository):
        raise ConfigError(
            f"TARGET is missing: give the folder to restore what matches {repository!r} into"
        )
    name = repository.rsplit("/", 1)[-1].removesuffix(".git")
    made = name if config.checkout else f"{name}.git"
    return repository, _target(config, arguments[1] if len(arguments) == 2 else made)


def _target_of_all(arguments: tuple[str, ...]) -> str:
    if len(arguments) == 2:
        raise ConfigError(
            f"REPOSITORY ({arguments[0]!r}) and --all exclude each other: give one of them"
        )
    if not arguments:
        raise ConfigError("TARGET is missing: give the folder to restore every repository into")
    return arguments[0]


def _repository(word: str) -> str:
    if {"", ".", ".."} & set(word.split("/")):
        raise ConfigError(f"REPOSITORY: {word!r} is not accepted: give OWNER/NAME as list shows it")
    return word


def _target(config: Config, word: str) -> Path:
    if not word:
        raise ConfigError("TARGET is missing: give the folder to restore into")
    target = Path(word)
    folder = config.vault.folder
    if folder is not None and target.resolve().is_relative_to(folder.resolve()):
        raise ConfigError(f"TARGET: {word!r} lies in the vault: give a folder apart from it")
    return target


# --- What is printed ---------------------------------------------------------------------------


def _console(*, stderr: bool = False) -> "Console":
    from rich.console import Console

    console = Console(stderr=stderr)
    if not console.is_terminal:
        # Folded cells are no use to grep or to a log.
        console.width = _UNFOLDED
    return console


def _answer(
    config: Config, document: object, print_for_people: Callable[["Console"], None]
) -> None:
    with _output():
        if config.as_json:
            print(json.dumps(document, indent=2, ensure_ascii=True))  # noqa: T201
        else:
            print_for_people(_console())


@contextmanager
def _output() -> Iterator[None]:
    """Write to standard output; a reader that has gone, such as ``head``, is no error.

    Raises:
        BackupError: it cannot be written.
    """
    try:
        yield
        sys.stdout.flush()
    except BrokenPipeError:
        _drop_output()
    except OSError as error:
        _drop_output()
        raise BackupError(f"standard output cannot be written: {error.strerror}") from error


def _drop_output() -> None:
    # What is still buffered would fail again when the interpreter ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _escape_what_cannot_be_encoded() -> None:
    # Names of refs and files need not be valid text, and a terminal need not be UTF-8.
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _report(message: str, hint: str = "", *, code: ExitCode, words: Sequence[str]) -> int:
    """Say an error in one line, its hint in another, and both to programs if they asked."""
    _say(f"{PROGRAM}: error: {_one_line(message)}")
    if hint:
        _say(f"hint: {_one_line(hint)}")
    if "--json" in words or os.environ.get("REPO_BACKUP_JSON", "").lower() == "true":
        error = {"message": message, "hint": hint, "exit_code": int(code)}
        with _output():
            print(json.dumps({"error": error}, indent=2, ensure_ascii=True))  # noqa: T201
    return code


def _report_bug(error: Exception, words: Sequence[str]) -> int:
    if os.environ.get("REPO_BACKUP_DEBUG"):
        _say("".join(traceback.format_exception(error)).rstrip())
    # Its own text stays in the traceback: nobody knows what it holds.
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(frame.filename).name}:{frame.lineno}"
    return _report(
        f"this is a bug of ours: {type(error).__name__} at {place}",
        f"please report it on the issue page of the project, with the output of the same command "
        f"under REPO_BACKUP_DEBUG=1 (version {__version__})",
        code=ExitCode.BUG,
        words=words,
    )


def _say(line: str) -> None:
    try:
        print(mask(line), file=sys.stderr, flush=True)  # noqa: T201
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())


def _one_line(text: str) -> str:
    return "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)


# --- Taking words apart ------------------------------------------------------------------------


def _take_apart(words: Sequence[str]) -> Invocation | None:
    """Tell command, options and arguments; None when there was only help to print.

    Raises:
        ConfigError: a word belongs nowhere.
    """
    program = _program()
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


def _program() -> click.Group:
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
