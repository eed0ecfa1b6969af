"""Small sound requests in every dialect, and a reader for what comes back."""

import json
from typing import Any

import pytest

PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPhfDwAChwGA60e6kgAAAABJRU5ErkJggg=="  # a PNG
TEXT8 = "tok1 tok2 tok3 tok4 tok5 tok6 tok7 tok8"
USER = [{"role": "user", "content": "one two three four"}]
WEATHER = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": "weather", "parameters": WEATHER}},
    {"type": "function", "function": {"name": "population", "parameters": WEATHER}},
]
ANTHROPIC_TOOLS = [{"name": tool["function"]["name"], "input_schema": WEATHER} for tool in TOOLS]
GEMINI_TOOLS = [{"functionDeclarations": [{"name": "weather", "parameters": WEATHER}]}]


def chat(model: str, stream: bool = False, **fields: Any) -> dict[str, Any]:
    return {"model": model, "messages": USER, "stream": stream, **fields}


def request_of(dialect: str, model: str, stream: bool) -> tuple[str, dict[str, Any]]:
    """Path and body of the smallest sound request in a dialect."""
    if dialect == "openai":
        options = {"stream_options": {"include_usage": True}} if stream else {}
        return "/v1/chat/completions", chat(model, stream, **options)
    if dialect == "openai-responses":
        return "/v1/responses", {"model": model, "input": USER[0]["content"], "stream": stream}
    if dialect == "anthropic":
        return "/v1/messages", chat(model, stream, max_tokens=1024)
    if dialect == "ollama":
        return "/api/chat", chat(model, stream)
    verb = "streamGenerateContent?alt=sse" if stream else "generateContent"
    contents = [{"role": "user", "parts": [{"text": USER[0]["content"]}]}]
    return f"/v1beta/models/{model}:{verb}", {"contents": contents}


def events_of(body: str) -> list[dict[str, Any]]:
    """The JSON objects of an SSE or NDJSON stream."""
    lines = [line.removeprefix("data: ") for line in body.splitlines() if line.startswith(("data: ", "{"))]
    return [json.loads(line) for line in lines if line != "[DONE]"]


DIALECTS = pytest.mark.parametrize("dialect", ["openai", "openai-responses", "anthropic", "gemini", "ollama"])
BOTH_WAYS = pytest.mark.parametrize("stream", [False, True], ids=["whole", "streamed"])
