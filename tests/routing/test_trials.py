"""Experiments on the database: fed with rows as traffic and judges leave them, they end with what is proven."""

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from io import StringIO
from typing import Any
from uuid import NAMESPACE_DNS, uuid5

import pytest
from django.core.management import CommandError, call_command
from django.db import connections

from audit.record import Actor, verify_chain
from gateway.models import Model
from routing.experiments.assignment import arm_of, challenger_of
from routing.models import Experiment, ExperimentEvidence, Label, Ramp, RoutingSettings
from routing.trials import NotRunning, auto_ab, conclusion_of, evaluate_experiments, stop_experiment
from routing.trials import conclusions as conclusions_module
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
LATER = START + DAY + SETTLED

Value = Callable[[Traffic, str], float]


def begun(tenant: Tenant, **changed: Any) -> Experiment:
    """Of a key of its own that is the same at each run, as arms are drawn by it."""
    values = {
        "id": uuid5(NAMESPACE_DNS, tenant.slug),
        "name": "old-or-new",
        "task": CELL[0],
        "complexity": CELL[1],
        "arms": ["old", "new"],
        "mode": Experiment.Mode.SPLIT,
    }
    row = Experiment.objects.create(tenant=tenant, **(values | changed))
    Experiment.objects.filter(pk=row.pk).update(created_at=START)
    row.refresh_from_db()
    return row


def of_quality(**quality: float) -> Value:
    """Right or wrong, by model."""
    return lambda traffic, model: float(traffic.rng.random() < quality[model])


def close_to(**quality: float) -> Value:
    """A judge's values, by model."""
    return lambda traffic, model: min(max(traffic.rng.normal(quality[model], 0.08), 0.0), 1.0)


def split(traffic: Traffic, row: Experiment, count: int, value: Value, start: datetime = START, **changed: Any) -> None:
    """Requests of sessions of their own, each judged."""
    design = row.design()
    for number, at in enumerate(moments(start, count, DAY)):
        unit = f"{(start - START).days}/{number}"
        arm = design.arms[arm_of(design, unit)[0]]
        asked = {"engine": "experiment", "experiment_id": row.pk, "arm": arm, "unit": unit, "propensity": 0.5}
        decision = traffic.decided(at, arm, **(asked | changed))
        traffic.judged(decision, value(traffic, arm))
    traffic.write()


def shadowed(
    traffic: Traffic, row: Experiment, count: int, pair: Callable[[Traffic], tuple[float, float]], model: Model | None
) -> None:
    """Requests answered by the control, each with a challenger beside it (whose calls cost .001 USD), each judged."""
    design = row.design()
    for number, at in enumerate(moments(START, count, DAY)):
        unit = f"session-{number}"
        challenger = design.arms[challenger_of(design, unit)[0]]
        decision = traffic.decided(
            at, design.arms[0], engine="experiment", experiment_id=row.pk, arm=design.arms[0], unit=unit,
            challenger=challenger, challenger_propensity=1.0,
        )  # fmt: skip
        traffic.judged_pair(decision, *pair(traffic))
        if model is not None:
            traffic.paid(decision, model, Decimal("0.001"), "shadow")
    traffic.write()


def everything(tenant: Tenant) -> list[Any]:
    """All that jobs may change, as it is now."""
    kept = ExperimentEvidence.objects.filter(tenant=tenant).values_list("state", "position", "seen_id", "updated_at")
    experiments = Experiment.objects.filter(tenant=tenant).order_by("pk").values_list("status", "winner", "reason")
    ramps = Ramp.objects.filter(tenant=tenant).order_by("pk").values_list("to_model", "status", "percent", "reason")
    return [list(kept), list(experiments), list(ramps), happened(tenant)]


# ---------------------------------------------------------------------- how experiments end


def test_a_better_challenger_of_a_split_wins_its_cell(tenant: Tenant) -> None:
    row = begun(tenant)
    split(Traffic(tenant), row, 800, of_quality(old=0.5, new=0.75))
    done = evaluate_experiments(LATER)
    row.refresh_from_db()
    assert (row.status, row.winner) == ("ended", "new")
    assert "new is better" in row.reason
    assert row.ended_at == LATER
    ramp = Ramp.objects.get(tenant=tenant)
    assert (ramp.task, ramp.complexity, ramp.to_model, ramp.from_model) == (*CELL, "new", "")
    assert (ramp.source, ramp.status, ramp.percent, ramp.since) == ("experiment", "done", 100, LATER)
    assert (done["ended"], done["labels"], done["answers"], done["failed"]) == (1, 800, 800, 0)
    assert done["told"] == [f"acme/old-or-new: {row.reason}"]
    assert happened(tenant) == ["ramp.created", "experiment.ended"]
    assert verify_chain(tenant) == []


def test_a_winner_is_only_named_where_nothing_is_promoted(tenant: Tenant) -> None:
    row = begun(tenant, promotes=False)
    split(Traffic(tenant), row, 800, of_quality(old=0.5, new=0.75))
    evaluate_experiments(LATER)
    row.refresh_from_db()
    assert row.winner == "new"
    assert not Ramp.objects.exists()


def test_a_better_challenger_of_a_shadow_experiment_wins_its_cell(tenant: Tenant) -> None:
    row = begun(tenant, mode=Experiment.Mode.SHADOW)
    shadowed(Traffic(tenant), row, 200, lambda t: (float(t.rng.random() < 0.4), float(t.rng.random() < 0.8)), None)
    evaluate_experiments(LATER)
    row.refresh_from_db()
    assert (row.winner, Ramp.objects.get(tenant=tenant).to_model) == ("new", "new")


def test_a_better_control_keeps_its_cell(tenant: Tenant) -> None:
    row = begun(tenant)
    split(Traffic(tenant), row, 800, of_quality(old=0.75, new=0.5))
    evaluate_experiments(LATER)
    row.refresh_from_db()
    assert (row.status, row.winner) == ("ended", "old")
    assert not Ramp.objects.exists()


def test_of_equal_arms_the_cheaper_one_wins(tenant: Tenant) -> None:
    row = begun(tenant)
    split(Traffic(tenant), row, 1500, close_to(old=0.7, new=0.7))
    evaluate_experiments(LATER)
    row.refresh_from_db()
    assert row.winner == "new"
    assert "as good as old and cheaper" in row.reason
    assert Ramp.objects.get(tenant=tenant).to_model == "new"


def test_what_a_shadow_costs_is_read_from_the_ledger(tenant: Tenant, model: Model) -> None:
    Model.objects.filter(pk=model.pk).update(name="new")
    row = begun(tenant, mode=Experiment.Mode.SHADOW)

    def alike(traffic: Traffic) -> tuple[float, float]:
        quality = traffic.rng.random() * 0.5 + 0.25
        return quality + traffic.rng.normal(0, 0.05), quality + traffic.rng.normal(0, 0.05)

    shadowed(Traffic(tenant), row, 500, alike, model)
    evaluate_experiments(LATER)
    row.refresh_from_db()
    assert row.winner == "new"
    assert "1 USD per 1,000 requests against 10" in row.reason
    control, challenger = conclusion_of(row, LATER).data["arms"]
    assert (control["requests"], challenger["requests"]) == (500, 500)
    assert challenger["p95_ms"] == pytest.approx(700, rel=0.15)


def test_equal_arms_of_equal_cost_end_undecided_when_the_labels_are_used_up(tenant: Tenant) -> None:
    row = begun(tenant, most_labels=300)
    split(Traffic(tenant), row, 320, of_quality(old=0.5, new=0.5))
    evaluate_experiments(LATER)
    row.refresh_from_db()
    assert (row.status, row.winner) == ("ended", "")
    assert "undecided after 320 judged requests" in row.reason
    assert not Ramp.objects.exists()


def test_an_experiment_ends_undecided_when_its_days_are_over(tenant: Tenant) -> None:
    row = begun(tenant, most_days=3)
    split(Traffic(tenant), row, 50, of_quality(old=0.5, new=0.5))
    assert evaluate_experiments(START + 2 * DAY)["ended"] == 0
    assert evaluate_experiments(START + 3 * DAY)["ended"] == 1
    row.refresh_from_db()
    assert "undecided after 3 days" in row.reason


def test_a_broken_split_proves_nothing(tenant: Tenant) -> None:
    row = begun(tenant, shares=[0.3, 0.7])
    half = replace(row.design(), shares=(0.5, 0.5))
    traffic = Traffic(tenant)
    for number, at in enumerate(moments(START, 800, DAY)):
        arm = half.arms[arm_of(half, str(number))[0]]
        traffic.judged(traffic.decided(at, arm, experiment_id=row.pk, arm=arm, unit=str(number)), 0.9 * (arm == "new"))
    traffic.write()
    evaluate_experiments(LATER)
    row.refresh_from_db()
    assert (row.status, row.winner) == ("ended", "")
    assert "not split as declared" in row.reason
    assert not Ramp.objects.exists()


def test_a_challenger_that_fails_is_reverted_however_good_its_answers_are(tenant: Tenant) -> None:
    row = begun(tenant)
    traffic = Traffic(tenant)
    design = row.design()
    for number, at in enumerate(moments(START, 1200, DAY)):
        arm = design.arms[arm_of(design, str(number))[0]]
        asked = {"experiment_id": row.pk, "arm": arm, "unit": str(number)}
        if arm == "new" and number % 5 == 0:
            traffic.decided(at, arm, status=502, model_name="", **asked)
        elif arm == "new" and number % 5 == 1:
            fallback = traffic.decided(at, arm, **(asked | {"model_name": "other"}))
            traffic.judged(fallback, 0.0, "other")
        else:
            traffic.judged(traffic.decided(at, arm, **asked), 0.6 + 0.3 * (arm == "new"))
    traffic.write()
    evaluate_experiments(LATER)
    row.refresh_from_db()
    assert (row.status, row.winner) == ("ended", "")
    assert "new: error rate" in row.reason


def test_guards_are_those_that_the_experiment_names(tenant: Tenant) -> None:
    guards = [{"metric": "cost", "worst_relative": 0.1, "worst_absolute": None}]
    row = begun(tenant, arms=["new", "old"], guards=guards)
    split(Traffic(tenant), row, 600, of_quality(old=0.5, new=0.5))
    evaluate_experiments(LATER)
    row.refresh_from_db()
    assert "old: cost is 10 USD per 1,000 requests against 4" in row.reason


# ---------------------------------------------------------------------- what is taken in


def standing(row: Experiment) -> dict[str, Any]:
    return conclusion_of(row, LATER).data


def test_only_the_judges_first_label_of_an_assigned_answer_counts(tenant: Tenant) -> None:
    row = begun(tenant, sticky=Experiment.Sticky.REQUEST)
    traffic = Traffic(tenant)
    asked = {"experiment_id": row.pk, "arm": "new"}
    decision = traffic.decided(START, "new", **asked)
    traffic.judged(decision, 0.5)
    traffic.judged(decision, 1.0, rater_name="another judge")
    traffic.judged(decision, 1.0, rater=Label.Rater.USER, rater_name="u1")
    traffic.judged(decision, 1.0, "other")
    rated_by_a_user = traffic.decided(START, "new", **asked)
    traffic.judged(rated_by_a_user, 1.0, rater=Label.Rater.USER, rater_name="u1")
    ruled = traffic.decided(START, "new", **asked)
    traffic.judged(ruled, 0.0, rater=Label.Rater.RULE)
    fallback = traffic.decided(START, "new", **(asked | {"model_name": "other"}))
    traffic.judged(fallback, 1.0, "other")
    of_no_experiment = traffic.decided(START, "new")
    traffic.judged(of_no_experiment, 1.0)
    traffic.write()
    evaluate_experiments(LATER)
    assert standing(row)["labels"] == 2
    assert [arm["requests"] for arm in standing(row)["arms"]] == [0, 4]


def test_another_tenants_rows_are_never_taken_in(tenant: Tenant, other_tenant: Tenant) -> None:
    row = begun(tenant)
    split(Traffic(other_tenant), row, 100, of_quality(old=0.0, new=1.0))
    evaluate_experiments(LATER)
    assert standing(row)["labels"] == 0
    assert [arm["requests"] for arm in standing(row)["arms"]] == [0, 0]


def test_an_answer_that_took_ten_minutes_is_counted_as_the_others_are(tenant: Tenant) -> None:
    row = begun(tenant)
    traffic = Traffic(tenant)
    asked = {"experiment_id": row.pk, "arm": "new"}
    traffic.decided(START + timedelta(minutes=2), "new", unit="quick", **asked)
    traffic.write()
    assert evaluate_experiments(START + timedelta(minutes=10))["answers"] == 0
    traffic.decided(START, "new", unit="slow", latency_ms=600_000.0, **asked)
    traffic.write()
    assert evaluate_experiments(START + timedelta(minutes=18))["answers"] == 2
    assert standing(row)["arms"][1]["p95_ms"] >= 600_000


def test_looking_often_shows_what_looking_once_does(tenant: Tenant, other_tenant: Tenant) -> None:
    ends = []
    for owner, looks in ((tenant, 7), (other_tenant, 1)):
        row = begun(owner, mode=Experiment.Mode.SHADOW, sticky=Experiment.Sticky.REQUEST)
        shadowed(Traffic(owner), row, 61, lambda t: (float(t.rng.random() < 0.5), float(t.rng.random() < 0.5)), None)
        for label in Label.objects.filter(tenant=owner, model_name="new").order_by("id")[::3]:
            label.position = (label.position or 0) + 10_000_000  # this half of the pair comes long after the other
            label.save()
        for look in range(1, looks + 1):
            evaluate_experiments(START + (DAY + SETTLED) * (look / looks))
        kept = ExperimentEvidence.objects.get(experiment=row)
        ends.append({name: value for name, value in kept.state.items() if name != "labelled"})
    assert ends[0] == ends[1]
    assert ends[0]["labels"] == 61


def test_a_second_look_changes_nothing(tenant: Tenant) -> None:
    row = begun(tenant)
    split(Traffic(tenant), row, 60, of_quality(old=0.5, new=0.6))
    evaluate_experiments(LATER)
    before = everything(tenant)
    again = evaluate_experiments(LATER)
    assert everything(tenant) == before
    assert [again[name] for name in ("labels", "answers", "ended", "failed")] == [0, 0, 0, 0]
    split(Traffic(tenant, 1), row, 800, of_quality(old=0.3, new=0.8), START + DAY)
    evaluate_experiments(LATER + DAY)
    before = everything(tenant)
    assert before[1][0][0] == "ended"
    evaluate_experiments(LATER + DAY)
    assert everything(tenant) == before


def test_a_look_that_dies_at_its_end_leaves_nothing_behind(tenant: Tenant, monkeypatch: pytest.MonkeyPatch) -> None:
    row = begun(tenant)
    split(Traffic(tenant), row, 800, of_quality(old=0.5, new=0.75))
    before = everything(tenant)

    def dies(*_: Any, **__: Any) -> None:
        raise RuntimeError("killed")

    with monkeypatch.context() as patched:
        patched.setattr(conclusions_module, "record", dies)
        assert evaluate_experiments(LATER)["failed"] == 1
    assert everything(tenant) == before
    evaluate_experiments(LATER)
    row.refresh_from_db()
    assert row.winner == "new"


def test_one_tenants_broken_experiment_does_not_stop_the_others(tenant: Tenant, other_tenant: Tenant) -> None:
    broken = begun(tenant, guards=[{"metric": "no such metric"}])
    split(Traffic(tenant), broken, 10, of_quality(old=0.5, new=0.5))
    row = begun(other_tenant)
    split(Traffic(other_tenant), row, 800, of_quality(old=0.5, new=0.75))
    done = evaluate_experiments(LATER)
    assert (done["failed"], done["ended"]) == (1, 1)
    row.refresh_from_db()
    assert row.winner == "new"


def test_a_running_experiment_that_was_changed_proves_nothing(tenant: Tenant) -> None:
    row = begun(tenant)
    split(Traffic(tenant), row, 20, of_quality(old=0.5, new=0.5))
    evaluate_experiments(LATER)
    Experiment.objects.filter(pk=row.pk).update(arms=["old", "other"])
    evaluate_experiments(LATER)
    row.refresh_from_db()
    assert (row.status, row.winner) == ("ended", "")
    assert "were changed while it ran" in row.reason


# ---------------------------------------------------------------------- ramps in the way


def test_a_cell_given_away_by_hand_stays_as_it_is(tenant: Tenant) -> None:
    by_hand = Ramp.objects.create(tenant=tenant, task=CELL[0], complexity=CELL[1], to_model="other", percent=40)
    row = begun(tenant)
    split(Traffic(tenant), row, 800, of_quality(old=0.5, new=0.75))
    evaluate_experiments(LATER)
    row.refresh_from_db()
    assert row.winner == "new"
    assert row.reason.startswith("not promoted, as this cell was given to other by hand")
    updated = by_hand.updated_at
    by_hand.refresh_from_db()
    assert (by_hand.status, by_hand.percent, by_hand.updated_at) == ("active", 40, updated)
    assert Ramp.objects.count() == 1


def test_a_winner_takes_the_place_of_the_winner_before(tenant: Tenant) -> None:
    former = Ramp.objects.create(
        tenant=tenant, task=CELL[0], complexity=CELL[1], to_model="old", source="experiment", status="done"
    )
    row = begun(tenant)
    split(Traffic(tenant), row, 800, of_quality(old=0.5, new=0.75))
    evaluate_experiments(LATER)
    former.refresh_from_db()
    assert former.status == "ended"
    assert "has found new for this cell" in former.reason
    assert Ramp.objects.get(tenant=tenant, status="done").to_model == "new"
    assert happened(tenant) == ["ramp.ended", "ramp.created", "experiment.ended"]


# ---------------------------------------------------------------------- by hand


def test_an_experiment_can_be_stopped_by_hand_once(tenant: Tenant, actor: Actor) -> None:
    row = begun(tenant)
    stop_experiment(row, actor, LATER)
    assert (row.status, row.winner, row.reason) == ("ended", "", "stopped by hand")
    with pytest.raises(NotRunning):
        stop_experiment(row, actor, LATER)
    assert happened(tenant) == ["experiment.ended"]


def test_the_command_lists_experiments_with_their_standing_and_stops_them(tenant: Tenant) -> None:
    row = begun(tenant)
    split(Traffic(tenant), row, 40, of_quality(old=0.5, new=0.5))
    evaluate_experiments(LATER)
    out = StringIO()
    call_command("experiments", stdout=out)
    assert "acme/old-or-new (coding/complex, split, running)" in out.getvalue()
    assert "new differs from old" in out.getvalue()
    out = StringIO()
    call_command("experiments", "list", "--tenant", "acme", "--json", stdout=out)
    (listed,) = json.loads(out.getvalue())
    assert (listed["name"], listed["action"], listed["figures"]["labels"]) == ("old-or-new", "continue", 40)
    out = StringIO()
    call_command("experiments", "evaluate", stdout=out)
    assert out.getvalue() == "done: labels 0, answers 0, ended 0, failed 0\n"
    call_command("experiments", "stop", "old-or-new", "--tenant", "acme", stdout=StringIO())
    row.refresh_from_db()
    assert row.status == "ended"
    with pytest.raises(CommandError, match="has ended already"):
        call_command("experiments", "stop", "old-or-new", "--tenant", "acme", stdout=StringIO())
    with pytest.raises(CommandError, match="no experiment 'nothing' in acme"):
        call_command("experiments", "stop", "nothing", "--tenant", "acme", stdout=StringIO())
    with pytest.raises(CommandError, match="Say which"):
        call_command("experiments", "stop", stdout=StringIO())


def test_two_workers_end_an_experiment_once(real_commits: Database) -> None:
    tenant = Tenant.objects.create(slug="acme")
    row = begun(tenant)
    split(Traffic(tenant), row, 800, of_quality(old=0.5, new=0.75))

    def work(_: int) -> dict[str, Any]:
        try:
            return evaluate_experiments(LATER)
        finally:
            connections.close_all()

    with ThreadPoolExecutor(4) as workers:
        done = list(workers.map(work, range(4)))
    assert sum(one["ended"] for one in done) == 1
    assert sum(one["answers"] for one in done) == 800
    assert [one["failed"] for one in done] == [0, 0, 0, 0]
    assert happened(tenant) == ["ramp.created", "experiment.ended"]
    assert Ramp.objects.count() == 1


# ---------------------------------------------------------------------- auto-A/B

TIED = facts(published={"old": 0.80, "new": 0.78, "other": 0.4})


def wishing(tenant: Tenant, **changed: Any) -> RoutingSettings:
    return RoutingSettings.objects.create(tenant=tenant, **({"auto_ab": True} | changed))


def answered(tenant: Tenant, count: int, model: str = "old", **changed: Any) -> None:
    traffic = Traffic(tenant)
    for at in moments(START - DAY, count, DAY):
        traffic.decided(at, model, **changed)
    traffic.write()


def test_tied_models_are_tested_by_themselves_with_the_usual_one_as_control(tenant: Tenant) -> None:
    wishing(tenant)
    answered(tenant, 60, "new")
    answered(tenant, 20, "old")
    done = auto_ab(START, facts_of_all(TIED))
    row = Experiment.objects.get(tenant=tenant)
    assert (row.task, row.complexity, row.arms, row.mode) == (*CELL, ["new", "old"], "shadow")
    assert row.name == f"auto coding/complex {START:%Y-%m-%d}"
    assert row.automatic
    assert row.judge_rate == 1.0
    assert (done["begun"], done["tenants"], done["failed"]) == (1, 1, 0)
    assert happened(tenant) == ["experiment.created"]


def test_tied_models_share_the_traffic_where_nothing_may_run_in_the_shadow(tenant: Tenant) -> None:
    wishing(tenant, shadow=False)
    answered(tenant, 60)
    auto_ab(START, facts_of_all(TIED))
    assert Experiment.objects.get(tenant=tenant).mode == "split"


def test_where_there_is_more_traffic_a_smaller_share_of_it_is_judged(tenant: Tenant) -> None:
    wishing(tenant, judge_rate=0.2)
    answered(tenant, 2_500)
    auto_ab(START, facts_of_all(TIED))
    assert Experiment.objects.get(tenant=tenant).judge_rate == pytest.approx(2_000 / 5_000)


def test_auto_ab_a_second_time_begins_nothing(tenant: Tenant, actor: Actor) -> None:
    wishing(tenant)
    answered(tenant, 60)
    auto_ab(START, facts_of_all(TIED))
    before = everything(tenant)
    assert auto_ab(START, facts_of_all(TIED))["begun"] == 0
    assert everything(tenant) == before
    stop_experiment(Experiment.objects.get(tenant=tenant), actor, START)
    assert auto_ab(START + DAY, facts_of_all(TIED))["begun"] == 0
    answered_again = START + 27 * DAY
    traffic = Traffic(tenant)
    for at in moments(answered_again, 60, DAY):
        traffic.decided(at, "old")
    traffic.write()
    assert auto_ab(START + 29 * DAY, facts_of_all(TIED))["begun"] == 1


def test_never_more_than_three_experiments_run_at_a_time(tenant: Tenant) -> None:
    wishing(tenant)
    for number, task in enumerate(("coding", "math", "qa", "creative", "general")):
        answered(tenant, 60 + number, task=task)
    assert auto_ab(START, facts_of_all(TIED))["begun"] == 3
    assert set(Experiment.objects.values_list("task", flat=True)) == {"general", "creative", "qa"}
    assert auto_ab(START, facts_of_all(TIED))["begun"] == 0


@pytest.mark.parametrize(
    ("why", "known"),
    [
        ("far apart", facts(published={"old": 0.9, "new": 0.6, "other": 0.5})),
        ("nobody judges", replace(TIED, judges=False)),
        ("another model answers", facts(published={"old": 0.4, "new": 0.8, "other": 0.78})),
        ("one of them is gone", replace(TIED, contestants=contestants(old=10.0, other=5.0))),
    ],
)
def test_no_experiment_where_it_would_teach_nothing(tenant: Tenant, why: str, known: Any) -> None:
    wishing(tenant)
    answered(tenant, 60)
    assert auto_ab(START, facts_of_all(known))["begun"] == 0, why


def test_no_experiment_with_a_model_that_seldom_qualifies(tenant: Tenant) -> None:
    wishing(tenant)
    answered(tenant, 60, candidates=weighed(old=0.8, other=0.6))
    answered(tenant, 20)
    assert auto_ab(START, facts_of_all(TIED))["begun"] == 0


def test_no_experiment_on_a_cell_that_goes_by_a_ramp(tenant: Tenant) -> None:
    wishing(tenant)
    answered(tenant, 60)
    Ramp.objects.create(tenant=tenant, task=CELL[0], to_model="new")
    assert auto_ab(START, facts_of_all(TIED))["begun"] == 0


def test_no_experiment_for_who_does_not_want_it_or_is_switched_off(tenant: Tenant, other_tenant: Tenant) -> None:
    wishing(tenant, auto_ab=False)
    wishing(other_tenant)
    answered(tenant, 60)
    answered(other_tenant, 60)
    assert auto_ab(START, lambda tenant_id: None)["begun"] == 0
    Tenant.objects.filter(pk=other_tenant.pk).update(enabled=False)
    assert auto_ab(START, facts_of_all(TIED))["begun"] == 0


def test_one_tenants_trouble_does_not_keep_the_others_from_their_tests(tenant: Tenant, other_tenant: Tenant) -> None:
    for owner in (tenant, other_tenant):
        wishing(owner)
        answered(owner, 60)

    def facts_of(tenant_id: Any) -> Any:
        if tenant_id == tenant.pk:
            raise RuntimeError("no policy")
        return TIED

    done = auto_ab(START, facts_of)
    assert (done["failed"], done["begun"]) == (1, 1)
    assert Experiment.objects.get().tenant == other_tenant
