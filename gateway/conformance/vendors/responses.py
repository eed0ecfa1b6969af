"""OpenAI's Responses API, strict about what it knows: items instead of messages, numbered events in a stream.

Like the original it begins a new turn after an assistant's last message: it continues none.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from gateway.conformance.vendors.answers import Answer, Frame, OfferedTool, Prompt
from gateway.conformance.vendors.behaviours import Behaviour
from gateway.conformance.vendors.formats import JSON, Refusal, check, is_count, is_number, sse, words
from gateway.conformance.vendors.http import HttpRequest
from gateway.conformance.vendors.openai import EFFORTS, NUMBERS, TOOL_NAME, OpenAI, check_strict_schema
from gateway.conformance.vendors.responses_answers import calls_of, failed_response, output_of, response_of
from gateway.conformance.vendors.responses_events import frames_of
from gateway.conformance.vendors.responses_memory import Memory, Turn, check_sealed

_ROLES = ("system", "developer", "user", "assistant")
_FOREIGN = words(
    "messages max_tokens max_completion_tokens n stop seed logprobs response_format reasoning_effort functions "
    "function_call presence_penalty frequency_penalty"
)
_INCLUDABLE = words(
    "file_search_call.results web_search_call.results web_search_call.action.sources message.input_image.image_url "
    "computer_call_output.output.image_url code_interpreter_call.outputs reasoning.encrypted_content "
    "message.output_text.logprobs"
)
_VENDOR_TOOLS = words(
    "web_search web_search_preview file_search computer_use_preview mcp code_interpreter image_generation "
    "local_shell shell apply_patch custom"
)


class OpenAIResponses(OpenAI):
    """Remembers what it stored for as long as it lives, for ``previous_response_id`` and references to items."""

    name = "openai-responses"
    broken_event = b'event: response.output_text.delta\ndata: {"broken": [\n\n'
    end_is_optional = False

    def __init__(self) -> None:
        self._memory = Memory()

    # ----------------------------------------------------------------- request

    def parse(self, request: HttpRequest, body: JSON) -> Prompt:
        model = self.model_of(request, body)
        check(model, "Missing required parameter: 'model'.", param="model", code="missing_required_parameter")
        for name in body:
            known = name not in _FOREIGN and not name.startswith("x-")
            check(known, f"Unsupported parameter: '{name}'.", param=name, code="unsupported_parameter")
        self._check_settings(body)
        prompt = Prompt(model, stream=self.streams(request, body), max_tokens=body.get("max_output_tokens"))
        prompt.account, prompt.settings = self.key_of(request) or "", body
        prompt.logprobs = "message.output_text.logprobs" in (body.get("include") or [])
        called: set[str] = set()
        if (previous := body.get("previous_response_id")) is not None:
            turn = self._memory.turn(prompt.account, previous)
            prompt.texts += turn.texts
            called |= turn.calls
        self._read_input(body.get("input"), called, prompt)
        self._read_offered(body, prompt)
        self._read_format((body.get("text") or {}).get("format"), prompt)
        if body.get("instructions"):  # last, as they are no part of what a later response continues
            prompt.texts.append(body["instructions"])
        return prompt

    def _check_settings(self, body: JSON) -> None:
        for name in ("temperature", "top_p"):
            value = body.get(name)
            check(value is None or is_number(value, *NUMBERS[name]), f"Invalid '{name}': out of range.", param=name)
        for name in ("stream", "store", "background", "parallel_tool_calls"):
            check(
                isinstance(body.get(name), bool | None), f"Invalid type for '{name}': expected a boolean.", param=name
            )
        check(
            isinstance(body.get("instructions"), str | None), "Invalid type for 'instructions'.", param="instructions"
        )
        limit = body.get("max_output_tokens")
        minimum = "Invalid 'max_output_tokens': integer below minimum value. Expected a value >= 16."
        check(limit is None or is_count(limit, 16), minimum, param="max_output_tokens", code="integer_below_min_value")
        effort = (body.get("reasoning") or {}).get("effort")
        check(effort is None or effort in EFFORTS, f"Unsupported value: '{effort}'.", param="reasoning.effort")
        unknown = sorted(set(body.get("include") or []) - _INCLUDABLE)
        check(not unknown, f"Invalid value: {unknown}.", param="include", code="invalid_value")
        options = body.get("stream_options")
        check(options is None or body.get("stream") is True, "'stream_options' needs 'stream'.", param="stream_options")
        unknown = sorted(set(options or {}) - {"include_obfuscation"})
        check(not unknown, f"Unknown parameter: 'stream_options.{', '.join(unknown)}'.", param="stream_options")

    def _read_input(self, given: Any, called: set[str], prompt: Prompt) -> None:
        check(isinstance(given, str | list) and given, "Missing required parameter: 'input'.", param="input")
        if isinstance(given, str):
            given = [{"role": "user", "content": given}]
        items = []
        for i, item in enumerate(given):
            check(isinstance(item, dict), f"Invalid type for 'input[{i}]'.", param=f"input[{i}]")
            reference = item.get("type") == "item_reference"
            items.append(self._memory.item(prompt.account, item["id"]) if reference else item)
        for i, item in enumerate(items):
            follower = items[i + 1] if i + 1 < len(items) else {"role": "user"}
            self._read_item(item, f"input[{i}]", follower, called, prompt)
        prompt.after_tool_result = items[-1].get("type") == "function_call_output"

    def _read_item(self, item: JSON, at: str, follower: JSON, called: set[str], prompt: Prompt) -> None:
        match item.get("type", "message"):
            case "message":
                self._read_message(item, at, prompt)
            case "function_call":
                sound = all(isinstance(item.get(name), str) for name in ("call_id", "name", "arguments"))
                check(sound, f"Missing required parameter: '{at}.call_id'.", param=at)
                called.add(item["call_id"])
            case "function_call_output":
                call_id: Any = item.get("call_id")
                known = f"No tool call found for function call output with call_id {call_id}."
                check(call_id in called, known, param="input")
                output: Any = item.get("output")
                sound = isinstance(output, str | list)
                check(sound, f"Missing required parameter: '{at}.output'.", param=f"{at}.output")
                prompt.texts += [output] if isinstance(output, str) else [part.get("text", "") for part in output]
            case "reasoning":
                self._read_reasoning(item, at, prompt)
                alone = follower.get("role") == "user" or follower.get("type") == "function_call_output"
                lonely = (
                    f"Item '{item.get('id')}' of type 'reasoning' was provided without its required following item."
                )
                check(not alone, lonely, param="input")
            case other:
                raise Refusal(400, f"Invalid value: '{other}'.", param=f"{at}.type", code="invalid_value")

    def _read_reasoning(self, item: JSON, at: str, prompt: Prompt) -> None:
        """Reasoning comes back sealed, or by an id that is stored."""
        check(isinstance(item.get("summary"), list), f"Missing required parameter: '{at}.summary'.", param=at)
        item_id = str(item.get("id"))
        if item.get("encrypted_content") is not None:
            check_sealed(str(item["encrypted_content"]), item_id, prompt.account)
        else:
            self._memory.item(prompt.account, item_id)

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
            for j, part in enumerate(content):
                self._read_input_part(part, role, f"{at}.content[{j}]", texts, media)
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
            case "refusal":
                check(isinstance(part.get("refusal"), str), f"Missing required parameter: '{at}.refusal'.", param=at)
            case "input_image" if "file_id" in part:
                media.append(f"file:{part['file_id']}")
            case "input_image":
                media.append(self._image({"url": part.get("image_url")}, at))
            case "input_file":
                media.append(f"url:{part['file_url']}" if "file_url" in part else self._file(part, at))

    def _read_offered(self, body: JSON, prompt: Prompt) -> None:
        tools, choice = body.get("tools") or [], body.get("tool_choice")
        check(isinstance(tools, list), "Invalid type for 'tools': expected an array.", param="tools")
        offered = []
        for i, tool in enumerate(tools):
            if tool.get("type") in _VENDOR_TOOLS:
                continue
            check(tool.get("type") == "function", f"Invalid value for 'tools[{i}].type'.", param="tools")
            named = TOOL_NAME.fullmatch(tool.get("name") or "")
            check(named, f"Missing required parameter: 'tools[{i}].name'.", param=f"tools[{i}].name")
            schema = tool.get("parameters") or {}
            check(isinstance(schema, dict), f"Invalid schema for function '{tool['name']}'.", param="tools")
            if tool.get("strict") is True:
                check_strict_schema(schema, f"tools[{i}].parameters")
            offered.append(OfferedTool(tool["name"], schema))
        if isinstance(choice, dict) and choice.get("type") == "function":
            offered = [tool for tool in offered if tool.name == choice.get("name")]
            check(offered, "Tool choice not found in 'tools' parameter.", param="tool_choice")
        elif not isinstance(choice, dict):
            check(choice in (None, "none", "auto", "required"), "Invalid 'tool_choice'.", param="tool_choice")
            check(tools or choice != "required", "'tool_choice' 'required' needs 'tools'.", param="tool_choice")
        prompt.tools = [] if choice == "none" else offered

    def _read_format(self, wanted: Any, prompt: Prompt) -> None:
        kind = "text" if wanted is None else wanted.get("type")
        check(kind in ("text", "json_object", "json_schema"), "Invalid 'text.format.type'.", param="text.format.type")
        if kind == "json_object":
            said = any("json" in text.lower() for text in prompt.texts)
            check(said, "Response input messages must contain the word 'json' in some form.", param="input")
        if kind == "json_schema":
            check(wanted.get("name"), "Missing required parameter: 'text.format.name'.", param="text.format.name")
            schema: Any = wanted.get("schema")
            check(
                isinstance(schema, dict),
                "Missing required parameter: 'text.format.schema'.",
                param="text.format.schema",
            )
            if wanted.get("strict") is True:
                check_strict_schema(schema, "text.format.schema")
            prompt.json_schema = schema

    # ----------------------------------------------------------------- answer

    def whole(self, answer: Answer, prompt: Prompt) -> JSON:
        self._keep(answer, prompt)
        return response_of(answer, prompt, "finished")

    def frames(self, answer: Answer, prompt: Prompt, behaviour: Behaviour) -> Iterator[Frame]:
        for frame in frames_of(answer, prompt, with_usage=behaviour.usage != "none"):
            if frame.kind == "final":
                self._keep(answer, prompt)
            yield frame

    def _keep(self, answer: Answer, prompt: Prompt) -> None:
        """Stores a finished response, unless the caller said not to."""
        if prompt.settings.get("store") is False:
            return
        texts = prompt.texts[:-1] if prompt.settings.get("instructions") else prompt.texts
        turn = Turn([*texts, "".join(answer.text)], {call["call_id"] for call in calls_of(answer)})
        self._memory.keep(prompt.account, f"resp_{answer.id}", turn, output_of(answer, prompt))

    def failed(self, answer: Answer, prompt: Prompt) -> JSON:
        return failed_response(answer, prompt)

    def error_event(self, answer: Answer | None = None, number: int = 0, *, plain: bool = False) -> bytes:
        if plain:
            error = {"code": "server_error", "message": "The server had an error while processing your request."}
            return sse({"type": "error", **error, "param": None, "sequence_number": number}, "error")
        response = failed_response(answer)
        return sse({"type": "response.failed", "response": response, "sequence_number": number}, "response.failed")

    def pings(self, answer: Answer) -> Sequence[bytes]:
        return (b": keep-alive\n\n",)

    def context_exceeded(self, prompt: Prompt) -> Refusal:
        message = "Your input exceeds the context window of this model. Please adjust your input and try again."
        return Refusal(400, message, param="input", code="context_length_exceeded")
