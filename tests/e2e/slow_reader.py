"""Callers on bare sockets, who do what no SDK does, and what the gateway still holds open for them."""

import asyncio
import json
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import TracebackType
from typing import Any, Self

import httpx
import psutil

from tests.e2e.gateway_process import GatewayProcess
from tests.e2e.test_metrics import value_of

SMALL_BUFFER_BYTES = 4096


class BareCaller:
    """One connection to the gateway, on which nothing is sent or read unless it is said.

    ``receive_buffer_bytes`` is what the caller's kernel takes off the wire while nobody reads.
    """

    def __init__(self, gateway: GatewayProcess, token: str, *, receive_buffer_bytes: int | None = None) -> None:
        self._token = token
        self._socket = socket.socket()
        if receive_buffer_bytes is not None:  # before connecting: the window is announced then
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
        self._socket.settimeout(20)
        self._socket.connect(("127.0.0.1", gateway.port))

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def send_head(self, path: str = "/v1/chat/completions", **headers: str) -> None:
        """The request line and every header; of the body nothing."""
        told = {"host": "127.0.0.1", "authorization": f"Bearer {self._token}", **headers}
        lines = [f"POST {path} HTTP/1.1", *(f"{name.replace('_', '-')}: {value}" for name, value in told.items())]
        self.send(("\r\n".join(lines) + "\r\n\r\n").encode())

    def ask(self, body: dict[str, Any]) -> None:
        """A whole request, whose answer nobody has read yet."""
        written = json.dumps(body).encode()
        self.send_head(content_length=str(len(written)))
        self.send(written)

    def read_answer(self, timeout_s: float) -> httpx.Response:
        """A whole answer that announces its length. Raises TimeoutError, or ConnectionError when there is none."""
        deadline = time.monotonic() + timeout_s
        received = b""
        while b"\r\n\r\n" not in received:
            received += self._receive(deadline)
        head, _, body = received.partition(b"\r\n\r\n")
        status_line, *lines = head.decode("latin-1").split("\r\n")
        headers = httpx.Headers([(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)])
        while len(body) < int(headers["content-length"]):
            body += self._receive(deadline)
        return httpx.Response(int(status_line.split()[1]), headers=headers, content=body)

    def read_until_closed(self, timeout_s: float) -> bytes:
        """Everything that still arrives until the gateway ends the connection. Raises TimeoutError."""
        deadline = time.monotonic() + timeout_s
        received = b""
        while True:
            try:
                received += self._receive(deadline)
            except ConnectionError:
                return received

    def _receive(self, deadline: float) -> bytes:
        self._socket.settimeout(max(0.001, deadline - time.monotonic()))
        if not (data := self._socket.recv(65536)):
            raise ConnectionResetError("the gateway closed the connection")
        return data

    def close(self) -> None:
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def sockets_of(gateway: GatewayProcess) -> int:
    """The gateway's TCP connections, to callers and to vendors (its databases are on Unix sockets)."""
    connections = psutil.Process(gateway.pid).net_connections(kind="tcp")
    return sum(connection.status != psutil.CONN_LISTEN for connection in connections)


def open_streams_of(gateway: GatewayProcess) -> int:
    return int(value_of(httpx.get(f"{gateway.url}/metrics", timeout=5).text, "pointsman_open_streams"))


def seconds_until(holds: Callable[[], bool], timeout_s: float) -> float:
    """How long it took until ``holds`` was true. Raises TimeoutError."""
    started = time.monotonic()
    while not holds():
        if time.monotonic() - started > timeout_s:
            raise TimeoutError(f"not within {timeout_s} s")
        time.sleep(0.05)
    return time.monotonic() - started


class EndlessVendor:
    """An OpenAI-compatible vendor whose streams never end and go as fast as they are taken, as a context manager.

    Attributes:
        sent: bytes of each stream so far, in the order of the calls; what waits in this process is not counted.
    """

    def __init__(self, event_chars: int = 64 * 1024) -> None:
        delta = {"index": 0, "delta": {"content": "x" * event_chars}, "finish_reason": None}
        chunk = {
            "id": "endless",
            "object": "chat.completion.chunk",
            "created": 1,
            "model": "endless",
            "choices": [delta],
        }
        event = b"data: " + json.dumps(chunk).encode() + b"\n\n"
        self._block = b"%x\r\n%b\r\n" % (len(event), event)
        self._server = socket.create_server(("127.0.0.1", 0), backlog=512)
        self._started = threading.Event()
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), name="endless vendor", daemon=True)
        self.sent: list[int] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.getsockname()[1]}"

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        server = await asyncio.start_server(self._answer, sock=self._server)
        self._started.set()
        await self._stop.wait()
        server.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            await reader.readuntil(b"\r\n\r\n")
            number = len(self.sent)
            self.sent.append(0)
            writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
            while not reader.at_eof():
                writer.write(self._block)
                await writer.drain()
                self.sent[number] += len(self._block)
        writer.close()

    def __enter__(self) -> Self:
        self._thread.start()
        assert self._started.wait(10)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(10)
