"""What the router knows of a request before anybody has answered it: a vector, in well under a millisecond.

``1 | task | task x complexity | log length | components of the text``. The components are hashed word 1-2-grams,
weighted by inverse document frequency and projected on a fixed basis that ships with the code
(``routing/artefacts/text_basis.npz``, made by ``manage.py build_router_features``).
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from pathlib import Path
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

Vector = NDArray[np.float64]

TASKS = ("coding", "creative", "summarization", "qa", "general", "vision", "extraction", "math")
COMPLEXITIES = ("simple", "medium", "complex")

BUCKETS = 2**14
COMPONENTS = 24
HEAD_AND_TAIL = 2_000  # characters read at each end: a long prompt costs no more than a short one
BASIS_FILE = Path(__file__).parent / "artefacts" / "text_basis.npz"

_WORD = re.compile(r"\w+|[^\w\s]")
_CLIP = 3.0
_LENGTH_CENTRE, _LENGTH_SD, _LENGTH_WEIGHT = math.log(500.0), 1.2, 0.3


def term_counts(text: str) -> Counter[int]:
    """How often each bucket is hit by the words and pairs of neighbouring words of a text."""
    if len(text) > 2 * HEAD_AND_TAIL:
        text = f"{text[:HEAD_AND_TAIL]} {text[-HEAD_AND_TAIL:]}"
    words = [word.encode("utf-8", "replace") for word in _WORD.findall(text.lower())]
    counts = Counter([crc32(word) % BUCKETS for word in words])
    counts.update([crc32(after, crc32(before)) % BUCKETS for before, after in pairwise(words)])
    return counts


def weighted_terms(text: str, rarity: NDArray[np.float32]) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Buckets of a text and their weights: (1 + log count) x rarity, scaled to length one."""
    counts = term_counts(text)
    buckets = np.fromiter(counts.keys(), np.intp, len(counts))
    weights = (1.0 + np.log(np.fromiter(counts.values(), np.float32, len(counts)))).astype(np.float32) * rarity[buckets]
    length = float(np.sqrt(weights @ weights))
    return buckets, (weights / length if length else weights).astype(np.float32)


@dataclass(frozen=True, slots=True)
class TextBasis:
    """Rarity of each bucket and the directions that a text is projected on."""

    rarity: NDArray[np.float32]
    directions: NDArray[np.float32]

    def components(self, text: str) -> Vector:
        """The text's place on each direction in standard deviations of the sample, clipped, together about 1 long."""
        buckets, weights = weighted_terms(text, self.rarity)
        projected = weights @ self.directions[buckets]
        clipped: Vector = np.clip(projected.astype(np.float64), -_CLIP, _CLIP) / math.sqrt(self.directions.shape[1])
        return clipped


@cache
def shipped_basis() -> TextBasis:
    """The basis that ships with the code; read once per process."""
    with np.load(BASIS_FILE) as stored:
        return TextBasis(stored["rarity"].astype(np.float32), stored["directions"].astype(np.float32))


@dataclass(frozen=True, slots=True)
class RequestFeatures:
    """A request as the engine sees it."""

    task: str
    complexity: str
    vector: Vector
    input_tokens: int


@dataclass(frozen=True, slots=True)
class FeatureSpace:
    """Which tasks and complexities have a place of their own in the vector."""

    tasks: tuple[str, ...] = TASKS
    complexities: tuple[str, ...] = COMPLEXITIES

    @property
    def size(self) -> int:
        """Length of a vector."""
        return 1 + len(self.tasks) * (1 + len(self.complexities)) + 1 + COMPONENTS

    def by_block(self, *, bias: float, task: float, cell: float, rest: float) -> Vector:
        """One number for each entry of a vector, by the block the entry belongs to."""
        tasks, cells = len(self.tasks), len(self.tasks) * len(self.complexities)
        return np.array([bias] + [task] * tasks + [cell] * cells + [rest] * (1 + COMPONENTS))

    def features(self, text: str, task: str, complexity: str, *, input_tokens: int | None = None) -> RequestFeatures:
        """The features of a prompt; a task or complexity without a place leaves its entries at zero."""
        vector = np.zeros(self.size)
        vector[0] = 1.0
        cells_begin = 1 + len(self.tasks)
        rest_begin = cells_begin + len(self.tasks) * len(self.complexities)
        if task in self.tasks:
            place = self.tasks.index(task)
            vector[1 + place] = 1.0
            if complexity in self.complexities:
                vector[cells_begin + place * len(self.complexities) + self.complexities.index(complexity)] = 1.0
        vector[rest_begin] = _LENGTH_WEIGHT * (math.log(1.0 + len(text)) - _LENGTH_CENTRE) / _LENGTH_SD
        vector[rest_begin + 1 :] = shipped_basis().components(text)
        tokens = estimated_tokens(text) if input_tokens is None else input_tokens
        return RequestFeatures(task, complexity, vector, tokens)


def estimated_tokens(text: str) -> int:
    """Tokens of a text, as far as its characters tell."""
    return max(1, math.ceil(len(text) / 4))


def fit_basis(texts: Iterable[str], *, components: int = COMPONENTS, seed: int = 0) -> TextBasis:
    """Rarity and principal directions of a sample of prompts (randomised subspace iteration, fixed seed)."""
    counted = [term_counts(text) for text in texts]
    documents = np.zeros(BUCKETS)
    for counts in counted:
        documents[list(counts)] += 1
    rarity = (np.log((1 + len(counted)) / (1 + documents)) + 1).astype(np.float32)
    table = _table(counted, rarity)
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(table.T @ (table @ rng.standard_normal((BUCKETS, components + 8)).astype(np.float32)))[0]
    for _ in range(6):
        basis = np.linalg.qr(table.T @ (table @ basis))[0]
    _, _, right = np.linalg.svd(table @ basis, full_matrices=False)
    directions = basis @ right[:components].T
    spread = (table @ directions).std(axis=0)
    return TextBasis(rarity, (directions / spread).astype(np.float32))


def _table(counted: Sequence[Counter[int]], rarity: NDArray[np.float32]) -> NDArray[np.float32]:
    table = np.zeros((len(counted), BUCKETS), np.float32)
    for row, counts in zip(table, counted, strict=True):
        buckets = list(counts)
        row[buckets] = (1.0 + np.log(np.array([counts[bucket] for bucket in buckets]))) * rarity[buckets]
    table /= np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-9)
    return table
