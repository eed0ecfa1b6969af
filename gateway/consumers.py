"""Channels' side of the proxy: every path that is forwarded to a vendor, streamed or not.

Channels' generic HTTP consumer does not notice a caller that hangs up while it works, so this is a consumer of
our own: it collects the body within limits, runs the pipeline, and cancels it when the caller leaves.
"""

import asyncio
import math
import time
from collections.abc import Awaitable, Callable, Mapping
from functools import partial
from typing import Any, TypeVar

import uuid_utils
from django.conf import settings

from gateway import runtime
from gateway.call import JSON, LEAVING, NOT_FROM_CACHE, Call, Headers, StreamedAnswer, WholeAnswer
from gateway.errors import GatewayError, GatewayTimeout, MethodNotAllowed, RequestTooLarge, ShuttingDown
from gateway.wire import anthropic_messages, forwarded, openai_chat, openai_embeddings, openai_responses
from gateway.wire.anthropic_messages import count_tokens
from gateway.wire.sse import COMMENT
from gateway.wire.verbs import CallerFormat
from tenants.network import client_address
from tenants.tokens import bearer_from

LARGE_BLOCK_BYTES = 64 * 1024
_STREAM = b'"stream"'  # in every body that asks for one

Body = TypeVar("Body", bytes, bytearray)
Scope = dict[str, Any]
Receive = Callable[[], Awaitable[dict[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]


class CallerLeft(Exception):
    """The caller hung up before its request was complete."""


class ProxyConsumer:
    """One forwarded call. Subclasses name the dialect of their path (:data:`FORWARDED`)."""

    caller: CallerFormat

    @classmethod
    def as_asgi(cls) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
        return lambda scope, receive, send: cls(scope, receive, send).serve()

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._scope, self._receive, self._send = scope, receive, send
        self._request_id = str(uuid_utils.uuid7())
        self._started = False
        self.last_sent = 0.0  # by the loop's clock

    async def serve(self) -> None:
        try:
            call = await self._call()
        except CallerLeft:
            return
        except GatewayError as error:  # the rest of the body may still come: nothing else is read from this connection
            await self._refuse(error, [(b"connection", b"close")])
            return
        stop_listening = self._listen(partial(_hung_up, call, asyncio.current_task()))
        silence = Silence(self, call) if _STREAM in call.body else None
        try:
            await self._answer(call)
        except asyncio.CancelledError:
            if not call.left:  # the server is shutting down, and this took longer than its drain
                await self._fail(call, ShuttingDown())
        finally:
            if silence is not None:
                silence.end()
            stop_listening()

    async def _call(self) -> Call:
        if self._scope["method"] != "POST":
            raise MethodNotAllowed(f"{self._scope['method']} is not supported here; use POST.")
        body = await self._body()
        raw_headers = self._scope["headers"]
        return Call(
            request_id=self._request_id,
            caller=self.caller,
            body=body,
            headers={name.decode("latin-1"): value.decode("latin-1") for name, value in raw_headers},
            credential=bearer_from(raw_headers),
            client_ip=client_address(self._scope, settings.TRUSTED_PROXIES),
            received=time.perf_counter(),
        )

    async def _body(self) -> bytes:
        """The whole body. Raises RequestTooLarge, GatewayTimeout (a caller too slow) or CallerLeft."""
        deadline = asyncio.get_running_loop().time() + settings.BODY_TIMEOUT_S
        message = await self._next_message(deadline)
        if not message.get("more_body"):  # nearly always: one message, one body
            return self._within_limit(bytes(message.get("body", b"")))
        body = bytearray(message.get("body", b""))
        while message.get("more_body"):
            message = await self._next_message(deadline)
            body += message.get("body", b"")
            self._within_limit(body)
        return bytes(body)

    async def _next_message(self, deadline: float) -> dict[str, Any]:
        try:
            async with asyncio.timeout_at(deadline):
                message = await self._receive()
        except TimeoutError:
            raise GatewayTimeout("The request's body did not arrive in time.") from None
        if message["type"] == "http.disconnect":
            raise CallerLeft
        return message

    @staticmethod
    def _within_limit(body: Body) -> Body:
        if len(body) > settings.MAX_BODY_BYTES:
            raise RequestTooLarge(f"The request's body is larger than {settings.MAX_BODY_BYTES} bytes.")
        return body

    def _listen(self, hung_up: Callable[[], None]) -> Callable[[], object]:
        """Have ``hung_up`` called if the caller hangs up, until what is returned is called."""
        listeners = self._scope.get("extensions", {}).get(LEAVING)
        if listeners is not None:
            listeners.add(hung_up)
            return partial(listeners.discard, hung_up)
        return asyncio.ensure_future(self._disconnected(hung_up)).cancel  # a server without the extension

    async def _disconnected(self, hung_up: Callable[[], None]) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        hung_up()

    async def _answer(self, call: Call) -> None:
        try:
            running = await runtime.current()
            answer = await running.pipeline.run(call)
        except GatewayError as error:
            await self._fail(call, error)
            return
        if isinstance(answer, WholeAnswer):
            await self._whole(200, answer.headers, answer.body)
        else:
            await self._stream(answer)

    async def _fail(self, call: Call, error: GatewayError) -> None:
        """Tell the caller, as an answer or in its stream, whichever it has come to."""
        if self._started:
            await self._send_block(call.render_stream_error(error), last=True)
        else:
            await self._refuse(error, call.answer_headers)

    async def _whole(self, status: int, headers: Headers, body: bytes) -> None:
        headers.append((b"content-length", b"%d" % len(body)))
        await self._start(status, headers)
        await self._send({"type": "http.response.body", "body": body})

    async def _stream(self, answer: StreamedAnswer) -> None:
        if not self._started:
            try:
                await self._start(200, answer.headers)
            except BaseException:
                if answer.abandon is not None:
                    answer.abandon()
                raise
        events = answer.events
        try:
            async for event in events:
                await self._send_block(event)
                if len(event) > LARGE_BLOCK_BYTES:  # the next one is not even read before this one has gone out
                    await self._send_block(b"")
        finally:
            await events.aclose()
        await self._send_block(b"", last=True)

    async def break_silence(self, call: Call) -> None:
        """A comment, so that nothing between us and the caller takes a quiet stream for a dead one."""
        if not self._started:
            await self._start(200, call.early_headers())
        await self._send_block(COMMENT)

    async def _send_block(self, block: bytes, *, last: bool = False) -> None:
        self.last_sent = asyncio.get_running_loop().time()
        await self._send({"type": "http.response.body", "body": block, "more_body": not last})

    async def _refuse(self, error: GatewayError, headers: Headers) -> None:
        answer: Headers = [JSON, *headers, NOT_FROM_CACHE]
        if error.retry_after_s is not None:
            answer.append((b"retry-after", b"%d" % max(1, math.ceil(error.retry_after_s))))
        if error.should_retry is not None:
            answer.append((b"x-should-retry", b"true" if error.should_retry else b"false"))
        await self._whole(error.status, answer, self.caller.render_error(error, self._request_id))

    async def _start(self, status: int, headers: Headers) -> None:
        self._started = True
        headers.append((b"x-request-id", self._request_id.encode()))
        await self._send({"type": "http.response.start", "status": status, "headers": headers})


def _hung_up(call: Call, serving: "asyncio.Task[None] | None") -> None:
    call.left = True
    if serving is not None:
        serving.cancel()


class Silence:
    """Watches one call: a stream that has waited long enough for its vendor is started without it, and kept alive
    with comments whenever nothing else goes out. Costs one timer."""

    __slots__ = ("_breaking", "_call", "_consumer", "_loop", "_since", "_timer")

    def __init__(self, consumer: ProxyConsumer, call: Call) -> None:
        self._consumer, self._call = consumer, call
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()
        self._breaking: asyncio.Task[None] | None = None
        self._timer = self._loop.call_later(settings.FIRST_EVENT_PATIENCE_S, self._on_timer)

    def end(self) -> None:
        self._timer.cancel()
        if self._breaking is not None:
            self._breaking.cancel()

    def _on_timer(self) -> None:
        interval_s = settings.KEEP_ALIVE_INTERVAL_S
        quiet_s = self._loop.time() - max(self._since, self._consumer.last_sent)
        if self._call.streamed and quiet_s >= min(interval_s, settings.FIRST_EVENT_PATIENCE_S):
            # A caller that does not read blocks the comment as well: one at a time.
            if self._breaking is None or self._breaking.done():
                self._breaking = self._loop.create_task(self._consumer.break_silence(self._call))
            quiet_s = 0.0
        self._timer = self._loop.call_later(max(interval_s - quiet_s, 0.01), self._on_timer)


def serving(format_: CallerFormat) -> type[ProxyConsumer]:
    """The consumer of a path whose callers speak ``format_``."""
    return type("Consumer", (ProxyConsumer,), {"caller": format_})


FORWARDED: Mapping[str, type[ProxyConsumer]] = {
    "v1/chat/completions": serving(openai_chat),
    "v1/responses": serving(openai_responses),
    "v1/messages": serving(anthropic_messages),
    "v1/messages/count_tokens": serving(count_tokens),
    "v1/embeddings": serving(openai_embeddings),
    "v1/completions": serving(forwarded.completions),
    "v1/moderations": serving(forwarded.moderations),
    "v1/images/generations": serving(forwarded.images),
    "v1/audio/speech": serving(forwarded.speech),
    "v1/audio/transcriptions": serving(forwarded.transcription),
    "v1/audio/translations": serving(forwarded.translation),
    "v1/rerank": serving(forwarded.rerank),
}
