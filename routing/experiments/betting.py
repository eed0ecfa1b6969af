"""Evidence about the mean of bounded differences by betting: valid however often one looks.

Whoever bets a fixed share c of the capital on "the mean is above m" multiplies it, for a difference d in [-1, 1], by
``1 + c (d - m) / (1 + m)``: never below 0 and, if the mean is at most m, on average at most 1. Capital that has ever
grown 40-fold therefore happens with probability 1/40 or less (Ville's inequality), without any assumption on the
differences' distribution. Nobody knows the best share, so the capital is spread over many. The bet on "below m" is the
mirror image. As the bets do not depend on what was seen, capital depends on how often each difference was seen alone.
"""

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

Vector = NDArray[np.float64]

RESOLUTION = 1_000  # differences are kept to .001, so that a state stays small
STAKES: Vector = np.geomspace(0.01, 0.9, 16)
MOST_EVIDENCE = 650.0  # natural logarithm: what still is a float

_HALF_STEP = 0.5 / RESOLUTION
_BISECTIONS = 24


def rounded(difference: float) -> int:
    """A difference in whole steps of 1/RESOLUTION. Raises ValueError outside [-1, 1]."""
    if not -1.0 <= difference <= 1.0:
        raise ValueError(f"a difference of two values of 0-1 lies within -1 and 1, not at {difference}")
    return round(difference * RESOLUTION)


def log_gains(differences: ArrayLike, mean: float = 0.0) -> Vector:
    """Log factors of the capital by each difference: (..., 2, stakes), first for "above ``mean``", then for "below"."""
    distance = np.asarray(differences, np.float64)[..., None] - mean
    above = np.log1p(STAKES * distance / (1.0 + mean))
    below = np.log1p(STAKES * -distance / (1.0 - mean))
    return np.stack([above, below], axis=-2)


def log_evidence(log_capital: Vector) -> Vector:
    """Log of the capital, averaged over the stakes (the last axis)."""
    most = log_capital.max(axis=-1)
    spread: Vector = np.log(np.exp(log_capital - most[..., None]).mean(axis=-1)) + most
    return spread


def interval(counts: Mapping[int, int], alpha: float) -> tuple[float, float]:
    """Bounds of the mean difference that hold at all looks together with probability ``1 - alpha``.

    ``counts``: how often each rounded difference was seen.
    """
    if not counts:
        return -1.0, 1.0
    seen = np.array(list(counts), np.float64) / RESOLUTION
    times = np.array(list(counts.values()), np.float64)
    enough = float(np.log(2.0 / alpha))
    return _lower_bound(seen, times, enough) - _HALF_STEP, -_lower_bound(-seen, times, enough) + _HALF_STEP


def _lower_bound(seen: Vector, times: Vector, enough: float) -> float:
    """The highest mean that "above" is proven of; evidence falls with the mean, so halving finds it."""
    proven, open_ = -1.0, float(times @ seen / times.sum())
    if open_ <= -1.0:
        return -1.0
    for _ in range(_BISECTIONS):
        middle = (proven + open_) / 2
        capital = times @ np.log1p(STAKES * (seen[:, None] - middle) / (1.0 + middle))
        if float(log_evidence(capital)) >= enough:
            proven = middle
        else:
            open_ = middle
    return proven
