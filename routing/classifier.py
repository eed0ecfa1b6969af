"""What a request is about and how hard it is, told from its text in some microseconds.

:mod:`routing.reading` looks at the text, here the rest of the request is added. No model, no I/O, no state but memos.
"""

import math
from typing import Any, Self

from msgspec import Struct

from gateway.wire.types import Request
from routing.reading import COMPLEXITIES, TASKS, Complexity, Task, read

__all__ = ["COMPLEXITIES", "EDGE_CHARS", "TASKS", "Classification", "Complexity", "PromptFacts", "Task", "classify"]

EDGE_CHARS = 2_000  # of a long text, what is looked at on either side
SYSTEM_CHARS = 500
_LONG_CHARS = 3_000  # of a prompt that comes with material, rather than with a history

# --------------------------------------------------------------------------- what is looked at


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
        """Of what a caller asks."""
        fields, needs, gist = request.fields, request.needs, request.gist
        text = gist.question
        return cls(
            text=text if len(text) <= 2 * EDGE_CHARS else _edges(text),
            system=gist.instructions[:SYSTEM_CHARS],
            messages=gist.turns,
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


# --------------------------------------------------------------------------- the verdict


class Classification(Struct, frozen=True):
    """``confidence`` is the probability (0-1) that ``task`` is right, ``signals`` what spoke for it."""

    task: Task
    complexity: Complexity
    confidence: float
    signals: tuple[str, ...]


def classify(facts: PromptFacts) -> Classification:
    """Never raises, whatever the text; the same facts give the same answer."""
    text, total_chars = facts.text, facts.total_chars
    long_material = total_chars > _LONG_CHARS and facts.messages <= 2
    reading = read(text, facts.system, images=facts.images, schema=facts.schema, long_material=long_material)
    hardness = reading.hardness + _PER_SIZE * math.log10(1.0 + max(total_chars, len(text)) / 300.0)
    if facts.messages > 1:
        hardness += _PER_TURN * min(facts.messages - 1, 12)
    if facts.schema or facts.tools:
        hardness += _SCHEMA_OR_TOOLS
    complexity: Complexity = "simple" if hardness < 0.0 else "medium" if hardness < _MEDIUM_SPAN else "complex"
    return Classification(reading.task, complexity, reading.confidence, reading.signals)


# Fitted by ordinal regression on the tuned half of the sample: docs/classifier.md. More of it is in routing/reading.py.
_PER_SIZE, _PER_TURN, _SCHEMA_OR_TOOLS = 1.72, 0.34 / 6, 0.21
_MEDIUM_SPAN = 3.55
