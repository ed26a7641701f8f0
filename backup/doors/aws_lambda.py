"""The Lambda function: options from its event and environment, as much as fits into its time.

awslambdaric, AWS's own runtime client, calls `handler` with each event. What is not a success is
raised: an asynchronous invocation that fails is made again by Lambda itself, and goes on where the
one before ended. What is answered or raised is short; the log has the rest, and the manifest all.
"""
# ruff: noqa: PLC0415 - a refusal waits for no library

import difflib
import re
import traceback
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from backup import __version__
from backup.config import Command, Config, Given, read_command_line, taken_by
from backup.doors.alerts import alerts
from backup.doors.environment import with_environment
from backup.doors.opening import (
    caller_of,
    make_stop,
    network_settings,
    open_destination,
    open_sources,
    prune_request,
    run_options,
    stopped_by_signals,
    verify_request,
)
from backup.errors import BackupError, ConfigError, ExitCode
from backup.model import RunReport
from backup.report.alert import (
    alert_of_prune,
    alert_of_run,
    alert_of_status,
    alert_of_verify,
)
from backup.secret import mask
from backup.stopping import Stop

_COMMANDS: tuple[Command, ...] = ("run", "verify", "prune", "status")
# What is needed at the end: captures are given up, the manifest is written, the answer is sent.
_LAST_SECONDS = 30.0
_LAST_SHARE = 0.2
# An answer may have 6 MB; whoever reads it wants the beginning.
_MOST_LINES = 20
_OPTION = re.compile(r"[a-z]+(?:-[a-z]+)*")
_QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""")
# With the quotes: eight characters are a short word, five show three.
_SHORT, _SHOWN = 8, 5


class Context(Protocol):
    """What Lambda says of an invocation."""

    def get_remaining_time_in_millis(self) -> int: ...


class Unfinished(Exception):
    """The time was up; what was done is stored, and the next invocation goes on."""


class Failed(Exception):
    """Something was not backed up, is damaged or not fresh, or the options are not accepted."""


def handler(event: Mapping[str, Any], context: Context) -> dict[str, Any]:
    """Do what an event asks for.

    Args:
        event: options of `run`, `verify`, `prune` or `status` as on the command line, without
            dashes, and ``command``, which is run when left out. What it does not say is taken from
            ``REPO_BACKUP_...`` variables. Of an event that EventBridge made only ``detail`` counts.
        context: Lambda's.

    Returns:
        The report without its repositories.

    Raises:
        Unfinished: the time was up.
        Failed: it is no success; the message says what to do.
    """
    try:
        options = _options(event)
        command = _command(options.pop("command", "run"))
        config = read_command_line(command, with_environment(command, _given(command, options)))
        stop = _stop(config, context)
        match command:
            case "verify":
                return _verify(config, stop)
            case "prune":
                return _prune(config, stop)
            case "status":
                return _status(config)
            case _:
                return _run(config, stop)
    except BackupError as error:
        hint = f" (hint: {error.hint})" if error.hint else ""
        message = _cut(error.message) if isinstance(error, ConfigError) else error.message
        raise Failed(f"{message}{hint}") from None
    except (Unfinished, Failed):
        raise
    except Exception as error:  # noqa: BLE001 - the last boundary: nobody else would mask it
        # Its own text may hold anything, and so stays out of answers and of the log.
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(frame.filename).name}:{frame.lineno}"
        message = f"internal error: {type(error).__name__} at {place} ({__version__})"
        raise Failed(message) from None


# --- The event -----------------------------------------------------------------------------------


def _options(event: object) -> dict[str, Any]:
    if isinstance(event, Mapping) and "detail-type" in event:
        # Source: Amazon EventBridge, "Event structure". A schedule without input has no detail.
        event = event.get("detail") or {}
    if not isinstance(event, Mapping):
        raise ConfigError(
            "the event is not accepted: give a JSON object of options",
            hint='such as {"from": "gitlab:acme", "to": "s3://bucket/git"}',
        )
    return {str(name): value for name, value in event.items()}


def _command(name: object) -> Command:
    for command in _COMMANDS:
        if name == command:
            return command
    shown = repr(name) if isinstance(name, str) else f"what is no text ({type(name).__name__})"
    raise ConfigError(f"command: {shown} is not accepted: give {', '.join(_COMMANDS)}")


def _given(command: Command, options: Mapping[str, Any]) -> dict[str, Given]:
    known = {one.option(command).removeprefix("--"): one for one in taken_by(command)}
    given = {}
    for name, value in options.items():
        one = known.get(name)
        if one is None:
            near = difflib.get_close_matches(name, known, n=1)
            hint = (
                f"did you mean {near[0]}?" if near else "options are named as on the command line"
            )
            shown = name if _OPTION.fullmatch(name) else repr(name)
            raise ConfigError(f"the event has an option {shown} that {command} has not", hint=hint)
        if one.secret:
            raise ConfigError(
                f"{name} is not accepted in an event: others can read it",
                hint=f"give it in the function's variable {one.variable(command)}",
            )
        given[one.name] = Given(_text(name, value, joined_by=one.syntax.joined_by), name)
    return given


def _text(name: str, value: object, *, joined_by: str) -> str:
    match value:
        case None:
            return ""
        case bool():
            return str(value).lower()
        case str() | int() | float():
            return str(value)
        case list() if joined_by and all(isinstance(one, str) for one in value):
            return joined_by.join(value)
        case _:
            expected = "a text, a number, true or false" + (
                ", or a list of texts" * bool(joined_by)
            )
            what = "a list" if isinstance(value, list) else "an object"
            raise ConfigError(f"{name}: {what} is not accepted: give {expected}")


def _cut(message: str) -> str:
    """Show only the first characters of the values that a refusal repeats, which it has in quotes.

    Anything may stand in the wrong field, also a token, and others read errors of functions.
    """
    return _QUOTED.sub(
        lambda found: (
            found[0] if len(found[0]) <= _SHORT else f"{found[0][:_SHOWN]}...{found[0][-1]}"
        ),
        message,
    )


def _stop(config: Config, context: Context) -> Stop:
    seconds = context.get_remaining_time_in_millis() / 1000
    return make_stop(config, most_seconds=seconds - min(_LAST_SECONDS, seconds * _LAST_SHARE))


# --- The work ------------------------------------------------------------------------------------


def _run(config: Config, stop: Stop) -> dict[str, Any]:
    from backup.commands.run import run
    from backup.report.document import run_document
    from backup.report.terminal import TerminalEvents, log_console, print_run

    console = log_console()
    with (
        alerts(config, about="Backup") as tell,
        stopped_by_signals(stop),
        open_destination(config, stop) as destination,
        TerminalEvents(console) as events,
    ):
        if identity := caller_of(config):
            events.note(f"AWS identity: {identity}")
        report = run(
            open_sources(config, stop),
            destination,
            run_options(config),
            events=events,
            stop=stop,
            network=network_settings(config),
        )
        print_run(report, console)
        unfinished = report.exit_code != ExitCode.DONE and _not_done(report, stop)
        # What the next invocation goes on with is no failure yet, nor a success.
        if not isinstance(unfinished, Unfinished):
            tell(alert_of_run(report))
    if unfinished:
        raise unfinished
    document = run_document(report)
    del document["repositories"]
    return document


def _not_done(report: RunReport, stop: Stop) -> Exception:
    failures = [
        f"{one.owner}/{one.path}: {one.reason}" for one in report.outcomes if one.status == "failed"
    ]
    # The time of a container that is thrown away is up, too.
    kind = Unfinished if report.only_late and not stop.may_begin else Failed
    return kind(_lines(f"the backup is {report.result}", [*failures, *report.problems]))


def _verify(config: Config, stop: Stop) -> dict[str, Any]:
    from backup.commands.verify import verify
    from backup.report.document import verify_document
    from backup.report.terminal import TerminalEvents, log_console, print_verify

    console = log_console()
    with (
        alerts(config, about="Backup verification") as tell,
        stopped_by_signals(stop),
        open_destination(config, stop) as destination,
        TerminalEvents(console) as events,
    ):
        report = verify(destination, verify_request(config), events=events, stop=stop)
        print_verify(report, console)
        tell(alert_of_verify(report))
    if report.damaged:
        problems = [f"{one.uri}: {one.problem}" for one in report.damaged]
        raise Failed(_lines("stored data is damaged", problems))
    if report.exit_code != ExitCode.DONE:
        problems = [*report.not_verified, *report.not_searched]
        raise Failed(_lines("not everything could be verified", problems))
    return dict(verify_document(report))


def _prune(config: Config, stop: Stop) -> dict[str, Any]:
    from backup.commands.prune import prune
    from backup.report.document import prune_document
    from backup.report.terminal import TerminalEvents, log_console, print_prune

    console = log_console()
    with (
        alerts(config, about="Prune") as tell,
        stopped_by_signals(stop),
        open_destination(config, stop) as destination,
        TerminalEvents(console) as events,
    ):
        report = prune(destination, prune_request(config), events=events, stop=stop)
        print_prune(report, console)
        tell(alert_of_prune(report))
    if report.refused:
        raise Failed(_lines("nothing is deleted", list(report.refused)))
    if report.exit_code != ExitCode.DONE:
        errors = [note.message for note in report.notes if note.severity == "error"]
        raise Failed(_lines("manifests are missing or damaged", errors))
    document = prune_document(report)
    return {name: document[name] for name in document if name not in {"keep", "remove"}}


def _status(config: Config) -> dict[str, Any]:
    from backup.commands.status import status

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
        is_well = report.exit_code == ExitCode.DONE
        tell(alert_of_status(report.findings, is_well=is_well))
    messages = [one.message for one in report.findings if one.severity != "info"]
    if report.exit_code != ExitCode.DONE:
        raise Failed(_lines("the backup is not fresh, or not whole", messages))
    return {"findings": [one.message for one in report.findings]}


def _lines(head: str, lines: list[str]) -> str:
    some = lines[:_MOST_LINES]
    rest = [f"and {len(lines) - len(some)} more, in the log"] if len(lines) > len(some) else []
    return mask("; ".join([f"{head}: {some[0]}" if some else head, *some[1:], *rest]))
