"""Who is fast: a longest time to the first token, or points for the fastest."""

from collections.abc import Sequence

from routing.candidates import NOTHING, Asked, Contestant, Options, Verdict
from routing.rules import options as check_that

NAME = "performance"

_LEAST_SECONDS = 0.001


def apply(asked: Asked, field: Sequence[Contestant], options: Options) -> Verdict:
    most, removed, timed = options.get("most_first_token_s"), {}, {}
    for one in field:
        seconds = asked.now(one.name).first_token_s
        if seconds is None:
            continue
        if most is not None and seconds > most:
            removed[one.name] = f"first token after {seconds:.2f} s, {most:g} s wanted"
        else:
            timed[one.name] = max(seconds, _LEAST_SECONDS)
    points = options.get("points", 0.0)
    if not points or not timed:
        return Verdict(removed) if removed else NOTHING
    fastest = min(timed.values())
    given = {name: points * fastest / seconds for name, seconds in timed.items()}
    untimed = sum(given.values()) / len(given)  # a model nobody has timed is neither better nor worse than the others
    return Verdict(removed, {one.name: given.get(one.name, untimed) for one in field if one.name not in removed})


def check(options: Options) -> None:
    check_that.only(options, "most_first_token_s", "points")
    check_that.one_of(options, "most_first_token_s", "points")
    check_that.number(options, "most_first_token_s", _LEAST_SECONDS, 600)
    check_that.points(options)
