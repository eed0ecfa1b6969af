"""What goes into and comes out of the router's engine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import product
from math import nan
from operator import sub

import numpy as np
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
    All lists but ``models``, ``order`` and ``lead`` are by candidate of the slate.
    """

    __slots__ = (
        "_expected",
        "_lead",
        "_odds",
        "_places",
        "_points",
        "_scoring",
        "_size",
        "challenger",
        "challenger_propensity",
        "exploratory",
        "models",
        "scores",
    )

    def __init__(self, scoring: Scoring, features: RequestFeatures, points: Sequence[float] | None) -> None:
        """The best after cost, latency, caution and the ``points`` of rules answers."""
        self._scoring, self._points = scoring, points
        self._expected, self._size = scoring.of_text(features), scoring.of_size(features.input_tokens)
        self._odds: Sequence[float] | None = None
        self._lead: Sequence[Ranked] | None = None
        self.exploratory = False
        self.challenger: str | None = None
        self.challenger_propensity: float | None = None
        scores = list(map(sub, self._expected.means, self._size.losses))
        if points is not None:
            scores = [score + extra for score, extra in zip(scores, points, strict=True)]
        self.scores: Sequence[float] = scores
        self._try_in_order(sorted(range(len(scores)), key=scores.__getitem__, reverse=True))

    def draw(self, chosen: int, odds: Sequence[float]) -> None:
        """The candidate of this number answers: chance took it, with these ``odds``."""
        self.exploratory, self._odds, self._lead = chosen != self.chosen, odds, None
        self._try_in_order([chosen, *(place for place in self._places if place != chosen)])

    def scores_without_caution(self) -> Vector:
        """What chance compares candidates by: who is tried out need not be ahead."""
        scores: Vector = np.array(self._expected.means) - np.array(self._size.penalties)
        if self._points is not None:
            scores += np.array(self._points)
        return scores

    def challenge(self, challenger: int, probability: float) -> None:
        """The candidate of this number answers, too, in the background."""
        self.challenger, self.challenger_propensity = self._scoring.slate.models[challenger], probability

    def _try_in_order(self, places: Sequence[int]) -> None:
        names = self._scoring.slate.models
        self._places = places
        self.models = [names[place] for place in places]

    @property
    def model(self) -> str:
        """The model that answers."""
        return self.models[0]

    @property
    def chosen(self) -> int:
        """The number of the candidate that answers."""
        return self._places[0]

    @property
    def propensity(self) -> float:
        """Probability with which this model was chosen for this request."""
        return 1.0 if self._odds is None else self._odds[self._places[0]]

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
        scoring, odds, points = self._scoring, self._odds, self._points
        means, sds, leads = self._expected.means, self._expected.sds, scoring.caution.leads
        costs, penalties = self._size.told
        return [
            Ranked(
                name,
                round(means[place] * UNIT) / UNIT,
                round(sds[place] * UNIT) / UNIT,
                costs[place],
                penalties[place],
                float(place == self._places[0]) if odds is None else round(odds[place] * UNIT) / UNIT,
                0.0 if points is None else round(points[place] * UNIT) / UNIT,
                leads[place],
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
        scores, (best, second) = self.scores, self._places[:2]
        return f"{told}; ahead of {self.models[1]} by {scores[best] - scores[second]:.3f}{self._after(best, second)}"

    def _after(self, best: int, second: int) -> str:
        """What the lead is after, beside quality: only what counts for this taste and these two."""
        taste, leads = self._scoring.taste, self._scoring.caution.leads
        counts = taste.cost_weight > 0, taste.latency_weight > 0, self._points is not None, leads[best] != leads[second]
        return _AFTER[counts]

    def table(self) -> CandidateTable:
        """For the log: what was weighed of every candidate."""
        odds, points = self._odds, self._points
        if points is not None and odds is None:
            odds = [float(place == self._places[0]) for place in range(len(points))]
        return CandidateTable.of(
            self._scoring.slate.models, self._expected.kept, self._size.kept, odds=odds, points=points
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
