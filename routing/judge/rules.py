"""Scores that need no judge, so that none is paid for them."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

from routing.judge.exchange import Exchange
from routing.judge.refusals import is_refusal

CUT_OFF = 0.3
LACKS_KEYS = 0.1
_DEEPEST = 8  # levels of a schema
_FENCED = re.compile(r"\A\s*```(?:json)?\s*\n(.*?)\n?```\s*\Z", re.DOTALL)


@dataclass(frozen=True, slots=True)
class RuleScore:
    """What an answer is worth (0-1) whatever a judge would say, and why."""

    value: float
    reason: str


def score_by_rule(exchange: Exchange) -> RuleScore | None:
    """None for an answer that has to be read."""
    if not exchange.answer.strip():
        return RuleScore(0.0, "nothing was said")
    if exchange.finish_reason == "content_filter" or is_refusal(exchange.answer):
        return RuleScore(0.0, "it refuses")
    if exchange.wants_json and exchange.finish_reason != "tool_calls":
        return _score_json(exchange)
    if exchange.finish_reason == "length":
        return RuleScore(CUT_OFF, "it is cut off in the middle")
    return None


def is_json(answer: str) -> bool:
    """Whether an answer is JSON, bare or in a code fence."""
    return _parsed(answer) is not None


def _score_json(exchange: Exchange) -> RuleScore | None:
    parsed = _parsed(exchange.answer)
    if parsed is None:
        cut = exchange.finish_reason == "length"
        return RuleScore(0.0, "its JSON is cut off" if cut else "it is not JSON, which was asked for")
    if exchange.required_keys and not isinstance(parsed[0], dict):
        return RuleScore(LACKS_KEYS, "its JSON is no object")
    lacking = _lacking(parsed[0], {"required": sorted(exchange.required_keys)}) or _lacking(parsed[0], exchange.schema)
    return RuleScore(LACKS_KEYS, f"its JSON lacks the required key {lacking!r}") if lacking else None


def _lacking(value: object, schema: object, depth: int = 0) -> str:
    """The first key that a schema requires of objects and that one does not have; "" if there is none.

    Looks into properties and items; whatever else a schema says (references, alternatives) is not looked at.
    """
    if depth > _DEEPEST or not isinstance(schema, Mapping):
        return ""
    if isinstance(value, list):
        return next(filter(None, (_lacking(one, schema.get("items"), depth + 1) for one in value)), "")
    if not isinstance(value, dict):
        return ""
    required, properties = schema.get("required"), schema.get("properties")
    for key in required if isinstance(required, list) else ():
        if isinstance(key, str) and key not in value:
            return key
    known = properties.items() if isinstance(properties, Mapping) else ()
    return next(filter(None, (_lacking(value[key], its, depth + 1) for key, its in known if key in value)), "")


def _parsed(answer: str) -> tuple[object] | None:
    """The JSON of an answer, in a tuple as it may be null."""
    fenced = _FENCED.match(answer)
    try:
        return (json.loads(fenced.group(1) if fenced else answer, parse_constant=_no_constant),)
    except (ValueError, RecursionError):
        return None


def _no_constant(word: str) -> None:
    raise ValueError(f"{word} is not JSON")
