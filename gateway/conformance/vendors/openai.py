"""OpenAI chat completions, strict as the original on what it knows; unknown fields are let through, as look-alikes do.

Only a field that starts with "x-" is refused as unrecognised: no vendor has one.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import zip_longest
from typing import Any

from gateway.conformance.vendors.answers import Answer, Call, Frame, OfferedTool, Prompt
from gateway.conformance.vendors.behaviours import Behaviour
from gateway.conformance.vendors.formats import (
    JSON,
    Format,
    Refusal,
    check,
    dump,
    is_base64,
    is_count,
    is_number,
    masked,
    sse,
)
from gateway.conformance.vendors.http import HttpRequest
from gateway.conformance.vendors.quotas import Quota

_ROLES = ("system", "developer", "user", "assistant", "tool")
_PARTS = {
    "system": ("text",),
    "developer": ("text",),
    "user": ("text", "image_url", "input_audio", "file"),
    "assistant": ("text", "refusal"),
    "tool": ("text",),
}
NUMBERS = {"temperature": (0, 2), "top_p": (0, 1), "presence_penalty": (-2, 2), "frequency_penalty": (-2, 2)}
EFFORTS = ("none", "minimal", "low", "medium", "high", "xhigh")
TOOL_NAME = re.compile(r"[A-Za-z0-9_-]{1,64}")
_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+);base64,(.*)", re.DOTALL)
_TYPES = {
    401: ("invalid_request_error", "invalid_api_key", "Incorrect API key provided: {key}."),
    403: ("invalid_request_error", "unsupported_country", "Project proj_scripted has no access."),
    404: ("invalid_request_error", "model_not_found", "The model does not exist or you do not have access to it."),
    429: (
        "requests",
        "rate_limit_exceeded",
        "Rate limit reached in organization org-scripted on requests per min (RPM): Limit 3, Used 3, Requested 1.",
    ),
    500: ("server_error", None, "The server had an error while processing your request."),
    503: ("service_unavailable", None, "The engine is currently overloaded, please try again later."),
}
_FINISH = {
    "stop": "stop",
    "length": "length",
    "tool_calls": "tool_calls",
    "content_filter": "content_filter",
    "refusal": "stop",
}
# The tier that an answer names, by the one that is asked for: capacity is never short here.
_SERVED_AS = {None: "", "auto": "", "fast": "priority"} | {
    tier: tier for tier in ("default", "flex", "priority", "ultrafast", "scale")
}


class OpenAI(Format):
    name = "openai"
    end_is_optional = True

    def key_of(self, request: HttpRequest) -> str | None:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        return key if scheme.lower() == "bearer" and key else None

    def authenticate(self, key: str | None, keys: frozenset[str] | None) -> None:
        if key is None:
            raise Refusal(401, "You didn't provide an API key in an Authorization header using Bearer auth.")
        if keys is not None and key not in keys:
            raise self.refusal(401, key)

    def model_of(self, request: HttpRequest, body: JSON) -> str:
        model = body.get("model")
        return model if isinstance(model, str) else ""

    def streams(self, request: HttpRequest, body: JSON) -> bool:
        return body.get("stream") is True

    def headers(self, number: str) -> dict[str, str]:
        return {
            "x-request-id": f"req_{number}",
            "openai-organization": "org-scripted",
            "openai-processing-ms": "1",
            "x-ratelimit-remaining-requests": "59",
            "set-cookie": "__cf_bm=scripted; path=/; HttpOnly",
        }

    # ----------------------------------------------------------------- request

    def parse(self, request: HttpRequest, body: JSON) -> Prompt:
        model = self.model_of(request, body)
        check(model, "you must provide a model parameter")
        for name in body:
            check(not name.startswith("x-"), f"Unrecognized request argument supplied: {name}", param=name)
        prompt = Prompt(model, stream=self.streams(request, body))
        self._check_knobs(body)
        self._read_messages(body.get("messages"), prompt)
        self._read_tools(body, prompt)
        self._read_response_format(body.get("response_format"), prompt)
        stop = body.get("stop")
        prompt.stop = [stop] if isinstance(stop, str) else stop or []
        limit = body.get("max_completion_tokens")
        prompt.max_tokens = body.get("max_tokens") if limit is None else limit
        prompt.choices = body.get("n") or 1
        prompt.logprobs = bool(body.get("logprobs"))
        prompt.service_tier = _SERVED_AS[body.get("service_tier")]
        prompt.include_usage = not prompt.stream or bool((body.get("stream_options") or {}).get("include_usage"))
        return prompt

    def _check_knobs(self, body: JSON) -> None:
        for name, (low, high) in NUMBERS.items():
            value = body.get(name)
            check(value is None or is_number(value, low, high), f"Invalid '{name}': out of range.", param=name)
        for name in ("max_tokens", "max_completion_tokens", "n"):
            value = body.get(name)
            check(value is None or is_count(value), f"Invalid '{name}': integer below minimum value.", param=name)
        both = body.get("max_tokens") is not None and body.get("max_completion_tokens") is not None
        check(not both, "Setting 'max_tokens' and 'max_completion_tokens' at the same time is not supported.")
        stop = body.get("stop")
        listed = isinstance(stop, list) and len(stop) <= 4 and all(isinstance(item, str) for item in stop)
        check(stop is None or isinstance(stop, str) or listed, "Invalid 'stop': up to 4 strings.", param="stop")
        check(isinstance(body.get("stream", False), bool | None), "Invalid type for 'stream'.", param="stream")
        options = body.get("stream_options")
        allowed = options is None or body.get("stream") is True
        check(allowed, "The 'stream_options' parameter is only allowed when 'stream' is enabled.")
        effort = body.get("reasoning_effort")
        check(effort is None or effort in EFFORTS, f"Unsupported value: '{effort}'.", param="reasoning_effort")
        tier = body.get("service_tier")
        check(tier in _SERVED_AS, "Invalid value for 'service_tier'.", param="service_tier")
        top_logprobs = body.get("top_logprobs") is None or body.get("logprobs") is True
        check(top_logprobs, "The 'top_logprobs' parameter requires 'logprobs'.", param="top_logprobs")

    def _read_messages(self, messages: Any, prompt: Prompt) -> None:
        check(isinstance(messages, list), "Missing required parameter: 'messages'.", param="messages")
        check(messages, "Invalid 'messages': empty array.", param="messages", code="empty_array")
        pending: set[str] = set()
        for i, message in enumerate(messages):
            at = f"messages[{i}]"
            check(isinstance(message, dict), f"Invalid type for '{at}': expected an object.", param=at)
            role = message.get("role")
            check(role in _ROLES, f"Invalid value: '{role}'.", param=f"{at}.role", code="invalid_value")
            if role == "tool":
                known = message.get("tool_call_id") in pending
                check(known, "'tool' must be a response to a preceding message with 'tool_calls'.", param=at)
                pending.discard(message["tool_call_id"])
            else:
                answered = f"'tool_calls' must be followed by tool messages: {', '.join(sorted(pending))}"
                check(not pending, answered, param=at)
            continues = role == "assistant" and i == len(messages) - 1
            check(continues or not message.get("prefix"), "'prefix' is only for a last assistant message.", param=at)
            self._read_content(message, at, prompt)
            if role == "assistant":
                pending = self._read_calls(message.get("tool_calls"), at)
        check(not pending, "An assistant message with 'tool_calls' must be followed by tool messages.")
        prompt.after_tool_result = messages[-1].get("role") == "tool"
        if messages[-1].get("role") == "assistant":
            content = messages[-1].get("content") or ""
            parts = [] if isinstance(content, str) else content
            prompt.prefill = "".join(part.get("text", "") for part in parts) if parts else content

    def _read_content(self, message: JSON, at: str, prompt: Prompt) -> None:
        role, content = message["role"], message.get("content")
        texts: list[str] = []
        media: list[str] = []
        if content is None:
            may_be_empty = role == "assistant" and (message.get("tool_calls") or message.get("refusal"))
            check(may_be_empty, "Invalid value for 'content': expected a string, got null.", param=f"{at}.content")
        elif isinstance(content, str):
            texts.append(content)
        else:
            check(isinstance(content, list) and content, f"Invalid type for '{at}.content'.", param=f"{at}.content")
            for j, part in enumerate(content):
                self._read_part(part, role, f"{at}.content[{j}]", texts, media)
        prompt.texts += texts
        if role == "user":
            prompt.last_user_text, prompt.media = "\n".join(texts), media

    def _read_part(self, part: Any, role: str, at: str, texts: list[str], media: list[str]) -> None:
        kind = part.get("type") if isinstance(part, dict) else None
        check(kind in _PARTS[role], f"Invalid value: '{kind}'.", param=at, code="invalid_value")
        match kind:
            case "text":
                check(isinstance(part.get("text"), str), "Missing required parameter: 'text'.", param=at)
                texts.append(part["text"])
            case "image_url":
                media.append(self._image(part.get("image_url"), at))
            case "input_audio":
                audio = part.get("input_audio") or {}
                sound = audio.get("format") in ("wav", "mp3") and is_base64(audio.get("data"))
                check(sound, "Invalid 'input_audio'.", param=at)
                media.append(f"audio/{audio['format']}")
            case "file":
                media.append(self._file(part.get("file"), at))

    def _image(self, image: Any, at: str) -> str:
        url: Any = image.get("url") if isinstance(image, dict) else None
        check(isinstance(url, str), "Missing required parameter: 'image_url.url'.", param=at)
        if found := _DATA_URL.fullmatch(url):
            check(is_base64(found[2]), "Invalid base64 image_url.", param=at, code="invalid_image_url")
            return found[1]
        check(url.startswith(("https://", "http://")), "Invalid image URL.", param=at, code="invalid_image_url")
        return f"url:{url}"

    def _file(self, file: Any, at: str) -> str:
        check(isinstance(file, dict), "Missing required parameter: 'file'.", param=at)
        if "file_id" in file:
            return f"file:{file['file_id']}"
        found = _DATA_URL.fullmatch(file.get("file_data") or "")
        check(found and is_base64(found[2]), "Invalid 'file.file_data': expected a data URL.", param=at)
        check(file.get("filename"), "Missing required parameter: 'file.filename'.", param=at)
        return found[1] if found else ""

    def _read_calls(self, calls: Any, at: str) -> set[str]:
        check(calls is None or (isinstance(calls, list) and calls), "Invalid 'tool_calls': empty array.", param=at)
        ids = set()
        for j, call in enumerate(calls or []):
            where = f"{at}.tool_calls[{j}]"
            function = call.get("function") or {}
            sound = call.get("type") == "function" and isinstance(call.get("id"), str)
            check(sound, f"Missing required parameter: '{where}.id' or type.", param=where)
            named = isinstance(function.get("name"), str) and isinstance(function.get("arguments"), str)
            check(named, f"Invalid type for '{where}.function.arguments': expected a string.", param=where)
            ids.add(call["id"])
        return ids

    def _read_tools(self, body: JSON, prompt: Prompt) -> None:
        tools, choice = body.get("tools"), body.get("tool_choice")
        check(tools is None or (isinstance(tools, list) and tools), "Invalid 'tools': empty array.", param="tools")
        check(tools or choice in (None, "none"), "'tool_choice' is only allowed when 'tools' are specified.")
        parallel = body.get("parallel_tool_calls")
        check(tools or parallel is None, "'parallel_tool_calls' is only allowed when 'tools' are specified.")
        offered = []
        for i, tool in enumerate(tools or []):
            function: Any = tool.get("function") if tool.get("type") == "function" else None
            check(isinstance(function, dict), f"Missing required parameter: 'tools[{i}].function'.", param="tools")
            name, schema = function.get("name"), function.get("parameters") or {}
            check(TOOL_NAME.fullmatch(name or ""), f"Invalid 'tools[{i}].function.name'.", param="tools")
            check(isinstance(schema, dict), f"Invalid schema for function '{name}'.", param="tools")
            offered.append(OfferedTool(name, schema))
        if isinstance(choice, dict):
            wanted = (choice.get("function") or {}).get("name")
            offered = [tool for tool in offered if tool.name == wanted]
            check(offered, f"Tool choice '{wanted}' not found in 'tools' parameter.", param="tool_choice")
        else:
            check(choice in (None, "none", "auto", "required"), "Invalid 'tool_choice'.", param="tool_choice")
        prompt.tools = [] if choice == "none" else offered

    def _read_response_format(self, wanted: Any, prompt: Prompt) -> None:
        if wanted is None:
            return
        kind = wanted.get("type") if isinstance(wanted, dict) else None
        check(kind in ("text", "json_object", "json_schema"), "Invalid 'response_format'.", param="response_format")
        if kind == "json_object":
            said = any("json" in text.lower() for text in prompt.texts)
            check(said, "'messages' must contain the word 'json' in some form.", param="messages")
        if kind == "json_schema":
            named = wanted.get("json_schema") or {}
            schema: Any = named.get("schema")
            check(named.get("name"), "Missing required parameter: 'response_format.json_schema.name'.")
            check(isinstance(schema, dict), "Missing required parameter: 'response_format.json_schema.schema'.")
            if named.get("strict") is True:
                check_strict_schema(schema, "response_format")
            prompt.json_schema = schema

    # ----------------------------------------------------------------- answer

    def whole(self, answer: Answer, prompt: Prompt) -> JSON:
        text = "".join(answer.text)
        refused = answer.finish == "refusal"
        message: JSON = {"role": "assistant", "content": text or None, "refusal": None, "annotations": []}
        if refused:
            message |= {"content": None, "refusal": text}
        if answer.thinking:
            message["reasoning_content"] = "".join(answer.thinking)
        if answer.calls:
            message["tool_calls"] = [_whole_call(call) for call in answer.calls]
        choice = {"message": message, "logprobs": self._logprobs(answer.text, prompt)}
        choices = [{"index": i, **choice, "finish_reason": _FINISH[answer.finish]} for i in range(prompt.choices)]
        return {**self._envelope(answer, "chat.completion"), "choices": choices, "usage": self._usage(answer)}

    def without_usage(self, body: JSON) -> JSON:
        return {name: value for name, value in body.items() if name != "usage"}

    def frames(self, answer: Answer, prompt: Prompt, behaviour: Behaviour) -> Iterator[Frame]:
        envelope = self._envelope(answer, "chat.completion.chunk")
        everywhere = behaviour.usage == "every_chunk"
        asked = prompt.include_usage and not everywhere and behaviour.usage != "none"
        sent = {"output": 0, "reasoning": 0}

        def chunk(choices: list[JSON], usage: JSON | None = None) -> bytes:
            if everywhere:
                usage = self._usage(answer, **sent)
            return sse({**envelope, "choices": choices, **({"usage": usage} if asked or everywhere else {})})

        def piece(delta: JSON, index: int, finish: str | None = None, token: str | None = None) -> bytes:
            logprobs = None if token is None else self._logprobs([token], prompt)
            return chunk([{"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": finish}])

        for index in range(prompt.choices):
            yield Frame(piece({"role": "assistant", "content": "", "refusal": None}, index))
            for delta, output, reasoning in self._deltas(answer):
                sent["output"] += output
                sent["reasoning"] += reasoning
                yield Frame(piece(delta, index, token=delta.get("content")), "content", output, reasoning)
        for index in range(prompt.choices):
            last = everywhere and index == prompt.choices - 1
            yield Frame(piece({}, index, _FINISH[answer.finish]), "final", carries_usage=last)
        if asked:
            yield Frame(chunk([], self._usage(answer)), carries_usage=True)
        yield Frame(b"data: [DONE]\n\n", "end")

    def _deltas(self, answer: Answer) -> Iterator[tuple[JSON, int, int]]:
        """Each delta with its output and reasoning tokens; the pieces of parallel calls take turns."""
        for thought in answer.thinking:
            yield {"reasoning_content": thought}, 0, 1
        field = "refusal" if answer.finish == "refusal" else "content"
        for token in answer.text:
            yield {field: token}, 1, 0
        for i, call in enumerate(answer.calls):
            opening = {"index": i, **_whole_call(call)}
            opening["function"] = {"name": call.name, "arguments": ""}
            yield {"tool_calls": [opening]}, 0, 0
        for turn in zip_longest(*(call.pieces for call in answer.calls)):
            for i, arguments in enumerate(turn):
                if arguments is not None:
                    yield {"tool_calls": [{"index": i, "function": {"arguments": arguments}}]}, 1, 0

    def _envelope(self, answer: Answer, kind: str) -> JSON:
        return {
            "id": f"chatcmpl-{answer.id}",
            "object": kind,
            "created": answer.created,
            "model": answer.model,
            "service_tier": answer.service_tier or ("flex" if "flex" in answer.model.split("-") else "default"),
            "system_fingerprint": "fp_scripted",
        }

    def _usage(self, answer: Answer, output: int | None = None, reasoning: int | None = None) -> JSON:
        """Inclusive counts; ``output`` and ``reasoning`` replace the final ones in running usage."""
        usage = answer.usage
        thought = usage.reasoning if reasoning is None else reasoning
        completion = (usage.output if output is None else output) + thought
        return {
            "prompt_tokens": usage.prompt,
            "completion_tokens": completion,
            "total_tokens": usage.prompt + completion,
            "prompt_tokens_details": {"cached_tokens": usage.cached_input, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": thought,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        }

    def _logprobs(self, tokens: list[str], prompt: Prompt) -> JSON | None:
        return {"content": logprobs_of(tokens), "refusal": None} if prompt.logprobs else None

    # ----------------------------------------------------------------- errors and models

    def error_body(self, refusal: Refusal) -> JSON:
        kind = _TYPES.get(refusal.status, ("invalid_request_error",))[0]
        return {"error": {"message": refusal.message, "type": kind, "param": refusal.param, "code": refusal.code}}

    def error_event(self, answer: Answer | None = None, number: int = 0, *, plain: bool = False) -> bytes:
        failed = {"message": "The server had an error while processing your request.", "type": "server_error"}
        return b"data: %b\n\n" % dump({"error": {**failed, "param": None, "code": None}})

    def refusal(self, status: int, key: str | None) -> Refusal:
        family = status if status in _TYPES else (500 if status >= 500 else 400)
        _, code, message = _TYPES.get(family, ("", None, "The request was refused."))
        return Refusal(status, message.format(key=masked(key or "")), code=code)

    def context_exceeded(self, prompt: Prompt) -> Refusal:
        message = (
            "This model's maximum context length is 128000 tokens. However, your messages resulted in 128001 tokens."
        )
        return Refusal(400, message, param="messages", code="context_length_exceeded")

    def prefill_refused(self) -> Refusal:
        """In the words of a look-alike: the original begins a turn of its own."""
        expected = "Expected last role User or Tool (or Assistant with prefix True) for serving"
        return Refusal(400, f"{expected} but got assistant", param="messages")

    def pings(self, answer: Answer) -> Sequence[bytes]:
        delta = {"role": "assistant", "content": ""}
        choice = {"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}
        return b": keep-alive\n\n", sse({**self._envelope(answer, "chat.completion.chunk"), "choices": [choice]})

    def rate_limit_headers(self, quota: Quota) -> dict[str, str]:
        return {
            "x-ratelimit-limit-requests": str(quota.limit),
            "x-ratelimit-remaining-requests": str(quota.remaining),
            "x-ratelimit-reset-requests": f"{quota.reset_s:.3f}s",
        }

    def models(self, names: Sequence[str]) -> JSON:
        return {"object": "list", "data": [self.model(name) for name in names]}

    def model(self, name: str) -> JSON:
        return {"id": name, "object": "model", "created": 1_700_000_000, "owned_by": "scripted"}


def check_strict_schema(schema: JSON, param: str) -> None:
    """Raises Refusal unless ``schema`` is as closed as ``strict`` demands."""
    closed = schema.get("additionalProperties") is False
    complete = set(schema.get("required", [])) == set(schema.get("properties", {}))
    message = "Invalid schema: 'additionalProperties' must be false and 'required' list every property."
    check(closed and complete, message, param=param, code="invalid_json_schema")


def logprobs_of(tokens: list[str]) -> list[JSON]:
    return [{"token": token, "logprob": -0.125, "bytes": list(token.encode()), "top_logprobs": []} for token in tokens]


def _whole_call(call: Call) -> JSON:
    return {
        "id": f"call_{call.id}",
        "type": "function",
        "function": {"name": call.name, "arguments": call.arguments},
    }
