"""Moving a cell to a cheaper model: what is proposed, how it ramps up and what is claimed to be saved."""

from decimal import Decimal

import pytest

from routing.experiments.sequential import PairComparison
from routing.experiments.totals import ArmTotals
from routing.migration import (
    Alternative,
    CellFacts,
    LedgerTotals,
    QualityGap,
    RampEvidence,
    RampRules,
    in_ramp,
    next_step,
    propose,
    saving,
    total_saving,
)


def a_gap(estimate: float = 0.0, *, half: float = 0.015, labels: float = 400.0) -> QualityGap:
    return QualityGap(estimate, estimate - half, estimate + half, labels, "doubly robust")


def a_cell(*alternatives: Alternative) -> CellFacts:
    return CellFacts("qa", "simple", "large", 10.0, 60_000, alternatives)


def answered(requests: int, *, cost: float = 0.001, failed: int = 0) -> ArmTotals:
    totals = ArmTotals()
    for number in range(requests):
        totals.add(cost_usd=cost * (0.5 + number % 2), latency_ms=500.0, failed=number < failed)
    return totals


def seen(**changed) -> RampEvidence:
    evidence = {"control": answered(900), "moved": answered(300, cost=0.0005), "gap": a_gap(labels=50), "hours": 30.0}
    return RampEvidence(**(evidence | changed))


def test_the_cheapest_model_that_is_not_worse_is_proposed():
    found = propose(a_cell(Alternative("small", 2.0, a_gap()), Alternative("tiny", 1.0, a_gap(-0.1))))
    assert found is not None and (found.successor, found.cheaper_by) == ("small", 0.8)
    assert found.expected_saving_usd == pytest.approx(480.0)
    assert found.reason.startswith("small costs 80% less than large and differs in quality by +0.000 (-0.015 to +0.015")


@pytest.mark.parametrize(
    "unfit",
    [
        Alternative("hardly cheaper", 8.1, a_gap()),
        Alternative("perhaps worse", 2.0, a_gap(half=0.021)),
        Alternative("hardly known", 2.0, a_gap(labels=99)),
        Alternative("large", 2.0, a_gap()),
    ],
    ids=lambda unfit: unfit.model,
)
def test_nothing_is_proposed_without_a_saving_and_a_proof(unfit):
    assert propose(a_cell(unfit)) is None


def test_a_gap_is_taken_from_shadow_pairs():
    comparison = PairComparison()
    for _ in range(300):
        comparison.add(0.5, 0.6)
    gap = QualityGap.of_standing(comparison.standing())
    assert gap.source == "paired" and gap.effective_sample_size == 300 and 0 < gap.low < 0.1 < gap.high


def test_a_ramp_without_harm_goes_up_step_by_step_until_it_is_done():
    percent, steps = 5, []
    while not (step := next_step(percent, seen())).done:
        assert step.action == "advance"
        percent = step.percent
        steps.append(percent)
    assert steps == [25, 50, 100] and (step.action, step.percent) == ("hold", 100)


@pytest.mark.parametrize(
    ("lacking", "told"),
    [
        ({"hours": 3.0}, "3 of 24 hours have passed"),
        ({"moved": answered(40, cost=0.0005)}, "40 of 100 requests were seen"),
        ({"gap": None}, "0 of 20 judgements were made"),
        ({"gap": a_gap(-0.08, half=0.2, labels=50)}, "quality looks worse by 0.080, not yet certainly"),
    ],
)
def test_a_ramp_waits_for_what_is_missing_but_not_for_ever(lacking, told):
    step = next_step(25, seen(**lacking))
    assert (step.action, step.percent, step.reason) == ("hold", 25, told)
    if "hours" not in lacking:
        late = next_step(25, seen(**lacking | {"hours": 22 * 24.0}))
        assert (late.action, late.percent) == ("roll_back", 0) and told in late.reason


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        ({"moved": answered(300, cost=0.0005, failed=40)}, "error rate is 13.3% against 0.0%"),
        ({"moved": answered(300, cost=0.002)}, "cost is 2 USD per 1,000 requests against 1 USD"),
        ({"gap": a_gap(-0.2, half=0.1, labels=50), "hours": 1.0}, "quality differs by -0.200 (-0.300 to -0.100)"),
    ],
)
def test_certain_harm_rolls_back_at_once(harm, told):
    step = next_step(100, seen(**harm))
    assert (step.action, step.percent) == ("roll_back", 0) and step.reason.startswith(told)


def test_rules_can_be_other_than_the_usual():
    rules = RampRules(steps=(10, 100), least_requests=10, least_labels=0, least_hours=1.0)
    step = next_step(10, seen(moved=answered(20, cost=0.0005), gap=None, hours=2.0), rules)
    assert (step.action, step.percent) == ("advance", 100)


def test_who_is_in_a_ramp_stays_in_it_as_it_grows():
    keys = [f"session-{number}" for number in range(20_000)]
    inside = {percent: {key for key in keys if in_ramp("ramp", key, percent)} for percent in (0, 5, 25, 50, 100)}
    assert inside[0] == set() and inside[100] == set(keys)
    assert inside[5] < inside[25] < inside[50]
    assert len(inside[5]) == pytest.approx(1_000, abs=120)
    assert inside[50] != {key for key in keys if in_ramp("another", key, 50)}


def test_savings_are_differences_of_what_was_paid():
    control, moved = LedgerTotals(100, Decimal("1.00")), LedgerTotals(50, Decimal("0.20"))
    assert saving(control, moved).usd == Decimal("0.30") and saving(control, moved).share == Decimal("0.6")
    assert saving(control, LedgerTotals(50, Decimal("0.70"))).usd == Decimal("-0.20")
    assert total_saving([(control, moved), (control, moved)]) == Decimal("0.60")


def test_nothing_is_claimed_to_be_saved_without_a_control():
    assert saving(LedgerTotals(0, Decimal(0)), LedgerTotals(50, Decimal(1))).share is None
    assert saving(LedgerTotals(0, Decimal(0)), LedgerTotals(50, Decimal(1))).usd == 0
