"""The shapes of a Messages request as typed decoders see them; what the gateway does not need is not declared."""

from typing import Literal

from msgspec import Raw, Struct, field

DIALECT = "anthropic_messages"

Json = dict[str, object]


def _nothing() -> Raw:
    return Raw(b"")


class BlockOutline(Struct):
    """Of a content block only what tells capabilities and size."""

    type: str
    text: str | None = None
    input: Raw = field(default_factory=_nothing)
    content: Raw = field(default_factory=_nothing)


class MessageOutline(Struct):
    role: Literal["user", "assistant"]
    content: str | list[BlockOutline]


class Metadata(Struct):
    user_id: str | None = None


class Format(Struct):
    type: str | None = None
    schema: Json | None = None


class OutputConfig(Struct):
    format: Format | None = None
    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None


class RequestOutline(Struct):
    """What every request is asked for, translated or not."""

    messages: list[MessageOutline]
    model: str | None = None
    max_tokens: int | None = None
    stream: bool | None = None
    system: str | list[BlockOutline] | None = None
    tools: list[Raw] | None = None
    metadata: Metadata | None = None
    output_config: OutputConfig | None = None
    output_format: Format | None = None


class Source(Struct):
    type: str
    media_type: str | None = None
    data: str | None = None
    url: str | None = None


class ContentBlock(Struct):
    type: str
    text: str | None = None
    source: Source | None = None
    title: str | None = None
    thinking: str | None = None
    signature: str | None = None
    data: str | None = None
    id: str | None = None
    name: str | None = None
    input: Raw = field(default_factory=_nothing)
    tool_use_id: str | None = None
    content: "str | list[ContentBlock] | None" = None
    is_error: bool | None = None


class InputMessage(Struct):
    role: Literal["user", "assistant"]
    content: str | list[ContentBlock]


class ToolSpec(Struct):
    name: str
    type: str | None = None
    description: str | None = None
    input_schema: Json | None = None
    strict: bool | None = None


class ToolChoiceSpec(Struct):
    type: Literal["auto", "any", "tool", "none"]
    name: str | None = None
    disable_parallel_tool_use: bool | None = None


class ThinkingSpec(Struct):
    type: Literal["enabled", "disabled", "adaptive"]
    budget_tokens: int | None = None


class ConversationFields(Struct):
    """What a translation needs of a request."""

    messages: list[InputMessage]
    system: str | list[ContentBlock] | None = None
    tools: list[ToolSpec] | None = None
    tool_choice: ToolChoiceSpec | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop_sequences: list[str] | None = None
    thinking: ThinkingSpec | None = None
    output_config: OutputConfig | None = None
    output_format: Format | None = None
