from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from django.core.exceptions import ValidationError

from audit.models import AuditEvent
from audit.record import Actor
from billing.models import Plan, PriceVersion, Subscription
from gateway.models import Model, Provider
from gateway.wire.types import Usage
from tenants.models import Membership, Tenant, User

PRICE = {"input": "0.15", "output": "0.60", "cached_input": "0.075"}


def test_a_price_holds_from_now_on_for_the_models_tenant(model: Model, actor: Actor) -> None:
    version, new = PriceVersion.set_price(model=model, actor=actor, **PRICE)
    version.refresh_from_db()

    assert new
    assert (version.tenant, version.model, version.source) == (model.tenant, model, "operator")
    assert (version.input, version.output, version.cached_input, version.reasoning) == (
        Decimal("0.15"), Decimal("0.6"), Decimal("0.075"), None,
    )  # fmt: skip
    assert datetime.now(UTC) - version.effective_from < timedelta(minutes=1)
    assert AuditEvent.objects.get(tenant=model.tenant).action == "price.set"


def test_the_same_price_again_writes_nothing(model: Model, actor: Actor) -> None:
    first, _ = PriceVersion.set_price(model=model, actor=actor, **PRICE)
    again = PriceVersion.set_price(
        model=model, actor=actor, input=Decimal("0.150"), output="0.6", cached_input="0.0750"
    )

    assert again == (first, False)
    assert PriceVersion.objects.count() == AuditEvent.objects.count() == 1


def test_a_new_price_is_a_new_row(model: Model, actor: Actor) -> None:
    PriceVersion.set_price(model=model, actor=actor, **PRICE)
    PriceVersion.set_price(model=model, actor=actor, **PRICE | {"input": "0.2"})
    PriceVersion.set_price(model=model, actor=actor, **PRICE)

    prices = PriceVersion.objects.order_by("effective_from").values_list("input", flat=True)
    assert list(prices) == [Decimal("0.15"), Decimal("0.2"), Decimal("0.15")]


def test_two_prices_for_one_moment_are_refused(model: Model, actor: Actor) -> None:
    moment = datetime(2026, 1, 1, tzinfo=UTC)
    PriceVersion.set_price(model=model, actor=actor, effective_from=moment, **PRICE)
    with pytest.raises(ValidationError):
        PriceVersion.set_price(model=model, actor=actor, effective_from=moment, **PRICE | {"input": "9"})


def test_a_price_by_pattern_is_the_installations(db: None, actor: Actor) -> None:
    version, _ = PriceVersion.set_price(actor=actor, provider_kind="openai", vendor_model_pattern="gpt-*", **PRICE)
    assert (version.tenant, AuditEvent.objects.get().tenant) == (None, None)


def test_a_tenant_may_have_its_own_price_of_a_shared_model(tenant: Tenant, actor: Actor) -> None:
    provider = Provider.objects.create(name="openai", kind="openai")
    shared = Model.objects.create(name="small", provider=provider, vendor_model="small-1")
    version, _ = PriceVersion.set_price(model=shared, tenant=tenant, actor=actor, **PRICE)
    assert version.tenant == tenant


def test_the_model_of_another_tenant_is_refused(model: Model, other_tenant: Tenant, actor: Actor) -> None:
    with pytest.raises(ValidationError, match="another tenant"):
        PriceVersion.set_price(model=model, tenant=other_tenant, actor=actor, **PRICE)


@pytest.mark.parametrize(
    "wrong",
    [
        {"input": "-1"},
        {"input": "0.0000001"},
        {"input": "cheap"},
        {"input": "NaN"},
        {"per_request": "-1"},
        {"magic": "1"},
        {"tiers": [{"input": "1"}]},
        {"tiers": [{"above_input_tokens": 10, "magic": "1"}]},
        {"tiers": [{"above_input_tokens": 10, "input": "-1"}]},
        {"tiers": [{"above_input_tokens": 10, "input": "cheap"}]},
        {"tiers": [7]},
        {"batch": {"magic": "1"}},
        {"batch": {"input": "cheap"}},
        {"batch": {"tiers": 7}},
        {"batch": "half"},
        {"vendor_model_pattern": "gpt-*"},
    ],
)
def test_a_wrong_price_is_refused(model: Model, actor: Actor, wrong: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        PriceVersion.set_price(model=model, actor=actor, **PRICE | wrong)
    assert not PriceVersion.objects.exists()


@pytest.mark.parametrize("missing", ["input", "output"])
def test_a_price_that_lacks_an_amount_says_which(missing: str) -> None:
    terms = {"input": Decimal(1), "output": Decimal(2)} | {missing: None}
    price = PriceVersion(vendor_model_pattern="gpt-*", effective_from=datetime.now(UTC), **terms)
    with pytest.raises(ValidationError) as refused:
        price.full_clean(validate_unique=False, validate_constraints=False)
    assert list(refused.value.message_dict) == [missing]


def test_a_price_applies_to_something(db: None, actor: Actor) -> None:
    with pytest.raises(ValidationError):
        PriceVersion.set_price(actor=actor, **PRICE)


def test_the_hot_path_charges_what_was_set(model: Model, actor: Actor) -> None:
    tier = {"above_input_tokens": 1000, "input": "0.30"}
    version, _ = PriceVersion.set_price(model=model, actor=actor, tiers=[tier], per_request="0.01", **PRICE)
    version.refresh_from_db()
    priced = version.as_priced_version()

    assert (priced.model_id, priced.tenant_id) == (str(model.pk), str(model.tenant_id))
    assert priced.price.cost(Usage(input=1000, output=10)) == 1000 * 150_000 + 10 * 600_000 + 10**10
    assert priced.price.cost(Usage(input=1001)) == 1001 * 300_000 + 10**10


def test_a_plan_has_seats_for_so_many_members(tenant: Tenant) -> None:
    plan = Plan.objects.create(name="duo", seats=2)
    Subscription.objects.create(tenant=tenant, plan=plan)
    people = [User.objects.create_user(f"{name}@acme.example") for name in ("ann", "bob", "cy")]
    operator = User.objects.create(email="olga@example.com", is_staff=True)
    for person in (*people[:2], operator):
        membership = Membership(tenant=tenant, user=person, role="viewer")
        membership.full_clean()
        membership.save()
    with pytest.raises(ValidationError, match="All 2 seats of the plan 'duo' are taken"):
        Membership(tenant=tenant, user=people[2], role="viewer").full_clean()
    Subscription.objects.update(overrides={"seats": 3})
    Membership(tenant=tenant, user=people[2], role="viewer").full_clean()
