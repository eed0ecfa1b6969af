"""Thresholds of budgets: one alert for each crossing, told to whom it concerns."""

from datetime import datetime, timedelta
from decimal import Decimal

import pytest

from billing.alerts.budgets import raise_budget_alerts
from billing.models import Alert, AlertDelivery, AlertRule, BudgetPeriod
from tenants.models import Tenant

from .conftest import NOW, make_budget, make_channel, make_period

pytestmark = pytest.mark.django_db


def spend(period: BudgetPeriod, amount: object) -> None:
    BudgetPeriod.objects.filter(pk=period.pk).update(spent=Decimal(str(amount)))


def thresholds(**filters: object) -> list[int]:
    return sorted(alert.facts["threshold"] for alert in Alert.objects.filter(**filters))


def told(event: str = "opened") -> list[tuple[str, int]]:
    deliveries = AlertDelivery.objects.filter(event=event).select_related("alert", "channel").order_by("id")
    return [(delivery.channel.name, delivery.alert.facts["threshold"]) for delivery in deliveries]


def test_each_threshold_is_told_once(tenant: Tenant) -> None:
    make_channel(tenant)
    period = make_period(make_budget(tenant, thresholds=[50, 80, 100]), "49.999999999999")
    assert raise_budget_alerts(NOW) == {"opened": 0, "messages": 0, "resolved": 0}
    for spent, passed in ((50, [50]), (79, [50]), (81, [50, 80]), (100, [50, 80, 100]), (140, [50, 80, 100])):
        spend(period, spent)
        raise_budget_alerts(NOW)
        raise_budget_alerts(NOW)
        assert thresholds() == passed
    assert told() == [("hook", 50), ("hook", 80), ("hook", 100)]
    period.refresh_from_db()
    assert period.alerted == 100


def test_of_several_passed_at_once_all_are_recorded_and_the_highest_is_told(tenant: Tenant) -> None:
    make_channel(tenant, "hook")
    make_channel(tenant, "mail", kind="email", address="ops@example.com")
    make_period(make_budget(tenant), "92.5")
    assert raise_budget_alerts(NOW) == {"opened": 4, "messages": 2, "resolved": 0}
    assert thresholds() == [50, 75, 80, 90]
    assert sorted(told()) == [("hook", 90), ("mail", 90)]


def test_an_alert_is_over_when_its_period_is(tenant: Tenant) -> None:
    period = make_period(make_budget(tenant, thresholds=[80]), 85)
    raise_budget_alerts(NOW)
    assert raise_budget_alerts(period.ends_at - timedelta(seconds=1))["resolved"] == 0
    assert raise_budget_alerts(period.ends_at) == {"opened": 0, "messages": 0, "resolved": 1}
    assert Alert.objects.get().resolved_at == period.ends_at


def test_the_next_period_is_told_again(tenant: Tenant) -> None:
    budget = make_budget(tenant, thresholds=[80])
    first = make_period(budget, 85)
    raise_budget_alerts(NOW)
    make_period(budget, 90, starts_at=first.ends_at, ends_at=first.ends_at + timedelta(days=31))
    assert raise_budget_alerts(first.ends_at + timedelta(hours=1)) == {"opened": 1, "messages": 0, "resolved": 1}


def test_a_late_line_may_pass_a_threshold_until_a_day_after_the_period(tenant: Tenant) -> None:
    period = make_period(make_budget(tenant, thresholds=[80]), 85)
    assert raise_budget_alerts(period.ends_at + timedelta(hours=25))["opened"] == 0
    assert raise_budget_alerts(period.ends_at + timedelta(hours=1))["opened"] == 1
    assert raise_budget_alerts(period.ends_at + timedelta(hours=2)) == {"opened": 0, "messages": 0, "resolved": 1}


def test_a_raised_cap_resolves_and_may_be_passed_again(tenant: Tenant) -> None:
    budget = make_budget(tenant, thresholds=[50, 80])
    period = make_period(budget, 85)
    raise_budget_alerts(NOW)
    budget.cap = 150
    budget.save()
    assert raise_budget_alerts(NOW) == {"opened": 0, "messages": 0, "resolved": 1}
    assert thresholds(resolved_at=None) == [50]
    spend(period, 130)
    assert raise_budget_alerts(NOW)["opened"] == 1
    assert raise_budget_alerts(NOW)["opened"] == 0
    assert thresholds() == [50, 80, 80]


@pytest.mark.parametrize("change", ["disable", "delete"])
def test_an_alert_of_a_budget_that_is_gone_is_over(tenant: Tenant, change: str) -> None:
    budget = make_budget(tenant, thresholds=[80])
    make_period(budget, 85)
    raise_budget_alerts(NOW)
    if change == "delete":
        budget.delete()
    else:
        budget.enabled = False
        budget.save()
    assert raise_budget_alerts(NOW) == {"opened": 0, "messages": 0, "resolved": 1}


def test_a_budget_that_is_switched_off_raises_nothing(tenant: Tenant) -> None:
    make_period(make_budget(tenant, enabled=False), 100)
    assert raise_budget_alerts(NOW)["opened"] == 0


def test_a_cap_of_nothing_is_passed_by_the_first_spending_only(tenant: Tenant) -> None:
    period = make_period(make_budget(tenant, cap=0, hard=False, thresholds=[100]), 0)
    assert raise_budget_alerts(NOW)["opened"] == 0
    spend(period, "0.000000000001")
    assert raise_budget_alerts(NOW)["opened"] == 1
    assert Alert.objects.get().facts["percent"] is None


def test_each_subject_passes_by_itself(tenant: Tenant) -> None:
    budget = make_budget(tenant, scope="user", subject="*", thresholds=[80], metric="tokens", cap=1_000_000)
    make_period(budget, 10, subject="bob")
    make_period(budget, 1_200_000, subject="alice")
    raise_budget_alerts(NOW)
    alert = Alert.objects.get()
    assert alert.facts["subject"] == "alice"
    assert alert.message == (
        'Budget "ci-month" of alice has passed 80 %: 1,200,000 of 1,000,000 tokens since 2026-11-01 00:00 UTC; '
        "what goes beyond the cap is refused."
    )


@pytest.mark.parametrize(
    ("cap", "spent", "said", "percent"),
    [
        ("0.00002", "0.000019", "0.000019 of 0.00002 USD", "95.00"),
        ("0.00002", "0.0000199999", "0.00001999 of 0.00002 USD", "99.99"),
        ("100", "99.999", "99.99 of 100.00 USD", "99.99"),
        ("5000", "4750.5", "4,750.50 of 5,000.00 USD", "95.01"),
        ("2.5", "2.4", "2.40 of 2.50 USD", "96.00"),
    ],
)
def test_an_amount_is_never_told_as_more_than_it_is(
    tenant: Tenant, cap: str, spent: str, said: str, percent: str
) -> None:
    make_period(make_budget(tenant, cap=Decimal(cap), thresholds=[95]), spent)
    raise_budget_alerts(NOW)
    alert = Alert.objects.get()
    assert f"has passed 95 %: {said} since" in alert.message
    assert alert.facts["percent"] == percent


def test_an_alert_says_when_its_period_starts_over(tenant: Tenant) -> None:
    period = make_period(make_budget(tenant, thresholds=[80]), 85)
    raise_budget_alerts(NOW)
    facts = Alert.objects.get().facts
    assert facts["resets_at"] == facts["ends_at"] == period.ends_at.isoformat()
    assert (facts["period"], facts["rolling_s"]) == ("month", None)


class TestRolling:
    """An hour, in slices of ten minutes."""

    @pytest.fixture
    def budget(self, tenant: Tenant):
        return make_budget(tenant, period="rolling", rolling_s=3600, thresholds=[80])

    def slice(self, budget, starts_at: datetime, spent: int) -> BudgetPeriod:
        return make_period(budget, spent, starts_at=starts_at, ends_at=starts_at + timedelta(minutes=10))

    def test_the_slices_of_a_window_count_together(self, budget) -> None:
        self.slice(budget, NOW - timedelta(minutes=80), 90)  # has left the window
        self.slice(budget, NOW - timedelta(minutes=50), 45)
        assert raise_budget_alerts(NOW)["opened"] == 0
        newest = self.slice(budget, NOW, 35)
        assert raise_budget_alerts(NOW)["opened"] == 1
        alert = Alert.objects.get()
        assert (alert.budget_period, Decimal(alert.facts["spent"])) == (newest, 80)

    def test_the_window_is_told_and_not_its_slices(self, budget) -> None:
        self.slice(budget, NOW - timedelta(minutes=60), 0)
        self.slice(budget, NOW - timedelta(minutes=50), 45)
        self.slice(budget, NOW, 35)
        raise_budget_alerts(NOW)
        alert = Alert.objects.get()
        assert "has passed 80 %: 80.00 of 100.00 USD within 1 hour; " in alert.message
        assert (alert.facts["period"], alert.facts["rolling_s"]) == ("rolling", 3600)
        assert alert.facts["starts_at"] == (NOW - timedelta(hours=1)).isoformat()
        assert alert.facts["ends_at"] == NOW.isoformat()
        assert alert.facts["resets_at"] == (NOW + timedelta(minutes=20)).isoformat()

    def test_a_window_that_falls_and_rises_is_not_told_each_time(self, budget) -> None:
        self.slice(budget, NOW - timedelta(minutes=50), 45)
        self.slice(budget, NOW, 35)
        raise_budget_alerts(NOW)
        fallen = NOW + timedelta(minutes=25)
        assert raise_budget_alerts(fallen) == {"opened": 0, "messages": 0, "resolved": 0}
        self.slice(budget, fallen, 60)
        assert raise_budget_alerts(fallen) == {"opened": 0, "messages": 0, "resolved": 0}

    def test_it_stays_open_while_the_window_is_full_and_ends_after_that(self, budget) -> None:
        self.slice(budget, NOW, 85)
        raise_budget_alerts(NOW)
        later = NOW + timedelta(minutes=55)
        self.slice(budget, later, 90)
        assert raise_budget_alerts(NOW + timedelta(minutes=75)) == {"opened": 0, "messages": 0, "resolved": 0}
        over = later + timedelta(minutes=70)
        assert raise_budget_alerts(over) == {"opened": 0, "messages": 0, "resolved": 1}
        self.slice(budget, over, 95)
        assert raise_budget_alerts(over)["opened"] == 1

    def test_a_raised_cap_resolves_and_may_be_passed_again(self, budget) -> None:
        self.slice(budget, NOW - timedelta(minutes=30), 30)
        newest = self.slice(budget, NOW, 55)
        raise_budget_alerts(NOW)
        budget.cap = 200
        budget.save()
        assert raise_budget_alerts(NOW)["resolved"] == 1
        spend(newest, 140)
        assert raise_budget_alerts(NOW)["opened"] == 1


class TestRules:
    def rule(self, budget, *channels, **values) -> AlertRule:
        facts = {"tenant": budget.tenant, "name": f"rule-{AlertRule.objects.count()}", "kind": "budget"}
        rule = AlertRule.objects.create(budget=budget, **(facts | values))
        rule.channels.set(channels)
        return rule

    def test_a_budget_with_a_rule_tells_its_channels_only(self, tenant: Tenant) -> None:
        make_channel(tenant, "hook")
        mail = make_channel(tenant, "mail", kind="email", address="ops@example.com")
        budget = make_budget(tenant)
        rule = self.rule(budget, mail)
        make_period(budget, 80)
        raise_budget_alerts(NOW)
        assert told() == [("mail", 80)]
        assert Alert.objects.get(facts__threshold=80).rule == rule

    def test_a_rule_for_one_threshold_hears_of_that_one(self, tenant: Tenant) -> None:
        mail = make_channel(tenant, "mail", kind="email", address="ops@example.com")
        chat = make_channel(tenant, "chat", kind="slack")
        budget = make_budget(tenant, thresholds=[50, 100])
        self.rule(budget, mail, threshold=Decimal(85))
        self.rule(budget, chat)
        make_period(budget, 100)
        raise_budget_alerts(NOW)
        assert thresholds() == [50, 85, 100]
        assert sorted(told()) == [("chat", 100), ("mail", 85)]

    def test_a_rule_without_channels_tells_all_of_its_tenant(self, tenant: Tenant, other_tenant: Tenant) -> None:
        make_channel(tenant, "hook")
        make_channel(tenant, "off", enabled=False)
        make_channel(other_tenant, "theirs")
        make_channel(None, "operators")
        budget = make_budget(tenant, thresholds=[80])
        self.rule(budget)
        make_period(budget, 80)
        raise_budget_alerts(NOW)
        assert told() == [("hook", 80)]

    def test_a_rule_that_is_switched_off_silences_its_budget(self, tenant: Tenant) -> None:
        make_channel(tenant)
        budget = make_budget(tenant, thresholds=[80])
        self.rule(budget, enabled=False)
        make_period(budget, 80)
        assert raise_budget_alerts(NOW) == {"opened": 1, "messages": 0, "resolved": 0}

    def test_the_channels_of_another_tenant_hear_nothing(self, tenant: Tenant, other_tenant: Tenant) -> None:
        budget = make_budget(tenant, thresholds=[80])
        self.rule(budget, make_channel(other_tenant, "theirs"))
        make_period(budget, 80)
        assert raise_budget_alerts(NOW) == {"opened": 1, "messages": 0, "resolved": 0}

    def test_the_installations_budgets_are_told_to_the_operators(self, tenant: Tenant) -> None:
        make_channel(tenant, "hook")
        make_channel(None, "operators")
        make_period(make_budget(None, thresholds=[80]), 80)
        raise_budget_alerts(NOW)
        assert told() == [("operators", 80)]
