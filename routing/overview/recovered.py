"""How far a router has come: from the cheapest model for everything towards the best single one."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from routing.decision_log import read_vector
from routing.engine import Engine
from routing.features import Vector
from routing.models import Decision

FEWEST: Final = 20  # decisions, below which a share would tell nothing
QUALIFIES_FOR: Final = 0.5  # of the decisions: the least that a single model must be able to answer
NO_DISTANCE: Final = 0.002  # of quality: the cheapest model is then the best one, too


@dataclass(frozen=True, slots=True)
class Recovered:
    """Mean utility (expected quality less what cost and latency weigh) of the router's choices and of what it is
    compared with, over the same requests. ``share`` 1 is the best single model; None where that is not ahead."""

    decisions: int
    cheapest: str
    best: str
    of_router: float
    of_cheapest: float
    of_best: float

    @property
    def share(self) -> float | None:
        distance = self.of_best - self.of_cheapest
        return (self.of_router - self.of_cheapest) / distance if distance > NO_DISTANCE else None


def recovered(engine: Engine, decisions: Sequence[Decision]) -> Recovered | None:
    """By present beliefs, of those decisions that the engine took among several candidates; None of too few.

    What cost and latency weighed is as it was logged, so it is by the taste of each request's strategy. Where a single
    model could not have answered, the router's choice stands in for it.
    """
    usable = [(one, columns) for one in decisions if (columns := _columns(engine, one)) is not None]
    if len(usable) < FEWEST:
        return None
    utilities, costs, chosen = _tables(engine, usable)
    of_router = utilities[np.arange(len(usable)), chosen]
    qualifies = ~np.isnan(utilities)
    fit = np.flatnonzero(qualifies.mean(axis=0) >= QUALIFIES_FOR)
    if not len(fit):
        return None
    always = np.where(qualifies, utilities, of_router[:, None]).mean(axis=0)
    cheapest = int(fit[np.argmin(np.nanmean(costs[:, fit], axis=0))])
    best = int(fit[np.argmax(always[fit])])
    return Recovered(
        decisions=len(usable),
        cheapest=engine.models[cheapest],
        best=engine.models[best],
        of_router=float(of_router.mean()),
        of_cheapest=float(always[cheapest]),
        of_best=float(always[best]),
    )


def _columns(engine: Engine, decision: Decision) -> dict[str, list[Any]] | None:
    """The candidates that are still known, if there was anything to decide; the chosen one must be among them."""
    logged = decision.candidates
    if decision.engine != "hier" or len(decision.vector) != 8 * engine.space.size or not logged:
        return None
    rows = [
        row for row in zip(logged["model"], logged["cost"], logged["penalty"], strict=True) if row[0] in engine.models
    ]
    models = [model for model, _, _ in rows]
    if len(rows) < 2 or decision.chosen not in models:
        return None
    return {"model": models, "cost": [cost for _, cost, _ in rows], "penalty": [lost for _, _, lost in rows]}


def _tables(
    engine: Engine, usable: Sequence[tuple[Decision, dict[str, list[Any]]]]
) -> tuple[Vector, Vector, NDArray[np.intp]]:
    """Utility and cost by decision and model (not a number where it was no candidate), and which was chosen."""
    places = {model: place for place, model in enumerate(engine.models)}
    means = np.stack([read_vector(bytes(one.vector)) for one, _ in usable]) @ engine.posterior.combined().mean.T
    utilities, costs = np.full(means.shape, np.nan), np.full(means.shape, np.nan)
    for row, (_, columns) in enumerate(usable):
        at = [places[model] for model in columns["model"]]
        utilities[row, at] = means[row, at] - columns["penalty"]
        costs[row, at] = columns["cost"]
    return utilities, costs, np.array([places[one.chosen] for one, _ in usable])
