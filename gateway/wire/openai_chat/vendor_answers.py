"""A chat vendor's whole answer, and what whole and streamed answers have in common."""

from collections.abc import Iterable
from typing import Any

import msgspec

from gateway.wire.openai_chat.shapes import AnswerContent, AnswerOutline, Delta, FunctionDelta
from gateway.wire.openai_chat.usage import parse_usage
from gateway.wire.openai_chat.vendor_errors import answered_error
from gateway.wire.translation import generated_texts
from gateway.wire.types import (
    Choice,
    Completion,
    FinishReason,
    ParseError,
    Part,
    Refusal,
    Text,
    Thinking,
    ToolCall,
)

_OUTLINE = msgspec.json.Decoder(AnswerOutline)
_CONTENT = msgspec.json.Decoder(AnswerContent)

_FINISH_REASONS: dict[str, FinishReason] = {
    "stop": "stop",
    "length": "length",
    "max_tokens": "length",
    "model_length": "length",
    "tool_calls": "tool_calls",
    "function_call": "tool_calls",
    "content_filter": "content_filter",
    "safety": "content_filter",
}
# Finish reasons by which a vendor says that the answer is broken off, not finished.
BROKEN_OFF = frozenset({"error", "insufficient_system_resource", "abort"})


def parse_completion(body: bytes, passthrough: bool) -> Completion:
    """A whole answer; with ``passthrough`` only what accounting needs is read and the body kept.

    Raises ParseError for what is not a chat completion, ProviderError for an error in its place.
    """
    try:
        outline = _OUTLINE.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise ParseError(f"The provider's answer is not a chat completion: {exc}") from None
    if outline.error:
        raise answered_error(outline.error, "status")
    if not outline.choices:
        raise ParseError("The provider's answer holds no choices.")
    finish_reasons = [choice.finish_reason for choice in outline.choices]
    if not BROKEN_OFF.isdisjoint(reason for reason in finish_reasons if isinstance(reason, str)):
        raise answered_error({"code": "incomplete_answer"}, "status")
    usage = parse_usage(outline.usage, outline.service_tier)
    completion = Completion(
        id=text_of(outline.id),
        model=text_of(outline.model),
        usage=usage,
        body=body if passthrough else None,
        finish_reason=finish_reason(finish_reasons[0]) or "stop",
    )
    if usage is None or not passthrough:
        _read_content(completion, body)
    return completion


def _read_content(completion: Completion, body: bytes) -> None:
    try:
        content = _CONTENT.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise ParseError(f"The provider's answer is not a chat completion: {exc}") from None
    choices = tuple(
        Choice(_parts(choice.message or Delta()), finish_reason(choice.finish_reason) or "stop")
        for choice in content.choices
    )
    completion.generated = generated_texts(part for choice in choices for part in choice.parts)
    if completion.body is None:
        completion.choices = choices
        completion.created = content.created if type(content.created) is int else 0


def _parts(message: Delta) -> tuple[Part, ...]:
    text, thinking = split_content(message.content)
    thinking = message.reasoning_content or message.reasoning or thinking
    parts: list[Part] = []
    if thinking:
        parts.append(Thinking(thinking))
    if text:
        parts.append(Text(text))
    if message.refusal:
        parts.append(Refusal(message.refusal))
    for index, call in enumerate(message.tool_calls or ()):
        function = call.function or FunctionDelta()
        parts.append(ToolCall(call.id or f"call_{index}", function.name or "", arguments_text(function.arguments)))
    if (legacy := message.function_call) is not None:
        parts.append(ToolCall("call_0", legacy.name or "", arguments_text(legacy.arguments)))
    return tuple(parts)


def split_content(content: Any) -> tuple[str, str]:
    """Text and reasoning of a ``content`` that is a string, null, or (Mistral) a list of typed parts."""
    if isinstance(content, str):
        return content, ""
    if not isinstance(content, list):
        return "", ""
    parts = [part for part in content if isinstance(part, dict)]
    thoughts = (part.get("thinking") for part in parts if part.get("type") == "thinking")
    thinking = "".join(thought if isinstance(thought, str) else split_content(thought)[0] for thought in thoughts)
    return _join(part.get("text") for part in parts), thinking


def _join(texts: Iterable[object]) -> str:
    return "".join(text for text in texts if isinstance(text, str))


def arguments_text(arguments: Any) -> str:
    """Tool arguments as JSON text; some vendors send the object itself."""
    if isinstance(arguments, str):
        return arguments
    return "" if arguments is None else msgspec.json.encode(arguments).decode()


def finish_reason(reason: object) -> FinishReason | None:
    """The canonical reason; None while there is none. A reason nobody knows counts as ``stop``."""
    return _FINISH_REASONS.get(reason, "stop") if isinstance(reason, str) and reason else None


def text_of(value: object) -> str:
    return value if isinstance(value, str) else ""
