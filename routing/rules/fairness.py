"""Nobody answers everything: a largest share of the latest requests, or points against the over-used."""

from collections.abc import Sequence

from routing.candidates import NOTHING, Asked, Contestant, Options, Verdict
from routing.rules import options as check_that

NAME = "fairness"


def apply(asked: Asked, field: Sequence[Contestant], options: Options) -> Verdict:
    most, points, removed, taken = options.get("most_share", 1.0), options.get("points", 0.0), {}, {}
    fair = 1.0 / len(field) if field else 1.0
    for one in field:
        share = asked.now(one.name).share
        if share > most:
            removed[one.name] = f"answered {share:.0%} of the latest requests, {most:.0%} at most wanted"
        elif points and share > fair:
            taken[one.name] = -points * (share - fair) / (1.0 - fair) if fair < 1.0 else 0.0
    return Verdict(removed, taken) if removed or taken else NOTHING


def check(options: Options) -> None:
    check_that.only(options, "most_share", "points")
    check_that.one_of(options, "most_share", "points")
    check_that.number(options, "most_share", 0, 1)
    check_that.points(options)
