"""A request as a chat vendor takes it: the caller's own fields, or rendered from the conversation."""

from typing import Any

import msgspec
from msgspec import Raw

from gateway.errors import UnsupportedContent
from gateway.wire.efforts import openai_effort
from gateway.wire.openai_chat.shapes import DIALECT
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
    VendorProfile,
    VendorRequest,
)
from gateway.wire.verbs import ConversationOf

PATH = "/chat/completions"

_encode = msgspec.json.Encoder().encode
_INCLUDE_USAGE = Raw(b'{"include_usage":true}')
_TRUE = Raw(b"true")
_OPTIONS = msgspec.json.Decoder(dict[str, Raw])
_LIMITS = ("max_tokens", "max_completion_tokens")


def render_request(
    request: Request, conversation: ConversationOf, vendor_model: str, profile: VendorProfile
) -> VendorRequest:
    """What to send to a vendor of this format.

    A chat caller's fields go on as they came, bytes and order, but for the model's name, the usage that is
    always asked for in streams, and what ``profile`` says the vendor does not take. Any other dialect is
    rendered from its conversation. Raises UnsupportedContent for content the vendor cannot take.
    """
    if request.needs.json_schema and not profile.json_schema:
        raise UnsupportedContent("The model does not take a JSON schema.", param="response_format")
    dropped: list[str] = []
    if request.dialect == DIALECT:
        fields = request.fields.copy()
        if profile.max_tokens_field is not None:
            fields = _rename_limit(fields, profile.max_tokens_field)
    else:
        fields = _Rendering(vendor_model, profile, dropped).fields(conversation(request))
        if request.stream:
            fields["stream"] = _TRUE
    fields["model"] = Raw(_encode(vendor_model))
    if profile.unsupported:
        for name in [name for name in fields if name in profile.unsupported]:
            del fields[name]
            dropped.append(name)
    if request.stream:
        _ask_for_usage(fields, profile, dropped)
    return VendorRequest(PATH, _encode(fields), dropped=tuple(dropped))


def _ask_for_usage(fields: dict[str, Raw], profile: VendorProfile, dropped: list[str]) -> None:
    asked = fields.get("stream_options")
    if not profile.stream_usage:
        if asked is not None:
            del fields["stream_options"]
            dropped.append("stream_options")
    elif asked is None or bytes(asked) == b"null":
        fields["stream_options"] = _INCLUDE_USAGE
    else:
        fields["stream_options"] = Raw(_encode(_OPTIONS.decode(asked) | {"include_usage": _TRUE}))


def _rename_limit(fields: dict[str, Raw], name: str) -> dict[str, Raw]:
    """The token limit under the name the vendor knows; the newer of OpenAI's two names wins, as with OpenAI."""
    other = _LIMITS[name == _LIMITS[0]]
    if other not in fields:
        return fields
    limit = next(
        (fields[key] for key in reversed(_LIMITS) if key in fields and bytes(fields[key]) != b"null"), fields[other]
    )
    place = name if name in fields else other
    return {
        (name if key == place else key): (limit if key == place else value)
        for key, value in fields.items()
        if key == place or key not in _LIMITS
    }


class _Rendering:
    """One conversation as chat fields; notes in ``dropped`` what the format or the vendor has no place for."""

    def __init__(self, model: str, profile: VendorProfile, dropped: list[str]) -> None:
        self._model = model
        self._profile = profile
        self._dropped = dropped

    def fields(self, conversation: Conversation) -> dict[str, Raw]:
        self._dropped += conversation.unknown
        values: dict[str, Any] = {
            "model": None,
            "messages": [rendered for message in conversation.messages for rendered in self._messages(message)],
        }
        if conversation.tools:
            values["tools"] = [_tool(tool) for tool in conversation.tools]
        if conversation.tool_choice is not None:
            values["tool_choice"] = _tool_choice(conversation.tool_choice)
        if conversation.response_format is not None:
            values["response_format"] = _response_format(conversation.response_format)
        values |= self._sampling(conversation.sampling)
        return {name: Raw(_encode(value)) for name, value in values.items()}

    def _sampling(self, sampling: Sampling) -> dict[str, Any]:
        values = msgspec.structs.asdict(sampling)
        if values.pop("top_k") is not None:
            self._dropped.append("top_k")
        del values["thinking_budget"]
        values["reasoning_effort"] = openai_effort(sampling, self._model, self._dropped)
        values[self._profile.max_tokens_field or "max_tokens"] = values.pop("max_tokens")
        values["stop"] = list(sampling.stop) or None
        return {name: value for name, value in values.items() if value is not None}

    def _messages(self, message: Message) -> list[dict[str, Any]]:
        if message.role == "tool":
            return self._tool_messages(message)
        rendered: dict[str, Any] = {"role": message.role}
        if message.name is not None:
            rendered["name"] = message.name
        if message.role == "assistant":
            return [rendered | self._assistant(message)]
        rendered["content"] = _content([_part(part) for part in message.parts])
        return [rendered]

    def _assistant(self, message: Message) -> dict[str, Any]:
        content: list[dict[str, Any]] = []
        calls: list[dict[str, Any]] = []
        for part in message.parts:
            match part:
                case ToolCall(id=call_id, name=name, arguments=arguments):
                    function = {"name": name, "arguments": arguments or "{}"}
                    calls.append({"id": call_id, "type": "function", "function": function})
                case Thinking():
                    if "thinking" not in self._dropped:
                        self._dropped.append("thinking")
                case _:
                    content.append(_part(part))
        if not calls:
            return {"content": _content(content)}
        return {"content": _content(content) if content else None, "tool_calls": calls}

    def _tool_messages(self, message: Message) -> list[dict[str, Any]]:
        """One message per result. The format's tool messages hold text only: images follow as the user's."""
        rendered: list[dict[str, Any]] = []
        images: list[dict[str, Any]] = []
        for result in message.parts:
            if not isinstance(result, ToolResult):
                raise UnsupportedContent("A tool message holds tool results only.", param="messages")
            text = "".join(part.text for part in result.content if isinstance(part, Text))
            images += [_part(part) for part in result.content if isinstance(part, Image)]
            rendered.append({"role": "tool", "tool_call_id": result.tool_call_id, "content": text})
        if images:
            rendered.append({"role": "user", "content": images})
        return rendered


def _content(parts: list[dict[str, Any]]) -> str | list[dict[str, Any]]:
    """A plain string where the parts are one text: every look-alike takes that."""
    if not parts:
        return ""
    return parts[0]["text"] if len(parts) == 1 and parts[0]["type"] == "text" else parts


def _part(part: Part) -> dict[str, Any]:
    match part:
        case Text(text=text):
            return {"type": "text", "text": text}
        case Refusal(text=text):
            return {"type": "refusal", "refusal": text}
        case Image():
            url = part.url or f"data:{part.media_type};base64,{part.data}"
            detail = {} if part.detail is None else {"detail": part.detail}
            return {"type": "image_url", "image_url": {"url": url} | detail}
        case Audio(data=data, format=audio_format):
            return {"type": "input_audio", "input_audio": {"data": data, "format": audio_format}}
        case File():
            return {"type": "file", "file": _file(part)}
        case _:
            raise UnsupportedContent(f"A part of type {type(part).__name__} cannot stand here.", param="messages")


def _file(file: File) -> dict[str, Any]:
    if file.file_id is not None:
        return {"file_id": file.file_id}
    if file.data is None:
        raise UnsupportedContent("The model takes files inline only, not by URL.", param="messages")
    data = f"data:{file.media_type or 'application/pdf'};base64,{file.data}"
    return {"filename": file.filename or "file", "file_data": data}


def _tool(tool: Tool) -> dict[str, Any]:
    function = {name: value for name, value in msgspec.structs.asdict(tool).items() if value is not None}
    return {"type": "function", "function": function}


def _tool_choice(choice: ToolChoice) -> str | dict[str, Any]:
    return {"type": "function", "function": {"name": choice.name}} if choice.mode == "tool" else choice.mode


def _response_format(wanted: ResponseFormat) -> dict[str, Any]:
    if wanted.kind != "json_schema":
        return {"type": "json_object" if wanted.kind == "json" else "text"}
    optional: dict[str, Any] = {"strict": wanted.strict, "description": wanted.description}
    schema: dict[str, Any] = {"name": wanted.name or "answer", "schema": wanted.schema}
    schema |= {name: value for name, value in optional.items() if value is not None}
    return {"type": "json_schema", "json_schema": schema}
