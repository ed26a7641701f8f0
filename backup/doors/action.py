"""The container action: inputs in ``INPUT_`` variables, or a command line when there are words.

What a run did is told in four ways that come from one report: exit code, outputs, summary and
annotations.
"""
# ruff: noqa: PLC0415 - a refusal waits for no library

import json
import os
import signal
import sys
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from backup import __version__
from backup.config import INPUTS, Config, Given, read_action
from backup.doors import cli
from backup.doors.alerts import Tell, alerts
from backup.doors.environment import fallbacks
from backup.doors.opening import (
    caller_of,
    look_at_destination,
    make_stop,
    network_settings,
    open_destination,
    open_sources,
    prune_request,
    run_options,
    stopped_by_signals,
    verify_request,
)
from backup.doors.runner import MOST_ANNOTATIONS, Runner
from backup.doors.streams import prepare_streams
from backup.errors import BackupError, ExitCode
from backup.model import Destination, RunResult
from backup.report.alert import (
    alert_of_prune,
    alert_of_run,
    alert_of_status,
    alert_of_verify,
)
from backup.secret import announce_minted
from backup.stopping import Stop

if TYPE_CHECKING:
    from backup.model import RunReport
    from backup.results import Finding

OUTPUTS: Mapping[str, str] = {
    "result": "success, partial or failed.",
    "snapshot-id": "The id of the snapshot that was written.",
    "manifest": "The addresses of the manifests that were written, one for each owner, one a line.",
    "report": "The path of the report as JSON, as later steps see it.",
    "repositories": "How many repositories were listed.",
    "captured": "Of how many something new was stored.",
    "unchanged": "How many were as the vault has them.",
    "skipped": "How many the forge itself blocks.",
    "not-reached": "How many the run ended before.",
    "failed": "How many could not be backed up.",
    "bytes-uploaded": "How many bytes were stored.",
}

_REPORT = "repo-backup-report.json"
_BUGS = "please report it on the issue page of the project"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as the action, or with arguments as the command line; return the exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    # The first process of a container gets no SIGTERM that it does not ask for.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    runner = Runner(os.environ)
    announce_minted(runner.hide)
    # An action whose `args` is an empty expression still gets one empty word.
    if any(words):
        return cli.main(words)
    prepare_streams()
    config: Config | None = None
    try:
        config = read_action(_inputs(os.environ))
        _hide_secrets(config, runner)
        match config.command:
            case "status":
                return _status(config, runner)
            case "verify":
                return _verify(config, runner)
            case "prune":
                return _prune(config, runner)
            case "doctor":
                return _doctor(config, runner)
            case _:
                return _run(config, runner)
    except BackupError as error:
        message = error.message
        if config is not None and _hides_names(config):
            from backup.report.hiding import hide_places

            message = hide_places(message)
        _tell_failure(runner, message, error.hint)
        return error.exit_code
    except KeyboardInterrupt:
        _tell_failure(runner, "interrupted before anything was begun", "")
        return ExitCode.INTERRUPTED
    except Exception as error:  # noqa: BLE001  whatever it is, the workflow must see it
        frame = traceback.extract_tb(error.__traceback__)[-1]
        place = f"{Path(frame.filename).name}:{frame.lineno}"
        message = f"internal error: {type(error).__name__} at {place} ({__version__})"
        _tell_failure(runner, message, _BUGS)
        return ExitCode.BUG


def _inputs(environment: Mapping[str, str]) -> dict[str, Given]:
    """Take every input that has a text; the runner keeps the dashes of INPUT_MAX-CHAIN-LENGTH."""
    given = {}
    provider = environment.get("INPUT_PROVIDER", "").strip() or "github"
    others = dict(fallbacks(provider))
    if provider == "github":
        # What the runner knows by itself: the server that the workflow runs at.
        others["server-url"] = ("GITHUB_SERVER_URL",)
    if environment.get("INPUT_DESTINATION", "").strip():
        # What was given says where; the environment of a workflow may name other buckets.
        del others["bucket"]
    for one in INPUTS:
        if not one.action:
            continue
        names = (f"INPUT_{one.name.upper()}", *others.get(one.name, ()))
        found = next((name for name in names if environment.get(name, "").strip()), None)
        if found is not None:
            label = one.name if found == names[0] else found
            given[one.name] = Given(environment[found], label)
    return given


def _hide_secrets(config: Config, runner: Runner) -> None:
    for secret in (config.token, config.app_private_key, config.oauth_secret, config.heartbeat_url):
        if secret is not None:
            runner.hide(secret.reveal())


@contextmanager
def _telling(config: Config, runner: Runner, *, about: str) -> Iterator[Tell]:
    """Give what tells monitors and people how it went; what is printed meanwhile is no command."""
    from backup.report.hiding import hide_places

    shown = hide_places if _hides_names(config) else str
    with (
        runner.foreign_text(),
        alerts(config, about=about, place=_log_page(), shown=shown) as tell,
    ):
        yield tell


@contextmanager
def _at_work(config: Config, stop: Stop) -> Iterator[Destination]:
    """Open the vault's place, while signals end the work."""
    with stopped_by_signals(stop), open_destination(config, stop) as destination:
        yield destination


def _log_page() -> str:
    """Tell where the log of this run is; the runner gives the parts."""
    names = ("GITHUB_SERVER_URL", "GITHUB_REPOSITORY", "GITHUB_RUN_ID")
    server, repository, run = (os.environ.get(name, "") for name in names)
    return f"{server}/{repository}/actions/runs/{run}" if repository and run else ""


def _run(config: Config, runner: Runner) -> int:
    from backup.commands.run import run
    from backup.report.hiding import CountingEvents, hide_private_names
    from backup.report.terminal import TerminalEvents, log_console, print_run

    stop = make_stop(config)
    hides = _hides_names(config)
    console = log_console()
    with _telling(config, runner, about="Backup") as tell:
        # Whatever is waited for here, a signal ends it at once: nothing has begun.
        identity = caller_of(config)
        with _at_work(config, stop) as destination, TerminalEvents(console) as events:
            if identity:
                events.note(f"AWS identity: {identity}")
            report = run(
                open_sources(config, stop),
                destination,
                run_options(config),
                events=CountingEvents(events.note) if hides else events,
                stop=stop,
                network=network_settings(config),
            )
            shown = hide_private_names(report) if hides else report
            print_run(shown, console)
            tell(alert_of_run(shown))
    _tell(report, shown, runner, identity=identity)
    return report.exit_code


def _status(config: Config, runner: Runner) -> int:
    from backup.commands.status import status
    from backup.report.hiding import hide_private_findings
    from backup.report.terminal import log_console, print_findings

    stop = make_stop(config)
    with (
        _telling(config, runner, about="Backup status") as tell,
        _at_work(config, stop) as destination,
    ):
        report = status(
            destination,
            owners=config.owner,
            max_age_hours=config.max_age_hours,
            now=datetime.now(UTC),
        )
        hides = _hides_names(config)
        findings = hide_private_findings(report.findings) if hides else report.findings
        print_findings(findings, log_console())
        is_well = report.exit_code == ExitCode.DONE
        tell(alert_of_status(findings, is_well=is_well))
    heading = "✅ Backup fresh and whole" if is_well else "⚠️ Backup not fresh, or not whole"
    _tell_findings(findings, runner, heading=heading, result="success" if is_well else "partial")
    return report.exit_code


def _verify(config: Config, runner: Runner) -> int:
    from backup.commands.verify import verify
    from backup.report.hiding import CountingEvents, hide_private_damage
    from backup.report.terminal import (
        TerminalEvents,
        log_console,
        print_verify,
    )
    from backup.report.words import (
        not_readable_words,
        soundness_words,
        standing_words,
        verified_words,
    )
    from backup.results import Finding

    stop = make_stop(config)
    hides = _hides_names(config)
    console = log_console()
    with (
        _telling(config, runner, about="Backup verification") as tell,
        _at_work(config, stop) as destination,
        TerminalEvents(console) as events,
    ):
        report = verify(
            destination,
            verify_request(config),
            events=CountingEvents(events.note) if hides else events,
            stop=stop,
        )
        shown = hide_private_damage(report) if hides else report
        print_verify(shown, console)
        alert = alert_of_verify(shown)
        tell(alert)
    findings = [
        *(
            Finding(
                "error",
                f"{one.uri}: {one.problem}; {len(one.snapshots)} snapshots depend on it",
                one.fix,
            )
            for one in shown.damaged
        ),
        *(Finding("warning", words, "then verify again") for words in shown.not_verified),
        *(
            Finding("warning", words, "a run with room in its temporary folder searches them")
            for words in shown.not_searched
        ),
        *((Finding("info", not_readable_words(report)),) if report.not_readable else ()),
        *((Finding("warning", standing_words(report)),) if report.standing else ()),
        Finding("info", verified_words(report)),
    ]
    headings: dict[RunResult, str] = {
        "success": f"✅ {soundness_words(report).capitalize()}",
        "partial": "⚠️ Not everything could be verified",
        "failed": "❌ Stored data is damaged",
    }
    _tell_findings(findings, runner, heading=headings[alert.result], result=alert.result)
    return report.exit_code


def _prune(config: Config, runner: Runner) -> int:
    from backup.commands.prune import prune
    from backup.report.hiding import hide_private_prune
    from backup.report.terminal import (
        TerminalEvents,
        forgotten_words,
        log_console,
        print_prune,
        prune_words,
        staying_words,
    )
    from backup.results import Finding

    stop = make_stop(config)
    console = log_console()
    with (
        _telling(config, runner, about="Prune") as tell,
        _at_work(config, stop) as destination,
        TerminalEvents(console) as events,
    ):
        report = prune(destination, prune_request(config), events=events, stop=stop)
        if _hides_names(config):
            report = hide_private_prune(report)
        print_prune(report, console)
        tell(alert_of_prune(report))
    is_well = report.exit_code == ExitCode.DONE
    findings = [
        *(Finding("error", words, "see to that first, and run verify") for words in report.refused),
        *report.notes,
        *(
            Finding("info", f"{word} {one.owner} {one.snapshot_id}: {one.reason}")
            for word, rows in (("kept", report.keep), ("deleted", report.remove))
            for one in rows
        ),
        *(Finding("warning", words) for words in forgotten_words(report)),
        *(Finding("info", words) for words in staying_words(report)),
        Finding("info", prune_words(report)),
    ]
    heading = "✅ Old snapshots deleted" if is_well else "❌ Manifests are missing or damaged"
    if report.refused:
        heading = "❌ Nothing was deleted of some owners"
    _tell_findings(findings, runner, heading=heading, result="success" if is_well else "failed")
    return report.exit_code


def _doctor(config: Config, runner: Runner) -> int:
    from backup.commands.doctor import doctor
    from backup.report.hiding import hide_private_findings
    from backup.report.terminal import log_console, print_findings

    stop = make_stop(config)
    with (
        _telling(config, runner, about="Doctor"),
        _at_work(config, stop) as destination,
    ):
        report = doctor(
            open_sources(config, stop),
            destination,
            look_at_destination=lambda: look_at_destination(config, stop),
            network=network_settings(config),
            stop=stop,
            clock=lambda: datetime.now(UTC),
        )
        hides = _hides_names(config)
        findings = hide_private_findings(report.findings) if hides else report.findings
        print_findings(findings, log_console())
    is_well = report.exit_code == ExitCode.DONE
    heading = "✅ The set-up is in order" if is_well else "❌ The set-up has mistakes"
    _tell_findings(findings, runner, heading=heading, result="success" if is_well else "failed")
    return report.exit_code


def _tell_findings(
    findings: "Sequence[Finding]", runner: Runner, *, heading: str, result: str
) -> None:
    from backup.report.summary import findings_summary

    runner.add_summary(findings_summary(findings, heading=heading))
    runner.set_output("result", result)
    errors = [one for one in findings if one.severity == "error"]
    for one in errors[: MOST_ANNOTATIONS - 1]:
        runner.error(f"{one.message} (hint: {one.fix})" if one.fix else one.message)
    if errors:
        runner.error(f"{len(errors)} findings are errors; the summary has all", title="repo-backup")


def _hides_names(config: Config) -> bool:
    """Tell whether the log is for everybody: then names of private repositories stay out of it."""
    if config.hide_private_names != "auto":
        return config.hide_private_names == "true"
    try:
        event = json.loads(Path(os.environ["GITHUB_EVENT_PATH"]).read_text("utf-8"))
        return event["repository"]["private"] is not True
    except (KeyError, OSError, TypeError, ValueError):
        # Nobody says. Outside of a workflow there is no log for everybody.
        return os.environ.get("GITHUB_ACTIONS") == "true"


def _tell(report: "RunReport", shown: "RunReport", runner: Runner, *, identity: str) -> None:
    """Give outputs, summary and annotations; what everybody sees comes from what may be shown."""
    from backup.report.document import run_document
    from backup.report.summary import run_summary

    runner.add_summary(run_summary(shown, identity=identity))
    outputs = {
        "result": report.result,
        "snapshot-id": report.snapshot_id,
        "manifest": "\n".join(report.manifests),
        "report": _save_report(run_document(report)),
        "repositories": str(report.listed),
        "captured": str(report.count("captured")),
        "unchanged": str(report.count("unchanged")),
        "skipped": str(report.count("skipped")),
        "not-reached": str(report.count("not-reached")),
        "failed": str(report.count("failed")),
        "bytes-uploaded": str(report.bytes_uploaded),
    }
    for name in OUTPUTS:
        runner.set_output(name, outputs[name])
    _annotate(shown, runner)


def _annotate(report: "RunReport", runner: Runner) -> None:
    failed = [one for one in report.outcomes if one.status == "failed"]
    for one in failed[: MOST_ANNOTATIONS - 1]:
        hint = f" ({one.hint})" if one.hint else ""
        runner.error(f"{one.owner}/{one.path}: {one.reason}{hint}", title="not backed up")
    if report.result == "success":
        return
    words = f"{len(failed)} of {report.listed} repositories failed"
    problem = f"; {report.problems[0]}" if report.problems else ""
    runner.error(f"the backup is {report.result}: {words}{problem}", title="repo-backup")


def _save_report(document: Mapping[str, object]) -> str:
    """Write the report where later steps find it, and give its path as they see it."""
    workspace = os.environ.get("GITHUB_WORKSPACE")
    folder = Path(workspace) if workspace and os.access(workspace, os.W_OK) else Path.cwd()
    try:
        (folder / _REPORT).write_text(json.dumps(document, indent=2), encoding="utf-8")
    except OSError:
        return ""
    # The workspace has another path outside of the container.
    return _REPORT if workspace else str(folder / _REPORT)


def _tell_failure(runner: Runner, message: str, hint: str) -> None:
    from backup.report.summary import error_summary

    runner.error(f"{message} (hint: {hint})" if hint else message)
    runner.set_output("result", "failed")
    runner.add_summary(error_summary(message, hint))
