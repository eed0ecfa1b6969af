"""The client against scripted vendors of every format, over real sockets."""

import asyncio
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from gateway.errors import GatewayError, InvalidRequest, ProviderError
from gateway.providers import catalog
from gateway.providers.addresses import AddressGuard
from gateway.providers.client import CALLER_FORMATS, VendorClient
from gateway.providers.outbound import Deadlines
from gateway.providers.target import Target
from gateway.providers.transport import Transport
from gateway.wire import openai_chat
from gateway.wire.types import Chunk, Request, Text

from .vendor_server import Call, Vendor, vendor_server

SECRET = "sk-test-0123456789"

WHOLE: dict[str, dict[str, Any]] = {
    "openai-compatible": {
        "id": "c1", "object": "chat.completion", "created": 1, "model": "big",
        "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hello"}, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
    },
    "anthropic": {
        "id": "msg_1", "type": "message", "role": "assistant", "model": "big",
        "content": [{"type": "text", "text": "Hello"}], "stop_reason": "end_turn",
        "usage": {"input_tokens": 3, "output_tokens": 1},
    },
    "gemini": {
        "candidates": [{"content": {"role": "model", "parts": [{"text": "Hello"}]}, "finishReason": "STOP"}],
        "usageMetadata": {"promptTokenCount": 3, "candidatesTokenCount": 1, "totalTokenCount": 4},
        "modelVersion": "big",
    },
    "ollama": {
        "model": "big", "created_at": "2026-01-01T00:00:00Z", "message": {"role": "assistant", "content": "Hello"},
        "done": True, "done_reason": "stop", "prompt_eval_count": 3, "eval_count": 1,
    },
}  # fmt: skip


def sse(*events: dict[str, Any], named: bool = False) -> bytes:
    return b"".join(
        (f"event: {event['type']}\n" if named else "").encode() + b"data: " + json.dumps(event).encode() + b"\n\n"
        for event in events
    )


def openai_event(delta: dict[str, Any], finish_reason: str | None = None) -> dict[str, Any]:
    choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
    return {"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "big", "choices": [choice]}


OPENAI_STREAM = (
    sse(openai_event({"role": "assistant", "content": ""}), openai_event({"content": "Hello"}))
    + sse(openai_event({}, "stop"))
    + sse({"id": "c1", "object": "chat.completion.chunk", "created": 1, "model": "big", "choices": [],
           "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4}})
    + b"data: [DONE]\n\n"
)  # fmt: skip

STREAMED: dict[str, tuple[str, bytes]] = {
    "openai-compatible": ("text/event-stream; charset=utf-8", OPENAI_STREAM),
    "anthropic": (
        "text/event-stream",
        sse(
            {"type": "message_start", "message": {**WHOLE["anthropic"], "content": [], "stop_reason": None}},
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
            {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": "Hello"}},
            {"type": "content_block_stop", "index": 0},
            {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}},
            {"type": "message_stop"},
            named=True,
        ),
    ),
    "gemini": ("text/event-stream", sse(WHOLE["gemini"])),
    "ollama": (
        "application/x-ndjson",
        json.dumps({"model": "big", "message": {"role": "assistant", "content": "Hello"}, "done": False}).encode()
        + b"\n"
        + json.dumps({**WHOLE["ollama"], "message": {"role": "assistant", "content": ""}}).encode()
        + b"\n",
    ),
}

PATHS = {
    "openai-compatible": ("/chat/completions", "/chat/completions"),
    "anthropic": ("/v1/messages", "/v1/messages"),
    "gemini": ("/models/big:generateContent", "/models/big:streamGenerateContent?alt=sse"),
    "ollama": ("/api/chat", "/api/chat"),
}
KEY_HEADERS = {
    "openai-compatible": ("authorization", f"Bearer {SECRET}"),
    "anthropic": ("x-api-key", SECRET),
    "gemini": ("x-goog-api-key", SECRET),
    "ollama": ("authorization", f"Bearer {SECRET}"),
}


@pytest.fixture
async def client() -> AsyncIterator[VendorClient]:
    async with Transport(AddressGuard(["127.0.0.1/32"])) as transport:
        yield VendorClient(transport)


def target_at(vendor: Vendor, kind: str = "openai-compatible", path: str = "", secret: str = SECRET) -> Target:
    return Target(
        provider_id="p",
        provider_name="lab",
        kind=kind,
        base_url=vendor.url + path,
        provider_key_id="k",
        secret=secret,
        model_id="m",
        model_name="large",
        vendor_model="big",
        profile=catalog.get(kind).profile,
    )


def chat(**fields: Any) -> Request:
    body = {"model": "large", "messages": [{"role": "user", "content": "Hi"}], **fields}
    return CALLER_FORMATS["openai_chat"].parse_request(msgspec.json.encode(body), {})


async def drain(client: VendorClient, target: Target) -> tuple[list[Chunk], bool]:
    stream = await client.stream(target, chat(stream=True), Deadlines())
    chunks = [chunk for block in [block async for block in stream] for chunk in block]
    return chunks, stream.complete


@pytest.mark.parametrize("kind", WHOLE)
async def test_completes_in_every_format(client: VendorClient, kind: str) -> None:
    async def handler(call: Call) -> None:
        await call.answer(json.dumps(WHOLE[kind]).encode())

    async with vendor_server(handler) as vendor:
        completion = await client.complete(target_at(vendor, kind), chat(), Deadlines())

    if completion.body is not None:  # the caller's own format: passed on as it is
        completion = openai_chat.parse_completion(completion.body, False)
    assert completion.choices[0].parts == (Text("Hello"),)
    assert completion.usage is not None
    assert (completion.usage.input, completion.usage.output) == (3, 1)
    sent = vendor.calls[0]
    assert sent.request_line == f"POST {PATHS[kind][0]} HTTP/1.1"
    name, value = KEY_HEADERS[kind]
    assert sent.headers[name] == value
    assert sent.headers["content-type"] == "application/json"


@pytest.mark.parametrize("kind", STREAMED)
async def test_streams_in_every_format_however_the_bytes_arrive(client: VendorClient, kind: str) -> None:
    content_type, body = STREAMED[kind]

    async def handler(call: Call) -> None:
        await call.start_stream(content_type)
        for start in range(0, len(body), 37):
            await call.chunk(body[start : start + 37])
            await asyncio.sleep(0)
        await call.end_stream()

    async with vendor_server(handler) as vendor:
        chunks, complete = await drain(client, target_at(vendor, kind))

    assert complete
    assert "".join(chunk.text for chunk in chunks) == "Hello"
    assert [chunk.finish_reason for chunk in chunks if chunk.final] == ["stop"]
    usage = [chunk.usage for chunk in chunks if chunk.usage][-1]
    assert (usage.input, usage.output) == (3, 1)
    assert vendor.calls[0].request_line == f"POST {PATHS[kind][1]} HTTP/1.1"


async def test_passes_a_same_format_answer_through_byte_for_byte(client: VendorClient) -> None:
    body = json.dumps({**WHOLE["openai-compatible"], "vendor_extra": 1.50}, indent=1).encode()

    async def handler(call: Call) -> None:
        await call.answer(body)

    async with vendor_server(handler) as vendor:
        completion = await client.complete(target_at(vendor), chat(), Deadlines())
    assert completion.body == body


async def test_passes_a_same_format_stream_through(client: VendorClient) -> None:
    async def handler(call: Call) -> None:
        await call.start_stream()
        await call.chunk(OPENAI_STREAM)
        await call.end_stream()

    async with vendor_server(handler) as vendor:
        chunks, complete = await drain(client, target_at(vendor))
    assert complete
    assert b"".join(chunk.wire or b"" for chunk in chunks) == OPENAI_STREAM.removesuffix(b"data: [DONE]\n\n")


async def test_names_the_knobs_a_vendor_does_not_have(client: VendorClient) -> None:
    async def handler(call: Call) -> None:
        await call.answer(json.dumps(WHOLE["openai-compatible"]).encode())

    async with vendor_server(handler) as vendor:
        target = target_at(vendor, "mistral")
        completion = await client.complete(target, chat(seed=7, max_completion_tokens=5), Deadlines())
    assert completion.dropped == ("seed",)
    assert json.loads(vendor.calls[0].body) == {
        "model": "big",
        "messages": [{"role": "user", "content": "Hi"}],
        "max_tokens": 5,
    }


@pytest.mark.parametrize(
    ("query", "expected"), [("", "api-version=2024-10-21"), ("?api-version=2030-01-01", "api-version=2030-01-01")]
)
async def test_azure_has_the_deployment_in_the_path_and_a_version(
    client: VendorClient, query: str, expected: str
) -> None:
    async def handler(call: Call) -> None:
        await call.answer(json.dumps(WHOLE["openai-compatible"]).encode())

    async with vendor_server(handler) as vendor:
        target = replace(target_at(vendor, "azure-openai", path=f"/{query}"), vendor_model="my dep/1")
        await client.complete(target, chat(), Deadlines())
    line = vendor.calls[0].request_line
    assert line == f"POST /openai/deployments/my%20dep%2F1/chat/completions?{expected} HTTP/1.1"
    assert vendor.calls[0].headers["api-key"] == SECRET
    assert "authorization" not in vendor.calls[0].headers


async def test_a_provider_without_a_key_sends_no_credentials(client: VendorClient) -> None:
    async def handler(call: Call) -> None:
        await call.answer(json.dumps(WHOLE["ollama"]).encode())

    async with vendor_server(handler) as vendor:
        await client.complete(target_at(vendor, "ollama", secret=""), chat(), Deadlines())
    assert "authorization" not in vendor.calls[0].headers


# --------------------------------------------------------------------------- refusals and broken answers


async def failure(client: VendorClient, vendor: Vendor, kind: str = "openai-compatible") -> list[GatewayError]:
    """The errors of a whole call and of a streamed one."""
    errors = []
    for stream in (False, True):
        call = client.stream if stream else client.complete
        with pytest.raises(GatewayError) as caught:
            await call(target_at(vendor, kind), chat(stream=stream), Deadlines())
        assert SECRET not in caught.value.message
        errors.append(caught.value)
    return errors


@pytest.mark.parametrize("kind", WHOLE)
async def test_a_refused_key_is_a_provider_error_in_every_format(client: VendorClient, kind: str) -> None:
    async def handler(call: Call) -> None:
        body = {"error": {"type": "authentication_error", "message": f"Bad key {SECRET}"}}
        await call.answer(json.dumps(body).encode(), status="401 Unauthorized")

    async with vendor_server(handler) as vendor:
        for error in await failure(client, vendor, kind):
            assert isinstance(error, ProviderError)
            assert error.vendor_status == 401


async def test_the_callers_mistake_keeps_its_status(client: VendorClient) -> None:
    async def handler(call: Call) -> None:
        await call.answer(b'{"error":{"message":"temperature is too high"}}', status="400 Bad Request")

    async with vendor_server(handler) as vendor:
        for error in await failure(client, vendor):
            assert isinstance(error, InvalidRequest)
            assert "temperature" in error.message


async def test_a_refusal_too_long_to_read_still_says_its_status(client: VendorClient) -> None:
    async def handler(call: Call) -> None:
        await call.answer(b"<html>" + b"x" * 200_000, content_type="text/html", status="503 Service Unavailable")

    async with vendor_server(handler) as vendor:
        for error in await failure(client, vendor):
            assert isinstance(error, ProviderError)
            assert (error.vendor_status, error.retryable) == (503, True)


async def test_a_redirect_is_a_failure_of_the_provider(client: VendorClient) -> None:
    async def handler(call: Call) -> None:
        await call.write(b"HTTP/1.1 302 Found\r\nLocation: /login\r\nContent-Length: 0\r\n\r\n")

    async with vendor_server(handler) as vendor:
        for error in await failure(client, vendor):
            assert isinstance(error, ProviderError)
            assert error.vendor_status == 302


async def test_a_web_page_is_a_protocol_error(client: VendorClient) -> None:
    async def handler(call: Call) -> None:
        await call.answer(b"<html>Welcome</html>", content_type="text/html; charset=utf-8")

    async with vendor_server(handler) as vendor:
        assert [error.kind for error in await failure(client, vendor)] == ["protocol", "protocol"]  # type: ignore[attr-defined]


async def test_an_error_inside_a_200_is_an_error(client: VendorClient) -> None:
    async def handler(call: Call) -> None:
        await call.answer(b'{"error":{"message":"no capacity","code":503}}')

    async with vendor_server(handler) as vendor:
        assert all(isinstance(error, ProviderError) for error in await failure(client, vendor))


async def test_a_whole_answer_to_a_streamed_call_is_a_protocol_error(client: VendorClient) -> None:
    async def handler(call: Call) -> None:
        await call.answer(json.dumps(WHOLE["openai-compatible"]).encode())

    async with vendor_server(handler) as vendor:
        with pytest.raises(ProviderError, match="one piece") as caught:
            await client.stream(target_at(vendor), chat(stream=True), Deadlines())
    assert caught.value.kind == "protocol"


async def test_a_stream_that_ends_early_is_not_complete(client: VendorClient) -> None:
    async def handler(call: Call) -> None:
        await call.start_stream()
        await call.chunk(sse(openai_event({"content": "Hel"})))
        await call.end_stream()

    async with vendor_server(handler) as vendor:
        chunks, complete = await drain(client, target_at(vendor))
    assert ("".join(chunk.text for chunk in chunks), complete) == ("Hel", False)


async def test_a_stream_that_is_cut_raises(client: VendorClient) -> None:
    async def handler(call: Call) -> None:
        await call.start_stream()
        await call.chunk(sse(openai_event({"content": "Hel"})))
        await asyncio.sleep(0.05)
        call.writer.close()

    async with vendor_server(handler) as vendor:
        with pytest.raises(ProviderError) as caught:
            await drain(client, target_at(vendor))
    assert caught.value.kind == "reset"


async def test_a_cut_after_the_answer_is_complete_does_no_harm(client: VendorClient) -> None:
    async def handler(call: Call) -> None:
        await call.start_stream()
        await call.chunk(OPENAI_STREAM)
        await asyncio.sleep(0.05)
        call.writer.close()

    async with vendor_server(handler) as vendor:
        chunks, complete = await drain(client, target_at(vendor))
    assert ("".join(chunk.text for chunk in chunks), complete) == ("Hello", True)


async def test_a_finished_stream_that_stays_open_ends_soon(
    client: VendorClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.providers.client.CLOSING_S", 0.2)

    async def handler(call: Call) -> None:
        await call.start_stream()
        await call.chunk(OPENAI_STREAM)
        await call.until_closed()

    async with vendor_server(handler) as vendor:
        chunks, complete = await asyncio.wait_for(drain(client, target_at(vendor)), 2)
    assert ("".join(chunk.text for chunk in chunks), complete) == ("Hello", True)


async def test_an_error_event_ends_the_stream_and_the_call(client: VendorClient) -> None:
    closed = asyncio.Event()

    async def handler(call: Call) -> None:
        await call.start_stream()
        await call.chunk(b'data: {"error":{"message":"overloaded","type":"server_error"}}\n\n')
        await call.until_closed()
        closed.set()

    async with vendor_server(handler) as vendor:
        with pytest.raises(ProviderError):
            await drain(client, target_at(vendor))
        await asyncio.wait_for(closed.wait(), 0.5)


async def test_closing_a_stream_hangs_up_on_the_vendor(client: VendorClient) -> None:
    closed = asyncio.Event()

    async def handler(call: Call) -> None:
        await call.start_stream()
        await call.chunk(sse(openai_event({"content": "Hel"})))
        await call.until_closed()
        closed.set()

    async with vendor_server(handler) as vendor:
        stream = await client.stream(target_at(vendor), chat(stream=True), Deadlines())
        await anext(stream)
        stream.close()
        await asyncio.wait_for(closed.wait(), 0.5)
        assert [block async for block in stream] == []


# --------------------------------------------------------------------------- configuration


@pytest.mark.parametrize(
    ("kind", "base_url", "secret", "reason"),
    [
        ("vllm", "", "", "no base URL"),
        ("openai", "", "", "no key"),
        ("openai", "", "sk-\r\nX-Evil: 1", "cannot be sent"),
        ("openai", "", "sk-ключ", "cannot be sent"),
    ],
)
async def test_a_provider_that_is_not_configured_is_not_called(
    client: VendorClient, kind: str, base_url: str, secret: str, reason: str
) -> None:
    with pytest.raises(ProviderError, match=reason):
        client.endpoint(kind, base_url, secret)


async def test_an_empty_base_url_means_the_vendors_own(client: VendorClient) -> None:
    assert client.endpoint("mistral", "", SECRET).base_url == "https://api.mistral.ai/v1"


async def test_secrets_do_not_show_in_representations(client: VendorClient) -> None:
    target = target_at(Vendor(1))
    endpoint = client.endpoint(target.kind, target.base_url, target.secret)
    outbound = endpoint.outbound("chat", "/chat/completions", "m", b"{}", {})
    assert SECRET not in repr(target) + repr(endpoint) + repr(outbound)
