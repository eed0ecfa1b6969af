"""One router per tenant in a gateway process: the engine its tenant chose, as of the state it was last read from.

Three engines, one way to ask: ``hier`` believes and learns (:mod:`routing.engine`), ``ema`` averages by cell
(:mod:`routing.ema`), ``fixed`` weighs published quality, price and latency (:mod:`routing.scores`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from msgspec import Struct

from routing.candidate_table import ALWAYS, CandidateTable, packed
from routing.candidates import Contestant
from routing.decision import Decision, Exploration, Ranked
from routing.ema import EmaSettings, MovingAverages
from routing.engine import UNKNOWN_QUALITY, Engine
from routing.facts import RoutingFacts
from routing.features import FeatureSpace, RequestFeatures, Vector
from routing.scores import Candidate, Experience, Taste, fixed_scores

USUAL_INPUT_TOKENS = 500
BALANCED_LATENCY_WEIGHT = 0.01
BY_WEIGHTS = "the best by its weights"
NOBODY_COMPETES = "the cheapest, as no model has enough ratings for such requests yet"


class Ranking(Protocol):
    """A decision, whichever engine made it (:class:`routing.decision.Decision` says what the names mean)."""

    exploratory: bool
    challenger: str | None
    challenger_propensity: float | None

    @property
    def model(self) -> str: ...

    @property
    def models(self) -> Sequence[str]: ...

    @property
    def propensity(self) -> float: ...

    @property
    def order(self) -> Sequence[Ranked]: ...

    @property
    def lead(self) -> Sequence[Ranked]: ...

    @property
    def reason(self) -> str: ...

    def table(self) -> CandidateTable: ...


@dataclass(slots=True)
class Weighed:
    """Candidates in order, of an engine that keeps no beliefs. ``why`` is what the first is the best by."""

    order: Sequence[Ranked]
    exploratory: bool = False
    why: str = BY_WEIGHTS
    challenger: str | None = None
    challenger_propensity: float | None = None

    @classmethod
    def of(
        cls, ranked: Sequence[Ranked], chosen: int, *, exploratory: bool = False, why: str = BY_WEIGHTS
    ) -> "Weighed":
        """The chosen one first, the others by score."""
        others = [one for place, one in enumerate(ranked) if place != chosen]
        return cls([ranked[chosen], *sorted(others, key=lambda one: -one.score)], exploratory, why)

    @property
    def model(self) -> str:
        return self.order[0].model

    @property
    def models(self) -> Sequence[str]:
        return [one.model for one in self.order]

    @property
    def propensity(self) -> float:
        return self.order[0].propensity

    @property
    def reason(self) -> str:
        first = self.order[0]
        quality = "" if self.why == NOBODY_COMPETES else f"quality {first.mean:.2f}, "
        told = f"{first.model}: {quality}{first.cost:.3f} USD per 1,000 requests"
        if self.exploratory:
            return f"{told}; by chance, with probability {first.propensity:.2f}"
        return f"{told}; the only candidate" if len(self.order) == 1 else f"{told}; {self.why}"

    @property
    def lead(self) -> Sequence[Ranked]:
        return self.order[:2]

    def table(self) -> CandidateTable:
        columns = (packed([getattr(one, name) for one in self.order]) for name in ALWAYS)
        points = [one.points for one in self.order]
        odds = [one.propensity for one in self.order]
        return CandidateTable.of(self.models, *columns, points=points if any(points) else None, odds=odds)


class Question(Struct, frozen=True):
    """One request as a router is asked about it. ``points`` are what rules add to a candidate's score."""

    features: RequestFeatures
    candidates: Sequence[Candidate]
    strategy: str
    explore: Exploration = Exploration.NONE
    points: Mapping[str, float] = {}


class Router(Protocol):
    """``version`` counts the states it has been; ``judge_probability`` is with which an answer is judged now."""

    version: int
    judge_probability: float

    def decide(self, question: Question, rng: np.random.Generator) -> Ranking:
        """Rank the candidates. Raises ValueError without any."""


@dataclass(slots=True)
class LearningRouter:
    """By the posterior. ``pool`` are all the tenant's models: what a strategy weighs is the same whichever of them a
    request is left with. ``cost_weight`` is what a spend target asks for; None: the strategy's own."""

    engine: Engine
    pool: Sequence[Candidate] = ()
    judge_probability: float = 0.0
    version: int = 0
    cost_weight: float | None = None
    quality_floor: float | None = None
    _tastes: dict[str, Taste] = field(default_factory=dict)

    def decide(self, question: Question, rng: np.random.Generator) -> Ranking:
        candidates = question.candidates
        decision = self._decide(question, candidates, rng)
        if self.quality_floor is not None and decision.lead[0].mean < self.quality_floor:
            good = {ranked.model for ranked in decision.order if ranked.mean >= self.quality_floor}
            if good:
                return self._decide(question, [one for one in candidates if one.model in good], rng)
        return decision

    def weigh_cost(self, weight: float | None) -> None:
        """Take the weight that a spend target asks for now."""
        if weight != self.cost_weight:
            self.cost_weight = weight
            self._tastes.clear()

    def _decide(self, question: Question, candidates: Sequence[Candidate], rng: np.random.Generator) -> Decision:
        points = question.points
        return self.engine.decide(
            question.features,
            candidates,
            taste=self._tastes.get(question.strategy) or self._taste(question.strategy, candidates),
            explore=question.explore,
            rng=rng,
            points=[points.get(one.model, 0.0) for one in candidates] if points else None,
        )

    def _taste(self, strategy: str, candidates: Sequence[Candidate]) -> Taste:
        """The weights of a strategy in this pool: made once per state."""
        taste = Taste.of_strategy(strategy, self._cost_of_best(self.pool or candidates))
        if self.cost_weight is not None and strategy != "quality":
            taste = Taste(self.cost_weight, taste.latency_weight)
        self._tastes[strategy] = taste
        return taste

    def _cost_of_best(self, candidates: Sequence[Candidate]) -> float:
        """USD per 1,000 usual requests of the model that is believed to be the best of all that cost anything."""
        usual = usual_request(self.engine.space)
        costs = self.engine.experience.costs(usual, candidates)
        means, _ = self.engine.posterior.combined().expected(usual.vector)
        by_model = dict(zip(self.engine.models, means, strict=True))
        qualities = np.array([by_model[one.model] for one in candidates])
        paid = costs > 0
        return float(costs[int(np.where(paid, qualities, -np.inf).argmax())]) if paid.any() else 0.0


@dataclass(slots=True)
class AveragingRouter:
    """By moving averages, exploring by chance."""

    averages: MovingAverages
    judge_probability: float = 0.0
    version: int = 0

    def decide(self, question: Question, rng: np.random.Generator) -> Ranking:
        candidates, features = question.candidates, question.features
        if not candidates:
            raise ValueError("no candidate is left to choose from")
        costs = self.averages.experience.costs(features, candidates)
        taste = Taste.of_strategy(question.strategy, float(costs.max()))
        points = _points_of(question)
        chosen, _, by_chance = self.averages.choose(features, candidates, taste, rng, points)
        known = self.averages.averages(features, candidates)
        why = NOBODY_COMPETES if np.isnan(known).all() else "the best of the averages after cost"
        means = np.nan_to_num(known, nan=0.0)
        lost = taste.cost_weight * costs
        epsilon = self.averages.settings.epsilon
        odds = np.full(len(candidates), epsilon / len(candidates))
        odds[self.averages.best(features, candidates, taste, points) if by_chance else chosen] += 1 - epsilon
        columns = [column.tolist() for column in (means, costs, lost, odds, points)]
        latencies = self.averages.experience.latencies([one.model for one in candidates])
        ranked = [
            Ranked(one.model, mean, 0.0, cost, penalty, odd, extra, latency=latency)
            for one, mean, cost, penalty, odd, extra, latency in zip(candidates, *columns, latencies, strict=True)
        ]
        return Weighed.of(ranked, chosen, exploratory=by_chance, why=why)


@dataclass(slots=True)
class FixedRouter:
    """By the strategy's fixed weights: learns nothing, but knows lengths and latencies."""

    published: Mapping[str, float]
    experience: Experience
    judge_probability: float = 0.0
    version: int = 0

    def decide(self, question: Question, rng: np.random.Generator) -> Ranking:
        candidates = question.candidates
        if not candidates:
            raise ValueError("no candidate is left to choose from")
        costs = self.experience.costs(question.features, candidates)
        means = np.array([self.published.get(one.model, UNKNOWN_QUALITY) for one in candidates])
        scores = fixed_scores(question.strategy, means, costs, self.experience.log_latencies(candidates))
        points = _points_of(question)
        chosen = int((scores + points).argmax())
        rows = zip(candidates, *(column.tolist() for column in (means, costs, means - scores, points)), strict=True)
        latencies = self.experience.latencies([one.model for one in candidates])
        ranked = [
            Ranked(one.model, mean, 0.0, cost, lost, float(place == chosen), extra, latency=latencies[place])
            for place, (one, mean, cost, lost, extra) in enumerate(rows)
        ]
        return Weighed.of(ranked, chosen)


def _points_of(question: Question) -> Vector:
    return np.array([question.points.get(one.model, 0.0) for one in question.candidates])


def candidate_of(one: Contestant) -> Candidate:
    """A contestant as engines see it. Where no price is known, none is known of any in its field: nobody is dearer."""
    return Candidate(one.name, one.input_price or 0.0, one.output_price or 0.0)


def pool_of(facts: RoutingFacts) -> tuple[Candidate, ...]:
    """All the models that a tenant's router may choose from, as engines see them."""
    return tuple(candidate_of(one) for one in facts.contestants.values())


def usual_request(space: FeatureSpace) -> RequestFeatures:
    """A request like most: no task of its own, of usual length."""
    vector = np.zeros(space.size)
    vector[0] = 1.0
    return RequestFeatures("general", "medium", vector, USUAL_INPUT_TOKENS)


def new_engine(facts: RoutingFacts) -> Engine:
    """The engine of a tenant that nothing has been learned for."""
    prices = {one.name: one.output_price or one.input_price or 0.0 for one in facts.contestants.values()}
    return Engine.begin(sorted(facts.contestants), published=dict(facts.published), prices=prices)


def with_models(engine: Engine, facts: RoutingFacts) -> Engine:
    """Lets models in that the engine does not know yet."""
    known = set(engine.models)
    for name in sorted(facts.contestants):
        if name not in known:
            engine.add_model(name, published=facts.published.get(name))
    return engine


def new_averages(facts: RoutingFacts) -> MovingAverages:
    """Moving averages by a tenant's settings, before the first label."""
    return MovingAverages(EmaSettings(facts.ema_alpha, facts.ema_epsilon, facts.ema_least_samples))
