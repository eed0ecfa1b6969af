"""Callers' connections, as uvicorn accepts them.

A caller that stops reading leaves an answer in buffers of the server and of the kernel, for as long as its machine
acknowledges the probes. The kernel gives such a connection up after a time, and uvicorn then hears of a disconnect
like any other; below that time the pipeline's own back-pressure is what bounds memory.
"""

import asyncio
import os
import socket

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

STALLED_WRITE_S = float(os.environ.get("STALLED_WRITE_S", "60"))


class CallerConnection(HttpToolsProtocol):
    """A connection whose unread bytes are waited for at most ``STALLED_WRITE_S`` seconds (Linux; elsewhere the
    system's own limits hold)."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn has it
        connection = transport.get_extra_info("socket")
        if connection is not None and connection.family != socket.AF_UNIX and hasattr(socket, "TCP_USER_TIMEOUT"):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(STALLED_WRITE_S * 1000))
        super().connection_made(transport)
