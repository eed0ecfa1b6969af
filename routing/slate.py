"""The candidates of a request, made ready for one engine: what every request of a cell shares is worked out once.

A request then costs one small product of matrices and some sums over the candidates.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from routing.features import FeatureSpace, RequestFeatures, Vector
from routing.regression import CellBeliefs, Combined
from routing.scores import Candidate, Experience, Taste

_MOST_SCORINGS = 256


@dataclass(slots=True)
class Scoring:
    """How the candidates of a slate score for requests of one task, complexity and taste.

    Expected quality is ``texts . t + fixed`` with t, the part of the vector that the text makes; penalty is
    ``lost + input_tokens x lost_per_token`` in points of quality. Costs are USD per 1,000 requests.
    """

    slate: "Slate"
    beliefs: CellBeliefs
    taste: Taste
    output_costs: Vector
    log_latencies: Vector
    _texts: Vector = field(init=False, repr=False)
    _fixed: Vector = field(init=False, repr=False)
    _fixed_less_lost: Vector = field(init=False, repr=False)
    _lost_per_token: Vector = field(init=False, repr=False)
    _lost_to_latency: Vector = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._texts, self._fixed = self.beliefs.texts, self.beliefs.fixed
        weight = self.taste.cost_weight
        self._lost_to_latency = self.taste.latency_weight * self.log_latencies
        self._fixed_less_lost = self._fixed - weight * self.output_costs - self._lost_to_latency
        self._lost_per_token = weight * self.slate.input_prices

    def scores(self, features: RequestFeatures) -> list[float]:
        """Expected quality less penalty, by candidate."""
        scores: Vector = self._texts.dot(self.text_part(features))
        scores += self._fixed_less_lost
        scores -= features.input_tokens * self._lost_per_token
        listed: list[float] = scores.tolist()
        return listed

    def text_part(self, features: RequestFeatures) -> Vector:
        """Length and components of the request's text."""
        return features.vector[self.beliefs.texts_begin :]

    def means(self, features: RequestFeatures) -> Vector:
        """Expected quality by candidate."""
        means: Vector = self._texts.dot(self.text_part(features)) + self._fixed
        return means

    def sds(self, features: RequestFeatures) -> Vector:
        """Standard deviation of what is expected, by candidate."""
        return self.beliefs.sds(self.text_part(features))

    def costs(self, features: RequestFeatures) -> Vector:
        """USD per 1,000 requests by candidate."""
        costs: Vector = self.output_costs + features.input_tokens * self.slate.input_prices
        return costs

    def penalties(self, costs: Vector) -> Vector:
        """Points of quality that ``costs`` and the candidates' latencies take away."""
        lost: Vector = self.taste.cost_weight * costs + self._lost_to_latency
        return lost


class Slate:
    """Candidates in a fixed order. Remembers its scorings as long as beliefs and averages are the same."""

    __slots__ = (
        "_answers",
        "_beliefs",
        "_believed",
        "_places",
        "_scorings",
        "_space",
        "candidates",
        "input_prices",
        "models",
        "output_prices",
    )

    def __init__(self, candidates: Sequence[Candidate], places: Sequence[int], space: FeatureSpace) -> None:
        """``places`` are the candidates' numbers in the pool. Raises ValueError without candidates."""
        if not candidates:
            raise ValueError("no candidate is left to choose from")
        self.candidates = tuple(candidates)
        self.models = tuple(one.model for one in candidates)
        self.input_prices: Vector = np.array([one.input_price for one in candidates]) / 1_000
        self.output_prices: Vector = np.array([one.output_price for one in candidates]) / 1_000
        self._places: NDArray[np.intp] = np.array(places, np.intp)
        self._space = space
        self._beliefs: dict[tuple[int, ...], CellBeliefs] = {}
        self._scorings: dict[tuple[str, str, float, float], Scoring] = {}
        self._believed: Combined | None = None
        self._answers = -1

    def scoring(self, features: RequestFeatures, taste: Taste, believed: Combined, experience: Experience) -> Scoring:
        """How the candidates score for requests like this one."""
        if self._believed is not believed:
            self._beliefs.clear()
            self._scorings.clear()
            self._believed = believed
        if self._answers != experience.answers:
            self._scorings.clear()
            self._answers = experience.answers
        key = (features.task, features.complexity, taste.cost_weight, taste.latency_weight)
        known = self._scorings.get(key)
        if known is None:
            if len(self._scorings) >= _MOST_SCORINGS:
                self._scorings.clear()
            known = self._scorings[key] = self._worked_out(features, taste, believed, experience)
        return known

    def _worked_out(
        self, features: RequestFeatures, taste: Taste, believed: Combined, experience: Experience
    ) -> Scoring:
        ones = self._space.places(features.task, features.complexity)
        beliefs = self._beliefs.get(ones)
        if beliefs is None:
            beliefs = self._beliefs[ones] = CellBeliefs.of(believed, self._places, ones, self._space.rest_begins)
        tokens = [experience.expected_output(model, features.task) for model in self.models]
        return Scoring(
            self, beliefs, taste, self.output_prices * np.array(tokens), experience.log_latencies(self.candidates)
        )
