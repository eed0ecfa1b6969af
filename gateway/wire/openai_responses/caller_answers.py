"""Whole answers and errors as a Responses caller reads them, and the objects its streams are made of."""

import hashlib
import time
import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
from msgspec import Raw

from gateway.wire.metadata import METADATA_FIELD, splice_metadata
from gateway.wire.openai_chat.caller_answers import render_error
from gateway.wire.openai_responses.shapes import FOREIGN_REASONING
from gateway.wire.types import Completion, FinishReason, Part, Refusal, Request, Text, Thinking, ToolCall, Usage

__all__ = ["call_item", "message_item", "reasoning_item", "render_completion", "render_error", "response_object"]

Item = dict[str, Any]

_encode = msgspec.json.Encoder().encode
_ECHOED: dict[str, Any] = {
    "background": False,
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "reasoning": {"effort": None, "summary": None},
    "service_tier": "default",
    "store": False,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}},
    "tool_choice": "auto",
    "tools": [],
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}
_INCOMPLETE: dict[FinishReason, str] = {"length": "max_output_tokens", "content_filter": "content_filter"}


def render_completion(completion: Completion, metadata: Mapping[str, Any] | None, request: Request) -> bytes:
    """A ``response`` object. A vendor's own body is passed on with ``metadata`` spliced in at its end."""
    if completion.body is not None:
        return completion.body if metadata is None else splice_metadata(completion.body, metadata)
    (choice,) = completion.choices
    response_id = response_id_of(completion.id)
    response = response_object(response_id, completion.model, request, completion.created)
    output = output_of(choice.parts, response_id, last_status(choice.finish_reason))
    finished(response, output, choice.finish_reason, completion.usage)
    if metadata is not None:
        response[METADATA_FIELD] = metadata
    return _encode(response)


def response_object(response_id: str, model: str, request: Request, created: int = 0) -> dict[str, Any]:
    """A response that has begun: the request's settings are repeated in it, as its readers expect."""
    settings = {name: request.fields.get(name, default) for name, default in _ECHOED.items()}
    for name, default in _ECHOED.items():
        if bytes(settings[name]) == b"null" if isinstance(settings[name], Raw) else False:
            settings[name] = default
    return {
        "id": response_id,
        "object": "response",
        "created_at": created or int(time.time()),
        "status": "in_progress",
        "error": None,
        "incomplete_details": None,
        "model": model,
        "output": [],
        "usage": None,
        **settings,
        "store": False,  # what was translated is kept nowhere
    }


def finished(response: dict[str, Any], output: Sequence[Item], reason: FinishReason, usage: Usage | None) -> None:
    """Completes ``response`` in place."""
    incomplete = _INCOMPLETE.get(reason)
    response["status"] = last_status(reason)
    response["incomplete_details"] = {"reason": incomplete} if incomplete else None
    response["output"] = list(output)
    response["usage"] = None if usage is None else usage_object(usage)


def last_status(reason: FinishReason) -> str:
    """How a response ended, and with it the item that was being written; the items before that one are complete."""
    return "incomplete" if reason in _INCOMPLETE else "completed"


def output_of(parts: Sequence[Part], response_id: str, last: str = "completed") -> list[Item]:
    """The output items that ``parts`` make: one for the thoughts, one for what is said, one for each call. ``last``
    is the status of the last one."""
    output: list[Item] = []
    if thinking := "".join(part.text for part in parts if isinstance(part, Thinking)):
        output.append(reasoning_item(item_id(FOREIGN_REASONING, response_id, len(output)), thinking))
    text = "".join(part.text for part in parts if isinstance(part, Text))
    refusal = "".join(part.text for part in parts if isinstance(part, Refusal))
    if text or refusal or not any(isinstance(part, ToolCall) for part in parts):
        output.append(message_item(item_id("msg", response_id, len(output)), text, refusal))
    for part in parts:
        if isinstance(part, ToolCall):
            output.append(call_item(item_id("fc", response_id, len(output)), part.id, part.name, part.arguments))
    if "status" in output[-1]:
        output[-1]["status"] = last
    return output


def reasoning_item(id_: str, text: str) -> Item:
    summary = [{"type": "summary_text", "text": text}] if text else []
    return {"id": id_, "type": "reasoning", "summary": summary}


def message_item(id_: str, text: str, refusal: str = "", status: str = "completed") -> Item:
    content: list[Item] = []
    if text or not refusal:
        content.append(text_part(text))
    if refusal:
        content.append(refusal_part(refusal))
    return {"id": id_, "type": "message", "status": status, "role": "assistant", "content": content}


def text_part(text: str) -> Item:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}


def refusal_part(text: str) -> Item:
    return {"type": "refusal", "refusal": text}


def call_item(id_: str, call_id: str, name: str, arguments: str, status: str = "completed") -> Item:
    return {
        "id": id_,
        "type": "function_call",
        "status": status,
        "call_id": call_id,
        "name": name,
        "arguments": arguments or ("" if status == "in_progress" else "{}"),
    }


def response_id_of(vendor_id: str | None) -> str:
    if not vendor_id:
        return f"resp_{uuid.uuid4().hex}"
    return vendor_id if vendor_id.startswith("resp_") else f"resp_{vendor_id}"


def item_id(prefix: str, response_id: str, number: int) -> str:
    """The same for the same answer, whole or streamed."""
    digest = hashlib.blake2b(f"{response_id} {number}".encode(), digest_size=16)
    return f"{prefix}_{digest.hexdigest()}"


def usage_object(usage: Usage) -> dict[str, Any]:
    """Inclusive totals, as OpenAI counts."""
    return {
        "input_tokens": usage.total_input,
        "input_tokens_details": {
            "cached_tokens": usage.cached_input,
            "cache_write_tokens": usage.cache_write_5m + usage.cache_write_1h,
        },
        "output_tokens": usage.total_output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.total_input + usage.total_output,
    }
