"""Reading a table of prompts x models.

Lines of ``{task, prompt, q: {model: 0-1}, c: {model: USD}, out: {model: tokens}}``, compressed or not. A prompt that
was not asked of a model, or not graded, has no cell of it, or null.
"""

import gzip
import math
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
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
LEAST_MODELS, LEAST_ROWS = 2, 20
_GZIP_BEGINS = b"\x1f\x8b"
_SHORT, _LONG = 40, 150  # words of a simple and of a complex prompt, where the table does not say


class UnusableTable(ValueError):
    """The file is not a table the lab can replay; the message says why."""


class _Row(msgspec.Struct):
    prompt: str
    q: dict[str, float | bool | None]
    c: dict[str, float | None]
    task: str | None = None
    complexity: str | None = None
    out: dict[str, float | None] | None = None

    def has(self, model: str) -> bool:
        """Whether both the quality and the cost of the model's answer are known."""
        return self.q.get(model) is not None and self.c.get(model) is not None


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
    left_out: int = 0  # rows of the file that lack a cell of the pool

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
    """Read a table (JSON lines, with or without gzip) for a pool.

    Without ``models`` that is the reference pool, else the models that leave most of the table. Rows that lack the
    quality or the cost of a model of the pool are left out. Raises UnusableTable.
    """
    every = list(_rows(path))
    if not every:
        raise UnusableTable(f"{path} is empty")
    pool = tuple(dict.fromkeys(models)) or _default_pool(every)
    known = {model for row in every for model in row.q}
    if missing := [model for model in pool if model not in known]:
        raise UnusableTable(f"{path} knows no model {', '.join(missing)}; it knows {', '.join(sorted(known))}")
    rows = [row for row in every if all(row.has(model) for model in pool)]
    if len(pool) < LEAST_MODELS or len(rows) < LEAST_ROWS:
        raise UnusableTable(
            f"{path} has {len(known)} models; {len(rows)} of its {len(every)} rows have quality and cost of each of "
            f"{', '.join(pool) or 'any'}; at least {LEAST_MODELS} models and {LEAST_ROWS} such rows are needed"
        )
    tasks = _short_tasks([row.task or "general" for row in rows])
    space = FeatureSpace(tasks=tuple(sorted(set(tasks))))
    requests = tuple(
        space.features(row.prompt, task, _complexity(row), input_tokens=_tokens(row.prompt))
        for row, task in zip(rows, tasks, strict=True)
    )
    quality, cost = _matrix([row.q for row in rows], pool), _matrix([row.c for row in rows], pool)
    out = _outputs(rows, pool)
    inputs = np.array([request.input_tokens for request in requests], float)
    candidates = tuple(_candidate(model, inputs, out[:, i], cost[:, i]) for i, model in enumerate(pool))
    return Table(pool, candidates, space, requests, quality, cost, out, len(every) - len(rows))


def _rows(path: Path) -> Iterator[_Row]:
    decoder = msgspec.json.Decoder(_Row)
    try:
        with path.open("rb") as file:
            packed = file.read(2) == _GZIP_BEGINS
        with gzip.open(path, "rb") if packed else path.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _decoded(decoder, line, f"{path}, line {number}")
    except (OSError, EOFError, zlib.error) as exc:
        raise UnusableTable(f"{path}: {getattr(exc, 'strerror', None) or str(exc).rstrip('.')}") from None


def _decoded(decoder: "msgspec.json.Decoder[_Row]", line: bytes, where: str) -> _Row:
    try:
        row = decoder.decode(line)
    except (msgspec.ValidationError, UnicodeDecodeError) as exc:
        raise UnusableTable(f"{where}: {exc}") from None
    except msgspec.DecodeError as exc:
        raise UnusableTable(f"{where}: a table has a JSON object on each line, and this is none ({exc})") from None
    if wrong := [model for model, quality in row.q.items() if quality is not None and not 0 <= quality <= 1]:
        raise UnusableTable(f"{where}: the quality of {wrong[0]} is {row.q[wrong[0]]:g}; it must be from 0 to 1")
    if wrong := [model for model, cost in row.c.items() if cost is not None and cost < 0]:
        raise UnusableTable(f"{where}: the cost of {wrong[0]} is {row.c[wrong[0]]:g}; it must be 0 or more")
    return row


def _default_pool(rows: Sequence[_Row]) -> tuple[str, ...]:
    """The reference pool where its models have most rows in common; else the pool that leaves the most cells."""
    models = sorted({model for row in rows for model in row.q})
    if not models:
        return ()
    there = np.array([[row.has(model) for model in models] for row in rows])
    if set(REFERENCE_POOL).issubset(models):
        shared = there[:, [models.index(model) for model in REFERENCE_POOL]].all(axis=1)
        if 2 * shared.sum() >= len(rows):
            return REFERENCE_POOL
    columns = sorted(range(len(models)), key=lambda column: -int(there[:, column].sum()))
    complete = np.logical_and.accumulate(there[:, columns], axis=1).sum(axis=0)
    sizes = np.arange(1, len(columns) + 1)
    cells = np.where(sizes >= LEAST_MODELS, complete * sizes, 0)
    most = len(columns) - int(cells[::-1].argmax())
    return tuple(sorted(models[column] for column in columns[:most] if there[:, column].any()))


def _short_tasks(tasks: list[str]) -> list[str]:
    """Tasks as the table has them; where they are many, their family (before a colon), else a bucket."""
    if len(set(tasks)) > MOST_TASKS:
        tasks = [task.partition(":")[0] for task in tasks]
    if len(set(tasks)) > MOST_TASKS:
        tasks = [f"bucket {crc32(task.encode()) % MOST_TASKS}" for task in tasks]
    return tasks


def _complexity(row: _Row) -> str:
    if row.complexity in COMPLEXITIES:
        return row.complexity
    words = len(row.prompt.split())
    return COMPLEXITIES[(words >= _SHORT) + (words >= _LONG)]


def _tokens(prompt: str) -> int:
    return max(1, math.ceil(max(len(prompt) / 4, 1.3 * len(prompt.split()))))


def _matrix(cells: Iterable[Mapping[str, float | bool | None]], pool: Sequence[str]) -> Matrix:
    return np.array([[cell[model] for model in pool] for cell in cells], float)


def _outputs(rows: Sequence[_Row], pool: Sequence[str]) -> Matrix:
    """Output tokens; where they are not told, as many as the model usually needs, or 1 if they never are."""
    cells = np.array([[(row.out or {}).get(model) for model in pool] for row in rows], float)
    for column in cells.T:
        unknown = np.isnan(column)
        column[unknown] = 1.0 if unknown.all() else np.median(column[~unknown])
    return cells


def _candidate(model: str, inputs: Matrix, outputs: Matrix, cost: Matrix) -> Candidate:
    """The prices (USD per million tokens) that explain a model's costs best, as a price list would say them."""
    tokens = np.stack([inputs, outputs], axis=1)
    prices = np.linalg.lstsq(tokens, cost, rcond=None)[0]
    if prices.min() < 0:
        prices = np.full(2, cost.sum() / tokens.sum())
    return Candidate(model, float(prices[0]) * 1e6, float(prices[1]) * 1e6)
