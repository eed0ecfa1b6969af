"""What another policy would have been worth, from logged requests alone.

A logged request says which models were observed, with what probability, and how they were judged. Three estimates:
``direct`` believes a model of quality, ``inverse_propensity`` only what was seen, reweighted, and ``doubly_robust``
corrects the first by the second: right when either is. Report the last: the interval of the first is too narrow.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from routing.features import Vector

FOLDS = 5
MOST_WEIGHT = 100.0
COMMON_RIDGE, OWN_RIDGE = 5.0, 20.0  # in labels: what a coefficient shrinks to half of its worth by

_Z = 1.959964


@dataclass(frozen=True, slots=True)
class Observation:
    """A judged answer (reward 0-1) and the probability with which this model was observed on this request: that of
    being chosen, or of being the challenger of a shadow pair; 1 for the control of one."""

    model: str
    propensity: float
    reward: float


@dataclass(frozen=True, slots=True)
class LoggedRequest:
    """A judged request. ``means`` are the candidates' expected qualities (0-1) as foretold then, which is what says
    who the candidates were; ``label_odds`` is the probability that the request was judged at all."""

    vector: Vector
    means: Mapping[str, float]
    observed: tuple[Observation, ...]
    label_odds: float = 1.0


Policy = Callable[[LoggedRequest], Mapping[str, float]]
"""The probability that each candidate would answer; candidates left out have 0."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """A mean quality (0-1), or a difference of two, with its 95 % interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What a policy is worth. ``effective_sample_size``: as many labels of its own would tell as much."""

    direct: Estimate
    inverse_propensity: Estimate
    doubly_robust: Estimate
    effective_sample_size: float
    requests: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """Two policies on the same requests; ``difference`` (a - b) is doubly robust, request by request, and
    ``effective_sample_size`` that of the policy the log knows less of."""

    a: Evaluation
    b: Evaluation
    difference: Estimate
    effective_sample_size: float


def always(model: str) -> Policy:
    """The policy that sends every request to one model; it needs to be a candidate of each."""
    odds = {model: 1.0}
    return lambda _request: odds


def instead(policy: Policy, current: str, successor: str) -> Policy:
    """The policy that does as another, but sends the requests of ``current`` to ``successor`` where that is a
    candidate."""

    def moved(request: LoggedRequest) -> Mapping[str, float]:
        odds = dict(policy(request))
        if successor in request.means and current in odds:
            odds[successor] = odds.get(successor, 0.0) + odds.pop(current)
        return odds

    return moved


def evaluate(rows: Sequence[LoggedRequest], policy: Policy, *, most_weight: float = MOST_WEIGHT) -> Evaluation:
    """Estimate a policy's mean quality. Weights above ``most_weight`` are clipped to it.

    Raises ValueError without rows, for a propensity outside (0, 1], or for a policy whose odds do not sum to 1 over
    the candidates of a request.
    """
    log = _Log.of(rows)
    return _evaluation(log, _Judged.of(log, log.odds(policy), log.foretold(), most_weight))


def compare(
    rows: Sequence[LoggedRequest], policy_a: Policy, policy_b: Policy, *, most_weight: float = MOST_WEIGHT
) -> Comparison:
    """Estimate how much better policy a is than policy b. Raises ValueError as ``evaluate`` does."""
    log = _Log.of(rows)
    foretold = log.foretold()
    first, second = (_Judged.of(log, log.odds(policy), foretold, most_weight) for policy in (policy_a, policy_b))
    a, b = _evaluation(log, first), _evaluation(log, second)
    least = min(a.effective_sample_size, b.effective_sample_size)
    difference = _mean(first.corrected - second.corrected, log.shares, least)
    return Comparison(a, b, difference if least else Estimate(difference.value, -1.0, 1.0), least)


@dataclass(frozen=True, slots=True)
class _Log:
    """Logged requests as arrays: requests by rows, models by columns, observations one after another."""

    rows: Sequence[LoggedRequest]
    models: list[str]
    vectors: Vector
    prior: Vector  # as foretold then; not a number where a model was no candidate
    shares: Vector  # weights of the requests, 1 on average
    row: NDArray[np.intp]
    model: NDArray[np.intp]
    propensity: Vector
    reward: Vector

    @classmethod
    def of(cls, rows: Sequence[LoggedRequest]) -> "_Log":
        if not rows:
            raise ValueError("there is nothing to estimate from: no judged request")
        models = sorted({model for row in rows for model in row.means})
        places = {model: place for place, model in enumerate(models)}
        prior = np.array([[row.means.get(model, np.nan) for model in models] for row in rows])
        seen = [(number, one) for number, row in enumerate(rows) for one in row.observed]
        propensity = np.array([one.propensity for _, one in seen])
        label_odds = np.array([row.label_odds for row in rows])
        if (
            min(propensity.min(initial=1.0), label_odds.min()) <= 0
            or max(propensity.max(initial=0.0), label_odds.max()) > 1
        ):
            raise ValueError("a probability lies above 0 and at most at 1")
        try:
            model = np.array([places[one.model] for _, one in seen], np.intp)
        except KeyError as exc:
            raise ValueError(f"{exc.args[0]} was observed but is no candidate") from None
        shares = 1.0 / label_odds
        return cls(
            rows=rows,
            models=models,
            vectors=np.stack([row.vector for row in rows]),
            prior=prior,
            shares=shares / shares.mean(),
            row=np.array([number for number, _ in seen], np.intp),
            model=model,
            propensity=propensity,
            reward=np.array([one.reward for _, one in seen]),
        )

    def odds(self, policy: Policy) -> Vector:
        odds = np.array([self._odds_of(row, policy(row)) for row in self.rows])
        if not np.allclose(odds.sum(axis=1), 1.0, atol=1e-6) or odds.min() < 0:
            raise ValueError("the odds of a policy sum to 1 over the candidates of each request")
        return odds

    def _odds_of(self, row: LoggedRequest, odds: Mapping[str, float]) -> list[float]:
        return [odds.get(model, 0.0) if model in row.means else 0.0 for model in self.models]

    def foretold(self) -> Vector:
        """Quality of each model on each request, from the labels of other requests only: what was foretold, corrected
        by a ridge regression of all models' residuals and one of each model's own."""
        quality = np.nan_to_num(self.prior, nan=0.0)
        fold = np.arange(len(self.rows)) % FOLDS
        for held_back in range(min(FOLDS, len(self.rows))):
            aside, taught = fold == held_back, fold[self.row] != held_back
            quality[aside] += self._corrections(self.vectors[aside], taught)
        return np.clip(quality, 0.0, 1.0)

    def _corrections(self, wanted: Vector, taught: NDArray[np.bool_]) -> Vector:
        row, model = self.row[taught], self.model[taught]
        known, residual = self.vectors[row], self.reward[taught] - self.prior[row, model]
        common = _ridge(known, residual, COMMON_RIDGE)
        residual = residual - known @ common
        own = [_ridge(known[model == place], residual[model == place], OWN_RIDGE) for place in range(len(self.models))]
        corrections: Vector = wanted @ (common[:, None] + np.stack(own, axis=1))
        return corrections


def _ridge(vectors: Vector, targets: Vector, strength: float) -> Vector:
    gram = vectors.T @ vectors + strength * np.eye(vectors.shape[1])
    return np.asarray(np.linalg.solve(gram, vectors.T @ targets), np.float64)


@dataclass(frozen=True, slots=True)
class _Judged:
    """A policy on the log: what the model of quality says of each request, and what observations make of it."""

    expected: Vector
    corrected: Vector
    weights: Vector  # by observation

    @classmethod
    def of(cls, log: _Log, odds: Vector, foretold: Vector, most_weight: float) -> "_Judged":
        expected = (odds * foretold).sum(axis=1)
        weights = np.minimum(odds[log.row, log.model] / log.propensity, most_weight)
        corrected = expected.copy()
        np.add.at(corrected, log.row, weights * (log.reward - foretold[log.row, log.model]))
        return cls(expected, corrected, weights)


def _evaluation(log: _Log, judged: _Judged) -> Evaluation:
    by_request = np.bincount(log.row, judged.weights, len(log.rows)) * log.shares
    squares = float(by_request @ by_request)
    effective = float(by_request.sum()) ** 2 / squares if squares else 0.0
    corrected = _mean(judged.corrected, log.shares, effective)
    return Evaluation(
        direct=_mean(judged.expected, log.shares, len(log.rows)),
        inverse_propensity=_reweighted(log, judged.weights, effective),
        doubly_robust=corrected if effective else Estimate(corrected.value, 0.0, 1.0),
        effective_sample_size=effective,
        requests=len(log.rows),
    )


def _mean(values: Vector, shares: Vector, effective: float) -> Estimate:
    count = len(values)
    mean = float(values @ shares) / count
    error = float(np.sqrt(((values - mean) ** 2) @ shares**2)) / math.sqrt(count * max(count - 1, 1))
    return _within(mean, error, effective)


def _reweighted(log: _Log, weights: Vector, effective: float) -> Estimate:
    """Mean of the rewards by weight; nothing is known where the policy was never observed."""
    weights = weights * log.shares[log.row]
    total = float(weights.sum())
    if total == 0.0:
        return Estimate(0.5, 0.0, 1.0)
    mean = float(weights @ log.reward) / total
    residuals = np.bincount(log.row, weights * (log.reward - mean), len(log.rows))
    return _within(mean, float(np.sqrt(residuals @ residuals)) / total, effective)


def _within(mean: float, error: float, effective: float) -> Estimate:
    """Student's interval for as many values as the weights amount to (Cornish-Fisher), at least two."""
    freedom = max(effective - 1.0, 1.0)
    reach = _Z + (_Z**3 + _Z) / (4 * freedom) + (5 * _Z**5 + 16 * _Z**3 + 3 * _Z) / (96 * freedom**2)
    return Estimate(mean, mean - reach * error, mean + reach * error)
