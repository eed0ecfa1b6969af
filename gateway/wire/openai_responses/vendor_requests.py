"""A request as a vendor of the Responses API takes it: the caller's own fields, or rendered from the conversation."""

from typing import Any

import msgspec
from msgspec import Raw, Struct

from gateway.errors import UnsupportedContent
from gateway.wire.efforts import openai_effort
from gateway.wire.openai_responses.shapes import DIALECT, FOREIGN_REASONING
from gateway.wire.translation import one_choice_only
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

PATH = "/responses"

Item = dict[str, Any]


class _Identity(Struct):
    type: Any = None
    id: Any = None


_encode = msgspec.json.Encoder().encode
_ITEMS = msgspec.json.Decoder(list[Raw])
_IDENTITY = msgspec.json.Decoder(_Identity)
_LACKING = ("top_k", "stop", "seed", "presence_penalty", "frequency_penalty")


def render_request(
    request: Request, conversation: ConversationOf, vendor_model: str, profile: VendorProfile
) -> VendorRequest:
    """What to send to a vendor of this format; a caller of the same one has its fields passed on untouched.

    Raises UnsupportedContent for content the vendor cannot take, InvalidRequest for ``n`` > 1.
    """
    dropped: list[str] = []
    if request.dialect == DIALECT:
        fields = request.fields.copy()
        _leave_out_foreign_reasoning(fields, dropped)
    else:
        rendered = _fields(conversation(request), vendor_model, dropped)
        if request.stream:
            rendered["stream"] = True
        fields = {name: Raw(_encode(value)) for name, value in rendered.items()}
    fields["model"] = Raw(_encode(vendor_model))
    for name in [name for name in fields if name in profile.unsupported]:
        del fields[name]
        dropped.append(name)
    return VendorRequest(PATH, _encode(fields), dropped=tuple(dropped))


def _leave_out_foreign_reasoning(fields: dict[str, Raw], dropped: list[str]) -> None:
    """Takes the reasoning items of other vendors out of the input; not a byte changes where there are none."""
    body = bytes(fields.get("input", b""))
    if b'"%b_' % FOREIGN_REASONING.encode() not in body or not body.startswith(b"["):
        return
    items = _ITEMS.decode(body)
    kept = [item for item in items if not _is_foreign(_IDENTITY.decode(item))]
    if len(kept) < len(items):
        fields["input"] = Raw(_encode(kept))
        dropped.append("thinking")


def _is_foreign(item: _Identity) -> bool:
    return item.type == "reasoning" and isinstance(item.id, str) and item.id.startswith(f"{FOREIGN_REASONING}_")


def _fields(talk: Conversation, model: str, dropped: list[str]) -> dict[str, Any]:
    one_choice_only(talk.sampling, "The Responses API")
    dropped += talk.unknown
    fields: dict[str, Any] = {
        "model": None,
        "input": [item for message in talk.messages for item in _items(message, dropped)],
        "store": False,
    }
    if talk.tools:
        fields["tools"] = [_tool(tool) for tool in talk.tools]
    if talk.tool_choice is not None:
        fields["tool_choice"] = _tool_choice(talk.tool_choice)
    if talk.response_format is not None:
        fields["text"] = {"format": _format(talk.response_format)}
    return fields | _sampling(talk.sampling, model, dropped)


def _sampling(sampling: Sampling, model: str, dropped: list[str]) -> dict[str, Any]:
    effort = openai_effort(sampling, model, dropped)
    dropped += [name for name in _LACKING if getattr(sampling, name) not in (None, (), 0)]
    values = {
        "max_output_tokens": None if sampling.max_tokens is None else max(sampling.max_tokens, 16),
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_logprobs": sampling.top_logprobs,
        "parallel_tool_calls": sampling.parallel_tool_calls,
        "reasoning": {"effort": effort} if effort else None,
        "include": ["message.output_text.logprobs"] if sampling.logprobs else None,
    }
    return {name: value for name, value in values.items() if value is not None}


def _items(message: Message, dropped: list[str]) -> list[Item]:
    """A turn as items: what was said in one message, calls and their outputs apart."""
    said: list[Item] = []
    apart: list[Item] = []
    for part in message.parts:
        match part:
            case ToolCall(call_id, name, arguments):
                apart.append(
                    {"type": "function_call", "call_id": call_id, "name": name, "arguments": arguments or "{}"}
                )
            case ToolResult(call_id, content):
                apart.append({"type": "function_call_output", "call_id": call_id, "output": _output(content)})
            case Thinking():  # a thought can only go back where it came from, and there it is encrypted
                if "thinking" not in dropped:
                    dropped.append("thinking")
            case _:
                said.append(_part(part, message.role))
    if not said:
        return apart
    return [{"type": "message", "role": message.role, "content": said}, *apart]


def _output(content: tuple[Text | Image, ...]) -> str | list[Item]:
    if all(isinstance(part, Text) for part in content):
        return "".join(part.text for part in content if isinstance(part, Text))
    return [_part(part, "user") for part in content]


def _part(part: Part, role: str) -> Item:
    match part:
        case Text(text):
            return {"type": "output_text" if role == "assistant" else "input_text", "text": text}
        case Refusal(text):
            return {"type": "refusal", "refusal": text}
        case Image():
            url = part.url or f"data:{part.media_type};base64,{part.data}"
            return {"type": "input_image", "image_url": url, "detail": part.detail or "auto"}
        case File():
            return _file(part)
        case Audio():
            raise UnsupportedContent("The Responses API takes no audio.", param="messages")
    raise UnsupportedContent("This content has no place in the Responses API.", param="messages")


def _file(file: File) -> Item:
    if file.file_id is not None:
        return {"type": "input_file", "file_id": file.file_id}
    if file.url is not None:
        return {"type": "input_file", "file_url": file.url}
    data = f"data:{file.media_type or 'application/pdf'};base64,{file.data}"
    return {"type": "input_file", "filename": file.filename or "file", "file_data": data}


def _tool(tool: Tool) -> Item:
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters or {"type": "object", "properties": {}},
        "strict": bool(tool.strict),
    }


def _tool_choice(choice: ToolChoice) -> str | Item:
    return {"type": "function", "name": choice.name} if choice.mode == "tool" else choice.mode


def _format(wanted: ResponseFormat) -> Item:
    if wanted.kind == "text":
        return {"type": "text"}
    if wanted.kind == "json":
        return {"type": "json_object"}
    format_: Item = {"type": "json_schema", "name": wanted.name or "output", "schema": wanted.schema}
    if wanted.description is not None:
        format_["description"] = wanted.description
    if wanted.strict is not None:
        format_["strict"] = wanted.strict
    return format_
