"""One row of every kind for the operators' pages to show, and what their tests ask of a page."""

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

from django.contrib import admin
from django.db.models import Model as AnyModel
from django.http import HttpRequest
from django.urls import reverse

from audit.models import AuditEvent, JobRun
from audit.record import Actor
from billing.models import (
    Adjustment,
    Alert,
    AlertChannel,
    AlertDelivery,
    AlertRule,
    Budget,
    BudgetPeriod,
    GatewayProcess,
    MeterEvent,
    Plan,
    PriceVersion,
    RateLimit,
    Subscription,
    UsageHour,
    UsageHourTag,
    UsageHourUser,
    UsageReport,
)
from gateway.models import Alias, Model, RequestContent
from routing.models import (
    BankedConversation,
    Decision,
    DriftWatch,
    Experiment,
    ExperimentEvidence,
    Feedback,
    JudgeSample,
    Label,
    PublishedScore,
    Ramp,
    ReplayVerdict,
    RouterState,
    RoutingSettings,
    StrategyChoice,
    WeightSnapshot,
)
from tenants.models import ApiToken, Membership, Tenant, User
from tests.ledger_rows import log_request, open_attempt, settle
from tests.routing.candidates_kept import kept

VENDOR_SECRET = "sk-canary-vendor-0123456789"
SIGNING_SECRET = "whsec-canary-signing-0123456789"
SEALED: dict[str, Any] = {"ciphertext": b"canary-ciphertext", "master_key_number": 1}
World = dict[type, Any]


def make_world(token: ApiToken, model: Model, operator: User, actor: Actor) -> World:
    """One row of every kind, by its class."""
    provider = model.provider
    key = provider.set_key(VENDOR_SECRET, actor)
    price, _ = PriceVersion.set_price(model=model, actor=actor, input="0.15", output="0.60")
    asked = log_request(token)
    attempt = open_attempt(token, model, request_id=asked.pk, provider_key=key, price_version=price)
    settlement = settle(attempt)
    now = datetime.now(UTC)
    rows = [
        token.tenant, token.project, token, operator, provider, model, key, price, asked, attempt, settlement,
        Membership.objects.create(tenant=token.tenant, user=operator, role="owner"),
        Alias.objects.create(tenant=token.tenant, name="auto", model_name="small"),
        RequestContent.objects.create(
            request_id=asked.pk, tenant=token.tenant, **SEALED
        ),
        Adjustment.objects.create(tenant=token.tenant, attempt=attempt, reason="credit", amount_usd=Decimal("-0.0001")),
        GatewayProcess.objects.create(label="host:1", started_at=now, heartbeat_at=now),
        AuditEvent.objects.filter(tenant=token.tenant).latest("sequence"),
        JobRun.objects.create(job="rollup", started_at=now, ended_at=now, outcome="done", facts={"hours": 3}),
        *spending_rows(token, now),
        *routing_rows(token, asked.pk, now),
    ]  # fmt: skip
    return {type(row): row for row in rows}


def routing_rows(token: ApiToken, request_id: Any, now: datetime) -> list[Any]:
    """A row each of a tenant's wishes for its router, of what that found and of what is tried out."""
    tenant, cell = token.tenant, {"task": "qa", "complexity": "simple"}
    experiment = Experiment.objects.create(tenant=tenant, name="e", arms=["small", "large"], status="ended")
    banked = BankedConversation.objects.create(
        tenant=tenant, project_id=token.project_id, request_id=request_id, model_name="small", score=0.5,
        **cell, **SEALED,
    )  # fmt: skip
    columns = {name: [0.5] for name in ("mean", "sd", "cost", "penalty", "propensity")}
    return [
        RoutingSettings.objects.create(tenant=tenant, rules=[{"rule": "cheapest", "keep": 4}]),
        StrategyChoice.objects.create(tenant=tenant, token=token, strategy="cost"),
        PublishedScore.objects.create(tenant=tenant, vendor_model_pattern="small-*", quality=0.8, source="tests"),
        Decision.objects.create(
            request_id=request_id, tenant=tenant, project_id=token.project_id, token_id=token.pk, strategy="balanced",
            engine="hier", confidence=0.9, vector=b"", input_tokens=9, chosen="small", model_name="small", propensity=1.0,
            **kept({"model": ["small"], **columns}), removed={"large": ["health", "its circuit is open"]},
            reason="small: the only candidate", status=200, latency_ms=400.0, **cell,
        ),
        Label.objects.create(
            tenant=tenant, request_id=request_id, model_name="small", rater="judge", value=0.5, vector=b"", **cell
        ),
        Feedback.objects.create(tenant=tenant, request_id=request_id, rater="ann", value=0.5, comment="fine"),
        JudgeSample.objects.create(request_id=request_id, tenant=tenant, due_at=now, **SEALED),
        experiment,
        ExperimentEvidence.objects.create(tenant=tenant, experiment=experiment),
        Ramp.objects.create(tenant=tenant, to_model="small"),
        RouterState.objects.create(tenant=tenant, engine="hier", labels=3),
        WeightSnapshot.objects.create(
            tenant=tenant, day=now.date(), engine="hier", labels=3, by_model={"small": {"mean": 0.5, "sd": 0.1}}
        ),
        banked,
        ReplayVerdict.objects.create(
            tenant=tenant, conversation=banked, week=now.date(), model_name="small", control=False, value=0.5
        ),
        DriftWatch.objects.create(tenant=tenant, model_name="small", alarmed_at=now, reason="worse by 0.2"),
    ]  # fmt: skip


def spending_rows(token: ApiToken, now: datetime) -> list[Any]:
    """A row each of what limits a tenant, of its sums and of who is told."""
    tenant, plan = token.tenant, Plan.objects.create(name="team", features=["judge"])
    budget = Budget.objects.create(
        tenant=tenant, name="ci-month", scope="token", token=token, metric="usd", cap=Decimal("12.5")
    )
    period = BudgetPeriod.objects.create(
        tenant=tenant, budget=budget, starts_at=now.replace(day=1, hour=0, minute=0, second=0, microsecond=0),
        spent=Decimal(5), held=Decimal("1.25"),
    )  # fmt: skip
    channel = AlertChannel(tenant=tenant, name="hook", kind="webhook", address="https://hooks.example/T0/B1")
    channel.set_secret(SIGNING_SECRET)
    channel.save()
    rule = AlertRule.objects.create(tenant=tenant, name="budget", kind="budget", budget=budget)
    rule.channels.add(channel)
    alert = Alert.objects.create(
        tenant=tenant, rule=rule, budget_period=period, kind="budget", occasion="o", message="50 % used",
        facts={"threshold": 50}, opened_at=now,
    )  # fmt: skip
    sums = {"hour": now, "tenant_id": tenant.pk, "project_id": token.project_id, "requests": 3, "cost_usd": 1}
    return [
        plan, budget, channel, rule, alert,
        RateLimit.objects.create(tenant=tenant, scope="token", token=token, concurrent=5),
        Subscription.objects.create(tenant=tenant, plan=plan, overrides={"seats": 10}),
        AlertDelivery.objects.create(tenant=tenant, alert=alert, channel=channel),
        UsageHour.objects.create(token_id=token.pk, vendor_model="small-1", purpose="serve", **sums),
        UsageHourTag.objects.create(tag="nightly", **sums),
        UsageHourUser.objects.create(end_user="u1", **sums),
        UsageReport.objects.create(tenant=tenant, day=now.date(), requests=3, spend_usd=1),
        MeterEvent.objects.create(
            tenant=tenant, stripe_customer="cus_1", meter_value="spend", day=now.date(), revision=1, value=1_000_000
        ),
    ]  # fmt: skip


def page(model: type[AnyModel], name: str, *args: Any) -> str:
    return reverse(f"admin:{model._meta.app_label}_{model._meta.model_name}_{name}", args=args)


def every_page(world: World, request: HttpRequest) -> list[str]:
    """Every page of the admin that an operator, who made ``request``, can open."""
    urls = [reverse("admin:index"), reverse("admin:password_change")]
    urls += [reverse("admin:app_list", args=[app]) for app in ("tenants", "gateway", "routing", "billing", "audit")]
    urls.append(reverse("admin:routing_router", args=[world[Tenant].pk]))
    for model, row in world.items():
        urls += [page(model, "changelist"), page(model, "change", row.pk)]
        if admin.site.get_model_admin(model).has_add_permission(request):
            urls.append(page(model, "add"))
    return urls


def form_values(response: Any) -> dict[str, Any]:
    """What a browser would send back unchanged: the form and the management data of its inlines."""
    forms = [response.context["adminform"].form]
    for formset in response.context["inline_admin_formsets"]:
        forms += [formset.formset.management_form, *formset.formset.forms]
    values: dict[str, Any] = {}
    for form in forms:
        for bound in form:
            value = bound.value()
            if value is None or value is False:
                continue
            if isinstance(value, datetime):
                values |= {f"{bound.html_name}_0": f"{value:%Y-%m-%d}", f"{bound.html_name}_1": f"{value:%H:%M:%S}"}
            else:
                values[bound.html_name] = "on" if value is True else value
    return values
