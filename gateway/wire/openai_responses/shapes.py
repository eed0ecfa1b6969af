"""The shapes of the Responses API as typed decoders see them; what the gateway does not need is not declared."""

from typing import Any, Literal

from msgspec import Raw, Struct, field

DIALECT = "openai_responses"
# What the ids of reasoning items begin with that come from vendors of other formats: OpenAI, asked to go on from one,
# would look for it among its own and refuse the whole request.
FOREIGN_REASONING = "rs_gw"

Json = dict[str, Any]


def _nothing() -> Raw:
    return Raw(b"")


# --------------------------------------------------------------------------- requests


class PartOutline(Struct):
    type: str
    text: str | None = None


class ItemOutline(Struct):
    """Of an input item only what tells capabilities and size."""

    type: str | None = None
    role: str | None = None
    content: str | list[PartOutline] | None = None
    arguments: str | None = None
    output: Raw = field(default_factory=_nothing)
    encrypted_content: str | None = None


class FormatSpec(Struct):
    type: Literal["text", "json_object", "json_schema"] = "text"
    name: str | None = None
    schema: Json | None = None
    strict: bool | None = None
    description: str | None = None


class TextSpec(Struct):
    format: FormatSpec | None = None


class RequestOutline(Struct):
    """What every request is asked for, translated or not."""

    input: str | list[ItemOutline] | None = None
    model: str | None = None
    instructions: str | None = None
    stream: bool | None = None
    max_output_tokens: int | None = None
    tools: list[Raw] | None = None
    text: TextSpec | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    previous_response_id: str | None = None
    include: list[str] | None = None


class ContentPart(Struct):
    type: str
    text: str | None = None
    refusal: str | None = None
    image_url: str | None = None
    detail: str | None = None
    file_id: str | None = None
    file_data: str | None = None
    file_url: str | None = None
    filename: str | None = None


class Summary(Struct):
    text: str = ""


class Item(Struct):
    type: str = "message"
    role: Literal["system", "developer", "user", "assistant"] | None = None
    content: str | list[ContentPart] | None = None
    id: str | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None
    output: str | list[ContentPart] | None = None
    summary: list[Summary] | None = None


class ToolSpec(Struct):
    type: str
    name: str | None = None
    description: str | None = None
    parameters: Json | None = None
    strict: bool | None = None


class ToolChoiceSpec(Struct):
    type: str
    name: str | None = None


class ReasoningSpec(Struct):
    effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None


class ConversationFields(Struct):
    """What a translation needs of a request."""

    input: str | list[Item]
    instructions: str | None = None
    tools: list[ToolSpec] | None = None
    tool_choice: Literal["auto", "none", "required"] | ToolChoiceSpec | None = None
    text: TextSpec | None = None
    reasoning: ReasoningSpec | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_logprobs: int | None = None
    parallel_tool_calls: bool | None = None
    previous_response_id: str | None = None
    conversation: Any = None
    prompt: Any = None
    background: bool | None = None


# --------------------------------------------------------------------------- answers


class OutputPart(Struct, gc=False):
    type: str = ""
    text: str | None = None
    refusal: str | None = None


class OutputItem(Struct):
    type: str = ""
    id: str | None = None
    content: list[OutputPart] | None = None
    summary: list[OutputPart] | None = None
    call_id: str | None = None
    name: str | None = None
    arguments: str | None = None


class IncompleteDetails(Struct):
    reason: str | None = None


class Answer(Struct):
    id: str = ""
    model: str = ""
    created_at: Any = None
    status: str | None = None
    output: list[OutputItem] | None = None
    service_tier: Any = None
    usage: Any = None
    error: Any = None
    incomplete_details: IncompleteDetails | None = None


class StreamEvent(Struct, gc=False):
    type: str = ""
    delta: str | None = None
    output_index: int = 0
    item_id: str | None = None
    item: OutputItem | None = None
    arguments: str | None = None
    response: Answer | None = None
    code: Any = None
    message: Any = None
    error: Any = None
