"""What goes into and comes out of the router's engine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import product
from math import nan

from msgspec import Struct

from routing.candidate_table import CandidateTable
from routing.features import RequestFeatures, Vector
from routing.slate import Scoring

UNIT = (
    1e6  # what is told of a decision has six digits (`round(x, 6)` goes by way of a text, and takes five times as long)
)


class Exploration(Enum):
    """What a request may be used for."""

    NONE = "none"  # not judged, pinned, or tool calls in flight: the best is served
    SERVED = "served"  # judged: the answer that is served may be an exploratory one
    SHADOW = "shadow"  # judged: the best is served, a challenger answers in the background


@dataclass(frozen=True, slots=True)
class Label:
    """A rating (0-1) of one answer. ``rater_variance`` is None for a judge's usual variance, 0 for a user."""

    model: str
    vector: Vector
    value: float
    rater_variance: float | None = None


class Ranked(Struct, frozen=True):
    """One candidate in a decision, as it is told: rounded. Cost in USD per 1,000 requests; penalty, ``points`` (a
    rule's) and ``caution`` (how far it must be ahead of the cheapest) in points of quality; latency in seconds, not a
    number where none is known."""

    model: str
    mean: float
    sd: float
    cost: float
    penalty: float
    propensity: float
    points: float = 0.0
    caution: float = 0.0
    latency: float = nan

    @property
    def score(self) -> float:
        """What candidates are compared by."""
        return self.mean - self.penalty - self.caution + self.points


class Decision:
    """Candidates in the order they should be tried, why the first one is first, and the challenger of a shadow pair.

    Most of it is worked out only when it is asked for: a request that is not looked at needs some names and numbers.
    """

    __slots__ = (
        "_caution",
        "_chosen",
        "_expected",
        "_features",
        "_lead",
        "_odds",
        "_places",
        "_points",
        "_scores",
        "_scoring",
        "challenger",
        "challenger_propensity",
        "exploratory",
        "models",
    )

    def __init__(
        self,
        scoring: Scoring,
        features: RequestFeatures,
        scores: Sequence[float],
        chosen: int,
        *,
        caution: Sequence[float],
        odds: Sequence[float] | None = None,
        points: Sequence[float] | None = None,
        exploratory: bool = False,
        challenger: int | None = None,
        challenger_propensity: float | None = None,
    ) -> None:
        """``scores`` (``caution`` is taken off already) and the other lists are by candidate of the slate; ``chosen``
        and ``challenger`` are numbers in it. Without ``odds`` there was no chance in it."""
        self._scoring, self._features, self._scores, self._chosen = scoring, features, scores, chosen
        self._expected = scoring.of_text(features)
        self._odds, self._points, self._caution = odds, points, caution
        self._lead: Sequence[Ranked] | None = None
        names = scoring.slate.models
        places = sorted(range(len(scores)), key=scores.__getitem__, reverse=True)
        if places[0] != chosen:
            places.remove(chosen)
            places.insert(0, chosen)
        self._places = places
        self.models = [names[place] for place in places]
        self.exploratory = exploratory
        self.challenger = None if challenger is None else names[challenger]
        self.challenger_propensity = challenger_propensity

    @property
    def model(self) -> str:
        """The model that answers."""
        return self.models[0]

    @property
    def propensity(self) -> float:
        """Probability with which this model was chosen for this request."""
        return 1.0 if self._odds is None else self._odds[self._chosen]

    @property
    def order(self) -> Sequence[Ranked]:
        """All candidates, the one that answers first, the others by score."""
        return self._first(len(self._places))

    @property
    def lead(self) -> Sequence[Ranked]:
        """The first two of ``order``, or the only one."""
        if self._lead is None:
            self._lead = self._first(2)
        return self._lead

    def _first(self, count: int) -> Sequence[Ranked]:
        odds, points, chosen, tokens = self._odds, self._points, self._chosen, self._features.input_tokens
        scoring, means, sds, caution = self._scoring, self._expected.means, self._expected.sds, self._caution
        return [
            Ranked(
                name,
                round(means[place] * UNIT) / UNIT,
                round(sds[place] * UNIT) / UNIT,
                round(scoring.cost(place, tokens) * UNIT) / UNIT,
                round(scoring.penalty(place, tokens) * UNIT) / UNIT,
                float(place == chosen) if odds is None else round(odds[place] * UNIT) / UNIT,
                0.0 if points is None else round(points[place] * UNIT) / UNIT,
                round(caution[place] * UNIT) / UNIT,
                scoring.latencies[place],
            )
            for name, place in zip(self.models[:count], self._places, strict=False)
        ]

    @property
    def reason(self) -> str:
        """The decision in words."""
        first = self.lead[0]
        expected = f"expected quality {first.mean:.2f} ± {first.sd:.2f}"
        told = f"{first.model}: {expected}, {first.cost:.3f} USD per 1,000 requests"
        if self.exploratory:
            return f"{told}; tried in order to learn, chosen with probability {first.propensity:.2f}"
        if len(self.models) == 1:
            return f"{told}; the only candidate"
        ahead = self._scores[self._places[0]] - self._scores[self._places[1]]
        return f"{told}; ahead of {self.models[1]} by {ahead:.3f}{self._after}"

    @property
    def _after(self) -> str:
        """What the lead is after, beside quality: only what counts for this taste and these two."""
        taste, caution = self._scoring.taste, self._caution
        cautious = caution[self._places[0]] != caution[self._places[1]]
        return _AFTER[taste.cost_weight > 0, taste.latency_weight > 0, self._points is not None, cautious]

    def table(self) -> CandidateTable:
        """For the log: what was weighed of every candidate."""
        expected, scoring, tokens = self._expected, self._scoring, self._features.input_tokens
        return CandidateTable.of(
            scoring.slate.models,
            expected.means,
            expected.sds,
            scoring.costs(tokens),
            scoring.latencies,
            scoring.penalties(tokens),
            self._caution,
            odds=self._odds,
            points=self._points,
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Decision):
            return NotImplemented
        mine, theirs = (
            (one.order, one.exploratory, one.challenger, one.challenger_propensity) for one in (self, other)
        )
        return mine == theirs

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"Decision({self.reason!r})"


def _in_words(*counts: bool) -> str:
    words = [word for word, counted in zip(("cost", "latency", "rules", "caution"), counts, strict=True) if counted]
    return f" after {' and '.join(filter(None, (', '.join(words[:-1]), words[-1])))}" if words else ""


_AFTER: Mapping[tuple[bool, ...], str] = {counts: _in_words(*counts) for counts in product((False, True), repeat=4)}
