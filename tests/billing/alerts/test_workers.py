"""Several workers at the same moment, on a database that really commits: everything happens once."""

import threading
from datetime import timedelta

from django.db import connection

from billing.alerts.book import resolve_alert
from billing.alerts.budgets import raise_budget_alerts
from billing.alerts.delivery import deliver_pending
from billing.alerts.rules import evaluate_rules
from billing.models import Alert, AlertChannel, AlertDelivery, AlertRule, BudgetPeriod
from tenants.models import Tenant
from tests.provision import Database

from .conftest import (
    NOW,
    Endpoint,
    at_once,
    make_budget,
    make_channel,
    make_period,
    make_rule,
    open_error_rate,
    until,
)


def test_any_number_of_workers_opens_one_alert_for_each_crossing(real_commits: Database) -> None:
    tenant = Tenant.objects.create(slug="acme")
    make_channel(tenant)
    periods = [make_period(make_budget(tenant, name=f"budget-{n}"), 96) for n in range(3)]
    counts = at_once(lambda: raise_budget_alerts(NOW), workers=6)
    assert sum(count["opened"] for count in counts) == 3 * 5
    opened = Alert.objects.values_list("facts__threshold", flat=True)
    assert sorted(opened) == sorted([50, 75, 80, 90, 95] * 3)
    assert list(AlertDelivery.objects.values_list("alert__facts__threshold", flat=True)) == [95] * 3
    assert set(BudgetPeriod.objects.filter(pk__in=[p.pk for p in periods]).values_list("alerted", flat=True)) == {95}


def test_workers_that_resolve_at_once_tell_it_once(real_commits: Database) -> None:
    tenant = Tenant.objects.create(slug="acme")
    make_channel(tenant)
    period = make_period(make_budget(tenant, thresholds=[80]), 80)
    raise_budget_alerts(NOW)
    AlertDelivery.objects.update(status="sent")
    counts = at_once(lambda: raise_budget_alerts(period.ends_at))
    assert sum(count["resolved"] for count in counts) == 1
    assert AlertDelivery.objects.filter(event="resolved").count() == 1


def test_any_number_of_workers_sends_each_message_once(real_commits: Database, endpoint: Endpoint) -> None:
    tenant = Tenant.objects.create(slug="acme")
    channels = [make_channel(tenant, f"hook-{n}", address=endpoint.url(f"/200/{n}")) for n in range(40)]
    open_error_rate(*channels)
    counts = at_once(lambda: deliver_pending(NOW), workers=4)
    assert sum(count["sent"] for count in counts) == 40
    assert sorted(received.path for received in endpoint.received) == sorted(f"/200/{n}" for n in range(40))
    assert set(AlertDelivery.objects.values_list("status", "tries")) == {("sent", 1)}


def test_an_end_during_the_sending_of_the_beginning_is_told(real_commits: Database, endpoint: Endpoint) -> None:
    channel = make_channel(Tenant.objects.create(slug="acme"), address=endpoint.url("/slow"))
    alert = open_error_rate(channel)

    def work() -> None:
        try:
            deliver_pending(NOW)
        finally:
            connection.close()

    worker = threading.Thread(target=work)
    worker.start()
    until(lambda: bool(endpoint.received))
    assert resolve_alert(alert.pk, NOW)
    AlertChannel.objects.update(address=endpoint.url())
    endpoint.released.set()
    worker.join(30)
    deliver_pending(NOW + timedelta(minutes=5))
    deliver_pending(NOW + timedelta(minutes=10))
    events = AlertDelivery.objects.order_by("id").values_list("event", "status")
    assert list(events) == [("opened", "sent"), ("resolved", "sent")]


def test_any_number_of_workers_opens_and_resolves_once(real_commits: Database) -> None:
    tenant = Tenant.objects.create(slug="acme")
    make_channel(tenant)
    for number in range(3):
        make_rule(tenant, "no_traffic", name=f"quiet-{number}", cooldown_minutes=0)
    opened = at_once(lambda: evaluate_rules(NOW), workers=6)
    assert sum(count["opened"] for count in opened) == 3
    assert AlertDelivery.objects.count() == Alert.objects.count() == 3
    AlertDelivery.objects.update(status="sent")
    AlertRule.objects.update(enabled=False)
    resolved = at_once(lambda: evaluate_rules(NOW), workers=6)
    assert sum(count["resolved"] for count in resolved) == 3
    assert AlertDelivery.objects.filter(event="resolved").count() == 3
