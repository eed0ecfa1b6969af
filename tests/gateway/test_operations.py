"""The numbers of the operators' start page."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext

from audit.record import Actor
from billing.models import Adjustment, Attempt, GatewayProcess, PriceVersion
from gateway import operations
from gateway.models import Model, Provider
from tenants.models import ApiToken
from tests.ledger_rows import id_at, log_request, open_attempt, settle

NOON = datetime(2026, 11, 18, 12, tzinfo=UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)


def subjects(now: datetime = NOON) -> list[str]:
    return [item.subject for item in operations.attention(now)]


def test_today_stands_beside_yesterday_up_to_the_same_time(token: ApiToken) -> None:
    for at in (NOON - HOUR, NOON - 11 * HOUR, NOON - DAY - HOUR):
        log_request(token, at=at)
    log_request(token, at=NOON - DAY + HOUR)  # yesterday afternoon: not yet comparable
    log_request(token, at=NOON - 13 * HOUR)  # yesterday, 23:00
    found = operations.overview(NOON)
    assert (found.today.requests, found.before.requests) == (2, 1)


def test_neither_hang_ups_nor_what_limits_refuse_are_errors(token: ApiToken) -> None:
    for status in (200, 200, 499, 402, 429, 502, 404, 503):
        log_request(token, at=NOON, status=status)
    found = operations.overview(NOON)
    assert (found.today.requests, found.today.errors, found.today.refused) == (8, 3, 2)
    assert found.today.error_rate == 0.375
    assert {row.status for row in found.errors} == {404, 502, 503}
    assert sum(hour.errors for hour in found.hours) == 3


def test_an_idle_day_has_no_rates(db: None) -> None:
    today = operations.overview(NOON).today
    assert (today.error_rate, today.p95_ms, today.spend_usd) == (None, None, 0)


def test_spend_is_exact_counts_adjustments_and_names_what_is_unpriced(token: ApiToken, model: Model) -> None:
    for cost in (Decimal("0.000000000001"), Decimal("0.3"), None):
        settle(line := open_attempt(token, model, at=NOON - HOUR), cost_usd=cost)
    Adjustment.objects.create(
        id=id_at(NOON), tenant=token.tenant, attempt=line, reason="credit", amount_usd=Decimal("-0.1")
    )
    found = operations.overview(NOON)
    assert found.today.spend_usd == Decimal("0.200000000001")
    assert found.today.unpriced == 1
    assert [(row.slug, row.spend_usd) for row in found.spend] == [("acme", Decimal("0.300000000001"))]


def test_percentiles_are_of_all_answers(token: ApiToken) -> None:
    for latency in range(1, 101):
        log_request(token, at=NOON - HOUR, latency_ms=float(latency), first_token_ms=latency / 2)
    log_request(token, at=NOON - HOUR, model_name="slow", latency_ms=900.0)
    log_request(token, at=NOON - HOUR, model_name="", status=502, latency_ms=9000.0)
    found = operations.overview(NOON)
    assert [(row.name, row.p95_ms, row.first_token_p95_ms) for row in found.slowest] == [
        ("slow", 900.0, None),
        ("small", pytest.approx(95.05), pytest.approx(47.525)),
    ]


def test_every_hour_of_the_last_day_has_its_bar(token: ApiToken) -> None:
    for at in (NOON - 23 * HOUR, NOON - 24 * HOUR, NOON + MINUTE):
        log_request(token, at=at, status=500)
    hours = operations.hours_until(NOON + 2 * MINUTE)
    assert len(hours) == 24
    assert [(hour.requests, hour.errors) for hour in hours if hour.requests] == [(1, 1), (1, 1)]
    assert (hours[0].starts_at, hours[-1].starts_at) == (NOON - 23 * HOUR, NOON)


def test_failing_providers_come_with_their_rate(token: ApiToken, model: Model) -> None:
    for outcome in ("failed", "settled", "settled", "settled"):
        settle(open_attempt(token, model, at=NOON - HOUR), outcome=outcome)
    [row] = operations.overview(NOON).failing
    assert (row.name, row.tenant, row.calls, row.failures, row.rate) == ("lab", "acme", 4, 1, 0.25)


def test_a_story_is_told_in_order(token: ApiToken, model: Model) -> None:
    asked = log_request(token, at=NOON)
    second = open_attempt(token, model, at=NOON + 2 * MINUTE, request_id=asked.pk)
    first = open_attempt(token, model, at=NOON + MINUTE, request_id=asked.pk)
    open_attempt(token, model, at=NOON + MINUTE)
    assert list(operations.story(asked)) == [first, second]


def test_the_number_of_queries_does_not_grow(token: ApiToken, model: Model) -> None:
    with CaptureQueriesContext(connection) as few:
        operations.overview(NOON)
    for _ in range(20):
        settle(open_attempt(token, model, at=NOON), outcome="failed")
        log_request(token, at=NOON, status=500)
    with CaptureQueriesContext(connection) as many:
        operations.overview(NOON)
    assert len(many) - len(few) <= 1  # the tenants' names
    assert len(many) <= 25


def test_nothing_needs_attention_in_a_healthy_installation(provider: Provider, model: Model, actor: Actor) -> None:
    provider.set_key("sk-test-0123456789", actor)
    PriceVersion.set_price(model=model, actor=actor, input="1", output="2", effective_from=NOON - DAY)
    GatewayProcess.objects.create(label="host:1", started_at=NOON - DAY, heartbeat_at=NOON - timedelta(seconds=5))
    assert subjects() == []


def test_what_needs_attention_is_named(provider: Provider, model: Model, token: ApiToken) -> None:
    Provider.objects.create(tenant=provider.tenant, name="bare", kind="openai")
    Provider.objects.filter(pk=provider.pk).update(check_status="failing", check_message="refused")
    ApiToken.objects.filter(pk=token.pk).update(expires_at=NOON + 3 * DAY)
    GatewayProcess.objects.create(label="host:1", started_at=NOON - DAY, heartbeat_at=NOON - HOUR)
    log_request(token, at=NOON + 400 * DAY)  # a month that has no partition
    assert subjects() == [
        "Provider failing",
        "Provider without a key",
        "Model without a price",
        "Token expires",
        "Rows outside any month",
        "Process without a heartbeat",
    ]


def test_what_is_switched_off_needs_no_attention(provider: Provider, model: Model) -> None:
    Provider.objects.filter(pk=provider.pk).update(check_status="failing", enabled=False)
    assert subjects() == []


def test_a_models_own_price_goes_before_the_books(model: Model, actor: Actor) -> None:
    book, _ = PriceVersion.set_price(
        provider_kind="openai-compatible", vendor_model_pattern="small-*", actor=actor, input="9", output="9",
        effective_from=NOON - DAY,
    )  # fmt: skip
    assert operations.effective_prices([model], NOON) == {model.pk: book}
    own, _ = PriceVersion.set_price(model=model, actor=actor, input="1", output="2", effective_from=NOON - HOUR)
    assert operations.effective_prices([model], NOON) == {model.pk: own}
    assert operations.effective_prices([model], NOON - 2 * HOUR) == {model.pk: book}
    assert operations.effective_prices([model], NOON - 2 * DAY) == {}


def test_attempts_of_other_purposes_are_counted_as_calls_too(token: ApiToken, model: Model) -> None:
    settle(open_attempt(token, model, at=NOON, purpose=Attempt.Purpose.TEST), outcome="failed")
    assert operations.overview(NOON).failing[0].calls == 1
