"""Spend by hours, days, weeks and months as the tenant's calendar has them."""

from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.db import transaction
from pytest_django import DjangoDbBlocker

from audit.record import Actor
from billing.rollups import floor_hour, roll_up
from billing.spend import spend_of
from gateway.models import Model, Provider
from tenants.models import ApiToken, Project, Tenant
from tests.ledger_rows import open_attempt, settle

pytestmark = pytest.mark.django_db
BEGIN = datetime(2026, 10, 20, tzinfo=UTC)
NOON = datetime(2026, 11, 18, 12, tzinfo=UTC)  # a Wednesday
DAY = timedelta(days=1)
MOMENTS = [at for step in range(100) if (at := BEGIN + step * timedelta(hours=7, minutes=13)) < NOON]


@pytest.fixture(scope="module")
def tenant_key(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[Any]:
    """A tenant with a line of each moment, made and rolled up once: every test works in a savepoint of the transaction that holds
    them."""
    with django_db_blocker.unblock(), transaction.atomic():
        tenant = Tenant.objects.create(slug="acme")
        project = Project.objects.create(tenant=tenant, slug="web")
        token, _ = ApiToken.issue(tenant=tenant, project=project, name="ci", actor=Actor("tests"))
        provider = Provider.objects.create(
            tenant=tenant, name="lab", kind="openai-compatible", base_url="https://lab.example/v1"
        )
        model = Model.objects.create(tenant=tenant, name="small", provider=provider, vendor_model="small-1")
        for at in MOMENTS:
            settle(open_attempt(token, model, at=at))
        roll_up(NOON)
        yield tenant.pk
        transaction.set_rollback(True)


@pytest.mark.parametrize("zone", ["UTC", "Europe/Berlin", "America/New_York", "Pacific/Auckland"])
@pytest.mark.parametrize("interval", ["hour", "day", "week", "month"])
def test_intervals_follow_the_tenants_calendar(tenant_key: Any, zone: str, interval: Any) -> None:
    """Over the end of summer time, from days and hours and lines alike."""
    Tenant.objects.filter(pk=tenant_key).update(time_zone=zone)
    tenant = Tenant.objects.get(pk=tenant_key)
    expected: dict[datetime, int] = defaultdict(int)
    for at in MOMENTS:
        local = at.astimezone(ZoneInfo(zone))
        day = local.replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
        start = {
            "hour": floor_hour(at).astimezone(ZoneInfo(zone)),
            "day": day,
            "week": day - day.weekday() * DAY,
            "month": day.replace(day=1),
        }[interval]
        expected[start.astimezone(UTC)] += 1
    found = spend_of(tenant, BEGIN, NOON, interval=interval, now=NOON)
    assert {row.starts_at.astimezone(UTC): row.figures.attempts for row in found.rows if row.starts_at} == expected
