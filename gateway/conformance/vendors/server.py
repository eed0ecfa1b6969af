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
from collections import defaultdict, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from itertools import count
from math import ceil

from gateway.conformance.vendors.answers import plan
from gateway.conformance.vendors.anthropic import Anthropic
from gateway.conformance.vendors.behaviours import Behaviour, check_words, parse_behaviour
from gateway.conformance.vendors.delivery import Delivery, forever
from gateway.conformance.vendors.formats import JSON, Format, Refusal, check, dump
from gateway.conformance.vendors.gemini import PATH as GEMINI_PATH
from gateway.conformance.vendors.gemini import Gemini
from gateway.conformance.vendors.http import Connection, HttpRequest
from gateway.conformance.vendors.log import LoggedCall
from gateway.conformance.vendors.ollama import Ollama
from gateway.conformance.vendors.openai import OpenAI
from gateway.conformance.vendors.operations import Operation, model_named, operation_of
from gateway.conformance.vendors.quotas import EXHAUSTED, ModelHistory, Quota
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
        self._histories: defaultdict[str, ModelHistory] = defaultdict(ModelHistory)

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
        exchange = _Exchange(vendor or _OPENAI, request, call, connection)
        try:
            if vendor is None:
                raise Refusal(404, f"Invalid URL ({request.method} {request.path})")
            await self._serve(exchange)
        except Refusal as refusal:
            call.status, call.outcome = refusal.status, "refused"
            exchange.refuse(refusal)
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

    async def _serve(self, exchange: "_Exchange") -> None:
        vendor, request, call = exchange.vendor, exchange.request, exchange.call
        call.format, call.key = vendor.name, vendor.key_of(request)
        if request.method == "GET":
            vendor.authenticate(call.key, self.keys)
            self._list_models(exchange)
            return
        operation = operation_of(request.path)
        body = call.body if isinstance(call.body, dict) else {}
        if operation is None:
            call.model, call.stream = vendor.model_of(request, body), vendor.streams(request, body)
        else:
            call.model = model_named(request, body)
        behaviour, history = self._next_behaviour(call)
        if behaviour.reset:
            call.outcome = "reset"
            exchange.connection.reset()
            return
        if behaviour.silent == "request":
            await forever()
        vendor.authenticate(call.key, self.keys)
        _check_availability(behaviour, history, exchange)
        if operation is None:
            await self._converse(behaviour, body, exchange)
        else:
            await self._operate(operation[1], behaviour, body, exchange)

    async def _converse(self, behaviour: Behaviour, body: JSON, exchange: "_Exchange") -> None:
        vendor, call = exchange.vendor, exchange.call
        if not body:
            raise Refusal(400, "We could not parse the JSON body of your request.")
        try:
            prompt = vendor.parse(exchange.request, body)
        except (AttributeError, KeyError, TypeError) as exc:  # a type that no check foresaw
            raise Refusal(400, f"The request has a wrong type: {exc}") from exc
        if prompt.prefill is not None and behaviour.prefill == "refuse":
            raise vendor.prefill_refused()
        if behaviour.context_exceeded:
            raise vendor.context_exceeded(prompt)
        call.status = 200
        answer = plan(prompt, behaviour, vendor.reports_cache, vendor.reports_cache_writes)
        vendor.adapt(answer)
        await Delivery(vendor, prompt, answer, behaviour, call, exchange.connection, exchange.headers).run()

    async def _operate(self, operation: Operation, behaviour: Behaviour, body: JSON, exchange: "_Exchange") -> None:
        """Whatever is no conversation."""
        call, connection = exchange.call, exchange.connection
        check(call.model, "you must provide a model parameter", param="model")
        try:
            answered = operation(exchange.request, body)
        except (AttributeError, KeyError, TypeError) as exc:
            raise Refusal(400, f"The request has a wrong type: {exc}") from exc
        await asyncio.sleep(behaviour.first_token_s)
        call.metered, call.status = answered.metered, 200
        call.generated_tokens = call.sent_tokens = answered.metered.completion
        headers = {**exchange.headers, "content-type": answered.content_type}
        if isinstance(answered.body, bytes):
            connection.respond(200, headers, answered.body)
        else:
            call.stream = True
            connection.begin(200, headers)
            for event in answered.body:
                connection.send(event)
                await connection.flush()
            connection.end()
        call.outcome = "answered"

    def _next_behaviour(self, call: LoggedCall) -> tuple[Behaviour, ModelHistory]:
        """The model name's behaviour, overridden by the next scripted one, and what it may depend on."""
        words = call.model
        if script := self._scripts.get(call.model):
            words = f"{words}-{script.popleft()}"
        call.behaviour = words
        history = self._histories[call.model]
        return parse_behaviour(words, first_call=history.count()), history

    def _list_models(self, exchange: "_Exchange") -> None:
        vendor, call = exchange.vendor, exchange.call
        found = _LISTS.fullmatch(exchange.request.path)
        name = found[2] if found else None
        if name is not None and name not in self.models:
            raise vendor.refusal(404, call.key)
        body = vendor.models(self.models) if name is None else vendor.model(name)
        call.status, call.outcome = 200, "answered"
        exchange.connection.respond(200, {**_JSON_TYPE, **exchange.headers}, dump(body))


@dataclass(slots=True)
class _Exchange:
    """One request of a vendor's, and where its answer goes. ``quota``: what the vendor says of its rate limit."""

    vendor: Format
    request: HttpRequest
    call: LoggedCall
    connection: Connection
    quota: Quota | None = None

    @property
    def headers(self) -> dict[str, str]:
        headers = self.vendor.headers(str(self.call.number))
        return headers if self.quota is None else {**headers, **self.vendor.rate_limit_headers(self.quota)}

    def refuse(self, refusal: Refusal) -> None:
        headers = {**_JSON_TYPE, **self.headers}
        if refusal.retry_after:
            headers["retry-after"] = refusal.retry_after
        self.connection.respond(refusal.status, headers, dump(self.vendor.error_body(refusal)))


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
        if (found_operation := operation_of(request.path)) is not None:
            return _VENDORS[found_operation[0]]
        return _GEMINI if GEMINI_PATH.fullmatch(request.path) else _CHATS.get(request.path)
    found = _LISTS.fullmatch(request.path) if request.method == "GET" else None
    if found is None:
        return None
    if found[1] == "/v1/models":
        return _ANTHROPIC if "anthropic-version" in request.headers else _OPENAI
    return _GEMINI if found[1] == "/v1beta/models" else _OLLAMA


def _check_availability(behaviour: Behaviour, history: ModelHistory, exchange: _Exchange) -> None:
    """Raises Refusal when the model is told to refuse, is down or has no calls left."""
    vendor, key = exchange.vendor, exchange.call.key
    if behaviour.rate_limit is not None:
        exchange.quota = history.take(key, behaviour.rate_limit)
    if behaviour.retry_after == "reset":
        exchange.quota = EXHAUSTED
    if exchange.quota is not None and exchange.quota.exceeded:
        refusal = vendor.refusal(429, key)
        if not vendor.rate_limit_headers(exchange.quota):
            refusal.retry_after = str(ceil(exchange.quota.reset_s))
        raise refusal
    if behaviour.down_s and history.is_down(behaviour.down_s):
        raise vendor.refusal(503, key)
    if behaviour.status is not None:
        refusal = vendor.refusal(behaviour.status, key)
        refusal.retry_after = behaviour.retry_after or ""
        if refusal.retry_after == "date":
            refusal.retry_after = format_datetime(datetime.now(UTC) + timedelta(seconds=2), usegmt=True)
        raise refusal
