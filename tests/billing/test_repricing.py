"""A price that was wrong is made good by lines of their own; the ledger's lines stay as they are."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.db.models import Sum

from audit.models import AuditEvent
from audit.record import Actor
from billing.models import Adjustment, Attempt, PriceVersion, Settlement
from billing.repricing import Repricing, reprice
from billing.verification import verify
from gateway.models import Model, Provider
from tenants.models import ApiToken, Tenant
from tests.ledger_rows import open_attempt, settle

DAY = timedelta(days=1)
NOW = datetime.now(UTC)
YESTERDAY = NOW - DAY
RANGE = {"since": NOW - 2 * DAY, "until": NOW}

pytestmark = pytest.mark.django_db

Line = Callable[..., Attempt]


@pytest.fixture
def price(tenant: Tenant, model: Model) -> PriceVersion:
    """The price the lines were made at: 0.00014 USD for their 100 input and 20 output tokens."""
    return PriceVersion.objects.create(tenant=tenant, model=model, effective_from=NOW - 9 * DAY, input=1, output=2)


@pytest.fixture
def line(token: ApiToken, model: Model, price: PriceVersion) -> Line:
    def line(at: datetime = YESTERDAY, model: Model = model, discount_bp: int = 0, **settlement: Any) -> Attempt:
        attempt = open_attempt(token, model, at, price_version=price, discount_bp=discount_bp)
        settle(attempt, **{"cost_usd": Decimal("0.00014"), "price_version": price} | settlement)
        return attempt

    return line


def corrected(model: Model, at: datetime = NOW - 8 * DAY, input: str = "3", output: str = "5") -> PriceVersion:
    return PriceVersion.objects.create(
        tenant=model.tenant, model=model, effective_from=at, input=Decimal(input), output=Decimal(output)
    )


def run(actor: Actor, **options: Any) -> Repricing:
    return reprice(actor, **{**RANGE, **options})


def test_a_line_that_cost_too_little_gets_the_difference(line: Line, model: Model, actor: Actor) -> None:
    attempt, right = line(), corrected(model)
    result = run(actor)
    adjustment = Adjustment.objects.get()
    assert adjustment.amount_usd == Decimal("0.00026")
    assert (adjustment.attempt_id, adjustment.reason, adjustment.price_version_id) == (attempt.pk, "reprice", right.pk)
    assert adjustment.tenant_id == attempt.tenant_id
    assert Settlement.objects.get().cost_usd == Decimal("0.00014")
    (summary,) = result.models
    assert (summary.model, summary.lines) == ("small", 1)
    assert (summary.old_usd, summary.new_usd) == (Decimal("0.00014"), Decimal("0.0004"))
    assert result.difference_usd == Decimal("0.00026")


def test_a_line_is_repriced_by_the_tier_of_service_it_was_served_in(line: Line, model: Model, actor: Actor) -> None:
    flex, standard = line(service_tier="flex"), line()
    PriceVersion.objects.create(
        tenant=model.tenant, model=model, effective_from=NOW - 8 * DAY, input=1, output=2, batch={"output": "1"}
    )
    result = run(actor)
    assert (result.examined, result.adjusted) == (2, 1)
    adjustment = Adjustment.objects.get()
    assert (adjustment.attempt_id, adjustment.amount_usd) == (flex.pk, Decimal("-0.00002"))
    assert not standard.adjustments.exists()
    assert verify().holds


@pytest.mark.parametrize("unpriced", [True, False], ids=["unpriced", "charged the standard price"])
def test_a_line_of_a_tier_without_a_price_stays_as_it_is_until_there_is_one(
    line: Line, model: Model, actor: Actor, *, unpriced: bool
) -> None:
    line(service_tier="priority", **({"cost_usd": None, "price_version": None} if unpriced else {}))
    line(service_tier="ultrafast", cost_usd=None, price_version=None)
    corrected(model)
    assert (run(actor).adjusted, run(actor).without_price) == (0, 2)
    PriceVersion.objects.create(
        tenant=model.tenant,
        model=model,
        effective_from=NOW - 7 * DAY,
        input=Decimal(3),
        output=Decimal(5),
        priority={"input": "6", "output": "10"},
    )
    found = run(actor)
    assert (found.adjusted, found.without_price) == (1, 1)
    assert Adjustment.objects.get().amount_usd == Decimal("0.0008") - (0 if unpriced else Decimal("0.00014"))
    assert not verify().findings


def test_a_second_run_finds_nothing_to_do(line: Line, model: Model, actor: Actor) -> None:
    line()
    corrected(model)
    assert run(actor).adjusted == 1
    assert run(actor).adjusted == 0
    assert Adjustment.objects.count() == 1


def test_a_price_corrected_again_is_reckoned_from_what_was_adjusted(line: Line, model: Model, actor: Actor) -> None:
    line()
    corrected(model)
    run(actor)
    corrected(model, NOW - 7 * DAY, "1", "1")
    result = run(actor)
    assert result.difference_usd == Decimal("-0.00028")
    assert Adjustment.objects.aggregate(total=Sum("amount_usd"))["total"] == Decimal("-0.00002")


def test_a_dry_run_says_the_same_and_writes_nothing(line: Line, model: Model, actor: Actor) -> None:
    line()
    corrected(model)
    dry = run(actor, dry_run=True)
    assert not Adjustment.objects.exists()
    assert not AuditEvent.objects.filter(action="ledger.repriced").exists()
    assert run(actor) == dry


def test_an_unpriced_line_gets_its_whole_cost(line: Line, actor: Actor) -> None:
    line(cost_usd=None, price_version=None)
    result = run(actor)
    assert Adjustment.objects.get().amount_usd == Decimal("0.00014")
    assert result.models[0].unpriced == 1
    assert run(actor).adjusted == 0


def test_an_unpriced_line_that_turns_out_to_be_free_is_told_so_once(line: Line, model: Model, actor: Actor) -> None:
    line(cost_usd=None, price_version=None)
    corrected(model, NOW - 8 * DAY, "0", "0")
    assert run(actor).adjusted == 1
    assert Adjustment.objects.get().amount_usd == 0
    assert run(actor).adjusted == 0


def test_the_price_is_the_one_that_held_when_the_call_was_made(line: Line, model: Model, actor: Actor) -> None:
    before, after = line(NOW - DAY * 1.5), line(NOW - DAY / 2)
    corrected(model, YESTERDAY)
    run(actor)
    assert Adjustment.objects.get().attempt_id == after.pk != before.pk


def test_lines_outside_the_range_the_tenant_or_the_model_are_left_alone(
    line: Line, model: Model, other_tenant: Tenant, actor: Actor
) -> None:
    line(NOW - 3 * DAY)
    line()
    corrected(model)
    assert run(actor, tenant=other_tenant).examined == 0
    assert run(actor, model="large").examined == 0
    assert run(actor, model="small", dry_run=True).adjusted == 1
    assert run(actor, model="small-1").adjusted == 1


def test_what_costs_nothing_by_itself_stays_free(line: Line, model: Model, actor: Actor) -> None:
    nothing = {"input_tokens": 0, "output_tokens": 0, "cost_usd": 0}
    line(outcome="failed", status_code=429, error_code="provider_rate_limited", **nothing)
    line(outcome="cancelled", error_code="not_sent", **nothing)
    line(outcome="abandoned", cost_usd=1, usage_source="estimated")
    line(saved_usd=Decimal("0.00014"), cost_usd=0)
    PriceVersion.objects.create(
        tenant=model.tenant, model=model, effective_from=NOW - 8 * DAY, input=1, output=2, per_request=7
    )
    assert run(actor).examined == 0


def test_a_line_whose_price_is_still_unknown_is_counted(line: Line, provider: Provider, actor: Actor) -> None:
    unknown = Model.objects.create(tenant=provider.tenant, name="new", provider=provider, vendor_model="new-1")
    line(model=unknown, cost_usd=None, price_version=None)
    result = run(actor)
    assert (result.examined, result.without_price, result.adjusted) == (1, 1, 0)


def test_prices_by_kind_and_pattern_hold_for_models_without_their_own(
    line: Line, provider: Provider, actor: Actor
) -> None:
    mini = Model.objects.create(tenant=provider.tenant, name="mini", provider=provider, vendor_model="mini-2")
    line(model=mini, cost_usd=None, price_version=None)
    PriceVersion.objects.create(
        provider_kind=provider.kind, vendor_model_pattern="mini-*", effective_from=NOW - 9 * DAY, input=10, output=0
    )
    run(actor)
    assert Adjustment.objects.get().amount_usd == Decimal("0.001")


def test_a_line_keeps_its_discount(line: Line, model: Model, actor: Actor) -> None:
    line(discount_bp=5000)
    result = run(actor)
    assert result.difference_usd == Decimal("-0.00007")


def test_more_lines_than_a_batch_are_all_adjusted_and_the_ledger_still_holds(
    line: Line, model: Model, actor: Actor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("billing.repricing._BATCH", 3)
    for _ in range(7):
        line()
    corrected(model)
    assert run(actor).adjusted == Adjustment.objects.count() == 7
    assert verify().holds


def test_who_repriced_what_is_in_the_audit_trail(line: Line, model: Model, tenant: Tenant, actor: Actor) -> None:
    line()
    corrected(model)
    run(actor, tenant=tenant)
    event = AuditEvent.objects.latest("sequence")
    assert (event.action, event.tenant, event.object_label) == ("ledger.repriced", tenant, "acme")
    assert event.changes["lines"] == 1
    assert event.changes["difference_usd"] == "0.000260000000"


def test_the_command_prints_a_line_for_each_model(line: Line, model: Model) -> None:
    line()
    corrected(model)
    options = ("--from", (NOW - 2 * DAY).isoformat(), "--to", NOW.isoformat())
    out = StringIO()
    call_command("reprice", *options, "--dry-run", "--json", stdout=out)
    told = json.loads(out.getvalue())
    assert told["models"] == [{
        "model": "small", "lines": 1, "unpriced": 0, "old_usd": "0.000140000000", "new_usd": "0.000400000000",
        "difference_usd": "0.000260000000",
    }]  # fmt: skip
    out = StringIO()
    call_command("reprice", *options, stdout=out)
    assert out.getvalue().splitlines()[-1] == "1 of 1 lines differ, by +0.000260000000 USD."
    out = StringIO()
    call_command("reprice", *options, "--tenant", "acme", stdout=out)
    assert out.getvalue() == "0 of 1 lines differ, by +0 USD.\n"
