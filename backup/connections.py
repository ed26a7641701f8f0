"""Connections that can be ended from another thread, also before the head of an answer is whole.

A socket's time limit begins anew with each byte, and urllib3 lets go of a response only once its
head is there. Whoever gives up a request ends it by its socket, so that no thread goes on with it.
"""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from time import monotonic
from typing import Any

from urllib3 import HTTPConnectionPool, HTTPSConnectionPool, PoolManager
from urllib3.connection import HTTPConnection, HTTPSConnection

_here = threading.local()
_lock = threading.Lock()


class Line:
    """The way of one request and its answer, as long as a thread is busy with it.

    Attributes:
        sent_at: when the last request was sent whole, by `time.monotonic`; None until then.
    """

    def __init__(self) -> None:
        self.sent_at: float | None = None
        self._is_cut = False
        self._holder: Any = None
        self._socket: Any = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold what the requests of this thread are sent on meanwhile, one after the other."""
        _here.line = self
        try:
            yield
        finally:
            del _here.line
            self.let_go()

    def let_go(self) -> None:
        """Leave the connection alone from now on: the answer is over, and others may use it."""
        with _lock:
            self._holder = self._socket = None

    def cut(self) -> None:
        """End the connection, and have the thread begin no other. From any thread, at any time."""
        with _lock:
            self._is_cut = True
            found = self._socket
            if found is not None and self._holder.line is self:
                # TLS within TLS has the socket within. SSLSocket's own shutdown would take the
                # cipher away from the thread that reads; this one only wakes it.
                with suppress(OSError):
                    socket.socket.shutdown(getattr(found, "socket", found), socket.SHUT_RDWR)

    def _hold(self, holder: Any, found: Any) -> None:
        with _lock:
            if self._is_cut:
                raise ConnectionAbortedError("given up")
            self._holder, self._socket = holder, found
            holder.line = self


def _hold(holder: Any, found: Any) -> None:
    line: Line | None = getattr(_here, "line", None)
    if line is None:
        holder.line = None
    elif found is not None:
        line._hold(holder, found)  # noqa: SLF001 - of this module alone


class _Held:
    """What both kinds of connections do: note the socket as soon as it is there.

    Attributes:
        line: whose request was sent on it last.
    """

    line: Line | None = None
    sock: Any

    def _new_conn(self) -> Any:
        found = super()._new_conn()  # type: ignore[misc] # of the class beside
        _hold(self, found)
        return found

    def send(self, data: Any) -> None:
        _hold(self, self.sock)
        super().send(data)  # type: ignore[misc]

    def getresponse(self) -> Any:
        line: Line | None = getattr(_here, "line", None)
        if line is not None:
            line.sent_at = monotonic()
        return super().getresponse()  # type: ignore[misc]


class _Connection(_Held, HTTPConnection):
    pass


class _TlsConnection(_Held, HTTPSConnection):
    pass


class _Pool(HTTPConnectionPool):
    ConnectionCls = _Connection


class _TlsPool(HTTPSConnectionPool):
    ConnectionCls = _TlsConnection


def hold_connections(manager: PoolManager) -> None:
    """Have a manager that was not used yet make connections that a `Line` holds."""
    manager.pool_classes_by_scheme = {"http": _Pool, "https": _TlsPool}
