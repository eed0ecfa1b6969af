"""Cells in which two models are so close that a test should tell them apart."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass

from routing.experiments.facts import Experiment, Mode

TIED_WITHIN = 0.15
MOST_AT_A_TIME = 3
CERTAIN = 0.999


@dataclass(frozen=True, slots=True)
class Believed:
    """What the router thinks of a model in a cell: quality 0-1, and labels it is based on."""

    model: str
    mean: float
    sd: float
    labels: int


@dataclass(frozen=True, slots=True)
class CellBeliefs:
    """A cell's models and its traffic (requests of any one period)."""

    task: str
    complexity: str
    models: tuple[Believed, ...]
    requests: int


@dataclass(frozen=True, slots=True)
class Proposal:
    """An experiment worth running; the first arm is the one believed best."""

    task: str
    complexity: str
    arms: tuple[str, str]
    mode: Mode
    reason: str


def proposals(
    cells: Sequence[CellBeliefs],
    running: Collection[Experiment],
    *,
    mode: Mode = "shadow",
    most: int = MOST_AT_A_TIME,
    within: float = TIED_WITHIN,
    least_labels: int = 0,
    certain: float = CERTAIN,
) -> list[Proposal]:
    """Experiments to begin, those with most traffic first; with those that run already never more than ``most``.

    Left out are cells with an experiment under way, models with fewer than ``least_labels``, and pairs whose order is
    known with probability ``certain`` already: a test would teach nothing.
    """
    found: list[Proposal] = []
    for cell in sorted(cells, key=lambda cell: (-cell.requests, cell.task, cell.complexity)):
        if len(running) + len(found) >= most:
            break
        if cell.requests > 0 and not any(one.concerns(cell.task, cell.complexity) for one in running):
            found += _proposal(cell, mode, within, least_labels, certain)
    return found


def _proposal(cell: CellBeliefs, mode: Mode, within: float, least_labels: int, certain: float) -> list[Proposal]:
    known = [one for one in cell.models if one.labels >= least_labels]
    ranked = sorted(known, key=lambda one: (-one.mean, one.model))[:2]
    if len(ranked) < 2 or ranked[0].mean - ranked[1].mean > within:
        return []
    first, second = ranked
    apart = first.mean - second.mean
    sure = 0.5 * (1 + math.erf(apart / math.sqrt(2 * (first.sd**2 + second.sd**2)))) if first.sd or second.sd else 1.0
    if apart and sure >= certain:
        return []
    told = f"{first.model} ({first.mean:.2f} ± {first.sd:.2f}) and {second.model} ({second.mean:.2f} ± {second.sd:.2f})"
    reason = f"{told} are within {within:g} of each other; {cell.requests} requests"
    return [Proposal(cell.task, cell.complexity, (first.model, second.model), mode, reason)]
