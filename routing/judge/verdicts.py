"""From a judge's words to a value between 0 and 1."""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

WEIGHTS: Final[Mapping[str, float]] = {"correctness": 0.6, "instructions": 0.25, "clarity": 0.15}
LOWEST, HIGHEST = 1.0, 5.0
_READ_CHARS = 8_000  # the ratings come last
_OBJECT = re.compile(r"\{")


class UnreadableVerdict(ValueError):
    """A judge that did not answer as it was asked."""


def verdict(text: str) -> float:
    """The value of one answer. Code fences and prose around the JSON are overlooked; of several ratings the last
    counts, as a judge that thinks aloud may quote what an answer asks for. Raises UnreadableVerdict."""
    for found in reversed(list(_objects(text))):
        if found.keys() >= WEIGHTS.keys():
            return _value(found)
    raise UnreadableVerdict("the judge's answer holds no ratings")


def pair_verdict(text: str, *, swap: bool) -> tuple[float, float]:
    """Values of the one and of the other answer, in the order they were given to
    :func:`routing.judge.questions.pair_question`. Raises UnreadableVerdict."""
    for found in reversed(list(_objects(text))):
        first, second = found.get("first"), found.get("second")
        if isinstance(first, dict) and isinstance(second, dict):
            values = _value(first), _value(second)
            return (values[1], values[0]) if swap else values
    raise UnreadableVerdict("the judge's answer holds no ratings of two answers")


def _value(ratings: Mapping[str, Any]) -> float:
    total = 0.0
    for aspect, weight in WEIGHTS.items():
        rating = ratings.get(aspect)
        if isinstance(rating, str) and rating.strip().replace(".", "", 1).isdigit():
            rating = float(rating)
        if isinstance(rating, bool) or not isinstance(rating, int | float) or not LOWEST <= rating <= HIGHEST:
            raise UnreadableVerdict(f"the judge rates {aspect} as {str(rating)[:40]!r}")
        total += weight * (rating - LOWEST) / (HIGHEST - LOWEST)
    return total


def _objects(text: str) -> Iterator[dict[str, Any]]:
    """Every JSON object in a text, outermost first."""
    decoder = json.JSONDecoder()
    text, end = text[-_READ_CHARS:], 0
    for brace in _OBJECT.finditer(text):
        if brace.start() < end:
            continue
        try:
            found, end = decoder.raw_decode(text, brace.start())
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            yield found
