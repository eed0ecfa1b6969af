"""The candidates of a decision as they are kept: who qualified, and what was weighed of each.

Every routed request writes one such table, so it is small: 32-bit floats, little-endian, column after column, each in
the order of ``models``. The order of trial need not be kept: it is the chosen one, then the others by score.
"""

import struct
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, Self

from msgspec import Struct

ALWAYS = ("mean", "sd", "cost", "latency", "penalty", "caution")
COLUMNS = (*ALWAYS, "propensity", "points")
_FLOAT = 4  # bytes
_DIGITS = 6  # of what is told; a 32-bit float has seven
_Column = Sequence[float]


def packed(column: _Column) -> bytes:
    """A column as it is kept: what many requests share need be packed but once."""
    return _layout(len(column)).pack(*column)


@lru_cache
def _layout(count: int) -> struct.Struct:
    """Of so many numbers."""
    return struct.Struct(f"<{count}f")


class CandidateTable(Struct, frozen=True):
    models: Sequence[str]
    numbers: bytes

    @classmethod
    def of(
        cls,
        models: Sequence[str],
        *weighed: bytes,
        odds: _Column | None = None,
        points: _Column | None = None,
    ) -> Self:
        """``weighed`` are the columns of ``ALWAYS``, packed, each alone or several in one: mean and sd of the expected
        quality, cost in USD per 1,000 requests, latency in seconds (not a number where it is not known), penalty and
        caution in points of quality. ``odds`` may be left out where neither chance nor a rule had a part in it,
        ``points`` where no rule gave any. Raises ValueError for points without odds."""
        if odds is None:
            if points is not None:
                raise ValueError("points are kept behind the odds")
            return cls(models, b"".join(weighed))
        return cls(models, b"".join((*weighed, packed(odds), b"" if points is None else packed(points))))

    def columns(self, chosen: str) -> dict[str, list[Any]]:
        """``model`` and all ``COLUMNS`` by name, in the order of trial; nothing where there were no candidates."""
        count = len(self.models)
        if not count:
            return {}
        flat = _layout(len(self.numbers) // _FLOAT).unpack(self.numbers)
        kept = [flat[start : start + count] for start in range(0, len(flat), count)]
        named = dict(zip(COLUMNS, kept, strict=False))
        points = named.setdefault("points", (0.0,) * count)
        scores = _scores(named["mean"], named["penalty"], named["caution"], points)
        named.setdefault("propensity", tuple(_without_chance(scores)))
        places = sorted(range(count), key=lambda place: (self.models[place] != chosen, -scores[place]))
        told = {name: [round(named[name][place], _DIGITS) for place in places] for name in COLUMNS}
        return {"model": [self.models[place] for place in places], **told}


def _scores(*columns: _Column) -> list[float]:
    """Of means, penalties, cautions and points."""
    return [mean - lost - caution + extra for mean, lost, caution, extra in zip(*columns, strict=True)]


def _without_chance(scores: _Column) -> list[float]:
    """The best is served with certainty."""
    best = scores.index(max(scores))
    return [float(place == best) for place in range(len(scores))]
