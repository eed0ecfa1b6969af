"""The canonical content of a chat request: needed only where caller and vendor speak different formats."""

import msgspec

from gateway.errors import InvalidRequest, UnsupportedContent
from gateway.wire.openai_chat.shapes import (
    ChatMessage,
    ContentPart,
    ConversationFields,
    FunctionSpec,
    ImageUrl,
    InputFile,
    ResponseFormatSpec,
    ToolChoiceSpec,
    ToolSpec,
)
from gateway.wire.types import (
    Audio,
    Conversation,
    File,
    Image,
    Message,
    Part,
    Refusal,
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
from gateway.wire.validation import data_url, decode_or_refuse, unknown_fields

_FIELDS = msgspec.json.Decoder(ConversationFields)
_KNOWN = (
    frozenset(ConversationFields.__struct_fields__)
    | {"model", "stream", "stream_options", "max_tokens", "max_completion_tokens", "n"}
    | {"user", "safety_identifier", "prompt_cache_key"}
)


def parse_conversation(request: Request) -> Conversation:
    """What ``request`` says and asks, memoised on it.

    Raises InvalidRequest for content that is wrong (``param`` names the place, ``messages[2].content[0]``)
    and UnsupportedContent for content that only OpenAI's own format can carry.
    """
    conversation = request._conversation  # noqa: SLF001 - the memo belongs to this verb of each format
    if conversation is None:
        conversation = request._conversation = _translate(request)  # noqa: SLF001
    return conversation


def _translate(request: Request) -> Conversation:
    fields = decode_or_refuse(_FIELDS, msgspec.json.encode(request.fields))
    if fields.modalities is not None and fields.modalities != ["text"]:
        raise UnsupportedContent("Only text output can be translated for this model.", param="modalities")
    return Conversation(
        messages=_Messages().translate(fields.messages),
        tools=_tools(fields.tools or [], fields.functions or []),
        tool_choice=_tool_choice(fields),
        response_format=_response_format(fields.response_format),
        sampling=_sampling(fields, request),
        unknown=unknown_fields(request.fields, _KNOWN),
    )


class _Messages:
    """Translates messages in order; remembers legacy function calls, which have names but no ids."""

    def __init__(self) -> None:
        self._legacy_ids: dict[str, str] = {}

    def translate(self, messages: list[ChatMessage]) -> tuple[Message, ...]:
        return tuple(self._message(message, f"messages[{index}]") for index, message in enumerate(messages))

    def _message(self, message: ChatMessage, at: str) -> Message:
        match message.role:
            case "system" | "developer":
                return Message("system", self._text_only(message, at), message.name)
            case "user":
                return Message("user", _parts(message.content, f"{at}.content"), message.name)
            case "assistant":
                return Message("assistant", self._assistant_parts(message, at), message.name)
            case _:
                return Message("tool", (self._tool_result(message, at),))

    def _text_only(self, message: ChatMessage, at: str) -> tuple[Part, ...]:
        parts = _parts(message.content, f"{at}.content")
        for index, part in enumerate(parts):
            if not isinstance(part, Text):
                raise InvalidRequest(f"A {message.role} message holds text only.", param=f"{at}.content[{index}]")
        return parts

    def _assistant_parts(self, message: ChatMessage, at: str) -> tuple[Part, ...]:
        if message.audio is not None:
            raise UnsupportedContent("Earlier audio answers cannot be translated.", param=f"{at}.audio")
        parts: list[Part] = []
        if thinking := message.reasoning_content or message.reasoning:
            parts.append(Thinking(thinking))
        parts += _parts(message.content, f"{at}.content")
        if message.refusal:
            parts.append(Refusal(message.refusal))
        for index, call in enumerate(message.tool_calls or []):
            if call.function is None:
                raise UnsupportedContent(
                    f"Cannot translate a {call.type} tool call.", param=f"{at}.tool_calls[{index}]"
                )
            parts.append(ToolCall(call.id, call.function.name, call.function.arguments))
        if (legacy := message.function_call) is not None:
            call_id = f"call_{len(self._legacy_ids)}_{legacy.name}"
            self._legacy_ids[legacy.name] = call_id
            parts.append(ToolCall(call_id, legacy.name, legacy.arguments))
        return tuple(parts)

    def _tool_result(self, message: ChatMessage, at: str) -> ToolResult:
        if message.role == "function":
            call_id, field = self._legacy_ids.get(message.name or ""), "name"
        else:
            call_id, field = message.tool_call_id, "tool_call_id"
        if not call_id:
            raise InvalidRequest(f"A {message.role} message must name the call it answers.", param=f"{at}.{field}")
        content: list[Text | Image] = []
        for index, part in enumerate(_parts(message.content, f"{at}.content")):
            if not isinstance(part, Text | Image):
                raise InvalidRequest("A tool result holds text and images only.", param=f"{at}.content[{index}]")
            content.append(part)
        return ToolResult(call_id, tuple(content))


def _parts(content: str | list[ContentPart] | None, at: str) -> tuple[Part, ...]:
    if isinstance(content, str):
        return (Text(content),) if content else ()
    return tuple(_part(part, f"{at}[{index}]") for index, part in enumerate(content or []))


def _part(part: ContentPart, at: str) -> Part:
    match part.type:
        case "text" if part.text is not None:
            return Text(part.text)
        case "refusal" if part.refusal is not None:
            return Refusal(part.refusal)
        case "image_url" if part.image_url is not None:
            return _image(part.image_url, at)
        case "input_audio" if part.input_audio is not None:
            return Audio(part.input_audio.data, part.input_audio.format)
        case "file" if part.file is not None:
            return _file(part.file, at)
        case "text" | "refusal" | "image_url" | "input_audio" | "file":
            raise InvalidRequest(f"Missing required field '{at}.{part.type}'.", param=f"{at}.{part.type}")
        case _:
            raise UnsupportedContent(f"Content of type '{part.type[:64]}' cannot be translated.", param=at)


def _image(image: ImageUrl | str, at: str) -> Image:
    url, detail = (image, None) if isinstance(image, str) else (image.url, image.detail)
    if url.startswith("data:"):
        media_type, data = data_url(url, f"{at}.image_url")
        return Image(data=data, media_type=media_type, detail=detail)
    if not url.startswith(("https://", "http://")):
        raise InvalidRequest("An image is given by an http(s) or a data: URL.", param=f"{at}.image_url")
    return Image(url=url, detail=detail)


def _file(file: InputFile, at: str) -> File:
    if file.file_data is not None:
        if not file.file_data.startswith("data:"):
            return File(data=file.file_data, media_type="application/pdf", filename=file.filename)
        media_type, data = data_url(file.file_data, f"{at}.file")
        return File(data=data, media_type=media_type, filename=file.filename)
    if file.file_id:
        return File(file_id=file.file_id, filename=file.filename)
    raise InvalidRequest("A file is given by 'file_data' or 'file_id'.", param=f"{at}.file")


def _tools(tools: list[ToolSpec], functions: list[FunctionSpec]) -> tuple[Tool, ...]:
    specs: list[FunctionSpec] = []
    for index, tool in enumerate(tools):
        if tool.type != "function":
            raise UnsupportedContent(
                f"A tool of type '{tool.type[:64]}' cannot be translated.", param=f"tools[{index}]"
            )
        if tool.function is None:
            raise InvalidRequest(f"Missing required field 'tools[{index}].function'.", param=f"tools[{index}].function")
        specs.append(tool.function)
    return tuple(Tool(spec.name, spec.description, spec.parameters, spec.strict) for spec in [*specs, *functions])


def _tool_choice(fields: ConversationFields) -> ToolChoice | None:
    choice = fields.tool_choice if fields.tool_choice is not None else fields.function_call
    if choice is None or isinstance(choice, str):
        return None if choice is None else ToolChoice(choice)
    if not isinstance(choice, ToolChoiceSpec):
        return ToolChoice("tool", choice.name)
    if choice.type != "function" or choice.function is None:
        raise UnsupportedContent("Only a named function can be chosen.", param="tool_choice")
    return ToolChoice("tool", choice.function.name)


def _response_format(spec: ResponseFormatSpec | None) -> ResponseFormat | None:
    if spec is None:
        return None
    if spec.type == "text":
        return ResponseFormat("text")
    if spec.type == "json_object":
        return ResponseFormat("json")
    schema = spec.json_schema
    if schema is None or schema.schema is None:
        param = "response_format.json_schema.schema"
        raise InvalidRequest(f"Missing required field '{param}'.", param=param)
    return ResponseFormat("json_schema", schema.name, schema.schema, schema.strict, schema.description)


def _sampling(fields: ConversationFields, request: Request) -> Sampling:
    stop = (fields.stop,) if isinstance(fields.stop, str) else tuple(fields.stop or ())
    return Sampling(
        max_tokens=request.max_tokens,
        temperature=fields.temperature,
        top_p=fields.top_p,
        top_k=fields.top_k,
        stop=tuple(sequence for sequence in stop if sequence),
        seed=fields.seed,
        n=request.choices if "n" in request.fields else None,
        presence_penalty=fields.presence_penalty,
        frequency_penalty=fields.frequency_penalty,
        logprobs=fields.logprobs,
        top_logprobs=fields.top_logprobs,
        reasoning_effort=fields.reasoning_effort,
        parallel_tool_calls=fields.parallel_tool_calls,
    )
