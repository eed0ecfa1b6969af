"""The operators' pages of the price book and the ledger."""

import re
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.db import connection
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from audit.models import AuditEvent
from audit.record import Actor
from billing.models import Adjustment, Attempt, GatewayProcess, PriceVersion, Settlement
from gateway.models import Model
from tenants.models import ApiToken
from tests.ledger_rows import log_request, open_attempt, settle


def url(model: str, page: str, *args: Any) -> str:
    return reverse(f"admin:billing_{model}_{page}", args=args)


def listed(browser: Client, model: str = "attempt", **query: Any) -> list[Any]:
    return list(browser.get(url(model, "changelist"), query).context["cl"].result_list)


# --------------------------------------------------------------------------- ledger


@pytest.mark.parametrize("table", ["attempt", "settlement", "adjustment", "gatewayprocess"])
@pytest.mark.parametrize("page", ["add", "change", "delete"])
def test_nobody_writes_to_the_ledger_by_hand(
    browser: Client, token: ApiToken, model: Model, table: str, page: str
) -> None:
    attempt = open_attempt(token, model)
    rows = {
        "attempt": attempt,
        "settlement": settle(attempt),
        "adjustment": Adjustment.objects.create(
            tenant=token.tenant, attempt=attempt, reason="credit", amount_usd=Decimal(1)
        ),
        "gatewayprocess": GatewayProcess.objects.create(
            label="host:1", started_at=datetime.now(UTC), heartbeat_at=datetime.now(UTC)
        ),
    }
    args = [] if page == "add" else [rows[table].pk]
    assert browser.post(url(table, page, *args), {"post": "yes"}).status_code == 403


def test_a_line_shows_what_it_cost_to_the_last_digit(browser: Client, token: ApiToken, model: Model) -> None:
    settled = open_attempt(token, model)
    settle(settled, cost_usd=Decimal("0.000000150001"), reasoning_tokens=7, usage_source="estimated")
    unpriced = open_attempt(token, model)
    settle(unpriced, cost_usd=None)
    open_attempt(token, model)
    html = browser.get(url("attempt", "changelist")).content.decode()
    for shown in ("0.000000150001", "unpriced", "100 / 27", "estimated", ">open<"):
        assert shown in html
    assert "reasoning 7" in browser.get(url("attempt", "change", settled.pk)).content.decode()


@pytest.mark.parametrize("state", ["open", "settled", "failed", "cancelled", "abandoned"])
def test_lines_are_filtered_by_state(browser: Client, token: ApiToken, model: Model, state: str) -> None:
    lines = {"open": open_attempt(token, model)}
    for outcome in Settlement.Outcome.values:
        lines[outcome] = open_attempt(token, model)
        settle(lines[outcome], outcome=outcome)
    assert listed(browser, state=state) == [lines[state]]


@pytest.mark.parametrize("usage", ["vendor", "estimated", "unpriced"])
def test_lines_are_filtered_by_who_counted(browser: Client, token: ApiToken, model: Model, usage: str) -> None:
    lines = {name: open_attempt(token, model) for name in ("vendor", "estimated", "unpriced", "open")}
    settle(lines["vendor"])
    settle(lines["estimated"], usage_source="counted")
    settle(lines["unpriced"], cost_usd=None)
    wanted = {lines[usage]} | ({lines["unpriced"]} if usage == "vendor" else set())
    assert set(listed(browser, usage=usage)) == wanted


def test_lines_are_found_by_request_or_by_their_own_identifier(browser: Client, token: ApiToken, model: Model) -> None:
    first, second = open_attempt(token, model), open_attempt(token, model)
    assert listed(browser, q=first.pk) == [first]
    assert listed(browser, q=second.request_id) == [second]
    assert listed(browser, request_id=second.request_id) == [second]


def test_lines_and_requests_lead_to_each_other(browser: Client, token: ApiToken, model: Model) -> None:
    asked = log_request(token)
    line = open_attempt(token, model, request_id=asked.pk)
    html = browser.get(url("attempt", "changelist")).content.decode()
    assert f"{reverse('admin:gateway_requestlog_changelist')}?q={asked.pk}" in html
    html = browser.get(reverse("admin:gateway_requestlog_change", args=[asked.pk])).content.decode()
    assert url("attempt", "change", line.pk) in html


@pytest.mark.parametrize("table", ["attempt", "settlement"])
def test_fifty_lines_take_as_many_queries_as_one(browser: Client, token: ApiToken, model: Model, table: str) -> None:
    settle(open_attempt(token, model))
    page = url(table, "changelist")
    browser.get(page)
    with CaptureQueriesContext(connection) as few:
        browser.get(page)
    for _ in range(49):
        settle(open_attempt(token, model))
    with CaptureQueriesContext(connection) as many:
        browser.get(page)
    assert len(many) == len(few)
    assert len(many) <= 12


def test_the_list_reads_the_newest_lines_by_key(browser: Client, token: ApiToken, model: Model) -> None:
    """No sort over the whole ledger, however the caller asks."""
    open_attempt(token, model)
    with CaptureQueriesContext(connection) as queries:
        browser.get(url("attempt", "changelist"), {"o": "1"})
    [page] = [query["sql"] for query in queries if 'FROM "billing_attempt" LEFT OUTER JOIN' in query["sql"]]
    assert re.search(r'ORDER BY "billing_attempt"."id" DESC( LIMIT \d+)?$', page)


def test_a_process_without_a_heartbeat_stands_out(browser: Client, db: None) -> None:
    now = datetime.now(UTC)
    for label, heartbeat in (("alive", now), ("lost", now - timedelta(minutes=5))):
        GatewayProcess.objects.create(label=label, started_at=now, heartbeat_at=heartbeat)
    html = browser.get(url("gatewayprocess", "changelist")).content.decode()
    assert html.count("no heartbeat") == 1


# --------------------------------------------------------------------------- price book


def price_values(**changes: Any) -> dict[str, Any]:
    return {"input": "0.15", "output": "0.60", "per_request": "0"} | changes


def test_a_price_is_set_for_a_model_and_leads_back_to_it(browser: Client, model: Model) -> None:
    answer = browser.post(url("priceversion", "add"), price_values(model=model.pk, cached_input="0.075"))
    assert answer["location"] == reverse("admin:gateway_model_change", args=[model.pk])
    price = PriceVersion.objects.get()
    assert (price.tenant, price.model, price.source) == (model.tenant, model, "operator")
    assert (price.input, price.cached_input, price.reasoning) == (Decimal("0.15"), Decimal("0.075"), None)
    assert AuditEvent.objects.get(action="price.set").actor_label == "olga@example.com"


def test_the_same_price_again_writes_nothing_and_says_so(browser: Client, model: Model) -> None:
    for _ in range(2):
        answer = browser.post(url("priceversion", "add"), price_values(model=model.pk), follow=True)
    assert PriceVersion.objects.count() == 1
    html = answer.content.decode()
    assert "That price holds already" in html
    assert "successfully" not in html


def test_long_prompts_have_prices_of_their_own(browser: Client, db: None) -> None:
    values = price_values(provider_kind="gemini", vendor_model_pattern="gemini-9*", tiers="200000 input=2.5 output=15")
    assert browser.post(url("priceversion", "add"), values).status_code == 302
    price = PriceVersion.objects.get()
    assert price.tiers == [{"above_input_tokens": 200000, "input": "2.5", "output": "15"}]
    html = browser.get(url("priceversion", "change", price.pk)).content.decode()
    assert "above 200,000: input 2.5, output 15" in html


def test_batches_have_prices_of_their_own(browser: Client, db: None) -> None:
    values = price_values(
        provider_kind="gemini", vendor_model_pattern="gemini-9*", batch="input=0.6 output=5\n200000 input=1.25"
    )
    assert browser.post(url("priceversion", "add"), values).status_code == 302
    price = PriceVersion.objects.get()
    assert price.batch == {
        "input": "0.6", "output": "5", "tiers": [{"above_input_tokens": 200000, "input": "1.25"}],
    }  # fmt: skip
    html = browser.get(url("priceversion", "change", price.pk)).content.decode()
    assert "input 0.6, output 5" in html
    assert "above 200,000: input 1.25" in html


def test_the_priority_tier_has_prices_of_its_own(browser: Client, db: None) -> None:
    values = price_values(
        provider_kind="openai", vendor_model_pattern="gpt-9*", priority="input=2.5 output=20\n200000 input=5"
    )
    assert browser.post(url("priceversion", "add"), values).status_code == 302
    price = PriceVersion.objects.get()
    terms = {"input": "2.5", "output": "20", "tiers": [{"above_input_tokens": 200000, "input": "5"}]}
    assert (price.batch, price.priority) == (None, terms)
    html = browser.get(url("priceversion", "change", price.pk)).content.decode()
    assert "input 2.5, output 20" in html


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"vendor_model_pattern": "x", "batch": "half"},
        {"vendor_model_pattern": "x", "priority": "double"},
        {"vendor_model_pattern": "x", "batch": "per_request=1"},
        {"vendor_model_pattern": "x", "input": "-1"},
        {"vendor_model_pattern": "x", "input": "0.0000001"},
        {"vendor_model_pattern": "x", "tiers": "many input=1"},
        {"vendor_model_pattern": "x", "tiers": "1000 gold=1"},
        {"vendor_model_pattern": "x", "tiers": "1000 input=cheap"},
        {"vendor_model_pattern": "x", "effective_from_0": "soon", "effective_from_1": "now"},
    ],
)
def test_a_price_that_makes_no_sense_is_refused_in_the_form(browser: Client, db: None, changes: dict[str, str]) -> None:
    answer = browser.post(url("priceversion", "add"), price_values(**changes))
    assert answer.status_code == 200
    assert answer.context["adminform"].form.errors
    assert not PriceVersion.objects.exists()


def test_prices_are_never_changed_or_deleted(browser: Client, model: Model, actor: Actor) -> None:
    price, _ = PriceVersion.set_price(model=model, actor=actor, input="1", output="2")
    for page in ("change", "delete"):
        assert browser.post(url("priceversion", page, price.pk), {"post": "yes"}).status_code == 403


def test_settlements_and_lines_share_their_identifier(browser: Client, token: ApiToken, model: Model) -> None:
    settlement = settle(open_attempt(token, model))
    html = browser.get(url("settlement", "change", settlement.pk)).content.decode()
    assert url("attempt", "change", settlement.pk) in html
    assert Attempt.objects.get().pk == settlement.pk
