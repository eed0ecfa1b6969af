"""One contender replays one order of a table: it serves every prompt and learns from those that are judged."""

import time
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from routing.lab.contenders import Contender
from routing.lab.table import Matrix, Table

CHECKPOINTS = (50, 200, 800)
QUALITY_SHARES = (95, 99, 100)
_MOST_FURTHER_PASSES = 40
_SMALL = 1e-9
_COST_WEIGHTS = [0.0, *(float(weight) for weight in np.geomspace(1e-4, 1.0, 40))]


@dataclass(frozen=True)
class Conditions:
    """What the stream is like. ``price_times_ten`` and ``new_model`` name models; both come about at half."""

    cost_weight: float = 0.02
    judged: float = 0.1
    judge_noise: float = 0.12
    wrong_tasks: float = 0.0
    drift: bool = False
    new_model: bool = False
    price_times_ten: str = ""
    shadow: bool = False


@dataclass(frozen=True)
class Stream:
    """A table in the order of one seed, with everything that chance decides settled beforehand for all contenders."""

    table: Table
    conditions: Conditions
    quality: Matrix
    cost: Matrix
    judgements: Matrix
    judged: NDArray[np.bool_]
    first_of_newcomer: int = 0
    newcomer: int | None = None

    @property
    def utility(self) -> Matrix:
        """Quality less cost, by prompt and model, as it is when the prompt comes."""
        utility: Matrix = self.quality - self.conditions.cost_weight * 1_000 * self.cost
        return utility

    @property
    def best(self) -> int:
        """The best single model of the table as it is without any change."""
        return int(self.table.utility(self.conditions.cost_weight).mean(axis=0).argmax())

    @property
    def cheapest(self) -> int:
        """The model that costs least."""
        return int(self.table.cost.mean(axis=0).argmin())

    def present(self, step: int) -> NDArray[np.intp]:
        """Numbers of the models that can be chosen for the prompt at ``step``."""
        everyone = np.arange(len(self.table.models))
        if self.newcomer is None or step >= self.first_of_newcomer:
            return everyone
        others: NDArray[np.intp] = everyone[everyone != self.newcomer]
        return others


def stream_of(table: Table, seed: int, conditions: Conditions) -> Stream:
    """The stream of a seed: its order of prompts and models, judge coins, judgements, and what changes at half."""
    rng = np.random.default_rng(seed)
    table = table.in_order(rng.permutation(len(table)), rng.permutation(len(table.models)))
    judged = rng.random(len(table)) < conditions.judged * (0.5 if conditions.shadow else 1.0)
    noise = rng.normal(0.0, 1.0, table.quality.shape) * conditions.judge_noise
    if conditions.wrong_tasks:
        table = table.with_wrong_tasks(conditions.wrong_tasks, rng)
    quality, cost, half = table.quality.copy(), table.cost.copy(), len(table) // 2
    best = int(table.utility(conditions.cost_weight).mean(axis=0).argmax())
    if conditions.drift:
        quality[half:, best] *= rng.random(len(table) - half) >= 0.3
    if conditions.price_times_ten:
        cost[half:, table.models.index(conditions.price_times_ten)] *= 10
    newcomer = best if conditions.new_model else None
    return Stream(table, conditions, quality, cost, quality + noise, judged, half, newcomer)


@dataclass
class Outcome:
    """What came of one replay. Utilities by prompt; decision times in microseconds."""

    utility: Matrix
    decision_us: list[float] = field(default_factory=list)
    explored: int = 0
    labels: int = 0
    recovered: dict[int, float] = field(default_factory=dict)
    cost_at: dict[int, float] = field(default_factory=dict)


def replay(stream: Stream, contender: Contender, seed: int) -> Outcome:
    """Serve the stream once; then go on with judged prompts only, until the last checkpoint of labels."""
    rng = np.random.default_rng(seed)
    outcome = Outcome(np.zeros(len(stream.table)))
    utility = stream.utility
    for step in range(len(stream.table)):
        served = _serve(stream, contender, step, outcome, judged=bool(stream.judged[step]), rng=rng)
        outcome.utility[step] = utility[step, served]
    outcome.cost_at = _cost_at(stream, contender)
    if _changes(stream.conditions):
        return outcome
    at_end, times = (outcome.labels, outcome.explored), outcome.decision_us
    outcome.decision_us = []
    for _ in range(_MOST_FURTHER_PASSES):
        for step in rng.permutation(len(stream.table))[: int(stream.conditions.judged * len(stream.table)) + 1]:
            if outcome.labels >= CHECKPOINTS[-1] or not stream.conditions.judged:
                break
            _serve(stream, contender, int(step), outcome, judged=True, rng=rng)
    (outcome.labels, outcome.explored), outcome.decision_us = at_end, times
    return outcome


def _changes(conditions: Conditions) -> bool:
    return conditions.drift or conditions.new_model or bool(conditions.price_times_ten)


def _serve(
    stream: Stream, contender: Contender, step: int, outcome: Outcome, *, judged: bool, rng: np.random.Generator
) -> int:
    table, present = stream.table, stream.present(step)
    request, candidates = table.requests[step], [table.candidates[column] for column in present]
    if stream.conditions.price_times_ten and step >= stream.first_of_newcomer:
        candidates = [
            replace(one, input_price=one.input_price * 10, output_price=one.output_price * 10)
            if one.model == stream.conditions.price_times_ten
            else one
            for one in candidates
        ]
    began = time.perf_counter()
    choice = contender.choose(request, candidates, judged, rng)
    outcome.decision_us.append((time.perf_counter() - began) * 1e6)
    served = int(present[choice.served])
    outcome.explored += choice.exploratory
    contender.observe(request, table.models[served], int(table.output_tokens[step, served]))
    if judged:
        pair = [served] if choice.shadow is None else [served, int(present[choice.shadow])]
        for column in pair:
            contender.learn(request, table.models[column], float(stream.judgements[step, column]))
            outcome.labels += 1
            if outcome.labels in CHECKPOINTS and not _changes(stream.conditions):
                outcome.recovered[outcome.labels] = _recovered(stream, contender)
    return served


def _recovered(stream: Stream, contender: Contender) -> float:
    """How far today's policy has come from the cheapest to the best single model (1), over the whole table.

    Where the cheapest is the best: 1, or 0 if the policy does worse.
    """
    utility = stream.table.utility(stream.conditions.cost_weight)
    table, weights = stream.table, [stream.conditions.cost_weight]
    policy = contender.policies(table.requests, table.candidates, weights)[0]
    means = utility.mean(axis=0)
    way = float(means[stream.best] - means[stream.cheapest])
    gained = float(utility[np.arange(len(utility)), policy].mean()) - float(means[stream.cheapest])
    if way > 0:
        return gained / way
    return float(gained > -_SMALL)


def _cost_at(stream: Stream, contender: Contender) -> dict[int, float]:
    """USD per 1,000 requests of the cheapest policy, over cost weights, that keeps a share of the best's quality."""
    table = stream.table
    wanted = float(table.quality.mean(axis=0).max())
    rows, found = np.arange(len(table)), dict.fromkeys(QUALITY_SHARES, float("inf"))
    for policy in contender.policies(table.requests, table.candidates, _COST_WEIGHTS):
        quality, cost = float(table.quality[rows, policy].mean()), float(table.cost[rows, policy].mean()) * 1_000
        for share in QUALITY_SHARES:
            if quality >= wanted * share / 100:
                found[share] = min(found[share], cost)
    return found
