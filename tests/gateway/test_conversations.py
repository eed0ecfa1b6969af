"""Kept requests and answers, out of whichever dialect, as judges are shown them and replays ask them."""

from typing import Any

import msgspec
import pytest
from msgspec import Raw

from gateway.conversations import answer_in, asking, conversation_in, exchange_of, told
from gateway.errors import GatewayError
from gateway.wire.types import (
    Audio,
    Conversation,
    File,
    Image,
    Message,
    Refusal,
    ResponseFormat,
    Text,
    Thinking,
    ToolCall,
    ToolResult,
)
from routing.judge import Turn
from routing.judge.samples import Sample

ASKED: dict[str, dict[str, Any]] = {
    "openai_chat": {
        "model": "auto",
        "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Capital of Peru?"}],
        "temperature": 0.3,
    },
    "anthropic_messages": {
        "model": "auto",
        "max_tokens": 50,
        "system": "Be brief.",
        "messages": [{"role": "user", "content": "Capital of Peru?"}],
        "temperature": 0.3,
    },
    "openai_responses": {
        "model": "auto",
        "instructions": "Be brief.",
        "input": "Capital of Peru?",
        "temperature": 0.3,
    },
}
ANSWERED: dict[str, dict[str, Any]] = {
    "openai_chat": {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "Lima."}}],
        "x-gateway": {"model": "m"},
    },
    "anthropic_messages": {
        "id": "m",
        "type": "message",
        "role": "assistant",
        "model": "m",
        "content": [{"type": "text", "text": "Lima."}],
        "stop_reason": "end_turn",
        "usage": {"input_tokens": 1, "output_tokens": 1},
    },
    "openai_responses": {
        "id": "r",
        "object": "response",
        "model": "m",
        "status": "completed",
        "output": [
            {
                "type": "message",
                "id": "o",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": "Lima.", "annotations": []}],
            }
        ],
    },
}


def sample(dialect: str, answer: str = "", answer_is: Any = "text", **fields: Any) -> Sample:
    return Sample(dialect, Raw(msgspec.json.encode(ASKED[dialect] | fields)), answer, answer_is, "stop")


@pytest.mark.parametrize("dialect", ASKED)
def test_a_kept_request_is_the_same_conversation_in_every_dialect(dialect: str) -> None:
    conversation = conversation_in(sample(dialect))
    assert [(turn.role, told(turn.parts)) for turn in conversation.messages] == [
        ("system", "Be brief."),
        ("user", "Capital of Peru?"),
    ]
    assert conversation.sampling.temperature == 0.3


@pytest.mark.parametrize("dialect", ANSWERED)
def test_a_kept_answer_is_its_text_in_every_dialect(dialect: str) -> None:
    body = msgspec.json.encode(ANSWERED[dialect]).decode()
    assert answer_in(sample(dialect, body, "body")) == "Lima."
    assert answer_in(sample(dialect, "Lima, as streamed", "text")) == "Lima, as streamed"


def test_a_request_that_cannot_be_read_any_more_is_an_error() -> None:
    with pytest.raises(GatewayError):
        conversation_in(sample("openai_chat", messages="what?"))


def test_what_is_no_text_is_named() -> None:
    parts = (
        Text("Look:"),
        Image(url="https://x.example/i.png"),
        Audio("UklGRg==", "wav"),
        File(filename="a.pdf"),
        File(),
        ToolCall("c", "weather", '{"city": "Lima"}'),
        ToolResult("c", (Text("19 degrees"), Image(data="aGk=", media_type="image/png"))),
        Refusal("No."),
        Thinking("between us"),
    )
    assert told(parts).splitlines() == [
        "Look:", "[an image]", "[a recording]", "[a file: a.pdf]", "[a file: unnamed]",
        '[calls weather with {"city": "Lima"}]', "[result of a tool: 19 degrees", "[an image]]", "No.",
    ]  # fmt: skip


def exchange(wanted: ResponseFormat | None = None) -> Any:
    said = Conversation((Message("user", (Text("hi"),)),), response_format=wanted)
    return exchange_of(said, "hello", "stop")


def test_a_judge_is_shown_the_turns_and_what_form_was_wanted() -> None:
    assert exchange().turns == (Turn("user", "hi"),)
    assert not exchange().wants_json
    schema = {"type": "object", "required": ["a", "b"]}
    wanted = exchange(ResponseFormat("json_schema", schema=schema))
    assert (wanted.wants_json, wanted.required_keys, wanted.schema) == (True, {"a", "b"}, schema)
    assert exchange(ResponseFormat("json")).wants_json
    assert not exchange(ResponseFormat("text")).wants_json


@pytest.mark.parametrize(
    ("schema", "keys"),
    [({"required": "a"}, set()), ({"required": [{"a": 1}, ["b"], None, "c"]}, {"c"}), ({"required": None}, set())],
)
def test_a_schema_that_makes_no_sense_asks_for_what_does(schema: dict[str, Any], keys: set[str]) -> None:
    assert exchange(ResponseFormat("json_schema", schema=schema)).required_keys == keys


def test_a_judge_is_asked_without_chance() -> None:
    asked = asking("Rate this.")
    assert told(asked.messages[0].parts) == "Rate this."
    assert asked.sampling.temperature == 0.0
