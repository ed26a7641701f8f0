"""Threads: as many as were asked for, or as the machine allows."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

from backup.machine import limit_reached

T = TypeVar("T")


class Workers(ThreadPoolExecutor):
    """A pool whose threads do the work of those that the machine does not allow.

    A container's limit of processes (``--pids-limit``, ``ulimit -u``) counts threads. Where
    another one is refused the work has been queued already, and `ThreadPoolExecutor` loses its
    future: here it is done by the threads that started.
    """

    def __init__(self, most: int) -> None:
        super().__init__(most)
        self._has_any = False
        self._waiting: set[Future[Any]] = set()

    def submit(self, work: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Have something done.

        Raises:
            MachineLimitReached: not one thread could be started.
        """
        future: Future[T] = Future()

        def do() -> None:
            if not future.set_running_or_notify_cancel():
                return
            try:
                result = work(*args, **kwargs)
            except BaseException as error:  # noqa: BLE001  it is raised where the result is asked for
                future.set_exception(error)
            else:
                future.set_result(result)

        try:
            super().submit(do)
        except RuntimeError as error:
            if (limit := limit_reached(error)) is None:
                raise
            if not self._has_any:
                raise limit from error
        else:
            self._has_any = True
        self._waiting.add(future)
        future.add_done_callback(self._waiting.discard)
        return future

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:  # noqa: FBT001, FBT002 - the base's
        """End the threads when all is done, or with `cancel_futures` what was begun."""
        if cancel_futures:
            for future in tuple(self._waiting):
                future.cancel()
        super().shutdown(wait)
