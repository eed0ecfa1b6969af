"""In which order the deployments of a model are tried: several keys, regions or vendors that serve the same one.

A conversation that has something at one deployment (a session, a prompt cache, reasoning only that account can read)
stays with it, whatever the rule, by rendezvous hashing: no memory is needed, every process decides alike, and when a
deployment leaves only its own conversations move.
"""

import hashlib
import math
import random
from collections.abc import Callable, Sequence
from typing import Literal

from gateway.policy import ModelFacts
from gateway.providers.target import Target

Rule = Literal["ordered", "weighted", "least_latency"]
Latency = Callable[[str], float | None]

EXPLORED = 0.05  # share of requests that go to a deployment nobody has measured yet, so that it gets measured
_HASHES = float(1 << 64)


class Balancer:
    """``latency_s`` tells how long first tokens of a circuit take of late, in seconds, None while that is not known."""

    def __init__(self, latency_s: Latency, source: random.Random | None = None) -> None:
        self._latency_s = latency_s
        self._random = source or random.Random()  # noqa: S311 - spreads load, keeps no secret

    def targets(self, models: Sequence[ModelFacts], affinity: str | None) -> list[Target]:
        """Every deployment of ``models``, model by model in the order given."""
        targets: list[Target] = []
        for model in models:
            targets += model.targets if len(model.targets) == 1 else self._ordered(model, affinity)
        return targets

    def _ordered(self, model: ModelFacts, affinity: str | None) -> Sequence[Target]:
        if model.balancing == "ordered":
            return model.targets
        weighing = [target for target in model.targets if target.weight]
        reserve = [target for target in model.targets if not target.weight]
        if affinity is not None:
            weighing.sort(key=lambda target: _rendezvous(affinity, target), reverse=True)
        elif model.balancing == "weighted":
            self._shuffle(weighing)
        else:
            self._fastest_first(weighing)
        return [*weighing, *reserve]

    def _shuffle(self, targets: list[Target]) -> None:
        """A random order in which each place is drawn by weight (Efraimidis and Spirakis, 2006)."""
        keys = {target.circuit: self._random.random() ** (1 / target.weight) for target in targets}
        targets.sort(key=lambda target: keys[target.circuit], reverse=True)

    def _fastest_first(self, targets: list[Target]) -> None:
        times = {target.circuit: self._latency_s(target.circuit) for target in targets}
        unknown_s = 0.0 if self._random.random() < EXPLORED or not any(times.values()) else math.inf
        self._shuffle(targets)  # those that nobody has measured, and equals, take turns
        targets.sort(key=lambda target: unknown_s if (time_s := times[target.circuit]) is None else time_s)


def _rendezvous(affinity: str, target: Target) -> float:
    """Its score for this conversation; the highest has it. Shares follow the weights (Schindelhauer and Schomaker,
    2005)."""
    digest = hashlib.blake2b(f"{affinity}\0{target.circuit}".encode(), digest_size=8).digest()
    uniform = (int.from_bytes(digest) + 0.5) / _HASHES
    return -target.weight / math.log(uniform)
