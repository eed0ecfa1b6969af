"""What goes into and comes out of the router's engine."""

from dataclasses import dataclass
from enum import Enum

from routing.features import Vector


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


@dataclass(frozen=True, slots=True)
class Ranked:
    """One candidate in a decision. Cost in USD per 1,000 requests; score and penalty in points of quality."""

    model: str
    mean: float
    sd: float
    cost: float
    penalty: float
    propensity: float

    @property
    def score(self) -> float:
        """What candidates are compared by."""
        return self.mean - self.penalty


@dataclass(frozen=True, slots=True)
class Decision:
    """Candidates in the order they should be tried, why the first one is first, and the challenger of a shadow pair."""

    order: tuple[Ranked, ...]
    exploratory: bool
    challenger: str | None = None
    challenger_propensity: float | None = None

    @property
    def model(self) -> str:
        """The model that answers."""
        return self.order[0].model

    @property
    def propensity(self) -> float:
        """Probability with which this model was chosen for this request."""
        return self.order[0].propensity

    @property
    def reason(self) -> str:
        """The decision in words."""
        first = self.order[0]
        told = f"{first.model}: expected quality {first.mean:.2f} ± {first.sd:.2f}"
        told += f", {first.cost:.3f} USD per 1,000 requests"
        if self.exploratory:
            return f"{told}; tried in order to learn, chosen with probability {first.propensity:.2f}"
        if len(self.order) == 1:
            return f"{told}; the only candidate"
        second = max(self.order[1:], key=lambda one: one.score)
        return f"{told}; ahead of {second.model} by {first.score - second.score:.3f} after cost and latency"
