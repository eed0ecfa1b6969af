"""Every caller's dialect on every vendor's format, asked of a running gateway.

A cell is one feature of one dialect on one vendor, whole or streamed. Its request is written in the caller's dialect,
goes through the gateway to a scripted vendor, and what comes back is read and compared with what the vendor is known
to have said. Nothing of it needs a key or leaves the machine.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import httpx
import msgspec

from gateway.errors import GatewayError
from gateway.providers.client import CANONICAL, conversation_of
from gateway.wire import anthropic_messages, openai_chat, openai_responses
from gateway.wire.types import (
    Choice,
    Chunk,
    Conversation,
    Extensions,
    Image,
    Message,
    Needs,
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
    ToolResult,
    Usage,
    VendorProfile,
)

TIMEOUT_S: Final = 20.0
PIXEL: Final = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
EIGHT: Final = " ".join(f"tok{number}" for number in range(1, 9))
SCHEMA: Final = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}

DIALECTS: Final = {
    "chat": (openai_chat, "/v1/chat/completions"),
    "responses": (openai_responses, "/v1/responses"),
    "messages": (anthropic_messages, "/v1/messages"),
}
VENDORS: Final = {  # name: catalogue kind, and the path below the scripted vendors' address
    "openai": ("openai-compatible", "/v1"),
    "responses": ("openai-responses", "/v1"),
    "anthropic": ("anthropic", ""),
    "gemini": ("gemini", "/v1beta"),
    "ollama": ("ollama", ""),
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, read from whichever dialect. ``dropped`` are the knobs the vendor does not have."""

    status: int
    parts: tuple[Part, ...] = ()
    finish: str | None = None
    usage: Usage | None = None
    dropped: str = ""
    code: str = ""

    @property
    def text(self) -> str:
        return "".join(part.text for part in self.parts if isinstance(part, Text | Refusal))

    @property
    def calls(self) -> list[tuple[str, Any]]:
        return [(part.name, json.loads(part.arguments or "{}")) for part in self.parts if isinstance(part, ToolCall)]


@dataclass(frozen=True, slots=True)
class Feature:
    """``behaviour`` is the scripted vendor's (see gateway.conformance.vendors.behaviours); ``holds`` judges an answer,
    told which vendor gave it. ``unsaid_in`` are dialects that have no words for it."""

    name: str
    behaviour: str
    conversation: Conversation
    holds: Callable[[Answer, str], bool]
    unsaid_in: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Cell:
    dialect: str
    vendor: str
    feature: str
    streamed: bool
    passed: bool
    told: str  # what came back instead; empty where it passed


def _user(*parts: Part) -> Message:
    return Message("user", parts or (Text("one two three"),))


_ASKED = (_user(),)
_WEATHER = (Tool("weather", "The weather in a city", dict(SCHEMA)),)
_CALLED = Message("assistant", (ToolCall("call_1", "weather", '{"city": "Paris"}'),))
_TOLD = Message("tool", (ToolResult("call_1", (Text("18 degrees"),)),))
_PARIS, _ROME = ("weather", {"city": "Paris"}), ("weather", {"city": "Rome"})

FEATURES: Final = (
    Feature("text", "tok8", Conversation(_ASKED), lambda a, _: (a.text, a.finish) == (EIGHT, "stop")),
    Feature(
        "system",
        "tok8",
        Conversation((Message("system", (Text("be very brief"),)), *_ASKED)),
        lambda a, _: a.usage is not None and a.usage.total_input == 6,
    ),
    Feature(
        "multi-turn",
        "tok8",
        Conversation((*_ASKED, Message("assistant", (Text("four five"),)), _user(Text("six")))),
        lambda a, _: a.usage is not None and a.usage.total_input == 6,
    ),
    Feature(
        "image",
        "echo",
        Conversation((_user(Text("look"), Image(data=PIXEL, media_type="image/png")),)),
        lambda a, _: a.text.startswith("look ["),
    ),
    Feature(
        "tool call",
        "tool",
        Conversation(_ASKED, tools=_WEATHER),
        lambda a, _: (a.calls, a.finish) == ([_PARIS], "tool_calls"),
    ),
    Feature("parallel calls", "tools2", Conversation(_ASKED, tools=_WEATHER), lambda a, _: a.calls == [_PARIS, _ROME]),
    Feature(
        "tool result",
        "tool",
        Conversation((*_ASKED, _CALLED, _TOLD), tools=_WEATHER),
        lambda a, _: bool(a.text) and not a.calls,
    ),
    Feature(
        "structured",
        "json",
        Conversation(_ASKED, response_format=ResponseFormat("json_schema", "city", dict(SCHEMA), strict=True)),
        lambda a, _: json.loads(a.text) == {"city": "tok1"},
    ),
    Feature(
        "thinking",
        "tok8-think12",
        Conversation(_ASKED, sampling=Sampling(max_tokens=8000, reasoning_effort="medium")),
        lambda a, _: a.text == EIGHT and any(isinstance(part, Thinking) and part.text for part in a.parts),
    ),
    Feature(
        "refusal",
        "refuse",
        Conversation(_ASKED),
        lambda a, _: "cannot help" in a.text or a.finish == "content_filter",
    ),
    Feature(
        "stop",
        "stop-tok8",
        Conversation(_ASKED, sampling=Sampling(stop=("tok3",))),
        lambda a, _: "tok3" not in a.text or "stop" in a.dropped,
        unsaid_in=frozenset({"responses"}),
    ),
    Feature(
        "length",
        "length-tok60",
        Conversation(_ASKED, sampling=Sampling(max_tokens=20)),
        lambda a, _: a.finish == "length",
    ),
    Feature(
        "cached",
        "cached50-tok8",
        Conversation((_user(Text("one two three four")),)),
        lambda a, vendor: a.usage is not None and (a.usage.cached_input == 2 or vendor == "ollama"),
    ),
    Feature("error", "ctx", Conversation(_ASKED), lambda a, _: a.status == 400),
)


def declaration(vendors_url: str, tenant: str, token_variable: str) -> str:
    """The tenant the matrix is asked as, for ``manage.py apply``."""
    lines = ["tenants:", f"  - slug: {tenant}", "    enabled: true", "    projects: [{slug: matrix}]", "    providers:"]
    for name, (kind, path) in VENDORS.items():
        lines.append(f'      - {{name: {name}, kind: {kind}, base_url: "{vendors_url}{path}", api_key: "sk-scripted"}}')
    lines.append("    models:")
    for name in VENDORS:
        for behaviour in dict.fromkeys(feature.behaviour for feature in FEATURES):
            price = "price: {input: 1, output: 2}"
            lines.append(
                f"      - {{name: {name}-{behaviour}, provider: {name}, vendor_model: m-{behaviour}, {price}}}"
            )
    lines.append("    tokens:")
    lines.append(f"      - {{name: matrix, project: matrix, value: {{env: {token_variable}}}, models: ['*']}}")
    return "\n".join(lines) + "\n"


def run(url: str, token: str) -> Iterator[Cell]:
    """Every cell, asked of the gateway at ``url``."""
    with httpx.Client(base_url=url, timeout=TIMEOUT_S, headers={"authorization": f"Bearer {token}"}) as client:
        for dialect in DIALECTS:
            for vendor in VENDORS:
                for feature in FEATURES:
                    for streamed in (False, True) if dialect not in feature.unsaid_in else ():
                        yield _cell(client, dialect, vendor, feature, streamed)


def _cell(client: httpx.Client, dialect: str, vendor: str, feature: Feature, streamed: bool) -> Cell:
    try:
        answer = ask(client, dialect, f"{vendor}-{feature.behaviour}", feature.conversation, streamed=streamed)
        passed = feature.holds(answer, vendor)
        told = "" if passed else f"{answer.status} {answer.code} {answer.finish} {answer.text[:80]!r} {answer.calls}"
    except (httpx.HTTPError, GatewayError, ParseError, ValueError) as exc:
        passed, told = False, f"{type(exc).__name__}: {exc}"
    return Cell(dialect, vendor, feature.name, streamed, passed, told)


def ask(client: httpx.Client, dialect: str, model: str, conversation: Conversation, *, streamed: bool) -> Answer:
    """One question in ``dialect``, and its answer. Raises what the reading of the answer raises."""
    format_, path = DIALECTS[dialect]
    asked = Request(
        dialect=CANONICAL,
        fields={},
        model=model,
        stream=streamed,
        include_usage=True,
        max_tokens=conversation.sampling.max_tokens,
        choices=1,
        end_user=None,
        needs=Needs(),
        input_chars=0,
        extensions=Extensions(),
        _conversation=conversation,
    )
    rendered = format_.render_request(asked, conversation_of, model, VendorProfile())
    headers = {"content-type": "application/json", **rendered.headers}
    response = client.post(path, content=rendered.body, headers=headers)
    dropped = response.headers.get("x-gateway-dropped", "")
    if response.status_code != 200:
        error = msgspec.json.decode(response.content)["error"]
        return Answer(response.status_code, code=error.get("code") or error["type"])
    if streamed:
        parser = format_.open_parser(False)
        return _joined([*parser.parse_chunk(response.content), *parser.parse_end()], dropped)
    completion = format_.parse_completion(response.content, False)
    (choice,) = completion.choices
    return _whole(choice, completion.usage, dropped)


def _whole(choice: Choice, usage: Usage | None, dropped: str) -> Answer:
    return Answer(200, choice.parts, choice.finish_reason, usage, dropped)


def _joined(chunks: Sequence[Chunk], dropped: str) -> Answer:
    """A stream's chunks as the parts of one answer."""
    calls: dict[int, list[str]] = {}
    for chunk in chunks:
        for piece in chunk.tool_calls:
            call = calls.setdefault(piece.index, ["", "", ""])
            call[0], call[1] = call[0] or piece.id or "", call[1] or piece.name or ""
            call[2] += piece.arguments
    parts: list[Part] = [
        Thinking("".join(chunk.thinking for chunk in chunks)),
        Text("".join(chunk.text for chunk in chunks)),
        Refusal("".join(chunk.refusal for chunk in chunks)),
        *(ToolCall(*call) for call in calls.values()),
    ]
    finish = [chunk.finish_reason for chunk in chunks if chunk.final]
    usage = [chunk.usage for chunk in chunks if chunk.usage is not None]
    return Answer(200, tuple(parts), finish[-1] if finish else None, usage[-1] if usage else None, dropped)


def table(cells: Sequence[Cell]) -> Iterator[str]:
    """A line for each dialect and vendor: ``+`` where whole and streamed passed, ``w`` or ``s`` for the one that did
    not, a dot for what the dialect has no words for."""
    names = [feature.name for feature in FEATURES]
    yield f"{'':22}" + " ".join(f"{name:>{max(len(name), 4)}}" for name in names)
    by_place = {(cell.dialect, cell.vendor, cell.feature, cell.streamed): cell.passed for cell in cells}
    for dialect in DIALECTS:
        for vendor in VENDORS:
            marks = []
            for name in names:
                passed = [by_place.get((dialect, vendor, name, way)) for way in (False, True)]
                mark = "".join(way for way, held in zip("ws", passed, strict=True) if held is False)
                mark = mark or ("." if None in passed else "+")
                marks.append(f"{mark:>{max(len(name), 4)}}")
            yield f"{dialect + ' > ' + vendor:22}" + " ".join(marks)
