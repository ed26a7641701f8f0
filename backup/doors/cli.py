"""The command line: what each command does with its words, and what is printed.

Every refusal is one line and perhaps a hint on standard error. Data goes to standard output,
everything else to standard error.
"""
# ruff: noqa: PLC0415 - commands and rich are imported where they run: a refusal waits for none

import json
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from backup import __version__
from backup.config import (
    Command,
    Config,
    read_command_line,
)
from backup.doors.alerts import alerts
from backup.doors.consumer import log_in, with_consumer
from backup.doors.opening import (
    caller_of,
    look_at_destination,
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
from backup.doors.runner import Runner
from backup.doors.streams import prepare_streams
from backup.doors.words import PROGRAM, take_apart
from backup.errors import BackupError, ConfigError, ExitCode
from backup.report.alert import (
    alert_of_prune,
    alert_of_run,
    alert_of_status,
    alert_of_verify,
)
from backup.secret import announce_minted, mask
from backup.stopping import Stop

if TYPE_CHECKING:
    from rich.console import Console

_UNFOLDED = 10_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Args:
        arguments: the words after the program's name; those of the process when left out.

    Returns:
        The exit code, see `backup.errors.ExitCode`.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    prepare_streams()
    runner = Runner(os.environ)
    if runner.reads_our_log:
        announce_minted(runner.hide)
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
        invocation = take_apart(words)
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
            open_sources(config, stop),
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
    return listing.exit_code


def _restore(config: Config, arguments: tuple[str, ...]) -> int:
    repository, target = _restore_words(config, arguments)
    from backup.commands.restore import RestoreRequest, restore
    from backup.report.document import restore_document
    from backup.report.terminal import TerminalEvents, print_restore

    stop = make_stop(config)
    request = RestoreRequest(
        repository=repository,
        all=config.everything,
        at=config.at,
        target=target,
        concurrency=config.concurrency,
        deleted=config.deleted,
        rewritten=config.rewritten,
        checkout=config.checkout,
        push=push_request(config, stop),
    )
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


def _doctor(config: Config, arguments: tuple[str, ...]) -> int:
    _refuse_words(arguments)
    from backup.commands.doctor import doctor
    from backup.report.document import findings_document
    from backup.report.terminal import print_findings

    config = with_consumer(config)
    stop = make_stop(config)
    with stopped_by_signals(stop), open_destination(config, stop) as destination:
        report = doctor(
            open_sources(config, stop),
            destination,
            look_at_destination=lambda: look_at_destination(config, stop),
            network=network_settings(config),
            stop=stop,
            clock=lambda: datetime.now(UTC),
        )
    findings = report.findings
    _answer(config, findings_document(findings), lambda console: print_findings(findings, console))
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


def _accept_damage(config: Config, arguments: tuple[str, ...]) -> int:
    if len(arguments) != 1:
        raise ConfigError(
            f"unexpected argument {arguments[1]!r}" if arguments else "REPOSITORY is missing",
            hint="accept-damage takes one REPOSITORY",
        )
    repository = _repository(arguments[0])
    from backup.commands.accepting import AcceptRequest, accept_damage
    from backup.report.document import accept_document
    from backup.report.terminal import print_accept

    request = AcceptRequest(repository, dry_run=config.dry_run, by=caller_of(config))
    with open_destination(config, Stop()) as destination:
        report = accept_damage(destination, request, now=datetime.now(UTC))
    _answer(config, accept_document(report), lambda console: print_accept(report, console))
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
    "doctor": _doctor,
    "login": _login,
    "forget": _forget,
    "accept-damage": _accept_damage,
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
    try:
        is_within = folder is not None and target.resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError) as error:
        raise ConfigError(f"TARGET: {word!r} is no path that can be used: {error}") from error
    if is_within:
        raise ConfigError(f"TARGET: {word!r} lies in the vault: give a folder apart from it")
    return target


# --- What is printed ---------------------------------------------------------------------------


def _console(*, stderr: bool = False) -> "Console":
    from backup.report.terminal import OpenConsole

    console = OpenConsole(stderr=stderr)
    if not console.is_terminal:
        # Folded cells are no use to grep or to a log.
        console.width = _UNFOLDED
    return console


def _answer(
    config: Config, document: object, print_for_people: Callable[["Console"], None]
) -> None:
    with _output():
        if config.as_json:
            print(_as_json(document))  # noqa: T201
        else:
            print_for_people(_console())


def _as_json(document: object) -> str:
    # In a step that is a command to the runner, wherever it stands in a line.
    return json.dumps(document, indent=2, ensure_ascii=True).replace("##[", r"##\u005b")


@contextmanager
def _output() -> Iterator[None]:
    """Write to standard output; a reader that has gone, such as ``head``, is no error.

    The exit code says what the command did, whoever read of it.

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


def _report(message: str, hint: str = "", *, code: ExitCode, words: Sequence[str]) -> int:
    """Say an error in one line, its hint in another, and both to programs if they asked."""
    _say(f"{PROGRAM}: error: {_one_line(message)}")
    if hint:
        _say(f"hint: {_one_line(hint)}")
    if "--json" in words or os.environ.get("REPO_BACKUP_JSON", "").lower() == "true":
        error = {"message": message, "hint": hint, "exit_code": int(code)}
        with _output():
            print(_as_json({"error": error}))  # noqa: T201
    return code


def _report_bug(error: Exception, words: Sequence[str]) -> int:
    if os.environ.get("REPO_BACKUP_DEBUG"):
        _say("".join(traceback.format_exception(error)).rstrip())
    # Its own text stays in the traceback: nobody knows what it holds.
    frame = traceback.extract_tb(error.__traceback__)[-1]
    place = f"{Path(frame.filename).name}:{frame.lineno}"
    return _report(
        f"internal error: {type(error).__name__} at {place}",
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
    safe = "".join(char if char.isprintable() else repr(char)[1:-1] for char in text)
    return safe.replace("##[", "## [")
