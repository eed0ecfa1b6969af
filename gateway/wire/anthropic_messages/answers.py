"""Answers of the Messages API: whole messages, streams of named events, refusals."""

import re
from collections.abc import Mapping
from typing import Any

import msgspec
from msgspec import Raw, Struct, field

from gateway.errors import GatewayError, ProviderError
from gateway.wire.refusals import classify_refusal, provider_code
from gateway.wire.sse import Event, EventSplitter
from gateway.wire.translation import ChunkReader, arguments_text, believable, generated_texts, token_count
from gateway.wire.types import (
    Choice,
    Chunk,
    Completion,
    FinishReason,
    ParseError,
    Part,
    ServiceTier,
    Text,
    Thinking,
    ToolCall,
    ToolCallDelta,
    Usage,
    service_tier,
)

_FINISH: dict[str | None, FinishReason] = {
    "max_tokens": "length",
    "model_context_window_exceeded": "length",
    "tool_use": "tool_calls",
    "refusal": "content_filter",
}
_STATUS_OF = {
    "invalid_request_error": 400,
    "authentication_error": 401,
    "billing_error": 402,
    "permission_error": 403,
    "not_found_error": 404,
    "request_too_large": 413,
    "rate_limit_error": 429,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
}
_OUR_ACCOUNT = re.compile(r"credit balance|billing|organization has been disabled|usage limits?\b", re.IGNORECASE)


class _CacheCreation(Struct):
    ephemeral_5m_input_tokens: Any = None
    ephemeral_1h_input_tokens: Any = None


class _OutputDetails(Struct):
    thinking_tokens: Any = None


class _Usage(Struct):
    input_tokens: Any = None
    output_tokens: Any = None
    cache_read_input_tokens: Any = None
    cache_creation_input_tokens: Any = None
    cache_creation: _CacheCreation | None = None
    output_tokens_details: _OutputDetails | None = None
    service_tier: Any = None
    speed: Any = None

    def updated(self, later: "_Usage") -> "_Usage":
        """Counts are cumulative: a later report replaces what it names and leaves the rest."""
        named = {name: value for name in self.__struct_fields__ if (value := getattr(later, name)) is not None}
        return msgspec.structs.replace(self, **named)


class _Block(Struct):
    type: str = ""
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: Raw = field(default_factory=lambda: Raw(b""))


class _Error(Struct):
    type: str | None = None
    message: str | None = None


class _Message(Struct):
    type: str = ""
    id: str = ""
    model: str = ""
    content: list[_Block] | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None
    usage: _Usage | None = None
    error: _Error | None = None


class _Delta(Struct):
    type: str = ""
    text: str | None = None
    thinking: str | None = None
    signature: str | None = None
    partial_json: str | None = None
    stop_reason: str | None = None
    stop_sequence: str | None = None


class StreamEvent(Struct):
    type: str = ""
    index: int = 0
    message: _Message | None = None
    content_block: _Block | None = None
    delta: _Delta | None = None
    usage: _Usage | None = None
    error: _Error | None = None


_message_decoder = msgspec.json.Decoder(_Message)
_event_decoder = msgspec.json.Decoder(StreamEvent)


def parse_completion(body: bytes, passthrough: bool) -> Completion:
    """A whole answer; with ``passthrough`` its body is kept.

    Raises ParseError, or ProviderError for an error in a 200.
    """
    try:
        message = _message_decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ParseError("The answer is not an Anthropic message.") from None
    if message.error is not None:
        raise _failure(message.error, kind="status")
    if message.content is None:
        raise ParseError("The answer is an Anthropic message without content.")
    finish_reason = _FINISH.get(message.stop_reason, "stop")
    parts = tuple(part for block in message.content if (part := _part(block)) is not None)
    return Completion(
        id=message.id,
        model=message.model,
        usage=_usage(message.usage),
        choices=() if passthrough else (Choice(parts, finish_reason, message.stop_sequence),),
        body=body if passthrough else None,
        finish_reason=finish_reason,
        generated=generated_texts(parts),
    )


def _part(block: _Block) -> Part | None:
    """None for the blocks of tools that run at the vendor, which are never asked for."""
    match block.type:
        case "text":
            return Text(block.text) if block.text else None
        case "thinking":
            return Thinking(block.thinking or "", block.signature or None)
        case "redacted_thinking":
            return Thinking(redacted=block.data or "")
        case "tool_use":
            return ToolCall(block.id or "", block.name or "", arguments_text(block.input))
    return None


def _usage(reported: _Usage | None) -> Usage | None:
    """Disjoint classes; None unless the vendor counted the input or the output."""
    if reported is None:
        return None
    input_, output = token_count(reported.input_tokens), token_count(reported.output_tokens)
    if input_ is None and output is None:
        return None
    split = reported.cache_creation or _CacheCreation()
    written_1h = token_count(split.ephemeral_1h_input_tokens) or 0
    written = token_count(reported.cache_creation_input_tokens)
    if written is None:
        written = written_1h + (token_count(split.ephemeral_5m_input_tokens) or 0)
    written_1h = min(written_1h, written)
    details = reported.output_tokens_details
    reasoning = min(token_count(details.thinking_tokens) or 0 if details else 0, output or 0)
    usage = Usage(
        input=input_ or 0,
        cached_input=token_count(reported.cache_read_input_tokens) or 0,
        cache_write_5m=written - written_1h,
        cache_write_1h=written_1h,
        output=(output or 0) - reasoning,
        reasoning=reasoning,
        service_tier=_served_as(reported),
    )
    return believable(usage)


def _served_as(reported: _Usage) -> ServiceTier:
    """What is called priority here is capacity paid for in advance, at the standard price; what costs more is speed."""
    if reported.speed == "fast":
        return "priority"
    tier = service_tier(reported.service_tier)
    return "" if tier == "priority" else tier


# --------------------------------------------------------------------------- streams


class MessageStream(ChunkReader[Event]):
    """Reads one streamed message.

    The first chunk carries the input counts, so that a stream that is cut can be accounted for; its output
    count is only what had been generated by then. The counts of the final chunk hold.
    """

    def __init__(self) -> None:
        super().__init__(EventSplitter())
        self._reported = _Usage()
        self._calls = 0
        # The tool call being written: its number, the input its block began with, whether pieces have come.
        self._open_call: int | None = None
        self._first_input = Raw(b"")
        self._pieces = False

    def _read(self, frame: Event) -> list[Chunk]:
        chunk = self.interpret(_event_decoder.decode(frame.data))
        return [] if chunk is None else [chunk]

    def interpret(self, event: StreamEvent) -> Chunk | None:
        """What one event says, if anything. Raises ProviderError for an error event."""
        match event.type:
            case "content_block_delta":
                chunk = self._delta(event.delta) if event.delta else None
            case "content_block_start":
                chunk = self._start_block(event.content_block) if event.content_block else None
            case "content_block_stop":
                chunk = self._stop_block()
            case "message_start":
                chunk = self._start(event.message) if event.message else None
            case "message_delta":
                chunk = self._end(event)
            case "message_stop":
                self.complete, chunk = True, None
            case "error":
                raise _failure(event.error or _Error(), kind="stream")
            case _:  # ping, and whatever the API adds
                chunk = None
        return chunk

    def _start(self, message: _Message) -> Chunk:
        if message.usage is not None:
            self._reported = self._reported.updated(message.usage)
        return Chunk(id=message.id, model=message.model, usage=_usage(self._reported))

    def _start_block(self, block: _Block) -> Chunk | None:
        match block.type:
            case "tool_use":
                self._open_call, self._first_input, self._pieces = self._calls, block.input, False
                self._calls += 1
                return Chunk(tool_calls=(ToolCallDelta(self._open_call, block.id or "", block.name or ""),))
            case "redacted_thinking":
                return Chunk(redacted_thinking=block.data or "")
            case "text" if block.text:
                return Chunk(text=block.text, output_chars=len(block.text))
            case "thinking" if block.thinking or block.signature:
                thinking = block.thinking or ""
                return Chunk(thinking=thinking, signature=block.signature or None, output_chars=len(thinking))
        return None

    def _delta(self, delta: _Delta) -> Chunk | None:
        if delta.text:
            return Chunk(text=delta.text, output_chars=len(delta.text))
        if delta.partial_json and self._open_call is not None:
            self._pieces = True
            return self._arguments(delta.partial_json)
        if delta.thinking:
            return Chunk(thinking=delta.thinking, output_chars=len(delta.thinking))
        if delta.signature:
            return Chunk(signature=delta.signature)
        return None

    def _stop_block(self) -> Chunk | None:
        """A call whose input never came in pieces gets what its block began with ("{}" for no arguments)."""
        unwritten = self._open_call is not None and not self._pieces
        chunk = self._arguments(arguments_text(self._first_input)) if unwritten else None
        self._open_call = None
        return chunk

    def _arguments(self, piece: str) -> Chunk:
        return Chunk(tool_calls=(ToolCallDelta(self._open_call or 0, arguments=piece),), output_chars=len(piece))

    def _end(self, event: StreamEvent) -> Chunk | None:
        if event.usage is not None:
            self._reported = self._reported.updated(event.usage)
        delta = event.delta or _Delta()
        if delta.stop_reason is None:
            return Chunk(usage=_usage(self._reported))
        self.complete = True
        return Chunk(
            finish_reason=_FINISH.get(delta.stop_reason, "stop"),
            stop_sequence=delta.stop_sequence,
            usage=_usage(self._reported),
        )


# --------------------------------------------------------------------------- errors


class _ErrorBody(Struct):
    error: _Error | None = None


_error_decoder = msgspec.json.Decoder(_ErrorBody)


def parse_error(status: int, headers: Mapping[str, str], body: bytes) -> ProviderError | GatewayError:
    """A refusal by ``status``, except that a 400 about our account's money is not the caller's mistake."""
    try:
        error = _error_decoder.decode(body).error or _Error()
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        error = _Error()
    message = error.message or ""
    if status == 400 and (error.type == "billing_error" or _OUR_ACCOUNT.search(message)):
        status = 402
    return classify_refusal(status, headers, message, error.type)


def _failure(error: _Error, kind: str) -> ProviderError:
    """An error reported after a 200: the attempt failed, whoever is at fault."""
    status = _STATUS_OF.get(error.type or "", 500)
    return ProviderError(
        "The provider reported an error instead of finishing its answer.",
        kind=kind,
        vendor_status=status,
        vendor_code=provider_code(error.type),
        retryable=status not in {400, 413},
    )
