"""Answers and errors as a chat caller reads them, whole and streamed."""

import time
import uuid
from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.errors import GatewayError
from gateway.wire.metadata import METADATA_FIELD, splice_metadata
from gateway.wire.sse import DONE, render_event
from gateway.wire.types import (
    Choice,
    Chunk,
    Completion,
    Refusal,
    Request,
    Text,
    Thinking,
    ToolCall,
    ToolCallDelta,
    Usage,
)

_encode = msgspec.json.Encoder().encode


def render_completion(
    completion: Completion, metadata: Mapping[str, Any] | None, request: Request | None = None
) -> bytes:
    """A ``chat.completion`` object. A vendor's own body is passed on with ``metadata`` spliced in at its end."""
    if completion.body is not None:
        return completion.body if metadata is None else splice_metadata(completion.body, metadata)
    answer: dict[str, Any] = {
        "id": _completion_id(completion.id),
        "object": "chat.completion",
        "created": completion.created or int(time.time()),
        "model": completion.model,
        "choices": [_choice(index, choice) for index, choice in enumerate(completion.choices)],
    }
    if completion.usage is not None:
        answer["usage"] = _usage(completion.usage)
    if metadata is not None:
        answer[METADATA_FIELD] = metadata
    return _encode(answer)


def render_error(error: GatewayError, request_id: str) -> bytes:
    """OpenAI's error body, with the error's details and the request id inside ``error``."""
    return _encode(
        {
            "error": error.details
            | {
                "message": error.message,
                "type": error.type,
                "param": error.param,
                "code": error.code,
                "request_id": request_id,
            }
        }
    )


def open_stream(request: Request) -> "ChatStreamRenderer":
    """The renderer of one streamed answer to ``request``."""
    return ChatStreamRenderer(request.model, request.include_usage)


class ChatStreamRenderer:
    """Writes ``chat.completion.chunk`` events.

    A chunk that carries the vendor's own bytes goes out as it is. A vendor's usage-only event is dropped
    unless the caller asked for usage; of a translated stream the usage known at the end is written then.
    """

    __slots__ = ("_created", "_id", "_include_usage", "_model", "_prefix", "_started", "_usage")

    def __init__(self, model: str, include_usage: bool) -> None:
        self._id = ""
        self._model = model
        self._created = int(time.time())
        self._include_usage = include_usage
        self._started: set[int] = set()  # choices whose role has been sent
        self._usage: Usage | None = None  # of the translated part
        self._prefix = b""

    def render_chunk(self, chunk: Chunk, metadata: Mapping[str, Any] | None = None) -> bytes:
        """Events for ``chunk``, empty if the caller sees nothing of it; ``metadata`` goes into its last event."""
        if chunk.wire is not None:
            return self._pass_through(chunk, chunk.wire, metadata)
        if not self._prefix:
            self._prefix = self._identify(chunk)
        if chunk.usage is not None:
            self._usage = chunk.usage
        events = b""
        if chunk.index not in self._started:
            self._started.add(chunk.index)
            events = self._event(chunk.index, {"role": "assistant", "content": ""})
        if delta := _delta(chunk):
            events += self._event(chunk.index, delta)
        if chunk.finish_reason is not None:
            events += self._event(chunk.index, {}, chunk.finish_reason, metadata)
        return events

    def render_end(self) -> bytes:
        """The end marker, after the usage event where that is asked for and not yet sent."""
        if self._include_usage and self._usage is not None:
            return render_event(self._prefix + b'"choices":[],"usage":' + _encode(_usage(self._usage)) + b"}") + DONE
        return DONE

    def render_error(self, error: GatewayError, request_id: str) -> bytes:
        """An error event; the stream ends without an end marker."""
        return render_event(render_error(error, request_id))

    def _pass_through(self, chunk: Chunk, wire: bytes, metadata: Mapping[str, Any] | None) -> bytes:
        if not self._started:  # a rescue that has to be translated goes on under the same name
            self._id, self._model = chunk.id or "", chunk.model or self._model
            self._started.add(chunk.index)
        if chunk.final:
            return wire if metadata is None else splice_metadata(wire, metadata)
        usage_only = chunk.usage is not None and not chunk.output_chars
        return b"" if usage_only and not self._include_usage else wire

    def _identify(self, chunk: Chunk) -> bytes:
        """The fields that are the same in every event, open for the rest."""
        common = {
            "id": self._id or _completion_id(chunk.id),
            "object": "chat.completion.chunk",
            "created": self._created,
            "model": chunk.model or self._model,
        }
        return _encode(common)[:-1] + b","

    def _event(
        self,
        index: int,
        delta: dict[str, Any],
        finish_reason: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": None, "finish_reason": finish_reason}
        event = self._prefix + b'"choices":[' + _encode(choice) + b"]}"
        return render_event(event if metadata is None else splice_metadata(event, metadata))


def _completion_id(vendor_id: str | None) -> str:
    if not vendor_id:
        return f"chatcmpl-{uuid.uuid4().hex}"
    return vendor_id if vendor_id.startswith("chatcmpl-") else f"chatcmpl-{vendor_id}"


def _choice(index: int, choice: Choice) -> dict[str, Any]:
    text = "".join(part.text for part in choice.parts if isinstance(part, Text))
    refusal = "".join(part.text for part in choice.parts if isinstance(part, Refusal))
    thinking = "".join(part.text for part in choice.parts if isinstance(part, Thinking))
    calls = [_tool_call(part) for part in choice.parts if isinstance(part, ToolCall)]
    message: dict[str, Any] = {"role": "assistant", "content": text or None, "refusal": refusal or None}
    if thinking:
        message["reasoning_content"] = thinking
    if calls:
        message["tool_calls"] = calls
    elif not refusal:
        message["content"] = text
    return {"index": index, "message": message, "logprobs": None, "finish_reason": choice.finish_reason}


def _tool_call(call: ToolCall) -> dict[str, Any]:
    return {
        "id": call.id,
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments or "{}"},
    }


def _delta(chunk: Chunk) -> dict[str, Any]:
    delta: dict[str, Any] = {}
    if chunk.text:
        delta["content"] = chunk.text
    if chunk.thinking:
        delta["reasoning_content"] = chunk.thinking
    if chunk.refusal:
        delta["refusal"] = chunk.refusal
    if chunk.tool_calls:
        delta["tool_calls"] = [_tool_call_delta(call) for call in chunk.tool_calls]
    return delta


def _tool_call_delta(call: ToolCallDelta) -> dict[str, Any]:
    function: dict[str, Any] = {"arguments": call.arguments}
    if call.name is None:
        return {"index": call.index, "function": function}
    return {"index": call.index, "id": call.id, "type": "function", "function": {"name": call.name} | function}


def _usage(usage: Usage) -> dict[str, Any]:
    """Inclusive totals, as OpenAI counts."""
    return {
        "prompt_tokens": usage.total_input,
        "completion_tokens": usage.total_output,
        "total_tokens": usage.total_input + usage.total_output,
        "prompt_tokens_details": {
            "cached_tokens": usage.cached_input,
            "cache_write_tokens": usage.cache_write_5m + usage.cache_write_1h,
            "audio_tokens": usage.audio_input,
        },
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning,
            "audio_tokens": usage.audio_output,
        },
    }
