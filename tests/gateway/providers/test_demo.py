"""The demo through the same client and target as any vendor."""

from typing import Any

import msgspec
import pytest

from gateway.errors import InvalidRequest
from gateway.providers.client import CALLER_FORMATS, VendorClient
from gateway.providers.demo import DemoTransport
from gateway.providers.outbound import Deadlines, OutboundRequest, Response
from gateway.providers.target import Target
from gateway.wire import openai_chat
from gateway.wire.types import Completion, Request, Text, ToolCall

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1}},
            "required": ["city", "days"],
        },
    },
}


class NoNetwork:
    async def send(self, request: OutboundRequest, deadlines: Deadlines) -> Response:
        raise AssertionError("the demo must not reach for the network")


@pytest.fixture
def client() -> VendorClient:
    return VendorClient(NoNetwork(), demo=DemoTransport(word_pause_s=0))


TARGET = Target("p", "demo", "demo", "", None, "", "m", "demo", "demo")


def chat(text: str, **fields: Any) -> Request:
    body = {"model": "demo", "messages": [{"role": "user", "content": text}], **fields}
    return CALLER_FORMATS["openai_chat"].parse_request(msgspec.json.encode(body), {})


async def whole(client: VendorClient, request: Request) -> Completion:
    """The answer as its content: the demo speaks the caller's format, so its body is passed on as it is."""
    completion = await client.complete(TARGET, request, Deadlines())
    assert completion.body is not None
    return openai_chat.parse_completion(completion.body, False)


def text_of(completion: Completion) -> str:
    return "".join(part.text for part in completion.choices[0].parts if isinstance(part, Text))


async def test_says_that_it_is_a_demo_and_repeats_the_last_user_message(client: VendorClient) -> None:
    completion = await whole(client, chat("ping pong"))
    assert text_of(completion) == "This is the built-in demo, not a language model. You said: ping pong"
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage is not None
    assert (completion.usage.total_input, completion.usage.total_output) == (2, 13)


async def test_streams_word_by_word_what_it_says_whole(client: VendorClient) -> None:
    stream = await client.stream(TARGET, chat("ping pong", stream=True), Deadlines())
    chunks = [chunk for block in [block async for block in stream] for chunk in block]
    answer = await whole(client, chat("ping pong"))
    assert stream.complete
    assert "".join(chunk.text for chunk in chunks) == text_of(answer)
    assert sum(bool(chunk.text) for chunk in chunks) == 13
    assert [chunk.finish_reason for chunk in chunks if chunk.finish_reason] == ["stop"]
    assert [chunk.usage for chunk in chunks if chunk.usage][-1] == answer.usage


async def test_stops_at_max_tokens(client: VendorClient) -> None:
    completion = await whole(client, chat("hi", max_tokens=3))
    assert text_of(completion) == "This is the"
    assert completion.choices[0].finish_reason == "length"
    assert completion.usage is not None
    assert completion.usage.output == 3


@pytest.mark.parametrize("choice", ["required", {"type": "function", "function": {"name": "weather"}}])
async def test_calls_the_tool_it_must_with_arguments_that_fit(client: VendorClient, choice: object) -> None:
    completion = await whole(client, chat("Oslo", tools=[TOOL], tool_choice=choice))
    (call,) = [part for part in completion.choices[0].parts if isinstance(part, ToolCall)]
    assert (call.name, msgspec.json.decode(call.arguments)) == ("weather", {"city": "Oslo", "days": 1})
    assert completion.choices[0].finish_reason == "tool_calls"


async def test_streams_a_tool_call(client: VendorClient) -> None:
    request = chat("Oslo", tools=[TOOL], tool_choice="required", stream=True)
    stream = await client.stream(TARGET, request, Deadlines())
    chunks = [chunk for block in [block async for block in stream] for chunk in block]
    (delta,) = [delta for chunk in chunks for delta in chunk.tool_calls]
    assert (delta.name, msgspec.json.decode(delta.arguments)) == ("weather", {"city": "Oslo", "days": 1})


async def test_answers_in_words_when_a_tool_is_only_offered(client: VendorClient) -> None:
    assert text_of(await whole(client, chat("hi", tools=[TOOL]))).endswith("You said: hi")


async def test_gives_the_json_that_is_asked_for(client: VendorClient) -> None:
    schema = {"type": "object", "properties": {"ok": {"type": "boolean"}, "tags": {"type": "array"}}}
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}
    assert msgspec.json.decode(text_of(await whole(client, chat("hi", response_format=wanted)))) == {
        "ok": False,
        "tags": [],
    }
    loose = text_of(await whole(client, chat("hi", response_format={"type": "json_object"})))
    assert msgspec.json.decode(loose) == {"demo": True, "you_said": "hi"}


async def test_hears_text_parts_and_the_last_user_turn(client: VendorClient) -> None:
    parts = [{"type": "text", "text": "first"}, {"type": "text", "text": "second"}]
    messages = [{"role": "user", "content": parts}, {"role": "assistant", "content": "?"}]
    assert text_of(await whole(client, chat("ignored", messages=messages))).endswith("You said: first second")


async def test_refuses_a_body_it_cannot_read_as_a_vendor_would(client: VendorClient) -> None:
    with pytest.raises(InvalidRequest):
        await whole(client, chat("hi", response_format=[]))


async def test_a_closed_stream_says_no_more(client: VendorClient) -> None:
    stream = await client.stream(TARGET, chat("hi", stream=True), Deadlines())
    await anext(stream)
    stream.close()
    assert [block async for block in stream] == []
    assert not stream.complete
