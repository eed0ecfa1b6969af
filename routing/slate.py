"""The candidates of a request, made ready for one engine: what every request of a cell shares is worked out once.

A request then costs a product of a small matrix with what its text makes of it, and some sums over the candidates.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

from routing.candidate_table import packed
from routing.features import FeatureSpace, RequestFeatures, Vector
from routing.odds import Caution
from routing.regression import CellBeliefs, Combined
from routing.scores import Candidate, Experience, Taste

_MOST_SCORINGS = 256
_MOST_TEXTS = 64  # of one scoring: the steps of agents come with the same text of the user, one after the other
_MOST_SIZES = 64
_DIGITS = 6  # of what is told


@dataclass(slots=True)
class Scoring:
    """How the candidates of a slate score for requests of one task, complexity and taste. All lists are by candidate.

    ``output_costs`` are in USD per 1,000 requests, ``latency_losses`` in points of quality, ``latencies`` in seconds
    (not a number where none is known). What a text makes of the expectations is remembered while its vector is, and
    what prompts of about one size cost; all the rest is plain arithmetic on a dozen numbers, which in a busy process
    costs a fraction of calls into numpy: their code is out of the processor's caches by the next request.
    """

    slate: "Slate"
    beliefs: CellBeliefs
    taste: Taste
    output_costs: Sequence[float]
    latency_losses: Sequence[float]
    latencies: Sequence[float]
    caution: Caution = field(init=False)
    _of_texts: dict[int, "OfText"] = field(default_factory=dict, init=False, repr=False)
    _of_sizes: dict[int, "OfSize"] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        self.caution = self.slate.caution_of(self)

    def of_text(self, features: RequestFeatures) -> "OfText":
        """What is expected of the candidates, as far as the text makes it."""
        vector = features.vector
        known = self._of_texts.get(id(vector))
        if known is None:
            if len(self._of_texts) >= _MOST_TEXTS:
                self._of_texts.clear()
            means = self.beliefs.means(self.text_part(features)).tolist()
            known = self._of_texts[id(vector)] = OfText(vector, means, self.beliefs)
        return known

    def of_size(self, input_tokens: int) -> "OfSize":
        """What a prompt of this size costs with each candidate. Those of about the same size share it."""
        size = about(input_tokens)
        known = self._of_sizes.get(size)
        if known is None:
            if len(self._of_sizes) >= _MOST_SIZES:
                self._of_sizes.clear()
            known = self._of_sizes[size] = self._worked_out(size)
        return known

    def _worked_out(self, input_tokens: int) -> "OfSize":
        costs, weight, leads = self.costs(input_tokens), self.taste.cost_weight, self.caution.leads
        penalties = [weight * cost + lost for cost, lost in zip(costs, self.latency_losses, strict=True)]
        losses = [penalty + lead for penalty, lead in zip(penalties, leads, strict=True)]
        return OfSize(self, costs, penalties, losses)

    def costs(self, input_tokens: int) -> list[float]:
        """USD per 1,000 requests."""
        prices = zip(self.slate.input_prices, self.output_costs, strict=True)
        return [price * input_tokens + output for price, output in prices]

    def text_part(self, features: RequestFeatures) -> Vector:
        """Length and components of the request's text."""
        return features.vector[self.beliefs.texts_begin :]


class OfText(Struct):
    """Expected quality of the candidates for one text, by candidate; ``vector`` is kept alive, as it is known by its
    identity."""

    vector: Vector
    means: list[float]
    _beliefs: CellBeliefs
    _sds: list[float] | None = None
    _kept: bytes | None = None

    @property
    def sds(self) -> list[float]:
        """Standard deviations; worked out when somebody wants them."""
        if self._sds is None:
            self._sds = self._beliefs.sds(self.vector[self._beliefs.texts_begin :]).tolist()
        return self._sds

    @property
    def kept(self) -> bytes:
        """Both, as columns of a decision's table."""
        if self._kept is None:
            self._kept = packed(self.means) + packed(self.sds)
        return self._kept


class OfSize(Struct):
    """What candidates lose for one size of prompts, by candidate: ``costs`` in USD per 1,000 requests, ``penalties``
    for cost and latency, and ``losses``, which caution adds to, in points of quality."""

    _scoring: Scoring
    costs: Sequence[float]
    penalties: Sequence[float]
    losses: Sequence[float]
    _told: tuple[Sequence[float], Sequence[float]] | None = None
    _kept: bytes | None = None

    @property
    def told(self) -> tuple[Sequence[float], Sequence[float]]:
        """Costs and penalties, rounded for people."""
        if self._told is None:
            costs, penalties = ([round(one, _DIGITS) for one in column] for column in (self.costs, self.penalties))
            self._told = costs, penalties
        return self._told

    @property
    def kept(self) -> bytes:
        """What a decision's table has of it: cost, latency, penalty, caution."""
        if self._kept is None:
            columns = self.costs, self._scoring.latencies, self.penalties, self._scoring.caution.leads
            self._kept = b"".join(map(packed, columns))
        return self._kept


def about(tokens: int) -> int:
    """The size that stands for all within three per cent of it: a count of tokens is an estimate anyway."""
    spare = tokens.bit_length() - 5
    return tokens if spare <= 0 else tokens >> spare << spare | 1 << spare - 1


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
        "caution_of",
        "input_prices",
        "models",
        "output_prices",
    )

    def __init__(
        self,
        candidates: Sequence[Candidate],
        places: Sequence[int],
        space: FeatureSpace,
        caution_of: Callable[[Scoring], Caution],
    ) -> None:
        """``places`` are the candidates' numbers in the pool; ``caution_of`` works a scoring's caution out. Raises
        ValueError without candidates."""
        if not candidates:
            raise ValueError("no candidate is left to choose from")
        self.candidates = tuple(candidates)
        self.models = tuple(one.model for one in candidates)
        self.input_prices = [one.input_price / 1_000 for one in candidates]
        self.output_prices = [one.output_price / 1_000 for one in candidates]
        self._places: NDArray[np.intp] = np.array(places, np.intp)
        self._space, self.caution_of = space, caution_of
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
        output_costs = [
            price * experience.expected_output(model, features.task)
            for price, model in zip(self.output_prices, self.models, strict=True)
        ]
        log_latencies = experience.log_latencies(self.candidates).tolist()
        losses = [taste.latency_weight * log for log in log_latencies]
        return Scoring(self, beliefs, taste, output_costs, losses, experience.latencies(self.models))
