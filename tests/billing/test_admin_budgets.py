"""The operators' pages of budgets, rate limits and plans."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from audit.models import AuditEvent
from billing.models import Budget, BudgetPeriod, Plan, RateLimit, Subscription
from billing.windows import Window
from tenants.models import ApiToken, Tenant
from tests.gateway.test_admin import form_values


def url(model: str, page: str, *args: Any) -> str:
    return reverse(f"admin:billing_{model}_{page}", args=args)


def budget_of(tenant: Tenant | None, **values: Any) -> Budget:
    facts = {"name": "b", "scope": "tenant", "metric": "usd", "cap": Decimal(100)} | values
    return Budget.objects.create(tenant=tenant, **facts)


def spend(budget: Budget, spent: str, held: str = "0", subject: str = "", at: datetime | None = None) -> BudgetPeriod:
    start, end = Window(budget.period, "UTC", budget.rolling_s).period(at or datetime.now(UTC))  # type: ignore[arg-type]
    return BudgetPeriod.objects.create(
        tenant=budget.tenant, budget=budget, subject=subject, starts_at=start, ends_at=end,
        spent=Decimal(spent), held=Decimal(held),
    )  # fmt: skip


def listed(browser: Client, model: str = "budget", **query: Any) -> str:
    return browser.get(url(model, "changelist"), query).content.decode()


def save(browser: Client, model: str, row: Any, **changes: Any) -> Any:
    page = url(model, "change", row.pk)
    return browser.post(page, form_values(browser.get(page)) | changes)


def errors(answer: Any) -> dict[str, list[str]]:
    assert answer.status_code == 200
    return dict(answer.context["adminform"].form.errors)


def add(browser: Client, model: str, **values: Any) -> Any:
    return browser.post(url(model, "add"), values)


# --------------------------------------------------------------------------- budgets


def test_the_list_says_how_much_of_each_budget_is_used(browser: Client, token: ApiToken) -> None:
    spend(budget_of(token.tenant, scope="token", token=token), "40.5", held="10")
    html = listed(browser)
    for shown in ("web / ci", "$100", "month", "hard", 'value="50.50"', "50.5 %", "40.5 spent, 10 held"):
        assert shown in html
    next_month = Window("month").period(datetime.now(UTC))[1]
    assert next_month is not None
    assert f"{next_month:%Y-%m-%d} 00:00:00" in html


def test_what_was_spent_in_an_earlier_period_is_over(browser: Client, tenant: Tenant) -> None:
    spend(budget_of(tenant), "99", at=datetime.now(UTC) - timedelta(days=40))
    assert "0.0 %" in listed(browser)


def test_a_rolling_window_adds_up_its_slices(browser: Client, tenant: Tenant) -> None:
    budget = budget_of(tenant, period="rolling", rolling_s=86_400, metric="tokens", hard=False)
    now = datetime.now(UTC)
    for hours, spent in ((0, "10"), (5, "20"), (23, "3"), (25, "50")):
        spend(budget, spent, at=now - timedelta(hours=hours))
    html = listed(browser)
    for shown in ("100 tokens", "last 24 hours", "soft", "33.0 %", "bit by bit"):
        assert shown in html


def test_of_a_budget_that_each_has_by_itself_the_fullest_is_shown(browser: Client, tenant: Tenant) -> None:
    budget = budget_of(tenant, scope="user", subject="*")
    for subject, spent in (("alice", "10"), ("bob", "70"), ("carol", "20")):
        spend(budget, spent, subject=subject)
    html = listed(browser)
    assert "each by itself" in html
    assert "70.0 %" in html
    assert "bob" in html
    assert "alice" not in html


def test_a_cap_of_nothing_divides_nothing(browser: Client, tenant: Tenant) -> None:
    spend(budget_of(tenant, cap=0), "0")
    assert "nothing allowed" in listed(browser)


def test_a_budgets_page_shows_its_newest_periods(browser: Client, tenant: Tenant) -> None:
    budget = budget_of(tenant, period="hour")
    now = datetime.now(UTC)
    for hours in range(25):
        spend(budget, str(hours), at=now - timedelta(hours=hours))
    html = browser.get(url("budget", "change", budget.pk)).content.decode()
    assert "$19" in html
    assert "$20" not in html


def test_a_budget_is_made_and_audited(browser: Client, token: ApiToken) -> None:
    answer = add(
        browser, "budget", tenant=token.tenant.pk, name="ci", scope="token", token=token.pk, metric="usd", cap="12.5",
        period="month", hard="on", thresholds="100,50,50", enabled="on",
    )  # fmt: skip
    assert answer.status_code == 302
    budget = Budget.objects.get()
    assert (budget.token, budget.cap, budget.thresholds) == (token, Decimal("12.5"), [50, 100])
    assert AuditEvent.objects.get(action="budget.created").tenant == token.tenant


def test_another_cap_changes_the_row_and_nothing_else(browser: Client, tenant: Tenant) -> None:
    budget = budget_of(tenant)
    spend(budget, "40")
    assert save(browser, "budget", budget, cap="250", scope="key", subject="x", period="day").status_code == 302
    budget.refresh_from_db()
    assert (budget.cap, budget.scope, budget.period) == (Decimal(250), "tenant", "month")
    assert budget.periods.get().spent == 40
    assert list(AuditEvent.objects.get(action="budget.changed").changes) == ["cap"]


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"scope": "installation"}, "tenant"),
        ({"scope": "project"}, "project"),
        ({"scope": "user"}, "subject"),
        ({"period": "rolling"}, "__all__"),
        ({"rolling_s": "3600"}, "__all__"),
        ({"period": "rolling", "rolling_s": "5"}, "rolling_s"),
        ({"cap": "-1"}, "cap"),
        ({"metric": "tokens", "cap": "1.5"}, "cap"),
        ({"thresholds": "0,50"}, "thresholds"),
        ({"name": "quota-tokens"}, "name"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused_in_the_form(
    browser: Client, tenant: Tenant, changes: dict[str, str], field: str
) -> None:
    sound = {
        "tenant": tenant.pk, "name": "b", "scope": "tenant", "metric": "usd", "cap": "1", "period": "month",
        "thresholds": "50",
    }  # fmt: skip
    assert field in errors(add(browser, "budget", **(sound | changes)))
    assert not Budget.objects.exists()


def test_another_tenants_token_is_refused(browser: Client, token: ApiToken, other_tenant: Tenant) -> None:
    answer = add(
        browser, "budget", tenant=other_tenant.pk, name="b", scope="token", token=token.pk, metric="usd", cap="1",
        period="month", thresholds="50",
    )  # fmt: skip
    assert errors(answer) == {"token": ["This token belongs to another tenant."]}


def test_what_was_counted_is_switched_off_rather_than_deleted(browser: Client, tenant: Tenant) -> None:
    used, unused = budget_of(tenant), budget_of(tenant, name="unused")
    spend(used, "1")
    assert browser.post(url("budget", "delete", used.pk), {"post": "yes"}).status_code == 403
    assert browser.post(url("budget", "delete", unused.pk), {"post": "yes"}).status_code == 302
    browser.post(url("budget", "do", used.pk, "disable"))
    assert list(Budget.objects.values_list("name", "enabled")) == [("b", False)]
    acts = set(AuditEvent.objects.values_list("action", flat=True))
    assert acts == {"budget.removed", "budget.changed"}


# --------------------------------------------------------------------------- rate limits


def test_a_limit_is_made_changed_and_removed_on_record(browser: Client, tenant: Tenant) -> None:
    values = {"tenant": tenant.pk, "scope": "user", "subject": "*", "requests_per_minute": "60"}
    assert add(browser, "ratelimit", **values).status_code == 302
    limit = RateLimit.objects.get()
    assert save(browser, "ratelimit", limit, concurrent="4", subject="someone").status_code == 302
    limit.refresh_from_db()
    assert (limit.subject, limit.requests_per_minute, limit.concurrent) == ("*", 60, 4)
    assert browser.post(url("ratelimit", "delete", limit.pk), {"post": "yes"}).status_code == 302
    assert list(AuditEvent.objects.order_by("sequence").values_list("action", flat=True)) == [
        "rate_limit.created", "rate_limit.changed", "rate_limit.removed",
    ]  # fmt: skip


def test_a_second_limit_of_the_same_scope_is_refused(browser: Client, tenant: Tenant) -> None:
    RateLimit.objects.create(tenant=tenant, scope="tenant", concurrent=5)
    assert errors(add(browser, "ratelimit", tenant=tenant.pk, scope="tenant", concurrent="6"))


def test_a_limit_of_nothing_is_refused(browser: Client, tenant: Tenant) -> None:
    answer = add(browser, "ratelimit", tenant=tenant.pk, scope="tenant", concurrent="0")
    assert list(errors(answer)) == ["concurrent"]


# --------------------------------------------------------------------------- plans


@pytest.fixture
def subscription(tenant: Tenant) -> Subscription:
    plan = Plan.objects.create(name="team", monthly_requests=1000)
    return Subscription.objects.create(tenant=tenant, plan=plan, overrides={"monthly_tokens": 500})


def quotas() -> dict[str, tuple[Decimal, bool, bool]]:
    return {q.metric: (q.cap, q.hard, q.enabled) for q in Budget.objects.filter(is_quota=True)}


def test_a_subscription_sets_quotas_and_its_end_lifts_them(browser: Client, tenant: Tenant) -> None:
    plan = Plan.objects.create(name="team", monthly_requests=1000)
    values = {"tenant": tenant.pk, "plan": plan.pk, "overrides": '{"monthly_tokens": 500}', "discount_percent": "0"}
    assert add(browser, "subscription", **values).status_code == 302
    assert quotas() == {"requests": (1000, True, True), "tokens": (500, True, True)}
    page = url("subscription", "delete", Subscription.objects.get().pk)
    assert browser.post(page, {"post": "yes"}).status_code == 302
    assert not Subscription.objects.exists()
    assert quotas() == {"requests": (1000, True, False), "tokens": (500, True, False)}
    assert AuditEvent.objects.filter(action="subscription.removed").count() == 1


def test_a_changed_plan_changes_its_tenants_quotas(browser: Client, subscription: Subscription) -> None:
    answer = save(browser, "plan", subscription.plan, monthly_requests="7", overage="on")
    assert answer.status_code == 302
    assert quotas() == {"requests": (7, False, True), "tokens": (500, False, True)}
    assert Plan.objects.get().features is None


def test_a_plan_has_all_features_until_some_are_ticked(browser: Client, subscription: Subscription) -> None:
    plan = subscription.plan
    refused = save(browser, "plan", plan, features=["judge"])
    assert "All features are included while this is off." in str(errors(refused))
    for ticked in (["judge", "replay"], []):
        assert save(browser, "plan", plan, some_features="on", features=ticked).status_code == 302
        assert Plan.objects.get().features == ticked
    assert save(browser, "plan", plan, some_features="").status_code == 302
    assert Plan.objects.get().features is None


def test_a_channel_beyond_the_plan_is_refused_in_the_form(browser: Client, subscription: Subscription) -> None:
    Plan.objects.update(features=["judge"])
    values = {"tenant": subscription.tenant_id, "name": "hook", "kind": "webhook", "address": "https://h.example.com"}
    told = errors(add(browser, "alertchannel", enabled="on", **values))
    assert told == {"kind": ["The plan 'team' does not include the feature 'webhooks'."]}


def test_quotas_and_plan_change_together_or_not_at_all(
    browser: Client, subscription: Subscription, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*args: Any, **kwargs: Any) -> None:
        raise RuntimeError("no audit row, no act")

    page = url("plan", "change", subscription.plan.pk)
    values = form_values(browser.get(page)) | {"monthly_requests": "7"}
    monkeypatch.setattr(AuditEvent, "save", refuse)
    with pytest.raises(RuntimeError, match="no audit row"):
        browser.post(page, values)
    assert Plan.objects.get().monthly_requests == 1000
    assert not Budget.objects.exists()


def test_quotas_are_changed_through_the_plan_only(browser: Client, subscription: Subscription, actor: Any) -> None:
    subscription.sync_quotas(actor)
    quota = Budget.objects.get(metric="tokens")
    assert browser.post(url("budget", "change", quota.pk), {"cap": "9"}).status_code == 403
    browser.post(url("budget", "changelist"), {"action": "disable", "_selected_action": [quota.pk]})
    assert quotas()["tokens"] == (500, True, True)
    assert "by the plan" in listed(browser)


def test_quotas_that_agree_already_are_left_alone(subscription: Subscription, actor: Any) -> None:
    assert len(subscription.sync_quotas(actor)) == 2
    events = AuditEvent.objects.count()
    assert subscription.sync_quotas(actor) == []
    assert AuditEvent.objects.count() == events


@pytest.mark.parametrize(
    "overrides", ['{"seat": 1}', '{"seats": "10"}', '{"overage": "false"}', '{"seats": -1}', "[]", '"x"', "{"]
)
def test_an_override_that_no_plan_has_is_refused(browser: Client, subscription: Subscription, overrides: str) -> None:
    assert list(errors(save(browser, "subscription", subscription, overrides=overrides))) == ["overrides"]


def test_a_plan_that_somebody_is_on_stays(browser: Client, subscription: Subscription) -> None:
    assert browser.post(url("plan", "delete", subscription.plan.pk), {"post": "yes"}).status_code == 403
    html = browser.get(url("subscription", "change", subscription.pk)).content.decode()
    assert "monthly tokens: 500" in html
    assert "seats: no limit" in html
