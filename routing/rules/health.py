"""Who is reachable (always), and who has succeeded often enough lately."""

from collections.abc import Sequence
from math import ceil

from routing.candidates import NOTHING, WELL, Asked, Condition, Contestant, Options, Verdict, all_well
from routing.rules import options as check_that

NAME = "health"


def apply(asked: Asked, field: Sequence[Contestant], options: Options) -> Verdict:
    if asked.now is all_well:
        return NOTHING
    least, now, removed = options.get("least_success_rate", 0.0), asked.now, {}
    for one in field:
        condition = now(one.name)
        if condition is not WELL and (why := _ailing(condition, least)):
            removed[one.name] = why
    return Verdict(removed) if removed else NOTHING


def check(options: Options) -> None:
    check_that.only(options, "least_success_rate")
    check_that.one_of(options, "least_success_rate")
    check_that.number(options, "least_success_rate", 0, 1)


def _ailing(condition: Condition, least: float) -> str:
    if condition.circuit_open:
        return "circuit breaker open"
    if condition.paused_s > 0:
        return f"paused for {ceil(condition.paused_s)} s"
    if condition.success_rate is not None and condition.success_rate < least:
        return f"{condition.success_rate:.1%} succeeded lately, {least:.1%} wanted"
    return ""
