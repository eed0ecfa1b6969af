"""Requests to ``generateContent``, rendered from the canonical form."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

import msgspec
from msgspec import Raw

from gateway.errors import InvalidRequest, UnsupportedContent
from gateway.wire.efforts import BUDGETS
from gateway.wire.gemini import signatures
from gateway.wire.translation import (
    Block,
    accepted_knobs,
    arguments_object,
    merge_turns,
    object_schema,
    split_system,
    tool_names,
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
    VendorProfile,
    VendorRequest,
)
from gateway.wire.verbs import ConversationOf

_LACKING = frozenset({"logprobs", "top_logprobs", "parallel_tool_calls"})
_BUDGETS = {**BUDGETS, "low": 1024, "high": 24576, "xhigh": 24576}  # tokens, as Google's own OpenAI address has them
_LEVELS = {"none": "low", "minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "high"}
_LEAST_PRO_BUDGET = 128  # tokens; the 2.5 "pro" models cannot be told not to think
_VERSION = re.compile(r"gemini-(\d+)(?:\.(\d+))?")
_FETCHABLE = re.compile(r"gs://|https://generativelanguage\.googleapis\.com/")
_CHOICE_MODES = {"auto": "AUTO", "none": "NONE", "required": "ANY", "tool": "ANY"}


def render_request(
    request: Request, conversation: ConversationOf, vendor_model: str, profile: VendorProfile
) -> VendorRequest:
    """``generateContent``, or its streaming twin, for a caller of any dialect.

    Raises UnsupportedContent for what must be fetched from an address the vendor does not fetch from,
    InvalidRequest for a tool result without its call or tool arguments that are no JSON object.
    """
    talk = conversation(request)
    sampling, dropped = accepted_knobs(talk.sampling, _LACKING | profile.unsupported)
    dropped += talk.unknown
    if any(_is_foreign_thought(part) for message in talk.messages for part in message.parts):
        dropped.append("thinking")
    system, messages = split_system(talk.messages)
    body: dict[str, Any] = {"contents": _contents(messages, _version(vendor_model))}
    if system:
        body["systemInstruction"] = {"parts": [{"text": system}]}
    body |= _tools(talk)
    config = _sampling(sampling) | _response_format(talk.response_format, profile)
    if (thinking := _thinking(sampling, vendor_model, dropped)) is not None:
        config["thinkingConfig"] = thinking
    if config:
        body["generationConfig"] = config
    if any(tool.strict for tool in talk.tools):
        dropped.append("tools.strict")
    verb = "streamGenerateContent?alt=sse" if request.stream else "generateContent"
    path = f"/models/{quote(vendor_model.removeprefix('models/'), safe='')}:{verb}"
    return VendorRequest(path, msgspec.json.encode(body), dropped=tuple(dropped))


def _is_foreign_thought(part: Part) -> bool:
    """Thinking that only its own vendor can read; of Gemini's the signature goes back, its text is not asked for."""
    return isinstance(part, Thinking) and signatures.from_canonical(part.signature) is None


def _version(model: str) -> tuple[int, int] | None:
    found = _VERSION.search(model)
    return (int(found[1]), int(found[2] or 0)) if found else None


def _contents(messages: Sequence[Message], version: tuple[int, int] | None) -> list[Block]:
    names = tool_names(messages)
    signed = version is not None and version >= (3, 0)
    turns = []
    for message in messages:
        if message.role == "assistant":
            turns.append(("model", _model_parts(message.parts, signed)))
        else:
            turns.append(("user", [block for part in message.parts for block in _user_blocks(part, names)]))
    return [{"role": role, "parts": parts} for role, parts in merge_turns(turns)]


def _model_parts(parts: Iterable[Part], signed: bool) -> list[Block]:
    """A turn of the model. Where signatures are demanded, the first call of the turn must carry one."""
    blocks: list[Block] = []
    signature: str | None = None
    unproven = signed
    for part in parts:
        match part:
            case Thinking():
                signature = signatures.from_canonical(part.signature) or signature
            case ToolCall(id_, name):
                block: Block = {"functionCall": {"id": id_, "name": name, "args": arguments_object(part)}}
                if signature is not None or unproven:
                    block["thoughtSignature"] = signature or signatures.UNSIGNED
                signature, unproven = None, False
                blocks.append(block)
            case _:
                blocks += _user_blocks(part, {})
    return blocks


def _user_blocks(part: Part, names: Mapping[str, str]) -> list[Block]:
    match part:
        case Text(text) | Refusal(text):
            return [{"text": text}] if text else []
        case Image():
            return [_media(part.data, part.media_type, part.url, "an image")]
        case Audio(data, format_):
            return [_media(data, f"audio/{format_}", None, "audio")]
        case File():
            return [_media(part.data, part.media_type, part.url, "a file")]
        case ToolResult():
            return _tool_result(part, names)
        case _:
            raise InvalidRequest(f"A {type(part).__name__} part belongs to the assistant.", param="messages")


def _media(data: str | None, media_type: str | None, url: str | None, what: str) -> Block:
    if data is not None and media_type is not None:
        return {"inlineData": {"mimeType": media_type, "data": data}}
    if url is None or not _FETCHABLE.match(url):
        raise UnsupportedContent(
            f"Gemini takes {what} inline, with its media type, or from Google's own storage.", param="messages"
        )
    return {"fileData": {"fileUri": url} | ({"mimeType": media_type} if media_type else {})}


def _tool_result(part: ToolResult, names: Mapping[str, str]) -> list[Block]:
    name = names.get(part.tool_call_id)
    if name is None:
        raise InvalidRequest(f"No tool call has the id {part.tool_call_id!r}.", param="messages")
    text = "\n\n".join(content.text for content in part.content if isinstance(content, Text))
    answer = {"functionResponse": {"id": part.tool_call_id, "name": name, "response": _response(text, part.is_error)}}
    images = [block for content in part.content if isinstance(content, Image) for block in _user_blocks(content, {})]
    return [answer, *images]


def _response(text: str, is_error: bool) -> Any:
    """A result as the object it must be: as it is if the tool answered with one, else wrapped."""
    if is_error:
        return {"error": text}
    try:
        msgspec.json.decode(text, type=dict[str, Raw])
    except (msgspec.DecodeError, RecursionError):
        return {"output": text}
    return Raw(text.encode())


def _tools(talk: Conversation) -> Block:
    if not talk.tools:
        return {}
    fields: Block = {"tools": [{"functionDeclarations": [_declaration(tool) for tool in talk.tools]}]}
    return fields | (_tool_config(talk.tool_choice) if talk.tool_choice is not None else {})


def _declaration(tool: Tool) -> Block:
    declaration: Block = {"name": tool.name, "description": tool.description or ""}
    if tool.parameters:
        declaration["parametersJsonSchema"] = object_schema(tool.parameters)
    return declaration


def _tool_config(choice: ToolChoice) -> Block:
    config: Block = {"mode": _CHOICE_MODES[choice.mode]}
    if choice.mode == "tool":
        config["allowedFunctionNames"] = [choice.name]
    return {"toolConfig": {"functionCallingConfig": config}}


def _sampling(sampling: Sampling) -> Block:
    fields = {
        "maxOutputTokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "topP": sampling.top_p,
        "topK": sampling.top_k,
        "stopSequences": list(sampling.stop) or None,
        "seed": sampling.seed,
        "candidateCount": sampling.n if sampling.n != 1 else None,
        "presencePenalty": sampling.presence_penalty,
        "frequencyPenalty": sampling.frequency_penalty,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _response_format(wanted: ResponseFormat | None, profile: VendorProfile) -> Block:
    if wanted is None or wanted.kind == "text":
        return {}
    config: Block = {"responseMimeType": "application/json"}
    if wanted.schema is not None and profile.json_schema:
        config["responseJsonSchema"] = wanted.schema
    return config


def _thinking(sampling: Sampling, model: str, dropped: list[str]) -> Block | None:
    """Models from 3 on think in levels, 2.5 and names without a version within a budget, older ones not."""
    effort, budget = sampling.reasoning_effort, sampling.thinking_budget
    if effort is None and budget is None:
        return None
    version = _version(model)
    if version is not None and version < (2, 5):
        dropped.append("thinking_budget" if effort is None else "reasoning_effort")
        return None
    if budget is not None:
        return {"thinkingBudget": budget, "includeThoughts": budget != 0}
    effort = effort or "medium"
    if version is not None and version >= (3, 0):
        level = _LEVELS[effort]
        if effort != level:
            dropped.append("reasoning_effort")
        return {"thinkingLevel": level, "includeThoughts": effort != "none"}
    if effort == "none":
        return {"thinkingBudget": _LEAST_PRO_BUDGET if "pro" in model else 0}
    return {"thinkingBudget": _BUDGETS[effort], "includeThoughts": True}
