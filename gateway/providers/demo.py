"""A vendor inside the process, so that the first call works without any key.

It is honest about being a demo: it says so and repeats the last user message. It speaks the OpenAI chat
format, streamed and not, calls a tool when it must, and keeps to ``max_tokens``; a "token" of its usage is a
word. Only the bytes are made up: the way through the client is that of every vendor.
"""

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, Self
from uuid import uuid4

import msgspec
from msgspec import Struct, field

from gateway.errors import ProviderError
from gateway.providers.outbound import Deadlines, OutboundRequest
from gateway.wire.sse import DONE, render_event

DEMO_MODEL = "demo"
CONTEXT_WINDOW = 8192
WORD_PAUSE_S = 0.02
_MAX_SCHEMA_DEPTH = 8


class _StreamOptions(Struct):
    include_usage: bool = False


class _ChatRequest(Struct):
    messages: list[dict[str, Any]]
    model: str = DEMO_MODEL
    stream: bool = False
    stream_options: _StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    tools: list[dict[str, Any]] = field(default_factory=list)
    tool_choice: str | dict[str, Any] | None = None
    response_format: dict[str, Any] | None = None


class _Answer(Struct):
    """What the demo says: words, or one tool call; ``usage`` in words."""

    words: list[str]
    tool_call: dict[str, Any] | None
    finish_reason: str
    usage: dict[str, int]


class DemoTransport:
    """A :class:`~gateway.providers.outbound.Sender` that answers by itself.

    ``word_pause_s`` is the pause before each streamed word, in seconds.
    """

    def __init__(self, word_pause_s: float = WORD_PAUSE_S) -> None:
        self._word_pause_s = word_pause_s

    async def send(self, request: OutboundRequest, deadlines: Deadlines) -> "DemoResponse":
        del deadlines  # nothing here can be late
        if request.method == "GET":
            return DemoResponse.whole(200, {"data": [{"id": DEMO_MODEL, "context_window": CONTEXT_WINDOW}]})
        try:
            chat = msgspec.json.decode(request.body, type=_ChatRequest)
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            return DemoResponse.whole(400, {"error": {"message": str(exc), "type": "invalid_request_error"}})
        answer = _answer(chat)
        if chat.stream:
            return DemoResponse(200, "text/event-stream", _events(chat, answer), self._word_pause_s)
        return DemoResponse.whole(200, _completion(chat, answer))


class DemoResponse:
    """A :class:`~gateway.providers.outbound.Response` made of blocks that are already known."""

    def __init__(self, status: int, content_type: str, blocks: Iterator[bytes], pause_s: float = 0.0) -> None:
        self.status = status
        self.headers: Mapping[str, str] = {"content-type": content_type}
        self._blocks = blocks
        self._pause_s = pause_s

    @classmethod
    def whole(cls, status: int, body: dict[str, Any]) -> Self:
        return cls(status, "application/json", iter([msgspec.json.encode(body)]))

    async def read(self, limit: int) -> bytes:
        body = b"".join(self._blocks)
        if len(body) > limit:
            raise ProviderError("The provider's answer is too large.", kind="protocol")
        return body

    async def blocks(self) -> AsyncIterator[bytes]:
        for block in self._blocks:
            await asyncio.sleep(self._pause_s)
            yield block

    def first_token_seen(self) -> None:
        """There are no deadlines in-process."""

    def expect_end(self, within_s: float) -> None:
        """The blocks are all there."""

    def close(self) -> None:
        self._blocks = iter(())


def _answer(chat: _ChatRequest) -> _Answer:
    heard = _last_user_text(chat.messages)
    limit = chat.max_completion_tokens or chat.max_tokens
    tool = _forced_tool(chat)
    if tool is not None:
        tool_call = _tool_call(tool, heard)
        words = tool_call["function"]["arguments"].split(" ")
        return _Answer([], tool_call, "tool_calls", _usage(chat, len(words)))
    words = _pieces(_reply(chat.response_format, heard))
    finish_reason = "stop" if limit is None or len(words) <= limit else "length"
    words = words[:limit]
    return _Answer(words, None, finish_reason, _usage(chat, len(words)))


def _reply(response_format: dict[str, Any] | None, heard: str) -> str:
    match response_format:
        case {"type": "json_schema", "json_schema": {"schema": dict(schema)}}:
            return msgspec.json.encode(_example(schema, heard)).decode()
        case {"type": "json_schema" | "json_object"}:
            return msgspec.json.encode({"demo": True, "you_said": heard}).decode()
    return f"This is the built-in demo, not a language model. You said: {heard or 'nothing'}"


def _pieces(text: str) -> list[str]:
    """``text`` cut before each space, so that the pieces joined are the text."""
    first, *rest = text.split(" ")
    return [first, *(f" {word}" for word in rest)]


def _last_user_text(messages: list[dict[str, Any]]) -> str:
    for message in reversed(messages):
        if message.get("role") == "user":
            return _text_of(message.get("content"))
    return ""


def _text_of(content: object) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        texts = (part.get("text") for part in content if isinstance(part, dict))
        return " ".join(text for text in texts if isinstance(text, str))
    return ""


def _forced_tool(chat: _ChatRequest) -> dict[str, Any] | None:
    """The function that ``tool_choice`` demands, the first one for ``required``."""
    functions = [tool["function"] for tool in chat.tools if isinstance(tool.get("function"), dict)]
    match chat.tool_choice:
        case "required":
            return functions[0] if functions else None
        case {"function": {"name": name}}:
            return next((function for function in functions if function.get("name") == name), None)
    return None


def _tool_call(function: dict[str, Any], heard: str) -> dict[str, Any]:
    arguments = _example(function.get("parameters") or {"type": "object"}, heard)
    return {
        "id": f"call_{uuid4().hex[:24]}",
        "type": "function",
        "function": {"name": function.get("name", ""), "arguments": msgspec.json.encode(arguments).decode()},
    }


def _example(schema: object, heard: str, depth: int = 0) -> Any:
    """The plainest value that fits a JSON Schema; texts repeat what was heard."""
    if not isinstance(schema, dict) or depth > _MAX_SCHEMA_DEPTH:
        return None
    if schema.get("enum"):
        return schema["enum"][0]
    match schema.get("type", "object" if "properties" in schema else None):
        case "object":
            properties = schema.get("properties") or {}
            required = schema.get("required", list(properties))
            return {name: _example(properties.get(name), heard, depth + 1) for name in required}
        case "array":
            return [_example(schema.get("items"), heard, depth + 1)] if schema.get("minItems") else []
        case "integer" | "number":
            return schema.get("minimum", 0)
        case "boolean":
            return False
        case "string":
            return heard
    return None


def _usage(chat: _ChatRequest, completion_tokens: int) -> dict[str, int]:
    prompt_tokens = sum(len(_text_of(message.get("content")).split()) for message in chat.messages)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def _completion(chat: _ChatRequest, answer: _Answer) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": "".join(answer.words)}
    if answer.tool_call is not None:
        message = {"role": "assistant", "content": None, "tool_calls": [answer.tool_call]}
    return {
        **_envelope(chat, "chat.completion"),
        "choices": [{"index": 0, "message": message, "finish_reason": answer.finish_reason}],
        "usage": answer.usage,
    }


def _events(chat: _ChatRequest, answer: _Answer) -> Iterator[bytes]:
    envelope = _envelope(chat, "chat.completion.chunk")

    def event(delta: dict[str, Any], finish_reason: str | None = None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return render_event(msgspec.json.encode({**envelope, "choices": [choice]}))

    yield event({"role": "assistant", "content": ""})
    for word in answer.words:
        yield event({"content": word})
    if answer.tool_call is not None:
        yield event({"tool_calls": [{"index": 0, **answer.tool_call}]})
    closing = [event({}, answer.finish_reason)]
    if chat.stream_options is not None and chat.stream_options.include_usage:
        closing.append(render_event(msgspec.json.encode({**envelope, "choices": [], "usage": answer.usage})))
    yield b"".join(itertools.chain(closing, [DONE]))


def _envelope(chat: _ChatRequest, kind: str) -> dict[str, Any]:
    return {"id": f"chatcmpl-demo-{uuid4().hex[:16]}", "object": kind, "created": int(time.time()), "model": chat.model}
