"""Whose price is known: a price nobody knows cannot be compared, so it only counts where all are unknown."""

from collections.abc import Sequence

from routing.candidates import NOTHING, Asked, Contestant, Options, Verdict
from routing.rules import options as check_that

NAME = "price"


def apply(asked: Asked, field: Sequence[Contestant], options: Options) -> Verdict:
    unknown = [one.name for one in field if one.input_price is None or one.output_price is None]
    if not unknown or len(unknown) == len(field):
        return NOTHING
    return Verdict(dict.fromkeys(unknown, "price unknown"))


def check(options: Options) -> None:
    check_that.only(options)
