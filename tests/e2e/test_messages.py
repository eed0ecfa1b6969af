"""The official Anthropic SDK against a running gateway, with a vendor of each format behind it."""

import json
from collections.abc import Iterator
from typing import Any

import anthropic
import httpx
import pytest
from anthropic.types import Message

from gateway.conformance.vendors import VendorServer
from tests.e2e.conftest import TOKEN, VENDORS
from tests.e2e.gateway_process import GatewayProcess

FORMATS = tuple(VENDORS)
USER = [{"role": "user", "content": "one two three"}]
SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "weather", "description": "The weather in a city", "input_schema": SCHEMA}
PIXEL = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


@pytest.fixture(scope="module")
def claude(gateway: GatewayProcess) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=gateway.url, api_key=TOKEN, max_retries=0, timeout=20) as client:
        yield client


def whole(claude: anthropic.Anthropic, model: str, messages: Any = USER, **options: Any) -> Message:
    return claude.messages.create(model=model, messages=messages, **({"max_tokens": 500} | options))


def streamed(claude: anthropic.Anthropic, model: str, messages: Any = USER, **options: Any) -> Message:
    with claude.messages.stream(model=model, messages=messages, **({"max_tokens": 500} | options)) as stream:
        return stream.get_final_message()


def content_of(message: Message) -> list[dict[str, Any]]:
    """Blocks without what differs from call to call."""
    blocks = [block.model_dump(exclude_none=True) for block in message.content]
    return [{name: value for name, value in block.items() if name not in ("id", "signature")} for block in blocks]


@pytest.mark.parametrize("vendor", FORMATS)
@pytest.mark.parametrize("behaviour", ["tok8", "tok8-cached25", "tok8-think12", "tool", "tools2", "length", "refuse"])
def test_whole_and_streamed_messages_agree(claude: anthropic.Anthropic, vendor: str, behaviour: str) -> None:
    options: dict[str, Any] = {"tools": [WEATHER]} if behaviour.startswith("tool") else {}
    if "think" in behaviour:
        options["thinking"] = {"type": "enabled", "budget_tokens": 1024}
        options["max_tokens"] = 4000
    one = whole(claude, f"{vendor}-{behaviour}", **options)
    other = streamed(claude, f"{vendor}-{behaviour}", **options)

    assert content_of(one) == content_of(other)
    assert one.content or (vendor, behaviour) == ("gemini", "refuse")  # which blocks the prompt: nothing is said
    assert one.stop_reason == other.stop_reason
    assert one.usage.output_tokens == other.usage.output_tokens
    assert one.usage.input_tokens == other.usage.input_tokens > 0
    assert one.usage.cache_read_input_tokens == other.usage.cache_read_input_tokens


@pytest.mark.parametrize("vendor", FORMATS)
@pytest.mark.parametrize("call", [whole, streamed])
def test_parallel_tool_calls_arrive_complete(claude: anthropic.Anthropic, vendor: str, call: Any) -> None:
    message = call(claude, f"{vendor}-tools2", tools=[WEATHER])

    uses = [block for block in message.content if block.type == "tool_use"]
    assert [use.input for use in uses] == [{"city": "Paris"}, {"city": "Rome"}]
    assert len({use.id for use in uses}) == 2
    assert message.stop_reason == "tool_use"


@pytest.mark.parametrize("vendor", FORMATS)
def test_a_tool_result_is_understood(claude: anthropic.Anthropic, vendor: str) -> None:
    first = whole(claude, f"{vendor}-tool", tools=[WEATHER])
    (use,) = [block for block in first.content if block.type == "tool_use"]
    messages = [
        *USER,
        {"role": "assistant", "content": [block.model_dump(exclude_none=True) for block in first.content]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": "18 degrees"}]},
    ]
    answer = whole(claude, f"{vendor}-tool", messages, tools=[WEATHER])

    assert answer.stop_reason == "end_turn"
    assert answer.content[0].type == "text"


@pytest.mark.parametrize("vendor", FORMATS)
def test_an_image_and_a_system_prompt_reach_the_vendor(claude: anthropic.Anthropic, vendor: str) -> None:
    content = [
        {"type": "text", "text": "look"},
        {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": PIXEL}},
    ]
    answer = whole(claude, f"{vendor}-echo", [{"role": "user", "content": content}], system="Be brief.")

    assert answer.content[0].text.startswith("look")
    assert "image/png" in answer.content[0].text or vendor == "ollama"


@pytest.mark.parametrize("vendor", FORMATS)
def test_stop_sequences_are_honoured_or_said_to_be_dropped(claude: anthropic.Anthropic, vendor: str) -> None:
    raw = claude.messages.with_raw_response.create(
        model=f"{vendor}-stop", messages=USER, max_tokens=100, stop_sequences=["tok3"]
    )
    if vendor == "responses":  # an API without stop sequences
        assert raw.headers["x-gateway-dropped"] == "stop"
    else:
        assert "tok3" not in raw.parse().content[0].text


def test_the_callers_bytes_reach_a_vendor_of_the_same_format(gateway: GatewayProcess, vendors: VendorServer) -> None:
    """Prompt caching at the vendor depends on it."""
    body = (
        b'{"max_tokens": 64, "model":"anthropic-tok8", "system":[{"cache_control":{"type":"ephemeral"},"type":"text",'
        b'"text":"\\u00e9t\\u00e9"}],"messages":[{"role":"user","content":[{"text":"hi","type":"text"}]}],"top_k":5}'
    )
    headers = {"x-api-key": TOKEN, "anthropic-version": "2023-06-01", "anthropic-beta": "context-1m-2025-08-07"}
    answer = httpx.post(f"{gateway.url}/v1/messages", content=body, headers=headers)

    assert answer.status_code == 200
    call = [call for call in vendors.log if call.path == "/v1/messages" and "top_k" in call.body][-1]
    assert call.body == json.loads(body) | {"model": "m-tok8"}
    assert list(call.body) == list(json.loads(body))
    assert call.headers["anthropic-beta"] == "context-1m-2025-08-07"
    assert list(answer.json()) == ["id", "type", "role", "model", "content", "stop_reason", "stop_sequence", "usage"]
    assert answer.headers["x-gateway-provider"] == "anthropic"


@pytest.mark.parametrize(
    ("model", "error"),
    [
        ("nothing-like-this", anthropic.NotFoundError),
        ("anthropic-ctx", anthropic.BadRequestError),
        ("openai-ctx", anthropic.BadRequestError),
    ],
)
def test_errors_are_the_sdks_own(claude: anthropic.Anthropic, model: str, error: type[Exception]) -> None:
    with pytest.raises(error) as failure:
        whole(claude, model)
    assert failure.value.body["type"] == "error"  # type: ignore[attr-defined]
    assert failure.value.body["request_id"]  # type: ignore[attr-defined]


def test_a_wrong_key_is_an_authentication_error(gateway: GatewayProcess) -> None:
    with (
        anthropic.Anthropic(base_url=gateway.url, api_key="wrong", max_retries=0) as stranger,
        pytest.raises(anthropic.AuthenticationError),
    ):
        whole(stranger, "anthropic-tok8")


def test_max_tokens_is_asked_for(gateway: GatewayProcess) -> None:
    answer = httpx.post(
        f"{gateway.url}/v1/messages", json={"model": "anthropic-tok8", "messages": USER}, headers={"x-api-key": TOKEN}
    )
    assert answer.status_code == 400
    assert answer.json()["error"]["type"] == "invalid_request_error"
    assert "max_tokens" in answer.json()["error"]["message"]


@pytest.mark.parametrize("vendor", FORMATS)
def test_a_stream_that_breaks_ends_in_an_error_event(claude: anthropic.Anthropic, vendor: str) -> None:
    with pytest.raises(anthropic.APIStatusError):
        streamed(claude, f"{vendor}-errevent5")


@pytest.mark.parametrize("vendor", FORMATS)
def test_tokens_are_counted_for_any_model(claude: anthropic.Anthropic, vendor: str) -> None:
    assert claude.messages.count_tokens(model=f"{vendor}-tok8", messages=USER).input_tokens > 0


@pytest.mark.parametrize("vendor", FORMATS)
def test_the_ledger_has_what_the_caller_was_told(
    claude: anthropic.Anthropic, gateway: GatewayProcess, vendor: str
) -> None:
    raw = claude.messages.with_raw_response.create(model=f"{vendor}-tok8", messages=USER, max_tokens=100)
    message = raw.parse()
    (line,) = gateway.line_of(raw.headers["x-request-id"])

    assert line["state"] == "settled"
    assert line["output_tokens"] + line["reasoning_tokens"] == message.usage.output_tokens
    assert line["cost_usd"] == raw.headers["x-gateway-cost-usd"]
