"""What was asked and answered, as a judge sees it: text, without a name of any model."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

CONVERSATION_CHARS = 12_000
ANSWER_CHARS = 6_000
SCHEMA_CHARS = 2_000
_CUT = "\n[... {left_out:,} characters left out ...]\n"


@dataclass(frozen=True, slots=True)
class Turn:
    role: Literal["system", "user", "assistant", "tool"]
    text: str


@dataclass(frozen=True, slots=True)
class Exchange:
    """A conversation and the answer to it. ``wants_json``: the answer had to be JSON, with ``required_keys`` at its top
    and of the JSON ``schema``, where one was given. ``finish_reason`` is the vendor's, in OpenAI's words."""

    turns: tuple[Turn, ...]
    answer: str
    finish_reason: str = "stop"
    wants_json: bool = False
    required_keys: frozenset[str] = frozenset()
    schema: Mapping[str, Any] | None = None

    def conversation_text(self) -> str:
        """The turns by role; of a long conversation the beginning and the end."""
        return shortened("\n\n".join(f"{turn.role}: {turn.text}" for turn in self.turns), CONVERSATION_CHARS)

    def answer_text(self) -> str:
        return shortened(self.answer, ANSWER_CHARS)

    def format_text(self) -> str:
        """The form the answer had to have, "" where any would do."""
        if not self.wants_json:
            return ""
        keys = f" with the keys {', '.join(sorted(self.required_keys))}" if self.required_keys else ""
        fits = f"; it has to fit the schema {json.dumps(self.schema, ensure_ascii=False)}" if self.schema else ""
        return shortened(f"JSON and nothing around it{keys}{fits}", SCHEMA_CHARS)


def shortened(text: str, most: int) -> str:
    """At most about ``most`` characters of a text, its middle left out."""
    if len(text) <= most:
        return text
    half = most // 2
    return text[:half] + _CUT.format(left_out=len(text) - 2 * half) + text[-half:]
