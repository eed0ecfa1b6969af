"""Puts the chunks of a stream together, so that a streamed answer can be compared with a whole one."""

from collections.abc import Iterable
from typing import Any

import msgspec
from hypothesis import strategies as st

from gateway.wire.types import (
    Chunk,
    Conversation,
    Extensions,
    FinishReason,
    Message,
    Needs,
    Part,
    Request,
    Text,
    Thinking,
    ToolCall,
    Usage,
    VendorProfile,
    VendorRequest,
)
from gateway.wire.verbs import StreamParser, VendorFormat


def rendered(
    vendor: VendorFormat,
    conversation: Conversation,
    model: str = "lab-model",
    stream: bool = False,
    profile: VendorProfile | None = None,
) -> tuple[VendorRequest, dict[str, Any]]:
    """What ``vendor`` makes of a conversation: the request and its decoded body."""
    request = Request("openai_chat", {}, "any", stream, False, None, 1, None, Needs(), 0, Extensions())
    made = vendor.render_request(request, lambda _: conversation, model, profile or VendorProfile())
    return made, msgspec.json.decode(made.body)


def ask(*messages: Message, **fields: Any) -> Conversation:
    return Conversation(messages or (user("Hello"),), **fields)


def user(*parts: str | Part) -> Message:
    return Message("user", as_parts(parts))


def system(*parts: str | Part) -> Message:
    return Message("system", as_parts(parts))


def assistant(*parts: str | Part) -> Message:
    return Message("assistant", as_parts(parts))


def tool(*parts: str | Part) -> Message:
    return Message("tool", as_parts(parts))


def as_parts(parts: Iterable[str | Part]) -> tuple[Part, ...]:
    return tuple(Text(part) if isinstance(part, str) else part for part in parts)


def read(parser: StreamParser, pieces: Iterable[bytes]) -> list[Chunk]:
    chunks = [chunk for piece in pieces for chunk in parser.parse_chunk(piece)]
    return chunks + parser.parse_end()


def pieces_of(data: bytes) -> st.SearchStrategy[list[bytes]]:
    """Every way to cut ``data``."""
    positions = st.lists(st.integers(0, len(data)), max_size=12).map(sorted)
    return positions.map(lambda at: [data[i:j] for i, j in zip([0, *at], [*at, len(data)], strict=True)])


def assembled(chunks: Iterable[Chunk], index: int = 0) -> tuple[Part, ...]:
    """The parts of one choice, in the order in which they began; pieces of thinking, text and arguments joined."""
    parts: list[Part] = []
    calls: dict[int, int] = {}
    for chunk in chunks:
        if chunk.index != index:
            continue
        if chunk.redacted_thinking is not None:
            parts.append(Thinking(redacted=chunk.redacted_thinking))
        if chunk.thinking or chunk.signature:
            _add_thinking(parts, chunk)
        if chunk.text:
            last = parts[-1] if parts else None
            parts[-1:] = [Text(last.text + chunk.text)] if isinstance(last, Text) else [*parts[-1:], Text(chunk.text)]
        for delta in chunk.tool_calls:
            if delta.index not in calls:
                calls[delta.index] = len(parts)
                parts.append(ToolCall(delta.id or "", delta.name or "", ""))
            call = parts[calls[delta.index]]
            assert isinstance(call, ToolCall)
            parts[calls[delta.index]] = ToolCall(call.id, call.name, call.arguments + delta.arguments)
    return tuple(parts)


def _add_thinking(parts: list[Part], chunk: Chunk) -> None:
    last = parts[-1] if parts else None
    if isinstance(last, Thinking) and last.signature is None and last.redacted is None:
        parts[-1] = Thinking(last.text + chunk.thinking, chunk.signature)
    else:
        parts.append(Thinking(chunk.thinking, chunk.signature))


def finish_reason(chunks: Iterable[Chunk], index: int = 0) -> FinishReason | None:
    return next((chunk.finish_reason for chunk in chunks if chunk.index == index and chunk.final), None)


def last_usage(chunks: Iterable[Chunk]) -> Usage | None:
    return next((chunk.usage for chunk in reversed(list(chunks)) if chunk.usage is not None), None)
