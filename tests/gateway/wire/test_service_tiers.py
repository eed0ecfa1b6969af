"""Each vendor's way of saying in which tier of service a call was served ends in the same word beside its counts."""

from typing import Any

import msgspec
import pytest

from gateway.wire import anthropic_messages, openai_chat, openai_responses
from gateway.wire.types import Chunk

CHAT = {
    "id": "c",
    "model": "m",
    "choices": [{"index": 0, "message": {"content": "Hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1},
}
RESPONSE = {
    "id": "resp",
    "model": "m",
    "status": "completed",
    "output": [{"type": "message", "content": [{"type": "output_text", "text": "Hi"}]}],
    "usage": {"input_tokens": 3, "output_tokens": 1},
}
MESSAGE = {
    "id": "msg",
    "type": "message",
    "model": "m",
    "content": [{"type": "text", "text": "Hi"}],
    "stop_reason": "end_turn",
}


def message(tier: str, **further: str) -> dict[str, Any]:
    return MESSAGE | {"usage": {"input_tokens": 3, "output_tokens": 1, "service_tier": tier, **further}}


def tiers_of(chunks: list[Chunk]) -> set[str]:
    return {chunk.usage.service_tier for chunk in chunks if chunk.usage is not None}


def events(*payloads: dict[str, Any]) -> bytes:
    framed = (f"event: {each['type']}\ndata: {msgspec.json.encode(each).decode()}\n\n" for each in payloads)
    return "".join(framed).encode()


WHOLE = [
    (openai_chat, CHAT | {"service_tier": "flex"}, "flex"),
    (openai_chat, CHAT | {"service_tier": "default"}, ""),
    (openai_chat, CHAT, ""),
    (openai_responses, RESPONSE | {"service_tier": "flex"}, "flex"),
    (openai_responses, RESPONSE | {"service_tier": "priority"}, "priority"),
    (openai_responses, RESPONSE | {"service_tier": "fast"}, "priority"),
    (openai_responses, RESPONSE | {"service_tier": "auto"}, ""),
    (openai_responses, RESPONSE | {"service_tier": "ultrafast"}, "ultrafast"),
    (openai_responses, RESPONSE | {"service_tier": "not known yet"}, "other"),
    (anthropic_messages, message("batch"), "batch"),
    (anthropic_messages, message("standard"), ""),
    (anthropic_messages, message("priority"), ""),  # paid for in advance
    (anthropic_messages, message("standard", speed="standard"), ""),
    (anthropic_messages, message("standard", speed="fast"), "priority"),
]


@pytest.mark.parametrize("passthrough", [False, True])
@pytest.mark.parametrize(("wire", "body", "expected"), WHOLE)
def test_a_whole_answer_says_it(wire: Any, body: dict[str, Any], expected: str, passthrough: bool) -> None:
    completion = wire.parse_completion(msgspec.json.encode(body), passthrough)
    assert completion.usage is not None
    assert completion.usage.service_tier == expected
    assert (completion.usage.input, completion.usage.output) == (3, 1)


@pytest.mark.parametrize("passthrough", [False, True])
def test_a_streamed_message_says_it_with_its_first_event(passthrough: bool) -> None:
    stream = events(
        {"type": "message_start", "message": message("batch") | {"content": [], "stop_reason": None}},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 5}},
        {"type": "message_stop"},
    )
    assert tiers_of(anthropic_messages.open_parser(passthrough).parse_chunk(stream)) == {"batch"}


@pytest.mark.parametrize("passthrough", [False, True])
def test_a_streamed_response_says_it_with_its_last_event(passthrough: bool) -> None:
    stream = events(
        {"type": "response.created", "response": RESPONSE | {"service_tier": "auto", "usage": None}},
        {"type": "response.completed", "response": RESPONSE | {"service_tier": "flex"}},
    )
    assert tiers_of(openai_responses.open_parser(passthrough).parse_chunk(stream)) == {"flex"}
