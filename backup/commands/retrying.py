"""Doing again what may pass: by the error's own word, with growing pauses, and as asked for.

Nothing below repeats on its own account but the S3 client. A capture is repeated whole: its writer
was aborted, so nothing of the try before is left.
"""

import random
from collections.abc import Callable
from traceback import clear_frames
from typing import TypeVar

from tenacity import RetryCallState, Retrying, retry_if_exception, stop_after_attempt

from backup.errors import BackupError, causes
from backup.stopping import Stop

T = TypeVar("T")

TRIES = 4
# A server that asks for more than this is not waited for: the repository is left to the next run.
LONGEST_PAUSE_SECONDS = 900.0
_FIRST_PAUSE_SECONDS = 1.0
_PAUSES_GROW_BY = 4.0


def repeat(
    do: Callable[[], T],
    *,
    tries: int,
    stop: Stop,
    again: Callable[[BackupError, float], None],
    may_pass: Callable[[BackupError], bool] = lambda _: True,
    pauses: random.Random | None = None,
) -> T:
    """Do something until it succeeds, fails for good, or was tried often enough.

    Args:
        do: raises one of our errors; only a retryable one is tried again.
        tries: how often at most.
        stop: ends a pause with its own error.
        again: hears of the failure and of the seconds until the next try.
        may_pass: asked of a retryable error whether it may pass here.
        pauses: where chance comes from; pauses differ so that many do not come back at once.

    Raises:
        BackupError: the last failure.
    """
    pauses = pauses or random.Random()  # noqa: S311 - spreads load, keeps no secret

    def seconds(state: RetryCallState) -> float:
        asked = getattr(_error(state), "retry_after_seconds", None)
        if asked is not None:
            return float(asked) + pauses.uniform(0, 1)
        return (
            _FIRST_PAUSE_SECONDS
            * _PAUSES_GROW_BY ** (state.attempt_number - 1)
            * (0.5 + pauses.random())
        )

    def tell(state: RetryCallState) -> None:
        error = _error(state)
        if isinstance(error, BackupError):
            again(error, state.upcoming_sleep)

    trying = Retrying(
        stop=stop_after_attempt(tries),
        wait=seconds,
        retry=retry_if_exception(lambda error: _is_worth_it(error, may_pass)),
        before_sleep=tell,
        sleep=stop.sleep,
        reraise=True,
    )

    def attempt() -> T:
        try:
            return do()
        except BackupError as error:
            _let_go(error)
            raise

    return trying(attempt)


def _let_go(error: BaseException) -> None:
    """Free what the calls that failed held, such as a list of refs.

    An error holds the frames that it went through, and the retry library's frames hold the error:
    that waited for the garbage collector, which large texts do not wake.
    """
    for one in causes(error):
        clear_frames(one.__traceback__)


def _is_worth_it(error: BaseException, may_pass: Callable[[BackupError], bool]) -> bool:
    if not isinstance(error, BackupError) or not error.retryable or not may_pass(error):
        return False
    return (getattr(error, "retry_after_seconds", None) or 0.0) <= LONGEST_PAUSE_SECONDS


def _error(state: RetryCallState) -> BaseException | None:
    return None if state.outcome is None else state.outcome.exception()
