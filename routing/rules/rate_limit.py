"""Who has enough left of its vendor's rate limit."""

from collections.abc import Sequence

from routing.candidates import NOTHING, Asked, Contestant, Options, Verdict
from routing.rules import options as check_that

NAME = "rate_limit"


def apply(asked: Asked, field: Sequence[Contestant], options: Options) -> Verdict:
    least, removed = options["least_headroom"], {}
    for one in field:
        headroom = asked.now(one.name).headroom
        if headroom is not None and headroom < least:
            removed[one.name] = f"{headroom:.0%} of its rate limit left, {least:.0%} wanted"
    return Verdict(removed) if removed else NOTHING


def check(options: Options) -> None:
    check_that.only(options, "least_headroom")
    check_that.one_of(options, "least_headroom")
    check_that.number(options, "least_headroom", 0, 1)
