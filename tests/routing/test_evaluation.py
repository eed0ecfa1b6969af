"""Off-policy estimates: right on a simulation whose truth is known, and honest about what they do not know."""

from dataclasses import replace

import numpy as np
import pytest

from routing.evaluation import LoggedRequest, Observation, always, compare, evaluate, instead

MODELS = ("m0", "m1", "m2", "m3")
WIDTH = 8
_SHARED, _OWN = np.random.default_rng(7).normal(0, (0.1, 0.05), (len(MODELS), WIDTH, 2)).transpose(2, 0, 1)
WEIGHTS = _SHARED[0] + _OWN
WEIGHTS[:, 0] = (0.5, 0.6, 0.7, 0.75)


def chances(vectors):
    return np.clip(vectors @ WEIGHTS.T, 0.02, 0.98)


def vectors_of(rng, count: int):
    vectors = rng.normal(size=(count, WIDTH))
    vectors[:, 0] = 1.0
    return vectors


TRUTH = chances(vectors_of(np.random.default_rng(99), 200_000)).mean(axis=0)


def a_log(seed: int, count: int = 1_000, *, shadow: bool = False) -> list[LoggedRequest]:
    """Requests judged right or wrong, chosen by a router that foretells badly and prefers cheap models."""
    rng = np.random.default_rng(seed)
    vectors = vectors_of(rng, count)
    quality = chances(vectors)
    means = np.clip(0.35 + 0.5 * quality + rng.normal(0, 0.06, len(MODELS)), 0, 1)
    odds = np.exp(12 * (means - np.linspace(0, 0.15, len(MODELS))))
    odds = np.maximum(odds / odds.sum(axis=1, keepdims=True), 0.005)
    rewards = (rng.random(quality.shape) < quality).astype(float)
    return [_row(rng, *facts, shadow=shadow) for facts in zip(vectors, means, odds, rewards, strict=True)]


def _row(rng, vector, means, odds, rewards, *, shadow: bool) -> LoggedRequest:
    observed = []
    if shadow:
        best = int(odds.argmax())
        observed.append(Observation(MODELS[best], 1.0, rewards[best]))
        odds = np.where(np.arange(len(odds)) == best, 0.0, odds)
    odds = odds / odds.sum()
    drawn = int(rng.choice(len(MODELS), p=odds))
    observed.append(Observation(MODELS[drawn], float(odds[drawn]), rewards[drawn]))
    return LoggedRequest(vector, dict(zip(MODELS, means.tolist(), strict=True)), tuple(observed))


@pytest.mark.parametrize("shadow", [False, True], ids=["served", "shadow pairs"])
def test_doubly_robust_intervals_hold_the_truth_nine_times_in_ten_at_a_thousand_labels(shadow):
    held: dict[str, list[bool]] = {"doubly_robust": [], "inverse_propensity": [], "direct": []}
    errors: dict[str, list[float]] = {kind: [] for kind in held}
    for seed in range(60):
        rows = a_log(seed, shadow=shadow)
        for place in (0, 1, 3):
            found = evaluate(rows, always(MODELS[place]))
            for kind, holds in held.items():
                estimate = getattr(found, kind)
                holds.append(estimate.low <= TRUTH[place] <= estimate.high)
                errors[kind].append(estimate.value - TRUTH[place])
    shares = {kind: float(np.mean(values)) for kind, values in held.items()}
    print({kind: f"{shares[kind]:.0%} hold, RMSE {np.sqrt(np.mean(np.square(errors[kind]))):.3f}" for kind in held})
    assert shares["doubly_robust"] >= 0.9
    assert shares["direct"] < shares["doubly_robust"]
    assert abs(np.mean(errors["doubly_robust"])) < 0.015


def test_a_comparison_holds_the_true_difference_and_is_sharper_than_its_parts():
    held, sharper = [], []
    for seed in range(40):
        found = compare(a_log(100 + seed), always("m3"), always("m0"))
        held.append(found.difference.low <= TRUTH[3] - TRUTH[0] <= found.difference.high)
        assert found.difference.value == pytest.approx(found.a.doubly_robust.value - found.b.doubly_robust.value)
        assert found.effective_sample_size == min(found.a.effective_sample_size, found.b.effective_sample_size)
        widths = [estimate.high - estimate.low for estimate in (found.a.doubly_robust, found.b.doubly_robust)]
        sharper.append(found.difference.high - found.difference.low < sum(widths))
    assert np.mean(held) >= 0.9 and all(sharper)


def test_the_same_policy_does_not_differ_from_itself():
    difference = compare(a_log(1, 200), always("m1"), always("m1")).difference
    assert (difference.value, difference.low, difference.high) == (0.0, 0.0, 0.0)


def test_a_policy_that_was_always_followed_is_worth_its_mean_reward():
    rows = [replace(row, observed=(Observation("m1", 1.0, number % 2),)) for number, row in enumerate(a_log(2, 300))]
    found = evaluate(rows, always("m1"))
    assert found.inverse_propensity.value == pytest.approx(0.5)
    assert found.doubly_robust.value == pytest.approx(0.5, abs=0.02)
    assert found.effective_sample_size == pytest.approx(300)


def test_a_policy_that_was_never_observed_is_known_to_be_unknown():
    rows = [replace(row, observed=(Observation("m0", 1.0, 1.0),)) for row in a_log(3, 50)]
    found = evaluate(rows, always("m3"))
    assert found.effective_sample_size == 0.0
    for estimate in (found.inverse_propensity, found.doubly_robust):
        assert (estimate.low, estimate.high) == (0.0, 1.0)
    difference = compare(rows, always("m3"), always("m0")).difference
    assert (difference.low, difference.high) == (-1.0, 1.0)


def test_requests_that_were_judged_less_often_count_for_more():
    rows = a_log(4, 400)
    often = [replace(row, observed=(Observation("m0", 1.0, 1.0),), label_odds=1.0) for row in rows[:200]]
    seldom = [replace(row, observed=(Observation("m0", 1.0, 0.0),), label_odds=0.25) for row in rows[200:]]
    found = evaluate(often + seldom, always("m0"))
    assert found.inverse_propensity.value == pytest.approx(0.2)
    assert found.doubly_robust.value == pytest.approx(0.2, abs=0.05)


def test_a_successor_takes_over_only_where_it_is_a_candidate():
    row = a_log(5, 1)[0]
    policy = instead(lambda _request: {"m0": 0.7, "m1": 0.3}, "m0", "m1")
    assert policy(row) == {"m1": 1.0}
    assert policy(replace(row, means={"m0": 0.5})) == {"m0": 0.7, "m1": 0.3}


def test_what_cannot_be_estimated_is_refused():
    rows = a_log(6, 5)
    with pytest.raises(ValueError, match="no judged request"):
        evaluate([], always("m0"))
    with pytest.raises(ValueError, match="sum to 1"):
        evaluate(rows, always("unknown"))
    with pytest.raises(ValueError, match="is no candidate"):
        evaluate([replace(rows[0], observed=(Observation("gone", 1.0, 1.0),))], always("m0"))
    with pytest.raises(ValueError, match="a probability"):
        evaluate([replace(rows[0], observed=(Observation("m0", 0.0, 1.0),))], always("m0"))
