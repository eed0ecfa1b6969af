"""A sound ledger passes; each kind of wrong is found and named."""

import json
import tracemalloc
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import StringIO
from typing import Any

import pytest
import uuid_utils.compat
from django.core.management import call_command
from django.core.management.base import CommandError
from django.db import connection

from billing.models import Attempt, Budget, BudgetPeriod, GatewayProcess, PriceVersion, Settlement
from billing.verification import Finding, verify
from gateway.models import Model
from tenants.models import ApiToken, Tenant
from tests.ledger_rows import log_request, open_attempt, settle

NOW = datetime.now(UTC)
HOUR = timedelta(hours=1)
CENTS = Decimal("0.01")

pytestmark = pytest.mark.django_db


@pytest.fixture
def price(tenant: Tenant, model: Model) -> PriceVersion:
    """100 input and 20 output tokens cost 0.00014 USD; 200,001 input tokens cost twice as much each."""
    return PriceVersion.objects.create(
        tenant=tenant, model=model, effective_from=NOW - 999 * HOUR, input=1, output=2, cached_input=Decimal("0.1"),
        tiers=[{"above_input_tokens": 200_000, "input": "2"}], batch={"input": "0.5"},
    )  # fmt: skip


@pytest.fixture
def budget(tenant: Tenant) -> Budget:
    return Budget.objects.create(tenant=tenant, name="month", scope="tenant", metric="usd", cap=100)


Line = Callable[..., Attempt]


@pytest.fixture
def line(token: ApiToken, model: Model, price: PriceVersion) -> Line:
    """A sound line of the ledger, but for what is said to be otherwise; ``held`` is of the attempt."""

    def line(at: datetime = NOW - HOUR, attempt: dict[str, Any] | None = None, **settlement: Any) -> Attempt:
        opened = open_attempt(token, model, at, price_version=price, **attempt or {})
        settle(opened, **{"cost_usd": Decimal("0.00014"), "price_version": price, "status_code": 200} | settlement)
        return opened

    return line


def only_finding(**options: Any) -> Finding:
    (finding,) = verify(**options).findings
    return finding


def test_an_empty_ledger_and_a_sound_one_hold(line: Line) -> None:
    assert verify().holds
    line()
    line(input_tokens=200_001, output_tokens=0, cost_usd=Decimal("0.400002"))
    line(service_tier="flex", cost_usd=Decimal("0.00009"))
    line(service_tier="priority")
    line(input_tokens=0, output_tokens=0, cached_input_tokens=7, cost_usd=Decimal("0.0000007"))
    line(
        outcome="failed",
        status_code=429,
        error_code="provider_rate_limited",
        input_tokens=0,
        output_tokens=0,
        cost_usd=0,
    )
    line(outcome="cancelled", error_code="not_sent", input_tokens=0, output_tokens=0, cost_usd=0)
    line(cost_usd=None, price_version=None)
    proof = verify()
    assert proof.findings == []
    assert proof.recomputed == 7
    assert len(proof.checks) == 11


def test_a_cost_that_is_off_by_the_last_decimal_is_found(line: Line) -> None:
    attempt = line(cost_usd=Decimal("0.000140000001"))
    finding = only_finding()
    assert (finding.check, finding.severity, finding.count) == ("a cost is its price times its tokens", "violation", 1)
    assert finding.examples == [f"{attempt.pk}: costs 0.000140000001, by its price 0.000140000000"]


def test_an_answer_from_the_cache_costs_nothing_but_an_answer_without_tokens_costs_its_call(
    line: Line, tenant: Tenant, model: Model
) -> None:
    per_call = PriceVersion.objects.create(
        tenant=tenant, model=model, effective_from=NOW - 9 * HOUR, input=1, output=2, per_request=CENTS
    )
    line(cost_usd=0, saved_usd=Decimal("0.00014"))
    line(input_tokens=0, output_tokens=0, price_version=per_call, cost_usd=CENTS)
    assert verify().holds
    line(input_tokens=0, output_tokens=0, price_version=per_call, cost_usd=0)
    assert only_finding().count == 1


def test_a_line_costs_what_its_discount_leaves(line: Line) -> None:
    line(attempt={"discount_bp": 5000}, cost_usd=Decimal("0.00007"))
    assert verify().holds
    line(attempt={"discount_bp": 5000})
    assert only_finding().count == 1


def test_a_refusal_that_was_charged_is_found(line: Line) -> None:
    line(outcome="failed", status_code=400, error_code="provider_bad_request")
    assert only_finding().check == "a vendor's refusal costs nothing"


def test_a_timeout_of_ours_may_cost_what_was_used_until_then(line: Line) -> None:
    line(outcome="failed", status_code=504, error_code="timeout")
    assert verify().holds


def test_negative_tokens_are_found(line: Line) -> None:
    line(reasoning_tokens=-1, cost_usd=Decimal("0.000138"))
    assert only_finding().check == "nothing is negative"


def test_a_cost_without_a_price_and_a_price_without_a_cost_are_found(line: Line) -> None:
    line(NOW - 2 * HOUR, price_version=None)  # an hour older than the other, and so named first
    line(cost_usd=None)
    finding = only_finding()
    assert (finding.check, finding.count) == ("what has a cost names its price", 2)
    assert finding.examples[0].endswith("cost 0.000140000000, but no price")


def test_an_abandoned_attempt_costs_its_hold(line: Line, token: ApiToken, model: Model) -> None:
    held = open_attempt(token, model, NOW - HOUR, held_usd=CENTS)
    settle(held, outcome="abandoned", cost_usd=CENTS)
    settle(open_attempt(token, model, NOW - HOUR), outcome="abandoned", cost_usd=None)
    assert verify().holds
    settle(open_attempt(token, model, NOW - HOUR, held_usd=CENTS), outcome="abandoned", cost_usd=0)
    assert only_finding().check == "an abandoned attempt costs what was held"


def test_an_attempt_left_open_by_nobody_is_found_when_the_reaper_should_have_been(
    token: ApiToken, model: Model
) -> None:
    open_attempt(token, model, NOW - timedelta(seconds=110))
    assert verify(now=NOW).holds
    assert not verify(now=NOW + timedelta(seconds=20)).holds
    alive = open_attempt(token, model, NOW - HOUR)
    GatewayProcess.objects.create(pk=alive.process_id, label="x", started_at=NOW, heartbeat_at=NOW)
    assert verify(now=NOW).holds
    GatewayProcess.objects.update(heartbeat_at=NOW - timedelta(seconds=31))
    assert str(alive.pk) in only_finding(now=NOW).examples[0]


def period(budget: Budget, **values: Any) -> BudgetPeriod:
    facts = {"starts_at": NOW - 24 * HOUR, "ends_at": NOW + 24 * HOUR, "tenant": budget.tenant} | values
    return BudgetPeriod.objects.create(budget=budget, **facts)


@pytest.mark.parametrize(
    ("metric", "sums"),
    [("usd", ("0.00028", "0.01")), ("tokens", ("240", "50")), ("requests", ("1", "1"))],
)
def test_a_period_is_the_sum_of_what_was_spent_and_what_open_attempts_hold(
    line: Line, budget: Budget, model: Model, metric: str, sums: tuple[str, str]
) -> None:
    spent, held = sums
    Budget.objects.update(metric=metric)
    GatewayProcess.objects.create(label="x", started_at=NOW, heartbeat_at=NOW)
    row = period(budget, spent=Decimal(spent), held=Decimal(held))
    counted = {"budget_periods": [row.pk], "held_usd": CENTS, "held_tokens": 50}
    line(attempt=counted | {"held_requests": 1})
    line(attempt=counted)  # another attempt of the same request
    open_attempt(ApiToken.objects.get(), model, NOW, held_requests=1, **counted)
    assert verify(now=NOW).holds  # later, what is open would be overdue
    BudgetPeriod.objects.update(held=Decimal(held) + Decimal("0.000000000001"))
    finding = only_finding(now=NOW)
    assert finding.check == "a budget's period is the sum of its lines"
    assert "month" in finding.examples[0]


def test_a_period_that_no_line_names_has_to_be_empty(budget: Budget) -> None:
    row = period(budget)
    assert verify().holds
    BudgetPeriod.objects.filter(pk=row.pk).update(spent=1)
    assert "spent 1.000000000000, the lines say 0" in only_finding().examples[0]


def test_a_period_of_another_tenant_is_found(line: Line, other_tenant: Tenant) -> None:
    foreign = Budget.objects.create(tenant=other_tenant, name="theirs", scope="tenant", metric="requests", cap=1)
    line(attempt={"budget_periods": [period(foreign).pk]})
    assert only_finding().check == "an attempt is counted in periods of its own tenant"


def test_a_budget_of_the_whole_installation_counts_everybody(line: Line) -> None:
    everybodys = Budget.objects.create(name="all", scope="installation", metric="usd", cap=1)
    line(attempt={"budget_periods": [period(everybodys, spent=Decimal("0.00014")).pk]})
    assert verify().holds
    assert verify(tenant=Tenant.objects.get(slug="acme")).holds


def test_a_settlement_without_an_attempt_or_not_of_its_tenant_is_found(token: ApiToken, model: Model) -> None:
    """Where no tenant is named the composite foreign key does not bite."""
    facts = {"tenant": None, "outcome": "settled", "usage_source": "vendor", "ended_at": NOW}
    lost = Settlement.objects.create(attempt_id=uuid_utils.compat.uuid7(), **facts)
    strayed = Settlement.objects.create(attempt=open_attempt(token, model, NOW), **facts)
    finding = only_finding()
    assert finding.check == "a settlement has an attempt of the same tenant"
    assert set(finding.examples) == {
        f"{lost.pk}: there is no such attempt",
        f"{strayed.pk}: settled for tenant none, made by {token.tenant_id}",
    }


def test_a_request_log_that_says_otherwise_is_a_warning_and_no_violation(line: Line, token: ApiToken) -> None:
    logged = log_request(token, cost_usd=Decimal("0.00028"))
    line(attempt={"request_id": logged.pk})
    line(attempt={"request_id": logged.pk, "purpose": "fallback"})
    line(attempt={"request_id": logged.pk, "purpose": "judge"})
    assert verify().findings == []
    line(attempt={"request_id": logged.pk, "purpose": "rescue"})
    proof = verify()
    assert [finding.severity for finding in proof.findings] == ["warning"]
    assert proof.holds


def test_a_tenant_and_a_time_limit_what_is_looked_at(line: Line, tenant: Tenant, other_tenant: Tenant) -> None:
    line(cost_usd=1)
    assert not verify(tenant=tenant, since=NOW - 2 * HOUR).holds
    assert verify(tenant=other_tenant).holds
    assert verify(since=NOW - HOUR / 2).holds


def test_only_some_of_many_violations_are_listed_and_all_are_counted(line: Line) -> None:
    for _ in range(25):
        line(cost_usd=1)
    finding = only_finding()
    assert (finding.count, len(finding.examples)) == (25, 20)


def test_the_command_names_what_is_violated_and_fails(line: Line) -> None:
    line()
    out = StringIO()
    call_command("verify_ledger", stdout=out)
    assert "holds     a cost is its price times its tokens" in out.getvalue()
    assert out.getvalue().endswith("1 costs were computed again.\n")
    attempt = line(cost_usd=1)
    out = StringIO()
    with pytest.raises(CommandError, match="1 of 11 checks found violations"):
        call_command("verify_ledger", "--tenant", "acme", "--json", stdout=out)
    told = json.loads(out.getvalue())
    assert told["holds"] is False
    assert str(attempt.pk) in told["findings"][0]["examples"][0]


def test_memory_does_not_grow_with_the_ledger(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("billing.verification._ROWS_AT_A_TIME", 400)  # as a ledger of five times the rows is read
    template = line()

    def peak_bytes() -> int:
        tracemalloc.start()
        verify(now=NOW - 99 * HOUR)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    def grow(count: int) -> None:
        for table, key in (("billing_attempt", "id"), ("billing_settlement", "attempt_id")):
            model = Attempt if key == "id" else Settlement
            columns = ", ".join(field.column for field in model._meta.concrete_fields if not field.primary_key)
            with connection.cursor() as cursor:
                cursor.execute("SELECT count(*) FROM billing_attempt")
                cursor.execute(
                    f"INSERT INTO {table} ({key}, {columns}) "
                    f"SELECT ((lpad(to_hex(%s::bigint), 12, '0') || lpad(to_hex(n), 20, '0'))::uuid), {columns} "
                    f"FROM {table}, generate_series(%s, %s) n WHERE {key} = %s",
                    [int(NOW.timestamp() * 1000), grown + 1, grown + count, template.pk],
                )

    grown = 0
    grow(1_000)
    small = peak_bytes()
    grown = 1_000
    grow(3_000)
    assert peak_bytes() < small * 1.5
    assert verify().recomputed == 4_001
