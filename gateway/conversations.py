"""Requests and answers out of their dialects: what was said, for judges and replays."""

from collections.abc import Sequence

from gateway.providers.client import CALLER_FORMATS, VENDOR_FORMATS, conversation_of
from gateway.wire.types import (
    Audio,
    Conversation,
    File,
    Image,
    Message,
    Part,
    Refusal,
    Role,
    Sampling,
    Text,
    ToolCall,
    ToolResult,
)
from routing.judge import Exchange, Turn
from routing.judge.samples import Sample

VERDICT_TOKENS = 1024  # a judge that thinks needs more than the dozen it is asked for


def conversation_in(sample: Sample) -> Conversation:
    """The conversation of a kept request. Raises GatewayError for one that cannot be read any more."""
    return conversation_of(CALLER_FORMATS[sample.dialect].parse_request(bytes(sample.request), {}))


def answer_in(sample: Sample) -> str:
    """The text of a kept answer; tool calls are named in words. Raises ParseError."""
    if sample.answer_is == "text":
        return sample.answer
    completion = VENDOR_FORMATS["chat"][sample.dialect].parse_completion(sample.answer.encode(), False)
    return told(completion.choices[0].parts) if completion.choices else ""


def told(parts: Sequence[Part]) -> str:
    """Parts of a message as text; what is no text is named."""
    return "\n".join(filter(None, map(_part_told, parts)))


def turn_told(message: Message) -> tuple[Role, str]:
    """(role, text) of one turn."""
    return message.role, told(message.parts)


def asking(text: str) -> Conversation:
    """A judge's question as a conversation."""
    return Conversation(
        (Message("user", (Text(text),)),), sampling=Sampling(max_tokens=VERDICT_TOKENS, temperature=0.0)
    )


def exchange_of(conversation: Conversation, answer: str, finish_reason: str) -> Exchange:
    """What a judge is shown."""
    wanted = conversation.response_format
    schema = wanted.schema if wanted is not None and isinstance(wanted.schema, dict) else None
    named = (schema or {}).get("required")
    required = named if isinstance(named, list) else ()
    return Exchange(
        turns=tuple(Turn(*turn_told(message)) for message in conversation.messages),
        answer=answer,
        finish_reason=finish_reason,
        wants_json=wanted is not None and wanted.kind != "text",
        required_keys=frozenset(key for key in required if isinstance(key, str)),
        schema=schema,
    )


def _part_told(part: Part) -> str:
    match part:
        case Text() | Refusal():
            return part.text
        case ToolCall():
            return f"[calls {part.name} with {part.arguments}]"
        case ToolResult():
            return f"[result of a tool: {told(part.content)}]"
        case Image():
            return "[an image]"
        case Audio():
            return "[a recording]"
        case File():
            return f"[a file: {part.filename or part.media_type or 'unnamed'}]"
        case _:  # thinking is the model's own
            return ""
