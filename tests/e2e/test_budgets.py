"""Promise P2: a hard cap is not passed, by any number of callers and processes, and what is held never blocks."""

import asyncio
import os
import time
from collections import Counter
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import anthropic
import httpx
import openai
import psycopg
import pytest

from billing.budgets import PromptSizes
from gateway.conformance.vendors import VendorServer
from tests import provision
from tests.e2e.gateway_process import GatewayProcess
from tests.provision import Database

TOKENS = {
    name: f"budget-{name}-0123456789-abcdefgh"
    for name in ("free", "race", "race2", "nested", "none", "soft", "cut", "unit")
}
ASKED = [{"role": "user", "content": "How much is it?"}]
RACERS, SERVED = 300, 100


def declaration(url: str, budgets: str = "") -> str:
    tokens = "\n".join(
        f"      - {{name: {name}, project: {'deep' if name == 'nested' else 'web'}, value: {value}, models: ['*']}}"
        for name, value in TOKENS.items()
    )
    return f"""
tenants:
  - slug: acme
    projects: [{{slug: web}}, {{slug: deep}}]
    providers: [{{name: lab, kind: openai-compatible, base_url: "{url}/v1", api_key: "sk-lab"}}]
    models:
      - {{name: small, provider: lab, vendor_model: small-tok8, price: {{input: 1.5, output: 6}}}}
      - {{name: long, provider: lab, vendor_model: long-tok200, price: {{input: 1.5, output: 6}}}}
      - {{name: slow, provider: lab, vendor_model: slow-tok8-gap60, price: {{input: 1.5, output: 6}}}}
      - {{name: unpriced, provider: lab, vendor_model: unpriced-tok8}}
      - {{name: dear, provider: lab, vendor_model: dear-tok8, price: {{input: 1.5, output: 6}}, fallbacks: [small]}}
    tokens:
{tokens}
{budgets}
"""


@pytest.fixture(scope="module")
def vendors() -> Iterator[VendorServer]:
    with VendorServer(process=True) as server:
        yield server


@pytest.fixture(scope="module")
def database() -> Iterator[Database]:
    made = provision.create_database(f"{provision.PREFIX}_budgets_{os.getpid()}")
    yield made
    provision.drop_database(made.name)


@pytest.fixture(scope="module")
def gateways(
    vendors: VendorServer, database: Database, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[GatewayProcess, GatewayProcess]]:
    first, second = (GatewayProcess(database, tmp_path_factory.mktemp(f"budgets{number}")) for number in (1, 2))
    first.apply(declaration(vendors.url))
    with first, second:
        yield first, second


@pytest.fixture(scope="module")
def cost(gateways: tuple[GatewayProcess, GatewayProcess], vendors: VendorServer) -> Decimal:
    """What one call of each model costs, in USD. Both gateways have learned what its prompt comes to: near a cap one that
    has not cuts answers short, and then more of them fit."""
    declare(gateways, vendors, "{name: free, scope: token, of: free, limit: {requests: 1000000}, period: total}")
    for gateway in gateways:
        with sdk(gateway, "free") as client:
            for _ in range(PromptSizes.FEWEST):
                answer = client.chat.completions.create(model="small", messages=ASKED)
    return Decimal(str(answer.model_extra["x-gateway"]["cost_usd"]))


def sdk(gateway: GatewayProcess, token: str) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{gateway.url}/v1", api_key=TOKENS[token], max_retries=0, timeout=60)


def declare(gateways: Any, vendors: VendorServer, *budgets: str) -> None:
    listed = "\n".join(f"      - {budget}" for budget in budgets)
    gateways[0].apply(declaration(vendors.url, f"    budgets:\n{listed}"))


def period(database: Database, name: str) -> tuple[Decimal, Decimal, Decimal]:
    """(cap, spent, held)"""
    query = (
        "SELECT b.cap, sum(p.spent), sum(p.held) FROM billing_budget b JOIN billing_budgetperiod p ON p.budget_id = b.id"
        " WHERE b.name = %s GROUP BY b.cap"
    )
    for _ in range(50):
        with psycopg.connect(database.url) as connection:
            found = connection.execute(query, [name]).fetchone()
        if found and not found[2]:
            break
    assert found is not None
    return found


async def race(gateways: tuple[GatewayProcess, GatewayProcess], token: str, **body: Any) -> Counter[int]:
    limits = httpx.Limits(max_connections=RACERS)
    async with httpx.AsyncClient(
        limits=limits, timeout=120, headers={"authorization": f"Bearer {TOKENS[token]}"}
    ) as client:

        async def ask(number: int) -> int:
            url = f"{gateways[number % 2].url}/v1/chat/completions"
            answer = await client.post(url, json={"model": "small", "messages": ASKED, **body})
            if answer.status_code == 402:
                error = answer.json()["error"]
                assert (error["code"], answer.headers["x-should-retry"]) == ("budget_exceeded", "false")
                assert Decimal(error["spent"]) >= Decimal("0.99") * Decimal(error["cap"])  # nothing is pinned by holds
            return answer.status_code

        return Counter(await asyncio.gather(*(ask(number) for number in range(RACERS))))


def test_a_cap_worth_a_hundred_requests_serves_a_hundred_of_three_hundred(gateways, vendors, database, cost) -> None:
    declare(
        gateways, vendors, f'{{name: race, scope: token, of: race, limit: {{usd: "{cost * SERVED}"}}, period: month}}'
    )
    assert asyncio.run(race(gateways, "race", max_tokens=64)) == {200: SERVED, 402: RACERS - SERVED}
    assert period(database, "race") == (cost * SERVED, cost * SERVED, 0)


def test_nor_does_it_without_a_limit_of_the_callers(gateways, vendors, database, cost) -> None:
    declare(
        gateways, vendors, f'{{name: race2, scope: token, of: race2, limit: {{usd: "{cost * SERVED}"}}, period: month}}'
    )
    assert asyncio.run(race(gateways, "race2")) == {200: SERVED, 402: RACERS - SERVED}
    assert period(database, "race2") == (cost * SERVED, cost * SERVED, 0)


def test_nested_caps_are_kept_together(gateways, vendors, database, cost) -> None:
    declare(
        gateways,
        vendors,
        "{name: n-token, scope: token, of: nested, limit: {requests: 100}, period: day}",
        f'{{name: n-project, scope: project, of: deep, limit: {{usd: "{cost * 120}"}}, period: month}}',
        "{name: n-tenant, scope: tenant, limit: {tokens: 10000000}, period: total}",
    )
    assert asyncio.run(race(gateways, "nested", max_tokens=16)) == {200: SERVED, 402: RACERS - SERVED}
    assert period(database, "n-token") == (100, 100, 0)
    assert period(database, "n-project")[1:] == (cost * 100, 0)


def test_a_cap_of_nothing_blocks_everything_in_either_dialect(gateways, vendors) -> None:
    declare(gateways, vendors, "{name: none, scope: token, of: none, limit: {usd: 0}, period: total}")
    with sdk(gateways[0], "none") as client:
        for stream in (False, True):
            with pytest.raises(openai.APIStatusError) as refused:
                client.chat.completions.create(model="small", messages=ASKED, stream=stream)
            assert (refused.value.status_code, refused.value.code) == (402, "budget_exceeded")
            body = refused.value.body
            assert (body["scope"], body["cap"], body["spent"], body["resets_at"]) == ("token", "0", "0", None)
    with anthropic.Anthropic(base_url=gateways[0].url, api_key=TOKENS["none"], max_retries=2) as other:
        with pytest.raises(anthropic.APIStatusError) as refusal:
            other.messages.create(model="small", max_tokens=8, messages=ASKED)
        assert refusal.value.status_code == 402


def test_a_soft_budget_counts_on(gateways, vendors, database, cost) -> None:
    declare(gateways, vendors, "{name: soft, scope: token, of: soft, limit: {usd: 0}, period: month, hard: false}")
    with sdk(gateways[0], "soft") as client:
        client.chat.completions.create(model="small", messages=ASKED)
    assert period(database, "soft") == (0, cost, 0)


def test_the_answer_is_cut_to_what_is_left_and_says_so(gateways, vendors, cost) -> None:
    declare(
        gateways,
        vendors,
        f'{{name: cut, scope: token, of: cut, limit: {{usd: "{cost + Decimal("0.0012")}"}}, period: month}}',
    )
    with sdk(gateways[0], "cut") as client:
        answer = client.chat.completions.with_raw_response.create(model="long", messages=ASKED, max_tokens=5000)
        allowed = int(answer.headers["x-gateway-max-tokens"])
        assert allowed < 200
        parsed = answer.parse()
        assert (parsed.usage.completion_tokens, parsed.choices[0].finish_reason) == (allowed, "length")


def test_what_has_no_price_is_refused_where_a_budget_in_usd_holds(gateways, vendors) -> None:
    declare(gateways, vendors, "{name: unit, scope: token, of: unit, limit: {usd: 5}, period: month}")
    with sdk(gateways[0], "unit") as client:
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(model="unpriced", messages=ASKED)
        assert refused.value.code == "model_price_unknown"
        assert client.chat.completions.create(model="small", messages=ASKED).choices


def test_a_budget_of_one_model_leaves_its_fallbacks_their_room(gateways, vendors) -> None:
    declare(gateways, vendors, "{name: dear, scope: model, of: dear, limit: {usd: 0}, period: month}")
    with sdk(gateways[0], "free") as client:
        answer = client.chat.completions.create(model="dear", messages=ASKED)
        assert answer.model_extra["x-gateway"]["model"] == "small"


def test_every_end_user_has_a_budget_of_its_own(gateways, vendors) -> None:
    declare(gateways, vendors, '{name: each, scope: user, of: "*", limit: {requests: 2}, period: day}')
    with sdk(gateways[1], "free") as client:
        for user in ("ann", "bob"):
            for _ in range(2):
                client.chat.completions.create(model="small", messages=ASKED, user=user)
            with pytest.raises(openai.APIStatusError) as refused:
                client.chat.completions.create(model="small", messages=ASKED, user=user)
            assert refused.value.body["subject"] == user
        client.chat.completions.create(model="small", messages=ASKED)


def test_the_budget_keys_own_header_counts_and_goes_no_further(gateways, vendors) -> None:
    declare(gateways, vendors, "{name: nightly, scope: key, of: nightly, limit: {requests: 1}, rolling: 24h}")
    with sdk(gateways[0], "free") as client:
        named = {"x-budget-key": "nightly", "x-gateway-tags": "a-tag"}
        client.chat.completions.create(model="slow", messages=ASKED, extra_headers=named)
        heard = httpx.get(f"{vendors.url}/_log", params={"model": "slow-tok8-gap60"}).json()["calls"]
        assert heard
        assert not any(name.lower() in named for call in heard for name in call["headers"])
        asked_at = datetime.now(UTC)
        with pytest.raises(openai.APIStatusError) as refused:
            client.chat.completions.create(model="slow", messages=ASKED, extra_headers=named)
        client.chat.completions.create(model="small", messages=ASKED)
    body = refused.value.body
    told = {name: body[name] for name in ("scope", "metric", "cap", "spent", "left", "needed")}
    assert told == {"scope": "key", "metric": "requests", "cap": "1", "spent": "1", "left": "0", "needed": "1"}
    whole_day, slice_ = timedelta(hours=24), timedelta(minutes=24)
    assert whole_day - slice_ < datetime.fromisoformat(body["resets_at"]) - asked_at <= whole_day + slice_


def test_a_key_sees_the_budgets_that_can_refuse_it(gateways, vendors) -> None:
    declare(
        gateways,
        vendors,
        "{name: u-dear, scope: model, of: dear, limit: {usd: 4}, period: month}",
        "{name: u-lab, scope: provider, of: lab, limit: {requests: 100000}, period: month}",
        '{name: u-each, scope: user, of: "*", limit: {requests: 5}, period: day}',
        "{name: u-cut, scope: token, of: cut, limit: {usd: 4}, period: day}",
    )
    answer = httpx.get(f"{gateways[0].url}/v1/usage", headers={"authorization": f"Bearer {TOKENS['free']}"})
    told = {row["name"]: row for row in answer.json()["budgets"]}
    assert {"u-dear", "u-lab", "u-each"} <= told.keys()
    assert "u-cut" not in told
    assert (told["u-dear"]["left"], told["u-each"]["left"], told["u-each"]["cap"]) == ("4", None, "5")


def test_a_price_that_is_declared_ahead_holds_from_its_moment_on(gateways, vendors) -> None:
    moment = datetime.now(UTC) + timedelta(seconds=4)
    begins = f'effective_from: "{moment.isoformat()}"'
    price = f'{{kind: openai-compatible, vendor_model: "unpriced-*", {begins}, input: 1, output: 1}}'
    gateways[0].apply(f"prices: [{price}]\n" + declaration(vendors.url))

    def cost_now() -> Any:
        answer = client.chat.completions.create(model="unpriced", messages=ASKED)
        return answer.model_extra["x-gateway"]["cost_usd"]

    with sdk(gateways[0], "free") as client:
        before, asked_until = cost_now(), datetime.now(UTC)
        deadline = time.monotonic() + 20
        while (now := cost_now()) is None and time.monotonic() < deadline:
            time.sleep(0.2)
    assert before is None or asked_until > moment  # the declaration itself took that long
    assert now > 0


def test_a_plan_limits_a_tenant_and_takes_its_discount_off(gateways, vendors, database, cost) -> None:
    plan = "    plan: {name: small, discount_percent: 25}\n"
    declared = "plans: [{name: small, monthly_requests: 2}]\n" + declaration(vendors.url)
    other = declared + (
        f"  - slug: planned\n    projects: [{{slug: web}}]\n{plan}"
        f'    providers: [{{name: lab, kind: openai-compatible, base_url: "{vendors.url}/v1", api_key: "sk-lab"}}]\n'
        "    models: [{name: small, provider: lab, vendor_model: planned-tok8, price: {input: 1.5, output: 6}}]\n"
        "    tokens: [{name: planned, project: web, value: budget-planned-0123456789-abcdef, models: ['*']}]\n"
    )
    gateways[0].apply(other)
    with openai.OpenAI(
        base_url=f"{gateways[1].url}/v1", api_key="budget-planned-0123456789-abcdef", max_retries=0
    ) as client:
        answer = client.chat.completions.create(model="small", messages=ASKED)
        assert Decimal(str(answer.model_extra["x-gateway"]["cost_usd"])) == cost * 3 / 4
        client.chat.completions.create(model="small", messages=ASKED)
        with pytest.raises(openai.RateLimitError) as refused:
            client.chat.completions.create(model="small", messages=ASKED)
    assert refused.value.code == "quota_exceeded"
    assert refused.value.response.headers["retry-after"]
    proof = gateways[0].manage("verify_ledger", check=False)
    assert proof.returncode == 0, proof.stdout
