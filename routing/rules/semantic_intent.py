"""Requests that resemble a tenant's examples go to the models named for them.

Texts are compared by their words, each weighed by how rare it is in the router's sample of prompts. The components
the engine learns from tell manners of writing apart and hardly subjects: they found the right intent of 8 requests of
16, words that of all.
"""

import math
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any
from zlib import crc32

from routing.candidates import NOTHING, Asked, Contestant, Options, Verdict
from routing.features import BUCKETS, shipped_basis
from routing.rules import options as check_that
from routing.rules.patterns import those_of

NAME = "semantic_intent"

THRESHOLD = 0.3
MOST_INTENTS, MOST_EXAMPLES, LONGEST_EXAMPLE = 20, 100, 300  # of a rule

EDGE_CHARS = 1_000  # of a long request, what is looked at of either end

_WORD = re.compile(r"\w+")
_RUN = re.compile(r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff]+|[^\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff]+")
_SPACELESS = re.compile(r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff]")
_Weighed = tuple[Mapping[str, float], float]


def apply(asked: Asked, field: Sequence[Contestant], options: Options) -> Verdict:
    intent, likeness = _closest(asked.text, options["intents"])
    if intent is None or likeness < options.get("threshold", THRESHOLD):
        return NOTHING
    why = f"not for the intent {intent['name']!r}"
    meant = those_of(field, intent["models"])
    removed = {one.name: why for one in field if one.name not in meant}
    return Verdict(removed) if removed else NOTHING


def check(options: Options) -> None:
    check_that.only(options, "intents", "threshold")
    check_that.one_of(options, "intents")
    check_that.number(options, "threshold", 0, 1)
    intents = options["intents"]
    if not isinstance(intents, list | tuple) or not 1 <= len(intents) <= MOST_INTENTS:
        raise ValueError(f"'intents' must be a list of 1 to {MOST_INTENTS}")
    for number, intent in enumerate(intents, 1):
        try:
            _check_intent(intent)
        except ValueError as exc:
            raise ValueError(f"intent {number}: {exc}") from None
    if (given := sum(len(intent["examples"]) for intent in intents)) > MOST_EXAMPLES:
        raise ValueError(f"there may be {MOST_EXAMPLES} examples at most, these are {given}")


def _check_intent(intent: Any) -> None:
    if not isinstance(intent, Mapping):
        raise ValueError("it must have 'name', 'examples' and 'models'")
    check_that.only(intent, "name", "examples", "models")
    if not check_that.is_text(intent.get("name")):
        raise ValueError(f"'name' must be a text of 1 to {check_that.LONGEST_NAME} characters")
    for key in ("examples", "models"):
        check_that.one_of(intent, key)
    check_that.texts(intent, "examples", longest=LONGEST_EXAMPLE, most=MOST_EXAMPLES)
    check_that.texts(intent, "models")


def _closest(text: str, intents: Sequence[Mapping[str, Any]]) -> tuple[Mapping[str, Any] | None, float]:
    """The intent with the example most like a text, and how alike they are (0-1)."""
    request = _weighed(text)
    best, likeness = None, 0.0
    for intent in intents:
        closeness = max(_likeness(request, example) for example in _examples(tuple(intent["examples"])))
        if closeness > likeness:
            best, likeness = intent, closeness
    return best, likeness


def _likeness(request: _Weighed, example: _Weighed) -> float:
    """The cosine of two texts: what both say, over what each says."""
    (said, said_length), (words, length) = request, example
    both = sum([weight for word, weight in words.items() if word in said])
    return both / (said_length * length) if both else 0.0


@lru_cache(1024)
def _examples(examples: tuple[str, ...]) -> tuple[_Weighed, ...]:
    return tuple(_weighed(example) for example in examples)


def _weighed(text: str) -> _Weighed:
    """The words of a text with their weights, and its length as a vector."""
    weights = {word: _weight(word) for word in _words(text)}
    return weights, math.sqrt(math.fsum(weights.values()))


def _words(text: str) -> set[str]:
    """Each word once; of scripts without spaces, pairs of neighbouring characters."""
    if len(text) > 2 * EDGE_CHARS:
        text = f"{text[:EDGE_CHARS]} {text[-EDGE_CHARS:]}"
    words = set(_WORD.findall(text.lower()))
    if not text.isascii():
        for word in [word for word in words if _SPACELESS.search(word)]:
            words.remove(word)
            for run in _RUN.findall(word):
                words.update(_pairs(run) if _SPACELESS.match(run) else (run,))
    return words


def _pairs(run: str) -> list[str]:
    return [before + after for before, after in pairwise(run)] or [run]


@lru_cache(50_000)
def _weight(word: str) -> float:
    return float(shipped_basis().rarity[crc32(word.encode("utf-8", "replace")) % BUCKETS]) ** 2
