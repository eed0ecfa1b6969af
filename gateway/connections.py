"""Callers' connections, as uvicorn accepts them.

A caller that stops reading leaves an answer in buffers of the server and of the kernel, for as long as its machine
acknowledges the probes. The kernel gives such a connection up after a time, and uvicorn then hears of a disconnect
like any other; below that time the pipeline's own back-pressure is what bounds memory. A caller that never gets
beyond its request's head is hung up on after the time a body may take.

Whoever has to know that a caller left says so in the set that the scope's extensions hold: ASGI's own way, a task that
waits for a message, costs more than many of the things it would stop.
"""

import asyncio
import socket
from collections.abc import Callable

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from gateway import installation
from gateway.call import LEAVING

# Not from Django's settings: uvicorn imports this before the application.
STALLED_WRITE_S = installation.seconds("STALLED_WRITE_S", 60.0)
HEAD_TIMEOUT_S = installation.seconds("BODY_TIMEOUT_S", 30.0, or_none=False)


class CallerConnection(HttpToolsProtocol):
    """A connection whose unread bytes are waited for at most ``STALLED_WRITE_S`` seconds (Linux; elsewhere the
    system's own limits hold)."""

    _waiting_for_head: asyncio.TimerHandle | None = None
    _in_head = False
    _leaving: set[Callable[[], object]]

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        connection = transport.get_extra_info("socket")
        if connection is not None and connection.family != socket.AF_UNIX and hasattr(socket, "TCP_USER_TIMEOUT"):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(STALLED_WRITE_S * 1000))
        super().connection_made(transport)
        self._leaving = set()
        self._wait_for_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._in_head and self._waiting_for_head is None:  # a later request of a kept connection, in pieces
            self._wait_for_head()

    def on_message_begin(self) -> None:
        self._in_head = True
        super().on_message_begin()
        self.scope["extensions"] = {LEAVING: self._leaving}  # type: ignore[dict-item] # ASGI lets servers name their own

    def on_headers_complete(self) -> None:
        self._in_head = False
        self._stop_waiting_for_head()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting_for_head()
        super().connection_lost(exc)
        for hung_up in tuple(self._leaving):
            hung_up()

    def _wait_for_head(self) -> None:
        self._waiting_for_head = self.loop.call_later(HEAD_TIMEOUT_S, self.transport.close)

    def _stop_waiting_for_head(self) -> None:
        if self._waiting_for_head is not None:
            self._waiting_for_head.cancel()
            self._waiting_for_head = None
