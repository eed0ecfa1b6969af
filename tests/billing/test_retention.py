"""What was only kept for a while ends; the ledger and all sums stay."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import psycopg
import pytest
from django.core.management import call_command
from django.db import ProgrammingError, connection

from audit.jobs import run_job
from audit.models import JobRun
from audit.record import Actor
from billing import retention
from billing.models import Attempt, Plan, Settlement, Subscription, UsageHour
from billing.retention import retain
from billing.rollups import roll_up
from gateway.models import Model, RequestContent, RequestLog
from gateway.rows import first_id
from tenants.models import ApiToken, Project, Tenant
from tests.ledger_rows import id_at, log_request, open_attempt, settle
from tests.provision import Database

NOW = datetime(2026, 11, 18, 12, tzinfo=UTC)
DAY = timedelta(days=1)
OLD_MONTH = datetime(2026, 5, 1, tzinfo=UTC)


def keep(tenant: Tenant, days: int) -> None:
    plan = Plan.objects.create(name=f"plan-{tenant.slug}", retention_days=days)
    Subscription.objects.create(tenant=tenant, plan=plan)


def log(token: ApiToken, at: datetime) -> RequestLog:
    row = log_request(token, at=at)
    RequestContent.objects.create(request_id=row.pk, tenant=token.tenant, ciphertext=b"x", master_key_number=1)
    return row


def kept() -> tuple[int, int]:
    return RequestLog.objects.count(), RequestContent.objects.count()


@pytest.fixture
def foreign_token(other_tenant: Tenant, actor: Actor) -> ApiToken:
    project = Project.objects.create(tenant=other_tenant, slug="theirs")
    return ApiToken.issue(tenant=other_tenant, project=project, name="theirs", actor=actor)[0]


def test_each_tenants_logs_are_kept_as_long_as_its_plan_says(token: ApiToken, foreign_token: ApiToken) -> None:
    keep(token.tenant, 30)
    for owner in (token, foreign_token):
        for days in (29, 31, 89, 91):
            log(owner, NOW - days * DAY)
    found = retain(NOW)
    assert found["deleted"]["gateway_requestlog"] == found["deleted"]["gateway_requestcontent"] == 3 + 1
    assert RequestLog.objects.filter(tenant=token.tenant).count() == 1
    assert RequestLog.objects.filter(tenant=foreign_token.tenant).count() == 3
    assert kept() == (4, 4)


def test_what_was_agreed_goes_before_the_plan(token: ApiToken) -> None:
    keep(token.tenant, 30)
    Subscription.objects.update(overrides={"retention_days": 100})
    log(token, NOW - 99 * DAY)
    retain(NOW)
    assert kept() == (1, 1)


def test_without_a_plan_the_setting_holds(token: ApiToken, settings: Any) -> None:
    settings.LOG_RETENTION_DAYS = 7
    log(token, NOW - 8 * DAY)
    log(token, NOW - 6 * DAY)
    retain(NOW)
    assert kept() == (1, 1)


def test_logs_of_tenants_that_are_gone_go_by_the_setting(token: ApiToken) -> None:
    nobody = id_at(NOW)
    for days in (89, 91):
        row = log(token, NOW - days * DAY)
        RequestLog.objects.filter(pk=row.pk).update(tenant=nobody)
        RequestContent.objects.filter(pk=row.pk).update(tenant=nobody)
    retain(NOW)
    assert kept() == (1, 1)


def test_a_very_long_retention_is_no_error(token: ApiToken) -> None:
    keep(token.tenant, 2_000_000_000)
    log(token, NOW - 400 * DAY)
    retain(NOW)
    assert kept() == (1, 1)


def test_more_rows_than_one_batch_go(token: ApiToken, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retention, "ROWS_AT_A_TIME", 3)
    for minute in range(10):
        log(token, NOW - 100 * DAY + timedelta(minutes=minute))
    assert retain(NOW)["deleted"]["gateway_requestlog"] == 10
    assert kept() == (0, 0)


def test_the_ledger_and_its_sums_stay(token: ApiToken, model: Model) -> None:
    settle(open_attempt(token, model, at=NOW - 900 * DAY), cost_usd=Decimal(1))
    roll_up()
    retain(NOW)
    assert (Attempt.objects.count(), Settlement.objects.count(), UsageHour.objects.count()) == (1, 1, 1)


def test_records_of_background_runs_are_kept_for_a_while(db: None) -> None:
    for days in (89, 91):
        JobRun.objects.create(job="count", started_at=NOW - days * DAY)
    retain(NOW)
    assert JobRun.objects.count() == 1


@pytest.fixture
def old_months(real_commits: Database) -> Iterator[psycopg.Connection]:
    """A month that is long over, with partitions as it would have had; and the owner's connection."""
    following = (OLD_MONTH + 32 * DAY).replace(day=1)
    with psycopg.connect(real_commits.owner_url, autocommit=True) as owner:
        for table in ("gateway_requestlog", "gateway_requestcontent", "billing_attempt", "billing_settlement"):
            owner.execute(
                f"CREATE TABLE {table}_y2026m05 PARTITION OF {table} "
                f"FOR VALUES FROM ('{first_id(OLD_MONTH)}') TO ('{first_id(following)}')"
            )
        yield owner


def partitions() -> set[str]:
    with connection.cursor() as cursor:
        cursor.execute("SELECT relname FROM pg_class WHERE relispartition AND relkind = 'r'")
        return {name for (name,) in cursor.fetchall() if name.endswith("m05")}


def test_a_month_that_nobody_keeps_goes_as_a_whole_and_the_ledgers_stays(
    old_months: psycopg.Connection, token: ApiToken, model: Model
) -> None:
    log(token, OLD_MONTH + DAY)
    settle(open_attempt(token, model, at=OLD_MONTH + DAY))
    found = retain(NOW)
    assert found["dropped"] == ["gateway_requestcontent_y2026m05", "gateway_requestlog_y2026m05"]
    assert partitions() == {"billing_attempt_y2026m05", "billing_settlement_y2026m05"}
    assert (kept(), Attempt.objects.count()) == ((0, 0), 1)


def test_a_month_that_one_tenant_keeps_stays_for_it(
    old_months: psycopg.Connection, token: ApiToken, foreign_token: ApiToken
) -> None:
    keep(foreign_token.tenant, 365)
    log(token, OLD_MONTH + DAY)
    log(foreign_token, OLD_MONTH + DAY)
    assert retain(NOW)["dropped"] == []
    assert list(RequestLog.objects.values_list("tenant", flat=True)) == [foreign_token.tenant_id]


def test_a_month_that_is_being_read_is_left_for_the_next_time(old_months: psycopg.Connection, token: ApiToken) -> None:
    log(token, OLD_MONTH + DAY)
    with old_months.transaction():
        old_months.execute("LOCK TABLE gateway_requestlog_y2026m05 IN ACCESS SHARE MODE")
        found = retain(NOW)
    assert found["dropped"] == ["gateway_requestcontent_y2026m05"]
    assert RequestLog.objects.count() == 0  # row by row, as the month could not go
    assert retain(NOW)["dropped"] == ["gateway_requestlog_y2026m05"]


def test_the_gateways_role_may_not_drop_a_month_of_the_ledger(old_months: psycopg.Connection) -> None:
    with connection.cursor() as gateway:
        for table in ("billing_attempt_y2026m05", "gateway_requestlog_y2026m05"):
            with pytest.raises(ProgrammingError, match="must be owner"):
                gateway.execute(f"DROP TABLE {table}")
        gateway.execute("SELECT pointsman_drop_log_partitions('2100-01-01')")
    assert {"billing_attempt_y2026m05", "billing_settlement_y2026m05"} <= partitions()


def test_commands_do_what_the_schedule_does(token: ApiToken, model: Model, capsys: pytest.CaptureFixture[str]) -> None:
    now = datetime.now(UTC)
    settle(open_attempt(token, model, at=now))
    log(token, now - 100 * DAY)
    call_command("rollup")
    call_command("rollup", "--from", (now - DAY).isoformat(), "--to", now.isoformat())
    call_command("retention")
    assert capsys.readouterr().out.splitlines()[:2] == [
        "1 hours and 1 days rolled up.",
        "25 hours and 2 days rolled up.",
    ]
    assert list(JobRun.objects.order_by("id").values_list("job", "outcome", "started_by")) == [
        ("roll_up", "done", "manage.py rollup"),
        ("roll_up", "done", "manage.py rollup"),
        ("retention", "done", "manage.py retention"),
    ]
    assert kept() == (0, 0)


def test_the_facts_of_a_run_are_kept(token: ApiToken) -> None:
    run = run_job("retention", lambda: retain(NOW))
    assert JobRun.objects.get(pk=run.pk).facts["deleted"]["gateway_requestlog"] == 0
