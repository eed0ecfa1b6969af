"""Answers and errors as a Messages caller reads them, whole and streamed.

The dialect has no room for the gateway's metadata: it is told in headers.
"""

import uuid
from collections.abc import Mapping
from typing import Any

import msgspec

from gateway.errors import GatewayError
from gateway.wire.sse import render_event
from gateway.wire.types import (
    Chunk,
    Completion,
    FinishReason,
    Part,
    Refusal,
    Request,
    Text,
    Thinking,
    ToolCall,
    ToolCallDelta,
    Usage,
)

_encode = msgspec.json.Encoder().encode
_NOTHING_COUNTED = Usage()

_STOP_REASONS: dict[FinishReason, str] = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
}
_ERROR_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    402: "billing_error",
    403: "permission_error",
    404: "not_found_error",
    409: "invalid_request_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    504: "timeout_error",
}


def render_completion(
    completion: Completion, metadata: Mapping[str, Any] | None, request: Request | None = None
) -> bytes:
    """A ``message`` object; a vendor's own body is passed on as it came."""
    if completion.body is not None:
        return completion.body
    (choice,) = completion.choices
    content = [block for part in choice.parts if (block := _block(part)) is not None]
    called = any(isinstance(part, ToolCall) for part in choice.parts)
    refused = any(isinstance(part, Refusal) for part in choice.parts)
    return _encode(
        _message(completion.id, completion.model, completion.usage)
        | {
            "content": content,
            "stop_reason": _stop_reason(choice.finish_reason, choice.stop_sequence, called=called, refused=refused),
            "stop_sequence": choice.stop_sequence,
        }
    )


def render_error(error: GatewayError, request_id: str) -> bytes:
    """Anthropic's error body; what else is known of the error stands beside its message."""
    told = error.details | {"type": _ERROR_TYPES.get(error.status, "api_error"), "message": error.message}
    return _encode({"type": "error", "error": told, "request_id": request_id})


def open_stream(request: Request) -> "MessageStreamRenderer":
    """The renderer of one streamed answer to ``request``."""
    return MessageStreamRenderer(request.model)


class MessageStreamRenderer:
    """Writes the named events of one message.

    Content blocks come one after the other, as the dialect's readers expect. Vendors may write several tool calls
    at once: while one is being written, the pieces of the others (and any text between them) wait for the end.
    """

    __slots__ = (
        "_calls",
        "_finish",
        "_id",
        "_index",
        "_model",
        "_open",
        "_passed",
        "_refused",
        "_started",
        "_usage",
        "_waiting",
    )

    def __init__(self, model: str) -> None:
        self._id = ""
        self._model = model
        self._started = False
        self._passed = False  # the vendor has ended its message itself
        self._index = -1  # of the block that is open, or was last
        self._open: str | int | None = None  # its kind, or the number of its tool call
        self._calls = False
        self._refused = False
        self._waiting: dict[int | str, list[ToolCallDelta | str]] = {}
        self._finish: tuple[FinishReason, str | None] = ("stop", None)
        self._usage: Usage | None = None

    def render_chunk(self, chunk: Chunk, metadata: Mapping[str, Any] | None = None) -> bytes:
        """Events for ``chunk``, empty if the caller sees nothing of it yet."""
        if chunk.wire is not None:
            return self._pass_through(chunk, chunk.wire)
        if chunk.usage is not None:
            self._usage = chunk.usage
        events: list[bytes] = []
        if not self._started:
            self._started = True
            message = _message(chunk.id or "", chunk.model or self._model, chunk.usage) | {
                "content": [],
                "stop_reason": None,
                "stop_sequence": None,
            }
            events.append(_event("message_start", {"message": message}))
        self._write(chunk, events)
        if chunk.finish_reason is not None:
            self._finish = (chunk.finish_reason, chunk.stop_sequence)
            self._write_waiting(events)
            self._close(events)
        return b"".join(events)

    def render_end(self) -> bytes:
        """The message's end: its usage is known only now."""
        if self._passed:
            return _MESSAGE_STOP
        reason, sequence = self._finish
        stop_reason = _stop_reason(reason, sequence, called=self._calls, refused=self._refused)
        delta = {"stop_reason": stop_reason, "stop_sequence": sequence}
        usage = _usage(self._usage or _NOTHING_COUNTED)
        return _event("message_delta", {"delta": delta, "usage": usage}) + _MESSAGE_STOP

    def render_error(self, error: GatewayError, request_id: str) -> bytes:
        """An error event; the stream ends without a message_stop."""
        return render_event(render_error(error, request_id), "error")

    def _pass_through(self, chunk: Chunk, wire: bytes) -> bytes:
        """Remembers where the vendor's own events leave off: another target may have to go on from there."""
        self._started = True
        if chunk.final:
            self._passed = True
        if chunk.usage is not None:
            self._usage = chunk.usage
        if chunk.block is not None:
            self._index = chunk.block.index
            self._open = chunk.block.kind or None
        return wire

    # ------------------------------------------------------------------ blocks

    def _write(self, chunk: Chunk, events: list[bytes]) -> None:
        if chunk.thinking or chunk.signature:
            self._open_block("thinking", {"type": "thinking", "thinking": "", "signature": ""}, events)
            if chunk.thinking:
                self._delta({"type": "thinking_delta", "thinking": chunk.thinking}, events)
            if chunk.signature:
                self._delta({"type": "signature_delta", "signature": chunk.signature}, events)
        if chunk.redacted_thinking is not None:
            self._open_block("redacted", {"type": "redacted_thinking", "data": chunk.redacted_thinking}, events)
            self._close(events)
        if chunk.refusal:
            self._refused = True
        if text := chunk.text + chunk.refusal:
            if isinstance(self._open, int):  # a tool call is being written, and may not be complete
                self._waiting.setdefault("text", []).append(text)
            else:
                self._write_text(text, events)
        for piece in chunk.tool_calls:
            if isinstance(self._open, int) and self._open != piece.index:
                self._waiting.setdefault(piece.index, []).append(piece)
            else:
                self._write_call(piece, events)

    def _write_text(self, text: str, events: list[bytes]) -> None:
        self._open_block("text", {"type": "text", "text": ""}, events)
        self._delta({"type": "text_delta", "text": text}, events)

    def _write_call(self, piece: ToolCallDelta, events: list[bytes]) -> None:
        self._calls = True
        block = {"type": "tool_use", "id": piece.id or "", "name": piece.name or "", "input": {}}
        self._open_block(piece.index, block, events)
        if piece.arguments:
            self._delta({"type": "input_json_delta", "partial_json": piece.arguments}, events)

    def _write_waiting(self, events: list[bytes]) -> None:
        """What had to wait for a block to be complete, in the order in which it began."""
        for pieces in self._waiting.values():
            self._close(events)
            for piece in pieces:
                if isinstance(piece, str):
                    self._write_text(piece, events)
                else:
                    self._write_call(piece, events)
        self._waiting.clear()

    def _open_block(self, kind: str | int, block: dict[str, Any], events: list[bytes]) -> None:
        if self._open == kind:
            return
        self._close(events)
        self._index += 1
        self._open = kind
        events.append(_event("content_block_start", {"index": self._index, "content_block": block}))

    def _delta(self, delta: dict[str, Any], events: list[bytes]) -> None:
        events.append(_event("content_block_delta", {"index": self._index, "delta": delta}))

    def _close(self, events: list[bytes]) -> None:
        if self._open is not None:
            events.append(_event("content_block_stop", {"index": self._index}))
            self._open = None


def _event(name: str, fields: dict[str, Any]) -> bytes:
    return render_event(_encode({"type": name} | fields), name)


_MESSAGE_STOP = _event("message_stop", {})


def _message(vendor_id: str, model: str, usage: Usage | None) -> dict[str, Any]:
    return {
        "id": vendor_id if vendor_id.startswith("msg_") else f"msg_{vendor_id or uuid.uuid4().hex}",
        "type": "message",
        "role": "assistant",
        "model": model,
        "usage": _usage(usage or _NOTHING_COUNTED),
    }


def _block(part: Part) -> dict[str, Any] | None:
    match part:
        case Text(text) | Refusal(text):
            return {"type": "text", "text": text} if text else None
        case Thinking(redacted=str(data)):
            return {"type": "redacted_thinking", "data": data}
        case Thinking(text, signature):
            return {"type": "thinking", "thinking": text, "signature": signature or ""}
        case ToolCall(call_id, name, arguments):
            return {"type": "tool_use", "id": call_id, "name": name, "input": _input(arguments)}
    return None


def _input(arguments: str) -> msgspec.Raw:
    """The call's arguments as the object they must be; what is none is still handed on, as text under one key."""
    text = arguments.strip() or "{}"
    try:
        msgspec.json.decode(text, type=dict[str, msgspec.Raw])
    except (msgspec.DecodeError, RecursionError):
        return msgspec.Raw(_encode({"arguments": arguments}))
    return msgspec.Raw(text.encode())


def _stop_reason(reason: FinishReason, stop_sequence: str | None, *, called: bool, refused: bool) -> str:
    if reason == "stop":
        if called:  # some vendors call a turn of tool calls a plain stop
            return "tool_use"
        if refused:  # OpenAI's are a plain stop
            return "refusal"
        return "stop_sequence" if stop_sequence is not None else "end_turn"
    return _STOP_REASONS[reason]


def _usage(usage: Usage) -> dict[str, Any]:
    """As Anthropic counts: cache reads and writes beside the input, thinking inside the output."""
    written = usage.cache_write_5m + usage.cache_write_1h
    counts: dict[str, Any] = {
        "input_tokens": usage.input + usage.audio_input,
        "cache_creation_input_tokens": written,
        "cache_read_input_tokens": usage.cached_input,
        "cache_creation": {
            "ephemeral_5m_input_tokens": usage.cache_write_5m,
            "ephemeral_1h_input_tokens": usage.cache_write_1h,
        },
        "output_tokens": usage.total_output,
    }
    if usage.reasoning:
        counts["output_tokens_details"] = {"thinking_tokens": usage.reasoning}
    return counts
