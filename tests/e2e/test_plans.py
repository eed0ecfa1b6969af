"""What a tenant's plan leaves out, and what a call costs by its tier of service, as clients of the gateway see it."""

import json
from collections.abc import Iterator
from decimal import Decimal

import anthropic
import httpx
import openai
import pytest

from gateway.conformance.vendors import VendorServer
from tests.e2e.gateway_process import GatewayProcess

FRUGAL = "e2e-frugal-0123456789-abcdefghi"
ASKED = [{"role": "user", "content": "one two three"}]
REFUSAL = "The plan 'frugal' does not include the feature 'routing'."


def declare(gateway: GatewayProcess, vendors: VendorServer, features: str) -> None:
    gateway.apply(
        f"""
plans: [{{name: frugal, features: {features}}}]
tenants:
  - slug: frugal
    plan: {{name: frugal}}
    projects: [{{slug: web}}]
    providers: [{{name: lab, kind: openai-compatible, base_url: "{vendors.url}/v1", api_key: "sk-frugal"}}]
    models:
      - {{name: plain, provider: lab, vendor_model: plan-tok8, price: {{input: 1, output: 2}}}}
      - name: flexible
        provider: lab
        vendor_model: plan-tok8-flex
        price: {{input: 1, output: 2, batch: {{input: 0.5, output: 1}}}}
    tokens: [{{name: ci, project: web, value: {{env: E2E_FRUGAL}}, models: ["*"]}}]
""",
        E2E_FRUGAL=FRUGAL,
    )


@pytest.fixture
def client(gateway: GatewayProcess, vendors: VendorServer) -> Iterator[openai.OpenAI]:
    declare(gateway, vendors, "[]")
    with openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=FRUGAL, max_retries=0, timeout=20) as client:
        yield client


@pytest.mark.parametrize("name", ["auto", "fast", "cheap", "best", ""])
@pytest.mark.parametrize("stream", [False, True])
def test_the_choice_of_a_model_is_refused_to_a_plan_without_routing(
    client: openai.OpenAI, name: str, stream: bool
) -> None:
    with pytest.raises(openai.PermissionDeniedError) as refused:
        client.chat.completions.create(model=name, messages=ASKED, stream=stream)  # type: ignore[call-overload]
    assert (refused.value.code, refused.value.body["message"]) == ("permission_denied", REFUSAL)  # type: ignore[index]


def test_the_refusal_is_in_the_callers_dialect(gateway: GatewayProcess, client: openai.OpenAI) -> None:
    with (
        anthropic.Anthropic(base_url=gateway.url, api_key=FRUGAL, max_retries=0) as other,
        pytest.raises(anthropic.PermissionDeniedError) as refused,
    ):
        other.messages.create(model="auto", max_tokens=8, messages=ASKED)  # type: ignore[arg-type]
    body = refused.value.body
    assert isinstance(body, dict)
    assert body["error"] == {"type": "permission_error", "message": REFUSAL}


def test_a_model_that_is_named_answers_on_any_plan_and_only_such_are_listed(client: openai.OpenAI) -> None:
    assert client.chat.completions.create(model="plain", messages=ASKED).choices  # type: ignore[call-overload]
    assert {model.id for model in client.models.list()} == {"plain", "flexible"}


def test_another_plan_acts_on_the_next_request(
    gateway: GatewayProcess, vendors: VendorServer, client: openai.OpenAI
) -> None:
    assert client.chat.completions.create(model="plain", messages=ASKED).choices  # type: ignore[call-overload]
    declare(gateway, vendors, "[routing]")
    assert client.chat.completions.create(model="auto", messages=ASKED).choices  # type: ignore[call-overload]
    assert "auto" in {model.id for model in client.models.list()}


@pytest.mark.parametrize("stream", [False, True])
def test_what_the_vendor_served_in_its_flex_tier_costs_what_that_costs(
    gateway: GatewayProcess, client: openai.OpenAI, stream: bool
) -> None:
    with httpx.Client(base_url=gateway.url, headers={"x-api-key": FRUGAL}, timeout=20) as caller:
        body = {"model": "flexible", "messages": ASKED, "stream": stream}
        answer = caller.post("/v1/chat/completions", json=body)
    assert answer.status_code == 200
    (line,) = gateway.line_of(answer.headers["x-request-id"])
    cost = (line["input_tokens"] * Decimal("0.5") + line["output_tokens"]) / 1_000_000
    assert (line["service_tier"], Decimal(line["cost_usd"])) == ("flex", cost)
    assert line["output_tokens"] == 8
    if not stream:
        assert Decimal(answer.headers["x-gateway-cost-usd"]) == cost
    proof = json.loads(gateway.manage("verify_ledger", "--tenant", "frugal", "--json").stdout)
    assert proof["findings"] == []
