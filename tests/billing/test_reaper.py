"""What dead processes leave open is closed, once, and only that."""

import json
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import StringIO
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import uuid_utils.compat
from django.core.management import call_command
from django.db import connection
from msgspec import structs

from audit.models import JobRun
from billing import reaper
from billing.groupcommit import json_rows
from billing.ledger import NewSettlement
from billing.models import Attempt, Budget, BudgetPeriod, GatewayProcess, PriceVersion, Settlement
from billing.reaper import reap, replay_left_spools
from billing.spool import Spool
from billing.verification import verify
from gateway.models import Model
from gateway.wire.types import Usage
from tenants.models import ApiToken
from tests.ledger_rows import open_attempt, settle
from tests.provision import Database

NOW = datetime.now(UTC) + timedelta(hours=2)  # the server of the tests may have started this minute
SECOND = timedelta(seconds=1)
MINUTE = timedelta(minutes=1)


def process(beat_ago: timedelta, now: datetime = NOW) -> UUID:
    row = GatewayProcess.objects.create(label="test:1", started_at=now - 60 * MINUTE, heartbeat_at=now - beat_ago)
    return row.pk


@pytest.fixture
def alive(db: None) -> UUID:
    """Another process that beats: the database can be reached."""
    return process(SECOND)


@pytest.fixture
def dead(db: None) -> UUID:
    return process(5 * MINUTE)


Open = Callable[..., Attempt]


@pytest.fixture
def left_open(token: ApiToken, model: Model) -> Open:
    """An attempt of a process, by default ten minutes old."""

    def left_open(process_id: UUID, ago: timedelta = 10 * MINUTE, **values: Any) -> Attempt:
        return open_attempt_of(process_id, token, model, NOW - ago, **values)

    return left_open


def open_attempt_of(process_id: UUID, token: ApiToken, model: Model, at: datetime, **values: Any) -> Attempt:
    template = open_attempt(token, model, at, **values)
    columns = ", ".join(
        field.column for field in Attempt._meta.concrete_fields if field.column not in ("id", "process_id")
    )
    key = UUID(int=template.pk.int + 1)
    with connection.cursor() as cursor:
        cursor.execute(
            f"INSERT INTO billing_attempt (id, process_id, {columns}) SELECT %s, %s, {columns} FROM billing_attempt WHERE id = %s",
            [key, process_id, template.pk],
        )
    settle(template)
    return Attempt.objects.get(pk=key)


@pytest.fixture
def price(tenant: Any, model: Model) -> PriceVersion:
    return PriceVersion.objects.create(tenant=tenant, model=model, effective_from=NOW - 999 * MINUTE, input=1, output=2)


def test_an_attempt_of_a_lost_process_is_settled_as_abandoned_at_what_was_held(
    alive: UUID, dead: UUID, left_open: Open, price: PriceVersion
) -> None:
    attempt = left_open(dead, held_usd=Decimal("0.012345678901"), held_tokens=700, price_version=price)
    facts = reap(NOW)
    assert (facts["settled"], facts["processes_removed"]) == (1, 1)
    settlement = Settlement.objects.get(attempt=attempt)
    assert settlement.outcome == "abandoned"
    assert settlement.cost_usd == Decimal("0.012345678901")
    assert settlement.input_tokens == 700
    assert settlement.usage_source == "estimated"
    assert (settlement.error_code, settlement.status_code) == ("abandoned", None)
    assert settlement.price_version_id == price.pk
    assert abs(settlement.ended_at - NOW) < SECOND


def test_what_an_abandoned_attempt_held_of_a_budget_is_spent(
    alive: UUID, dead: UUID, left_open: Open, price: PriceVersion
) -> None:
    budget = Budget.objects.create(tenant=price.tenant, name="month", scope="tenant", metric="usd", cap=1)
    period = BudgetPeriod.objects.create(
        tenant=price.tenant, budget=budget, starts_at=NOW - 60 * MINUTE, held=Decimal("0.03")
    )
    left_open(dead, held_usd=Decimal("0.02"), held_tokens=9, price_version=price, budget_periods=[period.pk])
    open_ = left_open(alive, held_usd=Decimal("0.01"), held_tokens=9, price_version=price, budget_periods=[period.pk])
    # The rows that open attempts are made from are settled, and named the period too.
    BudgetPeriod.objects.update(spent=2 * Decimal("0.000123"))
    reap(NOW)
    period.refresh_from_db()
    assert (period.spent, period.held) == (Decimal("0.020246"), open_.held_usd)
    sums = [finding for finding in verify(now=NOW).findings if "period" in finding.check]
    assert sums == []


def test_without_a_hold_it_costs_nothing_and_without_a_price_nobody_knows(
    alive: UUID, dead: UUID, left_open: Open, price: PriceVersion
) -> None:
    priced, unpriced = left_open(dead, price_version=price), left_open(dead)
    assert reap(NOW)["settled"] == 2
    assert Settlement.objects.get(attempt=priced).cost_usd == 0
    assert Settlement.objects.get(attempt=unpriced).cost_usd is None


def test_attempts_of_living_processes_are_left_alone_however_old(alive: UUID, left_open: Open) -> None:
    left_open(alive, 300 * MINUTE)
    facts = reap(NOW)
    assert (facts["settled"], facts["processes_removed"]) == (0, 0)
    assert GatewayProcess.objects.filter(pk=alive).exists()


def test_an_attempt_whose_process_has_no_row_is_abandoned_once_it_is_a_minute_old(alive: UUID, left_open: Open) -> None:
    left_open(uuid_utils.compat.uuid7(), 61 * SECOND)
    left_open(uuid_utils.compat.uuid7(), 30 * SECOND)
    assert reap(NOW)["settled"] == 1


def test_a_lost_process_is_remembered_until_nothing_of_it_is_open(alive: UUID, dead: UUID, left_open: Open) -> None:
    left_open(dead, 20 * SECOND)  # its clock may have been ahead: too young to judge
    first = reap(NOW)
    assert (first["settled"], first["processes_removed"]) == (0, 0)
    GatewayProcess.objects.filter(pk=alive).update(heartbeat_at=NOW + MINUTE)
    second = reap(NOW + MINUTE)
    assert (second["settled"], second["processes_removed"]) == (1, 1)
    assert list(GatewayProcess.objects.values_list("pk", flat=True)) == [alive]


def test_more_than_a_batch_is_settled_in_batches(
    alive: UUID, dead: UUID, left_open: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reaper, "_OF_THE_LOST", reaper._OF_THE_LOST.replace("LIMIT 1000", "LIMIT 2"))
    for number in range(5):
        left_open(dead, (10 + number) * MINUTE)
    sizes: list[int] = []

    def counting(batch: Any) -> int:
        sizes.append(len(batch))
        return reaper._settle(batch)

    assert reap(NOW, counting)["settled"] == 5
    assert sizes == [2, 2, 1]


def test_what_is_settled_already_is_not_touched(alive: UUID, dead: UUID, left_open: Open) -> None:
    attempt = left_open(dead)
    settle(attempt)
    assert reap(NOW)["settled"] == 0
    assert Settlement.objects.get(attempt=attempt).outcome == "settled"


def test_the_settlement_of_a_process_that_comes_back_loses(alive: UUID, dead: UUID, left_open: Open) -> None:
    attempt = left_open(dead)
    reap(NOW)
    late = reaper._abandoned(NOW, (attempt.pk, attempt.tenant_id, None, Decimal(5), 5))
    assert reaper._settle([late]) == 0
    assert Settlement.objects.get(attempt=attempt).cost_usd is None


def test_a_settlement_that_comes_between_looking_and_writing_wins(alive: UUID, dead: UUID, left_open: Open) -> None:
    attempt = left_open(dead)

    def overtaken(batch: Any) -> int:
        settle(attempt)
        return reaper._settle(batch)

    assert reap(NOW, overtaken)["settled"] == 0
    assert Settlement.objects.get(attempt=attempt).outcome == "settled"


@pytest.mark.django_db
def test_nothing_is_reaped_while_no_process_at_all_has_a_heartbeat(dead: UUID, left_open: Open) -> None:
    left_open(dead)
    facts = reap(NOW)
    assert "no gateway process has a heartbeat" in facts["waiting"]
    assert GatewayProcess.objects.filter(pk=dead).exists()


def test_nothing_is_reaped_soon_after_postgresql_has_started(left_open: Open, db: None) -> None:
    with connection.cursor() as cursor:
        cursor.execute("SELECT pg_postmaster_start_time()")
        (started_at,) = cursor.fetchone()
    process(SECOND, started_at + 39 * SECOND)
    assert "not been up" in reap(started_at + 39 * SECOND)["waiting"]
    assert "waiting" not in reap(started_at + 41 * SECOND)


def test_a_first_run_after_an_outage_waits_until_every_living_process_could_beat_again(
    alive: UUID, dead: UUID, left_open: Open
) -> None:
    """The network came back: one process has beaten already, the other would in its next five seconds."""
    left_open(dead)
    first = reap(NOW, previous={})
    assert "not been watched" in first["waiting"]
    later = NOW + 15 * SECOND
    GatewayProcess.objects.filter(pk=dead).update(heartbeat_at=later)
    second = reap(later, previous=first)
    assert "waiting" not in second
    assert second["settled"] == 0


def test_runs_that_follow_each_other_reap_at_once(alive: UUID, dead: UUID, left_open: Open) -> None:
    left_open(dead)
    first = reap(NOW, previous={})
    second = reap(NOW + 15 * SECOND, previous=first)
    assert second["settled"] == 1
    assert second["beating_since"] == first["beating_since"]


def test_a_gap_between_runs_starts_the_watch_again(alive: UUID, dead: UUID, left_open: Open) -> None:
    first = reap(NOW, previous={})
    GatewayProcess.objects.filter(pk=alive).update(heartbeat_at=NOW + 5 * MINUTE)
    assert "not been watched" in reap(NOW + 5 * MINUTE, previous=first)["waiting"]


def test_a_run_goes_on_from_where_everything_was_settled(alive: UUID, dead: UUID, left_open: Open) -> None:
    oldest = left_open(alive, 30 * MINUTE)
    first = reap(NOW)
    assert abs(datetime.fromisoformat(first["through"]) - oldest.started_at) < SECOND
    settle(oldest)
    watched = first | {"beating_since": (NOW - MINUTE).isoformat(), "seen_at": NOW.isoformat()}
    second = reap(NOW, previous=watched)
    assert datetime.fromisoformat(second["through"]) >= NOW - 61 * SECOND
    left_open(dead, 40 * MINUTE)  # came late, from a clock far behind
    assert reap(NOW, previous=second)["settled"] == 0
    long_ago = (NOW - 2 * 60 * MINUTE).isoformat()
    assert reap(NOW, previous=second | {"whole_at": long_ago})["settled"] == 1


def test_two_reapers_at_once_settle_everything_once(real_commits: Database, actor: Any, django_db_blocker: Any) -> None:
    from gateway.models import Provider
    from tenants.models import Project, Tenant

    tenant = Tenant.objects.create(slug="acme")
    project = Project.objects.create(tenant=tenant, slug="web")
    token, _ = ApiToken.issue(tenant=tenant, project=project, name="ci", actor=actor)
    provider = Provider.objects.create(
        tenant=tenant, name="lab", kind="openai-compatible", base_url="https://a.example"
    )
    model = Model.objects.create(tenant=tenant, name="small", provider=provider, vendor_model="small-1")
    process(SECOND)
    lost = process(5 * MINUTE)
    for _ in range(30):
        open_attempt_of(lost, token, model, NOW - 10 * MINUTE)
    both = threading.Barrier(2)
    counts: list[int] = []

    def run() -> None:
        def together(batch: Any) -> int:
            both.wait(10)
            return reaper._settle(batch)

        try:
            counts.append(reap(NOW, together)["settled"])
        finally:
            connection.close()

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sum(counts) == 30
    assert len(counts) == 2
    assert Settlement.objects.filter(outcome="abandoned").count() == 30


@pytest.mark.django_db
def test_the_command_says_what_was_done(
    monkeypatch: pytest.MonkeyPatch, left_open: Open, alive: UUID, dead: UUID
) -> None:
    left_open(dead)
    monkeypatch.setattr(reaper, "_database_time", lambda: NOW)
    JobRun.objects.create(
        job=reaper.JOB, started_at=NOW, outcome=JobRun.Outcome.DONE,
        facts={"seen_at": NOW.isoformat(), "beating_since": (NOW - MINUTE).isoformat()},
    )  # fmt: skip
    out = StringIO()
    call_command("reap", stdout=out)
    assert out.getvalue() == "1 attempts settled as abandoned, 1 processes removed.\n"
    out = StringIO()
    call_command("reap", "--json", stdout=out)
    told = json.loads(out.getvalue())
    assert (told["outcome"], told["settled"]) == ("done", 0)
    assert JobRun.objects.filter(job="reap", started_by="manage.py reap").count() == 2


def test_what_a_dead_process_left_on_the_disk_goes_before_what_it_held(
    alive: UUID, dead: UUID, left_open: Open, price: PriceVersion, tmp_path: Path
) -> None:
    attempt = left_open(dead, held_usd=Decimal("0.5"), held_tokens=900, price_version=price)
    used = NewSettlement(
        attempt_id=str(attempt.pk), tenant_id=str(attempt.tenant_id), outcome="settled", usage=Usage(input=3, output=1),
        cost_pico=5_000_000, price_version_id=str(price.pk), status_code=200, error_code="", first_token_at=None,
        ended_at=NOW.timestamp(),
    )  # fmt: skip
    stray = structs.replace(used, attempt_id="not-an-id")
    left = Spool(tmp_path, "dead")
    left.append([json_rows([line])[1:-1] for line in (stray, used, used)])
    left.close()
    assert replay_left_spools(tmp_path) == 1
    assert list(tmp_path.iterdir()) == []
    reap(NOW)
    settlement = Settlement.objects.get(attempt=attempt)
    assert (settlement.outcome, settlement.cost_usd) == ("settled", Decimal("0.000005"))
