"""Bayesian linear regression of quality: a part that all models share and a part of each model's own.

``quality = x . (w0 + w_k) + noise``. Several copies with priors of different width run side by side and are weighed
by how well each foretold the labels. Everything is plain arithmetic in a fixed order: two processes that apply the
same labels hold the same bits.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from routing.features import Vector

Array = NDArray[np.float64]

PRIOR_NOISE_VARIANCE, PRIOR_NOISE_WEIGHT, LEAST_NOISE_VARIANCE = 0.16, 10.0, 4e-4


@dataclass(frozen=True, slots=True)
class Foretold:
    """What was expected of a label before it was used: mean, variance with noise, and how far off it was."""

    mean: float
    variance: float

    def surprise(self, value: float) -> float:
        """The label's distance from the mean in standard deviations."""
        return (value - self.mean) / float(np.sqrt(self.variance))


@dataclass(slots=True)
class Posterior:
    """Means (scales, n) and covariances (scales, n, n) over the shared block and one block per model, in that order."""

    width: int
    scales: Vector
    mean: Array
    covariance: Array
    prior_variance: Array
    log_weight: Vector
    squared_residuals: Vector
    labels: int = 0
    _combined: "Combined | None" = field(default=None, repr=False, compare=False)

    @classmethod
    def begin(cls, prior_mean: Vector, prior_sd: Vector, width: int, scales: tuple[float, ...]) -> "Posterior":
        """The state before any label. ``prior_sd`` is per entry, for scale 1; ``width`` is the length of a block."""
        factors = np.array(scales)
        variance = (factors[:, None] * prior_sd[None, :]) ** 2
        return cls(
            width=width,
            scales=factors,
            mean=np.repeat(prior_mean[None, :], len(scales), axis=0),
            covariance=np.stack([np.diag(row) for row in variance]),
            prior_variance=variance,
            log_weight=np.zeros(len(scales)),
            squared_residuals=np.zeros(len(scales)),
        )

    @property
    def models(self) -> int:
        """How many models have a block."""
        return int(self.mean.shape[1]) // self.width - 1

    @property
    def noise_variance(self) -> Vector:
        """Variance of one label about its expectation, by scale."""
        estimate = (PRIOR_NOISE_WEIGHT * PRIOR_NOISE_VARIANCE + self.squared_residuals) / (
            PRIOR_NOISE_WEIGHT + self.labels
        )
        return np.maximum(estimate, LEAST_NOISE_VARIANCE)

    @property
    def weights(self) -> Vector:
        """How much each scale counts; they sum to 1."""
        raw = np.exp(self.log_weight - self.log_weight.max())
        weights: Vector = raw / raw.sum()
        return weights

    def update(self, model: int, x: Vector, value: float, *, extra_variance: float = 0.0) -> Foretold:
        """Learn one label (0-1) of model number ``model``; ``extra_variance`` is the rater's own."""
        shared, own = self._block(-1), self._block(model)
        gain = self.covariance[:, :, shared] @ x + self.covariance[:, :, own] @ x
        noise = self.noise_variance
        spread = noise + extra_variance + gain[:, shared] @ x + gain[:, own] @ x
        expected = self.mean[:, shared] @ x + self.mean[:, own] @ x
        residual = value - expected
        weights = self.weights
        centre = float(weights @ expected)
        foretold = Foretold(centre, float(weights @ (spread + (expected - centre) ** 2)))
        self.mean += gain * (residual / spread)[:, None]
        for scale, row in enumerate(gain / np.sqrt(spread)[:, None]):
            self.covariance[scale] -= np.outer(row, row)  # symmetric to the last bit, so half of it is enough to store
        self.log_weight += -0.5 * (np.log(spread) + residual**2 / spread)
        self.log_weight -= self.log_weight.max()
        self.squared_residuals += residual**2 * noise / spread
        self.labels += 1
        self._combined = None
        return foretold

    def forget(self, kept: float) -> None:
        """Widen every belief by ``1 / kept``, none beyond its prior."""
        for scale, prior in enumerate(self.prior_variance):
            widened = self.covariance[scale].diagonal() / kept
            factor = np.sqrt(np.minimum(1.0, prior / widened) / kept)
            self.covariance[scale] *= np.outer(factor, factor)
        self._combined = None

    def reopen(self, model: int) -> None:
        """Make what is particular to one model as uncertain as its prior; what is expected of it stays."""
        block = np.arange(self.mean.shape[1])[self._block(model)]
        for scale, prior in enumerate(self.prior_variance):
            diagonal = self.covariance[scale, block, block]
            self.covariance[scale, block, block] = np.maximum(diagonal, prior[block])
        self._combined = None

    def with_model(self, prior_mean: Vector, prior_sd: Vector) -> "Posterior":
        """The same beliefs with one more block."""
        size, longer = self.mean.shape[1], self.mean.shape[1] + self.width
        variance = (self.scales[:, None] * prior_sd[None, :]) ** 2
        covariance = np.zeros((len(self.scales), longer, longer))
        covariance[:, :size, :size] = self.covariance
        for wider, row in zip(covariance, variance, strict=True):
            wider[size:, size:] = np.diag(row)
        added = np.repeat(prior_mean[None, :], len(self.scales), axis=0)
        return replace(
            self,
            mean=np.concatenate([self.mean, added], axis=1),
            covariance=covariance,
            prior_variance=np.concatenate([self.prior_variance, variance], axis=1),
            _combined=None,
        )

    def combined(self) -> "Combined":
        """What decisions read; made once after each label."""
        if self._combined is None:
            self._combined = Combined.of(self)
        return self._combined

    def _block(self, model: int) -> slice:
        return slice((model + 1) * self.width, (model + 2) * self.width)


@dataclass(frozen=True, slots=True)
class Combined:
    """The posterior in the form decisions need: per model, shared and own part already added up."""

    weights: Vector
    mean: Array
    means: Array
    covariance: Array
    own_covariance: Array

    @classmethod
    def of(cls, posterior: Posterior) -> "Combined":
        """Add up the blocks of ``posterior``."""
        scales, width, blocks = len(posterior.scales), posterior.width, posterior.models + 1
        by_block = posterior.mean.reshape(scales, blocks, width)
        means = by_block[:, :1] + by_block[:, 1:]
        grid = posterior.covariance.reshape(scales, blocks, width, blocks, width)
        own = np.stack([grid[:, k, :, k] for k in range(1, blocks)], axis=1)
        crossed = grid[:, 0, :, 1:].transpose(0, 2, 1, 3)
        total = grid[:, 0, :, 0][:, None] + own + crossed + crossed.transpose(0, 1, 3, 2)
        weights = posterior.weights
        return cls(
            weights=weights,
            mean=np.tensordot(weights, means, 1),
            means=means,
            covariance=np.tensordot(weights, total, 1),
            own_covariance=own,
        )

    def expected(self, x: Vector) -> tuple[Vector, Vector]:
        """Mean and standard deviation of each model's quality."""
        mean: Vector = self.mean @ x
        between = self.weights @ (self.means @ x - mean) ** 2
        within = (self.covariance @ x) @ x
        return mean, np.sqrt(np.maximum(within + between, 0.0))

    def draws(self, x: Vector, count: int, shrink: float, rng: np.random.Generator) -> Array:
        """``count`` draws (count, models) of the qualities; within a scale only what is a model's own varies."""
        means = self.means @ x
        own_sd = np.sqrt(np.maximum((self.own_covariance @ x) @ x, 0.0))
        scale = rng.choice(len(self.weights), size=count, p=self.weights)
        noise = rng.standard_normal((count, means.shape[1]))
        drawn: Array = means[scale] + shrink * own_sd[scale] * noise
        return drawn
