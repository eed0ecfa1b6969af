"""Tables made by simulation, to choose constants on something else than the public data that they are judged by.

Each kind is a world: how far models differ, whether price tells quality, whether strength lies in tasks, whether
answers are right or wrong or in between.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from routing.features import COMPLEXITIES, COMPONENTS, FeatureSpace, RequestFeatures
from routing.lab.table import Matrix, Table
from routing.scores import Candidate


@dataclass(frozen=True)
class World:
    """Standard deviations are on the 0-1 scale of quality; ``grades`` 1: right or wrong, else that many steps."""

    models: int
    tasks: int
    worst: float
    best: float
    price_tells: float  # correlation of log price with quality
    task_sd: float
    cell_sd: float
    text_sd: float
    difficulty_sd: float
    grades: int = 1


WORLDS: Mapping[str, World] = {
    "ladder": World(10, 6, 0.45, 0.85, 0.85, 0.08, 0.04, 0.08, 0.2),
    "alike": World(8, 5, 0.68, 0.80, 0.0, 0.05, 0.03, 0.06, 0.2, grades=4),
    "specialists": World(12, 8, 0.55, 0.75, 0.4, 0.18, 0.06, 0.06, 0.15),
    "few": World(3, 4, 0.55, 0.85, 0.9, 0.06, 0.04, 0.1, 0.25),
}
_LOG_PRICE_SD, _MIDDLE_PRICE = 1.5, 1.2  # USD per million output tokens


def made_up(name: str, *, prompts: int = 3_000, seed: int = 1) -> Table:
    """A table of the world ``name``. Raises KeyError for one that does not exist."""
    world = WORLDS[name]
    rng = np.random.default_rng(seed)
    space = FeatureSpace(tasks=tuple(f"task {number}" for number in range(world.tasks)))
    tasks = rng.choice(world.tasks, size=prompts, p=_uneven(world.tasks, rng))
    hardness = rng.choice(len(COMPLEXITIES), size=prompts, p=(0.4, 0.4, 0.2))
    requests = tuple(
        _request(space, space.tasks[task], COMPLEXITIES[hard], rng) for task, hard in zip(tasks, hardness, strict=True)
    )
    general = rng.permutation(np.linspace(world.worst, world.best, world.models))
    chances = _chances(world, general, (tasks, hardness), np.stack([request.vector for request in requests]), rng)
    quality = rng.binomial(world.grades, chances) / world.grades
    outputs, cost, candidates = _costs(world, general, requests, tasks, rng)
    return Table(tuple(one.model for one in candidates), tuple(candidates), space, requests, quality, cost, outputs)


def _uneven(count: int, rng: np.random.Generator) -> Matrix:
    shares: Matrix = rng.dirichlet(np.full(count, 3.0))
    return shares


def _request(space: FeatureSpace, task: str, complexity: str, rng: np.random.Generator) -> RequestFeatures:
    vector = np.zeros(space.size)
    vector[list(space.places(task, complexity))] = 1.0
    length = rng.normal()
    vector[space.rest_begins] = 0.3 * length
    vector[space.rest_begins + 1 :] = np.clip(rng.normal(size=COMPONENTS), -3.0, 3.0) / np.sqrt(COMPONENTS)
    return RequestFeatures(task, complexity, vector, max(1, int(125 * np.exp(1.2 * length))))


def _chances(
    world: World,
    general: Matrix,
    cells: tuple[NDArray[np.intp], NDArray[np.intp]],
    vectors: Matrix,
    rng: np.random.Generator,
) -> Matrix:
    """Probability that a step of the grading is passed, by prompt and model."""
    count, (tasks, hardness) = world.models, cells
    by_task = rng.normal(0.0, world.task_sd, (world.tasks, count)) + rng.normal(0.0, 0.12, (world.tasks, 1))
    by_cell = rng.normal(0.0, world.cell_sd, (world.tasks, len(COMPLEXITIES), count))
    by_cell += np.array([0.08, 0.0, -0.12])[None, :, None]
    by_text = vectors[:, -COMPONENTS:] @ rng.normal(0.0, world.text_sd, (COMPONENTS, count))
    difficulty = rng.normal(0.0, world.difficulty_sd, (len(tasks), 1))
    chances: Matrix = general + by_task[tasks] + by_cell[tasks, hardness] + by_text + difficulty
    return np.clip(chances, 0.02, 0.98)


def _costs(
    world: World,
    general: Matrix,
    requests: tuple[RequestFeatures, ...],
    tasks: NDArray[np.intp],
    rng: np.random.Generator,
) -> tuple[Matrix, Matrix, list[Candidate]]:
    """Output tokens, USD by prompt and model, and the price list."""
    told = (general - general.mean()) / max(float(general.std()), 1e-9)
    tells = world.price_tells
    logs = tells * told + np.sqrt(1.0 - tells**2) * rng.normal(size=world.models)
    prices = _MIDDLE_PRICE * np.exp(_LOG_PRICE_SD * logs)
    lengths = np.exp(rng.normal(5.3, 0.5, (world.tasks, 1)) + rng.normal(0.0, 0.25, (world.tasks, world.models)))
    outputs = np.ceil(lengths[tasks] * np.exp(rng.normal(0.0, 0.4, (len(requests), world.models))))
    inputs = np.array([request.input_tokens for request in requests])[:, None]
    cost = (inputs * prices / 4 + outputs * prices) / 1e6
    candidates = [Candidate(f"model-{number}", price / 4, price) for number, price in enumerate(prices.tolist())]
    return outputs, cost, candidates
