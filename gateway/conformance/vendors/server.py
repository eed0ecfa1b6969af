"""The scripted vendors behind one port: routes, behaviours and faults; the formats know only their dialects.

Beside the vendors' own paths:

    GET  /_log       {"calls": [...], "open_connections": n}: every request seen (``?model=`` filters), see LoggedCall
    POST /_control   {"reset": true}    forgets the log, the scripts and which models were called already
                     {"script": {"model": "m", "behaviours": ["500", "429s2", "ok"]}}    the next calls of that model
                     {"keys": ["sk-lab"]}    accepts these keys only; null: any
"""

import asyncio
import re
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import count

from gateway.conformance.vendors.answers import Answer, Prompt, plan
from gateway.conformance.vendors.anthropic import Anthropic
from gateway.conformance.vendors.behaviours import Behaviour, check_words, parse_behaviour
from gateway.conformance.vendors.formats import JSON, Format, Refusal, check, dump
from gateway.conformance.vendors.gemini import PATH as GEMINI_PATH
from gateway.conformance.vendors.gemini import Gemini
from gateway.conformance.vendors.http import Connection, HttpRequest
from gateway.conformance.vendors.log import LoggedCall
from gateway.conformance.vendors.ollama import Ollama
from gateway.conformance.vendors.openai import OpenAI
from gateway.conformance.vendors.operations import Operation, model_named, operation_of, vendor_named
from gateway.conformance.vendors.responses import OpenAIResponses

MODELS = ("small-tok8", "large-tok8", "reasoner-tok8-think12", "caller-tool", "cheap-tok8-cached25")

_OPENAI, _ANTHROPIC, _GEMINI, _OLLAMA = OpenAI(), Anthropic(), Gemini(), Ollama()
_VENDORS: dict[str, Format] = {vendor.name: vendor for vendor in (_OPENAI, _ANTHROPIC, _GEMINI, _OLLAMA)}
_CHATS: dict[str, Format] = {
    "/v1/chat/completions": _OPENAI,
    "/v1/responses": OpenAIResponses(),
    "/v1/messages": _ANTHROPIC,
    "/api/chat": _OLLAMA,
}
_LISTS = re.compile(r"(/v1/models|/v1beta/models|/api/tags)(?:/(.+))?")
_JSON_TYPE = {"content-type": "application/json"}


class Vendors:
    """All vendors of one server: their keys, models, scripts and the log.

    ``keys`` None accepts any key, but still demands one where the vendor does.
    """

    def __init__(self, keys: Iterable[str] | None = None, models: Sequence[str] = MODELS) -> None:
        self.keys = None if keys is None else frozenset(keys)
        self.models = models
        self.connections: set[Connection] = set()
        self.reset()

    def reset(self) -> None:
        self.calls: list[LoggedCall] = []
        self._numbers = count(1)
        self._scripts: dict[str, deque[str]] = {}
        self._called: Counter[str] = Counter()

    def script(self, model: str, behaviours: Iterable[str]) -> None:
        """Queues ``behaviours`` for the next calls of ``model``. Raises ValueError for an unknown word."""
        behaviours = list(behaviours)
        for words in behaviours:
            check_words(words)
        self._scripts.setdefault(model, deque()).extend(behaviours)

    # ----------------------------------------------------------------- one request

    async def handle(self, request: HttpRequest, connection: Connection) -> None:
        """Answers one request, or fails it as it was told to."""
        if request.path in ("/_log", "/_control"):
            status, body = self._administer(request)
            connection.respond(status, _JSON_TYPE, dump(body))
            return
        call = self._open_call(request)
        vendor = _vendor_of(request)
        try:
            if vendor is None:
                raise Refusal(404, f"Invalid URL ({request.method} {request.path})")
            await self._serve(vendor, request, call, connection)
        except Refusal as refusal:
            call.status, call.outcome = refusal.status, "refused"
            self._refuse(vendor or _OPENAI, refusal, call, connection)
        except asyncio.CancelledError:
            if call.outcome == "open":
                call.client_gone_at, call.outcome = call.sent_tokens, "gone"
            raise
        finally:
            call.ended_at = time.time()

    def _administer(self, request: HttpRequest) -> tuple[int, JSON]:
        if request.path == "/_log":
            model = request.query.get("model")
            calls = [call.to_json() for call in self.calls if model is None or call.model == model]
            return 200, {"calls": calls, "open_connections": len(self.connections) - 1}
        try:
            order = request.json()
            if order.get("reset"):
                self.reset()
            if "keys" in order:
                self.keys = None if order["keys"] is None else frozenset(order["keys"])
            if script := order.get("script"):
                self.script(script["model"], script["behaviours"])
        except (ValueError, KeyError, TypeError, AttributeError) as exc:
            return 400, {"error": repr(exc)}
        return 200, {"ok": True}

    def _open_call(self, request: HttpRequest) -> LoggedCall:
        try:
            body = request.json() if request.body else None
        except ValueError:
            body = request.body.decode("latin-1")
        number = next(self._numbers)
        call = LoggedCall(number, request.method, request.path, request.query, request.headers, body)
        self.calls.append(call)
        return call

    async def _serve(self, vendor: Format, request: HttpRequest, call: LoggedCall, connection: Connection) -> None:
        call.format, call.key = vendor.name, vendor.key_of(request)
        if request.method == "GET":
            vendor.authenticate(call.key, self.keys)
            self._list_models(vendor, request.path, call, connection)
            return
        if (operation := operation_of(request.path)) is not None:
            self._operate(operation, vendor, request, call, connection)
            return
        body = call.body if isinstance(call.body, dict) else {}
        call.model, call.stream = vendor.model_of(request, body), vendor.streams(request, body)
        behaviour = self._next_behaviour(call)
        if behaviour.reset:
            call.outcome = "reset"
            connection.reset()
            return
        if behaviour.silent == "request":
            await _forever()
        vendor.authenticate(call.key, self.keys)
        if behaviour.status is not None:
            raise _refusal_of(vendor, behaviour, call)
        if not body:
            raise Refusal(400, "We could not parse the JSON body of your request.")
        try:
            prompt = vendor.parse(request, body)
        except (AttributeError, KeyError, TypeError) as exc:  # a type that no check foresaw
            raise Refusal(400, f"The request has a wrong type: {exc}") from exc
        if prompt.prefill and behaviour.noprefill:
            raise Refusal(400, "This model does not support assistant message prefill.", param="messages")
        if behaviour.context_exceeded:
            raise vendor.context_exceeded(prompt)
        call.status = 200
        answer = plan(prompt, behaviour, vendor.reports_cache, vendor.reports_cache_writes)
        vendor.adapt(answer)
        await _Delivery(vendor, prompt, answer, behaviour, call, connection).run()

    def _operate(
        self, operation: Operation, vendor: Format, request: HttpRequest, call: LoggedCall, connection: Connection
    ) -> None:
        """Whatever is no conversation; of the behaviours it knows the refusals."""
        vendor.authenticate(call.key, self.keys)
        body = call.body if isinstance(call.body, dict) else {}
        call.model = model_named(request, body)
        check(call.model, "you must provide a model parameter", param="model")
        if (behaviour := self._next_behaviour(call)).status is not None:
            raise _refusal_of(vendor, behaviour, call)
        content_type, answer, call.metered = operation(request, body)
        call.stream, call.status, call.outcome = content_type == "text/event-stream", 200, "answered"
        connection.respond(200, {"content-type": content_type, **vendor.headers(str(call.number))}, answer)

    def _next_behaviour(self, call: LoggedCall) -> Behaviour:
        """The model name's behaviour, overridden by the next scripted one."""
        words = call.model
        if script := self._scripts.get(call.model):
            words = f"{words}-{script.popleft()}"
        self._called[call.model] += 1
        call.behaviour = words
        return parse_behaviour(words, first_call=self._called[call.model] == 1)

    def _list_models(self, vendor: Format, path: str, call: LoggedCall, connection: Connection) -> None:
        found = _LISTS.fullmatch(path)
        name = found[2] if found else None
        if name is not None and name not in self.models:
            raise vendor.refusal(404, call.key)
        body = vendor.models(self.models) if name is None else vendor.model(name)
        call.status, call.outcome = 200, "answered"
        connection.respond(200, {**_JSON_TYPE, **vendor.headers(str(call.number))}, dump(body))

    def _refuse(self, vendor: Format, refusal: Refusal, call: LoggedCall, connection: Connection) -> None:
        headers = {**_JSON_TYPE, **vendor.headers(str(call.number))}
        if refusal.retry_after:
            headers["retry-after"] = refusal.retry_after
        connection.respond(refusal.status, headers, dump(vendor.error_body(refusal)))


@dataclass(slots=True)
class _Delivery:
    """One answer on its way out, with the faults its behaviour asks for."""

    vendor: Format
    prompt: Prompt
    answer: Answer
    behaviour: Behaviour
    call: LoggedCall
    connection: Connection

    @property
    def headers(self) -> dict[str, str]:
        content_type = self.vendor.stream_type if self.prompt.stream else "application/json"
        return {"content-type": content_type, **self.vendor.headers(str(self.call.number))}

    async def run(self) -> None:
        if self.behaviour.wrong_type:
            self.call.outcome = "failed"
            self.connection.respond(200, {**self.headers, "content-type": "text/html"}, b"<html>Welcome</html>")
        elif self.behaviour.empty:
            self.call.outcome = "failed"
            self.connection.respond(200, self.headers, b"")
        elif self.behaviour.silent == "headers":
            self.connection.begin(200, self.headers)
            await _forever()
        elif self.prompt.stream:
            self.connection.begin(200, self.headers)
            await self._stream()
        else:
            await self._whole()

    def _generate(self, output: int, reasoning: int) -> None:
        self.call.count_generated(output, reasoning, self.vendor.reports_reasoning)

    # ----------------------------------------------------------------- streamed

    async def _stream(self) -> None:
        behaviour, connection = self.behaviour, self.connection
        await asyncio.sleep(behaviour.first_token_s)
        self.call.count_prompt(self.answer.usage)
        contents = 0
        frames = self.vendor.frames(self.answer, self.prompt, behaviour)
        for number, frame in enumerate(frames, 1):
            if frame.kind == "content":
                if await self._breaks_off(contents, frame.data):
                    return
                if behaviour.gap_s:
                    await asyncio.sleep(behaviour.gap_s)
                self._generate(frame.output, frame.reasoning)
                contents += 1
            if frame.kind == "end" and behaviour.hold_open_s and self.vendor.end_is_optional:
                break
            data = self.vendor.broken_event if number == behaviour.bad_event else frame.data
            if behaviour.drip_s:
                await connection.drip(data, behaviour.drip_s)
            else:
                connection.send(data)
            self.call.count_sent(frame)
            await connection.flush()
        await asyncio.sleep(behaviour.hold_open_s)
        connection.end()
        self.call.outcome = "answered"

    async def _breaks_off(self, contents: int, next_event: bytes) -> bool:
        """Whether the stream ends before ``next_event``, after ``contents`` chunks of content."""
        behaviour = self.behaviour
        if contents == behaviour.stall_after:
            await _forever()
        if contents == behaviour.error_after:
            self.call.outcome = "failed"
            self.connection.send(self.vendor.error_event())
            self.connection.end()
            return True
        if behaviour.cut_after is not None and self.call.sent_tokens >= behaviour.cut_after:
            self.call.outcome = "cut"
            if behaviour.cut_by == "rst":
                await self.connection.cut_with_reset()
            else:
                self.connection.cut_inside(next_event, kept=16)
            return True
        return False

    # ----------------------------------------------------------------- whole

    async def _whole(self) -> None:
        behaviour, connection = self.behaviour, self.connection
        await asyncio.sleep(behaviour.first_token_s)
        usage = self.answer.usage
        self.call.count_prompt(usage)
        if behaviour.gap_s:
            await self._generate_slowly(usage.output, usage.reasoning)
        else:
            self._generate(usage.output, usage.reasoning)
        body = self._body()
        if behaviour.stall_after is not None or behaviour.cut_after is not None:
            await self._break_off_inside(body)
            return
        if behaviour.drip_s:
            connection.begin(200, self.headers, len(body))
            await connection.drip(body, behaviour.drip_s)
        else:
            connection.respond(200, self.headers, body)
        failed = behaviour.error_after is not None or behaviour.bad_event is not None
        self.call.sent_tokens = 0 if failed else self.call.generated_tokens
        self.call.metered.usage_sent = not failed and behaviour.usage != "none"
        self.call.outcome = "failed" if failed else "answered"
        await connection.flush()

    async def _generate_slowly(self, output: int, reasoning: int) -> None:
        for i in range(reasoning + output):
            await asyncio.sleep(self.behaviour.gap_s)
            self._generate(int(i >= reasoning), int(i < reasoning))

    def _body(self) -> bytes:
        behaviour = self.behaviour
        if behaviour.error_after is not None:
            return dump(self.vendor.error_body(self.vendor.refusal(500, self.call.key)))
        value = self.vendor.whole(self.answer, self.prompt)
        body = dump(self.vendor.without_usage(value) if behaviour.usage == "none" else value)
        return body[: len(body) // 2] if behaviour.bad_event is not None else body

    async def _break_off_inside(self, body: bytes) -> None:
        behaviour, connection = self.behaviour, self.connection
        connection.begin(200, self.headers, len(body))
        if behaviour.cut_after is not None and behaviour.cut_by == "fin":
            self.call.outcome = "cut"
            connection.cut_inside(body, kept=len(body) // 2)
            return
        connection.send(body[: len(body) // 2])
        await connection.flush()
        if behaviour.cut_after is None:
            await _forever()
        self.call.outcome = "cut"
        await connection.cut_with_reset()


async def serve(vendors: Vendors, host: str, port: int, ready: Callable[[int], None], stop: asyncio.Event) -> None:
    """Listens until ``stop`` is set; ``ready`` is told the port (``port`` 0 lets the system choose)."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(vendors.handle, vendors.connections), host, port, backlog=1024)
    ready(server.sockets[0].getsockname()[1])
    await stop.wait()
    server.close()
    for connection in list(vendors.connections):
        connection.close()


def _vendor_of(request: HttpRequest) -> Format | None:
    if request.method == "POST":
        if operation_of(request.path) is not None:
            return _VENDORS[vendor_named(request.path)]
        return _GEMINI if GEMINI_PATH.fullmatch(request.path) else _CHATS.get(request.path)
    found = _LISTS.fullmatch(request.path) if request.method == "GET" else None
    if found is None:
        return None
    if found[1] == "/v1/models":
        return _ANTHROPIC if "anthropic-version" in request.headers else _OPENAI
    return _GEMINI if found[1] == "/v1beta/models" else _OLLAMA


def _refusal_of(vendor: Format, behaviour: Behaviour, call: LoggedCall) -> Refusal:
    refusal = vendor.refusal(behaviour.status or 500, call.key)
    if behaviour.retry_after == "date":
        refusal.retry_after = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
    else:
        refusal.retry_after = behaviour.retry_after or ""
    return refusal


async def _forever() -> None:
    """Ends only when the client leaves: its task is cancelled then."""
    await asyncio.get_running_loop().create_future()
