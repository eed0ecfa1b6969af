"""A call costs what its tier of service costs, and no cap is passed by asking for a dearer one."""

import os
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

import anthropic
import openai
import psycopg
import pytest

from gateway.conformance.vendors import VendorServer
from tests import provision
from tests.e2e.gateway_process import GatewayProcess
from tests.provision import Database

FREE, CAPPED = ("tiers-free-0123456789-abcdefghij", "tiers-capped-0123456789-abcdefghij")
ASKED: Any = [{"role": "user", "content": "How much is it?"}]
PRICE = "price: {input: 2, output: 8, priority: {input: 4, output: 16}}"
STANDARD, DOUBLED = Decimal("0.000072"), Decimal("0.000144")  # 4 tokens of prompt and 8 of answer


def declaration(url: str) -> str:
    return f"""
tenants:
  - slug: acme
    projects: [{{slug: web}}]
    providers:
      - {{name: chat, kind: openai-compatible, base_url: "{url}/v1", api_key: sk-chat}}
      - {{name: responses, kind: openai-responses, base_url: "{url}/v1", api_key: sk-responses}}
      - {{name: claude, kind: anthropic, base_url: "{url}", api_key: sk-claude}}
    models:
      - {{name: chat, provider: chat, vendor_model: chat-tok8, {PRICE}}}
      - {{name: responses, provider: responses, vendor_model: responses-tok8, {PRICE}}}
      - {{name: claude, provider: claude, vendor_model: claude-tok8, {PRICE}}}
      - {{name: flat, provider: chat, vendor_model: flat-tok8, price: {{input: 2, output: 8}}}}
      - {{name: flat-claude, provider: claude, vendor_model: flat-tok8, price: {{input: 2, output: 8}}}}
    tokens:
      - {{name: free, project: web, value: {FREE}, models: ['*']}}
      - {{name: capped, project: web, value: {CAPPED}, models: ['*']}}
    budgets: [{{name: month, scope: token, of: capped, limit: {{usd: 5}}, period: month}}]
"""


@pytest.fixture(scope="module")
def vendors() -> Iterator[VendorServer]:
    with VendorServer(process=True) as server:
        yield server


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    made = provision.create_database(f"{provision.PREFIX}_tiers_{os.getpid()}")
    yield made
    provision.drop_database(made.name)


@pytest.fixture(scope="module")
def gateway(
    vendors: VendorServer, database: Database, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[GatewayProcess]:
    process = GatewayProcess(database, tmp_path_factory.mktemp("tiers"))
    process.apply(declaration(vendors.url))
    with process:
        yield process


def sdk(gateway: GatewayProcess, token: str = FREE) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=token, max_retries=0, timeout=60)


def claude_sdk(gateway: GatewayProcess, token: str = FREE) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=gateway.url, api_key=token, max_retries=0, timeout=60)


def line_of(gateway: GatewayProcess, answer: Any) -> dict[str, Any]:
    (line,) = gateway.line_of(answer if isinstance(answer, str) else answer.model_extra["x-gateway"]["request_id"])
    return line


def told(gateway: GatewayProcess, answer: Any) -> tuple[str, Decimal | None]:
    """The line's tier of service and cost."""
    line = line_of(gateway, answer)
    return line["service_tier"], None if line["cost_usd"] is None else Decimal(line["cost_usd"])


@pytest.mark.parametrize("token", [FREE, CAPPED])
@pytest.mark.parametrize(
    ("asked", "tier", "cost"),
    [
        ("priority", "priority", DOUBLED),
        ("fast", "priority", DOUBLED),
        ("default", "", STANDARD),
        ("flex", "flex", STANDARD),
    ],
)
def test_a_call_costs_what_its_answer_says_it_was_served_as(
    gateway: GatewayProcess, token: str, asked: Any, tier: str, cost: Decimal
) -> None:
    with sdk(gateway, token) as client:
        whole = client.chat.completions.create(model="chat", messages=ASKED, service_tier=asked)
        streamed = list(client.chat.completions.create(model="chat", messages=ASKED, service_tier=asked, stream=True))
        response = client.responses.create(model="responses", input=ASKED[0]["content"], service_tier=asked)
    (last,) = [chunk for chunk in streamed if "x-gateway" in (chunk.model_extra or {})]
    assert {told(gateway, answer) for answer in (whole, last, response)} == {(tier, cost)}


@pytest.mark.parametrize("token", [FREE, CAPPED])
def test_anthropics_fast_mode_costs_what_the_priority_price_says(gateway: GatewayProcess, token: str) -> None:
    asked: Any = {"model": "claude", "max_tokens": 50, "messages": ASKED}
    with claude_sdk(gateway, token) as client:
        for extra, expected in (({}, ("", STANDARD)), ({"speed": "fast"}, ("priority", DOUBLED))):
            whole = client.messages.with_raw_response.create(**asked, extra_body=extra)
            streamed = client.messages.with_raw_response.create(**asked, extra_body=extra, stream=True)
            assert [block.type for block in streamed.parse()][-1] == "message_stop"
            assert {told(gateway, raw.headers["x-request-id"]) for raw in (whole, streamed)} == {expected}


@pytest.mark.parametrize(
    ("model", "tier", "kept"),
    [("chat", "ultrafast", "ultrafast"), ("flat", "ultrafast", "ultrafast"), ("flat", "priority", "priority")],
)
def test_a_tier_whose_price_nobody_knows_is_served_unpriced_and_refused_where_a_cap_holds(
    gateway: GatewayProcess, model: str, tier: Any, kept: str
) -> None:
    asked = {"model": model, "messages": ASKED, "extra_body": {"service_tier": tier}}
    with sdk(gateway) as client:
        assert told(gateway, client.chat.completions.create(**asked)) == (kept, None)
    with sdk(gateway, CAPPED) as client:
        for stream in (False, True):
            with pytest.raises(openai.BadRequestError) as refused:
                client.chat.completions.create(**asked, stream=stream)
            assert (refused.value.code, refused.value.param) == ("model_price_unknown", "service_tier")
        assert client.chat.completions.create(model=model, messages=ASKED, service_tier="default").choices


def test_nor_is_a_cap_passed_in_the_other_dialect(gateway: GatewayProcess) -> None:
    asked: Any = {"max_tokens": 50, "messages": ASKED}
    with claude_sdk(gateway) as client:
        served = client.messages.with_raw_response.create(**asked, model="flat-claude", extra_body={"speed": "fast"})
        assert told(gateway, served.headers["x-request-id"]) == ("priority", None)
    with claude_sdk(gateway, CAPPED) as client:
        for model, extra in (("flat-claude", {"speed": "fast"}), ("claude", {"inference_geo": "us"})):
            with pytest.raises(anthropic.BadRequestError) as refused:
                client.messages.create(**asked, model=model, extra_body=extra)
            assert next(iter(extra)) in refused.value.message
        assert client.messages.create(**asked, model="flat-claude").content


def test_what_is_held_goes_by_what_the_vendor_is_asked_for(gateway: GatewayProcess, database: Database) -> None:
    """A tier that is dropped on the way to another dialect pins nothing."""

    def held_for(model: str, **asked: Any) -> Decimal:
        with sdk(gateway, CAPPED) as client:
            answer = client.chat.completions.create(model=model, messages=ASKED, max_tokens=50, **asked)
        query = "SELECT held_usd FROM billing_attempt WHERE request_id = %s"
        with psycopg.connect(database.url) as connection:
            ((held,),) = connection.execute(query, [answer.model_extra["x-gateway"]["request_id"]])  # type: ignore[index].fetchall()
        return Decimal(held)

    dearest = held_for("chat")
    assert held_for("chat", service_tier="default") * 2 == dearest
    assert held_for("responses", service_tier="default") == held_for("responses") == dearest
    assert held_for("claude", service_tier="priority") * 2 == dearest
