"""Looking up the words of :mod:`routing.lexicon`: a word that has been met costs one look-up in a dictionary."""

# ruff: noqa: RUF001 - the letters of other alphabets are meant

import re
import unicodedata
from collections.abc import Iterable

from routing.lexicon import (
    COMPLEX_WORDS,
    PHRASES,
    SIMPLE_WORDS,
    SPACELESS,
    SPACELESS_COMPLEX,
    SPACELESS_SIMPLE,
    WORDS,
)

Weights = tuple[tuple[str, float], ...]
# Its greatest weight, negative, so that cues sort by strength; the word; the tasks it speaks for; whether it speaks for
# hard and for easy work; the phrases it may belong to.
Cue = tuple[float, str, Weights, bool, bool, tuple[str, ...]]

_DOTLESS = str.maketrans({"ı": "i", "ø": "o", "ł": "l", "đ": "d", "æ": "a"})
_MEMO_SIZE = 50_000
_LONGEST_WORD = 24


def plain(word: str) -> str:
    """Without case and accents: what cues and words are compared in."""
    folded = unicodedata.normalize("NFD", word.casefold().translate(_DOTLESS))
    return "".join(char for char in folded if not unicodedata.combining(char))


class Lexicon(dict[str, Cue | None]):
    """Cues by word. What was found for a word is remembered, so that a known one costs a single look-up."""

    def __init__(self, cues: Iterable[tuple[str, str, float]]) -> None:
        super().__init__()
        self._whole: dict[str, dict[str, float]] = {}
        self._stems: dict[str, dict[str, float]] = {}
        for cue, kind, weight in cues:
            table = self._stems if cue.endswith("*") else self._whole
            entry = table.setdefault(plain(cue.rstrip("*")), {})
            entry[kind] = max(weight, entry.get(kind, 0.0))
        self._lengths = sorted({len(stem) for stem in self._stems})

    def __missing__(self, word: str) -> Cue | None:
        """What ``word`` speaks for and how strongly; None for most."""
        if len(word) > _LONGEST_WORD:
            return None
        folded = plain(word)
        cue = _cue(word, self._look_up(folded), PHRASES_WITH.get(folded, ()))
        if len(self) >= _MEMO_SIZE:
            self.clear()
        self[word] = cue
        return cue

    def _look_up(self, word: str) -> Weights:
        entry = dict(self._whole.get(word, {}))
        for length in self._lengths:
            if length > len(word):
                break
            for kind, weight in self._stems.get(word[:length], {}).items():
                entry[kind] = max(weight, entry.get(kind, 0.0))
        return tuple(entry.items())


def _cue(word: str, weights: Weights, phrases: tuple[str, ...] = ()) -> Cue | None:
    if not weights and not phrases:
        return None
    strength = max((weight for _, weight in weights), default=0.0)
    kinds = dict(weights)
    tasks = tuple((kind, weight) for kind, weight in weights if kind not in ("complex", "simple"))
    return -strength, word, tasks, "complex" in kinds, "simple" in kinds, phrases


def _by_longest_word(phrases: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """A phrase is looked for only where its longest word occurs."""
    found: dict[str, tuple[str, ...]] = {}
    for phrase in phrases:
        longest = plain(max(WORD.findall(phrase), key=len))
        found[longest] = (*found.get(longest, ()), phrase)
    return found


def _spaced() -> Iterable[tuple[str, str, float]]:
    for task, by_weight in WORDS.items():
        for weight, words in by_weight.items():
            yield from ((word, task, weight) for word in words.split())
    yield from ((word, "complex", 1.0) for word in COMPLEX_WORDS.split())
    yield from ((word, "simple", 1.0) for word in SIMPLE_WORDS.split())


def _spaceless() -> Iterable[tuple[str, str, float]]:
    for task, by_weight in SPACELESS.items():
        for weight, words in by_weight.items():
            yield from ((word, task, weight) for word in words.split())
    yield from ((word, "complex", 1.0) for word in SPACELESS_COMPLEX.split())
    yield from ((word, "simple", 1.0) for word in SPACELESS_SIMPLE.split())


def _by_first_character(cues: Iterable[tuple[str, str, float]]) -> dict[str, tuple[Cue, ...]]:
    """Only cues whose first character occurs need be searched for."""
    weights: dict[str, Weights] = {}
    for cue, kind, weight in cues:
        weights[cue] = (*weights.get(cue, ()), (kind, weight))
    starts = dict.fromkeys(cue[0] for cue in weights)
    made = [found for word, spoken_for in weights.items() if (found := _cue(word, spoken_for)) is not None]
    return {start: tuple(found for found in made if found[1][0] == start) for start in starts}


WORD = re.compile(r"\w+")
PHRASES_WITH = _by_longest_word(PHRASES)
LEXICON = Lexicon(_spaced())
SPACELESS_CUES = _by_first_character(_spaceless())
HAS_SPACELESS = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")
