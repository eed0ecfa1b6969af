"""Figures for a pool of two, as work on two-model routers reports them: APGR and CPT.

Prompts are ranked by how much better the stronger model is expected to be. Sending the first share of them to it
recovers a share of the gap in quality between the two: APGR is the mean of that over all shares of calls; CPT(50 %) is
the least share of calls to the stronger model that recovers half of the gap.
"""

from dataclasses import dataclass

import numpy as np

from routing.decision import Exploration, Label
from routing.engine import Engine
from routing.features import Vector
from routing.lab.replay import Stream
from routing.scores import Taste


@dataclass(frozen=True)
class PairFigures:
    """Shares 0-1; random ranking has .5, .5 and .8."""

    apgr: float
    cpt_50: float
    cpt_80: float


def pair_figures(stream: Stream, engine: Engine, seed: int) -> PairFigures:
    """Learn from the judged prompts of the first half and rank the second half."""
    table, half, rng = stream.table, len(stream.table) // 2, np.random.default_rng(seed)
    for step in np.flatnonzero(stream.judged[:half]):
        request = table.requests[step]
        decision = engine.decide(request, table.candidates, taste=Taste(), explore=Exploration.SHADOW, rng=rng)
        for model in (decision.model, decision.challenger):
            if model is not None:
                judgement = float(stream.judgements[step, table.models.index(model)])
                engine.learn(Label(model, request.vector, judgement))
    strong = int(table.quality.mean(axis=0).argmax())
    means, _ = engine.forecast(table.requests[half:], table.candidates)
    return ranked_figures(
        means[:, strong] - means[:, 1 - strong], table.quality[half:, strong] - table.quality[half:, 1 - strong]
    )


def ranked_figures(expected_gain: Vector, gain: Vector) -> PairFigures:
    """The figures of one ranking; ``gain`` is the true difference in quality of each prompt."""
    order = np.argsort(-expected_gain, kind="stable")
    recovered = np.concatenate([[0.0], np.cumsum(gain[order])]) / gain.sum()
    shares = np.linspace(0.0, 1.0, len(recovered))
    return PairFigures(
        apgr=float(recovered.mean()),
        cpt_50=float(shares[np.argmax(recovered >= 0.5)]),
        cpt_80=float(shares[np.argmax(recovered >= 0.8)]),
    )
