"""The load generator: ``python -m bench.load`` reads one job a line from standard input and prints one result a line.

A raw HTTP/1.1 client that keeps its connections, has one request under way on each, and looks at every answer: its
status, its text, the end marker and the number of chunks of a stream. One wrong answer fails the job.
"""

import asyncio
import sys
import time
from collections.abc import Sequence
from typing import cast

import msgspec
import uvloop
from msgspec import Struct

from bench import vendor

TIMEOUT_S = 180.0


class Job(Struct):
    """``requests`` chat completions over ``connections``, sent to a server on loopback.

    ``chunks`` is how many content chunks a stream must have; 0 asks for a whole answer.
    """

    port: int
    token: str
    model: str
    connections: int
    requests: int
    chunks: int = 0


class Result(Struct):
    """``seconds`` from the first request to the last answer; percentiles of the time an answer took to its last
    byte. ``error`` says what was wrong with the first answer that was."""

    seconds: float = 0.0
    p50_ms: float = 0.0
    p99_ms: float = 0.0
    error: str = ""


class WrongAnswer(Exception):
    """The server said something else than the vendor did."""


class _Message(Struct, frozen=True):
    content: str | None = None


class _Choice(Struct):
    message: _Message = _Message()
    delta: _Message = _Message()


class _Answer(Struct):
    choices: list[_Choice] = []


_ANSWER = msgspec.json.Decoder(_Answer)


class Run:
    """One job under way."""

    def __init__(self, job: Job) -> None:
        self.job = job
        self.request = render(job)
        self.left = job.requests
        self.latencies: list[float] = []
        self.finished: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def answered(self, latency_s: float, status: int, body: bytes) -> None:
        self.latencies.append(latency_s)
        try:
            if status != 200:
                raise WrongAnswer(f"status {status}: {body[:300]!r}")
            check_stream(body, self.job.chunks) if self.job.chunks else check_whole(body)
        except (WrongAnswer, msgspec.DecodeError) as exc:
            self.fail(str(exc))
            return
        if len(self.latencies) == self.job.requests and not self.finished.done():
            self.finished.set_result(None)

    def fail(self, why: str) -> None:
        self.left = 0
        if not self.finished.done():
            self.finished.set_exception(WrongAnswer(why))


class Connection(asyncio.Protocol):
    """Sends the run's request again and again, as long as there are any left."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._received = bytearray()
        self._waiting = False
        self._head: Head | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are none by inheritance

    def connection_lost(self, exc: Exception | None) -> None:
        if self._waiting:
            self._run.fail(f"the server closed the connection after {bytes(self._received[-300:])!r}")

    def data_received(self, data: bytes) -> None:
        self._received += data
        if self._head is None:
            self._head = Head.of(self._received)
        if self._head is None or not self._head.is_whole(self._received):
            return
        latency_s = time.perf_counter() - self._sent_at
        self._waiting = False
        self._run.answered(latency_s, self._head.status, self._head.body(self._received))
        self.next()

    def next(self) -> None:
        if self._run.left <= 0:
            return
        self._run.left -= 1
        self._received.clear()
        self._head = None
        self._waiting = True
        self._sent_at = time.perf_counter()
        self._transport.write(self._run.request)

    def close(self) -> None:
        self._waiting = False
        self._transport.close()


class Head(Struct, frozen=True):
    """What matters of an answer's head. ``length`` None: the body comes in chunks."""

    status: int
    size: int
    length: int | None

    @classmethod
    def of(cls, received: bytearray) -> "Head | None":
        """None until the head is complete."""
        size = received.find(b"\r\n\r\n") + 4
        if size < 4:
            return None
        head = bytes(received[:size]).lower()
        _, found, rest = head.partition(b"\r\ncontent-length:")
        return cls(int(head[9:12]), size, int(rest.partition(b"\r\n")[0]) if found else None)

    def is_whole(self, received: bytearray) -> bool:
        if self.length is None:
            return received.endswith(b"\r\n0\r\n\r\n")
        return len(received) >= self.size + self.length

    def body(self, received: bytearray) -> bytes:
        if self.length is None:
            return _dechunked(bytes(received[self.size :]))
        return bytes(received[self.size :])


def _dechunked(body: bytes) -> bytes:
    pieces: list[bytes] = []
    at = 0
    while True:
        end_of_size = body.index(b"\r\n", at)
        size = int(body[at:end_of_size], 16)
        if size == 0:
            return b"".join(pieces)
        pieces.append(body[end_of_size + 2 : end_of_size + 2 + size])
        at = end_of_size + size + 4


def check_whole(body: bytes) -> None:
    """Raises WrongAnswer unless ``body`` is the vendor's completion."""
    answer = _ANSWER.decode(body)
    if len(answer.choices) != 1 or answer.choices[0].message.content != vendor.ANSWER:
        raise WrongAnswer(f"not the vendor's text: {body[:300]!r}")


def check_stream(body: bytes, chunks: int) -> None:
    """Raises WrongAnswer unless ``body`` is the vendor's stream, to its end."""
    *events, marker, rest = body.split(b"\n\n")
    if marker != b"data: [DONE]" or rest:
        raise WrongAnswer(f"the stream has no end marker: {body[-300:]!r}")
    texts = []
    for event in events:
        answer = _ANSWER.decode(event.removeprefix(b"data: "))
        texts += [choice.delta.content for choice in answer.choices if choice.delta.content]
    if texts != [vendor.CHUNK_TEXT] * chunks:
        raise WrongAnswer(f"{len(texts)} chunks instead of {chunks}, or with another text")


def render(job: Job) -> bytes:
    """The request as it goes over the wire: a short conversation of some 700 bytes."""
    request: dict[str, object] = {
        "model": job.model,
        "messages": [
            {"role": "system", "content": "You explain railway terms to a curious traveller. " * 4},
            {"role": "user", "content": "What does a pointsman do all day, and why does it matter to me? " * 4},
        ],
        "temperature": 0.2,
        "max_tokens": 400,
    }
    if job.chunks:
        request |= {"stream": True, "stream_options": {"include_usage": True}}
    body = msgspec.json.encode(request)
    head = (
        f"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:{job.port}\r\nauthorization: Bearer {job.token}\r\n"
        f"content-type: application/json\r\naccept: */*\r\nuser-agent: bench\r\ncontent-length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def percentile(values: Sequence[float], share: float) -> float:
    """The value that ``share`` of ``values`` do not exceed."""
    return sorted(values)[max(0, -(-round(share * 1000) * len(values) // 1000) - 1)]


async def perform(job: Job) -> Result:
    """Runs a job to its end. Raises WrongAnswer, OSError or TimeoutError."""
    loop = asyncio.get_running_loop()
    run = Run(job)
    opened = [
        await loop.create_connection(lambda: Connection(run), "127.0.0.1", job.port) for _ in range(job.connections)
    ]
    connections = [connection for _, connection in opened]
    try:
        started_at = time.perf_counter()
        for connection in connections:
            connection.next()
        async with asyncio.timeout(TIMEOUT_S):
            await run.finished
        seconds = time.perf_counter() - started_at
    finally:
        for connection in connections:
            connection.close()
    return Result(seconds, percentile(run.latencies, 0.5) * 1000, percentile(run.latencies, 0.99) * 1000)


def main() -> None:
    for line in sys.stdin:
        try:
            result = uvloop.run(perform(msgspec.json.decode(line, type=Job)))
        except (WrongAnswer, OSError, TimeoutError) as exc:
            result = Result(error=str(exc) or type(exc).__name__)
        print(msgspec.json.encode(result).decode(), flush=True)


if __name__ == "__main__":
    main()
