"""The regression behind the router, against the textbook."""

import numpy as np
import pytest

from routing.regression import Posterior

WIDTH, MODELS = 4, 3


def a_posterior(*scales: float) -> Posterior:
    size = WIDTH * (MODELS + 1)
    return Posterior.begin(np.linspace(-0.1, 0.3, size), np.linspace(0.1, 0.5, size), WIDTH, scales or (1.0,))


def labels(count: int, seed: int = 0) -> list[tuple[int, np.ndarray, float]]:
    rng = np.random.default_rng(seed)
    return [(int(rng.integers(MODELS)), rng.normal(size=WIDTH), float(rng.random())) for _ in range(count)]


def wide(model: int, x: np.ndarray) -> np.ndarray:
    whole = np.zeros(WIDTH * (MODELS + 1))
    whole[:WIDTH] = x
    whole[(model + 1) * WIDTH : (model + 2) * WIDTH] = x
    return whole


def test_updates_one_by_one_equal_the_batch_solution():
    posterior = a_posterior()
    mean, variance = posterior.mean[0].copy(), posterior.prior_variance[0].copy()
    precision, moment = np.diag(1 / variance), mean / variance
    for model, x, value in labels(120):
        noise = posterior.noise_variance[0] + 0.02
        precision += np.outer(wide(model, x), wide(model, x)) / noise
        moment += wide(model, x) * value / noise
        posterior.update(model, x, value, extra_variance=0.02)
    assert posterior.covariance[0] == pytest.approx(np.linalg.inv(precision), abs=1e-9)
    assert posterior.mean[0] == pytest.approx(np.linalg.solve(precision, moment), abs=1e-9)


def test_what_a_label_was_expected_to_be_has_mean_and_variance_of_the_prior():
    posterior = a_posterior()
    x = np.ones(WIDTH)
    whole = wide(1, x)
    foretold = posterior.update(1, x, 0.7)
    prior = a_posterior()
    assert foretold.mean == pytest.approx(whole @ prior.mean[0])
    assert foretold.variance == pytest.approx(whole @ prior.covariance[0] @ whole + 0.16)


def test_forgetting_widens_but_never_beyond_the_prior():
    posterior = a_posterior()
    for model, x, value in labels(60):
        posterior.update(model, x, value)
    sharp = posterior.covariance[0].diagonal().copy()
    posterior.forget(0.9)
    widened = posterior.covariance[0].diagonal()
    assert (widened >= sharp * 0.999).all() and (widened > sharp).any()
    for _ in range(500):
        posterior.forget(0.9)
    assert posterior.covariance[0].diagonal() == pytest.approx(posterior.prior_variance[0])
    assert np.linalg.eigvalsh(posterior.covariance[0]).min() > -1e-9


def test_reopening_a_model_leaves_means_and_the_other_models_alone():
    posterior = a_posterior()
    for model, x, value in labels(60):
        posterior.update(model, x, value)
    mean, before = posterior.mean.copy(), posterior.covariance[0].diagonal().copy()
    posterior.reopen(1)
    after = posterior.covariance[0].diagonal()
    own = slice(2 * WIDTH, 3 * WIDTH)
    assert (posterior.mean == mean).all()
    assert after[own] == pytest.approx(posterior.prior_variance[0][own])
    assert (np.delete(after, np.arange(16)[own]) == np.delete(before, np.arange(16)[own])).all()


def test_the_width_that_foretells_best_gets_the_weight():
    posterior = a_posterior(0.05, 1.0)
    rng = np.random.default_rng(3)
    truth = rng.normal(size=(MODELS, WIDTH))
    for _ in range(200):
        model, x = int(rng.integers(MODELS)), rng.normal(size=WIDTH)
        posterior.update(model, x, float(truth[model] @ x))
    assert posterior.weights.sum() == pytest.approx(1.0)
    assert posterior.weights[1] > 0.99


def test_what_decisions_read_equals_the_posterior_written_out():
    posterior = a_posterior(0.5, 2.0)
    for model, x, value in labels(40):
        posterior.update(model, x, value)
    x = np.array([1.0, -0.5, 0.2, 0.0])
    mean, sd = posterior.combined().expected(x)
    for model in range(MODELS):
        means = posterior.mean @ wide(model, x)
        variances = np.array([wide(model, x) @ one @ wide(model, x) for one in posterior.covariance])
        expected = posterior.weights @ means
        assert mean[model] == pytest.approx(expected)
        assert sd[model] ** 2 == pytest.approx(posterior.weights @ (variances + (means - expected) ** 2))


def test_learning_and_forgetting_at_once_equals_one_after_the_other():
    at_once, in_turn = a_posterior(0.5, 1.0), a_posterior(0.5, 1.0)
    for model, x, value in labels(50):
        at_once.update(model, x, value, kept=0.95)
        in_turn.update(model, x, value)
        in_turn.forget(0.95)
    assert at_once.covariance == pytest.approx(in_turn.covariance, rel=1e-9, abs=1e-12)
    assert (at_once.covariance == at_once.covariance.transpose(0, 2, 1)).all()


def test_a_stored_posterior_goes_on_bit_for_bit():
    posterior = a_posterior(0.5, 1.0)
    for model, x, value in labels(50):
        posterior.update(model, x, value, kept=0.99)
    restored = Posterior.restored(posterior.stored(), WIDTH, (0.5, 1.0))
    for one in (posterior, restored):
        one.update(0, np.ones(WIDTH), 0.3)
    assert restored.stored() == posterior.stored()
    with pytest.raises(ValueError, match="whole number of blocks"):
        Posterior.restored(posterior.stored(), WIDTH + 1, (0.5, 1.0))


def test_a_model_that_was_reopened_wide_stays_so_until_it_is_labelled():
    posterior = a_posterior()
    for model, x, value in labels(60):
        posterior.update(model, x, value)
    posterior.reopen(1, bias_sd=0.9)
    bias = 2 * WIDTH
    for _ in range(50):
        posterior.forget(0.9)
    assert posterior.covariance[0, bias, bias] == pytest.approx(0.81)
    posterior.update(1, np.eye(WIDTH)[0], 0.2)
    assert posterior.covariance[0, bias, bias] < 0.4
