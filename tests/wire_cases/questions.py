"""What is asked in each case, in the words of each caller's dialect, and how the scripted vendor then behaves.

The bodies are written out by hand, as an official SDK sends them: rendered by the gateway's own formats they would
share its mistakes.
"""

from dataclasses import dataclass
from typing import Any, Final

from gateway.conformance.vendors import signature_of
from gateway.conformance.vendors.responses_memory import seal

Body = dict[str, Any]

ASKED_MODEL: Final = "the-callers-name"
PIXEL: Final = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
PICTURE: Final = "https://images.example/cat.png"
GREETING: Final = 'Grüß "die" 世界\\🙂\tbis\u2028bald'
CITY: Final[Body] = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
ABOUT_WEATHER: Final = {"name": "weather", "description": "The weather in a city"}
PARIS, ROME = '{"city":"Paris"}', '{"city":"Rome"}'


@dataclass(frozen=True, slots=True)
class Case:
    """``whole`` and ``streamed`` are words of gateway.conformance.vendors.behaviours."""

    whole: str
    streamed: str


CASES: Final = {
    "text": Case("echo", "echo"),
    "system": Case("tok2", "tok2"),
    "multi_turn": Case("tok2", "tok2"),
    "image": Case("echo", "echo"),
    "image_by_url": Case("echo", "echo"),
    "tool_call": Case("tool-tok2", "tool-tok2"),
    "parallel_tool_calls": Case("tools2", "tools2"),
    "tool_result": Case("tool-tok2", "tool-tok2"),
    "structured_output": Case("json", "json"),
    "thinking": Case("tok2-think2", "tok2-think2"),
    "thinking_before_a_call": Case("think2-tool", "think2-tool"),
    "refusal": Case("refuse", "refuse"),
    "stop_sequence": Case("stop-tok3", "stop-tok3"),
    "length": Case("length-tok3", "length-tok3"),
    "cached_tokens": Case("cached50-cachewrite25-tok2", "cached50-cachewrite25-tok2"),
    "error": Case("ctx", "errevent2-tok3"),
}

_HELLO: Final = {"role": "user", "content": "one two three"}


def chat_bodies() -> dict[str, Body]:
    """Chat Completions."""
    tool = {"type": "function", "function": {**ABOUT_WEATHER, "parameters": CITY, "strict": True}}
    called = [
        {"id": f"call_{number}", "type": "function", "function": {"name": "weather", "arguments": arguments}}
        for number, arguments in enumerate((PARIS, ROME), 1)
    ]
    schema = {"name": "city", "strict": True, "schema": CITY}
    looked_at = [
        {"type": "text", "text": "look"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{PIXEL}", "detail": "low"}},
    ]
    referred_to = [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": PICTURE}}]
    return {
        "text": {"messages": [{"role": "user", "content": GREETING}], "temperature": 0.5, "seed": 7},
        "system": {"messages": [{"role": "system", "content": "be very brief"}, _HELLO]},
        "multi_turn": {"messages": [_HELLO, {"role": "assistant", "content": "four"}, {**_HELLO, "content": "five"}]},
        "image": {"messages": [{"role": "user", "content": looked_at}]},
        "image_by_url": {"messages": [{"role": "user", "content": referred_to}]},
        "tool_call": {"messages": [_HELLO], "tools": [tool], "tool_choice": "auto"},
        "parallel_tool_calls": {
            "messages": [_HELLO],
            "tools": [tool],
            "tool_choice": "required",
            "parallel_tool_calls": True,
        },
        "tool_result": {
            "messages": [
                _HELLO,
                {"role": "assistant", "content": "let me see", "tool_calls": called},
                {"role": "tool", "tool_call_id": "call_1", "content": "18 degrees"},
                {"role": "tool", "tool_call_id": "call_2", "content": '{"degrees":25.0}'},
            ],
            "tools": [tool],
        },
        "structured_output": {
            "messages": [_HELLO],
            "response_format": {"type": "json_schema", "json_schema": schema},
        },
        "thinking": {"messages": [_HELLO], "reasoning_effort": "low", "max_completion_tokens": 4096},
        "thinking_before_a_call": {
            "messages": [
                _HELLO,
                {"role": "assistant", "content": None, "reasoning_content": "count on", "tool_calls": called[:1]},
                {"role": "tool", "tool_call_id": "call_1", "content": "18 degrees"},
                {"role": "assistant", "content": "four"},
                {**_HELLO, "content": "five"},
            ],
            "tools": [tool],
            "reasoning_effort": "low",
            "max_completion_tokens": 4096,
        },
        "refusal": {"messages": [_HELLO]},
        "stop_sequence": {"messages": [_HELLO], "stop": ["tok3"]},
        "length": {"messages": [_HELLO], "max_completion_tokens": 20},
        "cached_tokens": {"messages": [{"role": "user", "content": "one two three four"}]},
        "error": {"messages": [_HELLO]},
    }


def responses_bodies() -> dict[str, Body]:
    """Responses. It has no stop sequences."""
    tool = {"type": "function", **ABOUT_WEATHER, "parameters": CITY, "strict": True}
    called = [
        {"type": "function_call", "call_id": f"call_{number}", "name": "weather", "arguments": arguments}
        for number, arguments in enumerate((PARIS, ROME), 1)
    ]
    looked_at = [
        {"type": "input_text", "text": "look"},
        {"type": "input_image", "image_url": f"data:image/png;base64,{PIXEL}", "detail": "low"},
    ]
    referred_to = [{"type": "input_text", "text": "look"}, {"type": "input_image", "image_url": PICTURE}]
    answered = {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "four"}]}
    summary = [{"type": "summary_text", "text": "count on"}]
    sealed = seal("count on", account="")
    thought = {"type": "reasoning", "id": "rs_1", "summary": summary, "encrypted_content": sealed}
    return {
        "text": {"input": GREETING, "temperature": 0.5},
        "system": {"instructions": "be very brief", "input": [_HELLO]},
        "multi_turn": {"input": [_HELLO, answered, {**_HELLO, "content": "five"}]},
        "image": {"input": [{"role": "user", "content": looked_at}]},
        "image_by_url": {"input": [{"role": "user", "content": referred_to}]},
        "tool_call": {"input": [_HELLO], "tools": [tool], "tool_choice": "auto"},
        "parallel_tool_calls": {
            "input": [_HELLO],
            "tools": [tool],
            "tool_choice": "required",
            "parallel_tool_calls": True,
        },
        "tool_result": {
            "input": [
                _HELLO,
                *called,
                {"type": "function_call_output", "call_id": "call_1", "output": "18 degrees"},
                {"type": "function_call_output", "call_id": "call_2", "output": '{"degrees":25.0}'},
            ],
            "tools": [tool],
        },
        "structured_output": {
            "input": [_HELLO],
            "text": {"format": {"type": "json_schema", "name": "city", "strict": True, "schema": CITY}},
        },
        "thinking": {
            "input": [_HELLO],
            "reasoning": {"effort": "low", "summary": "auto"},
            "max_output_tokens": 4096,
        },
        "thinking_before_a_call": {
            "input": [
                _HELLO,
                thought,
                called[0],
                {"type": "function_call_output", "call_id": "call_1", "output": "18 degrees"},
                answered,
                {**_HELLO, "content": "five"},
            ],
            "tools": [tool],
            "reasoning": {"effort": "low", "summary": "auto"},
            "include": ["reasoning.encrypted_content"],
            "max_output_tokens": 4096,
        },
        "refusal": {"input": [_HELLO]},
        "length": {"input": [_HELLO], "max_output_tokens": 20},
        "cached_tokens": {"input": "one two three four"},
        "error": {"input": [_HELLO]},
    }


def messages_bodies() -> dict[str, Body]:
    """Messages; ``max_tokens`` is mandatory there."""
    tool = {**ABOUT_WEATHER, "input_schema": CITY}
    called = [
        {"type": "tool_use", "id": f"toolu_{number}", "name": "weather", "input": {"city": city}}
        for number, city in enumerate(("Paris", "Rome"), 1)
    ]
    results = [
        {"type": "tool_result", "tool_use_id": "toolu_1", "content": "18 degrees"},
        {"type": "tool_result", "tool_use_id": "toolu_2", "content": [{"type": "text", "text": '{"degrees":25.0}'}]},
    ]
    looked_at = [
        {"type": "text", "text": "look"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}},
    ]
    referred_to = [{"type": "text", "text": "look"}, {"type": "image", "source": {"type": "url", "url": PICTURE}}]
    briefly = [{"type": "text", "text": "be very brief", "cache_control": {"type": "ephemeral"}}]
    thought = {"type": "thinking", "thinking": "count on", "signature": signature_of("count on")}
    return {
        "text": {"max_tokens": 100, "messages": [{"role": "user", "content": GREETING}], "temperature": 0.5},
        "system": {"max_tokens": 100, "system": briefly, "messages": [_HELLO]},
        "multi_turn": {
            "max_tokens": 100,
            "messages": [_HELLO, {"role": "assistant", "content": "four"}, {**_HELLO, "content": "five"}],
        },
        "image": {"max_tokens": 100, "messages": [{"role": "user", "content": looked_at}]},
        "image_by_url": {"max_tokens": 100, "messages": [{"role": "user", "content": referred_to}]},
        "tool_call": {"max_tokens": 100, "messages": [_HELLO], "tools": [tool], "tool_choice": {"type": "auto"}},
        "parallel_tool_calls": {
            "max_tokens": 100,
            "messages": [_HELLO],
            "tools": [tool],
            "tool_choice": {"type": "any", "disable_parallel_tool_use": False},
        },
        "tool_result": {
            "max_tokens": 100,
            "messages": [
                _HELLO,
                {"role": "assistant", "content": [{"type": "text", "text": "let me see"}, *called]},
                {"role": "user", "content": results},
            ],
            "tools": [tool],
        },
        "structured_output": {
            "max_tokens": 100,
            "messages": [_HELLO],
            "output_config": {"format": {"type": "json_schema", "schema": CITY}},
        },
        "thinking": {
            "max_tokens": 4096,
            "thinking": {"type": "enabled", "budget_tokens": 2048},
            "messages": [
                _HELLO,
                {"role": "assistant", "content": [thought, {"type": "text", "text": "four"}]},
                {**_HELLO, "content": "five"},
            ],
        },
        "thinking_before_a_call": {
            "max_tokens": 4096,
            "thinking": {"type": "enabled", "budget_tokens": 2048},
            "messages": [
                _HELLO,
                {"role": "assistant", "content": [thought, called[0]]},
                {"role": "user", "content": results[:1]},
                {"role": "assistant", "content": [{"type": "text", "text": "four"}]},
                {**_HELLO, "content": "five"},
            ],
            "tools": [tool],
        },
        "refusal": {"max_tokens": 100, "messages": [_HELLO]},
        "stop_sequence": {"max_tokens": 100, "messages": [_HELLO], "stop_sequences": ["tok3"]},
        "length": {"max_tokens": 20, "messages": [_HELLO]},
        "cached_tokens": {"max_tokens": 100, "messages": [{"role": "user", "content": "one two three four"}]},
        "error": {"max_tokens": 100, "messages": [_HELLO]},
    }


BODIES: Final = {
    "openai_chat": chat_bodies(),
    "openai_responses": responses_bodies(),
    "anthropic_messages": messages_bodies(),
}
HEADERS: Final[dict[str, dict[str, str]]] = {
    "openai_chat": {},
    "openai_responses": {},
    "anthropic_messages": {"anthropic-version": "2023-06-01"},
}


def question(dialect: str, case: str, *, streamed: bool) -> Body:
    """The body of a case's request; chat callers ask for the usage of streams, the others get it anyway."""
    body: Body = {"model": ASKED_MODEL, **BODIES[dialect][case]}
    if streamed:
        body["stream"] = True
        if dialect == "openai_chat":
            body["stream_options"] = {"include_usage": True}
    return body
