"""Gemini generateContent, strict as its protobuf JSON: an unknown field is refused, names are camelCase."""

import json
import re
from collections.abc import Collection, Iterator, Sequence
from typing import Any

from gateway.conformance.vendors.answers import Answer, Frame, OfferedTool, Prompt, signature_of
from gateway.conformance.vendors.behaviours import Behaviour
from gateway.conformance.vendors.formats import JSON, Format, Refusal, check, is_base64, is_count, is_number, sse, words
from gateway.conformance.vendors.http import HttpRequest

PATH = re.compile(r"/v1beta/models/([^/:]+):(generateContent|streamGenerateContent)")

_REQUEST = words("contents systemInstruction tools toolConfig safetySettings generationConfig cachedContent labels")
_CONFIG = words(
    "stopSequences responseMimeType responseSchema responseJsonSchema responseModalities candidateCount "
    "maxOutputTokens temperature topP topK seed presencePenalty frequencyPenalty responseLogprobs logprobs "
    "thinkingConfig mediaResolution speechConfig"
)
_SCHEMA = words(
    "type format title description nullable enum items minItems maxItems properties required minProperties "
    "maxProperties minLength maxLength pattern example anyOf propertyOrdering default minimum maximum"
)
_DATA = ("text", "inlineData", "fileData", "functionCall", "functionResponse")
_PART = frozenset((*_DATA, "thought", "thoughtSignature", "videoMetadata"))
_STATUSES = {
    400: ("INVALID_ARGUMENT", "Request contains an invalid argument."),
    401: ("UNAUTHENTICATED", "Request had invalid authentication credentials."),
    403: ("PERMISSION_DENIED", "Permission denied on project projects/123456789."),
    404: ("NOT_FOUND", "The model is not found for API version v1beta."),
    408: ("CANCELLED", "The operation was cancelled."),
    429: ("RESOURCE_EXHAUSTED", "You exceeded your current quota of project projects/123456789."),
    500: ("INTERNAL", "An internal error has occurred."),
    503: ("UNAVAILABLE", "The model is overloaded. Please try again later."),
    504: ("DEADLINE_EXCEEDED", "The request timed out."),
}
_FINISH = {
    "stop": "STOP",
    "length": "MAX_TOKENS",
    "tool_calls": "STOP",
    "content_filter": "SAFETY",
}


class Gemini(Format):
    name = "gemini"
    stream_type = "text/event-stream"

    def key_of(self, request: HttpRequest) -> str | None:
        return request.headers.get("x-goog-api-key") or request.query.get("key") or None

    def authenticate(self, key: str | None, keys: frozenset[str] | None) -> None:
        if key is None:
            raise Refusal(403, "Method doesn't allow unregistered callers (callers without established identity).")
        if keys is not None and key not in keys:  # a wrong key is a 400 at this vendor
            raise Refusal(400, "API key not valid. Please pass a valid API key.", code="API_KEY_INVALID")

    def model_of(self, request: HttpRequest, body: JSON) -> str:
        found = PATH.fullmatch(request.path)
        return found[1] if found else ""

    def streams(self, request: HttpRequest, body: JSON) -> bool:
        return request.path.endswith(":streamGenerateContent")

    def headers(self, number: str) -> dict[str, str]:
        return {"server": "scaffolding on HTTPServer2", "x-gemini-service-tier": "standard"}

    # ----------------------------------------------------------------- request

    def parse(self, request: HttpRequest, body: JSON) -> Prompt:
        stream = self.streams(request, body)
        check(not stream or request.query.get("alt") == "sse", "this scripted vendor streams with alt=sse only")
        _check_names(body, _REQUEST, "")
        prompt = Prompt(self.model_of(request, body), stream)
        instruction = body.get("systemInstruction")
        if instruction is not None:
            parts = instruction.get("parts") if isinstance(instruction, dict) else None
            sound = isinstance(parts, list) and all(isinstance(p, dict) and set(p) == {"text"} for p in parts)
            check(sound, "System instruction should only contain text parts.")
            prompt.texts += [part["text"] for part in instruction["parts"]]
        self._read_contents(body.get("contents"), prompt)
        self._read_tools(body, prompt)
        self._read_config(body.get("generationConfig") or {}, prompt)
        return prompt

    def _read_contents(self, contents: Any, prompt: Prompt) -> None:
        check(isinstance(contents, list) and contents, "* GenerateContentRequest.contents: contents is not specified")
        calls = 0
        for i, content in enumerate(contents):
            at = f"contents[{i}]"
            _check_names(content, ("role", "parts"), f" at '{at}'")
            role, parts = content.get("role", "user"), content.get("parts")
            check(role in ("user", "model", "function"), "Please use a valid role: user, model.")
            check(isinstance(parts, list) and parts, f"* GenerateContentRequest.{at}.parts: must not be empty")
            results = sum("functionResponse" in part for part in parts)
            balanced = results == calls or (i == 0 and not results)
            check(
                balanced, "Number of function response parts must equal the function call parts of the previous turn."
            )
            calls = sum("functionCall" in part for part in parts)
            check(not calls or role == "model", "A function call must come from the model.")
            self._read_parts(parts, role, at, prompt)
        check(contents[-1].get("role", "user") != "model" or not calls, "Function calls need a function response.")
        last = contents[-1]
        prompt.after_tool_result = any("functionResponse" in part for part in last["parts"])
        if last.get("role") == "model":
            prompt.prefill = "".join(part.get("text", "") for part in last["parts"] if not part.get("thought"))

    def _read_parts(self, parts: list[Any], role: str, at: str, prompt: Prompt) -> None:
        texts: list[str] = []
        media: list[str] = []
        for j, part in enumerate(parts):
            where = f"{at}.parts[{j}]"
            _check_names(part, _PART, f" at '{where}'")
            given = [name for name in _DATA if name in part]
            check(
                len(given) == 1, f"* GenerateContentRequest.{where}.data: required oneof field 'data' must be set once"
            )
            signature = part.get("thoughtSignature")
            check(signature is None or isinstance(signature, str), "Thought signature is not valid.")
            value = part[given[0]]
            match given[0]:
                case "text":
                    check(isinstance(value, str), f"Invalid value at '{where}.text' (TYPE_STRING)")
                    if not part.get("thought"):
                        texts.append(value)
                case "inlineData":
                    _check_names(value, ("mimeType", "data", "displayName"), f" at '{where}.inline_data'")
                    check(value.get("mimeType") and is_base64(value.get("data")), f"Invalid value at '{where}' (BYTES)")
                    media.append(value["mimeType"])
                case "fileData":
                    check(value.get("fileUri"), f"Invalid value at '{where}.file_data'")
                    media.append(f"url:{value['fileUri']}")
                case "functionCall":
                    sound = isinstance(value.get("name"), str) and isinstance(value.get("args", {}), dict)
                    check(sound, f"Invalid value at '{where}.function_call.args' (type.googleapis.com/Struct)")
                case "functionResponse":
                    sound = isinstance(value.get("name"), str) and isinstance(value.get("response"), dict)
                    check(sound, f"Invalid value at '{where}.function_response.response' (Struct)")
                    prompt.texts += _strings(value["response"])
        prompt.texts += texts
        if role == "user" and (texts or media):
            prompt.last_user_text, prompt.media = "\n".join(texts), media

    def _read_tools(self, body: JSON, prompt: Prompt) -> None:
        tools = body.get("tools") or []
        check(isinstance(tools, list), "Invalid value at 'tools'")
        offered = []
        for tool in tools:
            for i, declared in enumerate(tool.get("functionDeclarations", [])):
                at = f" at 'tools[0].function_declarations[{i}]'"
                allowed = ("name", "description", "parameters", "parametersJsonSchema", "response", "behavior")
                _check_names(declared, allowed, at)
                check(re.fullmatch(r"[A-Za-z_][\w.:-]{0,63}", declared.get("name", "")), f"Invalid function name{at}.")
                if "parameters" in declared:
                    check("parametersJsonSchema" not in declared, f"Only one of parameters may be set{at}.")
                    _check_schema(declared["parameters"], f"{at}.parameters")
                schema = declared.get("parameters") or declared.get("parametersJsonSchema") or {}
                offered.append(OfferedTool(declared["name"], schema))
        config = (body.get("toolConfig") or {}).get("functionCallingConfig") or {}
        mode, names = config.get("mode", "AUTO"), config.get("allowedFunctionNames")
        check(
            mode in ("AUTO", "ANY", "NONE", "VALIDATED"), "Invalid value at 'tool_config.function_calling_config.mode'"
        )
        check(not names or mode in ("ANY", "VALIDATED"), "allowed_function_names requires function calling mode ANY.")
        if names:
            offered = [tool for tool in offered if tool.name in names]
            check(offered, "allowed_function_names holds no declared function.")
        prompt.tools = [] if mode == "NONE" else offered

    def _read_config(self, config: JSON, prompt: Prompt) -> None:
        _check_names(config, _CONFIG, " at 'generation_config'")
        limit = config.get("maxOutputTokens")
        check(limit is None or is_count(limit), "max_output_tokens must be positive.")
        check("temperature" not in config or is_number(config["temperature"], 0, 2), "temperature must be in [0, 2].")
        check("topP" not in config or is_number(config["topP"], 0, 1), "top_p must be in [0, 1].")
        check(config.get("candidateCount", 1) == 1, "Multiple candidates is not enabled for this model")
        stop = config.get("stopSequences", [])
        check(isinstance(stop, list) and len(stop) <= 5, "stop_sequences: at most 5 are allowed.")
        schema = config.get("responseSchema") or config.get("responseJsonSchema")
        is_json = config.get("responseMimeType") == "application/json"
        check(schema is None or is_json, "A response schema needs response_mime_type 'application/json'.")
        if "responseSchema" in config:
            _check_schema(config["responseSchema"], " at 'generation_config.response_schema'")
        prompt.max_tokens, prompt.stop, prompt.json_schema = limit, stop, schema

    # ----------------------------------------------------------------- answer

    def adapt(self, answer: Answer) -> None:
        if answer.finish == "refusal":  # a blocked prompt has no candidates, nothing is generated
            answer.text, answer.thinking = [], []
            answer.usage.output = answer.usage.reasoning = 0

    def whole(self, answer: Answer, prompt: Prompt) -> JSON:
        parts = [self._thought("".join(answer.thinking))] if answer.thinking else []
        if answer.text:
            parts.append({"text": "".join(answer.text)})
        parts += self._call_parts(answer)
        return self._response(answer, parts, answer.usage.output, answer.usage.reasoning, last=True)

    def without_usage(self, body: JSON) -> JSON:
        return {name: value for name, value in body.items() if name != "usageMetadata"}

    def frames(self, answer: Answer, prompt: Prompt, behaviour: Behaviour) -> Iterator[Frame]:
        counts = behaviour.usage != "none"
        output = reasoning = 0

        def event(parts: list[JSON], last: bool = False) -> bytes:
            response = self._response(answer, parts, output, reasoning, last)
            return sse(response if counts else self.without_usage(response))

        for piece in answer.thinking:
            reasoning += 1
            yield Frame(event([self._thought(piece)]), "content", 0, 1)
        for piece in answer.text:
            output += 1
            yield Frame(event([{"text": piece}]), "content", 1)
        for part, call in zip(self._call_parts(answer), answer.calls, strict=True):
            output += len(call.pieces)
            yield Frame(event([part]), "content", len(call.pieces))
        yield Frame(event([{"text": ""}], last=True), "final", carries_usage=counts)

    def _thought(self, text: str) -> JSON:
        return {"text": text, "thought": True}

    def _call_parts(self, answer: Answer) -> list[JSON]:
        """Whole calls; after thinking the first one carries the signature, as the vendor's do."""
        parts: list[JSON] = []
        for i, call in enumerate(answer.calls):
            part: JSON = {"functionCall": {"name": call.name, "args": json.loads(call.arguments)}}
            if answer.thinking and i == 0:
                part["thoughtSignature"] = signature_of("".join(answer.thinking))
            parts.append(part)
        return parts

    def _response(self, answer: Answer, parts: list[JSON], output: int, reasoning: int, last: bool) -> JSON:
        response: JSON = {}
        if answer.finish == "refusal":
            response["promptFeedback"] = {"blockReason": "SAFETY"}
        else:
            candidate: JSON = {"content": {"parts": parts, "role": "model"}, "index": 0}
            if last:
                candidate["finishReason"] = _FINISH[answer.finish]
            response["candidates"] = [candidate]
        usage = answer.usage
        counts: JSON = {"promptTokenCount": usage.prompt, "totalTokenCount": usage.prompt + output + reasoning}
        if output:
            counts["candidatesTokenCount"] = output
        if reasoning:
            counts["thoughtsTokenCount"] = reasoning
        if usage.cached_input:
            counts["cachedContentTokenCount"] = usage.cached_input
        return {**response, "usageMetadata": counts, "modelVersion": answer.model, "responseId": answer.id}

    # ----------------------------------------------------------------- errors and models

    def error_body(self, refusal: Refusal) -> JSON:
        error: JSON = {"code": refusal.status, "message": refusal.message, "status": self._status(refusal.status)}
        details: list[JSON] = []
        if refusal.code:
            reason = {"reason": refusal.code, "domain": "googleapis.com"}
            details.append({"@type": "type.googleapis.com/google.rpc.ErrorInfo", **reason})
        if refusal.retry_after.isdecimal():
            delay = {"retryDelay": f"{refusal.retry_after}s"}
            details.append({"@type": "type.googleapis.com/google.rpc.RetryInfo", **delay})
        return {"error": {**error, "details": details} if details else error}

    def error_event(self, answer: Answer | None = None, number: int = 0, *, plain: bool = False) -> bytes:
        return sse(self.error_body(self.refusal(503, None)))

    def refusal(self, status: int, key: str | None) -> Refusal:
        return Refusal(status, _STATUSES[self._family(status)][1])

    def _family(self, status: int) -> int:
        return status if status in _STATUSES else (500 if status >= 500 else 400)

    def _status(self, status: int) -> str:
        return _STATUSES[self._family(status)][0]

    def context_exceeded(self, prompt: Prompt) -> Refusal:
        return Refusal(400, "The input token count (1048577) exceeds the maximum number of tokens allowed (1048576).")

    def prefill_refused(self) -> Refusal:
        return Refusal(400, "Requests ending with a model turn are not supported.")

    def pings(self, answer: Answer) -> Sequence[bytes]:
        return (b": keep-alive\n\n",)

    def models(self, names: Sequence[str]) -> JSON:
        return {"models": [self.model(name) for name in names]}

    def model(self, name: str) -> JSON:
        return {
            "name": f"models/{name}",
            "version": "001",
            "displayName": name,
            "inputTokenLimit": 1_048_576,
            "outputTokenLimit": 8192,
            "supportedGenerationMethods": ["generateContent", "countTokens"],
        }


def _check_names(value: Any, allowed: Collection[str], at: str) -> None:
    check(isinstance(value, dict), f"Invalid value{at}: expected an object")
    for name in value:
        message = f'Invalid JSON payload received. Unknown name "{name}"{at}: Cannot find field.'
        check(name in allowed, message)


def _check_schema(schema: Any, at: str) -> None:
    """The vendor's Schema message knows a part of JSON Schema; the rest is an unknown field to it."""
    _check_names(schema, _SCHEMA, at)
    for name, inner in (schema.get("properties") or {}).items():
        _check_schema(inner, f"{at}.properties[{name}]")
    if "items" in schema:
        _check_schema(schema["items"], f"{at}.items")
    for inner in schema.get("anyOf", []):
        _check_schema(inner, f"{at}.any_of")


def _strings(value: Any) -> list[str]:
    """Every string within a function's response: its text, however it was wrapped."""
    if isinstance(value, str):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [text for item in value for text in _strings(item)] if isinstance(value, list) else []
