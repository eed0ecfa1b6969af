"""One thread of scripted vendors a module, forgetful between tests, and a client of each kind."""

from collections.abc import Iterator

import anthropic
import httpx
import openai
import pytest

from gateway.conformance.vendors import VendorServer


@pytest.fixture(scope="module")
def running() -> Iterator[VendorServer]:
    with VendorServer() as server:
        yield server


@pytest.fixture(autouse=True)
def vendor(running: VendorServer) -> Iterator[VendorServer]:
    running.reset()
    yield running
    running.accept_keys(None)


@pytest.fixture(scope="module")
def http(running: VendorServer) -> Iterator[httpx.Client]:
    headers = {
        "authorization": "Bearer sk-test",
        "x-api-key": "sk-ant",
        "anthropic-version": "2023-06-01",
        "x-goog-api-key": "g-test",
    }
    with httpx.Client(base_url=running.url, headers=headers, timeout=5) as client:
        yield client


@pytest.fixture(scope="module")
def oai(running: VendorServer) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{running.url}/v1", api_key="sk-test", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def claude(running: VendorServer) -> Iterator[anthropic.Anthropic]:
    with anthropic.Anthropic(base_url=running.url, api_key="sk-ant", max_retries=0) as client:
        yield client
