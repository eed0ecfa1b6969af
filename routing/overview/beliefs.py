"""What a kept state believes of each model: for a usual request, and cell by cell."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np

from routing.ema import EmaSettings
from routing.engine import Engine, ModelSummary, UnreadableState
from routing.features import COMPLEXITIES, TASKS
from routing.models import RouterState
from routing.stored import averages_from_bytes

Cell = tuple[str, str]  # task, complexity

HEAT_STEPS: Final = 7
WORTH_TELLING: Final = 0.5  # of the distance to where a model is learned anew
LEAST_SPREAD: Final = 0.1  # of qualities; below, a heat map would make much of little
_IN_ORDER: Final = {
    (task, complexity): (place, level)
    for place, task in enumerate(TASKS)
    for level, complexity in enumerate(COMPLEXITIES)
}


@dataclass(frozen=True, slots=True)
class Belief:
    """Expected quality (0-1); ``sd`` is None of an engine that knows no doubt."""

    mean: float
    sd: float | None = None


@dataclass(frozen=True, slots=True)
class Beliefs:
    """Of one state. ``usual`` is by model for a usual request, ``cells`` by cell and model, ``labels`` how many each
    model was given; ``noticed`` says of a model what the engine has noticed. ``problem``: the state cannot be read."""

    usual: Mapping[str, Belief] = field(default_factory=dict)
    cells: Mapping[Cell, Mapping[str, float]] = field(default_factory=dict)
    labels: Mapping[str, int] = field(default_factory=dict)
    noticed: Mapping[str, str] = field(default_factory=dict)
    engine: Engine | None = None
    problem: str = ""


@dataclass(frozen=True, slots=True)
class HeatCell:
    """One model in one cell: expected quality, where that lies between the map's ends (0 to HEAT_STEPS - 1), how many
    labels say so, and whether no model is better there."""

    mean: float | None
    step: int
    labels: int
    best: bool


@dataclass(frozen=True, slots=True)
class HeatRow:
    task: str
    complexity: str
    cells: Sequence[HeatCell]


@dataclass(frozen=True, slots=True)
class HeatMap:
    """Tasks and complexities by models; ``low`` and ``high`` are the ends of its scale."""

    models: Sequence[str]
    rows: Sequence[HeatRow]
    low: float
    high: float


def beliefs_of(state: RouterState | None) -> Beliefs:
    """Nothing of a state that is not there yet, or of an engine that believes nothing."""
    if state is None or not state.state:
        return Beliefs()
    try:
        if state.engine == "hier":
            return _of_engine(Engine.from_bytes(bytes(state.state)))
        return _of_averages(bytes(state.state)) if state.engine == "ema" else Beliefs()
    except UnreadableState as exc:
        return Beliefs(problem=str(exc))


def heat_map(
    cells: Mapping[Cell, Mapping[str, float]],
    models: Sequence[str],
    labels: Mapping[tuple[str, str, str], int],
    wanted: Iterable[Cell],
) -> HeatMap | None:
    """Of the wanted cells (all, where none is wanted); ``labels`` are by task, complexity and model. None without any
    beliefs."""
    shown = [cell for cell in wanted if cell in cells] or [*cells]
    means = [mean for cell in shown for model, mean in cells[cell].items() if model in models]
    if not means:
        return None
    low, high = min(means), max(means)
    high = max(high, low + LEAST_SPREAD)
    rows = []
    for cell in sorted(shown, key=lambda cell: _IN_ORDER.get(cell, (len(TASKS), 0))):
        believed = {model: mean for model, mean in cells[cell].items() if model in models}
        best = max(believed.values(), default=None)
        rows.append(
            HeatRow(
                *cell,
                [_heat_cell(believed.get(model), low, high, best, labels.get((*cell, model), 0)) for model in models],
            )
        )
    return HeatMap(models, rows, low, high)


def _heat_cell(mean: float | None, low: float, high: float, best: float | None, labels: int) -> HeatCell:
    if mean is None:
        return HeatCell(None, 0, labels, best=False)
    step = min(HEAT_STEPS - 1, int(HEAT_STEPS * (mean - low) / (high - low)))
    return HeatCell(mean, step, labels, best=mean == best)


def _of_engine(engine: Engine) -> Beliefs:
    known = engine.pool_summary()
    combined = engine.posterior.combined()
    cells = {}
    for task in engine.space.tasks:
        for complexity in engine.space.complexities:
            vector = np.zeros(engine.space.size)
            vector[list(engine.space.places(task, complexity))] = 1.0
            expected: list[float] = (combined.mean @ vector).tolist()
            cells[task, complexity] = dict(zip(engine.models, expected, strict=True))
    return Beliefs(
        usual={one.model: Belief(one.quality, one.sd) for one in known},
        cells=cells,
        labels={one.model: one.labels for one in known},
        noticed={one.model: told for one in known if (told := _noticed(one))},
        engine=engine,
    )


def _noticed(one: ModelSummary) -> str:
    if one.drop >= WORTH_TELLING:
        return f"answers worse than expected: {one.drop:.0%} of what is too much for chance"
    return "" if one.reopened is None else f"answered worse than expected: learned anew since label {one.reopened:,}"


def _of_averages(state: bytes) -> Beliefs:
    """Overall averages are weighted by samples."""
    averages = averages_from_bytes(state, EmaSettings())
    cells: dict[Cell, dict[str, float]] = {}
    sums: dict[str, tuple[float, int]] = {}
    for (task, complexity, model), known in averages.cells.items():
        cells.setdefault((task, complexity), {})[model] = known.value
        total, samples = sums.get(model, (0.0, 0))
        sums[model] = (total + known.value * known.samples, samples + known.samples)
    return Beliefs({model: Belief(total / samples) for model, (total, samples) in sums.items()}, cells)
