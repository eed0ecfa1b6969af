"""The shapes of OpenAI's chat format as typed decoders see them.

Everything tolerant is tolerant here: fields the gateway does not need are not declared and so not decoded,
and where vendors are known to send odd types a field is ``Any``.
"""

from typing import Any, Literal

from msgspec import Raw, Struct

DIALECT = "openai_chat"

ChatRole = Literal["system", "developer", "user", "assistant", "tool", "function"]

# --------------------------------------------------------------------------- requests


class StreamOptions(Struct):
    include_usage: bool | None = None


class Kind(Struct):
    """Any object told apart by its ``type``."""

    type: str | None = None


class PartOutline(Struct):
    """Of a content part only what tells capabilities and size."""

    type: str
    text: str | None = None


class MessageOutline(Struct):
    role: ChatRole
    content: str | list[PartOutline] | None = None
    tool_calls: Raw = Raw()  # (msgspec reads `Raw | None` as None only)


class RequestOutline(Struct):
    """What every request is asked for, translated or not."""

    messages: list[MessageOutline]
    model: str | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    n: int | None = None
    user: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    tools: list[Raw] | None = None
    functions: list[Raw] | None = None
    response_format: Kind | None = None


class ImageUrl(Struct):
    url: str
    detail: str | None = None


class InputAudio(Struct):
    data: str
    format: str


class InputFile(Struct):
    file_data: str | None = None
    file_id: str | None = None
    filename: str | None = None


class ContentPart(Struct):
    type: str
    text: str | None = None
    image_url: ImageUrl | str | None = None
    input_audio: InputAudio | None = None
    file: InputFile | None = None
    refusal: str | None = None


class FunctionCall(Struct):
    name: str
    arguments: str = ""


class ChatToolCall(Struct):
    id: str
    function: FunctionCall | None = None
    type: str = "function"


class ChatMessage(Struct):
    role: ChatRole
    content: str | list[ContentPart] | None = None
    name: str | None = None
    tool_calls: list[ChatToolCall] | None = None
    tool_call_id: str | None = None
    function_call: FunctionCall | None = None
    refusal: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    audio: Any = None


class FunctionSpec(Struct):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class ToolSpec(Struct):
    type: str
    function: FunctionSpec | None = None


class FunctionName(Struct):
    name: str


class ToolChoiceSpec(Struct):
    type: str
    function: FunctionName | None = None


class JsonSchemaSpec(Struct):
    name: str | None = None
    schema: dict[str, Any] | None = None
    strict: bool | None = None
    description: str | None = None


class ResponseFormatSpec(Struct):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: JsonSchemaSpec | None = None


class ConversationFields(Struct):
    """What a translation needs of a request."""

    messages: list[ChatMessage]
    tools: list[ToolSpec] | None = None
    functions: list[FunctionSpec] | None = None
    tool_choice: Literal["auto", "none", "required"] | ToolChoiceSpec | None = None
    function_call: Literal["auto", "none"] | FunctionName | None = None
    response_format: ResponseFormatSpec | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    stop: str | list[str] | None = None
    seed: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh"] | None = None
    parallel_tool_calls: bool | None = None
    modalities: list[str] | None = None


# --------------------------------------------------------------------------- answers
#
# What is decoded once per streamed token is short-lived and never part of a cycle: gc=False.


class FunctionDelta(Struct, gc=False):
    name: str | None = None
    arguments: Any = None


class ToolDelta(Struct, gc=False):
    index: int | None = None
    id: str | None = None
    function: FunctionDelta | None = None


class Delta(Struct, gc=False):
    """The content of an answer or a piece of it (OpenAI's ``message`` and ``delta``)."""

    content: Any = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    refusal: str | None = None
    tool_calls: list[ToolDelta] | None = None
    function_call: FunctionDelta | None = None


class StreamedChoice(Struct, gc=False):
    delta: Delta | None = None
    finish_reason: str | None = None
    index: int = 0


class StreamedEvent(Struct, gc=False):
    choices: list[StreamedChoice] | None = None
    usage: Any = None
    error: Any = None


class Identity(Struct):
    """Who answers, and in which tier of service: read with the first event and with usage, off the hot loop."""

    id: Any = None
    model: Any = None
    service_tier: Any = None


class FinishOutline(Struct):
    finish_reason: Any = None


class AnswerOutline(Struct):
    """Of a whole answer only what accounting needs."""

    choices: list[FinishOutline] | None = None
    id: Any = None
    model: Any = None
    service_tier: Any = None
    usage: Any = None
    error: Any = None


class AnswerChoice(Struct):
    message: Delta | None = None
    finish_reason: Any = None


class AnswerContent(Struct):
    choices: list[AnswerChoice]
    created: Any = None
