"""The official OpenAI SDK's Responses against a running gateway, with a vendor of each format behind it."""

import json
from typing import Any

import httpx
import openai
import pytest
from openai.types.responses import Response
from pydantic import BaseModel

from gateway.conformance.vendors import VendorServer
from tests.e2e.conftest import TOKEN, VENDORS
from tests.e2e.gateway_process import GatewayProcess

FORMATS = tuple(VENDORS)
WEATHER = {
    "type": "function",
    "name": "weather",
    "description": "The weather in a city",
    "parameters": {
        "type": "object",
        "properties": {"city": {"type": "string"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "strict": True,
}
PIXEL = "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="


def whole(client: openai.OpenAI, model: str, input: Any = "one two three", **options: Any) -> Response:
    return client.responses.create(model=model, input=input, **options)


def streamed(client: openai.OpenAI, model: str, input: Any = "one two three", **options: Any) -> Response:
    """What the SDK makes of the stream; the numbering is checked on the way."""
    numbers = []
    final = None
    with client.responses.create(model=model, input=input, stream=True, **options) as stream:
        for event in stream:
            numbers.append(event.sequence_number)
            if event.type in ("response.completed", "response.incomplete"):
                final = event.response
    assert numbers == list(range(len(numbers)))
    assert final is not None
    return final


def said(response: Response) -> list[Any]:
    """The output without what differs from call to call."""
    items = []
    for item in response.output:
        if item.type == "message":
            items.append([part.text if part.type == "output_text" else part.refusal for part in item.content])
        elif item.type == "reasoning":
            items.append(("thought", [part.text for part in item.summary]))
        else:
            items.append((item.name, json.loads(item.arguments)))
    return items


@pytest.mark.parametrize("vendor", FORMATS)
@pytest.mark.parametrize("behaviour", ["tok8", "tok8-cached25", "tok8-think12", "tool", "tools2", "length", "refuse"])
def test_whole_and_streamed_responses_agree(client: openai.OpenAI, vendor: str, behaviour: str) -> None:
    options: dict[str, Any] = {"tools": [WEATHER]} if behaviour.startswith("tool") else {}
    if "think" in behaviour:
        options["reasoning"] = {"effort": "low"}
    one, other = (call(client, f"{vendor}-{behaviour}", **options) for call in (whole, streamed))

    assert said(one) == said(other)
    assert one.output
    assert (one.status, one.incomplete_details) == (other.status, other.incomplete_details)
    assert one.usage == other.usage
    for response in (one, other):
        assert response.model_extra is not None
        assert response.model_extra["x-gateway"]["provider"] == vendor


@pytest.mark.parametrize("vendor", FORMATS)
def test_the_sdks_accumulated_stream_is_the_final_response(client: openai.OpenAI, vendor: str) -> None:
    with client.responses.stream(model=f"{vendor}-tok8-think12", input="hi", reasoning={"effort": "low"}) as stream:
        texts = [event.delta for event in stream if event.type == "response.output_text.delta"]
        final = stream.get_final_response()
    assert "".join(texts) == final.output_text == " ".join(f"tok{number}" for number in range(1, 9))


@pytest.mark.parametrize("vendor", FORMATS)
@pytest.mark.parametrize("call", [whole, streamed])
def test_parallel_function_calls_arrive_complete(client: openai.OpenAI, vendor: str, call: Any) -> None:
    response = call(client, f"{vendor}-tools2", tools=[WEATHER])

    calls = [item for item in response.output if item.type == "function_call"]
    assert [json.loads(item.arguments) for item in calls] == [{"city": "Paris"}, {"city": "Rome"}]
    assert len({item.call_id for item in calls}) == 2


@pytest.mark.parametrize("vendor", FORMATS)
def test_a_functions_output_is_understood(client: openai.OpenAI, vendor: str) -> None:
    question = {"role": "user", "content": "the weather?"}
    first = whole(client, f"{vendor}-tool", [question], tools=[WEATHER])
    (call,) = [item for item in first.output if item.type == "function_call"]
    items = [
        question,
        *(item.model_dump(exclude_none=True) for item in first.output),
        {"type": "function_call_output", "call_id": call.call_id, "output": "18 degrees"},
    ]
    answer = whole(client, f"{vendor}-tool", items, tools=[WEATHER])

    assert answer.output_text
    assert answer.status == "completed"


class City(BaseModel):
    name: str
    country: str


@pytest.mark.parametrize("vendor", FORMATS)
def test_structured_output_is_parsed(client: openai.OpenAI, vendor: str) -> None:
    response = client.responses.parse(model=f"{vendor}-json", input="a city", text_format=City)
    assert response.output_parsed == City(name="tok1", country="tok1")


@pytest.mark.parametrize("vendor", FORMATS)
def test_an_image_and_instructions_reach_the_vendor(client: openai.OpenAI, vendor: str) -> None:
    content = [{"type": "input_text", "text": "look"}, {"type": "input_image", "image_url": PIXEL, "detail": "auto"}]
    answer = whole(client, f"{vendor}-echo", [{"role": "user", "content": content}], instructions="Be brief.")
    assert answer.output_text.startswith("look")


def test_an_answer_is_continued_by_its_id_where_the_vendor_keeps_it(client: openai.OpenAI) -> None:
    first = whole(client, "responses-tok8")
    second = whole(client, "responses-tok8", previous_response_id=first.id)
    assert second.output_text

    with pytest.raises(openai.BadRequestError) as failure:
        whole(client, "anthropic-tok8", previous_response_id=first.id)
    assert failure.value.code == "unsupported_content"


def test_the_callers_fields_reach_a_vendor_of_the_same_format(
    client: openai.OpenAI, gateway: GatewayProcess, vendors: VendorServer
) -> None:
    body = b'{"unheard_of": {"b": 1, "a": [2.50]},"model":"responses-tok8","input":"hi","store":false}'
    headers = {"authorization": f"Bearer {TOKEN}", "content-type": "application/json"}
    answer = httpx.post(f"{gateway.url}/v1/responses", content=body, headers=headers)

    assert answer.status_code == 200
    (call,) = [call for call in vendors.log if "unheard_of" in (call.body or {})]
    assert list(call.body) == ["unheard_of", "model", "input", "store"]


@pytest.mark.parametrize("vendor", FORMATS)
def test_a_stream_that_breaks_ends_in_an_error(client: openai.OpenAI, vendor: str) -> None:
    with pytest.raises(openai.APIError):
        streamed(client, f"{vendor}-errevent5")


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError):
        whole(client, "nothing-like-this")
