"""Who computes where the tenant allows. A region nobody has declared is not allowed."""

from collections.abc import Sequence

from routing.candidates import NOTHING, Asked, Contestant, Options, Verdict
from routing.rules import options as check_that
from routing.rules.patterns import in_regions

NAME = "region"


def apply(asked: Asked, field: Sequence[Contestant], options: Options) -> Verdict:
    allowed = in_regions(field, options["allow"])
    removed = {
        one.name: f"region {one.region}" if one.region else "region unknown"
        for one in field
        if not one.region or one.name not in allowed
    }
    return Verdict(removed) if removed else NOTHING


def check(options: Options) -> None:
    check_that.only(options, "allow")
    check_that.one_of(options, "allow")
    check_that.texts(options, "allow")
