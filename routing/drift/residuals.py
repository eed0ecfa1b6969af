"""Between the weekly runs: does a model stay under what the router expects of it?"""

from collections.abc import Callable

import msgspec
import numpy as np

from routing.drift.shifts import Vector

Draw = Callable[[np.random.Generator, int], Vector]

THRESHOLD = 8.5  # standard deviations, like the others
SLACK = 0.4
CLIPPED_AT = 2.5


class ResidualWatch(msgspec.Struct):
    """A cumulative sum of how far labels of a model fall short of the forecast.

    With the default constants a model that has not changed alarms less than once in 1,000 labels, whatever the labels
    look like (right or wrong, five steps, continuous); docs/drift.md has the table.
    """

    threshold: float = THRESHOLD
    slack: float = SLACK
    clipped_at: float = CLIPPED_AT
    shortfall: float = 0.0

    def take(self, surprise: float) -> bool:
        """``surprise`` is (label - forecast) / standard deviation of the forecast label. True: it has changed, and the
        sum begins anew."""
        clipped = min(self.clipped_at, max(-self.clipped_at, surprise))
        self.shortfall = max(0.0, self.shortfall - clipped - self.slack)
        if self.shortfall <= self.threshold:
            return False
        self.shortfall = 0.0
        return True


def run_lengths(watch: ResidualWatch, draw: Draw, *, paths: int, at_most: int, seed: int) -> Vector:
    """Labels until the alarm, ``at_most`` where there is none by then, in ``paths`` simulated series of surprises."""
    rng = np.random.default_rng(seed)
    shortfall, length = np.zeros(paths), np.zeros(paths)
    running = np.ones(paths, bool)
    for _ in range(at_most):
        surprises = draw(rng, paths).clip(-watch.clipped_at, watch.clipped_at)
        shortfall = np.maximum(0.0, shortfall - surprises - watch.slack)
        length[running] += 1
        running &= shortfall <= watch.threshold
        if not running.any():
            break
    return length
