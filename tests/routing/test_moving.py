"""Cost migration on the database: fed with rows as traffic, judges and the ledger leave them, cells move step by step."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import StringIO
from typing import Any

import pytest
from django.core.management import call_command
from django.db import connections

from audit.models import JobRun
from audit.record import verify_chain
from gateway.models import Model, Provider
from routing.migration import in_ramp
from routing.models import Experiment, Ramp, RoutingSettings
from routing.moving import cost_migration
from tenants.models import Tenant
from tests.provision import Database
from tests.routing.simulated_traffic import (
    CELL,
    SETTLED,
    Traffic,
    contestants,
    facts,
    facts_of_all,
    happened,
    moments,
    weighed,
)

START = datetime.now(UTC)
DAY = timedelta(days=1)
KNOWN = facts_of_all(facts())
ENOUGH = {5: 2_600, 25: 560, 50: 280, 100: 130}
"""Requests a day of the cell, for a step to be over after that."""


@pytest.fixture
def wishing(tenant: Tenant) -> Tenant:
    RoutingSettings.objects.create(tenant=tenant, auto_migrate=True)
    return tenant


@pytest.fixture
def models(provider: Provider) -> dict[str, Model]:
    return served_by(provider)


def served_by(provider: Provider) -> dict[str, Model]:
    return {
        name: Model.objects.create(tenant=provider.tenant, name=name, provider=provider, vendor_model=f"{name}-1")
        for name in ("old", "new")
    }


def before(tenant: Tenant, pairs: int = 700, requests: int = 1_000, better_by: float = 0.05, **changed: Any) -> None:
    """Four weeks in which the old model answered, with a judged challenger beside many answers."""
    traffic = Traffic(tenant)
    for number, at in enumerate(moments(START - 28 * DAY + SETTLED, requests, 27 * DAY)):
        if number < pairs:
            decision = traffic.decided(at, "old", challenger="new", challenger_propensity=0.5, **changed)
            quality = 0.3 + 0.4 * traffic.rng.random()
            control, challenger = traffic.rng.normal(quality, 0.1), traffic.rng.normal(quality + better_by, 0.1)
            traffic.judged_pair(decision, control, challenger)
        else:
            traffic.decided(at, "old", **changed)
    traffic.write()


def a_day(
    ramp: Ramp,
    start: datetime,
    models: dict[str, Model] | None = None,
    *,
    quality: tuple[float, float] = (0.7, 0.72),
    fails: float = 0.0,
    requests: int | None = None,
) -> None:
    """A day's requests of users of their own under the ramp; with ``models``, as the ledger has them, too.

    ``quality`` is of those that stayed and of those that moved; of the latter some fail.
    """
    day = (start - START).days
    traffic = Traffic(ramp.tenant, day)
    for number, at in enumerate(moments(start, requests or ENOUGH[ramp.percent], DAY - SETTLED)):
        moved = in_ramp("the same at each run", f"{day}/{number}", ramp.percent)
        name = "new" if moved else "old"
        values: dict[str, Any] = {"engine": "ramp" if moved else "hier"}
        if moved and traffic.rng.random() < fails:
            values |= {"status": 502, "model_name": "", "cost_usd": None}
        decision = traffic.decided(at, name, **values)
        if decision.status == 200:
            traffic.judged(decision, min(max(traffic.rng.normal(quality[moved], 0.1), 0.0), 1.0))
            if models is not None and decision.cost_usd is not None:
                traffic.paid(decision, models[name], decision.cost_usd)
                traffic.paid(decision, models["old"], Decimal("0.5"), "judge")
    traffic.write()


def migrating(tenant: Tenant) -> Ramp:
    """A ramp that has just begun."""
    before(tenant)
    assert cost_migration(START, KNOWN)["begun"] == 1
    return Ramp.objects.get(tenant=tenant)


def everything(tenant: Tenant) -> list[Any]:
    """All that the job may change, as it is now."""
    ramps = Ramp.objects.filter(tenant=tenant).order_by("pk")
    names = ("percent", "status", "reason", "evidence", "saved_usd", "since", "updated_at")
    return [list(ramps.values_list(*names)), happened(tenant), Tenant.objects.get(pk=tenant.pk).policy_epoch]


# ---------------------------------------------------------------------- all the way


def test_a_cell_moves_to_a_cheaper_model_step_by_step_and_the_ledger_says_what_that_saved(
    wishing: Tenant, models: dict[str, Model]
) -> None:
    before(wishing)
    begun = cost_migration(START, KNOWN)
    ramp = Ramp.objects.get(tenant=wishing)
    assert (ramp.task, ramp.complexity, ramp.from_model, ramp.to_model) == (*CELL, "old", "new")
    assert (ramp.percent, ramp.status, ramp.source, ramp.since) == (5, "active", "migration", START)
    assert "new costs 60% less than old" in ramp.reason
    assert begun["told"] == [f"acme/{ramp}: {ramp.reason}"]
    reached = []
    for day in range(4):
        now = START + (day + 1) * DAY
        a_day(ramp, now - DAY, models)
        cost_migration(now, KNOWN)
        ramp.refresh_from_db()
        reached.append((ramp.percent, ramp.status))
    assert reached == [(25, "active"), (50, "active"), (100, "active"), (100, "done")]
    steps = ramp.evidence["steps"]
    assert [(step["percent"], step["action"]) for step in steps] == [
        (5, "advance"),
        (25, "advance"),
        (50, "advance"),
        (100, "hold"),
    ]
    assert steps[3]["stayed"] == steps[2]["stayed"]
    moved = sum(step["moved"] for step in steps)
    assert moved > 100 * 4
    assert ramp.saved_usd == moved * (Decimal("0.010") - Decimal("0.004"))
    assert happened(wishing) == ["ramp.created", *["ramp.changed"] * 4]
    assert verify_chain(wishing) == []


def test_what_is_saved_is_counted_on_after_the_last_step_for_four_weeks(
    wishing: Tenant, models: dict[str, Model]
) -> None:
    ramp = migrating(wishing)
    for day in range(4):
        a_day(ramp, START + day * DAY, models)
        cost_migration(START + (day + 1) * DAY, KNOWN)
        ramp.refresh_from_db()
    saved = ramp.saved_usd
    a_day(ramp, START + 4 * DAY, models)
    assert cost_migration(START + 5 * DAY, KNOWN)["done"] == 0
    ramp.refresh_from_db()
    assert ramp.saved_usd - saved == 130 * Decimal("0.006")
    a_day(ramp, START + 40 * DAY, models)
    cost_migration(START + 41 * DAY, KNOWN)
    ramp.refresh_from_db()
    assert ramp.saved_usd - saved == 130 * Decimal("0.006")
    assert ramp.status == "done"


def test_nothing_is_claimed_without_the_ledger(wishing: Tenant) -> None:
    ramp = migrating(wishing)
    a_day(ramp, START)
    cost_migration(START + DAY, KNOWN)
    ramp.refresh_from_db()
    assert (ramp.percent, ramp.saved_usd) == (25, 0)


# ---------------------------------------------------------------------- back


def test_a_ramp_is_rolled_back_by_a_guard_and_its_cell_rests_for_four_weeks(wishing: Tenant) -> None:
    ramp = migrating(wishing)
    a_day(ramp, START)
    cost_migration(START + DAY, KNOWN)
    ramp.refresh_from_db()
    assert ramp.percent == 25
    a_day(ramp, START + DAY, fails=0.3)
    assert cost_migration(START + DAY + timedelta(hours=20), KNOWN)["rolled_back"] == 1
    ramp.refresh_from_db()
    assert (ramp.status, ramp.percent) == ("rolled_back", 0)
    assert "error rate" in ramp.reason
    assert [step["action"] for step in ramp.evidence["steps"]] == ["advance", "roll_back"]
    assert happened(wishing)[-1] == "ramp.ended"
    assert cost_migration(START + 2 * DAY, KNOWN)["begun"] == 0
    assert cost_migration(START + 25 * DAY, KNOWN)["begun"] == 0
    traffic = Traffic(wishing)
    for at in moments(START + 26 * DAY, 1_000, 3 * DAY):
        decision = traffic.decided(at, "old", challenger="new", challenger_propensity=0.5)
        traffic.judged_pair(decision, traffic.rng.normal(0.6, 0.05), traffic.rng.normal(0.65, 0.05))
    traffic.write()
    assert cost_migration(START + 30 * DAY, KNOWN)["begun"] == 1


def test_a_ramp_is_rolled_back_where_quality_is_certainly_worse(wishing: Tenant) -> None:
    ramp = migrating(wishing)
    a_day(ramp, START, quality=(0.8, 0.4), requests=1_000)
    cost_migration(START + DAY, KNOWN)
    ramp.refresh_from_db()
    assert ramp.status == "rolled_back"
    assert "quality differs by -0." in ramp.reason


def test_a_step_that_cannot_be_decided_in_three_weeks_is_rolled_back(wishing: Tenant) -> None:
    ramp = migrating(wishing)
    assert cost_migration(START + 20 * DAY, KNOWN)["rolled_back"] == 0
    assert cost_migration(START + 22 * DAY, KNOWN)["rolled_back"] == 1
    ramp.refresh_from_db()
    assert "after 22 days still" in ramp.reason


# ---------------------------------------------------------------------- at rest


def test_a_second_run_changes_nothing(wishing: Tenant, models: dict[str, Model]) -> None:
    ramp = migrating(wishing)
    kept = everything(wishing)
    cost_migration(START, KNOWN)
    assert everything(wishing) == kept
    for day, fails in ((0, 0.0), (1, 0.0), (2, 0.5)):
        a_day(ramp, START + day * DAY, models, fails=fails)
        cost_migration(START + (day + 1) * DAY, KNOWN)
        kept = everything(wishing)
        again = cost_migration(START + (day + 1) * DAY, KNOWN)
        assert everything(wishing) == kept
        assert [again[name] for name in ("begun", "advanced", "done", "rolled_back", "failed")] == [0] * 5
        ramp.refresh_from_db()
    assert ramp.status == "rolled_back"


def test_no_step_is_taken_before_its_time(wishing: Tenant) -> None:
    ramp = migrating(wishing)
    a_day(ramp, START)
    cost_migration(START + timedelta(hours=23.9), KNOWN)
    ramp.refresh_from_db()
    assert ramp.percent == 5
    assert ramp.evidence["seen"]["moved"]["requests"] > 80


def test_looking_every_few_hours_shows_what_looking_once_does(wishing: Tenant, models: dict[str, Model]) -> None:
    ramp = migrating(wishing)
    at_the_beginning = ramp.evidence
    a_day(ramp, START, models, requests=600)
    seen = []
    for looks in ((3, 3, 7, 15, 20, 23.9), (23.9,)):
        Ramp.objects.filter(pk=ramp.pk).update(evidence=at_the_beginning, saved_usd=0)
        for hours in looks:
            cost_migration(START + timedelta(hours=hours), KNOWN)
        ramp.refresh_from_db()
        totals = ramp.evidence["seen"]["moved"]
        seen.append((ramp.saved_usd, ramp.evidence["seen"] | {"moved": totals["requests"], "control": None}))
    assert seen[0] == seen[1]
    assert seen[0][0] > 0


def test_who_no_longer_wants_migrations_keeps_the_step_and_the_guards(wishing: Tenant) -> None:
    ramp = migrating(wishing)
    RoutingSettings.objects.filter(tenant=wishing).update(auto_migrate=False)
    a_day(ramp, START)
    cost_migration(START + DAY, KNOWN)
    ramp.refresh_from_db()
    assert (ramp.percent, ramp.status) == (5, "active")
    a_day(ramp, START + DAY, quality=(0.9, 0.1), requests=1_000)
    cost_migration(START + 2 * DAY, KNOWN)
    ramp.refresh_from_db()
    assert ramp.status == "rolled_back"


def test_a_ramp_waits_while_an_experiment_has_its_cell(wishing: Tenant) -> None:
    ramp = migrating(wishing)
    a_day(ramp, START)
    row = Experiment.objects.create(tenant=wishing, name="e", task=CELL[0], arms=["old", "new"])
    cost_migration(START + DAY, KNOWN)
    ramp.refresh_from_db()
    assert ramp.percent == 5
    Experiment.objects.filter(pk=row.pk).update(status="ended")
    cost_migration(START + DAY, KNOWN)
    ramp.refresh_from_db()
    assert ramp.percent == 25


def test_ramps_by_hand_and_of_experiments_are_left_alone(wishing: Tenant) -> None:
    before(wishing)
    before(wishing, task="math")
    for task, source in (("coding", "hand"), ("math", "experiment")):
        Ramp.objects.create(tenant=wishing, task=task, from_model="old", to_model="new", percent=5, source=source)
    kept = everything(wishing)
    for ramp in Ramp.objects.filter(tenant=wishing):
        a_day(ramp, START, fails=0.9, requests=500)
    for now in (START, START + DAY, START + 30 * DAY):
        cost_migration(now, KNOWN)
    assert everything(wishing) == kept


def test_one_tenants_broken_ramp_does_not_stop_the_others(wishing: Tenant, other_tenant: Tenant) -> None:
    broken = migrating(wishing)
    Ramp.objects.filter(pk=broken.pk).update(evidence={"steps": []})
    RoutingSettings.objects.create(tenant=other_tenant, auto_migrate=True)
    ramp = migrating(other_tenant)
    a_day(ramp, START)
    done = cost_migration(START + DAY, KNOWN)
    assert (done["failed"], done["advanced"]) == (1, 1)


# ---------------------------------------------------------------------- what is proposed


@pytest.mark.parametrize(
    ("why", "history", "known"),
    [
        ("worse", {"better_by": -0.05}, facts()),
        ("too few labels", {"pairs": 80}, facts()),
        ("too little traffic", {"requests": 800}, facts()),
        ("no price", {}, facts(contestants=contestants(old=10.0, new=None, other=9.0))),
        ("gone", {}, facts(contestants=contestants(old=10.0, other=9.0))),
        ("no candidate", {"candidates": weighed(old=0.8, other=0.6)}, facts()),
        ("hardly cheaper", {"candidates": weighed(old=0.8, new=0.7) | {"cost": [10.0, 9.0]}}, facts()),
    ],
)
def test_a_model_is_not_proposed(wishing: Tenant, why: str, history: dict[str, Any], known: Any) -> None:
    before(wishing, **history)
    assert cost_migration(START, facts_of_all(known)) == {
        "begun": 0, "advanced": 0, "done": 0, "rolled_back": 0, "failed": 0, "told": [],
    }, why  # fmt: skip


def test_nothing_begins_for_who_does_not_want_it(tenant: Tenant) -> None:
    RoutingSettings.objects.create(tenant=tenant)
    before(tenant)
    assert cost_migration(START, KNOWN)["begun"] == 0


def test_nothing_begins_for_who_is_switched_off(wishing: Tenant) -> None:
    before(wishing)
    assert cost_migration(START, lambda tenant_id: None)["begun"] == 0


def test_only_requests_that_the_usual_model_would_answer_count_as_evidence(wishing: Tenant) -> None:
    elsewhere = replace_means(weighed(old=0.8, new=0.7), other=0.9)
    before(wishing, requests=700, candidates=elsewhere)
    before(wishing, pairs=0, requests=1_000)
    assert cost_migration(START, KNOWN)["begun"] == 0


def replace_means(columns: dict[str, list[Any]], **more: float) -> dict[str, list[Any]]:
    """The same with further candidates."""
    added = weighed(**more)
    return {name: [*values, *added[name]] for name, values in columns.items()}


def test_two_workers_begin_and_advance_a_migration_once(real_commits: Database) -> None:
    tenant = Tenant.objects.create(slug="acme")
    RoutingSettings.objects.create(tenant=tenant, auto_migrate=True)
    before(tenant)
    moment = START

    def work(_: int) -> dict[str, Any]:
        try:
            return cost_migration(moment, KNOWN)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(3) as workers:
        assert sum(one["begun"] for one in workers.map(work, range(3))) == 1
        ramp = Ramp.objects.get(tenant=tenant)
        a_day(ramp, START)
        moment = START + DAY
        done = list(workers.map(work, range(3)))
    assert sum(one["advanced"] for one in done) == 1
    assert sum(one["failed"] for one in done) == 0
    ramp.refresh_from_db()
    assert ramp.percent == 25
    assert happened(tenant) == ["ramp.created", "ramp.changed"]


def test_the_commands_run_the_jobs_and_say_what_came_of_it(wishing: Tenant) -> None:
    for job in ("auto_ab", "cost_migration"):
        out = StringIO()
        call_command(job, stdout=out)
        assert out.getvalue().startswith("done: ")
        assert "begun 0" in out.getvalue()
        assert JobRun.objects.filter(job=job, outcome="done").exists()
