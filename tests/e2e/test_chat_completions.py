"""The official OpenAI SDK against a running gateway, with a vendor of each format behind it."""

import json
from typing import Any

import openai
import pytest
from openai.types.chat import ChatCompletion, ChatCompletionChunk
from pydantic import BaseModel

from gateway.conformance.vendors import VendorServer
from tests.e2e.conftest import TOKEN, VENDORS
from tests.e2e.gateway_process import GatewayProcess

FORMATS = tuple(VENDORS)
USER = [{"role": "user", "content": "one two three"}]
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather in a city",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}},
            "required": ["city"],
            "additionalProperties": False,
        },
    },
}
PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def whole(client: openai.OpenAI, model: str, messages: Any = USER, **options: Any) -> ChatCompletion:
    return client.chat.completions.create(model=model, messages=messages, **options)


def streamed(client: openai.OpenAI, model: str, messages: Any = USER, **options: Any) -> list[ChatCompletionChunk]:
    return list(client.chat.completions.create(model=model, messages=messages, stream=True, **options))


def text_of(chunks: list[ChatCompletionChunk]) -> str:
    return "".join(choice.delta.content or "" for chunk in chunks for choice in chunk.choices)


def finish_of(chunks: list[ChatCompletionChunk]) -> str | None:
    return next((choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason), None)


def metadata_of(answer: ChatCompletion | list[ChatCompletionChunk]) -> dict[str, Any]:
    if isinstance(answer, list):
        (answer_with_it,) = [chunk for chunk in answer if "x-gateway" in (chunk.model_extra or {})]
        assert answer_with_it.choices[0].finish_reason
        return answer_with_it.model_extra["x-gateway"]
    return (answer.model_extra or {})["x-gateway"]


@pytest.mark.parametrize("vendor", FORMATS)
def test_whole_and_streamed_answers_agree(client: openai.OpenAI, vendor: str) -> None:
    answer = whole(client, f"{vendor}-tok8")
    chunks = streamed(client, f"{vendor}-tok8", stream_options={"include_usage": True})
    assert answer.choices[0].message.content == text_of(chunks)
    assert len(text_of(chunks).split()) == 8
    assert answer.choices[0].finish_reason == finish_of(chunks) == "stop"
    assert answer.usage and chunks[-1].usage
    assert answer.usage.prompt_tokens == chunks[-1].usage.prompt_tokens == 3
    assert answer.usage.completion_tokens == chunks[-1].usage.completion_tokens == 8
    for metadata in (metadata_of(answer), metadata_of(chunks)):
        assert metadata["provider"] == vendor
        assert metadata["model"] == f"{vendor}-tok8"
        assert metadata["cost_usd"] == pytest.approx(3 * 0.15e-6 + 8 * 0.60e-6, abs=1e-15)
        assert metadata["fallback_used"] is False


@pytest.mark.parametrize("vendor", FORMATS)
def test_an_unasked_usage_chunk_is_not_sent(client: openai.OpenAI, vendor: str) -> None:
    chunks = streamed(client, f"{vendor}-tok8")
    assert all(chunk.choices for chunk in chunks)


@pytest.mark.parametrize("vendor", FORMATS)
def test_a_tool_call_and_its_result_go_both_ways(client: openai.OpenAI, vendor: str) -> None:
    answer = whole(client, f"{vendor}-tool", tools=[WEATHER])
    assert answer.choices[0].finish_reason == "tool_calls"
    (call,) = answer.choices[0].message.tool_calls or []
    assert (call.function.name, json.loads(call.function.arguments)) == ("weather", {"city": "Paris"})
    conversation = [
        *USER,
        answer.choices[0].message.model_dump(exclude_none=True),
        {"role": "tool", "tool_call_id": call.id, "content": "sunny"},
    ]
    closing = whole(client, f"{vendor}-tool", conversation, tools=[WEATHER])
    assert closing.choices[0].finish_reason == "stop"
    assert closing.choices[0].message.content


@pytest.mark.parametrize("vendor", FORMATS)
def test_parallel_tool_calls_arrive_complete_in_a_stream(client: openai.OpenAI, vendor: str) -> None:
    calls: dict[int, dict[str, str]] = {}
    chunks = streamed(client, f"{vendor}-tools2", tools=[WEATHER])
    for chunk in chunks:
        for delta in (call for choice in chunk.choices for call in choice.delta.tool_calls or ()):
            call = calls.setdefault(delta.index, {"id": "", "name": "", "arguments": ""})
            call["id"] += delta.id or ""
            call["name"] += (delta.function and delta.function.name) or ""
            call["arguments"] += (delta.function and delta.function.arguments) or ""
    assert finish_of(chunks) == "tool_calls"
    assert [json.loads(calls[index]["arguments"]) for index in sorted(calls)] == [{"city": "Paris"}, {"city": "Rome"}]
    assert {call["name"] for call in calls.values()} == {"weather"}
    assert len({call["id"] for call in calls.values()}) == 2


@pytest.mark.parametrize("vendor", FORMATS)
def test_structured_output_is_parsed_by_the_sdk(client: openai.OpenAI, vendor: str) -> None:
    class Place(BaseModel):
        city: str
        inhabitants: int

    parsed = client.chat.completions.parse(model=f"{vendor}-json", messages=USER, response_format=Place)
    assert isinstance(parsed.choices[0].message.parsed, Place)


@pytest.mark.parametrize("vendor", FORMATS)
def test_an_image_reaches_the_vendor(client: openai.OpenAI, vendor: str) -> None:
    content = [{"type": "text", "text": "look"}, {"type": "image_url", "image_url": {"url": PIXEL}}]
    answer = whole(client, f"{vendor}-echo", [{"role": "user", "content": content}])
    said = answer.choices[0].message.content or ""
    assert said.startswith("look")
    assert "image" in said


@pytest.mark.parametrize("vendor", FORMATS)
def test_system_prompts_and_turns_reach_the_vendor(client: openai.OpenAI, vendors: VendorServer, vendor: str) -> None:
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "first question"},
        {"role": "assistant", "content": "first answer"},
        {"role": "user", "content": "second question"},
    ]
    answer = whole(client, f"{vendor}-echo", messages)
    assert answer.choices[0].message.content == "second question"
    assert answer.usage and answer.usage.prompt_tokens == 8
    assert "be brief" in json.dumps(vendors.log[-1].body)


@pytest.mark.parametrize("vendor", FORMATS)
def test_stop_reasons_are_openais(client: openai.OpenAI, vendor: str) -> None:
    assert whole(client, f"{vendor}-length", max_tokens=4).choices[0].finish_reason == "length"
    assert finish_of(streamed(client, f"{vendor}-length", max_tokens=4)) == "length"
    stopped = whole(client, f"{vendor}-stop", stop=["tok4"])
    assert stopped.choices[0].finish_reason == "stop"
    if vendor == "responses":  # an API without stop sequences
        assert metadata_of(stopped)["dropped"] == ["stop"]
    else:
        assert "tok4" not in (stopped.choices[0].message.content or "")


@pytest.mark.parametrize("vendor", ["openai", "anthropic", "gemini"])
def test_a_content_filter_is_told_as_such(client: openai.OpenAI, vendor: str) -> None:
    assert whole(client, f"{vendor}-filter").choices[0].finish_reason == "content_filter"
    assert finish_of(streamed(client, f"{vendor}-filter")) == "content_filter"


@pytest.mark.parametrize("vendor", ["openai", "anthropic", "gemini"])
def test_cached_tokens_are_reported_and_charged_apart(client: openai.OpenAI, vendor: str) -> None:
    messages = [{"role": "user", "content": "one two three four five six seven eight"}]
    for answer in (
        whole(client, f"{vendor}-tok8-cached25", messages),
        streamed(client, f"{vendor}-tok8-cached25", messages, stream_options={"include_usage": True}),
    ):
        usage = answer[-1].usage if isinstance(answer, list) else answer.usage
        assert usage and usage.prompt_tokens_details
        assert (usage.prompt_tokens, usage.prompt_tokens_details.cached_tokens) == (8, 2)
        cost = metadata_of(answer)["cost_usd"]
        assert cost == pytest.approx(6 * 0.15e-6 + 2 * 0.075e-6 + 8 * 0.60e-6, abs=1e-15)


@pytest.mark.parametrize("vendor", FORMATS)
def test_reasoning_is_kept_apart_from_the_answer(client: openai.OpenAI, vendor: str) -> None:
    answer = whole(client, f"{vendor}-tok8-think12", reasoning_effort="low", max_tokens=4000)
    message = answer.choices[0].message
    assert len((message.content or "").split()) == 8
    assert answer.usage and answer.usage.completion_tokens == 20
    if vendor != "openai":  # OpenAI itself keeps the text of its reasoning to itself
        assert "think12" in (message.model_extra or {})["reasoning_content"]


def test_unknown_fields_and_key_order_reach_a_vendor_of_the_same_format(
    client: openai.OpenAI, vendors: VendorServer
) -> None:
    whole(client, "openai-tok8", extra_body={"zebra": {"b": 1, "a": 2}, "x-session-id": "s-1", "x-tags": ["t"]})
    body = vendors.log[-1].body
    assert body["zebra"] == {"b": 1, "a": 2}
    assert list(body["zebra"]) == ["b", "a"]
    assert not [name for name in body if name.startswith("x-")]


def test_null_content_is_accepted(client: openai.OpenAI) -> None:
    messages = [
        *USER,
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": "{}"}}],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
    ]
    assert whole(client, "openai-tok8", messages, tools=[WEATHER]).choices[0].finish_reason == "stop"


async def test_the_async_client_streams(gateway: GatewayProcess) -> None:
    async with openai.AsyncOpenAI(base_url=f"{gateway.url}/v1", api_key=TOKEN, max_retries=0) as client:
        stream = await client.chat.completions.create(model="gemini-tok8", messages=USER, stream=True)
        text = [choice.delta.content or "" async for chunk in stream for choice in chunk.choices]
    assert len("".join(text).split()) == 8


def test_models_are_listed_and_found(client: openai.OpenAI) -> None:
    names = {model.id for model in client.models.list()}
    assert {"openai-tok8", "auto", "vendor/with/slashes"} <= names
    assert client.models.retrieve("vendor/with/slashes").owned_by == "openai"


def test_qualified_names_and_aliases_are_understood(client: openai.OpenAI) -> None:
    assert metadata_of(whole(client, "auto"))["model"] == "backup"
    assert metadata_of(whole(client, "anthropic/m-tok8"))["model"] == "anthropic-tok8"
