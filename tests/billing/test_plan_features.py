"""What a plan leaves out cannot be switched on, does nothing where it is on, and is named to whoever wants it."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib import import_module
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.db import connection

from billing.entitlements import within_plan
from billing.features import EVERYTHING, FEATURES, Entitlement, Feature
from billing.models import AlertChannel, Plan, Subscription
from gateway.errors import PermissionDenied
from gateway.judging import judge_samples
from gateway.policy import TenantPolicy
from gateway.replaying import execute, populate
from gateway.runtime import load_policy, routing_facts_of
from routing.features import TASKS
from routing.models import BankedConversation, Experiment, JudgeSample, Ramp, RoutingSettings
from routing.moving import cost_migration
from routing.moving.stepping import step_ramps
from routing.trials import auto_ab, evaluate_experiments
from tenants.models import ApiToken, Tenant

NOW = datetime.now(UTC)
HOOK = "https://hooks.example.com/in"

pytestmark = pytest.mark.django_db


def on_plan(tenant: Tenant, *features: Feature, **overrides: Any) -> Subscription:
    plan, _ = Plan.objects.get_or_create(name="small", defaults={"features": list(features)})
    return Subscription.objects.create(tenant=tenant, plan=plan, overrides=overrides)


def policy_of(tenant: Tenant) -> TenantPolicy:
    return load_policy(str(tenant.pk))


# ------------------------------------------------------------------ which features a tenant has


def test_a_tenant_without_a_plan_and_a_plan_that_names_none_have_all_features(tenant: Tenant) -> None:
    assert Subscription.entitlement_of(tenant) == EVERYTHING
    Subscription.objects.create(tenant=tenant, plan=Plan.objects.create(name="open"))
    entitlement = Subscription.entitlement_of(tenant)
    assert all(entitlement.allows(feature) for feature in FEATURES)


def test_a_plan_that_names_features_has_no_others(tenant: Tenant) -> None:
    on_plan(tenant, "routing", "judge")
    allowed = [feature for feature in FEATURES if Subscription.entitlement_of(tenant).allows(feature)]
    assert allowed == ["routing", "judge"]


def test_an_empty_list_names_none(tenant: Tenant) -> None:
    on_plan(tenant)
    assert not any(Subscription.entitlement_of(tenant).allows(feature) for feature in FEATURES)


@pytest.mark.parametrize("agreed", [["judge"], None], ids=str)
def test_what_was_agreed_differently_goes_before_the_plan(tenant: Tenant, agreed: list[str] | None) -> None:
    on_plan(tenant, features=agreed)
    entitlement = Subscription.entitlement_of(tenant)
    assert entitlement.allows("judge")
    assert entitlement.allows("replay") == (agreed is None)


def test_a_feature_that_there_is_not_is_refused(tenant: Tenant) -> None:
    with pytest.raises(ValidationError, match=r"Not a feature: sso\. There are routing, experiments"):
        Plan(name="p", features=["judge", "sso"]).full_clean()
    plan = Plan.objects.create(name="p")
    with pytest.raises(ValidationError, match="Not a feature: sso"):
        Subscription(tenant=tenant, plan=plan, overrides={"features": ["sso"]}).full_clean()
    Subscription(tenant=tenant, plan=plan, overrides={"features": None}).full_clean()


def test_a_changed_plan_acts_on_the_next_request_of_its_tenants_alone(tenant: Tenant) -> None:
    other = Tenant.objects.create(slug="globex")
    plan = on_plan(tenant, "judge").plan
    before = {each.slug: each.policy_epoch for each in Tenant.objects.all()}
    plan.features = None
    plan.save()
    after = {each.slug: each.policy_epoch for each in Tenant.objects.all()}
    assert after[tenant.slug] > before[tenant.slug]
    assert after[other.slug] == before[other.slug]


def test_an_empty_list_from_when_nobody_read_it_leaves_nothing_out(tenant: Tenant) -> None:
    on_plan(tenant, features=[], seats=3)
    named = Plan.objects.create(name="named", features=["judge"])
    migration = import_module("billing.migrations.0011_plan_features")
    with connection.cursor() as cursor:
        cursor.execute(migration.EMPTY_MEANT_NOTHING)
    assert Subscription.objects.get().overrides == {"seats": 3}
    assert Subscription.entitlement_of(tenant).features is None
    assert Plan.objects.get(pk=named.pk).features == ["judge"]


# ------------------------------------------------------------------ what cannot be switched on


@pytest.mark.parametrize(
    ("field", "value", "feature"),
    [
        ("judge_usd_per_day", Decimal(1), "judge"),
        ("replay_usd_per_week", Decimal(1), "replay"),
        ("auto_ab", True, "experiments"),
        ("auto_migrate", True, "experiments"),
    ],
)
def test_a_router_does_not_get_what_the_plan_leaves_out(
    tenant: Tenant, field: str, value: Any, feature: Feature
) -> None:
    on_plan(tenant)
    wishes = RoutingSettings(tenant=tenant, **{field: value})
    with pytest.raises(ValidationError) as refused:
        wishes.full_clean()
    assert refused.value.message_dict == {field: [f"The plan 'small' does not include the feature '{feature}'."]}
    Subscription.objects.update(overrides={"features": [feature]})
    wishes.full_clean()


def test_a_form_without_a_tenant_is_refused_for_that_alone() -> None:
    for row in (RoutingSettings(judge_usd_per_day=1), Experiment(name="x", arms=["a", "b"])):
        with pytest.raises(ValidationError) as refused:
            row.full_clean()
        assert list(refused.value.message_dict) == ["tenant"]


def test_an_experiment_does_not_begin_without_the_feature_and_can_still_be_ended(tenant: Tenant) -> None:
    running = Experiment.objects.create(tenant=tenant, name="old", task=TASKS[0], arms=["a", "b"])
    on_plan(tenant)
    with pytest.raises(ValidationError, match="does not include the feature 'experiments'"):
        Experiment(tenant=tenant, name="new", arms=["a", "b"]).full_clean()
    running.status = Experiment.Status.ENDED
    running.full_clean()


@pytest.mark.parametrize("kind", ["webhook", "slack"])
def test_a_webhook_is_refused_and_mail_is_not(tenant: Tenant, kind: str) -> None:
    on_plan(tenant)
    with pytest.raises(ValidationError, match="does not include the feature 'webhooks'"):
        AlertChannel(tenant=tenant, name="hook", kind=kind, address=HOOK).full_clean()
    AlertChannel(tenant=tenant, name="mail", kind="email", address="ops@example.com").full_clean()
    AlertChannel(tenant=None, name="ours", kind=kind, address=HOOK).full_clean()


def test_what_was_on_when_the_plan_got_smaller_can_be_seen_to_and_switched_off(tenant: Tenant) -> None:
    Tenant.objects.update(log_content=True)
    RoutingSettings.objects.create(tenant=tenant, judge_usd_per_day=1)
    channel = AlertChannel.objects.create(tenant=tenant, name="hook", kind="webhook", address=HOOK)
    on_plan(tenant)
    for row in (Tenant.objects.get(), RoutingSettings.objects.get(), channel):
        row.full_clean()
    channel.enabled = False
    channel.full_clean()
    channel.save()
    channel.enabled = True
    with pytest.raises(ValidationError, match="does not include the feature 'webhooks'"):
        channel.full_clean()


def test_content_is_not_kept_without_the_feature(tenant: Tenant) -> None:
    on_plan(tenant)
    tenant.log_content = True
    with pytest.raises(ValidationError) as refused:
        tenant.full_clean()
    assert refused.value.message_dict == {
        "log_content": ["The plan 'small' does not include the feature 'content_log'."]
    }


# ------------------------------------------------------------------ what has no effect any more


def test_what_is_on_has_no_effect_once_the_plan_leaves_it_out(tenant: Tenant) -> None:
    Tenant.objects.update(log_content=True)
    RoutingSettings.objects.create(tenant=tenant, judge_usd_per_day=1)
    Experiment.objects.create(tenant=tenant, name="ab", arms=["a", "b"])
    Ramp.objects.create(tenant=tenant, task="", complexity="", from_model="a", to_model="b", percent=50)
    before = policy_of(tenant)
    assert before.log_content
    assert before.routing.judges
    assert (len(before.routing.experiments), len(before.routing.ramps)) == (1, 1)
    on_plan(tenant)
    after = policy_of(tenant)
    assert not after.log_content
    assert not after.routing.judges
    assert (after.routing.experiments, after.routing.ramps) == ((), ())


def test_a_policy_refuses_what_the_plan_leaves_out_and_says_so(tenant: Tenant) -> None:
    on_plan(tenant, "judge")
    with pytest.raises(PermissionDenied, match="The plan 'small' does not include the feature 'routing'"):
        policy_of(tenant).refuse_beyond_plan("routing")
    policy_of(tenant).refuse_beyond_plan("judge")


# ------------------------------------------------------------------ jobs


@pytest.fixture
def eager(token: ApiToken) -> Tenant:
    """A tenant that wants everything that jobs do, and has something for each."""
    tenant = token.tenant
    RoutingSettings.objects.create(
        tenant=tenant, judge_usd_per_day=1, replay_usd_per_week=1, auto_ab=True, auto_migrate=True
    )
    JudgeSample.objects.create(tenant=tenant, request_id=token.pk, due_at=NOW, ciphertext=b"", master_key_number=1)
    BankedConversation.objects.create(
        tenant=tenant, request_id=token.pk, project_id=token.project_id, ciphertext=b"kept", master_key_number=1,
        task="code", complexity="simple", model_name="small", score=0.5,
    )  # fmt: skip
    return tenant


def test_jobs_pass_over_tenants_whose_plan_leaves_the_feature_out_and_say_so(eager: Tenant) -> None:
    on_plan(eager)
    runs = {
        "judge": judge_samples(NOW + timedelta(seconds=1)),
        "replay": execute(NOW),
        "bank": populate(NOW),
        "auto_ab": auto_ab(NOW, routing_facts_of),
        "cost_migration": cost_migration(NOW, routing_facts_of),
    }
    assert {name: facts.get("not_in_plan") for name, facts in runs.items()} == {name: [eager.slug] for name in runs}
    assert runs["auto_ab"]["tenants"] == 0
    assert JudgeSample.objects.filter(judged_at=None).exists()
    banked = BankedConversation.objects.get()
    assert (bytes(banked.ciphertext), banked.retired_at) == (b"", NOW)


def test_what_is_under_way_is_neither_looked_at_nor_moved_on_and_that_is_said(tenant: Tenant) -> None:
    Experiment.objects.create(tenant=tenant, name="ab", arms=["a", "b"])
    Ramp.objects.create(
        tenant=tenant, task="", complexity="", from_model="a", to_model="b", percent=50, source=Ramp.Source.MIGRATION
    )  # fmt: skip
    on_plan(tenant)
    nothing_done = {"failed": 0, "told": [], "not_in_plan": [tenant.slug]}
    assert evaluate_experiments(NOW) == {"labels": 0, "answers": 0, "ended": 0} | nothing_done
    assert step_ramps(NOW) == {"advanced": 0, "done": 0, "rolled_back": 0} | nothing_done
    assert cost_migration(NOW, routing_facts_of)["not_in_plan"] == [tenant.slug]


def test_jobs_say_nothing_of_plans_that_leave_nothing_out(eager: Tenant) -> None:
    on_plan(eager, *FEATURES)
    for facts in (auto_ab(NOW, routing_facts_of), cost_migration(NOW, routing_facts_of), populate(NOW)):
        assert "not_in_plan" not in facts


def test_tenants_are_told_apart_by_their_plans(tenant: Tenant) -> None:
    free = Tenant.objects.create(slug="globex")
    for each in (tenant, free):
        RoutingSettings.objects.create(tenant=each)
    on_plan(tenant)
    rows, told = within_plan(RoutingSettings.objects.all(), "judge")
    assert [row.tenant for row in rows] == [free]
    assert told == {"not_in_plan": [tenant.slug]}
    assert within_plan(RoutingSettings.objects.filter(tenant=free), "judge")[1] == {}


def test_a_refusal_names_plan_and_feature() -> None:
    assert (
        Entitlement("free", frozenset()).refusal("replay") == "The plan 'free' does not include the feature 'replay'."
    )
