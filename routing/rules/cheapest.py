"""The cheapest few for this very request, or those within a factor of the cheapest."""

from collections.abc import Sequence

from routing.candidates import NOTHING, Asked, Contestant, Options, Verdict
from routing.rules import options as check_that
from routing.scores import UNKNOWN_OUTPUT_TOKENS

NAME = "cheapest"


def apply(asked: Asked, field: Sequence[Contestant], options: Options) -> Verdict:
    costs = _costs(asked, field)
    if not costs:
        return NOTHING
    ordered, removed = sorted(costs.values()), {}
    keep = options.get("keep", len(ordered))
    most = ordered[min(keep, len(ordered)) - 1]  # who costs the same as the last that is kept stays, too
    factor = options.get("within")
    for one in field:
        cost = costs.get(one.name)
        if cost is None:
            removed[one.name] = "price unknown"
        elif cost > most:
            removed[one.name] = f"not among the {keep} cheapest" if keep > 1 else "not the cheapest"
        elif factor is not None and cost > factor * ordered[0]:
            removed[one.name] = f"costs more than {factor:g} times the cheapest"
    return Verdict(removed) if removed else NOTHING


def check(options: Options) -> None:
    check_that.only(options, "keep", "within")
    check_that.one_of(options, "keep", "within")
    check_that.whole(options, "keep", 1, 1_000)
    check_that.number(options, "within", 1, 1_000_000)


def _costs(asked: Asked, field: Sequence[Contestant]) -> dict[str, float]:
    """Millionths of a USD this request is expected to cost, of those whose price is known."""
    answer = UNKNOWN_OUTPUT_TOKENS if asked.max_tokens is None else min(asked.max_tokens, UNKNOWN_OUTPUT_TOKENS)
    return {
        one.name: one.input_price * asked.input_tokens + one.output_price * answer
        for one in field
        if one.input_price is not None and one.output_price is not None
    }
