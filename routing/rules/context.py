"""Whose context window holds the prompt and the answer (always), and whose is not larger than it has to be."""

from collections.abc import Sequence

from routing.candidates import NOTHING, Asked, Contestant, Options, Verdict
from routing.rules import options as check_that

NAME = "context"

RESERVED_TOKENS = 1024  # for the answer to a request that sets no max_tokens: what rate limits reckon with, too
PREFERENCE_POINTS = 0.05
_MOST_TOKENS = 10_000_000


def apply(asked: Asked, field: Sequence[Contestant], options: Options) -> Verdict:
    reserve = options.get("reserve_tokens", RESERVED_TOKENS)
    given, prompt, removed = asked.max_tokens, asked.input_tokens, {}
    for one in field:
        window, most = one.context_window, one.max_output_tokens
        if given is not None:
            answer = given
            if most is not None and given > most:
                removed[one.name] = f"asks for {given:,} tokens of output, gives {most:,}"
                continue
        else:
            answer = reserve if most is None or most > reserve else most
        if window is not None and prompt + answer > window:
            removed[one.name] = f"needs {prompt + answer:,} tokens, has {window:,}"
    points = _for_the_smallest(field, removed, options) if "prefer" in options else {}
    return Verdict(removed, points) if removed or points else NOTHING


def check(options: Options) -> None:
    check_that.only(options, "reserve_tokens", "prefer", "points")
    check_that.one_of(options, "reserve_tokens", "prefer")
    check_that.whole(options, "reserve_tokens", RESERVED_TOKENS, _MOST_TOKENS)
    check_that.one_word(options, "prefer", ("smallest",))
    check_that.points(options)
    if "points" in options and "prefer" not in options:
        raise ValueError("'points' are given with 'prefer' only")


def _for_the_smallest(field: Sequence[Contestant], removed: dict[str, str], options: Options) -> dict[str, float]:
    windows = {one.name: one.context_window for one in field if one.context_window and one.name not in removed}
    if not windows:
        return {}
    points, smallest = options.get("points", PREFERENCE_POINTS), min(windows.values())
    return {name: points * smallest / window for name, window in windows.items()}
