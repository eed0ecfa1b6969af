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

Matrix = NDArray[np.float64]

_MOST_SCORINGS = 256
_MOST_TEXTS = 64  # of one scoring: the steps of agents come with the same text of the user, one after the other


@dataclass(slots=True)
class Scoring:
    """How the candidates of a slate score for requests of one task, complexity and taste.

    Expected quality, cost and what is lost to cost and latency are all linear in (text, input tokens, 1), with the part
    of the vector that the text makes: one product answers all three.
    """

    slate: "Slate"
    beliefs: CellBeliefs
    taste: Taste
    output_costs: Vector
    log_latencies: Vector
    _linear: Matrix = field(init=False, repr=False)
    _sds: dict[int, tuple[Vector, Vector]] = field(
        default_factory=dict, init=False, repr=False
    )  # by vector, kept alive

    def __post_init__(self) -> None:
        texts, prices = self.beliefs.texts, self.slate.input_prices
        weight, nothing = self.taste.cost_weight, np.zeros_like(texts)
        lost = weight * self.output_costs + self.taste.latency_weight * self.log_latencies
        self._linear = np.vstack(
            [
                np.column_stack([texts, np.zeros_like(prices), self.beliefs.fixed]),
                np.column_stack([nothing, prices, self.output_costs]),
                np.column_stack([nothing, weight * prices, lost]),
            ]
        )

    def expected(self, features: RequestFeatures) -> Matrix:
        """By candidate (columns): quality, USD per 1,000 requests, points of quality that cost and latency take."""
        given = np.empty(self._linear.shape[1])
        given[:-2] = self.text_part(features)
        given[-2] = features.input_tokens
        given[-1] = 1.0
        expected: Matrix = self._linear.dot(given).reshape(3, -1)
        return expected

    def text_part(self, features: RequestFeatures) -> Vector:
        """Length and components of the request's text."""
        return features.vector[self.beliefs.texts_begin :]

    def sds(self, features: RequestFeatures) -> Vector:
        """Standard deviation of what is expected, by candidate."""
        vector = features.vector
        known = self._sds.get(id(vector))
        if known is None:
            if len(self._sds) >= _MOST_TEXTS:
                self._sds.clear()
            known = self._sds[id(vector)] = (vector, self.beliefs.sds(self.text_part(features)))
        return known[1]


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
