"""A tenant with one row in every table that a tenant can own rows of."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from django.db import connection

from audit.actions import Action
from audit.models import AuditCheckpoint, AuditEvent
from audit.record import Actor, record_removal
from billing.models import (
    Adjustment,
    Alert,
    AlertChannel,
    AlertDelivery,
    AlertRule,
    Attempt,
    Budget,
    BudgetPeriod,
    MeterEvent,
    Plan,
    PriceVersion,
    RateLimit,
    Settlement,
    Subscription,
    UsageHour,
    UsageHourTag,
    UsageHourUser,
    UsageReport,
)
from gateway.models import Alias, Deployment, Model, Provider, RequestContent, RequestLog
from gateway.rows import new_id
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
from tenants.models import ApiToken, Membership, Project, Tenant, User

NOW = datetime(2026, 11, 1, tzinfo=UTC)
CELL = {"task": "qa", "complexity": "simple"}
SEALED: dict[str, Any] = {"ciphertext": b"x", "master_key_number": 1}


class Household:
    def __init__(self, slug: str, actor: Actor) -> None:
        self.tenant = Tenant.objects.create(slug=slug)
        self._oldest_event()
        self.project = Project.objects.create(tenant=self.tenant, slug="web")
        user = User.objects.create_user(f"bob@{slug}.example")
        Membership.objects.create(tenant=self.tenant, user=user, role="owner", project=self.project)
        self.token, _ = ApiToken.issue(tenant=self.tenant, project=self.project, name="ci", actor=actor)
        self.provider = Provider.objects.create(tenant=self.tenant, name="openai", kind="openai")
        self.provider.set_key("sk-" + slug, actor)
        self.model = Model.objects.create(tenant=self.tenant, name="small", provider=self.provider, vendor_model="s")
        Deployment.objects.create(tenant=self.tenant, model=self.model, provider=self.provider, vendor_model="s-2")
        Alias.objects.create(tenant=self.tenant, name="auto", model_name="small")
        PriceVersion.set_price(model=self.model, actor=actor, input="1", output="2")
        self._ledger()
        self._requests()
        self._spending()
        self._alerts()
        self._reports()
        self._wishes()
        self._findings()
        self._replays()
        self._checkpoint(actor)

    def _spending(self) -> None:
        self.budget = Budget.objects.create(
            tenant=self.tenant, name="month", scope="project", project=self.project, metric="usd", cap=Decimal(5)
        )
        self.period = BudgetPeriod.objects.create(tenant=self.tenant, budget=self.budget, starts_at=NOW)
        RateLimit.objects.create(tenant=self.tenant, scope="token", token=self.token, concurrent=5)
        plan, _ = Plan.objects.get_or_create(name="team")
        Subscription.objects.create(tenant=self.tenant, plan=plan)
        UsageHour.objects.create(tenant_id=self.tenant.pk, hour=NOW, vendor_model="s", purpose="serve")
        UsageHourTag.objects.create(tenant_id=self.tenant.pk, hour=NOW, tag="t")
        UsageHourUser.objects.create(tenant_id=self.tenant.pk, hour=NOW, end_user="u")

    def _alerts(self) -> None:
        channel = AlertChannel.objects.create(
            tenant=self.tenant, name="hook", kind="webhook", address="https://hooks.example/in"
        )
        rule = AlertRule.objects.create(tenant=self.tenant, name="rule", kind="budget", budget=self.budget)
        alert = Alert.objects.create(
            tenant=self.tenant, rule=rule, budget_period=self.period, kind="budget", message="m", opened_at=NOW,
            occasion=f"{self.tenant}",
        )  # fmt: skip
        AlertDelivery.objects.create(tenant=self.tenant, alert=alert, channel=channel)

    def _ledger(self) -> None:
        attempt = Attempt.objects.create(
            request_id=new_id(), tenant=self.tenant, project=self.project, token=self.token, purpose="serve",
            provider=self.provider, model=self.model, vendor_model="s", process_id=new_id(), started_at=NOW,
        )  # fmt: skip
        Settlement.objects.create(
            attempt=attempt, tenant=self.tenant, outcome="settled", usage_source="vendor", ended_at=NOW
        )
        Adjustment.objects.create(attempt=attempt, tenant=self.tenant, reason="credit", amount_usd=Decimal(-1))

    def _requests(self) -> None:
        request = RequestLog.objects.create(
            tenant=self.tenant, project=self.project, token=self.token, started_at=NOW, dialect="openai_chat",
            streamed=False, requested_model="small", status=200, latency_ms=1, overhead_ms=1,
        )  # fmt: skip
        RequestContent.objects.create(request_id=request.pk, tenant=self.tenant, **SEALED)

    def _reports(self) -> None:
        UsageReport.objects.create(tenant=self.tenant, day=NOW.date())
        MeterEvent.objects.create(
            tenant=self.tenant, stripe_customer="cus_1", meter_value="spend", day=NOW.date(), revision=1, value=1
        )

    def _wishes(self) -> None:
        RoutingSettings.objects.create(tenant=self.tenant)
        StrategyChoice.objects.create(tenant=self.tenant, project=self.project, strategy="cost")
        PublishedScore.objects.create(tenant=self.tenant, vendor_model_pattern="s", quality=0.5, source="tests")
        experiment = Experiment.objects.create(tenant=self.tenant, name="first", arms=["small", "large"])
        ExperimentEvidence.objects.create(tenant=self.tenant, experiment=experiment)
        Ramp.objects.create(tenant=self.tenant, to_model="small")

    def _findings(self) -> None:
        request_id = new_id()
        Decision.objects.create(
            request_id=request_id, tenant=self.tenant, project_id=self.project.pk, token_id=self.token.pk,
            strategy="balanced", engine="hier", confidence=0.5, vector=b"", input_tokens=1, chosen="small",
            propensity=1.0, reason="the only one", status=200, latency_ms=1, **CELL,
        )  # fmt: skip
        JudgeSample.objects.create(request_id=request_id, tenant=self.tenant, due_at=NOW, **SEALED)
        Feedback.objects.create(tenant=self.tenant, request_id=request_id, rater="ann", value=0.5)
        Label.objects.create(
            tenant=self.tenant, request_id=request_id, model_name="small", rater="judge", value=0.5, vector=b"", **CELL
        )
        RouterState.objects.create(tenant=self.tenant, engine="hier", state=b"")
        WeightSnapshot.objects.create(tenant=self.tenant, day=NOW.date(), engine="hier", labels=1, by_model={})

    def _replays(self) -> None:
        banked = BankedConversation.objects.create(
            tenant=self.tenant, request_id=new_id(), project_id=self.project.pk, model_name="small", score=0.5,
            **CELL, **SEALED,
        )  # fmt: skip
        ReplayVerdict.objects.create(
            tenant=self.tenant, conversation=banked, week=NOW.date(), model_name="small", control=False
        )
        DriftWatch.objects.create(tenant=self.tenant, model_name="small")

    def _oldest_event(self) -> None:
        """Removed again by :meth:`_checkpoint`, so that its digest need only be one that the next event can follow."""
        AuditEvent.objects.create(
            tenant=self.tenant, sequence=1, at=datetime.now(UTC) - timedelta(days=9), actor_label="tests",
            action=Action.TENANT_CHANGED, changes={}, previous_digest=bytes(32), digest=bytes(32),
        )  # fmt: skip

    def _checkpoint(self, actor: Actor) -> None:
        key, before = new_id(), datetime.now(UTC) - timedelta(days=2)
        with connection.cursor() as cursor:
            cursor.execute("SELECT pointsman_remove_audit_events(%s, %s, %s, 9)", [key, self.tenant.pk, before])
        record_removal(actor, AuditCheckpoint.objects.get(pk=key))
