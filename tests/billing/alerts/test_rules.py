"""Rules: what opens an alert, what ends it, and how often."""

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID, uuid4

import pytest
from django.db import OperationalError

from billing.alerts import measures, rules
from billing.alerts.book import resolve_alert
from billing.alerts.measures import Reading, TrippedCircuit, usual_and_bound
from billing.alerts.rules import evaluate_rules
from billing.models import Adjustment, Alert, AlertDelivery, AlertRule
from billing.rollups import roll_up
from gateway.models import Model
from routing.models import DriftWatch
from tenants.models import ApiToken, Project, Tenant
from tests.ledger_rows import log_request, open_attempt, settle

from .conftest import NOW, make_channel, make_rule

pytestmark = pytest.mark.django_db
MINUTE = timedelta(minutes=1)


def requests(token: ApiToken, count: int, at: datetime = NOW - 5 * MINUTE, **values: Any) -> None:
    for _ in range(count):
        log_request(token, at, **values)


def counts(now: datetime = NOW, circuits: Sequence[TrippedCircuit] | None = None) -> tuple[int, int]:
    """Opened and resolved."""
    seen = evaluate_rules(now, lambda: circuits)
    assert seen["failed"] == 0
    return seen["opened"], seen["resolved"]


# --------------------------------------------------------------------------- opening and resolving


def test_a_crossing_opens_once_and_resolves_once(tenant: Tenant, token: ApiToken) -> None:
    make_channel(tenant)
    make_rule(tenant, "error_rate", threshold=Decimal(10), window_minutes=30)
    requests(token, 8)
    requests(token, 2, status=502, error_code="provider_error")
    assert [counts(), counts(), counts(NOW + MINUTE)] == [(1, 0), (0, 0), (0, 0)]
    alert = Alert.objects.get()
    assert alert.message == "20 % of 10 requests failed within 30 minutes (threshold: 10 %)."
    assert (alert.facts["failed"], alert.facts["rule"], alert.resolved_at) == (2, "error_rate", None)
    AlertDelivery.objects.update(status="sent")
    later = NOW + 40 * MINUTE  # the window is empty
    assert [counts(later), counts(later)] == [(0, 1), (0, 0)]
    assert sorted(AlertDelivery.objects.values_list("event", flat=True)) == ["opened", "resolved"]


def test_an_end_is_not_told_to_who_has_not_heard_of_the_beginning(tenant: Tenant, token: ApiToken) -> None:
    make_channel(tenant)
    make_rule(tenant, "error_rate", window_minutes=30)
    requests(token, 10, status=500)
    counts()
    AlertDelivery.objects.update(status="failed")
    assert counts(NOW + 40 * MINUTE) == (0, 1)
    assert AlertDelivery.objects.get().event == "opened"


def test_within_the_cooldown_it_does_not_open_again(tenant: Tenant, token: ApiToken) -> None:
    make_rule(tenant, "error_rate", window_minutes=10, cooldown_minutes=60)
    requests(token, 10, status=500)
    assert [counts(), counts(NOW + 15 * MINUTE)] == [(1, 0), (0, 1)]
    requests(token, 10, NOW + 29 * MINUTE, status=500)
    assert counts(NOW + 30 * MINUTE) == (0, 0)
    requests(token, 10, NOW + 59 * MINUTE, status=500)
    assert counts(NOW + 60 * MINUTE) == (1, 0)
    assert Alert.objects.count() == 2


def test_a_worker_that_is_late_opens_nothing(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    make_rule(tenant, "no_traffic", cooldown_minutes=0)
    measure = rules.measure

    def while_others_open_and_resolve(rule: AlertRule, now: datetime) -> list[Reading]:
        monkeypatch.setattr(rules, "measure", measure)
        assert counts() == (1, 0)
        assert resolve_alert(Alert.objects.get().pk, NOW)
        return measure(rule, now)

    monkeypatch.setattr(rules, "measure", while_others_open_and_resolve)
    assert counts() == (0, 0)
    assert Alert.objects.count() == 1


def test_an_alert_of_a_rule_that_is_gone_is_over(tenant: Tenant) -> None:
    rule = make_rule(tenant, "no_traffic")
    counts()
    rule.delete()
    assert counts() == (0, 1)


def test_a_rule_that_cannot_be_evaluated_does_not_stop_the_others(
    tenant: Tenant, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_rule(tenant, "latency_p95")
    make_rule(tenant, "no_traffic")

    def too_slow(*_: object) -> None:
        raise OperationalError("canceling statement due to statement timeout")

    monkeypatch.setitem(measures._MEASURES, AlertRule.Kind.LATENCY_P95, too_slow)
    assert evaluate_rules(NOW) == {"rules": 1, "opened": 1, "resolved": 0, "failed": 1}


def test_channels_are_the_rules_own_or_else_the_tenants(tenant: Tenant, other_tenant: Tenant) -> None:
    hook, _, theirs = make_channel(tenant), make_channel(tenant, "mail"), make_channel(other_tenant)
    make_rule(tenant, "no_traffic", name="named").channels.set([hook, theirs])
    make_rule(tenant, "no_traffic", name="unnamed")
    counts()
    told = AlertDelivery.objects.values_list("alert__rule__name", "channel__name", "channel__tenant__slug")
    assert sorted(told) == [("named", "hook", "acme"), ("unnamed", "hook", "acme"), ("unnamed", "mail", "acme")]


# --------------------------------------------------------------------------- requests


def test_a_rate_of_few_requests_says_nothing(tenant: Tenant, token: ApiToken) -> None:
    make_rule(tenant, "error_rate", least_requests=20)
    requests(token, 19, status=500)
    assert counts() == (0, 0)
    requests(token, 1, status=500)
    assert counts() == (1, 0)


def test_what_a_caller_did_wrong_is_no_failure(tenant: Tenant, token: ApiToken) -> None:
    make_rule(tenant, "error_rate", threshold=Decimal(1))
    for status in (400, 401, 402, 429, 499, 200, 200, 200, 200, 200):
        requests(token, 1, status=status)
    assert counts() == (0, 0)


def test_only_the_window_counts(tenant: Tenant, token: ApiToken) -> None:
    make_rule(tenant, "error_rate", window_minutes=10)
    requests(token, 20, NOW - 11 * MINUTE, status=500)
    requests(token, 20, NOW - 9 * MINUTE)
    assert counts() == (0, 0)


def test_a_rule_sees_its_tenant_project_and_model(
    tenant: Tenant, other_tenant: Tenant, token: ApiToken, actor: Any
) -> None:
    other = Project.objects.create(tenant=tenant, slug="other")
    foreign = Project.objects.create(tenant=other_tenant, slug="web")
    for project, failed in ((other, 30), (foreign, 50)):
        issued, _ = ApiToken.issue(tenant=project.tenant, project=project, name="t", actor=actor)
        requests(issued, failed, status=500)
    requests(token, 10, model_name="small")
    requests(token, 10, model_name="", requested_model="large", status=503)
    make_rule(tenant, "error_rate", name="tenant")
    make_rule(None, "error_rate", name="installation")
    make_rule(tenant, "error_rate", name="project", project=token.project)
    make_rule(tenant, "error_rate", name="large", project=token.project, model_name="large")
    make_rule(tenant, "error_rate", name="small", project=token.project, model_name="small")
    counts()
    seen = {alert.facts["rule"]: (alert.facts["failed"], alert.facts["requests"]) for alert in Alert.objects.all()}
    assert seen == {"tenant": (40, 50), "installation": (90, 100), "project": (10, 20), "large": (10, 10)}
    assert Alert.objects.get(facts__rule="large").message.startswith("100 % of 10 requests of project web to large")


def test_latency_is_the_95th_percentile_of_what_was_answered(tenant: Tenant, token: ApiToken) -> None:
    make_rule(tenant, "latency_p95", threshold=Decimal(1000))
    requests(token, 19, latency_ms=900.0)
    requests(token, 1, latency_ms=9000.0)
    requests(token, 20, latency_ms=60_000.0, status=504)
    assert counts() == (0, 0)
    requests(token, 1, latency_ms=8000.0)
    assert counts() == (1, 0)
    assert Alert.objects.get().facts["p95_ms"] == 8000


def test_silence_is_told_once_a_rule_has_waited_for_its_window(tenant: Tenant, token: ApiToken) -> None:
    rule = make_rule(tenant, "no_traffic", window_minutes=30)
    AlertRule.objects.filter(pk=rule.pk).update(created_at=NOW - 29 * MINUTE)
    assert counts() == (0, 0)
    assert counts(NOW + MINUTE) == (1, 0)
    assert Alert.objects.get().message == "No requests came within 30 minutes."
    requests(token, 1, NOW + MINUTE)
    assert counts(NOW + 2 * MINUTE) == (0, 1)


# --------------------------------------------------------------------------- circuits


def circuit(tenant_id: UUID | None, model: str = "small") -> TrippedCircuit:
    return TrippedCircuit(uuid4(), tenant_id, model, "lab", NOW)


def test_each_open_circuit_is_told_once_and_ends_by_itself(tenant: Tenant) -> None:
    make_rule(tenant, "breaker_open")
    first, second = circuit(tenant.pk), circuit(tenant.pk, "large")
    assert [counts(NOW, [first]), counts(NOW, [first]), counts(NOW, [first, second])] == [(1, 0), (0, 0), (1, 0)]
    assert counts(NOW, [second]) == (0, 1)
    assert Alert.objects.get(resolved_at=None).message == (
        "The circuit breaker of model large at provider lab is open."
    )


def test_circuits_that_cannot_be_asked_change_nothing(tenant: Tenant) -> None:
    make_rule(tenant, "breaker_open")
    counts(NOW, [circuit(tenant.pk)])
    assert counts(NOW, None) == (0, 0)
    assert evaluate_rules(NOW)["resolved"] == 0
    assert counts(NOW, []) == (0, 1)


def test_a_tenants_rule_watches_its_own_circuits(tenant: Tenant, other_tenant: Tenant) -> None:
    make_rule(tenant, "breaker_open")
    make_rule(tenant, "breaker_open", name="large", model_name="large")
    make_rule(None, "breaker_open", name="all")
    assert counts(NOW, [circuit(tenant.pk), circuit(other_tenant.pk), circuit(None)]) == (1 + 3, 0)
    assert Alert.objects.filter(tenant=tenant).count() == 1


def test_circuits_are_asked_once_and_only_if_a_rule_watches_them(tenant: Tenant) -> None:
    asked: list[int] = []

    def ask() -> list[TrippedCircuit]:
        asked.append(1)
        return []

    evaluate_rules(NOW, ask)
    assert asked == []
    make_rule(tenant, "breaker_open")
    make_rule(tenant, "breaker_open", name="other")
    evaluate_rules(NOW, ask)
    assert asked == [1]


# --------------------------------------------------------------------------- money


def test_calls_without_a_price_are_told(tenant: Tenant, token: ApiToken, model: Model) -> None:
    make_rule(tenant, "price_unknown")
    settle(open_attempt(token, model, NOW - 5 * MINUTE))
    settle(open_attempt(token, model, NOW - 5 * MINUTE), outcome="failed", cost_usd=None, input_tokens=0)
    settle(open_attempt(token, model, NOW - 90 * MINUTE), cost_usd=None)
    assert counts() == (0, 0)
    unpriced = open_attempt(token, model, NOW - 5 * MINUTE)
    settle(unpriced, cost_usd=None)
    assert counts() == (1, 0)
    assert Alert.objects.get().message == "1 calls have no known price within 60 minutes: small-1."
    Adjustment.objects.create(tenant=tenant, attempt=unpriced, reason="reprice", amount_usd=Decimal("0.01"))
    assert counts() == (0, 1)


def test_a_model_whose_answers_have_changed_is_told_of_within_the_window(tenant: Tenant, other_tenant: Tenant) -> None:
    make_rule(tenant, "quality_drop", window_minutes=60)
    for owner, model, at in (
        (tenant, "large", NOW - MINUTE),
        (tenant, "old", NOW - 90 * MINUTE),
        (other_tenant, "x", NOW),
    ):
        DriftWatch.objects.create(tenant=owner, model_name=model, alarmed_at=at, reason="it answers worse")
    DriftWatch.objects.create(tenant=tenant, model_name="well")
    assert [counts(), counts()] == [(1, 0), (0, 0)]
    assert Alert.objects.get().message == "The answers of model large have changed: it answers worse"
    assert counts(NOW + 60 * MINUTE) == (0, 1)


@pytest.fixture
def spend(token: ApiToken, model: Model) -> Callable[..., None]:
    """Calls that cost this much together."""

    def call(at: datetime, usd: object, times: int = 1) -> None:
        for _ in range(times):
            settle(open_attempt(token, model, at), cost_usd=Decimal(str(usd)) / times)

    return call


def test_spend_far_above_the_same_hour_of_other_days_is_unusual(tenant: Tenant, spend: Callable[..., None]) -> None:
    make_rule(tenant, "spend_anomaly")
    make_rule(None, "spend_anomaly", name="installation", model_name="small")
    make_rule(tenant, "spend_anomaly", name="tolerant", threshold=Decimal(100))
    make_rule(tenant, "spend_anomaly", name="other model", model_name="large")
    for day in range(1, 15):
        spend(NOW - timedelta(days=day), 10 + day % 3)
        spend(NOW - timedelta(days=day, hours=5), 500)  # a nightly batch
    roll_up()
    spend(NOW + MINUTE, 15, times=10)
    assert counts(NOW + 10 * MINUTE) == (0, 0)
    spend(NOW + MINUTE, 30, times=10)
    assert counts(NOW + 10 * MINUTE) == (2, 0)
    assert {alert.facts["rule"] for alert in Alert.objects.all()} == {"spend_anomaly", "installation"}
    facts = Alert.objects.get(tenant=tenant).facts
    assert (Decimal(facts["spent_usd"]), Decimal(facts["usual_usd"]), facts["days"]) == (45, 11, 14)


def test_without_a_week_of_history_spend_is_not_judged(tenant: Tenant, spend: Callable[..., None]) -> None:
    make_rule(tenant, "spend_anomaly")
    make_rule(tenant, "spend_anomaly", name="many", least_requests=11)
    spend(NOW + MINUTE, 1000, times=10)
    assert counts(NOW + 10 * MINUTE) == (0, 0)
    for day in range(1, 7):
        spend(NOW - timedelta(days=day), 1)
    roll_up()
    assert counts(NOW + 10 * MINUTE) == (0, 0)
    spend(NOW - timedelta(days=7), 1)
    roll_up()
    assert counts(NOW + 10 * MINUTE) == (1, 0)
    assert Alert.objects.get().facts["rule"] == "spend_anomaly"


def test_a_few_wild_days_do_not_move_what_is_usual() -> None:
    baseline = [Decimal(value) for value in (10, 11, 9, 10, 12, 10, 900, 11, 9, 10)]
    usual, bound = usual_and_bound(baseline, Decimal(5))
    assert usual == 10
    assert 15 <= bound < 20
