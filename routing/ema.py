"""The rule of other learning gateways, kept to compare with: a moving average per cell, and chance.

A cell is (task, complexity, model). A model competes in a cell once it has enough fresh samples there; until then the
cheapest answers. With probability epsilon any model is served, whether or not that request will be judged.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import msgspec
import numpy as np

from routing.features import RequestFeatures, Vector
from routing.scores import Candidate, Experience, Taste, penalties

Cell = tuple[str, str, str]


class EmaSettings(msgspec.Struct, frozen=True):
    """``stale_after``: labels of the whole pool after which a cell without a new one does not compete; None: never."""

    alpha: float = 0.1
    epsilon: float = 0.1
    least_samples: int = 5
    stale_after: int | None = None


@dataclass(slots=True)
class _Average:
    value: float
    samples: int
    last: int


@dataclass(slots=True)
class MovingAverages:
    """Averages of one pool. ``default`` names the model that answers where none competes; None: the cheapest."""

    settings: EmaSettings = field(default_factory=EmaSettings)
    experience: Experience = field(default_factory=Experience)
    cells: dict[Cell, _Average] = field(default_factory=dict)
    labels: int = 0
    default: str | None = None

    def choose(
        self,
        features: RequestFeatures,
        candidates: Sequence[Candidate],
        taste: Taste,
        rng: np.random.Generator,
        points: Vector | None = None,
    ) -> tuple[int, float, bool]:
        """Number of the candidate that answers, the probability of that, and whether chance chose it."""
        best = self.best(features, candidates, taste, points)
        by_chance = rng.random() < self.settings.epsilon
        chosen = int(rng.integers(len(candidates))) if by_chance else best
        share = self.settings.epsilon / len(candidates)
        return chosen, share + (1 - self.settings.epsilon) * (chosen == best), chosen != best

    def best(
        self,
        features: RequestFeatures,
        candidates: Sequence[Candidate],
        taste: Taste,
        points: Vector | None = None,
    ) -> int:
        """The candidate with the best average less penalties among those that compete; else the cheapest. ``points``
        of quality are added."""
        averages, costs = self.averages(features, candidates), self.experience.costs(features, candidates)
        if np.isnan(averages).all():
            return self.fallback(candidates, costs)
        scores = averages - penalties(taste, costs, self.experience.log_latencies(candidates))
        return int(np.nanargmax(scores if points is None else scores + points))

    def fallback(self, candidates: Sequence[Candidate], costs: Vector) -> int:
        """What answers where no model competes: the default model, or the cheapest for this request."""
        names = [one.model for one in candidates]
        return names.index(self.default) if self.default in names else int(costs.argmin())

    def learn(self, features: RequestFeatures, model: str, value: float) -> None:
        """Apply one label (0-1)."""
        self.labels += 1
        cell = (features.task, features.complexity, model)
        known = self.cells.get(cell)
        if known is None:
            self.cells[cell] = _Average(value, 1, self.labels)
            return
        known.samples += 1
        known.value += max(self.settings.alpha, 1 / known.samples) * (value - known.value)
        known.last = self.labels

    def averages(self, features: RequestFeatures, candidates: Sequence[Candidate]) -> Vector:
        """The candidates' averages in the request's cell; not a number where one does not compete."""
        found = (self.cells.get((features.task, features.complexity, one.model)) for one in candidates)
        return np.array([known.value if known and self._competes(known) else np.nan for known in found])

    def remember(self, cell: Cell, value: float, samples: int, last: int) -> None:
        """An average as it was kept."""
        self.cells[cell] = _Average(value, samples, last)

    def _competes(self, known: _Average) -> bool:
        stale_after = self.settings.stale_after
        fresh = stale_after is None or self.labels - known.last <= stale_after
        return known.samples >= self.settings.least_samples and fresh
