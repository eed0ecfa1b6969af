"""A picture a day of what each router believes, beside what its decisions cost."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import StringIO

import pytest
from django.core.management import call_command

from audit.models import JobRun
from routing.decision import Label
from routing.models import RouterState, RoutingSettings, WeightSnapshot
from routing.routers import new_engine
from routing.snapshots import snapshot_weights
from tenants.models import Tenant
from tests.routing.simulated_traffic import SPACE, Traffic, facts

NOW = datetime.now(UTC).replace(hour=0, minute=7, second=0, microsecond=0)
YESTERDAY = NOW - timedelta(days=1)
VECTOR = SPACE.features("sort a list", "coding", "simple").vector


def kept(tenant: Tenant, engine: str = "hier", labels: int = 3) -> RouterState:
    made = new_engine(facts())
    for _ in range(labels):
        made.learn(Label("old", VECTOR, 0.9, 0.0))
    state = made.to_bytes() if engine == "hier" else b"averages"
    return RouterState.objects.create(tenant=tenant, engine=engine, labels=labels, state=state)


@pytest.fixture
def traffic(tenant: Tenant) -> Traffic:
    made = Traffic(tenant)
    for hour in range(8):  # 4 yesterday, 4 today
        made.decided(NOW + timedelta(hours=hour - 4, minutes=-7), "old", cost_usd=Decimal("0.25"))
    made.decided(YESTERDAY, "new", cost_usd=None)
    made.decided(YESTERDAY, "new", status=502)
    made.write()
    return made


def test_it_has_what_is_believed_and_what_was_spent_that_day(tenant: Tenant, traffic: Traffic) -> None:
    kept(tenant)
    assert snapshot_weights(NOW) == {"taken": 1}
    row = WeightSnapshot.objects.get()
    assert (row.day, row.engine, row.labels) == (YESTERDAY.date(), "hier", 3)
    assert (row.requests, row.cost_usd) == (5, Decimal(1))
    old, new, other = (row.by_model[name] for name in ("old", "new", "other"))
    assert (old["requests"], old["labels"], Decimal(old["usd"])) == (4, 3, Decimal(1))
    assert (new["requests"], new["labels"], Decimal(new["usd"])) == (1, 0, Decimal(0))
    assert old["mean"] > other["mean"]
    assert old["sd"] < other["sd"]


def test_a_day_is_pictured_once_however_often_it_is_asked_for(tenant: Tenant, traffic: Traffic) -> None:
    kept(tenant)
    for _ in range(2):
        snapshot_weights(NOW + timedelta(hours=1))
    assert WeightSnapshot.objects.get().requests == 5
    snapshot_weights(NOW + timedelta(days=1))
    assert list(WeightSnapshot.objects.values_list("requests", flat=True)) == [4, 5]


def test_of_several_engines_the_one_in_use_is_pictured(tenant: Tenant) -> None:
    kept(tenant, labels=3)
    kept(tenant, "ema", labels=9)
    snapshot_weights(NOW)
    assert WeightSnapshot.objects.get().engine == "hier"
    RoutingSettings.objects.create(tenant=tenant, engine="ema")
    snapshot_weights(NOW)
    assert (WeightSnapshot.objects.get().engine, WeightSnapshot.objects.get().labels) == ("ema", 9)


def test_a_state_that_cannot_be_read_still_has_its_traffic(
    tenant: Tenant, other_tenant: Tenant, traffic: Traffic
) -> None:
    RouterState.objects.filter(pk=kept(tenant).pk).update(state=b"garbage")
    kept(other_tenant)
    assert snapshot_weights(NOW) == {"taken": 2}
    assert WeightSnapshot.objects.get(tenant=tenant).by_model["old"] == {"requests": 4, "usd": "1.000000000000"}
    assert "mean" in WeightSnapshot.objects.get(tenant=other_tenant).by_model["old"]


def test_the_command_is_the_job_of_the_schedule_by_hand(tenant: Tenant) -> None:
    kept(tenant)
    told = StringIO()
    call_command("weight_snapshots", stdout=told)
    assert told.getvalue() == "done: taken 1\n"
    assert WeightSnapshot.objects.get().tenant == tenant
    assert JobRun.objects.get(job="weight_snapshots").started_by == "manage.py weight_snapshots"
