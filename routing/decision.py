"""What goes into and comes out of the router's engine."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

import numpy as np
from msgspec import Struct

from routing.features import RequestFeatures, Vector
from routing.slate import Matrix, Scoring


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


class Decision:
    """Candidates in the order they should be tried, why the first one is first, and the challenger of a shadow pair.

    Most of it is worked out only when it is asked for: a request that is not looked at needs the names alone.
    """

    __slots__ = (
        "_chosen",
        "_expected",
        "_features",
        "_odds",
        "_order",
        "_points",
        "_scores",
        "_scoring",
        "_sorted",
        "_table",
        "challenger",
        "challenger_propensity",
        "exploratory",
    )

    def __init__(
        self,
        scoring: Scoring,
        features: RequestFeatures,
        expected: Matrix,
        scores: Sequence[float],
        chosen: int,
        *,
        odds: Vector | None = None,
        points: Sequence[float] | None = None,
        exploratory: bool = False,
        challenger: int | None = None,
        challenger_propensity: float | None = None,
    ) -> None:
        """``expected`` is the scoring's of these features; it, ``scores`` and the other lists are by candidate of the
        slate. Without ``odds`` there was no chance in it."""
        self._scoring, self._features, self._expected = scoring, features, expected
        self._scores, self._chosen = scores, chosen
        self._odds, self._points = odds, points
        self._sorted: list[int] | None = None
        self._table: Matrix | None = None
        self._order: tuple[Ranked, ...] | None = None
        self.exploratory = exploratory
        self.challenger = None if challenger is None else scoring.slate.models[challenger]
        self.challenger_propensity = challenger_propensity

    @property
    def model(self) -> str:
        """The model that answers."""
        return self._scoring.slate.models[self._chosen]

    @property
    def models(self) -> tuple[str, ...]:
        """All candidates in the order they should be tried."""
        names = self._scoring.slate.models
        return tuple([names[place] for place in self._places])

    @property
    def propensity(self) -> float:
        """Probability with which this model was chosen for this request."""
        return 1.0 if self._odds is None else float(self._odds[self._chosen])

    @property
    def order(self) -> tuple[Ranked, ...]:
        """All candidates, the one that answers first, the others by score."""
        if self._order is None:
            points = self._points or [0.0] * len(self._scores)
            self._order = tuple(
                [
                    Ranked(name, mean, sd, cost, penalty, propensity, points[place])
                    for name, place, mean, cost, penalty, sd, propensity in zip(
                        self.models, self._places, *self._columns().tolist(), strict=True
                    )
                ]
            )
        return self._order

    @property
    def reason(self) -> str:
        """The decision in words."""
        table, scores, names = self._columns(), self._scores, self.models
        mean, cost, _, sd, propensity = table[:, 0].tolist()
        told = f"{names[0]}: expected quality {mean:.2f} ± {sd:.2f}, {cost:.3f} USD per 1,000 requests"
        if self.exploratory:
            return f"{told}; tried in order to learn, chosen with probability {propensity:.2f}"
        if len(names) == 1:
            return f"{told}; the only candidate"
        first, second = self._places[:2]
        beyond = "cost and latency" if self._points is None else "cost, latency and rules"
        return f"{told}; ahead of {names[1]} by {scores[first] - scores[second]:.3f} after {beyond}"

    def as_data(self) -> dict[str, list[Any]]:
        """For a log row: ``model, mean, cost, penalty, sd, propensity, points`` as lists, in the order of trial.

        Rounded to six digits; ``points`` only where a rule gave any.
        """
        data: dict[str, list[Any]] = {"model": list(self.models)}
        data.update(zip(_COLUMNS, self._columns().round(6).tolist(), strict=True))
        if self._points is not None:
            data["points"] = [round(self._points[place], 6) for place in self._places]
        return data

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

    @property
    def _places(self) -> list[int]:
        """Numbers of the candidates in the slate, in the order of trial."""
        if self._sorted is None:
            self._sorted = sorted(range(len(self._scores)), key=self._scores.__getitem__, reverse=True)
            self._sorted.remove(self._chosen)
            self._sorted.insert(0, self._chosen)
        return self._sorted

    def _columns(self) -> Matrix:
        """The rows of ``_COLUMNS``, in the order of trial."""
        if self._table is not None:
            return self._table
        columns = np.zeros((len(_COLUMNS), len(self._scores)))
        columns[:3] = self._expected
        columns[3] = self._scoring.sds(self._features)
        if self._odds is None:
            columns[4, self._chosen] = 1.0
        else:
            columns[4] = self._odds
        self._table = columns.take(self._places, axis=1)
        return self._table


_COLUMNS = ("mean", "cost", "penalty", "sd", "propensity")
