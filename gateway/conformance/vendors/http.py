"""A small HTTP/1.1 server side on bare transports, because faults need them: RST, FIN inside a chunk, silence.

The parser is httptools'. A connection runs one request at a time in a task of its own; when the peer closes, that
task is cancelled at once, so a handler learns of a vanished client by ``asyncio.CancelledError``.
"""

import asyncio
import json
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import parse_qsl, unquote

import httptools

MAX_BODY = 64 * 1024 * 1024


@dataclass(slots=True)
class HttpRequest:
    """One request; header names are lower-case, ``path`` is decoded and without the query."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: bytes = b""
    keep_alive: bool = True

    def json(self) -> Any:
        """The body as JSON. Raises ValueError."""
        return json.loads(self.body)


Handler = Callable[[HttpRequest, "Connection"], Awaitable[None]]


@dataclass(slots=True)
class _Partial:
    """A request while it is being received."""

    target: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    body: bytearray = field(default_factory=bytearray)


class Connection(asyncio.Protocol):
    """One client's connection: parses requests, gives each to ``handler``, writes what it says."""

    def __init__(self, handler: Handler, connections: "set[Connection]") -> None:
        self._handler = handler
        self._connections = connections
        self._parser = httptools.HttpRequestParser(self)
        self._partial = _Partial()
        self._waiting: list[HttpRequest] = []
        self._task: asyncio.Task[None] | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._chunked = False
        self._transport: asyncio.Transport

    # ----------------------------------------------------------------- asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._connections.add(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError:
            self._transport.write(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
            self._transport.close()

    def eof_received(self) -> None:
        self._leave()

    def connection_lost(self, exc: Exception | None) -> None:
        self._leave()

    def pause_writing(self) -> None:
        self._writable.clear()

    def resume_writing(self) -> None:
        self._writable.set()

    def _leave(self) -> None:
        self._connections.discard(self)
        self._waiting.clear()
        if self._task is not None:
            self._task.cancel()

    # ----------------------------------------------------------------- httptools callbacks

    def on_message_begin(self) -> None:
        self._partial = _Partial()

    def on_url(self, url: bytes) -> None:
        self._partial.target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        self._partial.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        if len(self._partial.body) + len(body) > MAX_BODY:
            self.reset()
        self._partial.body += body

    def on_message_complete(self) -> None:
        target, _, query = self._partial.target.decode("latin-1").partition("?")
        request = HttpRequest(
            method=self._parser.get_method().decode(),
            path=unquote(target),
            query=dict(parse_qsl(query, keep_blank_values=True)),
            headers=self._partial.headers,
            body=bytes(self._partial.body),
            keep_alive=self._parser.should_keep_alive(),
        )
        if self._task is None:
            self._start(request)
        else:
            self._waiting.append(request)

    def _start(self, request: HttpRequest) -> None:
        self._task = asyncio.get_running_loop().create_task(self._serve(request))

    async def _serve(self, request: HttpRequest) -> None:
        try:
            await self._handler(request, self)
        except asyncio.CancelledError:
            return  # the client has gone: nobody is left to tell
        except Exception:
            self.reset()
            raise
        self._task = None
        if not request.keep_alive:
            self._transport.close()
        elif self._waiting and not self._transport.is_closing():
            self._start(self._waiting.pop(0))

    # ----------------------------------------------------------------- answering

    def respond(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """A whole answer in one write."""
        self._transport.write(_head(status, {**headers, "content-length": str(len(body))}) + body)

    def begin(self, status: int, headers: Mapping[str, str], length: int | None = None) -> None:
        """The head alone; the body follows by :meth:`send`, of ``length`` bytes or (None) in HTTP chunks."""
        self._chunked = length is None
        framing = {"transfer-encoding": "chunked"} if length is None else {"content-length": str(length)}
        self._transport.write(_head(status, {**headers, **framing}))

    def send(self, data: bytes) -> None:
        """A piece of the body, handed to the kernel as far as it takes it."""
        self._transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    async def drip(self, data: bytes, byte_gap_s: float) -> None:
        """A piece of the body, byte by byte."""
        for i in range(len(data)):
            self.send(data[i : i + 1])
            await asyncio.sleep(byte_gap_s)

    async def flush(self) -> None:
        """Lets other tasks run, and waits while the peer reads too slowly."""
        await asyncio.sleep(0)
        await self._writable.wait()

    def end(self) -> None:
        """The end of a chunked body."""
        if self._chunked:
            self._transport.write(b"0\r\n\r\n")

    # ----------------------------------------------------------------- breaking off

    def cut_inside(self, data: bytes, kept: int) -> None:
        """FIN after the first ``kept`` bytes of ``data``, which is announced in full (HTTP chunk, content-length)."""
        start = data[:kept]
        self._transport.write(b"%x\r\n%b" % (len(data), start) if self._chunked else start)
        self._hang_up()

    async def cut_with_reset(self) -> None:
        """RST once everything written has left for the peer, and had a moment to be read there."""
        while self._transport.get_write_buffer_size():  # noqa: ASYNC110 - nobody is told when it has drained
            await asyncio.sleep(0.001)
        await asyncio.sleep(0.01)
        self.reset()

    def reset(self) -> None:
        """RST: lingering for 0 s makes the kernel drop the connection instead of finishing it."""
        sock: socket.socket = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._task = None
        self._transport.abort()

    def _hang_up(self) -> None:
        self._task = None
        self._transport.close()

    def close(self) -> None:
        """Ends the connection at the server's own stop."""
        self._leave()
        self._transport.abort()


def _head(status: int, headers: Mapping[str, str]) -> bytes:
    try:
        phrase = HTTPStatus(status).phrase
    except ValueError:
        phrase = "Overloaded"  # 529, which only vendors know
    lines = [f"HTTP/1.1 {status} {phrase}", *(f"{name}: {value}" for name, value in headers.items())]
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
