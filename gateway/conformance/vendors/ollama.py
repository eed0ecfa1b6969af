"""Ollama /api/chat: streams unless told not to, one JSON object a line, types as strict as its Go structs."""

import json
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any

from gateway.conformance.vendors.answers import Answer, Frame, OfferedTool, Prompt
from gateway.conformance.vendors.behaviours import Behaviour
from gateway.conformance.vendors.formats import JSON, Format, Refusal, check, dump, is_base64
from gateway.conformance.vendors.http import HttpRequest

_MESSAGES = {
    400: "invalid request",
    401: "unauthorized",
    404: "model not found, try pulling it first",
    429: "too many requests",
    500: "llama runner process has terminated: exit status 2",
    503: "server busy, please try again. maximum pending requests exceeded",
}


class Ollama(Format):
    name = "ollama"
    reports_cache = False
    reports_reasoning = False
    stream_type = "application/x-ndjson"
    broken_event = b'{"broken": [\n'

    def key_of(self, request: HttpRequest) -> str | None:
        return request.headers.get("authorization", "").partition(" ")[2] or None

    def authenticate(self, key: str | None, keys: frozenset[str] | None) -> None:
        """A local server asks for no key; one that is sent all the same must be right."""
        if key is not None and keys is not None and key not in keys:
            raise self.refusal(401, key)

    def model_of(self, request: HttpRequest, body: JSON) -> str:
        model = body.get("model")
        return model if isinstance(model, str) else ""

    def streams(self, request: HttpRequest, body: JSON) -> bool:
        return body.get("stream") is not False

    def headers(self, number: str) -> dict[str, str]:
        return {}

    # ----------------------------------------------------------------- request

    def parse(self, request: HttpRequest, body: JSON) -> Prompt:
        model = self.model_of(request, body)
        check(model, "model is required")
        prompt = Prompt(model, self.streams(request, body))
        messages: Any = body.get("messages")
        check(isinstance(messages, list) and messages, "messages must not be empty")
        for message in messages:
            self._read_message(message, prompt)
        prompt.after_tool_result = messages[-1]["role"] == "tool"
        if messages[-1]["role"] == "assistant" and not messages[-1].get("tool_calls"):
            prompt.prefill = messages[-1].get("content", "")
        for tool in body.get("tools") or []:
            function = tool.get("function") or {}
            check(tool.get("type") == "function" and function.get("name"), "invalid tool: function name is required")
            prompt.tools.append(OfferedTool(function["name"], function.get("parameters") or {}))
        self._read_options(body.get("options") or {}, prompt)
        wanted = body.get("format")
        check(wanted in (None, "", "json") or isinstance(wanted, dict), 'invalid format: expected "json" or a schema')
        prompt.json_schema = wanted if isinstance(wanted, dict) else None
        check(body.get("think") in (None, True, False, "low", "medium", "high"), "invalid think value")
        return prompt

    def _read_message(self, message: Any, prompt: Prompt) -> None:
        check(isinstance(message, dict), "json: cannot unmarshal into Go struct field ChatRequest.messages")
        role, content = message.get("role"), message.get("content", "")
        check(role in ("system", "user", "assistant", "tool"), f"invalid role: {role}")
        check(isinstance(content, str), _unmarshal(content, "content", "string"))
        images = message.get("images") or []
        sound = isinstance(images, list) and all(is_base64(image) for image in images)
        check(sound, "illegal base64 data at input byte 0")
        for call in message.get("tool_calls") or []:
            arguments = (call.get("function") or {}).get("arguments")
            field = "tool_calls.function.arguments"
            check(isinstance(arguments, dict), _unmarshal(arguments, field, "api.ToolCallFunctionArguments"))
        prompt.texts.append(content)
        if role == "user":
            prompt.last_user_text, prompt.media = content, ["image"] * len(images)

    def _read_options(self, options: Any, prompt: Prompt) -> None:
        check(isinstance(options, dict), _unmarshal(options, "options", "map[string]interface {}"))
        limit, stop = options.get("num_predict"), options.get("stop") or []
        check(limit is None or isinstance(limit, int), 'option "num_predict" must be of type integer')
        check(isinstance(stop, list), 'option "stop" must be of type array')
        prompt.max_tokens = limit if limit is not None and limit >= 0 else None
        prompt.stop = stop

    # ----------------------------------------------------------------- answer

    def whole(self, answer: Answer, prompt: Prompt) -> JSON:
        message: JSON = {"role": "assistant", "content": "".join(answer.text)}
        if answer.thinking:
            message["thinking"] = "".join(answer.thinking)
        if answer.calls:
            message["tool_calls"] = self._calls(answer)
        return {**self._line(answer, message), **self._done(answer)}

    def without_usage(self, body: JSON) -> JSON:
        return {name: value for name, value in body.items() if not name.endswith("eval_count")}

    def frames(self, answer: Answer, prompt: Prompt, behaviour: Behaviour) -> Iterator[Frame]:
        for piece in answer.thinking:
            yield self._content(answer, {"role": "assistant", "content": "", "thinking": piece}, reasoning=1)
        for piece in answer.text:
            yield self._content(answer, {"role": "assistant", "content": piece}, output=1)
        for written, call in zip(self._calls(answer), answer.calls, strict=True):
            message = {"role": "assistant", "content": "", "tool_calls": [written]}
            yield self._content(answer, message, output=len(call.pieces))
        done = {**self._line(answer, {"role": "assistant", "content": ""}), **self._done(answer)}
        counts = behaviour.usage != "none"
        yield Frame(dump(done if counts else self.without_usage(done)) + b"\n", "final", carries_usage=counts)

    def _content(self, answer: Answer, message: JSON, output: int = 0, reasoning: int = 0) -> Frame:
        line = {**self._line(answer, message), "done": False}
        return Frame(dump(line) + b"\n", "content", output, reasoning)

    def _calls(self, answer: Answer) -> list[JSON]:
        return [{"function": {"name": call.name, "arguments": json.loads(call.arguments)}} for call in answer.calls]

    def _line(self, answer: Answer, message: JSON) -> JSON:
        created = datetime.fromtimestamp(answer.created, UTC).isoformat()
        return {"model": answer.model, "created_at": created, "message": message}

    def _done(self, answer: Answer) -> JSON:
        """The closing fields; ``eval_count`` includes thinking."""
        return {
            "done_reason": "length" if answer.finish == "length" else "stop",
            "done": True,
            "total_duration": 1_000_000,
            "load_duration": 1000,
            "prompt_eval_count": answer.usage.prompt,
            "prompt_eval_duration": 1000,
            "eval_count": answer.usage.completion,
            "eval_duration": 1000,
        }

    # ----------------------------------------------------------------- errors and models

    def error_body(self, refusal: Refusal) -> JSON:
        return {"error": refusal.message}

    def error_event(self, answer: Answer | None = None, number: int = 0, *, plain: bool = False) -> bytes:
        return b'{"error":"an error was encountered while running the model"}\n'

    def refusal(self, status: int, key: str | None) -> Refusal:
        family = status if status in _MESSAGES else (500 if status >= 500 else 400)
        return Refusal(status, _MESSAGES[family])

    def context_exceeded(self, prompt: Prompt) -> Refusal:
        return Refusal(400, "the input length exceeds the context length")

    def prefill_refused(self) -> Refusal:
        return Refusal(400, "this model does not support assistant message prefill")

    def pings(self, answer: Answer) -> Sequence[bytes]:
        line = {**self._line(answer, {"role": "assistant", "content": ""}), "done": False}
        return (dump(line) + b"\n",)

    def models(self, names: Sequence[str]) -> JSON:
        return {"models": [self.model(name) for name in names]}

    def model(self, name: str) -> JSON:
        details = {"format": "gguf", "family": "llama", "parameter_size": "8B", "quantization_level": "Q4_K_M"}
        facts = {"modified_at": "2026-01-01T00:00:00Z", "size": 1, "digest": "0" * 64}
        return {"name": name, "model": name, **facts, "details": details}


def _unmarshal(value: Any, field: str, wanted: str) -> str:
    kinds: dict[type, str] = {str: "string", list: "array", dict: "object"}
    kind = kinds.get(type(value), "value")
    return f"json: cannot unmarshal {kind} into Go struct field ChatRequest.messages.{field} of type {wanted}"
