"""A vendor that always says the same, at next to no cost: ``python -m bench.vendor --chunks N``.

Speaks just enough HTTP/1.1 and OpenAI for a benchmark. The model asked for decides how it answers:

* ``fixed``: one canned completion with usage.
* ``burst``: a stream of N content chunks, each handed to the kernel by itself and without a pause.
* ``paced``: the same stream, its content chunks ``GAP_S`` seconds apart.

Prints the port it listens on (loopback only) and serves until it is ended.
"""

import argparse
import asyncio
import json
from typing import Any

GAP_S = 0.02
PROMPT_TOKENS = 42
ANSWER = (
    "The railway signalman who works the points decides on which track a train goes on, and keeps a book of every "
    "train that passes. Nobody travels faster for it, but everybody arrives where they meant to, and the book says "
    "at any time who went where, when, and what it cost."
)
ANSWER_TOKENS = 57
CHUNK_TEXT = " token"

_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: %b\r\n%b\r\n\r\n"
_CHUNKED = b"transfer-encoding: chunked"


def usage(completion_tokens: int) -> dict[str, int]:
    return {
        "prompt_tokens": PROMPT_TOKENS,
        "completion_tokens": completion_tokens,
        "total_tokens": PROMPT_TOKENS + completion_tokens,
    }


def _completion() -> bytes:
    body = json.dumps(
        {
            "id": "chatcmpl-bench",
            "object": "chat.completion",
            "created": 1_750_000_000,
            "model": "fixed",
            "choices": [
                {"index": 0, "message": {"role": "assistant", "content": ANSWER}, "finish_reason": "stop"},
            ],
            "usage": usage(ANSWER_TOKENS),
        }
    ).encode()
    return _HEAD % (b"application/json", b"content-length: %d" % len(body)) + body


def _event(choices: list[dict[str, Any]], **more: Any) -> bytes:
    event = {
        "id": "chatcmpl-bench",
        "object": "chat.completion.chunk",
        "created": 1_750_000_000,
        "model": "stream",
        "choices": choices,
        **more,
    }
    return _chunk(b"data: " + json.dumps(event, separators=(",", ":")).encode() + b"\n\n")


def _delta(delta: dict[str, str], finish_reason: str | None = None) -> bytes:
    return _event([{"index": 0, "delta": delta, "finish_reason": finish_reason}])


def _chunk(data: bytes) -> bytes:
    """One chunk of HTTP's chunked transfer coding."""
    return b"%x\r\n%b\r\n" % (len(data), data)


class FixedAnswers:
    """Everything the vendor ever says, as bytes."""

    def __init__(self, chunks: int) -> None:
        self.chunks = chunks
        self.completion = _completion()
        self.opening = _HEAD % (b"text/event-stream", _CHUNKED) + _delta({"role": "assistant", "content": ""})
        self.content = _delta({"content": CHUNK_TEXT})
        self.closing = _delta({}, "stop") + _event([], usage=usage(chunks)) + _chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"


class Connection(asyncio.Protocol):
    """One kept-alive connection; a request is answered before the next one is read."""

    def __init__(self, answers: FixedAnswers) -> None:
        self._answers = answers
        self._received = bytearray()
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        self._received += data
        end_of_head = self._received.find(b"\r\n\r\n") + 4
        if end_of_head < 4 or len(self._received) < end_of_head + _content_length(self._received[:end_of_head]):
            return
        body = bytes(self._received[end_of_head:])
        self._received.clear()
        self._answer(body)

    def _answer(self, body: bytes) -> None:
        if b'"burst"' in body:
            self._transport.write(self._answers.opening)
            for _ in range(self._answers.chunks):
                self._transport.write(self._answers.content)
            self._transport.write(self._answers.closing)
        elif b'"paced"' in body:
            self._transport.write(self._answers.opening)
            loop = asyncio.get_running_loop()
            self._next_at(loop, loop.time() + GAP_S, self._answers.chunks)
        else:
            self._transport.write(self._answers.completion)

    def _next_at(self, loop: asyncio.AbstractEventLoop, due_at: float, left: int) -> None:
        """By the clock, so that a late chunk does not delay those after it."""
        self._timer = loop.call_at(due_at, self._pace, loop, due_at, left)

    def _pace(self, loop: asyncio.AbstractEventLoop, due_at: float, left: int) -> None:
        if left == 0:
            self._transport.write(self._answers.closing)
            return
        self._transport.write(self._answers.content)
        self._next_at(loop, due_at + GAP_S, left - 1)


def _content_length(head: bytearray) -> int:
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            return int(value)
    return 0


async def _serve(chunks: int) -> None:
    answers = FixedAnswers(chunks)
    server = await asyncio.get_running_loop().create_server(lambda: Connection(answers), "127.0.0.1", 0, backlog=512)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.vendor")
    parser.add_argument("--chunks", type=int, default=200, help="content chunks of a stream")
    # asyncio's own loop on purpose: it hands every write to the kernel at once, where uvloop gathers those of a tick.
    asyncio.run(_serve(parser.parse_args().chunks))


if __name__ == "__main__":
    main()
