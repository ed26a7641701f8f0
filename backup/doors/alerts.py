"""Tells monitors and people what came of a command: a heartbeat, and a message to a topic.

A heartbeat's address is called at the begin (with ``/start``), after a success, and after anything
else (with ``/fail``), as healthchecks.io has it. Whoever knows the address can make a monitor
believe in backups that never were: it is a secret, and is never printed.
"""
# ruff: noqa: PLC0415 - as in backup.doors.opening

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from urllib.parse import urlsplit

from backup.config import Config
from backup.doors.opening import job_role
from backup.errors import BackupError
from backup.report.alert import Alert, alert_of_error
from backup.secret import Secret, mask

_TRIES = 3
_SECONDS = 10.0
_PAUSE_SECONDS = 1.0
# After a signal a runner waits for ten seconds, and other things are to be done in them.
_LAST_SECONDS = 2.0

Tell = Callable[[Alert], None]


@contextmanager
def alerts(
    config: Config,
    *,
    about: str,
    place: str = "",
    shown: Callable[[str], str] = str,
) -> Iterator[Tell]:
    """Tell that a command begins, and then what came of it: what is told last, or its error.

    What cannot be delivered is noted; it changes nothing else.

    Args:
        config: where to tell it. A dry run tells nothing.
        about: names the command in the subject of a message about an error.
        place: where people find the log; empty where nobody knows.
        shown: what may be seen of an error's message.
    """
    if config.dry_run or (config.heartbeat_url is None and config.sns_topic_arn is None):
        yield lambda _: None
        return
    told: list[Alert] = []
    if config.heartbeat_url is not None:
        _beat(config.heartbeat_url, "/start", "")
    try:
        yield told.append
    except BackupError as error:
        _tell(config, alert_of_error(shown(error.message), error.hint, about=about), place)
        raise
    except KeyboardInterrupt:
        alert = replace(alert_of_error("it was interrupted", "", about=about), hurried=True)
        _tell(config, alert, place)
        raise
    except Exception:
        words = "internal error (please report); the log has more"
        _tell(config, alert_of_error(words, "", about=about), place)
        raise
    if told:
        _tell(config, told[-1], place)


def _tell(config: Config, alert: Alert, place: str) -> None:
    text = mask(f"{alert.text}\n\nLog: {place}" if place else alert.text)
    if config.heartbeat_url is not None:
        way = "" if alert.result == "success" else "/fail"
        _beat(config.heartbeat_url, way, text, hurried=alert.hurried)
    if config.sns_topic_arn is None or alert.result == "success" or alert.hurried:
        return
    from backup.destinations.s3.topic import publish

    try:
        publish(
            config.sns_topic_arn,
            subject=mask(alert.subject),
            message=text,
            role=job_role(config),
            unique=f"{time.time_ns()}",
        )
    except BackupError as error:
        _note(f"publishing to the topic failed: {error.message}; {error.hint}")


def _beat(address: Secret, way: str, text: str, *, hurried: bool = False) -> None:
    """Call the address; what stands behind its path stays there."""
    import requests

    from backup.sources.one_server import LimitedAdapter

    parts = urlsplit(address.reveal())
    url = parts._replace(path=f"{parts.path.rstrip('/')}{way}").geturl()
    seconds = _LAST_SECONDS if hurried else _SECONDS
    problem = ""
    with requests.Session() as session:
        session.mount(f"{parts.scheme}://", LimitedAdapter(seconds=seconds))
        for number in range(1 if hurried else _TRIES):
            if number:
                time.sleep(_PAUSE_SECONDS)
            try:
                answer = session.post(
                    url,
                    data=text.encode(errors="backslashreplace"),
                    headers={"Content-Type": "text/plain; charset=utf-8"},
                    timeout=seconds,
                    # Nothing of a .netrc.
                    auth=lambda request: request,
                    # What it says is not read.
                    stream=True,
                )
            except (OSError, ValueError) as error:
                # requests' own errors are OSErrors; ValueError is a refusal without an end.
                problem = type(error).__name__
                continue
            answer.close()
            if answer.ok:
                return
            problem = f"it answers {answer.status_code}"
            if answer.status_code < 500:
                break
    _note(f"the heartbeat{way} was not heard: {problem}")


def _note(message: str) -> None:
    print(mask(f"note: {message}"), file=sys.stderr, flush=True)  # noqa: T201
