"""Figures of experiments, simulated with fixed seeds: false winners, power, false and missed alarms."""

import numpy as np
import pytest

from routing.experiments.betting import interval, log_evidence, log_gains, rounded
from routing.experiments.guards import Guard, breaches
from routing.experiments.sample_ratio import check_ratio
from routing.experiments.sequential import ALPHA, PairComparison, SplitComparison, Verdict
from routing.experiments.totals import ArmTotals

TESTS, LABELS = 1_000, 400


def named(control, challenger) -> np.ndarray:
    """Of each test (row): whether, looked at after every pair, it ever names a winner, and which: -1, 0, 1."""
    winners = np.zeros(len(control), int)
    for test, differences in enumerate(np.round(challenger - control, 3)):
        evidence = log_evidence(np.cumsum(log_gains(differences), axis=0))
        proven = evidence >= np.log(2 / ALPHA)
        if proven.any():
            winners[test] = 1 if proven[proven.any(axis=1).argmax(), 0] else -1
    return winners


def right_or_wrong(chance, rng):
    return (rng.random(chance.shape) < chance).astype(float)


def five_steps(chance, rng):
    return np.clip(np.round((chance + rng.normal(0, 0.25, chance.shape)) * 4) / 4, 0, 1)


def continuous(chance, rng):
    return np.clip(chance + rng.normal(0, 0.2, chance.shape), 0, 1)


SCALES = (right_or_wrong, five_steps, continuous)


@pytest.mark.parametrize("scale", SCALES, ids=lambda scale: scale.__name__)
def test_a_thousand_equal_pairs_name_a_winner_in_at_most_one_in_twenty(scale):
    rng = np.random.default_rng(1)
    of_request = rng.beta(1.5, 0.8, (TESTS, LABELS))
    share = np.mean(named(scale(of_request, rng), scale(of_request, rng)) != 0)
    print(f"equal pairs, {scale.__name__}: {share:.1%} name a winner")
    assert share <= 0.05


@pytest.mark.parametrize("scale", SCALES, ids=lambda scale: scale.__name__)
def test_a_thousand_equal_splits_name_a_winner_in_at_most_one_in_twenty(scale):
    rng = np.random.default_rng(2)
    arms = [scale(rng.beta(1.5, 0.8, (TESTS, LABELS)), rng) for _ in range(2)]
    share = np.mean(named(*arms) != 0)
    print(f"equal splits, {scale.__name__}: {share:.1%} name a winner")
    assert share <= 0.05


def judged(quality, rng):
    """What a judge with a standard deviation of .12 says; clipping to 0-1 takes a tenth of any difference away."""
    return np.clip(quality + rng.normal(0, 0.12, quality.shape), 0, 1)


def correlated(rng, lift: float):
    """Right and wrong answers of two models to the same requests: what is easy for one is easy for both."""
    chance = (1 - lift) * rng.beta(0.5, 0.3, (TESTS, LABELS))
    return right_or_wrong(chance, rng), right_or_wrong(chance + lift, rng)


def test_a_difference_of_fifteen_points_is_found_in_four_fifths_of_paired_tests():
    rng = np.random.default_rng(3)
    winners = named(*correlated(rng, 0.15))
    print(f"pairs, right or wrong, difference .15: found in {np.mean(winners == 1):.1%}")
    assert np.mean(winners == 1) >= 0.8 and not (winners == -1).any()


def test_a_noisy_judge_finds_fifteen_points_in_four_fifths_of_paired_tests():
    rng = np.random.default_rng(10)
    control, challenger = (judged(quality, rng) for quality in correlated(rng, 0.166))
    differences = challenger - control
    assert differences.mean() == pytest.approx(0.15, abs=0.005)
    winners = named(control, challenger)
    print(f"pairs, judge, difference .15, sd {differences.std():.2f}: found in {np.mean(winners == 1):.1%}")
    assert np.mean(winners == 1) >= 0.8 and not (winners == -1).any()


@pytest.mark.parametrize("base", [0.425, 0.65])
def test_a_difference_of_fifteen_points_is_found_in_four_fifths_of_splits(base):
    rng = np.random.default_rng(4)
    control = right_or_wrong(np.full((TESTS, LABELS), base), rng)
    winners = named(control, right_or_wrong(np.full((TESTS, LABELS), base + 0.15), rng))
    print(f"splits, right or wrong, {base} against {base + 0.15:.3f}: found in {np.mean(winners == 1):.1%}")
    assert np.mean(winners == 1) >= 0.8 and not (winners == -1).any()


def test_what_is_simulated_is_what_the_comparisons_say_pair_by_pair():
    rng = np.random.default_rng(5)
    chance = rng.random((12, 150))
    control, challenger = five_steps(chance, rng), five_steps(np.clip(chance + 0.2, 0, 1), rng)
    expected = named(control, challenger)
    for test in range(12):
        pairs, split = PairComparison(), SplitComparison()
        for first, second in zip(control[test], challenger[test], strict=True):
            pairs.add(first, second)
            split.add(1, second)
            split.add(0, first)
        verdict = {1: Verdict.B, -1: Verdict.A, 0: Verdict.NONE_YET}[int(expected[test])]
        assert pairs.winner is split.paired.winner is verdict
        assert np.allclose(pairs.log_capital, log_gains(np.round(challenger[test] - control[test], 3)).sum(axis=0))


def test_intervals_hold_the_true_difference_at_every_look_together():
    rng, missed = np.random.default_rng(6), 0
    for _ in range(200):
        chance = rng.beta(1.5, 0.8, 400) * 0.9
        differences = right_or_wrong(chance + 0.1, rng) - right_or_wrong(chance, rng)
        steps = [rounded(difference) for difference in differences]
        looks = (interval({step: steps[:n].count(step) for step in set(steps[:n])}, ALPHA) for n in range(20, 401, 20))
        missed += any(not low <= 0.1 <= high for low, high in looks)
    print(f"intervals at 20 looks: {missed} of 200 tests miss the true difference at some look")
    assert missed <= 10


def test_a_thousand_right_splits_raise_at_most_ten_alarms():
    rng = np.random.default_rng(7)
    alarms = 0
    for _ in range(1_000):
        seconds = np.cumsum(rng.binomial(50, 0.5, 100))
        counts = zip(range(50, 5_001, 50), seconds.tolist(), strict=True)
        alarms += any(check_ratio((total - second, second), (0.5, 0.5)).alarm for total, second in counts)
    print(f"right splits, looked at 100 times: {alarms} of 1,000 raise an alarm")
    assert alarms <= 10


def test_a_split_of_fifty_five_to_forty_five_is_found_within_five_thousand():
    rng, found = np.random.default_rng(8), 0
    for _ in range(200):
        first = np.cumsum(rng.binomial(250, 0.55, 20)).tolist()
        counts = zip(range(250, 5_001, 250), first, strict=True)
        found += any(check_ratio((one, total - one), (0.5, 0.5)).alarm for total, one in counts)
    print(f"55/45 against 50/50: found within 5,000 in {found} of 200")
    assert found >= 196


def test_guards_that_allow_nothing_are_hardly_ever_broken_by_equal_arms():
    rng, alarms = np.random.default_rng(9), 0
    guards = [Guard(metric, worst_relative=0.0) for metric in ("cost", "p95", "errors", "refusals")]
    for _ in range(60):
        arms = ArmTotals(), ArmTotals()
        broken = False
        for _ in range(12):
            for totals in arms:
                for cost, latency, luck in zip(
                    rng.lognormal(-7, 1, 100), rng.lognormal(6.5, 0.6, 100), rng.random(100), strict=True
                ):
                    totals.add(cost_usd=cost, latency_ms=latency, failed=luck < 0.01, refused=luck > 0.97)
            broken = broken or bool(breaches(guards, *arms))
        alarms += broken
    print(f"guards: {alarms} of 60 equal pairs of arms break one at some of 12 looks")
    assert alarms <= 2
