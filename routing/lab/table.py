"""Reading a table of prompts x models.

Lines of ``{task, prompt, q: {model: 0-1}, c: {model: USD}, out: {model: tokens}}``, compressed or not.
"""

import gzip
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from zlib import crc32

import msgspec
import numpy as np
from numpy.typing import NDArray

from routing.features import COMPLEXITIES, FeatureSpace, RequestFeatures
from routing.scores import Candidate

Matrix = NDArray[np.float64]

REFERENCE_POOL = (
    "gpt-4o-2024-08-06",
    "gpt-4o-mini-2024-07-18",
    "claude-3-5-sonnet-20241022",
    "claude-3-5-haiku-20241022",
    "claude-3-haiku-20240307",
    "gemini-1.5-flash",
    "gemini-1.5-pro",
    "deepseek-v2.5-0908",
    "Mistral-Large-2",
    "Llama-3.1-8B-Instruct",
    "Llama-3.1-70B-Instruct",
    "Qwen2-7B-Instruct",
)
MOST_TASKS = 12
_SHORT, _LONG = 40, 150  # words of a simple and of a complex prompt, where the table does not say


class UnusableTable(ValueError):
    """The file is not a table the lab can replay; the message says why."""


class _Row(msgspec.Struct):
    prompt: str
    q: dict[str, float]
    c: dict[str, float]
    task: str = "general"
    complexity: str = ""
    out: dict[str, float] = {}


@dataclass(frozen=True)
class Table:
    """Quality (0-1), cost (USD) and output tokens of each prompt (row) by model (column)."""

    models: tuple[str, ...]
    candidates: tuple[Candidate, ...]
    space: FeatureSpace
    requests: tuple[RequestFeatures, ...]
    quality: Matrix
    cost: Matrix
    output_tokens: Matrix

    def __len__(self) -> int:
        return len(self.requests)

    def utility(self, cost_weight: float) -> Matrix:
        """Quality less cost, with ``cost_weight`` in points per USD per 1,000 requests."""
        utility: Matrix = self.quality - cost_weight * 1_000 * self.cost
        return utility

    def in_order(self, rows: NDArray[np.intp], columns: NDArray[np.intp]) -> "Table":
        """The same table with rows and models in another order."""
        grid = np.ix_(rows, columns)
        return replace(
            self,
            models=tuple(self.models[column] for column in columns),
            candidates=tuple(self.candidates[column] for column in columns),
            requests=tuple(self.requests[row] for row in rows),
            quality=self.quality[grid],
            cost=self.cost[grid],
            output_tokens=self.output_tokens[grid],
        )

    def with_wrong_tasks(self, share: float, rng: np.random.Generator) -> "Table":
        """The same table where ``share`` of the prompts are taken for another task."""
        wrong = np.flatnonzero(rng.random(len(self)) < share)
        requests = list(self.requests)
        for row in wrong:
            others = [task for task in self.space.tasks if task != requests[row].task] or list(self.space.tasks)
            requests[row] = self._moved(requests[row], others[int(rng.integers(len(others)))])
        return replace(self, requests=tuple(requests))

    def _moved(self, request: RequestFeatures, task: str) -> RequestFeatures:
        space, vector = self.space, request.vector.copy()
        cells, per_task = 1 + len(space.tasks), len(space.complexities)
        vector[1 : cells + len(space.tasks) * per_task] = 0.0
        place = space.tasks.index(task)
        vector[1 + place] = 1.0
        vector[cells + place * per_task + space.complexities.index(request.complexity)] = 1.0
        return msgspec.structs.replace(request, task=task, vector=vector)


def read_table(path: Path, models: Sequence[str] = ()) -> Table:
    """Read a table (.jsonl or .jsonl.gz) for a pool; without ``models`` the reference pool or all there are.

    Rows that lack a model of the pool are left out. Raises UnusableTable.
    """
    rows = list(_rows(path))
    pool = tuple(models) or _default_pool(rows)
    known = {model for row in rows for model in row.q}
    if missing := [model for model in pool if model not in known]:
        raise UnusableTable(f"{path} knows no model {', '.join(missing)}; it knows {', '.join(sorted(known))}")
    rows = [row for row in rows if all(model in row.q and model in row.c for model in pool)]
    if len(pool) < 2 or len(rows) < 20:
        raise UnusableTable(
            f"{path} has {len(rows)} rows with all of {len(pool)} models; 20 rows and 2 models are needed"
        )
    tasks = _short_tasks([row.task for row in rows])
    space = FeatureSpace(tasks=tuple(sorted(set(tasks))))
    requests = tuple(
        space.features(row.prompt, task, row.complexity or _complexity(row.prompt), input_tokens=_tokens(row.prompt))
        for row, task in zip(rows, tasks, strict=True)
    )
    quality, cost = _matrix([row.q for row in rows], pool), _matrix([row.c for row in rows], pool)
    out = _matrix([row.out for row in rows], pool, missing=1.0)
    inputs = np.array([request.input_tokens for request in requests], float)
    candidates = tuple(_candidate(model, inputs, out[:, i], cost[:, i]) for i, model in enumerate(pool))
    return Table(pool, candidates, space, requests, quality, cost, out)


def _rows(path: Path) -> Iterator[_Row]:
    decoder = msgspec.json.Decoder(_Row)
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _decoded(decoder, line, f"{path}, line {number}")
    except OSError as exc:
        raise UnusableTable(f"{path}: {exc.strerror or exc}") from None


def _decoded(decoder: "msgspec.json.Decoder[_Row]", line: bytes, where: str) -> _Row:
    try:
        return decoder.decode(line)
    except msgspec.DecodeError as exc:
        raise UnusableTable(f"{where}: {exc}") from None


def _default_pool(rows: Sequence[_Row]) -> tuple[str, ...]:
    shared = set.intersection(*(set(row.q) for row in rows)) if rows else set()
    if shared.issuperset(REFERENCE_POOL):
        return REFERENCE_POOL
    return tuple(sorted(shared))


def _short_tasks(tasks: list[str]) -> list[str]:
    """Tasks as the table has them; where they are many, their family (before a colon), else a bucket."""
    if len(set(tasks)) > MOST_TASKS:
        tasks = [task.partition(":")[0] for task in tasks]
    if len(set(tasks)) > MOST_TASKS:
        tasks = [f"bucket {crc32(task.encode()) % MOST_TASKS}" for task in tasks]
    return tasks


def _complexity(prompt: str) -> str:
    words = len(prompt.split())
    return COMPLEXITIES[(words >= _SHORT) + (words >= _LONG)]


def _tokens(prompt: str) -> int:
    return max(1, math.ceil(max(len(prompt) / 4, 1.3 * len(prompt.split()))))


def _matrix(cells: Iterable[dict[str, Any]], pool: Sequence[str], missing: float = 0.0) -> Matrix:
    return np.array([[cell.get(model, missing) for model in pool] for cell in cells], float)


def _candidate(model: str, inputs: Matrix, outputs: Matrix, cost: Matrix) -> Candidate:
    """The prices (USD per million tokens) that explain a model's costs best, as a price list would say them."""
    tokens = np.stack([inputs, outputs], axis=1)
    prices = np.linalg.lstsq(tokens, cost, rcond=None)[0]
    if prices.min() < 0:
        prices = np.full(2, cost.sum() / tokens.sum())
    return Candidate(model, float(prices[0]) * 1e6, float(prices[1]) * 1e6)
