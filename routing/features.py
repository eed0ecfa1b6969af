"""What the router knows of a request before anybody has answered it: a vector, in well under a millisecond.

``1 | task | task x complexity | log length | components of the text``. The components are hashed words, weighted by
inverse document frequency and projected on a fixed basis that ships with the code
(``routing/artefacts/text_basis.npz``, made by ``manage.py build_router_features``). Pairs of words were tried as well:
they foretell nothing more.
"""

import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from zlib import crc32

import numpy as np
from msgspec import Struct
from numpy.typing import NDArray

Vector = NDArray[np.float64]

TASKS = ("coding", "creative", "summarization", "qa", "general", "vision", "extraction", "math")
COMPLEXITIES = ("simple", "medium", "complex")

BUCKETS = 2**14
COMPONENTS = 24
HEAD_AND_TAIL = 2_000  # characters read at each end: a long prompt costs no more than a short one
BASIS_FILE = Path(__file__).parent / "artefacts" / "text_basis.npz"

_CLIP = 3.0
_LENGTH_CENTRE, _LENGTH_SD, _LENGTH_WEIGHT = math.log(500.0), 1.2, 0.3
_MEMO_SIZE = 50_000
_REMEMBERED, _REMEMBERED_CHARS = 2_048, 1_000  # an agent's steps all come with the same text of the user

_WORD_BYTES = frozenset(byte for byte in range(256) if byte >= 128 or chr(byte).isalnum() or byte == ord("_"))
_WORDS_ONLY = bytes(ord(chr(byte).lower()) if byte in _WORD_BYTES else 32 for byte in range(256))
_NO_MARK = bytes(byte for byte in range(256) if byte in _WORD_BYTES or byte <= 32 or byte == 127)
_FOREIGN_MARK = re.compile(r"[^\w\s\x00-\x7f]")


class _Buckets(dict[bytes, int]):
    """The bucket of each word seen; forgotten and begun again when there are too many."""

    def __missing__(self, word: bytes) -> int:
        if len(self) >= _MEMO_SIZE:
            self.clear()
        bucket = self[word] = crc32(word) % BUCKETS
        return bucket


_bucket_of = _Buckets().__getitem__


def terms(text: str) -> set[int]:
    """Buckets hit by the words and the ASCII marks of a text."""
    if len(text) > 2 * HEAD_AND_TAIL:
        text = f"{text[:HEAD_AND_TAIL]} {text[-HEAD_AND_TAIL:]}"
    if not text.isascii():
        text = _FOREIGN_MARK.sub(r" \g<0> ", text.lower())
    raw = text.encode("utf-8", "replace")
    found = set(map(_bucket_of, raw.translate(_WORDS_ONLY).split()))
    found.update(raw.translate(None, _NO_MARK))
    return found


@dataclass(frozen=True, slots=True)
class TextBasis:
    """Rarity of each bucket and the directions that a text is projected on."""

    rarity: NDArray[np.float32]
    directions: NDArray[np.float32]
    _table: NDArray[np.float32] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """One gather fetches a term's directions and its share of the text's length."""
        table = np.column_stack([self.directions * self.rarity[:, None], self.rarity**2])
        object.__setattr__(self, "_table", np.ascontiguousarray(table, np.float32))

    def components(self, text: str) -> Vector:
        """The text's place on each direction in standard deviations of the sample, clipped, together about 1 long.

        A term counts by its rarity, however often it occurs; the terms of a text are scaled to length one.
        """
        return self.projected(text).astype(np.float64)

    def projected(self, text: str) -> NDArray[np.float32]:
        """The same in single precision."""
        found = terms(text)
        count = len(found)
        summed: NDArray[np.float32] = _ones(count).dot(self._table.take(np.fromiter(found, np.intp, count), axis=0))
        projected = summed[:-1]
        unit = math.sqrt(len(projected))
        projected *= 1.0 / (math.sqrt(summed[-1] or 1.0) * unit)
        np.minimum(projected, _CLIP / unit, out=projected)
        np.maximum(projected, -_CLIP / unit, out=projected)
        return projected


_ONES = np.ones(4_096, np.float32)


def _ones(count: int) -> NDArray[np.float32]:
    return _ONES[:count] if count <= len(_ONES) else np.ones(count, np.float32)


@cache
def shipped_basis() -> TextBasis:
    """The basis that ships with the code; read once per process."""
    with np.load(BASIS_FILE) as stored:
        return TextBasis(stored["rarity"].astype(np.float32), stored["directions"].astype(np.float32))


class RequestFeatures(Struct, frozen=True, eq=False):
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
    _blanks: dict[tuple[str, str], Vector] = field(default_factory=dict, init=False, repr=False, compare=False)
    _known: dict[tuple[str, str, str], Vector] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def size(self) -> int:
        """Length of a vector."""
        return self.rest_begins + 1 + COMPONENTS

    @property
    def rest_begins(self) -> int:
        """Where the places of tasks and cells end, and log length and components follow."""
        return 1 + len(self.tasks) * (1 + len(self.complexities))

    def places(self, task: str, complexity: str) -> tuple[int, ...]:
        """Places that hold a one: the bias, and task and cell as far as they are known."""
        if task not in self.tasks:
            return (0,)
        number = self.tasks.index(task)
        if complexity not in self.complexities:
            return (0, 1 + number)
        cell = 1 + len(self.tasks) + number * len(self.complexities) + self.complexities.index(complexity)
        return (0, 1 + number, cell)

    def by_block(self, *, bias: float, task: float, cell: float, rest: float) -> Vector:
        """One number for each entry of a vector, by the block the entry belongs to."""
        tasks, cells = len(self.tasks), len(self.tasks) * len(self.complexities)
        return np.array([bias] + [task] * tasks + [cell] * cells + [rest] * (1 + COMPONENTS))

    def features(self, text: str, task: str, complexity: str, *, input_tokens: int | None = None) -> RequestFeatures:
        """The features of a prompt; a task or complexity without a place leaves its entries at zero. Of the same short
        text in the same cell the very same vector, which cannot be written to."""
        vector = self._known.get((text, task, complexity))
        if vector is None:
            vector = self._vector(text, task, complexity)
            if len(text) <= _REMEMBERED_CHARS:
                if len(self._known) >= _REMEMBERED:
                    self._known.clear()
                self._known[text, task, complexity] = vector
        return RequestFeatures(
            task, complexity, vector, estimated_tokens(text) if input_tokens is None else input_tokens
        )

    def _vector(self, text: str, task: str, complexity: str) -> Vector:
        vector = self._blank(task, complexity).copy()
        vector[-COMPONENTS - 1] = _LENGTH_WEIGHT * (math.log(1.0 + len(text)) - _LENGTH_CENTRE) / _LENGTH_SD
        vector[-COMPONENTS:] = shipped_basis().projected(text)
        vector.flags.writeable = False
        return vector

    def _blank(self, task: str, complexity: str) -> Vector:
        """The vector of a cell without a text. Names come from callers, so only cells that exist are remembered."""
        known = self._blanks.get((task, complexity))
        if known is None:
            known = np.zeros(self.size)
            known[list(self.places(task, complexity))] = 1.0
            if task in self.tasks and complexity in self.complexities:
                self._blanks[task, complexity] = known
        return known


def estimated_tokens(text: str) -> int:
    """Tokens of a text, as far as its characters tell."""
    return max(1, math.ceil(len(text) / 4))


def fit_basis(texts: Iterable[str], *, components: int = COMPONENTS, seed: int = 0) -> TextBasis:
    """Rarity and principal directions of a sample of prompts (randomised subspace iteration, fixed seed)."""
    found = [terms(text) for text in texts]
    documents = np.zeros(BUCKETS)
    for each in found:
        documents[list(each)] += 1
    rarity = (np.log((1 + len(found)) / (1 + documents)) + 1).astype(np.float32)
    table = _weighted(found, rarity)
    rng = np.random.default_rng(seed)
    basis = np.linalg.qr(table.T @ (table @ rng.standard_normal((BUCKETS, components + 8)).astype(np.float32)))[0]
    for _ in range(6):
        basis = np.linalg.qr(table.T @ (table @ basis))[0]
    _, _, right = np.linalg.svd(table @ basis, full_matrices=False)
    directions = basis @ right[:components].T
    spread = (table @ directions).std(axis=0)
    return TextBasis(rarity, (directions / spread).astype(np.float32))


def _weighted(found: Sequence[set[int]], rarity: NDArray[np.float32]) -> NDArray[np.float32]:
    table = np.zeros((len(found), BUCKETS), np.float32)
    for row, each in zip(table, found, strict=True):
        buckets = list(each)
        row[buckets] = rarity[buckets]
    table /= np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-9)
    return table
