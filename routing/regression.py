"""Bayesian linear regression of quality: a part that all models share and a part of each model's own.

``quality = x . (w0 + w_k) + noise``. Several copies with priors of different width run side by side and are weighed
by how well each foretold the labels. Everything is plain arithmetic in a fixed order: two processes that apply the
same labels hold the same bits.
"""

from dataclasses import dataclass, field, replace

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from routing.features import Vector

Array = NDArray[np.float64]
Places = NDArray[np.intp]

_ROWS = 32
_TINY = 1e-300
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

    def bias_sds(self) -> Vector:
        """Standard deviation of what is a model's own whatever the request (the block's first entry), by model."""
        biases = np.arange(1, self.models + 1) * self.width
        return np.sqrt(self.weights @ self.covariance[:, biases, biases])

    def prior_bias_sds(self) -> Vector:
        """The same before any label, for scale 1."""
        biases = np.arange(1, self.models + 1) * self.width
        sds: Vector = np.sqrt(self.prior_variance[0, biases]) / self.scales[0]
        return sds

    def biases_apart(self) -> Array:
        """Standard deviation of the difference between the biases of two models (rows and columns)."""
        biases = np.arange(1, self.models + 1) * self.width
        shared = np.tensordot(self.weights, self.covariance[:, biases[:, None], biases], 1)
        own = shared.diagonal()
        apart: Array = np.sqrt(np.maximum(own[:, None] + own - 2.0 * shared, 0.0))
        return apart

    def tie_biases(self, loadings: Vector) -> None:
        """Before any label: one more unknown number (mean 0, sd 1) is in each model's bias, times its loading."""
        biases = np.arange(1, self.models + 1) * self.width
        for scale, factor in enumerate(self.scales):
            self.covariance[scale, biases[:, None], biases] += factor**2 * np.outer(loadings, loadings)
            self.prior_variance[scale, biases] += (factor * loadings) ** 2
        self._combined = None

    def update(
        self, model: int, x: Vector, value: float, *, extra_variance: float = 0.0, kept: float = 1.0
    ) -> Foretold:
        """Learn one label (0-1) of model number ``model``; ``extra_variance`` is the rater's own.

        Then widen every belief by ``1 / kept``, none beyond its prior.
        """
        shared, own = self._block(-1), self._block(model)
        gain = self.covariance[:, :, shared] @ x + self.covariance[:, :, own] @ x
        noise = self.noise_variance
        spread = noise + extra_variance + gain[:, shared] @ x + gain[:, own] @ x
        expected = self.mean[:, shared] @ x + self.mean[:, own] @ x
        residual = value - expected
        weights = self.weights
        centre = float(weights @ expected)
        foretold = Foretold(centre, float(weights @ (spread + (expected - centre) ** 2)))
        self.mean = self.mean + gain * (residual / spread)[:, None]
        self._shrink_and_widen(gain / np.sqrt(spread)[:, None], kept)
        self.log_weight += -0.5 * (np.log(spread) + residual**2 / spread)
        self.log_weight -= self.log_weight.max()
        self.squared_residuals += residual**2 * noise / spread
        self.labels += 1
        return foretold

    def forget(self, kept: float) -> None:
        """Widen every belief by ``1 / kept``, none beyond its prior."""
        self._shrink_and_widen(np.zeros_like(self.mean), kept)

    def _shrink_and_widen(self, root: Array, kept: float) -> None:
        """Take ``root root^T`` from the covariances, then widen them.

        The arrays are new ones, because what decisions read refers to the old ones. A few rows at a time stay in the
        processor's cache, which is three times as fast. Every step is symmetric to the last bit: half of it is stored.
        """
        variance = np.maximum(self.covariance.diagonal(axis1=1, axis2=2) - root**2, _TINY)
        factor = np.sqrt(np.maximum(1.0, np.minimum(1.0 / kept, self.prior_variance / variance)))
        result = np.empty_like(self.covariance)
        for scale, (before, after) in enumerate(zip(self.covariance, result, strict=True)):
            gain, wide = root[scale], factor[scale]
            for first in range(0, len(gain), _ROWS):
                rows = slice(first, first + _ROWS)
                part = after[rows]
                np.multiply(gain[rows, None], gain, out=part)
                np.subtract(before[rows], part, out=part)
                if kept != 1.0:
                    part *= wide[rows, None] * wide
        self.covariance = result
        self._combined = None

    def reopen(self, model: int, bias_sd: float = 0.0) -> None:
        """Make what is particular to one model as uncertain as its prior; what is expected of it stays.

        The standard deviation of its bias (the block's first entry) becomes at least ``bias_sd``.
        """
        block = np.arange(self.mean.shape[1])[self._block(model)]
        self.covariance = self.covariance.copy()
        for scale, prior in enumerate(self.prior_variance):
            diagonal = self.covariance[scale, block, block]
            wanted = np.maximum(diagonal, prior[block])
            wanted[0] = max(wanted[0], bias_sd**2)
            self.covariance[scale, block, block] = wanted
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

    def stored(self) -> "StoredPosterior":
        """Everything but the prior's shape, as bytes; equal posteriors give equal bytes."""
        above = _above_diagonal(self.mean.shape[1])
        return StoredPosterior(
            labels=self.labels,
            mean=self.mean.tobytes(),
            covariance=self.covariance[:, above].tobytes(),
            prior_variance=self.prior_variance.tobytes(),
            log_weight=self.log_weight.tobytes(),
            squared_residuals=self.squared_residuals.tobytes(),
        )

    @classmethod
    def restored(cls, stored: "StoredPosterior", width: int, scales: tuple[float, ...]) -> "Posterior":
        """What was stored. Raises ValueError when the bytes do not fit each other."""
        rows = len(scales)
        mean = _array(stored.mean, rows)
        size = mean.shape[1]
        if size % width:
            raise ValueError(f"{size} means are no whole number of blocks of {width}")
        above = _above_diagonal(size)
        covariance = np.zeros((rows, size, size))
        covariance[:, above] = _array(stored.covariance, rows)
        for half in covariance:
            variances = half.diagonal().copy()
            np.add(half, half.T, out=half)
            np.fill_diagonal(half, variances)
        return cls(
            width=width,
            scales=np.array(scales),
            mean=mean,
            covariance=covariance,
            prior_variance=_array(stored.prior_variance, rows),
            log_weight=_array(stored.log_weight, rows).ravel(),
            squared_residuals=_array(stored.squared_residuals, rows).ravel(),
            labels=stored.labels,
        )

    def combined(self) -> "Combined":
        """What decisions read; made once after each label."""
        if self._combined is None:
            self._combined = Combined.of(self)
        return self._combined

    def _block(self, model: int) -> slice:
        return slice((model + 1) * self.width, (model + 2) * self.width)


class StoredPosterior(Struct, array_like=True):
    """A posterior in bytes: arrays of float64, of the symmetric covariances the half above the diagonal."""

    labels: int
    mean: bytes
    covariance: bytes
    prior_variance: bytes
    log_weight: bytes
    squared_residuals: bytes


def _above_diagonal(size: int) -> NDArray[np.bool_]:
    return np.triu(np.ones((size, size), np.bool_))


def _array(stored: bytes, rows: int) -> Array:
    return np.frombuffer(stored, np.float64).reshape(rows, -1).copy()


@dataclass(frozen=True, slots=True)
class Combined:
    """The posterior in the form decisions need: per model, shared and own part already added up.

    ``mean`` (models, width) is the average of ``means`` (scales, models, width). Covariances are added up only for
    what is asked: :class:`CellBeliefs` wants a small part of them.
    """

    weights: Vector
    mean: Array
    means: Array
    grid: Array

    @classmethod
    def of(cls, posterior: Posterior) -> "Combined":
        """Add up the blocks of ``posterior``."""
        scales, width, blocks = len(posterior.scales), posterior.width, posterior.models + 1
        by_block = posterior.mean.reshape(scales, blocks, width)
        means = by_block[:, :1] + by_block[:, 1:]
        weights = posterior.weights
        mean = means[0] if scales == 1 else np.tensordot(weights, means, 1)
        return cls(weights, mean, means, posterior.covariance.reshape(scales, blocks, width, blocks, width))

    def expected(self, x: Vector) -> tuple[Vector, Vector]:
        """Mean and standard deviation of each model's quality."""
        everything = np.arange(self.mean.shape[1])
        total, _ = self.covariances(np.arange(len(self.mean)), everything)
        mean: Vector = self.mean @ x
        return mean, np.sqrt(np.maximum((total @ x) @ x, 0.0))

    def covariances(self, models: Places, entries: Places) -> tuple[Array, Array]:
        """For some models and some entries of a vector: covariance (models, entries, entries) of what is expected,
        scales averaged; and of each model's own part (scales, models, entries, entries)."""
        number, row, column = models[:, None, None] + 1, entries[None, :, None], entries[None, None, :]
        shared = self.grid[:, 0, entries[:, None], 0, entries[None, :]]
        own = self.grid[:, number, row, number, column]
        crossed = self.grid[:, 0, row, number, column]
        within = shared[:, None] + own + crossed + crossed.transpose(0, 1, 3, 2)
        if len(self.weights) == 1:
            return within[0], own
        apart = (self.means - self.mean)[:, models[:, None], entries[None, :]]
        between = np.einsum("s,smi,smj->mij", self.weights, apart, apart)
        return np.tensordot(self.weights, within, 1) + between, own


@dataclass(slots=True)
class CellBeliefs:
    """What is expected of some models for requests of one cell, by the part of the vector that the text makes.

    Mean quality is ``texts . t + fixed``; ``texts_begin`` says where t begins in the whole vector.
    """

    texts: Array
    fixed: Vector
    texts_begin: int
    _combined: Combined
    _models: Places
    _ones: tuple[int, ...]
    _covariances: tuple[Array, Array] | None = None
    _stacked: Array | None = None

    @classmethod
    def of(cls, combined: Combined, models: Places, ones: tuple[int, ...], texts_begin: int) -> "CellBeliefs":
        """``ones`` are the entries of the vector that are one in this cell; all others before the text's are zero."""
        mean = combined.mean[models]
        texts = np.ascontiguousarray(mean[:, texts_begin:])
        return cls(texts, mean[:, list(ones)].sum(axis=1), texts_begin, combined, models, ones)

    def means(self, text: Vector) -> Vector:
        """Expected quality, by model."""
        expected: Vector = self.texts.dot(text)
        expected += self.fixed
        return expected

    def sds(self, text: Vector) -> Vector:
        """Standard deviation of the expected quality, by model."""
        if self._stacked is None:
            covariance, _ = self._folded()
            self._stacked = np.ascontiguousarray(covariance.reshape(-1, covariance.shape[-1]))
        x = _with_one(text)
        variances: Vector = self._stacked.dot(x).reshape(-1, len(x)).dot(x)
        np.maximum(variances, 0.0, out=variances)
        return np.sqrt(variances, out=variances)

    def draws(self, text: Vector, count: int, shrink: float, rng: np.random.Generator) -> Array:
        """``count`` draws (count, models) of the qualities; within a scale only what is a model's own varies."""
        combined, (_, own) = self._combined, self._folded()
        x = _with_one(text)
        means = combined.means[:, self._models]
        mean = means[:, :, self.texts_begin :] @ text + means[:, :, list(self._ones)].sum(axis=2)
        own_sd = np.sqrt(np.maximum((own @ x) @ x, 0.0))
        scale = rng.choice(len(combined.weights), size=count, p=combined.weights)
        noise = rng.standard_normal((count, len(self._models)))
        drawn: Array = mean[scale] + shrink * own_sd[scale] * noise
        return drawn

    def _folded(self) -> tuple[Array, Array]:
        """Covariances over (1, text): the entries that are one in this cell are added up."""
        if self._covariances is None:
            ones, width = len(self._ones), self._combined.mean.shape[1]
            entries = np.array([*self._ones, *range(self.texts_begin, width)])
            fold = np.zeros((len(entries), len(entries) - ones + 1))
            fold[:ones, 0] = 1.0
            fold[ones:, 1:] = np.eye(len(entries) - ones)
            total, own = self._combined.covariances(self._models, entries)
            self._covariances = fold.T @ total @ fold, fold.T @ own @ fold
        return self._covariances


def _with_one(text: Vector) -> Vector:
    x = np.empty(len(text) + 1)
    x[0] = 1.0
    x[1:] = text
    return x
