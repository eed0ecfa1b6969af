"""What a vendor of the Responses API answers: whole responses, streams of numbered events."""

from typing import Any

import msgspec

from gateway.errors import ProviderError
from gateway.wire.openai_chat.usage import parse_usage as parse_chat_usage
from gateway.wire.openai_chat.vendor_errors import answered_error
from gateway.wire.openai_responses.shapes import Answer, OutputItem, StreamEvent
from gateway.wire.passed_events import EventReader
from gateway.wire.sse import MAX_EVENT_BYTES, Framer
from gateway.wire.translation import generated_texts
from gateway.wire.types import (
    Choice,
    Chunk,
    Completion,
    FinishReason,
    OpenBlock,
    ParseError,
    Part,
    Refusal,
    Text,
    Thinking,
    ToolCall,
    ToolCallDelta,
    Usage,
)

_ANSWER = msgspec.json.Decoder(Answer)
_MALFORMED = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_TEXT_DELTA = "response.output_text.delta"


def parse_completion(body: bytes, passthrough: bool) -> Completion:
    """A whole answer; with ``passthrough`` its body is kept. Raises ParseError, or ProviderError for a failed one."""
    try:
        answer = _ANSWER.decode(body)
    except _MALFORMED:
        raise ParseError("The answer is not a response.") from None
    if answer.error or answer.status == "failed":
        raise answered_error(answer.error or {}, "status")
    if answer.output is None:
        raise ParseError("The answer is a response without output.")
    parts = tuple(part for item in answer.output for part in _parts(item))
    finish = finish_reason(answer, any(isinstance(part, ToolCall) for part in parts))
    return Completion(
        id=answer.id,
        model=answer.model,
        usage=parse_usage(answer.usage, answer.service_tier),
        choices=() if passthrough else (Choice(parts, finish),),
        created=answer.created_at if type(answer.created_at) is int else 0,
        body=body if passthrough else None,
        finish_reason=finish,
        generated=generated_texts(parts),
    )


def _parts(item: OutputItem) -> list[Part]:
    """Nothing for the calls of tools that run at the vendor."""
    match item.type:
        case "message":
            return [
                Refusal(part.refusal) if part.refusal else Text(part.text or "")
                for part in item.content or ()
                if part.refusal or part.text
            ]
        case "reasoning":
            thought = "\n\n".join(part.text for part in item.summary or item.content or () if part.text)
            return [Thinking(thought)] if thought else []
        case "function_call":
            return [ToolCall(item.call_id or item.id or "", item.name or "", item.arguments or "{}")]
    return []


def finish_reason(answer: Answer, called_tools: bool) -> FinishReason:
    if answer.status == "incomplete":
        details = answer.incomplete_details
        return "content_filter" if details is not None and details.reason == "content_filter" else "length"
    return "tool_calls" if called_tools else "stop"


def parse_usage(usage: Any, served_as: Any) -> Usage | None:
    """The same inclusive counts as the chat format's, under other names."""
    if not isinstance(usage, dict):
        return None
    return parse_chat_usage(
        {
            "prompt_tokens": usage.get("input_tokens"),
            "completion_tokens": usage.get("output_tokens"),
            "total_tokens": usage.get("total_tokens"),
            "prompt_tokens_details": usage.get("input_tokens_details"),
            "completion_tokens_details": usage.get("output_tokens_details"),
        },
        served_as,
    )


# --------------------------------------------------------------------------- streams


def open_parser(passthrough: bool) -> "ResponseStreamParser":
    """The parser of one stream; with ``passthrough`` its chunks carry the vendor's own bytes."""
    return ResponseStreamParser(passthrough)


class ResponseStreamParser:
    """Reads one stream of events, however its bytes are split.

    Passed through, consecutive events are one chunk; the one with the finished response is one of its own. A
    malformed event is left out and counted; a failure raises ProviderError, after the chunks before it.
    """

    __slots__ = ("_calls", "_events", "_failure", "_framer", "_passthrough", "_pieces", "complete")

    def __init__(self, passthrough: bool, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self.complete = False
        self._events = EventReader(StreamEvent)
        self._passthrough = passthrough
        self._framer = Framer(max_event_bytes)
        self._calls: dict[int, int] = {}  # output index to number of the call
        self._pieces: set[int] = set()  # numbers of the calls whose arguments have begun
        self._failure: ProviderError | None = None

    @property
    def skipped(self) -> int:
        return self._events.skipped

    def parse_chunk(self, data: bytes) -> list[Chunk]:
        """Chunks completed by ``data``. Raises ProviderError for a failure, ParseError for a giant event."""
        return self._read(self._framer.feed(data))

    def parse_end(self) -> list[Chunk]:
        """What the vendor's closing of the connection completes. Raises as :meth:`parse_chunk`."""
        return self._read(self._framer.finish())

    def _read(self, block: bytes) -> list[Chunk]:
        if self._failure is not None:
            raise self._failure
        if not block:
            return []
        raws, events = self._events.read(block)
        if self._passthrough and (texts := _nothing_but_text(events)) is not None:
            last = events[-1]
            return [_text_chunk(texts, block, OpenBlock(last.output_index, last.item_id or "") if last else None)]
        chunks: list[Chunk] = []
        for event, raw in zip(events, raws, strict=True):
            if event is None:
                continue
            chunk = self._interpret(event)
            if self._failure is not None:
                break
            if self._passthrough:
                chunk = chunk or Chunk()
                chunk.wire = raw
                if event.type == _TEXT_DELTA:
                    chunk.block = OpenBlock(event.output_index, event.item_id or "")
                _append(chunks, chunk)
            elif chunk is not None:
                chunks.append(chunk)
        if self._failure is not None and not chunks:
            raise self._failure
        return chunks

    def _interpret(self, event: StreamEvent) -> Chunk | None:
        """What one event says, if anything; a failure is kept for raising."""
        match event.type:
            case "response.output_text.delta":
                return _said(text=event.delta or "")
            case "response.reasoning_summary_text.delta" | "response.reasoning_text.delta":
                return _said(thinking=event.delta or "")
            case "response.refusal.delta":
                return _said(refusal=event.delta or "")
            case "response.output_item.added" if event.item is not None and event.item.type == "function_call":
                return self._begin_call(event.output_index, event.item)
            case "response.function_call_arguments.delta":
                return self._arguments(event.output_index, event.delta or "")
            case "response.function_call_arguments.done":
                number = self._calls.get(event.output_index)
                if number is not None and number not in self._pieces:  # came in one piece
                    return self._arguments(event.output_index, event.arguments or "{}")
            case "response.created" if event.response is not None:
                return Chunk(id=event.response.id, model=event.response.model)
            case "response.completed" | "response.incomplete" if event.response is not None:
                self.complete = True
                return Chunk(
                    finish_reason=finish_reason(event.response, bool(self._calls)),
                    usage=parse_usage(event.response.usage, event.response.service_tier),
                )
            case "response.failed" if event.response is not None:
                self._failure = answered_error(event.response.error or {}, "stream")
            case "error":
                self._failure = answered_error(event.error or {"code": event.code, "message": event.message}, "stream")
        return None

    def _begin_call(self, output_index: int, item: OutputItem) -> Chunk:
        number = self._calls[output_index] = len(self._calls)
        chunk = _said(arguments=item.arguments or "")
        if item.arguments:
            self._pieces.add(number)
        chunk.tool_calls = (ToolCallDelta(number, item.call_id or item.id, item.name or "", item.arguments or ""),)
        return chunk

    def _arguments(self, output_index: int, piece: str) -> Chunk | None:
        number = self._calls.get(output_index)
        if number is None:
            return None
        self._pieces.add(number)
        chunk = _said(arguments=piece)
        chunk.tool_calls = (ToolCallDelta(number, arguments=piece),)
        return chunk


def _said(text: str = "", thinking: str = "", refusal: str = "", arguments: str = "") -> Chunk:
    chars = len(text) + len(thinking) + len(refusal) + len(arguments)
    return Chunk(text=text, thinking=thinking, refusal=refusal, output_chars=chars)


def _nothing_but_text(events: list[StreamEvent | None]) -> list[str] | None:
    """The texts of ``events`` that are pieces of a text and say no more; None if any says anything else."""
    texts: list[str] = []
    for event in events:
        if event is None or event.type != _TEXT_DELTA or event.delta is None:
            return None
        texts.append(event.delta)
    return texts


def _text_chunk(texts: list[str], wire: bytes, block: OpenBlock | None) -> Chunk:
    text = "".join(texts)
    pieces = len(texts) if len(texts) > 1 else 0
    return Chunk(text=text, wire=wire, output_chars=len(text), output_pieces=pieces, block=block)


def _append(chunks: list[Chunk], chunk: Chunk) -> None:
    """One more passed-through event: joined to the one before it unless one of them ends the answer."""
    if chunks and not chunks[-1].final and not chunk.final:
        chunks[-1].join(chunk)
    else:
        chunks.append(chunk)
