"""What an operator changes holds for the next request, also for what was refused until then."""

import time
from collections.abc import Iterator

import openai
import pytest

from gateway.conformance.vendors import VendorServer
from tests.e2e.gateway_process import GatewayProcess

TOKEN = "e2e-changing-0123456789-abcdefgh"
ASKED = [{"role": "user", "content": "one two three"}]


def declare(
    gateway: GatewayProcess, vendors: VendorServer, *models: str, allowed: str = '["*"]', key: str = ""
) -> None:
    named = ", ".join(
        f"{{name: {model}, provider: lab, vendor_model: change-tok8, price: {{input: 1, output: 2}}}}"
        for model in models
    )
    gateway.apply(
        f"""
tenants:
  - slug: changing
    projects: [{{slug: web}}]
    providers: [{{name: lab, kind: openai-compatible, base_url: "{vendors.url}/v1", api_key: "sk-changing"}}]
    models: [{named}]
    tokens: [{{name: ci, project: web, value: {{env: E2E_CHANGING}}, models: {allowed}{key}}}]
""",
        E2E_CHANGING=TOKEN,
    )


@pytest.fixture
def client(gateway: GatewayProcess) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=TOKEN, max_retries=0, timeout=20) as client:
        yield client


def test_a_model_that_was_refused_is_served_once_it_is_there(
    gateway: GatewayProcess, vendors: VendorServer, client: openai.OpenAI
) -> None:
    declare(gateway, vendors, "first")
    with pytest.raises(openai.NotFoundError):
        client.chat.completions.create(model="second", messages=ASKED)  # type: ignore[arg-type]
    declare(gateway, vendors, "first", "second")
    answer = client.chat.completions.create(model="second", messages=ASKED)  # type: ignore[arg-type]
    assert answer.model_dump()["x-gateway"]["model"] == "second"


def test_a_model_that_a_key_may_not_use_is_served_once_it_may(
    gateway: GatewayProcess, vendors: VendorServer, client: openai.OpenAI
) -> None:
    declare(gateway, vendors, "first", "second", allowed='["first"]')
    with pytest.raises(openai.PermissionDeniedError):
        client.chat.completions.create(model="second", messages=ASKED)  # type: ignore[arg-type]
    with pytest.raises(openai.PermissionDeniedError):
        client.chat.completions.create(model="second", messages=ASKED, stream=True)  # type: ignore[call-overload]
    declare(gateway, vendors, "first", "second")
    answer = client.chat.completions.create(model="second", messages=ASKED)  # type: ignore[arg-type]
    assert answer.model_dump()["x-gateway"]["model"] == "second"


@pytest.mark.parametrize(
    ("narrow", "wide", "refusal"),
    [
        (", cidrs: [192.0.2.0/24]", ", cidrs: [192.0.2.0/24, 127.0.0.0/8]", openai.PermissionDeniedError),
        (", scopes: [management]", ", scopes: [inference, management]", openai.PermissionDeniedError),
        (', expires_at: "2020-01-01T00:00:00Z"', ', expires_at: "2099-01-01T00:00:00Z"', openai.AuthenticationError),
    ],
)
def test_a_key_that_was_refused_is_served_once_it_is_given_more(  # noqa: PLR0917 - a matrix and its fixtures
    gateway: GatewayProcess,
    vendors: VendorServer,
    client: openai.OpenAI,
    narrow: str,
    wide: str,
    refusal: type[openai.APIStatusError],
) -> None:
    declare(gateway, vendors, "first", key=narrow)
    for _ in range(3):
        with pytest.raises(refusal):
            client.chat.completions.create(model="first", messages=ASKED)  # type: ignore[arg-type]
    declare(gateway, vendors, "first", key=wide)
    time.sleep(1.0)  # refused keys are looked up once in that time
    assert client.chat.completions.create(model="first", messages=ASKED).choices  # type: ignore[arg-type]
