"""The canonical content of a Responses request: needed only where caller and vendor speak different formats."""

from collections.abc import Iterable

import msgspec

from gateway.errors import InvalidRequest, UnsupportedContent
from gateway.wire.openai_responses.shapes import (
    ContentPart,
    ConversationFields,
    FormatSpec,
    Item,
    ToolChoiceSpec,
    ToolSpec,
)
from gateway.wire.types import (
    Conversation,
    File,
    Image,
    Message,
    Part,
    Refusal,
    Request,
    ResponseFormat,
    Role,
    Sampling,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolChoice,
    ToolResult,
)
from gateway.wire.validation import data_url, decode_or_refuse, unknown_fields

_FIELDS = msgspec.json.Decoder(ConversationFields)
_KNOWN = (
    frozenset(ConversationFields.__struct_fields__)
    | {"model", "stream", "stream_options", "max_output_tokens", "user", "safety_identifier", "prompt_cache_key"}
    | {"metadata"}  # the answer repeats it, and that is all it is for
)
_KEPT_BY_THE_VENDOR = ("previous_response_id", "conversation", "prompt")


def parse_conversation(request: Request) -> Conversation:
    """What ``request`` says and asks, memoised on it.

    Raises InvalidRequest for content that is wrong (``param`` names the place, ``input[2].content[0]``) and
    UnsupportedContent for what only OpenAI's own service can do.
    """
    conversation = request._conversation  # noqa: SLF001 - the memo belongs to this verb of each format
    if conversation is None:
        conversation = request._conversation = _translate(request)  # noqa: SLF001
    return conversation


def _translate(request: Request) -> Conversation:
    fields = decode_or_refuse(_FIELDS, msgspec.json.encode(request.fields))
    for name in _KEPT_BY_THE_VENDOR:
        if getattr(fields, name) is not None:
            raise UnsupportedContent(f"'{name}' is kept by OpenAI: this model's provider does not have it.", param=name)
    if fields.background:
        raise UnsupportedContent("Background responses cannot be translated.", param="background")
    said = [Message("system", (Text(fields.instructions),))] if fields.instructions else []
    if isinstance(fields.input, str):
        said.append(Message("user", (Text(fields.input),)))
    else:
        said += _turns(fields.input)
    return Conversation(
        messages=tuple(said),
        tools=tuple(_tool(tool, f"tools[{index}]") for index, tool in enumerate(fields.tools or ())),
        tool_choice=_tool_choice(fields.tool_choice),
        response_format=_response_format(fields.text.format if fields.text else None),
        sampling=Sampling(
            max_tokens=request.max_tokens,
            temperature=fields.temperature,
            top_p=fields.top_p,
            top_logprobs=fields.top_logprobs,
            logprobs=True if fields.top_logprobs else None,
            reasoning_effort=fields.reasoning.effort if fields.reasoning else None,
            parallel_tool_calls=fields.parallel_tool_calls,
        ),
        unknown=unknown_fields(request.fields, _KNOWN),
    )


def _turns(items: list[Item]) -> Iterable[Message]:
    """Items as turns: what an assistant thought, said and called in a row is one turn of its."""
    assistant: list[Part] = []
    for index, item in enumerate(items):
        at = f"input[{index}]"
        role, parts = _item(item, at)
        if role == "assistant":
            assistant += parts
            continue
        if assistant:
            yield Message("assistant", tuple(assistant))
            assistant = []
        if parts:
            yield Message(role, tuple(parts))
    if assistant:
        yield Message("assistant", tuple(assistant))


def _item(item: Item, at: str) -> tuple[Role, list[Part]]:
    match item.type:
        case "message":
            if item.role is None:
                raise InvalidRequest(f"Missing required field '{at}.role'.", param=f"{at}.role")
            role: Role = "system" if item.role == "developer" else item.role
            return role, _parts(item.content, f"{at}.content")
        case "function_call":
            if not item.call_id or not item.name:
                raise InvalidRequest("A function call must have a call_id and a name.", param=at)
            return "assistant", [ToolCall(item.call_id, item.name, item.arguments or "{}")]
        case "function_call_output":
            if not item.call_id:
                raise InvalidRequest(f"Missing required field '{at}.call_id'.", param=f"{at}.call_id")
            return "tool", [ToolResult(item.call_id, _result(item, at))]
        case "reasoning":  # what is encrypted in it only its vendor can read
            thought = "\n\n".join(summary.text for summary in item.summary or () if summary.text)
            return "assistant", [Thinking(thought)] if thought else []
    raise UnsupportedContent(f"An item of type '{item.type[:64]}' cannot be translated.", param=at)


def _result(item: Item, at: str) -> tuple[Text | Image, ...]:
    content: list[Text | Image] = []
    for index, part in enumerate(_parts(item.output, f"{at}.output")):
        if not isinstance(part, Text | Image):
            raise UnsupportedContent("A function's output holds text and images only.", param=f"{at}.output[{index}]")
        content.append(part)
    return tuple(content)


def _parts(content: str | list[ContentPart] | None, at: str) -> list[Part]:
    if isinstance(content, str):
        return [Text(content)] if content else []
    return [_part(part, f"{at}[{index}]") for index, part in enumerate(content or ())]


def _part(part: ContentPart, at: str) -> Part:
    match part.type:
        case "input_text" | "output_text" | "text" if part.text is not None:
            return Text(part.text)
        case "refusal" if part.refusal is not None:
            return Refusal(part.refusal)
        case "input_image" if part.image_url is not None:
            return _image(part.image_url, part.detail, f"{at}.image_url")
        case "input_file":
            return _file(part, at)
        case "input_text" | "output_text" | "refusal":
            raise InvalidRequest("A text part must have a text.", param=at)
    raise UnsupportedContent(f"Content of type '{part.type[:64]}' cannot be translated.", param=at)


def _image(url: str, detail: str | None, at: str) -> Image:
    if url.startswith("data:"):
        media_type, data = data_url(url, at)
        return Image(data=data, media_type=media_type, detail=detail)
    if not url.startswith(("https://", "http://")):
        raise InvalidRequest("An image is given by an http(s) or a data: URL.", param=at)
    return Image(url=url, detail=detail)


def _file(part: ContentPart, at: str) -> File:
    if part.file_data is not None:
        if not part.file_data.startswith("data:"):
            return File(data=part.file_data, media_type="application/pdf", filename=part.filename)
        media_type, data = data_url(part.file_data, f"{at}.file_data")
        return File(data=data, media_type=media_type, filename=part.filename)
    if part.file_url is not None:
        return File(url=part.file_url, filename=part.filename)
    if part.file_id is not None:
        return File(file_id=part.file_id, filename=part.filename)
    raise InvalidRequest("A file is given by 'file_data', 'file_url' or 'file_id'.", param=at)


def _tool(tool: ToolSpec, at: str) -> Tool:
    if tool.type != "function":
        raise UnsupportedContent(f"A tool of type '{tool.type[:64]}' cannot be translated.", param=at)
    if not tool.name:
        raise InvalidRequest(f"Missing required field '{at}.name'.", param=f"{at}.name")
    return Tool(tool.name, tool.description, tool.parameters, tool.strict)


def _tool_choice(choice: str | ToolChoiceSpec | None) -> ToolChoice | None:
    match choice:
        case "auto" | "none" | "required":
            return ToolChoice(choice)
        case ToolChoiceSpec(type="function", name=str(name)):
            return ToolChoice("tool", name)
        case ToolChoiceSpec():
            raise UnsupportedContent("Only a named function can be chosen.", param="tool_choice")
    return None


def _response_format(wanted: FormatSpec | None) -> ResponseFormat | None:
    if wanted is None:
        return None
    if wanted.type == "text":
        return ResponseFormat("text")
    if wanted.type == "json_object":
        return ResponseFormat("json")
    if wanted.schema is None:
        raise InvalidRequest("Missing required field 'text.format.schema'.", param="text.format.schema")
    return ResponseFormat("json_schema", wanted.name, wanted.schema, wanted.strict, wanted.description)
