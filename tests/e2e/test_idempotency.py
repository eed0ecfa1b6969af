"""One idempotency key, one call: joined while it runs, replayed when it is over, charged once."""

import asyncio
from typing import Any

import httpx
import openai
import pytest

from gateway.conformance.vendors import VendorServer
from tests.e2e.conftest import TOKEN
from tests.e2e.gateway_process import GatewayProcess

USER = [{"role": "user", "content": "one two three"}]


async def ask(url: str, key: str | None, body: dict[str, Any], **headers: str) -> httpx.Response:
    sent = {"authorization": f"Bearer {TOKEN}"} | headers | ({"idempotency-key": key} if key else {})
    async with httpx.AsyncClient(timeout=20) as client:
        return await client.post(f"{url}/v1/chat/completions", json=body, headers=sent)


def calls_of(vendors: VendorServer, marker: str) -> int:
    return sum(marker in str(call.body) for call in vendors.log)


def said(marker: str, model: str = "openai-tok8", **more: Any) -> dict[str, Any]:
    return {"model": model, "messages": [{"role": "user", "content": marker}]} | more


@pytest.mark.parametrize("stream", [False, True])
async def test_a_finished_answer_is_replayed_and_charged_once(
    gateway: GatewayProcess, vendors: VendorServer, stream: bool
) -> None:
    marker = f"replayed {stream}"
    first = await ask(gateway.url, marker, said(marker, stream=stream))
    second = await ask(gateway.url, marker, said(marker, stream=stream))

    assert first.status_code == second.status_code == 200
    assert first.content == second.content
    assert "x-gateway-idempotent-replay" not in first.headers
    assert second.headers["x-gateway-idempotent-replay"] == "true"
    assert calls_of(vendors, marker) == 1


@pytest.mark.parametrize("stream", [False, True])
async def test_a_second_caller_joins_the_running_call(
    gateway: GatewayProcess, vendors: VendorServer, stream: bool
) -> None:
    marker = f"joined {stream}"
    body = said(marker, "openai-tok60-gap20", stream=stream)
    running = asyncio.create_task(ask(gateway.url, marker, body))
    await asyncio.sleep(0.5)
    first, second = await asyncio.gather(running, ask(gateway.url, marker, body))

    assert first.content == second.content
    assert calls_of(vendors, marker) == 1


async def test_another_body_under_the_same_key_is_a_conflict(gateway: GatewayProcess) -> None:
    await ask(gateway.url, "conflict", said("one"))
    refused = await ask(gateway.url, "conflict", said("two"))
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "idempotency_conflict")


async def test_a_call_outlives_the_caller_that_hung_up(gateway: GatewayProcess, vendors: VendorServer) -> None:
    marker = "outlives"
    body = said(marker, "openai-tok60-gap20")
    left = asyncio.create_task(ask(gateway.url, marker, body))
    await asyncio.sleep(0.4)
    left.cancel()
    answer = await ask(gateway.url, marker, body)

    assert answer.status_code == 200
    assert calls_of(vendors, marker) == 1


async def test_a_failure_is_not_kept(gateway: GatewayProcess, vendors: VendorServer) -> None:
    marker = "failing"
    for _ in range(2):
        assert (await ask(gateway.url, marker, said(marker, "down-once"))).status_code == 502
    assert calls_of(vendors, marker) == 2


async def test_a_broken_stream_is_not_replayed_as_if_it_were_whole(
    gateway: GatewayProcess, vendors: VendorServer
) -> None:
    marker = "broken stream"
    for _ in range(2):
        answer = await ask(gateway.url, marker, said(marker, "broken-once", stream=True))
        assert b"[DONE]" not in answer.content
    assert calls_of(vendors, marker) == 2


@pytest.mark.parametrize("key", ["", "x" * 256])
async def test_a_key_that_is_none_is_refused(gateway: GatewayProcess, key: str) -> None:
    sent = {"authorization": f"Bearer {TOKEN}", "idempotency-key": key}
    async with httpx.AsyncClient() as client:
        answer = await client.post(f"{gateway.url}/v1/chat/completions", json=said("hi"), headers=sent)
    assert answer.status_code == 400


async def test_an_sdks_own_retry_gets_the_answer_of_its_first_try(
    gateway: GatewayProcess, vendors: VendorServer
) -> None:
    body = said("sdk retry", "openai-tok60-gap20")
    first = asyncio.create_task(ask(gateway.url, None, body, **{"x-stainless-retry-count": "0"}))
    await asyncio.sleep(0.4)
    joined = await ask(gateway.url, None, body, **{"x-stainless-retry-count": "1"})
    replayed = await ask(gateway.url, None, body, **{"x-stainless-retry-count": "2"})

    assert (await first).content == joined.content == replayed.content
    assert calls_of(vendors, "sdk retry") == 1


async def test_two_first_tries_with_the_same_body_are_two_calls(gateway: GatewayProcess, vendors: VendorServer) -> None:
    for _ in range(2):
        await ask(gateway.url, None, said("asked twice"), **{"x-stainless-retry-count": "0"})
    assert calls_of(vendors, "asked twice") == 2


def test_another_tokens_key_is_another_key(gateway: GatewayProcess, client: openai.OpenAI) -> None:
    client.chat.completions.create(model="openai-tok8", messages=USER, extra_headers={"idempotency-key": "shared"})
    stranger = httpx.post(
        f"{gateway.url}/v1/chat/completions",
        json=said("x"),
        headers={"authorization": "Bearer e2e-narrow-0123456789-abcdefghij", "idempotency-key": "shared"},
    )
    assert stranger.status_code == 200
