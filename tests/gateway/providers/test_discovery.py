import json
import socket
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.errors import ProviderError
from gateway.providers.addresses import AddressGuard
from gateway.providers.client import VendorClient
from gateway.providers.discovery import DiscoveredModel, list_models, probe
from gateway.providers.target import Target
from gateway.providers.transport import Transport

from .test_client import SECRET, WHOLE, target_at
from .vendor_server import Call, Vendor, vendor_server

LISTS: dict[str, tuple[str, Any, DiscoveredModel]] = {
    "openai-compatible": ("/models", {"data": [{"id": "b"}, {"id": "a"}]}, DiscoveredModel("a")),
    "vllm": ("/models", {"data": [{"id": "a", "max_model_len": 4096}]}, DiscoveredModel("a", 4096)),
    "together": ("/models", [{"id": "a", "context_length": 8192}], DiscoveredModel("a", 8192)),
    "mistral": ("/models", {"data": [{"id": "a", "max_context_length": 32768}]}, DiscoveredModel("a", 32768)),
    "anthropic": (
        "/v1/models?limit=1000",
        {"data": [{"id": "a", "type": "model", "max_input_tokens": 200000, "max_tokens": 64000}]},
        DiscoveredModel("a", 200000, 64000),
    ),
    "gemini": (
        "/models?pageSize=1000",
        {"models": [{"name": "models/a", "inputTokenLimit": 1000, "outputTokenLimit": 100}]},
        DiscoveredModel("a", 1000, 100),
    ),
    "ollama": ("/api/tags", {"models": [{"name": "a:latest", "size": 1}]}, DiscoveredModel("a:latest")),
    "azure-openai": ("/openai/models?api-version=2024-10-21", {"data": [{"id": "a"}]}, DiscoveredModel("a")),
}


@pytest.fixture
async def client() -> AsyncIterator[VendorClient]:
    async with Transport(AddressGuard(["127.0.0.1/32"])) as transport:
        yield VendorClient(transport)


async def models_of(client: VendorClient, vendor: Vendor, kind: str, path: str = "") -> list[DiscoveredModel]:
    return await list_models(client, kind=kind, base_url=vendor.url + path, secret=SECRET)


@pytest.mark.parametrize("kind", LISTS)
async def test_lists_models_as_each_vendor_tells_them(client: VendorClient, kind: str) -> None:
    path, body, first = LISTS[kind]

    async def handler(call: Call) -> None:
        await call.answer(json.dumps(body).encode())

    async with vendor_server(handler) as vendor:
        models = await models_of(client, vendor, kind)
    assert models[0] == first
    assert vendor.calls[0].request_line == f"GET {path} HTTP/1.1"
    assert any(SECRET in value for value in vendor.calls[0].headers.values())


async def test_asks_cohere_at_its_origin(client: VendorClient) -> None:
    async def handler(call: Call) -> None:
        await call.answer(json.dumps({"models": [{"name": "a", "context_length": 128000}]}).encode())

    async with vendor_server(handler) as vendor:
        models = await models_of(client, vendor, "cohere", "/compatibility/v1")
    assert models == [DiscoveredModel("a", 128000)]
    assert vendor.calls[0].request_line.startswith("GET /v1/models?")


async def test_skips_entries_that_are_no_models(client: VendorClient) -> None:
    async def handler(call: Call) -> None:
        await call.answer(json.dumps({"data": [None, {"id": 7}, {"id": "a", "max_model_len": "x"}, "b"]}).encode())

    async with vendor_server(handler) as vendor:
        assert await models_of(client, vendor, "vllm") == [DiscoveredModel("a")]


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"data":{}}', b'{"data":null}', b"\xff"])
async def test_something_else_than_a_list_is_a_clear_error(client: VendorClient, body: bytes) -> None:
    async def handler(call: Call) -> None:
        await call.answer(body)

    async with vendor_server(handler) as vendor:
        with pytest.raises(ProviderError, match="not a list of models"):
            await models_of(client, vendor, "openai-compatible")


async def test_a_refused_key_is_told(client: VendorClient) -> None:
    async def handler(call: Call) -> None:
        await call.answer(b'{"error":{"message":"no"}}', status="401 Unauthorized")

    async with vendor_server(handler) as vendor:
        with pytest.raises(ProviderError) as caught:
            await models_of(client, vendor, "openai-compatible")
    assert caught.value.vendor_status == 401


async def test_a_vendor_without_a_list_says_so(client: VendorClient) -> None:
    with pytest.raises(ProviderError, match="Perplexity does not list"):
        await list_models(client, kind="perplexity", base_url="", secret=SECRET)


async def test_the_demo_lists_itself(client: VendorClient) -> None:
    (model,) = await list_models(client, kind="demo", base_url="", secret="")
    assert model.id == "demo"


async def test_a_probe_that_is_answered_is_ok(client: VendorClient) -> None:
    async def handler(call: Call) -> None:
        await call.answer(json.dumps(WHOLE["openai-compatible"]).encode())

    async with vendor_server(handler) as vendor:
        result = await probe(client, target_at(vendor))
    assert (result.ok, result.stage, result.message) == (True, "answer", "big answered.")
    assert json.loads(vendor.calls[0].body)["max_tokens"] == 16


@pytest.mark.parametrize(
    ("status", "stage"),
    [
        ("401 Unauthorized", "credentials"),
        ("403 Forbidden", "credentials"),
        ("404 Not Found", "model"),
        ("400 Bad Request", "answer"),
        ("500 Internal Server Error", "answer"),
    ],
)
async def test_a_probe_says_which_stage_failed(client: VendorClient, status: str, stage: str) -> None:
    async def handler(call: Call) -> None:
        await call.answer(b'{"error":{"message":"no"}}', status=status)

    async with vendor_server(handler) as vendor:
        result = await probe(client, target_at(vendor))
    assert (result.ok, result.stage) == (False, stage)
    assert result.message


async def test_a_probe_of_a_vendor_that_is_not_there_fails_to_connect(client: VendorClient) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        result = await probe(client, target_at(Vendor(unused.getsockname()[1])))
    assert (result.ok, result.stage) == (False, "connect")


async def test_a_probe_of_an_address_that_is_not_allowed_fails_to_connect(client: VendorClient) -> None:
    target = Target("p", "meta", "openai-compatible", "http://169.254.169.254/v1", None, "", "m", "m", "m")
    result = await probe(client, target)
    assert (result.ok, result.stage, result.message) == (False, "connect", "The provider's address is not allowed.")


async def test_a_probe_of_a_provider_without_its_key_fails_before_any_call(client: VendorClient) -> None:
    result = await probe(client, Target("p", "openai", "openai", "", None, "", "m", "m", "m"))
    assert (result.ok, result.stage, result.message) == (False, "configuration", "The provider has no key.")
