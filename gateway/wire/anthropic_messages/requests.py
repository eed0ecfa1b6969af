"""Requests to the Messages API, rendered from the canonical form."""

import base64
import re
from collections.abc import Iterable, Sequence
from typing import Any

import msgspec
from msgspec import Raw

from gateway.errors import UnsupportedContent
from gateway.wire.anthropic_messages.foreign_thoughts import is_genuine, leave_out_foreign_thoughts
from gateway.wire.anthropic_messages.generations import Generation, generation_of
from gateway.wire.anthropic_messages.schemas import closed_schema, output_format
from gateway.wire.anthropic_messages.shapes import DIALECT
from gateway.wire.efforts import BUDGETS
from gateway.wire.translation import (
    Block,
    accepted_knobs,
    arguments_object,
    merge_turns,
    object_schema,
    one_choice_only,
    split_system,
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

PATH = "/v1/messages"
HEADERS = {"anthropic-version": "2023-06-01"}
MIN_THINKING_BUDGET = 1024  # tokens; the API refuses less

_LACKING = frozenset({"seed", "presence_penalty", "frequency_penalty", "logprobs", "top_logprobs"})
_SAMPLER_DEFAULTS = {"temperature": 1, "top_p": 1, "top_k": None}
_THINKING_TYPES = frozenset({"thinking", "redacted_thinking"})
_IMAGE_TYPES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
_NOT_IN_AN_ID = re.compile(r"[^A-Za-z0-9_-]")


def render_request(
    request: Request, conversation: ConversationOf, vendor_model: str, profile: VendorProfile
) -> VendorRequest:
    """``POST /v1/messages`` for a caller of any dialect; one of this dialect has its fields passed on untouched.

    Raises InvalidRequest for ``n`` > 1 or tool arguments that are no JSON object, UnsupportedContent for
    audio, vendor file ids and image types the API does not take.
    """
    if request.dialect == DIALECT:
        return passed_on(request, PATH, vendor_model, profile)
    talk = conversation(request)
    one_choice_only(talk.sampling, "Anthropic")
    generation = generation_of(vendor_model)
    system, messages = split_system(talk.messages)
    turns = merge_turns((_turn_role(message), _blocks(message.parts)) for message in messages)
    sampling, dropped = accepted_knobs(talk.sampling, _LACKING | profile.unsupported)
    dropped += talk.unknown
    if any(isinstance(part, Thinking) and _block(part) is None for message in messages for part in message.parts):
        dropped.append("thinking")
    talk = msgspec.structs.replace(talk, sampling=sampling)
    max_tokens = profile.default_max_tokens if sampling.max_tokens is None else sampling.max_tokens

    constrains = generation.json_schema and profile.json_schema
    answer_format, instruction = output_format(talk.response_format, constrains, dropped)
    system = "\n\n".join(filter(None, (system, instruction)))
    body: dict[str, Any] = {"model": vendor_model, "max_tokens": max_tokens}
    if system:
        body["system"] = system
    body["messages"] = [{"role": role, "content": blocks} for role, blocks in turns]
    _trim_prefill(*turns[-1])
    if request.stream:
        body["stream"] = True
    body |= _tools(talk, generation, dropped)
    thinking, effort = _thinking(talk, generation, max_tokens, turns, dropped)
    if thinking is not None:
        body["thinking"] = thinking
    body |= _sampling(sampling, generation, thinking, dropped)
    output_config = {"effort": effort, "format": answer_format}
    if output_config := {name: value for name, value in output_config.items() if value is not None}:
        body["output_config"] = output_config
    return VendorRequest(PATH, msgspec.json.encode(body), HEADERS, tuple(dropped))


def passed_on(request: Request, path: str, vendor_model: str, profile: VendorProfile) -> VendorRequest:
    """The caller's own fields, bytes and order, under the vendor's name of the model and without the thinking of
    other vendors, which the API would refuse."""
    fields = {name: value for name, value in request.fields.items() if name not in profile.unsupported}
    dropped = [name for name in request.fields if name in profile.unsupported]
    fields["model"] = Raw(msgspec.json.encode(vendor_model))
    leave_out_foreign_thoughts(fields, dropped)
    return VendorRequest(path, msgspec.json.encode(fields), {**HEADERS, **request.vendor_headers}, tuple(dropped))


def _turn_role(message: Message) -> str:
    return "assistant" if message.role == "assistant" else "user"


def _blocks(parts: Iterable[Part]) -> list[Block]:
    return [block for part in parts if (block := _block(part)) is not None]


def _block(part: Part) -> Block | None:
    """None for what the API refuses though it means nothing: empty text, thinking that nobody signed."""
    match part:
        case Text(text) | Refusal(text):
            return {"type": "text", "text": text} if text else None
        case Thinking():
            return _thinking_block(part)
        case ToolCall(id_, name):
            return {"type": "tool_use", "id": _tool_id(id_), "name": name, "input": arguments_object(part)}
        case ToolResult():
            return _tool_result(part)
        case Image():
            return {"type": "image", "source": _image_source(part)}
        case File():
            return _document(part)
        case Audio():
            raise UnsupportedContent("Anthropic models take no audio.", param="messages")


def _thinking_block(part: Thinking) -> Block | None:
    if part.redacted is not None:
        return {"type": "redacted_thinking", "data": part.redacted} if is_genuine(part.redacted) else None
    if not is_genuine(part.signature):
        return None
    return {"type": "thinking", "thinking": part.text, "signature": part.signature}


def _tool_id(call_id: str) -> str:
    return _NOT_IN_AN_ID.sub("_", call_id)


def _tool_result(part: ToolResult) -> Block:
    block: Block = {"type": "tool_result", "tool_use_id": _tool_id(part.tool_call_id)}
    if content := _blocks(part.content):
        block["content"] = content
    if part.is_error:
        block["is_error"] = True
    return block


def _image_source(image: Image) -> Block:
    if image.data is None:
        return {"type": "url", "url": image.url}
    if image.media_type not in _IMAGE_TYPES:
        raise UnsupportedContent("Anthropic models take JPEG, PNG, GIF and WebP images.", param="messages")
    return {"type": "base64", "media_type": image.media_type, "data": image.data}


def _document(file: File) -> Block:
    source: Block
    if file.url is not None:
        source = {"type": "url", "url": file.url}
    elif file.data is not None and file.media_type == "application/pdf":
        source = {"type": "base64", "media_type": file.media_type, "data": file.data}
    elif file.data is not None and (file.media_type or "").startswith("text/"):
        source = {"type": "text", "media_type": "text/plain", "data": _decoded(file.data)}
    else:
        raise UnsupportedContent("Anthropic models take PDF and text documents, inline or by URL.", param="messages")
    return {"type": "document", "source": source} | ({"title": file.filename} if file.filename else {})


def _decoded(data: str) -> str:
    try:
        return base64.b64decode(data, validate=True).decode()
    except ValueError:
        raise UnsupportedContent("A text document must be base64 of UTF-8 text.", param="messages") from None


def _trim_prefill(role: str, blocks: list[Block]) -> None:
    """An assistant's turn at the end is continued by the model; the API refuses white space at its end."""
    if role == "assistant" and blocks[-1]["type"] == "text":
        blocks[-1]["text"] = blocks[-1]["text"].rstrip()


def _tools(talk: Conversation, generation: Generation, dropped: list[str]) -> Block:
    if not talk.tools:
        return {}
    fields: Block = {"tools": [_tool(tool, generation, dropped) for tool in talk.tools]}
    choice = _tool_choice(talk.tool_choice)
    if talk.sampling.parallel_tool_calls is False and choice.get("type") != "none":
        choice = {"type": "auto"} | choice | {"disable_parallel_tool_use": True}
    return fields | ({"tool_choice": choice} if choice else {})


def _tool(tool: Tool, generation: Generation, dropped: list[str]) -> Block:
    schema = object_schema(tool.parameters)
    rendered: Block = {"name": tool.name}
    if tool.description:
        rendered["description"] = tool.description
    if tool.strict:
        closed = closed_schema(schema) if generation.json_schema else None
        if closed is not None:
            return rendered | {"input_schema": closed, "strict": True}
        if "tools.strict" not in dropped:
            dropped.append("tools.strict")
    return rendered | {"input_schema": schema}


def _tool_choice(choice: ToolChoice | None) -> Block:
    if choice is None:
        return {}
    if choice.mode == "tool":
        return {"type": "tool", "name": choice.name}
    return {"type": "any" if choice.mode == "required" else choice.mode}


def _thinking(
    talk: Conversation,
    generation: Generation,
    max_tokens: int,
    turns: Sequence[tuple[str, list[Block]]],
    dropped: list[str],
) -> tuple[Block | None, str | None]:
    """The ``thinking`` field and the effort, each None where the model's default is meant."""
    effort, budget = talk.sampling.reasoning_effort, talk.sampling.thinking_budget
    if effort is None and budget is None:
        return None, None
    forced_tool = talk.tool_choice is not None and talk.tool_choice.mode in {"required", "tool"}
    if generation.adaptive_thinking and (effort is not None or not generation.thinking_budget):
        thinking, level = _adaptive_thinking(talk.sampling, generation, dropped)
        return None if forced_tool else thinking, level
    if effort == "none":
        return None, None
    wanted = budget if budget is not None else BUDGETS[effort or "medium"]
    # Thinking counts towards max_tokens: a quarter of it, or what little the caller leaves, is for the answer.
    tokens = max(MIN_THINKING_BUDGET, min(wanted, max_tokens * 3 // 4))
    if tokens >= max_tokens or forced_tool or _resumes_without_thinking(turns):
        dropped.append("reasoning_effort" if budget is None else "thinking_budget")
        return None, None
    return {"type": "enabled", "budget_tokens": tokens}, None


def _adaptive_thinking(
    sampling: Sampling, generation: Generation, dropped: list[str]
) -> tuple[Block | None, str | None]:
    effort = sampling.reasoning_effort
    if sampling.thinking_budget is not None:  # the model sets its own
        dropped.append("thinking_budget")
    if effort == "none":
        if not generation.thinks_unasked:
            return None, None
        dropped.append("reasoning_effort")  # not every model can be told not to think: the least there is
        return None, "low"
    if effort == "xhigh" and generation.thinking_budget:  # the first adaptive generation does not know it
        dropped.append("reasoning_effort")
        effort = "high"
    return {"type": "adaptive"}, "low" if effort == "minimal" else effort


def _resumes_without_thinking(turns: Sequence[tuple[str, list[Block]]]) -> bool:
    """Whether the turn that tool results answer lacks the thinking it would have to start with: callers whose
    dialect has no place for signed thinking drop it, and the API then refuses to think on."""
    answers_tools = turns[-1][0] == "user" and turns[-1][1][0]["type"] == "tool_result"
    answered = turns[-2:-1]  # the assistant's turn before it, if there is one
    return answers_tools and any(blocks[0]["type"] not in _THINKING_TYPES for _, blocks in answered)


def _sampling(sampling: Sampling, generation: Generation, thinking: Block | None, dropped: list[str]) -> Block:
    samplers = {name: value for name in _SAMPLER_DEFAULTS if (value := getattr(sampling, name)) is not None}
    if thinking is not None or not generation.samplers:  # nothing but the defaults is accepted
        dropped += [name for name, value in samplers.items() if value != _SAMPLER_DEFAULTS[name]]
        samplers = {}
    if samplers.get("temperature", 0) > 1:
        samplers["temperature"] = 1
        dropped.append("temperature")
    if {"temperature", "top_p"} <= samplers.keys() and not generation.both_samplers:
        del samplers["top_p"]
        dropped.append("top_p")
    stop = [sequence for sequence in sampling.stop if sequence.strip()]
    if len(stop) < len(sampling.stop):  # the API refuses a stop sequence of white space only
        dropped.append("stop")
    return samplers | ({"stop_sequences": stop} if stop else {})
