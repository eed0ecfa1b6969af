"""Everything beside conversations, with the official OpenAI SDK against a running gateway."""

import io
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from gateway.conformance.vendors.operations import vector_of
from tests.e2e.conftest import TOKEN
from tests.e2e.gateway_process import GatewayProcess


@pytest.fixture
def raw(gateway: GatewayProcess) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{gateway.url}/v1", headers={"authorization": f"Bearer {TOKEN}"}) as client:
        yield client


@pytest.mark.parametrize("encoding", ["float", "base64", None])
def test_embeddings_arrive_as_the_vendor_made_them(client: openai.OpenAI, encoding: Any) -> None:
    options = {} if encoding is None else {"encoding_format": encoding}
    answer = client.embeddings.create(model="openai-tok8", input=["one two", "three"], **options)

    if encoding != "base64":  # which the SDK hands on as it is
        assert [item.embedding for item in answer.data] == [vector_of("one two"), vector_of("three")]
    assert answer.usage.prompt_tokens == 3
    assert (answer.model_extra or {})["x-gateway"]["provider"] == "openai"


def test_dimensions_and_token_numbers_reach_the_vendor(client: openai.OpenAI) -> None:
    answer = client.embeddings.create(model="openai-tok8", input=[[1, 2, 3]], dimensions=4, encoding_format="float")
    assert answer.data[0].embedding == vector_of("1 2 3", 4)


@pytest.mark.parametrize("vendor", ["gemini", "ollama"])
@pytest.mark.parametrize("encoding", ["float", "base64"])
def test_embeddings_of_other_vendors_have_openais_shape(raw: httpx.Client, vendor: str, encoding: str) -> None:
    body = {"model": f"{vendor}-tok8", "input": ["one two", "three"], "encoding_format": encoding}
    answer = raw.post("/embeddings", json=body).json()

    assert [item["index"] for item in answer["data"]] == [0, 1]
    assert all(isinstance(item["embedding"], str if encoding == "base64" else list) for item in answer["data"])


def test_a_vendor_without_embeddings_says_so(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as failure:
        client.embeddings.create(model="anthropic-tok8", input="one")
    assert failure.value.code == "unsupported_content"


def test_embeddings_are_on_the_ledger(client: openai.OpenAI, gateway: GatewayProcess) -> None:
    answer = client.embeddings.with_raw_response.create(model="openai-tok8", input="one two three")
    (line,) = gateway.line_of(answer.headers["x-request-id"])
    assert (line["state"], line["input_tokens"], line["output_tokens"]) == ("settled", 3, 0)
    assert not line["estimated"]


@pytest.mark.parametrize("stream", [False, True])
def test_completions_whole_and_streamed(client: openai.OpenAI, stream: bool) -> None:
    answer = client.completions.create(model="openai-tok8", prompt="one two", stream=stream)
    chunks = list(answer) if stream else [answer]
    assert "".join(chunk.choices[0].text for chunk in chunks if chunk.choices) == " tok1 tok2 tok3"


def test_moderations(client: openai.OpenAI) -> None:
    assert [r.flagged for r in client.moderations.create(model="openai-tok8", input=["bad", "good"]).results] == [
        True,
        False,
    ]


def test_images_are_metered(client: openai.OpenAI, gateway: GatewayProcess) -> None:
    answer = client.images.with_raw_response.generate(model="openai-tok8", prompt="a red cube")
    assert answer.parse().data[0].b64_json
    (line,) = gateway.line_of(answer.headers["x-request-id"])
    assert (line["input_tokens"], line["output_tokens"]) == (3, 272)


def test_speech_is_sound(client: openai.OpenAI) -> None:
    answer = client.audio.speech.with_raw_response.create(model="openai-tok8", voice="alloy", input="hello")
    assert answer.content == b"ID3hello"
    assert answer.headers["content-type"] == "audio/mpeg"
    assert answer.headers["x-gateway-provider"] == "openai"


@pytest.mark.parametrize("way", ["transcriptions", "translations"])
def test_an_upload_reaches_the_vendor_byte_for_byte(client: openai.OpenAI, way: str) -> None:
    sound = io.BytesIO(bytes(range(256)) * 8 + b"\r\n--not-the-boundary\r\n")
    sound.name = "speech.wav"
    answer = getattr(client.audio, way).create(model="openai-tok8", file=sound)
    assert answer.text == f"heard speech.wav of {256 * 8 + 22} bytes"


def test_a_transcript_as_text(client: openai.OpenAI) -> None:
    sound = ("a.wav", b"abc")
    assert (
        client.audio.transcriptions.create(model="openai-tok8", file=sound, response_format="text")
        == "heard a.wav of 3 bytes"
    )


def test_rerank(raw: httpx.Client) -> None:
    answer = raw.post("/rerank", json={"model": "openai-tok8", "query": "q", "documents": ["a", "bbb", "cc"]}).json()
    assert [result["index"] for result in answer["results"]] == [1, 2, 0]
    assert answer["x-gateway"]["provider"] == "openai"


@pytest.mark.parametrize(
    ("path", "body", "param"),
    [
        ("/embeddings", {"model": "openai-tok8", "input": []}, "input"),
        ("/embeddings", {"model": "openai-tok8", "input": {"a": 1}}, "input"),
        ("/moderations", {"model": "openai-tok8"}, "input"),
        ("/images/generations", {"model": "openai-tok8"}, "prompt"),
        ("/audio/speech", {"model": 5, "input": "x"}, "model"),
        ("/audio/transcriptions", {"model": "openai-tok8"}, None),
        ("/rerank", {"model": "openai-tok8", "documents": []}, "query"),
    ],
)
def test_wrong_requests_name_what_is_wrong(
    raw: httpx.Client, path: str, body: dict[str, Any], param: str | None
) -> None:
    answer = raw.post(path, json=body)
    assert (answer.status_code, answer.json()["error"]["param"]) == (400, param)


def test_a_failed_vendor_is_told_as_such(client: openai.OpenAI) -> None:
    with pytest.raises(openai.InternalServerError):
        client.embeddings.create(model="openai-503", input="one")
