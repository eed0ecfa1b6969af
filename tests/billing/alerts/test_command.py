"""``manage.py send_alerts``."""

from io import StringIO

import pytest
from django.core.management import call_command
from django.utils import timezone

from audit.models import JobRun
from tenants.models import Tenant

from .conftest import Endpoint, make_budget, make_channel, make_period

pytestmark = pytest.mark.django_db


def test_it_finds_and_sends_and_is_on_record(tenant: Tenant, endpoint: Endpoint) -> None:
    make_channel(tenant, address=endpoint.url())
    make_period(make_budget(tenant, thresholds=[80]), 85, starts_at=timezone.now(), ends_at=None)
    out = StringIO()
    call_command("send_alerts", stdout=out)
    assert out.getvalue().splitlines() == [
        "budget_alerts: 1 opened, 1 messages, 0 resolved",
        "alert_rules: 0 rules, 0 opened, 0 resolved, 0 failed",
        "deliver_alerts: 1 sent, 0 retried, 0 failed",
    ]
    assert len(endpoint.received) == 1
    assert set(JobRun.objects.values_list("job", "outcome", "started_by")) == {
        (job, "done", "manage.py send_alerts") for job in ("budget_alerts", "alert_rules", "deliver_alerts")
    }
