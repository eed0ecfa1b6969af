"""Ollama's native chat, as the format of a vendor.

Its peculiarities: streams are lines of JSON, knobs stand under ``options``, images are bare base64, tool
arguments are objects and calls may lack ids, and a tool cannot be forced.
"""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

import msgspec
from msgspec import Raw, Struct, field

from gateway.errors import GatewayError, ProviderError, UnsupportedContent
from gateway.wire.efforts import effort_of
from gateway.wire.refusals import classify_refusal
from gateway.wire.sse import MAX_EVENT_BYTES
from gateway.wire.translation import (
    Block,
    ChunkReader,
    accepted_knobs,
    arguments_object,
    arguments_text,
    believable,
    generated_call_id,
    generated_texts,
    object_schema,
    one_choice_only,
    token_count,
    tool_names,
)
from gateway.wire.types import (
    Choice,
    Chunk,
    Completion,
    Conversation,
    FinishReason,
    Image,
    Message,
    ParseError,
    Part,
    Refusal,
    Request,
    ResponseFormat,
    Sampling,
    Text,
    Thinking,
    Tool,
    ToolCall,
    ToolCallDelta,
    ToolResult,
    Usage,
    VendorProfile,
    VendorRequest,
)
from gateway.wire.verbs import ConversationOf, StreamParser

DIALECT = "ollama"
PATH = "/api/chat"

_LACKING = frozenset({"logprobs", "top_logprobs", "parallel_tool_calls"})
_LEVELS = {"none": "low", "minimal": "low", "low": "low", "medium": "medium", "high": "high", "xhigh": "high"}
_LEVELLED = "gpt-oss"  # the family that thinks in levels and cannot be told not to; others are told yes or no


# --------------------------------------------------------------------------- requests


def render_request(
    request: Request, conversation: ConversationOf, vendor_model: str, profile: VendorProfile
) -> VendorRequest:
    """``POST /api/chat`` for a caller of any dialect.

    Raises InvalidRequest for ``n`` > 1 or tool arguments that are no JSON object, UnsupportedContent for
    audio, files and images that are not inline.
    """
    talk = conversation(request)
    one_choice_only(talk.sampling, "Ollama")
    sampling, dropped = accepted_knobs(talk.sampling, _LACKING | profile.unsupported)
    dropped += talk.unknown
    names = tool_names(talk.messages)
    body: dict[str, Any] = {
        "model": vendor_model,
        "messages": [rendered for message in talk.messages for rendered in _messages(message, names)],
        "stream": request.stream,
    }
    if tools := _tools(talk, dropped):
        body["tools"] = tools
    if (format_ := _format(talk.response_format, profile)) is not None:
        body["format"] = format_
    if (think := _think(sampling, vendor_model, dropped)) is not None:
        body["think"] = think
    if options := _options(sampling):
        body["options"] = options
    return VendorRequest(PATH, msgspec.json.encode(body), dropped=tuple(dropped))


def _messages(message: Message, names: Mapping[str, str]) -> list[Block]:
    """One message, except that each tool result is a message of its own."""
    results = [part for part in message.parts if isinstance(part, ToolResult)]
    others = [part for part in message.parts if not isinstance(part, ToolResult)]
    rendered = [_tool_message(result, names) for result in results]
    return [*rendered, _message(message.role, others)] if others or not results else rendered


def _tool_message(result: ToolResult, names: Mapping[str, str]) -> Block:
    message = _message("tool", result.content) | {"tool_call_id": result.tool_call_id}
    name = names.get(result.tool_call_id)
    return message | ({"tool_name": name} if name else {})


def _message(role: str, parts: Iterable[Part]) -> Block:
    texts: list[str] = []
    thoughts: list[str] = []
    images: list[str] = []
    calls: list[Block] = []
    for part in parts:
        match part:
            case Text(text) | Refusal(text):
                texts.append(text)
            case Thinking(text):
                thoughts.append(text)
            case Image():
                images.append(_inline(part))
            case ToolCall(id_, name):
                calls.append({"id": id_, "function": {"name": name, "arguments": arguments_object(part)}})
            case _:
                raise UnsupportedContent("Ollama takes text and inline images only.", param="messages")
    message: Block = {"role": role, "content": "\n\n".join(filter(None, texts))}
    extras = {"thinking": "".join(thoughts), "images": images, "tool_calls": calls}
    return message | {name: value for name, value in extras.items() if value}


def _inline(image: Image) -> str:
    if image.data is None:
        raise UnsupportedContent("Ollama takes images inline (base64) only, not by URL.", param="messages")
    return image.data


def _tools(talk: Conversation, dropped: list[str]) -> list[Block]:
    """The tools the model may call: leaving out all, or all but one, is as near as Ollama comes to a choice."""
    choice = talk.tool_choice
    if choice is None or choice.mode == "auto":
        offered = talk.tools
    elif choice.mode == "none":
        return []
    else:
        offered = tuple(tool for tool in talk.tools if choice.mode == "required" or tool.name == choice.name)
        dropped.append("tool_choice")
    if any(tool.strict for tool in offered):
        dropped.append("tools.strict")
    return [_tool(tool) for tool in offered]


def _tool(tool: Tool) -> Block:
    function = {"name": tool.name, "description": tool.description or "", "parameters": object_schema(tool.parameters)}
    return {"type": "function", "function": function}


def _format(wanted: ResponseFormat | None, profile: VendorProfile) -> Any:
    if wanted is None or wanted.kind == "text":
        return None
    return wanted.schema if wanted.schema is not None and profile.json_schema else "json"


def _think(sampling: Sampling, model: str, dropped: list[str]) -> bool | str | None:
    effort, budget = sampling.reasoning_effort, sampling.thinking_budget
    if budget is not None and (effort is not None or _LEVELLED not in model):
        dropped.append("thinking_budget")
    if effort is None:
        if budget is None:
            return None
        effort = effort_of(budget)
    if _LEVELLED not in model:
        return effort != "none"
    if _LEVELS[effort] != effort:
        dropped.append("reasoning_effort")
    return _LEVELS[effort]


def _options(sampling: Sampling) -> Block:
    options = {
        "num_predict": sampling.max_tokens,
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "top_k": sampling.top_k,
        "stop": list(sampling.stop) or None,
        "seed": sampling.seed,
        "presence_penalty": sampling.presence_penalty,
        "frequency_penalty": sampling.frequency_penalty,
    }
    return {name: value for name, value in options.items() if value is not None}


# --------------------------------------------------------------------------- answers


class _Function(Struct):
    name: str = ""
    arguments: Raw = field(default_factory=lambda: Raw(b""))


class _ToolCall(Struct):
    id: str | None = None
    function: _Function = field(default_factory=_Function)


class _Message(Struct):
    content: str | None = None
    thinking: str | None = None
    tool_calls: list[_ToolCall] | None = None


class _Response(Struct):
    model: str = ""
    created_at: str = ""
    message: _Message | None = None
    done: bool = False
    done_reason: str | None = None
    prompt_eval_count: Any = None
    eval_count: Any = None
    error: str | None = None


_decoder = msgspec.json.Decoder(_Response)


def parse_completion(body: bytes, passthrough: bool) -> Completion:
    """A whole answer, always translated. Raises ParseError, or ProviderError for an error in a 200."""
    try:
        response = _decoder.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise ParseError("The answer is not an Ollama chat response.") from None
    if response.error is not None:
        raise _failure(kind="status")
    if response.message is None:
        raise ParseError("The answer is an Ollama chat response without a message.")
    calls = response.message.tool_calls or []
    parts = _parts(response, calls)
    finish_reason = _finish_reason(response, bool(calls))
    return Completion(
        id="",
        model=response.model,
        usage=_usage(response),
        choices=(Choice(parts, finish_reason),),
        created=_unix_seconds(response.created_at),
        finish_reason=finish_reason,
        generated=generated_texts(parts),
    )


def _parts(response: _Response, calls: list[_ToolCall]) -> tuple[Part, ...]:
    message = response.message or _Message()
    parts: list[Part] = []
    if message.thinking:
        parts.append(Thinking(message.thinking))
    if message.content:
        parts.append(Text(message.content))
    for number, call in enumerate(calls):
        arguments = arguments_text(call.function.arguments)
        parts.append(ToolCall(_call_id(call, response.created_at, number), call.function.name, arguments))
    return tuple(parts)


def _call_id(call: _ToolCall, created_at: str, number: int) -> str:
    function = call.function
    return call.id or generated_call_id(created_at, number, function.name, arguments_text(function.arguments))


def _finish_reason(response: _Response, called: bool) -> FinishReason:
    if response.done_reason == "length":
        return "length"
    return "tool_calls" if called else "stop"


def _usage(response: _Response) -> Usage | None:
    """A count of zero is left out by the vendor, so one of the two suffices."""
    input_, output = token_count(response.prompt_eval_count), token_count(response.eval_count)
    if input_ is None and output is None:
        return None
    return believable(Usage(input=input_ or 0, output=output or 0))


def _unix_seconds(timestamp: str) -> int:
    try:
        return int(datetime.fromisoformat(timestamp).timestamp())
    except ValueError:
        return 0


# --------------------------------------------------------------------------- streams


def open_parser(passthrough: bool) -> StreamParser:
    """A parser of JSON lines; ``passthrough`` makes no difference, every stream is translated."""
    return ResponseStream()


class LineSplitter:
    """Cuts a byte stream into lines. Raises ParseError for a line larger than ``max_line_bytes``."""

    def __init__(self, max_line_bytes: int = MAX_EVENT_BYTES) -> None:
        self._max_line_bytes = max_line_bytes
        self._pending = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """Lines completed by ``data``, without their ends; empty ones are left out."""
        if b"\n" not in data:
            self._pending += data
            lines = []
        else:
            whole, _, rest = (bytes(self._pending) + data).rpartition(b"\n")
            self._pending = bytearray(rest)
            lines = [line for line in whole.splitlines() if line.strip()]
        if max(map(len, (*lines, self._pending))) > self._max_line_bytes:
            raise ParseError(f"A streamed line is larger than {self._max_line_bytes} bytes.")
        return lines

    def finish(self) -> list[bytes]:
        """The line, if any, that the end of the stream completes."""
        return self.feed(b"\n")


class ResponseStream(ChunkReader[bytes]):
    """Reads one streamed answer."""

    def __init__(self) -> None:
        super().__init__(LineSplitter())
        self._calls = 0

    def _read(self, frame: bytes) -> list[Chunk]:
        response = _decoder.decode(frame)
        if response.error is not None:
            raise _failure(kind="stream")
        chunk = Chunk(model=response.model or None, usage=_usage(response))
        if (message := response.message) is not None:
            chunk.text, chunk.thinking = message.content or "", message.thinking or ""
            chunk.tool_calls = tuple(self._call(call, response.created_at) for call in message.tool_calls or ())
            written = sum(len(call.arguments) for call in chunk.tool_calls)
            chunk.output_chars = len(chunk.text) + len(chunk.thinking) + written
        if response.done:
            chunk.finish_reason = _finish_reason(response, self._calls > 0)
            self.complete = True
        return [chunk] if chunk.final or chunk.output_chars or chunk.usage else []

    def _call(self, call: _ToolCall, created_at: str) -> ToolCallDelta:
        number = self._calls
        self._calls += 1
        arguments = arguments_text(call.function.arguments)
        return ToolCallDelta(number, _call_id(call, created_at, number), call.function.name, arguments)


# --------------------------------------------------------------------------- errors


class _ErrorBody(Struct):
    error: str | None = None


_error_decoder = msgspec.json.Decoder(_ErrorBody)


def parse_error(status: int, headers: Mapping[str, str], body: bytes) -> ProviderError | GatewayError:
    """A refusal by ``status``; the vendor gives a message and nothing more."""
    try:
        message = _error_decoder.decode(body).error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        message = None
    return classify_refusal(status, headers, message)


def _failure(kind: str) -> ProviderError:
    """An error reported after a 200: the attempt failed, whoever is at fault."""
    return ProviderError("The provider reported an error instead of finishing its answer.", kind=kind)
