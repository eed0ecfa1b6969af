"""Whose budgets have enough left, or points for what is left."""

from collections.abc import Sequence

from routing.candidates import NOTHING, Asked, Contestant, Options, Verdict
from routing.rules import options as check_that

NAME = "budget_remaining"


def apply(asked: Asked, field: Sequence[Contestant], options: Options) -> Verdict:
    least, points, removed, given = options.get("least_left", 0.0), options.get("points", 0.0), {}, {}
    for one in field:
        told = asked.now(one.name).budget_left
        left = None if told is None else min(max(told, 0.0), 1.0)  # corrections can take more than there is
        if left is not None and left < least:
            removed[one.name] = f"{left:.0%} of its budget left, {least:.0%} wanted"
        elif points:
            given[one.name] = points * (1.0 if left is None else left)
    return Verdict(removed, given) if removed or given else NOTHING


def check(options: Options) -> None:
    check_that.only(options, "least_left", "points")
    check_that.one_of(options, "least_left", "points")
    check_that.number(options, "least_left", 0, 1)
    check_that.points(options)
