"""Spend by any dimension over any range: the same as adding up the lines, and current."""

import random
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from django.db import DatabaseError, connection, transaction
from django.test.utils import CaptureQueriesContext

from audit.record import Actor
from billing.models import Adjustment, Attempt, RollupMark
from billing.rollups import HOUR, roll_up
from billing.spend import (
    DIMENSIONS,
    Figures,
    NotTogether,
    TooManyPeriods,
    TooManyRows,
    anomaly,
    spend_of,
    spend_of_all,
    sums,
    trend,
)
from gateway.models import Model
from tenants.isolation import acting_as_tenant
from tenants.models import ApiToken, Project, Tenant
from tests.ledger_rows import open_attempt, settle

pytestmark = pytest.mark.django_db
NOON = datetime(2026, 11, 18, 12, tzinfo=UTC)  # a Wednesday
MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)
BERLIN, CALCUTTA = ZoneInfo("Europe/Berlin"), ZoneInfo("Asia/Calcutta")


def spent(token: ApiToken, model: Model, at: datetime, cost: str | Decimal = "1", **values: Any) -> Attempt:
    facts = {name: values.pop(name) for name in ("tags", "end_user", "purpose", "task_type") if name in values}
    line = open_attempt(token, model, at=at, **facts)
    settle(line, cost_usd=Decimal(cost), **values)
    return line


@pytest.fixture
def foreign_token(other_tenant: Tenant, actor: Actor) -> ApiToken:
    project = Project.objects.create(tenant=other_tenant, slug="theirs")
    return ApiToken.issue(tenant=other_tenant, project=project, name="theirs", actor=actor)[0]


def test_sums_are_those_of_the_lines_over_any_range(token: ApiToken, model: Model) -> None:
    chance = random.Random(7)
    lines: list[tuple[datetime, Decimal]] = []
    for _ in range(150):
        at = NOON - timedelta(minutes=chance.randrange(5 * 24 * 60))
        cost = Decimal(chance.randrange(0, 10**12, 2)) / 10**12
        line = spent(token, model, at, cost)
        if chance.random() < 0.2:
            Adjustment.objects.create(tenant=token.tenant, attempt=line, reason="credit", amount_usd=-cost / 2)
            cost /= 2
        lines.append((at, cost))
    roll_up(NOON)
    for _ in range(25):
        since = NOON - timedelta(minutes=chance.randrange(6 * 24 * 60))
        until = since + timedelta(minutes=chance.randrange(1, 3 * 24 * 60))
        found = spend_of(token.tenant, since, until, now=NOON)
        inside = [cost for at, cost in lines if found.since <= at < found.until]
        assert found.since <= since < found.since + HOUR
        assert found.until - HOUR < until <= found.until
        assert (found.total.attempts, found.total.spend_usd) == (len(inside), sum(inside))


def test_in_a_zone_of_half_hours_an_hour_belongs_to_the_day_it_begins_in(token: ApiToken, model: Model) -> None:
    Tenant.objects.filter(pk=token.tenant_id).update(time_zone=CALCUTTA.key)
    tenant = Tenant.objects.get(pk=token.tenant_id)
    midnight = datetime(2026, 11, 17, 18, 30, tzinfo=UTC)  # of the 18th
    spent(token, model, midnight + MINUTE)
    spent(token, model, midnight + HOUR)
    roll_up(NOON)
    found = spend_of(tenant, midnight - DAY, NOON, interval="day", now=NOON)
    days = [(row.starts_at.astimezone(CALCUTTA).day, row.figures.attempts) for row in found.rows if row.starts_at]
    assert days == [(17, 1), (18, 1)]


def test_what_is_not_rolled_up_yet_is_in(token: ApiToken, model: Model) -> None:
    spent(token, model, NOON - 50 * MINUTE)
    assert spend_of(token.tenant, NOON - DAY, NOON, now=NOON).total.attempts == 1
    roll_up(NOON)
    spent(token, model, NOON + MINUTE)
    found = spend_of(token.tenant, NOON - DAY, NOON + 2 * MINUTE, now=NOON + 2 * MINUTE)
    assert (found.total.attempts, found.current_from, found.rolled_up_to) == (2, NOON, NOON)


def test_no_more_than_two_hours_of_lines_are_read(token: ApiToken, model: Model) -> None:
    roll_up(NOON - DAY)
    spent(token, model, NOON - 2 * HOUR)
    spent(token, model, NOON - HOUR)
    found = spend_of(token.tenant, NOON - DAY, NOON + MINUTE, now=NOON + MINUTE)
    assert found.current_from == NOON - HOUR
    assert found.total.attempts == 1
    assert found.rolled_up_to == NOON - DAY  # which says why


def test_nothing_is_counted_twice(token: ApiToken, model: Model) -> None:
    for minutes in range(0, 600, 20):
        spent(token, model, NOON - minutes * MINUTE)
    for now in (NOON, NOON + 30 * MINUTE, NOON + HOUR, NOON + 3 * HOUR):
        roll_up(now)
        assert spend_of(token.tenant, NOON - DAY, now + HOUR, now=now).total.attempts == 30


def test_another_tenants_lines_are_never_in(token: ApiToken, model: Model, foreign_token: ApiToken) -> None:
    for at in (NOON, NOON - 30 * HOUR):
        spent(token, model, at)
        spent(foreign_token, model, at)
    roll_up(NOON)
    for by in DIMENSIONS:
        total = spend_of(token.tenant, NOON - 2 * DAY, NOON + HOUR, by=[by], now=NOON).total
        assert total.attempts in ((0,) if by in ("tag", "user") else (2,))
    foreign = {"tenant": [foreign_token.tenant_id]}
    assert spend_of(token.tenant, NOON - 2 * DAY, NOON + HOUR, where=foreign, now=NOON).total.attempts == 2
    assert spend_of_all(NOON - 2 * DAY, NOON + HOUR, now=NOON).total.attempts == 4
    assert spend_of_all(NOON - 2 * DAY, NOON + HOUR, tenants=[], now=NOON).total.attempts == 0


@pytest.mark.parametrize("rolled_up", [True, False])
def test_rows_are_by_what_was_asked(token: ApiToken, model: Model, rolled_up: bool) -> None:
    spent(token, model, NOON, "1", tags=["night", "eu"], end_user="alice", task_type="code")
    spent(token, model, NOON, "2", tags=["night"], end_user="bob", task_type="code", purpose="judge")
    spent(token, model, NOON, "4")
    if rolled_up:
        roll_up(NOON + 3 * HOUR)
    now = NOON + 3 * HOUR if rolled_up else NOON + MINUTE

    def by(*dimensions: Any, **where: Any) -> dict[Any, Decimal]:
        found = spend_of(token.tenant, NOON - DAY, NOON + HOUR, by=dimensions, where=where, now=now)
        return {row.key: row.figures.spend_usd for row in found.rows}

    assert by("tag") == {("night",): 3, ("eu",): 1}
    assert by("user") == {("bob",): 2, ("alice",): 1}
    assert by("purpose", "model") == {("serve", model.pk): 5, ("judge", model.pk): 2}
    assert by("task_type", purpose=["serve"]) == {("",): 4, ("code",): 1}
    assert by("tag", tag=["eu"]) == {("eu",): 1}
    assert by(token=[None]) == {}
    assert by("tenant", "project", "token", "provider", "vendor_model", "complexity") == {
        (token.tenant_id, token.project_id, token.pk, model.provider_id, "small-1", ""): 7
    }


def test_requests_are_counted_once_whatever_they_took(token: ApiToken, model: Model) -> None:
    spent(token, model, NOON, outcome="failed")
    spent(token, model, NOON, purpose="retry")
    spent(token, model, NOON, purpose="fallback")
    found = spend_of(token.tenant, NOON, NOON + HOUR, now=NOON).total
    assert (found.requests, found.attempts, found.failed, found.error_rate) == (1, 3, 1, pytest.approx(1 / 3))


def test_latencies_are_merged_over_hours_days_and_lines(token: ApiToken, model: Model) -> None:
    for at, latency in ((NOON - 2 * DAY, 100), (NOON - 5 * HOUR, 1000), (NOON, 10_000)):
        spent(token, model, at, ended_at=at + timedelta(milliseconds=latency))
    roll_up(NOON)
    [row] = spend_of(token.tenant, NOON - 3 * DAY, NOON + HOUR, latency=True, now=NOON).rows
    assert row.latency is not None
    assert sum(row.latency.counts) == 3
    assert row.latency.percentile_ms(0.5) == pytest.approx(1000, rel=0.13)
    assert row.latency.percentile_ms(0.99) == pytest.approx(10_000, rel=0.13)


def test_what_is_not_counted_together_is_refused(tenant: Tenant) -> None:
    with pytest.raises(NotTogether, match="Tags and end users"):
        spend_of(tenant, NOON, NOON + DAY, by=["tag"], where={"model": [None]})
    with pytest.raises(NotTogether):
        spend_of(tenant, NOON, NOON + DAY, by=["tag", "user"])


def test_endless_answers_are_refused(token: ApiToken, model: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TooManyPeriods):
        spend_of(token.tenant, NOON - 900 * DAY, NOON, interval="hour")
    monkeypatch.setattr(sums, "MOST_ROWS", 1)
    spent(token, model, NOON, end_user="alice")
    spent(token, model, NOON, end_user="bob")
    with pytest.raises(TooManyRows):
        spend_of(token.tenant, NOON, NOON + HOUR, by=["user"], now=NOON)


def test_an_empty_range_is_no_error(tenant: Tenant) -> None:
    assert spend_of(tenant, NOON, NOON, now=NOON).total == Figures()
    assert spend_of(tenant, NOON, NOON - DAY, interval="day", now=NOON).rows == []


def test_it_takes_two_queries(token: ApiToken, model: Model) -> None:
    spent(token, model, NOON)
    with CaptureQueriesContext(connection) as queries:
        spend_of(token.tenant, NOON - 40 * DAY, NOON, by=["model"], interval="day", latency=True, now=NOON)
    assert len(queries) == 2


def test_tiny_amounts_beside_large_ones_add_up_exactly(token: ApiToken, model: Model) -> None:
    for at in (NOON - 2 * DAY, NOON):
        for _ in range(10):
            spent(token, model, at, "0.000000000001")
    spent(token, model, NOON - 2 * DAY, "123456789.123456789012")
    roll_up(NOON)
    total = spend_of(token.tenant, NOON - 3 * DAY, NOON + HOUR, now=NOON).total
    assert total.spend_usd == Decimal("123456789.123456789032")


# ---------------------------------------------------------------------------------------------- trends


def test_a_month_stands_beside_the_one_before_at_the_same_point(token: ApiToken, model: Model) -> None:
    spent(token, model, datetime(2026, 10, 2, tzinfo=UTC), "10")
    spent(token, model, datetime(2026, 10, 25, tzinfo=UTC), "100")
    spent(token, model, datetime(2026, 11, 2, tzinfo=UTC), "15")
    roll_up(NOON)
    found = trend(token.tenant, now=NOON)
    assert (found.starts_at, found.ends_at) == (
        datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 12, 1, tzinfo=UTC),
    )  # fmt: skip
    assert (found.so_far.spend_usd, found.before_so_far.spend_usd, found.before_whole.spend_usd) == (15, 10, 110)
    assert (found.delta_usd, found.delta_ratio) == (5, Decimal("0.5"))


def test_the_projection_goes_on_at_the_rate_of_the_last_week(token: ApiToken, model: Model) -> None:
    for hours in range(1, 7 * 24 + 1):
        spent(token, model, NOON - hours * HOUR, "1")
    roll_up(NOON)
    found = trend(token.tenant, now=NOON)
    assert found.so_far.spend_usd == 7 * 24
    assert found.projected_usd == 7 * 24 + 12.5 * 24


def test_a_projection_does_not_thin_out_what_began_yesterday(token: ApiToken, model: Model) -> None:
    for hours in range(1, 25):
        spent(token, model, NOON - hours * HOUR, "1")
    roll_up(NOON)
    assert trend(token.tenant, "week", now=NOON).projected_usd == 24 + 4.5 * 24


def test_without_any_spend_there_is_nothing_to_compare(tenant: Tenant) -> None:
    found = trend(tenant, "day", now=NOON)
    assert (found.projected_usd, found.delta_usd, found.delta_ratio) == (0, 0, None)


def usual_days(token: ApiToken, model: Model, days: int, cost: str = "1") -> None:
    for day in range(1, days + 1):
        spent(token, model, NOON - day * DAY - 30 * MINUTE, cost)


@pytest.mark.parametrize(
    ("cost", "unusual"),
    [("1", False), ("1.4", False), ("1.6", True), ("50", True), ("0", False)],
)
def test_an_hour_is_unusual_beside_the_same_hour_of_other_days(
    token: ApiToken, model: Model, cost: str, unusual: bool
) -> None:
    usual_days(token, model, 20)
    spent(token, model, NOON - 40 * MINUTE, cost)
    spent(token, model, NOON - 5 * HOUR, "1000")  # another hour's
    roll_up(NOON)
    found = anomaly(token.tenant, now=NOON)
    assert (found.spent_usd, found.usual_usd, found.days) == (Decimal(cost), 1, 20)
    assert found.is_anomalous is unusual


def test_a_single_odd_day_does_not_become_usual(token: ApiToken, model: Model) -> None:
    usual_days(token, model, 20)
    spent(token, model, NOON - 3 * DAY - 30 * MINUTE, "10000")
    spent(token, model, NOON - 40 * MINUTE, "5")
    roll_up(NOON)
    assert anomaly(token.tenant, now=NOON).is_anomalous


def test_of_too_few_days_nothing_can_be_told(token: ApiToken, model: Model) -> None:
    usual_days(token, model, 5)
    spent(token, model, NOON - 40 * MINUTE, "1000")
    roll_up(NOON)
    found = anomaly(token.tenant, now=NOON)
    assert (found.is_anomalous, found.usual_usd) == (False, None)


def test_tiny_amounts_are_never_unusual(token: ApiToken, model: Model) -> None:
    usual_days(token, model, 10, "0")
    spent(token, model, NOON - 40 * MINUTE, "0.009")
    roll_up(NOON)
    assert not anomaly(token.tenant, now=NOON).is_anomalous


def test_a_tenant_is_told_its_spend_behind_its_wall_too(token: ApiToken, model: Model) -> None:
    spent(token, model, NOON - 5 * HOUR, "1")
    roll_up(NOON)
    spent(token, model, NOON + MINUTE, "2")
    with acting_as_tenant(token.tenant_id):
        found = spend_of(token.tenant, NOON - DAY, NOON + HOUR, now=NOON + 2 * MINUTE)
        assert RollupMark.objects.get().rolled_up_to == found.rolled_up_to
        with pytest.raises(DatabaseError), transaction.atomic():
            RollupMark.objects.update(rolled_up_to=NOON)
    assert (found.total.spend_usd, found.total.requests) == (Decimal(3), 2)


def test_the_mark_is_read_and_not_guessed(token: ApiToken) -> None:
    assert spend_of(token.tenant, NOON, NOON + HOUR, now=NOON).rolled_up_to is None
    RollupMark.objects.create(rolled_up_to=NOON - 5 * MINUTE)
    found = spend_of(token.tenant, NOON, NOON + HOUR, now=NOON)
    assert (found.rolled_up_to, found.current_from) == (NOON - 5 * MINUTE, NOON - HOUR)
