"""OpenAI's Responses API, strict about what it knows: items instead of messages, numbered events in a stream."""

from collections import deque
from collections.abc import Iterator
from itertools import zip_longest
from typing import Any

from gateway.conformance.vendors.answers import Answer, Call, Frame, OfferedTool, Prompt
from gateway.conformance.vendors.behaviours import Behaviour
from gateway.conformance.vendors.formats import JSON, Refusal, check, is_count, sse
from gateway.conformance.vendors.http import HttpRequest
from gateway.conformance.vendors.openai import OpenAI

_ROLES = ("system", "developer", "user", "assistant")
_FOREIGN = ("messages", "max_tokens", "max_completion_tokens", "n", "stop", "response_format", "stream_options")
_INCOMPLETE = {"length": "max_output_tokens", "content_filter": "content_filter"}
_REMEMBERED = 1000


class OpenAIResponses(OpenAI):
    """Remembers the ids of what it answered, for ``previous_response_id``."""

    name = "openai-responses"
    broken_event = b'event: response.output_text.delta\ndata: {"broken": [\n\n'

    def __init__(self) -> None:
        self._answered: deque[str] = deque(maxlen=_REMEMBERED)

    # ----------------------------------------------------------------- request

    def parse(self, request: HttpRequest, body: JSON) -> Prompt:
        model = self.model_of(request, body)
        check(model, "Missing required parameter: 'model'.", param="model")
        for name in body:
            known = name not in _FOREIGN and not name.startswith("x-")
            check(known, f"Unsupported parameter: '{name}'.", param=name, code="unsupported_parameter")
        self._check_knobs(body)
        limit = body.get("max_output_tokens")
        check(limit is None or is_count(limit, 16), "Invalid 'max_output_tokens': integer below minimum value.")
        previous = body.get("previous_response_id")
        if previous is not None and previous not in self._answered:
            raise Refusal(404, f"Previous response with id '{previous}' not found.", param="previous_response_id")
        prompt = Prompt(model, stream=self.streams(request, body), max_tokens=limit)
        if body.get("instructions"):
            prompt.texts.append(body["instructions"])
        self._read_input(body.get("input"), prompt)
        self._read_offered(body, prompt)
        self._read_format((body.get("text") or {}).get("format"), prompt)
        return prompt

    def _read_input(self, given: Any, prompt: Prompt) -> None:
        check(isinstance(given, str | list) and given, "Missing required parameter: 'input'.", param="input")
        if isinstance(given, str):
            prompt.texts.append(given)
            prompt.last_user_text = given
            return
        called: set[str] = set()
        for i, item in enumerate(given):
            at = f"input[{i}]"
            check(isinstance(item, dict), f"Invalid type for '{at}'.", param=at)
            match item.get("type", "message"):
                case "message":
                    self._read_message(item, at, prompt)
                case "function_call":
                    sound = all(isinstance(item.get(name), str) for name in ("call_id", "name", "arguments"))
                    check(sound, f"Missing required parameter: '{at}.call_id'.", param=at)
                    called.add(item["call_id"])
                case "function_call_output":
                    known = item.get("call_id") in called
                    check(known, f"No tool call found for function call output with call_id {item.get('call_id')}.")
                    output: Any = item.get("output")
                    texts = [output] if isinstance(output, str) else [part.get("text", "") for part in output or []]
                    prompt.texts += texts
                case "reasoning":
                    check(isinstance(item.get("summary"), list), f"Missing required parameter: '{at}.summary'.")
                case other:
                    raise Refusal(400, f"Invalid value: '{other}'.", param=f"{at}.type", code="invalid_value")
        prompt.after_tool_result = given[-1].get("type") == "function_call_output"

    def _read_message(self, item: JSON, at: str, prompt: Prompt) -> None:
        role: Any = item.get("role")
        content: Any = item.get("content")
        check(role in _ROLES, f"Invalid value: '{role}'.", param=f"{at}.role", code="invalid_value")
        texts: list[str] = []
        media: list[str] = []
        if isinstance(content, str):
            texts.append(content)
        else:
            check(isinstance(content, list) and content, f"Invalid type for '{at}.content'.", param=f"{at}.content")
            for part in content:
                self._read_input_part(part, role, at, texts, media)
        prompt.texts += texts
        if role == "user":
            prompt.last_user_text, prompt.media = "\n".join(texts), media

    def _read_input_part(self, part: Any, role: Any, at: str, texts: list[str], media: list[str]) -> None:
        kind = part.get("type") if isinstance(part, dict) else None
        allowed = ("output_text", "refusal") if role == "assistant" else ("input_text", "input_image", "input_file")
        check(kind in allowed, f"Invalid value: '{kind}'.", param=at, code="invalid_value")
        match kind:
            case "input_text" | "output_text":
                check(isinstance(part.get("text"), str), f"Missing required parameter: '{at}.text'.", param=at)
                texts.append(part["text"])
            case "input_image":
                media.append(self._image({"url": part.get("image_url")}, at))
            case "input_file":
                media.append(f"url:{part['file_url']}" if "file_url" in part else self._file(part, at))

    def _read_offered(self, body: JSON, prompt: Prompt) -> None:
        tools, choice = body.get("tools") or [], body.get("tool_choice")
        offered = []
        for i, tool in enumerate(tools):
            check(tool.get("type") == "function", f"Invalid value for 'tools[{i}].type'.", param="tools")
            check(tool.get("name"), f"Missing required parameter: 'tools[{i}].name'.", param="tools")
            offered.append(OfferedTool(tool["name"], tool.get("parameters") or {}))
        if isinstance(choice, dict):
            offered = [tool for tool in offered if tool.name == choice.get("name")]
            check(offered, "Tool choice not found in 'tools' parameter.", param="tool_choice")
        prompt.tools = [] if choice == "none" else offered

    def _read_format(self, wanted: Any, prompt: Prompt) -> None:
        if wanted is None or wanted.get("type") == "text":
            return
        if wanted.get("type") == "json_schema":
            check(wanted.get("name"), "Missing required parameter: 'text.format.name'.", param="text.format.name")
            check(isinstance(wanted.get("schema"), dict), "Missing required parameter: 'text.format.schema'.")
            prompt.json_schema = wanted["schema"]
        else:
            check(wanted.get("type") == "json_object", "Invalid 'text.format.type'.", param="text.format.type")

    # ----------------------------------------------------------------- answer

    def whole(self, answer: Answer, prompt: Prompt) -> JSON:
        self._answered.append(f"resp_{answer.id}")
        return self._response(answer, finished=True)

    def _response(self, answer: Answer, *, finished: bool) -> JSON:
        reason = _INCOMPLETE.get(answer.finish)
        status = ("incomplete" if reason else "completed") if finished else "in_progress"
        return {
            "id": f"resp_{answer.id}",
            "object": "response",
            "created_at": answer.created,
            "status": status,
            "error": None,
            "incomplete_details": {"reason": reason} if finished and reason else None,
            "instructions": None,
            "metadata": {},
            "model": answer.model,
            "output": self._output(answer) if finished else [],
            "parallel_tool_calls": True,
            "temperature": 1.0,
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0,
            "usage": self._response_usage(answer) if finished else None,
        }

    def _output(self, answer: Answer) -> list[JSON]:
        output: list[JSON] = []
        if answer.thinking:
            summary = [{"type": "summary_text", "text": "".join(answer.thinking)}]
            output.append({"id": f"rs_{answer.id}", "type": "reasoning", "summary": summary})
        if answer.text:
            output.append(self._message(answer, "".join(answer.text)))
        return output + [self._call(call, call.arguments) for call in answer.calls]

    def _message(self, answer: Answer, text: str | None) -> JSON:
        content = [] if text is None else [self._part(answer, text)]
        status = "in_progress" if text is None else "completed"
        return {"id": f"msg_{answer.id}", "type": "message", "status": status, "role": "assistant", "content": content}

    def _part(self, answer: Answer, text: str) -> JSON:
        if answer.finish == "refusal":
            return {"type": "refusal", "refusal": text}
        return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}

    def _call(self, call: Call, arguments: str) -> JSON:
        named = {"call_id": f"call_{call.id}", "name": call.name, "arguments": arguments}
        return {"id": f"fc_{call.id}", "type": "function_call", "status": "completed", **named}

    def _response_usage(self, answer: Answer) -> JSON:
        usage = answer.usage
        return {
            "input_tokens": usage.prompt,
            "input_tokens_details": {"cached_tokens": usage.cached_input},
            "output_tokens": usage.completion,
            "output_tokens_details": {"reasoning_tokens": usage.reasoning},
            "total_tokens": usage.prompt + usage.completion,
        }

    def frames(self, answer: Answer, prompt: Prompt, behaviour: Behaviour) -> Iterator[Frame]:
        self._answered.append(f"resp_{answer.id}")
        sequence = iter(range(1_000_000))

        def event(name: str, **told: Any) -> bytes:
            return sse({"type": name, **told, "sequence_number": next(sequence)}, name)

        yield Frame(event("response.created", response=self._response(answer, finished=False)))
        yield Frame(event("response.in_progress", response=self._response(answer, finished=False)))
        index = 0
        if answer.thinking:
            yield from self._thinking_frames(answer, index, event)
            index += 1
        if answer.text:
            yield from self._text_frames(answer, index, event)
            index += 1
        yield from self._call_frames(answer, index, event)
        response = self._response(answer, finished=True)
        if behaviour.usage == "none":
            response["usage"] = None
        name = f"response.{response['status']}"
        yield Frame(event(name, response=response), "final", carries_usage=behaviour.usage != "none")

    def _thinking_frames(self, answer: Answer, index: int, event: Any) -> Iterator[Frame]:
        item = {"id": f"rs_{answer.id}", "type": "reasoning", "summary": []}
        at = {"item_id": item["id"], "output_index": index, "summary_index": 0}
        yield Frame(event("response.output_item.added", output_index=index, item=item))
        part = {"type": "summary_text", "text": ""}
        yield Frame(event("response.reasoning_summary_part.added", **at, part=part))
        for thought in answer.thinking:
            yield Frame(event("response.reasoning_summary_text.delta", **at, delta=thought), "content", 0, 1)
        text = "".join(answer.thinking)
        yield Frame(event("response.reasoning_summary_text.done", **at, text=text))
        yield Frame(event("response.reasoning_summary_part.done", **at, part={**part, "text": text}))
        done = {**item, "summary": [{"type": "summary_text", "text": text}]}
        yield Frame(event("response.output_item.done", output_index=index, item=done))

    def _text_frames(self, answer: Answer, index: int, event: Any) -> Iterator[Frame]:
        at = {"item_id": f"msg_{answer.id}", "output_index": index, "content_index": 0}
        kind = "refusal" if answer.finish == "refusal" else "output_text"
        yield Frame(event("response.output_item.added", output_index=index, item=self._message(answer, None)))
        yield Frame(event("response.content_part.added", **at, part=self._part(answer, "")))
        extra: JSON = {} if kind == "refusal" else {"logprobs": []}
        for token in answer.text:
            yield Frame(event(f"response.{kind}.delta", **at, delta=token, **extra), "content", 1)
        text = "".join(answer.text)
        said = {"refusal": text} if kind == "refusal" else {"text": text, "logprobs": []}
        yield Frame(event(f"response.{kind}.done", **at, **said))
        yield Frame(event("response.content_part.done", **at, part=self._part(answer, text)))
        yield Frame(event("response.output_item.done", output_index=index, item=self._message(answer, text)))

    def _call_frames(self, answer: Answer, first: int, event: Any) -> Iterator[Frame]:
        """The pieces of parallel calls take turns."""
        numbered = list(enumerate(answer.calls, first))
        for index, call in numbered:
            yield Frame(event("response.output_item.added", output_index=index, item=self._call(call, "")))
        for turn in zip_longest(*(call.pieces for _, call in numbered)):
            for (index, call), piece in zip(numbered, turn, strict=True):
                if piece is not None:
                    at = {"item_id": f"fc_{call.id}", "output_index": index}
                    yield Frame(event("response.function_call_arguments.delta", **at, delta=piece), "content", 1)
        for index, call in numbered:
            at = {"item_id": f"fc_{call.id}", "output_index": index}
            yield Frame(event("response.function_call_arguments.done", **at, arguments=call.arguments))
            yield Frame(event("response.output_item.done", output_index=index, item=self._call(call, call.arguments)))

    def error_event(self) -> bytes:
        error = {"code": "server_error", "message": "The server had an error while processing your request."}
        response = {"id": "resp_failed", "object": "response", "status": "failed", "error": error, "output": []}
        return sse({"type": "response.failed", "response": response, "sequence_number": 99}, "response.failed")

    def context_exceeded(self, prompt: Prompt) -> Refusal:
        message = "Your input exceeds the context window of this model. Please adjust your input and try again."
        return Refusal(400, message, param="input", code="context_length_exceeded")
