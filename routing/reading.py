"""Reading a prompt's text: what it is about, how sure that is, and how hard the text by itself is.

Signals that hold in every language go first (code, mathematical notation, a JSON schema, images, question marks), then
words in some fifteen languages (:mod:`routing.lexicon`).
"""

# ruff: noqa: RUF001 - mathematical symbols and the punctuation of other scripts are meant

import math
import re
from collections.abc import Sequence
from functools import lru_cache
from operator import itemgetter
from typing import Literal, get_args

from msgspec import Struct

from routing.cues import HAS_SPACELESS, LEXICON, SPACELESS_CUES, WORD, Cue
from routing.lexicon import PHRASES

Task = Literal["coding", "creative", "summarization", "qa", "general", "vision", "extraction", "math"]
Complexity = Literal["simple", "medium", "complex"]
TASKS: tuple[Task, ...] = get_args(Task)
COMPLEXITIES: tuple[Complexity, ...] = get_args(Complexity)

SHOWN_SIGNALS = 6
_REMEMBERED, _REMEMBERED_CHARS = 2_048, 1_000  # an agent's steps all come with the same text of the user


class Reading(Struct, frozen=True):
    """``confidence`` is the probability (0-1) that ``task`` is right, ``signals`` what spoke for it; ``hardness`` is on
    the scale of the classifier's complexity."""

    task: Task
    confidence: float
    signals: tuple[str, ...]
    hardness: float


def read(text: str, system: str, *, images: bool, schema: bool, long_material: bool) -> Reading:
    """What the user's ``text`` and the beginning of the system's say. Never raises."""
    reader = _read_again if len(text) <= _REMEMBERED_CHARS else _read
    return reader(text, system, images, schema, long_material)


def _read(text: str, system: str, images: bool, schema: bool, long_material: bool) -> Reading:
    reader = _Reader(text, system, images, schema, long_material)
    task, confidence = reader.task()
    return Reading(task, confidence, reader.signals(task), reader.hardness(task))


_read_again = lru_cache(_REMEMBERED)(_read)

# Every alternative begins with a rare literal: the engine then skips from one to the next instead of trying each
# position, and prose costs next to nothing. Patterns that cannot are kept behind a set of words.
_OPERATORS = re.compile(
    r"===?|!==?|=>|&&|\|\||::\w|</\w|\(\)|\.\w{1,40}\(|\];|\);|\{\}|;\s*$|\{\s*$|\$_\w|\+=|\[[A-Za]-|\.\*|\(\?",
    re.MULTILINE,
)
_IDENTIFIERS = re.compile(r"_[a-z]|\.(?:py|js|ts|jsx|tsx|go|rs|java|cpp|rb|php|sh)\b")
_CAMEL_CASE = re.compile(r"[a-z][A-Z][a-z]")
_FAILURES = re.compile(r"Error\b|Exception\b|Traceback")
_KEYWORDS = re.compile(
    r"\b(?:def|class|func|fn|public|private|import|from|const|let|var|return|async|struct|impl)\s+\w{1,40}\s*[({=:;.]"
    r"|\b(?:SELECT\b[^;]{1,200}?\bFROM|FROM \w{1,40}:|RUN \w|COPY \S)"
)
_CODE_WORDS = frozenset(
    {"def", "class", "func", "fn", "public", "private", "import", "from", "const", "let", "var", "return", "async"}
    | {"struct", "impl", "SELECT", "FROM", "RUN", "COPY"}
)
_CODE_MARKS = frozenset(b"({=")
_LATEX = re.compile(
    r"\\(?:frac|sum|int|sqrt|prod|lim|partial|infty|alpha|beta|lambda|zeta|pi|sin|cos|mathbb)(?![a-z])|\$\$"
)
_SYMBOLS = re.compile("[∫∑∏√∀∃∈≤≥→∞∂×÷²³⊂≠]")
_SUMS = re.compile(r"[0-9](?:\s?[-+*/x^]\s?\d+\s?(?:=|\?|$|[-+*/x]\s?\d)|\s?%\s\w{1,9}\s\d|\skm/h)")
_FORMULAS = re.compile(
    r"\^\s?[\d{a-z]|\+\s?\d*[a-z]?\d*\s?=\s?-?\d|-\s?\d*[a-z]?\d*\s?=\s?-?\d|\([xt]\)|=\s?\?|=\s?-?\d?x|\[\[-?\d|\|\d?x|_\d\("
)
# With each notation: the ASCII characters of which it takes at least one, so that most texts need not be searched.
_NOTATIONS: tuple[tuple[str, float, str, re.Pattern[str], frozenset[int]], ...] = (
    ("coding", 1.0, "operators", _OPERATORS, frozenset(b"=&|:<(;{$[*")),
    ("coding", 0.9, "identifiers", _IDENTIFIERS, frozenset(b"_.")),
    ("math", 2.2, "LaTeX", _LATEX, frozenset(b"\\$")),
    ("math", 2.0, "a sum", _SUMS, frozenset(b"0123456789")),
    ("math", 1.5, "a formula", _FORMULAS, frozenset(b"^=([|_")),
)
_DIGITS = frozenset(b"0123456789")
_LETTERS_AND_SPACES = bytes(byte for byte in range(256) if byte >= 128 or byte <= 32 or chr(byte).isalpha())
_SPACELESS_CHARS = 2_000
_BACKTICK = ord("`")
_NOTATION_CHARS = 1_200  # notation shows soon, if at all
_FOREIGN_QUESTION = re.compile("[？؟]")
_NUMBER = re.compile(r"[0-9]+(?:[.,][0-9]+)*")
_FOREIGN_CLAUSE = re.compile("[、，；：]")
_MATERIAL = re.compile(r"\n\s*\n|\n```|:\n")
_PRIORS: dict[str, float] = {**dict.fromkeys(TASKS, 0.0), "general": 0.9, "qa": 0.35}
_ELSEWHERE = 0.25  # a word of the material says less than one of the instruction


class _Reader:
    """One pass over a prompt: the scores of each task, and what they rest on."""

    __slots__ = ("_ascii", "_easy", "_hard", "_instruction", "_scores", "_signals", "_spaceless", "_text")

    def __init__(self, text: str, system: str, images: bool, schema: bool, long_material: bool) -> None:
        self._text = text
        self._scores = dict(_PRIORS)
        self._signals: list[tuple[float, str, str]] = []  # weight, task, name
        self._hard = self._easy = 0
        self._instruction, material = _instruction_and_material(text)
        self._ascii = text.isascii()
        self._spaceless = not self._ascii and HAS_SPACELESS.search(text, 0, _SPACELESS_CHARS) is not None
        if images:
            self._add("vision", 9.0, "images")
        if schema:
            self._add("extraction", 3.0, "response schema")
        if long_material:
            self._add("summarization", 0.8, "long material")
            self._add("extraction", 0.5, "long material")
        self._read_marks(schema)
        self._read_instruction()
        if material:
            self._read_elsewhere(material[:300])
        if system:
            self._read_elsewhere(system[:200])

    def task(self) -> tuple[Task, float]:
        scores = self._scores
        best = max(TASKS, key=scores.__getitem__)
        top = scores[best]
        return best, round(1.0 / sum([math.exp(score - top) for score in scores.values()]), 3)

    def hardness(self, task: Task) -> float:
        said = self._instruction
        length = len(said) * (2.6 if self._spaceless else 1.0)
        clauses = said.count(",") + said.count(";") + said.count(":")
        if not self._ascii:
            clauses += len(_FOREIGN_CLAUSE.findall(said))
        return (
            _HARDNESS_OF_TASK[task]
            + _PER_LENGTH * math.log2(1.0 + length / 40.0)
            + _PER_CLAUSE * min(clauses, 10)
            + _PER_HARD_WORD * min(self._hard, 6)
            + _PER_EASY_WORD * min(self._easy, 4)
        )

    def signals(self, task: Task) -> tuple[str, ...]:
        mine = [signal for signal in self._signals if signal[1] == task]
        mine.sort(key=_WEIGHT, reverse=True)
        return tuple(dict.fromkeys([name for _, _, name in mine]))[:SHOWN_SIGNALS]

    def _add(self, task: str, weight: float, name: str) -> None:
        self._scores[task] += weight
        self._signals.append((weight, task, name))

    def _read_marks(self, schema: bool) -> None:
        text, said = self._text, self._instruction
        seen = set(text.encode("utf-8", "replace").translate(None, _LETTERS_AND_SPACES))
        if "?" in said or (not self._ascii and _FOREIGN_QUESTION.search(said)):
            self._add("qa", 0.9, "question mark")
        if not (schema or seen.isdisjoint(_DIGITS)):  # figures of a material are no sums
            numbers = len(_NUMBER.findall(said, 0, 600))
            if numbers >= 2:
                self._add("math", 0.35 * min(numbers, 5), "numbers")
        if _BACKTICK in seen:
            fenced = "```" in text
            self._add("coding", 5.0 if fenced else 2.0, "code fence" if fenced else "backticks")
        if seen:
            for task, weight, name, pattern, needed in _NOTATIONS:
                if not seen.isdisjoint(needed):
                    self._count(task, weight, name, pattern)
        if "Error" in text or "Exception" in text or "Traceback" in text:
            self._count("coding", 2.2, "an exception", _FAILURES)
        if not self._ascii:
            self._count("math", 1.0, "mathematical symbols", _SYMBOLS)
        if not seen.isdisjoint(_CODE_MARKS) or "FROM" in text or "RUN " in text:
            self._read_names(text)

    def _count(self, task: str, weight: float, name: str, pattern: re.Pattern[str]) -> None:
        if count := len(pattern.findall(self._text, 0, _NOTATION_CHARS)):
            self._add(task, weight * (1.0 + 0.25 * min(count - 1, 4)), name)

    def _read_names(self, text: str) -> None:
        """What only punctuation of code makes worth a look."""
        self._count("coding", 0.9, "camel case", _CAMEL_CASE)
        if _CODE_WORDS.isdisjoint(text[:_NOTATION_CHARS].split()):
            return
        if _KEYWORDS.search(text, 0, _NOTATION_CHARS):
            self._add("coding", 2.2, "keywords")

    def _read_instruction(self) -> None:
        text, words = self._instruction, _words(self._instruction)
        cues = _cues(words)
        parts = (cues, _spaceless_cues(text)) if self._spaceless else (cues,)
        for found in parts:
            self._weigh(found, 1.0)
            for _, _, _, hard, easy, _ in found:
                self._hard += hard
                self._easy += easy
        for word in words[:3]:  # an imperative stands in front
            if cue := LEXICON[word]:
                for task, weight in cue[2]:
                    self._scores[task] += 0.35 * weight
        phrases = [phrase for cue in cues for phrase in cue[5]]
        if phrases:
            folded = text.casefold()
            for phrase in dict.fromkeys(phrases):
                if phrase in folded:
                    self._add(*PHRASES[phrase], phrase.strip())

    def _read_elsewhere(self, text: str) -> None:
        self._weigh(_cues_of(text), _ELSEWHERE)
        if self._spaceless:
            self._weigh(_spaceless_cues(text), _ELSEWHERE)

    def _weigh(self, found: Sequence[Cue], share: float) -> None:
        """Each further cue of a task counts less: ten weak ones are no proof."""
        scores, signals, ranks = self._scores, self._signals, dict[str, int]()
        for _, name, weights, _, _, _ in found:
            for task, weight in weights:
                ranks[task] = rank = ranks.get(task, 0) + 1
                weighed = share * weight / (rank**0.7 if rank > 1 else 1.0)
                scores[task] += weighed
                signals.append((weighed, task, name))


_WEIGHT = itemgetter(0)
_ASCII_WORDS = bytes(byte if (chr(byte).isalnum() and byte < 128) or byte == ord("_") else 32 for byte in range(256))


def _words(text: str) -> list[str]:
    """Runs of letters, digits and underscores."""
    if text.isascii():  # some four times as fast as the pattern
        return text.encode("ascii").translate(_ASCII_WORDS).decode("ascii").split()
    return WORD.findall(text)


def _cues(words: Sequence[str]) -> list[Cue]:
    """The cues among words, the strongest first."""
    return sorted(filter(None, map(LEXICON.__getitem__, set(words))))


def _spaceless_cues(text: str) -> list[Cue]:
    starts = SPACELESS_CUES.keys() & set(text)
    return sorted(cue for start in starts for cue in SPACELESS_CUES[start] if cue[1] in text)


@lru_cache(1_024)
def _cues_of(text: str) -> list[Cue]:
    """The same system prompt comes with request after request."""
    return _cues(_words(text))


def _instruction_and_material(text: str) -> tuple[str, str]:
    """What is asked, and what it is asked about: material follows a blank line, a colon or stands in a fence."""
    text = text.strip()
    split = _MATERIAL.search(text, 8) if "\n" in text else None
    if split is None:
        return text[:900], text[900:]
    instruction, material = text[: split.start()][:900], text[split.end() :]
    last = material.rpartition("\n\n")[2]
    if len(last) < len(material) and len(last) < 300:
        instruction += "\n" + last  # asked, or asked again, at the end
    return instruction, material


# Fitted by ordinal regression on the tuned half of the sample: docs/classifier.md.
_PER_LENGTH, _PER_CLAUSE, _PER_HARD_WORD, _PER_EASY_WORD = 2.32, 0.43 / 4, 2.4 / 2, -1.21 / 2
_HARDNESS_OF_TASK: dict[Task, float] = {
    task: more - 3.18 for task, more in zip(TASKS, (-0.19, 0.38, -1.12, 0.28, 0.06, 0.6, -0.95, 0.94), strict=True)
}
