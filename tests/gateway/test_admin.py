"""The operators' pages as a whole, and those of providers, models and requests."""

import re
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from django.apps import apps
from django.contrib import admin
from django.db import connection
from django.db.models import Model as AnyModel
from django.test import Client
from django.test.utils import CaptureQueriesContext
from django.urls import reverse

from audit.models import AuditCheckpoint, AuditEvent, JobRun
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
    RollupMark,
    Subscription,
    UsageHour,
    UsageHourTag,
    UsageHourUser,
    UsageReport,
)
from gateway import provider_check
from gateway.admin import providers
from gateway.models import Alias, Deployment, Model, Provider, ProviderKey, RequestContent, RequestLog
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

PROJECT_APPS = ("tenants", "gateway", "routing", "guardrails", "billing", "audit")
PARTS = {Deployment, BudgetPeriod, RollupMark}  # on the page of what they are a part of, or nobody's
THE_DATABASES = {AuditCheckpoint}  # rows that only a function of the database may write
PROJECT_MODELS = [
    model for app in PROJECT_APPS for model in apps.get_app_config(app).get_models() if model not in PARTS
]
VENDOR_SECRET = "sk-canary-vendor-0123456789"
SIGNING_SECRET = "whsec-canary-signing-0123456789"
PASSWORD = "correct horse battery"
INLINE_STYLE = re.compile(r"<[^>]+\sstyle=")
INLINE_SCRIPT = re.compile(r"<script(?![^>]*\ssrc=)[^>]*>")
INLINE_HANDLER = re.compile(r"<[^>]+\son[a-z]+=")


@pytest.fixture
def world(provider: Provider, model: Model, token: ApiToken, operator: User, actor: Actor) -> dict[type, Any]:
    """One row of every kind, by its class."""
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
            request_id=asked.pk, tenant=token.tenant, ciphertext=b"canary-ciphertext", master_key_number=1
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
    sealed = {"ciphertext": b"canary-ciphertext", "master_key_number": 1}
    experiment = Experiment.objects.create(tenant=tenant, name="e", arms=["small", "large"], status="ended")
    banked = BankedConversation.objects.create(
        tenant=tenant, project_id=token.project_id, request_id=request_id, model_name="small", score=0.5,
        **cell, **sealed,
    )  # fmt: skip
    columns = {name: [0.5] for name in ("mean", "sd", "cost", "penalty", "propensity")}
    return [
        RoutingSettings.objects.create(tenant=tenant, rules=[{"rule": "cheapest", "keep": 4}]),
        StrategyChoice.objects.create(tenant=tenant, token=token, strategy="cost"),
        PublishedScore.objects.create(tenant=tenant, vendor_model_pattern="small-*", quality=0.8, source="tests"),
        Decision.objects.create(
            request_id=request_id, tenant=tenant, project_id=token.project_id, token_id=token.pk, strategy="balanced",
            engine="hier", confidence=0.9, vector=b"", input_tokens=9, chosen="small", model_name="small", propensity=1.0,
            candidates={"model": ["small"], **columns}, removed={"large": ["health", "its circuit is open"]},
            reason="small: the only candidate", status=200, latency_ms=400.0, **cell,
        ),
        Label.objects.create(
            tenant=tenant, request_id=request_id, model_name="small", rater="judge", value=0.5, vector=b"", **cell
        ),
        Feedback.objects.create(tenant=tenant, request_id=request_id, rater="ann", value=0.5, comment="fine"),
        JudgeSample.objects.create(request_id=request_id, tenant=tenant, due_at=now, **sealed),
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


def everything(world: dict[type, Any], browser: Client) -> list[str]:
    """Every page of the admin that an operator can open."""
    urls = [reverse("admin:index"), reverse("admin:password_change")]
    urls += [reverse("admin:app_list", args=[app]) for app in ("tenants", "gateway", "routing", "billing", "audit")]
    urls.append(reverse("admin:routing_router", args=[world[Tenant].pk]))
    for model, row in world.items():
        urls += [page(model, "changelist"), page(model, "change", row.pk)]
        if admin.site.get_model_admin(model).has_add_permission(_request_of(browser)):
            urls.append(page(model, "add"))
    return urls


def _request_of(browser: Client) -> Any:
    return browser.get(reverse("admin:index")).wsgi_request


def mutation(action: str) -> AuditEvent:
    return AuditEvent.objects.filter(action=action).latest("at")


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


# --------------------------------------------------------------------------- the site


@pytest.mark.parametrize("kept", PROJECT_MODELS, ids=lambda kept: kept.__name__)
def test_every_model_of_the_project_has_a_page(kept: type[AnyModel]) -> None:
    assert admin.site.is_registered(kept)


def test_the_cast_has_a_row_of_every_model(world: dict[type, Any]) -> None:
    assert set(world) == set(PROJECT_MODELS) - THE_DATABASES


def test_every_page_answers_an_operator(world: dict[type, Any], browser: Client) -> None:
    for url in everything(world, browser):
        assert browser.get(url).status_code == 200, url


def test_every_page_sends_strangers_to_sign_in(world: dict[type, Any], browser: Client) -> None:
    for url in everything(world, browser):
        answer = Client().get(url)
        assert (answer.status_code, answer["location"].split("?")[0]) == (302, "/admin/login/"), url


@pytest.mark.parametrize("flags", [{}, {"is_staff": True}, {"is_superuser": True}])
def test_only_staff_superusers_get_in(client: Client, db: None, flags: dict[str, bool]) -> None:
    client.force_login(User.objects.create_user("bob@example.com", PASSWORD, **flags))
    assert client.get(reverse("admin:index")).status_code == 302


def test_history_leads_to_the_audit_trail_of_the_row(world: dict[type, Any], browser: Client) -> None:
    for model, row in world.items():
        answer = browser.get(page(model, "history", row.pk), follow=True)
        assert answer.status_code == 200
        assert answer.request["QUERY_STRING"] == f"object_id={row.pk}"


def test_every_page_has_a_strict_policy_and_keeps_it(world: dict[type, Any], browser: Client) -> None:
    for url in [*everything(world, browser), reverse("admin:login")]:
        answer = browser.get(url, follow=True)
        policy = answer["content-security-policy"]
        assert "unsafe" not in policy
        assert "default-src 'none'" in policy
        html = answer.content.decode()
        for forbidden in (INLINE_STYLE, INLINE_SCRIPT, INLINE_HANDLER):
            assert not forbidden.search(html), (url, forbidden.search(html))
        assert "<style" not in html, url


def test_no_page_holds_a_secret(world: dict[type, Any], browser: Client, token_text: str, operator: User) -> None:
    operator.set_password(PASSWORD)
    operator.save()
    browser.force_login(operator)
    key = world[ProviderKey]
    secrets = [VENDOR_SECRET, SIGNING_SECRET, token_text, operator.password, "canary-ciphertext"]
    secrets += [bytes(key.ciphertext).hex(), bytes(world[AlertChannel].secret_ciphertext).hex()]
    for url in everything(world, browser):
        html = browser.get(url).content.decode()
        assert not [secret for secret in secrets if secret in html], url


def test_names_are_escaped_wherever_they_are_shown(world: dict[type, Any], browser: Client) -> None:
    evil = "<script>alert(1)</script>"
    RequestLog.objects.update(requested_model=evil, error_code=evil, end_user=evil, tags=[evil], status=500)
    Provider.objects.update(check_message=evil, check_status="failing")
    GatewayProcess.objects.update(label=evil)
    Budget.objects.update(name=evil)
    BudgetPeriod.objects.update(subject=evil)
    AlertChannel.objects.update(name=evil, address=f"https://{evil}")
    AlertRule.objects.update(name=evil, model_name=evil)
    Alert.objects.update(message=evil, facts={evil: evil})
    AlertDelivery.objects.update(last_error=evil, status="failed")
    Plan.objects.update(name=evil, features=[evil])
    JobRun.objects.update(job=evil, error=evil, facts={evil: evil})
    Decision.objects.update(reason=evil, removed={evil: [evil, evil]}, end_user=evil, candidates={})
    Label.objects.update(model_name=evil, rater_name=evil, left_out=evil)
    Feedback.objects.update(rater=evil, comment=evil)
    Experiment.objects.update(name=evil, reason=evil, arms=[evil, "large"])
    Ramp.objects.update(reason=evil, to_model=evil, evidence={"steps": [{evil: evil}]})
    WeightSnapshot.objects.update(by_model={evil: {"mean": 0.5}})
    PublishedScore.objects.update(source=evil)
    DriftWatch.objects.update(model_name=evil, reason=evil, state={evil: evil})
    BankedConversation.objects.update(model_name=evil)
    UsageHourTag.objects.update(tag=evil)
    UsageHourUser.objects.update(end_user=evil)
    for url in everything(world, browser):
        assert evil not in browser.get(url).content.decode(), url


def test_a_get_changes_nothing(world: dict[type, Any], browser: Client) -> None:
    before = AuditEvent.objects.count()
    for model, row in world.items():
        for name in getattr(admin.site.get_model_admin(model), "object_actions", ()):
            assert browser.get(page(model, "do", row.pk, name)).status_code == 405
    assert browser.get(reverse("admin:audit_auditevent_verify")).status_code == 405
    assert AuditEvent.objects.count() == before


def test_row_buttons_demand_a_csrf_token(world: dict[type, Any], operator: User) -> None:
    strict = Client(enforce_csrf_checks=True)
    strict.force_login(operator)
    assert strict.post(page(Provider, "do", world[Provider].pk, "disable")).status_code == 403
    assert Provider.objects.get().enabled


def test_only_offered_actions_can_be_done_to_a_row(world: dict[type, Any], browser: Client) -> None:
    assert browser.post(page(Provider, "do", world[Provider].pk, "delete_selected")).status_code == 404


@pytest.mark.parametrize(
    ("listed", "make"),
    [
        (Provider, lambda world, n: Provider.objects.create(tenant=world[Provider].tenant, name=f"p{n}", kind="openai")),
        (Model, lambda world, n: Model.objects.create(
            tenant=world[Model].tenant, name=f"m{n}", provider=world[Provider], vendor_model="x")),
        (RequestLog, lambda world, n: log_request(world[ApiToken])),
        (ApiToken, lambda world, n: ApiToken.issue(
            tenant=world[ApiToken].tenant, project=world[ApiToken].project, name=f"t{n}", actor=Actor("tests"))),
        (User, lambda world, n: Membership.objects.create(
            tenant=world[ApiToken].tenant, user=User.objects.create_user(f"u{n}@example.com"), role="viewer")),
        (Alias, lambda world, n: Alias.objects.create(
            tenant=world[Alias].tenant, name=f"a{n}", model_name="small")),
        (Budget, lambda world, n: BudgetPeriod.objects.create(
            tenant=world[Budget].tenant, starts_at=datetime(2026, 1, 1, tzinfo=UTC), budget=Budget.objects.create(
                tenant=world[Budget].tenant, name=f"b{n}", scope="token", token=world[ApiToken], metric="usd",
                cap=n, period="total"))),
        (RateLimit, lambda world, n: RateLimit.objects.create(
            tenant=world[Budget].tenant, scope="user", subject=f"u{n}", concurrent=1)),
        (Subscription, lambda world, n: Subscription.objects.create(
            tenant=Tenant.objects.create(slug=f"t{n}"), plan=world[Plan])),
        (AlertRule, lambda world, n: AlertRule.objects.create(
            tenant=world[Budget].tenant, name=f"r{n}", kind="budget", budget=world[Budget]).channels.add(
            world[AlertChannel])),
        (Alert, lambda world, n: Alert.objects.create(
            tenant=world[Budget].tenant, rule=world[AlertRule], kind="budget", occasion=str(n), message="m",
            opened_at=datetime.now(UTC))),
        (AlertDelivery, lambda world, n: AlertDelivery.objects.create(
            tenant=world[Budget].tenant, channel=world[AlertChannel], alert=Alert.objects.create(
                kind="budget", occasion=str(n), message="m", opened_at=datetime.now(UTC)))),
        (UsageHour, lambda world, n: UsageHour.objects.create(
            hour=datetime.now(UTC), tenant_id=Tenant.objects.create(slug=f"t{n}").pk, vendor_model="x",
            purpose="serve")),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)  # fmt: skip
def test_a_list_of_fifty_takes_as_many_queries_as_a_list_of_one(
    world: dict[type, Any], browser: Client, listed: type[AnyModel], make: Callable[[dict[type, Any], int], Any]
) -> None:
    url = page(listed, "changelist")
    browser.get(url)
    with CaptureQueriesContext(connection) as few:
        browser.get(url)
    for number in range(49):
        make(world, number)
    with CaptureQueriesContext(connection) as many:
        assert browser.get(url).status_code == 200
    assert len(many) == len(few)
    assert len(many) <= 15


def test_the_start_page_shows_how_the_day_goes(world: dict[type, Any], browser: Client) -> None:
    log_request(world[ApiToken], status=502, error_code="upstream_unavailable")
    html = browser.get(reverse("admin:index")).content.decode()
    for shown in ("50.0%", "$0.0000", "upstream_unavailable", "chart-requests", "Slowest models"):
        assert shown in html
    assert "The first request" not in html


def test_an_empty_installation_says_how_to_make_the_first_request(browser: Client) -> None:
    html = browser.get(reverse("admin:index")).content.decode()
    assert "The first request" in html
    assert "/v1/chat/completions" in html


def test_suggestions_name_the_tenant(world: dict[type, Any], browser: Client) -> None:
    query = {"app_label": "tenants", "model_name": "apitoken", "field_name": "project", "term": "web"}
    answer = browser.get(reverse("admin:autocomplete"), query)
    assert [found["text"] for found in answer.json()["results"]] == ["acme / web"]


def test_background_runs_are_filtered_by_job_and_outcome(browser: Client) -> None:
    now = datetime.now(UTC)
    for job in ("rollup", "reap"):
        for outcome in ("done", "failed"):
            JobRun.objects.create(job=job, started_at=now, ended_at=now, outcome=outcome, facts={"hours": 3}, error="x")
    answer = browser.get(page(JobRun, "changelist"), {"job": "reap", "outcome__exact": "failed"})
    assert [(run.job, run.outcome) for run in answer.context["cl"].result_list] == [("reap", "failed")]
    assert "hours: 3" in answer.content.decode()


@pytest.mark.parametrize("written", ["add", "change", "delete"])
def test_nobody_writes_background_runs_by_hand(browser: Client, written: str) -> None:
    run = JobRun.objects.create(job="rollup", started_at=datetime.now(UTC))
    args = [] if written == "add" else [run.pk]
    assert browser.post(page(JobRun, written, *args), {"post": "yes"}).status_code == 403


# --------------------------------------------------------------------------- providers


def test_a_provider_is_added_with_its_key(browser: Client, tenant: Any) -> None:
    values = {
        "tenant": tenant.pk, "name": "openai", "kind": "openai", "key": VENDOR_SECRET, "enabled": "on",
        "on_disconnect": "cancel", "weight": "1", "first_token": "12.5",
    }  # fmt: skip
    assert browser.post(page(Provider, "add"), values).status_code == 302
    provider = Provider.objects.get(name="openai")
    assert provider.active_key().reveal() == VENDOR_SECRET
    assert provider.deadlines == {"first_token": 12.5}
    created = mutation("provider.created")
    assert (created.actor_label, created.client_ip) == ("olga@example.com", "127.0.0.1")
    assert VENDOR_SECRET not in str(list(AuditEvent.objects.values()))


def test_a_new_address_revokes_the_key(browser: Client, world: dict[type, Any]) -> None:
    url = page(Provider, "change", world[Provider].pk)
    values = form_values(browser.get(url)) | {"base_url": "https://other.example/v1"}
    answer = browser.post(url, values, follow=True)
    assert "so it was revoked" in answer.content.decode()
    assert world[Provider].active_key() is None
    assert mutation("provider.changed").changes == {"base_url": ["https://lab.example/v1", "https://other.example/v1"]}


def test_a_forbidden_address_is_refused_with_a_reason(browser: Client, world: dict[type, Any]) -> None:
    url = page(Provider, "change", world[Provider].pk)
    answer = browser.post(url, form_values(browser.get(url)) | {"base_url": "http://169.254.169.254/"})
    assert answer.context["adminform"].form.errors["base_url"]
    assert Provider.objects.get().base_url == "https://lab.example/v1"


def test_a_key_that_cannot_travel_in_a_header_is_refused(browser: Client, world: dict[type, Any]) -> None:
    url = page(Provider, "change", world[Provider].pk)
    answer = browser.post(url, form_values(browser.get(url)) | {"key": "sk with spaces"})
    assert answer.context["adminform"].form.errors["key"]


def test_two_providers_of_a_tenant_cannot_share_a_name(browser: Client, world: dict[type, Any]) -> None:
    Provider.objects.create(tenant=world[Provider].tenant, name="second", kind="openai")
    url = page(Provider, "change", world[Provider].pk)
    answer = browser.post(url, form_values(browser.get(url)) | {"name": "second"})
    assert answer.status_code == 200
    assert answer.context["adminform"].form.errors


def test_saving_unchanged_leaves_no_trace(browser: Client, world: dict[type, Any]) -> None:
    before = AuditEvent.objects.count()
    changeable = (Provider, Model, Alias, Budget, RateLimit, Plan, Subscription, AlertChannel, AlertRule)
    for model in (*changeable, RoutingSettings, StrategyChoice, PublishedScore, Ramp):
        url = page(model, "change", world[model].pk)
        assert browser.post(url, form_values(browser.get(url))).status_code == 302
    assert AuditEvent.objects.count() == before


def test_revoking_a_key_and_disabling_are_audited(browser: Client, world: dict[type, Any]) -> None:
    for action in ("revoke_key", "disable"):
        assert browser.post(page(Provider, "do", world[Provider].pk, action)).status_code == 302
    assert world[Provider].active_key() is None
    assert not Provider.objects.get().enabled
    assert mutation("provider_key.revoked")
    assert mutation("provider.changed").changes == {"enabled": [True, False]}


def test_checking_a_provider_says_what_was_found(
    browser: Client, world: dict[type, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The check itself is tested where it lives; here only what the page makes of its result."""
    found = [
        provider_check.ProviderCheck("lab", True, "answer", "ok", latency_ms=312.0),
        provider_check.ProviderCheck("lab", False, "credentials", "The key is refused."),
    ]
    monkeypatch.setattr(providers, "check_provider", lambda provider: found.pop(0))
    url = page(Provider, "do", world[Provider].pk, "check_now")
    assert "Lab answered in 312 ms." in browser.post(url, follow=True).content.decode()
    assert "Lab failed at credentials: The key is refused." in browser.post(url, follow=True).content.decode()


def test_a_check_asks_the_vendor_for_real(browser: Client, tenant: Any) -> None:
    """Port 1 of loopback refuses at once."""
    away = Provider.objects.create(
        tenant=tenant, name="away", kind="openai-compatible", base_url="http://127.0.0.1:1/v1"
    )
    Model.objects.create(tenant=tenant, name="x", provider=away, vendor_model="x")
    answer = browser.post(page(Provider, "do", away.pk, "check_now"), follow=True)
    assert "Away failed at connect" in answer.content.decode()
    away.refresh_from_db()
    assert away.check_status == "failing"


def test_a_failing_audit_trail_rolls_every_change_back(
    browser: Client, world: dict[type, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no audit row, no act")

    provider, model, alias = world[Provider], world[Model], world[Alias]
    change = page(Provider, "change", provider.pk)
    values = form_values(browser.get(change)) | {"name": "renamed"}
    monkeypatch.setattr(AuditEvent, "save", refuse)
    for url, data in (
        (change, values),
        (page(Provider, "do", provider.pk, "disable"), {}),
        (page(Provider, "do", provider.pk, "revoke_key"), {}),
        (page(Model, "do", model.pk, "disable"), {}),
        (page(Alias, "delete", alias.pk), {"post": "yes"}),
        (page(Alias, "changelist"), {"action": "delete_selected", "_selected_action": [alias.pk], "post": "yes"}),
    ):
        with pytest.raises(RuntimeError, match="no audit row"):
            browser.post(url, data)
    stored = Provider.objects.get()
    assert (stored.name, stored.enabled, stored.active_key() is None) == ("lab", True, False)
    assert Model.objects.get().enabled
    assert Alias.objects.exists()


# --------------------------------------------------------------------------- models


def model_values(world: dict[type, Any], **changes: Any) -> dict[str, Any]:
    return {
        "tenant": world[Provider].tenant_id, "name": "large", "provider": world[Provider].pk, "vendor_model": "large-1",
        "enabled": "on", "modality": "chat", "balancing": "ordered",
    } | changes  # fmt: skip


def test_fallbacks_keep_their_order_and_must_exist(browser: Client, world: dict[type, Any]) -> None:
    refused = browser.post(page(Model, "add"), model_values(world, fallbacks="small\nnobody"))
    assert refused.context["adminform"].form.errors == {"fallbacks": ["There is no model nobody."]}
    values = model_values(world, fallbacks="small\n\nauto\nsmall\n", capabilities=["tools", "vision"])
    assert browser.post(page(Model, "add"), values).status_code == 302
    added = Model.objects.get(name="large")
    assert added.fallbacks == ["small", "auto"]
    assert added.capabilities == ["tools", "vision"]


def test_a_model_is_not_its_own_fallback(browser: Client, world: dict[type, Any]) -> None:
    answer = browser.post(page(Model, "add"), model_values(world, fallbacks="large"))
    assert answer.context["adminform"].form.errors == {"fallbacks": ["A model cannot be its own fallback."]}


def test_a_deployment_is_added_on_its_models_page_and_audited(browser: Client, world: dict[type, Any]) -> None:
    model, url = world[Model], page(Model, "change", world[Model].pk)
    inline = {"TOTAL_FORMS": 1, "0-model": model.pk, "0-provider": model.provider.pk}
    inline |= {"0-vendor_model": "small-2", "0-weight": 3, "0-position": 0}
    added_inline = {f"deployments-{name}": value for name, value in inline.items()}
    answer = browser.post(url, form_values(browser.get(url)) | added_inline)
    assert answer.status_code == 302, answer.context["errors"]
    added = model.deployments.get()
    assert (added.vendor_model, added.weight, added.tenant) == ("small-2", 3, model.tenant)
    assert AuditEvent.objects.filter(action="deployment.created", tenant=model.tenant).exists()


def test_another_tenants_provider_is_refused(browser: Client, world: dict[type, Any], other_tenant: Any) -> None:
    answer = browser.post(page(Model, "add"), model_values(world, tenant=other_tenant.pk))
    assert answer.context["adminform"].form.errors["provider"]


def test_lists_and_pages_show_the_price_in_force_and_where_it_comes_from(
    browser: Client, world: dict[type, Any]
) -> None:
    unpriced = Model.objects.create(
        tenant=world[Model].tenant, name="mystery", provider=world[Provider], vendor_model="nobody-knows"
    )
    listed = browser.get(page(Model, "changelist")).content.decode()
    assert "0.15 / 0.6" in listed
    assert "no price" in listed
    assert "operator, since" in browser.get(page(Model, "change", world[Model].pk)).content.decode()
    assert "Set price" in browser.get(page(Model, "change", unpriced.pk)).content.decode()


def test_what_has_a_history_cannot_be_deleted(browser: Client, world: dict[type, Any]) -> None:
    for model in (Provider, Model):
        assert browser.post(page(model, "delete", world[model].pk), {"post": "yes"}).status_code == 403
    unused = Model.objects.create(tenant=world[Model].tenant, name="unused", provider=world[Provider], vendor_model="x")
    assert browser.post(page(Model, "delete", unused.pk), {"post": "yes"}).status_code == 302
    assert mutation("model.removed").object_id == str(unused.pk)


def test_an_alias_must_lead_to_a_model_of_its_tenant(
    browser: Client, world: dict[type, Any], other_tenant: Any
) -> None:
    values = {"tenant": other_tenant.pk, "name": "best", "model_name": "small"}
    answer = browser.post(page(Alias, "add"), values)
    assert answer.context["adminform"].form.errors == {"model_name": ["umbrella has no model of this name."]}


# --------------------------------------------------------------------------- requests


def test_a_requests_page_tells_its_story(browser: Client, world: dict[type, Any]) -> None:
    asked = log_request(world[ApiToken], fallback_used=True, attempts=2, finish_reason="stop")
    failed = open_attempt(world[ApiToken], world[Model], request_id=asked.pk)
    settle(failed, outcome="failed", error_code="upstream_timeout", cost_usd=None, status_code=504)
    settle(open_attempt(world[ApiToken], world[Model], request_id=asked.pk, purpose="fallback"))
    html = browser.get(page(RequestLog, "change", asked.pk)).content.decode()
    assert html.index("upstream_timeout") < html.index("0.000123") < html.index("finished by stop")
    assert "unpriced" in html


@pytest.mark.parametrize(("outcome", "found"), [("answered", 200), ("failed", 502), ("left", 499)])
def test_requests_are_filtered_by_outcome(browser: Client, token: ApiToken, outcome: str, found: int) -> None:
    for status in (200, 499, 502):
        log_request(token, status=status)
    shown = browser.get(page(RequestLog, "changelist"), {"outcome": outcome}).context["cl"].result_list
    assert [row.status for row in shown] == [found]


def test_a_request_is_found_by_its_identifier_only(browser: Client, token: ApiToken) -> None:
    wanted, _ = log_request(token), log_request(token)
    url = page(RequestLog, "changelist")
    assert list(browser.get(url, {"q": f" {wanted.pk} "}).context["cl"].result_list) == [wanted]
    assert not browser.get(url, {"q": "small"}).context["cl"].result_list


def test_months_and_days_bound_the_identifiers(browser: Client, token: ApiToken) -> None:
    now = datetime.now(UTC)
    older = log_request(token, at=now.replace(year=now.year - 1, day=3, hour=23, minute=59))
    newer = log_request(token)
    url = page(RequestLog, "changelist")
    whole = browser.get(url)
    assert list(whole.context["cl"].result_list) == [newer, older]
    assert len(whole.context["cl"].periods) == 13
    for period in (f"{older.started_at:%Y-%m}", f"{older.started_at:%Y-%m-%d}"):
        narrowed = browser.get(url, {"period": period})
        assert list(narrowed.context["cl"].result_list) == [older]
        assert [shown.selected for shown in narrowed.context["cl"].periods].count(True) == 1
    assert not browser.get(url, {"period": f"{older.started_at:%Y-%m}-04"}).context["cl"].result_list


def test_a_nonsensical_date_is_no_server_error(browser: Client) -> None:
    for period in ("yesterday", "2026-13", "2026-02-30", "0000-01"):
        assert browser.get(page(RequestLog, "changelist"), {"period": period}).status_code == 302


def test_endless_lists_are_not_counted_to_the_end(
    browser: Client, token: ApiToken, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gateway.admin_pages.MOST_COUNTED", 2)
    for _ in range(3):
        log_request(token)
    with CaptureQueriesContext(connection) as queries:
        html = browser.get(page(RequestLog, "changelist")).content.decode()
    assert "more than 2 requests" in html
    counted = [query["sql"] for query in queries if "COUNT(" in query["sql"] and "requestlog" in query["sql"]]
    assert all("LIMIT 2" in sql for sql in counted)
    assert counted
