"""Experiments: who gets which arm, what is proven at any look, and what follows from it."""

import json
import math

import numpy as np
import pytest

from routing.experiments import Experiment
from routing.experiments.assignment import arm_of, challenger_of
from routing.experiments.evidence import MOST_UNITS, Evidence
from routing.experiments.guards import STANDARD_GUARDS, Guard, Metric, breaches
from routing.experiments.sample_ratio import check_ratio
from routing.experiments.sequential import PairComparison, SplitComparison, Verdict
from routing.experiments.ties import Believed, CellBeliefs, proposals
from routing.experiments.totals import ArmTotals
from routing.experiments.verdicts import Limits, decide


def an_experiment(**changed) -> Experiment:
    facts = {"id": "e1", "name": "test", "task": "qa", "complexity": "", "arms": ("old", "new"), "shares": (0.5, 0.5)}
    return Experiment(**(facts | changed))


def answered(requests: int, *, seed: int = 0, cost=0.001, failed=0.01, refused=0.02, latency_ms=800.0) -> ArmTotals:
    totals, rng = ArmTotals(), np.random.default_rng(seed)
    for _ in range(requests):
        totals.add(
            cost_usd=cost * rng.lognormal(-0.5, 1.0),
            latency_ms=latency_ms * rng.lognormal(0.0, 0.6),
            failed=rng.random() < failed,
            refused=rng.random() < refused,
        )
    return totals


def compared(pairs) -> PairComparison:
    comparison = PairComparison()
    for control, challenger in pairs:
        comparison.add(control, challenger)
    return comparison


# -- facts and assignment ------------------------------------------------------------------------------------------


def test_an_experiment_concerns_its_cell_and_an_empty_word_means_any():
    assert an_experiment().concerns("qa", "complex") and not an_experiment().concerns("coding", "complex")
    assert an_experiment(task="", complexity="simple").concerns("math", "simple")


def test_shares_are_scaled_and_equal_when_none_are_given():
    assert an_experiment(shares=(9, 1)).shares == (0.9, 0.1)
    assert an_experiment(shares=()).shares == (0.5, 0.5)


@pytest.mark.parametrize(
    "wrong",
    [{"arms": ("one",), "shares": ()}, {"arms": ("one", "one")}, {"shares": (1.0,)}, {"shares": (1.0, 0.0)}],
)
def test_an_experiment_that_cannot_be_run_is_refused(wrong):
    with pytest.raises(ValueError, match="an experiment needs"):
        an_experiment(**wrong)


def test_arms_are_assigned_in_their_shares_to_a_part_in_a_thousand():
    experiment = an_experiment(arms=("a", "b", "c"), shares=(0.7, 0.2, 0.1))
    drawn = np.bincount([arm_of(experiment, f"user-{number}")[0] for number in range(400_000)], minlength=3)
    assert np.abs(drawn / 400_000 - experiment.shares).max() < 0.001


def test_an_assignment_is_the_same_everywhere_and_forever():
    experiment = an_experiment()
    assert "".join(str(arm_of(experiment, f"user-{number}")[0]) for number in range(24)) == "011001001110000101000101"
    assert arm_of(an_experiment(shares=(0.9, 0.1)), "user-1")[1] in (0.9, 0.1)


def test_two_experiments_assign_independently():
    first, second = an_experiment(), an_experiment(id="e2")
    both = [arm_of(first, str(key))[0] == arm_of(second, str(key))[0] for key in range(20_000)]
    assert np.mean(both) == pytest.approx(0.5, abs=0.015)


def test_a_shadow_experiment_is_answered_by_its_control_and_shares_out_its_challengers():
    experiment = an_experiment(mode="shadow", arms=("a", "b", "c"), shares=(0.5, 0.25, 0.25))
    assert arm_of(experiment, "anybody") == (0, 1.0)
    drawn = [challenger_of(experiment, str(key)) for key in range(4_000)]
    assert {arm for arm, _ in drawn} == {1, 2} and {odds for _, odds in drawn} == {0.5}
    with pytest.raises(ValueError, match="only a shadow experiment"):
        challenger_of(an_experiment(), "anybody")


# -- comparisons ---------------------------------------------------------------------------------------------------


def test_a_state_goes_through_json_and_goes_on_as_if_nothing_had_happened():
    rng = np.random.default_rng(3)
    pairs = rng.random((60, 2)).tolist()
    whole = compared(pairs)
    stored = PairComparison.from_json(json.loads(json.dumps(compared(pairs[:25]).to_json())))
    for control, challenger in pairs[25:]:
        stored.add(control, challenger)
    assert stored.to_json() == whole.to_json() and stored.standing() == whole.standing()


def test_nothing_is_known_before_the_first_pair():
    standing = PairComparison().standing()
    assert (standing.pairs, standing.low, standing.high) == (0, -1.0, 1.0)
    assert standing.verdict is Verdict.NONE_YET and standing.p_value == 1.0


def test_the_better_arm_is_named_and_stays_named():
    comparison = compared([(0.25, 0.75)] * 40)
    standing = comparison.standing()
    assert standing.verdict is Verdict.B and standing.p_value <= 0.05 and standing.e_value >= 20
    assert 0 < standing.low < 0.5 < standing.high
    for _ in range(60):
        comparison.add(0.75, 0.25)
    assert comparison.standing().verdict is Verdict.B
    assert compared([(0.75, 0.25)] * 40).standing().verdict is Verdict.A


def test_the_largest_difference_there_can_be_has_an_interval():
    standing = compared([(1.0, 0.0)] * 30).standing()
    assert standing.verdict is Verdict.A and standing.low == -1.0 and standing.high < 0


def test_arms_whose_difference_certainly_is_small_are_equal():
    rng = np.random.default_rng(5)
    easy = rng.random(900) < 0.7
    pairs = np.clip(easy[:, None] + rng.normal(0, 0.12, (900, 2)), 0, 1)
    standing = compared(pairs.tolist()).standing()
    assert standing.verdict is Verdict.EQUAL and -0.05 <= standing.low < standing.high <= 0.05


def test_a_value_outside_nought_and_one_is_refused():
    with pytest.raises(ValueError, match=r"not at 1\.2"):
        PairComparison().add(0.5, 1.2)
    with pytest.raises(ValueError, match="not at -1"):
        SplitComparison().add(0, -1.0)


def test_values_of_a_split_meet_in_the_order_they_come():
    comparison = SplitComparison.of_shares(0.5, 0.5)
    for arm, value in [(0, 0.1), (0, 0.2), (1, 0.5), (0, 0.3), (1, 0.5)]:
        comparison.add(arm, value)
    assert comparison.paired.counts == {400: 1, 300: 1} and comparison.waiting == ([0.3], [])


def test_a_small_arm_meets_the_mean_of_several_values_of_a_large_one():
    comparison = SplitComparison.of_shares(0.75, 0.25)
    for arm, value in [(1, 0.9), (0, 0.3), (0, 0.4), (0, 0.5)]:
        comparison.add(arm, value)
    assert comparison.paired.counts == {500: 1} and comparison.waiting == ([], [])
    stored = SplitComparison.from_json(json.loads(json.dumps(comparison.to_json())))
    assert stored.to_json() == comparison.to_json()


# -- shares and guards ---------------------------------------------------------------------------------------------


def test_a_right_split_is_no_alarm_and_a_wrong_one_says_what_it_is():
    assert not check_ratio([2_480, 2_520], [0.5, 0.5]).alarm
    assert not check_ratio([0, 0], [0.5, 0.5]).alarm
    wrong = check_ratio([2_800, 2_200], [0.5, 0.5])
    assert wrong.alarm and wrong.told.startswith("5000 assignments were split 56.0% / 44.0%, declared is 50.0% / 50.0%")


def test_a_guard_needs_one_limit():
    assert Guard(Metric("cost"), worst_relative=0.2).allowed(2.0) == pytest.approx(2.4)
    for wrong in ({}, {"worst_relative": 0.1, "worst_absolute": 0.1}, {"worst_absolute": -0.1}):
        with pytest.raises(ValueError, match="the guard on errors"):
            Guard("errors", **wrong)
    with pytest.raises(ValueError, match="speed"):
        Guard("speed", worst_absolute=1.0)


def test_twenty_requests_of_noise_break_no_guard():
    unlucky = answered(20, failed=0.5, refused=0.5, cost=0.01, latency_ms=9_000)
    assert breaches(STANDARD_GUARDS, answered(20), unlucky) == []


@pytest.mark.parametrize(
    ("worse", "guard", "told"),
    [
        ({"cost": 0.002}, Guard("cost", worst_relative=0.2), "USD per 1,000 requests; at most 20% more is allowed"),
        ({"failed": 0.06}, Guard("errors", worst_absolute=0.01), "error rate is "),
        ({"refused": 0.12}, Guard("refusals", worst_absolute=0.02), "share of refusals is "),
        ({"latency_ms": 2_400.0}, Guard("p95", worst_relative=0.5), "ms; at most 50% more is allowed"),
    ],
)
def test_a_guard_notices_what_got_worse_and_says_so(worse, guard, told):
    [breach] = breaches([guard], answered(2_000, seed=1), answered(2_000, seed=2, **worse))
    assert told in breach.told and breach.value > breach.control
    assert breaches([guard], answered(2_000, seed=1), answered(2_000, seed=2)) == []


def test_totals_go_through_json():
    totals = answered(50)
    totals.add(cost_usd=None, latency_ms=None, failed=True)
    assert ArmTotals.from_json(json.loads(json.dumps(totals.to_json()))) == totals
    assert totals.cost_per_1000 == pytest.approx(1_000 * totals.cost_usd / 50)


def test_a_latency_beyond_all_bounds_is_told_as_the_highest_and_goes_through_json():
    totals = ArmTotals()
    for _ in range(3):
        totals.add(cost_usd=0.1, latency_ms=2_000_000)
    assert totals.p95_ms() == 1_000_000
    evidence = shadow_evidence([(0.25, 0.75)] * 3)
    for place in range(2):
        evidence.add_answer(place, "slow", cost_usd=0.1, latency_ms=math.inf)
        evidence.totals[place].latency_counts[:-1] = [0] * (len(totals.latency_counts) - 1)
    assert json.loads(json.dumps(concluded(evidence).data, allow_nan=False))["arms"][0]["p95_ms"] == 1_000_000


# -- evidence and conclusions --------------------------------------------------------------------------------------


def shadow_evidence(values, *, costs=(0.002, 0.001), **changed) -> Evidence:
    evidence = Evidence.begin(an_experiment(mode="shadow", sticky="request", **changed))
    for number, (control, challenger) in enumerate(values):
        evidence.add_pair(1, str(number), control, challenger)
        for arm, cost in enumerate(costs):
            evidence.add_answer(arm, str(number), cost_usd=cost, latency_ms=700.0)
    return evidence


def concluded(evidence: Evidence, *, days: float = 3.0, **limits):
    return decide(evidence.experiment, evidence, Limits(**limits), days=days)


def test_a_winner_is_promoted_with_the_reason_in_words_and_as_data():
    conclusion = concluded(shadow_evidence([(0.25, 0.75)] * 60))
    assert (conclusion.action, conclusion.winner) == ("promote", "new")
    assert conclusion.reason.startswith("new is better: new differs from old by +0.500 (+0.")
    assert json.loads(json.dumps(conclusion.data))["arms"][1]["verdict"] == "b"


def test_a_control_that_is_better_is_kept_as_the_winner():
    conclusion = concluded(shadow_evidence([(0.75, 0.25)] * 60))
    assert (conclusion.action, conclusion.winner) == ("keep_control", "old")


@pytest.mark.parametrize(
    ("costs", "action", "winner"),
    [
        ((0.002, 0.001), "promote", "new"),
        ((0.001, 0.002), "keep_control", "old"),
        ((None, 0.001), "keep_control", None),
    ],
)
def test_of_equals_the_cheaper_one_wins(costs, action, winner):
    conclusion = concluded(shadow_evidence([(0.5, 0.5), (0.75, 0.75), (0.5, 0.52), (0.52, 0.5)] * 100, costs=costs))
    assert (conclusion.action, conclusion.winner) == (action, winner)


def test_an_experiment_goes_on_until_it_has_taken_its_most_labels_or_days():
    evidence = shadow_evidence([(0.5, 0.55), (0.6, 0.5)] * 5)
    assert concluded(evidence).action == "continue"
    spent, late = concluded(evidence, most_labels=10), concluded(evidence, days=28)
    assert (spent.action, spent.winner) == (late.action, late.winner) == ("keep_control", None)
    assert "undecided after 10 judged requests" in spent.reason and "undecided after 28 days" in late.reason


def test_a_wrong_split_stops_the_experiment_without_a_winner():
    evidence = Evidence.begin(an_experiment(sticky="request"))
    for number in range(1_000):
        arm = int(number % 10 < 4)
        evidence.add_answer(arm, str(number), cost_usd=0.001, latency_ms=500.0)
        evidence.add_label(arm, str(number), float(arm))
    conclusion = concluded(evidence)
    assert (conclusion.action, conclusion.winner) == ("stop", None)
    assert "60.0% / 40.0%, declared is 50.0% / 50.0%" in conclusion.reason


def test_a_better_arm_that_breaks_a_guard_is_not_promoted():
    evidence = Evidence.begin(an_experiment(sticky="request"))
    for number in range(1_200):
        arm = number % 2
        evidence.add_answer(arm, str(number), cost_usd=0.001, latency_ms=500.0, failed=bool(arm and number % 5 == 0))
        evidence.add_label(arm, str(number), 0.4 + 0.5 * arm)
    conclusion = concluded(evidence)
    assert (conclusion.action, conclusion.winner) == ("keep_control", None)
    assert conclusion.reason.startswith("new: error rate is 20.0% against 0.0%")


def test_three_arms_share_the_error_and_the_best_is_promoted():
    experiment = an_experiment(arms=("old", "good", "best"), shares=())
    evidence = Evidence.begin(experiment)
    assert [comparison.paired.alpha for comparison in evidence.comparisons] == [0.025, 0.025]
    for number in range(600):
        arm = number % 3
        evidence.add_answer(arm, str(number), cost_usd=0.001, latency_ms=500.0)
        assert evidence.add_label(arm, str(number), (0.2, 0.6, 0.9)[arm])
    conclusion = concluded(evidence)
    assert (conclusion.action, conclusion.winner) == ("promote", "best")


def test_a_session_bears_witness_once():
    evidence = Evidence.begin(an_experiment(sticky="session"))
    taken = [evidence.add_label(0, "the same session", 1.0) for _ in range(5)]
    for _ in range(5):
        evidence.add_answer(0, "the same session", cost_usd=0.001, latency_ms=500.0)
    assert taken == [True, False, False, False, False]
    assert (evidence.labels, evidence.units, evidence.totals[0].requests) == (1, [1, 0], 5)
    assert MOST_UNITS >= 5_000


def test_the_wrong_kind_of_label_is_refused():
    with pytest.raises(ValueError, match="takes pairs"):
        shadow_evidence([]).add_label(0, "unit", 0.5)
    with pytest.raises(ValueError, match="only a shadow experiment"):
        Evidence.begin(an_experiment()).add_pair(1, "unit", 0.5, 0.5)


@pytest.mark.parametrize("mode", ["split", "shadow"])
def test_evidence_goes_through_json_and_replicas_agree(mode):
    experiment = an_experiment(mode=mode, sticky="user")
    rng, kept, restored = np.random.default_rng(1), Evidence.begin(experiment), Evidence.begin(experiment)
    for number in range(40):
        arm, user, values = number % 2, f"user-{number // 3}", rng.random(2).tolist()
        restored = Evidence.from_json(experiment, json.loads(json.dumps(restored.to_json())))
        for evidence in (kept, restored):
            evidence.add_answer(arm, user, cost_usd=values[0], latency_ms=500.0)
            if mode == "split":
                evidence.add_label(arm, user, values[0])
            else:
                evidence.add_pair(1, user, *values)
    assert kept.to_json() == restored.to_json() and kept.labels == 14


# -- ties ----------------------------------------------------------------------------------------------------------


def a_cell(task: str, requests: int, *means: float, sd: float = 0.05) -> CellBeliefs:
    models = tuple(Believed(f"m{place}", mean, sd, 30) for place, mean in enumerate(means))
    return CellBeliefs(task, "simple", models, requests)


def test_tied_cells_are_proposed_those_with_most_traffic_first():
    cells = [a_cell("qa", 10, 0.7, 0.8), a_cell("math", 90, 0.5, 0.9), a_cell("coding", 50, 0.9, 0.3, 0.88)]
    found = proposals(cells, [])
    assert [(one.task, one.arms) for one in found] == [("coding", ("m0", "m2")), ("qa", ("m1", "m0"))]
    assert "within 0.15 of each other" in found[0].reason
    assert proposals(cells, [], most=1) == found[:1]


def test_no_more_are_proposed_than_may_run_and_none_where_one_runs():
    cells = [a_cell("qa", 10, 0.7, 0.8), a_cell("coding", 50, 0.9, 0.88)]
    running = [an_experiment(task="coding", complexity="")]
    assert [one.task for one in proposals(cells, running)] == ["qa"]
    assert proposals(cells, running, most=1) == []


def test_what_is_known_already_or_not_known_at_all_is_not_tested():
    assert proposals([a_cell("qa", 10, 0.7, 0.8, sd=0.01)], []) == []
    assert proposals([a_cell("qa", 10, 0.7, 0.8)], [], least_labels=31) == []
    assert proposals([a_cell("qa", 0, 0.7, 0.8)], []) == []
    assert proposals([a_cell("qa", 10, 0.7)], []) == []
