"""The canonical content of a Messages request: needed only where caller and vendor speak different formats."""

import base64
from collections.abc import Iterable

import msgspec

from gateway.errors import InvalidRequest, UnsupportedContent
from gateway.wire.anthropic_messages.shapes import (
    ContentBlock,
    ConversationFields,
    InputMessage,
    Source,
    ThinkingSpec,
    ToolChoiceSpec,
    ToolSpec,
)
from gateway.wire.types import (
    Conversation,
    File,
    Image,
    Message,
    Part,
    ReasoningEffort,
    Request,
    ResponseFormat,
    Sampling,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from gateway.wire.validation import decode_or_refuse, unknown_fields

_FIELDS = msgspec.json.Decoder(ConversationFields)
_KNOWN = frozenset(ConversationFields.__struct_fields__) | {"model", "stream", "max_tokens", "metadata"}


def parse_conversation(request: Request) -> Conversation:
    """What ``request`` says and asks, memoised on it.

    Raises InvalidRequest for content that is wrong (``param`` names the place, ``messages[2].content[0]``) and
    UnsupportedContent for content that only Anthropic's own format can carry.
    """
    conversation = request._conversation  # noqa: SLF001 - the memo belongs to this verb of each format
    if conversation is None:
        conversation = request._conversation = _translate(request)  # noqa: SLF001
    return conversation


def _translate(request: Request) -> Conversation:
    fields = decode_or_refuse(_FIELDS, msgspec.json.encode(request.fields))
    messages: list[Message] = []
    if fields.system:
        blocks = [ContentBlock("text", fields.system)] if isinstance(fields.system, str) else fields.system
        messages.append(Message("system", tuple(_text(block, f"system[{i}]") for i, block in enumerate(blocks))))
    for index, message in enumerate(fields.messages):
        messages += _turn(message, f"messages[{index}]")
    return Conversation(
        messages=tuple(messages),
        tools=tuple(_tool(tool, f"tools[{index}]") for index, tool in enumerate(fields.tools or ())),
        tool_choice=_tool_choice(fields.tool_choice),
        response_format=_response_format(fields),
        sampling=_sampling(fields, request),
        unknown=unknown_fields(request.fields, _KNOWN),
    )


def _turn(message: InputMessage, at: str) -> Iterable[Message]:
    """One turn; the tool results in a user's stand apart, as messages of their own."""
    if isinstance(message.content, str):
        if message.content:
            yield Message(message.role, (Text(message.content),))
        return
    parts: list[Part] = []
    for index, block in enumerate(message.content):
        part = _part(block, f"{at}.content[{index}]")
        if isinstance(part, ToolResult):
            if parts:
                yield Message(message.role, tuple(parts))
                parts = []
            yield Message("tool", (part,))
        else:
            parts.append(part)
    if parts:
        yield Message(message.role, tuple(parts))


def _part(block: ContentBlock, at: str) -> Part:
    match block.type:
        case "text":
            return _text(block, at)
        case "image":
            return _image(_source(block, at), at)
        case "document":
            return _document(_source(block, at), block.title, at)
        case "thinking":
            return Thinking(block.thinking or "", block.signature or None)
        case "redacted_thinking":
            return Thinking(redacted=block.data or "")
        case "tool_use":
            if not block.id or not block.name:
                raise InvalidRequest("A tool use must have an id and a name.", param=at)
            return ToolCall(block.id, block.name, bytes(block.input).decode() or "{}")
        case "tool_result":
            return _tool_result(block, at)
    raise UnsupportedContent(f"Content of type '{block.type[:64]}' cannot be translated.", param=at)


def _text(block: ContentBlock, at: str) -> Text:
    if block.type != "text" or block.text is None:
        raise InvalidRequest("A text block must have a text.", param=f"{at}.text")
    return Text(block.text)


def _source(block: ContentBlock, at: str) -> Source:
    if block.source is None:
        raise InvalidRequest(f"Missing required field '{at}.source'.", param=f"{at}.source")
    return block.source


def _image(source: Source, at: str) -> Image:
    if source.type == "base64" and source.data and source.media_type:
        return Image(data=source.data, media_type=source.media_type)
    if source.type == "url" and source.url:
        return Image(url=source.url)
    raise UnsupportedContent("Only images by URL or as base64 can be translated.", param=f"{at}.source")


def _document(source: Source, title: str | None, at: str) -> File:
    if source.type == "base64" and source.data:
        return File(data=source.data, media_type=source.media_type or "application/pdf", filename=title)
    if source.type == "text" and source.data is not None:
        return File(data=base64.b64encode(source.data.encode()).decode(), media_type="text/plain", filename=title)
    if source.type == "url" and source.url:
        return File(url=source.url, filename=title)
    raise UnsupportedContent("Only documents by URL, as base64 or text can be translated.", param=f"{at}.source")


def _tool_result(block: ContentBlock, at: str) -> ToolResult:
    if not block.tool_use_id:
        raise InvalidRequest("A tool result must name the tool use it answers.", param=f"{at}.tool_use_id")
    content: list[Text | Image] = []
    blocks = [ContentBlock("text", block.content)] if isinstance(block.content, str) else block.content or []
    for index, inner in enumerate(blocks):
        part = _part(inner, f"{at}.content[{index}]")
        if not isinstance(part, Text | Image):
            raise UnsupportedContent("Only text and images in a tool result can be translated.", param=at)
        content.append(part)
    return ToolResult(block.tool_use_id, tuple(content), bool(block.is_error))


def _tool(tool: ToolSpec, at: str) -> Tool:
    if tool.type not in (None, "custom"):
        raise UnsupportedContent(f"A tool of type '{tool.type[:64]}' cannot be translated.", param=at)
    return Tool(tool.name, tool.description, tool.input_schema, tool.strict)


def _tool_choice(choice: ToolChoiceSpec | None) -> ToolChoice | None:
    if choice is None:
        return None
    if choice.type == "tool":
        if not choice.name:
            raise InvalidRequest("The chosen tool must be named.", param="tool_choice.name")
        return ToolChoice("tool", choice.name)
    return ToolChoice("required" if choice.type == "any" else choice.type)


def _response_format(fields: ConversationFields) -> ResponseFormat | None:
    wanted = fields.output_format or (fields.output_config.format if fields.output_config else None)
    if wanted is None or wanted.type != "json_schema" or wanted.schema is None:
        return None
    return ResponseFormat("json_schema", "output", wanted.schema, strict=True)


def _sampling(fields: ConversationFields, request: Request) -> Sampling:
    choice = fields.tool_choice
    budget = fields.thinking.budget_tokens if fields.thinking else None
    return Sampling(
        max_tokens=request.max_tokens,
        temperature=fields.temperature,
        top_p=fields.top_p,
        top_k=fields.top_k,
        stop=tuple(sequence for sequence in fields.stop_sequences or () if sequence),
        reasoning_effort=_effort(fields),
        thinking_budget=budget,
        parallel_tool_calls=False if choice is not None and choice.disable_parallel_tool_use else None,
    )


def _effort(fields: ConversationFields) -> ReasoningEffort | None:
    effort = fields.output_config.effort if fields.output_config else None
    thinking = fields.thinking or ThinkingSpec("enabled")
    if thinking.type == "disabled":
        return "none"
    if effort is not None:
        return "xhigh" if effort == "max" else effort
    return "medium" if thinking.type == "adaptive" else None
