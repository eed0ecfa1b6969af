"""Costs, latencies and the rules that are kept for comparison."""

import numpy as np
import pytest

from routing.ema import EmaSettings, MovingAverages
from routing.features import FeatureSpace
from routing.scores import Candidate, Experience, Taste, fixed_scores, towards_spend

CHEAP, DEAR = Candidate("cheap", 0.1, 0.4), Candidate("dear", 10.0, 40.0)
REQUEST = FeatureSpace().features("x" * 400, "qa", "simple")


def test_cost_is_prompt_and_expected_answer_at_list_price():
    seen = Experience()
    for _ in range(10):
        seen.observe("cheap", "qa", 50)
    assert seen.costs(REQUEST, [CHEAP])[0] == pytest.approx((0.1 * 100 + 0.4 * 50) / 1_000)


def test_a_model_not_seen_yet_is_expected_to_answer_as_long_as_the_others():
    seen = Experience()
    seen.observe("cheap", "qa", 70)
    assert seen.expected_output("dear", "qa") == 70
    assert seen.expected_output("dear", "math") == 300


def test_the_running_latency_is_near_the_median():
    seen, rng = Experience(), np.random.default_rng(0)
    for latency in np.exp(rng.normal(np.log(2.0), 0.4, 3_000)):
        seen.observe("cheap", "qa", 1, float(latency))
    assert np.exp(seen.log_latencies([CHEAP])[0]) == pytest.approx(2.0, rel=0.25)


def test_strategies_weigh_cost_in_units_of_the_best_models_cost():
    assert Taste.of_strategy("quality", 2.0) == Taste()
    assert Taste.of_strategy("balanced", 2.0).cost_weight == pytest.approx(0.025)
    assert Taste.of_strategy("cost", 2.0).cost_weight == pytest.approx(0.25)
    with pytest.raises(ValueError, match="strategy"):
        Taste.of_strategy("magic", 1.0)


def test_a_spend_over_target_makes_cost_weigh_more_and_never_less_than_nothing():
    assert towards_spend(0.1, 2.0, 1.0) == pytest.approx(0.15)
    assert towards_spend(0.01, 0.0, 1.0) == 0.0


@pytest.mark.parametrize(("strategy", "winner"), [("cost", 0), ("quality", 1)])
def test_fixed_weights_follow_the_strategy(strategy, winner):
    scores = fixed_scores(strategy, np.array([0.4, 0.9]), np.array([0.1, 5.0]), np.zeros(2))
    assert scores.argmax() == winner


def test_a_moving_average_competes_after_enough_samples_and_only_while_fresh():
    averages = MovingAverages(EmaSettings(least_samples=3, stale_after=2))
    for number in range(3):
        assert averages.best(REQUEST, [CHEAP, DEAR], Taste()) == 0, number
        averages.learn(REQUEST, "dear", 1.0)
    assert averages.best(REQUEST, [CHEAP, DEAR], Taste()) == 1
    for _ in range(3):
        averages.learn(REQUEST, "other", 0.0)
    assert averages.best(REQUEST, [CHEAP, DEAR], Taste()) == 0


def test_epsilon_greedy_tells_the_probability_of_its_choice():
    averages, rng = MovingAverages(EmaSettings(epsilon=0.2)), np.random.default_rng(0)
    made = [averages.choose(REQUEST, [CHEAP, DEAR], Taste(), rng)[:2] for _ in range(200)]
    assert {(chosen, round(probability, 6)) for chosen, probability in made} == {(0, 0.9), (1, 0.1)}
