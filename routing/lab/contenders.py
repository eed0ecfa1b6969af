"""What is replayed side by side: every contender chooses a model for a request and may learn from a judgement."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from routing.decision import Exploration, Label
from routing.ema import MovingAverages
from routing.engine import Engine
from routing.features import RequestFeatures
from routing.scores import Candidate, Experience, Taste, fixed_scores

Choices = NDArray[np.intp]


@dataclass(frozen=True, slots=True)
class Choice:
    """The candidate that is served, the one judged beside it, and whether a user got an exploratory answer."""

    served: int
    shadow: int | None = None
    exploratory: bool = False


class Contender(Protocol):
    """One rule in the lab."""

    def choose(
        self, request: RequestFeatures, candidates: Sequence[Candidate], judged: bool, rng: np.random.Generator
    ) -> Choice: ...

    def learn(self, request: RequestFeatures, model: str, value: float) -> None: ...

    def observe(self, request: RequestFeatures, model: str, output_tokens: int) -> None: ...

    def policies(
        self, requests: Sequence[RequestFeatures], candidates: Sequence[Candidate], cost_weights: Sequence[float]
    ) -> list[Choices]:
        """What would be served now under each cost weight, without exploring and without learning."""
        ...


@dataclass
class Learning:
    """The engine of the gateway."""

    engine: Engine
    taste: Taste
    shadow: bool = False
    alarms: int = 0

    def choose(
        self, request: RequestFeatures, candidates: Sequence[Candidate], judged: bool, rng: np.random.Generator
    ) -> Choice:
        explore = (Exploration.SHADOW if self.shadow else Exploration.SERVED) if judged else Exploration.NONE
        decision = self.engine.decide(request, candidates, taste=self.taste, explore=explore, rng=rng)
        names = [one.model for one in candidates]
        shadow = None if decision.challenger is None else names.index(decision.challenger)
        return Choice(names.index(decision.model), shadow, decision.exploratory)

    def learn(self, request: RequestFeatures, model: str, value: float) -> None:
        self.alarms += self.engine.learn(Label(model, request.vector, value)).changed

    def observe(self, request: RequestFeatures, model: str, output_tokens: int) -> None:
        self.engine.observe(model, request.task, output_tokens)

    def policies(
        self, requests: Sequence[RequestFeatures], candidates: Sequence[Candidate], cost_weights: Sequence[float]
    ) -> list[Choices]:
        means, costs = self.engine.forecast(requests, candidates)
        return [
            (means - self.engine.leads(requests, candidates, Taste(weight)) - weight * costs).argmax(axis=1)
            for weight in cost_weights
        ]


@dataclass
class Averaging:
    """The moving averages of other gateways."""

    averages: MovingAverages
    taste: Taste

    def choose(
        self, request: RequestFeatures, candidates: Sequence[Candidate], judged: bool, rng: np.random.Generator
    ) -> Choice:
        served, _, exploratory = self.averages.choose(request, candidates, self.taste, rng)
        return Choice(served, None, exploratory)

    def learn(self, request: RequestFeatures, model: str, value: float) -> None:
        self.averages.learn(request, model, value)

    def observe(self, request: RequestFeatures, model: str, output_tokens: int) -> None:
        self.averages.experience.observe(model, request.task, output_tokens)

    def policies(
        self, requests: Sequence[RequestFeatures], candidates: Sequence[Candidate], cost_weights: Sequence[float]
    ) -> list[Choices]:
        costs = np.stack([self.averages.experience.costs(request, candidates) for request in requests])
        qualities = np.stack([self.averages.averages(request, candidates) for request in requests])
        nobody = np.isnan(qualities).all(axis=1)
        competing = np.where(np.isnan(qualities), -np.inf, qualities)
        chosen = [(competing - cost_weight * costs).argmax(axis=1) for cost_weight in cost_weights]
        fallback = np.array([self.averages.fallback(candidates, row) for row in costs])
        return [np.where(nobody, fallback, best) for best in chosen]


@dataclass
class FixedWeights:
    """Published quality, price and latency by a strategy's fixed weights; learns output lengths only."""

    qualities: Mapping[str, float]
    strategy: str = "balanced"
    experience: Experience = field(default_factory=Experience)

    def choose(
        self, request: RequestFeatures, candidates: Sequence[Candidate], judged: bool, rng: np.random.Generator
    ) -> Choice:
        return Choice(self._best(request, candidates))

    def learn(self, request: RequestFeatures, model: str, value: float) -> None:
        pass

    def observe(self, request: RequestFeatures, model: str, output_tokens: int) -> None:
        self.experience.observe(model, request.task, output_tokens)

    def policies(
        self, requests: Sequence[RequestFeatures], candidates: Sequence[Candidate], cost_weights: Sequence[float]
    ) -> list[Choices]:
        return [np.array([self._best(request, candidates) for request in requests])] * len(cost_weights)

    def _best(self, request: RequestFeatures, candidates: Sequence[Candidate]) -> int:
        qualities = np.array([self.qualities.get(one.model, 0.5) for one in candidates])
        costs = self.experience.costs(request, candidates)
        return int(fixed_scores(self.strategy, qualities, costs, self.experience.log_latencies(candidates)).argmax())
