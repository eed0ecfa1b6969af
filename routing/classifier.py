"""What a request is about and how hard it is, told from its text in some microseconds.

Signals that hold in every language go first (code, mathematical notation, a JSON schema, images, length, turns,
question marks), then words in some fifteen languages (:mod:`routing.lexicon`). No model, no I/O, no state but a
memo of words.
"""

# ruff: noqa: RUF001 - mathematical symbols and the punctuation of other scripts are meant

import math
import re
from typing import Any, Literal, Self, get_args

import msgspec
from msgspec import Raw, Struct

from gateway.wire.types import Request, Text
from routing.lexicon import HAS_SPACELESS, LEXICON, PHRASES, SPACELESS_CUES, WORD, Weights

Task = Literal["coding", "creative", "summarization", "qa", "general", "vision", "extraction", "math"]
Complexity = Literal["simple", "medium", "complex"]
TASKS: tuple[Task, ...] = get_args(Task)
COMPLEXITIES: tuple[Complexity, ...] = get_args(Complexity)

EDGE_CHARS = 2_000  # of a long text, what is looked at on either side
SYSTEM_CHARS = 500
SHOWN_SIGNALS = 6

# --------------------------------------------------------------------------- what is looked at


class _Turn(Struct):
    role: str | None = None
    type: str | None = None
    content: Raw = Raw()


class _Part(Struct):
    text: str | None = None


_TURNS = msgspec.json.Decoder(list[_Turn])
_PARTS = msgspec.json.Decoder(str | list[_Part] | None)
_ANYTHING = msgspec.json.Decoder()


class PromptFacts(Struct, frozen=True):
    """What the classifier looks at. ``text`` is the user's last, cut to ``EDGE_CHARS`` at either end;
    ``total_chars`` counts the whole prompt's characters, history and tools included."""

    text: str
    system: str = ""
    messages: int = 1
    total_chars: int = 0
    images: bool = False
    tools: bool = False
    schema: bool = False

    @classmethod
    def of(cls, request: Request) -> Self:
        """Read from the caller's own bytes, without translating them; what cannot be read counts as empty."""
        try:
            said, system, messages = _said(request)
        except (msgspec.DecodeError, UnicodeError, RecursionError):
            said, system, messages = "", "", 1
        fields, needs = request.fields, request.needs
        return cls(
            text=_edges(said),
            system=system[:SYSTEM_CHARS],
            messages=messages,
            total_chars=request.input_chars,
            images=needs.vision,
            tools=needs.tools,
            schema=needs.json_schema or b'"json_' in bytes(fields.get("response_format", b"")),
        )

    @classmethod
    def of_text(cls, text: str, **known: Any) -> Self:
        """Of a prompt that is nothing but ``text``; ``known`` are further fields."""
        return cls(text=_edges(text), **{"total_chars": len(text)} | known)


def _edges(text: str) -> str:
    return text if len(text) <= 2 * EDGE_CHARS else f"{text[:EDGE_CHARS]}\n\n{text[-EDGE_CHARS:]}"


def _said(request: Request) -> tuple[str, str, int]:
    """The user's last text, the beginning of the system's, and the number of turns."""
    known = request._conversation  # noqa: SLF001 - the formats' memo
    if known is not None:
        turns = [(turn.role, [part.text for part in turn.parts if isinstance(part, Text)]) for turn in known.messages]
        last = next(("\n".join(texts) for role, texts in reversed(turns) if role == "user" and texts), "")
        return last, next(("\n".join(texts) for role, texts in turns if role == "system"), ""), len(turns)
    fields = request.fields
    listed = fields.get("messages", fields.get("input", fields.get("prompt")))
    system = _text_of(fields.get("system", fields.get("instructions")))
    if listed is None:
        return "", system, 1
    raw = bytes(listed)
    if not raw.lstrip().startswith(b"[{"):
        return _text_of(listed), system, 1
    turns_ = _TURNS.decode(raw)
    if not system and turns_[0].role in ("system", "developer"):
        system = _text_of(turns_[0].content)
    for turn in reversed(turns_):
        if turn.role == "user" and (text := _text_of(turn.content)):
            return text, system, len(turns_)
    return "", system, len(turns_)


def _text_of(content: Raw | None) -> str:
    """The text of a message's content, in whichever of its forms."""
    if content is None or not bytes(content):
        return ""
    try:
        parts = _PARTS.decode(content)
    except msgspec.ValidationError:
        loose = _ANYTHING.decode(content)  # a list of strings, or parts whose text is an object
        return "\n".join(part for part in loose if isinstance(part, str)) if isinstance(loose, list) else ""
    if isinstance(parts, str):
        return parts
    return "\n".join(part.text for part in parts or () if part.text)


# --------------------------------------------------------------------------- the verdict


class Classification(Struct, frozen=True):
    """``confidence`` is the probability (0-1) that ``task`` is right, ``signals`` what spoke for it."""

    task: Task
    complexity: Complexity
    confidence: float
    signals: tuple[str, ...]


def classify(facts: PromptFacts) -> Classification:
    """Never raises, whatever the text; the same facts give the same answer."""
    reading = _Reading(facts)
    task, confidence = reading.task()
    return Classification(task, reading.complexity(task), confidence, reading.signals(task))


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
_CODE_MARKS = ("(", "{", "=", "FROM", "RUN ")
_LATEX = re.compile(
    r"\\(?:frac|sum|int|sqrt|prod|lim|partial|infty|alpha|beta|lambda|zeta|pi|sin|cos|mathbb)(?![a-z])|\$\$"
)
_SYMBOLS = re.compile("[∫∑∏√∀∃∈≤≥→∞∂×÷²³⊂≠]")
_SUMS = re.compile(r"[0-9](?:\s?[-+*/x^]\s?\d+\s?(?:=|\?|$|[-+*/x]\s?\d)|\s?%\s\w{1,9}\s\d|\skm/h)")
_FORMULAS = re.compile(
    r"\^\s?[\d{a-z]|\+\s?\d*[a-z]?\d*\s?=\s?-?\d|-\s?\d*[a-z]?\d*\s?=\s?-?\d|\([xt]\)|=\s?\?|=\s?-?\d?x|\[\[-?\d|\|\d?x|_\d\("
)
_NOTATIONS: tuple[tuple[str, float, str, re.Pattern[str]], ...] = (
    ("coding", 1.0, "operators", _OPERATORS),
    ("coding", 0.9, "identifiers", _IDENTIFIERS),
    ("coding", 2.2, "an exception", _FAILURES),
    ("math", 2.2, "LaTeX", _LATEX),
    ("math", 1.0, "mathematical symbols", _SYMBOLS),
    ("math", 2.0, "a sum", _SUMS),
    ("math", 1.5, "a formula", _FORMULAS),
)
_NOTATION_CHARS = 1_200  # notation shows soon, if at all
_QUESTION = re.compile(r"[?？؟]")
_NUMBER = re.compile(r"[0-9]+(?:[.,][0-9]+)*")
_CLAUSE = re.compile("[,;:、，；：]")
_MATERIAL = re.compile(r"\n\s*\n|\n```|:\n")
_PRIORS = {"general": 0.9, "qa": 0.35}
_SHARPNESS = 1.0  # of scores turned to probabilities; fitted on the half of the sample that the rules were written on
_ELSEWHERE = 0.25  # a word of the material says less than one of the instruction


class _Reading:
    """One pass over a prompt: the scores of each task, and what they rest on."""

    __slots__ = ("_complex", "_facts", "_instruction", "_questions", "_scores", "_signals", "_simple", "_spaceless")

    def __init__(self, facts: PromptFacts) -> None:
        self._facts = facts
        self._scores: dict[str, float] = dict.fromkeys(TASKS, 0.0) | _PRIORS
        self._signals: list[tuple[float, str, str]] = []  # weight, task, name
        self._complex = self._simple = 0
        self._instruction, material = _instruction_and_material(facts.text)
        self._spaceless = HAS_SPACELESS.search(facts.text[:EDGE_CHARS]) is not None
        self._read_shape()
        self._read_notation()
        self._read_words(self._instruction, 1.0)
        if material:
            self._read_words(material[:300], _ELSEWHERE)
        if facts.system:
            self._read_words(facts.system[:200], _ELSEWHERE)
        self._read_phrases()

    def task(self) -> tuple[Task, float]:
        best = max(TASKS, key=self._scores.__getitem__)
        top = self._scores[best]
        total = sum(math.exp(_SHARPNESS * (score - top)) for score in self._scores.values())
        return best, round(1.0 / total, 3)

    def complexity(self, task: Task) -> Complexity:
        hardness = math.fsum(weight * value for weight, value in zip(HARDNESS, self.features(task), strict=True))
        return "simple" if hardness < 0.0 else "medium" if hardness < MEDIUM_SPAN else "complex"

    def features(self, task: Task) -> tuple[float, ...]:
        """What hardness is a weighted sum of, in the order of ``HARDNESS``."""
        facts, said = self._facts, self._instruction
        length = len(said) * (2.6 if self._spaceless else 1.0)
        return (
            1.0,
            math.log2(1.0 + length / 40.0),
            float(min(len(_CLAUSE.findall(said)), 10)) / 4.0,
            min(self._complex, 6) / 2.0,
            min(self._simple, 4) / 2.0,
            math.log10(1.0 + max(facts.total_chars, len(facts.text)) / 300.0),
            min(facts.messages - 1, 12) / 6.0,
            1.0 if facts.schema or facts.tools else 0.0,
            *(1.0 if task == each else 0.0 for each in TASKS),
        )

    def signals(self, task: Task) -> tuple[str, ...]:
        mine = sorted((signal for signal in self._signals if signal[1] == task), key=lambda signal: -signal[0])
        return tuple(dict.fromkeys(name for _, _, name in mine))[:SHOWN_SIGNALS]

    def _add(self, task: str, weight: float, name: str) -> None:
        self._scores[task] += weight
        self._signals.append((weight, task, name))

    def _read_shape(self) -> None:
        facts = self._facts
        if facts.images:
            self._add("vision", 9.0, "images")
        if facts.schema:
            self._add("extraction", 3.0, "response schema")
        if facts.total_chars > 3_000 and facts.messages <= 2:
            self._add("summarization", 0.8, "long material")
            self._add("extraction", 0.5, "long material")
        if _QUESTION.search(self._instruction):
            self._add("qa", 0.9, "question mark")
        numbers = len(_NUMBER.findall(self._instruction, 0, 600))
        if numbers >= 2 and not facts.schema:  # figures of a material are no sums
            self._add("math", 0.35 * min(numbers, 5), "numbers")

    def _read_notation(self) -> None:
        text = self._facts.text
        if "```" in text:
            self._add("coding", 5.0, "code fence")
        elif "`" in text:
            self._add("coding", 2.0, "backticks")
        for task, weight, name, pattern in _NOTATIONS:
            if count := len(pattern.findall(text, 0, _NOTATION_CHARS)):
                self._add(task, weight * (1.0 + 0.25 * min(count - 1, 4)), name)
        if any(mark in text for mark in _CODE_MARKS):
            self._read_names(text)

    def _read_names(self, text: str) -> None:
        """What only punctuation of code makes worth a look."""
        if count := len(_CAMEL_CASE.findall(text, 0, _NOTATION_CHARS)):
            self._add("coding", 0.9 * (1.0 + 0.25 * min(count - 1, 4)), "camel case")
        if _CODE_WORDS.isdisjoint(text[:_NOTATION_CHARS].split()):
            return
        if _KEYWORDS.search(text, 0, _NOTATION_CHARS):
            self._add("coding", 2.2, "keywords")

    def _read_words(self, text: str, share: float) -> None:
        if self._spaceless:
            starts = SPACELESS_CUES.keys() & set(text)
            self._weigh(
                [(cue, weights) for start in starts for cue, weights in SPACELESS_CUES[start] if cue in text], share
            )
        words = WORD.findall(text)
        look_up = LEXICON.of
        self._weigh([(word, found) for word in dict.fromkeys(words) if (found := look_up(word))], share)
        if share == 1.0 and words:
            for word in words[:3]:  # an imperative stands in front
                for kind, weight in look_up(word):
                    if kind in self._scores:
                        self._scores[kind] += 0.35 * weight

    def _weigh(self, found: list[tuple[str, Weights]], share: float) -> None:
        """Each further cue of a task counts less: ten weak ones are no proof."""
        seen: dict[str, int] = {}
        for name, weights in sorted(found, key=_strength):
            for kind, weight in weights:
                if kind == "complex":
                    self._complex += share == 1.0
                elif kind == "simple":
                    self._simple += share == 1.0
                else:
                    rank = seen[kind] = seen.get(kind, 0) + 1
                    self._add(kind, share * weight / rank**0.7, name)

    def _read_phrases(self) -> None:
        folded = self._instruction.casefold()
        for phrase, task, weight in PHRASES:
            if phrase in folded:
                self._add(task, weight, phrase.strip())


def _strength(found: tuple[str, Weights]) -> tuple[float, str]:
    return -max(weight for _, weight in found[1]), found[0]


def _instruction_and_material(text: str) -> tuple[str, str]:
    """What is asked, and what it is asked about: material follows a blank line, a colon or stands in a fence."""
    text = text.strip()
    split = _MATERIAL.search(text, 8)
    if split is None:
        return text[:900], text[900:]
    instruction, material = text[: split.start()][:900], text[split.end() :]
    last = material.rpartition("\n\n")[2]
    if len(last) < len(material) and len(last) < 300:
        instruction += "\n" + last  # asked, or asked again, at the end
    return instruction, material


# Fitted by ordinal regression on the tuned half of the sample: docs/classifier.md.
HARDNESS: tuple[float, ...] = (
    *(-3.18, 2.32, 0.43, 2.4, -1.21, 1.72, 0.34, 0.21),
    *(-0.19, 0.38, -1.12, 0.28, 0.06, 0.6, -0.95, 0.94),  # by task
)
MEDIUM_SPAN = 3.55
