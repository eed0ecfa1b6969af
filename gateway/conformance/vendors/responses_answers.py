"""Response objects of OpenAI's Responses API and the items in them."""

from typing import Any, Literal

from gateway.conformance.vendors.answers import Answer, Call, Prompt
from gateway.conformance.vendors.formats import JSON
from gateway.conformance.vendors.openai import logprobs_of
from gateway.conformance.vendors.responses_memory import seal

_REASONS = {"length": "max_output_tokens", "content_filter": "content_filter"}
_DEFAULTS: JSON = {
    "background": False,
    "instructions": None,
    "max_output_tokens": None,
    "metadata": {},
    "parallel_tool_calls": True,
    "previous_response_id": None,
    "reasoning": {"effort": None, "summary": None},
    "service_tier": "default",
    "store": True,
    "temperature": 1.0,
    "text": {"format": {"type": "text"}, "verbosity": "medium"},
    "tool_choice": "auto",
    "tools": [],
    "top_p": 1.0,
    "truncation": "disabled",
    "user": None,
}


def response_of(answer: Answer, prompt: Prompt, state: Literal["begun", "finished", "failed"]) -> JSON:
    """A response object, which repeats the settings that the request was answered with."""
    reason = _REASONS.get(answer.finish) if state == "finished" else None
    status = {"begun": "in_progress", "finished": "incomplete" if reason else "completed", "failed": "failed"}[state]
    given = {name: value for name, value in prompt.settings.items() if name in _DEFAULTS and value is not None}
    return {
        "id": f"resp_{answer.id}",
        "object": "response",
        "created_at": answer.created,
        "status": status,
        "error": None,
        "incomplete_details": {"reason": reason} if reason else None,
        "model": answer.model,
        "output": output_of(answer, prompt) if state == "finished" else [],
        "usage": usage_of(answer) if state == "finished" else None,
        **_DEFAULTS,
        **given,
    }


def failed_response(answer: Answer | None, prompt: Prompt | None = None) -> JSON:
    """The response object that tells of a failure; without an ``answer`` as little as a client needs."""
    error = {"code": "server_error", "message": "The server had an error while processing your request."}
    if answer is None:
        return {"id": "resp_failed", "object": "response", "status": "failed", "error": error, "output": []}
    prompt = prompt or Prompt(answer.model, stream=True)
    return {**response_of(answer, prompt, "failed"), "error": error}


def output_of(answer: Answer, prompt: Prompt) -> list[JSON]:
    """The finished items, in the order in which they are streamed."""
    output = [reasoning_of(answer, prompt, "".join(answer.thinking))] if answer.thinking else []
    if answer.text:
        output.append(message_of(answer, prompt, "".join(answer.text)))
    return output + calls_of(answer)


def reasoning_of(answer: Answer, prompt: Prompt, thinking: str | None) -> JSON:
    """A reasoning item; None: it has only begun. Sealed content is for those who ask."""
    summary = [] if thinking is None else [{"type": "summary_text", "text": thinking}]
    item: JSON = {"id": f"rs_{answer.id}", "type": "reasoning", "summary": summary}
    if "reasoning.encrypted_content" in (prompt.settings.get("include") or []):
        item["encrypted_content"] = seal(thinking or "", prompt.account)
    return item


def message_of(answer: Answer, prompt: Prompt, text: str | None) -> JSON:
    """A message item; None: it has only begun."""
    content = [] if text is None else [part_of(answer, prompt, text)]
    status = "incomplete" if answer.finish in _REASONS else "completed"
    if text is None:
        status = "in_progress"
    return {"id": f"msg_{answer.id}", "type": "message", "status": status, "role": "assistant", "content": content}


def part_of(answer: Answer, prompt: Prompt, text: str) -> JSON:
    """The one part of a message."""
    if answer.finish == "refusal":
        return {"type": "refusal", "refusal": text}
    logprobs = logprobs_of(answer.text) if prompt.logprobs and text else []
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}


def calls_of(answer: Answer) -> list[JSON]:
    return [call_of(call, call.arguments) for call in answer.calls]


def call_of(call: Call, arguments: str | None) -> JSON:
    """A function call item; None: it has only begun."""
    status = "in_progress" if arguments is None else "completed"
    named: dict[str, Any] = {"call_id": f"call_{call.id}", "name": call.name, "arguments": arguments or ""}
    return {"id": f"fc_{call.id}", "type": "function_call", "status": status, **named}


def usage_of(answer: Answer) -> JSON:
    usage = answer.usage
    return {
        "input_tokens": usage.prompt,
        "input_tokens_details": {"cached_tokens": usage.cached_input, "cache_write_tokens": 0},
        "output_tokens": usage.completion,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.prompt + usage.completion,
    }
