"""Who may answer a routed request, and who gets points for it: rules that hold always, then a tenant's own in the
tenant's order.

A rule is a module with ``NAME``, ``apply`` and ``check`` (:class:`routing.candidates.Rule`). A tenant's policy is a
list of ``{"rule": name, ...options}``; with ``"soft": true`` a rule that would leave nobody is skipped.
"""

import difflib
from collections.abc import Mapping, Sequence
from math import inf
from typing import Any

from msgspec import Struct

from gateway.wire.types import Needs
from routing.candidates import NOTHING, Asked, Contestant, Rule, Verdict, all_well
from routing.rules import (
    budget_remaining,
    capability,
    cheapest,
    context,
    fairness,
    health,
    llm,
    model_names,
    performance,
    price,
    rate_limit,
    region,
    semantic_intent,
)

MOST_RULES = 30
ALWAYS: tuple[Rule, ...] = (capability, context, health, price)
RULES: Mapping[str, Rule] = {
    rule.NAME: rule
    for rule in (
        capability,
        context,
        cheapest,
        health,
        performance,
        rate_limit,
        fairness,
        budget_remaining,
        semantic_intent,
        region,
        model_names,
        llm,
    )
}

_ONCE = (semantic_intent.NAME, llm.NAME)  # they take time for every request
_COMMON = ("rule", "soft")
_NO_OPTIONS: Mapping[str, Any] = {}
_NO_NEEDS = Needs()


class Narrowed(Struct, frozen=True):
    """What rules leave. ``removed``: name to (rule, reason). ``points``: name to points of quality, of those left.
    ``skipped``: (rule, why) of rules that did not count."""

    field: Sequence[Contestant]
    removed: Mapping[str, tuple[str, str]]
    points: Mapping[str, float]
    skipped: Sequence[tuple[str, str]] = ()


def check_rules(rules: Any) -> None:
    """Raises ValueError, naming the place (from 1) and the reason, unless this is a policy that can be followed."""
    if not isinstance(rules, list | tuple):
        raise ValueError("rules must be a list")
    if len(rules) > MOST_RULES:
        raise ValueError(f"there may be {MOST_RULES} rules at most, these are {len(rules)}")
    for place, rule in enumerate(rules, 1):
        if not isinstance(rule, Mapping) or not isinstance(rule.get("rule"), str):
            raise ValueError(f"rule {place}: it must say which rule it is: {{rule: name, ...}}")
        name = rule["rule"]
        known = RULES.get(name)
        if known is None:
            raise ValueError(f"rule {place}: there is no rule {name[:100]!r}{_instead(name)}")
        try:
            if not isinstance(rule.get("soft", False), bool):
                raise ValueError("'soft' must be true or false")
            known.check({key: value for key, value in rule.items() if key not in _COMMON})
        except ValueError as exc:
            raise ValueError(f"rule {place} ({name}): {exc}") from None
        if name in _ONCE and any(earlier["rule"] == name for earlier in rules[: place - 1]):
            raise ValueError(f"rule {place} ({name}): there may be one of this rule only")


class Ease(Struct, frozen=True):
    """What a plain request must stay within for the rules that always hold to leave the whole field alone.

    ``window`` and ``answer`` are the least context window and the shortest longest answer in it, in tokens;
    ``comparable`` whether all prices are known, or none. It is what nearly every request is, so that nobody is looked
    at one by one for it.
    """

    window: float
    answer: float
    comparable: bool

    @classmethod
    def of(cls, field: Sequence[Contestant]) -> "Ease":
        """Worked out once for a field that many requests share."""
        return cls(
            min((one.context_window for one in field if one.context_window is not None), default=inf),
            min((one.max_output_tokens for one in field if one.max_output_tokens is not None), default=inf),
            len({one.input_price is None or one.output_price is None for one in field}) < 2,
        )

    def holds(self, asked: Asked) -> bool:
        """Whether nobody of the field can be removed; False says nothing."""
        if not self.comparable or asked.now is not all_well or asked.needs != _NO_NEEDS:
            return False
        given = asked.max_tokens
        if given is not None and given > self.answer:
            return False
        return asked.input_tokens + (context.RESERVED_TOKENS if given is None else given) <= self.window


def narrow(
    asked: Asked,
    field: Sequence[Contestant],
    rules: Sequence[Mapping[str, Any]] = (),
    answer: str | None = None,
    ease: Ease | None = None,
) -> Narrowed:
    """Those of ``field`` who may answer. It can come out empty; ``removed`` then says why.

    ``answer`` is what the model said that was asked for the rule ``llm``; without one that rule is skipped. To know
    whom to ask about, narrow by the rules before it first. ``ease`` is the field's, where it is known.
    """
    easy = ease is not None and ease.holds(asked)
    if easy and not rules:
        return Narrowed(field, {}, {}, [])
    removed: dict[str, tuple[str, str]] = {}
    points: dict[str, float] = {}
    skipped: list[tuple[str, str]] = []
    for rule in () if easy else ALWAYS:
        verdict = rule.apply(asked, field, _NO_OPTIONS)
        if verdict is not NOTHING:
            field = _remaining(field, rule.NAME, verdict, removed)
    for options in rules:
        if not field:
            break
        verdict = _verdict_of(asked, field, options, answer, skipped)
        if verdict is NOTHING:
            continue
        name = options["rule"]
        if options.get("soft") and all(one.name in verdict.removed for one in field):
            skipped.append((name, f"would have removed {', '.join(one.name for one in field)}"))
            continue
        field = _remaining(field, name, verdict, removed)
        for model, given in verdict.points.items():
            points[model] = points.get(model, 0.0) + given
    if points and removed:
        points = {model: given for model, given in points.items() if model not in removed}
    return Narrowed(field, removed, points, skipped)


def told(removed: Mapping[str, tuple[str, str]]) -> str:
    """What removed whom and why, by rule, in one sentence without its full stop; "" if nobody was removed."""
    by_rule: dict[str, dict[str, list[str]]] = {}
    for name, (rule, why) in removed.items():
        by_rule.setdefault(rule, {}).setdefault(why, []).append(name)
    return "; ".join(f"{rule} removed {_grouped(reasons)}" for rule, reasons in by_rule.items())


def _grouped(reasons: Mapping[str, Sequence[str]]) -> str:
    return ", ".join(f"{', '.join(names)} ({why})" for why, names in reasons.items())


def _verdict_of(
    asked: Asked,
    field: Sequence[Contestant],
    options: Mapping[str, Any],
    answer: str | None,
    skipped: list[tuple[str, str]],
) -> Verdict:
    name = options["rule"]
    if name != llm.NAME:
        return RULES[name].apply(asked, field, options)
    if answer is None:
        skipped.append((name, "not asked"))
        return NOTHING
    verdict = llm.choice(answer, field)
    if verdict is NOTHING:
        skipped.append((name, "the answer names no candidate"))
    return verdict


def _remaining(
    field: Sequence[Contestant], rule: str, verdict: Verdict, removed: dict[str, tuple[str, str]]
) -> Sequence[Contestant]:
    if not verdict.removed:
        return field
    for name, why in verdict.removed.items():
        removed[name] = (rule, why)
    return tuple(one for one in field if one.name not in verdict.removed)


def _instead(name: str) -> str:
    if any(name == rule.NAME for rule in ALWAYS):
        return ": it always holds and has no options"
    if near := difflib.get_close_matches(name, RULES, n=1, cutoff=0.5):
        return f"; did you mean {near[0]!r}?"
    return f"; there are {', '.join(RULES)}"
