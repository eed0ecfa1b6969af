"""Anthropic Messages, strict: roles alternate, max_tokens is mandatory, thinking must come back with its signature."""

import json
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from gateway.conformance.vendors.answers import Answer, Frame, OfferedTool, Prompt, signature_of
from gateway.conformance.vendors.behaviours import Behaviour
from gateway.conformance.vendors.formats import JSON, Format, Refusal, check, is_base64, is_count, is_number, sse, words
from gateway.conformance.vendors.http import HttpRequest
from gateway.conformance.vendors.quotas import Quota

_IMAGE_TYPES = ("image/jpeg", "image/png", "image/gif", "image/webp")
_FOREIGN = words(
    "n presence_penalty frequency_penalty response_format stop logprobs top_logprobs seed user stream_options "
    "parallel_tool_calls reasoning_effort max_completion_tokens functions function_call"
)
_VENDOR_TOOL = re.compile(r"[a-z_]+_20\d{6}")  # a tool that runs at the vendor, like web_search_20250305
_BLOCKS = {
    "user": ("text", "image", "document", "tool_result"),
    "assistant": ("text", "thinking", "redacted_thinking", "tool_use"),
}
_TYPES = {
    400: ("invalid_request_error", "The request was refused."),
    401: ("authentication_error", "invalid x-api-key"),
    403: ("permission_error", "Your API key does not have permission to use the specified resource."),
    404: ("not_found_error", "model: unknown"),
    408: ("timeout_error", "Request timed out"),
    413: ("request_too_large", "Request exceeds the maximum size"),
    429: ("rate_limit_error", "This request would exceed the rate limit of organization org-scripted."),
    500: ("api_error", "Internal server error"),
    504: ("timeout_error", "Request timed out"),
    529: ("overloaded_error", "Overloaded"),
}
_STOP_REASONS = {
    "stop": "end_turn",
    "length": "max_tokens",
    "tool_calls": "tool_use",
    "content_filter": "refusal",
    "refusal": "refusal",
}


class Anthropic(Format):
    name = "anthropic"
    reports_cache_writes = True
    broken_event = b'event: content_block_delta\ndata: {"broken": [\n\n'
    end_is_optional = True

    def key_of(self, request: HttpRequest) -> str | None:
        """x-api-key, or the bearer token that newer SDKs send instead."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        return request.headers.get("x-api-key") or (token if scheme.lower() == "bearer" and token else None)

    def authenticate(self, key: str | None, keys: frozenset[str] | None) -> None:
        if key is None:
            raise Refusal(401, "x-api-key or Authorization header is required")
        if keys is not None and key not in keys:
            raise self.refusal(401, key)

    def model_of(self, request: HttpRequest, body: JSON) -> str:
        model = body.get("model")
        return model if isinstance(model, str) else ""

    def streams(self, request: HttpRequest, body: JSON) -> bool:
        return body.get("stream") is True

    def headers(self, number: str) -> dict[str, str]:
        return {"request-id": f"req_{number}", "anthropic-organization-id": "org-scripted"}

    # ----------------------------------------------------------------- request

    def parse(self, request: HttpRequest, body: JSON) -> Prompt:
        check(request.headers.get("anthropic-version"), "anthropic-version: header is required")
        model = self.model_of(request, body)
        check(model, "model: Field required")
        check("max_tokens" in body, "max_tokens: Field required")
        check(is_count(body["max_tokens"]), "max_tokens: Input should be greater than or equal to 1")
        for name in body:
            check(name not in _FOREIGN and not name.startswith("x-"), f"{name}: Extra inputs are not permitted")
        check(isinstance(body.get("stream", False), bool), "stream: Input should be a valid boolean")
        self._check_knobs(body)
        prompt = Prompt(model, stream=self.streams(request, body), max_tokens=body["max_tokens"])
        prompt.stop = body.get("stop_sequences") or []
        prompt.service_tier = body.get("speed") or ""
        prompt.texts += self._texts_of(body.get("system", ""), "system")
        thinks = (body.get("thinking") or {}).get("type") == "enabled"
        self._read_messages(body.get("messages"), thinks, prompt)
        self._read_tools(body, prompt)
        self._read_output_format(body, prompt)
        return prompt

    def _check_knobs(self, body: JSON) -> None:
        for name in ("temperature", "top_p"):
            check(name not in body or is_number(body[name], 0, 1), f"{name}: range: 0..1")
        check("top_k" not in body or is_count(body["top_k"], 0), "top_k: Input should be a valid integer")
        stop = body.get("stop_sequences", [])
        listed = isinstance(stop, list) and all(isinstance(item, str) and item.strip() for item in stop)
        check(listed, "stop_sequences: each stop sequence must contain non-whitespace")
        check(body.get("speed") in (None, "standard", "fast"), "speed: Input should be 'standard' or 'fast'")
        thinking = body.get("thinking") or {"type": "disabled"}
        kind, budget = thinking.get("type"), thinking.get("budget_tokens")
        check(kind in ("enabled", "disabled", "adaptive"), "thinking.type: Input should be 'enabled' or 'disabled'")
        if kind == "enabled":
            check(is_count(budget, 1024), "thinking.enabled.budget_tokens: should be greater than or equal to 1024")
            check(budget < body["max_tokens"], "`max_tokens` must be greater than `thinking.budget_tokens`")
            check(body.get("temperature", 1) == 1, "`temperature` may only be set to 1 when thinking is enabled")

    def _texts_of(self, content: Any, at: str) -> list[str]:
        if isinstance(content, str):
            return [content]
        check(isinstance(content, list), f"{at}: Input should be a valid list")
        for block in content:
            sound = isinstance(block, dict) and block.get("type") == "text" and isinstance(block.get("text"), str)
            check(sound, f"{at}: Input should be a text block")
        return [block["text"] for block in content]

    def _read_messages(self, messages: Any, thinks: bool, prompt: Prompt) -> None:
        check(isinstance(messages, list) and messages, "messages: at least one message is required")
        expected: str = "user"
        pending: set[str] = set()
        for i, message in enumerate(messages):
            at = f"messages.{i}"
            role = message.get("role") if isinstance(message, dict) else None
            check(role in _BLOCKS, f"{at}.role: Input should be 'user' or 'assistant'")
            first = 'messages: first message must use the "user" role'
            twice = f'messages: roles must alternate between "user" and "assistant", but found multiple "{role}" roles'
            check(role == expected, twice if i else first)
            expected = "assistant" if role == "user" else "user"
            pending = self._read_message(message, at, pending, prompt)
        check(not pending, "messages: `tool_use` ids were found without `tool_result` blocks immediately after")
        content = messages[-1]["content"]
        blocks = [{"type": "text", "text": content}] if isinstance(content, str) else content
        prompt.after_tool_result = any(block["type"] == "tool_result" for block in blocks)
        if messages[-1]["role"] == "assistant":
            self._read_prefill(blocks, thinks, prompt)

    def _read_prefill(self, blocks: list[JSON], thinks: bool, prompt: Prompt) -> None:
        """The final assistant's turn, which the model continues."""
        last, first = blocks[-1].get("text", ""), blocks[0]["type"]
        check(last == last.rstrip(), "messages: final assistant content cannot end with trailing whitespace")
        thought = first in ("thinking", "redacted_thinking")
        expected = f"Expected `thinking` or `redacted_thinking`, but found `{first}`."
        check(thought or not thinks, f"{expected} When `thinking` is enabled, a final assistant turn must begin so.")
        prompt.prefill = "".join(block["text"] for block in blocks if block["type"] == "text")

    def _read_message(self, message: JSON, at: str, pending: set[str], prompt: Prompt) -> set[str]:
        """Reads one turn; ``pending`` are calls the turn must answer, returned are those it makes."""
        role: str = message["role"]
        content: Any = message.get("content")
        if isinstance(content, str):
            check(content, f"{at}: all messages must have non-empty content")
            content = [{"type": "text", "text": content}]
        check(isinstance(content, list) and content, f"{at}.content: Field required")
        texts: list[str] = []
        media: list[str] = []
        calls: set[str] = set()
        results: set[str] = set()
        for j, block in enumerate(content):
            where = f"{at}.content.{j}"
            kind = block.get("type") if isinstance(block, dict) else None
            tags = ", ".join(f"'{tag}'" for tag in _BLOCKS[role])
            check(kind in _BLOCKS[role], f"{where}: Input tag '{kind}' does not match any of the expected tags: {tags}")
            if kind == "tool_use":
                calls.add(self._call_id(block, where))
            elif kind == "tool_result":
                check(not texts and not media, f"{where}: `tool_result` blocks must come first in the content")
                results.add(block.get("tool_use_id"))
                prompt.texts += self._result_texts(block, where)
            else:
                self._read_block(block, where, texts, media)
        unexpected = results - pending
        check(not unexpected, f"{at}: unexpected `tool_use_id` found in `tool_result` blocks: {sorted(unexpected)}")
        check(results == pending, f"{at}: `tool_use` ids were found without `tool_result` blocks: {sorted(pending)}")
        prompt.texts += texts
        if role == "user" and (texts or media):
            prompt.last_user_text, prompt.media = "\n".join(texts), media
        return calls

    def _read_block(self, block: JSON, at: str, texts: list[str], media: list[str]) -> None:
        match block["type"]:
            case "text":
                check(isinstance(block.get("text"), str), f"{at}.text.text: Field required")
                check(block["text"].strip(), "messages: text content blocks must contain non-whitespace text")
                texts.append(block["text"])
            case "image" | "document":
                media.append(self._source(block, at))
            case "thinking":
                genuine = block.get("signature") == signature_of(block.get("thinking", ""))
                check(genuine, f"{at}: Invalid `signature` in `thinking` block")
            case "redacted_thinking":
                check(isinstance(block.get("data"), str), f"{at}.redacted_thinking.data: Field required")

    def _source(self, block: JSON, at: str) -> str:
        source = block.get("source") or {}
        match source.get("type"):
            case "base64":
                kind = str(source.get("media_type"))
                fits = kind in _IMAGE_TYPES if block["type"] == "image" else kind == "application/pdf"
                check(fits, f"{at}.source.base64.media_type: Input should be one of the supported types")
                check(is_base64(source.get("data")), f"{at}.source.base64: invalid base64 data")
                return kind
            case "url":
                url = str(source.get("url"))
                check(url.startswith("https://"), f"{at}.source.url: Only HTTPS URLs are supported")
                return f"url:{url}"
            case "file":
                return f"file:{source.get('file_id')}"
            case "text" if block["type"] == "document":
                return "text/plain"
        raise Refusal(400, f"{at}.source: Input tag does not match any of the expected tags")

    def _call_id(self, block: JSON, at: str) -> str:
        check(isinstance(block.get("id"), str), f"{at}.tool_use.id: Field required")
        check(isinstance(block.get("name"), str), f"{at}.tool_use.name: Field required")
        check(isinstance(block.get("input"), dict), f"{at}.tool_use.input: Input should be a valid dictionary")
        return str(block["id"])

    def _result_texts(self, block: JSON, at: str) -> list[str]:
        content = block.get("content", "")
        if isinstance(content, str):
            return [content]
        check(isinstance(content, list), f"{at}.tool_result.content: Input should be a valid list")
        texts: list[str] = []
        for part in content:
            kind = part.get("type") if isinstance(part, dict) else None
            check(kind in ("text", "image"), f"{at}.tool_result.content: Input tag '{kind}' does not match")
            self._read_block(part, at, texts, [])
        return texts

    def _read_tools(self, body: JSON, prompt: Prompt) -> None:
        tools, choice = body.get("tools", []), body.get("tool_choice") or {"type": "auto"}
        check(isinstance(tools, list), "tools: Input should be a valid list")
        check(tools or "tool_choice" not in body, "tool_choice may only be specified while providing tools")
        offered = []
        for i, tool in enumerate(tools):
            kind = tool.get("type", "custom")
            if _VENDOR_TOOL.fullmatch(kind):
                continue
            check(kind == "custom", f"tools.{i}: Input tag '{kind}' does not match any of the expected tags")
            schema = tool.get("input_schema")
            check(tool.get("name"), f"tools.{i}.custom.name: Field required")
            typed = isinstance(schema, dict) and schema.get("type") == "object"
            check(typed, f"tools.{i}.custom.input_schema.type: Field required")
            offered.append(OfferedTool(tool["name"], schema))
        mode = choice.get("type") if isinstance(choice, dict) else None
        check(mode in ("auto", "any", "tool", "none"), "tool_choice: Input tag does not match any of the expected tags")
        if mode == "tool":
            offered = [tool for tool in offered if tool.name == choice.get("name")]
            check(offered, f"Tool '{choice.get('name')}' not found in provided tools")
        prompt.tools = [] if mode == "none" else offered

    def _read_output_format(self, body: JSON, prompt: Prompt) -> None:
        wanted = (body.get("output_config") or {}).get("format")
        if wanted is not None:
            check(wanted.get("type") == "json_schema", "output_config.format.type: Input should be 'json_schema'")
            check(isinstance(wanted.get("schema"), dict), "output_config.format.schema: Field required")
            closed = wanted["schema"].get("additionalProperties") is False
            check(closed, "output_config.format.schema: 'additionalProperties' must be explicitly set to false")
            prompt.json_schema = wanted["schema"]

    # ----------------------------------------------------------------- answer

    def whole(self, answer: Answer, prompt: Prompt) -> JSON:
        content: list[JSON] = []
        if answer.thinking:
            thinking = "".join(answer.thinking)
            content.append({"type": "thinking", "thinking": thinking, "signature": signature_of(thinking)})
        if answer.text:
            content.append({"type": "text", "text": "".join(answer.text)})
        for call in answer.calls:
            arguments = json.loads(call.arguments)
            content.append({"type": "tool_use", "id": f"toolu_{call.id}", "name": call.name, "input": arguments})
        stop = self._stop_of(answer)
        return {**self._envelope(answer), "content": content, **stop, "usage": self._usage(answer)}

    def without_usage(self, body: JSON) -> JSON:
        return {name: value for name, value in body.items() if name != "usage"}

    def frames(self, answer: Answer, prompt: Prompt, behaviour: Behaviour) -> Iterator[Frame]:
        counts = behaviour.usage != "none"
        stop: JSON = {"stop_reason": None, "stop_sequence": None}
        started = {**self._envelope(answer), "content": [], **stop}
        if counts:
            started["usage"] = {**self._usage(answer), "output_tokens": 1}
            started["usage"].pop("output_tokens_details", None)
        yield Frame(_event("message_start", message=started))
        yield Frame(_event("ping"))
        for index, (opening, deltas) in enumerate(self._blocks(answer)):
            yield Frame(_event("content_block_start", index=index, content_block=opening))
            for delta, output, reasoning in deltas:
                kind = "content" if output or reasoning else "open"
                data = _event("content_block_delta", index=index, delta=delta)
                yield Frame(data, kind, output, reasoning)  # type: ignore[arg-type]
            yield Frame(_event("content_block_stop", index=index))
        usage = {"usage": self._usage(answer)} if counts else {}
        yield Frame(_event("message_delta", delta=self._stop_of(answer), **usage), "final", carries_usage=counts)
        yield Frame(_event("message_stop"), "end")

    def _blocks(self, answer: Answer) -> Iterator[tuple[JSON, list[tuple[JSON, int, int]]]]:
        """Each content block's opening and its deltas with their output and reasoning tokens."""
        if answer.thinking:
            deltas = [({"type": "thinking_delta", "thinking": piece}, 0, 1) for piece in answer.thinking]
            signature = signature_of("".join(answer.thinking))
            deltas.append(({"type": "signature_delta", "signature": signature}, 0, 0))
            yield {"type": "thinking", "thinking": "", "signature": ""}, deltas
        if answer.text:
            yield {"type": "text", "text": ""}, [({"type": "text_delta", "text": piece}, 1, 0) for piece in answer.text]
        for call in answer.calls:
            opening = {"type": "tool_use", "id": f"toolu_{call.id}", "name": call.name, "input": {}}
            pieces = [({"type": "input_json_delta", "partial_json": piece}, 1, 0) for piece in call.pieces]
            yield opening, [({"type": "input_json_delta", "partial_json": ""}, 0, 0), *pieces]

    def _envelope(self, answer: Answer) -> JSON:
        return {"id": f"msg_{answer.id}", "type": "message", "role": "assistant", "model": answer.model}

    def _stop_of(self, answer: Answer) -> JSON:
        if answer.stop_sequence is not None:
            return {"stop_reason": "stop_sequence", "stop_sequence": answer.stop_sequence}
        return {"stop_reason": _STOP_REASONS[answer.finish], "stop_sequence": None}

    def _usage(self, answer: Answer) -> JSON:
        """``input_tokens`` excludes what the cache counts tell, ``output_tokens`` includes thinking."""
        usage = answer.usage
        counts: JSON = {
            "input_tokens": usage.input,
            "cache_creation_input_tokens": usage.cache_write,
            "cache_read_input_tokens": usage.cached_input,
            "cache_creation": {"ephemeral_5m_input_tokens": usage.cache_write, "ephemeral_1h_input_tokens": 0},
            "output_tokens": usage.completion,
            "service_tier": "standard",
        }
        if answer.service_tier:
            counts["speed"] = answer.service_tier
        if usage.reasoning:
            counts["output_tokens_details"] = {"thinking_tokens": usage.reasoning}
        return counts

    # ----------------------------------------------------------------- errors and models

    def error_body(self, refusal: Refusal) -> JSON:
        family = refusal.status if refusal.status in _TYPES else (500 if refusal.status >= 500 else 400)
        error = {"type": _TYPES[family][0], "message": refusal.message}
        return {"type": "error", "error": error, "request_id": "req_scripted"}

    def error_event(self, answer: Answer | None = None, number: int = 0, *, plain: bool = False) -> bytes:
        return _event("error", error={"type": "overloaded_error", "message": "Overloaded"})

    def refusal(self, status: int, key: str | None) -> Refusal:
        family = status if status in _TYPES else (500 if status >= 500 else 400)
        return Refusal(status, _TYPES[family][1])

    def context_exceeded(self, prompt: Prompt) -> Refusal:
        return Refusal(400, "prompt is too long: 200001 tokens > 200000 maximum")

    def prefill_refused(self) -> Refusal:
        reason = "This model does not support assistant message prefill."
        return Refusal(400, f"{reason} The conversation must end with a user message.")

    def pings(self, answer: Answer) -> Sequence[bytes]:
        return (_event("ping"),)

    def rate_limit_headers(self, quota: Quota) -> dict[str, str]:
        reset_at = datetime.now(UTC) + timedelta(seconds=quota.reset_s)
        return {
            "anthropic-ratelimit-requests-limit": str(quota.limit),
            "anthropic-ratelimit-requests-remaining": str(quota.remaining),
            "anthropic-ratelimit-requests-reset": reset_at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        }

    def models(self, names: Sequence[str]) -> JSON:
        data = [self.model(name) for name in names]
        return {"data": data, "has_more": False, "first_id": data[0]["id"], "last_id": data[-1]["id"]}

    def model(self, name: str) -> JSON:
        return {"type": "model", "id": name, "display_name": name, "created_at": "2026-01-01T00:00:00Z"}


def _event(kind: str, **fields: Any) -> bytes:
    return sse({"type": kind, **fields}, event=kind)
