"""What a candidate costs, how long it takes, and what both weigh against quality.

Quality is 0-1, cost is USD per 1,000 requests, latency is seconds. The weights (``cost_weight``: points of quality per
USD per 1,000 requests; ``latency_weight``: points per unit of log latency) are a strategy's or a tenant's own.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median

import numpy as np

from routing.features import RequestFeatures, Vector

UNKNOWN_OUTPUT_TOKENS = 300.0
_RECENT = 0.02  # weight of the newest answer once a few dozen are known
_LATENCY_STEP = 0.05  # in log seconds: the running median moves by so much towards each answer
_SMALL = 1e-12

STRATEGIES = ("quality", "balanced", "cost", "latency")
FIXED_WEIGHTS: Mapping[str, tuple[float, float, float]] = {
    "balanced": (0.40, 0.35, 0.25),
    "cost": (0.80, 0.10, 0.10),
    "quality": (0.05, 0.85, 0.10),
    "latency": (0.10, 0.10, 0.80),
}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that may answer; prices in USD per million tokens."""

    model: str
    input_price: float
    output_price: float


@dataclass(frozen=True, slots=True)
class Taste:
    """What is wanted: how many points of quality a dollar per 1,000 requests and a unit of log latency weigh."""

    cost_weight: float = 0.0
    latency_weight: float = 0.0

    @classmethod
    def of_strategy(cls, strategy: str, cost_of_best: float) -> "Taste":
        """The weights of a strategy; ``cost_of_best`` is the best single model's USD per 1,000 requests.

        Raises ValueError for a strategy that is not in STRATEGIES.
        """
        unit = 1.0 / max(cost_of_best, _SMALL)
        if strategy == "quality":
            return cls()
        if strategy == "balanced":
            return cls(cost_weight=0.05 * unit, latency_weight=0.01)
        if strategy == "cost":
            return cls(cost_weight=0.5 * unit)
        if strategy == "latency":
            return cls(cost_weight=0.05 * unit, latency_weight=0.2)
        raise ValueError(f"strategy {strategy!r} is none of {', '.join(STRATEGIES)}")


def towards_spend(cost_weight: float, spend: float, target: float) -> float:
    """The cost weight after a period that spent ``spend`` where ``target`` (same unit) was wanted."""
    return max(0.0, cost_weight + 0.05 * (spend - target) / target)


@dataclass(slots=True)
class Experience:
    """Moving averages over every answer, judged or not: output tokens by model and task, latency by model."""

    output_tokens: dict[tuple[str, str], tuple[float, int]] = field(default_factory=dict)
    log_latency: dict[str, float] = field(default_factory=dict)
    answers: int = field(default=0, compare=False)  # observed by this object: what was worked out before is out of date

    def observe(self, model: str, task: str, output_tokens: int, latency_s: float | None = None) -> None:
        """Take one answer into account."""
        self.answers += 1
        for key in ((model, task), ("", task)):
            average, seen = self.output_tokens.get(key, (0.0, 0))
            step = max(_RECENT, 1.0 / (seen + 1))
            self.output_tokens[key] = (average + step * (output_tokens - average), seen + 1)
        if latency_s is not None and latency_s > 0:
            log = math.log(latency_s)
            median = self.log_latency.get(model, log)
            self.log_latency[model] = median + max(-_LATENCY_STEP, min(_LATENCY_STEP, log - median))

    def expected_output(self, model: str, task: str) -> float:
        """Output tokens to expect; of a model not seen on this task, what the others needed."""
        known = self.output_tokens.get((model, task)) or self.output_tokens.get(("", task))
        return known[0] if known else UNKNOWN_OUTPUT_TOKENS

    def costs(self, features: RequestFeatures, candidates: Sequence[Candidate]) -> Vector:
        """USD per 1,000 requests like this one, by candidate."""
        return np.array(
            [
                (
                    one.input_price * features.input_tokens
                    + one.output_price * self.expected_output(one.model, features.task)
                )
                / 1_000
                for one in candidates
            ]
        )

    def latencies(self, models: Sequence[str]) -> list[float]:
        """Median seconds of the models' answers, to a tenth of a millisecond; not a number where none was observed."""
        logs = [self.log_latency.get(model) for model in models]
        return [math.nan if log is None else round(math.exp(log), 4) for log in logs]

    def log_latencies(self, candidates: Sequence[Candidate]) -> Vector:
        """Log of the median latency in seconds; of a model not seen yet, the middle of the others."""
        found = [self.log_latency.get(one.model) for one in candidates]
        known = [log for log in found if log is not None]
        if len(known) == len(found):
            return np.array(known)
        usual = median(known) if known else 0.0
        return np.array([usual if log is None else log for log in found])


def penalties(taste: Taste, costs: Vector, log_latencies: Vector) -> Vector:
    """Points of quality that cost and latency take away."""
    lost: Vector = taste.cost_weight * costs + taste.latency_weight * log_latencies
    return lost


def fixed_scores(strategy: str, qualities: Vector, costs: Vector, log_latencies: Vector) -> Vector:
    """Scores by the strategy's fixed weights, each of cost, quality and latency stretched over 0-1 first."""
    cost, quality, latency = FIXED_WEIGHTS[strategy]
    scores: Vector = (
        quality * _stretched(qualities)
        - cost * _stretched(costs)
        - latency * _stretched(log_latencies)
        + cost
        + latency
    )
    return scores


def _stretched(values: Vector) -> Vector:
    spread = float(values.max() - values.min())
    stretched: Vector = (values - values.min()) / spread if spread > _SMALL else np.zeros(len(values))
    return stretched
