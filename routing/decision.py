"""What goes into and comes out of the router's engine."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from msgspec import Struct

from routing.features import RequestFeatures, Vector
from routing.slate import Scoring


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
    """One candidate in a decision. Cost in USD per 1,000 requests; penalty and ``points`` (a rule's) in points of
    quality."""

    model: str
    mean: float
    sd: float
    cost: float
    penalty: float
    propensity: float
    points: float = 0.0

    @property
    def score(self) -> float:
        """What candidates are compared by."""
        return self.mean - self.penalty + self.points

    def rounded(self) -> dict[str, Any]:
        """For whoever reads it: numbers with six digits."""
        return {"model": self.model} | {name: round(getattr(self, name), 6) for name in _NUMBERS}


class Decision:
    """Candidates in the order they should be tried, why the first one is first, and the challenger of a shadow pair.

    Most of it is worked out only when it is asked for: a request that is not looked at needs some names and numbers.
    """

    __slots__ = (
        "_chosen",
        "_features",
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
        odds: Sequence[float] | None = None,
        points: Sequence[float] | None = None,
        exploratory: bool = False,
        challenger: int | None = None,
        challenger_propensity: float | None = None,
    ) -> None:
        """``scores`` and the other lists are by candidate of the slate; ``chosen`` and ``challenger`` are numbers in
        it. Without ``odds`` there was no chance in it."""
        self._scoring, self._features = scoring, features
        self._scores, self._chosen = scores, chosen
        self._odds, self._points = odds, points
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
        return self._odds_of(self._chosen)

    @property
    def order(self) -> Sequence[Ranked]:
        """All candidates, the one that answers first, the others by score."""
        return self.first(len(self._places))

    def first(self, count: int) -> Sequence[Ranked]:
        """The first so many of ``order``."""
        scoring, tokens = self._scoring, self._features.input_tokens
        means, sds = scoring.means(self._features), scoring.sds(self._features)
        return [
            Ranked(
                name,
                means[place],
                sds[place],
                scoring.cost(place, tokens),
                scoring.penalty(place, tokens),
                self._odds_of(place),
                self._points[place] if self._points else 0.0,
            )
            for name, place in zip(self.models[:count], self._places, strict=False)
        ]

    @property
    def reason(self) -> str:
        """The decision in words."""
        first = self.first(1)[0]
        expected = f"expected quality {first.mean:.2f} ± {first.sd:.2f}"
        told = f"{first.model}: {expected}, {first.cost:.3f} USD per 1,000 requests"
        if self.exploratory:
            return f"{told}; tried in order to learn, chosen with probability {first.propensity:.2f}"
        if len(self.models) == 1:
            return f"{told}; the only candidate"
        ahead = self._scores[self._places[0]] - self._scores[self._places[1]]
        beyond = "cost and latency" if self._points is None else "cost, latency and rules"
        return f"{told}; ahead of {self.models[1]} by {ahead:.3f} after {beyond}"

    def as_data(self) -> dict[str, list[Any]]:
        """For a log row: ``model, mean, sd, cost, penalty, propensity, points`` as lists, in the order of trial."""
        return columns_of(self.order, with_points=self._points is not None)

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

    def _odds_of(self, place: int) -> float:
        return float(place == self._chosen) if self._odds is None else self._odds[place]


def columns_of(ranked: Sequence[Ranked], *, with_points: bool = False) -> dict[str, list[Any]]:
    """Candidates as columns, numbers rounded to six digits; ``points`` only where a rule gave any."""
    columns: dict[str, list[Any]] = {"model": [one.model for one in ranked]}
    for name in _NUMBERS if with_points else _NUMBERS[:-1]:
        columns[name] = [round(getattr(one, name), 6) for one in ranked]
    return columns


_NUMBERS = ("mean", "sd", "cost", "penalty", "propensity", "points")
