"""How hard a model is to think: OpenAI's efforts are words, Anthropic's and Gemini's budgets are tokens."""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Final

from gateway.wire.types import ReasoningEffort, Sampling

BUDGETS: Final[Mapping[ReasoningEffort, int]] = {  # tokens, where a vendor has no table of its own
    "minimal": 1024,
    "low": 2048,
    "medium": 8192,
    "high": 16384,
    "xhigh": 32768,
}
_BELOW_IS_LOW = 4096  # tokens
_BELOW_IS_MEDIUM = 16384

# OpenAI's models that do not reason: they refuse a request that names an effort, even "none".
_UNREASONING = re.compile(r"(?:^|[/:])(?:chat)?gpt-(?:3|4|5(?:\.\d+)?-chat)")


def effort_of(budget: int) -> ReasoningEffort:
    """The effort nearest to a budget of tokens. Only the three that every reasoning model knows, or none for 0."""
    if budget <= 0:
        return "none"
    if budget < _BELOW_IS_LOW:
        return "low"
    return "medium" if budget < _BELOW_IS_MEDIUM else "high"


def openai_effort(sampling: Sampling, model: str, dropped: list[str]) -> ReasoningEffort | None:
    """The effort to ask of ``model``, by its vendor name, in OpenAI's formats; a budget stands for one.

    ``dropped`` is told what the model cannot be asked, and of a budget beside an effort, which goes before it.
    """
    effort, budget = sampling.reasoning_effort, sampling.thinking_budget
    if effort is None and budget is None:
        return None
    if not _reasons(model):
        dropped += ["reasoning_effort"] * (effort not in (None, "none")) + ["thinking_budget"] * bool(budget)
        return None
    if effort is None:
        return effort_of(budget or 0)
    if budget is not None:
        dropped.append("thinking_budget")
    return effort


@lru_cache(maxsize=256)
def _reasons(model: str) -> bool:
    """True also for names that tell nothing (an alias, a look-alike vendor)."""
    return _UNREASONING.search(model) is None
